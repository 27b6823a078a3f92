//! The named losses: InfoNCE, X2CT-CLIP's three pairs, SigLIP.

use super::{Context, Contrastive, Objective, Reduction, Scale, Variant};
use crate::autograd::{Gradients, Op};
use crate::tensor::Tensor;
use crate::{Error, Result};

/// Symmetric InfoNCE of two sets. Inputs: a, b `[n, d]`, then the scale where it is learnable. Output: one f32.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct InfoNce {
    /// What multiplies the inner products.
    pub scale: Scale,
    /// Mean or sum over the batch.
    pub reduction: Reduction,
    /// Divide every embedding by its norm first.
    pub normalize: bool,
    /// Which kernels.
    pub variant: Variant,
}

impl InfoNce {
    /// The mean over normalised embeddings.
    pub fn new(scale: Scale) -> Self {
        InfoNce { scale, reduction: Reduction::Mean, normalize: true, variant: Variant::default() }
    }

    /// The same loss in its general form.
    pub fn general(&self) -> Contrastive {
        Contrastive {
            scale: self.scale,
            reduction: self.reduction,
            normalize: self.normalize,
            variant: self.variant,
            ..Contrastive::pair()
        }
    }
}

impl Op for InfoNce {
    type Context = Context;

    fn name(&self) -> &'static str {
        "info_nce"
    }

    fn forward(&self, inputs: &[&Tensor]) -> Result<(Tensor, Context)> {
        self.general().forward(inputs)
    }

    fn backward(&self, context: &Context, upstream: &Tensor, gradients: &mut Gradients) -> Result<()> {
        Op::backward(&self.general(), context, upstream, gradients)
    }
}

/// alpha L(C, R) + beta L(X, R) + gamma L(X, C) of radiographs X, CTs C and reports R (X2CT-CLIP, Eq. 1). Inputs: X, C, R
/// `[n, d]`. Output: one f32. A term of weight zero and the gradient of a constant input cost nothing; the gradient of X
/// takes one pass over X for both of its terms.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TriModal {
    /// Weight of CT against report.
    pub alpha: f32,
    /// Weight of radiograph against report.
    pub beta: f32,
    /// Weight of radiograph against CT.
    pub gamma: f32,
    /// The logits are inner products divided by this.
    pub temperature: f32,
    /// Mean or sum over the batch.
    pub reduction: Reduction,
    /// Divide every embedding by its norm first.
    pub normalize: bool,
    /// Which kernels.
    pub variant: Variant,
}

impl Default for TriModal {
    /// The paper's training of a radiograph encoder against frozen CT and report encoders: weights 0, 1, 1 and
    /// temperature 0.07, as a mean.
    fn default() -> Self {
        TriModal {
            alpha: 0.0,
            beta: 1.0,
            gamma: 1.0,
            temperature: 0.07,
            reduction: Reduction::Mean,
            normalize: true,
            variant: Variant::default(),
        }
    }
}

impl TriModal {
    /// The same loss in its general form, whose sets are X, C, R.
    pub fn general(&self) -> Result<Contrastive> {
        if !(self.temperature.is_finite() && self.temperature > 0.0) {
            return Err(Error::argument(
                "tri_modal",
                format!("the temperature is {}", self.temperature),
                "pass a positive temperature",
            ));
        }
        Ok(Contrastive {
            sets: 3,
            pairs: vec![(1, 2, self.alpha), (0, 2, self.beta), (0, 1, self.gamma)],
            scale: Scale::Fixed((1.0 / self.temperature as f64) as f32),
            reduction: self.reduction,
            normalize: self.normalize,
            variant: self.variant,
            ..Contrastive::pair()
        })
    }
}

impl Op for TriModal {
    type Context = Context;

    fn name(&self) -> &'static str {
        "tri_modal"
    }

    fn forward(&self, inputs: &[&Tensor]) -> Result<(Tensor, Context)> {
        self.general()?.forward(inputs)
    }

    fn backward(&self, context: &Context, upstream: &Tensor, gradients: &mut Gradients) -> Result<()> {
        Op::backward(&self.general()?, context, upstream, gradients)
    }
}

/// The pairwise sigmoid loss of two sets (SigLIP, Eq. 1): `1/n sum over i, j of log(1 + exp(-z_ij (scale <a_i, b_j> + bias)))`
/// with z = 1 for matches and -1 otherwise. Inputs: a, b `[n, d]`, then the scale and the bias where they are learnable.
/// Output: one f32.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SigLip {
    /// What multiplies the inner products (the exponential of the paper's t').
    pub scale: Scale,
    /// What is added to them.
    pub bias: Scale,
    /// The sum over all pairs divided by the batch, as published, or not.
    pub reduction: Reduction,
    /// Divide every embedding by its norm first.
    pub normalize: bool,
    /// Which kernels.
    pub variant: Variant,
}

impl SigLip {
    /// Normalised embeddings, the sum over all pairs divided by the batch.
    pub fn new(scale: Scale, bias: Scale) -> Self {
        SigLip { scale, bias, reduction: Reduction::Mean, normalize: true, variant: Variant::default() }
    }

    /// The same loss in its general form.
    pub fn general(&self) -> Contrastive {
        Contrastive {
            objective: Objective::Sigmoid { bias: self.bias },
            scale: self.scale,
            reduction: self.reduction,
            normalize: self.normalize,
            variant: self.variant,
            ..Contrastive::pair()
        }
    }
}

impl Op for SigLip {
    type Context = Context;

    fn name(&self) -> &'static str {
        "siglip"
    }

    fn forward(&self, inputs: &[&Tensor]) -> Result<(Tensor, Context)> {
        self.general().forward(inputs)
    }

    fn backward(&self, context: &Context, upstream: &Tensor, gradients: &mut Gradients) -> Result<()> {
        Op::backward(&self.general(), context, upstream, gradients)
    }
}
