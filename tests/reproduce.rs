//! The papers' tables from phantoms, at toy size: every cell has a value or says what is missing; run again, nothing is computed twice;
//! what has changed is computed again.

use std::path::Path;
use std::time::SystemTime;

use serde_json::Value;
use x2ct::data::cache::EmbeddingCache;
use x2ct::data::ct_rate::Split;
use x2ct::data::features::FeatureSet;

use crate::cli::{json, succeed, text, x2ct};
use crate::left_out::refused;
use crate::teacher::circle;

const TOY: &str = "--data data --out tables --bootstrap 100";

/// A data set in the place where the tables look for CT-RATE, with radiographs of both parts.
fn ct_rate(at: &Path, train: u32, valid: u32) {
    succeed(at, &format!("phantom --out data/ct-rate --train {train} --valid {valid} --shape 24x24x24 --spacing 15"));
    for part in ["train", "valid"] {
        succeed(at, &format!("drr --dataset data/ct-rate --split {part} --size 32x32 --out data/ct-rate/{part}"));
    }
    let config = "out = \"run\"\nepochs = 1\nbatch = 8\n[model]\nname = \"resnet18\"\nwidth = 8\n\
                  [data]\nradiographs = \"data/ct-rate/train/ap.safetensors\"\ncache = \"data/ct-rate/train.cache.safetensors\"\n\
                  image_size = 32\n[optimizer]\nlr = 1e-3\n";
    std::fs::write(at.join("base.toml"), config).unwrap();
}

fn table<'a>(object: &'a Value, name: &str) -> &'a Value {
    let all = object["tables"].as_array().unwrap();
    all.iter().find(|table| table["name"] == name).unwrap_or_else(|| panic!("no {name}"))
}

/// The cells of the first row of this method and variant.
fn cells<'a>(table: &'a Value, method: &str, variant: &str) -> &'a Vec<Value> {
    let is = |row: &&Value| row["name"] == method && row["variant"].as_str().unwrap_or_default() == variant;
    table["rows"].as_array().unwrap().iter().find(is).unwrap()["cells"].as_array().unwrap()
}

fn is_measured(cell: &Value) -> bool {
    let (Some(value), Some(ends)) = (cell["value"].as_f64(), cell["interval"].as_array()) else { return false };
    let [low, high] = [0, 1].map(|end| ends[end].as_f64().unwrap());
    (0.0..=1.0).contains(&value) && low <= value && value <= high
}

fn times(folder: &Path) -> Vec<(String, SystemTime)> {
    let mut all: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|entry| (entry.file_name().into_string().unwrap(), entry.metadata().unwrap().modified().unwrap()))
        .collect();
    all.sort();
    all
}

