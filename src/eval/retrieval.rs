//! Cross-modal retrieval: for paired embeddings, how many wrong candidates score strictly above the right one.
//!
//! Query `i` belongs to gallery entry `i`, scores are dot products of L2-normalised rows (cosines), and a query is a
//! hit at `k` if fewer than `k` entries score strictly higher. So a tie never depends on the order of the gallery;
//! reconstructions of one scan, whose reports are equal, tie by construction. The price: where an encoder gives everything the
//! same embedding, every query is a hit. [`distinct`] counts how many embeddings differ, [`mean_cosine`] measures how much, and
//! [`collapse`] says when that is so little that recall means nothing.

use super::bootstrap::{Bootstrap, Interval};
use crate::data::ct_rate::VolumeName;
use crate::data::rows;
use crate::error::{Error, Result};
use rayon::prelude::*;
use serde::Serialize;
use std::collections::{BTreeMap, HashSet};
use std::hash::Hash;
use std::str::FromStr;

mod blocked;
use blocked::Query;

/// For each query the number of gallery entries that score strictly above its own, both ways.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ranks {
    /// Rows of the first matrix as queries, the second as gallery.
    pub forward: Vec<usize>,
    /// Rows of the second matrix as queries, the first as gallery.
    pub backward: Vec<usize>,
}

/// Recall at the usual cut-offs, as shares of the queries.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Recall {
    pub r1: f64,
    pub r5: f64,
    pub r10: f64,
    pub r50: f64,
    pub r100: f64,
    /// Median rank of the right entry; the best rank is 1.
    pub median_rank: f64,
}

impl Recall {
    /// From ranks counted from 0. Errors: no queries.
    pub fn from_ranks(ranks: &[usize]) -> Result<Self> {
        if ranks.is_empty() {
            return Err(Error::argument("retrieval", "there are no queries", "pass at least one pair"));
        }
        let mut sorted = ranks.to_vec();
        sorted.sort_unstable();
        let at = |k: usize| sorted.partition_point(|&rank| rank < k) as f64 / sorted.len() as f64;
        let middle = sorted[(sorted.len() - 1) / 2] + sorted[sorted.len() / 2];
        Ok(Recall {
            r1: at(1),
            r5: at(5),
            r10: at(10),
            r50: at(50),
            r100: at(100),
            median_rank: middle as f64 / 2.0 + 1.0,
        })
    }
}

/// The fields of [`Recall`] that are shares, with their cut-offs.
pub const CUTS: [(&str, usize); 5] = [("r1", 1), ("r5", 5), ("r10", 10), ("r50", 50), ("r100", 100)];

impl Recall {
    /// Values of the fields, in the order of [`CUTS`].
    pub fn shares(&self) -> [f64; CUTS.len()] {
        [self.r1, self.r5, self.r10, self.r50, self.r100]
    }

    /// Bootstrap intervals of the shares, by the names of [`CUTS`], from ranks counted from 0; `None` where there is no interval.
    /// Queries are drawn, those of a patient together, and search the one gallery there is.
    ///
    /// # Errors
    /// Those of [`Bootstrap::intervals`].
    pub fn intervals<K: Eq + Hash>(
        ranks: &[usize],
        patients: &[K],
        bootstrap: &Bootstrap,
    ) -> Result<BTreeMap<&'static str, Option<Interval>>> {
        if ranks.len() != patients.len() {
            let problem = format!("{} patients for {} queries", patients.len(), ranks.len());
            return Err(Error::argument("patients", problem, "pass one a query"));
        }
        let found = bootstrap.intervals(patients, |weights| {
            let (mut hits, mut all) = ([0u64; CUTS.len()], 0u64);
            for (&rank, &weight) in ranks.iter().zip(weights) {
                all += u64::from(weight);
                hits.iter_mut().zip(CUTS).for_each(|(hits, (_, k))| *hits += u64::from(weight) * u64::from(rank < k));
            }
            hits.iter().map(|&hits| (all > 0).then(|| hits as f64 / all as f64)).collect()
        })?;
        Ok(CUTS.iter().map(|(name, _)| *name).zip(found.into_iter().map(Result::ok)).collect())
    }
}

