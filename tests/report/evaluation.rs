//! The page of evaluations: from material in memory, and from folders by the command.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use x2ct::ct::RadiographOptions;
use x2ct::data::features::FeatureSet;
use x2ct::data::provenance::{Provenance, fields};
use x2ct::data::radiographs::RadiographSet;
use x2ct::eval::bootstrap::Bootstrap;
use x2ct::eval::metrics::{precision_recall_curve, roc_auc, roc_curve};
use x2ct::eval::retrieval_file::{Modality, RetrievalFile};
use x2ct::eval::score_file::ScoreFile;
use x2ct::report::evaluation::{FileFacts, Material, Named, Pages, Settings, TrainingRun, pages};
use x2ct::report::pca::Pca;
use x2ct::report::{Cell, Column, Row, Table};
use x2ct::train::StepLog;

use super::page::{attribute, elements};
use crate::cli::{configuration, succeed, text, x2ct};
use crate::json::assert_report;
use crate::support::normal;

/// A name that is hostile to a page.
const ODD: &str = "<script>alert(\"1\")</script> & 'x' äß肺\u{7}";

fn made() -> Provenance {
    let from = Provenance { digest: "ab".repeat(32), rows: 7, known: true, ..Provenance::default() };
    Provenance::made(fields(json!({"protocol": ODD, "scale": 2.5})), [("checkpoint", from)])
}

/// Scores of so many volumes and labels; those of `seed` 0 are the labels' own but for noise.
pub fn scores(name: &str, volumes: usize, labels: usize, seed: u64) -> Named<ScoreFile> {
    let (noise, truth) = (normal(7 + seed, volumes * labels), normal(3, volumes * labels));
    let labelled: Vec<bool> = truth.iter().map(|&t| t > 0.5).collect();
    let logits = noise.iter().zip(&labelled).map(|(&z, &there)| f64::from(z) + f64::from(u8::from(there)) - 0.5);
    let names = (0..labels).map(|label| if label == 1 { ODD.into() } else { format!("label {label}") });
    let (logits, names) = (logits.collect(), names.collect());
    let ids = ids(volumes);
    Named { name: name.into(), of: ScoreFile { ids, names, logits, labels: labelled, made: made() } }
}

fn ids(volumes: usize) -> Vec<String> {
    (0..volumes).map(|at| if at == 1 { ODD.into() } else { format!("valid_{}_a_{}", at / 2 + 1, at % 2 + 1) }).collect()
}

fn ranks(volumes: usize) -> Named<RetrievalFile> {
    let k = volumes.min(10);
    let nearest = (0..volumes).flat_map(|query| (0..k).map(move |at| ((query + at) % volumes) as u32)).collect();
    let score = (0..volumes).flat_map(|_| (0..k).map(|at| 0.9 - at as f32 / 100.0)).collect();
    let of = RetrievalFile {
        query: Modality::Cxr,
        gallery: Modality::Ct,
        query_ids: ids(volumes),
        gallery_ids: ids(volumes),
        rank: vec![1; volumes],
        nearest,
        score,
        made: made(),
    };
    Named { name: "ranks".into(), of }
}

