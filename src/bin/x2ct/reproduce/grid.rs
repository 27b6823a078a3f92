//! Runs over a grid of a configuration's values, for ablations.

use std::path::Path;
use std::sync::atomic::AtomicBool;

use serde_json::{Value, json};
use x2ct::data::cache::EmbeddingCache;
use x2ct::data::radiographs::RadiographSet;
use x2ct::train::{Task, TrainConfig, TrainingSet};
use x2ct::{Device, Error, files};

use super::paper::{Paper, PaperRow, PaperTable, Source};
use super::runs::Run;
use crate::chain::Chain;
use crate::train::run_logged;

/// The name of the table of a grid's runs.
pub const NAME: &str = "grid";

/// Trains every combination of values, each in a folder of its own, and goes on with those that were interrupted.
///
/// # Errors
/// A configuration that cannot be read; a key that it does not have; a value that it refuses; those of the training.
pub fn train(
    device: &Device,
    (config, vary): (&Path, &[String]),
    out: &Path,
    chain: &mut Chain,
    stop: &AtomicBool,
) -> x2ct::Result<Vec<Run>> {
    let base = TrainConfig::read(config)?;
    let near = config.parent().unwrap_or(Path::new(""));
    // All of them before the first is trained.
    let mut planned: Vec<(String, TrainConfig)> = Vec::new();
    for values in combinations(vary)? {
        let name = name_of(&values);
        if planned.iter().any(|(other, _)| *other == name) {
            let problem = format!("two runs would be {name}");
            return Err(Error::argument("--vary", problem, "give each key once, and each of its values once"));
        }
        let folder = out.join("runs").join(&name);
        let varied = varied(&base, &values, (near, &folder)).map_err(|e| {
            Error::argument("--vary", format!("{name}: {e}"), "leave the value out, or correct the configuration")
        })?;
        planned.push((name, varied));
    }
    let mut runs = Vec::new();
    for (name, config) in planned {
        files::create_folder(&config.out)?;
        remark!("run {name}");
        let set = set(device, &config, chain)?;
        run_logged(device, &config, &set, false, chain, stop).map_err(|e| begun_anew(e, &config.out))?;
        runs.push(Run::open(&config.out)?);
    }
    Ok(runs)
}

/// An error of a training with the advice to restart it, which this command has no option for.
fn begun_anew(error: Error, folder: &Path) -> Error {
    match error.to_string().contains("--restart") {
        true => {
            let advice = format!("delete {}: the run is then trained anew", folder.display());
            error.advising(&advice)
        }
        false => error,
    }
}

/// A folder's name of the values of a run.
fn name_of(values: &[(String, Value)]) -> String {
    let of = |(key, value): &(String, Value)| {
        let value = value.as_str().map_or_else(|| value.to_string(), String::from);
        format!("{key}-{value}")
    };
    let plain = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '_' };
    values.iter().map(of).collect::<Vec<_>>().join("-").chars().map(plain).collect()
}

fn set(device: &Device, config: &TrainConfig, chain: &mut Chain) -> x2ct::Result<TrainingSet> {
    let (path, cache_path) = (&config.data.radiographs, &config.data.cache);
    let radiographs = RadiographSet::read(path)?;
    chain.doubt_origins(path, &radiographs.doubts())?;
    let cache = EmbeddingCache::read(cache_path)?;
    chain.holds(&files::lossy(path), &radiographs.provenance().digest);
    chain.holds(&files::lossy(cache_path), &cache.provenance().digest);
    TrainingSet::join(device, &radiographs, &cache).map_err(|e| e.of_file(cache_path))
}

/// All combinations of `key=value,value`, the last key fastest.
fn combinations(vary: &[String]) -> x2ct::Result<Vec<Vec<(String, Value)>>> {
    let mut all = vec![Vec::new()];
    for option in vary {
        let refuse = |problem: &str| Error::argument("--vary", format!("{option}: {problem}"), "write loss.beta=0,1");
        let (key, values) = option.split_once('=').ok_or_else(|| refuse("has no ="))?;
        let values: Vec<Value> =
            values.split(',').map(|text| serde_json::from_str(text).unwrap_or_else(|_| json!(text))).collect();
        if key.is_empty() || values.iter().any(|value| value == "") {
            return Err(refuse("has an empty key or value"));
        }
        let with = |begun: &Vec<(String, Value)>, value: &Value| {
            begun.iter().cloned().chain([(key.to_string(), value.clone())]).collect()
        };
        all = all.iter().flat_map(|begun| values.iter().map(move |value| with(begun, value))).collect();
    }
    Ok(all)
}

/// The configuration with these values, whose paths are relative to the folder of its file, and its own folder.
fn varied(base: &TrainConfig, values: &[(String, Value)], (near, folder): (&Path, &Path)) -> x2ct::Result<TrainConfig> {
    let mut config = base.clone();
    for (key, value) in values {
        let refuse = |problem: String| Error::argument(key, problem, "see examples/train.toml");
        if key == "out" {
            return Err(refuse("is the folder of each run, which the grid names".into()));
        }
        let mut fields = json!(config);
        match fields.pointer_mut(&format!("/{}", key.replace('.', "/"))) {
            Some(place) => *place = value.clone(),
            None => return Err(refuse("the configuration has no such key, or the file does not give it".into())),
        }
        config = serde_json::from_value(fields).map_err(|e| refuse(format!("refuses {value}: {e}")))?;
        for (_, path) in config.paths().into_iter().filter(|(name, _)| name == key) {
            *path = near.join(&path);
        }
    }
    config.out = folder.into();
    config.check()?;
    Ok(config)
}

/// A table of the runs of a grid, with the columns of the ablation's.
pub fn table(paper: Paper, runs: &[Run]) -> Option<PaperTable> {
    let ablation = paper.tables().iter().find(|table| table.name == "5")?;
    let row = |run: &Run| PaperRow {
        method: run.name(),
        variant: String::new(),
        source: Source::Folder { path: run.folder.clone() },
        paper: vec![f64::NAN; ablation.columns.len()],
    };
    Some(PaperTable {
        name: NAME.into(),
        title: "Runs of the grid".into(),
        caption: "Each run's values stand in its name; columns as in the ablation.".into(),
        rows: runs.iter().map(row).collect(),
        ..ablation.clone()
    })
}
