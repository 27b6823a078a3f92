//! The phantom as a data set in RadChest-CT's form: `.npz` volumes, the table of voxel sizes, and tables of labels by abnormality and
//! location.
//!
//! A finding is labelled as every abnormality that it honestly is: what CT-RATE's label stands for in the built-in map `radchest`
//! ([`LabelMap`](crate::data::label_map::LabelMap)), and beside it `groundglass` (the phantom's lung opacity is drawn and reported so),
//! `coronary_artery_disease` and `atherosclerosis` (calcium in the coronary arteries and the aorta), `pacemaker_or_defib` or
//! `sternotomy` (its devices). Mosaic attenuation has none. All other abnormalities are absent. Locations are the zones of the lungs and
//! the organs that a finding can be in; the real tables know more.

use std::path::Path;

use rayon::prelude::*;

use super::{Counter, Form, MANUFACTURER, PhantomDataset, Shown, claim, embed};
use crate::ct::phantom::{Abnormality, Finding, Patient, Side, Zone};
use crate::ct::radchest::{self, Acquisition};
use crate::ct::{AxisCodes, CtVolume, ReadOptions, read_with};
use crate::data::cache::EmbeddingCache;
use crate::data::provenance::of_ct;
use crate::data::radchest::{METADATA, Part};
use crate::data::radchest_labels::ABNORMALITIES;
use crate::files::write_atomic;
use crate::{Error, Result};

/// The locations that columns are made of.
pub const LOCATIONS: [&str; 12] = [
    "right_upper",
    "right_mid",
    "right_lower",
    "right_lung",
    "left_upper",
    "left_mid",
    "left_lower",
    "left_lung",
    "heart",
    "aorta",
    "mediastinum",
    "other_location",
];

/// A split that was written.
pub struct Written {
    pub split: Part,
    /// Ids, as tables and files have them.
    pub ids: Vec<String>,
    pub patients: Vec<Patient>,
}

/// Id of patient `number` (from 1) of a split.
pub fn id(split: Part, number: u32) -> String {
    let prefix = match split {
        Part::Train => "trn",
        Part::Valid => "val",
        Part::Test => "tst",
    };
    format!("{prefix}{number:05}")
}

/// Patient `number` of a split: none of those of the form of CT-RATE.
pub fn patient(set: &PhantomDataset, split: Part, number: u32) -> Patient {
    let first = (2 + split as u64) << 32;
    Patient::new(set.seed, first + u64::from(number.max(1) - 1), &set.phantom)
}

/// Writes a data set below `root`, and `test` patients as its test split; otherwise as [`write_dataset`](super::write_dataset).
///
/// # Errors
/// Those of [`write_dataset`](super::write_dataset); voxels that are no cubes.
pub fn write_radchest(
    root: impl AsRef<Path>,
    set: &PhantomDataset,
    test: u32,
    progress: &(dyn Fn(usize, usize) -> Result<()> + Sync),
) -> Result<Vec<Written>> {
    let root = root.as_ref();
    let counts = [(Part::Train, set.train), (Part::Valid, set.valid), (Part::Test, test)];
    let total = counts.iter().map(|(_, count)| *count as usize).sum();
    PhantomDataset { train: set.train.max(test), ..*set }.check()?;
    if set.spacing != [set.spacing[0]; 3] {
        let problem = format!("{:?} mm are no cubes", set.spacing);
        return Err(Error::argument("phantom spacing", problem, "give one edge for all axes"));
    }
    claim(root, set, Form::RadChest)?;
    let (counter, mut splits) = (Counter::new(total, progress), Vec::new());
    for (split, count) in counts {
        let patients: Vec<Patient> = (1..=count)
            .into_par_iter()
            .map(|number| {
                let patient = patient(set, split, number);
                let path = root.join(format!("{}.npz", id(split, number)));
                // What was damaged or exchanged since is made again.
                let made = as_stored(patient.voxelise(set.shape, set.spacing)?, set)?;
                if !read(&path, set).is_ok_and(|kept| (kept.shape, &kept.voxels) == (made.shape, &made.voxels)) {
                    radchest::write(&path, &made)?;
                }
                counter.one_more()?;
                Ok(patient)
            })
            .collect::<Result<_>>()?;
        if !patients.is_empty() {
            splits.push(Written { split, ids: (1..=count).map(|number| id(split, number)).collect(), patients });
        }
    }
    let rows = splits
        .iter()
        .flat_map(|split| &split.ids)
        .map(|id| vec![format!("{id}.npz"), MANUFACTURER.into(), "1".into(), "0".into(), set.spacing[0].to_string()]);
    let header = ["VolumeAcc_DEID", "Manufacturer", "orig_slope", "orig_inter", "final_spacing"].map(String::from);
    write_table(&root.join(METADATA), header.into(), rows)?;
    for Written { split, ids, patients } in &splits {
        let rows = ids.iter().zip(patients).map(|(id, patient)| {
            let cells = labels(patient).into_iter().map(|present| u8::from(present).to_string());
            [id.clone()].into_iter().chain(cells).collect()
        });
        let header = ["NoteAcc_DEID".to_string()].into_iter().chain(columns()).collect();
        write_table(&root.join(split.labels()), header, rows)?;
    }
    Ok(splits)
}

