//! A trained CT encoder as a frozen teacher: what it says of volumes and reports, as the embedding cache that a radiograph encoder
//! learns from.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;

use super::super::{Checkpoint, Trainer};
use super::CtTrainConfig;
use super::parts::Parts;
use crate::data::cache::EmbeddingCache;
use crate::data::rows;
use crate::data::text::TextFeatures;
use crate::data::volumes::{VolumeLoader, VolumeSet};
use crate::device::Device;
use crate::{Error, Result};

/// How often finished embeddings are kept.
const KEEP_EVERY: Duration = Duration::from_secs(20);

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

    /// Rows [ids, dim] in the order of `ids`, and the prompts' [18, dim], positive and negative.
    fn rows(&self, ids: &[String]) -> Result<[Vec<f32>; 3]> {
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

    /// What the texts are of, for the digest of the preprocessing.
    fn description(&self) -> serde_json::Value {
        match self {
            Texts::Features(t) => json!({"encoder": t.encoder, "settings_digest": t.settings_digest}),
            Texts::Embeddings(c) => json!({"teacher": c.teacher, "preprocessing_digest": c.preprocessing_digest}),
        }
    }
}

/// BLAKE3 of the description of what was done to volumes and texts.
fn preprocessing_digest(volumes: &VolumeSet, texts: &Texts) -> String {
    let description = json!({"volumes": volumes.preprocessing_digest(), "texts": texts.description()});
    blake3::hash(description.to_string().as_bytes()).to_hex().to_string()
}

/// A trained CT encoder with its text side, frozen.
pub struct CtTeacher {
    trainer: Trainer<CtTrainConfig>,
    checkpoint_digest: String,
}

impl CtTeacher {
    /// Reads a checkpoint of `x2ct train`. Its digest is BLAKE3 of the file.
    ///
    /// # Errors
    /// A file that is none, or of a radiograph encoder.
    pub fn read(device: &Device, checkpoint: &Path) -> Result<Self> {
        let trainer = Trainer::resume(device, &Checkpoint::read(checkpoint)?)?;
        let mut hasher = blake3::Hasher::new();
        let file = File::open(checkpoint).and_then(|file| hasher.update_reader(file).map(drop));
        file.map_err(|e| Error::io(checkpoint, "read the checkpoint", &e))?;
        Ok(CtTeacher { trainer, checkpoint_digest: hasher.finalize().to_hex().to_string() })
    }

    /// What caches call it: the kind and name of its model.
    pub fn name(&self) -> String {
        Self::name_of(self.config())
    }

    /// [`CtTeacher::name`] of what a run trains.
    pub fn name_of(config: &CtTrainConfig) -> String {
        format!("DCFormer-CLIP ({})", config.model.name)
    }

    /// The run it was trained in.
    pub fn config(&self) -> &CtTrainConfig {
        self.trainer.config()
    }

    /// The embeddings of volumes, of their reports and of the prompts. `progress` is told how many volumes are done; `stop` ends the
    /// work with [`Error::Interrupted`].
    ///
    /// # Errors
    /// Volumes of another preprocessing than the model was trained on, or that cannot be read; texts that a volume is missing from or
    /// that do not fit the model.
    pub fn cache(
        &self,
        volumes: impl Into<Arc<VolumeSet>>,
        texts: &Texts,
        stop: &AtomicBool,
        progress: &mut dyn FnMut(usize),
    ) -> Result<EmbeddingCache> {
        self.build(volumes.into(), texts, None, stop, progress).map(|(cache, _)| cache)
    }

    /// [`CtTeacher::cache`] to a file. Finished embeddings are kept in the folder `OUT.parts` about three times a minute and when the
    /// work stops: a later call with the same model, volumes and texts goes on from them, and the folder is gone when the file is
    /// there. A file that is this cache already is left as it is. Equal bytes, however often the work was stopped.
    ///
    /// # Errors
    /// Those of [`CtTeacher::cache`], parts of another run, a file that cannot be written.
    pub fn write_cache(
        &self,
        volumes: impl Into<Arc<VolumeSet>>,
        texts: &Texts,
        out: &Path,
        stop: &AtomicBool,
        progress: &mut dyn FnMut(usize),
    ) -> Result<EmbeddingCache> {
        let volumes = volumes.into();
        if let Ok(cache) = EmbeddingCache::read(out)
            && cache.checkpoint_digest == self.checkpoint_digest
            && cache.preprocessing_digest == preprocessing_digest(&volumes, texts)
            && cache.ids == volumes.ids()
        {
            progress(cache.ids.len());
            return Ok(cache);
        }
        let mut folder = out.as_os_str().to_owned();
        folder.push(".parts");
        let (cache, parts) = self.build(volumes, texts, Some(folder.as_ref()), stop, progress)?;
        cache.write(out)?;
        parts.close()?;
        Ok(cache)
    }

