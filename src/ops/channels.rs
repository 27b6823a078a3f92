//! A channel MLP over volumes `[N, C, D1, D2, D3]`: 1x1x1 convolution, bias with GELU, bias with layer scale and residual;
//! and the transpose that makes tokens of them.

use crate::autograd::{Gradients, Op};
use crate::kernels::channels::{self as kernel, ChannelsParams, Function, TransposeParams};
use crate::kernels::{DType, DevicePtr, Write};
use crate::ops::gemm::{Method, Operand, product_into};
use crate::ops::pointwise::{cast, copy_into};
use crate::tensor::{Shape, Tensor};
use crate::{Error, Result};

/// Samples, channels and voxels of a tensor `[N, C, ...]`.
pub(super) fn volumes(name: &'static str, x: &Tensor) -> Result<[usize; 3]> {
    match &x.shape()[..] {
        // Channels are blocks along y.
        &[n, c, ref volume @ ..] if c <= u16::MAX as usize => Ok([n, c, volume.iter().product()]),
        _ => Err(Error::argument(name, format!("x is {x:?}"), "pass [N, C, ...] with at most 65535 channels")),
    }
}

/// A 1x1x1 convolution without bias, as `torch.nn.Conv3d`: x `[N, I, ...]`, weight `[O, I]` (in any shape with that order of
/// elements) to `[N, O, ...]`. A matrix product a sample; no element changes its place.
///
/// x is f32 or bf16 and y has its type; the weight may be f32 (it is then rounded to bf16 for the product, while its
/// gradient is formed in f32). Deterministic.
#[derive(Clone, Copy, Debug)]
pub struct PointwiseConv {
    /// How it and its gradients are computed.
    pub method: Method,
}

impl PointwiseConv {
    fn sample(x: &Tensor, n: usize, [_, channels, voxels]: [usize; 3]) -> Result<Tensor> {
        x.view(n * channels * voxels, [channels, voxels])
    }
}

impl Op for PointwiseConv {
    /// x and the weight `[O, I]` in x's type.
    type Context = (Tensor, Tensor);

    fn name(&self) -> &'static str {
        "pointwise_conv"
    }

    fn forward(&self, inputs: &[&Tensor]) -> Result<(Tensor, Self::Context)> {
        let (x, weight) = (inputs[0], inputs[1]);
        let sizes @ [samples, channels, voxels] = volumes(self.name(), x)?;
        let outputs = weight.shape().first().copied().unwrap_or(0);
        if weight.numel() != outputs * channels || outputs == 0 {
            return Err(Error::argument(
                self.name(),
                format!("the weight {weight:?} does not take the {channels} channels of {x:?}"),
                "pass x [N, I, ...] and weight [O, I]",
            ));
        }
        let weight = cast(weight, x.dtype())?.reshape([outputs, channels])?;
        let mut shape = x.shape().clone();
        shape[1] = outputs;
        let y = Tensor::empty(x.device(), shape, x.dtype(), "activation")?;
        for n in 0..samples {
            let x = Self::sample(x, n, sizes)?;
            let y = Self::sample(&y, n, [samples, outputs, voxels])?;
            let (a, b) = (Operand::new(&weight, false), Operand::new(&x, false));
            product_into(a, b, None, &y, Write::Overwrite, self.method)?;
        }
        Ok((y, (x.clone(), weight)))
    }

    fn backward(&self, (x, weight): &Self::Context, dy: &Tensor, gradients: &mut Gradients) -> Result<()> {
        let sizes @ [samples, _, voxels] = volumes(self.name(), x)?;
        let outputs = [samples, weight.shape()[0], voxels];
        if let Some((dx, write)) = gradients.wanted(0)? {
            for n in 0..samples {
                let (dy, dx) = (Self::sample(dy, n, outputs)?, Self::sample(&dx, n, sizes)?);
                let (a, b) = (Operand::new(weight, true), Operand::new(&dy, false));
                product_into(a, b, None, &dx, write, self.method)?;
            }
        }
        if let Some((dw, write)) = gradients.wanted(1)? {
            for n in 0..samples {
                let (dy, x) = (Self::sample(dy, n, outputs)?, Self::sample(x, n, sizes)?);
                let (a, b) = (Operand::new(&dy, false), Operand::new(&x, true));
                let write = if n == 0 { write } else { Write::Accumulate };
                product_into(a, b, None, &dw, write, self.method)?;
            }
        }
        Ok(())
    }
}

