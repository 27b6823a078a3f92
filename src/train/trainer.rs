//! The training loop.

use std::sync::atomic::{AtomicBool, Ordering};

use serde::{Deserialize, Serialize};

use super::checkpoint::named;
use super::task::WEIGHTS;
use super::{Checkpoint, Epoch, Position, Sampler, Sources, StepRows, Task, TrainConfig, gradients, weights};
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
    /// Norm of the gradient before clipping; `None` where it is not finite: then the step was skipped, and no parameter changed.
    pub grad_norm: Option<f64>,
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
    /// Steps that were not skipped.
    updates: u64,
    /// Steps since then.
    skipped_in_a_row: usize,
}

/// The steps of a run on a set.
struct Course {
    sampler: Sampler,
    /// An epoch's.
    batches: usize,
    /// The run's.
    total: usize,
    /// Those that the schedule is planned for.
    planned: usize,
}

impl<C: Task> Trainer<C> {
    /// A run at its beginning: random or loaded weights.
    pub fn new(device: &Device, config: &C) -> Result<Self> {
        let mut trainer = Self::random(device, config)?;
        if let Some(path) = config.run().weights {
            let (weights, provenance) = weights::read::<C>(path)?;
            let of_file = |e| match e {
                Error::Argument { problem, hint, .. } => Error::file(path, problem, hint),
                other => other,
            };
            trainer.unused_weights = config.load_weights(&trainer.parameters, weights, "weights").map_err(of_file)?;
            trainer.sources.from.insert(WEIGHTS.into(), provenance);
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
            updates: 0,
            skipped_in_a_row: 0,
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
        trainer.updates = checkpoint.optimizer_steps;
        trainer.skipped_in_a_row = checkpoint.skipped_in_a_row;
        trainer.sources = checkpoint.sources.clone();
        Ok(trainer)
    }

    /// Everything a later [`Trainer::resume`] needs.
    pub fn checkpoint(&self) -> Result<Checkpoint<C>> {
        Ok(Checkpoint {
            config: self.config.clone(),
            position: self.position,
            optimizer_steps: self.updates,
            skipped_in_a_row: self.skipped_in_a_row,
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

    /// Steps of the run so far that were skipped because their gradient was not finite.
    pub fn skipped(&self) -> u64 {
        (self.position.step as u64).saturating_sub(self.updates)
    }

    /// Whether nothing is left to do.
    pub fn is_finished(&self) -> bool {
        self.position.epoch >= self.config.run().epochs
    }

    /// What the run learned from so far; before its first step, of that its initial weights alone.
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
        self.course(set).total
    }

    fn course(&self, set: &C::Set) -> Course {
        let (run, sampler) = (self.config.run(), self.config.sampler(set));
        let Epoch { batches, .. } = self.config.epoch(set);
        Course { sampler, batches, total: batches * run.epochs, planned: batches * run.planned_epochs() }
    }

    /// Trains to the end of the run, or until `stop` is set: then the observer is asked for a checkpoint, and the error is
    /// [`Error::Interrupted`].
    ///
    /// # Errors
    /// Those of [`Self::expect_set`]; a loss that is not finite; more skipped steps in a row than the run allows.
    pub fn run(&mut self, set: &C::Set, observer: &mut dyn Observer<C>, stop: &AtomicBool) -> Result<()> {
        self.expect_set(set)?;
        let weights = self.sources.from.remove_entry(WEIGHTS);
        self.sources = C::sources(set);
        self.sources.from.extend(weights);
        let config = self.config.clone();
        let (run, course) = (config.run(), self.course(set));
        let rate = run.optimizer.rate(run.batch)?;
        while !self.is_finished() {
            let order = course.sampler.epoch(self.position.epoch);
            let mut steps = order.chunks(run.batch).take(course.batches).skip(self.position.batch).peekable();
            while let Some(rows) = steps.next() {
                if stop.load(Ordering::Relaxed) {
                    observer.checkpoint(self)?;
                    return Err(Error::Interrupted(format!("after step {} of {}", self.position.step, course.total)));
                }
                let place = [self.position.epoch, self.position.batch * run.batch];
                let next = steps.peek().copied().unwrap_or_default();
                let lr = rate * run.schedule.factor(self.position.step, course.planned);
                let log = self.step(set, &StepRows { rows, place, next }, lr)?;
                self.position.batch += 1;
                self.position.step += 1;
                if self.position.batch == course.batches {
                    self.position = Position { epoch: self.position.epoch + 1, batch: 0, step: self.position.step };
                }
                observer.step(&log, self.position)?;
                self.expect_progress()?;
                let due = self.position.batch == 0 || self.position.step.is_multiple_of(run.checkpoint_steps);
                // While steps are skipped, the last good checkpoint stays.
                if due && self.skipped_in_a_row == 0 || self.is_finished() {
                    observer.checkpoint(self)?;
                }
            }
        }
        Ok(())
    }

    /// Whether the run can be made, or go on, on this set.
    ///
    /// # Errors
    /// Names what the model cannot learn from, what differs from what the run began on, or a place in the run that the set
    /// does not have.
    pub fn expect_set(&self, set: &C::Set) -> Result<()> {
        self.config.expect_set(set)?;
        self.sources.expect_same(&C::sources(set))?;
        let (run, course) = (self.config.run(), self.course(set));
        let rows = course.sampler.len();
        if course.batches == 0 {
            let problem = match run.drop_last && rows > 1 {
                true => format!("{rows} scans do not fill one batch of {}, and drop_last is set", run.batch),
                false => format!("{rows} scan: a pair needs another as its negative"),
            };
            return Err(Error::argument("training set", problem, "train with more scans, or in smaller batches"));
        }
        let Position { epoch, batch, step } = self.position;
        if batch >= course.batches || step != epoch * course.batches + batch {
            let problem = format!(
                "has {} batches an epoch, and the run is at batch {batch} of epoch {epoch} after {step} steps: it began on other data",
                course.batches
            );
            return Err(Error::argument("training set", problem, "resume with the data the run began with"));
        }
        self.config.parts((rows - (course.batches - 1) * run.batch).min(run.batch)).map(drop)
    }

    /// Whether fewer steps in a row were skipped than would mean that nothing is learned any more.
    fn expect_progress(&self) -> Result<()> {
        let (skipped, most) = (self.skipped_in_a_row, self.config.run().max_skipped_steps);
        if skipped <= most {
            return Ok(());
        }
        let problem = format!(
            "{skipped} steps in a row, up to step {}, had a gradient that is not finite and were skipped, {} in the whole run \
             (max_skipped_steps is {most})",
            self.position.step,
            self.skipped()
        );
        Err(Error::argument("training", problem, "lower optimizer.lr (or blr) and begin anew with --restart"))
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
        self.updates = report.step;
        self.skipped_in_a_row = if report.skipped { self.skipped_in_a_row + 1 } else { 0 };
        Ok(StepLog {
            step: self.position.step + 1,
            epoch: self.position.epoch,
            loss,
            grad_norm: Some(report.grad_norm).filter(|norm| norm.is_finite() && !report.skipped),
            lr,
            images: step.rows.len(),
        })
    }
}
