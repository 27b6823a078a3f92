//! One pass through a model.

use super::{BufferId, ParameterId, Parameters};
use crate::Result;
use crate::autograd::{Tape, Var};
use crate::ops::gemm::Method;
pub use crate::ops::norm::Mode;
use crate::ops::pointwise::Cast;
use crate::tensor::{DType, Tensor};

/// A pass through a model: its parameters, the tape, the mode and the storage type of activations.
pub struct Forward<'a> {
    /// Where operators are recorded.
    pub tape: Tape,
    /// Training or evaluation.
    pub mode: Mode,
    /// Storage type of activations and of the weights matrix products read.
    pub dtype: DType,
    /// Who computes matrix products and convolutions, and how precisely.
    pub method: Method,
    parameters: &'a Parameters,
}

impl<'a> Forward<'a> {
    /// A training pass that records, in f32.
    pub fn training(parameters: &'a Parameters) -> Self {
        Forward {
            tape: Tape::recording(),
            mode: Mode::Train,
            dtype: DType::F32,
            method: Method::default_for(parameters.device()),
            parameters,
        }
    }

    /// An evaluation pass that records nothing, in f32.
    pub fn evaluation(parameters: &'a Parameters) -> Self {
        Forward { tape: Tape::inference(), mode: Mode::Eval, ..Self::training(parameters) }
    }

    /// The same pass with batch norms in another mode.
    pub fn with_mode(self, mode: Mode) -> Self {
        Forward { mode, ..self }
    }

    /// The same pass on a tape that does not record: only values come of it.
    pub fn without_record(self) -> Self {
        Forward { tape: Tape::inference(), ..self }
    }

    /// The same pass as the repetition of one that was not recorded: what a training pass updates is left as it is.
    pub fn repeating(self) -> Self {
        let mode = if self.mode == Mode::Train { Mode::Recompute } else { self.mode };
        Forward { mode, ..self }
    }

    /// The same pass with activations stored as `dtype`.
    pub fn with_dtype(self, dtype: DType) -> Self {
        Forward { dtype, ..self }
    }

    /// The same pass with matrix products and convolutions computed another way.
    pub fn with_method(self, method: Method) -> Self {
        Forward { method, ..self }
    }

    /// A parameter in f32.
    pub fn parameter(&self, id: ParameterId) -> Result<Var> {
        Ok(self.tape.parameter(&self.parameters.value(id)?, &self.parameters.gradient(id)?))
    }

    /// A parameter in the storage type of activations, for matrix products; its gradient arrives in f32.
    pub fn weight(&self, id: ParameterId) -> Result<Var> {
        self.cast(&self.parameter(id)?)
    }

    /// A value in the storage type of activations.
    pub fn cast(&self, x: &Var) -> Result<Var> {
        if x.tensor().dtype() == self.dtype { Ok(x.clone()) } else { self.tape.apply(Cast(self.dtype), &[x]) }
    }

    /// A buffer.
    pub fn buffer(&self, id: BufferId) -> &Tensor {
        self.parameters.buffer(id)
    }
}
