//! Kernels of a channel MLP over volumes, and a transpose: geometry and launches. See `kernels/channels/channels.cu`.

use super::{DType, DevicePtr, Grid, Kernel, Launcher};
use crate::Result;

include!(concat!(env!("OUT_DIR"), "/abi/channels.rs"));

/// What is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Function {
    /// GELU(x + bias).
    Gelu,
    /// r + gamma (x + bias).
    Scale,
}

impl ChannelsParams {
    /// The geometry for volumes `[N, C, V]`; everything else null.
    pub fn new(launcher: &dyn Launcher, dtype: DType, [samples, channels, voxels]: [usize; 3]) -> Result<Self> {
        const NULL: DevicePtr = DevicePtr::NULL;
        let per_block = launcher.config(GELU_FORWARD.of(dtype))?.tile[0] as usize;
        Ok(ChannelsParams {
            x: NULL,
            r: NULL,
            g: NULL,
            y: NULL,
            dx: NULL,
            bias: NULL,
            gamma: NULL,
            dbias: NULL,
            dgamma: NULL,
            partial: NULL,
            samples: samples as u64,
            voxels: voxels as u64,
            channels: channels as u32,
            blocks: (samples * voxels).div_ceil(per_block) as u32,
            vector: 0,
            accumulate: 0,
        })
    }

    /// Bytes of `partial`.
    pub fn partial_bytes(&self) -> usize {
        self.blocks as usize * self.channels as usize * 16
    }

    unsafe fn run(&self, kernel: &Kernel<Self>, launcher: &dyn Launcher, dtype: DType) -> Result<()> {
        if self.blocks == 0 || self.channels == 0 {
            return Ok(());
        }
        let operands = [self.x, self.r, self.g, self.y, self.dx];
        let aligned = operands.iter().all(|p| p.0.is_multiple_of(4 * dtype.size() as u64));
        let params = ChannelsParams { vector: (aligned && self.voxels.is_multiple_of(4)) as u32, ..*self };
        unsafe { kernel.launch(launcher, dtype, Grid([self.blocks, self.channels, 1]), &params) }
    }
}

/// y.
///
/// # Safety
/// The pointers of `params` that `function` reads and `y` hold what their documentation says, valid until the launch has
/// completed on the launcher's stream.
pub unsafe fn forward(
    launcher: &dyn Launcher,
    function: Function,
    dtype: DType,
    params: &ChannelsParams,
) -> Result<()> {
    let kernel = if function == Function::Gelu { &GELU_FORWARD } else { &SCALE_FORWARD };
    unsafe { params.run(kernel, launcher, dtype) }
}

/// dx, dbias and dgamma, those that are not null.
///
/// # Safety
/// As for [`forward`], with `g`, `partial` and the gradients.
pub unsafe fn backward(
    launcher: &dyn Launcher,
    function: Function,
    dtype: DType,
    params: &ChannelsParams,
) -> Result<()> {
    let kernel = if function == Function::Gelu { &GELU_BACKWARD } else { &SCALE_BACKWARD };
    let per_block = launcher.config(FINISH.entry())?.tile[0] as usize;
    unsafe {
        params.run(kernel, launcher, dtype)?;
        FINISH.launch_only(launcher, Grid::covering(params.channels as usize, per_block), params)
    }
}

/// y, the transpose of x.
///
/// # Safety
/// x and y hold `batch * rows * columns` elements of `dtype` and do not overlap, valid until the launch has completed on the
/// launcher's stream.
pub unsafe fn transpose(launcher: &dyn Launcher, dtype: DType, params: &TransposeParams) -> Result<()> {
    let tile = launcher.config(TRANSPOSE.of(dtype))?.tile[0] as u64;
    let squares = params.batch * params.rows.div_ceil(tile) * params.columns.div_ceil(tile);
    if squares == 0 {
        return Ok(());
    }
    unsafe { TRANSPOSE.launch(launcher, dtype, Grid::covering(squares as usize, 1), params) }
}
