//! Training a CT encoder as a whole: it repeats bit for bit, it resumes bit for bit, and it refuses what it cannot use.

use std::path::Path;
use std::sync::atomic::AtomicBool;

use x2ct::data::phantom_set::PhantomStudy;
use x2ct::data::text::{HashedNgrams, TextFeatures};
use x2ct::nn::StateDict;
use x2ct::nn::models::{CtClipConfig, DcFormerConfig, TokenReduction};
use x2ct::tensor::DType;
use x2ct::train::{
    AnyConfig, Checkpoint, CtDataConfig, CtLossConfig, CtTrainConfig, CtTrainingSet, Decay, OptimizerConfig, StepLog,
    StepRows, Task, TrainConfig, Trainer, gradients,
};
use x2ct::{Device, Error};

use crate::gradient_cache::on_one_tape;
use crate::support::Recorder;

fn model(text_features: Option<usize>) -> CtClipConfig {
    let encoder = DcFormerConfig {
        channels: [8, 8, 16, 16, 32],
        blocks: [1, 1, 1, 1],
        kernels: [5, 3, 3, 3],
        ..DcFormerConfig::named("dcformer-nano").unwrap()
    };
    CtClipConfig { name: "dcformer".into(), encoder, embedding: 48, text_features }
}

const FEATURES: usize = 96;

fn config(out: &Path, epochs: usize) -> CtTrainConfig {
    CtTrainConfig {
        out: out.into(),
        epochs,
        batch: 16,
        micro_batch: None,
        recompute: Default::default(),
        seed: 3,
        dtype: DType::F32,
        checkpoint_steps: 2,
        max_skipped_steps: 10,
        schedule_epochs: None,
        drop_last: true,
        weights: None,
        model: model(Some(FEATURES)),
        data: CtDataConfig { volumes: "volumes".into(), text: Some("text.safetensors".into()), cache: None },
        loss: CtLossConfig::default(),
        optimizer: OptimizerConfig { lr: Some(2e-3), blr: None, ..OptimizerConfig::dcformer() },
        schedule: Default::default(),
    }
}

struct Patients {
    volumes: x2ct::data::volumes::VolumeSet,
    text: TextFeatures,
}

fn patients_of(study: &PhantomStudy, device: &Device, range: std::ops::Range<u64>) -> Patients {
    let stop = AtomicBool::new(false);
    let volumes = study.volumes(device, range.clone(), DType::F32, &stop, &mut |_| {}).unwrap();
    // The reports are those of any grid.
    let coarse = PhantomStudy { shape: [8; 3], spacing: [40.0; 3], ..study.clone() };
    let reports = coarse.make(device, range, &stop, &mut |_| {}).unwrap().reports;
    let text = HashedNgrams { dim: FEATURES, max_n: 2 }.features(volumes.ids().to_vec(), &reports).unwrap();
    Patients { volumes, text }
}

fn set(device: &Device, p: Patients) -> CtTrainingSet {
    CtTrainingSet::with_features(device, p.volumes, &p.text).unwrap()
}

fn train(device: &Device, config: &CtTrainConfig, set: &CtTrainingSet) -> (Trainer<CtTrainConfig>, Vec<StepLog>) {
    let (mut trainer, mut recorder) = (Trainer::new(device, config).unwrap(), Recorder::default());
    trainer.run(set, &mut recorder, &AtomicBool::new(false)).unwrap();
    (trainer, recorder.steps)
}

/// A smaller problem, for what does not need to learn.
fn small(out: &Path, micro_batch: Option<usize>, dtype: DType) -> CtTrainConfig {
    let mut config = CtTrainConfig { batch: 6, micro_batch, dtype, ..config(out, 2) };
    config.model.encoder.channels = [4, 4, 4, 8, 8];
    config.model.encoder.drop_path = 0.2;
    config.model.embedding = 24;
    config
}

/// Fourteen patients: two batches of six an epoch, and two left over.
fn few(device: &Device) -> CtTrainingSet {
    let study = PhantomStudy { seed: 7, shape: [20, 16, 24], spacing: [20.0; 3] };
    set(device, patients_of(&study, device, 0..14))
}

