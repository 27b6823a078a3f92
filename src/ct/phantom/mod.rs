//! A procedural chest-CT phantom: patients with anatomy, posture, findings, reports and labels, made from two numbers.
//!
//! Patient `i` of seed `s` is a pure function of `(s, i)` and the configuration: the same bytes on any number of
//! threads. It is demonstration and test data, drawn from primitives; it is not a model of disease.
//!
//! ```
//! use x2ct::ct::phantom::{Patient, PhantomConfig};
//! let patient = Patient::new(1, 0, &PhantomConfig::default());
//! let volume = patient.voxelise([32, 32, 32], [12.0, 12.0, 12.0])?;
//! assert_eq!(volume.voxels.len(), 32 * 32 * 32);
//! println!("{}", patient.report().findings);
//! # Ok::<(), x2ct::Error>(())
//! ```

mod anatomy;
mod findings;
mod lesions;
mod organs;
pub mod report;
mod shapes;
pub mod teacher;
mod voxelise;

pub use anatomy::{Anatomy, Sex};
pub use findings::{Abnormality, Finding, Grade, Side, Zone};
pub use report::Report;
pub(crate) use voxelise::check_grid;

use crate::ct::CtVolume;
use crate::philox::Rng;

/// The coarse grid on which the defaults are calibrated: a field of view of 320 mm, radiographs of 64 x 64 pixels. A
/// finer grid over the same field shows the same patients, sharper.
pub const COARSE_SHAPE: [usize; 3] = [64; 3];
/// Millimetres; see [`COARSE_SHAPE`].
pub const COARSE_SPACING: [f64; 3] = [5.0; 3];

/// How far patients differ in posture, and how noisy the scanner is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PhantomConfig {
    /// Patients are shifted by up to this much along x, y, z (uniform), millimetres.
    pub translation_mm: [f32; 3],
    /// Tilt about x, lean about y, roll about z, up to this much either way (uniform), degrees.
    pub rotation_deg: [f32; 3],
    /// Overall size (uniform between the two); build varies on top of it.
    pub scale: (f32, f32),
    /// Standard deviation of the voxel noise, HU, before a per-patient factor in 0.5..1.5.
    pub noise_hu: f32,
}

impl Default for PhantomConfig {
    fn default() -> Self {
        PhantomConfig {
            translation_mm: [26.0, 14.0, 30.0],
            rotation_deg: [6.0, 9.0, 10.0],
            scale: (0.80, 1.08),
            noise_hu: 18.0,
        }
    }
}

/// One phantom patient: body and findings, from which volume, labels, report and embeddings follow.
#[derive(Clone, Debug)]
pub struct Patient {
    pub seed: u64,
    pub index: u64,
    pub anatomy: Anatomy,
    /// In label order, at most one of a kind.
    pub findings: Vec<Finding>,
    noise_hu: f32,
}

const SCANNER: u32 = 6;

impl Patient {
    /// Patient `index` of `seed`.
    pub fn new(seed: u64, index: u64, config: &PhantomConfig) -> Self {
        let drawn = findings::draw(seed, index);
        Self::assemble(seed, index, config, drawn.findings, drawn.ageing)
    }

    /// The same patient with other findings (one of a kind at most; later duplicates are ignored). Body, posture and
    /// noise keep their draws, so that two such patients differ by the findings alone.
    pub fn with_findings(seed: u64, index: u64, config: &PhantomConfig, findings: &[Finding]) -> Self {
        let mut kept: Vec<Finding> = Vec::new();
        for finding in findings {
            if kept.iter().all(|k| k.kind != finding.kind) {
                kept.push(*finding);
            }
        }
        kept.sort_by_key(|f| f.kind);
        Self::assemble(seed, index, config, kept, findings::draw(seed, index).ageing)
    }

    fn assemble(seed: u64, index: u64, config: &PhantomConfig, findings: Vec<Finding>, ageing: f32) -> Self {
        let anatomy = Anatomy::draw(seed, index, config, &findings, ageing);
        let noise_hu = config.noise_hu * Rng::new(seed, index, SCANNER).range(0.5, 1.5);
        Patient { seed, index, anatomy, findings, noise_hu }
    }

    /// The CT volume: `shape` voxels of `spacing` millimetres along x (left), y (posterior), z (superior), centred on
    /// the scanner's isocentre. HU in [-1024, 3071]. Slices run in parallel.
    ///
    /// # Errors
    /// An edge of 0 or above 2048, or a spacing outside 0.05 to 100 mm.
    pub fn voxelise(&self, shape: [usize; 3], spacing: [f64; 3]) -> crate::Result<CtVolume> {
        voxelise::voxelise(self, shape, spacing)
    }

    /// Which of the 18 abnormalities the patient has, in CT-RATE's order.
    pub fn labels(&self) -> [bool; Abnormality::COUNT] {
        let mut labels = [false; Abnormality::COUNT];
        self.findings.iter().for_each(|f| labels[f.kind.index()] = true);
        labels
    }

    /// The finding of a kind, if the patient has it.
    pub fn finding(&self, kind: Abnormality) -> Option<&Finding> {
        self.findings.iter().find(|f| f.kind == kind)
    }

    /// The radiology report.
    pub fn report(&self) -> Report {
        report::write(&self.findings, self.seed, self.index)
    }
}
