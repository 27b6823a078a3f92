//! One bad volume, report or label row costs itself alone, in `cache build` and `eval`: what is left is what the others alone give,
//! to the last bit, and a run after the fault is mended computes what is missing. What makes scores mean nothing is said.

use std::path::Path;
use std::sync::atomic::AtomicBool;

use safetensors::Dtype;
use serde_json::{Value, json};
use x2ct::archive::TensorStream;
use x2ct::ct::{Collimation, Preset, RadiographOptions};
use x2ct::data::cache::EmbeddingCache;
use x2ct::data::ct_rate::{CtRate, HuSource, Split};
use x2ct::data::radiographs::RadiographSet;
use x2ct::data::rows;
use x2ct::data::text::HashedNgrams;
use x2ct::data::volumes::{LeftOut, ONE, VolumeSet};
use x2ct::eval::retrieval::{self, Spread};
use x2ct::eval::scores::{Scores, Targets};
use x2ct::train::{Checkpoint, CtTeacher, Texts, Trainer, TrainingSet, Watch};
use x2ct::{Device, labels};

use crate::cli::{configuration, json, prepare, succeed, text, x2ct};
use crate::json::assert_report;
use crate::support::normal;
use crate::teacher::{FEATURES, config};

const LABELS: &str = "dataset/multi_abnormality_labels/valid_predicted_labels.csv";
pub const SHAPE: [usize; 3] = [28, 24, 20];
pub const BUILD: &str = "cache build --checkpoint checkpoint.safetensors --text text --volumes";

/// Runs a command that leaves things out: its object, and `file: field: error` of each.
fn leaves_out(at: &Path, arguments: &str) -> (Value, Vec<String>) {
    let output = x2ct(at, &format!("{arguments} --json"));
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "x2ct {arguments}: {said}");
    let object = assert_report(arguments, &output, arguments.split(' ').next().unwrap());
    let line = |f: &Value| {
        assert!(said.contains(&format!("x2ct: left out: {}", f["error"].as_str().unwrap())), "{f}: {said}");
        format!("{}: {}: {}", f["file"].as_str().unwrap(), f["field"].as_str().unwrap_or("-"), f["error"])
    };
    let lines = object["failed"].as_array().unwrap().iter().map(line).collect();
    (object, lines)
}

/// Runs a command that must fail without a result; its message.
pub fn refused(at: &Path, arguments: &str) -> String {
    let output = x2ct(at, &format!("{arguments} --json"));
    let object = assert_report(arguments, &output, arguments.split(' ').next().unwrap());
    assert_eq!(object.as_object().unwrap().len(), 4, "x2ct {arguments}: {object}");
    text(&output.stderr)
}

/// What an evaluation scores, without what is said of its inputs.
fn scores(object: &Value) -> [&Value; 3] {
    ["gallery", "retrieval", "zero_shot"].map(|key| &object[key])
}

/// Edits lines of a table that begin with `name`; none is dropped.
fn edit(path: &Path, name: &str, edit: impl Fn(&str) -> Option<String>) {
    let before = std::fs::read_to_string(path).unwrap();
    let line = |line: &str| if line.starts_with(name) { edit(line) } else { Some(line.to_string()) };
    let after: String = before.lines().filter_map(line).map(|line| line + "\n").collect();
    assert_ne!(before, after);
    std::fs::write(path, after).unwrap();
}

/// Some rows of a cache, in order.
fn some(cache: &EmbeddingCache, keep: impl Fn(&str) -> bool) -> EmbeddingCache {
    let rows: Vec<usize> = (0..cache.ids.len()).filter(|&row| keep(&cache.ids[row])).collect();
    let mut less = cache.clone();
    less.cts = cache.cts.select(&rows);
    less.ids = rows.iter().map(|&row| cache.ids[row].clone()).collect();
    less.ct = rows::select(&cache.ct, cache.dim, &rows);
    less.report = rows::select(&cache.report, cache.dim, &rows);
    less
}

