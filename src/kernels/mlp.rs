//! Kernels of the gradient of a channel MLP: geometry and launches. See `kernels/mlp/mlp.cu`.

use super::{DType, Grid, Launcher};
use crate::Result;

include!(concat!(env!("OUT_DIR"), "/abi/mlp.rs"));

/// Parts that the sums of one sample of `voxels` voxels are made of.
pub fn parts(launcher: &dyn Launcher, voxels: usize) -> Result<usize> {
    Ok(voxels.div_ceil(launcher.config(SUMS.of(DType::F32))?.tile[0] as usize).max(1))
}

/// m.
///
/// # Safety
/// The pointers of `params` that the kernel reads or writes hold what their documentation says, valid until the launch has
/// completed on the launcher's stream.
pub unsafe fn fold(launcher: &dyn Launcher, dtype: DType, params: &MlpParams) -> Result<()> {
    let per_block = launcher.config(FOLD.of(dtype))?.tile[0] as usize;
    let grid = Grid::covering((params.channels * params.hidden) as usize, per_block);
    unsafe { FOLD.launch(launcher, dtype, grid, params) }
}

/// The hidden layer of one sample, activated, and its gradient.
///
/// # Safety
/// As for [`fold`]; where d is not null `bias_partial` has room for [`parts`] parts from `part` on; h, activated and d start at
/// multiples of four elements where voxels do.
pub unsafe fn activate(launcher: &dyn Launcher, dtype: DType, params: &MlpParams) -> Result<()> {
    let grid = Grid([parts(launcher, params.voxels as usize)? as u32, params.hidden as u32, 1]);
    unsafe { ACTIVATE.launch(launcher, dtype, grid, params) }
}

/// db1.
///
/// # Safety
/// As for [`fold`]; the first `parts` parts of `bias_partial` are written.
pub unsafe fn bias(launcher: &dyn Launcher, params: &MlpParams) -> Result<()> {
    let per_block = launcher.config(BIAS.entry())?.threads as usize;
    unsafe { BIAS.launch_only(launcher, Grid::covering(params.hidden as usize, per_block), params) }
}

/// The sums of one sample.
///
/// # Safety
/// As for [`fold`]; `partial` has room for [`parts`] parts from `part` on.
pub unsafe fn sums(launcher: &dyn Launcher, dtype: DType, params: &MlpParams) -> Result<()> {
    let grid = Grid([parts(launcher, params.voxels as usize)? as u32, params.channels as u32, 1]);
    unsafe { SUMS.launch(launcher, dtype, grid, params) }
}

/// dw2, db2 and dgamma, those that are not null.
///
/// # Safety
/// As for [`fold`]; the first `parts` parts of `partial` are written.
pub unsafe fn finish(launcher: &dyn Launcher, dtype: DType, params: &MlpParams) -> Result<()> {
    unsafe { FINISH.launch(launcher, dtype, Grid::covering(params.channels as usize, 1), params) }
}
