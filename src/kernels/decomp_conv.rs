//! Decomposed convolution kernels: geometry and launches. See `kernels/decomp_conv/decomp_conv.cu`.

use super::{DType, DevicePtr, Entry, Grid, Kernel, Launcher, Write};
use crate::{Error, Result};

pub mod traffic;

include!(concat!(env!("OUT_DIR"), "/abi/decomp_conv.rs"));

/// Which implementation of a decomposed convolution runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variant {
    /// One thread an element, branches stored: the readable reference.
    Naive,
    /// Depthwise: no branch is stored. Dense: see [`super::decomp_dense`].
    Fused,
    /// Depthwise, stride 1, bf16, at most 15 taps: as [`Variant::Fused`], all passes but that for dx on tensor cores. All use
    /// the weights rounded to bf16.
    TensorCores,
}

/// What follows each branch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum NormKind {
    /// Nothing.
    None = 0,
    /// Normalisation by the running statistics.
    Eval = 1,
    /// Normalisation by those of the batch.
    Train = 2,
}

/// Blocks of a summing pass over all channels: a few for each multiprocessor of the largest GPUs.
const SUM_BLOCKS: usize = 2048;
/// Voxels that a block of a depthwise summing pass reads at most, unless one tile has more: it reads them once an axis, and
/// what all resident blocks read is to stay in the L2 cache until then (x and g in f32, two blocks on each of 132
/// multiprocessors: 34 MB).
const SUM_VOXELS: usize = 16384;

/// The sizes of a decomposed convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecompConvShape {
    /// N.
    pub batch: usize,
    /// I.
    pub in_channels: usize,
    /// O.
    pub out_channels: usize,
    /// D.
    pub in_size: [usize; 3],
    /// E = (D - 1) / stride + 1.
    pub out_size: [usize; 3],
    /// k, odd.
    pub kernel: usize,
    /// Along all three axes, of all three branches.
    pub stride: usize,
    /// Every output channel sees every input channel; otherwise (depthwise) O = I and each sees its own.
    pub dense: bool,
}

impl DecompConvShape {
    /// The sizes for x `[N, I, D1, D2, D3]`.
    ///
    /// # Errors
    /// On an even kernel, a stride of 0, an empty tensor, or sizes beyond 2^31.
    pub fn new(x: [usize; 5], out_channels: usize, kernel: usize, stride: usize, dense: bool) -> Result<Self> {
        let [batch, in_channels, d1, d2, d3] = x;
        let refuse = |problem: String, hint: &str| Err(Error::argument("decomp_conv", problem, hint));
        if kernel.is_multiple_of(2) || stride == 0 {
            return refuse(format!("kernel {kernel} with stride {stride}"), "use an odd kernel and a positive stride");
        }
        if x.contains(&0) || out_channels == 0 || x.iter().any(|&n| n > i32::MAX as usize) {
            return refuse(format!("x {x:?} to {out_channels} channels"), "use sizes from 1 to 2^31 - 1");
        }
        if !dense && out_channels != in_channels {
            return refuse(
                format!("{out_channels} depthwise filters for {in_channels} channels"),
                "use one filter a channel, or a dense convolution",
            );
        }
        // Channels are blocks along y.
        if out_channels > u16::MAX as usize {
            return refuse(format!("{out_channels} channels"), "use at most 65535");
        }
        let in_size = [d1, d2, d3];
        let out_size = in_size.map(|d| (d - 1) / stride + 1);
        Ok(DecompConvShape { batch, in_channels, out_channels, in_size, out_size, kernel, stride, dense })
    }

    /// Voxels of x.
    pub fn in_voxels(&self) -> usize {
        self.in_size.iter().product()
    }

    /// Voxels of y.
    pub fn out_voxels(&self) -> usize {
        self.out_size.iter().product()
    }

    /// Elements of one branch's weight.
    pub fn weights(&self) -> usize {
        self.out_channels * self.kernel * if self.dense { self.in_channels } else { 1 }
    }

    /// Whether [`Variant::TensorCores`] can run on x in `dtype`.
    pub fn tensor_cores(&self, dtype: DType) -> bool {
        !self.dense && self.stride == 1 && self.kernel <= 15 && dtype == DType::Bf16
    }

    /// Parameters with the sizes filled in and everything else null or 0.
    pub fn params(&self) -> DecompConvParams {
        let size = |size: [usize; 3]| size.map(|d| d as u32);
        DecompConvParams {
            batch: self.batch as u64,
            in_channels: self.in_channels as u32,
            out_channels: self.out_channels as u32,
            in_size: size(self.in_size),
            out_size: size(self.out_size),
            kernel: self.kernel as u32,
            stride: self.stride as u32,
            dense: self.dense as u32,
            norm: NormKind::None as u32,
            ..Default::default()
        }
    }
}

