//! Matrix products: `MatMul` and `Linear`.

use std::sync::Once;

use crate::autograd::{Gradients, Op};
use crate::device::Device;
pub use crate::kernels::gemm::Precision;
use crate::kernels::gemm::{self as kernel, GemmCall, Variant};
use crate::kernels::{DType, DevicePtr, Write};
use crate::ops::pointwise::cast;
use crate::tensor::{Shape, Tensor};
use crate::{Error, Result};

/// Who computes a matrix product or a convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Backend {
    /// The vendor's library: cuBLASLt on CUDA, the `matrixmultiply` crate and products of our own where a side is narrow on the host.
    Library,
    /// Our fastest kernels.
    Own,
    /// Our readable reference kernels.
    Naive,
}

impl Backend {
    /// The library where it can be loaded, else our kernels. The first time that these stand in, a warning is logged.
    pub fn default_for(device: &Device) -> Self {
        match device.backend().library() {
            Ok(()) => Backend::Library,
            Err(why) => {
                static SAID: Once = Once::new();
                SAID.call_once(|| tracing::warn!("{why}; until then our own kernels compute matrix products"));
                Backend::Own
            }
        }
    }

    /// Reads `library`, `own` or `naive`.
    pub fn parse(text: &str) -> Result<Self> {
        match text {
            "library" => Ok(Backend::Library),
            "own" => Ok(Backend::Own),
            "naive" => Ok(Backend::Naive),
            _ => Err(Error::argument("backend", format!("`{text}` is not one"), "use library, own or naive")),
        }
    }
}

/// A matrix as an operand: its tensor (any shape, read as `rows` x `columns`, row-major) and whether to transpose it.
#[derive(Clone, Copy)]
pub struct Operand<'a> {
    /// The elements.
    pub tensor: &'a Tensor,
    /// As stored.
    pub rows: usize,
    /// As stored.
    pub columns: usize,
    /// Whether the product takes its transpose.
    pub transpose: bool,
}

impl<'a> Operand<'a> {
    /// A tensor read as a matrix whose rows are its last axis.
    pub fn new(tensor: &'a Tensor, transpose: bool) -> Self {
        let columns = tensor.shape().last().copied().unwrap_or(1);
        let rows = tensor.shape().iter().rev().skip(1).product();
        Operand { tensor, rows, columns, transpose }
    }

    /// Rows and columns as the product sees them.
    fn size(&self) -> (usize, usize) {
        if self.transpose { (self.columns, self.rows) } else { (self.rows, self.columns) }
    }
}

/// How a product is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Method {
    /// Who computes it.
    pub backend: Backend,
    /// Arithmetic on f32 operands.
    pub precision: Precision,
}

impl Method {
    /// The device's default backend in full f32.
    pub fn default_for(device: &Device) -> Self {
        Method { backend: Backend::default_for(device), precision: Precision::F32 }
    }
}

/// `c = op(a) op(b) + bias`, or `c +=` that. `bias` has c's type; a and b have one type, c that type or f32.
///
/// # Errors
/// When sizes, types or devices do not fit together, or the backend cannot run here.
pub fn product_into(
    a: Operand,
    b: Operand,
    bias: Option<&Tensor>,
    c: &Tensor,
    write: Write,
    method: Method,
) -> Result<()> {
    let ((m, k), (rows, n)) = (a.size(), b.size());
    let (device, dtype) = (a.tensor.device(), a.tensor.dtype());
    if k != rows || c.numel() != m * n || a.tensor.numel() != m * k || b.tensor.numel() != k * n {
        return Err(Error::argument(
            "matrix product",
            format!("[{m}, {k}] times [{rows}, {n}] into {c:?}"),
            "pass operands whose inner sizes agree",
        ));
    }
    b.tensor.expect("second operand", device, b.tensor.shape(), dtype)?;
    if dtype == DType::F32 || c.dtype() == DType::F32 {
        c.expect("product", device, c.shape(), DType::F32)?;
    }
    c.expect("product", device, c.shape(), c.dtype())?;
    c.expect_writable("product")?;
    if let Some(bias) = bias {
        bias.expect("bias", device, [n], c.dtype())?;
    }
    if m == 0 || n == 0 {
        return Ok(());
    }
    let call = GemmCall {
        dtype,
        out: c.dtype(),
        precision: method.precision,
        a: a.tensor.ptr(),
        b: b.tensor.ptr(),
        bias: bias.map_or(DevicePtr::NULL, Tensor::ptr),
        c: c.ptr(),
        m,
        n,
        k,
        transpose_a: a.transpose,
        transpose_b: b.transpose,
        alpha: 1.0,
        write,
    };
    if method.backend == Backend::Library && k > 0 {
        device.backend().library()?;
        // Safety: live tensors of the sizes and types just checked; c is a destination, which overlaps no operand.
        if unsafe { device.backend().library_gemm(&call)? } {
            return Ok(());
        }
        let (a, b) = (call.dtype.name(), call.out.name());
        tracing::debug!(
            "the library has no algorithm for [{m}, {k}] times [{k}, {n}], {a} to {b}: our kernel computes it"
        );
    }
    // Nor is an empty sum a product for a library: our kernels write the bias.
    let variant = if method.backend == Backend::Naive { Variant::Naive } else { Variant::Tiled };
    let elements = kernel::gemm_workspace(device.launcher(), variant, &call)?;
    let workspace = Tensor::empty(device, [elements], DType::F32, "partial products")?;
    // Safety: as above, and the workspace has the size asked for.
    unsafe { kernel::gemm(device.launcher(), variant, &call, workspace.ptr()) }
}

