//! Compiles the kernels with nvcc.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::sources::{digest, in_parallel, stem};

/// SASS for these, and PTX of the first for newer chips, which the driver compiles by the family on first use. Each more
/// would add a quarter to the time and size of every build.
const CUDA_ARCHS: &str = "80,86,89,90a";

/// Where nvcc is looked for, in this order.
pub fn find_nvcc() -> Option<PathBuf> {
    let from_env = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    if let Some(nvcc) = from_env("NVCC") {
        assert!(nvcc.exists(), "NVCC={} does not exist; unset it or point it at nvcc", nvcc.display());
        return Some(nvcc);
    }
    let manifest = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR"));
    let homes = [from_env("CUDA_HOME"), from_env("CUDA_PATH")].into_iter().flatten().map(|home| home.join("bin"));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let installed = from_env("X2CT_NVCC_DIR").unwrap_or_else(|| manifest.join(".nvcc")).join("bin");
    homes
        .chain(std::env::split_paths(&path))
        .chain(std::iter::once("/usr/local/cuda/bin".into()))
        .chain(std::iter::once(installed))
        .map(|folder| folder.join("nvcc"))
        .find(|nvcc| nvcc.is_file())
}

/// Compiles `sources` into one fatbin each.
pub fn compile(sources: &[PathBuf], out: &Path, nvcc: &Path) {
    let archs = std::env::var("X2CT_CUDA_ARCHS").unwrap_or_else(|_| CUDA_ARCHS.into());
    // Configs and vector widths are constexpr functions that both sides of a kernel call.
    let common = "-std=c++17 -O3 -lineinfo -fatbin -Ikernels --threads=1 --expt-relaxed-constexpr -Xptxas=-v";
    let mut flags: Vec<String> = common.split(' ').map(String::from).collect();
    for arch in archs.split(',') {
        // `90a` makes machine code; `compute_90a` makes PTX alone, which needs no ptxas (tools/virtual_gpu.sh).
        match arch.strip_prefix("compute_") {
            Some(number) => flags.push(format!("-gencode=arch=compute_{number},code=compute_{number}")),
            None => flags.push(format!("-gencode=arch=compute_{arch},code=sm_{arch}")),
        }
    }
    if archs.split(',').any(|arch| arch == "80") {
        flags.push("-gencode=arch=compute_80,code=compute_80".into());
    }
    // A fifth of the size, for three programs that each embed every kernel; the driver unpacks it in milliseconds.
    let help = Command::new(nvcc).arg("--help").output().map(|o| String::from_utf8_lossy(&o.stdout).into_owned());
    if help.is_ok_and(|text| text.contains("--compress-mode")) {
        // `none` for what is packed as a whole later (tools/gpu_bundle.sh).
        let mode = std::env::var("X2CT_COMPRESS").unwrap_or_else(|_| "size".into());
        flags.push(format!("--compress-mode={mode}"));
    }
    let command = format!("{nvcc:?} {flags:?}");
    let work: Vec<(&PathBuf, PathBuf, PathBuf)> = sources
        .iter()
        .map(|source| {
            let built = out.join(format!("{}-{}.fatbin", stem(source), digest(source, &command)));
            (source, built, out.join(format!("{}.fatbin", stem(source))))
        })
        .collect();
    in_parallel(&work, |(source, built, embedded)| {
        if !built.exists() {
            let part = built.with_extension("part");
            let output = Command::new(nvcc)
                .args(&flags)
                .arg(source)
                .arg("-o")
                .arg(&part)
                .output()
                .unwrap_or_else(|e| panic!("cannot run {}: {e}", nvcc.display()));
            let text = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{} does not compile for CUDA:\n{text}", source.display());
            // What ptxas says of registers and spills, for tools/resource_report.sh.
            std::fs::write(built.with_extension("log"), &*text).expect("OUT_DIR is writable");
            std::fs::rename(&part, built).expect("OUT_DIR is writable");
        }
        for (from, to) in
            [(built.clone(), embedded.clone()), (built.with_extension("log"), embedded.with_extension("log"))]
        {
            std::fs::copy(from, to).expect("OUT_DIR is writable");
        }
    });
    println!("cargo:rustc-cfg=x2ct_nvcc");
    println!("cargo:rustc-env=X2CT_NVCC={}", nvcc.display());
    println!("cargo:rustc-env=X2CT_CUDA_TARGETS={archs}");
}
