//! `x2ct bench [FAMILY]`: times of the kernels, with the bytes they must move; `x2ct bench mixers`: encoders compared.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::Ordering;
use std::time::Duration;

use clap::builder::PossibleValuesParser;
use serde::{Deserialize, Serialize};
use x2ct::table::first_of;
use x2ct::{Device, Error, files};

use crate::Common;
use crate::arguments::within;
use crate::output::{Failure, Report, Rows, Warning};
use crate::terminal::print_table;

#[path = "../../../benches/cases.rs"]
mod cases;
mod counters;
mod mixers;

/// Time the kernels, or compare encoders (bench mixers); on a GPU by CUDA events
#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct BenchArgs {
    #[command(subcommand)]
    whole: Option<Whole>,
    /// A kernel family; all when absent
    #[arg(value_parser = PossibleValuesParser::new(cases::FAMILIES.iter().map(|(name, _)| *name)))]
    family: Option<String>,
    /// Only cases with this word in their name, such as a variant: naive, tiled, tensorcores, onelaunch, hopper
    #[arg(long)]
    variant: Option<String>,
    /// Compare with the JSON output of an earlier run
    #[arg(long)]
    baseline: Option<PathBuf>,
    /// Seconds to measure each case
    #[arg(long, default_value = "0.5", value_parser = within(0.01, 600.0))]
    seconds: f64,
    /// Keep the figures in this file as well, written anew after each case: what is measured outlives an interruption
    #[arg(long)]
    out: Option<PathBuf>,
    /// Count what each kernel asks of the GPU in place of its time, once a case; the virtual GPU alone can
    #[arg(long, conflicts_with_all = ["baseline", "out", "seconds"])]
    count: bool,
    /// Count at the sizes that a processor finishes
    #[arg(long, requires = "count")]
    small: bool,
    /// Name the kernel families, one a line, and measure nothing
    #[arg(long, conflicts_with_all = ["family", "variant", "baseline", "out", "seconds", "count"])]
    list: bool,
}

/// What is more than one kernel.
#[derive(clap::Subcommand)]
enum Whole {
    Mixers(mixers::MixersArgs),
}

#[derive(Serialize, Deserialize)]
struct Measured {
    family: String,
    case: String,
    /// Median, microseconds.
    median_us: f64,
    /// Half the distance between the quartiles, microseconds.
    spread_us: f64,
    runs: usize,
    bytes: u64,
    flops: u64,
    /// The baseline's median over this one, where it has the case.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    speed_up: Option<f64>,
}

impl Measured {
    /// Family and case, which tell rows apart.
    fn name(&self) -> String {
        format!("{} {}", self.family, self.case)
    }
}

#[derive(Serialize, Deserialize)]
struct Times {
    device: String,
    rows: Vec<Measured>,
}

