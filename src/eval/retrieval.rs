//! Cross-modal retrieval: for paired embeddings, how many wrong candidates score strictly above the right one.
//!
//! Query `i` belongs to gallery entry `i`, scores are dot products of L2-normalised rows (cosines), and a query is a
//! hit at `k` if fewer than `k` entries score strictly higher. So a tie never depends on the order of the gallery;
//! reconstructions of one scan, whose reports are equal, tie by construction.

use crate::data::rows;
use crate::error::{Error, Result};
use rayon::prelude::*;
use serde::Serialize;
use std::collections::HashSet;
use std::hash::Hash;

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

/// Recall at `k` of a random ranking.
pub fn chance(k: usize, gallery: usize) -> f64 {
    (k as f64 / gallery.max(1) as f64).min(1.0)
}

const TILE: usize = 64;

/// Ranks of the true partners between `first` and `second`, both `[pairs, dim]` with normalised rows.
///
/// Works on tiles of 64 x 64 scores, each computed once for both directions; memory is O(pairs). Deterministic: a score
/// has one summation order wherever it is computed, so equal rows tie exactly. Errors: empty or non-finite input, rows
/// not normalised, different numbers of rows.
pub fn ranks(first: &[f32], second: &[f32], dim: usize) -> Result<Ranks> {
    let pairs = rows::check_normalised("query embeddings", first, dim)?;
    if rows::check_normalised("gallery embeddings", second, dim)? != pairs {
        return Err(Error::argument(
            "retrieval",
            format!("{pairs} rows against {}", second.len() / dim),
            "pass matrices whose equal rows belong together",
        ));
    }
    let own: Vec<f32> = first.chunks_exact(dim).zip(second.chunks_exact(dim)).map(|(a, b)| dot(a, b)).collect();
    let add = |mut a: Ranks, b: Ranks| {
        a.forward.iter_mut().zip(b.forward).for_each(|(a, b)| *a += b);
        a.backward.iter_mut().zip(b.backward).for_each(|(a, b)| *a += b);
        a
    };
    let zero = || Ranks { forward: vec![0; pairs], backward: vec![0; pairs] };
    // Integer counts: whichever thread adds them, the sum is the same.
    let count = |mut ranks: Ranks, tile: usize| {
        let queries = tile * TILE..((tile + 1) * TILE).min(pairs);
        for from in (0..pairs).step_by(TILE) {
            for i in queries.clone() {
                for j in from..(from + TILE).min(pairs) {
                    let score = dot(&first[i * dim..(i + 1) * dim], &second[j * dim..(j + 1) * dim]);
                    ranks.forward[i] += usize::from(score > own[i]);
                    ranks.backward[j] += usize::from(score > own[j]);
                }
            }
        }
        ranks
    };
    Ok((0..pairs.div_ceil(TILE)).into_par_iter().fold(zero, count).reduce(zero, add))
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
    let mut scored: Vec<(usize, f32)> = gallery.chunks_exact(dim).map(|row| dot(query, row)).enumerate().collect();
    scored.sort_by(|a, b| b.1.total_cmp(&a.1));
    scored.truncate(k);
    Ok(scored)
}

/// Indices of the first entry of each key: a gallery of one reconstruction per scan, or of one volume per patient.
pub fn first_of_each<K: Eq + Hash>(keys: impl IntoIterator<Item = K>) -> Vec<usize> {
    let mut seen = HashSet::new();
    keys.into_iter().enumerate().filter_map(|(i, key)| seen.insert(key).then_some(i)).collect()
}

/// f32 product in sixteen partial sums: vectorises, and the rounding error grows with `dim / 16`, not `dim`.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    const LANES: usize = 16;
    let mut sums = [0.0f32; LANES];
    let (a_whole, a_rest) = a.as_chunks::<LANES>();
    let (b_whole, b_rest) = b.as_chunks::<LANES>();
    for (a, b) in a_whole.iter().zip(b_whole) {
        for lane in 0..LANES {
            sums[lane] += a[lane] * b[lane];
        }
    }
    for (lane, (a, b)) in a_rest.iter().zip(b_rest).enumerate() {
        sums[lane] += a * b;
    }
    sums.iter().sum()
}
