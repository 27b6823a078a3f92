//! Line integrals and mean projections of CT volumes: geometry and launches. See `kernels/drr.cu`.

use super::volume::{VoxelKernel, VoxelType};
use super::{DType, DevicePtr, Grid, Kernel, Launcher, kernels};
use crate::Result;

kernels! {
    family "drr" slot 8;

    params {
        /// One view in voxel coordinates, where voxel i covers \[i, i + 1): an element of the array that
        /// [`DrrParams::views`] points to.
        DrrView {
            /// Centre of pixel (0, 0).
            origin: [f64; 3],
            /// From one row to the next.
            row: [f64; 3],
            /// From one column to the next.
            column: [f64; 3],
            /// Cone: the source. Parallel: the rays' direction.
            source: [f64; 3],
            /// Square millimetres of a step d in voxels: the sum of these times (dx², dy², dz², 2 dx dy, 2 dx dz, 2 dy dz).
            metric: [f64; 6],
            /// 1: a ray is the segment from the source to its pixel's centre. 0: the whole line through it.
            cone: u32,
            /// 0.
            reserved: u32,
        }
        /// Operands of line integrals and their gradients.
        DrrParams {
            /// \[B, Z, Y, X\], x fastest.
            volume: DevicePtr,
            /// \[V\] [`DrrView`], or \[B, V\] where `view_stride` is V.
            views: DevicePtr,
            /// u8 \[B, Z / 8, Y / 8, X / 8\], rounded up: 0 where all is air. Null: nothing is skipped.
            bricks: DevicePtr,
            /// f32 \[B, V, rows, columns\]: written forward, the upstream gradient backward.
            image: DevicePtr,
            /// f32 as `image`: p of every pixel, written forward unless null; read backward unless the response is p itself.
            integrals: DevicePtr,
            /// Adjoint: 64-bit integers \[B, Z, Y, X\], zero before.
            sums: DevicePtr,
            /// Adjoint: one u32, zero before.
            peak: DevicePtr,
            /// Adjoint: as the volume.
            gradient: DevicePtr,
            /// Pose: f32 \[B, V, rows, columns, 6\].
            rays: DevicePtr,
            /// Pose: f64 as `views`, 12 each: the gradient of origin, row, column and source.
            view_gradient: DevicePtr,
            /// Of one volume.
            voxels: u64,
            /// X, Y, Z.
            n: [u32; 3],
            /// B.
            batch: u32,
            /// V.
            count: u32,
            /// Of an image.
            rows: u32,
            /// Of an image.
            columns: u32,
            /// Views from one volume to the next: 0 or V.
            view_stride: u32,
            /// value = max(floor, slope stored + intercept).
            slope: f32,
            /// See `slope`.
            intercept: f32,
            /// See `slope`; minus infinity for none.
            floor: f32,
            /// Trilinear: most millimetres between two samples.
            step: f32,
            /// Adjoint: no voxel's weights sum to more.
            bound: f32,
            /// 1: int16 voxels are read by four where a ray runs along x.
            by_four: u32,
            /// What a pixel shows of the sum p of values and weights: 0 p, 1 exp(-p), 2 1 - exp(-p).
            response: u32,
            /// image = gain response + shift.
            gain: f32,
            /// See `gain`.
            shift: f32,
            /// 1: `gradient += result`.
            accumulate: u32,
        }
        /// Operands of the mean projection and its gradient.
        DrrMeanParams {
            /// B volumes of any axis order.
            volume: DevicePtr,
            /// f32 \[terms\]: of each voxel along the sum.
            weights: DevicePtr,
            /// f32 \[B, rows, columns\].
            image: DevicePtr,
            /// Backward: as the volume.
            gradient: DevicePtr,
            /// Of one volume.
            voxels: u64,
            /// Elements from one image row to the next.
            row: i64,
            /// Elements from one image column to the next.
            column: i64,
            /// Elements from one term of the sum to the next.
            term: i64,
            /// B.
            batch: u32,
            /// Of an image.
            rows: u32,
            /// Of an image.
            columns: u32,
            /// Of a sum.
            terms: u32,
            /// Summed is clip(slope stored + intercept, low, high).
            slope: f32,
            /// See `slope`.
            intercept: f32,
            /// See `slope`.
            low: f32,
            /// See `slope`.
            high: f32,
            /// 1: `gradient += result`.
            accumulate: u32,
        }
    }

    kernels {
        /// Exact line integrals.
        SIDDON(DrrParams) = [drr_siddon_f32, drr_siddon_bf16];
        /// Of int16 voxels.
        SIDDON_I16(DrrParams) = [drr_siddon_i16];
        /// Exact line integrals, the readable reference.
        SIDDON_NAIVE(DrrParams) = [drr_siddon_naive_f32, drr_siddon_naive_bf16];
        /// Of int16 voxels.
        SIDDON_NAIVE_I16(DrrParams) = [drr_siddon_naive_i16];
        /// Exact line integrals, each ray in parts.
        SIDDON_SPLIT(DrrParams) = [drr_siddon_split_f32, drr_siddon_split_bf16];
        /// Of int16 voxels.
        SIDDON_SPLIT_I16(DrrParams) = [drr_siddon_split_i16];
        /// Line integrals, bilinear on planes.
        JOSEPH(DrrParams) = [drr_joseph_f32, drr_joseph_bf16];
        /// Of int16 voxels.
        JOSEPH_I16(DrrParams) = [drr_joseph_i16];
        /// Line integrals, bilinear on planes, the readable reference.
        JOSEPH_NAIVE(DrrParams) = [drr_joseph_naive_f32, drr_joseph_naive_bf16];
        /// Of int16 voxels.
        JOSEPH_NAIVE_I16(DrrParams) = [drr_joseph_naive_i16];
        /// Line integrals, bilinear on planes, each ray in parts.
        JOSEPH_SPLIT(DrrParams) = [drr_joseph_split_f32, drr_joseph_split_bf16];
        /// Of int16 voxels.
        JOSEPH_SPLIT_I16(DrrParams) = [drr_joseph_split_i16];
        /// Line integrals of the trilinear interpolant by the midpoint rule.
        TRILINEAR(DrrParams) = [drr_trilinear_f32, drr_trilinear_bf16];
        /// Of int16 voxels.
        TRILINEAR_I16(DrrParams) = [drr_trilinear_i16];
        /// Line integrals of the trilinear interpolant by the midpoint rule, the readable reference.
        TRILINEAR_NAIVE(DrrParams) = [drr_trilinear_naive_f32, drr_trilinear_naive_bf16];
        /// Of int16 voxels.
        TRILINEAR_NAIVE_I16(DrrParams) = [drr_trilinear_naive_i16];
        /// Line integrals of the trilinear interpolant by the midpoint rule, each ray in parts.
        TRILINEAR_SPLIT(DrrParams) = [drr_trilinear_split_f32, drr_trilinear_split_bf16];
        /// Of int16 voxels.
        TRILINEAR_SPLIT_I16(DrrParams) = [drr_trilinear_split_i16];
        /// Which bricks are not all air.
        BRICKS(DrrParams) = [drr_bricks_f32, drr_bricks_bf16];
        /// Of int16 voxels.
        BRICKS_I16(DrrParams) = [drr_bricks_i16];
        /// Adjoint, first pass: the largest upstream value.
        PEAK(DrrParams) = [drr_peak];
        /// Adjoint, second pass.
        SIDDON_ADJOINT(DrrParams) = [drr_siddon_adjoint];
        /// Adjoint, second pass.
        SIDDON_NAIVE_ADJOINT(DrrParams) = [drr_siddon_naive_adjoint];
        /// Adjoint, second pass.
        JOSEPH_ADJOINT(DrrParams) = [drr_joseph_adjoint];
        /// Adjoint, second pass.
        JOSEPH_NAIVE_ADJOINT(DrrParams) = [drr_joseph_naive_adjoint];
        /// Adjoint, second pass.
        TRILINEAR_ADJOINT(DrrParams) = [drr_trilinear_adjoint];
        /// Adjoint, second pass.
        TRILINEAR_NAIVE_ADJOINT(DrrParams) = [drr_trilinear_naive_adjoint];
        /// Adjoint, last pass: integers to the gradient.
        FINISH(DrrParams) = [drr_finish_f32, drr_finish_bf16];
        /// Pose, first pass: the gradient of every ray.
        SIDDON_POSE(DrrParams) = [drr_siddon_pose_f32, drr_siddon_pose_bf16];
        /// Of int16 voxels.
        SIDDON_POSE_I16(DrrParams) = [drr_siddon_pose_i16];
        /// Pose, first pass: the gradient of every ray.
        JOSEPH_POSE(DrrParams) = [drr_joseph_pose_f32, drr_joseph_pose_bf16];
        /// Of int16 voxels.
        JOSEPH_POSE_I16(DrrParams) = [drr_joseph_pose_i16];
        /// Pose, first pass: the gradient of every ray.
        TRILINEAR_POSE(DrrParams) = [drr_trilinear_pose_f32, drr_trilinear_pose_bf16];
        /// Of int16 voxels.
        TRILINEAR_POSE_I16(DrrParams) = [drr_trilinear_pose_i16];
        /// Pose, last pass: rays to views.
        POSE_SUM(DrrParams) = [drr_pose_sum];
        /// Weighted mean along one axis.
        MEAN(DrrMeanParams) = [drr_mean_f32, drr_mean_bf16];
        /// Of int16 voxels.
        MEAN_I16(DrrMeanParams) = [drr_mean_i16];
        /// Its gradient.
        MEAN_BACKWARD(DrrMeanParams) = [drr_mean_backward_f32, drr_mean_backward_bf16];
    }
}

