//! `x2ct eval probe`, `finetune` and `external`: linear probes on files of features.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use x2ct::data::ct_rate::VolumeName;
use x2ct::data::features::FeatureSet;
use x2ct::data::provenance::{Provenance, fields};
use x2ct::data::radchest_labels::FEW_SHOT;
use x2ct::eval::linear_probe::LinearProbe;
use x2ct::eval::score_file::ScoreFile;
use x2ct::labels;

use crate::cli::{succeed, text, x2ct};
use crate::json::assert_report;
use crate::support::normal;

const QUICK: &str = "epochs = 40\nbatch = 32\noptimizer = { lr = 2e-2 }\n";

/// Samples whose labels can be told from their features.
struct Made {
    ids: Vec<String>,
    names: Vec<String>,
    labels: Vec<bool>,
    features: Vec<f32>,
    dim: usize,
}

impl Made {
    /// `samples`, of `each` to a patient, named as CT-RATE's volumes.
    fn new(seed: u64, split: &str, samples: usize, each: usize, names: &[&str]) -> Self {
        let dim = 12;
        let noise = normal(seed, samples * (names.len() + dim));
        let signal = normal(99, names.len() * dim);
        let (mut labels, mut features) = (Vec::new(), Vec::new());
        for row in noise.chunks(names.len() + dim) {
            let of: Vec<bool> = (0..names.len()).map(|label| row[label] > 0.4 + 0.1 * label as f32).collect();
            features.extend((0..dim).map(|k| {
                let sum: f32 = (0..names.len()).filter(|&l| of[l]).map(|l| signal[l * dim + k]).sum();
                sum + 0.5 * row[names.len() + k]
            }));
            labels.extend(of);
        }
        let id = |at: usize| format!("{split}_{}_a_{}", at / each + 1, at % each + 1);
        let names = names.iter().map(|name| name.to_string()).collect();
        Made { ids: (0..samples).map(id).collect(), names, labels, features, dim }
    }

    /// Writes NAME.safetensors, features of an encoder, and NAME.csv, labels.
    fn write(&self, at: &Path, name: &str) {
        self.set("resnet18").write(at.join(format!("{name}.safetensors"))).unwrap();
        self.table(at, &format!("{name}.csv"), &self.names);
    }

    fn set(&self, encoder: &str) -> FeatureSet {
        FeatureSet {
            ids: self.ids.clone(),
            features: self.features.clone(),
            dim: self.dim,
            encoder: encoder.into(),
            cts: Default::default(),
            made: Provenance::made(fields(json!({"encoder": encoder})), []),
        }
    }

    /// Writes a table of these labels, in this order.
    fn table(&self, at: &Path, file: &str, names: &[String]) {
        let place = |name: &String| self.names.iter().position(|own| own == name).unwrap();
        let mut table = format!("id,{}\n", names.join(","));
        for (id, row) in self.ids.iter().zip(self.labels.chunks(self.names.len())) {
            let cells: Vec<&str> = names.iter().map(|name| if row[place(name)] { "1" } else { "0" }).collect();
            table += &format!("{id},{}\n", cells.join(","));
        }
        fs::write(at.join(file), table).unwrap();
    }
}

/// Runs `x2ct eval ARGUMENTS --json`: exit code, object, standard error.
fn run(at: &Path, arguments: &str) -> (Option<i32>, Value, String) {
    let output = x2ct(at, &format!("eval {arguments} --json"));
    let said: String =
        text(&output.stderr).lines().filter(|line| !line.contains(" epochs,")).map(|l| format!("{l}\n")).collect();
    (output.status.code(), assert_report(arguments, &output, "eval"), said)
}

/// The message of a run that must fail: one line with all of these parts.
#[track_caller]
fn refused(at: &Path, arguments: &str, code: i32, parts: &[&str]) {
    let (found, _, said) = run(at, arguments);
    let last = said.lines().last().unwrap_or_default();
    assert_eq!(found, Some(code), "{arguments}: {said}");
    assert!(parts.iter().all(|part| last.contains(part)), "{arguments}: {said}\nwants {parts:?}");
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}

