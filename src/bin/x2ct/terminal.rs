//! Progress, interruption and tables: what subcommands share about the terminal.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use nix::libc::SIGHUP;

/// A flag that Ctrl-C, SIGTERM and hang-up set; a second one ends the process at once. Under `nohup`, which has the process
/// ignore hang-up, it stays ignored.
pub fn stop_flag() -> x2ct::Result<Arc<AtomicBool>> {
    let flag = Arc::new(AtomicBool::new(false));
    let seen = flag.clone();
    let nohup = is_ignored(SIGHUP);
    ctrlc::set_handler(move || {
        if seen.swap(true, Ordering::Relaxed) {
            std::process::exit(130);
        }
        remark!("stopping after this step; press Ctrl-C again to stop at once");
    })
    .map_err(|e| x2ct::Error::argument("Ctrl-C", format!("cannot be handled: {e}"), "run again"))?;
    if nohup {
        // SAFETY: sets a disposition to one that runs no code.
        unsafe { nix::libc::signal(SIGHUP, nix::libc::SIG_IGN) };
    }
    Ok(flag)
}

/// Whether the process was started with a signal ignored.
fn is_ignored(signal: i32) -> bool {
    // SAFETY: asks for a disposition and changes none; the structure is plain data, for which zero is a value.
    unsafe {
        let mut action: nix::libc::sigaction = std::mem::zeroed();
        nix::libc::sigaction(signal, std::ptr::null(), &mut action) == 0 && action.sa_sigaction == nix::libc::SIG_IGN
    }
}

/// A terminal on standard error that can draw a bar: neither a dumb one nor one of less than 80 columns.
fn can_draw() -> bool {
    let terminal = console::Term::stderr();
    let wide = terminal.size_checked().is_some_and(|(_, columns)| columns >= 80);
    terminal.features().colors_supported() && wide
}

/// Progress of long work, on standard error: a bar on a terminal that can draw one, a plain line every few seconds elsewhere.
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
        let bar = can_draw().then(|| {
            let bar = ProgressBar::new(total);
            let style = ProgressStyle::with_template("{prefix:12} {bar:30} {pos}/{len} {per_sec} ETA {eta} {wide_msg}");
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
                self.line(note, true);
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
        self.line(note, false);
    }

    /// How far the work is; its rate once there is one, and the time left while it goes on.
    fn line(&self, note: &str, goes_on: bool) {
        remark!("{}", format!("{} {note}", self.state(self.start.elapsed(), goes_on)).trim_end());
    }

    /// The line after this time, without a note.
    fn state(&self, elapsed: Duration, goes_on: bool) -> String {
        let seconds = elapsed.as_secs_f64();
        let (what, done, total, unit) = (&self.what, self.done, self.total, self.unit);
        let mut line = format!("{what}: {done}/{total} {unit}, {seconds:.1} s");
        let here = done.saturating_sub(self.before);
        if here > 0 && seconds > 0.0 {
            let rate = here as f64 / seconds;
            line += &format!(", {rate:.1} {unit}/s");
            if goes_on && done < total {
                line += &format!(", ETA {:.0} s", (total - done) as f64 / rate);
            }
        }
        line
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_earlier_run_did_is_no_part_of_the_rate() {
        let mut progress = Progress::new("training", "steps", 36);
        let after = |progress: &Progress, seconds| progress.state(Duration::from_secs(seconds), true);
        progress.resume(24);
        assert_eq!(after(&progress, 10), "training: 24/36 steps, 10.0 s");
        progress.done = 30;
        assert_eq!(after(&progress, 6), "training: 30/36 steps, 6.0 s, 1.0 steps/s, ETA 6 s");
        progress.done = 36;
        assert_eq!(after(&progress, 12), "training: 36/36 steps, 12.0 s, 1.0 steps/s");
        progress.done = 30;
        assert_eq!(progress.state(Duration::from_secs(6), false), "training: 30/36 steps, 6.0 s, 1.0 steps/s");
    }
}
