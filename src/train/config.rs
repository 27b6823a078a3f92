//! What a training run of a radiograph encoder is: a TOML file, every field checked.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::limits::{BATCH, check_fields, within, within_each, within_if};
use super::{Augmentation, OptimizerConfig, ScheduleConfig, Task, file, micro_batches};
use crate::kernels::DType;
use crate::nn::models::EncoderConfig;
use crate::ops::image::Normalization;
use crate::{Result, files};

/// Skipped steps in a row that a run allows unless it says otherwise.
pub const MAX_SKIPPED_STEPS: usize = 10;

/// A training run. Defaults are those of X2CT-CLIP's code where paper and code differ.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainConfig {
    /// Folder of the run: checkpoints and `log.jsonl`.
    #[serde(serialize_with = "files::serialize")]
    pub out: PathBuf,
    /// Passes over the data. A run may be prolonged: started again with more of them, it goes on.
    pub epochs: usize,
    /// Epochs that a cosine schedule is planned for; absent means `epochs`. With more of them than `epochs` the run can be
    /// prolonged, by raising `epochs` up to this number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule_epochs: Option<usize>,
    /// Pairs a step.
    #[serde(default = "batch")]
    pub batch: usize,
    /// Radiographs in memory at a time, at most: the gradient of a larger batch is computed in two passes over it (gradient
    /// caching). Batch norm's statistics are then those of a micro-batch. Absent means the whole batch in one pass.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub micro_batch: Option<usize>,
    /// Of initial weights, order and augmentation.
    #[serde(default = "seed")]
    pub seed: u64,
    /// Storage type of activations; master weights are f32.
    #[serde(default = "dtype")]
    pub dtype: DType,
    /// Steps between checkpoints; one is also written at the end of every epoch.
    #[serde(default = "checkpoint_steps")]
    pub checkpoint_steps: usize,
    /// Steps in a row that may be skipped because their gradient is not finite; one more ends the run with an error. While steps are
    /// skipped no checkpoint is written.
    #[serde(default = "max_skipped_steps")]
    pub max_skipped_steps: usize,
    /// Leave out the pairs of an epoch's order that do not fill a batch, others in every epoch; without it a single pair alone, which
    /// has no negative.
    #[serde(default)]
    pub drop_last: bool,
    /// Initial weights: a checkpoint of `x2ct train`, or a safetensors `state_dict` of the trunk (torchvision's names) or of the
    /// whole encoder, its names as they are or behind `module.`, `model.`, `encoder.`, `backbone.` and the like. Absent means random.
    #[serde(default, skip_serializing_if = "Option::is_none", serialize_with = "files::serialize_option")]
    pub weights: Option<PathBuf>,
    /// The encoder.
    pub model: EncoderConfig,
    /// What it learns from.
    pub data: DataConfig,
    /// The loss.
    #[serde(default)]
    pub loss: LossConfig,
    /// The optimizer.
    #[serde(default, deserialize_with = "OptimizerConfig::over_x2ct_clip")]
    pub optimizer: OptimizerConfig,
    /// The learning rate over time.
    #[serde(default)]
    pub schedule: ScheduleConfig,
    /// Random changes of the radiographs.
    #[serde(default)]
    pub augmentation: Augmentation,
}

fn batch() -> usize {
    360
}
pub(super) fn seed() -> u64 {
    1024
}
fn dtype() -> DType {
    DType::F32
}
pub(super) fn checkpoint_steps() -> usize {
    1000
}
pub(super) fn max_skipped_steps() -> usize {
    MAX_SKIPPED_STEPS
}

/// Files and sizes. Relative paths are relative to the configuration file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataConfig {
    /// Radiographs (`x2ct drr --dataset`): a file, or shards by their folder or by a name with `*`.
    #[serde(serialize_with = "files::serialize")]
    pub radiographs: PathBuf,
    /// The teacher's embeddings.
    #[serde(serialize_with = "files::serialize")]
    pub cache: PathBuf,
    /// The teacher the cache must be of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub teacher: Option<String>,
    /// Height and width of the network's input.
    #[serde(default = "image_size")]
    pub image_size: usize,
    /// Per-channel normalisation.
    #[serde(default = "imagenet")]
    pub normalization: Normalization,
}

fn image_size() -> usize {
    224
}
fn imagenet() -> Normalization {
    Normalization::IMAGENET
}

/// alpha L(ct, report) + beta L(radiograph, report) + gamma L(radiograph, ct) (X2CT-CLIP, Eq. 2).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LossConfig {
    /// Weight of the frozen pair; it shifts the loss, not the gradient.
    pub alpha: f32,
    /// Weight of radiograph and report.
    pub beta: f32,
    /// Weight of radiograph and CT.
    pub gamma: f32,
    /// Cosines are divided by it.
    pub temperature: f32,
}

impl Default for LossConfig {
    fn default() -> Self {
        LossConfig { alpha: 0.0, beta: 1.0, gamma: 1.0, temperature: 0.07 }
    }
}

impl TrainConfig {
    /// Reads and checks a TOML file; relative paths become relative to its folder.
    pub fn read(path: &Path) -> Result<Self> {
        file::read(path)
    }

    /// Refuses values that cannot be trained with, naming the field.
    pub(super) fn check_all(&self) -> Result<()> {
        self.run().check()?;
        // One radiograph is too few for batch norm.
        within_if("micro_batch", self.micro_batch, 2..=BATCH)?;
        within("model.width", self.model.width, 1..=1024)?;
        within("model.embedding", self.model.embedding, 1..=65_536)?;
        within("data.image_size", self.data.image_size, 32..=4096)?;
        within_each("data.normalization.mean", &self.data.normalization.mean, -1e6..=1e6)?;
        within_each("data.normalization.std", &self.data.normalization.std, 1e-6..=1e6)?;
        for (field, weight) in
            [("loss.alpha", self.loss.alpha), ("loss.beta", self.loss.beta), ("loss.gamma", self.loss.gamma)]
        {
            within(field, weight, 0.0..=1e6)?;
        }
        within("loss.temperature", self.loss.temperature, 1e-4..=1e4)?;
        let learns = self.loss.beta != 0.0 || self.loss.gamma != 0.0;
        check_fields(&[("loss", learns, "beta and gamma are both 0: nothing is learned")])?;
        micro_batches(self.batch, self.micro_batch)?;
        self.augmentation.check()
    }
}
