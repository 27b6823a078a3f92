//! The CUDA driver interface on top of the executor: the table of its C functions. Each is one line; what it does stands in the
//! module of its subject. Functions that need a context return what a failed kernel left, as on a GPU.

mod context;
mod cublaslt;
mod device;
pub mod error;
mod event;
mod graph;
mod handles;
mod launch;
mod memory;
mod module;
mod stream;

pub use cublaslt::*;
pub use launch::at_exit;

use crate::config::config;
use error::{Code, Done, give, status};
use launch::Shape;
pub use launch::{Attribute, Configuration};
use memory::{Fill, Kind, Way};
use std::ffi::{c_char, c_int, c_uint, c_void};
use stream::Work;

type Pointer = *mut c_void;

/// Defines C functions that first ask `gate` whether they may run.
macro_rules! api {
    ($gate:path: $($name:ident($($argument:ident: $type:ty),*) $body:block)*) => {
        $(
            /// As the CUDA driver's documentation has it.
            ///
            /// # Safety
            /// Pointers are what that documentation asks for.
            #[unsafe(no_mangle)]
            #[allow(unused_unsafe, reason = "some functions only take numbers and handles")]
            pub unsafe extern "C" fn $name($($argument: $type),*) -> u32 {
                // Safety: the caller's.
                status($gate().and_then(|()| -> Done { unsafe { $body } }))
            }
        )*
    };
}

/// What a function may do at any time.
fn always() -> Done {
    Ok(())
}

// The driver and its errors.
api! { always:
    cuInit(flags: c_uint) { if flags == 0 { context::initialize() } else { Err(Code::INVALID_VALUE) } }
    cuDriverGetVersion(version: *mut c_int) { give(version, 13000) }
    cuGetErrorName(code: c_uint, text: *mut *const c_char) {
        let words = error::words(code);
        give(text, words.map_or(std::ptr::null(), |(name, _)| name.as_ptr()))?;
        words.map(|_| ()).ok_or(Code::INVALID_VALUE)
    }
    cuGetErrorString(code: c_uint, text: *mut *const c_char) {
        let words = error::words(code);
        give(text, words.map_or(std::ptr::null(), |(_, words)| words.as_ptr()))?;
        words.map(|_| ()).ok_or(Code::INVALID_VALUE)
    }
}

// Devices and contexts.
api! { context::initialized:
    cuDeviceGetCount(count: *mut c_int) { give(count, 1) }
    cuDeviceGet(device: *mut c_int, ordinal: c_int) { device::known(ordinal)?; give(device, ordinal) }
    cuDeviceGetName(name: *mut c_char, length: c_int, device: c_int) { device::known(device)?; device::name(name, length) }
    cuDeviceTotalMem_v2(bytes: *mut usize, device: c_int) { device::known(device)?; give(bytes, config().memory) }
    cuDeviceGetUuid(uuid: *mut u8, device: c_int) { device::known(device)?; device::uuid(uuid) }
    cuDeviceGetUuid_v2(uuid: *mut u8, device: c_int) { device::known(device)?; device::uuid(uuid) }
    cuDeviceGetAttribute(value: *mut c_int, attribute: c_uint, device: c_int) {
        device::known(device)?; give(value, device::attribute(attribute))
    }
    cuDevicePrimaryCtxRetain(context: *mut Pointer, device: c_int) { device::known(device)?; give(context, context::retain()?) }
    cuDevicePrimaryCtxRelease_v2(device: c_int) { device::known(device)?; context::release() }
    cuDevicePrimaryCtxGetState(device: c_int, flags: *mut c_uint, active: *mut c_int) {
        device::known(device)?; give(flags, 0)?; give(active, context::active() as c_int)
    }
    cuCtxSetCurrent(context: Pointer) { context::set_current(context) }
    cuCtxGetCurrent(context: *mut Pointer) { give(context, context::current()) }
    cuDeviceGetDefaultMemPool(pool: *mut Pointer, device: c_int) { device::known(device)?; give(pool, memory::POOL) }
    cuDeviceGetMemPool(pool: *mut Pointer, device: c_int) { device::known(device)?; give(pool, memory::POOL) }
    cuDeviceSetMemPool(device: c_int, pool: Pointer) { device::known(device)?; memory::known_pool(pool) }
}
api! { context::usable:
    cuCtxGetDevice(device: *mut c_int) { give(device, 0) }
    cuCtxSynchronize() { stream::potentially_unsafe()?; stream::wait_for_all() }
    cuCtxSetFlags(_flags: c_uint) { Ok(()) }
}

