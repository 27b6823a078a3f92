//! Output files under way: hidden files beside the output, `.NAME.` and six letters or digits, each locked by the process that
//! writes it. The lock goes with the process, so that what a killed one left can be told from what is being written.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::{File, OpenOptions};
use std::io::{Result, Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{LazyLock, Mutex, PoisonError};

use atomic_write_file::AtomicWriteFile;
use nix::fcntl::{Flock, FlockArg};

use crate::Error;

/// A file that appears, whole, with [`Unfinished::commit`], and never if that is not reached.
pub(crate) struct Unfinished {
    file: AtomicWriteFile,
    /// None on a file system without locks, where what is left of a killed process stays.
    _lock: Option<Flock<File>>,
}

impl Unfinished {
    /// Begins to write `path` anew. What killed processes have left of it is removed, if that can be.
    pub fn begin(path: &Path) -> Result<Self> {
        sweep_once(path);
        loop {
            let file = AtomicWriteFile::open(path)?;
            let lock = Flock::lock(file.as_file().try_clone()?, FlockArg::LockExclusive).ok();
            // Else another process took it for a killed one's, before it was locked.
            if file.as_file().metadata()?.nlink() > 0 {
                return Ok(Unfinished { file, _lock: lock });
            }
        }
    }

    /// Moves the file to its place.
    pub fn commit(self) -> Result<()> {
        self.file.commit()
    }

    /// Gives it up.
    pub fn discard(self) -> Result<()> {
        self.file.discard()
    }
}

impl Write for Unfinished {
    fn write(&mut self, bytes: &[u8]) -> Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> Result<()> {
        self.file.flush()
    }
}

impl Seek for Unfinished {
    fn seek(&mut self, to: SeekFrom) -> Result<u64> {
        self.file.seek(to)
    }
}

/// Unfinished files of a folder by the name of what they would have become.
type Found = HashMap<OsString, Vec<PathBuf>>;

/// What there was in each folder when this process first wrote to it: to look again for each of thousands of outputs would cost.
static FOUND: LazyLock<Mutex<HashMap<PathBuf, Found>>> = LazyLock::new(Default::default);

/// Removes what killed processes have left of `path`, as far as it was there when this process first wrote to the folder.
fn sweep_once(path: &Path) {
    let (folder, name) = parts(path);
    let mut found = FOUND.lock().unwrap_or_else(PoisonError::into_inner);
    let found = found.entry(folder.into()).or_insert_with(|| find(folder).unwrap_or_default());
    for left in found.remove(name).unwrap_or_default() {
        // A folder that takes no changes says so when the output is written.
        let _ = remove_left(&left);
    }
}

/// Removes what killed processes have left of `path`.
///
/// # Errors
/// A folder that cannot be read, or a file that cannot be removed.
pub(super) fn sweep(path: &Path) -> crate::Result<()> {
    let (folder, name) = parts(path);
    remove_where(folder, |other| other == name)
}

/// Removes what killed processes have left of all files of a folder whose names end so.
///
/// # Errors
/// A folder that cannot be read, or a file that cannot be removed.
pub(super) fn sweep_all(folder: &Path, ending: &str) -> crate::Result<()> {
    remove_where(folder, |name| name.as_bytes().ends_with(ending.as_bytes()))
}

/// Removes what killed processes have left of the files of such names.
fn remove_where(folder: &Path, is: impl Fn(&OsStr) -> bool) -> crate::Result<()> {
    let found = find(folder).map_err(|e| Error::io(folder, "read the folder", &e))?;
    let mut left = found.into_iter().filter(|(name, _)| is(name)).flat_map(|(_, left)| left);
    left.try_for_each(|left| remove_left(&left).map_err(|e| Error::io(&left, "remove what a killed run left", &e)))
}

/// The folder and the name of a path.
fn parts(path: &Path) -> (&Path, &OsStr) {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    (folder, path.file_name().unwrap_or_default())
}

fn find(folder: &Path) -> Result<Found> {
    let mut found = Found::new();
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        if let Some(name) = becomes(&entry.file_name()) {
            found.entry(name).or_default().push(entry.path());
        }
    }
    Ok(found)
}

/// The name of what an unfinished file of this name would have become.
fn becomes(name: &OsStr) -> Option<OsString> {
    let (name, random) = name.as_bytes().strip_prefix(b".")?.split_last_chunk::<6>()?;
    let name = name.strip_suffix(b".").filter(|name| !name.is_empty())?;
    random.iter().all(u8::is_ascii_alphanumeric).then(|| OsStr::from_bytes(name).into())
}

/// Removes an unfinished file that no living process writes.
fn remove_left(path: &Path) -> Result<()> {
    match path.symlink_metadata() {
        Ok(status) if status.is_file() => {}
        // Opening a pipe would wait; and a file may have found its place by now.
        _ => return Ok(()),
    }
    let file = OpenOptions::new().write(true).open(path)?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(_lock) => std::fs::remove_file(path),
        Err(_) => Ok(()),
    }
}
