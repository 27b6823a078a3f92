//! The JSON of every command has one shape, whether it ends well or not.

use std::path::Path;
use std::process::Output;

use serde_json::Value;
use x2ct::data::ct_rate::Split;

use crate::cli::{configuration, succeed, text, x2ct};
use crate::teacher::circle;

/// What stands under a key.
#[derive(Clone, Copy)]
enum Kind {
    Text,
    Number,
    Object,
    List,
    /// Objects under `rows`, at least one, each with these keys.
    Rows(&'static [&'static str]),
}

/// The object that a command printed, after checking what all have in common: `command` and `status` first, `warnings` of
/// `{file, warning}` and `failed` of `{file, field, error}` last.
pub fn assert_report(arguments: &str, output: &Output, command: &str) -> Value {
    let object: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|e| panic!("x2ct {arguments}: {e}: {}{}", text(&output.stdout), text(&output.stderr)));
    let keys: Vec<&String> =
        object.as_object().unwrap_or_else(|| panic!("x2ct {arguments}: {object}")).keys().collect();
    assert!(keys.starts_with(&[&"command".into(), &"status".into()]), "x2ct {arguments}: {keys:?}");
    assert!(keys.ends_with(&[&"warnings".into(), &"failed".into()]), "x2ct {arguments}: {keys:?}");
    assert_eq!(object["command"], command, "x2ct {arguments}");
    let list = |key: &str| object[key].as_array().unwrap_or_else(|| panic!("x2ct {arguments}: {object}"));
    let has_keys = |entry: &Value, keys: &[&str]| entry.as_object().is_some_and(|entry| entry.keys().eq(keys));
    let ok = output.status.success();
    let expected = (Some(if ok { "ok" } else { "failed" }), ok);
    assert_eq!((object["status"].as_str(), list("failed").is_empty()), expected, "x2ct {arguments}: {object}");
    for entry in list("failed") {
        assert!(
            has_keys(entry, &["file", "field", "error"]) && entry["error"].is_string(),
            "x2ct {arguments}: {entry}"
        );
        for key in ["file", "field"] {
            assert!(entry[key].is_string() || entry[key].is_null(), "x2ct {arguments}: {entry}");
        }
    }
    for entry in list("warnings") {
        let texts = entry["file"].is_string() && entry["warning"].is_string();
        assert!(has_keys(entry, &["file", "warning"]) && texts, "x2ct {arguments}: {entry}");
    }
    object
}

/// Runs a command that must end well, and checks what its object holds.
fn assert_holds(at: &Path, arguments: &str, keys: &[(&str, Kind)]) {
    let output = x2ct(at, &format!("{arguments} --json"));
    assert!(output.status.success(), "x2ct {arguments}: {}", text(&output.stderr));
    let object = assert_report(arguments, &output, arguments.split(' ').next().unwrap());
    for (key, kind) in keys {
        let value = &object[*key];
        let holds = match kind {
            Kind::Text => value.is_string(),
            Kind::Number => value.is_number(),
            Kind::Object => value.is_object(),
            Kind::List => value.is_array(),
            Kind::Rows(keys) => value.as_array().is_some_and(|rows| {
                !rows.is_empty() && rows.iter().all(|row| keys.iter().all(|key| row.get(key).is_some()))
            }),
        };
        assert!(holds, "x2ct {arguments}: {key}: {value}");
    }
    for (key, value) in object.as_object().unwrap() {
        let lists_objects = value.as_array().is_some_and(|list| list.iter().any(Value::is_object));
        assert!(!lists_objects || LISTS.contains(&key.as_str()), "x2ct {arguments}: objects are listed under {key}");
    }
}

const CXR: &str = "--checkpoint run/checkpoint.safetensors";
const CT: &str = "--checkpoint ct/checkpoint.safetensors --volumes valid.volumes.safetensors --text valid.text";
const ROW: [&str; 10] = ["file", "case", "op", "tensor", "max_abs", "rel_l2", "limit", "margin", "pass", "reason"];
/// Keys that objects are listed under: a result's rows, what stands beside every result, the two of a model, and an evaluation's labels.
const LISTS: [&str; 6] = ["rows", "warnings", "passed_over", "stages", "layers", "labels"];
/// The rows of `x2ct drr` of several volumes.
const VOLUMES: (&str, Kind) =
    ("rows", Kind::Rows(&["input", "volume", "isocentre_mm", "outputs", "padding_voxels", "seconds", "forced"]));
