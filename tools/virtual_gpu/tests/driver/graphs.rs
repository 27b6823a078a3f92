//! Capture of streams that fork and join, replay, and what a capture forbids.

use super::*;

const GLOBAL: u32 = 0;
const THREAD_LOCAL: u32 = 1;
const RELAXED: u32 = 2;

const UNSUPPORTED: u32 = 900;
const INVALIDATED: u32 = 901;
const MERGE: u32 = 902;
const UNMATCHED: u32 = 903;
const UNJOINED: u32 = 904;
const ISOLATION: u32 = 905;
const IMPLICIT: u32 = 906;
const CAPTURED_EVENT: u32 = 907;
const WRONG_THREAD: u32 = 908;

fn begin(stream: Handle, mode: u32) -> u32 {
    unsafe { cuStreamBeginCapture_v2(stream, mode) }
}

/// Ends a capture: the code, and the graph where there is one.
fn end(stream: Handle) -> (u32, Handle) {
    let mut graph = 1 as Handle;
    let code = unsafe { cuStreamEndCapture(stream, &mut graph) };
    assert_eq!(code == OK, !graph.is_null());
    (code, graph)
}

fn state(stream: Handle) -> u32 {
    let mut state = 9;
    unsafe { assert_eq!(cuStreamIsCapturing(stream, &mut state), OK) };
    state
}

fn executable(graph: Handle) -> Handle {
    let mut executable = null_mut();
    unsafe {
        assert_eq!(cuGraphInstantiateWithFlags(&mut executable, graph, 0), OK);
        assert_eq!(cuGraphDestroy(graph), OK);
    }
    executable
}

#[test]
fn a_graph_runs_each_time_it_is_launched_and_not_while_it_is_captured() {
    attach();
    let (stream, device, add_one) = (stream(), words(32, 0), function(module(), "add"));
    assert_eq!(begin(stream, THREAD_LOCAL), OK);
    assert_eq!(state(stream), 1);
    assert_eq!(add(add_one, device, 1, 32, stream), OK);
    unsafe { assert_eq!(cuMemsetD32Async(device + 4, 50, 1, stream), OK) };
    let (code, graph) = end(stream);
    assert_eq!((code, state(stream)), (OK, 0));
    assert_eq!(read_after(stream, device, 2), [0, 0]);
    let graph = executable(graph);
    unsafe {
        assert_eq!(cuGraphUpload(graph, stream), OK);
        for _ in 0..3 {
            assert_eq!(cuGraphLaunch(graph, stream), OK);
        }
        assert_eq!(read_after(stream, device, 3), [3, 50, 3]);
        assert_eq!(cuGraphLaunch(graph, stream), OK);
        assert_eq!(cuGraphExecDestroy(graph), OK);
        assert_eq!(cuGraphLaunch(graph, stream), INVALID_HANDLE);
    }
    assert_eq!(read_after(stream, device, 1), [4]);
}

#[test]
fn a_capture_forks_and_joins_through_events() {
    const TEST: &str = "driver::graphs::a_capture_forks_and_joins_through_events";
    for seed in ["0", "1", "2", "3"] {
        alone(TEST, &[("VIRTUAL_GPU_SEED", seed)], || unsafe {
            attach();
            let (one, two, add_one) = (stream(), stream(), function(module(), "add"));
            let (first, second, [fork, join]) = (words(1, 0), words(1, 0), [event(), event()]);
            assert_eq!(begin(one, THREAD_LOCAL), OK);
            assert_eq!(cuMemsetD32Async(first, 1, 1, one), OK);
            assert_eq!(cuEventRecord(fork, one), OK);
            assert_eq!(cuStreamWaitEvent(two, fork, 0), OK);
            assert_eq!(state(two), 1);
            assert_eq!(cuMemcpyDtoDAsync_v2(second, first, 4, two), OK);
            assert_eq!(add(add_one, second, 10, 1, two), OK);
            assert_eq!(cuEventRecord(join, two), OK);
            assert_eq!(cuStreamWaitEvent(one, join, 0), OK);
            assert_eq!(cuMemcpyDtoDAsync_v2(first, second, 4, one), OK);
            let (code, graph) = end(one);
            assert_eq!((code, state(two)), (OK, 0));
            let graph = executable(graph);
            for _ in 0..5 {
                assert_eq!(cuGraphLaunch(graph, one), OK);
                assert_eq!(read_after(one, first, 1), [11]);
                assert_eq!(cuMemsetD32Async(first, 77, 1, one), OK);
            }
        });
    }
}

#[test]
fn a_capture_begins_once_on_a_stream_that_is_not_the_legacy_one() {
    attach();
    let stream = stream();
    assert_eq!(begin(null_mut(), RELAXED), UNSUPPORTED);
    assert_eq!(begin(stream, 3), INVALID_VALUE);
    assert_eq!(end(stream).0, ILLEGAL_STATE);
    assert_eq!(begin(stream, RELAXED), OK);
    assert_eq!(begin(stream, RELAXED), ILLEGAL_STATE);
    assert_eq!(end(stream).0, OK);
}

