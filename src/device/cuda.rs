//! CUDA devices through the driver API, loaded at run time: a machine without a GPU needs nothing of NVIDIA's.
//!
//! One context, one set of loaded kernels and one memory pool per GPU and process; every handle has a stream of its own.
//! Three variables of the environment help to find a defect: `X2CT_SYNC=1` waits after each launch and names the kernel
//! that failed (where one thread launches: a failure is the whole context's), `X2CT_POISON=1` fills new memory with NaN, `X2CT_PLAIN_ALLOC=1` allocates without a pool, so that
//! compute-sanitizer sees every buffer.

use std::ffi::c_void;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use cudarc::cublaslt::sys::cublasStatus_t;
use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys::{self, CUresult};
use cudarc::driver::{CudaContext, CudaStream};

use super::{Backend, RawEvent, RawGraph};
use crate::kernels::gemm::GemmCall;
use crate::kernels::{DevicePtr, Entry, FAMILIES, Grid, KernelConfig, Launcher, Properties};
use crate::{Error, Result};

mod driver;
mod launcher;
mod library;
mod memory;

pub use launcher::CudaLauncher;
use launcher::bind;
use library::Library;
use memory::{LockedPages, Pool, Staging};

/// How many CUDA devices there are; `Err` says why none can be opened.
pub(super) fn count() -> Result<usize> {
    driver::device_count("cuda")
}

/// What every handle on one GPU shares.
struct Gpu {
    launcher: CudaLauncher,
    pool: Pool,
    locked: LockedPages,
    /// cuBLASLt, or (problem, hint).
    library: OnceLock<std::result::Result<Library, (String, String)>>,
    context: Arc<CudaContext>,
}

/// The GPUs this process has opened, by ordinal. Kept to the end of the process, with the kernels that have been loaded.
static OPEN: Mutex<Vec<(usize, Arc<Gpu>)>> = Mutex::new(Vec::new());

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing under these locks is left half done by a panic.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Gpu {
    fn open(ordinal: usize) -> Result<Arc<Self>> {
        let device = format!("cuda:{ordinal}");
        let count = driver::device_count(&device)?;
        if ordinal >= count {
            return Err(driver::out_of_range(ordinal, count));
        }
        if FAMILIES.iter().any(|family| family.fatbin.is_none()) {
            return Err(launcher::built_without_nvcc(&device));
        }
        let mut open = lock(&OPEN);
        if let Some((_, gpu)) = open.iter().find(|(n, _)| *n == ordinal) {
            return Ok(gpu.clone());
        }
        let failed = |doing: &str, e| driver::failed(&device, doing, e);
        let context = CudaContext::new(ordinal).map_err(|e| failed("open the device", e))?;
        // Safety: no cudarc slice is ever made on this context; memory travels as raw pointers, ordered by streams.
        unsafe { context.disable_event_tracking() };
        let launcher = CudaLauncher::new(&context.default_stream(), FAMILIES)?;
        let pool = Pool::new(&context).map_err(|e| failed("create a memory pool", e))?;
        let gpu = Arc::new(Gpu { launcher, pool, locked: LockedPages::default(), library: OnceLock::new(), context });
        open.push((ordinal, gpu.clone()));
        Ok(gpu)
    }
}

/// A GPU and a stream on it.
pub(super) struct CudaDevice {
    gpu: Arc<Gpu>,
    launcher: CudaLauncher,
    staging: Mutex<Option<Staging>>,
    /// Scratch memory of the library's products on this stream.
    workspace: OnceLock<DevicePtr>,
    /// Whether the stream records a graph instead of running.
    capturing: AtomicBool,
    /// Buffers dropped while capturing; freed when it ends, which is then an error.
    dropped: Mutex<Vec<DevicePtr>>,
    poison: bool,
}

impl CudaDevice {
    pub(super) fn new(ordinal: usize) -> Result<Self> {
        Self::on(Gpu::open(ordinal)?)
    }

    fn on(gpu: Arc<Gpu>) -> Result<Self> {
        let stream = new_stream(&gpu.context).map_err(|e| gpu.launcher.failed("create a stream", e))?;
        let launcher = gpu.launcher.with_stream(&stream);
        Ok(CudaDevice {
            gpu,
            launcher,
            staging: Mutex::default(),
            workspace: OnceLock::new(),
            capturing: AtomicBool::new(false),
            dropped: Mutex::default(),
            poison: std::env::var_os("X2CT_POISON").is_some_and(|v| !v.is_empty() && v != "0"),
        })
    }

