//! The CT encoder of DCFormer (Sec. 3): a MetaFormer over volumes whose token mixer is a decomposed convolution, or, for
//! comparison, another one.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::super::{
    Forward, Init, LayerSummary, Layout, ModelSummary, ParameterBuilder, ParameterId, Recompute, StateDict,
};
use super::head::{TokenReduction, VolumeHead};
use super::mixer::{Decomposed, Mixer, TokenMixer};
use crate::autograd::Var;
use crate::ops::channels::PointwiseConv;
use crate::ops::decomp_conv::{Activation, Groups};
use crate::ops::mlp::{Hidden, Mlp};
use crate::ops::pool::MaxPool3d;
use crate::{Error, Result};

/// Which encoder. The kernel sizes are those of the released code; the paper's text has 7 in every stage.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DcFormerConfig {
    /// Channels of the stem and of the four stages.
    pub channels: [usize; 5],
    /// Blocks of the four stages.
    pub blocks: [usize; 4],
    /// Taps of the four stages' token mixers; odd.
    pub kernels: [usize; 4],
    /// Whether a GELU follows each layer of the stem; the released code has none.
    pub stem_activation: bool,
    /// What the blocks mix voxels with; [`Mixer::Decomposed`] is DCFormer.
    #[serde(default)]
    pub mixer: Mixer,
    /// Stochastic depth: the probability that a sample passes the last block by, growing linearly from 0 at the first; below 1.
    /// A training pass then needs [`Forward::with_draws`].
    #[serde(default)]
    pub drop_path: f32,
    /// What each block's layer scale is at first. So small a number as the released code's takes thousands of steps to grow.
    #[serde(default = "DcFormerConfig::published_layer_scale")]
    pub layer_scale: f32,
    /// Sizes of the volumes along H, W and D, which the projection depends on where the reduction keeps positions.
    #[serde(default = "DcFormerConfig::published_input")]
    pub input: [usize; 3],
    /// Codes of a codebook that the tokens of the last feature map are quantised with; the released code has 8192, the paper
    /// none. A training pass with one cannot be repeated, as gradient caching would.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vq: Option<usize>,
    /// What the embedding keeps of the last feature map.
    #[serde(default)]
    pub reduction: TokenReduction,
    /// Dimensions of the embedding, or no projection.
    pub projection: Option<usize>,
}

impl DcFormerConfig {
    /// The names that [`DcFormerConfig::named`] takes.
    pub const NAMES: [&str; 4] = ["dcformer-nano", "dcformer-naive", "dcformer-tiny", "dcformer-small"];

    /// A published size for volumes of 512x512x256, the mean over all positions, without projection.
    ///
    /// # Errors
    /// A name that is not one of [`DcFormerConfig::NAMES`].
    pub fn named(name: &str) -> Result<Self> {
        let (blocks, channels) = match name {
            "dcformer-nano" => ([1, 1, 1, 1], [32, 32, 64, 128, 256]),
            "dcformer-naive" => ([2, 2, 2, 2], [32, 64, 128, 256, 512]),
            "dcformer-tiny" => ([2, 3, 3, 2], [64, 96, 192, 384, 768]),
            "dcformer-small" => ([2, 3, 6, 2], [64, 96, 192, 384, 768]),
            _ => {
                let hint = format!("use {}", Self::NAMES.join(", "));
                return Err(Error::argument("model", format!("there is no DCFormer `{name}`"), hint));
            }
        };
        Ok(DcFormerConfig {
            channels,
            blocks,
            kernels: [13, 11, 9, 7],
            stem_activation: false,
            mixer: Mixer::Decomposed,
            drop_path: 0.0,
            layer_scale: Self::published_layer_scale(),
            input: Self::published_input(),
            vq: None,
            reduction: TokenReduction::Channel,
            projection: None,
        })
    }

    fn published_input() -> [usize; 3] {
        [512, 512, 256]
    }

    fn published_layer_scale() -> f32 {
        1e-6
    }

    /// Sizes of the last feature map along H, W and D: the stem's stride of 4, then four poolings by 2.
    pub fn map(&self) -> [usize; 3] {
        self.input.map(|size| (0..4).fold(size.div_ceil(4), |size, _| size.div_ceil(2)))
    }
}

