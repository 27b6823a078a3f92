//! The decomposed 3-D convolution of DCFormer.

use crate::autograd::{Gradients, Op};
use crate::device::Device;
pub use crate::kernels::decomp_conv::Variant;
use crate::kernels::decomp_conv::{self as kernel, DecompConvParams, DecompConvShape, NormKind};
use crate::kernels::{DType, DevicePtr, Write};
use crate::ops::gemm::Method;
use crate::ops::norm::{Mode, RunningStats};
use crate::tensor::Tensor;
use crate::{Error, Result};

mod dense;

/// Which input channels an output channel sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Groups {
    /// Its own; as many outputs as inputs.
    Depthwise,
    /// All.
    Dense,
}

/// What follows the sum of the three branches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// Nothing.
    None,
    /// GELU by erf.
    Gelu,
}

/// The batch normalisation of each branch.
#[derive(Clone, Debug)]
pub struct Norm {
    /// Added to the variances.
    pub eps: f64,
    /// Weight of the batch in the running statistics.
    pub momentum: f64,
    /// Whose statistics.
    pub mode: Mode,
    /// Of each branch, `[O]`; updated by a training forward pass.
    pub running: [RunningStats; 3],
}

impl Norm {
    /// eps 1e-5, momentum 0.1.
    pub fn new(mode: Mode, running: [RunningStats; 3]) -> Self {
        Norm { eps: 1e-5, momentum: 0.1, mode, running }
    }
}

/// Three parallel 1-D convolutions of a volume, one along each axis, each with its own batch normalisation, summed
/// (DCFormer, Sec. 3).
///
/// Inputs, in order: x `[N, I, D1, D2, D3]` f32 or bf16; the weights of the branches along D1, D2 and D3, `[O, I, k]`
/// (dense) or `[O, 1, k]` (depthwise) in any arrangement with that order of elements, such as PyTorch's `[O, I, 1, k, 1]`;
/// where there are any, the three biases `[O]`; with a norm, its three weights and then its three biases `[O]`. All
/// parameters are f32. Output `[N, O, E1, E2, E3]` in x's type, E = (D - 1) / stride + 1: the padding is k / 2 along a
/// branch's own axis and 0 along the others, where the stride samples.
///
/// Gradients reach all inputs. In evaluation the statistics are constants. Deterministic.
///
/// # Errors
/// On an even kernel, sizes or types that do not fit, fewer than two values a channel in training, and
/// [`Variant::TensorCores`] for what it does not cover.
#[derive(Clone, Debug)]
pub struct DecompConv {
    /// Taps of each branch; odd.
    pub kernel: usize,
    /// Along all three axes.
    pub stride: usize,
    /// Depthwise or dense.
    pub groups: Groups,
    /// The batch normalisation of each branch.
    pub norm: Option<Norm>,
    /// What follows the sum.
    pub activation: Activation,
    /// The implementation; `None` takes the fused one.
    pub variant: Option<Variant>,
    /// How the matrix products of the fused dense variant are computed; `None` takes the device's default. Ours runs the forward
    /// pass without columns where there are kernels for it: bf16 with 3 taps, stride 1 and at most 64 input channels, or one
    /// input channel with 7 taps.
    pub method: Option<Method>,
    /// Depthwise, fused: the passes over x run one after the other for so many channels at a time, instead of for all. Where
    /// N x channels x volume stays in the L2 cache meanwhile, the second pass reads nothing from memory. The result is the
    /// same to the bit. `None`: all channels.
    pub channel_group: Option<usize>,
    /// Planes of y, of all samples, that the fused dense variant takes at a time; `None` takes what fits the caches.
    pub planes: Option<usize>,
}

impl DecompConv {
    /// Without norm and activation.
    pub fn new(kernel: usize, stride: usize, groups: Groups) -> Self {
        DecompConv {
            kernel,
            stride,
            groups,
            norm: None,
            activation: Activation::None,
            variant: None,
            method: None,
            channel_group: None,
            planes: None,
        }
    }

