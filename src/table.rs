//! Tables as comma-separated text (RFC 4180): columns by name, line numbers that hold, and one bad row that costs itself only.
//!
//! The header must name every wanted column once. A row that cannot be used (another number of cells than the header, text that
//! is no UTF-8, a cell that is not what it should be) comes out as a [`BadRow`], which names its line, and the other rows stand.
//! Lines are counted in the file: line ends may be LF, CRLF or CR, cells may hold some, and a byte-order mark is none.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::fmt::Display;
use std::hash::Hash;
use std::path::{Path, PathBuf};

use crate::content::Content;
use crate::error::{Error, Result};
use crate::files;

/// Whether a table may have columns beside the wanted ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Others {
    /// They are ignored.
    Ignored,
    /// They are an error.
    Refused,
}

/// A table whose wanted columns have been found.
pub struct Table {
    path: PathBuf,
    bytes: Vec<u8>,
    /// Names of the wanted columns, in the order in which rows are asked for them.
    wanted: Vec<String>,
    /// Column of the file for each wanted one.
    at: Vec<usize>,
    /// Columns of the file.
    width: usize,
}

/// One row of a table.
pub struct Row<'a> {
    table: &'a Table,
    line: usize,
    cells: csv::StringRecord,
}

/// A row that is left out, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadRow {
    /// The table's file.
    pub table: PathBuf,
    /// Line on which the row begins, from 1.
    pub line: usize,
    /// The column at fault, where it is one.
    pub column: Option<String>,
    /// Text of the first wanted column, where it could be read: what the row is about.
    pub about: Option<String>,
    /// What is wrong.
    pub problem: String,
    /// Whether an equal row stands before it, which counts: nothing is lost with this one.
    pub spare: bool,
}

/// The rows of a table by a key.
#[derive(Clone, Debug)]
pub struct Keyed<K, T> {
    /// Keys in the order of the file.
    pub order: Vec<K>,
    /// What each row holds.
    pub rows: HashMap<K, T>,
    /// The other rows.
    pub bad: Vec<BadRow>,
}

impl<K: Eq + Hash, T> Keyed<K, T> {
    /// What the row of a key holds.
    ///
    /// # Errors
    /// That of a bad row which `is_about` the key, or `lacks` where there is no row.
    pub fn of<Q: Eq + Hash + ?Sized>(
        &self,
        key: &Q,
        is_about: impl Fn(&BadRow) -> bool,
        lacks: impl FnOnce() -> Error,
    ) -> Result<&T>
    where
        K: Borrow<Q>,
    {
        let bad = || self.bad.iter().find(|bad| is_about(bad)).map_or_else(lacks, BadRow::error);
        self.rows.get(key).ok_or_else(bad)
    }
}

impl Table {
    /// Reads a table's header. `hint` says what to do about one that does not fit.
    ///
    /// # Errors
    /// A file that cannot be read or is recognisably something else; wanted columns that are missing or repeated; with
    /// [`Others::Refused`] columns beside them.
    pub fn open(path: impl AsRef<Path>, wanted: &[&str], others: Others, hint: &str) -> Result<Self> {
        Self::parse(path.as_ref(), read(path.as_ref())?, wanted, others, hint)
    }

    /// Reads a table all of whose columns are wanted, whatever they are called; the first may be without a name.
    ///
    /// # Errors
    /// A file that cannot be read or is recognisably something else; no column; a further one without a name; one that is named
    /// twice.
    pub fn open_whole(path: impl AsRef<Path>, hint: &str) -> Result<Self> {
        Self::parse_whole(path.as_ref(), read(path.as_ref())?, hint)
    }

    /// As [`Table::open_whole`], from the file's bytes; `path` labels messages.
    ///
    /// # Errors
    /// Those of [`Table::open_whole`].
    pub fn parse_whole(path: &Path, bytes: Vec<u8>, hint: &str) -> Result<Self> {
        let (bytes, header) = header(path, bytes)?;
        if let (1, Some(name)) = (header.len(), separator(&header, |cells| cells.len() > 1)) {
            return Err(Error::file(path, separated(name), hint));
        }
        if header.iter().all(|name| name.trim().is_empty()) {
            return Err(Error::file(path, "has no header: its first line names no column", hint));
        }
        let named = header.iter().enumerate().filter(|(at, name)| *at == 0 || !name.trim().is_empty());
        let wanted: Vec<&str> = named.map(|(_, name)| name).collect();
        Self::of(path, bytes, &header, &wanted, Others::Refused, hint)
    }

