//! What commands say of the provenance of their inputs: a warning for what is not recorded, a refusal under `--strict`, and the
//! keys `provenance` (`recorded`, `unknown`, or `forced` of inputs that do not belong together), `digests` and `warnings` of the
//! report; and what of them costs itself alone, under `failed`.

use std::collections::HashSet;
use std::path::Path;

use serde_json::{Map, Value, json};
use x2ct::Error;
use x2ct::data::origins::Doubt;
use x2ct::data::provenance::{Provenance, Undecided};
use x2ct::table::{BadRow, first_of};

use crate::output::{Failure, Report, Warning};

/// How much a command takes on trust.
#[derive(clap::Args, Clone, Copy)]
pub struct Trust {
    /// Refuse what is otherwise warned of or left out: files that do not say how they were made, tables that lack rows
    #[arg(long)]
    pub strict: bool,
}

/// The joins of a command's inputs, as they are checked.
pub struct Chain {
    trust: Trust,
    digests: Map<String, Value>,
    warnings: Vec<Warning>,
    failed: Vec<Failure>,
    provenance: &'static str,
}

impl Chain {
    /// No inputs yet.
    pub fn new(trust: Trust) -> Self {
        Chain { trust, digests: Map::new(), warnings: Vec::new(), failed: Vec::new(), provenance: "recorded" }
    }

    /// An input whose content has this digest.
    pub fn holds(&mut self, name: &str, digest: &str) {
        self.digests.insert(name.into(), json!(digest));
    }

    /// The digests of the inputs, by name.
    pub fn digests(&self) -> impl Iterator<Item = (&str, &str)> {
        self.digests.iter().map(|(name, digest)| (name.as_str(), digest.as_str().unwrap_or_default()))
    }

    /// The provenance of what is made of the inputs, in this way; of `unknown` or `forced` inputs it is not known.
    pub fn provenance(&self, settings: Map<String, Value>) -> Provenance {
        let parts = self.digests().map(|(name, digest)| (name, digest.to_string()));
        Provenance { known: self.provenance == "recorded", ..Provenance::of_digests(settings, parts) }
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
        let undecided = undecided.join("; ");
        if self.trust.strict {
            return Err(Error::file(file, undecided, "make it again with this version of x2ct, or leave out --strict"));
        }
        self.warn(file, &undecided);
        Ok(())
    }

    /// What is doubtful of an input, and what would make it good.
    ///
    /// # Errors
    /// Under `--strict` this very thing.
    pub fn doubt(&mut self, file: &Path, what: &str, remedy: &str) -> x2ct::Result<()> {
        if self.trust.strict {
            return Err(Error::file(file, what, format!("{remedy}, or leave out --strict")));
        }
        self.note(file, what);
        Ok(())
    }

    /// What is doubtful of how the CTs of volumes or radiographs were taken.
    ///
    /// # Errors
    /// Under `--strict` the first such thing.
    pub fn doubt_origins(&mut self, file: &Path, doubts: &[Doubt]) -> x2ct::Result<()> {
        doubts.iter().try_for_each(|doubt| self.doubt(file, &doubt.what, doubt.remedy))
    }

    /// Rows of a table that cannot be used, each as a [`Self::doubt`].
    ///
    /// # Errors
    /// Under `--strict` the first of them.
    pub fn leave_out(&mut self, rows: &[BadRow]) -> x2ct::Result<()> {
        rows.iter().try_for_each(|row| {
            let what = format!("{}: {}; the row is left out", row.place(), row.problem);
            self.doubt(&row.table, &what, "correct the row")
        })
    }

    /// One file or row that is left out because of this error, which `say` is to say and the report lists, each once.
    ///
    /// # Errors
    /// Under `--strict` that error.
    pub fn fail_saying(&mut self, error: x2ct::Error, say: impl FnOnce(&str)) -> x2ct::Result<()> {
        if self.trust.strict {
            return Err(error);
        }
        let failure = Failure::from(&error);
        if !self.failed.contains(&failure) {
            say(&format!("x2ct: left out: {error}"));
            self.failed.push(failure);
        }
        Ok(())
    }

    /// [`Self::fail_saying`] on standard error.
    ///
    /// # Errors
    /// Under `--strict` the error.
    pub fn fail(&mut self, error: x2ct::Error) -> x2ct::Result<()> {
        self.fail_saying(error, |line| remark!("{line}"))
    }

    /// The rows of `ids` that have no fault. Each other costs itself.
    ///
    /// # Errors
    /// Under `--strict` the first fault; else the first where every row, which are `what`, such as "volumes", has one.
    pub fn keep(
        &mut self,
        what: &str,
        ids: &[String],
        fault: impl Fn(&String) -> Option<x2ct::Error>,
    ) -> x2ct::Result<Vec<usize>> {
        let (mut kept, mut faults) = (Vec::new(), Vec::new());
        for (row, id) in ids.iter().enumerate() {
            match fault(id) {
                None => kept.push(row),
                Some(error) => faults.push(error),
            }
        }
        if kept.is_empty() && !faults.is_empty() {
            let others = faults.len() - 1;
            return Err(faults.swap_remove(0).with_others(others, what));
        }
        faults.into_iter().try_for_each(|error| self.fail(error))?;
        Ok(kept)
    }

    /// An input that does not belong to the others and is taken all the same.
    pub fn force(&mut self, file: &Path, what: &str) {
        self.provenance = "forced";
        self.note(file, what);
    }

    /// Whether an input was taken that does not belong to the others.
    pub fn is_forced(&self) -> bool {
        self.provenance == "forced"
    }

    /// Says what is doubtful of how a file was made and records it.
    pub fn warn(&mut self, file: &Path, what: &str) {
        if self.provenance != "forced" {
            self.provenance = "unknown";
        }
        self.note(file, what);
    }

    /// Says what else is doubtful of a file and records it, each once.
    pub fn note(&mut self, file: &Path, what: &str) {
        let warning = Warning::new(file, what);
        if !self.warnings.contains(&warning) {
            remark!("{}", warning.line());
            self.warnings.push(warning);
        }
    }

    /// Says how many of the `others`, which stand in another file, this file with its ids lacks, and names the first.
    pub fn lacks(&mut self, file: &Path, ids: &[String], other: &Path, others: &[String]) {
        let ids: HashSet<&String> = ids.iter().collect();
        let lacking: Vec<&String> = others.iter().filter(|id| !ids.contains(id)).collect();
        if !lacking.is_empty() {
            let (count, first) = (lacking.len(), first_of(&lacking));
            self.note(file, &format!("has none of {count} volume(s) of {}: {first}", other.display()));
        }
    }

    /// What was left out and what was doubtful, as it was said.
    pub fn told(&self) -> Vec<String> {
        let failed = self.failed.iter().map(|failure| failure.error.clone());
        failed.chain(self.warnings.iter().map(|warning| format!("{}: {}", warning.file, warning.warning))).collect()
    }

    /// Adds what was found to a report.
    pub fn report(self, report: Report) -> anyhow::Result<Report> {
        let report = report.with("provenance", self.provenance)?;
        self.report_digests(report)
    }

    /// The same for files that no x2ct made, which have no provenance.
    pub fn report_digests(self, report: Report) -> anyhow::Result<Report> {
        Ok(report.with("digests", self.digests)?.warning(self.warnings).failing(self.failed))
    }
}
