//! Multi-label metrics: area under the ROC curve, average precision, and the metrics of thresholded predictions.
//!
//! Ties are treated as scikit-learn treats them: tied scores enter together, so no metric depends on the order of
//! samples. Micro pools all sample-label cells into one binary problem (the averaging of the X2CT-CLIP evaluation
//! code); macro is the mean over labels. A label with one class only has no defined AUC: it is `None`, left out of the
//! macro mean, and [`Averaged::defined`] says how many labels went in.

use super::check_labelled;
use crate::error::{Error, Result};
use serde::Serialize;

/// One metric per label and averaged.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Averaged {
    /// One value per label, `None` where the label has one class only.
    pub per_label: Vec<Option<f64>>,
    /// All cells pooled, `None` where all cells have one class.
    pub micro: Option<f64>,
    /// Mean over the defined labels, `None` where there are none.
    #[serde(rename = "macro")]
    pub macro_mean: Option<f64>,
    /// How many labels the macro mean is over.
    pub defined: usize,
}

/// Metrics of predictions cut at one half; a ratio with an empty denominator is `None`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Thresholded {
    /// F1 per label, weighted by the label's number of positives.
    pub f1_weighted: Option<f64>,
    /// Share of right cells among all samples x labels.
    pub accuracy: f64,
    /// TP / (TP + FP) over all cells.
    pub precision_micro: Option<f64>,
    /// TP / (TP + FN) over all cells.
    pub recall_micro: Option<f64>,
}

/// Labels and scores of `samples x classes` cells, row-major, checked once.
#[derive(Clone, Copy, Debug)]
pub struct MultiLabel<'a> {
    labels: &'a [bool],
    scores: &'a [f32],
    classes: usize,
}

impl<'a> MultiLabel<'a> {
    /// Errors: empty input, lengths that differ or are no multiple of `classes`, a score that is not finite.
    pub fn new(labels: &'a [bool], scores: &'a [f32], classes: usize) -> Result<Self> {
        check_labelled(labels, scores, classes)?;
        Ok(MultiLabel { labels, scores, classes })
    }

    /// Area under the ROC curve, ties counting one half.
    pub fn roc_auc(&self) -> Averaged {
        self.averaged(|groups| groups.roc_auc())
    }

    /// Average precision, `sum over n of (R_n - R_(n-1)) P_n`, without interpolation.
    pub fn average_precision(&self) -> Averaged {
        self.averaged(|groups| groups.average_precision())
    }

    /// Metrics of `rint(p)`, so that 0.5 predicts absence (DCFormer's evaluation). Errors: a score outside 0..=1.
    pub fn thresholded(&self) -> Result<Thresholded> {
        if let Some(i) = self.scores.iter().position(|p| !(0.0..=1.0).contains(p)) {
            return Err(Error::argument(
                "probabilities",
                format!("row {}, column {} is {}", i / self.classes, i % self.classes, self.scores[i]),
                "pass probabilities between 0 and 1",
            ));
        }
        let mut counts = vec![Counts::default(); self.classes];
        for (i, (&truth, p)) in self.labels.iter().zip(self.scores).enumerate() {
            let c = &mut counts[i % self.classes];
            match (truth, p.round_ties_even() == 1.0) {
                (true, true) => c.hit += 1,
                (true, false) => c.miss += 1,
                (false, true) => c.false_alarm += 1,
                (false, false) => {}
            }
        }
        let f1 = |c: &Counts| ratio(2 * c.hit, 2 * c.hit + c.miss + c.false_alarm).unwrap_or(0.0);
        let total = counts.iter().fold(Counts::default(), |a, c| Counts {
            hit: a.hit + c.hit,
            miss: a.miss + c.miss,
            false_alarm: a.false_alarm + c.false_alarm,
        });
        let support = total.hit + total.miss;
        let weighted: f64 = counts.iter().map(|c| (c.hit + c.miss) as f64 * f1(c)).sum();
        Ok(Thresholded {
            f1_weighted: (support > 0).then(|| weighted / support as f64),
            accuracy: 1.0 - (total.miss + total.false_alarm) as f64 / self.labels.len() as f64,
            precision_micro: ratio(total.hit, total.hit + total.false_alarm),
            recall_micro: ratio(total.hit, support),
        })
    }

