//! What a launch leaves: where an instruction stands in the source, and totals of the process.

use super::Launch;
use crate::lower::Kernel;
use crate::ptx::Module;
use std::sync::atomic::{AtomicU64, Ordering};

/// Lane instructions of all launches.
pub static LANES: AtomicU64 = AtomicU64::new(0);
/// Warp instructions of all launches.
pub static WARPS: AtomicU64 = AtomicU64::new(0);
/// Nanoseconds spent in launches.
pub static NANOS: AtomicU64 = AtomicU64::new(0);
/// Launches that ran.
pub static LAUNCHES: AtomicU64 = AtomicU64::new(0);

/// Where an instruction stands: its source line, the line it was inlined at, its line in the PTX.
pub fn place(k: &Kernel, m: &Module, pc: u32) -> String {
    let source = source(k, m, k.code[pc as usize].loc);
    match k.lines[pc as usize] {
        0 => source,
        line => format!("{source}, PTX line {line}"),
    }
}

/// The source line of a location, with the lines it was inlined at.
pub fn source(k: &Kernel, m: &Module, loc: u32) -> String {
    let position = k.positions.get(loc as usize).copied().unwrap_or_default();
    k.sources.describe(position.source, &m.files)
}

/// Entries into each basic block of a kernel, as warps and as lanes.
pub struct Entries(pub Vec<(u64, u64)>);

impl Entries {
    pub fn new(k: &Kernel) -> Self {
        Entries(vec![(0, 0); k.blocks.len()])
    }
    pub fn add(&mut self, other: &Entries) {
        for (sum, more) in self.0.iter_mut().zip(&other.0) {
            sum.0 += more.0;
            sum.1 += more.1;
        }
    }
}

/// Adds a launch to the totals of the process.
pub fn account(l: &Launch, entries: &Entries, nanoseconds: u64) {
    let (mut lanes, mut warps) = (0, 0);
    for (block, (as_warps, as_lanes)) in l.kernel.blocks.iter().zip(&entries.0) {
        let size = *block as u64;
        warps += as_warps * size;
        lanes += as_lanes * size;
    }
    LANES.fetch_add(lanes, Ordering::Relaxed);
    WARPS.fetch_add(warps, Ordering::Relaxed);
    NANOS.fetch_add(nanoseconds, Ordering::Relaxed);
    LAUNCHES.fetch_add(1, Ordering::Relaxed);
}
