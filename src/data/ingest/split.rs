//! A split of a data set, as the ingest sees it: volumes by name and file, and what the tables say of each.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::ct::{CtVolume, ReadOptions, read_bytes};
use crate::data::ct_rate::{self, CtRate, HuSource, Split};
use crate::data::radchest::{self, RadChest};
use crate::device::Device;
use crate::table::BadRow;
use crate::{Error, Result};

/// One volume of a split.
#[derive(Clone, Debug, PartialEq)]
pub struct Item {
    /// The volume's id.
    pub name: String,
    /// Its file, below the data set's root.
    pub file: PathBuf,
    /// What the tables say that decides on its voxels; null where that is nothing.
    pub listed: Value,
}

/// Files of one kind among the volumes that are none of the split's.
#[derive(Clone, Debug, PartialEq)]
pub struct PassedOver {
    /// The kind, to stand behind a number: "volume(s) without a row in any table".
    pub what: &'static str,
    /// The reason, a sentence about one of them.
    pub reason: &'static str,
    /// Each as it is called, and its file.
    pub files: Vec<(String, PathBuf)>,
}

/// A split of a data set of CTs.
pub trait CtSplit: Sync {
    /// The folder that the data set lies in.
    fn root(&self) -> &Path;
    /// What the data set's layout is called in what is made of it.
    fn layout(&self) -> &'static str;
    /// The split's name.
    fn split(&self) -> &'static str;
    /// Where HU come from, as manifests say it.
    fn hu_source(&self) -> HuSource;
    /// The volumes that can be used, in the order of the data set.
    fn items(&self) -> Vec<Item>;
    /// The volume of an item, by its place, in HU, from the bytes of its file; `path` labels errors.
    ///
    /// # Errors
    /// Bytes that are no such volume; a volume of which the tables do not say what is needed.
    fn decode(&self, at: usize, bytes: &[u8], path: &Path, device: &Device) -> Result<CtVolume>;
    /// The folder that holds the volumes: where it cannot be read, no single volume is at fault.
    fn folder(&self) -> PathBuf;
    /// What to do where that folder is not there.
    fn hint_without_folder(&self) -> String;
    /// What is to be said of volumes that tables name and that are no items: a table each, and a sentence's rest.
    fn left_out(&self) -> Vec<(PathBuf, String)>;
    /// Rows of the tables that cannot be used.
    fn bad_rows(&self) -> &[BadRow];
    /// What lies among the volumes and is none that a table names.
    fn passed_over(&self) -> Vec<PassedOver>;
}

/// Opens a split of the data set below `root`, whose layout is known by the tables that are there: RadChest-CT's, else CT-RATE's.
///
/// # Errors
/// Those of [`CtRate::read`] and [`RadChest::read`]; a split or a source of HU that the data set does not have.
pub fn open(root: &Path, split: &str, hu_source: HuSource) -> Result<Box<dyn CtSplit>> {
    if RadChest::is_at(root) {
        if hu_source == HuSource::CsvRescale {
            let problem = "is RadChest-CT, whose voxels are HU: its table's orig_slope is not theirs";
            return Err(Error::file(root, problem, "leave out --hu-source csv"));
        }
        return Ok(Box::new(RadChest::read(root, split.parse()?)?));
    }
    let split = match split {
        "train" => Split::Train,
        "valid" => Split::Valid,
        other => {
            let problem = format!("holds none of RadChest-CT's tables, and CT-RATE has no split {other}");
            return Err(Error::file(root, problem, "ask for train or valid, or check the path"));
        }
    };
    Ok(Box::new(CtRate::read(root, split, hu_source)?))
}

impl CtSplit for CtRate {
    fn root(&self) -> &Path {
        &self.root
    }

