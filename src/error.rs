//! The one error type of the library.
//!
//! Every variant answers three questions in one line: what (file, field, shape or kernel), why, and what to do next.

use std::path::{Path, PathBuf};

/// The library's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, where, and what to do about it.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// A file that cannot be read, written or understood.
    #[error("{}: {}{problem}; {hint}", path.display(), field.as_ref().map(|f| format!("{f}: ")).unwrap_or_default())]
    File { path: PathBuf, field: Option<String>, problem: String, hint: String },

    /// An argument, shape, data type or configuration value that an operation refuses.
    #[error("{what}: {problem}; {hint}")]
    Argument { what: String, problem: String, hint: String },

    /// A kernel that could not be launched, or that failed while running.
    #[error("kernel {kernel} on {device}: {problem}")]
    Launch { kernel: &'static str, device: String, problem: String },

    /// An allocation that the device refused.
    #[error("out of memory on {device}: {what} needs {requested} bytes, {free} bytes are free; use a smaller batch")]
    OutOfMemory { device: String, what: String, requested: usize, free: usize },

    /// A device that is absent, too old, or reported a failure of its own.
    #[error("{device}: {problem}; {hint}")]
    Device { device: String, problem: String, hint: String },

    /// The user asked to stop; what was complete has been kept.
    #[error("interrupted: {0}")]
    Interrupted(String),
}

impl Error {
    /// A [`Error::File`].
    pub fn file(path: impl AsRef<Path>, problem: impl Into<String>, hint: impl Into<String>) -> Self {
        Error::File { path: path.as_ref().to_path_buf(), field: None, problem: problem.into(), hint: hint.into() }
    }

    /// The file and the field, key or option that the error names, where it names one.
    pub fn place(&self) -> (Option<&Path>, Option<&str>) {
        match self {
            Error::File { path, field, .. } => (Some(path), field.as_deref()),
            Error::Argument { what, .. } => (None, Some(what)),
            _ => (None, None),
        }
    }

    /// Whether a device or a launch on it failed: the next piece of work would fail as well.
    pub fn is_of_device(&self) -> bool {
        matches!(self, Error::Device { .. } | Error::Launch { .. })
    }

    /// A [`Error::File`] from an I/O error, with advice that fits its kind.
    pub fn io(path: impl AsRef<Path>, action: &str, error: &std::io::Error) -> Self {
        use std::io::ErrorKind::*;
        let hint = match error.kind() {
            NotFound => "check the path",
            PermissionDenied => "check the permissions of the file and its folder",
            InvalidInput => "name a plain file, and write what comes from a pipe or a device to one first",
            StorageFull | QuotaExceeded => "free some space and run again",
            _ => "check the disk and run again",
        };
        Error::file(path, format!("cannot {action}: {error}"), hint)
    }

    /// An [`Error::Argument`] whose value stands in a file, as an [`Error::File`]; others as they are.
    pub fn of_file(self, path: impl AsRef<Path>) -> Self {
        match self {
            Error::Argument { what, problem, hint } => {
                Error::File { path: path.as_ref().to_path_buf(), field: Some(what), problem, hint }
            }
            other => other,
        }
    }

    /// The same with this advice, where the error gives any.
    pub fn advising(mut self, advice: &str) -> Self {
        if let Error::File { hint, .. } | Error::Argument { hint, .. } | Error::Device { hint, .. } = &mut self {
            *hint = advice.into();
        }
        self
    }

    /// The first of several errors, each of which cost its own `what`, such as "volumes", where none is left.
    pub fn with_others(self, others: usize, what: &str) -> Self {
        let all =
            if others == 0 { String::new() } else { format!("{others} other {what} cannot be used either, and ") };
        let more = |problem: String| format!("{problem} ({all}none is left)");
        match self {
            Error::File { path, field, problem, hint } => Error::File { path, field, problem: more(problem), hint },
            Error::Argument { what, problem, hint } => Error::Argument { what, problem: more(problem), hint },
            other => other,
        }
    }

    /// A [`Error::Argument`].
    pub fn argument(what: impl Into<String>, problem: impl Into<String>, hint: impl Into<String>) -> Self {
        Error::Argument { what: what.into(), problem: problem.into(), hint: hint.into() }
    }
}
