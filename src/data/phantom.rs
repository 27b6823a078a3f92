//! The phantom as a data set in CT-RATE layout: corrected volumes (int16 HU, axis codes L, P, S), reports, labels and
//! metadata, for anything that reads CT-RATE. In other forms: [`radchest`], [`mimic`].

pub mod mimic;
pub mod radchest;

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use rayon::prelude::*;
use serde_json::json;

use super::cache::{EmbeddingCache, Embeddings};
use super::ct_rate::{Acquisition, CtRate, HuSource, Report, Split, Volume, VolumeName};
use super::cts::Cts;
use super::provenance::{Provenance, fields, of_ct, of_reports};
use crate::ct::nifti;
use crate::ct::phantom::teacher::{self, Teacher};
use crate::ct::phantom::{Patient, PhantomConfig, Sex, check_grid};
use crate::files::{create_folder, write_atomic};
use crate::{Error, Result};

/// What stands in the table's Manufacturer column, so that no phantom is taken for a patient.
pub const MANUFACTURER: &str = "x2ct phantom";

/// Size and make of a phantom data set.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PhantomDataset {
    pub seed: u64,
    /// Patients of the training and of the validation split; one scan and one reconstruction each.
    pub train: u32,
    pub valid: u32,
    /// Voxels along x (left), y (posterior), z (superior).
    pub shape: [usize; 3],
    /// Millimetres along them; the first two are equal, as CT-RATE's tables know only one.
    pub spacing: [f64; 3],
    pub phantom: PhantomConfig,
}

impl Default for PhantomDataset {
    fn default() -> Self {
        let phantom = PhantomConfig::default();
        PhantomDataset { seed: 1, train: 64, valid: 16, shape: [128; 3], spacing: [2.5; 3], phantom }
    }
}

impl PhantomDataset {
    /// Refuses sizes that make no data set.
    ///
    /// # Errors
    /// No patients, unequal in-plane spacing, a grid that [`Patient::voxelise`] refuses.
    pub fn check(&self) -> Result<()> {
        if self.train == 0 && self.valid == 0 {
            return Err(Error::argument("phantom data set", "no patients were asked for", "ask for at least one"));
        }
        let [x, y, _] = self.spacing;
        if x != y {
            let problem = format!("{x} and {y} mm in plane differ");
            return Err(Error::argument("phantom spacing", problem, "CT-RATE's tables hold one in-plane spacing"));
        }
        check_grid(self.shape, self.spacing)
    }
}

/// Patient `number` (from 1) of a split. Does not depend on how many patients a set holds, and no patient is in both
/// splits.
pub fn patient(seed: u64, split: Split, number: u32, config: &PhantomConfig) -> Patient {
    let first = match split {
        Split::Train => 0,
        Split::Valid => 1 << 32,
    };
    Patient::new(seed, first + u64::from(number.max(1) - 1), config)
}

/// Writes a data set below `root`, patients in parallel, and returns its splits (those that are not empty, train
/// first). `progress` gets (volumes written, volumes in all) after each volume, from any thread; its error stops the
/// run. Tables are written last: a set that was stopped has none. Written again, a set keeps the volumes that are its own.
///
/// # Errors
/// Those of [`PhantomDataset::check`], a root that holds another phantom set
/// (`phantom.json` says which), or a file that cannot be written.
pub fn write_dataset(
    root: impl AsRef<Path>,
    set: &PhantomDataset,
    progress: &(dyn Fn(usize, usize) -> Result<()> + Sync),
) -> Result<Vec<CtRate>> {
    let root = root.as_ref();
    let total = set.train as usize + set.valid as usize;
    set.check()?;
    claim(root, set, Form::CtRate)?;
    let counter = Counter::new(total, progress);
    let mut splits = Vec::new();
    for (split, count) in [(Split::Train, set.train), (Split::Valid, set.valid)] {
        let rows: Vec<(Volume, Patient)> = (1..=count)
            .into_par_iter()
            .map(|number| {
                let patient = patient(set.seed, split, number, &set.phantom);
                let volume = row(set, split, number, &patient);
                let path = volume.name.path(root, HuSource::AlreadyHu);
                path.parent().map_or(Ok(()), create_folder)?;
                // What was damaged or exchanged since is made again.
                let made = patient.voxelise(set.shape, set.spacing)?;
                if !nifti::read(&path).is_ok_and(|kept| (kept.shape, &kept.voxels) == (made.shape, &made.voxels)) {
                    nifti::write(&path, &made)?;
                }
                counter.one_more()?;
                Ok((volume, patient))
            })
            .collect::<Result<_>>()?;
        if rows.is_empty() {
            continue;
        }
        let (volumes, patients): (Vec<Volume>, Vec<Patient>) = rows.into_iter().unzip();
        let data = CtRate {
            root: root.into(),
            split,
            hu_source: HuSource::AlreadyHu,
            volumes,
            left_out: Vec::new(),
            bad_rows: Vec::new(),
        };
        splits.push((data, patients));
    }
    for (data, patients) in &splits {
        data.write_with(&|row, column| {
            let patient = &patients[row];
            match column {
                "Manufacturer" => Some(MANUFACTURER.to_string()),
                "PatientSex" => Some(if patient.anatomy.sex == Sex::Male { "M" } else { "F" }.to_string()),
                "PatientAge" => Some(format!("{:03}Y", patient.anatomy.age)),
                "PatientPosition" => Some("HFS".to_string()),
                "Columns" => Some(set.shape[0].to_string()),
                "Rows" => Some(set.shape[1].to_string()),
                "NumberofSlices" => Some(set.shape[2].to_string()),
                _ => None,
            }
        })?;
    }
    Ok(splits.into_iter().map(|(data, _)| data).collect())
}