#[test]
fn without_data_every_cell_says_what_is_missing_beside_the_papers_figure() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    std::fs::create_dir(at.join("data")).unwrap();
    let made = json(at, &format!("reproduce --paper x2ct-clip {TOY}"));
    let names: Vec<&str> =
        made["tables"].as_array().unwrap().iter().map(|table| table["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["table-2", "table-3", "table-4a", "table-4b", "table-5"]);
    let all = made["tables"].as_array().unwrap().iter().flat_map(|table| table["rows"].as_array().unwrap());
    let cells_of_all: Vec<&Value> = all.flat_map(|row| row["cells"].as_array().unwrap()).collect();
    assert!(cells_of_all.iter().all(|cell| cell["missing"].is_string() && cell["value"].is_null()));
    // The published figures, one of each table.
    let paper = |name: &str, method: &str, variant: &str, at: usize| {
        cells(table(&made, name), method, variant)[at]["paper"].as_f64().unwrap()
    };
    assert_eq!(paper("table-2", "X2CT-CLIP", "Swin", 1), 0.181);
    assert_eq!(paper("table-3", "X2CT-CLIP", "ResNet", 4), 0.567);
    assert_eq!(paper("table-4a", "X2CT-CLIP", "Swin", 7), 0.692);
    assert_eq!(paper("table-4b", "CXR-CLIP", "Swin", 4), 0.639);
    assert_eq!(paper("table-5", "beta 0, gamma 1", "ResNet", 7), 0.493);
    assert!(cells(table(&made, "table-2"), "CT-CLIP", "3DViT")[4]["paper"].is_null());
    let missing = |name: &str, method: &str, variant: &str| {
        cells(table(&made, name), method, variant)[0]["missing"].as_str().unwrap().to_string()
    };
    assert!(missing("table-2", "MedCLIP", "Swin").contains("data/ct-rate/valid.features/medclip-swin.safetensors"));
    assert!(missing("table-3", "X2CT-CLIP", "ResNet").contains("no run of a resnet with loss.beta = 1"));
    assert!(missing("table-3", "CT-CLIP", "3DViT").contains("data/ct-rate/valid.cache.safetensors"));
    for ending in ["table.json", "csv", "tex", "txt", "significance.json"] {
        assert!(at.join(format!("tables/table-4b.{ending}")).exists(), "{ending}");
    }
    let made = json(at, &format!("reproduce --paper dcformer {TOY}"));
    assert_eq!(cells(table(&made, "table-1"), "DCFormer", "tiny")[5]["paper"], 70.1);
    assert_eq!(cells(table(&made, "table-retrieval"), "CT-ViT", "")[2]["paper"], 0.1096);
}

#[test]
fn x2ct_clips_tables_from_phantoms() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    ct_rate(at, 160, 24);
    let reproduce =
        format!("reproduce --paper x2ct-clip {TOY} --train base.toml --vary loss.beta=0,1 --vary loss.gamma=0,1");
    let refuses_nothing = refused(at, &reproduce);
    // Without any weight of the loss there is nothing to learn.
    assert!(refuses_nothing.contains("loss"), "{refuses_nothing}");
    let runs = "--train base.toml --vary loss.beta=1 --vary loss.gamma=0,1";
    succeed(
        at,
        "phantom --form radchest --out data/radchest-ct --train 0 --valid 0 --test 30 --shape 24x24x24 --spacing 15",
    );
    succeed(at, "drr --dataset data/radchest-ct --split test --size 32x32 --out data/radchest-ct/test");
    succeed(at, "phantom --form mimic --out data/mimic-ct --test 12 --shape 24x24x24 --spacing 15");
    succeed(at, "radiographs --table data/mimic-ct/mimic.csv --size 32x32 --out data/mimic-ct/test.safetensors");
    let begin = std::time::Instant::now();
    let first = json(at, &format!("reproduce --paper x2ct-clip {TOY} {runs}"));
    println!(
        "all tables: {:.1} s\n{}",
        begin.elapsed().as_secs_f64(),
        std::fs::read_to_string(at.join("tables/table-5.txt")).unwrap()
    );
    let ours = |name: &str| cells(table(&first, name), "X2CT-CLIP", "ResNet");
    for name in ["table-2", "table-3", "table-4a", "table-4b"] {
        assert!(ours(name).iter().all(is_measured), "{name}: {:?}", ours(name));
    }
    assert!(cells(table(&first, "table-2"), "CT-CLIP", "3DViT").iter().all(is_measured));
    // What the tables rest on, each by its file; nothing there is of another run.
    let digests = first["digests"].as_object().unwrap();
    for file in [
        "data/ct-rate/valid.cache.safetensors",
        "data/radchest-ct/test/ap.safetensors",
        "data/mimic-ct/test.labels.csv",
        "tables/runs/loss.beta-1-loss.gamma-1/checkpoint.safetensors",
    ] {
        let known = |(name, digest): (&String, &Value)| name.contains(file) && digest.as_str().unwrap().len() == 64;
        assert!(digests.iter().any(known), "{file}: {:?}", digests.keys());
    }
    assert!(!first["warnings"].to_string().contains("of runs that are not among these"), "{}", first["warnings"]);
    let ablation = table(&first, "table-5");
    assert!(cells(ablation, "beta 1, gamma 0", "ResNet").iter().all(is_measured));
    assert!(cells(ablation, "beta 1, gamma 1", "ResNet").iter().all(is_measured));
    assert!(cells(ablation, "beta 0, gamma 1", "ResNet")[0]["missing"].as_str().unwrap().contains("loss.beta = 0"));
    assert!(cells(table(&first, "table-grid"), "loss.beta-1-loss.gamma-0", "").iter().all(is_measured));
    // Against the teacher, the only other row that has scores.
    let compared: Value =
        serde_json::from_slice(&std::fs::read(at.join("tables/table-3.significance.json")).unwrap()).unwrap();
    assert_eq!((&compared[0]["against"], &compared[0]["volumes"]), (&"CT-CLIP 3DViT".into(), &24.into()));
    let is_better = compared[0]["auc"][0].as_f64() > compared[0]["auc"][1].as_f64();
    assert_eq!(ours("table-3")[0]["p"].as_f64(), is_better.then(|| compared[0]["p_holm"].as_f64().unwrap()));

    // Nothing is computed twice, and the same tables come out.
    let before = ["features", "scores", "runs/loss.beta-1-loss.gamma-1"].map(|of| times(&at.join("tables").join(of)));
    let again = json(at, &format!("reproduce --paper x2ct-clip {TOY} {runs}"));
    assert_eq!(again["tables"], first["tables"]);
    assert_eq!(
        before,
        ["features", "scores", "runs/loss.beta-1-loss.gamma-1"].map(|of| times(&at.join("tables").join(of)))
    );
    // Features of another encoder fill the row of their name, and those of other dimensions have no place in one space.
    let name = "run-loss.beta-1-loss.gamma-0-ct-rate-valid.safetensors";
    std::fs::create_dir_all(at.join("data/ct-rate/valid.features")).unwrap();
    let place = at.join("data/ct-rate/valid.features/medclip-resnet.safetensors");
    std::fs::copy(at.join("tables/features").join(name), &place).unwrap();
    let with =
        json(at, &format!("reproduce --paper x2ct-clip --table 3 {TOY} --runs tables/runs/loss.beta-1-loss.gamma-1"));
    assert!(cells(table(&with, "table-3"), "MedCLIP", "ResNet")[..2].iter().all(is_measured));
    let left_behind = with["warnings"].as_array().unwrap().iter();
    let left_behind: Vec<&Value> = left_behind
        .filter(|warning| warning["warning"].to_string().contains("of runs that are not among these"))
        .collect();
    assert_eq!(left_behind.len(), 3, "features, ranks, scores: {left_behind:?}");
    assert!(left_behind[1]["warning"].to_string().contains("run-loss.beta-1-loss.gamma-0-ct-rate-cxr-to-ct"));
    // Files that lack volumes are named, and so is what they are of.
    let all = FeatureSet::read(&place).unwrap();
    let with_rows = |count: usize| {
        all.select(&(0..count).collect::<Vec<_>>()).write(&place).unwrap();
        let output = x2ct(at, &format!("reproduce --paper x2ct-clip --table 2 {TOY} --json"));
        serde_json::from_slice::<Value>(&output.stdout).unwrap()
    };
    let (file, cache) =
        ("data/ct-rate/valid.features/medclip-resnet.safetensors", "data/ct-rate/valid.cache.safetensors");
    let says = format!("has none of 1 volume(s) of {cache}, which are no part of recall");
    let warnings = with_rows(23)["warnings"].clone();
    assert!(
        warnings.as_array().unwrap().iter().any(|w| w["file"] == file && w["warning"] == says.as_str()),
        "{warnings}"
    );
    let failed = with_rows(12)["failed"].clone();
    assert!(
        failed[0]["file"] == file && failed[0]["error"].to_string().contains("has 12 of the 24 volumes"),
        "{failed}"
    );
    all.write(&place).unwrap();
    let compared: Value =
        serde_json::from_slice(&std::fs::read(at.join("tables/table-3.significance.json")).unwrap()).unwrap();
    assert_eq!(compared[0]["against"], "MedCLIP ResNet");
    // Half a file costs its own cells, and says so.
    let whole = std::fs::read(&place).unwrap();
    std::fs::write(&place, &whole[..whole.len() / 2]).unwrap();
    let output = x2ct(at, &format!("reproduce --paper x2ct-clip --table 3 {TOY} --json"));
    assert_eq!(output.status.code(), Some(1));
    let object: Value = serde_json::from_slice(&output.stdout).unwrap();
    let cell = &cells(table(&object, "table-3"), "MedCLIP", "ResNet")[0];
    assert!(cell["missing"].as_str().unwrap().contains("medclip-resnet.safetensors"), "{cell}");
    assert!(cells(table(&object, "table-3"), "CT-CLIP", "3DViT")[..2].iter().all(is_measured));
    assert_eq!(text(&output.stderr).matches("left out").count(), 1, "{}", text(&output.stderr));
    std::fs::write(&place, whole).unwrap();
    // Other labels are other scores.
    let labels = at.join("data/ct-rate/dataset/multi_abnormality_labels/valid_predicted_labels.csv");
    let written = std::fs::read_to_string(&labels).unwrap();
    std::fs::write(&labels, written.replacen(",0", ",1", 1)).unwrap();
    let scores = at.join("tables/scores");
    let old = times(&scores);
    succeed(at, &format!("reproduce --paper x2ct-clip --table 3 {TOY} --runs tables/runs/loss.beta-1-loss.gamma-1"));
    assert_ne!(old, times(&scores));
    std::fs::write(&labels, &written).unwrap();

    // Runs of one name would share their results; one that fits no better than another is told.
    let copy = |to: &str| {
        std::fs::create_dir_all(at.join(to)).unwrap();
        let from = at.join("tables/runs/loss.beta-1-loss.gamma-1/checkpoint.safetensors");
        std::fs::copy(from, at.join(to).join("checkpoint.safetensors")).unwrap();
    };
    copy("other/loss.beta-1-loss.gamma-1");
    copy("again");
    let run = "tables/runs/loss.beta-1-loss.gamma-1";
    let begin = format!("reproduce --paper x2ct-clip --table 3 {TOY} --runs {run}");
    assert!(refused(at, &format!("{begin} other/loss.beta-1-loss.gamma-1")).contains("has the name of"));
    let both = json(at, &format!("{begin} again"));
    assert!(both["warnings"].to_string().contains("other runs fit as well, which are left out: again"));
    // Nor is a row filled that cannot be compared: of another teacher or of other settings.
    let spoilt = |name: &str, says: &str| {
        let output = x2ct(at, &format!("{begin} --table {name} --json"));
        let object: Value = serde_json::from_slice(&output.stdout).unwrap();
        let row = cells(table(&object, &format!("table-{name}")), "X2CT-CLIP", "ResNet");
        assert!(row[0]["missing"].as_str().unwrap().contains(says), "{says}: {}", row[0]);
        assert_eq!(output.status.code(), Some(1), "{says}");
    };
    let path = at.join("data/ct-rate/valid.cache.safetensors");
    let cache = EmbeddingCache::read(&path).unwrap();
    let mut other = cache.clone();
    other.teacher = "another teacher".into();
    other.write(&path).unwrap();
    spoilt("3", "and the run learned from phantom teacher");
    spoilt("2", "and the run learned from phantom teacher");
    cache.write(&path).unwrap();
    // A run of another configuration: what is advised can be done with this command.
    let base = std::fs::read_to_string(at.join("base.toml")).unwrap();
    std::fs::write(at.join("other.toml"), base.replace("lr = 1e-3", "lr = 2e-3")).unwrap();
    let said = refused(at, &format!("reproduce --paper x2ct-clip {TOY} {}", runs.replace("base.toml", "other.toml")));
    let says = "delete tables/runs/loss.beta-1-loss.gamma-0: the run is then trained anew";
    assert!(said.contains(says) && !said.contains("--restart"), "{said}");
    let radiographs = at.join("data/ct-rate/valid/ap.safetensors");
    std::fs::remove_dir_all(at.join("data/ct-rate/valid")).unwrap();
    succeed(at, "drr --dataset data/ct-rate --split valid --size 32x32 --mode film --out data/ct-rate/valid");
    assert!(radiographs.exists());
    spoilt("3", "cannot be used");
    let forced = json(at, &format!("{begin} --force"));
    assert!(cells(table(&forced, "table-3"), "X2CT-CLIP", "ResNet")[0]["value"].is_f64());
    assert_eq!(forced["provenance"], "forced");
}

