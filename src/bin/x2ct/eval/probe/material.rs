//! What probes are trained and tested on.

use std::path::Path;

use x2ct::Error;
use x2ct::data::features::Tower;
use x2ct::data::id_table::IdTable;
use x2ct::data::provenance::Provenance;
use x2ct::eval::linear_probe::Samples;

use crate::chain::Chain;
use crate::eval::labelled::Labelled;

/// Labelled features, and where they come from.
pub struct Material<'a> {
    /// The file of the features.
    pub file: &'a Path,
    /// The table of the labels.
    pub table: &'a Path,
    /// The features and their labels.
    pub set: Labelled,
}

impl<'a> Material<'a> {
    /// Reads features with these labels of a table; `role` names them among the digests.
    pub fn read(
        role: &str,
        [file, table]: [&'a Path; 2],
        tower: Tower,
        labels: IdTable<bool>,
        chain: &mut Chain,
    ) -> x2ct::Result<Self> {
        Ok(Material { file, table, set: Labelled::read(role, (file, tower), (table, labels), chain)? })
    }

    /// Number of samples.
    pub fn len(&self) -> usize {
        self.set.features.ids.len()
    }

    /// The samples at these places.
    pub fn select(&self, places: &[usize]) -> Labelled {
        let Labelled { features, patients, names, labels } = &self.set;
        let classes = names.len();
        Labelled {
            features: features.select(places),
            patients: places.iter().map(|&at| patients[at].clone()).collect(),
            names: names.clone(),
            labels: places.iter().flat_map(|&at| &labels[at * classes..][..classes]).copied().collect(),
        }
    }

    /// Leaves out the samples without any label, and tells how many.
    ///
    /// # Errors
    /// None is left.
    pub fn clean(&mut self, chain: &mut Chain) -> x2ct::Result<()> {
        let rows = self.set.labels.chunks_exact(self.set.names.len()).enumerate();
        let kept: Vec<usize> = rows.filter(|(_, row)| row.contains(&true)).map(|(at, _)| at).collect();
        let removed = self.len() - kept.len();
        if kept.is_empty() {
            let problem = format!("none of its {removed} samples has any of the labels");
            return Err(Error::file(self.table, problem, "leave out --clean"));
        }
        if removed > 0 {
            chain.note(self.table, &format!("{removed} sample(s) have none of the labels and are left out (--clean)"));
        }
        self.set = self.select(&kept);
        Ok(())
    }

    /// Refuses features of another length or encoder, or made otherwise, than those that were trained on: `dim` values in a file,
    /// made so. With `force` the last two are warned of.
    pub fn expect_like(
        &self,
        (file, dim, made): (&Path, usize, &Provenance),
        force: bool,
        chain: &mut Chain,
    ) -> x2ct::Result<()> {
        let features = &self.set.features;
        if features.dim != dim {
            let problem = format!("its features have {} values, those of {} have {dim}", features.dim, file.display());
            return Err(Error::file(self.file, problem, "pass features of the same encoder"));
        }
        let found = features.provenance();
        match (made.expect_alike("features", &found), force) {
            (Err(Error::Argument { what, problem, .. }), true) => {
                chain.force(self.file, &format!("{what}: {problem}"));
                Ok(())
            }
            // What is not recorded of one of the files was said when it was read.
            (Ok(_), _) if !(made.known && found.known) => Ok(()),
            (alike, _) => chain.settle(self.file, alike),
        }
    }
}

/// Labelled features as a probe takes them.
pub fn samples(set: &Labelled) -> Samples<'_> {
    let Labelled { features, names, labels, .. } = set;
    Samples { names, dim: features.dim, features: &features.features, labels }
}
