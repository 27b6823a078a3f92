//! Normalisation kernels: geometry and launches. See `kernels/norm/norm.cu`.

use super::columns::{Order, Walk};
use super::{DType, DevicePtr, Grid, Launcher};
use crate::Result;

include!(concat!(env!("OUT_DIR"), "/abi/norm.rs"));

/// Which implementation of batch normalisation runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variant {
    /// One thread a channel or an element: the readable reference.
    Naive,
    /// Two-stage reductions and vectors, with this order of rows.
    Fused(Order),
}

impl Variant {
    /// The fused variant with the order that suits the device.
    pub fn of(launcher: &dyn Launcher) -> Self {
        Variant::Fused(Order::of(launcher))
    }
}

/// Where the gradient's ReLU mask comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Mask {
    /// No ReLU.
    None = 0,
    /// y > 0.
    Output = 1,
    /// The forward expression, computed again from x.
    Recompute = 2,
}

/// Rows a thread of a reduction sums at least: enough to hide what a block costs.
const SUM_ROWS: usize = 32;
/// Row ranges of a reduction at most: a few blocks for each multiprocessor of the largest GPUs.
const SUM_BLOCKS: usize = 512;
/// Rows a thread of a pointwise phase writes.
const APPLY_ROWS: usize = 16;

impl BatchNormParams {
    fn shape(&self) -> [usize; 2] {
        [self.rows as usize, self.channels as usize]
    }

    /// What vectors load from and store to.
    fn pointers(&self) -> [DevicePtr; 12] {
        [
            self.x,
            self.residual,
            self.y,
            self.dy,
            self.dz,
            self.dx,
            self.dresidual,
            self.weight,
            self.bias,
            self.mean,
            self.rstd,
            self.coefficients,
        ]
    }

    /// Bytes of `partial` for either direction, whatever the variant.
    pub fn workspace_bytes(&self, launcher: &dyn Launcher, dtype: DType) -> Result<usize> {
        let walk = self.sum_walk(launcher, Order::Blocked, dtype)?;
        Ok(self.shape()[0].div_ceil(walk.block_rows()).max(1) * 3 * self.shape()[1] * 8)
    }

    fn sum_walk(&self, launcher: &dyn Launcher, order: Order, dtype: DType) -> Result<Walk> {
        let config = launcher.config(BATCH_NORM_MOMENTS.of(dtype))?;
        Ok(Walk::new(config, order, dtype, self.shape(), &self.pointers(), SUM_ROWS, SUM_BLOCKS))
    }

    fn with_walk(mut self, walk: Walk) -> Self {
        self.walk = walk;
        self.blocks = self.shape()[0].div_ceil(walk.block_rows()) as u32;
        self
    }

    fn apply(
        self,
        launcher: &dyn Launcher,
        order: Order,
        dtype: DType,
        kernel: &super::Kernel<BatchNormParams>,
    ) -> Result<()> {
        let config = launcher.config(kernel.of(dtype))?;
        let walk = Walk::new(config, order, dtype, self.shape(), &self.pointers(), APPLY_ROWS, i32::MAX as usize);
        unsafe { kernel.launch(launcher, dtype, walk.grid(dtype, self.shape()), &self.with_walk(walk)) }
    }
}

/// Forward pass: reads x, residual, weight, bias, running statistics; writes y, mean, rstd and, in training, the running
/// statistics. `walk`, `blocks`, `mask` and the gradient fields are ignored.
///
/// # Safety
/// The pointers of `params` hold what [`BatchNormParams`] says, `dtype` being the storage type of x, residual and y; all
/// stay valid until the launches have completed on the launcher's stream. No output overlaps an input.
pub unsafe fn batch_norm_forward(
    launcher: &dyn Launcher,
    variant: Variant,
    dtype: DType,
    params: &BatchNormParams,
) -> Result<()> {
    let (rows, channels) = (params.rows as usize, params.channels as usize);
    if channels == 0 || rows == 0 {
        return Ok(());
    }
    if params.training == 0 {
        let per_block = launcher.config(BATCH_NORM_RUNNING.entry())?.tile[0] as usize;
        unsafe { BATCH_NORM_RUNNING.launch_only(launcher, Grid::covering(channels, per_block), params)? };
    }
    match variant {
        Variant::Naive => {
            let per_block = launcher.config(BATCH_NORM_APPLY_NAIVE.of(dtype))?.tile[0] as usize;
            if params.training == 1 {
                unsafe {
                    BATCH_NORM_MOMENTS_NAIVE.launch(launcher, dtype, Grid::covering(channels, per_block), params)?
                };
            }
            unsafe {
                BATCH_NORM_APPLY_NAIVE.launch(launcher, dtype, Grid::covering(rows * channels, per_block), params)
            }
        }
        Variant::Fused(order) => {
            if params.training == 1 {
                let walk = params.sum_walk(launcher, order, dtype)?;
                let sums = params.with_walk(walk);
                let per_block = launcher.config(BATCH_NORM_FINISH.entry())?.tile[0] as usize;
                unsafe {
                    BATCH_NORM_MOMENTS.launch(launcher, dtype, walk.grid(dtype, params.shape()), &sums)?;
                    BATCH_NORM_FINISH.launch_only(launcher, Grid::covering(channels, per_block), &sums)?;
                }
            }
            params.apply(launcher, order, dtype, &BATCH_NORM_APPLY)
        }
    }
}

