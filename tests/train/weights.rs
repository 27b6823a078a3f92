//! Initial weights: the program's own checkpoints, torchvision's names, names behind prefixes, and what is refused.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use safetensors::tensor::{Dtype, TensorView};
use x2ct::Device;
use x2ct::data::phantom_set::{PhantomSet, PhantomStudy};
use x2ct::nn::StateDict;
use x2ct::train::{Checkpoint, CtTrainConfig, Sources, TrainConfig, Trainer, TrainingSet};

use crate::support::Recorder;

fn patients(device: &Device, count: u64) -> PhantomSet {
    let study = PhantomStudy { seed: 7, shape: [32; 3], spacing: [12.0; 3] };
    study.make(device, 0..count, &AtomicBool::new(false), &mut |_| {}).unwrap()
}

fn config(top: &str) -> TrainConfig {
    let text = format!(
        "out = \"run\"\nepochs = 1\nbatch = 4\n{top}\n[model]\nname = \"resnet18\"\nwidth = 2\n\
         [data]\nradiographs = \"r\"\ncache = \"c\"\nimage_size = 32\n"
    );
    toml::from_str(&text).unwrap()
}

fn with(weights: &Path) -> TrainConfig {
    TrainConfig { weights: Some(weights.into()), ..config("seed = 2") }
}

/// A model of other values than the one it is loaded into.
fn source(device: &Device) -> StateDict {
    StateDict::of(Trainer::new(device, &config("seed = 1")).unwrap().parameters()).unwrap()
}

fn write(path: &Path, tensors: impl IntoIterator<Item = (String, (x2ct::tensor::Shape, Vec<f32>))>) {
    tensors.into_iter().collect::<StateDict>().write(path, &[]).unwrap();
}

fn refused(device: &Device, path: &Path) -> String {
    Trainer::new(device, &with(path)).map(drop).unwrap_err().to_string()
}

#[test]
fn names_are_found_behind_known_prefixes() {
    let (device, folder) = (Device::host(), tempfile::tempdir().unwrap());
    let (path, own) = (folder.path().join("weights.safetensors"), source(&device));
    let untouched = StateDict::of(Trainer::new(&device, &config("seed = 2")).unwrap().parameters()).unwrap();
    for prefix in ["", "module.", "model.", "encoder.", "backbone.", "module.encoder.", "state_dict.model.module."] {
        // The whole encoder, and its trunk with torchvision's names, whose head has no place.
        write(&path, own.tensors.iter().map(|(name, t)| (format!("{prefix}{name}"), t.clone())));
        let whole = Trainer::new(&device, &with(&path)).unwrap();
        assert!(StateDict::of(whole.parameters()).unwrap() == own && whole.unused_weights().is_empty(), "{prefix}");
        let trunk = own.tensors.iter().filter_map(|(name, t)| Some((name.strip_prefix("xray_encoder.")?, t.clone())));
        let head = ("fc.weight", ([1].into(), vec![0.0]));
        write(&path, trunk.chain([head]).map(|(name, t)| (format!("{prefix}{name}"), t)));
        let trained = Trainer::new(&device, &with(&path)).unwrap();
        assert_eq!(trained.unused_weights(), [format!("{prefix}fc.weight")]);
        for (name, tensor) in &StateDict::of(trained.parameters()).unwrap().tensors {
            let from = if name.starts_with("xray_encoder.") { &own } else { &untouched };
            assert!(from.tensors[name] == *tensor, "{prefix}: {name}");
        }
    }
    // Two models in one file: equal ones are one.
    let twice = |other: &StateDict| {
        let teacher = other.tensors.iter().map(|(name, t)| (format!("student.{name}"), t.clone()));
        write(&path, own.tensors.iter().map(|(name, t)| (format!("model.{name}"), t.clone())).chain(teacher));
    };
    twice(&own);
    Trainer::new(&device, &with(&path)).unwrap();
    twice(&untouched);
    let error = refused(&device, &path);
    assert!(error.contains("holds the model twice, under `model.` and under `student.`"), "{error}");
    // No known name at all.
    write(&path, [("layers.0.weight".to_string(), ([1].into(), vec![1.0]))]);
    let error = refused(&device, &path);
    assert!(
        error.contains("weights.safetensors: has no tensor `") && error.contains("its first is `layers.0.weight`"),
        "{error}"
    );
}

