//! Token mixers: what a block of the MetaFormer frame of [`DcFormer`](super::DcFormer) does between voxels.

use serde::{Deserialize, Serialize};

use super::super::layers::{BatchNorm, LayerNorm, Linear};
use super::super::{BufferId, Forward, Init, Layout, ModelSummary, ParameterBuilder, ParameterId};
use crate::autograd::Var;
use crate::ops::attention::PackedAttention;
use crate::ops::channels::Transpose;
use crate::ops::decomp_conv::{Activation, DecompConv, Groups, Norm};
use crate::ops::depthwise_conv3d::DepthwiseConv3d;
use crate::ops::norm::RunningStats;
use crate::ops::pool::AvgPool3d;
use crate::{Error, Result};

/// Which token mixer the four stages have. DCFormer's own, and those that its paper compares with, in the same frame: stem,
/// pooling, projection, channel MLP, layer scale and residual stay as they are.
///
/// Written in a configuration as `mixer = { name = "conv3d", kernel = 7 }`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "snake_case", deny_unknown_fields)]
pub enum Mixer {
    /// Three depthwise convolutions along the axes, each with its norm, summed; DCFormer's. Named `dwconv`.
    #[default]
    Decomposed,
    /// One depthwise convolution of k x k x k taps with a bias, and a batch norm; as ConvNeXt (Liu et al. 2022). Named
    /// `dwconv.conv` and `dwconv.norm`.
    Conv3d {
        /// Taps along an axis; odd.
        kernel: usize,
    },
    /// The mean over 3 x 3 x 3 neighbours less the voxel itself; as PoolFormer (Yu et al. 2022). No parameters.
    AvgPool,
    /// Multi-head self-attention over all voxels, as a ViT's (Dosovitskiy et al. 2021): layer norm over the channels, `qkv` with
    /// bias, attention, `proj` with bias, under `attention`. The layer norm is the one thing the frame lacks for it: the
    /// residual stream is not normalised, and logits would grow with its square.
    Attention {
        /// Channels of a head; divides those of every stage.
        head_dim: usize,
    },
}

impl Mixer {
    /// Those that are compared: DCFormer's, ConvNeXt's with 7 taps, PoolFormer's, and attention with heads of 32.
    pub const SIBLINGS: [Mixer; 4] =
        [Mixer::Decomposed, Mixer::Conv3d { kernel: 7 }, Mixer::AvgPool, Mixer::Attention { head_dim: 32 }];

    /// Whether stages of these channels can have it.
    pub(super) fn check(self, channels: &[usize]) -> Result<()> {
        let refuse = |problem: String, hint: &str| Err(Error::argument("model.mixer", problem, hint));
        match self {
            Mixer::Conv3d { kernel } if kernel % 2 == 0 => {
                refuse(format!("a convolution of {kernel} taps an axis has no centre"), "use an odd kernel")
            }
            Mixer::Attention { head_dim } if head_dim == 0 || channels.iter().any(|c| c % head_dim != 0) => {
                let problem = format!("heads of {head_dim} do not divide the channels {channels:?}");
                refuse(problem, "use a head_dim that divides the channels of every stage")
            }
            _ => Ok(()),
        }
    }
}

impl std::fmt::Display for Mixer {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        match self {
            Mixer::Decomposed => write!(f, "decomposed convolution"),
            Mixer::Conv3d { kernel } => write!(f, "depthwise convolution {kernel}x{kernel}x{kernel}"),
            Mixer::AvgPool => write!(f, "average pooling"),
            Mixer::Attention { head_dim } => write!(f, "self-attention, heads of {head_dim}"),
        }
    }
}

/// The mixer of a block, with its parameters.
pub(super) enum TokenMixer {
    Decomposed(Decomposed),
    Conv3d(Conv3d),
    AvgPool,
    Attention(Attention),
}

