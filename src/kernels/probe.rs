//! Probes: kernels that prove the tools around the kernels, some wrong on purpose. See `kernels/probe/probe.cu`.

use super::{Grid, Kernel, Launcher};
use crate::Result;

include!(concat!(env!("OUT_DIR"), "/abi/probe.rs"));

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
