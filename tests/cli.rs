//! The command line from end to end, and what it says about input it cannot use.

use std::path::Path;
use std::process::Output;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use crate::json::assert_report;
use assert_cmd::Command;
use serde_json::Value;
use x2ct::Device;
use x2ct::ct::{Affine, AxisCodes, CtVolume, GrayImage, Voxels, image, nifti};
use x2ct::data::ingest::{IngestOptions, ingest};
use x2ct::data::phantom::{PhantomDataset, cache, write_dataset};
use x2ct::data::radiographs::RadiographSet;
use x2ct::labels;
use x2ct::train::{TrainConfig, Trainer, TrainingSet};

/// Runs `x2ct` with arguments separated by spaces.
pub fn x2ct(folder: &Path, arguments: &str) -> Output {
    Command::new(crate::support::program()).args(arguments.split_whitespace()).current_dir(folder).output().unwrap()
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Standard output of a run that must succeed.
pub fn succeed(folder: &Path, arguments: &str) -> String {
    let output = x2ct(folder, arguments);
    assert!(output.status.success(), "x2ct {arguments}: {}", text(&output.stderr));
    text(&output.stdout)
}

pub fn json(folder: &Path, arguments: &str) -> Value {
    serde_json::from_str(&succeed(folder, &format!("{arguments} --json"))).unwrap()
}

pub fn configuration(data: &Path, epochs: usize, batch: usize) -> String {
    let data = data.display();
    format!(
        "out = \"run\"\nepochs = {epochs}\nbatch = {batch}\ncheckpoint_steps = 1\n\
         [model]\nname = \"resnet18\"\nwidth = 8\n\
         [data]\nradiographs = \"{data}/train/ap.safetensors\"\ncache = \"{data}/train.cache.safetensors\"\n\
         teacher = \"phantom teacher\"\nimage_size = 32\n[optimizer]\nlr = 1e-3\n"
    )
}

fn is_share(value: &Value) -> bool {
    value.as_f64().is_some_and(|v| (0.0..=1.0).contains(&v))
}

#[test]
fn from_ct_volumes_to_predictions() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let phantom = "phantom --out . --train 24 --valid 8 --shape 40x40x40 --spacing 9";
    let made = json(at, phantom);
    assert_eq!((&made["train"], &made["valid"], &made["teacher"]), (&24.into(), &8.into(), &"phantom teacher".into()));
    assert_eq!(text(&x2ct(at, phantom).stdout).matches("phantom teacher").count(), 2);
    for (split, count) in [("train", 24), ("valid", 8)] {
        let made = json(at, &format!("drr --dataset . --split {split} --size 32x32 --out {split}"));
        assert_eq!((&made["radiographs"], &made["failed"]), (&count.into(), &Value::Array(Vec::new())));
    }

    std::fs::write(at.join("run.toml"), configuration(at, 2, 12)).unwrap();
    let trained = json(at, "train run.toml");
    assert_eq!(trained["position"]["step"], 4);
    assert!(trained["last"]["loss"].as_f64().unwrap() > 0.0);
    assert_eq!(std::fs::read_to_string(at.join("run/log.jsonl")).unwrap().lines().count(), 4);

    let evaluate = "eval --checkpoint run/checkpoint.safetensors --radiographs valid/ap* \
                    --cache valid.cache.safetensors --dataset .";
    let scores = json(at, evaluate);
    assert_eq!(scores["gallery"], 8);
    for way in ["cxr_to_ct", "ct_to_cxr", "cxr_to_report", "report_to_cxr"] {
        let recall: Vec<f64> =
            ["r1", "r5", "r10", "r50"].map(|k| scores["retrieval"][way][k].as_f64().unwrap()).to_vec();
        assert!(recall.is_sorted() && recall[2] == 1.0, "{way}: {recall:?} of a gallery of 8");
    }
    assert!(is_share(&scores["zero_shot"]["auc_macro"]) && is_share(&scores["zero_shot"]["ap_macro"]));
    assert!(succeed(at, &format!("{evaluate} --csv labels.csv")).contains("teacher: phantom teacher; gallery: 8"));
    let table = std::fs::read_to_string(at.join("labels.csv")).unwrap();
    assert!(table.starts_with("label,positives,auc,") && table.lines().count() == 1 + labels::COUNT);

    // The same radiograph as PNG and as NIfTI.
    let set = RadiographSet::read(&at.join("valid")).unwrap();
    let picture = GrayImage::new(set.image(3).iter().map(|&v| f32::from(v)).collect(), 32, 32).unwrap();
    for name in ["image.png", "image.nii.gz"] {
        image::write(at.join(name), &picture, &Default::default(), 12.0).unwrap();
    }
    let predict = "predict image.png image.nii.gz --checkpoint run/checkpoint.safetensors \
                   --cache train.cache.safetensors --dataset . --nearest 2";
    let predictions = json(at, predict);
    let [png, nii] = &predictions["rows"].as_array().unwrap()[..] else { panic!("two images: {predictions}") };
    assert_eq!((&png["image"], &nii["image"]), (&"image.png".into(), &"image.nii.gz".into()));
    assert_eq!((&png["probabilities"], &png["reports"]), (&nii["probabilities"], &nii["reports"]));
    assert_eq!(png["teacher"], "phantom teacher");
    let probabilities = png["probabilities"].as_object().unwrap();
    assert!(probabilities.keys().eq(labels::NAMES) && probabilities.values().all(is_share));
    let reports = png["reports"].as_array().unwrap();
    assert_eq!(reports.len(), 2);
    for report in reports {
        let (id, text) = (report["id"].as_str().unwrap(), report["text"].as_str().unwrap());
        assert!(id.starts_with("train_") && text.len() > 20 && report["cosine"].as_f64().unwrap().abs() <= 1.0001);
    }
    assert!(succeed(at, predict).contains("image.png (teacher: phantom teacher)"));
    assert_eq!(predictions["provenance"], "unknown", "the pictures do not say how they were made");
    assert_eq!(scores["provenance"], "recorded");

    // Radiographs and pictures of other settings.
    let volume = "dataset/valid_fixed/valid_1/valid_1_a/valid_1_a_1.nii.gz";
    succeed(at, "drr --dataset . --split valid --size 32x32 --view lateral --out side");
    succeed(at, "drr --dataset . --split valid --size 48x48 --out large");
    succeed(at, &format!("drr {volume} --out ap.png"));
    succeed(at, &format!("drr {volume} --out lateral.png --view lateral"));
    succeed(at, &format!("drr {volume} --out inverted.png --photometric monochrome1"));
    let eval = |set: &str| evaluate.replace("valid/ap*", set);
    let predict = |image: &str| {
        format!("predict {image} --checkpoint run/checkpoint.safetensors --cache train.cache.safetensors")
    };
    for (command, says) in [
        (eval("side/lateral*"), "radiographs: view: trained on ap, these are lateral (digests "),
        (eval("large/ap*"), "radiographs: size: trained on 32x32, these are 48x48 (digests "),
        (predict("lateral.png"), "lateral.png: view: trained on ap, this is lateral (digests "),
        (predict("inverted.png"), "inverted.png: photometric: trained on monochrome2, this is monochrome1 (digests "),
    ] {
        let said = text(&x2ct(at, &command).stderr);
        assert!(said.contains(says), "{command}: {said}");
        assert_eq!(json(at, &format!("{command} --force"))["warnings"].as_array().unwrap().len(), 1, "{command}");
    }
    assert_eq!(json(at, &predict("ap.png"))["provenance"], "recorded");
    succeed(at, &format!("{} --strict", predict("ap.png")));
    let refused = x2ct(at, &format!("{} --strict", predict("image.png")));
    assert!(!refused.status.success() && text(&refused.stderr).contains("image.png: how it was made is not recorded"));
}