/// `x + gamma (W2 GELU(W1 mix(x) + b1) + b2)`; the first block of a stage pools and changes the channels before.
struct Block {
    projection: Option<ParameterId>,
    mixer: TokenMixer,
    hidden: (ParameterId, ParameterId),
    output: (ParameterId, ParameterId),
    gamma: ParameterId,
    inputs: usize,
    channels: usize,
    /// How likely a sample passes the block by, and the block's place among all.
    drop_path: (f32, usize),
}

impl Block {
    fn new(
        b: &mut ParameterBuilder,
        inputs: usize,
        channels: usize,
        (mixer, kernel, layer_scale): (Mixer, usize, f32),
        first: bool,
    ) -> Self {
        let linear = |b: &mut ParameterBuilder, name: &str, [outputs, inputs]: [usize; 2]| {
            let init = Init::Uniform(1.0 / (inputs as f32).sqrt());
            b.scope(format!("mlp.mlp.{name}"), |b| {
                let weight = b.parameter("weight", [outputs, inputs], Layout::Plain, init);
                (weight, b.parameter("bias", [outputs], Layout::Plain, init))
            })
        };
        let init = Init::Uniform(1.0 / (inputs as f32).sqrt());
        Block {
            gamma: b.parameter("gamma", [channels], Layout::Plain, Init::Constant(layer_scale)),
            projection: first.then(|| b.parameter("proj.weight", [channels, inputs, 1, 1, 1], Layout::Plain, init)),
            mixer: TokenMixer::new(b, mixer, channels, kernel),
            hidden: linear(b, "0", [4 * channels, channels]),
            output: linear(b, "3", [channels, 4 * channels]),
            inputs,
            channels,
            drop_path: (0.0, 0),
        }
    }

    /// What the block adds to: x, or, in the first block of a stage, x pooled and projected.
    fn enter(&self, f: &Forward, x: &Var) -> Result<Var> {
        let Some(weight) = self.projection else { return Ok(x.clone()) };
        let pooled = f.tape.apply(MaxPool3d::new(3, 2, 1), &[x])?;
        f.tape.apply(PointwiseConv { method: f.method }, &[&pooled, &f.weight(weight)?])
    }

    fn forward(&self, f: &Forward, x: &Var) -> Result<Var> {
        let mixed = self.mixer.forward(f, x)?;
        let hidden = if f.recompute == Recompute::Nothing { Hidden::Kept } else { Hidden::Recomputed };
        let (rate, block) = self.drop_path;
        let drop_path = f.drop_path(rate, block, x.tensor().shape()[0])?;
        let ids = [self.hidden.0, self.hidden.1, self.output.0, self.output.1, self.gamma];
        let parameters = ids.iter().map(|&id| f.parameter(id)).collect::<Result<Vec<_>>>()?;
        let inputs: Vec<_> = [x, &mixed].into_iter().chain(&parameters).collect();
        f.tape.apply(Mlp { method: f.method, hidden, drop_path }, &inputs)
    }

    fn summarise(&self, s: &mut ModelSummary, mut shape: [usize; 5]) -> [usize; 5] {
        if self.projection.is_some() {
            let [n, _, d1, d2, d3] = shape;
            let pooled = |d: usize| (d + 2 - 3) / 2 + 1;
            shape = [n, self.channels, pooled(d1), pooled(d2), pooled(d3)];
            let voxels: usize = shape.iter().product();
            s.layer("proj", &shape.into(), self.channels * self.inputs, (voxels * self.inputs) as u64);
        }
        self.mixer.summarise(s, shape);
        let (c, voxels) = (self.channels, shape.iter().product::<usize>());
        let [n, _, d1, d2, d3] = shape;
        s.layer("mlp.mlp.0", &[n, 4 * c, d1, d2, d3].into(), 4 * c * (c + 1), (voxels * 4 * c) as u64);
        s.layer("mlp.mlp.3", &shape.into(), c * (4 * c + 1), (voxels * 4 * c) as u64);
        s.layer("gamma", &shape.into(), c, 0);
        shape
    }
}

/// Volumes [N, 1, H, W, D] to feature maps and, reduced as the configuration says, to embeddings. Every size of the input is a
/// multiple of 64, so that the last stage has whole voxels (others work, rounded up).
///
/// Names: `encoder.*` and `vq.*` as in the released code and `to_visual_latent.weight`. The released code stores each branch's norm
/// under two names, `norm.0` and `c1.1`; [`StateDict::load_into`] wants the first, which [`DcFormer::canonical`] makes of
/// the second.
pub struct DcFormer {
    stem: Vec<Decomposed>,
    stages: Vec<Vec<Arc<Block>>>,
    features: usize,
    head: VolumeHead,
    mixer: Mixer,
    input: [usize; 3],
}

