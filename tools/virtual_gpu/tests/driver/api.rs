//! The C functions of the driver that the tests call.

use std::ffi::{c_char, c_int, c_uint, c_void};

// The library whose functions are declared below.
pub use virtual_gpu::driver::{Attribute, Configuration};

pub type Handle = *mut c_void;

unsafe extern "C" {
    pub fn cuInit(flags: c_uint) -> u32;
    pub fn cuDriverGetVersion(version: *mut c_int) -> u32;
    pub fn cuGetErrorName(code: c_uint, text: *mut *const c_char) -> u32;
    pub fn cuGetErrorString(code: c_uint, text: *mut *const c_char) -> u32;
    pub fn cuDeviceGetCount(count: *mut c_int) -> u32;
    pub fn cuDeviceGet(device: *mut c_int, ordinal: c_int) -> u32;
    pub fn cuDeviceGetName(name: *mut c_char, length: c_int, device: c_int) -> u32;
    pub fn cuDeviceTotalMem_v2(bytes: *mut usize, device: c_int) -> u32;
    pub fn cuDeviceGetUuid_v2(uuid: *mut u8, device: c_int) -> u32;
    pub fn cuDeviceGetAttribute(value: *mut c_int, attribute: c_uint, device: c_int) -> u32;
    pub fn cuDevicePrimaryCtxRetain(context: *mut Handle, device: c_int) -> u32;
    pub fn cuDevicePrimaryCtxRelease_v2(device: c_int) -> u32;
    pub fn cuDevicePrimaryCtxGetState(device: c_int, flags: *mut c_uint, active: *mut c_int) -> u32;
    pub fn cuCtxSetCurrent(context: Handle) -> u32;
    pub fn cuCtxGetCurrent(context: *mut Handle) -> u32;
    pub fn cuCtxGetDevice(device: *mut c_int) -> u32;
    pub fn cuCtxSynchronize() -> u32;
    pub fn cuMemGetInfo_v2(free: *mut usize, total: *mut usize) -> u32;
    pub fn cuMemAlloc_v2(address: *mut u64, bytes: usize) -> u32;
    pub fn cuMemFree_v2(address: u64) -> u32;
    pub fn cuMemAllocAsync(address: *mut u64, bytes: usize, stream: Handle) -> u32;
    pub fn cuMemAllocFromPoolAsync(address: *mut u64, bytes: usize, pool: Handle, stream: Handle) -> u32;
    pub fn cuMemFreeAsync(address: u64, stream: Handle) -> u32;
    pub fn cuMemPoolCreate(pool: *mut Handle, properties: *const c_void) -> u32;
    pub fn cuMemPoolDestroy(pool: Handle) -> u32;
    pub fn cuMemPoolSetAttribute(pool: Handle, attribute: c_uint, value: Handle) -> u32;
    pub fn cuMemPoolGetAttribute(pool: Handle, attribute: c_uint, value: *mut u64) -> u32;
    pub fn cuMemPoolTrimTo(pool: Handle, bytes: usize) -> u32;
    pub fn cuDeviceGetDefaultMemPool(pool: *mut Handle, device: c_int) -> u32;
    pub fn cuMemHostAlloc(address: *mut Handle, bytes: usize, flags: c_uint) -> u32;
    pub fn cuMemFreeHost(address: Handle) -> u32;
    pub fn cuMemcpyHtoD_v2(to: u64, from: *const c_void, bytes: usize) -> u32;
    pub fn cuMemcpyDtoH_v2(to: Handle, from: u64, bytes: usize) -> u32;
    pub fn cuMemcpyDtoD_v2(to: u64, from: u64, bytes: usize) -> u32;
    pub fn cuMemcpy(to: u64, from: u64, bytes: usize) -> u32;
    pub fn cuMemcpyHtoDAsync_v2(to: u64, from: *const c_void, bytes: usize, stream: Handle) -> u32;
    pub fn cuMemcpyDtoHAsync_v2(to: Handle, from: u64, bytes: usize, stream: Handle) -> u32;
    pub fn cuMemcpyDtoDAsync_v2(to: u64, from: u64, bytes: usize, stream: Handle) -> u32;
    pub fn cuMemcpyAsync(to: u64, from: u64, bytes: usize, stream: Handle) -> u32;
    pub fn cuMemsetD8_v2(to: u64, value: u8, count: usize) -> u32;
    pub fn cuMemsetD16_v2(to: u64, value: u16, count: usize) -> u32;
    pub fn cuMemsetD32_v2(to: u64, value: u32, count: usize) -> u32;
    pub fn cuMemsetD8Async(to: u64, value: u8, count: usize, stream: Handle) -> u32;
    pub fn cuMemsetD16Async(to: u64, value: u16, count: usize, stream: Handle) -> u32;
    pub fn cuMemsetD32Async(to: u64, value: u32, count: usize, stream: Handle) -> u32;
    pub fn cuStreamCreate(stream: *mut Handle, flags: c_uint) -> u32;
    pub fn cuStreamCreateWithPriority(stream: *mut Handle, flags: c_uint, priority: c_int) -> u32;
    pub fn cuStreamDestroy_v2(stream: Handle) -> u32;
    pub fn cuStreamSynchronize(stream: Handle) -> u32;
    pub fn cuStreamQuery(stream: Handle) -> u32;
    pub fn cuStreamWaitEvent(stream: Handle, event: Handle, flags: c_uint) -> u32;
    pub fn cuStreamBeginCapture_v2(stream: Handle, mode: c_uint) -> u32;
    pub fn cuStreamEndCapture(stream: Handle, graph: *mut Handle) -> u32;
    pub fn cuStreamIsCapturing(stream: Handle, state: *mut c_uint) -> u32;
    pub fn cuThreadExchangeStreamCaptureMode(mode: *mut c_uint) -> u32;
    pub fn cuLaunchHostFunc(stream: Handle, function: Option<unsafe extern "C" fn(Handle)>, argument: Handle) -> u32;
    pub fn cuEventCreate(event: *mut Handle, flags: c_uint) -> u32;
    pub fn cuEventDestroy_v2(event: Handle) -> u32;
    pub fn cuEventRecord(event: Handle, stream: Handle) -> u32;
    pub fn cuEventQuery(event: Handle) -> u32;
    pub fn cuEventSynchronize(event: Handle) -> u32;
    pub fn cuEventElapsedTime_v2(milliseconds: *mut f32, from: Handle, to: Handle) -> u32;
    pub fn cuGraphInstantiateWithFlags(executable: *mut Handle, graph: Handle, flags: u64) -> u32;
    pub fn cuGraphDestroy(graph: Handle) -> u32;
    pub fn cuGraphExecDestroy(executable: Handle) -> u32;
    pub fn cuGraphUpload(executable: Handle, stream: Handle) -> u32;
    pub fn cuGraphLaunch(executable: Handle, stream: Handle) -> u32;
    pub fn cuModuleLoadData(module: *mut Handle, image: *const c_char) -> u32;
    pub fn cuModuleUnload(module: Handle) -> u32;
    pub fn cuModuleGetGlobal_v2(address: *mut u64, bytes: *mut usize, module: Handle, name: *const c_char) -> u32;
    pub fn cuModuleGetFunction(function: *mut Handle, module: Handle, name: *const c_char) -> u32;
    pub fn cuFuncSetAttribute(function: Handle, attribute: c_uint, value: c_int) -> u32;
    pub fn cuFuncGetAttribute(value: *mut c_int, attribute: c_uint, function: Handle) -> u32;
    pub fn cuFuncSetCacheConfig(function: Handle, config: c_uint) -> u32;
    pub fn cuOccupancyMaxActiveBlocksPerMultiprocessor(
        blocks: *mut c_int,
        function: Handle,
        threads: c_int,
        shared: usize,
    ) -> u32;
    #[allow(clippy::too_many_arguments, reason = "the signature of the driver")]
    pub fn cuLaunchKernel(
        function: Handle,
        grid_x: c_uint,
        grid_y: c_uint,
        grid_z: c_uint,
        block_x: c_uint,
        block_y: c_uint,
        block_z: c_uint,
        shared: c_uint,
        stream: Handle,
        params: *mut Handle,
        extra: *mut Handle,
    ) -> u32;
    #[allow(clippy::too_many_arguments, reason = "the signature of the driver")]
    pub fn cuLaunchCooperativeKernel(
        function: Handle,
        grid_x: c_uint,
        grid_y: c_uint,
        grid_z: c_uint,
        block_x: c_uint,
        block_y: c_uint,
        block_z: c_uint,
        shared: c_uint,
        stream: Handle,
        params: *mut Handle,
    ) -> u32;
    pub fn cuLaunchKernelEx(
        configuration: *const Configuration,
        function: Handle,
        params: *mut Handle,
        extra: *mut Handle,
    ) -> u32;
    pub fn cublasLtMatmulDescCreate(description: *mut Handle, compute: u32, scale: u32) -> u32;
    pub fn cublasLtMatmulDescSetAttribute(
        description: Handle,
        attribute: u32,
        value: *const c_void,
        bytes: usize,
    ) -> u32;
    pub fn cublasLtMatrixLayoutCreate(layout: *mut Handle, element: u32, rows: u64, columns: u64, stride: i64) -> u32;
    #[allow(clippy::too_many_arguments, reason = "the signature of the library")]
    pub fn cublasLtMatmul(
        handle: Handle,
        description: Handle,
        alpha: *const f32,
        a: u64,
        a_layout: Handle,
        b: u64,
        b_layout: Handle,
        beta: *const f32,
        c: u64,
        c_layout: Handle,
        out: u64,
        out_layout: Handle,
        algorithm: Handle,
        workspace: Handle,
        workspace_bytes: usize,
        stream: Handle,
    ) -> u32;
}
