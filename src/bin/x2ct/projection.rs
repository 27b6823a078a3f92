//! The options that say how a radiograph is projected and pictured: what `drr` takes for one volume and for many.

use std::path::PathBuf;

use clap::ValueEnum;
use x2ct::ct::image::{Depth, Photometric, PngOptions};
use x2ct::ct::{Geometry, Mode, Projection, RadiographOptions};
use x2ct::ops::drr::Projector;

use crate::arguments::sizes;

/// How a volume is projected, and how the image becomes a picture.
#[derive(clap::Args)]
pub struct ProjectionArgs {
    /// Mean HU as X2CT-CLIP, or the attenuation line integral (dimensionless)
    #[arg(long, value_enum, default_value = "mean-hu")]
    pub mode: ModeName,
    /// Exact, or samples of the trilinear interpolant (attenuation)
    #[arg(long, value_enum, default_value = "siddon")]
    pub projector: ProjectorName,
    /// Beam (mean HU is parallel)
    #[arg(long, value_enum, default_value = "parallel")]
    pub geometry: GeometryName,
    /// Projection; lateral is left lateral, anterior on the image's left
    #[arg(long, value_enum, default_value = "ap")]
    pub view: ViewName,
    /// Rows x columns [default: 512x512; for mean-hu the 1 mm grid itself]
    #[arg(long, value_name = "HxW", value_parser = sizes::<2>)]
    pub size: Option<[usize; 2]>,
    /// Detector pixel in mm [default: the volume's extent, magnified onto the detector, over the size]
    #[arg(long, allow_negative_numbers = true, value_name = "MM")]
    pub pitch: Option<f64>,
    /// Source to detector, cone beam
    #[arg(long, allow_negative_numbers = true, value_name = "MM", default_value_t = 1800.0)]
    pub sdd: f64,
    /// Source to isocentre (the volume's centre), cone beam
    #[arg(long, allow_negative_numbers = true, value_name = "MM", default_value_t = 1500.0)]
    pub sod: f64,
    /// Attenuation of water per mm
    #[arg(long, default_value_t = x2ct::ct::radiograph::MU_WATER)]
    pub mu_water: f64,
    /// Distance of samples, trilinear [default: half the shortest voxel edge]
    #[arg(long, allow_negative_numbers = true, value_name = "MM")]
    pub step: Option<f64>,
    /// Bits of a PNG sample
    #[arg(long, default_value = "8", value_parser = ["8", "16"])]
    pub bits: String,
    /// PNG: which end is bright; monochrome2 shows bone white
    #[arg(long, value_enum, default_value = "monochrome2")]
    pub photometric: PhotometricName,
    /// Where Hounsfield units come from: the file itself, or CT-RATE's metadata table (original release)
    #[arg(long, value_enum, default_value = "header")]
    pub hu_source: HuSourceName,
    /// The metadata table, for `--hu-source csv`: rescale and spacing of the file of this name
    #[arg(long, value_name = "CSV", required_if_eq("hu_source", "csv"))]
    pub metadata: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
pub enum ModeName {
    MeanHu,
    Attenuation,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
pub enum ProjectorName {
    Siddon,
    Trilinear,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
pub enum GeometryName {
    Parallel,
    Cone,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
pub enum ViewName {
    Ap,
    Pa,
    Lateral,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
pub enum PhotometricName {
    Monochrome1,
    Monochrome2,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
pub enum HuSourceName {
    Header,
    Csv,
}

impl ProjectionArgs {
    /// How a volume is projected; what turns its values into HU is the caller's to say.
    pub fn options(&self) -> anyhow::Result<RadiographOptions> {
        Ok(RadiographOptions {
            mode: match self.mode {
                ModeName::MeanHu => Mode::MeanHu,
                ModeName::Attenuation => Mode::Attenuation,
            },
            view: match self.view {
                ViewName::Ap => Projection::Ap,
                ViewName::Pa => Projection::Pa,
                ViewName::Lateral => Projection::Lateral,
            },
            geometry: match self.geometry {
                GeometryName::Parallel => Geometry::Parallel,
                GeometryName::Cone => Geometry::Cone { sdd: self.sdd, sod: self.sod },
            },
            projector: match self.projector {
                ProjectorName::Siddon => Projector::Siddon,
                ProjectorName::Trilinear => Projector::Trilinear,
            },
            step: self.step,
            size: self.size,
            pitch: self.pitch,
            mu_water: self.mu_water,
            ..RadiographOptions::default()
        })
    }

    /// How values become grey levels.
    pub fn png(&self) -> PngOptions {
        PngOptions {
            depth: if self.bits == "16" { Depth::Sixteen } else { Depth::Eight },
            photometric: match self.photometric {
                PhotometricName::Monochrome1 => Photometric::Monochrome1,
                PhotometricName::Monochrome2 => Photometric::Monochrome2,
            },
            ..PngOptions::default()
        }
    }
}