#[test]
fn portions_are_selected_trained_and_scored() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let made = Made::new(1, "train", 300, 3, &["a", "b", "c"]);
    made.write(at, "all");
    fs::write(at.join("quick.toml"), QUICK).unwrap();
    let probe = "probe --features all.safetensors --labels all.csv --recipe quick.toml --bootstrap 100";
    let (code, object, said) =
        run(at, &format!("{probe} --portion 0.1 0.2,0.5 --group patient --scores few --probe kept"));
    assert_eq!((code, said.as_str()), (Some(0), ""));
    let rows = object["rows"].as_array().unwrap();
    assert_eq!((rows.len(), &object["encoder"], &object["recipe"]["epochs"]), (3, &json!("resnet18"), &json!(40)));
    for (row, (portion, name)) in rows.iter().zip([(0.1, "10"), (0.2, "20"), (0.5, "50")]) {
        let count = |part: &str, of: &str| row[part][of].as_u64().unwrap() as usize;
        let of_all = |of: &str| ["train", "validation", "test"].iter().map(|part| count(part, of)).sum::<usize>();
        assert_eq!((of_all("samples"), of_all("patients")), (300, 100), "each patient is on one side: {row}");
        let kept = (count("train", "samples") + count("validation", "samples")) as f64;
        assert!((kept - portion * 300.0).abs() <= 9.0, "{portion}: {kept}");
        assert!((count("validation", "samples") as f64 - 0.2 * kept).abs() <= 6.0, "{portion}: {row}");
        assert!(number(&row["auc_macro"]) > 0.85, "{row}");
        let file = at.join(format!("few-{name}.safetensors"));
        let scores = ScoreFile::read(&file).unwrap();
        assert_eq!(
            (scores.ids.len(), row["scores"].as_str()),
            (count("test", "samples"), file.file_name().unwrap().to_str())
        );
        let tested: BTreeSet<String> = scores.ids.iter().map(|id| VolumeName::patient_of(id)).collect();
        let others = made.ids.iter().filter(|id| !scores.ids.contains(id));
        assert!(others.map(|id| VolumeName::patient_of(id)).all(|patient| !tested.contains(&patient)));
        let probe = LinearProbe::read(at.join(format!("kept-{name}"))).unwrap();
        assert_eq!(
            (probe.best_epoch as u64, probe.encoder.as_str()),
            (row["best_epoch"].as_u64().unwrap(), "resnet18")
        );
        // What is written gives the same metrics.
        let again = x2ct(at, &format!("metrics all.csv few-{name}.safetensors --bootstrap 0 --json"));
        let again: Value = serde_json::from_slice(&again.stdout).unwrap();
        assert_eq!((&again["auc_micro"], &again["ap_macro"]), (&row["auc_micro"], &row["ap_macro"]));
        assert!(at.join(format!("few-{name}.csv")).is_file());
    }
    // The same seed gives the same bytes, another seed another selection.
    let bytes = fs::read(at.join("few-20.safetensors")).unwrap();
    let one = format!("{probe} --portion 0.2 --group patient --scores few-20");
    succeed(at, &format!("eval {one}"));
    assert_eq!(fs::read(at.join("few-20.safetensors")).unwrap(), bytes);
    succeed(at, &format!("eval {one} --seed 7"));
    assert_ne!(fs::read(at.join("few-20.safetensors")).unwrap(), bytes);
    // Where nothing keeps patients together, it is said.
    let (code, _, said) = run(at, &format!("{probe} --portion 0.2 --order 1"));
    assert!(
        code == Some(0) && said.contains("are in more than one of training, validation and test, such as train_"),
        "{said}"
    );
    let table = text(&x2ct(at, &format!("eval {one}")).stdout);
    assert!(table.contains("best epoch") && table.contains("20 %") && table.contains("auc_micro"), "{table}");
}

