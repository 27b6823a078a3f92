//! Calibration as files: maps from logits to probabilities, one a label, fitted on held-out scores, for `x2ct predict`.
//!
//! # Format `x2ct-calibration-1`
//! A JSON object:
//!
//! | key | is |
//! |---|---|
//! | `format` | `x2ct-calibration-1` |
//! | `method` | `temperature` or `platt` ([`Method`]) |
//! | `checkpoint` | digest of the encoder's checkpoint |
//! | `prompts` | digest of the prompts that the logits are of ([`PromptSet::digest`](crate::data::prompts::PromptSet::digest)) |
//! | `scale` | what cosines were multiplied by |
//! | `scores` | digest of the held-out scores |
//! | `samples` | how many there were |
//! | `labels` | a list: `name`, and `slope` and `intercept` of its map, or `uncalibrated`, why it has none |

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::calibration::{Method, Scaling};
use super::score_file::ScoreFile;
use super::zero_shot::probability;
use crate::data::provenance::short;
use crate::data::rows;
use crate::error::{Error, Result};
use crate::files;

const FORMAT: &str = "x2ct-calibration-1";
const ADVICE: &str = "make it again with `x2ct eval calibrate`";

/// Maps of all labels of one encoder and its prompts. See the module's description.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CalibrationFile {
    format: String,
    /// What was fitted.
    pub method: Method,
    /// Digest of the encoder's checkpoint.
    pub checkpoint: String,
    /// Digest of the prompts.
    pub prompts: String,
    /// What cosines were multiplied by.
    pub scale: f64,
    /// Digest of the held-out scores.
    pub scores: String,
    /// How many there were.
    pub samples: usize,
    /// The labels, in order.
    pub labels: Vec<LabelCalibration>,
}

/// The map of one label, or why it has none.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LabelCalibration {
    /// Its name.
    pub name: String,
    /// The map.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub scaling: Option<Scaling>,
    /// Why there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uncalibrated: Option<String>,
}

impl LabelCalibration {
    /// The probability of a logit, by the map where there is one.
    pub fn probability(&self, logit: f64) -> f64 {
        self.scaling.map_or_else(|| probability(logit), |scaling| scaling.probability(logit))
    }
}

impl CalibrationFile {
    /// Fits each label on held-out scores, those that nothing was trained or chosen on. A label that cannot be fitted has no map.
    ///
    /// # Errors
    /// Scores that do not say of which checkpoint and prompts they are; none that can be fitted, with the first reason.
    pub fn fit(scores: &ScoreFile, method: Method) -> Result<Self> {
        let refuse = |problem: &str, hint: &str| Error::argument("scores", problem, hint);
        let settings = &scores.made.settings;
        let checkpoint = scores.made.from.get("checkpoint").map(|from| from.digest.clone()).ok_or_else(|| {
            let problem = "do not say which checkpoint they are of, so no prediction can be told to belong to them";
            refuse(
                problem,
                "pass those of a radiograph encoder: `x2ct eval --scores`, or `x2ct eval zero-shot --scores`",
            )
        })?;
        let prompts = settings.get("prompts").and_then(Value::as_str).ok_or_else(|| {
            refuse("do not say which prompts they are of", "make them again with this version of x2ct")
        })?;
        let scale = settings.get("scale").and_then(Value::as_f64).unwrap_or(1.0);
        let label = |(at, name): (usize, &String)| {
            let column = |row: usize| row * scores.names.len() + at;
            let (labels, logits): (Vec<bool>, Vec<f64>) =
                (0..scores.ids.len()).map(|row| (scores.labels[column(row)], scores.logits[column(row)])).unzip();
            let (scaling, uncalibrated) = match Scaling::fit(method, &labels, &logits) {
                Ok(scaling) => (Some(scaling), None),
                Err(error) => (None, Some(error.to_string())),
            };
            LabelCalibration { name: name.clone(), scaling, uncalibrated }
        };
        let labels: Vec<LabelCalibration> = scores.names.iter().enumerate().map(label).collect();
        if labels.iter().all(|label| label.scaling.is_none()) {
            let first = labels.iter().find_map(|label| label.uncalibrated.clone()).unwrap_or_default();
            return Err(refuse(&format!("fit no label: {first}"), "pass more held-out samples"));
        }
        Ok(CalibrationFile {
            format: FORMAT.into(),
            method,
            checkpoint,
            prompts: prompts.into(),
            scale,
            scores: scores.provenance().digest,
            samples: scores.ids.len(),
            labels,
        })
    }

