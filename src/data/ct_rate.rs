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
//! table must have the five that are used, since the DICOM fields beside them differ between releases.

use crate::ct::{Affine, AffineSource, AxisCodes, CtVolume};
use crate::error::{Error, Result};
use crate::files;
use crate::labels;
use std::collections::HashMap;
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

    /// `train_1_a_2.nii.gz`, the key of every table.
    pub fn file_name(&self) -> String {
        format!("{self}.nii.gz")
    }

    /// The volume's file under the data set's root.
    pub fn path(&self, root: impl AsRef<Path>, hu_source: HuSource) -> PathBuf {
        let suffix = match hu_source {
            HuSource::CsvRescale => "",
            HuSource::AlreadyHu => "_fixed",
        };
        root.as_ref()
            .join("dataset")
            .join(format!("{}{suffix}", self.split.name()))
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

/// A radiology report in English, as its sections stand in the table; an empty cell is an empty string.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    pub clinical_information: String,
    pub technique: String,
    pub findings: String,
    pub impressions: String,
}

impl Report {
    /// What the text encoder reads: findings and impressions joined without a separator, a section that is "Not given."
    /// left out, and the characters `"'()` deleted (CT-CLIP's inference code, X2CT-CLIP). May be empty.
    pub fn text(&self) -> String {
        [&self.findings, &self.impressions]
            .into_iter()
            .filter(|section| *section != "Not given.")
            .flat_map(|section| section.chars())
            .filter(|c| !matches!(c, '"' | '\'' | '(' | ')'))
            .collect()
    }
}

/// What the metadata table says about turning stored values into a volume in HU and millimetres.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Acquisition {
    pub slope: f64,
    pub intercept: f64,
    /// In-plane voxel size in mm; the table's first number stands for both axes.
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

/// What a metadata table says about one volume.
///
/// Errors: those of [`CtRate::read`] for this table, and a volume it does not list.
pub fn acquisition_of(table: impl AsRef<Path>, name: &VolumeName) -> Result<Acquisition> {
    let table = table.as_ref();
    let (_, mut rows) = Table::read(table.into(), &METADATA_USED, false)?.by_name(name.split, acquisition)?;
    rows.remove(name).ok_or_else(|| {
        Error::file(table, format!("has no row for {}", name.file_name()), "use the table of the volume's own split")
    })
}

/// One reconstruction with everything the tables say about it.
#[derive(Clone, Debug, PartialEq)]
pub struct Volume {
    pub name: VolumeName,
    pub report: Report,
    /// In the order of [`labels::NAMES`].
    pub labels: [bool; labels::COUNT],
    pub acquisition: Acquisition,
}

/// One split of the data set.
#[derive(Clone, Debug, PartialEq)]
pub struct CtRate {
    pub root: PathBuf,
    pub split: Split,
    pub hu_source: HuSource,
    /// In the order of the metadata table.
    pub volumes: Vec<Volume>,
    /// Volumes of the metadata table left out, because the reports or the labels have no row for them.
    pub skipped: Vec<VolumeName>,
}

const NAME: &str = "VolumeName";
const REPORT_COLUMNS: [&str; 5] = [NAME, "ClinicalInformation_EN", "Technique_EN", "Findings_EN", "Impressions_EN"];
const METADATA_USED: [&str; 5] = [NAME, "RescaleSlope", "RescaleIntercept", "XYSpacing", "ZSpacing"];
#[rustfmt::skip]
const METADATA_COLUMNS: [&str; 44] = [
    NAME, "Manufacturer", "SeriesDescription", "ManufacturerModelName", "PatientSex", "PatientAge",
    "ReconstructionDiameter", "DistanceSourceToDetector", "DistanceSourceToPatient", "GantryDetectorTilt", "TableHeight",
    "RotationDirection", "ExposureTime", "XRayTubeCurrent", "Exposure", "FilterType", "GeneratorPower", "FocalSpots",
    "ConvolutionKernel", "PatientPosition", "RevolutionTime", "SingleCollimationWidth", "TotalCollimationWidth",
    "TableSpeed", "TableFeedPerRotation", "SpiralPitchFactor", "DataCollectionCenterPatient",
    "ReconstructionTargetCenterPatient", "ExposureModulationType", "CTDIvol", "ImagePositionPatient",
    "ImageOrientationPatient", "SliceLocation", "SamplesPerPixel", "PhotometricInterpretation", "Rows", "Columns",
    "XYSpacing", "RescaleIntercept", "RescaleSlope", "RescaleType", "NumberofSlices", "ZSpacing", "StudyDate",
];