fn bits(trainer: &Trainer<CtTrainConfig>) -> Vec<u32> {
    trainer.parameters().values().to_vec().unwrap().iter().map(|v| v.to_bits()).collect()
}

/// Steps in one pass in f32 and bf16, and in micro-batches that do not divide the batch.
const CUTS: [(Option<usize>, DType); 3] = [(None, DType::F32), (None, DType::Bf16), (Some(4), DType::F32)];

#[test]
fn two_runs_are_equal_bit_for_bit_on_any_number_of_threads_and_in_any_memory() {
    let folder = tempfile::tempdir().unwrap();
    for (micro_batch, dtype) in CUTS {
        let runs = [(1, false), (2, false), (2, true)].map(|(threads, poison)| {
            let device = Device::host_with(x2ct::device::HostOptions { threads, poison, ..Default::default() });
            let (trainer, steps) = train(&device, &small(folder.path(), micro_batch, dtype), &few(&device));
            (trainer.checkpoint().unwrap().model, steps)
        });
        for other in &runs[1..] {
            assert_eq!(runs[0].1, other.1, "micro_batch {micro_batch:?} {}", dtype.name());
            assert!(runs[0].0 == other.0, "micro_batch {micro_batch:?} {}", dtype.name());
        }
    }
}

#[test]
fn a_stopped_and_resumed_run_equals_one_that_was_not() {
    let (device, folder) = (Device::host(), tempfile::tempdir().unwrap());
    let set = few(&device);
    for (micro_batch, dtype) in CUTS {
        let config = small(folder.path(), micro_batch, dtype);
        let (whole, whole_steps) = train(&device, &config, &set);
        assert_eq!(whole_steps.iter().map(|s| s.images).collect::<Vec<_>>(), [6; 4], "the two left over are dropped");
        for stop_at in [1, 2, 3] {
            let (path, flag) = (folder.path().join("checkpoint.safetensors"), AtomicBool::new(false));
            let mut first =
                Recorder { stop_after: Some((stop_at, &flag)), write_to: Some(path.clone()), ..Default::default() };
            let outcome = Trainer::new(&device, &config).unwrap().run(&set, &mut first, &flag);
            assert!(matches!(outcome, Err(Error::Interrupted(_))));
            let checkpoint: Checkpoint<CtTrainConfig> = Checkpoint::read(&path).unwrap();
            assert_eq!(checkpoint.config, config);
            let mut resumed = Trainer::resume(&device, &checkpoint).unwrap();
            let mut second = Recorder::default();
            resumed.run(&set, &mut second, &AtomicBool::new(false)).unwrap();
            assert_eq!([first.steps, second.steps].concat(), whole_steps, "stopped after step {stop_at}");
            assert!(bits(&resumed) == bits(&whole), "stopped after step {stop_at}");
            let (a, b) = (resumed.checkpoint().unwrap(), whole.checkpoint().unwrap());
            assert!(a.model == b.model && a.exp_avg == b.exp_avg && a.exp_avg_sq == b.exp_avg_sq);
        }
        let other = PhantomStudy { seed: 7, shape: [20, 16, 24], spacing: [21.0; 3] };
        let other = self::set(&device, patients_of(&other, &device, 0..14));
        let mut resumed = Trainer::resume(&device, &whole.checkpoint().unwrap()).unwrap();
        let error = resumed.run(&other, &mut Recorder::default(), &AtomicBool::new(false)).unwrap_err().to_string();
        assert!(
            error.contains("data.volumes: preset.spacing: trained on [20.0,20.0,20.0], these are [21.0,"),
            "{error}"
        );
    }
}

