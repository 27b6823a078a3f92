//! Token mixers: what a block of the MetaFormer frame of [`DcFormer`](super::DcFormer) does between voxels.

use serde::{Deserialize, Serialize};

use super::super::{BufferId, Forward, Init, Layout, ModelSummary, ParameterBuilder, ParameterId};
use crate::Result;
use crate::autograd::Var;
use crate::ops::decomp_conv::{Activation, DecompConv, Groups, Norm};
use crate::ops::norm::RunningStats;

/// Which token mixer the four stages have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "snake_case", deny_unknown_fields)]
pub enum Mixer {
    /// Three depthwise convolutions along the axes, each with its norm, summed; DCFormer's. Named `dwconv`.
    #[default]
    Decomposed,
}

/// The mixer of a block, with its parameters.
pub(super) enum TokenMixer {
    Decomposed(Decomposed),
}

impl TokenMixer {
    /// Over `channels` channels; `kernel` is the decomposed convolution's in this stage.
    pub fn new(b: &mut ParameterBuilder, mixer: Mixer, channels: usize, kernel: usize) -> Self {
        match mixer {
            Mixer::Decomposed => TokenMixer::Decomposed(
                b.scope("dwconv", |b| Decomposed::new(b, [channels; 2], kernel, 1, Groups::Depthwise)),
            ),
        }
    }

    /// [N, C, D1, D2, D3] to the same.
    pub fn forward(&self, f: &Forward, x: &Var) -> Result<Var> {
        match self {
            TokenMixer::Decomposed(mixer) => mixer.forward(f, x),
        }
    }

    /// Counted; sizes do not change.
    pub fn summarise(&self, s: &mut ModelSummary, shape: [usize; 5]) {
        match self {
            TokenMixer::Decomposed(mixer) => s.scope("dwconv", |s| mixer.summarise(s, shape)),
        };
    }
}

/// A decomposed convolution with the parameters of its branches and norms.
pub(super) struct Decomposed {
    weights: [ParameterId; 3],
    biases: [ParameterId; 3],
    norms: [BranchNorm; 3],
    channels: [usize; 2],
    kernel: usize,
    stride: usize,
    groups: Groups,
    /// What follows the sum.
    pub activation: Activation,
}

struct BranchNorm {
    weight: ParameterId,
    bias: ParameterId,
    running_mean: BufferId,
    running_var: BufferId,
}

impl Decomposed {
    /// PyTorch's initialisation of `Conv3d`: uniform in +-1/sqrt(fan in), weights and biases.
    pub fn new(b: &mut ParameterBuilder, channels: [usize; 2], kernel: usize, stride: usize, groups: Groups) -> Self {
        let [inputs, outputs] = channels;
        let fan_in = if groups == Groups::Dense { inputs } else { 1 };
        let init = Init::Uniform(1.0 / ((fan_in * kernel) as f32).sqrt());
        let norms = [0, 1, 2].map(|axis| {
            b.scope(format!("norm.{axis}"), |b| BranchNorm {
                weight: b.parameter("weight", [outputs], Layout::Plain, Init::Constant(1.0)),
                bias: b.parameter("bias", [outputs], Layout::Plain, Init::Constant(0.0)),
                running_mean: b.buffer("running_mean", [outputs], 0.0),
                running_var: b.buffer("running_var", [outputs], 1.0),
            })
        });
        let branches = [0, 1, 2].map(|axis| {
            b.scope(format!("c{}.0", axis + 1), |b| {
                let mut shape = [outputs, fan_in, 1, 1, 1];
                shape[2 + axis] = kernel;
                let weight = b.parameter("weight", shape, Layout::Plain, init);
                (weight, b.parameter("bias", [outputs], Layout::Plain, init))
            })
        });
        let (weights, biases) = (branches.map(|(weight, _)| weight), branches.map(|(_, bias)| bias));
        Decomposed { weights, biases, norms, channels, kernel, stride, groups, activation: Activation::None }
    }

    pub fn forward(&self, f: &Forward, x: &Var) -> Result<Var> {
        let running = self.norms.each_ref().map(|norm| RunningStats {
            mean: f.buffer(norm.running_mean).clone(),
            var: f.buffer(norm.running_var).clone(),
        });
        let op = DecompConv {
            norm: Some(Norm::new(f.mode, running)),
            activation: self.activation,
            method: Some(f.method),
            ..DecompConv::new(self.kernel, self.stride, self.groups)
        };
        let gammas = self.norms.each_ref().map(|norm| norm.weight);
        let betas = self.norms.each_ref().map(|norm| norm.bias);
        let ids = [self.weights, self.biases, gammas, betas];
        let parameters = ids.iter().flatten().map(|&id| f.parameter(id)).collect::<Result<Vec<_>>>()?;
        f.tape.apply(op, &std::iter::once(x).chain(&parameters).collect::<Vec<_>>())
    }

    pub fn summarise(&self, s: &mut ModelSummary, [n, _, d1, d2, d3]: [usize; 5]) -> [usize; 5] {
        let [inputs, outputs] = self.channels;
        let size = |d: usize| (d - 1) / self.stride + 1;
        let output = [n, outputs, size(d1), size(d2), size(d3)];
        let taps = self.kernel * if self.groups == Groups::Dense { inputs } else { 1 };
        let products = output.iter().product::<usize>() * taps * 3;
        s.layer("", &output.into(), 3 * outputs * (taps + 3), products as u64);
        output
    }
}
