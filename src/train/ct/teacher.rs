//! A trained CT encoder as a frozen teacher: what it says of volumes and reports, as the embedding cache that a radiograph encoder
//! learns from.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;

use super::super::{Checkpoint, Trainer};
use super::parts::Parts;
use super::{CtTrainConfig, Texts, Watch};
use crate::data::cache::{EmbeddingCache, Embeddings};
use crate::data::prompts::{PromptSet, Sentences};
use crate::data::provenance::{Provenance, Undecided};
use crate::data::text::HashedNgrams;
use crate::data::volumes::{LeftOut, VolumeLoader, VolumeSet};
use crate::device::Device;
use crate::{Error, Result};

/// How often finished embeddings are kept.
const KEEP_EVERY: Duration = Duration::from_secs(20);

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

    /// The embeddings of volumes, of their reports and of the prompts. `watch` is told how many volumes are done, and of those that
    /// cannot be read or have no text: where it lets the work go on, the cache is that of the others. `stop` ends the work with
    /// [`Error::Interrupted`].
    ///
    /// # Errors
    /// Volumes of another preprocessing than the model was trained on, or none that can be used; texts that do not fit the model;
    /// what `watch` does not let pass.
    pub fn cache(
        &self,
        volumes: impl Into<Arc<VolumeSet>>,
        texts: &Texts,
        stop: &AtomicBool,
        watch: &mut dyn Watch,
    ) -> Result<EmbeddingCache> {
        let volumes = self.usable(volumes.into(), texts, watch)?;
        let outline = self.outline(&volumes, texts)?;
        let mut parts = self.parts(None, &outline)?;
        self.fill(outline, volumes, texts, &mut parts, stop, watch)
    }

    /// [`CtTeacher::cache`] to a file, of which no more is computed than has changed: a volume is embedded unless an earlier cache
    /// there, of the same model, or the folder `OUT.parts` holds the embedding of its content. Finished embeddings are kept in that
    /// folder about three times a minute and when the work stops, and the folder is gone when the file is there. A file that is
    /// this cache already is left as it is. Equal bytes, however they came about; a volume whose embedding is known is not read again.
    ///
    /// # Errors
    /// Those of [`CtTeacher::cache`], parts of another model, a file that cannot be written.
    pub fn write_cache(
        &self,
        volumes: impl Into<Arc<VolumeSet>>,
        texts: &Texts,
        out: &Path,
        stop: &AtomicBool,
        watch: &mut dyn Watch,
    ) -> Result<EmbeddingCache> {
        let volumes = self.usable(volumes.into(), texts, watch)?;
        let wanted = self.outline(&volumes, texts)?;
        let before = EmbeddingCache::read(out).ok().filter(|cache| cache.checkpoint_digest == self.checkpoint_digest);
        if let Some(cache) = &before
            && (&cache.made, &cache.ids) == (&wanted.made, &wanted.ids)
            && (&cache.volume_digests, &cache.report_digests) == (&wanted.volume_digests, &wanted.report_digests)
            && cache.cts == wanted.cts
        {
            watch.done(cache.ids.len());
            return Ok(cache.clone());
        }
        let mut folder = out.as_os_str().to_owned();
        folder.push(".parts");
        let mut parts = self.parts(Some(folder.as_ref()), &wanted)?;
        if let Some(cache) = before.filter(|cache| preparation(cache) == preparation(&wanted)) {
            parts.know(&cache.volume_digests, &cache.ct);
        }
        let cache = self.fill(wanted, volumes, texts, &mut parts, stop, watch)?;
        cache.write(out)?;
        parts.close()?;
        Ok(cache)
    }

    /// The volumes that have a text, which fit the model as the texts do.
    fn usable(&self, volumes: Arc<VolumeSet>, texts: &Texts, watch: &mut dyn Watch) -> Result<Arc<VolumeSet>> {
        self.undecided_volumes(&volumes)?;
        self.undecided_texts(texts)?;
        texts.expect_cts(&volumes)?;
        let (ids, known) = (volumes.ids(), texts.ids().iter().collect::<HashSet<_>>());
        let (rows, lacking): (Vec<usize>, Vec<usize>) = (0..ids.len()).partition(|&row| known.contains(&ids[row]));
        match (&rows[..], &lacking[..]) {
            (_, []) => return Ok(volumes),
            ([], [first, others @ ..]) => return Err(texts.lack(&ids[*first]).with_others(others.len(), "volumes")),
            _ => (),
        }
        for row in lacking {
            watch.left_out(LeftOut { id: ids[row].clone(), error: texts.lack(&ids[row]) })?;
        }
        volumes.select(&rows).map(Arc::new)
    }

    /// The cache of these volumes and texts but for its embeddings.
    fn outline(&self, volumes: &VolumeSet, texts: &Texts) -> Result<Embeddings> {
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

    /// An outline with its embeddings, without the volumes that cannot be read.
    fn fill(
        &self,
        outline: Embeddings,
        volumes: Arc<VolumeSet>,
        texts: &Texts,
        parts: &mut Parts,
        stop: &AtomicBool,
        watch: &mut dyn Watch,
    ) -> Result<EmbeddingCache> {
        let rows = self.embed_volumes(&volumes, &outline.volume_digests, parts, stop, watch)?;
        let (volumes, outline) = if rows.len() == volumes.ids().len() {
            (volumes, outline)
        } else {
            let readable = volumes.select(&rows)?;
            let outline = self.outline(&readable, texts)?;
            (Arc::new(readable), outline)
        };
        let [report, prompts_positive, prompts_negative] = texts.rows(volumes.ids())?;
        let embeddings = Embeddings {
            ct: parts.select(&outline.volume_digests)?,
            report: self.trainer.embed_texts(&report)?,
            prompts_positive: self.trainer.embed_texts(&prompts_positive)?,
            prompts_negative: self.trainer.embed_texts(&prompts_negative)?,
            ..outline
        };
        Ok(embeddings.into())
    }

    /// What the text side makes of sentences. Only features of hashed word n-grams can be made of any text here, and they are made as
    /// those of the training were.
    ///
    /// # Errors
    /// A model without a text tower; one that was trained on other text features, or on those of another version.
    pub fn prompts(&self, sentences: Sentences) -> Result<PromptSet> {
        let refuse =
            |problem: &str| Err(Error::argument("prompts", problem, "take the prompts of its embedding cache"));
        if self.config().model.text_features.is_none() {
            return refuse("the model has no text tower, so it embeds no text");
        }
        let Some(trained) = self.trainer.sources().from.get("text") else {
            return refuse("which text features the model was trained on is not recorded");
        };
        let encoder = HashedNgrams::of(trained)?;
        let model = (&self.name()[..], &self.checkpoint_digest[..], self.config().model.embedding);
        let mut prompts =
            PromptSet::embed(sentences, model, |texts| self.trainer.embed_texts(&encoder.of_texts(texts)))?;
        let mut rule = trained.settings.clone();
        // What stood beside the reports is no part of how other prompts are made.
        rule.retain(|name, _| !["prompts", "settings_digest"].contains(&name.as_str()));
        prompts.made = Provenance::made(rule, []);
        Ok(prompts)
    }

    /// What cannot be decided about volumes, which [`CtTeacher::cache`] takes, because it is not recorded.
    ///
    /// # Errors
    /// Volumes of other settings than the model was trained on, naming the first that differs.
    pub fn undecided_volumes(&self, volumes: &VolumeSet) -> Result<Undecided> {
        self.trainer.sources().expect_alike("volumes", &volumes.provenance()?)
    }

    /// The same of texts.
    ///
    /// # Errors
    /// Texts of another kind, width or settings than the model was trained on, naming the first that differs.
    pub fn undecided_texts(&self, texts: &Texts) -> Result<Undecided> {
        let (sources, (kind, found)) = (self.trainer.sources(), texts.provenance());
        if let Some(trained) = sources.from.get(kind) {
            HashedNgrams::expect_options(trained, &found)?;
        }
        texts.expect_model(&self.config().model)?;
        sources.expect_alike(kind, &found)
    }

    /// Embeds what `parts` do not hold yet, volume by volume, so that the bits of each depend on nothing else. Gives the rows of the
    /// volumes whose embeddings are there then: all but those that cannot be read.
    fn embed_volumes(
        &self,
        volumes: &Arc<VolumeSet>,
        digests: &[String],
        parts: &mut Parts,
        stop: &AtomicBool,
        watch: &mut dyn Watch,
    ) -> Result<Vec<usize>> {
        let todo: Vec<u32> = (0..digests.len() as u32).filter(|&row| !parts.hold(&digests[row as usize])).collect();
        let (mut done, mut bad) = (digests.len() - todo.len(), Vec::new());
        watch.done(done);
        let loader = VolumeLoader::new(self.trainer.parameters().device(), volumes.clone());
        let mut kept = Instant::now();
        for (i, &row) in todo.iter().enumerate() {
            if stop.load(Ordering::Relaxed) {
                parts.keep()?;
                return Err(Error::Interrupted(format!("after {done} of {} volumes", digests.len())));
            }
            let volume = loader.load(&[row]);
            if let Some(&next) = todo.get(i + 1) {
                loader.ahead(&[next]);
            }
            let row = row as usize;
            match volume.and_then(|volume| self.trainer.embed_batch(&volume)) {
                Ok(embedding) => parts.add(&digests[row], embedding),
                Err(error) if error.is_of_device() || matches!(error, Error::OutOfMemory { .. }) => return Err(error),
                Err(error) => {
                    let error = volumes.error_of(row, error);
                    watch.left_out(LeftOut { id: volumes.ids()[row].clone(), error: error.clone() })?;
                    bad.push((row, error));
                }
            }
            if kept.elapsed() >= KEEP_EVERY {
                parts.keep()?;
                kept = Instant::now();
            }
            done += 1;
            watch.done(done);
        }
        if bad.len() == digests.len() {
            return Err(bad.swap_remove(0).1.with_others(bad.len(), "volumes"));
        }
        let bad: HashSet<usize> = bad.into_iter().map(|(row, _)| row).collect();
        Ok((0..digests.len()).filter(|row| !bad.contains(row)).collect())
    }
}

/// How the volumes of a cache were prepared, as text.
fn preparation(cache: &Embeddings) -> String {
    cache.made.from.get("volumes").map_or(String::new(), |volumes| json!(volumes.settings).to_string())
}
