//! The order of streams, events, and functions of the host.

use super::*;

/// A stream that the legacy stream orders.
fn blocking() -> Handle {
    let mut stream = null_mut();
    unsafe { assert_eq!(cuStreamCreateWithPriority(&mut stream, 0, 0), OK) };
    stream
}

/// What a page-locked word holds when a stream's copy into it has run, or before.
struct Seen(*mut u32);

impl Seen {
    fn new() -> Self {
        let mut word = null_mut();
        unsafe {
            assert_eq!(cuMemHostAlloc(&mut word, 4, 0), OK);
            (word as *mut u32).write_volatile(0);
        }
        Seen(word as *mut u32)
    }

    fn copy(&self, from: u64, stream: Handle) {
        unsafe { assert_eq!(cuMemcpyDtoHAsync_v2(self.0.cast(), from, 4, stream), OK) };
    }

    fn value(&self) -> u32 {
        unsafe { self.0.read_volatile() }
    }
}

#[test]
fn the_legacy_stream_orders_blocking_streams_and_no_others() {
    let test = "driver::streams::the_legacy_stream_orders_blocking_streams_and_no_others";
    alone(test, &[("VIRTUAL_GPU_SEED", "0")], || unsafe {
        attach();
        let (seen, unordered) = (Seen::new(), Seen::new());
        let device = words(1, 5);
        seen.copy(device, blocking());
        unordered.copy(device, stream());
        let mut value = 0u32;
        assert_eq!(cuMemcpyDtoH_v2((&raw mut value).cast(), device, 4), OK);
        assert_eq!((seen.value(), unordered.value()), (5, 0));
        // And the other way: what a blocking stream holds comes after what the legacy stream was given before.
        let later = blocking();
        assert_eq!(cuMemsetD32Async(device, 6, 1, null_mut()), OK);
        assert_eq!(read_after(later, device, 1), [6]);
        assert_eq!(cuCtxSynchronize(), OK);
        // The copy that nothing ordered came last.
        assert_eq!(unordered.value(), 6);
    });
}

#[test]
fn work_that_nothing_orders_runs_late_and_early() {
    const TEST: &str = "driver::streams::work_that_nothing_orders_runs_late_and_early";
    let body = || {
        attach();
        let (device, from, to) = (words(1, 0), stream(), stream());
        unsafe { assert_eq!(cuMemsetD32Async(device, 1, 1, from), OK) };
        println!("read {:?}", read_after(to, device, 1));
    };
    let texts: Vec<String> = ["0", "1", "2", "3", "4", "5", "6", "7"]
        .into_iter()
        .map(|seed| alone(TEST, &[("VIRTUAL_GPU_SEED", seed)], body))
        .collect();
    let late = texts.iter().filter(|text| text.contains("read [0]")).count();
    let early = texts.iter().filter(|text| text.contains("read [1]")).count();
    assert!(is_alone() || (texts[0].contains("read [0]") && late > 1 && early > 1), "{texts:?}");
}

#[test]
fn events_order_streams_by_every_seed() {
    const TEST: &str = "driver::streams::events_order_streams_by_every_seed";
    for seed in ["0", "1", "2", "3"] {
        alone(TEST, &[("VIRTUAL_GPU_SEED", seed)], || unsafe {
            attach();
            let (device, add_one) = (words(32, 0), function(module(), "add"));
            let (one, two, event) = (stream(), stream(), event());
            for turn in 0..20 {
                let (from, to) = if turn % 2 == 0 { (one, two) } else { (two, one) };
                assert_eq!(cuMemsetD32Async(device, turn, 32, from), OK);
                assert_eq!(add(add_one, device, 1, 32, from), OK);
                assert_eq!(cuEventRecord(event, from), OK);
                assert_eq!(cuStreamWaitEvent(to, event, 0), OK);
                assert_eq!(add(add_one, device, 100, 32, to), OK);
            }
            assert_eq!(read_after(one, device, 32), [120; 32]);
        });
    }
}

