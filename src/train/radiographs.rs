//! Training a radiograph encoder on a frozen teacher's embeddings.

use std::ops::Range;
use std::path::PathBuf;

use super::gradient::BatchLoss;
use super::sampler::AUGMENT;
use super::{Run, Sampler, Sources, StepRows, Task, TrainConfig, Trainer, TrainingSet, weights};
use crate::autograd::Var;
use crate::data::provenance::Undecided;
use crate::data::rows;
use crate::nn::models::RadiographEncoder;
use crate::nn::{Forward, ParameterBuilder, Parameters, StateDict};
use crate::ops::contrastive::{Reduction, TriModal};
use crate::ops::image::{ImageSet, Warp};
use crate::ops::pointwise::Cast;
use crate::philox::Rng;
use crate::tensor::{DType, Tensor};
use crate::{Error, Result};

/// What the trunk's names begin with.
const TRUNK: &str = "xray_encoder.";

impl Task for TrainConfig {
    const NAME: &'static str = "radiograph encoder";
    const WHAT: &'static str = "a radiograph encoder";
    type Model = RadiographEncoder;
    type Set = TrainingSet;
    type Batch<'a> = Batch<'a>;

    fn run(&self) -> Run<'_> {
        Run {
            out: &self.out,
            epochs: self.epochs,
            schedule_epochs: self.schedule_epochs,
            batch: self.batch,
            micro_batch: self.micro_batch,
            seed: self.seed,
            dtype: self.dtype,
            checkpoint_steps: self.checkpoint_steps,
            max_skipped_steps: self.max_skipped_steps,
            drop_last: self.drop_last,
            weights: self.weights.as_deref(),
            optimizer: &self.optimizer,
            schedule: &self.schedule,
        }
    }

    fn check(&self) -> Result<()> {
        self.check_all()
    }

    fn paths(&mut self) -> Vec<(&'static str, &mut PathBuf)> {
        let data = &mut self.data;
        let needed =
            [("out", &mut self.out), ("data.radiographs", &mut data.radiographs), ("data.cache", &mut data.cache)];
        needed.into_iter().chain(self.weights.as_mut().map(|path| ("weights", path))).collect()
    }

    fn model(&self, b: &mut ParameterBuilder) -> Result<RadiographEncoder> {
        RadiographEncoder::new(b, &self.model)
    }

    fn load_weights(&self, parameters: &Parameters, weights: StateDict, source: &str) -> Result<Vec<String>> {
        load_weights(parameters, &weights, source)
    }

    fn expect_set(&self, set: &TrainingSet) -> Result<()> {
        if set.dim != self.model.embedding {
            let problem = format!("has {} dimensions, the teacher's embeddings have {}", self.model.embedding, set.dim);
            return Err(Error::argument("model.embedding", problem, "set it to the teacher's"));
        }
        match &self.data.teacher {
            Some(wanted) if *wanted != set.teacher => Err(Error::argument(
                "data.teacher",
                format!("is {wanted:?}, the cache is of {:?}", set.teacher),
                "use the cache of that teacher, or correct the configuration",
            )),
            _ => Ok(()),
        }
    }

    fn sources(set: &TrainingSet) -> Sources {
        set.sources.clone()
    }

    fn undecided(set: &TrainingSet) -> Undecided {
        set.undecided.clone()
    }

    fn sampler(&self, set: &TrainingSet) -> Sampler {
        Sampler::new(set.scans(), self.seed)
    }

    fn batch<'a>(
        &'a self,
        model: &'a RadiographEncoder,
        parameters: &'a Parameters,
        set: &'a TrainingSet,
        step: &StepRows,
    ) -> Result<Batch<'a>> {
        Batch::new(self, model, parameters, set, step.rows, step.place)
    }
}

impl Trainer {
    /// L2-normalised embeddings [images, D] in evaluation mode, in order, without augmentation.
    pub fn embed(&self, images: &ImageSet) -> Result<Vec<f32>> {
        let output = [self.config().data.image_size; 2];
        let warp = Warp::resize(images.size(), output);
        let mut embeddings = Vec::with_capacity(images.len() * self.config().model.embedding);
        let all: Vec<(u32, Warp)> = (0..images.len() as u32).map(|row| (row, warp)).collect();
        for chunk in all.chunks(self.config().micro_batch.unwrap_or(self.config().batch).min(256)) {
            let batch = images.batch(chunk, output, self.config().data.normalization, self.config().dtype)?;
            let pass = Forward::evaluation(self.parameters()).with_dtype(self.config().dtype);
            embeddings.extend(self.model().forward(&pass, &pass.tape.constant(&batch))?.tensor().to_vec()?);
        }
        rows::l2_normalise("radiograph embeddings", &mut embeddings, self.config().model.embedding)?;
        Ok(embeddings)
    }
}

/// The radiographs of a step with how each is changed, and the embeddings they learn from. Pixels are made when they are
/// embedded, from the stored ones, so that only a micro-batch of network inputs exists at a time.
pub struct Batch<'a> {
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
    fn new(
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

/// A `state_dict` of the whole encoder, or of its trunk with torchvision's names.
fn load_weights(parameters: &Parameters, weights: &StateDict, source: &str) -> Result<Vec<String>> {
    let whole = weights::names(parameters);
    let trunk: Vec<String> = whole.iter().filter_map(|name| Some(name.strip_prefix(TRUNK)?.to_string())).collect();
    let (of_whole, of_trunk) = (weights::prefix(weights, &whole, source)?, weights::prefix(weights, &trunk, source)?);
    if of_whole.1 > of_trunk.1 {
        return weights.load_as(parameters, source, |name| Some(format!("{}{name}", of_whole.0)));
    }
    weights.load_as(parameters, source, |name| Some(format!("{}{}", of_trunk.0, name.strip_prefix(TRUNK)?)))
}
