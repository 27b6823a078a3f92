//! `x2ct metrics LABELS.csv SCORES.csv`: how well anybody's scores detect labels.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde::Serialize;
use x2ct::content::Content;
use x2ct::data::ct_rate::VolumeName;
use x2ct::data::id_table::IdTable;
use x2ct::data::label_map::LabelMap;
use x2ct::eval::bootstrap::{Bootstrap, Interval};
use x2ct::eval::delong::{self, DeLong};
use x2ct::eval::detection::{self, Detection, Differences, Problem, SUMMARY};
use x2ct::eval::score_file::ScoreFile;
use x2ct::eval::zero_shot;
use x2ct::table::first_of;
use x2ct::{Error, files};

use crate::Common;
use crate::arguments::{count, within};
use crate::chain::{Chain, Trust};
use crate::effect::{self, Rule};
use crate::label_table;
use crate::output::{Report, usage};
use crate::terminal::print_table;

/// Metrics of scores against labels, and whether further scores differ from the first
///
/// All tables: the first column is the id, the header names the labels; labels are 0 or 1. Scores are probabilities of presence; of
/// other numbers, such as logits, ranks are taken and nothing that is cut at one half. Scores may also be what `x2ct eval --scores`
/// wrote: ranks are then taken of logits. Tables are joined by id and label, in
/// whatever order they have them. An id without a usable row in each of them is left out of all metrics and named; the exit code
/// is then 1.
///
/// RadChest-CT's tables of abnormalities and locations are taken as labels too: an abnormality is present where it is at any location.
///
/// Intervals are drawn by patient: ids named as CT-RATE's volumes (train_1_a_1) are of one patient where they begin alike, other
/// ids are one patient each.
#[derive(clap::Args)]
pub struct MetricsArgs {
    /// Table of labels
    labels: PathBuf,
    /// Table of scores
    scores: PathBuf,
    /// Further tables of scores, compared with the first
    more: Vec<PathBuf>,
    /// Scores are of another data set's labels, which stand for these by a map: radchest, mimic, or a TOML file; the largest score of
    /// the labels that one stands for is its own
    #[arg(long, value_name = "MAP")]
    map: Option<PathBuf>,
    #[command(flatten)]
    options: Options,
}

/// How intervals are drawn.
#[derive(clap::Args)]
pub struct Intervals {
    /// Resamples for intervals; 0 for none
    #[arg(long, default_value_t = 1000, value_parser = count(0..=1_000_000))]
    bootstrap: usize,
    /// Coverage of intervals
    #[arg(long, default_value_t = 0.95, value_parser = within(0.5, 0.9999))]
    level: f64,
}

impl Intervals {
    /// The bootstrap that draws them; `None` where none are asked for.
    ///
    /// # Errors
    /// A level without resamples; fewer resamples than leave one in each tail of an interval: its ends would say nothing.
    pub fn bootstrap(&self, seed: u64) -> anyhow::Result<Option<Bootstrap>> {
        let &Intervals { bootstrap, level } = self;
        effect::check(&[Rule::new("level", bootstrap > 0, "--bootstrap above 0")])?;
        // Of a level such as 0.95, 1 - 0.95 is a little more than 0.05.
        let least = (2.0 / (1.0 - level) - 1e-6).ceil() as usize;
        if (1..least).contains(&bootstrap) {
            let says = format!(
                "--bootstrap {bootstrap} is too few for intervals of {level}: give {least} or more, or 0 for none"
            );
            return Err(usage(says));
        }
        Ok((bootstrap > 0).then_some(Bootstrap { replicates: bootstrap, level, seed }))
    }
}

/// How intervals are drawn, and what is taken on trust.
#[derive(clap::Args)]
pub struct Options {
    #[command(flatten)]
    intervals: Intervals,
    /// Seed of the resamples
    #[arg(long, default_value_t = 1024)]
    seed: u64,
    #[command(flatten)]
    pub trust: Trust,
}

impl Options {
    /// How to resample, if at all.
    ///
    /// # Errors
    /// A seed without resamples; too few resamples for the level.
    pub fn bootstrap(&self) -> anyhow::Result<Option<Bootstrap>> {
        effect::check(&[Rule::new("seed", self.intervals.bootstrap > 0, "--bootstrap above 0")])?;
        self.intervals.bootstrap(self.seed)
    }
}

