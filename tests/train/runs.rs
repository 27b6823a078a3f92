//! What becomes of a run that is started again: prolonged, finished, begun anew, without its log, on files that changed; and what is
//! checked before anything is written.

use std::path::Path;
use std::sync::atomic::AtomicBool;

use serde_json::Value;
use x2ct::archive::{Archive, Writer};
use x2ct::data::cache::EmbeddingCache;
use x2ct::data::cts::Cts;
use x2ct::data::radiographs::RadiographSet;
use x2ct::train::{Checkpoint, ScheduleConfig, ScheduleKind, TrainConfig, Trainer, TrainingSet};
use x2ct::{Device, Error};

use crate::cli::{configuration, json, prepare, succeed, x2ct};
use crate::support::Recorder;

/// A folder with the data of [`prepare`].
fn data() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    prepare(folder.path());
    folder
}

/// A folder for a run, and its configuration: two steps an epoch.
fn run(data: &Path, name: &str, epochs: usize, top: &str, tables: &str) -> std::path::PathBuf {
    let at = data.join(name);
    std::fs::create_dir_all(&at).unwrap();
    let text = configuration(data, epochs, 2).replace("checkpoint_steps = 1", "checkpoint_steps = 3");
    std::fs::write(at.join("run.toml"), format!("{top}\n{text}{tables}\n")).unwrap();
    at
}

fn train(at: &Path) -> Value {
    json(at, "train run.toml --device host")
}

/// What a run that ends with exit code 1 says, in its last line, and the only one unless it `began`.
fn failed(at: &Path, began: bool) -> String {
    let output = x2ct(at, "train run.toml --device host");
    let said = String::from_utf8(output.stderr).unwrap();
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!((output.status.code(), lines.len() > 1), (Some(1), began), "{said}");
    lines[lines.len() - 1].to_string()
}

fn refused(at: &Path) -> String {
    failed(at, false)
}

fn read(at: &Path, name: &str) -> Vec<u8> {
    std::fs::read(at.join("run").join(name)).unwrap()
}

const FILES: [&str; 2] = ["checkpoint.safetensors", "log.jsonl"];
const COSINE: &str = "[schedule]\nkind = \"cosine\"\nwarmup_steps = 1";

#[test]
fn a_prolonged_run_equals_the_longer_one_and_a_finished_one_says_so() {
    let data = data();
    let data = data.path();
    // Of a constant rate as far as one likes, of a cosine as far as it was planned.
    for (name, top, tables) in [("constant", "", ""), ("cosine", "schedule_epochs = 5", COSINE)] {
        let whole = run(data, &format!("{name} whole"), 5, top, tables);
        assert_eq!(train(&whole)["steps"], 10, "{name}");
        let at = run(data, name, 2, top, tables);
        let first = train(&at);
        assert_eq!((&first["steps"], &first["epochs"], &first["note"]), (&4.into(), &2.into(), &Value::Null));
        let again = train(&at);
        let note = "all 2 epochs were done; raise `epochs` to go on";
        assert_eq!(
            (&again["steps"], &again["position"]["epoch"], &again["note"]),
            (&0.into(), &2.into(), &note.into())
        );
        assert_eq!(again["last"], first["last"]);
        let output = x2ct(&at, "train run.toml --device host");
        assert_eq!(String::from_utf8(output.stderr).unwrap(), format!("{note}\n"));
        run(data, name, 5, top, tables);
        assert_eq!(train(&at)["steps"], 6, "{name}");
        assert!(FILES.iter().all(|file| read(&at, file) == read(&whole, file)), "{name}");
        run(data, name, 4, top, tables);
        let error = refused(&at);
        assert!(error.contains("epochs: is 4, the run began with 5, and may only grow"), "{error}");
    }
}

