//! `x2ct drr`: radiographs of one CT volume, of many, or of a data set.

mod dataset;
mod many;
mod one;
mod row;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use x2ct::ct::image;
use x2ct::ct::{Affine, AxisCodes, CtVolume, Radiograph, RadiographOptions, Voxels, plausibility, radiographs};
use x2ct::{Device, Error};

use crate::Common;
use crate::arguments::expect_folder;
use crate::dataset::DatasetArgs;
use crate::effect::{self, Rule};
use crate::inputs;
use crate::projection::ProjectionArgs;
use crate::source::SourceArgs;

const EXAMPLES: &str = "Examples:
  x2ct drr chest_ct.nii.gz --out ap.png
  x2ct drr scans/ --out pictures/ --view ap,lateral --mode attenuation
  x2ct drr --dataset CT-RATE --split train --out radiographs/
  x2ct drr --dataset CT-RATE --split train --out radiographs/ --shard 3/8
  x2ct drr --dataset RadChest-CT --split test --out radchest/";

/// Make radiographs of CT: one volume, files and folders of them, or a data set for training
///
/// One volume and --out FILE: one image. Several volumes or folders and --out DIR: a picture of every volume and view, under
/// the volume's own path; files are known by content, and what is passed over is told. A data set (CT-RATE's layout, or
/// RadChest-CT) and --out DIR: every view of a split packed in VIEW.safetensors, which training maps, of a shard in
/// VIEW-I-of-N.safetensors, and a manifest with one row a volume; stopped at any moment, the same command goes on where it was.
/// --size is then that of the packed radiographs, 224x224 unless given: the shorter side is resized to fit, the centre kept. A
/// volume that cannot be used is reported and left out, and the exit code is then 1.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct DrrArgs {
    #[arg(required_unless_present = "dataset", value_name = "PATH", help = inputs::VOLUMES)]
    paths: Vec<PathBuf>,
    /// Of one volume: image to write, .png, .safetensors (`image`, f32 [H, W]) or .nii.gz; else the folder to write to
    #[arg(long, value_name = "FILE|DIR")]
    out: PathBuf,
    /// Of several volumes: what is written of each [default: png]; of a data set: also write a picture of each, png
    #[arg(long, value_name = "ENDING", value_parser = ["png", "safetensors", "nii.gz"])]
    pictures: Option<String>,
    #[command(flatten, next_help_heading = "Data set")]
    dataset: DatasetArgs,
    /// Packed pixels: u8 from 0 to 255 as X2CT-CLIP, or bf16 from 0 to 1
    #[arg(long, value_name = "TYPE", value_parser = ["u8", "bf16"], default_value = "u8", requires = "dataset")]
    format: String,
    #[command(flatten, next_help_heading = "Projection and picture")]
    projection: ProjectionArgs,
    #[command(flatten, next_help_heading = "Hounsfield units")]
    source: SourceArgs,
}

/// What to do about an output that is to be a folder.
const FOLDER: &str = "name a folder, ended in / where it is not there yet";

pub fn run(args: DrrArgs, common: &Common) -> anyhow::Result<ExitCode> {
    let out = args.out.to_string_lossy();
    let is_image = [".png", ".safetensors", ".nii.gz", ".nii"].iter().any(|ending| out.ends_with(ending));
    let into_folder = args.out.is_dir() || out.ends_with('/');
    let alone = match &args.paths[..] {
        [path] => !into_folder && (is_image || !path.is_dir()),
        _ => false,
    };
    effect::check(&rules(&args, alone))?;
    match &args.paths[..] {
        [] => {
            expect_folder(&args.out, "radiographs of a data set are packed in one", FOLDER)?;
            dataset::run(&args, common)
        }
        [path] if alone => one::run(path, &args, common),
        _ if is_image && !into_folder => {
            let problem = "names an image, and there are several volumes";
            Err(Error::argument("--out", problem, FOLDER).into())
        }
        _ => {
            let hint = format!("{FOLDER}, or of one volume a file that ends so");
            expect_folder(&args.out, "images are .png, .safetensors or .nii.gz files", &hint)?;
            many::run(&args, common)
        }
    }
}

/// When options act.
fn rules(args: &DrrArgs, alone: bool) -> Vec<Rule> {
    let dataset = args.dataset.dataset.is_some();
    let png_alone = args.out.extension().is_some_and(|ending| ending == "png");
    let pngs = match (dataset, alone) {
        (true, _) => args.pictures.is_some(),
        (false, true) => png_alone,
        (false, false) => args.pictures.as_deref().is_none_or(|ending| ending == "png"),
    };
    // Windows are recorded in files of every kind, but not in what a data set packs.
    let windowed = !dataset || pngs;
    let mut rules = args.projection.rules(pngs);
    rules.extend(args.dataset.rules());
    rules.extend([
        Rule::new("format", dataset, "--dataset"),
        Rule::new("window", windowed, "pictures (--pictures png)"),
        Rule::new("percentiles", windowed, "pictures (--pictures png)"),
        Rule::new("pictures", !alone, "several volumes, a folder or a data set"),
        Rule::new("rescale", !dataset, "files, while a data set's HU are the files' or the table's (--hu-source)"),
    ]);
    rules
}

/// Writes a radiograph in the format its path ends in.
fn write(path: &Path, made: &Radiograph, args: &ProjectionArgs) -> x2ct::Result<()> {
    image::write(path, &made.image, &args.png(made), made.description())
}

/// What is doubtful of radiographs: pictures without contrast, a source or detector inside the volume.
///
/// # Errors
/// A picture without contrast, unless `force` is set.
fn doubts(volume: &CtVolume, made: &[Radiograph], force: bool) -> x2ct::Result<Vec<String>> {
    let mut doubts = Vec::new();
    for made in made {
        doubts.extend(plausibility::examine_image(&made.image, force)?);
        doubts.extend(plausibility::examine_view(&made.view, volume));
    }
    doubts.dedup();
    Ok(doubts)
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