/// The passes of the fused depthwise variant.
#[derive(Clone, Copy)]
enum Phase {
    /// Sums of the branches.
    Moments,
    /// y.
    Write,
    /// Correlations of g and of the branches with x.
    GradientSums,
    /// dx.
    InputGradient,
}

/// The kernels of the fused depthwise variant, by [`Phase`].
type Phases = [&'static Kernel<DecompConvParams>; 4];

/// The unrolled kernels by tap count; fewer taps run on zero weights. The entries are in `kernels/decomp_conv/decomp_conv.cu`.
static TAPS: [(u32, Phases); 5] = [
    (7, [&MOMENTS7, &WRITE7, &GRADIENT_SUMS7, &INPUT_GRADIENT7]),
    (9, [&MOMENTS9, &WRITE9, &GRADIENT_SUMS9, &INPUT_GRADIENT9]),
    (11, [&MOMENTS11, &WRITE11, &GRADIENT_SUMS11, &INPUT_GRADIENT11]),
    (13, [&MOMENTS13, &WRITE13, &GRADIENT_SUMS13, &INPUT_GRADIENT13]),
    (15, [&MOMENTS15, &WRITE15, &GRADIENT_SUMS15, &INPUT_GRADIENT15]),
];

/// The kernels of any stride and tap count.
static STRIDED: Phases = [&STRIDED_MOMENTS, &STRIDED_WRITE, &STRIDED_GRADIENT_SUMS, &STRIDED_INPUT_GRADIENT];

impl DecompConvParams {
    /// Plans the tiles and blocks of `variant`, for all channels. The pass for dx of [`Variant::TensorCores`] is that of
    /// [`Variant::Fused`] and takes its plan.
    pub fn plan(&mut self, launcher: &dyn Launcher, dtype: DType, variant: Variant) -> Result<()> {
        let mut most = usize::MAX; // tiles of a block of a summing pass
        let pieces = |size: [u32; 3], piece: u32| {
            let voxels: u64 = size.iter().map(|&d| d as u64).product();
            [self.batch as u32 * voxels.div_ceil(piece as u64) as u32, 1, 1, 1]
        };
        if variant == Variant::Naive {
            let [piece, ..] = launcher.config(BRANCH_WRITE.of(dtype))?.tile;
            self.vector = size(self.out_size).is_multiple_of(4) as u32;
            self.tiles = pieces(self.out_size, piece);
        } else if variant == Variant::TensorCores {
            let [depth, rows, columns, _] = launcher.config(TENSOR_WRITE.entry())?.tile;
            let [_, d2, d3] = self.in_size;
            self.vector = (d3.is_multiple_of(8) && [self.x, self.g].iter().all(|p| p.0.is_multiple_of(16))) as u32;
            self.tile = [1, depth, rows, columns];
            self.tiles = [self.batch as u32, 1, d2.div_ceil(rows), d3.div_ceil(columns)];
            most = 1;
        } else if self.unrolled().is_none() {
            let [piece, ..] = launcher.config(self.phase(Phase::Write, dtype))?.tile;
            self.tiles = pieces(self.out_size, piece);
            most = SUM_VOXELS / (piece as usize * (self.stride as usize).pow(3));
        } else {
            let [capacity, extent, segment, _] = launcher.config(self.phase(Phase::Write, dtype))?.tile;
            let [d1, d2, d3] = self.in_size;
            let [t1, t2, t3] = [d1.min(extent), d2.min(extent), d3.next_multiple_of(segment).min(extent)];
            let samples = (capacity / (t1 * t2 * t3)).clamp(1, self.batch.min(u32::MAX as u64) as u32);
            self.vector = d3.is_multiple_of(4) as u32;
            self.tile = [samples, t1, t2, t3];
            self.tiles =
                [self.batch.div_ceil(samples as u64) as u32, d1.div_ceil(t1), d2.div_ceil(t2), d3.div_ceil(t3)];
            most = SUM_VOXELS / (samples * t1 * t2 * t3) as usize;
        }
        let tiles: usize = self.tiles.iter().map(|&n| n as usize).product();
        let wanted = SUM_BLOCKS.div_ceil(self.out_channels as usize).min(tiles);
        self.tiles_per_block = tiles.div_ceil(wanted).min(most.max(1)) as u32;
        self.blocks = tiles.div_ceil(self.tiles_per_block as usize) as u32;
        // Vectors of four elements.
        let aligned = |p: &DevicePtr| p.0.is_multiple_of(4 * dtype.size() as u64);
        self.vector &= [self.x, self.g, self.y, self.dx].iter().all(aligned) as u32;
        (self.first_channel, self.channels) = (0, self.out_channels);
        Ok(())
    }

    /// Planned parameters for every `channels` channels in turn: a depthwise phase runs on one such group at a time.
    pub fn groups(&self, channels: usize) -> impl Iterator<Item = DecompConvParams> {
        let (all, step) = (self.out_channels, channels.clamp(1, self.out_channels as usize));
        (0..all).step_by(step).map(move |first_channel| DecompConvParams {
            first_channel,
            channels: (step as u32).min(all - first_channel),
            ..*self
        })
    }

    fn unrolled(&self) -> Option<&'static Phases> {
        let kernels = TAPS.iter().find(|(taps, _)| self.stride == 1 && self.kernel <= *taps);
        kernels.map(|(_, kernels)| kernels)
    }

    /// The kernel of a depthwise phase.
    fn phase(&self, phase: Phase, dtype: DType) -> &'static Entry {
        self.unrolled().unwrap_or(&STRIDED)[phase as usize].of(dtype)
    }

    /// # Safety
    /// As for the launch function of the phase.
    unsafe fn launch_phase(&self, launcher: &dyn Launcher, phase: Phase, dtype: DType, grid: Grid) -> Result<()> {
        unsafe { launcher.launch(self.phase(phase, dtype), grid, std::ptr::from_ref(self).cast()) }
    }

    /// Bytes of `partial` of a planned call, either direction.
    pub fn partial_bytes(&self) -> usize {
        // Of the backward pass: two sums and three a tap, of three branches.
        let values = 3 * (2 + 3 * self.kernel as usize);
        self.blocks as usize * self.out_channels as usize * values * 8
    }

    /// Notes that the gradient of input `index` (of the order above) is added to.
    pub fn accumulate_into(&mut self, index: usize, write: Write) {
        self.accumulate |= write.flag() << index;
    }

    fn tile_grid(&self) -> Grid {
        Grid([self.tiles.iter().product(), self.channels, 1])
    }

    fn sum_grid(&self) -> Grid {
        Grid([self.blocks, self.channels, 1])
    }

    fn channel_grid(&self) -> Grid {
        Grid([self.channels, 1, 1])
    }
}

