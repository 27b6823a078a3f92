//! `x2ct metrics`: anybody's tables of labels and scores.

use std::fs;
use std::path::Path;

use serde_json::Value;
use x2ct::data::cache::EmbeddingCache;
use x2ct::data::label_map::LabelMap;
use x2ct::data::provenance::Provenance;
use x2ct::data::radchest_labels::{ABNORMALITIES, PURE, RadChestLabels};
use x2ct::data::rows;
use x2ct::eval::retrieval::{Recall, ranks};
use x2ct::eval::score_file::ScoreFile;
use x2ct::labels::NAMES;

use crate::cli::{succeed, text, x2ct};
use crate::json::assert_report;

const LABELS: &str = "id,Nodule,Effusion\np1,1,0\np2,0,0\np3,1,1\np4,0,1\np5,0,0\np6,1,0\n";
const SCORES: &str = "id,Nodule,Effusion\np1,0.9,0.2\np2,0.4,0.4\np3,0.6,0.5\np4,0.3,0.9\np5,0.5,0.7\np6,0.2,0.5\n";

/// Runs `x2ct metrics ARGUMENTS --json`: exit code, object, standard error.
fn run(at: &Path, arguments: &str) -> (Option<i32>, Value, String) {
    let output = x2ct(at, &format!("metrics {arguments} --json"));
    (output.status.code(), assert_report(arguments, &output, "metrics"), text(&output.stderr))
}

fn write(at: &Path, name: &str, table: &str) {
    fs::write(at.join(name), table).unwrap();
}

#[test]
fn the_keys_are_scikit_learns_numbers() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    // The example of the published code: three labels, here in another order of columns and rows, with an id as CT-RATE writes it.
    write(
        at,
        "y.csv",
        "VolumeName,a,b,c\nv1.nii.gz,1,0,1\nv2.nii.gz,0,0,1\nv3.nii.gz,1,1,0\nv4.nii.gz,0,0,0\nv5.nii.gz,0,1,0\nv6.nii.gz,1,0,0\n",
    );
    write(at, "p.csv", "id,c,a,b\nv6,.1,.2,.5\nv1,.6,.9,.2\nv2,.4,.4,.4\nv3,.2,.6,.5\nv4,.5,.3,.1\nv5,.3,.5,.7\n");
    let (code, object, said) = run(at, "y.csv p.csv");
    assert_eq!((code, said.as_str()), (Some(0), ""));
    let want = [
        ("auc_micro", 0.824_675_324_675_324_7),
        ("auc_macro", 0.826_388_888_888_888_8),
        ("ap_micro", 0.801_136_363_636_363_6),
        ("ap_macro", 0.833_333_333_333_333_4),
        ("f1_weighted", 0.723_809_523_809_523_8),
        ("f1_macro", 0.711_111_111_111_111_1),
        ("f1_micro", 0.727_272_727_272_727_3),
        ("accuracy", 0.833_333_333_333_333_4),
        ("precision_micro", 1.0),
        ("recall_micro", 0.571_428_571_428_571_4),
    ];
    for (key, value) in want {
        let got = object[key].as_f64().unwrap();
        assert!((got - value).abs() < 1e-12, "{key}: {got}");
        let interval = &object["intervals"][key];
        assert!(
            interval["low"].as_f64().unwrap() <= value && value <= interval["high"].as_f64().unwrap(),
            "{interval}"
        );
    }
    let names: Vec<&str> = object["labels"].as_array().unwrap().iter().map(|l| l["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["a", "b", "c"]);
    assert_eq!(object["labels"][0]["positives"], 3);
    assert!(object.get("delong").is_none());
    let (_, without, _) = run(at, "y.csv p.csv --bootstrap 0");
    assert!(without.get("intervals").is_none() && without["auc_micro"] == object["auc_micro"]);
    assert_eq!(run(at, "y.csv p.csv").1, object, "a seed gives the same draws");
    let text = text(&x2ct(at, "metrics y.csv p.csv").stdout);
    assert!(text.contains("auc_micro") && text.contains("0.8247 ["), "{text}");
}

#[test]
fn further_scores_are_compared_by_delong_and_by_bootstrap() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let table = |scores: [f64; 9]| {
        scores.iter().enumerate().fold("id,x\n".to_string(), |all, (row, score)| format!("{all}v{row},{score}\n"))
    };
    write(at, "y.csv", &table([1., 1., 1., 1., 0., 0., 0., 0., 0.]));
    write(at, "a.csv", &table([0.9, 0.8, 0.4, 0.6, 0.5, 0.3, 0.2, 0.6, 0.1]));
    write(at, "b.csv", &table([0.7, 0.4, 0.5, 0.9, 0.6, 0.5, 0.2, 0.8, 0.3]));
    let (code, object, said) = run(at, "y.csv a.csv b.csv");
    assert_eq!(code, Some(0), "{said}");
    let delong = &object["delong"]["b.csv"];
    for (key, want) in
        [("auc", 0.675), ("auc_first", 0.875), ("z", 1.177_404_598_448_491_3), ("p", 0.239_034_055_346_073_14)]
    {
        assert!((delong[key].as_f64().unwrap() - want).abs() < 1e-12, "{key}: {delong}");
    }
    assert_eq!(delong["p"], delong["p_holm"]);
    let gap = &delong["differences"]["auc_micro"];
    assert!((gap["estimate"].as_f64().unwrap() - 0.2).abs() < 1e-12, "{gap}");
    assert!(gap["low"].as_f64().unwrap() < 0.2 && gap["high"].as_f64().unwrap() > 0.2, "{gap}");
    let files: Vec<&str> = object["rows"].as_array().unwrap().iter().map(|row| row["file"].as_str().unwrap()).collect();
    assert_eq!(files, ["a.csv", "b.csv"]);
}

