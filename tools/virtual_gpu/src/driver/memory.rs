//! Memory of the device and page-locked memory of the host: allocations, pools, copies and fills.
//!
//! Addresses are those of this process, with a guard around each allocation; a launch gets the list of all that exist when it
//! runs. Page-locked memory is mapped, as unified addressing has it: kernels may use it, too.

use super::error::{Code, Done};
use super::handles::Handles;
use super::stream::{self, Work};
use crate::config::config;
use crate::sanitize;
use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::{Arc, Mutex};

/// Bytes before and behind an allocation that belong to nothing.
const GUARD: usize = 512;
/// Every allocation begins at a multiple of this.
const ALIGN: usize = 512;
/// Larger allocations are not filled with ones: their pages are not touched before a kernel does.
const FILLED: usize = 64 << 20;

/// What an allocation came from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// `cuMemAlloc`.
    Plain,
    /// A memory pool.
    Pool,
    /// `cuMemHostAlloc`.
    Host,
    /// A variable of a module, or what a launch needs while it runs.
    Own,
}

/// One allocation.
struct Block {
    /// Where its guard begins.
    base: u64,
    bytes: usize,
    kind: Kind,
    /// Whether its end is queued on a stream.
    ending: bool,
}

/// Every allocation, as (first byte, end), in order.
pub type Ranges = Arc<Vec<(u64, u64)>>;

#[derive(Default)]
struct Heap {
    ranges: Ranges,
    blocks: HashMap<u64, Block>,
    /// Bytes of the device in use.
    used: usize,
}

static HEAP: Mutex<Option<Heap>> = Mutex::new(None);

fn heap<T>(act: impl FnOnce(&mut Heap) -> T) -> T {
    act(HEAP.lock().unwrap().get_or_insert_default())
}

fn layout(bytes: usize) -> Result<std::alloc::Layout, Code> {
    let total =
        bytes.checked_next_multiple_of(ALIGN).and_then(|n| n.checked_add(2 * GUARD)).ok_or(Code::OUT_OF_MEMORY)?;
    std::alloc::Layout::from_size_align(total, ALIGN).map_err(|_| Code::OUT_OF_MEMORY)
}

impl Heap {
    fn allocate(&mut self, bytes: usize, kind: Kind) -> Result<u64, Code> {
        let counted = if kind == Kind::Host { 0 } else { bytes };
        if self.used.checked_add(counted).is_none_or(|sum| sum > config().memory) {
            return Err(Code::OUT_OF_MEMORY);
        }
        let layout = layout(bytes)?;
        // Safety: the layout has the guards' bytes at least.
        let base = unsafe { std::alloc::alloc(layout) } as u64;
        if base == 0 {
            return Err(Code::OUT_OF_MEMORY);
        }
        let start = base + GUARD as u64;
        if bytes <= FILLED {
            // Ones are NaN in every floating-point type.
            // Safety: just allocated with this many bytes.
            unsafe { std::ptr::write_bytes(start as *mut u8, 0xff, bytes) };
        }
        self.used += counted;
        self.blocks.insert(start, Block { base, bytes, kind, ending: false });
        let ranges = Arc::make_mut(&mut self.ranges);
        let place = ranges.partition_point(|range| range.0 < start);
        ranges.insert(place, (start, start + bytes as u64));
        if sanitize::on() {
            sanitize::allocated(start, bytes as u64);
            if kind == Kind::Host {
                // What the host writes is not seen.
                sanitize::written(start, bytes as u64);
            }
        }
        Ok(start)
    }

    fn release(&mut self, start: u64) -> Done {
        let block = self.blocks.remove(&start).ok_or(Code::INVALID_VALUE)?;
        if block.kind != Kind::Host {
            self.used -= block.bytes;
        }
        sanitize::freed(start);
        let ranges = Arc::make_mut(&mut self.ranges);
        ranges.remove(ranges.partition_point(|range| range.0 < start));
        // Safety: allocated with this layout, and forgotten just now.
        unsafe { std::alloc::dealloc(block.base as *mut u8, layout(block.bytes)?) };
        Ok(())
    }

    /// The allocation that holds an address.
    fn around(&self, address: u64) -> Option<(u64, u64)> {
        let place = self.ranges.partition_point(|range| range.0 <= address);
        self.ranges[..place].last().copied().filter(|range| address < range.1)
    }

    fn holds(&self, address: u64, bytes: usize) -> bool {
        self.around(address).is_some_and(|range| bytes as u64 <= range.1 - address)
    }
}

