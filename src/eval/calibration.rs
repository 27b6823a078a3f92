//! Calibration: how far probabilities are from what they say, and maps fitted on held-out samples that bring them nearer.

use super::check_labelled;
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::str::FromStr;

/// Probabilities of presence against how often there was something.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Reliability {
    /// Expected calibration error: mean over the samples of the distance of their bin's two means.
    pub ece: f64,
    /// The largest such distance.
    pub mce: f64,
    /// Mean squared distance of probability and truth (Brier).
    pub brier: f64,
    /// Bins of equal width from 0 to 1, those without samples left out.
    pub bins: Vec<Bin>,
}

/// Probabilities of one bin, which holds its upper end, and the first bin 0 as well.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Bin {
    /// Lower and upper end.
    pub range: [f64; 2],
    /// Number of samples.
    pub count: usize,
    /// Mean probability of the samples.
    pub predicted: f64,
    /// Share of positives among them.
    pub observed: f64,
}

/// Reliability of probabilities of one binary problem (or of pooled cells) in `bins` bins.
///
/// Errors: empty input, lengths that differ, a probability outside 0..=1, no bin.
pub fn reliability(labels: &[bool], probabilities: &[f64], bins: usize) -> Result<Reliability> {
    check_labelled(labels, probabilities, 1)?;
    if bins == 0 {
        return Err(Error::argument("bins", "there are 0", "10 are usual"));
    }
    if let Some(row) = probabilities.iter().position(|p| !(0.0..=1.0).contains(p)) {
        let problem = format!("row {row} is {}", probabilities[row]);
        return Err(Error::argument("probabilities", problem, "pass probabilities between 0 and 1"));
    }
    let mut sums = vec![(0, 0.0, 0); bins];
    for (&label, &p) in labels.iter().zip(probabilities) {
        let (count, predicted, positives) = &mut sums[((p * bins as f64).ceil() as usize).clamp(1, bins) - 1];
        *count += 1;
        *predicted += p;
        *positives += usize::from(label);
    }
    let edge = |at: usize| at as f64 / bins as f64;
    let bins: Vec<Bin> = sums
        .into_iter()
        .enumerate()
        .filter(|(_, (count, ..))| *count > 0)
        .map(|(at, sums)| {
            let (count, predicted, positives) = sums;
            let mean = |sum: f64| sum / count as f64;
            Bin { range: [edge(at), edge(at + 1)], count, predicted: mean(predicted), observed: mean(positives as f64) }
        })
        .collect();
    let gap = |bin: &Bin| (bin.predicted - bin.observed).abs();
    let squares = labels.iter().zip(probabilities).map(|(&label, p)| (p - f64::from(u8::from(label))).powi(2));
    Ok(Reliability {
        ece: bins.iter().map(|bin| bin.count as f64 * gap(bin)).sum::<f64>() / labels.len() as f64,
        mce: bins.iter().map(gap).fold(0.0, f64::max),
        brier: squares.sum::<f64>() / labels.len() as f64,
        bins,
    })
}

/// A map from logits to probabilities, `1 / (1 + exp(-(slope logit + intercept)))`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Scaling {
    /// Factor of the logit; one over the temperature.
    pub slope: f64,
    /// What is added to it; 0 for temperature scaling.
    pub intercept: f64,
}

/// What a fit adjusts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Method {
    /// The slope alone (Guo et al. 2017): no rank and no prediction at one half changes.
    Temperature,
    /// Slope and intercept (Platt 1999), with his targets, which keep probabilities from 0 and 1: of m positives and n negatives
    /// `(m + 1) / (m + 2)` and `1 / (n + 2)`.
    Platt,
}

impl Method {
    /// Names of the methods.
    pub const NAMES: [&str; 2] = ["temperature", "platt"];
}

impl FromStr for Method {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let all = [Method::Temperature, Method::Platt];
        all.into_iter().find(|&method| Self::NAMES[method as usize] == name).ok_or_else(|| {
            let hint = format!("choose one of {}", Self::NAMES.join(", "));
            Error::argument("method", format!("unknown method `{name}`"), hint)
        })
    }
}

/// Newton steps that no fit needs; the log loss is convex.
const STEPS: usize = 200;

