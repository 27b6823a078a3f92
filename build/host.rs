//! Compiles the kernels with the system C++ compiler.

use std::path::{Path, PathBuf};

use crate::sources::{digest, in_parallel, stem};

/// Compiles `sources` and the scheduler behind them into the archive that the crate links.
pub fn compile(sources: &[PathBuf], out: &Path) {
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
