//! Element-wise kernels over flat arrays: geometry and launches. See `kernels/pointwise/pointwise.cu`.

use super::{DType, DevicePtr, Entry, Grid, Launcher, Write};
use crate::Result;

include!(concat!(env!("OUT_DIR"), "/abi/pointwise.rs"));

/// The kernels with one operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unary {
    /// max(x, 0)
    Relu,
    /// x Phi(x)
    Gelu,
    /// x
    Copy,
    /// x in the other storage type
    Cast,
}

/// out = f(a), or `out += f(a)`.
///
/// # Safety
/// `a` and `out` hold `n` elements of their storage types (`dtype` is that of `a`), aligned to 16 bytes, valid until the
/// launch has completed on the launcher's stream.
pub unsafe fn unary(
    launcher: &dyn Launcher,
    f: Unary,
    dtype: DType,
    a: DevicePtr,
    out: DevicePtr,
    n: usize,
    write: Write,
) -> Result<()> {
    let entry = match (f, dtype) {
        (Unary::Relu, _) => RELU_FORWARD.of(dtype),
        (Unary::Gelu, _) => GELU_FORWARD.of(dtype),
        (Unary::Copy, _) => COPY.of(dtype),
        (Unary::Cast, DType::F32) => CAST_F32.entry(),
        (Unary::Cast, DType::Bf16) => CAST_BF16.entry(),
    };
    // A cast moves as many elements a vector as its wider type holds.
    let width = if f == Unary::Cast { DType::F32 } else { dtype };
    unsafe { run(launcher, entry, width, [a, DevicePtr::NULL, out], n, 0.0, write) }
}

/// out = factor a, or `out += factor a`.
///
/// # Safety
/// As for [`unary`].
pub unsafe fn scale(
    launcher: &dyn Launcher,
    dtype: DType,
    factor: f32,
    a: DevicePtr,
    out: DevicePtr,
    n: usize,
    write: Write,
) -> Result<()> {
    unsafe { run(launcher, SCALE.of(dtype), dtype, [a, DevicePtr::NULL, out], n, factor, write) }
}

/// The kernels with two operands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Binary {
    /// a + b
    Add,
    /// Gradient of ReLU: a is its result, b the upstream gradient.
    ReluBackward,
    /// Gradient of GELU: a is its input, b the upstream gradient.
    GeluBackward,
}

/// out = f(a, b), or `out += f(a, b)`.
///
/// # Safety
/// As for [`unary`], for both operands.
#[allow(clippy::too_many_arguments)] // a launch is its operands
pub unsafe fn binary(
    launcher: &dyn Launcher,
    f: Binary,
    dtype: DType,
    a: DevicePtr,
    b: DevicePtr,
    out: DevicePtr,
    n: usize,
    write: Write,
) -> Result<()> {
    let kernel = match f {
        Binary::Add => &ADD_FORWARD,
        Binary::ReluBackward => &RELU_BACKWARD,
        Binary::GeluBackward => &GELU_BACKWARD,
    };
    unsafe { run(launcher, kernel.of(dtype), dtype, [a, b, out], n, 0.0, write) }
}

#[allow(clippy::too_many_arguments)]
unsafe fn run(
    launcher: &dyn Launcher,
    entry: &'static Entry,
    width: DType,
    [a, b, out]: [DevicePtr; 3],
    n: usize,
    factor: f32,
    write: Write,
) -> Result<()> {
    if n == 0 {
        return Ok(());
    }
    let tile = launcher.config(entry)?.tile;
    let per_block = match width {
        DType::F32 => tile[0],
        DType::Bf16 => tile[1],
    };
    let params = PointwiseParams { a, b, out, n: n as u64, factor, accumulate: write.flag() };
    unsafe { launcher.launch(entry, Grid::covering(n, per_block as usize), std::ptr::from_ref(&params).cast()) }
}
