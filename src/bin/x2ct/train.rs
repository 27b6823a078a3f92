//! `x2ct train CONFIG.toml`: trains a radiograph encoder or a CT encoder; resumes where an earlier run stopped.

mod log;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use x2ct::data::cache::EmbeddingCache;
use x2ct::data::radiographs::RadiographSet;
use x2ct::data::text::TextFeatures;
use x2ct::data::volumes::VolumeSet;
use x2ct::files::Claim;
use x2ct::train::{
    AnyConfig, Checkpoint, CtTrainConfig, CtTrainingSet, Epoch, Observer, Position, Run, ScheduleKind, Sources,
    StepLog, Task, TrainConfig, Trainer, TrainingSet,
};
use x2ct::{Device, Error, files};

use crate::Common;
use crate::chain::{Chain, Trust};
use crate::output::Report;
use crate::terminal::{Progress, stop_flag};
use log::{Log, log_path};
use serde_json::json;

/// Train a radiograph encoder on radiographs and a teacher's embeddings, or a CT encoder on volumes and reports
///
/// The model's name decides: `dcformer-...` is a CT encoder (examples/train_dcformer.toml), any other a radiograph encoder
/// (examples/train.toml). A run that was stopped goes on where it was; one that has ended goes on after `epochs` is raised.
#[derive(clap::Args)]
pub struct TrainArgs {
    /// The run, as TOML
    config: PathBuf,
    /// Begin anew; an earlier run's checkpoint and log are kept beside, with a number in their names
    #[arg(long)]
    restart: bool,
    #[command(flatten)]
    trust: Trust,
}

pub fn run(args: TrainArgs, common: &Common) -> anyhow::Result<ExitCode> {
    let device = common.device()?;
    match AnyConfig::read(&args.config)? {
        AnyConfig::Radiographs(config) => train(&args, common, &device, &config, radiographs),
        AnyConfig::Ct(config) => train(&args, common, &device, &config, volumes),
    }
}

fn radiographs(device: &Device, config: &TrainConfig, chain: &mut Chain) -> x2ct::Result<TrainingSet> {
    let (path, cache_path) = (&config.data.radiographs, &config.data.cache);
    let radiographs = RadiographSet::read(path)?;
    chain.doubt_origins(path, &radiographs.doubts())?;
    let cache = EmbeddingCache::read(cache_path)?;
    let set = TrainingSet::join(device, &radiographs, &cache).map_err(|e| e.of_file(cache_path))?;
    chain.lacks(path, &set.ids, cache_path, &cache.ids);
    Ok(set)
}

fn volumes(device: &Device, config: &CtTrainConfig, chain: &mut Chain) -> x2ct::Result<CtTrainingSet> {
    let volumes = VolumeSet::read(&config.data.volumes)?;
    chain.doubt_origins(&config.data.volumes, &volumes.doubts())?;
    let (set, path, ids) = match (&config.data.text, &config.data.cache) {
        (Some(path), _) => {
            let text = TextFeatures::read(path)?;
            (CtTrainingSet::with_features(device, volumes, &text), path, text.ids)
        }
        (None, Some(path)) => {
            let cache = EmbeddingCache::read(path)?;
            (CtTrainingSet::with_embeddings(device, volumes, &cache), path, cache.ids.clone())
        }
        (None, None) => return Err(Error::argument("data", "has neither text nor cache", "give one of them")),
    };
    let set = set.map_err(|e| e.of_file(path))?;
    chain.lacks(&config.data.volumes, set.ids(), path, &ids);
    Ok(set)
}

