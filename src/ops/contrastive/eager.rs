//! The loss of a small batch together with its gradients: similarities are computed once and kept for both.

use super::{Contrastive, pass};
use crate::autograd::{Gradients, Op, Tape, Var};
use crate::kernels::contrastive::{
    self as kernel, ContrastiveChainParams, ContrastiveSet, ContrastiveStoredPair, ContrastiveStoredParams, MAX_PAIRS,
    MAX_SETS, STORED_TILE,
};
use crate::kernels::{DType, DevicePtr, Write};
use crate::tensor::Tensor;
use crate::{Error, Result};

/// The largest batch whose similarities are kept: 4 MiB a pair, 8 in TF32.
pub const MAX_STORED: usize = 1024;

impl Contrastive {
    /// The loss, and the gradient of it by every input with `wanted`, as new tensors. This is the form for a caller that
    /// knows what it wants before it asks: up to [`MAX_STORED`] items of at most four sets and pairs, nothing is computed twice,
    /// and [`super::Variant::OneLaunch`] and [`super::Variant::OneLaunchTensorCores`] make it one cooperative launch; beyond that, and for the
    /// other variants but [`super::Variant::Tiled`], it is [`Contrastive::forward`] followed by [`Contrastive::backward`].
    pub fn with_gradients(&self, inputs: &[&Tensor], wanted: &[bool]) -> Result<(Tensor, Vec<Option<Tensor>>)> {
        let [n, _] = self.check(inputs)?;
        if wanted.len() != inputs.len() {
            return Err(Error::argument(
                "contrastive loss",
                format!("{} inputs, {} of them said to want a gradient or not", inputs.len(), wanted.len()),
                "say it of each",
            ));
        }
        let gradients = inputs
            .iter()
            .zip(wanted)
            .map(|(x, &wanted)| wanted.then(|| Tensor::empty(x.device(), x.shape(), x.dtype(), "gradient")).transpose())
            .collect::<Result<Vec<_>>>()?;
        if self.is_stored(n) {
            return Ok((self.stored(inputs, &gradients)?, gradients));
        }
        let (loss, context) = self.forward(inputs)?;
        let one = Tensor::from_slice(inputs[0].device(), [0usize; 0], DType::F32, &[1.0])?;
        let to: Vec<_> = gradients.iter().map(|g| g.clone().map(|g| (g, Write::Overwrite))).collect();
        self.backward(&context, &one, &to)?;
        Ok((loss, gradients))
    }

    /// Puts the loss on a tape: with its gradients at once where that saves work, see [`Contrastive::with_gradients`].
    pub fn apply(&self, tape: &Tape, inputs: &[&Var]) -> Result<Var> {
        let wanted: Vec<bool> = inputs.iter().map(|x| tape.is_recording() && x.needs_gradient()).collect();
        let n = inputs.first().and_then(|x| x.tensor().shape().first().copied()).unwrap_or(0);
        if self.is_stored(n) && wanted.contains(&true) {
            tape.apply(Eager { loss: self.clone(), wanted }, inputs)
        } else {
            tape.apply(self.clone(), inputs)
        }
    }

    fn is_stored(&self, n: usize) -> bool {
        self.variant.stores() && n <= MAX_STORED && self.sets <= MAX_SETS && self.active().len() <= MAX_PAIRS
    }

