//! What tests share: the devices an operator is tried on, seeded data, and the one comparator.

pub mod nifti;
pub mod npz;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use x2ct::Device;
use x2ct::device::{HostOptions, ThreadOrder};
use x2ct::ops::gemm::Backend;
use x2ct::train::{Observer, Position, StepLog, Task, Trainer};

/// Devices every operator is tried on: the host under three thread orders, new memory poisoned with NaN, and the first
/// CUDA device where there is one. A missing GPU is said, never passed over silently; `X2CT_REQUIRE_CUDA=1` makes it a
/// failure, `X2CT_REQUIRE_CUDA=only` leaves out the host as well (for tools that slow everything down).
/// Under sanitizers, which see every access in any order, the host is tried under one.
pub fn devices() -> Vec<(String, Device)> {
    let orders = [ThreadOrder::Seeded(7), ThreadOrder::Forward, ThreadOrder::Reverse];
    devices_in(if cfg!(x2ct_sanitize) { &orders[..1] } else { &orders })
}

/// The devices of [`devices`], the host under one thread order, for tests that would take too long under three. A failure's
/// output ends with the device's name.
pub fn on_host_and_cuda(order: ThreadOrder, test: impl Fn(Device)) {
    for (name, device) in devices_in(&[order]) {
        println!("on {name}");
        test(device);
    }
}

fn devices_in(orders: &[ThreadOrder]) -> Vec<(String, Device)> {
    let required = std::env::var("X2CT_REQUIRE_CUDA").unwrap_or_default();
    let mut devices: Vec<(String, Device)> =
        orders.iter().copied().map(|order| (format!("host {order:?}"), host(order))).collect();
    if required == "only" {
        devices.clear();
    }
    match Device::parse("cuda:0") {
        Ok(device) => devices.push((device.name().into(), device)),
        Err(why) if required.is_empty() || required == "0" => println!("SKIPPED on CUDA: {why}"),
        Err(why) => panic!("X2CT_REQUIRE_CUDA={required}, but {why}"),
    }
    devices
}

/// A file or folder of the checkout: where the tests were built or, on another machine, under the current folder, as a GPU
/// bundle has it.
pub fn checkout(path: &str) -> PathBuf {
    let built = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    if built.exists() { built } else { path.into() }
}

/// The program `x2ct` that was built with the tests or, on another machine, that of the current folder.
#[cfg(feature = "cli")]
pub fn program() -> PathBuf {
    let built = Path::new(env!("CARGO_BIN_EXE_x2ct"));
    if built.exists() { built.into() } else { std::env::current_dir().unwrap().join("x2ct") }
}

/// Whether `backend` can run on `device`. What it is that the library lacks is said.
pub fn has_backend(device: &Device, backend: Backend) -> bool {
    let has = backend != Backend::Library || Backend::default_for(device) == Backend::Library;
    if !has {
        println!("SKIPPED on {}: the backend `library`, which cannot be loaded", device.name());
    }
    has
}

/// The backends of products that there are on a device.
pub fn backends(device: &Device) -> Vec<Backend> {
    let all = [Backend::Library, Backend::Own, Backend::Naive];
    all.into_iter().filter(|&backend| has_backend(device, backend)).collect()
}

/// Those of [`devices`] that have bulk copies and warpgroup products: the host, and GPUs of compute capability 9.0 with a build
/// for sm_90a.
pub fn devices_with_wgmma() -> Vec<(String, Device)> {
    let mut all = devices();
    all.retain(|(name, device)| match x2ct::kernels::contrastive::check_wgmma(device.launcher()) {
        Ok(()) => true,
        Err(why) => {
            println!("SKIPPED on {name}: {why}");
            false
        }
    });
    all
}

/// The host with one thread order and poisoned memory.
pub fn host(order: ThreadOrder) -> Device {
    Device::host_with(HostOptions { threads: 2, order, poison: true })
}

/// `n` values, roughly normal, from a seed.
pub fn normal(seed: u64, n: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(0x1234_5678);
    let mut uniform = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 33) as f64 + 0.5) / (1u64 << 31) as f64
    };
    (0..n).map(|_| ((-2.0 * uniform().ln()).sqrt() * (std::f64::consts::TAU * uniform()).cos()) as f32).collect()
}

/// Values rounded to bf16, so that references start from what the kernel reads.
pub fn round_bf16(data: &[f32]) -> Vec<f32> {
    data.iter().map(|&x| half::bf16::from_f32(x).to_f32()).collect()
}

/// Rows of `d` values divided by their norms, and the norms, in f64. As in PyTorch's F.normalize, a norm is at least 1e-12.
pub fn normalised_rows(x: &[f32], d: usize) -> (Vec<f64>, Vec<f64>) {
    let norm = |row: &[f32]| row.iter().map(|&v| (v as f64).powi(2)).sum::<f64>().sqrt().max(1e-12);
    let norms: Vec<f64> = x.chunks(d).map(norm).collect();
    (x.iter().enumerate().map(|(i, &v)| v as f64 / norms[i / d]).collect(), norms)
}

/// ||got - want|| / ||want||.
pub fn relative_l2(got: &[f32], want: &[f64]) -> f64 {
    assert_eq!(got.len(), want.len(), "lengths differ");
    let (mut difference, mut size) = (0.0, 0.0);
    for (&g, &w) in got.iter().zip(want) {
        difference += (g as f64 - w).powi(2);
        size += w * w;
    }
    (difference / size.max(1e-300)).sqrt()
}

/// What an f32 sum of `k` products of mixed signs may be off by, relative: the rounding errors of k additions in order, each
/// at most 2^-24 of the sum so far, add up like the steps of a random walk.
pub fn sum_bound(k: usize) -> f64 {
    1e-6 + (k as f64).sqrt() * 2f64.powi(-24)
}

/// The same of tensor cores, which do not round: they cut off the sum of each step of 4, 8 or 16 products, so that every
/// step takes 2^-24 of the sum so far on average. In at most k/4 steps the sum grows from 0 to what it is, so it loses at
/// most k/8 * 2^-24 of it.
pub fn tensor_core_bound(k: usize) -> f64 {
    1e-6 + k as f64 / 8.0 * 2f64.powi(-24)
}

/// Fails unless every value is finite and the relative L2 distance is within `bound`.
#[track_caller]
pub fn assert_close(what: &str, got: &[f32], want: &[f64], bound: f64) {
    if let Some(i) = got.iter().position(|x| !x.is_finite()) {
        panic!("{what}: element {i} is {}, expected {}", got[i], want[i]);
    }
    let distance = relative_l2(got, want);
    assert!(distance <= bound, "{what}: relative L2 distance {distance:.3e} > {bound:.1e}");
}

/// An observer that keeps the log; asks to stop after a step where told to; keeps the last checkpoint on disk.
#[derive(Default)]
pub struct Recorder<'a> {
    pub steps: Vec<StepLog>,
    pub checkpoints: usize,
    pub stop_after: Option<(usize, &'a AtomicBool)>,
    pub write_to: Option<std::path::PathBuf>,
}

impl<C: Task> Observer<C> for Recorder<'_> {
    fn step(&mut self, log: &StepLog, _: Position) -> x2ct::Result<()> {
        self.steps.push(log.clone());
        if let Some((step, flag)) = self.stop_after {
            flag.store(log.step >= step, Ordering::Relaxed);
        }
        Ok(())
    }

    fn checkpoint(&mut self, trainer: &Trainer<C>) -> x2ct::Result<()> {
        self.checkpoints += 1;
        self.write_to.as_ref().map_or(Ok(()), |path| trainer.checkpoint()?.write(path))
    }
}
