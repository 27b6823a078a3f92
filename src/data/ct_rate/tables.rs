//! CT-RATE's tables: their columns, read row by row and written.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use super::{Acquisition, CtRate, HuSource, Places, Report, Split, Volume, VolumeName};
use crate::content::Content;
use crate::error::{Error, Result};
use crate::files;
use crate::labels;
use crate::table::{BadRow, Keyed, Others, Row, Table};

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

const HINT: &str = "the header must be CT-RATE's";

/// The volume a row is about.
fn any_name(row: &Row) -> Result<VolumeName, BadRow> {
    row.text(0).trim().parse().map_err(|_| row.refuse(0, "a volume name such as train_1_a_2.nii.gz"))
}

/// The volume a row is about, which must be of the split.
fn name_of(row: &Row, split: Split) -> Result<VolumeName, BadRow> {
    let name = any_name(row)?;
    if name.split != split { Err(row.refuse(0, &format!("of split {}", split.name()))) } else { Ok(name) }
}

pub(super) fn reports(path: &Path, split: Split) -> Result<Keyed<VolumeName, Report>> {
    let table = Table::open(path, &REPORT_COLUMNS, Others::Refused, HINT)?;
    Ok(table.keyed(|row| {
        let text = |i| row.text(i).to_string();
        let report =
            Report { clinical_information: text(1), technique: text(2), findings: text(3), impressions: text(4) };
        Ok((name_of(row, split)?, report))
    }))
}

pub(super) fn labels(path: &Path, split: Split) -> Result<Keyed<VolumeName, [bool; labels::COUNT]>> {
    let table = Table::open(path, &label_columns(), Others::Refused, HINT)?;
    Ok(table.keyed(|row| {
        let mut labels = [false; labels::COUNT];
        for (i, label) in labels.iter_mut().enumerate() {
            *label = match row.text(i + 1).trim() {
                "0" | "0.0" => false,
                "1" | "1.0" => true,
                _ => return Err(row.refuse(i + 1, "0 or 1")),
            };
        }
        Ok((name_of(row, split)?, labels))
    }))
}

/// What turns stored values into HU and millimetres; a row that does not say it is bad.
pub(super) fn acquisitions(path: &Path) -> Result<Keyed<VolumeName, Acquisition>> {
    let table = Table::open(path, &METADATA_USED, Others::Ignored, HINT)?;
    Ok(table.keyed(|row| Ok((any_name(row)?, acquisition(row)?))))
}

/// The volumes of a metadata table. Acquisitions are needed where HU come from it; else a row may lack its own.
pub(super) fn metadata(
    path: &Path,
    split: Split,
    hu_source: HuSource,
) -> Result<Keyed<VolumeName, Option<Acquisition>>> {
    let table = Table::open(path, &METADATA_USED, Others::Ignored, HINT)?;
    Ok(table.keyed(|row| {
        let acquisition = match (acquisition(row), hu_source) {
            (Ok(acquisition), _) => Some(acquisition),
            (Err(_), HuSource::AlreadyHu) => None,
            (Err(bad), HuSource::CsvRescale) => return Err(bad),
        };
        Ok((name_of(row, split)?, acquisition))
    }))
}

fn acquisition(row: &Row) -> Result<Acquisition, BadRow> {
    let [slope, intercept, xy, z] = [1, 2, 3, 4];
    let positive = |v: &f64| *v > 0.0;
    let moderate = |v: &f64| v.abs() <= 1e6;
    // "[0.34, 0.34]": brackets off; both numbers are one, up to rounding.
    let cell = row.text(xy).trim().trim_start_matches(['[', '(']).trim_end_matches([']', ')']);
    let sizes: Option<Vec<f64>> = cell.split(',').map(|v| v.trim().parse().ok()).collect();
    let alike = |sizes: &&[f64]| sizes.iter().all(|size| positive(size) && (size / sizes[0] - 1.0).abs() < 0.01);
    let spacing_xy = sizes.as_deref().filter(alike).map(|sizes| sizes[0]).filter(|size| size.is_finite());
    let spacing_z = match row.text(z).trim() {
        "" => None,
        _ => Some(row.number(z).filter(positive).ok_or_else(|| row.refuse(z, "a positive number of mm, or empty"))?),
    };
    Ok(Acquisition {
        slope: row
            .number(slope)
            .filter(|v| *v != 0.0 && moderate(v))
            .ok_or_else(|| row.refuse(slope, "a number from -1e6 to 1e6 other than 0"))?,
        intercept: row
            .number(intercept)
            .filter(moderate)
            .ok_or_else(|| row.refuse(intercept, "a number from -1e6 to 1e6"))?,
        spacing_xy: spacing_xy
            .ok_or_else(|| row.refuse(xy, "one spacing in mm along both axes, such as [0.7, 0.7]"))?,
        spacing_z,
    })
}

