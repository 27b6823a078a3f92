//! Modules: PTX, its variables in the device's memory, its functions with their attributes, and their occupancy.

use super::device::{self, chip};
use super::error::{Code, Done, give};
use super::handles::Handles;
use super::{memory, stream};
use crate::config::{config, replaced};
use crate::count::registers;
use crate::lower::{self, Kernel};
use crate::ptx::{self, fatbin};
use std::collections::HashMap;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Instant;

/// A loaded module.
pub struct Module {
    pub ptx: Arc<ptx::Module>,
    /// Address and bytes of each variable.
    variables: HashMap<String, (u64, usize)>,
    /// Handles of the functions that were asked for.
    functions: Mutex<HashMap<String, usize>>,
}

impl Drop for Module {
    fn drop(&mut self) {
        for (address, _) in self.variables.values() {
            let _ = memory::release(*address);
        }
    }
}

/// A kernel of a module.
pub struct Function {
    pub module: Arc<Module>,
    pub name: String,
    kernel: OnceLock<Option<Arc<Kernel>>>,
    /// Dynamic shared memory that a launch may ask for, bytes.
    dynamic_limit: AtomicU32,
    /// Whether a launch may ask for clusters that not every chip has.
    wide_clusters: AtomicBool,
    /// Threads of a block at most, by the launch bounds.
    pub threads: u32,
    /// Registers of a thread.
    registers: u32,
}

static MODULES: Handles<Module> = Handles::new();
static FUNCTIONS: Handles<Function> = Handles::new();

/// `cuModuleLoadData`: the handle of the module in a fatbin or a PTX text.
///
/// # Safety
/// `image` is a whole fatbin or a text with its end.
pub unsafe fn load(image: *const c_char) -> Result<*mut c_void, Code> {
    if image.is_null() {
        return Err(Code::INVALID_VALUE);
    }
    let failed = |code: Code| {
        move |problem: &dyn std::fmt::Display| {
            eprintln!("virtual_gpu: {problem}");
            code
        }
    };
    // Safety: the caller's.
    let text = unsafe { fatbin::ptx(image.cast(), config().arch.capability()) }
        .map_err(|problem| failed(Code::NO_BINARY_FOR_GPU)(&problem))?;
    let ptx = ptx::Module::parse(replaced(text)).map_err(|problem| failed(Code::INVALID_PTX)(&problem))?;
    let mut variables = HashMap::new();
    for variable in &ptx.globals {
        let address = memory::allocate_zeros(variable.bytes)?;
        let filled = variable.init.len().min(variable.bytes);
        // Safety: the variable was allocated with as many bytes at least.
        unsafe { std::ptr::copy_nonoverlapping(variable.init.as_ptr(), address as *mut u8, filled) };
        variables.insert(variable.name.clone(), (address, variable.bytes));
    }
    for variable in &ptx.globals {
        for held in &variable.addresses {
            let (address, _) = variables.get(&held.name).ok_or(Code::NOT_FOUND)?;
            let (start, _) = variables[&variable.name];
            let value = address.wrapping_add_signed(held.offset);
            // Safety: the parser has found the place in the variable.
            unsafe { ((start + held.at as u64) as *mut u64).write_unaligned(value) };
        }
    }
    let module = Arc::new(Module { ptx: Arc::new(ptx), variables, functions: Mutex::default() });
    let names: Vec<String> = if config().eager { module.ptx.entries.keys().cloned().collect() } else { Vec::new() };
    let handle = MODULES.add(module);
    for name in names {
        FUNCTIONS.get(function_of(handle, &name)?)?.kernel()?;
    }
    Ok(handle)
}

/// `cuModuleUnload`: waits for the device, then frees the module's variables and forgets its functions.
pub fn unload(handle: *mut c_void) -> Done {
    let module = MODULES.get(handle)?;
    stream::wait_for_all()?;
    MODULES.remove(handle)?;
    FUNCTIONS.retain(|function| !Arc::ptr_eq(&function.module, &module));
    Ok(())
}

