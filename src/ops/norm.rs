//! Normalisation: batch normalisation with fused residual addition and ReLU.

use crate::autograd::{Gradients, Op};
use crate::device::Device;
pub use crate::kernels::columns::Order;
pub use crate::kernels::norm::Variant;
use crate::kernels::norm::{self as kernel, BatchNormParams, Mask};
use crate::kernels::{DType, DevicePtr, Write};
use crate::tensor::Tensor;
use crate::{Error, Result};

/// Whether a batch normalisation uses (and records) the statistics of the batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// The batch's; the running statistics are updated.
    Train,
    /// The running ones; nothing is updated.
    Eval,
}

/// Running statistics, `[C]` f32 each; a training forward pass updates them in place.
#[derive(Clone, Debug)]
pub struct RunningStats {
    /// Mean.
    pub mean: Tensor,
    /// Variance (unbiased estimates, averaged).
    pub var: Tensor,
}

impl RunningStats {
    /// Mean 0, variance 1.
    pub fn new(device: &Device, channels: usize) -> Result<Self> {
        Ok(RunningStats {
            mean: Tensor::zeros(device, [channels], DType::F32, "running mean")?,
            var: Tensor::from_slice(device, [channels], DType::F32, &vec![1.0; channels])?,
        })
    }
}

/// Batch normalisation over all axes but the last (channels last), as `torch.nn.BatchNorm2d` over NCHW.
///
/// Inputs: x `[..., C]` f32 or bf16, weight `[C]` f32, bias `[C]` f32, and optionally a residual like x. Output like x:
/// `y = relu((x - mean) / sqrt(var + eps) * weight + bias + residual)`, the ReLU only where `relu` is set. Variances are
/// biased where they normalise and unbiased in the running statistics.
///
/// Gradients reach all inputs. In evaluation the statistics are constants. Deterministic.
///
/// # Errors
/// In training with fewer than two values a channel, as PyTorch; on shapes or storage types that do not fit.
#[derive(Clone, Debug)]
pub struct BatchNorm {
    /// Added to the variance.
    pub eps: f64,
    /// Weight of the batch in the running statistics.
    pub momentum: f64,
    /// Whose statistics.
    pub mode: Mode,
    /// Updated by a training forward pass.
    pub running: RunningStats,
    /// Whether a ReLU follows.
    pub relu: bool,
    /// The implementation; `None` takes the one that suits the device.
    pub variant: Option<Variant>,
}

impl BatchNorm {
    /// eps 1e-5, momentum 0.1, no ReLU.
    pub fn new(mode: Mode, running: RunningStats) -> Self {
        BatchNorm { eps: 1e-5, momentum: 0.1, mode, running, relu: false, variant: None }
    }

    /// With a ReLU after the normalisation (and after the residual's addition).
    pub fn relu(self) -> Self {
        BatchNorm { relu: true, ..self }
    }

    fn variant(&self, device: &Device) -> Variant {
        self.variant.unwrap_or_else(|| Variant::of(device.launcher()))
    }

    fn params(&self, x: &Tensor) -> Result<BatchNormParams> {
        let Some(&channels) = x.shape().last() else {
            return Err(Error::argument("batch_norm", "x is a scalar", "pass x [..., channels]"));
        };
        let rows = x.numel() / channels.max(1);
        Ok(BatchNormParams {
            x: x.ptr(),
            residual: DevicePtr::NULL,
            y: DevicePtr::NULL,
            weight: DevicePtr::NULL,
            bias: DevicePtr::NULL,
            running_mean: self.running.mean.ptr(),
            running_var: self.running.var.ptr(),
            mean: DevicePtr::NULL,
            rstd: DevicePtr::NULL,
            dy: DevicePtr::NULL,
            dz: DevicePtr::NULL,
            dx: DevicePtr::NULL,
            dresidual: DevicePtr::NULL,
            dweight: DevicePtr::NULL,
            dbias: DevicePtr::NULL,
            coefficients: DevicePtr::NULL,
            partial: DevicePtr::NULL,
            rows: rows as u64,
            channels: channels as u64,
            eps: self.eps,
            momentum: self.momentum,
            walk: Default::default(),
            blocks: 0,
            training: (self.mode == Mode::Train) as u32,
            relu: self.relu as u32,
            mask: Mask::None as u32,
            accumulate_dx: 0,
            accumulate_dresidual: 0,
            accumulate_dweight: 0,
            accumulate_dbias: 0,
        })
    }

    fn workspace(&self, x: &Tensor, params: &BatchNormParams) -> Result<Tensor> {
        let bytes = params.workspace_bytes(x.device().launcher(), x.dtype())?;
        Tensor::empty(x.device(), [bytes / 4], DType::F32, "batch norm workspace")
    }
}

