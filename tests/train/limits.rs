//! Numbers of a training configuration: what is out of range is refused with the key, the value and the range.

use x2ct::train::{AnyConfig, TrainConfig};

const RADIOGRAPHS: &str = "out = \"run\"\nepochs = 2\n[model]\nname = \"resnet18\"\n[data]\nradiographs = \"r\"\ncache = \"c\"\n\
                           [loss]\n[optimizer]\n[schedule]\n[augmentation]\n";
const VOLUMES: &str = "out = \"run\"\nepochs = 2\n[model]\nname = \"dcformer-nano\"\ntext_features = 8\n[data]\nvolumes = \"v\"\n\
                       text = \"t\"\n[loss]\n[optimizer]\n[schedule]\n";

/// Table, key, value, and what is said of it.
#[rustfmt::skip] // one value a line
const BOTH: &[(&str, &str, &str, &str)] = &[
    ("", "epochs", "0", "epochs: is 0, must be from 1 to 1000000"),
    ("", "epochs", "-1", "line 2: epochs: invalid value: integer `-1`, expected a whole number of at least 0"),
    ("", "epochs", "9000000000000000000", "epochs: is 9000000000000000000, must be from 1 to 1000000"),
    ("", "epochs", "1.5", "epochs: invalid type: floating point `1.5`, expected a whole number of at least 0"),
    ("", "schedule_epochs", "1", "schedule_epochs: is 1, must be from 2 to 1000000"),
    ("", "batch", "1", "batch: is 1, must be from 2 to 16777216"),
    ("", "batch", "9223372036854775807", "batch: is 9223372036854775807, must be from 2 to 16777216"),
    ("", "micro_batch", "0", "micro_batch: is 0, must be from "),
    ("", "micro_batch", "400", "micro_batch: is 400, more than the batch of "),
    ("", "out", "\"\"", "run.toml: out: is empty, and names no file or folder"),
    ("", "weights", "\"\"", "run.toml: weights: is empty"),
    ("", "checkpoint_steps", "0", "checkpoint_steps: is 0, must be from 1 to 1099511627776"),
    ("", "max_skipped_steps", "-2", "max_skipped_steps: invalid value: integer `-2`"),
    ("", "seed", "-1", "seed: invalid value: integer `-1`"),
    ("", "dtype", "\"f8\"", "dtype: unknown variant `f8`"),
    ("model", "embedding", "0", "embedding"),
    ("model", "embedding", "100000", "model.embedding: is 100000, must be from 1 to 65536"),
    ("optimizer", "lr", "0.0", "optimizer.lr: is 0, must be from 1e-30 to 1e30"),
    ("optimizer", "lr", "inf", "optimizer.lr: is inf, must be from 1e-30 to 1e30"),
    ("optimizer", "blr", "-1.0", "optimizer.blr: is -1, must be from 1e-30 to 1e30"),
    ("optimizer", "blr", "1e300", "optimizer.blr: is 1e300, must be from 1e-30 to 1e30"),
    ("optimizer", "betas", "[0.9, 1.0]", "optimizer.betas: is 1, must be at least 0 and below 1"),
    ("optimizer", "eps", "inf", "optimizer.eps: is inf, must be from 1e-37 to 1"),
    ("optimizer", "eps", "nan", "optimizer.eps: is NaN, must be from 1e-37 to 1"),
    ("optimizer", "eps", "0.0", "optimizer.eps: is 0, must be from 1e-37 to 1"),
    ("optimizer", "eps", "\"small\"", "eps: invalid type: string \"small\", expected a number"),
    ("optimizer", "weight_decay", "inf", "optimizer.weight_decay: is inf, must be from 0 to 1000000"),
    ("optimizer", "lr", "5e-324", "optimizer.lr: is 5e-324, must be from 1e-30 to 1e30"),
    ("optimizer", "max_norm", "1e-38", "optimizer.max_norm: is less than 1e-12"),
    ("optimizer", "max_norm", "inf", "optimizer.max_norm: is inf, must be from 0 to 1e30"),
    ("schedule", "warmup_steps", "9000000000000000000", "schedule.warmup_steps: is 9000000000000000000, must be from 0 to"),
];

