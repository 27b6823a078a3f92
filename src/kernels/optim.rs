//! AdamW over a flat arena: geometry and launches. See `kernels/optim.cu`.

use super::columns::Order;
use super::{DevicePtr, Grid, Launcher, kernels};
use crate::Result;

kernels! {
    family "optim" slot 6;

    params {
        /// A range of parameters that share weight decay and learning-rate scale.
        #[derive(bytemuck::Pod, bytemuck::Zeroable)]
        AdamWRange {
            /// One past the last parameter; ranges cover the arena in order.
            end: u64,
            /// Decoupled weight decay.
            weight_decay: f32,
            /// Factor of the learning rate.
            lr_scale: f32,
            /// Written by the device: 1 - lr weight_decay of the last step.
            decay: f32,
            /// Written by the device: lr / (1 - beta1^t) of the last step.
            step_size: f32,
        }

        /// What a step reads and reports, in device memory.
        #[derive(Default, bytemuck::Pod, bytemuck::Zeroable)]
        AdamWState {
            /// Learning rate; written by the host.
            lr: f64,
            /// Largest gradient norm, 0 for no clipping; written by the host.
            max_norm: f64,
            /// Updates done.
            step: u64,
            /// Steps without an update, because the norm was not finite.
            skipped: u64,
            /// Of the last step, before clipping.
            grad_norm: f64,
            /// 1: the last step updated the parameters.
            finite: u64,
            /// What the last step's gradients were multiplied by.
            clip: f32,
            /// 1 / sqrt(1 - beta2^t) of the last step.
            inverse_sqrt_bias2: f32,
        }

        /// Operands of a step.
        AdamWParams {
            /// `[n]` f32, aligned to 16 bytes, like the following.
            gradient: DevicePtr,
            /// `[n]` f32.
            parameter: DevicePtr,
            /// `[n]` f32: first moment.
            exp_avg: DevicePtr,
            /// `[n]` f32: second moment.
            exp_avg_sq: DevicePtr,
            /// `[n]` bf16 that receives the rounded parameters, or null.
            copy: DevicePtr,
            /// [`AdamWRange`] by [`AdamWParams::range_count`]; the last ends at n.
            ranges: DevicePtr,
            /// u32 per update tile: the range its first parameter lies in.
            first_range: DevicePtr,
            /// One [`AdamWState`].
            state: DevicePtr,
            /// f64 workspace, one per block of the norm pass.
            partial: DevicePtr,
            /// Parameters.
            n: u64,
            /// Decay of the first moment.
            beta1: f64,
            /// Decay of the second moment.
            beta2: f64,
            /// Added to the root of the second moment.
            eps: f32,
            /// Ranges.
            range_count: u32,
            /// Blocks of the norm pass.
            norm_blocks: u32,
            /// Vectors a thread of the norm pass reads.
            norm_visits: u32,
            /// 1: a thread's vectors are neighbours.
            blocked: u32,
        }
    }

    kernels {
        /// Sums of squares; tile\[0\] parameters a block and visit.
        NORM(AdamWParams) = [adamw_norm];
        /// Norm, clip factor and rates; one block.
        FINISH(AdamWParams) = [adamw_finish];
        /// The update; tile\[0\] parameters a block.
        UPDATE(AdamWParams) = [adamw_update];
    }
}

/// Blocks of the norm pass at most: its partial sums are added by one block.
const NORM_BLOCKS: usize = 1024;
/// Vectors a thread of the norm pass reads at least; a multiple of the loads under way.
const NORM_VISITS: usize = 16;

/// Parameters of one update tile: the granularity of [`AdamWParams::first_range`].
pub fn update_tile(launcher: &dyn Launcher) -> Result<usize> {
    Ok(launcher.config(UPDATE.entry())?.tile[0] as usize)
}

/// Blocks of the norm pass over `n` parameters and the vectors each thread reads; from the size alone, so that every
/// device adds in one grouping.
pub fn norm_geometry(launcher: &dyn Launcher, n: usize) -> Result<(usize, usize)> {
    let tile = launcher.config(NORM.entry())?.tile[0] as usize;
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
        NORM.launch_only(launcher, Grid([blocks as u32, 1, 1]), &params)?;
        FINISH.launch_only(launcher, Grid([1, 1, 1]), &params)?;
        UPDATE.launch_only(launcher, Grid::covering(n, update_tile(launcher)?), &params)
    }
}
