//! Which CTs rows were made of: recorded wherever embeddings and radiographs come from, and compared wherever they are joined, so that
//! other patients of the same ids are refused.

use std::path::Path;
use std::sync::atomic::AtomicBool;

use serde_json::{Value, json};
use x2ct::Device;
use x2ct::archive::{Archive, Writer};
use x2ct::ct::{AffineSource, nifti};
use x2ct::data::cache::EmbeddingCache;
use x2ct::data::ct_rate::{Acquisition, CtRate};
use x2ct::data::cts::Cts;
use x2ct::data::ingest::{IngestOptions, Progress, ingest};
use x2ct::data::phantom::{PhantomDataset, write_dataset};
use x2ct::data::phantom_set::{PhantomSet, PhantomStudy};
use x2ct::data::provenance::{Provenance, fields, of_ct, short};
use x2ct::data::radiographs::RadiographSet;
use x2ct::data::volumes::VolumeSet;
use x2ct::tensor::DType;
use x2ct::train::{CtTrainingSet, Sources, TrainingSet};

fn study(seed: u64) -> PhantomStudy {
    PhantomStudy { seed, shape: [32; 3], spacing: [12.0; 3] }
}

fn patients(seed: u64) -> PhantomSet {
    study(seed).make(&Device::host(), 0..4, &AtomicBool::new(false), &mut |_| {}).unwrap()
}

fn volumes(seed: u64) -> VolumeSet {
    study(seed).volumes(&Device::host(), 0..4, DType::Bf16, &AtomicBool::new(false), &mut |_| {}).unwrap()
}

fn digests(cts: &Cts) -> Vec<String> {
    (0..4).map(|row| cts.of(row).to_string()).collect()
}

#[test]
fn rows_of_one_id_and_two_cts_are_refused() {
    let (device, folder) = (Device::host(), tempfile::tempdir().unwrap());
    let (ours, theirs) = (patients(7), patients(8));
    assert_eq!((ours.radiographs.cts(), volumes(7).cts()), (&ours.cache.cts, &ours.cache.cts));
    let path = folder.path().join("file.safetensors");
    ours.radiographs.write(&path).unwrap();
    let radiographs = RadiographSet::read(&path).unwrap();
    assert_eq!((radiographs.cts(), radiographs.provenance()), (&ours.cache.cts, ours.radiographs.provenance()));
    let join = |cache: &EmbeddingCache| TrainingSet::join(&device, &radiographs, cache);
    assert!(join(&ours.cache).unwrap().undecided.is_empty());
    let part = |provenance: Provenance| provenance.from["ct"].clone();
    assert_eq!(part(radiographs.provenance()), part(ours.cache.provenance()));
    assert_eq!(part(volumes(7).provenance().unwrap()), part(ours.cache.provenance()));

    // Other patients, by the same ids.
    let mut other = theirs.cache.clone();
    other.ids = ours.cache.ids.clone();
    let pair = |row: usize| [&ours, &theirs].map(|p| short(p.cache.cts.of(row)).to_string());
    let [mine, found] = pair(0);
    let says = format!(
        "ct_digests: phantom_7_0: the radiographs are of the CT {mine}, the embeddings of {found} (and 3 more ids differ); \
         use radiographs and embeddings of the same CT files"
    );
    assert_eq!(join(&other).map(drop).unwrap_err().to_string(), says);
    let error = CtTrainingSet::with_embeddings(&device, volumes(7), &other).map(drop).unwrap_err().to_string();
    assert_eq!(error, says.replace("radiographs", "volumes"));
    let error = patients(7).radiographs.with_cts(vec!["a".into(); 3]).map(drop).unwrap_err().to_string();
    assert_eq!(error, "ct_digests: there are 3 for 4 ids; pass one a row");
    // One of them, and in another order.
    let mut one = ours.cache.clone();
    let mut cts = digests(&ours.cache.cts);
    cts[2] = theirs.cache.cts.of(2).to_string();
    one.cts = Cts::new(cts);
    let [mine, found] = pair(2);
    let error = join(&one).map(drop).unwrap_err().to_string();
    assert!(error.contains(&format!("phantom_7_2: the radiographs are of the CT {mine}, the embeddings of {found};")));
    let mut turned = ours.cache.clone();
    let dim = turned.dim;
    turned.ids.rotate_left(1);
    turned.ct.rotate_left(dim);
    turned.report.rotate_left(dim);
    assert!(join(&turned).is_err(), "rows keep their CTs");
    let mut cts = digests(&ours.cache.cts);
    cts.rotate_left(1);
    turned.cts = Cts::new(cts);
    assert!(join(&turned).unwrap().undecided.is_empty());
}

