//! CT volumes on another grid: Hounsfield units, clip, trilinear resize, window, crop or pad, transposition in one kernel.

use std::ops::Range;

use crate::autograd::{Gradients, Op};
use crate::device::Device;
use crate::kernels::resample::{self as kernel, ResampleParams};
pub use crate::kernels::resample::{MAX_SIDE, Variant};
use crate::kernels::volume::VoxelType;
use crate::kernels::{DevicePtr, Write};
use crate::tensor::{DType, Shape, Tensor};
use crate::{Error, Result};

use super::drr::ImageAxis;
use super::volume::DeviceVolume;

/// Voxels along an axis after resizing from spacing `current` to `target` (mm, or any one unit): the integer part of
/// `n * (current / target)` in f64, the quotient taken first. The order shows: 250 slices of 1.2 mm on 1.5 mm are 199, not
/// 200 (the published CT-CLIP preprocessing).
pub fn resized(n: usize, current: f64, target: f64) -> usize {
    (n as f64 * (current / target)) as usize
}

/// How much each of `from` voxels weighs in the sum of the `to` samples of an axis.
pub(super) fn resize_weights(from: usize, to: usize) -> Result<Vec<f64>> {
    check_side("resize", from)?;
    check_side("resize", to)?;
    let mut weights = vec![0.0; from];
    for r in 0..to {
        let at = ((2 * r + 1) * from).saturating_sub(to);
        let (i, w) = (at / (2 * to), (at % (2 * to)) as f64 / (2 * to) as f64);
        weights[i] += 1.0 - w;
        weights[(i + 1).min(from - 1)] += w;
    }
    Ok(weights)
}

fn check_side(what: &str, n: usize) -> Result<()> {
    if (1..=MAX_SIDE).contains(&n) {
        return Ok(());
    }
    let problem = format!("an axis of {n} voxels; at least 1 and at most {MAX_SIDE} are possible");
    Err(Error::argument(what, problem, "check the spacing and the target spacing"))
}

/// In which order an output's axes are stored, slowest first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Layout {
    /// `[B, Z, Y, X]`, as CT files.
    #[default]
    Zyx,
    /// `[B, Z, X, Y]`, the input of CT-CLIP and DCFormer.
    Zxy,
}

/// A resampling. Triples are x, y, z of the output.
///
/// out = scale * clip(v, window) + shift, where v is the trilinear interpolation of clip(slope * stored + intercept,
/// pre_clip). Output i of an axis samples at (i + 1/2) from / to - 1/2, held at the edges (PyTorch's `align_corners=False`);
/// the coordinate is an exact ratio of integers. Then each axis is cropped to `size` from (to - size) / 2 on, or padded with
/// `pad`, (size - to) / 2 before; both rounded down.
///
/// As an [`Op`] its one input is the volume, f32 or bf16 `[Z, Y, X]` or `[B, Z, Y, X]`. The gradient is the exact adjoint,
/// 0 for voxels outside `pre_clip` and through outputs at the ends of `window`. Deterministic.
#[derive(Clone, Debug, PartialEq)]
pub struct Resample {
    /// The volume's axis, and its direction, that becomes x, y and z.
    pub axes: [ImageAxis; 3],
    /// Resized volume.
    pub to: [usize; 3],
    /// Output, after crop or pad.
    pub size: [usize; 3],
    /// HU limits before the resize.
    pub pre_clip: Option<(f32, f32)>,
    /// HU limits after the resize.
    pub window: Option<(f32, f32)>,
    /// Multiplies HU.
    pub scale: f32,
    /// Added to the product.
    pub shift: f32,
    /// Written outside the resized volume, as it is.
    pub pad: f32,
    /// Axis order of the output.
    pub layout: Layout,
    /// Storage type of the output.
    pub dtype: DType,
    /// HU = slope * stored + intercept, for volumes given as tensors.
    pub hu: (f32, f32),
    /// With which kernel.
    pub variant: Variant,
}

impl Resample {
    /// A plain resize of values as they are, to f32.
    pub fn new(to: [usize; 3]) -> Self {
        Resample {
            axes: std::array::from_fn(|axis| ImageAxis { axis, flip: false }),
            to,
            size: to,
            pre_clip: None,
            window: None,
            scale: 1.0,
            shift: 0.0,
            pad: 0.0,
            layout: Layout::Zyx,
            dtype: DType::F32,
            hu: (1.0, 0.0),
            variant: Variant::default(),
        }
    }

