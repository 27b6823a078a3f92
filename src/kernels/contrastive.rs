//! Symmetric contrastive loss over pairs of embedding sets: parameters, geometry and launches. See `kernels/contrastive.cu`.

use super::{DType, DevicePtr, Grid, Kernel, Launcher, Write, kernels};
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
            /// `[n, d]`.
            a: DevicePtr,
            /// `[n, d]`.
            b: DevicePtr,
            /// f32 `[n]`, or null.
            a_inverse_norms: DevicePtr,
            /// f32 `[n]`, or null.
            b_inverse_norms: DevicePtr,
            /// Workspace of two f32 `[strips, n]`: (shift, sum of exp(logit - shift)) of a strip of columns.
            row_partials: DevicePtr,
            /// The same for strips of rows.
            column_partials: DevicePtr,
            /// Workspace, f32 `[n]`.
            diagonal_logits: DevicePtr,
            /// Two f32 `[n]`: (shift, 1 / sum over the row of exp(logit - shift)).
            row_softmax: DevicePtr,
            /// The same over columns.
            column_softmax: DevicePtr,
            /// f32 `[n]`: the row's and the column's probability of the true match, each less one, added.
            diagonal: DevicePtr,
            /// Of this pair's loss.
            weight: f32,
            /// Fills the struct.
            unused: u32,
        }
        /// Operands of the forward kernels.
        ContrastiveForwardParams {
            /// The first `pair_count` count.
            pairs: [ContrastivePair; MAX_PAIRS],
            /// One f32 that replaces `scale`, or null.
            scale_tensor: DevicePtr,
            /// Workspace, f64 `[pair_count, ceil(n / 256)]`.
            loss_partials: DevicePtr,
            /// One f32.
            loss: DevicePtr,
            /// Embeddings of a set.
            n: u64,
            /// Their length.
            d: u64,
            /// logit = scale * inner product.
            scale: f32,
            /// 1/n for the mean over the batch, 1 for the sum.
            factor: f32,
            /// Pairs.
            pair_count: u32,
            /// Strips of rows, and as many of columns.
            strips: u32,
            /// 1: no logit exceeds `scale`, and `scale <= 40`.
            bounded: u32,
            /// 1: `loss += result`.
            accumulate: u32,
        }
        /// A pair seen from the set whose gradient is wanted.
        ContrastiveTerm {
            /// The other set, `[n, d]`.
            partner: DevicePtr,
            /// f32 `[n]`, or null.
            partner_inverse_norms: DevicePtr,
            /// This set's softmax over the partner's embeddings.
            own_softmax: DevicePtr,
            /// The partner's over this set's.
            partner_softmax: DevicePtr,
            /// f32 `[n]`, of the forward pass.
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
            /// `[n, d]`.
            x: DevicePtr,
            /// f32 `[n]`, or null: the embeddings are used as they are.
            x_inverse_norms: DevicePtr,
            /// One f32 that replaces `scale`, or null.
            scale_tensor: DevicePtr,
            /// One f32: the gradient of the loss.
            upstream: DevicePtr,
            /// `[n, d]`, or null.
            dx: DevicePtr,
            /// f32 `[n]`, or null: what each row adds to the gradient of the scale.
            slopes: DevicePtr,
            /// Embeddings of a set.
            n: u64,
            /// Their length.
            d: u64,
            /// logit = scale * inner product.
            scale: f32,
            /// 1 / (2 n) for the mean over the batch, 1/2 for the sum.
            factor: f32,
            /// Terms.
            term_count: u32,
            /// As in the forward pass.
            bounded: u32,
            /// 1: `dx += result`.
            accumulate: u32,
            /// Fills the struct.
            unused: u32,
        }
        /// Operands of the gradient of the scale.
        ContrastiveScaleParams {
            /// f32 `[n]`.
            slopes: DevicePtr,
            /// One f32.
            dscale: DevicePtr,
            /// Slopes.
            n: u64,
            /// 1: `dscale += result`.
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
        /// The loss.
        LOSS(ContrastiveForwardParams) = [contrastive_loss];
        /// Gradient of a set, variant 1.
        GRADIENT_NAIVE(ContrastiveGradientParams) = [contrastive_gradient_naive_f32, contrastive_gradient_naive_bf16];
        /// Gradient of a set, variant 2.
        GRADIENT_TILED(ContrastiveGradientParams) = [contrastive_gradient_tiled_f32, contrastive_gradient_tiled_bf16];
        /// Gradient of a set, variant 3.
        GRADIENT_MMA(ContrastiveGradientParams) = [contrastive_gradient_mma_f32, contrastive_gradient_mma_bf16];
        /// Gradient of the scale.
        SCALE(ContrastiveScaleParams) = [contrastive_scale];
    }
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

/// Strips of rows (and of columns) for `n` embeddings: the first axis of the partial sums' workspace.
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

/// The loss and what its gradient needs (`row_softmax`, `column_softmax`, `diagonal` of each pair). `params.strips` is
/// set here.
///
/// # Safety
/// Every pointer that the parameter structs do not call optional holds what they document, with [`strips`] strips, until
/// the launches have completed; the norms are already there.
pub unsafe fn forward(
    launcher: &dyn Launcher,
    variant: Variant,
    dtype: DType,
    mut params: ContrastiveForwardParams,
) -> Result<()> {
    let n = params.n as usize;
    let kernel = variant.forward();
    let strips = strips(launcher, variant, dtype, n)? as u32;
    params.strips = strips;
    let grid = match variant {
        Variant::Naive => {
            let rows = launcher.config(kernel.of(dtype))?.tile[0] as usize;
            Grid([Grid::covering(n, rows).0[0], 1, params.pair_count])
        }
        Variant::Tiled | Variant::TensorCores => Grid([strips, strips, params.pair_count]),
    };
    let rows = Grid([loss_partials(launcher, n)? as u32, params.pair_count, 1]);
    unsafe {
        kernel.launch(launcher, dtype, grid, &params)?;
        ROWS.launch_only(launcher, rows, &params)?;
        LOSS.launch_only(launcher, Grid([1, 1, 1]), &params)
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
    let mut grid = Grid::covering(params.n as usize, tile[0] as usize);
    if variant != Variant::Naive && params.dx != DevicePtr::NULL {
        grid.0[1] = (params.d as usize).div_ceil(tile[1] as usize).max(1) as u32;
    }
    unsafe { kernel.launch(launcher, dtype, grid, params) }
}

/// The sum of the slopes that [`gradient`] left.
///
/// # Safety
/// `slopes` holds `n` f32 and `dscale` one, until the launch has completed.
pub unsafe fn scale_gradient(
    launcher: &dyn Launcher,
    slopes: DevicePtr,
    dscale: DevicePtr,
    n: usize,
    write: Write,
) -> Result<()> {
    let params = ContrastiveScaleParams { slopes, dscale, n: n as u64, accumulate: write.flag(), unused: 0 };
    unsafe { SCALE.launch_only(launcher, Grid([1, 1, 1]), &params) }
}
