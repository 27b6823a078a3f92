//! Pooling kernels: geometry and launches. See `kernels/pool/pool.cu`.

use super::columns::{Order, Walk};
use super::{DType, DevicePtr, Grid, Launcher};
use crate::Result;

include!(concat!(env!("OUT_DIR"), "/abi/pool.rs"));

/// Which implementation of max or average pooling runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Variant {
    /// One thread an element: the readable reference.
    Naive,
    /// Vectors of channels; of voxels for the average.
    #[default]
    Vector,
}

/// Blocks along y and z at most, a limit of CUDA.
const MAX_BLOCKS_YZ: usize = 65_535;
/// Positions a thread writes in the gradient of the mean.
const WRITE_ROWS: usize = 16;

fn product(sizes: [u32; 3]) -> usize {
    sizes.iter().map(|&n| n as usize).product()
}

/// y and choice from x.
///
/// # Safety
/// The pointers hold what [`MaxPoolParams`] says and stay valid until the launch has completed on the launcher's stream;
/// an image has fewer than 2^31 inputs and outputs.
pub unsafe fn max_pool(launcher: &dyn Launcher, variant: Variant, dtype: DType, params: &MaxPoolParams) -> Result<()> {
    let kernel = if variant == Variant::Naive { &MAX_POOL_NAIVE } else { &MAX_POOL };
    unsafe { run(launcher, variant, kernel, dtype, params, params.output, [params.x, params.y]) }
}

/// dx from dy and choice.
///
/// # Safety
/// As for [`max_pool`].
pub unsafe fn max_pool_gradient(
    launcher: &dyn Launcher,
    variant: Variant,
    dtype: DType,
    params: &MaxPoolParams,
) -> Result<()> {
    let kernel = if variant == Variant::Naive { &MAX_POOL_GRADIENT_NAIVE } else { &MAX_POOL_GRADIENT };
    unsafe { run(launcher, variant, kernel, dtype, params, params.input, [params.dy, params.dx]) }
}

/// # Safety
/// As for [`max_pool`].
unsafe fn run(
    launcher: &dyn Launcher,
    variant: Variant,
    kernel: &super::Kernel<MaxPoolParams>,
    dtype: DType,
    params: &MaxPoolParams,
    items: [u32; 3],
    pointers: [DevicePtr; 2],
) -> Result<()> {
    let (images, channels) = (params.images as usize, params.channels as usize);
    let elements = product(items) * channels;
    if images * elements == 0 {
        return Ok(());
    }
    let tile = launcher.config(kernel.of(dtype))?.tile[0] as usize;
    if variant == Variant::Naive {
        return unsafe { kernel.launch(launcher, dtype, Grid::covering(images * elements, tile), params) };
    }
    let width = 16 / dtype.size();
    let vector = channels.is_multiple_of(width) && pointers.iter().all(|p| p.0.is_multiple_of(16));
    let params = MaxPoolParams { vector: vector as u32, ..*params };
    let per_image = if vector { elements / width } else { elements };
    let grid = Grid([per_image.div_ceil(tile) as u32, images.min(MAX_BLOCKS_YZ) as u32, 1]);
    unsafe { kernel.launch(launcher, dtype, grid, &params) }
}

/// y from x; with `transposed` dx from dy.
///
/// # Safety
/// The pointers hold what [`AvgPoolParams`] says and stay valid until the launch has completed on the launcher's stream.
pub unsafe fn avg_pool(launcher: &dyn Launcher, variant: Variant, dtype: DType, params: &AvgPoolParams) -> Result<()> {
    let kernel = if variant == Variant::Naive { &AVG_POOL_NAIVE } else { &AVG_POOL_ROWS };
    let [threads, columns, ..] = launcher.config(kernel.of(dtype))?.tile;
    let [d1, d2, d3] = params.size;
    let columns = if variant == Variant::Naive { d3 } else { d3.div_ceil(columns) };
    let items = params.images as usize * product([d1, d2, columns]);
    if items == 0 {
        return Ok(());
    }
    let aligned = [params.x, params.y].iter().all(|p| p.0.is_multiple_of(4 * dtype.size() as u64));
    let params = AvgPoolParams { vector: (aligned && d3.is_multiple_of(4)) as u32, ..*params };
    unsafe { kernel.launch(launcher, dtype, Grid::covering(items, threads as usize), &params) }
}

/// y from x.
///
/// # Safety
/// The pointers hold what [`MeanPoolParams`] says and stay valid until the launch has completed on the launcher's stream;
/// there is at least one position.
pub unsafe fn mean_pool(launcher: &dyn Launcher, order: Order, dtype: DType, params: &MeanPoolParams) -> Result<()> {
    // One block adds up all positions of a column tile.
    unsafe { run_mean(launcher, order, &MEAN_POOL, dtype, params, [params.x, params.y], 1, 1) }
}

/// dx from dy.
///
/// # Safety
/// As for [`mean_pool`].
pub unsafe fn mean_pool_gradient(
    launcher: &dyn Launcher,
    order: Order,
    dtype: DType,
    params: &MeanPoolParams,
) -> Result<()> {
    let pointers = [params.dy, params.dx];
    let blocks = i32::MAX as usize;
    unsafe { run_mean(launcher, order, &MEAN_POOL_GRADIENT, dtype, params, pointers, WRITE_ROWS, blocks) }
}

/// # Safety
/// As for [`mean_pool`].
#[allow(clippy::too_many_arguments)] // what the two directions differ in
unsafe fn run_mean(
    launcher: &dyn Launcher,
    order: Order,
    kernel: &super::Kernel<MeanPoolParams>,
    dtype: DType,
    params: &MeanPoolParams,
    pointers: [DevicePtr; 2],
    rows: usize,
    blocks: usize,
) -> Result<()> {
    let shape = [params.positions as usize, params.channels as usize];
    if params.images == 0 || params.channels == 0 {
        return Ok(());
    }
    let walk = Walk::new(launcher.config(kernel.of(dtype))?, order, dtype, shape, &pointers, rows, blocks);
    let Grid([x, y, _]) = walk.grid(dtype, shape);
    let grid = Grid([x, y, (params.images as usize).min(MAX_BLOCKS_YZ) as u32]);
    unsafe { kernel.launch(launcher, dtype, grid, &MeanPoolParams { walk, ..*params }) }
}
