//! CT volumes on another grid: geometry and launches. See `kernels/resample/resample.cu`.

use super::volume::VoxelType;
use super::{DType, Grid, Kernel, Launcher};
use crate::Result;

/// Most voxels along an axis of either grid: sample positions are ratios of 32-bit integers.
pub const MAX_SIDE: usize = 32_767;

include!(concat!(env!("OUT_DIR"), "/abi/resample.rs"));

/// Which of the kernels for one result.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Variant {
    /// A thread an output, x fastest.
    Naive,
    /// A thread four neighbours along x, walking along y; source rows are interpolated once, in registers.
    #[default]
    Strips,
}

/// Fills `params.out`, of type `out`.
///
/// # Safety
/// The strides keep every voxel of `batch` volumes inside `volume` and every output inside `out`; both are valid until the
/// launch has completed on the launcher's stream. No `from` or `to` is 0 or above [`MAX_SIDE`].
pub unsafe fn forward(
    launcher: &dyn Launcher,
    variant: Variant,
    voxel: VoxelType,
    out: DType,
    params: &ResampleParams,
) -> Result<()> {
    let kernel = match (variant, voxel) {
        (Variant::Strips, VoxelType::Bf16) => &BF16,
        (Variant::Strips, VoxelType::F32) => &F32,
        (Variant::Strips, VoxelType::I16) => &I16,
        (Variant::Naive, VoxelType::Bf16) => &NAIVE_BF16,
        (Variant::Naive, VoxelType::F32) => &NAIVE_F32,
        (Variant::Naive, VoxelType::I16) => &NAIVE_I16,
    };
    let config = launcher.config(kernel.of(out))?;
    let (tile, threads) = (config.tile, config.threads as usize);
    let [x, y, z] = params.size.map(|n| n as usize);
    let batch = params.batch as usize;
    if x * y * z * batch == 0 {
        return Ok(());
    }
    let strips = x.div_ceil(tile[0] as usize) * y.div_ceil(tile[1] as usize) * z * batch;
    if strips > u32::MAX as usize {
        let problem = format!("{batch} outputs of {x} x {y} x {z} voxels");
        return Err(crate::Error::argument("resample", problem, "resample fewer volumes at a time"));
    }
    let grid = match variant {
        Variant::Strips => Grid::covering(strips, threads),
        Variant::Naive => Grid::covering(x * y * z * batch, tile[2] as usize),
    };
    unsafe { kernel.launch(launcher, out, grid, params) }
}

/// Fills `params.gradient`, or adds to it; `volume` and `gradient` are of type `dtype`, `out` and `upstream` of type `out`.
///
/// # Safety
/// As for [`forward`]; `upstream` is laid out as `out`, `gradient` as `volume`.
pub unsafe fn backward(launcher: &dyn Launcher, dtype: DType, out: DType, params: &ResampleParams) -> Result<()> {
    let kernel: &'static Kernel<ResampleParams> = match dtype {
        DType::F32 => &BACKWARD_F32,
        DType::Bf16 => &BACKWARD_BF16,
    };
    let tile = launcher.config(kernel.of(out))?.tile;
    let voxels = params.from.iter().map(|&n| n as usize).product::<usize>() * params.batch as usize;
    unsafe { kernel.launch(launcher, out, Grid::covering(voxels, tile[2] as usize), params) }
}
