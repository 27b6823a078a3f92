//! `x2ct demo`: phantom patients, radiographs, a teacher, training, held-out evaluation, a page.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use serde_json::json;
use x2ct::ct::phantom::{COARSE_SHAPE, COARSE_SPACING};
use x2ct::data::phantom_set::{PhantomSet, PhantomStudy};
use x2ct::data::provenance::short;
use x2ct::data::rows;
use x2ct::eval::probe::RidgeRegression;
use x2ct::eval::retrieval::{self, Spread};
use x2ct::eval::scores::Scores;
use x2ct::nn::models::EncoderConfig;
use x2ct::ops::image::Normalization;
use x2ct::report::{CtStudy, Study, html};
use x2ct::train::{
    Augmentation, Checkpoint, CtTeacher, CtTrainConfig, DataConfig, LossConfig, MAX_SKIPPED_STEPS, OptimizerConfig,
    ScheduleConfig, ScheduleKind, Sources, StepLog, Task, TrainConfig, TrainingSet,
};
use x2ct::{Device, files};

mod teacher;

use crate::Common;
use crate::arguments::count;
use crate::chain::{Chain, Trust};
use crate::effect::{self, Rule};
use crate::output::Report;
use crate::terminal::{Progress, print_table, stop_flag};
use crate::train::{Trained, checkpoint_path, run_logged};

/// The whole method on simulated patients, on whatever this machine has: about two minutes on two cores
///
/// The phantom teacher stands for CT-CLIP: embeddings made from each phantom's known findings. With --teacher dcformer the teacher
/// is learned as well, from the phantoms' CTs and reports, before the radiographs learn from it: up to ten minutes.
#[derive(clap::Args)]
pub struct DemoArgs {
    /// Folder for the results; an interrupted demo goes on where it stopped
    #[arg(long, default_value = "x2ct-demo")]
    out: PathBuf,
    /// The teacher, whose embeddings the radiographs learn from
    #[arg(long, value_enum, default_value = "phantom")]
    teacher: TeacherName,
    /// More patients and longer training: up to 20 minutes on two cores, longer with --teacher dcformer
    #[arg(long)]
    full: bool,
    /// Seed of patients, initial weights and order
    #[arg(long, default_value_t = 1024)]
    seed: u64,
    /// Training patients
    #[arg(long, value_parser = count(2..=1_000_000))]
    patients: Option<usize>,
    /// Passes over the training patients
    #[arg(long, value_parser = count(1..=100_000))]
    epochs: Option<usize>,
    /// Passes of the CT encoder over the training patients, with --teacher dcformer
    #[arg(long, value_parser = count(1..=100_000))]
    teacher_epochs: Option<usize>,
    /// Patients held out: the gallery
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u64).range(2..=1_000_000))]
    held_out: u64,
    /// Train anew even if the folder holds an encoder
    #[arg(long)]
    restart: bool,
}

#[derive(Clone, Copy, PartialEq, clap::ValueEnum)]
enum TeacherName {
    /// Embeddings made from each phantom's known findings, plus noise
    Phantom,
    /// DCFormer-CLIP, first trained on the phantoms' CTs and reports
    Dcformer,
}

/// What the demo writes in its folder, beside what a run of `x2ct train` does.
const OUTPUTS: [&str; 6] = [
    "report.html",
    "summary.json",
    "test.cache.safetensors",
    "test.radiographs.safetensors",
    "train.cache.safetensors",
    "train.radiographs.safetensors",
];

/// Pixels of a radiograph's side.
const SIDE: usize = COARSE_SHAPE[0];

/// Everything the demo does to patients and network; `--full` differs in amount only.
struct Plan {
    study: PhantomStudy,
    patients: usize,
    config: TrainConfig,
    /// The run of the CT encoder, if the teacher is one.
    teacher: Option<CtTrainConfig>,
}

