//! `x2ct radiographs`: real radiographs of a table, by the toy in MIMIC-CT's form; tables and images that are wrong.

use std::path::Path;
use std::process::Output;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::Value;
use x2ct::ct::{Projection, RadiographOptions};
use x2ct::data::id_table::{self, IdTable};
use x2ct::data::ingest::{Progress, RealOptions, pack_real};
use x2ct::data::label_map::LabelMap;
use x2ct::data::phantom::PhantomDataset;
use x2ct::data::phantom::mimic;
use x2ct::data::pixels;
use x2ct::data::radiograph_table::{Columns, LabelRules, RadiographTable};
use x2ct::data::radiographs::{self, RadiographSet};
use x2ct::data::text::{HashedNgrams, TextFeatures};
use x2ct::ops::image::PixelType;
use x2ct::{Device, Error, labels};

use crate::dataset::{files, names, said, x2ct};

fn phantoms() -> PhantomDataset {
    PhantomDataset { seed: 11, shape: [24, 20, 24], spacing: [12.0; 3], ..Default::default() }
}

fn toy(root: &Path, count: u32) {
    mimic::write_mimic(&Device::host(), root, &phantoms(), count, &mut |_, _| Ok(())).unwrap();
}

/// Packs `table` as the command does with these options.
fn pack(at: &Path, arguments: &str) -> (Option<i32>, Value, String) {
    let output: Output = x2ct(at, &format!("radiographs {arguments} --size 20x24 --json"));
    (output.status.code(), serde_json::from_slice(&output.stdout).unwrap(), said(&output))
}

fn set(path: &Path) -> RadiographSet {
    RadiographSet::read(path).unwrap()
}

#[test]
fn the_toy_is_packed_with_its_labels_and_reports() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let output =
        x2ct(at, "phantom --form mimic --test 4 --seed 11 --shape 24x20x24 --spacing 12 --device host --out toy");
    assert!(output.status.success(), "{}", said(&output));
    let first = files(&at.join("toy"));
    assert_eq!(first.len(), 4 + 3, "images, mimic.csv, phantom.json, test.cache.safetensors");
    toy(at, 4);
    assert!(std::fs::read(at.join("mimic.csv")).unwrap() == first[Path::new("mimic.csv")]);
    let (code, report, said) = pack(at, "--table toy/mimic.csv --out real.safetensors");
    assert_eq!((code, &report["radiographs"]), (Some(0), &Value::from(4)), "{said}");
    let real = set(&at.join("real.safetensors"));
    assert_eq!(real.ids(), ["mimic_00001", "mimic_00002", "mimic_00003", "mimic_00004"]);
    let image = x2ct::ct::image::read(at.join("toy/images/mimic_00002.png")).unwrap();
    let want = pixels::encode(&image.pixels, [image.height, image.width], [20, 24], PixelType::U8);
    assert_eq!(real.image(1), want);
    // What evaluation reads.
    let labels_of = IdTable::labels(&id_table::open(at.join("real.labels.csv")).unwrap()).unwrap();
    assert_eq!(labels_of.names, LabelMap::open("mimic").unwrap().names());
    let mut reports = csv::Reader::from_path(at.join("real.reports.csv")).unwrap();
    for (number, record) in (1..=4).zip(reports.records()) {
        let (patient, record) = (mimic::patient(&phantoms(), number), record.unwrap());
        let id = &real.ids()[number as usize - 1];
        assert!(&record[0] == id && record[1].contains(&patient.report().impressions), "{record:?}");
        let present = patient.labels();
        let has = |name: &String| present[labels::NAMES.iter().position(|known| known == name).unwrap()];
        let want: Vec<bool> = labels_of.names.iter().map(has).collect();
        assert_eq!(labels_of.row(id).unwrap(), want);
    }
    // Mirrored, and in shards.
    assert_eq!(pack(at, "--table toy/mimic.csv --mirror --out mirrored.safetensors").0, Some(0));
    let mirrored = set(&at.join("mirrored.safetensors"));
    let turned: Vec<u8> = mirrored.image(1).chunks(24).flat_map(|row| row.iter().rev().copied()).collect();
    let differ = turned.iter().zip(&want).filter(|(a, b)| a.abs_diff(**b) > 1).count();
    assert!(mirrored.image(1) != want && differ == 0, "{differ} pixels differ");
    for shard in ["1/3", "2/3", "3/3"] {
        assert_eq!(pack(at, &format!("--table toy/mimic.csv --shard {shard} --out part.safetensors")).0, Some(0));
    }
    let parts = set(&at.join("part*.safetensors"));
    assert_eq!((parts.ids(), parts.image(1)), (real.ids(), real.image(1)));
}