#[test]
fn a_volume_without_labels_is_left_out_of_all_scores_of_a_cache() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    succeed(at, "phantom --out . --train 1 --valid 8 --shape 16x16x16 --spacing 24");
    let table = at.join(LABELS);
    let whole = std::fs::read_to_string(&table).unwrap();
    let cache = EmbeddingCache::read(at.join("valid.cache.safetensors")).unwrap();
    some(&cache, |id| id != "valid_3_a_1").write(at.join("seven")).unwrap();
    let expected = json(at, "eval --cache seven --dataset .");
    assert_eq!(expected["gallery"], 7);
    let eval = "eval --cache valid.cache.safetensors --dataset .";
    let spoilt: [(&dyn Fn(&str) -> Option<String>, &str); 3] = [
        (&|_| None, "valid_3_a_1: has no row for this volume of valid.cache.safetensors"),
        (&|line| Some(line.replacen(',', ",maybe", 1)), "line 4, column Medical material: \\\"maybe"),
        (&|line| Some(format!("{line}\n{}", line.replacen(",0", ",1", 1))), "line 5, column VolumeName: valid_3_a_1"),
    ];
    for (spoil, says) in spoilt {
        std::fs::write(&table, &whole).unwrap();
        edit(&table, "valid_3_a_1", spoil);
        let (object, failed) = leaves_out(at, eval);
        assert!(failed.len() == 1 && failed[0].contains(LABELS) && failed[0].contains(says), "{failed:?}");
        assert_eq!(scores(&object), scores(&expected), "{says}");
        assert_eq!(object["digests"]["labels"], expected["digests"]["labels"], "{says}");
        let printed = x2ct(at, &format!("{eval} --csv labels.csv"));
        assert!(text(&printed.stdout).contains("gallery: 7 volumes"), "{}", text(&printed.stdout));
        assert!(refused(at, &format!("{eval} --strict")).contains(&says.replace('\\', "")));
    }
    // The labels that are evaluated are recorded: their values, not how they are written.
    std::fs::write(&table, &whole).unwrap();
    let labels = || json(at, eval)["digests"]["labels"].as_str().unwrap().to_string();
    let before = labels();
    assert_ne!(before, expected["digests"]["labels"].as_str().unwrap());
    edit(&table, "valid_3_a_1", |line| Some(line.replacen(",0", ",0.0", 1)));
    assert_eq!(labels(), before);
    edit(&table, "valid_3_a_1", |line| Some(line.replacen(",0.0", ",1", 1)));
    assert_ne!(labels(), before);
    // None is left.
    edit(&table, "valid", |_| None);
    let said = refused(at, eval);
    assert!(
        said.contains("valid_1_a_1: has no row") && said.contains("7 other volumes cannot be used either"),
        "{said}"
    );
}

#[test]
fn a_radiograph_without_labels_is_left_out_of_all_scores() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    prepare(at);
    let eval = "eval --checkpoint checkpoint.safetensors --radiographs train/ap.safetensors \
                --cache train.cache.safetensors --dataset . --split train";
    let data = CtRate::read(at, Split::Train, HuSource::AlreadyHu).unwrap();
    let table = at.join(LABELS.replace("valid", "train"));
    let whole = std::fs::read_to_string(&table).unwrap();
    edit(&table, "train_2_a_1", |line| Some(line.replacen(",0", ",", 1)));
    let (object, failed) = leaves_out(at, eval);
    assert!(failed.len() == 1 && failed[0].contains("line 3, column"), "{failed:?}");

    // The same by the library, of the three others.
    let device = Device::host();
    let radiographs = RadiographSet::read(&at.join("train/ap.safetensors")).unwrap();
    let cache = EmbeddingCache::read(at.join("train.cache.safetensors")).unwrap();
    let set = TrainingSet::join(&device, &radiographs, &cache).unwrap();
    let checkpoint: Checkpoint = Checkpoint::read(&at.join("checkpoint.safetensors")).unwrap();
    let all = Trainer::resume(&device, &checkpoint).unwrap().embed(&set.images).unwrap();
    let kept: Vec<usize> = (0..4).filter(|&row| set.ids[row] != "train_2_a_1").collect();
    let truth = |row: &usize| data.volumes.iter().find(|v| v.name.to_string() == set.ids[*row]).unwrap().labels;
    let [embeddings, ct, report] = [&all, &set.ct, &set.report].map(|all| rows::select(all, set.dim, &kept));
    let targets = Targets {
        ct: &ct,
        report: &report,
        prompts_positive: &cache.prompts_positive,
        prompts_negative: &cache.prompts_negative,
        labels: &kept.iter().flat_map(truth).collect::<Vec<bool>>(),
        dim: set.dim,
    };
    let expected = serde_json::to_value(Scores::of(&embeddings, &targets).unwrap()).unwrap();
    assert_eq!((expected["gallery"].as_u64(), scores(&object)), (Some(3), scores(&expected)));

    // Nor does one cost more that the cache has no embedding of.
    std::fs::write(&table, whole).unwrap();
    some(&cache, |id| id != "train_2_a_1").write(at.join("three")).unwrap();
    let eval = eval.replace("train.cache.safetensors", "three");
    let (object, failed) = leaves_out(at, &eval);
    let says = "three: train_2_a_1: has no embedding for this radiograph of train/ap.safetensors";
    assert!(failed.len() == 1 && failed[0].contains(says), "{failed:?}");
    assert_eq!(scores(&object), scores(&expected));
    assert!(refused(at, &format!("{eval} --strict")).contains(says));
}

