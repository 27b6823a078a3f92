//! Zero-shot classification: each label is a pair of prompts, and the probability is a softmax over the two
//! similarities.

use crate::data::rows;
use crate::error::{Error, Result};

/// Logits of presence, `[samples, labels]`: `scale * (cos(x, positive) - cos(x, negative))`, whose sigmoid is element 0 of the
/// softmax over the two. Ranks (areas, average precision, operating points) are taken of these: their order is that of the
/// probabilities before rounding, at any scale, where a saturated softmax makes ties.
///
/// `embeddings` is `[samples, dim]`; `positive` and `negative` are `[labels, dim]`; all rows L2-normalised.
///
/// The X2CT-CLIP evaluation uses raw cosines, scale 1; CT-CLIP and DCFormer multiply by their temperature (about e). The scale
/// changes probabilities, but no rank, pooled or not, and no prediction cut at one half.
///
/// Errors: empty or non-finite input, rows not normalised, different numbers of prompts, a scale that is not positive.
pub fn logits(embeddings: &[f32], positive: &[f32], negative: &[f32], dim: usize, scale: f64) -> Result<Vec<f64>> {
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
    // x.(p - n) needs one product per label.
    let direction: Vec<f64> = positive.iter().zip(negative).map(|(&p, &n)| f64::from(p) - f64::from(n)).collect();
    Ok(embeddings
        .chunks_exact(dim)
        .flat_map(|x| direction.chunks_exact(dim).map(move |d| (x, d)))
        .map(|(x, d)| scale * x.iter().zip(d).map(|(&x, d)| f64::from(x) * d).sum::<f64>())
        .collect())
}

/// The labels whose two prompts have equal embeddings, `[names, dim]`: nothing tells presence from absence, and every logit is 0.
pub fn equal_prompts<'a>(names: &[&'a str], positive: &[f32], negative: &[f32], dim: usize) -> Vec<&'a str> {
    let pairs = positive.chunks_exact(dim.max(1)).zip(negative.chunks_exact(dim.max(1)));
    names.iter().zip(pairs).filter(|(_, (p, n))| p == n).map(|(name, _)| *name).collect()
}

/// A sentence's rest about labels of [`equal_prompts`], if there are some.
pub fn doubt_of_prompts(equal: &[&str]) -> Option<String> {
    let says =
        "the two prompts have one embedding, so the probability is one half and the AUC too, whatever an image shows";
    (!equal.is_empty()).then(|| format!("of {} {says}", equal.join(", ")))
}

/// The probability of presence of a logit.
pub fn probability(logit: f64) -> f64 {
    1.0 / (1.0 + (-logit).exp())
}

/// Probabilities of presence, `[samples, labels]`, of [`logits`]. Errors: likewise.
pub fn probabilities(
    embeddings: &[f32],
    positive: &[f32],
    negative: &[f32],
    dim: usize,
    scale: f64,
) -> Result<Vec<f32>> {
    let logits = logits(embeddings, positive, negative, dim, scale)?;
    Ok(logits.into_iter().map(|logit| probability(logit) as f32).collect())
}
