//! The page of evaluations: whatever was measured and written to files, in plain words, tables, curves and pictures.

mod calibration;
mod compare;
mod curves;
mod detection;
mod failures;
mod files;
mod map;
mod retrieval;
mod summary;
mod training;

use std::collections::HashMap;

use serde_json::{Value, json};

use super::sheet::{self, Section};
use super::table::Table;
use crate::Result;
use crate::data::features::FeatureSet;
use crate::data::provenance::Provenance;
use crate::data::radiographs::RadiographSet;
use crate::error::Error;
use crate::eval::bootstrap::Bootstrap;
use crate::eval::retrieval_file::RetrievalFile;
use crate::eval::score_file::ScoreFile;
use crate::train::StepLog;

use detection::Scored;

/// What a file or folder holds, under the name that the page calls it by.
#[derive(Clone, Debug)]
pub struct Named<T> {
    /// A path below the folder it was found in.
    pub name: String,
    /// What it holds.
    pub of: T,
}

/// A run of `x2ct train`.
#[derive(Clone, Debug, Default)]
pub struct TrainingRun {
    /// Its log; empty without one.
    pub steps: Vec<StepLog>,
    /// Its configuration, from its checkpoint.
    pub config: Option<Value>,
}

/// A file that the page rests on.
#[derive(Clone, Debug)]
pub struct FileFacts {
    /// Its path.
    pub name: String,
    /// Its format, such as `x2ct-scores-1`.
    pub format: String,
    /// What it holds and what it was made of.
    pub made: Provenance,
}

/// Everything that the page is made of. All of it may be absent.
#[derive(Default)]
pub struct Material {
    pub scores: Vec<Named<ScoreFile>>,
    pub retrievals: Vec<Named<RetrievalFile>>,
    pub features: Vec<Named<FeatureSet>>,
    pub runs: Vec<Named<TrainingRun>>,
    pub tables: Vec<Named<Table>>,
    pub radiographs: Option<RadiographSet>,
    /// Texts of the reports by the ids of volumes.
    pub reports: Option<HashMap<String, String>>,
    pub files: Vec<FileFacts>,
    /// Whole sentences about what was found and left out.
    pub left_out: Vec<String>,
}

impl Material {
    /// Whether there is nothing to show but radiographs and reports.
    pub fn is_empty(&self) -> bool {
        let Material { scores, retrievals, features, runs, tables, .. } = self;
        scores.is_empty() && retrievals.is_empty() && features.is_empty() && runs.is_empty() && tables.is_empty()
    }
}

