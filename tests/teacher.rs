//! A CT encoder as the teacher: its cache is the same however often the work was stopped, and the circle from volumes to a radiograph
//! encoder closes.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use x2ct::data::cache::EmbeddingCache;
use x2ct::data::cts::Cts;
use x2ct::data::phantom_set::PhantomStudy;
use x2ct::data::text::HashedNgrams;
use x2ct::data::volumes::VolumeSet;
use x2ct::nn::models::{CtClipConfig, DcFormerConfig};
use x2ct::tensor::DType;
use x2ct::train::{CtDataConfig, CtLossConfig, CtTeacher, CtTrainConfig, OptimizerConfig, Texts, Trainer};
use x2ct::{Device, Error};

pub const FEATURES: usize = 64;

fn study() -> PhantomStudy {
    PhantomStudy { seed: 7, shape: [24, 20, 28], spacing: [14.0, 16.0, 12.0] }
}

fn volumes(count: u64) -> VolumeSet {
    study().volumes(&Device::host(), 0..count, DType::Bf16, &AtomicBool::new(false), &mut |_| {}).unwrap()
}

fn texts(volumes: &VolumeSet, words: usize) -> Texts {
    let reports: Vec<String> = volumes.ids().iter().map(|id| format!("Report of {id}.")).collect();
    let grams = HashedNgrams { dim: FEATURES, max_n: words };
    Texts::Features(grams.features(volumes.ids().to_vec(), &reports).unwrap())
}

pub fn config(text_features: Option<usize>) -> CtTrainConfig {
    let encoder = DcFormerConfig {
        channels: [4, 4, 8, 8, 16],
        kernels: [5, 3, 3, 3],
        ..DcFormerConfig::named("dcformer-nano").unwrap()
    };
    CtTrainConfig {
        out: "run".into(),
        epochs: 1,
        batch: 3,
        micro_batch: None,
        recompute: Default::default(),
        seed: 3,
        dtype: DType::F32,
        checkpoint_steps: 1,
        max_skipped_steps: 10,
        schedule_epochs: None,
        drop_last: true,
        weights: None,
        model: CtClipConfig { name: "dcformer".into(), encoder, embedding: 24, text_features },
        data: CtDataConfig { volumes: "volumes".into(), text: Some("text".into()), cache: None },
        loss: CtLossConfig::default(),
        optimizer: OptimizerConfig { lr: Some(1e-3), blr: None, ..OptimizerConfig::dcformer() },
        schedule: Default::default(),
    }
}

/// An untrained teacher, by a checkpoint.
fn teacher(folder: &Path) -> CtTeacher {
    let (device, path) = (Device::host(), folder.join("checkpoint.safetensors"));
    Trainer::new(&device, &config(Some(FEATURES))).unwrap().checkpoint().unwrap().write(&path).unwrap();
    CtTeacher::read(&device, &path).unwrap()
}

