//! Named preprocessings of CT volumes, each one launch of the resampling kernel.
//!
//! A preset is data; its digest goes into whatever is written from its output, so that embeddings of differently prepared
//! volumes are never mixed.
//!
//! # Outside the field of view
//! Scanners fill what they did not reconstruct with -2048, -3024 or the like. The presets clip to their lower limit, -1000 HU (air),
//! before the resize, so that interpolation beside such voxels sees air, bit for bit what a volume filled with -1000 gives. With
//! [`Preset::clip_after`] (CT-CLIP's training) it sees the filling: a voxel on the border comes out up to half the filling's excess
//! too low, and the window then cuts what is below its limit; where no window follows (`x2ct`) the values stay below -1000.

use serde::{Deserialize, Serialize};

use crate::Result;
use crate::device::Device;
use crate::error::Error;
use crate::ops::drr::ImageAxis;
use crate::ops::resample::{Layout, Resample, resized};
use crate::tensor::{DType, Tensor};

use super::geometry::{Affine, AxisCodes};
use super::volume::{CtVolume, HuSource};

/// What is done to a volume. Triples are x, y, z, which run to the patient's left, back and head (LPS), whatever order the
/// file stores them in.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Preset {
    /// Its name in messages and metadata.
    pub name: String,
    /// Target spacing, mm.
    pub spacing: [f64; 3],
    /// HU limits before the resize.
    pub pre_clip: Option<[f32; 2]>,
    /// HU limits after the resize, mapped to [-1, 1]; `None` leaves HU.
    pub window: Option<[f32; 2]>,
    /// Centre crop or pad to this; `None` keeps the resized volume.
    pub size: Option<[usize; 3]>,
    /// Outside the resized volume, in output units.
    pub pad: f32,
    /// Axis order of the output.
    pub layout: Layout,
}

impl Preset {
    /// CT-CLIP, as its current checkpoints expect ("v2"): [-1000, 1000] HU to [-1, 1] at 0.75 x 0.75 x 1.5 mm,
    /// `[1, 240, 480, 480]` in the order z, x, y. The clip comes before the resize, as in CT-CLIP's inference; its training
    /// clips after: see [`Preset::clip_after`].
    pub fn ct_clip_v2() -> Self {
        Preset {
            name: "ct-clip-v2".into(),
            spacing: [0.75, 0.75, 1.5],
            pre_clip: Some([-1000.0, 1000.0]),
            window: Some([-1000.0, 1000.0]),
            size: Some([480, 480, 240]),
            pad: -1.0,
            layout: Layout::Zxy,
        }
    }

    /// CT-CLIP before 2025: the window is [-1000, 200] HU.
    pub fn ct_clip_v1() -> Self {
        Preset { name: "ct-clip-v1".into(), window: Some([-1000.0, 200.0]), ..Self::ct_clip_v2() }
    }

    /// DCFormer, Sec. 4: [-1000, 1000] HU, `[1, 256, 512, 512]`.
    pub fn dcformer() -> Self {
        Preset { name: "dcformer".into(), size: Some([512, 512, 256]), ..Self::ct_clip_v2() }
    }

    /// DCFormer as its published code does it: the window is [-1000, 200] HU.
    pub fn dcformer_code() -> Self {
        Preset { name: "dcformer-code".into(), window: Some([-1000.0, 200.0]), ..Self::dcformer() }
    }

    /// What X2CT-CLIP projects: HU in [-1000, 1000] at 1 mm, nothing cropped, in the order z, y, x.
    pub fn x2ct() -> Self {
        Preset {
            name: "x2ct".into(),
            spacing: [1.0; 3],
            pre_clip: Some([-1000.0, 1000.0]),
            window: None,
            size: None,
            pad: -1000.0,
            layout: Layout::Zyx,
        }
    }

    /// All of the above.
    pub fn all() -> Vec<Preset> {
        vec![Self::ct_clip_v2(), Self::ct_clip_v1(), Self::dcformer(), Self::dcformer_code(), Self::x2ct()]
    }

