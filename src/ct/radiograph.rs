//! A radiograph of a CT volume in one call.
//!
//! Orientation, for any axis codes of the volume: `image[0, 0]` is superior and the patient's right (AP and PA), superior and
//! anterior (lateral). The isocentre is the centre of the volume.

use serde::{Deserialize, Serialize};

use crate::Result;
use crate::device::Device;
use crate::error::Error;
use crate::ops::drr::{DrrView, ImageAxis, LineIntegral, MeanProjection, Projector, Quantity, Views};
use crate::ops::resample::resized;
use crate::ops::volume::DeviceVolume;
use crate::tensor::Tensor;

use super::image::GrayImage;
use super::view::{Geometry, Projection, View};
use super::volume::{CtVolume, HuSource};

/// Attenuation of water per millimetre at the mean energy of a chest radiograph, about 70 keV (NIST: 0.193 per cm), rounded.
pub const MU_WATER: f64 = 0.02;

/// What a pixel is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// Arithmetic mean of HU, clipped to [-1000, 1000] and resized trilinearly to a grid of `spacing`, along the voxel axis
    /// nearest to the beam (X2CT-CLIP's radiographs, with `spacing` 1 mm).
    #[default]
    MeanHu,
    /// Line integral of mu = mu_water (1 + HU / 1000), no less than 0: dimensionless, -ln of the transmitted fraction.
    Attenuation,
}

/// How a radiograph is made. The default is X2CT-CLIP's.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RadiographOptions {
    /// What a pixel is.
    pub mode: Mode,
    /// From where.
    pub view: Projection,
    /// Beam; [`Mode::MeanHu`] is parallel.
    pub geometry: Geometry,
    /// Rule of the line integral.
    pub projector: Projector,
    /// Millimetres between samples of the trilinear rule; `None` is half the shortest voxel edge.
    pub step: Option<f64>,
    /// `[rows, columns]`. `None` is 512 x 512 for attenuation and the resized grid itself for mean HU.
    pub size: Option<[usize; 2]>,
    /// Detector pixel, mm. `None` shows the whole volume: its extent at the isocentre, magnified onto the detector, over
    /// `size`, the larger of both directions.
    pub pitch: Option<f64>,
    /// Attenuation of water per millimetre.
    pub mu_water: f64,
    /// Grid of the mean, mm; `None` is the volume's own.
    pub spacing: Option<f64>,
    /// What turns the volume's values into HU. Not part of how a radiograph is made: it belongs to the volume.
    #[serde(skip)]
    pub hu: HuSource,
}

impl Default for RadiographOptions {
    fn default() -> Self {
        RadiographOptions {
            mode: Mode::default(),
            view: Projection::default(),
            geometry: Geometry::default(),
            projector: Projector::Siddon,
            step: None,
            size: None,
            pitch: None,
            mu_water: MU_WATER,
            spacing: Some(1.0),
            hu: HuSource::AlreadyHu,
        }
    }
}

impl RadiographOptions {
    /// `[rows, columns]` of the image.
    pub fn resolved_size(&self, volume: &CtVolume) -> [usize; 2] {
        self.size.unwrap_or_else(|| match self.mode {
            Mode::Attenuation => [512, 512],
            Mode::MeanHu if self.pitch.is_some() => [512, 512],
            Mode::MeanHu => {
                let [row, column] = self.image_axes(volume);
                let to = self.mean_grid(volume);
                [to[row.axis], to[column.axis]]
            }
        })
    }

    /// Millimetres of a detector pixel. A mean on its own grid has its spacing.
    pub fn resolved_pitch(&self, volume: &CtVolume) -> f64 {
        self.pitch.unwrap_or_else(|| {
            let [rows, columns] = self.resolved_size(volume).map(|n| n as f64);
            let [_, down, right] = self.view.frame();
            let pitch = (extent(volume, down) / rows).max(extent(volume, right) / columns);
            match self.mode {
                Mode::MeanHu if self.size.is_none() => self.spacing.unwrap_or(pitch),
                _ => pitch * self.geometry.magnification(),
            }
        })
    }

