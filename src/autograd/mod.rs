//! A define-by-run tape.
//!
//! A [`Tape`] either records or does not; that is the gradient mode, stated where the tape is made. Operators are applied
//! with [`Tape::apply`]; what a backward pass needs is the operator's own typed context, kept only while recording.
//! An operator with a gradient implements [`Op`], which has no default bodies: a missing gradient does not compile. One
//! without implements [`ForwardOp`], and applying it to a value that needs a gradient is an error.
//!
//! Gradients of values are overwritten by their first contribution and accumulated after that. Gradients of parameters
//! always accumulate (`+=`) into the tensor given with the parameter: zero it before a step.

use std::cell::RefCell;
use std::rc::Rc;

use crate::device::Device;
pub use crate::kernels::Write;
use crate::tensor::Tensor;
use crate::{Error, Result};

mod check;
mod recompute;
pub use check::{GradientReport, check_gradients};
pub use recompute::Run;

/// An operator with a gradient: inputs and one output.
pub trait Op {
    /// What the backward pass needs of the forward pass.
    type Context: 'static;

    /// The name in messages and profiles.
    fn name(&self) -> &'static str;

    /// The output and the context.
    fn forward(&self, inputs: &[&Tensor]) -> Result<(Tensor, Self::Context)>;

    /// Writes the gradient of each input that [`Gradients::wanted`] asks for, given that of the output.
    fn backward(&self, context: &Self::Context, upstream: &Tensor, gradients: &mut Gradients) -> Result<()>;
}

/// An operator without a gradient.
pub trait ForwardOp {
    /// The name in messages and profiles.
    fn name(&self) -> &'static str;
    /// The output.
    fn forward(&self, inputs: &[&Tensor]) -> Result<Tensor>;
}

/// Where a backward pass writes, input by input.
pub struct Gradients<'a> {
    nodes: &'a mut [Node],
    inputs: &'a [Option<usize>],
}

impl Gradients<'_> {
    /// The destination of input `index`'s gradient and how to write it, or `None` when nothing needs it or the input, an
    /// optional one, was not passed.
    pub fn wanted(&mut self, index: usize) -> Result<Option<(Tensor, Write)>> {
        let Some(&Some(node)) = self.inputs.get(index) else { return Ok(None) };
        self.nodes[node].destination().map(Some)
    }
}

type Backward = Box<dyn Fn(&Tensor, &mut Gradients) -> Result<()>>;

struct Node {
    name: &'static str,
    value: Value,
    gradient: Option<Tensor>,
    parameter: bool,
    inputs: Vec<Option<usize>>,
    backward: Option<Backward>,
}

/// What a gradient has to look like.
struct Value {
    device: Device,
    shape: crate::tensor::Shape,
    dtype: crate::tensor::DType,
}

impl Node {
    fn destination(&mut self) -> Result<(Tensor, Write)> {
        if let Some(gradient) = &self.gradient {
            return Ok((gradient.clone(), Write::Accumulate));
        }
        let gradient = Tensor::empty(&self.value.device, &self.value.shape, self.value.dtype, "gradient")?;
        self.gradient = Some(gradient.clone());
        Ok((gradient, Write::Overwrite))
    }
}

/// A value on a tape.
#[derive(Clone)]
pub struct Var {
    tensor: Tensor,
    node: Option<usize>,
}

impl Var {
    /// The value.
    pub fn tensor(&self) -> &Tensor {
        &self.tensor
    }

    /// Whether a backward pass would compute its gradient.
    pub fn needs_gradient(&self) -> bool {
        self.node.is_some()
    }

    /// The same value, cut off from the tape.
    pub fn detach(&self) -> Var {
        Var { tensor: self.tensor.clone(), node: None }
    }
}

/// The record of a forward pass. Clones share it.
#[derive(Clone)]
pub struct Tape {
    nodes: Rc<RefCell<Vec<Node>>>,
    recording: bool,
}

impl Tape {
    /// A tape that records.
    pub fn recording() -> Self {
        Tape { nodes: Rc::default(), recording: true }
    }

    /// A tape that does not: no context is kept, nothing needs a gradient.
    pub fn inference() -> Self {
        Tape { nodes: Rc::default(), recording: false }
    }

    /// Whether this tape records.
    pub fn is_recording(&self) -> bool {
        self.recording
    }

    /// A value without a gradient.
    pub fn constant(&self, tensor: &Tensor) -> Var {
        Var { tensor: tensor.clone(), node: None }
    }

    /// A value whose gradient [`Tape::backward`] computes.
    pub fn leaf(&self, tensor: &Tensor) -> Var {
        let node = self.recording.then(|| self.push("leaf", tensor, Vec::new(), None, None));
        Var { tensor: tensor.clone(), node }
    }

    /// A parameter: its gradient is added to `gradient`, which has the parameter's shape.
    pub fn parameter(&self, tensor: &Tensor, gradient: &Tensor) -> Var {
        let node = self.recording.then(|| self.push("parameter", tensor, Vec::new(), None, Some(gradient.clone())));
        Var { tensor: tensor.clone(), node }
    }

