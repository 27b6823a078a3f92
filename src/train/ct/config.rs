//! What a training run of a CT encoder is: a TOML file, every field checked.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::super::config::{checkpoint_steps, max_skipped_steps, seed};
use super::super::limits::{BATCH, check_fields, within, within_each, within_if};
use super::super::{OptimizerConfig, ScheduleConfig, Task, file};
use crate::kernels::DType;
use crate::nn::models::{CtClip, CtClipConfig};
use crate::nn::{ParameterBuilder, Recompute};
use crate::{Error, Result, files};

/// A training run of DCFormer-CLIP: CT volumes against their reports. Defaults are those of DCFormer's released code.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CtTrainConfig {
    /// Folder of the run: checkpoints and `log.jsonl`.
    #[serde(serialize_with = "files::serialize")]
    pub out: PathBuf,
    /// Passes over the data. A run may be prolonged: started again with more of them, it goes on.
    #[serde(default = "epochs")]
    pub epochs: usize,
    /// Epochs that a cosine schedule is planned for; absent means `epochs`. With more of them than `epochs` the run can be
    /// prolonged, by raising `epochs` up to this number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule_epochs: Option<usize>,
    /// Pairs a step; every other pair of the batch is a negative.
    #[serde(default = "batch")]
    pub batch: usize,
    /// Volumes in memory at a time, at most: the gradient of a larger batch is computed in two passes over it (gradient
    /// caching). Batch norm's statistics are then those of a micro-batch. Absent means the whole batch in one pass.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub micro_batch: Option<usize>,
    /// What the backward pass computes again instead of keeping it: `nothing`, the `hidden` layers of channel MLPs, or all of
    /// the encoder's `blocks` but their inputs. Changes memory and time, no result.
    #[serde(default)]
    pub recompute: Recompute,
    /// Of initial weights, order and drop-path.
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
    #[serde(default = "drop_last")]
    pub drop_last: bool,
    /// Initial weights: a checkpoint of `x2ct train`, or a safetensors `state_dict` with the released code's names, as they are or
    /// behind `module.`, `model.` and the like. Absent means random.
    #[serde(default, skip_serializing_if = "Option::is_none", serialize_with = "files::serialize_option")]
    pub weights: Option<PathBuf>,
    /// The model.
    pub model: CtClipConfig,
    /// What it learns from.
    pub data: CtDataConfig,
    /// The loss.
    #[serde(default)]
    pub loss: CtLossConfig,
    /// The optimizer.
    #[serde(default = "OptimizerConfig::dcformer", deserialize_with = "OptimizerConfig::over_dcformer")]
    pub optimizer: OptimizerConfig,
    /// The learning rate over time.
    #[serde(default)]
    pub schedule: ScheduleConfig,
}

fn epochs() -> usize {
    15
}
fn batch() -> usize {
    8
}
fn dtype() -> DType {
    DType::Bf16
}
fn drop_last() -> bool {
    true
}

/// Files. Relative paths are relative to the configuration file.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CtDataConfig {
    /// Prepared volumes: a folder of `x2ct preprocess`, or a packed file.
    #[serde(serialize_with = "files::serialize")]
    pub volumes: PathBuf,
    /// Text features of the reports, for a trained text tower. This or `cache`.
    #[serde(default, skip_serializing_if = "Option::is_none", serialize_with = "files::serialize_option")]
    pub text: Option<PathBuf>,
    /// An embedding cache whose report embeddings are the text side, frozen. This or `text`.
    #[serde(default, skip_serializing_if = "Option::is_none", serialize_with = "files::serialize_option")]
    pub cache: Option<PathBuf>,
}

/// Symmetric InfoNCE between CT and report at a constant scale.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CtLossConfig {
    /// Cosines are multiplied by it: e in the released code, 1 in the paper (tau = 1). It is not learned.
    pub scale: f32,
}

impl Default for CtLossConfig {
    fn default() -> Self {
        CtLossConfig { scale: std::f32::consts::E }
    }
}

impl CtTrainConfig {
    /// Reads and checks a TOML file; relative paths become relative to its folder.
    pub fn read(path: &Path) -> Result<Self> {
        file::read(path)
    }

    pub(super) fn check_all(&self) -> Result<()> {
        self.run().check()?;
        let (text, cache) = (self.data.text.is_some(), self.data.cache.is_some());
        let tower = self.model.text_features.is_some();
        within_if("micro_batch", self.micro_batch, 1..=BATCH)?;
        within("loss.scale", self.loss.scale, 1e-4..=1e4)?;
        within("model.embedding", self.model.embedding, 1..=65_536)?;
        let encoder = &self.model.encoder;
        within_each("model.channels", &encoder.channels, 1..=8192)?;
        within_each("model.blocks", &encoder.blocks, 1..=256)?;
        within_each("model.kernels", &encoder.kernels, 1..=1023)?;
        within_each("model.input", &encoder.input, 1..=16_384)?;
        within_if("model.vq", encoder.vq, 1..=1 << 20)?;
        within("model.drop_path", encoder.drop_path, 0.0..1.0)?;
        within("model.layer_scale", encoder.layer_scale, -1e6..=1e6)?;
        within_if("model.text_features", self.model.text_features, 1..=1 << 24)?;
        check_fields(&[
            (
                "micro_batch",
                self.model.encoder.vq.is_none() || self.micro_batch.is_none_or(|m| m >= self.batch),
                "must be left out with model.vq, whose codebook has moved when a micro-batch is embedded again",
            ),
            ("data", text != cache, "give one of text and cache"),
            ("model.text_features", tower || !text, "is missing: data.text needs a text tower on this many features"),
            (
                "model.text_features",
                !tower || text,
                "is given, but data.cache holds embeddings, which need no text tower",
            ),
        ])?;
        // What only the model's constructor knows.
        CtClip::new(&mut ParameterBuilder::new(), &self.model).map(drop).map_err(|e| match e {
            Error::Argument { problem, hint, .. } => Error::argument("model", problem, hint),
            other => other,
        })
    }
}