    fn averaged(&self, metric: impl Fn(&TiedGroups) -> Option<f64>) -> Averaged {
        let per_label: Vec<Option<f64>> = (0..self.classes)
            .map(|c| {
                let labels: Vec<bool> = self.labels.iter().skip(c).step_by(self.classes).copied().collect();
                let scores: Vec<f32> = self.scores.iter().skip(c).step_by(self.classes).copied().collect();
                metric(&TiedGroups::new(&labels, &scores))
            })
            .collect();
        let values: Vec<f64> = per_label.iter().flatten().copied().collect();
        Averaged {
            micro: metric(&TiedGroups::new(self.labels, self.scores)),
            macro_mean: (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64),
            defined: values.len(),
            per_label,
        }
    }
}

/// Area under the ROC curve of one binary problem; `None` where only one class is present. Errors: as
/// [`MultiLabel::new`].
pub fn roc_auc(labels: &[bool], scores: &[f32]) -> Result<Option<f64>> {
    check_labelled(labels, scores, 1)?;
    Ok(TiedGroups::new(labels, scores).roc_auc())
}

/// Average precision of one binary problem; `None` where only one class is present. Errors: as [`MultiLabel::new`].
pub fn average_precision(labels: &[bool], scores: &[f32]) -> Result<Option<f64>> {
    check_labelled(labels, scores, 1)?;
    Ok(TiedGroups::new(labels, scores).average_precision())
}

/// The ROC curve as (false positive rate, true positive rate) from (0, 0) to (1, 1), one point per distinct score;
/// `None` where only one class is present. Errors: as [`MultiLabel::new`].
pub fn roc_curve(labels: &[bool], scores: &[f32]) -> Result<Option<Vec<(f64, f64)>>> {
    check_labelled(labels, scores, 1)?;
    let groups = TiedGroups::new(labels, scores);
    if !groups.both_classes() {
        return Ok(None);
    }
    let (mut positives, mut negatives) = (0, 0);
    let mut curve = vec![(0.0, 0.0)];
    for &(p, n) in &groups.counts {
        positives += p;
        negatives += n;
        curve.push((negatives as f64 / groups.negatives as f64, positives as f64 / groups.positives as f64));
    }
    Ok(Some(curve))
}

/// One binary problem reduced to what every rank metric needs: positives and negatives at each distinct score, highest
/// first.
struct TiedGroups {
    counts: Vec<(u64, u64)>,
    positives: u64,
    negatives: u64,
}

impl TiedGroups {
    fn new(labels: &[bool], scores: &[f32]) -> Self {
        let mut order: Vec<usize> = (0..scores.len()).collect();
        // Scores are finite; partial_cmp, not total_cmp, because 0.0 and -0.0 are a tie.
        order.sort_unstable_by(|&a, &b| scores[b].partial_cmp(&scores[a]).unwrap_or(std::cmp::Ordering::Equal));
        let counts: Vec<(u64, u64)> = order
            .chunk_by(|&a, &b| scores[a] == scores[b])
            .map(|tied| {
                let positives = tied.iter().filter(|&&i| labels[i]).count();
                (positives as u64, (tied.len() - positives) as u64)
            })
            .collect();
        let positives = counts.iter().map(|c| c.0).sum();
        let negatives = counts.iter().map(|c| c.1).sum();
        TiedGroups { counts, positives, negatives }
    }

    fn both_classes(&self) -> bool {
        self.positives > 0 && self.negatives > 0
    }

    /// The mid-rank statistic in integers: twice the number of (positive, negative) pairs in the right order, ties one
    /// half.
    fn roc_auc(&self) -> Option<f64> {
        let mut above = 0;
        let mut twice = 0;
        for &(positives, negatives) in &self.counts {
            twice += negatives * (2 * above + positives);
            above += positives;
        }
        self.both_classes().then(|| twice as f64 / (2 * self.positives * self.negatives) as f64)
    }

    fn average_precision(&self) -> Option<f64> {
        let (mut hits, mut seen) = (0, 0);
        let mut sum = 0.0;
        for &(positives, negatives) in &self.counts {
            hits += positives;
            seen += positives + negatives;
            sum += positives as f64 * hits as f64 / seen as f64;
        }
        self.both_classes().then(|| sum / self.positives as f64)
    }
}

#[derive(Clone, Copy, Default)]
struct Counts {
    hit: u64,
    miss: u64,
    false_alarm: u64,
}

fn ratio(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}
