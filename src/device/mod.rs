//! Devices, memory, events and graphs: the host and CUDA behind one small trait.
//!
//! A [`Device`] is a handle on one device and one in-order queue of work (a CUDA stream; on the host every call has
//! completed when it returns). Everything queued on one handle happens in order; [`Device::new_stream`] gives a handle
//! with a queue of its own. Handles are cheap to clone and may be sent to other threads.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::kernels::gemm::GemmCall;
use crate::kernels::{DevicePtr, Launcher, Properties};
use crate::{Error, Result};

#[cfg(feature = "cuda")]
mod cuda;
#[cfg(feature = "host")]
mod host;
#[cfg(feature = "host")]
mod host_gemm;
#[cfg(feature = "host")]
mod host_linear_bce;
#[cfg(feature = "host")]
mod host_narrow;

#[cfg(feature = "cuda")]
mod nvtx;

mod host_array;

#[cfg(feature = "cuda")]
pub use cuda::CudaLauncher;
/// The CUDA bindings that [`CudaLauncher`] speaks, at the version it speaks.
#[cfg(feature = "cuda")]
pub use cudarc;
#[cfg(feature = "host")]
pub use host::{HostOptions, ThreadOrder};
pub use host_array::HostArray;
pub(crate) use host_array::HostMemory;

/// What a device does for the rest of the crate. Pointers are the caller's responsibility, hence `unsafe`.
pub(crate) trait Backend: Launcher + Send + Sync {
    /// `host` or `cuda:N`.
    fn name(&self) -> &str;
    /// A line for people: processor or GPU, memory, driver.
    fn description(&self) -> String;
    /// `what` names the memory in messages.
    fn alloc(&self, bytes: usize, what: &str) -> Result<DevicePtr>;
    unsafe fn free(&self, ptr: DevicePtr, bytes: usize);
    /// `source` may be reused when this returns.
    unsafe fn upload(&self, destination: DevicePtr, source: &[u8]) -> Result<()>;
    /// Page-locked memory of this machine, where the device profits from it and the driver grants it.
    fn lock_pages(&self, _bytes: usize) -> Option<*mut u8> {
        None
    }
    /// Gives it back; every copy from it is done.
    unsafe fn unlock_pages(&self, _start: *mut u8, _bytes: usize) {}
    /// As [`Backend::upload`], from page-locked memory.
    unsafe fn upload_locked(&self, destination: DevicePtr, source: &[u8]) -> Result<()> {
        unsafe { self.upload(destination, source) }
    }
    /// Waits for the data.
    unsafe fn download(&self, destination: &mut [u8], source: DevicePtr) -> Result<()>;
    unsafe fn copy(&self, destination: DevicePtr, source: DevicePtr, bytes: usize) -> Result<()>;
    unsafe fn fill(&self, destination: DevicePtr, byte: u8, bytes: usize) -> Result<()>;
    fn synchronize(&self) -> Result<()>;
    /// The CUDA stream, with its context current on this thread.
    fn cuda_stream(&self) -> Result<Option<*mut std::ffi::c_void>> {
        Ok(None)
    }
    fn new_stream(&self) -> Result<Arc<dyn Backend>>;
    fn record(&self) -> Result<RawEvent>;
    /// Work queued from now on waits for the event.
    fn wait_for(&self, event: &RawEvent) -> Result<()>;
    fn begin_capture(&self) -> Result<()>;
    fn end_capture(&self) -> Result<RawGraph>;
    unsafe fn replay(&self, graph: &RawGraph) -> Result<()>;
    /// Whether [`Backend::library_gemm`] can run; `Err` says why not and what to do.
    fn library(&self) -> Result<()>;
    /// Queues a matrix product by the vendor's library (the `matrixmultiply` crate on the host, cuBLASLt on CUDA). Extents and
    /// types as documented at [`GemmCall`]; m, n and k are not 0. `false` where the library has no algorithm for such a
    /// product: nothing was queued.
    unsafe fn library_gemm(&self, call: &GemmCall) -> Result<bool>;
    /// The mean binary cross entropy of a linear layer, and its gradients, in one pass. Places lie inside the features. `false` where the
    /// device has no such pass: nothing was queued.
    unsafe fn linear_bce(&self, _call: &LinearBceCall) -> Result<bool> {
        Ok(false)
    }
}

