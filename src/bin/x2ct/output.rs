//! What commands print: a report on standard output (text, or one JSON object), remarks on standard error.
//!
//! The JSON of every command has one shape: the result's keys at the top level, and beside them `command`, `status` (`ok`,
//! `failed` or `interrupted`), `warnings`, a list of `{file, warning}`, and `failed`, a list of `{file, field, error}`. A command
//! that lists things does so under `rows`. A command that fails before it has a result prints the same object without result
//! keys, and its message on standard error. So does wrong usage, where `--json` is on the command line.

use std::fmt::Arguments;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{LazyLock, Mutex, PoisonError};

use clap::error::{ContextKind, ContextValue};
use serde::Serialize;
use serde_json::{Map, Value, json};
use x2ct::{Error, files};

/// Prints a line of the result on standard output, as `println!` does, and never panics: see [`print`].
macro_rules! say {
    ($($text:tt)*) => { $crate::output::print(format_args!("{}\n", format_args!($($text)*))) };
}

/// Prints a line for the user on standard error, as `eprintln!` does; where that cannot be, the work goes on without.
macro_rules! remark {
    ($($text:tt)*) => { $crate::output::tell(format_args!("{}\n", format_args!($($text)*))) };
}

/// What standard output first failed with.
static STDOUT: Mutex<Option<std::io::Error>> = Mutex::new(None);

/// Writes to standard output. The first failure is kept for [`delivered`], and nothing is written after it.
pub fn print(text: Arguments) {
    let mut failure = STDOUT.lock().unwrap_or_else(PoisonError::into_inner);
    if failure.is_none() {
        let mut out = std::io::stdout().lock();
        *failure = out.write_fmt(text).and_then(|()| out.flush()).err();
    }
}

/// Writes to standard error, if that can be.
pub fn tell(text: Arguments) {
    // One write a line, so that lines of two threads or processes do not mix.
    let _ = std::io::stderr().lock().write_all(text.to_string().as_bytes());
}

/// Whether standard output took all that was printed. A reader that closed the pipe has what it wanted.
pub fn delivered() -> x2ct::Result<()> {
    match STDOUT.lock().unwrap_or_else(PoisonError::into_inner).take() {
        Some(error) if error.kind() != ErrorKind::BrokenPipe => {
            let problem = format!("cannot be written: {error}");
            Err(Error::argument("standard output", problem, "free some space or name another output, and run again"))
        }
        _ => Ok(()),
    }
}

/// One file, row or image that failed while the work went on.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Failure {
    /// The file, or an identifier where there is no file.
    pub file: Option<String>,
    /// The field, key or option at fault.
    pub field: Option<String>,
    /// The whole message.
    pub error: String,
}

impl Failure {
    /// Of an error; `file` is named where the error names none.
    pub fn new(file: impl AsRef<Path>, error: &Error) -> Self {
        let mut failure = Failure::from(error);
        failure.file.get_or_insert_with(|| file.as_ref().to_string_lossy().into_owned());
        failure
    }
}

impl From<&Error> for Failure {
    fn from(error: &Error) -> Self {
        let (file, field) = error.place();
        let text = |path: &Path| path.to_string_lossy().into_owned();
        Failure { file: file.map(text), field: field.map(Into::into), error: error.to_string() }
    }
}

/// What is doubtful of a file, as JSON lists it under `warnings`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Warning {
    /// The file, or an identifier where there is no file.
    pub file: String,
    pub warning: String,
}

impl Warning {
    /// A warning about a file.
    pub fn new(file: impl AsRef<Path>, warning: impl Into<String>) -> Self {
        Warning { file: file.as_ref().to_string_lossy().into_owned(), warning: warning.into() }
    }

    /// Those of a command's outputs that are of an earlier run, since their volumes failed in this one; each is said.
    pub fn stale<P: AsRef<Path>>(outputs: impl IntoIterator<Item = P>) -> Vec<Self> {
        let there = outputs.into_iter().filter(|output| output.as_ref().exists());
        let stale = there.map(|old| Warning::new(old, "Is of an earlier run, and its volume failed in this one."));
        stale.inspect(|warning| remark!("{}", warning.line())).collect()
    }

