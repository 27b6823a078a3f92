//! Matrix products and column sums: geometry and launches. See `kernels/gemm.cu`.

use super::{DType, DevicePtr, Grid, Launcher, Write, kernels};
use crate::{Error, Result};

kernels! {
    family "gemm" slot 2;

    params {
        /// Operands of a matrix product; see [`GemmCall`] for their meaning.
        GemmParams {
            /// op(A).
            a: DevicePtr,
            /// op(B).
            b: DevicePtr,
            /// Added to every row, or null.
            bias: DevicePtr,
            /// The product.
            c: DevicePtr,
            /// Rows of C.
            m: u64,
            /// Columns of C.
            n: u64,
            /// Terms of each sum.
            k: u64,
            /// Factor of the product.
            alpha: f32,
            /// 1: A is stored [k, m].
            transpose_a: u32,
            /// 1: B is stored [n, k].
            transpose_b: u32,
            /// 1: C += result.
            accumulate: u32,
        }
        /// Operands of the two stages of a column sum.
        ColumnSumParams {
            /// [m, n] for the first stage, [m, n] partial sums for the second.
            input: DevicePtr,
            /// [chunks, n] f32 for the first stage, [n] for the second.
            out: DevicePtr,
            /// Rows of `input`.
            m: u64,
            /// Columns.
            n: u64,
            /// Rows that one thread sums.
            rows: u64,
            /// 1: out += result.
            accumulate: u32,
        }
    }

    kernels {
        /// One thread an element; tile[0] elements a block.
        NAIVE(GemmParams) = [gemm_naive_f32, gemm_naive_bf16];
        /// The same, bf16 operands and an f32 result.
        NAIVE_TO_F32(GemmParams) = [gemm_naive_bf16_f32];
        /// out[chunk, j] = sum of `rows` rows of column j; a thread takes tile[0] columns of one chunk.
        COLUMN_SUM_PARTIAL(ColumnSumParams) = [column_sum_partial_f32, column_sum_partial_bf16];
        /// out[j] = sum over the chunks.
        COLUMN_SUM_FINISH(ColumnSumParams) = [column_sum_finish_f32, column_sum_finish_bf16];
    }
}

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
    /// [n], added to every row (not scaled by alpha), or null.
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

/// The product by our kernels.
///
/// # Errors
/// Storage types other than f32 to f32, bf16 to bf16 and bf16 to f32 are refused.
///
/// # Safety
/// The pointers hold the extents [`GemmCall`] documents, aligned to their element, C overlaps none of the others, and all
/// stay valid until the launch has completed on the launcher's stream.
pub unsafe fn gemm(launcher: &dyn Launcher, variant: Variant, call: &GemmCall) -> Result<()> {
    if call.m == 0 || call.n == 0 {
        return Ok(());
    }
    let kernel = match (variant, call.dtype, call.out) {
        (Variant::Naive, a, c) if a == c => &NAIVE,
        (Variant::Naive, DType::Bf16, DType::F32) => &NAIVE_TO_F32,
        _ => {
            return Err(Error::argument(
                "gemm",
                format!("{} operands cannot give a {} result", call.dtype.name(), call.out.name()),
                "use one type, or bf16 operands and an f32 result",
            ));
        }
    };
    let entry = if call.dtype == call.out { kernel.of(call.dtype) } else { kernel.entry() };
    let params = GemmParams {
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
    };
    let tile = launcher.config(entry)?.tile;
    let grid = match variant {
        Variant::Naive => Grid::covering(call.m * call.n, tile[0] as usize),
    };
    unsafe { launcher.launch(entry, grid, (&raw const params).cast()) }
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

/// out[j] = sum over i of x[i, j], or `out +=` that; the order of the additions depends on `m` alone.
///
/// # Safety
/// `x` holds [m, n] elements of `dtype`, `out` n elements of `out_dtype`, `workspace` [`column_sum_workspace`] f32; all
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