#[test]
fn dcformers_tables_from_phantoms() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let data = at.join("data/ct-rate");
    succeed(at, "phantom --out data/ct-rate --train 8 --valid 6 --shape 24x24x24 --spacing 12");
    for split in [Split::Train, Split::Valid] {
        circle::prepare(&data, split);
        let name = split.name();
        let out = format!("data/ct-rate/{name}.text.safetensors");
        succeed(at, &format!("cache text --dataset data/ct-rate --split {name} --features 64 --words 2 --out {out}"));
    }
    let config = circle::CT
        .replace("\"dcformer\"", "\"dcformer-nano\"")
        .replace("\"train.", "\"data/ct-rate/train.")
        .replace("blocks = [1, 1, 1, 1]\n", "");
    std::fs::write(at.join("ct.toml"), config).unwrap();
    succeed(at, "train ct.toml");
    let made = json(at, &format!("reproduce --paper dcformer {TOY} --runs ct"));
    let nano = cells(table(&made, "table-1"), "DCFormer", "nano");
    assert!(nano.iter().all(|cell| cell["value"].is_f64()), "{nano:?}");
    assert!(nano[2..].iter().all(|cell| (0.0..=100.0).contains(&cell["value"].as_f64().unwrap())));
    assert!(cells(table(&made, "table-retrieval"), "DCFormer", "nano").iter().all(is_measured));
    assert!(cells(table(&made, "table-retrieval"), "CT-ViT", "").iter().all(is_measured));
    assert!(cells(table(&made, "table-1"), "PoolFormer", "tiny")[2]["missing"].as_str().unwrap().contains("avg_pool"));
    assert!(cells(table(&made, "table-1"), "TransUNet", "tiny")[0]["missing"].as_str().unwrap().contains("no part"));
}

