//! How CT voxels are stored in device memory.

use super::DType;

/// The storage types of a CT volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum VoxelType {
    /// As CT files store them.
    I16,
    /// IEEE single precision.
    F32,
    /// bfloat16.
    Bf16,
}

impl VoxelType {
    /// Bytes of one voxel.
    pub const fn size(self) -> usize {
        match self {
            VoxelType::F32 => 4,
            VoxelType::I16 | VoxelType::Bf16 => 2,
        }
    }

    /// The type as a tensor's; `None` for integers, which have no gradient.
    pub const fn dtype(self) -> Option<DType> {
        match self {
            VoxelType::I16 => None,
            VoxelType::F32 => Some(DType::F32),
            VoxelType::Bf16 => Some(DType::Bf16),
        }
    }

    /// The name in messages.
    pub const fn name(self) -> &'static str {
        match self {
            VoxelType::I16 => "int16",
            VoxelType::F32 => "f32",
            VoxelType::Bf16 => "bf16",
        }
    }
}

impl From<DType> for VoxelType {
    fn from(dtype: DType) -> Self {
        match dtype {
            DType::F32 => VoxelType::F32,
            DType::Bf16 => VoxelType::Bf16,
        }
    }
}
