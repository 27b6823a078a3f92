//! Ranks and best items by similarity: parameters, geometry and launches. See `kernels/retrieval/retrieval.cu`.

use super::{DType, Grid, Launcher};
use crate::Result;

include!(concat!(env!("OUT_DIR"), "/abi/retrieval.rs"));

/// Ranks of the right items, and of the right queries where they are wanted.
///
/// # Safety
/// Every pointer that the struct does not call optional holds what it documents until the launches have completed; targets
/// are below `m`.
pub unsafe fn ranks(launcher: &dyn Launcher, dtype: DType, params: &RetrievalRankParams) -> Result<()> {
    let own = launcher.config(OWN.of(dtype))?.tile[0] as usize;
    let [tile, each, ..] = launcher.config(RANKS.of(dtype))?.tile;
    let columns = Grid::covering(params.m as usize, (tile * each) as usize).0[0];
    let rows = Grid::covering(params.n as usize, tile as usize).0[0];
    unsafe {
        OWN.launch(launcher, dtype, Grid::covering(params.n as usize, own), params)?;
        RANKS.launch(launcher, dtype, Grid([columns, rows, 1]), params)
    }
}

/// Strips for [`best`]: as many as keep the device busy, where there are few queries.
pub fn strips(launcher: &dyn Launcher, dtype: DType, n: usize, m: usize) -> Result<usize> {
    let config = launcher.config(BEST.of(dtype))?;
    let [tile, most, ..] = config.tile.map(|t| t as usize);
    let blocks = (launcher.properties().multiprocessors * config.min_blocks) as usize;
    Ok(blocks.div_ceil(n.div_ceil(tile)).clamp(1, most.min(m.div_ceil(tile))))
}

/// The `k` best items of every query.
///
/// # Safety
/// Every pointer holds what the struct documents, with [`strips`] strips, until the launches have completed.
pub unsafe fn best(launcher: &dyn Launcher, dtype: DType, params: &RetrievalBestParams) -> Result<()> {
    let rows = launcher.config(BEST.of(dtype))?.tile[0] as usize;
    let grid = Grid([Grid::covering(params.n as usize, rows).0[0], params.strips, 1]);
    let merge = launcher.config(MERGE.entry())?.tile[0] as usize;
    unsafe {
        BEST.launch(launcher, dtype, grid, params)?;
        MERGE.launch_only(launcher, Grid::covering(params.n as usize, merge), params)
    }
}
