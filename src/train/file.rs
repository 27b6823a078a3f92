//! Configuration files: TOML, of either kind of run.

use std::path::{Path, PathBuf};

use super::limits::HINT;
use super::{CtTrainConfig, Task, TrainConfig};
use crate::content::Content;
use crate::{Error, Result, files};

/// A configuration file of either kind, told apart by `model.name`.
pub enum AnyConfig {
    /// Of a radiograph encoder.
    Radiographs(TrainConfig),
    /// Of a CT encoder: a model whose name begins with `dcformer`.
    Ct(CtTrainConfig),
}

impl AnyConfig {
    /// Reads and checks a TOML file; relative paths become relative to its folder.
    pub fn read(path: &Path) -> Result<Self> {
        let table: Option<toml::Table> = text(path)?.parse().ok();
        let name = table.as_ref().and_then(|t| t.get("model")?.get("name")?.as_str());
        match name.is_some_and(|name| name.starts_with("dcformer")) {
            true => CtTrainConfig::read(path).map(AnyConfig::Ct),
            false => TrainConfig::read(path).map(AnyConfig::Radiographs),
        }
    }
}

/// Reads and checks a TOML file; relative paths become relative to its folder.
pub(super) fn read<C: Task>(path: &Path) -> Result<C> {
    let text = text(path)?;
    let mut config: C = toml::from_str(&text).map_err(|e| Error::file(path, files::toml_mistake(&text, &e), HINT))?;
    let folder = path.parent().unwrap_or(Path::new(""));
    for (key, named) in config.paths() {
        *named = folder.join(expand(key, named).map_err(|e| e.of_file(path))?);
    }
    config.check().map_err(|e| e.of_file(path))?;
    Ok(config)
}

/// A path of the configuration as a shell would read it.
fn expand(key: &str, path: &Path) -> Result<PathBuf> {
    if path.as_os_str().is_empty() {
        return Err(Error::argument(key, "is empty, and names no file or folder", HINT));
    }
    files::expand(path).map_err(|e| match e {
        Error::File { path, problem, hint, .. } => Error::argument(key, format!("{}: {problem}", path.display()), hint),
        other => other,
    })
}

/// The text of a file that may be a configuration.
fn text(path: &Path) -> Result<String> {
    let wanted = "pass a configuration such as examples/train.toml, which names radiographs and cache under [data]";
    if path.is_dir() {
        return Err(Error::file(path, "is a folder, not a configuration", wanted));
    }
    let refuse = |content: Content| Err(Error::file(path, format!("is {content}, not a TOML configuration"), wanted));
    match Content::of_file(path)? {
        Content::Empty | Content::Text | Content::Table | Content::Json => (),
        content => return refuse(content),
    }
    let bytes = files::read(path).map_err(|e| Error::io(path, "read", &e))?;
    String::from_utf8(bytes).or_else(|_| refuse(Content::Unknown))
}
