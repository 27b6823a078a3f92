//! A split of a data set, packed for training.

use std::collections::HashMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use serde_json::json;
use x2ct::Error;
use x2ct::ct::image::encode_png;
use x2ct::ct::{Collimation, Radiograph, RadiographOptions};
use x2ct::data::ct_rate::{CtRate, HuSource, Others, VolumeName};
use x2ct::data::ingest::{self, IngestOptions, Pictures};
use x2ct::files;
use x2ct::ops::image::PixelType;
use x2ct::table::{BadRow, first_of};

use super::DrrArgs;
use crate::Common;
use crate::arguments::split;
use crate::inputs::PassedOver;
use crate::output::{Failure, Report, Warning};
use crate::source::HuSourceName;
use crate::terminal::{Progress, stop_flag};

#[derive(clap::Args)]
pub struct DatasetArgs {
    /// Data set in CT-RATE's layout; writes VIEW.safetensors and manifest.csv to --out. --size is then that of the packed
    /// radiographs, 224x224 unless given: the shorter side is resized to fit, the centre kept
    #[arg(long, value_name = "ROOT", requires = "split", conflicts_with = "paths")]
    pub dataset: Option<PathBuf>,
    /// Which part of it
    #[arg(long, value_parser = ["train", "valid"], requires = "dataset")]
    split: Option<String>,
    /// Make the I-th of N parts only, into VIEW-I-of-N.safetensors; other processes or machines may make the others at once
    #[arg(long, value_name = "I/N", value_parser = shard, default_value = "1/1", requires = "dataset")]
    shard: [usize; 2],
    /// Packed pixels: u8 from 0 to 255 as X2CT-CLIP, or bf16 from 0 to 1
    #[arg(long, value_name = "TYPE", value_parser = ["u8", "bf16"], default_value = "u8", requires = "dataset")]
    format: String,
    /// Forget what is in --out, finished or not, and begin anew
    #[arg(long, requires = "dataset")]
    restart: bool,
}

/// Lines about rows of the tables before only their number is told; JSON has them all.
const BAD_ROWS_SHOWN: usize = 5;

/// `I/N`.
fn shard(text: &str) -> Result<[usize; 2], String> {
    let numbers = text.split_once('/').and_then(|(i, n)| Some([i.parse().ok()?, n.parse().ok()?]));
    numbers.filter(|[i, n]| (1..=*n).contains(i)).ok_or_else(|| "give I/N with 1 <= I <= N, such as 3/8".into())
}

