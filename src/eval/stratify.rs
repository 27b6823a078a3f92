//! Iterative stratification of multi-label samples (Sechidis, Tsoumakas and Vlahavas 2011; of pairs of labels, Szymanski and
//! Kajdanowicz 2017), by sample or by group: a patient's samples then stay on one side.
//!
//! The rarest label (or pair) that is left goes first: each of its samples to the part that lacks it most; among equals to the part
//! that lacks most of all the sample's labels, then to the one that lacks samples most, then at random. Order 2 does so for pairs of labels and single labels alike.

use crate::error::{Error, Result};
use crate::philox::Rng;
use std::collections::HashMap;
use std::hash::Hash;

/// How to split samples into parts.
#[derive(Clone, Debug)]
pub struct Stratify {
    /// The share of samples of each part; they add up to 1.
    pub shares: Vec<f64>,
    /// 1 stratifies labels, 2 pairs of labels too.
    pub order: usize,
    /// Decides among equals.
    pub seed: u64,
}

impl Stratify {
    /// Two parts, of which the first is this share.
    pub fn share(first: f64, order: usize, seed: u64) -> Self {
        Stratify { shares: vec![first, 1.0 - first], order, seed }
    }

    /// The part of each sample, of labels `[samples, classes]`.
    ///
    /// Errors: no samples, labels that are no whole rows, shares that are not positive or do not add up to 1, another order than
    /// 1 or 2.
    pub fn split(&self, labels: &[bool], classes: usize) -> Result<Vec<usize>> {
        let samples = labels.len() / classes.max(1);
        self.split_grouped(labels, classes, &(0..samples).collect::<Vec<_>>())
    }

    /// [`Self::split`] where samples of one group stay together.
    ///
    /// Errors: likewise, and another number of groups than samples.
    pub fn split_grouped<K: Eq + Hash>(&self, labels: &[bool], classes: usize, groups: &[K]) -> Result<Vec<usize>> {
        self.check(labels, classes, groups.len())?;
        let mut places = HashMap::new();
        let mut group_of = Vec::with_capacity(groups.len());
        for group in groups {
            let next = places.len();
            group_of.push(*places.entry(group).or_insert(next));
        }
        let mut items = vec![Item { size: 0, traits: Vec::new() }; places.len()];
        let mut kinds = Kinds::default();
        for (row, &group) in labels.chunks_exact(classes).zip(&group_of) {
            items[group].size += 1;
            kinds.add(row, self.order, &mut items[group].traits);
        }
        items.iter_mut().for_each(Item::merge);
        let parts = Dealer::new(self, &items, kinds.count()).deal();
        Ok(group_of.into_iter().map(|group| parts[group]).collect())
    }

    /// Some of the samples, by their places, as those of the first part and the others; a first part of 0 or 1 has none or all.
    /// Samples of one group stay together where there are groups, one a sample.
    ///
    /// Errors: likewise.
    pub fn divide<K: Eq + Hash>(
        &self,
        places: Vec<usize>,
        (labels, classes): (&[bool], usize),
        groups: Option<&[K]>,
    ) -> Result<[Vec<usize>; 2]> {
        match self.shares.first() {
            _ if places.is_empty() => return Ok([Vec::new(), places]),
            Some(0.0) => return Ok([Vec::new(), places]),
            Some(1.0) => return Ok([places, Vec::new()]),
            _ => (),
        }
        let labels: Vec<bool> = places.iter().flat_map(|&at| &labels[at * classes..][..classes]).copied().collect();
        let parts = match groups {
            None => self.split(&labels, classes)?,
            Some(groups) => {
                let groups: Vec<&K> = places.iter().map(|&at| &groups[at]).collect();
                self.split_grouped(&labels, classes, &groups)?
            }
        };
        let (first, others): (Vec<_>, Vec<_>) = places.into_iter().zip(parts).partition(|(_, part)| *part == 0);
        Ok([first, others].map(|of| of.into_iter().map(|(at, _)| at).collect()))
    }

    fn check(&self, labels: &[bool], classes: usize, samples: usize) -> Result<()> {
        let refuse = |problem: String, hint: &str| Err(Error::argument("stratification", problem, hint));
        if classes == 0 || samples == 0 || labels.len() != samples * classes {
            let problem = format!("{} labels for {samples} samples and {classes} classes", labels.len());
            return refuse(problem, "pass whole rows, and at least one");
        }
        if !(1..=2).contains(&self.order) {
            return refuse(format!("order {} is neither 1 nor 2", self.order), "2 stratifies pairs of labels too");
        }
        let sum: f64 = self.shares.iter().sum();
        if self.shares.iter().any(|share| !(*share > 0.0)) || (sum - 1.0).abs() > 1e-9 {
            return refuse(format!("the shares are {:?}", self.shares), "pass positive shares that add up to 1");
        }
        Ok(())
    }
}

/// What is dealt as a whole: a sample, or the samples of a group.
#[derive(Clone)]
struct Item {
    /// Samples in it.
    size: usize,
    /// Its kinds, and of how many of its samples each is one.
    traits: Vec<(usize, usize)>,
}