#[test]
fn a_radiograph_that_cannot_be_used_costs_itself_alone() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    prepare(at);
    let file = at.join("train/ap.safetensors");
    let set = RadiographSet::read(&file).unwrap();
    let image = |row: usize| set.image(row).to_vec();
    let write = |name: &str, rows: &[usize], pixels: &dyn Fn(usize) -> Vec<u8>| {
        let options = RadiographOptions { collimation: Collimation::Volume, ..Default::default() };
        let ids = rows.iter().map(|&row| set.ids()[row].clone()).collect();
        let cts = rows.iter().map(|&row| set.cts().of(row).to_string()).collect();
        let pixels = rows.iter().flat_map(|&row| pixels(row)).collect();
        let some = RadiographSet::new(ids, set.size(), pixels, set.source().clone(), &options);
        some.and_then(|some| some.with_cts(cts)?.write(&at.join(name))).unwrap();
    };
    let black = |row: usize| if row == 1 { vec![7; image(1).len()] } else { image(row) };
    write("three", &[0, 2, 3], &image);
    write("black", &[0, 1, 2, 3], &black);
    let mut bytes = std::fs::read(&file).unwrap();
    let begin = bytes.windows(image(1).len()).position(|window| window == image(1)).unwrap();
    bytes[begin + 9] ^= 4;
    std::fs::write(at.join("damaged"), bytes).unwrap();

    let eval = |name: &str| {
        format!(
            "eval --checkpoint checkpoint.safetensors --cache train.cache.safetensors --dataset . --split train --radiographs {name}"
        )
    };
    let (expected, id) = (json(at, &eval("three")), &set.ids()[1]);
    for (name, problem) in
        [("damaged", "was changed or damaged"), ("black", "is one value everywhere: it shows nothing")]
    {
        let says = format!("{name}: {id}: {problem}");
        let (object, failed) = leaves_out(at, &eval(name));
        assert!(failed.len() == 1 && failed[0].starts_with(&format!("{name}: {id}: ")), "{failed:?}");
        assert!(failed[0].contains(&says), "{failed:?}");
        assert_eq!(scores(&object), scores(&expected), "{says}");
        assert_eq!(object["digests"], expected["digests"], "those of what was evaluated");
        // Unlike the file of three, this one has the volume.
        assert_eq!((&object["warnings"], expected["warnings"].to_string().contains(id)), (&json!([]), true));
        assert!(refused(at, &format!("{} --strict", eval(name))).contains(&says));
        std::fs::write(at.join("bad.toml"), configuration(at, 1, 4).replace("train/ap.safetensors", name)).unwrap();
        let said = refused(at, "train bad.toml");
        assert!(said.contains(&says) && !at.join("run").exists(), "{said}");
    }
    write("dark", &[1, 1 - 1], &|_| vec![0; image(1).len()]);
    let said = refused(at, &eval("dark"));
    assert!(said.contains("is one value") && said.contains("(1 other radiographs cannot be used either"), "{said}");
}