/// Where no test is possible there is none, and all else stands.
#[test]
fn what_cannot_be_compared_is_told_and_costs_no_metric() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    write(at, "a.csv", "id,x\nv1,.9\nv2,.8\nv3,.2\nv4,.1\n");
    write(at, "b.csv", "id,x\nv1,.1\nv2,.2\nv3,.8\nv4,.9\n");
    write(at, "both.csv", "id,x\nv1,1\nv2,1\nv3,0\nv4,0\n");
    write(at, "one.csv", "id,x\nv1,0\nv2,0\nv3,0\nv4,0\n");
    for (labels, says) in [
        ("both.csv", "the areas 1 and 0 differ by the same for every sample, without variance"),
        ("one.csv", "0 positives and 4 negatives leave no variance"),
    ] {
        let (code, object, said) = run(at, &format!("{labels} a.csv b.csv"));
        assert_eq!(code, Some(0), "{said}");
        assert!(said.contains("b.csv: is not compared with a.csv") && said.contains(says), "{said}");
        assert!(object.get("delong").is_none() && object["accuracy"].is_number(), "{object}");
    }
}

/// Intervals whose tails hold no resample are none.
#[test]
fn too_few_resamples_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    write(at, "y.csv", LABELS);
    write(at, "p.csv", SCORES);
    for (few, enough) in [("--bootstrap 39", "--bootstrap 40"), ("--level 0.999", "--level 0.999 --bootstrap 2000")] {
        let (code, _, said) = run(at, &format!("y.csv p.csv {few}"));
        assert!(code == Some(2) && said.contains("is too few for intervals of"), "{few}: {said}");
        let (code, _, said) = run(at, &format!("y.csv p.csv {enough}"));
        assert_eq!(code, Some(0), "{enough}: {said}");
    }
}

/// Logits have ranks and nothing that is cut at one half.
#[test]
fn scores_that_are_no_probabilities_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    write(at, "y.csv", LABELS);
    write(at, "p.csv", SCORES);
    write(at, "logits.csv", &SCORES.replace("0.", "10."));
    let (_, probabilities, _) = run(at, "y.csv p.csv");
    let (code, logits, said) = run(at, "y.csv logits.csv");
    assert!(code == Some(0) && said.contains("logits.csv: has scores outside of 0 to 1"), "{said}");
    assert_eq!(logits["auc_macro"], probabilities["auc_macro"]);
    assert!(logits["f1_macro"].is_null() && logits["calibration"].is_null() && !probabilities["f1_macro"].is_null());
}

