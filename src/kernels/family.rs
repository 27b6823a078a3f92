//! How a kernel file is described to Rust: its entries, its parameter layouts, its compiled form.

use std::ffi::{c_char, c_void};
use std::marker::PhantomData;

use super::{DType, Grid, KernelConfig, Launcher};
use crate::Result;

/// One `kernels/NAME.cu`.
pub struct Family {
    /// The file's name without extension.
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

    /// The entry for a storage type: declared in the order f32, bf16.
    pub fn of(&self, dtype: DType) -> &'static Entry {
        match dtype {
            DType::F32 => self.entries[0],
            DType::Bf16 => self.entries[1],
        }
    }

    /// The entry at a place of the declaration, for siblings that differ in something else than the storage type.
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

/// Declares a family: `slot`, parameter structs and kernels with their entries (f32 first, then bf16).
macro_rules! kernels {
    (
        family $family:literal slot $slot:literal;
        params { $( $(#[$struct_doc:meta])* $params:ident { $( $(#[$field_doc:meta])* $field:ident : $type:ty ),* $(,)? } )* }
        kernels { $( $(#[$kernel_doc:meta])* $kernel:ident ( $kernel_params:ident ) = [ $($entry:ident),+ $(,)? ]; )* }
    ) => {
        $(
            $(#[$struct_doc])*
            #[repr(C)]
            #[derive(Clone, Copy, Debug)]
            pub struct $params { $( $(#[$field_doc])* pub $field: $type ),* }
        )*

        /// The kernels of this file.
        pub static FAMILY: $crate::kernels::Family = $crate::kernels::Family {
            name: $family,
            slot: $slot,
            entries: &[ $( $( &entries::$entry ),+ ),* ],
            layouts: &[ $( $crate::kernels::ParamsLayout {
                name: stringify!($params),
                size: std::mem::size_of::<$params>(),
                fields: &[ $( (stringify!($field), std::mem::offset_of!($params, $field), std::mem::size_of::<$type>()) ),* ],
                #[cfg(feature = "host")]
                host: Some(host::layouts::$params),
                #[cfg(not(feature = "host"))]
                host: None,
            } ),* ],
            #[cfg(x2ct_nvcc)]
            fatbin: Some(include_bytes!(concat!(env!("OUT_DIR"), "/", $family, ".fatbin"))),
            #[cfg(not(x2ct_nvcc))]
            fatbin: None,
        };

        $(
            $(#[$kernel_doc])*
            pub static $kernel: $crate::kernels::Kernel<$kernel_params> =
                $crate::kernels::Kernel::new(&[ $( &entries::$entry ),+ ]);
        )*

        #[allow(non_upper_case_globals)]
        mod entries {
            use super::*;
            #[allow(non_camel_case_types, clippy::enum_variant_names)]
            enum Index { $( $( $entry ),+ ),* }
            $( $(
                pub static $entry: $crate::kernels::Entry = $crate::kernels::Entry {
                    name: stringify!($entry),
                    family: &FAMILY,
                    index: Index::$entry as usize,
                    params_bytes: std::mem::size_of::<$kernel_params>(),
                    #[cfg(feature = "host")]
                    host: Some(host::$entry),
                    #[cfg(not(feature = "host"))]
                    host: None,
                };
            )+ )*
        }

        #[cfg(feature = "host")]
        mod host {
            unsafe extern "C" {
                $( $(
                    #[link_name = concat!("x2ct_host_", stringify!($entry))]
                    pub fn $entry(launch: *const std::ffi::c_void) -> *const $crate::kernels::KernelConfig;
                )+ )*
            }
            #[allow(non_snake_case)]
            pub mod layouts {
                unsafe extern "C" {
                    $(
                        #[link_name = concat!("x2ct_fields_", stringify!($params))]
                        pub fn $params() -> *const $crate::kernels::FieldLayout;
                    )*
                }
            }
        }
    };
}
pub(crate) use kernels;
