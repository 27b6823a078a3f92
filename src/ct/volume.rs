//! A CT volume in memory: voxels as stored, where they lie, and what turns them into Hounsfield units.

use rayon::prelude::*;

use super::geometry::{Affine, AxisCodes, AxisMap};
use crate::device::{Device, HostArray};
use crate::error::{Error, Result};
use crate::ops::volume::DeviceVolume;

/// Voxel values as stored in the file, before any slope and intercept.
///
/// Made from a `Vec` with `into()`; readers decode into memory that the device reads directly.
#[derive(Clone, Debug, PartialEq)]
pub enum Voxels {
    /// Every integer file whose values fit, without loss: half the memory of f32.
    I16(HostArray<i16>),
    /// Everything else, all finite.
    F32(HostArray<f32>),
}

impl From<Vec<i16>> for Voxels {
    fn from(values: Vec<i16>) -> Self {
        Voxels::I16(values.into())
    }
}

impl From<Vec<f32>> for Voxels {
    fn from(values: Vec<f32>) -> Self {
        Voxels::F32(values.into())
    }
}

impl Voxels {
    /// Number of voxels.
    pub fn len(&self) -> usize {
        match self {
            Voxels::I16(v) => v.len(),
            Voxels::F32(v) => v.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The stored value at a linear index, as f32. Panics when `index >= len`.
    pub fn get(&self, index: usize) -> f32 {
        match self {
            Voxels::I16(v) => f32::from(v[index]),
            Voxels::F32(v) => v[index],
        }
    }
}

/// What stands between a volume's values and Hounsfield units, beyond the scaling in its own header.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum HuSource {
    /// The values are Hounsfield units once the header's scaling is applied: clinical exports and the corrected
    /// ("fixed") CT-RATE volumes. Applying the CSV's scaling to these is wrong by about 1024.
    AlreadyHu,
    /// Original CT-RATE volumes: HU = `slope` * value + `intercept` with both from the metadata CSV (RescaleSlope,
    /// RescaleIntercept).
    CsvRescale { slope: f32, intercept: f32 },
}

/// Where a volume's affine comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AffineSource {
    /// The header's sform matrix, or a volume made in memory.
    Sform,
    /// The header's quaternion.
    Qform,
    /// Voxel sizes alone. The orientation is then a convention (nibabel's: x to the left, y to the front, z to the
    /// head, centred), not a fact about the patient.
    Pixdim,
    /// Sform and qform, which name other patient directions for the voxel axes; the reader's remark says which was taken.
    Disputed,
    /// The data set's documentation: the file holds no geometry, or none that counts (RadChest-CT, CT-RATE's original release).
    Convention,
}

impl AffineSource {
    /// Whether left and right are known, and pictures may carry their letters.
    pub fn tells_sides(self) -> bool {
        !matches!(self, AffineSource::Pixdim | AffineSource::Disputed)
    }
}

/// One CT volume.
#[derive(Clone, Debug, PartialEq)]
pub struct CtVolume {
    /// Stored values, x fastest: index `x + nx * (y + ny * z)`.
    pub voxels: Voxels,
    /// `[nx, ny, nz]`.
    pub shape: [usize; 3],
    /// Voxel index to RAS+ millimetres.
    pub affine: Affine,
    /// Where `affine` comes from.
    pub affine_source: AffineSource,
    /// The header's scaling, value = `slope` * stored + `intercept`; 1 and 0 when the header has none.
    pub slope: f32,
    /// See `slope`.
    pub intercept: f32,
    /// What its reader has to say of the file: whole sentences without the file's name, empty when all is well.
    pub remarks: Vec<String>,
}

impl CtVolume {
    /// A volume whose stored values need no scaling. Errors when an axis is empty, the product of `shape` is not the
    /// number of voxels, or a value is NaN or infinite.
    pub fn new(voxels: Voxels, shape: [usize; 3], affine: Affine) -> Result<Self> {
        let expected = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
        if expected != Some(voxels.len()) || voxels.is_empty() {
            let problem = format!("{} voxels given for shape {shape:?}", voxels.len());
            return Err(Error::argument("CT volume", problem, "give nx * ny * nz voxels, x fastest"));
        }
        if let Voxels::F32(values) = &voxels
            && let Some(at) = values.iter().position(|v| !v.is_finite())
        {
            let problem = format!("voxel {:?} is {}", unravel(at, shape), values[at]);
            return Err(Error::argument("CT volume", problem, "replace it, for example by -1024 (air)"));
        }
        Ok(CtVolume {
            voxels,
            shape,
            affine,
            affine_source: AffineSource::Sform,
            slope: 1.0,
            intercept: 0.0,
            remarks: Vec::new(),
        })
    }

