//! 2-D convolutions: geometry and launches. See `kernels/conv2d.cu`.

use super::{DType, DevicePtr, Grid, Kernel, Launcher, Write, kernels};
use crate::{Error, Result};

kernels! {
    family "conv2d" slot 3;

    params {
        /// Operands of a convolution kernel; see the launches for what each pointer is.
        Conv2dParams {
            /// x, dy or the columns.
            input: DevicePtr,
            /// The weight, or dy for its gradient.
            weight: DevicePtr,
            /// Added to every pixel, or null.
            bias: DevicePtr,
            /// y, dx, dw or the columns.
            out: DevicePtr,
            /// Images.
            images: u64,
            /// Of x.
            height: u32,
            /// Of x.
            width: u32,
            /// Of x.
            channels: u32,
            /// Of y.
            out_height: u32,
            /// Of y.
            out_width: u32,
            /// Of y.
            out_channels: u32,
            /// Of the filter.
            kernel_height: u32,
            /// Of the filter.
            kernel_width: u32,
            /// Of both axes.
            stride: u32,
            /// Zeros on each side.
            padding: u32,
            /// 1: out += result.
            accumulate: u32,
        }
    }

    kernels {
        /// y, one thread an element; tile[0] elements a block.
        FORWARD_NAIVE(Conv2dParams) = [conv2d_forward_naive_f32, conv2d_forward_naive_bf16];
        /// dx, one thread an element; tile[0] elements a block.
        DGRAD_NAIVE(Conv2dParams) = [conv2d_dgrad_naive_f32, conv2d_dgrad_naive_bf16];
        /// dw (f32), one thread an element; tile[0] elements a block.
        WGRAD_NAIVE(Conv2dParams) = [conv2d_wgrad_naive_f32, conv2d_wgrad_naive_bf16];
        /// tile[0] pixels of y a block.
        IM2COL(Conv2dParams) = [im2col_f32, im2col_bf16];
        /// From f32 columns; tile[0] groups of tile[1] channels of a pixel of x a block.
        COL2IM(Conv2dParams) = [col2im_f32, col2im_bf16];
    }
}

/// The sizes of a convolution: x [images, height, width, channels], weight [out_channels, kernel.., channels],
/// y [images, out_height, out_width, out_channels]; dilation 1, one group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conv2dShape {
    /// Images.
    pub images: usize,
    /// Height and width of x.
    pub size: [usize; 2],
    /// Channels of x.
    pub channels: usize,
    /// Height and width of y.
    pub out_size: [usize; 2],
    /// Channels of y.
    pub out_channels: usize,
    /// Height and width of the filter.
    pub kernel: [usize; 2],
    /// Steps of the filter, both axes.
    pub stride: usize,
    /// Zeros on each side, both axes.
    pub padding: usize,
}

impl Conv2dShape {
    /// From the shapes of x (NHWC) and the weight (OHWI).
    ///
    /// # Errors
    /// When the channels differ, the stride is 0, the filter is larger than the padded image, or a size passes 2^31.
    pub fn new(x: [usize; 4], weight: [usize; 4], stride: usize, padding: usize) -> Result<Self> {
        let [images, height, width, channels] = x;
        let [out_channels, kernel_height, kernel_width, weight_channels] = weight;
        let refuse = |problem: String, hint: &str| Err(Error::argument("conv2d", problem, hint));
        if channels != weight_channels {
            return refuse(
                format!("x {x:?} has {channels} channels, the weight {weight:?} takes {weight_channels}"),
                "pass x as [N, H, W, C] and the weight as [O, KH, KW, C]",
            );
        }
        let kernel = [kernel_height, kernel_width];
        if stride == 0 || kernel.contains(&0) || (0..2).any(|i| [height, width][i] + 2 * padding < kernel[i]) {
            return refuse(
                format!(
                    "a {kernel:?} filter, stride {stride}, padding {padding}, does not fit into {height} x {width}"
                ),
                "use a stride of at least 1 and a filter no larger than the padded image",
            );
        }
        let limit = i32::MAX as usize / 4;
        if [height, width, channels, out_channels, kernel_height, kernel_width, stride, padding]
            .iter()
            .any(|&n| n > limit)
        {
            return refuse(format!("a size of x {x:?} or the weight {weight:?} passes {limit}"), "use smaller sizes");
        }
        let out = |n: usize, k: usize| (n + 2 * padding - k) / stride + 1;
        let out_size = [out(height, kernel_height), out(width, kernel_width)];
        Ok(Conv2dShape { images, size: [height, width], channels, out_size, out_channels, kernel, stride, padding })
    }

    /// Pixels of y in one image.
    pub fn out_pixels(&self) -> usize {
        self.out_size[0] * self.out_size[1]
    }

    /// Pixels of x in one image.
    pub fn pixels(&self) -> usize {
        self.size[0] * self.size[1]
    }

    /// Terms of the sum behind one element of y: the width of the columns.
    pub fn terms(&self) -> usize {
        self.kernel[0] * self.kernel[1] * self.channels
    }

