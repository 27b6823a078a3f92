//! Allocations, pools, page-locked memory, copies and fills.

use super::*;

#[test]
fn allocations_are_freed_once() {
    attach();
    let mut address = 0;
    unsafe {
        assert_eq!(cuMemAlloc_v2(&mut address, 0), INVALID_VALUE);
        assert_eq!(cuMemAlloc_v2(null_mut(), 8), INVALID_VALUE);
        assert_eq!(cuMemAlloc_v2(&mut address, 8), OK);
        assert!(address.is_multiple_of(512));
        assert_eq!(cuMemFree_v2(address + 4), INVALID_VALUE);
        assert_eq!(cuMemFree_v2(address), OK);
        assert_eq!(cuMemFree_v2(address), INVALID_VALUE);
        assert_eq!(cuMemFree_v2(0), OK);
    }
}

#[test]
fn the_device_has_as_much_memory_as_is_set() {
    let test = "driver::memory::the_device_has_as_much_memory_as_is_set";
    alone(test, &[("VIRTUAL_GPU_MEMORY", "1")], || unsafe {
        attach();
        let (mut address, mut free, mut total) = (0, 0, 0);
        assert_eq!((cuDeviceTotalMem_v2(&mut total, 0), total), (OK, 1 << 20));
        assert_eq!(cuMemAlloc_v2(&mut address, (1 << 20) + 1), OUT_OF_MEMORY);
        let stream = stream();
        assert_eq!(cuMemAllocAsync(&mut address, 600 << 10, stream), OK);
        assert_eq!(cuMemGetInfo_v2(&mut free, &mut total), OK);
        assert_eq!((free, total), (424 << 10, 1 << 20));
        assert_eq!(cuMemAllocAsync(&mut address, 600 << 10, stream), OUT_OF_MEMORY);
        // What is freed in the order of a stream may be had again at once: the device runs on where it has to.
        assert_eq!(cuMemFreeAsync(address, stream), OK);
        assert_eq!(cuMemAllocAsync(&mut address, 600 << 10, stream), OK);
    });
}

#[test]
fn pools_hand_out_memory_that_streams_free() {
    attach();
    let (mut pool, mut default, mut address, stream) = (null_mut(), null_mut(), 0, stream());
    unsafe {
        assert_eq!(cuMemPoolCreate(&mut pool, null_mut()), OK);
        assert_eq!(cuDeviceGetDefaultMemPool(&mut default, 0), OK);
        assert_ne!(pool, default);
        let mut keep = u64::MAX;
        assert_eq!(cuMemPoolSetAttribute(pool, 4, (&raw mut keep).cast()), OK);
        assert_eq!(cuMemPoolSetAttribute(pool, 99, (&raw mut keep).cast()), INVALID_VALUE);
        assert_eq!(cuMemAllocFromPoolAsync(&mut address, 64, pool, stream), OK);
        let mut used = 0;
        assert_eq!(cuMemPoolGetAttribute(pool, 7, &mut used), OK);
        assert!(used >= 64);
        assert_eq!(cuMemsetD8Async(address, 5, 64, stream), OK);
        assert_eq!(cuMemFreeAsync(address, stream), OK);
        assert_eq!(cuMemFreeAsync(address, stream), INVALID_VALUE);
        assert_eq!(cuStreamSynchronize(stream), OK);
        assert_eq!(cuMemsetD8_v2(address, 5, 64), INVALID_VALUE);
        let plain = words(1, 0);
        assert_eq!(cuMemFreeAsync(plain, stream), INVALID_VALUE);
        assert_eq!(cuMemFree_v2(plain), OK);
        assert_eq!(cuMemPoolTrimTo(pool, 0), OK);
        assert_eq!(cuMemPoolDestroy(pool), OK);
        assert_eq!(cuMemAllocFromPoolAsync(&mut address, 64, pool, stream), INVALID_HANDLE);
    }
}

