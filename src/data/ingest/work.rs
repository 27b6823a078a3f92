//! The work folder: what is finished of a run that is under way, so that a run killed at any moment goes on where it was.
//!
//! ```text
//! unfinished/lock        locked by the process at work; the lock goes when the process does
//! unfinished/VIEW.pixels the pixels of volume i at i times their size
//! unfinished/journal     a line a finished volume, appended when its pixels are written
//! unfinished/new         the output file being written, renamed when it is whole
//! ```
//! A journal line is the BLAKE3 of its JSON (16 hex digits), a space, the JSON. A line that a kill or a crash cut short, and
//! all after it, counts as not written. A volume is finished when its line is there *and* its pixels have the digests the line
//! says: so it does not matter in which order a power cut lets lines and pixels reach the disk, and syncing about once a second
//! only bounds what is lost.

use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::manifest::Row;
use crate::archive::Digest;
use crate::files::create_folder;
use crate::{Error, Result};

const SYNC_EVERY: Duration = Duration::from_secs(1);
const FORMAT: &str = "x2ct-journal-2";

#[derive(Serialize, Deserialize)]
struct Header {
    format: String,
    run: String,
}

#[derive(Serialize, Deserialize)]
struct Entry {
    at: usize,
    row: Row,
}

/// An open work folder; no other process has it open.
pub(super) struct Work {
    folder: PathBuf,
    lock: Flock<File>,
    journal: File,
    pixels: Vec<File>,
    image_bytes: usize,
    synced: Instant,
}

impl Work {
    /// Opens the folder, makes it where there is none, and returns the rows of the volumes that are finished, by their place.
    /// `run` is what a run is told apart by; `restart` forgets what is there. Images of no bytes are kept elsewhere: the folder holds
    /// the journal alone.
    pub fn open(
        folder: &Path,
        run: &str,
        views: &[&str],
        image_bytes: usize,
        restart: bool,
    ) -> Result<(Self, Vec<(usize, Row)>)> {
        let lock = lock(folder)?;
        let path = folder.join("journal");
        let mut journal = open(&path, OpenOptions::new().append(true))?;
        let mut text = Vec::new();
        if !restart {
            journal.read_to_end(&mut text).map_err(|e| Error::io(&path, "read", &e))?;
        }
        let mut lines = Lines(&text);
        let header: Option<Header> = lines.next();
        let entries: Vec<Entry> = std::iter::from_fn(|| lines.next()).collect();
        let whole = header.is_some_and(|header| header.format == FORMAT && header.run == run);
        // Another run that has finished nothing is none.
        if !whole && !entries.is_empty() {
            let problem = "is of a run with other options, of other volumes or by another version";
            let hint = "finish that run, use another folder, or begin anew with --restart";
            return Err(Error::file(folder, problem, hint));
        }
        let kept = if whole { text.len() - lines.0.len() } else { 0 };
        journal.set_len(kept as u64).map_err(|e| Error::io(&path, "write", &e))?;
        let open_view = |view: &&str| open(&folder.join(format!("{view}.pixels")), OpenOptions::new().write(true));
        let pixels = views.iter().filter(|_| image_bytes > 0).map(open_view).collect::<Result<Vec<_>>>()?;
        let mut work = Work { folder: folder.into(), lock, journal, pixels, image_bytes, synced: Instant::now() };
        if !whole {
            work.append(&Header { format: FORMAT.into(), run: run.into() })?;
        }
        let done = entries.into_par_iter().filter(|entry| work.is_whole(entry)).map(|entry| (entry.at, entry.row));
        let done = done.collect();
        Ok((work, done))
    }

    fn is_whole(&self, entry: &Entry) -> bool {
        let mut image = vec![0; self.image_bytes];
        let mut holds = |(file, digest): (&File, &String)| {
            let offset = (entry.at * self.image_bytes) as u64;
            file.read_exact_at(&mut image, offset).is_ok() && blake3::hash(&image).to_hex().as_str() == digest
        };
        entry.row.is_packed()
            && entry.row.digests.len() >= self.pixels.len()
            && self.pixels.iter().zip(&entry.row.digests).all(&mut holds)
    }

    /// Keeps the pixels of volume `at`, one image a view, and its row.
    pub fn put<I: AsRef<[u8]>>(&mut self, at: usize, images: &[I], row: &Row) -> Result<()> {
        for (i, (file, image)) in self.pixels.iter().zip(images).enumerate() {
            file.write_all_at(image.as_ref(), (at * self.image_bytes) as u64)
                .map_err(|e| Error::io(&self.folder, &format!("write the pixels of view {}", i + 1), &e))?;
        }
        self.append(&Entry { at, row: row.clone() })?;
        if self.synced.elapsed() >= SYNC_EVERY {
            self.sync()?;
        }
        Ok(())
    }

