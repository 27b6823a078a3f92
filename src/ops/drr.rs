//! Radiographs from CT volumes: line integrals (parallel and cone beam, exact or trilinear) and mean projections, each with
//! the gradient with respect to the volume.
//!
//! Geometry arrives here in voxel coordinates ([`DrrView`]); `ct::View` makes it from millimetres and an affine. Results are
//! deterministic, gradients included.

use std::sync::Arc;

use crate::autograd::{Gradients, Op};
use crate::device::{Buffer, Device};
use crate::kernels::drr::{self as kernel, DrrMeanParams, DrrParams};
pub use crate::kernels::drr::{DrrView, Projector, Variant};
use crate::kernels::{DevicePtr, Write};
use crate::tensor::{DType, Tensor};
use crate::{Error, Result};

use super::resample::{Grid, resize_weights};
use super::volume::DeviceVolume;

/// Views of one size in device memory.
#[derive(Clone)]
pub struct Views {
    buffer: Arc<Buffer>,
    count: usize,
    size: [usize; 2],
    edges: [f64; 3],
}

impl Views {
    /// Copies `views` to the device; `size` is `[rows, columns]` of every image. All views are of one affine.
    pub fn new(device: &Device, views: &[DrrView], size: [usize; 2]) -> Result<Self> {
        let refuse = |problem: String| Error::argument("views", problem, "check the geometry");
        let Some(first) = views.first() else { return Err(refuse("there are none".into())) };
        if size.contains(&0) || size.iter().any(|&n| n > 1 << 20) {
            return Err(refuse(format!("an image of {} x {} pixels", size[0], size[1])));
        }
        for (i, view) in views.iter().enumerate() {
            let numbers = [view.origin, view.row, view.column, view.source];
            let finite = numbers.iter().flatten().chain(&view.metric).all(|v| v.is_finite());
            if !finite || (view.cone == 0 && view.source == [0.0; 3]) {
                return Err(refuse(format!("view {i} is not finite or its direction is zero: {view:?}")));
            }
        }
        let edges = std::array::from_fn(|a| first.metric[a].sqrt());
        let bytes: &[u8] = bytemuck::cast_slice(views);
        let buffer = device.alloc(bytes.len(), "views")?;
        buffer.upload(0, bytes)?;
        Ok(Views { buffer: Arc::new(buffer), count: views.len(), size, edges })
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Never: no views are refused.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// `[rows, columns]` of every image.
    pub fn size(&self) -> [usize; 2] {
        self.size
    }
}

/// What is integrated along a ray.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Quantity {
    /// slope * stored + intercept, the volume's own scaling, per millimetre.
    Value,
    /// The linear attenuation coefficient `mu_water` (1 + HU / 1000) per millimetre, no less than 0: air and the padding
    /// outside a scanner's field of view (-1024 to -2048 HU) attenuate nothing, lung as its density.
    Attenuation { mu_water: f32 },
}

impl Quantity {
    /// `[slope, intercept, floor]` of value = max(floor, slope * stored + intercept).
    fn transfer(self, (slope, intercept): (f32, f32)) -> [f32; 3] {
        match self {
            Quantity::Value => [slope, intercept, f32::NEG_INFINITY],
            Quantity::Attenuation { mu_water } => {
                let per_hu = f64::from(mu_water) / 1000.0;
                let [slope, intercept] = [slope, intercept].map(f64::from);
                [(per_hu * slope) as f32, (per_hu * (intercept + 1000.0)) as f32, 0.0]
            }
        }
    }
}

/// image\[b, v, r, c\] = integral of a [`Quantity`] of volume b along the ray of pixel (r, c) of view v: f32
/// `[B, V, rows, columns]`, zero where a ray misses the volume.
///
/// [`Projector::Siddon`] is exact for voxels of constant value: |error| <= 1e-5 of the integral of the absolute value.
/// [`Projector::Trilinear`] samples the trilinear interpolant, which falls to 0 one voxel outside the outermost centres.
/// As an [`Op`] its one input is the volume, f32 or bf16 `[Z, Y, X]` or `[B, Z, Y, X]`. The gradient is the exact adjoint;
/// it takes 8 bytes a voxel while it runs.
#[derive(Clone)]
pub struct LineIntegral {
    /// Where from.
    pub views: Views,
    /// How.
    pub projector: Projector,
    /// Most millimetres between samples of the trilinear rule; `None` is half the shortest voxel edge: on a chest CT
    /// within 1.4e-5 (relative L2) of the limit of small steps; one edge gives 2e-5, two give 5e-4.
    pub step: Option<f32>,
    /// What.
    pub quantity: Quantity,
    /// HU = slope * stored + intercept, for volumes given as tensors.
    pub scale: (f32, f32),
    /// With which kernel.
    pub variant: Variant,
}

impl LineIntegral {
    /// Integrals of stored values; set the other fields as needed.
    pub fn new(views: Views, projector: Projector) -> Self {
        let variant = Variant::default();
        LineIntegral { views, projector, step: None, quantity: Quantity::Value, scale: (1.0, 0.0), variant }
    }

