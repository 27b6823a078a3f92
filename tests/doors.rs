//! What is refused, or said, at the door: options that act on nothing, outputs that are inputs, pipes named as files, tables that
//! repeat themselves, and what killed runs have left.

use std::io::Read;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use libdeflater::{CompressionLvl, Compressor};
use nix::fcntl::{Flock, FlockArg};
use serde_json::Value;
use x2ct::ct::{AxisCodes, nifti};

use crate::cli::{json, prepare, succeed, text, x2ct};
use crate::dataset::{RUN, data_set, files, names};
use crate::json::assert_report;
use crate::support::npz::npz;
use crate::support::program;

/// A folder with the data of [`prepare`] and `volume.nii.gz`.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    prepare(folder.path());
    let volume = folder.path().join("dataset/train_fixed/train_1/train_1_a/train_1_a_1.nii.gz");
    std::fs::copy(volume, folder.path().join("volume.nii.gz")).unwrap();
    folder
}

fn said(output: &Output) -> String {
    text(&output.stderr)
}

#[test]
fn doctor_tries_the_device_that_is_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    for (device, usable) in [("auto", true), ("host", true), ("tpu", false), ("cuda:4096", false)] {
        let output = x2ct(folder.path(), &format!("doctor --device {device} --json"));
        let report = assert_report(device, &output, "doctor");
        assert_eq!(report["device"]["name"], device);
        assert_eq!((&report["device"]["usable"], output.status.success()), (&usable.into(), usable), "{device}");
        assert_eq!(said(&output).contains(device), !usable, "{}", said(&output));
    }
    assert!(succeed(folder.path(), "doctor --device host").contains("\n--device host: host processor"));
}

/// A device that is not there is refused by commands that compute on none as well.
#[test]
fn no_command_passes_over_the_device_it_is_given() {
    let folder = folder();
    for command in [
        "bench --list",
        "bench pointwise",
        "model resnet18",
        "phantom --out x",
        "train good.toml",
        "check checkpoint.safetensors",
        "drr volume.nii.gz --out x.png",
        "preprocess volume.nii.gz --preset x2ct --out x",
        "cache text --dataset . --out x",
        "eval --cache train.cache.safetensors --dataset . --split train",
        "predict ap.png --checkpoint checkpoint.safetensors --cache train.cache.safetensors",
    ] {
        let output = x2ct(folder.path(), &format!("{command} --device tpu"));
        assert_eq!(output.status.code(), Some(1), "{command}: {}", said(&output));
        assert!(said(&output).starts_with("x2ct: tpu: no such device"), "{command}: {}", said(&output));
    }
}

