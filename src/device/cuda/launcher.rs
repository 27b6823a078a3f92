//! The kernels of this crate on a CUDA stream: modules, functions, launches.

use std::ffi::{CString, c_void};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys::{self, CUdevice_attribute as Attribute, CUresult};
use cudarc::driver::{CudaContext, CudaStream};

use super::driver;
use crate::kernels::{Entry, Family, Grid, KernelConfig, Launcher, Properties};
use crate::{Error, Result};

/// Shared memory a block may use without asking.
const SHARED_BYTES_BY_DEFAULT: u32 = 48 * 1024;

/// Launches this crate's kernels on a stream of the caller's own: what a program with its own cudarc context uses.
///
/// ```no_run
/// use x2ct::device::{CudaLauncher, cudarc::driver::CudaContext};
/// use x2ct::kernels::{FAMILIES, Launcher};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let stream = CudaContext::new(0)?.new_stream()?;
/// let launcher = CudaLauncher::new(&stream, FAMILIES)?;
/// println!("{} multiprocessors", launcher.properties().multiprocessors);
/// # Ok(())
/// # }
/// ```
///
/// A family is loaded when a kernel of it is first asked for, and its kernels are looked up once, then: on a GPU that the
/// build holds no machine code for, the driver compiles what is used and nothing else. From then on a launch is two table
/// reads and one driver call. With `X2CT_SYNC=1` in the environment each launch waits and reports its own failure.
#[derive(Clone)]
pub struct CudaLauncher {
    modules: Arc<Modules>,
    stream: Arc<CudaStream>,
    sync: bool,
}

impl CudaLauncher {
    /// Launches kernels of the given families (usually [`crate::kernels::FAMILIES`]) in the stream's context. Loads the
    /// smallest of them, so that a GPU which the build has no code for is refused here, and each other on its first use.
    ///
    /// # Errors
    /// When the crate was built without nvcc, or holds no code that this GPU can run.
    pub fn new(stream: &Arc<CudaStream>, families: &[&'static Family]) -> Result<Self> {
        let modules = Modules::open(stream.context(), families)?;
        let sync = std::env::var_os("X2CT_SYNC").is_some_and(|v| !v.is_empty() && v != "0");
        Ok(CudaLauncher { modules: Arc::new(modules), stream: stream.clone(), sync })
    }

    /// The same kernels on another stream of the same context.
    pub fn with_stream(&self, stream: &Arc<CudaStream>) -> Self {
        CudaLauncher { modules: self.modules.clone(), stream: stream.clone(), sync: self.sync }
    }

    /// Where it launches.
    pub fn stream(&self) -> &Arc<CudaStream> {
        &self.stream
    }

    /// The families whose kernels are loaded: the smallest, and those of which something was used.
    pub fn loaded(&self) -> Vec<&'static str> {
        let modules = self.modules.families.iter().flatten();
        modules.filter(|module| module.loaded.get().is_some()).map(|module| module.family.name).collect()
    }

    /// `cuda:N`.
    pub(super) fn name(&self) -> &str {
        &self.modules.device
    }

    pub(super) fn raw_stream(&self) -> sys::CUstream {
        self.stream.cu_stream()
    }

    /// Makes the context current on this thread.
    pub(super) fn bind(&self) -> Result<()> {
        bind(self.stream.context()).map_err(|e| self.failed("use the context", e))
    }

    /// A failed driver call; `doing` completes "cannot ...".
    pub(super) fn failed(&self, doing: &str, error: DriverError) -> Error {
        driver::failed(self.name(), doing, error)
    }

    /// Waits for the stream.
    pub(super) fn synchronize(&self) -> Result<(), DriverError> {
        // Safety: the stream lives as long as `self`.
        unsafe { result::stream::synchronize(self.raw_stream()) }
    }

    pub(super) fn waits_after_launches(&self) -> bool {
        self.sync
    }