impl Scaling {
    /// The map of least mean log loss on held-out samples, those that nothing was trained or chosen on.
    ///
    /// Errors: as [`super::metrics::roc_auc`]; samples of one class; logits that part the classes without an error, or that are one
    /// value everywhere, for which the temperature has no optimum; logits whose best slope is not positive.
    pub fn fit(method: Method, labels: &[bool], logits: &[f64]) -> Result<Self> {
        check_labelled(labels, logits, 1)?;
        let positives = labels.iter().filter(|&&label| label).count();
        let refuse = |problem: String, hint: &str| Err(Error::argument("calibration", problem, hint));
        if positives == 0 || positives == labels.len() {
            let problem = format!("{positives} of {} samples are positive", labels.len());
            return refuse(problem, "pass held-out samples of both classes");
        }
        // Near 1 whatever the unit of the logits is.
        let unit = (logits.iter().map(|z| z * z).sum::<f64>() / logits.len() as f64).sqrt();
        if unit == 0.0 {
            return refuse("all logits are 0".into(), "there is nothing to scale");
        }
        let target = match method {
            Method::Temperature => [0.0, 1.0],
            Method::Platt => {
                let (m, n) = (positives as f64, (labels.len() - positives) as f64);
                [1.0 / (n + 2.0), (m + 1.0) / (m + 2.0)]
            }
        };
        let samples: Vec<(f64, f64)> =
            labels.iter().zip(logits).map(|(&label, z)| (z / unit, target[usize::from(label)])).collect();
        let start = Scaling { slope: 0.0, intercept: 0.0 };
        let fitted = descend(&samples, method, start);
        match fitted {
            Some(fitted) if fitted.slope > 0.0 => Ok(Scaling { slope: fitted.slope / unit, ..fitted }),
            Some(_) => {
                let hint = match method {
                    Method::Temperature => {
                        "look for what is the wrong way round, or fit an offset too (platt): by a factor alone, a logit of 0 stays \
                         one half"
                    }
                    Method::Platt => "look for what is the wrong way round",
                };
                refuse("the best slope is not positive: it would turn the order of the logits round".into(), hint)
            }
            None => refuse(
                "the log loss has no smallest value".into(),
                "the logits part the classes without an error: pass more held-out samples",
            ),
        }
    }

    /// The probability of a logit.
    pub fn probability(&self, logit: f64) -> f64 {
        1.0 / (1.0 + (-(self.slope * logit + self.intercept)).exp())
    }
}

/// Newton's method with step halving on the mean log loss of (logit, target) samples; `None` where it does not settle.
fn descend(samples: &[(f64, f64)], method: Method, mut at: Scaling) -> Option<Scaling> {
    let loss = |at: &Scaling| {
        let terms = samples.iter().map(|&(z, t)| {
            let logit = at.slope * z + at.intercept;
            // ln(1 + exp(logit)) - t logit, without overflow.
            logit.max(0.0) + (-logit.abs()).exp().ln_1p() - t * logit
        });
        terms.sum::<f64>() / samples.len() as f64
    };
    let mut best = loss(&at);
    for _ in 0..STEPS {
        let step = newton_step(samples, method, &at)?;
        let size = step.slope.abs().max(step.intercept.abs());
        if size <= 1e-12 * (1.0 + at.slope.abs()) {
            return Some(at);
        }
        let moved = |share: f64| Scaling {
            slope: at.slope + share * step.slope,
            intercept: at.intercept + share * step.intercept,
        };
        let tries = (0..40).map(|halvings| moved(0.5f64.powi(halvings))).map(|to| (to, loss(&to)));
        match tries.into_iter().find(|(_, to)| *to < best) {
            Some((to, lower)) => (at, best) = (to, lower),
            // Rounding leaves nothing to gain.
            None => return Some(at),
        }
        if at.slope.abs() > 1e6 {
            return None;
        }
    }
    None
}

/// The Newton step of the mean log loss; `None` where its curvature vanishes.
fn newton_step(samples: &[(f64, f64)], method: Method, at: &Scaling) -> Option<Scaling> {
    let (mut gradient, mut curvature) = ([0.0; 2], [0.0; 3]);
    for &(z, target) in samples {
        let p = at.probability(z);
        let (error, weight) = (p - target, p * (1.0 - p));
        gradient = [gradient[0] + error * z, gradient[1] + error];
        curvature = [curvature[0] + weight * z * z, curvature[1] + weight * z, curvature[2] + weight];
    }
    let [zz, z, one] = curvature;
    let step = match method {
        Method::Temperature => [-gradient[0] / zz, 0.0],
        Method::Platt => {
            let determinant = zz * one - z * z;
            if determinant <= f64::EPSILON * zz * one {
                return None;
            }
            [-(one * gradient[0] - z * gradient[1]) / determinant, -(zz * gradient[1] - z * gradient[0]) / determinant]
        }
    };
    step.iter().all(|v| v.is_finite()).then_some(Scaling { slope: step[0], intercept: step[1] })
}
