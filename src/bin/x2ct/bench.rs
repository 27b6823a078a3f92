//! `x2ct bench [FAMILY]`: times of the kernels, with the bytes they must move; `x2ct bench mixers`: encoders compared.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use x2ct::Device;

use crate::Common;
use crate::output::Report;
use crate::terminal::print_table;

#[path = "../../../benches/cases.rs"]
mod cases;
mod mixers;

/// Time the kernels, or compare encoders (bench mixers); on a GPU by CUDA events
#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct BenchArgs {
    #[command(subcommand)]
    whole: Option<Whole>,
    /// A kernel family (decomp_conv, contrastive, drr, ...); all when absent
    family: Option<String>,
    /// Only cases with this word in their name, such as a variant: naive, tiled, tensorcores, onelaunch, hopper
    #[arg(long)]
    variant: Option<String>,
    /// Compare with the JSON output of an earlier run
    #[arg(long)]
    baseline: Option<PathBuf>,
    /// Seconds to measure each case
    #[arg(long, default_value_t = 0.5)]
    seconds: f64,
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
    let device = common.device()?;
    if let Some(family) = &args.family {
        let known: Vec<&str> = cases::FAMILIES.iter().map(|(name, _)| *name).collect();
        if !known.contains(&family.as_str()) {
            anyhow::bail!("there is no kernel family `{family}`; use one of {}", known.join(", "));
        }
    }
    let baseline = args.baseline.as_deref().map(read_baseline).transpose()?;
    let mut selected = cases::cases(&device, args.family.as_deref())?;
    if let Some(variant) = &args.variant {
        selected.retain(|case| case.name.split_whitespace().any(|word| word.eq_ignore_ascii_case(variant)));
        if selected.is_empty() {
            anyhow::bail!("no case that {} would time has `{variant}` in its name", device.name());
        }
    }
    let mut rows = Vec::new();
    for mut case in selected {
        let budget = Duration::from_secs_f64(args.seconds.clamp(0.01, 60.0));
        let times = cases::measure(&device, &mut case.run, budget)?;
        let runs = times.len();
        let [median, spread] = median_and_spread(times);
        rows.push(Measured {
            family: case.family.into(),
            case: case.name,
            median_us: median * 1e6,
            spread_us: spread * 1e6,
            runs,
            bytes: case.bytes,
            flops: case.flops,
        });
    }
    let times = Times { device: device.description(), rows };
    Report::new("bench").with_all(&times)?.finish(common.json, || print(&device, &times, baseline.as_ref()))
}

/// The median of some times, and half the distance between their quartiles.
fn median_and_spread(mut times: Vec<f64>) -> [f64; 2] {
    times.sort_by(f64::total_cmp);
    let at = |q: f64| times[((times.len() - 1) as f64 * q).round() as usize];
    [at(0.5), (at(0.75) - at(0.25)) / 2.0]
}

fn read_baseline(path: &std::path::Path) -> anyhow::Result<BTreeMap<String, f64>> {
    let text = std::fs::read_to_string(path).map_err(|e| x2ct::Error::io(path, "read the baseline", &e))?;
    let report: Times = serde_json::from_str(&text)
        .map_err(|e| x2ct::Error::file(path, format!("is no output of `x2ct bench --json`: {e}"), "write it again"))?;
    Ok(report.rows.into_iter().map(|m| (format!("{} {}", m.family, m.case), m.median_us)).collect())
}

fn print(device: &Device, report: &Times, baseline: Option<&BTreeMap<String, f64>>) {
    say!("device: {}", report.device);
    if device.is_host() {
        say!("these are times of the host build on a processor; they say nothing about a GPU");
    }
    let rows = report.rows.iter().map(|m| {
        let before = baseline.and_then(|b| b.get(&format!("{} {}", m.family, m.case)));
        vec![
            m.family.clone(),
            m.case.clone(),
            format!("{:.1}", m.median_us),
            format!("{:.1}", m.spread_us),
            format!("{:.1}", m.bytes as f64 / m.median_us / 1e3),
            format!("{:.1}", m.flops as f64 / m.median_us / 1e3),
            before.map_or(String::new(), |b| format!("{:.2}x", b / m.median_us)),
        ]
    });
    print_table(&["family", "case", "median us", "+-", "GB/s", "GFLOP/s", "speed-up"], &rows.collect::<Vec<_>>());
}