/// What the backward pass of [`BatchNorm`] keeps: tensors that live on anyway, and two vectors.
pub struct BatchNormContext {
    x: Tensor,
    y: Option<Tensor>,
    residual: bool,
    weight: Tensor,
    bias: Tensor,
    mean: Tensor,
    rstd: Tensor,
}

impl Op for BatchNorm {
    type Context = BatchNormContext;

    fn name(&self) -> &'static str {
        "batch_norm"
    }

    fn forward(&self, inputs: &[&Tensor]) -> Result<(Tensor, BatchNormContext)> {
        let (x, weight, bias, residual) = match *inputs {
            [x, weight, bias] => (x, weight, bias, None),
            [x, weight, bias, residual] => (x, weight, bias, Some(residual)),
            _ => {
                return Err(Error::argument(
                    "batch_norm",
                    format!("{} inputs", inputs.len()),
                    "pass x, weight, bias and optionally a residual",
                ));
            }
        };
        let mut params = self.params(x)?;
        let (device, c) = (x.device(), params.channels as usize);
        let vectors = [
            ("batch_norm weight", weight),
            ("batch_norm bias", bias),
            ("batch_norm running mean", &self.running.mean),
            ("batch_norm running variance", &self.running.var),
        ];
        for (what, vector) in vectors {
            vector.expect(what, device, [c], DType::F32)?;
        }
        if let Some(residual) = residual {
            residual.expect("batch_norm residual", device, x.shape(), x.dtype())?;
        }
        if self.mode == Mode::Train && params.rows < 2 {
            return Err(Error::argument(
                "batch_norm",
                format!("x {} has {} value a channel; training needs at least two", x.shape(), params.rows),
                "use a larger batch, or evaluation mode",
            ));
        }
        let y = Tensor::empty(device, x.shape(), x.dtype(), "batch norm output")?;
        let mean = Tensor::empty(device, [c], DType::F32, "batch mean")?;
        let rstd = Tensor::empty(device, [c], DType::F32, "batch rstd")?;
        params.residual = residual.map_or(DevicePtr::NULL, Tensor::ptr);
        (params.y, params.weight, params.bias) = (y.ptr(), weight.ptr(), bias.ptr());
        (params.mean, params.rstd) = (mean.ptr(), rstd.ptr());
        let workspace = self.workspace(x, &params)?;
        params.partial = workspace.ptr();
        // Safety: live tensors of the shapes just checked; y, mean, rstd and the workspace are new.
        unsafe { kernel::batch_norm_forward(device.launcher(), self.variant(device), x.dtype(), &params)? };
        // The mask of a bare ReLU is recomputed from x; with a residual it is read from y.
        let kept = (self.relu && residual.is_some()).then(|| y.clone());
        let (x, weight, bias) = (x.clone(), weight.clone(), bias.clone());
        Ok((y, BatchNormContext { x, y: kept, residual: residual.is_some(), weight, bias, mean, rstd }))
    }

    fn backward(&self, context: &BatchNormContext, dy: &Tensor, gradients: &mut Gradients) -> Result<()> {
        let x = &context.x;
        let device = x.device();
        let mut params = self.params(x)?;
        dy.expect("batch_norm upstream gradient", device, x.shape(), x.dtype())?;
        let [dx, dweight, dbias] = [gradients.wanted(0)?, gradients.wanted(1)?, gradients.wanted(2)?];
        let dresidual = if context.residual { gradients.wanted(3)? } else { None };
        let write = |destination: &Option<(Tensor, Write)>| match destination {
            Some((tensor, write)) => (tensor.ptr(), write.flag()),
            None => (DevicePtr::NULL, 0),
        };
        (params.dx, params.accumulate_dx) = write(&dx);
        (params.dresidual, params.accumulate_dresidual) = write(&dresidual);
        (params.dweight, params.accumulate_dweight) = write(&dweight);
        (params.dbias, params.accumulate_dbias) = write(&dbias);
        params.dy = dy.ptr();
        (params.weight, params.bias) = (context.weight.ptr(), context.bias.ptr());
        (params.mean, params.rstd) = (context.mean.ptr(), context.rstd.ptr());
        params.mask = match &context.y {
            Some(y) => {
                params.y = y.ptr();
                Mask::Output
            }
            None if self.relu => Mask::Recompute,
            None => Mask::None,
        } as u32;
        let coefficients = Tensor::empty(device, [2, params.channels as usize], DType::F32, "batch norm coefficients")?;
        params.coefficients = coefficients.ptr();
        let workspace = self.workspace(x, &params)?;
        params.partial = workspace.ptr();
        // Safety: live tensors of the forward pass and destinations of the inputs' shapes.
        unsafe { kernel::batch_norm_backward(device.launcher(), self.variant(device), x.dtype(), &params) }
    }
}