/// Text features of packed radiographs' reports are those of the texts.
#[test]
fn reports_become_text_features() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    toy(at, 4);
    assert_eq!(pack(at, "--table mimic.csv --out real.safetensors").0, Some(0));
    let real = set(&at.join("real.safetensors"));
    let text =
        |table: &str, out: &str| x2ct(at, &format!("cache text --reports {table} --features 64 --json --out {out}"));
    let output = text("real.reports.csv", "real.text");
    let object: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((output.status.code(), &object["reports"], &object["empty_reports"]), (Some(0), &4.into(), &0.into()));
    let made = TextFeatures::read(at.join("real.text")).unwrap();
    assert_eq!(made.ids, real.ids());
    let written: Vec<String> = csv::Reader::from_path(at.join("real.reports.csv"))
        .unwrap()
        .records()
        .map(|row| row.unwrap()[1].into())
        .collect();
    let read = |text: &String| text.replace(['"', '\'', '(', ')'], "");
    let texts: Vec<String> = written.iter().map(read).collect();
    let want = HashedNgrams { dim: 64, ..HashedNgrams::default() }.features(real.ids().to_vec(), &texts).unwrap();
    assert!(made.features == want.features && made.provenance().reports() == want.provenance().reports());
    // One that says nothing is told; a table without reports, one of which all are empty, and a part of a table are refused.
    std::fs::write(at.join("few.csv"), "id,report\na,Clear.\nb,\n").unwrap();
    let output = text("few.csv", "few.text");
    assert!(
        output.status.success() && said(&output).contains("few.csv: says nothing of 1 volume(s)"),
        "{}",
        said(&output)
    );
    std::fs::write(at.join("none.csv"), "id,report\na,\nb,\n").unwrap();
    std::fs::write(at.join("other.csv"), "id,findings\na,Clear.\n").unwrap();
    for (table, says) in [
        ("none.csv", "none of its 2 reports says anything; fill in the column report"),
        ("other.csv", "other.csv: missing columns: report"),
        ("few.csv --split valid", "it acts with --dataset"),
    ] {
        let output = text(table, "no.text");
        assert!(!output.status.success() && said(&output).contains(says), "{table}: {}", said(&output));
    }
    assert!(said(&text("few.csv", "few.csv")).contains("is the same file as the input few.csv"));
}