/// `cuModuleGetGlobal`: the address and the bytes of a variable, each where it is wanted.
///
/// # Safety
/// The pointers are null or may be written; `name` is a text with its end.
pub unsafe fn variable(address: *mut u64, bytes: *mut usize, module: *mut c_void, name: *const c_char) -> Done {
    // Safety: the caller's.
    unsafe {
        let module = MODULES.get(module)?;
        let name = text(name)?;
        let (found, size) = module.variables.get(&name).ok_or(Code::NOT_FOUND)?;
        if !address.is_null() {
            give(address, *found)?;
        }
        if !bytes.is_null() {
            give(bytes, *size)?;
        }
        Ok(())
    }
}

unsafe fn text(name: *const c_char) -> Result<String, Code> {
    // Safety: the caller's.
    unsafe {
        if name.is_null() {
            return Err(Code::INVALID_VALUE);
        }
        Ok(CStr::from_ptr(name).to_string_lossy().into_owned())
    }
}

/// `cuModuleGetFunction`.
///
/// # Safety
/// `name` is a text with its end.
pub unsafe fn function(module: *mut c_void, name: *const c_char) -> Result<*mut c_void, Code> {
    // Safety: the caller's.
    unsafe { function_of(module, &text(name)?) }
}

fn function_of(module: *mut c_void, name: &str) -> Result<*mut c_void, Code> {
    let module = MODULES.get(module)?;
    let mut known = module.functions.lock().unwrap();
    if let Some(handle) = known.get(name) {
        return Ok(*handle as *mut c_void);
    }
    let entry = module.ptx.entries.get(name).ok_or(Code::NOT_FOUND)?;
    let bounds = Bounds::of(&entry.limits);
    let function = Function {
        module: module.clone(),
        name: name.to_string(),
        kernel: OnceLock::new(),
        dynamic_limit: AtomicU32::new(device::SHARED_BY_DEFAULT),
        wide_clusters: AtomicBool::new(false),
        threads: bounds.threads,
        registers: registers(name, config().arch.capability()).unwrap_or_else(|| bounds.registers()),
    };
    let handle = FUNCTIONS.add(Arc::new(function));
    known.insert(name.to_string(), handle as usize);
    Ok(handle)
}

/// What a handle of a function stands for.
pub fn find(handle: *mut c_void) -> Result<Arc<Function>, Code> {
    FUNCTIONS.get(handle)
}

/// What the directives of an entry say of launches.
struct Bounds {
    /// `.maxntid` or `.reqntid`, multiplied.
    threads: u32,
    /// `.minnctapersm`.
    blocks: u32,
    /// `.maxnreg`.
    registers: Option<u32>,
}

impl Bounds {
    fn of(limits: &ptx::Limits) -> Self {
        Bounds {
            threads: limits.threads().filter(|threads| *threads > 0).unwrap_or(device::BLOCK_THREADS),
            blocks: limits.min_blocks.filter(|blocks| *blocks > 0).unwrap_or(1),
            registers: limits.max_registers,
        }
    }

    /// As many registers as ptxas may give a thread: PTX does not say how many it takes.
    fn registers(&self) -> u32 {
        let shared_out = (chip().registers / (self.threads.next_multiple_of(32) * self.blocks)) & !7;
        self.registers.unwrap_or(shared_out).clamp(16, 255)
    }
}

impl Function {
    /// The kernel, compiled when it is first asked for.
    pub fn kernel(&self) -> Result<&Arc<Kernel>, Code> {
        let compiled = self.kernel.get_or_init(|| {
            let started = Instant::now();
            let addresses = self.module.variables.iter().map(|(name, (address, _))| (name.clone(), *address)).collect();
            match lower::compile(&self.module.ptx, &addresses, &self.name) {
                Err(problem) => {
                    eprintln!("virtual_gpu: {} cannot be compiled: {problem}", self.name);
                    None
                }
                Ok(kernel) => {
                    if config().trace {
                        let (milliseconds, count) = (started.elapsed().as_secs_f64() * 1e3, kernel.code.len());
                        eprintln!("virtual_gpu: {} compiled in {milliseconds:.1} ms: {count} instructions", self.name);
                    }
                    Some(Arc::new(kernel))
                }
            }
        });
        compiled.as_ref().ok_or(Code::INVALID_PTX)
    }