// Safety: #[repr(C)] of f64 and u32 without padding.
unsafe impl bytemuck::Zeroable for DrrView {}
unsafe impl bytemuck::Pod for DrrView {}

/// The rule that gives each voxel its weight in a ray's sum.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Projector {
    /// The length of the ray inside the voxel, exactly (Siddon, "Fast calculation of the exact radiological path", 1985).
    Siddon,
    /// Bilinear interpolation on each plane of voxel centres of the axis that the ray crosses fastest, times the ray's length
    /// from plane to plane (Joseph, "An improved algorithm for reprojecting rays through pixel images", 1982).
    Joseph,
    /// The midpoint rule on the trilinear interpolant.
    Trilinear,
}

impl Projector {
    /// All of them.
    pub const ALL: [Projector; 3] = [Projector::Siddon, Projector::Joseph, Projector::Trilinear];
}

/// Which of the kernels for one result.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Variant {
    /// The readable reference. It skips no air; volumes of 2^31 voxels and more always use it.
    Naive,
    /// Slab by slab (Siddon), interior samples without bounds tests (Joseph, trilinear), air skipped.
    #[default]
    Slab,
    /// The same with every ray in eight parts on as many warps: for detectors of fewer pixels than a GPU has threads.
    Split,
}

impl Variant {
    /// All of them.
    pub const ALL: [Variant; 3] = [Variant::Naive, Variant::Slab, Variant::Split];
}

