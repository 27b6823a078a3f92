//! Radiographs that a trained encoder is to embed, for `embed` and `eval`. One that cannot be used costs itself alone.

use std::path::Path;

use x2ct::Error;
use x2ct::data::provenance::Undecided;
use x2ct::data::radiographs::RadiographSet;
use x2ct::train::Checkpoint;

use crate::chain::Chain;

/// Radiographs of a file or of shards.
pub struct Radiographs {
    /// Those that can be used.
    pub set: RadiographSet,
    /// The ids of all, those that cannot be used too.
    pub of_file: Vec<String>,
    /// What could not be decided about how they were made, for the caller to settle.
    pub undecided: Undecided,
}

impl Radiographs {
    /// Reads radiographs and compares them with those that the checkpoint was trained on; `force` takes others and tells it.
    ///
    /// # Errors
    /// Files that cannot be read; no radiograph that can be used; other settings than those of the training, without `force`.
    pub fn read(checkpoint: &Checkpoint, path: &Path, force: bool, chain: &mut Chain) -> x2ct::Result<Self> {
        let (set, left_out) = RadiographSet::read_usable(path)?;
        let provenance = set.provenance();
        chain.doubt_origins(path, &set.doubts())?;
        let undecided = match (checkpoint.sources.expect_alike("radiographs", &provenance), force) {
            (Err(Error::Argument { what, problem, .. }), true) => {
                chain.force(path, &format!("{what}: {problem}"));
                Vec::new()
            }
            (alike, _) => alike.map_err(|e| e.of_file(path))?,
        };
        chain.holds("checkpoint", &checkpoint.digest());
        chain.holds("radiographs", &provenance.digest);
        provenance.from.iter().for_each(|(name, from)| chain.holds(name, &from.digest));
        let of_file = set.ids().iter().chain(left_out.iter().map(|bad| &bad.id)).cloned().collect();
        left_out.into_iter().try_for_each(|bad| chain.fail(bad.error))?;
        Ok(Radiographs { set, of_file, undecided })
    }
}