#[test]
fn a_cosine_is_prolonged_as_far_as_it_was_planned_only() {
    let data = data();
    let data = data.path();
    let at = run(data, "unplanned", 2, "", COSINE);
    train(&at);
    let note = train(&at)["note"].as_str().unwrap().to_string();
    assert!(note.starts_with("all 2 epochs were done, and the cosine was planned for no more"), "{note}");
    for (top, field) in [("", "epochs"), ("schedule_epochs = 3", "schedule_epochs")] {
        run(data, "unplanned", 3, top, COSINE);
        let error = refused(&at);
        let expected = format!("{field}: is 3, and the cosine of this run was planned for 2 epochs");
        assert!(error.contains(&expected) && error.contains("`schedule_epochs`"), "{error}");
    }
    run(data, "unplanned", 2, "schedule_epochs = 2", COSINE);
    assert_eq!(train(&at)["steps"], 0, "the same plan in other words");
    run(data, "unplanned", 3, "schedule_epochs = 2", COSINE);
    assert!(refused(&at).contains("schedule_epochs: is 2, must be from 3 to 1000000"));
    run(data, "unplanned", 2, "schedule_epochs = 2", "");
    assert!(refused(&at).contains("schedule_epochs: has no effect on a constant rate"));

    // What the rates of a cosine are: all of it first, a little last.
    let cosine = ScheduleConfig { kind: ScheduleKind::Cosine, warmup_steps: 2 };
    let factors: Vec<f64> = (0..6).map(|step| cosine.factor(step, 6)).collect();
    let expected = [0.5, 1.0, 1.0, 0.853_553_390_593_273_8, 0.5, 0.146_446_609_406_726_24];
    assert!(factors.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-15), "{factors:?}");
    assert_eq!(cosine.factor(6, 6), 0.0);
}

#[test]
fn a_log_that_is_damaged_or_gone_is_cut_and_the_run_goes_on() {
    let data = data();
    let data = data.path();
    let whole = run(data, "whole", 3, "", "");
    train(&whole);
    let at = run(data, "broken", 2, "", "");
    train(&at);
    let ([checkpoint, log], last) = (FILES.map(|file| read(&at, file)), read(&whole, "checkpoint.safetensors"));
    run(data, "broken", 3, "", "");
    let first = log.iter().position(|&byte| byte == b'\n').unwrap() + 1;
    let zeroed: Vec<u8> = [&log[..first], &vec![0; log.len() - first], b"\n"].concat();
    let text = String::from_utf8(log.clone()).unwrap();
    let null = text.replacen("\"loss\":", "\"loss\":null,\"was\":", 1);
    for (what, bytes, said, lines) in [
        ("zeroed", Some(zeroed), "lacks 3 of 4 steps (line 2 is damaged), and goes on after step 4", 3),
        ("null", Some(null.into_bytes()), "lacks 1 of 4 steps (line 1 is damaged), and goes on after step 4", 5),
        ("cut", Some(log[..first + 9].to_vec()), "lacks 3 of 4 steps (line 2 is damaged), and goes on after step 4", 3),
        ("short", Some(log[..first].to_vec()), "lacks 3 of 4 steps (it was cut), and goes on after step 4", 3),
        ("not text", Some(vec![0xff; 77]), "lacks 4 of 4 steps (line 1 is damaged), and goes on after step 4", 2),
        ("gone", None, "cannot be read (No such file or directory (os error 2)), and begins again after step 4", 2),
        // A gradient that is not finite is `null`, and no damage.
        ("skipped", Some(text.replacen("\"grad_norm\":", "\"grad_norm\":null,\"was\":", 1).into_bytes()), "", 6),
    ] {
        std::fs::write(at.join("run/checkpoint.safetensors"), &checkpoint).unwrap();
        match bytes {
            Some(bytes) => std::fs::write(at.join("run/log.jsonl"), bytes).unwrap(),
            None => std::fs::remove_file(at.join("run/log.jsonl")).unwrap(),
        }
        let report = train(&at);
        let warnings = report["warnings"].as_array().unwrap();
        let expected = serde_json::json!([{"file": "run/log.jsonl", "warning": said}]);
        let expected = expected.as_array().filter(|_| !said.is_empty()).cloned().unwrap_or_default();
        assert_eq!(warnings, &expected, "{what}");
        assert_eq!((report["provenance"].as_str(), report["steps"].as_u64()), (Some("recorded"), Some(2)), "{what}");
        assert!(read(&at, "checkpoint.safetensors") == last, "{what}");
        let log = String::from_utf8(read(&at, "log.jsonl")).unwrap();
        assert_eq!(log.lines().count(), lines, "{what}: {log}");
        assert!(log.lines().last().unwrap().starts_with("{\"step\":6,\"epoch\":2,"), "{what}: {log}");
    }
    // A log that cannot be written is no reason not to train.
    std::fs::write(at.join("run/checkpoint.safetensors"), &checkpoint).unwrap();
    std::fs::remove_file(at.join("run/log.jsonl")).unwrap();
    std::fs::create_dir(at.join("run/log.jsonl")).unwrap();
    let output = x2ct(&at, "train run.toml --device host");
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        output.status.success() && said.contains("is a folder") && said.contains("goes on without its log"),
        "{said}"
    );
    assert!(read(&at, "checkpoint.safetensors") == last);
}