// Memory.
api! { context::usable:
    cuMemGetInfo_v2(free: *mut usize, total: *mut usize) {
        give(free, config().memory - memory::used())?; give(total, config().memory)
    }
    cuMemAlloc_v2(address: *mut u64, bytes: usize) {
        stream::potentially_unsafe()?; give(address, memory::allocate(bytes, Kind::Plain)?)
    }
    cuMemFree_v2(address: u64) { stream::potentially_unsafe()?; memory::free(address) }
    cuMemAllocAsync(address: *mut u64, bytes: usize, stream: Pointer) {
        stream::not_capturing(stream)?; give(address, memory::allocate(bytes, Kind::Pool)?)
    }
    cuMemAllocFromPoolAsync(address: *mut u64, bytes: usize, pool: Pointer, stream: Pointer) {
        memory::known_pool(pool)?; stream::not_capturing(stream)?; give(address, memory::allocate(bytes, Kind::Pool)?)
    }
    cuMemFreeAsync(address: u64, stream: Pointer) { memory::free_async(address, stream) }
    cuMemPoolCreate(pool: *mut Pointer, _properties: *const c_void) { give(pool, memory::new_pool()) }
    cuMemPoolDestroy(pool: Pointer) { memory::destroy_pool(pool) }
    cuMemPoolSetAttribute(pool: Pointer, attribute: c_uint, _value: Pointer) { memory::known_pool(pool)?; memory::pool_attribute(attribute).map(|_| ()) }
    cuMemPoolGetAttribute(pool: Pointer, attribute: c_uint, value: *mut u64) {
        memory::known_pool(pool)?; give(value, memory::pool_attribute(attribute)?)
    }
    cuMemPoolTrimTo(pool: Pointer, _bytes: usize) { memory::known_pool(pool) }
    cuMemHostAlloc(address: *mut Pointer, bytes: usize, _flags: c_uint) {
        stream::potentially_unsafe()?; give(address, memory::allocate(bytes, Kind::Host)? as Pointer)
    }
    cuMemFreeHost(address: Pointer) { stream::potentially_unsafe()?; memory::free_host(address) }
    cuMemcpyHtoD_v2(to: u64, from: Pointer, bytes: usize) { memory::copy(to, from as u64, bytes, Way::ToDevice) }
    cuMemcpyDtoH_v2(to: Pointer, from: u64, bytes: usize) { memory::copy(to as u64, from, bytes, Way::ToHost) }
    cuMemcpyDtoD_v2(to: u64, from: u64, bytes: usize) { memory::copy(to, from, bytes, Way::Within) }
    cuMemcpy(to: u64, from: u64, bytes: usize) { memory::copy(to, from, bytes, Way::Unified) }
    cuMemcpyHtoDAsync_v2(to: u64, from: Pointer, bytes: usize, stream: Pointer) {
        memory::copy_async(to, from as u64, bytes, Way::ToDevice, stream)
    }
    cuMemcpyDtoHAsync_v2(to: Pointer, from: u64, bytes: usize, stream: Pointer) {
        memory::copy_async(to as u64, from, bytes, Way::ToHost, stream)
    }
    cuMemcpyDtoDAsync_v2(to: u64, from: u64, bytes: usize, stream: Pointer) { memory::copy_async(to, from, bytes, Way::Within, stream) }
    cuMemcpyAsync(to: u64, from: u64, bytes: usize, stream: Pointer) { memory::copy_async(to, from, bytes, Way::Unified, stream) }
    cuMemsetD8_v2(to: u64, value: u8, count: usize) { memory::fill(to, value as u32, 1, count) }
    cuMemsetD16_v2(to: u64, value: u16, count: usize) { memory::fill(to, value as u32, 2, count) }
    cuMemsetD32_v2(to: u64, value: u32, count: usize) { memory::fill(to, value, 4, count) }
    cuMemsetD8Async(to: u64, value: u8, count: usize, stream: Pointer) {
        stream::queue(stream, Work::Fill(Fill::new(to, value as u32, 1, count)?))
    }
    cuMemsetD16Async(to: u64, value: u16, count: usize, stream: Pointer) {
        stream::queue(stream, Work::Fill(Fill::new(to, value as u32, 2, count)?))
    }
    cuMemsetD32Async(to: u64, value: u32, count: usize, stream: Pointer) {
        stream::queue(stream, Work::Fill(Fill::new(to, value, 4, count)?))
    }
}

