//! The host device: kernels compiled for the processor, blocks spread over worker threads.

use std::alloc::Layout;
use std::collections::HashMap;
use std::ffi::{CStr, c_char, c_void};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use super::{Backend, HostMemory, LinearBceCall, RawEvent, RawGraph, host_gemm, host_linear_bce};
use crate::kernels::gemm::GemmCall;
use crate::kernels::{DevicePtr, Entry, Grid, KernelConfig, Launcher, Properties};
use crate::{Error, Result};

/// The order in which the threads of a block start and resume after a barrier. A correct kernel gives the same result
/// under each; a missing barrier shows as a difference.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ThreadOrder {
    /// By index.
    #[default]
    Forward,
    /// By index, descending.
    Reverse,
    /// A permutation drawn anew at each barrier from this seed.
    Seeded(u64),
}

/// How the host device runs.
#[derive(Clone, Debug, Default)]
pub struct HostOptions {
    /// Worker threads; 0 takes one per processor.
    pub threads: usize,
    /// Thread order inside a block.
    pub order: ThreadOrder,
    /// Fill every new buffer with NaN, so that an element nobody writes shows; buffers are then not reused.
    pub poison: bool,
}

/// Reused buffers kept at most, bytes.
const CACHE_BYTES: usize = 2 << 30;

pub(super) struct HostDevice {
    options: HostOptions,
    properties: Properties,
    cache: Arc<Mutex<Cache>>,
    recording: Mutex<Option<Vec<Recorded>>>,
    scratch: Mutex<host_gemm::Scratch>,
}

/// Freed buffers by size: a training step asks for the same sizes again and again, and pages that are already mapped
/// save the page faults.
#[derive(Default)]
struct Cache {
    free: HashMap<usize, Vec<u64>>,
    bytes: usize,
}

impl Drop for Cache {
    fn drop(&mut self) {
        for (bytes, list) in self.free.drain() {
            for ptr in list {
                // Safety: every cached pointer came from `alloc` with this size.
                unsafe { std::alloc::dealloc(ptr as *mut u8, layout(bytes)) }
            }
        }
    }
}

fn layout(bytes: usize) -> Layout {
    layout_of(bytes).expect("an allocation that succeeded has a valid layout")
}

/// What the system may give as one page where it is asked to.
const HUGE_PAGE: usize = 2 << 20;

fn layout_of(bytes: usize) -> Option<Layout> {
    let alignment = if bytes < 2 * HUGE_PAGE { HostMemory::ALIGNMENT } else { HUGE_PAGE };
    Layout::from_size_align(bytes, alignment).ok()
}

/// Asks for huge pages behind a large buffer: rows that are read in any order would miss the address cache at each small one. Where the
/// system has none to give, the buffer is as it was.
///
/// # Safety
/// `ptr` is an allocation of so many bytes.
#[cfg(target_os = "linux")]
unsafe fn ask_for_huge_pages(ptr: *mut u8, bytes: usize) {
    use nix::sys::mman::{MmapAdvise, madvise};
    if let (Some(start), true) = (std::ptr::NonNull::new(ptr.cast()), bytes >= 2 * HUGE_PAGE) {
        let _ = unsafe { madvise(start, bytes, MmapAdvise::MADV_HUGEPAGE) };
    }
}

#[cfg(not(target_os = "linux"))]
unsafe fn ask_for_huge_pages(_: *mut u8, _: usize) {}

