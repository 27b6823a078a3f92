//! Launches of what stores the gradients of logits: whole small batches, and bands of large ones.

use super::*;
use crate::kernels::Kernel;

/// Elements of [`ContrastiveStoredPair::h`] in f32, `padded` being a whole number of tiles.
pub fn stored_elements(variant: Variant, dtype: DType, padded: usize) -> usize {
    if variant.tensor_cores() { 2 * padded * padded * dtype.size() / 4 } else { padded * padded }
}

/// Loss and gradients of a whole batch, of a variant that [stores](Variant::stores): one cooperative launch, or for
/// [`Variant::Tiled`] three and one a set for norms.
///
/// # Safety
/// Every pointer that the parameter structs do not call optional holds what they document until the launches have completed.
pub unsafe fn with_gradients(
    launcher: &dyn Launcher,
    variant: Variant,
    dtype: DType,
    params: &ContrastiveStoredParams,
) -> Result<()> {
    let (n, d, tiles) = (params.problem.rows as usize, params.problem.d as usize, params.tiles as usize);
    let kernel = if variant.tensor_cores() { &ONE_LAUNCH_MMA } else { &ONE_LAUNCH };
    let config = launcher.config(kernel.of(dtype))?;
    let slices = d.div_ceil(config.tile[1] as usize);
    let logits = params.pair_count as usize * tiles * tiles;
    let sets = &params.sets[..params.set_count as usize];
    if variant != Variant::Tiled {
        let properties = launcher.properties();
        let fit = properties.shared_bytes_per_block / config.shared_bytes;
        let resident = properties.multiprocessors * fit.clamp(1, config.min_blocks);
        // A barrier of the grid waits for every block: no more of them than have something to do.
        let products = sets.iter().filter(|set| set.dx != DevicePtr::NULL).count() * tiles * slices;
        let grid = Grid::covering(logits.max(products).min(resident as usize), 1);
        return unsafe { kernel.launch(launcher, dtype, grid, params) };
    }
    for set in sets {
        if set.inverse_norms != DevicePtr::NULL {
            unsafe { norms(launcher, dtype, set.x, set.inverse_norms, n, d)? };
        }
    }
    unsafe {
        STORED_SIMILARITIES.launch(launcher, dtype, Grid::covering(logits, 1), params)?;
        STORED_LOGITS.launch_only(launcher, Grid::covering(logits, 1), params)?;
        STORED_PRODUCTS.launch(launcher, dtype, Grid::covering(sets.len() * tiles * slices, 1), params)
    }
}

/// Rows and columns of a tile of [`band`].
pub fn band_tile(launcher: &dyn Launcher, variant: Variant, dtype: DType) -> Result<usize> {
    Ok(launcher.config(band_kernel(variant).of(dtype))?.tile[0] as usize)
}

fn band_kernel(variant: Variant) -> &'static Kernel<ContrastiveBandParams> {
    if variant.tensor_cores() { &BAND_MMA } else { &BAND }
}

/// The gradients of `params.band` rows of logits, or of what is left of them.
///
/// # Safety
/// Every pointer that the parameter struct does not call optional holds what it documents until the launch has completed.
pub unsafe fn band(
    launcher: &dyn Launcher,
    variant: Variant,
    dtype: DType,
    params: &ContrastiveBandParams,
) -> Result<()> {
    let tile = band_tile(launcher, variant, dtype)?;
    let left = (params.problem.rows - params.first).min(params.band) as usize;
    let columns = (params.problem.columns as usize).div_ceil(tile) as u32;
    let grid = Grid([columns, left.div_ceil(tile) as u32, 1]);
    unsafe { band_kernel(variant).launch(launcher, dtype, grid, params) }
}

/// `dx` (+)= a band's gradients of logits times the partner, brought back to embeddings as they were given, on tensor cores.
/// `h` is stored by tiles: the rows of each, divided by the norms of its columns, then its columns, divided by the norms of
/// its rows.
///
/// # Safety
/// As for [`band`].
pub unsafe fn band_product(launcher: &dyn Launcher, dtype: DType, params: &ContrastiveBandProductParams) -> Result<()> {
    let tile = launcher.config(BAND_PRODUCT_MMA.of(dtype))?.tile;
    let grid = Grid::covering(params.rows as usize, tile[0] as usize);
    let grid = Grid([grid.0[0], (params.d as usize).div_ceil(tile[1] as usize) as u32, 1]);
    unsafe { BAND_PRODUCT_MMA.launch(launcher, dtype, grid, params) }
}

/// `dx` (+)= stored gradients of logits times the partner, brought back to embeddings as they were given.
///
/// # Safety
/// As for [`band`].
pub unsafe fn product(launcher: &dyn Launcher, dtype: DType, params: &ContrastiveProductParams) -> Result<()> {
    let tiles = |n: u64| (n as usize).div_ceil(STORED_TILE) as u32;
    unsafe { PRODUCT.launch(launcher, dtype, Grid([tiles(params.rows), tiles(params.d), 1]), params) }
}

/// `dx` (+)= `upstream * gradient`.
///
/// # Safety
/// `gradient` and `dx` hold `n` elements of `dtype`, `upstream` one f32, until the launch has completed.
pub unsafe fn chain(launcher: &dyn Launcher, dtype: DType, params: &ContrastiveChainParams) -> Result<()> {
    let each = launcher.config(CHAIN.of(dtype))?.tile[0] as usize;
    unsafe { CHAIN.launch(launcher, dtype, Grid::covering(params.n as usize, each), params) }
}