// Streams, events and graphs.
api! { context::usable:
    cuStreamCreate(stream: *mut Pointer, flags: c_uint) { give(stream, stream::create(flags)?) }
    cuStreamCreateWithPriority(stream: *mut Pointer, flags: c_uint, _priority: c_int) { give(stream, stream::create(flags)?) }
    cuStreamDestroy_v2(stream: Pointer) { stream::destroy(stream) }
    cuStreamSynchronize(stream: Pointer) { stream::synchronize(stream) }
    cuStreamQuery(stream: Pointer) { stream::query(stream) }
    cuStreamWaitEvent(stream: Pointer, event: Pointer, _flags: c_uint) { event::wait(stream, event) }
    cuStreamBeginCapture_v2(stream: Pointer, mode: c_uint) { graph::begin(stream, mode) }
    cuStreamEndCapture(stream: Pointer, graph: *mut Pointer) { give(graph, std::ptr::null_mut())?; give(graph, graph::end(stream)?) }
    cuStreamIsCapturing(stream: Pointer, state: *mut c_uint) { give(state, graph::status(stream)?) }
    cuThreadExchangeStreamCaptureMode(mode: *mut c_uint) {
        if mode.is_null() { return Err(Code::INVALID_VALUE); }
        give(mode, graph::exchange_mode(*mode)?)
    }
    cuLaunchHostFunc(stream: Pointer, function: Option<unsafe extern "C" fn(Pointer)>, argument: Pointer) {
        let function = function.ok_or(Code::INVALID_VALUE)?;
        let argument = argument as usize;
        // Safety: the caller vouches for function and argument until the stream has come to them.
        stream::queue(stream, Work::Call(std::sync::Arc::new(move || unsafe { function(argument as Pointer) })))
    }
    cuEventCreate(event: *mut Pointer, flags: c_uint) { give(event, event::create(flags)?) }
    cuEventDestroy_v2(event: Pointer) { event::destroy(event) }
    cuEventRecord(event: Pointer, stream: Pointer) { event::record(event, stream) }
    cuEventQuery(event: Pointer) { event::query(event) }
    cuEventSynchronize(event: Pointer) { event::synchronize(event) }
    cuEventElapsedTime(milliseconds: *mut f32, from: Pointer, to: Pointer) { event::elapsed(milliseconds, from, to) }
    cuEventElapsedTime_v2(milliseconds: *mut f32, from: Pointer, to: Pointer) { event::elapsed(milliseconds, from, to) }
    cuGraphInstantiateWithFlags(executable: *mut Pointer, graph: Pointer, _flags: u64) { give(executable, graph::instantiate(graph)?) }
    cuGraphDestroy(graph: Pointer) { graph::destroy(graph) }
    cuGraphExecDestroy(executable: Pointer) { graph::destroy_executable(executable) }
    cuGraphUpload(executable: Pointer, stream: Pointer) { graph::upload(executable, stream) }
    cuGraphLaunch(executable: Pointer, stream: Pointer) { graph::launch(executable, stream) }
}

// Modules, functions and launches.
api! { context::usable:
    cuModuleLoadData(module: *mut Pointer, image: *const c_char) { stream::potentially_unsafe()?; give(module, module::load(image)?) }
    cuModuleUnload(module: Pointer) { stream::potentially_unsafe()?; module::unload(module) }
    cuModuleGetGlobal_v2(address: *mut u64, bytes: *mut usize, module: Pointer, name: *const c_char) {
        module::variable(address, bytes, module, name)
    }
    cuModuleGetFunction(function: *mut Pointer, module: Pointer, name: *const c_char) { give(function, module::function(module, name)?) }
    cuFuncSetAttribute(function: Pointer, attribute: c_uint, value: c_int) { module::find(function)?.set_attribute(attribute, value) }
    cuFuncGetAttribute(value: *mut c_int, attribute: c_uint, function: Pointer) { give(value, module::find(function)?.attribute(attribute)?) }
    cuFuncSetCacheConfig(function: Pointer, _config: c_uint) { module::find(function).map(|_| ()) }
    cuOccupancyMaxActiveBlocksPerMultiprocessor(blocks: *mut c_int, function: Pointer, threads: c_int, shared: usize) {
        give(blocks, module::find(function)?.occupancy(threads.max(0) as u32, shared)? as c_int)
    }
    cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(blocks: *mut c_int, function: Pointer, threads: c_int, shared: usize, _flags: c_uint) {
        give(blocks, module::find(function)?.occupancy(threads.max(0) as u32, shared)? as c_int)
    }
    cuLaunchKernel(function: Pointer, gx: c_uint, gy: c_uint, gz: c_uint, bx: c_uint, by: c_uint, bz: c_uint, shared: c_uint, stream: Pointer, params: *mut Pointer, extra: *mut Pointer) {
        let shape = Shape { grid: [gx, gy, gz], block: [bx, by, bz], shared, cooperative: false, cluster: None };
        launch::queue(function, shape, stream, params as _, extra as _)
    }
    cuLaunchCooperativeKernel(function: Pointer, gx: c_uint, gy: c_uint, gz: c_uint, bx: c_uint, by: c_uint, bz: c_uint, shared: c_uint, stream: Pointer, params: *mut Pointer) {
        let shape = Shape { grid: [gx, gy, gz], block: [bx, by, bz], shared, cooperative: true, cluster: None };
        launch::queue(function, shape, stream, params as _, std::ptr::null())
    }
    cuLaunchKernelEx(configuration: *const Configuration, function: Pointer, params: *mut Pointer, extra: *mut Pointer) {
        if configuration.is_null() { return Err(Code::INVALID_VALUE); }
        let (shape, stream) = (*configuration).read()?;
        launch::queue(function, shape, stream, params as _, extra as _)
    }
}
