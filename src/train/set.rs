//! Radiographs and teacher embeddings, joined.

use super::Sources;
use crate::Result;
use crate::data::cache::EmbeddingCache;
use crate::data::ct_rate::VolumeName;
use crate::data::provenance::Undecided;
use crate::data::radiographs::RadiographSet;
use crate::data::rows;
use crate::device::Device;
use crate::ops::image::ImageSet;

/// Radiographs in device memory with the embeddings of the same patients' CTs and reports, row by row.
pub struct TrainingSet {
    /// The radiographs.
    pub images: ImageSet,
    /// One id a row.
    pub ids: Vec<String>,
    /// [rows, dim], L2-normalised.
    pub ct: Vec<f32>,
    /// [rows, dim], L2-normalised.
    pub report: Vec<f32>,
    /// Dimensions of an embedding.
    pub dim: usize,
    /// What the embeddings are of.
    pub teacher: String,
    /// Where it all comes from.
    pub sources: Sources,
    /// What the join could not decide.
    pub undecided: Undecided,
}

impl TrainingSet {
    /// Joins on the id.
    ///
    /// # Errors
    /// Names the first radiograph the cache has no embedding of, or one of another CT.
    pub fn join(device: &Device, radiographs: &RadiographSet, cache: &EmbeddingCache) -> Result<Self> {
        let (found, undecided) = cache.join("radiographs", radiographs.ids(), radiographs.cts())?;
        Ok(TrainingSet {
            images: radiographs.upload(device)?,
            ids: radiographs.ids().to_vec(),
            ct: rows::select(&cache.ct, cache.dim, &found),
            report: rows::select(&cache.report, cache.dim, &found),
            dim: cache.dim,
            teacher: cache.teacher.clone(),
            sources: Sources::new(
                &cache.teacher,
                [("radiographs", radiographs.provenance()), ("cache", cache.provenance())],
            ),
            undecided,
        })
    }

    /// What two rows must not share in a batch: the scan, or the id where it is not a CT-RATE name.
    pub fn scans(&self) -> impl Iterator<Item = String> {
        self.ids.iter().map(|id| VolumeName::scan_of(id))
    }
}
