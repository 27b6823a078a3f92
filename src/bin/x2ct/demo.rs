//! `x2ct demo`: phantom patients, radiographs, a phantom teacher, training, held-out evaluation, a page.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use serde_json::json;
use x2ct::ct::phantom::{COARSE_SHAPE, COARSE_SPACING};
use x2ct::data::phantom_set::{PhantomSet, PhantomStudy};
use x2ct::data::rows;
use x2ct::eval::probe::RidgeRegression;
use x2ct::eval::scores::Scores;
use x2ct::nn::models::EncoderConfig;
use x2ct::ops::image::Normalization;
use x2ct::report::{Study, html};
use x2ct::train::{
    Augmentation, DataConfig, LossConfig, OptimizerConfig, ScheduleConfig, ScheduleKind, StepLog, TrainConfig,
    TrainingSet,
};
use x2ct::{Device, files};

use crate::Common;
use crate::terminal::{Progress, print_table, stop_flag};
use crate::train::run_logged;

/// The whole method on simulated patients, on whatever this machine has: about two minutes on two cores
#[derive(clap::Args)]
pub struct DemoArgs {
    /// Folder for the results; an interrupted demo goes on where it stopped
    #[arg(long, default_value = "x2ct-demo")]
    out: PathBuf,
    /// More patients and longer training: up to 20 minutes on two cores
    #[arg(long)]
    full: bool,
    /// Of patients, initial weights and order
    #[arg(long, default_value_t = 1024)]
    seed: u64,
    /// Training patients
    #[arg(long)]
    patients: Option<usize>,
    /// Passes over them
    #[arg(long)]
    epochs: Option<usize>,
}

const HELD_OUT: usize = 256;
/// Pixels of a radiograph's side.
const SIDE: usize = COARSE_SHAPE[0];

/// Everything the demo does to patients and network; `--full` differs in amount only.
struct Plan {
    study: PhantomStudy,
    patients: usize,
    config: TrainConfig,
}

impl Plan {
    fn new(args: &DemoArgs, out: &Path) -> Self {
        let (patients, epochs) = if args.full { (12_288, 18) } else { (2_048, 13) };
        let (patients, epochs) = (args.patients.unwrap_or(patients), args.epochs.unwrap_or(epochs));
        let study = PhantomStudy { seed: args.seed, shape: COARSE_SHAPE, spacing: COARSE_SPACING };
        let config = TrainConfig {
            out: out.to_path_buf(),
            epochs,
            batch: 64,
            micro_batch: None,
            seed: args.seed,
            dtype: x2ct::tensor::DType::F32,
            checkpoint_steps: 1000,
            drop_last: false,
            weights: None,
            model: EncoderConfig::new("resnet18", 16),
            data: DataConfig {
                radiographs: out.join("train.radiographs.safetensors"),
                cache: out.join("train.cache.safetensors"),
                teacher: Some(x2ct::ct::phantom::teacher::NAME.into()),
                image_size: SIDE,
                normalization: Normalization::IMAGENET,
            },
            loss: LossConfig::default(),
            optimizer: OptimizerConfig { lr: Some(2e-3), weight_decay: 0.05, max_norm: 1.0, ..Default::default() },
            schedule: ScheduleConfig { kind: ScheduleKind::Cosine, warmup_steps: 30 },
            augmentation: Augmentation { shift: 0.04, ..Default::default() },
        };
        Plan { study, patients, config }
    }
}

pub fn run(args: DemoArgs, common: &Common) -> anyhow::Result<ExitCode> {
    let start = Instant::now();
    let device = common.device()?;
    let out = args.out.clone();
    std::fs::create_dir_all(&out).map_err(|e| x2ct::Error::io(&out, "create the folder", &e))?;
    let plan = Plan::new(&args, &out);
    let stop = stop_flag()?;
    eprintln!("device: {}", device.description());
    let train = patients(&plan, &device, "training", 0..plan.patients as u64, &stop)?;
    let held_out_ids = 1_000_000_000..1_000_000_000 + HELD_OUT as u64;
    let test = patients(&plan, &device, "held out", held_out_ids, &stop)?;
    train.radiographs.write(&plan.config.data.radiographs)?;
    train.cache.write(&plan.config.data.cache)?;
    test.radiographs.write(&out.join("test.radiographs.safetensors"))?;
    test.cache.write(out.join("test.cache.safetensors"))?;

    let set = TrainingSet::join(&device, &train.radiographs, &train.cache)?;
    let (trainer, steps) = run_logged(&device, &plan.config, &set, true, &stop)?;
    let embeddings = trainer.embed(&test.radiographs.upload(&device)?)?;

    let targets = test.targets();
    let encoder = Scores::of(&embeddings, &targets)?;
    let ridge = Scores::of(&ridge_from_pixels(&train, &test)?, &targets)?;
    let ceiling = Scores::of(&test.cache.ct, &targets)?;
    let seconds = start.elapsed().as_secs_f64();
    write_summary(&out, seconds, &device, &plan, [&encoder, &ridge, &ceiling])?;
    write_page(&out, seconds, &device, &plan, &steps, &test, &embeddings, [&encoder, &ridge, &ceiling])?;
    if common.json {
        print!("{}", std::fs::read_to_string(out.join("summary.json"))?);
    } else {
        print_results(&out, seconds, [&encoder, &ridge, &ceiling]);
    }
    Ok(ExitCode::SUCCESS)
}