    /// As [`Table::open`], from the file's bytes; `path` labels messages.
    pub fn parse(path: impl AsRef<Path>, bytes: Vec<u8>, wanted: &[&str], others: Others, hint: &str) -> Result<Self> {
        let (bytes, header) = header(path.as_ref(), bytes)?;
        Self::of(path.as_ref(), bytes, &header, wanted, others, hint)
    }

    fn of(
        path: &Path,
        bytes: Vec<u8>,
        header: &csv::StringRecord,
        wanted: &[&str],
        others: Others,
        hint: &str,
    ) -> Result<Self> {
        if let Some(problem) = header_problem(header, wanted, others) {
            return Err(Error::file(path, problem, hint));
        }
        let at = wanted.iter().filter_map(|w| header.iter().position(|h| h == *w)).collect();
        let wanted = wanted.iter().map(|name| name.to_string()).collect();
        Ok(Table { path: path.into(), bytes, wanted, at, width: header.len() })
    }

    /// Names of the wanted columns, in the order in which rows are asked for them.
    pub fn columns(&self) -> &[String] {
        &self.wanted
    }

    /// The table's file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// BLAKE3 of the table's bytes without a byte order mark, lower-case hex.
    pub fn digest(&self) -> String {
        blake3::hash(&self.bytes).to_hex().to_string()
    }

    /// The rows below the header, in the order of the file.
    pub fn rows(&self) -> impl Iterator<Item = Result<Row<'_>, BadRow>> {
        let mut reader = reader(&self.bytes);
        let (mut lines, mut first) = (Lines { bytes: &self.bytes, at: 0, line: 1 }, true);
        std::iter::from_fn(move || {
            loop {
                let begin = reader.position().byte() as usize;
                let mut cells = csv::ByteRecord::new();
                // Reading from memory, with any number of cells a row, does not fail.
                if !reader.read_byte_record(&mut cells).unwrap_or(false) {
                    return None;
                }
                if std::mem::take(&mut first) {
                    continue;
                }
                let line = lines.of(begin);
                return Some(self.row(line, cells, &self.bytes[begin..reader.position().byte() as usize]));
            }
        })
    }

    /// A row from its cells and its bytes.
    fn row(&self, line: usize, cells: csv::ByteRecord, bytes: &[u8]) -> Result<Row<'_>, BadRow> {
        let about = cells.get(self.at[0]).and_then(|cell| std::str::from_utf8(cell).ok()).map(str::to_string);
        let bad = |problem: String| BadRow {
            table: self.path.clone(),
            line,
            column: None,
            about: about.clone(),
            problem,
            spare: false,
        };
        let several_lines = cells.iter().any(|cell| cell.contains(&b'\n'));
        if several_lines && bytes.iter().filter(|&&b| b == b'"').count() % 2 == 1 {
            let lines = bytes.trim_ascii().iter().filter(|&&b| b == b'\n').count();
            return Err(bad(format!("has a quote that is never closed, which takes {lines} more lines for one cell")));
        }
        if cells.len() != self.width {
            return Err(bad(format!("has {} fields, the header {}", cells.len(), self.width)));
        }
        match csv::StringRecord::from_byte_record(cells) {
            Ok(cells) => Ok(Row { table: self, line, cells }),
            Err(_) => Err(bad("is not UTF-8".into())),
        }
    }

    /// The rows by the key that `parse` finds in each. A key that stands in two equal rows counts once; in two that differ, in
    /// none, since nothing tells which of them holds.
    pub fn keyed<K: Clone + Eq + Hash + Display, T>(
        &self,
        parse: impl Fn(&Row) -> Result<(K, T), BadRow>,
    ) -> Keyed<K, T> {
        let mut keyed = Keyed { order: Vec::new(), rows: HashMap::new(), bad: Vec::new() };
        let mut seen: HashMap<K, (usize, csv::StringRecord)> = HashMap::new();
        for row in self.rows() {
            match row.and_then(|row| Ok((parse(&row)?, row))) {
                Ok(((key, value), row)) => match seen.get(&key) {
                    None => {
                        seen.insert(key.clone(), (row.line, row.cells));
                        keyed.order.push(key.clone());
                        keyed.rows.insert(key, value);
                    }
                    Some((line, cells)) if *cells == row.cells && keyed.rows.contains_key(&key) => {
                        let problem =
                            format!("{key} stands on line {line} already, in the same words, and counts once");
                        keyed.bad.push(BadRow { about: None, spare: true, ..row.bad(0, problem) });
                    }
                    Some((line, _)) => {
                        let differs = match keyed.rows.remove(&key) {
                            Some(_) => "in other words; neither counts",
                            None => "and its rows differ; none counts",
                        };
                        keyed.bad.push(row.bad(0, format!("{key} stands on line {line} already, {differs}")));
                    }
                },
                Err(bad) => keyed.bad.push(bad),
            }
        }
        keyed.order.retain(|key| keyed.rows.contains_key(key));
        keyed
    }
}