/// Labels are no scores of themselves.
#[test]
fn labels_are_not_taken_for_scores() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    write(at, "y.csv", LABELS);
    write(at, "copy.csv", LABELS);
    write(at, "p.csv", SCORES);
    write(at, "decided.csv", &LABELS.replace("p3,1,1", "p3,0,1"));
    for scores in ["./y.csv", "copy.csv", "p.csv copy.csv"] {
        let (code, object, said) = run(at, &format!("y.csv {scores}"));
        assert!(code == Some(1) && said.contains("y.csv: is the table of labels y.csv, or a copy"), "{scores}: {said}");
        assert!(object.get("auc_macro").is_none());
    }
    let says = "decided.csv: has no scores but 0 and 1";
    let (code, _, said) = run(at, "y.csv p.csv decided.csv");
    assert!(code == Some(0) && said.contains(says) && said.lines().count() == 1, "{said}");
}

/// The threshold is a probability where there is one, and infinity has a word.
#[test]
fn a_threshold_has_one_meaning() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    write(at, "y.csv", "id,x,z\nv1,1,0\nv2,1,1\nv3,0,1\nv4,0,0\n");
    write(at, "p.csv", "id,x,z\nv1,.9,.9\nv2,.7,.1\nv3,.2,.2\nv4,.1,.8\n");
    write(at, "logits.csv", "id,x,z\nv1,9,9\nv2,7,1\nv3,2,2\nv4,1,8\n");
    for (file, threshold) in [("p.csv", 0.7), ("logits.csv", 7.0)] {
        let (_, object, said) = run(at, &format!("y.csv {file} --bootstrap 0"));
        let cut = |label: usize| {
            [&object["labels"][label]["youden"]["threshold"], &object["labels"][label]["youden"]["score"]]
        };
        assert_eq!(cut(0), [&threshold, &threshold].map(|v| Value::from(*v)).each_ref(), "{said}");
        // Where to find nothing is best, nothing is found from infinity on.
        assert_eq!(cut(1), ["inf", "inf"].map(Value::from).each_ref());
    }
}

