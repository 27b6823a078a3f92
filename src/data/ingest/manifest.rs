//! The manifest: one row a volume, in the order of the data set.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::{Error, Result, files};

/// Columns between `file` and the digests: what is known of a volume that could be read.
pub(super) const FACTS: [&str; 8] =
    ["file_bytes", "file_blake3", "shape", "spacing_mm", "axis_codes", "orientation", "slope", "intercept"];

/// Version of the columns and of what `status` can say.
pub(super) const VERSION: &str = "2";

/// The outcome of one volume.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Status {
    #[default]
    Failed,
    /// Packed, a plausible chest CT.
    Ok,
    /// Packed, with doubts: see the column `warnings`.
    Doubtful,
    /// Packed although it is no plausible chest CT, because the user insisted.
    Forced,
}

impl Status {
    const ALL: [Status; 4] = [Status::Failed, Status::Ok, Status::Doubtful, Status::Forced];

    fn name(self) -> &'static str {
        match self {
            Status::Failed => "failed",
            Status::Ok => "ok",
            Status::Doubtful => "doubtful",
            Status::Forced => "forced",
        }
    }
}

/// What came of one volume. Everything is text as it stands in the table, so that a row comes back from the journal as it
/// was.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Row {
    pub status: Status,
    /// Empty for a volume that failed, else one a column of [`FACTS`].
    pub facts: Vec<String>,
    /// BLAKE3 of the stored pixels, one a view, in hex; empty for a volume that failed.
    pub digests: Vec<String>,
    /// Empty for a volume that did not fail.
    pub error: String,
    /// What is doubtful of the volume, in sentences.
    pub warnings: String,
    /// Digest of the CT; no column, since it stands in the packed files. Empty where an earlier version made the row.
    #[serde(default)]
    pub ct: String,
}

impl Row {
    pub fn failed(error: &Error) -> Self {
        Row { error: error.to_string(), ..Default::default() }
    }

    /// Whether its pixels are packed.
    pub fn is_packed(&self) -> bool {
        self.status != Status::Failed
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
        header.extend(fixed(&["error", "warnings", "manifest_version"]));
        header
    }

    /// The table as CSV.
    pub fn encode(&self, rows: &[Row]) -> Result<Vec<u8>> {
        let mut csv = csv::Writer::from_writer(Vec::new());
        let empty = String::new();
        let mut write = || -> csv::Result<()> {
            csv.write_record(self.header())?;
            for ((name, file), row) in self.volumes.iter().zip(rows) {
                let cell = |cells: &'_ [String], i: usize| cells.get(i).unwrap_or(&empty).clone();
                let mut record = vec![name.clone(), row.status.name().into(), file.clone()];
                record.extend((0..FACTS.len()).map(|i| cell(&row.facts, i)));
                record.extend([self.hu_source.to_string(), self.preprocessing_digest.clone()]);
                record.extend((0..self.views.len()).map(|i| cell(&row.digests, i)));
                record.extend([row.error.clone(), row.warnings.clone(), VERSION.into()]);
                csv.write_record(record)?;
            }
            Ok(())
        };
        write().map_err(|e| Error::argument("manifest", e.to_string(), "this is a defect"))?;
        csv.into_inner().map_err(|e| Error::argument("manifest", e.to_string(), "this is a defect"))
    }

    /// The rows of a manifest of these volumes and views.
    pub fn read(&self, path: &Path) -> Result<Vec<Row>> {
        let refuse =
            |problem: String| Error::file(path, problem, "write to another folder, or begin anew there with --restart");
        let text = files::read(path).map_err(|e| Error::io(path, "read the manifest", &e))?;
        let mut csv = csv::Reader::from_reader(&text[..]);
        if csv.headers().is_ok_and(|found| found.iter().all(|column| column != "manifest_version")) {
            return Err(refuse("is a manifest of version 1, whose volumes were not checked to be chest CTs".into()));
        }
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
                let [.., error, warnings, version] = &cells[..] else { unreachable!("the header has more columns") };
                let status = Status::ALL.into_iter().find(|status| status.name() == cells[1]);
                let (Some(status), VERSION) = (status, version.as_str()) else {
                    return Err(refuse(format!("{name}: status {} of version {version} is not known", cells[1])));
                };
                let (error, warnings) = (error.clone(), warnings.clone());
                if status == Status::Failed {
                    return Ok(Row { error, ..Default::default() });
                }
                let (facts, rest) = cells[3..].split_at(FACTS.len());
                if rest[..2] != [self.hu_source.to_string(), self.preprocessing_digest.clone()] {
                    return Err(refuse(format!("has a row of {name} that was made with other options")));
                }
                let (facts, digests) = (facts.to_vec(), rest[2..2 + self.views.len()].to_vec());
                Ok(Row { status, facts, digests, error, warnings, ct: String::new() })
            })
            .collect();
        let rows = rows?;
        if rows.len() != self.volumes.len() {
            return Err(refuse(format!("has {} rows for {} volumes", rows.len(), self.volumes.len())));
        }
        Ok(rows)
    }
}