    fn limits(&self) -> &ptx::Limits {
        &self.module.ptx.entries[&self.name].limits
    }

    /// Blocks of a cluster at most: 8 everywhere, 16 on this chip where the program has asked for it.
    pub fn largest_cluster(&self) -> u32 {
        if self.wide_clusters.load(Ordering::Relaxed) { 16 } else { 8 }
    }

    /// Dynamic shared memory that a launch may ask for, bytes.
    pub fn dynamic_limit(&self) -> u32 {
        self.dynamic_limit.load(Ordering::Relaxed)
    }

    /// An attribute by its number in `CUfunction_attribute`.
    pub fn attribute(&self, number: u32) -> Result<c_int, Code> {
        let value = match number {
            0 => self.threads,                        // MAX_THREADS_PER_BLOCK
            1 => self.kernel()?.static_shared as u32, // SHARED_SIZE_BYTES
            3 => self.kernel()?.local_bytes as u32,   // LOCAL_SIZE_BYTES
            4 => self.registers,                      // NUM_REGS
            5 | 6 => config().arch.capability(),      // PTX_VERSION, BINARY_VERSION
            8 => self.dynamic_limit(),                // MAX_DYNAMIC_SHARED_SIZE_BYTES
            10 => self.limits().cluster.is_some() as u32 | self.limits().explicit_cluster as u32, // CLUSTER_SIZE_MUST_BE_SET
            11..=13 => self.limits().cluster.map_or(0, |size| size[number as usize - 11]),        // REQUIRED_CLUSTER_*
            14 => self.wide_clusters.load(Ordering::Relaxed) as u32, // NON_PORTABLE_CLUSTER_SIZE_ALLOWED
            2 | 7 | 9 | 15 => 0,
            _ => return Err(Code::INVALID_VALUE),
        };
        Ok(value as c_int)
    }

    /// Sets an attribute. The carveout of shared memory is a hint that nothing follows from.
    pub fn set_attribute(&self, number: u32, value: c_int) -> Done {
        match number {
            8 => {
                let most = chip().shared_of_block.saturating_sub(self.kernel()?.static_shared as u32);
                let bytes = u32::try_from(value).ok().filter(|bytes| *bytes <= most).ok_or(Code::INVALID_VALUE)?;
                self.dynamic_limit.store(bytes, Ordering::Relaxed);
                Ok(())
            }
            9 => Ok(()),
            14 => {
                self.wide_clusters.store(value != 0, Ordering::Relaxed);
                Ok(())
            }
            _ => Err(Code::INVALID_VALUE),
        }
    }

    /// Blocks that a multiprocessor holds at a time, by threads, registers and shared memory.
    pub fn occupancy(&self, threads: u32, dynamic: usize) -> Result<u32, Code> {
        if threads == 0 {
            return Err(Code::INVALID_VALUE);
        }
        if threads > self.threads {
            return Ok(0);
        }
        let shared = (self.kernel()?.static_shared + dynamic).next_multiple_of(128);
        if shared > chip().shared_of_block as usize {
            return Ok(0);
        }
        Ok(chip().resident_blocks(threads, shared as u32, self.registers))
    }
}

/// A line that names the modules that were not unloaded.
pub fn left() -> Option<String> {
    MODULES.left("module")
}

/// Forgets every module and function.
pub fn forget_all() {
    FUNCTIONS.clear();
    MODULES.clear();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn launch_bounds_are_multiplied_and_registers_follow() {
        let of = |directives: &str| {
            let text = format!(".visible .entry k(.param .b64 p)\n{directives}{{ ret; }}");
            Bounds::of(&ptx::Module::parse(text).unwrap().entries["k"].limits)
        };
        let bounds = of(".maxntid 16, 8, 2\n.minnctapersm 4\n");
        assert_eq!((bounds.threads, bounds.blocks, bounds.registers()), (256, 4, 64));
        let bounds = of(".reqntid 96\n.maxnreg 40\n");
        assert_eq!((bounds.threads, bounds.registers()), (96, 40));
        let bounds = of("");
        assert_eq!((bounds.threads, bounds.registers()), (1024, 64));
    }
}
