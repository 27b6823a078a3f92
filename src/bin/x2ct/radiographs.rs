//! `x2ct radiographs`: a CT data set's radiographs, in one file that training maps.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use serde_json::json;
use x2ct::data::ct_rate::{CtRate, HuSource};
use x2ct::data::ingest;
use x2ct::files;

use crate::Common;
use crate::arguments::{sizes, split};
use crate::terminal::{Progress, stop_flag};

/// Make the radiographs of a data set in CT-RATE layout
///
/// Of every CT volume of a split: the anteroposterior mean of HU on a 1 mm grid, stretched to 8 bits, resized (the shorter
/// side fits, the centre is kept). A volume that cannot be read is reported and left out; the exit code is then 1.
#[derive(clap::Args)]
pub struct RadiographsArgs {
    /// Data set in CT-RATE layout
    #[arg(long, value_name = "ROOT")]
    dataset: PathBuf,
    /// Which part of it
    #[arg(long, value_parser = ["train", "valid"])]
    split: String,
    /// What turns stored values into HU: nothing (the corrected release, ROOT/dataset/SPLIT_fixed), or slope and intercept of
    /// the metadata table (the original one, ROOT/dataset/SPLIT)
    #[arg(long, default_value = "already-hu", value_parser = ["already-hu", "csv"])]
    hu_source: String,
    /// Height and width
    #[arg(long, value_name = "HxW", default_value = "224x224", value_parser = sizes::<2>)]
    size: [usize; 2],
    /// File to write
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

pub fn run(args: RadiographsArgs, common: &Common) -> anyhow::Result<ExitCode> {
    let start = Instant::now();
    let device = common.device()?;
    let hu_source = if args.hu_source == "csv" { HuSource::CsvRescale } else { HuSource::AlreadyHu };
    let data = CtRate::read(&args.dataset, split(&args.split), hu_source)?;
    // Before hours of work rather than after.
    files::check_writable(&args.out)?;
    if !data.skipped.is_empty() {
        eprintln!("{} volume(s) without a report or labels are left out", data.skipped.len());
    }
    let stop = stop_flag()?;
    let total = data.volumes.len();
    let mut progress = Progress::new("radiographs", "volumes", total as u64);
    let made = ingest::radiographs(&device, &data, args.size, &stop, &mut |done, failure| {
        if let Some((name, error)) = failure {
            progress.say(&format!("x2ct: {name} is left out: {error}"));
        }
        progress.set(done as u64, "");
    })?;
    progress.finish("");
    made.radiographs.write(&args.out)?;
    let (written, failed) = (made.radiographs.ids().len(), &made.failed);
    if common.json {
        let failed: Vec<_> = failed.iter().map(|(n, e)| json!({"id": n.to_string(), "error": e.to_string()})).collect();
        let report = json!({
            "out": args.out, "radiographs": written, "size": args.size, "failed": failed,
            "preprocessing_digest": made.radiographs.preprocessing_digest(), "seconds": start.elapsed().as_secs_f64(),
        });
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        println!("{}: {written} radiographs, {} of {total} volumes left out", args.out.display(), failed.len());
    }
    Ok(ExitCode::from(u8::from(!failed.is_empty())))
}