    fn is_capturing(&self) -> bool {
        self.capturing.load(Ordering::Acquire)
    }

    /// Checks that the stream is not recording, and makes the context current.
    fn enter(&self, what: &str) -> Result<()> {
        if self.is_capturing() {
            return Err(super::not_while_capturing(what));
        }
        self.launcher.bind()
    }

    fn stream(&self) -> sys::CUstream {
        self.launcher.raw_stream()
    }

    fn failed(&self, doing: &str, error: DriverError) -> Error {
        self.launcher.failed(doing, error)
    }

    fn open_library(&self) -> Result<&Library> {
        self.launcher.bind()?;
        self.gpu.library.get_or_init(Library::open).as_ref().map_err(|(problem, hint)| Error::Device {
            device: self.name().into(),
            problem: problem.clone(),
            hint: hint.clone(),
        })
    }

    /// The staging buffers, made at the first copy.
    fn with_staging(&self, doing: &str, copy: impl FnOnce(&mut Staging) -> Result<(), DriverError>) -> Result<()> {
        let mut staging = lock(&self.staging);
        if staging.is_none() {
            let made =
                Staging::new(&self.gpu.context).map_err(|e| self.failed("reserve pinned memory for copies", e))?;
            *staging = Some(made);
        }
        staging.as_mut().map_or(Ok(()), copy).map_err(|e| self.failed(doing, e))
    }
}

fn new_stream(context: &Arc<CudaContext>) -> Result<Arc<CudaStream>, DriverError> {
    bind(context)?;
    context.new_stream()
}

// Safety: launches go to the launcher on this handle's stream.
unsafe impl Launcher for CudaDevice {
    fn properties(&self) -> &Properties {
        self.launcher.properties()
    }

    fn config(&self, entry: &'static Entry) -> Result<&KernelConfig> {
        self.launcher.config(entry)
    }

    unsafe fn launch(&self, entry: &'static Entry, grid: Grid, params: *const c_void) -> Result<()> {
        unsafe { self.launcher.launch_on_stream(entry, grid, params, self.is_capturing()) }
    }
}

impl Backend for CudaDevice {
    fn name(&self) -> &str {
        self.launcher.name()
    }

    fn description(&self) -> String {
        let properties = self.properties();
        let gibibytes = self.gpu.context.total_mem().unwrap_or(0) as f64 / (1u64 << 30) as f64;
        format!(
            "{} (compute capability {}.{}, {} multiprocessors, {gibibytes:.1} GiB), driver {} (CUDA {})",
            self.gpu.context.name().unwrap_or_else(|_| "a CUDA device".into()),
            properties.compute_capability / 10,
            properties.compute_capability % 10,
            properties.multiprocessors,
            driver::installed_driver().unwrap_or_else(|| "of unknown version".into()),
            driver::cuda_version(driver::driver_cuda_version()),
        )
    }

    fn alloc(&self, bytes: usize, what: &str) -> Result<DevicePtr> {
        self.enter("allocating memory")?;
        let ptr = self.gpu.pool.alloc(bytes, self.stream()).map_err(|e| match e.0 {
            CUresult::CUDA_ERROR_OUT_OF_MEMORY => Error::OutOfMemory {
                device: self.name().into(),
                what: what.into(),
                requested: bytes,
                free: self.gpu.pool.free_bytes(),
            },
            _ => self.failed(&format!("allocate {bytes} bytes for {what}"), e),
        })?;
        if self.poison {
            // All ones is NaN in f32 and bf16.
            // Safety: freshly allocated with this many bytes.
            unsafe { self.fill(ptr, 0xff, bytes)? };
        }
        Ok(ptr)
    }

    unsafe fn free(&self, ptr: DevicePtr, _: usize) {
        if self.is_capturing() {
            lock(&self.dropped).push(ptr);
        } else if self.launcher.bind().is_ok() {
            // A context that a kernel has broken refuses; its memory goes with the process.
            let _ = unsafe { self.gpu.pool.free(ptr, self.stream()) };
        }
    }

    unsafe fn upload(&self, destination: DevicePtr, source: &[u8]) -> Result<()> {
        self.enter("uploading")?;
        self.with_staging("upload", |staging| unsafe { staging.upload(destination, source, self.stream()) })
    }

    fn lock_pages(&self, bytes: usize) -> Option<*mut u8> {
        self.launcher.bind().ok()?;
        self.gpu.locked.take(bytes)
    }

    unsafe fn unlock_pages(&self, start: *mut u8, bytes: usize) {
        if self.launcher.bind().is_ok() {
            unsafe { self.gpu.locked.give(start, bytes) };
        }
    }

