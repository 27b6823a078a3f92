//! Files to read, which are plain ones; output files, complete or absent, never half-written; and paths as text.

use std::collections::HashMap;
use std::fs::{File, Metadata, OpenOptions};
use std::io::{BufWriter, ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use serde::Serializer;

use crate::error::{Error, Result};

mod claim;
mod unfinished;
pub use claim::Claim;
pub(crate) use unfinished::Unfinished;

/// Opens a file to read.
///
/// # Errors
/// What is no plain file: opening a pipe waits for somebody to write to it, and a device may never end.
pub fn open(path: impl AsRef<Path>) -> std::io::Result<File> {
    let path = path.as_ref();
    let kind = path.metadata()?.file_type();
    if kind.is_file() {
        return File::open(path);
    }
    let what = match () {
        () if kind.is_dir() => "a folder",
        () if kind.is_fifo() => "a pipe",
        () if kind.is_socket() => "a socket",
        () => "a device",
    };
    Err(std::io::Error::new(ErrorKind::InvalidInput, format!("it is {what}, not a file")))
}

/// All bytes of a file, which is opened as [`open`] does.
pub fn read(path: impl AsRef<Path>) -> std::io::Result<Vec<u8>> {
    let mut file = open(path)?;
    let mut bytes = Vec::with_capacity(file.metadata().map_or(0, |status| status.len() as usize));
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Writes `bytes` to `path` atomically: a temporary file in the same folder, synced, then renamed over the old one. A
/// crash, a full disk or a kill leaves the old file, or none. A new file gets the usual mode (0644 under the usual
/// umask), an existing one keeps its own. A link stays, and what it points to is written. What is no plain file (a FIFO, a
/// device, the standard output by any of its names) is written to as it is.
pub fn write_atomic(path: impl AsRef<Path>, bytes: &[u8]) -> Result<()> {
    let path = path.as_ref();
    write_atomic_with(path, |out| out.write_all(bytes).map_err(|e| Error::io(path, "write", &e)))
}

/// As [`write_atomic`], with content that `fill` writes piece by piece; its error leaves the old file.
pub fn write_atomic_with(path: impl AsRef<Path>, fill: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<()> {
    let path = path.as_ref();
    let refuse = |e: std::io::Error| Error::io(path, "write", &e);
    match Target::of(path)? {
        Target::File(target) => {
            let mut file = BufWriter::with_capacity(1 << 20, Unfinished::begin(&target).map_err(refuse)?);
            fill(&mut file)?;
            file.into_inner().map_err(|e| refuse(e.into_error()))?.commit().map_err(refuse)
        }
        Target::Stream(open) => {
            let mut file = BufWriter::with_capacity(1 << 20, open().map_err(refuse)?);
            fill(&mut file)?;
            file.flush().map_err(refuse)
        }
    }
}

/// Whether [`write_atomic`] could write `path` now, found out by beginning to and giving up: no file is made or changed.
pub fn check_writable(path: impl AsRef<Path>) -> Result<()> {
    let path = path.as_ref();
    match Target::of(path)? {
        Target::File(target) => {
            let folder = target.parent().filter(|folder| !folder.as_os_str().is_empty() && !folder.exists());
            Unfinished::begin(&target).and_then(Unfinished::discard).map_err(|e| match folder {
                Some(folder) if e.kind() == ErrorKind::NotFound => {
                    let make = format!("make the folder first: mkdir -p {}", lossy(folder));
                    Error::file(path, "cannot write: its folder does not exist", make)
                }
                _ => Error::io(path, "write", &e),
            })
        }
        // To open one could wait for its reader, or end what the reader waits for.
        Target::Stream(_) => Ok(()),
    }
}

/// Removes what processes that were killed while they wrote `path` have left: hidden files beside it, `.NAME.` and six letters or
/// digits. A living process's file stays. To write `path` does this too, and goes on where it cannot.
pub fn remove_unfinished(path: impl AsRef<Path>) -> Result<()> {
    unfinished::sweep(path.as_ref())
}

/// [`remove_unfinished`] of all files of a folder whose names end so.
pub fn remove_all_unfinished(folder: impl AsRef<Path>, ending: &str) -> Result<()> {
    unfinished::sweep_all(folder.as_ref(), ending)
}

/// Refuses an output that is one of the inputs, by whatever name, or lies in an input folder: to write it would lose what is read,
/// or be read the next time.
pub fn check_apart<P: AsRef<Path>>(output: impl AsRef<Path>, inputs: impl IntoIterator<Item = P>) -> Result<()> {
    check_all_apart([output], inputs)
}

/// [`check_apart`] of several outputs.
pub fn check_all_apart<O: AsRef<Path>, I: AsRef<Path>>(
    outputs: impl IntoIterator<Item = O>,
    inputs: impl IntoIterator<Item = I>,
) -> Result<()> {
    let inputs: HashMap<PathBuf, I> =
        inputs.into_iter().filter_map(|input| Some((input.as_ref().canonicalize().ok()?, input))).collect();
    for output in outputs {
        let Some(file) = resolved(&output) else { continue };
        let problem = match file.ancestors().find_map(|at| Some((at, inputs.get(at)?))) {
            Some((at, input)) if at == file && file.is_file() => {
                format!("is the same file as the input {}", lossy(input))
            }
            Some((at, input)) if at != file => format!("lies in the input folder {}", lossy(input)),
            _ => continue,
        };
        return Err(Error::file(output, problem, "name another file to write"));
    }
    Ok(())
}

/// Where a path leads, links followed; of what is not there yet, its folder and name.
pub fn resolved(path: impl AsRef<Path>) -> Option<PathBuf> {
    let path = path.as_ref();
    path.canonicalize().ok().or_else(|| {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        Some(folder.canonicalize().ok()?.join(path.file_name()?))
    })
}

/// What stands behind an output path.
enum Target<'a> {
    /// A plain file or none yet, not a link.
    File(PathBuf),
    /// What has no old content to keep.
    Stream(Box<dyn FnOnce() -> std::io::Result<File> + 'a>),
}

impl<'a> Target<'a> {
    fn of(path: &'a Path) -> Result<Self> {
        match path.metadata() {
            Ok(found) if found.is_dir() => Err(Error::file(path, "is a folder", "name a file in it")),
            Ok(found) => {
                // Whatever it is called: renaming a file over the one that a shell has opened would hide what is printed later.
                if let Some(output) = standard_output(&found) {
                    return Ok(Target::Stream(Box::new(move || Ok(output))));
                }
                match found.is_file() {
                    true => Ok(Target::File(follow(path)?)),
                    false => Ok(Target::Stream(Box::new(move || OpenOptions::new().write(true).open(path)))),
                }
            }
            // Nothing yet, or what cannot be looked at, which to write says best.
            Err(_) => Ok(Target::File(follow(path)?)),
        }
    }
}

/// Standard output or error, if that is the file found; what is written continues what has been.
fn standard_output(found: &Metadata) -> Option<File> {
    let (out, err) = (std::io::stdout(), std::io::stderr());
    let files = [out.as_fd(), err.as_fd()].map(|fd| fd.try_clone_to_owned().map(File::from));
    files.into_iter().flatten().find(|file| {
        file.metadata().is_ok_and(|own| [own.dev(), own.ino(), own.rdev()] == [found.dev(), found.ino(), found.rdev()])
    })
}

/// The path that links lead to, be there anything or not.
fn follow(path: &Path) -> Result<PathBuf> {
    let mut target = path.to_path_buf();
    // As many as Linux follows.
    for _ in 0..40 {
        match target.read_link() {
            Ok(next) => target = target.parent().unwrap_or(Path::new("")).join(next),
            Err(_) => return Ok(target),
        }
    }
    Err(Error::file(path, "is a link that leads to itself", "name another file"))
}

/// [`std::fs::create_dir_all`] with an error that names the folder.
pub fn create_folder(path: impl AsRef<Path>) -> Result<()> {
    std::fs::create_dir_all(&path).map_err(|e| Error::io(path, "create the folder", &e))
}

/// Whether [`create_folder`] could make a folder, and files be written there, found out without making any.
pub fn check_folder(path: impl AsRef<Path>) -> Result<()> {
    let path = path.as_ref();
    let existing = path.ancestors().find(|folder| folder.exists()).unwrap_or(Path::new("."));
    if !existing.is_dir() {
        let problem = format!("cannot create the folder: {} is a file", lossy(existing));
        return Err(Error::file(path, problem, "name another folder"));
    }
    let failed = |e: std::io::Error| Error::io(path, "write to the folder", &e);
    Unfinished::begin(&existing.join("x2ct")).and_then(Unfinished::discard).map_err(failed)
}

/// A path as text for messages and JSON: what is not UTF-8 becomes U+FFFD. (serde refuses such a path.)
pub fn lossy(path: impl AsRef<Path>) -> String {
    path.as_ref().to_string_lossy().into_owned()
}

/// [`lossy`] for serde.
pub(crate) fn serialize<S: Serializer>(path: impl AsRef<Path>, s: S) -> std::result::Result<S::Ok, S::Error> {
    s.serialize_str(&lossy(path))
}

/// [`lossy`] for serde, of a path that may be absent.
pub(crate) fn serialize_option<S: Serializer>(path: &Option<PathBuf>, s: S) -> std::result::Result<S::Ok, S::Error> {
    match path {
        Some(path) => s.serialize_some(&lossy(path)),
        None => s.serialize_none(),
    }
}

/// A path of a configuration file as a shell would read it: `~/` is the home folder.
///
/// # Errors
/// `~name`, and `~` without a home folder.
pub fn expand(path: &Path) -> Result<PathBuf> {
    let mut parts = path.components();
    let first = parts.next().map(|part| part.as_os_str().to_string_lossy().into_owned()).unwrap_or_default();
    if !first.starts_with('~') {
        return Ok(path.to_path_buf());
    }
    match std::env::home_dir().filter(|home| first == "~" && home.is_absolute()) {
        Some(home) => Ok(home.join(parts.as_path())),
        None => Err(Error::file(path, "begins with ~, and that home folder is not known", "write the path from / on")),
    }
}

/// What is wrong with a TOML file, with the line and the key.
pub fn toml_mistake(text: &str, error: &toml::de::Error) -> String {
    let message = error.message().replace('\n', " ");
    let message = ["usize", "u64", "u32"]
        .iter()
        .fold(message, |m, name| m.replace(&format!("expected {name}"), "expected a whole number of at least 0"));
    let message =
        ["f64", "f32"].iter().fold(message, |m, name| m.replace(&format!("expected {name}"), "expected a number"));
    let at = error.span().map_or(0, |span| span.start);
    let (before, line) = (&text[..at], text[at..].lines().next().unwrap_or_default());
    let begin = before.rfind('\n').map_or(0, |newline| newline + 1);
    let number = before.matches('\n').count() + 1;
    let whole = format!("{}{line}", &text[begin..at]);
    // What is missing stands nowhere, and what is unknown names itself.
    let key = whole
        .split_once('=')
        .map(|(key, _)| key.trim())
        .filter(|key| !message.starts_with("missing") && !message.contains(&format!("`{key}`")));
    match key {
        Some(key) => format!("line {number}: {key}: {message}"),
        None => format!("line {number}: {message}"),
    }
}
