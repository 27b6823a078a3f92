//! The direct variant of the dense decomposed convolution: both forward passes without columns
//! (`kernels/decomp_dense/decomp_dense_mma.cuh` and `decomp_dense_stem.cuh`).

use super::{
    DecompDenseParams, MMA_MOMENTS32, MMA_MOMENTS64, MMA_WRITE32, MMA_WRITE64, MOMENT_VALUES, PIVOTS, STEM_FINISH,
    STEM_MOMENTS, STEM_WRITE,
};
use crate::Result;
use crate::kernels::decomp_conv::DecompConvShape;
use crate::kernels::{DType, Entry, Grid, Launcher};

/// Which kernels run the forward passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direct {
    /// bf16, 3 taps, stride 1, at most 64 input channels.
    TensorCores,
    /// One input channel, 7 taps, any stride: f32 arithmetic.
    Stem,
}

/// Blocks of a summing pass: a few for each multiprocessor of the largest GPUs.
const MMA_BLOCKS: usize = 1024;
/// Fewer where one thread adds them up.
const STEM_BLOCKS: usize = 256;
/// Sums of an axis' windows of seven: each value, each product.
const STEM_VALUES: usize = 35;

impl Direct {
    /// The kernels for a shape; `None` where only chunks can run.
    pub fn of(shape: &DecompConvShape, dtype: DType) -> Option<Self> {
        if shape.in_channels == 1 && shape.kernel == 7 {
            return Some(Direct::Stem);
        }
        let fits = shape.kernel == 3 && shape.stride == 1 && shape.in_channels <= 64 && dtype == DType::Bf16;
        fits.then_some(Direct::TensorCores)
    }

    /// Storage of the folded weights.
    pub fn folded(self) -> DType {
        match self {
            Direct::TensorCores => DType::Bf16,
            Direct::Stem => DType::F32,
        }
    }

    /// Plans tiles and blocks.
    pub fn plan(self, launcher: &dyn Launcher, params: &mut DecompDenseParams) -> Result<()> {
        let lines = params.batch as usize * params.out_size[0] as usize * params.out_size[1] as usize;
        match self {
            Direct::TensorCores => {
                let [t1, t2, t3, _] = launcher.config(MMA_WRITE32.entry())?.tile;
                let [e1, e2, e3] = params.out_size;
                params.tiles = [e1.div_ceil(t1), e2.div_ceil(t2), e3.div_ceil(t3)];
                params.blocks = tiles(params).min(MMA_BLOCKS) as u32;
                params.aligned = params.in_channels.is_multiple_of(8) as u32;
                params.vector = params.y.0.is_multiple_of(4) as u32;
            }
            Direct::Stem => {
                params.blocks = lines.div_ceil(4).min(STEM_BLOCKS) as u32;
                params.vector = (params.out_size[2].is_multiple_of(4) && params.y.0.is_multiple_of(16)) as u32;
            }
        }
        Ok(())
    }

    /// f64 values of a planned call's workspace: `partial`, which `window_sums` follow after [`Direct::window_sums`].
    pub fn workspace(self, params: &DecompDenseParams) -> usize {
        let windows = if self == Direct::Stem { params.blocks as usize * 3 * STEM_VALUES } else { 0 };
        self.window_sums(params) + windows
    }

    /// f64 values of `partial`.
    pub fn window_sums(self, params: &DecompDenseParams) -> usize {
        self.sum_blocks(params) * params.out_channels as usize * MOMENT_VALUES
    }

    /// Blocks that `partial` looks like.
    pub fn sum_blocks(self, params: &DecompDenseParams) -> usize {
        match self {
            Direct::TensorCores => params.blocks as usize,
            Direct::Stem => 1,
        }
    }
}

fn tiles(params: &DecompDenseParams) -> usize {
    params.batch as usize * params.tiles.iter().map(|&n| n as usize).product::<usize>()
}

/// The entry for few or many output channels, and its blocks along y.
fn wide(launcher: &dyn Launcher, entries: [&'static Entry; 2], channels: u32) -> Result<(&'static Entry, u32)> {
    let narrow = launcher.config(entries[0])?.tile[3];
    let entry = entries[(channels > narrow) as usize];
    Ok((entry, channels.div_ceil(launcher.config(entry)?.tile[3])))
}

/// Sums of the branches, in `partial`.
///
/// # Safety
/// `params` is planned; `x`, `w`, `matrices` (tensor cores) and the workspace are as documented, valid until the launches have
/// completed on the launcher's stream.
pub unsafe fn moments(launcher: &dyn Launcher, direct: Direct, dtype: DType, params: &DecompDenseParams) -> Result<()> {
    unsafe {
        match direct {
            Direct::TensorCores => {
                let per_block = launcher.config(PIVOTS.entry())?.tile[0] as usize;
                PIVOTS.launch_only(launcher, Grid::covering(3 * params.out_channels as usize, per_block), params)?;
                let (entry, across) =
                    wide(launcher, [MMA_MOMENTS32.entry(), MMA_MOMENTS64.entry()], params.out_channels)?;
                launcher.launch(entry, Grid([params.blocks, across, 1]), std::ptr::from_ref(params).cast())
            }
            Direct::Stem => {
                STEM_MOMENTS.launch(launcher, dtype, Grid([params.blocks, 3, 1]), params)?;
                STEM_FINISH.launch_only(launcher, Grid([3, 1, 1]), params)
            }
        }
    }
}

/// y.
///
/// # Safety
/// As for [`moments`], with `folded`, `shift` and `y`.
pub unsafe fn write(launcher: &dyn Launcher, direct: Direct, dtype: DType, params: &DecompDenseParams) -> Result<()> {
    unsafe {
        match direct {
            Direct::TensorCores => {
                let (entry, across) = wide(launcher, [MMA_WRITE32.entry(), MMA_WRITE64.entry()], params.out_channels)?;
                launcher.launch(entry, Grid([tiles(params) as u32, across, 1]), std::ptr::from_ref(params).cast())
            }
            Direct::Stem => {
                let per_block = launcher.config(STEM_WRITE.of(dtype))?.tile[0] as usize;
                let [e1, e2, e3] = params.out_size.map(|e| e as usize);
                let voxels = params.batch as usize * e1 * e2 * e3.next_multiple_of(4);
                STEM_WRITE.launch(launcher, dtype, Grid::covering(voxels, per_block), params)
            }
        }
    }
}
