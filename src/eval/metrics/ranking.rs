//! One binary problem in the order of its scores, sorted once, and what ranks tell of it for any weights of its samples.

use crate::eval::Score;
use serde::Serialize;

use super::cut::{Counts, OperatingPoint};

/// Cells of one binary problem, highest score first.
pub(super) struct Ranking {
    /// The sample that each cell belongs to.
    samples: Vec<u32>,
    /// Whether each cell is positive.
    positive: Vec<bool>,
    /// Where each run of tied cells ends.
    ends: Vec<u32>,
    /// The score of each run.
    scores: Vec<f64>,
}

/// A point of a precision-recall curve.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct PrecisionRecall {
    /// TP / (TP + FN).
    pub recall: f64,
    /// TP / (TP + FP); 1 where nothing is predicted.
    pub precision: f64,
    /// Scores from here on predict presence; infinite (`"inf"` as JSON) where none does.
    #[serde(serialize_with = "super::threshold")]
    pub threshold: f64,
}

impl Ranking {
    /// Cells in rows of `columns`, each row a sample.
    pub fn new<S: Score>(labels: &[bool], scores: &[S], columns: usize) -> Self {
        let mut order: Vec<u32> = (0..scores.len() as u32).collect();
        let score = |cell: u32| scores[cell as usize];
        // Scores are finite; partial_cmp, not total_cmp, because 0.0 and -0.0 are a tie.
        order.sort_unstable_by(|&a, &b| score(b).partial_cmp(&score(a)).unwrap_or(std::cmp::Ordering::Equal));
        let runs = order.chunk_by(|&a, &b| score(a) == score(b));
        let (ends, runs): (Vec<u32>, Vec<f64>) = runs
            .scan(0, |end, run| {
                *end += run.len() as u32;
                Some((*end, score(run[0]).into()))
            })
            .unzip();
        Ranking {
            samples: order.iter().map(|&cell| cell / columns as u32).collect(),
            positive: order.iter().map(|&cell| labels[cell as usize]).collect(),
            ends,
            scores: runs,
        }
    }

    /// Positives and negatives at each distinct score, highest first, each cell as often as `weights` has its sample.
    fn groups<'a>(&'a self, weights: &'a [u32]) -> impl Iterator<Item = [u64; 2]> + 'a {
        let mut begin = 0;
        self.ends.iter().map(move |&end| {
            let cells = begin..end as usize;
            begin = end as usize;
            let mut counts = [0; 2];
            for (&sample, &positive) in self.samples[cells.clone()].iter().zip(&self.positive[cells]) {
                counts[usize::from(!positive)] += u64::from(weights[sample as usize]);
            }
            counts
        })
    }

    /// Positives and negatives in all.
    fn totals(&self, weights: &[u32]) -> [u64; 2] {
        self.groups(weights).fold([0; 2], |[p, n], [positives, negatives]| [p + positives, n + negatives])
    }

    /// The mid-rank statistic in integers: twice the number of (positive, negative) pairs in the right order, ties one half.
    pub fn roc_auc(&self, weights: &[u32]) -> Option<f64> {
        let (mut above, mut below, mut twice) = (0, 0, 0);
        for [positives, negatives] in self.groups(weights) {
            twice += u128::from(negatives * (2 * above + positives));
            above += positives;
            below += negatives;
        }
        let pairs = u128::from(above) * u128::from(below);
        (pairs > 0).then(|| twice as f64 / (2 * pairs) as f64)
    }

    pub fn average_precision(&self, weights: &[u32]) -> Option<f64> {
        let (mut hits, mut seen, mut sum) = (0, 0, 0.0);
        for [positives, negatives] in self.groups(weights) {
            hits += positives;
            seen += positives + negatives;
            if positives > 0 {
                sum += positives as f64 * hits as f64 / seen as f64;
            }
        }
        (hits > 0 && seen > hits).then(|| sum / hits as f64)
    }

    /// (false positive rate, true positive rate) from (0, 0) to (1, 1).
    pub fn roc_curve(&self, weights: &[u32]) -> Option<Vec<(f64, f64)>> {
        let [all, others] = self.totals(weights);
        let rates = self.cumulated(weights).map(|([p, n], _)| (n as f64 / others as f64, p as f64 / all as f64));
        (all > 0 && others > 0).then(|| std::iter::once((0.0, 0.0)).chain(rates).collect())
    }

    /// From recall 0 to recall 1.
    pub fn precision_recall_curve(&self, weights: &[u32]) -> Option<Vec<PrecisionRecall>> {
        let [all, others] = self.totals(weights);
        let start = PrecisionRecall { recall: 0.0, precision: 1.0, threshold: f64::INFINITY };
        let points = self.cumulated(weights).map(|([p, n], threshold)| PrecisionRecall {
            recall: p as f64 / all as f64,
            precision: p as f64 / (p + n) as f64,
            threshold,
        });
        (all > 0 && others > 0).then(|| std::iter::once(start).chain(points).collect())
    }

    /// Positives and negatives down to each distinct score that occurs, and that score.
    fn cumulated<'a>(&'a self, weights: &'a [u32]) -> impl Iterator<Item = ([u64; 2], f64)> + 'a {
        let mut sum = [0; 2];
        self.groups(weights).zip(&self.scores).filter(|(group, _)| *group != [0; 2]).map(move |([p, n], &score)| {
            sum = [sum[0] + p, sum[1] + n];
            (sum, score)
        })
    }

    /// In integers: the rates times the numbers of both classes, so that equals are equal.
    pub fn youden(&self, weights: &[u32]) -> Option<OperatingPoint> {
        let [p, n] = self.totals(weights);
        let mut best = (0, f64::INFINITY, [0, 0]);
        for ([hits, false_alarms], score) in self.cumulated(weights) {
            let gain = i128::from(hits) * i128::from(n) - i128::from(false_alarms) * i128::from(p);
            if gain > best.0 {
                best = (gain, score, [hits, false_alarms]);
            }
        }
        let (_, threshold, [hits, false_alarms]) = best;
        let counts = Counts { hits, false_alarms, misses: p - hits, rejections: n - false_alarms };
        (p > 0 && n > 0).then(|| OperatingPoint { threshold, rates: counts.rates() })
    }
}
