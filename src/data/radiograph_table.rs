//! Tables of real radiographs with reports and labels, as people have them (MIMIC-CT's form): one row an image, columns by name.
//!
//! The column of images is needed; ids are a column's or the images' names without folder and ending; a report may be there. Every
//! other column whose cells are labels is one, unless labels are named: 0, 1 (or false, true), and what [`LabelRules`] says of -1
//! and of empty cells.

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::table::{BadRow, Keyed, Row, Table, first_of};

const HINT: &str = "name its columns with --id, --image, --report and --labels";

/// Which columns hold what.
#[derive(Clone, Debug, Default)]
pub struct Columns {
    /// The id's; `None`: `id` where there is one, else the image's name without folder and ending.
    pub id: Option<String>,
    /// Paths of the images.
    pub image: String,
    /// The report's; `None`: `report` where there is one.
    pub report: Option<String>,
    /// The labels'; `None`: all others whose cells are labels.
    pub labels: Option<Vec<String>>,
}

/// What cells are that say neither 0 nor 1; `None`: their row is left out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LabelRules {
    /// -1, as CheXpert's labeller writes what a report is uncertain of.
    pub uncertain: Option<bool>,
    /// Nothing, as it writes what a report does not mention.
    pub blank: Option<bool>,
}

/// One row.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    pub id: String,
    /// As the table has it.
    pub image: PathBuf,
    /// Empty where there is none.
    pub report: String,
    /// In the order of [`RadiographTable::labels`].
    pub labels: Vec<bool>,
}

/// A table of radiographs.
#[derive(Debug)]
pub struct RadiographTable {
    pub path: PathBuf,
    /// Names of the labels, in the order of the columns.
    pub labels: Vec<String>,
    /// Whether there is a column of reports.
    pub has_reports: bool,
    /// Columns that are none of the others.
    pub others: Vec<String>,
    /// In the order of the table.
    pub entries: Vec<Entry>,
    /// Rows that cannot be used.
    pub bad_rows: Vec<BadRow>,
    /// BLAKE3 of the table, lower-case hex.
    pub digest: String,
}

/// What a cell of a label says.
#[derive(Clone, Copy, PartialEq)]
enum Cell {
    Known(bool),
    Uncertain,
    Blank,
}

impl Cell {
    fn of(text: &str) -> Option<Self> {
        match text.trim().to_ascii_lowercase().as_str() {
            "0" | "0.0" | "false" => Some(Cell::Known(false)),
            "1" | "1.0" | "true" => Some(Cell::Known(true)),
            "-1" | "-1.0" => Some(Cell::Uncertain),
            "" => Some(Cell::Blank),
            _ => None,
        }
    }
}

impl RadiographTable {
    /// Reads a table.
    ///
    /// # Errors
    /// A file that is no table; a column that it lacks or that is two things at once; no usable row, with the first reason.
    pub fn read(path: &Path, columns: &Columns, rules: LabelRules) -> Result<Self> {
        let table = Table::open_whole(path, HINT)?;
        let names = table.columns();
        let place = |name: &String| names.iter().position(|own| own == name);
        let wanted = |option: &str, name: &String| {
            let problem =
                || format!("has no column {name:?}, but {}", first_of(names.iter().map(|n| format!("{n:?}"))));
            place(name).ok_or_else(|| Error::file(path, problem(), format!("name the column with --{option}")))
        };
        let image = wanted("image", &columns.image)?;
        let or_default = |option: &str, named: &Option<String>, usual: &str| match named {
            Some(name) => wanted(option, name).map(Some),
            None => Ok(place(&usual.to_string())),
        };
        let (id, report) = (or_default("id", &columns.id, "id")?, or_default("report", &columns.report, "report")?);
        let used = [Some(image), id, report];
        let labels: Vec<usize> = match &columns.labels {
            Some(labels) => labels.iter().map(|name| wanted("labels", name)).collect::<Result<_>>()?,
            None => {
                let free = (0..names.len()).filter(|at| !used.contains(&Some(*at)) && !names[*at].trim().is_empty());
                let rows: Vec<Row> = table.rows().flatten().collect();
                free.filter(|&at| is_label(&rows, at)).collect()
            }
        };
        let twice = |at: &usize| used.contains(&Some(*at)) || labels.iter().filter(|other| *other == at).count() > 1;
        if let Some(&at) = labels.iter().find(|at| twice(at)) {
            return Err(Error::file(path, format!("{:?} is asked for twice", names[at]), HINT));
        }
        let keyed: Keyed<String, Entry> = table.keyed(|row| {
            let text = row.text(image).trim();
            if text.is_empty() {
                return Err(row.refuse(image, "the path of an image"));
            }
            let named = id.map_or_else(|| stem(text), |id| row.text(id).trim().to_string());
            if named.is_empty() {
                return Err(row.refuse(id.unwrap_or(image), "an id"));
            }
            let labels = labels.iter().map(|&at| label(row, at, rules)).collect::<Result<_, BadRow>>()?;
            let report = report.map_or(String::new(), |at| row.text(at).trim().to_string());
            Ok((named.clone(), Entry { id: named, image: text.into(), report, labels }))
        });
        let Keyed { order, mut rows, mut bad } = keyed;
        if id.is_none() {
            // Of images in folders of their own, as CheXpert's.
            let repeated = bad.iter_mut().filter(|bad| !bad.spare && bad.problem.contains(" stands on line "));
            repeated.for_each(|bad| bad.problem += " (ids are the images' names: --id names a column of others)");
        }
        let entries: Vec<Entry> = order.iter().filter_map(|id| rows.remove(id)).collect();
        if entries.is_empty() {
            let first = bad.iter().find(|bad| !bad.spare).map(BadRow::error);
            let others = bad.len().saturating_sub(1);
            let none = || Error::file(path, "has no row below its header", HINT);
            return Err(first.map_or_else(none, |error| error.with_others(others, "rows")));
        }
        let is_used = |at: &usize| used.contains(&Some(*at)) || labels.contains(at);
        Ok(RadiographTable {
            path: path.into(),
            labels: labels.iter().map(|&at| names[at].clone()).collect(),
            has_reports: report.is_some(),
            others: (0..names.len()).filter(|at| !is_used(at)).map(|at| names[at].clone()).collect(),
            entries,
            bad_rows: bad,
            digest: table.digest(),
        })
    }

