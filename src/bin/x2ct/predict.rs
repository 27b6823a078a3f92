//! `x2ct predict IMAGE...`: what a trained encoder sees in radiographs.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde_json::{Map, Value, json};
use x2ct::ct::image::{self, Stored};
use x2ct::ct::plausibility;
use x2ct::data::cache::EmbeddingCache;
use x2ct::data::ct_rate::{self, CtRate, HuSource, Split};
use x2ct::data::pixels;
use x2ct::data::prompts::PromptSet;
use x2ct::data::provenance::{Provenance, of_reports, short};
use x2ct::eval::calibration_file::CalibrationFile;
use x2ct::eval::{retrieval, zero_shot};
use x2ct::files;
use x2ct::labels;
use x2ct::ops::image::ImageSet;
use x2ct::table::first_of;
use x2ct::train::{Checkpoint, Trainer};
use x2ct::{Device, Error, Result};

use crate::Common;
use crate::arguments::{count, split};
use crate::chain::{Chain, Trust};
use crate::effect::{self, Rule};
use crate::inputs::{Input, Inputs};
use crate::output::{Failure, Report};
use crate::terminal::print_table;

const RADIOGRAPHS: &str = if cfg!(feature = "dicom") {
    "Radiographs, or folders with some, known by content: PNG, JPEG, DICOM (CR, DX), two-dimensional NIfTI, images of `x2ct drr`"
} else {
    "Radiographs, or folders with some, known by content: PNG, JPEG, two-dimensional NIfTI, images of `x2ct drr`; no DICOM in this \
     build"
};

/// Probabilities of the 18 abnormalities, and the nearest reports of the cache
///
/// An image that cannot be read, shows nothing, or says that it was made with other settings than those of the training is
/// reported and left out; the others get their results, and the exit code is then 1.
#[derive(clap::Args)]
pub struct PredictArgs {
    #[arg(required = true, help = RADIOGRAPHS)]
    images: Vec<PathBuf>,
    /// Checkpoint of `x2ct train`
    #[arg(long)]
    checkpoint: PathBuf,
    /// The teacher's embeddings: prompts, and the reports to search
    #[arg(long)]
    cache: PathBuf,
    /// Data set in CT-RATE layout, for the texts of the reports
    #[arg(long)]
    dataset: Option<PathBuf>,
    /// Which part of it
    #[arg(long, default_value = "train", value_parser = ["train", "valid"])]
    split: String,
    /// How many reports to name
    #[arg(long, default_value_t = 3, value_parser = count(1..=1000))]
    nearest: usize,
    /// Probabilities as fitted to held-out scores of this checkpoint (`x2ct eval calibrate`); without it they are not calibrated
    #[arg(long, value_name = "FILE")]
    calibration: Option<PathBuf>,
    #[command(flatten)]
    trust: Trust,
    /// Take images that say they were made with other settings than those of the training, or are no plausible radiographs,
    /// and warn
    #[arg(long)]
    force: bool,
}

pub fn run(args: PredictArgs, common: &Common) -> anyhow::Result<ExitCode> {
    effect::check(&[Rule::new("split", args.dataset.is_some(), "--dataset")])?;
    let device = common.device()?;
    let checkpoint: Checkpoint = Checkpoint::read(&args.checkpoint)?;
    let cache = EmbeddingCache::read(&args.cache)?;
    let (mut chain, of_cache) = (Chain::new(args.trust), cache.provenance());
    chain.settle(&args.cache, checkpoint.sources.expect_alike("cache", &of_cache))?;
    let equal = zero_shot::equal_prompts(&labels::NAMES, &cache.prompts_positive, &cache.prompts_negative, cache.dim);
    if let Some(says) = zero_shot::doubt_of_prompts(&equal) {
        chain.note(&args.cache, &says);
    }
    chain.holds("checkpoint", &checkpoint.digest());
    chain.holds("cache", &of_cache.digest);
    let calibration = calibration(&args, &checkpoint, &cache, &mut chain)?;
    let trainer = Trainer::resume(&device, &checkpoint)?;
    let texts = report_texts(&args, &cache, &mut chain)?;
    let predictor = Predictor {
        args: &args,
        checkpoint: &checkpoint,
        trainer: &trainer,
        cache: &cache,
        texts: &texts,
        calibration: calibration.as_ref(),
    };
    let (mut rows, mut failed) = (Vec::new(), Vec::new());
    let inputs = Inputs::images(&args.images);
    inputs.tell(|line| remark!("{line}"));
    for Input { path, .. } in &inputs.volumes {
        match predictor.predict(&device, path, &mut chain, common.json) {
            Ok(row) => rows.push(row),
            Err(error) if error.is_of_device() || matches!(error, Error::OutOfMemory { .. }) => {
                return Err(error.into());
            }
            Err(error) => {
                let error = error.of_file(path);
                remark!("x2ct: left out: {error}");
                failed.push(Failure::new(path, &error));
            }
        }
    }
    let report = Report::new("predict").with("rows", rows)?.with("passed_over", inputs.passed_over)?;
    let report = report.with("calibration", calibration.as_ref().map(|file| told(&args, file)))?;
    chain.report(report)?.failing(inputs.failed).failing(failed).finish(common.json, || ())
}

