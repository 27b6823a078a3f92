//! Malformed and contradictory inputs from a seeded generator: headers, tables, configurations, numbers, images, caches and
//! golden files. Whatever is drawn, the program ends in order (no panic, no signal), says what is wrong with file and field,
//! and leaves nothing behind that a good run would leave; what it takes without a word gives the bytes of the good input.

mod archives;
mod headers;
mod images;
mod numbers;
mod tables;
pub mod workspace;

use std::path::{Path, PathBuf};
use std::process::Output;

use workspace::Workspace;
use x2ct::philox::Rng;

/// Seed of every draw.
const SEED: u64 = 20_261_130;

/// What an input must lead to.
pub enum Demand {
    /// Exit code 1 or 2, and no output.
    Refused,
    /// Refused, or one warning at least.
    Said,
    /// Refused, or a warning, or the very bytes that the good input gives.
    SaidOrSame(Vec<u8>),
}

/// One input and the command that meets it.
pub struct Case {
    /// What was done to a good input.
    pub what: String,
    /// The command, its words separated by spaces.
    pub command: String,
    /// Where the command writes, if it is to.
    pub output: Option<PathBuf>,
    /// What must come of it.
    pub demand: Demand,
    /// Words of which every one must be said; alternatives are separated by `|`.
    pub words: Vec<String>,
}

impl Case {
    /// A case of a command.
    pub fn new(what: impl Into<String>, command: impl Into<String>, demand: Demand, words: &[&str]) -> Self {
        let words = words.iter().map(|word| word.to_string()).collect();
        Case { what: what.into(), command: command.into(), output: None, demand, words }
    }

    /// With the place it writes to.
    pub fn writing(mut self, output: impl Into<PathBuf>) -> Self {
        self.output = Some(output.into());
        self
    }

    /// What is wrong with how the program took it.
    fn verdict(&self, at: &Path, run: &Output) -> Result<(), String> {
        let said = String::from_utf8_lossy(&run.stderr).into_owned();
        let code = run.status.code().ok_or("ended by a signal")?;
        if said.contains("panicked") || !(0..=2).contains(&code) {
            return Err(format!("ended with {code}: {said}"));
        }
        let (refused, warned) = (code != 0, said.contains("warning"));
        let output = self.output.as_ref().map(|path| at.join(path));
        let same = match (&self.demand, &output) {
            (Demand::SaidOrSame(good), Some(path)) => std::fs::read(path).is_ok_and(|made| made == *good),
            _ => false,
        };
        let demanded = match self.demand {
            Demand::Refused => refused,
            Demand::Said => refused || warned,
            Demand::SaidOrSame(_) => refused || warned || same,
        };
        if !demanded {
            return Err(format!("passed silently: {said}"));
        }
        if refused && output.as_ref().is_some_and(|path| path.exists()) {
            return Err("refused, and left its output behind".into());
        }
        let missing = self.words.iter().find(|word| !word.split('|').any(|word| said.contains(word)));
        match missing {
            Some(word) if refused || warned => Err(format!("does not say {word:?}: {said}")),
            _ => Ok(()),
        }
    }
}

/// A sequence of draws of its own for case `index` of a kind.
fn draws(kind: u32, index: usize) -> Rng {
    Rng::new(SEED, index as u64, kind)
}

/// Runs every case and reports all that went wrong.
fn try_all(kind: &str, workspace: &Workspace, cases: Vec<Case>, at_least: usize) {
    assert!(cases.len() >= at_least, "{kind}: {} cases, {at_least} are promised", cases.len());
    let wrong: Vec<String> = cases
        .iter()
        .filter_map(|case| {
            let run = crate::cli::x2ct(workspace.at(), &case.command);
            let wrong = case.verdict(workspace.at(), &run).err()?;
            Some(format!("{kind}: {} (x2ct {}): {wrong}", case.what, case.command))
        })
        .collect();
    assert!(wrong.is_empty(), "{} of {} inputs:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
    println!("{kind}: {} inputs, each refused or said", cases.len());
}

#[test]
fn headers_and_voxels() {
    let workspace = Workspace::empty();
    let cases = headers::cases(&workspace);
    try_all("NIfTI", &workspace, cases, 70);
}

#[test]
fn tables_of_a_data_set() {
    let workspace = Workspace::with_data();
    let cases = tables::cases(&workspace);
    try_all("tables", &workspace, cases, 30);
}

#[test]
fn configurations_and_options() {
    let workspace = Workspace::with_data();
    let cases = numbers::cases(&workspace);
    try_all("numbers", &workspace, cases, 70);
}

#[test]
fn images_caches_and_golden_files() {
    let workspace = Workspace::with_data();
    let mut cases = images::cases(&workspace);
    cases.extend(archives::cases(&workspace));
    try_all("files", &workspace, cases, 70);
}