fn patients(
    plan: &Plan,
    device: &Device,
    what: &str,
    range: std::ops::Range<u64>,
    stop: &AtomicBool,
) -> x2ct::Result<PhantomSet> {
    let mut progress = Progress::new(&format!("{what} patients"), "patients", range.end - range.start);
    let set = plan.study.make(device, range, stop, &mut |done| progress.set(done as u64, ""))?;
    progress.finish("");
    Ok(set)
}

/// The linear baseline: ridge regression from pixels to the sum of the teacher's two embeddings, penalty chosen on a
/// quarter of the training patients.
fn ridge_from_pixels(train: &PhantomSet, test: &PhantomSet) -> x2ct::Result<Vec<f32>> {
    // A linear model has as many parameters as it can use with these many patients; more only slows the fit.
    const MOST: usize = 4096;
    let pixels = |set: &PhantomSet, n: usize| -> Vec<f32> { (0..n).flat_map(|i| set.radiographs.grey(i)).collect() };
    let n = train.radiographs.ids().len().min(MOST);
    let dim = train.cache.dim;
    let y: Vec<f32> = train.cache.ct[..n * dim].iter().zip(&train.cache.report).map(|(c, r)| c + r).collect();
    let held_out: Vec<bool> = (0..n).map(|i| i % 4 == 3).collect();
    let grid: Vec<f64> = (-1..=5).map(|e| 10f64.powi(e)).collect();
    let ridge = RidgeRegression::fit_select(&pixels(train, n), &y, &held_out, &grid)?;
    let mut embeddings = ridge.predict(&pixels(test, test.radiographs.ids().len()))?;
    rows::l2_normalise("ridge embeddings", &mut embeddings, dim)?;
    Ok(embeddings)
}

fn scores_json(s: &Scores) -> serde_json::Value {
    json!({"retrieval": s.retrieval, "zero_shot": s.zero_shot})
}

fn write_summary(
    out: &Path,
    seconds: f64,
    device: &Device,
    plan: &Plan,
    [encoder, ridge, ceiling]: [&Scores; 3],
) -> anyhow::Result<()> {
    let summary = json!({
        "seconds": seconds,
        "device": device.description(),
        "teacher": x2ct::ct::phantom::teacher::NAME,
        "gallery": encoder.gallery,
        "patients": plan.patients,
        "retrieval": encoder.retrieval,
        "zero_shot": encoder.zero_shot,
        "baseline_ridge": scores_json(ridge),
        "ceiling_teacher": scores_json(ceiling),
        "config": plan.config,
    });
    files::write_atomic(out.join("summary.json"), (serde_json::to_string_pretty(&summary)? + "\n").as_bytes())?;
    Ok(())
}

#[allow(clippy::too_many_arguments)] // a page shows everything
fn write_page(
    out: &Path,
    seconds: f64,
    device: &Device,
    plan: &Plan,
    steps: &[StepLog],
    test: &PhantomSet,
    embeddings: &[f32],
    [encoder, baseline_ridge, ceiling_teacher]: [&Scores; 3],
) -> anyhow::Result<()> {
    let facts = [
        (
            "teacher",
            "phantom teacher: embeddings made from each phantom's known findings plus noise, not by CT-CLIP"
                .to_string(),
        ),
        ("patients", format!("{} for training, {} held out, all procedural phantoms", plan.patients, encoder.gallery)),
        (
            "encoder",
            format!(
                "ResNet-18, width {}, {SIDE} x {SIDE} pixels, {} epochs",
                plan.config.model.width, plan.config.epochs
            ),
        ),
        ("device", device.description()),
        ("time", format!("{seconds:.0} s")),
    ];
    let study = Study {
        title: "x2ct demo: what a radiograph learns from CT (phantom teacher)",
        facts: &facts,
        steps,
        encoder,
        baseline_ridge,
        ceiling_teacher,
        radiographs: &test.radiographs,
        labels: &test.labels,
        reports: &test.reports,
        embeddings,
        ct: &test.cache.ct,
        dim: test.cache.dim,
    };
    files::write_atomic(out.join("report.html"), html(&study)?.as_bytes())?;
    Ok(())
}

fn print_results(out: &Path, seconds: f64, scores: [&Scores; 3]) {
    let optional = |v: Option<f64>| v.map_or("-".into(), |v| format!("{v:.3}"));
    let [encoder, ..] = scores;
    let chance = encoder.retrieval.chance_r5;
    let row = |name: &str, value: &dyn Fn(&Scores) -> String, chance: String| {
        std::iter::once(name.to_string()).chain(scores.map(value)).chain([chance]).collect::<Vec<_>>()
    };
    let rows = [
        row("R@5 CXR to CT", &|s| format!("{:.3}", s.retrieval.cxr_to_ct.r5), format!("{chance:.3}")),
        row("R@5 CXR to report", &|s| format!("{:.3}", s.retrieval.cxr_to_report.r5), format!("{chance:.3}")),
        row("zero-shot AUC", &|s| optional(s.zero_shot.auc_macro), "0.500".into()),
        row("zero-shot AP", &|s| optional(s.zero_shot.ap_macro), format!("{:.3}", encoder.zero_shot.prevalence)),
    ];
    println!("{} held-out phantom patients, phantom teacher, {seconds:.0} s", encoder.gallery);
    print_table(&["", "encoder", "ridge on pixels", "teacher's ceiling", "chance"], &rows);
    println!("{}", out.join("report.html").display());
}