#[test]
fn test_sets_of_their_own_and_labels_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    Made::new(2, "train", 200, 1, &["a", "b", "c"]).write(at, "train");
    let test = Made::new(3, "valid", 120, 1, &["a", "b", "c"]);
    test.write(at, "test");
    fs::write(at.join("quick.toml"), QUICK).unwrap();
    let probe =
        "probe --features train.safetensors --labels train.csv --test-features test.safetensors --recipe quick.toml";
    let whole = run(at, &format!("{probe} --test-labels test.csv --bootstrap 0"));
    assert_eq!((whole.0, whole.2.as_str()), (Some(0), ""));
    let row = &whole.1["rows"][0];
    assert_eq!((&row["portion"], &row["test"]["samples"]), (&json!(1.0), &json!(120)));
    assert!(number(&row["auc_macro"]) > 0.85 && row.get("intervals").is_none(), "{row}");
    test.table(at, "other.csv", &["c", "a", "b"].map(String::from));
    let other = run(at, &format!("{probe} --test-labels other.csv --bootstrap 0"));
    assert_eq!(other.1["rows"][0]["labels"], row["labels"]);
    // Some labels alone.
    fs::write(at.join("set.txt"), "c\n\na\n").unwrap();
    let (_, some, _) = run(at, &format!("{probe} --test-labels other.csv --bootstrap 0 --label-set set.txt"));
    let names: Vec<&str> =
        some["rows"][0]["labels"].as_array().unwrap().iter().map(|l| l["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["c", "a"]);
    // The same patients on both sides.
    let same = "probe --features train.safetensors --labels train.csv --test-features train.safetensors --test-labels train.csv \
                --recipe quick.toml --bootstrap 0";
    let (code, _, said) = run(at, same);
    assert!(code == Some(0) && said.contains("200 patient(s) are in more than one of"), "{said}");
    refused(at, &format!("{same} --group patient"), 1, &["train.safetensors", "train_1", "leave out --group"]);
}

/// The phantom teacher's embeddings know what the phantom has.
#[test]
fn the_phantoms_cache_is_learned_from() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    succeed(at, "phantom --out . --train 96 --valid 48 --shape 16x16x16 --spacing 24");
    let labels = "dataset/multi_abnormality_labels";
    let files = format!(
        "--features train.cache.safetensors --labels {labels}/train_predicted_labels.csv --test-features valid.cache.safetensors \
         --test-labels {labels}/valid_predicted_labels.csv --bootstrap 0"
    );
    for (what, least) in [("probe --recipe radchest", 0.75), ("probe --recipe radchest --tower report", 0.75)] {
        let (code, object, said) = run(at, &format!("{what} {files}"));
        assert_eq!(code, Some(0), "{said}");
        let auc = number(&object["rows"][0]["auc_macro"]);
        println!("{what}: macro AUC {auc}");
        assert!(auc > least, "{what}: {auc}");
    }
    let (code, object, said) = run(at, &format!("finetune {files}"));
    let row = &object["rows"][0];
    assert_eq!((code, &row["epochs"], &row["best_epoch"]), (Some(0), &json!(17), &json!(17)), "{said}");
    assert_eq!((&row["validation"]["samples"], &object["recipe"]["pos_weight"]), (&json!(0), &json!("ct-lipro")));
}

