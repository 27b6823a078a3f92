//! Prepared volumes and their texts, joined.

use std::sync::Arc;

use super::super::Sources;
use crate::Result;
use crate::data::cache::EmbeddingCache;
use crate::data::ct_rate::VolumeName;
use crate::data::provenance::Undecided;
use crate::data::rows;
use crate::data::text::TextFeatures;
use crate::data::volumes::{VolumeLoader, VolumeSet};
use crate::device::Device;

/// Volumes, read batch by batch, with what stands for the same patients' reports, row by row.
pub struct CtTrainingSet {
    /// The volumes.
    pub volumes: VolumeLoader,
    /// [volumes, dim]: text features, or embeddings of the shared space.
    pub text: Vec<f32>,
    /// Columns of `text`.
    pub dim: usize,
    /// Whether `text` are embeddings, which nothing is trained on.
    pub frozen: bool,
    /// Where it comes from.
    pub sources: Sources,
    /// What the join could not decide.
    pub undecided: Undecided,
}

impl CtTrainingSet {
    /// Joins volumes and text features on the id.
    ///
    /// # Errors
    /// Names the first volume that has no text; volumes whose content has to be read and cannot be.
    pub fn with_features(device: &Device, volumes: VolumeSet, text: &TextFeatures) -> Result<Self> {
        let rows = text.select(volumes.ids().iter().map(String::as_str))?;
        let digest = text.settings_digest.get(..8).unwrap_or(&text.settings_digest);
        let teacher = format!("{} {digest}", text.encoder);
        let sources = Sources::new(&teacher, [("volumes", volumes.provenance()?), ("text", text.provenance())]);
        let undecided = volumes.cts().undecided("volumes", volumes.ids().len());
        Ok(Self::new(device, volumes, (rows, text.dim, false), sources, undecided))
    }

    /// Joins volumes and a cache's report embeddings on the id.
    ///
    /// # Errors
    /// Names the first volume that has no embedding, or one of another CT; volumes whose content has to be read and cannot be.
    pub fn with_embeddings(device: &Device, volumes: VolumeSet, cache: &EmbeddingCache) -> Result<Self> {
        let (found, undecided) = cache.join("volumes", volumes.ids(), volumes.cts())?;
        let rows = rows::select(&cache.report, cache.dim, &found);
        let sources = Sources::new(&cache.teacher, [("volumes", volumes.provenance()?), ("cache", cache.provenance())]);
        Ok(Self::new(device, volumes, (rows, cache.dim, true), sources, undecided))
    }

    fn new(
        device: &Device,
        volumes: VolumeSet,
        (text, dim, frozen): (Vec<f32>, usize, bool),
        sources: Sources,
        undecided: Undecided,
    ) -> Self {
        let volumes = VolumeLoader::new(device, Arc::new(volumes));
        CtTrainingSet { volumes, text, dim, frozen, sources, undecided }
    }

    /// One id a row.
    pub fn ids(&self) -> &[String] {
        self.volumes.set().ids()
    }

    /// What two rows must not share in a batch: see [`super::super::TrainingSet::scans`].
    pub fn scans(&self) -> impl Iterator<Item = String> {
        self.ids().iter().map(|id| VolumeName::scan_of(id))
    }
}