/// Six volumes of noise in the folder `volumes` and the file `packed`, an untrained encoder, text features in `text`.
pub fn study(at: &Path) {
    let ids: Vec<String> = (1..=6).map(|i| format!("valid_{i}_a_1")).collect();
    std::fs::create_dir(at.join("volumes")).unwrap();
    for (seed, id) in ids.iter().enumerate() {
        write_volume(&at.join(format!("volumes/{id}.safetensors")), SHAPE, &noise(seed as u64));
    }
    VolumeSet::read(&at.join("volumes")).unwrap().write(&at.join("packed")).unwrap();
    let untrained = Trainer::new(&Device::host(), &config(Some(FEATURES))).unwrap();
    untrained.checkpoint().unwrap().write(&at.join("checkpoint.safetensors")).unwrap();
    write_texts(&at.join("text"), &ids);
}

#[test]
fn volumes_that_do_not_say_their_cts_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    study(at);
    let build = |volumes: &str| {
        format!("cache build --checkpoint checkpoint.safetensors --volumes {volumes} --text text --out {volumes}.cache")
    };
    let told = |report: &serde_json::Value| {
        let says = "volumes: of which CTs 1 of 6 were made is not recorded";
        report["warnings"].as_array().unwrap().iter().filter(|warning| warning["warning"] == says).count()
    };
    assert_eq!(told(&json(at, &build("volumes"))), 0);
    std::fs::create_dir(at.join("unknown")).unwrap();
    for i in 1..=6 {
        let name = format!("valid_{i}_a_1.safetensors");
        match i {
            2 => write_volume(&at.join("unknown").join(name), SHAPE, &noise(1)),
            _ => drop(std::fs::copy(at.join("volumes").join(&name), at.join("unknown").join(&name)).unwrap()),
        }
    }
    let report = json(at, &build("unknown"));
    assert_eq!((told(&report), &report["provenance"]), (1, &"unknown".into()), "{}", report["warnings"]);
}

/// What stands where finished embeddings would be kept is named before any is computed.
#[test]
fn a_file_in_the_place_of_finished_embeddings_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    study(at);
    std::fs::write(at.join("built.parts"), "notes").unwrap();
    let said = refused(at, &format!("{BUILD} volumes --out built"));
    assert!(said.contains("built.parts: is no folder, and finished embeddings are kept in one of this name"), "{said}");
    assert!(!at.join("built").exists() && at.join("built.parts").is_file());
}

pub fn noise(seed: u64) -> Vec<f32> {
    normal(seed, SHAPE.iter().product()).into_iter().map(|v| v.clamp(-1.0, 1.0)).collect()
}

fn write_volume(path: &Path, shape: [usize; 3], voxels: &[f32]) {
    write_saying(path, shape, voxels, &[]);
}

/// The same with more metadata.
pub fn write_saying(path: &Path, [d, h, w]: [usize; 3], voxels: &[f32], said: &[(&str, String)]) {
    let preset = Preset { size: None, ..Preset::dcformer() };
    let bytes = voxels.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
    let ct = blake3::hash(&bytes).to_hex().to_string();
    let mut metadata = vec![("preset", json!(preset).to_string()), ("preset_digest", preset.digest())];
    // Without its CT where that is not to be known.
    if !path.to_string_lossy().contains("unknown") {
        metadata.push(("ct_digest", ct));
    }
    metadata.extend_from_slice(said);
    let mut stream = TensorStream::create(path, ONE, &metadata, "volume", Dtype::F32, &[1, d, h, w]).unwrap();
    stream.append(&bytes).unwrap();
    stream.finish().unwrap();
}

fn texts(ids: &[String]) -> x2ct::data::text::TextFeatures {
    let reports: Vec<String> = ids.iter().map(|id| format!("Report of {id}.")).collect();
    HashedNgrams { dim: FEATURES, max_n: 1 }.features(ids.to_vec(), &reports).unwrap()
}

fn write_texts(path: &Path, ids: &[String]) {
    texts(ids).write(path).unwrap();
}

