//! Is there a driver, is it new enough, how many devices does it show; and its errors in this crate's words.

use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys::{self, CUresult};

use crate::{Error, Result};

/// The oldest driver interface that works, as `cuDriverGetVersion` reports it, and the driver that brought it.
const MINIMUM_CUDA: i32 = 13000;
const MINIMUM_DRIVER: &str = "580";

/// Devices the driver shows, after checking that it can be used at all.
///
/// Nothing of cudarc may be called before this has succeeded: without the library, or without a function in it, cudarc
/// panics.
pub(super) fn device_count(device: &str) -> Result<usize> {
    // Safety: only opens and closes the library.
    if !unsafe { sys::is_culib_present() } {
        return Err(Error::Device {
            device: device.into(),
            problem: "the NVIDIA driver (libcuda.so.1) was not found".into(),
            hint: format!("install driver {MINIMUM_DRIVER} or newer, or use the device host"),
        });
    }
    // `cuInit` and `cuDriverGetVersion` are in every driver; the version comes first, because `cuInit` of an old driver
    // may fail for reasons that only hide that it is old.
    let mut version = 0;
    // Safety: writes one integer.
    unsafe { sys::cuDriverGetVersion(&mut version) }.result().map_err(|e| start_up_error(device, e))?;
    if version < MINIMUM_CUDA {
        return Err(too_old(device, version, installed_driver().as_deref()));
    }
    result::init().map_err(|e| start_up_error(device, e))?;
    let count = result::device::get_count().map_err(|e| start_up_error(device, e))?;
    if count <= 0 {
        return Err(start_up_error(device, DriverError(CUresult::CUDA_ERROR_NO_DEVICE)));
    }
    Ok(count as usize)
}

/// `cuda:0, cuda:1` and so on for an error message.
pub(super) fn out_of_range(ordinal: usize, count: usize) -> Error {
    let there =
        if count == 1 { "only cuda:0 is there".into() } else { format!("there are cuda:0 to cuda:{}", count - 1) };
    Error::Device {
        device: format!("cuda:{ordinal}"),
        problem: format!("no such device: {there}"),
        hint: "choose one of those, and check CUDA_VISIBLE_DEVICES".into(),
    }
}

fn too_old(device: &str, version: i32, driver: Option<&str>) -> Error {
    let driver = driver.map(|d| format!(" {d}")).unwrap_or_default();
    Error::Device {
        device: device.into(),
        problem: format!(
            "the NVIDIA driver{driver} offers CUDA {}, this build needs CUDA {}",
            cuda_version(version),
            cuda_version(MINIMUM_CUDA)
        ),
        hint: format!("update the driver to {MINIMUM_DRIVER} or newer"),
    }
}

/// What `cuInit` and its kin report before any device is open.
fn start_up_error(device: &str, error: DriverError) -> Error {
    let hint = match error.0 {
        CUresult::CUDA_ERROR_NO_DEVICE => "check that nvidia-smi lists the GPU, and CUDA_VISIBLE_DEVICES",
        CUresult::CUDA_ERROR_STUB_LIBRARY => {
            "the libcuda found is the toolkit's link-time stub: take its folder off LD_LIBRARY_PATH"
        }
        CUresult::CUDA_ERROR_SYSTEM_DRIVER_MISMATCH | CUresult::CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE => {
            "the driver library and the kernel module differ: reboot, or remove the compat libraries"
        }
        CUresult::CUDA_ERROR_SYSTEM_NOT_READY => "start nvidia-fabricmanager (or wait for it) and run again",
        _ => "check that nvidia-smi runs without an error",
    };
    Error::Device {
        device: device.into(),
        problem: format!("the CUDA driver does not start: {}", words(error)),
        hint: hint.into(),
    }
}

/// The driver's own words and the name of the code.
pub(super) fn words(error: DriverError) -> String {
    let text = |s: std::result::Result<&std::ffi::CStr, DriverError>| s.ok().map(|s| s.to_string_lossy().into_owned());
    match (text(error.error_string()), text(error.error_name())) {
        (Some(what), Some(name)) => format!("{what} ({name})"),
        _ => format!("error {}", error.0 as u32),
    }
}