fn label_columns() -> Vec<&'static str> {
    [NAME].into_iter().chain(labels::NAMES).collect()
}

impl CtRate {
    /// Reads the three tables of a split. Volumes are not opened.
    ///
    /// Errors: a folder or table that is absent or unreadable; missing or unexpected columns; a row of the wrong
    /// length; a volume name, number or label that is none, or of another split (by line and column); a volume listed
    /// twice; no volume that all tables know.
    pub fn read(root: impl AsRef<Path>, split: Split, hu_source: HuSource) -> Result<Self> {
        let root = root.as_ref();
        std::fs::read_dir(root).map_err(|e| Error::io(root, "read the folder", &e))?;
        let tables = Tables { root, split };
        let (_, mut reports) =
            Table::read(tables.find(tables.reports()), &REPORT_COLUMNS, true)?.by_name(split, |row| {
                let text = |i| row.text(i).to_string();
                Ok(Report {
                    clinical_information: text(1),
                    technique: text(2),
                    findings: text(3),
                    impressions: text(4),
                })
            })?;
        let (_, mut labels) =
            Table::read(tables.find(tables.labels()), &label_columns(), true)?.by_name(split, |row| {
                let mut labels = [false; labels::COUNT];
                for (i, label) in labels.iter_mut().enumerate() {
                    *label = match row.text(i + 1) {
                        "0" | "0.0" => false,
                        "1" | "1.0" => true,
                        _ => return Err(row.refuse(i + 1, "0 or 1")),
                    };
                }
                Ok(labels)
            })?;
        let metadata = tables.find(tables.metadata());
        let (names, mut acquisitions) =
            Table::read(metadata.clone(), &METADATA_USED, false)?.by_name(split, acquisition)?;

        let mut volumes = Vec::new();
        let mut skipped = Vec::new();
        for name in names {
            match (reports.remove(&name), labels.remove(&name), acquisitions.remove(&name)) {
                (Some(report), Some(labels), Some(acquisition)) => {
                    volumes.push(Volume { name, report, labels, acquisition });
                }
                _ => skipped.push(name),
            }
        }
        if volumes.is_empty() {
            let problem = format!("none of its {} volumes has both a report and labels", skipped.len());
            return Err(Error::file(metadata, problem, "check that the three tables are of one split"));
        }
        Ok(CtRate { root: root.into(), split, hu_source, volumes, skipped })
    }

    /// Writes the three tables, each atomically, creating folders. The metadata table has the full header of the
    /// released one; columns beside those of [`Acquisition`] and `Manufacturer` are empty.
    pub fn write(&self, manufacturer: &str) -> Result<()> {
        self.write_with(&|_, column| (column == "Manufacturer").then(|| manufacturer.to_string()))
    }

