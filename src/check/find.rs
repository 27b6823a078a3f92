//! Which files are golden cases: known by content, not by name.

use std::io::Read;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::Value;

use super::case::FORMAT;
use crate::{Error, Result, files};

/// The golden cases among some files and folders.
#[derive(Debug, Default)]
pub struct Found {
    /// Golden cases, and files that should be: [`super::Case::read`] says of those what is wrong.
    pub cases: Vec<PathBuf>,
    /// The files that are something else.
    pub passed_over: Vec<PassedOver>,
    /// Paths that cannot be read.
    pub unreadable: Vec<Error>,
}

/// A file that is no golden case.
#[derive(Clone, Debug, Serialize)]
pub struct PassedOver {
    /// Where it is.
    pub file: String,
    /// Why: what it is.
    pub reason: String,
}

impl Found {
    /// Adds a file, or all files below a folder in the order of their names; links to folders are not followed.
    ///
    /// A file of another format of this project is passed over. A file of a folder that is none of this project's is passed over
    /// too, unless it ends in `.safetensors` and cannot be read as such, or has outputs to compare but not the format's name.
    pub fn add(&mut self, path: &Path) {
        if let Err(error) = self.try_add(path, true) {
            self.unreadable.push(error);
        }
    }

    fn try_add(&mut self, path: &Path, named: bool) -> Result<()> {
        let read = |e| Error::io(path, "read", &e);
        if std::fs::metadata(path).map_err(read)?.is_dir() {
            let entries = std::fs::read_dir(path).map_err(read)?;
            let mut inside = entries.map(|e| e.map(|e| e.path())).collect::<Result<Vec<_>, _>>().map_err(read)?;
            inside.sort();
            for path in inside {
                if !(path.is_symlink() && path.is_dir()) {
                    self.try_add(&path, false).unwrap_or_else(|error| self.unreadable.push(error));
                }
            }
            return Ok(());
        }
        match content(path)? {
            Content::Ours(format) => self.pass_over(path, format),
            Content::Other(what) if !named => self.pass_over(path, what),
            // A file that was named is meant: reading it as a case says what is wrong with it.
            Content::Case | Content::Damaged | Content::Other(_) => self.cases.push(path.to_path_buf()),
        }
        Ok(())
    }

    fn pass_over(&mut self, path: &Path, reason: impl Into<String>) {
        self.passed_over.push(PassedOver { file: path.to_string_lossy().into_owned(), reason: reason.into() });
    }
}

enum Content {
    /// A golden case, perhaps of another version or without the format's name.
    Case,
    /// Another format of this project.
    Ours(String),
    /// Called safetensors, and none.
    Damaged,
    /// Anything else.
    Other(&'static str),
}

/// What a file is, by its header.
fn content(path: &Path) -> Result<Content> {
    let read = |e| Error::io(path, "read", &e);
    if !std::fs::metadata(path).map_err(read)?.is_file() {
        return Ok(Content::Other("no plain file"));
    }
    let Some(header) = header(path).map_err(read)? else {
        let called = path.extension().is_some_and(|e| e.eq_ignore_ascii_case("safetensors"));
        return Ok(if called { Content::Damaged } else { Content::Other("no safetensors file") });
    };
    let (family, _) = FORMAT.rsplit_once('-').unwrap_or((FORMAT, ""));
    Ok(match header["__metadata__"]["format"].as_str() {
        Some(format) if format.starts_with(family) => Content::Case,
        Some(format) if format.starts_with("x2ct-") => Content::Ours(format.into()),
        _ if expects_something(&header) => Content::Case,
        _ => Content::Other("safetensors without golden metadata"),
    })
}

/// Whether a safetensors header has outputs to compare, or says of what operation it is.
fn expects_something(header: &Value) -> bool {
    let tensors = header.as_object().into_iter().flatten();
    !header["__metadata__"]["op"].is_null() || tensors.into_iter().any(|(name, _)| name.starts_with("out."))
}

/// The JSON at the head of a safetensors file; none where there is no such thing.
fn header(path: &Path) -> std::io::Result<Option<Value>> {
    /// What the safetensors format allows.
    const MOST: u64 = 100_000_000;
    let mut file = files::open(path)?;
    let mut length = [0; 8];
    let bytes = file.metadata()?.len();
    if bytes < 10 {
        return Ok(None);
    }
    file.read_exact(&mut length)?;
    let length = u64::from_le_bytes(length);
    if length > MOST || length > bytes - 8 {
        return Ok(None);
    }
    let mut text = Vec::new();
    file.take(length).read_to_end(&mut text)?;
    Ok(serde_json::from_slice(&text).ok().filter(Value::is_object))
}