/// What is wrong with one row costs that row; each is one line that names file, line and column.
#[test]
fn what_is_wrong_is_named_by_file_line_and_column() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    write(at, "y.csv", LABELS);
    let cut = |table: &str, bytes: usize| table[..bytes].to_string();
    let cases = [
        (
            "a score that is NaN",
            SCORES.replace("0.5,0.7", "nan,0.7"),
            "line 6, column Nodule: \"nan\" is not a finite number",
        ),
        ("an id twice", SCORES.replace("p5,", "p4,"), "line 6, column id: p4 stands on line 5 already"),
        ("an unknown id", SCORES.replace("p5,", "q5,"), "line 6: 1 of its 6 ids have no usable row in y.csv: q5"),
        ("half a file", cut(SCORES, 56), "line 5: has 2 fields, the header 3"),
        ("rows that lack", cut(SCORES, 52), "y.csv: line 5: 3 of its 6 ids have no usable row in p.csv: p4, p5, p6"),
    ];
    for (what, table, says) in cases {
        write(at, "p.csv", &table);
        let (code, object, said) = run(at, "y.csv p.csv --bootstrap 0");
        assert!(code == Some(1) && said.contains(says), "{what}: {code:?} {said}");
        assert!(object["samples"].as_u64().unwrap() < 6 && object["auc_macro"].is_number(), "{what}: {object}");
        let (code, object, said) = run(at, "y.csv p.csv --strict");
        assert!(code == Some(1) && said.contains("p.csv") && object.get("auc_macro").is_none(), "{what}: {said}");
    }
    let refused = [
        ("a label without scores", "id,Nodule\np1,1\n".to_string(), "p.csv: missing columns: Effusion"),
        ("no header", "p1,0.5,0.5\np2,0.1,0.1\n".into(), "p.csv: missing columns: Nodule, Effusion"),
        ("other ids", SCORES.replace("\np", "\nq"), "y.csv: has no id that all tables of scores have"),
        ("no row", "id,Nodule,Effusion\n".into(), "p.csv: has no row below its header"),
        ("nothing", String::new(), "p.csv"),
        ("semicolons", SCORES.replace(',', ";"), "p.csv: its columns are separated by semicolons"),
        ("no id", "Nodule,Effusion\n0.1,0.2\n".into(), "p.csv: its first column is the label Nodule"),
    ];
    for (what, table, says) in refused {
        write(at, "p.csv", &table);
        let (code, object, said) = run(at, "y.csv p.csv");
        assert!(code == Some(1) && said.contains(says) && object.get("auc_macro").is_none(), "{what}: {code:?} {said}");
    }
    write(at, "p.csv", SCORES);
    write(at, "bad.csv", &LABELS.replace("p4,0,1", "p4,0,2"));
    let (code, _, said) = run(at, "bad.csv p.csv");
    assert!(code == Some(1) && said.contains("bad.csv: line 5, column Effusion: \"2\" is not 0 or 1"), "{said}");
    // Further columns, such as digests, are passed over and told.
    let more =
        SCORES.lines().enumerate().map(|(at, line)| format!("{line},{}\n", if at == 0 { "digest" } else { "9f" }));
    write(at, "more.csv", &more.collect::<String>());
    for (separator, name) in [(";", "semicolons"), ("\t", "tabs")] {
        write(at, "other.csv", &LABELS.replace(',', separator));
        let (code, _, said) = run(at, "other.csv p.csv");
        assert!(code == Some(1) && said.contains(&format!("other.csv: its columns are separated by {name}")), "{said}");
    }
    // What R and spreadsheets write.
    write(at, "upper.csv", &LABELS.replace(",1", ",TRUE").replace(",0", ",FALSE"));
    assert_eq!(run(at, "upper.csv p.csv").1["auc_macro"], run(at, "y.csv p.csv").1["auc_macro"]);
    // Rows of one id that differ: none of them counts, and none is said to.
    write(at, "thrice.csv", &format!("{LABELS}p1,0,0\np1,1,0\n"));
    let (code, object, said) = run(at, "thrice.csv p.csv --bootstrap 0");
    assert!(code == Some(1) && object["samples"] == 5, "{said}");
    assert!(
        said.contains("line 9, column id: p1 stands on line 2 already, and its rows differ; none counts"),
        "{said}"
    );
    let (code, _, said) = run(at, "y.csv more.csv");
    assert!(code == Some(0) && said.contains("more.csv: columns that are no labels are passed over: digest"), "{said}");
    for again in ["p.csv", "./p.csv", "../p.csv"] {
        let again = again.replace("..", &format!("../{}", at.file_name().unwrap().to_string_lossy()));
        let (code, _, said) = run(at, &format!("y.csv p.csv {again}"));
        assert!(code == Some(2) && said.contains("is named twice"), "a file named twice, {again}: {said}");
    }
}

/// Scores of two reconstructions of a patient are drawn together.
#[test]
fn patients_are_known_by_ct_rates_names() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let rows = |kind: &str| {
        let cell = |patient: usize, scan: &str| match kind {
            "labels" => (patient % 2).to_string(),
            _ => format!("{}", (patient * 7 + scan.len()) as f64 % 10.0 / 10.0),
        };
        let lines = (1..=12)
            .flat_map(|patient| ["a_1", "a_2"].map(|scan| format!("valid_{patient}_{scan},{}\n", cell(patient, scan))));
        format!("VolumeName,x\n{}", lines.collect::<String>())
    };
    write(at, "y.csv", &rows("labels"));
    write(at, "p.csv", &rows("scores"));
    let (code, object, said) = run(at, "y.csv p.csv");
    assert_eq!(code, Some(0), "{said}");
    assert_eq!((&object["samples"], &object["patients"]), (&24.into(), &12.into()));
}