/// A batch and the layer of [`Backend::linear_bce`]: f32, contiguous.
#[cfg_attr(not(feature = "host"), allow(dead_code))] // the host alone has such a pass
#[derive(Clone, Copy)]
pub(crate) struct LinearBceCall {
    /// `[N, dim]`: the samples that batches are taken of.
    pub features: DevicePtr,
    /// `[N, classes]`.
    pub targets: DevicePtr,
    /// u32 `[rows]`: places of the batch's samples; null: the first `rows`.
    pub places: DevicePtr,
    /// Samples of the batch.
    pub rows: usize,
    /// Values of a sample.
    pub dim: usize,
    /// Labels.
    pub classes: usize,
    /// `[classes, dim]`.
    pub weight: DevicePtr,
    /// `[classes]`.
    pub bias: DevicePtr,
    /// `[classes]`: weights of positives; null: 1.
    pub pos_weight: DevicePtr,
    /// `[classes, dim]` and `[classes]`: the gradients of the batch's mean loss, which are overwritten; null: neither is wanted.
    pub gradients: Option<[DevicePtr; 2]>,
    /// f32 `[]`: the batch's mean loss.
    pub loss: DevicePtr,
}

/// A point in a queue, in the backend's own form.
pub(crate) enum RawEvent {
    #[cfg(feature = "host")]
    Host(std::time::Instant),
    #[cfg(feature = "cuda")]
    Cuda(cuda::CudaEvent),
}

/// A recorded sequence of work, in the backend's own form.
pub(crate) enum RawGraph {
    #[cfg(feature = "host")]
    Host(Vec<host::Recorded>),
    #[cfg(feature = "cuda")]
    Cuda(cuda::CudaGraph),
}

/// A device and a queue of work on it.
#[derive(Clone)]
pub struct Device {
    backend: Arc<dyn Backend>,
    memory: Arc<MemoryCounters>,
}

#[derive(Default)]
struct MemoryCounters {
    live: AtomicUsize,
    peak: AtomicUsize,
}

impl Device {
    fn from_backend(backend: Arc<dyn Backend>) -> Self {
        Device { backend, memory: Arc::default() }
    }

    /// The processor of this machine, running the host build of the kernels.
    #[cfg(feature = "host")]
    pub fn host() -> Self {
        Self::host_with(HostOptions::default())
    }

    /// The host with chosen worker threads, thread order and memory poisoning: what tests use.
    #[cfg(feature = "host")]
    pub fn host_with(options: HostOptions) -> Self {
        Self::from_backend(Arc::new(host::HostDevice::new(options)))
    }

    /// The CUDA device with this ordinal.
    ///
    /// # Errors
    /// Says whether the driver is missing, too old, the ordinal is out of range, or the crate was built without kernels
    /// for CUDA, and what to do.
    #[cfg(feature = "cuda")]
    pub fn cuda(ordinal: usize) -> Result<Self> {
        Ok(Self::from_backend(Arc::new(cuda::CudaDevice::new(ordinal)?)))
    }

    /// How many CUDA devices can be opened; `Err` says why none can.
    pub fn cuda_count() -> Result<usize> {
        #[cfg(feature = "cuda")]
        return cuda::count();
        #[cfg(not(feature = "cuda"))]
        Err(no_such_device("cuda", "this build has no CUDA support", "build with the feature `cuda`"))
    }

    /// The first CUDA device when there is one with kernels to run on it, else the host. Why it is the host is logged.
    pub fn auto() -> Result<Self> {
        let why = match Self::open_cuda(0) {
            Ok(device) => return Ok(device),
            Err(why) => why,
        };
        #[cfg(feature = "host")]
        {
            tracing::info!("using the host: {why}");
            Ok(Self::host())
        }
        #[cfg(not(feature = "host"))]
        Err(why)
    }

    /// Reads `host`, `cuda:N`, `cuda` or `auto`.
    pub fn parse(text: &str) -> Result<Self> {
        let ordinal = text.strip_prefix("cuda:").unwrap_or(if text == "cuda" { "0" } else { "" });
        match text {
            "auto" => Self::auto(),
            #[cfg(feature = "host")]
            "host" => Ok(Self::host()),
            #[cfg(not(feature = "host"))]
            "host" => Err(no_such_device(text, "this build has no host kernels", "build with the feature `host`")),
            _ => match ordinal.parse() {
                Ok(ordinal) => Self::open_cuda(ordinal),
                Err(_) => Err(no_such_device(text, "no such device", "use host, cuda:N (cuda:0 is the first) or auto")),
            },
        }
    }

    fn open_cuda(ordinal: usize) -> Result<Self> {
        #[cfg(feature = "cuda")]
        return Self::cuda(ordinal);
        #[cfg(not(feature = "cuda"))]
        Err(no_such_device(
            &format!("cuda:{ordinal}"),
            "this build has no CUDA support",
            "build with the feature `cuda`",
        ))
    }

    /// `host` or `cuda:N`.
    pub fn name(&self) -> &str {
        self.backend.name()
    }

