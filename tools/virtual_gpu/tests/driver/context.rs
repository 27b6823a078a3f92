//! Starting the driver, the device, contexts, errors that stay, and leaks.

use super::*;
use std::ffi::CStr;

#[test]
fn nothing_works_before_the_driver_is_started() {
    alone("driver::context::nothing_works_before_the_driver_is_started", &[], || unsafe {
        let mut count = 0;
        assert_eq!(cuDeviceGetCount(&mut count), 3);
        assert_eq!(cuCtxSynchronize(), 3);
        assert_eq!(cuInit(1), INVALID_VALUE);
        assert_eq!(cuInit(0), OK);
        assert_eq!((cuDeviceGetCount(&mut count), count), (OK, 1));
    });
}

#[test]
fn a_wrong_setting_fails_the_start_and_is_printed() {
    let test = "driver::context::a_wrong_setting_fails_the_start_and_is_printed";
    let text = alone(test, &[("VIRTUAL_GPU_ARC", "80")], || unsafe { assert_eq!(cuInit(0), INVALID_VALUE) });
    assert!(is_alone() || text.contains("VIRTUAL_GPU_ARC=80: there is no such setting"), "{text}");
}

#[test]
fn a_thread_needs_a_current_context() {
    attach();
    std::thread::spawn(|| unsafe {
        let (mut address, mut context) = (0, null_mut());
        assert_eq!((cuCtxGetCurrent(&mut context), context), (OK, null_mut()));
        assert_eq!(cuMemAlloc_v2(&mut address, 4), 201);
        assert_eq!(cuCtxSetCurrent(4 as Handle), 201);
        attach();
        assert_eq!(cuMemAlloc_v2(&mut address, 4), OK);
        assert_eq!(cuMemFree_v2(address), OK);
        assert_eq!(cuCtxSetCurrent(null_mut()), OK);
        assert_eq!(cuCtxSynchronize(), 201);
    })
    .join()
    .unwrap();
}

#[test]
fn there_is_one_device_with_a_name() {
    attach();
    let (mut device, mut name, mut uuid, mut version) = (7, [1; 16], [0u8; 16], 0);
    unsafe {
        assert_eq!((cuDeviceGet(&mut device, 0), device), (OK, 0));
        assert_eq!(cuDeviceGet(&mut device, 1), 101);
        assert_eq!(cuDeviceGet(null_mut(), 0), INVALID_VALUE);
        assert_eq!(cuDeviceGetName(name.as_mut_ptr(), 16, 0), OK);
        assert_eq!(CStr::from_ptr(name.as_ptr()).to_str(), Ok("Virtual GPU sm_"));
        assert_eq!(cuDeviceGetUuid_v2(uuid.as_mut_ptr(), 0), OK);
        assert_ne!(uuid, [0; 16]);
        assert_eq!((cuDriverGetVersion(&mut version), version), (OK, 13000));
        assert_eq!((cuCtxGetDevice(&mut device), device), (OK, 0));
    }
}

fn attribute(number: u32) -> i32 {
    let mut value = -1;
    unsafe { assert_eq!(cuDeviceGetAttribute(&mut value, number, 0), OK) };
    value
}

#[test]
fn attributes_are_the_chips() {
    let test = "driver::context::attributes_are_the_chips";
    alone(test, &[("VIRTUAL_GPU_ARCH", "80")], || {
        attach();
        let [major, minor, multiprocessors, block_shared, warp] = [75, 76, 16, 97, 10].map(attribute);
        if std::env::var("VIRTUAL_GPU_ARCH").unwrap() == "80" {
            assert_eq!([major, minor, multiprocessors, block_shared, warp], [8, 0, 108, 163 << 10, 32]);
        } else {
            assert_eq!([major, minor, multiprocessors, block_shared, warp], [9, 0, 132, 227 << 10, 32]);
        }
        assert_eq!([attribute(115), attribute(95), attribute(9999)], [1, 1, 0]);
    });
}