    fn function(&self, entry: &'static Entry) -> Result<&Function> {
        let module = self.modules.families.get(entry.family.slot).and_then(Option::as_ref).ok_or_else(|| {
            self.refuse(entry, format!("the family {} was not given to CudaLauncher::new", entry.family.name))
        })?;
        match module.loaded.get() {
            Some(loaded) => Ok(&loaded.functions[entry.index]),
            None => Ok(&self.modules.load(module, self.is_capturing())?.functions[entry.index]),
        }
    }

    fn is_capturing(&self) -> bool {
        // Safety: the stream lives as long as `self`.
        unsafe { result::stream::is_capturing(self.raw_stream()) }
            .is_ok_and(|status| status != sys::CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE)
    }

    fn refuse(&self, entry: &'static Entry, problem: String) -> Error {
        Error::Launch { kernel: entry.name, device: self.name().into(), problem }
    }

    /// The launch itself. `capturing` says that the stream records instead of running, so that nothing may wait for it.
    ///
    /// # Safety
    /// As for [`Launcher::launch`].
    pub(super) unsafe fn launch_on_stream(
        &self,
        entry: &'static Entry,
        grid: Grid,
        params: *const c_void,
        capturing: bool,
    ) -> Result<()> {
        let function = self.function(entry)?;
        grid.check().map_err(|problem| self.refuse(entry, problem))?;
        if let Some(problem) = &function.refused {
            return Err(self.refuse(entry, problem.clone()));
        }
        let config = &function.config;
        let cooperative = config.cooperative != 0;
        if cooperative && grid.blocks() > function.resident_blocks {
            let problem = format!(
                "{} blocks meet at a barrier of the grid, but only {} are resident at a time on this GPU",
                grid.blocks(),
                function.resident_blocks
            );
            return Err(self.refuse(entry, problem));
        }
        self.bind()?;
        // The driver copies the struct during the call.
        let mut arguments = [params.cast_mut()];
        let [x, y, z] = grid.0;
        let launch = if cooperative { result::launch_cooperative_kernel } else { result::launch_kernel };
        // Safety: the function is loaded, takes this one argument, and the caller vouches for the pointers in it.
        let outcome = unsafe {
            launch(
                function.raw,
                (x, y, z),
                (config.threads, 1, 1),
                config.shared_bytes,
                self.raw_stream(),
                &mut arguments,
            )
        };
        match outcome {
            Ok(()) if self.sync && !capturing => self.synchronize().map_err(|e| {
                self.refuse(entry, format!("{}; the process cannot use this GPU any more", driver::words(e)))
            }),
            Ok(()) => Ok(()),
            Err(e) if driver::is_sticky(e) => Err(self.failed("launch", e)),
            Err(e) => Err(self.refuse(
                entry,
                format!(
                    "{} (grid {x}x{y}x{z}, {} threads and {} bytes of shared memory a block)",
                    driver::words(e),
                    config.threads,
                    config.shared_bytes
                ),
            )),
        }
    }
}

// Safety: `launch_on_stream` passes the struct to the entry's own function with the block size and shared memory of its
// config, and reports what the driver reports.
unsafe impl Launcher for CudaLauncher {
    fn properties(&self) -> &Properties {
        &self.modules.properties
    }

    fn config(&self, entry: &'static Entry) -> Result<&KernelConfig> {
        Ok(&self.function(entry)?.config)
    }

    unsafe fn launch(&self, entry: &'static Entry, grid: Grid, params: *const c_void) -> Result<()> {
        // A stream of the caller's may be recording; asking costs little beside waiting.
        let capturing = self.sync && self.is_capturing();
        unsafe { self.launch_on_stream(entry, grid, params, capturing) }
    }
}