#[cfg(unix)]
#[test]
fn an_interrupted_training_goes_on_where_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path();
    prepare(data);
    let run = |name: &str| {
        let run = data.join(name);
        std::fs::create_dir(&run).unwrap();
        std::fs::write(run.join("run.toml"), configuration(data, 60, 4)).unwrap();
        run
    };
    let (whole, broken) = (run("whole"), run("broken"));
    succeed(&whole, "train run.toml --device host");

    let child = std::process::Command::new(crate::support::program())
        .args(["train", "run.toml", "--device", "host"])
        .current_dir(&broken)
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let log = broken.join("run/log.jsonl");
    let lines = || std::fs::read_to_string(&log).map_or(0, |text| text.lines().count());
    let start = Instant::now();
    while lines() == 0 {
        assert!(start.elapsed() < Duration::from_secs(60), "no step in a minute");
        std::thread::sleep(Duration::from_millis(2));
    }
    assert!(std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let stopped = child.wait_with_output().unwrap();
    let (said, done) = (text(&stopped.stderr), lines());
    assert_eq!(stopped.status.code(), Some(130), "{said}");
    assert!(
        said.lines().any(|line| line.starts_with(&format!("x2ct: interrupted: after step {done} of 60"))),
        "{said}"
    );
    assert!(text(&stopped.stdout).is_empty() && done < 60);

    let resumed = x2ct(&broken, "train run.toml --device host");
    assert!(resumed.status.success() && text(&resumed.stderr).contains(&format!("resuming after step {done} of 60")));
    let logs = [&whole, &broken].map(|run| std::fs::read_to_string(run.join("run/log.jsonl")).unwrap());
    assert_eq!(logs[0].lines().count(), 60);
    assert_eq!(logs[0], logs[1]);
}

