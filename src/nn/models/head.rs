//! From a CT encoder's last feature map to embeddings.

use serde::{Deserialize, Serialize};

use super::super::layers::{Linear, VectorQuantizer};
use super::super::{Forward, ModelSummary, ParameterBuilder};
use crate::autograd::Var;
use crate::ops::channels::Transpose;
use crate::ops::pointwise::Reshape;
use crate::ops::pool::GlobalAvgPool;
use crate::{Error, Result};

/// What becomes of the tokens of a volume, [T, H, W, C] with T along the depth (DCFormer's code, option `reduction`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TokenReduction {
    /// The mean over all positions: C values. The paper's global average pooling, and what its script runs.
    #[default]
    Channel,
    /// The mean along the depth, then (H, W, C) flattened: H W C values. The default of the code's command line.
    Depth,
    /// (T, H, W, C) flattened: T H W C values.
    Flatten,
}

impl TokenReduction {
    /// The names that [`TokenReduction::parse`] takes.
    pub const NAMES: [&str; 3] = ["channel", "depth", "flatten"];

    /// Reads `channel`, `depth` or `flatten`.
    pub fn parse(text: &str) -> Result<Self> {
        match text {
            "channel" => Ok(TokenReduction::Channel),
            "depth" => Ok(TokenReduction::Depth),
            "flatten" => Ok(TokenReduction::Flatten),
            _ => {
                let hint = format!("use {}", Self::NAMES.join(", "));
                Err(Error::argument("reduction", format!("`{text}` is not one"), hint))
            }
        }
    }

    /// Values left of a feature map of `channels` channels and these sizes along H, W and D.
    pub fn values(self, channels: usize, [h, w, d]: [usize; 3]) -> usize {
        match self {
            TokenReduction::Channel => channels,
            TokenReduction::Depth => h * w * channels,
            TokenReduction::Flatten => d * h * w * channels,
        }
    }
}

/// Tokens of a feature map, optionally quantised (`vq.*`), their reduction and the projection without bias to the shared space,
/// `to_visual_latent.weight`.
pub struct VolumeHead {
    quantizer: Option<VectorQuantizer>,
    reduction: TokenReduction,
    inputs: usize,
    projection: Option<Linear>,
}

impl VolumeHead {
    /// For feature maps of `channels` channels and sizes `map` along H, W and D. `codes` is the size of a codebook that tokens are
    /// quantised with, `projection` the embedding's length, or `None` for what the reduction leaves.
    pub fn new(
        b: &mut ParameterBuilder,
        channels: usize,
        map: [usize; 3],
        codes: Option<usize>,
        reduction: TokenReduction,
        projection: Option<usize>,
    ) -> Self {
        let quantizer = codes.map(|codes| b.scope("vq", |b| VectorQuantizer::new(b, codes, channels)));
        let inputs = reduction.values(channels, map);
        let projection = projection.map(|p| b.scope("to_visual_latent", |b| Linear::new(b, inputs, p, false)));
        VolumeHead { quantizer, reduction, inputs, projection }
    }

    /// Values a volume that the projection takes.
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// The tokens [N, T, H, W, C], T along the depth, of a feature map [N, C, H, W, D].
    pub fn tokens(&self, f: &Forward, map: &Var) -> Result<Var> {
        let [n, c, h, w, d] = map.tensor().dims("feature map")?;
        let depth_first = Transpose { matrices: [n, c * h * w, d], output: [n, d, c, h, w].into() };
        let channels_last = Transpose { matrices: [n * d, c, h * w], output: [n, d, h, w, c].into() };
        f.tape.apply(channels_last, &[&f.tape.apply(depth_first, &[map])?])
    }

    /// Embeddings of a feature map [N, C, H, W, D]: [N, P], or [N, inputs] without projection.
    ///
    /// # Errors
    /// A map of another size than the projection was made for.
    pub fn forward(&self, f: &Forward, map: &Var) -> Result<Var> {
        let tokens = self.tokens(f, map)?;
        let tokens = match &self.quantizer {
            Some(quantizer) => quantizer.forward(f, &tokens)?,
            None => tokens,
        };
        let [n, d, h, w, c] = tokens.tensor().dims("tokens")?;
        let reduced = match self.reduction {
            TokenReduction::Channel => f.tape.apply(GlobalAvgPool::default(), &[&tokens])?,
            TokenReduction::Depth => {
                let slices = f.tape.apply(Reshape([n, d, h * w * c].into()), &[&tokens])?;
                f.tape.apply(GlobalAvgPool::default(), &[&slices])?
            }
            TokenReduction::Flatten => f.tape.apply(Reshape([n, d * h * w * c].into()), &[&tokens])?,
        };
        let Some(projection) = &self.projection else { return Ok(reduced) };
        if reduced.tensor().shape()[1] != self.inputs {
            return Err(Error::argument(
                "volumes",
                format!(
                    "leave a feature map of {h}x{w}x{d}, {} values; the projection takes {}",
                    h * w * d * c,
                    self.inputs
                ),
                "build the model for this input size",
            ));
        }
        projection.forward(f, &reduced)
    }

    /// Counted for `n` volumes.
    pub fn summarise(&self, s: &mut ModelSummary, n: usize) {
        if let Some(projection) = &self.projection {
            s.scope("to_visual_latent", |s| projection.summarise(s, [n, self.inputs].into()));
        }
    }
}