/// What all images are predicted with.
struct Predictor<'a> {
    args: &'a PredictArgs,
    checkpoint: &'a Checkpoint,
    trainer: &'a Trainer,
    cache: &'a EmbeddingCache,
    texts: &'a Texts,
    calibration: Option<&'a CalibrationFile>,
}

impl Predictor<'_> {
    /// The row of one image, printed where `quiet` is not set.
    fn predict(&self, device: &Device, path: &Path, chain: &mut Chain, quiet: bool) -> Result<Value> {
        let Predictor { args, checkpoint, trainer, cache, texts, calibration } = self;
        let Stored { image: picture, settings, remarks } = image::read_radiograph(path)?;
        match (checkpoint.sources.expect_picture(&settings), args.force) {
            (Err(error), true) => chain.force(path, &error.to_string()),
            (alike, _) => chain.settle(path, alike)?,
        }
        let doubt = plausibility::examine_picture(&picture, args.force)?;
        remarks.iter().chain(&doubt).for_each(|remark| chain.warn(path, remark));
        // Resized as the radiographs of `x2ct drr --dataset` are.
        let size = [checkpoint.config.data.image_size; 2];
        let bytes = pixels::fit(&pixels::to_bytes(&picture.pixels), [picture.height, picture.width], size);
        let embedding = trainer.embed(&ImageSet::new(device, &bytes, size)?)?;
        let scale = calibration.map_or(1.0, |calibration| calibration.scale);
        let logits = zero_shot::logits(&embedding, &cache.prompts_positive, &cache.prompts_negative, cache.dim, scale)?;
        let probabilities: Vec<f32> = match calibration {
            Some(file) => {
                file.labels.iter().zip(&logits).map(|(label, &logit)| label.probability(logit) as f32).collect()
            }
            None => logits.iter().map(|&logit| zero_shot::probability(logit) as f32).collect(),
        };
        let nearest = retrieval::nearest(&embedding, &cache.report, cache.dim, args.nearest)?;
        if !quiet {
            print_prediction(path, &probabilities, *calibration, &nearest, cache, texts);
        }
        let abnormalities: Map<String, Value> =
            labels::NAMES.iter().zip(&probabilities).map(|(n, p)| (n.to_string(), json!(p))).collect();
        let reports: Vec<_> = nearest
            .iter()
            .map(|&(row, cosine)| json!({"id": cache.ids[row], "cosine": cosine, "text": texts.get(&cache.ids[row])}))
            .collect();
        Ok(json!({
            "image": files::lossy(path), "teacher": cache.teacher, "probabilities": abnormalities,
            "calibrated": calibration.is_some_and(|file| file.uncalibrated().next().is_none()), "reports": reports,
        }))
    }
}

/// The calibration that is named, if it is of this checkpoint and of the prompts of this cache. Labels without a map are told.
fn calibration(
    args: &PredictArgs,
    checkpoint: &Checkpoint,
    cache: &EmbeddingCache,
    chain: &mut Chain,
) -> x2ct::Result<Option<CalibrationFile>> {
    let Some(path) = &args.calibration else { return Ok(None) };
    let file = CalibrationFile::read(path)?;
    let prompts = PromptSet::of_cache(cache).digest();
    file.expect(&checkpoint.digest(), &prompts, &labels::NAMES).map_err(|e| e.of_file(path))?;
    for (name, why) in file.uncalibrated() {
        chain.note(path, &format!("{name} is not calibrated: {why}"));
    }
    Ok(Some(file))
}