fn train<C: Task>(
    args: &TrainArgs,
    common: &Common,
    device: &Device,
    config: &C,
    read: impl FnOnce(&Device, &C, &mut Chain) -> x2ct::Result<C::Set>,
) -> anyhow::Result<ExitCode> {
    let out = config.run().out;
    files::check_folder(out)?;
    let (stop, mut chain) = (stop_flag()?, Chain::new(args.trust));
    let set = read(device, config, &mut chain)?;
    let undecided = C::sources(&set).undecided().into_iter().chain(C::undecided(&set));
    chain.settle(&args.config, Ok(undecided.collect()))?;
    let epoch = config.epoch(&set);
    say_of_epoch(&config.run(), epoch, &args.config, &mut chain);
    let trained = run_logged(device, config, &set, args.restart, &mut chain, &stop);
    let Trained { trainer, log, steps, note, kept } = trained.map_err(|e| e.of_file(&args.config))?;
    if let Some(note) = &note {
        remark!("{note}");
    }
    trainer.sources().from.iter().for_each(|(name, from)| chain.holds(name, &from.digest));
    let checkpoint = checkpoint_path(out);
    let report = Report::new("train").with_all(json!({
        "checkpoint": files::lossy(&checkpoint), "position": trainer.position(), "epochs": config.run().epochs,
        "pairs": epoch.pairs, "pairs_left_out": epoch.left_out, "steps": steps, "skipped": trainer.skipped(),
        "last": log.last(), "note": note, "kept": kept,
    }))?;
    chain.report(report)?.finish(common.json, || say!("{}", checkpoint.display()))
}

/// Says which pairs an epoch leaves out, and what is doubtful of the schedule. Of an epoch without a batch there is more to say.
fn say_of_epoch(run: &Run, epoch: Epoch, config: &Path, chain: &mut Chain) {
    let Epoch { pairs, batches, left_out } = epoch;
    if batches == 0 {
        return;
    }
    if left_out > 0 {
        let why = if run.drop_last { "drop_last is set" } else { "a single pair has no negative" };
        remark!(
            "each epoch leaves out {left_out} of {pairs} pairs, others each time: they do not fill a batch of {} ({why})",
            run.batch
        );
    }
    if let Some(says) = run.doubt_of_warmup(batches) {
        chain.note(config, &says);
    }
}

/// Where a run keeps its newest checkpoint.
pub fn checkpoint_path(out: &Path) -> PathBuf {
    out.join("checkpoint.safetensors")
}

/// A run that came to its end.
pub struct Trained<C: Task> {
    /// At the end of the run.
    pub trainer: Trainer<C>,
    /// The whole log, as far as there is one.
    pub log: Vec<StepLog>,
    /// Steps that were done now.
    pub steps: usize,
    /// Why there were none.
    pub note: Option<String>,
    /// Where the files of an earlier run are now.
    pub kept: Vec<String>,
}

/// Trains to the end, with checkpoints, a JSON-lines log and progress; resumes a checkpoint of the same configuration unless it
/// is to `restart`. Everything is checked before the folder is touched, and no other process trains there meanwhile.
pub fn run_logged<C: Task>(
    device: &Device,
    config: &C,
    set: &C::Set,
    restart: bool,
    chain: &mut Chain,
    stop: &AtomicBool,
) -> x2ct::Result<Trained<C>> {
    let (run, path) = (config.run(), checkpoint_path(config.run().out));
    // Before the checkpoint is read that another process may be about to replace.
    let claim = run.out.is_dir().then(|| Claim::of(run.out)).transpose()?;
    let resume = !restart && path.exists();
    let mut trainer = match resume {
        true => Trainer::resume(device, &earlier(&path, config, set, chain)?)?,
        false => Trainer::new(device, config)?,
    };
    trainer.expect_set(set)?;
    if let (Some(path), Some(weights)) = (run.weights, trainer.sources().from.get("weights")) {
        chain.settle(path, Ok(weights.undecided("weights")))?;
    }
    say_unused(trainer.unused_weights());
    let _claim = claim.map_or_else(|| Claim::of(run.out), Ok)?;
    files::remove_unfinished(&path)?;
    let kept = if restart { keep_earlier(run.out)? } else { Vec::new() };
    let begin = trainer.position().step;
    let (log, warning) = if resume { log::read(&log_path(run.out), begin) } else { (Vec::new(), None) };
    if let Some(warning) = warning {
        chain.note(&log_path(run.out), &warning);
    }
    if trainer.is_finished() {
        return Ok(Trained { trainer, log, steps: 0, note: Some(nothing_left(&run)), kept });
    }
    if resume {
        remark!("resuming after step {begin} of {}", trainer.total_steps(set));
    }
    let mut watch = Watch::new(path, Log::begin(log_path(run.out), log), &trainer, trainer.total_steps(set));
    let outcome = trainer.run(set, &mut watch, stop);
    // A failure says all that is to be said itself.
    if matches!(outcome, Err(Error::Interrupted(_)) | Ok(())) {
        watch.finish();
    }
    outcome?;
    let steps = trainer.position().step - begin;
    Ok(Trained { trainer, log: watch.log.steps, steps, note: None, kept })
}

