//! DeLong's test for two correlated ROC curves, in the fast mid-rank form of Sun and Xu (2014).
//!
//! Samples must be independent. Pooled sample-label cells, as the X2CT-CLIP evaluation feeds it, are not, so there the
//! p value is optimistic: report a patient-level interval of [`super::bootstrap`] beside it.

use super::{Score, check_labelled, normal};
use crate::error::{Error, Result};
use serde::Serialize;
use std::f64::consts::LN_2;

/// Two areas under the ROC curve on the same samples, and how surely they differ.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DeLong {
    /// Areas of the first and the second score.
    pub auc: [f64; 2],
    /// Covariance matrix of the two areas.
    pub covariance: [[f64; 2]; 2],
    /// Absolute difference over its standard error.
    pub z: f64,
    /// Two-tailed p value; 0 where it is below the smallest f64.
    pub p: f64,
    /// Natural logarithm of the p value, exact where `p` underflows.
    pub ln_p: f64,
}

/// Compares two scores of the same samples.
///
/// Errors: as in [`super::metrics::roc_auc`]; fewer than two positives or two negatives, and areas that differ by the same for every
/// sample, which leave no variance.
pub fn delong<S: Score>(labels: &[bool], first: &[S], second: &[S]) -> Result<DeLong> {
    Components::new(labels, first)?.compare(&Components::new(labels, second)?)
}

/// One area under the ROC curve and how surely it is known.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Area {
    /// The area.
    pub auc: f64,
    /// Its standard error.
    pub standard_error: f64,
    /// Ends of its confidence interval, computed on the scale of `ln(auc / (1 - auc))`, so that they stay between 0 and 1;
    /// `None` where all pairs are in one order, which leaves no variance to estimate.
    pub interval: Option<[f64; 2]>,
}

/// The area under one ROC curve with its confidence interval of this coverage, between 0 and 1.
///
/// Errors: as [`delong`], and a level outside 0..1.
pub fn area<S: Score>(labels: &[bool], scores: &[S], level: f64) -> Result<Area> {
    if !(level > 0.0 && level < 1.0) {
        return Err(Error::argument("level", format!("{level} is not between 0 and 1"), "0.95 is usual"));
    }
    let components = Components::new(labels, scores)?;
    let (auc, variance) = (components.auc(), components.covariance(&components));
    let interval = (variance > 0.0).then(|| {
        let reach = normal::quantile(0.5 + level / 2.0) * variance.sqrt() / (auc * (1.0 - auc));
        [-reach, reach].map(|reach| 1.0 / (1.0 + ((1.0 - auc) / auc) * (-reach).exp()))
    });
    Ok(Area { auc, standard_error: variance.sqrt(), interval })
}

/// The test of one pair of several scores.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Pair {
    /// Places of the two scores.
    pub scores: [usize; 2],
    /// The test of these two alone.
    #[serde(flatten)]
    pub test: DeLong,
    /// The p value corrected for the number of pairs ([`holm`]).
    pub p_holm: f64,
}

/// Compares every pair of several scores of the same samples, with Holm's correction over the pairs.
///
/// Errors: as [`delong`].
pub fn pairs<S: Score>(labels: &[bool], scores: &[&[S]]) -> Result<Vec<Pair>> {
    let components = scores.iter().map(|scores| Components::new(labels, scores)).collect::<Result<Vec<_>>>()?;
    let places = (0..scores.len()).flat_map(|first| (first + 1..scores.len()).map(move |second| [first, second]));
    let tested = places.map(|scores| {
        let test = components[scores[0]].compare(&components[scores[1]])?;
        Ok(Pair { scores, p_holm: test.p, test })
    });
    let mut pairs = tested.collect::<Result<Vec<Pair>>>()?;
    let corrected = holm(&pairs.iter().map(|pair| pair.test.p).collect::<Vec<_>>());
    pairs.iter_mut().zip(corrected).for_each(|(pair, p)| pair.p_holm = p);
    Ok(pairs)
}

