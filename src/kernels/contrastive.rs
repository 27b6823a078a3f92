//! Symmetric contrastive loss over pairs of embedding sets: parameters, geometry and launches. See `kernels/contrastive.cu`.

use super::{DType, DevicePtr, Grid, Launcher, kernels};
use crate::Result;

mod stored;
mod variant;
mod wgmma;

pub use stored::{band, band_product, band_tile, chain, product, stored_elements, with_gradients};
pub use variant::{Mode, Precision, Variant};
pub use wgmma::{check_wgmma, gradient_wgmma, pack, packed_shape};

/// Pairs, or terms of a gradient, that one launch takes.
pub const MAX_PAIRS: usize = 4;

/// Sets that a launch of the loss with its gradients takes.
pub const MAX_SETS: usize = 4;

/// Rows and columns of a tile of stored gradients.
pub const STORED_TILE: usize = 64;

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
        /// Operands of [`gradient_wgmma`].
        ContrastiveWgmmaGradientParams {
            /// As for [`gradient`]; partners are packed sets, their inverse norms the factors of [`pack`].
            gradient: ContrastiveGradientParams,
            /// The packed rows.
            x_tiles: DevicePtr,
            /// f32 `[rows]`, or null: their factors.
            x_factors: DevicePtr,
        }
        /// Operands of [`pack`].
        ContrastivePackParams {
            /// bf16 `[n, d]`.
            x: DevicePtr,
            /// f32 `[n]`, or null: the embeddings are used as they are.
            inverse_norms: DevicePtr,
            /// bf16, [`packed_shape`].
            tiles: DevicePtr,
            /// f32 `[n]`, null with `inverse_norms`.
            factors: DevicePtr,
            /// Embeddings.
            n: u64,
            /// Their length.
            d: u64,
        }
        /// A set of a batch whose gradients are made together with the loss.
        ContrastiveSet {
            /// `[n, d]`.
            x: DevicePtr,
            /// Workspace, f32 `[n]`; null: the embeddings are used as they are.
            inverse_norms: DevicePtr,
            /// `[n, d]`, or null: frozen.
            dx: DevicePtr,
        }
        /// A pair of such a batch; `padded` is the next multiple of 64 above n, `tiles` = padded / 64.
        ContrastiveStoredPair {
            /// Workspace, f32 `[padded, padded]`; on tensor cores twice as many elements of the sets' type.
            h: DevicePtr,
            /// Workspace, two f32 `[tiles, padded]`.
            row_partials: DevicePtr,
            /// Workspace, two f32 `[tiles, padded]`.
            column_partials: DevicePtr,
            /// Workspace, f32 `[tiles, padded]`.
            row_alongs: DevicePtr,
            /// Workspace, f32 `[tiles, padded]`.
            column_alongs: DevicePtr,
            /// Workspace, f32 `[padded]`.
            diagonal_logits: DevicePtr,
            /// Of this pair's loss.
            weight: f32,
            /// The set of its rows.
            a: u32,
            /// The set of its columns.
            b: u32,
            /// 0: both sets are frozen, and the scale; `h` and the alongs may be null.
            gradient: u32,
        }
        /// Operands of the loss with its gradients.
        ContrastiveStoredParams {
            /// The first `set_count` count.
            sets: [ContrastiveSet; MAX_SETS],
            /// The first `pair_count` count.
            pairs: [ContrastiveStoredPair; MAX_PAIRS],
            /// The logits; rows = columns.
            problem: ContrastiveProblem,
            /// Workspace, f64 `[pairs, tiles]`.
            loss_partials: DevicePtr,
            /// Workspace, f64 `[pairs, tiles]`.
            bias_partials: DevicePtr,
            /// Workspace, f64 `[pairs, tiles, tiles]`.
            scale_partials: DevicePtr,
            /// One f32.
            loss: DevicePtr,
            /// One f32, or null.
            dscale: DevicePtr,
            /// One f32, or null.
            dbias: DevicePtr,
            /// See [`ContrastiveStoredPair`].
            tiles: u64,
            /// Of every row's loss.
            factor: f32,
            /// Sets.
            set_count: u32,
            /// Pairs.
            pair_count: u32,
            /// Fills the struct.
            unused: u32,
        }
        /// Operands of the gradients of a band of logits, for the gradients of both sets of a pair.
        ContrastiveBandParams {
            /// The pair, seen from the set of the rows.
            term: ContrastiveTerm,
            /// The logits.
            problem: ContrastiveProblem,
            /// `[rows, d]`.
            x: DevicePtr,
            /// f32 `[rows]`, or null.
            x_inverse_norms: DevicePtr,
            /// f32 `[band, ld]`: `ld` is the next multiple of a [`band_tile`] above `columns`. On tensor cores two such of
            /// the sets' type, see [`band_product`].
            h: DevicePtr,
            /// f32 `[ld / tile, band]`: sums over a tile's columns of h times similarity.
            row_alongs: DevicePtr,
            /// f32 `[band / tile, ld]`: the same over a tile's rows.
            column_alongs: DevicePtr,
            /// The band's first row.
            first: u64,
            /// Rows of the band, a multiple of a tile.
            band: u64,
        }
        /// One product of stored gradients of logits with a partner.
        ContrastiveProduct {
            /// f32 `[.., ld]`, zero outside the batch.
            h: DevicePtr,
            /// `[partners, d]`.
            partner: DevicePtr,
            /// f32 `[partners]`, or null.
            partner_inverse_norms: DevicePtr,
            /// f32 `[along_count, along_stride]`: added up, the sum of h times similarity of each row of the result.
            alongs: DevicePtr,
            /// Elements between two rows of `h`.
            ld: u64,
            /// The partner of the first column of `h`, or of its first row where it is transposed.
            first: u64,
            /// Embeddings of the partner.
            partners: u64,
            /// Columns (rows) of `h` that are summed over, a multiple of 64.
            inner: u64,
            /// See `alongs`.
            along_stride: u64,
            /// See `alongs`.
            along_count: u32,
            /// 1: the rows of the result are columns of `h`.
            transposed: u32,
        }
        /// How a gradient that several launches add to is kept in between: in f32, whatever its own type.
        ContrastiveCarry {
            /// f32 `[rows, d]`, or null: nothing is carried.
            sum: DevicePtr,
            /// 1: it holds the shares of the launches before.
            bring: u32,
            /// 1: others follow, the gradient itself is left alone.
            keep: u32,
        }
        /// Operands of [`product`].
        ContrastiveProductParams {
            /// What is multiplied.
            product: ContrastiveProduct,
            /// `[rows, d]`.
            x: DevicePtr,
            /// f32 `[rows]`, or null: the embeddings are used as they are.
            x_inverse_norms: DevicePtr,
            /// One f32 that replaces `scale`, or null.
            scale_tensor: DevicePtr,
            /// One f32: the gradient of the loss.
            upstream: DevicePtr,
            /// `[rows, d]`.
            dx: DevicePtr,
            /// f32 `[rows]`, or null: what each row adds to the gradient of the scale.
            slopes: DevicePtr,
            /// How `dx` is kept between bands.
            carry: ContrastiveCarry,
            /// Rows of the result.
            rows: u64,
            /// Their length.
            d: u64,
            /// logit = scale * inner product + bias.
            scale: f32,
            /// Of every row's loss.
            factor: f32,
            /// 1: `dx += result`.
            accumulate: u32,
            /// Fills the struct.
            unused: u32,
        }
        /// Operands of [`band_product`].
        ContrastiveBandProductParams {
            /// Elements of the sets' type: the first tile for the result's first rows.
            h: DevicePtr,
            /// `[partners, d]`.
            partner: DevicePtr,
            /// f32 `[along_count, along_stride]`: added up, the sum of h times similarity of each row of the result.
            alongs: DevicePtr,
            /// `[rows, d]`.
            x: DevicePtr,
            /// f32 `[rows]`, or null: the embeddings are used as they are.
            x_inverse_norms: DevicePtr,
            /// One f32 that replaces `scale`, or null.
            scale_tensor: DevicePtr,
            /// One f32: the gradient of the loss.
            upstream: DevicePtr,
            /// `[rows, d]`.
            dx: DevicePtr,
            /// f32 `[rows]`, or null: what each row adds to the gradient of the scale.
            slopes: DevicePtr,
            /// How `dx` is kept between bands.
            carry: ContrastiveCarry,
            /// Elements of `h` between the first tiles of two rows of tiles of the result.
            row_stride: u64,
            /// Elements of `h` between the tiles of such a row.
            tile_stride: u64,
            /// The partner of the first tile's first column.
            first: u64,
            /// Embeddings of the partner.
            partners: u64,
            /// See `alongs`.
            along_stride: u64,
            /// Rows of the result.
            rows: u64,
            /// Their length.
            d: u64,
            /// logit = scale * inner product + bias.
            scale: f32,
            /// Of every row's loss.
            factor: f32,
            /// Tiles of a row.
            tiles: u32,
            /// See `alongs`.
            along_count: u32,
            /// 1: `dx += result`.
            accumulate: u32,
            /// Fills the struct.
            unused: u32,
        }
        /// Operands of the chain rule behind a loss that made its gradients at once.
        ContrastiveChainParams {
            /// `[n]`: of the loss by an input.
            gradient: DevicePtr,
            /// One f32: of the final value by the loss.
            upstream: DevicePtr,
            /// `[n]`.
            dx: DevicePtr,
            /// Elements.
            n: u64,
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
        /// Embeddings as tiles for variant 5.
        PACK(ContrastivePackParams) = [contrastive_pack];
        /// Sums of exponentials, variant 5.
        WGMMA(ContrastiveForwardParams) = [contrastive_wgmma_bf16];
        /// Gradient of a set, variant 5.
        GRADIENT_WGMMA(ContrastiveWgmmaGradientParams) = [contrastive_gradient_wgmma_bf16];
        /// Loss and gradients of a whole batch, variant 4.
        ONE_LAUNCH(ContrastiveStoredParams) = [contrastive_one_launch_f32, contrastive_one_launch_bf16];
        /// The same on tensor cores, variant 6.
        ONE_LAUNCH_MMA(ContrastiveStoredParams) = [contrastive_one_launch_mma_f32, contrastive_one_launch_mma_bf16];
        /// Variant 4 in three launches: similarities,
        STORED_SIMILARITIES(ContrastiveStoredParams) =
            [contrastive_stored_similarities_f32, contrastive_stored_similarities_bf16];
        /// gradients of the logits,
        STORED_LOGITS(ContrastiveStoredParams) = [contrastive_stored_logits];
        /// and of the sets.
        STORED_PRODUCTS(ContrastiveStoredParams) =
            [contrastive_stored_products_f32, contrastive_stored_products_bf16];
        /// Gradients of a band of logits.
        BAND(ContrastiveBandParams) = [contrastive_band_f32, contrastive_band_bf16];
        /// Stored gradients of logits times a set.
        PRODUCT(ContrastiveProductParams) = [contrastive_product_f32, contrastive_product_bf16];
        /// Gradients of a band of logits on tensor cores.
        BAND_MMA(ContrastiveBandParams) = [contrastive_band_mma_f32, contrastive_band_mma_bf16];
        /// Those times a set.
        BAND_PRODUCT_MMA(ContrastiveBandProductParams) =
            [contrastive_band_product_mma_f32, contrastive_band_product_mma_bf16];
        /// Gradients of an input, times that of the loss.
        CHAIN(ContrastiveChainParams) = [contrastive_chain_f32, contrastive_chain_bf16];
        /// Gradient of the scale, or of the bias.
        SCALE(ContrastiveScaleParams) = [contrastive_scale];
    }
}

