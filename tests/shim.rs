//! The host build catches what a GPU would let through or hang on.

use x2ct::Device;
use x2ct::device::ThreadOrder;
use x2ct::kernels::probe::{self, ProbeParams};
use x2ct::kernels::{DevicePtr, Kernel};
use x2ct::tensor::{DType, Tensor};

use crate::support::{assert_close, devices, devices_with_wgmma, host, normal};

const ORDERS: [ThreadOrder; 3] = [ThreadOrder::Forward, ThreadOrder::Reverse, ThreadOrder::Seeded(3)];

/// Runs a probe on 64 inputs a block; returns the outputs.
fn run(device: &Device, kernel: &Kernel<ProbeParams>, blocks: usize, input: &[f32]) -> x2ct::Result<Vec<f32>> {
    let n = 64.max(2 * blocks);
    let input = Tensor::from_slice(device, [input.len()], DType::F32, input)?;
    let out = Tensor::zeros(device, [n], DType::F32, "out")?;
    let params = ProbeParams { input: input.ptr(), out: out.ptr(), n: n as u64, key0: 0, key1: 0 };
    // Safety: both tensors are live; what a planted probe does beyond that is what the test looks for.
    unsafe { probe::launch(device.launcher(), kernel, blocks as u32, &params)? };
    device.synchronize()?;
    out.to_vec()
}

fn failure(kernel: &Kernel<ProbeParams>) -> String {
    run(&host(ThreadOrder::Forward), kernel, 1, &normal(1, 128)).expect_err("the planted defect is caught").to_string()
}

#[test]
fn barriers_and_async_copies_work_in_any_order() {
    let x = normal(1, 64);
    let reversed: Vec<f64> = x.iter().rev().map(|&v| v as f64).collect();
    for (name, device) in devices() {
        for kernel in [&probe::REVERSE, &probe::ASYNC] {
            assert_close(&name, &run(&device, kernel, 1, &x).unwrap(), &reversed, 0.0);
        }
    }
}

#[test]
fn a_missing_barrier_shows_under_permuted_orders() {
    let x = normal(2, 64);
    let results: Vec<Vec<u32>> = ORDERS
        .map(|order| run(&host(order), &probe::MISSING_BARRIER, 1, &x).unwrap().iter().map(|v| v.to_bits()).collect())
        .into();
    assert!(results[0] != results[1] && results[0] != results[2] && results[1] != results[2]);
}

#[test]
fn a_missing_async_wait_shows_as_poison() {
    for order in ORDERS {
        assert!(run(&host(order), &probe::MISSING_WAIT, 1, &normal(3, 64)).unwrap().iter().all(|v| v.is_nan()));
    }
}

#[test]
fn block_sums_do_not_depend_on_the_order() {
    let x = normal(4, 64);
    let want = vec![x.iter().map(|&v| v as f64).sum::<f64>(); 64];
    let mut bits = Vec::new();
    for (name, device) in devices() {
        let got = run(&device, &probe::SUM, 1, &x).unwrap();
        assert_close(&name, &got, &want, 1e-5);
        bits.push(got[0].to_bits());
    }
    assert!(bits.iter().all(|b| *b == bits[0]));
}

#[test]
fn a_barrier_in_divergent_code_is_reported() {
    let text = failure(&probe::DIVERGENT);
    assert!(
        text.contains("barrier in divergent code")
            && text.contains("probe_divergent")
            && text.contains("block (0,0,0)"),
        "{text}"
    );
}

#[test]
fn threads_that_return_early_hang_nothing() {
    for (name, device) in devices() {
        let x = vec![1.0; 64];
        let got = run(&device, &probe::EARLY_RETURN, 1, &x).unwrap();
        assert_eq!((got[0], got[31], got[32]), (32.0, 32.0, 0.0), "{name}");
    }
}

#[test]
fn a_shuffle_from_an_inactive_lane_is_reported() {
    let text = failure(&probe::INACTIVE_LANE);
    assert!(text.contains("shuffle: lane 0 reads lane 16"), "{text}");
}

#[test]
fn a_misaligned_vector_load_is_reported() {
    let text = failure(&probe::MISALIGNED);
    assert!(text.contains("misaligned 16-byte vector load"), "{text}");
}