#[test]
fn a_restart_keeps_what_was_there() {
    let data = data();
    let data = data.path();
    let at = run(data, "again", 1, "", "");
    train(&at);
    let first = FILES.map(|file| read(&at, file));
    // Another run in the same folder is refused, and then wanted.
    run(data, "again", 1, "seed = 5", "");
    let error = refused(&at);
    assert!(error.contains("seed: is 5, the run began with 1024") && error.contains("--restart"), "{error}");
    assert!(FILES.map(|file| read(&at, file)) == first);
    let report = json(&at, "train run.toml --device host --restart");
    assert_eq!(report["kept"], serde_json::json!(["run/log.1.jsonl", "run/checkpoint.1.safetensors"]));
    let second = FILES.map(|file| read(&at, file));
    assert!(second != first);
    json(&at, "train run.toml --device host --restart");
    assert!(["checkpoint.1.safetensors", "log.1.jsonl"].map(|file| read(&at, file)) == first);
    assert!(["checkpoint.2.safetensors", "log.2.jsonl"].map(|file| read(&at, file)) == second);
    assert!(FILES.map(|file| read(&at, file)) == second, "the same run again");
}

#[test]
fn a_run_that_has_begun_needs_its_initial_weights_no_more() {
    let data = data();
    let data = data.path();
    std::fs::copy(data.join("checkpoint.safetensors"), data.join("w.safetensors")).unwrap();
    let at = run(data, "weighed", 1, "weights = \"../w.safetensors\"", "");
    let digest = train(&at)["digests"]["weights"].as_str().unwrap().to_string();
    run(data, "weighed", 2, "weights = \"../w.safetensors\"", "");
    std::fs::remove_file(data.join("w.safetensors")).unwrap();
    let error = refused(&at);
    assert!(
        error.contains("../w.safetensors: cannot read the weights") && error.contains("leave `weights` out"),
        "{error}"
    );
    run(data, "weighed", 2, "", "");
    let report = train(&at);
    assert_eq!((&report["steps"], report["digests"]["weights"].as_str()), (&2.into(), Some(digest.as_str())));
}

#[test]
fn nothing_is_made_before_all_is_checked() {
    let data = data();
    let data = data.path();
    let at = run(data, "checked", 1, "", "");
    let good = std::fs::read_to_string(at.join("run.toml")).unwrap();
    std::fs::write(at.join("file"), b"").unwrap();
    for (from, to, said) in [
        ("train/ap", "absent/ap", "absent/ap.safetensors"),
        ("resnet18", "resnet9", "model.name: there is no model `resnet9`"),
        ("[model]", "weights = \"absent.safetensors\"\n[model]", "absent.safetensors: cannot read the weights"),
        ("batch = 2", "batch = 9\ndrop_last = true", "4 scans do not fill one batch of 9"),
        ("\"run\"", "\"file/run\"", "file/run: cannot create the folder: file is a file; name another folder"),
        ("\"run\"", "\"file\"", "file: cannot create the folder: file is a file"),
        ("\"phantom teacher\"", "\"another\"", "data.teacher: is \"another\", the cache is of \"phantom teacher\""),
    ] {
        assert!(good.contains(from));
        std::fs::write(at.join("run.toml"), good.replace(from, to)).unwrap();
        let error = refused(&at);
        assert!(error.contains(said), "{to}: {error}");
        assert!(!at.join("run").exists(), "{to}");
    }
    for (argument, said) in [
        (
            "picture.png",
            "picture.png: is a PNG image, not a TOML configuration; pass a configuration such as examples/train.toml",
        ),
        ("../train/ap.safetensors", "ap.safetensors: is a safetensors file, not a TOML configuration"),
        (".", ".: is a folder, not a configuration"),
    ] {
        std::fs::write(at.join("picture.png"), b"\x89PNG\r\n\x1a\n....").unwrap();
        let said_then = String::from_utf8(x2ct(&at, &format!("train {argument}")).stderr).unwrap();
        assert!(said_then.contains(said) && said_then.contains("[data]"), "{said_then}");
    }
}

