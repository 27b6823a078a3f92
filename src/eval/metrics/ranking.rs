//! One binary problem in the order of its scores, sorted once, and what ranks tell of it for any weights of its samples.

use crate::eval::Score;
use serde::Serialize;

use super::cut::{Counts, OperatingPoint};

/// Cells of one binary problem, highest score first.
pub(super) struct Ranking {
    cells: Vec<Cell>,
    /// The score of each run of tied cells.
    scores: Vec<f64>,
}

/// The sample that a cell belongs to, above two bits: whether the cell is positive, and whether it is the last of those tied.
#[derive(Clone, Copy)]
struct Cell(u32);

impl Cell {
    fn new(sample: u32, positive: bool, last: bool) -> Self {
        Cell(sample << 2 | u32::from(positive) << 1 | u32::from(last))
    }

    fn sample(self) -> usize {
        (self.0 >> 2) as usize
    }

    fn is_positive(self) -> bool {
        self.0 & 2 != 0
    }

    fn is_last(self) -> bool {
        self.0 & 1 != 0
    }
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
        let last = |at: usize| order.get(at + 1).is_none_or(|&next| score(order[at]) != score(next));
        let cell = |(at, &cell): (usize, &u32)| Cell::new(cell / columns as u32, labels[cell as usize], last(at));
        let cells: Vec<Cell> = order.iter().enumerate().map(cell).collect();
        let ends = cells.iter().zip(&order).filter(|(cell, _)| cell.is_last());
        Ranking { scores: ends.map(|(_, &at)| score(at).into()).collect(), cells }
    }

    /// Hands over positives and negatives at each distinct score, highest first, each cell as often as `weights` has its sample.
    fn each_group(&self, weights: &[u32], mut take: impl FnMut(u64, u64)) {
        let mut counts = [0, 0];
        for cell in &self.cells {
            counts[usize::from(cell.is_positive())] += u64::from(weights[cell.sample()]);
            if cell.is_last() {
                take(counts[1], counts[0]);
                counts = [0, 0];
            }
        }
    }

    /// Positives and negatives in all.
    fn totals(&self, weights: &[u32]) -> [u64; 2] {
        let mut sum = [0, 0];
        self.each_group(weights, |positives, negatives| sum = [sum[0] + positives, sum[1] + negatives]);
        sum
    }

    /// Area under the ROC curve and average precision, in one go through the cells.
    ///
    /// The area is the mid-rank statistic in integers: twice the number of (positive, negative) pairs in the right order, ties one half.
    pub fn areas(&self, weights: &[u32]) -> [Option<f64>; 2] {
        let (mut above, mut below, mut twice, mut sum) = (0, 0, 0, 0.0);
        self.each_group(weights, |positives, negatives| {
            twice += u128::from(negatives * (2 * above + positives));
            above += positives;
            below += negatives;
            if positives > 0 {
                sum += positives as f64 * above as f64 / (above + below) as f64;
            }
        });
        let pairs = u128::from(above) * u128::from(below);
        [twice as f64 / (2 * pairs) as f64, sum / above as f64].map(|area| (pairs > 0).then_some(area))
    }

    /// The true positive rates at `parts + 1` even false positive rates from 0 to 1, along the curve: ties are a slope, and of several at
    /// one false positive rate the highest counts.
    pub fn sensitivities(&self, weights: &[u32], parts: usize) -> Option<Vec<f64>> {
        let curve = self.roc_curve(weights)?;
        let at = |rate: f64| {
            let next = curve.partition_point(|&(x, _)| x <= rate);
            let (x0, y0) = curve[next - 1];
            curve.get(next).map_or(y0, |&(x1, y1)| y0 + (y1 - y0) * (rate - x0) / (x1 - x0))
        };
        Some((0..=parts).map(|part| at(part as f64 / parts as f64)).collect())
    }

    /// (false positive rate, true positive rate) from (0, 0) to (1, 1).
    pub fn roc_curve(&self, weights: &[u32]) -> Option<Vec<(f64, f64)>> {
        let points = self.cumulated(weights);
        let &([all, others], _) = points.last()?;
        let rates = points.iter().map(|&([p, n], _)| (n as f64 / others as f64, p as f64 / all as f64));
        (all > 0 && others > 0).then(|| std::iter::once((0.0, 0.0)).chain(rates).collect())
    }

    /// From recall 0 to recall 1.
    pub fn precision_recall_curve(&self, weights: &[u32]) -> Option<Vec<PrecisionRecall>> {
        let cumulated = self.cumulated(weights);
        let &([all, others], _) = cumulated.last()?;
        let start = PrecisionRecall { recall: 0.0, precision: 1.0, threshold: f64::INFINITY };
        let points = cumulated.iter().map(|&([p, n], threshold)| PrecisionRecall {
            recall: p as f64 / all as f64,
            precision: p as f64 / (p + n) as f64,
            threshold,
        });
        (all > 0 && others > 0).then(|| std::iter::once(start).chain(points).collect())
    }

    /// Positives and negatives down to each distinct score that occurs, and that score.
    fn cumulated(&self, weights: &[u32]) -> Vec<([u64; 2], f64)> {
        let (mut sum, mut scores) = ([0; 2], self.scores.iter());
        let mut points = Vec::with_capacity(self.scores.len());
        self.each_group(weights, |positives, negatives| {
            let score = scores.next().copied().unwrap_or(f64::NAN);
            sum = [sum[0] + positives, sum[1] + negatives];
            if positives + negatives > 0 {
                points.push((sum, score));
            }
        });
        points
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