/// The naive kernels count the elements of a volume in 64 bits, the others in 32.
fn counted(variant: Variant, params: &DrrParams) -> Variant {
    if params.voxels > i32::MAX as u64 { Variant::Naive } else { variant }
}

/// Edge of a brick of the map of air, in voxels.
pub const BRICK: usize = 8;

/// Fills `params.image`, and `params.integrals` unless it is null.
///
/// # Safety
/// `volume` holds `batch * voxels` voxels of type `voxel` with `voxels = n[0] n[1] n[2]`, aligned to 4 bytes; `views` holds `count` finite views, or `batch * count` where `view_stride` is `count` rather than 0;
/// `bricks` is null or what [`mark_bricks`] made of this volume, slope, intercept and floor, with a floor of 0; `image` and
/// `integrals` hold `batch * count * rows * columns` f32; all are valid until the launch has completed on the launcher's
/// stream. No `n` is 0; `step > 0` for the trilinear rule.
pub unsafe fn forward(
    launcher: &dyn Launcher,
    projector: Projector,
    variant: Variant,
    voxel: VoxelType,
    params: &DrrParams,
) -> Result<()> {
    use {Projector::*, Variant::*};
    let [float, int16] = match (projector, counted(variant, params)) {
        (Siddon, Naive) => [&SIDDON_NAIVE, &SIDDON_NAIVE_I16],
        (Siddon, Slab) => [&SIDDON, &SIDDON_I16],
        (Siddon, Split) => [&SIDDON_SPLIT, &SIDDON_SPLIT_I16],
        (Joseph, Naive) => [&JOSEPH_NAIVE, &JOSEPH_NAIVE_I16],
        (Joseph, Slab) => [&JOSEPH, &JOSEPH_I16],
        (Joseph, Split) => [&JOSEPH_SPLIT, &JOSEPH_SPLIT_I16],
        (Trilinear, Naive) => [&TRILINEAR_NAIVE, &TRILINEAR_NAIVE_I16],
        (Trilinear, Slab) => [&TRILINEAR, &TRILINEAR_I16],
        (Trilinear, Split) => [&TRILINEAR_SPLIT, &TRILINEAR_SPLIT_I16],
    };
    let (kernel, dtype) = VoxelKernel { float, int16 }.of(voxel);
    unsafe { kernel.launch(launcher, dtype, pixel_grid(launcher, kernel, dtype, params)?, params) }
}

