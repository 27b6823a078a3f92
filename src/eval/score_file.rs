//! Scores of volumes as files: what an evaluation gave each of them, for every metric that is asked for later.
//!
//! # Format `x2ct-scores-1`
//! An [`Archive`] with the tensors `logits` [N, L] f64, whose sigmoid is the probability of presence, and `labels` [N, L] f32, 0 or 1.
//! Metadata: `ids`, a JSON array of N distinct strings; `names`, one of L label names; `provenance`, whose `settings` say how the
//! scores were made and whose `from` names the checkpoint, cache, radiographs or volumes and the labels behind them.
//!
//! Beside it lies the same as a table ([`ScoreFile::csv`]), which `x2ct metrics` reads like anybody's.

use std::path::Path;

use serde_json::json;

use crate::archive::{Archive, Writer};
use crate::data::id_table::IdTable;
use crate::data::provenance::{Content, Provenance};
use crate::data::rows;
use crate::error::{Error, Result};
use crate::table::{self, Keyed, first_of};

use super::zero_shot::probability;

const FORMAT: &str = "x2ct-scores-1";
const ADVICE: &str = "evaluate again";

/// Scores and labels of volumes. See the module's description.
#[derive(Clone, Debug, PartialEq)]
pub struct ScoreFile {
    /// The volumes, each once.
    pub ids: Vec<String>,
    /// Names of the labels.
    pub names: Vec<String>,
    /// `[ids, names]`; a logit's sigmoid is the probability.
    pub logits: Vec<f64>,
    /// `[ids, names]`.
    pub labels: Vec<bool>,
    /// How the scores were made, and of what.
    pub made: Provenance,
}

impl ScoreFile {
    /// Reads and verifies a file.
    ///
    /// # Errors
    /// A file that is absent, of another format, cut short or changed; an id twice; tensors of other shapes; values that are not
    /// finite; labels that are neither 0 nor 1; provenance of other content.
    pub fn read(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let archive = Archive::read(path, FORMAT, "scores", ADVICE)?;
        let refuse = |problem: String| Error::file(path, problem, ADVICE);
        let (ids, names): (Vec<String>, Vec<String>) = (archive.get_json("ids")?, archive.get_json("names")?);
        for (what, all) in [("id", &ids), ("label", &names)] {
            if let Some(twice) = rows::first_repeated(all) {
                return Err(refuse(format!("has the {what} {twice} twice")));
            }
        }
        let ((of_logits, logits), (of_labels, labels)) = (archive.f64("logits")?, archive.f32("labels")?);
        let shape = [ids.len(), names.len()];
        if of_logits != shape || of_labels != shape {
            let problem = format!(
                "logits are {of_logits:?} and labels {of_labels:?} for {} ids and {} labels",
                shape[0], shape[1]
            );
            return Err(refuse(problem));
        }
        let place = |at: usize| format!("row {}, column {}", ids[at / names.len()], names[at % names.len()]);
        if let Some(at) = logits.iter().position(|logit| !logit.is_finite()) {
            return Err(refuse(format!("{}: the score is {}, not a finite number", place(at), logits[at])));
        }
        if let Some(at) = labels.iter().position(|label| ![0.0, 1.0].contains(label)) {
            return Err(refuse(format!("{}: the label is {}, not 0 or 1", place(at), labels[at])));
        }
        rows::check("logits", &logits, names.len()).map_err(|e| e.of_file(path))?;
        let labels = labels.into_iter().map(|label| label == 1.0).collect();
        let found = ScoreFile { ids, names, logits, labels, made: Provenance::default() };
        let made = Provenance::read(&archive, &found.digest())?.unwrap_or_default();
        Ok(ScoreFile { made, ..found })
    }

    /// Writes the file, whole or not at all.
    pub fn write(&self, path: &Path) -> Result<()> {
        let labels: Vec<f32> = self.labels.iter().map(|&label| f32::from(u8::from(label))).collect();
        let shape = [self.ids.len(), self.names.len()];
        let mut archive = Writer::new(FORMAT);
        archive.set("ids", json!(self.ids).to_string());
        archive.set("names", json!(self.names).to_string());
        self.provenance().record(&mut archive);
        archive.put_f64("logits", &shape, &self.logits);
        archive.put_f32("labels", &shape, &labels);
        archive.write(path)
    }

    /// What the file holds and what it was made of.
    pub fn provenance(&self) -> Provenance {
        self.made.holding(self.digest(), self.ids.len())
    }

    /// BLAKE3 of ids, names, logits and labels.
    fn digest(&self) -> String {
        let mut content = Content::of("scores");
        self.ids.iter().chain(&self.names).for_each(|text| content.add(text));
        content.add(bytemuck::cast_slice::<f64, u8>(&self.logits));
        content.add(self.labels.iter().map(|&label| u8::from(label)).collect::<Vec<_>>());
        content.digest()
    }

    /// The logits of these labels, in their order, as a table by id; `path` is the file's.
    ///
    /// # Errors
    /// A label that the file does not have.
    pub fn table(&self, path: &Path, labels: &[String]) -> Result<IdTable<f64>> {
        let place = |label: &String| self.names.iter().position(|name| name == label);
        let missing: Vec<&String> = labels.iter().filter(|label| place(label).is_none()).collect();
        if !missing.is_empty() {
            let problem = format!("has no scores of {}, but of {}", first_of(missing), first_of(&self.names));
            return Err(Error::file(path, problem, "pass scores of the labels"));
        }
        let columns: Vec<usize> = labels.iter().filter_map(place).collect();
        let rows = self.logits.chunks_exact(self.names.len());
        let rows = rows.map(|row| columns.iter().map(|&column| row[column]).collect());
        let others = self.names.iter().filter(|name| !labels.contains(name)).cloned().collect();
        Ok(self.by_id(path, labels.to_vec(), rows, others))
    }

    /// The labels as a table by id; `path` is the file's.
    pub fn labels(&self, path: &Path) -> IdTable<bool> {
        let rows = self.labels.chunks_exact(self.names.len());
        self.by_id(path, self.names.clone(), rows.map(<[bool]>::to_vec), Vec::new())
    }

    fn by_id<T>(
        &self,
        path: &Path,
        names: Vec<String>,
        rows: impl Iterator<Item = Vec<T>>,
        others: Vec<String>,
    ) -> IdTable<T> {
        let rows = self.ids.iter().cloned().zip(rows.map(|row| (None, row))).collect();
        let rows = Keyed { order: self.ids.clone(), rows, bad: Vec::new() };
        IdTable { path: path.into(), names, rows, digest: self.digest(), others }
    }

    /// Probabilities of presence, `[ids, names]`.
    pub fn probabilities(&self) -> Vec<f64> {
        self.logits.iter().map(|&logit| probability(logit)).collect()
    }

    /// The probabilities as a table: the id, then a column a label.
    pub fn csv(&self) -> Result<String> {
        let header = std::iter::once("id".to_string()).chain(self.names.iter().cloned()).collect();
        let probabilities = self.probabilities();
        let rows = self.ids.iter().zip(probabilities.chunks_exact(self.names.len()));
        let rows = rows.map(|(id, row)| std::iter::once(id.clone()).chain(row.iter().map(f64::to_string)).collect());
        table::csv(std::iter::once(header).chain(rows))
    }
}
