//! Golden files: an operator or a model against stored reference outputs and gradients.
//!
//! The format is described in `tests/golden/README.md`. Someone with PyTorch and nothing of ours can write such a file and
//! verify a kernel with `x2ct check FILE`. A case cannot pass without a comparison: whatever a file holds that the operation
//! does not use (an attribute, a tolerance, a tensor) is an error, as is a reference that is not finite.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use crate::Result;
use crate::device::Device;
use crate::tensor::Shape;

mod case;
mod find;
mod imaging;
mod layout;
mod models;
mod operators;
mod trajectory;

pub use case::{Case, FORMAT};
pub use find::{Found, PassedOver};

/// One compared tensor.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// The file.
    pub file: String,
    /// The case.
    pub case: String,
    /// The operation.
    pub op: String,
    /// The tensor.
    pub tensor: String,
    /// Largest absolute difference; absent where nothing could be compared.
    pub max_abs: Option<f64>,
    /// ||x - r|| / ||r||, infinite (null as JSON) where r is all zeros and x is not; absent likewise.
    pub rel_l2: Option<f64>,
    /// What the tensor is measured by: `rel_l2` or `max_abs`, whichever is nearer to passing.
    pub measure: &'static str,
    /// The most that measure may be.
    pub limit: f64,
    /// The share of the limit that is used, at most 1 where the tensor passes; absent where nothing could be compared.
    pub margin: Option<f64>,
    /// Whether it is within the limit.
    pub pass: bool,
    /// Why it is not.
    pub reason: Option<String>,
}

/// The outcome of one case.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// One of each tensor that the file has a reference of.
    pub rows: Vec<Row>,
    /// Tensors that the operation computes and the file has no reference of.
    pub not_compared: Vec<String>,
}

/// What operations are for: of these, a case must have a reference of the first that its operation computes.
const RESULTS: [&str; 5] = ["out.embedding", "out.y", "out.loss", "out.image", "out.param"];

/// A tensor in PyTorch's order.
pub(crate) type Torch = (Shape, Vec<f32>);

/// What an implementation computed, by the names of the golden format.
pub(crate) type Computed = BTreeMap<String, Torch>;

/// The least that `atol` may always be, however small a reference is.
const ATOL_FLOOR: f64 = 1e-5;

impl Case {
    /// Runs the case on a device and compares everything it expects.
    ///
    /// # Errors
    /// All name the file and the field: an operation that there is not; attributes or tensors that it lacks, that are out of range
    /// or do not fit each other; attributes, tolerances and tensors that it does not use; a result, or gradients, that nothing would
    /// be compared with. Kernels that fail.
    pub fn run(&self, device: &Device) -> Result<Outcome> {
        let outcome = self.outcome(device).map_err(|e| e.of_file(&self.file))?;
        self.expect_all_used()?;
        Ok(outcome)
    }

    fn outcome(&self, device: &Device) -> Result<Outcome> {
        if self.op.starts_with("trajectory.") {
            return Ok(Outcome { rows: trajectory::run(self, device)?, not_compared: Vec::new() });
        }
        let mut computed =
            if self.op.starts_with("model.") { models::run(self, device)? } else { operators::run(self, device)? };
        self.count_batches(&mut computed)?;
        self.expect_references(&computed)?;
        Ok(Outcome { rows: self.compare(&computed)?, not_compared: self.not_compared(&computed) })
    }

    /// Refuses a case without a reference for what the operation is for, or for any gradient although one arrives and the case is not in
    /// evaluation mode, whose references may be of the forward pass alone.
    fn expect_references(&self, computed: &Computed) -> Result<()> {
        if let Some(result) = RESULTS.iter().find(|name| computed.contains_key(**name)) {
            self.tensor(result)?;
        }
        let first = |prefix: &str| self.names().find(|name| name.starts_with(prefix));
        let is_evaluation = self.is_training().is_ok_and(|training| !training);
        match (first("up."), first("g.")) {
            (Some(arriving), None) if !is_evaluation => {
                Err(self.fault(arriving, "is a gradient that arrives, and the file has none to compare with (`g.`)"))
            }
            _ => Ok(()),
        }
    }

    /// What was computed and the file has no reference of. Buffers that a case in evaluation mode leaves as they are do not count.
    fn not_compared(&self, computed: &Computed) -> Vec<String> {
        let (known, moves): (BTreeSet<&str>, _) = (self.names().collect(), self.is_training().unwrap_or(false));
        let counts = |name: &&String| !known.contains(name.as_str()) && (moves || !name.starts_with("after."));
        computed.keys().filter(counts).cloned().collect()
    }

    /// PyTorch counts the training passes beside a batch norm's running mean; nothing depends on it.
    fn count_batches(&self, computed: &mut Computed) -> Result<()> {
        const COUNTER: &str = "num_batches_tracked";
        let counters = self.names().filter_map(|name| name.strip_prefix("w.")?.strip_suffix(COUNTER));
        for norm in counters.filter(|norm| self.is_used(&format!("w.{norm}running_mean"))) {
            let (shape, count) = self.tensor(&format!("w.{norm}{COUNTER}"))?;
            let passes = if self.is_training()? { 1.0 } else { 0.0 };
            let after = count.iter().map(|n| n + passes).collect();
            computed.insert(format!("after.{norm}{COUNTER}"), (shape.clone(), after));
        }
        Ok(())
    }

