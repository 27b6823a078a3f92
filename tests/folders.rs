//! `x2ct drr` on what people have: folders of many things, volumes that cannot be chests, tables that disagree with files.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use x2ct::Device;
use x2ct::archive::Archive;
use x2ct::ct::{CtVolume, nifti};
use x2ct::data::cache::EmbeddingCache;
use x2ct::data::ct_rate::{CtRate, HuSource, Split};
use x2ct::data::ingest::{IngestOptions, Ingested, Progress, ingest};
use x2ct::data::radiographs::RadiographSet;

use crate::cli::{configuration, json, prepare, succeed};
use crate::cts::rewrite;
use crate::dataset::{RUN, data_set, files, make, names, options, said, x2ct};
use crate::left_out::refused;

#[test]
fn folders_become_pictures() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    data_set(at, 3);
    let below = "dataset/train_fixed";
    std::fs::write(at.join(below).join("train_2/train_2_a/train_2_a_1.nii.gz"), b"nothing").unwrap();
    std::fs::write(at.join(below).join("train_2/._hidden.nii.gz"), b"nothing").unwrap();
    std::fs::create_dir(at.join(below).join("train_2/series")).unwrap();
    std::fs::write(at.join(below).join("train_2/series/1.dcm"), b"nothing").unwrap();
    std::fs::write(at.join(below).join("notes.txt"), b"nothing").unwrap();
    let output = x2ct(at, &format!("drr {below} --view ap,lateral --out pictures --json"));
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert_eq!(
        names(&at.join("pictures")),
        [1, 3]
            .map(|i| ["ap", "lateral"].map(|view| format!("train_{i}/train_{i}_a/train_{i}_a_1-{view}.png")))
            .concat()
    );
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let left_out: Vec<&str> =
        report["failed"].as_array().unwrap().iter().map(|f| f["file"].as_str().unwrap()).collect();
    let bad = ["series/1.dcm", "train_2_a/train_2_a_1.nii.gz"].map(|name| format!("{below}/train_2/{name}"));
    assert_eq!(left_out, bad);
    let lines = said(&output);
    assert_eq!(lines.lines().filter(|line| line.starts_with("x2ct: left out: ")).count(), 2, "{lines}");
    // Everything else is named with the reason.
    assert_eq!(
        report["passed_over"],
        serde_json::json!([
            {"file": format!("{below}/notes.txt"), "reason": "a text file"},
            {"file": format!("{below}/train_2/._hidden.nii.gz"), "reason": "hidden"},
        ])
    );
    assert!(lines.contains(&format!("x2ct: passed over 1 (hidden): {below}/train_2/._hidden.nii.gz")), "{lines}");
    // Files by name; one view needs no name of its own; the same picture as of one volume alone.
    let [first, third] = [1, 3].map(|i| format!("{below}/train_{i}/train_{i}_a/train_{i}_a_1.nii.gz"));
    assert!(x2ct(at, &format!("drr {first} {third} --out few")).status.success());
    assert_eq!(names(&at.join("few")), ["train_1_a_1.png", "train_3_a_1.png"]);
    assert!(x2ct(at, &format!("drr {first} --out one.png")).status.success());
    assert!(x2ct(at, &format!("drr {first} --out few --pictures safetensors")).status.success());
    let few = files(&at.join("few"));
    assert_eq!(few[Path::new("train_1_a_1.png")], std::fs::read(at.join("one.png")).unwrap());
    assert!(few.contains_key(Path::new("train_1_a_1.safetensors")));
}

