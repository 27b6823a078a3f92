//! Checkpoints: everything a run needs to go on exactly where it was.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{Sources, Task, TrainConfig};
use crate::archive::{Archive, Writer};
use crate::nn::{Parameters, StateDict};
use crate::tensor::Shape;
use crate::{Error, Result};

const FORMAT: &str = "x2ct-checkpoint-1";
const ADVICE: &str = "use an earlier checkpoint, or train again";

/// Where in a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// Whole epochs done.
    pub epoch: usize,
    /// Batches done of the epoch under way.
    pub batch: usize,
    /// Steps done in all.
    pub step: usize,
}

/// An [`Archive`] of the tensors `model.NAME` (the `state_dict`, PyTorch's names and order), `exp_avg.NAME` and
/// `exp_avg_sq.NAME` (AdamW's moments), with the configuration, the position and the teacher as metadata. Every value is
/// stored exactly: a run that is stopped and resumed equals one that was not, bit for bit.
pub struct Checkpoint<C = TrainConfig> {
    /// The run.
    pub config: C,
    /// How far it was.
    pub position: Position,
    /// Steps the optimizer has taken; fewer than the position's where a non-finite gradient was skipped.
    pub optimizer_steps: u64,
    /// What it learned from.
    pub sources: Sources,
    /// Parameters and buffers.
    pub model: StateDict,
    /// First moments.
    pub exp_avg: StateDict,
    /// Second moments.
    pub exp_avg_sq: StateDict,
}

impl<C: Task> Checkpoint<C> {
    /// Writes the checkpoint, whole or not at all.
    pub fn write(&self, path: &Path) -> Result<()> {
        let mut archive = Writer::new(FORMAT);
        archive.set("config", serde_json::json!(self.config).to_string());
        archive.set("position", serde_json::json!(self.position).to_string());
        archive.set("optimizer_steps", self.optimizer_steps.to_string());
        archive.set("task", C::NAME);
        archive.set("teacher", self.sources.teacher.as_str());
        archive.set("preprocessing_digest", self.sources.preprocessing_digest.as_str());
        for (prefix, dict) in [("model", &self.model), ("exp_avg", &self.exp_avg), ("exp_avg_sq", &self.exp_avg_sq)] {
            for (name, (shape, data)) in &dict.tensors {
                archive.put_f32(&format!("{prefix}.{name}"), shape, data);
            }
        }
        archive.write(path)
    }

    /// Reads and verifies a checkpoint.
    pub fn read(path: &Path) -> Result<Self> {
        let archive = Archive::read(path, FORMAT, "checkpoint", ADVICE)?;
        // Checkpoints of radiograph encoders were first, and did not say so.
        let task = archive.get("task").unwrap_or(TrainConfig::NAME);
        if task != C::NAME {
            let problem = format!("is of a {task}, not of {}", C::WHAT);
            return Err(Error::file(path, problem, "pass the checkpoint of a run of the other kind"));
        }
        let mut dicts = [StateDict::default(), StateDict::default(), StateDict::default()];
        for name in archive.names() {
            let (shape, data) = archive.f32(name)?;
            let (kind, rest) = name.split_once('.').unwrap_or((name, ""));
            let dict = match kind {
                "model" => &mut dicts[0],
                "exp_avg" => &mut dicts[1],
                "exp_avg_sq" => &mut dicts[2],
                _ => return Err(Error::file(path, format!("holds an unknown tensor {name}"), ADVICE)),
            };
            dict.tensors.insert(rest.into(), (Shape::from(shape), data));
        }
        let [model, exp_avg, exp_avg_sq] = dicts;
        let steps = archive.get("optimizer_steps")?;
        Ok(Checkpoint {
            config: archive.get_json("config")?,
            position: archive.get_json("position")?,
            optimizer_steps: steps
                .parse()
                .map_err(|_| Error::file(path, format!("optimizer_steps is {steps:?}, not a number"), ADVICE))?,
            sources: Sources {
                teacher: archive.get("teacher")?.into(),
                preprocessing_digest: archive.get("preprocessing_digest").unwrap_or_default().into(),
            },
            model,
            exp_avg,
            exp_avg_sq,
        })
    }
}

/// A flat arena (such as a moment) as named tensors.
pub(super) fn named(parameters: &Parameters, arena: &crate::Tensor) -> Result<StateDict> {
    let tensors = parameters.to_torch(arena)?.into_iter().map(|(name, shape, data)| (name, (shape, data)));
    Ok(StateDict { tensors: tensors.collect() })
}
