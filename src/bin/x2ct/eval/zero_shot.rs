//! `x2ct eval zero-shot`: detection of any labels by the prompts that name them.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde_json::json;
use x2ct::Error;
use x2ct::data::features::{FeatureSet, Tower};
use x2ct::data::label_map::LabelMap;
use x2ct::data::prompts::PromptSet;
use x2ct::data::provenance::{Provenance, fields};
use x2ct::eval::detection::{Detection, Problem};
use x2ct::eval::score_file::ScoreFile;
use x2ct::eval::zero_shot;
use x2ct::files;
use x2ct::table::first_of;

use super::labelled::Labelled;
use super::scores;
use crate::Common;
use crate::arguments::{named, within};
use crate::chain::Chain;
use crate::label_table;
use crate::metrics::{self, Options};
use crate::output::Report;
use crate::teacher::expect_teacher_of_prompts;

/// Zero-shot detection of any labels: which of a label's two prompts an image is nearer to
///
/// The probability is a softmax over the two cosines, times --scale; it is cut at one half, which itself is absence. Labels are
/// joined by name and images by id, in whatever order the table has them. An image without a usable row of labels is left out and
/// named; the exit code is then 1. Intervals are drawn by patient.
#[derive(clap::Args)]
pub struct ZeroShotArgs {
    /// Features of images (`x2ct embed`), or an embedding cache, whose CTs or reports are then the images
    #[arg(long, value_name = "FILE")]
    features: PathBuf,
    /// Which embeddings of a cache [default: ct]
    #[arg(long, value_parser = named::<Tower>(Tower::NAMES))]
    tower: Option<Tower>,
    /// Embeddings of the prompts (`x2ct cache prompts`), or the teacher's embedding cache for the 18 labels of CT-RATE
    #[arg(long, value_name = "FILE")]
    prompts: PathBuf,
    /// Table of labels: the first column is the id, the header names the labels; or RadChest-CT's
    #[arg(long, value_name = "TABLE")]
    labels: PathBuf,
    /// The table has another data set's labels, for which those of the prompts stand by a map: radchest, mimic, or a TOML file;
    /// the largest score of those that stand for one is its own
    #[arg(long, value_name = "MAP")]
    map: Option<PathBuf>,
    /// Cosines are multiplied by it: 1 compares with X2CT-CLIP, 2.718 with DCFormer; it changes probabilities and no decision
    #[arg(long, default_value_t = 1.0, allow_negative_numbers = true, value_parser = within(1e-3, 1e6))]
    scale: f64,
    /// Also write the scores of every image: NAME.safetensors (logits, labels, digests), which `x2ct eval calibrate` and `x2ct eval
    /// compare` read, and NAME.csv (probabilities), which `x2ct metrics` reads
    #[arg(long, value_name = "NAME")]
    scores: Option<PathBuf>,
    #[command(flatten)]
    options: Options,
}

