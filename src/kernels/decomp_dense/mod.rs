//! Kernels of the dense decomposed convolution: geometry and launches. See `kernels/decomp_dense/decomp_dense.cu`.

use super::decomp_conv::DecompConvShape;
use super::{DType, DevicePtr, Grid, Kernel, Launcher};
use crate::Result;

pub mod direct;
pub mod traffic;

include!(concat!(env!("OUT_DIR"), "/abi/decomp_dense.rs"));

/// A chunk's columns and branches take at most this part of the L2 cache, or the least that has two halos.
const CHUNK_PART_OF_L2: usize = 4;
/// Voxels that a thread copies into the columns: on a processor many; on a GPU few, so that neighbours share lines.
const HOST_SPAN: usize = 1024;
const GPU_SPAN: usize = 8;

/// Values of a block's sums of the branches, and of the gradient against them.
pub const MOMENT_VALUES: usize = 9;
/// Likewise.
pub const GRADIENT_VALUES: usize = 4;

/// How the planes of y are cut into chunks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chunks {
    /// Planes of y, n E1 + e1, in all.
    pub total: usize,
    /// Planes of a chunk; the last may have fewer.
    pub planes: usize,
    /// Planes of y on each side of one that its part of x reaches.
    pub halo: usize,
    /// Voxels of a plane.
    pub plane: usize,
    /// Voxels of a block of the sums.
    piece: usize,
}

impl Chunks {
    /// Of `planes` planes, or as few chunks as the L2 cache allows, of even size. The sums of a pass depend on the shape and on
    /// the device's properties alone.
    pub fn new(launcher: &dyn Launcher, shape: &DecompConvShape, dtype: DType, planes: Option<usize>) -> Result<Self> {
        let [e1, e2, e3] = shape.out_size;
        let (total, plane, halo) = (shape.batch * e1, e2 * e3, (shape.kernel / 2).div_ceil(shape.stride));
        let bytes = plane * (cross_rows(shape) * dtype.size() + 3 * shape.out_channels * 4);
        let fitting = launcher.properties().l2_bytes as usize / CHUNK_PART_OF_L2 / bytes;
        let planes = planes.unwrap_or_else(|| {
            let even = total.div_ceil(total.div_ceil(fitting.clamp(1, total)));
            // Rows of columns that are a power of two apart would meet in one set of a processor's cache.
            if even < total { (even - 1) | 1 } else { even }
        });
        // A part of dx is complete with the chunk that follows: two halos must lie within one chunk.
        let planes = planes.max(2 * halo).clamp(1, total);
        let piece = launcher.config(MOMENTS.entry())?.tile[0] as usize;
        Ok(Chunks { total, planes, halo, plane, piece })
    }

    /// Chunks in all.
    pub fn count(&self) -> usize {
        self.total.div_ceil(self.planes)
    }

    /// Voxels of the largest.
    pub fn voxels(&self) -> usize {
        self.planes * self.plane
    }

    /// Planes of chunk `index`.
    pub fn planes_of(&self, index: usize) -> usize {
        self.planes.min(self.total - index * self.planes)
    }

    fn first_block(&self, index: usize) -> usize {
        index * self.voxels().div_ceil(self.piece)
    }

    /// Blocks of the sums of all chunks.
    pub fn sum_blocks(&self) -> usize {
        let last = self.count() - 1;
        self.first_block(last) + (self.planes_of(last) * self.plane).div_ceil(self.piece)
    }
}

/// Rows of the columns: every tap of the cross, the centre twice.
pub fn cross_rows(shape: &DecompConvShape) -> usize {
    (3 * shape.kernel - 1) * shape.in_channels
}

/// Row of the columns that the k taps of an axis begin with.
pub fn first_row(shape: &DecompConvShape, axis: usize) -> usize {
    [0, shape.kernel - 1, 2 * shape.kernel - 1][axis] * shape.in_channels
}

impl DecompDenseParams {
    /// Parameters with the sizes filled in and everything else null.
    pub fn new(shape: &DecompConvShape) -> Self {
        let size = |size: [usize; 3]| size.map(|d| d as u32);
        DecompDenseParams {
            batch: shape.batch as u64,
            in_channels: shape.in_channels as u32,
            out_channels: shape.out_channels as u32,
            in_size: size(shape.in_size),
            out_size: size(shape.out_size),
            kernel: shape.kernel as u32,
            stride: shape.stride as u32,
            taps: 3 * shape.kernel as u32 - 1,
            span: 1,
            ..Default::default()
        }
    }

    /// Turns to a chunk.
    pub fn chunk(&mut self, chunks: &Chunks, index: usize) {
        (self.first, self.planes) = ((index * chunks.planes) as u64, chunks.planes_of(index) as u32);
        self.planes_before = if index > 0 { chunks.planes as u32 } else { 0 };
        self.block = chunks.first_block(index) as u32;
        // What the planes up to a halo before the end reach is complete; the last chunk completes the rest.
        let end = |index: usize| ((index + 1) * chunks.planes).min(chunks.total);
        let complete = |index: usize| end(index) - if end(index) == chunks.total { 0 } else { chunks.halo };
        let begin = if index > 0 { complete(index - 1) } else { 0 };
        (self.gather, self.gathers) = (begin as u64, (complete(index) - begin) as u32);
        let aligned = |p: &DevicePtr| p.0.is_multiple_of(16);
        self.vector = (chunks.plane.is_multiple_of(4) && [self.g, self.y].iter().all(aligned)) as u32;
    }

