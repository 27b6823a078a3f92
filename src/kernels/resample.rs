//! CT volumes on another grid: geometry and launches. See `kernels/resample.cu`.

use super::volume::VoxelType;
use super::{DType, DevicePtr, Grid, Kernel, Launcher, kernels};
use crate::Result;

/// Most voxels along an axis of either grid: sample positions are ratios of 32-bit integers.
pub const MAX_SIDE: usize = 32_767;

kernels! {
    family "resample" slot 9;

    params {
        /// Operands of a resampling. Triples are x, y, z.
        ResampleParams {
            /// B volumes.
            volume: DevicePtr,
            /// B outputs; the backward kernel reads them.
            out: DevicePtr,
            /// Backward: the gradient of `out`.
            upstream: DevicePtr,
            /// Backward: laid out as `volume`.
            gradient: DevicePtr,
            /// Element of voxel (0, 0, 0).
            first: i64,
            /// Elements from one voxel to the next.
            stride: [i64; 3],
            /// Elements from one volume to the next.
            volume_stride: i64,
            /// Elements from one output to the next.
            out_stride: [i64; 3],
            /// Elements from one output volume to the next.
            out_volume_stride: i64,
            /// B.
            batch: u32,
            /// Voxels of the volume.
            from: [u32; 3],
            /// Voxels of the resized volume.
            to: [u32; 3],
            /// Voxels of the output, after crop or pad.
            size: [u32; 3],
            /// Resized index = output index + offset.
            offset: [i32; 3],
            /// v = slope interpolated + intercept.
            slope: f32,
            /// See `slope`.
            intercept: f32,
            /// Stored values are clipped to this before interpolation.
            stored_low: f32,
            /// See `stored_low`.
            stored_high: f32,
            /// out = scale clip(v, low, high) + shift.
            low: f32,
            /// See `low`.
            high: f32,
            /// See `low`.
            scale: f32,
            /// See `low`.
            shift: f32,
            /// Outside the resized volume.
            pad: f32,
            /// 1: `gradient += result`.
            accumulate: u32,
        }
    }

    kernels {
        /// f32 volumes, in strips; to f32 or bf16.
        RESAMPLE_F32(ResampleParams) = [resample_f32_f32, resample_f32_bf16];
        /// bf16 volumes.
        RESAMPLE_BF16(ResampleParams) = [resample_bf16_f32, resample_bf16_bf16];
        /// int16 volumes.
        RESAMPLE_I16(ResampleParams) = [resample_i16_f32, resample_i16_bf16];
        /// f32 volumes, a thread an output.
        NAIVE_F32(ResampleParams) = [resample_naive_f32_f32, resample_naive_f32_bf16];
        /// bf16 volumes.
        NAIVE_BF16(ResampleParams) = [resample_naive_bf16_f32, resample_naive_bf16_bf16];
        /// int16 volumes.
        NAIVE_I16(ResampleParams) = [resample_naive_i16_f32, resample_naive_i16_bf16];
        /// Gradient of f32 volumes, by the storage type of the output.
        BACKWARD_F32(ResampleParams) = [resample_backward_f32_f32, resample_backward_f32_bf16];
        /// Gradient of bf16 volumes.
        BACKWARD_BF16(ResampleParams) = [resample_backward_bf16_f32, resample_backward_bf16_bf16];
    }
}

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
        (Variant::Strips, VoxelType::Bf16) => &RESAMPLE_BF16,
        (Variant::Strips, VoxelType::F32) => &RESAMPLE_F32,
        (Variant::Strips, VoxelType::I16) => &RESAMPLE_I16,
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
