//! Embedding sets laid out for the kernels of [`Variant::Hopper`](super::Variant::Hopper).

use crate::Result;
use crate::kernels::contrastive::{self as kernel, ContrastivePackParams};
use crate::kernels::{DType, DevicePtr};
use crate::tensor::Tensor;

/// Some embeddings as tiles, zero beyond them.
#[derive(Clone)]
pub(super) struct Packed {
    /// bf16, [`kernel::packed_shape`], swizzled.
    tiles: Tensor,
    /// f32, one a row: what is left of the inverse norm; where normalised.
    factors: Option<Tensor>,
}

impl Packed {
    /// `[n, d]` bf16 embeddings of `like`'s device at `x`; their inverse norms, or null.
    pub fn new(like: &Tensor, x: DevicePtr, inverse_norms: DevicePtr, n: usize, d: usize) -> Result<Self> {
        let (device, launcher) = (like.device(), like.device().launcher());
        kernel::check_wgmma(launcher)?;
        let shape = kernel::packed_shape(launcher, n, d)?;
        let tiles = Tensor::empty(device, shape, DType::Bf16, "embeddings as tiles")?;
        let factors = (inverse_norms != DevicePtr::NULL)
            .then(|| Tensor::empty(device, [n], DType::F32, "factors of the embeddings"))
            .transpose()?;
        let packed = Packed { tiles, factors };
        let (tiles, factors) = packed.pointers();
        let params = ContrastivePackParams { x, inverse_norms, tiles, factors, n: n as u64, d: d as u64 };
        // Safety: the caller's embeddings and norms, and two tensors of the documented extents, all live.
        unsafe { kernel::pack(launcher, &params)? };
        Ok(packed)
    }

    /// Tiles and factors.
    pub fn pointers(&self) -> (DevicePtr, DevicePtr) {
        (self.tiles.ptr(), self.factors.as_ref().map_or(DevicePtr::NULL, Tensor::ptr))
    }
}
