//! What the loop needs to know of a kind of training run.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use super::limits::{BATCH, EPOCHS, STEPS, check_fields, within, within_if};
use super::{BatchLoss, Epoch, OptimizerConfig, Sampler, ScheduleConfig, ScheduleKind, micro_batches, weights};
use crate::data::provenance::{Provenance, Undecided, fields};
use crate::kernels::DType;
use crate::nn::{ParameterBuilder, Parameters, StateDict};
use crate::{Error, Result};

/// A kind of training run. A run is its configuration, so the configuration is the task: it makes the model, knows which data
/// fit it, and makes batches of them. [`super::Trainer`] does the rest: order, gradients, steps, checkpoints.
pub trait Task: Clone + PartialEq + Serialize + DeserializeOwned {
    /// What checkpoints call it.
    const NAME: &'static str;
    /// What it trains, in words.
    const WHAT: &'static str;
    /// Layers and names; values live in [`Parameters`].
    type Model;
    /// What it learns from.
    type Set;
    /// The pairs of a step.
    type Batch<'a>: BatchLoss
    where
        Self: 'a;

    /// The settings all tasks have.
    fn run(&self) -> Run<'_>;

    /// Refuses values that cannot be trained with, naming the field.
    fn check(&self) -> Result<()>;

    /// All paths of the configuration, with their keys: those of a file are relative to its folder.
    fn paths(&mut self) -> Vec<(&'static str, &mut PathBuf)>;

    /// Registers the model.
    fn model(&self, b: &mut ParameterBuilder) -> Result<Self::Model>;

    /// Copies initial weights, whatever known prefix their names have, and returns the names that the model does not have.
    /// `source` names them in errors.
    fn load_weights(&self, parameters: &Parameters, weights: StateDict, source: &str) -> Result<Vec<String>>;

    /// Refuses a set that the model cannot learn from.
    fn expect_set(&self, set: &Self::Set) -> Result<()>;

    /// Where the set comes from.
    fn sources(set: &Self::Set) -> Sources;

    /// What the join that made the set could not decide.
    fn undecided(set: &Self::Set) -> Undecided;

    /// Draws the order of each epoch.
    fn sampler(&self, set: &Self::Set) -> Sampler;

    /// How the run cuts each epoch into batches.
    fn epoch(&self, set: &Self::Set) -> Epoch {
        self.sampler(set).cut(self.run().batch, self.run().drop_last)
    }

    /// A batch cut into micro-batches.
    fn parts(&self, rows: usize) -> Result<Vec<Range<usize>>> {
        micro_batches(rows, self.run().micro_batch)
    }

    /// The pairs of a step.
    fn batch<'a>(
        &'a self,
        model: &'a Self::Model,
        parameters: &'a Parameters,
        set: &'a Self::Set,
        step: &StepRows,
    ) -> Result<Self::Batch<'a>>;
}

/// What [`Sources::from`] calls the initial weights.
pub(super) const WEIGHTS: &str = "weights";

/// Where a training set comes from: what a checkpoint records, and what a resumed run is held to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sources {
    /// What the embeddings or features it learns from are of.
    pub teacher: String,
    /// By the names of the configuration's table `data`: `radiographs`, `volumes`, `cache`, `text`; and `weights`.
    pub from: BTreeMap<String, Provenance>,
}

