//! Compiles every `kernels/NAME.cu` twice: with the system C++ compiler for the host device (feature `host`), and with
//! nvcc, where it is found, into one fatbin per file for CUDA devices (feature `cuda`). Objects are named by a digest of
//! everything that goes into them, so an unchanged kernel is not compiled again.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

/// SASS for these, and PTX of the first for newer chips, which the driver compiles by the family on first use. Each more
/// would add a quarter to the time and size of every build.
const CUDA_ARCHS: &str = "80,86,89,90a";

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
    let sources = sources();
    if cfg!(feature = "host") {
        compile_host(&sources, &out);
    }
    if cfg!(feature = "cuda") && std::env::var_os("DOCS_RS").is_none() {
        match find_nvcc() {
            Some(nvcc) => compile_cuda(&sources, &out, &nvcc),
            None => println!(
                "cargo:warning=nvcc was not found: x2ct is built with host kernels only (`x2ct doctor` prints the command that fixes it)"
            ),
        }
    }
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

fn files_with(folder: &str, extensions: &[&str]) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder)
        .unwrap_or_else(|e| panic!("{folder}: {e}"))
        .map(|entry| entry.expect("a folder entry").path())
        .filter(|path| path.extension().is_some_and(|e| extensions.iter().any(|x| e == *x)))
        .collect();
    files.sort();
    files
}

fn sources() -> Vec<PathBuf> {
    files_with("kernels", &["cu"])
}

fn stem(path: &Path) -> String {
    path.file_stem().expect("a file name").to_string_lossy().into_owned()
}

/// A digest of the source, of every header it includes, and of the command.
fn digest(source: &Path, command: &str) -> String {
    let mut files = vec![source.to_path_buf()];
    let mut hasher = DefaultHasher::new();
    command.hash(&mut hasher);
    let mut next = 0;
    while next < files.len() {
        let text = std::fs::read_to_string(&files[next]).unwrap_or_else(|e| panic!("{}: {e}", files[next].display()));
        text.hash(&mut hasher);
        for header in includes(&files[next], &text) {
            if !files.contains(&header) {
                files.push(header);
            }
        }
        next += 1;
    }
    format!("{:016x}", hasher.finish())
}

/// The project's files that a file includes: beside it, or below `kernels`.
fn includes(file: &Path, text: &str) -> Vec<PathBuf> {
    let quoted = |line: &str| line.trim_start().strip_prefix("#include \"")?.split('"').next().map(String::from);
    let folder = file.parent().expect("a file in a folder");
    let find = |name: String| {
        let beside = folder.join(&name);
        if beside.is_file() { beside } else { Path::new("kernels").join(name) }
    };
    text.lines().filter_map(quoted).map(find).collect()
}

/// Runs `job` over `items` on as many threads as cargo grants.
fn in_parallel<T: Sync>(items: &[T], job: impl Fn(&T) + Sync) {
    let jobs = std::env::var("NUM_JOBS").ok().and_then(|n| n.parse().ok()).unwrap_or(1usize);
    let next = Mutex::new(items.iter());
    std::thread::scope(|scope| {
        for _ in 0..jobs.min(items.len()) {
            scope.spawn(|| {
                loop {
                    let item = next.lock().expect("no job panicked").next();
                    match item {
                        Some(item) => job(item),
                        None => break,
                    }
                }
            });
        }
    });
}

#[cfg(not(feature = "host"))]
fn compile_host(_: &[PathBuf], _: &Path) {}

#[cfg(feature = "host")]
fn compile_host(sources: &[PathBuf], out: &Path) {
    let sanitizers = std::env::var("X2CT_SANITIZE").unwrap_or_default();
    let mut build = cc::Build::new();
    build.cpp(true).std("c++17").include("kernels").warnings(false).cargo_warnings(true);
    build.flag("-Wall").flag("-Wextra").flag("-Wno-unknown-pragmas");
    // No fused multiply-add behind the kernel's back: x86-64 and aarch64 give the same bits.
    build.flag("-ffp-contract=off").flag("-fno-math-errno").flag("-fno-trapping-math");
    if sanitizers.is_empty() {
        build.opt_level(3).debug(false);
    } else {
        // Checks in loops that are written out take the optimiser minutes at -O3. AddressSanitizer finds what the two left
        // out would.
        build
            .opt_level(1)
            .flag(format!("-fsanitize={sanitizers}"))
            .flag("-fno-sanitize=null,object-size")
            .flag("-fno-sanitize-recover=all")
            .flag("-fno-omit-frame-pointer");
        build.debug(true);
        println!("cargo:rustc-cfg=x2ct_sanitize");
        for library in sanitizers.split(',') {
            let runtime = if library == "undefined" { "ubsan" } else { "asan" };
            println!("cargo:rustc-link-lib=dylib={runtime}");
        }
    }
    let compiler = build.get_compiler();
    let command = format!("{:?} {:?}", compiler.path(), compiler.args());
    let folder = out.join("host");
    std::fs::create_dir_all(&folder).expect("OUT_DIR is writable");
    let mut inputs = sources.to_vec();
    inputs.push("kernels/common/host.cpp".into());
    let objects: Vec<PathBuf> =
        inputs.iter().map(|s| folder.join(format!("{}-{}.o", stem(s), digest(s, &command)))).collect();
    let work: Vec<(PathBuf, PathBuf)> =
        inputs.into_iter().zip(objects.clone()).filter(|(_, object)| !object.exists()).collect();
    in_parallel(&work, |(source, object)| {
        let part = object.with_extension("part");
        let mut command = compiler.to_command();
        command.args(["-x", "c++", "-c"]).arg(source).arg("-o").arg(&part);
        let output = command.output().unwrap_or_else(|e| panic!("cannot run the C++ compiler {command:?}: {e}"));
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{} does not compile for the host:\n{text}", source.display());
        text.lines().for_each(|line| println!("cargo:warning={line}"));
        std::fs::rename(&part, object).expect("OUT_DIR is writable");
    });
    let mut archive = cc::Build::new();
    archive.cpp(true);
    objects.iter().for_each(|object| {
        archive.object(object);
    });
    archive.compile("x2ct_kernels");
}

/// Where nvcc is looked for, in this order.
fn find_nvcc() -> Option<PathBuf> {
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

fn compile_cuda(sources: &[PathBuf], out: &Path, nvcc: &Path) {
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
