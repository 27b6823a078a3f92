//! Evaluation: label metrics, significance, confidence intervals, retrieval, zero-shot probabilities, linear probes.
//!
//! Everything here is plain arithmetic on the CPU over row-major slices, but [`linear_probe`], which trains on a device; deterministic for
//! any number of threads.
//! Input that is empty, ragged or not finite is an error that names the matrix and the row.

pub mod bootstrap;
pub mod calibration;
pub mod calibration_file;
pub mod delong;
pub mod detection;
pub mod linear_probe;
pub mod metrics;
mod normal;
pub mod probe;
pub mod retrieval;
pub mod retrieval_file;
pub mod score_file;
pub mod scores;
pub mod stratify;
pub mod zero_shot;

use crate::error::{Error, Result};

/// A number that ranks samples: f32 or f64.
pub trait Score: Copy + PartialOrd + Into<f64> + std::fmt::Display {}

impl Score for f32 {}
impl Score for f64 {}

/// Refuses empty input, unequal lengths and non-finite scores of `samples x classes` cells.
fn check_labelled<S: Score>(labels: &[bool], scores: &[S], classes: usize) -> Result<()> {
    if labels.len() != scores.len() {
        return Err(Error::argument(
            "scores",
            format!("{} scores for {} labels", scores.len(), labels.len()),
            "pass one score per label",
        ));
    }
    crate::data::rows::check("scores", scores, classes)?;
    Ok(())
}