/// Recall at `k` of a random ranking.
pub fn chance(k: usize, gallery: usize) -> f64 {
    (k as f64 / gallery.max(1) as f64).min(1.0)
}

/// How many of the rows, `[rows, dim]`, differ from each other, bit for bit.
pub fn distinct(embeddings: &[f32], dim: usize) -> usize {
    let bits = bytemuck::cast_slice::<f32, u32>(embeddings);
    // Rows differ early: sorting looks at their first values, a hash at all.
    let mut rows: Vec<&[u32]> = bits.chunks_exact(dim.max(1)).collect();
    rows.par_sort_unstable();
    rows.dedup();
    rows.len()
}

/// The mean cosine of two of the rows, `[rows, dim]`, L2-normalised, a row with itself included: the squared length of their mean. It
/// is 1 where all point one way.
pub fn mean_cosine(embeddings: &[f32], dim: usize) -> f64 {
    let mut sum = vec![0.0f64; dim];
    for row in embeddings.chunks_exact(dim.max(1)) {
        sum.iter_mut().zip(row).for_each(|(sum, &value)| *sum += f64::from(value));
    }
    let rows = (embeddings.len() / dim.max(1)).max(1) as f64;
    sum.iter().map(|sum| (sum / rows).powi(2)).sum()
}

/// The most that the [`mean_cosine`] of embeddings may be before [`collapse`] says so: at 0.999 they lie within about 2 degrees of
/// their mean. A trained encoder's spread over tens of degrees; one that gives all inputs nearly the same comes to 0.9999 and more.
pub const MOST_ALIKE: f64 = 0.999;

/// How much embeddings of one kind differ from each other.
#[derive(Clone, Copy, Debug)]
pub struct Spread {
    /// How many embeddings there are.
    pub rows: usize,
    /// How many scans they are of; reconstructions of one may be equal.
    pub scans: usize,
    /// As [`distinct`] counts.
    pub distinct: usize,
    /// As [`mean_cosine`] measures.
    pub mean_cosine: f64,
}

/// A sentence's rest about embeddings whose ranks mean nothing: at most half as many are distinct as there are scans, the most that
/// equal reconstructions explain, so that ties decide; or they are alike beyond [`MOST_ALIKE`]. `what` they are of.
pub fn collapse(what: &str, Spread { rows, scans, distinct, mean_cosine }: Spread) -> Option<String> {
    let of_scans = if scans < rows { format!(", which are of {scans} scans,") } else { String::new() };
    if 2 * distinct <= scans {
        return Some(format!(
            "only {distinct} of {rows} embeddings of the {what}{of_scans} are distinct: ties count in favour of the right item, \
             so recall and median rank say nothing"
        ));
    }
    (scans > 1 && mean_cosine > MOST_ALIKE).then(|| {
        format!(
            "the {rows} embeddings of the {what} are almost one: the mean cosine of two is {mean_cosine:.6}, and from \
             {MOST_ALIKE} on ranks and areas rest on differences that mean little"
        )
    })
}

/// What queries of one kind find in a gallery of another, of paired embeddings.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    /// For each query the number of gallery entries that score strictly above its own.
    pub above: Vec<usize>,
    /// Gallery entries named of each query: as many as were asked for, or all.
    pub k: usize,
    /// `[queries, k]`: the nearest entries, best first, ties by index.
    pub nearest: Vec<u32>,
    /// `[queries, k]`: their cosines.
    pub scores: Vec<f32>,
}

impl Found {
    fn of(queries: Vec<Query>, k: usize) -> Self {
        let above = queries.iter().map(|query| query.above as usize).collect();
        let (scores, nearest) = queries.into_iter().flat_map(|query| query.best).unzip();
        Found { above, k, nearest, scores }
    }
}