    fn build(
        &self,
        volumes: Arc<VolumeSet>,
        texts: &Texts,
        parts: Option<&Path>,
        stop: &AtomicBool,
        progress: &mut dyn FnMut(usize),
    ) -> Result<(EmbeddingCache, Parts)> {
        self.expect(&volumes, texts)?;
        let ids = volumes.ids().to_vec();
        let [report, prompts_positive, prompts_negative] = texts.rows(&ids)?;
        let preprocessing_digest = preprocessing_digest(&volumes, texts);
        let dim = self.config().model.embedding;
        let mut parts = Parts::open(parts, &format!("{} {preprocessing_digest}", self.checkpoint_digest), dim)?;
        let cache = EmbeddingCache {
            ct: self.embed_volumes(volumes, &mut parts, stop, progress)?,
            ids,
            report: self.trainer.embed_texts(&report)?,
            dim,
            prompts_positive: self.trainer.embed_texts(&prompts_positive)?,
            prompts_negative: self.trainer.embed_texts(&prompts_negative)?,
            teacher: self.name(),
            checkpoint_digest: self.checkpoint_digest.clone(),
            preprocessing_digest,
        };
        Ok((cache, parts))
    }

    fn expect(&self, volumes: &VolumeSet, texts: &Texts) -> Result<()> {
        let trained_on = &self.trainer.sources().preprocessing_digest;
        if !trained_on.is_empty() && *trained_on != volumes.preprocessing_digest() {
            return Err(Error::argument(
                "volumes",
                format!("were prepared with preset {:?}, not as those the model was trained on", volumes.preset().name),
                "prepare them with the same preset and settings",
            ));
        }
        let problem = match (texts, self.config().model.text_features) {
            (Texts::Features(t), Some(wanted)) if t.dim != wanted => {
                format!("have {} columns, the model's text tower takes {wanted}", t.dim)
            }
            (Texts::Features(_), None) => "are features, and the model has no text tower".into(),
            (Texts::Embeddings(_), Some(_)) => "are embeddings, and the model has a text tower for features".into(),
            (Texts::Embeddings(c), None) if c.dim != self.config().model.embedding => {
                format!("have {} columns, the model's space has {}", c.dim, self.config().model.embedding)
            }
            _ => return Ok(()),
        };
        Err(Error::argument("texts", problem, "pass the kind of texts that the model was trained on"))
    }

    /// [volumes, dim], L2-normalised. Pieces are the same whatever is done already, so that the bits are.
    fn embed_volumes(
        &self,
        volumes: Arc<VolumeSet>,
        parts: &mut Parts,
        stop: &AtomicBool,
        progress: &mut dyn FnMut(usize),
    ) -> Result<Vec<f32>> {
        let (config, ids) = (self.config(), volumes.ids().to_vec());
        let all: Vec<u32> = (0..ids.len() as u32).collect();
        let names = |piece: &[u32]| piece.iter().map(|&row| ids[row as usize].clone()).collect::<Vec<_>>();
        let todo: Vec<&[u32]> =
            all.chunks(config.micro_batch.unwrap_or(config.batch)).filter(|piece| !parts.hold(&names(piece))).collect();
        let mut done = ids.len() - todo.iter().map(|piece| piece.len()).sum::<usize>();
        let loader = VolumeLoader::new(self.trainer.parameters().device(), volumes);
        let mut kept = Instant::now();
        for (i, piece) in todo.iter().enumerate() {
            if stop.load(Ordering::Relaxed) {
                parts.keep()?;
                return Err(Error::Interrupted(format!("after {done} of {} volumes", ids.len())));
            }
            let volumes = loader.load(piece)?;
            if let Some(next) = todo.get(i + 1) {
                loader.ahead(next);
            }
            parts.add(&names(piece), &self.trainer.embed_batch(&volumes)?);
            if kept.elapsed() >= KEEP_EVERY {
                parts.keep()?;
                kept = Instant::now();
            }
            done += piece.len();
            progress(done);
        }
        parts.select(&ids)
    }
}