/// The first scores against further ones, on pooled cells, which DeLong's test takes as independent.
#[derive(Serialize)]
pub struct Comparison {
    /// Area under the ROC curve of the further scores.
    auc: f64,
    /// That of the first scores.
    auc_first: f64,
    /// Absolute difference over its standard error.
    z: f64,
    /// Two-tailed p value.
    p: f64,
    /// Natural logarithm of the p value.
    ln_p: f64,
    /// The p value corrected for the number of comparisons (Holm).
    p_holm: f64,
    /// Bootstrap intervals of the differences, the first less the further, drawn by patient.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    differences: Differences,
}

/// Labels and all scores of the ids that have both.
struct Joined {
    names: Vec<String>,
    patients: Vec<String>,
    labels: Vec<bool>,
    /// The scores of each file.
    scores: Vec<Scores>,
}

/// Scores of one file, `[ids, names]`.
struct Scores {
    /// Numbers whose order ranks are taken of.
    ranked: Vec<f64>,
    /// Those that are probabilities of presence.
    probabilities: Option<Vec<f64>>,
}

impl Joined {
    /// What the scores of one file are measured on.
    fn problem(&self, file: usize) -> Problem<'_> {
        let Joined { names, patients, labels, scores } = self;
        let Scores { ranked, probabilities } = &scores[file];
        Problem { names, patients, labels, scores: ranked, probabilities: probabilities.as_deref() }
    }
}

pub fn run(args: MetricsArgs, common: &Common) -> anyhow::Result<ExitCode> {
    let files: Vec<&Path> = std::iter::once(&args.scores).chain(&args.more).map(PathBuf::as_path).collect();
    let map = args.map.as_deref().map(LabelMap::open).transpose()?;
    let names = map.as_ref().map(LabelMap::names);
    let labels = |chain: &mut Chain| {
        files.iter().try_for_each(|file| expect_no_labels(&args.labels, file))?;
        label_table::read(&args.labels, names.as_deref(), chain)
    };
    measure(("metrics", Chain::report_digests), labels, &files, map.as_ref(), &args.options, common)
}

/// Refuses scores that are the very labels: every one would be right.
fn expect_no_labels(labels: &Path, scores: &Path) -> x2ct::Result<()> {
    let is_same = files::resolved(labels) == files::resolved(scores)
        || matches!((files::read(labels), files::read(scores)), (Ok(labels), Ok(scores)) if labels == scores);
    match is_same {
        true => {
            Err(Error::file(scores, format!("is the table of labels {}, or a copy", labels.display()), "pass scores"))
        }
        false => Ok(()),
    }
}

/// Adds what a [`Chain`] found to a report.
type Reporter = fn(Chain, Report) -> anyhow::Result<Report>;

/// Measures the scores of files against labels and, where there are several, each further one against the first.
pub fn measure(
    (command, report_on): (&'static str, Reporter),
    labels: impl FnOnce(&mut Chain) -> x2ct::Result<IdTable<bool>>,
    files: &[&Path],
    map: Option<&LabelMap>,
    options: &Options,
    common: &Common,
) -> anyhow::Result<ExitCode> {
    common.expect_device()?;
    let bootstrap = options.bootstrap()?;
    let bootstrap = bootstrap.as_ref();
    let places: Vec<_> = files.iter().map(x2ct::files::resolved).collect();
    if let Some(at) = (1..places.len()).find(|&at| places[at].is_some() && places[..at].contains(&places[at])) {
        return Err(usage(format!("{} is named twice", files[at].display())));
    }
    let mut chain = Chain::new(options.trust);
    let labels = labels(&mut chain)?;
    let joined = join(labels, files, map, &mut chain)?;
    let problems: Vec<Problem> = (0..files.len()).map(|at| joined.problem(at)).collect();
    let (found, differences) = detect(&problems, bootstrap)?;
    for ((file, of_file), problem) in files.iter().zip(&found).zip(&problems) {
        if of_file.calibration.is_none() {
            let says = "has scores outside of 0 to 1, so they are no probabilities: metrics cut at one half and calibration \
                        are left out";
            chain.note(file, says);
        }
        if problem.scores.iter().all(|score| [0.0, 1.0].contains(score)) {
            let says = "has no scores but 0 and 1: of decisions, or labels, an area under the ROC curve is one of a single point";
            chain.note(file, says);
        }
    }
    let delong = compare(&joined, files, differences, &mut chain);
    let name = |file: &Path| file.to_string_lossy().into_owned();
    let mut report = Report::new(command).with_all(&found[0])?;
    if !delong.is_empty() {
        report = report.with("delong", delong.iter().map(|(file, c)| (name(file), c)).collect::<BTreeMap<_, _>>())?;
    }
    let rows = files.iter().zip(&found).map(|(file, of_file)| Row { file: name(file), of_file });
    let report = report.with("rows", rows.collect::<Vec<_>>())?;
    report_on(chain, report)?.finish(common.json, || print(files, &found, &delong))
}

/// The metrics of each set of scores, and the intervals of what the first is more than it; of the first, and without a bootstrap, none.
fn detect(problems: &[Problem], bootstrap: Option<&Bootstrap>) -> x2ct::Result<(Vec<Detection>, Vec<Differences>)> {
    let Some(bootstrap) = bootstrap else {
        let found = problems.iter().map(|problem| Detection::of(problem, None)).collect::<x2ct::Result<Vec<_>>>()?;
        return Ok((found, vec![Differences::new(); problems.len()]));
    };
    let turned = |all: Differences| all.into_iter().map(|(name, found)| (name, found.map(Interval::negated))).collect();
    let found = Detection::of_several(problems, bootstrap)?;
    Ok(found.into_iter().map(|(of_file, differences)| (of_file, turned(differences))).unzip())
}

/// One file's metrics in the list of all.
#[derive(Serialize)]
struct Row<'a> {
    file: String,
    #[serde(flatten)]
    of_file: &'a Detection,
}

