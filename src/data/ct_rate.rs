//! The CT-RATE data set: names, folders and tables, read and written.
//!
//! ```text
//! ROOT/dataset/{train,valid}/train_1/train_1_a/train_1_a_1.nii.gz  as released: HU by the metadata table
//! ROOT/dataset/{train,valid}_fixed/...                                 corrected copies: voxels are HU
//! ROOT/dataset/radiology_text_reports/{train,validation}_reports.csv
//! ROOT/dataset/multi_abnormality_labels/{train,valid}_predicted_labels.csv
//! ROOT/dataset/metadata/{train,validation}_metadata.csv
//! ```
//! Tables are also found without `dataset/`, and labels under their older name `dataset_multi_abnormality_labels_*`.
//! Columns are taken by name, in any order. Report and label tables must have exactly the known columns; a metadata
//! table must have the five that are used, since the DICOM fields beside them differ between releases. A row that cannot be
//! used leaves its volume out and is told by its line. Volumes that `metadata/no_chest_{train,valid}.txt` lists (scans of other
//! parts of the body, named by scan or by volume) are left out where that file is there.

mod others;
mod report;
mod tables;

pub use others::Others;
pub use report::Report;

use crate::ct::{Affine, AffineSource, AxisCodes, CtVolume};
use crate::error::{Error, Result};
use crate::labels;
use crate::table::{BadRow, Keyed, first_of};
use std::collections::{BTreeSet, HashSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// The part of the data set a volume belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Split {
    Train,
    Valid,
}

impl Split {
    /// As in volume names, volume folders and label tables.
    pub fn name(self) -> &'static str {
        match self {
            Split::Train => "train",
            Split::Valid => "valid",
        }
    }

    /// As in report and metadata tables.
    fn long_name(self) -> &'static str {
        match self {
            Split::Train => "train",
            Split::Valid => "validation",
        }
    }
}

/// Where Hounsfield units come from. Applying the table's slope and intercept to corrected volumes, or the header's to
/// original ones, is wrong, and nothing in a file tells which it is: so it is the user's explicit choice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HuSource {
    /// Original release: `slope * stored + intercept` from the metadata table; the header's scaling means nothing.
    CsvRescale,
    /// Corrected release (`train_fixed`, `valid_fixed`): voxels are HU.
    AlreadyHu,
}

impl HuSource {
    /// As on the command line and in manifests.
    pub fn name(self) -> &'static str {
        match self {
            HuSource::CsvRescale => "csv",
            HuSource::AlreadyHu => "already-hu",
        }
    }
}

/// `{split}_{patient}_{scan}_{reconstruction}`, for example `train_1_a_2`: patient 1, first scan, second reconstruction.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct VolumeName {
    pub split: Split,
    pub patient: u32,
    /// One or more lower-case letters.
    pub scan: String,
    pub reconstruction: u32,
}

impl VolumeName {
    /// `train_1`.
    pub fn patient_name(&self) -> String {
        format!("{}_{}", self.split.name(), self.patient)
    }

    /// `train_1_a`. All reconstructions of a scan share report and labels.
    pub fn scan_name(&self) -> String {
        format!("{}_{}", self.patient_name(), self.scan)
    }

    /// The scan of a volume by its id: [`scan_name`](Self::scan_name), or the id where it is no volume name.
    pub fn scan_of(id: &str) -> String {
        id.parse::<VolumeName>().map_or_else(|_| id.to_string(), |name| name.scan_name())
    }

    /// The patient of a volume by its id: [`patient_name`](Self::patient_name), or the id where it is no volume name.
    pub fn patient_of(id: &str) -> String {
        id.parse::<VolumeName>().map_or_else(|_| id.to_string(), |name| name.patient_name())
    }

    /// `train_1_a_2.nii.gz`, the key of every table.
    pub fn file_name(&self) -> String {
        format!("{self}.nii.gz")
    }

    /// The volume's file under the data set's root.
    pub fn path(&self, root: impl AsRef<Path>, hu_source: HuSource) -> PathBuf {
        folder(root.as_ref(), self.split, hu_source)
            .join(self.patient_name())
            .join(self.scan_name())
            .join(self.file_name())
    }
}

impl fmt::Display for VolumeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}_{}", self.scan_name(), self.reconstruction)
    }
}

impl FromStr for VolumeName {
    type Err = Error;

