//! Where the ingredients of the tables lie.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use x2ct::{Error, files};

use super::paper::DataName;

/// What a cell is computed from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ingredient {
    Radiographs,
    Cache,
    Labels,
    Volumes,
    Text,
}

/// The folder of the data sets.
///
/// `ROOT/DATASET/` holds each: `ct-rate` (parts `train`, `valid`), `radchest-ct` and `mimic-ct` (part `test`), by these names, or by
/// those that `ROOT/data.toml` gives, whose form README.md has.
pub struct DataRoot {
    root: PathBuf,
    named: BTreeMap<String, BTreeMap<String, BTreeMap<String, PathBuf>>>,
}

/// An ingredient that is not there, in words for a cell.
pub type Missing = String;

impl Ingredient {
    fn key(self) -> &'static str {
        match self {
            Ingredient::Radiographs => "radiographs",
            Ingredient::Cache => "cache",
            Ingredient::Labels => "labels",
            Ingredient::Volumes => "volumes",
            Ingredient::Text => "text",
        }
    }

    /// Where it lies below a data set's folder, the first that is there.
    fn places(self, part: &str) -> Vec<String> {
        match self {
            Ingredient::Radiographs => {
                vec![format!("{part}/ap.safetensors"), format!("{part}.safetensors")]
            }
            Ingredient::Cache => vec![format!("{part}.cache.safetensors")],
            Ingredient::Labels => vec![
                format!("{part}.labels.csv"),
                format!("dataset/multi_abnormality_labels/{part}_predicted_labels.csv"),
                format!("img{part}_Abnormality_and_Location_Labels.csv"),
            ],
            Ingredient::Volumes => vec![format!("{part}.volumes.safetensors"), format!("{part}.volumes")],
            Ingredient::Text => vec![format!("{part}.text.safetensors")],
        }
    }

    /// The command that makes it.
    fn remedy(self) -> &'static str {
        match self {
            Ingredient::Radiographs => "x2ct drr --dataset, or x2ct radiographs",
            Ingredient::Cache => "x2ct cache build, or tools/export_ct_clip.py",
            Ingredient::Labels => "a table whose first column is the id",
            Ingredient::Volumes => "x2ct preprocess --pack",
            Ingredient::Text => "x2ct cache text",
        }
    }
}

impl DataRoot {
    /// A folder with the data sets.
    ///
    /// # Errors
    /// No such folder; a `data.toml` that cannot be read, or names what there is none of.
    pub fn open(root: &Path) -> x2ct::Result<Self> {
        if !root.is_dir() {
            return Err(Error::file(
                root,
                "is no folder",
                "pass the folder that holds ct-rate, radchest-ct and mimic-ct",
            ));
        }
        let path = root.join("data.toml");
        let mut found = DataRoot { root: root.into(), named: BTreeMap::new() };
        if path.exists() {
            let refuse =
                |problem: String| Error::file(&path, problem, "README.md has its form, under The papers' tables");
            let text = files::read(&path).map_err(|e| Error::io(&path, "read", &e))?;
            let text = String::from_utf8(text).map_err(|_| refuse("is no UTF-8 text".into()))?;
            found.named =
                toml::from_str(&text).map_err(|e| refuse(format!("is no table of files: {}", e.message())))?;
            found.expect_known(&refuse)?;
        }
        Ok(found)
    }

    fn expect_known(&self, refuse: &dyn Fn(String) -> Error) -> x2ct::Result<()> {
        let keys = ["radiographs", "cache", "labels", "volumes", "text", "features"];
        let names = [DataName::CtRate, DataName::RadchestCt, DataName::MimicCt].map(DataName::name);
        for (data, parts) in &self.named {
            if !names.contains(&data.as_str()) {
                return Err(refuse(format!("names the data set {data}, which is none of {}", names.join(", "))));
            }
            for (part, entries) in parts {
                if !["train", "valid", "test"].contains(&part.as_str()) {
                    return Err(refuse(format!("names the part {data}.{part}, which is none of train, valid, test")));
                }
                if let Some(key) = entries.keys().find(|key| !keys.contains(&key.as_str())) {
                    let known = keys.join(", ");
                    return Err(refuse(format!("[{data}.{part}] names {key}, which is none of {known}")));
                }
            }
        }
        Ok(())
    }

    /// An ingredient of a part of a data set.
    ///
    /// # Errors
    /// Where it would lie, and what makes it.
    pub fn find(&self, data: DataName, part: &str, ingredient: Ingredient) -> Result<PathBuf, Missing> {
        if let Some(path) = self.entry(data, part, ingredient.key()) {
            return Ok(path);
        }
        let folder = self.root.join(data.name());
        let places = ingredient.places(part);
        let found = places.iter().map(|place| folder.join(place)).find(|path| path.exists());
        let shards = || {
            let of = folder.join(part);
            let any =
                std::fs::read_dir(&of).ok()?.flatten().any(|entry| is_shard(&entry.file_name().to_string_lossy()));
            (ingredient == Ingredient::Radiographs && any).then(|| of.join("ap*.safetensors"))
        };
        found.or_else(shards).ok_or_else(|| {
            let (name, key) = (data.name(), ingredient.key());
            format!("no {key} of {name} ({part}): {}, of {}", folder.join(&places[0]).display(), ingredient.remedy())
        })
    }

    /// Features that were made elsewhere.
    ///
    /// # Errors
    /// Where they would lie.
    pub fn features(&self, data: DataName, part: &str, key: &str) -> Result<PathBuf, Missing> {
        let folder = self
            .entry(data, part, "features")
            .unwrap_or_else(|| self.root.join(data.name()).join(format!("{part}.features")));
        let path = folder.join(format!("{key}.safetensors"));
        match path.exists() {
            true => Ok(path),
            false => Err(format!("no features of it: {} (x2ct-features-1)", path.display())),
        }
    }

    fn entry(&self, data: DataName, part: &str, key: &str) -> Option<PathBuf> {
        Some(self.root.join(self.named.get(data.name())?.get(part)?.get(key)?))
    }
}

/// Whether a file is one of several with a view's radiographs.
fn is_shard(name: &str) -> bool {
    name.starts_with("ap") && name.ends_with(".safetensors")
}
