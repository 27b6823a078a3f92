//! `x2ct drr FILE --out FILE`: a radiograph of one CT volume.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use clap::ValueEnum;
use serde_json::json;
use x2ct::ct::image::{self, PngOptions};
use x2ct::ct::physics::padding_voxels;
use x2ct::ct::{Mode, RadiographOptions, radiograph};

use crate::Common;
use crate::projection::{GeometryName, ProjectionArgs};
use crate::source;

/// Make a radiograph of a CT volume
#[derive(clap::Args)]
pub struct DrrArgs {
    /// CT volume: .nii, .nii.gz, RadChest-CT .npz (with its metadata table), or a folder with a DICOM series
    file: PathBuf,
    /// Image to write: .png, .safetensors (`image`, f32 [H, W]) or .nii.gz
    #[arg(long)]
    out: PathBuf,
    #[command(flatten)]
    projection: ProjectionArgs,
}

pub fn run(args: DrrArgs, common: &Common) -> anyhow::Result<ExitCode> {
    let device = common.device()?;
    let begin = Instant::now();
    let (volume, hu) =
        source::open(&args.file, args.projection.hu_source, args.projection.metadata.as_deref(), &device)?;
    let read = begin.elapsed().as_secs_f64();
    let options = RadiographOptions { hu, ..args.projection.options()? };
    let picture = radiograph(&device, &volume, &options)?;
    let project = begin.elapsed().as_secs_f64() - read;
    let description = options.describe(&volume);
    let letters = options.letters(&volume).filter(|_| !args.projection.no_letters);
    image::write(&args.out, &picture, &PngOptions { letters, ..args.projection.png() }, description.clone())?;
    let pitch = description.pitch;
    let seconds = begin.elapsed().as_secs_f64();
    let (low, high) = picture.limits();
    let value = |name: Option<clap::builder::PossibleValue>| name.map(|n| n.get_name().to_string());
    if common.json {
        let cone = args.projection.geometry == GeometryName::Cone;
        let report = json!({
            "input": args.file, "output": args.out, "device": device.name(),
            "volume": {
                "shape": volume.shape, "spacing_mm": volume.spacing(), "axis_codes": volume.axis_codes().to_string(),
            },
            "mode": options.mode, "view": options.view, "geometry": value(args.projection.geometry.to_possible_value()),
            "projector": value(args.projection.projector.to_possible_value()).filter(|_| options.mode != Mode::MeanHu),
            "sdd_mm": cone.then_some(args.projection.sdd), "sod_mm": cone.then_some(args.projection.sod),
            "size": [picture.height, picture.width], "pitch_mm": pitch, "min": low, "max": high,
            "settings": description.entries, "padding_voxels": padding_voxels(&volume, hu), "letters": letters.is_some(),
            "seconds": {"read": read, "project": project, "total": seconds},
        });
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        println!(
            "{}: {} x {} pixels of {pitch:.3} mm, {low:.4} to {high:.4} {}, {seconds:.2} s on {}",
            args.out.display(),
            picture.height,
            picture.width,
            options.mode.unit(),
            device.name()
        );
    }
    Ok(ExitCode::SUCCESS)
}
