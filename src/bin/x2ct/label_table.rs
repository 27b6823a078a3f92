//! Tables of labels, as commands read them.

use std::path::Path;

use x2ct::data::id_table::{self, IdTable};
use x2ct::data::radchest_labels::RadChestLabels;
use x2ct::table::{BadRow, first_of};

use crate::chain::Chain;

/// Labels of anybody's table (CT-RATE's is one) or of RadChest-CT's: those of `names`, beside which the table may hold anything, or
/// all.
///
/// # Errors
/// A file that is no such table; a label of `names` that it lacks.
pub fn read(path: &Path, names: Option<&[String]>, chain: &mut Chain) -> x2ct::Result<IdTable<bool>> {
    let table = id_table::open(path)?;
    if !RadChestLabels::is_one(&table) {
        return names.map_or_else(|| IdTable::labels(&table), |names| IdTable::labels_of(&table, names));
    }
    let RadChestLabels { table, unknown, absent } = RadChestLabels::of(&table)?;
    if !unknown.is_empty() {
        chain.note(path, &format!("names abnormalities that are not known: {}", first_of(unknown)));
    }
    if !absent.is_empty() {
        chain.note(path, &format!("lacks known abnormalities: {}", first_of(absent)));
    }
    match names {
        Some(names) => table.restricted(names),
        None => Ok(table),
    }
}

/// Tells the rows that are left out; of two equal ones nothing is lost.
///
/// # Errors
/// Under `--strict` the first of them.
pub fn fail_rows(bad: &[BadRow], chain: &mut Chain) -> x2ct::Result<()> {
    bad.iter().try_for_each(|row| match row.spare {
        true => chain.leave_out(std::slice::from_ref(row)),
        false => chain.fail(row.error()),
    })
}
