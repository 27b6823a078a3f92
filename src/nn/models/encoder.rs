//! The radiograph encoder of X2CT-CLIP: an image trunk and a projection without bias to the shared space.

use serde::{Deserialize, Serialize};

use super::super::layers::Linear;
use super::super::{Forward, ModelSummary, ParameterBuilder};
use super::resnet::{ResNet, ResNetDepth};
use crate::autograd::Var;
use crate::{Error, Result};

/// Which encoder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EncoderConfig {
    /// `resnet18` or `resnet50`.
    pub name: String,
    /// Channels of the first stage; 64 in torchvision.
    #[serde(default = "EncoderConfig::default_width")]
    pub width: usize,
    /// Dimensions of the embedding: the teacher's.
    #[serde(default = "EncoderConfig::default_embedding")]
    pub embedding: usize,
}

impl EncoderConfig {
    fn default_width() -> usize {
        64
    }

    fn default_embedding() -> usize {
        512
    }

    /// A trunk by name at a width, with 512 dimensions of embedding.
    pub fn new(name: &str, width: usize) -> Self {
        EncoderConfig { name: name.into(), width, embedding: Self::default_embedding() }
    }
}

/// Images `[N,H,W,3]` to embeddings `[N,D]`, not normalised (the loss normalises). Names: `xray_encoder.*` (torchvision's
/// inside) and `to_xray_latent.weight`.
pub struct RadiographEncoder {
    trunk: ResNet,
    projection: Linear,
}

impl RadiographEncoder {
    /// # Errors
    /// An unknown name, a width or embedding of 0.
    pub fn new(b: &mut ParameterBuilder, config: &EncoderConfig) -> Result<Self> {
        let depth = match config.name.as_str() {
            "resnet18" => ResNetDepth::R18,
            "resnet50" => ResNetDepth::R50,
            other => {
                return Err(Error::argument(
                    "model.name",
                    format!("there is no model `{other}`"),
                    "use resnet18 or resnet50",
                ));
            }
        };
        if config.width == 0 || config.width > 1024 || config.embedding == 0 {
            let problem = format!("width {} and embedding {} are not usable", config.width, config.embedding);
            return Err(Error::argument("model", problem, "use a width of 1 to 1024 and an embedding of at least 1"));
        }
        let trunk = b.scope("xray_encoder", |b| ResNet::new(b, depth, config.width));
        let projection = b.scope("to_xray_latent", |b| Linear::new(b, trunk.features(), config.embedding, false));
        Ok(RadiographEncoder { trunk, projection })
    }

    /// Embeddings of images.
    pub fn forward(&self, f: &Forward, images: &Var) -> Result<Var> {
        self.projection.forward(f, &self.trunk.forward(f, images)?)
    }

    /// Counted at the input size [N, 3, H, W].
    pub fn summary(&self, input: [usize; 4]) -> ModelSummary {
        let mut s = ModelSummary::default();
        let features = self.trunk.summarise(&mut s, input);
        s.scope("to_xray_latent", |s| self.projection.summarise(s, features.into()));
        s
    }
}
