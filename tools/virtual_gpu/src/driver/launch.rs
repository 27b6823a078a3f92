//! Launches: what a driver checks of them, their parameters, and the run itself.

use super::context;
use super::device::{BLOCK_THREADS, SHARED_BY_DEFAULT, chip, has_clusters};
use super::error::{Code, Done};
use super::stream::{self, Work};
use super::{memory, module};
use crate::config::config;
use crate::launch::{Launch, run};
use crate::ptx::{Entry, Limits};
use module::Function;
use std::collections::BTreeSet;
use std::ffi::c_void;
use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::Instant;

/// Bytes of the memory through which the blocks of a cooperative launch meet.
const GRID_WORKSPACE: usize = 64;
/// Loads of parameters may read this much past their end, into what is not used.
const SLACK: usize = 32;

/// Kernels that were launched.
static LAUNCHED: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

/// What a program asks for.
pub struct Shape {
    pub grid: [u32; 3],
    pub block: [u32; 3],
    /// Dynamic shared memory of a block, bytes.
    pub shared: u32,
    pub cooperative: bool,
    /// Blocks of a cluster, where the launch says so.
    pub cluster: Option<[u32; 3]>,
}

/// `CUlaunchConfig`.
#[repr(C)]
pub struct Configuration {
    pub grid: [u32; 3],
    pub block: [u32; 3],
    /// Dynamic shared memory of a block, bytes.
    pub shared: u32,
    pub stream: *mut c_void,
    pub attributes: *const Attribute,
    pub count: u32,
}

/// `CUlaunchAttribute`: its number and its value, of which the first words are read here.
#[repr(C)]
pub struct Attribute {
    pub id: u32,
    pub padding: u32,
    pub value: [u32; 16],
}

/// Attributes of launches that mean something here, by their numbers in `CUlaunchAttributeID`, and those that change no result.
const IGNORE: u32 = 0;
const COOPERATIVE: u32 = 2;
const CLUSTER_DIMENSION: u32 = 4;
const HINTS: [u32; 9] = [1, 3, 5, 8, 9, 10, 11, 14, 16];

impl Configuration {
    /// The shape and the stream of a launch.
    ///
    /// # Safety
    /// `attributes` has `count` attributes.
    pub unsafe fn read(&self) -> Result<(Shape, *mut c_void), Code> {
        let Configuration { grid, block, shared, .. } = *self;
        let mut shape = Shape { grid, block, shared, cooperative: false, cluster: None };
        if self.count > 0 && self.attributes.is_null() {
            return Err(Code::INVALID_VALUE);
        }
        for number in 0..self.count as usize {
            // Safety: the caller's.
            let Attribute { id, value, .. } = unsafe { &*self.attributes.add(number) };
            match *id {
                COOPERATIVE => shape.cooperative = value[0] != 0,
                CLUSTER_DIMENSION => shape.cluster = Some([value[0], value[1], value[2]]),
                IGNORE => {}
                id if HINTS.contains(&id) => {}
                id => {
                    eprintln!("virtual_gpu: cuLaunchKernelEx: the launch attribute {id} is not known");
                    return Err(Code::NOT_SUPPORTED);
                }
            }
        }
        Ok((shape, self.stream))
    }
}

impl Shape {
    /// Blocks of a cluster in each dimension, by the launch or by the kernel, and whether one of them says so.
    fn clusters(&self, function: &Function, limits: &Limits) -> Result<([u32; 3], bool), Code> {
        let wrong = Err(Code::INVALID_CLUSTER_SIZE);
        let Some(size) = self.cluster.or(limits.cluster) else {
            return if limits.explicit_cluster { wrong } else { Ok(([1; 3], false)) };
        };
        if !has_clusters() {
            return Err(Code::NOT_SUPPORTED);
        }
        if size.contains(&0) || limits.cluster.is_some_and(|required| required != size) {
            return wrong;
        }
        let blocks = size.iter().map(|extent| *extent as u64).product::<u64>();
        let most = limits.max_cluster.unwrap_or(function.largest_cluster());
        let divides = [0, 1, 2].iter().all(|axis| self.grid[*axis].is_multiple_of(size[*axis]));
        if blocks > most as u64 || !divides { wrong } else { Ok((size, true)) }
    }

    /// Threads of a block, where the shape can be launched at all.
    fn threads(&self) -> Result<u32, Code> {
        let [x, y, z] = self.grid;
        let grid = x > 0 && y > 0 && z > 0 && x <= i32::MAX as u32 && y <= 65535 && z <= 65535;
        let [x, y, z] = self.block;
        let block = x > 0 && y > 0 && z > 0 && x <= BLOCK_THREADS && y <= BLOCK_THREADS && z <= 64;
        if grid && block { Ok(x * y * z) } else { Err(Code::INVALID_VALUE) }
    }

    fn blocks(&self) -> u64 {
        self.grid.iter().map(|extent| *extent as u64).product()
    }
}