/// The phantom teacher's embeddings of a split, whose volumes are read for the digests of the CTs.
///
/// # Errors
/// A volume that cannot be read.
pub fn radchest_cache(root: &Path, set: &PhantomDataset, split: &Written) -> Result<EmbeddingCache> {
    let cts = split.ids.par_iter().map(|id| Ok(of_ct(&read(&root.join(format!("{id}.npz")), set)?)));
    let cts = cts.collect::<Result<_>>()?;
    let shown = |(id, patient): (&String, &Patient)| Shown { id: id.clone(), text: super::text(patient) };
    let shown = split.ids.iter().zip(&split.patients).map(shown).collect();
    Ok(embed(set, shown, &split.patients, cts))
}

/// What the table says of every volume.
fn acquisition(set: &PhantomDataset) -> Acquisition {
    Acquisition { spacing: set.spacing[0], slope: 1.0 }
}

fn read(path: &Path, set: &PhantomDataset) -> Result<CtVolume> {
    read_with(path, &ReadOptions { radchest: Some(acquisition(set)), ..Default::default() })
}

/// A volume as files of the data set hold it: slice 0 at the head.
fn as_stored(volume: CtVolume, set: &PhantomDataset) -> Result<CtVolume> {
    radchest::stored(volume, acquisition(set), AxisCodes::LPS)
}

/// Columns behind the id.
pub fn columns() -> Vec<String> {
    let of = |name: &&str| LOCATIONS.map(|location| format!("{name}*{location}"));
    ABNORMALITIES.iter().flat_map(of).collect()
}

/// Which of the columns a patient has.
pub fn labels(patient: &Patient) -> Vec<bool> {
    let mut present = vec![false; ABNORMALITIES.len() * LOCATIONS.len()];
    for finding in &patient.findings {
        for name in names(finding) {
            for location in locations(finding) {
                let place = |all: &[&str], one: &str| all.iter().position(|other| *other == one);
                if let (Some(name), Some(location)) = (place(&ABNORMALITIES, name), place(&LOCATIONS, location)) {
                    present[name * LOCATIONS.len() + location] = true;
                }
            }
        }
    }
    present
}

/// The abnormalities of RadChest-CT that a finding is.
fn names(finding: &Finding) -> &'static [&'static str] {
    match (finding.kind, finding.side) {
        (Abnormality::MedicalMaterial, Side::Midline) => &["sternotomy"],
        (Abnormality::MedicalMaterial, _) => &["pacemaker_or_defib"],
        (Abnormality::ArterialWallCalcification, _) => &["calcification", "atherosclerosis"],
        (Abnormality::Cardiomegaly, _) => &["cardiomegaly"],
        (Abnormality::PericardialEffusion, _) => &["pericardial_effusion"],
        (Abnormality::CoronaryArteryWallCalcification, _) => {
            &["calcification", "atherosclerosis", "coronary_artery_disease"]
        }
        (Abnormality::HiatalHernia, _) => &["hernia"],
        (Abnormality::Lymphadenopathy, _) => &["lymphadenopathy"],
        (Abnormality::Emphysema, _) => &["emphysema"],
        (Abnormality::Atelectasis, _) => &["atelectasis"],
        (Abnormality::LungNodule, _) => &["nodule"],
        (Abnormality::LungOpacity, _) => &["opacity", "groundglass"],
        (Abnormality::PulmonaryFibroticSequela, _) => &["fibrosis"],
        (Abnormality::PleuralEffusion, _) => &["pleural_effusion"],
        (Abnormality::MosaicAttenuationPattern, _) => &[],
        (Abnormality::PeribronchialThickening, _) => &["bronchial_wall_thickening"],
        (Abnormality::Consolidation, _) => &["consolidation"],
        (Abnormality::Bronchiectasis, _) => &["bronchiectasis"],
        (Abnormality::InterlobularSeptalThickening, _) => &["septal_thickening"],
    }
}

/// Where a finding is.
fn locations(finding: &Finding) -> Vec<&'static str> {
    match finding.kind {
        Abnormality::ArterialWallCalcification => return vec!["aorta"],
        Abnormality::Cardiomegaly | Abnormality::PericardialEffusion | Abnormality::CoronaryArteryWallCalcification => {
            return vec!["heart"];
        }
        Abnormality::HiatalHernia => return vec!["mediastinum"],
        Abnormality::Lymphadenopathy if finding.side == Side::Midline => return vec!["mediastinum"],
        _ => {}
    }
    let of_zone: fn(bool) -> &'static str = match finding.zone {
        Zone::Upper => |left| if left { "left_upper" } else { "right_upper" },
        Zone::Middle => |left| if left { "left_mid" } else { "right_mid" },
        Zone::Lower => |left| if left { "left_lower" } else { "right_lower" },
        Zone::Whole => |left| if left { "left_lung" } else { "right_lung" },
    };
    match finding.side {
        Side::Left => vec![of_zone(true)],
        Side::Right => vec![of_zone(false)],
        Side::Both => vec![of_zone(true), of_zone(false)],
        Side::Midline => vec!["other_location"],
    }
}

pub(super) fn write_table(path: &Path, header: Vec<String>, rows: impl Iterator<Item = Vec<String>>) -> Result<()> {
    let refuse = |problem: String| Error::file(path, problem, "this is a defect");
    let mut csv = csv::Writer::from_writer(Vec::new());
    for record in [header].into_iter().chain(rows) {
        csv.write_record(record).map_err(|e| refuse(e.to_string()))?;
    }
    write_atomic(path, &csv.into_inner().map_err(|e| refuse(e.to_string()))?)
}