/// Flips a bit near the end of the voxels of a volume's file, or of the third of a packed one.
fn damage(path: &Path, from_end: usize) {
    let mut bytes = std::fs::read(path).unwrap();
    let at = bytes.len() - from_end;
    bytes[at] ^= 1;
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn a_volume_that_cannot_be_used_costs_itself_alone() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    study(at);
    let read = |name: &str| std::fs::read(at.join(name)).unwrap();
    let build = |volumes: &str, out: &str| json(at, &format!("{BUILD} {volumes} --out {out}"));
    assert_eq!(build("volumes", "whole")["embedded"], 6);
    build("packed", "of_packed");
    assert!(read("whole") == read("of_packed"), "wherever the volumes are stored");
    let bad = at.join("volumes/valid_3_a_1.safetensors");
    let good = std::fs::read(&bad).unwrap();
    std::fs::remove_file(&bad).unwrap();
    assert_eq!(build("volumes", "five")["volumes"], 5);

    let zeros: Vec<f32> = (0..SHAPE.iter().product()).map(|i| if i % 2 == 0 { 0.0 } else { -0.0 }).collect();
    let one = |value: f32| [&[value][..], &noise(2)[1..]].concat();
    let spoilt: [(&dyn Fn(), &str); 8] = [
        (&|| damage(&bad, 100), "was changed or damaged"),
        (&|| std::fs::write(&bad, &good[..good.len() / 2]).unwrap(), "is not a whole safetensors file"),
        (&|| std::fs::write(&bad, "a note").unwrap(), "is not a whole safetensors file"),
        (&|| write_volume(&bad, SHAPE, &one(f32::NAN)), "has 1 voxels that are not finite"),
        (&|| write_volume(&bad, SHAPE, &zeros), "is one value everywhere: no chest CT"),
        (&|| write_volume(&bad, SHAPE, &one(-1000.0)), "has values from -1000 to 1, and preset dcformer gives -1 to 1"),
        (
            &|| write_volume(&bad, [SHAPE[0], 20, 24], &noise(2)),
            "prepare all volumes of a set with one preset and type",
        ),
        (&|| std::fs::remove_file(&bad).and_then(|()| std::fs::create_dir(&bad)).unwrap(), "cannot"),
    ];
    std::fs::write(&bad, &good).unwrap();
    for (spoil, says) in spoilt {
        spoil();
        let _ = std::fs::remove_file(at.join("out"));
        let (object, failed) = leaves_out(at, &format!("{BUILD} volumes --out out"));
        assert!(failed.len() == 1 && failed[0].starts_with("volumes/valid_3_a_1.safetensors: "), "{failed:?}");
        assert!(failed[0].contains(says), "{failed:?}");
        assert_eq!([&object["volumes"], &object["embedded"]], [5, 5], "{object}");
        assert!(read("out") == read("five") && !at.join("out.parts").exists(), "{says}");
        let said = refused(at, &format!("{BUILD} volumes --out strict --strict"));
        assert!(!at.join("strict").exists(), "{said}");
        // Run again as it is: nothing is computed. Mended: what is missing.
        assert_eq!(leaves_out(at, &format!("{BUILD} volumes --out out")).0["embedded"], 0);
        let _ = std::fs::remove_dir(&bad);
        std::fs::write(&bad, &good).unwrap();
        assert_eq!(build("volumes", "out")["embedded"], 1, "{says}");
        assert!(read("out") == read("whole"), "{says}");
    }

    // A packed file: the volume is named by its id.
    let whole = read("packed");
    let volume = SHAPE.iter().product::<usize>() * 4;
    damage(&at.join("packed"), 6 * 32 + 3 * volume + 99);
    let _ = std::fs::remove_file(at.join("out"));
    let (_, failed) = leaves_out(at, &format!("{BUILD} packed --out out"));
    assert!(failed.len() == 1 && failed[0].starts_with("packed: valid_3_a_1: "), "{failed:?}");
    assert!(read("out") == read("five"));
    std::fs::write(at.join("packed"), whole).unwrap();
    assert_eq!(build("packed", "out")["embedded"], 1);
    assert!(read("out") == read("whole"));

    // None can be used: nothing is written.
    std::fs::create_dir(at.join("bad")).unwrap();
    for (name, value) in [("a", 0.25), ("b", 0.5)] {
        write_volume(&at.join(format!("bad/{name}.safetensors")), SHAPE, &vec![value; SHAPE.iter().product()]);
    }
    write_texts(&at.join("text"), &["a", "b"].map(String::from));
    let said = refused(at, &format!("{BUILD} bad --out none"));
    assert!(said.contains("bad/a.safetensors: is one value everywhere"), "{said}");
    assert!(said.contains("(1 other volumes cannot be used either, and none is left)"), "{said}");
    assert!(!at.join("none").exists() && !at.join("none.parts").exists());
    for name in ["a", "b"] {
        std::fs::write(at.join(format!("bad/{name}.safetensors")), "a note").unwrap();
    }
    assert!(refused(at, &format!("{BUILD} bad --out none")).contains("(1 other volumes cannot be used either"));
}

