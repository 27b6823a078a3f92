//! The command line: one file per subcommand.

// Every line goes through `say!` and `remark!`, which no closed or full output can make panic.
#![cfg_attr(not(test), deny(clippy::print_stdout, clippy::print_stderr))]

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};
use x2ct::Device;

#[macro_use]
mod output;

mod arguments;
mod bench;
mod cache;
mod chain;
mod check;
mod dataset;
mod demo;
mod doctor;
mod drr;
mod effect;
mod embed;
mod embedding;
mod eval;
mod ingest_teller;
mod inputs;
mod label_table;
mod log;
mod metrics;
mod model;
mod phantom;
mod predict;
mod preprocess;
mod projection;
mod radiographs;
mod real_radiographs;
mod report;
mod reproduce;
mod source;
mod teacher;
mod terminal;
mod train;

const MORE: &str = "Environment:
  X2CT_SYNC=1  Wait after every kernel on a GPU, so that a failure names the kernel at fault

`x2ct COMMAND --help` says more of a command. Exit codes: 0 done; 1 failed, and one line on
standard error says what, where and what to do; 2 wrong usage; 130 interrupted.";

/// Teach a chest X-ray what a CT shows: CUDA kernels and the pipeline around them.
#[derive(Parser)]
#[command(version = output::version(), arg_required_else_help = true, after_help = MORE)]
struct Cli {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    command: Command,
}

/// What every subcommand takes.
#[derive(clap::Args, Clone)]
pub struct Common {
    /// Where to run: host, cuda:N, or auto for the first GPU when there is one
    #[arg(long, global = true, default_value = "auto", display_order = 900)]
    device: String,
    /// Print JSON instead of text
    #[arg(long, global = true, display_order = 900)]
    json: bool,
}

impl Common {
    /// The device asked for.
    pub fn device(&self) -> x2ct::Result<Device> {
        Device::parse(&self.device)
    }

    /// Refuses a device that was asked for and is not there, for commands that compute on none.
    pub fn expect_device(&self) -> x2ct::Result<()> {
        if self.device == "auto" { Ok(()) } else { self.device().map(drop) }
    }
}

#[derive(Subcommand)]
#[rustfmt::skip] // one line a subcommand
enum Command {
    Bench(bench::BenchArgs),
    Cache(cache::CacheArgs),
    Check(check::CheckArgs),
    Demo(demo::DemoArgs),
    Doctor(doctor::DoctorArgs),
    Drr(Box<drr::DrrArgs>),
    Embed(embed::EmbedArgs),
    Eval(eval::EvalArgs),
    Metrics(metrics::MetricsArgs),
    Model(model::ModelArgs),
    Phantom(phantom::PhantomArgs),
    Predict(predict::PredictArgs),
    Preprocess(preprocess::PreprocessArgs),
    Radiographs(real_radiographs::RadiographsArgs),
    Report(report::ReportArgs),
    Reproduce(Box<reproduce::ReproduceArgs>),
    Train(train::TrainArgs),
}

impl Command {
    /// The subcommand's name on the command line.
    #[rustfmt::skip] // one line a subcommand
    fn name(&self) -> &'static str {
        match self {
            Command::Bench(_) => "bench",
            Command::Cache(_) => "cache",
            Command::Check(_) => "check",
            Command::Demo(_) => "demo",
            Command::Doctor(_) => "doctor",
            Command::Drr(_) => "drr",
            Command::Embed(_) => "embed",
            Command::Eval(_) => "eval",
            Command::Metrics(_) => "metrics",
            Command::Model(_) => "model",
            Command::Phantom(_) => "phantom",
            Command::Predict(_) => "predict",
            Command::Preprocess(_) => "preprocess",
            Command::Radiographs(_) => "radiographs",
            Command::Report(_) => "report",
            Command::Reproduce(_) => "reproduce",
            Command::Train(_) => "train",
        }
    }
}

fn main() -> ExitCode {
    log::show_warnings();
    let Cli { common, command } = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return output::of_clap(&error, &Cli::command()),
    };
    let name = command.name();
    #[rustfmt::skip] // one line a subcommand
    let outcome = match command {
        Command::Bench(args) => bench::run(args, &common),
        Command::Cache(args) => cache::run(args, &common),
        Command::Check(args) => check::run(args, &common),
        Command::Demo(args) => demo::run(args, &common),
        Command::Doctor(args) => doctor::run(args, &common),
        Command::Drr(args) => drr::run(*args, &common),
        Command::Embed(args) => embed::run(args, &common),
        Command::Eval(args) => eval::run(args, &common),
        Command::Metrics(args) => metrics::run(args, &common),
        Command::Model(args) => model::run(args, &common),
        Command::Phantom(args) => phantom::run(args, &common),
        Command::Predict(args) => predict::run(args, &common),
        Command::Preprocess(args) => preprocess::run(args, &common),
        Command::Radiographs(args) => real_radiographs::run(args, &common),
        Command::Report(args) => report::run(args, &common),
        Command::Reproduce(args) => reproduce::run(*args, &common),
        Command::Train(args) => train::run(args, &common),
    };
    match outcome.and_then(|code| Ok(output::delivered().map(|()| code)?)) {
        Ok(code) => code,
        Err(error) => {
            remark!("x2ct: {error:#}");
            if common.json {
                // The message has been printed already; nothing is left to say of an output that is closed or full.
                let _ = output::print_error(name, &error);
            }
            output::exit_code(&error)
        }
    }
}
