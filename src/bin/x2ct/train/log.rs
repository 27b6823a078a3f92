//! The log of a run, `log.jsonl`: a line a step. The run rests on its checkpoint alone, so what is wrong with the log is said, and
//! training goes on.

use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use x2ct::train::StepLog;
use x2ct::{Error, files};

/// Where a run keeps its log.
pub fn log_path(out: &Path) -> PathBuf {
    out.join("log.jsonl")
}

/// The steps of a log up to the one of the checkpoint (later ones will be done, and logged, again), and what is wrong with it.
pub fn read(path: &Path, until: usize) -> (Vec<StepLog>, Option<String>) {
    let bytes = match files::read(path) {
        Ok(bytes) => bytes,
        Err(error) => {
            return (Vec::new(), Some(format!("cannot be read ({error}), and begins again after step {until}")));
        }
    };
    let mut steps: Vec<StepLog> = Vec::new();
    let mut damaged = None;
    for (i, line) in bytes.split(|&byte| byte == b'\n').enumerate().filter(|(_, line)| !line.is_empty()) {
        let follows = |step: &StepLog| step.step > steps.last().map_or(0, |last| last.step);
        match serde_json::from_slice::<StepLog>(line).ok().filter(follows) {
            Some(step) if step.step <= until => steps.push(step),
            Some(_) => break,
            None => damaged = damaged.or(Some(i + 1)),
        }
    }
    let lost = until - steps.len();
    let whence = damaged.map_or("it was cut".to_string(), |line| format!("line {line} is damaged"));
    let warning =
        (lost > 0).then(|| format!("lacks {lost} of {until} steps ({whence}), and goes on after step {until}"));
    (steps, warning)
}

/// A log that grows.
pub struct Log {
    path: PathBuf,
    /// None after a failure.
    file: Option<BufWriter<File>>,
    /// All of it.
    pub steps: Vec<StepLog>,
}

impl Log {
    /// A file of these steps, open for more.
    pub fn begin(path: PathBuf, steps: Vec<StepLog>) -> Self {
        let text: String = steps.iter().map(line).collect();
        let open = || {
            files::write_atomic(&path, text.as_bytes())?;
            OpenOptions::new().append(true).open(&path).map_err(|e| Error::io(&path, "open the log", &e))
        };
        let opened = open();
        let mut log = Log { path, file: None, steps };
        match opened {
            Ok(file) => log.file = Some(BufWriter::new(file)),
            Err(error) => log.give_up(&error),
        }
        log
    }

    /// Adds a step.
    pub fn add(&mut self, step: &StepLog) {
        self.steps.push(step.clone());
        self.with(|file| file.write_all(line(step).as_bytes()));
    }

    /// Hands all of it to the system.
    pub fn flush(&mut self) {
        self.with(|file| file.flush());
    }

    fn with(&mut self, action: impl FnOnce(&mut BufWriter<File>) -> std::io::Result<()>) {
        if let Some(Err(error)) = self.file.as_mut().map(action) {
            self.give_up(&Error::io(&self.path, "write the log", &error));
        }
    }

    fn give_up(&mut self, error: &Error) {
        remark!("x2ct: warning: {error}; the run goes on without its log");
        self.file = None;
    }
}

/// A step as it stands in the file. Numbers that JSON has no word for are `null`.
fn line(step: &StepLog) -> String {
    format!("{}\n", serde_json::json!(step))
}
