//! DCFormer-CLIP: a CT encoder and a text side in one space.

use serde::de::Error as _;
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value, json};

use super::super::layers::Linear;
use super::super::{Forward, ParameterBuilder, Parameters, StateDict};
use super::{DcFormer, DcFormerConfig};
use crate::autograd::Var;
use crate::ops::pointwise::Cast;
use crate::tensor::DType;
use crate::{Error, Result};

/// Which model. In a file, one table: `name`, a published size or `dcformer` for another one; `embedding`; `text_features`; and
/// any field of [`DcFormerConfig`] but its projection, over what the name stands for. `dcformer` needs `channels` and `blocks`.
#[derive(Clone, Debug, PartialEq)]
pub struct CtClipConfig {
    /// The name it was made by.
    pub name: String,
    /// The CT encoder, without projection.
    pub encoder: DcFormerConfig,
    /// Dimensions of the shared space.
    pub embedding: usize,
    /// Features of a text, which a trained projection without bias takes to the shared space. `None`: there is no text tower,
    /// texts are embeddings of the shared space already.
    pub text_features: Option<usize>,
}

/// The name of a model that is none of the published sizes.
const OTHER: &str = "dcformer";

impl CtClipConfig {
    /// A published size with 512 dimensions, and a text tower on this many features.
    ///
    /// # Errors
    /// A name that is not one of [`DcFormerConfig::NAMES`].
    pub fn named(name: &str, text_features: Option<usize>) -> Result<Self> {
        let encoder = DcFormerConfig::named(name)?;
        Ok(CtClipConfig { name: name.into(), encoder, embedding: 512, text_features })
    }

    fn from_table(mut table: Map<String, Value>) -> std::result::Result<Self, String> {
        let mut take = |key: &str| table.remove(key);
        let name = take("name").ok_or("missing field `name`")?;
        let name = name.as_str().ok_or("`name` is not a text")?.to_string();
        let size = |key: &str, value: Value| {
            value.as_u64().filter(|n| *n > 0).map(|n| n as usize).ok_or(format!("`{key}` is not a positive number"))
        };
        let embedding = take("embedding").map_or(Ok(512), |v| size("embedding", v))?;
        let text_features = take("text_features").map(|v| size("text_features", v)).transpose()?;
        if take("projection").is_some() {
            return Err("there is no field `projection`; `embedding` is its size".into());
        }
        let base = if name == OTHER {
            if let Some(missing) = ["channels", "blocks"].into_iter().find(|key| !table.contains_key(*key)) {
                return Err(format!("the model `{OTHER}` needs `{missing}`"));
            }
            DcFormerConfig::named(DcFormerConfig::NAMES[0])
        } else {
            DcFormerConfig::named(&name)
        };
        let base = base
            .map_err(|_| format!("there is no model `{name}`; use {} or {OTHER}", DcFormerConfig::NAMES.join(", ")))?;
        let mut encoder = base;
        // One by one, so that what is wrong is named.
        for (key, value) in table {
            let mut fields = json!(encoder);
            fields[&key] = value;
            encoder = serde_json::from_value(fields).map_err(|e| format!("`{key}`: {e}"))?;
        }
        Ok(CtClipConfig { name, encoder, embedding, text_features })
    }
}

impl<'de> Deserialize<'de> for CtClipConfig {
    fn deserialize<D: Deserializer<'de>>(d: D) -> std::result::Result<Self, D::Error> {
        Self::from_table(Map::deserialize(d)?).map_err(D::Error::custom)
    }
}

impl Serialize for CtClipConfig {
    fn serialize<S: Serializer>(&self, s: S) -> std::result::Result<S::Ok, S::Error> {
        let mut map = s.serialize_map(None)?;
        map.serialize_entry("name", &self.name)?;
        map.serialize_entry("embedding", &self.embedding)?;
        if let Some(features) = self.text_features {
            map.serialize_entry("text_features", &features)?;
        }
        let encoder = json!(self.encoder);
        for (key, value) in encoder.as_object().into_iter().flatten().filter(|(key, _)| *key != "projection") {
            map.serialize_entry(key, value)?;
        }
        map.end()
    }
}

/// A CT encoder and, optionally, a linear text tower (DCFormer, Sec. 3.3). Embeddings are not normalised: the loss normalises.
///
/// Names of the released code: `visual_transformer.*`, `to_visual_latent.weight` and, with a text tower,
/// `to_text_latent.weight`.
pub struct CtClip {
    visual: DcFormer,
    to_visual_latent: Linear,
    to_text_latent: Option<Linear>,
}

impl CtClip {
    /// # Errors
    /// An encoder that [`DcFormer::new`] refuses.
    pub fn new(b: &mut ParameterBuilder, config: &CtClipConfig) -> Result<Self> {
        let encoder = DcFormerConfig { projection: None, ..config.encoder.clone() };
        let visual = b.scope("visual_transformer", |b| DcFormer::new(b, &encoder))?;
        let latent = |b: &mut ParameterBuilder, name: &str, features: usize| {
            b.scope(name, |b| Linear::new(b, features, config.embedding, false))
        };
        Ok(CtClip {
            to_visual_latent: latent(b, "to_visual_latent", visual.head().inputs()),
            to_text_latent: config.text_features.map(|features| latent(b, "to_text_latent", features)),
            visual,
        })
    }

    /// The CT encoder.
    pub fn visual(&self) -> &DcFormer {
        &self.visual
    }

    /// Embeddings [N, D] in f32 of volumes [N, 1, H, W, D'].
    pub fn embed_volumes(&self, f: &Forward, volumes: &Var) -> Result<Var> {
        f32s(f, &self.to_visual_latent.forward(f, &self.visual.forward(f, volumes)?)?)
    }

    /// Embeddings [N, D] in f32 of text features [N, F]; of embeddings, where there is no text tower, themselves.
    pub fn embed_texts(&self, f: &Forward, features: &Var) -> Result<Var> {
        match &self.to_text_latent {
            Some(tower) => f32s(f, &tower.forward(f, &f.cast(features)?)?),
            None => Ok(features.clone()),
        }
    }

    /// Copies a `state_dict`: one of this model, or the released code's with either spelling of the norms. Returns the names that
    /// the model does not have, such as those of the released text encoder (`text_transformer.*`).
    ///
    /// # Errors
    /// Names the first tensor that is missing or has another shape.
    pub fn load(parameters: &Parameters, state: StateDict, source: &str) -> Result<Vec<String>> {
        if state.tensors.is_empty() {
            return Err(Error::argument(source, "holds no tensor", "pass a state_dict"));
        }
        DcFormer::canonical(state).load_into(parameters, source)
    }
}

fn f32s(f: &Forward, x: &Var) -> Result<Var> {
    if x.tensor().dtype() == DType::F32 { Ok(x.clone()) } else { f.tape.apply(Cast(DType::F32), &[x]) }
}