/// Allocates memory; where there is too little, once more when what is queued has run: that may free some.
pub fn allocate(bytes: usize, kind: Kind) -> Result<u64, Code> {
    if bytes == 0 {
        return Err(Code::INVALID_VALUE);
    }
    match heap(|heap| heap.allocate(bytes, kind)) {
        Err(Code::OUT_OF_MEMORY) if kind == Kind::Pool => {
            stream::wait_for_all()?;
            heap(|heap| heap.allocate(bytes, kind))
        }
        outcome => outcome,
    }
}

/// Allocates memory that holds nothing but zeros, for the driver itself.
pub fn allocate_zeros(bytes: usize) -> Result<u64, Code> {
    let address = heap(|heap| heap.allocate(bytes.max(1), Kind::Own))?;
    // Safety: just allocated.
    unsafe { std::ptr::write_bytes(address as *mut u8, 0, bytes) };
    mark(address, bytes);
    Ok(address)
}

/// Frees memory at once.
pub fn release(address: u64) -> Done {
    heap(|heap| heap.release(address))
}

/// `cuMemFree`: waits for the device, then frees.
pub fn free(address: u64) -> Done {
    if address == 0 {
        return Ok(());
    }
    let freeable = |heap: &mut Heap| match heap.blocks.get(&address) {
        Some(block) => matches!(block.kind, Kind::Plain | Kind::Pool) && !block.ending,
        None => false,
    };
    if !heap(freeable) {
        return Err(Code::INVALID_VALUE);
    }
    stream::wait_for_all()?;
    release(address)
}

/// `cuMemFreeAsync`: frees in the order of a stream.
pub fn free_async(address: u64, stream: *mut c_void) -> Done {
    let taken = heap(|heap| match heap.blocks.get_mut(&address) {
        Some(block) if block.kind == Kind::Pool && !block.ending => {
            block.ending = true;
            true
        }
        _ => false,
    });
    if !taken {
        return Err(Code::INVALID_VALUE);
    }
    let queued = stream::queue_uncaptured(stream, Work::Free(address));
    if queued.is_err() {
        heap(|heap| heap.blocks.get_mut(&address).map(|block| block.ending = false));
    }
    queued
}

/// `cuMemFreeHost`: waits for the device, then frees page-locked memory.
pub fn free_host(address: *mut c_void) -> Done {
    let address = address as u64;
    if heap(|heap| heap.blocks.get(&address).is_none_or(|block| block.kind != Kind::Host)) {
        return Err(Code::INVALID_VALUE);
    }
    stream::wait_for_all()?;
    release(address)
}

/// Bytes of the device in use.
pub fn used() -> usize {
    heap(|heap| heap.used)
}

/// Every allocation that exists now.
pub fn ranges() -> Ranges {
    heap(|heap| heap.ranges.clone())
}

/// Whether a range lies in one allocation; says so where not. Nothing lies anywhere.
pub fn check(what: &str, address: u64, bytes: usize) -> Done {
    if bytes == 0 || heap(|heap| heap.holds(address, bytes)) {
        return Ok(());
    }
    eprintln!("virtual_gpu: {what} of {bytes} bytes at {address:#x} is outside of every allocation");
    Err(Code::INVALID_VALUE)
}

/// Whether a range is memory of the host that is not page-locked.
fn pageable(address: u64, bytes: usize) -> bool {
    !heap(|heap| heap.holds(address, bytes))
}

/// Notes that a copy or a fill has written a range.
pub fn mark(address: u64, bytes: usize) {
    if sanitize::on() {
        sanitize::written(address, bytes as u64);
    }
}

/// A copy that a stream makes when its turn comes.
#[derive(Clone, Copy)]
pub struct Copy {
    to: u64,
    from: u64,
    bytes: usize,
}

impl Copy {
    /// Makes the copy. What was not written before is not written after it.
    pub fn run(self) {
        // Safety: both ends were checked when the copy was queued; pageable ones are the caller's to keep.
        unsafe { std::ptr::copy(self.from as *const u8, self.to as *mut u8, self.bytes) };
        if sanitize::on() {
            sanitize::copied(self.to, self.from, self.bytes as u64);
        }
    }
}

/// A fill that a stream makes when its turn comes.
#[derive(Clone, Copy)]
pub struct Fill {
    to: u64,
    value: u32,
    /// Bytes of one element: 1, 2 or 4.
    width: usize,
    count: usize,
}

impl Fill {
    /// A fill of `count` elements.
    pub fn new(to: u64, value: u32, width: usize, count: usize) -> Result<Self, Code> {
        if !to.is_multiple_of(width as u64) {
            return Err(Code::INVALID_VALUE);
        }
        let bytes = count.checked_mul(width).ok_or(Code::INVALID_VALUE)?;
        check("a fill", to, bytes)?;
        Ok(Fill { to, value, width, count })
    }