impl Item {
    /// Counts each kind once.
    fn merge(&mut self) {
        self.traits.sort_unstable();
        self.traits.dedup_by(|next, kept| {
            let same = next.0 == kept.0;
            kept.1 += if same { next.1 } else { 0 };
            same
        });
    }
}

/// Labels and pairs of labels, numbered as they turn up.
#[derive(Default)]
struct Kinds(HashMap<[usize; 2], usize>);

impl Kinds {
    fn add(&mut self, row: &[bool], order: usize, traits: &mut Vec<(usize, usize)>) {
        let present: Vec<usize> = (0..row.len()).filter(|&label| row[label]).collect();
        for (at, &first) in present.iter().enumerate() {
            let others = if order == 2 { &present[at..] } else { &present[at..=at] };
            for &second in others {
                let next = self.0.len();
                traits.push((*self.0.entry([first, second]).or_insert(next), 1));
            }
        }
    }

    fn count(&self) -> usize {
        self.0.len()
    }
}

/// The state of a deal.
struct Dealer<'a> {
    items: &'a [Item],
    /// Items of each kind that are not dealt yet.
    waiting: Vec<Vec<usize>>,
    /// Samples of each kind that are not dealt yet.
    left: Vec<usize>,
    /// Samples of each kind in all.
    sizes: Vec<f64>,
    /// Samples of each kind that each part lacks, `[kinds][parts]`.
    wanted: Vec<Vec<f64>>,
    /// Samples that each part lacks.
    room: Vec<f64>,
    part: Vec<Option<usize>>,
    random: Rng,
}

impl<'a> Dealer<'a> {
    fn new(how: &Stratify, items: &'a [Item], kinds: usize) -> Self {
        let mut waiting = vec![Vec::new(); kinds];
        let mut left = vec![0; kinds];
        for (at, item) in items.iter().enumerate() {
            for &(kind, count) in &item.traits {
                waiting[kind].push(at);
                left[kind] += count;
            }
        }
        let samples: usize = items.iter().map(|item| item.size).sum();
        let of = |count: usize| how.shares.iter().map(|share| share * count as f64).collect::<Vec<f64>>();
        let wanted = left.iter().map(|&count| of(count)).collect();
        let sizes = left.iter().map(|&count| count as f64).collect();
        let random = Rng::new(how.seed, 0, 0);
        Dealer { items, waiting, left, sizes, wanted, room: of(samples), part: vec![None; items.len()], random }
    }

    fn deal(mut self) -> Vec<usize> {
        while let Some(kind) = self.rarest() {
            let mut items = std::mem::take(&mut self.waiting[kind]);
            items.retain(|&item| self.part[item].is_none());
            // Large groups first: small ones even out what they leave.
            items.sort_by_key(|&item| std::cmp::Reverse(self.items[item].size));
            items.into_iter().for_each(|item| self.give(item, Some(kind)));
            self.left[kind] = 0;
        }
        for item in self.shuffled_rest() {
            self.give(item, None);
        }
        self.part.into_iter().flatten().collect()
    }

    /// A kind with the fewest samples that are left, at random among equals.
    fn rarest(&mut self) -> Option<usize> {
        let fewest = *self.left.iter().filter(|&&count| count > 0).min()?;
        let equals: Vec<usize> = (0..self.left.len()).filter(|&kind| self.left[kind] == fewest).collect();
        Some(equals[self.random.below(equals.len())])
    }

    /// The items without a label that is left, in random order, large ones first.
    fn shuffled_rest(&mut self) -> Vec<usize> {
        let mut rest: Vec<usize> = (0..self.items.len()).filter(|&item| self.part[item].is_none()).collect();
        for at in (1..rest.len()).rev() {
            rest.swap(at, self.random.below(at + 1));
        }
        rest.sort_by_key(|&item| std::cmp::Reverse(self.items[item].size));
        rest
    }

    /// How much a part lacks of all the item's kinds, each by its size.
    fn lack_of_all(&self, item: usize, part: usize) -> f64 {
        self.items[item].traits.iter().map(|&(kind, _)| self.wanted[kind][part] / self.sizes[kind]).sum()
    }

    /// Deals one item to the part that lacks its kind most.
    fn give(&mut self, item: usize, kind: Option<usize>) {
        let lack = |part: usize| kind.map_or(self.room[part], |kind| self.wanted[kind][part]);
        let best = largest(0..self.room.len(), lack);
        let best = largest(best, |part| self.lack_of_all(item, part));
        let best = largest(best, |part| self.room[part]);
        let part = best[self.random.below(best.len())];
        let Item { size, traits } = &self.items[item];
        self.part[item] = Some(part);
        self.room[part] -= *size as f64;
        for &(kind, count) in traits {
            self.wanted[kind][part] -= count as f64;
            self.left[kind] -= count;
        }
    }
}

/// Those of the parts whose value is largest, but for rounding.
fn largest(parts: impl IntoIterator<Item = usize>, value: impl Fn(usize) -> f64) -> Vec<usize> {
    let parts: Vec<usize> = parts.into_iter().collect();
    let most = parts.iter().map(|&part| value(part)).fold(f64::NEG_INFINITY, f64::max);
    parts.into_iter().filter(|&part| value(part) >= most - 1e-9).collect()
}