#[test]
fn micro_batches_give_the_gradient_of_one_tape_on_both_sides() {
    let (device, folder) = (Device::host(), tempfile::tempdir().unwrap());
    let (set, rows) = (few(&device), [3, 11, 0, 7, 5, 2]);
    let gradient = |cached: bool| {
        let config = small(folder.path(), Some(4), DType::F32);
        let trainer = Trainer::new(&device, &config).unwrap();
        let step = StepRows { rows: &rows, place: [0, 0], next: &[] };
        let batch = config.batch(trainer.model(), trainer.parameters(), &set, &step).unwrap();
        let parts = config.parts(rows.len()).unwrap();
        assert_eq!(parts, [0..3, 3..6]);
        let loss = if cached { gradients(&batch, &parts).unwrap() } else { on_one_tape(&batch, &parts) };
        let all = trainer.parameters().to_torch(trainer.parameters().gradients()).unwrap();
        (loss, all, trainer.parameters().buffers_to_torch().unwrap())
    };
    let ((loss, cached, buffers), (want_loss, direct, want_buffers)) = (gradient(true), gradient(false));
    assert!(((loss - want_loss) / want_loss).abs() < 1e-6 && buffers == want_buffers);
    let largest = direct.iter().flat_map(|(.., g)| g).fold(0.0f32, |a, g| a.max(g.abs()));
    for ((name, _, got), (_, _, want)) in cached.iter().zip(&direct) {
        let size = |v: &[f32]| v.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
        let difference: Vec<f32> = got.iter().zip(want).map(|(a, b)| a - b).collect();
        // Biases before a batch norm have no gradient but rounding.
        let limit = 1e-5 * size(want) + 1e-6 * f64::from(largest);
        assert!(size(&difference) <= limit, "{name}: {:.1e} of {:.1e}", size(&difference), size(want));
    }
    let text = cached.iter().find(|(name, ..)| name == "to_text_latent.weight").unwrap();
    assert!(text.2.iter().any(|g| g.abs() > 1e-4 * largest), "the text tower has a gradient");
}

/// Parameters after one step, by name.
fn one_step(device: &Device, config: &CtTrainConfig) -> Vec<(String, x2ct::tensor::Shape, Vec<f32>)> {
    let (trainer, steps) = train(device, &CtTrainConfig { epochs: 1, batch: 14, ..config.clone() }, &few(device));
    assert_eq!(steps.len(), 1);
    trainer.parameters().to_torch(trainer.parameters().values()).unwrap()
}

#[test]
fn matrices_decay_and_norms_biases_and_scales_do_not() {
    let (device, folder) = (Device::host(), tempfile::tempdir().unwrap());
    let with = |weight_decay: f64, decay: Decay| {
        let mut config = small(folder.path(), None, DType::F32);
        config.optimizer = OptimizerConfig { weight_decay, decay, ..config.optimizer };
        one_step(&device, &config)
    };
    let none = with(0.0, Decay::Matrices);
    for (decay, decayed) in [(Decay::Matrices, with(0.5, Decay::Matrices)), (Decay::All, with(0.5, Decay::All))] {
        let (mut matrices, mut others) = (0, 0);
        for ((name, shape, plain), (.., values)) in none.iter().zip(&decayed) {
            let matrix = shape.len() >= 2;
            // A bias before a batch norm starts as anything and so decays too where all do; so does every norm's weight, 1.
            if decay == Decay::Matrices {
                assert_eq!(plain != values, matrix, "{name} {shape}");
            } else if matrix || name.ends_with("norm.0.weight") {
                assert!(plain != values, "{name} {shape}");
            }
            if matrix {
                matrices += 1;
            } else {
                others += 1;
            }
        }
        assert!(matrices > 20 && others > 40, "{matrices} {others}");
    }
}

#[test]
fn the_base_rate_is_of_256_pairs() {
    let (device, folder) = (Device::host(), tempfile::tempdir().unwrap());
    for micro_batch in [None, Some(2)] {
        let mut config = CtTrainConfig { epochs: 1, ..small(folder.path(), micro_batch, DType::F32) };
        config.optimizer = OptimizerConfig { lr: None, blr: Some(1e-3), ..config.optimizer };
        let (_, steps) = train(&device, &config, &few(&device));
        assert_eq!(steps.iter().map(|s| s.lr).collect::<Vec<_>>(), [1e-3 * 6.0 / 256.0; 2]);
    }
    // The released runs: 128 volumes over all processes.
    assert_eq!(OptimizerConfig::dcformer().rate(128).unwrap(), 5e-6);
}

