//! Symmetric contrastive loss over pairs of embedding sets: parameters, geometry and launches. See `kernels/contrastive.cu`.

use super::{DType, DevicePtr, Grid, Kernel, Launcher, kernels};
use crate::Result;

/// Pairs, or terms of a gradient, that one launch takes.
pub const MAX_PAIRS: usize = 4;

/// The largest scale for which normalised embeddings need no running maximum: exp(-2 * 40) is still a normal f32.
pub const MAX_BOUNDED_SCALE: f32 = 40.0;

kernels! {
    family "contrastive" slot 7;

    params {
        /// Operands of the norms.
        ContrastiveNormParams {
            /// `[n, d]`.
            x: DevicePtr,
            /// f32 `[n]`.
            inverse_norms: DevicePtr,
            /// Embeddings.
            n: u64,
            /// Their length.
            d: u64,
        }
        /// One pair of embedding sets: rows from `a`, columns from `b`. Null norms: the embeddings are used as they are.
        ContrastivePair {
            /// `[rows, d]`.
            a: DevicePtr,
            /// `[columns, d]`.
            b: DevicePtr,
            /// f32 `[rows]`, or null.
            a_inverse_norms: DevicePtr,
            /// f32 `[columns]`, or null.
            b_inverse_norms: DevicePtr,
            /// Workspace of two f32 `[strips, rows]`: (shift, sum of exp(logit - shift)) of a strip of columns.
            row_partials: DevicePtr,
            /// The same for strips of rows, `[strips, columns]`.
            column_partials: DevicePtr,
            /// Two f32 `[columns]`: the strips of rows merged, for [`column_sums`]; or null.
            column_sums: DevicePtr,
            /// Workspace, f32 `[rows]`.
            diagonal_logits: DevicePtr,
            /// Two f32 `[rows]`: (shift, 1 / sum over the row of exp(logit - shift)).
            row_softmax: DevicePtr,
            /// The same of the columns that match the rows. Sigmoid: (0, sum of the gradients of the column's logits).
            column_softmax: DevicePtr,
            /// f32 `[rows]`: the gradient of the matching logit, before `factor` and `weight`.
            diagonal: DevicePtr,
            /// Of this pair's loss.
            weight: f32,
            /// Fills the struct.
            unused: u32,
        }
        /// What every kernel needs to know of the logits.
        ContrastiveProblem {
            /// f32 `[rows]`, or null: no two items are the same.
            row_ids: DevicePtr,
            /// f32 `[columns]`, or null.
            column_ids: DevicePtr,
            /// One f32 that replaces `scale`, or null.
            scale_tensor: DevicePtr,
            /// One f32 that replaces `bias`, or null.
            bias_tensor: DevicePtr,
            /// Embeddings of a set that are rows here.
            rows: u64,
            /// Embeddings of a set.
            columns: u64,
            /// Row i matches column offset + i.
            offset: u64,
            /// The embeddings' length.
            d: u64,
            /// logit = scale * inner product + bias.
            scale: f32,
            /// See `scale`; 0 for a softmax.
            bias: f32,
            /// A [`Mode`].
            mode: u32,
            /// Fills the struct.
            unused: u32,
        }
        /// Operands of the forward kernels.
        ContrastiveForwardParams {
            /// The first `pair_count` count.
            pairs: [ContrastivePair; MAX_PAIRS],
            /// The logits.
            problem: ContrastiveProblem,
            /// Workspace, f64 `[pair_count, ceil(rows / 256)]`.
            loss_partials: DevicePtr,
            /// One f32.
            loss: DevicePtr,
            /// Of every row's loss.
            factor: f32,
            /// Pairs.
            pair_count: u32,
            /// Strips of rows, and as many of columns.
            strips: u32,
            /// Strips of `column_partials` where they are finished: `strips`, or the number of shards.
            column_strips: u32,
            /// 1: `loss += result`.
            accumulate: u32,
            /// Fills the struct.
            unused: u32,
        }
        /// A pair seen from the set whose gradient is wanted.
        ContrastiveTerm {
            /// The other set, `[columns, d]`.
            partner: DevicePtr,
            /// f32 `[columns]`, or null.
            partner_inverse_norms: DevicePtr,
            /// This set's softmax over the partner's embeddings, `[rows]`.
            own_softmax: DevicePtr,
            /// The partner's over this set's, `[columns]`.
            partner_softmax: DevicePtr,
            /// f32 `[rows]`, of the forward pass.
            diagonal: DevicePtr,
            /// Of the pair's loss.
            weight: f32,
            /// Fills the struct.
            unused: u32,
        }
        /// Operands of the gradient kernels.
        ContrastiveGradientParams {
            /// The first `term_count` count.
            terms: [ContrastiveTerm; MAX_PAIRS],
            /// The logits.
            problem: ContrastiveProblem,
            /// `[rows, d]`.
            x: DevicePtr,
            /// f32 `[rows]`, or null: the embeddings are used as they are.
            x_inverse_norms: DevicePtr,
            /// One f32: the gradient of the loss.
            upstream: DevicePtr,
            /// `[rows, d]`, or null.
            dx: DevicePtr,
            /// f32 `[rows]`, or null: what each row adds to the gradient of the scale.
            slopes: DevicePtr,
            /// Of every row's loss.
            factor: f32,
            /// Terms.
            term_count: u32,
            /// 1: `dx += result`.
            accumulate: u32,
            /// Fills the struct.
            unused: u32,
        }
        /// Operands of the gradients of scale and bias.
        ContrastiveScaleParams {
            /// f32 `[n]`, `stride` apart.
            slopes: DevicePtr,
            /// One f32, or null: 1.
            upstream: DevicePtr,
            /// One f32.
            gradient: DevicePtr,
            /// Slopes.
            n: u64,
            /// Of the sum.
            factor: f32,
            /// f32 between two slopes.
            stride: u32,
            /// 1: `gradient += result`.
            accumulate: u32,
            /// Fills the struct.
            unused: u32,
        }
    }

    kernels {
        /// 1 / max(norm, 1e-12) of every embedding.
        NORMS(ContrastiveNormParams) = [contrastive_norms_f32, contrastive_norms_bf16];
        /// Sums of exponentials, variant 1.
        NAIVE(ContrastiveForwardParams) = [contrastive_naive_f32, contrastive_naive_bf16];
        /// Sums of exponentials, variant 2.
        TILED(ContrastiveForwardParams) = [contrastive_tiled_f32, contrastive_tiled_bf16];
        /// Sums of exponentials, variant 3.
        MMA(ContrastiveForwardParams) = [contrastive_mma_f32, contrastive_mma_bf16];
        /// Softmax normalisers and losses of the rows.
        ROWS(ContrastiveForwardParams) = [contrastive_rows];
        /// Sums of the columns over this shard's rows.
        COLUMNS(ContrastiveForwardParams) = [contrastive_columns];
        /// The loss.
        LOSS(ContrastiveForwardParams) = [contrastive_loss];
        /// Gradient of a set, variant 1.
        GRADIENT_NAIVE(ContrastiveGradientParams) = [contrastive_gradient_naive_f32, contrastive_gradient_naive_bf16];
        /// Gradient of a set, variant 2.
        GRADIENT_TILED(ContrastiveGradientParams) = [contrastive_gradient_tiled_f32, contrastive_gradient_tiled_bf16];
        /// Gradient of a set, variant 3.
        GRADIENT_MMA(ContrastiveGradientParams) = [contrastive_gradient_mma_f32, contrastive_gradient_mma_bf16];
        /// Gradient of the scale, or of the bias.
        SCALE(ContrastiveScaleParams) = [contrastive_scale];
    }
}

