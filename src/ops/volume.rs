//! CT voxels in device memory, as the projection and resampling operators read them.

use crate::device::{Buffer, Device, HostArray};
use crate::kernels::DevicePtr;
use crate::kernels::volume::VoxelType;
use crate::tensor::{DType, Tensor};
use crate::{Error, Result};

/// One or more volumes of one shape: `[B, Z, Y, X]`, x fastest, with what turns stored values into Hounsfield units.
pub struct DeviceVolume {
    storage: Storage,
    batch: usize,
    shape: [usize; 3],
    scale: (f32, f32),
}

enum Storage {
    Int16(Buffer),
    Float(Tensor),
}

impl DeviceVolume {
    /// Copies stored values to the device. `shape` is `[nx, ny, nz]`; `voxels` holds one or more volumes of it, one after
    /// the other; HU = `scale.0` * stored + `scale.1`.
    pub fn from_i16(device: &Device, voxels: &[i16], shape: [usize; 3], scale: (f32, f32)) -> Result<Self> {
        let one = checked_size(shape)?;
        if voxels.is_empty() || voxels.len() % one != 0 {
            let problem = format!("{} voxels are not a whole number of volumes of {shape:?}", voxels.len());
            return Err(Error::argument("CT volume", problem, "give nx * ny * nz voxels a volume, x fastest"));
        }
        let buffer = device.alloc(voxels.len() * 2, "CT volume")?;
        buffer.upload(0, bytemuck::cast_slice(voxels))?;
        let batch = voxels.len() / one;
        Self { storage: Storage::Int16(buffer), batch, shape, scale }.checked()
    }

    /// As [`DeviceVolume::from_i16`] for one volume, shared with the host device rather than copied where it can be.
    pub fn share_i16(device: &Device, voxels: &HostArray<i16>, shape: [usize; 3], scale: (f32, f32)) -> Result<Self> {
        check_one(voxels.len(), shape)?;
        let buffer = device.share(voxels, "CT volume")?;
        Self { storage: Storage::Int16(buffer), batch: 1, shape, scale }.checked()
    }

    /// The same for f32.
    pub fn share_f32(device: &Device, voxels: &HostArray<f32>, shape: [usize; 3], scale: (f32, f32)) -> Result<Self> {
        check_one(voxels.len(), shape)?;
        let [nx, ny, nz] = shape;
        let tensor = Tensor::from_buffer(device.share(voxels, "CT volume")?, [nz, ny, nx], DType::F32);
        Self::from_tensor(&tensor, scale)
    }

    /// Shares the memory of a tensor `[Z, Y, X]` or `[B, Z, Y, X]`, f32 or bf16.
    pub fn from_tensor(tensor: &Tensor, scale: (f32, f32)) -> Result<Self> {
        let (batch, [nz, ny, nx]) = match tensor.shape()[..] {
            [z, y, x] => (1, [z, y, x]),
            [b, z, y, x] => (b, [z, y, x]),
            _ => {
                let problem = format!("the shape {} is neither [Z, Y, X] nor [B, Z, Y, X]", tensor.shape());
                return Err(Error::argument("CT volume", problem, "pass three or four axes"));
            }
        };
        let shape = [nx, ny, nz];
        checked_size(shape)?;
        if batch == 0 {
            return Err(Error::argument("CT volume", "the batch is empty", "pass at least one volume"));
        }
        Self { storage: Storage::Float(tensor.clone()), batch, shape, scale }.checked()
    }

    fn checked(self) -> Result<Self> {
        if !(self.scale.0.is_finite() && self.scale.1.is_finite()) {
            let problem = format!("slope {} and intercept {} are not finite", self.scale.0, self.scale.1);
            return Err(Error::argument("CT volume", problem, "use 1 and 0 for values that are Hounsfield units"));
        }
        Ok(self)
    }

    /// Where the first voxel is.
    pub fn ptr(&self) -> DevicePtr {
        match &self.storage {
            Storage::Int16(buffer) => buffer.ptr(),
            Storage::Float(tensor) => tensor.ptr(),
        }
    }

    /// Whose memory it is.
    pub fn device(&self) -> &Device {
        match &self.storage {
            Storage::Int16(buffer) => buffer.device(),
            Storage::Float(tensor) => tensor.device(),
        }
    }

    /// How a voxel is stored.
    pub fn voxel(&self) -> VoxelType {
        match &self.storage {
            Storage::Int16(_) => VoxelType::I16,
            Storage::Float(tensor) => tensor.dtype().into(),
        }
    }

    /// How many volumes.
    pub fn batch(&self) -> usize {
        self.batch
    }

    /// `[nx, ny, nz]`.
    pub fn shape(&self) -> [usize; 3] {
        self.shape
    }

    /// Voxels of one volume.
    pub fn voxels(&self) -> usize {
        self.shape.iter().product()
    }

    /// `(slope, intercept)` with HU = slope * stored + intercept.
    pub fn scale(&self) -> (f32, f32) {
        self.scale
    }

    /// Elements from one voxel to the next along x, y and z.
    pub fn strides(&self) -> [i64; 3] {
        [1, self.shape[0] as i64, (self.shape[0] * self.shape[1]) as i64]
    }
}

fn check_one(voxels: usize, shape: [usize; 3]) -> Result<()> {
    if checked_size(shape)? == voxels {
        return Ok(());
    }
    let problem = format!("{voxels} voxels are not one volume of {shape:?}");
    Err(Error::argument("CT volume", problem, "give nx * ny * nz voxels, x fastest"))
}

/// Voxels of a volume; an error when it has none, or an axis too long for 32-bit indices.
fn checked_size(shape: [usize; 3]) -> Result<usize> {
    let size = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
    match size {
        Some(size) if size > 0 && shape.iter().all(|&n| n <= i32::MAX as usize / 4) => Ok(size),
        _ => Err(Error::argument("CT volume", format!("the shape {shape:?} is empty or too large"), "check the axes")),
    }
}
