//! Folders that one process works in at a time.

use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use super::create_folder;
use crate::{Error, Result};

/// A folder that is this process's to work in: others that claim it are refused meanwhile. The claim is a lock on the folder itself,
/// so that it leaves no file, and goes with the process however that ends.
pub struct Claim {
    /// None on a file system without locks on folders.
    _lock: Option<Flock<File>>,
}

impl Claim {
    /// Claims a folder, which is made where there is none.
    ///
    /// # Errors
    /// Another process, which is named where the system tells it, has claimed it; a folder that cannot be made.
    pub fn of(folder: impl AsRef<Path>) -> Result<Self> {
        let folder = folder.as_ref();
        loop {
            create_folder(folder)?;
            let file = match File::open(folder) {
                Ok(file) => file,
                // Whoever has just finished there has removed it.
                Err(e) if e.kind() == ErrorKind::NotFound => continue,
                Err(_) => return Ok(Claim { _lock: None }),
            };
            match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(lock) if is_at(&lock, folder) => return Ok(Claim { _lock: Some(lock) }),
                Ok(_) => {}
                Err((file, Errno::EWOULDBLOCK)) => {
                    let process = holder(&file).map_or(String::new(), |process| format!(" (process {process})"));
                    let problem = format!("another x2ct{process} is at work in it");
                    return Err(Error::file(folder, problem, "let that one finish or stop it, or name another output"));
                }
                Err(_) => return Ok(Claim { _lock: None }),
            }
        }
    }
}

/// Whether an open folder is still the one at its path.
fn is_at(open: &File, path: &Path) -> bool {
    let place = |status: &std::fs::Metadata| (status.dev(), status.ino());
    matches!((&open.metadata(), &path.metadata()), (Ok(open), Ok(there)) if place(open) == place(there))
}

/// The process that holds the lock on a file, by the system's list: lines such as
/// `1: FLOCK  ADVISORY  WRITE 8960 fe:00:5406769 0 EOF`, with the process, and device and inode of the file.
#[cfg(target_os = "linux")]
fn holder(file: &File) -> Option<u32> {
    use nix::libc;
    let status = file.metadata().ok()?;
    let place = format!("{:02x}:{:02x}:{}", libc::major(status.dev()), libc::minor(status.dev()), status.ino());
    let locks = std::fs::read_to_string("/proc/locks").ok()?;
    let of_line = |line: &str| match line.split_whitespace().collect::<Vec<_>>()[..] {
        [_, "FLOCK", _, _, process, at, ..] if at == place => process.parse().ok(),
        _ => None,
    };
    locks.lines().find_map(of_line)
}

/// Only Linux lists locks.
#[cfg(not(target_os = "linux"))]
fn holder(_: &File) -> Option<u32> {
    None
}