#[test]
fn events_are_asked_waited_for_and_timed() {
    let test = "driver::streams::events_are_asked_waited_for_and_timed";
    alone(test, &[], || unsafe {
        attach();
        let (stream, [before, after], device) = (stream(), [event(), event()], words(1, 0));
        let mut milliseconds = -1f32;
        assert_eq!(cuEventQuery(before), OK);
        assert_eq!(cuEventSynchronize(before), OK);
        assert_eq!(cuStreamWaitEvent(stream, before, 0), OK);
        assert_eq!(cuEventElapsedTime_v2(&mut milliseconds, before, after), INVALID_HANDLE);
        assert_eq!(cuEventRecord(before, stream), OK);
        assert_eq!(cuMemsetD32Async(device, 1, 1, stream), OK);
        assert_eq!(cuEventRecord(after, stream), OK);
        assert_eq!(cuEventElapsedTime_v2(&mut milliseconds, before, after), NOT_READY);
        // Asking lets the device go on.
        let asked = (0..10).take_while(|_| cuEventQuery(after) == NOT_READY).count();
        assert!((1..10).contains(&asked), "{asked}");
        assert_eq!(cuEventElapsedTime_v2(&mut milliseconds, before, after), OK);
        assert!(milliseconds >= 0.0);
        assert_eq!(cuEventElapsedTime_v2(&mut milliseconds, after, before), OK);
        assert!(milliseconds <= 0.0);
        let mut untimed = null_mut();
        assert_eq!(cuEventCreate(&mut untimed, 2), OK);
        assert_eq!(cuEventRecord(untimed, stream), OK);
        assert_eq!(cuEventSynchronize(untimed), OK);
        assert_eq!(cuEventElapsedTime_v2(&mut milliseconds, before, untimed), INVALID_HANDLE);
        assert_eq!(cuEventDestroy_v2(untimed), OK);
        assert_eq!(cuEventQuery(untimed), INVALID_HANDLE);
        assert_eq!(cuEventCreate(&mut untimed, 8), INVALID_VALUE);
    });
}

#[test]
fn a_stream_that_is_asked_goes_on_and_one_that_is_destroyed_ends_its_work() {
    let test = "driver::streams::a_stream_that_is_asked_goes_on_and_one_that_is_destroyed_ends_its_work";
    alone(test, &[], || unsafe {
        attach();
        let (asked, destroyed, device, seen) = (stream(), stream(), words(1, 3), Seen::new());
        assert_eq!(cuStreamQuery(asked), OK);
        assert_eq!(cuMemsetD32Async(device, 4, 1, asked), OK);
        assert_eq!(cuStreamQuery(asked), NOT_READY);
        assert_eq!(cuStreamQuery(asked), OK);
        seen.copy(device, destroyed);
        assert_eq!(cuStreamDestroy_v2(destroyed), OK);
        assert_eq!(cuStreamSynchronize(destroyed), INVALID_HANDLE);
        assert_eq!(seen.value(), 0);
        assert_eq!(cuCtxSynchronize(), OK);
        assert_eq!(seen.value(), 4);
        assert_eq!(cuStreamDestroy_v2(null_mut()), INVALID_HANDLE);
        assert_eq!(cuStreamCreate(&mut null_mut(), 2), INVALID_VALUE);
    });
}

#[test]
fn functions_of_the_host_run_in_the_order_of_their_stream() {
    unsafe extern "C" fn double(word: Handle) {
        let word = word as *mut u32;
        unsafe { word.write_volatile(2 * word.read_volatile()) };
    }
    attach();
    let (stream, device, seen) = (stream(), words(1, 21), Seen::new());
    seen.copy(device, stream);
    unsafe {
        assert_eq!(cuLaunchHostFunc(stream, Some(double), seen.0.cast()), OK);
        assert_eq!(cuLaunchHostFunc(stream, None, null_mut()), INVALID_VALUE);
        assert_eq!(cuStreamSynchronize(stream), OK);
    }
    assert_eq!(seen.value(), 42);
}

#[test]
fn each_thread_has_a_stream_of_its_own() {
    attach();
    let device = words(1, 0);
    let fill = move |value| {
        let per_thread = 2 as Handle;
        unsafe { assert_eq!(cuMemsetD32Async(device, value, 1, per_thread), OK) };
        assert_eq!(read_after(per_thread, device, 1), [value]);
    };
    fill(8);
    std::thread::spawn(move || {
        attach();
        fill(9);
    })
    .join()
    .unwrap();
}

#[test]
fn a_full_stream_runs_while_more_is_queued() {
    attach();
    let (stream, device, add_one) = (stream(), words(1, 0), function(module(), "add"));
    for _ in 0..3000 {
        assert_eq!(add(add_one, device, 1, 1, stream), OK);
    }
    assert_eq!(read_after(stream, device, 1), [3000]);
}