/// Four phantoms with radiographs, cache and an untrained checkpoint, by the library.
pub fn prepare(at: &Path) {
    let device = Device::host();
    let phantoms =
        PhantomDataset { seed: 3, train: 4, valid: 1, shape: [16; 3], spacing: [24.0; 3], ..Default::default() };
    let data = &write_dataset(at, &phantoms, &|_, _| Ok(())).unwrap()[0];
    let options = IngestOptions { size: [32, 32], ..Default::default() };
    ingest(&device, data, &at.join("train"), &options, &AtomicBool::new(false), &mut |_| {}).unwrap();
    let radiographs = RadiographSet::read(&at.join("train/ap.safetensors")).unwrap();
    let teacher = cache(&phantoms, data).unwrap();
    teacher.write(at.join("train.cache.safetensors")).unwrap();
    std::fs::write(at.join("good.toml"), configuration(at, 1, 4)).unwrap();
    let mut trainer = Trainer::new(&device, &TrainConfig::read(&at.join("good.toml")).unwrap()).unwrap();
    let set = TrainingSet::join(&device, &radiographs, &teacher).unwrap();
    struct Silent;
    impl x2ct::train::Observer for Silent {
        fn step(&mut self, _: &x2ct::train::StepLog, _: x2ct::train::Position) -> x2ct::Result<()> {
            Ok(())
        }
        fn checkpoint(&mut self, _: &Trainer) -> x2ct::Result<()> {
            Ok(())
        }
    }
    trainer.run(&set, &mut Silent, &AtomicBool::new(false)).unwrap();
    trainer.checkpoint().unwrap().write(&at.join("checkpoint.safetensors")).unwrap();
}

/// Files with something wrong, beside the good ones of [`prepare`].
fn spoil(at: &Path) {
    let read = |name: &str| std::fs::read(at.join(name)).unwrap();
    let write = |name: &str, bytes: &[u8]| std::fs::write(at.join(name), bytes).unwrap();
    let volume = "dataset/train_fixed/train_1/train_1_a/train_1_a_1.nii.gz";
    let whole = read(volume);
    write("cut.nii.gz", &whole[..whole.len() * 2 / 3]);
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 0x10;
    write("flipped.nii.gz", &flipped);
    write("volume.nii.gz", &whole);
    let good = CtVolume::new(
        Voxels::F32(vec![0.5; 64].into()),
        [8, 8, 1],
        Affine::centred(AxisCodes::LPS, [1.0; 3], [8, 8, 1]).unwrap(),
    );
    let good = good.unwrap();
    let Voxels::F32(values) = &good.voxels else { unreachable!() };
    let mut values = values.to_vec();
    values[11] = f32::NAN;
    nifti::write(at.join("nan.nii.gz"), &CtVolume { voxels: values.into(), ..good }).unwrap();
    write("text.png", b"not an image");
    let nothing =
        CtVolume::new(vec![0i16; 4096].into(), [16; 3], Affine::centred(AxisCodes::LPS, [24.0; 3], [16; 3]).unwrap());
    nifti::write(at.join("nothing.nii.gz"), &nothing.unwrap()).unwrap();

    write("train.radiographs.safetensors", &read("train/ap.safetensors"));
    for name in ["checkpoint.safetensors", "train.cache.safetensors", "train.radiographs.safetensors"] {
        let whole = read(name);
        write(&format!("cut.{name}"), &whole[..whole.len() - 9]);
        let mut flipped = whole.clone();
        flipped[whole.len() - 9] ^= 1;
        write(&format!("flipped.{name}"), &flipped);
    }
    let mut other = x2ct::data::cache::EmbeddingCache::read(at.join("train.cache.safetensors")).unwrap();
    other.teacher = "CT-CLIP".into();
    other.write(at.join("other.cache.safetensors")).unwrap();
    other.teacher = "phantom teacher".into();
    other.ids[2] = "train_9_a_1".into();
    other.write(at.join("stranger.cache.safetensors")).unwrap();

    let toml = text(&read("good.toml"));
    for (name, from, to) in [
        ("zero.toml", "batch = 4", "batch = 0"),
        ("field.toml", "batch = 4", "batchsize = 4"),
        ("type.toml", "lr = 1e-3", "lr = \"fast\""),
        ("model.toml", "resnet18", "vgg16"),
        ("teacher.toml", "phantom teacher", "CT-CLIP"),
        ("other.toml", "train.cache", "other.cache"),
        ("stranger.toml", "train.cache", "stranger.cache"),
        ("cut_cache.toml", "train.cache", "cut.train.cache"),
        ("cut_set.toml", "train/ap", "cut.train.radiographs"),
        ("flipped_set.toml", "train/ap", "flipped.train.radiographs"),
        ("absent_set.toml", "train/ap", "absent"),
        ("absent_weights.toml", "batch = 4", "batch = 4\nweights = \"absent.safetensors\""),
    ] {
        assert!(toml.contains(from));
        write(name, toml.replace(from, to).replace("\"run\"", &format!("\"run_{name}\"")).as_bytes());
    }
    // The same data set with a table whose columns are wrong.
    let copy = |table: &str, to: &str, from: &str, with: &str| {
        std::fs::create_dir_all(at.join(to).join(table).parent().unwrap()).unwrap();
        write(&format!("{to}/{table}"), text(&read(table)).replacen(from, with, 1).as_bytes());
    };
    let tables = [
        "dataset/radiology_text_reports/train_reports.csv",
        "dataset/multi_abnormality_labels/train_predicted_labels.csv",
        "dataset/metadata/train_metadata.csv",
    ];
    for table in tables {
        copy(table, "columns", "Lung nodule,", "Lung node,");
        copy(table, "slope", ",1,,", ",one,,");
    }
    std::fs::create_dir(at.join("empty")).unwrap();
}

