//! Layers: parameters, what they compute, what they cost. Names are PyTorch's.

use super::{BufferId, Forward, Init, Layout, ModelSummary, ParameterBuilder, ParameterId};
use crate::Result;
use crate::autograd::Var;
use crate::ops::conv2d::Conv2d as Conv2dOp;
use crate::ops::gemm::Linear as LinearOp;
use crate::ops::norm::{BatchNorm as BatchNormOp, LayerNorm as LayerNormOp, RunningStats};
use crate::ops::vector_quantize::{Codebook, VectorQuantize as VectorQuantizeOp};
use crate::tensor::Shape;

/// `torch.nn.Conv2d` without bias, NHWC: `[N,H,W,I]` to `[N,Ho,Wo,O]`, Ho = (H + 2 padding - kernel) / stride + 1.
pub struct Conv2d {
    weight: ParameterId,
    inputs: usize,
    outputs: usize,
    kernel: usize,
    stride: usize,
    padding: usize,
}

impl Conv2d {
    /// Weights start normal with deviation sqrt(2 / (O k k)) (He et al. 2015, fan out), as torchvision's ResNets.
    pub fn new(
        b: &mut ParameterBuilder,
        inputs: usize,
        outputs: usize,
        kernel: usize,
        stride: usize,
        padding: usize,
    ) -> Self {
        let deviation = (2.0 / (outputs * kernel * kernel) as f32).sqrt();
        let shape = [outputs, inputs, kernel, kernel];
        let weight = b.parameter("weight", shape, Layout::Conv2d, Init::Normal(deviation));
        Conv2d { weight, inputs, outputs, kernel, stride, padding }
    }

    /// y = conv(x).
    pub fn forward(&self, f: &Forward, x: &Var) -> Result<Var> {
        let op = Conv2dOp { stride: self.stride, padding: self.padding, method: f.method };
        f.tape.apply(op, &[x, &f.weight(self.weight)?])
    }

    /// The sizes [N, O, Ho, Wo] for [N, I, H, W], counted.
    pub fn summarise(&self, s: &mut ModelSummary, [n, _, h, w]: [usize; 4]) -> [usize; 4] {
        let size = |d: usize| (d + 2 * self.padding - self.kernel) / self.stride + 1;
        let output = [n, self.outputs, size(h), size(w)];
        let parameters = self.outputs * self.inputs * self.kernel * self.kernel;
        s.layer("", &output.into(), parameters, (n * output[2] * output[3] * parameters) as u64);
        output
    }
}

/// `torch.nn.BatchNorm2d` (eps 1e-5, momentum 0.1) over the last axis, optionally followed by a residual and a ReLU in
/// the same kernel.
pub struct BatchNorm {
    weight: ParameterId,
    bias: ParameterId,
    running_mean: BufferId,
    running_var: BufferId,
    channels: usize,
}

impl BatchNorm {
    /// Weight 1, bias 0, running mean 0, running variance 1.
    pub fn new(b: &mut ParameterBuilder, channels: usize) -> Self {
        BatchNorm {
            weight: b.parameter("weight", [channels], Layout::Plain, Init::Constant(1.0)),
            bias: b.parameter("bias", [channels], Layout::Plain, Init::Constant(0.0)),
            running_mean: b.buffer("running_mean", [channels], 0.0),
            running_var: b.buffer("running_var", [channels], 1.0),
            channels,
        }
    }

    /// y = bn(x), or relu(bn(x)), or relu(bn(x) + residual).
    pub fn forward(&self, f: &Forward, x: &Var, relu: bool, residual: Option<&Var>) -> Result<Var> {
        let running =
            RunningStats { mean: f.buffer(self.running_mean).clone(), var: f.buffer(self.running_var).clone() };
        let op = BatchNormOp { relu, ..BatchNormOp::new(f.mode, running) };
        let (weight, bias) = (f.parameter(self.weight)?, f.parameter(self.bias)?);
        let mut inputs = vec![x, &weight, &bias];
        inputs.extend(residual);
        f.tape.apply(op, &inputs)
    }