/// What `x2ct eval --scores` writes is measured as the evaluation itself says, from the archive and from the table, and compared.
#[test]
fn scores_of_evaluations_are_files_of_their_own() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    succeed(at, "phantom --out . --train 4 --valid 16 --shape 16x16x16 --spacing 24");
    let evaluate = |options: &str| {
        let eval = format!("eval --cache valid.cache.safetensors --dataset . --json {options}");
        serde_json::from_slice::<Value>(&x2ct(at, &eval).stdout).unwrap()
    };
    let whole = evaluate("--scores one");
    evaluate("--scores two.csv --scale 3");
    let table = fs::read_to_string(at.join("one.csv")).unwrap();
    assert!(table.starts_with("id,Medical material,") && table.lines().count() == 17, "{table}");
    let labels = "dataset/multi_abnormality_labels/valid_predicted_labels.csv";
    for scores in ["one.safetensors", "one.csv"] {
        let (code, object, said) = run(at, &format!("{labels} {scores}"));
        assert_eq!((code, said.as_str()), (Some(0), ""));
        for key in ["auc_macro", "auc_micro", "ap_macro", "ap_micro"] {
            let (got, want) = (object[key].as_f64().unwrap(), whole["zero_shot"][key].as_f64().unwrap());
            assert!((got - want).abs() < 1e-12, "{scores}: {key}: {got} against {want}");
        }
        assert_eq!(object["accuracy"], whole["zero_shot"]["thresholded"]["accuracy"], "{scores}");
    }
    let compare = |files: &str| compare(at, files);
    let (code, object, said) = compare("one.safetensors two.safetensors");
    assert_eq!((code, said.as_str()), (Some(0), ""));
    let delong = &object["delong"]["two.safetensors"];
    assert_eq!((&delong["z"], &delong["p"]), (&0.0.into(), &1.0.into()), "another scale has the same ranks: {delong}");
    assert!(object["digests"]["one.safetensors"].is_string());
    assert_eq!(object["provenance"], "recorded");
    let mut by_hand = ScoreFile::read(at.join("two.safetensors")).unwrap();
    by_hand.made = Provenance::default();
    by_hand.write(&at.join("by-hand.safetensors")).unwrap();
    let (code, object, said) = compare("one.safetensors by-hand.safetensors");
    assert_eq!((code, &object["provenance"]), (Some(0), &"unknown".into()), "{said}");
    let (code, _, said) = compare("one.safetensors by-hand.safetensors --strict");
    assert!(code == Some(1) && said.contains("by-hand.safetensors: scores: how it was made is not recorded"), "{said}");

    // A digest that is not the content's, labels that differ, and what is no scores.
    let damaged = fs::read(at.join("two.safetensors")).unwrap();
    let flipped: Vec<u8> =
        damaged.iter().enumerate().map(|(i, b)| if i == damaged.len() - 5 { b ^ 1 } else { *b }).collect();
    fs::write(at.join("damaged.safetensors"), flipped).unwrap();
    let (code, _, said) = compare("one.safetensors damaged.safetensors");
    assert!(code == Some(1) && said.contains("damaged.safetensors: its content has checksum"), "{said}");
    let edited = fs::read_to_string(at.join(labels)).unwrap().replacen(",0,", ",1,", 1);
    fs::write(at.join(labels), edited).unwrap();
    evaluate("--scores three");
    let (code, _, said) = compare("one.safetensors three.safetensors");
    assert!(code == Some(1) && said.contains("three.safetensors: valid_1_a_1: its label"), "{said}");
    let (code, _, said) = compare("one.safetensors valid.cache.safetensors");
    assert!(code == Some(1) && said.contains("has format \"x2ct-cache-1\", not \"x2ct-scores-1\""), "{said}");
    let (code, _, said) = compare("one.safetensors one.csv");
    assert!(code == Some(1) && said.contains("one.csv: is a table, which") && said.contains("`x2ct metrics"), "{said}");
    let (code, _, said) = compare("one.safetensors");
    assert!(code == Some(2), "{said}");
    let both = x2ct(at, "eval --cache valid.cache.safetensors --dataset . --scores one --csv one.csv");
    assert!(both.status.code() == Some(2) && text(&both.stderr).contains("would both write one.csv"));
}