/// One queued operation of a graph.
pub(crate) enum Recorded {
    Launch { entry: &'static Entry, grid: Grid, params: Vec<u64> },
    Copy { destination: DevicePtr, source: DevicePtr, bytes: usize },
    Fill { destination: DevicePtr, byte: u8, bytes: usize },
    Gemm(GemmCall),
}

/// Mirrors `x2ct_host::Launch` in kernels/common/host.h.
#[repr(C)]
struct Launch {
    params: *const c_void,
    grid: [u32; 3],
    order: u32,
    seed: u64,
    block_begin: u64,
    block_end: u64,
    message: *mut c_char,
    message_bytes: usize,
}

/// Memory the system could still give, where it says so.
fn free_bytes() -> usize {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let kibibytes = line.and_then(|rest| rest.trim().trim_end_matches("kB").trim().parse::<usize>().ok());
    kibibytes.unwrap_or(0) * 1024
}

impl HostDevice {
    pub(super) fn new(mut options: HostOptions) -> Self {
        if options.threads == 0 {
            options.threads = rayon::current_num_threads();
        }
        let properties = Properties {
            multiprocessors: options.threads as u32,
            compute_capability: 0,
            shared_bytes_per_block: 227 * 1024,
            l2_bytes: 16 << 20,
        };
        HostDevice {
            options,
            properties,
            cache: Arc::default(),
            recording: Mutex::new(None),
            scratch: Mutex::default(),
        }
    }

    /// Gives `job` memory that is kept from call to call. Not a plain lock: a worker that waits for its part of a product may be handed
    /// another call.
    fn with_scratch(&self, job: impl FnOnce(&mut host_gemm::Scratch)) {
        match self.scratch.try_lock() {
            Ok(mut kept) => job(&mut kept),
            Err(_) => job(&mut host_gemm::Scratch::default()),
        }
    }

    /// What a GPU refuses while it captures is refused here too.
    fn refuse_while_recording(&self, what: &str) -> Result<()> {
        match *self.recording.lock().expect("not poisoned") {
            Some(_) => Err(super::not_while_capturing(what)),
            None => Ok(()),
        }
    }

    /// Runs blocks [begin, end) on the calling thread; the failure's text if there is one.
    ///
    /// # Safety
    /// As for [`Launcher::launch`].
    unsafe fn run_blocks(
        &self,
        entry: &'static Entry,
        grid: Grid,
        params: *const c_void,
        begin: u64,
        end: u64,
    ) -> Option<String> {
        let run = entry.host.expect("the host device exists only where host kernels are compiled");
        let mut message = [0 as c_char; 400];
        let (order, seed) = match self.options.order {
            ThreadOrder::Forward => (0, 0),
            ThreadOrder::Reverse => (1, 0),
            ThreadOrder::Seeded(seed) => (2, seed),
        };
        let launch = Launch {
            params,
            grid: grid.0,
            order,
            seed,
            block_begin: begin,
            block_end: end,
            message: message.as_mut_ptr(),
            message_bytes: message.len(),
        };
        unsafe { run((&raw const launch).cast()) };
        // Safety: the message is zero-terminated within its bytes.
        let text = unsafe { CStr::from_ptr(message.as_ptr()) };
        (!text.is_empty()).then(|| text.to_string_lossy().into_owned())
    }

    /// Runs the whole grid.
    ///
    /// # Safety
    /// As for [`Launcher::launch`].
    unsafe fn run(&self, entry: &'static Entry, grid: Grid, params: *const c_void) -> Result<()> {
        grid.check().map_err(|problem| Error::Launch { kernel: entry.name, device: "host".into(), problem })?;
        let blocks = grid.blocks();
        let workers = self.options.threads as u64;
        let cooperative = self.config(entry)?.cooperative != 0;
        let failure = Mutex::new(None);
        if cooperative || workers == 1 || blocks == 1 {
            *failure.lock().expect("not poisoned") = unsafe { self.run_blocks(entry, grid, params, 0, blocks) };
        } else {
            // Chunks small enough to balance, large enough to amortise the hand-out.
            let chunk = (blocks / (workers * 8)).max(1);
            let next = AtomicU64::new(0);
            let stop = AtomicBool::new(false);
            let params = params as usize; // raw pointers do not cross threads by themselves
            rayon::scope(|scope| {
                for _ in 0..workers.min(blocks) {
                    scope.spawn(|_| {
                        while !stop.load(Ordering::Relaxed) {
                            let begin = next.fetch_add(chunk, Ordering::Relaxed);
                            if begin >= blocks {
                                break;
                            }
                            let end = (begin + chunk).min(blocks);
                            let outcome = unsafe { self.run_blocks(entry, grid, params as *const c_void, begin, end) };
                            if let Some(text) = outcome {
                                failure.lock().expect("not poisoned").get_or_insert(text);
                                stop.store(true, Ordering::Relaxed);
                            }
                        }
                    });
                }
            });
        }
        match failure.into_inner().expect("not poisoned") {
            None => Ok(()),
            Some(problem) => Err(Error::Launch { kernel: entry.name, device: "host".into(), problem }),
        }
    }
}

// Safety: `launch` passes the struct to the entry's own host form, whose block size and shared memory are its config.
unsafe impl Launcher for HostDevice {
    fn properties(&self) -> &Properties {
        &self.properties
    }

