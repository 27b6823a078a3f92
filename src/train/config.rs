//! What a training run is: a TOML file, every field checked.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::Augmentation;
use super::gradient::micro_batches;
use crate::kernels::DType;
use crate::nn::models::EncoderConfig;
use crate::ops::image::Normalization;
use crate::{Error, Result};

/// A training run. Defaults are those of X2CT-CLIP's code where paper and code differ.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainConfig {
    /// Folder of the run: checkpoints and `log.jsonl`.
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
    /// Initial weights: a safetensors `state_dict` of the trunk (torchvision's names) or of the whole encoder. Absent means random.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weights: Option<PathBuf>,
    /// The encoder.
    pub model: EncoderConfig,
    /// What it learns from.
    pub data: DataConfig,
    /// The loss.
    #[serde(default)]
    pub loss: LossConfig,
    /// The optimizer.
    #[serde(default)]
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
fn seed() -> u64 {
    1024
}
fn dtype() -> DType {
    DType::F32
}
fn checkpoint_steps() -> usize {
    1000
}

/// Files and sizes. Relative paths are relative to the configuration file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataConfig {
    /// Radiographs (`x2ct drr --dataset`): a file, or shards by their folder or by a name with `*`.
    pub radiographs: PathBuf,
    /// The teacher's embeddings.
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

/// AdamW with clipping of the gradient norm.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OptimizerConfig {
    /// Learning rate.
    pub lr: f64,
    /// Decoupled weight decay, on all parameters.
    pub weight_decay: f64,
    /// Decay rates of the two moments.
    pub betas: [f64; 2],
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Largest norm of the whole gradient; 0 does not clip.
    pub max_norm: f64,
}

impl Default for OptimizerConfig {
    fn default() -> Self {
        OptimizerConfig { lr: 5e-5, weight_decay: 1e-4, betas: [0.9, 0.99], eps: 1e-8, max_norm: 0.5 }
    }
}

/// The learning rate over time.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ScheduleConfig {
    /// Its course after the warm-up.
    pub kind: ScheduleKind,
    /// Steps over which the rate rises linearly from 0.
    pub warmup_steps: usize,
}

/// The course of the learning rate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ScheduleKind {
    /// Constant: X2CT-CLIP uses no scheduler.
    #[default]
    Constant,
    /// Half a cosine down to 0 at the last step.
    Cosine,
}

impl ScheduleConfig {
    /// The factor on the learning rate at `step` (from 0) of `total`.
    pub fn factor(&self, step: usize, total: usize) -> f64 {
        if step < self.warmup_steps {
            return (step + 1) as f64 / self.warmup_steps as f64;
        }
        match self.kind {
            ScheduleKind::Constant => 1.0,
            ScheduleKind::Cosine => {
                let progress =
                    (step - self.warmup_steps) as f64 / (total.saturating_sub(self.warmup_steps)).max(1) as f64;
                0.5 * (1.0 + (std::f64::consts::PI * progress.min(1.0)).cos())
            }
        }
    }
}

impl TrainConfig {
    /// Reads and checks a TOML file; relative paths become relative to its folder.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(|e| Error::io(path, "read", &e))?;
        let mut config: TrainConfig = toml::from_str(&text).map_err(|e| {
            let line = e.span().map_or(1, |s| text[..s.start].matches('\n').count() + 1);
            Error::file(path, format!("line {line}: {}", e.message().replace('\n', " ")), "correct the configuration")
        })?;
        let folder = path.parent().unwrap_or(Path::new(""));
        for p in [&mut config.out, &mut config.data.radiographs, &mut config.data.cache] {
            *p = folder.join(&*p);
        }
        config.weights = config.weights.map(|p| folder.join(p));
        config.check().map_err(|e| e.of_file(path))?;
        Ok(config)
    }

    /// Refuses values that cannot be trained with, naming the field.
    pub fn check(&self) -> Result<()> {
        let o = &self.optimizer;
        let checks = [
            ("epochs", self.epochs > 0, "must be at least 1"),
            ("batch", self.batch > 1, "must be at least 2: a pair has no negatives alone"),
            (
                "micro_batch",
                self.micro_batch.is_none_or(|m| m > 1),
                "must be at least 2: 1 radiograph is too few for batch norm",
            ),
            ("data.image_size", (32..=4096).contains(&self.data.image_size), "must be between 32 and 4096"),
            ("loss.temperature", self.loss.temperature.is_finite() && self.loss.temperature > 0.0, "must be positive"),
            ("loss", self.loss.beta != 0.0 || self.loss.gamma != 0.0, "beta and gamma are both 0: nothing is learned"),
            ("optimizer.lr", o.lr.is_finite() && o.lr > 0.0, "must be positive"),
            ("optimizer.betas", o.betas.iter().all(|b| (0.0..1.0).contains(b)), "must be in [0, 1)"),
            ("optimizer.eps", o.eps > 0.0, "must be positive"),
            ("optimizer.weight_decay", o.weight_decay >= 0.0, "must not be negative"),
            ("optimizer.max_norm", o.max_norm >= 0.0, "must not be negative"),
        ];
        match checks.iter().find(|(_, good, _)| !good) {
            Some((field, _, problem)) => Err(Error::argument(*field, *problem, "correct the configuration")),
            None => {
                micro_batches(self.batch, self.micro_batch)?;
                self.augmentation.check()
            }
        }
    }
}