impl TokenMixer {
    /// Over `channels` channels; `kernel` is the decomposed convolution's in this stage.
    pub fn new(b: &mut ParameterBuilder, mixer: Mixer, channels: usize, kernel: usize) -> Self {
        match mixer {
            Mixer::Decomposed => TokenMixer::Decomposed(
                b.scope("dwconv", |b| Decomposed::new(b, [channels; 2], kernel, 1, Groups::Depthwise)),
            ),
            Mixer::Conv3d { kernel } => TokenMixer::Conv3d(b.scope("dwconv", |b| Conv3d::new(b, channels, kernel))),
            Mixer::AvgPool => TokenMixer::AvgPool,
            Mixer::Attention { head_dim } => {
                TokenMixer::Attention(b.scope("attention", |b| Attention::new(b, channels, head_dim)))
            }
        }
    }

    /// [N, C, D1, D2, D3] to the same.
    pub fn forward(&self, f: &Forward, x: &Var) -> Result<Var> {
        match self {
            TokenMixer::Decomposed(mixer) => mixer.forward(f, x),
            TokenMixer::Conv3d(mixer) => mixer.forward(f, x),
            TokenMixer::AvgPool => f.tape.apply(AvgPool3d { minus_input: true, ..Default::default() }, &[x]),
            TokenMixer::Attention(mixer) => mixer.forward(f, x),
        }
    }

