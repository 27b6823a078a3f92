//! The RadChest-CT data set: names, files and tables.
//!
//! ```text
//! ROOT/trn00001.npz, ...                                       volumes, here or up to two folders further down
//! ROOT/CT_Scan_Metadata_Complete_35747.csv                      voxel sizes
//! ROOT/img{train,valid,test}_Abnormality_and_Location_Labels.csv  the labels of each split
//! ```
//! A split is what its table of labels lists (`NoteAcc_DEID`), in that order. Tables are also found one folder further down. The
//! data set has no reports. How voxels and their size are read: [`ct::radchest`](crate::ct::radchest).

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::radchest_labels::{self, RadChestLabels};
use crate::ct::radchest::{Acquisition, Acquisitions};
use crate::error::{Error, Result};
use crate::table::{BadRow, first_of};

/// File name of the table of voxel sizes.
pub const METADATA: &str = "CT_Scan_Metadata_Complete_35747.csv";

/// A part of the data set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Part {
    Train,
    Valid,
    Test,
}

impl Part {
    /// All of them.
    pub const ALL: [Part; 3] = [Part::Train, Part::Valid, Part::Test];

    /// As in the names of tables.
    pub fn name(self) -> &'static str {
        match self {
            Part::Train => "train",
            Part::Valid => "valid",
            Part::Test => "test",
        }
    }

    /// File name of its table of labels.
    pub fn labels(self) -> String {
        format!("img{}_Abnormality_and_Location_Labels.csv", self.name())
    }
}

impl FromStr for Part {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let part = Part::ALL.into_iter().find(|part| part.name() == text);
        part.ok_or_else(|| Error::argument("split", format!("{text:?} is none"), "give train, valid or test"))
    }
}

/// One volume with what the table says of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Volume {
    /// `NoteAcc_DEID`.
    pub name: String,
    /// Its file, below the root.
    pub file: PathBuf,
    pub acquisition: Acquisition,
}

/// One split of the data set.
#[derive(Clone, Debug, PartialEq)]
pub struct RadChest {
    pub root: PathBuf,
    pub split: Part,
    /// Those that can be used, in the order of the table of labels.
    pub volumes: Vec<Volume>,
    /// Volumes of the split that the table of voxel sizes lacks, or that lie in two places: the file at fault, and a sentence's
    /// rest.
    pub left_out: Vec<(PathBuf, String)>,
    /// Rows that could not be used; their volumes are left out as well.
    pub bad_rows: Vec<BadRow>,
    /// Volumes that no table of labels lists, below the root.
    pub unlisted: Vec<PathBuf>,
}

impl RadChest {
    /// Whether one of the data set's tables lies below a folder.
    pub fn is_at(root: &Path) -> bool {
        let tables = Part::ALL.map(Part::labels);
        tables.iter().map(String::as_str).chain([METADATA]).any(|name| find(root, name).is_some())
    }