#[test]
fn a_text_tower_is_trained_and_embeddings_are_not() {
    let (device, folder) = (Device::host(), tempfile::tempdir().unwrap());
    let tower = |p: &[(String, x2ct::tensor::Shape, Vec<f32>)]| {
        p.iter()
            .find(|(name, ..)| name == "to_text_latent.weight")
            .map(|(_, shape, data)| (shape.clone(), data.clone()))
    };
    let config = small(folder.path(), None, DType::F32);
    let fresh = Trainer::new(&device, &config).unwrap();
    let before = tower(&fresh.parameters().to_torch(fresh.parameters().values()).unwrap()).unwrap();
    let after = tower(&one_step(&device, &config)).unwrap();
    assert_eq!(before.0[..], [24, FEATURES]);
    assert!(before.1.iter().zip(&after.1).all(|(a, b)| a != b));

    let study = PhantomStudy { seed: 7, shape: [20, 16, 24], spacing: [20.0; 3] };
    let stop = AtomicBool::new(false);
    let cache = study.make(&device, 0..14, &stop, &mut |_| {}).unwrap().cache;
    let volumes = || study.volumes(&device, 0..14, DType::Bf16, &stop, &mut |_| {}).unwrap();
    let frozen = CtTrainingSet::with_embeddings(&device, volumes(), &cache).unwrap();
    let mut config = small(folder.path(), None, DType::F32);
    (config.model.text_features, config.model.embedding) = (None, cache.dim);
    config.data = CtDataConfig { volumes: "v".into(), text: None, cache: Some("c".into()) };
    let (trainer, steps) = train(&device, &config, &frozen);
    assert!(steps.len() == 4 && steps.iter().all(|step| step.loss > 0.0 && step.grad_norm.unwrap() > 0.0));
    assert_eq!(tower(&trainer.parameters().to_torch(trainer.parameters().values()).unwrap()), None);
    assert_eq!(trainer.sources().teacher, "phantom teacher");
    // Embeddings come back as they are, to rounding.
    let texts = trainer.embed_texts(&cache.report).unwrap();
    assert!(texts.iter().zip(&cache.report).all(|(a, b)| (a - b).abs() < 1e-6));

    let refuse = |config: &CtTrainConfig, set: &CtTrainingSet| {
        let run = Trainer::new(&device, config)
            .and_then(|mut t| t.run(set, &mut Recorder::default(), &AtomicBool::new(false)));
        run.unwrap_err().to_string()
    };
    let mut other = config.clone();
    other.model.embedding = 24;
    assert!(refuse(&other, &frozen).contains("model.embedding: is 24, the cache's embeddings have 512 dimensions"));
    assert!(refuse(&config, &few(&device)).contains("set it to 96"));
    let with_tower = small(folder.path(), None, DType::F32);
    assert!(refuse(&with_tower, &frozen).contains("the texts are embeddings"));
    let mut other = with_tower.clone();
    other.model.text_features = Some(95);
    assert!(refuse(&other, &few(&device)).contains("is 95, the texts have 96 features"));
    let mut other = with_tower.clone();
    other.model.encoder.reduction = TokenReduction::Depth;
    assert!(refuse(&other, &few(&device)).contains("model.input: is [512, 512, 256] along H, W and D"));
    let alone = CtTrainConfig { micro_batch: Some(1), ..with_tower.clone() };
    assert!(refuse(&alone, &few(&device)).contains("leaves batch norm one voxel"));
    let large = CtTrainConfig { batch: 15, ..with_tower.clone() };
    assert!(refuse(&large, &few(&device)).contains("14 scans do not fill one batch of 15"));
    let mut diverging = CtTrainConfig { epochs: 4, ..with_tower };
    diverging.optimizer.lr = Some(1e30);
    assert!(refuse(&diverging, &few(&device)).contains("lower optimizer.lr"));
    let mut ids = cache.clone();
    ids.ids[3] = "another".into();
    let error = CtTrainingSet::with_embeddings(&device, volumes(), &ids).map(drop).unwrap_err().to_string();
    assert!(error.contains("phantom_7_3"), "{error}");
}

