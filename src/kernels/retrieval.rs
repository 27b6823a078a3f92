//! Ranks and best items by similarity: parameters, geometry and launches. See `kernels/retrieval.cu`.

use super::{DType, DevicePtr, Grid, Launcher, kernels};
use crate::Result;

kernels! {
    family "retrieval" slot 13;

    params {
        /// Operands of the ranks.
        RetrievalRankParams {
            /// `[n, d]`.
            queries: DevicePtr,
            /// `[m, d]`.
            items: DevicePtr,
            /// u32 `[n]`: the right item of each query.
            targets: DevicePtr,
            /// Workspace, f32 `[n]`.
            own: DevicePtr,
            /// Workspace, f32 `[m]`; null: only the queries are ranked. Otherwise query i belongs to item i, and n = m.
            column_own: DevicePtr,
            /// u32 `[n]`, zero at first.
            ranks: DevicePtr,
            /// u32 `[m]`, zero at first; null where `column_own` is.
            column_ranks: DevicePtr,
            /// Queries.
            n: u64,
            /// Items.
            m: u64,
            /// Their length.
            d: u64,
        }
        /// Operands of the best items.
        RetrievalBestParams {
            /// `[n, d]`.
            queries: DevicePtr,
            /// `[m, d]`.
            items: DevicePtr,
            /// Workspace, f32 `[strips, n, k]`.
            strip_scores: DevicePtr,
            /// Workspace, u32 `[strips, n, k]`.
            strip_indices: DevicePtr,
            /// f32 `[n, k]`.
            scores: DevicePtr,
            /// u32 `[n, k]`; `u32::MAX` where fewer than k similarities are numbers.
            indices: DevicePtr,
            /// Queries.
            n: u64,
            /// Items.
            m: u64,
            /// Their length.
            d: u64,
            /// Items wanted of each query.
            k: u32,
            /// Ranges of items that are searched side by side, see [`strips`].
            strips: u32,
        }
    }

    kernels {
        /// Similarity of each query with its right item.
        OWN(RetrievalRankParams) = [retrieval_own_f32, retrieval_own_bf16];
        /// How many others are above it.
        RANKS(RetrievalRankParams) = [retrieval_ranks_f32, retrieval_ranks_bf16];
        /// The best items of every strip.
        BEST(RetrievalBestParams) = [retrieval_best_f32, retrieval_best_bf16];
        /// Of all strips.
        MERGE(RetrievalBestParams) = [retrieval_merge];
    }
}

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