#[rustfmt::skip] // one value a line
const OF_RADIOGRAPHS: &[(&str, &str, &str, &str)] = &[
    ("", "micro_batch", "1", "micro_batch: is 1, must be from 2 to 16777216"),
    ("data", "radiographs", "\"\"", "run.toml: data.radiographs: is empty"),
    ("data", "cache", "\"\"", "run.toml: data.cache: is empty"),
    ("model", "width", "0", "model.width: is 0, must be from 1 to 1024"),
    ("model", "width", "4000000000", "model.width: is 4000000000, must be from 1 to 1024"),
    ("data", "image_size", "5000", "data.image_size: is 5000, must be from 32 to 4096"),
    ("data", "normalization", "{ mean = [0.5, 0.5, 0.5], std = [0.5, 0.0, 0.5] }", "data.normalization.std: is 0, must be from 0.000001 to 1000000"),
    ("data", "normalization", "{ mean = [nan, 0.5, 0.5], std = [0.5, 0.5, 0.5] }", "data.normalization.mean: is NaN, must be from -1000000 to 1000000"),
    ("data", "normalization", "{ mean = [0.5], std = [0.5] }", "normalization: invalid length 1"),
    ("loss", "beta", "inf", "loss.beta: is inf, must be from 0 to 1000000"),
    ("loss", "gamma", "-1", "loss.gamma: is -1, must be from 0 to 1000000"),
    ("loss", "temperature", "1e-300", "loss.temperature: is 0, must be from 0.0001 to 10000"),
    ("augmentation", "crop_scale", "[1.2, 1.3]", "augmentation.crop_scale: is 1.2, must be from 0.01 to 1"),
    ("augmentation", "crop_scale", "[0.9, 0.8]", "augmentation.crop_scale: is 0.8, must be from 0.9 to 100"),
    ("augmentation", "shift", "1.0", "augmentation.shift: is 1, must be at least 0 and below 1"),
];

#[rustfmt::skip] // one value a line
const OF_VOLUMES: &[(&str, &str, &str, &str)] = &[
    ("data", "volumes", "\"\"", "run.toml: data.volumes: is empty"),
    ("data", "text", "\"\"", "run.toml: data.text: is empty"),
    ("loss", "scale", "inf", "loss.scale: is inf, must be from 0.0001 to 10000"),
    ("model", "channels", "[4, 4, 4, 4, 1000000000000]", "model.channels: is 1000000000000, must be from 1 to 8192"),
    ("model", "blocks", "[1, 0, 1, 1]", "model.blocks: is 0, must be from 1 to 256"),
    ("model", "kernels", "7", "`kernels`: invalid type: integer `7`"),
    ("model", "input", "[32, 32, -16]", "`input`: invalid value: integer `-16`"),
    ("model", "drop_path", "nan", "`drop_path`: invalid type: null"),
    ("model", "drop_path", "1.0", "model.drop_path: is 1, must be at least 0 and below 1"),
    ("model", "layer_scale", "1e300", "model.layer_scale: is inf, must be from -1000000 to 1000000"),
    ("model", "vq", "100000000", "model.vq: is 100000000, must be from 1 to 1048576"),
];

/// A configuration with one value more, or another.
fn with(text: &str, table: &str, key: &str, value: &str) -> String {
    let begin = if table.is_empty() { 0 } else { text.find(&format!("[{table}]\n")).unwrap() + table.len() + 3 };
    let end = text[begin..].find('[').map_or(text.len(), |end| begin + end);
    let line = format!("{key} = {value}\n");
    let old = text[begin..end].split_inclusive('\n').find(|line| line.starts_with(&format!("{key} =")));
    let part = old.map_or_else(|| format!("{}{line}", &text[begin..end]), |old| text[begin..end].replace(old, &line));
    format!("{}{part}{}", &text[..begin], &text[end..])
}

#[test]
fn what_is_out_of_range_is_refused_with_key_value_and_range() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run.toml");
    let read = |text: String| {
        std::fs::write(&path, text).unwrap();
        AnyConfig::read(&path).map(drop).map_err(|e| e.to_string())
    };
    let both = [RADIOGRAPHS, VOLUMES].map(|text| BOTH.iter().map(move |case| (text, case))).into_iter().flatten();
    let own =
        OF_RADIOGRAPHS.iter().map(|case| (RADIOGRAPHS, case)).chain(OF_VOLUMES.iter().map(|case| (VOLUMES, case)));
    for text in [RADIOGRAPHS, VOLUMES] {
        read(text.into()).unwrap();
    }
    let mut wrong = Vec::new();
    for (text, (table, key, value, said)) in both.chain(own) {
        let error = read(with(text, table, key, value)).unwrap_err();
        if !error.contains("run.toml: ") || !error.contains(said) || error.lines().count() != 1 {
            wrong.push(format!("{key} = {value}: not with {said:?}: {error}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_number_in_range_is_taken() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run.toml");
    for (table, key, value) in [
        ("", "epochs", "1000000"),
        ("", "max_skipped_steps", "0"),
        ("loss", "temperature", "0.0001"),
        ("optimizer", "eps", "1e-37"),
        ("optimizer", "lr", "1e-30"),
        ("optimizer", "max_norm", "0.0"),
        ("augmentation", "crop_scale", "[0.8, 1.1]"),
        ("schedule", "warmup_steps", "0"),
        ("", "micro_batch", "360"),
    ] {
        std::fs::write(&path, with(RADIOGRAPHS, table, key, value)).unwrap();
        TrainConfig::read(&path).unwrap();
    }
}