#[test]
fn weights_of_the_released_code_are_loaded_in_either_spelling() {
    let (device, folder) = (Device::host(), tempfile::tempdir().unwrap());
    let config = small(folder.path(), None, DType::F32);
    let source = Trainer::new(&device, &CtTrainConfig { seed: 9, ..config.clone() }).unwrap();
    let own = StateDict::of(source.parameters()).unwrap();
    assert!(own.tensors.contains_key("visual_transformer.encoder.s1.0.dwconv.norm.2.running_var"));
    let path = folder.path().join("weights.safetensors");
    for alias in [false, true] {
        let rename = |name: &String| {
            let spelled =
                (0..3).fold(name.clone(), |n, i| n.replace(&format!(".norm.{i}."), &format!(".c{}.1.", i + 1)));
            if alias { spelled } else { name.clone() }
        };
        let mut dict: StateDict = own.tensors.iter().map(|(name, t)| (rename(name), t.clone())).collect();
        for extra in ["text_transformer.pooler.dense.bias", "text_transformer.encoder.layer.0.output.dense.bias"] {
            dict.tensors.insert(extra.into(), ([2].into(), vec![0.0; 2]));
        }
        dict.write(&path, &[]).unwrap();
        let loaded = Trainer::new(&device, &CtTrainConfig { weights: Some(path.clone()), ..config.clone() }).unwrap();
        assert!(StateDict::of(loaded.parameters()).unwrap() == own, "alias {alias}");
        assert_eq!(loaded.unused_weights().len(), 2);
        assert!(loaded.unused_weights().iter().all(|name| name.starts_with("text_transformer.")));
    }
    let mut short = own.clone();
    short.tensors.remove("to_visual_latent.weight");
    short.write(&path, &[]).unwrap();
    let error = Trainer::new(&device, &CtTrainConfig { weights: Some(path), ..config }).map(drop).unwrap_err();
    assert!(error.to_string().contains("has no tensor `to_visual_latent.weight`"), "{error}");
}

fn read(folder: &Path, text: &str) -> Result<CtTrainConfig, String> {
    let path = folder.join("run.toml");
    std::fs::write(&path, text).unwrap();
    match AnyConfig::read(&path) {
        Ok(AnyConfig::Ct(config)) => Ok(config),
        Ok(AnyConfig::Radiographs(_)) => Err("a radiograph encoder".into()),
        Err(error) => Err(error.to_string()),
    }
}