/// Makes a context current on this thread. Not [`CudaContext::bind_to_thread`], which would also report what an
/// unrelated drop left behind.
pub(super) fn bind(context: &CudaContext) -> std::result::Result<(), DriverError> {
    if result::ctx::get_current()? != Some(context.cu_ctx()) {
        // Safety: the context is retained by `context`.
        unsafe { result::ctx::set_current(context.cu_ctx()) }?;
    }
    Ok(())
}

/// One kernel, resolved.
struct Function {
    raw: sys::CUfunction,
    config: KernelConfig,
    /// Of a cooperative kernel: the most blocks that run at the same time.
    resident_blocks: u64,
    /// Why this GPU cannot run it.
    refused: Option<String>,
}

/// A family of one context, loaded or not yet.
struct Module {
    family: &'static Family,
    loaded: OnceLock<Loaded>,
    /// Held while it is being loaded.
    loading: Mutex<()>,
}

struct Loaded {
    raw: sys::CUmodule,
    /// By `entry.index`.
    functions: Vec<Function>,
}

/// The families of one context, by `family.slot`.
struct Modules {
    device: String,
    properties: Properties,
    families: Vec<Option<Module>>,
    context: Arc<CudaContext>,
}

// Safety: the handles are the driver's, which may be used from any thread with the context current.
unsafe impl Send for Modules {}
unsafe impl Sync for Modules {}

impl Drop for Modules {
    fn drop(&mut self) {
        if bind(&self.context).is_ok() {
            for loaded in self.families.iter().flatten().filter_map(|module| module.loaded.get()) {
                // Safety: loaded by `load`, unloaded once. A failure leaves nothing to be done.
                let _ = unsafe { result::module::unload(loaded.raw) };
            }
        }
    }
}

/// While it lives, this thread may make calls that a capture on it would forbid: loading a module touches no stream that
/// records.
struct Relaxed {
    former: sys::CUstreamCaptureMode,
}

impl Relaxed {
    fn begin() -> std::result::Result<Self, DriverError> {
        Ok(Relaxed { former: exchange_mode(sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED)? })
    }
}

impl Drop for Relaxed {
    fn drop(&mut self) {
        let _ = exchange_mode(self.former);
    }
}

/// Sets what this thread's captures forbid; returns what it was.
fn exchange_mode(mut mode: sys::CUstreamCaptureMode) -> std::result::Result<sys::CUstreamCaptureMode, DriverError> {
    // Safety: the mode is local.
    unsafe { sys::cuThreadExchangeStreamCaptureMode(&mut mode) }.result()?;
    Ok(mode)
}

