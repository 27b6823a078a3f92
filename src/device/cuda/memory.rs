//! Device memory from a pool of this crate's own, and pinned staging for copies to and from the host.

use std::sync::{Arc, Mutex};

use cudarc::driver::CudaContext;
use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys::{self, CUmemPool_attribute as PoolAttribute, CUresult};

use super::launcher::bind;
use crate::kernels::DevicePtr;

type DriverResult<T> = std::result::Result<T, DriverError>;

/// The allocator of one context. Freed memory stays in the pool for the next allocation: a training step asks for the
/// same sizes again and again.
pub(super) struct Pool {
    /// `None`: plain `cuMemAlloc`, where the device has no pools or `X2CT_PLAIN_ALLOC=1` asks for it (tools that watch
    /// allocations see each one).
    pool: Option<sys::CUmemoryPool>,
    context: Arc<CudaContext>,
}

// Safety: the handle is the driver's, which may be used from any thread.
unsafe impl Send for Pool {}
unsafe impl Sync for Pool {}

impl Drop for Pool {
    fn drop(&mut self) {
        if let (Some(pool), Ok(())) = (self.pool, bind(&self.context)) {
            // Safety: created by `new`, destroyed once; the driver keeps it until its last allocation is freed.
            let _ = unsafe { result::mem_pool::destroy(pool) };
        }
    }
}

impl Pool {
    pub(super) fn new(context: &Arc<CudaContext>) -> DriverResult<Self> {
        bind(context)?;
        let plain = std::env::var_os("X2CT_PLAIN_ALLOC").is_some_and(|v| !v.is_empty() && v != "0");
        let pool = (!plain && context.has_async_alloc()).then(|| create_pool(context)).transpose()?;
        Ok(Pool { pool, context: context.clone() })
    }

    /// Memory that work queued on `stream` from now on may use. The context is current.
    pub(super) fn alloc(&self, bytes: usize, stream: sys::CUstream) -> DriverResult<DevicePtr> {
        // Safety: the pool and the stream are of this context.
        let try_once = || unsafe {
            match self.pool {
                Some(pool) => result::mem_pool::alloc_async(pool, bytes, stream),
                None => result::malloc_sync(bytes),
            }
        };
        let refused = |e: &DriverError| e.0 == CUresult::CUDA_ERROR_OUT_OF_MEMORY;
        let mut outcome = try_once();
        if let (Some(pool), true) = (self.pool, outcome.as_ref().is_err_and(refused)) {
            // What other streams have freed comes back once they are done, and unused chunks may be of the wrong size.
            result::ctx::synchronize()?;
            // Safety: the pool is alive.
            unsafe { result::mem_pool::trim_to(pool, 0) }?;
            outcome = try_once();
        }
        outcome.map(DevicePtr)
    }

    /// Gives memory back once the work queued on `stream` so far is done.
    ///
    /// # Safety
    /// `ptr` came from [`Pool::alloc`] and is not used by work queued later or elsewhere.
    pub(super) unsafe fn free(&self, ptr: DevicePtr, stream: sys::CUstream) -> DriverResult<()> {
        match self.pool {
            Some(_) => unsafe { result::free_async(ptr.0, stream) },
            // Waits for the device by itself.
            None => unsafe { result::free_sync(ptr.0) },
        }
    }

    /// Bytes an allocation could still get: the device's free memory and what the pool holds unused.
    pub(super) fn free_bytes(&self) -> usize {
        let device = result::mem_get_info().map_or(0, |(free, _)| free);
        let pool = self.pool.map_or(0, |pool| {
            let get = |attribute| {
                let mut value = 0u64;
                // Safety: both attributes asked for are 64-bit counters.
                let outcome = unsafe { result::mem_pool::get_attribute(pool, attribute, (&raw mut value).cast()) };
                outcome.map_or(0, |()| value)
            };
            get(PoolAttribute::CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT)
                .saturating_sub(get(PoolAttribute::CU_MEMPOOL_ATTR_USED_MEM_CURRENT))
        });
        device + pool as usize
    }
}

fn create_pool(context: &CudaContext) -> DriverResult<sys::CUmemoryPool> {
    // Safety: all zeros is a valid value of every field.
    let mut props: sys::CUmemPoolProps = unsafe { std::mem::zeroed() };
    props.allocType = sys::CUmemAllocationType::CU_MEM_ALLOCATION_TYPE_PINNED;
    props.location.type_ = sys::CUmemLocationType::CU_MEM_LOCATION_TYPE_DEVICE;
    props.location.id = context.ordinal() as i32;
    // Safety: the properties are complete; the threshold is the 64-bit value the attribute takes.
    unsafe {
        let pool = result::mem_pool::create(&props)?;
        // Without it the pool returns its memory to the system at every synchronisation, and asks for it again.
        let mut keep = u64::MAX;
        let attribute = PoolAttribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
        result::mem_pool::set_attribute(pool, attribute, (&raw mut keep).cast())?;
        Ok(pool)
    }
}

/// Page-locked memory for whole volumes. Locking pages takes longer than filling them, so what is given back is kept for the
/// next volume, to the end of the process.
#[derive(Default)]
pub(super) struct LockedPages {
    /// (address, bytes) of what nobody uses.
    free: Mutex<Vec<(usize, usize)>>,
}

/// Sizes are rounded up to this, so that volumes of about one size share blocks.
const LOCKED_UNIT: usize = 32 << 20;
/// Kept at most, bytes.
const LOCKED_KEPT: usize = 4 << 30;