    /// As it is said.
    pub fn line(&self) -> String {
        format!("x2ct: warning: {}: {}", self.file, self.warning)
    }
}

/// The JSON object of a command that came to its end.
pub struct Report {
    command: &'static str,
    keys: Map<String, Value>,
    warnings: Vec<Warning>,
    failed: Vec<Failure>,
}

impl Report {
    /// An empty report of `command`.
    pub fn new(command: &'static str) -> Self {
        Report { command, keys: Map::new(), warnings: Vec::new(), failed: Vec::new() }
    }

    /// With one more key.
    pub fn with(mut self, key: &str, value: impl Serialize) -> anyhow::Result<Self> {
        self.keys.insert(key.into(), serde_json::to_value(value)?);
        Ok(self)
    }

    /// With all keys of `value`, an object.
    pub fn with_all(mut self, value: impl Serialize) -> anyhow::Result<Self> {
        match serde_json::to_value(value)? {
            Value::Object(keys) => self.keys.extend(keys),
            other => anyhow::bail!("a report is an object, and this is {other}"),
        }
        Ok(self)
    }

    /// With what was doubtful; saying it is the caller's.
    pub fn warning(mut self, warnings: impl IntoIterator<Item = Warning>) -> Self {
        self.warnings.extend(warnings);
        self
    }

    /// With what failed while the work went on.
    pub fn failing(mut self, failed: impl IntoIterator<Item = Failure>) -> Self {
        self.failed.extend(failed);
        self
    }

    /// The exit code: 1 where something failed.
    pub fn code(&self) -> ExitCode {
        ExitCode::from(u8::from(!self.failed.is_empty()))
    }

    /// Prints what follows the rows that were printed as they came; gives the exit code.
    pub fn finish_rows(self, rows: Rows) -> anyhow::Result<ExitCode> {
        let code = self.code();
        if !rows.begun {
            return self.with("rows", [(); 0])?.finish(true, || ());
        }
        say!("],{}", &self.object()?[1..]);
        Ok(code)
    }

    /// Prints the object, or runs `text` where no JSON is wanted; gives the exit code.
    pub fn finish(self, json: bool, text: impl FnOnce()) -> anyhow::Result<ExitCode> {
        let code = self.code();
        if json {
            say!("{}", self.object()?);
        } else {
            text();
        }
        Ok(code)
    }
}

impl Report {
    /// The object as text.
    fn object(self) -> anyhow::Result<String> {
        let status = if self.failed.is_empty() { "ok" } else { "failed" };
        object(self.command, status, self.keys, &self.warnings, &self.failed)
    }
}

/// Rows of a JSON report, printed one a line as they come: what is counted in hours outlives an interruption.
#[derive(Default)]
pub struct Rows {
    begun: bool,
}

impl Rows {
    /// Prints one.
    pub fn print(&mut self, row: &impl Serialize) -> anyhow::Result<()> {
        let before = if std::mem::replace(&mut self.begun, true) { "," } else { "{\"rows\": [\n" };
        say!("{before}{}", serde_json::to_string(row)?);
        Ok(())
    }
}

/// Prints the object of a command that ended with an error.
pub fn print_error(command: &str, error: &anyhow::Error) -> anyhow::Result<()> {
    let failure = match error.downcast_ref::<Error>() {
        Some(error) => Failure::from(error),
        None => Failure { file: None, field: None, error: format!("{error:#}") },
    };
    let status = if is_interruption(error) { "interrupted" } else { "failed" };
    say!("{}", object(command, status, Map::new(), &[], &[failure])?);
    Ok(())
}

/// Whether the user asked to stop.
pub fn is_interruption(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref::<Error>(), Some(Error::Interrupted(_)))
}