    fn push(
        &self,
        name: &'static str,
        tensor: &Tensor,
        inputs: Vec<Option<usize>>,
        backward: Option<Backward>,
        gradient: Option<Tensor>,
    ) -> usize {
        let value = Value { device: tensor.device().clone(), shape: tensor.shape().clone(), dtype: tensor.dtype() };
        let mut nodes = self.nodes.borrow_mut();
        nodes.push(Node { name, value, parameter: gradient.is_some(), gradient, inputs, backward });
        nodes.len() - 1
    }

    /// Applies an operator.
    pub fn apply<O: Op + 'static>(&self, op: O, inputs: &[&Var]) -> Result<Var> {
        let tensors: Vec<&Tensor> = inputs.iter().map(|v| &v.tensor).collect();
        let _range = crate::device::profiler_range(op.name());
        let (tensor, context) = op.forward(&tensors).map_err(|e| with_shapes(e, op.name(), &tensors))?;
        if inputs.iter().all(|v| v.node.is_none()) {
            return Ok(Var { tensor, node: None });
        }
        let name = op.name();
        let backward: Backward = Box::new(move |upstream, gradients| op.backward(&context, upstream, gradients));
        let node = self.push(name, &tensor, inputs.iter().map(|v| v.node).collect(), Some(backward), None);
        Ok(Var { tensor, node: Some(node) })
    }

    /// Applies an operator that has no gradient.
    ///
    /// # Errors
    /// When an input needs a gradient: the cut would otherwise be silent. [`Var::detach`] it if the cut is meant.
    pub fn apply_forward_only<O: ForwardOp>(&self, op: &O, inputs: &[&Var]) -> Result<Var> {
        let tensors: Vec<&Tensor> = inputs.iter().map(|v| &v.tensor).collect();
        if let Some(i) = inputs.iter().position(|v| v.node.is_some()) {
            return Err(Error::argument(
                op.name(),
                format!("input {i} needs a gradient, and the operator has none"),
                "detach the input if the gradient is meant to stop here",
            ));
        }
        let _range = crate::device::profiler_range(op.name());
        let tensor = op.forward(&tensors).map_err(|e| with_shapes(e, op.name(), &tensors))?;
        Ok(Var { tensor, node: None })
    }

    /// Computes the gradients of `output` (a scalar) and forgets the record.
    pub fn backward(&self, output: &Var) -> Result<LeafGradients> {
        if output.tensor.numel() != 1 {
            return Err(Error::argument(
                "backward",
                format!("the output {:?} is not a scalar", output.tensor),
                "pass its gradient with backward_from",
            ));
        }
        let one = Tensor::from_slice(output.tensor.device(), output.tensor.shape(), output.tensor.dtype(), &[1.0])?;
        self.backward_from(&[(output, &one)])
    }

    /// Computes the gradients of sum(output * upstream) over the given pairs and forgets the record.
    pub fn backward_from(&self, outputs: &[(&Var, &Tensor)]) -> Result<LeafGradients> {
        let mut nodes = std::mem::take(&mut *self.nodes.borrow_mut());
        for (output, upstream) in outputs {
            let node = output.node.ok_or_else(|| {
                Error::argument(
                    "backward",
                    "the output does not depend on anything that needs a gradient",
                    "make a leaf on a recording tape",
                )
            })?;
            upstream.expect(
                "upstream gradient",
                output.tensor.device(),
                output.tensor.shape(),
                output.tensor.dtype(),
            )?;
            let (destination, write) = nodes[node].destination()?;
            crate::ops::pointwise::copy_into(upstream, &destination, write)?;
        }
        for index in (0..nodes.len()).rev() {
            let (earlier, rest) = nodes.split_at_mut(index);
            let node = &mut rest[0];
            let Some(backward) = node.backward.take() else { continue };
            // Taken: an inner gradient is freed as soon as it has been used.
            let Some(upstream) = node.gradient.take() else { continue };
            let mut gradients = Gradients { nodes: earlier, inputs: &node.inputs };
            let _range = crate::device::profiler_range(node.name);
            backward(&upstream, &mut gradients).map_err(|e| with_shapes(e, node.name, &[&upstream]))?;
        }
        let leaves = nodes.into_iter().map(|node| if node.parameter { None } else { node.gradient }).collect();
        Ok(LeafGradients(leaves))
    }
}

/// The gradients of the leaves of a backward pass.
pub struct LeafGradients(Vec<Option<Tensor>>);

impl LeafGradients {
    /// The gradient of a leaf; `None` when the output does not depend on it.
    pub fn get(&self, leaf: &Var) -> Option<&Tensor> {
        self.0.get(leaf.node?)?.as_ref()
    }
}

/// Adds the operator and its shapes to a failed launch.
fn with_shapes(error: Error, op: &'static str, inputs: &[&Tensor]) -> Error {
    match error {
        Error::Launch { kernel, device, problem } => {
            let shapes: Vec<String> = inputs.iter().map(|t| format!("{t:?}")).collect();
            Error::Launch { kernel, device, problem: format!("{problem} (in {op} of {})", shapes.join(", ")) }
        }
        other => other,
    }
}