#[test]
fn what_cannot_be_reproduced_is_refused_in_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    std::fs::create_dir_all(at.join("data/ct-rate")).unwrap();
    std::fs::write(
        at.join("base.toml"),
        "out = \"run\"\nepochs = 1\n[model]\nname = \"resnet18\"\n[data]\nradiographs = \"a\"\ncache = \"b\"\n",
    )
    .unwrap();
    let begin = format!("reproduce --paper x2ct-clip {TOY}");
    for (arguments, says) in [
        ("--table 9", "there is no table 9 of X2CT-CLIP: choose 2, 3, 4a, 4b, 5"),
        ("--table grid", "the grid needs --train"),
        ("--runs data", "holds no checkpoint.safetensors"),
        ("--train base.toml --vary loss.delta=1", "loss.delta: the configuration has no such key"),
        ("--train base.toml --vary seed=1,1", "two runs would be seed-1"),
        ("--train base.toml --vary out=x", "out: is the folder of each run"),
        ("--train base.toml --vary loss.beta=x", "loss.beta: refuses \"x\""),
        ("--train base.toml --vary loss.beta", "has no ="),
        ("--train base.toml --vary loss.beta=-1", "loss"),
        ("--recipe absent.toml --table 4a", "absent.toml"),
    ] {
        let said = refused(at, &format!("{begin} {arguments}"));
        assert!(said.contains(says) && said.trim_end().lines().count() == 1, "{arguments}: {said}");
    }
    for option in ["--recipe a", "--order 1", "--by-patient"] {
        let output = x2ct(at, &format!("{begin} --table 2 --table 3 {option}"));
        let says = "it acts with a --table that has linear probes";
        assert!(output.status.code() == Some(2) && text(&output.stderr).contains(says), "{}", text(&output.stderr));
        succeed(at, &format!("{begin} --table 2 --table 4b {option}"));
    }
    for (text, says) in [
        ("[ct-rat.valid]\ncache = \"x\"\n", "names the data set ct-rat"),
        ("[ct-rate.valid]\ncaches = \"x\"\n", "[ct-rate.valid] names caches"),
        ("nonsense", "is no table of files"),
    ] {
        std::fs::write(at.join("data/data.toml"), text).unwrap();
        assert!(refused(at, &begin).contains(says), "{text}");
    }
    // The example of the documentation is taken, and what it names is looked for.
    let readme = std::fs::read_to_string(crate::support::checkout("README.md")).unwrap();
    let section = readme.split("## The papers' tables").nth(1).unwrap();
    std::fs::write(at.join("data/data.toml"), section.split("```").nth(1).unwrap().trim_start_matches("toml")).unwrap();
    let made = text(&x2ct(at, &format!("{begin} --table 2 --table 4a --json")).stdout);
    assert!(made.contains("data/labels/train.csv") && !made.contains("data.toml"), "{made}");
    std::fs::write(at.join("data/data.toml"), "[ct-rate.valid]\ncache = \"elsewhere.safetensors\"\n").unwrap();
    let made = x2ct(at, &format!("{begin} --table 3 --json"));
    assert!(
        text(&made.stdout).contains("elsewhere.safetensors"),
        "a file that is named and not there is no missing one"
    );
    assert_eq!(made.status.code(), Some(1));
    assert!(refused(at, &begin.replace("--data data", "--data absent")).contains("is no folder"));
}