/// Arguments, and what the one line says.
#[rustfmt::skip] // one line a case
const BAD: &[(&str, &[&str])] = &[
    // Volumes and images.
    ("predict cut.nii.gz PREDICT", &["cut.nii.gz: ", "truncated"]),
    ("predict flipped.nii.gz PREDICT", &["flipped.nii.gz: ", "damaged"]),
    ("predict nan.nii.gz PREDICT", &["nan.nii.gz: voxel [3, 1, 0] is NaN"]),
    ("predict volume.nii.gz PREDICT", &["volume.nii.gz: a volume of 16 slices", "drr"]),
    ("predict text.png PREDICT", &["text.png: is a text file, neither PNG"]),
    ("predict absent.png PREDICT", &["absent.png: cannot read"]),
    ("drr cut.nii.gz --out x.png", &["cut.nii.gz: ", "truncated"]),
    ("drr flipped.nii.gz --out x.png", &["flipped.nii.gz: ", "damaged"]),
    ("drr nan.nii.gz --out x.png", &["nan.nii.gz: voxel [3, 1, 0] is NaN"]),
    ("drr volume.nii.gz --out x.jpg", &["x.jpg: unknown image format"]),
    ("drr volume.nii.gz --out absent/x.png", &["absent/x.png: cannot write"]),
    ("drr absent.nii.gz --out x.png", &["absent.nii.gz: cannot read"]),
    // Data sets.
    ("drr --dataset absent --split train --out x", &["absent: cannot read the folder"]),
    ("drr --dataset good.toml --split train --out x", &["good.toml: cannot read the folder"]),
    ("drr --dataset empty --split train --out x", &["train_reports.csv: cannot open the table"]),
    ("drr --dataset columns --split train --out x", &["train_predicted_labels.csv: missing columns: Lung nodule", "unexpected columns: Lung node"]),
    ("drr --dataset slope --split train --out x", &["slope/dataset/train_fixed: cannot read the folder", "copy or download"]),
    ("drr --dataset . --split train --hu-source csv --out x", &["dataset/train: cannot read the folder", "already-hu"]),
    ("drr --dataset . --split train --out good.toml/x", &["good.toml/x: cannot create the folder"]),
    ("drr --dataset . --split train --out train/ap.safetensors", &["--out: train/ap.safetensors is no folder, and radiographs of a data set are packed in one"]),
    ("drr --dataset . --split train --out x --shard 1/5", &["shard: 1 of 5 shards of 4 volumes"]),
    ("drr --dataset . --split train --out x --view ap,pa,ap", &["views: ", "each once"]),
    ("drr --dataset . --split train --out x --geometry cone", &["cone beam has no voxel axis"]),
    ("drr --dataset . --split train --out x --metadata m.csv", &["--metadata: a data set has its own table"]),
    ("drr --dataset . --split train --out train", &["train/ap.safetensors: was made with other options", "--restart"]),
    // Files and folders.
    ("drr volume.nii.gz cut.nii.gz --out x --geometry cone", &["cone beam has no voxel axis"]),
    ("drr volume.nii.gz --view ap,pa --out x.png", &["--view: several views do not go into one image"]),
    ("drr empty --out x", &["empty: no volume is in it"]),
    ("drr absent volume.nii.gz --out good.toml", &["--out: good.toml is no folder, and images are"]),
    ("drr volume.nii.gz cut.nii.gz --out x.png", &["--out: names an image, and there are several volumes"]),
    ("drr volume.nii.gz --mode attenuation --pitch nan --out x.png", &["--pitch: is NaN", "0.001 to 100 mm"]),
    ("drr volume.nii.gz --mode attenuation --geometry cone --sod 0.5 --out x.png", &["--sod: is 0.5", "from 1 to 100000 mm"]),
    ("drr volume.nii.gz --rescale 0,5 --out x.png", &["--rescale: the slope is 0"]),
    ("drr nothing.nii.gz --out x.png", &["nothing.nii.gz: plausibility: this is no chest CT in HU: all of its voxels are 0", "--force"]),
    ("preprocess volume.nii.gz --preset x2ct --out y.safetensors --pack absent/p.safetensors", &["absent/p.safetensors: cannot write"]),
    ("drr volume.nii.gz --hu-source csv --out x.png", &["--hu-source csv: needs the data set's metadata table"]),
    ("phantom --out good.toml", &["good.toml: cannot create the folder"]),
    ("phantom --out . --seed 4", &["phantom.json: ", "other settings"]),
    ("phantom --out fresh --train 0 --valid 0", &["no patients"]),
    // Configurations and what they name.
    ("train absent.toml", &["absent.toml: cannot read"]),
    ("train zero.toml", &["zero.toml: batch: is 0, must be from 2 to 16777216"]),
    ("train field.toml", &["field.toml: line 3: unknown field `batchsize`"]),
    ("train type.toml", &["type.toml: line 14: ", "string"]),
    ("train model.toml", &["model.toml: model.name: there is no model `vgg16`"]),
    ("train teacher.toml", &["data.teacher: is \"CT-CLIP\", the cache is of \"phantom teacher\""]),
    ("train other.toml", &["data.teacher: is \"phantom teacher\", the cache is of \"CT-CLIP\""]),
    ("train stranger.toml", &["stranger.cache.safetensors: ", "no embedding of train_3_a_1"]),
    ("train cut_cache.toml", &["cut.train.cache.safetensors: is not a whole safetensors file"]),
    ("train cut_set.toml", &["cut.train.radiographs.safetensors: is not a whole safetensors file"]),
    ("train flipped_set.toml", &["flipped.train.radiographs.safetensors: ", "was changed or damaged"]),
    ("train absent_set.toml", &["absent.safetensors: cannot open the radiographs"]),
    ("train absent_weights.toml", &["absent.safetensors: cannot"]),
    // Checkpoints and caches.
    ("EVAL --checkpoint cut.checkpoint.safetensors --cache train.cache.safetensors", &["cut.checkpoint.safetensors: is not a whole safetensors file"]),
    ("EVAL --checkpoint flipped.checkpoint.safetensors --cache train.cache.safetensors", &["flipped.checkpoint.safetensors: ", "was changed or damaged"]),
    ("EVAL --checkpoint train.cache.safetensors --cache train.cache.safetensors", &["train.cache.safetensors: has format \"x2ct-cache-1\", not \"x2ct-checkpoint-1\""]),
    ("EVAL --checkpoint checkpoint.safetensors --cache other.cache.safetensors", &["other.cache.safetensors: cache: teacher: trained on phantom teacher, these are CT-CLIP (digests "]),
    ("EVAL --checkpoint checkpoint.safetensors --cache train.cache.safetensors", &["valid_predicted_labels.csv: train_1_a_1: has no row for this volume of train (3 other volumes"]),
    ("predict volume.nii.gz --checkpoint checkpoint.safetensors --cache other.cache.safetensors", &["other.cache.safetensors: cache: teacher: trained on phantom teacher, these are CT-CLIP"]),
    // Devices, golden files, benches, models.
    ("train good.toml --device tpu", &["tpu: no such device", "cuda:N"]),
    ("train good.toml --device cuda:4096", &["cuda:4096"]),
    ("phantom --out fresh --device tpu", &["tpu: no such device"]),
    ("check absent.safetensors", &["absent.safetensors: cannot read"]),
    ("check train.cache.safetensors", &["no golden case among 1 file(s): train.cache.safetensors (x2ct-cache-1)"]),
    ("check good.toml", &["good.toml: is not a whole safetensors file"]),
    ("drr volume.nii.gz --mode attenuation --pitch 1e300 --out x.png", &["--pitch: is 1e300; give a number from 0.001 to 100 mm"]),
    ("drr volume.nii.gz --rescale 1e300,0 --out x.png", &["--rescale: the slope is 1e300"]),
    ("bench pointwise --baseline good.toml", &["good.toml: is no output of `x2ct bench --json`"]),
    ("bench mixers --batch 1", &["one value a channel", "--batch 2"]),
];

