//! Joins of tables, caches and earlier times: what one of two lacks is said with the file that lacks it, and refused under
//! `--strict`. Outputs are tried before anything else.

use std::path::Path;

use serde_json::{Value, json};

use crate::cli::{prepare, succeed, text, x2ct};
use crate::json::assert_report;

const REPORTS: &str = "dataset/radiology_text_reports/validation_reports.csv";
const LABELS: &str = "dataset/multi_abnormality_labels/valid_predicted_labels.csv";
const METADATA: &str = "dataset/metadata/validation_metadata.csv";

/// Runs a command with `--json`: exit code, warnings as `file: warning`, message.
fn run(at: &Path, arguments: &str) -> (Option<i32>, Vec<String>, String) {
    let output = x2ct(at, &format!("{arguments} --json"));
    let object = assert_report(arguments, &output, arguments.split(' ').next().unwrap());
    let warnings = object["warnings"].as_array().unwrap().iter();
    let line = |w: &Value| format!("{}: {}", w["file"].as_str().unwrap(), w["warning"].as_str().unwrap());
    (output.status.code(), warnings.map(line).collect(), text(&output.stderr))
}

/// Edits a table of a data set and gives the text before.
fn edit(at: &Path, table: &str, edit: impl Fn(&str) -> String) -> String {
    let before = std::fs::read_to_string(at.join(table)).unwrap();
    let after = edit(&before);
    assert_ne!(before, after);
    std::fs::write(at.join(table), after).unwrap();
    before
}

/// All rows but those that begin with `name`.
fn without(name: &str) -> impl Fn(&str) -> String {
    let name = name.to_string();
    move |table| table.lines().filter(|line| !line.starts_with(&name)).map(|line| format!("{line}\r\n")).collect()
}

