//! `x2ct predict`: what images it takes, what it says of them, and that a bad one costs itself only.

use std::path::Path;

use serde_json::Value;
use x2ct::ct::{GrayImage, image};

use crate::cli::{json, succeed, x2ct};
use crate::malformed::workspace::Workspace;

/// Runs it and gives the exit code, the report and what was said.
fn predict(at: &Path, arguments: &str) -> (Option<i32>, Value, String) {
    let command =
        format!("predict {arguments} --checkpoint run/checkpoint.safetensors --cache valid.cache.safetensors --json");
    let output = x2ct(at, &command);
    let report = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
    (output.status.code(), report, String::from_utf8(output.stderr).unwrap())
}

fn names(report: &Value, list: &str, key: &str) -> Vec<String> {
    let rows = report[list].as_array().unwrap_or_else(|| panic!("no {list}: {report}"));
    rows.iter().map(|row| row[key].as_str().unwrap().to_string()).collect()
}

fn write(path: impl AsRef<Path>, value: impl Fn(usize) -> f32) {
    let picture = GrayImage::new((0..48 * 48).map(value).collect(), 48, 48).unwrap();
    image::write(path, &picture, &Default::default(), 1.0).unwrap();
}

#[test]
fn one_bad_image_costs_itself_only() {
    let workspace = Workspace::with_data();
    let at = workspace.at();
    let write = |name: &str, value: &dyn Fn(usize) -> f32| write(at.join(name), value);
    write("good.png", &|i| (i % 48) as f32 + (i / 48) as f32 * 2.0);
    write("flat.png", &|_| 7.0);
    write("letter.nii.gz", &|i| if i < 8 { 1000.0 } else { (i % 2) as f32 });
    write("mask.png", &|i| (i % 6) as f32);
    workspace.write("torn.png", &workspace.read("good.png")[..200]);

    let (code, report, said) = predict(at, "torn.png good.png flat.png absent.png letter.nii.gz mask.png");
    assert_eq!((code, report["status"].as_str()), (Some(1), Some("failed")));
    assert_eq!(names(&report, "rows", "image"), ["good.png"]);
    let bad = ["torn.png", "flat.png", "absent.png", "letter.nii.gz", "mask.png"];
    assert_eq!(names(&report, "failed", "file"), bad);
    let alone = predict(at, "good.png");
    assert_eq!((alone.0, &alone.1["rows"]), (Some(0), &report["rows"]));
    for text in [
        "left out: torn.png: not a sound PNG",
        "flat.png: plausibility: this is no radiograph: all of its pixels are 0",
        "letter.nii.gz: plausibility: this is no radiograph: all but 1 % of its pixels",
        "mask.png: plausibility: this is no radiograph: it has only 6 different greys",
        "absent.png: cannot read",
        "--force",
    ] {
        assert!(said.contains(text), "{text}: {said}");
    }

    let (code, report, said) = predict(at, "good.png flat.png letter.nii.gz mask.png --force");
    assert_eq!((code, names(&report, "rows", "image").len()), (Some(0), 4), "{said}");
    assert!(said.contains("warning: mask.png: It has only 6 different greys, as a mask or a drawing has."), "{said}");
}

#[test]
fn a_folder_stands_for_the_images_in_it() {
    let workspace = Workspace::with_data();
    let at = workspace.at();
    std::fs::create_dir_all(at.join("images/below")).unwrap();
    let gradient = |i: usize| (i % 48) as f32 + (i / 48) as f32 * 2.0;
    let volume = "dataset/valid_fixed/valid_1/valid_1_a/valid_1_a_1.nii.gz";
    for name in ["below/b.png", "a.nii.gz", "flat.png"] {
        write(at.join("images").join(name), |i| if name == "flat.png" { 7.0 } else { gradient(i) });
    }
    succeed(at, &format!("drr {volume} --out images/c.safetensors"));
    workspace.write("images/a.copy", &workspace.read("images/below/b.png"));
    workspace.write("images/notes.txt", b"notes");
    workspace.write("images/volume.nii.gz", &workspace.read(volume));
    workspace.write("images/cache.safetensors", &workspace.read("valid.cache.safetensors"));
    let (code, report, said) = predict(at, "images");
    let images = ["a.copy", "a.nii.gz", "below/b.png", "c.safetensors"].map(|name| format!("images/{name}"));
    assert_eq!((code, names(&report, "rows", "image")), (Some(1), images.to_vec()), "{said}");
    assert_eq!(names(&report, "failed", "file"), ["images/flat.png"]);
    let others = ["cache.safetensors", "notes.txt", "volume.nii.gz"].map(|name| format!("images/{name}"));
    assert_eq!(names(&report, "passed_over", "file"), others);
    assert!(said.contains("passed over 1 (a NIfTI volume, which `x2ct drr` projects): images/volume.nii.gz"), "{said}");
    let named = predict(at, &images.join(" "));
    assert_eq!((named.0, &named.1["rows"]), (Some(0), &report["rows"]), "{}", named.2);
    // A folder without any.
    let (code, report, said) = predict(at, "dataset images/below");
    assert_eq!((code, names(&report, "rows", "image").len()), (Some(1), 1), "{said}");
    assert_eq!(names(&report, "failed", "file"), ["dataset"]);
    assert!(said.contains("left out: dataset: no image is in it (PNG, JPEG, "), "{said}");
}

