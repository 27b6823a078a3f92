//! Zero-shot classification: each label is a pair of prompts, and the probability is a softmax over the two
//! similarities.

use crate::data::rows;
use crate::error::{Error, Result};

/// Probability of presence, `[samples, labels]`: element 0 of `softmax(scale * (cos(x, positive), cos(x, negative)))`.
///
/// `embeddings` is `[samples, dim]`; `positive` and `negative` are `[labels, dim]`; all rows L2-normalised.
///
/// The X2CT-CLIP evaluation uses raw cosines, scale 1; CT-CLIP and DCFormer multiply by their temperature (about e).
/// The scale changes neither a label's own AUC nor predictions cut at one half, but it does change the pooled (micro)
/// ranking.
///
/// Errors: empty or non-finite input, rows not normalised, different numbers of prompts, a scale that is not positive.
pub fn probabilities(
    embeddings: &[f32],
    positive: &[f32],
    negative: &[f32],
    dim: usize,
    scale: f64,
) -> Result<Vec<f32>> {
    rows::check_normalised("embeddings", embeddings, dim)?;
    let labels = rows::check_normalised("positive prompts", positive, dim)?;
    if rows::check_normalised("negative prompts", negative, dim)? != labels {
        return Err(Error::argument(
            "prompts",
            format!("{labels} positive and {} negative ones", negative.len() / dim),
            "pass one of each per label",
        ));
    }
    if !(scale.is_finite() && scale > 0.0) {
        return Err(Error::argument(
            "scale",
            format!("is {scale}"),
            "pass a positive number; 1 compares with X2CT-CLIP",
        ));
    }
    // A softmax over two is a sigmoid of the difference, and x.(p - n) needs one product per label.
    let direction: Vec<f64> = positive.iter().zip(negative).map(|(&p, &n)| f64::from(p) - f64::from(n)).collect();
    Ok(embeddings
        .chunks_exact(dim)
        .flat_map(|x| direction.chunks_exact(dim).map(move |d| (x, d)))
        .map(|(x, d)| {
            let gap: f64 = x.iter().zip(d).map(|(&x, d)| f64::from(x) * d).sum();
            (1.0 / (1.0 + (-scale * gap).exp())) as f32
        })
        .collect())
}
