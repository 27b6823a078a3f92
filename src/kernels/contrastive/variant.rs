//! What a contrastive loss is computed with.

use super::{ContrastiveGradientParams, GRADIENT_MMA, GRADIENT_NAIVE, GRADIENT_TILED, MMA, NAIVE, TILED, WGMMA};
use crate::kernels::{DType, Entry, Kernel};

/// How logits become a loss, as the kernels are told.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Softmax of rows and columns, each with its running maximum.
    RunningMaximum = 0,
    /// Softmax where no logit exceeds the scale, and the scale no [`MAX_BOUNDED_SCALE`](super::MAX_BOUNDED_SCALE): one exponential for both sides.
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
    /// As `TensorCores`; where a batch's gradients are made together with its loss, all of it is one cooperative launch.
    OneLaunchTensorCores,
    /// bf16 embeddings by compute capability 9.0's own instructions (wgmma, bulk copies), from a copy of the embeddings that
    /// is laid out for them; normalised embeddings may have any norms. Not on other GPUs. f32 embeddings: as `TensorCores`.
    Hopper,
}

impl Variant {
    /// Every variant.
    pub const ALL: [Variant; 6] = [
        Variant::Naive,
        Variant::Tiled,
        Variant::TensorCores,
        Variant::OneLaunch,
        Variant::OneLaunchTensorCores,
        Variant::Hopper,
    ];

    /// Whether products are made on tensor cores.
    pub fn tensor_cores(self) -> bool {
        matches!(self, Variant::TensorCores | Variant::OneLaunchTensorCores | Variant::Hopper)
    }

    /// Whether a small batch keeps its similarities where its gradients are made together with its loss.
    pub fn stores(self) -> bool {
        matches!(self, Variant::Tiled | Variant::OneLaunch | Variant::OneLaunchTensorCores)
    }

    /// What this variant multiplies embeddings of a storage type in.
    pub fn precision(self, dtype: DType) -> Precision {
        match (self.tensor_cores(), dtype) {
            (true, DType::F32) => Precision::Tf32,
            (true, DType::Bf16) => Precision::Bf16,
            (false, _) => Precision::F32,
        }
    }

    /// Whether its kernels read embeddings as [`super::pack`] lays them out.
    pub fn packs(self, dtype: DType) -> bool {
        self == Variant::Hopper && dtype == DType::Bf16
    }

    /// The kernel of the sums of rows and columns.
    pub(super) fn forward(self, dtype: DType) -> &'static Entry {
        match self {
            Variant::Naive => NAIVE.of(dtype),
            Variant::Tiled | Variant::OneLaunch => TILED.of(dtype),
            Variant::Hopper if self.packs(dtype) => WGMMA.entry(),
            Variant::TensorCores | Variant::OneLaunchTensorCores | Variant::Hopper => MMA.of(dtype),
        }
    }

    /// The kernel of a set's gradient, where embeddings are read as they are.
    pub(super) fn gradient(self) -> &'static Kernel<ContrastiveGradientParams> {
        match self {
            Variant::Naive => &GRADIENT_NAIVE,
            Variant::Tiled | Variant::OneLaunch => &GRADIENT_TILED,
            Variant::TensorCores | Variant::OneLaunchTensorCores | Variant::Hopper => &GRADIENT_MMA,
        }
    }
}
