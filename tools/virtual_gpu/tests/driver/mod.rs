//! Tests of the driver interface by its C functions: contexts, memory, streams, events, graphs, modules, launches and products.
//!
//! The device is one for the process, and whoever waits may run what others queued. Tests that look at what has not run yet, that
//! need settings or break the context run in a process of their own ([`alone`]).

mod context;
mod cublaslt;
mod graphs;
mod memory;
mod modules;
mod streams;

use crate::common::api::*;
use std::ffi::CString;
use std::process::Command;
use std::ptr::null_mut;

pub const OK: u32 = 0;
pub const INVALID_VALUE: u32 = 1;
pub const OUT_OF_MEMORY: u32 = 2;
pub const INVALID_HANDLE: u32 = 400;
pub const ILLEGAL_STATE: u32 = 401;
pub const NOT_READY: u32 = 600;

/// Set in the process of a test that runs alone.
const ALONE: &str = "X2CT_TEST_ALONE";

/// Runs a test's body in a process of its own with settings; what that process printed. `test` is its path in this binary.
pub fn alone(test: &str, settings: &[(&str, &str)], body: fn()) -> String {
    if std::env::var_os(ALONE).is_some() {
        body();
        return String::new();
    }
    let run = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(ALONE, "1")
        .envs(settings.iter().copied())
        .output()
        .unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr));
    assert!(run.status.success() && text.contains("1 passed"), "{test} with {settings:?}:\n{text}");
    text
}

/// Whether this is the process of a test that runs alone.
fn is_alone() -> bool {
    std::env::var_os(ALONE).is_some()
}

/// Makes the context current on this thread.
fn attach() {
    // Safety: pointers to locals.
    unsafe {
        assert_eq!(cuInit(0), OK);
        let mut context = null_mut();
        assert_eq!(cuDevicePrimaryCtxRetain(&mut context, 0), OK);
        assert_eq!(cuCtxSetCurrent(context), OK);
    }
}

/// Memory of `count` words, filled with `value`.
fn words(count: usize, value: u32) -> u64 {
    let mut address = 0;
    // Safety: a pointer to a local; the fill is as long as the allocation, and has run when the copy returns.
    unsafe {
        assert_eq!(cuMemAlloc_v2(&mut address, 4 * count), OK);
        assert_eq!(cuMemsetD32_v2(address, value, count), OK);
        let mut first = 0u32;
        assert_eq!(cuMemcpyDtoH_v2((&raw mut first).cast(), address, 4), OK);
    }
    address
}

/// What `count` words hold once `stream` has run.
fn read_after(stream: Handle, address: u64, count: usize) -> Vec<u32> {
    let mut values = vec![0u32; count];
    // Safety: the values are as long as the copy, which has been made when the call returns.
    unsafe { assert_eq!(cuMemcpyDtoHAsync_v2(values.as_mut_ptr().cast(), address, 4 * count, stream), OK) };
    values
}

/// A stream that the legacy stream does not order.
fn stream() -> Handle {
    let mut stream = null_mut();
    // Safety: a pointer to a local.
    unsafe { assert_eq!(cuStreamCreate(&mut stream, 1), OK) };
    stream
}

fn event() -> Handle {
    let mut event = null_mut();
    // Safety: a pointer to a local.
    unsafe { assert_eq!(cuEventCreate(&mut event, 0), OK) };
    event
}

/// Kernels over words: `add` adds its second parameter to what its first points at, a word for each thread; `far` writes where
/// nothing is; `bounded` does nothing and has launch bounds. `table` is a variable.
const PTX: &str = r#"
.version 8.0
.target sm_80
.address_size 64
.visible .global .align 4 .b8 table[8] = {1, 0, 0, 0, 2, 0, 0, 0};
.visible .entry add(.param .u64 pointer, .param .u32 amount)
{
    .reg .b32 %r<6>;
    .reg .b64 %rd<4>;
    ld.param.u64 %rd1, [pointer];
    ld.param.u32 %r1, [amount];
    cvta.to.global.u64 %rd1, %rd1;
    mov.u32 %r2, %tid.x;
    mul.wide.u32 %rd2, %r2, 4;
    add.s64 %rd3, %rd1, %rd2;
    ld.global.u32 %r3, [%rd3];
    add.s32 %r4, %r3, %r1;
    st.global.u32 [%rd3], %r4;
    ret;
}
.visible .entry far()
{
    .reg .b32 %r<2>;
    .reg .b64 %rd<2>;
    mov.u64 %rd1, 64;
    mov.u32 %r1, 1;
    st.global.u32 [%rd1], %r1;
    ret;
}
.visible .entry bounded()
.maxntid 128, 1, 1
.minnctapersm 3
{
    ret;
}
"#;

fn module() -> Handle {
    let text = CString::new(PTX).unwrap();
    let mut module = null_mut();
    // Safety: a text with its end.
    unsafe { assert_eq!(cuModuleLoadData(&mut module, text.as_ptr()), OK) };
    module
}

fn function(module: Handle, name: &str) -> Handle {
    let (name, mut function) = (CString::new(name).unwrap(), null_mut());
    // Safety: a text with its end.
    unsafe { assert_eq!(cuModuleGetFunction(&mut function, module, name.as_ptr()), OK) };
    function
}

/// Launches `add` over `threads` words.
fn add(function: Handle, mut address: u64, mut amount: u32, threads: u32, stream: Handle) -> u32 {
    let mut params: [Handle; 2] = [(&raw mut address).cast(), (&raw mut amount).cast()];
    // Safety: the kernel has these two parameters.
    unsafe { cuLaunchKernel(function, 1, 1, 1, threads, 1, 1, 0, stream, params.as_mut_ptr(), null_mut()) }
}

/// Launches a kernel without parameters.
fn launch(function: Handle, grid: u32, threads: u32, shared: u32, stream: Handle) -> u32 {
    // Safety: the kernel has no parameters.
    unsafe { cuLaunchKernel(function, grid, 1, 1, threads, 1, 1, shared, stream, null_mut(), null_mut()) }
}