/// Wrong usage: command lines, and what the message says.
#[rustfmt::skip] // one line a case
const USAGE: &[(&str, &[&str])] = &[
    ("bench warp", &["'warp'", "contrastive"]),
    ("bench optm", &["'optm'", "similar value exists: 'optim'"]),
    ("bench optim --seconds nan", &["give a number from 0.01 to 600"]),
    ("bench optim --seconds 0", &["give a number from 0.01 to 600"]),
    ("bench optim --seconds=-1", &["give a number from 0.01 to 600"]),
    ("bench mixers --seconds inf", &["give a number from 0.01 to 600"]),
    ("bench mixers --model huge", &["'huge'", "nano"]),
    ("bench mixers --batch 0", &["0 is not in 1..=4096"]),
    ("model vgg16", &["'vgg16'", "resnet50"]),
    ("model dcformr-nano", &["similar value exists: 'dcformer-nano'"]),
    ("model resnet18 --size 3", &["3 is not in 32..=16384"]),
    ("model resnet18 --width 0", &["0 is not in 1..=2048"]),
    ("model resnet18 --embedding 0", &["0 is not in 1..=65536"]),
    ("model resnet18 --reduction depth", &["--reduction is a DCFormer's"]),
    ("model dcformer-nano --width 8", &["--width is a ResNet's"]),
    ("phantom --out x --spacing 0", &["'--spacing <MM>'", "give a number from 0.05 to 100"]),
    ("phantom --out x --spacing nan", &["give a number from 0.05 to 100"]),
    ("phantom --out x --train 1000001", &["1000001 is not in 0..=1000000"]),
    ("demo --patients 1", &["1 is not in 2..=1000000"]),
    ("demo --epochs 0", &["0 is not in 1..=100000"]),
    ("demo --teacher-epochs 3", &["`--teacher-epochs` has no effect here: it acts with --teacher dcformer"]),
    ("demo --full --patients 4 --epochs 1", &["`--full` has no effect here"]),
    ("cache text --dataset . --out x --features 0", &["0 is not in 1..=65536"]),
    ("cache text --dataset . --out x --words 65", &["65 is not in 1..=64"]),
    ("eval --cache c --dataset . --scale nan", &["'--scale <SCALE>'", "give a number from 0.001 to 1000000"]),
    ("eval --cache c --dataset . --scale -1", &["give a number from 0.001 to 1000000"]),
    ("eval --cache c --dataset . --checkpoint k", &["pass --checkpoint with --radiographs and --cache"]),
    ("eval --cache c --dataset . --checkpoint k --radiographs r --scale 3", &["`--scale` has no effect here: it acts with --volumes, or --cache alone"]),
    ("eval --cache c --dataset . --gallery all", &["'all'", "volume, scan, patient"]),
    ("eval --cache c", &["--dataset <DATASET>"]),
    ("eval compare one.safetensors", &["2 values required"]),
    ("eval compare a b --dataset .", &["unexpected argument '--dataset'"]),
    ("metrics y.csv p.csv --level 2", &["give a number from 0.5 to 0.9999"]),
    ("metrics y.csv p.csv --bootstrap 0 --level 0.9", &["`--level` has no effect here: it acts with --bootstrap above 0"]),
    ("metrics y.csv p.csv --bootstrap 0 --seed 1", &["`--seed` has no effect here: it acts with --bootstrap above 0"]),
    ("report", &["<DIR>"]),
    ("report x --split train", &["`--split` has no effect here: it acts with --dataset"]),
    ("report x --bootstrap 0 --seed 1", &["`--seed` has no effect here: it acts with --bootstrap above 0"]),
    ("report x --out page.csv", &["--out page.csv would be a table beside the page: name it .html"]),
    ("predict i.png --checkpoint k --cache c --nearest 0", &["0 is not in 1..=1000"]),
    ("predict i.png --checkpoint k --cache c --split valid", &["`--split` has no effect here: it acts with --dataset"]),
    ("bench --list --seconds 3", &["'--list'", "'--seconds <SECONDS>'"]),
    ("model resnet18 --batch 4 --micro-batch 5", &["--micro-batch 5 is more than the batch of 4"]),
    ("chek x", &["'chek'", "'check'"]),
    ("check", &["<FILES>"]),
];