#[test]
fn few_shot_classification_of_radchest() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let made = Made::new(4, "trn", 240, 1, &FEW_SHOT);
    let ids: Vec<String> = (0..240).map(|i| format!("trn{i:05}")).collect();
    FeatureSet { ids: ids.clone(), ..made.set("resnet18") }.write(at.join("f.safetensors")).unwrap();
    // Each abnormality at one of two locations.
    let columns: Vec<String> =
        FEW_SHOT.iter().flat_map(|n| [format!("{n}*left_lung"), format!("{n}*right_lung")]).collect();
    let mut table = format!("NoteAcc_DEID,{}\n", columns.join(","));
    for (row, (id, labels)) in ids.iter().zip(made.labels.chunks(9)).enumerate() {
        let cells =
            labels.iter().flat_map(|&l| [l && row % 2 == 0, l && row % 2 == 1]).map(|l| u8::from(l).to_string());
        table += &format!("{id},{}\n", cells.collect::<Vec<_>>().join(","));
    }
    fs::write(at.join("img.csv"), table).unwrap();
    fs::write(at.join("quick.toml"), QUICK).unwrap();
    let few = "probe --features f.safetensors --labels img.csv --label-set few-shot --recipe quick.toml --bootstrap 0";
    let (code, object, said) = run(at, &format!("{few} --portion 0.5"));
    assert_eq!(code, Some(0), "{said}");
    assert!(number(&object["rows"][0]["auc_macro"]) > 0.8, "{object}");
    assert_eq!(object["rows"][0]["labels"].as_array().unwrap().len(), 9);
    refused(at, &format!("{few} --portion 1"), 2, &["--portion 1 leaves no sample to test on"]);
    refused(at, few, 2, &["give --portion"]);
    let pure = few.replace("few-shot", "pure");
    refused(at, &format!("{pure} --portion 0.5"), 1, &["img.csv", "missing columns: calcification"]);
}

#[test]
fn external_validation_merges_labels_and_keeps_weights() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    Made::new(5, "train", 240, 1, &["Arterial", "Coronary", "Hernia", "unused"]).write(at, "train");
    // The other data set: its calcification is the first two.
    let other = Made::new(6, "other", 100, 1, &["Arterial", "Coronary", "Hernia", "unused"]);
    let merged: Vec<bool> = other.labels.chunks(4).flat_map(|row| [row[2], row[0] || row[1]]).collect();
    let (names, without) = (
        ["hernia", "calcification"].map(String::from).to_vec(),
        merged.chunks(2).filter(|row| !row[0] && !row[1]).count(),
    );
    Made { names, labels: merged, ..other }.write(at, "other");
    fs::write(at.join("quick.toml"), QUICK).unwrap();
    fs::write(
        at.join("map.toml"),
        "dataset = \"Other\"\n[[label]]\nname = \"calcification\"\nof = [\"Arterial\", \"Coronary\"]\n\
         [[label]]\nname = \"hernia\"\nof = [\"Hernia\"]\n",
    )
    .unwrap();
    let test = "--test-features other.safetensors --test-labels other.csv --bootstrap 0";
    let train = "external --features train.safetensors --labels train.csv --recipe quick.toml --map map.toml";
    let (code, object, said) = run(at, &format!("{train} {test} --scores e --probe merged.safetensors"));
    assert_eq!((code, said.as_str()), (Some(0), ""));
    let row = &object["rows"][0];
    assert_eq!((&row["labels"][0]["name"], &row["labels"][1]["name"]), (&json!("calcification"), &json!("hernia")));
    assert!(number(&row["auc_macro"]) > 0.85, "{row}");
    assert_eq!(LinearProbe::read(at.join("merged.safetensors")).unwrap().names, ["calcification", "hernia"]);
    // The probe that was written, as it is.
    let (code, again, said) = run(at, &format!("external --trained merged.safetensors {test}"));
    assert_eq!((code, &again["rows"][0]["labels"]), (Some(0), &row["labels"]), "{said}");
    // A probe of the sources: a label's score is their largest.
    succeed(
        at,
        "eval probe --features train.safetensors --labels train.csv --recipe quick.toml --portion 0.9 --probe own --bootstrap 0",
    );
    let (code, _, said) = run(at, &format!("external --trained own --map map.toml {test} --scores s"));
    assert_eq!(code, Some(0), "{said}");
    let (probe, scores) =
        (LinearProbe::read(at.join("own")).unwrap(), ScoreFile::read(at.join("s.safetensors")).unwrap());
    let set = FeatureSet::read(at.join("other.safetensors")).unwrap();
    let logits = probe.logits(&x2ct::Device::host(), &set.features).unwrap();
    let want: Vec<f64> = logits.chunks(4).flat_map(|row| [row[0].max(row[1]), row[2]]).map(f64::from).collect();
    assert_eq!(scores.logits, want);
    refused(at, &format!("external --trained own {test} --label-set none.txt"), 1, &["none.txt"]);
    fs::write(at.join("more.txt"), "hernia\nGallstone\n").unwrap();
    let says = ["more.txt: labels: the map to Other has no label Gallstone"];
    refused(at, &format!("{train} {test} --label-set more.txt"), 1, &says);
    refused(at, &format!("external --trained own {test}"), 1, &["other.csv", "missing columns: Arterial"]);
    // Samples without any label.
    let (code, object, said) = run(at, &format!("{train} {test} --clean"));
    assert!(code == Some(0) && said.contains(&format!("{without} sample(s) have none of the labels")), "{said}");
    assert_eq!(object["rows"][0]["samples"], json!(100 - without));
    let (_, object, _) = run(at, &format!("{train} {test} --map map.toml").replacen("--map map.toml ", "", 1));
    assert_eq!(object["rows"][0]["samples"], json!(100));
    refused(
        at,
        &format!("{train} {test}").replace("map.toml", "radchest"),
        1,
        &["train.csv", "missing columns: Arterial wall calcification"],
    );
}