impl Row<'_> {
    /// Line on which the row begins, from 1.
    pub fn line(&self) -> usize {
        self.line
    }

    /// Text of a wanted column, by its place among them.
    pub fn text(&self, column: usize) -> &str {
        self.cells.get(self.table.at[column]).unwrap_or("")
    }

    /// A finite number.
    pub fn number(&self, column: usize) -> Option<f64> {
        self.text(column).trim().parse().ok().filter(|v: &f64| v.is_finite())
    }

    /// The row as one that is left out, because a cell is not `wanted`.
    pub fn refuse(&self, column: usize, wanted: &str) -> BadRow {
        self.bad(column, format!("{:?} is not {wanted}", self.text(column)))
    }

    fn bad(&self, column: usize, problem: String) -> BadRow {
        let about = Some(self.text(0).to_string());
        BadRow {
            table: self.table.path.clone(),
            line: self.line,
            column: Some(self.table.wanted[column].clone()),
            about,
            problem,
            spare: false,
        }
    }
}

impl BadRow {
    /// The row's place in the table, as messages name it.
    pub fn place(&self) -> String {
        match &self.column {
            Some(column) => format!("line {}, column {column}", self.line),
            None => format!("line {}", self.line),
        }
    }

    /// The volume the row is about, named without an ending, where the name could be read.
    pub fn volume(&self) -> Option<&str> {
        self.about.as_ref().map(|about| about.trim().trim_end_matches(".nii.gz"))
    }

    /// The row as an error, whose field is the row's place.
    pub fn error(&self) -> Error {
        let (path, field, problem) = (self.table.clone(), Some(self.place()), self.problem.clone());
        let hint = if self.spare { "remove one of the two" } else { "correct the row or remove it" };
        Error::File { path, field, problem, hint: hint.into() }
    }
}

/// The first few of many: `a, b, c and 4 more`.
pub fn first_of(items: impl IntoIterator<Item = impl Display>) -> String {
    const MOST: usize = 5;
    let items: Vec<String> = items.into_iter().map(|item| item.to_string()).collect();
    let first = items[..items.len().min(MOST)].join(", ");
    if items.len() > MOST { format!("{first} and {} more", items.len() - MOST) } else { first }
}

const BOM: &[u8] = b"\xef\xbb\xbf";

/// Rows of cells as comma-separated text.
///
/// # Errors
/// Rows of different lengths.
pub fn csv(rows: impl IntoIterator<Item = Vec<String>>) -> Result<String> {
    let mut table = csv::Writer::from_writer(Vec::new());
    let written = rows.into_iter().try_for_each(|row| table.write_record(row)).ok();
    let bytes = written.and_then(|()| table.into_inner().ok());
    let text = bytes.and_then(|bytes| String::from_utf8(bytes).ok());
    text.ok_or_else(|| Error::argument("table", "has rows of different lengths", "pass as many cells in each"))
}

fn reader(bytes: &[u8]) -> csv::Reader<&[u8]> {
    csv::ReaderBuilder::new().has_headers(false).flexible(true).from_reader(bytes)
}

/// Counts lines up to places that come in order.
struct Lines<'a> {
    bytes: &'a [u8],
    at: usize,
    line: usize,
}

impl Lines<'_> {
    /// Line of the first byte from `begin` on that is no line end: rows begin behind the empty lines before them.
    fn of(&mut self, begin: usize) -> usize {
        let end = self.bytes[begin..].iter().take_while(|b| matches!(b, b'\r' | b'\n')).count() + begin;
        let ends = |i: usize| match self.bytes[i] {
            b'\n' => true,
            b'\r' => self.bytes.get(i + 1) != Some(&b'\n'),
            _ => false,
        };
        self.line += (self.at..end).filter(|&i| ends(i)).count();
        self.at = end;
        self.line
    }
}

