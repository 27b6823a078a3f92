//! 2-D convolution over NHWC images.

use crate::Result;
use crate::autograd::{Gradients, Op};
use crate::device::Device;
use crate::kernels::conv2d::{self as kernel, Conv2dShape, Variant};
use crate::kernels::{DType, DevicePtr, Write};
use crate::ops::gemm::{Backend, Method, Operand, aligned, column_sum_into, product_into};
use crate::ops::pointwise::cast;
use crate::tensor::Tensor;

/// y [N, HO, WO, O] = x [N, H, W, C] convolved with weight [O, KH, KW, C] (cross-correlation, as in PyTorch), plus a
/// bias `[O]`. Inputs: x, weight, and, where there is one, the bias. Dilation 1, one group.
///
/// x is f32 or bf16 and y has its type; the parameters may be of the same type or f32 (they are then rounded to bf16 for
/// the product, while their gradients are formed in f32). Deterministic: sums have a fixed order.
///
/// The library backend writes the columns of a few images at a time and leaves the products to the library of
/// [`MatMul`](super::gemm::MatMul), on CUDA as on the host; a 1x1 filter with stride 1 needs no columns.
#[derive(Clone, Copy, Debug)]
pub struct Conv2d {
    /// Steps of the filter, both axes.
    pub stride: usize,
    /// Zeros on each side, both axes.
    pub padding: usize,
    /// How it and its gradients are computed.
    pub method: Method,
}

/// What the gradients of a convolution need: x, the weight in x's type, and the sizes.
pub struct Conv2dContext {
    x: Tensor,
    weight: Tensor,
    shape: Conv2dShape,
}

impl Op for Conv2d {
    type Context = Conv2dContext;

    fn name(&self) -> &'static str {
        "conv2d"
    }

    fn forward(&self, inputs: &[&Tensor]) -> Result<(Tensor, Self::Context)> {
        let (x, device) = (&aligned(inputs[0])?, inputs[0].device());
        let weight = cast(&aligned(inputs[1])?, x.dtype())?;
        weight.expect("weight", device, inputs[1].shape(), x.dtype())?;
        let shape = Conv2dShape::new(x.dims("image")?, weight.dims("weight")?, self.stride, self.padding)?;
        let bias = inputs.get(2).map(|bias| cast(bias, x.dtype())).transpose()?;
        if let Some(bias) = &bias {
            bias.expect("bias", device, [shape.out_channels], x.dtype())?;
        }
        let [height, width] = shape.out_size;
        let y = Tensor::empty(device, [shape.images, height, width, shape.out_channels], x.dtype(), "activation")?;
        match variant(self.method) {
            None => forward_by_columns(&shape, x, &weight, bias.as_ref(), &y, self.method)?,
            Some(variant) => {
                let bias = bias.as_ref().map_or(DevicePtr::NULL, Tensor::ptr);
                // Safety: live tensors of one type and of the sizes in `shape`.
                unsafe {
                    let launcher = device.launcher();
                    kernel::forward(launcher, variant, x.dtype(), &shape, x.ptr(), weight.ptr(), bias, y.ptr())?
                }
            }
        }
        Ok((y, Conv2dContext { x: x.clone(), weight, shape }))
    }

    fn backward(&self, context: &Self::Context, dy: &Tensor, gradients: &mut Gradients) -> Result<()> {
        let Conv2dContext { x, weight, shape } = context;
        let (launcher, dtype) = (x.device().launcher(), x.dtype());
        if let Some((dx, write)) = gradients.wanted(0)? {
            match variant(self.method) {
                None => input_gradient_by_columns(shape, dy, weight, &dx, write, self.method)?,
                // Safety: live tensors of one type and of the sizes in `shape`.
                Some(variant) => unsafe {
                    kernel::input_gradient(launcher, variant, dtype, shape, dy.ptr(), weight.ptr(), dx.ptr(), write)?
                },
            }
        }
        if let Some((dw, write)) = gradients.wanted(1)? {
            // A bf16 gradient is rounded once, at the end.
            let whole = match dw.dtype() {
                DType::F32 => dw.clone(),
                DType::Bf16 => Tensor::empty(x.device(), dw.shape(), DType::F32, "weight gradient")?,
            };
            let whole_write = if dw.dtype() == DType::F32 { write } else { Write::Overwrite };
            match variant(self.method) {
                None => weight_gradient_by_columns(shape, x, dy, &whole, whole_write, self.method)?,
                Some(variant) => {
                    let elements = kernel::weight_gradient_workspace(launcher, variant, dtype, shape)?;
                    let workspace = Tensor::empty(x.device(), [elements], DType::F32, "partial weight gradients")?;
                    let (x, dy, dw, workspace) = (x.ptr(), dy.ptr(), whole.ptr(), workspace.ptr());
                    // Safety: live tensors of the types and of the sizes in `shape`.
                    unsafe {
                        kernel::weight_gradient(launcher, variant, dtype, shape, x, dy, dw, whole_write, workspace)?
                    }
                }
            }
            if dw.dtype() != DType::F32 {
                crate::ops::pointwise::cast_into(&whole, &dw, write)?;
            }
        }
        if let Some((db, write)) = gradients.wanted(2)? {
            column_sum_into(dy, &db, write)?;
        }
        Ok(())
    }
}

