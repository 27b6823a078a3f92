//! Golden files: an operator or a model against stored reference outputs and gradients.
//!
//! The format is described in `tests/golden/README.md`. Someone with PyTorch and nothing of ours can write such a file and
//! verify a kernel with `x2ct check FILE`.

use std::collections::BTreeMap;
use std::path::Path;

use safetensors::{Dtype, SafeTensors};
use serde::{Deserialize, Serialize};

use crate::device::Device;
use crate::tensor::Shape;
use crate::{Error, Result};

mod imaging;
mod layout;
mod models;
mod operators;
mod trajectory;

const FORMAT: &str = "x2ct-golden-1";

/// How far a tensor may be from its reference.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Tolerance {
    /// ||x - r|| / ||r||.
    pub rel_l2: f64,
    /// For gradients that are zero but for rounding: largest difference, as a share of the case's largest gradient.
    pub atol_of_max_grad: f64,
    /// For outputs: largest difference.
    pub atol: f64,
    /// For trajectories: relative difference of a loss.
    pub loss: f64,
    /// For trajectories: how many spreads of the reference backends the free run may be away.
    pub spreads: f64,
}

/// One golden file.
pub struct Case {
    /// The file's name without extension.
    pub name: String,
    /// The operation.
    pub op: String,
    /// Its attributes.
    pub attrs: serde_json::Map<String, serde_json::Value>,
    /// `train`, `eval` or empty.
    pub mode: String,
    /// How close is close enough.
    pub tol: Tolerance,
    /// Every tensor, PyTorch's layout.
    pub tensors: BTreeMap<String, (Shape, Vec<f32>)>,
    file: std::path::PathBuf,
}

/// One compared tensor.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// The case.
    pub case: String,
    /// The operation.
    pub op: String,
    /// The tensor.
    pub tensor: String,
    /// Largest absolute difference.
    pub max_abs: f64,
    /// ||x - r|| / ||r||.
    pub rel_l2: f64,
    /// Whether it is within the tolerance.
    pub pass: bool,
}

/// What an implementation computed, by the names of the golden format.
pub(crate) type Computed = BTreeMap<String, Vec<f32>>;

impl Case {
    /// Reads a golden file.
    pub fn read(path: &Path) -> Result<Self> {
        const HINT: &str = "see tests/golden/README.md for the format";
        let refuse = |problem: String| Error::file(path, problem, HINT);
        let bytes = std::fs::read(path).map_err(|e| Error::io(path, "read", &e))?;
        let broken = |e| refuse(format!("is not a whole safetensors file ({e})"));
        let (_, header) = SafeTensors::read_metadata(&bytes).map_err(broken)?;
        let metadata = header.metadata().clone().unwrap_or_default();
        let text = |key: &str| metadata.get(key).map_or("", String::as_str);
        if text("format") != FORMAT {
            return Err(refuse(format!("has format {:?}, not {FORMAT:?}", text("format"))));
        }
        let json = |key: &str| match text(key) {
            "" => "{}",
            other => other,
        };
        let attrs = serde_json::from_str(json("attrs")).map_err(|e| refuse(format!("attrs: {e}")))?;
        let tol: Tolerance = serde_json::from_str(json("tol")).map_err(|e| refuse(format!("tol: {e}")))?;
        let file = SafeTensors::deserialize(&bytes).map_err(broken)?;
        let mut tensors = BTreeMap::new();
        for (name, view) in file.iter() {
            let data: Vec<f32> = match view.dtype() {
                Dtype::F32 => view.data().as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
                Dtype::I64 => view.data().as_chunks::<8>().0.iter().map(|b| i64::from_le_bytes(*b) as f32).collect(),
                other => return Err(refuse(format!("tensor {name} is {other:?}; the format has f32 and i64"))),
            };
            tensors.insert(name.to_string(), (Shape::from(view.shape()), data));
        }
        Ok(Case {
            name: path.file_stem().unwrap_or_default().to_string_lossy().into_owned(),
            op: text("op").into(),
            attrs,
            mode: text("mode").into(),
            tol,
            tensors,
            file: path.to_path_buf(),
        })
    }

