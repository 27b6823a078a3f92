//! Element-wise kernels over flat arrays: geometry and launches. See `kernels/pointwise.cu`.

use super::{DType, DevicePtr, Grid, Launcher, Write, kernels};
use crate::Result;

kernels! {
    family "pointwise" slot 0;

    params {
        /// Operands of an element-wise kernel.
        PointwiseParams {
            /// First operand, `n` elements.
            a: DevicePtr,
            /// Second operand, `n` elements, or null.
            b: DevicePtr,
            /// Result, `n` elements; may be one of the operands.
            out: DevicePtr,
            /// Elements.
            n: u64,
            /// Of `scale`.
            factor: f32,
            /// 1: `out += result`.
            accumulate: u32,
        }
    }

    kernels {
        /// y = max(a, 0); NaN passes through.
        RELU_FORWARD(PointwiseParams) = [relu_forward_f32, relu_forward_bf16];
        /// dx = b where a > 0: a is the forward result, b the upstream gradient.
        RELU_BACKWARD(PointwiseParams) = [relu_backward_f32, relu_backward_bf16];
        /// y = a Phi(a), Phi the normal distribution function by erf.
        GELU_FORWARD(PointwiseParams) = [gelu_forward_f32, gelu_forward_bf16];
        /// dx: a is the forward input, b the upstream gradient.
        GELU_BACKWARD(PointwiseParams) = [gelu_backward_f32, gelu_backward_bf16];
        /// y = a + b.
        ADD_FORWARD(PointwiseParams) = [add_forward_f32, add_forward_bf16];
        /// y = a.
        COPY(PointwiseParams) = [copy_f32, copy_bf16];
        /// From the storage type named to the other one.
        CAST(PointwiseParams) = [cast_f32_bf16, cast_bf16_f32];
        /// y = factor a.
        SCALE(PointwiseParams) = [scale_f32, scale_bf16];
    }
}

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
    let kernel = match f {
        Unary::Relu => &RELU_FORWARD,
        Unary::Gelu => &GELU_FORWARD,
        Unary::Copy => &COPY,
        Unary::Cast => &CAST,
    };
    // A cast moves as many elements a vector as its wider type holds.
    let width = if f == Unary::Cast { DType::F32 } else { dtype };
    unsafe { run(launcher, kernel, dtype, width, [a, DevicePtr::NULL, out], n, 0.0, write) }
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
    unsafe { run(launcher, &SCALE, dtype, dtype, [a, DevicePtr::NULL, out], n, factor, write) }
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
    unsafe { run(launcher, kernel, dtype, dtype, [a, b, out], n, 0.0, write) }
}

#[allow(clippy::too_many_arguments)]
unsafe fn run(
    launcher: &dyn Launcher,
    kernel: &super::Kernel<PointwiseParams>,
    dtype: DType,
    width: DType,
    [a, b, out]: [DevicePtr; 3],
    n: usize,
    factor: f32,
    write: Write,
) -> Result<()> {
    if n == 0 {
        return Ok(());
    }
    let tile = launcher.config(kernel.of(dtype))?.tile;
    let per_block = match width {
        DType::F32 => tile[0],
        DType::Bf16 => tile[1],
    };
    let params = PointwiseParams { a, b, out, n: n as u64, factor, accumulate: write.flag() };
    unsafe { kernel.launch(launcher, dtype, Grid::covering(n, per_block as usize), &params) }
}