#[test]
fn what_is_not_recorded_of_a_row_is_said_with_the_side_that_lacks_it() {
    let ours = patients(7);
    let join = |known: [[bool; 4]; 2]| {
        let [a, b] = known.map(|known| {
            let of = |(row, known): (usize, bool)| if known { ours.cache.cts.of(row).into() } else { String::new() };
            Cts::new(known.into_iter().enumerate().map(of).collect())
        });
        a.expect_same("radiographs", &ours.cache.ids, ("embeddings", &b, &[0, 1, 2, 3])).unwrap().join("; ")
    };
    let (all, none, some) = ([true; 4], [false; 4], [true, false, true, true]);
    assert_eq!(join([all, all]), "");
    let says = |who: &str, count: usize| {
        format!("{who}: of which CTs {count} of 4 rows were made is not recorded, so these were not compared")
    };
    assert_eq!(join([all, none]), says("embeddings", 4));
    assert_eq!(join([some, all]), says("radiographs", 1));
    assert_eq!(join([none, none]), says("radiographs and embeddings", 4));
    let ids = &ours.cache.ids;
    let made = |cts: Cts| cts.add_to(Provenance::default(), ids).from;
    assert_eq!(made(Cts::new(digests(&ours.cache.cts))).keys().collect::<Vec<_>>(), ["ct"]);
    assert!(
        made(Cts::of_parts([(Cts::new(digests(&ours.cache.cts)[..3].to_vec()), 3), (Cts::default(), 1)])).is_empty()
    );
}

