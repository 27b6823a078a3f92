//! `x2ct eval calibrate SCORES`: maps from logits to probabilities, which `x2ct predict` applies.

use std::path::PathBuf;
use std::process::ExitCode;

use serde_json::json;
use x2ct::eval::calibration::{Method, Reliability, reliability};
use x2ct::eval::calibration_file::CalibrationFile;
use x2ct::eval::score_file::ScoreFile;
use x2ct::files;

use crate::Common;
use crate::arguments::named;
use crate::chain::{Chain, Trust};
use crate::output::Report;
use crate::terminal::print_table;

/// Bins of the reliability that is told.
const BINS: usize = 10;

/// Fit probabilities to held-out scores, label by label, for `x2ct predict --calibration`
///
/// Take scores of volumes that nothing was trained or chosen on. A label that cannot be fitted (of one class only, with a
/// best slope that is not positive, or parted without an error) keeps its probabilities as they are and is named. The calibration
/// errors told are of these same scores; what the maps are worth shows on others.
#[derive(clap::Args)]
pub struct CalibrateArgs {
    /// Scores of a radiograph encoder (`x2ct eval --scores`, `x2ct eval zero-shot --scores`): NAME.safetensors
    scores: PathBuf,
    /// temperature: one factor a label, which changes no decision at one half; platt: a factor and an offset
    #[arg(long, default_value = "platt", value_parser = named::<Method>(Method::NAMES))]
    method: Method,
    /// The file to write (.json)
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    #[command(flatten)]
    trust: Trust,
}

pub fn run(args: CalibrateArgs, common: &Common) -> anyhow::Result<ExitCode> {
    common.expect_device()?;
    files::check_writable(&args.out)?;
    files::check_apart(&args.out, [&args.scores])?;
    let mut chain = Chain::new(args.trust);
    let scores = ScoreFile::read(&args.scores)?;
    let made = scores.provenance();
    chain.settle(&args.scores, Ok(made.undecided("scores")))?;
    chain.holds("scores", &made.digest);
    let calibration = CalibrationFile::fit(&scores, args.method).map_err(|e| e.of_file(&args.scores))?;
    for (name, why) in calibration.uncalibrated() {
        chain.note(&args.scores, &format!("{name} stays uncalibrated: {why}"));
    }
    calibration.write(&args.out)?;
    chain.holds("checkpoint", &calibration.checkpoint);
    chain.holds("prompts", &calibration.prompts);
    let fitted: Vec<f64> = scores
        .logits
        .chunks_exact(scores.names.len())
        .flat_map(|row| row.iter().zip(&calibration.labels).map(|(&logit, label)| label.probability(logit)))
        .collect();
    let before = reliability(&scores.labels, &scores.probabilities(), BINS)?;
    let after = reliability(&scores.labels, &fitted, BINS)?;
    let report = Report::new("eval").with_all(json!({
        "calibration": files::lossy(&args.out), "method": args.method, "samples": calibration.samples, "scale": calibration.scale,
        "rows": calibration.labels, "before": before, "after": after,
    }))?;
    chain.report(report)?.finish(common.json, || print(&args, &calibration, [&before, &after]))
}

fn print(args: &CalibrateArgs, calibration: &CalibrationFile, [before, after]: [&Reliability; 2]) {
    let rows = calibration.labels.iter().map(|label| {
        let numbers = label.scaling.map_or(["uncalibrated".into(), String::new()], |scaling| {
            [scaling.slope, scaling.intercept].map(|v| format!("{v:.4}"))
        });
        std::iter::once(label.name.clone()).chain(numbers).collect::<Vec<_>>()
    });
    print_table(&["label", "slope", "intercept"], &rows.collect::<Vec<_>>());
    say!("");
    say!(
        "calibration error on these {} samples: {:.4} before, {:.4} after",
        calibration.samples,
        before.ece,
        after.ece
    );
    say!("{}", args.out.display());
}
