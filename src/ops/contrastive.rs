//! Symmetric contrastive losses (InfoNCE) over pairs of embedding sets, with fused normalisation; the n x n matrix of
//! logits is never stored.
//!
//! For sets `a` and `b` of n embeddings, `L(a, b) = 1/2 (rows + columns)` of the cross entropy of `scale <a_i, b_j>` against
//! the diagonal (X2CT-CLIP, Eq. 1; CLIP, Fig. 3). [`InfoNce`] is one pair, [`TriModal`] the three pairs of radiograph, CT and
//! report, [`Contrastive`] any list of weighted pairs.
//!
//! Every result is bitwise reproducible. A NaN or an overflowing logit makes the loss NaN. With `normalize`, an embedding
//! shorter than 1e-12 is divided by 1e-12 (zero stays zero, and its gradient is that of the division by a constant), as
//! PyTorch's `F.normalize` does. Memory beyond inputs and gradients: at most 75 f32 an embedding and pair, of which 5 live
//! until the backward pass.

use crate::autograd::{Gradients, Op};
pub use crate::kernels::contrastive::Variant;
use crate::kernels::contrastive::{
    self as kernel, ContrastiveForwardParams, ContrastiveGradientParams, ContrastivePair, ContrastiveTerm,
    MAX_BOUNDED_SCALE, MAX_PAIRS,
};
use crate::kernels::{DType, DevicePtr, Write};
use crate::tensor::Tensor;
use crate::{Error, Result};

/// What multiplies the inner products.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Scale {
    /// This number: 1 / temperature.
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

/// sum over pairs of `weight * L(rows, columns)`. Inputs: the embedding sets, each `[n, d]`, all f32 or all bf16; then the
/// scale where it is learnable. Output: one f32 of shape `[]`.
#[derive(Clone, Debug)]
pub struct Contrastive {
    /// How many sets there are.
    pub sets: usize,
    /// (rows, columns, weight): indices of sets. A pair of weight zero costs nothing.
    pub pairs: Vec<(usize, usize, f32)>,
    /// What multiplies the inner products.
    pub scale: Scale,
    /// Mean or sum over the batch.
    pub reduction: Reduction,
    /// Divide every embedding by its norm first; gradients are those of the embeddings as given.
    pub normalize: bool,
    /// Which kernels.
    pub variant: Variant,
}

/// What the gradient of a contrastive loss needs of the forward pass: O(n) numbers a pair.
pub struct Context {
    sets: Vec<Tensor>,
    scale: Option<Tensor>,
    /// [sets, n], where normalised.
    inverse_norms: Option<Tensor>,
    /// [pairs, 2, n, 2]: (shift, inverse sum) of rows and of columns.
    softmax: Tensor,
    /// [pairs, n]
    diagonal: Tensor,
}

impl Contrastive {
    /// The pairs that count.
    fn active(&self) -> Vec<(usize, usize, f32)> {
        self.pairs.iter().copied().filter(|pair| pair.2 != 0.0).collect()
    }

    /// The fixed scale (unused where it is learnable), and whether it bounds every logit.
    fn bound(&self) -> (f32, u32) {
        match self.scale {
            Scale::Fixed(s) => (s, (self.normalize && (0.0..=MAX_BOUNDED_SCALE).contains(&s)) as u32),
            Scale::Learnable => (0.0, 0),
        }
    }