impl LockedPages {
    /// A block of at least `bytes`; `None` when the driver refuses. The context is current.
    pub(super) fn take(&self, bytes: usize) -> Option<*mut u8> {
        let bytes = bytes.checked_next_multiple_of(LOCKED_UNIT)?;
        let mut free = super::lock(&self.free);
        if let Some(at) = free.iter().position(|(_, held)| *held == bytes) {
            return Some(free.swap_remove(at).0 as *mut u8);
        }
        drop(free);
        // Safety: freed by `give`, or kept to the end of the process.
        let start: *mut u8 = unsafe { result::malloc_host(bytes, 0) }.ok()?.cast();
        // Safety: just allocated with this size. A slice needs initialised bytes.
        unsafe { std::ptr::write_bytes(start, 0, bytes) };
        Some(start)
    }

    /// Takes back what `take` gave for `bytes`.
    ///
    /// # Safety
    /// Nothing uses the block any more; the context is current.
    pub(super) unsafe fn give(&self, start: *mut u8, bytes: usize) {
        let bytes = bytes.next_multiple_of(LOCKED_UNIT);
        let mut free = super::lock(&self.free);
        if free.iter().map(|(_, held)| held).sum::<usize>() + bytes <= LOCKED_KEPT {
            free.push((start.addr(), bytes));
        } else {
            // Safety: from `malloc_host`, freed once.
            let _ = unsafe { result::free_host(start.cast()) };
        }
    }
}

/// Bytes of one staging buffer: large enough for full bus speed, small beside any model.
const STAGE_BYTES: usize = 4 << 20;

/// Two pinned buffers that copies go through in turn, so that one is filled while the other is on the bus. Copies are
/// then at full speed and the caller's memory is free as soon as the call returns.
pub(super) struct Staging {
    stages: [Stage; 2],
    next: usize,
    context: Arc<CudaContext>,
}

struct Stage {
    memory: *mut u8,
    /// The last copy that uses the memory is done.
    done: sys::CUevent,
}

// Safety: the memory is owned, and the driver's handles may be used from any thread.
unsafe impl Send for Staging {}

impl Drop for Staging {
    fn drop(&mut self) {
        if bind(&self.context).is_ok() {
            for stage in &self.stages {
                // Safety: created by `new`; the wait keeps the memory until the last copy from it is done.
                unsafe {
                    let _ = result::event::synchronize(stage.done);
                    let _ = result::event::destroy(stage.done);
                    let _ = result::free_host(stage.memory.cast());
                }
            }
        }
    }
}

impl Staging {
    /// The context is current.
    pub(super) fn new(context: &Arc<CudaContext>) -> DriverResult<Self> {
        let stage = || {
            // Safety: pinned memory of this size, freed on drop.
            let memory = unsafe { result::malloc_host(STAGE_BYTES, 0) }?.cast();
            let done = result::event::create(sys::CUevent_flags::CU_EVENT_DISABLE_TIMING)?;
            Ok(Stage { memory, done })
        };
        Ok(Staging { stages: [stage()?, stage()?], next: 0, context: context.clone() })
    }

    /// The stage to use next, once its last copy is done.
    fn take(&mut self) -> DriverResult<&Stage> {
        let stage = &self.stages[self.next];
        self.next ^= 1;
        // Safety: the event is alive; one that was never recorded counts as done.
        unsafe { result::event::synchronize(stage.done) }?;
        Ok(stage)
    }

    /// Queues a copy of `source` to `destination`; `source` may be reused on return.
    ///
    /// # Safety
    /// `destination` is valid for the length of `source`; the context is current.
    pub(super) unsafe fn upload(
        &mut self,
        destination: DevicePtr,
        source: &[u8],
        stream: sys::CUstream,
    ) -> DriverResult<()> {
        for (i, piece) in source.chunks(STAGE_BYTES).enumerate() {
            let stage = self.take()?;
            // Safety: a stage holds a piece, and nothing else uses it now.
            unsafe {
                std::ptr::copy_nonoverlapping(piece.as_ptr(), stage.memory, piece.len());
                let staged = std::slice::from_raw_parts(stage.memory, piece.len());
                result::memcpy_htod_async(destination.offset(i * STAGE_BYTES).0, staged, stream)?;
                result::event::record(stage.done, stream)?;
            }
        }
        Ok(())
    }

    /// Copies `source` to `destination` and waits for it.
    ///
    /// # Safety
    /// `source` is valid for the length of `destination`; the context is current.
    pub(super) unsafe fn download(
        &mut self,
        destination: &mut [u8],
        source: DevicePtr,
        stream: sys::CUstream,
    ) -> DriverResult<()> {
        let mut under_way: Option<(&mut [u8], usize)> = None;
        for (i, piece) in destination.chunks_mut(STAGE_BYTES).enumerate() {
            let index = self.next;
            let stage = self.take()?;
            // Safety: a stage holds a piece; its previous content was taken out two pieces ago.
            unsafe {
                let staged = std::slice::from_raw_parts_mut(stage.memory, piece.len());
                result::memcpy_dtoh_async(staged, source.offset(i * STAGE_BYTES).0, stream)?;
                result::event::record(stage.done, stream)?;
            }
            if let Some(previous) = under_way.replace((piece, index)) {
                self.deliver(previous)?;
            }
        }
        under_way.map_or(Ok(()), |last| self.deliver(last))
    }

    fn deliver(&self, (piece, index): (&mut [u8], usize)) -> DriverResult<()> {
        let stage = &self.stages[index];
        // Safety: the event was recorded after the copy into this stage, which holds the piece.
        unsafe {
            result::event::synchronize(stage.done)?;
            std::ptr::copy_nonoverlapping(stage.memory, piece.as_mut_ptr(), piece.len());
        }
        Ok(())
    }
}