/// The tensor, or, when it is a view that does not start at a multiple of 16 bytes, a copy that does.
pub(super) fn aligned(x: &Tensor) -> Result<Tensor> {
    if x.ptr().0 % 16 == 0 {
        return Ok(x.clone());
    }
    let copy = Tensor::empty(x.device(), x.shape(), x.dtype(), "aligned copy")?;
    copy.copy_from(x)?;
    Ok(copy)
}

/// `out[j] = sum over i of x[i, j]`, or `out +=` that: the gradient of a bias added to every row.
pub fn column_sum_into(x: &Tensor, out: &Tensor, write: Write) -> Result<()> {
    let Operand { rows, columns, .. } = Operand::new(x, false);
    out.expect("column sum", x.device(), [columns], out.dtype())?;
    out.expect_writable("column sum")?;
    let x = &aligned(x)?;
    let workspace =
        Tensor::empty(x.device(), [kernel::column_sum_workspace(rows, columns)], DType::F32, "column sums")?;
    let (launcher, size) = (x.device().launcher(), [rows, columns]);
    // Safety: live tensors of the sizes the kernels ask for.
    unsafe { kernel::column_sum(launcher, x.dtype(), x.ptr(), size, out.dtype(), out.ptr(), write, workspace.ptr()) }
}

/// C [M, N] = op(A) op(B), op the transpose where asked for. Inputs: A [M, K] (or [K, M]), B [K, N] (or [N, K]).
#[derive(Clone, Copy, Debug)]
pub struct MatMul {
    /// A is stored [K, M].
    pub transpose_a: bool,
    /// B is stored [N, K].
    pub transpose_b: bool,
    /// How it and its gradients are computed.
    pub method: Method,
}

impl Op for MatMul {
    /// A and B.
    type Context = (Tensor, Tensor);

    fn name(&self) -> &'static str {
        "matmul"
    }

    fn forward(&self, inputs: &[&Tensor]) -> Result<(Tensor, Self::Context)> {
        inputs[0].dims::<2>("first operand")?;
        inputs[1].dims::<2>("second operand")?;
        let (a, b) = (Operand::new(inputs[0], self.transpose_a), Operand::new(inputs[1], self.transpose_b));
        let c = Tensor::empty(inputs[0].device(), [a.size().0, b.size().1], inputs[0].dtype(), "product")?;
        product_into(a, b, None, &c, Write::Overwrite, self.method)?;
        Ok((c, (inputs[0].clone(), inputs[1].clone())))
    }

    fn backward(&self, (a, b): &Self::Context, dc: &Tensor, gradients: &mut Gradients) -> Result<()> {
        let (ta, tb) = (self.transpose_a, self.transpose_b);
        if let Some((da, write)) = gradients.wanted(0)? {
            // dA = dC op(B)^T, stored transposed when A is: op(B) dC^T.
            let (left, right) = if ta {
                (Operand::new(b, tb), Operand::new(dc, true))
            } else {
                (Operand::new(dc, false), Operand::new(b, !tb))
            };
            product_into(left, right, None, &da, write, self.method)?;
        }
        if let Some((db, write)) = gradients.wanted(1)? {
            let (left, right) = if tb {
                (Operand::new(dc, true), Operand::new(a, ta))
            } else {
                (Operand::new(a, !ta), Operand::new(dc, false))
            };
            product_into(left, right, None, &db, write, self.method)?;
        }
        Ok(())
    }
}

/// y `[.., N]` = x `[.., K]` weight^T + bias. Inputs: x, weight `[N, K]`, and, where there is one, bias `[N]`.
///
/// x is f32 or bf16 and y has its type; the parameters may be of the same type or f32 (they are then rounded to bf16 for
/// the product, while their gradients are formed in f32).
#[derive(Clone, Copy, Debug)]
pub struct Linear {
    /// How it and its gradients are computed.
    pub method: Method,
}

impl Op for Linear {
    /// x and the weight in x's type.
    type Context = (Tensor, Tensor);

    fn name(&self) -> &'static str {
        "linear"
    }

    fn forward(&self, inputs: &[&Tensor]) -> Result<(Tensor, Self::Context)> {
        let (x, bias) = (inputs[0], inputs.get(2));
        let [n, k] = inputs[1].dims("weight")?;
        let weight = cast(inputs[1], x.dtype())?;
        let mut shape: Vec<usize> = x.shape().to_vec();
        match shape.last_mut() {
            Some(last) if *last == k => *last = n,
            _ => {
                return Err(Error::argument(
                    "linear",
                    format!("the last axis of {x:?} is not the {k} of the weight {weight:?}"),
                    "pass x [.., K] and weight [N, K]",
                ));
            }
        }
        let y = Tensor::empty(x.device(), Shape::from(shape), x.dtype(), "activation")?;
        let bias = bias.map(|bias| cast(bias, x.dtype())).transpose()?;
        let (a, b) = (Operand::new(x, false), Operand::new(&weight, true));
        product_into(a, b, bias.as_ref(), &y, Write::Overwrite, self.method)?;
        Ok((y, (x.clone(), weight)))
    }

    fn backward(&self, (x, weight): &Self::Context, dy: &Tensor, gradients: &mut Gradients) -> Result<()> {
        if let Some((dx, write)) = gradients.wanted(0)? {
            let (a, b) = (Operand::new(dy, false), Operand::new(weight, false));
            product_into(a, b, None, &dx, write, self.method)?;
        }
        if let Some((dw, write)) = gradients.wanted(1)? {
            let (a, b) = (Operand::new(dy, true), Operand::new(x, false));
            product_into(a, b, None, &dw, write, self.method)?;
        }
        if let Some((db, write)) = gradients.wanted(2)? {
            column_sum_into(dy, &db, write)?;
        }
        Ok(())
    }
}