    /// Voxel axes shown downwards and to the right.
    fn image_axes(&self, volume: &CtVolume) -> [ImageAxis; 2] {
        let [_, down, right] = self.view.frame();
        [down, right].map(|direction| {
            let (axis, world, grows) = along(volume, direction);
            ImageAxis { axis, flip: grows != (direction[world] > 0.0) }
        })
    }

    /// Voxels of the mean's grid, per voxel axis.
    fn mean_grid(&self, volume: &CtVolume) -> [usize; 3] {
        let (shape, current) = (volume.shape, volume.spacing());
        match self.spacing {
            None => shape,
            // A volume thinner than the grid keeps one voxel.
            Some(spacing) => std::array::from_fn(|a| resized(shape[a], current[a], spacing).max(1)),
        }
    }
}

/// The voxel axis along a world axis, that world axis, and whether it grows with it.
fn along(volume: &CtVolume, direction: [f64; 3]) -> (usize, usize, bool) {
    let world = direction.iter().position(|v| *v != 0.0).unwrap_or(0);
    let axes = volume.axis_codes().axes();
    let axis = axes.iter().position(|(w, _)| *w == world).unwrap_or(0);
    (axis, world, axes[axis].1)
}

/// Millimetres of the volume's bounding box along a world axis.
fn extent(volume: &CtVolume, direction: [f64; 3]) -> f64 {
    let row = volume.affine.rows()[direction.iter().position(|v| *v != 0.0).unwrap_or(0)];
    (0..3).map(|a| row[a].abs() * volume.shape[a] as f64).sum()
}

/// The radiograph of a volume.
///
/// # Errors
/// Options that contradict each other or are out of range, a volume with NaN, a device that fails.
pub fn radiograph(device: &Device, volume: &CtVolume, options: &RadiographOptions) -> Result<GrayImage> {
    let mut images = radiographs(device, volume, &[options.view], options)?;
    Ok(images.remove(0))
}

/// Radiographs of a volume from several `views` (which stand for the one in `options`), in their order. The volume is copied
/// to the device once; attenuation takes one launch for all.
///
/// # Errors
/// Those of [`radiograph`]; no views.
pub fn radiographs(
    device: &Device,
    volume: &CtVolume,
    views: &[Projection],
    options: &RadiographOptions,
) -> Result<Vec<GrayImage>> {
    if let Some(size @ [rows, columns]) = options.size
        && size.contains(&0)
    {
        return Err(Error::argument("size", format!("{rows} x {columns} pixels"), "give at least one row and column"));
    }
    if views.is_empty() {
        return Err(Error::argument("views", "there are none", "name at least one"));
    }
    let on_device = volume.to_device(device, options.hu)?;
    let options: Vec<_> = views.iter().map(|&view| RadiographOptions { view, ..options.clone() }).collect();
    match options[0].mode {
        Mode::MeanHu => {
            let images = options.iter().map(|options| gray(&mean(volume, &on_device, options)?));
            Ok(images.collect::<Result<Vec<_>>>()?.concat())
        }
        Mode::Attenuation => gray(&attenuation(volume, &on_device, &options)?),
    }
}

/// The images of a tensor [..., rows, columns].
fn gray(images: &Tensor) -> Result<Vec<GrayImage>> {
    let [.., rows, columns] = images.shape()[..] else { unreachable!("a projection has rows and columns") };
    let pixels = images.to_vec()?;
    pixels.chunks_exact(rows * columns).map(|image| GrayImage::new(image.to_vec(), rows, columns)).collect()
}