/// `mean`, `rstd`, `scale`, `shift` and, in training, the running ones; from the sums of `blocks` blocks in `partial`.
///
/// # Safety
/// As for [`statistics`], with nine values a block and channel in `partial` where there is training.
pub unsafe fn finish_statistics(launcher: &dyn Launcher, params: &DecompConvParams) -> Result<()> {
    unsafe { FINISH.launch_only(launcher, params.channel_grid(), params) }
}

/// Gradients of biases and norms and the coefficients of dz, from the sums of `blocks` blocks in `partial`.
///
/// # Safety
/// As for [`gradient_sums`], with four values a block and channel in `partial`.
pub unsafe fn finish_gradient_sums(launcher: &dyn Launcher, params: &DecompConvParams) -> Result<()> {
    unsafe { BRANCH_GRADIENT_FINISH.launch_only(launcher, params.channel_grid(), params) }
}

/// Statistics: `mean`, `rstd`, `scale`, `shift` and, in training, the running ones; from x (depthwise) or z.
///
/// # Safety
/// `params` is planned for `variant`; its pointers hold what their documentation says (`x` or `z`, `w`, and the vectors of
/// the norm), valid until the launches have completed on the launcher's stream.
pub unsafe fn statistics(
    launcher: &dyn Launcher,
    variant: Variant,
    dtype: DType,
    params: &DecompConvParams,
) -> Result<()> {
    unsafe {
        if params.norm == NormKind::Train as u32 {
            if variant == Variant::Naive {
                BRANCH_MOMENTS.launch_only(launcher, params.sum_grid(), params)?;
            } else if variant == Variant::TensorCores {
                TENSOR_MOMENTS.launch_only(launcher, params.sum_grid(), params)?;
            } else {
                params.launch_phase(launcher, Phase::Moments, dtype, params.sum_grid())?;
            }
        }
        finish_statistics(launcher, params)
    }
}

