//! Several score files on the same volumes: how much they differ from the first, and how surely.

use super::super::sheet::missing;
use super::super::table::{Better, Cell, Column, Row, Table};
use super::counted;
use super::detection::{Scored, drawn};
use crate::Result;
use crate::eval::bootstrap::Bootstrap;
use crate::eval::delong::{self, DeLong};
use crate::eval::detection::{self, Differences, Problem, SUMMARY};

/// A score file against the first.
pub struct Compared<'a> {
    pub scored: &'a Scored<'a>,
    /// Why there is no comparison, as a whole sentence; or how many volumes both have, and what was found on these.
    found: std::result::Result<Found, String>,
}

struct Found {
    volumes: usize,
    test: Option<DeLong>,
    p_holm: f64,
    differences: Differences,
    /// The differences of the summaries: the file's less the first's.
    estimates: [Option<f64>; SUMMARY.len()],
}

impl Compared<'_> {
    /// The corrected p of the areas' difference.
    pub fn p(&self) -> Option<f64> {
        self.found.as_ref().ok().and_then(|found| found.test.as_ref().map(|_| found.p_holm))
    }
}

/// Cells of two files at the same volumes and labels.
struct Aligned {
    patients: Vec<String>,
    labels: Vec<bool>,
    logits: [Vec<f64>; 2],
    probabilities: [Vec<f64>; 2],
}

