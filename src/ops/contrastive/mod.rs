//! Contrastive losses over pairs of embedding sets, with fused normalisation; the n x n matrix of logits is never stored.
//!
//! For sets `a` and `b` of n embeddings, `L(a, b) = 1/2 (rows + columns)` of the cross entropy of `scale <a_i, b_j>` against
//! the diagonal (X2CT-CLIP, Eq. 1; CLIP, Fig. 3), or the pairwise sigmoid loss (SigLIP, Eq. 1). [`InfoNce`] and [`SigLip`]
//! are one pair, [`TriModal`] the three pairs of radiograph, CT and report, [`Contrastive`] any list of weighted pairs of any
//! number of sets.
//!
//! Every result is bitwise reproducible. A NaN or an overflowing logit makes the loss NaN. With `normalize`, an embedding
//! shorter than 1e-12 is divided by 1e-12 (zero stays zero, and its gradient is that of the division by a constant), as
//! PyTorch's `F.normalize` does.
//!
//! Cost, with U = 2 n^2 d operations: a pair's logits U forward; backward U for the logits again, once for both sets of a pair
//! (once for each beyond 10,880 items on tensor cores, and by [`Variant::Hopper`]'s own kernels), and U for each gradient. Up to
//! [`MAX_STORED`] items, a loss that is asked for together with its gradients ([`Contrastive::apply`],
//! [`Contrastive::with_gradients`]) keeps its logits: U forward and U a gradient. What is frozen costs nothing. Memory beyond
//! inputs and gradients: at most 75 f32 an embedding and pair, of which 5 live until the backward pass; where both sets of a
//! pair get a gradient, a band of logits as large as a quarter of one set or a MiB (on tensor cores at most 32 MiB of bf16, 64
//! of f32), and where that is not all of them and the gradients are bf16, one set in f32. [`Variant::Hopper`] keeps a copy of
//! bf16 sets from the forward to the backward pass.

use crate::autograd::{Gradients, Op};
pub use crate::kernels::contrastive::{Precision, Variant};
use crate::kernels::{DType, Write};
use crate::tensor::Tensor;
use crate::{Error, Result};

mod bands;
mod eager;
mod ids;
mod losses;
mod packed;
mod pass;
mod sharded;

pub use eager::MAX_STORED;
pub use ids::ids;
pub use losses::{InfoNce, SigLip, TriModal};
pub use pass::Context;
pub use sharded::{Sharded, ShardedContext};

/// What multiplies the inner products, or is added to them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Scale {
    /// This number (for a scale: 1 / temperature).
    Fixed(f32),
    /// One more input, f32 with one element, after the embedding sets. It gets a gradient.
    Learnable,
}

/// How the rows' losses become one number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reduction {
    /// The mean over the batch.
    #[default]
    Mean,
    /// The sum over the batch, as X2CT-CLIP, Eq. 1 is written.
    Sum,
}

/// What the logits of a pair are compared with.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Objective {
    /// Cross entropy of every row and every column against its match, half each.
    Softmax,
    /// Every logit by itself: a match or not. The sum over all of them; [`Reduction::Mean`] divides it by n, not by n^2.
    Sigmoid {
        /// What is added to every logit; where it is learnable, it is the last input.
        bias: Scale,
    },
}

/// sum over pairs of `weight * L(rows, columns)`. Inputs: the embedding sets, each `[n, d]`, all f32 or all bf16; then the
/// scale and the bias where they are learnable. Output: one f32 of shape `[]`.
#[derive(Clone, Debug)]
pub struct Contrastive {
    /// How many sets there are.
    pub sets: usize,
    /// (rows, columns, weight): indices of sets. A pair of weight zero costs nothing.
    pub pairs: Vec<(usize, usize, f32)>,
    /// Softmax or sigmoid.
    pub objective: Objective,
    /// What multiplies the inner products.
    pub scale: Scale,
    /// Mean or sum over the batch.
    pub reduction: Reduction,
    /// Divide every embedding by its norm first; gradients are those of the embeddings as given.
    pub normalize: bool,
    /// f32 `[n]`: items of equal id are the same thing seen twice (two reconstructions of one scan, one report used
    /// twice). Such a pair of items is neither match nor mismatch, its logit counts nowhere; the match of an item is its
    /// own index alone. [`ids`] makes them of any keys. None: all items differ.
    pub ids: Option<Tensor>,
    /// Which kernels.
    pub variant: Variant,
}

impl Contrastive {
    /// InfoNCE of two sets at scale 1, the form that others are written as changes of.
    pub fn pair() -> Self {
        Contrastive {
            sets: 2,
            pairs: vec![(0, 1, 1.0)],
            objective: Objective::Softmax,
            scale: Scale::Fixed(1.0),
            reduction: Reduction::Mean,
            normalize: true,
            ids: None,
            variant: Variant::default(),
        }
    }

