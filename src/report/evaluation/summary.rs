//! What was measured, in words that need no statistics.

use super::super::sheet::missing;
use super::super::text::escape;
use super::detection::Scored;
use super::retrieval::{Recalls, called};
use super::{Material, counted, thousands};
use crate::eval::bootstrap::Interval;
use crate::eval::detection::LabelDetection;
use crate::eval::retrieval::chance;

pub fn body(scored: &[Scored], recalls: &[Recalls], material: &Material) -> String {
    let mut sentences = Vec::new();
    scored.iter().for_each(|of_file| sentences.push(detection(of_file)));
    recalls.iter().for_each(|of_file| sentences.push(retrieval(of_file)));
    for run in &material.runs {
        if let Some(last) = run.of.steps.last() {
            sentences.push(format!(
                "<b>{}</b> was trained for {} and ended at a loss of {:.3}.",
                escape(&run.name),
                counted(last.step, "step", "steps"),
                last.loss
            ));
        }
    }
    if sentences.is_empty() {
        return missing(
            "Nothing was measured yet: add scores (`x2ct eval --scores`), ranks (`x2ct eval retrieval --ranks`) or a training run.",
        );
    }
    let items: String = sentences.into_iter().map(|sentence| format!("<li>{sentence}</li>")).collect();
    format!(
        "<div class=\"summary\"><ul>{items}</ul><p>These are measurements on one set of images, for research: no diagnosis of a patient may \
         rest on them.</p></div>"
    )
}

fn detection(of_file: &Scored) -> String {
    let found = &of_file.detection;
    let (volumes, patients) = (counted(found.samples, "scan", "scans"), counted(found.patients, "patient", "patients"));
    let mut says = format!("<b>{}</b>, {volumes} of {patients}: ", escape(of_file.name));
    match found.summary.auc_macro {
        Some(auc) => {
            let interval = found.intervals.get("auc_macro").copied().flatten();
            let interval = interval.map_or(String::new(), |Interval { low, high, .. }| {
                format!(", likely between {:.0} and {:.0}", 100.0 * low, 100.0 * high)
            });
            says += &format!(
                "of 100 pairs of a scan with a finding and one without, {:.0} are put in the right order{interval} (50 would be a coin's \
                 toss; mean of {}). ",
                100.0 * auc,
                counted(found.labels_defined, "finding", "findings")
            );
        }
        None => says += "no finding is both present and absent, so nothing can be said of the order. ",
    }
    let mut ranked: Vec<(&LabelDetection, f64)> =
        found.labels.iter().filter_map(|label| Some((label, label.auc?))).collect();
    ranked.sort_by(|a, b| b.1.total_cmp(&a.1));
    if let ([(best, most), .., (worst, least)], true) = (&ranked[..], ranked.len() > 1) {
        let (best, worst) = (escape(&best.name), escape(&worst.name));
        says += &format!("Best told apart is {best} ({:.0}), worst {worst} ({:.0}). ", 100.0 * most, 100.0 * least);
    }
    if let (Some(recall), Some(precision)) = (found.summary.recall_micro, found.summary.precision_micro) {
        says += &format!(
            "Taken as present above a probability of one half, {:.0} of 100 findings are found, and {:.0} of 100 alarms are right. ",
            100.0 * recall,
            100.0 * precision
        );
    }
    if let Some(reliability) = &found.calibration {
        says += &format!("Probabilities are off by {:.0} in 100 on average.", 100.0 * reliability.ece);
    }
    says.trim_end().into()
}

fn retrieval(of_file: &Recalls) -> String {
    let (file, size) = (of_file.file, of_file.file.gallery_ids.len());
    format!(
        "<b>{}</b>: asked with a {} among {} {}s, its own is among the first ten in {:.1} of 100 cases ({:.1} by chance); half of them are at \
         rank {} or better.",
        escape(of_file.name),
        called(file.query),
        thousands(size),
        called(file.gallery),
        100.0 * of_file.recall.r10,
        100.0 * chance(10, size),
        thousands(of_file.recall.median_rank.ceil() as usize)
    )
}
