//! `x2ct embed`, `eval retrieval`, `eval zero-shot`, `eval calibrate` and `predict --calibration`: that they agree with `x2ct eval`, and
//! what they say of files that do not belong together.

use std::path::Path;

use serde_json::Value;
use x2ct::data::cache::EmbeddingCache;
use x2ct::data::ct_rate::Split;
use x2ct::data::features::{FeatureSet, Tower};
use x2ct::data::prompts::PromptSet;
use x2ct::eval::calibration_file::CalibrationFile;
use x2ct::eval::retrieval_file::{Modality, RetrievalFile};
use x2ct::eval::score_file::ScoreFile;
use x2ct::labels;

use crate::cli::{configuration, json, succeed, text, x2ct};
use crate::left_out::refused;
use crate::teacher::circle;

const LABELS: &str = "dataset/multi_abnormality_labels/valid_predicted_labels.csv";
const EMBED: &str = "embed --checkpoint run/checkpoint.safetensors --radiographs valid --out f.safetensors";
const RETRIEVAL: &str = "eval retrieval --features f.safetensors --cache valid.cache.safetensors --bootstrap 100";
const ZERO_SHOT: &str = "eval zero-shot --features f.safetensors --prompts valid.cache.safetensors --bootstrap 0";

/// A data set of 8 and 30 patients, an encoder that saw the 8 once, and its features of the 30.
fn workspace() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    succeed(at, "phantom --out . --train 8 --valid 30 --shape 20x20x20 --spacing 15");
    for split in ["train", "valid"] {
        succeed(at, &format!("drr --dataset . --split {split} --size 32x32 --out {split}"));
    }
    std::fs::write(at.join("run.toml"), configuration(Path::new("."), 1, 4)).unwrap();
    succeed(at, "train run.toml");
    let made = json(at, EMBED);
    assert_eq!(
        (&made["radiographs"], &made["dim"], &made["provenance"]),
        (&30.into(), &512.into(), &"recorded".into())
    );
    folder
}

/// Runs a command that leaves something out: its object, and what it said.
fn leaves_out(at: &Path, arguments: &str) -> (Value, String) {
    let output = x2ct(at, &format!("{arguments} --json"));
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "x2ct {arguments}: {said}");
    (serde_json::from_slice(&output.stdout).unwrap(), said)
}

