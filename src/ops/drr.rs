//! Radiographs from CT volumes: line integrals (any pose, parallel and cone beam; Siddon, Joseph or trilinear) and mean
//! projections, each with the gradient with respect to the volume, line integrals with that of the geometry too.
//!
//! Geometry arrives here in voxel coordinates ([`DrrView`]); `ct::View` makes it from millimetres and an affine. Results are
//! deterministic, gradients included.

use std::sync::Arc;

use crate::autograd::{Gradients, Op};
use crate::device::{Buffer, Device};
use crate::kernels::drr::{self as kernel, DrrMeanParams, DrrParams};
pub use crate::kernels::drr::{DrrView, Projector, Variant};
use crate::kernels::{DevicePtr, Write};
use crate::limits::short;
use crate::tensor::{DType, Tensor};
use crate::{Error, Result};

use super::resample::{Grid, resize_weights};
use super::volume::DeviceVolume;

/// Views of one size in device memory.
#[derive(Clone)]
pub struct Views {
    buffer: Arc<Buffer>,
    /// Of each volume.
    count: usize,
    /// How many volumes have views of their own; `None`: all share them.
    volumes: Option<usize>,
    size: [usize; 2],
    /// The shortest voxel edge, mm.
    shortest: f64,
    /// The largest sum of a voxel's three edges, mm.
    around: f64,
}

impl Views {
    /// Copies `views` to the device; `size` is `[rows, columns]` of every image. Volumes of a batch share them.
    pub fn new(device: &Device, views: &[DrrView], size: [usize; 2]) -> Result<Self> {
        let refuse = |problem: String| Error::argument("views", problem, "check the geometry");
        if views.is_empty() {
            return Err(refuse("there are none".into()));
        }
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
        let edges = || views.iter().map(|v| [0, 1, 2].map(|a| v.metric[a].sqrt()));
        let shortest = edges().flatten().fold(f64::INFINITY, f64::min);
        let around = edges().map(|e| e.iter().sum()).fold(0.0, f64::max);
        let bytes: &[u8] = bytemuck::cast_slice(views);
        let buffer = device.alloc(bytes.len(), "views")?;
        buffer.upload(0, bytes)?;
        Ok(Views { buffer: Arc::new(buffer), count: views.len(), volumes: None, size, shortest, around })
    }

    /// As [`Views::new`], but every volume of a batch of `volumes` has its own, one volume's after the other's: for volumes of
    /// one shape whose affines differ.
    pub fn per_volume(device: &Device, views: &[DrrView], volumes: usize, size: [usize; 2]) -> Result<Self> {
        if volumes == 0 || views.len() % volumes != 0 {
            let problem = format!("{} for {volumes} volumes", views.len());
            return Err(Error::argument("views", problem, "give every volume as many"));
        }
        let all = Self::new(device, views, size)?;
        Ok(Views { count: views.len() / volumes, volumes: Some(volumes), ..all })
    }

    /// How many a volume has.
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

/// What a pixel shows of its ray's integral p.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Response {
    /// p: with [`Quantity::Attenuation`], minus the logarithm of the transmitted fraction.
    #[default]
    Integral,
    /// exp(-p): the transmitted fraction (Beer and Lambert).
    Transmission,
    /// 1 - exp(-p): the absorbed fraction, exact for thin bodies too.
    Absorption,
}

