//! The labels that an evaluation is against, of the volumes that have some.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use x2ct::data::ct_rate;
use x2ct::data::provenance::Content;
use x2ct::table::BadRow;
use x2ct::{Error, labels};

use super::WholeArgs;
use crate::arguments::split;
use crate::chain::Chain;

/// The labels of volumes, by id.
pub struct Labels(HashMap<String, [bool; labels::COUNT]>);

impl Labels {
    /// Those of `ids`, which are to be evaluated of the volumes of `file`. A volume without costs itself; where the tables of the data
    /// set disagree is a doubt; what they list and the file has not is told.
    ///
    /// # Errors
    /// Under `--strict` the first volume without, or doubt; no volume with labels.
    pub fn read(
        args: &WholeArgs,
        (file, of_file): (&Path, &[String]),
        ids: &[String],
        chain: &mut Chain,
    ) -> x2ct::Result<Self> {
        let split = split(&args.split);
        let (table, labels) = ct_rate::labels_of(args.dataset(), split)?;
        let known: HashMap<String, _> = labels.rows.iter().map(|(name, row)| (name.to_string(), *row)).collect();
        let lacking: HashSet<&str> = ids.iter().map(String::as_str).filter(|id| !known.contains_key(*id)).collect();
        let (bad, others): (Vec<BadRow>, Vec<BadRow>) =
            labels.bad.iter().cloned().partition(|bad| bad.volume().is_some_and(|id| lacking.contains(id)));
        let bad: HashMap<&str, &BadRow> = bad.iter().rev().filter_map(|bad| Some((bad.volume()?, bad))).collect();
        chain.leave_out(&others)?;
        let lacks = |id: &String| Error::File {
            path: table.clone(),
            field: Some(id.clone()),
            problem: format!("has no row for this volume of {}", file.display()),
            hint: "pass the data set and split of the volumes, or complete the table".into(),
        };
        let why = |id: &String| bad.get(id.as_str()).map_or_else(|| lacks(id), |bad| bad.error());
        chain.keep("volumes", ids, |id| lacking.contains(id.as_str()).then(|| why(id)))?;
        for (table, says) in ct_rate::disagreements(args.dataset(), split, &labels) {
            chain.doubt(&table, &says, "complete the table")?;
        }
        let listed: Vec<String> = labels.order.iter().map(|name| name.to_string()).collect();
        chain.lacks(file, of_file, &table, &listed);
        Ok(Labels(known))
    }

    /// The ids that have labels, and their rows among `ids`.
    pub fn known_of(&self, ids: &[String]) -> (Vec<String>, Vec<usize>) {
        ids.iter().enumerate().filter(|(_, id)| self.0.contains_key(*id)).map(|(row, id)| (id.clone(), row)).unzip()
    }

    /// [ids, 18], of ids that have labels: those that are evaluated, and recorded as such.
    pub fn of(&self, ids: &[String], chain: &mut Chain) -> Vec<bool> {
        let digest =
            ids.iter().fold(Content::of("labels"), |content, id| content.and(id).and(self.0[id].map(u8::from)));
        chain.holds("labels", &digest.digest());
        ids.iter().flat_map(|id| self.0[id]).collect()
    }
}