/// Holm's step-down correction: p values such that rejecting those up to a level keeps the chance of any false rejection
/// below it, whatever the tests have in common (Holm 1979).
pub fn holm(p: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..p.len()).collect();
    order.sort_by(|&a, &b| p[a].total_cmp(&p[b]));
    let (mut corrected, mut largest) = (vec![0.0; p.len()], 0.0f64);
    for (rank, &at) in order.iter().enumerate() {
        largest = largest.max((p.len() - rank) as f64 * p[at]).min(1.0);
        corrected[at] = largest;
    }
    corrected
}

/// Structural components: for each positive the share of negatives it beats, for each negative the share of positives
/// that beat it.
struct Components {
    positives: Vec<f64>,
    negatives: Vec<f64>,
}

impl Components {
    fn new<S: Score>(labels: &[bool], scores: &[S]) -> Result<Self> {
        check_labelled(labels, scores, 1)?;
        let of_class =
            |class| -> Vec<S> { labels.iter().zip(scores).filter(|(l, _)| **l == class).map(|(_, &s)| s).collect() };
        let (positive, negative) = (of_class(true), of_class(false));
        if positive.len() < 2 || negative.len() < 2 {
            return Err(Error::argument(
                "labels",
                format!("{} positives and {} negatives leave no variance to estimate", positive.len(), negative.len()),
                "pass at least two of each",
            ));
        }
        let (m, n) = (positive.len() as f64, negative.len() as f64);
        let all = mid_ranks(&[positive.as_slice(), negative.as_slice()].concat());
        let (of_positives, of_negatives) = all.split_at(positive.len());
        Ok(Components {
            positives: of_positives.iter().zip(mid_ranks(&positive)).map(|(z, x)| (z - x) / n).collect(),
            negatives: of_negatives.iter().zip(mid_ranks(&negative)).map(|(z, y)| 1.0 - (z - y) / m).collect(),
        })
    }

    fn compare(&self, other: &Components) -> Result<DeLong> {
        let (a, b) = (self, other);
        let covariance = [[a.covariance(a), a.covariance(b)], [b.covariance(a), b.covariance(b)]];
        // The variance of the difference from the differences themselves: no cancellation, and exactly 0 for equal scores.
        let difference = Components {
            positives: a.positives.iter().zip(&b.positives).map(|(x, y)| x - y).collect(),
            negatives: a.negatives.iter().zip(&b.negatives).map(|(x, y)| x - y).collect(),
        };
        let error = difference.covariance(&difference).sqrt();
        let auc = [a.auc(), b.auc()];
        let gap = (auc[0] - auc[1]).abs();
        // Differences that are alike but for rounding have no variance.
        if gap > 0.0 && error <= 1e-12 * gap {
            let problem =
                format!("the areas {} and {} differ by the same for every sample, without variance", auc[0], auc[1]);
            return Err(Error::argument("scores", problem, "pass more samples"));
        }
        let z = if gap == 0.0 { 0.0 } else { gap / error };
        let ln_p = LN_2 + normal::ln_tail(z);
        Ok(DeLong { auc, covariance, z, p: ln_p.exp(), ln_p })
    }

    fn auc(&self) -> f64 {
        mean(&self.positives)
    }

    fn covariance(&self, other: &Components) -> f64 {
        let part = |x: &[f64], y: &[f64]| {
            let (mx, my, n) = (mean(x), mean(y), x.len() as f64);
            x.iter().zip(y).map(|(a, b)| (a - mx) * (b - my)).sum::<f64>() / (n - 1.0) / n
        };
        part(&self.positives, &other.positives) + part(&self.negatives, &other.negatives)
    }
}

fn mean(x: &[f64]) -> f64 {
    x.iter().sum::<f64>() / x.len() as f64
}

/// Ranks from 1; tied values share the mean of their ranks.
fn mid_ranks<S: Score>(values: &[S]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_unstable_by(|&a, &b| values[a].partial_cmp(&values[b]).unwrap_or(std::cmp::Ordering::Equal));
    let mut ranks = vec![0.0; values.len()];
    let mut before = 0;
    for tied in order.chunk_by(|&a, &b| values[a] == values[b]) {
        for &i in tied {
            ranks[i] = before as f64 + (tied.len() + 1) as f64 / 2.0;
        }
        before += tied.len();
    }
    ranks
}
