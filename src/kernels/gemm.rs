//! Matrix products and column sums: geometry and launches. See `kernels/gemm/gemm.cu`.

use super::{DType, DevicePtr, Entry, Grid, Launcher, Write};
use crate::{Error, Result};

include!(concat!(env!("OUT_DIR"), "/abi/gemm.rs"));

/// The arithmetic of f32 products.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    /// Full f32.
    #[default]
    F32,
    /// f32 operands rounded to TF32 (10 mantissa bits) on tensor cores, f32 accumulation. The host's library computes
    /// in full f32 under either name.
    Tf32,
}

/// Our kernels for a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variant {
    /// One thread an element, no shared memory: the readable reference.
    Naive,
    /// Tiles in shared memory; bf16 and TF32 on tensor cores.
    Tiled,
}

/// C = alpha op(A) op(B) + bias, or C += that. All row-major and contiguous; sums accumulate in f32.
#[derive(Clone, Copy, Debug)]
pub struct GemmCall {
    /// Storage type of A and B.
    pub dtype: DType,
    /// Storage type of C and bias: `dtype`, or f32 for bf16 operands.
    pub out: DType,
    /// Arithmetic when `dtype` is f32.
    pub precision: Precision,
    /// [m, k], or [k, m] with `transpose_a`.
    pub a: DevicePtr,
    /// [k, n], or [n, k] with `transpose_b`.
    pub b: DevicePtr,
    /// `[n]`, added to every row (not scaled by alpha), or null.
    pub bias: DevicePtr,
    /// [m, n].
    pub c: DevicePtr,
    /// Rows of C.
    pub m: usize,
    /// Columns of C.
    pub n: usize,
    /// Terms of each sum.
    pub k: usize,
    /// A is stored transposed.
    pub transpose_a: bool,
    /// B is stored transposed.
    pub transpose_b: bool,
    /// Factor of the product.
    pub alpha: f32,
    /// Whether C is overwritten or added to.
    pub write: Write,
}

/// How many blocks of a tiled product to aim for: two on each of the 132 multiprocessors of an H100 or H200. The same on
/// every device, so that a sum has the same order everywhere.
const BLOCKS: usize = 264;
/// Fewest steps of a tile's depth that are worth a part of their own.
const STEPS: usize = 8;

/// The parts that the sums of a tiled product of `tiles` tiles of C over `steps` steps are split into, and the steps of
/// one part.
pub(super) fn split(tiles: usize, steps: usize) -> (usize, usize) {
    let parts = (BLOCKS / tiles.max(1)).clamp(1, (steps / STEPS).max(1));
    let length = steps.div_ceil(parts).max(1);
    (steps.div_ceil(length).max(1), length)
}

/// The entry for a tiled product.
fn tiled(call: &GemmCall) -> &'static Entry {
    let layout = 2 * call.transpose_a as usize + call.transpose_b as usize;
    match (call.dtype, call.precision) {
        (DType::Bf16, _) if call.n <= 64 => NARROW_BF16.nth(layout),
        (DType::Bf16, _) => WIDE_BF16.nth(layout),
        (DType::F32, Precision::Tf32) => TF32.nth(layout),
        (DType::F32, Precision::F32) => F32.nth(layout),
    }
}

/// The grid of a tiled product, and the terms of one part of its sums.
fn tiled_grid(launcher: &dyn Launcher, call: &GemmCall) -> Result<(Grid, usize)> {
    let [rows, columns, bytes, _] = launcher.config(tiled(call))?.tile.map(|n| n as usize);
    let depth = bytes / call.dtype.size();
    let tiles = call.m.div_ceil(rows) * call.n.div_ceil(columns);
    if tiles > i32::MAX as usize {
        return Err(Error::argument(
            "gemm",
            format!("a result of {} x {} has too many tiles", call.m, call.n),
            "multiply in parts",
        ));
    }
    let (parts, steps) = split(tiles, call.k.div_ceil(depth));
    Ok((Grid([tiles as u32, 1, parts as u32]), steps * depth))
}

/// f32 elements of the workspace of [`gemm`]; 0 for most products.
pub fn gemm_workspace(launcher: &dyn Launcher, variant: Variant, call: &GemmCall) -> Result<usize> {
    if variant == Variant::Naive {
        return Ok(0);
    }
    let parts = tiled_grid(launcher, call)?.0.0[2] as usize;
    Ok(if parts > 1 { parts * call.m * call.n } else { 0 })
}