/// What lies in a folder is known by content: endings in capitals, other endings and none, DICOM and NIfTI side by side.
#[test]
fn volumes_of_a_folder_are_known_by_content() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    data_set(at, 1);
    let volume = std::fs::read(at.join("dataset/train_fixed/train_1/train_1_a/train_1_a_1.nii.gz")).unwrap();
    std::fs::create_dir_all(at.join("tree/sub")).unwrap();
    for name in ["a.nii.gz", "B.NII.GZ", "sub/a.nii.gz", "sub/no_ending"] {
        std::fs::write(at.join("tree").join(name), &volume).unwrap();
    }
    let mut dicom = vec![0; 128];
    dicom.extend(b"DICM");
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n";
    for (name, bytes) in
        [("stray.dcm", &dicom[..]), ("pointer.nii.gz", pointer.as_bytes()), ("page.nii", b"<html></html>")]
    {
        std::fs::write(at.join("tree").join(name), bytes).unwrap();
    }
    std::os::unix::fs::symlink("..", at.join("tree/sub/up")).unwrap();
    let output = x2ct(at, "drr tree --out pictures --json");
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert_eq!(names(&at.join("pictures")), ["B.png", "a.png", "sub/a.png", "sub/no_ending.png"]);
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let list = |key: &str, what: &str| -> Vec<String> {
        let rows = report[key].as_array().unwrap().iter();
        rows.map(|row| format!("{}: {}", row["file"].as_str().unwrap(), row[what].as_str().unwrap())).collect()
    };
    let passed = list("passed_over", "reason");
    assert_eq!(passed[0], "tree/sub/up: a folder that is looked at already");
    assert!(passed.len() == 2 && passed[1].starts_with("tree/stray.dcm: a single DICOM image"), "{passed:?}");
    let failed: Vec<String> = list("failed", "error");
    assert!(failed.len() == 2 && failed[0].contains("page.nii") && failed[1].contains("pointer.nii.gz"), "{failed:?}");
    assert!(failed[0].contains("HTML") && failed[1].contains("git lfs pull"), "{failed:?}");
    // Equal names get a number, a file named twice is made once.
    let output = x2ct(at, "drr tree/a.nii.gz tree/sub/a.nii.gz ./tree/a.nii.gz --out few");
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(names(&at.join("few")), ["a-2.png", "a.png"]);
    assert!(said(&output).contains("tree/sub/a.nii.gz: Its output is named a-2, since tree/a.nii.gz has its name."));
    assert!(said(&output).contains("passed over 1 (the same file as tree/a.nii.gz): ./tree/a.nii.gz"));
}

/// A folder that lies in another is read with it, whichever is named first, and costs nothing.
#[test]
fn a_folder_in_another_that_is_named_too_is_passed_over() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    data_set(at, 1);
    std::fs::create_dir_all(at.join("two/a")).unwrap();
    std::fs::rename(at.join("dataset/train_fixed/train_1/train_1_a/train_1_a_1.nii.gz"), at.join("two/a/v.nii.gz"))
        .unwrap();
    for (paths, file, reason) in [
        ("two two/a", "two/a", "a folder that is looked at already"),
        ("two/a two", "two/a", "a folder that is looked at already"),
        ("two two", "two", "a folder that is looked at already"),
        ("two two/a/v.nii.gz", "two/a/v.nii.gz", "the same file as two/a/v.nii.gz"),
    ] {
        let output = x2ct(at, &format!("drr {paths} --out made/ --json"));
        assert_eq!(output.status.code(), Some(0), "{paths}: {}", said(&output));
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(report["passed_over"], serde_json::json!([{"file": file, "reason": reason}]), "{paths}");
        assert_eq!((&report["volumes"], &report["status"]), (&1.into(), &"ok".into()), "{paths}");
    }
    // One without a volume fails all the same.
    std::fs::create_dir(at.join("empty")).unwrap();
    let output = x2ct(at, "drr two empty --out made/");
    assert!(
        output.status.code() == Some(1) && said(&output).contains("empty: no volume is in it"),
        "{}",
        said(&output)
    );
}

/// What is said of a data set's volumes names their files.
#[test]
fn volumes_of_a_data_set_that_fail_are_named_by_their_files() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let data = data_set(at, 4);
    let file = |i: usize| format!("./dataset/train_fixed/train_{i}/train_{i}_a/train_{i}_a_1.nii.gz");
    let change = |i: usize, edit: &dyn Fn(CtVolume) -> CtVolume| {
        let path = data.path(&data.volumes[i - 1]);
        nifti::write(&path, &edit(nifti::read(&path).unwrap())).unwrap();
    };
    change(1, &|volume| CtVolume { slope: 0.0005, ..volume });
    change(2, &|volume| CtVolume { intercept: 1024.0, ..volume });
    std::fs::write(at.join(file(3)), "no volume").unwrap();
    let run = |options: &str| {
        let output = x2ct(at, &format!("{RUN} out --json{options}"));
        serde_json::from_slice::<serde_json::Value>(&output.stdout).unwrap()
    };
    let report = run("");
    let failed: Vec<_> = report["failed"].as_array().unwrap().iter().map(|f| (&f["file"], &f["field"])).collect();
    let [first, third] = [1, 3].map(|i| serde_json::Value::from(file(i)));
    assert_eq!(failed, [(&first, &"plausibility".into()), (&third, &serde_json::Value::Null)]);
    assert_eq!(report["warnings"][0]["file"], file(2));
    assert_eq!(run(" --force")["forced"], serde_json::json!([file(1)]));
}

