//! What a packed file says of each of its rows beside the data: a JSON array in one metadata entry, with a value a row. A value of
//! nothing, the type's default, is that of a row of which nothing is known; an entry of such values alone is left out.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::archive::{Archive, Writer};
use crate::{Error, Result};

/// One value a row; empty where nothing is known of any.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct PerRow<T>(Vec<T>);

impl<T: Clone + Default + PartialEq + Serialize + DeserializeOwned> PerRow<T> {
    /// Values of rows, in their order; nothing is kept where all are the default.
    pub fn new(rows: Vec<T>) -> Self {
        PerRow(if rows.iter().all(|row| *row == T::default()) { Vec::new() } else { rows })
    }

    /// Of the rows of several files, each with its number of rows, one after the other.
    pub fn of_parts(parts: impl IntoIterator<Item = (Self, usize)>) -> Self {
        let padded = |(values, rows): (Self, usize)| {
            let mut all = values.0;
            all.resize(rows, T::default());
            all
        };
        PerRow::new(parts.into_iter().flat_map(padded).collect())
    }

    /// Those of some of the rows, by their places.
    pub fn select(&self, rows: &[usize]) -> Self {
        PerRow::new(rows.iter().map(|&row| self.0.get(row).cloned().unwrap_or_default()).collect())
    }

    /// The values, one a row, or none where nothing is known.
    pub fn rows(&self) -> &[T] {
        &self.0
    }

    /// The entry `key` of a file with so many rows; of one without it nothing is known.
    ///
    /// # Errors
    /// An entry that is no such array.
    pub fn read(archive: &Archive, key: &str, rows: usize) -> Result<Self> {
        if archive.get(key).is_err() {
            return Ok(PerRow::default());
        }
        let values: Vec<T> = archive.get_json(key)?;
        if values.len() != rows {
            let problem = format!("has {} {key} for {rows} ids", values.len());
            return Err(Error::file(archive.path(), problem, "make the file again"));
        }
        Ok(PerRow::new(values))
    }

    /// Adds the entry `key` to a file that is being written.
    pub fn record(&self, archive: &mut Writer, key: &str) {
        if !self.0.is_empty() {
            archive.set(key, json!(self.0).to_string());
        }
    }
}