    /// The pairs that count.
    fn active(&self) -> Vec<(usize, usize, f32)> {
        self.pairs.iter().copied().filter(|pair| pair.2 != 0.0).collect()
    }

    fn bias(&self) -> Scale {
        match self.objective {
            Objective::Softmax => Scale::Fixed(0.0),
            Objective::Sigmoid { bias } => bias,
        }
    }

    /// The inputs beyond the embedding sets: the places of the scale and of the bias where they are learnable.
    fn places(&self) -> (Option<usize>, Option<usize>) {
        let scale = (self.scale == Scale::Learnable).then_some(self.sets);
        let bias = (self.bias() == Scale::Learnable).then_some(self.sets + scale.is_some() as usize);
        (scale, bias)
    }

    /// How many inputs there are.
    fn inputs(&self) -> usize {
        let (scale, bias) = self.places();
        self.sets + [scale, bias].iter().flatten().count()
    }

    /// What a row's loss counts in a batch of n.
    fn factor(&self, n: usize) -> f32 {
        let of_a_row = match self.reduction {
            Reduction::Mean => 1.0 / n as f64,
            Reduction::Sum => 1.0,
        };
        match self.objective {
            Objective::Softmax => (0.5 * of_a_row) as f32,
            Objective::Sigmoid { .. } => of_a_row as f32,
        }
    }

    /// Fails unless the configuration makes sense and the inputs fit it; their n and d.
    fn check(&self, inputs: &[&Tensor]) -> Result<[usize; 2]> {
        let what = "contrastive loss";
        let (scale, bias) = self.places();
        if inputs.len() != self.inputs() || self.sets == 0 {
            return Err(Error::argument(
                what,
                format!("{} inputs for {} embedding sets", inputs.len(), self.sets),
                match (scale, bias) {
                    (None, None) => "pass the sets",
                    (Some(_), None) => "pass the sets and the scale",
                    (None, Some(_)) => "pass the sets and the bias",
                    (Some(_), Some(_)) => "pass the sets, the scale and the bias",
                },
            ));
        }
        let (first, device) = (inputs[0], inputs[0].device());
        let [n, d] = first.dims::<2>("embeddings")?;
        if n == 0 || d == 0 {
            return Err(Error::argument(
                what,
                format!("the batch is empty (embeddings {})", first.shape()),
                "pass at least one embedding of at least one element",
            ));
        }
        for set in &inputs[1..self.sets] {
            set.expect("embeddings", device, first.shape(), first.dtype())?;
        }
        for (name, value, place) in [("scale", self.scale, scale), ("bias", self.bias(), bias)] {
            match (value, place) {
                (Scale::Fixed(value), _) if !value.is_finite() => {
                    return Err(Error::argument(
                        what,
                        format!("the {name} is {value}"),
                        format!("pass a finite {name}"),
                    ));
                }
                (_, Some(place)) => {
                    let tensor = inputs[place];
                    tensor.expect(name, device, tensor.shape(), DType::F32)?;
                    if tensor.numel() != 1 {
                        return Err(Error::argument(name, format!("is {tensor:?}"), "pass a tensor of one element"));
                    }
                }
                _ => {}
            }
        }
        if let Some(ids) = &self.ids {
            ids.expect("ids", device, [n], DType::F32)?;
        }
        for &(rows, columns, weight) in &self.pairs {
            if rows >= self.sets || columns >= self.sets || rows == columns || !weight.is_finite() {
                return Err(Error::argument(
                    what,
                    format!("the pair ({rows}, {columns}) of weight {weight} among {} sets", self.sets),
                    "pair two different sets with a finite weight",
                ));
            }
        }
        if self.active().is_empty() {
            return Err(Error::argument(what, "every weight is zero", "give at least one pair a weight"));
        }
        Ok([n, d])
    }

    /// The loss and the context of its gradient.
    pub fn forward(&self, inputs: &[&Tensor]) -> Result<(Tensor, Context)> {
        self.check(inputs)?;
        let mut context = Context::new(self, inputs)?;
        let loss = context.forward(self)?;
        Ok((loss, context))
    }

    /// The gradients that are asked for, one for each input in order; `upstream` is that of the loss, one f32. What is not
    /// asked for costs nothing.
    pub fn backward(&self, context: &Context, upstream: &Tensor, gradients: &[Option<(Tensor, Write)>]) -> Result<()> {
        context.backward(self, upstream, gradients)
    }
}

impl Op for Contrastive {
    type Context = Context;

    fn name(&self) -> &'static str {
        "contrastive"
    }

    fn forward(&self, inputs: &[&Tensor]) -> Result<(Tensor, Context)> {
        Contrastive::forward(self, inputs)
    }

    fn backward(&self, context: &Context, upstream: &Tensor, gradients: &mut Gradients) -> Result<()> {
        let wanted = (0..self.inputs()).map(|input| gradients.wanted(input)).collect::<Result<Vec<_>>>()?;
        Contrastive::backward(self, context, upstream, &wanted)
    }
}
