//! Tables of results in the papers' layout: one model, shown as HTML, LaTeX, CSV, JSON and text.
//!
//! ```
//! use x2ct::report::{Cell, Column, Row, Table};
//!
//! let table = Table {
//!     name: "zero-shot".into(),
//!     title: "Zero-shot detection".into(),
//!     columns: vec![Column::new("AUC").of(["CT-RATE"]), Column::new("PR").of(["CT-RATE"])],
//!     rows: vec![Row::new("Ours", vec![Cell::of(0.71).beside(0.716), Cell::missing("needs --cache FILE")])],
//!     ..Table::default()
//! };
//! assert!(table.text().contains("0.710 (0.716)"));
//! assert_eq!(Table::from_json(&table.json()).unwrap(), table);
//! ```

mod html;
mod latex;
mod layout;
mod text;

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::{Error, Result};
use crate::files;

/// What a table's file says of itself.
const FORMAT: &str = "x2ct-table-1";
/// How the name of a table's file ends.
pub const ENDING: &str = ".table.json";
/// Where a difference counts as significant, as in the papers.
pub const ALPHA: f64 = 0.05;

/// Results of several methods (rows) by several measures (columns).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Table {
    /// A short name without spaces, for files and links.
    pub name: String,
    /// What stands above the table.
    pub title: String,
    /// What the table shows, and how it was computed.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub caption: String,
    /// Headings of the rows' names and of their variants; `Method` and `Backbone` where they are empty.
    #[serde(default, skip_serializing_if = "unnamed")]
    pub heads: [String; 2],
    /// What [`Cell::p`] compares with, to stand after "against"; such as "the closest baseline".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub against: Option<String>,
    /// The measures.
    pub columns: Vec<Column>,
    /// The methods.
    pub rows: Vec<Row>,
}

fn unnamed(heads: &[String; 2]) -> bool {
    heads.iter().all(String::is_empty)
}

/// A measure.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Column {
    /// Its name, such as `AUC`.
    pub name: String,
    /// What stands above it, from the top: neighbours with equal groups stand under one heading.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<String>,
    /// Digits after the point.
    #[serde(default = "digits")]
    pub digits: usize,
    /// Which values are good, for the mark of the best.
    #[serde(default)]
    pub better: Better,
}

fn digits() -> usize {
    3
}

/// Which values of a column are good.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Better {
    /// Large ones.
    #[default]
    Higher,
    /// Small ones.
    Lower,
    /// None is better than another: no mark.
    Neither,
}

/// A method.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Row {
    /// Its name.
    pub name: String,
    /// Which of its variants, such as a backbone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
    /// Shown for reference only, as chance or a teacher is: not ranked with the others.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub reference: bool,
    /// One a column.
    pub cells: Vec<Cell>,
}

/// A measured value, or why there is none.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cell {
    /// What was measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<f64>,
    /// Ends of its confidence interval.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval: Option<[f64; 2]>,
    /// What the paper states for the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paper: Option<f64>,
    /// Of the difference to the row that [`Table::against`] names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p: Option<f64>,
    /// What is needed to measure it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub missing: Option<String>,
}

impl Column {
    /// Three digits, where more is better.
    pub fn new(name: impl Into<String>) -> Self {
        Column { name: name.into(), digits: digits(), ..Column::default() }
    }

    /// The column below these headings, from the top.
    pub fn of<S: Into<String>>(self, groups: impl IntoIterator<Item = S>) -> Self {
        Column { groups: groups.into_iter().map(Into::into).collect(), ..self }
    }

    /// The column with so many digits after the point.
    pub fn digits(self, digits: usize) -> Self {
        Column { digits, ..self }
    }

    /// The column with these values as good ones.
    pub fn better(self, better: Better) -> Self {
        Column { better, ..self }
    }

    /// All headings and the name in one line.
    fn path(&self) -> String {
        let parts = self.groups.iter().filter(|group| !group.is_empty()).chain([&self.name]);
        parts.map(String::as_str).collect::<Vec<_>>().join(" / ")
    }
}

