//! NCCL, loaded when it is first asked for. Queued on the device's own stream, like every kernel.

use std::ffi::{c_int, c_void};

use cudarc::nccl::{result, sys};

use super::Collective;
use crate::device::Device;
use crate::kernels::DType;
use crate::tensor::Tensor;
use crate::{Error, Result};

/// One rank of a run over GPUs, of this machine or several.
pub struct Nccl {
    device: Device,
    communicator: sys::ncclComm_t,
    rank: usize,
    ranks: usize,
}

fn failed(what: &str, error: result::NcclError) -> Error {
    Error::argument("NCCL", format!("{what} failed with {:?}", error.0), "set NCCL_DEBUG=INFO and read what it prints")
}

fn check_present() -> Result<()> {
    // Safety: only opens a library of the system's.
    if unsafe { sys::is_culib_present() } {
        return Ok(());
    }
    Err(Error::argument(
        "NCCL",
        "libnccl was not found",
        "install NCCL 2.24 or later, or name its folder in LD_LIBRARY_PATH",
    ))
}

impl Nccl {
    /// What rank 0 makes and hands to every other rank, by whatever connects them.
    pub fn unique_id() -> Result<[u8; 128]> {
        check_present()?;
        let id = result::get_uniqueid().map_err(|e| failed("ncclGetUniqueId", e))?;
        Ok(id.internal.map(|byte| byte as u8))
    }

    /// Joins the run; returns when every rank has. `device` is this rank's GPU, another one for each rank.
    pub fn new(device: &Device, id: [u8; 128], rank: usize, ranks: usize) -> Result<Self> {
        if rank >= ranks || ranks > c_int::MAX as usize {
            return Err(Error::argument("NCCL", format!("rank {rank} of {ranks}"), "count ranks from 0"));
        }
        check_present()?;
        Self::stream(device)?;
        let id = sys::ncclUniqueId { internal: id.map(|byte| byte as std::ffi::c_char) };
        let mut communicator = std::ptr::null_mut();
        // Safety: the device's context is current, and the communicator is written before it is read.
        unsafe { result::comm_init_rank(&mut communicator, ranks as c_int, id, rank as c_int) }
            .map_err(|e| failed("ncclCommInitRank", e))?;
        Ok(Nccl { device: device.clone(), communicator, rank, ranks })
    }

    /// The device's stream, with its context current on this thread.
    fn stream(device: &Device) -> Result<sys::cudaStream_t> {
        let stream: Option<*mut c_void> = device.cuda_stream()?;
        let none =
            || Error::argument("NCCL", format!("{} is no GPU", device.name()), "use Alone or Threads on the host");
        Ok(stream.ok_or_else(none)?.cast())
    }

    fn check(&self, tensors: &[&Tensor]) -> Result<()> {
        for tensor in tensors {
            tensor.expect("tensor of a collective", &self.device, tensor.shape(), tensors[0].dtype())?;
        }
        Ok(())
    }
}

fn data_type(dtype: DType) -> sys::ncclDataType_t {
    match dtype {
        DType::F32 => sys::ncclDataType_t::ncclFloat32,
        DType::Bf16 => sys::ncclDataType_t::ncclBfloat16,
    }
}

impl Collective for Nccl {
    fn rank(&self) -> usize {
        self.rank
    }

    fn ranks(&self) -> usize {
        self.ranks
    }

    fn all_gather(&self, part: &Tensor, whole: &Tensor) -> Result<()> {
        self.check(&[part, whole])?;
        if whole.numel() != part.numel() * self.ranks {
            let problem = format!("{part:?} of {} ranks into {whole:?}", self.ranks);
            return Err(Error::argument("all_gather", problem, "pass room for every rank's part"));
        }
        let stream = Self::stream(&self.device)?;
        // Safety: both tensors live on the communicator's device; the stream orders what follows.
        unsafe {
            let (from, to) = (part.ptr().0 as *const c_void, whole.ptr().0 as *mut c_void);
            result::all_gather(from, to, part.numel(), data_type(part.dtype()), self.communicator, stream)
        }
        .map_err(|e| failed("ncclAllGather", e))?;
        Ok(())
    }

    fn all_reduce(&self, tensor: &Tensor) -> Result<()> {
        self.check(&[tensor])?;
        let stream = Self::stream(&self.device)?;
        let (data_type, sum) = (data_type(tensor.dtype()), sys::ncclRedOp_t::ncclSum);
        // Safety: as above, in place.
        unsafe {
            let at = tensor.ptr().0 as *mut c_void;
            result::all_reduce(at, at, tensor.numel(), data_type, sum, self.communicator, stream)
        }
        .map_err(|e| failed("ncclAllReduce", e))?;
        Ok(())
    }
}

impl Drop for Nccl {
    fn drop(&mut self) {
        let _ = self.device.synchronize();
        // Safety: nothing is under way on it, and nothing uses it again.
        let _ = unsafe { result::comm_destroy(self.communicator) };
    }
}