#[test]
fn a_volume_without_a_report_costs_itself_alone() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    study(at);
    let read = |name: &str| std::fs::read(at.join(name)).unwrap();
    json(at, &format!("{BUILD} volumes --out whole"));
    let ids: Vec<String> = [1, 2, 4, 5, 6].map(|i| format!("valid_{i}_a_1")).to_vec();
    std::fs::rename(at.join("text"), at.join("all")).unwrap();
    write_texts(&at.join("text"), &ids);
    let (object, failed) = leaves_out(at, &format!("{BUILD} volumes --out out"));
    assert!(
        failed[0].starts_with("text: valid_3_a_1: ") && failed[0].contains("there are no text features"),
        "{failed:?}"
    );
    assert_eq!([&object["volumes"], &object["embedded"]], [5, 5]);
    std::fs::rename(at.join("volumes/valid_3_a_1.safetensors"), at.join("apart")).unwrap();
    json(at, &format!("{BUILD} volumes --out five"));
    assert!(read("out") == read("five"));
    std::fs::rename(at.join("apart"), at.join("volumes/valid_3_a_1.safetensors")).unwrap();
    std::fs::rename(at.join("all"), at.join("text")).unwrap();
    assert_eq!(json(at, &format!("{BUILD} volumes --out out"))["embedded"], 1);
    assert!(read("out") == read("whole"));
    // Reports without a volume stay a remark; without one for any volume there is nothing to do.
    std::fs::remove_file(at.join("volumes/valid_3_a_1.safetensors")).unwrap();
    let object = json(at, &format!("{BUILD} volumes --out out"));
    assert!(object["warnings"].to_string().contains("has none of 1 volume(s) of text: valid_3_a_1"), "{object}");
    write_texts(&at.join("text"), &["other".to_string()]);
    let said = refused(at, &format!("{BUILD} volumes --out none"));
    assert!(said.contains("text: valid_1_a_1: ") && said.contains("4 other volumes"), "{said}");
}

/// Counts, keeps what is left out, and stops after so many volumes.
struct Stopping<'a>(usize, &'a AtomicBool, Vec<String>);

impl Watch for Stopping<'_> {
    fn done(&mut self, volumes: usize) {
        self.1.store(volumes >= self.0, std::sync::atomic::Ordering::Relaxed);
    }

    fn left_out(&mut self, bad: LeftOut) -> x2ct::Result<()> {
        self.2.push(bad.id);
        Ok(())
    }
}

