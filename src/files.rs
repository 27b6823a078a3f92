//! Whole-file output: complete or absent, never half-written.

use std::io::{BufWriter, Write};
use std::path::Path;

use atomic_write_file::AtomicWriteFile;

use crate::error::{Error, Result};

/// Writes `bytes` to `path` atomically: a temporary file in the same folder, synced, then renamed over the old one. A
/// crash, a full disk or a kill leaves the old file, or none. A new file gets the usual mode (0644 under the usual
/// umask), an existing one keeps its own.
pub fn write_atomic(path: impl AsRef<Path>, bytes: &[u8]) -> Result<()> {
    let path = path.as_ref();
    write_atomic_with(path, |out| out.write_all(bytes).map_err(|e| Error::io(path, "write", &e)))
}

/// As [`write_atomic`], with content that `fill` writes piece by piece; its error leaves the old file.
pub fn write_atomic_with(path: impl AsRef<Path>, fill: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<()> {
    let path = path.as_ref();
    let refuse = |e: std::io::Error| Error::io(path, "write", &e);
    let mut file = BufWriter::with_capacity(1 << 20, AtomicWriteFile::open(path).map_err(refuse)?);
    fill(&mut file)?;
    file.into_inner().map_err(|e| refuse(e.into_error()))?.commit().map_err(refuse)
}

/// Whether [`write_atomic`] could write `path` now, found out by beginning to and giving up: no file is made or changed.
pub fn check_writable(path: impl AsRef<Path>) -> Result<()> {
    let path = path.as_ref();
    if path.is_dir() {
        return Err(Error::file(path, "is a folder", "name a file in it"));
    }
    AtomicWriteFile::open(path).and_then(AtomicWriteFile::discard).map_err(|e| Error::io(path, "write", &e))
}

/// [`std::fs::create_dir_all`] with an error that names the folder.
pub fn create_folder(path: impl AsRef<Path>) -> Result<()> {
    std::fs::create_dir_all(&path).map_err(|e| Error::io(path, "create the folder", &e))
}