impl Sources {
    /// Of these parts.
    pub fn new(teacher: &str, from: impl IntoIterator<Item = (&'static str, Provenance)>) -> Self {
        let from = from.into_iter().map(|(name, from)| (name.to_string(), from)).collect();
        Sources { teacher: teacher.into(), from }
    }

    /// Of a run of this configuration on this set: those of the set, and the initial weights where it has some.
    ///
    /// # Errors
    /// Weights that cannot be read.
    pub fn of<C: Task>(config: &C, set: &C::Set) -> Result<Self> {
        let mut sources = C::sources(set);
        if let Some(path) = config.run().weights {
            sources.from.insert(WEIGHTS.into(), weights::read::<C>(path)?.1);
        }
        Ok(sources)
    }

    /// What a run that began with these may go on with: the very same.
    ///
    /// # Errors
    /// Names what differs as a field of the configuration, with both digests.
    pub fn expect_same(&self, now: &Sources) -> Result<Undecided> {
        let mut undecided = Vec::new();
        for (name, began) in &self.from {
            if let Some(now) = now.from.get(name) {
                let field = if name == WEIGHTS { name.clone() } else { format!("data.{name}") };
                undecided.extend(began.expect_same(&field, now)?);
            }
        }
        let began = self.from.keys().any(|name| name != WEIGHTS);
        let lacking: Vec<String> = match (began, self.teacher.is_empty()) {
            (true, _) => {
                let lacking = now.from.keys().filter(|name| *name != WEIGHTS && !self.from.contains_key(*name));
                lacking.map(|name| format!("data.{name}")).collect()
            }
            (false, false) => vec!["data".into()],
            // It has not begun.
            (false, true) => Vec::new(),
        };
        let remark = |name| format!("{name}: what the run began with is not recorded, so nothing was compared");
        undecided.extend(lacking.into_iter().map(remark));
        if !self.teacher.is_empty() && !now.teacher.is_empty() && self.teacher != now.teacher {
            let problem = format!("learns from {:?}, the run began with {:?}", now.teacher, self.teacher);
            return Err(Error::argument("data", problem, "resume with the data the run began with"));
        }
        Ok(undecided)
    }

    /// What a model trained on these may be used with: what was made in the same way. `name` is one of [`Self::from`].
    ///
    /// # Errors
    /// Names the setting that differs, with both values and both digests.
    pub fn expect_alike(&self, name: &str, found: &Provenance) -> Result<Undecided> {
        match self.from.get(name) {
            Some(trained) => trained.expect_alike(name, found),
            None => Ok(vec![format!("{name}: what the model was trained on is not recorded, so nothing was compared")]),
        }
    }

    /// Whether a picture was made as the radiographs of the training were: see [`Provenance::expect_picture`].
    ///
    /// # Errors
    /// Names the setting that differs.
    pub fn expect_picture(&self, said: &BTreeMap<String, String>) -> Result<Undecided> {
        self.from.get("radiographs").cloned().unwrap_or_default().expect_picture(said)
    }

    /// Remarks on everything that does not say how it was made.
    pub fn undecided(&self) -> Undecided {
        self.from.iter().flat_map(|(name, from)| from.undecided(name)).collect()
    }
}

/// A configuration without the spelling of its paths and without what has rules of its own or no part in the result: what tells
/// runs apart.
pub(super) fn identity<C: Task>(config: &C) -> Map<String, Value> {
    let mut config = config.clone();
    for (_, path) in config.paths() {
        *path = PathBuf::new();
    }
    let mut fields = fields(json!(config));
    for name in ["epochs", "schedule_epochs", WEIGHTS, "checkpoint_steps", "max_skipped_steps", "recompute"] {
        fields.remove(name);
    }
    fields
}

/// Which pairs a step is on.
pub struct StepRows<'a> {
    /// Rows of the set.
    pub rows: &'a [u32],
    /// Epoch, and the place of the first row in its order: what random changes are drawn from.
    pub place: [usize; 2],
    /// Rows of the step after this one, where known: a set that reads from a disk may begin to.
    pub next: &'a [u32],
}