#[test]
fn attributes_of_the_other_chip() {
    alone(
        "driver::context::attributes_of_the_other_chip",
        &[("VIRTUAL_GPU_ARCH", "90a"), ("VIRTUAL_GPU_POOLS", "0")],
        || {
            attach();
            assert_eq!([75, 76, 16, 97, 115].map(attribute), [9, 0, 132, 227 << 10, 0]);
        },
    );
}

#[test]
fn errors_have_names_and_words() {
    let mut text = std::ptr::null();
    unsafe {
        assert_eq!(cuGetErrorName(700, &mut text), OK);
        assert_eq!(CStr::from_ptr(text).to_str(), Ok("CUDA_ERROR_ILLEGAL_ADDRESS"));
        assert_eq!(cuGetErrorString(700, &mut text), OK);
        assert_eq!(CStr::from_ptr(text).to_str(), Ok("an illegal memory access was encountered"));
        assert_eq!(cuGetErrorName(0, &mut text), OK);
        assert_eq!(CStr::from_ptr(text).to_str(), Ok("CUDA_SUCCESS"));
        assert_eq!((cuGetErrorName(12345, &mut text), text.is_null()), (INVALID_VALUE, true));
    }
}

#[test]
fn a_failed_kernel_breaks_the_context_until_its_end() {
    let test = "driver::context::a_failed_kernel_breaks_the_context_until_its_end";
    let text = alone(test, &[], || unsafe {
        attach();
        let far = function(module(), "far");
        assert_eq!(launch(far, 1, 32, 0, null_mut()), OK);
        let (mut address, mut stream) = (0, null_mut());
        assert_eq!(cuCtxSynchronize(), 700);
        assert_eq!(cuCtxSynchronize(), 700);
        assert_eq!(cuMemAlloc_v2(&mut address, 4), 700);
        assert_eq!(cuStreamCreate(&mut stream, 0), 700);
        assert_eq!(launch(far, 1, 32, 0, null_mut()), 700);
        assert_eq!(cuDevicePrimaryCtxRelease_v2(0), OK);
        assert_eq!(cuDevicePrimaryCtxRelease_v2(0), 201);
        attach();
        assert_eq!(cuMemAlloc_v2(&mut address, 4), OK);
    });
    assert!(is_alone() || text.contains("kernel far block"), "{text}");
}

#[test]
fn where_errors_do_not_stay_the_launching_thread_learns_of_them() {
    let test = "driver::context::where_errors_do_not_stay_the_launching_thread_learns_of_them";
    alone(test, &[("VIRTUAL_GPU_STICKY", "0")], || unsafe {
        attach();
        assert_eq!(launch(function(module(), "far"), 1, 32, 0, null_mut()), OK);
        std::thread::spawn(|| {
            attach();
            assert_eq!(cuCtxSynchronize(), OK);
        })
        .join()
        .unwrap();
        assert_eq!(cuCtxSynchronize(), 700);
        assert_eq!(cuCtxSynchronize(), OK);
    });
}

#[test]
fn what_is_left_at_the_end_of_the_context_is_reported() {
    let test = "driver::context::what_is_left_at_the_end_of_the_context_is_reported";
    let text = alone(test, &[("VIRTUAL_GPU_SANITIZE", "leaks")], || unsafe {
        attach();
        words(25, 0);
        let kept = words(4, 0);
        let _left = (stream(), event(), module());
        let mut active = 0;
        assert_eq!(cuMemFree_v2(kept), OK);
        assert_eq!((cuDevicePrimaryCtxGetState(0, &mut 0, &mut active), active), (OK, 1));
        assert_eq!(cuDevicePrimaryCtxRelease_v2(0), OK);
        assert_eq!((cuDevicePrimaryCtxGetState(0, &mut 0, &mut active), active), (OK, 0));
    });
    for line in [
        "1 allocations of 100 bytes were not freed",
        "streams that were not destroyed: 1",
        "one event was not destroyed",
        "one module was not destroyed",
    ] {
        assert!(is_alone() || text.contains(&format!("leak at the end of the context: {line}")), "{line}:\n{text}");
    }
}