    /// The shape of one volume's output.
    pub fn shape(&self) -> Vec<usize> {
        let [x, y, z] = self.size;
        match self.layout {
            Layout::Zyx => vec![1, z, y, x],
            Layout::Zxy => vec![1, z, x, y],
        }
    }

    /// The output `[B, Z, Y, X]` or `[B, Z, X, Y]` of volumes of any storage type.
    pub fn apply(&self, volume: &DeviceVolume) -> Result<Tensor> {
        self.grid(volume)?.run(volume.device(), volume.voxel(), volume.ptr(), self.dtype)
    }

    /// Slices `range` (first axis but the batch) of the output alone: a large one is made and written piece by piece.
    pub fn slices(&self, volume: &DeviceVolume, range: Range<usize>) -> Result<Tensor> {
        let mut grid = self.grid(volume)?;
        if range.is_empty() || range.end > self.size[2] {
            let problem = format!("slices {range:?} of {}", self.size[2]);
            return Err(Error::argument("resample", problem, "ask for slices that the output has"));
        }
        let p = &mut grid.params;
        p.size[2] = range.len() as u32;
        p.offset[2] += range.start as i32;
        p.out_volume_stride = (range.len() * self.size[0] * self.size[1]) as i64;
        let mut shape = grid.shape.to_vec();
        shape[1] = range.len();
        grid.shape = shape.into();
        grid.run(volume.device(), volume.voxel(), volume.ptr(), self.dtype)
    }

    /// The gradient of the volume, given that of the output; `context` is that of the forward pass.
    pub fn gradient(
        &self,
        (volume, out): &(Tensor, Tensor),
        upstream: &Tensor,
        gradient: &Tensor,
        write: Write,
    ) -> Result<()> {
        let grid = self.grid(&DeviceVolume::from_tensor(volume, self.hu)?)?;
        grid.gradient(volume, out, upstream, gradient, write)
    }

    fn grid(&self, volume: &DeviceVolume) -> Result<Grid> {
        let mut used = self.axes.map(|a| a.axis);
        used.sort();
        if used != [0, 1, 2] {
            return Err(Error::argument("resample", format!("axes {:?}", self.axes), "name each of 0, 1 and 2 once"));
        }
        for (what, limits) in [("clip", self.pre_clip), ("window", self.window)] {
            if limits.is_some_and(|(low, high)| !(low < high)) {
                return Err(Error::argument(what, format!("{limits:?} is not a range"), "give low < high"));
            }
        }
        let (shape, strides) = (volume.shape(), volume.strides());
        let from = self.axes.map(|a| shape[a.axis]);
        let [x, y, _] = self.size;
        let out_stride = match self.layout {
            Layout::Zyx => [1, x as i64, (x * y) as i64],
            Layout::Zxy => [y as i64, 1, (x * y) as i64],
        };
        let mut grid =
            Grid::new(volume.batch(), from, self.to, self.size, self.axes.map(|a| (strides[a.axis], a.flip)))?;
        let (slope, mut intercept) = volume.scale();
        let p = &mut grid.params;
        (p.out_stride, p.out_volume_stride) = (out_stride, self.size.iter().product::<usize>() as i64);
        if let Some((low, high)) = self.pre_clip {
            if slope == 0.0 {
                intercept = intercept.clamp(low, high);
            } else {
                // The limits in stored units: one comparison a voxel, and the scaling once an output.
                let stored = |hu: f32| ((f64::from(hu) - f64::from(intercept)) / f64::from(slope)) as f32;
                let (a, b) = (stored(low), stored(high));
                (p.stored_low, p.stored_high) = (a.min(b), a.max(b));
            }
        }
        if let Some((low, high)) = self.window {
            (p.low, p.high) = (low, high);
        }
        (p.slope, p.intercept, p.scale, p.shift, p.pad) = (slope, intercept, self.scale, self.shift, self.pad);
        let [x, y, z] = self.size;
        grid.shape = match self.layout {
            Layout::Zyx => [volume.batch(), z, y, x].into(),
            Layout::Zxy => [volume.batch(), z, x, y].into(),
        };
        grid.variant = self.variant;
        Ok(grid)
    }
}

impl Op for Resample {
    /// The volume and the output.
    type Context = (Tensor, Tensor);

    fn name(&self) -> &'static str {
        "resample"
    }

    fn forward(&self, inputs: &[&Tensor]) -> Result<(Tensor, Self::Context)> {
        let out = self.apply(&DeviceVolume::from_tensor(inputs[0], self.hu)?)?;
        Ok((out.clone(), (inputs[0].clone(), out)))
    }

    fn backward(&self, context: &Self::Context, upstream: &Tensor, gradients: &mut Gradients) -> Result<()> {
        let Some((gradient, write)) = gradients.wanted(0)? else { return Ok(()) };
        self.gradient(context, upstream, &gradient, write)
    }
}

