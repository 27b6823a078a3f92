//! Arrays in this machine's memory that a device reads without a detour.

use std::any::Any;
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use bytemuck::Pod;
use memmap2::MmapMut;

use super::{Backend, Buffer, Device};
use crate::kernels::DevicePtr;
use crate::{Error, Result};

/// Below this, large pages only waste memory.
const HUGE: usize = 4 << 20;

/// Writable memory of this machine, zero at first; [`HostMemory::finish`] makes it an array.
///
/// Plain memory costs nothing where nobody writes, so a size may be a guess. Page-locked memory is all there at once, and
/// holds whatever it held.
pub(crate) struct HostMemory(Pages);

enum Pages {
    Plain(MmapMut),
    Locked { start: *mut u8, bytes: usize, backend: Arc<dyn Backend> },
}

// Safety: the memory is owned; writing needs `&mut`, and the driver's memory may be used from any thread.
unsafe impl Send for HostMemory {}
unsafe impl Sync for HostMemory {}

impl Drop for HostMemory {
    fn drop(&mut self) {
        if let Pages::Locked { start, bytes, backend } = &self.0 {
            // Safety: from this backend's `lock_pages`, and every copy from it has been waited for.
            unsafe { backend.unlock_pages(*start, *bytes) }
        }
    }
}

impl HostMemory {
    /// Alignment of every buffer, that of `cudaMalloc`; arrays aligned less are copied rather than shared.
    pub(crate) const ALIGNMENT: usize = 256;

    /// Memory of `bytes` bytes; `None` when the system refuses.
    pub(crate) fn plain(bytes: usize) -> Option<Self> {
        let pages = MmapMut::map_anon(bytes.max(1)).ok()?;
        #[cfg(target_os = "linux")]
        if bytes >= HUGE {
            // A page fault each 2 MiB instead of each 4 KiB; a system that has no large pages does without.
            let _ = pages.advise(memmap2::Advice::HugePage);
        }
        Some(HostMemory(Pages::Plain(pages)))
    }

    /// The same memory, as bytes.
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        match &mut self.0 {
            Pages::Plain(pages) => pages,
            // Safety: `bytes` bytes are owned, and the driver has initialised them.
            Pages::Locked { start, bytes, .. } => unsafe { std::slice::from_raw_parts_mut(*start, *bytes) },
        }
    }

    fn bytes(&self) -> &[u8] {
        match &self.0 {
            Pages::Plain(pages) => pages,
            // Safety: as above.
            Pages::Locked { start, bytes, .. } => unsafe { std::slice::from_raw_parts(*start, *bytes) },
        }
    }

    /// `len` elements from byte `first` on, which lies on a multiple of their size.
    pub(crate) fn finish<T: Pod>(self, first: usize, len: usize) -> HostArray<T> {
        let elements: &[T] = bytemuck::cast_slice(&self.bytes()[first..first + len * size_of::<T>()]);
        let start = elements.as_ptr();
        HostArray { owner: Arc::new(self), start, len }
    }
}

/// An array in this machine's memory that does not change and is shared when cloned: a `Vec`, or what a reader has decoded
/// into memory that a device reads directly.
pub struct HostArray<T> {
    /// A `Vec<T>` or a `HostMemory`; its contents do not move.
    owner: Arc<dyn Any + Send + Sync>,
    start: *const T,
    len: usize,
}

// Safety: a shared slice and what keeps it alive.
unsafe impl<T: Sync + Send> Send for HostArray<T> {}
unsafe impl<T: Sync + Send> Sync for HostArray<T> {}

impl<T: Send + Sync + 'static> From<Vec<T>> for HostArray<T> {
    fn from(values: Vec<T>) -> Self {
        let (start, len) = (values.as_ptr(), values.len());
        HostArray { owner: Arc::new(values), start, len }
    }
}

impl<T: Send + Sync + 'static> FromIterator<T> for HostArray<T> {
    fn from_iter<I: IntoIterator<Item = T>>(values: I) -> Self {
        values.into_iter().collect::<Vec<T>>().into()
    }
}

impl<T> Deref for HostArray<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // Safety: `owner` keeps these elements where they are, and nobody changes them.
        unsafe { std::slice::from_raw_parts(self.start, self.len) }
    }
}

impl<T> Clone for HostArray<T> {
    fn clone(&self) -> Self {
        HostArray { owner: self.owner.clone(), ..*self }
    }
}

impl<T: PartialEq> PartialEq for HostArray<T> {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl<T: fmt::Debug> fmt::Debug for HostArray<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, f)
    }
}

impl Device {
    /// Memory to decode into that this device then reads fastest: page-locked under CUDA where the driver has as much,
    /// plain otherwise. `None` when the system refuses.
    pub(crate) fn host_memory(&self, bytes: usize) -> Option<HostMemory> {
        match self.backend.lock_pages(bytes.max(1)) {
            Some(start) => {
                Some(HostMemory(Pages::Locked { start, bytes: bytes.max(1), backend: self.backend.clone() }))
            }
            None => HostMemory::plain(bytes),
        }
    }

    /// The elements in device memory, to be read only: on the host the array itself where its alignment allows, else a copy.
    pub fn share<T: Pod>(&self, array: &HostArray<T>, what: &str) -> Result<Buffer> {
        let bytes: &[u8] = bytemuck::cast_slice(array);
        if bytes.is_empty() {
            return Err(Error::argument(what, "has no elements", "pass at least one"));
        }
        if self.is_host() && bytes.as_ptr().addr().is_multiple_of(HostMemory::ALIGNMENT) {
            let lender = Some(array.owner.clone());
            return Ok(Buffer {
                device: self.clone(),
                ptr: DevicePtr(bytes.as_ptr() as u64),
                bytes: bytes.len(),
                lender,
            });
        }
        let buffer = self.alloc(bytes.len(), what)?;
        let locked = array.owner.downcast_ref::<HostMemory>().is_some_and(|m| matches!(m.0, Pages::Locked { .. }));
        // Safety: the buffer was made with this size.
        unsafe {
            if locked {
                self.backend.upload_locked(buffer.ptr, bytes)?;
            } else {
                self.backend.upload(buffer.ptr, bytes)?;
            }
        }
        Ok(buffer)
    }
}