/// image\[b, v, r, c\] = gain * response(p) + shift, where p is the integral of a [`Quantity`] of volume b along the ray of
/// pixel (r, c) of view v: f32 `[B, V, rows, columns]`; p is zero where a ray misses the volume.
///
/// [`Projector::Siddon`] is exact for voxels of constant value: |error| <= 1e-5 of the integral of the absolute value.
/// [`Projector::Joseph`] and [`Projector::Trilinear`] interpolate; their interpolant falls to 0 one voxel outside the outermost
/// centres. As an [`Op`] its one input is the volume, f32 or bf16 `[Z, Y, X]` or `[B, Z, Y, X]`. The gradient is the exact
/// adjoint; it takes 8 bytes a voxel while it runs. [`LineIntegral::view_gradients`] is the gradient of the geometry.
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
    /// What a pixel shows of it.
    pub response: Response,
    /// image = gain * response + shift: a network's normalisation, without another pass.
    pub gain: f32,
    /// See `gain`.
    pub shift: f32,
    /// HU = slope * stored + intercept, for volumes given as tensors.
    pub scale: (f32, f32),
    /// With which kernel.
    pub variant: Variant,
    /// Whether rays begin at the first and end at the last brick of 8 x 8 x 8 voxels that is not all air, which takes a pass
    /// over the volume ([`Quantity::Attenuation`] only; the image is the same up to rounding). `None`: on a processor, where
    /// the rays have more to read than that pass.
    pub skip_air: Option<bool>,
    /// Whether rays along x read int16 voxels by four: a quarter of the loads, which lie far apart for the lanes of a warp, for
    /// more arithmetic. A processor is slower for it; the image is the same.
    pub by_four: bool,
}

/// The gradient of one view's geometry, in voxel coordinates, as [`DrrView`] holds it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
pub struct ViewGradient {
    /// Of the centre of pixel (0, 0).
    pub origin: [f64; 3],
    /// Of the step from one row to the next.
    pub row: [f64; 3],
    /// Of the step from one column to the next.
    pub column: [f64; 3],
    /// Of the source, or a parallel beam's direction.
    pub source: [f64; 3],
}

impl LineIntegral {
    /// Integrals of stored values; set the other fields as needed.
    pub fn new(views: Views, projector: Projector) -> Self {
        LineIntegral {
            views,
            projector,
            step: None,
            quantity: Quantity::Value,
            response: Response::Integral,
            gain: 1.0,
            shift: 0.0,
            scale: (1.0, 0.0),
            variant: Variant::default(),
            skip_air: None,
            by_four: false,
        }
    }

    /// The images of volumes of any storage type.
    pub fn project(&self, volume: &DeviceVolume) -> Result<Tensor> {
        self.launch(volume, DevicePtr::NULL)
    }

    /// As [`LineIntegral::project`], and the integrals p that gradients need beside the volume: none when the response is p.
    pub fn project_saving(&self, volume: &DeviceVolume) -> Result<(Tensor, Option<Tensor>)> {
        if self.response == Response::Integral {
            return Ok((self.project(volume)?, None));
        }
        let integrals = Tensor::empty(volume.device(), self.image_shape(volume), DType::F32, "line integrals")?;
        Ok((self.launch(volume, integrals.ptr())?, Some(integrals)))
    }

    fn image_shape(&self, volume: &DeviceVolume) -> [usize; 4] {
        let [rows, columns] = self.views.size;
        [volume.batch(), self.views.count, rows, columns]
    }

    fn launch(&self, volume: &DeviceVolume, integrals: DevicePtr) -> Result<Tensor> {
        let image = Tensor::empty(volume.device(), self.image_shape(volume), DType::F32, "radiographs")?;
        let params = DrrParams { image: image.ptr(), integrals, ..self.params(volume)? };
        let bricks = self.bricks(volume, &params)?;
        let params = DrrParams { bricks: bricks.as_ref().map_or(DevicePtr::NULL, Buffer::ptr), ..params };
        // Safety: volume, views, bricks and images are live and have the extents given; `params` checked the rest.
        unsafe { kernel::forward(volume.device().launcher(), self.projector, self.variant, volume.voxel(), &params)? };
        Ok(image)
    }