#[test]
fn wrong_usage_is_said_and_is_json_too() {
    let folder = tempfile::tempdir().unwrap();
    for (arguments, says) in USAGE {
        let output = x2ct(folder.path(), arguments);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "x2ct {arguments}: {said}");
        assert!(says.iter().all(|s| said.contains(s)), "x2ct {arguments}: not with {says:?}: {said}");
        assert!(output.stdout.is_empty(), "x2ct {arguments}");
        let output = x2ct(folder.path(), &format!("{arguments} --json"));
        let name = arguments.split(' ').next().filter(|name| *name != "chek").unwrap_or("x2ct");
        assert_report(arguments, &output, name);
        assert_eq!(output.status.code(), Some(2), "x2ct {arguments} --json");
    }
}

#[test]
fn bad_input_is_named_in_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    prepare(at);
    spoil(at);
    let mut wrong = Vec::new();
    for (arguments, says) in BAD {
        let arguments = arguments
            .replace("PREDICT", "--checkpoint checkpoint.safetensors --cache train.cache.safetensors")
            .replace("EVAL", "eval --radiographs train --dataset .");
        let output = x2ct(at, &arguments);
        let said = text(&output.stderr);
        let one_line = said.lines().count() == 1 && said.starts_with("x2ct: ") && said.ends_with('\n');
        if output.status.code() != Some(1) || !one_line || !says.iter().all(|s| said.contains(s)) {
            wrong.push(format!("x2ct {arguments}\n  exit {:?}, not with {says:?}:\n{said}", output.status.code()));
        }
        assert!(text(&output.stdout).is_empty(), "x2ct {arguments} printed {}", text(&output.stdout));
        let output = x2ct(at, &format!("{arguments} --json"));
        assert_report(&arguments, &output, arguments.split(' ').next().unwrap_or_default());
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // Nothing that failed left a file behind.
    assert!(["x", "x.png", "x.jpg", "fresh"].iter().all(|name| !at.join(name).exists()));
}