#[test]
fn waiting_for_a_capturing_stream_loses_the_capture() {
    attach();
    let (stream, device) = (stream(), words(1, 0));
    let mut address = 0;
    for forbidden in 0..3 {
        assert_eq!(begin(stream, RELAXED), OK);
        let code = unsafe {
            match forbidden {
                0 => cuStreamSynchronize(stream),
                1 => cuStreamQuery(stream),
                _ => cuMemAllocAsync(&mut address, 4, stream),
            }
        };
        assert_eq!((code, state(stream)), (UNSUPPORTED, 2));
        assert_eq!(unsafe { cuMemsetD32Async(device, 1, 1, stream) }, INVALIDATED);
        assert_eq!((end(stream).0, state(stream)), (INVALIDATED, 0));
    }
}

#[test]
fn unsafe_calls_are_refused_by_the_modes_of_captures_and_threads() {
    let test = "driver::graphs::unsafe_calls_are_refused_by_the_modes_of_captures_and_threads";
    alone(test, &[], || unsafe {
        attach();
        let stream = stream();
        let allocate = || {
            let mut address = 0;
            cuMemAlloc_v2(&mut address, 4)
        };
        let elsewhere = || {
            let thread = std::thread::spawn(move || {
                attach();
                let mut address = 0;
                cuMemAlloc_v2(&mut address, 4)
            });
            thread.join().unwrap()
        };
        let exchange = |mut mode: u32| {
            assert_eq!(cuThreadExchangeStreamCaptureMode(&mut mode), OK);
            mode
        };
        for (mode, own, other) in
            [(GLOBAL, UNSUPPORTED, UNSUPPORTED), (THREAD_LOCAL, UNSUPPORTED, OK), (RELAXED, OK, OK)]
        {
            assert_eq!(begin(stream, mode), OK);
            assert_eq!(allocate(), own, "{mode}");
            assert_eq!(end(stream).0, if own == OK { OK } else { INVALIDATED });
            assert_eq!(begin(stream, mode), OK);
            assert_eq!(elsewhere(), other, "{mode}");
            assert_eq!(end(stream).0, if other == OK { OK } else { INVALIDATED });
            // A thread may say that it knows better.
            assert_eq!(begin(stream, mode), OK);
            assert_eq!(exchange(RELAXED), GLOBAL);
            assert_eq!(allocate(), OK);
            assert_eq!(exchange(GLOBAL), RELAXED);
            assert_eq!(end(stream).0, OK);
        }
    });
}

#[test]
fn a_capture_ends_where_it_began_with_everything_joined() {
    attach();
    let (one, two, device, fork) = (stream(), stream(), words(1, 0), event());
    let forked = || unsafe {
        assert_eq!(begin(one, THREAD_LOCAL), OK);
        assert_eq!(cuMemsetD32Async(device, 1, 1, one), OK);
        assert_eq!(cuEventRecord(fork, one), OK);
        assert_eq!(cuStreamWaitEvent(two, fork, 0), OK);
    };
    forked();
    assert_eq!(unsafe { cuMemsetD32Async(device, 2, 1, two) }, OK);
    assert_eq!((end(one).0, state(two)), (UNJOINED, 0));
    forked();
    assert_eq!(end(two).0, UNMATCHED);
    assert_eq!(end(one).0, INVALIDATED);
    // A fork without work of its own has nothing to join.
    forked();
    assert_eq!(end(one).0, OK);
    assert_eq!(begin(one, THREAD_LOCAL), OK);
    let stream = one as usize;
    let code = std::thread::spawn(move || {
        attach();
        end(stream as Handle).0
    });
    assert_eq!(code.join().unwrap(), WRONG_THREAD);
    assert_eq!(end(one).0, OK);
}

#[test]
fn a_capture_is_kept_apart_from_what_is_not_captured() {
    attach();
    let (one, two, outside, inside) = (stream(), stream(), event(), event());
    unsafe {
        assert_eq!(cuEventRecord(outside, two), OK);
        assert_eq!(begin(one, RELAXED), OK);
        assert_eq!(cuStreamWaitEvent(one, outside, 0), ISOLATION);
        assert_eq!(end(one).0, INVALIDATED);
        assert_eq!(begin(one, RELAXED), OK);
        assert_eq!(cuEventRecord(inside, one), OK);
        assert_eq!(cuEventQuery(inside), CAPTURED_EVENT);
        assert_eq!(cuEventSynchronize(inside), CAPTURED_EVENT);
        assert_eq!(begin(two, RELAXED), OK);
        assert_eq!(cuStreamWaitEvent(two, inside, 0), MERGE);
        assert_eq!((end(one).0, end(two).0), (INVALIDATED, INVALIDATED));
        assert_eq!(cuStreamWaitEvent(two, inside, 0), CAPTURED_EVENT);
    }
}

#[test]
fn the_legacy_stream_does_not_reach_into_a_capture() {
    let test = "driver::graphs::the_legacy_stream_does_not_reach_into_a_capture";
    alone(test, &[], || unsafe {
        attach();
        let device = words(1, 0);
        let mut blocking = null_mut();
        assert_eq!(cuStreamCreate(&mut blocking, 0), OK);
        assert_eq!(begin(blocking, RELAXED), OK);
        assert_eq!(cuMemsetD32Async(device, 1, 1, null_mut()), IMPLICIT);
        assert_eq!(end(blocking).0, INVALIDATED);
        let unordered = stream();
        assert_eq!(begin(unordered, RELAXED), OK);
        assert_eq!(cuMemsetD32Async(device, 1, 1, null_mut()), OK);
        assert_eq!(end(unordered).0, OK);
    });
}
