//! Training a CT encoder against reports (DCFormer, Sec. 3.3): volumes are read batch by batch, ahead of their use.

mod config;
mod parts;
mod set;
mod teacher;
mod texts;
mod watch;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::ops::Range;
use std::path::PathBuf;

pub use config::{CtDataConfig, CtLossConfig, CtTrainConfig};
pub use set::CtTrainingSet;
pub use teacher::CtTeacher;
pub use texts::Texts;
pub use watch::Watch;

use super::gradient::{BatchLoss, cut};
use super::{Run, Sampler, Sources, StepRows, Task, Trainer, weights};
use crate::autograd::Var;
use crate::data::provenance::Undecided;
use crate::data::rows;
use crate::data::volumes::VolumeSet;
use crate::nn::models::{CtClip, DcFormer, TokenReduction};
use crate::nn::{Draws, Forward, ParameterBuilder, Parameters, StateDict};
use crate::ops::contrastive::{InfoNce, Scale};
use crate::tensor::{DType, Tensor};
use crate::{Error, Result};

impl Task for CtTrainConfig {
    const NAME: &'static str = "CT encoder";
    const WHAT: &'static str = "a CT encoder";
    type Model = CtClip;
    type Set = CtTrainingSet;
    type Batch<'a> = CtBatch<'a>;

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
        let CtDataConfig { volumes, text, cache } = &mut self.data;
        let optional = [("weights", &mut self.weights), ("data.text", text), ("data.cache", cache)];
        let optional = optional.into_iter().filter_map(|(key, path)| Some((key, path.as_mut()?)));
        [("out", &mut self.out), ("data.volumes", volumes)].into_iter().chain(optional).collect()
    }

    fn model(&self, b: &mut ParameterBuilder) -> Result<CtClip> {
        CtClip::new(b, &self.model)
    }

    fn load_weights(&self, parameters: &Parameters, weights: StateDict, source: &str) -> Result<Vec<String>> {
        let weights = DcFormer::canonical(weights);
        let prefix = weights::prefix(&weights, &weights::names(parameters), source)?.0;
        weights.load_as(parameters, source, |name| Some(format!("{prefix}{name}")))
    }

    fn expect_set(&self, set: &CtTrainingSet) -> Result<()> {
        let wanted = self.model.text_features;
        match (set.frozen, wanted) {
            (true, Some(_)) => Err(Error::argument(
                "model.text_features",
                "is given, but the texts are embeddings",
                "leave it out, or train on text features",
            )),
            (false, None) => Err(Error::argument(
                "model.text_features",
                "is missing, and the texts are features",
                format!("set it to {}", set.dim),
            )),
            (true, None) if set.dim != self.model.embedding => Err(Error::argument(
                "model.embedding",
                format!("is {}, the cache's embeddings have {} dimensions", self.model.embedding, set.dim),
                "set it to the cache's",
            )),
            (false, Some(features)) if set.dim != features => Err(Error::argument(
                "model.text_features",
                format!("is {features}, the texts have {} features", set.dim),
                "set it to theirs",
            )),
            _ => Ok(()),
        }?;
        let shape @ [d, h, w] = set.volumes.set().shape();
        let encoder = &self.model.encoder;
        if encoder.reduction != TokenReduction::Channel && encoder.input != [h, w, d] {
            let problem = format!("is {:?} along H, W and D, the volumes are {:?}", encoder.input, [h, w, d]);
            return Err(Error::argument("model.input", problem, "set it to theirs"));
        }
        self.expect_statistics(shape)
    }

    fn sources(set: &CtTrainingSet) -> Sources {
        set.sources.clone()
    }

    fn undecided(set: &CtTrainingSet) -> Undecided {
        set.undecided.clone()
    }

    fn sampler(&self, set: &CtTrainingSet) -> Sampler {
        Sampler::new(set.scans(), self.seed)
    }

    /// Unlike a radiograph, one volume is enough for batch norm: see [`CtTrainConfig::expect_set`].
    fn parts(&self, rows: usize) -> Result<Vec<Range<usize>>> {
        Ok(cut(rows, self.micro_batch))
    }

    fn batch<'a>(
        &'a self,
        model: &'a CtClip,
        parameters: &'a Parameters,
        set: &'a CtTrainingSet,
        step: &StepRows,
    ) -> Result<CtBatch<'a>> {
        let parts = self.parts(step.rows.len())?;
        // What is embedded next, in order: every part; again, if there are several; then the next step's first.
        let again = if parts.len() > 1 { &parts[..] } else { &[] };
        let mut plan: VecDeque<Vec<u32>> =
            parts.iter().chain(again).map(|part| step.rows[part.clone()].to_vec()).collect();
        plan.push_back(step.next[..parts[0].len().min(step.next.len())].to_vec());
        let index: Vec<usize> = step.rows.iter().map(|&row| row as usize).collect();
        let text = rows::select(&set.text, set.dim, &index);
        let text = Tensor::from_slice(parameters.device(), [index.len(), set.dim], DType::F32, &text)?;
        Ok(CtBatch {
            config: self,
            model,
            parameters,
            set,
            rows: step.rows.to_vec(),
            place: step.place,
            plan: plan.into(),
            text,
        })
    }
}

