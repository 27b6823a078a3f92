//! Element-wise operators: ReLU, GELU (erf), addition, casts, scaling.

use crate::autograd::{Gradients, Op};
use crate::kernels::pointwise::{self as kernel, Binary, Unary};
use crate::kernels::{DType, Write};
use crate::tensor::Tensor;
use crate::{Error, Result};

fn unary(f: Unary, x: &Tensor) -> Result<Tensor> {
    let y = Tensor::empty(x.device(), x.shape(), x.dtype(), "activation")?;
    // Safety: x and y are live tensors of one size and type.
    unsafe { kernel::unary(x.device().launcher(), f, x.dtype(), x.ptr(), y.ptr(), x.numel(), Write::Overwrite)? };
    Ok(y)
}

fn binary(f: Binary, a: &Tensor, b: &Tensor, out: &Tensor, write: Write) -> Result<()> {
    b.expect("second operand", a.device(), a.shape(), a.dtype())?;
    out.expect("destination", a.device(), a.shape(), a.dtype())?;
    out.expect_writable("destination")?;
    // Safety: three live tensors of one size and type.
    unsafe { kernel::binary(a.device().launcher(), f, a.dtype(), a.ptr(), b.ptr(), out.ptr(), a.numel(), write) }
}

/// Checks that the elements of `source` can be written one by one to `destination`: as many, in one device's memory, which
/// nobody else reads, and the two the same or apart.
fn check_elements(source: &Tensor, destination: &Tensor) -> Result<()> {
    destination.expect_writable("destination")?;
    if source.numel() != destination.numel() {
        let problem = format!("{source:?} into {destination:?}");
        return Err(Error::argument("destination", problem, "use tensors of one size"));
    }
    destination.expect("destination", source.device(), destination.shape(), destination.dtype())?;
    let range = |t: &Tensor| (t.ptr().0, t.ptr().0 + t.bytes() as u64);
    let ((a, a_end), (b, b_end)) = (range(source), range(destination));
    if a != b && a < b_end && b < a_end {
        return Err(Error::argument("destination", "overlaps the source", "copy through another tensor"));
    }
    Ok(())
}

fn check_copy(source: &Tensor, destination: &Tensor) -> Result<()> {
    if source.dtype() != destination.dtype() {
        let problem = format!("{source:?} into {destination:?}");
        return Err(Error::argument("destination", problem, "use tensors of one type, or cast"));
    }
    check_elements(source, destination)
}

/// `destination = source`, or `destination += source`, queued on the destination's handle. The shapes may differ.
///
/// # Errors
/// When numbers of elements, types or devices differ, the tensors overlap in part, or the destination's memory is shared.
pub fn copy_into(source: &Tensor, destination: &Tensor, write: Write) -> Result<()> {
    check_copy(source, destination)?;
    let (launcher, dtype, n) = (destination.device().launcher(), source.dtype(), source.numel());
    // Safety: two live tensors of one size and type in one device's memory.
    unsafe { kernel::unary(launcher, Unary::Copy, dtype, source.ptr(), destination.ptr(), n, write) }
}

/// `destination = factor source`, or `destination += factor source`, queued on the destination's handle.
///
/// # Errors
/// As for [`copy_into`].
pub fn scale_into(factor: f32, source: &Tensor, destination: &Tensor, write: Write) -> Result<()> {
    check_copy(source, destination)?;
    let (launcher, dtype, n) = (destination.device().launcher(), source.dtype(), source.numel());
    // Safety: as for `copy_into`.
    unsafe { kernel::scale(launcher, dtype, factor, source.ptr(), destination.ptr(), n, write) }
}

/// The tensor in another storage type (itself when it already has it); to bf16, rounded to nearest even.
pub fn cast(x: &Tensor, dtype: DType) -> Result<Tensor> {
    let y =
        if x.dtype() == dtype { return Ok(x.clone()) } else { Tensor::empty(x.device(), x.shape(), dtype, "cast")? };
    cast_into(x, &y, Write::Overwrite)?;
    Ok(y)
}