/// A resampling ready to launch.
pub(super) struct Grid {
    params: ResampleParams,
    shape: Shape,
    variant: Variant,
}

impl Grid {
    /// Resize, then crop or pad, no clipping. Triples are x, y, z; each axis of the source has its stride and direction.
    fn new(batch: usize, from: [usize; 3], to: [usize; 3], size: [usize; 3], axes: [(i64, bool); 3]) -> Result<Self> {
        for n in from.into_iter().chain(to).chain(size) {
            check_side("resample", n)?;
        }
        let mut first = 0;
        let stride = std::array::from_fn(|a| {
            let (stride, flip) = axes[a];
            if flip {
                first += stride * (from[a] as i64 - 1);
            }
            if flip { -stride } else { stride }
        });
        let offset = std::array::from_fn(|a| {
            let (n, t) = (to[a] as i32, size[a] as i32);
            if n >= t { (n - t) / 2 } else { -((t - n) / 2) }
        });
        let params = ResampleParams {
            volume: DevicePtr::NULL,
            out: DevicePtr::NULL,
            upstream: DevicePtr::NULL,
            gradient: DevicePtr::NULL,
            first,
            stride,
            volume_stride: from.iter().product::<usize>() as i64,
            out_stride: [1, size[0] as i64, (size[0] * size[1]) as i64],
            out_volume_stride: size.iter().product::<usize>() as i64,
            batch: batch as u32,
            from: from.map(|n| n as u32),
            to: to.map(|n| n as u32),
            size: size.map(|n| n as u32),
            offset,
            slope: 1.0,
            intercept: 0.0,
            stored_low: f32::NEG_INFINITY,
            stored_high: f32::INFINITY,
            low: f32::NEG_INFINITY,
            high: f32::INFINITY,
            scale: 1.0,
            shift: 0.0,
            pad: 0.0,
            accumulate: 0,
        };
        let shape = [batch, size[2], size[1], size[0]].into();
        Ok(Grid { params, shape, variant: Variant::default() })
    }

    /// Images `[B, rows, columns]` from images whose rows and columns have the given strides and directions.
    pub(super) fn image(batch: usize, from: [usize; 2], to: [usize; 2], axes: [(i64, bool); 2]) -> Result<Self> {
        let [rows, columns] = to;
        let mut grid = Grid::new(
            batch,
            [from[1], from[0], 1],
            [columns, rows, 1],
            [columns, rows, 1],
            [axes[1], axes[0], (0, false)],
        )?;
        grid.shape = [batch, rows, columns].into();
        Ok(grid)
    }

    /// The resampled source, as `dtype`.
    pub(super) fn resize(&self, source: &Tensor, dtype: DType) -> Result<Tensor> {
        self.run(source.device(), source.dtype().into(), source.ptr(), dtype)
    }

    fn run(&self, device: &Device, voxel: VoxelType, volume: DevicePtr, dtype: DType) -> Result<Tensor> {
        let out = Tensor::empty(device, &self.shape, dtype, "resampled volume")?;
        let params = ResampleParams { volume, out: out.ptr(), ..self.params };
        // Safety: the source has `from` voxels under its strides, the output is contiguous and just made.
        unsafe { kernel::forward(device.launcher(), self.variant, voxel, dtype, &params)? };
        Ok(out)
    }

    /// The gradient of `source`, given that of `out`. The source's values are read only where limits decide which part of the
    /// gradient passes.
    pub(super) fn gradient(
        &self,
        source: &Tensor,
        out: &Tensor,
        upstream: &Tensor,
        gradient: &Tensor,
        write: Write,
    ) -> Result<()> {
        let device = source.device();
        upstream.expect("gradient of the resampled volume", device, &self.shape, out.dtype())?;
        gradient.expect("gradient of the volume", device, source.shape(), source.dtype())?;
        let limited = self.params.stored_low > f32::NEG_INFINITY || self.params.stored_high < f32::INFINITY;
        let params = ResampleParams {
            volume: if limited { source.ptr() } else { DevicePtr::NULL },
            out: out.ptr(),
            upstream: upstream.ptr(),
            gradient: gradient.ptr(),
            accumulate: write.flag(),
            ..self.params
        };
        // Safety: source and gradient are of one layout, output and upstream too, all live.
        unsafe { kernel::backward(device.launcher(), source.dtype(), out.dtype(), &params) }
    }
}