#[test]
fn protocols_by_themselves_agree_with_the_whole_evaluation() {
    let folder = workspace();
    let at = folder.path();
    let flat =
        "eval --checkpoint run/checkpoint.safetensors --radiographs valid --cache valid.cache.safetensors --dataset .";

    for gallery in ["volume", "patient"] {
        let whole = json(at, &format!("{flat} --gallery {gallery}"));
        let alone = json(at, &format!("{RETRIEVAL} --gallery {gallery} --ranks r --csv r.csv"));
        assert_eq!((&alone["gallery"], &alone["gallery_of"]), (&whole["gallery"], &whole["gallery_of"]));
        for key in ["distinct", "mean_cosine"] {
            assert_eq!(alone["retrieval"][key], whole["retrieval"][key], "{key}");
        }
        for (way, query, item) in [
            ("cxr_to_ct", Modality::Cxr, Modality::Ct),
            ("ct_to_cxr", Modality::Ct, Modality::Cxr),
            ("cxr_to_report", Modality::Cxr, Modality::Report),
            ("report_to_cxr", Modality::Report, Modality::Cxr),
        ] {
            let (alone, whole) = (&alone["retrieval"][way], &whole["retrieval"][way]);
            let file =
                RetrievalFile::read(at.join(format!("r-{}-to-{}.safetensors", query.name(), item.name()))).unwrap();
            assert_eq!((file.query, file.gallery, file.rank.len(), file.k()), (query, item, 30, 10));
            for (name, k) in [("r1", 1), ("r5", 5), ("r10", 10), ("r50", 50), ("r100", 100)] {
                assert_eq!(alone[name], whole[name], "{way} {name}");
                let hits = file.rank.iter().filter(|rank| **rank <= k).count() as f64 / 30.0;
                assert_eq!(alone[name].as_f64(), Some(hits), "{way} {name}");
                let interval = &alone["intervals"][name];
                let [low, high] = ["low", "high"].map(|end| interval[end].as_f64().unwrap());
                assert!(low <= hits && hits <= high, "{way} {name}: {interval}");
            }
            assert_eq!(alone["median_rank"], whole["median_rank"], "{way}");
        }
    }
    assert_eq!(std::fs::read_to_string(at.join("r.csv")).unwrap().lines().count(), 5);
    let table = std::fs::read_to_string(at.join("r-cxr-to-ct.csv")).unwrap();
    assert!(table.starts_with("query,rank,nearest_1,") && table.lines().count() == 31);

    let whole = json(at, &format!("{flat} --scores whole"));
    let alone = json(at, &format!("{ZERO_SHOT} --labels {LABELS} --scores alone"));
    for key in ["auc_macro", "auc_micro", "ap_macro", "ap_micro", "labels_defined", "prevalence"] {
        assert_eq!(alone[key], whole["zero_shot"][key], "{key}");
    }
    for key in ["f1_weighted", "accuracy", "precision_micro", "recall_micro"] {
        assert_eq!(alone[key], whole["zero_shot"]["thresholded"][key], "{key}");
    }
    // A label's threshold is a probability in both, and its score a logit.
    for (alone, whole) in
        alone["labels"].as_array().unwrap().iter().zip(whole["zero_shot"]["labels"].as_array().unwrap())
    {
        assert_eq!(alone["youden"], whole["youden"]);
        if let (Some(p), Some(logit)) = (alone["youden"]["threshold"].as_f64(), alone["youden"]["score"].as_f64()) {
            assert!((p - x2ct::eval::zero_shot::probability(logit)).abs() < 1e-12, "{alone}");
        }
    }
    let read = |name: &str| ScoreFile::read(at.join(name)).unwrap();
    let (of_whole, of_alone) = (read("whole.safetensors"), read("alone.safetensors"));
    assert_eq!((&of_alone.ids, &of_alone.names, &of_alone.labels), (&of_whole.ids, &of_whole.names, &of_whole.labels));
    assert_eq!(of_alone.logits, of_whole.logits);
    // Both say which prompts and which checkpoint they are of.
    assert_eq!(of_alone.made.settings["prompts"], of_whole.made.settings["prompts"]);
    assert_eq!(of_alone.made.from["checkpoint"].digest, of_whole.made.from["checkpoint"].digest);
    assert_eq!(
        json(at, "eval compare whole.safetensors alone.safetensors --bootstrap 0")["rows"][1]["auc_micro"],
        alone["auc_micro"]
    );
}

#[test]
fn a_teacher_searches_and_detects_by_its_cache_alone() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    succeed(at, "phantom --out . --train 3 --valid 24 --shape 16x16x16 --spacing 24");
    let whole = json(at, "eval --cache valid.cache.safetensors --dataset .");
    let alone = json(at, "eval retrieval --cache valid.cache.safetensors --ranks r --bootstrap 0");
    for way in ["image_from_text", "text_from_image"] {
        assert_eq!(alone["retrieval"][way], whole["retrieval"][way]);
    }
    assert_eq!(alone["chance"]["r10"].as_f64(), Some(10.0 / 24.0));
    assert!(at.join("r-report-to-ct.csv").exists() && at.join("r-ct-to-report.safetensors").exists());

    let zero_shot = format!(
        "eval zero-shot --features valid.cache.safetensors --prompts valid.cache.safetensors --labels {LABELS}"
    );
    let by_ct = json(at, &zero_shot);
    assert_eq!(by_ct["auc_macro"], whole["zero_shot"]["auc_macro"]);
    assert_eq!(by_ct["intervals"]["auc_micro"]["estimate"], by_ct["auc_micro"]);
    let by_report = json(at, &format!("{zero_shot} --tower report --bootstrap 0"));
    assert_ne!(by_report["auc_micro"], by_ct["auc_micro"]);
    // The scale changes probabilities and neither ranks nor decisions.
    let scaled = json(at, &format!("{zero_shot} --scale 2.718 --bootstrap 0"));
    assert_eq!((&scaled["auc_micro"], &scaled["accuracy"]), (&by_ct["auc_micro"], &by_ct["accuracy"]));
    assert_ne!(scaled["calibration"]["ece"], by_ct["calibration"]["ece"]);
}