impl Row {
    /// A method's cells.
    pub fn new(name: impl Into<String>, cells: Vec<Cell>) -> Self {
        Row { name: name.into(), cells, ..Row::default() }
    }

    /// The row of this variant of the method.
    pub fn variant(self, variant: impl Into<String>) -> Self {
        Row { variant: Some(variant.into()), ..self }
    }

    /// The row for reference only.
    pub fn reference(self) -> Self {
        Row { reference: true, ..self }
    }
}

impl Cell {
    /// A measured value.
    pub fn of(value: f64) -> Self {
        Cell { value: Some(value), ..Cell::default() }
    }

    /// A value that cannot be measured without `what`, a whole sentence or the name of an option.
    pub fn missing(what: impl Into<String>) -> Self {
        Cell { missing: Some(what.into()), ..Cell::default() }
    }

    /// The cell with the paper's figure.
    pub fn beside(self, paper: f64) -> Self {
        Cell { paper: Some(paper), ..self }
    }

    /// The cell with a confidence interval.
    pub fn within(self, interval: [f64; 2]) -> Self {
        Cell { interval: Some(interval), ..self }
    }

    /// The cell with the p of its difference.
    pub fn p(self, p: f64) -> Self {
        Cell { p: Some(p), ..self }
    }

    /// Whether the difference is significant.
    fn is_significant(&self) -> bool {
        self.p.is_some_and(|p| p < ALPHA)
    }

    fn problem(&self) -> Option<String> {
        let numbers = [self.value, self.paper, self.p].into_iter().flatten().chain(self.interval.into_iter().flatten());
        if let Some(bad) = numbers.into_iter().find(|number| !number.is_finite()) {
            return Some(format!("holds the number {bad}"));
        }
        match (self.interval, self.p) {
            (Some([low, high]), _) if low > high => Some(format!("has an interval from {low} to {high}")),
            (_, Some(p)) if !(0.0..=1.0).contains(&p) => Some(format!("has p = {p}")),
            _ => None,
        }
    }
}

impl Table {
    /// Whether every row has a cell a column, and every cell holds numbers that can be shown.
    ///
    /// # Errors
    /// The first row or cell that is not so, by its name.
    pub fn check(&self) -> Result<()> {
        let refuse = |problem: String| Error::argument("table", problem, "make the table again");
        if self.name.is_empty() || self.columns.is_empty() {
            return Err(refuse("has no name or no column".into()));
        }
        if let Some(column) = self.columns.iter().find(|column| column.digits > 12) {
            let problem = format!("has {} digits, more than 12", column.digits);
            return Err(refuse(format!("column {:?} {problem}", column.path())));
        }
        for row in &self.rows {
            if row.cells.len() != self.columns.len() {
                let (cells, columns) = (row.cells.len(), self.columns.len());
                return Err(refuse(format!("row {:?} has {cells} cells for {columns} columns", row.name)));
            }
            let bad = row.cells.iter().zip(&self.columns).find_map(|(cell, column)| Some((cell.problem()?, column)));
            if let Some((problem, column)) = bad {
                return Err(refuse(format!("row {:?}, column {:?} {problem}", row.name, column.path())));
            }
        }
        Ok(())
    }

    /// The table as JSON, which [`Self::from_json`] reads.
    pub fn json(&self) -> String {
        let mut all = serde_json::Map::from_iter([("format".to_string(), Value::from(FORMAT))]);
        if let Ok(Value::Object(fields)) = serde_json::to_value(self) {
            all.extend(fields);
        }
        format!("{:#}\n", Value::Object(all))
    }

