//! The options that say how a radiograph is projected and pictured: what `drr` takes for one volume and for many.

use clap::ValueEnum;
use x2ct::ct::image::{Curve, Depth, Photometric, PngOptions, Window};
use x2ct::ct::physics::{self, Film, mu_water_at};
use x2ct::ct::{Collimation, Geometry, Mode, Placement, Projection, Radiograph, RadiographOptions};
use x2ct::ops::drr::Projector;

use crate::arguments::{expect_within, named, numbers, sizes};
use crate::effect::Rule;

/// How a volume is projected, and how the image becomes a picture.
#[derive(clap::Args)]
pub struct ProjectionArgs {
    /// What a pixel is: mean HU as X2CT-CLIP; the attenuation line integral p; transmission exp(-p); absorption 1 - exp(-p);
    /// a screen film of it
    #[arg(long, default_value = "mean-hu", value_parser = named::<Mode>(Mode::ALL.map(Mode::name)))]
    pub mode: Mode,
    /// Exact sums over voxels; bilinear on planes (the fastest, and smooth); or samples of the trilinear interpolant [default:
    /// joseph for film, since siddon shows thick slices as stripes; siddon for the others]
    #[arg(long, value_enum)]
    pub projector: Option<ProjectorName>,
    /// Beam (mean HU is parallel)
    #[arg(long, value_enum, default_value = "parallel")]
    pub geometry: GeometryName,
    /// Projections; lateral is left lateral, anterior on the image's left
    #[arg(long = "view", visible_alias = "views", value_name = "VIEW,...", value_delimiter = ',', default_value = "ap", value_parser = named::<Projection>(["ap", "pa", "lateral", "left-lateral", "right-lateral"]))]
    pub views: Vec<Projection>,
    /// Turn the detector about the head-foot axis, added to the view's angle (DICOM Positioner Primary Angle: + to LAO)
    #[arg(long, allow_negative_numbers = true, value_name = "DEG", default_value_t = 0.0)]
    pub primary_angle: f64,
    /// Then tilt it (DICOM Positioner Secondary Angle: + cranial)
    #[arg(long, allow_negative_numbers = true, value_name = "DEG", default_value_t = 0.0)]
    pub secondary_angle: f64,
    /// Then turn source and detector about the isocentre: rotation vector in degrees, to the patient's right, front, head
    #[arg(long, allow_hyphen_values = true, value_name = "X,Y,Z", value_parser = numbers::<3>)]
    pub rotation: Option<[f64; 3]>,
    /// Then shift both, mm to the patient's right, front, head
    #[arg(long, allow_hyphen_values = true, value_name = "X,Y,Z", value_parser = numbers::<3>)]
    pub translation: Option<[f64; 3]>,
    /// Isocentre in the file's world (RAS+ mm) [default: the volume's centre]
    #[arg(long, allow_hyphen_values = true, value_name = "X,Y,Z", value_parser = numbers::<3>)]
    pub isocentre: Option<[f64; 3]>,
    /// What is shown where --size and --pitch do not say it: the patient's outline in each view, the longer side 512 pixels; or
    /// the whole volume, 512x512 [default: body for pictures, volume for a data set]
    #[arg(long, value_enum)]
    pub collimation: Option<CollimationName>,
    /// Rows x columns [default: by the collimation; for mean-hu the 1 mm grid itself]
    #[arg(long, value_name = "HxW", value_parser = sizes::<2>)]
    pub size: Option<[usize; 2]>,
    /// Detector pixel in mm [default: by the collimation]
    #[arg(long, allow_negative_numbers = true, value_name = "MM")]
    pub pitch: Option<f64>,
    /// Source to detector, cone beam
    #[arg(long, allow_negative_numbers = true, value_name = "MM", default_value_t = 1800.0)]
    pub sdd: f64,
    /// Source to isocentre, cone beam
    #[arg(long, allow_negative_numbers = true, value_name = "MM", default_value_t = 1500.0)]
    pub sod: f64,
    /// Attenuation of water per mm
    #[arg(long, allow_negative_numbers = true, value_name = "PER_MM", default_value_t = physics::MU_WATER)]
    pub mu_water: f64,
    /// Photon energy that decides the attenuation of water (NIST), 20 to 150
    #[arg(long, allow_negative_numbers = true, value_name = "KEV", conflicts_with = "mu_water")]
    pub energy: Option<f64>,
    /// Film: line integral shown mid-grey [default: automatic exposure by what lies behind the body]
    #[arg(long, allow_negative_numbers = true, value_name = "P")]
    pub film_centre: Option<f64>,
    /// Film: range of line integrals from black to clear; 3 is a chest film's [default: automatic, as the patient needs]
    #[arg(long, allow_negative_numbers = true, value_name = "P")]
    pub film_width: Option<f64>,
    /// Distance of samples, trilinear [default: half the shortest voxel edge]
    #[arg(long, allow_negative_numbers = true, value_name = "MM")]
    pub step: Option<f64>,
    /// Bits of a PNG sample
    #[arg(long, default_value = "8", value_parser = ["8", "16"])]
    pub bits: String,
    /// PNG: which end is bright; monochrome2 shows bone white
    #[arg(long, value_enum, default_value = "monochrome2")]
    pub photometric: PhotometricName,
    /// The values a PNG shows darkest and brightest, grey linear between them; recorded in every file [default: mean-hu:
    /// smallest and largest; film: 0,1; others: percentiles 0.5 and 99.5 behind the body, grey linear in the line integral]
    #[arg(long, allow_hyphen_values = true, value_name = "LOW,HIGH", value_parser = numbers::<2>)]
    pub window: Option<[f64; 2]>,
    /// The same in percentiles of all pixels, such as 1,99
    #[arg(long, allow_hyphen_values = true, value_name = "LOW,HIGH", value_parser = numbers::<2>, conflicts_with = "window")]
    pub percentiles: Option<[f64; 2]>,
    /// PNG: no orientation letters
    #[arg(long)]
    pub no_letters: bool,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
pub enum ProjectorName {
    Siddon,
    Joseph,
    Trilinear,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
pub enum CollimationName {
    Body,
    Volume,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
pub enum GeometryName {
    Parallel,
    Cone,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
pub enum PhotometricName {
    Monochrome1,
    Monochrome2,
}

impl ProjectionArgs {
    /// How a volume is projected; what turns its values into HU is the caller's to say.
    pub fn options(&self) -> anyhow::Result<RadiographOptions> {
        self.check()?;
        Ok(RadiographOptions {
            mode: self.mode,
            view: self.views.first().copied().unwrap_or_default(),
            placement: Placement {
                primary_angle: self.primary_angle,
                secondary_angle: self.secondary_angle,
                rotation: self.rotation.unwrap_or_default(),
                translation: self.translation.unwrap_or_default(),
            },
            isocentre: self.isocentre,
            geometry: match self.geometry {
                GeometryName::Parallel => Geometry::Parallel,
                GeometryName::Cone => Geometry::Cone { sdd: self.sdd, sod: self.sod },
            },
            projector: self.projector.map(|name| match name {
                ProjectorName::Siddon => Projector::Siddon,
                ProjectorName::Joseph => Projector::Joseph,
                ProjectorName::Trilinear => Projector::Trilinear,
            }),
            collimation: match self.collimation {
                None | Some(CollimationName::Body) => Collimation::Body,
                Some(CollimationName::Volume) => Collimation::Volume,
            },
            step: self.step,
            size: self.size,
            pitch: self.pitch,
            mu_water: self.energy.map_or(Ok(self.mu_water), mu_water_at)?,
            film: Film { centre: self.film_centre, width: self.film_width },
            ..RadiographOptions::default()
        })
    }