/// Strips of rows (and of columns) for `n` columns: the first axis of the partial sums' workspace.
pub fn strips(launcher: &dyn Launcher, variant: Variant, dtype: DType, n: usize) -> Result<usize> {
    let tile = launcher.config(variant.forward(dtype))?.tile;
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
/// the launch has completed; the norms are already there. Where [`Variant::packs`], `a` and `b` are packed sets and their
/// inverse norms the factors of [`pack`].
pub unsafe fn sums(
    launcher: &dyn Launcher,
    variant: Variant,
    dtype: DType,
    params: &ContrastiveForwardParams,
) -> Result<()> {
    let entry = variant.forward(dtype);
    let grid = match variant {
        Variant::Naive => {
            let rows = launcher.config(entry)?.tile[0] as usize;
            Grid([Grid::covering(params.problem.columns as usize, rows).0[0], 1, params.pair_count])
        }
        _ => Grid([params.strips, params.strips, params.pair_count]),
    };
    if variant.packs(dtype) {
        check_wgmma(launcher)?;
    }
    unsafe { launcher.launch(entry, grid, std::ptr::from_ref(params).cast()) }
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

/// The gradient of one set, and its rows' share of the gradient of the scale. Where [`Variant::packs`], see
/// [`gradient_wgmma`].
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