#[test]
fn what_is_wrong_with_a_row_or_image_costs_itself() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    toy(at, 3);
    assert!(x2ct(at, "phantom --train 1 --valid 0 --shape 16x14x12 --spacing 9 --out ct").status.success());
    let volume = "ct/dataset/train_fixed/train_1/train_1_a/train_1_a_1.nii.gz";
    assert!(x2ct(at, &format!("drr {volume} --out images/simulated.png --device host")).status.success());
    std::fs::write(at.join("images/text.png"), b"no image at all").unwrap();
    std::fs::write(at.join("images/one.png"), blank()).unwrap();
    let table = "id,image,report,age,Emphysema,Atelectasis\n\
                 a,images/mimic_00001.png,\"Clear, dry.\",61,0,1\n\
                 b,images/absent.png,,62,0,1\n\
                 c,images/text.png,,63,0,1\n\
                 d,images/one.png,,64,0,1\n\
                 e,images/simulated.png,,65,0,1\n\
                 f,images/mimic_00002.png,,66,0,1\n\
                 f,images/mimic_00003.png,,67,0,1\n\
                 g,images/mimic_00003.png,,68,,1\n\
                 h,images/mimic_00003.png,,69,0,-1\n\
                 i,,,70,0,1\n\
                 j,images/mimic_00003.png,,71,0,maybe\n\
                 k,images/mimic_00003.png,,72\n\
                 l,images/mimic_00002.png,,73,1,0\n";
    std::fs::write(at.join("table.csv"), table).unwrap();
    let (code, report, said) = pack(at, "--table table.csv --out real.safetensors");
    assert_eq!(code, Some(1), "{said}");
    assert_eq!(set(&at.join("real.safetensors")).ids(), ["a", "l"]);
    assert_eq!(
        std::fs::read_to_string(at.join("real.labels.csv")).unwrap(),
        "id,Emphysema,Atelectasis\na,0,1\nl,1,0\n"
    );
    assert_eq!(std::fs::read_to_string(at.join("real.reports.csv")).unwrap(), "id,report\na,\"Clear, dry.\"\nl,\n");
    let failed: Vec<&str> = report["failed"].as_array().unwrap().iter().map(|f| f["error"].as_str().unwrap()).collect();
    let says = [
        "line 8, column id: f stands on line 7 already, in other words; neither counts",
        "line 9, column Emphysema: \"\" is not 0 or 1: say with --blank what it stands for",
        "line 10, column Atelectasis: \"-1\" is not 0 or 1: say with --uncertain what it stands for",
        "line 11, column image: \"\" is not the path of an image",
        "line 12, column Atelectasis: \"maybe\" is not 0 or 1",
        "line 13: has 4 fields, the header 6",
        "absent.png: cannot read",
        "text.png: is a text file, neither PNG",
        "one.png: plausibility: this is no radiograph",
        "simulated.png: is a simulated radiograph (mode mean-hu), not a real one",
    ];
    assert_eq!(failed.len(), says.len(), "{failed:#?}");
    failed.iter().zip(says).for_each(|(failed, says)| assert!(failed.contains(says), "{failed}, not {says}"));
    assert!(report["warnings"].to_string().contains("neither labels nor asked for, passed over: age"));

    // With rules for cells that say neither; with force.
    let (_, report, _) = pack(at, "--table table.csv --blank absent --uncertain present --force --out all.safetensors");
    let all = set(&at.join("all.safetensors"));
    assert_eq!(all.ids(), ["a", "d", "e", "g", "h", "l"]);
    assert_eq!(report["forced"], serde_json::json!(["d", "e"]));
    assert!(all.doubts()[0].what.contains("2 of its 6 radiographs"), "{}", all.doubts()[0].what);
    let table = std::fs::read_to_string(at.join("all.labels.csv")).unwrap();
    assert!(table.contains("g,0,1\nh,0,1\n"), "{table}");
}

/// A PNG of one grey.
fn blank() -> Vec<u8> {
    let image = x2ct::ct::GrayImage::new(vec![7.0; 64], 8, 8).unwrap();
    x2ct::ct::image::encode_png(&image, &Default::default(), &1.0.into()).unwrap()
}