    /// Refuses numbers that no projection takes, and views that are named twice.
    fn check(&self) -> x2ct::Result<()> {
        expect_within("--primary-angle", Some(self.primary_angle), -360.0..=360.0, "degrees")?;
        expect_within("--secondary-angle", Some(self.secondary_angle), -360.0..=360.0, "degrees")?;
        let triple = |v: Option<[f64; 3]>| v.map(|v| v.into_iter().fold(0.0, |most: f64, x| most.max(x.abs())));
        expect_within("--rotation", triple(self.rotation), 0.0..=360.0, "degrees to either side")?;
        expect_within("--translation", triple(self.translation), 0.0..=1e4, "mm to either side")?;
        expect_within("--isocentre", triple(self.isocentre), 0.0..=1e5, "mm to either side")?;
        expect_within("--pitch", self.pitch, 1e-3..=100.0, "mm")?;
        expect_within("--mu-water", Some(self.mu_water), 1e-4..=1.0, "per mm")?;
        expect_within("--energy", self.energy, 20.0..=150.0, "keV")?;
        expect_within("--film-centre", self.film_centre, -100.0..=100.0, "line integrals")?;
        expect_within("--film-width", self.film_width, 1e-3..=100.0, "line integrals")?;
        expect_within("--step", self.step, 1e-3..=100.0, "mm")?;
        expect_within("--sod", Some(self.sod), 1.0..=1e5, "mm")?;
        expect_within("--sdd", Some(self.sdd), 1.0..=1e5, "mm")?;
        let twice = (1..self.views.len()).find(|&i| self.views[..i].contains(&self.views[i]));
        if let Some(view) = twice.map(|i| self.views[i].name()) {
            return Err(x2ct::Error::argument("views", format!("{view} is named twice"), "name each once"));
        }
        Ok(())
    }

