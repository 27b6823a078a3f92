//! Multi-label metrics: area under the ROC curve, average precision, and the metrics of thresholded predictions.
//!
//! Ties are treated as scikit-learn treats them: tied scores enter together, so no metric depends on the order of
//! samples. Micro pools all sample-label cells into one binary problem (the averaging of the X2CT-CLIP evaluation
//! code); macro is the mean over labels. A label with one class only has no defined AUC: it is `None`, left out of the
//! macro mean, and [`Averaged::defined`] says how many labels went in.

use super::{Score, check_labelled};
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
    /// Each label by itself.
    #[serde(skip)]
    pub per_label: Vec<Rates>,
}

/// One label's predictions against the truth; a ratio with an empty denominator is `None`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Rates {
    /// Share of right samples.
    pub accuracy: f64,
    /// 2 TP / (2 TP + FP + FN).
    pub f1: Option<f64>,
    /// TP / (TP + FP).
    pub precision: Option<f64>,
    /// TP / (TP + FN), the sensitivity.
    pub recall: Option<f64>,
    /// TN / (TN + FP).
    pub specificity: Option<f64>,
}

/// A point of one label's ROC curve.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct OperatingPoint {
    /// Scores from here on predict presence; infinite (null as JSON) where none does.
    pub threshold: f64,
    /// What that predicts.
    #[serde(flatten)]
    pub rates: Rates,
}

/// Labels and scores (f32 or f64) of `samples x classes` cells, row-major, checked once.
///
/// Ranks are only as fine as the scores: give logits, not probabilities, which a saturated softmax rounds to ties.
#[derive(Clone, Copy, Debug)]
pub struct MultiLabel<'a, S = f32> {
    labels: &'a [bool],
    scores: &'a [S],
    classes: usize,
}