const CHAIN: [(&str, Kind); 2] = [("provenance", Kind::Text), ("digests", Kind::Object)];

#[test]
fn every_command_that_ends_well_prints_one_shape() {
    use Kind::*;
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let volume = "dataset/valid_fixed/valid_1/valid_1_a/valid_1_a_1.nii.gz";
    let golden = crate::support::checkout("tests/golden").join("relu_7x131.safetensors");
    let with_chain = |keys: &[(&'static str, Kind)]| [keys, &CHAIN].concat();
    let holds = |arguments: &str, keys: &[(&'static str, Kind)]| assert_holds(at, arguments, keys);
    holds("doctor", &[("version", Text), ("kernels", Number), ("host", Object), ("cuda", Object)]);
    holds("model resnet18 --width 2 --batch 4", &[("parameters", Number)]);
    holds("model dcformer-nano", &[("parameters", Number)]);
    holds("bench --list", &[("rows", List)]);
    holds("bench optim --seconds 0.01", &[("device", Text), ("rows", Rows(&["family", "case", "median_us", "runs"]))]);
    holds("bench mixers --size 32x32x16 --batch 3 --seconds 0.01", &[("rows", Rows(&["mixer", "forward_ms"]))]);
    let check = format!("check {}", golden.display());
    holds(&check, &[("rows", Rows(&ROW)), ("not_compared", Object), ("passed_over", List)]);
    let frozen = crate::support::checkout("tests/golden").join("tri_modal_n7_sum.safetensors").display().to_string();
    let output = x2ct(at, &format!("check {frozen} --json"));
    let object = assert_report("check", &output, "check");
    assert_eq!(object["not_compared"][&frozen], serde_json::json!(["g.in.ct", "g.in.report"]), "{object}");
    let says = format!("not compared, since {frozen} has no reference of them: g.in.ct, g.in.report\n");
    assert!(succeed(at, &format!("check {frozen}")).contains(&says));

    for (table, cells) in [("labels.csv", "v,1\nw,0\n"), ("scores.csv", "v,0.7\nw,0.1\n")] {
        std::fs::write(at.join(table), format!("id,Nodule\n{cells}")).unwrap();
    }
    let metrics =
        [("auc_macro", Number), ("labels", List), ("digests", Object), ("rows", Rows(&["file", "auc_macro"]))];
    holds("metrics labels.csv scores.csv", &metrics);

    let phantom = "phantom --out . --train 8 --valid 6 --shape 24x24x24 --spacing 12";
    holds(
        phantom,
        &[("dataset", Text), ("form", Text), ("train", Number), ("valid", Number), ("teacher", Text), ("caches", List)],
    );
    holds(&format!("drr {volume} --out ap.png"), &[("output", Text), ("settings", Object), ("passed_over", List)]);
    let many = [("out", Text), ("volumes", Number), ("views", List), ("forced", List), ("passed_over", List), VOLUMES];
    holds("drr dataset --out pictures/", &many);
    let packed = [("files", List), ("manifest", Text), ("radiographs", Number), ("preprocessing_digest", Text)];
    for split in ["train", "valid"] {
        holds(&format!("drr --dataset . --split {split} --size 32x32 --out {split}"), &packed);
    }
    let rows = ("rows", Rows(&["input", "output", "shape", "seconds"]));
    holds(
        &format!("preprocess {volume} --preset x2ct --out prepared"),
        &[rows, ("preset_digest", Text), ("passed_over", List)],
    );

    std::fs::write(at.join("run.toml"), configuration(at, 1, 4)).unwrap();
    let trained = [("checkpoint", Text), ("position", Object), ("last", Object), ("pairs", Number)];
    let trained = with_chain(&trained);
    holds("train run.toml", &trained);
    for (split, name) in [(Split::Train, "train"), (Split::Valid, "valid")] {
        circle::prepare(at, split);
        let keys = with_chain(&[("text", Text), ("reports", Number), ("empty_reports", Number), ("features", Number)]);
        holds(&format!("cache text --dataset . --split {name} --features 64 --out {name}.text"), &keys);
    }
    std::fs::write(at.join("ct.toml"), circle::CT.replace("train.text.safetensors", "train.text")).unwrap();
    holds("train ct.toml", &trained);
    let built = with_chain(&[("cache", Text), ("volumes", Number), ("embedded", Number), ("teacher", Text)]);
    holds(&format!("cache build {CT} --out built.safetensors"), &built);

    let scored = with_chain(&[("gallery", Number), ("retrieval", Object), ("zero_shot", Object)]);
    holds(&format!("eval {CXR} --radiographs valid --cache valid.cache.safetensors --dataset ."), &scored);
    holds(&format!("eval {CT} --dataset ."), &scored);
    holds("eval --cache built.safetensors --dataset . --csv labels.csv", &scored);
    let embedded = with_chain(&[("features", Text), ("radiographs", Number), ("dim", Number), ("teacher", Text)]);
    holds(&format!("embed {CXR} --radiographs valid --out f.safetensors"), &embedded);
    let alone = "--features f.safetensors --bootstrap 0";
    let found = with_chain(&[("gallery", Number), ("chance", Object), ("retrieval", Object)]);
    holds(&format!("eval retrieval {alone} --cache valid.cache.safetensors"), &found);
    let labels = "dataset/multi_abnormality_labels/valid_predicted_labels.csv";
    let detect = format!("eval zero-shot {alone} --prompts valid.cache.safetensors --labels {labels} --scores s");
    holds(&detect, &with_chain(&[("auc_micro", Number), ("labels", List), ("scale", Number)]));
    holds("eval calibrate s.safetensors --out c.json", &with_chain(&[("rows", Rows(&["name"])), ("after", Object)]));
    let predicted = [("rows", Rows(&["image", "teacher", "probabilities", "reports"])), ("passed_over", List)];
    let predicted = with_chain(&predicted);
    holds(&format!("predict ap.png {CXR} --cache train.cache.safetensors --dataset ."), &predicted);
    let demo = [("seconds", Number), ("device", Text), ("retrieval", Object), ("config", Object), ("digests", Object)];
    holds("demo --out demo --patients 16 --held-out 8 --epochs 1", &demo);
}

/// What failed on the way stands beside what was done.
#[test]
fn what_fails_while_the_work_goes_on_is_listed() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    succeed(at, "phantom --out . --train 3 --valid 0 --shape 24x24x24 --spacing 12");
    std::fs::write(at.join("bad.nii"), "no volume").unwrap();
    let volume = "dataset/train_fixed/train_1/train_1_a/train_1_a_1.nii.gz";
    let labels = at.join("dataset/multi_abnormality_labels/train_predicted_labels.csv");
    let spoilt = std::fs::read_to_string(&labels).unwrap().replacen("train_2_a_1.nii.gz,", "train_2_a_1.nii.gz,x", 1);
    std::fs::write(&labels, spoilt).unwrap();
    for (arguments, file, field) in [
        (&*format!("drr {volume} bad.nii --out pictures/"), "bad.nii", None),
        (&*format!("preprocess {volume} bad.nii --preset x2ct --out prepared"), "bad.nii", None),
        (
            "drr --dataset . --split train --size 32x32 --out set",
            "train_predicted_labels.csv",
            Some("line 3, column Medical material"),
        ),
        ("cache text --dataset . --out text", "train_predicted_labels.csv", Some("line 3, column Medical material")),
        (
            &*format!("check {} bad.nii", crate::support::checkout("tests/golden/relu_7x131.safetensors").display()),
            "bad.nii",
            None,
        ),
    ] {
        let output = x2ct(at, &format!("{arguments} --json"));
        assert_eq!(output.status.code(), Some(1), "x2ct {arguments}: {}", text(&output.stderr));
        let object = assert_report(arguments, &output, arguments.split(' ').next().unwrap());
        let [failure] = &object["failed"].as_array().unwrap()[..] else { panic!("x2ct {arguments}: {object}") };
        assert!(failure["file"].as_str().unwrap().ends_with(file), "x2ct {arguments}: {failure}");
        assert_eq!(failure["field"].as_str(), field, "x2ct {arguments}: {failure}");
        assert!(object.as_object().unwrap().len() > 4, "x2ct {arguments}: what was done is there: {object}");
    }
}
