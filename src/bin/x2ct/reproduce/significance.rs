//! Whether a paper's own method is better than the closest baseline: DeLong's two-tailed test on pooled cells, as the papers do, and
//! the bootstrap of the difference by patient, which does not take cells as independent.

use std::collections::HashMap;
use std::rc::Rc;

use serde::Serialize;
use x2ct::eval::bootstrap::{Bootstrap, Interval};
use x2ct::eval::delong::{self, DeLong};
use x2ct::eval::metrics::MultiLabel;
use x2ct::eval::score_file::ScoreFile;

use super::cells::{Cells, Scored};
use super::paper::{PaperRow, PaperTable};
use super::work::patients;

/// The metric that DeLong's test is of.
const METRIC: &str = "auc_micro";

/// One comparison.
#[derive(Debug, Serialize)]
pub struct Comparison {
    /// Place of the row among the table's.
    #[serde(skip)]
    pub row: usize,
    /// Place of the column among the table's.
    #[serde(skip)]
    pub column: usize,
    /// The row that is compared.
    method: String,
    /// The closest other row.
    against: String,
    /// The column.
    measure: String,
    /// Number of volumes that both have scores of.
    volumes: usize,
    /// Areas of the row and of the other.
    auc: [f64; 2],
    z: f64,
    p: f64,
    /// p corrected for the number of comparisons of the table (Holm).
    pub p_holm: f64,
    /// The difference of the areas, drawn by patient.
    difference: Option<Interval>,
}

/// Each row of the paper's own method against the best of the others, in each column of areas. Rows for reference are others only
/// where there is no baseline.
///
/// # Errors
/// An interruption.
pub fn compare(cells: &mut Cells, table: &PaperTable, rows: &[PaperRow]) -> x2ct::Result<Vec<Comparison>> {
    let mut found = Vec::new();
    for (at, column) in table.columns.iter().enumerate().filter(|(_, column)| column.task.metric() == Some(METRIC)) {
        let scored: Vec<Option<Rc<Scored>>> = rows.iter().map(|row| cells.scored(&row.source, column).ok()).collect();
        let others = |reference: bool| {
            let of = move |row: &usize| !rows[*row].source.is_ours() && rows[*row].source.is_reference() == reference;
            (0..rows.len()).filter(of).filter_map(|row| Some((row, scored[row].as_ref()?.detection.summary.auc_micro?)))
        };
        let best = |reference| others(reference).max_by(|a, b| a.1.total_cmp(&b.1)).map(|(row, _)| row);
        let Some(other) = best(false).or_else(|| best(true)) else { continue };
        for row in (0..rows.len()).filter(|&row| rows[row].source.is_ours()) {
            cells.shop.expect_going()?;
            let (Some(mine), Some(theirs)) = (&scored[row], &scored[other]) else { continue };
            let measure = column.title();
            let names = [row, other].map(|row| rows[row].title());
            found.extend(pair((&mine.file, &theirs.file), &cells.shop.bootstrap).map(|outcome| {
                let Outcome { volumes, test, difference } = outcome;
                let [method, against] = names;
                let DeLong { auc, z, p, .. } = test;
                Comparison { row, column: at, method, against, measure, volumes, auc, z, p, p_holm: p, difference }
            }));
        }
    }
    let corrected = delong::holm(&found.iter().map(|c| c.p).collect::<Vec<_>>());
    found.iter_mut().zip(corrected).for_each(|(c, p)| c.p_holm = p);
    Ok(found)
}

impl Comparison {
    /// Whether the row is the better one.
    pub fn is_better(&self) -> bool {
        self.auc[0] > self.auc[1]
    }
}

struct Outcome {
    volumes: usize,
    test: DeLong,
    difference: Option<Interval>,
}

/// Two sets of scores on the volumes that both have, with the same labels; `None` where that is none, or has no variance.
fn pair((mine, theirs): (&ScoreFile, &ScoreFile), bootstrap: &Bootstrap) -> Option<Outcome> {
    if mine.names != theirs.names {
        return None;
    }
    let places: HashMap<&String, usize> = theirs.ids.iter().enumerate().map(|(at, id)| (id, at)).collect();
    let both: Vec<(usize, usize)> =
        mine.ids.iter().enumerate().filter_map(|(at, id)| Some((at, *places.get(id)?))).collect();
    let width = mine.names.len();
    let of = |file: &ScoreFile, rows: &[usize]| -> (Vec<f64>, Vec<bool>) {
        let cell = |row: &usize| *row * width..(row + 1) * width;
        (
            rows.iter().flat_map(|row| file.logits[cell(row)].to_vec()).collect(),
            rows.iter().flat_map(|row| file.labels[cell(row)].to_vec()).collect(),
        )
    };
    let (my_rows, their_rows): (Vec<usize>, Vec<usize>) = both.into_iter().unzip();
    let ((my_scores, labels), (their_scores, their_labels)) = (of(mine, &my_rows), of(theirs, &their_rows));
    if labels != their_labels {
        return None;
    }
    let test = delong::delong(&labels, &my_scores, &their_scores).ok()?;
    let ids: Vec<String> = my_rows.iter().map(|&row| mine.ids[row].clone()).collect();
    let difference = difference((&labels, &my_scores, &their_scores), &patients(&ids), bootstrap).ok();
    Some(Outcome { volumes: ids.len(), test, difference })
}

/// The difference of the areas of all cells pooled, those of a patient drawn together.
fn difference(
    (labels, mine, theirs): (&[bool], &[f64], &[f64]),
    patients: &[String],
    bootstrap: &Bootstrap,
) -> x2ct::Result<Interval> {
    let width = labels.len() / patients.len().max(1);
    let of_cells: Vec<&String> = patients.iter().flat_map(|patient| std::iter::repeat_n(patient, width)).collect();
    let [mine, theirs] = [mine, theirs].map(|scores| MultiLabel::new(labels, scores, 1).map(|cells| cells.ranked()));
    let (mine, theirs) = (mine?, theirs?);
    bootstrap.interval(&of_cells, |weights| Some(mine.roc_auc(weights).micro? - theirs.roc_auc(weights).micro?))
}