    fn compare(&self, computed: &Computed) -> Result<Vec<Row>> {
        let largest = self.largest("g.");
        let expected = self.names().filter(|name| ["out.", "g.", "after."].iter().any(|p| name.starts_with(p)));
        expected
            .map(|name| self.row(name, computed.get(name).ok_or_else(|| self.absent(name, computed)), largest))
            .collect()
    }

    /// Why nothing was computed for an expected tensor.
    fn absent(&self, name: &str, computed: &Computed) -> String {
        let kind = name.split('.').next().unwrap_or_default();
        let known: Vec<&str> =
            computed.keys().map(String::as_str).filter(|k| k.split('.').next() == Some(kind)).collect();
        match (kind, &known[..]) {
            ("g", []) => "no gradient was computed: the file has no `up.` of any output".into(),
            (_, []) => format!("`{}` computes no such tensor", self.op),
            (_, known) => format!("`{}` computes no such tensor; it computes {}", self.op, known.join(", ")),
        }
    }

    /// The comparison of what was computed, or why nothing was, with a tensor of the file; `largest_gradient` is what
    /// `atol_of_max_grad` is a share of.
    pub(crate) fn row(&self, name: &str, got: Result<&Torch, String>, largest_gradient: f64) -> Result<Row> {
        let (shape, reference) = self.tensor(name)?;
        let of_gradients = self.tolerance("atol_of_max_grad") * largest_gradient;
        let absolute = match name.split('.').next() {
            Some("g") => of_gradients,
            Some("out") => self.absolute(name, reference)?,
            _ => 0.0,
        };
        let limits = [self.tolerance("rel_l2"), absolute];
        let got = got.and_then(|(found, got)| {
            if !layout::alike(found, shape) {
                return Err(format!("the shape is {found}, the reference's is {shape}"));
            }
            match got.iter().position(|x| !x.is_finite()) {
                Some(at) => Err(format!("element {at} of the shape {found} is {}", got[at])),
                None => Ok(got),
            }
        });
        Ok(match got {
            Ok(got) => self.judged(name, distance(got, reference), limits),
            Err(reason) => {
                Row { reason: Some(reason), ..self.judged(name, [f64::INFINITY; 2], limits).without_measures() }
            }
        })
    }

    /// `atol`, which must be small beside the reference.
    fn absolute(&self, name: &str, reference: &[f32]) -> Result<f64> {
        let atol = self.tolerance("atol");
        let largest = reference.iter().fold(0.0f64, |most, &x| most.max(f64::from(x.abs())));
        let most = (largest / 100.0).max(ATOL_FLOOR);
        if atol <= most {
            return Ok(atol);
        }
        let problem = format!("is {atol}, and {name} has values up to {largest:e}; it can be up to {most:e} there");
        Err(self.fault("tol.atol", problem))
    }

    /// A row of largest difference and relative L2 norm, and of the limits of the relative norm and of the largest difference.
    pub(crate) fn judged(&self, tensor: impl Into<String>, [max_abs, rel_l2]: [f64; 2], limits: [f64; 2]) -> Row {
        let used = |value: f64, limit: f64| if value == 0.0 { 0.0 } else { value / limit };
        let [by_norm, by_difference] = [used(rel_l2, limits[0]), used(max_abs, limits[1])];
        let (measure, limit, margin) = if by_norm <= by_difference {
            ("rel_l2", limits[0], by_norm)
        } else {
            ("max_abs", limits[1], by_difference)
        };
        // The comparison itself, not the quotient's, which is rounded.
        let pass = rel_l2 <= limits[0] || max_abs <= limits[1];
        let reason = (!pass).then(|| {
            let value = if measure == "rel_l2" { rel_l2 } else { max_abs };
            format!("{measure} is {value:.2e}, more than {limit:.2e}")
        });
        Row {
            file: self.file.to_string_lossy().into_owned(),
            case: self.name.clone(),
            op: self.op.clone(),
            tensor: tensor.into(),
            max_abs: Some(max_abs),
            rel_l2: Some(rel_l2),
            measure,
            limit,
            margin: Some(margin),
            pass,
            reason,
        }
    }
}

impl Row {
    /// Of a tensor that could not be compared.
    fn without_measures(self) -> Self {
        Row { max_abs: None, rel_l2: None, margin: None, ..self }
    }
}

/// Largest absolute difference, and ||x - r|| / ||r||, in f64; 0 where both are zero.
pub(crate) fn distance(got: &[f32], reference: &[f32]) -> [f64; 2] {
    let (mut largest, mut difference, mut size) = (0.0f64, 0.0f64, 0.0f64);
    for (&x, &r) in got.iter().zip(reference) {
        let d = (f64::from(x) - f64::from(r)).abs();
        largest = largest.max(d);
        difference += d * d;
        size += f64::from(r).powi(2);
    }
    [largest, if difference == 0.0 { 0.0 } else { (difference / size).sqrt() }]
}
