//! Tables of one value an id and name, as anybody writes labels and scores: the first column is the id, the header has the
//! names. Ids are compared without the ending `.nii.gz`.

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::table::{self, BadRow, Keyed, Others, Row, Table, first_of};

const HINT: &str = "the first column is the id, each other one is named for a label, and commas are between them";

/// Reads the header of such a table.
///
/// # Errors
/// Those of [`Table::open_whole`].
pub fn open(path: impl AsRef<Path>) -> Result<Table> {
    Table::open_whole(path, HINT)
}

/// A table whose cells are all of one kind.
pub struct IdTable<T> {
    /// The file.
    pub path: PathBuf,
    /// Names of the columns behind the id, in the order asked for.
    pub names: Vec<String>,
    /// The cells of each id, `[names]`, and the line they stand on, where the file has lines.
    pub rows: Keyed<String, (Option<usize>, Vec<T>)>,
    /// BLAKE3 of the file, lower-case hex.
    pub digest: String,
    /// Columns that were not asked for.
    pub others: Vec<String>,
}

impl IdTable<bool> {
    /// Labels: every column behind the first is one, and every cell 0 or 1 (or false or true, in letters of any case).
    ///
    /// # Errors
    /// No label; no usable row, with the first reason.
    pub fn labels(table: &Table) -> Result<Self> {
        let names = table.columns()[1..].to_vec();
        if names.is_empty() {
            return Err(Error::file(table.path(), "has one column only", HINT));
        }
        Self::read(table, names, label)
    }

    /// The labels of these columns, in this order; the others may hold anything.
    ///
    /// # Errors
    /// A label without a column; no usable row, with the first reason.
    pub fn labels_of(table: &Table, names: &[String]) -> Result<Self> {
        expect_names(table.path(), &table.columns()[1..], names)?;
        Self::read(table, names.to_vec(), label)
    }
}

impl IdTable<f64> {
    /// Scores of these labels, in whatever order the columns are; others are passed over.
    ///
    /// # Errors
    /// A file that is no such table; a label without a column; no usable row, with the first reason.
    pub fn scores(path: impl AsRef<Path>, labels: &[String]) -> Result<Self> {
        let (path, bytes) = (path.as_ref(), table::read(path.as_ref())?);
        // Says which labels lack a column, and of a table with other separators that.
        let wanted: Vec<&str> = labels.iter().map(String::as_str).collect();
        Table::parse(path, bytes.clone(), &wanted, Others::Ignored, HINT)?;
        let table = Table::parse_whole(path, bytes, HINT)?;
        if let Some(label) = labels.iter().find(|label| !table.columns()[1..].contains(label)) {
            return Err(Error::file(table.path(), format!("its first column is the label {label}"), HINT));
        }
        Self::read(&table, labels.to_vec(), |row, column| {
            row.number(column).ok_or_else(|| row.refuse(column, "a finite number"))
        })
    }
}

impl IdTable<String> {
    /// Texts: the cells of this column, whatever they say.
    ///
    /// # Errors
    /// A file that is no such table; no such column behind the first; no row.
    pub fn texts(path: impl AsRef<Path>, column: &str) -> Result<Self> {
        let (table, names) = (open(path)?, vec![column.to_string()]);
        expect_names(table.path(), &table.columns()[1..], &names)?;
        Self::read(&table, names, |row, column| Ok(row.text(column).to_string()))
    }
}

impl<T> IdTable<T> {
    fn read(table: &Table, names: Vec<String>, cell: impl Fn(&Row, usize) -> Result<T, BadRow>) -> Result<Self> {
        let columns: Vec<usize> = names
            .iter()
            .filter_map(|name| table.columns()[1..].iter().position(|c| c == name))
            .map(|at| at + 1)
            .collect();
        Self::read_rows(table, names, |row| columns.iter().map(|&column| cell(row, column)).collect())
    }

    /// The rows of a table, each with the cells that are made of it; `names` name them.
    ///
    /// # Errors
    /// No usable row, with the first reason.
    pub(super) fn read_rows(
        table: &Table,
        names: Vec<String>,
        cells: impl Fn(&Row) -> Result<Vec<T>, BadRow>,
    ) -> Result<Self> {
        let rows = table.keyed(|row| {
            let id = row.text(0).trim();
            let id = id.strip_suffix(".nii.gz").unwrap_or(id);
            if id.is_empty() {
                return Err(row.refuse(0, "an id"));
            }
            Ok((id.to_string(), (Some(row.line()), cells(row)?)))
        });
        if rows.rows.is_empty() {
            let error = rows.bad.first().map(BadRow::error);
            return Err(error.unwrap_or_else(|| Error::file(table.path(), "has no row below its header", HINT)));
        }
        let others = table.columns()[1..].iter().filter(|column| !names.contains(column)).cloned().collect();
        Ok(IdTable { path: table.path().into(), names, rows, digest: table.digest(), others })
    }

    /// The table with these columns alone, in this order.
    ///
    /// # Errors
    /// A column that it does not have.
    pub fn restricted(self, names: &[String]) -> Result<Self>
    where
        T: Copy,
    {
        expect_names(&self.path, &self.names, names)?;
        let place = |name: &String| self.names.iter().position(|own| own == name);
        let places: Vec<usize> = names.iter().filter_map(place).collect();
        let pick = |cells: &[T]| places.iter().map(|&at| cells[at]).collect();
        Ok(self.with_cells(names.to_vec(), pick))
    }

    /// The table with other cells made of each id's.
    pub fn with_cells(self, names: Vec<String>, make: impl Fn(&[T]) -> Vec<T>) -> Self {
        let Keyed { order, rows, bad } = self.rows;
        let rows = rows.into_iter().map(|(id, (line, cells))| (id, (line, make(&cells)))).collect();
        IdTable { names, rows: Keyed { order, rows, bad }, ..self }
    }

    /// The cells of an id.
    pub fn row(&self, id: &str) -> Option<&[T]> {
        self.rows.rows.get(id).map(|(_, cells)| cells.as_slice())
    }

    /// What is wrong with the ids of this table that `known` says another table does not have: the first with its line.
    pub fn strangers(&self, other: &Path, known: impl Fn(&str) -> bool) -> Option<Error> {
        let strangers: Vec<&String> = self.rows.order.iter().filter(|id| !known(id)).collect();
        let first = *strangers.first()?;
        let field = self.rows.rows[first].0.map_or_else(|| first.clone(), |line| format!("line {line}"));
        let problem = format!(
            "{} of its {} ids have no usable row in {}: {}",
            strangers.len(),
            self.rows.order.len(),
            other.display(),
            first_of(&strangers)
        );
        let hint = "complete that table, or remove the rows".into();
        Some(Error::File { path: self.path.clone(), field: Some(field), problem, hint })
    }
}

/// Refuses a table whose columns lack one of the names.
fn expect_names(path: &Path, columns: &[String], names: &[String]) -> Result<()> {
    let missing: Vec<&String> = names.iter().filter(|name| !columns.contains(name)).collect();
    match missing.is_empty() {
        true => Ok(()),
        false => Err(Error::file(path, format!("missing columns: {}", first_of(missing)), HINT)),
    }
}

/// A cell that says whether a label is present.
pub(super) fn label(row: &Row, column: usize) -> Result<bool, BadRow> {
    match row.text(column).trim().to_ascii_lowercase().as_str() {
        "0" | "0.0" | "false" => Ok(false),
        "1" | "1.0" | "true" => Ok(true),
        _ => Err(row.refuse(column, "0 or 1")),
    }
}