    /// The images of volumes of any storage type.
    pub fn project(&self, volume: &DeviceVolume) -> Result<Tensor> {
        let [rows, columns] = self.views.size;
        let shape = [volume.batch(), self.views.count, rows, columns];
        let image = Tensor::empty(volume.device(), shape, DType::F32, "radiographs")?;
        let params = DrrParams { image: image.ptr(), ..self.params(volume)? };
        // Safety: volume, views and image are live and have the extents given; `params` checked the rest.
        unsafe { kernel::forward(volume.device().launcher(), self.projector, self.variant, volume.voxel(), &params)? };
        Ok(image)
    }

    /// The gradient of `volume`, given that of its images.
    pub fn adjoint(&self, volume: &Tensor, upstream: &Tensor, gradient: &Tensor, write: Write) -> Result<()> {
        let (device, dtype) = (volume.device(), volume.dtype());
        let source = DeviceVolume::from_tensor(volume, self.scale)?;
        let [rows, columns] = self.views.size;
        upstream.expect(
            "gradient of radiographs",
            device,
            [source.batch(), self.views.count, rows, columns],
            DType::F32,
        )?;
        gradient.expect("gradient of the volume", device, volume.shape(), dtype)?;
        let sums = device.alloc(volume.numel() * 8, "volume gradient sums")?;
        sums.fill(0, sums.bytes(), 0)?;
        let peak = device.alloc(4, "largest gradient")?;
        peak.fill(0, 4, 0)?;
        let params = DrrParams {
            image: upstream.ptr(),
            sums: sums.ptr(),
            peak: peak.ptr(),
            gradient: gradient.ptr(),
            accumulate: write.flag(),
            ..self.params(&source)?
        };
        // Safety: as for `project`; the sums and the peak are zeroed, the gradient has the volume's shape and type.
        unsafe { kernel::adjoint(device.launcher(), self.projector, self.variant, dtype, &params) }
    }

    fn params(&self, volume: &DeviceVolume) -> Result<DrrParams> {
        if !volume.device().same_memory(self.views.buffer.device()) {
            return Err(Error::argument("views", "are on another device than the volume", "put both on one device"));
        }
        let edges = self.views.edges;
        let step = self.step.unwrap_or_else(|| (edges.into_iter().fold(f64::INFINITY, f64::min) / 2.0) as f32);
        if !(step > 0.0 && step.is_finite()) {
            return Err(Error::argument("trilinear step", format!("is {step} mm"), "give a positive number"));
        }
        let [rows, columns] = self.views.size;
        let rays = (self.views.count * rows * columns) as f64;
        let [slope, intercept, floor] = self.quantity.transfer(volume.scale());
        Ok(DrrParams {
            volume: volume.ptr(),
            views: self.views.buffer.ptr(),
            image: DevicePtr::NULL,
            sums: DevicePtr::NULL,
            peak: DevicePtr::NULL,
            gradient: DevicePtr::NULL,
            voxels: volume.voxels() as u64,
            n: volume.shape().map(|n| n as u32),
            batch: volume.batch() as u32,
            count: self.views.count as u32,
            rows: rows as u32,
            columns: columns as u32,
            slope,
            intercept,
            floor,
            step,
            // The trilinear support of a voxel is two edges wide; one sample weighs no more than a step.
            bound: (rays * (4.0 * edges.iter().sum::<f64>() + f64::from(step))) as f32,
            accumulate: 0,
        })
    }
}

impl Op for LineIntegral {
    /// The volume.
    type Context = Tensor;

    fn name(&self) -> &'static str {
        "line_integral"
    }

    fn forward(&self, inputs: &[&Tensor]) -> Result<(Tensor, Tensor)> {
        Ok((self.project(&DeviceVolume::from_tensor(inputs[0], self.scale)?)?, inputs[0].clone()))
    }

    fn backward(&self, volume: &Tensor, upstream: &Tensor, gradients: &mut Gradients) -> Result<()> {
        let Some((gradient, write)) = gradients.wanted(0)? else { return Ok(()) };
        self.adjoint(volume, upstream, &gradient, write)
    }
}

/// An axis of the volume that becomes an axis of the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageAxis {
    /// 0 x, 1 y, 2 z.
    pub axis: usize,
    /// Whether the image shows it backwards.
    pub flip: bool,
}

/// Mean of Hounsfield units along one array axis of the volume resized trilinearly: f32 `[B, rows, columns]`.
///
/// X2CT-CLIP's radiograph: HU clipped to [-1000, 1000], a 1 mm grid, the mean over the anterior-posterior axis. The clip
/// comes first and all that follows is linear, so the sum along the axis is taken on the original grid with the resize's own
/// weights, and only the image is resized: the same number without the resized volume ever being made. The gradient is a
/// gather.
#[derive(Clone, Debug, PartialEq)]
pub struct MeanProjection {
    /// Axis that is averaged: 0 x, 1 y, 2 z.
    pub sum: usize,
    /// Axis shown downwards.
    pub row: ImageAxis,
    /// Axis shown to the right.
    pub column: ImageAxis,
    /// `[x, y, z]` of the resized volume; `None` keeps the volume's own grid.
    pub to: Option<[usize; 3]>,
    /// HU limits before the resize.
    pub clip: (f32, f32),
    /// HU = slope * stored + intercept, for volumes given as tensors.
    pub scale: (f32, f32),
}