/// What a report says of the calibration; `null` stands for none.
fn told(args: &PredictArgs, file: &CalibrationFile) -> Value {
    let uncalibrated: Vec<&str> = file.uncalibrated().map(|(name, _)| name).collect();
    json!({
        "file": args.calibration.as_deref().map(files::lossy), "method": file.method, "samples": file.samples,
        "uncalibrated": uncalibrated,
    })
}

type Texts = std::collections::HashMap<String, String>;

/// The texts of the reports by id, where a data set is named; those of the cache that it lacks are a doubt.
fn report_texts(args: &PredictArgs, cache: &EmbeddingCache, chain: &mut Chain) -> x2ct::Result<Texts> {
    let Some(root) = &args.dataset else { return Ok(Texts::new()) };
    let (table, reports) = ct_rate::reports_of(root, split(&args.split))?;
    chain.leave_out(&reports.bad)?;
    let texts: Texts = reports.rows.iter().map(|(name, report)| (name.to_string(), report.text())).collect();
    let lacking: Vec<&String> = cache.ids.iter().filter(|id| !texts.contains_key(*id)).collect();
    if !lacking.is_empty() {
        let (count, first) = (lacking.len(), first_of(&lacking));
        let says = format!("has no row for {count} volume(s) of {}: {first}", args.cache.display());
        chain.doubt(&table, &says, "pass the data set and split of the cache")?;
    }
    if let Some(of_cache) = cache.provenance().reports()
        && !is_of(of_cache, cache, &texts, root, split(&args.split))
    {
        let says = format!(
            "its reports are not those that {} was made of (digest {})",
            args.cache.display(),
            short(&of_cache.digest)
        );
        chain.doubt(&table, &says, "pass the data set and split of the cache, as they were")?;
    }
    Ok(texts)
}

/// Whether reports are those that a cache was made of: in the order of its ids, or in the data set's.
fn is_of(recorded: &Provenance, cache: &EmbeddingCache, texts: &Texts, root: &Path, split: Split) -> bool {
    let by_cache: Option<Vec<_>> = cache.ids.iter().map(|id| Some((id, texts.get(id)?))).collect();
    let of_data = || {
        let data = CtRate::read(root, split, HuSource::AlreadyHu).ok()?;
        Some(of_reports(data.volumes.iter().map(|volume| (volume.name.to_string(), volume.report.text()))))
    };
    by_cache.is_some_and(|reports| of_reports(reports).digest == recorded.digest)
        || of_data().is_some_and(|reports| reports.digest == recorded.digest)
}

fn print_prediction(
    path: &Path,
    probabilities: &[f32],
    calibration: Option<&CalibrationFile>,
    nearest: &[(usize, f32)],
    cache: &EmbeddingCache,
    texts: &Texts,
) {
    say!("{} (teacher: {})", path.display(), cache.teacher);
    let mut order: Vec<usize> = (0..labels::COUNT).collect();
    order.sort_by(|&a, &b| probabilities[b].total_cmp(&probabilities[a]));
    let mark = |i: usize| match calibration.is_some_and(|file| file.labels[i].scaling.is_none()) {
        true => " (not calibrated)",
        false => "",
    };
    let rows = order.iter().map(|&i| vec![labels::NAMES[i].to_string(), format!("{:.3}{}", probabilities[i], mark(i))]);
    let header = if calibration.is_some() { "calibrated probability" } else { "probability, not calibrated" };
    print_table(&["abnormality", header], &rows.collect::<Vec<_>>());
    for &(row, cosine) in nearest {
        let id = &cache.ids[row];
        let without = if texts.is_empty() { "pass --dataset to see its text" } else { "the table has no text of it" };
        say!("report {id} (cosine {cosine:.3}): {}", texts.get(id).map_or(without, String::as_str));
    }
    say!("");
}