/// What is wrong with a score file is one line that names the file and, where it is one cell's fault, its row and column.
#[test]
fn what_is_wrong_with_a_score_file_is_named_by_file_row_and_column() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let names = ["Nodule", "Effusion"].map(String::from).to_vec();
    let ids: Vec<String> = (1..=6).map(|patient| format!("p{patient}")).collect();
    let labels: Vec<bool> = [1, 0, 0, 0, 1, 1, 0, 1, 0, 0, 1, 0].map(|cell| cell == 1).to_vec();
    let logits = vec![2.0, -1.0, -0.4, -0.3, 0.4, 0.1, -0.9, 2.1, -0.2, 0.8, -1.4, -0.1];
    let good = ScoreFile { ids, names, logits, labels, made: Provenance::default() };
    good.write(&at.join("good.safetensors")).unwrap();
    write(at, "y.csv", LABELS);
    let bytes = fs::read(at.join("good.safetensors")).unwrap();
    // What a program of others may write: sound as an archive, and wrong in a cell.
    let crafted = |change: &dyn Fn(&mut Vec<String>, &mut Vec<f64>, &mut Vec<f32>)| {
        let mut labels: Vec<f32> = good.labels.iter().map(|&label| f32::from(u8::from(label))).collect();
        let (mut ids, mut logits) = (good.ids.clone(), good.logits.clone());
        change(&mut ids, &mut logits, &mut labels);
        let mut archive = x2ct::archive::Writer::new("x2ct-scores-1");
        archive.set("ids", serde_json::json!(ids).to_string());
        archive.set("names", serde_json::json!(good.names).to_string());
        archive.put_f64("logits", &[6, 2], &logits);
        archive.put_f32("labels", &[6, 2], &labels);
        archive.write(&at.join("bad.safetensors")).unwrap();
    };
    let refused = |what: &str, says: &str| {
        for command in ["metrics y.csv bad.safetensors", "eval compare good.safetensors bad.safetensors"] {
            let output = x2ct(at, &format!("{command} --bootstrap 0"));
            let said = text(&output.stderr);
            assert!(output.status.code() == Some(1) && said.contains(says), "{what}: {command}: {said}");
            // These files do not say how they were made, which a comparison tells of first.
            let refusals = said.lines().filter(|line| !line.ends_with("scores: how it was made is not recorded"));
            assert_eq!(refusals.count(), 1, "{what}: {said}");
        }
    };
    fs::write(at.join("bad.safetensors"), &bytes[..bytes.len() / 2]).unwrap();
    refused("half a file", "bad.safetensors: is not a whole safetensors file");
    fs::write(at.join("bad.safetensors"), &bytes[..40]).unwrap();
    refused("half a header", "bad.safetensors: is not a whole safetensors file");
    crafted(&|_, logits, _| logits[7] = f64::NAN);
    refused("a NaN", "bad.safetensors: row p4, column Effusion: the score is NaN, not a finite number");
    crafted(&|_, logits, _| logits[2] = f64::NEG_INFINITY);
    refused("an infinity", "bad.safetensors: row p2, column Nodule: the score is -inf, not a finite number");
    crafted(&|_, _, labels| labels[10] = 0.5);
    refused("half a label", "bad.safetensors: row p6, column Nodule: the label is 0.5, not 0 or 1");
    crafted(&|ids, _, _| ids[4] = "p2".into());
    refused("an id twice", "bad.safetensors: has the id p2 twice");

    // A volume that one of them lacks costs itself.
    let mut other = good.clone();
    other.ids[3] = "q4".into();
    other.write(&at.join("other.safetensors")).unwrap();
    for (command, says) in [
        ("metrics y.csv other.safetensors", "other.safetensors: q4: 1 of its 6 ids have no usable row in y.csv: q4"),
        (
            "eval compare good.safetensors other.safetensors",
            "1 of its 6 ids have no usable row in good.safetensors: q4",
        ),
    ] {
        let output = x2ct(at, &format!("{command} --bootstrap 0 --json"));
        let object: Value = serde_json::from_slice(&output.stdout).unwrap();
        let said = text(&output.stderr);
        assert!(output.status.code() == Some(1) && said.contains(says) && object["samples"] == 5, "{said}");
    }
    // Labels in another order are found by their names; one that is absent is missed by its own.
    let swap = |cells: &[f64]| cells.chunks(2).flat_map(|row| [row[1], row[0]]).collect::<Vec<_>>();
    let labels = good.labels.chunks(2).flat_map(|row| [row[1], row[0]]).collect();
    let names = vec![good.names[1].clone(), good.names[0].clone()];
    let turned = ScoreFile { names, labels, logits: swap(&good.logits), ..good.clone() };
    turned.write(&at.join("turned.safetensors")).unwrap();
    let metrics = |file: &str| run(at, &format!("y.csv {file}.safetensors --bootstrap 0")).1["labels"].clone();
    assert_eq!(metrics("turned"), metrics("good"));
    let (code, object, said) = compare(at, "good.safetensors turned.safetensors");
    assert!(code == Some(0) && object["delong"]["turned.safetensors"]["p"] == 1.0, "{said}");
    let narrow = ScoreFile {
        names: good.names[..1].to_vec(),
        logits: good.logits.iter().copied().step_by(2).collect(),
        labels: good.labels.iter().copied().step_by(2).collect(),
        ..good.clone()
    };
    narrow.write(&at.join("bad.safetensors")).unwrap();
    refused("a label without scores", "bad.safetensors: has no scores of Effusion, but of Nodule");
}