/// All that a page can show.
pub fn material(volumes: usize, labels: usize) -> Material {
    let pixels = (0..volumes * 20 * 24).map(|at| (at * 7 % 251) as u8).collect();
    let radiographs = RadiographSet::new(ids(volumes), [20, 24], pixels, json!({}), &RadiographOptions::default());
    let step = |at: usize| StepLog {
        step: at + 1,
        epoch: at / 10,
        loss: if at == 3 { f32::NAN } else { 5.0 / (at + 1) as f32 },
        grad_norm: (at != 3).then_some(1.0),
        lr: 1e-4,
        images: 8,
    };
    let config = Some(json!({"model": {"name": ODD}, "epochs": 3, "weights": null}));
    let run = TrainingRun { steps: (0..40).map(step).collect(), config };
    let cell = Cell::of(0.7).beside(0.716);
    let table = Table {
        name: "table-3".into(),
        title: "Zero-shot".into(),
        columns: vec![Column::new("AUC")],
        rows: vec![Row::new(ODD, vec![cell]), Row::new("b", vec![Cell::missing("MIMIC")])],
        ..Table::default()
    };
    let features = FeatureSet {
        ids: ids(volumes),
        features: normal(5, volumes * 6),
        dim: 6,
        encoder: ODD.into(),
        cts: Default::default(),
        made: made(),
    };
    let named = |name: &str| format!("run/{name}");
    Material {
        scores: vec![scores("first", volumes, labels, 0), scores(ODD, volumes, labels, 1)],
        retrievals: vec![ranks(volumes)],
        features: vec![Named { name: named("features"), of: features }],
        runs: vec![Named { name: named("one"), of: run }],
        tables: vec![Named { name: named("table"), of: table }],
        radiographs: Some(radiographs.unwrap()),
        reports: Some(ids(volumes).into_iter().map(|id| (id.clone(), format!("Report of {id} {ODD}"))).collect()),
        files: vec![FileFacts { name: ODD.into(), format: "x2ct-scores-1".into(), made: made() }],
        left_out: vec![format!("{ODD}: is half a file")],
    }
}

pub fn settings() -> Settings {
    let bootstrap = Some(Bootstrap { replicates: 40, ..Bootstrap::default() });
    Settings { title: ODD.into(), bootstrap, facts: vec![("command", ODD.into())] }
}

/// A page that a browser shows without asking for anything else: balanced, named, linked.
fn assert_sound(html: &str) {
    let all = elements(html);
    assert!(!html.to_lowercase().contains("<script") && !html.contains("http"), "scripts or addresses");
    let ids: Vec<&str> = all.iter().filter_map(|start| attribute(start, "id")).collect();
    assert_eq!(ids.iter().collect::<HashSet<_>>().len(), ids.len(), "an id twice: {ids:?}");
    let mut level = 0;
    for start in &all {
        match start.0.as_str() {
            "html" => assert_eq!(attribute(start, "lang"), Some("en")),
            "img" => {
                assert!(attribute(start, "alt").is_some_and(|alt| !alt.is_empty()), "{:?}", start.0);
                assert!(attribute(start, "src").unwrap().starts_with("data:image/png;base64,"));
            }
            "svg" => {
                assert_eq!(attribute(start, "role"), Some("img"));
                assert!(attribute(start, "aria-label").is_some_and(|label| !label.is_empty()));
            }
            "a" => {
                let to = attribute(start, "href").unwrap().strip_prefix('#').expect("a link within the page");
                assert!(ids.contains(&to), "no place {to}");
            }
            "h1" | "h2" | "h3" => {
                let next: usize = start.0[1..].parse().unwrap();
                assert!(next <= level + 1, "h{next} below h{level}");
                level = next;
            }
            "link" | "script" | "iframe" | "object" => panic!("{start:?}"),
            _ => {}
        }
    }
    assert_eq!(all.iter().filter(|start| start.0 == "h1").count(), 1);
    let titles = all.iter().filter(|start| start.0 == "title").count();
    assert_eq!(titles, 1 + all.iter().filter(|start| start.0 == "svg").count(), "each chart has its title");
}

#[test]
fn a_page_of_everything_is_sound_and_the_same_each_time() {
    let Pages { html, json, csv, latex } = pages(&material(14, 3), &settings()).unwrap();
    assert_sound(&html);
    for says in [
        "In plain words",
        "DeLong",
        "Sens.",
        "Youden",
        "Expected calibration error",
        "asks, CTs answer",
        "class=\"film hit\"",
        "principal components",
        "is labelled",
        "Report of valid_1_a_1",
        "smoothed",
        "model.name",
        "digest <code>abababababab</code>",
        "is half a file",
        "(0.716)",
    ] {
        assert!(html.contains(says), "{says}");
    }
    let again = pages(&material(14, 3), &settings()).unwrap();
    assert!(again.html == html && again.json == json && again.csv == csv && again.latex == latex);
    let parsed: Value = serde_json::from_str(&json).unwrap();
    let tables = parsed["tables"].as_array().unwrap();
    let read: Vec<Table> = tables.iter().map(|table| Table::from_json(&table.to_string()).unwrap()).collect();
    assert_eq!(read.last().unwrap(), &material(14, 3).tables[0].of);
    let mut reader = csv::Reader::from_reader(csv.as_bytes());
    let rows: Vec<csv::StringRecord> = reader.records().map(Result::unwrap).collect();
    let cells = read.iter().flat_map(|table| &table.rows).flat_map(|row| &row.cells);
    assert_eq!(rows.len(), cells.filter(|cell| **cell != Cell::default()).count());
    assert!(
        latex.starts_with("% x2ct-report-1\n\\documentclass")
            && latex.matches("\\begin{tabular}").count() == read.len()
    );
}

