//! Rows of a matrix by their places: geometry and launch. See `kernels/gather/gather.cu`.

use super::columns::Order;
use super::{DevicePtr, Grid, Launcher};
use crate::Result;

include!(concat!(env!("OUT_DIR"), "/abi/gather.rs"));

/// `y[i] = x[places[i]]`, rows of `d` f32.
///
/// # Safety
/// `x` holds rows of `d` f32 at all the places that `places`, `n` u32, names; `y` holds `n` rows, overlaps neither, and all stay valid
/// until the launch has completed on the launcher's stream. Addresses are multiples of 4.
pub unsafe fn gather(
    launcher: &dyn Launcher,
    x: DevicePtr,
    places: DevicePtr,
    y: DevicePtr,
    [n, d]: [usize; 2],
) -> Result<()> {
    if n == 0 || d == 0 {
        return Ok(());
    }
    let [threads, width, most, _] = launcher.config(ROWS.entry())?.tile.map(|n| n as usize);
    // A processor's thread reads on where it is; threads of a warp read side by side.
    let lanes = match Order::of(launcher) {
        Order::Blocked => 1,
        _ => d.div_ceil(width).next_power_of_two().min(most),
    };
    let vector = d.is_multiple_of(4) && x.0.is_multiple_of(16) && y.0.is_multiple_of(16);
    let params = GatherParams { x, places, y, n: n as u64, d: d as u64, lanes: lanes.ilog2(), vector: vector as u32 };
    unsafe { ROWS.launch_only(launcher, Grid::covering(n * lanes, threads), &params) }
}