/// Runs `x2ct eval compare FILES --json`: exit code, object, standard error.
fn compare(at: &Path, files: &str) -> (Option<i32>, Value, String) {
    let output = x2ct(at, &format!("eval compare {files} --bootstrap 200 --json"));
    (output.status.code(), assert_report(files, &output, "eval"), text(&output.stderr))
}

/// Recall among the first volumes of scans and of patients is that of an evaluation of these alone; detection stays that of all.
#[test]
fn galleries_of_scans_and_patients_hold_the_first_of_each() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    succeed(at, "phantom --out . --train 2 --valid 12 --shape 16x16x16 --spacing 24");
    // Patients 1 to 4 with two scans of a reconstruction each, of two scans twice as many: valid_1_a_1, valid_1_a_2, valid_1_b_1.
    let names =
        ["1_a_1", "1_a_2", "1_b_1", "2_a_1", "2_a_2", "2_b_1", "3_a_1", "3_a_2", "3_b_1", "4_a_1", "4_a_2", "4_b_1"];
    let mut cache = EmbeddingCache::read(at.join("valid.cache.safetensors")).unwrap();
    let labels = "dataset/multi_abnormality_labels/valid_predicted_labels.csv";
    let mut table = fs::read_to_string(at.join(labels)).unwrap();
    let renamed: Vec<(String, String)> =
        cache.ids.iter().cloned().zip(names.map(|name| format!("valid_{name}"))).collect();
    // Over names that nothing has, since some are both old and new.
    renamed.iter().for_each(|(old, new)| table = table.replace(&format!("{old}.nii.gz"), &format!("new_{new}.nii.gz")));
    fs::write(at.join(labels), table.replace("new_", "")).unwrap();
    cache.ids = renamed.into_iter().map(|(_, new)| new).collect();
    cache.write(at.join("renamed.safetensors")).unwrap();
    let evaluate = |gallery: &str| {
        let eval = format!("eval --cache renamed.safetensors --dataset . --json {gallery}");
        serde_json::from_slice::<Value>(&x2ct(at, &eval).stdout).unwrap()
    };
    let whole = evaluate("");
    assert_eq!((&whole["gallery"], &whole["gallery_of"]), (&12.into(), &"volume".into()));
    for (gallery, members) in [("scan", vec![0, 2, 3, 5, 6, 8, 9, 11]), ("patient", vec![0, 3, 6, 9])] {
        let got = evaluate(&format!("--gallery {gallery}"));
        assert_eq!((&got["gallery"], &got["gallery_of"]), (&members.len().into(), &gallery.into()));
        assert_eq!(got["zero_shot"], whole["zero_shot"]);
        let [ct, report] = [&cache.ct, &cache.report].map(|all| rows::select(all, cache.dim, &members));
        let ranks = ranks(&report, &ct, cache.dim).unwrap();
        let recall = serde_json::to_value(Recall::from_ranks(&ranks.forward).unwrap()).unwrap();
        assert_eq!(got["retrieval"]["image_from_text"], recall, "{gallery}");
    }
}

