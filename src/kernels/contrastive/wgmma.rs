//! Variant 5: bf16 embeddings on compute capability 9.0, packed into the tiles that its tensor cores read.

use super::{ContrastivePackParams, ContrastiveWgmmaGradientParams, GRADIENT_WGMMA, PACK, WGMMA};
use crate::kernels::{DevicePtr, Grid, Launcher};
use crate::{Error, Result};

/// Fails unless the kernels that the launcher holds were compiled with wgmma: for sm_90a, or for the host.
pub fn check_wgmma(launcher: &dyn Launcher) -> Result<()> {
    // Builds for other targets ask for no shared memory.
    if launcher.config(WGMMA.entry())?.shared_bytes > 0 {
        return Ok(());
    }
    let capability = launcher.properties().compute_capability;
    Err(Error::argument(
        "contrastive loss",
        format!(
            "the variant Hopper runs on compute capability 9.0 built for sm_90a, this GPU has {}.{}",
            capability / 10,
            capability % 10
        ),
        "choose the variant TensorCores (or, on a GPU of capability 9.0, build with X2CT_CUDA_ARCHS=90a)",
    ))
}

/// The shape of packed `[n, d]` embeddings: tiles of rows, tiles of columns, and rows and columns of a tile.
pub fn packed_shape(launcher: &dyn Launcher, n: usize, d: usize) -> Result<[usize; 4]> {
    let [rows, columns, ..] = launcher.config(PACK.entry())?.tile.map(|n| n as usize);
    Ok([n.div_ceil(rows), d.div_ceil(columns), rows, columns])
}

/// Embeddings as tiles of 128 x 64, each in one piece, swizzled, tiles of one row of tiles side by side. Where there are
/// inverse norms, embeddings are multiplied by the power of two in theirs, and `factors` is what is left of it.
///
/// # Safety
/// Every pointer that the parameter struct does not call optional holds what it documents until the launch has completed;
/// `tiles` is aligned to 16 bytes.
pub unsafe fn pack(launcher: &dyn Launcher, params: &ContrastivePackParams) -> Result<()> {
    let [rows, pieces, ..] = packed_shape(launcher, params.n as usize, params.d as usize)?;
    if rows > 65535 {
        return Err(Error::argument(
            "contrastive loss",
            format!("{} embeddings in one batch", params.n),
            "the variant Hopper takes 8,388,480; choose the variant TensorCores",
        ));
    }
    unsafe { PACK.launch_only(launcher, Grid([pieces as u32, rows as u32, 1]), params) }
}

/// The gradient of one set, and its rows' share of the gradient of the scale, as [`super::gradient`].
///
/// # Safety
/// Every pointer that the parameter structs do not call optional holds what they document until the launch has completed.
pub unsafe fn gradient_wgmma(launcher: &dyn Launcher, params: &ContrastiveWgmmaGradientParams) -> Result<()> {
    check_wgmma(launcher)?;
    let (problem, tile) = (&params.gradient.problem, launcher.config(GRADIENT_WGMMA.entry())?.tile);
    let mut grid = Grid::covering(problem.rows as usize, tile[0] as usize);
    if params.gradient.dx != DevicePtr::NULL {
        grid.0[1] = (problem.d as usize).div_ceil(tile[1] as usize) as u32;
    }
    unsafe { GRADIENT_WGMMA.launch_only(launcher, grid, params) }
}