#[test]
fn labels_are_joined_by_name_and_images_by_id() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    succeed(at, "phantom --out . --train 3 --valid 12 --shape 16x16x16 --spacing 24");
    let zero_shot = |table: &str| {
        format!(
            "eval zero-shot --features valid.cache.safetensors --prompts valid.cache.safetensors --bootstrap 0 --labels {table}"
        )
    };
    let plain = json(at, &zero_shot(LABELS));
    // Columns and rows the other way round, ids without their ending, a column that is no label.
    let lines: Vec<Vec<String>> = std::fs::read_to_string(at.join(LABELS))
        .unwrap()
        .lines()
        .map(|line| line.split(',').map(|cell| cell.trim().replace(".nii.gz", "")).collect())
        .collect();
    let write = |name: &str, lines: &[Vec<String>]| {
        let text: String = lines.iter().map(|line| line.join(",") + "\n").collect();
        std::fs::write(at.join(name), text).unwrap();
    };
    let turned = |line: &Vec<String>| {
        let others = line[1..].iter().rev().cloned();
        std::iter::once(line[0].clone()).chain(others).chain(["61 years".to_string()]).collect::<Vec<_>>()
    };
    let mut all: Vec<Vec<String>> = lines.iter().map(turned).collect();
    *all[0].last_mut().unwrap() = "Age".into();
    all[1..].reverse();
    write("turned.csv", &all);
    assert_eq!(json(at, &zero_shot("turned.csv"))["labels"], plain["labels"]);

    // A label without a column; an image without a row, a row without an image, and two rows that differ.
    write("short.csv", &lines.iter().map(|line| line[..5].to_vec()).collect::<Vec<_>>());
    let said = refused(at, &zero_shot("short.csv"));
    assert!(said.contains("short.csv: missing columns: Coronary artery wall calcification"), "{said}");
    let mut other = lines.clone();
    other[1][0] = "valid_99_a_1".into();
    write("other.csv", &other);
    let (object, said) = leaves_out(at, &zero_shot("other.csv"));
    assert_eq!(object["samples"], 11);
    let says = format!("other.csv: {}: has no usable row for this image of valid.cache.safetensors", lines[1][0]);
    assert!(said.contains(&says) && said.contains("has none of 1 volume(s) of other.csv: valid_99_a_1"), "{said}");
    let mut twice = lines.clone();
    twice.push(lines[2].clone());
    let cell = &mut twice.last_mut().unwrap()[3];
    *cell = if cell == "1" { "0".into() } else { "1".into() };
    write("twice.csv", &twice);
    let (object, said) = leaves_out(at, &zero_shot("twice.csv"));
    assert!(object["samples"] == 11 && said.contains("line 14") && said.contains("stands on line 3 already"), "{said}");

    // Another data set's labels: the larger score of those that stand for one.
    std::fs::write(
        at.join("map.toml"),
        "dataset = \"other\"\n[[label]]\nname = \"calcification\"\n\
         of = [\"Arterial wall calcification\", \"Coronary artery wall calcification\"]\n",
    )
    .unwrap();
    let merged =
        |line: &Vec<String>| vec![line[0].clone(), if line[2] == "1" || line[5] == "1" { "1" } else { "0" }.into()];
    let mut table: Vec<Vec<String>> = lines.iter().map(merged).collect();
    table[0][1] = "calcification".into();
    write("merged.csv", &table);
    let found = json(at, &format!("{} --map map.toml --scores mapped", zero_shot("merged.csv")));
    assert_eq!(found["labels"][0]["name"], "calcification");
    let scores = ScoreFile::read(at.join("mapped.safetensors")).unwrap();
    succeed(at, &format!("{} --scores all", zero_shot(LABELS)));
    let all = ScoreFile::read(at.join("all.safetensors")).unwrap();
    for (row, merged) in all.logits.chunks_exact(labels::COUNT).zip(&scores.logits) {
        assert_eq!(*merged, row[1].max(row[4]));
    }
    std::fs::write(at.join("bad.toml"), "dataset = \"other\"\n[[label]]\nname = \"x\"\nof = [\"Cyst\"]\n").unwrap();
    let said = refused(at, &format!("{} --map bad.toml", zero_shot("merged.csv")));
    assert!(said.contains("valid.cache.safetensors: has no prompts of labels that the map names: Cyst"), "{said}");
}

