//! The driver interface as programs see it: memory, modules and launches by their C names.

use super::api::*;
use std::ffi::{CString, c_void};
use std::marker::PhantomData;
use std::ptr::null_mut;
use std::sync::Once;

/// What the driver answered in place of success: a `CUresult`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CudaError(pub u32);

fn check(result: u32) -> Result<(), CudaError> {
    if result == 0 { Ok(()) } else { Err(CudaError(result)) }
}

/// Makes the virtual device's context current on this thread.
fn attach() {
    static INIT: Once = Once::new();
    // SAFETY: the calls of every program's start, with pointers to a local.
    unsafe {
        INIT.call_once(|| check(cuInit(0)).unwrap());
        let mut context = null_mut();
        check(cuDevicePrimaryCtxRetain(&mut context, 0)).unwrap();
        check(cuCtxSetCurrent(context)).unwrap();
    }
}

/// Numbers that are their bytes.
///
/// # Safety
/// Every bit pattern is a value, and there is no padding.
pub unsafe trait Plain: Copy + Default {}
macro_rules! plain {
    ($($number:ty)*) => { $(
        // SAFETY: a primitive number.
        unsafe impl Plain for $number {}
    )* };
}
plain!(u8 i8 u16 i16 u32 i32 u64 i64 f32 f64);

/// An allocation of device memory that holds elements of one type, freed when dropped.
pub struct Memory<T> {
    address: u64,
    length: usize,
    elements: PhantomData<T>,
}

impl<T: Plain> Memory<T> {
    /// Device memory that holds a copy of `values`.
    pub fn new(values: &[T]) -> Memory<T> {
        attach();
        let bytes = size_of_val(values);
        let mut address = 0;
        // SAFETY: a pointer to a local, and a slice with its size in bytes.
        unsafe {
            check(cuMemAlloc_v2(&mut address, bytes.max(1))).unwrap();
            check(cuMemcpyHtoD_v2(address, values.as_ptr() as *const c_void, bytes)).unwrap();
        }
        Memory { address, length: values.len(), elements: PhantomData }
    }

    /// Device memory of `length` elements that nobody has written.
    #[allow(dead_code)] // one of the two test programs needs it
    pub fn unwritten(length: usize) -> Memory<T> {
        attach();
        let mut address = 0;
        // SAFETY: a pointer to a local.
        unsafe { check(cuMemAlloc_v2(&mut address, (length * size_of::<T>()).max(1))).unwrap() };
        Memory { address, length, elements: PhantomData }
    }

    /// The device's address of the first element, as a kernel's argument.
    pub fn address(&self) -> u64 {
        self.address
    }

    /// What the device memory holds now.
    pub fn read(&self) -> Vec<T> {
        let mut values = vec![T::default(); self.length];
        // SAFETY: the vector is as large as the allocation, of a type that any bytes make.
        unsafe {
            check(cuMemcpyDtoH_v2(values.as_mut_ptr() as *mut c_void, self.address, size_of_val(&values[..]))).unwrap()
        };
        values
    }
}

impl<T> Drop for Memory<T> {
    fn drop(&mut self) {
        // SAFETY: allocated by `new`, freed once.
        unsafe { cuMemFree_v2(self.address) };
    }
}

/// A kernel of a module of PTX text.
pub struct Kernel {
    module: Handle,
    function: Handle,
}

impl Kernel {
    /// Loads PTX text and finds the entry called `name`.
    pub fn load(ptx: &str, name: &str) -> Result<Kernel, CudaError> {
        attach();
        let (text, name) = (CString::new(ptx).unwrap(), CString::new(name).unwrap());
        let (mut module, mut function) = (null_mut(), null_mut());
        // SAFETY: texts that end with a zero byte, and pointers to locals.
        unsafe {
            check(cuModuleLoadData(&mut module, text.as_ptr()))?;
            check(cuModuleGetFunction(&mut function, module, name.as_ptr()))?;
        }
        Ok(Kernel { module, function })
    }

    /// Launches with one 64-bit argument for each parameter (an address or a number) and waits for the end.
    pub fn launch(&self, grid: [u32; 3], block: [u32; 3], shared: u32, arguments: &[u64]) -> Result<(), CudaError> {
        self.launch_with(grid, block, shared, arguments, &[])
    }

    /// Launches with attributes, as `launch` does: the number of each and its first words.
    pub fn launch_with(
        &self,
        grid: [u32; 3],
        block: [u32; 3],
        shared: u32,
        arguments: &[u64],
        attributes: &[(u32, [u32; 3])],
    ) -> Result<(), CudaError> {
        let mut values = arguments.to_vec();
        let mut pointers: Vec<Handle> = values.iter_mut().map(|value| value as *mut u64 as Handle).collect();
        let attribute = |(id, [x, y, z]): &(u32, [u32; 3])| {
            let mut value = [0; 16];
            value[..3].copy_from_slice(&[*x, *y, *z]);
            Attribute { id: *id, padding: 0, value }
        };
        let attributes: Vec<Attribute> = attributes.iter().map(attribute).collect();
        let count = attributes.len() as u32;
        let configuration =
            Configuration { grid, block, shared, stream: null_mut(), attributes: attributes.as_ptr(), count };
        attach();
        // SAFETY: every parameter has its pointer to 8 bytes; what the kernel touches is checked by the virtual device.
        unsafe {
            check(cuLaunchKernelEx(&configuration, self.function, pointers.as_mut_ptr(), null_mut()))?;
            check(cuCtxSynchronize())
        }
    }
}

impl Drop for Kernel {
    fn drop(&mut self) {
        // SAFETY: loaded by `load`, unloaded once.
        unsafe { cuModuleUnload(self.module) };
    }
}