/// One image a view, [1, views, rows, columns].
fn attenuation(volume: &CtVolume, on_device: &DeviceVolume, options: &[RadiographOptions]) -> Result<Tensor> {
    let first = &options[0];
    if !(first.mu_water > 0.0 && first.mu_water.is_finite()) {
        return Err(Error::argument("mu_water", format!("is {} per mm", first.mu_water), "give a positive number"));
    }
    let view = |options: &RadiographOptions| {
        let (size, pitch) = (options.resolved_size(volume), options.resolved_pitch(volume));
        View::standard(options.view, options.geometry, volume.affine.centre(volume.shape), pitch, size)
    };
    let views = options.iter().map(view).collect::<Result<Vec<_>>>()?;
    let views = View::upload(on_device.device(), &views, &volume.affine)?;
    let integral = LineIntegral {
        step: first.step.map(|mm| mm as f32),
        quantity: Quantity::Attenuation { mu_water: first.mu_water as f32 },
        ..LineIntegral::new(views, first.projector)
    };
    integral.project(on_device)
}

fn mean(volume: &CtVolume, on_device: &DeviceVolume, options: &RadiographOptions) -> Result<Tensor> {
    if options.geometry != Geometry::Parallel {
        return Err(Error::argument(
            "mean HU",
            "a cone beam has no voxel axis to average along",
            "use the parallel geometry, or attenuation",
        ));
    }
    if options.spacing.is_some_and(|mm| !(mm > 0.0 && mm.is_finite())) {
        return Err(Error::argument("spacing", format!("is {:?} mm", options.spacing), "give a positive number"));
    }
    let [row, column] = options.image_axes(volume);
    let to = options.mean_grid(volume);
    let projection = MeanProjection {
        sum: along(volume, options.view.frame()[0]).0,
        row,
        column,
        to: Some(to),
        ..MeanProjection::anterior_posterior(None)
    };
    let image = projection.project(on_device)?;
    if options.size.is_none() && options.pitch.is_none() {
        return Ok(image);
    }
    let mm = |axis: usize| volume.spacing()[axis] * volume.shape[axis] as f64 / to[axis] as f64;
    on_grid(&image, [mm(row.axis), mm(column.axis)], options.resolved_size(volume), options.resolved_pitch(volume))
}

/// A mean-HU image on another pixel grid with the same centre, bilinearly, -1000 HU (air) outside.
///
/// It is projected like any volume: one slice, the trilinear rule, whose hat sums to 1 along the slice's normal. HU + 1000 is
/// projected, since what lies outside a volume counts as 0.
fn on_grid(image: &Tensor, [dy, dx]: [f64; 2], size: [usize; 2], pitch: f64) -> Result<Tensor> {
    const AIR: f32 = -1000.0;
    if !(pitch > 0.0 && pitch.is_finite()) {
        return Err(Error::argument("pitch", format!("is {pitch} mm"), "give a positive number"));
    }
    let [_, rows, columns] = image.dims("mean HU")?;
    let first = |n: usize, to: usize, step: f64| n as f64 / 2.0 - step * (to as f64 - 1.0) / 2.0;
    let (step_y, step_x) = (pitch / dy, pitch / dx);
    let view = DrrView {
        origin: [first(columns, size[1], step_x), first(rows, size[0], step_y), 0.5],
        row: [0.0, step_y, 0.0],
        column: [step_x, 0.0, 0.0],
        source: [0.0, 0.0, 1.0],
        metric: [1.0, 1.0, 1.0, 0.0, 0.0, 0.0],
        cone: 0,
        reserved: 0,
    };
    let device = image.device();
    let slice = DeviceVolume::from_tensor(&image.reshape([1, rows, columns])?, (1.0, -AIR))?;
    let above_air = LineIntegral::new(Views::new(device, &[view], size)?, Projector::Trilinear).project(&slice)?;
    let pixels: Vec<f32> = above_air.to_vec()?.into_iter().map(|v| v + AIR).collect();
    Tensor::from_slice(device, size, image.dtype(), &pixels)
}
