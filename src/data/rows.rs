//! Checks and small operations on row-major matrices of embeddings, pixels or scores: `values` holds `rows x dim`
//! numbers.

use std::collections::HashSet;
use std::fmt::Display;

use crate::error::{Error, Result};

/// How far a row's length may be from 1 and still count as L2-normalised: f32 rounding over 4,096 components, not bf16.
pub const UNIT_TOLERANCE: f64 = 1e-3;

/// The number of rows of `values`, `[rows, dim]`.
///
/// Errors: no rows, no columns, a length that is no multiple of `dim`, a NaN or infinity (named by row and column).
pub fn check<T: Copy + Into<f64> + Display>(what: &str, values: &[T], dim: usize) -> Result<usize> {
    if dim == 0 || values.is_empty() {
        return Err(Error::argument(
            what,
            format!("is empty ({} values, {dim} columns)", values.len()),
            "pass at least one row",
        ));
    }
    if !values.len().is_multiple_of(dim) {
        return Err(Error::argument(
            what,
            format!("{} values are not whole rows of {dim}", values.len()),
            "pass a row-major matrix",
        ));
    }
    if let Some(i) = first_not_finite(values) {
        return Err(Error::argument(
            what,
            format!("row {}, column {} is {}", i / dim, i % dim, values[i]),
            "find where the value became non-finite",
        ));
    }
    Ok(values.len() / dim)
}

/// Looks at runs without a branch on each value, which a compiler turns into vectors.
fn first_not_finite<T: Copy + Into<f64>>(values: &[T]) -> Option<usize> {
    const RUN: usize = 1024;
    let finite = |value: &T| (*value).into().is_finite();
    let run = values.chunks(RUN).position(|run| !run.iter().fold(true, |all, value| all & finite(value)))?;
    values[run * RUN..].iter().position(|value| !finite(value)).map(|at| run * RUN + at)
}

/// [`check`], and every row has length 1 within [`UNIT_TOLERANCE`].
pub fn check_normalised(what: &str, values: &[f32], dim: usize) -> Result<usize> {
    let rows = check(what, values, dim)?;
    for (i, row) in values.chunks_exact(dim).enumerate() {
        let length = length(row);
        if (length - 1.0).abs() > UNIT_TOLERANCE {
            return Err(Error::argument(
                what,
                format!("row {i} has length {length:.6}, not 1"),
                "L2-normalise the rows first",
            ));
        }
    }
    Ok(rows)
}

/// Divides every row by its length, computed in f64. Errors: those of [`check`], and a row of zeros, which has no
/// direction.
pub fn l2_normalise(what: &str, values: &mut [f32], dim: usize) -> Result<()> {
    check(what, values, dim)?;
    for (i, row) in values.chunks_exact_mut(dim).enumerate() {
        let length = length(row);
        if length == 0.0 {
            return Err(Error::argument(
                what,
                format!("row {i} is all zeros"),
                "a zero vector has no direction to normalise",
            ));
        }
        row.iter_mut().for_each(|v| *v = (f64::from(*v) / length) as f32);
    }
    Ok(())
}

/// The first of the rows' ids that stood before.
pub fn first_repeated(ids: &[String]) -> Option<&str> {
    let mut seen = HashSet::new();
    ids.iter().map(String::as_str).find(|id| !seen.insert(*id))
}

/// The rows named by `indices`, in that order. Panics where an index is out of range.
pub fn select(values: &[f32], dim: usize, indices: &[usize]) -> Vec<f32> {
    let mut selected = Vec::with_capacity(indices.len() * dim);
    indices.iter().for_each(|&i| selected.extend_from_slice(&values[i * dim..(i + 1) * dim]));
    selected
}

/// Squares are added in eight lanes: one sum would wait for each addition.
fn length(row: &[f32]) -> f64 {
    const LANES: usize = 8;
    let (whole, rest) = row.as_chunks::<LANES>();
    let mut sums = [0.0f64; LANES];
    for values in whole {
        for lane in 0..LANES {
            sums[lane] += f64::from(values[lane]) * f64::from(values[lane]);
        }
    }
    let rest: f64 = rest.iter().map(|&v| f64::from(v) * f64::from(v)).sum();
    (sums.iter().sum::<f64>() + rest).sqrt()
}
