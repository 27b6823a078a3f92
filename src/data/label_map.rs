//! Maps of labels: which labels of one data set stand for those of another, where an encoder or classifier of the first is evaluated on
//! the second.
//!
//! A map is a TOML file. `dataset` is what is evaluated on; each `[[label]]` is one of its labels, with the labels of the other data
//! set that it stands for, merged by the maximum: it is present where one of them is, and its score is the largest.
//! ```toml
//! dataset = "RadChest-CT"
//! [[label]]
//! name = "calcification"
//! of = ["Arterial wall calcification", "Coronary artery wall calcification"]
//! ```
//! Two are built in ([`LabelMap::open`]): `radchest`, 15 labels of RadChest-CT, and `mimic`, the 11 of MIMIC-CT (X2CT-CLIP's evaluation).

use std::path::Path;

use serde::Deserialize;

use super::id_table::IdTable;
use super::rows;
use crate::error::{Error, Result};
use crate::files;

const RADCHEST: &str = include_str!("label_map/radchest.toml");
const MIMIC: &str = include_str!("label_map/mimic.toml");

/// Labels of a data set, and those of another that they stand for. See the module's description.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LabelMap {
    /// Name of the data set that is evaluated on.
    pub dataset: String,
    /// Labels of that data set, in order.
    #[serde(rename = "label")]
    pub labels: Vec<MappedLabel>,
}

/// One label of a [`LabelMap`].
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MappedLabel {
    /// Its name in the data set that is evaluated on.
    pub name: String,
    /// The labels of the other data set that it stands for.
    pub of: Vec<String>,
}

impl LabelMap {
    /// Names of the maps that are built in.
    pub const NAMES: [&str; 2] = ["radchest", "mimic"];

    /// The map of this name, or in this file.
    ///
    /// # Errors
    /// A file that cannot be read or is no map; no label; a label twice, or one that stands for none.
    pub fn open(name: impl AsRef<Path>) -> Result<Self> {
        let path = name.as_ref();
        let text = match path.to_str() {
            Some("radchest") => RADCHEST.to_string(),
            Some("mimic") => MIMIC.to_string(),
            _ => read(path)?,
        };
        let refuse =
            |problem: String| Error::file(path, problem, "see the form in the documentation of data::label_map");
        let map: LabelMap =
            toml::from_str(&text).map_err(|e| refuse(format!("is no map of labels: {}", e.message())))?;
        let names: Vec<String> = map.names();
        if names.is_empty() {
            return Err(refuse("has no [[label]]".into()));
        }
        if let Some(twice) = rows::first_repeated(&names) {
            return Err(refuse(format!("has the label {twice} twice")));
        }
        if let Some(none) = map.labels.iter().find(|label| label.of.is_empty()) {
            return Err(refuse(format!("the label {} stands for none", none.name)));
        }
        Ok(map)
    }

    /// Names of the labels of the data set that is evaluated on.
    pub fn names(&self) -> Vec<String> {
        self.labels.iter().map(|label| label.name.clone()).collect()
    }

    /// The labels of the other data set that any label stands for, each once.
    pub fn sources(&self) -> Vec<String> {
        let mut sources: Vec<String> = Vec::new();
        for source in self.labels.iter().flat_map(|label| &label.of) {
            if !sources.contains(source) {
                sources.push(source.clone());
            }
        }
        sources
    }

    /// The map of these labels alone, in this order.
    ///
    /// # Errors
    /// A label that the map does not have.
    pub fn restricted(self, names: &[String]) -> Result<Self> {
        let of = |name: &String| {
            let found = self.labels.iter().find(|label| label.name == *name).cloned();
            found.ok_or_else(|| {
                let problem = format!("the map to {} has no label {name}", self.dataset);
                Error::argument("labels", problem, "ask for labels of the map")
            })
        };
        Ok(LabelMap { labels: names.iter().map(of).collect::<Result<_>>()?, dataset: self.dataset.clone() })
    }

    /// A table of the other data set's labels as one of these.
    ///
    /// # Errors
    /// A label that the table does not have.
    pub fn merge<T: Copy + PartialOrd>(&self, table: IdTable<T>) -> Result<IdTable<T>> {
        let sources = self.sources();
        let table = table.restricted(&sources)?;
        let merged = |cells: &[T]| self.merge_rows(&sources, cells);
        Ok(table.with_cells(self.names(), merged))
    }

    /// Rows `[rows, names]` of the other data set's labels, all of which `names` has, as rows of these.
    pub fn merge_rows<T: Copy + PartialOrd>(&self, names: &[String], rows: &[T]) -> Vec<T> {
        let place = |source: &String| names.iter().position(|name| name == source);
        let places: Vec<Vec<usize>> =
            self.labels.iter().map(|label| label.of.iter().filter_map(place).collect()).collect();
        let larger = |a: T, b: T| if b > a { b } else { a };
        let merged = |cells: &[T]| -> Vec<T> {
            places.iter().filter_map(|of| of.iter().map(|&at| cells[at]).reduce(larger)).collect()
        };
        rows.chunks_exact(names.len().max(1)).flat_map(merged).collect()
    }
}

fn read(path: &Path) -> Result<String> {
    let hint = format!("pass a file, or one of {}", LabelMap::NAMES.join(", "));
    let bytes =
        files::read(path).map_err(|e| Error::file(path, format!("cannot be read as a map of labels: {e}"), hint))?;
    String::from_utf8(bytes).map_err(|_| Error::file(path, "is no UTF-8 text", "pass a TOML file"))
}