#[test]
fn every_subcommand_explains_itself() {
    let folder = tempfile::tempdir().unwrap();
    let help = succeed(folder.path(), "--help");
    assert!(help.contains("X2CT_SYNC=1"), "{help}");
    let commands = help.split("Commands:").nth(1).unwrap().split("Options:").next().unwrap();
    let names: Vec<&str> = commands
        .lines()
        .filter_map(|l| l.strip_prefix("  "))
        .filter_map(|l| l.split(' ').next())
        .filter(|n| !n.is_empty())
        .collect();
    for name in
        ["phantom", "drr", "train", "cache", "embed", "eval", "predict", "demo", "check", "bench", "doctor", "model"]
    {
        assert!(names.contains(&name), "{names:?}");
    }
    for name in names.into_iter().filter(|name| *name != "help") {
        let help = succeed(folder.path(), &format!("{name} --help"));
        // A first line that says what it is for, every option with a word about it.
        assert!(help.lines().next().is_some_and(|line| line.len() > 20), "{name}: {help}");
        assert!(help.contains("--device") && help.contains("--json"), "{name}");
        assert!(help.lines().all(|line| line.chars().count() <= 120), "{name}: {help}");
        // DICOM is offered where it can be read.
        if ["drr", "preprocess", "predict"].contains(&name) {
            let words = help.split_whitespace().collect::<Vec<_>>().join(" ");
            let offered = words.contains("a DICOM series") || words.contains("DICOM (CR, DX)");
            assert_eq!(offered, cfg!(feature = "dicom"), "{name}: {help}");
        }
    }
}

/// The golden files of the repository, as their README runs them: by folder, and by the names that a shell makes of a pattern.
#[test]
fn the_golden_files_pass_by_command() {
    let folder = crate::support::checkout("tests/golden");
    let mut names: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    names.retain(|path| path.extension().is_some_and(|ending| ending == "safetensors"));
    names.sort();
    let reports = [vec![folder.clone()], names.clone()].map(|paths| -> Value {
        let mut command = Command::new(crate::support::program());
        let output = command.arg("check").args(paths).args(["--json", "--device", "host"]).output().unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    });
    let [by_folder, by_names] = reports;
    let rows = by_folder["rows"].as_array().unwrap();
    assert!(rows.len() > 2000 && rows.iter().all(|row| row["pass"] == true), "{} rows", rows.len());
    assert_eq!((&by_folder["rows"], &by_folder["failed"]), (&by_names["rows"], &Value::Array(Vec::new())));
    let cases: std::collections::HashSet<_> = rows.iter().map(|row| row["file"].as_str().unwrap()).collect();
    let passed_over = by_names["passed_over"].as_array().unwrap();
    assert_eq!(cases.len() + passed_over.len(), names.len());
    assert!(passed_over.iter().all(|file| file["file"].as_str().unwrap().contains("_from_python")), "{passed_over:?}");
}