#[test]
fn tables_that_disagree_are_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    succeed(at, "phantom --out . --train 3 --valid 8 --shape 16x16x16 --spacing 24");
    let eval = "eval --cache valid.cache.safetensors --dataset ./";
    let whole = run(at, &format!("{eval} --strict"));
    assert_eq!((whole.0, whole.1.len()), (Some(0), 0), "{}", whole.2);
    let full = |table: &str| std::fs::read_to_string(at.join(table)).unwrap();
    let [reports, labels, metadata] = [REPORTS, LABELS, METADATA].map(full);
    let restore = |table: &str, text: &str| std::fs::write(at.join(table), text).unwrap();

    // A report or a metadata row is not needed to evaluate, but was expected: the scores are those of all 8.
    for (table, before) in [(REPORTS, &reports), (METADATA, &metadata)] {
        edit(at, table, without("valid_8_a_1"));
        let says = format!("./{table}: has no row for 1 volume(s) that another table has: valid_8_a_1");
        let (code, warnings, said) = run(at, eval);
        assert_eq!((code, &warnings[..]), (Some(0), &[says.clone()][..]), "{said}");
        let (code, _, said) = run(at, &format!("{eval} --strict"));
        assert!(code == Some(1) && said.contains(&says), "{said}");
        restore(table, before);
    }
    // Labels are: it is the table that is named, not the data set.
    edit(at, LABELS, without("valid_8_a_1"));
    let (code, _, said) = run(at, eval);
    let says = format!("{LABELS}: valid_8_a_1: has no row for this volume of valid.cache.safetensors");
    assert!(code == Some(1) && said.contains(&says), "{said}");
    // A row that is there and cannot be used is named by its line, be the lines' ends as they may, and a mark before them.
    let spoil = |table: &str| format!("\u{feff}{}", table.replace("valid_8_a_1.nii.gz,", "valid_8_a_1.nii.gz,maybe"));
    restore(LABELS, &labels.replace('\n', "\r\n"));
    edit(at, LABELS, spoil);
    let (code, _, said) = run(at, eval);
    assert!(code == Some(1) && said.contains(&format!("{LABELS}: line 9, column Medical material: \"maybe")), "{said}");
    // Two rows that differ count as none; two that are equal as one, which is said.
    restore(LABELS, &(labels.clone() + &labels.lines().last().unwrap().replace(",0", ",1") + "\n"));
    let (code, _, said) = run(at, eval);
    assert!(code == Some(1) && said.contains("line 10") && said.contains("stands on line 9 already"), "{said}");
    restore(LABELS, &(labels.clone() + labels.lines().last().unwrap() + "\n"));
    let (code, warnings, said) = run(at, eval);
    assert!(code == Some(0) && warnings.len() == 1 && warnings[0].contains("line 10"), "{warnings:?} {said}");
    restore(LABELS, &labels);

    // A cache of fewer volumes than the table lists is evaluated, and said to be.
    let mut cache = x2ct::data::cache::EmbeddingCache::read(at.join("valid.cache.safetensors")).unwrap();
    let size = 6 * cache.dim;
    cache.cts = x2ct::data::cts::Cts::new((0..6).map(|row| cache.cts.of(row).to_string()).collect());
    cache.ids.truncate(6);
    cache.ct.truncate(size);
    cache.report.truncate(size);
    cache.write(at.join("six")).unwrap();
    let (code, warnings, _) = run(at, &eval.replace("valid.cache.safetensors", "six"));
    assert_eq!(code, Some(0));
    assert_eq!(warnings, [format!("six: has none of 2 volume(s) of ./{LABELS}: valid_7_a_1, valid_8_a_1")]);

    // Text features leave out what a table lacks, say so, and refuse under --strict before anything is written.
    let features = "cache text --dataset . --split valid --features 16 --out";
    for (table, before) in [(REPORTS, &reports), (LABELS, &labels), (METADATA, &metadata)] {
        edit(at, table, without("valid_8_a_1"));
        let (code, warnings, said) = run(at, &format!("{features} seven"));
        assert!(code == Some(0) && warnings.len() == 1 && warnings[0].contains(table), "{warnings:?} {said}");
        assert!(warnings[0].ends_with("has no row for 1 volume(s), left out: valid_8_a_1"), "{warnings:?}");
        assert_eq!(x2ct::data::text::TextFeatures::read(at.join("seven")).unwrap().ids.len(), 7);
        let (code, _, said) = run(at, &format!("{features} strict --strict"));
        assert!(code == Some(1) && said.contains(table) && !at.join("strict").exists(), "{said}");
        restore(table, before);
    }
    // A row that stands twice in the same words counts once.
    restore(LABELS, &(labels.clone() + labels.lines().last().unwrap() + "\n"));
    let (code, warnings, said) = run(at, &format!("{features} twice"));
    assert!(code == Some(0) && warnings.len() == 1 && warnings[0].contains("line 10"), "{warnings:?} {said}");
    restore(LABELS, &labels);
    let output = x2ct(at, &format!("{features} whole --strict --json"));
    let object = assert_report("cache text", &output, "cache");
    let text = x2ct::data::text::TextFeatures::read(at.join("whole")).unwrap().provenance();
    assert_eq!(object["digests"], json!({"reports": text.from["reports"].digest, "text": text.digest}));
    assert_eq!(object["provenance"], "recorded");
}

