//! `x2ct preprocess PATH... --preset NAME --out PATH`: CT volumes as a network's input.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use serde_json::json;
use x2ct::ct::Preset;
use x2ct::data::ingest::{PrepareOptions, prepare};
use x2ct::data::origins::Doubt;
use x2ct::data::volumes::{self, Said, VolumeSet};
use x2ct::tensor::DType;
use x2ct::{Device, Error, Result, files};

use crate::Common;
use crate::arguments::expect_folder;
use crate::dataset::{Dataset, DatasetArgs, tell_failed};
use crate::effect::{self, Rule};
use crate::inputs::{self, Input, Inputs};
use crate::output::{Failure, Report, Warning};
use crate::source::{Opened, SourceArgs};

const EXAMPLES: &str = "Examples:
  x2ct preprocess scans/ --preset ct-clip-v2 --out prepared/
  x2ct preprocess --dataset CT-RATE --split train --preset dcformer --dtype bf16 --out prepared/ --shard 3/8";

/// Prepare CT volumes as a network's input
///
/// Each volume becomes a safetensors file: `volume` [1, Z, X, Y] or [1, Z, Y, X] with the preset, its digest, the geometry it
/// came from and the source of its HU. A volume that cannot be read, or cannot be a chest CT, is reported and left out; the exit
/// code is then 1. Files in folders are known by content, and what is passed over is told. Of a data set (--dataset): a split's
/// volumes, with a manifest of one row a volume; stopped at any moment, the same command goes on where it was.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct PreprocessArgs {
    #[arg(required_unless_present = "dataset", value_name = "PATH", help = inputs::VOLUMES)]
    paths: Vec<PathBuf>,
    /// ct-clip-v2, ct-clip-v1, dcformer (the paper's window), dcformer-code (the code's), or x2ct (HU at 1 mm)
    #[arg(long)]
    preset: String,
    /// Clip after the resize only, as CT-CLIP's training does
    #[arg(long)]
    clip_after: bool,
    /// Storage type
    #[arg(long, default_value = "f32", value_parser = ["f32", "bf16"])]
    dtype: String,
    /// File to write, or a folder: NAME.safetensors for each volume
    #[arg(long, value_name = "FILE|DIR")]
    out: PathBuf,
    /// Then pack all volumes of the folder into one file, for training; none of a volume that failed now
    #[arg(long, value_name = "FILE")]
    pack: Option<PathBuf>,
    #[command(flatten, next_help_heading = "Data set")]
    dataset: DatasetArgs,
    #[command(flatten, next_help_heading = "Hounsfield units")]
    source: SourceArgs,
}

