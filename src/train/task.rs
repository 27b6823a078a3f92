//! What the loop needs to know of a kind of training run.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use super::{BatchLoss, CtTrainConfig, OptimizerConfig, Sampler, ScheduleConfig, TrainConfig, micro_batches};
use crate::data::provenance::{Provenance, Undecided, fields};
use crate::kernels::DType;
use crate::nn::{ParameterBuilder, Parameters};
use crate::{Error, Result, files};

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

    /// All paths of the configuration: those of a file are relative to its folder.
    fn paths(&mut self) -> Vec<&mut PathBuf>;

    /// Registers the model.
    fn model(&self, b: &mut ParameterBuilder) -> Result<Self::Model>;

    /// Loads initial weights and returns the names in the file that the model does not have.
    fn load_weights(&self, parameters: &Parameters, path: &Path) -> Result<Vec<String>>;

    /// Refuses a set that the model cannot learn from.
    fn expect_set(&self, set: &Self::Set) -> Result<()>;

    /// Where the set comes from.
    fn sources(set: &Self::Set) -> Sources;

    /// Draws the order of each epoch.
    fn sampler(&self, set: &Self::Set) -> Sampler;

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

    /// What a run that began with these may go on with: the very same.
    ///
    /// # Errors
    /// Names what differs as a field of the configuration, with both digests.
    pub fn expect_same(&self, now: &Sources) -> Result<Undecided> {
        let mut undecided = Vec::new();
        for (name, began) in &self.from {
            if let Some(now) = now.from.get(name) {
                undecided.extend(began.expect_same(&format!("data.{name}"), now)?);
            }
        }
        if self.from.is_empty() && !self.teacher.is_empty() {
            undecided.push("data: what the run began with is not recorded, so nothing was compared".into());
        }
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
    pub fn expect_picture(&self, path: &Path) -> Result<Undecided> {
        self.from.get("radiographs").cloned().unwrap_or_default().expect_picture(path)
    }

    /// Remarks on everything that does not say how it was made.
    pub fn undecided(&self) -> Undecided {
        self.from.iter().flat_map(|(name, from)| from.undecided(name)).collect()
    }
}

/// A configuration without the spelling of its paths: what tells runs apart.
pub(super) fn identity<C: Task>(config: &C) -> Map<String, Value> {
    let mut config = config.clone();
    for path in config.paths() {
        *path = PathBuf::new();
    }
    fields(json!(config))
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
    pub(super) fn check(&self) -> Result<()> {
        check_fields(&[
            ("epochs", self.epochs > 0, "must be at least 1"),
            ("batch", self.batch > 1, "must be at least 2: a pair has no negatives alone"),
        ])?;
        self.optimizer.check()
    }
}

/// The first of (field, good, what is wrong) that is not good, as an error.
pub(super) fn check_fields(checks: &[(&str, bool, &str)]) -> Result<()> {
    match checks.iter().find(|(_, good, _)| !good) {
        Some((field, _, problem)) => Err(Error::argument(*field, *problem, "correct the configuration")),
        None => Ok(()),
    }
}

/// Reads and checks a TOML file; relative paths become relative to its folder.
pub(super) fn read<C: Task>(path: &Path) -> Result<C> {
    let text = std::fs::read_to_string(path).map_err(|e| Error::io(path, "read", &e))?;
    let mut config: C = toml::from_str(&text).map_err(|e| {
        let line = e.span().map_or(1, |s| text[..s.start].matches('\n').count() + 1);
        Error::file(path, format!("line {line}: {}", e.message().replace('\n', " ")), "correct the configuration")
    })?;
    let folder = path.parent().unwrap_or(Path::new(""));
    for p in config.paths() {
        *p = folder.join(files::expand(p).map_err(|e| Error::file(path, e.to_string(), "correct the configuration"))?);
    }
    config.check().map_err(|e| e.of_file(path))?;
    Ok(config)
}

/// A configuration file of either kind, told apart by `model.name`.
pub enum AnyConfig {
    /// Of a radiograph encoder.
    Radiographs(TrainConfig),
    /// Of a CT encoder: a model whose name begins with `dcformer`.
    Ct(CtTrainConfig),
}

impl AnyConfig {
    /// Reads and checks a TOML file; relative paths become relative to its folder.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(|e| Error::io(path, "read", &e))?;
        let table: Option<toml::Table> = text.parse().ok();
        let name = table.as_ref().and_then(|t| t.get("model")?.get("name")?.as_str());
        match name.is_some_and(|name| name.starts_with("dcformer")) {
            true => CtTrainConfig::read(path).map(AnyConfig::Ct),
            false => TrainConfig::read(path).map(AnyConfig::Radiographs),
        }
    }
}

/// What two rows must not share in a batch: the scan of a CT-RATE volume name, or the id where it is none.
pub(super) fn scan(id: &str) -> String {
    id.parse::<crate::data::ct_rate::VolumeName>().map_or_else(|_| id.to_string(), |name| name.scan_name())
}