/// How the page is made.
pub struct Settings {
    pub title: String,
    /// How intervals are drawn; none without.
    pub bootstrap: Option<Bootstrap>,
    /// Facts about the making, in the order in which they are listed: name and value.
    pub facts: Vec<(&'static str, String)>,
}

/// The page, and its tables in forms for other programs.
#[derive(Debug)]
pub struct Pages {
    pub html: String,
    pub json: String,
    pub csv: String,
    pub latex: String,
}

/// What the JSON beside a page says of itself.
const FORMAT: &str = "x2ct-report-1";
/// The first line of the LaTeX beside a page.
const LATEX: &str = "% x2ct-report-1";
/// The first line of the comma-separated text beside a page.
const HEADER: [&str; 10] = ["table", "row", "variant", "column", "value", "low", "high", "paper", "p", "missing"];

impl Pages {
    /// Whether a file with this ending (`json`, `csv` or `tex`) is what a report wrote beside its page.
    pub fn is_table_file(ending: &str, bytes: &[u8]) -> bool {
        let first = bytes.split(|&byte| byte == b'\n').next().unwrap_or_default().trim_ascii_end();
        match ending {
            "json" => serde_json::from_slice::<Value>(bytes).is_ok_and(|all| all["format"] == FORMAT),
            "csv" => first == HEADER.join(",").as_bytes(),
            "tex" => first == LATEX.as_bytes(),
            _ => false,
        }
    }
}

/// Makes the page of this material: the same for the same material, byte for byte.
///
/// # Errors
/// Nothing to show at all; material that contradicts itself.
pub fn pages(material: &Material, settings: &Settings) -> Result<Pages> {
    let bootstrap = settings.bootstrap.as_ref();
    let scored = Scored::all(&material.scores, bootstrap)?;
    let compared = compare::compare(&scored);
    let recalls = retrieval::recalls(&material.retrievals, bootstrap)?;
    let mut tables = Vec::new();
    let mut keep = |table: Table| {
        let html = table.html();
        tables.push(table);
        html
    };
    let mut sections = vec![section("summary", "In plain words", summary::body(&scored, &recalls, material))];
    sections.push(section("detection", "Detection", detection::body(&scored, &compared, bootstrap, &mut keep)));
    sections.push(section("comparison", "Differences", compare::body(&scored, &compared, bootstrap, &mut keep)));
    sections.push(section("curves", "Curves of each label", curves::body(&scored, bootstrap)?));
    sections.push(section("calibration", "Calibration", calibration::body(&scored)?));
    sections.push(section("retrieval", "Retrieval", retrieval::body(material, &recalls, bootstrap, &mut keep)?));
    sections.push(section("map", "Map of the embeddings", map::body(material)?));
    sections.push(section("failures", "Most confident mistakes", failures::body(&scored, material)?));
    sections.push(section("training", "Training", training::body(&material.runs)?));
    if !material.tables.is_empty() {
        let body = material.tables.iter().map(|table| keep(table.of.clone())).collect();
        sections.push(section("tables", "Further tables", body));
    }
    sections.push(section("files", "Files and settings", files::body(material, settings)));
    let html = format!("{}{}{}", sheet::begin(&settings.title), sheet::sections(&sections), sheet::END);
    Ok(Pages { html, json: json_of(&tables, material, settings)?, csv: csv_of(&tables)?, latex: latex_of(&tables) })
}

fn section(id: &'static str, title: &str, body: String) -> Section {
    Section { id, title: title.into(), body }
}

/// All tables and files as JSON.
fn json_of(tables: &[Table], material: &Material, settings: &Settings) -> Result<String> {
    let files: Vec<Value> = material
        .files
        .iter()
        .map(|file| json!({"file": file.name, "format": file.format, "provenance": file.made.json()}))
        .collect();
    let parsed = tables.iter().map(|table| serde_json::from_str::<Value>(&table.json())).collect::<Result<Vec<_>, _>>();
    let parsed =
        parsed.map_err(|e| Error::argument("report", format!("its tables are no JSON ({e})"), "report this"))?;
    let facts: serde_json::Map<String, Value> =
        settings.facts.iter().map(|(name, value)| (name.to_string(), json!(value))).collect();
    let all = json!({
        "format": FORMAT, "title": settings.title, "facts": facts, "tables": parsed, "files": files,
        "left_out": material.left_out,
    });
    Ok(format!("{all:#}\n"))
}

/// All tables in one: a line a cell.
fn csv_of(tables: &[Table]) -> Result<String> {
    let header = HEADER.map(String::from).to_vec();
    let lines = tables.iter().flat_map(Table::records);
    crate::table::csv(std::iter::once(header).chain(lines))
}

/// Tables that LaTeX is given before it must set them: of many more it can place none.
const FLOATS: usize = 12;

/// All tables as a document.
fn latex_of(tables: &[Table]) -> String {
    let body: Vec<String> = tables.iter().map(Table::latex).collect();
    format!(
        "{LATEX}\n\\documentclass{{article}}\n\\usepackage[utf8]{{inputenc}}\n\\usepackage[T1]{{fontenc}}\n\\usepackage{{booktabs}}\n\
         \\usepackage[a4paper,landscape,margin=1cm]{{geometry}}\n\\setlength{{\\tabcolsep}}{{4pt}}\n\
         \\begin{{document}}\n{}\\end{{document}}\n",
        body.chunks(FLOATS).map(|tables| tables.join("\n")).collect::<Vec<_>>().join("\\clearpage\n")
    )
}

/// Text after a number: its noun, in the plural where it is not one.
fn counted(count: usize, one: &str, many: &str) -> String {
    format!("{} {}", thousands(count), if count == 1 { one } else { many })
}

/// A number with its thousands apart.
fn thousands(number: usize) -> String {
    let digits = number.to_string();
    let groups: Vec<&str> = digits.as_bytes().rchunks(3).rev().filter_map(|g| std::str::from_utf8(g).ok()).collect();
    groups.join(",")
}

/// A share, or a dash.
fn share(value: Option<f64>) -> String {
    value.map_or("–".into(), |value| format!("{value:.3}"))
}