    /// With or without `.nii.gz`; no folders.
    fn from_str(text: &str) -> Result<Self> {
        let stem = text.strip_suffix(".nii.gz").unwrap_or(text);
        let parse = || {
            let mut fields = stem.split('_');
            let split = match fields.next()? {
                "train" => Split::Train,
                "valid" => Split::Valid,
                _ => return None,
            };
            let patient = fields.next()?.parse().ok()?;
            let scan = fields.next().filter(|s| !s.is_empty() && s.bytes().all(|b| b.is_ascii_lowercase()))?;
            let name = VolumeName { split, patient, scan: scan.into(), reconstruction: fields.next()?.parse().ok()? };
            // Leading zeros, signs and further fields would make two names of one volume.
            (name.to_string() == stem).then_some(name)
        };
        parse().ok_or_else(|| {
            Error::argument(
                "volume name",
                format!("{text:?} is none"),
                "a name looks like train_1_a_2 or valid_53_a_1.nii.gz",
            )
        })
    }
}

/// What the metadata table says about turning stored values into a volume in HU and millimetres.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Acquisition {
    pub slope: f64,
    pub intercept: f64,
    /// In-plane voxel size in mm, along both axes.
    pub spacing_xy: f64,
    /// Distance of slices in mm, where the table knows it.
    pub spacing_z: Option<f64>,
}

impl Acquisition {
    /// Voxel size (x, y, z) in mm; an unknown distance of slices is taken as the in-plane size, as X2CT-CLIP's code
    /// does.
    pub fn spacing(&self) -> [f64; 3] {
        [self.spacing_xy, self.spacing_xy, self.spacing_z.unwrap_or(self.spacing_xy)]
    }

    /// A volume of the original release with an affine and a scaling to HU that hold. Its header means nothing: the published
    /// code takes voxel size and scaling from the table, and the axes as they are stored, which are LPS.
    pub fn apply(&self, volume: CtVolume) -> Result<CtVolume> {
        let affine = Affine::centred(AxisCodes::LPS, self.spacing(), volume.shape)?;
        let (slope, intercept) = (self.slope as f32, self.intercept as f32);
        // What was remarked of the header's geometry went with it.
        let (affine_source, remarks) = (AffineSource::Convention, Vec::new());
        Ok(CtVolume { affine, affine_source, slope, intercept, remarks, ..volume })
    }
}

/// A metadata table by itself, for volumes that are named one by one.
#[derive(Clone, Debug)]
pub struct Acquisitions {
    table: PathBuf,
    keyed: Keyed<VolumeName, Acquisition>,
}

impl Acquisitions {
    /// Reads the table.
    ///
    /// # Errors
    /// A table that cannot be read or lacks a column.
    pub fn read(table: impl AsRef<Path>) -> Result<Self> {
        let table = table.as_ref().to_path_buf();
        Ok(Acquisitions { keyed: tables::acquisitions(&table)?, table })
    }

    /// What it says about one volume; rows of others may be bad.
    ///
    /// # Errors
    /// A volume that the table does not list, or whose row cannot be used.
    pub fn of(&self, name: &VolumeName) -> Result<Acquisition> {
        let lacks = || {
            let problem = format!("has no row for {}", name.file_name());
            Error::file(&self.table, problem, "use the table of the volume's own split")
        };
        self.keyed.of(name, |bad| volume_of(bad).as_ref() == Some(name), lacks).copied()
    }
}

/// The labels of a split by themselves and the table they stand in: nothing else need be known of a volume.
///
/// # Errors
/// A folder or table that cannot be read, or a table that has other columns.
pub fn labels_of(root: impl AsRef<Path>, split: Split) -> Result<(PathBuf, Keyed<VolumeName, [bool; labels::COUNT]>)> {
    let places = Places::open(root.as_ref(), split)?;
    let table = places.labels();
    let labels = tables::labels(&table, split).map_err(|e| places.misplaced(e))?;
    Ok((table, labels))
}

/// The reports of a split by themselves, as [`labels_of`].
///
/// # Errors
/// A folder or table that cannot be read, or a table that has other columns.
pub fn reports_of(root: impl AsRef<Path>, split: Split) -> Result<(PathBuf, Keyed<VolumeName, Report>)> {
    let places = Places::open(root.as_ref(), split)?;
    let table = places.reports();
    let reports = tables::reports(&table, split).map_err(|e| places.misplaced(e))?;
    Ok((table, reports))
}

