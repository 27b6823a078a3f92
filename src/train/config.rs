//! What a training run of a radiograph encoder is: a TOML file, every field checked.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::task::{self, Task, check_fields};
use super::{Augmentation, OptimizerConfig, ScheduleConfig, micro_batches};
use crate::kernels::DType;
use crate::nn::models::EncoderConfig;
use crate::ops::image::Normalization;
use crate::{Result, files};

/// A training run. Defaults are those of X2CT-CLIP's code where paper and code differ.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainConfig {
    /// Folder of the run: checkpoints and `log.jsonl`.
    #[serde(serialize_with = "files::serialize")]
    pub out: PathBuf,
    /// Passes over the data.
    pub epochs: usize,
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
    /// Leave out the pairs of an epoch's order that do not fill a batch.
    #[serde(default)]
    pub drop_last: bool,
    /// Initial weights: a safetensors `state_dict` of the trunk (torchvision's names) or of the whole encoder. Absent means random.
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
        task::read(path)
    }

    /// Refuses values that cannot be trained with, naming the field.
    pub(super) fn check_all(&self) -> Result<()> {
        self.run().check()?;
        check_fields(&[
            (
                "micro_batch",
                self.micro_batch.is_none_or(|m| m > 1),
                "must be at least 2: 1 radiograph is too few for batch norm",
            ),
            ("data.image_size", (32..=4096).contains(&self.data.image_size), "must be between 32 and 4096"),
            ("loss.temperature", self.loss.temperature.is_finite() && self.loss.temperature > 0.0, "must be positive"),
            ("loss", self.loss.beta != 0.0 || self.loss.gamma != 0.0, "beta and gamma are both 0: nothing is learned"),
        ])?;
        micro_batches(self.batch, self.micro_batch)?;
        self.augmentation.check()
    }
}