/// RadChest-CT's table: present where at any location, by whole names; scores of CT-RATE's labels stand for its own by a map.
#[test]
fn scores_of_one_data_set_are_measured_on_the_labels_of_another() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let known: Vec<&str> =
        ABNORMALITIES.into_iter().filter(|name| *name != "nodule" && *name != "nodulegr1cm").collect();
    let columns = known.iter().map(|name| format!("{name}*left_lung"));
    let columns: Vec<String> =
        columns.chain(["nodule*left_upper", "nodulegr1cm*right", "nodule*right"].map(String::from)).collect();
    let row = |id: &str, present: &[&str]| {
        let cells = columns.iter().map(|column| if present.contains(&column.as_str()) { "1" } else { "0" });
        format!("{id},{}\n", cells.collect::<Vec<_>>().join(","))
    };
    let rows = [
        row("trn1", &["nodule*right", "calcification*left_lung"]),
        row("trn2", &["nodulegr1cm*right"]),
        row("trn3", &["nodule*left_upper", "opacity*left_lung"]),
        row("trn4", &["calcification*left_lung"]),
    ];
    write(at, "radchest.csv", &format!("NoteAcc_DEID,{}\n{}", columns.join(","), rows.concat()));
    let read = RadChestLabels::read(at.join("radchest.csv")).unwrap();
    let place = |name: &str| read.table.names.iter().position(|own| own == name).unwrap();
    let present = |name: &str| ["trn1", "trn2", "trn3", "trn4"].map(|id| read.table.row(id).unwrap()[place(name)]);
    assert_eq!((read.unknown.len(), read.absent.len()), (0, 0));
    assert_eq!(present("nodule"), [true, false, true, false]);
    assert_eq!(present("nodulegr1cm"), [false, true, false, false]);

    let map = LabelMap::open("radchest").unwrap();
    assert_eq!((map.labels.len(), map.sources().len()), (15, 16));
    assert!(map.names().iter().all(|name| ABNORMALITIES.contains(&name.as_str())));
    assert!(PURE.iter().all(|name| map.names().iter().any(|own| own == name)));
    let sources = LabelMap::open("mimic").unwrap().sources();
    assert!(sources.len() == 11 && sources.iter().chain(&map.sources()).all(|name| NAMES.contains(&name.as_str())));

    // Of both calcifications the larger counts: .9, .3, .4, .8 rank all present above all absent; without the maximum they do not.
    let score = |id: &str, cells: [(&str, f64); 3]| {
        let of = |name: &&str| cells.iter().find(|(own, _)| own == name).map_or(0.5, |(_, score)| *score).to_string();
        format!("{id},{}\n", NAMES.iter().map(of).collect::<Vec<_>>().join(","))
    };
    let [arterial, coronary, nodule] =
        ["Arterial wall calcification", "Coronary artery wall calcification", "Lung nodule"];
    let rows = [
        score("trn1", [(arterial, 0.1), (coronary, 0.9), (nodule, 0.9)]),
        score("trn2", [(arterial, 0.3), (coronary, 0.2), (nodule, 0.1)]),
        score("trn3", [(arterial, 0.4), (coronary, 0.4), (nodule, 0.8)]),
        score("trn4", [(arterial, 0.8), (coronary, 0.1), (nodule, 0.2)]),
    ];
    write(at, "scores.csv", &format!("id,{}\n{}", NAMES.join(","), rows.concat()));
    let (code, object, said) = run(at, "radchest.csv scores.csv --map radchest --bootstrap 0");
    let over = "columns that are no labels are passed over: Medical material, Mosaic attenuation pattern";
    assert!(code == Some(0) && said.contains(over), "{said}");
    let label = |name: &str| object["labels"].as_array().unwrap().iter().find(|label| label["name"] == name).unwrap();
    assert_eq!((&label("calcification")["auc"], &label("nodule")["auc"]), (&1.0.into(), &1.0.into()), "{object}");
    assert_eq!((&label("opacity")["auc"], object["labels"].as_array().unwrap().len()), (&0.5.into(), 15));

    write(at, "map.toml", "dataset = \"x\"\n[[label]]\nname = \"nodule\"\nof = [\"Lung nodule\", \"Mass\"]\n");
    let (code, _, said) = run(at, "radchest.csv scores.csv --map map.toml");
    assert!(code == Some(1) && said.contains("scores.csv: missing columns: Mass"), "{said}");
    write(at, "map.toml", "dataset = \"x\"\nlabels = 1\n");
    let (code, _, said) = run(at, "radchest.csv scores.csv --map map.toml");
    assert!(code == Some(1) && said.contains("map.toml: is no map of labels: unknown field `labels`"), "{said}");
    write(at, "radchest.csv", "NoteAcc_DEID,nodule*left,lung\ntrn1,0,1\n");
    let (code, _, said) = run(at, "radchest.csv scores.csv");
    assert!(code == Some(1) && said.contains("column 3, \"lung\", is not named abnormality*location"), "{said}");
}