impl<'a, S: Score> MultiLabel<'a, S> {
    /// Errors: empty input, lengths that differ or are no multiple of `classes`, a score that is not finite.
    pub fn new(labels: &'a [bool], scores: &'a [S], classes: usize) -> Result<Self> {
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

    /// Metrics of probabilities cut at one half, which itself predicts absence, as `rint(p)` does (DCFormer's evaluation). Errors:
    /// a score outside 0..=1.
    pub fn thresholded(&self) -> Result<Thresholded> {
        if let Some(i) = self.scores.iter().position(|&p| !(0.0..=1.0).contains(&p.into())) {
            return Err(Error::argument(
                "probabilities",
                format!("row {}, column {} is {}", i / self.classes, i % self.classes, self.scores[i]),
                "pass probabilities between 0 and 1",
            ));
        }
        Ok(self.cut_at(0.5))
    }

    /// Metrics of predictions of presence where a score is above `threshold`: 0 for logits is one half for their probabilities.
    pub fn cut_at(&self, threshold: f64) -> Thresholded {
        let mut counts = vec![Counts::default(); self.classes];
        for (i, (&truth, &score)) in self.labels.iter().zip(self.scores).enumerate() {
            counts[i % self.classes].add(truth, score.into() > threshold);
        }
        let mut total = Counts::default();
        for c in &counts {
            total.hits += c.hits;
            total.misses += c.misses;
            total.false_alarms += c.false_alarms;
            total.rejections += c.rejections;
        }
        let per_label: Vec<Rates> = counts.iter().map(Counts::rates).collect();
        let support = total.hits + total.misses;
        let weighted: f64 =
            counts.iter().zip(&per_label).map(|(c, r)| (c.hits + c.misses) as f64 * r.f1.unwrap_or(0.0)).sum();
        let pooled = total.rates();
        Thresholded {
            f1_weighted: (support > 0).then(|| weighted / support as f64),
            accuracy: pooled.accuracy,
            precision_micro: pooled.precision,
            recall_micro: pooled.recall,
            per_label,
        }
    }

    /// For each label the point of its ROC curve with the largest true minus false positive rate (Youden), the one with the
    /// highest threshold among equals; `None` where the label has one class only.
    pub fn youden(&self) -> Vec<Option<OperatingPoint>> {
        (0..self.classes).map(|c| self.label(c).youden()).collect()
    }

    fn label(&self, class: usize) -> TiedGroups {
        let labels: Vec<bool> = self.labels.iter().skip(class).step_by(self.classes).copied().collect();
        let scores: Vec<S> = self.scores.iter().skip(class).step_by(self.classes).copied().collect();
        TiedGroups::new(&labels, &scores)
    }

    fn averaged(&self, metric: impl Fn(&TiedGroups) -> Option<f64>) -> Averaged {
        let per_label: Vec<Option<f64>> = (0..self.classes).map(|c| metric(&self.label(c))).collect();
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
pub fn roc_auc<S: Score>(labels: &[bool], scores: &[S]) -> Result<Option<f64>> {
    check_labelled(labels, scores, 1)?;
    Ok(TiedGroups::new(labels, scores).roc_auc())
}

/// Average precision of one binary problem; `None` where only one class is present. Errors: as [`MultiLabel::new`].
pub fn average_precision<S: Score>(labels: &[bool], scores: &[S]) -> Result<Option<f64>> {
    check_labelled(labels, scores, 1)?;
    Ok(TiedGroups::new(labels, scores).average_precision())
}

/// The ROC curve as (false positive rate, true positive rate) from (0, 0) to (1, 1), one point per distinct score;
/// `None` where only one class is present. Errors: as [`MultiLabel::new`].
pub fn roc_curve<S: Score>(labels: &[bool], scores: &[S]) -> Result<Option<Vec<(f64, f64)>>> {
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
    scores: Vec<f64>,
    positives: u64,
    negatives: u64,
}

impl TiedGroups {
    fn new<S: Score>(labels: &[bool], scores: &[S]) -> Self {
        let mut order: Vec<usize> = (0..scores.len()).collect();
        // Scores are finite; partial_cmp, not total_cmp, because 0.0 and -0.0 are a tie.
        order.sort_unstable_by(|&a, &b| scores[b].partial_cmp(&scores[a]).unwrap_or(std::cmp::Ordering::Equal));
        let (counts, scores): (Vec<(u64, u64)>, Vec<f64>) = order
            .chunk_by(|&a, &b| scores[a] == scores[b])
            .map(|tied| {
                let positives = tied.iter().filter(|&&i| labels[i]).count();
                ((positives as u64, (tied.len() - positives) as u64), scores[tied[0]].into())
            })
            .unzip();
        let positives = counts.iter().map(|c| c.0).sum();
        let negatives = counts.iter().map(|c| c.1).sum();
        TiedGroups { counts, scores, positives, negatives }
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

    /// In integers: the rates times the numbers of both classes, so that equals are equal.
    fn youden(&self) -> Option<OperatingPoint> {
        let (p, n) = (self.positives, self.negatives);
        let mut best = (0, f64::INFINITY, (0, 0));
        let (mut hits, mut false_alarms) = (0, 0);
        for (&(positives, negatives), &score) in self.counts.iter().zip(&self.scores) {
            hits += positives;
            false_alarms += negatives;
            let gain = i128::from(hits) * i128::from(n) - i128::from(false_alarms) * i128::from(p);
            if gain > best.0 {
                best = (gain, score, (hits, false_alarms));
            }
        }
        let (_, threshold, (hits, false_alarms)) = best;
        let counts = Counts { hits, false_alarms, misses: p - hits, rejections: n - false_alarms };
        self.both_classes().then(|| OperatingPoint { threshold, rates: counts.rates() })
    }
}

#[derive(Clone, Copy, Default)]
struct Counts {
    hits: u64,
    misses: u64,
    false_alarms: u64,
    rejections: u64,
}

impl Counts {
    fn add(&mut self, truth: bool, prediction: bool) {
        *match (truth, prediction) {
            (true, true) => &mut self.hits,
            (true, false) => &mut self.misses,
            (false, true) => &mut self.false_alarms,
            (false, false) => &mut self.rejections,
        } += 1;
    }

    fn rates(&self) -> Rates {
        let Counts { hits, misses, false_alarms, rejections } = *self;
        let (right, wrong) = (hits + rejections, misses + false_alarms);
        Rates {
            accuracy: 1.0 - wrong as f64 / (right + wrong).max(1) as f64,
            f1: ratio(2 * hits, 2 * hits + wrong),
            precision: ratio(hits, hits + false_alarms),
            recall: ratio(hits, hits + misses),
            specificity: ratio(rejections, rejections + false_alarms),
        }
    }
}

fn ratio(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}