    /// Reads the tables of a split and looks for its volumes, which are not opened.
    ///
    /// # Errors
    /// A folder or table that is absent or unreadable; missing columns; no volume that both tables know.
    pub fn read(root: impl AsRef<Path>, split: Part) -> Result<Self> {
        let root = root.as_ref();
        std::fs::read_dir(root).map_err(|e| Error::io(root, "read the folder", &e))?;
        let table = |name: &str| find(root, name).unwrap_or_else(|| root.join(name));
        let (labels_at, metadata_at) = (table(&split.labels()), table(METADATA));
        let labels = RadChestLabels::read(&labels_at)?.table.rows;
        let acquisitions = Acquisitions::read(&metadata_at)?;
        let files = Files::of(root);
        let (mut volumes, mut lacks, mut left_out) = (Vec::new(), Vec::new(), Vec::new());
        let mut bad_rows = labels.bad;
        for id in labels.order {
            let name = name_of(Path::new(&id));
            let acquisition = match acquisitions.find(&name) {
                Ok(Some(acquisition)) => acquisition,
                Ok(None) => {
                    lacks.push(name);
                    continue;
                }
                Err(bad) => {
                    bad_rows.push(bad.clone());
                    continue;
                }
            };
            match files.of_volume(&name) {
                // Missing or not, it is the run that tells.
                [] => volumes.push(Volume { file: format!("{name}.npz").into(), name, acquisition }),
                [file] => volumes.push(Volume { file: file.clone(), name, acquisition }),
                [first, others @ ..] => {
                    let others = first_of(others.iter().map(|file| file.display()));
                    let says = format!("is one of several files of the volume {name}, left out: see also {others}");
                    left_out.push((root.join(first), says));
                }
            }
        }
        if !lacks.is_empty() {
            let says = format!("has no row for {} volume(s), left out: {}", lacks.len(), first_of(&lacks));
            left_out.insert(0, (metadata_at.clone(), says));
        }
        if volumes.is_empty() {
            let bad = bad_rows.iter().find(|bad| !bad.spare).map(BadRow::error);
            let why = || first_of(left_out.iter().map(|(file, says)| format!("{} {says}", file.display())));
            let none = || Error::file(&labels_at, format!("lists no volume that can be used: {}", why()), HINT);
            return Err(bad.unwrap_or_else(none));
        }
        let unlisted = files.unlisted(&ids(root));
        Ok(RadChest { root: root.into(), split, volumes, left_out, bad_rows, unlisted })
    }
}

const HINT: &str = "check that both tables are RadChest-CT's";

/// A volume's name, by its file or as a table has it.
pub fn name_of(file: &Path) -> String {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let name = name.trim();
    name.strip_suffix(".npz").unwrap_or(name).to_string()
}

/// A table of the data set: below the root, or one folder further down.
fn find(root: &Path, name: &str) -> Option<PathBuf> {
    let folders = entries(root).into_iter().filter(|path| path.is_dir());
    [root.to_path_buf()].into_iter().chain(folders).map(|folder| folder.join(name)).find(|path| path.is_file())
}

/// The ids that the tables of labels list, of all splits; a table that cannot be read lists none.
fn ids(root: &Path) -> HashSet<String> {
    let tables = Part::ALL.into_iter().filter_map(|part| find(root, &part.labels()));
    tables.flat_map(|table| radchest_labels::ids(&table)).map(|id| name_of(Path::new(&id))).collect()
}

/// What is in a folder, in order; nothing where it cannot be read. Hidden files do not count.
fn entries(folder: &Path) -> Vec<PathBuf> {
    let all = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let hidden = |name: &std::ffi::OsStr| name.to_string_lossy().starts_with('.');
    let mut paths: Vec<PathBuf> = all.filter(|entry| !hidden(&entry.file_name())).map(|entry| entry.path()).collect();
    paths.sort();
    paths
}

/// The volumes' files below a root, by their names.
struct Files(BTreeMap<String, Vec<PathBuf>>);

impl Files {
    fn of(root: &Path) -> Self {
        let (mut files, mut folders) = (Files(BTreeMap::new()), vec![root.to_path_buf()]);
        // The root, folders in it, and folders in these.
        for _ in 0..3 {
            let found: Vec<PathBuf> = folders.drain(..).flat_map(|folder| entries(&folder)).collect();
            for path in found {
                if path.is_dir() {
                    folders.push(path);
                } else if path.extension().is_some_and(|ending| ending == "npz")
                    && let Ok(below) = path.strip_prefix(root)
                {
                    files.0.entry(name_of(&path)).or_default().push(below.into());
                }
            }
        }
        files
    }

    fn of_volume(&self, name: &str) -> &[PathBuf] {
        self.0.get(name).map_or(&[], Vec::as_slice)
    }

    /// The files of volumes that are not among `listed`.
    fn unlisted(&self, listed: &HashSet<String>) -> Vec<PathBuf> {
        self.0.iter().filter(|(name, _)| !listed.contains(*name)).flat_map(|(_, files)| files).cloned().collect()
    }
}
