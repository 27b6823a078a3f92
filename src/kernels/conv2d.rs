//! 2-D convolutions: geometry and launches. See `kernels/conv2d/conv2d.cu`.

use super::gemm::{self, Precision};
use super::{DType, DevicePtr, Entry, Grid, Kernel, Launcher, Write};
use crate::{Error, Result};

include!(concat!(env!("OUT_DIR"), "/abi/conv2d.rs"));

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
            aligned_input: 0,
            aligned_weight: 0,
            items: 0,
            split_depth: 0,
            partials: DevicePtr::NULL,
        }
    }
}

/// Our kernels for a convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variant {
    /// One thread an element, no shared memory: the readable reference.
    Naive,
    /// Implicit matrix products of tiles in shared memory, bf16 on tensor cores, f32 in the precision named.
    Tiled(Precision),
}

/// The tiled kernels of one result: bf16 in wide and in narrow tiles, TF32, f32.
type Tiled = [&'static Kernel<Conv2dParams>; 4];

const FORWARD_TILED: Tiled = [&FORWARD_WIDE, &FORWARD_NARROW, &FORWARD_TF32, &FORWARD];
const DGRAD_TILED: Tiled = [&DGRAD_WIDE, &DGRAD_NARROW, &DGRAD_TF32, &DGRAD];
const WGRAD_TILED: Tiled = [&WGRAD_WIDE, &WGRAD_NARROW, &WGRAD_TF32, &WGRAD];

/// The entry of tiled kernels for a result of `columns` columns.
fn tiled(kernels: Tiled, precision: Precision, dtype: DType, columns: usize) -> &'static Entry {
    let kernel = match (dtype, precision) {
        (DType::Bf16, _) => (columns <= 64) as usize,
        (DType::F32, Precision::Tf32) => 2,
        (DType::F32, Precision::F32) => 3,
    };
    kernels[kernel].entry()
}

/// Tiles of a `rows` x `columns` result.
///
/// # Errors
/// When a size passes what the kernels count in 32 bits.
fn tiles(launcher: &dyn Launcher, entry: &'static Entry, rows: usize, columns: usize, depth: usize) -> Result<usize> {
    let tile = launcher.config(entry)?.tile;
    if rows.max(columns).max(depth) > i32::MAX as usize / 2 {
        return Err(Error::argument(
            "conv2d",
            format!("a product of {rows} x {columns} over {depth} terms is too large for one launch"),
            "use a smaller batch",
        ));
    }
    Ok(rows.div_ceil(tile[0] as usize) * columns.div_ceil(tile[1] as usize))
}

/// 1 when rows of `row` elements from `ptr` on can be read 16 bytes at a time.
fn aligned(dtype: DType, ptr: DevicePtr, row: usize) -> u32 {
    (ptr.0 % 16 == 0 && row * dtype.size() % 16 == 0) as u32
}

/// Launches a tiled kernel on `tiles` x `parts` blocks.
unsafe fn launch_tiled(
    launcher: &dyn Launcher,
    entry: &'static Entry,
    tiles: usize,
    parts: usize,
    params: &Conv2dParams,
) -> Result<()> {
    if tiles == 0 {
        return Ok(());
    }
    let grid = Grid([tiles as u32, 1, parts as u32]);
    unsafe { launcher.launch(entry, grid, (params as *const Conv2dParams).cast()) }
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
        Variant::Tiled(precision) => {
            let entry = tiled(FORWARD_TILED, precision, dtype, shape.out_channels);
            let rows = shape.images * shape.out_pixels();
            let tiles = tiles(launcher, entry, rows, shape.out_channels, shape.terms())?;
            let aligned_input = aligned(dtype, x, shape.channels);
            let params =
                Conv2dParams { aligned_input, aligned_weight: aligned(dtype, weight, shape.terms()), ..params };
            unsafe { launch_tiled(launcher, entry, tiles, 1, &params) }
        }
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
        Variant::Tiled(precision) => {
            let entry = tiled(DGRAD_TILED, precision, dtype, shape.channels);
            let depth = shape.kernel[0] * shape.kernel[1] * shape.out_channels;
            let tiles = tiles(launcher, entry, shape.images * shape.pixels(), shape.channels, depth)?;
            let aligned_input = aligned(dtype, dy, shape.out_channels);
            let params =
                Conv2dParams { aligned_input, aligned_weight: aligned(dtype, weight, shape.channels), ..params };
            unsafe { launch_tiled(launcher, entry, tiles, 1, &params) }
        }
    }
}