#[test]
fn weights_that_are_quantised_not_finite_or_no_weights_are_refused_by_name() {
    let (device, folder) = (Device::host(), tempfile::tempdir().unwrap());
    let (path, own) = (folder.path().join("weights.safetensors"), source(&device));
    let trunk: BTreeMap<String, _> = own.strip_prefix("xray_encoder.").tensors;
    for (dtype, size, name) in
        [(Dtype::I8, 1, "I8"), (Dtype::U8, 1, "U8"), (Dtype::I32, 4, "I32"), (Dtype::F8_E4M3, 1, "F8_E4M3")]
    {
        let data: BTreeMap<&String, Vec<u8>> =
            trunk.iter().map(|(name, (_, v))| (name, vec![1; v.len() * size])).collect();
        let views = trunk
            .iter()
            .map(|(name, (shape, _))| (name.clone(), TensorView::new(dtype, shape.to_vec(), &data[name]).unwrap()));
        std::fs::write(&path, safetensors::serialize(views, None).unwrap()).unwrap();
        let error = refused(&device, &path);
        let expected = format!("weights.safetensors: conv1.weight is {name}; export it as F32, F16, BF16 or F64");
        assert!(error.contains(&expected), "{error}");
    }
    for (value, count) in [(f32::NAN, 1), (f32::INFINITY, 2)] {
        let mut bad = trunk.clone();
        bad.get_mut("layer1.0.bn1.running_var").unwrap().1[..count].fill(value);
        write(&path, bad);
        let error = refused(&device, &path);
        let expected =
            format!("weights.safetensors: layer1.0.bn1.running_var holds {count} of 2 values that are NaN or infinite");
        assert!(error.contains(&expected), "{error}");
    }
    patients(&device, 2).cache.write(&path).unwrap();
    let error = refused(&device, &path);
    assert!(error.contains("has format \"x2ct-cache-1\", which holds no weights"), "{error}");
    std::fs::write(&path, b"neither").unwrap();
    assert!(refused(&device, &path).contains("is not a safetensors file"));
}

#[test]
fn a_checkpoint_is_weights_and_its_digest_is_recorded() {
    let (device, folder) = (Device::host(), tempfile::tempdir().unwrap());
    let at = |name: &str| -> PathBuf { folder.path().join(name) };
    let p = patients(&device, 4);
    let set = TrainingSet::join(&device, &p.radiographs, &p.cache).unwrap();
    let train = |config: &TrainConfig, name: &str| {
        let mut trainer = Trainer::new(&device, config).unwrap();
        let begun = StateDict::of(trainer.parameters()).unwrap();
        trainer.run(&set, &mut Recorder::default(), &AtomicBool::new(false)).unwrap();
        trainer.checkpoint().unwrap().write(&at(name)).unwrap();
        (begun, Checkpoint::<TrainConfig>::read(&at(name)).unwrap())
    };
    let (_, first) = train(&config("seed = 1"), "first");
    let second_config = with(&at("first"));
    let (begun, second) = train(&second_config, "second");
    assert!(begun == first.model);
    // What the second run rests on is what the first one was, and all that was made of.
    let recorded = &second.sources.from["weights"];
    assert_eq!((recorded, &recorded.digest), (&first.provenance(), &first.digest()));
    assert_eq!(recorded.from["radiographs"], set.sources.from["radiographs"]);

    // The run goes on with these weights, without them, and with no others.
    let of = |config: &TrainConfig| Sources::of(config, &set).unwrap();
    assert!(second.expect_run(&second_config, &of(&second_config)).unwrap().is_empty());
    let without = TrainConfig { weights: None, ..second_config.clone() };
    assert!(second.expect_run(&without, &of(&without)).unwrap().is_empty());
    write(&at("other"), first.model.tensors.clone());
    let other = with(&at("other"));
    let error = second.expect_run(&other, &of(&other)).unwrap_err().to_string();
    let file = blake3::hash(&std::fs::read(at("other")).unwrap()).to_hex();
    assert!(error.starts_with("weights: "), "{error}");
    assert!(error.contains(&first.digest()[..12]) && error.contains(&file[..12]), "{error}");
    let random = config("seed = 2");
    let (_, third) = train(&random, "third");
    let error = third.expect_run(&second_config, &of(&second_config)).unwrap_err().to_string();
    assert!(error.starts_with("weights: is given, the run began with random ones"), "{error}");

    // Of other software, the digest of the file's bytes; a CT encoder's checkpoint is none of a radiograph encoder.
    let (_, fourth) = train(&other, "fourth");
    assert_eq!(fourth.sources.from["weights"].digest, file.to_string());
    let text = "out = \"r\"\nbatch = 2\n[model]\nname = \"dcformer\"\nchannels = [4, 4, 4, 8, 8]\nblocks = [1, 1, 1, 1]\n\
                text_features = 8\n[data]\nvolumes = \"v\"\ntext = \"t\"\n";
    let ct: CtTrainConfig = toml::from_str(text).unwrap();
    let trainer = Trainer::new(&device, &ct).unwrap();
    trainer.checkpoint().unwrap().write(&at("ct")).unwrap();
    assert!(refused(&device, &at("ct")).contains("is of a CT encoder, not of a radiograph encoder"));
    // Of its own kind it is.
    let again = Trainer::new(&device, &CtTrainConfig { seed: 9, weights: Some(at("ct")), ..ct.clone() }).unwrap();
    let [a, b] = [&trainer, &again].map(|t| StateDict::of(t.parameters()).unwrap());
    assert!(a == b && again.unused_weights().is_empty());
    // And behind a prefix, in the released code's spelling of the norms.
    let spelt = |name: &String| format!("module.{}", name.replace(".norm.0.", ".c1.1."));
    write(&at("released"), a.tensors.iter().map(|(name, t)| (spelt(name), t.clone())));
    let again = Trainer::new(&device, &CtTrainConfig { seed: 9, weights: Some(at("released")), ..ct }).unwrap();
    assert!(StateDict::of(again.parameters()).unwrap() == a);
}
