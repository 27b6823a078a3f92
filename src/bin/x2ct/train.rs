//! `x2ct train CONFIG.toml`: trains a radiograph encoder or a CT encoder; resumes where an earlier run stopped.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use x2ct::data::cache::EmbeddingCache;
use x2ct::data::radiographs::RadiographSet;
use x2ct::data::text::TextFeatures;
use x2ct::data::volumes::VolumeSet;
use x2ct::train::{
    AnyConfig, Checkpoint, CtTrainConfig, CtTrainingSet, Observer, Position, StepLog, Task, TrainConfig, Trainer,
    TrainingSet,
};
use x2ct::{Device, Error, files};

use crate::Common;
use crate::chain::{Chain, Trust};
use crate::output::Report;
use crate::terminal::{Progress, stop_flag};
use serde_json::json;

/// Train a radiograph encoder on radiographs and a teacher's embeddings, or a CT encoder on volumes and reports
///
/// The model's name decides: `dcformer-...` is a CT encoder (examples/train_dcformer.toml), any other a radiograph encoder
/// (examples/train.toml).
#[derive(clap::Args)]
pub struct TrainArgs {
    /// The run, as TOML
    config: PathBuf,
    /// Begin anew even if the output folder holds a checkpoint
    #[arg(long)]
    restart: bool,
    #[command(flatten)]
    trust: Trust,
}

pub fn run(args: TrainArgs, common: &Common) -> anyhow::Result<ExitCode> {
    let device = common.device()?;
    match AnyConfig::read(&args.config)? {
        AnyConfig::Radiographs(config) => {
            let set = radiographs(&device, &config)?;
            train(&args, common, &device, &config, &set)
        }
        AnyConfig::Ct(config) => {
            let set = volumes(&device, &config)?;
            train(&args, common, &device, &config, &set)
        }
    }
}

fn radiographs(device: &Device, config: &TrainConfig) -> x2ct::Result<TrainingSet> {
    let radiographs = RadiographSet::read(&config.data.radiographs)?;
    let cache = EmbeddingCache::read(&config.data.cache)?;
    TrainingSet::join(device, &radiographs, &cache).map_err(|e| e.of_file(&config.data.cache))
}

fn volumes(device: &Device, config: &CtTrainConfig) -> x2ct::Result<CtTrainingSet> {
    let volumes = VolumeSet::read(&config.data.volumes)?;
    match (&config.data.text, &config.data.cache) {
        (Some(path), _) => {
            CtTrainingSet::with_features(device, volumes, &TextFeatures::read(path)?).map_err(|e| e.of_file(path))
        }
        (None, Some(path)) => {
            CtTrainingSet::with_embeddings(device, volumes, &EmbeddingCache::read(path)?).map_err(|e| e.of_file(path))
        }
        (None, None) => Err(Error::argument("data", "has neither text nor cache", "give one of them")),
    }
}

fn train<C: Task>(
    args: &TrainArgs,
    common: &Common,
    device: &Device,
    config: &C,
    set: &C::Set,
) -> anyhow::Result<ExitCode> {
    let (stop, out) = (stop_flag()?, config.run().out);
    std::fs::create_dir_all(out).map_err(|e| Error::io(out, "create the folder", &e))?;
    let (mut chain, sources) = (Chain::new(args.trust), C::sources(set));
    chain.settle(&args.config, Ok(sources.undecided()))?;
    sources.from.iter().for_each(|(name, from)| chain.holds(name, &from.digest));
    let outcome = run_logged(device, config, set, !args.restart, &stop);
    let (trainer, steps) = outcome.map_err(|e| e.of_file(&args.config))?;
    let checkpoint = checkpoint_path(out);
    let report = Report::new("train").with_all(
        json!({"checkpoint": files::lossy(&checkpoint), "position": trainer.position(), "last": steps.last()}),
    )?;
    chain.report(report)?.finish(common.json, || say!("{}", checkpoint.display()))
}

/// Where a run keeps its newest checkpoint.
pub fn checkpoint_path(out: &Path) -> PathBuf {
    out.join("checkpoint.safetensors")
}

