//! Counters: what each kernel asks of a chip.
//!
//! A launch is counted where `VIRTUAL_GPU_COUNT` names a file, which receives one JSON object a kernel at the end of the process,
//! or between `virtualGpuCountBegin` and `virtualGpuCountEnd`, which the library exports beside the driver's functions. All
//! figures follow from the launch and this crate's models alone: the same launch is counted the same anywhere.
//!
//! What the models leave out: ptxas's instructions (PTX is counted), latency, queues, the time of anything. Bulk copies and
//! `cp.async` go past L1; a store marks its sectors as written whole; wgmma's operands cost no wavefronts; one L2 cache serves all
//! multiprocessors alike; copies and fills by the driver are not counted. A wait for an mbarrier counts once, however long it is:
//! the loop around `mbarrier.try_wait` goes round as often as on a chip that never reaches its time limit. Of a cooperative launch
//! all blocks are run. What a sample leaves out is run uncounted where it is cheap, since later launches go by what it writes.
//! Where all allocations that a sample touched fit in L2 together, the whole launch is taken to read none of them twice.

mod cache;
mod class;
mod footprint;
mod json;
mod machine;
mod request;
mod resources;
mod sample;
mod schedule;
mod total;

pub use machine::Stats;
pub use resources::registers;

use crate::config::config;
use crate::launch::{Entries, Launch, Options, Problem};
use crate::profile::Profile;
use machine::Machine;
use std::collections::BTreeMap;
use std::ffi::c_char;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use total::Total;

struct Counter {
    machine: Arc<Mutex<Machine>>,
    totals: BTreeMap<String, Total>,
    /// Rows of the last period, which are read after its end.
    rows: String,
}

static ACTIVE: AtomicBool = AtomicBool::new(false);

fn chip() -> &'static Profile {
    Profile::of(config().arch.capability())
}

fn counter() -> MutexGuard<'static, Counter> {
    static COUNTER: OnceLock<Mutex<Counter>> = OnceLock::new();
    let counter = COUNTER.get_or_init(|| {
        let machine = Arc::new(Mutex::new(Machine::new(chip())));
        Mutex::new(Counter { machine, totals: BTreeMap::new(), rows: String::new() })
    });
    counter.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// Whether launches are counted now.
pub fn active() -> bool {
    ACTIVE.load(Ordering::Relaxed) || config().count.is_some()
}

/// Runs a launch and adds its counts to its kernel's.
pub fn run(
    launch: &Launch,
    options: &Options,
    allocations: &Vec<(u64, u64)>,
    workspace: u64,
) -> Result<Entries, Problem> {
    let mut counter = counter();
    let (counted, entries) = schedule::run(launch, options.sample, allocations, workspace, chip(), &counter.machine)?;
    // What a sample leaves in L2 would not all be there after the whole launch.
    if counted.blocks_run < counted.blocks && counted.dram_bytes() > chip().l2 as f64 {
        counter.machine.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).forget();
    }
    counter.totals.entry(counted.kernel.clone()).or_default().add(counted, chip());
    Ok(entries)
}

fn rows(totals: &BTreeMap<String, Total>) -> Vec<String> {
    totals.iter().map(|(kernel, total)| total.row(kernel, chip())).collect()
}

/// Writes what was counted to the file of the setting.
pub fn at_exit() {
    let Some(path) = &config().count else { return };
    let lines: String = rows(&counter().totals).into_iter().map(|row| row + "\n").collect();
    if let Err(error) = std::fs::write(path, lines) {
        eprintln!("virtual_gpu: cannot write the counts to {}: {error}", path.display());
    }
}

/// Begins a period of counting: nothing counted yet, L2 empty.
#[unsafe(no_mangle)]
pub extern "C" fn virtualGpuCountBegin() {
    let mut counter = counter();
    counter.totals.clear();
    counter.machine.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).forget();
    ACTIVE.store(true, Ordering::Relaxed);
}

/// Ends a period of counting; bytes that the period's rows take as a JSON array. Launches must have been waited for.
#[unsafe(no_mangle)]
pub extern "C" fn virtualGpuCountEnd() -> usize {
    ACTIVE.store(false, Ordering::Relaxed);
    let mut counter = counter();
    counter.rows = format!("[{}]", rows(&counter.totals).join(",\n"));
    counter.rows.len()
}

/// Copies the rows of the last period, of the length that `virtualGpuCountEnd` gave.
///
/// # Safety
/// `rows` must be valid for writes of `bytes` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn virtualGpuCountRows(rows: *mut c_char, bytes: usize) -> usize {
    let counter = counter();
    let count = bytes.min(counter.rows.len());
    // SAFETY: the caller promises room for `bytes` bytes, and no more than the text has are copied.
    unsafe { std::ptr::copy_nonoverlapping(counter.rows.as_ptr(), rows.cast::<u8>(), count) };
    count
}