/// The phantom teacher's embeddings of a split that [`write_dataset`] wrote, whose volumes are read for the digests of the CTs.
///
/// # Errors
/// A volume that cannot be read.
pub fn cache(set: &PhantomDataset, data: &CtRate) -> Result<EmbeddingCache> {
    let patient = |volume: &Volume| patient(set.seed, data.split, volume.name.patient, &set.phantom);
    let patients: Vec<Patient> = data.volumes.iter().map(patient).collect();
    let cts = data.volumes.par_iter().map(|volume| Ok(of_ct(&nifti::read(data.path(volume))?)));
    let cts = cts.collect::<Result<_>>()?;
    let shown = |volume: &Volume| Shown { id: volume.name.to_string(), text: volume.report.text() };
    Ok(embed(set, data.volumes.iter().map(shown).collect(), &patients, cts))
}

/// What a data set shows of a patient.
struct Shown {
    id: String,
    /// The report.
    text: String,
}

/// The report of a patient as one text.
fn text(patient: &Patient) -> String {
    let report = patient.report();
    format!("{} {}", report.findings, report.impressions)
}

/// The phantom teacher's embeddings of patients; `cts` are the digests of their CTs, or none.
fn embed(set: &PhantomDataset, shown: Vec<Shown>, patients: &[Patient], cts: Vec<String>) -> EmbeddingCache {
    let teacher = Teacher::new();
    let prompts = teacher.prompts();
    let reports = of_reports(shown.iter().map(|shown| (&shown.id, &shown.text)));
    let embeddings = Embeddings {
        ct: patients.iter().flat_map(|patient| teacher.ct(patient)).collect(),
        report: patients.iter().flat_map(|patient| teacher.report(patient)).collect(),
        ids: shown.into_iter().map(|shown| shown.id).collect(),
        dim: teacher::DIM,
        prompts_positive: prompts.positive,
        prompts_negative: prompts.negative,
        teacher: teacher::NAME.into(),
        checkpoint_digest: teacher_digest(),
        preprocessing_digest: blake3::hash(set.description(Form::CtRate).as_bytes()).to_hex().to_string(),
        volume_digests: Vec::new(),
        report_digests: Vec::new(),
        cts: Cts::new(cts),
        made: Provenance { from: [("reports".to_string(), reports)].into(), ..made(&set.phantom) },
    };
    embeddings.into()
}

/// Counts what threads have done, and tells.
struct Counter<'a> {
    done: AtomicUsize,
    total: usize,
    progress: &'a (dyn Fn(usize, usize) -> Result<()> + Sync),
}

impl<'a> Counter<'a> {
    fn new(total: usize, progress: &'a (dyn Fn(usize, usize) -> Result<()> + Sync)) -> Self {
        Counter { done: AtomicUsize::new(0), total, progress }
    }

    fn one_more(&self) -> Result<()> {
        (self.progress)(self.done.fetch_add(1, Ordering::Relaxed) + 1, self.total)
    }
}

/// What stands for the digest of a checkpoint.
pub(super) fn teacher_digest() -> String {
    blake3::hash(b"x2ct phantom teacher 1").to_hex().to_string()
}

/// How the phantom teacher's embeddings are made: who the patients are does not matter, what can be wrong with them does.
pub(super) fn made(config: &PhantomConfig) -> Provenance {
    Provenance::made(fields(json!({"phantom": format!("{config:?}")})), [])
}

impl PhantomDataset {
    /// All that decides what a patient is, but not how many there are: a set can grow.
    fn description(&self, form: Form) -> String {
        let PhantomDataset { seed, shape, spacing, phantom, .. } = self;
        let version = env!("CARGO_PKG_VERSION");
        let mut json = json!({"x2ct": version, "seed": seed, "shape": shape, "spacing": spacing, "phantom": format!("{phantom:?}")});
        match form {
            Form::CtRate => {}
            Form::RadChest => json["form"] = json!("radchest"),
            Form::Mimic => json["form"] = json!("mimic"),
        }
        format!("{json:#}\n")
    }
}

/// The form of a data set.
#[derive(Clone, Copy)]
enum Form {
    CtRate,
    RadChest,
    Mimic,
}

/// Makes `root` the place of this set, or says whose it is: two sets in one folder would mix silently.
fn claim(root: &Path, set: &PhantomDataset, form: Form) -> Result<()> {
    create_folder(root)?;
    let (path, description) = (root.join("phantom.json"), set.description(form));
    match std::fs::read_to_string(&path) {
        Ok(found) if found == description => Ok(()),
        Ok(_) => Err(Error::file(&path, "is of a phantom set with other settings", "use another folder")),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => write_atomic(&path, description.as_bytes()),
        Err(e) => Err(Error::io(&path, "read", &e)),
    }
}

fn row(set: &PhantomDataset, split: Split, number: u32, patient: &Patient) -> Volume {
    let text = patient.report();
    Volume {
        name: VolumeName { split, patient: number, scan: "a".into(), reconstruction: 1 },
        report: Report {
            clinical_information: "Phantom.".into(),
            technique: "Procedural chest CT.".into(),
            findings: text.findings,
            impressions: text.impressions,
        },
        labels: patient.labels(),
        acquisition: Some(Acquisition {
            slope: 1.0,
            intercept: 0.0,
            spacing_xy: set.spacing[0],
            spacing_z: Some(set.spacing[2]),
        }),
    }
}
