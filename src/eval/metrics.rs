//! Multi-label metrics: area under the ROC curve, average precision, both curves, and the metrics of thresholded predictions.
//!
//! Ties are treated as scikit-learn treats them: tied scores enter together, so no metric depends on the order of
//! samples. Micro pools all sample-label cells into one binary problem (the averaging of the X2CT-CLIP evaluation
//! code); macro is the mean over labels. A label with one class only has no defined AUC and no average precision: it is `None`,
//! left out of the macro mean, and [`Averaged::defined`] says how many labels went in.
//!
//! A weight says how often a sample counts: once each for the samples themselves, and as often as it was drawn for a resample of
//! [`super::bootstrap`]. [`Ranked`] sorts the scores once for all weights.

mod cut;
mod ranking;

use super::{Score, check_labelled};
use crate::error::{Error, Result};
use serde::Serialize;

use cut::Counts;
pub use cut::{OperatingPoint, Rates, Thresholded};
pub use ranking::PrecisionRecall;
use ranking::Ranking;

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

    /// Number of samples.
    pub fn samples(&self) -> usize {
        self.labels.len() / self.classes
    }

    /// Area under the ROC curve, ties counting one half.
    pub fn roc_auc(&self) -> Averaged {
        self.ranked().roc_auc(&self.ones())
    }

    /// Average precision, `sum over n of (R_n - R_(n-1)) P_n`, without interpolation.
    pub fn average_precision(&self) -> Averaged {
        self.ranked().average_precision(&self.ones())
    }

    /// The cells in the order of their scores.
    pub fn ranked(&self) -> Ranked {
        Ranked {
            pooled: Ranking::new(self.labels, self.scores, self.classes),
            labels: (0..self.classes).map(|class| self.label(class)).collect(),
        }
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
        self.cut_weighted(threshold, &self.ones())
    }

    /// [`Self::cut_at`] with a weight a sample.
    pub fn cut_weighted(&self, threshold: f64, weights: &[u32]) -> Thresholded {
        let mut counts = vec![Counts::default(); self.classes];
        let rows = self.labels.chunks_exact(self.classes).zip(self.scores.chunks_exact(self.classes));
        for ((labels, scores), &times) in rows.zip(weights) {
            for ((counts, &truth), &score) in counts.iter_mut().zip(labels).zip(scores) {
                counts.add(truth, score.into() > threshold, times);
            }
        }
        Thresholded::of(&counts)
    }

    /// For each label the point of its ROC curve with the largest true minus false positive rate (Youden), the one with the
    /// highest threshold among equals; `None` where the label has one class only.
    pub fn youden(&self) -> Vec<Option<OperatingPoint>> {
        self.ranked().youden(&self.ones())
    }

    fn label(&self, class: usize) -> Ranking {
        let labels: Vec<bool> = self.labels.iter().skip(class).step_by(self.classes).copied().collect();
        let scores: Vec<S> = self.scores.iter().skip(class).step_by(self.classes).copied().collect();
        Ranking::new(&labels, &scores, 1)
    }

    fn ones(&self) -> Vec<u32> {
        vec![1; self.samples()]
    }
}

/// The cells of a [`MultiLabel`] in the order of their scores: metrics of ranks for many weights, sorted once.
pub struct Ranked {
    pooled: Ranking,
    labels: Vec<Ranking>,
}

impl Ranked {
    /// Area under the ROC curve with a weight a sample.
    pub fn roc_auc(&self, weights: &[u32]) -> Averaged {
        let [auc, _] = self.areas(weights);
        auc
    }

    /// Average precision with a weight a sample.
    pub fn average_precision(&self, weights: &[u32]) -> Averaged {
        let [_, ap] = self.areas(weights);
        ap
    }

    /// [`Self::roc_auc`] and [`Self::average_precision`] in one go.
    pub fn areas(&self, weights: &[u32]) -> [Averaged; 2] {
        let pooled = self.pooled.areas(weights);
        let labels: Vec<[Option<f64>; 2]> = self.labels.iter().map(|ranking| ranking.areas(weights)).collect();
        [0, 1].map(|which| {
            let per_label: Vec<Option<f64>> = labels.iter().map(|areas| areas[which]).collect();
            let values: Vec<f64> = per_label.iter().flatten().copied().collect();
            Averaged {
                micro: pooled[which],
                macro_mean: (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64),
                defined: values.len(),
                per_label,
            }
        })
    }

    /// For each label the sensitivity at `parts + 1` even false positive rates from 0 to 1, with a weight a sample; `None` where the label
    /// has one class only.
    pub fn sensitivities(&self, weights: &[u32], parts: usize) -> Vec<Option<Vec<f64>>> {
        self.labels.iter().map(|ranking| ranking.sensitivities(weights, parts)).collect()
    }

    /// [`MultiLabel::youden`] with a weight a sample.
    pub fn youden(&self, weights: &[u32]) -> Vec<Option<OperatingPoint>> {
        self.labels.iter().map(|ranking| ranking.youden(weights)).collect()
    }
}

/// A threshold as JSON has it, which has no infinite number: that is the text `inf`, as it is in tables.
pub(crate) fn threshold<S: serde::Serializer>(value: &f64, serializer: S) -> std::result::Result<S::Ok, S::Error> {
    match value.is_finite() {
        true => serializer.serialize_f64(*value),
        false => serializer.collect_str(value),
    }
}

/// One binary problem's ranking, and each sample's weight of one.
fn binary<S: Score>(labels: &[bool], scores: &[S]) -> Result<(Ranking, Vec<u32>)> {
    check_labelled(labels, scores, 1)?;
    Ok((Ranking::new(labels, scores, 1), vec![1; labels.len()]))
}

/// Area under the ROC curve of one binary problem; `None` where only one class is present. Errors: as
/// [`MultiLabel::new`].
pub fn roc_auc<S: Score>(labels: &[bool], scores: &[S]) -> Result<Option<f64>> {
    let (ranking, ones) = binary(labels, scores)?;
    Ok(ranking.areas(&ones)[0])
}

/// Average precision of one binary problem; `None` where only one class is present. Errors: as [`MultiLabel::new`].
pub fn average_precision<S: Score>(labels: &[bool], scores: &[S]) -> Result<Option<f64>> {
    let (ranking, ones) = binary(labels, scores)?;
    Ok(ranking.areas(&ones)[1])
}

/// The ROC curve as (false positive rate, true positive rate) from (0, 0) to (1, 1), one point per distinct score;
/// `None` where only one class is present. Errors: as [`MultiLabel::new`].
pub fn roc_curve<S: Score>(labels: &[bool], scores: &[S]) -> Result<Option<Vec<(f64, f64)>>> {
    let (ranking, ones) = binary(labels, scores)?;
    Ok(ranking.roc_curve(&ones))
}

/// The precision-recall curve from recall 0, whose precision is 1 by convention, to recall 1, one point per distinct score;
/// `None` where only one class is present. Its step sum is the average precision. Errors: as [`MultiLabel::new`].
pub fn precision_recall_curve<S: Score>(labels: &[bool], scores: &[S]) -> Result<Option<Vec<PrecisionRecall>>> {
    let (ranking, ones) = binary(labels, scores)?;
    Ok(ranking.precision_recall_curve(&ones))
}