    fn weights(&self) -> usize {
        3 * self.out_channels as usize * self.in_channels as usize * self.kernel as usize
    }

    fn voxels(&self) -> usize {
        self.planes as usize * self.out_size[1] as usize * self.out_size[2] as usize
    }
}

/// The weights in the columns' order.
///
/// # Safety
/// `w` and `matrices` are as documented, valid until the launch has completed on the launcher's stream.
pub unsafe fn matrices(launcher: &dyn Launcher, dtype: DType, params: &DecompDenseParams) -> Result<()> {
    unsafe { by_thread(&MATRICES, launcher, dtype, params, params.weights()) }
}

/// The scaled weights of the cross.
///
/// # Safety
/// As for [`matrices`], with `scale` and `folded`.
pub unsafe fn fold(launcher: &dyn Launcher, dtype: DType, params: &DecompDenseParams) -> Result<()> {
    unsafe { by_thread(&FOLD, launcher, dtype, params, params.weights()) }
}

/// dw (those not null) from `products`.
///
/// # Safety
/// As for [`matrices`], with `products` and `dw`.
pub unsafe fn weight_gradient(launcher: &dyn Launcher, params: &DecompDenseParams) -> Result<()> {
    unsafe { by_thread(&WEIGHT_GRADIENT, launcher, DType::F32, params, params.weights()) }
}

/// The columns of a chunk.
///
/// # Safety
/// As for [`matrices`], with `x` and `columns`.
pub unsafe fn columns(launcher: &dyn Launcher, dtype: DType, params: &mut DecompDenseParams) -> Result<()> {
    let plane = params.out_size[1] as usize * params.out_size[2] as usize;
    let host = launcher.properties().compute_capability == 0;
    let span = plane.min(if host { HOST_SPAN } else { GPU_SPAN });
    params.span = span as u32;
    let rows = params.taps as usize * params.in_channels as usize;
    unsafe { by_thread(&COLUMNS, launcher, dtype, params, rows * params.planes as usize * plane.div_ceil(span)) }
}

/// Sums of the branches of a chunk.
///
/// # Safety
/// As for [`matrices`], with `z` and `partial`; chunk 0 goes first.
pub unsafe fn moments(launcher: &dyn Launcher, params: &DecompDenseParams) -> Result<()> {
    unsafe { by_piece(&MOMENTS, launcher, DType::F32, params) }
}

/// y of a chunk, from the sum of its scaled branches.
///
/// # Safety
/// As for [`matrices`], with `z`, `shift` and `y`.
pub unsafe fn write(launcher: &dyn Launcher, dtype: DType, params: &DecompDenseParams) -> Result<()> {
    unsafe { by_piece(&WRITE, launcher, dtype, params) }
}

/// Sums of the gradient against the branches of a chunk.
///
/// # Safety
/// As for [`matrices`], with `g`, `mean`, `scale`, `shift`, `partial` and, where there are `branches`, `z`.
pub unsafe fn gradient_sums(launcher: &dyn Launcher, dtype: DType, params: &DecompDenseParams) -> Result<()> {
    unsafe { by_piece(&GRADIENT_SUMS, launcher, dtype, params) }
}

/// dz of a chunk.
///
/// # Safety
/// As for [`gradient_sums`], with `coefficients` and `dz`.
pub unsafe fn branch_gradient(launcher: &dyn Launcher, dtype: DType, params: &DecompDenseParams) -> Result<()> {
    unsafe { by_piece(&BRANCH_GRADIENT, launcher, dtype, params) }
}

/// What a chunk and the one before complete of dx.
///
/// # Safety
/// As for [`matrices`], with `columns` and `before` the gradients of the columns of the two, and `dx`.
pub unsafe fn input_gradient(launcher: &dyn Launcher, dtype: DType, params: &DecompDenseParams) -> Result<()> {
    let segment = launcher.config(INPUT_GRADIENT.of(dtype))?.tile[1];
    let [_, d2, d3] = params.in_size;
    let lines = params.in_channels as usize * (params.gathers * params.stride) as usize * d2 as usize;
    unsafe { by_thread(&INPUT_GRADIENT, launcher, dtype, params, lines * d3.div_ceil(segment) as usize) }
}

unsafe fn by_thread(
    kernel: &'static Kernel<DecompDenseParams>,
    launcher: &dyn Launcher,
    dtype: DType,
    params: &DecompDenseParams,
    items: usize,
) -> Result<()> {
    let per_block = launcher.config(kernel.of(dtype))?.tile[0] as usize;
    unsafe { kernel.launch(launcher, dtype, Grid::covering(items, per_block), params) }
}

unsafe fn by_piece(
    kernel: &'static Kernel<DecompDenseParams>,
    launcher: &dyn Launcher,
    dtype: DType,
    params: &DecompDenseParams,
) -> Result<()> {
    let piece = launcher.config(kernel.of(dtype))?.tile[0] as usize;
    let grid = Grid([params.voxels().div_ceil(piece) as u32, params.out_channels, 1]);
    unsafe { kernel.launch(launcher, dtype, grid, params) }
}