impl CtTrainConfig {
    /// Batch norm in the last stage needs more than one voxel.
    fn expect_statistics(&self, shape: [usize; 3]) -> Result<()> {
        let voxels: usize = shape.iter().map(|size| size.div_ceil(64)).product();
        let smallest = self.parts(self.batch)?.iter().map(|part| part.len()).min().unwrap_or(1);
        if voxels * smallest > 1 {
            return Ok(());
        }
        Err(Error::argument(
            "micro_batch",
            format!("1 volume of {shape:?} leaves batch norm one voxel in the last stage"),
            "use a larger micro_batch, or larger volumes",
        ))
    }
}

/// The volumes of a step, read when they are embedded, and what stands for their reports.
pub struct CtBatch<'a> {
    config: &'a CtTrainConfig,
    model: &'a CtClip,
    parameters: &'a Parameters,
    set: &'a CtTrainingSet,
    rows: Vec<u32>,
    place: [usize; 2],
    plan: RefCell<VecDeque<Vec<u32>>>,
    text: Tensor,
}

impl BatchLoss for CtBatch<'_> {
    fn pass(&self) -> Forward<'_> {
        Forward::training(self.parameters).with_dtype(self.config.dtype).with_recompute(self.config.recompute)
    }

    fn embed(&self, pass: &Forward, rows: Range<usize>) -> Result<Var> {
        let [epoch, first] = self.place;
        let draws = Draws { seed: self.config.seed, epoch: epoch as u64, first: (first + rows.start) as u64 };
        let volumes = self.set.volumes.load(&self.rows[rows])?;
        let mut plan = self.plan.borrow_mut();
        plan.pop_front();
        if let Some(next) = plan.front() {
            self.set.volumes.ahead(next);
        }
        self.model.embed_volumes(&pass.clone().with_draws(draws), &pass.tape.constant(&volumes))
    }

    fn loss(&self, pass: &Forward, embeddings: &Var) -> Result<Var> {
        let text = self.model.embed_texts(pass, &pass.tape.constant(&self.text))?;
        InfoNce::new(Scale::Fixed(self.config.loss.scale)).general().apply(&pass.tape, &[embeddings, &text])
    }
}

impl Trainer<CtTrainConfig> {
    /// L2-normalised embeddings [volumes, D] in evaluation mode, in order.
    ///
    /// # Errors
    /// Volumes that cannot be read.
    pub fn embed(&self, volumes: &VolumeSet) -> Result<Vec<f32>> {
        let (config, device) = (self.config(), self.parameters().device());
        let all: Vec<u32> = (0..volumes.ids().len() as u32).collect();
        let mut embeddings = Vec::with_capacity(all.len() * config.model.embedding);
        for rows in all.chunks(config.micro_batch.unwrap_or(config.batch)) {
            embeddings.extend(self.embed_batch(&volumes.load(device, rows)?)?);
        }
        Ok(embeddings)
    }

    /// [`Self::embed`] of volumes [N, 1, H, W, D] in device memory.
    fn embed_batch(&self, volumes: &Tensor) -> Result<Vec<f32>> {
        let config = self.config();
        let pass = Forward::evaluation(self.parameters()).with_dtype(config.dtype);
        let embeddings = self.model().embed_volumes(&pass, &pass.tape.constant(volumes))?;
        let mut embeddings = embeddings.tensor().to_vec()?;
        rows::l2_normalise("CT embeddings", &mut embeddings, config.model.embedding)?;
        Ok(embeddings)
    }

    /// L2-normalised embeddings [texts, D] of text features [texts, F]; without a text tower, of embeddings.
    ///
    /// # Errors
    /// Features of another width than the model's.
    pub fn embed_texts(&self, features: &[f32]) -> Result<Vec<f32>> {
        let (config, device) = (self.config(), self.parameters().device());
        let width = config.model.text_features.unwrap_or(config.model.embedding);
        let count = rows::check("text features", features, width)?;
        let pass = Forward::evaluation(self.parameters()).with_dtype(config.dtype);
        let features = Tensor::from_slice(device, [count, width], DType::F32, features)?;
        let mut embeddings = self.model().embed_texts(&pass, &pass.tape.constant(&features))?.tensor().to_vec()?;
        rows::l2_normalise("text embeddings", &mut embeddings, config.model.embedding)?;
        Ok(embeddings)
    }
}
