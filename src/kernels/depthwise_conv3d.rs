//! Depthwise 3-D convolution kernels: geometry and launches. See `kernels/depthwise_conv3d/depthwise_conv3d.cu`.

use super::{DType, DevicePtr, Grid, Kernel, Launcher};
use crate::Result;

include!(concat!(env!("OUT_DIR"), "/abi/depthwise_conv3d.rs"));

/// Which implementation runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variant {
    /// One thread an output: the readable reference, for any kernel size.
    Naive,
    /// Patches of outputs in registers, for at most [`Variant::LARGEST_PATCHED`] taps a row.
    Patches,
}

impl Variant {
    /// Taps a row of the filter has at most for [`Variant::Patches`].
    pub const LARGEST_PATCHED: usize = 13;

    /// The faster one that can run.
    pub fn of(kernel: usize) -> Self {
        if kernel <= Self::LARGEST_PATCHED { Variant::Patches } else { Variant::Naive }
    }
}

/// Patches a thread of the weight's sums goes through at most.
const PATCHES_PER_THREAD: u64 = 16;

impl DepthwiseConv3dParams {
    /// For volumes `[N, C, D1, D2, D3]` and a filter of `kernel` taps an axis; every pointer null.
    pub fn new([batch, channels, d1, d2, d3]: [usize; 5], kernel: usize) -> Self {
        const NULL: DevicePtr = DevicePtr::NULL;
        DepthwiseConv3dParams {
            x: NULL,
            g: NULL,
            y: NULL,
            w: NULL,
            bias: NULL,
            dw: NULL,
            dbias: NULL,
            partial: NULL,
            batch: batch as u64,
            channels: channels as u32,
            size: [d1 as u32, d2 as u32, d3 as u32],
            kernel: kernel as u32,
            reversed: 0,
            vector: 0,
            accumulate: 0,
            blocks: 0,
            patches_per_thread: 0,
            groups: 0,
            values: 0,
        }
    }

    /// With the geometry of the weight's sums, which depends on the shape alone.
    pub fn with_sums(self, launcher: &dyn Launcher, dtype: DType) -> Result<Self> {
        let config = launcher.config(self.sums().of(dtype))?;
        let patches = self.patches(config.tile);
        let per_thread = patches.div_ceil(config.tile[0] as u64).clamp(1, PATCHES_PER_THREAD);
        Ok(DepthwiseConv3dParams {
            blocks: patches.div_ceil(config.tile[0] as u64 * per_thread) as u32,
            patches_per_thread: per_thread as u32,
            groups: self.kernel.div_ceil(config.tile[1]),
            values: config.tile[3],
            ..self
        })
    }

    /// Bytes of `partial`.
    pub fn partial_bytes(&self) -> usize {
        let blocks = self.blocks as usize * self.channels as usize * self.kernel as usize * self.groups as usize;
        blocks * self.values as usize * 8
    }

    fn elements(&self) -> u64 {
        self.batch * self.channels as u64 * self.size.iter().map(|&d| d as u64).product::<u64>()
    }

    /// Of a channel.
    fn patches(&self, tile: [u32; 4]) -> u64 {
        let [d1, d2, d3] = self.size;
        self.batch * d1 as u64 * d2.div_ceil(tile[1]) as u64 * d3.div_ceil(tile[2]) as u64
    }

    fn sized(&self, kernels: [&'static Kernel<Self>; 3]) -> &'static Kernel<Self> {
        kernels[(self.kernel > 3) as usize + (self.kernel > 7) as usize]
    }

    fn sums(&self) -> &'static Kernel<Self> {
        self.sized([&WEIGHT_SUMS3, &WEIGHT_SUMS7, &WEIGHT_SUMS13])
    }

    fn aligned(&self, dtype: DType) -> Self {
        let aligned = [self.x, self.g, self.y].iter().all(|p| p.0.is_multiple_of(4 * dtype.size() as u64));
        DepthwiseConv3dParams { vector: (aligned && self.size[2].is_multiple_of(4)) as u32, ..*self }
    }
}

/// y from x, w and the bias (where it is not null); with `reversed` dx from dy and w.
///
/// # Safety
/// `x`, `w`, `y` and `bias` hold what [`DepthwiseConv3dParams`] says and stay valid until the launch has completed on the
/// launcher's stream. The kernel size is odd, every axis positive, and there are at most 65535 channels.
pub unsafe fn convolve(
    launcher: &dyn Launcher,
    variant: Variant,
    dtype: DType,
    params: &DepthwiseConv3dParams,
) -> Result<()> {
    if params.elements() == 0 {
        return Ok(());
    }
    if variant == Variant::Naive {
        let per_block = launcher.config(NAIVE.of(dtype))?.tile[0] as usize;
        return unsafe { NAIVE.launch(launcher, dtype, Grid::covering(params.elements() as usize, per_block), params) };
    }
    let kernel = params.sized([&PATCHES3, &PATCHES7, &PATCHES13]);
    let tile = launcher.config(kernel.of(dtype))?.tile;
    let Grid([x, ..]) = Grid::covering(params.patches(tile) as usize, tile[0] as usize);
    unsafe { kernel.launch(launcher, dtype, Grid([x, params.channels, 1]), &params.aligned(dtype)) }
}

/// dw and dbias, those that are not null, from x and dy.
///
/// # Safety
/// As for [`convolve`], with `g`, `dw`, `dbias`; for [`Variant::Patches`] the parameters come from
/// [`DepthwiseConv3dParams::with_sums`] and `partial` has [`DepthwiseConv3dParams::partial_bytes`].
pub unsafe fn weight_gradient(
    launcher: &dyn Launcher,
    variant: Variant,
    dtype: DType,
    params: &DepthwiseConv3dParams,
) -> Result<()> {
    let gradients = params.channels as usize * ((params.kernel as usize).pow(3) + 1);
    if gradients == 0 {
        return Ok(());
    }
    let per_block = launcher.config(FINISH.entry())?.tile[0] as usize;
    let one_thread_each = Grid::covering(gradients, per_block);
    if variant == Variant::Naive {
        return unsafe { WEIGHTS_NAIVE.launch(launcher, dtype, one_thread_each, params) };
    }
    let grid = Grid([params.blocks, params.channels, params.kernel * params.groups]);
    unsafe {
        if params.blocks > 0 {
            params.sums().launch(launcher, dtype, grid, &params.aligned(dtype))?;
        }
        FINISH.launch_only(launcher, one_thread_each, params)
    }
}