/// The product by our kernels.
///
/// # Errors
/// Storage types other than f32 to f32, bf16 to bf16 and bf16 to f32 are refused.
///
/// # Safety
/// The pointers hold the extents [`GemmCall`] documents, aligned to their element, and `workspace` as many f32 as
/// [`gemm_workspace`] says; C overlaps none of the others, and all stay valid until the launch has completed on the
/// launcher's stream.
pub unsafe fn gemm(launcher: &dyn Launcher, variant: Variant, call: &GemmCall, workspace: DevicePtr) -> Result<()> {
    if call.m == 0 || call.n == 0 {
        return Ok(());
    }
    if call.dtype != call.out && call.out == DType::Bf16 {
        return Err(Error::argument(
            "gemm",
            format!("{} operands cannot give a {} result", call.dtype.name(), call.out.name()),
            "use one type, or bf16 operands and an f32 result",
        ));
    }
    let mut params = GemmParams {
        a: call.a,
        b: call.b,
        bias: call.bias,
        c: call.c,
        m: call.m as u64,
        n: call.n as u64,
        k: call.k as u64,
        alpha: call.alpha,
        transpose_a: call.transpose_a as u32,
        transpose_b: call.transpose_b as u32,
        accumulate: call.write.flag(),
        aligned_a: call.aligned(call.a, if call.transpose_a { call.m } else { call.k }),
        aligned_b: call.aligned(call.b, if call.transpose_b { call.k } else { call.n }),
        wide: (call.dtype != call.out) as u32,
        split_depth: call.k as u64,
        partials: DevicePtr::NULL,
    };
    let launch = |entry: &'static Entry, grid: Grid, params: &GemmParams| unsafe {
        launcher.launch(entry, grid, (params as *const GemmParams).cast())
    };
    // Tiles are written in pairs of elements, which a view of C from an odd element on would not allow.
    if variant == Variant::Naive || call.c.0 % (2 * call.out.size() as u64) != 0 {
        let entry = if call.dtype == call.out { NAIVE.of(call.dtype) } else { NAIVE_BF16.entry() };
        let per_block = launcher.config(entry)?.tile[0] as usize;
        return launch(entry, Grid::covering(call.m * call.n, per_block), &params);
    }
    let (grid, split_depth) = tiled_grid(launcher, call)?;
    params.split_depth = split_depth as u64;
    let parts = grid.0[2] as usize;
    if parts == 1 {
        return launch(tiled(call), grid, &params);
    }
    params.partials = workspace;
    launch(tiled(call), grid, &params)?;
    let size = [call.m, call.n];
    unsafe { add_parts(launcher, call.out, workspace, parts, size, call.alpha, call.bias, call.c, call.write) }
}

/// C = alpha (sum of the parts, in their order) + bias, or C += that.
///
/// # Safety
/// `partials` holds [parts, m, n] f32, C [m, n] and the bias, where not null, [n] elements of `out`, valid until the
/// launch has completed on the launcher's stream.
#[allow(clippy::too_many_arguments)] // a launch is its operands
pub(super) unsafe fn add_parts(
    launcher: &dyn Launcher,
    out: DType,
    partials: DevicePtr,
    parts: usize,
    [m, n]: [usize; 2],
    alpha: f32,
    bias: DevicePtr,
    c: DevicePtr,
    write: Write,
) -> Result<()> {
    let per_block = launcher.config(ADD_PARTS.of(out))?.tile[0] as usize;
    let (parts, accumulate) = (parts as u64, write.flag());
    let params = AddPartsParams { partials, bias, c, parts, m: m as u64, n: n as u64, alpha, accumulate };
    unsafe { ADD_PARTS.launch(launcher, out, Grid::covering(m * n, per_block), &params) }
}

impl GemmCall {
    /// 1 when an operand whose rows as stored have `row` elements can be read 16 bytes at a time.
    fn aligned(&self, operand: DevicePtr, row: usize) -> u32 {
        (operand.0 % 16 == 0 && row * self.dtype.size() % 16 == 0) as u32
    }
}

/// Rows that one thread of the first stage of [`column_sum`] adds up.
fn chunk_rows(m: usize) -> usize {
    // The two stages are chains of dependent additions; equal lengths make their sum shortest.
    m.isqrt().max(32)
}

/// f32 elements of the workspace of [`column_sum`].
pub fn column_sum_workspace(m: usize, n: usize) -> usize {
    m.div_ceil(chunk_rows(m)) * n
}

/// `out[j]` = sum over i of `x[i, j]`, or `out +=` that; the order of the additions depends on `m` alone.
///
/// # Safety
/// `x` holds [m, n] elements of `dtype`, aligned to 16 bytes, `out` n elements of `out_dtype`, `workspace` [`column_sum_workspace`] f32; all
/// valid until the launches have completed on the launcher's stream.
#[allow(clippy::too_many_arguments)] // a launch is its operands
pub unsafe fn column_sum(
    launcher: &dyn Launcher,
    dtype: DType,
    x: DevicePtr,
    [m, n]: [usize; 2],
    out_dtype: DType,
    out: DevicePtr,
    write: Write,
    workspace: DevicePtr,
) -> Result<()> {
    if n == 0 {
        return Ok(());
    }
    let rows = chunk_rows(m);
    let chunks = m.div_ceil(rows);
    let columns = launcher.config(COLUMN_SUM_PARTIAL.of(dtype))?.tile[0] as usize;
    let threads = launcher.config(COLUMN_SUM_PARTIAL.of(dtype))?.threads as usize;
    let params =
        ColumnSumParams { input: x, out: workspace, m: m as u64, n: n as u64, rows: rows as u64, accumulate: 0 };
    let finish =
        ColumnSumParams { input: workspace, out, m: chunks as u64, n: n as u64, rows: 0, accumulate: write.flag() };
    unsafe {
        if chunks > 0 {
            let grid = Grid::covering(chunks * n.div_ceil(columns), threads);
            COLUMN_SUM_PARTIAL.launch(launcher, dtype, grid, &params)?;
        }
        COLUMN_SUM_FINISH.launch(launcher, out_dtype, Grid::covering(n, threads), &finish)
    }
}
