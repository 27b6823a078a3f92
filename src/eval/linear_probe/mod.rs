//! Linear probes: one linear layer on the features of a frozen encoder, trained for labels that do not exclude each other by binary
//! cross entropy and AdamW, through this crate's operators on any device. (For ridge regression see [`super::probe`].)
//!
//! # Format `x2ct-probe-1`
//! An [`Archive`] with the tensors `weight` `[L, d]` and `bias` `[L]`, f32. Metadata:
//!
//! | key | is |
//! |---|---|
//! | `names` | JSON array of the L distinct labels |
//! | `encoder` | name of the encoder that the features are of |
//! | `head` | `linear`, or `relu-dropout`: negative features count as 0 |
//! | `best_epoch` | the epoch whose weights these are, from 1 |
//! | `losses` | JSON array of `{epoch, train, validation}` |
//! | `provenance` | see [`crate::data::provenance`]: `settings` has the recipe, `from` the features and labels |
//! | `checksum` | that of [`crate::archive`] |

mod fit;
mod lbfgs;
mod recipe;

pub use recipe::{Head, Lbfgs, PosWeight, Recipe};

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::archive::{Archive, Writer};
use crate::autograd::Op;
use crate::data::provenance::{Content, Provenance};
use crate::data::rows;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::ops::gemm::{Linear, Method};
use crate::ops::pointwise::Relu;
use crate::tensor::{DType, Tensor};

const FORMAT: &str = "x2ct-probe-1";
const ADVICE: &str = "train the probe again";

/// Features and labels of the same samples.
#[derive(Clone, Copy, Debug)]
pub struct Samples<'a> {
    /// Names of the labels.
    pub names: &'a [String],
    /// Values of one sample's features.
    pub dim: usize,
    /// `[samples, dim]`.
    pub features: &'a [f32],
    /// `[samples, names]`.
    pub labels: &'a [bool],
}

impl Samples<'_> {
    /// How many samples.
    ///
    /// # Errors
    /// None, values that are not finite, labels that are not as many rows.
    fn check(&self) -> Result<usize> {
        let samples = rows::check("features", self.features, self.dim)?;
        if self.names.is_empty() || self.labels.len() != samples * self.names.len() {
            let problem = format!("{} for {samples} samples and {} names", self.labels.len(), self.names.len());
            return Err(Error::argument("labels", problem, "pass whole rows of at least one label"));
        }
        Ok(samples)
    }
}

/// Losses of an epoch: means over samples and labels.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct EpochLosses {
    /// From 1.
    pub epoch: usize,
    /// Mean loss of the epoch's steps, each before its update.
    pub train: f32,
    /// Loss of the validation samples after the epoch, where there are some.
    pub validation: Option<f32>,
}

/// A trained layer. See the module's description.
#[derive(Clone, Debug, PartialEq)]
pub struct LinearProbe {
    /// Names of the labels.
    pub names: Vec<String>,
    /// Values of one sample's features.
    pub dim: usize,
    /// `[names, dim]`.
    pub weights: Vec<f32>,
    /// `[names]`.
    pub bias: Vec<f32>,
    /// What stands before the layer.
    pub head: Head,
    /// The epoch whose weights these are, from 1.
    pub best_epoch: usize,
    /// Losses of all epochs.
    pub losses: Vec<EpochLosses>,
    /// Name of the encoder that the features are of.
    pub encoder: String,
    /// How it was trained, and on what.
    pub made: Provenance,
}

impl LinearProbe {
    /// Logits `[samples, names]` of features `[samples, dim]`; a logit's sigmoid is the probability of presence.
    ///
    /// # Errors
    /// No features, another number of values, a value that is not finite.
    pub fn logits(&self, device: &Device, features: &[f32]) -> Result<Vec<f32>> {
        rows::check("features", features, self.dim)?;
        let x = upload(device, features, self.dim, self.head)?;
        let classes = self.names.len();
        let weight = Tensor::from_slice(device, [classes, self.dim], DType::F32, &self.weights)?;
        let bias = Tensor::from_slice(device, [classes], DType::F32, &self.bias)?;
        Linear { method: Method::default_for(device) }.forward(&[&x, &weight, &bias])?.0.to_vec()
    }