/// What cannot be a chest CT is never packed as `ok`: it fails, or is packed as `forced` where the user insists.
#[test]
fn implausible_volumes_are_never_packed_as_ok() {
    let folder = tempfile::tempdir().unwrap();
    let (data, path) = (data_set(folder.path(), 5), |name: &str| folder.path().join(name));
    let change = |i: usize, edit: &dyn Fn(CtVolume) -> CtVolume| {
        let file = data.path(&data.volumes[i]);
        nifti::write(&file, &edit(nifti::read(&file).unwrap())).unwrap();
    };
    change(1, &|volume| CtVolume { slope: 0.0005, ..volume });
    change(2, &|volume| CtVolume { intercept: 1024.0, ..volume });
    change(4, &|volume| CtVolume { voxels: vec![0i16; volume.shape.iter().product()].into(), ..volume });
    let statuses = |made: &Ingested| -> Vec<String> {
        let manifest = std::fs::read_to_string(&made.manifest).unwrap();
        manifest.lines().skip(1).map(|line| line.split(',').nth(1).unwrap().to_string()).collect()
    };
    let made = make(&data, &path("out"), &options()).unwrap();
    assert_eq!(statuses(&made), ["ok", "failed", "doubtful", "ok", "failed"]);
    assert!(made.failed[0].1.contains("train_2_a_1.nii.gz: plausibility: this is no chest CT"), "{:?}", made.failed);
    assert!(made.failed[1].1.contains("train_5_a_1.nii.gz: plausibility: this is no chest CT"), "{:?}", made.failed);
    assert!(made.warnings[0].1.contains("HU + 1024") && made.warnings.len() == 1, "{:?}", made.warnings);
    assert_eq!(RadiographSet::read(&path("out/ap.safetensors")).unwrap().ids().len(), 3);
    let forced = make(&data, &path("out"), &IngestOptions { force: true, ..options() }).unwrap();
    assert_eq!(statuses(&forced), ["ok", "forced", "doubtful", "ok", "forced"]);
    assert_eq!((forced.made, forced.forced[0].to_string()), (5, "train_2_a_1".into()));
    // Without --force what was forced no longer stands.
    let made = make(&data, &path("out"), &options()).unwrap();
    assert_eq!(statuses(&made), ["ok", "failed", "doubtful", "ok", "failed"]);
    assert_eq!(RadiographSet::read(&path("out/ap.safetensors")).unwrap().ids().len(), 3);
    // A manifest from before the check is not taken up.
    let manifest = std::fs::read_to_string(&made.manifest).unwrap();
    let old: String = manifest.lines().map(|line| line.rsplitn(3, ',').last().unwrap().to_string() + "\n").collect();
    std::fs::write(&made.manifest, old).unwrap();
    let error = make(&data, &path("out"), &options()).unwrap_err().to_string();
    assert!(error.contains("manifest.csv: is a manifest of version 1") && error.contains("--restart"), "{error}");
}

/// The radiographs of a set that were made by force, as the set says; none where it has no such entry.
fn doubts(path: &Path) -> Vec<String> {
    RadiographSet::read(path).unwrap().doubts().into_iter().map(|doubt| doubt.what).collect()
}

/// What was made by force stays known in the packed files, however the run went, and is said again by what they are used for.
#[test]
fn radiographs_that_were_made_by_force_are_told_where_they_are_used() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    prepare(at);
    let data = CtRate::read(at, Split::Train, HuSource::AlreadyHu).unwrap();
    for row in [1, 3] {
        let file = data.path(&data.volumes[row]);
        nifti::write(&file, &CtVolume { slope: 0.0005, ..nifti::read(&file).unwrap() }).unwrap();
    }
    let run = |options: &str| succeed(at, &format!("drr --dataset . --split train --size 32x32 {options}"));
    run("--force --out forced");
    for shard in ["1/2", "2/2"] {
        run(&format!("--force --out shards --shard {shard}"));
    }
    let mut cache = EmbeddingCache::read(at.join("train.cache.safetensors")).unwrap();
    cache.cts = RadiographSet::read(&at.join("forced")).unwrap().cts().clone();
    cache.write(at.join("train.cache.safetensors")).unwrap();
    let says = "2 of its 4 radiographs show nothing or no plausible chest CT and were made with --force: train_2_a_1, train_4_a_1";
    let eval = "eval --checkpoint run/checkpoint.safetensors --cache train.cache.safetensors --dataset . --split train";
    for radiographs in ["forced", "shards"] {
        let of_train = format!("{}/train/ap.safetensors", at.display());
        std::fs::write(at.join("run.toml"), configuration(at, 1, 4).replace(&of_train, radiographs)).unwrap();
        for command in ["train run.toml --restart".to_string(), format!("{eval} --radiographs {radiographs}")] {
            let told = json(at, &command)["warnings"].to_string();
            let expected = serde_json::json!({"file": radiographs, "warning": says}).to_string();
            assert_eq!(told.matches(&expected).count(), 1, "{command}: {told}");
            let refusal = refused(at, &format!("{command} --strict"));
            let expected =
                format!("{radiographs}: {says}; correct their CTs, or make them again without --force, or leave");
            assert!(refusal.contains(&expected), "{command}: {refusal}");
        }
    }
    // A file of an earlier version says nothing; the same command packs it again.
    let packed = at.join("forced/ap.safetensors");
    let before = std::fs::read(&packed).unwrap();
    rewrite(&packed, "origins", None);
    assert_eq!(doubts(&packed), [""; 0]);
    run("--force --out forced");
    assert!(std::fs::read(&packed).unwrap() == before);
    rewrite(&packed, "origins", Some("[{\"forced\":true}]"));
    let error = RadiographSet::read(&packed).map(drop).unwrap_err().to_string();
    assert!(error.contains("ap.safetensors: has 1 origins for 4 ids; make the file again"), "{error}");
    // One with nothing to say has no entry.
    let plain = Archive::read(&at.join("train/ap.safetensors"), "x2ct-radiographs-2", "radiographs", "").unwrap();
    assert!(!plain.texts().contains_key("origins"));
}

