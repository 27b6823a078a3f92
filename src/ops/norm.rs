//! Normalisation: batch norm with fused residual addition and ReLU, layer norm, L2.

use crate::autograd::{Gradients, Op};
use crate::device::Device;
pub use crate::kernels::columns::Order;
use crate::kernels::norm::{self as kernel, BatchNormParams, Mask, RowNormParams};
pub use crate::kernels::norm::{RowLanes, Variant};
use crate::kernels::{DType, DevicePtr, Write};
use crate::tensor::Tensor;
use crate::{Error, Result};

/// Whether a batch normalisation uses (and records) the statistics of the batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// The batch's; the running statistics are updated.
    Train,
    /// The batch's; nothing is updated. A forward pass that repeats one in [`Mode::Train`], for a gradient whose record was
    /// not kept, gives the same values and leaves the running statistics as that one left them.
    Recompute,
    /// The running ones; nothing is updated.
    Eval,
}

impl Mode {
    /// Whether the batch's own statistics normalise.
    pub fn uses_batch(self) -> bool {
        self != Mode::Eval
    }

    /// The weight of the batch in the running statistics; `momentum` is that of training.
    pub(super) fn momentum(self, momentum: f64) -> f64 {
        if self == Mode::Train { momentum } else { 0.0 }
    }
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
    /// Whose statistics normalise, and whether they are recorded.
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
            running_mean: self.running.mean.ptr(),
            running_var: self.running.var.ptr(),
            rows: rows as u64,
            channels: channels as u64,
            eps: self.eps,
            momentum: self.mode.momentum(self.momentum),
            training: self.mode.uses_batch() as u32,
            relu: self.relu as u32,
            mask: Mask::None as u32,
            ..Default::default()
        })
    }

    fn workspace(&self, x: &Tensor, params: &BatchNormParams) -> Result<Tensor> {
        let bytes = params.workspace_bytes(x.device().launcher(), x.dtype())?;
        Tensor::empty(x.device(), [bytes / 4], DType::F32, "batch norm workspace")
    }
}

