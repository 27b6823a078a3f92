//! The pairs of one step.

use std::ops::Range;

use super::gradient::BatchLoss;
use super::sampler::AUGMENT;
use super::{TrainConfig, TrainingSet};
use crate::Result;
use crate::autograd::Var;
use crate::data::rows;
use crate::nn::models::RadiographEncoder;
use crate::nn::{Forward, Parameters};
use crate::ops::contrastive::{Reduction, TriModal};
use crate::ops::image::Warp;
use crate::ops::pointwise::Cast;
use crate::philox::Rng;
use crate::tensor::{DType, Tensor};

/// The radiographs of a step with how each is changed, and the embeddings they learn from. Pixels are made when they are
/// embedded, from the stored ones, so that only a micro-batch of network inputs exists at a time.
pub(super) struct Batch<'a> {
    config: &'a TrainConfig,
    encoder: &'a RadiographEncoder,
    parameters: &'a Parameters,
    set: &'a TrainingSet,
    warps: Vec<(u32, Warp)>,
    ct: Tensor,
    report: Tensor,
}

impl<'a> Batch<'a> {
    /// The pairs of `rows` of the set, which stand at `first` and after in the order of `epoch`: a radiograph's changes are
    /// drawn from (seed, epoch, place).
    pub fn new(
        config: &'a TrainConfig,
        encoder: &'a RadiographEncoder,
        parameters: &'a Parameters,
        set: &'a TrainingSet,
        rows: &[u32],
        [epoch, first]: [usize; 2],
    ) -> Result<Self> {
        let output = [config.data.image_size; 2];
        let warp = |(i, &row): (usize, &u32)| {
            let mut rng = Rng::new(config.seed, ((epoch as u64) << 32) | (first + i) as u64, AUGMENT);
            (row, config.augmentation.draw(&mut rng, set.images.size(), output))
        };
        let index: Vec<usize> = rows.iter().map(|&row| row as usize).collect();
        let targets = |all: &[f32]| {
            let selected = rows::select(all, set.dim, &index);
            Tensor::from_slice(parameters.device(), [index.len(), set.dim], DType::F32, &selected)
        };
        Ok(Batch {
            config,
            encoder,
            parameters,
            set,
            warps: rows.iter().enumerate().map(warp).collect(),
            ct: targets(&set.ct)?,
            report: targets(&set.report)?,
        })
    }
}

impl BatchLoss for Batch<'_> {
    fn pass(&self) -> Forward<'_> {
        Forward::training(self.parameters).with_dtype(self.config.dtype)
    }

    fn embed(&self, pass: &Forward, rows: Range<usize>) -> Result<Var> {
        let (data, warps) = (&self.config.data, &self.warps[rows]);
        let images = self.set.images.batch(warps, [data.image_size; 2], data.normalization, pass.dtype)?;
        let embedding = self.encoder.forward(pass, &pass.tape.constant(&images))?;
        if pass.dtype == DType::F32 { Ok(embedding) } else { pass.tape.apply(Cast(DType::F32), &[&embedding]) }
    }

    fn loss(&self, pass: &Forward, embeddings: &Var) -> Result<Var> {
        let l = &self.config.loss;
        let loss = TriModal {
            alpha: l.alpha,
            beta: l.beta,
            gamma: l.gamma,
            temperature: l.temperature,
            reduction: Reduction::Mean,
            normalize: true,
            ..Default::default()
        };
        let (ct, report) = (pass.tape.constant(&self.ct), pass.tape.constant(&self.report));
        loss.general()?.apply(&pass.tape, &[embeddings, &ct, &report])
    }
}
