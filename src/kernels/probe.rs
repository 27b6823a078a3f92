//! Probes: kernels that prove the tools around the kernels, some wrong on purpose. See `kernels/probe.cu`.

use super::{DevicePtr, Grid, Kernel, Launcher, kernels};
use crate::Result;

kernels! {
    family "probe" slot 1;

    params {
        /// Operands of every probe.
        ProbeParams {
            /// Input.
            input: DevicePtr,
            /// Output.
            out: DevicePtr,
            /// Elements of `out` that are valid.
            n: u64,
            /// Philox key, low word.
            key0: u32,
            /// Philox key, high word.
            key1: u32,
        }
    }

    kernels {
        /// out = in reversed, with the barrier it needs.
        REVERSE(ProbeParams) = [probe_reverse];
        /// The same without its barrier.
        MISSING_BARRIER(ProbeParams) = [probe_missing_barrier];
        /// The same by asynchronous copies, waited for.
        ASYNC(ProbeParams) = [probe_async];
        /// The same without the wait.
        MISSING_WAIT(ProbeParams) = [probe_missing_wait];
        /// out\[i\] = sum of in.
        SUM(ProbeParams) = [probe_sum];
        /// Writes one element past `out`.
        GLOBAL_OVERRUN(ProbeParams) = [probe_global_overrun];
        /// Writes one word past the block's shared memory.
        SHARED_OVERRUN(ProbeParams) = [probe_shared_overrun];
        /// Half of the block waits at another barrier than the rest.
        DIVERGENT(ProbeParams) = [probe_divergent];
        /// Half of the block returns before the barrier, which is allowed.
        EARLY_RETURN(ProbeParams) = [probe_early_return];
        /// A shuffle reads a lane outside its mask.
        INACTIVE_LANE(ProbeParams) = [probe_inactive_lane];
        /// A 16-byte load from a 4-byte aligned address.
        MISALIGNED(ProbeParams) = [probe_misaligned];
        /// Throws (traps on the GPU).
        THROW(ProbeParams) = [probe_throw];
        /// Cooperative: the sum over all blocks, in every block.
        GRID(ProbeParams) = [probe_grid];
        /// Philox4x32-10 of one counter.
        PHILOX(ProbeParams) = [probe_philox];
        /// One tensor-core product through ldmatrix.
        MMA(ProbeParams) = [probe_mma];
        /// `REVERSE` by a bulk copy.
        BULK(ProbeParams) = [probe_bulk];
        /// The same, read before it is waited for.
        BULK_READ_EARLY(ProbeParams) = [probe_bulk_read_early];
        /// The same, never waited for.
        BULK_NEVER_WAITED(ProbeParams) = [probe_bulk_never_waited];
        /// The same, copied again before it was read.
        BULK_REFILLED(ProbeParams) = [probe_bulk_refilled];
        /// One product of a warpgroup.
        WGMMA(ProbeParams) = [probe_wgmma];
        /// The same, read before it is waited for.
        WGMMA_READ_EARLY(ProbeParams) = [probe_wgmma_read_early];
    }
}

/// Launches a probe with `blocks` blocks.
///
/// # Safety
/// `input` and `out` are valid for what the probe reads and writes; the probes that are wrong on purpose break that
/// promise themselves, which is their point.
pub unsafe fn launch(
    launcher: &dyn Launcher,
    probe: &Kernel<ProbeParams>,
    blocks: u32,
    params: &ProbeParams,
) -> Result<()> {
    unsafe { probe.launch_only(launcher, Grid([blocks, 1, 1]), params) }
}
