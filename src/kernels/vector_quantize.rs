//! Kernels of vector quantisation: geometry and launches. See `kernels/vector_quantize/vector_quantize.cu`; the search is
//! [`retrieval::best`](super::retrieval::best).

use super::{DType, Grid, Launcher};
use crate::Result;

include!(concat!(env!("OUT_DIR"), "/abi/vector_quantize.rs"));

/// The longest codes that [`update`] takes.
pub fn longest(launcher: &dyn Launcher) -> Result<usize> {
    Ok(launcher.config(UPDATE.entry())?.tile[0] as usize)
}

/// y in `dtype`.
///
/// # Safety
/// The pointers of `params` that the kernel uses hold what their documentation says, valid until the launch has completed on
/// the launcher's stream; indices are below m, or `u32::MAX`.
pub unsafe fn gather(launcher: &dyn Launcher, dtype: DType, params: &VectorQuantizeParams) -> Result<()> {
    let per_block = launcher.config(GATHER.of(dtype))?.tile[0] as usize;
    unsafe { GATHER.launch(launcher, dtype, Grid::covering((params.n * params.d) as usize, per_block), params) }
}

/// `cluster_size` and `embed` after the tokens.
///
/// # Safety
/// As for [`gather`]; d is at most [`longest`].
pub unsafe fn update(launcher: &dyn Launcher, params: &VectorQuantizeParams) -> Result<()> {
    let per_block = launcher.config(GROUP.entry())?.tile[0] as usize;
    unsafe {
        GROUP.launch_only(launcher, Grid::covering(params.m as usize, per_block), params)?;
        UPDATE.launch_only(launcher, Grid::covering(params.m as usize, 1), params)
    }
}
