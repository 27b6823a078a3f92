//! What a command says of an ingest while it is under way, and which failures it reports at the end.

use std::path::PathBuf;

use x2ct::data::ingest;

use crate::output::{Failure, Warning};
use crate::terminal::Progress;

/// Tells of one ingest.
pub struct Teller<'a> {
    progress: Progress,
    /// What is taken in, in the plural.
    unit: &'static str,
    total: usize,
    /// The file of what is called so.
    file: &'a dyn Fn(&str) -> PathBuf,
    failures: Vec<(String, Failure)>,
}

impl<'a> Teller<'a> {
    /// Of `total` volumes or radiographs, whose files `file` names.
    pub fn new(what: &str, unit: &'static str, total: usize, file: &'a dyn Fn(&str) -> PathBuf) -> Self {
        Teller { progress: Progress::new(what, unit, total as u64), unit, total, file, failures: Vec::new() }
    }

    /// Says what has happened.
    pub fn tell(&mut self, event: ingest::Progress) {
        let progress = &mut self.progress;
        match event {
            ingest::Progress::Resumed(0) => {}
            ingest::Progress::Resumed(done) => {
                progress.say(&format!("{done} of {} {} are there already", self.total, self.unit));
                progress.resume(done as u64);
            }
            ingest::Progress::Done(done) => {
                let left_out =
                    if self.failures.is_empty() { String::new() } else { format!("{} left out", self.failures.len()) };
                progress.set(done as u64, &left_out);
            }
            ingest::Progress::Failed(name, error) => {
                self.failures.push((name.into(), Failure::new((self.file)(name), error)));
                progress.say(&format!("x2ct: {name} is left out: {error}"));
            }
            ingest::Progress::Doubted(name, doubt) => progress.say(&Warning::new((self.file)(name), doubt).line()),
        }
    }

    /// The end: the failures of these, in their order.
    pub fn finish<'n>(mut self, failed: impl IntoIterator<Item = &'n String>) -> Vec<Failure> {
        self.progress.finish("");
        let take = |name: &String| {
            let at = self.failures.iter().position(|(failed, _)| failed == name)?;
            Some(self.failures.swap_remove(at).1)
        };
        failed.into_iter().filter_map(take).collect()
    }
}
