//! Max pooling, average pooling and the global mean.

use crate::autograd::{Gradients, Op};
use crate::device::Buffer;
use crate::kernels::columns::Order;
pub use crate::kernels::pool::Variant;
use crate::kernels::pool::{self as kernel, AvgPoolParams, MaxPoolParams, MeanPoolParams};
use crate::kernels::{DType, DevicePtr, Write};
use crate::tensor::{Shape, Tensor};
use crate::{Error, Result};

/// Max pooling of NHWC, as `torch.nn.functional.max_pool2d` on NCHW: x `[N, H, W, C]` f32 or bf16 to `[N, H', W', C]` with
/// `H' = (H + 2 padding - kernel) / stride + 1`, rounded down.
///
/// Padding is minus infinity. Ties go to the first maximum in scan order, NaN propagates. Deterministic.
///
/// # Errors
/// When the padding is more than half a window, a window has more than 256 positions, or the input is smaller than one.
#[derive(Clone, Copy, Debug)]
pub struct MaxPool2d {
    /// Window size along H and W.
    pub kernel: usize,
    /// Step between windows.
    pub stride: usize,
    /// Around H and W.
    pub padding: usize,
    /// The implementation.
    pub variant: Variant,
}

impl MaxPool2d {
    /// With the default implementation.
    pub fn new(kernel: usize, stride: usize, padding: usize) -> Self {
        MaxPool2d { kernel, stride, padding, variant: Variant::default() }
    }
}

/// Max pooling of NCDHW, as `torch.nn.functional.max_pool3d`: x `[N, C, D, H, W]` f32 or bf16. Otherwise like [`MaxPool2d`].
#[derive(Clone, Copy, Debug)]
pub struct MaxPool3d {
    /// Window size along D, H and W.
    pub kernel: usize,
    /// Step between windows.
    pub stride: usize,
    /// Around D, H and W.
    pub padding: usize,
    /// The implementation.
    pub variant: Variant,
}

impl MaxPool3d {
    /// With the default implementation.
    pub fn new(kernel: usize, stride: usize, padding: usize) -> Self {
        MaxPool3d { kernel, stride, padding, variant: Variant::default() }
    }
}

/// What the backward pass of max pooling keeps: the choice of each window, a byte each.
pub struct MaxPoolContext {
    choice: Buffer,
    params: MaxPoolParams,
    x: Shape,
    y: Shape,
    dtype: DType,
}

/// The windows along one axis, checked.
fn output_size(name: &str, size: usize, kernel: usize, stride: usize, padding: usize) -> Result<usize> {
    if kernel == 0 || stride == 0 || padding > kernel / 2 {
        return Err(Error::argument(
            name,
            format!("kernel {kernel}, stride {stride}, padding {padding}"),
            "use a positive kernel and stride and a padding of at most half the kernel",
        ));
    }
    if size == 0 || size + 2 * padding < kernel {
        return Err(Error::argument(
            name,
            format!("an axis of {size} with padding {padding} is shorter than the window {kernel}"),
            "use a larger input or a smaller window",
        ));
    }
    Ok((size + 2 * padding - kernel) / stride + 1)
}

/// Max pooling of `[images, input, channels]`; axes that are not pooled have kernel 1, stride 1, padding 0.
#[derive(Clone, Copy)]
struct Windows {
    images: usize,
    channels: usize,
    input: [usize; 3],
    kernel: [usize; 3],
    stride: [usize; 3],
    padding: [usize; 3],
}

impl Windows {
    fn output(&self, name: &str) -> Result<[usize; 3]> {
        if self.kernel.iter().product::<usize>() > 256 {
            return Err(Error::argument(
                name,
                format!("a window of {:?} has more than 256 positions", self.kernel),
                "use a smaller kernel",
            ));
        }
        let mut out = [0; 3];
        for (axis, out) in out.iter_mut().enumerate() {
            *out = output_size(name, self.input[axis], self.kernel[axis], self.stride[axis], self.padding[axis])?;
        }
        Ok(out)
    }