    /// Elements of x, of the weight and of y.
    pub fn numel(&self) -> [usize; 3] {
        [
            self.images * self.pixels() * self.channels,
            self.out_channels * self.terms(),
            self.images * self.out_pixels() * self.out_channels,
        ]
    }

    /// The columns are x itself: a 1x1 filter that visits every pixel.
    pub fn is_pointwise(&self) -> bool {
        self.kernel == [1, 1] && self.stride == 1 && self.padding == 0
    }

    fn params(&self, input: DevicePtr, weight: DevicePtr, out: DevicePtr, write: Write) -> Conv2dParams {
        Conv2dParams {
            input,
            weight,
            bias: DevicePtr::NULL,
            out,
            images: self.images as u64,
            height: self.size[0] as u32,
            width: self.size[1] as u32,
            channels: self.channels as u32,
            out_height: self.out_size[0] as u32,
            out_width: self.out_size[1] as u32,
            out_channels: self.out_channels as u32,
            kernel_height: self.kernel[0] as u32,
            kernel_width: self.kernel[1] as u32,
            stride: self.stride as u32,
            padding: self.padding as u32,
            accumulate: write.flag(),
        }
    }
}

/// Our kernels for a convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variant {
    /// One thread an element, no shared memory: the readable reference.
    Naive,
}

unsafe fn flat(
    launcher: &dyn Launcher,
    kernel: &Kernel<Conv2dParams>,
    dtype: DType,
    elements: usize,
    params: &Conv2dParams,
) -> Result<()> {
    if elements == 0 {
        return Ok(());
    }
    let per_block = launcher.config(kernel.of(dtype))?.tile[0] as usize;
    unsafe { kernel.launch(launcher, dtype, Grid::covering(elements, per_block), params) }
}

/// y from x, the weight and a bias (or null), all of `dtype`.
///
/// # Safety
/// The pointers hold the elements of `shape` in contiguous NHWC and OHWI order, aligned to 16 bytes, valid until the
/// launch has completed on the launcher's stream; y overlaps none of the others.
#[allow(clippy::too_many_arguments)] // a launch is its operands
pub unsafe fn forward(
    launcher: &dyn Launcher,
    variant: Variant,
    dtype: DType,
    shape: &Conv2dShape,
    x: DevicePtr,
    weight: DevicePtr,
    bias: DevicePtr,
    y: DevicePtr,
) -> Result<()> {
    let params = Conv2dParams { bias, ..shape.params(x, weight, y, Write::Overwrite) };
    match variant {
        Variant::Naive => unsafe { flat(launcher, &FORWARD_NAIVE, dtype, shape.numel()[2], &params) },
    }
}

/// dx from dy and the weight, all of `dtype`.
///
/// # Safety
/// As for [`forward`].
#[allow(clippy::too_many_arguments)]
pub unsafe fn input_gradient(
    launcher: &dyn Launcher,
    variant: Variant,
    dtype: DType,
    shape: &Conv2dShape,
    dy: DevicePtr,
    weight: DevicePtr,
    dx: DevicePtr,
    write: Write,
) -> Result<()> {
    let params = shape.params(dy, weight, dx, write);
    match variant {
        Variant::Naive => unsafe { flat(launcher, &DGRAD_NAIVE, dtype, shape.numel()[0], &params) },
    }
}

/// dw (f32) from x and dy, both of `dtype`.
///
/// # Safety
/// As for [`forward`].
#[allow(clippy::too_many_arguments)]
pub unsafe fn weight_gradient(
    launcher: &dyn Launcher,
    variant: Variant,
    dtype: DType,
    shape: &Conv2dShape,
    x: DevicePtr,
    dy: DevicePtr,
    dw: DevicePtr,
    write: Write,
) -> Result<()> {
    let params = shape.params(x, dy, dw, write);
    match variant {
        Variant::Naive => unsafe { flat(launcher, &WGRAD_NAIVE, dtype, shape.numel()[1], &params) },
    }
}

/// The columns [images * out_pixels, terms] of x: row (n, i, j) holds what the filter sees there, in the weight's order.
///
/// # Safety
/// As for [`forward`].
pub unsafe fn im2col(
    launcher: &dyn Launcher,
    dtype: DType,
    shape: &Conv2dShape,
    x: DevicePtr,
    columns: DevicePtr,
) -> Result<()> {
    let params = shape.params(x, DevicePtr::NULL, columns, Write::Overwrite);
    unsafe { flat(launcher, &IM2COL, dtype, shape.images * shape.out_pixels(), &params) }
}

/// dx (of `dtype`) from the gradient of the columns, which is f32: the transpose of [`im2col`], every element gathered by one thread.
///
/// # Safety
/// As for [`forward`].
pub unsafe fn col2im(
    launcher: &dyn Launcher,
    dtype: DType,
    shape: &Conv2dShape,
    columns: DevicePtr,
    dx: DevicePtr,
    write: Write,
) -> Result<()> {
    let channels = launcher.config(COL2IM.of(dtype))?.tile[1] as usize;
    let groups = shape.images * shape.pixels() * shape.channels.div_ceil(channels);
    unsafe { flat(launcher, &COL2IM, dtype, groups, &shape.params(columns, DevicePtr::NULL, dx, write)) }
}
