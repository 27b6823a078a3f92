//! `x2ct drr FILE --out FILE`: a radiograph of one CT volume.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use clap::ValueEnum;
use serde_json::json;
use x2ct::ct::image::{self, Depth, Photometric, PngOptions};
use x2ct::ct::{
    Affine, AffineSource, CtVolume, Geometry, HuSource, Mode, Projection, RadiographOptions, nifti, radiograph,
};
use x2ct::data::ct_rate;
use x2ct::ops::drr::Projector;

use crate::Common;
use crate::arguments::sizes;

/// Make a radiograph of a CT volume
#[derive(clap::Args)]
pub struct DrrArgs {
    /// CT volume: .nii or .nii.gz
    file: PathBuf,
    /// Image to write: .png, .safetensors (`image`, f32 [H, W]) or .nii.gz
    #[arg(long)]
    out: PathBuf,
    /// Mean HU as X2CT-CLIP, or the attenuation line integral (dimensionless)
    #[arg(long, value_enum, default_value = "mean-hu")]
    mode: ModeName,
    /// Exact, or samples of the trilinear interpolant (attenuation)
    #[arg(long, value_enum, default_value = "siddon")]
    projector: ProjectorName,
    /// Beam (mean HU is parallel)
    #[arg(long, value_enum, default_value = "parallel")]
    geometry: GeometryName,
    /// Projection; lateral is left lateral, anterior on the image's left
    #[arg(long, value_enum, default_value = "ap")]
    view: ViewName,
    /// Rows x columns [default: 512x512; for mean-hu the 1 mm grid itself]
    #[arg(long, value_name = "HxW", value_parser = sizes::<2>)]
    size: Option<[usize; 2]>,
    /// Detector pixel in mm [default: the volume's extent, magnified onto the detector, over the size]
    #[arg(long, allow_negative_numbers = true, value_name = "MM")]
    pitch: Option<f64>,
    /// Source to detector, cone beam
    #[arg(long, allow_negative_numbers = true, value_name = "MM", default_value_t = 1800.0)]
    sdd: f64,
    /// Source to isocentre (the volume's centre), cone beam
    #[arg(long, allow_negative_numbers = true, value_name = "MM", default_value_t = 1500.0)]
    sod: f64,
    /// Attenuation of water per mm
    #[arg(long, default_value_t = x2ct::ct::radiograph::MU_WATER)]
    mu_water: f64,
    /// Distance of samples, trilinear [default: half the shortest voxel edge]
    #[arg(long, allow_negative_numbers = true, value_name = "MM")]
    step: Option<f64>,
    /// Bits of a PNG sample
    #[arg(long, default_value = "8", value_parser = ["8", "16"])]
    bits: String,
    /// PNG: which end is bright; monochrome2 shows bone white
    #[arg(long, value_enum, default_value = "monochrome2")]
    photometric: PhotometricName,
    /// Where Hounsfield units come from: the file itself, or CT-RATE's metadata table (original release)
    #[arg(long, value_enum, default_value = "header")]
    hu_source: HuSourceName,
    /// The metadata table, for `--hu-source csv`: rescale and spacing of the file of this name
    #[arg(long, value_name = "CSV", required_if_eq("hu_source", "csv"))]
    metadata: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum ModeName {
    MeanHu,
    Attenuation,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum ProjectorName {
    Siddon,
    Trilinear,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum GeometryName {
    Parallel,
    Cone,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum ViewName {
    Ap,
    Pa,
    Lateral,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum PhotometricName {
    Monochrome1,
    Monochrome2,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum HuSourceName {
    Header,
    Csv,
}

pub fn run(args: DrrArgs, common: &Common) -> anyhow::Result<ExitCode> {
    let device = common.device()?;
    let begin = Instant::now();
    let mut volume = nifti::read(&args.file)?;
    if volume.affine_source == AffineSource::Pixdim {
        let path = args.file.display();
        eprintln!("x2ct: warning: {path}: has no orientation; left and right are assumed, not known");
    }
    let hu = hu_source(&args, &mut volume)?;
    let read = begin.elapsed().as_secs_f64();
    let options = RadiographOptions {
        mode: match args.mode {
            ModeName::MeanHu => Mode::MeanHu,
            ModeName::Attenuation => Mode::Attenuation,
        },
        view: match args.view {
            ViewName::Ap => Projection::Ap,
            ViewName::Pa => Projection::Pa,
            ViewName::Lateral => Projection::Lateral,
        },
        geometry: match args.geometry {
            GeometryName::Parallel => Geometry::Parallel,
            GeometryName::Cone => Geometry::Cone { sdd: args.sdd, sod: args.sod },
        },
        projector: match args.projector {
            ProjectorName::Siddon => Projector::Siddon,
            ProjectorName::Trilinear => Projector::Trilinear,
        },
        step: args.step,
        size: args.size,
        pitch: args.pitch,
        mu_water: args.mu_water,
        hu,
        ..RadiographOptions::default()
    };
    let picture = radiograph(&device, &volume, &options)?;
    let project = begin.elapsed().as_secs_f64() - read;
    let pitch = options.resolved_pitch(&volume);
    let png = PngOptions {
        depth: if args.bits == "16" { Depth::Sixteen } else { Depth::Eight },
        photometric: match args.photometric {
            PhotometricName::Monochrome1 => Photometric::Monochrome1,
            PhotometricName::Monochrome2 => Photometric::Monochrome2,
        },
        ..PngOptions::default()
    };
    image::write(&args.out, &picture, &png, pitch)?;
    let seconds = begin.elapsed().as_secs_f64();
    let (low, high) = picture.pixels.iter().fold((f32::INFINITY, f32::NEG_INFINITY), |(a, b), &v| (a.min(v), b.max(v)));
    let value = |name: Option<clap::builder::PossibleValue>| name.map(|n| n.get_name().to_string());
    if common.json {
        let cone = args.geometry == GeometryName::Cone;
        let report = json!({
            "input": args.file, "output": args.out, "device": device.name(),
            "volume": {
                "shape": volume.shape, "spacing_mm": volume.spacing(), "axis_codes": volume.axis_codes().to_string(),
            },
            "mode": value(args.mode.to_possible_value()), "view": value(args.view.to_possible_value()),
            "geometry": value(args.geometry.to_possible_value()),
            "projector": value(args.projector.to_possible_value()).filter(|_| args.mode == ModeName::Attenuation),
            "sdd_mm": cone.then_some(args.sdd), "sod_mm": cone.then_some(args.sod),
            "size": [picture.height, picture.width], "pitch_mm": pitch, "min": low, "max": high,
            "seconds": {"read": read, "project": project, "total": seconds},
        });
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        let unit = if args.mode == ModeName::MeanHu { "HU" } else { "(line integral)" };
        println!(
            "{}: {} x {} pixels of {pitch:.3} mm, {low:.4} to {high:.4} {unit}, {seconds:.2} s on {}",
            args.out.display(),
            picture.height,
            picture.width,
            device.name()
        );
    }
    Ok(ExitCode::SUCCESS)
}

/// What turns stored values into HU; with the metadata table, the volume also takes the table's spacing, since headers of
/// the original release are not reliable.
fn hu_source(args: &DrrArgs, volume: &mut CtVolume) -> anyhow::Result<HuSource> {
    let (HuSourceName::Csv, Some(table)) = (args.hu_source, &args.metadata) else { return Ok(HuSource::AlreadyHu) };
    let name = args.file.file_name().unwrap_or_default().to_string_lossy();
    let row = ct_rate::acquisition_of(table, &name.parse()?)?;
    volume.affine = Affine::from_parts(volume.affine.direction(), row.spacing(), volume.affine.origin())?;
    Ok(HuSource::CsvRescale { slope: row.slope as f32, intercept: row.intercept as f32 })
}