/// Each further file against the first.
pub fn compare<'a>(scored: &'a [Scored<'a>], bootstrap: Option<&Bootstrap>) -> Result<Vec<Compared<'a>>> {
    let Some((first, others)) = scored.split_first() else { return Ok(Vec::new()) };
    let mut compared = Vec::new();
    for other in others {
        let found = match align(first, other) {
            Ok(aligned) => Ok(measure(first, other, &aligned, bootstrap)?),
            Err(why) => Err(why),
        };
        compared.push(Compared { scored: other, found });
    }
    let tested = |compared: &&mut Compared| compared.p().is_some();
    let p: Vec<f64> = compared.iter_mut().filter(tested).filter_map(|compared| compared.p()).collect();
    let corrected = delong::holm(&p);
    for (compared, p) in compared.iter_mut().filter(|compared| compared.p().is_some()).zip(corrected) {
        if let Ok(found) = &mut compared.found {
            found.p_holm = p;
        }
    }
    Ok(compared)
}

fn measure(first: &Scored, other: &Scored, aligned: &Aligned, bootstrap: Option<&Bootstrap>) -> Result<Found> {
    let problem = |at: usize| Problem {
        names: &first.file.names,
        patients: &aligned.patients,
        labels: &aligned.labels,
        scores: &aligned.logits[at],
        probabilities: Some(&aligned.probabilities[at]),
    };
    let test = delong::delong(&aligned.labels, &aligned.logits[0], &aligned.logits[1]).ok();
    let differences = match (&other.differences, bootstrap) {
        (Some(drawn), _) => drawn.clone(),
        (None, Some(bootstrap)) => detection::differences(&problem(1), &problem(0), bootstrap)?,
        (None, None) => Differences::new(),
    };
    let [mine, theirs] = [0, 1].map(|at| detection::Detection::of(&problem(at), None));
    let pairs: Vec<_> = theirs?.summary.values().into_iter().zip(mine?.summary.values()).collect();
    Ok(Found {
        volumes: aligned.patients.len(),
        p_holm: test.as_ref().map_or(1.0, |test| test.p),
        test,
        differences,
        estimates: std::array::from_fn(|at| Some(pairs[at].0? - pairs[at].1?)),
    })
}

/// The cells that both files have; why they cannot be compared where they cannot.
fn align(first: &Scored, other: &Scored) -> std::result::Result<Aligned, String> {
    let place = |name: &String| other.file.names.iter().position(|found| found == name);
    let columns: Option<Vec<usize>> = first.file.names.iter().map(place).collect();
    let columns = columns.filter(|columns| columns.len() == other.file.names.len());
    let columns = columns.ok_or_else(|| format!("{} is not compared: it is of other labels.", other.name))?;
    let (mine, width) = (first.file, first.file.names.len());
    let mut aligned = Aligned {
        patients: Vec::new(),
        labels: Vec::new(),
        logits: [Vec::new(), Vec::new()],
        probabilities: [Vec::new(), Vec::new()],
    };
    for (row, id) in mine.ids.iter().enumerate() {
        let Some(&theirs) = other.rows.get(id.as_str()) else { continue };
        aligned.patients.push(first.patients[row].clone());
        for (label, &column) in columns.iter().enumerate() {
            let (here, there) = (row * width + label, theirs * width + column);
            if mine.labels[here] != other.file.labels[there] {
                let label = &mine.names[label];
                return Err(format!("{} is not compared: its label {label} of {id} is another.", other.name));
            }
            aligned.labels.push(mine.labels[here]);
            aligned.logits[0].push(mine.logits[here]);
            aligned.logits[1].push(other.file.logits[there]);
            aligned.probabilities[0].push(first.probabilities[here]);
            aligned.probabilities[1].push(other.probabilities[there]);
        }
    }
    if aligned.patients.is_empty() {
        return Err(format!("{} is not compared: it is of other volumes.", other.name));
    }
    Ok(aligned)
}

pub fn body(
    scored: &[Scored],
    compared: &[Compared],
    bootstrap: Option<&Bootstrap>,
    keep: &mut dyn FnMut(Table) -> String,
) -> String {
    if compared.is_empty() {
        return missing(
            "There is one score file at most: a second one of the same volumes adds DeLong's test and the differences.",
        );
    }
    let first = &scored[0];
    let mut out = String::new();
    let rows: Vec<Row> =
        compared.iter().filter_map(|compared| Some(row(compared, compared.found.as_ref().ok()?))).collect();
    if !rows.is_empty() {
        let columns = DIFFERENCES.map(|(_, title)| Column::new(title).of(["Difference"]).better(Better::Neither));
        let test = ["AUC of the first", "AUC", "z"].map(|title| Column::new(title).better(Better::Neither));
        let p = ["p", "p (Holm)"].map(|title| Column::new(title).digits(4).better(Better::Neither));
        let test = test.into_iter().chain(p).map(|column| column.of(["DeLong, pooled cells"]));
        let volumes = Column::new("Volumes").digits(0).better(Better::Neither);
        out += &keep(Table {
            name: "differences".into(),
            title: format!("Differences to {}.", first.name),
            caption: format!(
                "On the volumes that both have. Above 0: better than {}. DeLong's test takes the pooled cells as independent, which \
                 they are not, so its p is optimistic; the intervals draw whole patients.{}",
                first.name,
                drawn(bootstrap)
            ),
            heads: ["Scores".into(), String::new()],
            against: Some(first.name.into()),
            columns: std::iter::once(volumes).chain(columns).chain(test).collect(),
            rows,
        });
    }
    let told: Vec<&String> = compared.iter().filter_map(|compared| compared.found.as_ref().err()).collect();
    told.into_iter().for_each(|why| out += &missing(why));
    for compared in compared {
        if let Ok(found) = &compared.found
            && found.volumes < first.file.ids.len()
        {
            let of_first = counted(first.file.ids.len(), "volume", "volumes");
            out += &missing(&format!(
                "{} is compared on {} of the {of_first} of {}.",
                compared.scored.name, found.volumes, first.name
            ));
        }
    }
    out
}

/// The metrics whose differences are shown.
const DIFFERENCES: [(&str, &str); 5] = [
    ("auc_micro", "AUC, micro"),
    ("ap_micro", "PR, micro"),
    ("auc_macro", "AUC, macro"),
    ("ap_macro", "PR, macro"),
    ("f1_weighted", "F1"),
];

fn row(compared: &Compared, found: &Found) -> Row {
    let mut cells = vec![Cell::of(found.volumes as f64)];
    for (name, _) in DIFFERENCES {
        let at = SUMMARY.iter().position(|other| *other == name).unwrap_or(0);
        cells.push(super::detection::cell(found.estimates[at], found.differences.get(name).copied().flatten()));
    }
    match &found.test {
        Some(test) => {
            cells.extend([test.auc[0], test.auc[1], test.z, test.p].map(Cell::of));
            cells.push(Cell::of(found.p_holm).p(found.p_holm));
        }
        None => cells.extend((0..5).map(|_| Cell::missing("DeLong's test has no variance to go by."))),
    }
    Row::new(compared.scored.name, cells)
}