    fn inputs<'a>(&self, inputs: &[&'a Tensor]) -> Result<Inputs<'a>> {
        let plain = if self.norm.is_some() { 10 } else { 4 };
        if inputs.len() != plain && inputs.len() != plain + 3 {
            return Err(Error::argument(
                "decomp_conv",
                format!("{} inputs", inputs.len()),
                format!(
                    "pass x and 3 weights, optionally 3 biases{}",
                    if plain == 10 { ", 3 norm weights and 3 norm biases" } else { "" }
                ),
            ));
        }
        let three = |first: usize| [inputs[first], inputs[first + 1], inputs[first + 2]];
        let bias = (inputs.len() > plain).then(|| three(4));
        let norm = if bias.is_some() { 7 } else { 4 };
        let norm = self.norm.is_some().then(|| (three(norm), three(norm + 3)));
        Ok(Inputs { x: inputs[0], weights: three(1), bias, norm })
    }

    fn shape(&self, inputs: &Inputs) -> Result<DecompConvShape> {
        let x = inputs.x.dims("decomp_conv x")?;
        let dense = self.groups == Groups::Dense;
        let out_channels = inputs.weights[0].shape().first().copied().unwrap_or(0);
        let shape = DecompConvShape::new(x, out_channels, self.kernel, self.stride, dense)?;
        for (axis, weight) in inputs.weights.iter().enumerate() {
            weight.expect("decomp_conv weight", inputs.x.device(), weight.shape(), DType::F32)?;
            if weight.numel() != shape.weights() || weight.shape().first() != Some(&out_channels) {
                let fan_in = if dense { shape.in_channels } else { 1 };
                return Err(Error::argument(
                    "decomp_conv",
                    format!("weight {} is {weight:?}, not [{out_channels}, {fan_in}, {}]", axis + 1, self.kernel),
                    "pass the weights of this kernel size and grouping",
                ));
            }
        }
        let norm = inputs.norm.iter().flat_map(|(gamma, beta)| gamma.iter().chain(beta)).copied();
        let running = self.norm.iter().flat_map(|norm| norm.running.iter().flat_map(|r| [&r.mean, &r.var]));
        for vector in inputs.bias.iter().flatten().copied().chain(norm).chain(running) {
            vector.expect(
                "decomp_conv bias, norm or running statistic",
                inputs.x.device(),
                [out_channels],
                DType::F32,
            )?;
        }
        if self.norm.as_ref().is_some_and(|n| n.mode.uses_batch()) && shape.batch * shape.out_voxels() < 2 {
            return Err(Error::argument(
                "decomp_conv",
                format!("x {} gives one value a channel; training needs at least two", inputs.x.shape()),
                "use a larger batch, or evaluation mode",
            ));
        }
        if self.variant == Some(Variant::TensorCores) && !shape.tensor_cores(inputs.x.dtype()) {
            return Err(Error::argument(
                "decomp_conv",
                format!(
                    "tensor cores for {:?} {} x, {} taps, stride {}",
                    self.groups,
                    inputs.x.dtype().name(),
                    self.kernel,
                    self.stride
                ),
                "use them for a depthwise convolution of bf16 with stride 1 and at most 15 taps",
            ));
        }
        Ok(shape)
    }

    fn variant(&self) -> Variant {
        self.variant.unwrap_or(Variant::Fused)
    }

    fn channels_at_once(&self, shape: &DecompConvShape) -> usize {
        let group = if self.variant() == Variant::Naive { None } else { self.channel_group };
        group.unwrap_or(shape.out_channels)
    }

    fn how(&self, device: &Device) -> dense::How {
        dense::How { method: self.method.unwrap_or_else(|| Method::default_for(device)), planes: self.planes }
    }

    /// The operands that both directions share.
    fn params(&self, shape: &DecompConvShape, inputs: &Inputs, statistics: &Statistics) -> DecompConvParams {
        let mut params = shape.params();
        let pointers = |tensors: [&Tensor; 3]| tensors.map(Tensor::ptr);
        params.x = inputs.x.ptr();
        params.w = pointers(inputs.weights);
        params.bias = inputs.bias.map_or([DevicePtr::NULL; 3], pointers);
        if let (Some((gamma, beta)), Some(norm)) = (inputs.norm, &self.norm) {
            (params.gamma, params.beta) = (pointers(gamma), pointers(beta));
            params.running_mean = norm.running.each_ref().map(|r| r.mean.ptr());
            params.running_var = norm.running.each_ref().map(|r| r.var.ptr());
            (params.eps, params.momentum) = (norm.eps, norm.mode.momentum(norm.momentum));
            params.norm = if norm.mode.uses_batch() { NormKind::Train } else { NormKind::Eval } as u32;
        }
        params.round_weights = (self.variant() == Variant::TensorCores) as u32;
        params.gelu = (self.activation == Activation::Gelu) as u32;
        (params.mean, params.rstd) = (statistics.mean.ptr(), statistics.rstd.ptr());
        (params.scale, params.shift) = (statistics.scale.ptr(), statistics.shift.ptr());
        params
    }
}