#[test]
fn columns_are_named_and_a_table_without_one_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    toy(at, 2);
    std::fs::write(at.join("table.csv"), "Path,Sex,Edema\nmimic_00001.png,F,1.0\nmimic_00002.png,M,\n").unwrap();
    let output = x2ct(at, "radiographs --table table.csv --out real.safetensors");
    let says = "table.csv: has no column \"image\", but \"Path\", \"Sex\", \"Edema\"; name the column with --image";
    assert!(said(&output).contains(says), "{}", said(&output));
    let (code, report, said_of) = pack(
        at,
        "--table table.csv --root images --image Path --labels Edema --blank absent --format bf16 --view pa --out real.safetensors",
    );
    assert_eq!((code, &report["label_names"]), (Some(0), &serde_json::json!(["Edema"])), "{said_of}");
    let real = set(&at.join("real.safetensors"));
    assert_eq!((real.ids()[0].as_str(), real.pixel(), real.view()), ("mimic_00001", PixelType::Bf16, "pa"));
    assert!(!at.join("real.reports.csv").exists());
    for (arguments, says) in [
        ("--image Path --labels Sex", "\"F\" is not 0 or 1"),
        ("--image Path --labels Edema,Oedema", "has no column \"Oedema\""),
        ("--image Path --labels Edema,Edema", "\"Edema\" is asked for twice"),
        ("--image Path", "none of its 2 radiographs can be used; the first: "),
    ] {
        let output =
            x2ct(at, &format!("radiographs --table table.csv {arguments} --blank absent --out none.safetensors"));
        assert_eq!(output.status.code(), Some(1));
        assert!(said(&output).contains(says), "{}", said(&output));
        assert!(!at.join("none.safetensors").exists() && !at.join("none.unfinished").exists());
    }
    let output = x2ct(at, "radiographs --table table.csv --image Path --out real.csv");
    assert_eq!(output.status.code(), Some(2), "{}", said(&output));

    // Images of one name in folders of their own.
    for patient in ["p1", "p2"] {
        std::fs::create_dir(at.join(patient)).unwrap();
        std::fs::copy(at.join("images/mimic_00001.png"), at.join(patient).join("view.png")).unwrap();
    }
    std::fs::write(at.join("views.csv"), "image,Edema\np1/view.png,1\np2/view.png,0\n").unwrap();
    let output = x2ct(at, "radiographs --table views.csv --out views.safetensors");
    let says = "view stands on line 2 already, in other words; neither counts (ids are the images' names: --id names a column of others)";
    assert!(said(&output).contains(says), "{}", said(&output));
    assert_eq!(pack(at, "--table views.csv --id image --out views.safetensors").0, Some(0));

    // A table that the labels beside the radiographs would replace; labels of an earlier run.
    let bytes = std::fs::read(at.join("table.csv")).unwrap();
    std::fs::copy(at.join("table.csv"), at.join("own.labels.csv")).unwrap();
    let output = x2ct(at, "radiographs --table own.labels.csv --root images --image Path --out own.safetensors");
    assert!(
        said(&output).contains("own.labels.csv: is the same file as the input own.labels.csv"),
        "{}",
        said(&output)
    );
    assert!(std::fs::read(at.join("own.labels.csv")).unwrap() == bytes);
    assert!(at.join("real.labels.csv").exists());
    std::fs::write(at.join("plain.csv"), "image\nmimic_00001.png\n").unwrap();
    assert_eq!(pack(at, "--table plain.csv --root images --out real.safetensors").0, Some(0));
    assert!(!at.join("real.labels.csv").exists());
}

#[test]
fn a_run_that_was_stopped_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    toy(at, 6);
    let columns = Columns { image: "image".into(), ..Default::default() };
    let table = RadiographTable::read(&at.join("mimic.csv"), &columns, LabelRules::default()).unwrap();
    let options = RealOptions {
        root: at.into(),
        view: "frontal".into(),
        mirror: false,
        size: [20, 24],
        pixel: PixelType::U8,
        shard: [1, 1],
        restart: false,
        force: false,
    };
    let stop = AtomicBool::new(false);
    let out = at.join("out/real.safetensors");
    std::fs::create_dir(at.join("out")).unwrap();
    let stopped = pack_real(&table, &out, &options, &stop, &mut |event| {
        if let Progress::Done(done) = event {
            stop.store(done >= 3, Ordering::Relaxed);
        }
    });
    assert!(matches!(stopped, Err(Error::Interrupted(_))) && !out.exists(), "{stopped:?}");
    // With other options it is another run.
    let go = AtomicBool::new(false);
    let refused = pack_real(&table, &out, &RealOptions { mirror: true, ..options.clone() }, &go, &mut |_| {});
    assert!(refused.unwrap_err().to_string().contains("is of a run with other options"));
    // An image that changed meanwhile is read again.
    std::fs::copy(at.join("images/mimic_00006.png"), at.join("images/mimic_00001.png")).unwrap();
    let mut found = usize::MAX;
    pack_real(&table, &out, &options, &go, &mut |event| {
        if let Progress::Resumed(done) = event {
            found = done;
        }
    })
    .unwrap();
    assert!((2..5).contains(&found), "{found}");
    assert_eq!(names(&at.join("out")), ["real.labels.csv", "real.reports.csv", "real.safetensors"]);
    let real = set(&out);
    assert!(real.image(0) == real.image(5) && real.image(1) != real.image(5));
}