/// `y = x` in the storage type of y, or `y += x`, queued on y's handle. The shapes may differ.
///
/// # Errors
/// As for [`copy_into`], but that the types may differ.
pub fn cast_into(x: &Tensor, y: &Tensor, write: Write) -> Result<()> {
    if x.dtype() == y.dtype() {
        return copy_into(x, y, write);
    }
    check_elements(x, y)?;
    // Safety: two live tensors of one size, of the two types, in one device's memory.
    unsafe { kernel::unary(y.device().launcher(), Unary::Cast, x.dtype(), x.ptr(), y.ptr(), x.numel(), write) }
}

/// y = max(x, 0), any shape. NaN passes through, as in PyTorch.
#[derive(Clone, Copy, Debug)]
pub struct Relu;

impl Op for Relu {
    /// The output.
    type Context = Tensor;

    fn name(&self) -> &'static str {
        "relu"
    }

    fn forward(&self, inputs: &[&Tensor]) -> Result<(Tensor, Tensor)> {
        let y = unary(Unary::Relu, inputs[0])?;
        Ok((y.clone(), y))
    }

    fn backward(&self, y: &Tensor, dy: &Tensor, gradients: &mut Gradients) -> Result<()> {
        let Some((dx, write)) = gradients.wanted(0)? else { return Ok(()) };
        binary(Binary::ReluBackward, y, dy, &dx, write)
    }
}

/// y = x Phi(x) with the normal distribution function by erf (not the tanh approximation), any shape.
#[derive(Clone, Copy, Debug)]
pub struct Gelu;

impl Op for Gelu {
    /// The input.
    type Context = Tensor;

    fn name(&self) -> &'static str {
        "gelu"
    }

    fn forward(&self, inputs: &[&Tensor]) -> Result<(Tensor, Tensor)> {
        Ok((unary(Unary::Gelu, inputs[0])?, inputs[0].clone()))
    }

    fn backward(&self, x: &Tensor, dy: &Tensor, gradients: &mut Gradients) -> Result<()> {
        let Some((dx, write)) = gradients.wanted(0)? else { return Ok(()) };
        binary(Binary::GeluBackward, x, dy, &dx, write)
    }
}

/// y = a + b, equal shapes.
#[derive(Clone, Copy, Debug)]
pub struct Add;

impl Op for Add {
    type Context = ();

    fn name(&self) -> &'static str {
        "add"
    }

    fn forward(&self, inputs: &[&Tensor]) -> Result<(Tensor, ())> {
        let y = Tensor::empty(inputs[0].device(), inputs[0].shape(), inputs[0].dtype(), "sum")?;
        binary(Binary::Add, inputs[0], inputs[1], &y, Write::Overwrite)?;
        Ok((y, ()))
    }

    fn backward(&self, _: &(), dy: &Tensor, gradients: &mut Gradients) -> Result<()> {
        for input in 0..2 {
            if let Some((dx, write)) = gradients.wanted(input)? {
                copy_into(dy, &dx, write)?;
            }
        }
        Ok(())
    }
}

/// The value in another storage type; the gradient is cast back.
#[derive(Clone, Copy, Debug)]
pub struct Cast(pub DType);

impl Op for Cast {
    type Context = ();

    fn name(&self) -> &'static str {
        "cast"
    }

    fn forward(&self, inputs: &[&Tensor]) -> Result<(Tensor, ())> {
        Ok((cast(inputs[0], self.0)?, ()))
    }

    fn backward(&self, _: &(), dy: &Tensor, gradients: &mut Gradients) -> Result<()> {
        let Some((dx, write)) = gradients.wanted(0)? else { return Ok(()) };
        cast_into(dy, &dx, write)
    }
}

/// The same elements under another shape.
#[derive(Clone, Debug)]
pub struct Reshape(pub crate::tensor::Shape);

impl Op for Reshape {
    type Context = ();

    fn name(&self) -> &'static str {
        "reshape"
    }

    fn forward(&self, inputs: &[&Tensor]) -> Result<(Tensor, ())> {
        Ok((inputs[0].reshape(&self.0)?, ()))
    }

    fn backward(&self, _: &(), dy: &Tensor, gradients: &mut Gradients) -> Result<()> {
        let Some((dx, write)) = gradients.wanted(0)? else { return Ok(()) };
        copy_into(dy, &dx, write)
    }
}