pub fn run(args: PreprocessArgs, common: &Common) -> anyhow::Result<ExitCode> {
    let device = common.device()?;
    let mut preset = Preset::named(&args.preset)?;
    if args.clip_after {
        preset = preset.clip_after();
    }
    let dtype = if args.dtype == "bf16" { DType::Bf16 } else { DType::F32 };
    let mut rules: Vec<Rule> = args.dataset.rules().collect();
    rules.extend([
        Rule::new("pack", args.dataset.shard[1] == 1, "the whole of a data set, not a shard of it"),
        Rule::new(
            "rescale",
            args.dataset.dataset.is_none(),
            "files, while a data set's HU are the files' or the table's",
        ),
    ]);
    effect::check(&rules)?;
    if let Some(dataset) = args.dataset.open(&args.source)? {
        return of_dataset(dataset, (preset, dtype), &args, &device, common);
    }
    let inputs = Inputs::of(&args.paths)?.flat();
    let volumes = || inputs.volumes.iter().map(|input| &input.path);
    effect::check(&[args.source.metadata_rule(volumes())])?;
    args.source.check()?;
    let outputs = outputs(&inputs, &args.out)?;
    files::check_all_apart(outputs.iter().chain(&args.pack), volumes())?;
    if let Some(pack) = &args.pack {
        files::check_writable(pack)?;
        volumes::check_layout(&preset)?;
    }
    inputs.tell(|line| remark!("{line}"));
    let (mut rows, mut warnings, mut forced_in) = (Vec::new(), inputs.warnings.clone(), Vec::new());
    let (mut failed, mut stale) = (inputs.failed.clone(), Vec::new());
    for (input, out) in inputs.volumes.iter().zip(&outputs) {
        let (begin, file) = (Instant::now(), &input.path);
        let done = args.source.open(file, &device).and_then(|opened| {
            let read = begin.elapsed().as_secs_f64();
            opened.warnings.iter().for_each(|warning| remark!("{}", warning.line()));
            let name = file.file_name().unwrap_or_default().to_string_lossy();
            let shape = write(&device, (&preset, dtype), &opened, (&name, &args.source), out)?;
            Ok((shape, read, opened))
        });
        let seconds = begin.elapsed().as_secs_f64();
        match done {
            Ok((shape, read, opened)) => {
                warnings.extend(opened.warnings);
                if opened.forced {
                    forced_in.push(files::lossy(file));
                }
                if !common.json {
                    say!("{}: {shape:?} {}, {seconds:.2} s", out.display(), dtype.name());
                }
                rows.push(json!({
                    "input": files::lossy(file), "output": files::lossy(out), "shape": shape,
                    "seconds": {"read": read, "total": seconds},
                }));
            }
            Err(error) if error.is_of_device() => return Err(error.into()),
            Err(error) => {
                let error = error.of_file(file);
                remark!("x2ct: left out: {error}");
                failed.push(Failure::new(file, &error));
                stale.push(out.clone());
            }
        }
    }
    let packed = pack(&args, &stale, &outputs);
    warnings.extend(packed.warnings);
    failed.extend(packed.failed);
    let packed = packed.volumes;
    warnings.extend(Warning::stale(&stale));
    let report = Report::new("preprocess").with_all(json!({
        "preset": preset.name, "preset_digest": preset.digest(), "dtype": dtype.name(), "device": device.name(),
        "rows": rows, "packed": packed, "forced": forced_in, "passed_over": inputs.passed_over,
    }))?;
    report.warning(warnings).failing(failed).finish(common.json, || {
        if let (Some(path), Some(count)) = (&args.pack, packed) {
            say!("{}: {count} volumes packed", path.display());
        }
    })
}

/// The volumes of a split of a data set.
fn of_dataset(
    dataset: Dataset,
    (preset, dtype): (Preset, DType),
    args: &PreprocessArgs,
    device: &Device,
    common: &Common,
) -> anyhow::Result<ExitCode> {
    let start = Instant::now();
    expect_folder(&args.out, "a data set has many volumes", "name a folder, ended in / where it is not there yet")?;
    if let Some(pack) = &args.pack {
        files::check_writable(pack)?;
        volumes::check_layout(&preset)?;
    }
    let options = PrepareOptions {
        preset,
        dtype,
        shard: args.dataset.shard,
        restart: args.dataset.restart,
        force: args.source.force,
    };
    let total = dataset.volumes();
    let (made, report) = dataset.ingest(("preprocess", "prepared volumes"), &args.out, |data, stop, progress| {
        prepare(device, data, &args.out, &options, stop, progress)
    })?;
    let packed = pack(args, &[], &made.files);
    let report = report.warning(packed.warnings).failing(packed.failed).with_all(json!({
        "preset": options.preset.name, "preset_digest": options.preset.digest(), "dtype": dtype.name(),
        "device": device.name(), "volumes": made.made, "packed": packed.volumes,
        "seconds": start.elapsed().as_secs_f64(),
    }))?;
    let code = report.finish(common.json, || {
        say!("{}: {} prepared volumes, {}", args.out.display(), made.made, dtype.name());
        if let (Some(path), Some(count)) = (&args.pack, packed.volumes) {
            say!("{}: {count} volumes packed", path.display());
        }
    })?;
    tell_failed(&made, total, common.json);
    Ok(code)
}