/// A run that is stopped and taken up again knows what it made by force before; and a set that is written anew.
#[test]
fn what_was_made_by_force_is_known_after_a_run_was_stopped() {
    let folder = tempfile::tempdir().unwrap();
    let (data, path) = (data_set(folder.path(), 4), |name: &str| folder.path().join(name));
    let file = data.path(&data.volumes[1]);
    nifti::write(&file, &CtVolume { slope: 0.0005, ..nifti::read(&file).unwrap() }).unwrap();
    let options = IngestOptions { force: true, ..options() };
    let ingest_until = |count: usize| {
        let stop = AtomicBool::new(false);
        let made = ingest(&Device::host(), &data, &path("out"), &options, &stop, &mut |event| {
            if let Progress::Done(done) = event {
                stop.store(done >= count, Ordering::Relaxed);
            }
        });
        made.is_ok()
    };
    assert!(!ingest_until(3) && ingest_until(5));
    let says = ["1 of its 4 radiographs show nothing or no plausible chest CT and were made with --force: train_2_a_1"];
    for view in ["ap", "lateral"] {
        assert_eq!(doubts(&path("out").join(format!("{view}.safetensors"))), says, "{view}");
    }
    RadiographSet::read(&path("out/ap.safetensors")).unwrap().write(&path("anew")).unwrap();
    assert_eq!(doubts(&path("anew")), says);
}

/// One bad row costs its volume; a file without a row, and a root that is one folder off, are told.
#[test]
fn tables_and_files_that_disagree_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let data = data_set(at, 4);
    let edit = |table: &str, edit: &dyn Fn(String) -> String| {
        let path = at.join("dataset").join(table);
        std::fs::write(&path, edit(std::fs::read_to_string(&path).unwrap())).unwrap();
    };
    edit("multi_abnormality_labels/train_predicted_labels.csv", &|text| {
        let rows = text
            .lines()
            .map(|line| if line.starts_with("train_2") { line.replacen(",0", ",x", 1) } else { line.into() });
        rows.map(|line: String| line + "\r\n").collect()
    });
    let report = "radiology_text_reports/train_reports.csv";
    edit(report, &|text| text.replace("train_3_a_1", "train_9_a_1"));
    edit("metadata/train_metadata.csv", &|text| {
        text.lines().filter(|l| !l.starts_with("train_4")).map(|l| format!("{l}\n")).collect()
    });
    let output = x2ct(at, &format!("{RUN} out --json"));
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&report["radiographs"], report["failed"].as_array().unwrap().len()), (&1.into(), 1));
    assert!(report["failed"][0]["field"].as_str().unwrap().starts_with("line 3, column "), "{report}");
    let warnings = report["warnings"].to_string();
    assert!(warnings.contains("has no row for 1 volume(s), left out: train_3_a_1"), "{warnings}");
    assert!(warnings.contains("has no row for 2 volume(s), left out: train_4_a_1, train_9_a_1"), "{warnings}");
    // The metadata know it no more, the labels and the reports do: that is said above.
    assert_eq!(report["passed_over"], serde_json::json!([]));
    for table in ["multi_abnormality_labels/train_predicted_labels.csv", "radiology_text_reports/train_reports.csv"] {
        edit(table, &|text| text.lines().filter(|l| !l.starts_with("train_4")).map(|l| format!("{l}\n")).collect());
    }
    let output = x2ct(at, &format!("{RUN} other --json"));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["passed_over"][0]["reason"], "no table has a row for it");
    assert!(report["passed_over"][0]["file"].as_str().unwrap().ends_with("train_4_a_1.nii.gz"), "{report}");
    let output = x2ct(at, "drr --dataset ./dataset --split train --out x");
    assert!(said(&output).contains("the data set's root is ., name that"), "{}", said(&output));
    assert_eq!(data.volumes.len(), 4);
}