/// Ranks of the true partners between `first` and `second`, both `[pairs, dim]` with normalised rows.
///
/// A cosine is summed in f64 in one order and rounded once to f32, and these are compared: equal rows tie exactly, and the outcome is
/// the same on every machine, for any number of threads. Most are not computed but decided by products in f32, whose error is
/// bounded; each of those serves both directions; memory is O(pairs). Errors: empty or non-finite input, rows not normalised, different
/// numbers of rows.
pub fn ranks(first: &[f32], second: &[f32], dim: usize) -> Result<Ranks> {
    let [forward, backward] = paired(first, second, dim, 0)?.map(|found| found.above);
    Ok(Ranks { forward, backward })
}

/// [`ranks`], with the `k` nearest entries of every query: rows of `first` as queries, and rows of `second`. Errors: as [`ranks`].
pub fn paired(first: &[f32], second: &[f32], dim: usize, k: usize) -> Result<[Found; 2]> {
    let pairs = rows::check_normalised("query embeddings", first, dim)?;
    if rows::check_normalised("gallery embeddings", second, dim)? != pairs {
        return Err(Error::argument(
            "retrieval",
            format!("{pairs} rows against {}", second.len() / dim),
            "pass matrices whose equal rows belong together",
        ));
    }
    if pairs >= u32::MAX as usize {
        return Err(Error::argument("retrieval", format!("there are {pairs} pairs"), "pass fewer than 2^32"));
    }
    let k = k.min(pairs);
    Ok(blocked::both_ways(first, second, dim, k).map(|queries| Found::of(queries, k)))
}

/// The `k` best gallery entries of one query as (index, cosine), best first, ties by index. Errors: as [`ranks`].
pub fn nearest(query: &[f32], gallery: &[f32], dim: usize, k: usize) -> Result<Vec<(usize, f32)>> {
    if rows::check_normalised("query embedding", query, dim)? != 1 {
        return Err(Error::argument(
            "query embedding",
            format!("has {} values", query.len()),
            format!("pass one row of {dim}"),
        ));
    }
    rows::check_normalised("gallery embeddings", gallery, dim)?;
    let mut all: Vec<_> = gallery.chunks_exact(dim).map(|item| blocked::similarity(query, item)).zip(0..).collect();
    all.sort_unstable_by(blocked::by_score);
    Ok(all.into_iter().take(k).map(|(cosine, row)| (row as usize, cosine)).collect())
}

/// What stands in a gallery once, and is a query once. A scan's reconstructions share their report, and a patient's scans much.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Gallery {
    /// Every volume.
    #[default]
    Volume,
    /// The first volume of each scan.
    Scan,
    /// The first volume of each patient.
    Patient,
}

impl Gallery {
    /// All, in the order in which they are offered.
    pub const NAMES: [&str; 3] = ["volume", "scan", "patient"];

    /// Its name.
    pub fn name(self) -> &'static str {
        Self::NAMES[self as usize]
    }

    /// The places of its members among ids of volumes ([`VolumeName`]); other ids are one scan and one patient each.
    pub fn members(self, ids: &[String]) -> Vec<usize> {
        match self {
            Gallery::Volume => (0..ids.len()).collect(),
            Gallery::Scan => first_of_each(ids.iter().map(|id| VolumeName::scan_of(id))),
            Gallery::Patient => first_of_each(ids.iter().map(|id| VolumeName::patient_of(id))),
        }
    }
}

impl FromStr for Gallery {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let all = [Gallery::Volume, Gallery::Scan, Gallery::Patient];
        all.into_iter().find(|gallery| gallery.name() == name).ok_or_else(|| {
            let hint = format!("choose one of {}", Self::NAMES.join(", "));
            Error::argument("gallery", format!("unknown gallery `{name}`"), hint)
        })
    }
}

/// Indices of the first entry of each key: a gallery of one reconstruction per scan, or of one volume per patient.
pub fn first_of_each<K: Eq + Hash>(keys: impl IntoIterator<Item = K>) -> Vec<usize> {
    let mut seen = HashSet::new();
    keys.into_iter().enumerate().filter_map(|(i, key)| seen.insert(key).then_some(i)).collect()
}
