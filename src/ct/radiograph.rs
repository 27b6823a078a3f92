//! A radiograph of a CT volume in one call.
//!
//! Orientation, for any axis codes of the volume: `image[0, 0]` is superior and the patient's right (AP and PA), superior and
//! anterior (left lateral), superior and posterior (right lateral). The isocentre is the centre of the volume unless given;
//! what is shown of the patient is [`Collimation`]'s to decide unless size and pitch are given.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::Result;
use crate::device::Device;
use crate::error::Error;
use crate::limits::short;
use crate::ops::drr::{DrrView, ImageAxis, LineIntegral, MeanProjection, Projector, Quantity, Response, Views};
use crate::ops::resample::resized;
use crate::ops::volume::DeviceVolume;
use crate::tensor::Tensor;

use super::annotate::{Label, Letters};
use super::body::Body;
use super::collimation::Collimation;
use super::image::{Curve, Description, GrayImage, Window, percentiles};
use super::physics::{EXPOSED_PERCENTILES, Exposure, Film, MU_WATER, is_padding, padding_voxels};
use super::placement::Placement;
use super::view::{Beam, Geometry, Projection, View};
use super::volume::{CtVolume, HuSource};

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

    /// How grey grows in a picture by default: with the line integral for what falls or rises exponentially with it.
    pub fn curve(self) -> Curve {
        match self {
            Mode::Transmission => Curve::Logarithm,
            Mode::Absorption => Curve::Complement,
            Mode::MeanHu | Mode::Attenuation | Mode::Film => Curve::Linear,
        }
    }

    /// The rule of the line integral by default: a film's is smooth across thick slices, numbers are exact sums over voxels.
    pub fn projector(self) -> Projector {
        if self == Mode::Film { Projector::Joseph } else { Projector::Siddon }
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
    /// The quantity that a pixel holds.
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
    /// Rule of the line integral; `None` is [`Mode::projector`]: Joseph's for a film, since Siddon's shows the slices of a thick
    /// CT as stripes, and Siddon's for all else.
    pub projector: Option<Projector>,
    /// Millimetres between samples of the trilinear rule; `None` is half the shortest voxel edge.
    pub step: Option<f64>,
    /// `[rows, columns]`. `None` leaves it to `collimation`; for mean HU it is the resized grid itself.
    pub size: Option<[usize; 2]>,
    /// Detector pixel, mm. `None` leaves it to `collimation`; mean HU of a given size shows the whole volume.
    pub pitch: Option<f64>,
    /// What is shown where `size` and `pitch` are not both given; mean HU has its own grid.
    pub collimation: Collimation,
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
            projector: None,
            step: None,
            size: None,
            pitch: None,
            collimation: Collimation::default(),
            mu_water: MU_WATER,
            film: Film::default(),
            spacing: Some(1.0),
            hu: HuSource::AlreadyHu,
        }
    }
}

impl RadiographOptions {
    /// The rule of the line integral.
    fn resolved_projector(&self) -> Projector {
        self.projector.unwrap_or(self.mode.projector())
    }

    /// Orientation letters for a picture of `volume`; `None` when its file does not say how the patient lies.
    pub fn letters(&self, volume: &CtVolume) -> Option<Letters> {
        let [_, down, right] = self.placement.frame(self.view);
        volume.affine_source.tells_sides().then(|| Letters::of(down, right))
    }