#[test]
fn features_of_other_encoders_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    Made::new(7, "train", 60, 1, &["a"]).write(at, "train");
    let test = Made::new(8, "valid", 30, 1, &["a"]);
    test.write(at, "test");
    fs::write(at.join("quick.toml"), QUICK).unwrap();
    test.set("swin").write(at.join("swin.safetensors")).unwrap();
    let narrow = test.features.chunks(12).flat_map(|row| row[..8].to_vec()).collect();
    FeatureSet { features: narrow, dim: 8, ..test.set("resnet18") }.write(at.join("narrow.safetensors")).unwrap();
    let on = |file: &str| {
        format!(
            "probe --features train.safetensors --labels train.csv --recipe quick.toml --test-features {file} --test-labels test.csv --bootstrap 0"
        )
    };
    refused(at, &on("swin.safetensors"), 1, &["swin.safetensors", "encoder: trained on resnet18, these are swin"]);
    refused(
        at,
        &on("narrow.safetensors"),
        1,
        &["narrow.safetensors: its features have 8 values, those of train.safetensors have 12"],
    );
    let (code, object, said) = run(at, &format!("{} --force", on("swin.safetensors")));
    assert!(code == Some(0) && object["provenance"] == "forced" && said.contains("these are swin"), "{said}");
    succeed(
        at,
        "eval probe --features train.safetensors --labels train.csv --recipe quick.toml --portion 0.5 --probe p --bootstrap 0",
    );
    let trained = "external --trained p --test-labels test.csv --bootstrap 0 --test-features";
    refused(at, &format!("{trained} swin.safetensors"), 1, &["swin.safetensors", "encoder: trained on resnet18"]);
    refused(at, &format!("{trained} narrow.safetensors"), 1, &["those of p have 12"]);
}