/// y = GELU(x + bias), erf. Inputs: x `[N, C, ...]` f32 or bf16, bias `[C]` f32. Deterministic.
#[derive(Clone, Copy, Debug)]
pub struct BiasGelu;

impl Op for BiasGelu {
    /// x and the bias.
    type Context = [Tensor; 2];

    fn name(&self) -> &'static str {
        "bias_gelu"
    }

    fn forward(&self, inputs: &[&Tensor]) -> Result<(Tensor, Self::Context)> {
        let (x, bias) = (inputs[0], inputs[1]);
        let y = forward(self.name(), Function::Gelu, x, &[("bias", bias)], None)?;
        Ok((y, [x.clone(), bias.clone()]))
    }

    fn backward(&self, [x, bias]: &Self::Context, dy: &Tensor, gradients: &mut Gradients) -> Result<()> {
        let destinations = [gradients.wanted(0)?, gradients.wanted(1)?, None];
        backward(self.name(), Function::Gelu, x, [bias.ptr(), DevicePtr::NULL], dy, destinations)
    }
}

/// y = residual + gamma (x + bias): layer scale (Touvron et al. 2021) with the bias of the layer before it. Inputs: residual
/// and x `[N, C, ...]` f32 or bf16, gamma `[C]` and bias `[C]` f32. Deterministic.
#[derive(Clone, Copy, Debug)]
pub struct LayerScale;

impl Op for LayerScale {
    /// x, gamma and the bias.
    type Context = [Tensor; 3];

    fn name(&self) -> &'static str {
        "layer_scale"
    }

    fn forward(&self, inputs: &[&Tensor]) -> Result<(Tensor, Self::Context)> {
        let [residual, x, gamma, bias] = [inputs[0], inputs[1], inputs[2], inputs[3]];
        let y = forward(self.name(), Function::Scale, x, &[("bias", bias), ("gamma", gamma)], Some(residual))?;
        Ok((y, [x.clone(), gamma.clone(), bias.clone()]))
    }

    fn backward(&self, [x, gamma, bias]: &Self::Context, dy: &Tensor, gradients: &mut Gradients) -> Result<()> {
        if let Some((dr, write)) = gradients.wanted(0)? {
            copy_into(dy, &dr, write)?;
        }
        let destinations = [gradients.wanted(1)?, gradients.wanted(3)?, gradients.wanted(2)?];
        backward(self.name(), Function::Scale, x, [bias.ptr(), gamma.ptr()], dy, destinations)
    }
}

/// Matrices [B, R, C] transposed: [B, C, R], f32 or bf16. The input has any shape of as many elements. With R the channels
/// and C the voxels of volumes, tokens.
#[derive(Clone, Debug)]
pub struct Transpose {
    /// B, R and C.
    pub matrices: [usize; 3],
    /// The shape of the output, of B C R elements.
    pub output: Shape,
}

impl Transpose {
    fn write(&self, [batch, rows, columns]: [usize; 3], x: &Tensor, y: &Tensor, write: Write) -> Result<()> {
        let sizes = [batch, rows, columns].map(|n| n as u64);
        let [batch, rows, columns] = sizes;
        let params = TransposeParams { x: x.ptr(), y: y.ptr(), batch, rows, columns, accumulate: write.flag() };
        // Safety: live tensors of one type and batch * rows * columns elements each, y a destination.
        unsafe { kernel::transpose(x.device().launcher(), x.dtype(), &params) }
    }
}

impl Op for Transpose {
    /// The input's shape.
    type Context = Shape;

