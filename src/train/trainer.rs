//! The training loop.

use std::sync::atomic::{AtomicBool, Ordering};

use serde::{Deserialize, Serialize};

use super::checkpoint::named;
use super::{Checkpoint, Position, Sources, StepRows, Task, TrainConfig, gradients};
use crate::device::Device;
use crate::nn::{ParameterBuilder, Parameters, StateDict};
use crate::ops::optim::AdamW;
use crate::tensor::Tensor;
use crate::{Error, Result};

/// One step of the log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepLog {
    /// Steps done, this one included.
    pub step: usize,
    /// Epoch, from 0.
    pub epoch: usize,
    /// The loss of the batch.
    pub loss: f32,
    /// Norm of the gradient before clipping.
    pub grad_norm: f64,
    /// Learning rate.
    pub lr: f64,
    /// Radiographs or volumes of the batch.
    pub images: usize,
}

/// What follows a run while it goes on.
pub trait Observer<C: Task = TrainConfig> {
    /// After each step.
    fn step(&mut self, log: &StepLog, position: Position) -> Result<()>;
    /// When a checkpoint is due.
    fn checkpoint(&mut self, trainer: &Trainer<C>) -> Result<()>;
}

/// A model, its optimizer and its place in the run.
pub struct Trainer<C: Task = TrainConfig> {
    config: C,
    model: C::Model,
    parameters: Parameters,
    optimizer: AdamW,
    position: Position,
    sources: Sources,
    unused_weights: Vec<String>,
}

impl<C: Task> Trainer<C> {
    /// A run at its beginning: random or loaded weights.
    pub fn new(device: &Device, config: &C) -> Result<Self> {
        let mut trainer = Self::random(device, config)?;
        if let Some(path) = config.run().weights {
            trainer.unused_weights = config.load_weights(&trainer.parameters, path)?;
        }
        Ok(trainer)
    }

    fn random(device: &Device, config: &C) -> Result<Self> {
        config.check()?;
        let run = config.run();
        let mut builder = ParameterBuilder::new();
        let model = config.model(&mut builder)?;
        let parameters = builder.build(device, run.seed)?;
        let groups = run.optimizer.groups(&parameters);
        let optimizer = AdamW::new(parameters.values(), &groups, run.optimizer.hyper())?;
        Ok(Trainer {
            config: config.clone(),
            model,
            parameters,
            optimizer,
            position: Position::default(),
            sources: Sources::default(),
            unused_weights: Vec::new(),
        })
    }

    /// A run where a checkpoint left it. The checkpoint's configuration is used.
    pub fn resume(device: &Device, checkpoint: &Checkpoint<C>) -> Result<Self> {
        let mut trainer = Self::random(device, &checkpoint.config)?;
        checkpoint.model.load_into(&trainer.parameters, "checkpoint")?;
        let arena = |dict: &StateDict, to: &Tensor| -> Result<()> {
            let saved = trainer.parameters.values().to_vec()?;
            dict.load_into_parameters(&trainer.parameters, "checkpoint")?;
            to.copy_from(trainer.parameters.values())?;
            trainer.parameters.values().copy_from_slice(&saved)
        };
        arena(&checkpoint.exp_avg, trainer.optimizer.exp_avg())?;
        arena(&checkpoint.exp_avg_sq, trainer.optimizer.exp_avg_sq())?;
        trainer.optimizer.set_steps(checkpoint.optimizer_steps)?;
        trainer.position = checkpoint.position;
        trainer.sources = checkpoint.sources.clone();
        Ok(trainer)
    }

    /// Everything a later [`Trainer::resume`] needs.
    pub fn checkpoint(&self) -> Result<Checkpoint<C>> {
        Ok(Checkpoint {
            config: self.config.clone(),
            position: self.position,
            optimizer_steps: self.optimizer.steps()?,
            sources: self.sources.clone(),
            model: StateDict::of(&self.parameters)?,
            exp_avg: named(&self.parameters, self.optimizer.exp_avg())?,
            exp_avg_sq: named(&self.parameters, self.optimizer.exp_avg_sq())?,
        })
    }

