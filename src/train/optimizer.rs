//! The optimizer of a run, and its learning rate over time.

use serde::{Deserialize, Deserializer, Serialize};

use super::limits::{check_fields, within, within_each, within_if};
use crate::nn::Parameters;
use crate::ops::optim::{Group, Hyper};
use crate::{Error, Result};

/// AdamW. What a configuration leaves out has the task's default.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct OptimizerConfig {
    /// Learning rate; this or `blr`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lr: Option<f64>,
    /// Base learning rate: the rate is `blr * batch / 256`, where the batch counts all pairs of a step.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub blr: Option<f64>,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// What decays.
    pub decay: Decay,
    /// Decay rates of the two moments.
    pub betas: [f64; 2],
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Largest norm of the whole gradient; 0 does not clip.
    pub max_norm: f64,
}

/// Which parameters decay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Decay {
    /// All of them.
    All,
    /// Weights of convolutions and matrix products: tensors of two axes or more that are not called `bias`.
    Matrices,
}

/// What a configuration file may say.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Fields {
    lr: Option<f64>,
    blr: Option<f64>,
    weight_decay: Option<f64>,
    decay: Option<Decay>,
    betas: Option<[f64; 2]>,
    eps: Option<f64>,
    max_norm: Option<f64>,
}

impl Default for OptimizerConfig {
    /// X2CT-CLIP's: rate 5e-5, decay 1e-4 of all parameters, betas 0.9 and 0.99, norm clipped to 0.5.
    fn default() -> Self {
        OptimizerConfig {
            lr: Some(5e-5),
            blr: None,
            weight_decay: 1e-4,
            decay: Decay::All,
            betas: [0.9, 0.99],
            eps: 1e-8,
            max_norm: 0.5,
        }
    }
}

impl OptimizerConfig {
    /// DCFormer's released code: base rate 1e-5, decay 0.05 of matrices, betas 0.9 and 0.95, no clipping.
    pub fn dcformer() -> Self {
        OptimizerConfig {
            lr: None,
            blr: Some(1e-5),
            weight_decay: 0.05,
            decay: Decay::Matrices,
            betas: [0.9, 0.95],
            eps: 1e-8,
            max_norm: 0.0,
        }
    }

    /// For serde: what the configuration says, over X2CT-CLIP's.
    pub(super) fn over_x2ct_clip<'de, D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        Ok(Self::default().with(Fields::deserialize(d)?))
    }

    /// For serde: what the configuration says, over DCFormer's.
    pub(super) fn over_dcformer<'de, D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        Ok(Self::dcformer().with(Fields::deserialize(d)?))
    }

    /// The same with what a file says.
    pub(crate) fn with(self, f: Fields) -> Self {
        let (lr, blr) = if f.lr.is_none() && f.blr.is_none() { (self.lr, self.blr) } else { (f.lr, f.blr) };
        OptimizerConfig {
            lr,
            blr,
            weight_decay: f.weight_decay.unwrap_or(self.weight_decay),
            decay: f.decay.unwrap_or(self.decay),
            betas: f.betas.unwrap_or(self.betas),
            eps: f.eps.unwrap_or(self.eps),
            max_norm: f.max_norm.unwrap_or(self.max_norm),
        }
    }

    pub(crate) fn check(&self) -> Result<()> {
        check_fields(&[
            ("optimizer.lr", self.lr.is_none() || self.blr.is_none(), "stands beside blr; give one of them"),
            ("optimizer.lr", self.lr.is_some() || self.blr.is_some(), "is missing, and so is blr; give one of them"),
            (
                "optimizer.max_norm",
                self.max_norm == 0.0 || !(self.max_norm < 1e-12),
                "is less than 1e-12, and would let nothing be learned; give 0 for no limit",
            ),
        ])?;
        // Less than the least moves no f32 weight.
        within_if("optimizer.lr", self.lr, 1e-30..=1e30)?;
        within_if("optimizer.blr", self.blr, 1e-30..=1e30)?;
        within_each("optimizer.betas", &self.betas, 0.0..1.0)?;
        // What f32 holds at full precision.
        within("optimizer.eps", self.eps, 1e-37..=1.0)?;
        within("optimizer.weight_decay", self.weight_decay, 0.0..=1e6)?;
        within("optimizer.max_norm", self.max_norm, 0.0..=1e30)
    }

    /// The learning rate of a run with `batch` pairs a step, before its schedule.
    ///
    /// # Errors
    /// Both or neither of `lr` and `blr`.
    pub fn rate(&self, batch: usize) -> Result<f64> {
        match (self.lr, self.blr) {
            (Some(lr), None) => Ok(lr),
            (None, Some(blr)) => Ok(blr * batch as f64 / 256.0),
            _ => Err(Error::argument("optimizer", "has both or neither of lr and blr", "give one of them")),
        }
    }

    pub(crate) fn hyper(&self) -> Hyper {
        let max_norm = (self.max_norm > 0.0).then_some(self.max_norm);
        Hyper { beta1: self.betas[0], beta2: self.betas[1], eps: self.eps, max_norm }
    }

    /// The ranges of the arena with their decay. A range reaches to the next parameter: what lies between is zero and stays so.
    pub(crate) fn groups(&self, parameters: &Parameters) -> Vec<Group> {
        let decays = |name: &str, axes: usize| {
            self.decay == Decay::All || axes >= 2 && !name.ends_with(".bias") && name != "bias"
        };
        let mut groups: Vec<Group> = Vec::new();
        for (name, begin, _, axes) in parameters.ranges() {
            if let Some(last) = groups.last_mut() {
                last.end = begin;
            }
            let weight_decay = if decays(name, axes) { self.weight_decay as f32 } else { 0.0 };
            groups.push(Group { begin, end: parameters.values().numel(), weight_decay, lr_scale: 1.0 });
        }
        groups
    }
}

/// The learning rate over time.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ScheduleConfig {
    /// Its course after the warm-up.
    pub kind: ScheduleKind,
    /// Steps over which the rate rises linearly from 0; more than the run has are warned of.
    pub warmup_steps: usize,
}

/// The course of the learning rate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ScheduleKind {
    /// Constant: X2CT-CLIP and DCFormer use no scheduler.
    #[default]
    Constant,
    /// Half a cosine: of n steps after the warm-up, step s (from 0) has (1 + cos(pi s / n)) / 2 of the rate. The first has all of
    /// it; the last still has a little, (1 - cos(pi / n)) / 2, and the one after it would have 0.
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