    fn config(&self, entry: &'static Entry) -> Result<&KernelConfig> {
        let read = entry.host.expect("the host device exists only where host kernels are compiled");
        // Safety: a null launch only returns the address of a constant.
        Ok(unsafe { &*read(std::ptr::null()) })
    }

    unsafe fn launch(&self, entry: &'static Entry, grid: Grid, params: *const c_void) -> Result<()> {
        if let Some(recording) = self.recording.lock().expect("not poisoned").as_mut() {
            let mut copy = vec![0u64; entry.params_bytes.div_ceil(8)];
            // Safety: the caller's struct has `params_bytes` bytes, the copy at least as many.
            unsafe { std::ptr::copy_nonoverlapping(params.cast::<u8>(), copy.as_mut_ptr().cast(), entry.params_bytes) };
            recording.push(Recorded::Launch { entry, grid, params: copy });
            return Ok(());
        }
        unsafe { self.run(entry, grid, params) }
    }
}

impl Backend for HostDevice {
    fn name(&self) -> &str {
        "host"
    }

    fn description(&self) -> String {
        format!("host processor ({}), {} worker threads", std::env::consts::ARCH, self.options.threads)
    }

    fn alloc(&self, bytes: usize, what: &str) -> Result<DevicePtr> {
        self.refuse_while_recording("allocating memory")?;
        if !self.options.poison {
            let mut cache = self.cache.lock().expect("not poisoned");
            if let Some(ptr) = cache.free.get_mut(&bytes).and_then(Vec::pop) {
                cache.bytes -= bytes;
                return Ok(DevicePtr(ptr));
            }
        }
        // Safety: the size is not zero (Device::alloc asks for at least one byte).
        let allocate = |layout| unsafe { std::alloc::alloc(layout) };
        let ptr = layout_of(bytes).map_or(std::ptr::null_mut(), allocate);
        if ptr.is_null() {
            return Err(Error::OutOfMemory {
                device: "host".into(),
                what: what.into(),
                requested: bytes,
                free: free_bytes(),
            });
        }
        // Safety: freshly allocated with this many bytes.
        unsafe { ask_for_huge_pages(ptr, bytes) };
        if self.options.poison {
            // Safety: freshly allocated with this many bytes. All ones is NaN in f32 and bf16.
            unsafe { std::ptr::write_bytes(ptr, 0xff, bytes) };
        }
        Ok(DevicePtr(ptr as u64))
    }

    unsafe fn free(&self, ptr: DevicePtr, bytes: usize) {
        if !self.options.poison {
            let mut cache = self.cache.lock().expect("not poisoned");
            if cache.bytes + bytes <= CACHE_BYTES {
                cache.bytes += bytes;
                cache.free.entry(bytes).or_default().push(ptr.0);
                return;
            }
        }
        unsafe { std::alloc::dealloc(ptr.0 as *mut u8, layout(bytes)) }
    }

    unsafe fn upload(&self, destination: DevicePtr, source: &[u8]) -> Result<()> {
        self.refuse_while_recording("uploading")?;
        unsafe { std::ptr::copy_nonoverlapping(source.as_ptr(), destination.0 as *mut u8, source.len()) };
        Ok(())
    }