#[test]
fn a_throwing_kernel_fails_its_launch_and_the_device_goes_on() {
    let text = failure(&probe::THROW);
    assert!(text.contains("the kernel threw: planted") && text.contains("probe_throw"), "{text}");
    barriers_and_async_copies_work_in_any_order();
}

#[test]
fn a_store_past_shared_memory_is_reported() {
    if cfg!(x2ct_sanitize) {
        assert_sanitizer_stops("planted_shared_overrun");
    } else {
        assert!(failure(&probe::SHARED_OVERRUN).contains("ran past the end of the"));
    }
}

#[test]
fn a_store_past_a_buffer_stops_the_sanitizer_build() {
    if cfg!(x2ct_sanitize) {
        assert_sanitizer_stops("planted_global_overrun");
    } else {
        println!("SKIPPED: needs the sanitizer build (tools/sanitize.sh)");
    }
}

/// Runs one of the planted defects below in a process of its own.
fn assert_sanitizer_stops(planted: &str) {
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &format!("shim::{planted}"), "--ignored", "--nocapture"])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && text.contains("AddressSanitizer: heap-buffer-overflow"), "{text}");
}

#[test]
#[ignore = "a planted defect: run by the test above, in a process of its own"]
fn planted_global_overrun() {
    if cfg!(not(x2ct_sanitize)) {
        panic!("only the sanitizer build stops this defect before it does harm");
    }
    let _ = run(&host(ThreadOrder::Forward), &probe::GLOBAL_OVERRUN, 1, &normal(1, 64));
}

#[test]
#[ignore = "a planted defect: run by the test above, in a process of its own"]
fn planted_shared_overrun() {
    if cfg!(not(x2ct_sanitize)) {
        panic!("only the sanitizer build stops this defect before it does harm");
    }
    let _ = run(&host(ThreadOrder::Forward), &probe::SHARED_OVERRUN, 1, &normal(1, 64));
}

/// What compute-sanitizer must find on a GPU: tools/gpu_run.sh runs this once for each of its tools, and fails where
/// the tool stays silent.
#[test]
#[ignore = "a planted defect: run under compute-sanitizer, by the run.sh of the GPU bundle"]
fn planted_on_cuda() {
    let device = Device::parse("cuda:0").unwrap();
    let x = normal(1, 64);
    let outcome = match std::env::var("X2CT_PLANT").as_deref() {
        Ok("memcheck") => run(&device, &probe::GLOBAL_OVERRUN, 1, &x),
        Ok("racecheck") => run(&device, &probe::MISSING_BARRIER, 1, &x),
        Ok("synccheck") => run(&device, &probe::DIVERGENT, 1, &x),
        Ok("initcheck") => {
            let input = Tensor::empty(&device, [64], DType::F32, "never written").unwrap();
            let out = Tensor::zeros(&device, [64], DType::F32, "out").unwrap();
            let params = ProbeParams { input: input.ptr(), out: out.ptr(), n: 64, key0: 0, key1: 0 };
            // Safety: both tensors are live; reading what was never written is the point.
            unsafe { probe::launch(device.launcher(), &probe::REVERSE, 1, &params) }.and_then(|()| out.to_vec())
        }
        other => panic!("X2CT_PLANT={other:?}: expected memcheck, racecheck, synccheck or initcheck"),
    };
    println!("without a sanitizer: {:?}", outcome.map(|values| values[0]));
}

#[test]
fn cooperative_blocks_meet_at_the_grid_barrier() {
    let x = normal(5, 64 * 5);
    let total: f64 = x.iter().map(|&v| v as f64).sum();
    for (name, device) in devices() {
        let got = run(&device, &probe::GRID, 5, &x).unwrap();
        assert_close(&name, &got[..5], &[total; 5], 1e-5);
    }
}

