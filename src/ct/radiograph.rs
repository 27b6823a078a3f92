//! A radiograph of a CT volume in one call.
//!
//! Orientation, for any axis codes of the volume: `image[0, 0]` is superior and the patient's right (AP and PA), superior and
//! anterior (left lateral), superior and posterior (right lateral). The isocentre is the centre of the volume unless given.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::Result;
use crate::device::Device;
use crate::error::Error;
use crate::ops::drr::{DrrView, ImageAxis, LineIntegral, MeanProjection, Projector, Quantity, Response, Views};
use crate::ops::resample::resized;
use crate::ops::volume::DeviceVolume;
use crate::tensor::Tensor;

use super::annotate::Letters;
use super::image::{GrayImage, Window};
use super::physics::{Film, MU_WATER, is_padding, padding_voxels};
use super::placement::Placement;
use super::view::{Geometry, Projection, View};
use super::volume::{AffineSource, CtVolume, HuSource};

/// What a pixel is. As text: `mean-hu`, `attenuation`, `transmission`, `absorption`, `film`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// Arithmetic mean of HU, clipped to [-1000, 1000] and resized trilinearly to a grid of `spacing`, along the voxel axis
    /// nearest to the beam (X2CT-CLIP's radiographs, with `spacing` 1 mm).
    #[default]
    MeanHu,
    /// Line integral p of mu = mu_water (1 + HU / 1000), no less than 0: dimensionless, -ln of the transmitted fraction.
    Attenuation,
    /// exp(-p), the transmitted fraction (Beer and Lambert): air 1, bone dark.
    Transmission,
    /// 1 - exp(-p), the absorbed fraction: air 0, bone bright.
    Absorption,
    /// A film behind the patient on a light box, 0 black to 1 clear: [`Film`] of p.
    Film,
}

impl Mode {
    /// All of them.
    pub const ALL: [Mode; 5] = [Mode::MeanHu, Mode::Attenuation, Mode::Transmission, Mode::Absorption, Mode::Film];

    /// The text form.
    pub fn name(self) -> &'static str {
        match self {
            Mode::MeanHu => "mean-hu",
            Mode::Attenuation => "attenuation",
            Mode::Transmission => "transmission",
            Mode::Absorption => "absorption",
            Mode::Film => "film",
        }
    }

    /// What values are measured in.
    pub fn unit(self) -> &'static str {
        match self {
            Mode::MeanHu => "HU",
            Mode::Attenuation => "(line integral)",
            Mode::Transmission => "(transmitted fraction)",
            Mode::Absorption => "(absorbed fraction)",
            Mode::Film => "(film grey)",
        }
    }

    /// The window that suits a picture: the whole scale of a film, whose contrast is the film's own; else the values found.
    pub fn window(self) -> Window {
        if self == Mode::Film { Window::Range { low: 0.0, high: 1.0 } } else { Window::MinMax }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Mode {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Mode::ALL.into_iter().find(|m| m.name() == text).ok_or_else(|| {
            let names = Mode::ALL.map(Mode::name).join(", ");
            Error::argument("mode", format!("{text:?} is none"), format!("give one of {names}"))
        })
    }
}

/// How a radiograph is made. The default is X2CT-CLIP's.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RadiographOptions {
    /// What a pixel is.
    pub mode: Mode,
    /// From where.
    pub view: Projection,
    /// How the imaging system is moved from there; [`Mode::MeanHu`] takes none.
    pub placement: Placement,
    /// What the system turns about and is centred on, RAS+ mm; `None` is the centre of the volume, and all [`Mode::MeanHu`]
    /// takes.
    pub isocentre: Option<[f64; 3]>,
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
    /// Attenuation of water per millimetre; [`mu_water_at`](super::physics::mu_water_at) knows it for an energy.
    pub mu_water: f64,
    /// Characteristic curve of [`Mode::Film`].
    pub film: Film,
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
            placement: Placement::default(),
            isocentre: None,
            geometry: Geometry::default(),
            projector: Projector::Siddon,
            step: None,
            size: None,
            pitch: None,
            mu_water: MU_WATER,
            film: Film::default(),
            spacing: Some(1.0),
            hu: HuSource::AlreadyHu,
        }
    }
}