/// Our kernels for a method; `None` where the library computes.
fn variant(method: Method) -> Option<Variant> {
    match method.backend {
        Backend::Library => None,
        Backend::Own => Some(Variant::Tiled(method.precision)),
        Backend::Naive => Some(Variant::Naive),
    }
}

/// Bytes of columns that exist at a time, unless one image has more: on the host they should stay in the cache, on a GPU
/// be many enough to fill it.
fn column_budget(device: &Device) -> usize {
    if device.is_host() { 2 << 20 } else { 64 << 20 }
}

/// A few images of a convolution: their part of x and of y as matrices of pixels, and room for their columns.
struct Chunks<'a> {
    shape: &'a Conv2dShape,
    images: usize,
    columns: Option<Tensor>,
}

impl<'a> Chunks<'a> {
    fn new(shape: &'a Conv2dShape, device: &Device, dtype: DType) -> Result<Self> {
        if shape.is_pointwise() {
            return Ok(Chunks { shape, images: shape.images, columns: None });
        }
        let rows = shape.out_pixels();
        let bytes = rows.saturating_mul(shape.terms()).saturating_mul(dtype.size());
        let images = (column_budget(device) / bytes.max(1)).clamp(1, shape.images.max(1));
        // Equal chunks: a small last one would leave threads idle.
        let images = shape.images.div_ceil(shape.images.div_ceil(images).max(1));
        let columns = Tensor::empty(device, [images * rows, shape.terms()], dtype, "columns")?;
        Ok(Chunks { shape, images, columns: Some(columns) })
    }

    /// Calls `work` with the sizes, the first image and the columns of each chunk; without columns the matrix is x.
    fn each(&self, mut work: impl FnMut(&Conv2dShape, usize, Option<Tensor>) -> Result<()>) -> Result<()> {
        for first in (0..self.shape.images).step_by(self.images.max(1)) {
            let part = Conv2dShape { images: self.images.min(self.shape.images - first), ..*self.shape };
            let rows = part.images * part.out_pixels();
            let columns = self.columns.as_ref().map(|all| all.view(0, [rows, part.terms()])).transpose()?;
            work(&part, first, columns)?;
        }
        Ok(())
    }
}

/// The rows of a tensor [N, .., channels] that belong to `part.images` images from `first` on.
fn pixels(tensor: &Tensor, first: usize, images: usize, channels: usize) -> Result<Tensor> {
    let part = tensor.rows(first, images)?;
    part.reshape([part.numel() / channels.max(1), channels])
}

fn forward_by_columns(
    shape: &Conv2dShape,
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    y: &Tensor,
    method: Method,
) -> Result<()> {
    let weight = weight.reshape([shape.out_channels, shape.terms()])?;
    Chunks::new(shape, x.device(), x.dtype())?.each(|part, first, columns| {
        let columns = columns_of(part, x, first, columns)?;
        let y = pixels(y, first, part.images, part.out_channels)?;
        let (a, b) = (Operand::new(&columns, false), Operand::new(&weight, true));
        product_into(a, b, bias, &y, Write::Overwrite, method)
    })
}

/// Fills `columns` from the chunk of x, or is that chunk where no columns are needed.
fn columns_of(part: &Conv2dShape, x: &Tensor, first: usize, columns: Option<Tensor>) -> Result<Tensor> {
    let x = pixels(x, first, part.images, part.channels)?;
    let Some(columns) = columns else { return Ok(x) };
    // Safety: live tensors of one type and of the sizes in `part`.
    unsafe { kernel::im2col(x.device().launcher(), x.dtype(), part, x.ptr(), columns.ptr())? };
    Ok(columns)
}

fn input_gradient_by_columns(
    shape: &Conv2dShape,
    dy: &Tensor,
    weight: &Tensor,
    dx: &Tensor,
    write: Write,
    method: Method,
) -> Result<()> {
    let weight = weight.reshape([shape.out_channels, shape.terms()])?;
    Chunks::new(shape, dy.device(), DType::F32)?.each(|part, first, columns| {
        let dy = pixels(dy, first, part.images, part.out_channels)?;
        let dx = pixels(dx, first, part.images, part.channels)?;
        let (a, b) = (Operand::new(&dy, false), Operand::new(&weight, false));
        let Some(columns) = columns else { return product_into(a, b, None, &dx, write, method) };
        product_into(a, b, None, &columns, Write::Overwrite, method)?;
        // Safety: live tensors of one type and of the sizes in `part`.
        unsafe { kernel::col2im(dx.device().launcher(), dx.dtype(), part, columns.ptr(), dx.ptr(), write) }
    })
}

fn weight_gradient_by_columns(
    shape: &Conv2dShape,
    x: &Tensor,
    dy: &Tensor,
    dw: &Tensor,
    write: Write,
    method: Method,
) -> Result<()> {
    let dw = dw.reshape([shape.out_channels, shape.terms()])?;
    if shape.images == 0 && write == Write::Overwrite {
        return dw.fill_zero();
    }
    Chunks::new(shape, x.device(), x.dtype())?.each(|part, first, columns| {
        let columns = columns_of(part, x, first, columns)?;
        let dy = pixels(dy, first, part.images, part.out_channels)?;
        let write = if first == 0 { write } else { Write::Accumulate };
        product_into(Operand::new(&dy, true), Operand::new(&columns, false), None, &dw, write, method)
    })
}
