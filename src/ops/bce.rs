//! Binary cross entropy with logits, for labels that do not exclude each other.

use crate::autograd::{Gradients, Op};
use crate::kernels::bce::{self as kernel, BceParams};
use crate::kernels::{DType, DevicePtr, Write};
use crate::tensor::{Shape, Tensor};
use crate::{Error, Result};

/// The mean over all elements of -(w t log sigmoid(x) + (1 - t) log(1 - sigmoid(x))), as PyTorch's
/// `binary_cross_entropy_with_logits`. Inputs: logits x `[N, C]`, f32 or bf16, and targets t `[N, C]`, f32, from 0 to 1 (which is
/// not checked). Output: one f32 of shape `[]`.
///
/// Both inputs have a gradient, each computed only where it is wanted. Kept for the backward pass: the two inputs. Finite, with
/// full relative accuracy, for any finite logit; a NaN makes the loss NaN. Deterministic.
#[derive(Clone, Debug, Default)]
pub struct BceWithLogits {
    /// f32 `[C]`: w, the weight of each class's positive targets, such as its negatives over its positives. None: 1. A constant
    /// without a gradient.
    pub pos_weight: Option<Tensor>,
}

impl BceWithLogits {
    const NAME: &'static str = "bce_with_logits";

    fn check<'a>(&self, inputs: &[&'a Tensor]) -> Result<([usize; 2], [&'a Tensor; 2])> {
        let &[x, t] = inputs else {
            let problem = format!("{} inputs", inputs.len());
            return Err(Error::argument(Self::NAME, problem, "pass the logits and the targets"));
        };
        let sizes @ [_, classes] = x.dims::<2>("bce_with_logits logits")?;
        if x.numel() == 0 {
            let problem = format!("the batch is empty (logits {})", x.shape());
            return Err(Error::argument(Self::NAME, problem, "pass at least one row of at least one class"));
        }
        t.expect("bce_with_logits targets", x.device(), x.shape(), DType::F32)?;
        if let Some(weight) = &self.pos_weight {
            weight.expect("bce_with_logits pos_weight", x.device(), [classes], DType::F32)?;
        }
        Ok((sizes, [x, t]))
    }

    /// The geometry, and the operands that both passes read.
    fn params(&self, sizes: [usize; 2], [x, t]: [&Tensor; 2]) -> Result<BceParams> {
        Ok(BceParams {
            x: x.ptr(),
            t: t.ptr(),
            pos_weight: self.pos_weight.as_ref().map_or(DevicePtr::NULL, Tensor::ptr),
            ..BceParams::new(x.device().launcher(), x.dtype(), sizes)?
        })
    }
}

impl BceWithLogits {
    /// `dx` = the gradient of the loss with respect to the logits, or `dx +=` that, without the loss: for who has no tape.
    ///
    /// # Errors
    /// As the operator's, and a destination of another shape, type or device, or whose memory is shared.
    pub fn logit_gradient_into(&self, logits: &Tensor, targets: &Tensor, dx: &Tensor, write: Write) -> Result<()> {
        let (sizes, inputs) = self.check(&[logits, targets])?;
        let device = logits.device();
        dx.expect("bce_with_logits gradient", device, logits.shape(), logits.dtype())?;
        dx.expect_writable("bce_with_logits gradient")?;
        let upstream = Tensor::from_slice(device, Shape::default(), DType::F32, &[1.0])?;
        let (upstream, accumulate) = (upstream.ptr(), write.flag());
        let params = BceParams { upstream, dx: dx.ptr(), accumulate, ..self.params(sizes, inputs)? };
        // Safety: live tensors of the sizes just checked; dx is a destination.
        unsafe { kernel::backward(device.launcher(), logits.dtype(), &params) }
    }
}

impl Op for BceWithLogits {
    /// The logits and the targets.
    type Context = [Tensor; 2];

    fn name(&self) -> &'static str {
        Self::NAME
    }

    fn forward(&self, inputs: &[&Tensor]) -> Result<(Tensor, Self::Context)> {
        let (sizes, [x, t]) = self.check(inputs)?;
        let device = x.device();
        let params = self.params(sizes, [x, t])?;
        let partial = Tensor::empty(device, [params.partial_bytes() / 4], DType::F32, "sums of the loss")?;
        let loss = Tensor::empty(device, Shape::default(), DType::F32, "loss")?;
        let params = BceParams { partial: partial.ptr(), loss: loss.ptr(), ..params };
        // Safety: live tensors of the sizes just checked; the partial sums and the loss are new.
        unsafe { kernel::forward(device.launcher(), x.dtype(), &params)? };
        Ok((loss, [x.clone(), t.clone()]))
    }

    fn backward(&self, [x, t]: &Self::Context, upstream: &Tensor, gradients: &mut Gradients) -> Result<()> {
        let device = x.device();
        upstream.expect("bce_with_logits upstream gradient", device, Shape::default(), DType::F32)?;
        let (dx, dt) = (gradients.wanted(0)?, gradients.wanted(1)?);
        let pointer = |to: &Option<(Tensor, Write)>| to.as_ref().map_or(DevicePtr::NULL, |(tensor, _)| tensor.ptr());
        let flag = |to: &Option<(Tensor, Write)>| to.as_ref().map_or(0, |(_, write)| write.flag());
        let params = BceParams {
            upstream: upstream.ptr(),
            dx: pointer(&dx),
            dt: pointer(&dt),
            accumulate: flag(&dx) | flag(&dt) << 1,
            ..self.params(x.dims("bce_with_logits logits")?, [x, t])?
        };
        // Safety: the live tensors of the forward pass, and destinations of the inputs' shapes and types.
        unsafe { kernel::backward(device.launcher(), x.dtype(), &params) }
    }
}