#[test]
fn what_does_not_belong_together_is_refused() {
    let folder = workspace();
    let at = folder.path();
    let zero_shot = format!("{ZERO_SHOT} --labels {LABELS}");
    let cache = EmbeddingCache::read(at.join("valid.cache.safetensors")).unwrap();

    // Another teacher's prompts and embeddings; its weights alone are enough.
    let mut other = cache.clone();
    other.checkpoint_digest = "d".repeat(64);
    other.write(at.join("other.safetensors")).unwrap();
    let said = refused(at, &zero_shot.replace("--prompts valid.cache", "--prompts other"));
    assert!(said.contains("other.safetensors: is of the checkpoint dddd"), "{said}");
    let said = refused(at, &RETRIEVAL.replace("--cache valid.cache", "--cache other"));
    assert!(
        said.contains("other.safetensors: cache: checkpoint: trained on") && said.contains("these are dddd"),
        "{said}"
    );

    // Prompts of another length.
    let mut short = PromptSet::of_cache(&cache);
    (short.dim, short.names, short.sentences) = (2, vec!["Emphysema".into()], Vec::new());
    (short.positive, short.negative) = (vec![1.0, 0.0], vec![0.0, 1.0]);
    short.write(at.join("short.safetensors")).unwrap();
    let said = refused(at, &zero_shot.replace("--prompts valid.cache", "--prompts short"));
    assert!(
        said.contains("short.safetensors: has embeddings of 2 numbers, and the features of f.safetensors have 512"),
        "{said}"
    );

    // Features that do not say of which teacher: taken with a warning, refused under --strict.
    let mut plain = FeatureSet::open(at.join("f.safetensors"), Tower::Ct).unwrap();
    plain.made = Default::default();
    plain.features.iter_mut().for_each(|value| *value *= 3.0);
    plain.write(at.join("plain.safetensors")).unwrap();
    let by_hand = zero_shot.replace("--features f", "--features plain");
    let (found, whole) = (json(at, &by_hand), json(at, &zero_shot));
    assert_eq!(
        (&found["auc_micro"], &found["provenance"]),
        (&whole["auc_micro"], &"unknown".into()),
        "lengths have no say"
    );
    assert!(
        refused(at, &format!("{by_hand} --strict"))
            .contains("plain.safetensors: features: how it was made is not recorded")
    );

    // Features without a direction.
    let dim = plain.dim;
    plain.features[3 * dim..4 * dim].fill(0.0);
    plain.write(at.join("plain.safetensors")).unwrap();
    for command in [by_hand, RETRIEVAL.replace("--features f", "--features plain")] {
        let (said, says) =
            (refused(at, &command), format!("plain.safetensors: {}: its features are all zeros", plain.ids[3]));
        assert!(said.contains(&says), "{said}");
    }

    // An image that the cache does not know.
    let mut more = FeatureSet::open(at.join("f.safetensors"), Tower::Ct).unwrap();
    more.ids[4] = "valid_77_a_1".into();
    more.write(at.join("more.safetensors")).unwrap();
    let (object, said) = leaves_out(at, &RETRIEVAL.replace("--features f", "--features more"));
    assert_eq!(object["gallery"], 29);
    assert!(
        said.contains(
            "valid.cache.safetensors: valid_77_a_1: has no embedding for this radiograph of more.safetensors"
        ),
        "{said}"
    );

    // Half a file, one of another format, and an output that is an input.
    let bytes = std::fs::read(at.join("f.safetensors")).unwrap();
    std::fs::write(at.join("half.safetensors"), &bytes[..bytes.len() / 2]).unwrap();
    for command in [RETRIEVAL, &zero_shot] {
        let said = refused(at, &command.replace("--features f", "--features half"));
        assert!(said.contains("half.safetensors: is not a whole safetensors file"), "{said}");
    }
    let said = refused(at, &RETRIEVAL.replace("--features f", "--features valid.cache"));
    assert!(said.contains("valid.cache.safetensors: has format \"x2ct-cache-1\", not \"x2ct-features-1\""), "{said}");
    assert_eq!(x2ct(at, &format!("{zero_shot} --tower ct")).status.code(), Some(2));
    assert!(!x2ct(at, &format!("{RETRIEVAL} --csv f.safetensors")).status.success());
    assert_eq!(std::fs::read(at.join("f.safetensors")).unwrap(), bytes);
    let clash = x2ct(at, &format!("{RETRIEVAL} --ranks r --csv ./r-cxr-to-ct.csv"));
    assert!(clash.status.code() == Some(2) && text(&clash.stderr).contains("--csv and --ranks would both write"));
    // Nor a shard of the radiographs, named by their folder or a pattern.
    let shard = std::fs::read(at.join("valid/ap.safetensors")).unwrap();
    let whole =
        "eval --checkpoint run/checkpoint.safetensors --radiographs valid --cache valid.cache.safetensors --dataset .";
    let embed = EMBED.replace("f.safetensors", "valid/ap.safetensors");
    let of_pattern = embed.replace("--radiographs valid", "--radiographs valid/a*");
    for command in [embed, of_pattern, format!("{whole} --scores valid/ap")] {
        let said = refused(at, &command);
        assert!(said.contains("valid/ap.safetensors: is the same file as the input valid/ap.safetensors"), "{said}");
    }
    assert!(std::fs::read(at.join("valid/ap.safetensors")).unwrap() == shard);
    // Nor what would be taken for one the next time; a table, or what a pattern does not fit, may lie there.
    let at_pattern = EMBED.replace("--radiographs valid", "--radiographs valid/a*");
    for command in [
        EMBED.replace("f.safetensors", "valid/new.safetensors"),
        at_pattern.replace("f.safetensors", "./valid/anew.safetensors"),
        format!("{whole} --scores valid/new"),
    ] {
        let said = refused(at, &command);
        assert!(said.contains("new.safetensors: would be read as one of the radiographs valid"), "{said}");
    }
    succeed(at, &at_pattern.replace("f.safetensors", "valid/new.safetensors"));
    std::fs::remove_file(at.join("valid/new.safetensors")).unwrap();
    succeed(at, &format!("{whole} --csv valid/labels.csv"));

    // A radiograph that is damaged costs itself alone; shards by their folder are the file.
    succeed(
        at,
        &EMBED
            .replace("--radiographs valid", "--radiographs valid/ap.safetensors")
            .replace("f.safetensors", "g.safetensors"),
    );
    assert_eq!(std::fs::read(at.join("g.safetensors")).unwrap(), bytes);
    let mut image = std::fs::read(at.join("valid/ap.safetensors")).unwrap();
    let header = u64::from_le_bytes(image[..8].try_into().unwrap()) as usize;
    image[8 + header + 5 * 32 * 32 + 16] ^= 1;
    std::fs::write(at.join("valid/ap.safetensors"), image).unwrap();
    let (object, said) = leaves_out(at, &EMBED.replace("f.safetensors", "g.safetensors"));
    assert!(object["radiographs"] == 29 && said.contains("left out: valid/ap.safetensors"), "{said}");
    // Of other settings: refused, or taken by force, which the file says.
    succeed(at, "drr --dataset . --split valid --size 32x32 --mode film --out film");
    let film = EMBED.replace("--radiographs valid", "--radiographs film").replace("f.safetensors", "film.safetensors");
    assert!(refused(at, &film).contains("mode: trained on mean-hu"));
    assert_eq!(json(at, &format!("{film} --force"))["provenance"], "forced");
    let made = FeatureSet::read(at.join("film.safetensors")).unwrap().made;
    assert_eq!((&made.settings["forced"], made.from.contains_key("radiographs")), (&true.into(), true));
}

