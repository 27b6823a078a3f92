//! The manifest: one row a volume, in the order of the data set.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// Columns between `file` and the digests: what is known of a volume that could be read.
pub(super) const FACTS: [&str; 8] =
    ["file_bytes", "file_blake3", "shape", "spacing_mm", "axis_codes", "orientation", "slope", "intercept"];

/// What came of one volume. Everything is text as it stands in the table, so that a row comes back from the journal as it
/// was.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Row {
    /// Empty for a volume that failed, else one a column of [`FACTS`].
    pub facts: Vec<String>,
    /// BLAKE3 of the stored pixels, one a view, in hex; empty for a volume that failed.
    pub digests: Vec<String>,
    /// Empty for a volume that did not fail.
    pub error: String,
}

impl Row {
    pub fn failed(error: &Error) -> Self {
        Row { error: error.to_string(), ..Default::default() }
    }

    pub fn is_ok(&self) -> bool {
        self.error.is_empty()
    }
}

/// What every row of a table says, and whose rows they are.
pub(super) struct Table<'a> {
    /// Name and file of each volume.
    pub volumes: Vec<(String, String)>,
    pub views: Vec<&'a str>,
    pub hu_source: &'a str,
    pub preprocessing_digest: String,
}

impl Table<'_> {
    fn header(&self) -> Vec<String> {
        let views = self.views.iter().map(|view| format!("blake3_{view}"));
        let fixed = |names: &[&str]| names.iter().map(|name| name.to_string()).collect::<Vec<_>>();
        let mut header = fixed(&["volume", "status", "file"]);
        header.extend(fixed(&FACTS));
        header.extend(fixed(&["hu_source", "preprocessing_digest"]));
        header.extend(views);
        header.push("error".into());
        header
    }

    /// The table as CSV.
    pub fn encode(&self, rows: &[Row]) -> Result<Vec<u8>> {
        let mut csv = csv::Writer::from_writer(Vec::new());
        let empty = String::new();
        let mut write = || -> csv::Result<()> {
            csv.write_record(self.header())?;
            for ((name, file), row) in self.volumes.iter().zip(rows) {
                let status = if row.is_ok() { "ok" } else { "failed" };
                let cell = |cells: &'_ [String], i: usize| cells.get(i).unwrap_or(&empty).clone();
                let mut record = vec![name.clone(), status.into(), file.clone()];
                record.extend((0..FACTS.len()).map(|i| cell(&row.facts, i)));
                record.extend([self.hu_source.to_string(), self.preprocessing_digest.clone()]);
                record.extend((0..self.views.len()).map(|i| cell(&row.digests, i)));
                record.push(row.error.clone());
                csv.write_record(record)?;
            }
            Ok(())
        };
        write().map_err(|e| Error::argument("manifest", e.to_string(), "this is a defect"))?;
        csv.into_inner().map_err(|e| Error::argument("manifest", e.to_string(), "this is a defect"))
    }

    /// The rows of a manifest of these volumes and views.
    pub fn read(&self, path: &Path) -> Result<Vec<Row>> {
        let refuse = |problem: String| Error::file(path, problem, "begin anew with --restart");
        let text = std::fs::read(path).map_err(|e| Error::io(path, "read the manifest", &e))?;
        let mut csv = csv::Reader::from_reader(&text[..]);
        if !csv.headers().is_ok_and(|found| found.iter().eq(self.header())) {
            return Err(refuse("does not have the columns of this run".into()));
        }
        let rows: Result<Vec<_>> = csv
            .records()
            .zip(&self.volumes)
            .map(|(record, (name, _))| {
                let cells: Vec<String> =
                    record.map_err(|e| refuse(e.to_string()))?.iter().map(str::to_string).collect();
                if cells[0] != *name {
                    return Err(refuse(format!("has a row of {} where {name} is wanted", cells[0])));
                }
                let error = cells[cells.len() - 1].clone();
                if !error.is_empty() {
                    return Ok(Row { error, ..Default::default() });
                }
                let (facts, rest) = cells[3..].split_at(FACTS.len());
                Ok(Row { facts: facts.to_vec(), digests: rest[2..2 + self.views.len()].to_vec(), error })
            })
            .collect();
        let rows = rows?;
        if rows.len() != self.volumes.len() {
            return Err(refuse(format!("has {} rows for {} volumes", rows.len(), self.volumes.len())));
        }
        Ok(rows)
    }
}