/// The figures of the page are the metrics' own.
#[test]
fn tables_hold_what_the_metrics_say() {
    let material = material(40, 2);
    let pages = pages(&material, &settings()).unwrap();
    let parsed: Value = serde_json::from_str(&pages.json).unwrap();
    let table = |name: &str| {
        let found = parsed["tables"].as_array().unwrap().iter().find(|table| table["name"] == name);
        Table::from_json(&found.unwrap().to_string()).unwrap()
    };
    let file = &material.scores[0].of;
    let column = |label: usize| -> (Vec<bool>, Vec<f64>) {
        (0..40).map(|row| (file.labels[row * 2 + label], file.logits[row * 2 + label])).unzip()
    };
    let (truth, logits) = column(0);
    let labels = table("labels-1");
    assert_eq!(labels.rows[0].cells[1].value, roc_auc(&truth, &logits).unwrap());
    let [low, high] = labels.rows[0].cells[1].interval.unwrap();
    assert!(low < labels.rows[0].cells[1].value.unwrap() && labels.rows[0].cells[1].value.unwrap() < high);
    let detection = table("detection");
    assert_eq!(detection.rows[0].cells[0].value, roc_auc(&file.labels, &file.logits).unwrap());
    assert!(detection.rows[0].cells[0].p.is_none() && detection.rows[1].cells[0].p.is_some());

    // At one half, and at the point of the curve with the largest gain.
    let confusion = table("confusion-1");
    let counts: Vec<f64> = confusion.rows[0].cells.iter().map(|cell| cell.value.unwrap()).collect();
    let count = |there: bool, found: bool| {
        truth.iter().zip(&logits).filter(|(t, z)| **t == there && (**z > 0.0) == found).count() as f64
    };
    assert_eq!(counts[..4], [count(true, true), count(false, true), count(true, false), count(false, false)]);
    assert_eq!(counts[7..11].iter().sum::<f64>(), 40.0);
    let gain = counts[11] + counts[12] - 1.0;
    let roc = roc_curve(&truth, &logits).unwrap().unwrap();
    let best = roc.iter().map(|(fpr, tpr)| tpr - fpr).fold(0.0, f64::max);
    assert!((gain - best).abs() < 1e-12 && roc[0] == (0.0, 0.0) && roc.last() == Some(&(1.0, 1.0)));
    let pr = precision_recall_curve(&truth, &logits).unwrap().unwrap();
    let positives = truth.iter().filter(|&&there| there).count() as f64;
    assert_eq!((pr[0].recall, pr[0].precision), (0.0, 1.0));
    assert_eq!((pr.last().unwrap().recall, pr.last().unwrap().precision), (1.0, positives / 40.0));
    let retrieval = table("retrieval");
    assert_eq!(retrieval.rows[0].cells[0].value, Some(1.0));
    assert_eq!(retrieval.rows[1].cells[0].value, Some(1.0 / 40.0));
}

