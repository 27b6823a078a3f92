//! `x2ct eval`: retrieval and zero-shot detection of a trained encoder on a held-out set.

use std::path::PathBuf;
use std::process::ExitCode;

use x2ct::data::cache::EmbeddingCache;
use x2ct::data::ct_rate::{CtRate, HuSource};
use x2ct::data::radiographs::RadiographSet;
use x2ct::eval::scores::{Scores, Targets};
use x2ct::labels;
use x2ct::train::{Checkpoint, Trainer, TrainingSet};
use x2ct::{Error, files};

use crate::Common;
use crate::arguments::split;
use crate::terminal::print_table;

/// Score a trained encoder: retrieval R@1/5/10/50 both ways, zero-shot AUC and AP
#[derive(clap::Args)]
pub struct EvalArgs {
    /// Checkpoint of `x2ct train`
    #[arg(long)]
    checkpoint: PathBuf,
    /// Held-out radiographs (`x2ct drr --dataset`): a file, or shards by their folder or by a quoted name with *
    #[arg(long)]
    radiographs: PathBuf,
    /// The teacher's embeddings of the same volumes
    #[arg(long)]
    cache: PathBuf,
    /// Data set in CT-RATE layout, for the labels
    #[arg(long)]
    dataset: PathBuf,
    /// Which part of it
    #[arg(long, default_value = "valid", value_parser = ["train", "valid"])]
    split: String,
    /// Also write the labels as a comma-separated table: AUC, AP, and rates at one half and at the Youden point
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,
}

pub fn run(args: EvalArgs, common: &Common) -> anyhow::Result<ExitCode> {
    let device = common.device()?;
    let checkpoint: Checkpoint = Checkpoint::read(&args.checkpoint)?;
    let cache = EmbeddingCache::read(&args.cache)?;
    cache.expect_teacher(&checkpoint.sources.teacher).map_err(|e| e.of_file(&args.cache))?;
    let radiographs = RadiographSet::read(&args.radiographs)?;
    let set = TrainingSet::join(&device, &radiographs, &cache).map_err(|e| e.of_file(&args.cache))?;
    let labels = labels_of(&args, &set.ids)?;
    let embeddings = Trainer::resume(&device, &checkpoint)?.embed(&set.images)?;
    let scores = Scores::of(
        &embeddings,
        &Targets {
            ct: &set.ct,
            report: &set.report,
            prompts_positive: &cache.prompts_positive,
            prompts_negative: &cache.prompts_negative,
            labels: &labels,
            dim: set.dim,
        },
    )?;
    if let Some(path) = &args.csv {
        files::write_atomic(path, scores.zero_shot.csv().as_bytes())?;
    }
    if common.json {
        println!("{}", serde_json::to_string_pretty(&scores)?);
    } else {
        print_scores(&scores, &set.teacher);
    }
    Ok(ExitCode::SUCCESS)
}

/// [ids, 18], in the order of `ids`.
fn labels_of(args: &EvalArgs, ids: &[String]) -> x2ct::Result<Vec<bool>> {
    let data = CtRate::read(&args.dataset, split(&args.split), HuSource::AlreadyHu)?;
    let known: std::collections::HashMap<String, &[bool; labels::COUNT]> =
        data.volumes.iter().map(|v| (v.name.to_string(), &v.labels)).collect();
    let mut all = Vec::with_capacity(ids.len() * labels::COUNT);
    for id in ids {
        let row = known.get(id).ok_or_else(|| {
            Error::file(
                &args.dataset,
                format!("has no labels for {id}"),
                "pass the data set and split of the radiographs",
            )
        })?;
        all.extend_from_slice(&row[..]);
    }
    Ok(all)
}

fn print_scores(s: &Scores, teacher: &str) {
    println!("teacher: {teacher}; gallery: {} volumes; chance R@5 {:.4}", s.gallery, s.retrieval.chance_r5);
    let r = &s.retrieval;
    let ways = [
        ("CXR to CT", &r.cxr_to_ct),
        ("CT to CXR", &r.ct_to_cxr),
        ("CXR to report", &r.cxr_to_report),
        ("report to CXR", &r.report_to_cxr),
    ];
    let rows = ways.map(|(name, r)| {
        let shares = [r.r1, r.r5, r.r10, r.r50].map(|v| format!("{v:.4}"));
        std::iter::once(name.to_string()).chain(shares).chain([format!("{:.1}", r.median_rank)]).collect::<Vec<_>>()
    });
    print_table(&["retrieval", "R@1", "R@5", "R@10", "R@50", "median rank"], &rows);
    println!();
    let cell = |v: Option<f64>| v.map_or("not defined".into(), |v| format!("{v:.4}"));
    let z = &s.zero_shot;
    let labels = z.labels.iter().map(|l| vec![l.name.to_string(), l.positives.to_string(), cell(l.auc), cell(l.ap)]);
    let means = [("macro", z.auc_macro, z.ap_macro), ("micro", z.auc_micro, z.ap_micro)];
    let means = means.map(|(name, auc, ap)| vec![name.to_string(), String::new(), cell(auc), cell(ap)]);
    print_table(&["zero-shot", "positives", "AUC", "AP"], &labels.chain(means).collect::<Vec<_>>());
}