#[test]
fn a_cache_is_the_same_however_often_its_making_was_stopped() {
    let folder = tempfile::tempdir().unwrap();
    let (teacher, never) = (teacher(folder.path()), AtomicBool::new(false));
    let (whole, broken) = (folder.path().join("whole.safetensors"), folder.path().join("broken.safetensors"));
    let parts = folder.path().join("broken.safetensors.parts");
    let written = teacher.write_cache(volumes(11), &texts(&volumes(11), 1), &whole, &never, &mut |_| {}).unwrap();
    assert_eq!(EmbeddingCache::read(&whole).unwrap(), written);
    assert_eq!((written.ids.len(), written.dim, written.teacher.as_str()), (11, 24, "DCFormer-CLIP (dcformer)"));

    // Stopped, and stopped again.
    for (stop_at, done) in [(3, 3), (9, 9)] {
        let stop = AtomicBool::new(false);
        let mut watch = |n: usize| stop.store(n >= stop_at, Ordering::Relaxed);
        let error = teacher.write_cache(volumes(11), &texts(&volumes(11), 1), &broken, &stop, &mut watch).unwrap_err();
        assert!(matches!(error, Error::Interrupted(_)), "{error}");
        assert!(error.to_string().contains(&format!("after {done} of 11")), "{error}");
        assert!(!broken.exists() && parts.exists());
    }
    let mut seen = Vec::new();
    teacher.write_cache(volumes(11), &texts(&volumes(11), 1), &broken, &never, &mut |n| seen.push(n)).unwrap();
    assert_eq!(seen, [9, 10, 11], "what was done is not done again");
    assert_eq!(std::fs::read(&broken).unwrap(), std::fs::read(&whole).unwrap());
    assert!(!parts.exists(), "nothing is left");
    assert_eq!(teacher.cache(volumes(11), &texts(&volumes(11), 1), &never, &mut |_| {}).unwrap(), written);

    // Once there, it stays: even a set stop leaves it, as there is nothing to do.
    let again = teacher.write_cache(volumes(11), &texts(&volumes(11), 1), &broken, &AtomicBool::new(true), &mut |_| {});
    assert_eq!(again.unwrap(), written);
    // Other texts, another cache.
    let other = teacher.write_cache(volumes(11), &texts(&volumes(11), 2), &broken, &never, &mut |_| {}).unwrap();
    assert_ne!(other.preprocessing_digest, written.preprocessing_digest);
    assert_eq!((&other.ct, &other.checkpoint_digest), (&written.ct, &written.checkpoint_digest));
    assert_ne!(other.report, written.report);
}

/// Volumes of noise, one by each seed; what they are called does not depend on it.
fn noise(seeds: &[u64]) -> VolumeSet {
    let shape = [28, 24, 20];
    let value = |v: f32| half::bf16::from_f32(v.clamp(-1.0, 1.0)).to_le_bytes();
    let voxels = seeds.iter().flat_map(|&seed| crate::support::normal(seed, shape.iter().product())).flat_map(value);
    let ids = (0..seeds.len()).map(|i| format!("v{i}")).collect();
    VolumeSet::new(ids, shape, DType::Bf16, voxels.collect(), volumes(1).preset().clone()).unwrap()
}

#[test]
fn a_cache_embeds_what_has_changed_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let (teacher, never) = (teacher(folder.path()), AtomicBool::new(false));
    let (out, fresh) = (folder.path().join("cache.safetensors"), folder.path().join("fresh.safetensors"));
    let texts = |words: usize, seeds: &[u64]| texts(&noise(seeds), words);
    let cases: [(&[u64], usize, usize); 6] = [
        (&[1, 2, 3, 4], 1, 4),
        (&[1, 2, 9, 4], 1, 1),
        // The same volumes under each other's names.
        (&[2, 1, 9, 4], 1, 0),
        // Other texts.
        (&[2, 1, 9, 4], 2, 0),
        (&[2, 1, 9, 4, 7], 2, 1),
        (&[7, 9], 2, 0),
    ];
    for (seeds, words, embedded) in cases {
        let mut seen = Vec::new();
        let (set, text) = (noise(seeds), texts(words, seeds));
        teacher.write_cache(set, &text, &out, &never, &mut |n| seen.push(n)).unwrap();
        assert_eq!(seeds.len() - seen[0], embedded, "{seeds:?} {words}: {seen:?}");
        let _ = std::fs::remove_file(&fresh);
        teacher.write_cache(noise(seeds), &text, &fresh, &never, &mut |_| {}).unwrap();
        assert!(std::fs::read(&out).unwrap() == std::fs::read(&fresh).unwrap(), "{seeds:?} {words}");
    }
}

/// A cache of an earlier version, which knows no CTs, learns of them without being computed again.
#[test]
fn a_cache_learns_of_its_cts() {
    let folder = tempfile::tempdir().unwrap();
    let (teacher, never) = (teacher(folder.path()), AtomicBool::new(false));
    let out = folder.path().join("cache.safetensors");
    let build = || {
        let mut seen = Vec::new();
        let texts = texts(&volumes(3), 1);
        let cache = teacher.write_cache(volumes(3), &texts, &out, &never, &mut |n| seen.push(n)).unwrap();
        (cache, seen, std::fs::read(&out).unwrap())
    };
    let (mut cache, seen, bytes) = build();
    assert_eq!((&cache.cts, seen), (volumes(3).cts(), vec![0, 1, 2, 3]));
    cache.cts = Cts::default();
    cache.write(&out).unwrap();
    assert!(std::fs::read(&out).unwrap() != bytes);
    let (cache, seen, again) = build();
    assert_eq!((&cache.cts, seen, again == bytes), (volumes(3).cts(), vec![3], true));
}