#[test]
fn each_missing_ingredient_is_a_sentence_and_no_failure() {
    let nothing = |material: &Material| {
        let html = pages(material, &Settings { bootstrap: None, ..settings() }).unwrap().html;
        assert_sound(&html);
        html
    };
    let html = nothing(&Material::default());
    for says in ["eval --scores NAME", "--ranks NAME", "x2ct-features-1", "x2ct train"] {
        assert!(html.contains(says), "{says}");
    }
    let html = nothing(&Material { radiographs: None, reports: None, ..material(6, 2) });
    assert!(
        html.contains("--radiographs FILE") && html.contains("--dataset ROOT") && html.contains("--bootstrap above 0")
    );
    let html = nothing(&Material { scores: Vec::new(), ..material(6, 2) });
    assert!(html.contains("a score file of the same volumes adds their numbers of findings"));
    // One class only, one volume, no finite loss.
    let mut lone = material(1, 1);
    lone.scores.iter_mut().for_each(|file| file.of.labels = vec![false]);
    lone.runs[0].of.steps.iter_mut().for_each(|step| step.loss = f32::NAN);
    let html = nothing(&lone);
    assert!(html.contains("No curve where all or none have the finding: label 0."), "{html:.3000}");
    assert!(html.contains("is a finite number"));
    // Of other volumes, of other labels, and labelled otherwise.
    let mut apart = material(8, 2);
    apart.scores[1].of.ids.iter_mut().for_each(|id| *id = format!("other {id}"));
    apart.scores.push(scores("narrow", 8, 1, 2));
    let mut flipped = scores("flipped", 8, 2, 3);
    flipped.of.labels[0] ^= true;
    apart.scores.push(flipped);
    let html = nothing(&apart);
    for name in ["first", "narrow", "flipped"] {
        let says = format!("{name} is not compared: no other file is of the very same volumes, labels and truth.");
        assert!(html.contains(&says), "{says}");
    }
}

/// Files of other volumes or labels have a table of their own, with their own counts, chance and reference.
#[test]
fn each_test_set_has_its_own_table() {
    let mut other = scores("b", 12, 3, 4);
    other.of.ids.iter_mut().for_each(|id| *id = format!("other {id}"));
    other.of.labels = (0..36).map(|at| at % 4 == 0).collect();
    let beside =
        Named { name: "d".into(), of: ScoreFile { logits: scores("d", 12, 3, 5).of.logits, ..other.of.clone() } };
    let all = vec![scores("a", 20, 2, 0), other, scores("c", 20, 2, 1), beside, scores("e", 20, 1, 0)];
    let pages = pages(&Material { scores: all, ..Material::default() }, &settings()).unwrap();
    assert_sound(&pages.html);
    let parsed: Value = serde_json::from_str(&pages.json).unwrap();
    let tables: Vec<Table> = parsed["tables"]
        .as_array()
        .unwrap()
        .iter()
        .map(|table| Table::from_json(&table.to_string()).unwrap())
        .collect();
    let table = |name: &str| tables.iter().find(|table| table.name == name).unwrap_or_else(|| panic!("no {name}"));
    let rows = |name: &str| table(name).rows.iter().map(|row| row.name.clone()).collect::<Vec<_>>();
    assert_eq!(rows("detection"), ["a", "c", "Chance"]);
    assert_eq!(rows("detection-2"), ["b", "d", "Chance"]);
    assert_eq!(rows("detection-3"), ["e", "Chance"]);
    let caption = &table("detection-2").caption;
    assert!(caption.starts_with("12 volumes of ") && caption.contains(", 3 labels.") && caption.contains("to b."));
    assert_eq!(table("detection-2").rows[2].cells[1].value, Some(0.25), "chance is the test set's own prevalence");
    assert!(table("detection-2").rows[1].cells[0].p.is_some() && table("detection-3").against.is_none());
    assert_eq!((rows("differences"), rows("differences-2")), (vec!["c".to_string()], vec!["d".to_string()]));
    assert!(!tables.iter().any(|table| table.name == "differences-3"));
    let names: HashSet<&String> = tables.iter().map(|table| &table.name).collect();
    assert_eq!(names.len(), tables.len(), "a name of a table twice");
}