    fn stored(&self, inputs: &[&Tensor], gradients: &[Option<Tensor>]) -> Result<Tensor> {
        let (device, dtype) = (inputs[0].device(), inputs[0].dtype());
        let (n, active) = (inputs[0].shape()[0], self.active());
        let tiles = n.div_ceil(STORED_TILE);
        let padded = tiles * STORED_TILE;
        let f32s = |shape: &[usize], what| Tensor::empty(device, shape, DType::F32, what);
        let pointer = |t: Option<&Tensor>| t.map_or(DevicePtr::NULL, Tensor::ptr);
        let (scale, bias) = self.places();
        let gradient = |place: Option<usize>| place.and_then(|place| gradients[place].as_ref());
        let norms = self.normalize.then(|| f32s(&[self.sets, n], "inverse norms")).transpose()?;
        let sets: Vec<ContrastiveSet> = (0..self.sets)
            .map(|set| ContrastiveSet {
                x: inputs[set].ptr(),
                inverse_norms: norms.as_ref().map_or(DevicePtr::NULL, |t| t.ptr().offset(set * n * 4)),
                dx: pointer(gradients[set].as_ref()),
            })
            .collect();
        let mut workspace = Vec::new();
        let mut work = |shape: &[usize], what| -> Result<DevicePtr> {
            workspace.push(f32s(shape, what)?);
            Ok(workspace[workspace.len() - 1].ptr())
        };
        let pairs = active
            .iter()
            .map(|&(a, b, weight)| {
                let wanted = gradients[a].is_some() || gradients[b].is_some() || gradient(scale).is_some();
                let stored = if wanted { padded } else { 0 };
                Ok(ContrastiveStoredPair {
                    h: work(&[kernel::stored_elements(self.variant, dtype, stored)], "gradients of logits")?,
                    row_partials: work(&[tiles, padded, 2], "partial sums of rows")?,
                    column_partials: work(&[tiles, padded, 2], "partial sums of columns")?,
                    row_alongs: work(&[stored / STORED_TILE, padded], "projections of rows")?,
                    column_alongs: work(&[stored / STORED_TILE, padded], "projections of columns")?,
                    diagonal_logits: work(&[padded], "matching logits")?,
                    weight,
                    a: a as u32,
                    b: b as u32,
                    gradient: wanted as u32,
                })
            })
            .collect::<Result<Vec<_>>>()?;
        let loss = f32s(&[], "loss")?;
        let params = ContrastiveStoredParams {
            sets: std::array::from_fn(|i| sets[i.min(sets.len() - 1)]),
            pairs: std::array::from_fn(|q| pairs[q.min(pairs.len() - 1)]),
            problem: pass::problem(self, inputs, 0, n),
            loss_partials: work(&[active.len(), tiles, 2], "partial losses")?,
            bias_partials: work(&[active.len(), tiles, 2], "partial gradients of the bias")?,
            scale_partials: work(&[active.len(), tiles, tiles, 2], "partial gradients of the scale")?,
            loss: loss.ptr(),
            dscale: pointer(gradient(scale)),
            dbias: pointer(gradient(bias)),
            tiles: tiles as u64,
            factor: self.factor(n),
            set_count: self.sets as u32,
            pair_count: active.len() as u32,
        };
        // Safety: every pointer is null where that is allowed, or to a live tensor of the documented extent; partials are f64.
        unsafe { kernel::with_gradients(device.launcher(), self.variant, dtype, &params)? };
        for (set, gradient) in gradients.iter().take(self.sets).enumerate() {
            let idle = !active.iter().any(|pair| pair.0 == set || pair.1 == set);
            if let Some(dx) = gradient.as_ref().filter(|_| idle) {
                dx.fill_zero()?;
            }
        }
        Ok(loss)
    }
}

/// A loss that made its gradients in the forward pass.
struct Eager {
    loss: Contrastive,
    wanted: Vec<bool>,
}

impl Op for Eager {
    type Context = Vec<Option<Tensor>>;

    fn name(&self) -> &'static str {
        "contrastive"
    }

    fn forward(&self, inputs: &[&Tensor]) -> Result<(Tensor, Self::Context)> {
        self.loss.with_gradients(inputs, &self.wanted)
    }

    fn backward(&self, made: &Self::Context, upstream: &Tensor, gradients: &mut Gradients) -> Result<()> {
        for (input, made) in made.iter().enumerate() {
            let Some(made) = made else { continue };
            let Some((dx, write)) = gradients.wanted(input)? else { continue };
            let params = ContrastiveChainParams {
                gradient: made.ptr(),
                upstream: upstream.ptr(),
                dx: dx.ptr(),
                n: dx.numel() as u64,
                accumulate: write.flag(),
            };
            // Safety: two tensors of one shape and a scalar, all live.
            unsafe { kernel::chain(dx.device().launcher(), dx.dtype(), &params)? };
        }
        Ok(())
    }
}
