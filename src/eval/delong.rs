//! DeLong's test for two correlated ROC curves, in the fast mid-rank form of Sun and Xu (2014).
//!
//! Samples must be independent. Pooled sample-label cells, as the X2CT-CLIP evaluation feeds it, are not, so there the
//! p value is optimistic: report a patient-level interval of [`super::bootstrap`] beside it.

use super::check_labelled;
use crate::error::{Error, Result};
use serde::Serialize;
use std::f64::consts::{LN_2, PI, SQRT_2};

/// Two areas under the ROC curve on the same samples, and how surely they differ.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DeLong {
    /// Areas of the first and the second score.
    pub auc: [f64; 2],
    /// Covariance matrix of the two areas.
    pub covariance: [[f64; 2]; 2],
    /// Absolute difference over its standard error; infinite where areas differ without variance.
    pub z: f64,
    /// Two-tailed p value; 0 where it is below the smallest f64.
    pub p: f64,
    /// Natural logarithm of the p value, exact where `p` underflows.
    pub ln_p: f64,
}

/// Compares two scores of the same samples.
///
/// Errors: as in [`super::metrics::roc_auc`], and fewer than two positives or two negatives, which leave no variance.
pub fn delong(labels: &[bool], first: &[f32], second: &[f32]) -> Result<DeLong> {
    let a = Components::new(labels, first)?;
    let b = Components::new(labels, second)?;
    let covariance = [[a.covariance(&a), a.covariance(&b)], [b.covariance(&a), b.covariance(&b)]];
    // The variance of the difference from the differences themselves: no cancellation, and exactly 0 for equal scores.
    let difference = Components {
        positives: a.positives.iter().zip(&b.positives).map(|(x, y)| x - y).collect(),
        negatives: a.negatives.iter().zip(&b.negatives).map(|(x, y)| x - y).collect(),
    };
    let error = difference.covariance(&difference).sqrt();
    let auc = [a.auc(), b.auc()];
    let gap = (auc[0] - auc[1]).abs();
    let z = if gap == 0.0 { 0.0 } else { gap / error };
    let ln_p = LN_2 + ln_normal_tail(z);
    Ok(DeLong { auc, covariance, z, p: ln_p.exp(), ln_p })
}

/// The area under one ROC curve and its variance. Errors: as [`delong`].
pub fn auc_variance(labels: &[bool], scores: &[f32]) -> Result<(f64, f64)> {
    let c = Components::new(labels, scores)?;
    Ok((c.auc(), c.covariance(&c)))
}

/// Structural components: for each positive the share of negatives it beats, for each negative the share of positives
/// that beat it.
struct Components {
    positives: Vec<f64>,
    negatives: Vec<f64>,
}

impl Components {
    fn new(labels: &[bool], scores: &[f32]) -> Result<Self> {
        check_labelled(labels, scores, 1)?;
        let of_class =
            |class| -> Vec<f32> { labels.iter().zip(scores).filter(|(l, _)| **l == class).map(|(_, &s)| s).collect() };
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
fn mid_ranks(values: &[f32]) -> Vec<f64> {
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

/// `ln(1 - Phi(z))` for `z >= 0`, to about 1e-13 relative: a series of positive terms near 0, then a continued fraction.
fn ln_normal_tail(z: f64) -> f64 {
    let x = z / SQRT_2;
    if x.is_infinite() {
        return f64::NEG_INFINITY;
    }
    if x < 2.0 {
        // erf(x) = 2 exp(-x^2) / sqrt(pi) * sum of 2^n x^(2n+1) / (1 3 5 ... (2n+1))
        let mut term = x;
        let mut sum = x;
        let mut odd = 1.0;
        while term > 1e-18 * sum {
            odd += 2.0;
            term *= 2.0 * x * x / odd;
            sum += term;
        }
        return (0.5 * (1.0 - 2.0 / PI.sqrt() * (-x * x).exp() * sum)).ln();
    }
    // erfc(x) = exp(-x^2) / sqrt(pi) / (x + (1/2)/(x + 1/(x + (3/2)/(x + ...)))), evaluated from the far end: 200
    // levels are converged at x = 2 and more than enough above.
    let fraction = (1..=200).rev().fold(x, |tail, k| x + f64::from(k) / 2.0 / tail);
    -x * x - (2.0 * PI.sqrt() * fraction).ln()
}
