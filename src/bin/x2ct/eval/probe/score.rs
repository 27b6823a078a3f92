//! Scores of a probe, their metrics, and the report.

use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::{Map, Value};
use x2ct::data::label_map::LabelMap;
use x2ct::data::rows;
use x2ct::eval::detection::{Detection, Problem};
use x2ct::eval::linear_probe::LinearProbe;
use x2ct::eval::score_file::ScoreFile;
use x2ct::eval::zero_shot::probability;
use x2ct::table::first_of;
use x2ct::{Device, Error};

use crate::chain::Chain;
use crate::eval::labelled::Labelled;
use crate::eval::scores;

use super::arguments::Measuring;

/// The labels of a probe that each label of the test set gets the largest score of.
pub struct Columns(Vec<Vec<usize>>);

impl Columns {
    /// Each label its own.
    pub fn identity(labels: usize) -> Self {
        Columns((0..labels).map(|label| vec![label]).collect())
    }

    /// Those of the names in a file's probe: its own labels where it has them all, else those that stand for them in a map.
    ///
    /// # Errors
    /// A label that the probe does not have.
    pub fn of(path: &Path, probe: &LinearProbe, names: &[String], map: Option<&LabelMap>) -> x2ct::Result<Self> {
        let place = |name: &String| probe.names.iter().position(|own| own == name);
        let own: Option<Vec<usize>> = names.iter().map(place).collect();
        if let Some(own) = own {
            return Ok(Columns(own.into_iter().map(|at| vec![at]).collect()));
        }
        let wanted = map.map_or(names.to_vec(), LabelMap::sources);
        let missing: Vec<&String> = wanted.iter().filter(|name| place(name).is_none()).collect();
        if !missing.is_empty() {
            let problem = format!("has no scores of {}, but of {}", first_of(missing), first_of(&probe.names));
            return Err(Error::file(path, problem, "pass a probe of the labels, or a --map that they stand in"));
        }
        let of = |sources: &Vec<String>| sources.iter().filter_map(place).collect();
        Ok(Columns(map.map(|map| map.labels.iter().map(|label| of(&label.of)).collect()).unwrap_or_default()))
    }

    fn merge(&self, logits: &[f32], labels: usize) -> Vec<f64> {
        let largest =
            |row: &[f32], of: &[usize]| of.iter().map(|&at| f64::from(row[at])).fold(f64::NEG_INFINITY, f64::max);
        logits.chunks_exact(labels).flat_map(|row| self.0.iter().map(|of| largest(row, of))).collect()
    }
}

/// What is said of one probe on its test set.
#[derive(Serialize)]
pub struct Row {
    #[serde(flatten)]
    pub course: Map<String, Value>,
    /// The archive of the scores.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scores: Option<PathBuf>,
    #[serde(flatten)]
    pub found: Detection,
}

/// Scores of a probe on a test set, and where they are written.
pub struct Scoring<'a> {
    /// Where.
    pub device: &'a Device,
    /// Whose largest score each label gets.
    pub columns: &'a Columns,
    /// Seed and intervals.
    pub measuring: &'a Measuring,
}

impl Scoring<'_> {
    /// Scores a test set, writes the scores where `name` says, and measures them. `settings` say how they were made.
    pub fn row(
        &self,
        probe: &LinearProbe,
        test: &Labelled,
        (settings, course): (Map<String, Value>, Map<String, Value>),
        name: Option<&Path>,
        chain: &Chain,
    ) -> anyhow::Result<Row> {
        let logits = self.columns.merge(&probe.logits(self.device, &test.features.features)?, probe.names.len());
        rows::check("scores", &logits, test.names.len())?;
        if let Some(name) = name {
            let mut made = chain.provenance(settings);
            made.from.insert("probe".into(), probe.provenance());
            let file = ScoreFile {
                ids: test.features.ids.clone(),
                names: test.names.clone(),
                logits: logits.clone(),
                labels: test.labels.clone(),
                made,
            };
            scores::write(name, &file)?;
        }
        let probabilities: Vec<f64> = logits.iter().map(|&logit| probability(logit)).collect();
        let problem = Problem {
            names: &test.names,
            patients: &test.patients,
            labels: &test.labels,
            scores: &logits,
            probabilities: Some(&probabilities),
        };
        let bootstrap = self.measuring.intervals.bootstrap(self.measuring.seed)?;
        let found = Detection::of(&problem, bootstrap.as_ref())?;
        let [archive, _] = name.map(scores::files).map_or([None, None], |files| files.map(Some));
        Ok(Row { course, scores: archive, found })
    }
}