pub fn run(args: &DrrArgs, common: &Common) -> anyhow::Result<ExitCode> {
    let (start, projection) = (Instant::now(), &args.projection);
    let (Some(root), Some(part)) = (&args.dataset.dataset, &args.dataset.split) else {
        return Err(Error::argument("--dataset", "no data set and no split", "name both").into());
    };
    let hu_source = match args.source.hu_source {
        HuSourceName::AlreadyHu => HuSource::AlreadyHu,
        HuSourceName::Csv => HuSource::CsvRescale,
    };
    if args.source.metadata.is_some() {
        return Err(Error::argument("--metadata", "a data set has its own table", "leave it out").into());
    }
    if args.pictures.as_deref().is_some_and(|ending| ending != "png") {
        return Err(Error::argument("--pictures", "a data set's are png", "pass png").into());
    }
    let device = common.device()?;
    let data = CtRate::read(root, split(part), hu_source)?;
    let options = super::check(&device, projection)?;
    let mut warnings: Vec<Warning> =
        data.warnings().into_iter().map(|(file, warning)| Warning::new(file, warning)).collect();
    let Others { unlisted, strangers } = data.others();
    if !unlisted.is_empty() {
        let says =
            format!("{} volume(s) without a row in any table, passed over: {}", unlisted.len(), first_of(&unlisted));
        warnings.push(Warning::new(data.folder(), says));
    }
    if !strangers.is_empty() {
        let names: Vec<String> = strangers.iter().map(files::lossy).collect();
        let says =
            format!("{} file(s) whose names or places are no volume's, passed over: {}", names.len(), first_of(&names));
        warnings.push(Warning::new(data.folder(), says));
    }
    let (spare, bad_rows): (Vec<&BadRow>, Vec<&BadRow>) = data.bad_rows.iter().partition(|row| row.spare);
    warnings.extend(spare.iter().map(|row| Warning::new(&row.table, format!("{}: {}", row.place(), row.problem))));
    warnings.iter().for_each(|warning| remark!("{}", warning.line()));
    let passed_over: Vec<PassedOver> = unlisted
        .iter()
        .map(|name| PassedOver {
            file: name.path(root, hu_source).to_string_lossy().into_owned(),
            reason: "no table has a row for it".into(),
        })
        .chain(strangers.iter().map(|file| PassedOver {
            file: files::lossy(file),
            reason: "its name or place is not that of a volume".into(),
        }))
        .collect();
    for bad in bad_rows.iter().take(BAD_ROWS_SHOWN) {
        remark!("x2ct: its volume is left out: {}", bad.error());
    }
    if bad_rows.len() > BAD_ROWS_SHOWN {
        remark!("x2ct: and {} more rows that cannot be used", bad_rows.len() - BAD_ROWS_SHOWN);
    }
    let encode = |made: &Radiograph| encode_png(&made.image, &projection.png(made), &made.description());
    let settings = json!(projection.picture());
    // A stack of one geometry, unless asked for otherwise: the packed pixels' scale does not depend on a patient's outline.
    let collimation = projection.collimation.map_or(Collimation::Volume, |_| options.collimation);
    let options = IngestOptions {
        views: projection.views.clone(),
        projection: RadiographOptions { size: None, collimation, ..options },
        size: projection.size.unwrap_or([224, 224]),
        pixel: if args.dataset.format == "bf16" { PixelType::Bf16 } else { PixelType::U8 },
        shard: args.dataset.shard,
        pictures: args.pictures.as_ref().map(|_| Pictures { settings, encode: &encode }),
        restart: args.dataset.restart,
        force: args.source.force,
    };
    let stop = stop_flag()?;
    let [i, n] = options.shard;
    let total = (data.volumes.len() * i / n - data.volumes.len() * (i - 1) / n) as u64;
    let mut progress = Progress::new("radiographs", "volumes", total);
    let path = |name: &VolumeName| name.path(root, hu_source);
    let mut failures = HashMap::new();
    let made = ingest::ingest(&device, &data, &args.out, &options, &stop, &mut |event| match event {
        ingest::Progress::Resumed(0) => {}
        ingest::Progress::Resumed(done) => {
            progress.say(&format!("{done} of {total} volumes are there already"));
            progress.resume(done as u64);
        }
        ingest::Progress::Done(done) => {
            let left_out = if failures.is_empty() { String::new() } else { format!("{} left out", failures.len()) };
            progress.set(done as u64, &left_out);
        }
        ingest::Progress::Failed(name, error) => {
            failures.insert(name.clone(), Failure::new(path(name), error));
            progress.say(&format!("x2ct: {name} is left out: {error}"));
        }
        ingest::Progress::Doubted(name, doubt) => progress.say(&Warning::new(path(name), doubt).line()),
    })?;
    progress.finish("");
    let failed = &made.failed;
    let failures = failed.iter().filter_map(|(name, _)| failures.remove(name));
    warnings.extend(made.warnings.iter().map(|(name, warning)| Warning::new(path(name), warning.as_str())));
    let forced: Vec<String> = made.forced.iter().map(|name| files::lossy(path(name))).collect();
    let report = Report::new("drr")
        .with_all(json!({
            "out": files::lossy(&args.out), "files": made.files.iter().map(files::lossy).collect::<Vec<_>>(),
            "manifest": files::lossy(&made.manifest), "radiographs": made.made,
            "size": options.size, "pixels": options.pixel,
            "preprocessing_digest": made.preprocessing_digest, "seconds": start.elapsed().as_secs_f64(),
            "forced": forced, "passed_over": passed_over,
        }))?
        .warning(warnings)
        .failing(bad_rows.iter().map(|bad| Failure::from(&bad.error())))
        .failing(failures);
    let code = report.finish(common.json, || {
        for file in &made.files {
            say!("{}: {} radiographs", file.display(), made.made);
        }
        say!("{}: {} of {total} volumes left out", made.manifest.display(), failed.len());
    })?;
    if !failed.is_empty() {
        remark!("run the same command again to try the volumes left out once more");
    }
    Ok(code)
}