/// Backward pass: reads x, dy, weight, bias, mean, rstd and, under [`Mask::Output`], y; writes those of dx, dresidual,
/// dweight and dbias that are not null. `walk`, `blocks`, `relu` and `dz` are ignored.
///
/// # Safety
/// As for [`batch_norm_forward`].
pub unsafe fn batch_norm_backward(
    launcher: &dyn Launcher,
    variant: Variant,
    dtype: DType,
    params: &BatchNormParams,
) -> Result<()> {
    let (rows, channels) = (params.rows as usize, params.channels as usize);
    if channels == 0 {
        return Ok(());
    }
    let mut params = BatchNormParams { dz: DevicePtr::NULL, ..*params };
    let sums = params.dweight != DevicePtr::NULL
        || params.dbias != DevicePtr::NULL
        || (params.training == 1 && params.dx != DevicePtr::NULL);
    match variant {
        Variant::Naive => {
            let per_block = launcher.config(BATCH_NORM_GRADIENT_APPLY_NAIVE.of(dtype))?.tile[0] as usize;
            if sums {
                unsafe {
                    BATCH_NORM_GRADIENT_SUMS_NAIVE.launch(
                        launcher,
                        dtype,
                        Grid::covering(channels, per_block),
                        &params,
                    )?
                };
            }
            let grid = Grid::covering(rows * channels, per_block);
            unsafe { BATCH_NORM_GRADIENT_APPLY_NAIVE.launch(launcher, dtype, grid, &params) }
        }
        Variant::Fused(order) => {
            if sums {
                // The first pass has dz at hand; where dresidual is to be overwritten it may as well write it, and the
                // second pass reads that instead of dy and the mask.
                let dresidual = params.dresidual != DevicePtr::NULL && params.accumulate_dresidual == 0;
                if dresidual {
                    params.dz = params.dresidual;
                }
                let walk = params.sum_walk(launcher, order, dtype)?;
                let with_walk = params.with_walk(walk);
                let per_block = launcher.config(BATCH_NORM_GRADIENT_FINISH.entry())?.tile[0] as usize;
                unsafe {
                    BATCH_NORM_GRADIENT_SUMS.launch(launcher, dtype, walk.grid(dtype, params.shape()), &with_walk)?;
                    BATCH_NORM_GRADIENT_FINISH.launch_only(
                        launcher,
                        Grid::covering(channels, per_block),
                        &with_walk,
                    )?;
                }
                if dresidual {
                    params.dy = params.dz;
                    params.dresidual = DevicePtr::NULL;
                    params.mask = Mask::None as u32;
                }
            }
            if params.dx == DevicePtr::NULL && params.dresidual == DevicePtr::NULL {
                return Ok(());
            }
            params.apply(launcher, order, dtype, &BATCH_NORM_GRADIENT_APPLY)
        }
    }
}

/// Threads that share a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowLanes {
    /// One thread a row: a processor, where waiting costs more than it saves.
    One,
    /// 128 bytes of a row side by side.
    Eight,
    /// A warp a row: few rows, or long ones.
    Warp,
}

impl RowLanes {
    /// What suits the device and the shape.
    pub fn of(launcher: &dyn Launcher, rows: usize) -> Self {
        let properties = launcher.properties();
        if properties.compute_capability == 0 {
            RowLanes::One
        } else if rows < properties.multiprocessors as usize * 256 {
            // With eight lanes so few rows would leave multiprocessors without eight warps.
            RowLanes::Warp
        } else {
            RowLanes::Eight
        }
    }

    fn count(self) -> u32 {
        match self {
            RowLanes::One => 1,
            RowLanes::Eight => 8,
            RowLanes::Warp => 32,
        }
    }
}

impl RowNormParams {
    fn shape(&self) -> [usize; 2] {
        [self.rows as usize, self.channels as usize]
    }

