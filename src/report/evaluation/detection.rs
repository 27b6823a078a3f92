//! Detection: the metrics of each score file, in a row a file and in a row a label.

use std::collections::HashMap;

use super::super::sheet::missing;
use super::super::table::{Better, Cell, Column, Row, Table};
use super::compare::Compared;
use super::{Named, counted};
use crate::Result;
use crate::data::ct_rate::VolumeName;
use crate::eval::bootstrap::{Bootstrap, Interval};
use crate::eval::calibration;
use crate::eval::detection::{Detection, Differences, Problem};
use crate::eval::score_file::ScoreFile;
use crate::eval::zero_shot::probability;

/// A score file and its metrics.
pub struct Scored<'a> {
    pub name: &'a str,
    pub file: &'a ScoreFile,
    /// `[ids, names]`.
    pub probabilities: Vec<f64>,
    pub detection: Detection,
    /// Intervals of the differences to the first file of the test set; none without a bootstrap.
    pub differences: Differences,
    /// The place of its test set among all: files of equal volumes, labels and truth.
    pub test_set: usize,
}

/// How often a label was there and found, at one cut.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Confusion {
    pub hits: usize,
    pub false_alarms: usize,
    pub misses: usize,
    pub rejections: usize,
}

impl Confusion {
    /// Share of what is there that is found.
    pub fn sensitivity(&self) -> Option<f64> {
        ratio(self.hits, self.hits + self.misses)
    }

    /// Share of what is not there that is passed over.
    pub fn specificity(&self) -> Option<f64> {
        ratio(self.rejections, self.rejections + self.false_alarms)
    }
}

fn ratio(part: usize, whole: usize) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

impl<'a> Scored<'a> {
    /// Every file with its metrics, test set by test set.
    pub fn all(files: &'a [Named<ScoreFile>], bootstrap: Option<&Bootstrap>) -> Result<Vec<Self>> {
        let mut sets: Vec<Vec<&Named<ScoreFile>>> = Vec::new();
        for file in files {
            match sets.iter_mut().find(|set| is_alike(&set[0].of, &file.of)) {
                Some(set) => set.push(file),
                None => sets.push(vec![file]),
            }
        }
        let scored = sets.iter().enumerate().map(|(at, set)| Self::of_test_set(at, set, bootstrap));
        Ok(scored.collect::<Result<Vec<_>>>()?.into_iter().flatten().collect())
    }

    /// The files of one test set, which are drawn together.
    fn of_test_set(
        test_set: usize,
        files: &[&'a Named<ScoreFile>],
        bootstrap: Option<&Bootstrap>,
    ) -> Result<Vec<Self>> {
        let probabilities: Vec<Vec<f64>> = files.iter().map(|file| file.of.probabilities()).collect();
        let patients: Vec<String> = files[0].of.ids.iter().map(|id| VolumeName::patient_of(id)).collect();
        let problems = files.iter().zip(&probabilities).map(|(file, probabilities)| Problem {
            names: &file.of.names,
            patients: &patients,
            labels: &file.of.labels,
            scores: &file.of.logits,
            probabilities: Some(probabilities),
        });
        let found = match bootstrap {
            Some(bootstrap) => Detection::of_several(&problems.collect::<Vec<_>>(), bootstrap)?,
            None => problems
                .map(|problem| Ok((Detection::of(&problem, None)?, Differences::new())))
                .collect::<Result<_>>()?,
        };
        let parts = files.iter().zip(probabilities).zip(found);
        let scored = parts.map(|((file, probabilities), (detection, differences))| {
            let Named { name, of: file } = file;
            Scored { name, file, probabilities, detection, differences, test_set }
        });
        Ok(scored.collect())
    }

    /// The patient of each volume.
    pub fn patients(&self) -> Vec<String> {
        self.file.ids.iter().map(|id| VolumeName::patient_of(id)).collect()
    }

    /// What its metrics are of.
    pub fn problem<'p>(&'p self, patients: &'p [String]) -> Problem<'p> {
        let ScoreFile { names, labels, logits: scores, .. } = self.file;
        Problem { names, patients, labels, scores, probabilities: Some(&self.probabilities) }
    }

    /// Truth and logits of one label.
    pub fn label(&self, at: usize) -> (Vec<bool>, Vec<f64>) {
        let of = |row: usize| row * self.file.names.len() + at;
        (0..self.file.ids.len()).map(|row| (self.file.labels[of(row)], self.file.logits[of(row)])).unzip()
    }

    /// What a label's logits above, or from, a threshold predict.
    pub fn confusion(&self, at: usize, is_found: impl Fn(f64) -> bool) -> Confusion {
        let mut counts = Confusion::default();
        let (truth, logits) = self.label(at);
        for (truth, logit) in truth.into_iter().zip(logits) {
            *match (truth, is_found(logit)) {
                (true, true) => &mut counts.hits,
                (true, false) => &mut counts.misses,
                (false, true) => &mut counts.false_alarms,
                (false, false) => &mut counts.rejections,
            } += 1;
        }
        counts
    }

    /// The counts of a label where probabilities above one half are presence.
    pub fn at_half(&self, at: usize) -> Confusion {
        self.confusion(at, |logit| probability(logit) > 0.5)
    }

    /// The probability from which on a label is found at Youden's point, and its counts there.
    pub fn at_youden(&self, at: usize) -> Option<(f64, Confusion)> {
        let cut = self.detection.labels[at].youden.as_ref()?;
        Some((cut.threshold, self.confusion(at, |logit| logit >= cut.score)))
    }
}

/// Whether both are of the very same volumes, labels and truth, so that their figures can be compared.
fn is_alike(a: &ScoreFile, b: &ScoreFile) -> bool {
    (&a.ids, &a.names, &a.labels) == (&b.ids, &b.names, &b.labels)
}

/// The files of each test set.
pub fn test_sets<'s, 'a>(scored: &'s [Scored<'a>]) -> impl Iterator<Item = &'s [Scored<'a>]> {
    scored.chunk_by(|a, b| a.test_set == b.test_set)
}