    unsafe fn upload_locked(&self, destination: DevicePtr, source: &[u8]) -> Result<()> {
        self.enter("uploading")?;
        // Safety: the destination is the caller's; the source stays until the wait is over.
        unsafe { result::memcpy_htod_async(destination.0, source, self.stream()) }
            .map_err(|e| self.failed("upload", e))?;
        self.launcher.synchronize().map_err(|e| self.failed("upload", e))
    }

    unsafe fn download(&self, destination: &mut [u8], source: DevicePtr) -> Result<()> {
        self.enter("downloading")?;
        self.with_staging("download", |staging| unsafe { staging.download(destination, source, self.stream()) })
    }

    unsafe fn copy(&self, destination: DevicePtr, source: DevicePtr, bytes: usize) -> Result<()> {
        self.launcher.bind()?;
        if bytes == 0 {
            return Ok(());
        }
        unsafe { result::memcpy_dtod_async(destination.0, source.0, bytes, self.stream()) }
            .map_err(|e| self.failed("copy on the device", e))
    }

    unsafe fn fill(&self, destination: DevicePtr, byte: u8, bytes: usize) -> Result<()> {
        self.launcher.bind()?;
        if bytes == 0 {
            return Ok(());
        }
        unsafe { result::memset_d8_async(destination.0, byte, bytes, self.stream()) }
            .map_err(|e| self.failed("fill memory", e))
    }

    fn synchronize(&self) -> Result<()> {
        self.enter("waiting")?;
        self.launcher.synchronize().map_err(|e| self.failed("wait for the stream", e))
    }

    fn cuda_stream(&self) -> Result<Option<*mut std::ffi::c_void>> {
        self.launcher.bind()?;
        Ok(Some(self.stream().cast()))
    }

    fn new_stream(&self) -> Result<Arc<dyn Backend>> {
        Ok(Arc::new(Self::on(self.gpu.clone())?))
    }

    fn record(&self) -> Result<RawEvent> {
        self.enter("recording an event")?;
        let failed = |e| self.failed("record an event", e);
        let raw = result::event::create(sys::CUevent_flags::CU_EVENT_DEFAULT).map_err(failed)?;
        let event = CudaEvent { raw, context: self.gpu.context.clone() };
        // Safety: event and stream are alive and of one context.
        unsafe { result::event::record(event.raw, self.stream()) }.map_err(failed)?;
        Ok(RawEvent::Cuda(event))
    }

    fn wait_for(&self, event: &RawEvent) -> Result<()> {
        self.enter("waiting for an event")?;
        match event {
            // Safety: event and stream are alive; the flags are the default.
            RawEvent::Cuda(event) => unsafe {
                let flags = sys::CUevent_wait_flags::CU_EVENT_WAIT_DEFAULT;
                result::stream::wait_event(self.stream(), event.raw, flags)
                    .map_err(|e| self.failed("wait for an event", e))
            },
            // The host's events are past when they are recorded.
            #[cfg(feature = "host")]
            RawEvent::Host(_) => Ok(()),
        }
    }

    fn begin_capture(&self) -> Result<()> {
        self.enter("beginning another capture")?;
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // Safety: the stream is alive.
        unsafe { result::stream::begin_capture(self.stream(), mode) }.map_err(|e| self.failed("begin a capture", e))?;
        self.capturing.store(true, Ordering::Release);
        Ok(())
    }

    fn end_capture(&self) -> Result<RawGraph> {
        if !self.capturing.swap(false, Ordering::AcqRel) {
            return Err(Error::argument("capture", "no capture is under way", "begin one first"));
        }
        self.launcher.bind()?;
        let failed = |e| self.failed("capture", e);
        // Safety: the stream is capturing.
        let recorded = unsafe { result::stream::end_capture(self.stream()) };
        let dropped = std::mem::take(&mut *lock(&self.dropped));
        let freed = dropped.len();
        for ptr in dropped {
            // Safety: its buffer is gone; the recorded work that used it will never run, see below.
            let _ = unsafe { self.gpu.pool.free(ptr, self.stream()) };
        }
        let graph = recorded.map_err(failed)?;
        // Safety: the graph was just recorded, and is destroyed once; what is instantiated does not need it any more.
        let exec = unsafe {
            let exec = result::graph::instantiate(graph, sys::CUgraphInstantiate_flags(0));
            let _ = result::graph::destroy(graph);
            exec
        };
        let graph = CudaGraph { exec: exec.map_err(failed)?, context: self.gpu.context.clone() };
        if freed > 0 {
            return Err(super::not_while_capturing("freeing memory"));
        }
        Ok(RawGraph::Cuda(graph))
    }