/// A report without a word is embedded as the empty text, as CT-CLIP's code does, and told.
#[test]
fn reports_that_say_nothing_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    succeed(at, "phantom --out . --train 3 --valid 8 --shape 16x16x16 --spacing 24");
    let features = "cache text --dataset . --split valid --features 16 --out";
    // Clinical information and technique are no part of the text.
    let silence = |number: usize, sections: &str| {
        let name = format!("valid_{number}_a_1.nii.gz,");
        let row = |line: &str| if line.starts_with(&name) { format!("{name}pain,CT,{sections}") } else { line.into() };
        edit(at, REPORTS, |table| table.lines().map(|line| row(line) + "\n").collect());
    };
    for (number, sections) in [(2, ","), (3, "nan,NaN"), (4, "Not given.,Not given."), (5, "\"\"\" ()\"\"\", ' ")] {
        silence(number, sections);
    }
    let output = x2ct(at, &format!("{features} text --json"));
    let object = assert_report("cache text", &output, "cache");
    assert_eq!((&object["reports"], &object["empty_reports"]), (&json!(8), &json!(4)), "{object}");
    let first = "valid_2_a_1, valid_3_a_1, valid_4_a_1, valid_5_a_1";
    let says = format!("says nothing of 4 volume(s), which get the features of an empty text: {first}");
    assert_eq!(object["warnings"], json!([{"file": format!("./{REPORTS}"), "warning": says}]));
    let text = x2ct::data::text::TextFeatures::read(at.join("text")).unwrap();
    let of = |number: usize| text.select([&*format!("valid_{number}_a_1")]).unwrap();
    assert!([3, 4, 5].iter().all(|&number| of(number) == of(2)) && of(1) != of(2));
    let (code, _, said) = run(at, &format!("{features} strict --strict"));
    assert!(code == Some(1) && said.contains(&says) && !at.join("strict").exists(), "{said}");
    [1, 6, 7, 8].iter().for_each(|&number| silence(number, ","));
    let (code, _, said) = run(at, &format!("{features} none"));
    let says = format!("{REPORTS}: none of its 8 reports says anything; fill in the columns Findings_EN");
    assert!(code == Some(1) && said.contains(&says) && !at.join("none").exists(), "{said}");
}

#[test]
fn predictions_say_which_reports_have_no_text() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    prepare(at);
    let volume = "dataset/train_fixed/train_1/train_1_a/train_1_a_1.nii.gz";
    succeed(at, &format!("drr {volume} --out ap.png"));
    let predict = "predict ap.png --checkpoint checkpoint.safetensors --cache train.cache.safetensors --dataset .";
    let (code, warnings, said) = run(at, predict);
    assert!(code == Some(0) && warnings.iter().all(|w| !w.contains("reports.csv")), "{warnings:?} {said}");
    let (code, warnings, said) = run(at, &format!("{predict} --split valid"));
    let first = "train_1_a_1, train_2_a_1, train_3_a_1, train_4_a_1";
    let says = format!("./{REPORTS}: has no row for 4 volume(s) of train.cache.safetensors: {first}");
    assert!(code == Some(0) && warnings.contains(&says), "{warnings:?} {said}");
}

/// The inputs are absent too: whoever names the output has tried it first.
#[test]
fn outputs_are_tried_before_the_work() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    std::fs::write(at.join("file"), "").unwrap();
    std::fs::create_dir(at.join("demo")).unwrap();
    std::fs::create_dir(at.join("demo/report.html")).unwrap();
    std::fs::create_dir_all(at.join("set/train.cache.safetensors")).unwrap();
    for (arguments, says) in [
        (
            "eval --cache absent --dataset absent --csv nowhere/x.csv",
            "nowhere/x.csv: cannot write: its folder does not exist; make the folder first: mkdir -p nowhere",
        ),
        ("cache text --dataset absent --out nowhere/x", "nowhere/x: cannot write"),
        ("cache build --checkpoint absent --volumes absent --text absent --out nowhere/x", "nowhere/x: cannot write"),
        ("bench optim --out nowhere/x", "nowhere/x: cannot write"),
        ("demo --out file", "file: cannot create the folder"),
        ("demo --out demo", "demo/report.html: is a folder"),
        ("phantom --out file", "file: cannot create the folder"),
        ("phantom --out set", "set/train.cache.safetensors: is a folder"),
        ("drr absent.nii --out nowhere/x.png", "nowhere/x.png: cannot write"),
        ("preprocess absent.nii --preset x2ct --out nowhere/x.safetensors", "nowhere/x.safetensors: cannot write"),
        ("preprocess absent.nii --preset x2ct --out p --pack nowhere/x", "nowhere/x: cannot write"),
    ] {
        let output = x2ct(at, arguments);
        let said = text(&output.stderr);
        assert!(output.status.code() == Some(1) && said.contains(says), "x2ct {arguments}: {said}");
        assert!(output.stdout.is_empty() && said.lines().count() == 1, "x2ct {arguments}: {said}");
    }
}

