//! The order of an epoch.

use crate::philox::Rng;

/// Philox streams of a training run, so that order and augmentation do not share numbers.
pub(super) const ORDER: u32 = 1;
pub(super) const AUGMENT: u32 = 2;

/// Draws each epoch's order: every group once, with one random member, so that no two pairs of a batch share a report
/// when a group is a scan and its members are the scan's reconstructions. A pure function of seed and epoch.
#[derive(Clone, Debug)]
pub struct Sampler {
    groups: Vec<Vec<u32>>,
    seed: u64,
}

impl Sampler {
    /// Groups rows by key, in order of first appearance.
    pub fn new<K: Eq + std::hash::Hash>(keys: impl IntoIterator<Item = K>, seed: u64) -> Self {
        let mut groups: Vec<Vec<u32>> = Vec::new();
        let mut known = std::collections::HashMap::new();
        for (row, key) in keys.into_iter().enumerate() {
            let group = *known.entry(key).or_insert_with(|| {
                groups.push(Vec::new());
                groups.len() - 1
            });
            groups[group].push(row as u32);
        }
        Sampler { groups, seed }
    }

    /// Pairs an epoch.
    pub fn len(&self) -> usize {
        self.groups.len()
    }

    /// Whether there is nothing to draw.
    pub fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    /// The rows of an epoch in order (Fisher-Yates).
    pub fn epoch(&self, epoch: usize) -> Vec<u32> {
        let mut rng = Rng::new(self.seed, epoch as u64, ORDER);
        let mut rows: Vec<u32> = self.groups.iter().map(|members| members[rng.below(members.len())]).collect();
        for i in (1..rows.len()).rev() {
            rows.swap(i, rng.below(i + 1));
        }
        rows
    }

    /// An epoch in batches: the last, short one is used unless it holds a single pair or `drop_last` is set.
    pub fn cut(&self, batch: usize, drop_last: bool) -> Epoch {
        let pairs = self.len();
        let batches = pairs / batch + usize::from(!drop_last && pairs % batch > 1);
        Epoch { pairs, batches, left_out: pairs.saturating_sub(batches * batch) }
    }
}

/// How an epoch is cut into batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Epoch {
    /// Pairs of the order: one of each scan.
    pub pairs: usize,
    /// Batches, each a step.
    pub batches: usize,
    /// Pairs at the end of the order that no step is on; others in every epoch.
    pub left_out: usize,
}
