//! Kernels of vector quantisation: geometry and launches. See `kernels/vector_quantize.cu`; the search is
//! [`retrieval::best`](super::retrieval::best).

use super::{DType, DevicePtr, Grid, Launcher, kernels};
use crate::Result;

kernels! {
    family "vector_quantize" slot 14;

    params {
        /// Operands of every kernel; those that one does not use are null.
        VectorQuantizeParams {
            /// f32 `[n, d]`: tokens of length 1.
            tokens: DevicePtr,
            /// f32 `[m, d]`: the codes.
            embed: DevicePtr,
            /// f32 `[m, d]`: the codes scaled to length 1.
            unit: DevicePtr,
            /// f32 `[m]`.
            cluster_size: DevicePtr,
            /// u32 `[n]`: the code of each token; `u32::MAX` for none.
            indices: DevicePtr,
            /// Workspace, u32 `[m]`.
            first: DevicePtr,
            /// Workspace, u32 `[m]`.
            count: DevicePtr,
            /// Workspace, u32 `[n]`.
            members: DevicePtr,
            /// `[n, d]`: the codes of the tokens.
            y: DevicePtr,
            /// Tokens.
            n: u64,
            /// Codes.
            m: u64,
            /// Their length.
            d: u64,
            /// Weight of the old codebook.
            decay: f32,
            /// Weight of the tokens.
            weight: f32,
        }
    }

    kernels {
        /// y; `tile[0]` elements a block.
        GATHER(VectorQuantizeParams) = [vector_quantize_gather_f32, vector_quantize_gather_bf16];
        /// The tokens of each code, and `cluster_size`; `tile[0]` codes a block.
        GROUP(VectorQuantizeParams) = [vector_quantize_group];
        /// `embed`; a block a code, d at most `tile[0]`.
        UPDATE(VectorQuantizeParams) = [vector_quantize_update];
    }
}

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