/// Where the tables of a split disagree: each one that lacks volumes which another has, with a sentence's rest that says how many
/// and names the first. `labels` are the split's ([`labels_of`]); another table that cannot be read has no part in it.
pub fn disagreements(
    root: impl AsRef<Path>,
    split: Split,
    labels: &Keyed<VolumeName, [bool; labels::COUNT]>,
) -> Vec<(PathBuf, String)> {
    let places = Places { root: root.as_ref(), split };
    fn names<T>(keyed: &Keyed<VolumeName, T>) -> BTreeSet<VolumeName> {
        keyed.order.iter().cloned().chain(keyed.bad.iter().filter_map(volume_of)).collect()
    }
    let reports = tables::reports(&places.reports(), split);
    let metadata = tables::metadata(&places.metadata(), split, HuSource::AlreadyHu);
    let tables = [
        (places.reports(), reports.as_ref().map(names)),
        (places.labels(), Ok(names(labels))),
        (places.metadata(), metadata.as_ref().map(names)),
    ];
    let tables: Vec<_> = tables.into_iter().filter_map(|(file, names)| Some((file, names.ok()?))).collect();
    let all: BTreeSet<&VolumeName> = tables.iter().flat_map(|(_, names)| names).collect();
    let lack = |(file, names): &(PathBuf, BTreeSet<VolumeName>)| {
        let lacking: Vec<&&VolumeName> = all.iter().filter(|name| !names.contains(**name)).collect();
        let says = format!("has no row for {} volume(s) that another table has: {}", lacking.len(), first_of(&lacking));
        (!lacking.is_empty()).then(|| (file.clone(), says))
    };
    tables.iter().filter_map(lack).collect()
}

/// One reconstruction with everything the tables say about it.
#[derive(Clone, Debug, PartialEq)]
pub struct Volume {
    pub name: VolumeName,
    pub report: Report,
    /// In the order of [`labels::NAMES`].
    pub labels: [bool; labels::COUNT],
    /// `None` where the metadata table does not say it; always there when HU come from that table.
    pub acquisition: Option<Acquisition>,
}

/// A volume that a table names and that is none of [`CtRate::volumes`], although no row is bad.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeftOut {
    pub name: VolumeName,
    /// The table or list that decided it; a volume that two tables lack is left out twice.
    pub file: PathBuf,
    pub why: Why,
}

/// Why a volume is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// The table has no row for it.
    Lacks,
    /// The list names it as a scan of another part of the body.
    NoChest,
}

/// One split of the data set.
#[derive(Clone, Debug, PartialEq)]
pub struct CtRate {
    pub root: PathBuf,
    pub split: Split,
    pub hu_source: HuSource,
    /// Those that can be used, in the order of the metadata table.
    pub volumes: Vec<Volume>,
    /// Volumes that a table lacks, or that are no chest.
    pub left_out: Vec<LeftOut>,
    /// Rows that could not be used; their volumes are left out as well.
    pub bad_rows: Vec<BadRow>,
}

/// The volume that a bad row is about.
fn volume_of(bad: &BadRow) -> Option<VolumeName> {
    bad.volume()?.parse().ok()
}