/// Trains to the end, with checkpoints, a JSON-lines log and progress; resumes a checkpoint of the same configuration.
/// Returns the trainer and the whole log.
pub fn run_logged<C: Task>(
    device: &Device,
    config: &C,
    set: &C::Set,
    resume: bool,
    stop: &AtomicBool,
) -> x2ct::Result<(Trainer<C>, Vec<StepLog>)> {
    let out = config.run().out;
    let path = checkpoint_path(out);
    let log_path = out.join("log.jsonl");
    let (mut trainer, steps) = if resume && path.exists() {
        let checkpoint: Checkpoint<C> = Checkpoint::read(&path)?;
        for undecided in checkpoint.expect_run(config, &C::sources(set)).map_err(|e| e.of_file(&path))? {
            remark!("x2ct: warning: {}: {undecided}", path.display());
        }
        let trainer = Trainer::resume(device, &checkpoint)?;
        remark!("resuming after step {} of {}", trainer.position().step, trainer.total_steps(set));
        (trainer, read_log(&log_path, checkpoint.position.step)?)
    } else {
        let trainer = Trainer::new(device, config)?;
        say_unused(trainer.unused_weights());
        (trainer, Vec::new())
    };
    let mut watch = Watch::new(&path, &log_path, steps, trainer.total_steps(set))?;
    let outcome = trainer.run(set, &mut watch, stop);
    // A failure says all that is to be said itself.
    if matches!(outcome, Err(Error::Interrupted(_)) | Ok(())) {
        watch.finish();
    }
    outcome.map(|()| (trainer, watch.steps))
}

/// Names of initial weights that were left out, by their first two parts.
fn say_unused(names: &[String]) {
    let part = |name: &String| name.split('.').take(2).collect::<Vec<_>>().join(".");
    let mut parts: Vec<String> = names.iter().map(part).collect();
    parts.dedup();
    if !parts.is_empty() {
        remark!("left out of the weights, which the model has no place for: {}", parts.join(", "));
    }
}

/// The lines of a log up to a step: what came after the checkpoint will be done, and logged, again.
fn read_log(path: &Path, until: usize) -> x2ct::Result<Vec<StepLog>> {
    let text = std::fs::read_to_string(path).map_err(|e| Error::io(path, "read the log", &e))?;
    let whole = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
    let steps = whole.enumerate().map(|(i, line)| {
        serde_json::from_str::<StepLog>(line).map_err(|e| {
            Error::file(path, format!("line {}: {e}", i + 1), "delete the log and the checkpoint to begin anew")
        })
    });
    let steps: Vec<StepLog> = steps.collect::<x2ct::Result<_>>()?;
    Ok(steps.into_iter().filter(|s| s.step <= until).collect())
}

/// Writes the log and the checkpoints, and shows progress.
struct Watch {
    checkpoint: PathBuf,
    log: std::io::BufWriter<std::fs::File>,
    log_path: PathBuf,
    steps: Vec<StepLog>,
    progress: Option<Progress>,
    images: u64,
    start: Instant,
}

impl Watch {
    fn new(checkpoint: &Path, log_path: &Path, steps: Vec<StepLog>, total: usize) -> x2ct::Result<Self> {
        let mut text = Vec::new();
        for step in &steps {
            serde_json::to_writer(&mut text, step)
                .map_err(|e| Error::argument("log", e.to_string(), "this is a defect"))?;
            text.push(b'\n');
        }
        x2ct::files::write_atomic(log_path, &text)?;
        let log = std::fs::OpenOptions::new().append(true).open(log_path);
        let log = std::io::BufWriter::new(log.map_err(|e| Error::io(log_path, "open the log", &e))?);
        let progress = Some(Progress::new("training", "steps", total as u64));
        Ok(Watch {
            checkpoint: checkpoint.to_path_buf(),
            log,
            log_path: log_path.to_path_buf(),
            steps,
            progress,
            images: 0,
            start: Instant::now(),
        })
    }

    fn finish(&mut self) {
        if let Some(progress) = self.progress.take() {
            progress.finish(&self.note());
        }
    }

    fn note(&self) -> String {
        let rate = self.images as f64 / self.start.elapsed().as_secs_f64().max(1e-9);
        let loss = self.steps.last().map_or(f32::NAN, |s| s.loss);
        format!("{rate:.1} images/s, loss {loss:.3}")
    }
}

impl<C: Task> Observer<C> for Watch {
    fn step(&mut self, log: &StepLog, position: Position) -> x2ct::Result<()> {
        self.images += log.images as u64;
        self.steps.push(log.clone());
        let line = serde_json::to_string(log).map_err(|e| Error::argument("log", e.to_string(), "this is a defect"))?;
        writeln!(self.log, "{line}").map_err(|e| Error::io(&self.log_path, "write the log", &e))?;
        let note = self.note();
        if let Some(progress) = &mut self.progress {
            progress.set(position.step as u64, &note);
        }
        Ok(())
    }

    fn checkpoint(&mut self, trainer: &Trainer<C>) -> x2ct::Result<()> {
        // The log first: a checkpoint never knows of steps that its log does not hold.
        self.log.flush().map_err(|e| Error::io(&self.log_path, "write the log", &e))?;
        trainer.checkpoint()?.write(&self.checkpoint)
    }
}