    fn append(&mut self, entry: &impl Serialize) -> Result<()> {
        let json =
            serde_json::to_string(entry).map_err(|e| Error::argument("journal", e.to_string(), "this is a defect"))?;
        let line = format!("{} {json}\n", &blake3::hash(json.as_bytes()).to_hex()[..16]);
        let failed = |e| Error::io(self.folder.join("journal"), "write", &e);
        self.journal.write_all(line.as_bytes()).map_err(failed)
    }

    /// When the run began that the folder is of: nothing is written to the lock.
    pub fn begun(&self) -> SystemTime {
        self.lock.metadata().and_then(|status| status.modified()).unwrap_or(SystemTime::UNIX_EPOCH)
    }

    /// Makes all that is kept durable.
    pub fn sync(&mut self) -> Result<()> {
        let mut files = self.pixels.iter().chain([&self.journal]);
        files.try_for_each(File::sync_data).map_err(|e| Error::io(&self.folder, "sync", &e))?;
        self.synced = Instant::now();
        Ok(())
    }

    /// The pixels of volume `at` from a view, by its place among the views.
    pub fn image(&self, view: usize, at: usize) -> Result<Vec<u8>> {
        let mut image = vec![0; self.image_bytes];
        let read = self.pixels[view].read_exact_at(&mut image, (at * self.image_bytes) as u64);
        read.map(|()| image).map_err(|e| Error::io(&self.folder, "read the pixels", &e))
    }

    /// A file in the folder to write to, for [`Self::place`].
    pub fn new_file(&self) -> PathBuf {
        self.folder.join("new")
    }

    /// Puts what was written whole to [`Self::new_file`] in its place outside the folder.
    pub fn place(&self, path: &Path) -> Result<()> {
        std::fs::rename(self.new_file(), path).map_err(|e| Error::io(path, "write", &e))
    }

    /// Writes a file outside the folder, whole or not at all.
    pub fn publish(&self, path: &Path, fill: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<()> {
        let new = self.new_file();
        let failed = |e: std::io::Error| Error::io(path, "write", &e);
        let mut out = BufWriter::with_capacity(1 << 20, File::create(&new).map_err(failed)?);
        fill(&mut out)?;
        let file = out.into_inner().map_err(|e| failed(e.into_error()))?;
        file.sync_all().map_err(failed)?;
        std::fs::rename(&new, path).map_err(failed)
    }

    /// The run is finished and all its files are published: removes the folder.
    pub fn close(self) -> Result<()> {
        let failed = |e: std::io::Error| Error::io(&self.folder, "remove the folder", &e);
        if let Some(out) = self.folder.parent() {
            // The renames, before what could repeat them is gone.
            File::open(out).and_then(|folder| folder.sync_all()).map_err(|e| Error::io(out, "sync the folder", &e))?;
        }
        // The journal first: pixels that no journal speaks of are nothing.
        std::fs::remove_file(self.folder.join("journal")).map_err(failed)?;
        std::fs::remove_dir_all(&self.folder).map_err(failed)?;
        drop(self.lock);
        Ok(())
    }
}

/// The checked lines of a journal; ends at the first that is not whole.
struct Lines<'a>(&'a [u8]);

impl Lines<'_> {
    fn next<T: serde::de::DeserializeOwned>(&mut self) -> Option<T> {
        let end = self.0.iter().position(|&b| b == b'\n')?;
        let (sum, json) = self.0[..end].split_at_checked(17)?;
        if blake3::hash(json).to_hex().as_bytes()[..16] != sum[..16] {
            return None;
        }
        let entry = serde_json::from_slice(json).ok()?;
        self.0 = &self.0[end + 1..];
        Some(entry)
    }
}

fn open(path: &Path, options: &mut OpenOptions) -> Result<File> {
    options.read(true).create(true).open(path).map_err(|e| Error::io(path, "open", &e))
}

fn lock(folder: &Path) -> Result<Flock<File>> {
    let path = folder.join("lock");
    loop {
        create_folder(folder)?;
        let failed = |e: std::io::Error| Error::io(&path, "lock", &e);
        let file = match OpenOptions::new().write(true).create(true).truncate(false).open(&path) {
            Ok(file) => file,
            // Another process has just finished and removed the folder.
            Err(e) if e.kind() == std::io::ErrorKind::NotFound && !folder.exists() => continue,
            Err(e) => return Err(failed(e)),
        };
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => {
                let ours = lock.metadata().map_err(failed)?;
                // Else it was removed between opening and locking: what we hold is no longer the folder's lock.
                if std::fs::metadata(&path).is_ok_and(|there| (there.dev(), there.ino()) == (ours.dev(), ours.ino())) {
                    return Ok(lock);
                }
            }
            Err((_, Errno::EWOULDBLOCK)) => {
                let problem = "another process is at work on it";
                return Err(Error::file(folder, problem, "let it finish, or stop it, or use another folder"));
            }
            Err((_, error)) => return Err(failed(error.into())),
        }
    }
}

/// Digests in hex as bytes; `None` where one is none.
pub(super) fn digest(hex: &str) -> Option<Digest> {
    blake3::Hash::from_hex(hex).ok().map(|hash| *hash.as_bytes())
}