#[test]
fn two_processes_do_not_make_one_cache() {
    let folder = tempfile::tempdir().unwrap();
    let (teacher, never) = (teacher(folder.path()), AtomicBool::new(false));
    let (out, parts) = (folder.path().join("cache"), folder.path().join("cache.parts"));
    let make = || teacher.write_cache(volumes(2), &texts(&volumes(2), 1), &out, &never, &mut |_| {});
    let other = x2ct::files::Claim::of(&parts).unwrap();
    let error = make().unwrap_err().to_string();
    assert!(error.contains("cache.parts: another x2ct") && error.contains("is at work in it"), "{error}");
    assert!(!out.exists() && parts.exists());
    drop(other);
    make().unwrap();
    assert!(out.exists() && !parts.exists());
}

#[test]
fn parts_of_another_run_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (teacher, out) = (teacher(folder.path()), folder.path().join("cache.safetensors"));
    let build = |words: usize, stop_at: usize| {
        let stop = AtomicBool::new(false);
        let mut watch = |n: usize| stop.store(n >= stop_at, Ordering::Relaxed);
        teacher.write_cache(volumes(7), &texts(&volumes(7), words), &out, &stop, &mut watch)
    };
    build(1, 3).unwrap_err();
    let other = CtTrainConfig { seed: 4, ..config(Some(FEATURES)) };
    let path = folder.path().join("other.safetensors");
    Trainer::new(&Device::host(), &other).unwrap().checkpoint().unwrap().write(&path).unwrap();
    let other = CtTeacher::read(&Device::host(), &path).unwrap();
    let never = AtomicBool::new(false);
    let error =
        other.write_cache(volumes(7), &texts(&volumes(7), 1), &out, &never, &mut |_| {}).unwrap_err().to_string();
    let both = format!("is of the checkpoint {}, not of {}", &teacher.digest()[..12], &other.digest()[..12]);
    assert!(error.contains("part-000000") && error.contains(&both) && !out.exists(), "{error}");
    let part = folder.path().join("cache.safetensors.parts/part-000000.safetensors");
    let mut bytes = std::fs::read(&part).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&part, &bytes).unwrap();
    let error = build(1, 100).unwrap_err().to_string();
    assert!(error.contains("part-000000") && error.contains("delete the folder"), "{error}");
}

#[test]
fn what_the_model_was_not_trained_on_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (teacher, never) = (teacher(folder.path()), AtomicBool::new(false));
    let refused = |texts: &Texts| teacher.cache(volumes(2), texts, &never, &mut |_| {}).unwrap_err().to_string();
    let Texts::Features(good) = texts(&volumes(2), 1) else { unreachable!() };
    let narrow = HashedNgrams { dim: 16, max_n: 1 }.features(good.ids.clone(), &["a", "b"]).unwrap();
    let error = refused(&Texts::Features(narrow));
    assert!(error.contains("16 columns") && error.contains("takes 64"), "{error}");
    let error = refused(&texts(&volumes(1), 1));
    assert!(error.contains("phantom_7_1: there are no text features of its report"), "{error}");
    let cache = teacher.cache(volumes(2), &Texts::Features(good), &never, &mut |_| {}).unwrap();
    let error = refused(&Texts::Embeddings(cache));
    assert!(error.contains("the model has a text tower"), "{error}");
    assert!(Texts::read(None, None).is_err() && Texts::read(Some("a".as_ref()), Some("b".as_ref())).is_err());
}

