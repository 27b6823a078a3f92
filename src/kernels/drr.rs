//! Line integrals and mean projections of CT volumes: geometry and launches. See `kernels/drr/drr.cu`.

use super::volume::VoxelType;
use super::{DType, Entry, Grid, Launcher};
use crate::Result;

include!(concat!(env!("OUT_DIR"), "/abi/drr.rs"));

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
    let kernel = match (projector, counted(variant, params)) {
        (Siddon, Naive) => &SIDDON_NAIVE,
        (Siddon, Slab) => &SIDDON,
        (Siddon, Split) => &SIDDON_SPLIT,
        (Joseph, Naive) => &JOSEPH_NAIVE,
        (Joseph, Slab) => &JOSEPH,
        (Joseph, Split) => &JOSEPH_SPLIT,
        (Trilinear, Naive) => &TRILINEAR_NAIVE,
        (Trilinear, Slab) => &TRILINEAR,
        (Trilinear, Split) => &TRILINEAR_SPLIT,
    };
    unsafe { kernel.launch_voxel(launcher, voxel, pixel_grid(launcher, kernel.of_voxel(voxel), params)?, params) }
}

/// Fills `params.bricks` with 1 where a brick of 8 x 8 x 8 voxels, or a voxel beside it, is above the floor.
///
/// # Safety
/// As for [`forward`]; `bricks` holds as many bytes as there are bricks.
pub unsafe fn mark_bricks(launcher: &dyn Launcher, voxel: VoxelType, params: &DrrParams) -> Result<()> {
    let tile = launcher.config(BRICKS.of_voxel(voxel))?.tile;
    let bricks: usize = params.n.iter().map(|&n| (n as usize).div_ceil(BRICK)).product();
    let grid = Grid::covering(params.batch as usize * bricks, tile[0] as usize);
    unsafe { BRICKS.launch_voxel(launcher, voxel, grid, params) }
}

/// Blocks of pixel tiles, over images and volumes.
fn pixel_grid(launcher: &dyn Launcher, entry: &'static Entry, params: &DrrParams) -> Result<Grid> {
    let tile = launcher.config(entry)?.tile;
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
        kernel.launch_only(launcher, pixel_grid(launcher, kernel.entry(), params)?, params)?;
        FINISH.launch(launcher, dtype, finish, params)
    }
}

/// Fills `params.view_gradient`: two passes.
///
/// # Safety
/// As for [`forward`]; besides, `rays` holds `6 * batch * count * rows * columns` f32, `view_gradient` 12 f64 a view, and
/// `integrals` is not null unless `response` is 0.
pub unsafe fn pose(launcher: &dyn Launcher, projector: Projector, voxel: VoxelType, params: &DrrParams) -> Result<()> {
    let kernel = match projector {
        Projector::Siddon => &SIDDON_POSE,
        Projector::Joseph => &JOSEPH_POSE,
        Projector::Trilinear => &TRILINEAR_POSE,
    };
    let views = params.count as usize * if params.view_stride == 0 { 1 } else { params.batch as usize };
    unsafe {
        kernel.launch_voxel(launcher, voxel, pixel_grid(launcher, kernel.of_voxel(voxel), params)?, params)?;
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
    let config = launcher.config(MEAN.of_voxel(voxel))?;
    let items = params.columns.div_ceil(config.tile[0]) as usize * params.rows as usize * params.batch as usize;
    unsafe { MEAN.launch_voxel(launcher, voxel, Grid::covering(items, config.threads as usize), params) }
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