#[test]
fn predictions_are_calibrated_by_held_out_scores() {
    let folder = workspace();
    let at = folder.path();
    succeed(at, &format!("{ZERO_SHOT} --labels {LABELS} --scores s"));
    let fitted = json(at, "eval calibrate s.safetensors --out c.json");
    assert_eq!((&fitted["method"], &fitted["samples"]), (&"platt".into(), &30.into()));
    let ece = |when: &str| fitted[when]["ece"].as_f64().unwrap();
    assert!(ece("after") < ece("before"), "{fitted}");
    let file = CalibrationFile::read(at.join("c.json")).unwrap();
    let left: Vec<&str> = file.uncalibrated().map(|(name, _)| name).collect();
    // So little training ranks some labels worse than chance.
    assert!(!left.is_empty() && left.len() < labels::COUNT, "{left:?}");
    let warned = fitted["warnings"].to_string();
    assert!(left.iter().all(|name| warned.contains(&format!("{name} stays uncalibrated: calibration: "))), "{warned}");

    succeed(at, "drr dataset/valid_fixed/valid_1/valid_1_a/valid_1_a_1.nii.gz --out i.safetensors");
    let predict = "predict i.safetensors --checkpoint run/checkpoint.safetensors --cache train.cache.safetensors";
    let (plain, calibrated) = (json(at, predict), json(at, &format!("{predict} --calibration c.json")));
    assert_eq!((&plain["calibration"], &plain["rows"][0]["calibrated"]), (&Value::Null, &false.into()));
    assert_eq!(
        (&calibrated["calibration"]["method"], &calibrated["rows"][0]["calibrated"]),
        (&"platt".into(), &false.into()),
        "not of all labels"
    );
    for label in &file.labels {
        let of = |report: &Value| report["rows"][0]["probabilities"][&label.name].as_f64().unwrap();
        let logit = (of(&plain) / (1.0 - of(&plain))).ln();
        assert!((of(&calibrated) - label.probability(logit)).abs() < 1e-5, "{}", label.name);
    }
    assert!(succeed(at, predict).contains("probability, not calibrated"));
    assert!(succeed(at, &format!("{predict} --calibration c.json")).contains("(not calibrated)"));

    // Another checkpoint, other prompts, and files that are none.
    std::fs::write(at.join("more.toml"), configuration(Path::new("."), 2, 4).replace("\"run\"", "\"more\"")).unwrap();
    succeed(at, "train more.toml");
    let said = refused(at, &format!("{} --calibration c.json", predict.replace("run/", "more/")));
    assert!(said.contains("c.json: calibration: is of the checkpoint"), "{said}");
    let text = std::fs::read_to_string(at.join("c.json")).unwrap();
    let slope = file.labels.iter().find_map(|label| label.scaling).unwrap().slope;
    for (bad, says) in [
        (text.replacen(&file.prompts, &"0".repeat(64), 1), "is of the prompts 000000000000, and these are others"),
        (text.replacen("Medical material", "Cyst", 1), "is of other labels"),
        (text.replacen(&slope.to_string(), "-1.0", 1), "has no map of a rising probability"),
        (text.replacen("x2ct-calibration-1", "x2ct-calibration-9", 1), "has format \"x2ct-calibration-9\""),
        (text[..text.len() / 2].into(), "is no JSON"),
    ] {
        assert_ne!(bad, text);
        std::fs::write(at.join("bad.json"), bad).unwrap();
        let said = refused(at, &format!("{predict} --calibration bad.json"));
        assert!(said.contains("bad.json: ") && said.contains(says), "{said} without {says:?}");
    }
    // A teacher's scores are of no checkpoint that predicts.
    succeed(
        at,
        &format!("{} --labels {LABELS} --scores t", ZERO_SHOT.replace("--features f", "--features valid.cache")),
    );
    let said = refused(at, "eval calibrate t.safetensors --out d.json");
    assert!(said.contains("t.safetensors: scores: do not say which checkpoint they are of"), "{said}");
}