    pub(crate) fn refuse(&self, problem: impl Into<String>) -> Error {
        Error::file(&self.file, problem, "see tests/golden/README.md for what this operation needs")
    }

    /// A tensor that the operation needs.
    pub(crate) fn tensor(&self, name: &str) -> Result<&(Shape, Vec<f32>)> {
        self.tensors.get(name).ok_or_else(|| self.refuse(format!("has no tensor {name}")))
    }

    /// An attribute; `default` where it is absent, an error where there is no default.
    pub(crate) fn attr<T: serde::de::DeserializeOwned>(&self, name: &str, default: Option<T>) -> Result<T> {
        match (self.attrs.get(name), default) {
            (Some(value), _) => serde_json::from_value(value.clone())
                .map_err(|e| self.refuse(format!("attribute {name} is {value}: {e}"))),
            (None, Some(default)) => Ok(default),
            (None, None) => Err(self.refuse(format!("has no attribute {name}"))),
        }
    }

    pub(crate) fn is_training(&self) -> bool {
        self.mode == "train"
    }

    /// The tensors named `prefix...`, without the prefix, as a `state_dict`.
    pub(crate) fn state_dict(&self, prefix: &str) -> crate::nn::StateDict {
        crate::nn::StateDict { tensors: self.tensors.clone() }.strip_prefix(prefix)
    }

    /// Runs the case on a device and compares everything it expects.
    pub fn run(&self, device: &Device) -> Result<Vec<Row>> {
        if self.op.starts_with("trajectory.") {
            return trajectory::run(self, device);
        }
        let computed =
            if self.op.starts_with("model.") { models::run(self, device)? } else { operators::run(self, device)? };
        Ok(self.compare(&computed))
    }

    fn compare(&self, computed: &Computed) -> Vec<Row> {
        let expected =
            self.tensors.iter().filter(|(name, _)| ["out.", "g.", "after."].iter().any(|p| name.starts_with(p)));
        let largest = self.tensors.iter().filter(|(name, _)| name.starts_with("g.")).flat_map(|(_, (_, data))| data);
        let largest = largest.fold(0.0f64, |m, &x| m.max(x.abs() as f64));
        expected
            .filter_map(|(name, (_, reference))| match computed.get(name) {
                Some(got) => Some(self.row(name, got, reference, largest)),
                // An inner stage is compared where it can be shown; the last output is never optional.
                None if name.starts_with("out.s") => None,
                None => Some(self.failed(name)),
            })
            .collect()
    }

    fn failed(&self, tensor: &str) -> Row {
        let (case, op, tensor) = (self.name.clone(), self.op.clone(), tensor.into());
        Row { case, op, tensor, max_abs: f64::INFINITY, rel_l2: f64::INFINITY, pass: false }
    }

    pub(crate) fn row(&self, tensor: &str, got: &[f32], reference: &[f32], largest_gradient: f64) -> Row {
        if got.len() != reference.len() || got.iter().any(|x| !x.is_finite()) {
            return self.failed(tensor);
        }
        let (max_abs, rel_l2) = distance(got, reference);
        let close_enough = if tensor.starts_with("g.") {
            max_abs <= self.tol.atol_of_max_grad * largest_gradient
        } else {
            tensor.starts_with("out.") && max_abs <= self.tol.atol
        };
        let (case, op) = (self.name.clone(), self.op.clone());
        Row { case, op, tensor: tensor.into(), max_abs, rel_l2, pass: rel_l2 <= self.tol.rel_l2 || close_enough }
    }
}

/// Largest absolute difference, and ||x - r|| / ||r||, in f64; 0 where both are zero.
pub(crate) fn distance(got: &[f32], reference: &[f32]) -> (f64, f64) {
    let (mut largest, mut difference, mut size) = (0.0f64, 0.0f64, 0.0f64);
    for (&x, &r) in got.iter().zip(reference) {
        let d = (x as f64 - r as f64).abs();
        largest = largest.max(d);
        difference += d * d;
        size += (r as f64).powi(2);
    }
    let relative = if difference == 0.0 { 0.0 } else { (difference / size).sqrt() };
    (largest, relative)
}