/// Whether the error is the belated report of a kernel that failed; after it every call on the context fails.
pub(super) fn is_sticky(error: DriverError) -> bool {
    use CUresult::*;
    matches!(
        error.0,
        CUDA_ERROR_ILLEGAL_ADDRESS
            | CUDA_ERROR_LAUNCH_TIMEOUT
            | CUDA_ERROR_ASSERT
            | CUDA_ERROR_HARDWARE_STACK_ERROR
            | CUDA_ERROR_ILLEGAL_INSTRUCTION
            | CUDA_ERROR_MISALIGNED_ADDRESS
            | CUDA_ERROR_INVALID_ADDRESS_SPACE
            | CUDA_ERROR_INVALID_PC
            | CUDA_ERROR_LAUNCH_FAILED
            | CUDA_ERROR_ECC_UNCORRECTABLE
            | CUDA_ERROR_NVLINK_UNCORRECTABLE
            | CUDA_ERROR_CONTEXT_IS_DESTROYED
    )
}

/// A failed driver call as this crate's error. `doing` completes "cannot ...".
pub(super) fn failed(device: &str, doing: &str, error: DriverError) -> Error {
    let (problem, hint) = if is_sticky(error) {
        (
            format!("an earlier kernel failed: {}", words(error)),
            "the process cannot use this GPU any more; run again with X2CT_SYNC=1 to learn which kernel it was",
        )
    } else {
        (format!("cannot {doing}: {}", words(error)), "check nvidia-smi for what else runs on this GPU")
    };
    Error::Device { device: device.into(), problem, hint: hint.into() }
}

/// The version of the kernel module, where the system shows it.
pub(super) fn installed_driver() -> Option<String> {
    parse_driver(&std::fs::read_to_string("/proc/driver/nvidia/version").ok()?)
}

/// The first word of the first line that looks like a version.
fn parse_driver(text: &str) -> Option<String> {
    let is_version = |word: &&str| {
        word.contains('.') && word.split('.').all(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
    };
    text.lines().next()?.split_whitespace().find(is_version).map(String::from)
}

/// 13000 -> 13.0
pub(super) fn cuda_version(version: i32) -> String {
    format!("{}.{}", version / 1000, version % 1000 / 10)
}

/// The driver's CUDA version; 0 where it does not say.
pub(super) fn driver_cuda_version() -> i32 {
    let mut version = 0;
    // Safety: writes one integer; called only once the driver is known to be there.
    unsafe { sys::cuDriverGetVersion(&mut version) };
    version
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_read_as_people_write_them() {
        assert_eq!(cuda_version(13000), "13.0");
        assert_eq!(cuda_version(12040), "12.4");
        assert_eq!(cuda_version(11080), "11.8");
    }

    #[test]
    fn the_driver_version_is_found_in_both_forms_of_the_file() {
        let closed = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.65.06  Sun Jul 27 07:06:15 UTC 2025\nGCC version: 12.2.0\n";
        let open = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  575.57.08  Release Build  (root@host)\n";
        assert_eq!(parse_driver(closed).as_deref(), Some("580.65.06"));
        assert_eq!(parse_driver(open).as_deref(), Some("575.57.08"));
        assert_eq!(parse_driver("GCC version: none\n12.2.0\n"), None);
        assert_eq!(parse_driver(""), None);
    }

    #[test]
    fn an_old_driver_is_told_with_both_versions() {
        let text = too_old("cuda:0", 12040, Some("550.54.15")).to_string();
        assert_eq!(
            text,
            "cuda:0: the NVIDIA driver 550.54.15 offers CUDA 12.4, this build needs CUDA 13.0; \
             update the driver to 580 or newer"
        );
        assert!(too_old("cuda:0", 12040, None).to_string().contains("the NVIDIA driver offers CUDA 12.4"));
    }

    #[test]
    fn an_ordinal_out_of_range_names_those_there_are() {
        assert!(out_of_range(1, 1).to_string().starts_with("cuda:1: no such device: only cuda:0 is there"));
        assert!(out_of_range(99, 4).to_string().contains("there are cuda:0 to cuda:3"));
    }
}