/// The name of a test set's table: that of the first has no number.
pub fn table_name(name: &str, of_set: &[Scored]) -> String {
    match of_set[0].test_set {
        0 => name.into(),
        at => format!("{name}-{}", at + 1),
    }
}

const NONE: &str = "There are no scores: add a folder with what `x2ct eval --scores NAME` writes (NAME.safetensors).";

pub fn body(
    scored: &[Scored],
    compared: &[Compared],
    bootstrap: Option<&Bootstrap>,
    keep: &mut dyn FnMut(Table) -> String,
) -> String {
    if scored.is_empty() {
        return missing(NONE);
    }
    let mut out = String::new();
    if test_sets(scored).count() > 1 {
        out += "<p>Files of other volumes, labels or truth stand in tables of their own: their figures do not compare.</p>";
    }
    test_sets(scored).for_each(|of_set| out += &keep(overview(of_set, compared, bootstrap)));
    if bootstrap.is_none() {
        out += &missing("Intervals are left out: --bootstrap above 0 adds them.");
    }
    for (at, of_file) in scored.iter().enumerate() {
        out += &keep(per_label(of_file, at));
        out += &keep(confusions(of_file, at));
    }
    out
}

/// A value with its interval, where it has them.
pub fn cell(value: Option<f64>, interval: Option<Interval>) -> Cell {
    let cell = match value {
        Some(value) => Cell::of(value),
        None => Cell::missing("Not defined: one of the classes is absent."),
    };
    interval.map_or(cell.clone(), |Interval { low, high, .. }| cell.within([low, high]))
}

/// Says how intervals were drawn.
pub fn drawn(bootstrap: Option<&Bootstrap>) -> String {
    bootstrap.map_or(String::new(), |Bootstrap { replicates, level, .. }| {
        format!(" Intervals of {:.0} % from {replicates} bootstrap resamples of patients.", 100.0 * level)
    })
}

/// A row a file of one test set.
fn overview(scored: &[Scored], compared: &[Compared], bootstrap: Option<&Bootstrap>) -> Table {
    const COLUMNS: [(&str, &str, &str); 9] = [
        ("auc_micro", "All cells pooled (micro)", "AUC"),
        ("ap_micro", "All cells pooled (micro)", "PR"),
        ("auc_macro", "Mean of labels (macro)", "AUC"),
        ("ap_macro", "Mean of labels (macro)", "PR"),
        ("f1_weighted", "Cut at one half", "F1"),
        ("accuracy", "Cut at one half", "Accuracy"),
        ("precision_micro", "Cut at one half", "Precision"),
        ("recall_micro", "Cut at one half", "Recall"),
        ("", "Calibration", "ECE"),
    ];
    let columns = COLUMNS.map(|(name, group, title)| {
        let better = if name.is_empty() { Better::Lower } else { Better::Higher };
        Column::new(title).of([group]).better(better)
    });
    let row = |of_file: &Scored| {
        let Detection { summary, intervals, calibration, .. } = &of_file.detection;
        let values: HashMap<&str, Option<f64>> =
            crate::eval::detection::SUMMARY.into_iter().zip(summary.values()).collect();
        let mut cells: Vec<Cell> =
            COLUMNS[..8].iter().map(|(name, ..)| cell(values[name], intervals.get(name).copied().flatten())).collect();
        let test = compared.iter().find(|compared| compared.scored.name == of_file.name);
        cells[0].p = test.and_then(|compared| compared.p());
        cells.push(cell(calibration.as_ref().map(|c| c.ece), None));
        Row::new(of_file.name, cells)
    };
    let Detection { samples, patients, prevalence, .. } = scored[0].detection;
    let labels = scored[0].file.names.len();
    let by_chance = [0.5, prevalence, 0.5].map(Cell::of).into_iter().chain((3..9).map(|_| Cell::default()));
    let several = scored.len() > 1;
    let reference = if several { format!(" p is of the difference to {}.", scored[0].name) } else { String::new() };
    Table {
        name: table_name("detection", scored),
        title: match scored[0].test_set {
            0 => "Detection.".into(),
            at => format!("Detection, test set {}.", at + 1),
        },
        caption: format!(
            "{} of {}, {}. AUC: area under the ROC curve; PR: average precision; F1 is weighted by the labels' positives, precision and \
             recall are pooled.{reference}{}",
            counted(samples, "volume", "volumes"),
            counted(patients, "patient", "patients"),
            counted(labels, "label", "labels"),
            drawn(bootstrap)
        ),
        heads: ["Scores".into(), String::new()],
        against: several.then(|| format!("{} (DeLong, pooled cells, Holm)", scored[0].name)),
        columns: columns.to_vec(),
        rows: scored.iter().map(row).chain([Row::new("Chance", by_chance.collect()).reference()]).collect(),
    }
}