    /// As [`CtRate::write`], with `extra` giving the metadata cells that [`Acquisition`] does not, by the volume's
    /// position in `volumes` and the column's name.
    pub fn write_with(&self, extra: &dyn Fn(usize, &str) -> Option<String>) -> Result<()> {
        let tables = Tables { root: &self.root, split: self.split };
        let table = |[folder, file]: [String; 2], columns: &[&str], row: &dyn Fn(usize, &Volume, &str) -> String| {
            let folder = self.root.join("dataset").join(folder);
            files::create_folder(&folder)?;
            let mut csv = csv::Writer::from_writer(Vec::new());
            let mut write = || -> csv::Result<()> {
                csv.write_record(columns)?;
                for (at, volume) in self.volumes.iter().enumerate() {
                    csv.write_record(columns.iter().map(|&column| match column {
                        NAME => volume.name.file_name(),
                        _ => row(at, volume, column),
                    }))?;
                }
                Ok(csv.flush()?)
            };
            let path = folder.join(file);
            write().map_err(|e| refuse_csv(&path, e))?;
            files::write_atomic(&path, csv.get_ref())
        };
        table(tables.reports(), &REPORT_COLUMNS, &|_, volume, column| {
            let r = &volume.report;
            let section = match column {
                "ClinicalInformation_EN" => &r.clinical_information,
                "Technique_EN" => &r.technique,
                "Findings_EN" => &r.findings,
                _ => &r.impressions,
            };
            section.clone()
        })?;
        table(tables.labels(), &label_columns(), &|_, volume, column| {
            let present = labels::NAMES.iter().zip(volume.labels).any(|(name, present)| *name == column && present);
            u8::from(present).to_string()
        })?;
        table(tables.metadata(), &METADATA_COLUMNS, &|at, volume, column| {
            let a = &volume.acquisition;
            match column {
                "XYSpacing" => format!("[{0}, {0}]", a.spacing_xy),
                "RescaleSlope" => a.slope.to_string(),
                "RescaleIntercept" => a.intercept.to_string(),
                "ZSpacing" => a.spacing_z.map_or(String::new(), |z| z.to_string()),
                _ => extra(at, column).unwrap_or_default(),
            }
        })
    }

    /// The volume's file.
    pub fn path(&self, volume: &Volume) -> PathBuf {
        volume.name.path(&self.root, self.hu_source)
    }
}

/// Where the tables of a split are: [folder, file], and folder and file under the data set's root.
struct Tables<'a> {
    root: &'a Path,
    split: Split,
}

impl Tables<'_> {
    fn reports(&self) -> [String; 2] {
        ["radiology_text_reports".into(), format!("{}_reports.csv", self.split.long_name())]
    }

    fn labels(&self) -> [String; 2] {
        ["multi_abnormality_labels".into(), format!("{}_predicted_labels.csv", self.split.name())]
    }

    fn metadata(&self) -> [String; 2] {
        ["metadata".into(), format!("{}_metadata.csv", self.split.long_name())]
    }

    /// The first place that exists, or the first of all for the error message.
    fn find(&self, [folder, file]: [String; 2]) -> PathBuf {
        let old_name = format!("dataset_{folder}_{file}");
        let places = ["dataset", ""].into_iter().flat_map(|base| {
            let folder = self.root.join(base).join(&folder);
            [folder.join(&file), folder.join(&old_name)]
        });
        let places: Vec<PathBuf> = places.collect();
        places.iter().find(|p| p.exists()).unwrap_or(&places[0]).clone()
    }
}

/// A CSV table whose wanted columns have been found.
struct Table {
    path: PathBuf,
    rows: csv::Reader<std::fs::File>,
    wanted: Vec<&'static str>,
    /// Column of the file for each wanted one.
    at: Vec<usize>,
}

struct Row<'a> {
    table: &'a Table,
    record: csv::StringRecord,
}

