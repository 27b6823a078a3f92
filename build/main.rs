//! Reads the interface of the kernels ([`abi`]) and writes it out for Rust, then compiles every `kernels/NAME/NAME.cu` twice: with
//! the system C++ compiler for the host device (feature `host`), and with nvcc, where it is found, into one fatbin per file for
//! CUDA devices (feature `cuda`). Objects are named by a digest of everything that goes into them, so an unchanged kernel is
//! not compiled again.

mod abi;
mod cuda;
#[cfg(feature = "host")]
mod host;
mod sources;

use std::path::{Path, PathBuf};
use std::process::Command;

use abi::{Abi, Sources};

fn main() {
    println!("cargo:rustc-check-cfg=cfg(x2ct_nvcc)");
    println!("cargo:rustc-check-cfg=cfg(x2ct_sanitize)");
    for name in [
        "NVCC",
        "X2CT_COMPRESS",
        "CUDA_HOME",
        "CUDA_PATH",
        "PATH",
        "X2CT_CUDA_ARCHS",
        "X2CT_SANITIZE",
        "X2CT_NVCC_DIR",
        "DOCS_RS",
        "CXX",
    ] {
        println!("cargo:rerun-if-env-changed={name}");
    }
    println!("cargo:rerun-if-changed=kernels");
    name_commit();
    if std::env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("windows") {
        panic!("x2ct does not support Windows; use Linux (x86-64, aarch64), macOS (arm64) or WSL 2");
    }
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let sources = write_abi(&out.join("abi"));
    #[cfg(feature = "host")]
    host::compile(&[sources.as_slice(), &[out.join("abi/layouts.cpp")]].concat(), &out);
    if cfg!(feature = "cuda") && std::env::var_os("DOCS_RS").is_none() {
        match cuda::find_nvcc() {
            Some(nvcc) => cuda::compile(&sources, &out, &nvcc),
            None => println!(
                "cargo:warning=nvcc was not found: x2ct is built with host kernels only (`x2ct doctor` prints the command that fixes it)"
            ),
        }
    }
}

/// Writes what both languages share into `folder`; returns the kernel files.
fn write_abi(folder: &Path) -> Vec<PathBuf> {
    let sources = Sources::read(Path::new("kernels")).unwrap_or_else(|e| panic!("cannot read the folder kernels: {e}"));
    let abi = Abi::read(&sources).unwrap_or_else(|problem| {
        eprintln!("{problem}");
        std::process::exit(1)
    });
    std::fs::create_dir_all(folder).expect("OUT_DIR is writable");
    let write = |name: &str, text: String| {
        let path = folder.join(name);
        if std::fs::read_to_string(&path).ok().as_ref() != Some(&text) {
            std::fs::write(path, text).expect("OUT_DIR is writable");
        }
    };
    write("families.rs", abi::rust::families(&abi));
    write("shared.rs", abi::rust::shared(&abi));
    write("layouts.cpp", abi::cpp::layouts(&abi));
    for (slot, family) in abi.families.iter().enumerate() {
        write(&format!("{}.rs", family.name), abi::rust::family(&abi, slot));
    }
    abi.families.iter().map(|family| format!("kernels/{0}/{0}.cu", family.name).into()).collect()
}

/// Names the commit of a release build in `X2CT_COMMIT`, where the sources are a git checkout of their own. A development build
/// names none: each commit would compile everything again.
fn name_commit() {
    if std::env::var("PROFILE").as_deref() != Ok("release") {
        return;
    }
    let folder = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR"));
    let git = |arguments: &[&str]| {
        let output = Command::new("git").arg("-C").arg(&folder).args(arguments).output().ok()?;
        let text = String::from_utf8(output.stdout).ok().filter(|_| output.status.success())?;
        Some(text.trim().to_string())
    };
    let top = git(&["rev-parse", "--show-toplevel"]).and_then(|top| PathBuf::from(top).canonicalize().ok());
    if top.is_none() || top != folder.canonicalize().ok() {
        return;
    }
    println!("cargo:rerun-if-changed=src");
    if let Some(log) = git(&["rev-parse", "--git-path", "logs/HEAD"]) {
        println!("cargo:rerun-if-changed={}", folder.join(log).display());
    }
    if let Some(commit) = git(&["describe", "--always", "--dirty", "--abbrev=12", "--match="]) {
        println!("cargo:rustc-env=X2CT_COMMIT={commit}");
    }
}