/// Eigenvectors of the covariance by Jacobi's rotations of the whole matrix, in f64.
fn reference(values: &[f32], dim: usize) -> (Vec<f64>, Vec<Vec<f64>>) {
    let count = values.len() / dim;
    let mean: Vec<f64> = (0..dim)
        .map(|i| values.iter().skip(i).step_by(dim).map(|&v| f64::from(v)).sum::<f64>() / count as f64)
        .collect();
    let centred: Vec<f64> = values.iter().enumerate().map(|(at, &v)| f64::from(v) - mean[at % dim]).collect();
    let mut a: Vec<f64> =
        (0..dim * dim).map(|at| centred.chunks(dim).map(|row| row[at / dim] * row[at % dim]).sum()).collect();
    let mut v: Vec<f64> = (0..dim * dim).map(|at| f64::from(u8::from(at / dim == at % dim))).collect();
    for _ in 0..100 {
        for p in 0..dim {
            for q in p + 1..dim {
                let t = 0.5 * (2.0 * a[p * dim + q]).atan2(a[q * dim + q] - a[p * dim + p]);
                let (s, c) = t.sin_cos();
                for m in [&mut a, &mut v] {
                    for k in 0..dim {
                        let (x, y) = (m[k * dim + p], m[k * dim + q]);
                        (m[k * dim + p], m[k * dim + q]) = (c * x - s * y, s * x + c * y);
                    }
                }
                for k in 0..dim {
                    let (x, y) = (a[p * dim + k], a[q * dim + k]);
                    (a[p * dim + k], a[q * dim + k]) = (c * x - s * y, s * x + c * y);
                }
            }
        }
    }
    let mut order: Vec<usize> = (0..dim).collect();
    order.sort_by(|&i, &j| a[j * dim + j].total_cmp(&a[i * dim + i]));
    let total: f64 = (0..dim).map(|i| a[i * dim + i]).sum();
    let points = order[..dim.min(2)].iter().map(|&at| {
        let axis: Vec<f64> = (0..dim).map(|row| v[row * dim + at]).collect();
        let most = axis.iter().copied().fold(0.0f64, |most, v| if v.abs() > most.abs() { v } else { most });
        centred.chunks(dim).map(|row| most.signum() * row.iter().zip(&axis).map(|(a, b)| a * b).sum::<f64>()).collect()
    });
    (order.iter().map(|&at| a[at * dim + at] / total).collect(), points.collect())
}

#[test]
fn principal_components_are_those_of_the_covariance() {
    for (rows, dim) in [(50, 5), (31, 17), (7, 12), (300, 40), (9, 1), (2, 3)] {
        // Axes of different lengths, about a mean that is not 0.
        let values: Vec<f32> = normal(rows as u64, rows * dim)
            .iter()
            .enumerate()
            .map(|(at, z)| 3.0 + z * (1.0 + (at % dim) as f32 * 0.3))
            .collect();
        let pca = Pca::of(&values, dim).unwrap();
        let (shares, points) = reference(&values, dim);
        for at in 0..dim.min(2).min(rows - 1) {
            assert!((pca.shares[at] - shares[at]).abs() < 1e-10, "{rows} x {dim}: {:?} {shares:?}", pca.shares);
            let size = points[at].iter().map(|v| v * v).sum::<f64>().sqrt();
            let off: f64 =
                pca.points.iter().zip(&points[at]).map(|(p, want)| (p[at] - want).powi(2)).sum::<f64>().sqrt();
            assert!(off < 1e-6 * size, "{rows} x {dim}, component {at}: {off:e} of {size:e}");
        }
    }
    // What has no second, or no, direction.
    let line: Vec<f32> = (0..10).flat_map(|at| [at as f32, 2.0 * at as f32]).collect();
    let pca = Pca::of(&line, 2).unwrap();
    assert!((pca.shares[0] - 1.0).abs() < 1e-12 && pca.shares[1] == 0.0 && pca.points.iter().all(|p| p[1] == 0.0));
    let still = Pca::of(&[1.0f32; 12], 3).unwrap();
    assert_eq!((still.shares, still.points), ([0.0; 2], vec![[0.0; 2]; 4]));
    assert!(Pca::of(&[f32::NAN, 1.0], 2).is_err() && Pca::of(&[], 2).is_err());
}