#[test]
fn a_part_that_one_side_lacks_is_undecided_unless_it_is_content_alone() {
    let made = |settings: Value, parts: Vec<(&'static str, Provenance)>| {
        Provenance::made(fields(settings), parts).holding("a".repeat(64), 3)
    };
    let (volumes, reports) = (made(json!({"preset": "x2ct"}), vec![]), made(json!({}), vec![]));
    let whole = made(json!({}), vec![("volumes", volumes.clone()), ("reports", reports)]);
    let without = made(json!({}), vec![]);
    let says = |whose: &str| vec![format!("cache.volumes: is not recorded of {whose}, so it was not compared")];
    assert_eq!(whole.expect_alike("cache", &without).unwrap(), says("these"));
    assert_eq!(without.expect_alike("cache", &whole).unwrap(), says("those of the training"));
    assert!(whole.expect_alike("cache", &whole).unwrap().is_empty());
    // Deeper settings count as well, and a part of other content does not.
    let nested = made(json!({}), vec![("volumes", made(json!({}), vec![("text", volumes.clone())]))]);
    assert_eq!(nested.expect_alike("cache", &without).unwrap().len(), 1);
    let content = made(json!({}), vec![("ct", made(json!({}), vec![]))]);
    assert!(content.expect_alike("cache", &without).unwrap().is_empty());
    // A run that began without a record of its texts, and goes on with some.
    let of = |parts: Vec<(&'static str, Provenance)>| Sources::new("T", parts);
    let now = of(vec![("volumes", volumes.clone()), ("text", volumes.clone())]);
    let undecided = of(vec![("volumes", volumes)]).expect_same(&now).unwrap();
    assert_eq!(undecided, ["data.text: what the run began with is not recorded, so nothing was compared"]);
    assert!(now.expect_same(&now).unwrap().is_empty());
}

#[test]
fn a_digest_that_is_computed_once_is_never_that_of_other_content() {
    let fresh = || patients(7).cache;
    let (mut cache, before) = (fresh(), fresh().provenance().digest);
    assert_eq!(cache.provenance().digest, before);
    let dim = cache.dim;
    cache.ct[..2 * dim].rotate_left(dim);
    let after = cache.provenance().digest;
    assert_ne!(after, before);
    assert_eq!((cache.clone().provenance().digest, cache.provenance().digest), (after.clone(), after));
    cache.ct[..2 * dim].rotate_left(dim);
    assert_eq!((cache.provenance().digest, &cache), (before, &fresh()));
}

/// Written by `ct_digest` of tools/export_ct_clip.py, of files written by nibabel: see tools/make_cache_case.py.
#[test]
fn python_computes_the_same_digest_of_a_ct() {
    let cache = EmbeddingCache::read("tests/golden/cache_recorded_from_python.safetensors").unwrap();
    let read = |name: &str| nifti::read(format!("tests/ct_files/{name}.nii.gz")).unwrap();
    let table = Acquisition { slope: 0.5, intercept: -1024.0, spacing_xy: 0.712345, spacing_z: Some(1.25) };
    let ours = [read("int16"), read("float64"), table.apply(read("uint16_table")).unwrap()];
    for (row, ct) in ours.iter().enumerate() {
        assert_eq!(cache.cts.of(row), of_ct(ct), "{row}");
    }
    assert!(ours[0].affine.rows()[0][1] != 0.0 && ours[1].slope != 1.0 && ours[2].intercept == -1024.0);
    assert_eq!(cache.provenance().from["ct"].rows, 3);
    // Of which the script claims nothing.
    assert_eq!(read("int16_disputed").affine_source, AffineSource::Disputed);
}

fn make(data: &CtRate, out: &Path, shard: [usize; 2], stop: bool) -> usize {
    let options = IngestOptions { size: [24, 20], shard, ..Default::default() };
    let (stopped, mut resumed) = (AtomicBool::new(false), 0);
    let made = ingest(&Device::host(), data, out, &options, &stopped, &mut |event| match event {
        Progress::Resumed(count) => resumed = count,
        Progress::Done(2) if stop => stopped.store(true, std::sync::atomic::Ordering::Relaxed),
        _ => (),
    });
    assert_eq!(made.is_err(), stop);
    resumed
}

/// A packed file as earlier versions wrote it.
fn forget(path: &Path) {
    rewrite(path, "ct_digests", None);
}

/// A packed file with another list, or none, in a metadata entry.
pub fn rewrite(path: &Path, entry: &str, list: Option<&str>) {
    let old = Archive::read(path, "x2ct-radiographs-2", "radiographs", "").unwrap();
    let mut new = Writer::new("x2ct-radiographs-2");
    for (key, value) in old.texts().iter().filter(|(key, _)| !["format", "checksum", entry].contains(&key.as_str())) {
        let mut value = value.clone();
        if key == "provenance" && entry == "ct_digests" {
            let mut made: Value = serde_json::from_str(&value).unwrap();
            assert!(made["from"].as_object_mut().unwrap().remove("ct").is_some());
            value = made.to_string();
        }
        new.set(key, value);
    }
    if let Some(list) = list {
        new.set(entry, list);
    }
    let (dtype, shape, data) = old.tensor("image").unwrap();
    let bytes = data.len() / shape[0];
    let row = |i: usize| Ok(data[i * bytes..][..bytes].into());
    new.put_rows("image", dtype, shape, old.digests("image").unwrap(), &row);
    new.write(path).unwrap();
}

#[test]
fn packed_radiographs_know_their_cts_in_shards_and_after_they_were_taken_up_again() {
    let folder = tempfile::tempdir().unwrap();
    let phantoms =
        PhantomDataset { seed: 5, train: 5, valid: 0, shape: [20, 18, 16], spacing: [16.0; 3], ..Default::default() };
    let data = write_dataset(folder.path(), &phantoms, &|_, _| Ok(())).unwrap().remove(0);
    let path = |name: &str| folder.path().join(name);
    let read = |name: &str| RadiographSet::read(&path(name)).unwrap();
    assert_eq!(make(&data, &path("whole"), [1, 1], false), 0);
    let whole = read("whole");
    for (row, volume) in data.volumes.iter().enumerate() {
        assert_eq!(whole.cts().of(row), of_ct(&nifti::read(data.path(volume)).unwrap()));
    }
    let cache = x2ct::data::phantom::cache(&phantoms, &data).unwrap();
    assert_eq!((whole.cts(), &whole.provenance().from["ct"]), (&cache.cts, &cache.provenance().from["ct"]));
    for i in [2, 1] {
        make(&data, &path("shards"), [i, 2], false);
    }
    let shards = read("shards/ap-*");
    assert_eq!((shards.cts(), shards.provenance()), (whole.cts(), whole.provenance()));
    // One shard of an earlier version: its rows are not known, those of the other are.
    forget(&path("shards/ap-1-of-2.safetensors"));
    let mixed = read("shards/ap-*");
    assert_eq!([0, 1, 2, 3, 4].map(|row| mixed.cts().of(row) == whole.cts().of(row)), [false, false, true, true, true]);
    assert!(mixed.provenance().from.is_empty() && mixed.provenance().known);
    assert_eq!((make(&data, &path("shards"), [2, 2], false), make(&data, &path("shards"), [1, 2], false)), (3, 0));
    assert_eq!(read("shards/ap-*").provenance(), whole.provenance());

    let packed = |name: &str| std::fs::read(path(name).join("ap.safetensors")).unwrap();
    let before = packed("whole");
    assert_eq!((make(&data, &path("whole"), [1, 1], false), packed("whole") == before), (5, true));
    forget(&path("whole/ap.safetensors"));
    assert!(read("whole").cts().is_unknown() && packed("whole") != before);
    assert_eq!((make(&data, &path("whole"), [1, 1], false), packed("whole") == before), (0, true), "made again");
    // A list of other rows is none.
    rewrite(&path("whole/ap.safetensors"), "ct_digests", Some("[\"a\"]"));
    let error = RadiographSet::read(&path("whole")).map(drop).unwrap_err().to_string();
    assert!(error.contains("ap.safetensors: has 1 ct_digests for 5 ids; make the file again"), "{error}");
    std::fs::write(path("whole/ap.safetensors"), &before).unwrap();
    // A CT that is gone stands as it was, and stays unknown.
    forget(&path("whole/ap.safetensors"));
    std::fs::rename(data.path(&data.volumes[1]), path("away")).unwrap();
    assert_eq!(make(&data, &path("whole"), [1, 1], false), 1);
    let known = read("whole");
    assert_eq!((known.ids().len(), known.cts().of(1), known.cts().of(2)), (5, "", whole.cts().of(2)));
    std::fs::rename(path("away"), data.path(&data.volumes[1])).unwrap();

    // Half finished, by this version and by an earlier one.
    for (earlier, kept) in [(false, 2), (true, 0)] {
        let name = format!("half {earlier}");
        make(&data, &path(&name), [1, 1], true);
        let journal = path(&name).join("unfinished/journal");
        let text = std::fs::read_to_string(&journal).unwrap();
        let old = |line: &str| {
            let mut entry: Value = serde_json::from_str(&line[17..]).unwrap();
            entry["row"].as_object_mut().map(|row| row.remove("ct").unwrap());
            format!("{} {entry}\n", &blake3::hash(entry.to_string().as_bytes()).to_hex()[..16])
        };
        if earlier {
            std::fs::write(&journal, text.lines().map(old).collect::<String>()).unwrap();
        }
        assert_eq!((make(&data, &path(&name), [1, 1], false), packed(&name) == before), (kept, true));
    }
}

#[cfg(feature = "cli")]
mod commands {
    use super::*;
    use crate::cli::{configuration, succeed, text, x2ct};
    use crate::json::assert_report;

    /// Runs a command with `--json`: its object, and what it said.
    fn run(at: &Path, arguments: &str) -> (Option<i32>, Value, String) {
        let output = x2ct(at, &format!("{arguments} --json"));
        let object = assert_report(arguments, &output, arguments.split(' ').next().unwrap());
        (output.status.code(), object, text(&output.stderr))
    }

    /// Radiographs and caches of two sets of patients, of equal ids.
    fn prepare(at: &Path) {
        for (name, seed) in [("a", 3), ("b", 4)] {
            succeed(
                at,
                &format!("phantom --out {name} --train 8 --valid 4 --shape 16x16x16 --spacing 24 --seed {seed}"),
            );
            for split in ["train", "valid"] {
                succeed(at, &format!("drr --dataset {name} --split {split} --size 32x32 --out {name}/{split}"));
            }
        }
    }

    /// The refusal of the first of `count` ids.
    fn refusal(at: &Path, split: &str, cache: &str, count: usize) -> String {
        let of = |name: &str| RadiographSet::read(&at.join(name).join(split)).unwrap().cts().of(0).to_string();
        let (mine, other) = (of("b"), of("a"));
        format!(
            "{cache}: ct_digests: {split}_1_a_1: the radiographs are of the CT {}, the embeddings of {} (and {} more ids differ); \
             use radiographs and embeddings of the same CT files",
            short(&mine),
            short(&other),
            count - 1
        )
    }

    #[test]
    fn other_patients_of_the_same_ids_are_neither_trained_on_nor_evaluated() {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path();
        prepare(at);
        let write = |name: &str, from: &str, to: &str| {
            let text = configuration(&at.join("a"), 1, 4).replace(from, to).replace("\"run\"", &format!("\"{name}\""));
            std::fs::write(at.join(format!("{name}.toml")), text).unwrap();
        };
        write("good", "", "");
        write("bad", "/a/train/ap", "/b/train/ap");
        let (code, object, said) = run(at, "train good.toml --strict");
        assert_eq!(
            (code, &object["provenance"], &object["warnings"]),
            (Some(0), &json!("recorded"), &json!([])),
            "{said}"
        );
        let (code, object, said) = run(at, "train bad.toml");
        let says = refusal(at, "train", &at.join("a/train.cache.safetensors").display().to_string(), 8);
        assert!(code == Some(1) && said.contains(&says) && !at.join("bad").exists(), "{said}");
        assert_eq!(object["failed"][0]["field"], "ct_digests");

        let evaluate = |radiographs: &str, cache: &str| {
            format!(
                "eval --checkpoint good/checkpoint.safetensors --radiographs {radiographs} --cache {cache} --dataset a"
            )
        };
        let good = evaluate("a/valid", "a/valid.cache.safetensors");
        let (code, object, said) = run(at, &format!("{good} --strict"));
        assert_eq!(
            (code, &object["provenance"], &object["warnings"]),
            (Some(0), &json!("recorded"), &json!([])),
            "{said}"
        );
        let of_valid = RadiographSet::read(&at.join("a/valid")).unwrap().provenance();
        assert_eq!(object["digests"]["ct"], of_valid.from["ct"].digest);
        let (code, _, said) = run(at, &evaluate("b/valid", "a/valid.cache.safetensors"));
        let says = refusal(at, "valid", "a/valid.cache.safetensors", 4);
        assert!(code == Some(1) && said.contains(&says), "{said}");

        // The run goes on with its own patients only: the radiographs alone, or both.
        let resume = configuration(&at.join("a"), 1, 4).replace("\"run\"", "\"good\"");
        let others = [resume.replace("/a/train/ap", "/b/train/ap"), resume.replace("/a/", "/b/")];
        for (text, says) in
            others.into_iter().zip(["ct_digests: train_1_a_1", "data.cache.ct: content: the run began on 8"])
        {
            std::fs::write(at.join("other.toml"), text).unwrap();
            let (code, _, said) = run(at, "train other.toml");
            assert!(code == Some(1) && said.contains(says), "{said}");
        }
    }

    #[test]
    fn files_that_do_not_say_their_cts_are_warned_of_once_and_refused_if_strict() {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path();
        prepare(at);
        let caches = ["train", "valid"].map(|split| at.join(format!("a/{split}.cache.safetensors")));
        let whole = caches.clone().map(|path| EmbeddingCache::read(path).unwrap());
        let packed = ["train", "valid"].map(|split| at.join(format!("a/{split}/ap.safetensors")));
        std::fs::write(at.join("run.toml"), configuration(&at.join("a"), 1, 4)).unwrap();
        succeed(at, "train run.toml");
        let evaluate = "eval --checkpoint run/checkpoint.safetensors --radiographs a/valid --cache a/valid.cache.safetensors \
                        --dataset a";
        for lacking in ["embeddings", "radiographs"] {
            for (path, cache) in caches.iter().zip(&whole) {
                let mut cache = cache.clone();
                if lacking == "embeddings" {
                    cache.cts = Cts::default();
                }
                cache.write(path).unwrap();
            }
            if lacking == "radiographs" {
                packed.iter().for_each(|path| forget(path));
            }
            let file = if lacking == "embeddings" { "a/valid.cache.safetensors" } else { "a/valid" };
            for (command, file, rows) in [("train run.toml --restart", "run.toml", 8), (evaluate, file, 4)] {
                let says = format!(
                    "{lacking}: of which CTs {rows} of {rows} rows were made is not recorded, so these were not compared"
                );
                let (code, object, said) = run(at, command);
                assert_eq!((code, &object["provenance"]), (Some(0), &json!("unknown")), "{said}");
                assert_eq!(object["warnings"], json!([{"file": file, "warning": says}]));
                let (code, _, said) = run(at, &format!("{command} --strict"));
                assert!(code == Some(1) && said.contains(&format!("{file}: {says}; make it again")), "{said}");
            }
        }
        // Made again by the same command, they are known.
        for split in ["train", "valid"] {
            succeed(at, &format!("drr --dataset a --split {split} --size 32x32 --out a/{split}"));
        }
        succeed(at, &format!("{evaluate} --strict"));
    }
}