    /// Counted; sizes do not change.
    pub fn summarise(&self, s: &mut ModelSummary, shape: [usize; 5]) {
        match self {
            TokenMixer::Decomposed(mixer) => {
                s.scope("dwconv", |s| mixer.summarise(s, shape));
            }
            TokenMixer::Conv3d(mixer) => s.scope("dwconv", |s| mixer.summarise(s, shape)),
            TokenMixer::AvgPool => {}
            TokenMixer::Attention(mixer) => s.scope("attention", |s| mixer.summarise(s, shape)),
        }
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

/// Volumes [N, C, D1, D2, D3] as rows of channels [N, D1 D2 D3, C].
fn tokens(f: &Forward, x: &Var) -> Result<Var> {
    let [n, c, d1, d2, d3] = x.tensor().dims("token mixer x [N, C, D1, D2, D3]")?;
    let voxels = d1 * d2 * d3;
    f.tape.apply(Transpose { matrices: [n, c, voxels], output: [n, voxels, c].into() }, &[x])
}

/// Tokens as the volumes that `like` is.
fn volumes(f: &Forward, tokens: &Var, like: &Var) -> Result<Var> {
    let shape = like.tensor().shape();
    let [n, voxels, c] = tokens.tensor().dims("tokens [N, V, C]")?;
    f.tape.apply(Transpose { matrices: [n, voxels, c], output: shape.clone() }, &[tokens])
}

/// A depthwise convolution and a batch norm. The norm works on channels last: two transpositions around it, four passes over
/// the activation beside the k^3 multiply-adds a voxel of the convolution.
pub(super) struct Conv3d {
    weight: ParameterId,
    bias: ParameterId,
    norm: BatchNorm,
    kernel: usize,
}

impl Conv3d {
    fn new(b: &mut ParameterBuilder, channels: usize, kernel: usize) -> Self {
        let taps = kernel.pow(3);
        let init = Init::Uniform(1.0 / (taps as f32).sqrt());
        let (weight, bias) = b.scope("conv", |b| {
            let weight = b.parameter("weight", [channels, 1, kernel, kernel, kernel], Layout::Plain, init);
            (weight, b.parameter("bias", [channels], Layout::Plain, init))
        });
        Conv3d { weight, bias, norm: b.scope("norm", |b| BatchNorm::new(b, channels)), kernel }
    }

    fn forward(&self, f: &Forward, x: &Var) -> Result<Var> {
        let (weight, bias) = (f.parameter(self.weight)?, f.parameter(self.bias)?);
        let y = f.tape.apply(DepthwiseConv3d::default(), &[x, &weight, &bias])?;
        let y = self.norm.forward(f, &tokens(f, &y)?, false, None)?;
        volumes(f, &y, x)
    }

    fn summarise(&self, s: &mut ModelSummary, shape: [usize; 5]) {
        let (taps, channels) = (self.kernel.pow(3), shape[1]);
        let products = shape.iter().product::<usize>() * taps;
        s.layer("conv", &shape.into(), channels * (taps + 1), products as u64);
        s.layer("norm", &shape.into(), 2 * channels, 0);
    }
}

/// Layer norm and multi-head self-attention over the voxels.
pub(super) struct Attention {
    norm: LayerNorm,
    qkv: Linear,
    proj: Linear,
    heads: usize,
}

impl Attention {
    fn new(b: &mut ParameterBuilder, channels: usize, head_dim: usize) -> Self {
        Attention {
            norm: b.scope("norm", |b| LayerNorm::new(b, channels)),
            qkv: b.scope("qkv", |b| Linear::new(b, channels, 3 * channels, true)),
            proj: b.scope("proj", |b| Linear::new(b, channels, channels, true)),
            heads: channels / head_dim,
        }
    }

    fn forward(&self, f: &Forward, x: &Var) -> Result<Var> {
        let y = self.norm.forward(f, &tokens(f, x)?)?;
        let y = self.qkv.forward(f, &y)?;
        let y = f.tape.apply(PackedAttention { heads: self.heads, variant: None }, &[&y])?;
        volumes(f, &self.proj.forward(f, &y)?, x)
    }

    fn summarise(&self, s: &mut ModelSummary, [n, c, d1, d2, d3]: [usize; 5]) {
        let voxels = d1 * d2 * d3;
        let tokens = crate::tensor::Shape::from([n, voxels, c]);
        s.scope("norm", |s| self.norm.summarise(s, tokens.clone()));
        s.scope("qkv", |s| self.qkv.summarise(s, tokens.clone()));
        // Every voxel with every voxel: the inner products, and the weighted sums.
        s.layer("", &tokens, 0, 2 * (n * c) as u64 * (voxels as u64).pow(2));
        s.scope("proj", |s| self.proj.summarise(s, tokens));
    }
}

#[cfg(test)]
mod tests {
    use super::super::{DcFormer, DcFormerConfig};
    use super::*;
    use crate::device::Device;

    /// What is counted is what is built, whatever the mixer; and what attention over 512 tokens costs, by hand.
    #[test]
    fn summaries_count_what_is_built() {
        for name in ["dcformer-nano", "dcformer-tiny"] {
            for mixer in Mixer::SIBLINGS {
                let mut b = ParameterBuilder::new();
                let config = DcFormerConfig { mixer, ..DcFormerConfig::named(name).unwrap() };
                let model = DcFormer::new(&mut b, &config).unwrap();
                let counted = model.summary([1, 1, 64, 64, 64]).parameters();
                assert_eq!(b.build(&Device::host(), 0).unwrap().count(), counted, "{name} {mixer}");
            }
        }
        let (mut s, shape) = (ModelSummary::default(), [1, 32, 8, 8, 8]);
        TokenMixer::new(&mut ParameterBuilder::new(), Mixer::Attention { head_dim: 32 }, 32, 13)
            .summarise(&mut s, shape);
        assert_eq!(s.macs(), 512 * 4 * 32 * 32 + 2 * 512 * 512 * 32);
        assert_eq!(s.parameters(), 2 * 32 + 32 * 96 + 96 + 32 * 32 + 32);
        let mut s = ModelSummary::default();
        TokenMixer::new(&mut ParameterBuilder::new(), Mixer::Conv3d { kernel: 5 }, 32, 13).summarise(&mut s, shape);
        assert_eq!((s.macs(), s.parameters()), (32 * 512 * 125, 32 * (125 + 1 + 2)));
    }

    #[test]
    fn mixers_that_do_not_fit_are_refused() {
        let error = |mixer| {
            let config = DcFormerConfig { mixer, ..DcFormerConfig::named("dcformer-nano").unwrap() };
            DcFormer::new(&mut ParameterBuilder::new(), &config).err().expect("an error").to_string()
        };
        assert!(error(Mixer::Attention { head_dim: 48 }).contains("heads of 48 do not divide"));
        assert!(error(Mixer::Conv3d { kernel: 4 }).contains("odd kernel"));
    }

    #[test]
    fn a_mixer_is_written_as_its_name_and_number() {
        let mixer = Mixer::Conv3d { kernel: 7 };
        let text = serde_json::to_string(&mixer).unwrap();
        assert_eq!(text, r#"{"name":"conv3d","kernel":7}"#);
        assert_eq!(serde_json::from_str::<Mixer>(&text).unwrap(), mixer);
        assert!(serde_json::from_str::<Mixer>(r#"{"name":"conv4d"}"#).is_err());
    }
}
