//! Settings from the environment.

use crate::launch as run;
use std::ffi::c_int;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

pub fn env(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|v| !v.is_empty() && v != "0")
}

pub struct Config {
    pub cc: u32,
    pub options: run::Options,
    pub sticky: bool,
    pub lazy: bool,
    pub trace: bool,
    pub limit: usize,
}
pub fn config() -> &'static Config {
    static C: OnceLock<Config> = OnceLock::new();
    C.get_or_init(|| {
        unsafe extern "C" {
            fn atexit(f: extern "C" fn()) -> c_int;
        }
        extern "C" fn bye() {
            run::print_stats();
            if env("VGPU_BARS").is_some() {
                run::print_sites();
            }
            if env("VGPU_SPEED").is_some() || env("VGPU_STATS").is_some() {
                let (l, w, n) = (run::LANES.load(Ordering::Relaxed), run::WARPS.load(Ordering::Relaxed), run::NANOS.load(Ordering::Relaxed));
                eprintln!(
                    "vgpu: {} launches, {w} warp and {l} lane instructions in {:.3} s of launches: {:.1} M lane instructions per second",
                    run::LAUNCHES.load(Ordering::Relaxed),
                    n as f64 * 1e-9,
                    l as f64 / (n as f64 * 1e-3).max(1.0)
                );
            }
        }
        unsafe { atexit(bye) };
        let number = |n: &str, d: usize| std::env::var(n).ok().and_then(|v| v.parse().ok()).unwrap_or(d);
        let hw = number("VGPU_HW", 0);
        HW.store(hw & 1 != 0, Ordering::Relaxed);
        HW_EX2.store(hw & 2 != 0, Ordering::Relaxed);
        HW_BITS.store(23 + number("VGPU_HW_BITS", 1) as u64, Ordering::Relaxed);
        EARLY.store(number("VGPU_ORDER", 0) == 1, Ordering::Relaxed);
        Config {
            cc: number("VGPU_CC", 80) as u32,
            options: run::Options {
                threads: number("VGPU_THREADS", 2),
                races: env("VGPU_RACE").is_some(),
                global: env("VGPU_GLOBAL").is_some(),
                stats: env("VGPU_STATS").is_some(),
                sample: number("VGPU_SAMPLE", 0) as u64,
                order: number("VGPU_ORDER", 0) as u32,
            },
            sticky: env("VGPU_STICKY").is_some(),
            lazy: env("VGPU_LAZY").is_some(),
            trace: env("VGPU_TRACE").is_some(),
            limit: number("VGPU_MEM", 6144) << 20,
        }
    })
}

/// Sums of tensor cores and ex2.approx with the errors that chips make.
pub static HW_EX2: std::sync::atomic::AtomicBool = std::sync::atomic::AtomicBool::new(false);
pub static HW_BITS: AtomicU64 = AtomicU64::new(24);
pub static HW: std::sync::atomic::AtomicBool = std::sync::atomic::AtomicBool::new(false);
/// Bulk copies land at once.
pub static EARLY: std::sync::atomic::AtomicBool = std::sync::atomic::AtomicBool::new(false);