/// Tiles of dw, parts of its sums, and pixels of one part.
fn weight_gradient_split(
    launcher: &dyn Launcher,
    entry: &'static Entry,
    dtype: DType,
    shape: &Conv2dShape,
) -> Result<[usize; 3]> {
    let pixels = shape.images * shape.out_pixels();
    let tiles = tiles(launcher, entry, shape.terms(), shape.out_channels, pixels)?;
    let depth = launcher.config(entry)?.tile[2] as usize / dtype.size();
    let (parts, steps) = gemm::split(tiles, pixels.div_ceil(depth));
    Ok([tiles, parts, steps * depth])
}

/// f32 elements of the workspace of [`weight_gradient`].
pub fn weight_gradient_workspace(
    launcher: &dyn Launcher,
    variant: Variant,
    dtype: DType,
    shape: &Conv2dShape,
) -> Result<usize> {
    let Variant::Tiled(precision) = variant else { return Ok(0) };
    let entry = tiled(WGRAD_TILED, precision, dtype, shape.out_channels);
    let [_, parts, _] = weight_gradient_split(launcher, entry, dtype, shape)?;
    Ok(if parts > 1 { parts * shape.numel()[1] } else { 0 })
}

/// dw (f32) from x and dy, both of `dtype`. The order of its sums depends on the sizes alone.
///
/// # Safety
/// As for [`forward`]; `workspace` holds as many f32 as [`weight_gradient_workspace`] says.
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
    workspace: DevicePtr,
) -> Result<()> {
    let params = shape.params(x, dy, dw, write);
    let precision = match variant {
        Variant::Naive => return unsafe { flat(launcher, &WGRAD_NAIVE, dtype, shape.numel()[1], &params) },
        Variant::Tiled(precision) => precision,
    };
    let entry = tiled(WGRAD_TILED, precision, dtype, shape.out_channels);
    let [tiles, parts, split_depth] = weight_gradient_split(launcher, entry, dtype, shape)?;
    let partials = if parts > 1 { workspace } else { DevicePtr::NULL };
    let params = Conv2dParams {
        aligned_input: aligned(dtype, x, shape.channels),
        aligned_weight: aligned(dtype, dy, shape.out_channels),
        split_depth: split_depth as u64,
        partials,
        ..params
    };
    unsafe {
        launch_tiled(launcher, entry, tiles, parts, &params)?;
        if parts > 1 {
            let size = [shape.out_channels, shape.terms()];
            gemm::add_parts(launcher, DType::F32, partials, parts, size, 1.0, DevicePtr::NULL, dw, write)?;
        }
    }
    Ok(())
}

/// Launches a column kernel over `items`, on a GPU with `rows` blocks for each of its blocks here.
unsafe fn columns(
    launcher: &dyn Launcher,
    kernel: &Kernel<Conv2dParams>,
    dtype: DType,
    items: usize,
    rows: usize,
    mut params: Conv2dParams,
) -> Result<()> {
    if items == 0 {
        return Ok(());
    }
    let config = launcher.config(kernel.of(dtype))?;
    let host = launcher.properties().compute_capability == 0;
    params.items = if host { config.tile[0] } else { 1 };
    let Grid([blocks, ..]) = Grid::covering(items, (config.threads * params.items) as usize);
    unsafe { kernel.launch(launcher, dtype, Grid([blocks, if host { 1 } else { rows as u32 }, 1]), &params) }
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
    out: DevicePtr,
) -> Result<()> {
    let params = shape.params(x, DevicePtr::NULL, out, Write::Overwrite);
    let pixels = shape.images * shape.out_pixels();
    unsafe { columns(launcher, &IM2COL, dtype, pixels, shape.kernel[0].min(1 << 15), params) }
}

/// dx (of `dtype`) from the gradient of the columns, which is f32: the transpose of [`im2col`], every element gathered by
/// one thread.
///
/// # Safety
/// As for [`forward`].
pub unsafe fn col2im(
    launcher: &dyn Launcher,
    dtype: DType,
    shape: &Conv2dShape,
    input: DevicePtr,
    dx: DevicePtr,
    write: Write,
) -> Result<()> {
    let channels = launcher.config(COL2IM.of(dtype))?.tile[1] as usize;
    let groups = shape.images * shape.pixels() * shape.channels.div_ceil(channels);
    unsafe { columns(launcher, &COL2IM, dtype, groups, 1, shape.params(input, DevicePtr::NULL, dx, write)) }
}
