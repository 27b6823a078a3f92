//! The phantom teacher: embeddings made from what is known about a phantom patient, standing in for CT-CLIP.
//!
//! A patient is a vector of factors: presence with severity, side and zone of each finding, and traits of the body.
//! A fixed random projection with a mild nonlinearity, a modality offset and noise turns it into a 512-d unit vector.
//! The report's embedding shares the findings part, with severity rounded to its word, and knows no traits. Prompts
//! point along a finding's direction, imperfectly: zero-shot classification by the teacher itself has a ceiling below 1.

use super::Patient;
use super::findings::{Abnormality, Side, Zone};
use crate::philox::Rng;

/// Dimension of all embeddings.
pub const DIM: usize = 512;

/// How every output that uses these embeddings names their source.
pub const NAME: &str = "phantom teacher";

const TRAITS: usize = 6;
const FACTORS: usize = 3 * Abnormality::COUNT + TRAITS;
const HIDDEN: usize = 64;

/// The seed of the projection: part of the teacher, not of a data set.
const TEACHER_SEED: u64 = 0x7EAC_4E12;

/// Weights of the kinds of factor in the embedding.
const PRESENCE: f32 = 1.0;
const SIDE: f32 = 0.55;
const ZONE: f32 = 0.45;
const TRAIT: f32 = 0.30;
/// Standard deviation of what the teacher misjudges, per factor, and of its noise over all dimensions together.
const CT_JITTER: f32 = 0.20;
const REPORT_JITTER: f32 = 0.12;
const NOISE: f32 = 0.7;
/// Lengths of the offsets: shared by both modalities, and of each alone.
const COMMON_OFFSET: f32 = 0.9;
const MODALITY_OFFSET: f32 = 0.8;
/// Strength of the nonlinear part.
const NONLINEAR: f32 = 0.30;
/// Prompt direction: length, share of other findings' directions, and noise over all dimensions together.
const PROMPT: f32 = 0.8;
const PROMPT_ENTANGLEMENT: f32 = 0.10;
const PROMPT_NOISE: f32 = 0.5;

const STREAM_DIRECTIONS: u32 = 1;
const STREAM_HIDDEN: u32 = 2;
const STREAM_OFFSETS: u32 = 3;
const STREAM_PROMPTS: u32 = 4;
const STREAM_CT: u32 = 0x300;
const STREAM_REPORT: u32 = 0x301;

/// Prompt embeddings of the 18 abnormalities ("There is X." and "There is no X."), `[18][512]` row-major, unit rows.
#[derive(Clone, Debug, PartialEq)]
pub struct Prompts {
    pub positive: Vec<f32>,
    pub negative: Vec<f32>,
}

/// The fixed projection.
pub struct Teacher {
    /// `[FACTORS][DIM]`, unit rows.
    directions: Vec<f32>,
    /// `[HIDDEN][DIM]` in and out.
    hidden_in: Vec<f32>,
    hidden_out: Vec<f32>,
    common: Vec<f32>,
    ct_offset: Vec<f32>,
    report_offset: Vec<f32>,
}

impl Default for Teacher {
    fn default() -> Self {
        Self::new()
    }
}

/// `rows` Gaussian vectors whose expected length is `length`.
fn gaussian(rng: &mut Rng, rows: usize, length: f32) -> Vec<f32> {
    let sd = length / (DIM as f32).sqrt();
    (0..rows * DIM).map(|_| sd * rng.normal()).collect()
}

fn accumulate(into: &mut [f32], weight: f32, direction: &[f32]) {
    into.iter_mut().zip(direction).for_each(|(o, d)| *o += weight * d);
}

fn normalised(mut v: Vec<f32>) -> Vec<f32> {
    let length = v.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt().max(1e-12);
    v.iter_mut().for_each(|x| *x = (f64::from(*x) / length) as f32);
    v
}

impl Teacher {
    /// The one phantom teacher: its projection is a constant of the crate.
    pub fn new() -> Self {
        let stream = |s| Rng::new(TEACHER_SEED, 0, s);
        let mut hidden = stream(STREAM_HIDDEN);
        let mut offsets = stream(STREAM_OFFSETS);
        Teacher {
            directions: gaussian(&mut stream(STREAM_DIRECTIONS), FACTORS, 1.0),
            hidden_in: gaussian(&mut hidden, HIDDEN, (DIM as f32).sqrt()),
            hidden_out: gaussian(&mut hidden, HIDDEN, 1.0),
            common: gaussian(&mut offsets, 1, COMMON_OFFSET),
            ct_offset: gaussian(&mut offsets, 1, MODALITY_OFFSET),
            report_offset: gaussian(&mut offsets, 1, MODALITY_OFFSET),
        }
    }

    /// CT embedding of a patient: 512 values, unit length. A pure function of the patient.
    pub fn ct(&self, patient: &Patient) -> Vec<f32> {
        let mut rng = Rng::new(patient.seed, patient.index, STREAM_CT);
        let mut factors = finding_factors(patient, |severity| severity);
        factors.extend(traits(patient).map(|t| TRAIT * t));
        self.embed(&factors, CT_JITTER, &self.ct_offset, &mut rng)
    }