    fn name(&self) -> &'static str {
        "transpose"
    }

    fn forward(&self, inputs: &[&Tensor]) -> Result<(Tensor, Shape)> {
        let x = inputs[0];
        let n: usize = self.matrices.iter().product();
        if x.numel() != n || self.output.numel() != n {
            return Err(Error::argument(
                self.name(),
                format!("{x:?} as matrices {:?} to {}", self.matrices, self.output),
                "keep the number of elements",
            ));
        }
        let y = Tensor::empty(x.device(), &self.output, x.dtype(), "transposed")?;
        self.write(self.matrices, x, &y, Write::Overwrite)?;
        Ok((y, x.shape().clone()))
    }

    fn backward(&self, shape: &Shape, dy: &Tensor, gradients: &mut Gradients) -> Result<()> {
        let Some((dx, write)) = gradients.wanted(0)? else { return Ok(()) };
        dy.expect("transpose upstream gradient", dx.device(), &self.output, dx.dtype())?;
        dx.expect("transpose gradient", dx.device(), shape, dx.dtype())?;
        let [batch, rows, columns] = self.matrices;
        self.write([batch, columns, rows], dy, &dx, write)
    }
}

/// `vectors`: the bias, and the gamma of a scale.
fn forward(
    name: &'static str,
    function: Function,
    x: &Tensor,
    vectors: &[(&str, &Tensor)],
    residual: Option<&Tensor>,
) -> Result<Tensor> {
    let y = Tensor::empty(x.device(), Shape::from(x.shape()), x.dtype(), "activation")?;
    forward_into(name, function, x, vectors, residual, &y)?;
    Ok(y)
}

/// The same into y, which may be x.
pub(super) fn forward_into(
    name: &'static str,
    function: Function,
    x: &Tensor,
    vectors: &[(&str, &Tensor)],
    residual: Option<&Tensor>,
    y: &Tensor,
) -> Result<()> {
    let (device, dtype, sizes) = (x.device(), x.dtype(), volumes(name, x)?);
    for (what, vector) in vectors {
        vector.expect(&format!("{name} {what}"), device, [sizes[1]], DType::F32)?;
    }
    for other in residual.iter().chain([&y]) {
        other.expect(&format!("{name} residual or output"), device, x.shape(), dtype)?;
    }
    let pointer = |i: usize| vectors.get(i).map_or(DevicePtr::NULL, |(_, v)| v.ptr());
    let params = ChannelsParams {
        x: x.ptr(),
        r: residual.map_or(DevicePtr::NULL, Tensor::ptr),
        y: y.ptr(),
        bias: pointer(0),
        gamma: pointer(1),
        ..ChannelsParams::new(device.launcher(), dtype, sizes)?
    };
    // Safety: live tensors of the sizes just checked; y is a destination.
    unsafe { kernel::forward(device.launcher(), function, dtype, &params) }
}

/// Gradients of x, the bias and gamma.
fn backward(
    name: &'static str,
    function: Function,
    x: &Tensor,
    [bias, gamma]: [DevicePtr; 2],
    dy: &Tensor,
    destinations: [Option<(Tensor, Write)>; 3],
) -> Result<()> {
    let (device, dtype) = (x.device(), x.dtype());
    dy.expect(&format!("{name} upstream gradient"), device, x.shape(), dtype)?;
    let pointer = |i: usize| destinations[i].as_ref().map_or(DevicePtr::NULL, |(tensor, _)| tensor.ptr());
    let flag = |i: usize| destinations[i].as_ref().map_or(0, |(_, write)| write.flag() << i);
    let params = ChannelsParams::new(device.launcher(), dtype, volumes(name, x)?)?;
    let partial = Tensor::empty(device, [params.partial_bytes() / 4], DType::F32, "channel sums")?;
    let params = ChannelsParams {
        x: x.ptr(),
        g: dy.ptr(),
        dx: pointer(0),
        bias,
        gamma,
        dbias: pointer(1),
        dgamma: pointer(2),
        partial: partial.ptr(),
        accumulate: flag(0) | flag(1) | flag(2),
        ..params
    };
    // Safety: live tensors of the forward pass and destinations of the inputs' shapes.
    unsafe { kernel::backward(device.launcher(), function, dtype, &params) }
}
