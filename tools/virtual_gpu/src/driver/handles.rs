//! Handles: numbers that stand for what the driver has made, so that one that was destroyed is an error and no stray pointer.

use super::error::Code;
use std::collections::BTreeMap;
use std::ffi::c_void;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

/// The next handle. Small numbers mean streams (`CU_STREAM_LEGACY`) or the context.
static NEXT: AtomicUsize = AtomicUsize::new(0x10_0000);

/// A handle that was never given before.
pub fn new_handle() -> usize {
    NEXT.fetch_add(16, Ordering::Relaxed)
}

/// What one kind of handle stands for.
pub struct Handles<T>(Mutex<BTreeMap<usize, Arc<T>>>);

impl<T> Handles<T> {
    /// No handles.
    pub const fn new() -> Self {
        Handles(Mutex::new(BTreeMap::new()))
    }

    /// A handle for a value.
    pub fn add(&self, value: Arc<T>) -> *mut c_void {
        let handle = new_handle();
        self.0.lock().unwrap().insert(handle, value);
        handle as *mut c_void
    }

    /// What a handle stands for.
    pub fn get(&self, handle: *mut c_void) -> Result<Arc<T>, Code> {
        self.0.lock().unwrap().get(&(handle as usize)).cloned().ok_or(Code::INVALID_HANDLE)
    }

    /// Takes a handle back.
    pub fn remove(&self, handle: *mut c_void) -> Result<Arc<T>, Code> {
        self.0.lock().unwrap().remove(&(handle as usize)).ok_or(Code::INVALID_HANDLE)
    }

    /// Takes back the handles whose values are not to be kept.
    pub fn retain(&self, keep: impl Fn(&T) -> bool) {
        self.0.lock().unwrap().retain(|_, value| keep(value));
    }

    /// Takes all handles back.
    pub fn clear(&self) {
        self.0.lock().unwrap().clear();
    }

    /// A line that names how many there are; `None` where there are none.
    pub fn left(&self, what: &str) -> Option<String> {
        match self.0.lock().unwrap().len() {
            0 => None,
            1 => Some(format!("one {what} was not destroyed")),
            count => Some(format!("{count} {what}s were not destroyed")),
        }
    }
}
