//! Detection of labels by scores: every metric, with bootstrap intervals over patients, and the comparison of two sets of scores.

use std::collections::BTreeMap;

use serde::Serialize;

use super::bootstrap::{Bootstrap, Interval};
use super::calibration::{self, Reliability};
use super::delong::{self, Area};
use super::metrics::{MultiLabel, OperatingPoint, Ranked, Rates, threshold};
use crate::error::{Error, Result};

/// Bins of reliability curves.
const BINS: usize = 10;

/// Labels and scores of the same samples.
#[derive(Clone, Copy)]
pub struct Problem<'a> {
    /// Names of the labels.
    pub names: &'a [String],
    /// The patient of each sample.
    pub patients: &'a [String],
    /// `[samples, labels]`.
    pub labels: &'a [bool],
    /// What ranks are taken of, `[samples, labels]`: logits where there are some, whose order no rounding to 1 spoils.
    pub scores: &'a [f64],
    /// The probabilities of presence, `[samples, labels]`, where the scores are or have some.
    pub probabilities: Option<&'a [f64]>,
}

/// The scores, if all of them can be probabilities.
pub fn as_probabilities(scores: &[f64]) -> Option<&[f64]> {
    scores.iter().all(|p| (0.0..=1.0).contains(p)).then_some(scores)
}

/// Metrics of one set of scores. Those cut at one half, and calibration, are `None` where there are no probabilities.
#[derive(Clone, Debug, Serialize)]
pub struct Detection {
    /// Number of samples.
    pub samples: usize,
    /// Number of patients.
    pub patients: usize,
    /// Share of positive cells: what a random order's average precision is.
    pub prevalence: f64,
    /// Labels with both classes present.
    pub labels_defined: usize,
    #[serde(flatten)]
    pub summary: Summary,
    /// Intervals of the summary, by the names of its fields; `None` where there is no interval.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub intervals: BTreeMap<&'static str, Option<Interval>>,
    /// Of all cells.
    pub calibration: Option<Reliability>,
    /// Each label by itself.
    pub labels: Vec<LabelDetection>,
}

/// One number for each metric; `None` where it is not defined.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    /// Mean area under the ROC curve over the labels that have one.
    pub auc_macro: Option<f64>,
    /// Area under the ROC curve of all cells pooled.
    pub auc_micro: Option<f64>,
    /// Mean average precision over the labels that have one.
    pub ap_macro: Option<f64>,
    /// Average precision of all cells pooled.
    pub ap_micro: Option<f64>,
    /// F1 per label, weighted by the label's number of positives.
    pub f1_weighted: Option<f64>,
    /// Mean F1 of the labels.
    pub f1_macro: Option<f64>,
    /// F1 of all cells pooled.
    pub f1_micro: Option<f64>,
    /// Share of right cells.
    pub accuracy: Option<f64>,
    /// TP / (TP + FP) over all cells.
    pub precision_micro: Option<f64>,
    /// TP / (TP + FN) over all cells.
    pub recall_micro: Option<f64>,
}

/// One label.
#[derive(Clone, Debug, Serialize)]
pub struct LabelDetection {
    /// Its name.
    pub name: String,
    /// Samples that have it.
    pub positives: usize,
    /// Area under the ROC curve.
    pub auc: Option<f64>,
    /// Average precision.
    pub ap: Option<f64>,
    /// Bootstrap interval of `auc`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auc_interval: Option<Interval>,
    /// Bootstrap interval of `ap`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ap_interval: Option<Interval>,
    /// DeLong's interval of the area, which takes samples as independent.
    pub auc_delong: Option<Area>,
    /// Probabilities cut at one half, which itself is absence.
    pub at_half: Option<Rates>,
    /// Cut where sensitivity + specificity is largest; absent where only one class occurs.
    pub youden: Option<Cut>,
}

/// Where a label is cut, and what that predicts. Where to find nothing is best both numbers are infinite, `"inf"` as JSON.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Cut {
    /// Probabilities from here on predict presence; of scores that are no probabilities and have none, scores.
    #[serde(serialize_with = "threshold")]
    pub threshold: f64,
    /// The score, such as a logit, that ranks were taken of: where several are rounded to one probability, the sharper number.
    #[serde(serialize_with = "threshold")]
    pub score: f64,
    /// What that predicts.
    #[serde(flatten)]
    pub rates: Rates,
}

/// The fields of a [`Summary`], in order.
pub const SUMMARY: [&str; 10] = [
    "auc_macro",
    "auc_micro",
    "ap_macro",
    "ap_micro",
    "f1_weighted",
    "f1_macro",
    "f1_micro",
    "accuracy",
    "precision_micro",
    "recall_micro",
];

