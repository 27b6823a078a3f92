//! How the CT behind each row of a file was taken: by force or not, and where its HU come from; so that what was said when it was
//! prepared is said again of what is made of it.
//!
//! A volume's file of `x2ct preprocess` says it in the metadata entries `forced` (`true` of a CT that is no plausible chest CT) and
//! `hu_source` (JSON: `from`, `rescale` where that was asked for, and the slope and intercept that came of it); a packed file, of volumes
//! or of radiographs, in the entry `origins`, a JSON array with one [`Origin`] a row. Files of which nothing is to be said, of earlier
//! versions and of other writers may lack all of them.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::per_row::PerRow;
use crate::Result;
use crate::archive::{Archive, Writer};
use crate::table::first_of;

const KEY: &str = "origins";

/// How one CT was taken.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Origin {
    /// Whether it is no plausible chest CT and was taken because the user insisted.
    pub forced: bool,
    /// Where its HU come from, in words; empty where that is not known, and of radiographs, whose file says it in `source` for all of
    /// them.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub hu: String,
}

impl Origin {
    /// What the file of one volume says.
    pub(super) fn read(archive: &Archive) -> Self {
        let forced = archive.get("forced").is_ok_and(|forced| forced == "true");
        let source: Value = archive.get_json("hu_source").unwrap_or_default();
        let from = source["from"].as_str().unwrap_or_default();
        let hu = match &source["rescale"] {
            Value::Array(rescale) => {
                format!(
                    "{from} {}",
                    rescale.iter().filter_map(Value::as_f64).map(|n| n.to_string()).collect::<Vec<_>>().join(",")
                )
            }
            _ => from.into(),
        };
        Origin { forced, hu }
    }
}

/// What is doubtful of a set, and what would make it good.
pub struct Doubt {
    /// A clause about the set.
    pub what: String,
    /// What to do, as a clause.
    pub remedy: &'static str,
}

/// How the CT of each row was taken; empty where that is known of none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origins(PerRow<Origin>);

impl Origins {
    /// Origins of rows, in their order.
    pub fn new(rows: Vec<Origin>) -> Self {
        Origins(PerRow::new(rows))
    }

    /// Of the rows of several files, each with its number of rows, one after the other.
    pub fn of_parts(parts: impl IntoIterator<Item = (Origins, usize)>) -> Self {
        Origins(PerRow::of_parts(parts.into_iter().map(|(origins, rows)| (origins.0, rows))))
    }

    /// Those of some of the rows, by their places.
    pub fn select(&self, rows: &[usize]) -> Self {
        Origins(self.0.select(rows))
    }

    /// The entry of a file with so many rows; of one without it nothing is known.
    ///
    /// # Errors
    /// An entry that is no such array.
    pub fn read(archive: &Archive, rows: usize) -> Result<Self> {
        PerRow::read(archive, KEY, rows).map(Origins)
    }

    /// Adds the entry to a file that is being written.
    pub fn record(&self, archive: &mut Writer) {
        self.0.record(archive, KEY);
    }

    /// What is doubtful of volumes with these ids: those that were taken by force, and HU of several sources.
    pub fn doubts_of_volumes(&self, ids: &[String]) -> Vec<Doubt> {
        const FORCED: &str = "volumes are no plausible chest CTs and were taken with --force";
        let forced = self.forced(ids, FORCED, "correct their CTs and prepare them again, or take them out");
        forced.into_iter().chain(self.several_sources(ids)).collect()
    }

    /// What is doubtful of radiographs with these ids: those that were made by force.
    pub fn doubts_of_radiographs(&self, ids: &[String]) -> Vec<Doubt> {
        const FORCED: &str = "radiographs show nothing or no plausible chest CT and were made with --force";
        let forced = self.forced(ids, FORCED, "correct their CTs, or make them again without --force");
        forced.into_iter().collect()
    }

    /// The rows that were taken by force, where there are any; `are` says what they are.
    fn forced(&self, ids: &[String], are: &str, remedy: &'static str) -> Option<Doubt> {
        let forced: Vec<&String> =
            ids.iter().zip(self.0.rows()).filter(|(_, origin)| origin.forced).map(|(id, _)| id).collect();
        let what = || format!("{} of its {} {are}: {}", forced.len(), ids.len(), first_of(&forced));
        (!forced.is_empty()).then(|| Doubt { what: what(), remedy })
    }

    /// Where the HU of volumes come from, where that is not the same of all.
    fn several_sources(&self, ids: &[String]) -> Option<Doubt> {
        let mut sources: Vec<(&str, Vec<&String>)> = Vec::new();
        for (id, Origin { hu, .. }) in ids.iter().zip(self.0.rows()).filter(|(_, origin)| !origin.hu.is_empty()) {
            match sources.iter_mut().find(|(source, _)| source == hu) {
                Some((_, ids)) => ids.push(id),
                None => sources.push((hu, vec![id])),
            }
        }
        sources.sort_by_key(|(_, ids)| std::cmp::Reverse(ids.len()));
        let of_source = |(source, ids): &(&str, Vec<&String>)| format!("{source} ({}: {})", ids.len(), first_of(ids));
        let all = || sources.iter().map(of_source).collect::<Vec<_>>().join("; ");
        (sources.len() > 1).then(|| Doubt {
            what: format!("the HU of its volumes come from different sources: {}", all()),
            remedy: "prepare all volumes of a set in one way",
        })
    }
}
