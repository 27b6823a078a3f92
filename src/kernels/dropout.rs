//! Inverted dropout over flat arrays: geometry and launch. See `kernels/dropout.cu`.

use super::{DType, DevicePtr, Grid, Launcher, kernels};
use crate::Result;

kernels! {
    family "dropout" slot 19;

    params {
        /// Operands of a dropout, and what draws its mask.
        DropoutParams {
            /// Input, `n` elements.
            x: DevicePtr,
            /// Result, `n` elements; may be `x`.
            y: DevicePtr,
            /// Elements.
            n: u64,
            /// Key of the generator.
            seed: u64,
            /// First half of the generator's counter: masks of different offsets are independent.
            offset: u64,
            /// Random words below it drop their element: p 2^32.
            threshold: u32,
            /// What is kept is multiplied by it: 1 / (1 - p).
            scale: f32,
            /// 1: `x` and `y` start at multiples of 16 bytes.
            vector: u32,
            /// 1: `y += result`.
            accumulate: u32,
        }
    }

    kernels {
        /// y; a block takes `tile[0]` elements of f32, `tile[1]` of bf16.
        DROPOUT(DropoutParams) = [dropout_f32, dropout_bf16];
    }
}

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
