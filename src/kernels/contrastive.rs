//! Symmetric contrastive loss over pairs of embedding sets: parameters, geometry and launches. See `kernels/contrastive/contrastive.cu`.

use super::{DType, DevicePtr, Grid, Launcher};
use crate::Result;

mod stored;
mod variant;
mod wgmma;

pub use stored::{band, band_product, band_tile, chain, product, stored_elements, with_gradients};
pub use variant::{Mode, Precision, Variant};
pub use wgmma::{check_wgmma, gradient_wgmma, pack, packed_shape};

/// Rows and columns of a tile of stored gradients.
pub const STORED_TILE: usize = 64;

/// The largest scale for which normalised embeddings need no running maximum: exp(-2 * 40) is still a normal f32.
pub const MAX_BOUNDED_SCALE: f32 = 40.0;

include!(concat!(env!("OUT_DIR"), "/abi/contrastive.rs"));

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