#[test]
fn philox_gives_the_published_vectors() {
    // Random123's known-answer tests for philox4x32-10.
    let cases: [([u32; 4], [u32; 2], [u32; 4]); 3] = [
        ([0; 4], [0; 2], [0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8]),
        ([u32::MAX; 4], [u32::MAX; 2], [0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd]),
        (
            [0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344],
            [0xa4093822, 0x299f31d0],
            [0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1],
        ),
    ];
    for (name, device) in devices() {
        for (counter, key, want) in cases {
            let input = Tensor::from_slice(&device, [4], DType::F32, &counter.map(f32::from_bits)).unwrap();
            let out = Tensor::zeros(&device, [4], DType::F32, "out").unwrap();
            let params = ProbeParams { input: input.ptr(), out: out.ptr(), n: 4, key0: key[0], key1: key[1] };
            // Safety: both tensors hold the four words the probe reads and writes.
            unsafe { probe::launch(device.launcher(), &probe::PHILOX, 1, &params).unwrap() };
            let got: Vec<u32> = out.to_vec().unwrap().iter().map(|v| v.to_bits()).collect();
            assert_eq!(got, want, "{name}");
        }
    }
}

#[test]
fn tensor_core_fragments_multiply() {
    let a = crate::support::round_bf16(&normal(6, 256));
    let bt = crate::support::round_bf16(&normal(7, 128));
    let want: Vec<f64> =
        (0..128).map(|i| (0..16).map(|k| a[i / 8 * 16 + k] as f64 * bt[i % 8 * 16 + k] as f64).sum()).collect();
    for (name, device) in devices() {
        let input = Tensor::from_slice(&device, [384], DType::F32, &[a.clone(), bt.clone()].concat()).unwrap();
        let out = Tensor::zeros(&device, [128], DType::F32, "out").unwrap();
        let params = ProbeParams { input: input.ptr(), out: out.ptr(), n: 128, key0: 0, key1: 0 };
        // Safety: both tensors hold what the probe reads and writes.
        unsafe { probe::launch(device.launcher(), &probe::MMA, 1, &params).unwrap() };
        assert_close(&name, &out.to_vec().unwrap(), &want, 1e-6);
    }
}

/// 1, then three quarters of its last place after 3, 7, 11 and 15 products: steps of 4 lose all of them, a step of 16 none
/// of the three whole places.
#[test]
fn tensor_cores_cut_off_the_sum_of_each_step() {
    let step = std::env::var("X2CT_MMA_STEP").ok().filter(|step| !step.is_empty());
    let places = match step.as_deref().unwrap_or("8") {
        "4" => 0,
        "8" => 2,
        "16" => 3,
        other => panic!("X2CT_MMA_STEP={other}"),
    };
    let want = 1.0 + places as f32 * f32::EPSILON;
    let (mut a, mut bt) = ([0.0f32; 256], [0.0f32; 128]);
    (a[0], bt[0]) = (1.0, 1.0);
    for k in [3, 7, 11, 15] {
        (a[k], bt[k]) = (0.75 / 4096.0, 1.0 / 2048.0);
    }
    // wgmma's probe takes 64 x 64: one step of 16 of it.
    let mut wide = vec![0.0f32; 2 * 64 * 64];
    wide[..16].copy_from_slice(&a[..16]);
    wide[4096..4112].copy_from_slice(&bt[..16]);
    for order in ORDERS {
        let device = host(order);
        for sign in [1.0, -1.0] {
            for (kernel, n, input) in
                [(&probe::MMA, 128, [&a[..], &bt[..]].concat()), (&probe::WGMMA, 64 * 64, wide.clone())]
            {
                let split = if n == 128 { 256 } else { 4096 };
                let signed: Vec<f32> =
                    input.iter().enumerate().map(|(i, v)| if i < split { sign * v } else { *v }).collect();
                let input = Tensor::from_slice(&device, [signed.len()], DType::F32, &signed).unwrap();
                let out = Tensor::zeros(&device, [n], DType::F32, "out").unwrap();
                let params = ProbeParams { input: input.ptr(), out: out.ptr(), n: n as u64, key0: 0, key1: 0 };
                // Safety: both tensors hold what the probe reads and writes.
                unsafe { probe::launch(device.launcher(), kernel, 1, &params).unwrap() };
                let got = out.to_vec().unwrap()[0];
                assert_eq!(got.to_bits(), (sign * want).to_bits(), "{got} for {}", sign * want);
            }
        }
    }
}

#[test]
fn a_step_that_no_tensor_core_has_is_refused() {
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "shim::tensor_core_fragments_multiply", "--nocapture"])
        .env("X2CT_MMA_STEP", "5")
        .env("X2CT_REQUIRE_CUDA", "0")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && text.contains("X2CT_MMA_STEP is 5"), "{text}");
    assert!(text.contains("4, 8 or 16 products"), "{text}");
}