#[test]
fn reports_of_other_patients_are_told() {
    let workspace = Workspace::with_data();
    let at = workspace.at();
    write(at.join("good.png"), |i| (i % 48) as f32 + (i / 48) as f32 * 2.0);
    let told = |report: &Value| {
        report["warnings"].to_string().contains("its reports are not those that valid.cache.safetensors")
    };
    let predicted = |more: &str| predict(at, &format!("good.png --dataset . --split valid {more}"));
    let (code, report, said) = predicted("");
    assert!(code == Some(0) && !told(&report), "{said}");
    let table = at.join("dataset/radiology_text_reports/validation_reports.csv");
    let text = std::fs::read_to_string(&table).unwrap();
    let (head, last) = text.trim_end().rsplit_once('\n').unwrap();
    std::fs::write(&table, format!("{head}\n{},of,somebody,else,altogether\n", last.split(',').next().unwrap()))
        .unwrap();
    let (code, report, said) = predicted("");
    assert!(code == Some(0) && told(&report), "{said} {report}");
    assert_eq!(predicted("--strict").0, Some(1));
}

#[test]
fn what_a_file_says_of_itself_is_compared_with_the_training() {
    let workspace = Workspace::with_data();
    let at = workspace.at();
    let volume = "dataset/valid_fixed/valid_1/valid_1_a/valid_1_a_1.nii.gz";
    for ending in ["png", "nii.gz", "nii", "safetensors"] {
        succeed(at, &format!("drr {volume} --out ap.{ending}"));
        succeed(at, &format!("drr {volume} --view lateral --out lateral.{ending}"));
        let (code, report, said) = predict(at, &format!("ap.{ending} lateral.{ending}"));
        assert_eq!((code, names(&report, "rows", "image")), (Some(1), vec![format!("ap.{ending}")]), "{said}");
        assert_eq!(report["provenance"], "recorded", "{ending}: {report}");
        assert!(said.contains("view: trained on ap, this is lateral (digests "), "{ending}: {said}");
    }
    // The values of float files are the picture's before it was cut to 256 greys.
    let first = |name: &str| {
        json(at, &format!("predict {name} --checkpoint run/checkpoint.safetensors --cache valid.cache.safetensors"))["rows"][0]["probabilities"].clone()
    };
    assert_eq!(first("ap.nii.gz"), first("ap.safetensors"));
}

#[cfg(feature = "dicom")]
#[test]
fn jpeg_and_dicom_are_read() {
    use dicom_dictionary_std::tags;

    let workspace = Workspace::with_data();
    let at = workspace.at();
    let files = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/dicom_files");
    // A JPEG by itself is what a compressed DICOM holds.
    let object = dicom_object::open_file(files.join("jpeg_baseline.dcm")).unwrap();
    workspace.write("x.jpg", &object.element(tags::PIXEL_DATA).unwrap().fragments().unwrap()[0]);
    let all: Value = serde_json::from_slice(&std::fs::read(files.join("expected.json")).unwrap()).unwrap();
    let want: Vec<f32> =
        all["jpeg_baseline.dcm"].as_array().unwrap().iter().map(|v| v.as_f64().unwrap() as f32).collect();
    let picture = image::read(at.join("x.jpg")).unwrap();
    assert_eq!((picture.height, picture.width), (24, 20));
    // Decoders round the inverse cosine transform each their own way.
    assert!(picture.pixels.iter().zip(&want).all(|(found, want)| (found - want).abs() <= 1.0));
    for name in ["radiograph_monochrome1.dcm", "rle.dcm"] {
        std::fs::copy(files.join(name), at.join(name)).unwrap();
    }
    let given = "x.jpg radiograph_monochrome1.dcm rle.dcm";
    let (code, report, said) = predict(at, given);
    assert_eq!((code, names(&report, "rows", "image")), (Some(1), vec!["x.jpg".to_string()]));
    assert!(said.contains("radiograph_monochrome1.dcm: view: trained on ap, this is pa"), "{said}");
    assert!(said.contains("rle.dcm: is an image of modality CT, where a radiograph is wanted"), "{said}");
    let (code, report, said) = predict(at, &format!("{given} --force"));
    assert_eq!((code, names(&report, "failed", "file")), (Some(1), vec!["rle.dcm".to_string()]));
    assert!(said.contains("radiograph_monochrome1.dcm: It is MONOCHROME1, low values bright; inverted"), "{said}");
}