pub fn run(args: BenchArgs, common: &Common) -> anyhow::Result<ExitCode> {
    if let Some(Whole::Mixers(args)) = args.whole {
        return mixers::run(args, common);
    }
    let families = || cases::FAMILIES.iter().map(|(name, _)| *name);
    if args.list {
        common.expect_device()?;
        let report = Report::new("bench").with("rows", families().collect::<Vec<_>>())?;
        return report.finish(common.json, || families().for_each(|name| say!("{name}")));
    }
    let device = common.device()?;
    if args.count {
        return count(&args, &device, common);
    }
    let baseline = args.baseline.as_deref().map(Baseline::read).transpose()?;
    let mut times = Times { device: device.description(), rows: Vec::new() };
    if let Some(path) = &args.out {
        files::check_apart(path, &args.baseline)?;
        files::check_writable(path)?;
    }
    if !common.json {
        print_device(&device, &times.device);
    }
    let budget = Duration::from_secs_f64(args.seconds);
    let mut failed = Vec::new();
    for (family, make) in args.families() {
        let before = times.rows.len();
        let outcome = make(&device, &mut |case| {
            if !args.wants(&case) {
                return Ok(());
            }
            let row = measured(&device, case, budget)?;
            let before = baseline.as_ref().and_then(|baseline| baseline.medians.get(&row.name()));
            times.rows.push(Measured { speed_up: before.map(|before| before / row.median_us), ..row });
            args.out.as_ref().map_or(Ok(()), |path| write_times(path, &times))
        });
        if !common.json && times.rows.len() > before {
            print_rows(&times.rows[before..]);
        }
        // One family that fails, for want of memory say, leaves the others.
        if let Err(error) = outcome {
            remark!("x2ct: {family}: {error}");
            failed.push(Failure::new(family, &error));
        }
    }
    if times.rows.is_empty() && failed.is_empty() {
        args.refuse_variant(&device)?;
    }
    if let (Some(path), true) = (&args.out, times.rows.is_empty()) {
        write_times(path, &times)?;
    }
    let doubts = baseline.map_or(Vec::new(), |baseline| baseline.doubts(&times));
    doubts.iter().for_each(|doubt| remark!("{}", doubt.line()));
    Report::new("bench").with_all(&times)?.warning(doubts).failing(failed).finish(common.json, || ())
}

impl BenchArgs {
    fn families(&self) -> impl Iterator<Item = &'static (&'static str, cases::MakeCases)> {
        cases::FAMILIES.iter().filter(|(family, _)| self.family.as_ref().is_none_or(|wanted| wanted == family))
    }

    fn wants(&self, case: &cases::Case) -> bool {
        self.variant.as_ref().is_none_or(|variant| has_word(&case.name, variant))
    }

    /// The error of a variant that no case has.
    fn refuse_variant(&self, device: &Device) -> x2ct::Result<()> {
        let Some(variant) = &self.variant else { return Ok(()) };
        let problem = format!("no case that {} would time has `{variant}` in its name", device.name());
        Err(Error::argument("--variant", problem, "`x2ct bench FAMILY` shows the names"))
    }
}

/// `x2ct bench --count`: every case once, its counters in place of its time.
fn count(args: &BenchArgs, device: &Device, common: &Common) -> anyhow::Result<ExitCode> {
    let counters = counters::Counters::of(device)?;
    cases::COUNTED.store(true, Ordering::Relaxed);
    cases::SMALL.store(args.small, Ordering::Relaxed);
    if !common.json {
        say!("device: {}", device.description());
    }
    let (mut printed, mut unprinted, mut counted) = (Rows::default(), Ok(()), false);
    let mut failed = Vec::new();
    for (family, make) in args.families() {
        let mut rows = Vec::new();
        let outcome = make(device, &mut |mut case| {
            if args.wants(&case) {
                let more = counters.count(device, &mut case)?;
                if common.json && unprinted.is_ok() {
                    unprinted = more.iter().try_for_each(|row| printed.print(row));
                }
                rows.extend(more);
            }
            Ok(())
        });
        counted |= !rows.is_empty();
        if !common.json && !rows.is_empty() {
            counters::print_rows(&rows);
        }
        if let Err(error) = outcome {
            remark!("x2ct: {family}: {error}");
            failed.push(Failure::new(family, &error));
        }
    }
    unprinted?;
    if !counted && failed.is_empty() {
        args.refuse_variant(device)?;
    }
    let report = Report::new("bench").with("device", device.description())?.failing(failed);
    if common.json { report.finish_rows(printed) } else { report.finish(false, || ()) }
}

fn has_word(name: &str, wanted: &str) -> bool {
    name.split_whitespace().any(|word| word.eq_ignore_ascii_case(wanted))
}