    /// The preset with this name.
    pub fn named(name: &str) -> Result<Self> {
        let all = Self::all();
        let names: Vec<String> = all.iter().map(|p| p.name.clone()).collect();
        all.into_iter().find(|p| p.name == name).ok_or_else(|| {
            Error::argument("preset", format!("{name:?} is none"), format!("use one of {}", names.join(", ")))
        })
    }

    /// The same with the clip after the resize only; the two differ where interpolation crosses a limit.
    pub fn clip_after(self) -> Self {
        Preset { name: format!("{}-clip-after", self.name), pre_clip: None, ..self }
    }

    /// BLAKE3 of the preset's canonical JSON (fields in declaration order, no spaces), in hexadecimal: what identifies it in
    /// everything written from its output.
    pub fn digest(&self) -> String {
        let json = serde_json::to_vec(self).expect("numbers, names and lists serialize");
        blake3::hash(&json).to_hex().to_string()
    }

    /// Least and largest value of the volumes it prepares; `None` where it bounds them by nothing.
    pub fn range(&self) -> Option<[f32; 2]> {
        let [low, high] = if self.window.is_some() { [-1.0, 1.0] } else { self.pre_clip? };
        Some([low.min(self.pad), high.max(self.pad)])
    }

    /// Voxels after the resize of `[x, y, z]` voxels of `spacing` mm.
    pub fn resized(&self, shape: [usize; 3], spacing: [f64; 3]) -> [usize; 3] {
        std::array::from_fn(|a| resized(shape[a], spacing[a], self.spacing[a]))
    }

    /// The operator for volumes of this shape and affine: axes from the codes, sizes from the spacing.
    ///
    /// # Errors
    /// A volume thinner than one target voxel.
    pub fn operator(&self, shape: [usize; 3], affine: &Affine, dtype: DType) -> Result<Resample> {
        affine.require_straight()?;
        let map = affine.axis_codes().map_to(AxisCodes::LPS);
        let axes: [ImageAxis; 3] = std::array::from_fn(|a| ImageAxis { axis: map.source[a], flip: map.flip[a] });
        let current = affine.spacing();
        let to = self.resized(axes.map(|a| shape[a.axis]), axes.map(|a| current[a.axis]));
        if to.contains(&0) {
            let problem = format!("{shape:?} voxels of {current:?} mm are less than one of {:?} mm", self.spacing);
            return Err(Error::argument("CT volume", problem, "check the spacing in its header"));
        }
        let (scale, shift) = match self.window {
            None => (1.0, 0.0),
            Some([low, high]) => {
                let (low, high) = (f64::from(low), f64::from(high));
                ((2.0 / (high - low)) as f32, (-(high + low) / (high - low)) as f32)
            }
        };
        Ok(Resample {
            axes,
            size: self.size.unwrap_or(to),
            pre_clip: self.pre_clip.map(|[low, high]| (low, high)),
            window: self.window.map(|[low, high]| (low, high)),
            scale,
            shift,
            pad: self.pad,
            layout: self.layout,
            dtype,
            ..Resample::new(to)
        })
    }

    /// The prepared volume in pieces of about `bytes` bytes, whole slices in order, each handed to `take`: what of the output is
    /// in memory at a time is the caller's choice.
    pub fn apply_in_pieces(
        &self,
        device: &Device,
        volume: &CtVolume,
        hu: HuSource,
        dtype: DType,
        bytes: usize,
        mut take: impl FnMut(Tensor) -> Result<()>,
    ) -> Result<()> {
        let operator = self.operator(volume.shape, &volume.affine, dtype)?;
        let on_device = volume.to_device(device, hu)?;
        let [x, y, z] = operator.size;
        let slices = (bytes / (x * y * dtype.size())).max(1);
        (0..z).step_by(slices).try_for_each(|first| take(operator.slices(&on_device, first..(first + slices).min(z))?))
    }

    /// The prepared volume `[1, Z, X, Y]` or `[1, Z, Y, X]`, by [`Preset::layout`].
    pub fn apply(&self, device: &Device, volume: &CtVolume, hu: HuSource, dtype: DType) -> Result<Tensor> {
        self.operator(volume.shape, &volume.affine, dtype)?.apply(&volume.to_device(device, hu)?)
    }
}