#[test]
fn real_radiographs_are_told_from_simulated_ones() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    toy(at, 2);
    assert_eq!(pack(at, "--table mimic.csv --out real.safetensors").0, Some(0));
    assert_eq!(pack(at, "--table mimic.csv --view lateral --out lateral.safetensors").0, Some(0));
    let made = |name: &str| set(&at.join(name)).provenance();
    let simulated = |view| {
        let options = RadiographOptions { view, ..Default::default() };
        radiographs::settings(&options, [20, 24], PixelType::U8)
    };
    let remarks = simulated(Projection::Ap).expect_alike("radiographs", &made("real.safetensors")).unwrap();
    let says = "radiographs: trained on simulated (mode mean-hu), these are real radiographs: ";
    assert!(remarks.len() == 2 && remarks[1].starts_with(says), "{remarks:?}");
    // From the front is from the front, and said, between real ones too; from behind and from ahead of simulated ones is not.
    let says =
        |trained: &str, other: &str| format!("radiographs: view: trained on {trained}, these are {other}: all frontal");
    assert!(remarks[0].starts_with(&says("ap", "frontal")), "{remarks:?}");
    for view in ["ap", "pa"] {
        assert_eq!(pack(at, &format!("--table mimic.csv --view {view} --out {view}.safetensors")).0, Some(0));
    }
    for (trained, other) in [("ap", "frontal"), ("frontal", "pa"), ("pa", "ap")] {
        let name = |view: &str| format!("{}.safetensors", if view == "frontal" { "real" } else { view });
        let remarks = made(&name(trained)).expect_alike("radiographs", &made(&name(other))).unwrap();
        assert!(remarks.len() == 1 && remarks[0].starts_with(&says(trained, other)), "{remarks:?}");
    }
    let remarks = simulated(Projection::Ap).expect_alike("radiographs", &made("pa.safetensors")).unwrap();
    assert!(remarks[0].starts_with(&says("ap", "pa")), "{remarks:?}");
    assert!(made("ap.safetensors").expect_alike("radiographs", &made("ap.safetensors")).unwrap().is_empty());
    assert!(simulated(Projection::Ap).expect_alike("radiographs", &simulated(Projection::Pa)).is_err());
    let turned = made("real.safetensors").expect_alike("radiographs", &simulated(Projection::Ap)).unwrap();
    assert!(turned[1].contains("trained on real radiographs, these are simulated (mode mean-hu)"), "{turned:?}");
    let error = simulated(Projection::Ap).expect_alike("radiographs", &made("lateral.safetensors")).unwrap_err();
    assert!(error.to_string().contains("view: trained on ap, these are lateral"), "{error}");
    let other = radiographs::settings(&RadiographOptions::default(), [24, 24], PixelType::U8);
    let error = other.expect_alike("radiographs", &made("real.safetensors")).unwrap_err();
    assert!(error.to_string().contains("size: trained on 24x24, these are 20x24"), "{error}");
    // Two sets of real ones are compared in everything.
    assert_eq!(pack(at, "--table mimic.csv --mirror --out mirrored.safetensors").0, Some(0));
    let error = made("real.safetensors").expect_alike("radiographs", &made("mirrored.safetensors")).unwrap_err();
    assert!(error.to_string().contains("mirror: trained on false, these are true"), "{error}");
}

#[cfg(feature = "dicom")]
#[test]
fn dicom_is_shown_bone_bright_and_says_its_view() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    for name in ["radiograph_monochrome1.dcm", "radiograph_monochrome2.dcm", "rle.dcm"] {
        std::fs::copy(crate::support::checkout("tests/dicom_files").join(name), at.join(name)).unwrap();
    }
    let table = "image\nradiograph_monochrome1.dcm\nradiograph_monochrome2.dcm\nrle.dcm\n";
    std::fs::write(at.join("table.csv"), table).unwrap();
    let (code, report, said) = pack(at, "--table table.csv --out real.safetensors");
    assert_eq!(code, Some(1), "{said}");
    assert_eq!(set(&at.join("real.safetensors")).ids(), ["radiograph_monochrome1", "radiograph_monochrome2"]);
    assert!(!at.join("real.labels.csv").exists() && report["labels"].is_null());
    assert!(said.contains("radiograph_monochrome1.dcm: It is MONOCHROME1, low values bright; inverted"), "{said}");
    assert!(report["failed"][0]["error"].as_str().unwrap().contains("rle.dcm: is an image of modality CT"), "{said}");
    let (_, report, _) = pack(at, "--table table.csv --view ap --out ap.safetensors");
    let failed = report["failed"].to_string();
    assert!(failed.contains("radiograph_monochrome1.dcm: is taken from pa by its file, not ap"), "{failed}");
}
