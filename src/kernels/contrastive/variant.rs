//! What a contrastive loss is computed with.

use super::{
    ContrastiveForwardParams, ContrastiveGradientParams, GRADIENT_MMA, GRADIENT_NAIVE, GRADIENT_TILED, MMA, NAIVE,
    TILED,
};
use crate::kernels::{DType, Kernel};

/// How logits become a loss, as the kernels are told.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Softmax of rows and columns, each with its running maximum.
    RunningMaximum = 0,
    /// Softmax where no logit exceeds the scale, and the scale no [`MAX_BOUNDED_SCALE`]: one exponential for both sides.
    Bounded = 1,
    /// Every logit on its own.
    Sigmoid = 2,
}

/// What the products of the embeddings are computed in; sums are f32 or better everywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// IEEE single precision.
    F32,
    /// Operands rounded to 10 mantissa bits.
    Tf32,
    /// Operands as they are stored, 7 mantissa bits.
    Bf16,
}

/// Which kernels compute the tiles.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Variant {
    /// One thread a row, no shared memory: the readable reference.
    Naive,
    /// f32 arithmetic on register tiles fed from shared memory.
    #[default]
    Tiled,
    /// Tensor cores: bf16 products of bf16 embeddings, TF32 products of f32 ones (10 mantissa bits: logits are off by
    /// about 1e-3 of the scale). Inner products of the embeddings as given must not overflow.
    TensorCores,
    /// As `Tiled`; where a batch's gradients are made together with its loss, all of it is one cooperative launch.
    OneLaunch,
}

impl Variant {
    /// Every variant.
    pub const ALL: [Variant; 4] = [Variant::Naive, Variant::Tiled, Variant::TensorCores, Variant::OneLaunch];

    /// What this variant multiplies embeddings of a storage type in.
    pub fn precision(self, dtype: DType) -> Precision {
        match (self, dtype) {
            (Variant::TensorCores, DType::F32) => Precision::Tf32,
            (Variant::TensorCores, DType::Bf16) => Precision::Bf16,
            _ => Precision::F32,
        }
    }

    pub(super) fn forward(self) -> &'static Kernel<ContrastiveForwardParams> {
        match self {
            Variant::Naive => &NAIVE,
            Variant::Tiled | Variant::OneLaunch => &TILED,
            Variant::TensorCores => &MMA,
        }
    }

    pub(super) fn gradient(self) -> &'static Kernel<ContrastiveGradientParams> {
        match self {
            Variant::Naive => &GRADIENT_NAIVE,
            Variant::Tiled | Variant::OneLaunch => &GRADIENT_TILED,
            Variant::TensorCores => &GRADIENT_MMA,
        }
    }
}
