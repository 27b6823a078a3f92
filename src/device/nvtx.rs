//! Operator names on a profiler's time line: NVTX ranges, where NVIDIA's library of them is found at run time.
//!
//! Without the library, or with `X2CT_NVTX=0`, a range costs one load.

use std::ffi::{CString, c_char, c_int};
use std::marker::PhantomData;
use std::sync::OnceLock;

use libloading::Library;

struct Nvtx {
    push: unsafe extern "C" fn(*const c_char) -> c_int,
    pop: unsafe extern "C" fn() -> c_int,
    _library: Library,
}

/// The library of CUDA 13, as NVIDIA's Python packages hold it, and of CUDA 12.
const LIBRARIES: [&str; 3] = ["libnvtx3interop.so.1", "libnvToolsExt.so.1", "libnvToolsExt.so"];

static NVTX: OnceLock<Option<Nvtx>> = OnceLock::new();

impl Nvtx {
    fn load() -> Option<Self> {
        if std::env::var("X2CT_NVTX").is_ok_and(|v| v == "0") {
            return None;
        }
        // Safety: NVIDIA's library does nothing at load; both functions have the types given here in every version.
        unsafe {
            let library = LIBRARIES.iter().find_map(|name| Library::new(*name).ok())?;
            let push = *library.get(b"nvtxRangePushA\0").ok()?;
            let pop = *library.get(b"nvtxRangePop\0").ok()?;
            Some(Nvtx { push, pop, _library: library })
        }
    }
}

/// A range on this thread, which ends when it is dropped.
pub(crate) struct Range {
    nvtx: Option<&'static Nvtx>,
    /// Ranges nest per thread: one must end where it began.
    _thread: PhantomData<*const ()>,
}

/// Begins a range called `name`.
pub(crate) fn range(name: &str) -> Range {
    let nvtx = NVTX.get_or_init(Nvtx::load).as_ref().and_then(|nvtx| {
        let name = CString::new(name).ok()?;
        // Safety: the name is terminated, and copied by the call.
        unsafe { (nvtx.push)(name.as_ptr()) };
        Some(nvtx)
    });
    Range { nvtx, _thread: PhantomData }
}

impl Drop for Range {
    fn drop(&mut self) {
        if let Some(nvtx) = self.nvtx {
            // Safety: closes the range that this value began.
            unsafe { (nvtx.pop)() };
        }
    }
}