impl Table {
    fn read(path: PathBuf, wanted: &[&'static str], exactly: bool) -> Result<Self> {
        let file = std::fs::File::open(&path).map_err(|e| Error::io(&path, "open the table", &e))?;
        let mut rows = csv::Reader::from_reader(file);
        let header = rows.headers().map_err(|e| refuse_csv(&path, e))?.clone();
        let missing: Vec<&str> = wanted.iter().copied().filter(|w| !header.iter().any(|h| h == *w)).collect();
        let unexpected: Vec<&str> = header.iter().filter(|h| exactly && !wanted.contains(h)).collect();
        let mut seen = std::collections::HashSet::new();
        let repeated: Vec<&str> = header.iter().filter(|h| wanted.contains(h) && !seen.insert(*h)).collect();
        let problems: Vec<String> = [("missing", missing), ("unexpected", unexpected), ("repeated", repeated)]
            .into_iter()
            .filter(|(_, columns)| !columns.is_empty())
            .map(|(kind, columns)| format!("{kind} columns: {}", columns.join(", ")))
            .collect();
        if !problems.is_empty() {
            return Err(Error::file(path, problems.join("; "), "the header must be CT-RATE's"));
        }
        let at = wanted.iter().filter_map(|w| header.iter().position(|h| h == *w)).collect();
        Ok(Table { path, rows, wanted: wanted.to_vec(), at })
    }

    /// All rows under their volume's name (column 0), and the names in the order of the file.
    fn by_name<T>(
        mut self,
        split: Split,
        parse: impl Fn(&Row) -> Result<T>,
    ) -> Result<(Vec<VolumeName>, HashMap<VolumeName, T>)> {
        let mut names = Vec::new();
        let mut rows = HashMap::new();
        let mut record = csv::StringRecord::new();
        while self.rows.read_record(&mut record).map_err(|e| refuse_csv(&self.path, e))? {
            let row = Row { table: &self, record };
            let name: VolumeName =
                row.text(0).parse().map_err(|_| row.refuse(0, "a volume name such as train_1_a_2.nii.gz"))?;
            if name.split != split {
                return Err(row.refuse(0, &format!("of split {}", split.name())));
            }
            if rows.insert(name.clone(), parse(&row)?).is_some() {
                return Err(row.refuse(0, "listed once"));
            }
            names.push(name);
            record = row.record;
        }
        Ok((names, rows))
    }
}

impl Row<'_> {
    fn text(&self, column: usize) -> &str {
        self.record.get(self.table.at[column]).unwrap_or("")
    }

    fn number(&self, column: usize) -> Option<f64> {
        self.text(column).trim().parse().ok().filter(|v: &f64| v.is_finite())
    }

    fn refuse(&self, column: usize, wanted: &str) -> Error {
        let line = self.record.position().map_or(0, csv::Position::line);
        let problem =
            format!("line {line}, column {}: {:?} is not {wanted}", self.table.wanted[column], self.text(column));
        Error::file(&self.table.path, problem, "correct the row or remove it")
    }
}

fn acquisition(row: &Row) -> Result<Acquisition> {
    let [slope, intercept, xy, z] = [1, 2, 3, 4];
    let positive = |v: &f64| *v > 0.0;
    // "[0.34, 0.34]": brackets off, first number.
    let first = row.text(xy).trim().trim_start_matches(['[', '(']).trim_end_matches([']', ')']).split(',').next();
    let spacing_xy = first.and_then(|v| v.trim().parse().ok()).filter(|v: &f64| v.is_finite() && positive(v));
    let spacing_z = match row.text(z).trim() {
        "" | "nan" | "NaN" => None,
        _ => Some(row.number(z).filter(positive).ok_or_else(|| row.refuse(z, "a positive number of mm, or empty"))?),
    };
    Ok(Acquisition {
        slope: row
            .number(slope)
            .filter(|v| *v != 0.0)
            .ok_or_else(|| row.refuse(slope, "a finite number other than 0"))?,
        intercept: row.number(intercept).ok_or_else(|| row.refuse(intercept, "a finite number"))?,
        spacing_xy: spacing_xy.ok_or_else(|| row.refuse(xy, "a spacing in mm such as [0.7, 0.7]"))?,
        spacing_z,
    })
}

fn refuse_csv(path: &Path, error: csv::Error) -> Error {
    match error.into_kind() {
        csv::ErrorKind::Io(e) => Error::io(path, "read the table", &e),
        csv::ErrorKind::UnequalLengths { pos, expected_len, len } => {
            let line = pos.map_or(0, |p| p.line());
            let problem = format!("line {line} has {len} fields, the header {expected_len}");
            Error::file(path, problem, "the file may be cut short; fetch it again")
        }
        csv::ErrorKind::Utf8 { pos, .. } => {
            let line = pos.map_or(0, |p| p.line());
            Error::file(path, format!("line {line} is not UTF-8"), "convert the table to UTF-8")
        }
        kind => Error::file(path, format!("is no CSV table: {kind:?}"), "fetch the file again"),
    }
}
