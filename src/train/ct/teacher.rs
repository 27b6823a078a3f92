//! A trained CT encoder as a frozen teacher: what it says of volumes and reports, as the embedding cache that a radiograph encoder
//! learns from.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;

use super::super::{Checkpoint, Trainer};
use super::CtTrainConfig;
use super::parts::Parts;
use crate::data::cache::{EmbeddingCache, Embeddings};
use crate::data::provenance::{Provenance, Undecided};
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

    /// Whose texts they are.
    pub fn ids(&self) -> &[String] {
        match self {
            Texts::Features(t) => &t.ids,
            Texts::Embeddings(c) => &c.ids,
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

    /// Whether they belong to the very CTs of the volumes, joined on the id. A report says of no CT that it is its own, embeddings do.
    ///
    /// # Errors
    /// Names the first volume that has no embedding, or one of another CT.
    pub fn expect_cts(&self, volumes: &VolumeSet) -> Result<Undecided> {
        match self {
            Texts::Features(_) => Ok(Vec::new()),
            Texts::Embeddings(c) => Ok(c.join("volumes", volumes.ids(), volumes.cts())?.1),
        }
    }

    /// What the texts are, and the name of their kind in a configuration.
    pub fn provenance(&self) -> (&'static str, Provenance) {
        match self {
            Texts::Features(t) => ("text", t.provenance()),
            Texts::Embeddings(c) => ("cache", c.provenance()),
        }
    }
}

/// A trained CT encoder with its text side, frozen.
pub struct CtTeacher {
    trainer: Trainer<CtTrainConfig>,
    checkpoint_digest: String,
}

impl CtTeacher {
    /// Reads a checkpoint of `x2ct train`; caches name it by [`Checkpoint::digest`].
    ///
    /// # Errors
    /// A file that is none, or of a radiograph encoder.
    pub fn read(device: &Device, checkpoint: &Path) -> Result<Self> {
        let checkpoint = Checkpoint::read(checkpoint)?;
        let checkpoint_digest = checkpoint.digest();
        Ok(CtTeacher { trainer: Trainer::resume(device, &checkpoint)?, checkpoint_digest })
    }

    /// [`Checkpoint::digest`] of its checkpoint.
    pub fn digest(&self) -> &str {
        &self.checkpoint_digest
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
        let volumes = volumes.into();
        let outline = self.outline(&volumes, texts)?;
        let mut parts = self.parts(None, &outline)?;
        self.fill(outline, volumes, texts, &mut parts, stop, progress)
    }

    /// [`CtTeacher::cache`] to a file, of which no more is computed than has changed: a volume is embedded unless an earlier cache
    /// there, of the same model, or the folder `OUT.parts` holds the embedding of its content. Finished embeddings are kept in that
    /// folder about three times a minute and when the work stops, and the folder is gone when the file is there. A file that is
    /// this cache already is left as it is. Equal bytes, however they came about.
    ///
    /// # Errors
    /// Those of [`CtTeacher::cache`], parts of another model, a file that cannot be written.
    pub fn write_cache(
        &self,
        volumes: impl Into<Arc<VolumeSet>>,
        texts: &Texts,
        out: &Path,
        stop: &AtomicBool,
        progress: &mut dyn FnMut(usize),
    ) -> Result<EmbeddingCache> {
        let volumes = volumes.into();
        let wanted = self.outline(&volumes, texts)?;
        let before = EmbeddingCache::read(out).ok().filter(|cache| cache.checkpoint_digest == self.checkpoint_digest);
        if let Some(cache) = &before
            && (&cache.made, &cache.ids) == (&wanted.made, &wanted.ids)
            && (&cache.volume_digests, &cache.report_digests) == (&wanted.volume_digests, &wanted.report_digests)
            && cache.cts == wanted.cts
        {
            progress(cache.ids.len());
            return Ok(cache.clone());
        }
        let mut folder = out.as_os_str().to_owned();
        folder.push(".parts");
        let mut parts = self.parts(Some(folder.as_ref()), &wanted)?;
        if let Some(cache) = before.filter(|cache| preparation(cache) == preparation(&wanted)) {
            parts.know(&cache.volume_digests, &cache.ct);
        }
        let cache = self.fill(wanted, volumes, texts, &mut parts, stop, progress)?;
        cache.write(out)?;
        parts.close()?;
        Ok(cache)
    }

    /// The cache of these volumes and texts but for its embeddings.
    fn outline(&self, volumes: &VolumeSet, texts: &Texts) -> Result<Embeddings> {
        self.expect(volumes, texts)?;
        texts.expect_cts(volumes)?;
        let (of_volumes, (_, of_texts)) = (volumes.provenance()?, texts.provenance());
        let described = json!([of_volumes.settings, of_texts.settings]).to_string();
        let [reports, ..] = texts.rows(volumes.ids())?;
        let width = reports.len() / volumes.ids().len();
        let hex = |bytes: &[u8]| blake3::hash(bytes).to_hex().to_string();
        Ok(Embeddings {
            ids: volumes.ids().to_vec(),
            ct: Vec::new(),
            report: Vec::new(),
            dim: self.config().model.embedding,
            prompts_positive: Vec::new(),
            prompts_negative: Vec::new(),
            teacher: self.name(),
            checkpoint_digest: self.checkpoint_digest.clone(),
            preprocessing_digest: hex(described.as_bytes()),
            volume_digests: volumes.digests()?.iter().map(|&d| blake3::Hash::from(d).to_hex().to_string()).collect(),
            report_digests: reports.chunks(width).map(|row| hex(bytemuck::cast_slice(row))).collect(),
            cts: volumes.cts().clone(),
            made: Provenance::made(Default::default(), [("volumes", of_volumes), ("reports", of_texts)]),
        })
    }

    fn parts(&self, folder: Option<&Path>, outline: &Embeddings) -> Result<Parts> {
        Parts::open(folder, [&self.checkpoint_digest, &preparation(outline)], outline.dim)
    }

    /// An outline with its embeddings.
    fn fill(
        &self,
        outline: Embeddings,
        volumes: Arc<VolumeSet>,
        texts: &Texts,
        parts: &mut Parts,
        stop: &AtomicBool,
        progress: &mut dyn FnMut(usize),
    ) -> Result<EmbeddingCache> {
        let [report, prompts_positive, prompts_negative] = texts.rows(volumes.ids())?;
        let embeddings = Embeddings {
            ct: self.embed_volumes(volumes, &outline.volume_digests, parts, stop, progress)?,
            report: self.trainer.embed_texts(&report)?,
            prompts_positive: self.trainer.embed_texts(&prompts_positive)?,
            prompts_negative: self.trainer.embed_texts(&prompts_negative)?,
            ..outline
        };
        Ok(embeddings.into())
    }

    /// What cannot be decided about volumes and texts, which [`CtTeacher::cache`] takes, because it is not recorded.
    ///
    /// # Errors
    /// Volumes or texts of other settings than the model was trained on, naming the first that differs.
    pub fn undecided(&self, volumes: &VolumeSet, texts: &Texts) -> Result<Undecided> {
        let (sources, (kind, texts)) = (self.trainer.sources(), texts.provenance());
        let mut undecided = sources.expect_alike("volumes", &volumes.provenance()?)?;
        undecided.extend(sources.expect_alike(kind, &texts)?);
        Ok(undecided)
    }

    fn expect(&self, volumes: &VolumeSet, texts: &Texts) -> Result<()> {
        let problem = match (texts, self.config().model.text_features) {
            (Texts::Features(t), Some(wanted)) if t.dim != wanted => {
                format!("have {} columns, the model's text tower takes {wanted}", t.dim)
            }
            (Texts::Features(_), None) => "are features, and the model has no text tower".into(),
            (Texts::Embeddings(_), Some(_)) => "are embeddings, and the model has a text tower for features".into(),
            (Texts::Embeddings(c), None) if c.dim != self.config().model.embedding => {
                format!("have {} columns, the model's space has {}", c.dim, self.config().model.embedding)
            }
            _ => return self.undecided(volumes, texts).map(drop),
        };
        Err(Error::argument("texts", problem, "pass the kind of texts that the model was trained on"))
    }

    /// [volumes, dim], L2-normalised. Volume by volume, so that the bits of each depend on nothing else.
    fn embed_volumes(
        &self,
        volumes: Arc<VolumeSet>,
        digests: &[String],
        parts: &mut Parts,
        stop: &AtomicBool,
        progress: &mut dyn FnMut(usize),
    ) -> Result<Vec<f32>> {
        let todo: Vec<u32> = (0..digests.len() as u32).filter(|&row| !parts.hold(&digests[row as usize])).collect();
        let mut done = digests.len() - todo.len();
        progress(done);
        let loader = VolumeLoader::new(self.trainer.parameters().device(), volumes);
        let mut kept = Instant::now();
        for (i, &row) in todo.iter().enumerate() {
            if stop.load(Ordering::Relaxed) {
                parts.keep()?;
                return Err(Error::Interrupted(format!("after {done} of {} volumes", digests.len())));
            }
            let volume = loader.load(&[row])?;
            if let Some(&next) = todo.get(i + 1) {
                loader.ahead(&[next]);
            }
            parts.add(&digests[row as usize], self.trainer.embed_batch(&volume)?);
            if kept.elapsed() >= KEEP_EVERY {
                parts.keep()?;
                kept = Instant::now();
            }
            done += 1;
            progress(done);
        }
        parts.select(digests)
    }
}

/// How the volumes of a cache were prepared, as text.
fn preparation(cache: &Embeddings) -> String {
    cache.made.from.get("volumes").map_or(String::new(), |volumes| json!(volumes.settings).to_string())
}