    /// A table from JSON.
    ///
    /// # Errors
    /// Text that is no JSON, or of another format; a table that [`Self::check`] refuses.
    pub fn from_json(text: &str) -> Result<Self> {
        let refuse = |problem: String| Error::argument("table", problem, "make the table again");
        let mut all: Value =
            serde_json::from_str(text).map_err(|e| refuse(format!("its text is no whole JSON ({e})")))?;
        let format = all.as_object_mut().and_then(|all| all.remove("format"));
        if format.as_ref().and_then(Value::as_str) != Some(FORMAT) {
            let found = format.map_or("none".into(), |format| format.to_string());
            return Err(refuse(format!("has the format {found}, not {FORMAT:?}")));
        }
        let table: Table = serde_json::from_value(all).map_err(|e| refuse(format!("is not as tables are ({e})")))?;
        table.check()?;
        Ok(table)
    }

    /// Reads a table's file.
    ///
    /// # Errors
    /// Those of [`Self::from_json`], and a file that cannot be read.
    pub fn read(path: &Path) -> Result<Self> {
        let bytes = files::read(path).map_err(|e| Error::io(path, "read the table", &e))?;
        let text = std::str::from_utf8(&bytes)
            .map_err(|e| Error::file(path, format!("is no text ({e})"), "make the table again"))?;
        Table::from_json(text).map_err(|e| match e {
            Error::Argument { problem, hint, .. } => Error::file(path, problem, hint),
            other => other,
        })
    }

    /// The table as comma-separated text: a line a row; intervals, the paper's figures, p and what is missing are columns of their
    /// own where there are any.
    pub fn csv(&self) -> String {
        let heads = layout::heads(self);
        let mut header: Vec<String> = heads.clone();
        let mut rows: Vec<Vec<String>> = self.rows.iter().map(|row| layout::names(row, heads.len())).collect();
        type Part = (&'static str, fn(&Cell) -> Option<String>);
        const PARTS: [Part; 6] = [
            ("", |cell| cell.value.map(|value| value.to_string())),
            (" low", |cell| cell.interval.map(|[low, _]| low.to_string())),
            (" high", |cell| cell.interval.map(|[_, high]| high.to_string())),
            (" paper", |cell| cell.paper.map(|paper| paper.to_string())),
            (" p", |cell| cell.p.map(|p| p.to_string())),
            (" missing", |cell| cell.missing.clone()),
        ];
        for (at, column) in self.columns.iter().enumerate() {
            for (suffix, part) in PARTS {
                let cells: Vec<_> = self.rows.iter().map(|row| row.cells.get(at).and_then(part)).collect();
                if suffix.is_empty() || cells.iter().any(Option::is_some) {
                    header.push(format!("{}{suffix}", column.path()));
                    rows.iter_mut().zip(cells).for_each(|(row, cell)| row.push(cell.unwrap_or_default()));
                }
            }
        }
        crate::table::csv(std::iter::once(header).chain(rows)).unwrap_or_default()
    }

    /// A line a cell that holds something: table, row, variant, column, then as [`Self::csv`] has it value, low, high, paper, p and
    /// what is missing.
    pub fn records(&self) -> Vec<Vec<String>> {
        let text = |number: Option<f64>| number.map_or(String::new(), |number| number.to_string());
        let mut records = Vec::new();
        for row in &self.rows {
            for (cell, column) in row.cells.iter().zip(&self.columns).filter(|(cell, _)| **cell != Cell::default()) {
                let variant = row.variant.clone().unwrap_or_default();
                let names = [self.name.clone(), row.name.clone(), variant, column.path()];
                let [low, high] = [0, 1].map(|end| cell.interval.map(|ends| ends[end]));
                let numbers = [cell.value, low, high, cell.paper, cell.p].map(text);
                records
                    .push(names.into_iter().chain(numbers).chain([cell.missing.clone().unwrap_or_default()]).collect());
            }
        }
        records
    }

    /// The table as an HTML fragment without ids: a `div` that scrolls, and notes below. Its classes are those of
    /// [`STYLE`](super::STYLE).
    pub fn html(&self) -> String {
        html::html(self)
    }

    /// The table as a LaTeX float for the package `booktabs`.
    pub fn latex(&self) -> String {
        latex::latex(self)
    }

    /// The table as text for a terminal.
    pub fn text(&self) -> String {
        text::text(self)
    }
}
