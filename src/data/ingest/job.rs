//! Working through many files, each of which costs itself alone: read on every core, made one after the other, kept in the work
//! folder as it is made.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use super::manifest::Row;
use super::work::Work;
use super::{Progress, ahead};
use crate::{Error, Result};

/// Many files, and what is made of each.
pub(super) trait Job: Sync {
    /// What a file becomes when it is read.
    type Read: Send;
    /// What they are, in words.
    fn unit(&self) -> &'static str;
    /// Name of one of them, by its place.
    fn name(&self, at: usize) -> &str;
    /// File of one of them, by its place.
    fn path(&self, at: usize) -> PathBuf;
    /// The folder that is written to.
    fn out(&self) -> &Path;
    /// Refuses to go on where all files are gone.
    fn check_source(&self) -> Result<()>;
    /// Reads one, on any thread.
    fn read(&self, at: usize) -> Result<Self::Read>;
    /// What the work folder keeps of it, and its row.
    fn make(&self, at: usize, read: Self::Read, work: &Work) -> Result<(Vec<Vec<u8>>, Row)>;
}

/// Makes what has no row yet.
///
/// # Errors
/// A device that fails; what cannot be written; [`Error::Interrupted`] once `stop` is set.
pub(super) fn work_through<J: Job>(
    job: &J,
    work: &mut Work,
    rows: &mut [Option<Row>],
    stop: &AtomicBool,
    progress: &mut dyn FnMut(Progress),
) -> Result<()> {
    let left: Vec<usize> = (0..rows.len()).filter(|&at| rows[at].is_none()).collect();
    let mut finished = rows.len() - left.len();
    progress(Progress::Resumed(finished));
    let outcome = ahead(
        &left,
        stop,
        |&at| job.read(at),
        |i, read| {
            let (at, name) = (left[i], job.name(left[i]));
            let row = match read.and_then(|read| job.make(at, read, work)) {
                Ok((images, row)) => {
                    work.put(at, &images, &row)?;
                    if !row.warnings.is_empty() {
                        progress(Progress::Doubted(name, &row.warnings));
                    }
                    row
                }
                Err(error) if error.is_of_device() || is_of_output(job, at, &error) => return Err(error),
                Err(error) => {
                    let error = error.of_file(job.path(at));
                    // A disk that is gone is not the fault of each of its files.
                    job.check_source()?;
                    progress(Progress::Failed(name, &error));
                    Row::failed(&error)
                }
            };
            rows[at] = Some(row);
            finished += 1;
            progress(Progress::Done(finished));
            Ok(())
        },
    );
    let synced = work.sync();
    outcome?;
    synced?;
    if stop.load(Ordering::Relaxed) && finished < rows.len() {
        let (count, unit) = (rows.len(), job.unit());
        return Err(Error::Interrupted(format!(
            "after {finished} of {count} {unit}; the same command goes on from there"
        )));
    }
    Ok(())
}

/// Whether an error is about what is written, not about what is read.
fn is_of_output<J: Job>(job: &J, at: usize, error: &Error) -> bool {
    error.place().0.is_some_and(|file| file != job.path(at) && file.starts_with(job.out()))
}
