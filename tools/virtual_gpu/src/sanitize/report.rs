//! Findings: what the sanitizer saw, said once for each pair of instructions.

use crate::launch::{Launch, place};
use std::collections::HashSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

/// A thread of a launch, and what it was doing.
#[derive(Clone, Debug)]
pub struct Actor {
    pub pc: u32,
    pub block: u64,
    pub who: String,
}

/// What one access, or one thing that never came, breaks.
#[derive(Clone, Debug)]
pub struct Finding {
    /// The defect: `race: read after write`, `uninitialised read`, `missing wait`.
    pub kind: &'static str,
    pub at: Actor,
    /// Where: an address of global memory, an offset in shared or local memory.
    pub detail: String,
    pub other: Option<Actor>,
    /// What would mend it.
    pub missing: &'static str,
}

/// The kernel of a finding, its kind, and the instructions of both accesses.
type Key = (String, &'static str, u32, u32);
/// Findings of the process, each pair of instructions once.
static SEEN: Mutex<Option<HashSet<Key>>> = Mutex::new(None);
static COUNT: AtomicU64 = AtomicU64::new(0);
/// Texts of the findings, for tests.
static TEXTS: Mutex<Vec<String>> = Mutex::new(vec![]);

/// Findings that were said so far.
pub fn count() -> u64 {
    COUNT.load(Ordering::Relaxed)
}

/// Takes the texts of the findings of a kernel.
pub fn take(kernel: &str) -> Vec<String> {
    let mut texts = TEXTS.lock().unwrap();
    let prefix = format!("{kernel}: ");
    let (taken, kept) = std::mem::take(&mut *texts).into_iter().partition(|text| text.starts_with(&prefix));
    *texts = kept;
    if let Some(seen) = &mut *SEEN.lock().unwrap() {
        seen.retain(|(name, ..)| name != kernel);
    }
    taken
}

/// Says a finding, if its like has not been said.
pub fn say(l: &Launch, finding: &Finding) {
    let other = finding.other.as_ref().map_or(u32::MAX, |o| o.pc);
    let key = (l.kernel.name.clone(), finding.kind, finding.at.pc, other);
    if !SEEN.lock().unwrap().get_or_insert_default().insert(key) {
        return;
    }
    COUNT.fetch_add(1, Ordering::Relaxed);
    let text = text(l, finding);
    eprintln!("virtual_gpu: {text}");
    TEXTS.lock().unwrap().push(text);
}

fn actor(l: &Launch, a: &Actor) -> String {
    let [x, y, _] = l.grid.map(u64::from);
    let block = [a.block % x, a.block / x % y, a.block / (x * y)];
    let op = &l.kernel.texts[a.pc as usize];
    format!("{op} by {} of block {block:?} at {}", a.who, place(&l.kernel, &l.module, a.pc))
}

fn text(l: &Launch, f: &Finding) -> String {
    let mut text = format!("{}: {} ({}): {}", l.kernel.name, f.kind, f.detail, actor(l, &f.at));
    if let Some(other) = &f.other {
        text += &format!("; the other is {}", actor(l, other));
    }
    format!("{text}; missing: {}", f.missing)
}
