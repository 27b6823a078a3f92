//! `x2ct drr`: radiographs of one CT volume, of many, or of a data set.

mod dataset;
mod many;
mod one;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use x2ct::Device;
use x2ct::ct::image;
use x2ct::ct::{Affine, AxisCodes, CtVolume, Radiograph, RadiographOptions, Voxels, radiographs};

use crate::Common;
use crate::projection::ProjectionArgs;
use crate::source;
use dataset::DatasetArgs;

const EXAMPLES: &str = "Examples:
  x2ct drr chest_ct.nii.gz --out ap.png
  x2ct drr scans/ --out pictures/ --view ap,lateral --mode attenuation
  x2ct drr --dataset CT-RATE --split train --out radiographs/
  x2ct drr --dataset CT-RATE --split train --out radiographs/ --shard 3/8";

/// Make radiographs of CT: one volume, files and folders of them, or a data set for training
///
/// One volume and --out FILE: one image. Several volumes or folders and --out DIR: a picture of every volume and view, under
/// the volume's own path. A data set in CT-RATE's layout and --out DIR: every view of a split packed in one file that training
/// maps, and a manifest with one row a volume; stopped at any moment, the same command goes on where it was. A volume that
/// cannot be used is reported and left out, and the exit code is then 1.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct DrrArgs {
    /// CT volumes: .nii, .nii.gz, RadChest-CT's .npz, a folder with a DICOM series; or folders of volumes
    #[arg(required_unless_present = "dataset", value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// Of one volume: image to write, .png, .safetensors (`image`, f32 [H, W]) or .nii.gz; else the folder to write to
    #[arg(long, value_name = "FILE|DIR")]
    out: PathBuf,
    /// Of several volumes: what is written of each [default: png]; of a data set: also write a picture of each, png
    #[arg(long, value_name = "ENDING", value_parser = ["png", "safetensors", "nii.gz"])]
    pictures: Option<String>,
    #[command(flatten, next_help_heading = "Data set")]
    dataset: DatasetArgs,
    #[command(flatten, next_help_heading = "Projection and picture")]
    projection: ProjectionArgs,
}

pub fn run(args: DrrArgs, common: &Common) -> anyhow::Result<ExitCode> {
    let out = args.out.to_string_lossy();
    let is_image = [".png", ".safetensors", ".nii.gz", ".nii"].iter().any(|ending| out.ends_with(ending));
    let into_folder = args.out.is_dir() || out.ends_with('/');
    match &args.paths[..] {
        [] => dataset::run(&args, common),
        [path] if !into_folder && (is_image || !path.is_dir()) => one::run(path, &args, common),
        _ => many::run(&args, common),
    }
}

fn read(path: &Path, device: &Device, args: &ProjectionArgs) -> x2ct::Result<CtVolume> {
    source::read(path, args.hu_source, args.metadata.as_deref(), device)
}

/// Writes a radiograph in the format its path ends in.
fn write(path: &Path, made: &Radiograph, args: &ProjectionArgs) -> x2ct::Result<()> {
    image::write(path, &made.image, &args.png(made), made.description())
}

/// Refuses options that suit no volume before they fail on each of thousands.
fn check(device: &Device, args: &ProjectionArgs) -> anyhow::Result<RadiographOptions> {
    let options = args.options()?;
    let shape = [4, 4, 4];
    let affine = Affine::centred(AxisCodes::LPS, [50.0; 3], shape)?;
    let voxels = (0..64).map(|i| if i % 4 == 0 { -1000 } else { 40 }).collect::<Vec<i16>>();
    radiographs(device, &CtVolume::new(Voxels::from(voxels), shape, affine)?, &args.views, &options)?;
    Ok(options)
}