/// Fills `params.bricks` with 1 where a brick of 8 x 8 x 8 voxels, or a voxel beside it, is above the floor.
///
/// # Safety
/// As for [`forward`]; `bricks` holds as many bytes as there are bricks.
pub unsafe fn mark_bricks(launcher: &dyn Launcher, voxel: VoxelType, params: &DrrParams) -> Result<()> {
    let (kernel, dtype) = VoxelKernel { float: &BRICKS, int16: &BRICKS_I16 }.of(voxel);
    let tile = launcher.config(kernel.of(dtype))?.tile;
    let bricks: usize = params.n.iter().map(|&n| (n as usize).div_ceil(BRICK)).product();
    let grid = Grid::covering(params.batch as usize * bricks, tile[0] as usize);
    unsafe { kernel.launch(launcher, dtype, grid, params) }
}

/// Blocks of pixel tiles, over images and volumes.
fn pixel_grid(
    launcher: &dyn Launcher,
    kernel: &'static Kernel<DrrParams>,
    dtype: DType,
    params: &DrrParams,
) -> Result<Grid> {
    let tile = launcher.config(kernel.of(dtype))?.tile;
    let tiles = params.columns.div_ceil(tile[0]) as usize * params.rows.div_ceil(tile[1]) as usize;
    Ok(Grid::covering(tiles * params.count as usize * params.batch as usize, 1))
}