/// A row a label.
fn per_label(of_file: &Scored, at: usize) -> Table {
    let columns = vec![
        Column::new("Positives").digits(0).better(Better::Neither),
        Column::new("AUC").better(Better::Neither),
        Column::new("PR").better(Better::Neither),
        Column::new("AUC, DeLong").better(Better::Neither),
        Column::new("ECE").better(Better::Neither),
    ];
    let rows = of_file.detection.labels.iter().enumerate().map(|(label, found)| {
        let (truth, logits) = of_file.label(label);
        let probabilities: Vec<f64> = logits.into_iter().map(probability).collect();
        let ece = calibration::reliability(&truth, &probabilities, 10).ok().map(|reliability| reliability.ece);
        let delong = match found.auc_delong {
            Some(area) => Cell { value: Some(area.auc), interval: area.interval, ..Cell::default() },
            None => Cell::missing("DeLong's interval needs two of each class."),
        };
        let auc = cell(found.auc, found.auc_interval);
        let ap = cell(found.ap, found.ap_interval);
        Row::new(&found.name, vec![Cell::of(found.positives as f64), auc, ap, delong, cell(ece, None)])
    });
    Table {
        name: format!("labels-{}", at + 1),
        title: format!("{}: each label.", of_file.name),
        caption: "ECE: expected calibration error in ten bins.".into(),
        heads: ["Label".into(), String::new()],
        against: None,
        columns,
        rows: rows.collect(),
    }
}

/// A row a label: what is found and missed at one half and at Youden's point.
fn confusions(of_file: &Scored, at: usize) -> Table {
    const COUNTS: [&str; 4] = ["TP", "FP", "FN", "TN"];
    let group = |name: &'static str| {
        let counts = COUNTS.map(|count| Column::new(count).of([name]).digits(0).better(Better::Neither));
        let rates = ["Sens.", "Spec."].map(|rate| Column::new(rate).of([name]).better(Better::Neither));
        counts.into_iter().chain(rates)
    };
    let youden = "At Youden's point";
    let threshold = Column::new("From").of([youden]).better(Better::Neither);
    let cells = |Confusion { hits, false_alarms, misses, rejections }: Confusion| {
        [hits, false_alarms, misses, rejections].map(|count| Cell::of(count as f64))
    };
    let rates = |counts: Confusion| [counts.sensitivity(), counts.specificity()].map(|rate| cell(rate, None));
    let rows = of_file.file.names.iter().enumerate().map(|(label, name)| {
        let half = of_file.at_half(label);
        let mut row: Vec<Cell> = cells(half).into_iter().chain(rates(half)).collect();
        match of_file.at_youden(label) {
            Some((threshold, counts)) => {
                // Infinite where the best is to find nothing.
                row.push(if threshold.is_finite() { Cell::of(threshold) } else { Cell::of(1.0) });
                row.extend(cells(counts).into_iter().chain(rates(counts)));
            }
            None => row.extend((0..7).map(|_| cell(None, None))),
        }
        Row::new(name, row)
    });
    Table {
        name: format!("confusion-{}", at + 1),
        title: format!("{}: what is found and missed.", of_file.name),
        caption:
            "TP: found; FP: false alarms; FN: missed; TN: rightly passed over. At one half: a probability above 0.5 is \
             presence. Youden's point has the largest sum of sensitivity and specificity, with presence from the probability given \
             on; it was chosen on these very volumes."
                .into(),
        heads: ["Label".into(), String::new()],
        against: None,
        columns: group("At one half").chain([threshold]).chain(group(youden)).collect(),
        rows: rows.collect(),
    }
}