/// What a training pass keeps of a stem layer or block, in values a volume.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UnitRecord {
    /// Its input, which is kept unless the unit pools it.
    pub input: usize,
    /// The pooled and the projected input.
    pub entry: usize,
    /// The choices of the pooling, a byte each: as many as pooled values; 0 where nothing is pooled.
    pub choices: usize,
    /// What the mixer leaves.
    pub mixed: usize,
    /// The hidden layer of the channel MLP; none in the stem.
    pub hidden: usize,
    /// Its output.
    pub output: usize,
    /// Gradients that its backward pass works on at a time.
    pub gradients: usize,
}

impl DcFormer {
    /// # Errors
    /// A channel count, block count, codebook or input size of 0, an even kernel, a drop-path rate that is no probability below 1, a head of
    /// attention that does not divide the channels.
    pub fn new(b: &mut ParameterBuilder, config: &DcFormerConfig) -> Result<Self> {
        let DcFormerConfig { channels, blocks, kernels, .. } = config;
        if channels.contains(&0) || blocks.contains(&0) || kernels.iter().any(|k| k % 2 == 0) {
            return Err(Error::argument(
                "model",
                format!("channels {channels:?}, blocks {blocks:?}, kernels {kernels:?}"),
                "use at least one channel and block a stage, and odd kernels",
            ));
        }
        config.mixer.check(&channels[1..])?;
        if config.vq == Some(0) {
            return Err(Error::argument("model", "a codebook of no codes", "use at least one, or none at all"));
        }
        if config.input.contains(&0) {
            let problem = format!("volumes of {:?} have no voxels", config.input);
            return Err(Error::argument("model", problem, "give the sizes along H, W and D"));
        }
        if !config.layer_scale.is_finite() {
            let problem = format!("a layer scale of {}", config.layer_scale);
            return Err(Error::argument("model", problem, "use 1e-6, or up to 1 for a short training"));
        }
        if !(0.0..1.0).contains(&config.drop_path) {
            let problem = format!("a drop-path rate of {}", config.drop_path);
            return Err(Error::argument("model", problem, "use 0, or a probability below 1"));
        }
        let (mut block_index, all_blocks) = (0, blocks.iter().sum::<usize>());
        let activation = if config.stem_activation { Activation::Gelu } else { Activation::None };
        let (stem, stages) = b.scope("encoder", |b| {
            let stem = (0..4).map(|layer| {
                let (inputs, kernel, stride) = if layer == 0 { (1, 7, 4) } else { (channels[0], 3, 1) };
                let name = format!("s0.0.{layer}");
                let mut conv =
                    b.scope(name, |b| Decomposed::new(b, [inputs, channels[0]], kernel, stride, Groups::Dense));
                conv.activation = activation;
                conv
            });
            let stem: Vec<_> = stem.collect();
            let stages = (0..4).map(|stage| {
                let mut block = |b: &mut ParameterBuilder, i: usize| {
                    let inputs = if i == 0 { channels[stage] } else { channels[stage + 1] };
                    let mut block = b.scope(format!("s{}.{i}", stage + 1), |b| {
                        let mixing = (config.mixer, kernels[stage], config.layer_scale);
                        Block::new(b, inputs, channels[stage + 1], mixing, i == 0)
                    });
                    let rate = config.drop_path * block_index as f32 / (all_blocks - 1) as f32;
                    block.drop_path = (rate, block_index);
                    block_index += 1;
                    Arc::new(block)
                };
                (0..blocks[stage]).map(|i| block(b, i)).collect()
            });
            (stem, stages.collect())
        });
        let features = channels[4];
        let head = VolumeHead::new(b, features, config.map(), config.vq, config.reduction, config.projection);
        Ok(DcFormer { stem, stages, features, head, mixer: config.mixer, input: config.input })
    }

    /// Channels of the last feature map.
    pub fn features(&self) -> usize {
        self.features
    }

    /// The feature maps of the stem and of the four stages, [N, C, H', W', D'] each, of volumes [N, 1, H, W, D].
    pub fn feature_maps(&self, f: &Forward, volumes: &Var) -> Result<Vec<Var>> {
        let mut maps = Vec::new();
        self.encode(f, volumes, |map| maps.push(map.clone()))?;
        Ok(maps)
    }