#[test]
fn a_model_without_a_text_tower_hands_the_embeddings_on() {
    let folder = tempfile::tempdir().unwrap();
    let never = AtomicBool::new(false);
    let first = teacher(folder.path()).cache(volumes(4), &texts(&volumes(4), 1), &never, &mut |_| {}).unwrap();
    let device = Device::host();
    let path = folder.path().join("second.safetensors");
    let data = CtDataConfig { volumes: "volumes".into(), text: None, cache: Some("cache".into()) };
    let config = CtTrainConfig { seed: 4, data, ..config(None) };
    Trainer::new(&device, &config).unwrap().checkpoint().unwrap().write(&path).unwrap();
    let second = CtTeacher::read(&device, &path).unwrap();
    let cache = second.cache(volumes(4), &Texts::Embeddings(first.clone()), &never, &mut |_| {}).unwrap();
    assert_eq!(cache.prompts_positive, first.prompts_positive);
    assert!(cache.report.iter().zip(&first.report).all(|(a, b)| (a - b).abs() < 1e-6));
    assert_ne!(cache.ct, first.ct);
    // Reports of other patients of the same ids.
    let mut other = first.clone();
    other.cts = Cts::new(vec!["0".repeat(64); 4]);
    let error = second.cache(volumes(4), &Texts::Embeddings(other), &never, &mut |_| {}).unwrap_err().to_string();
    assert!(error.starts_with("ct_digests: phantom_7_0: the volumes are of the CT "), "{error}");
    assert!(error.contains(", the embeddings of 000000000000 (and 3 more ids differ); "), "{error}");
}

#[cfg(feature = "cli")]
pub mod circle {
    use serde_json::Value;
    use x2ct::ct::{HuSource, Preset, nifti};
    use x2ct::data::ct_rate::{CtRate, Split};
    use x2ct::data::provenance::of_ct;
    use x2ct::data::{ct_rate, volumes::VolumeSet};
    use x2ct::tensor::DType;
    use x2ct::{Device, labels};

    use crate::cli::{json, succeed, x2ct};

    /// The volumes of a split, prepared at their own size: what `x2ct preprocess` does at the published one.
    pub fn prepare(at: &std::path::Path, split: Split) {
        let data = CtRate::read(at, split, ct_rate::HuSource::AlreadyHu).unwrap();
        prepare_some(at, &format!("{}.volumes.safetensors", split.name()), &data);
    }

    fn prepare_some(at: &std::path::Path, name: &str, data: &CtRate) {
        let preset = Preset { name: "small".into(), spacing: [12.0; 3], size: None, ..Preset::dcformer() };
        let (mut ids, mut voxels, mut cts) = (Vec::new(), Vec::new(), Vec::new());
        for volume in &data.volumes {
            let ct = nifti::read(data.path(volume)).unwrap();
            let prepared = preset.apply(&Device::host(), &ct, HuSource::AlreadyHu, DType::F32).unwrap();
            prepared.with_bytes(|bytes| voxels.extend_from_slice(bytes)).unwrap();
            ids.push(volume.name.to_string());
            cts.push(of_ct(&ct));
        }
        let set = VolumeSet::new(ids, [24; 3], DType::F32, voxels, preset).unwrap().with_cts(cts).unwrap();
        set.write(&at.join(name)).unwrap();
    }

    /// A small CT encoder on what [`prepare`] leaves.
    pub const CT: &str = "out = \"ct\"\nepochs = 2\nbatch = 4\ndtype = \"f32\"\n\
        [model]\nname = \"dcformer\"\nchannels = [4, 4, 8, 8, 16]\nblocks = [1, 1, 1, 1]\nkernels = [5, 3, 3, 3]\n\
        embedding = 32\ntext_features = 64\n\
        [data]\nvolumes = \"train.volumes.safetensors\"\ntext = \"train.text.safetensors\"\n[optimizer]\nlr = 1e-3\n";
    const CXR: &str = "out = \"cxr\"\nepochs = 2\nbatch = 6\n\
        [model]\nname = \"resnet18\"\nwidth = 8\nembedding = 32\n\
        [data]\nradiographs = \"train/ap.safetensors\"\ncache = \"train.dcformer.safetensors\"\n\
        teacher = \"DCFormer-CLIP (dcformer)\"\nimage_size = 32\n[optimizer]\nlr = 1e-3\n";