    fn layout(&self) -> &'static str {
        "CT-RATE layout"
    }

    fn split(&self) -> &'static str {
        self.split.name()
    }

    fn hu_source(&self) -> HuSource {
        self.hu_source
    }

    fn items(&self) -> Vec<Item> {
        let item = |volume: &ct_rate::Volume| {
            let table = volume.acquisition.filter(|_| self.hu_source == HuSource::CsvRescale);
            let listed = json!(table.map(|a| (a.slope, a.intercept, a.spacing())));
            Item { name: volume.name.to_string(), file: volume.name.path("", self.hu_source), listed }
        };
        self.volumes.iter().map(item).collect()
    }

    fn decode(&self, at: usize, bytes: &[u8], path: &Path, device: &Device) -> Result<CtVolume> {
        let volume = read_bytes(bytes, path, &ReadOptions { device: Some(device), ..Default::default() })?;
        match self.hu_source {
            HuSource::AlreadyHu => Ok(volume),
            HuSource::CsvRescale => {
                let hint = "correct its row of the metadata table";
                let unknown = || Error::file(path, "has no scaling and voxel size in the metadata table", hint);
                self.volumes[at].acquisition.ok_or_else(unknown)?.apply(volume)
            }
        }
    }

    fn folder(&self) -> PathBuf {
        self.folder()
    }

    fn hint_without_folder(&self) -> String {
        self.hint_without_folder()
    }

    fn left_out(&self) -> Vec<(PathBuf, String)> {
        self.warnings()
    }

    fn bad_rows(&self) -> &[BadRow] {
        &self.bad_rows
    }

    fn passed_over(&self) -> Vec<PassedOver> {
        let ct_rate::Others { unlisted, strangers } = self.others();
        let unlisted = PassedOver {
            what: "volume(s) without a row in any table",
            reason: "no table has a row for it",
            files: unlisted.iter().map(|name| (name.to_string(), name.path(&self.root, self.hu_source))).collect(),
        };
        let strangers = PassedOver {
            what: "file(s) whose names or places are no volume's",
            reason: "its name or place is not that of a volume",
            files: strangers.into_iter().map(|file| (crate::files::lossy(&file), file)).collect(),
        };
        [unlisted, strangers].into_iter().filter(|group| !group.files.is_empty()).collect()
    }
}

impl CtSplit for RadChest {
    fn root(&self) -> &Path {
        &self.root
    }

    fn layout(&self) -> &'static str {
        "RadChest-CT"
    }

    fn split(&self) -> &'static str {
        self.split.name()
    }

    fn hu_source(&self) -> HuSource {
        HuSource::AlreadyHu
    }

    fn items(&self) -> Vec<Item> {
        let item = |volume: &radchest::Volume| {
            let (name, file) = (volume.name.clone(), volume.file.clone());
            Item { name, file, listed: json!([volume.acquisition.slope, volume.acquisition.spacing]) }
        };
        self.volumes.iter().map(item).collect()
    }

    fn decode(&self, at: usize, bytes: &[u8], path: &Path, device: &Device) -> Result<CtVolume> {
        let radchest = Some(self.volumes[at].acquisition);
        read_bytes(bytes, path, &ReadOptions { device: Some(device), radchest })
    }

    fn folder(&self) -> PathBuf {
        self.root.clone()
    }

    fn hint_without_folder(&self) -> String {
        "copy or download the data set there".into()
    }

    fn left_out(&self) -> Vec<(PathBuf, String)> {
        self.left_out.clone()
    }

    fn bad_rows(&self) -> &[BadRow] {
        &self.bad_rows
    }

    fn passed_over(&self) -> Vec<PassedOver> {
        let name = |file: &PathBuf| (radchest::name_of(file), self.root.join(file));
        let files: Vec<(String, PathBuf)> = self.unlisted.iter().map(name).collect();
        let (what, reason) = ("volume(s) without a row in any table of labels", "no table of labels has a row for it");
        Vec::from_iter((!files.is_empty()).then_some(PassedOver { what, reason, files }))
    }
}
