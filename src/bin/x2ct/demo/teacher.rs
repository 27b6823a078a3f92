//! The demo's own teacher: DCFormer-CLIP, trained on the phantoms' CTs and reports, frozen, cached.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use x2ct::Device;
use x2ct::data::phantom_set::{PhantomSet, PhantomStudy};
use x2ct::data::text::HashedNgrams;
use x2ct::data::volumes::VolumeSet;
use x2ct::eval::scores::{ClipScores, ZeroShotTargets};
use x2ct::nn::Recompute;
use x2ct::nn::models::{CtClipConfig, DcFormerConfig};
use x2ct::tensor::DType;
use x2ct::train::{
    CtDataConfig, CtLossConfig, CtTeacher, CtTrainConfig, CtTrainingSet, MAX_SKIPPED_STEPS, OptimizerConfig,
    ScheduleConfig, ScheduleKind, StepLog, Texts,
};

use crate::chain::{Chain, Trust};
use crate::terminal::Progress;
use crate::train::{checkpoint_path, run_logged};

/// Dimensions of its space.
pub const EMBEDDING: usize = 128;
/// A text's features: hashed sequences of one and two words.
const TEXT: HashedNgrams = HashedNgrams { dim: 1024, max_n: 2 };

/// What became of the teacher.
pub struct Learned {
    pub steps: Vec<StepLog>,
    /// On the held-out patients.
    pub scores: ClipScores,
    pub config: CtTrainConfig,
}

/// A DCFormer small enough for two cores: volumes of 64^3 voxels leave the last stage one. A hundred steps are too few for the
/// released code's layer scale and rate, and its temperature is the loss's of the radiograph encoder's order here.
pub fn config(out: &Path, seed: u64, patients: usize, epochs: usize) -> x2ct::Result<CtTrainConfig> {
    let encoder = DcFormerConfig {
        channels: [16, 16, 32, 64, 128],
        blocks: [1, 1, 1, 1],
        kernels: [7, 5, 3, 3],
        layer_scale: 0.1,
        input: x2ct::ct::phantom::COARSE_SHAPE,
        ..DcFormerConfig::named("dcformer-nano")?
    };
    Ok(CtTrainConfig {
        out: out.join("ct"),
        epochs,
        batch: patients.min(64),
        micro_batch: None,
        recompute: Recompute::default(),
        seed,
        dtype: DType::F32,
        checkpoint_steps: 1000,
        max_skipped_steps: MAX_SKIPPED_STEPS,
        schedule_epochs: None,
        drop_last: true,
        weights: None,
        model: CtClipConfig { name: "dcformer".into(), encoder, embedding: EMBEDDING, text_features: Some(TEXT.dim) },
        data: CtDataConfig { volumes: "phantom".into(), text: Some("phantom".into()), cache: None },
        loss: CtLossConfig { scale: 10.0 },
        optimizer: OptimizerConfig { lr: Some(3e-3), blr: None, max_norm: 1.0, ..OptimizerConfig::dcformer() },
        schedule: ScheduleConfig { kind: ScheduleKind::Cosine, warmup_steps: 10 },
    })
}

/// Trains the teacher on `train` and puts its embeddings in the place of both sets', as files in `out` and in memory. An
/// interrupted call goes on where it stopped, unless it is to `restart`.
pub fn learn(
    device: &Device,
    study: &PhantomStudy,
    config: CtTrainConfig,
    [(train, trained), (test, held_out)]: [(&mut PhantomSet, Range<u64>); 2],
    (out, restart): (&Path, bool),
    stop: &AtomicBool,
) -> x2ct::Result<Learned> {
    x2ct::files::create_folder(&config.out)?;
    let text = |set: &PhantomSet| TEXT.features(set.cache.ids.clone(), &set.reports);
    let features = text(train)?;
    remark!("the teacher: DCFormer-CLIP on the CTs and reports of the training patients");
    let set = CtTrainingSet::with_features(device, volumes(device, study, "training", trained, stop)?, &features)?;
    let trained = run_logged(device, &config, &set, restart, &mut Chain::new(Trust { strict: false }), stop)?;
    super::say_trained_before("teacher", trained.note.is_some());
    let teacher = CtTeacher::read(device, &checkpoint_path(&config.out))?;
    let cached = |volumes: Arc<VolumeSet>, features, name: &str| {
        let mut progress = Progress::new("CT embeddings", "volumes", volumes.ids().len() as u64);
        let path = out.join(format!("{name}.cache.safetensors"));
        let texts = Texts::Features(features);
        let cache = teacher.write_cache(volumes, &texts, &path, stop, &mut |done| progress.set(done as u64, ""))?;
        progress.finish("");
        x2ct::Result::Ok(cache)
    };
    train.cache = cached(set.volumes.shared(), features, "train")?;
    // A gigabyte that is not needed any more.
    drop(set);
    let features = text(test)?;
    test.cache = cached(volumes(device, study, "held-out", held_out, stop)?.into(), features, "test")?;
    let targets = ZeroShotTargets { scale: f64::from(config.loss.scale), ..test.targets().zero_shot() };
    let scores = ClipScores::of(&test.cache.ct, &test.cache.report, &targets)?;
    Ok(Learned { steps: trained.log, scores, config })
}

fn volumes(
    device: &Device,
    study: &PhantomStudy,
    what: &str,
    range: Range<u64>,
    stop: &AtomicBool,
) -> x2ct::Result<VolumeSet> {
    let mut progress = Progress::new(&format!("{what} CTs"), "volumes", range.end - range.start);
    let set = study.volumes(device, range, DType::Bf16, stop, &mut |done| progress.set(done as u64, ""))?;
    progress.finish("");
    Ok(set)
}