    /// When options act; `pngs` says whether pictures in PNG are written.
    pub fn rules(&self, pngs: bool) -> Vec<Rule> {
        let integral = self.mode != Mode::MeanHu;
        let (cone, film) = (self.geometry == GeometryName::Cone, self.mode == Mode::Film);
        let others = "--mode attenuation, transmission, absorption or film";
        let png = "pictures in PNG";
        let trilinear = integral && self.projector == Some(ProjectorName::Trilinear);
        vec![
            Rule::new("projector", integral, others),
            Rule::new("mu_water", integral, others),
            Rule::new("energy", integral, others),
            Rule::new("step", trilinear, "--projector trilinear and a mode of line integrals"),
            Rule::new("sdd", cone, "--geometry cone"),
            Rule::new("sod", cone, "--geometry cone"),
            Rule::new("film_centre", film, "--mode film"),
            Rule::new("film_width", film, "--mode film"),
            Rule::new(
                "collimation",
                integral && (self.size.is_none() || self.pitch.is_none()),
                "line integrals without --size and --pitch",
            ),
            Rule::new("bits", pngs, png),
            Rule::new("photometric", pngs, png),
            Rule::new("no_letters", pngs, png),
        ]
    }

    /// How a radiograph becomes a picture.
    pub fn png(&self, radiograph: &Radiograph) -> PngOptions {
        let given = self.given_window();
        PngOptions {
            depth: if self.bits == "16" { Depth::Sixteen } else { Depth::Eight },
            window: given.unwrap_or(radiograph.window),
            curve: if given.is_some() { Curve::Linear } else { radiograph.curve },
            photometric: match self.photometric {
                PhotometricName::Monochrome1 => Photometric::Monochrome1,
                PhotometricName::Monochrome2 => Photometric::Monochrome2,
            },
            letters: radiograph.letters.filter(|_| !self.no_letters),
        }
    }

    /// The options of a picture as text: equal text, equal pictures of equal radiographs.
    pub fn picture(&self) -> String {
        let monochrome1 = self.photometric == PhotometricName::Monochrome1;
        format!("{} {monochrome1} {:?} {}", self.bits, self.given_window(), self.no_letters)
    }

    fn given_window(&self) -> Option<Window> {
        let range = |[low, high]: [f64; 2]| (low as f32, high as f32);
        match (self.window.map(range), self.percentiles.map(range)) {
            (Some((low, high)), _) => Some(Window::Range { low, high }),
            (None, Some((low, high))) => Some(Window::Percentiles { low, high }),
            (None, None) => None,
        }
    }
}
