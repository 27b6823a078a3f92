//! One pass through a model.

use serde::{Deserialize, Serialize};

use super::{BufferId, ParameterId, Parameters};
use crate::autograd::{Run, Tape, Var};
use crate::ops::gemm::Method;
use crate::ops::mlp::DropPath;
pub use crate::ops::norm::Mode;
use crate::ops::pointwise::Cast;
use crate::philox::Rng;
use crate::tensor::{DType, Tensor};
use crate::{Error, Result};

/// What a pass computes again in its backward pass rather than keep. Values and gradients do not depend on it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Recompute {
    /// Nothing.
    #[default]
    Nothing,
    /// The hidden layers of channel MLPs: one more matrix product each.
    Hidden,
    /// All of every block but its input, hidden layers included: one more forward pass of the blocks, and one more product each.
    Blocks,
}

/// Where the random decisions of a training pass come from: each is a function of the seed, the sample's place in the run and
/// its own place in the model, so that a pass can be repeated, in parts or after a resume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Draws {
    /// Of the run.
    pub seed: u64,
    /// From 0; below 2^32.
    pub epoch: u64,
    /// The place in the epoch's order of this pass's first sample; below 2^32.
    pub first: u64,
}

/// The Philox streams of drop-path: this one and those of the blocks after it.
const DROP_PATH_STREAM: u32 = 0x6470_0000;

/// A pass through a model: its parameters, the tape, the mode and the storage type of activations. Clones share the tape.
#[derive(Clone)]
pub struct Forward<'a> {
    /// Where operators are recorded.
    pub tape: Tape,
    /// Training or evaluation.
    pub mode: Mode,
    /// Storage type of activations and of the weights matrix products read.
    pub dtype: DType,
    /// Who computes matrix products and convolutions, and how precisely.
    pub method: Method,
    /// What is computed again rather than kept.
    pub recompute: Recompute,
    draws: Option<Draws>,
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
            recompute: Recompute::Nothing,
            draws: None,
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

    /// The same pass, computing again rather than keeping.
    pub fn with_recompute(self, recompute: Recompute) -> Self {
        Forward { recompute, ..self }
    }

    /// The same pass with the source of its random decisions, which a model with drop-path needs in training.
    pub fn with_draws(self, draws: Draws) -> Self {
        Forward { draws: Some(draws), ..self }
    }

    /// y = part(x), where `part` is a block of a model: the unit that [`Recompute::Blocks`] computes again.
    pub fn block(&self, x: &Var, part: impl Fn(&Forward, &Var) -> Result<Var> + 'static) -> Result<Var> {
        if self.recompute != Recompute::Blocks || !self.tape.is_recording() {
            return part(self, x);
        }
        let Forward { mode, dtype, method, draws, .. } = *self;
        let parameters = self.parameters.clone();
        self.tape.recompute("recomputed block", &[x], move |tape, inputs, run| {
            let (tape, recompute, parameters) = (tape.clone(), Recompute::Hidden, &parameters);
            let pass = Forward { tape, mode, dtype, method, recompute, draws, parameters };
            part(&if run == Run::Again { pass.repeating() } else { pass }, &inputs[0])
        })
    }

    /// Drop-path of block `block` at `rate` for `samples` samples; `None` where nothing is dropped.
    ///
    /// # Errors
    /// In training without [`Forward::with_draws`].
    pub fn drop_path(&self, rate: f32, block: usize, samples: usize) -> Result<Option<DropPath>> {
        if rate == 0.0 || self.mode == Mode::Eval {
            return Ok(None);
        }
        let draws = self.draws.ok_or_else(|| {
            Error::argument("drop_path", "nothing says where decisions are drawn from", "call Forward::with_draws")
        })?;
        let keeps = |sample: u64| {
            let index = (draws.epoch << 32) | (draws.first + sample);
            !Rng::new(draws.seed, index, DROP_PATH_STREAM + block as u32).chance(rate)
        };
        Ok(Some(DropPath { keep: (0..samples as u64).map(keeps).collect(), factor: 1.0 / (1.0 - rate) }))
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