#[test]
fn ten_files_of_a_whole_validation_split_take_seconds() {
    let all = (0..10).map(|at| scores(&format!("scores {at}"), 3039, 18, at)).collect();
    let material = Material { scores: all, ..Material::default() };
    let start = std::time::Instant::now();
    let html = pages(&material, &Settings { bootstrap: None, ..settings() }).unwrap().html;
    println!("{} bytes in {:.1} s", html.len(), start.elapsed().as_secs_f64());
    assert_sound(&html);
    assert!(html.len() < 6 << 20, "{} bytes", html.len());
}

/// A folder with phantoms, their scores and a short run.
fn measured(at: &Path) {
    succeed(at, "phantom --out . --train 8 --valid 12 --shape 16x16x16 --spacing 24");
    succeed(at, "eval --cache valid.cache.safetensors --dataset . --scores results/one");
    succeed(at, "eval --cache valid.cache.safetensors --dataset . --scale 3 --scores results/two");
}

#[test]
fn a_folder_is_reported_and_what_is_damaged_in_it_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    fs::create_dir(at.join("results")).unwrap();
    measured(at);
    fs::write(at.join("run.toml"), configuration(at, 2, 4)).unwrap();
    for split in ["train", "valid"] {
        succeed(at, &format!("drr --dataset . --split {split} --size 32x32 --out {split}"));
    }
    succeed(at, "train run.toml");
    let pictures = "--radiographs valid/ap*";
    let report = |from: &str| {
        let output = x2ct(at, &format!("report {from} --dataset . {pictures} --bootstrap 40 --json --out page.html"));
        (output.status.code(), assert_report(from, &output, "report"), text(&output.stderr))
    };
    let (code, object, said) = report("results run valid.cache.safetensors");
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(object["outputs"], json!(["page.html", "page.json", "page.csv", "page.tex"]));
    let html = fs::read_to_string(at.join("page.html")).unwrap();
    assert_sound(&html);
    for says in ["results/one", "results/two", "Map of the embeddings", "log.jsonl", "smoothed", "checkpoint"] {
        assert!(html.contains(says), "{says}");
    }
    assert!(report("results run valid.cache.safetensors").0 == Some(0));
    assert_eq!(fs::read_to_string(at.join("page.html")).unwrap(), html, "the same inputs give the same page");

    // Half a file, of each kind, and within its header; a flipped bit; another format; a table of another format.
    let whole = fs::read(at.join("results/one.safetensors")).unwrap();
    let half = |bytes: usize| whole[..bytes].to_vec();
    let flipped: Vec<u8> =
        whole.iter().enumerate().map(|(i, b)| if i == whole.len() - 3 { b ^ 1 } else { *b }).collect();
    let log = fs::read(at.join("run/log.jsonl")).unwrap();
    fs::create_dir(at.join("bad")).unwrap();
    let cases: [(&str, Vec<u8>, &str); 7] = [
        ("bad/half.safetensors", half(whole.len() - 100), "half.safetensors: is not a whole safetensors file"),
        ("bad/header.safetensors", half(60), "header.safetensors: is not a whole safetensors file"),
        ("bad/flipped.safetensors", flipped, "flipped.safetensors: its content has checksum"),
        ("bad/empty.safetensors", Vec::new(), "empty.safetensors: is named as an archive and is an empty file"),
        ("bad/x.table.json", b"{\"format\": \"x2ct-table-1\"".to_vec(), "x.table.json: its text is no whole JSON"),
        ("bad/EMPTY.TABLE.JSON", Vec::new(), "EMPTY.TABLE.JSON: its text is no whole JSON"),
        ("bad/log.jsonl", log[..log.len() - 20].to_vec(), "log.jsonl: line"),
    ];
    for (name, bytes, says) in cases {
        fs::write(at.join(name), bytes).unwrap();
        let (code, object, said) = report("results bad");
        assert!(code == Some(1) && said.contains(says), "{name}: {code:?} {said}");
        assert!(object["failed"][0]["error"].as_str().unwrap().contains(says), "{object}");
        assert!(fs::read_to_string(at.join("page.html")).unwrap().contains("Left out"));
        let strict = x2ct(at, "report results bad --strict --out strict.html");
        assert!(strict.status.code() == Some(1) && !at.join("strict.html").exists());
        fs::remove_file(at.join(name)).unwrap();
    }
    // What is named must be of use.
    let (code, _, said) = report("results dataset/multi_abnormality_labels/valid_predicted_labels.csv");
    assert!(
        code == Some(1)
            && said.contains("valid_predicted_labels.csv: is a text table, which a report has no place for"),
        "{said}"
    );
    let (code, _, said) = report("bad");
    assert!(code == Some(1) && said.contains("bad: holds neither scores"), "{said}");
    let (code, _, said) = report("absent");
    assert!(code == Some(1) && said.contains("absent: cannot"), "{said}");
    // A file twice counts once.
    let (code, object, said) = report("results results/one.safetensors");
    assert!(code == Some(0) && object["rows"].as_object().unwrap().len() == 3, "{said} {object}");
    let wrong = x2ct(at, "report results --out page.json");
    assert!(wrong.status.code() == Some(2), "{}", text(&wrong.stderr));
    let _: HashMap<String, Value> = serde_json::from_str(&fs::read_to_string(at.join("page.json")).unwrap()).unwrap();
}