/// Reads the tables and joins them by id and label. What cannot be used is left out of all and told.
///
/// # Errors
/// A table that cannot be used at all; no id that all have; under `--strict` whatever would be left out.
fn join(labels: IdTable<bool>, files: &[&Path], map: Option<&LabelMap>, chain: &mut Chain) -> x2ct::Result<Joined> {
    let tables = files.iter().map(|file| read_scores(file, &labels.names, map)).collect::<x2ct::Result<Vec<_>>>()?;
    chain.holds("labels", &labels.digest);
    label_table::fail_rows(&labels.rows.bad, chain)?;
    let passed_over = |others: &[String]| format!("columns that are no labels are passed over: {}", first_of(others));
    if !labels.others.is_empty() {
        chain.note(&labels.path, &passed_over(&labels.others));
    }
    for (table, _) in &tables {
        chain.holds(&table.path.to_string_lossy(), &table.digest);
        label_table::fail_rows(&table.rows.bad, chain)?;
        if !table.others.is_empty() {
            chain.note(&table.path, &passed_over(&table.others));
        }
        if table.path == labels.path {
            continue;
        }
        table.strangers(&labels.path, |id| labels.row(id).is_some()).map_or(Ok(()), |error| chain.fail(error))?;
        labels.strangers(&table.path, |id| table.row(id).is_some()).map_or(Ok(()), |error| chain.fail(error))?;
    }
    let known = |id: &&String| tables.iter().all(|(table, _)| table.row(id).is_some());
    let ids: Vec<&String> = labels.rows.order.iter().filter(known).collect();
    if ids.is_empty() {
        let problem = "has no id that all tables of scores have";
        return Err(Error::file(&labels.path, problem, "pass tables of the same volumes"));
    }
    Ok(Joined {
        patients: ids.iter().map(|id| VolumeName::patient_of(id)).collect(),
        labels: ids.iter().filter_map(|id| labels.row(id)).flatten().copied().collect(),
        scores: tables.iter().map(|(table, kind)| kind.scores(ids.iter().filter_map(|id| table.row(id)))).collect(),
        names: labels.names,
    })
}

/// What the numbers of a file are.
enum Kind {
    /// As they are, probabilities where they can be.
    Given,
    /// Logits of probabilities.
    Logits,
}

impl Kind {
    fn scores<'a>(&self, rows: impl Iterator<Item = &'a [f64]>) -> Scores {
        let ranked: Vec<f64> = rows.flatten().copied().collect();
        let probabilities = match self {
            Kind::Given => detection::as_probabilities(&ranked).map(<[f64]>::to_vec),
            Kind::Logits => Some(ranked.iter().map(|&logit| zero_shot::probability(logit)).collect()),
        };
        Scores { ranked, probabilities }
    }
}

/// Scores of these labels, of a table or of what `x2ct eval --scores` wrote; with a map of the labels that stand for them.
fn read_scores(file: &Path, labels: &[String], map: Option<&LabelMap>) -> x2ct::Result<(IdTable<f64>, Kind)> {
    let wanted = map.map_or(labels.to_vec(), LabelMap::sources);
    let (table, kind) = match Content::of_file(file)? {
        Content::Safetensors => (ScoreFile::read(file)?.table(file, &wanted)?, Kind::Logits),
        _ => (IdTable::scores(file, &wanted)?, Kind::Given),
    };
    match map {
        Some(map) => Ok((map.merge(table)?, kind)),
        None => Ok((table, kind)),
    }
}