    #[test]
    fn from_volumes_and_reports_to_a_radiograph_encoder() {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path();
        succeed(at, "phantom --out . --train 12 --valid 6 --shape 24x24x24 --spacing 12");
        for (split, count) in [(Split::Train, 12), (Split::Valid, 6)] {
            prepare(at, split);
            let name = split.name();
            succeed(at, &format!("drr --dataset . --split {name} --size 32x32 --out {name}"));
            let text =
                json(at, &format!("cache text --dataset . --split {name} --features 64 --out {name}.text.safetensors"));
            assert_eq!((&text["reports"], &text["encoder"]), (&count.into(), &"hashed word n-grams".into()));
        }
        std::fs::write(at.join("ct.toml"), CT).unwrap();
        assert_eq!(json(at, "train ct.toml")["position"]["step"], 6);
        let cached = |name: &str| {
            json(
                at,
                &format!(
                    "cache build --checkpoint ct/checkpoint.safetensors --volumes {name}.volumes.safetensors \
                     --text {name}.text.safetensors --out {name}.dcformer.safetensors"
                ),
            )
        };
        let (train, valid) = (cached("train"), cached("valid"));
        assert_eq!((&train["volumes"], &valid["volumes"], &train["dim"]), (&12.into(), &6.into(), &32.into()));
        assert_eq!((&train["teacher"], &train["checkpoint_digest"]), (&valid["teacher"], &valid["checkpoint_digest"]));
        assert_eq!(train["teacher"], "DCFormer-CLIP (dcformer)");

        std::fs::write(at.join("cxr.toml"), CXR).unwrap();
        let trained = json(at, "train cxr.toml --strict");
        assert_eq!((&trained["position"]["step"], &trained["provenance"]), (&4.into(), &"recorded".into()));
        let scores = json(
            at,
            "eval --checkpoint cxr/checkpoint.safetensors --radiographs valid/ap.safetensors \
             --cache valid.dcformer.safetensors --dataset . --strict",
        );
        assert_eq!((&scores["gallery"], &scores["provenance"]), (&6.into(), &"recorded".into()));
        // Radiographs, volumes and embeddings are of the same CTs.
        assert_eq!(scores["digests"]["ct"], valid["digests"]["ct"]);

        // The teacher itself: by its model, and by what it left.
        let by_model = "eval --checkpoint ct/checkpoint.safetensors --volumes valid.volumes.safetensors \
                        --text valid.text.safetensors --dataset . --csv labels.csv";
        let scores = json(at, by_model);
        let scale = scores["scale"].as_f64().unwrap();
        assert!((scale - std::f64::consts::E).abs() < 1e-6, "{scale}");
        assert_eq!(scores["retrieval"]["chance"], Value::from(vec![1.0 / 6.0, 1.0, 1.0]));
        let by_cache = format!("eval --cache valid.dcformer.safetensors --dataset . --scale {scale}");
        let by_cache = json(at, &by_cache);
        assert_eq!((&by_cache["retrieval"], &by_cache["zero_shot"]), (&scores["retrieval"], &scores["zero_shot"]));
        assert_eq!((&by_cache["provenance"], &scores["provenance"]), (&"recorded".into(), &"recorded".into()));
        assert_eq!(by_cache["digests"]["cache"], valid["digests"]["cache"]);
        // The chain begins at the CTs themselves.
        let of_valid = VolumeSet::read(&at.join("valid.volumes.safetensors")).unwrap().provenance().unwrap();
        for report in [&scores, &valid] {
            assert_eq!(report["digests"]["volumes"], of_valid.digest);
            assert_eq!(report["digests"]["ct"], of_valid.from["ct"].digest);
        }
        let cache = x2ct::data::cache::EmbeddingCache::read(at.join("valid.dcformer.safetensors")).unwrap();
        assert_eq!(cache.provenance().from["volumes"], of_valid);
        let table = succeed(at, by_model);
        for part in ["IR: CT from report", "TR: report from CT", "weighted F1", "micro recall", labels::NAMES[17]] {
            assert!(table.contains(part), "{part} is not in {table}");
        }
        let written = std::fs::read_to_string(at.join("labels.csv")).unwrap();
        let names = |line: &str| line.rsplitn(5, ',').take(4).map(String::from).collect::<Vec<_>>();
        let lines: Vec<_> = written.lines().map(names).collect();
        assert_eq!(
            (lines.len(), &lines[0][..]),
            (1 + labels::COUNT, &["digest_labels", "digest_ct", "digest_text", "digest_volumes"].map(String::from)[..])
        );
        let digests =
            ["labels", "ct", "text", "volumes"].map(|name| scores["digests"][name].as_str().unwrap().to_string());
        assert!(lines[1..].iter().all(|line| line[..] == digests));

        // Texts of more volumes than there are: the join says so.
        let mut data = CtRate::read(at, Split::Valid, ct_rate::HuSource::AlreadyHu).unwrap();
        data.volumes.truncate(5);
        prepare_some(at, "five", &data);
        let five =
            "cache build --checkpoint ct/checkpoint.safetensors --volumes five --text valid.text.safetensors --out c5";
        let says = serde_json::json!([{"file": "five", "warning": "has none of 1 volume(s) of valid.text.safetensors: valid_6_a_1"}]);
        assert_eq!(json(at, five)["warnings"], says);
        let failed = |arguments: &str, says: &str| {
            let output = x2ct(at, arguments);
            let said = String::from_utf8(output.stderr).unwrap();
            assert!(!output.status.success() && said.contains(says), "{arguments}: {said}");
        };
        // A teacher of the same name that learned otherwise is another teacher.
        std::fs::write(at.join("ct2.toml"), CT.replacen("out = \"ct\"", "out = \"ct2\"\nseed = 7", 1)).unwrap();
        succeed(at, "train ct2.toml");
        let other = "cache build --checkpoint ct2/checkpoint.safetensors --volumes valid.volumes.safetensors \
                     --text valid.text.safetensors --out other.safetensors";
        assert_eq!(json(at, other)["teacher"], valid["teacher"]);
        for command in ["eval --radiographs valid/ap.safetensors --dataset .", "predict image.png"] {
            let arguments = format!("{command} --checkpoint cxr/checkpoint.safetensors --cache other.safetensors");
            failed(&arguments, "cache: checkpoint: trained on ");
            failed(&arguments, "(digests ");
        }
        failed("eval --checkpoint ct/checkpoint.safetensors --dataset .", "--volumes and --text");
        failed(
            "cache build --checkpoint cxr/checkpoint.safetensors --volumes valid.volumes.safetensors \
             --text valid.text.safetensors --out x.safetensors",
            "is of a radiograph encoder, not of a CT encoder",
        );
        failed(
            "cache build --checkpoint ct/checkpoint.safetensors --volumes valid.volumes.safetensors \
             --text train.text.safetensors --out x.safetensors",
            "train.text.safetensors: valid_1_a_1: there are no text features of its report (5 other volumes cannot be used",
        );

        // Text features of other options are told by the option, with the file.
        for (option, trained, other) in [("--features", "64", "32"), ("--words", "2", "3")] {
            let options = ["--features 64", "--words 2"]
                .map(|o| o.replace(&format!("{option} {trained}"), &format!("{option} {other}")));
            succeed(at, &format!("cache text --dataset . --split valid {} --out other", options.join(" ")));
            for command in ["eval --dataset .", "cache build --out x.safetensors"] {
                failed(
                    &format!(
                        "{command} --checkpoint ct/checkpoint.safetensors --volumes valid.volumes.safetensors --text other"
                    ),
                    &format!(
                        "other: {option}: the model was trained on {option} {trained}, these are of {option} {other} (digests "
                    ),
                );
            }
        }
    }

