//! The gradient of a batch, in one pass or one micro-batch at a time.
//!
//! A contrastive loss couples all embeddings of a batch, so gradients cannot simply be summed over small batches. Gradient
//! caching (Gao, Zhang, Han and Callan, "Scaling deep contrastive learning batch size under memory limited setup", RepL4NLP
//! 2021, section 3) separates the two: the loss depends on the encoder through the embeddings alone, so with their gradient
//! at hand the backward pass of one micro-batch needs nothing of the others.
//!
//! 1. Every micro-batch is embedded without a record; the embeddings [N, D] are kept.
//! 2. The loss and its gradient with respect to the embeddings (and to parameters of the loss itself, such as a learnable
//!    temperature) are computed once, on the whole batch.
//! 3. Every micro-batch is embedded again, with a record, and its parameters' gradients are added up from its rows of that
//!    gradient.
//!
//! It costs one more forward pass; memory is the activations of one micro-batch and O(N D) ([`super::StepMemory`]). The result
//! is the gradient of one pass up to the order of additions where a row's embedding does not depend on its batch. Batch norm
//! makes it depend: it normalises by the statistics of the micro-batch, in both passes. The running statistics are updated
//! once a micro-batch, by the first pass ([`Forward::repeating`] leaves them alone).

use std::ops::Range;

use crate::nn::Forward;
use crate::tensor::{DType, Tensor};
use crate::{Error, Result, autograd::Var};

/// A batch, how its rows are embedded, and the loss of the embeddings.
pub trait BatchLoss {
    /// A new training pass, recording, over the parameters whose gradients are wanted.
    fn pass(&self) -> Forward<'_>;

    /// The embeddings [rows, D], f32, of these rows of the batch. Called twice for the same rows, it computes the same:
    /// whatever is random is drawn from a row's place in the run, never from a generator that moves on.
    fn embed(&self, pass: &Forward, rows: Range<usize>) -> Result<Var>;

    /// The loss, one f32, of the embeddings [N, D] of the whole batch.
    fn loss(&self, pass: &Forward, embeddings: &Var) -> Result<Var>;
}

/// A batch of `rows` cut into micro-batches of at most `limit` rows, as few and as equal as can be.
///
/// # Errors
/// When one would hold a single row of a larger batch: batch norm would normalise it by itself. From a limit of 3 on none does.
pub fn micro_batches(rows: usize, limit: Option<usize>) -> Result<Vec<Range<usize>>> {
    let parts = cut(rows, limit);
    if rows > 1 && rows < 2 * parts.len() {
        return Err(Error::argument(
            "micro_batch",
            format!(
                "{} cuts a batch of {rows} so that a part holds 1 radiograph, too few for batch norm",
                limit.unwrap_or(rows)
            ),
            "use a micro_batch of at least 3",
        ));
    }
    Ok(parts)
}

/// [`micro_batches`], of which one may hold a single row.
pub(super) fn cut(rows: usize, limit: Option<usize>) -> Vec<Range<usize>> {
    let count = rows.div_ceil(limit.unwrap_or(rows).max(1));
    (0..count).map(|i| rows * i / count..rows * (i + 1) / count).collect()
}

/// Adds the gradients of the loss to those of the parameters (zero them before) and returns the loss. `parts` are the
/// micro-batches, in order; a single one is recorded and needs no second pass. Deterministic.
pub fn gradients(batch: &impl BatchLoss, parts: &[Range<usize>]) -> Result<f32> {
    match parts {
        [] => Err(Error::argument("batch", "has no rows", "use a batch of at least one row")),
        [whole] => direct(batch, whole.clone()),
        parts => cached(batch, parts),
    }
}

fn direct(batch: &impl BatchLoss, rows: Range<usize>) -> Result<f32> {
    let pass = batch.pass();
    let embeddings = batch.embed(&pass, rows)?;
    let loss = batch.loss(&pass, &embeddings)?;
    pass.tape.backward(&loss)?;
    loss.tensor().item()
}

fn cached(batch: &impl BatchLoss, parts: &[Range<usize>]) -> Result<f32> {
    let (loss, gradient) = loss_gradient(batch, &embeddings(batch, parts)?)?;
    for rows in parts {
        let pass = batch.pass().repeating();
        let part = batch.embed(&pass, rows.clone())?;
        pass.tape.backward_from(&[(&part, &gradient.rows(rows.start, rows.len())?)])?;
    }
    Ok(loss)
}

/// The embeddings of all parts, without a record.
fn embeddings(batch: &impl BatchLoss, parts: &[Range<usize>]) -> Result<Tensor> {
    let count = parts.iter().map(|rows| rows.len()).sum::<usize>();
    let mut all: Option<Tensor> = None;
    for rows in parts {
        let part = batch.embed(&batch.pass().without_record(), rows.clone())?;
        let [_, dim] = part.tensor().dims::<2>("embeddings")?;
        let all = match &all {
            Some(all) => all,
            None => all.insert(Tensor::empty(part.tensor().device(), [count, dim], DType::F32, "cached embeddings")?),
        };
        all.rows(rows.start, rows.len())?.copy_from(part.tensor())?;
    }
    all.ok_or_else(|| Error::argument("batch", "has no rows", "use a batch of at least one row"))
}

/// The loss and its gradient with respect to the embeddings; those of the loss's own parameters are added to theirs.
fn loss_gradient(batch: &impl BatchLoss, embeddings: &Tensor) -> Result<(f32, Tensor)> {
    let pass = batch.pass();
    let leaf = pass.tape.leaf(embeddings);
    let loss = batch.loss(&pass, &leaf)?;
    let gradients = pass.tape.backward(&loss)?;
    let gradient = gradients.get(&leaf).ok_or_else(|| {
        Error::argument("loss", "does not depend on the embeddings", "give a pair of the embeddings a weight")
    })?;
    Ok((loss.tensor().item()?, gradient.clone()))
}