/// Fills `params.gradient`, or adds to it: three passes. Variants other than naive share one adjoint.
///
/// # Safety
/// As for [`forward`]; besides, `sums` holds `batch * voxels` 64-bit words and `peak` one u32, all zero, `gradient` holds as
/// many elements of `dtype`, the volume's storage type, and `integrals` is not null unless `response` is 0.
pub unsafe fn adjoint(
    launcher: &dyn Launcher,
    projector: Projector,
    variant: Variant,
    dtype: DType,
    params: &DrrParams,
) -> Result<()> {
    let kernel = match (projector, counted(variant, params)) {
        (Projector::Siddon, Variant::Naive) => &SIDDON_NAIVE_ADJOINT,
        (Projector::Siddon, _) => &SIDDON_ADJOINT,
        (Projector::Joseph, Variant::Naive) => &JOSEPH_NAIVE_ADJOINT,
        (Projector::Joseph, _) => &JOSEPH_ADJOINT,
        (Projector::Trilinear, Variant::Naive) => &TRILINEAR_NAIVE_ADJOINT,
        (Projector::Trilinear, _) => &TRILINEAR_ADJOINT,
    };
    let pixels = params.batch as usize * params.count as usize * params.rows as usize * params.columns as usize;
    let voxels = params.batch as usize * params.voxels as usize;
    let peak = Grid::covering(pixels, launcher.config(PEAK.entry())?.tile[0] as usize);
    let finish = Grid::covering(voxels, launcher.config(FINISH.of(dtype))?.tile[0] as usize);
    unsafe {
        PEAK.launch_only(launcher, peak, params)?;
        kernel.launch_only(launcher, pixel_grid(launcher, kernel, DType::F32, params)?, params)?;
        FINISH.launch(launcher, dtype, finish, params)
    }
}

/// Fills `params.view_gradient`: two passes.
///
/// # Safety
/// As for [`forward`]; besides, `rays` holds `6 * batch * count * rows * columns` f32, `view_gradient` 12 f64 a view, and
/// `integrals` is not null unless `response` is 0.
pub unsafe fn pose(launcher: &dyn Launcher, projector: Projector, voxel: VoxelType, params: &DrrParams) -> Result<()> {
    let [float, int16] = match projector {
        Projector::Siddon => [&SIDDON_POSE, &SIDDON_POSE_I16],
        Projector::Joseph => [&JOSEPH_POSE, &JOSEPH_POSE_I16],
        Projector::Trilinear => [&TRILINEAR_POSE, &TRILINEAR_POSE_I16],
    };
    let (kernel, dtype) = VoxelKernel { float, int16 }.of(voxel);
    let views = params.count as usize * if params.view_stride == 0 { 1 } else { params.batch as usize };
    unsafe {
        kernel.launch(launcher, dtype, pixel_grid(launcher, kernel, dtype, params)?, params)?;
        POSE_SUM.launch_only(launcher, Grid::covering(views, 1), params)
    }
}

/// Fills `params.image` with weighted means along one axis.
///
/// # Safety
/// `volume` holds `batch * voxels` voxels of type `voxel`; `row`, `column` and `term` are not negative and keep every
/// (row, column, term) inside a volume; `weights` holds `terms` f32, `image` `batch * rows * columns` f32; all are valid
/// until the launch has completed on the launcher's stream.
pub unsafe fn mean(launcher: &dyn Launcher, voxel: VoxelType, params: &DrrMeanParams) -> Result<()> {
    let (kernel, dtype) = VoxelKernel { float: &MEAN, int16: &MEAN_I16 }.of(voxel);
    let config = launcher.config(kernel.of(dtype))?;
    let items = params.columns.div_ceil(config.tile[0]) as usize * params.rows as usize * params.batch as usize;
    unsafe { kernel.launch(launcher, dtype, Grid::covering(items, config.threads as usize), params) }
}

/// Fills `params.gradient`, or adds to it.
///
/// # Safety
/// As for [`mean`]; besides, every voxel is on exactly one line of the sum, and `gradient` is laid out as the volume.
pub unsafe fn mean_backward(launcher: &dyn Launcher, dtype: DType, params: &DrrMeanParams) -> Result<()> {
    let tile = launcher.config(MEAN_BACKWARD.of(dtype))?.tile;
    let grid = Grid::covering(params.batch as usize * params.voxels as usize, tile[1] as usize);
    unsafe { MEAN_BACKWARD.launch(launcher, dtype, grid, params) }
}
