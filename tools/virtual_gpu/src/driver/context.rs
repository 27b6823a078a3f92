//! The primary context: who has it, which threads it is current on, whether a kernel has broken it, and what is left at its end.

use super::error::{Code, Done};
use super::{event, graph, memory, module, stream};
use crate::config::{config, settings};
use std::cell::Cell;
use std::ffi::c_void;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

/// The handle of the primary context, the only one there is.
pub const HANDLE: *mut c_void = 0x1000 as *mut c_void;

static INITIALIZED: AtomicBool = AtomicBool::new(false);
/// What a failed kernel left; 0 where none has failed.
static BROKEN: AtomicU32 = AtomicU32::new(0);
/// How often the context is retained.
static RETAINED: Mutex<u32> = Mutex::new(0);

thread_local! {
    /// Whether the context is current on this thread.
    static CURRENT: Cell<bool> = const { Cell::new(false) };
}

/// Starts the driver, unless settings are wrong.
pub fn initialize() -> Done {
    if let Err(problem) = settings() {
        eprintln!("virtual_gpu: {problem}");
        return Err(Code::INVALID_VALUE);
    }
    INITIALIZED.store(true, Ordering::Release);
    Ok(())
}

/// Whether the driver was started.
pub fn initialized() -> Done {
    if INITIALIZED.load(Ordering::Acquire) { Ok(()) } else { Err(Code::NOT_INITIALIZED) }
}

/// Whether the context is current and whole.
pub fn usable() -> Done {
    initialized()?;
    if !CURRENT.get() {
        return Err(Code::INVALID_CONTEXT);
    }
    whole()
}

/// Whether no kernel has broken the context.
pub fn whole() -> Done {
    match BROKEN.load(Ordering::Acquire) {
        0 => Ok(()),
        code => Err(Code(code)),
    }
}

/// Notes that a kernel failed: on a GPU every later call fails with the same code. Whether it is so here, too.
pub fn broken_by(code: Code) -> bool {
    if config().sticky {
        let _ = BROKEN.compare_exchange(0, code.0, Ordering::AcqRel, Ordering::Acquire);
    }
    config().sticky
}

/// Retains the primary context.
pub fn retain() -> Result<*mut c_void, Code> {
    whole()?;
    *RETAINED.lock().unwrap() += 1;
    Ok(HANDLE)
}

/// Releases the primary context; the last release ends it.
pub fn release() -> Done {
    let mut retained = RETAINED.lock().unwrap();
    match *retained {
        0 => return Err(Code::INVALID_CONTEXT),
        1 => end(),
        _ => {}
    }
    *retained -= 1;
    Ok(())
}

/// Whether anybody has the context.
pub fn active() -> bool {
    *RETAINED.lock().unwrap() > 0
}

/// Runs what is queued, reports what is left, and frees it.
fn end() {
    let _ = stream::wait_for_all();
    report_leaks("the context");
    graph::forget_all();
    stream::forget_all();
    event::forget_all();
    module::forget_all();
    memory::forget_all();
    BROKEN.store(0, Ordering::Release);
}

/// Prints what was made and never given back. After a failed kernel nothing can be given back, and nothing is said.
pub fn report_leaks(of: &str) {
    if !config().leaks || whole().is_err() {
        return;
    }
    let left = [memory::left(), stream::left(), event::left(), graph::left(), module::left()];
    for line in left.iter().flatten() {
        eprintln!("virtual_gpu: leak at the end of {of}: {line}");
    }
}

/// Makes the context current on this thread, or none.
pub fn set_current(context: *mut c_void) -> Done {
    if !context.is_null() && context != HANDLE {
        return Err(Code::INVALID_CONTEXT);
    }
    CURRENT.set(!context.is_null());
    Ok(())
}

/// The context that is current on this thread; null where none is.
pub fn current() -> *mut c_void {
    if CURRENT.get() { HANDLE } else { std::ptr::null_mut() }
}
