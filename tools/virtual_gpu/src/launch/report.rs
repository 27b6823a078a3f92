//! What a launch leaves: where an instruction stands in the source, totals of counters, and findings as text.

use super::{Launch, Options};
use crate::count::{Access, CLASSES, Stats};
use crate::lower::Kernel;
use crate::ptx::Module;
use std::collections::{BTreeMap, HashMap};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

/// Lane instructions of all launches.
pub static LANES: AtomicU64 = AtomicU64::new(0);
/// Warp instructions of all launches.
pub static WARPS: AtomicU64 = AtomicU64::new(0);
/// Nanoseconds spent in launches.
pub static NANOS: AtomicU64 = AtomicU64::new(0);
/// Launches that ran.
pub static LAUNCHES: AtomicU64 = AtomicU64::new(0);

/// Counters of all launches of one kernel.
#[derive(Default, Clone)]
struct Totals {
    launches: u64,
    blocks: u64,
    warp_instructions: [u64; 14],
    lane_instructions: u64,
    nanoseconds: u64,
    /// Accesses by source line and kind.
    memory: HashMap<(String, u8), Access>,
    /// Accesses by kind.
    all: [Access; 7],
}
static TOTALS: Mutex<BTreeMap<String, Totals>> = Mutex::new(BTreeMap::new());

/// The source line of a location, with the line it was inlined at.
pub fn place(k: &Kernel, m: &Module, loc: u32) -> String {
    let (file, line, inlined) = k.locs[loc as usize];
    let name = |f: u32| m.files.get(&f).map_or("?", |s| s.rsplit("kernels/").next().unwrap_or(s)).to_string();
    let mut text = format!("{}:{line}", name(file));
    if let Some((f, l)) = inlined {
        text += &format!(" (inlined at {}:{l})", name(f));
    }
    text
}

/// What one launch did: entries into each basic block as warps and as lanes, and its memory counters.
#[derive(Default)]
pub struct Done {
    pub entries: Vec<(u64, u64)>,
    pub stats: Stats,
}

impl Done {
    pub fn new(k: &Kernel) -> Self {
        Done { entries: vec![(0, 0); k.blocks.len()], stats: Stats::default() }
    }
    pub fn add(&mut self, other: &Done) {
        for (sum, more) in self.entries.iter_mut().zip(&other.entries) {
            sum.0 += more.0;
            sum.1 += more.1;
        }
        self.stats.add(&other.stats);
    }
}

/// Adds a launch to the totals of the process.
pub fn account(l: &Launch, o: &Options, done: &Done, nanoseconds: u64) {
    let k = &*l.kernel;
    let (mut lanes, mut warps, mut classes) = (0, 0, [0u64; 14]);
    for (block, (as_warps, as_lanes)) in done.entries.iter().enumerate() {
        let size: u32 = k.blocks[block].iter().sum();
        warps += as_warps * size as u64;
        lanes += as_lanes * size as u64;
        for (sum, n) in classes.iter_mut().zip(&k.blocks[block]) {
            *sum += as_warps * *n as u64;
        }
    }
    LANES.fetch_add(lanes, Ordering::Relaxed);
    WARPS.fetch_add(warps, Ordering::Relaxed);
    NANOS.fetch_add(nanoseconds, Ordering::Relaxed);
    LAUNCHES.fetch_add(1, Ordering::Relaxed);
    if !o.stats {
        return;
    }
    let mut totals = TOTALS.lock().unwrap();
    let t = totals.entry(k.name.clone()).or_default();
    t.launches += 1;
    t.blocks += if o.sample > 0 && !l.cooperative { o.sample.min(l.blocks()) } else { l.blocks() };
    t.nanoseconds += nanoseconds;
    t.lane_instructions += lanes;
    for (sum, n) in t.warp_instructions.iter_mut().zip(classes) {
        *sum += n;
    }
    for ((loc, kind), a) in &done.stats.by_loc {
        let at = place(k, &l.module, *loc);
        let at = at.split(" (").next().unwrap().to_string();
        for x in [t.memory.entry((at, *kind)).or_default(), &mut t.all[*kind as usize]] {
            x.requests += a.requests;
            x.sectors += a.sectors;
            x.ideal += a.ideal;
            x.bytes += a.bytes;
        }
    }
}

const WHAT: [&str; 7] =
    ["global load", "global store", "atomic", "cp.async", "shared load", "shared store", "ldmatrix"];

/// Prints the counters of each kernel, the slowest first.
pub fn print_stats() {
    let totals = TOTALS.lock().unwrap();
    let mut names: Vec<_> = totals.iter().collect();
    names.sort_by_key(|(_, t)| std::cmp::Reverse(t.nanoseconds));
    for (name, t) in names {
        print_kernel(name, t);
    }
}

fn print_kernel(name: &str, t: &Totals) {
    let all: u64 = t.warp_instructions.iter().sum();
    eprintln!(
        "vgpu-stats: {name}: {} launches, {} blocks, {:.1} ms, {all} warp instructions, {:.1} lanes active",
        t.launches,
        t.blocks,
        t.nanoseconds as f64 * 1e-6,
        t.lane_instructions as f64 / all.max(1) as f64
    );
    let mut line = String::new();
    for (class, n) in t.warp_instructions.iter().enumerate().filter(|(_, n)| **n > 0) {
        line += &format!(" {} {:.1}%", CLASSES[class], *n as f64 * 100.0 / all as f64);
    }
    eprintln!("vgpu-stats:   {line}");
    let each = |a: &Access| {
        let n = a.requests as f64;
        (a.sectors as f64 / n, a.ideal as f64 / n)
    };
    for (kind, a) in t.all.iter().enumerate().filter(|(_, a)| a.requests > 0) {
        let unit = if kind < 4 { "sectors" } else { "wavefronts" };
        let (moved, ideal) = each(a);
        let (what, requests, bytes) = (WHAT[kind], a.requests, a.bytes);
        eprintln!(
            "vgpu-stats:   {what}: {requests} requests, {moved:.2} {unit} each (ideal {ideal:.2}), {bytes} bytes"
        );
    }
    let mut worst: Vec<_> = t.memory.iter().filter(|(_, a)| a.sectors > a.ideal).collect();
    worst.sort_by_key(|(_, a)| std::cmp::Reverse(a.sectors - a.ideal));
    for ((at, kind), a) in worst.into_iter().take(6) {
        let (moved, ideal) = each(a);
        let (what, requests) = (WHAT[*kind as usize], a.requests);
        eprintln!("vgpu-stats:     {what} at {at}: {requests} requests, {moved:.2} each, ideal {ideal:.2}");
    }
}