    fn sum_walk(&self, launcher: &dyn Launcher, order: Order, dtype: DType) -> Result<Walk> {
        let config = launcher.config(LAYER_NORM_GRADIENT_SUMS.of(dtype))?;
        Ok(Walk::new(config, order, dtype, self.shape(), &[self.x, self.dy], SUM_ROWS, SUM_BLOCKS))
    }

    /// Bytes of `partial` for [`layer_norm_backward`].
    pub fn workspace_bytes(&self, launcher: &dyn Launcher, dtype: DType) -> Result<usize> {
        let walk = self.sum_walk(launcher, Order::Blocked, dtype)?;
        Ok(self.shape()[0].div_ceil(walk.block_rows()).max(1) * 2 * self.shape()[1] * 8)
    }

    unsafe fn rows(
        &self,
        launcher: &dyn Launcher,
        lanes: RowLanes,
        dtype: DType,
        kernel: &super::Kernel<RowNormParams>,
    ) -> Result<()> {
        let [rows, channels] = self.shape();
        if rows == 0 || channels == 0 {
            return Ok(());
        }
        let threads = launcher.config(kernel.of(dtype))?.tile[0];
        let pointers = [self.x, self.y, self.dy, self.dx, self.weight, self.bias];
        let aligned = pointers.iter().all(|p| p.0.is_multiple_of(16));
        let vector = (aligned && channels.is_multiple_of(16 / dtype.size())) as u32;
        let params = RowNormParams { lanes: lanes.count(), vector, ..*self };
        let grid = Grid::covering(rows, (threads / lanes.count()) as usize);
        unsafe { kernel.launch(launcher, dtype, grid, &params) }
    }
}

/// Layer norm: reads x, weight, bias; writes y, mean and scale (rstd).
///
/// # Safety
/// The pointers of `params` hold what [`RowNormParams`] says, `dtype` being the storage type of x, y and their gradients;
/// all stay valid until the launches have completed on the launcher's stream. No output overlaps an input.
pub unsafe fn layer_norm_forward(
    launcher: &dyn Launcher,
    lanes: RowLanes,
    dtype: DType,
    params: &RowNormParams,
) -> Result<()> {
    unsafe { params.rows(launcher, lanes, dtype, &LAYER_NORM) }
}

/// Layer norm: reads x, dy, weight, mean, scale; writes those of dx, dweight and dbias that are not null. `order` is that of
/// the column sums.
///
/// # Safety
/// As for [`layer_norm_forward`].
pub unsafe fn layer_norm_backward(
    launcher: &dyn Launcher,
    lanes: RowLanes,
    order: Order,
    dtype: DType,
    params: &RowNormParams,
) -> Result<()> {
    if params.dx != DevicePtr::NULL {
        unsafe { params.rows(launcher, lanes, dtype, &LAYER_NORM_GRADIENT)? };
    }
    if params.channels == 0 || (params.dweight == DevicePtr::NULL && params.dbias == DevicePtr::NULL) {
        return Ok(());
    }
    let walk = params.sum_walk(launcher, order, dtype)?;
    let blocks = params.shape()[0].div_ceil(walk.block_rows()) as u32;
    let params = RowNormParams { walk, blocks, ..*params };
    let channels_per_block = launcher.config(LAYER_NORM_GRADIENT_FINISH.entry())?.tile[0] as usize;
    unsafe {
        LAYER_NORM_GRADIENT_SUMS.launch(launcher, dtype, walk.grid(dtype, params.shape()), &params)?;
        let grid = Grid::covering(params.channels as usize, channels_per_block);
        LAYER_NORM_GRADIENT_FINISH.launch_only(launcher, grid, &params)
    }
}

/// L2 normalisation: reads x; writes y and scale.
///
/// # Safety
/// As for [`layer_norm_forward`].
pub unsafe fn l2_normalize_forward(
    launcher: &dyn Launcher,
    lanes: RowLanes,
    dtype: DType,
    params: &RowNormParams,
) -> Result<()> {
    unsafe { params.rows(launcher, lanes, dtype, &L2_NORMALIZE) }
}

/// L2 normalisation: reads x, dy, scale; writes dx.
///
/// # Safety
/// As for [`layer_norm_forward`].
pub unsafe fn l2_normalize_backward(
    launcher: &dyn Launcher,
    lanes: RowLanes,
    dtype: DType,
    params: &RowNormParams,
) -> Result<()> {
    unsafe { params.rows(launcher, lanes, dtype, &L2_NORMALIZE_GRADIENT) }
}