impl Plan {
    fn new(args: &DemoArgs, out: &Path) -> x2ct::Result<Self> {
        let learned = args.teacher == TeacherName::Dcformer;
        // The CTs of all training patients are in memory, half a megabyte each.
        let (patients, epochs, teacher_epochs) = match (args.full, learned) {
            (false, _) => (2_048, 13, 6),
            (true, false) => (12_288, 18, 0),
            (true, true) => (4_096, 18, 12),
        };
        let (patients, epochs) = (args.patients.unwrap_or(patients), args.epochs.unwrap_or(epochs));
        let teacher_epochs = args.teacher_epochs.unwrap_or(teacher_epochs);
        let teacher = learned.then(|| teacher::config(out, args.seed, patients, teacher_epochs)).transpose()?;
        let (name, embedding) = match &teacher {
            Some(config) => (CtTeacher::name_of(config), config.model.embedding),
            None => (x2ct::ct::phantom::teacher::NAME.into(), x2ct::ct::phantom::teacher::DIM),
        };
        let study = PhantomStudy { seed: args.seed, shape: COARSE_SHAPE, spacing: COARSE_SPACING };
        let config = TrainConfig {
            out: out.to_path_buf(),
            epochs,
            batch: 64,
            micro_batch: None,
            seed: args.seed,
            dtype: x2ct::tensor::DType::F32,
            checkpoint_steps: 1000,
            max_skipped_steps: MAX_SKIPPED_STEPS,
            schedule_epochs: None,
            drop_last: false,
            weights: None,
            model: EncoderConfig { embedding, ..EncoderConfig::new("resnet18", 16) },
            data: DataConfig {
                radiographs: out.join("train.radiographs.safetensors"),
                cache: out.join("train.cache.safetensors"),
                teacher: Some(name),
                image_size: SIDE,
                normalization: Normalization::IMAGENET,
            },
            loss: LossConfig::default(),
            optimizer: OptimizerConfig { lr: Some(2e-3), weight_decay: 0.05, max_norm: 1.0, ..Default::default() },
            schedule: ScheduleConfig { kind: ScheduleKind::Cosine, warmup_steps: 30 },
            augmentation: Augmentation { shift: 0.04, ..Default::default() },
        };
        Ok(Plan { study, patients, config, teacher })
    }
}

pub fn run(args: DemoArgs, common: &Common) -> anyhow::Result<ExitCode> {
    effect::check(&rules(&args))?;
    let start = Instant::now();
    let device = common.device()?;
    let out = args.out.clone();
    files::create_folder(&out)?;
    OUTPUTS.iter().try_for_each(|name| files::check_writable(out.join(name)))?;
    let plan = Plan::new(&args, &out)?;
    let stop = stop_flag()?;
    remark!("device: {}", device.description());
    let restart = args.restart;
    // Of other settings, before minutes of work; of other patients, before anything is written.
    expect_run(&plan, restart, &Sources::default())?;
    let ids = [0..plan.patients as u64, 1_000_000_000..1_000_000_000 + args.held_out];
    let mut train = patients(&plan, &device, "training", ids[0].clone(), &stop)?;
    let mut test = patients(&plan, &device, "held out", ids[1].clone(), &stop)?;
    let learned = match &plan.teacher {
        Some(config) => {
            let [of_train, of_test] = ids;
            let sets = [(&mut train, of_train), (&mut test, of_test)];
            Some(teacher::learn(&device, &plan.study, config.clone(), sets, (&out, restart), &stop)?)
        }
        None => None,
    };

    let set = TrainingSet::join(&device, &train.radiographs, &train.cache)?;
    expect_run(&plan, restart, &set.sources)?;
    train.radiographs.write(&plan.config.data.radiographs)?;
    test.radiographs.write(&out.join("test.radiographs.safetensors"))?;
    train.cache.write(&plan.config.data.cache)?;
    let held_out = out.join("test.cache.safetensors");
    test.cache.write(&held_out)?;
    let mut chain = Chain::new(Trust { strict: false });
    chain.settle(&plan.config.data.cache, Ok(set.undecided.clone()))?;
    let of_held_out = &test.radiographs;
    let joined = test.cache.join("radiographs", of_held_out.ids(), of_held_out.cts());
    chain.settle(&held_out, joined.map(|(_, undecided)| undecided))?;
    let Trained { trainer, log: steps, note, .. } =
        run_logged(&device, &plan.config, &set, restart, &mut chain, &stop)?;
    say_trained_before("encoder", note.is_some());
    let embeddings = trainer.embed(&test.radiographs.upload(&device)?)?;

    let targets = test.targets();
    let encoder = Scores::of(&embeddings, &targets)?;
    let ridge = Scores::of(&ridge_from_pixels(&train, &test)?, &targets)?;
    let ceiling = Scores::of(&test.cache.ct, &targets)?;
    let (checkpoint, sources) = (trainer.checkpoint()?.digest(), TrainConfig::sources(&set));
    chain.holds("checkpoint", &checkpoint);
    sources.from.iter().for_each(|(name, from)| chain.holds(name, &from.digest));
    let rows = encoder.gallery;
    let alike = |scores: &Scores| scores.retrieval.mean_cosine.radiographs.unwrap_or(0.0);
    for (who, what, scores, mean_cosine) in [
        ("encoder", "radiographs", &encoder, alike(&encoder)),
        // Its embeddings shrink toward their mean, which is no fault of theirs.
        ("ridge regression", "radiographs", &ridge, 0.0),
        ("teacher", "CTs", &ceiling, alike(&ceiling)),
    ] {
        let distinct = scores.retrieval.distinct.radiographs.unwrap_or(rows);
        if let Some(says) = retrieval::collapse(what, Spread { rows, scans: rows, distinct, mean_cosine }) {
            chain.note(who.as_ref(), &says);
        }
    }
    let run = Outcome {
        seconds: start.elapsed().as_secs_f64(),
        device: device.description(),
        teacher: test.cache.teacher.clone(),
        learned,
        steps,
        checkpoint,
        sources,
        scores: [encoder, ridge, ceiling],
    };
    let summary = run.summary(&plan);
    let text = serde_json::to_string_pretty(&summary)? + "\n";
    files::write_atomic(out.join("summary.json"), text.as_bytes())?;
    run.write_page(&out, &plan, &test, &embeddings)?;
    chain.report(Report::new("demo").with_all(summary)?)?.finish(common.json, || run.print(&out))
}

