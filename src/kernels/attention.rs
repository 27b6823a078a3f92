//! Attention kernels: geometry and launches. See `kernels/attention/attention.cu`.

use super::{DType, DevicePtr, Grid, Kernel, Launcher};
use crate::Result;

include!(concat!(env!("OUT_DIR"), "/abi/attention.rs"));

/// Which implementation runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variant {
    /// One thread an element: the readable reference, for any head dimension.
    Naive,
    /// Tiles in shared memory, f32 arithmetic, for heads of at most [`Variant::LARGEST_TILED`] dimensions.
    Tiled,
}

impl Variant {
    /// Dimensions a head has at most for [`Variant::Tiled`].
    pub const LARGEST_TILED: usize = 64;

    /// The faster one that can run.
    pub fn of(head_dim: usize) -> Self {
        if head_dim <= Self::LARGEST_TILED { Variant::Tiled } else { Variant::Naive }
    }
}

impl AttentionParams {
    /// For N samples, H heads, T tokens and d dimensions a head, with the strides of sample, head and token; the scale is
    /// 1/sqrt(d), every pointer null.
    pub fn new([batch, heads, tokens, head_dim]: [usize; 4], input: [u64; 3], output: [u64; 3]) -> Self {
        const NULL: DevicePtr = DevicePtr::NULL;
        AttentionParams {
            q: NULL,
            k: NULL,
            v: NULL,
            o: NULL,
            g: NULL,
            dq: NULL,
            dk: NULL,
            dv: NULL,
            lse: NULL,
            delta: NULL,
            input,
            output,
            batch: batch as u64,
            heads: heads as u32,
            tokens: tokens as u32,
            head_dim: head_dim as u32,
            scale: 1.0 / (head_dim as f32).sqrt(),
            vector: 0,
            accumulate: 0,
        }
    }

    fn rows(&self) -> u64 {
        self.batch * self.heads as u64 * self.tokens as u64
    }

    /// One of the two head dimensions the tiled kernels are written out for, with 16-byte loads where they are possible.
    unsafe fn tiles(&self, kernels: [&Kernel<Self>; 2], launcher: &dyn Launcher, dtype: DType) -> Result<()> {
        let kernel = kernels[(self.head_dim > 32) as usize];
        let per_block = launcher.config(kernel.of(dtype))?.tile[0];
        let blocks = self.batch * self.heads as u64 * self.tokens.div_ceil(per_block) as u64;
        let pointers = [self.q, self.k, self.v, self.o, self.g, self.dq, self.dk, self.dv];
        let aligned = pointers.iter().all(|p| p.0.is_multiple_of(4 * dtype.size() as u64));
        let strides = self.input.iter().chain(&self.output).all(|stride| stride.is_multiple_of(4));
        let vector = (aligned && strides && self.head_dim.is_multiple_of(4)) as u32;
        let grid = Grid::covering(blocks as usize, 1);
        unsafe { kernel.launch(launcher, dtype, grid, &AttentionParams { vector, ..*self }) }
    }

    unsafe fn elements(&self, kernel: &Kernel<Self>, launcher: &dyn Launcher, dtype: DType, items: u64) -> Result<()> {
        let per_block = launcher.config(kernel.of(dtype))?.tile[0] as usize;
        unsafe { kernel.launch(launcher, dtype, Grid::covering(items as usize, per_block), self) }
    }
}

/// o and lse from q, k and v.
///
/// # Safety
/// The pointers hold what [`AttentionParams`] says and stay valid until the launch has completed on the launcher's stream;
/// for [`Variant::Tiled`] a head has at most [`Variant::LARGEST_TILED`] dimensions.
pub unsafe fn forward(launcher: &dyn Launcher, variant: Variant, dtype: DType, params: &AttentionParams) -> Result<()> {
    let elements = params.rows() * params.head_dim as u64;
    if elements == 0 {
        return Ok(());
    }
    unsafe {
        match variant {
            Variant::Naive => params.elements(&FORWARD_NAIVE, launcher, dtype, elements),
            Variant::Tiled => params.tiles([&FORWARD32, &FORWARD64], launcher, dtype),
        }
    }
}

/// delta, then dq, dk and dv, those that are not null.
///
/// # Safety
/// As for [`forward`], with `g`, `o` and `lse` of the forward pass, and `delta`.
pub unsafe fn backward(
    launcher: &dyn Launcher,
    variant: Variant,
    dtype: DType,
    params: &AttentionParams,
) -> Result<()> {
    let elements = params.rows() * params.head_dim as u64;
    if elements == 0 {
        return Ok(());
    }
    let [queries, keys] = [params.dq != DevicePtr::NULL, [params.dk, params.dv] != [DevicePtr::NULL; 2]];
    unsafe {
        params.elements(&DELTA, launcher, dtype, params.rows())?;
        match variant {
            Variant::Naive => {
                if queries {
                    params.elements(&QUERY_GRADIENT_NAIVE, launcher, dtype, elements)?;
                }
                if keys {
                    params.elements(&KEY_GRADIENT_NAIVE, launcher, dtype, elements)?;
                }
            }
            Variant::Tiled => {
                if queries {
                    params.tiles([&QUERY_GRADIENT32, &QUERY_GRADIENT64], launcher, dtype)?;
                }
                if keys {
                    params.tiles([&KEY_GRADIENT32, &KEY_GRADIENT64], launcher, dtype)?;
                }
            }
        }
    }
    Ok(())
}