    unsafe fn replay(&self, graph: &RawGraph) -> Result<()> {
        self.launcher.bind()?;
        #[allow(irrefutable_let_patterns)] // refutable with the feature `host`
        let RawGraph::Cuda(graph) = graph else { return Err(super::graph_of_another_device()) };
        if graph.context != self.gpu.context {
            return Err(super::graph_of_another_device());
        }
        unsafe { result::graph::launch(graph.exec, self.stream()) }.map_err(|e| self.failed("replay a graph", e))?;
        if self.launcher.waits_after_launches() {
            self.launcher.synchronize().map_err(|e| {
                let problem = format!("a kernel of a captured graph failed: {}", driver::words(e));
                let hint = "run the same work without capture, with X2CT_SYNC=1, to learn which".into();
                Error::Device { device: self.name().into(), problem, hint }
            })?;
        }
        Ok(())
    }

    fn library(&self) -> Result<()> {
        self.open_library().map(|_| ())
    }

    unsafe fn library_gemm(&self, call: &GemmCall) -> Result<bool> {
        let library = self.open_library()?;
        let workspace = match self.workspace.get() {
            Some(&workspace) => workspace,
            None => {
                let made = self.alloc(library::WORKSPACE_BYTES, "the workspace of cuBLASLt")?;
                let kept = *self.workspace.get_or_init(|| made);
                if kept != made {
                    // Another thread was faster.
                    unsafe { self.free(made, library::WORKSPACE_BYTES) };
                }
                kept
            }
        };
        self.launcher.bind()?;
        let failed = |problem: String| {
            let &GemmCall { m, n, k, .. } = call;
            let problem =
                format!("{problem}: [{m}, {k}] times [{k}, {n}], {} to {}", call.dtype.name(), call.out.name());
            Error::Launch { kernel: "cublasLtMatmul", device: self.name().into(), problem }
        };
        match unsafe { library.gemm(call, workspace, self.stream().cast()) } {
            Err(e) if e.0 == cublasStatus_t::CUBLAS_STATUS_NOT_SUPPORTED => return Ok(false),
            outcome => outcome.map_err(|e| failed(library::words(e)))?,
        }
        if self.launcher.waits_after_launches() && !self.is_capturing() {
            self.launcher.synchronize().map_err(|e| failed(driver::words(e)))?;
        }
        Ok(true)
    }
}

impl Drop for CudaDevice {
    fn drop(&mut self) {
        if let Some(&workspace) = self.workspace.get() {
            // Safety: allocated by this handle; what uses it was queued before.
            unsafe { self.free(workspace, library::WORKSPACE_BYTES) };
        }
    }
}

/// A point in a stream.
pub(crate) struct CudaEvent {
    raw: sys::CUevent,
    context: Arc<CudaContext>,
}

// Safety: the handle is the driver's, which may be used from any thread.
unsafe impl Send for CudaEvent {}
unsafe impl Sync for CudaEvent {}

impl CudaEvent {
    /// Seconds of device time since `earlier`; waits for both.
    pub(super) fn seconds_since(&self, earlier: &CudaEvent) -> Result<f64> {
        let milliseconds = bind(&self.context).and_then(|()| unsafe {
            // Safety: both events are alive and recorded.
            result::event::synchronize(earlier.raw)?;
            result::event::synchronize(self.raw)?;
            result::event::elapsed(earlier.raw, self.raw)
        });
        let device = || format!("cuda:{}", self.context.ordinal());
        milliseconds.map(|ms| ms as f64 * 1e-3).map_err(|e| driver::failed(&device(), "time two events", e))
    }
}

impl Drop for CudaEvent {
    fn drop(&mut self) {
        if bind(&self.context).is_ok() {
            // Safety: created once, destroyed once.
            let _ = unsafe { result::event::destroy(self.raw) };
        }
    }
}

/// Recorded work, instantiated.
pub(crate) struct CudaGraph {
    exec: sys::CUgraphExec,
    context: Arc<CudaContext>,
}

// Safety: launched only on a stream of its context; the driver orders launches of one graph.
unsafe impl Send for CudaGraph {}
unsafe impl Sync for CudaGraph {}

impl Drop for CudaGraph {
    fn drop(&mut self) {
        if bind(&self.context).is_ok() {
            // Safety: instantiated once, destroyed once; the driver keeps it until a running launch is done.
            let _ = unsafe { result::graph::exec_destroy(self.exec) };
        }
    }
}
