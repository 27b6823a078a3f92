//! What commands say of the provenance of their inputs: a warning for what is not recorded, a refusal under `--strict`, and the
//! keys `provenance`, `digests` and `warnings` of the report.

use std::path::Path;

use serde_json::{Map, Value, json};
use x2ct::Error;
use x2ct::data::provenance::Undecided;

use crate::output::Report;

/// How much a command takes on trust.
#[derive(clap::Args, Clone, Copy)]
pub struct Trust {
    /// Refuse files that do not say how they were made, instead of warning
    #[arg(long)]
    pub strict: bool,
}

/// The joins of a command's inputs, as they are checked.
pub struct Chain {
    trust: Trust,
    digests: Map<String, Value>,
    warnings: Vec<String>,
}

impl Chain {
    /// No inputs yet.
    pub fn new(trust: Trust) -> Self {
        Chain { trust, digests: Map::new(), warnings: Vec::new() }
    }

    /// An input whose content has this digest.
    pub fn holds(&mut self, name: &str, digest: &str) {
        self.digests.insert(name.into(), json!(digest));
    }

    /// What a comparison of the input in this file could not decide.
    ///
    /// # Errors
    /// Under `--strict` the first such thing.
    pub fn settle(&mut self, file: &Path, undecided: x2ct::Result<Undecided>) -> x2ct::Result<()> {
        let undecided = undecided.map_err(|e| e.of_file(file))?;
        if undecided.is_empty() {
            return Ok(());
        }
        if self.trust.strict {
            let hint = "make it again with this version of x2ct, or leave out --strict";
            return Err(Error::file(file, undecided.join("; "), hint));
        }
        self.warn(file, &undecided.join("; "));
        Ok(())
    }

    /// Says what is doubtful of a file and records it, each once.
    pub fn warn(&mut self, file: &Path, what: &str) {
        let warning = format!("{}: {what}", file.display());
        if !self.warnings.contains(&warning) {
            remark!("x2ct: warning: {warning}");
            self.warnings.push(warning);
        }
    }

    /// Adds what was found to a report.
    pub fn report(&self, report: Report) -> anyhow::Result<Report> {
        let provenance = if self.warnings.is_empty() { "recorded" } else { "unknown" };
        report.with_all(json!({"provenance": provenance, "digests": self.digests, "warnings": self.warnings}))
    }
}