/// The settings that all tasks have.
#[derive(Clone, Copy)]
pub struct Run<'a> {
    /// Folder of the run.
    pub out: &'a Path,
    /// Passes over the data.
    pub epochs: usize,
    /// Epochs that the schedule is planned for, where they are given.
    pub schedule_epochs: Option<usize>,
    /// Pairs a step.
    pub batch: usize,
    /// Pairs recorded at a time, at most.
    pub micro_batch: Option<usize>,
    /// Of initial weights, order and augmentation.
    pub seed: u64,
    /// Storage type of activations.
    pub dtype: DType,
    /// Steps between checkpoints.
    pub checkpoint_steps: usize,
    /// Steps in a row that may be skipped.
    pub max_skipped_steps: usize,
    /// Whether an epoch leaves out the pairs that do not fill a batch.
    pub drop_last: bool,
    /// Initial weights.
    pub weights: Option<&'a Path>,
    /// The optimizer.
    pub optimizer: &'a OptimizerConfig,
    /// The learning rate over time.
    pub schedule: &'a ScheduleConfig,
}

impl Run<'_> {
    /// Epochs that the schedule is planned for.
    pub fn planned_epochs(&self) -> usize {
        self.schedule_epochs.unwrap_or(self.epochs)
    }

    /// A sentence's rest about a warm-up that is longer than the run, whose epochs have so many batches, if it is.
    pub fn doubt_of_warmup(&self, batches: usize) -> Option<String> {
        let (warmup, steps) = (self.schedule.warmup_steps, batches * self.planned_epochs());
        let longer = match self.schedule.kind {
            ScheduleKind::Constant => "or raise `epochs`",
            ScheduleKind::Cosine => "or plan for more epochs",
        };
        (warmup > steps).then(|| {
            format!(
                "schedule.warmup_steps: is {warmup}, and the run has {steps} steps, so that the learning rate comes to no more than \
                 {:.3} of its height; set it to 0 to {steps}, {longer}",
                steps as f64 / warmup as f64
            )
        })
    }

    pub(super) fn check(&self) -> Result<()> {
        within("epochs", self.epochs, 1..=EPOCHS)?;
        // A pair has no negatives alone.
        within("batch", self.batch, 2..=BATCH)?;
        if let Some(part) = self.micro_batch.filter(|part| *part > self.batch) {
            let problem = format!("is {part}, more than the batch of {}, of which it is a part", self.batch);
            return Err(Error::argument(
                "micro_batch",
                problem,
                "lower it, or leave it out for the whole batch in one pass",
            ));
        }
        within("checkpoint_steps", self.checkpoint_steps, 1..=STEPS)?;
        within("max_skipped_steps", self.max_skipped_steps, 0..=STEPS)?;
        within("schedule.warmup_steps", self.schedule.warmup_steps, 0..=STEPS)?;
        within_if("schedule_epochs", self.schedule_epochs, self.epochs..=EPOCHS)?;
        let planned = self.schedule_epochs.is_none() || self.schedule.kind != ScheduleKind::Constant;
        check_fields(&[("schedule_epochs", planned, "has no effect on a constant rate, which needs no plan")])?;
        self.optimizer.check()
    }

    /// Whether a run may become one of this length: it may grow, as far as its schedule was planned.
    ///
    /// # Errors
    /// Names what was changed, and the key that would have made it possible.
    pub(super) fn expect_length(&self, now: &Run) -> Result<()> {
        if now.epochs < self.epochs {
            let problem = format!("is {}, the run began with {}, and may only grow", now.epochs, self.epochs);
            let hint = format!("set it to {} or more, or begin anew with --restart", self.epochs);
            return Err(Error::argument("epochs", problem, hint));
        }
        let (began, planned) = (self.planned_epochs(), now.planned_epochs());
        if self.schedule.kind == ScheduleKind::Constant || began == planned {
            return Ok(());
        }
        let field = if now.schedule_epochs.is_some() { "schedule_epochs" } else { "epochs" };
        let problem = format!("is {planned}, and the cosine of this run was planned for {began} epochs");
        let hint = format!(
            "go back to {began}, or begin anew with --restart, with `schedule_epochs` as long as the run may become"
        );
        Err(Error::argument(field, problem, hint))
    }
}