/// The exit code of a command that ended with an error.
pub fn exit_code(error: &anyhow::Error) -> ExitCode {
    ExitCode::from(match () {
        () if is_interruption(error) => 130,
        () if error.is::<Usage>() => 2,
        () => 1,
    })
}

/// Options that make no sense together.
#[derive(Debug)]
pub struct Usage(String);

impl std::fmt::Display for Usage {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(f, "{}; see --help", self.0)
    }
}

impl std::error::Error for Usage {}

/// The error of wrong usage that clap cannot see, such as an option without an effect on what is asked for.
pub fn usage(problem: impl Into<String>) -> anyhow::Error {
    Usage(problem.into()).into()
}

/// Refuses `options` of which two would write one file, as wrong usage.
pub fn check_distinct(options: &str, outputs: &[PathBuf]) -> anyhow::Result<()> {
    let places: Vec<_> = outputs.iter().map(files::resolved).collect();
    let twice = (1..places.len()).find(|&at| places[at].is_some() && places[..at].contains(&places[at]));
    match twice {
        Some(at) => Err(usage(format!("{options} would both write {}", outputs[at].display()))),
        None => Ok(()),
    }
}

/// Prints what clap says of a command line: help, the version, or what is wrong with it; gives the exit code.
pub fn of_clap(error: &clap::Error, cli: &clap::Command) -> ExitCode {
    // An output that is closed or full leaves nothing to say.
    let _ = error.print();
    let arguments: Vec<String> = std::env::args_os().skip(1).map(|a| a.to_string_lossy().into_owned()).collect();
    if error.use_stderr() && arguments.iter().any(|argument| argument == "--json") {
        let known = |argument: &&String| cli.get_subcommands().any(|command| command.get_name() == *argument);
        let command = arguments.iter().find(known).map_or("x2ct", String::as_str);
        let field = match error.get(ContextKind::InvalidArg) {
            Some(ContextValue::String(argument)) => Some(argument.clone()),
            Some(ContextValue::Strings(arguments)) => Some(arguments.join(", ")),
            _ => None,
        };
        let text = error.render().to_string();
        let message = text.lines().take_while(|line| !line.starts_with("Usage:")).map(str::trim);
        let message = message.filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" ");
        let message = message.trim_start_matches("error: ").to_string();
        let failure = Failure { file: None, field, error: message };
        if let Ok(text) = object(command, "failed", Map::new(), &[], &[failure]) {
            say!("{text}");
        }
    }
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2))
}

fn object(
    command: &str,
    status: &str,
    keys: Map<String, Value>,
    warnings: &[Warning],
    failed: &[Failure],
) -> anyhow::Result<String> {
    let mut object = Map::new();
    object.insert("command".into(), json!(command));
    object.insert("status".into(), json!(status));
    object.extend(keys);
    object.insert("warnings".into(), serde_json::to_value(warnings)?);
    object.insert("failed".into(), serde_json::to_value(failed)?);
    Ok(serde_json::to_string_pretty(&object)?)
}

/// The program's version and, of a release built in a checkout, its commit.
pub fn version() -> &'static str {
    static VERSION: LazyLock<String> = LazyLock::new(|| {
        let commit = match option_env!("X2CT_COMMIT") {
            Some(commit) => format!("commit {commit}"),
            None => "not a release build of a git checkout: no commit known".into(),
        };
        format!("{} ({commit})", env!("CARGO_PKG_VERSION"))
    });
    &VERSION
}

/// The command line as it was given; arguments with anything but letters, digits and `_-./=,:+@%` are quoted.
pub fn command_line() -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-./=,:+@%".contains(c);
    let quoted = |argument: std::ffi::OsString| {
        let text = argument.to_string_lossy().into_owned();
        if !text.is_empty() && text.chars().all(plain) { text } else { format!("'{}'", text.replace('\'', "'\\''")) }
    };
    std::env::args_os().map(quoted).collect::<Vec<_>>().join(" ")
}