/// Where a gradient goes, null where nobody wants it, and the flag of how.
fn destination(gradient: &Option<(Tensor, Write)>) -> (DevicePtr, u32) {
    gradient.as_ref().map_or((DevicePtr::NULL, 0), |(tensor, write)| (tensor.ptr(), write.flag()))
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
        if self.mode.uses_batch() && params.rows < 2 {
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
        (params.dx, params.accumulate_dx) = destination(&dx);
        (params.dresidual, params.accumulate_dresidual) = destination(&dresidual);
        (params.dweight, params.accumulate_dweight) = destination(&dweight);
        (params.dbias, params.accumulate_dbias) = destination(&dbias);
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

/// Rows and columns of a tensor normalised over its last axis.
fn row_params(name: &str, x: &Tensor, eps: f64) -> Result<RowNormParams> {
    let channels = x.shape().last().copied().unwrap_or(0);
    if channels == 0 || channels > i32::MAX as usize {
        return Err(Error::argument(
            name,
            format!("the last axis of x {} is what is normalised", x.shape()),
            "pass x [..., D] with D from 1 to 2^31",
        ));
    }
    let rows = (x.numel() / channels) as u64;
    Ok(RowNormParams { x: x.ptr(), rows, channels: channels as u64, eps, ..Default::default() })
}

/// Layer normalisation over the last axis, as `torch.nn.LayerNorm`.
///
/// Inputs: x `[..., D]` f32 or bf16, weight and bias `[D]` f32. Output like x: `(x - mean) / sqrt(var + eps) * weight + bias`,
/// mean and biased variance of each row. Gradients reach all inputs. Deterministic.
#[derive(Clone, Copy, Debug)]
pub struct LayerNorm {
    /// Added to the variance.
    pub eps: f64,
    /// Threads of a row; `None` takes what suits the device and the shape.
    pub lanes: Option<RowLanes>,
}

impl Default for LayerNorm {
    /// eps 1e-5.
    fn default() -> Self {
        LayerNorm { eps: 1e-5, lanes: None }
    }
}

impl LayerNorm {
    fn lanes(&self, x: &Tensor, params: &RowNormParams) -> RowLanes {
        self.lanes.unwrap_or_else(|| RowLanes::of(x.device().launcher(), params.rows as usize))
    }
}

/// What the backward pass of [`LayerNorm`] keeps.
pub struct LayerNormContext {
    x: Tensor,
    weight: Tensor,
    mean: Tensor,
    rstd: Tensor,
}

impl Op for LayerNorm {
    type Context = LayerNormContext;

    fn name(&self) -> &'static str {
        "layer_norm"
    }

    fn forward(&self, inputs: &[&Tensor]) -> Result<(Tensor, LayerNormContext)> {
        let &[x, weight, bias] = inputs else {
            return Err(Error::argument("layer_norm", format!("{} inputs", inputs.len()), "pass x, weight and bias"));
        };
        let mut params = row_params("layer_norm", x, self.eps)?;
        let (device, rows, c) = (x.device(), params.rows as usize, params.channels as usize);
        weight.expect("layer_norm weight", device, [c], DType::F32)?;
        bias.expect("layer_norm bias", device, [c], DType::F32)?;
        let y = Tensor::empty(device, x.shape(), x.dtype(), "layer norm output")?;
        let mean = Tensor::empty(device, [rows], DType::F32, "row means")?;
        let rstd = Tensor::empty(device, [rows], DType::F32, "row rstd")?;
        (params.y, params.weight, params.bias) = (y.ptr(), weight.ptr(), bias.ptr());
        (params.mean, params.scale) = (mean.ptr(), rstd.ptr());
        let lanes = self.lanes(x, &params);
        // Safety: live tensors of the shapes just checked; y, mean and rstd are new.
        unsafe { kernel::layer_norm_forward(device.launcher(), lanes, x.dtype(), &params)? };
        Ok((y, LayerNormContext { x: x.clone(), weight: weight.clone(), mean, rstd }))
    }

    fn backward(&self, context: &LayerNormContext, dy: &Tensor, gradients: &mut Gradients) -> Result<()> {
        let x = &context.x;
        let (device, launcher) = (x.device(), x.device().launcher());
        dy.expect("layer_norm upstream gradient", device, x.shape(), x.dtype())?;
        let [dx, dweight, dbias] = [gradients.wanted(0)?, gradients.wanted(1)?, gradients.wanted(2)?];
        let mut params = row_params("layer_norm", x, self.eps)?;
        (params.dy, params.weight) = (dy.ptr(), context.weight.ptr());
        (params.mean, params.scale) = (context.mean.ptr(), context.rstd.ptr());
        (params.dx, params.accumulate_dx) = destination(&dx);
        (params.dweight, params.accumulate_dweight) = destination(&dweight);
        (params.dbias, params.accumulate_dbias) = destination(&dbias);
        let bytes = params.workspace_bytes(launcher, x.dtype())?;
        let workspace = Tensor::empty(device, [bytes / 4], DType::F32, "layer norm workspace")?;
        params.partial = workspace.ptr();
        let (lanes, order) = (self.lanes(x, &params), Order::of(launcher));
        // Safety: live tensors of the forward pass and destinations of the inputs' shapes.
        unsafe { kernel::layer_norm_backward(launcher, lanes, order, x.dtype(), &params) }
    }
}

/// L2 normalisation over the last axis, as `torch.nn.functional.normalize`: x `[..., D]` f32 or bf16 to x / max(||x||, eps).
///
/// Where ||x|| < eps the divisor is a constant: a zero row stays zero, and its gradient is the upstream one over eps.
/// Deterministic.
#[derive(Clone, Copy, Debug)]
pub struct L2Normalize {
    /// The least divisor.
    pub eps: f64,
    /// Threads of a row; `None` takes what suits the device and the shape.
    pub lanes: Option<RowLanes>,
}

impl Default for L2Normalize {
    /// eps 1e-12.
    fn default() -> Self {
        L2Normalize { eps: 1e-12, lanes: None }
    }
}

impl L2Normalize {
    fn lanes(&self, x: &Tensor, params: &RowNormParams) -> RowLanes {
        self.lanes.unwrap_or_else(|| RowLanes::of(x.device().launcher(), params.rows as usize))
    }
}

impl Op for L2Normalize {
    /// The input, and 1 / max(||x||, eps) of each row.
    type Context = (Tensor, Tensor);

    fn name(&self) -> &'static str {
        "l2_normalize"
    }

    fn forward(&self, inputs: &[&Tensor]) -> Result<(Tensor, (Tensor, Tensor))> {
        let x = inputs[0];
        if self.eps.is_nan() || self.eps < f32::MIN_POSITIVE as f64 {
            return Err(Error::argument(
                "l2_normalize",
                format!("eps {}", self.eps),
                "use a positive eps, such as 1e-12",
            ));
        }
        let mut params = row_params("l2_normalize", x, self.eps)?;
        let y = Tensor::empty(x.device(), x.shape(), x.dtype(), "normalised rows")?;
        let scale = Tensor::empty(x.device(), [params.rows as usize], DType::F32, "reciprocal norms")?;
        (params.y, params.scale) = (y.ptr(), scale.ptr());
        let lanes = self.lanes(x, &params);
        // Safety: x is live with that shape; y and scale are new.
        unsafe { kernel::l2_normalize_forward(x.device().launcher(), lanes, x.dtype(), &params)? };
        Ok((y, (x.clone(), scale)))
    }

    fn backward(&self, (x, scale): &(Tensor, Tensor), dy: &Tensor, gradients: &mut Gradients) -> Result<()> {
        let Some((dx, write)) = gradients.wanted(0)? else { return Ok(()) };
        dy.expect("l2_normalize upstream gradient", x.device(), x.shape(), x.dtype())?;
        let mut params = row_params("l2_normalize", x, self.eps)?;
        (params.dy, params.scale) = (dy.ptr(), scale.ptr());
        (params.dx, params.accumulate_dx) = (dx.ptr(), write.flag());
        let lanes = self.lanes(x, &params);
        // Safety: live tensors of the forward pass, dx of x's shape.
        unsafe { kernel::l2_normalize_backward(x.device().launcher(), lanes, x.dtype(), &params) }
    }
}
