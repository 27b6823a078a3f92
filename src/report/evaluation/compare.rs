//! Several score files of one test set: how much they differ from its first, and how surely.

use super::super::sheet::missing;
use super::super::table::{Better, Cell, Column, Row, Table};
use super::counted;
use super::detection::{Scored, drawn, table_name, test_sets};
use crate::eval::bootstrap::Bootstrap;
use crate::eval::delong::{self, DeLong};
use crate::eval::detection::SUMMARY;

/// A score file against the first of its test set.
pub struct Compared<'a> {
    pub scored: &'a Scored<'a>,
    first: &'a Scored<'a>,
    test: Option<DeLong>,
    p_holm: f64,
}

impl Compared<'_> {
    /// The corrected p of the areas' difference.
    pub fn p(&self) -> Option<f64> {
        self.test.as_ref().map(|_| self.p_holm)
    }
}

/// Each further file of every test set against its first.
pub fn compare<'a>(scored: &'a [Scored<'a>]) -> Vec<Compared<'a>> {
    test_sets(scored).flat_map(of_test_set).collect()
}

/// Each further file against the first; p is corrected for all of them.
fn of_test_set<'a>(scored: &'a [Scored<'a>]) -> Vec<Compared<'a>> {
    let Some((first, others)) = scored.split_first() else { return Vec::new() };
    let compared = others.iter().map(|scored| {
        let test = delong::delong(&first.file.labels, &first.file.logits, &scored.file.logits).ok();
        Compared { scored, first, p_holm: test.as_ref().map_or(1.0, |test| test.p), test }
    });
    let mut compared: Vec<Compared> = compared.collect();
    let corrected = delong::holm(&compared.iter().filter_map(Compared::p).collect::<Vec<_>>());
    let tested = compared.iter_mut().filter(|compared| compared.test.is_some());
    tested.zip(corrected).for_each(|(compared, p)| compared.p_holm = p);
    compared
}

pub fn body(
    scored: &[Scored],
    compared: &[Compared],
    bootstrap: Option<&Bootstrap>,
    keep: &mut dyn FnMut(Table) -> String,
) -> String {
    if scored.len() < 2 {
        return missing(
            "There is one score file at most: a second one of the same volumes adds DeLong's test and the differences.",
        );
    }
    let mut out = String::new();
    for of_set in test_sets(scored) {
        let first = &of_set[0];
        let rows: Vec<Row> =
            compared.iter().filter(|compared| compared.first.test_set == first.test_set).map(row).collect();
        out += &match rows.is_empty() {
            true => missing(&format!(
                "{} is not compared: no other file is of the very same volumes, labels and truth.",
                first.name
            )),
            false => keep(table(of_set, rows, bootstrap)),
        };
    }
    out
}

/// The differences to the first of a test set.
fn table(of_set: &[Scored], rows: Vec<Row>, bootstrap: Option<&Bootstrap>) -> Table {
    let first = &of_set[0];
    let columns = DIFFERENCES.map(|(_, title)| Column::new(title).of(["Difference"]).better(Better::Neither));
    let test = ["AUC of the first", "AUC", "z"].map(|title| Column::new(title).better(Better::Neither));
    let p = ["p", "p (Holm)"].map(|title| Column::new(title).digits(4).better(Better::Neither));
    let test = test.into_iter().chain(p).map(|column| column.of(["DeLong, pooled cells"]));
    Table {
        name: table_name("differences", of_set),
        title: format!("Differences to {}.", first.name),
        caption: format!(
            "{}. Above 0: better than {}. DeLong's test takes the pooled cells as independent, which they are not, so its p is \
             optimistic; the intervals draw whole patients.{}",
            counted(first.detection.samples, "volume", "volumes"),
            first.name,
            drawn(bootstrap)
        ),
        heads: ["Scores".into(), String::new()],
        against: Some(first.name.into()),
        columns: columns.into_iter().chain(test).collect(),
        rows,
    }
}

/// The metrics whose differences are shown.
const DIFFERENCES: [(&str, &str); 5] = [
    ("auc_micro", "AUC, micro"),
    ("ap_micro", "PR, micro"),
    ("auc_macro", "AUC, macro"),
    ("ap_macro", "PR, macro"),
    ("f1_weighted", "F1"),
];

fn row(compared: &Compared) -> Row {
    let Compared { scored, first, test, p_holm } = compared;
    let [of_file, of_first] = [scored, first].map(|scored| scored.detection.summary.values());
    let mut cells = Vec::new();
    for (name, _) in DIFFERENCES {
        let at = SUMMARY.iter().position(|other| *other == name).unwrap_or(0);
        let difference = of_file[at].zip(of_first[at]).map(|(mine, theirs)| mine - theirs);
        cells.push(super::detection::cell(difference, scored.differences.get(name).copied().flatten()));
    }
    match test {
        Some(test) => {
            cells.extend([test.auc[0], test.auc[1], test.z, test.p].map(Cell::of));
            cells.push(Cell::of(*p_holm).p(*p_holm));
        }
        None => cells.extend((0..5).map(|_| Cell::missing("DeLong's test has no variance to go by."))),
    }
    Row::new(scored.name, cells)
}
