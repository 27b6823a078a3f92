//! Binary cross entropy with logits: geometry and launches. See `kernels/bce/bce.cu`.

use super::{DType, DevicePtr, Grid, Kernel, Launcher};
use crate::{Error, Result};

include!(concat!(env!("OUT_DIR"), "/abi/bce.rs"));

impl BceParams {
    /// The geometry for logits of `dtype`, `[rows, classes]`; everything else null.
    ///
    /// # Errors
    /// When there are more than 2^32 - 1 classes or 2^31 - 1 blocks.
    pub fn new(launcher: &dyn Launcher, dtype: DType, [rows, classes]: [usize; 2]) -> Result<Self> {
        const NULL: DevicePtr = DevicePtr::NULL;
        let n = rows.saturating_mul(classes);
        let tile = launcher.config(FORWARD.of(dtype))?.tile;
        let per_block = match dtype {
            DType::F32 => tile[0],
            DType::Bf16 => tile[1],
        };
        let blocks = n.div_ceil(per_block as usize);
        let (Ok(classes), true) = (u32::try_from(classes), blocks <= i32::MAX as usize) else {
            let problem = format!("{rows} rows of {classes} classes are more than a launch takes");
            return Err(Error::argument("binary cross entropy", problem, "pass fewer rows or classes at a time"));
        };
        Ok(BceParams {
            x: NULL,
            t: NULL,
            pos_weight: NULL,
            upstream: NULL,
            partial: NULL,
            loss: NULL,
            dx: NULL,
            dt: NULL,
            n: n as u64,
            classes,
            blocks: blocks as u32,
            vector: 0,
            accumulate: 0,
        })
    }

    /// Bytes of `partial`.
    pub fn partial_bytes(&self) -> usize {
        self.blocks as usize * 8
    }

    unsafe fn run(&self, kernel: &Kernel<Self>, launcher: &dyn Launcher, dtype: DType) -> Result<()> {
        let vector = [self.x, self.t, self.dx, self.dt].iter().all(|p| p.0.is_multiple_of(16)) as u32;
        let params = BceParams { vector, ..*self };
        unsafe { kernel.launch(launcher, dtype, Grid([self.blocks, 1, 1]), &params) }
    }
}

/// The loss, the mean over all elements; NaN where there are none.
///
/// # Safety
/// `x`, `t`, `pos_weight` where it is not null, `partial` and `loss` hold what their documentation says for `n` and `classes`
/// as [`BceParams::new`] made them, valid until both launches have completed on the launcher's stream. Addresses are
/// multiples of their elements' sizes; where those of x and t are multiples of 16 bytes, whole vectors are moved.
pub unsafe fn forward(launcher: &dyn Launcher, dtype: DType, params: &BceParams) -> Result<()> {
    unsafe {
        if params.blocks > 0 {
            params.run(&FORWARD, launcher, dtype)?;
        }
        MEAN.launch_only(launcher, Grid([1, 1, 1]), params)
    }
}

/// dx and dt, those that are not null.
///
/// # Safety
/// As for [`forward`], with `upstream`, `dx` and `dt` in place of `partial` and `loss`. `dx` may be `x`, and
/// `dt` may be `t`.
pub unsafe fn backward(launcher: &dyn Launcher, dtype: DType, params: &BceParams) -> Result<()> {
    if params.blocks == 0 || (params.dx == DevicePtr::NULL && params.dt == DevicePtr::NULL) {
        return Ok(());
    }
    unsafe { params.run(&BACKWARD, launcher, dtype) }
}