#[test]
fn an_empty_path_is_wrong_usage_of_every_option_that_takes_one() {
    let folder = tempfile::tempdir().unwrap();
    for words in [
        &["drr", "", "--out", "x.png"][..],
        &["drr", "v.nii", "--out", ""],
        &["drr", "v.nii", "--out", "x.png", "--metadata", ""],
        &["drr", "--dataset", "", "--split", "train", "--out", "x"],
        &["preprocess", "v.nii", "--preset", "x2ct", "--out", "x", "--pack", ""],
        &["train", ""],
        &["predict", "", "--checkpoint", "c", "--cache", "k"],
        &["predict", "i.png", "--checkpoint", "", "--cache", "k"],
        &["eval", "--cache", "", "--dataset", "."],
        &["eval", "--cache", "c", "--dataset", ".", "--csv", ""],
        &["check", ""],
        &["phantom", "--out", ""],
        &["demo", "--out", ""],
        &["bench", "--baseline", ""],
        &["bench", "--out", ""],
    ] {
        let output = Command::new(program()).args(words).current_dir(folder.path()).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{words:?}: {}", said(&output));
        assert!(said(&output).contains("a value is required for"), "{words:?}: {}", said(&output));
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn a_table_that_no_volume_of_a_folder_needs_is_wrong_usage() {
    let folder = folder();
    let at = folder.path();
    std::fs::create_dir(at.join("scans")).unwrap();
    std::fs::rename(at.join("volume.nii.gz"), at.join("scans/a.nii.gz")).unwrap();
    let table = "VolumeAcc_DEID,orig_slope,final_spacing\nb,1,20\n";
    std::fs::write(at.join("table.csv"), table).unwrap();
    let commands = [
        "drr scans --out made/ --metadata table.csv",
        "preprocess scans --preset x2ct --out made --metadata table.csv",
    ];
    for command in commands {
        let output = x2ct(at, command);
        assert_eq!(output.status.code(), Some(2), "{command}: {}", said(&output));
        assert!(said(&output).contains("`--metadata` has no effect here"), "{}", said(&output));
        assert!(!at.join("made").exists());
    }
    // With an .npz among them, known by its content, it acts.
    let voxels: Vec<i16> =
        (0..4096).map(|i| if i % 16 < 4 { -1000 + i as i16 % 7 } else { 40 + i as i16 % 31 }).collect();
    std::fs::write(at.join("scans/b"), npz([16, 16, 16], &voxels, true)).unwrap();
    let report = json(at, commands[0]);
    let rows = report["rows"].as_array().unwrap();
    assert_eq!(
        rows.iter().map(|row| row["input"].as_str().unwrap()).collect::<Vec<_>>(),
        ["scans/a.nii.gz", "scans/b"]
    );
    assert_eq!(rows[1]["volume"]["spacing_mm"], serde_json::json!([20.0, 20.0, 20.0]));
    assert_eq!(rows[1]["volume"]["axis_codes"], AxisCodes::LPI.to_string());
    assert_eq!(rows[1]["outputs"][0]["output"], "made/b.png");
}

#[test]
fn an_output_that_is_an_input_is_refused_and_stays() {
    let folder = folder();
    let at = folder.path();
    let volume = std::fs::read(at.join("volume.nii.gz")).unwrap();
    std::fs::create_dir(at.join("scans")).unwrap();
    std::fs::write(at.join("scans/a.nii.gz"), &volume).unwrap();
    std::fs::write(at.join("scans/b.safetensors"), &volume).unwrap();
    succeed(at, "bench pointwise --variant add --seconds 0.01 --device host --out kept.json");
    let before = files(at);
    for (command, file) in [
        ("bench pointwise --seconds 0.01 --baseline kept.json --out ./kept.json", "./kept.json"),
        ("drr volume.nii.gz --out ./volume.nii.gz", "./volume.nii.gz"),
        ("drr scans --out scans --pictures nii.gz", "scans/a.nii.gz"),
        ("preprocess scans/b.safetensors --preset x2ct --out scans/b.safetensors", "scans/b.safetensors"),
        ("preprocess scans --preset x2ct --out scans --pack scans/a.nii.gz", "scans/a.nii.gz"),
    ] {
        let output = x2ct(at, command);
        assert_eq!(output.status.code(), Some(1), "{command}: {}", said(&output));
        let expected = format!("x2ct: {file}: is the same file as the input ");
        assert!(said(&output).contains(&expected), "{command}: {}", said(&output));
        assert!(files(at) == before, "{command}");
    }
}

#[test]
fn nothing_is_written_among_what_is_read() {
    let folder = folder();
    let at = folder.path();
    let before = files(at);
    let eval = "eval --cache train.cache.safetensors --dataset . --split train --csv";
    for (command, file) in [
        (eval, "dataset/multi_abnormality_labels/train_predicted_labels.csv"),
        (eval, "dataset/new.csv"),
        ("cache text --dataset . --out", "dataset/train_fixed/train_1/train_1_a/train_1_a_1.nii.gz"),
        ("cache text --dataset . --out", "dataset/text.safetensors"),
    ] {
        let output = x2ct(at, &format!("{command} {file}"));
        let expected = format!("x2ct: {file}: lies in the input folder ./dataset; name another file to write");
        assert!(output.status.code() == Some(1) && said(&output).contains(&expected), "{command}: {}", said(&output));
        assert!(files(at) == before, "{command} {file}");
    }
    succeed(at, &format!("{eval} labels.csv"));
}

/// What an earlier run left of a volume that fails now is named: nothing takes it for new.
#[test]
fn outputs_of_an_earlier_run_are_told_where_their_volume_fails() {
    let folder = folder();
    let at = folder.path();
    std::fs::create_dir(at.join("scans")).unwrap();
    for name in ["a", "b"] {
        std::fs::copy(at.join("volume.nii.gz"), at.join(format!("scans/{name}.nii.gz"))).unwrap();
    }
    let commands = ["drr scans --out made/", "preprocess scans --preset x2ct --out made"];
    commands.iter().for_each(|command| drop(succeed(at, command)));
    std::fs::write(at.join("scans/b.nii.gz"), "no volume").unwrap();
    for (command, old) in commands.iter().zip(["made/b.png", "made/b.safetensors"]) {
        let output = x2ct(at, command);
        let expected = format!("{old}: Is of an earlier run, and its volume failed in this one.");
        assert!(output.status.code() == Some(1) && said(&output).contains(&expected), "{command}: {}", said(&output));
    }
}

#[test]
fn what_is_no_plain_file_is_refused_by_name_and_never_waited_for() {
    let folder = folder();
    let at = folder.path();
    assert!(Command::new("mkfifo").arg(at.join("pipe")).status().unwrap().success());
    let _socket = UnixListener::bind(at.join("socket")).unwrap();
    for command in [
        "drr FILE --out x.png",
        "drr FILE volume.nii.gz --out made/",
        "drr volume.nii.gz --hu-source csv --metadata FILE --out x.png",
        "preprocess FILE --preset x2ct --out x.safetensors",
        "predict FILE --checkpoint checkpoint.safetensors --cache train.cache.safetensors",
        "predict ap.png --checkpoint FILE --cache train.cache.safetensors",
        "predict ap.png --checkpoint checkpoint.safetensors --cache FILE",
        "eval --cache FILE --dataset . --split train",
        "check FILE",
        "train FILE",
        "bench pointwise --baseline FILE",
    ] {
        for (file, what) in
            [("pipe", "a pipe"), ("socket", "a socket"), ("/dev/zero", "a device"), ("/dev/stdin", "a pipe")]
        {
            let mut child = Command::new(program())
                .args(command.replace("FILE", file).split(' '))
                .current_dir(at)
                .stdin(Stdio::piped())
                .stdout(Stdio::null())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap();
            let begin = Instant::now();
            while child.try_wait().unwrap().is_none() {
                if begin.elapsed() > Duration::from_secs(60) {
                    child.kill().unwrap();
                    panic!("{command}: waits for {file}");
                }
                std::thread::sleep(Duration::from_millis(5));
            }
            let output = child.wait_with_output().unwrap();
            let expected = format!("{file}: cannot ");
            assert_eq!(output.status.code(), Some(1), "{command} {file}: {}", said(&output));
            let line = said(&output);
            assert!(
                line.contains(&expected) && line.contains(&format!("it is {what}, not a file")),
                "{command}: {line}"
            );
        }
    }
}

#[test]
fn what_is_compressed_twice_is_named_so() {
    let folder = folder();
    let at = folder.path();
    let once = std::fs::read(at.join("volume.nii.gz")).unwrap();
    let mut compressor = Compressor::new(CompressionLvl::fastest());
    let mut twice = vec![0; compressor.gzip_compress_bound(once.len())];
    let length = compressor.gzip_compress(&once, &mut twice).unwrap();
    std::fs::write(at.join("twice.nii.gz"), &twice[..length]).unwrap();
    let error = nifti::read(at.join("twice.nii.gz")).unwrap_err().to_string();
    assert!(error.ends_with("twice.nii.gz: is compressed by gzip twice; decompress it once with `gunzip`"), "{error}");
    let output = x2ct(at, "drr twice.nii.gz --out x.png");
    assert!(said(&output).contains("is compressed by gzip twice"), "{}", said(&output));
}

/// The volume of a row that stands twice in the same words is packed, and that is what is said.
#[test]
fn a_row_that_stands_twice_costs_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    data_set(at, 3);
    let table = at.join("dataset/metadata/train_metadata.csv");
    let rows = std::fs::read_to_string(&table).unwrap();
    std::fs::write(&table, format!("{rows}{}\n", rows.lines().last().unwrap())).unwrap();
    let output = x2ct(at, &format!("{RUN} out --json"));
    let report = assert_report("drr", &output, "drr");
    assert_eq!((output.status.code(), &report["radiographs"]), (Some(0), &3.into()), "{}", said(&output));
    let warnings = report["warnings"].as_array().unwrap();
    assert_eq!(warnings.len(), 1);
    let says = "line 5, column VolumeName: train_3_a_1 stands on line 4 already, in the same words, and counts once";
    assert_eq!(warnings[0]["warning"], says);
    assert!(said(&output).contains(says) && !said(&output).contains("left out"), "{}", said(&output));
}

/// Where prepared volumes go is a folder or a file of theirs; what is named as another file is neither.
#[test]
fn an_output_of_another_format_is_refused_with_what_is_written() {
    let folder = folder();
    let at = folder.path();
    std::fs::write(at.join("notes"), "notes").unwrap();
    let before = files(at);
    for out in ["table.csv", "made/x.nii.gz", "X.PNG", "notes"] {
        let output = x2ct(at, &format!("preprocess volume.nii.gz --preset x2ct --out {out}"));
        let expected = format!(
            "x2ct: --out: {out} is no folder, and prepared volumes are .safetensors files; name a file that ends in \
             .safetensors, or a folder, ended in / where it is not there yet"
        );
        assert!(output.status.code() == Some(1) && said(&output).contains(&expected), "{out}: {}", said(&output));
        assert!(files(at) == before, "{out}");
    }
    let several = "images are .png, .safetensors or .nii.gz files; name a folder, ended in / where it is not there yet, or of \
                   one volume a file that ends so";
    let data_set = "radiographs of a data set are packed in one; name a folder, ended in / where it is not there yet";
    for (arguments, out, says) in [
        ("volume.nii.gz checkpoint.safetensors", "table.csv", several),
        ("volume.nii.gz checkpoint.safetensors", "notes", several),
        ("dataset", "X.JPG", several),
        ("--dataset . --split train", "ap.safetensors", data_set),
        ("--dataset . --split train", "notes", data_set),
    ] {
        let output = x2ct(at, &format!("drr {arguments} --out {out}"));
        let expected = format!("x2ct: --out: {out} is no folder, and {says}");
        assert!(output.status.code() == Some(1) && said(&output).contains(&expected), "{out}: {}", said(&output));
        assert!(files(at) == before, "{out}");
    }
    // A folder may be called anything.
    succeed(at, "drr volume.nii.gz --out pictures.csv/");
    succeed(at, "drr volume.nii.gz --out pictures.csv");
    assert_eq!(names(&at.join("pictures.csv")), ["volume.png"]);
}

/// What a killed run left of other volumes of the folder goes as well; what is not its own stays.
#[test]
fn what_killed_runs_left_of_prepared_volumes_goes_with_the_next_to_the_folder() {
    let folder = folder();
    let at = folder.path();
    std::fs::create_dir(at.join("made")).unwrap();
    for name in [".other.safetensors.aB3def", ".living.safetensors.aB3def", ".notes.txt.aB3def"] {
        std::fs::write(at.join("made").join(name), "half").unwrap();
    }
    let file = std::fs::File::options().write(true).open(at.join("made/.living.safetensors.aB3def")).unwrap();
    let _living = Flock::lock(file, FlockArg::LockExclusiveNonblock).unwrap();
    succeed(at, "preprocess volume.nii.gz --preset x2ct --out made");
    assert_eq!(unfinished(&at.join("made")), [".living.safetensors.aB3def", ".notes.txt.aB3def"]);
}

/// Unfinished files of a folder.
fn unfinished(at: &Path) -> Vec<String> {
    names(at).into_iter().filter(|name| name.starts_with('.')).collect()
}

#[test]
fn what_a_killed_run_left_goes_with_the_next_and_what_a_living_one_writes_stays() {
    let folder = folder();
    let at = folder.path();
    for name in [".x.png.aB3def", ".x.png.live12", ".y.png.aB3def"] {
        std::fs::write(at.join(name), "half").unwrap();
    }
    let file = std::fs::File::options().write(true).open(at.join(".x.png.live12")).unwrap();
    let living = Flock::lock(file, FlockArg::LockExclusiveNonblock).unwrap();
    succeed(at, "drr volume.nii.gz --out x.png");
    assert_eq!(unfinished(at), [".x.png.live12", ".y.png.aB3def"]);
    drop(living);
    succeed(at, "drr volume.nii.gz --out x.png");
    assert_eq!(unfinished(at), [".y.png.aB3def"]);
    std::fs::remove_file(at.join(".y.png.aB3def")).unwrap();

    // A run killed while it writes, and the same again.
    succeed(at, "phantom --out big --train 1 --valid 0 --shape 96x96x96 --spacing 4");
    let volume = "big/dataset/train_fixed/train_1/train_1_a/train_1_a_1.nii.gz";
    let command = format!("preprocess {volume} --preset ct-clip-v2 --out big.safetensors --device host");
    let mut child = Command::new(program())
        .args(command.split(' '))
        .current_dir(at)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let begin = Instant::now();
    // To try the output makes one as well, for a moment.
    let writes = || unfinished(at).iter().any(|name| at.join(name).metadata().is_ok_and(|status| status.len() > 0));
    while !writes() {
        let over = child.try_wait().unwrap();
        assert!(over.is_none() && begin.elapsed() < Duration::from_secs(120), "never writes: {over:?}");
        std::thread::sleep(Duration::from_millis(1));
    }
    // While it lives, another run of the same leaves its file alone.
    let mine = unfinished(at);
    succeed(at, &command);
    assert!(unfinished(at).iter().all(|name| mine.contains(name)), "{mine:?}");
    child.kill().unwrap();
    let mut left = String::new();
    child.stderr.take().unwrap().read_to_string(&mut left).unwrap();
    child.wait().unwrap();
    std::fs::write(at.join(".big.safetensors.kil9ed"), "half").unwrap();
    succeed(at, &command);
    assert_eq!(unfinished(at), Vec::<String>::new(), "{left}");
}

fn keys_of(object: &Value) -> Vec<String> {
    object.as_object().unwrap().keys().cloned().collect()
}

/// Many volumes are listed with what is said of one.
#[test]
fn rows_of_many_volumes_say_what_is_said_of_one() {
    let folder = folder();
    let at = folder.path();
    std::fs::create_dir(at.join("scans")).unwrap();
    std::fs::copy(at.join("volume.nii.gz"), at.join("scans/a.nii.gz")).unwrap();
    let options = "--mode film --geometry cone --sod 900";
    let one = json(at, &format!("drr scans/a.nii.gz {options} --out one.png"));
    let many = json(at, &format!("drr scans {options} --view ap,lateral --out many/"));
    let row = &many["rows"][0];
    let of_run = ["command", "status", "device", "passed_over", "warnings", "failed"];
    for (key, value) in one.as_object().unwrap().iter().filter(|(key, _)| !of_run.contains(&key.as_str())) {
        match (key.as_str(), row["outputs"][0].get(key)) {
            ("output", Some(_)) => {}
            (_, Some(of_picture)) => assert_eq!(of_picture, value, "{key}"),
            ("seconds", None) => assert_eq!(keys_of(&row[key]), keys_of(value), "{key}"),
            (_, None) => assert_eq!(&row[key], value, "{key}"),
        }
    }
    assert_eq!(many["device"], one["device"]);
    let [ap, lateral] = &row["outputs"].as_array().unwrap()[..] else { panic!("two views: {row}") };
    let keys = keys_of(ap);
    assert!(keys.len() > 12 && keys.contains(&"window".into()) && keys.contains(&"padding_pixels".into()), "{keys:?}");
    assert_eq!(keys_of(lateral), keys);
    assert_eq!((&ap["output"], &lateral["output"]), (&"many/a-ap.png".into(), &"many/a-lateral.png".into()));
    assert_eq!(lateral["view"], "lateral");
    // What is passed over has one shape in every command.
    std::fs::write(at.join("scans/notes.txt"), "notes").unwrap();
    let golden = crate::support::checkout("tests/golden/relu_7x131.safetensors");
    let check = json(at, &format!("check {} scans", golden.display()));
    let of = |report: &Value| keys_of(&report["passed_over"][0]);
    assert_eq!(of(&json(at, "drr scans --out many/")), ["file", "reason"]);
    assert_eq!(of(&check), ["file", "reason"]);
}