impl RadiographOptions {
    /// `[rows, columns]` of the image.
    pub fn resolved_size(&self, volume: &CtVolume) -> [usize; 2] {
        self.size.unwrap_or_else(|| match self.mode {
            Mode::MeanHu if self.pitch.is_none() => {
                let [row, column] = self.image_axes(volume);
                let to = self.mean_grid(volume);
                [to[row.axis], to[column.axis]]
            }
            _ => [512, 512],
        })
    }

    /// Millimetres of a detector pixel. A mean on its own grid has its spacing.
    pub fn resolved_pitch(&self, volume: &CtVolume) -> f64 {
        self.pitch.unwrap_or_else(|| {
            let [rows, columns] = self.resolved_size(volume).map(|n| n as f64);
            let [_, down, right] = self.placement.frame(self.view);
            // Off the volume's centre, the farther side decides.
            let (centre, aim) = (volume.affine.centre(volume.shape), self.aim(volume));
            let off = |u: [f64; 3]| (0..3).map(|a| u[a] * (centre[a] - aim[a])).sum::<f64>().abs();
            let span = |u: [f64; 3]| extent(volume, u) + 2.0 * off(u);
            let pitch = (span(down) / rows).max(span(right) / columns);
            match self.mode {
                Mode::MeanHu if self.size.is_none() => self.spacing.unwrap_or(pitch),
                _ => pitch * self.geometry.magnification(),
            }
        })
    }

    /// Orientation letters for a picture of `volume`; `None` when its file does not say how the patient lies.
    pub fn letters(&self, volume: &CtVolume) -> Option<Letters> {
        let [_, down, right] = self.placement.frame(self.view);
        (volume.affine_source != AffineSource::Pixdim).then(|| Letters::of(down, right))
    }

    /// Every option that has a say in the pixels, as text: equal settings, equal text.
    pub fn settings(&self) -> BTreeMap<String, String> {
        let mut settings = BTreeMap::new();
        let mut set = |key: &str, value: String| settings.insert(key.to_string(), value);
        let triple = |v: [f64; 3]| v.map(|x| x.to_string()).join(",");
        set("mode", self.mode.to_string());
        set("view", self.view.to_string());
        if let HuSource::CsvRescale { slope, intercept } = self.hu {
            set("hu_rescale", format!("{slope},{intercept}"));
        }
        if let Some([rows, columns]) = self.size {
            set("size", format!("{rows}x{columns}"));
        }
        if let Some(pitch) = self.pitch {
            set("pitch_mm", pitch.to_string());
        }
        if self.mode == Mode::MeanHu {
            set("geometry", "parallel".into());
            set("grid_mm", self.spacing.map_or("volume".into(), |mm| mm.to_string()));
            return settings;
        }
        match self.geometry {
            Geometry::Parallel => set("geometry", "parallel".into()),
            Geometry::Cone { sdd, sod } => set("geometry", format!("cone sdd_mm={sdd} sod_mm={sod}")),
        };
        let [primary, secondary] = self.placement.positioner_angles(self.view);
        set("positioner_primary_angle", primary.to_string());
        set("positioner_secondary_angle", secondary.to_string());
        set("rotation_deg", triple(self.placement.rotation));
        set("translation_mm", triple(self.placement.translation));
        set("isocentre_mm", self.isocentre.map_or("centre".into(), triple));
        set("projector", format!("{:?}", self.projector).to_lowercase());
        if self.projector == Projector::Trilinear {
            set("step_mm", self.step.map_or("half a voxel".into(), |mm| mm.to_string()));
        }
        set("mu_water_per_mm", self.mu_water.to_string());
        if self.mode == Mode::Film {
            set("film_centre", self.film.centre.map_or("automatic".into(), |p| p.to_string()));
            set("film_width", self.film.width.to_string());
        }
        settings
    }

