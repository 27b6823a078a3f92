//! Modules, their variables, functions and attributes, occupancy, and launches.

use super::*;
use std::ffi::CStr;

fn variable(module: Handle, name: &CStr) -> (u32, u64, usize) {
    let (mut address, mut bytes) = (0, 0);
    let code = unsafe { cuModuleGetGlobal_v2(&mut address, &mut bytes, module, name.as_ptr()) };
    (code, address, bytes)
}

fn attribute(function: Handle, number: u32) -> i32 {
    let mut value = -1;
    unsafe { assert_eq!(cuFuncGetAttribute(&mut value, number, function), OK) };
    value
}

fn occupancy(function: Handle, threads: i32, shared: usize) -> i32 {
    let mut blocks = -1;
    unsafe { assert_eq!(cuOccupancyMaxActiveBlocksPerMultiprocessor(&mut blocks, function, threads, shared), OK) };
    blocks
}

#[test]
fn a_module_has_variables_and_functions_until_it_is_unloaded() {
    attach();
    let module = module();
    let (code, address, bytes) = variable(module, c"table");
    assert_eq!((code, bytes), (OK, 8));
    assert_eq!(read_after(null_mut(), address, 2), [1, 2]);
    assert_eq!(variable(module, c"none").0, 500);
    let add_one = function(module, "add");
    assert_eq!(add_one, function(module, "add"));
    let mut none = null_mut();
    unsafe {
        assert_eq!(cuModuleGetFunction(&mut none, module, c"none".as_ptr()), 500);
        assert_eq!(cuModuleUnload(module), OK);
        assert_eq!(cuModuleUnload(module), INVALID_HANDLE);
        assert_eq!(cuMemsetD32_v2(address, 0, 1), INVALID_VALUE);
    }
    assert_eq!(launch(add_one, 1, 1, 0, null_mut()), INVALID_HANDLE);
}

#[test]
fn what_is_no_ptx_is_refused() {
    attach();
    let mut module = null_mut();
    unsafe {
        assert_eq!(cuModuleLoadData(&mut module, null_mut()), INVALID_VALUE);
        let text = PTX.replace("st.global.u32", "st.global.u33");
        let text = CString::new(text).unwrap();
        let code = cuModuleLoadData(&mut module, text.as_ptr());
        let launched = |module| launch(function(module, "far"), 1, 1, 0, null_mut());
        assert!(code == 218 || launched(module) == 218, "{code}");
    }
}

#[test]
fn launch_bounds_and_shared_memory_limit_launches() {
    attach();
    let module = module();
    let bounded = function(module, "bounded");
    assert_eq!([0, 1, 3, 4, 8].map(|number| attribute(bounded, number)), [128, 0, 0, 168, 48 << 10]);
    assert_eq!(launch(bounded, 1, 128, 48 << 10, null_mut()), OK);
    assert_eq!(launch(bounded, 1, 129, 0, null_mut()), 701);
    assert_eq!(launch(bounded, 1, 128, (48 << 10) + 1, null_mut()), INVALID_VALUE);
    assert_eq!(launch(bounded, 0, 128, 0, null_mut()), INVALID_VALUE);
    assert_eq!(launch(bounded, 1, 0, 0, null_mut()), INVALID_VALUE);
    unsafe {
        assert_eq!(cuFuncSetAttribute(bounded, 8, 163 << 10), OK);
        assert_eq!(cuFuncSetAttribute(bounded, 8, (163 << 10) + 1), INVALID_VALUE);
        assert_eq!(cuFuncSetAttribute(bounded, 8, -1), INVALID_VALUE);
        assert_eq!(cuFuncSetCacheConfig(bounded, 1), OK);
        assert_eq!(cuFuncGetAttribute(&mut 0, 99, bounded), INVALID_VALUE);
    }
    assert_eq!(launch(bounded, 1, 128, 163 << 10, null_mut()), OK);
    assert_eq!(launch(function(module, "add"), 1, 1, 0, null_mut()), INVALID_VALUE);
}

#[test]
fn occupancy_follows_registers_threads_and_shared_memory() {
    attach();
    let bounded = function(module(), "bounded");
    // 168 registers, as the bounds permit: twelve warps fit.
    assert_eq!(occupancy(bounded, 128, 0), 3);
    assert_eq!(occupancy(bounded, 32, 0), 12);
    assert_eq!(occupancy(bounded, 128, 80 << 10), 2);
    assert_eq!(occupancy(bounded, 128, 164 << 10), 0);
    assert_eq!(occupancy(bounded, 256, 0), 0);
}

#[test]
fn a_cooperative_launch_has_to_fit_the_device() {
    attach();
    let bounded = function(module(), "bounded");
    let launch =
        |blocks| unsafe { cuLaunchCooperativeKernel(bounded, blocks, 1, 1, 128, 1, 1, 0, null_mut(), null_mut()) };
    assert_eq!(launch(3 * 108), OK);
    assert_eq!(launch(3 * 108 + 1), 720);
    unsafe { assert_eq!(cuCtxSynchronize(), OK) };
}

#[test]
fn parameters_may_come_packed() {
    attach();
    let (device, add_one) = (words(32, 1), function(module(), "add"));
    let mut packed = [0u8; 12];
    packed[..8].copy_from_slice(&device.to_ne_bytes());
    packed[8..].copy_from_slice(&41u32.to_ne_bytes());
    let mut bytes = packed.len();
    let mut extra: [Handle; 5] =
        [1 as Handle, packed.as_mut_ptr().cast(), 2 as Handle, (&raw mut bytes).cast(), null_mut()];
    unsafe {
        let code = cuLaunchKernel(add_one, 1, 1, 1, 32, 1, 1, 0, null_mut(), null_mut(), extra.as_mut_ptr());
        assert_eq!(code, OK);
    }
    assert_eq!(read_after(null_mut(), device, 32), [42; 32]);
}

#[test]
fn the_kernels_launched_are_listed_at_exit() {
    let list = std::env::temp_dir().join(format!("virtual_gpu_kernels_{}", std::process::id()));
    let test = "driver::modules::the_kernels_launched_are_listed_at_exit";
    alone(test, &[("VIRTUAL_GPU_KERNELS", list.to_str().unwrap())], || {
        attach();
        let (module, device) = (module(), words(1, 0));
        for _ in 0..2 {
            assert_eq!(add(function(module, "add"), device, 1, 1, null_mut()), OK);
        }
        assert_eq!(launch(function(module, "bounded"), 1, 1, 0, null_mut()), OK);
        unsafe { assert_eq!(cuCtxSynchronize(), OK) };
    });
    if !is_alone() {
        assert_eq!(std::fs::read_to_string(&list).unwrap(), "add\nbounded\n");
        std::fs::remove_file(list).unwrap();
    }
}
