//! A linear layer under binary cross entropy: the loss of a batch and the gradients of the layer, as training a linear probe needs them.
//! In one pass over the batch where the device has one, else composed of the operators it is named after.

use std::ops::Range;

use crate::autograd::Op;
use crate::device::LinearBceCall;
use crate::kernels::{DevicePtr, Write};
use crate::ops::bce::BceWithLogits;
use crate::ops::gather::{Places, gather_into};
use crate::ops::gemm::{Backend, Method, Operand, column_sum_into, product_into};
use crate::tensor::{DType, Tensor};
use crate::{Error, Result};

/// `loss = mean over rows and classes of bce_with_logits(x weight^T + bias, t)`, and its gradients by weight and bias. f32 throughout.
/// Features have no gradient: they are frozen.
///
/// Deterministic: on the host the same bits on any number of threads.
#[derive(Clone, Debug)]
pub struct LinearBce {
    /// As [`BceWithLogits::pos_weight`].
    pub pos_weight: Option<Tensor>,
    /// How products are computed. Only [`Backend::Library`] may be the device's own pass.
    pub method: Method,
}

/// Samples of a set.
#[derive(Clone, Copy)]
pub struct Batch<'a> {
    /// `[N, d]`.
    pub features: &'a Tensor,
    /// `[N, C]`, from 0 to 1.
    pub targets: &'a Tensor,
    /// Where the batch's samples stand among the N; `None`: all of them, in their order.
    pub places: Option<(&'a Places, &'a Range<usize>)>,
}

/// A layer's parameters, or their gradients.
#[derive(Clone, Debug)]
pub struct Layer {
    /// `[C, d]`.
    pub weight: Tensor,
    /// `[C]`.
    pub bias: Tensor,
}

impl Layer {
    fn expect(&self, what: &str, of: &Tensor, [classes, dim]: [usize; 2]) -> Result<()> {
        self.weight.expect(&format!("weight of the {what}"), of.device(), [classes, dim], DType::F32)?;
        self.bias.expect(&format!("bias of the {what}"), of.device(), [classes], DType::F32)
    }

    /// `x weight^T + bias`.
    fn forward(&self, x: &Tensor, [rows, classes]: [usize; 2], method: Method) -> Result<Tensor> {
        let logits = Tensor::empty(x.device(), [rows, classes], DType::F32, "logits of a linear layer")?;
        let (x, weight) = (Operand::new(x, false), Operand::new(&self.weight, true));
        product_into(x, weight, Some(&self.bias), &logits, Write::Overwrite, method)?;
        Ok(logits)
    }

    /// Of gradients: `weight = dlogits^T x`, `bias` = the sums of dlogits.
    fn backward_into(&self, x: &Tensor, dlogits: &Tensor, method: Method) -> Result<()> {
        let (dlogits_t, x) = (Operand::new(dlogits, true), Operand::new(x, false));
        product_into(dlogits_t, x, None, &self.weight, Write::Overwrite, method)?;
        column_sum_into(dlogits, &self.bias, Write::Overwrite)
    }
}

impl LinearBce {
    /// Writes the loss, one element, and the gradients where they are wanted. Nothing waits for the device.
    ///
    /// # Errors
    /// No samples or classes; sizes, types or devices that do not fit together; places that leave the set; a destination whose memory is
    /// shared.
    pub fn loss_into(&self, batch: Batch, layer: &Layer, gradients: Option<&Layer>, loss: &Tensor) -> Result<()> {
        let sizes @ [rows, dim, classes] = self.check(batch, layer, gradients, loss)?;
        if self.method.backend == Backend::Library {
            let call = LinearBceCall {
                features: batch.features.ptr(),
                targets: batch.targets.ptr(),
                places: batch.places.map_or(DevicePtr::NULL, |(places, range)| places.from(range.start)),
                rows,
                dim,
                classes,
                weight: layer.weight.ptr(),
                bias: layer.bias.ptr(),
                pos_weight: self.pos_weight.as_ref().map_or(DevicePtr::NULL, Tensor::ptr),
                gradients: gradients.map(|of| [of.weight.ptr(), of.bias.ptr()]),
                loss: loss.ptr(),
            };
            // Safety: live tensors of the sizes just checked, and places inside them; the destinations overlap no operand.
            if unsafe { layer.weight.device().backend().linear_bce(&call)? } {
                return Ok(());
            }
        }
        self.compose(batch, layer, gradients, loss, sizes)
    }

    /// Rows of the batch, values of a sample, classes.
    fn check(&self, batch: Batch, layer: &Layer, gradients: Option<&Layer>, loss: &Tensor) -> Result<[usize; 3]> {
        let Batch { features, targets, places } = batch;
        let ([samples, dim], device) = (features.dims("features")?, features.device());
        let [_, classes] = targets.dims("targets")?;
        features.expect("features", device, [samples, dim], DType::F32)?;
        targets.expect("targets", device, [samples, classes], DType::F32)?;
        layer.expect("layer", features, [classes, dim])?;
        if let Some(weight) = &self.pos_weight {
            weight.expect("pos_weight", device, [classes], DType::F32)?;
        }
        if let Some(gradients) = gradients {
            gradients.expect("gradients", features, [classes, dim])?;
            gradients.weight.expect_writable("gradient of the weight")?;
            gradients.bias.expect_writable("gradient of the bias")?;
        }
        loss.expect("loss", device, loss.shape(), DType::F32)?;
        loss.expect_writable("loss")?;
        if let Some((places, range)) = places {
            places.check(features, range)?;
        }
        let rows = places.map_or(samples, |(_, range)| range.len());
        if loss.numel() != 1 || rows * classes == 0 {
            let problem = format!("{rows} samples of {classes} classes into a loss of shape {}", loss.shape());
            return Err(Error::argument(
                "linear_bce",
                problem,
                "pass samples, classes, and a destination of one element",
            ));
        }
        Ok([rows, dim, classes])
    }

    fn compose(
        &self,
        batch: Batch,
        layer: &Layer,
        gradients: Option<&Layer>,
        loss: &Tensor,
        [rows, dim, classes]: [usize; 3],
    ) -> Result<()> {
        let gathered = |x: &Tensor, columns: usize| match batch.places {
            None => Ok(x.clone()),
            Some((places, range)) => {
                let y = Tensor::empty(x.device(), [rows, columns], DType::F32, "rows of a batch")?;
                gather_into(x, places, range.clone(), &y)?;
                Ok(y)
            }
        };
        let (x, t) = (gathered(batch.features, dim)?, gathered(batch.targets, classes)?);
        let logits = layer.forward(&x, [rows, classes], self.method)?;
        let bce = BceWithLogits { pos_weight: self.pos_weight.clone() };
        loss.copy_from(&bce.forward(&[&logits, &t])?.0)?;
        let Some(gradients) = gradients else { return Ok(()) };
        let dlogits = Tensor::empty(x.device(), [rows, classes], DType::F32, "gradient of logits")?;
        bce.logit_gradient_into(&logits, &t, &dlogits, Write::Overwrite)?;
        gradients.backward_into(&x, &dlogits, self.method)
    }
}