/// Each kind of bad input is one line that says where it is.
#[test]
fn bad_input_is_told_by_file_row_and_column() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let made = Made::new(9, "train", 40, 1, &["a", "b"]);
    made.write(at, "f");
    fs::write(at.join("quick.toml"), QUICK).unwrap();
    let probe = |features: &str, labels: &str| {
        format!("probe --features {features} --labels {labels} --portion 0.5 --recipe quick.toml --bootstrap 0")
    };
    let table = fs::read_to_string(at.join("f.csv")).unwrap();
    let tables: BTreeMap<&str, String> = [
        ("cell", table.replacen("train_3_a_1,", "train_3_a_1,x", 1)),
        ("twice", format!("{table}train_2_a_1,1,1\n")),
        ("lacks", table.lines().filter(|l| !l.starts_with("train_5_")).map(|l| format!("{l}\n")).collect()),
        ("strangers", format!("{table}train_99_a_1,0,1\n")),
        ("none", "id,a,b\nnobody,0,1\n".into()),
        ("empty", String::new()),
    ]
    .into();
    tables.iter().for_each(|(name, text)| fs::write(at.join(format!("{name}.csv")), text).unwrap());
    let fails = |labels: &str, parts: &[&str]| {
        let (code, object, said) = run(at, &probe("f.safetensors", labels));
        let failed = object["failed"].as_array().unwrap();
        assert!(code == Some(1) && object["rows"].is_array(), "the others are evaluated: {said}");
        let error = failed[0]["error"].as_str().unwrap();
        assert!(parts.iter().all(|part| error.contains(part)), "{error}");
        refused(at, &format!("{} --strict", probe("f.safetensors", labels)), 1, parts);
    };
    fails("cell.csv", &["cell.csv", "line 4", "a"]);
    fails("twice.csv", &["twice.csv", "train_2_a_1"]);
    fails("lacks.csv", &["lacks.csv", "train_5_a_1", "f.safetensors"]);
    let (code, _, said) = run(at, &probe("f.safetensors", "strangers.csv"));
    assert!(
        code == Some(0) && said.contains("f.safetensors: has none of 1 volume(s) of strangers.csv: train_99_a_1"),
        "{said}"
    );
    refused(at, &probe("f.safetensors", "none.csv"), 1, &["none.csv", "train_1_a_1"]);
    refused(at, &probe("f.safetensors", "empty.csv"), 1, &["empty.csv"]);
    refused(at, &probe("f.safetensors", "f.safetensors"), 1, &["f.safetensors"]);
    refused(at, &probe("missing.safetensors", "f.csv"), 1, &["missing.safetensors", "check the path"]);
    refused(at, &probe("f.csv", "f.csv"), 1, &["f.csv", "is not a whole safetensors file"]);
    fs::write(at.join("set.txt"), "a\nz\n").unwrap();
    refused(
        at,
        &format!("{} --label-set set.txt", probe("f.safetensors", "f.csv")),
        1,
        &["f.csv", "missing columns: z"],
    );
    fs::write(at.join("set.txt"), "a\na\n").unwrap();
    refused(
        at,
        &format!("{} --label-set set.txt", probe("f.safetensors", "f.csv")),
        1,
        &["set.txt", "the label a twice"],
    );
    // Files that are cut short, changed, or hold what is no number.
    let whole = fs::read(at.join("f.safetensors")).unwrap();
    fs::write(at.join("cut.safetensors"), &whole[..whole.len() / 2]).unwrap();
    refused(
        at,
        &probe("cut.safetensors", "f.csv"),
        1,
        &["cut.safetensors", "is not a whole safetensors file", "make the features again"],
    );
    let mut changed = whole.clone();
    *changed.last_mut().unwrap() ^= 0x40;
    fs::write(at.join("changed.safetensors"), changed).unwrap();
    refused(at, &probe("changed.safetensors", "f.csv"), 1, &["changed.safetensors", "it was changed or damaged"]);
    nan_features(&made, &at.join("nan.safetensors"));
    refused(at, &probe("nan.safetensors", "f.csv"), 1, &["nan.safetensors", "row 2, column 1 is NaN"]);
    // Portions that leave nothing, and outputs that cannot be.
    let portion = |share: &str| probe("f.safetensors", "f.csv").replace("0.5", share);
    refused(
        at,
        &portion("0.01"),
        1,
        &["f.safetensors", "the portion 0.01 of its 40 samples leaves none", "larger --portion"],
    );
    refused(at, &portion("0.5 0.5"), 2, &["--portion 0.5 is given twice"]);
    refused(at, &format!("{} --scores f", portion("0.5")), 1, &["f.safetensors", "is the same file as the input"]);
    refused(
        at,
        &format!("{} --scores o --probe o.safetensors", portion("0.5")),
        2,
        &["would both write o.safetensors"],
    );
    refused(at, &format!("{} --tower report", portion("0.5")), 2, &["--tower", "an embedding cache"]);
    refused(at, &portion("0.5").replace("quick", "none"), 1, &["none.toml", "one of a, b, c"]);
    refused(
        at,
        &portion("0.5").replace("probe", "finetune").replace(" --recipe quick.toml", ""),
        1,
        &["no weight of the label \"a\""],
    );
    let (_, _, said) = run(at, &portion("0"));
    assert!(said.contains("give a number from 0.000001 to 1"), "{said}");
}