/// The inputs by their roles.
#[derive(Clone, Copy)]
struct Inputs<'a> {
    x: &'a Tensor,
    weights: [&'a Tensor; 3],
    bias: Option<[&'a Tensor; 3]>,
    norm: Option<([&'a Tensor; 3], [&'a Tensor; 3])>,
}

/// What a forward pass normalised with.
struct Statistics {
    mean: Tensor,
    rstd: Tensor,
    scale: Tensor,
    shift: Tensor,
}

impl Statistics {
    fn new(device: &Device, channels: usize) -> Result<Self> {
        let vectors = |what| Tensor::empty(device, [3, channels], DType::F32, what);
        Ok(Statistics {
            mean: vectors("branch means")?,
            rstd: vectors("branch rstds")?,
            scale: vectors("branch scales")?,
            shift: Tensor::empty(device, [channels], DType::F32, "branch shift")?,
        })
    }
}

/// What the backward pass of [`DecompConv`] keeps: its inputs, four small vectors and, in the naive variant, the branches.
pub struct DecompConvContext {
    inputs: Vec<Tensor>,
    shape: DecompConvShape,
    statistics: Statistics,
    branches: Option<Tensor>,
}

impl Op for DecompConv {
    type Context = DecompConvContext;

    fn name(&self) -> &'static str {
        "decomp_conv"
    }

    fn forward(&self, tensors: &[&Tensor]) -> Result<(Tensor, DecompConvContext)> {
        let inputs = self.inputs(tensors)?;
        let shape = self.shape(&inputs)?;
        let (x, variant) = (inputs.x, self.variant());
        let (device, dtype) = (x.device(), x.dtype());
        let launcher = device.launcher();
        let statistics = Statistics::new(device, shape.out_channels)?;
        let [e1, e2, e3] = shape.out_size;
        let y = Tensor::empty(device, [shape.batch, shape.out_channels, e1, e2, e3], dtype, "decomposed convolution")?;
        let mut params = self.params(&shape, &inputs, &statistics);
        params.y = y.ptr();
        if shape.dense && variant == Variant::Fused {
            dense::forward(&shape, &inputs, params, self.how(device))?;
            let inputs = tensors.iter().map(|&t| t.clone()).collect();
            return Ok((y, DecompConvContext { inputs, shape, statistics, branches: None }));
        }
        params.plan(launcher, dtype, variant)?;
        let partial = Tensor::empty(device, [params.partial_bytes() / 4], DType::F32, "decomposed convolution sums")?;
        params.partial = partial.ptr();
        let mut branches = None;
        if variant == Variant::Naive {
            let z = Tensor::empty(
                device,
                [3, shape.batch, shape.out_channels, shape.out_voxels()],
                DType::F32,
                "branches",
            )?;
            params.z = z.ptr();
            // Safety: live tensors of the sizes in `shape`.
            unsafe { kernel::naive_branches(launcher, dtype, &params)? };
            branches = Some(z);
        }
        for params in params.groups(self.channels_at_once(&shape)) {
            // Safety: live tensors of the sizes in `shape`, planned for this variant.
            unsafe {
                kernel::statistics(launcher, variant, dtype, &params)?;
                kernel::write(launcher, variant, dtype, &params)?;
            }
        }
        let inputs = tensors.iter().map(|&t| t.clone()).collect();
        Ok((y, DecompConvContext { inputs, shape, statistics, branches }))
    }

    fn backward(&self, context: &DecompConvContext, dy: &Tensor, gradients: &mut Gradients) -> Result<()> {
        let tensors: Vec<&Tensor> = context.inputs.iter().collect();
        let (inputs, shape) = (self.inputs(&tensors)?, &context.shape);
        let (x, variant) = (inputs.x, self.variant());
        let (device, dtype) = (x.device(), x.dtype());
        let launcher = device.launcher();
        let [e1, e2, e3] = shape.out_size;
        dy.expect("upstream gradient", device, [shape.batch, shape.out_channels, e1, e2, e3], dtype)?;

        let mut params = self.params(shape, &inputs, &context.statistics);
        let destinations = Destinations::new(&inputs, gradients, &mut params)?;
        let coefficients = Tensor::empty(device, [shape.out_channels, 9], DType::F32, "branch coefficients")?;
        (params.g, params.coefficients) = (dy.ptr(), coefficients.ptr());
        if shape.dense && variant == Variant::Fused {
            return dense::backward(shape, &inputs, params, &destinations, self.how(device));
        }
        params.z = context.branches.as_ref().map_or(DevicePtr::NULL, Tensor::ptr);
        params.plan(launcher, dtype, variant)?;
        let mut under = None;
        if self.activation == Activation::Gelu {
            let g = Tensor::empty(device, dy.shape(), dtype, "gradient under the activation")?;
            (params.y, params.slope) = (g.ptr(), 1);
            // Safety: live tensors of the sizes in `shape`, planned for this variant.
            unsafe { kernel::write(launcher, variant, dtype, &params)? };
            params.g = g.ptr();
            under = Some(g);
        }
        let partial = Tensor::empty(device, [params.partial_bytes() / 4], DType::F32, "decomposed convolution sums")?;
        params.partial = partial.ptr();
        if let Some(z) = &context.branches {
            let dz = Tensor::empty(device, z.shape(), DType::F32, "gradient of the branches")?;
            params.dz = dz.ptr();
            // Safety: as above; the destinations have the inputs' shapes.
            unsafe {
                kernel::gradient_sums(launcher, variant, dtype, &params)?;
                kernel::naive_branch_gradient(launcher, dtype, &params)?;
                kernel::naive_weight_gradient(launcher, dtype, &params)?;
                if destinations.x.is_some() {
                    kernel::naive_input_gradient(launcher, dtype, &params)?;
                }
            }
            return Ok(());
        }
        let mut input = params;
        input.plan(launcher, dtype, Variant::Fused)?;
        let group = self.channels_at_once(shape);
        for (sums, input) in params.groups(group).zip(input.groups(group)) {
            // Safety: as above; each is planned for its pass.
            unsafe {
                kernel::gradient_sums(launcher, variant, dtype, &sums)?;
                if destinations.x.is_some() {
                    kernel::input_gradient(launcher, dtype, &input)?;
                }
            }
        }
        drop(under);
        Ok(())
    }
}