fn measured(device: &Device, mut case: cases::Case, budget: Duration) -> x2ct::Result<Measured> {
    let times = cases::measure(device, &mut case.run, budget)?;
    let runs = times.len();
    let [median, spread] = median_and_spread(times);
    Ok(Measured {
        family: case.family.into(),
        case: case.name,
        median_us: median * 1e6,
        spread_us: spread * 1e6,
        runs,
        bytes: case.bytes,
        flops: case.flops,
        speed_up: None,
    })
}

/// Puts the figures in the place of those that were in the file.
fn write_times(path: &Path, times: &Times) -> x2ct::Result<()> {
    let text = serde_json::to_vec_pretty(times)
        .map_err(|e| Error::file(path, format!("cannot hold the figures: {e}"), "report this"))?;
    files::write_atomic(path, &text)
}

/// The median of some times, and half the distance between their quartiles.
fn median_and_spread(mut times: Vec<f64>) -> [f64; 2] {
    times.sort_by(f64::total_cmp);
    let at = |q: f64| times[((times.len() - 1) as f64 * q).round() as usize];
    [at(0.5), (at(0.75) - at(0.25)) / 2.0]
}

/// The times of an earlier run.
struct Baseline {
    path: PathBuf,
    device: String,
    /// Microseconds by the case's name.
    medians: BTreeMap<String, f64>,
}

const AGAIN: &str = "write it again with `x2ct bench --json` or --out";

impl Baseline {
    fn read(path: &Path) -> x2ct::Result<Self> {
        let refuse = |problem: String| Error::file(path, problem, AGAIN);
        let text = files::read(path).map_err(|e| Error::io(path, "read the baseline", &e))?;
        let times: Times =
            serde_json::from_slice(&text).map_err(|e| refuse(format!("is no output of `x2ct bench --json`: {e}")))?;
        let mut medians = BTreeMap::new();
        for (i, row) in times.rows.iter().enumerate() {
            let field = |name: &str, problem: String| Error::File {
                path: path.into(),
                field: Some(format!("rows[{i}].{name}")),
                problem,
                hint: AGAIN.into(),
            };
            if !(row.median_us.is_finite() && row.median_us > 0.0) {
                return Err(field("median_us", format!("{} is no time", row.median_us)));
            }
            if medians.insert(row.name(), row.median_us).is_some() {
                return Err(field("case", format!("`{}` occurs twice", row.name())));
            }
        }
        if medians.is_empty() {
            return Err(refuse("holds no times".into()));
        }
        Ok(Baseline { path: path.into(), device: times.device, medians })
    }

    /// What is doubtful of a comparison with these times.
    fn doubts(&self, times: &Times) -> Vec<Warning> {
        let mut doubts = Vec::new();
        if self.device != times.device {
            doubts.push(format!("was measured on {}, this is {}", self.device, times.device));
        }
        let missing = times.rows.iter().filter(|row| row.speed_up.is_none()).map(Measured::name).collect::<Vec<_>>();
        if !missing.is_empty() {
            doubts.push(format!("has no time of {} case(s): {}", missing.len(), first_of(&missing)));
        }
        doubts.into_iter().map(|doubt| Warning::new(&self.path, doubt)).collect()
    }
}

fn print_device(device: &Device, description: &str) {
    say!("device: {description}");
    if device.is_host() {
        say!("these are times of the host build on a processor; they say nothing about a GPU");
    }
}

/// The rows of one family.
fn print_rows(rows: &[Measured]) {
    let rows = rows.iter().map(|m| {
        vec![
            m.family.clone(),
            m.case.clone(),
            format!("{:.1}", m.median_us),
            format!("{:.1}", m.spread_us),
            format!("{:.1}", m.bytes as f64 / m.median_us / 1e3),
            format!("{:.1}", m.flops as f64 / m.median_us / 1e3),
            m.speed_up.map_or(String::new(), |speed_up| format!("{speed_up:.2}x")),
        ]
    });
    print_table(&["family", "case", "median us", "+-", "GB/s", "GFLOP/s", "speed-up"], &rows.collect::<Vec<_>>());
}