impl Modules {
    fn open(context: &Arc<CudaContext>, families: &[&'static Family]) -> Result<Self> {
        let device = format!("cuda:{}", context.ordinal());
        bind(context).map_err(|e| driver::failed(&device, "use the context", e))?;
        let properties = properties(context).map_err(|e| driver::failed(&device, "ask for its properties", e))?;
        let mut slots: Vec<Option<Module>> = Vec::new();
        for &family in families {
            if family.slot >= slots.len() {
                slots.resize_with(family.slot + 1, || None);
            }
            slots[family.slot] = Some(Module { family, loaded: OnceLock::new(), loading: Mutex::new(()) });
        }
        let modules = Modules { device, properties, families: slots, context: context.clone() };
        let size = |module: &&Module| module.family.fatbin.map_or(0, <[u8]>::len);
        if let Some(smallest) = modules.families.iter().flatten().min_by_key(size) {
            modules.load(smallest, false)?;
        }
        Ok(modules)
    }

    /// Loads a family unless another thread has; a failure leaves it as it was. `capturing` says that a stream of this
    /// thread records.
    fn load<'a>(&self, module: &'a Module, capturing: bool) -> Result<&'a Loaded> {
        let _guard = module.loading.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(loaded) = module.loaded.get() {
            return Ok(loaded);
        }
        let family = module.family;
        let Some(fatbin) = family.fatbin else { return Err(built_without_nvcc(&self.device)) };
        let cannot = |e| cannot_load(&self.device, family.name, self.properties.compute_capability, e);
        bind(&self.context).map_err(cannot)?;
        let _relaxed = capturing.then(Relaxed::begin).transpose().map_err(cannot)?;
        // The driver reads the image as words; an embedded file is aligned to bytes.
        let mut image = vec![0u64; fatbin.len().div_ceil(8)];
        bytemuck::cast_slice_mut(&mut image)[..fatbin.len()].copy_from_slice(fatbin);
        // Safety: the image is a whole fatbin.
        let raw = unsafe { result::module::load_data(image.as_ptr().cast()) }.map_err(cannot)?;
        let functions = family.entries.iter().map(|entry| self.resolve(raw, entry)).collect::<Result<_>>();
        match functions {
            Ok(functions) => Ok(module.loaded.get_or_init(|| Loaded { raw, functions })),
            Err(error) => {
                // Safety: loaded above, and nothing of it is kept.
                let _ = unsafe { result::module::unload(raw) };
                Err(error)
            }
        }
    }

    fn resolve(&self, module: sys::CUmodule, entry: &'static Entry) -> Result<Function> {
        let failed = |what: &str, e| {
            let problem = format!("cannot {what}: {}", driver::words(e));
            Error::Launch { kernel: entry.name, device: self.device.clone(), problem }
        };
        let name = |text: String| CString::new(text).expect("entry names have no zero byte");
        // Safety (all driver calls here): the module is loaded; out-pointers are local.
        unsafe {
            let (address, bytes) = result::module::get_global(module, name(format!("{}_config", entry.name)))
                .map_err(|e| failed("find its constants in the module", e))?;
            let mut table = vec![0u8; bytes];
            result::memcpy_dtoh_sync(&mut table, address).map_err(|e| failed("read its constants", e))?;
            let config = parse_config(&table, entry.params_bytes).map_err(|problem| Error::Launch {
                kernel: entry.name,
                device: self.device.clone(),
                problem,
            })?;
            let raw = result::module::get_function(module, name(entry.name.into()))
                .map_err(|e| failed("find it in the module", e))?;
            let limit = self.properties.shared_bytes_per_block;
            let refused = (config.shared_bytes > limit).then(|| {
                format!("it needs {} bytes of shared memory a block, this GPU has {limit}", config.shared_bytes)
            });
            if refused.is_none() && config.shared_bytes > SHARED_BYTES_BY_DEFAULT {
                let attribute = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
                result::function::set_function_attribute(raw, attribute, config.shared_bytes as i32)
                    .map_err(|e| failed("reserve its shared memory", e))?;
            }
            let mut resident_blocks = 0;
            if refused.is_none() && config.cooperative != 0 {
                let (threads, shared) = (config.threads as i32, config.shared_bytes as usize);
                let per_multiprocessor = result::occupancy::max_active_block_per_multiprocessor(raw, threads, shared)
                    .map_err(|e| failed("ask how many of its blocks are resident", e))?;
                resident_blocks = per_multiprocessor as u64 * self.properties.multiprocessors as u64;
            }
            Ok(Function { raw, config, resident_blocks, refused })
        }
    }
}