    /// Reads and verifies a file.
    ///
    /// # Errors
    /// A file that is absent, of another format, cut short or changed; a label twice; tensors of other shapes; values that are not
    /// finite; provenance of other content.
    pub fn read(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let archive = Archive::read(path, FORMAT, "probe", ADVICE)?;
        let refuse = |problem: String| Error::file(path, problem, ADVICE);
        let ((of_weight, weights), (of_bias, bias)) = (archive.f32("weight")?, archive.f32("bias")?);
        let names: Vec<String> = archive.get_json("names")?;
        let &[labels, dim] = of_weight else { return Err(refuse(format!("weight is {of_weight:?}, not [labels, d]"))) };
        if labels != names.len() || of_bias != [labels] {
            let problem = format!("weight is {of_weight:?} and bias {of_bias:?} for {} labels", names.len());
            return Err(refuse(problem));
        }
        let head = serde_json::from_value(json!(archive.get("head")?))
            .map_err(|_| refuse("its head is neither linear nor relu-dropout".into()))?;
        let probe = LinearProbe {
            names,
            dim,
            weights,
            bias,
            head,
            best_epoch: archive.get_json("best_epoch")?,
            losses: archive.get_json("losses")?,
            encoder: archive.get("encoder")?.to_string(),
            made: Provenance::default(),
        };
        probe.validate().map_err(|e| Error::file(path, e.to_string(), ADVICE))?;
        let made = Provenance::read(&archive, &probe.digest())?.unwrap_or_default();
        Ok(LinearProbe { made, ..probe })
    }

    /// Writes the file, whole or not at all; equal probes give equal bytes.
    ///
    /// # Errors
    /// Content that [`Self::read`] would refuse; a file that cannot be written.
    pub fn write(&self, path: impl AsRef<Path>) -> Result<()> {
        self.validate()?;
        let mut archive = Writer::new(FORMAT);
        archive.set("names", json!(self.names).to_string());
        archive.set("encoder", self.encoder.as_str());
        archive.set("head", json!(self.head).as_str().unwrap_or_default());
        archive.set("best_epoch", self.best_epoch.to_string());
        archive.set("losses", json!(self.losses).to_string());
        self.provenance().record(&mut archive);
        archive.put_f32("weight", &[self.names.len(), self.dim], &self.weights);
        archive.put_f32("bias", &[self.names.len()], &self.bias);
        archive.write(path.as_ref())
    }

    /// What the probe is, and how it was trained.
    pub fn provenance(&self) -> Provenance {
        self.made.holding(self.digest(), 0)
    }

    /// BLAKE3 of names, encoder, head and weights.
    fn digest(&self) -> String {
        let mut content = Content::of("probe").and(&self.encoder).and(json!(self.head).to_string());
        self.names.iter().for_each(|name| content.add(name));
        content.add_f32(&self.weights);
        content.add_f32(&self.bias);
        content.digest()
    }

    fn validate(&self) -> Result<()> {
        let refuse = |problem: String, hint: &str| Err(Error::argument("probe", problem, hint));
        if self.encoder.is_empty() {
            return refuse("its encoder is empty".into(), "say where the features come from");
        }
        if let Some(name) = rows::first_repeated(&self.names) {
            return refuse(format!("the label {name:?} stands twice"), "give each label one row");
        }
        let found = rows::check("weight", &self.weights, self.dim)?;
        rows::check("bias", &self.bias, 1)?;
        if found != self.names.len() || self.bias.len() != found {
            let problem =
                format!("{found} rows of weights and {} biases for {} labels", self.bias.len(), self.names.len());
            return refuse(problem, "pass one a label");
        }
        Ok(())
    }
}

/// Features on a device, behind the head's ReLU.
fn upload(device: &Device, features: &[f32], dim: usize, head: Head) -> Result<Tensor> {
    let features = Tensor::from_slice(device, [features.len() / dim, dim], DType::F32, features)?;
    match head {
        Head::Linear => Ok(features),
        Head::ReluDropout => Ok(Relu.forward(&[&features])?.0),
    }
}
