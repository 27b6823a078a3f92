//! Predictions cut at a threshold, against the truth.

use serde::Serialize;
use std::ops::AddAssign;

/// Metrics of predictions cut at a threshold; a ratio with an empty denominator is `None`.
///
/// Averages of F1 take a label whose F1 is not defined (no positive and none predicted) as 0, as scikit-learn does with
/// `zero_division=0`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Thresholded {
    /// F1 per label, weighted by the label's number of positives; `None` where no label has one.
    pub f1_weighted: Option<f64>,
    /// Mean F1 of the labels.
    pub f1_macro: f64,
    /// F1 of all cells pooled.
    pub f1_micro: Option<f64>,
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
    /// Scores from here on predict presence; infinite (`"inf"` as JSON) where none does.
    #[serde(serialize_with = "super::threshold")]
    pub threshold: f64,
    /// What that predicts.
    #[serde(flatten)]
    pub rates: Rates,
}

impl Thresholded {
    /// Of the counts of each label.
    pub(super) fn of(labels: &[Counts]) -> Self {
        let mut total = Counts::default();
        labels.iter().for_each(|counts| total += *counts);
        let per_label: Vec<Rates> = labels.iter().map(Counts::rates).collect();
        let f1 = |rates: &Rates| rates.f1.unwrap_or(0.0);
        let positives = |counts: &Counts| counts.hits + counts.misses;
        let support = positives(&total);
        let weighted: f64 = labels.iter().zip(&per_label).map(|(c, rates)| positives(c) as f64 * f1(rates)).sum();
        let pooled = total.rates();
        Thresholded {
            f1_weighted: (support > 0).then(|| weighted / support as f64),
            f1_macro: per_label.iter().map(f1).sum::<f64>() / labels.len() as f64,
            f1_micro: pooled.f1,
            accuracy: pooled.accuracy,
            precision_micro: pooled.precision,
            recall_micro: pooled.recall,
            per_label,
        }
    }
}

/// How often truth and prediction were what.
#[derive(Clone, Copy, Default)]
pub(super) struct Counts {
    pub hits: u64,
    pub misses: u64,
    pub false_alarms: u64,
    pub rejections: u64,
}

impl Counts {
    /// Counts a cell `times`.
    pub fn add(&mut self, truth: bool, prediction: bool, times: u32) {
        *match (truth, prediction) {
            (true, true) => &mut self.hits,
            (true, false) => &mut self.misses,
            (false, true) => &mut self.false_alarms,
            (false, false) => &mut self.rejections,
        } += u64::from(times);
    }

    pub fn rates(&self) -> Rates {
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

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.hits += other.hits;
        self.misses += other.misses;
        self.false_alarms += other.false_alarms;
        self.rejections += other.rejections;
    }
}

fn ratio(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}