#[test]
fn bulk_copies_arrive_in_any_order() {
    let x = normal(9, 128);
    let reversed: Vec<f64> = x[..64].iter().rev().map(|&v| v as f64).collect();
    for (name, device) in devices_with_wgmma() {
        assert_close(&name, &run(&device, &probe::BULK, 1, &x).unwrap(), &reversed, 0.0);
    }
}

#[test]
fn a_bulk_copy_that_is_read_early_shows_as_poison() {
    let got = run(&host(ThreadOrder::Forward), &probe::BULK_READ_EARLY, 1, &normal(10, 128)).unwrap();
    assert!(got.iter().all(|v| v.is_nan()));
}

#[test]
fn missing_waits_around_bulk_copies_are_reported() {
    let text = failure(&probe::BULK_NEVER_WAITED);
    assert!(text.contains("nobody waited for it"), "{text}");
    // Late copies: the barrier gets an arrival too many. Early ones: the phase that is waited for has come and gone.
    for order in ORDERS {
        let text = run(&host(order), &probe::BULK_REFILLED, 1, &normal(11, 128)).expect_err("a defect").to_string();
        assert!(text.contains("a wait is missing") || text.contains("waits for ever at an mbarrier"), "{text}");
    }
}

#[test]
fn warpgroups_multiply_tiles_as_rows_and_as_columns() {
    let x = crate::support::round_bf16(&normal(12, 2 * 64 * 64));
    let multiply = |device: &Device, kernel: &Kernel<ProbeParams>, key0: u32| {
        let input = Tensor::from_slice(device, [x.len()], DType::F32, &x).unwrap();
        let out = Tensor::zeros(device, [64 * 64], DType::F32, "out").unwrap();
        let params = ProbeParams { input: input.ptr(), out: out.ptr(), n: 64 * 64, key0, key1: 0 };
        // Safety: both tensors hold what the probe reads and writes.
        unsafe { probe::launch(device.launcher(), kernel, 1, &params).unwrap() };
        out.to_vec().unwrap()
    };
    for key0 in [0, 1] {
        let b = |k: usize, j: usize| x[4096 + if key0 == 0 { j * 64 + k } else { k * 64 + j }] as f64;
        let want: Vec<f64> =
            (0..4096).map(|at| (0..64).map(|k| x[at / 64 * 64 + k] as f64 * b(k, at % 64)).sum()).collect();
        for (name, device) in devices_with_wgmma() {
            assert_close(&name, &multiply(&device, &probe::WGMMA, key0), &want, 1e-6);
        }
        for order in ORDERS {
            assert!(multiply(&host(order), &probe::WGMMA_READ_EARLY, key0).iter().all(|v| v.is_nan()));
        }
    }
}

#[test]
fn buffers_refuse_ranges_outside() {
    let device = host(ThreadOrder::Forward);
    let buffer = device.alloc(8, "small").unwrap();
    assert!(buffer.upload(4, &[0; 8]).unwrap_err().to_string().contains("8 bytes at 4"));
    assert_eq!(device.memory().live, 8);
    drop(buffer);
    assert_eq!((device.memory().live, device.memory().peak), (0, 8));
    assert_ne!(DevicePtr::NULL, DevicePtr(1));
}

#[test]
fn captured_work_replays() {
    let device = host(ThreadOrder::Forward);
    let x = Tensor::from_slice(&device, [64], DType::F32, &normal(8, 64)).unwrap();
    let out = Tensor::zeros(&device, [64], DType::F32, "out").unwrap();
    let params = ProbeParams { input: x.ptr(), out: out.ptr(), n: 64, key0: 0, key1: 0 };
    // Safety: both tensors outlive the graph.
    let graph = device.capture(|| unsafe { probe::launch(device.launcher(), &probe::REVERSE, 1, &params) }).unwrap();
    assert_eq!(out.to_vec().unwrap(), vec![0.0; 64]);
    unsafe { graph.replay().unwrap() };
    assert_eq!(out.to_vec().unwrap()[0], x.to_vec().unwrap()[63]);
}