    /// Fills.
    pub fn run(self) {
        // Safety: the range was checked when the fill was made, and is a multiple of the element.
        unsafe {
            match self.width {
                1 => std::ptr::write_bytes(self.to as *mut u8, self.value as u8, self.count),
                2 => std::slice::from_raw_parts_mut(self.to as *mut u16, self.count).fill(self.value as u16),
                _ => std::slice::from_raw_parts_mut(self.to as *mut u32, self.count).fill(self.value),
            }
        }
        mark(self.to, self.count * self.width);
    }
}

/// Which ends of a copy are on the device.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Way {
    ToDevice,
    ToHost,
    Within,
    /// As the addresses say.
    Unified,
}

/// Queues a copy. Pageable memory is read at the call, and written before it returns; page-locked memory when the stream
/// comes to it. A captured copy keeps the addresses, whatever they are.
///
/// # Safety
/// Ends in pageable memory may be used for `bytes` bytes; page-locked memory stays until the copy is made.
pub unsafe fn copy_async(to: u64, from: u64, bytes: usize, way: Way, stream: *mut c_void) -> Done {
    // Safety: the caller's.
    unsafe {
        if matches!(way, Way::ToDevice | Way::Within) {
            check("a copy to the device", to, bytes)?;
        }
        if matches!(way, Way::ToHost | Way::Within) {
            check("a copy from the device", from, bytes)?;
        }
        let copy = Work::Copy(Copy { to, from, bytes });
        if bytes == 0 || stream::is_capturing(stream)? {
            return stream::queue(stream, copy);
        }
        if pageable(from, bytes) {
            let taken = std::slice::from_raw_parts(from as *const u8, bytes).to_vec();
            return stream::queue(stream, Work::Upload(to, Arc::new(taken)));
        }
        stream::queue(stream, copy)?;
        if pageable(to, bytes) { stream::synchronize(stream) } else { Ok(()) }
    }
}

/// Makes a copy in the order of the legacy stream, and waits for it.
///
/// # Safety
/// Ends in pageable memory may be used for `bytes` bytes.
pub unsafe fn copy(to: u64, from: u64, bytes: usize, way: Way) -> Done {
    // Safety: the caller's.
    unsafe {
        stream::potentially_unsafe()?;
        copy_async(to, from, bytes, way, stream::LEGACY)?;
        stream::synchronize(stream::LEGACY)
    }
}

/// Fills in the order of the legacy stream.
pub fn fill(to: u64, value: u32, width: usize, count: usize) -> Done {
    stream::potentially_unsafe()?;
    stream::queue(stream::LEGACY, Work::Fill(Fill::new(to, value, width, count)?))
}

/// The handle of the device's own pool.
pub const POOL: *mut c_void = 0x2000 as *mut c_void;
static POOLS: Handles<()> = Handles::new();

/// `cuMemPoolCreate`: pools differ in nothing but their handles.
pub fn new_pool() -> *mut c_void {
    POOLS.add(Arc::new(()))
}

/// `cuMemPoolDestroy`: what was allocated from it stays until it is freed.
pub fn destroy_pool(pool: *mut c_void) -> Done {
    POOLS.remove(pool).map(|_| ())
}

/// Whether a handle is a pool's.
pub fn known_pool(pool: *mut c_void) -> Done {
    if pool == POOL { Ok(()) } else { POOLS.get(pool).map(|_| ()) }
}

/// An attribute of pools by its number in `CUmemPool_attribute`: how memory is reused, when it is released, and bytes reserved
/// and used, now and at most. Pools reserve nothing that is not used.
pub fn pool_attribute(number: u32) -> Result<u64, Code> {
    match number {
        1..=3 => Ok(1),
        4 => Ok(0),
        5..=8 => Ok(heap(|heap| {
            heap.blocks.values().filter(|block| block.kind == Kind::Pool).map(|block| block.bytes as u64).sum()
        })),
        _ => Err(Code::INVALID_VALUE),
    }
}

/// Lines that name what was not freed.
pub fn left() -> Option<String> {
    heap(|heap| {
        let left: Vec<&Block> = heap.blocks.values().filter(|block| block.kind != Kind::Own && !block.ending).collect();
        let bytes: usize = left.iter().map(|block| block.bytes).sum();
        let largest = left.iter().map(|block| block.bytes).max()?;
        Some(format!("{} allocations of {bytes} bytes were not freed, the largest of {largest}", left.len()))
    })
}

/// Frees everything.
pub fn forget_all() {
    POOLS.clear();
    heap(|heap| {
        let all: Vec<u64> = heap.blocks.keys().copied().collect();
        for start in all {
            let _ = heap.release(start);
        }
    });
}
