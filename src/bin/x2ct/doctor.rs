//! `x2ct doctor`: what this build and this machine can do, and the command that fixes what is missing.

use std::process::ExitCode;

use serde_json::json;
use x2ct::Device;
use x2ct::kernels::FAMILIES;

use crate::Common;
use crate::output::{Failure, Report, version};

/// Say what this build and this machine can do, and how to fix what is missing
///
/// A device that is asked for with --device is tried, and the exit code is 1 where it cannot be used.
#[derive(clap::Args)]
pub struct DoctorArgs {}

pub fn run(_: DoctorArgs, common: &Common) -> anyhow::Result<ExitCode> {
    let kernels: usize = FAMILIES.iter().map(|f| f.entries.len()).sum();
    let for_cuda = FAMILIES.iter().all(|f| f.fatbin.is_some());
    let fatbin_bytes: usize = FAMILIES.iter().filter_map(|f| f.fatbin).map(<[u8]>::len).sum();
    let (name, asked) = (&common.device, common.device());
    let host = Device::parse("host");
    let cuda = Device::parse("cuda:0");
    let text = |device: &x2ct::Result<Device>| match device {
        Ok(device) => device.description(),
        Err(error) => error.to_string(),
    };
    let targets = option_env!("X2CT_CUDA_TARGETS").unwrap_or("");
    let report = Report::new("doctor").with_all(json!({
            "version": env!("CARGO_PKG_VERSION"), "kernels": kernels, "families": FAMILIES.len(),
            "device": {"name": name, "usable": asked.is_ok(), "text": text(&asked)},
            "host": {"usable": host.is_ok(), "text": text(&host)},
            "cuda": {"compiled": for_cuda, "targets": targets, "fatbin_bytes": fatbin_bytes, "usable": cuda.is_ok(), "text": text(&cuda)},
        }))?
        .failing(asked.as_ref().err().map(Failure::from));
    if let Err(error) = &asked {
        remark!("x2ct: {error}");
    }
    report.finish(common.json, || {
        say!("x2ct {}: {kernels} kernels in {} families", version(), FAMILIES.len());
        say!("host:         {}", text(&host));
        if for_cuda {
            say!("CUDA kernels: {}, {:.1} MB", compiled(targets), fatbin_bytes as f64 / 1e6);
        } else {
            say!("CUDA kernels: not in this build, because nvcc was not found");
            say!("              fix: tools/install_nvcc.sh && cargo build --release");
        }
        say!("CUDA device:  {}", text(&cuda));
        say!("--device {name}: {}", text(&asked));
    })
}

/// What the build holds for CUDA devices: `X2CT_CUDA_ARCHS` lists machine code as `90a` and PTX alone as `compute_90a`.
fn compiled(targets: &str) -> String {
    let (ptx, code): (Vec<&str>, Vec<&str>) = targets.split(',').partition(|target| target.starts_with("compute_"));
    match (code.is_empty(), ptx.is_empty()) {
        (_, true) => format!("compiled for {}", code.join(",")),
        (true, false) => format!("PTX only, for {}, which a driver compiles", ptx.join(",")),
        (false, false) => format!("compiled for {}, and PTX for {}", code.join(","), ptx.join(",")),
    }
}

#[cfg(test)]
mod tests {
    use super::compiled;

    #[test]
    fn machine_code_and_ptx_are_told_apart() {
        assert_eq!(compiled("80,90a"), "compiled for 80,90a");
        assert_eq!(compiled("compute_80,compute_90a"), "PTX only, for compute_80,compute_90a, which a driver compiles");
        assert_eq!(compiled("80,90a,compute_90a"), "compiled for 80,90a, and PTX for compute_90a");
    }
}