/// How logits become a loss, as the kernels are told.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Softmax of rows and columns, each with its running maximum.
    RunningMaximum = 0,
    /// Softmax where no logit exceeds the scale, and the scale no [`MAX_BOUNDED_SCALE`]: one exponential for both sides.
    Bounded = 1,
    /// Every logit on its own.
    Sigmoid = 2,
}

/// What the products of the embeddings are computed in; sums are f32 or better everywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// IEEE single precision.
    F32,
    /// Operands rounded to 10 mantissa bits.
    Tf32,
    /// Operands as they are stored, 7 mantissa bits.
    Bf16,
}

/// Which kernels compute the tiles.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Variant {
    /// One thread a row, no shared memory: the readable reference.
    Naive,
    /// f32 arithmetic on register tiles fed from shared memory.
    #[default]
    Tiled,
    /// Tensor cores: bf16 products of bf16 embeddings, TF32 products of f32 ones (10 mantissa bits: logits are off by
    /// about 1e-3 of the scale). Inner products of the embeddings as given must not overflow.
    TensorCores,
}

impl Variant {
    /// Every variant.
    pub const ALL: [Variant; 3] = [Variant::Naive, Variant::Tiled, Variant::TensorCores];

    /// What this variant multiplies embeddings of a storage type in.
    pub fn precision(self, dtype: DType) -> Precision {
        match (self, dtype) {
            (Variant::TensorCores, DType::F32) => Precision::Tf32,
            (Variant::TensorCores, DType::Bf16) => Precision::Bf16,
            _ => Precision::F32,
        }
    }

    fn forward(self) -> &'static Kernel<ContrastiveForwardParams> {
        match self {
            Variant::Naive => &NAIVE,
            Variant::Tiled => &TILED,
            Variant::TensorCores => &MMA,
        }
    }

    fn gradient(self) -> &'static Kernel<ContrastiveGradientParams> {
        match self {
            Variant::Naive => &GRADIENT_NAIVE,
            Variant::Tiled => &GRADIENT_TILED,
            Variant::TensorCores => &GRADIENT_MMA,
        }
    }
}

