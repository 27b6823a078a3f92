//! Progress, interruption and tables: what subcommands share about the terminal.

use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// A flag that Ctrl-C (and SIGTERM) sets; a second Ctrl-C ends the process at once.
pub fn stop_flag() -> x2ct::Result<Arc<AtomicBool>> {
    let flag = Arc::new(AtomicBool::new(false));
    let seen = flag.clone();
    ctrlc::set_handler(move || {
        if seen.swap(true, Ordering::Relaxed) {
            std::process::exit(130);
        }
        remark!("stopping after this step; press Ctrl-C again to stop at once");
    })
    .map_err(|e| x2ct::Error::argument("Ctrl-C", format!("cannot be handled: {e}"), "run again"))?;
    Ok(flag)
}

/// Progress of long work, on standard error: a bar on a terminal, a plain line every few seconds elsewhere.
pub struct Progress {
    what: String,
    unit: &'static str,
    total: u64,
    done: u64,
    /// Done before this run: no part of its rate.
    before: u64,
    bar: Option<ProgressBar>,
    start: Instant,
    printed: Instant,
}

impl Progress {
    /// `total` units of work.
    pub fn new(what: &str, unit: &'static str, total: u64) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(total);
            let style = ProgressStyle::with_template("{prefix:12} {bar:30} {pos}/{len} {per_sec} ETA {eta} {msg}");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar.set_prefix(what.to_string());
            bar
        });
        let now = Instant::now();
        Progress { what: what.into(), unit, total, done: 0, before: 0, bar, start: now, printed: now }
    }

    /// An earlier run has done `before` units.
    pub fn resume(&mut self, before: u64) {
        (self.before, self.done) = (before, before);
        (self.start, self.printed) = (Instant::now(), Instant::now());
        if let Some(bar) = &self.bar {
            bar.set_position(before);
            bar.reset_eta();
        }
    }

    /// `done` units are done; `note` says what is of interest now.
    pub fn set(&mut self, done: u64, note: &str) {
        self.done = done;
        match &self.bar {
            Some(bar) => {
                bar.set_position(done);
                bar.set_message(note.to_string());
            }
            None if self.printed.elapsed() >= Duration::from_secs(5) => {
                self.printed = Instant::now();
                self.line(note);
            }
            None => {}
        }
    }

    /// A line for the user, above the bar where there is one.
    pub fn say(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| remark!("{line}")),
            None => remark!("{line}"),
        }
    }

    /// The work is over.
    pub fn finish(self, note: &str) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        self.line(note);
    }

    fn line(&self, note: &str) {
        let seconds = self.start.elapsed().as_secs_f64();
        let rate = (self.done - self.before) as f64 / seconds.max(1e-9);
        let left = if self.done < self.total {
            format!(", ETA {:.0} s", (self.total - self.done) as f64 / rate.max(1e-9))
        } else {
            String::new()
        };
        let (what, done, total, unit) = (&self.what, self.done, self.total, self.unit);
        remark!("{what}: {done}/{total} {unit}, {seconds:.1} s, {rate:.1} {unit}/s{left} {note}");
    }
}

/// Prints rows under a header, columns aligned; numbers to the right.
pub fn print_table(header: &[&str], rows: &[Vec<String>]) {
    let width =
        |i: usize| rows.iter().map(|r| r[i].chars().count()).chain([header[i].chars().count()]).max().unwrap_or(0);
    let widths: Vec<usize> = (0..header.len()).map(width).collect();
    let numeric: Vec<bool> = (0..header.len())
        .map(|i| !rows.is_empty() && rows.iter().all(|r| r[i].starts_with(|c: char| c.is_ascii_digit() || c == '-')))
        .collect();
    let line = |cells: Vec<&str>| {
        let padded = cells.iter().enumerate().map(|(i, cell)| {
            let space = " ".repeat(widths[i].saturating_sub(cell.chars().count()));
            if numeric[i] { format!("{space}{cell}") } else { format!("{cell}{space}") }
        });
        say!("{}", padded.collect::<Vec<_>>().join("  ").trim_end());
    };
    line(header.to_vec());
    for row in rows {
        line(row.iter().map(String::as_str).collect());
    }
}