impl MeanProjection {
    /// Of volumes with axis codes LPS, seen from the front: `image[0, 0]` is superior and the patient's right.
    pub fn anterior_posterior(to: Option<[usize; 3]>) -> Self {
        MeanProjection {
            sum: 1,
            row: ImageAxis { axis: 2, flip: true },
            column: ImageAxis { axis: 0, flip: false },
            to,
            clip: (-1000.0, 1000.0),
            scale: (1.0, 0.0),
        }
    }

    /// The images of volumes of any storage type.
    pub fn project(&self, volume: &DeviceVolume) -> Result<Tensor> {
        let mean = self.params(volume)?;
        let device = volume.device();
        let lines = Tensor::empty(device, mean.lines, DType::F32, "mean projection")?;
        let params = DrrMeanParams { image: lines.ptr(), ..mean.params };
        // Safety: the volume and the image are live; the strides are those of the volume's own axes.
        unsafe { kernel::mean(device.launcher(), volume.voxel(), &params)? };
        mean.grid.resize(&lines, DType::F32)
    }

    fn params(&self, volume: &DeviceVolume) -> Result<Mean> {
        let [x, y] = [self.column.axis, self.row.axis];
        let mut axes = [x, y, self.sum];
        axes.sort();
        if axes != [0, 1, 2] {
            let problem = format!("sum {}, row {y} and column {x} are not the three axes", self.sum);
            return Err(Error::argument("mean projection", problem, "name each of 0, 1 and 2 once"));
        }
        let (from, strides) = (volume.shape(), volume.strides());
        let to = self.to.unwrap_or(from);
        // In memory order, so that threads read along x where the sum does not run along it.
        let (inner, outer) = if x < y { (x, y) } else { (y, x) };
        let weights: Vec<f32> =
            resize_weights(from[self.sum], to[self.sum])?.iter().map(|w| (w / to[self.sum] as f64) as f32).collect();
        let terms = Tensor::from_slice(volume.device(), [weights.len()], DType::F32, &weights)?;
        let (slope, intercept) = volume.scale();
        let params = DrrMeanParams {
            volume: volume.ptr(),
            weights: terms.ptr(),
            image: DevicePtr::NULL,
            gradient: DevicePtr::NULL,
            voxels: volume.voxels() as u64,
            row: strides[outer],
            column: strides[inner],
            term: strides[self.sum],
            batch: volume.batch() as u32,
            rows: from[outer] as u32,
            columns: from[inner] as u32,
            terms: from[self.sum] as u32,
            slope,
            intercept,
            low: self.clip.0,
            high: self.clip.1,
            accumulate: 0,
        };
        let step = |axis: usize| if axis == inner { 1 } else { from[inner] as i64 };
        let grid = Grid::image(
            volume.batch(),
            [from[y], from[x]],
            [to[y], to[x]],
            [(step(y), self.row.flip), (step(x), self.column.flip)],
        )?;
        Ok(Mean { params, grid, lines: [volume.batch(), from[outer], from[inner]], _weights: terms })
    }
}

/// A mean projection ready to launch.
struct Mean {
    params: DrrMeanParams,
    grid: Grid,
    lines: [usize; 3],
    _weights: Tensor,
}

impl Op for MeanProjection {
    /// The volume and the image.
    type Context = (Tensor, Tensor);

    fn name(&self) -> &'static str {
        "mean_projection"
    }

    fn forward(&self, inputs: &[&Tensor]) -> Result<(Tensor, Self::Context)> {
        let image = self.project(&DeviceVolume::from_tensor(inputs[0], self.scale)?)?;
        Ok((image.clone(), (inputs[0].clone(), image)))
    }

    fn backward(&self, (volume, image): &Self::Context, upstream: &Tensor, gradients: &mut Gradients) -> Result<()> {
        let Some((gradient, write)) = gradients.wanted(0)? else { return Ok(()) };
        let (device, dtype) = (volume.device(), volume.dtype());
        let source = DeviceVolume::from_tensor(volume, self.scale)?;
        gradient.expect("gradient of the volume", device, volume.shape(), dtype)?;
        let mean = self.params(&source)?;
        let lines = Tensor::empty(device, mean.lines, DType::F32, "gradient of lines")?;
        // The resize is linear: no value decides which part of the gradient passes, so the lines' values are not needed.
        mean.grid.gradient(&lines, image, upstream, &lines, Write::Overwrite)?;
        let params =
            DrrMeanParams { image: lines.ptr(), gradient: gradient.ptr(), accumulate: write.flag(), ..mean.params };
        // Safety: the volume, its gradient and the image are live and of one layout.
        unsafe { kernel::mean_backward(device.launcher(), dtype, &params) }
    }
}