/// What other commands wrote stays as it is, and nothing is written beside it.
#[test]
fn a_report_overwrites_nothing_but_reports() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let table = Table {
        name: "t".into(),
        columns: vec![Column::new("AUC")],
        rows: vec![Row::new("a", vec![Cell::of(0.5)])],
        ..Table::default()
    };
    fs::write(at.join("t.table.json"), table.json()).unwrap();
    let listed = || {
        let mut names: Vec<String> =
            fs::read_dir(at).unwrap().map(|entry| text(entry.unwrap().file_name().as_encoded_bytes())).collect();
        names.sort();
        names
    };
    for (out, says) in [
        ("zs.safetensors", "--out zs.safetensors does not end in .html: name it .html"),
        ("page", "--out page does not end in .html"),
        ("page.tex", "--out page.tex would be a table beside the page"),
    ] {
        let output = x2ct(at, &format!("report . --out {out}"));
        assert!(output.status.code() == Some(2) && text(&output.stderr).contains(says), "{}", text(&output.stderr));
    }
    for (name, content) in [
        ("zs.json", &b"{\"format\": \"x2ct-scores-1\"}"[..]),
        ("zs.csv", b"id,label\n"),
        ("zs.tex", b"\\documentclass{book}\n"),
        ("zs.json", b""),
    ] {
        fs::write(at.join(name), content).unwrap();
        let output = x2ct(at, "report . --out zs.html");
        let says = format!("{name}: is no table of a report and would be overwritten");
        assert!(output.status.code() == Some(1) && text(&output.stderr).contains(&says), "{}", text(&output.stderr));
        assert_eq!(listed(), ["t.table.json", name]);
        assert_eq!(fs::read(at.join(name)).unwrap(), content);
        fs::remove_file(at.join(name)).unwrap();
    }
    // A table that the page would rest on is no report's.
    let output = x2ct(at, "report . --out t.table.html");
    assert!(output.status.code() == Some(1) && listed() == ["t.table.json"], "{}", text(&output.stderr));
    assert_eq!(fs::read_to_string(at.join("t.table.json")).unwrap(), table.json());
    // Its own are written anew.
    for _ in 0..2 {
        succeed(at, "report . --out zs.html");
        assert_eq!(listed(), ["t.table.json", "zs.csv", "zs.html", "zs.json", "zs.tex"]);
    }
    // A link by the name of a page leads to what the page rests on.
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink("t.table.json", at.join("link.html")).unwrap();
        let output = x2ct(at, "report . --out link.html");
        assert!(text(&output.stderr).contains("is the same file as the input"), "{}", text(&output.stderr));
        assert_eq!(fs::read_to_string(at.join("t.table.json")).unwrap(), table.json());
    }
}