    fn forward(
        &self,
        name: &str,
        variant: Variant,
        x: &Tensor,
        y_shape: impl FnOnce([usize; 3]) -> Shape,
    ) -> Result<(Tensor, MaxPoolContext)> {
        let out = self.output(name)?;
        let per_image = self.input.iter().chain([&self.channels]).product::<usize>();
        if per_image.max(out.iter().product::<usize>() * self.channels) > i32::MAX as usize {
            return Err(Error::argument(name, format!("an image of {x:?} has 2^31 elements or more"), "crop it"));
        }
        let y = Tensor::empty(x.device(), y_shape(out), x.dtype(), "pooled")?;
        let choice = x.device().alloc(y.numel(), "pooling choice")?;
        let small = |sizes: [usize; 3]| sizes.map(|size| size as u32);
        let params = MaxPoolParams {
            x: x.ptr(),
            y: y.ptr(),
            choice: choice.ptr(),
            dy: DevicePtr::NULL,
            dx: DevicePtr::NULL,
            images: self.images as u64,
            channels: self.channels as u32,
            input: small(self.input),
            output: small(out),
            kernel: small(self.kernel),
            stride: small(self.stride),
            padding: small(self.padding),
            vector: 0,
            accumulate: 0,
        };
        // Safety: x is live with the sizes it was asked for; y and choice were made for them.
        unsafe { kernel::max_pool(x.device().launcher(), variant, x.dtype(), &params)? };
        let context = MaxPoolContext {
            choice,
            params: MaxPoolParams { x: DevicePtr::NULL, y: DevicePtr::NULL, ..params },
            x: x.shape().clone(),
            y: y.shape().clone(),
            dtype: x.dtype(),
        };
        Ok((y, context))
    }
}

fn backward(
    name: &str,
    variant: Variant,
    context: &MaxPoolContext,
    dy: &Tensor,
    gradients: &mut Gradients,
) -> Result<()> {
    let Some((dx, write)) = gradients.wanted(0)? else { return Ok(()) };
    let device = context.choice.device();
    dy.expect(&format!("{name} upstream gradient"), device, &context.y, context.dtype)?;
    dx.expect(&format!("{name} gradient"), device, &context.x, context.dtype)?;
    let params = MaxPoolParams { dy: dy.ptr(), dx: dx.ptr(), accumulate: write.flag(), ..context.params };
    // Safety: dy and dx are live and of the forward pass's sizes, choice belongs to the context.
    unsafe { kernel::max_pool_gradient(device.launcher(), variant, context.dtype, &params) }
}

impl Op for MaxPool2d {
    type Context = MaxPoolContext;

    fn name(&self) -> &'static str {
        "max_pool2d"
    }

    fn forward(&self, inputs: &[&Tensor]) -> Result<(Tensor, MaxPoolContext)> {
        let [images, h, w, channels] = inputs[0].dims("max_pool2d x [N, H, W, C]")?;
        let windows = Windows {
            images,
            channels,
            input: [1, h, w],
            kernel: [1, self.kernel, self.kernel],
            stride: [1, self.stride, self.stride],
            padding: [0, self.padding, self.padding],
        };
        windows.forward(self.name(), self.variant, inputs[0], |[_, h, w]| [images, h, w, channels].into())
    }

    fn backward(&self, context: &MaxPoolContext, dy: &Tensor, gradients: &mut Gradients) -> Result<()> {
        backward(self.name(), self.variant, context, dy, gradients)
    }
}

impl Op for MaxPool3d {
    type Context = MaxPoolContext;

    fn name(&self) -> &'static str {
        "max_pool3d"
    }

    fn forward(&self, inputs: &[&Tensor]) -> Result<(Tensor, MaxPoolContext)> {
        let [n, c, d, h, w] = inputs[0].dims("max_pool3d x [N, C, D, H, W]")?;
        // Channel by channel: N C images with one channel.
        let windows = Windows {
            images: n * c,
            channels: 1,
            input: [d, h, w],
            kernel: [self.kernel; 3],
            stride: [self.stride; 3],
            padding: [self.padding; 3],
        };
        windows.forward(self.name(), self.variant, inputs[0], |[d, h, w]| [n, c, d, h, w].into())
    }

    fn backward(&self, context: &MaxPoolContext, dy: &Tensor, gradients: &mut Gradients) -> Result<()> {
        backward(self.name(), self.variant, context, dy, gradients)
    }
}

/// Average pooling of NCDHW with a window of 3, stride 1 and padding 1 on every axis, the padding left out of sum and count:
/// as `torch.nn.functional.avg_pool3d(x, 3, 1, 1, count_include_pad=False)`. x `[N, C, D1, D2, D3]` f32 or bf16, y like x.
///
/// With `minus_input` y is the mean less x, the token mixer of PoolFormer. Deterministic.
#[derive(Clone, Copy, Debug, Default)]
pub struct AvgPool3d {
    /// Whether x is subtracted.
    pub minus_input: bool,
    /// The implementation.
    pub variant: Variant,
}