    /// Counted; sizes do not change.
    pub fn summarise(&self, s: &mut ModelSummary, shape: [usize; 4]) {
        s.layer("", &shape.into(), 2 * self.channels, 0);
    }
}

/// `torch.nn.LayerNorm` (eps 1e-5) over the last axis.
pub struct LayerNorm {
    weight: ParameterId,
    bias: ParameterId,
    channels: usize,
}

impl LayerNorm {
    /// Weight 1, bias 0.
    pub fn new(b: &mut ParameterBuilder, channels: usize) -> Self {
        LayerNorm {
            weight: b.parameter("weight", [channels], Layout::Plain, Init::Constant(1.0)),
            bias: b.parameter("bias", [channels], Layout::Plain, Init::Constant(0.0)),
            channels,
        }
    }

    /// y = ln(x).
    pub fn forward(&self, f: &Forward, x: &Var) -> Result<Var> {
        f.tape.apply(LayerNormOp::default(), &[x, &f.parameter(self.weight)?, &f.parameter(self.bias)?])
    }

    /// Counted; sizes do not change.
    pub fn summarise(&self, s: &mut ModelSummary, shape: Shape) {
        s.layer("", &shape, 2 * self.channels, 0);
    }
}

/// `torch.nn.Linear`: [.., I] to [.., O].
pub struct Linear {
    weight: ParameterId,
    bias: Option<ParameterId>,
    inputs: usize,
    outputs: usize,
}

impl Linear {
    /// Weights and bias start uniform in +-1/sqrt(I), PyTorch's default.
    pub fn new(b: &mut ParameterBuilder, inputs: usize, outputs: usize, bias: bool) -> Self {
        let init = Init::Uniform(1.0 / (inputs as f32).sqrt());
        Linear {
            weight: b.parameter("weight", [outputs, inputs], Layout::Plain, init),
            bias: bias.then(|| b.parameter("bias", [outputs], Layout::Plain, init)),
            inputs,
            outputs,
        }
    }

    /// y = x W^T + b.
    pub fn forward(&self, f: &Forward, x: &Var) -> Result<Var> {
        let weight = f.weight(self.weight)?;
        let bias = self.bias.map(|id| f.parameter(id)).transpose()?;
        let mut inputs = vec![x, &weight];
        inputs.extend(bias.as_ref());
        f.tape.apply(LinearOp { method: f.method }, &inputs)
    }

    /// Counted.
    pub fn summarise(&self, s: &mut ModelSummary, mut output: Shape) -> Shape {
        let rows = output.numel() / self.inputs;
        if let Some(last) = output.last_mut() {
            *last = self.outputs;
        }
        let bias = if self.bias.is_some() { self.outputs } else { 0 };
        s.layer("", &output, self.inputs * self.outputs + bias, (rows * self.inputs * self.outputs) as u64);
        output
    }
}

/// `VectorQuantize(use_cosine_sim=True)` of `vector-quantize-pytorch` 1.1.2, with its buffers `_codebook.*`: tokens [.., D] to the
/// nearest of M codes by cosine; a training pass moves the codebook by an exponential average of 0.8.
pub struct VectorQuantizer {
    embed: BufferId,
    cluster_size: BufferId,
}

impl VectorQuantizer {
    /// `codes` codes of `dim` elements, of length 1 at first.
    pub fn new(b: &mut ParameterBuilder, codes: usize, dim: usize) -> Self {
        b.scope("_codebook", |b| {
            // Whether the codes have been chosen by k-means: always, as there is none.
            b.buffer("initted", [1], 1.0);
            VectorQuantizer {
                cluster_size: b.buffer("cluster_size", [1, codes], 0.0),
                embed: b.drawn_buffer("embed", [1, codes, dim], Init::UnitRows),
            }
        })
    }

    /// The codes of tokens.
    pub fn forward(&self, f: &Forward, tokens: &Var) -> Result<Var> {
        let (embed, cluster_size) = (f.buffer(self.embed).clone(), f.buffer(self.cluster_size).clone());
        f.tape.apply(VectorQuantizeOp::new(Codebook { embed, cluster_size }, f.mode), &[tokens])
    }
}