/// The outcome of packing.
#[derive(Default)]
struct Packed {
    /// How many volumes, where they were packed.
    volumes: Option<usize>,
    warnings: Vec<Warning>,
    failed: Vec<Failure>,
}

/// Packs the volumes of the output folder, where that is asked for, and says what is wrong with them.
fn pack(args: &PreprocessArgs, stale: &[PathBuf], outputs: &[PathBuf]) -> Packed {
    let mut packed = Packed::default();
    let Some(path) = &args.pack else { return packed };
    match pack_others(&args.out, stale, outputs, path) {
        Ok((set, left_out)) => {
            packed.volumes = Some(set.ids().len());
            for Doubt { what, .. } in set.doubts() {
                let warning = Warning::new(path, what);
                remark!("{}", warning.line());
                packed.warnings.push(warning);
            }
            for error in left_out {
                remark!("x2ct: not packed: {error}");
                packed.failed.push(Failure::new(path, &error));
            }
        }
        Err(error) => {
            remark!("x2ct: {error}");
            packed.failed.push(Failure::new(path, &error));
        }
    }
    packed
}

/// Packs the volumes of a folder but for the stale ones, and gives their set. What lies there beside them and is no such volume is left
/// out, for these reasons.
///
/// # Errors
/// One of the `outputs` of this run is of another kind than most, or cannot be read; no volume is left.
fn pack_others(folder: &Path, stale: &[PathBuf], outputs: &[PathBuf], path: &Path) -> Result<(VolumeSet, Vec<Error>)> {
    let (set, left_out) = VolumeSet::read_except(folder, stale)?;
    let mut left_out: Vec<Error> = left_out.into_iter().map(|bad| bad.error).collect();
    let is_output = |error: &Error| error.place().0.is_some_and(|file| outputs.iter().any(|output| output == file));
    if let Some(at) = left_out.iter().position(is_output) {
        return Err(left_out.swap_remove(at));
    }
    set.write(path)?;
    Ok((set, left_out))
}

/// Ending of the names of prepared volumes.
const OWN: &str = ".safetensors";

/// The file of each volume. A folder is made unless `out` is named as a file.
fn outputs(inputs: &Inputs, out: &Path) -> anyhow::Result<Vec<PathBuf>> {
    if !out.is_dir() && is_own(out) {
        let count = inputs.volumes.len();
        if count != 1 {
            let problem = format!("names one file for {count} volumes");
            return Err(Error::argument("--out", problem, "name a folder: what does not end in .safetensors").into());
        }
        files::check_writable(out)?;
        return Ok(vec![out.into()]);
    }
    let hint = "name a file that ends in .safetensors, or a folder, ended in / where it is not there yet";
    expect_folder(out, "prepared volumes are .safetensors files", hint)?;
    files::create_folder(out)?;
    files::remove_all_unfinished(out, OWN)?;
    let file = |input: &Input| {
        let mut name = input.name.clone().into_os_string();
        name.push(OWN);
        out.join(name)
    };
    let outputs: Vec<PathBuf> = inputs.volumes.iter().map(file).collect();
    outputs.iter().try_for_each(files::check_writable)?;
    Ok(outputs)
}

/// Whether a path is named as a prepared volume.
fn is_own(path: &Path) -> bool {
    path.extension().is_some_and(|ending| OWN[1..] == *ending)
}

/// Prepares and writes one volume.
fn write(
    device: &Device,
    (preset, dtype): (&Preset, DType),
    Opened { volume, warnings, forced }: &Opened,
    (name, source): (&str, &SourceArgs),
    out: &Path,
) -> Result<Vec<usize>> {
    let mut hu_source = json!({"from": source.origin()});
    if let Some(rescale) = source.rescale {
        hu_source["rescale"] = json!(rescale);
    }
    let warnings = warnings.iter().map(|warning| warning.warning.as_str()).collect();
    let said = Said { input: name, hu_source, warnings, forced: *forced, run: "" };
    volumes::write_one(device, (preset, dtype), volume, &said, out)
}
