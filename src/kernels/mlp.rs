//! Kernels of the gradient of a channel MLP: geometry and launches. See `kernels/mlp.cu`.

use super::{DType, DevicePtr, Grid, Launcher, kernels};
use crate::Result;

kernels! {
    family "mlp" slot 17;

    params {
        /// Operands of every kernel; those that one does not use are null.
        MlpParams {
            /// Upstream gradient of one sample, `[C, V]`.
            g: DevicePtr,
            /// `[C, H]`, of g's type.
            w2: DevicePtr,
            /// As w2: its rows times gamma.
            m: DevicePtr,
            /// `[C]` f32: gamma times the factor.
            gamma: DevicePtr,
            /// `[C]` f32.
            b2: DevicePtr,
            /// `[C, H]` f32: g times the activated hidden layer transposed.
            product: DevicePtr,
            /// `[C, H]` f32, or null.
            dw2: DevicePtr,
            /// `[C]` f32, or null.
            db2: DevicePtr,
            /// `[C]` f32, or null.
            dgamma: DevicePtr,
            /// f64 `[parts, C]`.
            partial: DevicePtr,
            /// The hidden layer of one sample before its bias, `[H, V]`, of g's type.
            h: DevicePtr,
            /// As h: activated; may be h; or null.
            activated: DevicePtr,
            /// As h: the gradient of the activated layer, which becomes that of the layer before bias; or null.
            d: DevicePtr,
            /// `[H]` f32.
            b1: DevicePtr,
            /// `[H]` f32, or null.
            db1: DevicePtr,
            /// f64 `[parts, H]`.
            bias_partial: DevicePtr,
            /// V.
            voxels: u64,
            /// H.
            hidden: u64,
            /// C.
            channels: u64,
            /// The first part that SUMS and ACTIVATE write.
            part: u64,
            /// Of all samples.
            parts: u64,
            /// What gamma was multiplied by.
            factor: f32,
            /// Bits: add to dw2, db2, dgamma, db1.
            accumulate: u32,
        }
    }

    kernels {
        /// activated and d, and parts of the sums of d; `tile[0]` voxels of a unit a block.
        ACTIVATE(MlpParams) = [mlp_activate_f32, mlp_activate_bf16];
        /// db1; a thread a unit.
        BIAS(MlpParams) = [mlp_bias];
        /// m = gamma w2; `tile[0]` elements a block.
        FOLD(MlpParams) = [mlp_fold_f32, mlp_fold_bf16];
        /// Sums of g; `tile[0]` voxels of a channel a block.
        SUMS(MlpParams) = [mlp_sums_f32, mlp_sums_bf16];
        /// dw2, db2 and dgamma; a block a channel.
        FINISH(MlpParams) = [mlp_finish_f32, mlp_finish_bf16];
    }
}

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