/// CT-RATE's list of scans that show no chest: a name of a volume, scan or patient on each line.
pub(super) struct NoChest {
    path: PathBuf,
    names: HashSet<String>,
}

impl NoChest {
    /// The list, empty where there is no file.
    pub fn read(path: &Path) -> Result<Self> {
        let text = match files::read(path) {
            Ok(bytes) => String::from_utf8(bytes).map_err(|e| {
                let content = Content::of_start(e.as_bytes());
                Error::file(path, format!("is {content}, not text in UTF-8"), "save the list as that")
            })?,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(e) => return Err(Error::io(path, "read the list", &e)),
        };
        let lines = text.trim_start_matches('\u{feff}').lines().map(|line| line.trim().trim_end_matches(".nii.gz"));
        let names = lines.filter(|line| !line.is_empty()).map(str::to_string).collect();
        Ok(NoChest { path: path.into(), names })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn lists(&self, name: &VolumeName) -> bool {
        [name.to_string(), name.scan_name(), name.patient_name()].iter().any(|name| self.names.contains(name))
    }
}

impl CtRate {
    /// Writes the three tables, each atomically, creating folders. The metadata table has the full header of the
    /// released one; columns beside those of [`Acquisition`] and `Manufacturer` are empty.
    pub fn write(&self, manufacturer: &str) -> Result<()> {
        self.write_with(&|_, column| (column == "Manufacturer").then(|| manufacturer.to_string()))
    }

    /// As [`CtRate::write`], with `extra` giving the metadata cells that [`Acquisition`] does not, by the volume's
    /// position in `volumes` and the column's name.
    pub fn write_with(&self, extra: &dyn Fn(usize, &str) -> Option<String>) -> Result<()> {
        let places = Places { root: &self.root, split: self.split };
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
            write().map_err(|e| Error::file(&path, format!("cannot be written: {e}"), "this is a defect"))?;
            files::write_atomic(&path, csv.get_ref())
        };
        table(places.reports_place(), &REPORT_COLUMNS, &|_, volume, column| {
            let r = &volume.report;
            let section = match column {
                "ClinicalInformation_EN" => &r.clinical_information,
                "Technique_EN" => &r.technique,
                "Findings_EN" => &r.findings,
                _ => &r.impressions,
            };
            section.clone()
        })?;
        table(places.labels_place(), &label_columns(), &|_, volume, column| {
            let present = labels::NAMES.iter().zip(volume.labels).any(|(name, present)| *name == column && present);
            u8::from(present).to_string()
        })?;
        table(places.metadata_place(), &METADATA_COLUMNS, &|at, volume, column| {
            let cell =
                |text: &dyn Fn(&Acquisition) -> String| volume.acquisition.as_ref().map(text).unwrap_or_default();
            match column {
                "XYSpacing" => cell(&|a| format!("[{0}, {0}]", a.spacing_xy)),
                "RescaleSlope" => cell(&|a| a.slope.to_string()),
                "RescaleIntercept" => cell(&|a| a.intercept.to_string()),
                "ZSpacing" => cell(&|a| a.spacing_z.map_or(String::new(), |z| z.to_string())),
                _ => extra(at, column).unwrap_or_default(),
            }
        })
    }
}