#[test]
fn a_stopped_run_goes_on_past_what_it_leaves_out() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    study(at);
    damage(&at.join("volumes/valid_2_a_1.safetensors"), 100);
    let teacher = CtTeacher::read(&Device::host(), &at.join("checkpoint.safetensors")).unwrap();
    let run = |out: &str, stop_at: usize| {
        let volumes = VolumeSet::read(&at.join("volumes")).unwrap();
        let (stop, texts) = (AtomicBool::new(false), Texts::Features(texts(volumes.ids())));
        let mut watch = Stopping(stop_at, &stop, Vec::new());
        let made = teacher.write_cache(volumes, &texts, &at.join(out), &stop, &mut watch);
        (made.map(|cache| cache.ids.len()), watch.2)
    };
    for (stop_at, left_out) in [(1, 0), (3, 1), (5, 1)] {
        let (made, seen) = run("broken", stop_at);
        let error = made.unwrap_err().to_string();
        assert!(error.contains(&format!("after {stop_at} of 6")) && seen.len() == left_out, "{error} {seen:?}");
    }
    for out in ["broken", "straight"] {
        let (made, seen) = run(out, 100);
        assert_eq!((made.unwrap(), seen), (5, vec!["valid_2_a_1".to_string()]));
    }
    let read = |name: &str| std::fs::read(at.join(name)).unwrap();
    assert!(read("broken") == read("straight") && !at.join("broken.parts").exists());
}

#[test]
fn an_evaluation_of_volumes_leaves_out_what_cannot_be_used() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    succeed(at, "phantom --out . --train 1 --valid 6 --shape 16x16x16 --spacing 24");
    study(at);
    let eval = "eval --checkpoint checkpoint.safetensors --text text --dataset . --volumes";
    assert_eq!(json(at, &format!("{eval} volumes"))["gallery"], 6);
    std::fs::create_dir(at.join("three")).unwrap();
    for i in [1, 3, 6] {
        let name = format!("valid_{i}_a_1.safetensors");
        std::fs::copy(at.join("volumes").join(&name), at.join("three").join(name)).unwrap();
    }
    let expected = json(at, &format!("{eval} three"));
    damage(&at.join("volumes/valid_2_a_1.safetensors"), 100);
    std::fs::write(at.join("volumes/valid_4_a_1.safetensors"), "a note").unwrap();
    edit(&at.join(LABELS), "valid_5_a_1", |line| Some(line.replacen(",0", ",-1", 1)));
    let (object, failed) = leaves_out(at, &format!("{eval} volumes"));
    let files: Vec<&str> = failed.iter().map(|line| line.split(": ").next().unwrap()).collect();
    let labels = format!("./{LABELS}");
    assert_eq!(files, ["volumes/valid_4_a_1.safetensors", &labels, "volumes/valid_2_a_1.safetensors"], "{failed:?}");
    assert_eq!(scores(&object), scores(&expected));
    assert_eq!(object["digests"], expected["digests"], "those of what was evaluated");
    // The report that is not there.
    write_texts(&at.join("text"), &["valid_1_a_1", "valid_6_a_1"].map(String::from));
    let (object, failed) = leaves_out(at, &format!("{eval} three"));
    assert!(failed[0].starts_with("text: valid_3_a_1: ") && object["gallery"] == 2, "{failed:?}");
    let output = x2ct(at, "eval --checkpoint checkpoint.safetensors --dataset . --volumes volumes");
    assert!(output.status.code() == Some(2) && text(&output.stderr).contains("pass --text, or --cache"));
}