/// Each further file against the first; none, which is told, where DeLong's test has no variance to go by.
fn compare<'a>(
    joined: &Joined,
    files: &[&'a Path],
    mut differences: Vec<Differences>,
    chain: &mut Chain,
) -> Vec<(&'a Path, Comparison)> {
    let mut tests: Vec<(usize, DeLong)> = Vec::new();
    for at in 1..files.len() {
        match delong::delong(&joined.labels, &joined.scores[0].ranked, &joined.scores[at].ranked) {
            Ok(test) => tests.push((at, test)),
            Err(error) => chain.note(files[at], &format!("is not compared with {}: {error}", files[0].display())),
        }
    }
    let corrected = delong::holm(&tests.iter().map(|(_, test)| test.p).collect::<Vec<_>>());
    let compared = tests.into_iter().zip(corrected).map(|((at, test), p_holm)| {
        let DeLong { auc: [auc_first, auc], z, p, ln_p, .. } = test;
        let differences = std::mem::take(&mut differences[at]);
        (files[at], Comparison { auc, auc_first, z, p, ln_p, p_holm, differences })
    });
    compared.collect()
}

/// Prints the metrics of files, and the comparisons of the first with further ones.
pub fn print(files: &[&Path], found: &[Detection], delong: &[(&Path, Comparison)]) {
    let first = &found[0];
    say!(
        "{} samples of {} patients; {} of {} labels have both classes; {:.4} of the cells are positive",
        first.samples,
        first.patients,
        first.labels_defined,
        first.labels.len(),
        first.prevalence
    );
    say!("");
    let heads: Vec<String> = files.iter().map(|file| file.display().to_string()).collect();
    print_detections(&heads, found);
    if !delong.is_empty() {
        say!("");
        print_comparisons(delong);
    }
}

/// Prints metrics side by side, then the labels of each.
pub fn print_detections(heads: &[String], found: &[Detection]) {
    let header: Vec<String> = std::iter::once("metric".to_string()).chain(heads.iter().cloned()).collect();
    let rows = SUMMARY.iter().enumerate().map(|(at, metric)| {
        let values = found.iter().map(|of_file| {
            let interval = of_file.intervals.get(metric).copied().flatten();
            with_interval(of_file.summary.values()[at], interval)
        });
        std::iter::once(metric.to_string()).chain(values).collect()
    });
    let calibration = found.iter().map(|of_file| cell(of_file.calibration.as_ref().map(|c| c.ece)));
    let calibration = std::iter::once("calibration error".to_string()).chain(calibration).collect();
    print_table(&header.iter().map(String::as_str).collect::<Vec<_>>(), &rows.chain([calibration]).collect::<Vec<_>>());
    for (head, of_file) in heads.iter().zip(found) {
        say!("");
        let rows = of_file.labels.iter().map(|label| {
            let (auc, ap) = (with_interval(label.auc, label.auc_interval), with_interval(label.ap, label.ap_interval));
            vec![label.name.clone(), label.positives.to_string(), auc, ap]
        });
        print_table(&[head, "positives", "AUC", "AP"], &rows.collect::<Vec<_>>());
    }
}

fn print_comparisons(delong: &[(&Path, Comparison)]) {
    let rows = delong.iter().map(|(file, c)| {
        let numbers = [c.auc_first, c.auc, c.z].map(|v| format!("{v:.4}"));
        let p = [c.p, c.p_holm].map(|p| format!("{p:.3e}"));
        std::iter::once(file.display().to_string()).chain(numbers).chain(p).collect()
    });
    let header = ["DeLong, pooled cells", "AUC of the first", "AUC", "z", "p", "p (Holm)"];
    print_table(&header, &rows.collect::<Vec<_>>());
}

fn cell(value: Option<f64>) -> String {
    value.map_or("not defined".into(), |v| format!("{v:.4}"))
}

/// A value with the ends of its interval, where it has one.
pub fn with_interval(value: Option<f64>, interval: Option<Interval>) -> String {
    match interval {
        Some(Interval { low, high, .. }) => format!("{} [{low:.4}, {high:.4}]", cell(value)),
        None => cell(value),
    }
}