    /// Which bricks are not all air, where that is wanted.
    fn bricks(&self, volume: &DeviceVolume, params: &DrrParams) -> Result<Option<Buffer>> {
        if params.floor != 0.0 || self.variant == Variant::Naive {
            return Ok(None);
        }
        let device = volume.device();
        let rays = self.views.count * params.rows as usize * params.columns as usize;
        let longest = volume.shape().into_iter().max().unwrap_or(0);
        let pays = device.is_host() && rays * longest > volume.voxels();
        if !self.skip_air.unwrap_or(pays) {
            return Ok(None);
        }
        let bricks: usize = volume.shape().map(|n| n.div_ceil(kernel::BRICK)).iter().product();
        let map = device.alloc(volume.batch() * bricks, "map of air")?;
        // Safety: the map has a byte a brick; the volume is live.
        unsafe { kernel::mark_bricks(device.launcher(), volume.voxel(), &DrrParams { bricks: map.ptr(), ..*params })? };
        Ok(Some(map))
    }

    /// The gradient of `volume`, given that of its images. `integrals` is what [`LineIntegral::project_saving`] returned.
    pub fn adjoint(
        &self,
        volume: &Tensor,
        integrals: Option<&Tensor>,
        upstream: &Tensor,
        gradient: &Tensor,
        write: Write,
    ) -> Result<()> {
        let (device, dtype) = (volume.device(), volume.dtype());
        let source = DeviceVolume::from_tensor(volume, self.scale)?;
        let params = self.backward_params(&source, integrals, upstream)?;
        gradient.expect("gradient of the volume", device, volume.shape(), dtype)?;
        gradient.expect_writable("gradient of the volume")?;
        let sums = device.alloc(volume.numel() * 8, "volume gradient sums")?;
        sums.fill(0, sums.bytes(), 0)?;
        let peak = device.alloc(4, "largest gradient")?;
        peak.fill(0, 4, 0)?;
        let params = DrrParams {
            sums: sums.ptr(),
            peak: peak.ptr(),
            gradient: gradient.ptr(),
            accumulate: write.flag(),
            ..params
        };
        // Safety: as for `launch`; the sums and the peak are zeroed, the gradient has the volume's shape and type.
        unsafe { kernel::adjoint(device.launcher(), self.projector, self.variant, dtype, &params) }
    }

    /// The gradient of the views, given that of their images: one a view, summed over the volumes that share it. Exactly the
    /// derivative of the rule where it has one: Siddon's lengths and the interpolants have kinks where a ray passes an edge
    /// of voxels or a cell's face, and the trilinear rule jumps where its number of samples changes. Waits for the device.
    pub fn view_gradients(
        &self,
        volume: &DeviceVolume,
        integrals: Option<&Tensor>,
        upstream: &Tensor,
    ) -> Result<Vec<ViewGradient>> {
        let device = volume.device();
        let params = self.backward_params(volume, integrals, upstream)?;
        let mut gradients = vec![ViewGradient::default(); self.views.count * self.views.volumes.unwrap_or(1)];
        let rays = device.alloc(upstream.numel() * 6 * 4, "gradients of rays")?;
        let views = device.alloc(std::mem::size_of_val(&gradients[..]), "gradients of views")?;
        let params = DrrParams { rays: rays.ptr(), view_gradient: views.ptr(), ..params };
        // Safety: as for `launch`; the buffers hold six numbers a ray and twelve a view.
        unsafe { kernel::pose(device.launcher(), self.projector, volume.voxel(), &params)? };
        views.download(0, bytemuck::cast_slice_mut(&mut gradients))?;
        Ok(gradients)
    }

    fn backward_params(
        &self,
        volume: &DeviceVolume,
        integrals: Option<&Tensor>,
        upstream: &Tensor,
    ) -> Result<DrrParams> {
        let shape = self.image_shape(volume);
        upstream.expect("gradient of radiographs", volume.device(), shape, DType::F32)?;
        let integrals = match (self.response, integrals) {
            (Response::Integral, _) => DevicePtr::NULL,
            (_, Some(integrals)) => {
                integrals.expect("line integrals", volume.device(), shape, DType::F32)?;
                integrals.ptr()
            }
            (response, None) => {
                let problem = format!("{response:?} needs the integrals of the forward pass");
                return Err(Error::argument("gradient of radiographs", problem, "pass what `project_saving` returned"));
            }
        };
        Ok(DrrParams { image: upstream.ptr(), integrals, ..self.params(volume)? })
    }

