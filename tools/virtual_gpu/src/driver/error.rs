//! Codes that calls of the driver return, with the words of `cuGetErrorName` and `cuGetErrorString`.

use std::ffi::CStr;

/// A `CUresult` that is not success.
#[derive(Clone, Copy, PartialEq, Eq, Debug, PartialOrd, Ord)]
pub struct Code(pub u32);

/// What a call returns: nothing, or why it failed.
pub type Done = Result<(), Code>;

macro_rules! codes {
    ($($name:ident = $number:literal, $words:literal;)*) => {
        impl Code {
            $(#[doc = concat!("`CUDA_ERROR_", stringify!($name), "`: ", $words, ".")] pub const $name: Code = Code($number);)*
        }

        /// The name and the words of a code; `None` where it is none.
        pub fn words(code: u32) -> Option<(&'static CStr, &'static CStr)> {
            let text = |text: &'static str| CStr::from_bytes_with_nul(text.as_bytes()).expect("a text with its end");
            match code {
                0 => Some((c"CUDA_SUCCESS", c"no error")),
                $($number => Some((
                    text(concat!("CUDA_ERROR_", stringify!($name), "\0")),
                    text(concat!($words, "\0")),
                )),)*
                _ => None,
            }
        }
    };
}

codes! {
    INVALID_VALUE = 1, "invalid argument";
    OUT_OF_MEMORY = 2, "out of memory";
    NOT_INITIALIZED = 3, "initialization error";
    NO_DEVICE = 100, "no CUDA-capable device is detected";
    INVALID_DEVICE = 101, "invalid device ordinal";
    INVALID_IMAGE = 200, "device kernel image is invalid";
    INVALID_CONTEXT = 201, "invalid device context";
    NO_BINARY_FOR_GPU = 209, "no kernel image is available for execution on the device";
    INVALID_PTX = 218, "a PTX JIT compilation failed";
    INVALID_HANDLE = 400, "invalid resource handle";
    ILLEGAL_STATE = 401, "the operation cannot be performed in the present state";
    NOT_FOUND = 500, "named symbol not found";
    NOT_READY = 600, "device not ready";
    ILLEGAL_ADDRESS = 700, "an illegal memory access was encountered";
    LAUNCH_OUT_OF_RESOURCES = 701, "too many resources requested for launch";
    LAUNCH_TIMEOUT = 702, "the launch timed out and was terminated";
    ASSERT = 710, "device-side assert triggered";
    ILLEGAL_INSTRUCTION = 715, "an illegal instruction was encountered";
    MISALIGNED_ADDRESS = 716, "misaligned address";
    LAUNCH_FAILED = 719, "unspecified launch failure";
    COOPERATIVE_LAUNCH_TOO_LARGE = 720, "too many blocks in cooperative launch";
    NOT_SUPPORTED = 801, "operation not supported";
    STREAM_CAPTURE_UNSUPPORTED = 900, "operation not permitted when stream is capturing";
    STREAM_CAPTURE_INVALIDATED = 901, "operation failed due to a previous error during capture";
    STREAM_CAPTURE_MERGE = 902, "operation would result in a merge of separate capture sequences";
    STREAM_CAPTURE_UNMATCHED = 903, "capture was not ended in the same stream as it began";
    STREAM_CAPTURE_UNJOINED = 904, "capturing stream has unjoined work";
    STREAM_CAPTURE_ISOLATION = 905, "dependency created on uncaptured work in another stream";
    STREAM_CAPTURE_IMPLICIT = 906, "operation would make the legacy stream depend on a capturing blocking stream";
    CAPTURED_EVENT = 907, "operation not permitted on an event last recorded in a capturing stream";
    STREAM_CAPTURE_WRONG_THREAD = 908, "attempt to terminate a thread-local capture sequence from another thread";
    INVALID_CLUSTER_SIZE = 912, "cluster misconfiguration";
}

/// What the C interface returns for an outcome.
pub fn status(outcome: Done) -> u32 {
    outcome.map_or_else(|code| code.0, |()| 0)
}

/// Writes a result of a call to where its caller wants it.
///
/// # Safety
/// `target` is null, which is an error, or may be written.
pub unsafe fn give<T>(target: *mut T, value: T) -> Done {
    // Safety: the caller's.
    unsafe {
        if target.is_null() {
            return Err(Code::INVALID_VALUE);
        }
        target.write_unaligned(value);
        Ok(())
    }
}