    /// Report embedding of a patient: 512 values, unit length. Knows what the report says and nothing else.
    pub fn report(&self, patient: &Patient) -> Vec<f32> {
        let mut rng = Rng::new(patient.seed, patient.index, STREAM_REPORT);
        let mut factors = finding_factors(patient, |severity| (severity * 3.0).floor().min(2.0) / 3.0 + 1.0 / 6.0);
        factors.extend([0.0; TRAITS]);
        self.embed(&factors, REPORT_JITTER, &self.report_offset, &mut rng)
    }

    /// Prompt embeddings.
    pub fn prompts(&self) -> Prompts {
        let mut rng = Rng::new(TEACHER_SEED, 0, STREAM_PROMPTS);
        let (mut positive, mut negative) = (Vec::new(), Vec::new());
        for label in 0..Abnormality::COUNT {
            let mut direction = gaussian(&mut rng, 1, PROMPT_NOISE);
            for other in 0..Abnormality::COUNT {
                let weight = if other == label { 1.0 } else { PROMPT_ENTANGLEMENT * rng.normal() };
                accumulate(&mut direction, weight, self.direction(other));
            }
            // What both wordings share: the text side, and the subject of the sentence.
            let mut subject = gaussian(&mut rng, 1, 0.3);
            accumulate(&mut subject, 1.0, &self.common);
            accumulate(&mut subject, 1.0, &self.report_offset);
            for (sign, into) in [(PROMPT, &mut positive), (-PROMPT, &mut negative)] {
                let mut prompt = subject.clone();
                accumulate(&mut prompt, sign, &direction);
                into.extend(normalised(prompt));
            }
        }
        Prompts { positive, negative }
    }

    fn direction(&self, factor: usize) -> &[f32] {
        &self.directions[factor * DIM..(factor + 1) * DIM]
    }

    fn embed(&self, factors: &[f32], jitter: f32, offset: &[f32], rng: &mut Rng) -> Vec<f32> {
        let mut linear = vec![0.0; DIM];
        for (k, factor) in factors.iter().enumerate() {
            accumulate(&mut linear, factor + jitter * rng.normal(), self.direction(k));
        }
        let mut out = gaussian(rng, 1, NOISE);
        for (into, from) in self.hidden_in.chunks_exact(DIM).zip(self.hidden_out.chunks_exact(DIM)) {
            let drive: f32 = into.iter().zip(&linear).map(|(a, b)| a * b).sum();
            accumulate(&mut out, NONLINEAR * drive.tanh() / (HIDDEN as f32).sqrt(), from);
        }
        accumulate(&mut out, 1.0, &linear);
        accumulate(&mut out, 1.0, &self.common);
        accumulate(&mut out, 1.0, offset);
        normalised(out)
    }
}

/// Presence with severity, side and zone of every abnormality, weighted, about their means: 3 x 18 values.
fn finding_factors(patient: &Patient, severity: impl Fn(f32) -> f32) -> Vec<f32> {
    let mut factors = vec![0.0; 3 * Abnormality::COUNT];
    let (presence, rest) = factors.split_at_mut(Abnormality::COUNT);
    let (side, zone) = rest.split_at_mut(Abnormality::COUNT);
    for kind in Abnormality::ALL {
        presence[kind.index()] = -PRESENCE * 0.8 * kind.prevalence();
    }
    for finding in &patient.findings {
        let i = finding.kind.index();
        presence[i] += PRESENCE * (0.6 + 0.4 * severity(finding.severity));
        side[i] = SIDE
            * match finding.side {
                Side::Left => 1.0,
                Side::Right => -1.0,
                Side::Both | Side::Midline => 0.0,
            };
        zone[i] = ZONE
            * match finding.zone {
                Zone::Upper => 1.0,
                Zone::Lower => -1.0,
                Zone::Middle | Zone::Whole => 0.0,
            };
    }
    factors
}

/// What a CT shows of the body beside the findings, each about zero with unit spread.
fn traits(patient: &Patient) -> [f32; TRAITS] {
    let body = &patient.anatomy;
    [
        if body.sex == super::Sex::Male { 1.0 } else { -1.0 },
        (body.age as f32 - 55.0) / 20.0,
        body.habitus,
        body.stature,
        body.inspiration,
        (body.heart - 1.06) / 0.15,
    ]
}

/// Embeddings of many patients, row-major `[N][512]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Embeddings {
    pub ct: Vec<f32>,
    pub report: Vec<f32>,
}

/// CT and report embeddings of `patients` by the phantom teacher.
pub fn embed(patients: &[Patient]) -> Embeddings {
    let teacher = Teacher::new();
    let mut out =
        Embeddings { ct: Vec::with_capacity(patients.len() * DIM), report: Vec::with_capacity(patients.len() * DIM) };
    for patient in patients {
        out.ct.extend(teacher.ct(patient));
        out.report.extend(teacher.report(patient));
    }
    out
}