/// When options act.
fn rules(args: &DemoArgs) -> [Rule; 2] {
    let learned = args.teacher == TeacherName::Dcformer;
    let open = args.patients.is_none() || args.epochs.is_none() || (learned && args.teacher_epochs.is_none());
    [
        Rule::new("teacher_epochs", learned, "--teacher dcformer"),
        Rule::new("full", open, "one of patients and epochs left to it"),
    ]
}

/// Says of a model that an earlier call has trained it to the end, if so.
fn say_trained_before(what: &str, was: bool) {
    if was {
        remark!("the {what} was trained before");
    }
}

/// Whether the encoder in the folder, if one is to be used, is of this plan and of these patients.
fn expect_run(plan: &Plan, restart: bool, sources: &Sources) -> x2ct::Result<()> {
    let path = checkpoint_path(&plan.config.out);
    if restart || !path.exists() {
        return Ok(());
    }
    let checkpoint: Checkpoint = Checkpoint::read(&path)?;
    checkpoint.expect_run(&plan.config, sources).map(drop).map_err(|e| e.of_file(&path))
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

/// The results that the demo shows.
struct Outcome {
    seconds: f64,
    device: String,
    teacher: String,
    /// The scores and log of a teacher that was trained.
    learned: Option<teacher::Learned>,
    /// The radiograph encoder's log.
    steps: Vec<StepLog>,
    /// The digest of the radiograph encoder that was scored.
    checkpoint: String,
    /// The data that the encoder was trained on.
    sources: Sources,
    /// The encoder, ridge regression, the teacher's own CT embeddings.
    scores: [Scores; 3],
}

impl Outcome {
    /// The figures, as JSON.
    fn summary(&self, plan: &Plan) -> serde_json::Value {
        let [encoder, ridge, ceiling] = &self.scores;
        let mut summary = json!({
            "seconds": self.seconds,
            "version": format!("x2ct {}", crate::output::version()),
            "command_line": crate::output::command_line(),
            "device": self.device,
            "teacher": self.teacher,
            "gallery": encoder.gallery,
            "patients": plan.patients,
            "retrieval": encoder.retrieval,
            "zero_shot": encoder.zero_shot,
            "baseline_ridge": scores_json(ridge),
            "ceiling_teacher": scores_json(ceiling),
            "config": plan.config,
            "digests": {
                "checkpoint": self.checkpoint,
                "radiographs": self.sources.from["radiographs"].digest,
                "cache": self.sources.from["cache"].digest,
            },
        });
        if let Some(learned) = &self.learned {
            summary["ct_teacher"] = json!({
                "retrieval": learned.scores.retrieval, "zero_shot": learned.scores.zero_shot,
                "scale": learned.scores.scale, "config": learned.config,
            });
        }
        summary
    }

    fn write_page(&self, out: &Path, plan: &Plan, test: &PhantomSet, embeddings: &[f32]) -> anyhow::Result<()> {
        let [encoder, baseline_ridge, ceiling_teacher] = &self.scores;
        let teacher = match &self.learned {
            None => {
                "phantom teacher: embeddings made from each phantom's known findings plus noise, not by CT-CLIP".into()
            }
            Some(learned) => format!(
                "{}: trained here for {} epochs on the CTs ({SIDE}^3 voxels) and reports (hashed word n-grams) of the training phantoms; \
                 not CT-CLIP",
                self.teacher, learned.config.epochs
            ),
        };
        let patients = format!("{} for training, {} held out, all procedural phantoms", plan.patients, encoder.gallery);
        let (width, epochs) = (plan.config.model.width, plan.config.epochs);
        let facts = [
            ("teacher", teacher),
            ("patients", patients),
            (
                "encoder",
                format!(
                    "ResNet-18, width {width}, {SIDE} x {SIDE} pixels, {epochs} epochs; checkpoint {}",
                    short(&self.checkpoint)
                ),
            ),
            ("device", self.device.clone()),
            ("time", format!("{:.0} s", self.seconds)),
            ("seed", plan.config.seed.to_string()),
            ("version", format!("x2ct {}", crate::output::version())),
            ("command", crate::output::command_line()),
        ];
        let study = Study {
            title: &format!("x2ct demo: what a radiograph learns from CT ({})", self.teacher),
            facts: &facts,
            steps: &self.steps,
            encoder,
            baseline_ridge,
            ceiling_teacher,
            ct_teacher: self.learned.as_ref().map(|l| CtStudy { scores: &l.scores, steps: &l.steps }),
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

    fn print(&self, out: &Path) {
        let optional = |v: Option<f64>| v.map_or("-".into(), |v| format!("{v:.3}"));
        let [encoder, ..] = &self.scores;
        let chance = encoder.retrieval.chance_r5;
        let row = |name: &str, value: &dyn Fn(&Scores) -> String, chance: String| {
            std::iter::once(name.to_string()).chain(self.scores.iter().map(value)).chain([chance]).collect::<Vec<_>>()
        };
        let rows = [
            row("R@5 CXR to CT", &|s| format!("{:.3}", s.retrieval.cxr_to_ct.r5), format!("{chance:.3}")),
            row("R@5 CXR to report", &|s| format!("{:.3}", s.retrieval.cxr_to_report.r5), format!("{chance:.3}")),
            row("zero-shot AUC", &|s| optional(s.zero_shot.auc_macro), "0.500".into()),
            row("zero-shot AP", &|s| optional(s.zero_shot.ap_macro), format!("{:.3}", encoder.zero_shot.prevalence)),
        ];
        say!("{} held-out phantom patients, {}, {:.0} s", encoder.gallery, self.teacher, self.seconds);
        if let Some(learned) = &self.learned {
            let r = &learned.scores.retrieval;
            let row = |name: &str, shares: [f64; 3]| {
                std::iter::once(name.to_string()).chain(shares.map(|v| format!("{v:.3}"))).collect::<Vec<_>>()
            };
            let rows = [
                row("CT from report (IR)", [r.image_from_text.r1, r.image_from_text.r10, r.image_from_text.r50]),
                row("report from CT (TR)", [r.text_from_image.r1, r.text_from_image.r10, r.text_from_image.r50]),
                row("chance", r.chance),
            ];
            print_table(&["the teacher itself", "R@1", "R@10", "R@50"], &rows);
            say!("its zero-shot AUC: {}\n", optional(learned.scores.zero_shot.auc_macro));
        }
        print_table(&["", "encoder", "ridge on pixels", "teacher's ceiling", "chance"], &rows);
        say!("{}", out.join("report.html").display());
    }
}