    #[test]
    fn the_demo_does_not_report_other_patients_with_the_encoder_of_these() {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path();
        let summary = json(at, "demo --out d --patients 16 --held-out 8 --epochs 1");
        let bytes = || {
            let names = ["summary.json", "train.radiographs.safetensors", "train.cache.safetensors"];
            names.map(|name| std::fs::read(at.join("d").join(name)).unwrap())
        };
        assert_eq!((&summary["provenance"], &summary["warnings"]), (&"recorded".into(), &serde_json::json!([])));
        let before = bytes();
        for other in ["--patients 20 --epochs 1", "--patients 16 --epochs 1 --seed 5"] {
            let output = x2ct(at, &format!("demo --out d --held-out 8 {other}"));
            let said = String::from_utf8(output.stderr).unwrap();
            assert!(!output.status.success() && said.contains("the run began") && said.contains("--restart"), "{said}");
            assert!(bytes() == before, "{other} has changed the folder");
        }
        let anew = json(at, "demo --out d --patients 20 --held-out 8 --epochs 1 --restart");
        assert_eq!((&summary["patients"], &anew["patients"]), (&16.into(), &20.into()));
        for name in ["checkpoint", "radiographs", "cache"] {
            assert_ne!(anew["digests"][name], summary["digests"][name], "{name}");
        }
    }