impl CtRate {
    /// Reads the three tables of a split, and the list of scans that are no chest. Volumes are not opened.
    ///
    /// Rows that cannot be used stand in [`bad_rows`](Self::bad_rows), volumes that a table lacks in
    /// [`left_out`](Self::left_out). The voxel sizes and scalings of the metadata table are only needed, and only refused, where
    /// HU come from it.
    ///
    /// # Errors
    /// A folder or table that is absent or unreadable; missing or unexpected columns; no volume that all tables know.
    pub fn read(root: impl AsRef<Path>, split: Split, hu_source: HuSource) -> Result<Self> {
        let root = root.as_ref();
        let places = Places::open(root, split)?;
        let misplaced = |error| places.misplaced(error);
        let [reports_at, labels_at, metadata_at] = [places.reports(), places.labels(), places.metadata()];
        let mut reports = tables::reports(&reports_at, split).map_err(misplaced)?;
        let mut labels = tables::labels(&labels_at, split).map_err(misplaced)?;
        let mut metadata = tables::metadata(&metadata_at, split, hu_source).map_err(misplaced)?;
        let no_chest = tables::NoChest::read(&places.no_chest())?;

        let bad_rows: Vec<BadRow> =
            [&mut reports.bad, &mut labels.bad, &mut metadata.bad].into_iter().flat_map(std::mem::take).collect();
        let bad: HashSet<VolumeName> = bad_rows.iter().filter_map(volume_of).collect();
        let listed: HashSet<&VolumeName> = metadata.order.iter().collect();
        let mut unlisted: Vec<VolumeName> =
            reports.order.iter().chain(&labels.order).filter(|name| !listed.contains(name)).cloned().collect();
        unlisted.sort();
        unlisted.dedup();
        let (count, mut volumes, mut left_out) = (metadata.order.len(), Vec::new(), Vec::new());
        for name in metadata.order {
            let mut leave = |file: &Path, why| left_out.push(LeftOut { name: name.clone(), file: file.into(), why });
            if no_chest.lists(&name) {
                leave(no_chest.path(), Why::NoChest);
                continue;
            }
            if bad.contains(&name) {
                continue;
            }
            let acquisition = metadata.rows.remove(&name).flatten();
            match (reports.rows.remove(&name), labels.rows.remove(&name)) {
                (Some(report), Some(labels)) => volumes.push(Volume { name, report, labels, acquisition }),
                (report, labels) => {
                    for (_, file) in
                        [(report.is_none(), &reports_at), (labels.is_none(), &labels_at)].iter().filter(|l| l.0)
                    {
                        leave(file, Why::Lacks);
                    }
                }
            }
        }
        let lacks = unlisted.into_iter().filter(|name| !bad.contains(name) && !no_chest.lists(name));
        left_out.extend(lacks.map(|name| LeftOut { name, file: metadata_at.clone(), why: Why::Lacks }));
        let data = CtRate { root: root.into(), split, hu_source, volumes, left_out, bad_rows };
        if data.volumes.is_empty() {
            let mut unusable = data.bad_rows.iter().filter(|bad| !bad.spare);
            if let Some(bad) = unusable.next() {
                return Err(bad.error().with_others(unusable.count(), "rows"));
            }
            let why = data.warnings().into_iter().map(|(file, why)| format!("{} {why}", file.display()));
            let why = why.collect::<Vec<_>>().join("; ");
            let problem = match count {
                0 => "lists no volume".to_string(),
                _ => format!("none of its {count} volumes has both a report and labels: {why}"),
            };
            return Err(Error::file(metadata_at, problem, "check that the three tables are of one split"));
        }
        Ok(data)
    }

    /// What is to be said of the volumes that are left out: the table or list at fault, and a sentence's rest with their number
    /// and the first of them.
    pub fn warnings(&self) -> Vec<(PathBuf, String)> {
        let mut groups: Vec<((&Path, Why), Vec<&VolumeName>)> = Vec::new();
        for LeftOut { name, file, why } in &self.left_out {
            match groups.iter_mut().find(|(group, _)| *group == (file.as_path(), *why)) {
                Some((_, names)) => names.push(name),
                None => groups.push(((file, *why), vec![name])),
            }
        }
        let sentence = |((file, why), names): ((&Path, Why), Vec<&VolumeName>)| {
            let (count, first) = (names.len(), first_of(names));
            let says = match why {
                Why::Lacks => "has no row for",
                Why::NoChest => "lists as no chest",
            };
            (file.to_path_buf(), format!("{says} {count} volume(s), left out: {first}"))
        };
        groups.into_iter().map(sentence).collect()
    }

    /// The table that the reports stand in.
    pub fn reports_table(&self) -> PathBuf {
        Places { root: &self.root, split: self.split }.reports()
    }

    /// Why a volume is none of [`volumes`](Self::volumes): the row that is bad, the table that lacks it, the list that names it.
    pub fn absence(&self, name: &VolumeName) -> Error {
        if let Some(bad) = self.bad_rows.iter().find(|bad| volume_of(bad).as_ref() == Some(name)) {
            return bad.error();
        }
        let refuse =
            |file: &Path, problem: String| Error::file(file, problem, "complete the table, or leave the volume out");
        match self.left_out.iter().find(|left| left.name == *name) {
            Some(LeftOut { file, why: Why::Lacks, .. }) => refuse(file, format!("has no row for {name}")),
            Some(LeftOut { file, why: Why::NoChest, .. }) => refuse(file, format!("lists {name} as no chest")),
            None => {
                refuse(&Places { root: &self.root, split: self.split }.metadata(), format!("has no row for {name}"))
            }
        }
    }

    /// The volume's file.
    pub fn path(&self, volume: &Volume) -> PathBuf {
        volume.name.path(&self.root, self.hu_source)
    }

    /// The folder that holds the volumes of this split and release.
    pub fn folder(&self) -> PathBuf {
        folder(&self.root, self.split, self.hu_source)
    }

