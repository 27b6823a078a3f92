//! ResNet (He et al., "Deep residual learning for image recognition", 2016), with torchvision's names, stride placement
//! (on the 3x3 convolution) and initialisation; the classifier is left out.

use super::super::layers::{BatchNorm, Conv2d};
use super::super::{Forward, ModelSummary, ParameterBuilder};
use crate::Result;
use crate::autograd::Var;
use crate::ops::pool::{GlobalAvgPool, MaxPool2d};

/// How many layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResNetDepth {
    /// Basic blocks 2, 2, 2, 2.
    R18,
    /// Bottleneck blocks 3, 4, 6, 3.
    R50,
}

impl ResNetDepth {
    /// Blocks of the four stages.
    pub fn blocks(self) -> [usize; 4] {
        match self {
            ResNetDepth::R18 => [2, 2, 2, 2],
            ResNetDepth::R50 => [3, 4, 6, 3],
        }
    }

    fn expansion(self) -> usize {
        match self {
            ResNetDepth::R18 => 1,
            ResNetDepth::R50 => 4,
        }
    }
}

/// A ResNet trunk: `[N,H,W,3]` to pooled features `[N, features()]`.
pub struct ResNet {
    conv1: Conv2d,
    bn1: BatchNorm,
    layers: Vec<Vec<Block>>,
    features: usize,
}

/// conv-bn-relu ..., conv-bn, plus the identity or a projected shortcut, then ReLU.
struct Block {
    convs: Vec<(Conv2d, BatchNorm)>,
    downsample: Option<(Conv2d, BatchNorm)>,
}

impl Block {
    fn new(b: &mut ParameterBuilder, depth: ResNetDepth, inputs: usize, planes: usize, stride: usize) -> Self {
        let outputs = planes * depth.expansion();
        // (outputs, kernel, stride) of each convolution; padding keeps the size.
        let plan = match depth {
            ResNetDepth::R18 => vec![(planes, 3, stride), (planes, 3, 1)],
            ResNetDepth::R50 => vec![(planes, 1, 1), (planes, 3, stride), (outputs, 1, 1)],
        };
        let mut channels = inputs;
        let convs = plan.into_iter().enumerate().map(|(i, (out, kernel, stride))| {
            let conv = b.scope(format!("conv{}", i + 1), |b| Conv2d::new(b, channels, out, kernel, stride, kernel / 2));
            channels = out;
            (conv, b.scope(format!("bn{}", i + 1), |b| BatchNorm::new(b, out)))
        });
        let convs = convs.collect();
        let downsample = (stride != 1 || inputs != outputs).then(|| {
            b.scope("downsample", |b| {
                let conv = b.scope("0", |b| Conv2d::new(b, inputs, outputs, 1, stride, 0));
                (conv, b.scope("1", |b| BatchNorm::new(b, outputs)))
            })
        });
        Block { convs, downsample }
    }

    fn forward(&self, f: &Forward, x: &Var) -> Result<Var> {
        let shortcut = match &self.downsample {
            Some((conv, bn)) => bn.forward(f, &conv.forward(f, x)?, false, None)?,
            None => x.clone(),
        };
        let mut y = x.clone();
        for (i, (conv, bn)) in self.convs.iter().enumerate() {
            let last = i + 1 == self.convs.len();
            y = bn.forward(f, &conv.forward(f, &y)?, true, last.then_some(&shortcut))?;
        }
        Ok(y)
    }

    fn summarise(&self, s: &mut ModelSummary, input: [usize; 4]) -> [usize; 4] {
        let mut shape = input;
        for (i, (conv, bn)) in self.convs.iter().enumerate() {
            shape = s.scope(format!("conv{}", i + 1), |s| conv.summarise(s, shape));
            s.scope(format!("bn{}", i + 1), |s| bn.summarise(s, shape));
        }
        if let Some((conv, bn)) = &self.downsample {
            s.scope("downsample", |s| {
                let out = s.scope("0", |s| conv.summarise(s, input));
                s.scope("1", |s| bn.summarise(s, out));
            });
        }
        shape
    }
}

impl ResNet {
    /// `width` is the number of channels of the first stage: 64 in the paper.
    pub fn new(b: &mut ParameterBuilder, depth: ResNetDepth, width: usize) -> Self {
        let conv1 = b.scope("conv1", |b| Conv2d::new(b, 3, width, 7, 2, 3));
        let bn1 = b.scope("bn1", |b| BatchNorm::new(b, width));
        let mut channels = width;
        let layers = depth.blocks().into_iter().enumerate().map(|(stage, count)| {
            let planes = width << stage;
            b.scope(format!("layer{}", stage + 1), |b| {
                (0..count)
                    .map(|i| {
                        let stride = if stage > 0 && i == 0 { 2 } else { 1 };
                        let block = b.scope(i, |b| Block::new(b, depth, channels, planes, stride));
                        channels = planes * depth.expansion();
                        block
                    })
                    .collect()
            })
        });
        let layers = layers.collect();
        ResNet { conv1, bn1, layers, features: channels }
    }

    /// Channels of the pooled features: 8 width for 18 layers, 32 width for 50.
    pub fn features(&self) -> usize {
        self.features
    }

    /// Pooled features `[N, features()]` of images `[N,H,W,3]`; images are cast to the pass's storage type.
    pub fn forward(&self, f: &Forward, x: &Var) -> Result<Var> {
        let x = self.conv1.forward(f, &f.cast(x)?)?;
        let x = self.bn1.forward(f, &x, true, None)?;
        let mut x = f.tape.apply(MaxPool2d::new(3, 2, 1), &[&x])?;
        for block in self.layers.iter().flatten() {
            x = block.forward(f, &x)?;
        }
        f.tape.apply(GlobalAvgPool::default(), &[&x])
    }

    /// Counted at the input size [N, 3, H, W].
    pub fn summarise(&self, s: &mut ModelSummary, input: [usize; 4]) -> [usize; 2] {
        let mut shape = s.scope("conv1", |s| self.conv1.summarise(s, input));
        s.scope("bn1", |s| self.bn1.summarise(s, shape));
        let pooled = |d: usize| (d + 2 - 3) / 2 + 1;
        shape = [shape[0], shape[1], pooled(shape[2]), pooled(shape[3])];
        for (stage, blocks) in self.layers.iter().enumerate() {
            s.scope(format!("layer{}", stage + 1), |s| {
                for (i, block) in blocks.iter().enumerate() {
                    shape = s.scope(i, |s| block.summarise(s, shape));
                }
            });
        }
        [shape[0], self.features]
    }
}
