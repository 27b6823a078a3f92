//! Checkpoints: everything a run needs to go on exactly where it was.

use std::path::Path;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::task::{WEIGHTS, identity};
use super::{Sources, Task, TrainConfig};
use crate::archive::{Archive, Writer};
use crate::data::provenance::{Content, Provenance, Undecided, difference, fields};
use crate::nn::{Parameters, StateDict};
use crate::tensor::Shape;
use crate::{Error, Result};

pub(super) const FORMAT: &str = "x2ct-checkpoint-1";
const SKIPPED: &str = "skipped_in_a_row";
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

/// An [`Archive`] `x2ct-checkpoint-1` of the tensors `model.NAME` (the `state_dict`, PyTorch's names and order), `exp_avg.NAME` and
/// `exp_avg_sq.NAME` (AdamW's moments), with the configuration, the position, the teacher and the provenance ([`crate::data::provenance`]:
/// what the run learns from; checkpoints of earlier versions lack it) as metadata. Every value is stored exactly: a run that is
/// stopped and resumed equals one that was not, bit for bit.
pub struct Checkpoint<C = TrainConfig> {
    /// The run.
    pub config: C,
    /// How far it was.
    pub position: Position,
    /// Steps the optimizer has taken; fewer than the position's where a non-finite gradient was skipped.
    pub optimizer_steps: u64,
    /// Steps in a row, up to the position, that were skipped.
    pub skipped_in_a_row: usize,
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
        archive.set(SKIPPED, self.skipped_in_a_row.to_string());
        archive.set("task", C::NAME);
        archive.set("teacher", self.sources.teacher.as_str());
        self.provenance().record(&mut archive);
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
        // Earlier versions did not keep the second.
        let skipped = archive.texts().get(SKIPPED).map_or("0", String::as_str);
        let mut checkpoint = Checkpoint {
            config: archive.get_json("config")?,
            position: archive.get_json("position")?,
            optimizer_steps: number(path, "optimizer_steps", archive.get("optimizer_steps")?)?,
            skipped_in_a_row: number(path, SKIPPED, skipped)?,
            sources: Sources::new(archive.get("teacher")?, []),
            model,
            exp_avg,
            exp_avg_sq,
        };
        match Provenance::read(&archive, &checkpoint.digest())? {
            Some(recorded) => checkpoint.sources.from = recorded.from,
            None => {
                // Of the volumes they learned from, those of CT encoders held the preset's digest.
                let preset = archive.get("preprocessing_digest").unwrap_or_default();
                if !preset.is_empty() {
                    let settings = fields(serde_json::json!({"preset_digest": preset}));
                    checkpoint.sources.from.insert("volumes".into(), Provenance::unknown(settings));
                }
            }
        }
        Ok(checkpoint)
    }

    /// BLAKE3 of what decides the model's outputs: its tensors, its configuration, the type it computes in and the form of its
    /// input. Neither where it lies nor how far its optimizer is has a part in it.
    pub fn digest(&self) -> String {
        let mut config = identity(&self.config);
        if let Some(data) = config.get_mut("data").and_then(|data| data.as_object_mut()) {
            // What a cache must be called is no part of the model.
            data.remove("teacher");
        }
        let part = |name: &str| config.get(name).cloned().unwrap_or_default();
        let mut content = Content::of(C::NAME);
        content.add(serde_json::json!([part("model"), part("dtype"), part("data")]).to_string());
        for (name, (shape, data)) in &self.model.tensors {
            content.add(format!("{name} {:?}", &shape[..]));
            content.add_f32(data);
        }
        content.digest()
    }

    /// What the model is, and what it learned from.
    pub fn provenance(&self) -> Provenance {
        let made = Provenance { from: self.sources.from.clone(), known: true, ..Default::default() };
        made.holding(self.digest(), 0)
    }

    /// Whether a run of this configuration may go on from here, on this data: the same configuration but for the spelling of
    /// its paths, for more epochs ([`TrainConfig::schedule_epochs`]) and for what has no part in the result; the very same data
    /// and initial weights, where these are given still. Returns what could not be decided.
    ///
    /// # Errors
    /// Names the first field that differs, with both values or both digests.
    pub fn expect_run(&self, config: &C, data: &Sources) -> Result<Undecided> {
        if let Some(d) = difference(&identity(&self.config), &identity(config), true) {
            let problem = format!("is {}, the run began with {}", d.found, d.trained);
            let hint = "correct the configuration, use another output folder, or begin anew with --restart";
            return Err(Error::argument(d.name, problem, hint));
        }
        self.config.run().expect_length(&config.run())?;
        let mut undecided = self.sources.expect_same(data)?;
        match (self.config.run().weights, data.from.contains_key(WEIGHTS)) {
            (None, true) => {
                let hint = "leave it out, or begin anew with --restart";
                return Err(Error::argument(WEIGHTS, "is given, the run began with random ones", hint));
            }
            (Some(_), true) if !self.sources.from.contains_key(WEIGHTS) => {
                undecided.push("weights: what the run began with is not recorded, so nothing was compared".into());
            }
            _ => (),
        }
        Ok(undecided)
    }
}

/// A whole number of a checkpoint.
fn number<T: FromStr>(path: &Path, key: &str, text: &str) -> Result<T> {
    text.parse().map_err(|_| Error::file(path, format!("{key} is {text:?}, not a number"), ADVICE))
}

/// A flat arena (such as a moment) as named tensors.
pub(super) fn named(parameters: &Parameters, arena: &crate::Tensor) -> Result<StateDict> {
    let tensors = parameters.to_torch(arena)?.into_iter().map(|(name, shape, data)| (name, (shape, data)));
    Ok(tensors.collect())
}