    /// Where volumes are to be had when their folder is not there: another root or another release.
    pub(crate) fn hint_without_folder(&self) -> String {
        if let Some(near) = root_near(&self.root, self.split) {
            return format!("the data set's root is {}, name that", near.display());
        }
        let (other, name) = match self.hu_source {
            HuSource::AlreadyHu => (
                HuSource::CsvRescale,
                "as the original release calls it: if its volumes hold stored values, ask for the HU source `csv`; if they hold HU, rename it",
            ),
            HuSource::CsvRescale => (
                HuSource::AlreadyHu,
                "as the corrected release calls it: if its volumes hold HU, ask for the HU source `already-hu`; if they hold stored values, rename it",
            ),
        };
        let other = folder(&self.root, self.split, other);
        if other.is_dir() {
            return format!("{} is there, {name}", other.display());
        }
        "copy or download the volumes there".into()
    }
}

/// The folder of a data set's volumes and tables.
pub fn files_of(root: &Path) -> PathBuf {
    root.join("dataset")
}

fn folder(root: &Path, split: Split, hu_source: HuSource) -> PathBuf {
    let suffix = match hu_source {
        HuSource::CsvRescale => "",
        HuSource::AlreadyHu => "_fixed",
    };
    root.join("dataset").join(format!("{}{suffix}", split.name()))
}

/// The root of a data set that is not `root`, but near it: above, or a folder in it.
fn root_near(root: &Path, split: Split) -> Option<PathBuf> {
    let has = |root: &Path| {
        let sources = [HuSource::AlreadyHu, HuSource::CsvRescale];
        sources.iter().any(|&source| folder(root, split, source).is_dir())
    };
    // A data set without volumes is one all the same.
    if has(root) || root.join("dataset").is_dir() {
        return None;
    }
    let above = root.canonicalize().ok();
    let above = above.iter().flat_map(|path| path.ancestors().skip(1).take(3)).map(Path::to_path_buf);
    let mut within: Vec<PathBuf> = std::fs::read_dir(root).into_iter().flatten().flatten().map(|e| e.path()).collect();
    within.sort();
    let near = above.chain(within).find(|path| has(path))?;
    // As the user would write it.
    let parent = root.parent().filter(|p| !p.as_os_str().is_empty());
    Some(parent.filter(|p| p.canonicalize().ok().as_deref() == Some(&near)).map_or(near.clone(), Path::to_path_buf))
}

/// Where the tables of a split are.
struct Places<'a> {
    root: &'a Path,
    split: Split,
}

/// Folder and file of a table.
type Place = [String; 2];

impl<'a> Places<'a> {
    /// Of a root that is a folder.
    fn open(root: &'a Path, split: Split) -> Result<Self> {
        std::fs::read_dir(root).map_err(|e| Error::io(root, "read the folder", &e))?;
        Ok(Places { root, split })
    }

    /// An error about a table that is absent with the root that is meant, where there is one nearby.
    fn misplaced(&self, error: Error) -> Error {
        match (&error, root_near(self.root, self.split)) {
            (Error::File { path, problem, .. }, Some(near)) if !path.exists() => {
                Error::file(path, problem, format!("the data set's root is {}, name that", near.display()))
            }
            _ => error,
        }
    }

    fn reports(&self) -> PathBuf {
        self.find(&self.reports_place())
    }

    fn labels(&self) -> PathBuf {
        self.find(&self.labels_place())
    }

    fn metadata(&self) -> PathBuf {
        self.find(&self.metadata_place())
    }

    fn no_chest(&self) -> PathBuf {
        self.find(&["metadata".into(), format!("no_chest_{}.txt", self.split.name())])
    }

    fn reports_place(&self) -> Place {
        ["radiology_text_reports".into(), format!("{}_reports.csv", self.split.long_name())]
    }

    fn labels_place(&self) -> Place {
        ["multi_abnormality_labels".into(), format!("{}_predicted_labels.csv", self.split.name())]
    }

    fn metadata_place(&self) -> Place {
        ["metadata".into(), format!("{}_metadata.csv", self.split.long_name())]
    }

    /// The first place that exists, or the first of all for the error message.
    fn find(&self, [folder, file]: &Place) -> PathBuf {
        let old_name = format!("dataset_{folder}_{file}");
        let places = ["dataset", ""].into_iter().flat_map(|base| {
            let folder = self.root.join(base).join(folder);
            [folder.join(file), folder.join(&old_name)]
        });
        let places: Vec<PathBuf> = places.collect();
        places.iter().find(|p| p.exists()).unwrap_or(&places[0]).clone()
    }
}