    /// The labels of some entries as a table: `id`, and a column a label.
    ///
    /// # Errors
    /// None on rows of text.
    pub fn labels_of<'a>(&self, entries: impl Iterator<Item = &'a Entry>) -> Result<Vec<u8>> {
        let header = ["id".to_string()].into_iter().chain(self.labels.iter().cloned()).collect();
        let row = |entry: &Entry| {
            let cells = entry.labels.iter().map(|&present| u8::from(present).to_string());
            [entry.id.clone()].into_iter().chain(cells).collect()
        };
        encode(header, entries.map(row))
    }

    /// The reports of some entries as a table: `id`, `report`.
    ///
    /// # Errors
    /// None on rows of text.
    pub fn reports_of<'a>(&self, entries: impl Iterator<Item = &'a Entry>) -> Result<Vec<u8>> {
        let header = vec!["id".to_string(), "report".to_string()];
        encode(header, entries.map(|entry| vec![entry.id.clone(), entry.report.clone()]))
    }
}

/// Whether a column is one of labels: most of its cells that say anything are.
fn is_label(rows: &[Row], at: usize) -> bool {
    let cells: Vec<Option<Cell>> = rows.iter().map(|row| Cell::of(row.text(at))).collect();
    let said = cells.iter().filter(|cell| **cell != Some(Cell::Blank)).count();
    let labels = cells.iter().flatten().filter(|cell| **cell != Cell::Blank).count();
    labels > 0 && 2 * labels > said
}

fn label(row: &Row, at: usize, rules: LabelRules) -> Result<bool, BadRow> {
    const UNCERTAIN: &str = "0 or 1: say with --uncertain what it stands for";
    const BLANK: &str = "0 or 1: say with --blank what it stands for";
    match Cell::of(row.text(at)) {
        Some(Cell::Known(present)) => Ok(present),
        Some(Cell::Uncertain) => rules.uncertain.ok_or_else(|| row.refuse(at, UNCERTAIN)),
        Some(Cell::Blank) => rules.blank.ok_or_else(|| row.refuse(at, BLANK)),
        None => Err(row.refuse(at, "0 or 1")),
    }
}

/// A path's name without folder and ending.
fn stem(path: &str) -> String {
    let name = Path::new(path).file_name().unwrap_or_default().to_string_lossy().into_owned();
    let name = name.strip_suffix(".gz").unwrap_or(&name);
    Path::new(name).file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

fn encode(header: Vec<String>, rows: impl Iterator<Item = Vec<String>>) -> Result<Vec<u8>> {
    let refuse = |problem: String| Error::argument("table", problem, "this is a defect");
    let mut csv = csv::Writer::from_writer(Vec::new());
    for record in [header].into_iter().chain(rows) {
        csv.write_record(record).map_err(|e| refuse(e.to_string()))?;
    }
    csv.into_inner().map_err(|e| refuse(e.to_string()))
}