    /// A line for people: processor or GPU, memory, driver.
    pub fn description(&self) -> String {
        self.backend.description()
    }

    /// Whether work runs on this machine's processor.
    pub fn is_host(&self) -> bool {
        self.name() == "host"
    }

    /// The device's limits.
    pub fn properties(&self) -> &Properties {
        self.backend.properties()
    }

    /// What level-one launch functions take.
    pub fn launcher(&self) -> &dyn Launcher {
        &*self.backend
    }

    pub(crate) fn backend(&self) -> &dyn Backend {
        &*self.backend
    }

    /// A handle on the same device with a queue of its own.
    pub fn new_stream(&self) -> Result<Self> {
        Ok(Device { backend: self.backend.new_stream()?, memory: self.memory.clone() })
    }

    /// Uninitialised memory. `what` names it when the device has too little.
    pub fn alloc(&self, bytes: usize, what: &str) -> Result<Buffer> {
        let ptr = self.backend.alloc(bytes.max(1), what)?;
        let live = self.memory.live.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.memory.peak.fetch_max(live, Ordering::Relaxed);
        Ok(Buffer { device: self.clone(), ptr, bytes, lender: None })
    }

    /// Waits until everything queued has completed; reports a failure of any of it.
    pub fn synchronize(&self) -> Result<()> {
        self.backend.synchronize()
    }

    /// The CUDA stream that work is queued on, for other libraries; its context is made current on this thread. `None` on the
    /// host.
    pub fn cuda_stream(&self) -> Result<Option<*mut std::ffi::c_void>> {
        self.backend.cuda_stream()
    }

    /// Marks this point of the queue.
    pub fn record(&self) -> Result<Event> {
        Ok(Event(self.backend.record()?))
    }

    /// Makes work queued here from now on wait for `event`, which another handle on this device may have recorded.
    /// Memory belongs to the handle that allocated it: before another handle uses it, it waits for the first, and before
    /// the memory is dropped, the first waits for the other.
    pub fn wait_for(&self, event: &Event) -> Result<()> {
        self.backend.wait_for(&event.0)
    }

    /// Records what `work` queues, without running it, for [`Graph::replay`]. Memory that the work uses must stay alive
    /// and in place; `work` must not allocate, free, or wait.
    pub fn capture(&self, work: impl FnOnce() -> Result<()>) -> Result<Graph> {
        let capture = Capture::begin(&*self.backend)?;
        work()?; // before the graph's own error, which would only say that it is broken
        Ok(Graph { device: self.clone(), raw: capture.end()? })
    }

    /// Bytes in buffers of this device now, and the most there have been since [`Device::reset_peak`].
    pub fn memory(&self) -> Memory {
        Memory { live: self.memory.live.load(Ordering::Relaxed), peak: self.memory.peak.load(Ordering::Relaxed) }
    }

    /// Starts a new peak measurement.
    pub fn reset_peak(&self) {
        self.memory.peak.store(self.memory.live.load(Ordering::Relaxed), Ordering::Relaxed);
    }

    /// Whether two handles share one device's memory.
    pub fn same_memory(&self, other: &Device) -> bool {
        Arc::ptr_eq(&self.memory, &other.memory)
    }
}

impl std::fmt::Debug for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Device({})", self.name())
    }
}

/// Names what this thread queues until the guard is dropped, for a profiler.
#[cfg(feature = "cuda")]
pub(crate) use nvtx::range as profiler_range;
#[cfg(not(feature = "cuda"))]
pub(crate) fn profiler_range(_: &str) {}

fn no_such_device(device: &str, problem: &str, hint: &str) -> Error {
    Error::Device { device: device.into(), problem: problem.into(), hint: hint.into() }
}

fn not_while_capturing(what: &str) -> Error {
    Error::argument("capture", format!("{what} cannot be recorded"), "do it before the capture, and keep what it uses")
}

fn graph_of_another_device() -> Error {
    Error::argument("replay", "the graph is of another device", "capture it on this one")
}

/// Bytes held in buffers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// Now.
    pub live: usize,
    /// The most at any one time.
    pub peak: usize,
}

/// An allocation, freed when dropped; or another's memory, kept until then and only read.
pub struct Buffer {
    device: Device,
    ptr: DevicePtr,
    bytes: usize,
    /// Whose memory it is, if not the device's.
    lender: Option<Arc<dyn std::any::Any + Send + Sync>>,
}

impl Buffer {
    /// Where it is.
    pub fn ptr(&self) -> DevicePtr {
        self.ptr
    }

    /// Length of the memory, bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether the memory is another's, lent to be read.
    pub(crate) fn is_lent(&self) -> bool {
        self.lender.is_some()
    }

