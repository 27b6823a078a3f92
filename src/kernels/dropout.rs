//! Inverted dropout over flat arrays: geometry and launch. See `kernels/dropout/dropout.cu`.

use super::{DType, DevicePtr, Grid, Launcher};
use crate::Result;

include!(concat!(env!("OUT_DIR"), "/abi/dropout.rs"));

impl DropoutParams {
    /// The mask that drops an element with probability `p`, from 0 to below 1; operands null.
    pub fn new(p: f32, seed: u64, offset: u64) -> Self {
        let p = f64::from(p);
        DropoutParams {
            x: DevicePtr::NULL,
            y: DevicePtr::NULL,
            n: 0,
            seed,
            offset,
            threshold: (p * 2f64.powi(32)) as u32,
            scale: (1.0 / (1.0 - p)) as f32,
            vector: 0,
            accumulate: 0,
        }
    }
}

/// y = x where it is kept, times `scale`, and 0 elsewhere. The gradient is the same function of the upstream gradient.
///
/// # Safety
/// `x` and `y` hold `n` elements of `dtype` at multiples of their size, the same or apart, valid until the launch has completed on
/// the launcher's stream.
pub unsafe fn dropout(launcher: &dyn Launcher, dtype: DType, params: &DropoutParams) -> Result<()> {
    if params.n == 0 {
        return Ok(());
    }
    let tile = launcher.config(DROPOUT.of(dtype))?.tile;
    let per_block = match dtype {
        DType::F32 => tile[0],
        DType::Bf16 => tile[1],
    };
    let vector = [params.x, params.y].iter().all(|p| p.0.is_multiple_of(16)) as u32;
    let grid = Grid::covering(params.n as usize, per_block as usize);
    unsafe { DROPOUT.launch(launcher, dtype, grid, &DropoutParams { vector, ..*params }) }
}