/// Figures are printed and kept family by family, and one that fails leaves the others.
#[test]
fn bench_keeps_what_it_has_measured() {
    let folder = tempfile::tempdir().unwrap();
    let families = succeed(folder.path(), "bench --list");
    assert!(families.lines().any(|family| family == "pointwise") && families.lines().count() > 15, "{families}");
    let report = json(folder.path(), "bench pointwise --seconds 0.01 --device host --out kept.json");
    let rows = report["rows"].as_array().unwrap();
    assert!(rows.len() == 4 && rows.iter().all(|row| row["median_us"].as_f64().unwrap() > 0.0), "{report}");
    let kept: serde_json::Value =
        serde_json::from_slice(&std::fs::read(folder.path().join("kept.json")).unwrap()).unwrap();
    assert_eq!((&kept["rows"], &kept["device"]), (&report["rows"], &report["device"]));
    // What was kept is what a later run compares with.
    let table =
        succeed(folder.path(), "bench pointwise --variant add --seconds 0.01 --device host --baseline kept.json");
    assert!(table.starts_with("device: ") && table.lines().filter(|line| line.ends_with('x')).count() == 2, "{table}");
    // What there is stays where nothing is measured.
    let before = std::fs::read(folder.path().join("kept.json")).unwrap();
    let output = x2ct(folder.path(), "bench pointwise --variant warp --device host --out kept.json");
    assert!(text(&output.stderr).contains("no case that host would time has `warp` in its name"));
    assert_eq!(std::fs::read(folder.path().join("kept.json")).unwrap(), before);
}

/// Every mixer is counted, timed and weighed; at 512x512x256 a decomposed convolution costs least but for pooling, and
/// attention most.
#[test]
fn mixers_are_compared_side_by_side() {
    let folder = tempfile::tempdir().unwrap();
    let report = json(folder.path(), "bench mixers --size 32x32x16 --batch 3 --seconds 0.01 --device host");
    let mixers = report["rows"].as_array().unwrap();
    let names: Vec<_> = mixers.iter().map(|m| m["mixer"]["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["decomposed", "conv3d", "avg_pool", "attention"]);
    let number = |i: usize, key: &str| mixers[i][key].as_u64().unwrap();
    assert_eq!((number(0, "parameters"), number(0, "macs_published")), (789_216, 32_108_511_232));
    let macs: Vec<_> = (0..4).map(|i| number(i, "macs_published")).collect();
    assert!(macs[2] < macs[0] && macs[0] < macs[1] && macs[1] < macs[3], "{macs:?}");
    for (i, mixer) in mixers.iter().enumerate() {
        // Values and gradients of the parameters at least.
        assert!(number(i, "peak_bytes") > 8 * number(i, "parameters"), "{mixer}");
        for time in ["forward_ms", "training_ms"] {
            assert!(mixer[time]["median"].as_f64().unwrap() > 0.0, "{mixer}");
        }
    }
    let text = text(&x2ct(folder.path(), "bench mixers --size 64x64").stderr);
    assert!(text.contains("`64x64` is not a size"), "{text}");
}

#[test]
fn the_example_configuration_holds_the_defaults() {
    let path = crate::support::checkout("examples/train.toml");
    let example = TrainConfig::read(&path).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let minimal = folder.path().join("minimal.toml");
    // Only what has no default; the augmentation of the paper is not ours, which is none.
    let needed =
        "out = \"run\"\nepochs = 50\n[model]\nname = \"resnet50\"\n[data]\nradiographs = \"r\"\ncache = \"c\"\n";
    std::fs::write(&minimal, needed).unwrap();
    let mut minimal = TrainConfig::read(&minimal).unwrap();
    minimal.out = example.out.clone();
    minimal.data.radiographs = example.data.radiographs.clone();
    minimal.data.cache = example.data.cache.clone();
    minimal.data.teacher = example.data.teacher.clone();
    minimal.augmentation = x2ct::train::Augmentation::cxr_clip();
    assert_eq!(example, minimal);
    // X2CT-CLIP's settings.
    let o = &example.optimizer;
    assert_eq!((example.batch, example.seed, example.data.image_size), (360, 1024, 224));
    assert_eq!((o.lr, o.weight_decay, o.betas, o.max_norm), (Some(5e-5), 1e-4, [0.9, 0.99], 0.5));
    assert_eq!((example.loss.temperature, example.model.width, example.model.embedding), (0.07, 64, 512));
}