    /// Whose it is.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Copies `source` into the buffer at `offset` bytes.
    pub fn upload(&self, offset: usize, source: &[u8]) -> Result<()> {
        self.check_written(offset, source.len(), "upload")?;
        // Safety: the range lies inside the allocation.
        unsafe { self.device.backend.upload(self.ptr.offset(offset), source) }
    }

    /// Copies from the buffer at `offset` bytes; waits for the queue.
    pub fn download(&self, offset: usize, destination: &mut [u8]) -> Result<()> {
        self.check(offset, destination.len(), "download")?;
        // Safety: the range lies inside the allocation.
        unsafe { self.device.backend.download(destination, self.ptr.offset(offset)) }
    }

    /// Sets `bytes` bytes at `offset` to `byte`.
    pub fn fill(&self, offset: usize, bytes: usize, byte: u8) -> Result<()> {
        self.check_written(offset, bytes, "fill")?;
        // Safety: the range lies inside the allocation.
        unsafe { self.device.backend.fill(self.ptr.offset(offset), byte, bytes) }
    }

    /// Copies `bytes` bytes from `source` at `source_offset` to `offset`, on the device.
    pub fn copy_from(&self, offset: usize, source: &Buffer, source_offset: usize, bytes: usize) -> Result<()> {
        self.check_written(offset, bytes, "copy")?;
        source.check(source_offset, bytes, "copy")?;
        if !self.device.same_memory(&source.device) {
            return Err(Error::argument("copy", "the buffers are on different devices", "download and upload instead"));
        }
        if self.ptr == source.ptr && offset < source_offset + bytes && source_offset < offset + bytes {
            return Err(Error::argument("copy", "the ranges overlap", "copy through another buffer"));
        }
        // Safety: both ranges lie inside their allocations, on one device.
        unsafe { self.device.backend.copy(self.ptr.offset(offset), source.ptr.offset(source_offset), bytes) }
    }

    fn check_written(&self, offset: usize, bytes: usize, what: &str) -> Result<()> {
        if self.lender.is_some() {
            return Err(Error::argument(what, "the buffer is shared and only read", "write to one of its own"));
        }
        self.check(offset, bytes, what)
    }

    fn check(&self, offset: usize, bytes: usize, what: &str) -> Result<()> {
        if offset.checked_add(bytes).is_none_or(|end| end > self.bytes) {
            return Err(Error::argument(
                what,
                format!("{bytes} bytes at {offset} lie outside a buffer of {}", self.bytes),
                "this is a defect in the caller",
            ));
        }
        Ok(())
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if self.lender.is_some() {
            return;
        }
        self.device.memory.live.fetch_sub(self.bytes, Ordering::Relaxed);
        // Safety: the pointer came from this backend with this size, and nothing else owns it.
        unsafe { self.device.backend.free(self.ptr, self.bytes.max(1)) }
    }
}

/// A capture under way. Dropped before its end, by an error or a panic in what was to be recorded, it ends all the same and
/// leaves the queue as it was.
struct Capture<'a> {
    backend: &'a dyn Backend,
    ended: bool,
}

impl<'a> Capture<'a> {
    fn begin(backend: &'a dyn Backend) -> Result<Self> {
        backend.begin_capture()?;
        Ok(Capture { backend, ended: false })
    }

    fn end(mut self) -> Result<RawGraph> {
        self.ended = true;
        self.backend.end_capture()
    }
}

impl Drop for Capture<'_> {
    fn drop(&mut self) {
        if !self.ended {
            let _ = self.backend.end_capture();
        }
    }
}

/// A point in a device's queue.
pub struct Event(RawEvent);

impl Event {
    /// Seconds from `earlier` to this event; waits for both.
    pub fn seconds_since(&self, earlier: &Event) -> Result<f64> {
        match (&earlier.0, &self.0) {
            #[cfg(feature = "host")]
            (RawEvent::Host(a), RawEvent::Host(b)) => Ok(b.duration_since(*a).as_secs_f64()),
            #[cfg(feature = "cuda")]
            (RawEvent::Cuda(a), RawEvent::Cuda(b)) => b.seconds_since(a),
            #[allow(unreachable_patterns)]
            _ => Err(Error::argument("event", "the events are of different devices", "record both on one device")),
        }
    }
}

/// Recorded work, replayed with one call.
pub struct Graph {
    device: Device,
    raw: RawGraph,
}

impl Graph {
    /// Queues the recorded work again.
    ///
    /// # Safety
    /// Every buffer the recorded work uses is still allocated.
    pub unsafe fn replay(&self) -> Result<()> {
        unsafe { self.device.backend.replay(&self.raw) }
    }
}