    /// Fails unless the configuration makes sense and the inputs fit it; their n and d.
    fn check(&self, inputs: &[&Tensor]) -> Result<[usize; 2]> {
        let what = "contrastive loss";
        let learnable = self.scale == Scale::Learnable;
        if inputs.len() != self.sets + learnable as usize || self.sets == 0 {
            return Err(Error::argument(
                what,
                format!("{} inputs for {} embedding sets", inputs.len(), self.sets),
                if learnable { "pass the sets and the scale" } else { "pass the sets" },
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
        if let Scale::Fixed(scale) = self.scale {
            if !scale.is_finite() {
                return Err(Error::argument(what, format!("the scale is {scale}"), "pass a finite scale"));
            }
        } else {
            let scale = inputs[self.sets];
            scale.expect("scale", device, scale.shape(), DType::F32)?;
            if scale.numel() != 1 {
                return Err(Error::argument("scale", format!("is {scale:?}"), "pass a tensor of one element"));
            }
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
        let [n, d] = self.check(inputs)?;
        let (device, dtype) = (inputs[0].device(), inputs[0].dtype());
        let launcher = device.launcher();
        let active = self.active();
        let f32s = |shape: &[usize], what| Tensor::empty(device, shape, DType::F32, what);
        let inverse_norms = self.normalize.then(|| f32s(&[self.sets, n], "inverse norms")).transpose()?;
        let norms = |set: usize| inverse_norms.as_ref().map_or(DevicePtr::NULL, |t| at(t, set * n));
        for (set, x) in inputs.iter().enumerate().take(self.sets) {
            if self.normalize && active.iter().any(|pair| pair.0 == set || pair.1 == set) {
                // Safety: n x d elements and n of the f32 of this set, both live.
                unsafe { kernel::norms(launcher, dtype, x.ptr(), norms(set), n, d)? };
            }
        }
        let strips = kernel::strips(launcher, self.variant, dtype, n)?;
        let partials = f32s(&[active.len(), 2, strips, n, 2], "partial sums")?;
        let diagonal_logits = f32s(&[active.len(), n], "matching logits")?;
        let loss_partials = f32s(&[active.len(), kernel::loss_partials(launcher, n)?, 2], "partial losses")?;
        let loss = f32s(&[], "loss")?;
        let context = Context {
            sets: inputs[..self.sets].iter().map(|&set| set.clone()).collect(),
            scale: inputs.get(self.sets).map(|&scale| scale.clone()),
            softmax: f32s(&[active.len(), 2, n, 2], "softmax normalisers")?,
            diagonal: f32s(&[active.len(), n], "diagonal gradients")?,
            inverse_norms: inverse_norms.clone(),
        };
        let pairs: Vec<ContrastivePair> = active
            .iter()
            .enumerate()
            .map(|(q, &(rows, columns, weight))| ContrastivePair {
                a: inputs[rows].ptr(),
                b: inputs[columns].ptr(),
                a_inverse_norms: norms(rows),
                b_inverse_norms: norms(columns),
                row_partials: at(&partials, q * 4 * strips * n),
                column_partials: at(&partials, (q * 4 + 2) * strips * n),
                diagonal_logits: at(&diagonal_logits, q * n),
                row_softmax: at(&context.softmax, q * 4 * n),
                column_softmax: at(&context.softmax, (q * 4 + 2) * n),
                diagonal: at(&context.diagonal, q * n),
                weight,
                unused: 0,
            })
            .collect();
        let (scale, bounded) = self.bound();
        for (launch, chunk) in pairs.chunks(MAX_PAIRS).enumerate() {
            let params = ContrastiveForwardParams {
                pairs: std::array::from_fn(|q| chunk[q.min(chunk.len() - 1)]),
                scale_tensor: context.scale.as_ref().map_or(DevicePtr::NULL, Tensor::ptr),
                loss_partials: loss_partials.ptr(),
                loss: loss.ptr(),
                n: n as u64,
                d: d as u64,
                scale,
                factor: self.factor(n),
                pair_count: chunk.len() as u32,
                strips: strips as u32,
                bounded,
                accumulate: (launch > 0) as u32,
            };
            // Safety: every pointer is to a live tensor of the documented extent.
            unsafe { kernel::forward(launcher, self.variant, dtype, params)? };
        }
        Ok((loss, context))
    }

    fn factor(&self, n: usize) -> f32 {
        match self.reduction {
            Reduction::Mean => (1.0 / n as f64) as f32,
            Reduction::Sum => 1.0,
        }
    }

    /// The gradients that are asked for: `sets[i]` of set i, `scale` of a learnable scale; `upstream` is that of the loss,
    /// one f32.
    pub fn backward(
        &self,
        context: &Context,
        upstream: &Tensor,
        sets: &[Option<(Tensor, Write)>],
        scale: Option<(Tensor, Write)>,
    ) -> Result<()> {
        let active = self.active();
        let device = context.sets[0].device();
        let n = context.sets[0].shape()[0];
        let slopes = |wanted: bool| wanted.then(|| Tensor::empty(device, [n], DType::F32, "slopes")).transpose();
        // The gradient of the scale takes every pair once: from the set of its rows.
        let mut scale = scale;
        for (set, x) in context.sets.iter().enumerate() {
            let destination = sets.get(set).and_then(Option::as_ref);
            if let Some((dx, _)) = destination {
                dx.expect("gradient of the embeddings", device, x.shape(), x.dtype())?;
            }
            let terms: Vec<_> = active.iter().enumerate().filter(|(_, p)| p.0 == set || p.1 == set).collect();
            if terms.is_empty() {
                if let Some((dx, Write::Overwrite)) = destination {
                    dx.fill_zero()?;
                }
                continue;
            }
            // Terms that only the gradient of the set needs are kept apart from those that also give slopes.
            let (rows, columns): (Vec<_>, Vec<_>) = terms.into_iter().partition(|(_, p)| p.0 == set);
            let groups = match scale {
                Some(_) => vec![rows, columns],
                None => vec![[rows, columns].concat()],
            };
            let mut write = destination.map(|(_, write)| *write);
            for (group, terms) in groups.iter().enumerate() {
                for chunk in terms.chunks(MAX_PAIRS) {
                    let slopes = slopes(scale.is_some() && group == 0)?;
                    if destination.is_none() && slopes.is_none() {
                        continue;
                    }
                    let dx = destination.map(|(dx, _)| dx);
                    self.launch_gradient(context, upstream, set, chunk, dx, write, slopes.as_ref())?;
                    write = write.map(|_| Write::Accumulate);
                    if let (Some(slopes), Some((dscale, write))) = (slopes, scale.as_mut()) {
                        dscale.expect("gradient of the scale", device, dscale.shape(), DType::F32)?;
                        // Safety: n slopes and one element, both live.
                        unsafe {
                            kernel::scale_gradient(device.launcher(), slopes.ptr(), dscale.ptr(), n, *write)?;
                        }
                        *write = Write::Accumulate;
                    }
                }
            }
        }
        Ok(())
    }

    #[allow(clippy::too_many_arguments)] // a launch is its operands
    fn launch_gradient(
        &self,
        context: &Context,
        upstream: &Tensor,
        set: usize,
        pairs: &[(usize, &(usize, usize, f32))],
        dx: Option<&Tensor>,
        write: Option<Write>,
        slopes: Option<&Tensor>,
    ) -> Result<()> {
        let x = &context.sets[set];
        let [n, d] = x.dims::<2>("embeddings")?;
        upstream.expect("gradient of the loss", x.device(), upstream.shape(), DType::F32)?;
        let norms = |set: usize| context.inverse_norms.as_ref().map_or(DevicePtr::NULL, |t| at(t, set * n));
        let term = |&(q, &(rows, columns, weight)): &(usize, &(usize, usize, f32))| {
            let (partner, own, other) = if rows == set { (columns, 0, 2) } else { (rows, 2, 0) };
            ContrastiveTerm {
                partner: context.sets[partner].ptr(),
                partner_inverse_norms: norms(partner),
                own_softmax: at(&context.softmax, (q * 4 + own) * n),
                partner_softmax: at(&context.softmax, (q * 4 + other) * n),
                diagonal: at(&context.diagonal, q * n),
                weight,
                unused: 0,
            }
        };
        let (scale, bounded) = self.bound();
        let pointer = |t: Option<&Tensor>| t.map_or(DevicePtr::NULL, Tensor::ptr);
        let params = ContrastiveGradientParams {
            terms: std::array::from_fn(|i| term(&pairs[i.min(pairs.len() - 1)])),
            x: x.ptr(),
            x_inverse_norms: norms(set),
            scale_tensor: pointer(context.scale.as_ref()),
            upstream: upstream.ptr(),
            dx: pointer(dx),
            slopes: pointer(slopes),
            n: n as u64,
            d: d as u64,
            scale,
            factor: 0.5 * self.factor(n),
            term_count: pairs.len() as u32,
            bounded,
            accumulate: write.map_or(0, Write::flag),
            unused: 0,
        };
        // Safety: every pointer is null where that is allowed, or to a live tensor of the documented extent.
        unsafe { kernel::gradient(x.device().launcher(), self.variant, x.dtype(), &params) }
    }

    /// [`Op::backward`] of every loss in this file.
    fn write_gradients(&self, context: &Context, upstream: &Tensor, gradients: &mut Gradients) -> Result<()> {
        let sets = (0..self.sets).map(|set| gradients.wanted(set)).collect::<Result<Vec<_>>>()?;
        let scale = if self.scale == Scale::Learnable { gradients.wanted(self.sets)? } else { None };
        self.backward(context, upstream, &sets, scale)
    }
}

/// The address of f32 element `index`.
fn at(tensor: &Tensor, index: usize) -> DevicePtr {
    tensor.ptr().offset(index * DType::F32.size())
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
        self.write_gradients(context, upstream, gradients)
    }
}

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
            sets: 2,
            pairs: vec![(0, 1, 1.0)],
            scale: self.scale,
            reduction: self.reduction,
            normalize: self.normalize,
            variant: self.variant,
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
        self.general().write_gradients(context, upstream, gradients)
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
        self.general()?.write_gradients(context, upstream, gradients)
    }
}
