//! Contiguous tensors: a shape, a storage type, a place in device memory. Nothing else: no strides, no broadcasting.

use std::sync::Arc;

use half::bf16;

use crate::device::{Buffer, Device};
pub use crate::kernels::DType;
use crate::kernels::DevicePtr;
use crate::{Error, Result};

mod shape;
pub use shape::Shape;

/// A contiguous, row-major array in device memory. Clones and views share the memory.
///
/// Operators write only into tensors they have just made, and into destinations that the caller hands them as such (a
/// gradient, a running statistic); everything else is read.
#[derive(Clone)]
pub struct Tensor {
    buffer: Arc<Buffer>,
    offset: usize,
    shape: Shape,
    dtype: DType,
}

impl Tensor {
    /// Memory with whatever it holds. `what` names the tensor when the device has too little memory.
    pub fn empty(device: &Device, shape: impl Into<Shape>, dtype: DType, what: &str) -> Result<Self> {
        let shape = shape.into();
        let what = format!("{what} {shape} {}", dtype.name());
        let bytes = shape.numel().checked_mul(dtype.size()).ok_or_else(|| {
            Error::argument(
                what.as_str(),
                "the shape has more elements than memory has addresses",
                "use a smaller shape",
            )
        })?;
        Ok(Tensor { buffer: Arc::new(device.alloc(bytes, &what)?), offset: 0, shape, dtype })
    }

    /// What `buffer` holds, which is `shape` elements.
    pub(crate) fn from_buffer(buffer: Buffer, shape: impl Into<Shape>, dtype: DType) -> Self {
        let shape = shape.into();
        debug_assert_eq!(shape.numel() * dtype.size(), buffer.bytes());
        Tensor { buffer: Arc::new(buffer), offset: 0, shape, dtype }
    }

    /// All zeros.
    pub fn zeros(device: &Device, shape: impl Into<Shape>, dtype: DType, what: &str) -> Result<Self> {
        let tensor = Self::empty(device, shape, dtype, what)?;
        tensor.fill_zero()?;
        Ok(tensor)
    }

    /// A copy of `data` (row-major), rounded to `dtype`.
    pub fn from_slice(device: &Device, shape: impl Into<Shape>, dtype: DType, data: &[f32]) -> Result<Self> {
        let tensor = Self::empty(device, shape, dtype, "tensor")?;
        tensor.copy_from_slice(data)?;
        Ok(tensor)
    }

    /// Overwrites the elements with `data` (row-major), rounded to the tensor's storage type.
    pub fn copy_from_slice(&self, data: &[f32]) -> Result<()> {
        if data.len() != self.numel() {
            return Err(Error::argument(
                "tensor",
                format!("{} values for the shape {}", data.len(), self.shape),
                "pass as many values as the shape has elements",
            ));
        }
        match self.dtype {
            DType::F32 => self.buffer.upload(self.offset, bytemuck::cast_slice(data)),
            DType::Bf16 => {
                let rounded: Vec<bf16> = data.iter().map(|&x| bf16::from_f32(x)).collect();
                self.buffer.upload(self.offset, bytemuck::cast_slice(&rounded))
            }
        }
    }

    /// Every element set to zero.
    pub fn fill_zero(&self) -> Result<()> {
        self.buffer.fill(self.offset, self.bytes(), 0)
    }

    /// The elements in row-major order, as f32; waits for the device.
    pub fn to_vec(&self) -> Result<Vec<f32>> {
        match self.dtype {
            DType::F32 => {
                let mut data = vec![0.0f32; self.numel()];
                self.buffer.download(self.offset, bytemuck::cast_slice_mut(&mut data))?;
                Ok(data)
            }
            DType::Bf16 => {
                let mut data = vec![bf16::ZERO; self.numel()];
                self.buffer.download(self.offset, bytemuck::cast_slice_mut(&mut data))?;
                Ok(data.into_iter().map(bf16::to_f32).collect())
            }
        }
    }

    /// What `f` makes of the elements' bytes, in the machine's order; waits for the device. On the host they are not copied.
    pub fn with_bytes<R>(&self, f: impl FnOnce(&[u8]) -> R) -> Result<R> {
        if self.device().is_host() {
            self.device().synchronize()?;
            // Safety: the host's memory, kept by `self`; every call on it has completed, and operators do not write to it.
            return Ok(f(unsafe { std::slice::from_raw_parts(self.ptr().0 as *const u8, self.bytes()) }));
        }
        let mut bytes = vec![0; self.bytes()];
        self.buffer.download(self.offset, &mut bytes)?;
        Ok(f(&bytes))
    }