impl Summary {
    /// Values of the fields, in the order of [`SUMMARY`].
    pub fn values(&self) -> [Option<f64>; SUMMARY.len()] {
        [
            self.auc_macro,
            self.auc_micro,
            self.ap_macro,
            self.ap_micro,
            self.f1_weighted,
            self.f1_macro,
            self.f1_micro,
            self.accuracy,
            self.precision_micro,
            self.recall_micro,
        ]
    }
}

/// One set of scores, ranked.
struct Cells<'a> {
    ranked: Ranked,
    probabilities: Option<MultiLabel<'a, f64>>,
}

/// What a draw gives: the summary, then area and average precision of each label.
struct Measured {
    summary: Summary,
    auc: Vec<Option<f64>>,
    ap: Vec<Option<f64>>,
    defined: usize,
}

impl Measured {
    /// The summary, then the areas, then the average precisions.
    fn values(&self) -> impl Iterator<Item = Option<f64>> {
        self.summary.values().into_iter().chain(self.auc.iter().copied()).chain(self.ap.iter().copied())
    }
}

impl<'a> Cells<'a> {
    fn new(problem: &Problem<'a>) -> Result<Self> {
        let of = |scores| MultiLabel::new(problem.labels, scores, problem.names.len());
        let cells = of(problem.scores)?;
        if problem.patients.len() != cells.samples() {
            let says = format!("{} patients for {} samples", problem.patients.len(), cells.samples());
            return Err(Error::argument("patients", says, "pass one a sample"));
        }
        Ok(Cells { ranked: cells.ranked(), probabilities: problem.probabilities.map(of).transpose()? })
    }

    fn measure(&self, weights: &[u32]) -> Measured {
        let [auc, ap] = self.ranked.areas(weights);
        let cut = self.probabilities.map(|cells| cells.cut_weighted(0.5, weights));
        let of = |value: fn(&super::metrics::Thresholded) -> Option<f64>| cut.as_ref().and_then(value);
        let summary = Summary {
            auc_macro: auc.macro_mean,
            auc_micro: auc.micro,
            ap_macro: ap.macro_mean,
            ap_micro: ap.micro,
            f1_weighted: of(|cut| cut.f1_weighted),
            f1_macro: of(|cut| Some(cut.f1_macro)),
            f1_micro: of(|cut| cut.f1_micro),
            accuracy: of(|cut| Some(cut.accuracy)),
            precision_micro: of(|cut| cut.precision_micro),
            recall_micro: of(|cut| cut.recall_micro),
        };
        Measured { summary, auc: auc.per_label, ap: ap.per_label, defined: auc.defined }
    }
}

impl Detection {
    /// All metrics; with `bootstrap` also their intervals.
    ///
    /// # Errors
    /// Empty or ragged input, scores that are not finite, settings of the bootstrap outside their ranges.
    pub fn of(problem: &Problem, bootstrap: Option<&Bootstrap>) -> Result<Self> {
        let cells = Cells::new(problem)?;
        let drawn = bootstrap.map(|bootstrap| {
            let found = bootstrap.intervals(problem.patients, |weights| cells.measure(weights).values().collect())?;
            Ok::<_, Error>((bootstrap, found.into_iter().map(Result::ok).collect()))
        });
        Self::assemble(problem, &cells, drawn.transpose()?)
    }

    /// Several sets of scores of the same samples, each by itself as [`Self::of`] has it, and the intervals of what it is more than
    /// the first; all on the same draws, so that none is measured twice. The first has no differences.
    ///
    /// # Errors
    /// Those of [`Self::of`]; other labels, names or patients than the first's.
    pub fn of_several(problems: &[Problem], bootstrap: &Bootstrap) -> Result<Vec<(Self, Differences)>> {
        let Some(first) = problems.first() else { return Ok(Vec::new()) };
        problems.iter().try_for_each(|problem| expect_same_samples(first, problem))?;
        let cells = problems.iter().map(Cells::new).collect::<Result<Vec<_>>>()?;
        let found = bootstrap.intervals(first.patients, |weights| {
            let measured: Vec<Measured> = cells.iter().map(|cells| cells.measure(weights)).collect();
            let less = |other: &Measured| difference(&other.summary, &measured[0].summary);
            let differences: Vec<_> = measured.iter().map(less).collect();
            measured.iter().flat_map(Measured::values).chain(differences.into_iter().flatten()).collect()
        })?;
        let mut found = found.into_iter().map(Result::ok);
        let each = SUMMARY.len() + 2 * first.names.len();
        let own: Vec<Vec<Option<Interval>>> = problems.iter().map(|_| found.by_ref().take(each).collect()).collect();
        let all = problems.iter().zip(&cells).zip(own).enumerate().map(|(at, ((problem, cells), own))| {
            let differences: Differences = SUMMARY.into_iter().zip(found.by_ref().take(SUMMARY.len())).collect();
            let differences = if at == 0 { BTreeMap::new() } else { differences };
            Ok((Self::assemble(problem, cells, Some((bootstrap, own)))?, differences))
        });
        all.collect()
    }