    /// Identifies the options: BLAKE3, lower-case hex, of their JSON form.
    pub fn digest(&self) -> String {
        let json = serde_json::to_vec(self).expect("numbers and names serialize");
        blake3::hash(&json).to_hex().to_string()
    }

    /// What a file says of a radiograph of `volume`: settings, their digest, the resolved pitch, and the edges' letters
    /// (`patient_orientation`: towards the right edge, towards the bottom, as DICOM orders them).
    pub fn describe(&self, volume: &CtVolume) -> super::image::Description {
        let mut entries = self.settings();
        entries.insert("digest".into(), self.digest());
        if let Some(letters) = self.letters(volume) {
            let [_, down, _] = self.placement.frame(self.view);
            let orientation = format!("{}\\{}", letters.right, super::annotate::Label::of(down));
            entries.insert("patient_orientation".into(), orientation);
        }
        let pitch = self.resolved_pitch(volume);
        entries.insert("pitch_mm".into(), pitch.to_string());
        super::image::Description { pitch, entries }
    }

    /// Where the central ray passes: the isocentre and the shift.
    fn aim(&self, volume: &CtVolume) -> [f64; 3] {
        let isocentre = self.isocentre.unwrap_or_else(|| volume.affine.centre(volume.shape));
        std::array::from_fn(|a| isocentre[a] + self.placement.translation[a])
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

/// Millimetres of the volume along a world direction.
fn extent(volume: &CtVolume, direction: [f64; 3]) -> f64 {
    let rows = volume.affine.rows();
    let edge = |axis: usize| (0..3).map(|world| direction[world] * rows[world][axis]).sum::<f64>();
    (0..3).map(|axis| edge(axis).abs() * volume.shape[axis] as f64).sum()
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
        mode => {
            let images = gray(&attenuation(volume, &on_device, &options)?)?;
            if mode != Mode::Film {
                return Ok(images);
            }
            images.iter().map(|integrals| options[0].film.develop(integrals)).collect()
        }
    }
}

/// How many pixels of a radiograph look through padding ([`padding_voxels`]): the projection of the padding alone is counted
/// where it is not empty.
///
/// # Errors
/// Those of [`radiograph`].
pub fn padding_pixels(device: &Device, volume: &CtVolume, options: &RadiographOptions) -> Result<usize> {
    if padding_voxels(volume, options.hu) == 0 {
        return Ok(0);
    }
    const AIR: i16 = -1000;
    let padding = is_padding(volume, options.hu).into_iter().map(|it_is| if it_is { 0 } else { AIR });
    let padding = CtVolume {
        voxels: padding.collect::<Vec<i16>>().into(),
        slope: 1.0,
        intercept: 0.0,
        ..CtVolume { voxels: Vec::<i16>::new().into(), remarks: Vec::new(), ..*volume }
    };
    let (mode, empty) = match options.mode {
        Mode::MeanHu => (Mode::MeanHu, f32::from(AIR)),
        _ => (Mode::Attenuation, 0.0),
    };
    let options = RadiographOptions { mode, hu: HuSource::AlreadyHu, ..options.clone() };
    let image = radiograph(device, &padding, &options)?;
    Ok(image.pixels.iter().filter(|&&v| v > empty).count())
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
        let isocentre = options.isocentre.unwrap_or_else(|| volume.affine.centre(volume.shape));
        options.placement.view(options.view, options.geometry, isocentre, pitch, size)
    };
    let views = options.iter().map(view).collect::<Result<Vec<_>>>()?;
    let views = View::upload(on_device.device(), &views, &volume.affine)?;
    let integral = LineIntegral {
        step: first.step.map(|mm| mm as f32),
        quantity: Quantity::Attenuation { mu_water: first.mu_water as f32 },
        response: match first.mode {
            Mode::Transmission => Response::Transmission,
            Mode::Absorption => Response::Absorption,
            Mode::MeanHu | Mode::Attenuation | Mode::Film => Response::Integral,
        },
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
    if !options.placement.is_none() || options.isocentre.is_some() {
        return Err(Error::argument(
            "mean HU",
            "an oblique or shifted beam has no voxel axis to average along",
            "use a standard view about the volume's centre, or attenuation",
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