/// What a run leaves out, and a schedule that it never gets through, is said before it begins.
#[test]
fn what_a_run_does_not_learn_from_is_told() {
    let data = data();
    let data = data.path();
    let path = data.join("train/ap.safetensors");
    let trained = |name: &str, top: &str, tables: &str, batch: usize| {
        let at = run(data, name, 2, top, tables);
        let text = std::fs::read_to_string(at.join("run.toml")).unwrap();
        std::fs::write(at.join("run.toml"), text.replace("batch = 2", &format!("batch = {batch}"))).unwrap();
        let output = x2ct(&at, "train run.toml --device host --json");
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{said}");
        (serde_json::from_slice::<Value>(&output.stdout).unwrap(), said)
    };
    // Four pairs: all of them, all but a single one, all but those that do not fill a batch.
    for (name, top, batch, left_out, why) in [
        ("all", "", 2, 0, ""),
        (
            "single",
            "",
            3,
            1,
            "each epoch leaves out 1 of 4 pairs, others each time: they do not fill a batch of 3 (a single",
        ),
        ("last", "drop_last = true", 3, 1, "do not fill a batch of 3 (drop_last is set)"),
    ] {
        let (report, said) = trained(name, top, "", batch);
        assert_eq!([&report["pairs"], &report["pairs_left_out"]], [4, left_out], "{name}");
        assert_eq!(report["last"]["step"], if left_out == 0 { 4 } else { 2 }, "{name}");
        assert!(said.contains(why) && said.contains("leaves out") == (left_out > 0), "{name}: {said}");
        assert_eq!(report["warnings"], serde_json::json!([]), "{name}");
    }
    for (kind, more) in [("constant", "or raise `epochs`"), ("cosine", "or plan for more epochs")] {
        let schedule = |steps: usize| format!("[schedule]\nkind = \"{kind}\"\nwarmup_steps = {steps}");
        let (report, _) = trained(&format!("{kind} long"), "", &schedule(16), 2);
        let says = format!(
            "schedule.warmup_steps: is 16, and the run has 4 steps, so that the learning rate comes to no more than 0.250 of its \
             height; set it to 0 to 4, {more}"
        );
        assert_eq!(report["warnings"], serde_json::json!([{"file": "run.toml", "warning": says}]));
        assert_eq!(trained(&format!("{kind} as long"), "", &schedule(4), 2).0["warnings"], serde_json::json!([]));
    }
    // Embeddings without a radiograph.
    let set = RadiographSet::read(&path).unwrap();
    let mut cache = EmbeddingCache::read(data.join("train.cache.safetensors")).unwrap();
    let ids = ["train_7_a_1", "train_8_a_1"];
    cache.ids.extend(ids.map(String::from));
    let first = 2 * cache.dim;
    let (ct, report) = (cache.ct[..first].to_vec(), cache.report[..first].to_vec());
    cache.ct.extend(ct);
    cache.report.extend(report);
    cache.cts = Cts::new((0..6).map(|row| set.cts().of(row % 4).to_string()).collect());
    cache.write(data.join("train.cache.safetensors")).unwrap();
    let (report, _) = trained("fewer", "", "", 2);
    let (file, other) = (path.display().to_string(), data.join("train.cache.safetensors"));
    let says = format!("has none of 2 volume(s) of {}: {}", other.display(), ids.join(", "));
    assert_eq!(report["warnings"], serde_json::json!([{"file": file, "warning": says}]));
    assert_eq!(report["pairs"], 4);
}

#[test]
fn a_run_on_files_that_changed_is_refused() {
    let data = data();
    let data = data.path();
    let at = run(data, "began", 1, "", "");
    train(&at);
    let began = FILES.map(|file| read(&at, file));
    for (dataset, seed, count) in [("others", 4, 4), ("fewer", 3, 3)] {
        succeed(
            data,
            &format!("phantom --out {dataset} --seed {seed} --train {count} --valid 1 --shape 16x16x16 --spacing 24"),
        );
    }
    let (file, kept) = (data.join("train/ap.safetensors"), data.join("kept"));
    std::fs::rename(&file, &kept).unwrap();
    for (dataset, options, view, says) in [
        ("others", "", "ap", "ct_digests: train_1_a_1: the radiographs are of the CT "),
        ("fewer", "", "ap", "data.radiographs.ct: content: the run began on 4 rows of digest "),
        (".", "--view lateral", "lateral", "view: trained on ap, these are lateral"),
        (".", "--mode film", "ap", "mode: trained on mean-hu, these are film"),
    ] {
        let made = format!("made {options} {dataset}").replace(' ', "_");
        succeed(data, &format!("drr --dataset {dataset} --split train --size 32x32 {options} --out {made}"));
        std::fs::copy(data.join(made).join(format!("{view}.safetensors")), &file).unwrap();
        // Of a finished run as of one that goes on.
        for epochs in [1, 3] {
            run(data, "began", epochs, "", "");
            // That the embeddings are of more patients is told before.
            let error = failed(&at, dataset == "fewer");
            assert!(error.contains("radiographs") && error.contains(says), "{error}");
        }
    }
    std::fs::rename(&kept, &file).unwrap();
    assert!(FILES.map(|file| read(&at, file)) == began);
    assert_eq!(train(&at)["steps"], 4);
}