/// No command writes over what it reads, by whatever name.
#[test]
fn outputs_are_no_inputs() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    prepare(at);
    std::fs::copy(at.join("dataset/train_fixed/train_1/train_1_a/train_1_a_1.nii.gz"), at.join("ct.nii.gz")).unwrap();
    std::os::unix::fs::symlink("ct.nii.gz", at.join("link.nii.gz")).unwrap();
    let cache = "train.cache.safetensors";
    for (arguments, output) in [
        ("drr ct.nii.gz --out ct.nii.gz", "ct.nii.gz"),
        ("drr ct.nii.gz --out ./link.nii.gz", "link.nii.gz"),
        ("preprocess ct.nii.gz --preset x2ct --out p --pack ct.nii.gz", "ct.nii.gz"),
        ("eval --cache train.cache.safetensors --dataset . --split train --csv train.cache.safetensors", cache),
        (
            "cache build --checkpoint checkpoint.safetensors --volumes v --text t --out checkpoint.safetensors",
            "checkpoint",
        ),
    ] {
        let before = ["ct.nii.gz", cache, "checkpoint.safetensors"].map(|name| std::fs::read(at.join(name)).unwrap());
        let (code, _, said) = run(at, arguments);
        assert!(code == Some(1) && said.contains(output) && said.contains("is the same file as the input"), "{said}");
        let after = ["ct.nii.gz", cache, "checkpoint.safetensors"].map(|name| std::fs::read(at.join(name)).unwrap());
        assert!(before == after, "x2ct {arguments}");
    }
}

#[test]
fn a_baseline_is_looked_at_before_it_is_compared_with() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let bench = "bench pointwise --variant add --seconds 0.01 --device host";
    let times: Value = serde_json::from_str(&succeed(at, &format!("{bench} --json"))).unwrap();
    let write = |edit: &dyn Fn(&mut Value)| {
        let mut edited = times.clone();
        edit(&mut edited);
        std::fs::write(at.join("b.json"), edited.to_string()).unwrap();
    };
    let compare = format!("{bench} --baseline b.json");
    write(&|times| times["rows"][0]["median_us"] = json!(times["rows"][0]["median_us"].as_f64().unwrap() * 1000.0));
    let output = x2ct(at, &format!("{compare} --json"));
    let object = assert_report(&compare, &output, "bench");
    let speed_ups: Vec<f64> =
        object["rows"].as_array().unwrap().iter().map(|r| r["speed_up"].as_f64().unwrap()).collect();
    assert!(speed_ups[0] > 20.0 && speed_ups[1] < 20.0 && object["warnings"] == json!([]), "{object}");
    let cases: [(&dyn Fn(&mut Value), &str); 5] = [
        (&|t| t["rows"][1]["median_us"] = json!(0), "b.json: rows[1].median_us: 0 is no time"),
        (&|t| t["rows"][1]["median_us"] = json!(-3.5), "b.json: rows[1].median_us: -3.5 is no time"),
        (&|t| t["rows"][1] = t["rows"][0].clone(), "b.json: rows[1].case: `pointwise add"),
        (&|t| t["rows"] = json!([]), "b.json: holds no times"),
        (&|t| drop(t.as_object_mut().unwrap().remove("device")), "b.json: is no output of `x2ct bench --json`"),
    ];
    for (edit, says) in cases {
        write(edit);
        let output = x2ct(at, &compare);
        let said = text(&output.stderr);
        assert!(output.status.code() == Some(1) && said.contains(says) && output.stdout.is_empty(), "{says}: {said}");
    }
    write(&|times| {
        times["device"] = json!("another machine");
        times["rows"][0]["case"] = json!("a case of old");
    });
    let (code, warnings, said) = run(at, &compare);
    assert!(code == Some(0) && warnings.len() == 2, "{warnings:?} {said}");
    assert!(warnings[0].starts_with("b.json: was measured on another machine, this is "), "{warnings:?}");
    assert!(warnings[1].starts_with("b.json: has no time of 1 case(s): pointwise add"), "{warnings:?}");
}