    fn params(&self, volume: &DeviceVolume) -> Result<DrrParams> {
        let views = &self.views;
        if !volume.device().same_memory(views.buffer.device()) {
            return Err(Error::argument("views", "are on another device than the volume", "put both on one device"));
        }
        if let Some(volumes) = views.volumes
            && volumes != volume.batch()
        {
            let problem = format!("are of {volumes} volumes, not {}", volume.batch());
            return Err(Error::argument("views", problem, "give every volume its own, or use `Views::new`"));
        }
        let step = self.step.unwrap_or((views.shortest / 2.0) as f32);
        if !(step > 0.0 && step.is_finite()) {
            return Err(Error::argument("trilinear step", format!("is {} mm", short(step)), "give a positive number"));
        }
        if !(self.gain.is_finite() && self.shift.is_finite()) {
            let problem = format!("{} or shift {} is not finite", self.gain, self.shift);
            return Err(Error::argument("gain", problem, "use 1 and 0 for the response itself"));
        }
        let [rows, columns] = views.size;
        let rays = (views.count * rows * columns) as f64;
        let [slope, intercept, floor] = self.quantity.transfer(volume.scale());
        Ok(DrrParams {
            volume: volume.ptr(),
            views: views.buffer.ptr(),
            bricks: DevicePtr::NULL,
            image: DevicePtr::NULL,
            integrals: DevicePtr::NULL,
            sums: DevicePtr::NULL,
            peak: DevicePtr::NULL,
            gradient: DevicePtr::NULL,
            rays: DevicePtr::NULL,
            view_gradient: DevicePtr::NULL,
            voxels: volume.voxels() as u64,
            n: volume.shape().map(|n| n as u32),
            batch: volume.batch() as u32,
            count: views.count as u32,
            rows: rows as u32,
            columns: columns as u32,
            view_stride: if views.volumes.is_some() { views.count as u32 } else { 0 },
            slope,
            intercept,
            floor,
            step,
            // A voxel's support is two edges wide: no ray is longer in it than twice the three edges. A sample or a plane
            // weighs no more than a step, or the way from plane to plane.
            bound: (rays * (4.0 * views.around + f64::from(step))) as f32,
            by_four: self.by_four.into(),
            response: match self.response {
                Response::Integral => 0,
                Response::Transmission => 1,
                Response::Absorption => 2,
            },
            gain: self.gain,
            shift: self.shift,
            accumulate: 0,
        })
    }
}

impl Op for LineIntegral {
    /// The volume, and the integrals where the response is not p itself.
    type Context = (Tensor, Option<Tensor>);

    fn name(&self) -> &'static str {
        "line_integral"
    }

    fn forward(&self, inputs: &[&Tensor]) -> Result<(Tensor, Self::Context)> {
        let (image, integrals) = self.project_saving(&DeviceVolume::from_tensor(inputs[0], self.scale)?)?;
        Ok((image, (inputs[0].clone(), integrals)))
    }

    fn backward(&self, context: &Self::Context, upstream: &Tensor, gradients: &mut Gradients) -> Result<()> {
        let Some((gradient, write)) = gradients.wanted(0)? else { return Ok(()) };
        self.adjoint(&context.0, context.1.as_ref(), upstream, &gradient, write)
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
        // The resize has no limits: the lines' values, which were not kept, are not read.
        mean.grid.gradient(&lines, image, upstream, &lines, Write::Overwrite)?;
        let params =
            DrrMeanParams { image: lines.ptr(), gradient: gradient.ptr(), accumulate: write.flag(), ..mean.params };
        // Safety: the volume, its gradient and the image are live and of one layout.
        unsafe { kernel::mean_backward(device.launcher(), dtype, &params) }
    }
}
