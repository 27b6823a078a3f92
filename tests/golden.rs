//! Every golden file of the repository, on every device.

use std::path::PathBuf;

use x2ct::check::Case;

use crate::support::{checkout, devices};

fn files() -> Vec<PathBuf> {
    let folder = checkout("tests/golden");
    let mut files: Vec<PathBuf> = std::fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "safetensors"))
        // A cache and text features, no cases: tests/data.rs and tests/text.rs read them.
        .filter(|path| path.file_stem().is_some_and(|s| !s.to_string_lossy().ends_with("_from_python")))
        .collect();
    files.sort();
    files
}

/// Runs the cases whose operation `wanted` accepts; every tensor of every one must pass.
fn run(wanted: impl Fn(&str) -> bool) {
    let mut compared = 0;
    for (name, device) in devices() {
        for file in files() {
            let case = Case::read(&file).unwrap();
            if !wanted(&case.op) {
                continue;
            }
            for row in case.run(&device).unwrap_or_else(|e| panic!("{name}: {e}")) {
                assert!(row.pass, "{name}: {row:?}");
                compared += 1;
            }
        }
    }
    assert!(compared > 0, "no golden case was run");
}

#[test]
fn operators_agree_with_pytorch() {
    run(|op| !op.starts_with("model.") && !op.starts_with("trajectory."));
}

#[test]
fn models_agree_with_pytorch() {
    run(|op| op.starts_with("model."));
}

#[test]
fn training_follows_pytorch() {
    run(|op| op.starts_with("trajectory."));
}

#[test]
fn a_wrong_value_fails_and_says_so() {
    let file = files().into_iter().find(|f| f.file_stem().is_some_and(|s| s == "relu_7x131")).unwrap();
    let mut case = Case::read(&file).unwrap();
    let (_, values) = case.tensors.get_mut("out.y").unwrap();
    values[3] += 1.0;
    let rows = case.run(&crate::support::host(Default::default())).unwrap();
    assert!(rows.iter().any(|r| r.tensor == "out.y" && !r.pass));
    assert!(rows.iter().any(|r| r.tensor == "g.in.x" && r.pass));
}

#[test]
fn files_that_are_no_golden_case_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("case.safetensors");
    std::fs::write(&path, b"short").unwrap();
    let error = Case::read(&path).map(drop).unwrap_err().to_string();
    assert!(error.contains("case.safetensors") && error.contains("not a whole safetensors file"), "{error}");
    let mut archive = x2ct::archive::Writer::new("x2ct-golden-1");
    archive.set("op", "frobnicate");
    archive.write(&path).unwrap();
    let error = Case::read(&path).unwrap().run(&crate::support::host(Default::default())).unwrap_err().to_string();
    assert!(error.contains("frobnicate"), "{error}");
}