#[test]
fn a_configuration_says_what_is_wrong_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let minimal = "out = \"run\"\n[model]\nname = \"dcformer-nano\"\ntext_features = 768\n[data]\nvolumes = \"v\"\ntext = \"t\"\n";
    let read = |from: &str, to: &str| {
        assert!(minimal.contains(from));
        read(folder.path(), &minimal.replacen(from, to, 1))
    };
    let config = read("", "").unwrap();
    assert_eq!(config.model, CtClipConfig::named("dcformer-nano", Some(768)).unwrap());
    assert_eq!((config.out, config.data.text), (folder.path().join("run"), Some(folder.path().join("t"))));

    // The model's table: anything of the encoder over what the name stands for.
    let other =
        read("text_features", "kernels = [7, 7, 7, 7]\nstem_activation = true\nreduction = \"depth\"\ntext_features");
    let other = other.unwrap().model.encoder;
    let named = DcFormerConfig::named("dcformer-nano").unwrap();
    let want =
        DcFormerConfig { kernels: [7; 4], stem_activation: true, reduction: TokenReduction::Depth, ..named.clone() };
    assert_eq!(other, want);
    let quantised = read("text_features", "vq = 16\ndrop_path = 0.25\ntext_features").unwrap();
    assert_eq!((quantised.model.encoder.vq, quantised.model.encoder.drop_path), (Some(16), 0.25));
    assert_eq!(read("", "").unwrap().model.encoder.vq, None);
    let sized = "name = \"dcformer\"\nchannels = [8, 8, 8, 8, 8]\nblocks = [1, 2, 1, 1]";
    let sized = read("name = \"dcformer-nano\"", sized).unwrap().model;
    assert_eq!(
        (sized.encoder.channels, sized.encoder.blocks, sized.encoder.kernels),
        ([8; 5], [1, 2, 1, 1], named.kernels)
    );

    for (from, to, expected) in [
        ("out", "outt", "unknown field `outt`"),
        ("dcformer-nano", "dcformer-huge", "there is no model `dcformer-huge`; use dcformer-nano,"),
        ("dcformer-nano", "dcformer", "the model `dcformer` needs `channels`"),
        ("text_features", "kernel = [7]\ntext_features", "unknown field `kernel`"),
        ("text_features", "kernels = [7, 7, 7, 8]\ntext_features", "odd kernels"),
        ("text_features", "kernels = 7\ntext_features", "line 2: `kernels`: invalid type: integer `7`"),
        ("text_features", "projection = 8\ntext_features", "`embedding` is its size"),
        ("768", "0", "`text_features` is not a positive number"),
        ("text_features = 768", "", "model.text_features: is missing"),
        ("text =", "cache =", "model.text_features: is given, but data.cache"),
        ("text = \"t\"", "", "data: give one of text and cache"),
        ("text =", "cache = \"c\"\ntext =", "data: give one of text and cache"),
        ("out", "batch = 1\nout", "batch: is 1, must be from 2 to 16777216"),
        ("out", "micro_batch = 0\nout", "micro_batch: is 0, must be from 1 to 16777216"),
        ("[model]", "micro_batch = 4\n[model]\nvq = 16", "micro_batch: must be left out with model.vq"),
        ("text_features", "vq = 0\ntext_features", "model.vq: is 0, must be from 1 to 1048576"),
        ("out", "epochs = 0\nout", "epochs: is 0, must be from 1 to 1000000"),
        ("[data]", "[loss]\nscale = 0.0\n[data]", "loss.scale: is 0, must be from 0.0001 to 10000"),
        ("[data]", "[loss]\ntemperature = 0.1\n[data]", "line 6: unknown field `temperature`"),
        ("[data]", "[optimizer]\nlr = 1e-3\nblr = 1e-3\n[data]", "optimizer.lr: stands beside blr; give one of them"),
        ("[data]", "[optimizer]\nblr = -1.0\n[data]", "optimizer.blr: is -1, must be from 1e-30 to 1e30"),
        ("[data]", "[optimizer]\ndecay = \"some\"\n[data]", "line 6: decay: unknown variant `some`"),
        ("[data]", "[augmentation]\n[data]", "unknown field `augmentation`"),
    ] {
        let error = read(from, to).unwrap_err();
        assert!(error.contains("run.toml") && error.contains(expected), "{to:?}: {error}");
    }
    let partly = read("[data]", "[optimizer]\nlr = 1e-3\nmax_norm = 1.0\n[data]").unwrap().optimizer;
    let want = OptimizerConfig { lr: Some(1e-3), blr: None, max_norm: 1.0, ..OptimizerConfig::dcformer() };
    assert_eq!(partly, want);
}

#[test]
fn the_example_configuration_holds_the_defaults() {
    let path = crate::support::checkout("examples/train_dcformer.toml");
    let example = CtTrainConfig::read(&path).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let needed = "out = \"run\"\n[model]\nname = \"dcformer-tiny\"\ntext_features = 768\n[data]\nvolumes = \"v\"\ntext = \"t\"\n";
    let minimal = read(folder.path(), needed).unwrap();
    assert_eq!(example, CtTrainConfig { out: example.out.clone(), data: example.data.clone(), ..minimal });
    // The released code's settings.
    let o = &example.optimizer;
    assert_eq!((o.blr, o.lr, o.weight_decay, o.betas, o.max_norm), (Some(1e-5), None, 0.05, [0.9, 0.95], 0.0));
    assert_eq!((example.batch, example.epochs, example.dtype, example.drop_last), (8, 15, DType::Bf16, true));
    assert_eq!((example.loss.scale, example.model.embedding), (std::f32::consts::E, 512));
}