fn properties(context: &CudaContext) -> std::result::Result<Properties, DriverError> {
    // Safety: the device is the context's own.
    let get = |attribute| unsafe { result::device::get_attribute(context.cu_device(), attribute) };
    Ok(Properties {
        multiprocessors: get(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)? as u32,
        compute_capability: (get(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)? * 10
            + get(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?) as u32,
        shared_bytes_per_block: get(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)? as u32,
        l2_bytes: get(Attribute::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE)? as u64,
    })
}

/// The table a kernel's module holds beside it, checked against the parameter struct of this build.
fn parse_config(table: &[u8], params_bytes: usize) -> std::result::Result<KernelConfig, String> {
    if table.len() != size_of::<KernelConfig>() {
        return Err(format!(
            "its constants take {} bytes in the module, {} in this build; build the crate again from clean",
            table.len(),
            size_of::<KernelConfig>()
        ));
    }
    // Safety: a struct of nine u32, any bytes are valid, and the length has been checked.
    let config: KernelConfig = unsafe { std::ptr::read_unaligned(table.as_ptr().cast()) };
    if config.params_bytes as usize != params_bytes {
        return Err(format!(
            "its parameters take {} bytes in the module, {params_bytes} in this build; build the crate again from clean",
            config.params_bytes
        ));
    }
    if config.threads == 0 || config.threads > 1024 || !config.threads.is_multiple_of(32) {
        return Err(format!("its constants ask for {} threads a block", config.threads));
    }
    Ok(config)
}

pub(super) fn built_without_nvcc(device: &str) -> Error {
    Error::Device {
        device: device.into(),
        problem: "this build of x2ct holds no CUDA kernels, because nvcc was not found when it was built".into(),
        hint: "`x2ct doctor` prints the command that installs nvcc; then build again".into(),
    }
}

fn cannot_load(device: &str, family: &str, compute_capability: u32, error: DriverError) -> Error {
    let targets = option_env!("X2CT_CUDA_TARGETS").unwrap_or("none");
    let arch = format!("{}.{}", compute_capability / 10, compute_capability % 10);
    let (problem, hint) = match error.0 {
        CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU | CUresult::CUDA_ERROR_INVALID_PTX => (
            format!("this GPU has compute capability {arch}, this build holds kernels for {targets}"),
            format!("build with X2CT_CUDA_ARCHS={compute_capability}"),
        ),
        CUresult::CUDA_ERROR_UNSUPPORTED_PTX_VERSION | CUresult::CUDA_ERROR_JIT_COMPILER_NOT_FOUND => (
            format!("the driver cannot compile the kernels for compute capability {arch}: {}", driver::words(error)),
            format!("update the driver, or build with X2CT_CUDA_ARCHS={compute_capability}"),
        ),
        _ => return driver::failed(device, &format!("load the kernels of {family}"), error),
    };
    Error::Device { device: device.into(), problem, hint }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(words: [u32; 9]) -> Vec<u8> {
        words.iter().flat_map(|w| w.to_ne_bytes()).collect()
    }

    #[test]
    fn constants_are_read_and_checked() {
        let config = parse_config(&table([256, 2, 49152, 40, 1, 7, 8, 9, 10]), 40).unwrap();
        assert_eq!((config.threads, config.min_blocks, config.shared_bytes), (256, 2, 49152));
        assert_eq!((config.params_bytes, config.cooperative, config.tile), (40, 1, [7, 8, 9, 10]));
        let short = parse_config(&table([256, 2, 0, 40, 0, 1, 1, 1, 1])[..32], 40).unwrap_err();
        assert!(short.contains("32 bytes in the module, 36 in this build"), "{short}");
        let other = parse_config(&table([256, 2, 0, 48, 0, 1, 1, 1, 1]), 40).unwrap_err();
        assert!(other.contains("48 bytes in the module, 40 in this build"), "{other}");
        assert!(parse_config(&table([250, 2, 0, 40, 0, 1, 1, 1, 1]), 40).unwrap_err().contains("250 threads"));
    }

    #[test]
    fn what_to_do_about_missing_kernels_is_said() {
        let text = built_without_nvcc("cuda:0").to_string();
        assert!(text.contains("nvcc was not found") && text.contains("`x2ct doctor` prints the command"), "{text}");
        let error = DriverError(CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU);
        let text = cannot_load("cuda:1", "drr", 75, error).to_string();
        assert!(text.starts_with("cuda:1: this GPU has compute capability 7.5"), "{text}");
        assert!(text.ends_with("build with X2CT_CUDA_ARCHS=75"), "{text}");
    }
}
