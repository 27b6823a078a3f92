//! AdamW over a flat arena: geometry and launches. See `kernels/optim/optim.cu`.

use super::columns::Order;
use super::{Grid, Launcher};
use crate::Result;

include!(concat!(env!("OUT_DIR"), "/abi/optim.rs"));

// Safety: #[repr(C)] of numbers without padding.
unsafe impl bytemuck::Zeroable for AdamWRange {}
unsafe impl bytemuck::Pod for AdamWRange {}
unsafe impl bytemuck::Zeroable for AdamWState {}
unsafe impl bytemuck::Pod for AdamWState {}

/// Blocks of the norm pass at most: its partial sums are added by one block.
const NORM_BLOCKS: usize = 1024;
/// Vectors a thread of the norm pass reads at least; a multiple of the loads under way.
const NORM_VISITS: usize = 16;

/// Parameters of one update tile: the granularity of [`AdamWParams::first_range`].
pub fn update_tile(launcher: &dyn Launcher) -> Result<usize> {
    Ok(launcher.config(ADAMW_UPDATE.entry())?.tile[0] as usize)
}

/// Blocks of the norm pass over `n` parameters and the vectors each thread reads; from the size alone, so that every
/// device adds in one grouping.
pub fn norm_geometry(launcher: &dyn Launcher, n: usize) -> Result<(usize, usize)> {
    let tile = launcher.config(ADAMW_NORM.entry())?.tile[0] as usize;
    let visits = n.div_ceil(tile * NORM_BLOCKS).next_multiple_of(4).max(NORM_VISITS);
    Ok((n.div_ceil(tile * visits).max(1), visits))
}

/// One step: norm, clipping, update. `norm_blocks`, `norm_visits` and `blocked` are filled in here.
///
/// # Safety
/// The pointers hold what [`AdamWParams`] says (`partial` as many f64 as [`norm_geometry`] names), are aligned to 16 bytes
/// and stay valid until the launches have completed on the launcher's stream.
pub unsafe fn adamw(launcher: &dyn Launcher, order: Order, params: &AdamWParams) -> Result<()> {
    let n = params.n as usize;
    let (blocks, visits) = norm_geometry(launcher, n)?;
    let params = AdamWParams {
        norm_blocks: blocks as u32,
        norm_visits: visits as u32,
        blocked: (order == Order::Blocked) as u32,
        ..*params
    };
    unsafe {
        ADAMW_NORM.launch_only(launcher, Grid([blocks as u32, 1, 1]), &params)?;
        ADAMW_FINISH.launch_only(launcher, Grid([1, 1, 1]), &params)?;
        ADAMW_UPDATE.launch_only(launcher, Grid::covering(n, update_tile(launcher)?), &params)
    }
}