    /// The metrics with the intervals of what [`Measured::values`] lists.
    fn assemble(problem: &Problem, cells: &Cells, drawn: Option<(&Bootstrap, Vec<Option<Interval>>)>) -> Result<Self> {
        let ones = vec![1; problem.patients.len()];
        let Measured { summary, auc, ap, defined } = cells.measure(&ones);
        let classes = problem.names.len();
        let (mut intervals, mut of_labels) = (BTreeMap::new(), vec![[None; 2]; classes]);
        let level = drawn.as_ref().map_or(0.95, |(bootstrap, _)| bootstrap.level);
        if let Some((_, found)) = drawn {
            let (of_summary, rest) = found.split_at(SUMMARY.len());
            intervals = SUMMARY.into_iter().zip(of_summary.iter().copied()).collect();
            of_labels = (0..classes).map(|label| [rest[label], rest[classes + label]]).collect();
        }
        let at_half = cells.probabilities.map(|cells| cells.cut_at(0.5).per_label);
        let youden = cells.ranked.youden(&ones);
        let labels = (0..classes).map(|label| {
            let column = |at: usize| at * classes + label;
            let truth: Vec<bool> = (0..ones.len()).map(|at| problem.labels[column(at)]).collect();
            let scores: Vec<f64> = (0..ones.len()).map(|at| problem.scores[column(at)]).collect();
            let cut = |OperatingPoint { threshold: score, rates }: OperatingPoint| {
                let place = scores.iter().position(|&other| other == score).map(column);
                let threshold = place.zip(problem.probabilities).map_or(score, |(place, p)| p[place]);
                Cut { threshold, score, rates }
            };
            LabelDetection {
                name: problem.names[label].clone(),
                positives: truth.iter().filter(|&&present| present).count(),
                auc: auc[label],
                ap: ap[label],
                auc_interval: of_labels[label][0],
                ap_interval: of_labels[label][1],
                // Fewer than two of a class leave no variance.
                auc_delong: delong::area(&truth, &scores, level).ok(),
                at_half: at_half.as_ref().map(|rates| rates[label].clone()),
                youden: youden[label].clone().map(cut),
            }
        });
        let calibrated = problem.probabilities.map(|p| calibration::reliability(problem.labels, p, BINS));
        let positives = problem.labels.iter().filter(|&&present| present).count();
        let patients: std::collections::HashSet<&String> = problem.patients.iter().collect();
        Ok(Detection {
            samples: ones.len(),
            patients: patients.len(),
            prevalence: positives as f64 / problem.labels.len() as f64,
            labels_defined: defined,
            summary,
            intervals,
            calibration: calibrated.transpose()?,
            labels: labels.collect(),
        })
    }
}

/// For each label the sensitivity at `parts + 1` even false positive rates from 0 to 1 with its interval, as an ROC curve's band; none
/// where there is no interval.
///
/// # Errors
/// Those of [`Detection::of`].
pub fn roc_bands(problem: &Problem, parts: usize, bootstrap: &Bootstrap) -> Result<Vec<Vec<(f64, Interval)>>> {
    let cells = Cells::new(problem)?;
    let points = parts + 1;
    let found = bootstrap.intervals(problem.patients, |weights| {
        let curves = cells.ranked.sensitivities(weights, parts);
        let all =
            |curve: Option<Vec<f64>>| curve.map_or(vec![None; points], |curve| curve.into_iter().map(Some).collect());
        curves.into_iter().flat_map(all).collect()
    })?;
    let rates = (0..points).map(|part| part as f64 / parts as f64).cycle();
    let found: Vec<_> = rates.zip(found).map(|(rate, found)| Some((rate, found.ok()?))).collect();
    Ok(found.chunks(points).map(|label| label.iter().flatten().copied().collect()).collect())
}

/// Intervals of differences, by the names of [`Summary`]'s fields; `None` where there is no interval.
pub type Differences = BTreeMap<&'static str, Option<Interval>>;

/// The first less the second, field by field.
fn difference(first: &Summary, second: &Summary) -> Vec<Option<f64>> {
    first.values().into_iter().zip(second.values()).map(|(a, b)| Some(a? - b?)).collect()
}

fn expect_same_samples(first: &Problem, second: &Problem) -> Result<()> {
    if (first.names, first.patients, first.labels) == (second.names, second.patients, second.labels) {
        return Ok(());
    }
    let problem = "are of other samples or labels than the first";
    Err(Error::argument("second scores", problem, "pass scores of the same samples and labels"))
}
