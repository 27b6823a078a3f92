//! How a family of kernels is described to Rust: its entries, its parameter layouts, its compiled form. `build/abi` writes the
//! descriptions from `kernels/NAME`.

use std::ffi::{c_char, c_void};
use std::marker::PhantomData;

use super::volume::VoxelType;
use super::{DType, Grid, KernelConfig, Launcher};
use crate::Result;

/// One folder `kernels/NAME`.
pub struct Family {
    /// The folder's name.
    pub name: &'static str,
    /// Its own small number, for tables indexed by family.
    pub slot: usize,
    /// Every kernel in it.
    pub entries: &'static [&'static Entry],
    /// Every parameter struct in it.
    pub layouts: &'static [ParamsLayout],
    /// The file compiled for CUDA; `None` when the crate was built without nvcc.
    pub fatbin: Option<&'static [u8]>,
}

/// The host form of a kernel: runs a range of blocks, or (null argument) only returns its constants.
pub type HostEntry = unsafe extern "C" fn(*const c_void) -> *const KernelConfig;

/// One kernel of a family.
pub struct Entry {
    /// The `extern "C"` name in the module.
    pub name: &'static str,
    /// The family it belongs to.
    pub family: &'static Family,
    /// Its place in [`Family::entries`].
    pub index: usize,
    /// `size_of` its parameter struct.
    pub params_bytes: usize,
    /// The kernel compiled for the host; `None` without the feature `host`.
    pub host: Option<HostEntry>,
}

/// A kernel and its siblings for other storage types, launched with the parameter struct `P`.
pub struct Kernel<P: 'static> {
    entries: &'static [&'static Entry],
    params: PhantomData<fn(&P)>,
}

impl<P> Kernel<P> {
    #[doc(hidden)]
    pub const fn new(entries: &'static [&'static Entry]) -> Self {
        Kernel { entries, params: PhantomData }
    }

    /// The only entry of a kernel that exists for one storage type.
    pub fn entry(&self) -> &'static Entry {
        self.entries[0]
    }

    /// The entry for a storage type: in the order f32, bf16.
    pub fn of(&self, dtype: DType) -> &'static Entry {
        match dtype {
            DType::F32 => self.entries[0],
            DType::Bf16 => self.entries[1],
        }
    }

    /// The entry for a storage type of CT voxels: in the order f32, bf16, int16.
    pub fn of_voxel(&self, voxel: VoxelType) -> &'static Entry {
        match voxel {
            VoxelType::F32 => self.entries[0],
            VoxelType::Bf16 => self.entries[1],
            VoxelType::I16 => self.entries[2],
        }
    }

    /// The entry at a place of the order in which siblings stand, for those that differ in something else than the storage
    /// type.
    pub fn nth(&self, index: usize) -> &'static Entry {
        self.entries[index]
    }

    /// Launches the sibling for `dtype`.
    ///
    /// # Safety
    /// See [`Launcher::launch`]: the pointers in `params` are valid for the extents the kernel documents.
    pub unsafe fn launch(&self, launcher: &dyn Launcher, dtype: DType, grid: Grid, params: &P) -> Result<()> {
        unsafe { launcher.launch(self.of(dtype), grid, (params as *const P).cast()) }
    }

    /// Launches the sibling for `voxel`.
    ///
    /// # Safety
    /// As for [`Kernel::launch`].
    pub unsafe fn launch_voxel(&self, launcher: &dyn Launcher, voxel: VoxelType, grid: Grid, params: &P) -> Result<()> {
        unsafe { launcher.launch(self.of_voxel(voxel), grid, (params as *const P).cast()) }
    }

    /// Launches a kernel that exists for one storage type.
    ///
    /// # Safety
    /// As for [`Kernel::launch`].
    pub unsafe fn launch_only(&self, launcher: &dyn Launcher, grid: Grid, params: &P) -> Result<()> {
        unsafe { launcher.launch(self.entry(), grid, (params as *const P).cast()) }
    }
}

/// A field as the C++ side lays it out.
#[repr(C)]
pub struct FieldLayout {
    /// Zero-terminated; null ends the table.
    pub name: *const c_char,
    /// Bytes from the start of the struct.
    pub offset: usize,
    /// Bytes of the field.
    pub size: usize,
}

/// A parameter struct as Rust lays it out, and how to ask C++ for its own view.
pub struct ParamsLayout {
    /// The struct's name, the same in both languages.
    pub name: &'static str,
    /// `size_of`.
    pub size: usize,
    /// (name, offset, size) in declaration order.
    pub fields: &'static [(&'static str, usize, usize)],
    /// The C++ table: the first row is the struct itself. `None` without the feature `host`.
    pub host: Option<unsafe extern "C" fn() -> *const FieldLayout>,
}