    /// Every option that has a say in the pixels, as it was asked for, as text: equal settings, equal text.
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
        set("collimation", format!("{:?}", self.collimation).to_lowercase());
        set("projector", format!("{:?}", self.resolved_projector()).to_lowercase());
        if self.resolved_projector() == Projector::Trilinear {
            set("step_mm", self.step.map_or("half a voxel".into(), |mm| mm.to_string()));
        }
        set("mu_water_per_mm", self.mu_water.to_string());
        if self.mode == Mode::Film {
            let asked = |given: Option<f64>| given.map_or("automatic".into(), |p| p.to_string());
            set("film_centre_asked", asked(self.film.centre));
            set("film_width_asked", asked(self.film.width));
        }
        settings
    }

    /// Identifies the options: BLAKE3, lower-case hex, of their JSON form.
    pub fn digest(&self) -> String {
        let json = serde_json::to_vec(self).expect("numbers and names serialize");
        blake3::hash(&json).to_hex().to_string()
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

/// Percentiles of the pixels behind the body between which a picture of numbers is shown.
const SHOWN_PERCENTILES: [f32; 2] = [0.5, 99.5];

/// A radiograph, and all that was decided on the way to it.
#[derive(Clone, Debug)]
pub struct Radiograph {
    /// The pixels of the radiograph.
    pub image: GrayImage,
    /// The detector and the beam where they stood. Of mean HU, its plane lies in the middle of the volume.
    pub view: View,
    /// The window that suits a picture of it: the whole scale of a film, the values found behind the patient's body of line
    /// integrals and what comes of them, else all values.
    pub window: Window,
    /// How grey grows in that window.
    pub curve: Curve,
    /// What stands at the picture's edges; `None` when the volume's file does not say how the patient lies.
    pub letters: Option<Letters>,
    /// Centre and width of a film.
    pub exposure: Option<Exposure>,
    /// Millimetres from pixel to pixel on the detector.
    pub pitch: f64,
    /// What a file says of it: the settings and their digest; size, pitch and where the detector stood (RAS+ mm); the rule of
    /// the collimation; centre and width of a film and their rule; the edges' letters (`patient_orientation`: towards the
    /// right edge, towards the bottom, as DICOM orders them).
    pub entries: BTreeMap<String, String>,
}

impl Radiograph {
    /// The radiographs of a volume from several `views` (which stand for the one in `options`), in their order. The volume is
    /// copied to the device once; line integrals take one launch for all views of one size.
    ///
    /// # Errors
    /// No views; options that contradict each other or are out of range, a volume with NaN, a device that fails.
    pub fn all(
        device: &Device,
        volume: &CtVolume,
        views: &[Projection],
        options: &RadiographOptions,
    ) -> Result<Vec<Radiograph>> {
        if let Some(size @ [rows, columns]) = options.size
            && size.contains(&0)
        {
            return Err(Error::argument(
                "size",
                format!("{rows} x {columns} pixels"),
                "give at least one row and column",
            ));
        }
        if views.is_empty() {
            return Err(Error::argument("views", "there are none", "name at least one"));
        }
        let on_device = volume.to_device(device, options.hu)?;
        let options: Vec<_> = views.iter().map(|&view| RadiographOptions { view, ..options.clone() }).collect();
        match options[0].mode {
            Mode::MeanHu => options.iter().map(|options| Radiograph::mean(volume, &on_device, options)).collect(),
            _ => Radiograph::integrals(volume, &on_device, &options),
        }
    }

    /// What image files are written with.
    pub fn description(&self) -> Description {
        Description { pitch: self.pitch, detector: Some(self.view), entries: self.entries.clone() }
    }

    fn mean(volume: &CtVolume, on_device: &DeviceVolume, options: &RadiographOptions) -> Result<Radiograph> {
        let (image, view) = mean(volume, on_device, options)?;
        let image = gray(&image)?.remove(0);
        let rule = if options.size.is_some() || options.pitch.is_some() { "volume" } else { "voxel grid" };
        let mut made = Radiograph::of(volume, options, image, view, rule);
        if let (None, None, Some(spacing)) = (options.size, options.pitch, options.spacing) {
            made.pitch = spacing;
            made.entries.insert("pitch_mm".into(), spacing.to_string());
        }
        Ok(made)
    }

    fn integrals(
        volume: &CtVolume,
        on_device: &DeviceVolume,
        options: &[RadiographOptions],
    ) -> Result<Vec<Radiograph>> {
        let body = Body::of(volume, options[0].hu);
        let placed: Vec<_> = options.iter().map(|o| o.place(volume, body.as_ref())).collect::<Result<_>>()?;
        let views: Vec<View> = placed.iter().map(|(view, _)| *view).collect();
        let mut images = Vec::with_capacity(views.len());
        for views in views.chunk_by(|a, b| a.size == b.size) {
            images.extend(gray(&integrate(volume, on_device, &options[0], views)?)?);
        }
        let of_view = |((image, (view, rule)), options): ((GrayImage, _), &RadiographOptions)| {
            let behind = body.as_ref().map(|body| body.behind(on_device.device(), &view)).transpose()?;
            let mut made = Radiograph::of(volume, options, image, view, rule);
            made.expose(options, behind.as_deref())?;
            Ok(made)
        };
        images.into_iter().zip(placed).zip(options).map(of_view).collect()
    }

    fn of(volume: &CtVolume, options: &RadiographOptions, image: GrayImage, view: View, rule: &str) -> Self {
        let joined = |v: &[f64]| v.iter().map(f64::to_string).collect::<Vec<_>>().join(",");
        let (letters, [down_mm, right_mm]) = (options.letters(volume), view.spacing());
        let mut entries = options.settings();
        let mut set = |key: &str, value: String| entries.insert(key.to_string(), value);
        set("digest", options.digest());
        if let Some(letters) = letters {
            let [_, down, _] = options.placement.frame(options.view);
            set("patient_orientation", format!("{}\\{}", letters.right, Label::of(down)));
        }
        set("size", format!("{}x{}", image.height, image.width));
        set("pitch_mm", right_mm.to_string());
        set("field_mm", format!("{}x{}", down_mm * image.height as f64, right_mm * image.width as f64));
        set("collimation", rule.to_string());
        set("isocentre", if options.isocentre.is_some() { "given" } else { "centre of the volume" }.into());
        set("isocentre_mm", joined(&options.centred_on(volume)));
        set("detector_origin_mm", joined(&view.origin));
        set("detector_row_mm", joined(&view.row));
        set("detector_column_mm", joined(&view.column));
        match view.beam {
            Beam::Parallel { direction } => set("beam_direction", joined(&direction)),
            Beam::Cone { source } => set("source_mm", joined(&source)),
        };
        let (window, curve, exposure) = (Window::MinMax, options.mode.curve(), None);
        Radiograph { image, view, window, curve, letters, exposure, pitch: right_mm, entries }
    }

    /// Develops a film, or chooses the window of numbers, by the pixels `behind` the body.
    fn expose(&mut self, options: &RadiographOptions, behind: Option<&[bool]>) -> Result<()> {
        if options.mode == Mode::Film {
            let exposure = options.film.exposed(&self.image, behind)?;
            self.image = exposure.develop(&self.image)?;
            (self.window, self.exposure) = (Window::Film, Some(exposure));
            let [low, high] = EXPOSED_PERCENTILES;
            let rule = match (options.film.centre, options.film.width) {
                (Some(_), Some(_)) => "given".into(),
                _ => format!("percentiles {low} and {high} of the line integrals behind the body"),
            };
            let entries =
                [("centre", exposure.centre.to_string()), ("width", exposure.width.to_string()), ("exposure", rule)];
            self.entries.extend(entries.map(|(key, value)| (format!("film_{key}"), value)));
        } else if let Some(behind) = behind {
            let pixels = self.image.pixels.iter().zip(behind);
            let found = percentiles(pixels.filter(|(_, b)| **b).map(|(&p, _)| p).collect(), SHOWN_PERCENTILES);
            if let Some([low, high]) = found.filter(|[low, high]| low < high) {
                self.window = Window::Body { low, high, percentiles: SHOWN_PERCENTILES };
            }
        }
        Ok(())
    }
}

/// The radiograph of a volume.
///
/// # Errors
/// Options that contradict each other or are out of range, a volume with NaN, a device that fails.
pub fn radiograph(device: &Device, volume: &CtVolume, options: &RadiographOptions) -> Result<GrayImage> {
    let mut images = radiographs(device, volume, &[options.view], options)?;
    Ok(images.remove(0))
}

/// The pixels of [`Radiograph::all`].
///
/// # Errors
/// Those of [`radiograph`]; no views.
pub fn radiographs(
    device: &Device,
    volume: &CtVolume,
    views: &[Projection],
    options: &RadiographOptions,
) -> Result<Vec<GrayImage>> {
    Ok(Radiograph::all(device, volume, views, options)?.into_iter().map(|made| made.image).collect())
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
    let on_device = padding.to_device(device, HuSource::AlreadyHu)?;
    let (image, empty) = match options.mode {
        Mode::MeanHu => (mean(&padding, &on_device, options)?.0, f32::from(AIR)),
        _ => {
            let (view, _) = options.place(volume, Body::of(volume, options.hu).as_ref())?;
            let options =
                RadiographOptions { mode: Mode::Attenuation, projector: Some(Projector::Siddon), ..options.clone() };
            (integrate(&padding, &on_device, &options, &[view])?, 0.0)
        }
    };
    Ok(image.to_vec()?.into_iter().filter(|&v| v > empty).count())
}

/// The images of a tensor [..., rows, columns].
fn gray(images: &Tensor) -> Result<Vec<GrayImage>> {
    let [.., rows, columns] = images.shape()[..] else { unreachable!("a projection has rows and columns") };
    let pixels = images.to_vec()?;
    pixels.chunks_exact(rows * columns).map(|image| GrayImage::new(image.to_vec(), rows, columns)).collect()
}

/// What is seen from `views` of one size, [1, views, rows, columns]; of a film, the line integrals.
fn integrate(
    volume: &CtVolume,
    on_device: &DeviceVolume,
    options: &RadiographOptions,
    views: &[View],
) -> Result<Tensor> {
    if !(options.mu_water > 0.0 && options.mu_water.is_finite()) {
        return Err(Error::argument("mu_water", format!("is {} per mm", options.mu_water), "give a positive number"));
    }
    let views = View::upload(on_device.device(), views, &volume.affine)?;
    let integral = LineIntegral {
        step: options.step.map(|mm| mm as f32),
        quantity: Quantity::Attenuation { mu_water: options.mu_water as f32 },
        response: match options.mode {
            Mode::Transmission => Response::Transmission,
            Mode::Absorption => Response::Absorption,
            Mode::MeanHu | Mode::Attenuation | Mode::Film => Response::Integral,
        },
        ..LineIntegral::new(views, options.resolved_projector())
    };
    integral.project(on_device)
}

/// The mean along a voxel axis, and where its pixels lie.
fn mean(volume: &CtVolume, on_device: &DeviceVolume, options: &RadiographOptions) -> Result<(Tensor, View)> {
    volume.affine.require_straight()?;
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
    let mm =
        [row, column].map(|axis| volume.spacing()[axis.axis] * volume.shape[axis.axis] as f64 / to[axis.axis] as f64);
    if options.size.is_none() && options.pitch.is_none() {
        let plane = mean_plane(volume, options, [row, column], mm, [to[row.axis], to[column.axis]]);
        return Ok((image, plane));
    }
    let size = match (options.size, options.pitch) {
        (Some(size), _) => size,
        (None, Some(_)) => [512, 512],
        (None, None) => [to[row.axis], to[column.axis]],
    };
    let pitch = options.pitch.unwrap_or_else(|| options.whole_pitch(volume, size));
    let image = on_grid(&image, mm, size, pitch)?;
    Ok((image, mean_plane(volume, options, [row, column], [pitch; 2], size)))
}

/// Where the pixels of a mean lie: along the volume's own axes, in its middle.
fn mean_plane(
    volume: &CtVolume,
    options: &RadiographOptions,
    axes: [ImageAxis; 2],
    mm: [f64; 2],
    size: [usize; 2],
) -> View {
    let direction = volume.affine.direction();
    let step = |a: usize| {
        let sign = if axes[a].flip { -1.0 } else { 1.0 };
        direction.map(|world| sign * mm[a] * world[axes[a].axis])
    };
    let first = size.map(|n| -(n as f64 - 1.0) / 2.0);
    View::parallel(options.view.frame()[0], volume.affine.centre(volume.shape), step(0), step(1), size).shifted(first)
}

/// A mean-HU image on another pixel grid with the same centre, bilinearly, -1000 HU (air) outside.
///
/// It is projected like any volume: one slice, the trilinear rule, whose hat sums to 1 along the slice's normal. HU + 1000 is
/// projected, since what lies outside a volume counts as 0.
fn on_grid(image: &Tensor, [dy, dx]: [f64; 2], size: [usize; 2], pitch: f64) -> Result<Tensor> {
    const AIR: f32 = -1000.0;
    if !(pitch > 0.0 && pitch.is_finite()) {
        return Err(Error::argument("pitch", format!("is {} mm", short(pitch)), "give a positive number"));
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
