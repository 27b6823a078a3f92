//! Percentile bootstrap over patients: a patient's samples are drawn together, because they are not independent.

use crate::error::{Error, Result};
use rayon::prelude::*;
use serde::Serialize;
use std::collections::HashMap;
use std::hash::Hash;

/// How to resample.
#[derive(Clone, Copy, Debug)]
pub struct Bootstrap {
    /// Number of resamples.
    pub replicates: usize,
    /// Coverage of the interval, between 0 and 1.
    pub level: f64,
    /// Replicate `i` draws from a generator seeded by `(seed, i)`: results do not depend on the number of threads.
    pub seed: u64,
}

impl Default for Bootstrap {
    fn default() -> Self {
        Bootstrap { replicates: 1000, level: 0.95, seed: 1024 }
    }
}

/// An estimate and its percentile interval.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Interval {
    /// The statistic on all samples.
    pub estimate: f64,
    /// Lower and upper percentile over the replicates.
    pub low: f64,
    pub high: f64,
    /// Replicates on which the statistic was defined; the others are left out.
    pub defined: usize,
}

impl Bootstrap {
    /// The interval of `statistic`, which gets sample indices (with repetitions) and may be undefined on some draws.
    /// `patients` names the patient of each sample.
    ///
    /// Errors: no samples, no replicates, a level outside 0..1, a statistic undefined on the samples themselves or on
    /// more than half of the replicates.
    pub fn interval<K: Eq + Hash>(
        &self,
        patients: &[K],
        statistic: impl Fn(&[usize]) -> Option<f64> + Sync,
    ) -> Result<Interval> {
        let refuse = |problem: String, hint: &str| Error::argument("bootstrap", problem, hint);
        if patients.is_empty() || self.replicates == 0 {
            return Err(refuse(
                format!("{} samples and {} replicates", patients.len(), self.replicates),
                "pass at least one of each",
            ));
        }
        if !(self.level > 0.0 && self.level < 1.0) {
            return Err(refuse(format!("level {} is not between 0 and 1", self.level), "0.95 is usual"));
        }
        let defined = |value: Option<f64>| value.filter(|v| v.is_finite());
        let all: Vec<usize> = (0..patients.len()).collect();
        let estimate = defined(statistic(&all)).ok_or_else(|| {
            refuse("the statistic is undefined on the samples themselves".into(), "it may need both classes")
        })?;

        let groups = samples_of_each(patients);
        let mut values: Vec<f64> = (0..self.replicates)
            .into_par_iter()
            .filter_map(|replicate| {
                let mut random = SplitMix64::new(self.seed, replicate as u64);
                let draw: Vec<usize> =
                    (0..groups.len()).flat_map(|_| &groups[random.below(groups.len())]).copied().collect();
                defined(statistic(&draw))
            })
            .collect();
        if values.len() * 2 < self.replicates {
            return Err(refuse(
                format!("the statistic is defined on {} of {} replicates only", values.len(), self.replicates),
                "there are too few patients of one class for an interval",
            ));
        }
        values.sort_unstable_by(f64::total_cmp);
        let tail = (1.0 - self.level) / 2.0;
        Ok(Interval {
            estimate,
            low: quantile(&values, tail),
            high: quantile(&values, 1.0 - tail),
            defined: values.len(),
        })
    }
}

/// Sample indices per patient, patients in the order of their first sample.
fn samples_of_each<K: Eq + Hash>(patients: &[K]) -> Vec<Vec<usize>> {
    let mut place = HashMap::new();
    let mut groups: Vec<Vec<usize>> = Vec::new();
    for (i, patient) in patients.iter().enumerate() {
        let at = *place.entry(patient).or_insert(groups.len());
        if at == groups.len() {
            groups.push(Vec::new());
        }
        groups[at].push(i);
    }
    groups
}

/// Linear interpolation between order statistics (NumPy's default). `sorted` is not empty.
fn quantile(sorted: &[f64], q: f64) -> f64 {
    let at = q * (sorted.len() - 1) as f64;
    let (low, high) = (sorted[at.floor() as usize], sorted[at.ceil() as usize]);
    low + (high - low) * at.fract()
}

/// Steele, Lea and Flood's SplitMix64: enough for drawing indices, and each replicate can have its own.
struct SplitMix64(u64);

impl SplitMix64 {
    fn new(seed: u64, stream: u64) -> Self {
        let mut random = SplitMix64(seed);
        SplitMix64(random.next() ^ SplitMix64(stream).next())
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// 0..n; the bias of the multiply-shift, n / 2^64, is far below anything a bootstrap resolves.
    fn below(&mut self, n: usize) -> usize {
        ((u128::from(self.next()) * n as u128) >> 64) as usize
    }
}