/// What makes scores mean nothing is said beside them.
#[test]
fn a_collapsed_encoder_and_equal_prompts_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    succeed(at, "phantom --out . --train 1 --valid 8 --shape 16x16x16 --spacing 24");
    let good = EmbeddingCache::read(at.join("valid.cache.safetensors")).unwrap();
    let eval = |cache: &EmbeddingCache| {
        cache.write(at.join("cache")).unwrap();
        json(at, "eval --cache cache --dataset .")
    };
    let sound = eval(&good);
    assert_eq!((&sound["retrieval"]["distinct"]["ct"], &sound["warnings"]), (&json!(8), &json!([])));
    let mut collapsed = good.clone();
    let first = &good.ct[..good.dim];
    collapsed.ct = [&first.repeat(6), &good.ct[6 * good.dim..]].concat();
    let object = eval(&collapsed);
    // All six tie, which counts in their favour.
    assert_eq!(object["retrieval"]["distinct"], json!({"ct": 3, "report": 8}));
    let says = "only 3 of 8 embeddings of the CTs are distinct: ties count in favour of the right item, so recall and \
                median rank say nothing";
    assert_eq!(object["warnings"], json!([{"file": "cache", "warning": says}]));
    collapsed.ct = first.repeat(8);
    let object = eval(&collapsed);
    assert_eq!(
        (&object["retrieval"]["image_from_text"]["r1"], &object["retrieval"]["distinct"]["ct"]),
        (&json!(1.0), &json!(1))
    );
    assert!(
        object["warnings"][0]["warning"].as_str().unwrap().starts_with("only 1 of 8 embeddings of the CTs"),
        "{object}"
    );

    // Different, and hardly so.
    let shifted = |row: &[f32]| row.iter().zip(first).map(|(own, first)| first + 0.01 * own).collect::<Vec<_>>();
    collapsed.ct = good.ct.chunks(good.dim).flat_map(shifted).collect();
    rows::l2_normalise("CTs", &mut collapsed.ct, good.dim).unwrap();
    let object = eval(&collapsed);
    assert_eq!(object["retrieval"]["distinct"]["ct"], 8);
    let [sound, alike] = [&sound, &object].map(|of| of["retrieval"]["mean_cosine"]["ct"].as_f64().unwrap());
    assert!(sound < 0.9 && alike > retrieval::MOST_ALIKE, "{sound} {alike}");
    let warning = object["warnings"][0]["warning"].as_str().unwrap();
    let says =
        format!("the 8 embeddings of the CTs are almost one: the mean cosine of two is {alike:.6}, and from 0.999 on");
    assert!(warning.starts_with(&says), "{warning}");

    let sound = eval(&good);
    let mut blind = good.clone();
    for label in [2, 5] {
        let row = label * good.dim..(label + 1) * good.dim;
        let positive = good.prompts_positive[row.clone()].to_vec();
        blind.prompts_negative[row].copy_from_slice(&positive);
    }
    let object = eval(&blind);
    let names = [labels::NAMES[2], labels::NAMES[5]];
    assert_eq!(object["zero_shot"]["equal_prompts"], json!(names));
    assert_eq!(sound["zero_shot"]["equal_prompts"], json!([]));
    let warning = object["warnings"][0]["warning"].as_str().unwrap();
    assert!(warning.starts_with(&format!("of {} the two prompts have one embedding", names.join(", "))), "{warning}");
}

/// Reconstructions of one scan may tie; more equal rows than these explain are told from a half on.
#[test]
fn embeddings_that_are_few_are_told() {
    let spread = |distinct, rows, scans| Spread { rows, scans, distinct, mean_cosine: 0.5 };
    let all = normal(3, 8 * 24);
    let of = |rows: &[usize]| rows::select(&all, 24, rows);
    for (order, count, told) in [
        (&[0, 1, 2, 3, 4, 5, 6, 7][..], 8, [false, false]),
        (&[0, 0, 1, 1, 2, 2, 3, 3], 4, [true, false]),
        (&[0, 0, 0, 0, 4, 5, 6, 7], 5, [false, false]),
        (&[0, 0, 0, 0, 0, 0, 6, 7], 3, [true, false]),
        (&[0, 0, 0, 0, 0, 0, 0, 7], 2, [true, true]),
        (&[3, 3], 1, [true, false]),
    ] {
        assert_eq!(retrieval::distinct(&of(order), 24), count);
        // Every volume a scan; two volumes a scan.
        let scans = [order.len(), order.len() / 2];
        assert_eq!(
            scans.map(|scans| retrieval::collapse("CTs", spread(count, order.len(), scans)).is_some()),
            told,
            "{order:?}"
        );
    }
    // One is all there is, and like itself.
    assert_eq!(retrieval::collapse("CTs", Spread { mean_cosine: 1.0, ..spread(1, 1, 1) }), None);
    let mean_cosine = retrieval::mean_cosine(&[1.0, 0.0, 0.0, 1.0, 0.6, 0.8], 2);
    assert!((mean_cosine - (2.56 + 3.24) / 9.0).abs() < 1e-6, "{mean_cosine}");
    let says = retrieval::collapse("radiographs", spread(3, 64, 60)).unwrap();
    assert!(
        says.starts_with("only 3 of 64 embeddings of the radiographs, which are of 60 scans, are distinct: ties"),
        "{says}"
    );
}