    #[test]
    fn the_demo_trains_its_own_teacher() {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path();
        let demo = "demo --teacher dcformer --out d --patients 24 --held-out 8 --epochs 1 --teacher-epochs 2";
        let summary = json(at, demo);
        assert_eq!((&summary["teacher"], &summary["gallery"]), (&"DCFormer-CLIP (dcformer)".into(), &8.into()));
        assert_eq!((&summary["provenance"], &summary["warnings"]), (&"recorded".into(), &serde_json::json!([])));
        let teacher = &summary["ct_teacher"];
        for (way, k) in [("image_from_text", "r1"), ("image_from_text", "r10"), ("text_from_image", "r50")] {
            let share = teacher["retrieval"][way][k].as_f64().unwrap();
            assert!((0.0..=1.0).contains(&share), "{way} {k}: {share}");
        }
        assert!(teacher["zero_shot"]["auc_macro"].as_f64().is_some() && teacher["config"]["epochs"] == 2);
        let page = std::fs::read_to_string(at.join("d/report.html")).unwrap();
        for part in [
            "what a radiograph learns from CT (DCFormer-CLIP (dcformer))",
            "The teacher itself",
            "CT teacher: contrastive loss",
            "<meta name=\"viewport\" content=\"width=device-width",
            "@media(prefers-color-scheme:dark)",
            "svg{max-width:100%",
            "<dt>seed</dt><dd>1024</dd>",
            concat!("<dt>version</dt><dd>x2ct ", env!("CARGO_PKG_VERSION")),
            "--patients 24 --held-out 8",
            // A release build of a checkout names it, another says that none is known.
            "commit ",
            // No encoder of one epoch finds all eight: the rank of a report that it missed is told.
            "rank ",
        ] {
            assert!(page.contains(part), "{part} is not on the page");
        }
        assert!(!page.contains("\"#000000\"") && page.contains("currentColor"), "charts take the page's colours");
        // Run again, everything is there already and says the same.
        let bytes = || std::fs::read(at.join("d/train.cache.safetensors")).unwrap();
        let before = bytes();
        let again = x2ct(at, &format!("{demo} --json"));
        let said = String::from_utf8(again.stderr).unwrap();
        assert!(
            said.contains("the teacher was trained before") && said.contains("the encoder was trained before"),
            "{said}"
        );
        let again: Value = serde_json::from_slice(&again.stdout).unwrap();
        assert_eq!((&again["ct_teacher"], &again["retrieval"]), (teacher, &summary["retrieval"]));
        assert_eq!(bytes(), before);
        // Another teacher does not go on from it.
        let other =
            x2ct(at, &demo.replace("--teacher dcformer", "--teacher phantom").replace("--teacher-epochs 2", ""));
        assert!(!other.status.success());
        assert!(String::from_utf8(other.stderr).unwrap().contains("the run began with"));
    }
}