    /// The last feature map; `visit` sees all.
    fn encode(&self, f: &Forward, volumes: &Var, mut visit: impl FnMut(&Var)) -> Result<Var> {
        let mut x = f.cast(volumes)?;
        for layer in &self.stem {
            // Nothing to recompute: it keeps its input alone.
            x = layer.forward(f, &x)?;
        }
        visit(&x);
        for stage in &self.stages {
            for block in stage {
                x = block.enter(f, &x)?;
                let block = block.clone();
                x = f.block(&x, move |f, x| block.forward(f, x))?;
            }
            visit(&x);
        }
        Ok(x)
    }

    /// What turns the last feature map into embeddings.
    pub fn head(&self) -> &VolumeHead {
        &self.head
    }

    /// Embeddings of the last feature map, reduced and, where the model has a projection, projected: [N, P].
    pub fn embedding(&self, f: &Forward, map: &Var) -> Result<Var> {
        self.head.forward(f, map)
    }

    /// Embeddings of volumes [N, 1, H, W, D].
    pub fn forward(&self, f: &Forward, volumes: &Var) -> Result<Var> {
        let map = self.encode(f, volumes, |_| ())?;
        self.embedding(f, &map)
    }

    /// A checkpoint of the released code under the names loaded here: `c1.1.weight` is an alias of `norm.0.weight`.
    pub fn canonical(state: StateDict) -> StateDict {
        let tensors = state.tensors.into_iter().map(|(name, tensor)| (Self::canonical_name(&name), tensor));
        let unread = state.unread.into_iter().map(|(name, dtype)| (Self::canonical_name(&name), dtype));
        StateDict { tensors: tensors.collect(), unread: unread.collect() }
    }

    /// The name loaded here of a tensor of the released code.
    pub fn canonical_name(name: &str) -> String {
        (1..=3)
            .fold(name.to_string(), |name, axis| name.replace(&format!(".c{axis}.1."), &format!(".norm.{}.", axis - 1)))
    }

    /// Values that the batch norms see at the input size [N, 1, H, W, D]. The tool `fvcore` counts five operations each in
    /// training and two in evaluation, beside the multiply-adds: what the paper's table gives is the training count.
    pub fn normalized_values(&self, input: [usize; 5]) -> u64 {
        let layers = self.summary(input).layers;
        let norms = |l: &LayerSummary| match l {
            l if l.stage == "s0" || l.name.ends_with(".dwconv") => 3,
            l if l.name.ends_with(".dwconv.norm") => 1,
            _ => 0,
        };
        layers.iter().map(|l| norms(l) * l.output.iter().product::<usize>() as u64).sum()
    }

    /// What a training pass on volumes of the configured size records, unit by unit.
    ///
    /// # Errors
    /// For another token mixer than the decomposed convolution, which keeps more than is counted here.
    pub fn records(&self) -> Result<Vec<UnitRecord>> {
        if self.mixer != Mixer::Decomposed {
            let problem = format!("what {:?} records is not counted", self.mixer);
            return Err(Error::argument("model", problem, "ask for a DCFormer"));
        }
        let count = |shape: [usize; 5]| shape.iter().product::<usize>();
        let [h, w, d] = self.input;
        let (mut s, mut shape, mut units) = (ModelSummary::default(), [1, 1, h, w, d], Vec::new());
        for layer in &self.stem {
            let (input, output) = (shape, layer.summarise(&mut s, shape));
            shape = output;
            // That of the output, under the activation, and, but for the volumes, of the input.
            let activation = if layer.activation == Activation::Gelu { count(output) } else { 0 };
            let of_input = if units.is_empty() { 0 } else { count(input) };
            let gradients = count(output) + activation + of_input;
            units.push(UnitRecord { input: count(input), output: count(output), gradients, ..UnitRecord::default() });
        }
        for block in self.stages.iter().flatten() {
            let (input, output) = (count(shape), block.summarise(&mut s, shape));
            shape = output;
            let n = count(output);
            let choices = if block.projection.is_some() { n / block.channels * block.inputs } else { 0 };
            let entry = if choices > 0 { choices + n } else { 0 };
            // Of the output, of x and of what the mixer leaves.
            let gradients = 3 * n;
            units.push(UnitRecord { input, entry, choices, mixed: n, hidden: 4 * n, output: n, gradients });
        }
        Ok(units)
    }

