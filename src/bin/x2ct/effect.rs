//! Options that have no effect on what is asked for are wrong usage, not silence.
//!
//! A command lists for its options when they act. Only what was given on the command line is held against it; defaults are not.

use clap::parser::ValueSource;
use clap::{ArgMatches, CommandFactory};

use crate::Cli;
use crate::output::usage;

/// When an option acts.
pub struct Rule {
    /// The option's identifier in clap: its long name with `_`.
    pub option: &'static str,
    /// Whether it does now.
    pub acts: bool,
    /// When it would: completes "it acts with".
    pub with: &'static str,
}

impl Rule {
    /// `option` acts if `acts`, which is so with `with`.
    pub fn new(option: &'static str, acts: bool, with: &'static str) -> Self {
        Rule { option, acts, with }
    }
}

/// The options given on the command line, of the subcommand that runs: of `eval compare` those of `compare`.
fn given() -> Option<ArgMatches> {
    let mut matches = Cli::command().try_get_matches().ok()?;
    while let Some((_, of_subcommand)) = matches.remove_subcommand() {
        matches = of_subcommand;
    }
    Some(matches)
}

/// The first option that was given and does not act, as a sentence.
fn idle(matches: &ArgMatches, rules: &[Rule]) -> Option<String> {
    let given = |option: &str| matches.value_source(option) == Some(ValueSource::CommandLine);
    let rule = rules.iter().find(|rule| given(rule.option) && !rule.acts)?;
    Some(format!("`--{}` has no effect here: it acts with {}", rule.option.replace('_', "-"), rule.with))
}

/// Refuses an option that was given and has no effect, as wrong usage.
pub fn check(rules: &[Rule]) -> anyhow::Result<()> {
    match given().and_then(|matches| idle(&matches, rules)) {
        Some(problem) => Err(usage(problem)),
        None => Ok(()),
    }
}
