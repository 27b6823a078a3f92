//! The loss of a batch whose items are spread over ranks.

use std::sync::Arc;

use super::{Context, Contrastive};
use crate::autograd::{Gradients, Op};
use crate::collective::Collective;
use crate::kernels::{DType, Write};
use crate::tensor::{Shape, Tensor};
use crate::{Error, Result};

/// A contrastive loss of the batch that all ranks' items make together. Inputs: as of [`Contrastive`], with this rank's n
/// items of every set; every rank has as many. `loss.ids` are those of this rank's items.
///
/// The output is this rank's part: the terms of its rows and of the columns that match them. Summed over the ranks, it is the
/// loss of the whole batch, and so are the gradients of scale and bias; those of this rank's embeddings are complete, whatever
/// the other ranks do with theirs. Exchanged: the embeddings (N d a set), and 3 pairs of numbers an item and pair; no
/// gradient. Every rank works on its own rows of logits: 1/R of a single device's U forward, 2U a gradient backward.
pub struct Sharded {
    /// The loss of the whole batch.
    pub loss: Contrastive,
    /// This rank's place among the others.
    pub collective: Arc<dyn Collective>,
}

/// What the gradient needs of the forward pass.
pub struct ShardedContext {
    context: Context,
    /// The loss with every item's id.
    loss: Contrastive,
}

impl Sharded {
    fn gather(&self, part: &Tensor, what: &str) -> Result<Tensor> {
        let mut shape: Shape = part.shape().clone();
        if let Some(first) = shape.first_mut() {
            *first *= self.collective.ranks();
        }
        let whole = Tensor::empty(part.device(), shape, part.dtype(), what)?;
        self.collective.all_gather(part, &whole)?;
        Ok(whole)
    }

    /// This rank's part of the loss, and the context of its gradient.
    pub fn forward(&self, inputs: &[&Tensor]) -> Result<(Tensor, ShardedContext)> {
        let [rows, _] = self.loss.check(inputs)?;
        let (rank, ranks) = (self.collective.rank(), self.collective.ranks());
        if rank >= ranks {
            return Err(Error::argument("collective", format!("rank {rank} of {ranks}"), "count ranks from 0"));
        }
        let ids = self.loss.ids.as_ref().map(|ids| self.gather(ids, "ids of all ranks")).transpose()?;
        let loss = Contrastive { ids, ..self.loss.clone() };
        let (sets, extra) = inputs.split_at(loss.sets);
        let all = sets.iter().map(|set| self.gather(set, "embeddings of all ranks")).collect::<Result<Vec<_>>>()?;
        let all: Vec<&Tensor> = all.iter().chain(extra.iter().copied()).collect();
        let mut context = Context::of_rows(&loss, &all, rank * rows, rows)?;
        let n = rows * ranks;
        let pairs = loss.active().len();
        let f32s = |shape: &[usize], what| Tensor::empty(inputs[0].device(), shape, DType::F32, what);
        let sums = context.sums(&loss)?;
        let own = f32s(&[pairs, n, 2], "sums of the columns over this rank's rows")?;
        context.column_sums(&loss, &sums, &own)?;
        let columns = f32s(&[pairs, ranks, n, 2], "sums of the columns")?;
        for pair in 0..pairs {
            let part = own.view(pair * n * 2, [n, 2])?;
            self.collective.all_gather(&part, &columns.view(pair * ranks * n * 2, [ranks * n, 2])?)?;
        }
        let value = context.finish(&loss, &sums, &columns, ranks)?;
        context.all_softmax = f32s(&[pairs, 2, n, 2], "softmax normalisers of all ranks")?;
        for side in 0..2 * pairs {
            let part = context.softmax.view(side * rows * 2, [rows, 2])?;
            self.collective.all_gather(&part, &context.all_softmax.view(side * n * 2, [n, 2])?)?;
        }
        Ok((value, ShardedContext { context, loss }))
    }

    /// As [`Contrastive::backward`], of this rank's items.
    pub fn backward(
        &self,
        context: &ShardedContext,
        upstream: &Tensor,
        gradients: &[Option<(Tensor, Write)>],
    ) -> Result<()> {
        context.context.backward(&context.loss, upstream, gradients)
    }
}

impl Op for Sharded {
    type Context = ShardedContext;

    fn name(&self) -> &'static str {
        "contrastive_sharded"
    }

    fn forward(&self, inputs: &[&Tensor]) -> Result<(Tensor, ShardedContext)> {
        Sharded::forward(self, inputs)
    }

    fn backward(&self, context: &ShardedContext, upstream: &Tensor, gradients: &mut Gradients) -> Result<()> {
        let wanted = (0..self.loss.inputs()).map(|input| gradients.wanted(input)).collect::<Result<Vec<_>>>()?;
        Sharded::backward(self, context, upstream, &wanted)
    }
}