/// The bytes of a table's file.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>> {
    files::read(path).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound | std::io::ErrorKind::PermissionDenied => Error::io(path, "open the table", &e),
        _ => Error::io(path, "read the table", &e),
    })
}

/// The first row of a table's bytes, and the bytes without a byte order mark.
fn header(path: &Path, mut bytes: Vec<u8>) -> Result<(Vec<u8>, csv::StringRecord)> {
    if let Some((problem, hint)) = no_table(&bytes) {
        return Err(Error::file(path, problem, hint));
    }
    if bytes.starts_with(BOM) {
        bytes.drain(..BOM.len());
    }
    let mut header = csv::ByteRecord::new();
    let found = reader(&bytes).read_byte_record(&mut header);
    let header = found.ok().and_then(|_| csv::StringRecord::from_byte_record(header).ok());
    let header =
        header.ok_or_else(|| Error::file(path, "its header, line 1, is not UTF-8", "convert the table to UTF-8"))?;
    Ok((bytes, header))
}

/// What bytes are that are no table, and what to do about it.
fn no_table(bytes: &[u8]) -> Option<(String, &'static str)> {
    match Content::of_start(bytes) {
        // Text in another encoding is for the rows to name.
        Content::Empty | Content::Table | Content::Text | Content::Unknown => None,
        Content::Zip => Some(("is a zip archive or an Excel workbook".into(), "save it as comma-separated text (CSV)")),
        wide @ (Content::Utf16 | Content::Utf32) => {
            Some((format!("is {wide}"), "save it as comma-separated text in UTF-8"))
        }
        Content::Gzip => Some(("is compressed by gzip".into(), "decompress it with `gunzip`")),
        other => Some((format!("is {other}, not a table"), other.remedy().unwrap_or("pass the table itself"))),
    }
}

/// What separates the header's cells where that is no comma: what makes `right` cells of it.
fn separator(header: &csv::StringRecord, right: impl Fn(&[&str]) -> bool) -> Option<&'static str> {
    let of = |separator: char| -> Vec<&str> {
        header.iter().flat_map(|cell| cell.split(separator)).map(|c| c.trim_matches('"')).collect()
    };
    let all = [(';', "semicolons"), ('\t', "tabs"), ('|', "bars")];
    all.into_iter().find(|(separator, _)| right(&of(*separator))).map(|(_, name)| name)
}

fn separated(by: &str) -> String {
    format!("its columns are separated by {by}, not by commas")
}

fn header_problem(header: &csv::StringRecord, wanted: &[&str], others: Others) -> Option<String> {
    let missing: Vec<&str> = wanted.iter().copied().filter(|w| !header.iter().any(|h| h == *w)).collect();
    let shows_missing = |cells: &[&str]| cells.len() > header.len() && missing.iter().any(|m| cells.contains(m));
    if let Some(name) = separator(header, shows_missing) {
        return Some(separated(name));
    }
    let mut unnamed = Vec::new();
    let mut unexpected = Vec::new();
    for (i, name) in header.iter().enumerate().filter(|(_, name)| !wanted.contains(name)) {
        match name.trim() {
            // An empty line is no column of the file.
            "" if header.len() > 1 => unnamed.push(i + 1),
            trimmed if trimmed != name => unexpected.push(format!("{name:?}")),
            _ => unexpected.push(name.to_string()),
        }
    }
    unexpected.retain(|name| !name.is_empty());
    let mut seen = std::collections::HashSet::new();
    let repeated: Vec<&str> = header.iter().filter(|h| wanted.contains(h) && !seen.insert(*h)).collect();
    let mut problems = Vec::new();
    if !missing.is_empty() {
        problems.push(format!("missing columns: {}", missing.join(", ")));
    }
    if others == Others::Refused {
        let index = "(pandas writes its index there; `to_csv(..., index=False)` leaves it out)";
        problems.extend(unnamed.iter().map(|column| format!("column {column} has no name {index}")));
        if !unexpected.is_empty() {
            problems.push(format!("unexpected columns: {}", unexpected.join(", ")));
        }
    }
    if !repeated.is_empty() {
        problems.push(format!("repeated columns: {}", repeated.join(", ")));
    }
    (!problems.is_empty()).then(|| problems.join("; "))
}