impl AvgPool3d {
    fn run(&self, from: &Tensor, to: &Tensor, transposed: bool, write: Write) -> Result<()> {
        let [n, c, d1, d2, d3] = from.dims("avg_pool3d x [N, C, D1, D2, D3]")?;
        if [d1, d2, d3].iter().any(|&d| d > i32::MAX as usize / 2) {
            return Err(Error::argument(self.name(), format!("x is {from:?}"), "use axes of less than 2^30"));
        }
        let params = AvgPoolParams {
            x: from.ptr(),
            y: to.ptr(),
            images: (n * c) as u64,
            size: [d1 as u32, d2 as u32, d3 as u32],
            minus_input: self.minus_input as u32,
            transposed: transposed as u32,
            vector: 0,
            accumulate: write.flag(),
        };
        // Safety: two live tensors of one shape and type.
        unsafe { kernel::avg_pool(from.device().launcher(), self.variant, from.dtype(), &params) }
    }
}

impl Op for AvgPool3d {
    type Context = ();

    fn name(&self) -> &'static str {
        "avg_pool3d"
    }

    fn forward(&self, inputs: &[&Tensor]) -> Result<(Tensor, ())> {
        let x = inputs[0];
        let y = Tensor::empty(x.device(), x.shape(), x.dtype(), "pooled")?;
        self.run(x, &y, false, Write::Overwrite)?;
        Ok((y, ()))
    }

    fn backward(&self, _: &(), dy: &Tensor, gradients: &mut Gradients) -> Result<()> {
        let Some((dx, write)) = gradients.wanted(0)? else { return Ok(()) };
        dy.expect("avg_pool3d upstream gradient", dx.device(), dx.shape(), dx.dtype())?;
        self.run(dy, &dx, true, write)
    }
}

/// The mean over all axes between the first and the last: `[N, ..., C]` f32 or bf16 to `[N, C]`. For channels-first data
/// reshape to `[N C, positions, 1]`. Deterministic.
///
/// # Errors
/// With fewer than two axes, or nothing to average.
#[derive(Clone, Copy, Debug, Default)]
pub struct GlobalAvgPool {
    /// The order of memory accesses; `None` takes the one that suits the device.
    pub order: Option<Order>,
}

impl GlobalAvgPool {
    fn params(shape: &Shape) -> Result<MeanPoolParams> {
        let &[images, .., channels] = &shape[..] else {
            return Err(Error::argument("global_avg_pool", format!("x {shape} has too few axes"), "pass [N, ..., C]"));
        };
        let positions = shape[1..shape.len() - 1].iter().product::<usize>();
        if positions == 0 {
            return Err(Error::argument(
                "global_avg_pool",
                format!("x {shape} has nothing to average"),
                "pass at least one position",
            ));
        }
        Ok(MeanPoolParams {
            x: DevicePtr::NULL,
            y: DevicePtr::NULL,
            dy: DevicePtr::NULL,
            dx: DevicePtr::NULL,
            images: images as u64,
            positions: positions as u64,
            channels: channels as u64,
            walk: Default::default(),
            accumulate: 0,
        })
    }
}

impl Op for GlobalAvgPool {
    /// The input's shape.
    type Context = Shape;

    fn name(&self) -> &'static str {
        "global_avg_pool"
    }

    fn forward(&self, inputs: &[&Tensor]) -> Result<(Tensor, Shape)> {
        let x = inputs[0];
        let params = Self::params(x.shape())?;
        let shape = [params.images as usize, params.channels as usize];
        let y = Tensor::empty(x.device(), shape, x.dtype(), "pooled")?;
        let launcher = x.device().launcher();
        let params = MeanPoolParams { x: x.ptr(), y: y.ptr(), ..params };
        // Safety: x is live with that shape, y was made for it.
        unsafe { kernel::mean_pool(launcher, self.order.unwrap_or_else(|| Order::of(launcher)), x.dtype(), &params)? };
        Ok((y, x.shape().clone()))
    }

    fn backward(&self, shape: &Shape, dy: &Tensor, gradients: &mut Gradients) -> Result<()> {
        let Some((dx, write)) = gradients.wanted(0)? else { return Ok(()) };
        let params = Self::params(shape)?;
        let pooled = [params.images as usize, params.channels as usize];
        dy.expect("global_avg_pool upstream gradient", dx.device(), pooled, dx.dtype())?;
        let launcher = dx.device().launcher();
        let params = MeanPoolParams { dy: dy.ptr(), dx: dx.ptr(), accumulate: write.flag(), ..params };
        let order = self.order.unwrap_or_else(|| Order::of(launcher));
        // Safety: dx is live with the input's shape, dy with the output's.
        unsafe { kernel::mean_pool_gradient(launcher, order, dx.dtype(), &params) }
    }
}