pub fn run(args: ZeroShotArgs, common: &Common) -> anyhow::Result<ExitCode> {
    common.expect_device()?;
    let bootstrap = args.options.bootstrap()?;
    let outputs: Vec<PathBuf> = args.scores.as_deref().map(scores::files).into_iter().flatten().collect();
    outputs.iter().try_for_each(files::check_writable)?;
    let map_file = args.map.clone().filter(|map| map.exists());
    let inputs = [&args.features, &args.prompts, &args.labels].into_iter().cloned().chain(map_file);
    files::check_all_apart(&outputs, inputs)?;

    let mut chain = Chain::new(args.options.trust);
    let map = args.map.as_deref().map(LabelMap::open).transpose()?;
    let prompts = PromptSet::open(&args.prompts)?;
    let of_prompts = prompts.provenance();
    chain.settle(&args.prompts, Ok(of_prompts.undecided("prompts")))?;
    let labelled = read_images(&args, &prompts, map.as_ref(), &mut chain)?;
    chain.holds("prompts", &of_prompts.digest);
    let names: Vec<&str> = prompts.names.iter().map(String::as_str).collect();
    let equal = zero_shot::equal_prompts(&names, &prompts.positive, &prompts.negative, prompts.dim);
    if let Some(says) = zero_shot::doubt_of_prompts(&equal) {
        chain.note(&args.prompts, &says);
    }

    let images = labelled.features.normalised().map_err(|e| e.of_file(&args.features))?;
    let logits = zero_shot::logits(&images, &prompts.positive, &prompts.negative, prompts.dim, args.scale)?;
    let logits = match &map {
        Some(map) => map.merge_rows(&prompts.names, &logits),
        None => logits,
    };
    let probabilities: Vec<f64> = logits.iter().map(|&logit| zero_shot::probability(logit)).collect();
    let Labelled { features, patients, names, labels } = labelled;
    let problem = Problem {
        names: &names,
        patients: &patients,
        labels: &labels,
        scores: &logits,
        probabilities: Some(&probabilities),
    };
    let found = Detection::of(&problem, bootstrap.as_ref())?;
    if let Some(name) = &args.scores {
        let settings = fields(json!({
            "protocol": "zero-shot", "scale": args.scale, "prompts": of_prompts.digest, "map": map.as_ref().map(|m| &m.dataset),
        }));
        let made = chain.provenance(settings);
        scores::write(name, &ScoreFile { ids: features.ids.clone(), names, logits, labels, made })?;
    }
    let report = Report::new("eval").with_all(&found)?.with_all(json!({
        "encoder": features.encoder, "teacher": prompts.teacher, "scale": args.scale, "equal_prompts": equal,
    }))?;
    chain.report(report)?.finish(common.json, || {
        say!("{}; prompts of {}; scale {}", features.encoder, prompts.teacher, args.scale);
        metrics::print(&[args.features.as_path()], std::slice::from_ref(&found), &[]);
    })
}

/// The images that have labels, in the order of the prompts or of the map.
fn read_images(
    args: &ZeroShotArgs,
    prompts: &PromptSet,
    map: Option<&LabelMap>,
    chain: &mut Chain,
) -> anyhow::Result<Labelled> {
    if let Some(map) = map {
        let sources = map.sources();
        let missing: Vec<&String> = sources.iter().filter(|source| !prompts.names.contains(source)).collect();
        if !missing.is_empty() {
            let problem = format!("has no prompts of labels that the map names: {}", first_of(missing));
            return Err(Error::file(&args.prompts, problem, "make prompts of them, or pass another map").into());
        }
    }
    let wanted = map.map_or_else(|| prompts.names.clone(), LabelMap::names);
    let labels = label_table::read(&args.labels, Some(&wanted), chain)?;
    let tower = tower(&args.features, args.tower)?;
    let labelled = Labelled::read("features", (&args.features, tower), (&args.labels, labels), chain)?;
    expect_teacher_of_prompts((&args.features, &labelled.features), (&args.prompts, prompts), chain)?;
    hold_checkpoint(&labelled.features, chain);
    Ok(labelled)
}

/// The tower that is asked for; features of one image have none.
fn tower(file: &Path, tower: Option<Tower>) -> anyhow::Result<Tower> {
    if tower.is_some() && !FeatureSet::has_towers(file)? {
        return Err(crate::output::usage(
            "`--tower` has no effect here: it acts with --features that are an embedding cache",
        ));
    }
    Ok(tower.unwrap_or_default())
}

/// The checkpoint of the features' encoder, where they know it: what a calibration is of.
fn hold_checkpoint(features: &FeatureSet, chain: &mut Chain) {
    let made: &Provenance = &features.made;
    if let Some(checkpoint) = made.from.get("checkpoint").filter(|checkpoint| !checkpoint.digest.is_empty()) {
        chain.holds("checkpoint", &checkpoint.digest);
    }
}