/// Labels that are never or always there among the samples trained on.
#[test]
fn labels_without_both_classes_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let made = Made::new(10, "train", 80, 1, &["a", "never", "always"]);
    let labels = made.labels.chunks(3).flat_map(|row| [row[0], false, true]).collect();
    Made { labels, ..made }.write(at, "f");
    fs::write(at.join("quick.toml"), QUICK).unwrap();
    let probe = "probe --features f.safetensors --labels f.csv --recipe quick.toml --portion 0.5 --bootstrap 100";
    let (code, object, said) = run(at, probe);
    assert_eq!(code, Some(0), "{said}");
    for says in [
        "1 label(s) have no positive among the 32 samples to train on",
        "never",
        "1 label(s) have no negative",
        "always",
    ] {
        assert!(said.contains(says), "{says}: {said}");
    }
    let row = &object["rows"][0];
    assert_eq!((&row["labels_defined"], &row["labels"][1]["auc"]), (&json!(1), &Value::Null));
}

/// An interrupted run exits with 130 and leaves no file.
#[cfg(unix)]
#[test]
fn an_interrupted_training_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    Made::new(11, "train", 200, 1, &["a"]).write(at, "f");
    fs::write(at.join("long.toml"), "epochs = 1000000\npatience = 0\nbatch = 1\n").unwrap();
    let arguments = "eval probe --features f.safetensors --labels f.csv --portion 0.5 --recipe long.toml --scores s --probe p.safetensors";
    let program = crate::support::program();
    let mut child =
        Command::new(program).args(arguments.split(' ')).current_dir(at).stderr(Stdio::null()).spawn().unwrap();
    std::thread::sleep(Duration::from_secs(2));
    let status = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(status.success());
    assert_eq!(child.wait().unwrap().code(), Some(130));
    let mut left: Vec<String> =
        fs::read_dir(at).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    left.sort();
    assert_eq!(left, ["f.csv", "f.safetensors", "long.toml"]);
}

/// The names of CT-RATE's labels are those that the recipe has weights of.
#[test]
fn fine_tuning_weights_the_18_labels() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    Made::new(12, "train", 150, 1, &labels::NAMES).write(at, "f");
    let (code, object, said) = run(at, "finetune --features f.safetensors --labels f.csv --portion 0.5 --bootstrap 0");
    assert_eq!((code, &object["rows"][0]["best_epoch"]), (Some(0), &json!(17)), "{said}");
}

/// A file of features, made by hand, whose third row has a NaN.
fn nan_features(made: &Made, path: &Path) {
    let mut features = made.features.clone();
    features[2 * made.dim + 1] = f32::NAN;
    let mut archive = x2ct::archive::Writer::new("x2ct-features-1");
    archive.set("ids", json!(made.ids).to_string());
    archive.set("encoder", "resnet18");
    archive.put_f32("features", &[made.ids.len(), made.dim], &features);
    archive.write(path).unwrap();
}