/// Where the gradients that the backward pass writes by tensors go; the others are in the parameters.
struct Destinations {
    x: Option<(Tensor, Write)>,
    weights: [Option<(Tensor, Write)>; 3],
}

impl Destinations {
    fn new(inputs: &Inputs, gradients: &mut Gradients, params: &mut DecompConvParams) -> Result<Self> {
        let mut pointer = |gradients: &mut Gradients, input: usize, role: usize| {
            let destination = gradients.wanted(input)?;
            if let Some((_, write)) = destination {
                params.accumulate_into(role, write);
            }
            let pointer = destination.as_ref().map_or(DevicePtr::NULL, |(tensor, _)| tensor.ptr());
            Ok::<_, Error>((destination, pointer))
        };
        let (x, dx) = pointer(gradients, 0, 0)?;
        let mut weights = [None, None, None];
        let [mut dw, mut dbias, mut dgamma, mut dbeta] = [[DevicePtr::NULL; 3]; 4];
        let norm = if inputs.bias.is_some() { 7 } else { 4 };
        for axis in 0..3 {
            (weights[axis], dw[axis]) = pointer(gradients, 1 + axis, 1 + axis)?;
            if inputs.bias.is_some() {
                dbias[axis] = pointer(gradients, 4 + axis, 4 + axis)?.1;
            }
            if inputs.norm.is_some() {
                dgamma[axis] = pointer(gradients, norm + axis, 7 + axis)?.1;
                dbeta[axis] = pointer(gradients, norm + 3 + axis, 10 + axis)?.1;
            }
        }
        params.dx = dx;
        (params.dw, params.dbias, params.dgamma, params.dbeta) = (dw, dbias, dgamma, dbeta);
        Ok(Destinations { x, weights })
    }
}