    /// The only element of a scalar; waits for the device.
    pub fn item(&self) -> Result<f32> {
        match self.to_vec()?.as_slice() {
            [value] => Ok(*value),
            _ => {
                Err(Error::argument("tensor", format!("the shape {} is not a scalar", self.shape), "take one element"))
            }
        }
    }

    /// Copies `source`'s elements here; shapes' element counts and storage types agree.
    pub fn copy_from(&self, source: &Tensor) -> Result<()> {
        if source.numel() != self.numel() || source.dtype != self.dtype {
            return Err(Error::argument(
                "copy",
                format!("{source:?} into {self:?}"),
                "use tensors of one size and type",
            ));
        }
        self.buffer.copy_from(self.offset, &source.buffer, source.offset, self.bytes())
    }

    /// The same elements under another shape.
    pub fn reshape(&self, shape: impl Into<Shape>) -> Result<Self> {
        let shape = shape.into();
        if shape.numel() != self.numel() {
            return Err(Error::argument(
                "reshape",
                format!("{} elements do not fit the shape {shape}", self.numel()),
                "keep the number of elements",
            ));
        }
        Ok(Tensor { shape, ..self.clone() })
    }

    /// A view of the elements from `first` on (flat index), under `shape`.
    pub fn view(&self, first: usize, shape: impl Into<Shape>) -> Result<Self> {
        let shape = shape.into();
        if first.checked_add(shape.numel()).is_none_or(|end| end > self.numel()) {
            return Err(Error::argument(
                "view",
                format!("{shape} from element {first} on leaves a tensor of {} elements", self.numel()),
                "stay inside the tensor",
            ));
        }
        Ok(Tensor { offset: self.offset + first * self.dtype.size(), shape, ..self.clone() })
    }

    /// Row `index` and the following `count` along the first axis, as a view.
    pub fn rows(&self, index: usize, count: usize) -> Result<Self> {
        let mut shape = self.shape.clone();
        let row = self.numel() / shape.first().copied().unwrap_or(1).max(1);
        if let Some(first) = shape.first_mut() {
            *first = count;
        }
        self.view(index * row, shape)
    }

    /// The tensor on another device.
    pub fn to_device(&self, device: &Device) -> Result<Self> {
        Self::from_slice(device, self.shape.clone(), self.dtype, &self.to_vec()?)
    }

    /// The shape.
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// The storage type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Elements.
    pub fn numel(&self) -> usize {
        self.shape.numel()
    }

    /// Bytes of the elements.
    pub fn bytes(&self) -> usize {
        self.numel() * self.dtype.size()
    }

    /// Where the first element is.
    pub fn ptr(&self) -> DevicePtr {
        self.buffer.ptr().offset(self.offset)
    }

    /// Whose memory it is.
    pub fn device(&self) -> &Device {
        self.buffer.device()
    }

    /// The sizes of an `N`-axis tensor, or an error that names `what`.
    pub fn dims<const N: usize>(&self, what: &str) -> Result<[usize; N]> {
        <[usize; N]>::try_from(&self.shape[..]).map_err(|_| {
            Error::argument(
                what,
                format!("the shape {} has {} axes", self.shape, self.shape.len()),
                format!("pass {N} axes"),
            )
        })
    }

    /// Fails where the memory is another's, lent to be read.
    pub(crate) fn expect_writable(&self, what: &str) -> Result<()> {
        if self.buffer.is_lent() {
            return Err(Error::argument(what, "its memory is shared and only read", "write to a tensor of its own"));
        }
        Ok(())
    }

    /// Fails unless the tensor has this shape and storage type and lives on `device`.
    pub fn expect(&self, what: &str, device: &Device, shape: impl Into<Shape>, dtype: DType) -> Result<()> {
        let shape = shape.into();
        if self.shape != shape || self.dtype != dtype {
            return Err(Error::argument(
                what,
                format!("is {self:?}, not {shape} {}", dtype.name()),
                "pass a tensor of that shape and type",
            ));
        }
        if !self.device().same_memory(device) {
            return Err(Error::argument(
                what,
                format!("is on {}, the others are on {}", self.device().name(), device.name()),
                "put all tensors on one device",
            ));
        }
        Ok(())
    }
}

impl std::fmt::Debug for Tensor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.shape, self.dtype.name())
    }
}