/// y from x (depthwise) or z; with `slope` the gradient under the activation from g instead.
///
/// # Safety
/// As for [`statistics`], which has run; `y` as documented, and `g` with `slope`.
pub unsafe fn write(launcher: &dyn Launcher, variant: Variant, dtype: DType, params: &DecompConvParams) -> Result<()> {
    unsafe {
        if variant == Variant::Naive {
            BRANCH_WRITE.launch(launcher, dtype, params.tile_grid(), params)
        } else if variant == Variant::TensorCores {
            TENSOR_WRITE.launch_only(launcher, params.tile_grid(), params)
        } else {
            params.launch_phase(launcher, Phase::Write, dtype, params.tile_grid())
        }
    }
}

/// Gradients of biases and norms, the coefficients of dz and, fused depthwise, of the weights; from g and x or z.
///
/// # Safety
/// As for [`statistics`], which has run; `g`, `coefficients` and the gradients as documented.
pub unsafe fn gradient_sums(
    launcher: &dyn Launcher,
    variant: Variant,
    dtype: DType,
    params: &DecompConvParams,
) -> Result<()> {
    unsafe {
        if variant == Variant::Naive {
            BRANCH_GRADIENT_SUMS.launch(launcher, dtype, params.sum_grid(), params)?;
            finish_gradient_sums(launcher, params)
        } else {
            if variant == Variant::TensorCores {
                TENSOR_GRADIENT_SUMS.launch_only(launcher, params.sum_grid(), params)?;
            } else {
                params.launch_phase(launcher, Phase::GradientSums, dtype, params.sum_grid())?;
            }
            GRADIENT_FINISH.launch_only(launcher, params.channel_grid(), params)
        }
    }
}

/// Fused depthwise: dx from g and x.
///
/// # Safety
/// As for [`gradient_sums`], which has run; `dx` as documented.
pub unsafe fn input_gradient(launcher: &dyn Launcher, dtype: DType, params: &DecompConvParams) -> Result<()> {
    let mut grid = params.tile_grid();
    if params.unrolled().is_none() {
        let [piece, ..] = launcher.config(params.phase(Phase::InputGradient, dtype))?.tile;
        grid.0[0] = params.batch as u32 * size(params.in_size).div_ceil(piece as usize) as u32;
    }
    unsafe { params.launch_phase(launcher, Phase::InputGradient, dtype, grid) }
}

/// Naive: dz from z, which it may replace.
///
/// # Safety
/// As for [`gradient_sums`], which has run; `dz` as documented.
pub unsafe fn naive_branch_gradient(launcher: &dyn Launcher, dtype: DType, params: &DecompConvParams) -> Result<()> {
    unsafe { BRANCH_GRADIENT_NAIVE.launch(launcher, dtype, params.tile_grid(), params) }
}

/// Naive: z from x.
///
/// # Safety
/// `x`, `w` and `z` are as documented, valid until the launch has completed on the launcher's stream.
pub unsafe fn naive_branches(launcher: &dyn Launcher, dtype: DType, params: &DecompConvParams) -> Result<()> {
    let elements = 3 * params.batch as usize * params.out_channels as usize * size(params.out_size);
    unsafe { naive(&NAIVE_BRANCHES, launcher, dtype, params, elements) }
}

/// Naive: dw (those not null) from x and dz.
///
/// # Safety
/// As for [`naive_branches`], with `dz` and `dw`.
pub unsafe fn naive_weight_gradient(launcher: &dyn Launcher, dtype: DType, params: &DecompConvParams) -> Result<()> {
    let fan_in = if params.dense == 1 { params.in_channels } else { 1 };
    let elements = 3 * params.out_channels as usize * fan_in as usize * params.kernel as usize;
    unsafe { naive(&NAIVE_WEIGHT_GRADIENT, launcher, dtype, params, elements) }
}

/// Naive: dx from dz.
///
/// # Safety
/// As for [`naive_branches`], with `dz` and `dx`.
pub unsafe fn naive_input_gradient(launcher: &dyn Launcher, dtype: DType, params: &DecompConvParams) -> Result<()> {
    let elements = params.batch as usize * params.in_channels as usize * size(params.in_size);
    unsafe { naive(&NAIVE_INPUT_GRADIENT, launcher, dtype, params, elements) }
}

unsafe fn naive(
    kernel: &'static Kernel<DecompConvParams>,
    launcher: &dyn Launcher,
    dtype: DType,
    params: &DecompConvParams,
    elements: usize,
) -> Result<()> {
    let per_block = launcher.config(kernel.of(dtype))?.tile[0] as usize;
    unsafe { kernel.launch(launcher, dtype, Grid::covering(elements, per_block), params) }
}

fn size(size: [u32; 3]) -> usize {
    size.iter().map(|&d| d as usize).product()
}