    /// Labels without a map, with the reasons.
    pub fn uncalibrated(&self) -> impl Iterator<Item = (&str, &str)> {
        self.labels.iter().filter_map(|label| Some((&label.name[..], label.uncalibrated.as_deref()?)))
    }

    /// Refuses to stand for another encoder or other prompts, which have these digests, or other labels.
    ///
    /// # Errors
    /// Names what differs.
    pub fn expect(&self, checkpoint: &str, prompts: &str, names: &[&str]) -> Result<()> {
        let refuse = |problem: String, hint: &str| Err(Error::argument("calibration", problem, hint));
        if self.checkpoint != checkpoint {
            let [mine, found] = [&self.checkpoint, checkpoint].map(short);
            let problem = format!("is of the checkpoint {mine}, and this is another ({found})");
            return refuse(problem, "fit it on scores of this checkpoint");
        }
        if self.prompts != prompts {
            let [mine, found] = [&self.prompts, prompts].map(short);
            let problem = format!("is of the prompts {mine}, and these are others ({found})");
            return refuse(
                problem,
                "fit it on scores of these prompts: `x2ct eval zero-shot --prompts` with the cache",
            );
        }
        if !self.labels.iter().map(|label| &label.name[..]).eq(names.iter().copied()) {
            return refuse("is of other labels".into(), "fit it on scores of the same labels");
        }
        Ok(())
    }

    /// Reads and checks a file.
    ///
    /// # Errors
    /// A file that is absent or no such object; a label twice, or one with a map and a reason for none, or with neither; a number
    /// that cannot have been fitted.
    pub fn read(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let refuse = |problem: String| Error::file(path, problem, ADVICE);
        let bytes = files::read(path).map_err(|e| Error::io(path, "read", &e))?;
        let object: Value = serde_json::from_slice(&bytes).map_err(|e| refuse(format!("is no JSON ({e})")))?;
        if object["format"] != FORMAT {
            return Err(refuse(format!("has format {}, not {FORMAT:?}", object["format"])));
        }
        let file: Self = serde_json::from_value(object).map_err(|e| refuse(format!("is no calibration ({e})")))?;
        file.check().map_err(refuse)?;
        Ok(file)
    }

    fn check(&self) -> Result<(), String> {
        let names: Vec<String> = self.labels.iter().map(|label| label.name.clone()).collect();
        if let Some(name) = rows::first_repeated(&names) {
            return Err(format!("has the label {name:?} twice"));
        }
        if !(self.scale.is_finite() && self.scale > 0.0) {
            return Err(format!("has the scale {}", self.scale));
        }
        for LabelCalibration { name, scaling, uncalibrated } in &self.labels {
            match (scaling, uncalibrated) {
                (None, Some(_)) => (),
                (Some(s), None) if s.slope.is_finite() && s.slope > 0.0 && s.intercept.is_finite() => (),
                _ => {
                    return Err(format!(
                        "the label {name:?} has no map of a rising probability, and no reason for none"
                    ));
                }
            }
        }
        Ok(())
    }

    /// Writes the file, whole or not at all.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn write(&self, path: impl AsRef<Path>) -> Result<()> {
        let text = serde_json::to_string_pretty(self)
            .map_err(|e| Error::argument("calibration", format!("cannot be written ({e})"), ADVICE))?;
        files::write_atomic(path, format!("{text}\n").as_bytes())
    }
}