/// Strips of rows (and of columns) for `n` columns: the first axis of the partial sums' workspace.
pub fn strips(launcher: &dyn Launcher, variant: Variant, dtype: DType, n: usize) -> Result<usize> {
    let tile = launcher.config(variant.forward().of(dtype))?.tile;
    Ok(n.div_ceil(tile[0] as usize).clamp(1, tile[1] as usize))
}

/// Elements of `loss_partials` per pair.
pub fn loss_partials(launcher: &dyn Launcher, n: usize) -> Result<usize> {
    Ok(n.div_ceil(launcher.config(ROWS.entry())?.tile[0] as usize))
}

/// `inverse_norms[i] = 1 / max(|x_i|, 1e-12)`.
///
/// # Safety
/// `x` holds `n * d` elements of `dtype`, `inverse_norms` `n` f32, both until the launch has completed.
pub unsafe fn norms(
    launcher: &dyn Launcher,
    dtype: DType,
    x: DevicePtr,
    inverse_norms: DevicePtr,
    n: usize,
    d: usize,
) -> Result<()> {
    let rows = launcher.config(NORMS.of(dtype))?.tile[0] as usize;
    let params = ContrastiveNormParams { x, inverse_norms, n: n as u64, d: d as u64 };
    unsafe { NORMS.launch(launcher, dtype, Grid::covering(n, rows), &params) }
}

/// The sums of every pair's rows and columns: `row_partials`, `column_partials` and `diagonal_logits`. `params.strips` is
/// set here.
///
/// # Safety
/// Every pointer that the parameter structs do not call optional holds what they document, with [`strips`] strips, until
/// the launch has completed; the norms are already there.
pub unsafe fn sums(
    launcher: &dyn Launcher,
    variant: Variant,
    dtype: DType,
    params: &ContrastiveForwardParams,
) -> Result<()> {
    let kernel = variant.forward();
    let grid = match variant {
        Variant::Naive => {
            let rows = launcher.config(kernel.of(dtype))?.tile[0] as usize;
            Grid([Grid::covering(params.problem.columns as usize, rows).0[0], 1, params.pair_count])
        }
        Variant::Tiled | Variant::TensorCores => Grid([params.strips, params.strips, params.pair_count]),
    };
    unsafe { kernel.launch(launcher, dtype, grid, params) }
}

/// `column_sums` of every pair: the strips of `column_partials` merged.
///
/// # Safety
/// As for [`sums`], whose results are read.
pub unsafe fn column_sums(launcher: &dyn Launcher, params: &ContrastiveForwardParams) -> Result<()> {
    let columns = launcher.config(COLUMNS.entry())?.tile[0] as usize;
    let grid = Grid([Grid::covering(params.problem.columns as usize, columns).0[0], params.pair_count, 1]);
    unsafe { COLUMNS.launch_only(launcher, grid, params) }
}

/// The loss of the rows, and what its gradient needs: `row_softmax`, `column_softmax`, `diagonal` of each pair.
///
/// # Safety
/// As for [`sums`], whose results are read; `column_partials` has `column_strips` strips.
pub unsafe fn finish(launcher: &dyn Launcher, params: &ContrastiveForwardParams) -> Result<()> {
    let rows = Grid([loss_partials(launcher, params.problem.rows as usize)? as u32, params.pair_count, 1]);
    unsafe {
        ROWS.launch_only(launcher, rows, params)?;
        LOSS.launch_only(launcher, Grid([1, 1, 1]), params)
    }
}

/// The gradient of one set, and its rows' share of the gradient of the scale.
///
/// # Safety
/// Every pointer that the parameter structs do not call optional holds what they document until the launch has completed.
pub unsafe fn gradient(
    launcher: &dyn Launcher,
    variant: Variant,
    dtype: DType,
    params: &ContrastiveGradientParams,
) -> Result<()> {
    let kernel = variant.gradient();
    let tile = launcher.config(kernel.of(dtype))?.tile;
    let mut grid = Grid::covering(params.problem.rows as usize, tile[0] as usize);
    if variant != Variant::Naive && params.dx != DevicePtr::NULL {
        grid.0[1] = (params.problem.d as usize).div_ceil(tile[1] as usize).max(1) as u32;
    }
    unsafe { kernel.launch(launcher, dtype, grid, params) }
}

/// `gradient = upstream * factor * sum of the slopes`: the gradient of the scale, or of the bias.
///
/// # Safety
/// The pointers that are not optional hold what [`ContrastiveScaleParams`] documents until the launch has completed.
pub unsafe fn scale_gradient(launcher: &dyn Launcher, params: &ContrastiveScaleParams) -> Result<()> {
    unsafe { SCALE.launch_only(launcher, Grid([1, 1, 1]), params) }
}
