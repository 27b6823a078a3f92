//! Which CTs the rows of a file were made of, so that rows of equal ids and other patients are told apart.
//!
//! Radiographs, prepared volumes and embedding caches record the digest of every row's CT ([`of_ct`](super::provenance::of_ct)) in
//! the metadata entry `ct_digests`: a JSON array with one string a row, empty where it is not known. Where all are known, the
//! provenance has a part `ct`, whose digest is that of all ids and digests. Files of earlier versions and of other writers may
//! lack both.
//!
//! Whatever is joined on ids is compared row by row ([`Cts::expect_same`]).

use super::per_row::PerRow;
use super::provenance::{Content, Provenance, Undecided, short};
use crate::archive::{Archive, Writer};
use crate::{Error, Result};

const KEY: &str = "ct_digests";
/// What [`Provenance::from`] calls them.
const PART: &str = "ct";

/// The digest of the CT that each row was made of; empty where it is not known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cts(PerRow<String>);

impl Cts {
    /// Of these digests, one a row, empty where the row's is not known.
    pub fn new(digests: Vec<String>) -> Self {
        Cts(PerRow::new(digests))
    }

    /// Of the rows of several files, each with its number of rows, one after the other.
    pub fn of_parts(parts: impl IntoIterator<Item = (Cts, usize)>) -> Self {
        Cts(PerRow::of_parts(parts.into_iter().map(|(cts, rows)| (cts.0, rows))))
    }

    /// The digest of a row's CT; empty where it is not known.
    pub fn of(&self, row: usize) -> &str {
        self.0.rows().get(row).map_or("", String::as_str)
    }

    /// Whether no row's CT is known.
    pub fn is_unknown(&self) -> bool {
        self.0.rows().is_empty()
    }

    /// Those of some of the rows, by their places.
    pub fn select(&self, rows: &[usize]) -> Self {
        Cts(self.0.select(rows))
    }

    /// Refuses another number of digests than rows; none at all are those of rows whose CTs are not known.
    ///
    /// # Errors
    /// Names both numbers.
    pub fn expect_rows(&self, rows: usize) -> Result<()> {
        let found = self.0.rows().len();
        if [0, rows].contains(&found) {
            return Ok(());
        }
        Err(Error::argument(KEY, format!("there are {found} for {rows} ids"), "pass one a row"))
    }

    /// The entry of a file with so many rows; of one without it no CT is known.
    ///
    /// # Errors
    /// An entry that is no such array.
    pub fn read(archive: &Archive, rows: usize) -> Result<Self> {
        PerRow::read(archive, KEY, rows).map(Cts)
    }

    /// Adds the entry to a file that is being written.
    pub fn record(&self, archive: &mut Writer) {
        self.0.record(archive, KEY);
    }

    /// How rows with these ids were made, with these CTs as its part `ct` where all of them are known, else without such a part.
    pub fn add_to(&self, mut made: Provenance, ids: &[String]) -> Provenance {
        made.from.remove(PART);
        let digests = self.0.rows();
        let known = digests.len() == ids.len() && digests.iter().all(|digest| !digest.is_empty());
        if known && !ids.is_empty() {
            let pairs = ids.iter().zip(digests);
            let content = pairs.fold(Content::of("CTs"), |content, (id, ct)| content.and(id).and(ct));
            let part = Provenance::made(Default::default(), []).holding(content.digest(), ids.len());
            made.from.insert(PART.into(), part);
        }
        made
    }

    /// How many of some rows are of CTs that are not known.
    fn unknown_of(&self, rows: impl Iterator<Item = usize>) -> usize {
        rows.filter(|&row| self.of(row).is_empty()).count()
    }

    /// What is to be said where the CTs of some of so many rows are not known.
    pub fn undecided(&self, what: &str, rows: usize) -> Undecided {
        let unknown = self.unknown_of(0..rows);
        let says = || format!("{what}: of which CTs {unknown} of {rows} were made is not recorded");
        (unknown > 0).then(says).into_iter().collect()
    }

    /// Compares the CTs of rows that are joined: those of `ids`, which are all of `what`, with the `rows` of `others` in `theirs`.
    ///
    /// # Errors
    /// Names the first id whose two rows are of different CTs, with both digests.
    pub fn expect_same(
        &self,
        what: &str,
        ids: &[String],
        (others, theirs, rows): (&str, &Cts, &[usize]),
    ) -> Result<Undecided> {
        let pairs: Vec<[&str; 2]> = rows.iter().enumerate().map(|(i, &row)| [self.of(i), theirs.of(row)]).collect();
        let differs = |pair: &[&str; 2]| pair.iter().all(|digest| !digest.is_empty()) && pair[0] != pair[1];
        if let Some(first) = pairs.iter().position(differs) {
            let more = match pairs.iter().filter(|pair| differs(pair)).count() - 1 {
                0 => String::new(),
                count => format!(" (and {count} more ids differ)"),
            };
            let [mine, other] = pairs[first].map(short);
            let problem = format!("{}: the {what} are of the CT {mine}, the {others} of {other}{more}", ids[first]);
            return Err(Error::argument(KEY, problem, format!("use {what} and {others} of the same CT files")));
        }
        let unknown = [self.unknown_of(0..rows.len()), theirs.unknown_of(rows.iter().copied())];
        let lacking: Vec<&str> =
            [what, others].into_iter().zip(unknown).filter(|(_, count)| *count > 0).map(|(name, _)| name).collect();
        let (count, all) = (unknown[0].max(unknown[1]), pairs.len());
        Ok(match lacking[..] {
            [] => Vec::new(),
            _ => vec![format!(
                "{}: of which CTs {count} of {all} rows were made is not recorded, so these were not compared",
                lacking.join(" and ")
            )],
        })
    }
}