#[test]
fn prompts_of_ones_own_are_embedded_as_those_of_the_training() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    succeed(at, "phantom --out . --train 8 --valid 6 --shape 24x24x24 --spacing 12");
    circle::prepare(at, Split::Train);
    succeed(at, "cache text --dataset . --split train --features 64 --words 1 --out train.text.safetensors");
    std::fs::write(at.join("ct.toml"), circle::CT).unwrap();
    succeed(at, "train ct.toml");
    let built = "cache build --checkpoint ct/checkpoint.safetensors --volumes train.volumes.safetensors \
                 --text train.text.safetensors --out train.dcformer.safetensors";
    succeed(at, built);
    let prompts = |toml: &str, out: &str| {
        std::fs::write(at.join("my.toml"), toml).unwrap();
        json(at, &format!("cache prompts --prompts my.toml --checkpoint ct/checkpoint.safetensors --out {out}"))
    };

    // The wording of the training gives the prompts of the cache.
    prompts("wording = \"is-present\"", "same.safetensors");
    let (same, cache) = (
        PromptSet::open(at.join("same.safetensors")).unwrap(),
        PromptSet::open(at.join("train.dcformer.safetensors")).unwrap(),
    );
    assert_eq!(
        (&same.names, &same.teacher, &same.checkpoint_digest),
        (&cache.names, &cache.teacher, &cache.checkpoint_digest)
    );
    for (mine, other) in [(&same.positive, &cache.positive), (&same.negative, &cache.negative)] {
        assert!(mine.iter().zip(other).all(|(a, b)| (a - b).abs() < 1e-6));
    }

    // Labels of one's own; the table has them in another order.
    let ensemble = "wording = \"is-present\"\n[[template]]\npositive = \"There is {}.\"\nnegative = \"There is no {}.\"\n\
                    [[label]]\nname = \"wet\"\ntext = [\"effusion\", \"oedema\"]\n[[label]]\nname = \"dry\"\n";
    let made = prompts(ensemble, "own.safetensors");
    assert_eq!((&made["sentences"], &made["labels"]), (&12.into(), &serde_json::json!(["wet", "dry"])));
    let table: String = (1..=8).map(|i| format!("train_{i}_a_1,{},{}\n", i % 2, i / 5)).collect();
    std::fs::write(at.join("own.csv"), format!("id,dry,wet\n{table}")).unwrap();
    let found = json(
        at,
        "eval zero-shot --features train.dcformer.safetensors --prompts own.safetensors --labels own.csv --bootstrap 0",
    );
    let positives: Vec<&Value> = found["labels"].as_array().unwrap().iter().map(|label| &label["positives"]).collect();
    assert_eq!((found["labels"][0]["name"].as_str(), positives), (Some("wet"), vec![&4.into(), &4.into()]));

    // What cannot embed text says so.
    let said =
        refused(at, "cache prompts --prompts my.toml --checkpoint train.dcformer.safetensors --out no.safetensors");
    assert!(said.contains("train.dcformer.safetensors: has format"), "{said}");
    std::fs::write(at.join("my.toml"), "wording = 1").unwrap();
    let said =
        refused(at, "cache prompts --prompts my.toml --checkpoint ct/checkpoint.safetensors --out no.safetensors");
    assert!(said.contains("my.toml: is no file of prompts: line 1: wording: "), "{said}");
}