#[test]
fn steps_without_an_update_are_counted_and_end_the_run() {
    let data = data();
    let data = data.path();
    // A rate at which gradients overflow while the loss does not.
    let at = run(data, "diverges", 40, "max_skipped_steps = 3", "").join("run.toml");
    let text = std::fs::read_to_string(&at).unwrap().replace("lr = 1e-3", "lr = 1e5");
    std::fs::write(&at, text).unwrap();
    let at = data.join("diverges");
    let error = refused(&at);
    assert!(error.contains("4 steps in a row, up to step ") && error.contains("max_skipped_steps is 3"), "{error}");
    let skipped = |line: &&str| serde_json::from_str::<Value>(line).unwrap()["grad_norm"].is_null();
    let log = String::from_utf8(read(&at, "log.jsonl")).unwrap();
    let last: Vec<bool> = log.lines().rev().map(|line| skipped(&line)).take(5).collect();
    assert_eq!(last, [true, true, true, true, false], "{log}");
    // The last checkpoint is of before; the run goes on from it, and comes to the same end.
    let checkpoint = read(&at, "checkpoint.safetensors");
    assert!(failed(&at, true).contains("4 steps in a row, up to step "));
    assert!(read(&at, "checkpoint.safetensors") == checkpoint && read(&at, "log.jsonl") == log.as_bytes());
}

/// A run that is stopped after every step knows on resuming how many were skipped before.
#[test]
fn skipped_steps_are_counted_over_resumptions() {
    let data = data();
    let data = data.path();
    let at = run(data, "diverges", 40, "max_skipped_steps = 3", "").join("run.toml");
    std::fs::write(&at, std::fs::read_to_string(&at).unwrap().replace("lr = 1e-3", "lr = 1e5")).unwrap();
    let (device, config) = (Device::host(), TrainConfig::read(&at).unwrap());
    let radiographs = RadiographSet::read(&config.data.radiographs).unwrap();
    let set = TrainingSet::join(&device, &radiographs, &EmbeddingCache::read(&config.data.cache).unwrap()).unwrap();
    let whole = Trainer::new(&device, &config)
        .and_then(|mut trainer| trainer.run(&set, &mut Recorder::default(), &AtomicBool::new(false)))
        .unwrap_err()
        .to_string();
    assert!(whole.contains("4 steps in a row, up to step "), "{whole}");

    let file = data.join("stopped.safetensors");
    Trainer::new(&device, &config).unwrap().checkpoint().unwrap().write(&file).unwrap();
    let resumed = |checkpoint: &Checkpoint| {
        let stop = AtomicBool::new(false);
        let stop_after = Some((checkpoint.position.step + 1, &stop));
        let mut recorder = Recorder { stop_after, write_to: Some(file.clone()), ..Default::default() };
        Trainer::resume(&device, checkpoint).unwrap().run(&set, &mut recorder, &stop).unwrap_err()
    };
    let error = loop {
        let checkpoint = Checkpoint::read(&file).unwrap();
        assert!(checkpoint.position.step < 80, "it never ends");
        match resumed(&checkpoint) {
            Error::Interrupted(_) => {}
            error => break error.to_string(),
        }
    };
    assert_eq!(error, whole);
    let last = Checkpoint::<TrainConfig>::read(&file).unwrap();
    assert_eq!(last.skipped_in_a_row, 3);
    // A checkpoint of before this was kept counts none.
    let archive = Archive::read(&file, "x2ct-checkpoint-1", "checkpoint", "").unwrap();
    let tensors: Vec<_> = archive.names().map(|name| (name, archive.f32(name).unwrap())).collect();
    let mut older = Writer::new("x2ct-checkpoint-1");
    let texts = archive.texts().iter().filter(|(key, _)| !["skipped_in_a_row", "checksum"].contains(&key.as_str()));
    texts.for_each(|(key, text)| older.set(key, text));
    tensors.iter().for_each(|(name, (shape, data))| older.put_f32(name, shape, data));
    older.write(&data.join("older.safetensors")).unwrap();
    let older = Checkpoint::<TrainConfig>::read(&data.join("older.safetensors")).unwrap();
    assert_eq!((older.skipped_in_a_row, older.position, older.digest()), (0, last.position, last.digest()));
}
