//! Shadows of the allocations of global memory.

use super::shadow::Shadow;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, RwLock};

/// An allocation and its shadow.
#[derive(Clone)]
pub struct Entry {
    start: u64,
    end: u64,
    pub shadow: Arc<Mutex<Shadow>>,
}

impl Entry {
    pub fn holds(&self, address: u64) -> bool {
        (self.start..self.end).contains(&address)
    }
}

static ALL: RwLock<BTreeMap<u64, Entry>> = RwLock::new(BTreeMap::new());

/// An allocation begins to be watched: nobody has written it.
pub fn allocated(start: u64, bytes: u64) {
    let shadow = Arc::new(Mutex::new(Shadow::new(start, bytes)));
    ALL.write().unwrap().insert(start, Entry { start, end: start + bytes, shadow });
}

/// An allocation is no more.
pub fn freed(start: u64) {
    ALL.write().unwrap().remove(&start);
}

/// The allocation that holds an address.
pub fn find(address: u64) -> Option<Entry> {
    let all = ALL.read().unwrap();
    all.range(..=address).next_back().map(|(_, entry)| entry).filter(|entry| entry.holds(address)).cloned()
}

/// The host, or a fill, wrote these bytes.
pub fn written(address: u64, bytes: u64) {
    if let Some(entry) = find(address) {
        entry.shadow.lock().unwrap().mark(address, bytes);
    }
}

/// A copy wrote these bytes: what nobody wrote at its source, nobody has written now. A source that is not watched is the host's.
pub fn copied(to: u64, from: u64, bytes: u64) {
    let Some(source) = find(from) else { return written(to, bytes) };
    let Some(target) = find(to) else { return };
    let runs = source.shadow.lock().unwrap().runs(from, bytes);
    let mut target = target.shadow.lock().unwrap();
    if runs != [(0, bytes)] {
        target.unmark(to, bytes);
    }
    for (offset, n) in runs {
        target.mark(to + offset, n);
    }
}
