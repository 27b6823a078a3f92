//! Dropout whose mask is a function of seed, offset and place.

use crate::autograd::{Gradients, Op};
use crate::kernels::Write;
use crate::kernels::dropout::{self as kernel, DropoutParams};
use crate::tensor::Tensor;
use crate::{Error, Result};

/// y = x / (1 - p) where an element is kept and 0 where it is dropped, which happens to each with probability p by itself. Any
/// shape, f32 or bf16. In evaluation leave it out: the expectation of y is x.
///
/// The mask depends on seed, offset and the element's index in row-major order alone, so it is the same in f32 and bf16 and on
/// every device, and the backward pass draws it again: nothing is kept. Deterministic. NaN passes through, as in PyTorch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dropout {
    /// The probability of being dropped, from 0 to below 1.
    pub p: f32,
    /// The run's seed.
    pub seed: u64,
    /// What tells one use of a seed from another, such as the number of the step, with the layer in the upper bits: different
    /// offsets have independent masks.
    pub offset: u64,
}

impl Dropout {
    fn write(&self, x: &Tensor, y: &Tensor, write: Write) -> Result<()> {
        let params = DropoutParams {
            x: x.ptr(),
            y: y.ptr(),
            n: x.numel() as u64,
            accumulate: write.flag(),
            ..DropoutParams::new(self.p, self.seed, self.offset)
        };
        // Safety: two live tensors of one size and type, y a destination.
        unsafe { kernel::dropout(x.device().launcher(), x.dtype(), &params) }
    }
}

impl Op for Dropout {
    /// Nothing: the mask is drawn again.
    type Context = ();

    fn name(&self) -> &'static str {
        "dropout"
    }

    fn forward(&self, inputs: &[&Tensor]) -> Result<(Tensor, ())> {
        if !(0.0..1.0).contains(&self.p) {
            let problem = format!("p is {}", self.p);
            return Err(Error::argument("dropout", problem, "pass a probability from 0 to below 1"));
        }
        let x = inputs[0];
        let y = Tensor::empty(x.device(), x.shape(), x.dtype(), "activation")?;
        self.write(x, &y, Write::Overwrite)?;
        Ok((y, ()))
    }

    fn backward(&self, _: &(), dy: &Tensor, gradients: &mut Gradients) -> Result<()> {
        let Some((dx, write)) = gradients.wanted(0)? else { return Ok(()) };
        dx.expect("dropout gradient", dy.device(), dy.shape(), dy.dtype())?;
        self.write(dy, &dx, write)
    }
}
