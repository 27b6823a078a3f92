//! Where probes and scores are written.

use std::path::{Path, PathBuf};

use x2ct::files;

use crate::eval::scores;
use crate::output::check_distinct;

/// The outputs of each portion.
pub struct Outputs(Vec<OfPortion>);

/// The outputs of one portion.
#[derive(Clone, Default)]
pub struct OfPortion {
    /// What `--scores` names.
    pub scores: Option<PathBuf>,
    /// What `--probe` names.
    pub probe: Option<PathBuf>,
}

impl Outputs {
    /// Of several portions each has the name with its per cent behind it.
    pub fn new(portions: &[f64], scores: Option<&Path>, probe: Option<&Path>) -> Self {
        let of = |portion: f64| match portions.len() {
            1 => OfPortion { scores: scores.map(Into::into), probe: probe.map(Into::into) },
            _ => OfPortion {
                scores: scores.map(|name| of_portion(name, portion)),
                probe: probe.map(|name| of_portion(name, portion)),
            },
        };
        Outputs(portions.iter().map(|&portion| of(portion)).collect())
    }

    /// Those of the portion at this place.
    pub fn of(&self, at: usize) -> &OfPortion {
        &self.0[at]
    }

    /// Tries all outputs before the work, and that none is another or an input.
    pub fn check<'a>(&self, inputs: impl IntoIterator<Item = &'a Path>) -> anyhow::Result<()> {
        let scores = self.0.iter().filter_map(|of| of.scores.as_deref()).flat_map(scores::files);
        let all: Vec<PathBuf> = scores.chain(self.0.iter().filter_map(|of| of.probe.clone())).collect();
        check_distinct("--scores and --probe", &all)?;
        all.iter().try_for_each(files::check_writable)?;
        files::check_all_apart(&all, inputs)?;
        Ok(())
    }
}

/// A portion as per cent.
pub fn percent(portion: f64) -> String {
    // 0.07 * 100 is a little more than 7.
    let percent = (portion * 1e8).round() / 1e6;
    percent.to_string()
}

/// A name with the portion's per cent before its ending.
fn of_portion(name: &Path, portion: f64) -> PathBuf {
    let ending = name.extension().filter(|ending| *ending == "safetensors" || *ending == "csv");
    let mut file = if ending.is_some() { name.with_extension("") } else { name.to_path_buf() }.into_os_string();
    file.push(format!("-{}", percent(portion)));
    if let Some(ending) = ending {
        file.push(".");
        file.push(ending);
    }
    file.into()
}