/// The checkpoint of the run so far, to go on from by this configuration.
fn earlier<C: Task>(path: &Path, config: &C, set: &C::Set, chain: &mut Chain) -> x2ct::Result<Checkpoint<C>> {
    let checkpoint: Checkpoint<C> = Checkpoint::read(path)?;
    let data = Sources::of(config, set).map_err(|e| match e {
        Error::File { path, field, problem, .. } if Some(&*path) == config.run().weights => {
            let hint = "restore the file, or leave `weights` out: the run goes on from its checkpoint".into();
            Error::File { path, field, problem, hint }
        }
        other => other,
    })?;
    chain.settle(path, checkpoint.expect_run(config, &data))?;
    Ok(Checkpoint { config: config.clone(), ..checkpoint })
}

/// What to say of a run that has ended already.
fn nothing_left(run: &Run) -> String {
    let done = format!("all {} epochs were done", run.epochs);
    if run.schedule.kind == ScheduleKind::Constant || run.planned_epochs() > run.epochs {
        return format!("{done}; raise `epochs` to go on");
    }
    format!(
        "{done}, and the cosine was planned for no more; a longer run begins anew, with --restart and more `epochs`"
    )
}

/// Renames the files of an earlier run, so that none is lost: `checkpoint.N.safetensors` and `log.N.jsonl` with the first free
/// number.
fn keep_earlier(out: &Path) -> x2ct::Result<Vec<String>> {
    let numbered = |n: usize| {
        [(log_path(out), format!("log.{n}.jsonl")), (checkpoint_path(out), format!("checkpoint.{n}.safetensors"))]
            .map(|(from, to)| (from, out.join(to)))
    };
    let free = (1..).map(numbered).find(|names| names.iter().all(|(_, to)| to.symlink_metadata().is_err()));
    let mut kept = Vec::new();
    for (from, to) in free.into_iter().flatten().filter(|(from, _)| from.symlink_metadata().is_ok()) {
        std::fs::rename(&from, &to).map_err(|e| Error::io(&from, "rename", &e))?;
        kept.push(files::lossy(&to));
    }
    if !kept.is_empty() {
        remark!("kept of the earlier run: {}", kept.join(", "));
    }
    Ok(kept)
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

/// Writes the log and the checkpoints, and shows progress.
struct Watch {
    checkpoint: PathBuf,
    log: Log,
    progress: Option<Progress>,
    /// Skipped steps of the whole run.
    skipped: u64,
    /// Images since the start.
    images: u64,
    start: Instant,
}

impl Watch {
    fn new<C: Task>(checkpoint: PathBuf, log: Log, trainer: &Trainer<C>, total: usize) -> Self {
        let mut progress = Progress::new("training", "steps", total as u64);
        progress.resume(trainer.position().step as u64);
        let skipped = trainer.skipped();
        Watch { checkpoint, log, progress: Some(progress), skipped, images: 0, start: Instant::now() }
    }

    fn finish(&mut self) {
        if let Some(progress) = self.progress.take() {
            progress.finish(&self.note());
        }
    }

    fn note(&self) -> String {
        let rate = self.images as f64 / self.start.elapsed().as_secs_f64().max(1e-9);
        let loss = self.log.steps.last().map_or("unknown".into(), |step| format!("{:.3}", step.loss));
        let skipped = if self.skipped > 0 { format!(", {} steps skipped", self.skipped) } else { String::new() };
        format!("{rate:.1} images/s, loss {loss}{skipped}")
    }
}

impl<C: Task> Observer<C> for Watch {
    fn step(&mut self, log: &StepLog, position: Position) -> x2ct::Result<()> {
        self.images += log.images as u64;
        self.skipped += u64::from(log.grad_norm.is_none());
        self.log.add(log);
        let note = self.note();
        if let Some(progress) = &mut self.progress {
            progress.set(position.step as u64, &note);
        }
        Ok(())
    }

    fn checkpoint(&mut self, trainer: &Trainer<C>) -> x2ct::Result<()> {
        // The log first, so that it holds all steps that the checkpoint knows of.
        self.log.flush();
        trainer.checkpoint()?.write(&self.checkpoint)
    }
}