#[test]
fn a_checkpoint_of_one_kind_is_none_of_the_other() {
    let (device, folder) = (Device::host(), tempfile::tempdir().unwrap());
    let path = folder.path().join("checkpoint.safetensors");
    let config = small(folder.path(), None, DType::F32);
    Trainer::new(&device, &config).unwrap().checkpoint().unwrap().write(&path).unwrap();
    let read = Checkpoint::<CtTrainConfig>::read(&path).unwrap();
    assert_eq!(read.config, config);
    // What has no part in the result is no other run.
    let thrifty = CtTrainConfig { recompute: x2ct::nn::Recompute::Blocks, checkpoint_steps: 7, ..config.clone() };
    assert!(read.expect_run(&thrifty, &Default::default()).unwrap().is_empty());
    let other = CtTrainConfig { seed: 4, ..config };
    assert!(
        read.expect_run(&other, &Default::default()).unwrap_err().to_string().starts_with("seed: is 4, the run began")
    );
    let error = Checkpoint::<TrainConfig>::read(&path).map(drop).unwrap_err().to_string();
    assert!(error.contains("is of a CT encoder, not of a radiograph encoder"), "{error}");
}

#[cfg(feature = "cli")]
#[test]
fn the_command_trains_and_says_where_it_trains_on() {
    let (device, folder) = (Device::host(), tempfile::tempdir().unwrap());
    let at = folder.path();
    let study = PhantomStudy { seed: 7, shape: [20, 16, 24], spacing: [20.0; 3] };
    let patients = patients_of(&study, &device, 0..14);
    patients.volumes.write(&at.join("volumes.safetensors")).unwrap();
    patients.text.write(at.join("text.safetensors")).unwrap();
    let text = "out = \"run\"\nepochs = 1\nbatch = 6\n[model]\nname = \"dcformer\"\nchannels = [4, 4, 4, 8, 8]\nblocks = [1, 1, 1, 1]\n\
                kernels = [5, 3, 3, 3]\nembedding = 24\ntext_features = 96\n[data]\nvolumes = \"volumes.safetensors\"\n\
                text = \"text.safetensors\"\n";
    std::fs::write(at.join("run.toml"), text).unwrap();
    let x2ct = |arguments: &str| {
        let mut command = assert_cmd::Command::new(crate::support::program());
        let output = command.args(arguments.split(' ')).current_dir(at).output().unwrap();
        let said = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        (output.status.success(), said(&output.stdout), said(&output.stderr))
    };
    let (good, report, said) = x2ct("train run.toml --device host --json");
    assert!(good, "{said}");
    let report: serde_json::Value = serde_json::from_str(&report).unwrap();
    assert_eq!((&report["position"]["step"], &report["last"]["images"]), (&2.into(), &6.into()));
    assert!(at.join("run/checkpoint.safetensors").exists());
    // More epochs prolong the run.
    std::fs::write(at.join("run.toml"), text.replace("epochs = 1", "epochs = 2")).unwrap();
    let (good, _, said) = x2ct("train run.toml --device host");
    assert!(good && said.contains("resuming after step 2 of 4"), "{said}");
    std::fs::write(at.join("run.toml"), text).unwrap();
    let (good, _, said) = x2ct("train run.toml --device host");
    assert!(!good && said.contains("epochs: is 1, the run began with 2, and may only grow"), "{said}");
    std::fs::write(at.join("run.toml"), text.replace("text.safetensors", "absent")).unwrap();
    let (good, _, said) = x2ct("train run.toml --device host");
    assert!(!good && said.contains("absent") && said.trim().lines().count() == 1, "{said}");
    let (good, _, said) = x2ct("predict x.png --checkpoint run/checkpoint.safetensors --cache text.safetensors");
    assert!(!good && said.contains("is of a CT encoder, not of a radiograph encoder"), "{said}");
}
