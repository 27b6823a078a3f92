//! NCCL, loaded when it is first asked for. Queued on the device's own stream, like every kernel.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::sync::OnceLock;

use cudarc::nccl::sys::{cudaStream_t, ncclComm_t, ncclDataType_t, ncclRedOp_t, ncclUniqueId};
use libloading::{Library, Symbol};

use super::Collective;
use crate::device::Device;
use crate::kernels::DType;
use crate::tensor::Tensor;
use crate::{Error, Result};

/// NVIDIA's packages hold the first alone.
const LIBRARIES: [&str; 2] = ["libnccl.so.2", "libnccl.so"];

/// An `ncclResult_t`; 0 is success. A number, since a newer library may know more of them.
type Code = c_int;

/// The functions used here, as `nccl.h` declares them in every version 2.
struct Functions {
    get_unique_id: unsafe extern "C" fn(*mut ncclUniqueId) -> Code,
    init_rank: unsafe extern "C" fn(*mut ncclComm_t, c_int, ncclUniqueId, c_int) -> Code,
    destroy: unsafe extern "C" fn(ncclComm_t) -> Code,
    #[rustfmt::skip] // one function a line
    all_gather: unsafe extern "C" fn(*const c_void, *mut c_void, usize, ncclDataType_t, ncclComm_t, cudaStream_t) -> Code,
    #[rustfmt::skip]
    all_reduce: unsafe extern "C" fn(*const c_void, *mut c_void, usize, ncclDataType_t, ncclRedOp_t, ncclComm_t, cudaStream_t) -> Code,
    error_string: unsafe extern "C" fn(Code) -> *const c_char,
    _library: Library,
}

impl Functions {
    fn load() -> std::result::Result<Self, String> {
        // Safety: NCCL does nothing at load; the functions have the types given above.
        unsafe {
            let library = LIBRARIES
                .iter()
                .find_map(|name| Library::new(*name).ok())
                .ok_or_else(|| format!("{} was not found", LIBRARIES.join(" or ")))?;
            fn get<'a, T>(library: &'a Library, name: &str) -> std::result::Result<Symbol<'a, T>, String> {
                unsafe { library.get(name.as_bytes()) }.map_err(|_| format!("the NCCL found has no {name}"))
            }
            Ok(Functions {
                get_unique_id: *get(&library, "ncclGetUniqueId")?,
                init_rank: *get(&library, "ncclCommInitRank")?,
                destroy: *get(&library, "ncclCommDestroy")?,
                all_gather: *get(&library, "ncclAllGather")?,
                all_reduce: *get(&library, "ncclAllReduce")?,
                error_string: *get(&library, "ncclGetErrorString")?,
                _library: library,
            })
        }
    }

    /// The library, loaded once.
    fn get() -> Result<&'static Self> {
        static FUNCTIONS: OnceLock<std::result::Result<Functions, String>> = OnceLock::new();
        FUNCTIONS.get_or_init(Self::load).as_ref().map_err(|problem| {
            Error::argument("NCCL", problem, "install NCCL 2, or name its folder in LD_LIBRARY_PATH")
        })
    }

    fn check(&self, what: &str, code: Code) -> Result<()> {
        if code == 0 {
            return Ok(());
        }
        // Safety: takes any number and returns a constant string.
        let words = unsafe { CStr::from_ptr((self.error_string)(code)) }.to_string_lossy();
        Err(Error::argument("NCCL", format!("{what} failed: {words}"), "set NCCL_DEBUG=INFO and read what it prints"))
    }
}

/// One rank of a run over GPUs, of this machine or several.
pub struct Nccl {
    functions: &'static Functions,
    device: Device,
    communicator: ncclComm_t,
    rank: usize,
    ranks: usize,
}

impl Nccl {
    /// What rank 0 makes and hands to every other rank, by whatever connects them.
    pub fn unique_id() -> Result<[u8; 128]> {
        let functions = Functions::get()?;
        let mut id = ncclUniqueId { internal: [0; 128] };
        // Safety: writes the id.
        functions.check("ncclGetUniqueId", unsafe { (functions.get_unique_id)(&mut id) })?;
        Ok(id.internal.map(|byte| byte as u8))
    }

    /// Joins the run; returns when every rank has. `device` is this rank's GPU, another one for each rank.
    pub fn new(device: &Device, id: [u8; 128], rank: usize, ranks: usize) -> Result<Self> {
        if rank >= ranks || ranks > c_int::MAX as usize {
            return Err(Error::argument("NCCL", format!("rank {rank} of {ranks}"), "count ranks from 0"));
        }
        let functions = Functions::get()?;
        Self::stream(device)?;
        let id = ncclUniqueId { internal: id.map(|byte| byte as c_char) };
        let mut communicator = std::ptr::null_mut();
        // Safety: the device's context is current, and the communicator is written before it is read.
        let code = unsafe { (functions.init_rank)(&mut communicator, ranks as c_int, id, rank as c_int) };
        functions.check("ncclCommInitRank", code)?;
        Ok(Nccl { functions, device: device.clone(), communicator, rank, ranks })
    }

    /// The device's stream, with its context current on this thread.
    fn stream(device: &Device) -> Result<cudaStream_t> {
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

fn data_type(dtype: DType) -> ncclDataType_t {
    match dtype {
        DType::F32 => ncclDataType_t::ncclFloat32,
        DType::Bf16 => ncclDataType_t::ncclBfloat16,
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
        whole.expect_writable("gathered tensor")?;
        if whole.numel() != part.numel() * self.ranks {
            let problem = format!("{part:?} of {} ranks into {whole:?}", self.ranks);
            return Err(Error::argument("all_gather", problem, "pass room for every rank's part"));
        }
        let stream = Self::stream(&self.device)?;
        let (from, to) = (part.ptr().0 as *const c_void, whole.ptr().0 as *mut c_void);
        let (count, data_type) = (part.numel(), data_type(part.dtype()));
        // Safety: both tensors live on the communicator's device; the stream orders what follows.
        let code = unsafe { (self.functions.all_gather)(from, to, count, data_type, self.communicator, stream) };
        self.functions.check("ncclAllGather", code)
    }

    fn all_reduce(&self, tensor: &Tensor) -> Result<()> {
        self.check(&[tensor])?;
        tensor.expect_writable("reduced tensor")?;
        let stream = Self::stream(&self.device)?;
        let (data_type, sum) = (data_type(tensor.dtype()), ncclRedOp_t::ncclSum);
        let (at, count) = (tensor.ptr().0 as *mut c_void, tensor.numel());
        // Safety: as above, in place.
        let code = unsafe { (self.functions.all_reduce)(at, at, count, data_type, sum, self.communicator, stream) };
        self.functions.check("ncclAllReduce", code)
    }
}

impl Drop for Nccl {
    fn drop(&mut self) {
        let _ = self.device.synchronize();
        // Safety: nothing is under way on it, and nothing uses it again.
        let _ = unsafe { (self.functions.destroy)(self.communicator) };
    }
}