    /// Voxel edge lengths in mm, from the affine.
    pub fn spacing(&self) -> [f64; 3] {
        self.affine.spacing()
    }

    /// The patient direction each voxel axis grows towards.
    pub fn axis_codes(&self) -> AxisCodes {
        self.affine.axis_codes()
    }

    /// `(slope, intercept)` with HU = slope * stored + intercept. The header's scaling comes first, then the CSV's on
    /// its result, as the published pipelines do (CT-CLIP reads through nibabel, which applies the header). Where a
    /// header's scaling is known to be meaningless, set `slope` and `intercept` to 1 and 0 before.
    pub fn hu_scale(&self, source: HuSource) -> (f32, f32) {
        match source {
            HuSource::AlreadyHu => (self.slope, self.intercept),
            HuSource::CsvRescale { slope, intercept } => {
                let (s, i) = (f64::from(slope), f64::from(intercept));
                ((s * f64::from(self.slope)) as f32, (s * f64::from(self.intercept) + i) as f32)
            }
        }
    }

    /// Hounsfield units of every voxel, in storage order. One rounding to f32 per product and sum; exact for integers
    /// with integer scaling.
    pub fn hu_f32(&self, source: HuSource) -> Vec<f32> {
        let (slope, intercept) = self.hu_scale(source);
        match &self.voxels {
            Voxels::I16(v) => v.iter().map(|&v| slope * f32::from(v) + intercept).collect(),
            Voxels::F32(v) => v.iter().map(|&v| slope * v + intercept).collect(),
        }
    }

    /// The volume in device memory, as stored, with the scaling to Hounsfield units beside it: on the host the very same
    /// memory where it is aligned, else a copy.
    pub fn to_device(&self, device: &Device, source: HuSource) -> Result<DeviceVolume> {
        let scale = self.hu_scale(source);
        match &self.voxels {
            Voxels::I16(v) => DeviceVolume::share_i16(device, v, self.shape, scale),
            Voxels::F32(v) => DeviceVolume::share_f32(device, v, self.shape, scale),
        }
    }

    /// The same volume with its axes permuted and flipped so that they grow towards `target`. No value changes and
    /// every voxel keeps its world position; an oblique volume stays as oblique as it was.
    pub fn reorient(self, target: AxisCodes) -> CtVolume {
        let map = self.axis_codes().map_to(target);
        if map.is_identity() {
            return self;
        }
        let shape = map.source.map(|source| self.shape[source]);
        let affine = self.affine.remap(&map, self.shape);
        let voxels = match &self.voxels {
            Voxels::I16(v) => rearrange(v, self.shape, &map).into(),
            Voxels::F32(v) => rearrange(v, self.shape, &map).into(),
        };
        CtVolume { voxels, shape, affine, ..self }
    }
}

/// `[x, y, z]` of a linear index.
pub(crate) fn unravel(index: usize, shape: [usize; 3]) -> [usize; 3] {
    [index % shape[0], index / shape[0] % shape[1], index / shape[0] / shape[1]]
}

fn rearrange<T: Copy + Default + Send + Sync>(input: &[T], shape: [usize; 3], map: &AxisMap) -> Vec<T> {
    let strides = [1, shape[0], shape[0] * shape[1]];
    let (mut first, mut step, mut extent) = (0isize, [0isize; 3], [0usize; 3]);
    for axis in 0..3 {
        let source = map.source[axis];
        extent[axis] = shape[source];
        step[axis] = strides[source] as isize;
        if map.flip[axis] {
            first += step[axis] * (extent[axis] as isize - 1);
            step[axis] = -step[axis];
        }
    }
    let [nx, ny, _] = extent;
    let mut output = vec![T::default(); input.len()];
    output.par_chunks_mut(nx * ny).enumerate().for_each(|(z, slice)| {
        for (y, row) in slice.chunks_mut(nx).enumerate() {
            let mut at = first + z as isize * step[2] + y as isize * step[1];
            for value in row {
                *value = input[at as usize];
                at += step[0];
            }
        }
    });
    output
}
