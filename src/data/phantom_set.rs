//! Phantom patients as training material, without volumes on disk: radiographs, teacher embeddings, labels and reports.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::cache::{EmbeddingCache, Embeddings};
use super::cts::Cts;
use super::phantom;
use super::provenance::of_ct;
use super::radiographs::RadiographSet;
use super::volumes::VolumeSet;
use crate::ct::phantom::teacher::{self, Teacher};
use crate::ct::phantom::{Patient, PhantomConfig};
use crate::ct::{HuSource, Preset, RadiographOptions, Voxels};
use crate::device::Device;
use crate::labels;
use crate::ops::drr::MeanProjection;
use crate::ops::volume::DeviceVolume;
use crate::tensor::DType;
use crate::{Error, Result};

/// Which patients, and how they are imaged.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PhantomStudy {
    /// Seed that the patients are drawn from.
    pub seed: u64,
    /// Voxels along x (left), y (posterior), z (superior); a radiograph has z x x pixels.
    pub shape: [usize; 3],
    /// Millimetres a voxel.
    pub spacing: [f64; 3],
}

/// Patients as training material.
pub struct PhantomSet {
    /// Anteroposterior mean-HU radiographs.
    pub radiographs: RadiographSet,
    /// The phantom teacher's embeddings.
    pub cache: EmbeddingCache,
    /// [patients, 18].
    pub labels: Vec<bool>,
    /// Findings and impressions.
    pub reports: Vec<String>,
}

impl PhantomStudy {
    fn id(&self, index: u64) -> String {
        format!("phantom_{}_{index}", self.seed)
    }

    fn description(&self) -> serde_json::Value {
        json!({
            "source": "procedural phantom", "phantom": self, "projection": "mean HU, anteroposterior, parallel",
            "clip_hu": [-1000, 1000], "pixels": "min-max to 8 bits",
        })
    }

    /// Makes the patients of `range`: volumes in parallel on the processor, radiographs on the device. `progress` is told
    /// how many are done; `stop` ends the work with [`Error::Interrupted`].
    pub fn make(
        &self,
        device: &Device,
        range: Range<u64>,
        stop: &AtomicBool,
        progress: &mut dyn FnMut(usize),
    ) -> Result<PhantomSet> {
        const CHUNK: u64 = 32;
        let [nx, _, nz] = self.shape;
        let config = PhantomConfig::default();
        let (teacher, prompts) = (Teacher::new(), Teacher::new().prompts());
        let projection = MeanProjection::anterior_posterior(None);
        let count = (range.end - range.start) as usize;
        let mut pixels = Vec::with_capacity(count * nx * nz);
        let (mut ids, mut ct, mut report) = (Vec::new(), Vec::new(), Vec::new());
        let (mut labels, mut reports, mut cts) = (Vec::new(), Vec::new(), Vec::new());
        for first in range.clone().step_by(CHUNK as usize) {
            if stop.load(Ordering::Relaxed) {
                return Err(Error::Interrupted(format!("after {} of {count} phantom patients", ids.len())));
            }
            let chunk: Vec<u64> = (first..(first + CHUNK).min(range.end)).collect();
            let made = chunk.par_iter().map(|&i| {
                let patient = Patient::new(self.seed, i, &config);
                let volume = patient.voxelise(self.shape, self.spacing)?;
                let (digest, c, r) = (of_ct(&volume), teacher.ct(&patient), teacher.report(&patient));
                Ok((patient, volume, digest, c, r))
            });
            for (patient, volume, digest, c, r) in made.collect::<Result<Vec<_>>>()? {
                let Voxels::I16(voxels) = &volume.voxels else {
                    return Err(Error::argument("phantom", "is not int16", "this is a defect"));
                };
                let volume = DeviceVolume::from_i16(device, voxels, volume.shape, (1.0, 0.0))?;
                let image = projection.project(&volume)?.to_vec()?;
                pixels.extend(super::pixels::to_bytes(&image));
                ids.push(self.id(patient.index));
                cts.push(digest);
                ct.extend(c);
                report.extend(r);
                labels.extend(patient.labels());
                let text = patient.report();
                reports.push(format!("{} {}", text.findings, text.impressions));
            }
            progress(ids.len());
        }
        // The mean along a voxel axis, on the volume's own grid.
        let options = RadiographOptions { spacing: None, ..Default::default() };
        let radiographs =
            RadiographSet::new(ids.clone(), [nz, nx], pixels, self.description(), &options)?.with_cts(cts.clone())?;
        let cache = Embeddings {
            ids,
            ct,
            report,
            dim: teacher::DIM,
            prompts_positive: prompts.positive,
            prompts_negative: prompts.negative,
            teacher: teacher::NAME.into(),
            checkpoint_digest: phantom::teacher_digest(),
            preprocessing_digest: radiographs.preprocessing_digest(),
            volume_digests: Vec::new(),
            report_digests: Vec::new(),
            cts: Cts::new(cts),
            made: phantom::made(&config),
        };
        Ok(PhantomSet { radiographs, cache: cache.into(), labels, reports })
    }
}

impl PhantomStudy {
    /// The CTs of the patients of `range`, prepared as DCFormer's are ([-1000, 1000] HU to [-1, 1]; [D, H, W] is z, x, y) but at
    /// the study's own size and spacing. `progress` and `stop` as in [`PhantomStudy::make`].
    pub fn volumes(
        &self,
        device: &Device,
        range: Range<u64>,
        dtype: DType,
        stop: &AtomicBool,
        progress: &mut dyn FnMut(usize),
    ) -> Result<VolumeSet> {
        let preset =
            Preset { name: "dcformer-phantom".into(), spacing: self.spacing, size: None, ..Preset::dcformer() };
        let config = PhantomConfig::default();
        let (mut ids, mut cts) = (Vec::new(), Vec::new());
        // At once: while a vector grows it needs its memory twice.
        let bytes = self.shape.iter().product::<usize>() * dtype.size();
        let mut voxels = Vec::with_capacity((range.end - range.start) as usize * bytes);
        for i in range.clone() {
            if stop.load(Ordering::Relaxed) {
                let count = range.end - range.start;
                return Err(Error::Interrupted(format!("after {} of {count} phantom CTs", ids.len())));
            }
            let volume = Patient::new(self.seed, i, &config).voxelise(self.shape, self.spacing)?;
            let prepared = preset.apply(device, &volume, HuSource::AlreadyHu, dtype)?;
            prepared.with_bytes(|bytes| voxels.extend_from_slice(bytes))?;
            ids.push(self.id(i));
            cts.push(of_ct(&volume));
            progress(ids.len());
        }
        let [x, y, z] = self.shape;
        VolumeSet::new(ids, [z, x, y], dtype, voxels, preset)?.with_cts(cts)
    }
}

impl PhantomSet {
    /// What embeddings of these patients are compared with.
    pub fn targets(&self) -> crate::eval::scores::Targets<'_> {
        crate::eval::scores::Targets {
            ct: &self.cache.ct,
            report: &self.cache.report,
            prompts_positive: &self.cache.prompts_positive,
            prompts_negative: &self.cache.prompts_negative,
            labels: &self.labels,
            dim: self.cache.dim,
        }
    }

    /// Patients who have each abnormality.
    pub fn prevalence(&self) -> Vec<(&'static str, usize)> {
        let count = |i| self.labels.iter().skip(i).step_by(labels::COUNT).filter(|&&p| p).count();
        labels::NAMES.iter().enumerate().map(|(i, name)| (*name, count(i))).collect()
    }
}