    unsafe fn download(&self, destination: &mut [u8], source: DevicePtr) -> Result<()> {
        self.refuse_while_recording("downloading")?;
        unsafe { std::ptr::copy_nonoverlapping(source.0 as *const u8, destination.as_mut_ptr(), destination.len()) };
        Ok(())
    }

    unsafe fn copy(&self, destination: DevicePtr, source: DevicePtr, bytes: usize) -> Result<()> {
        if let Some(recording) = self.recording.lock().expect("not poisoned").as_mut() {
            recording.push(Recorded::Copy { destination, source, bytes });
            return Ok(());
        }
        unsafe { std::ptr::copy(source.0 as *const u8, destination.0 as *mut u8, bytes) };
        Ok(())
    }

    unsafe fn fill(&self, destination: DevicePtr, byte: u8, bytes: usize) -> Result<()> {
        if let Some(recording) = self.recording.lock().expect("not poisoned").as_mut() {
            recording.push(Recorded::Fill { destination, byte, bytes });
            return Ok(());
        }
        unsafe { std::ptr::write_bytes(destination.0 as *mut u8, byte, bytes) };
        Ok(())
    }

    fn synchronize(&self) -> Result<()> {
        self.refuse_while_recording("waiting")
    }

    fn new_stream(&self) -> Result<Arc<dyn Backend>> {
        Ok(Arc::new(HostDevice {
            options: self.options.clone(),
            properties: self.properties,
            cache: self.cache.clone(),
            recording: Mutex::new(None),
            scratch: Mutex::default(),
        }))
    }

    fn record(&self) -> Result<RawEvent> {
        self.refuse_while_recording("recording an event")?;
        Ok(RawEvent::Host(std::time::Instant::now()))
    }

    fn wait_for(&self, _: &RawEvent) -> Result<()> {
        Ok(()) // whatever was queued before an event has completed
    }

    fn begin_capture(&self) -> Result<()> {
        let mut recording = self.recording.lock().expect("not poisoned");
        if recording.is_some() {
            return Err(Error::argument("capture", "a capture is already under way", "end it first"));
        }
        *recording = Some(Vec::new());
        Ok(())
    }

    fn end_capture(&self) -> Result<RawGraph> {
        let recorded = self.recording.lock().expect("not poisoned").take();
        recorded
            .map(RawGraph::Host)
            .ok_or_else(|| Error::argument("capture", "no capture is under way", "begin one first"))
    }

    unsafe fn replay(&self, graph: &RawGraph) -> Result<()> {
        #[allow(irrefutable_let_patterns)] // refutable with the feature `cuda`
        let RawGraph::Host(recorded) = graph else {
            return Err(super::graph_of_another_device());
        };
        for step in recorded {
            unsafe {
                match step {
                    Recorded::Launch { entry, grid, params } => self.launch(entry, *grid, params.as_ptr().cast())?,
                    Recorded::Copy { destination, source, bytes } => self.copy(*destination, *source, *bytes)?,
                    Recorded::Fill { destination, byte, bytes } => self.fill(*destination, *byte, *bytes)?,
                    Recorded::Gemm(call) => drop(self.library_gemm(call)?),
                }
            }
        }
        Ok(())
    }

    fn library(&self) -> Result<()> {
        Ok(())
    }

    unsafe fn library_gemm(&self, call: &GemmCall) -> Result<bool> {
        if let Some(recording) = self.recording.lock().expect("not poisoned").as_mut() {
            recording.push(Recorded::Gemm(*call));
            return Ok(true);
        }
        self.with_scratch(|kept| unsafe { host_gemm::gemm(call, self.options.threads, kept) });
        Ok(true)
    }

    unsafe fn linear_bce(&self, call: &LinearBceCall) -> Result<bool> {
        // What is recorded is composed of operators.
        if self.recording.lock().expect("not poisoned").is_some() || !host_linear_bce::available(call.classes) {
            return Ok(false);
        }
        self.with_scratch(|kept| unsafe { host_linear_bce::linear_bce(call, self.options.threads, &mut kept.parts) });
        Ok(true)
    }
}
