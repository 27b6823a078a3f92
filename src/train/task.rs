//! What the loop needs to know of a kind of training run.

use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{BatchLoss, CtTrainConfig, OptimizerConfig, Sampler, ScheduleConfig, TrainConfig, micro_batches};
use crate::kernels::DType;
use crate::nn::{ParameterBuilder, Parameters};
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
    /// Digest of how its images were made; empty where that is not recorded.
    pub preprocessing_digest: String,
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
        *p = folder.join(&*p);
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
