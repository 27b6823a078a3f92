//! Level one of an operator: parameter structs, launch geometry and `unsafe` launches on raw device pointers.
//!
//! This module knows nothing above it. A program with its own CUDA runtime (cudarc, cust, the driver API) implements
//! [`Launcher`], loads [`Family::fatbin`] once per family, and calls the launch functions of the operators it wants.
//!
//! A kernel takes one argument, its `#[repr(C)]` parameter struct, by value. Threads per block, shared memory and tile
//! sizes come from the kernel's own [`KernelConfig`], which lives beside the kernel in the module. The structs, the entries and
//! the kernels are written by `build/abi` from `kernels/NAME`; nothing is typed twice.

use std::ffi::c_void;

use crate::Result;

pub mod attention;
pub mod bce;
pub mod channels;
pub mod columns;
pub mod contrastive;
pub mod conv2d;
pub mod decomp_conv;
pub mod decomp_dense;
pub mod depthwise_conv3d;
pub mod dropout;
pub mod drr;
mod family;
pub mod gather;
pub mod gemm;
pub mod image;
pub mod mlp;
pub mod norm;
pub mod optim;
pub mod pointwise;
pub mod pool;
pub mod probe;
pub mod resample;
pub mod retrieval;
mod shared;
pub mod vector_quantize;
pub mod volume;

pub use family::{Entry, Family, FieldLayout, HostEntry, Kernel, ParamsLayout};

include!(concat!(env!("OUT_DIR"), "/abi/families.rs"));

/// An address in device memory (in host memory on the host device). Null where a kernel documents the pointer as optional.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct DevicePtr(pub u64);

impl DevicePtr {
    /// No address.
    pub const NULL: DevicePtr = DevicePtr(0);

    /// The address `bytes` further on.
    pub fn offset(self, bytes: usize) -> Self {
        DevicePtr(self.0 + bytes as u64)
    }
}

/// How a storage type is named across the library.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DType {
    /// IEEE single precision.
    F32,
    /// bfloat16; arithmetic on it is done in f32.
    Bf16,
}

impl DType {
    /// Bytes of one element.
    pub const fn size(self) -> usize {
        match self {
            DType::F32 => 4,
            DType::Bf16 => 2,
        }
    }

    /// The name in messages and on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            DType::F32 => "f32",
            DType::Bf16 => "bf16",
        }
    }
}

/// Whether a backward kernel overwrites its destination or adds to it. Every backward launch takes one explicitly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Write {
    /// Replace what the destination holds.
    Overwrite,
    /// Add to what the destination holds.
    Accumulate,
}

impl Write {
    /// The flag kernels read.
    pub fn flag(self) -> u32 {
        matches!(self, Write::Accumulate) as u32
    }
}

/// The constants of one kernel, read from its module. Mirrors `KernelConfig` in `kernels/common/common.h`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KernelConfig {
    /// Threads of a block, all along x.
    pub threads: u32,
    /// Blocks per multiprocessor that the register budget is planned for.
    pub min_blocks: u32,
    /// Dynamic shared memory of a block, bytes.
    pub shared_bytes: u32,
    /// `sizeof` the parameter struct on the C++ side.
    pub params_bytes: u32,
    /// Not 0: all blocks must be resident (a cooperative launch).
    pub cooperative: u32,
    /// What the launch geometry divides the problem by; documented at each kernel.
    pub tile: [u32; 4],
}

/// Blocks along x, y and z.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grid(pub [u32; 3]);

impl Grid {
    /// Enough blocks of `per_block` for `n` items along x, at least one.
    pub fn covering(n: usize, per_block: usize) -> Self {
        Grid([n.div_ceil(per_block).clamp(1, i32::MAX as usize) as u32, 1, 1])
    }

    /// Whether CUDA can launch it; the host keeps to the same limits, so that a geometry that works here works there.
    pub(crate) fn check(self) -> std::result::Result<(), String> {
        let [x, y, z] = self.0;
        if self.0.contains(&0) || x > i32::MAX as u32 || y > 65535 || z > 65535 {
            return Err(format!("a grid of {x}x{y}x{z} blocks cannot be launched (at most {}x65535x65535)", i32::MAX));
        }
        Ok(())
    }

    /// Blocks in all.
    pub fn blocks(self) -> u64 {
        self.0.iter().map(|&n| n as u64).product()
    }
}

/// What launch geometry may depend on.
#[derive(Clone, Copy, Debug)]
pub struct Properties {
    /// Streaming multiprocessors; the host device reports its worker threads.
    pub multiprocessors: u32,
    /// Compute capability times ten (90 for Hopper); 0 for the host device.
    pub compute_capability: u32,
    /// Shared memory a block may opt into, bytes.
    pub shared_bytes_per_block: u32,
    /// L2 cache, bytes.
    pub l2_bytes: u64,
}

/// Whatever can launch the kernels of this crate.
///
/// # Safety
/// An implementation must pass the parameter struct to the very entry named, with the block size and shared memory of
/// [`Launcher::config`], and report failures as errors.
pub unsafe trait Launcher {
    /// The device's limits.
    fn properties(&self) -> &Properties;

    /// The constants of an entry.
    fn config(&self, entry: &'static Entry) -> Result<&KernelConfig>;

    /// Queues a launch of `grid` blocks on the launcher's stream.
    ///
    /// # Safety
    /// `params` points to the entry's parameter struct; every pointer in it is valid on this device for the extents the
    /// kernel documents, and stays so until the launch has completed.
    unsafe fn launch(&self, entry: &'static Entry, grid: Grid, params: *const c_void) -> Result<()>;
}
