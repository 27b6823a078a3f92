//! Runs of `x2ct train`, by their folders.

use std::path::{Path, PathBuf};

use serde_json::Value;
use x2ct::Error;
use x2ct::archive::Archive;

use super::paper::Source;
use crate::train::checkpoint_path;

/// A run with a checkpoint.
pub struct Run {
    /// Folder of the run.
    pub folder: PathBuf,
    /// Configuration of the run.
    config: Value,
}

impl Run {
    /// What the names of the files of all runs begin with.
    pub const PREFIX: &str = "run-";

    /// The run in a folder.
    ///
    /// # Errors
    /// A folder without a checkpoint, or with one that is damaged.
    pub fn open(folder: &Path) -> x2ct::Result<Self> {
        let path = checkpoint_path(folder);
        if !path.exists() {
            let hint = "pass the folder that `out` names in the run's configuration";
            return Err(Error::file(folder, "holds no checkpoint.safetensors", hint));
        }
        let archive = Archive::open(&path, "x2ct-checkpoint-1", "checkpoint", "train again")?;
        Ok(Run { folder: folder.into(), config: archive.get_json("config")? })
    }

    /// Its name: that of its folder.
    pub fn name(&self) -> String {
        self.folder.file_name().map_or_else(|| "run".into(), |name| name.to_string_lossy().into_owned())
    }

    /// What its files are called.
    pub fn slug(&self) -> String {
        format!("{}{}", Self::PREFIX, self.name())
    }

    /// Refuses runs of one name, which results are told apart by.
    ///
    /// # Errors
    /// Names the first two.
    pub fn expect_apart(runs: &[Run]) -> x2ct::Result<()> {
        for (at, run) in runs.iter().enumerate() {
            if let Some(other) = runs[..at].iter().find(|other| other.name() == run.name()) {
                let problem = format!("has the name of {}: results are told apart by it", other.folder.display());
                return Err(Error::file(&run.folder, problem, "rename one of the folders, or pass one of them"));
            }
        }
        Ok(())
    }

    /// Path of the run's newest checkpoint.
    pub fn checkpoint(&self) -> PathBuf {
        checkpoint_path(&self.folder)
    }

    /// Whether a row of a table is of such a run.
    pub fn fits(&self, source: &Source) -> bool {
        let model = self.config["model"]["name"].as_str().unwrap_or_default();
        let weight = |name: &str| self.config["loss"][name].as_f64().unwrap_or(f64::NAN) as f32;
        match source {
            Source::Run { model: wanted, beta, gamma } => {
                model.starts_with(wanted) && weight("beta") == *beta && weight("gamma") == *gamma
            }
            Source::CtRun { model: wanted, mixer } => {
                model == wanted && self.config["model"]["mixer"]["name"].as_str().unwrap_or("decomposed") == mixer
            }
            Source::Folder { path } => self.folder == *path,
            Source::Features { .. } | Source::Teacher | Source::Absent { .. } => false,
        }
    }

    /// Whether it is of a CT encoder.
    pub fn is_of_cts(&self) -> bool {
        self.config["model"]["name"].as_str().is_some_and(|name| name.starts_with("dcformer"))
    }
}
