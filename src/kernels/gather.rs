//! Rows of a matrix by their places: geometry and launch. See `kernels/gather.cu`.

use super::columns::Order;
use super::{DevicePtr, Grid, Launcher, kernels};
use crate::Result;

kernels! {
    family "gather" slot 21;

    params {
        /// Operands of a gather.
        GatherParams {
            /// `[any, d]` f32.
            x: DevicePtr,
            /// u32 `[n]`: the row of `x` that each row of `y` is.
            places: DevicePtr,
            /// `[n, d]` f32.
            y: DevicePtr,
            /// Rows of `y`.
            n: u64,
            /// Elements of a row.
            d: u64,
            /// Threads a row, as a power of two.
            lanes: u32,
            /// 1: rows of `x` and `y` start at multiples of 16 bytes.
            vector: u32,
        }
    }

    kernels {
        /// y; a block has `tile[0]` threads, of which at most `tile[2]` copy one row, `tile[1]` elements at a time.
        GATHER(GatherParams) = [gather_rows];
    }
}

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
    let [threads, width, most, _] = launcher.config(GATHER.entry())?.tile.map(|n| n as usize);
    // A processor's thread reads on where it is; threads of a warp read side by side.
    let lanes = match Order::of(launcher) {
        Order::Blocked => 1,
        _ => d.div_ceil(width).next_power_of_two().min(most),
    };
    let vector = d.is_multiple_of(4) && x.0.is_multiple_of(16) && y.0.is_multiple_of(16);
    let params = GatherParams { x, places, y, n: n as u64, d: d as u64, lanes: lanes.ilog2(), vector: vector as u32 };
    unsafe { GATHER.launch_only(launcher, Grid::covering(n * lanes, threads), &params) }
}