    /// Counted at the input size [N, 1, H, W, D].
    pub fn summary(&self, input: [usize; 5]) -> ModelSummary {
        let mut s = ModelSummary::default();
        let mut shape = input;
        s.scope("encoder", |s| {
            s.stage("s0");
            for (i, layer) in self.stem.iter().enumerate() {
                shape = s.scope(format!("s0.0.{i}"), |s| layer.summarise(s, shape));
            }
            for (stage, blocks) in self.stages.iter().enumerate() {
                s.stage(&format!("s{}", stage + 1));
                for (i, block) in blocks.iter().enumerate() {
                    shape = s.scope(format!("s{}.{i}", stage + 1), |s| block.summarise(s, shape));
                }
            }
        });
        self.head.summarise(&mut s, shape[0]);
        s
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Parameters and multiply-adds over 512x512x256, stage by stage.
    #[test]
    fn published_sizes_have_their_parameters_and_macs() {
        let stem = [29_695_672_320, 117_373_403_136];
        let expected: [(&str, [usize; 5], [u64; 5], u64); 4] = [
            (
                "dcformer-nano",
                [29_472, 10_944, 37_888, 144_640, 566_272],
                [stem[0], 1_371_537_408, 605_028_352, 292_290_560, 143_982_592],
                34_205_335_552,
            ),
            (
                "dcformer-naive",
                [29_472, 74_496, 282_624, 1_102_848, 4_362_240],
                [stem[0], 9_512_681_472, 4_567_597_056, 2_242_904_064, 1_112_801_280],
                49_479_155_712,
            ),
            (
                "dcformer-tiny",
                [114_240, 163_968, 930_816, 3_661_056, 9_787_392],
                [stem[1], 21_114_126_336, 15_108_931_584, 7_462_453_248, 2_499_674_112],
                168_145_453_056,
            ),
            (
                "dcformer-small",
                [114_240, 163_968, 930_816, 7_248_384, 9_787_392],
                [stem[1], 21_114_126_336, 15_108_931_584, 14_773_911_552, 2_499_674_112],
                175_492_300_800,
            ),
        ];
        for (name, parameters, macs, training_count) in expected {
            let mut b = ParameterBuilder::new();
            let model = DcFormer::new(&mut b, &DcFormerConfig::named(name).unwrap()).unwrap();
            let stages = model.summary([1, 1, 512, 512, 256]).stages();
            assert_eq!(stages.iter().map(|s| s.1).collect::<Vec<_>>(), parameters, "{name}");
            assert_eq!(stages.iter().map(|s| s.2).collect::<Vec<_>>(), macs, "{name}");
            let counted = macs.iter().sum::<u64>() + 5 * model.normalized_values([1, 1, 512, 512, 256]);
            assert_eq!(counted, training_count, "{name}");
        }
    }

    /// With a projection to 512: of the mean, of 8 x 8 columns of 512x512x256, of their 4 slices; and at another size.
    #[test]
    fn projections_take_what_the_reduction_leaves() {
        let parameters = |reduction, input| {
            let nano = DcFormerConfig::named("dcformer-nano").unwrap();
            let config = DcFormerConfig { reduction, input, projection: Some(512), ..nano };
            let model = DcFormer::new(&mut ParameterBuilder::new(), &config).unwrap();
            model.summary([1, 1, input[0], input[1], input[2]]).parameters() - 789_216
        };
        let sizes = [TokenReduction::Channel, TokenReduction::Depth, TokenReduction::Flatten]
            .map(|reduction| [[512, 512, 256], [65, 64, 129]].map(|input| parameters(reduction, input) / 512));
        assert_eq!(sizes, [[256, 256], [64 * 256, 2 * 256], [256 * 256, 6 * 256]]);
    }

    #[test]
    fn both_spellings_of_the_norms_are_one() {
        let tensor = || ([1].into(), vec![0.0]);
        let names = ["encoder.s0.0.1.c2.1.running_mean", "encoder.s1.0.dwconv.c3.0.bias"];
        let state: StateDict = names.iter().map(|name| (name.to_string(), tensor())).collect();
        let names: Vec<_> = DcFormer::canonical(state).tensors.into_keys().collect();
        assert_eq!(names, ["encoder.s0.0.1.norm.1.running_mean", "encoder.s1.0.dwconv.c3.0.bias"]);
    }
}