/// Queues a launch.
///
/// # Safety
/// `params` has a pointer for each parameter, or `extra` is a list as `cuLaunchKernel` takes it.
pub unsafe fn queue(
    function: *mut c_void,
    shape: Shape,
    stream: *mut c_void,
    params: *const *const c_void,
    extra: *const *const c_void,
) -> Done {
    let function = module::find(function)?;
    let threads = shape.threads()?;
    if threads > function.threads.min(BLOCK_THREADS) {
        return Err(Code::LAUNCH_OUT_OF_RESOURCES);
    }
    let kernel = function.kernel()?;
    let unasked = SHARED_BY_DEFAULT.saturating_sub(kernel.static_shared as u32);
    if shape.shared > function.dynamic_limit().max(unasked) {
        return Err(Code::INVALID_VALUE);
    }
    if shape.cooperative {
        let resident = function.occupancy(threads, shape.shared as usize)? as u64 * chip().multiprocessors as u64;
        if shape.blocks() > resident {
            return Err(Code::COOPERATIVE_LAUNCH_TOO_LARGE);
        }
    }
    let entry = &function.module.ptx.entries[&function.name];
    let (cluster, explicit_cluster) = shape.clusters(&function, &entry.limits)?;
    let launch = Launch {
        kernel: kernel.clone(),
        module: function.module.ptx.clone(),
        grid: shape.grid,
        block: shape.block,
        dynamic_shared: shape.shared,
        // Safety: the caller's.
        params: unsafe { parameters(entry, params, extra) }?,
        cooperative: shape.cooperative,
        cluster,
        explicit_cluster,
    };
    stream::queue(stream, Work::Launch(Arc::new(launch)))
}

/// The parameters of a launch, one behind the other as the entry lays them out.
unsafe fn parameters(
    entry: &Entry,
    params: *const *const c_void,
    extra: *const *const c_void,
) -> Result<Vec<u8>, Code> {
    // Safety: the caller's.
    unsafe {
        let mut bytes = vec![0u8; entry.params_bytes + SLACK];
        bytes.truncate(entry.params_bytes);
        if !params.is_null() {
            for (number, param) in entry.params.iter().enumerate() {
                let from = *params.add(number) as *const u8;
                std::ptr::copy_nonoverlapping(from, bytes.as_mut_ptr().add(param.offset), param.bytes);
            }
        } else if !extra.is_null() {
            let (from, count) = packed(extra)?;
            std::ptr::copy_nonoverlapping(from, bytes.as_mut_ptr(), count.min(bytes.len()));
        } else if !entry.params.is_empty() {
            return Err(Code::INVALID_VALUE);
        }
        Ok(bytes)
    }
}

/// The buffer of a list of `CU_LAUNCH_PARAM_BUFFER_POINTER` and `CU_LAUNCH_PARAM_BUFFER_SIZE`, and its bytes.
unsafe fn packed(mut extra: *const *const c_void) -> Result<(*const u8, usize), Code> {
    // Safety: the caller's.
    unsafe {
        let (mut buffer, mut count) = (std::ptr::null(), 0);
        loop {
            match *extra as usize {
                0 => break,
                1 => buffer = *extra.add(1) as *const u8,
                2 => count = *(*extra.add(1) as *const usize),
                _ => return Err(Code::INVALID_VALUE),
            }
            extra = extra.add(2);
        }
        if buffer.is_null() { Err(Code::INVALID_VALUE) } else { Ok((buffer, count)) }
    }
}

/// Runs a launch whose turn has come.
pub fn perform(launch: &Arc<Launch>) -> Done {
    note(&launch.kernel.name);
    let workspace = if launch.cooperative { memory::allocate_zeros(GRID_WORKSPACE)? } else { 0 };
    let started = Instant::now();
    let outcome = run(launch, &config().options, memory::ranges(), workspace);
    if workspace != 0 {
        memory::release(workspace)?;
    }
    if config().trace {
        let milliseconds = started.elapsed().as_secs_f64() * 1e3;
        eprintln!("virtual_gpu: {} {:?} x {:?}: {milliseconds:.3} ms", launch.kernel.name, launch.grid, launch.block);
    }
    outcome.map_err(|problem| Code(problem.code))
}

fn note(kernel: &str) {
    if config().kernels.is_some() {
        let mut launched = LAUNCHED.lock().unwrap();
        if !launched.contains(kernel) {
            launched.insert(kernel.to_string());
        }
    }
}

/// What stands at the end of the process: the kernels launched, and what was left.
pub fn at_exit() {
    if context::active() {
        context::report_leaks("the process");
    }
    let Some(file) = &config().kernels else { return };
    let names: String = LAUNCHED.lock().unwrap().iter().map(|name| format!("{name}\n")).collect();
    let opened = std::fs::OpenOptions::new().append(true).create(true).open(file);
    if let Err(e) = opened.and_then(|mut file| file.write_all(names.as_bytes())) {
        eprintln!("virtual_gpu: {}: {e}", file.display());
    }
}
