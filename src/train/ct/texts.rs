//! The text side of a data set: features for a model's text tower, or embeddings for a model without one.

use std::path::Path;

use crate::data::cache::EmbeddingCache;
use crate::data::provenance::{Provenance, Undecided};
use crate::data::rows;
use crate::data::text::TextFeatures;
use crate::data::volumes::VolumeSet;
use crate::nn::models::CtClipConfig;
use crate::{Error, Result};

/// The text side of a data set.
pub enum Texts {
    /// Features for the model's text tower.
    Features(TextFeatures),
    /// Embeddings of the shared space, for a model without one: those of a cache.
    Embeddings(EmbeddingCache),
}

impl Texts {
    /// Text features of the one file or the embeddings of the other.
    ///
    /// # Errors
    /// Both or neither; a file that cannot be read.
    pub fn read(features: Option<&Path>, cache: Option<&Path>) -> Result<Self> {
        match (features, cache) {
            (Some(path), None) => TextFeatures::read(path).map(Texts::Features),
            (None, Some(path)) => EmbeddingCache::read(path).map(Texts::Embeddings),
            _ => Err(Error::argument(
                "texts",
                "there are both or neither of text features and cache",
                "give one of them",
            )),
        }
    }

    /// Whose texts they are.
    pub fn ids(&self) -> &[String] {
        match self {
            Texts::Features(t) => &t.ids,
            Texts::Embeddings(c) => &c.ids,
        }
    }

    /// What is wrong with a volume that has none.
    pub(super) fn lack(&self, id: &str) -> Error {
        let problem = match self {
            Texts::Features(_) => "there are no text features of its report",
            Texts::Embeddings(_) => "there is no embedding of its report",
        };
        Error::argument(id, problem, "make them of this data set, or leave the volume out")
    }

    /// Refuses texts of another kind or width than a model takes.
    pub(super) fn expect_model(&self, model: &CtClipConfig) -> Result<()> {
        let (what, problem, hint) = match (self, model.text_features) {
            (Texts::Features(t), Some(wanted)) if t.dim != wanted => (
                "text features",
                format!("have {} columns, the model's text tower takes {wanted}", t.dim),
                format!("pass those it was trained on; `x2ct cache text --features {wanted}` makes {wanted} columns"),
            ),
            (Texts::Features(_), None) => (
                "text features",
                "the model has no text tower for them".into(),
                "pass the embedding cache that it was trained on".into(),
            ),
            (Texts::Embeddings(_), Some(_)) => (
                "embeddings",
                "the model has a text tower, which takes text features".into(),
                "pass text features such as it was trained on".into(),
            ),
            (Texts::Embeddings(c), None) if c.dim != model.embedding => (
                "embeddings",
                format!("have {} columns, the model's space has {}", c.dim, model.embedding),
                "pass the embedding cache that it was trained on".into(),
            ),
            _ => return Ok(()),
        };
        Err(Error::argument(what, problem, hint))
    }

    /// Rows [ids, dim] in the order of `ids`, and the prompts' [18, dim], positive and negative.
    pub(super) fn rows(&self, ids: &[String]) -> Result<[Vec<f32>; 3]> {
        let (rows, prompts) = match self {
            Texts::Features(t) => {
                (t.select(ids.iter().map(String::as_str))?, [&t.prompts_positive, &t.prompts_negative])
            }
            Texts::Embeddings(c) => {
                (rows::select(&c.report, c.dim, &c.rows_of(ids)?), [&c.prompts_positive, &c.prompts_negative])
            }
        };
        Ok([rows, prompts[0].clone(), prompts[1].clone()])
    }

    /// Whether they belong to the very CTs of the volumes, joined on the id; volumes without a text have no part in it. A report says
    /// of no CT that it is its own, embeddings do.
    ///
    /// # Errors
    /// Names the first volume whose embedding is of another CT.
    pub fn expect_cts(&self, volumes: &VolumeSet) -> Result<Undecided> {
        let Texts::Embeddings(cache) = self else { return Ok(Vec::new()) };
        let known = cache.index();
        let rows: Vec<usize> =
            (0..volumes.ids().len()).filter(|&row| known.contains_key(volumes.ids()[row].as_str())).collect();
        let ids: Vec<String> = rows.iter().map(|&row| volumes.ids()[row].clone()).collect();
        Ok(cache.join("volumes", &ids, &volumes.cts().select(&rows))?.1)
    }

    /// What the texts are, and the name of their kind in a configuration.
    pub fn provenance(&self) -> (&'static str, Provenance) {
        match self {
            Texts::Features(t) => ("text", t.provenance()),
            Texts::Embeddings(c) => ("cache", c.provenance()),
        }
    }
}