    /// The run.
    pub fn config(&self) -> &C {
        &self.config
    }

    /// How far it is.
    pub fn position(&self) -> Position {
        self.position
    }

    /// The model.
    pub fn model(&self) -> &C::Model {
        &self.model
    }

    /// What the run learned from so far; empty before its first step.
    pub fn sources(&self) -> &Sources {
        &self.sources
    }

    /// Names in the file of initial weights that the model does not have.
    pub fn unused_weights(&self) -> &[String] {
        &self.unused_weights
    }

    /// The parameters.
    pub fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    /// Steps of the whole run on this set.
    pub fn total_steps(&self, set: &C::Set) -> usize {
        let run = self.config.run();
        self.config.sampler(set).batches(run.batch, run.drop_last) * run.epochs
    }

    /// Trains to the end of the run, or until `stop` is set: then the observer is asked for a checkpoint, and the error is
    /// [`Error::Interrupted`].
    pub fn run(&mut self, set: &C::Set, observer: &mut dyn Observer<C>, stop: &AtomicBool) -> Result<()> {
        self.expect_set(set)?;
        self.sources = C::sources(set);
        let config = self.config.clone();
        let run = config.run();
        let sampler = config.sampler(set);
        let batches = sampler.batches(run.batch, run.drop_last);
        if batches == 0 {
            let (n, batch) = (sampler.len(), run.batch);
            let problem = match run.drop_last && n > 1 {
                true => format!("{n} scans do not fill one batch of {batch}, and drop_last is set"),
                false => format!("{n} scan: a pair needs another as its negative"),
            };
            return Err(Error::argument("training set", problem, "train with more scans, or in smaller batches"));
        }
        let last = (sampler.len() - (batches - 1) * run.batch).min(run.batch);
        config.parts(last)?;
        let (rate, total) = (run.optimizer.rate(run.batch)?, batches * run.epochs);
        while self.position.epoch < run.epochs {
            let order = sampler.epoch(self.position.epoch);
            let mut steps = order.chunks(run.batch).take(batches).skip(self.position.batch).peekable();
            while let Some(rows) = steps.next() {
                if stop.load(Ordering::Relaxed) {
                    observer.checkpoint(self)?;
                    return Err(Error::Interrupted(format!("after step {} of {total}", self.position.step)));
                }
                let place = [self.position.epoch, self.position.batch * run.batch];
                let next = steps.peek().copied().unwrap_or_default();
                let lr = rate * run.schedule.factor(self.position.step, total);
                let log = self.step(set, &StepRows { rows, place, next }, lr)?;
                self.position.batch += 1;
                self.position.step += 1;
                if self.position.batch == batches {
                    self.position = Position { epoch: self.position.epoch + 1, batch: 0, step: self.position.step };
                }
                observer.step(&log, self.position)?;
                if self.position.batch == 0 || self.position.step.is_multiple_of(run.checkpoint_steps.max(1)) {
                    observer.checkpoint(self)?;
                }
            }
        }
        Ok(())
    }

    fn expect_set(&self, set: &C::Set) -> Result<()> {
        self.config.expect_set(set)?;
        self.sources.expect_same(&C::sources(set)).map(drop)
    }

    /// One step.
    fn step(&mut self, set: &C::Set, step: &StepRows, lr: f64) -> Result<StepLog> {
        self.parameters.zero_gradients()?;
        let parts = self.config.parts(step.rows.len())?;
        let loss = gradients(&self.config.batch(&self.model, &self.parameters, set, step)?, &parts)?;
        if !loss.is_finite() {
            return Err(Error::argument(
                "training",
                format!("the loss of step {} is {loss}", self.position.step + 1),
                "lower optimizer.lr (or blr), or resume from an earlier checkpoint",
            ));
        }
        let report = self.optimizer.step(self.parameters.gradients(), lr)?;
        Ok(StepLog {
            step: self.position.step + 1,
            epoch: self.position.epoch,
            loss,
            grad_norm: report.grad_norm,
            lr,
            images: step.rows.len(),
        })
    }
}