#[test]
fn fills_are_of_one_two_and_four_bytes() {
    attach();
    let address = words(4, 0);
    let stream = stream();
    unsafe {
        assert_eq!(cuMemsetD8Async(address, 0x12, 3, stream), OK);
        assert_eq!(cuMemsetD16Async(address + 4, 0x3456, 2, stream), OK);
        assert_eq!(cuMemsetD32Async(address + 8, 0x789a_bcde, 1, stream), OK);
        assert_eq!(read_after(stream, address, 4), [0x0012_1212, 0x3456_3456, 0x789a_bcde, 0]);
        assert_eq!(cuMemsetD8_v2(address + 15, 1, 1), OK);
        assert_eq!(cuMemsetD16_v2(address + 8, 2, 1), OK);
        assert_eq!(cuMemsetD32_v2(address, 3, 1), OK);
        assert_eq!(cuCtxSynchronize(), OK);
        assert_eq!(read_after(stream, address, 4), [3, 0x3456_3456, 0x789a_0002, 0x0100_0000]);
        assert_eq!(cuMemsetD16_v2(address + 1, 0, 1), INVALID_VALUE);
        assert_eq!(cuMemsetD32Async(address + 2, 0, 1, stream), INVALID_VALUE);
        assert_eq!(cuMemsetD32_v2(address, 0, 5), INVALID_VALUE);
        assert_eq!(cuMemsetD8_v2(address, 0, 0), OK);
    }
}

#[test]
fn copies_go_to_and_from_the_device_and_stay_inside_of_allocations() {
    attach();
    let (first, second) = (words(3, 7), words(3, 0));
    let (values, mut back) = ([1u32, 2, 3], [0u32; 3]);
    unsafe {
        assert_eq!(cuMemcpyHtoD_v2(first, values.as_ptr().cast(), 12), OK);
        assert_eq!(cuMemcpyDtoD_v2(second + 4, first, 8), OK);
        assert_eq!(cuMemcpyDtoH_v2(back.as_mut_ptr().cast(), second, 12), OK);
        assert_eq!(back, [0, 1, 2]);
        assert_eq!(cuMemcpy(back.as_mut_ptr() as u64, first, 12), OK);
        assert_eq!(back, [1, 2, 3]);
        assert_eq!(cuMemcpyHtoD_v2(first + 4, values.as_ptr().cast(), 12), INVALID_VALUE);
        assert_eq!(cuMemcpyDtoH_v2(back.as_mut_ptr().cast(), first - 4, 12), INVALID_VALUE);
        assert_eq!(cuMemcpyDtoD_v2(second, first, 16), INVALID_VALUE);
        let stream = stream();
        assert_eq!(cuMemcpyDtoDAsync_v2(second, first, 12, stream), OK);
        assert_eq!(read_after(stream, second, 3), [1, 2, 3]);
        assert_eq!(cuMemcpyAsync(second, values.as_ptr() as u64 + 4, 8, stream), OK);
        assert_eq!(read_after(stream, second, 3), [2, 3, 3]);
    }
}

#[test]
fn pageable_memory_is_taken_at_the_call_and_page_locked_memory_in_the_order_of_the_stream() {
    let test = "driver::memory::pageable_memory_is_taken_at_the_call_and_page_locked_memory_in_the_order_of_the_stream";
    alone(test, &[("VIRTUAL_GPU_SEED", "0")], || unsafe {
        attach();
        let (device, stream) = (words(2, 0), stream());
        let mut locked = null_mut();
        assert_eq!(cuMemHostAlloc(&mut locked, 4, 0), OK);
        let (locked, mut pageable) = (locked as *mut u32, 1u32);
        locked.write_volatile(1);
        assert_eq!(cuMemcpyHtoDAsync_v2(device, (&raw const pageable).cast(), 4, stream), OK);
        assert_eq!(cuMemcpyHtoDAsync_v2(device + 4, locked.cast(), 4, stream), OK);
        (&raw mut pageable).write_volatile(2);
        locked.write_volatile(2);
        assert_eq!(read_after(stream, device, 2), [1, 2]);
        // To the host: pageable memory is there when the call returns, page-locked memory when the stream was waited for.
        assert_eq!(cuMemsetD32Async(device, 9, 1, stream), OK);
        assert_eq!(cuMemcpyDtoHAsync_v2(locked.cast(), device, 4, stream), OK);
        assert_eq!(locked.read_volatile(), 2);
        assert_eq!(cuStreamSynchronize(stream), OK);
        assert_eq!(locked.read_volatile(), 9);
        assert_eq!(cuMemFreeHost(locked.cast()), OK);
        assert_eq!(cuMemFreeHost(locked.cast()), INVALID_VALUE);
    });
}
