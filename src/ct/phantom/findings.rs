//! The 18 CT-RATE abnormalities and how a patient comes by them: a Gaussian copula over four hidden causes (heart
//! failure, airway disease, age, infection), so that findings keep the company they keep in a clinic.

use crate::labels;
use crate::philox::Rng;

/// The abnormalities of CT-RATE, in the order of its label files.
#[derive(Clone, Copy, PartialEq, Eq, Debug, PartialOrd, Ord)]
pub enum Abnormality {
    MedicalMaterial,
    ArterialWallCalcification,
    Cardiomegaly,
    PericardialEffusion,
    CoronaryArteryWallCalcification,
    HiatalHernia,
    Lymphadenopathy,
    Emphysema,
    Atelectasis,
    LungNodule,
    LungOpacity,
    PulmonaryFibroticSequela,
    PleuralEffusion,
    MosaicAttenuationPattern,
    PeribronchialThickening,
    Consolidation,
    Bronchiectasis,
    InterlobularSeptalThickening,
}

use Abnormality::*;

impl Abnormality {
    /// Number of abnormalities.
    pub const COUNT: usize = labels::COUNT;

    /// All of them, in label order.
    pub const ALL: [Abnormality; Self::COUNT] = [
        MedicalMaterial,
        ArterialWallCalcification,
        Cardiomegaly,
        PericardialEffusion,
        CoronaryArteryWallCalcification,
        HiatalHernia,
        Lymphadenopathy,
        Emphysema,
        Atelectasis,
        LungNodule,
        LungOpacity,
        PulmonaryFibroticSequela,
        PleuralEffusion,
        MosaicAttenuationPattern,
        PeribronchialThickening,
        Consolidation,
        Bronchiectasis,
        InterlobularSeptalThickening,
    ];

    /// Position in the label vector.
    pub fn index(self) -> usize {
        self as usize
    }

    /// The column name of CT-RATE's label files.
    pub fn name(self) -> &'static str {
        labels::NAMES[self.index()]
    }

    /// Share of patients that show it. The order follows CT-RATE; rare ones are made more common so that a small
    /// training set holds enough of each.
    pub fn prevalence(self) -> f32 {
        [0.18, 0.30, 0.22, 0.17, 0.28, 0.18, 0.26, 0.24, 0.26, 0.40, 0.34, 0.27, 0.25, 0.18, 0.19, 0.24, 0.19, 0.18]
            [self.index()]
    }

    /// Loadings on (heart failure, airway disease, age, infection). The rest of the unit variance is the finding's own.
    fn loadings(self) -> [f32; 4] {
        match self {
            MedicalMaterial => [0.30, 0.0, 0.30, 0.0],
            ArterialWallCalcification => [0.10, 0.0, 0.70, 0.0],
            Cardiomegaly => [0.65, 0.0, 0.20, 0.0],
            PericardialEffusion => [0.45, 0.0, 0.0, 0.10],
            CoronaryArteryWallCalcification => [0.15, 0.0, 0.65, 0.0],
            HiatalHernia => [0.0, 0.0, 0.35, 0.0],
            Lymphadenopathy => [0.0, 0.10, 0.0, 0.35],
            Emphysema => [0.0, 0.60, 0.15, 0.0],
            Atelectasis => [0.20, 0.0, 0.0, 0.25],
            LungNodule => [0.0, 0.20, 0.10, 0.0],
            LungOpacity => [0.15, 0.0, 0.0, 0.50],
            PulmonaryFibroticSequela => [0.0, 0.35, 0.20, 0.0],
            PleuralEffusion => [0.55, 0.0, 0.0, 0.30],
            MosaicAttenuationPattern => [0.0, 0.40, 0.0, 0.0],
            PeribronchialThickening => [0.0, 0.50, 0.0, 0.15],
            Consolidation => [0.0, 0.0, 0.0, 0.60],
            Bronchiectasis => [0.0, 0.50, 0.0, 0.0],
            InterlobularSeptalThickening => [0.50, 0.15, 0.0, 0.0],
        }
    }

    /// Chances of (left, right, both sides, midline).
    fn sides(self) -> [f32; 4] {
        match self {
            ArterialWallCalcification | Cardiomegaly | PericardialEffusion | CoronaryArteryWallCalcification => {
                [0.0, 0.0, 0.0, 1.0]
            }
            HiatalHernia => [0.0, 0.0, 0.0, 1.0],
            MedicalMaterial => [0.35, 0.30, 0.0, 0.35],
            Lymphadenopathy => [0.30, 0.40, 0.0, 0.30],
            Emphysema | MosaicAttenuationPattern => [0.0, 0.0, 1.0, 0.0],
            PeribronchialThickening | InterlobularSeptalThickening => [0.25, 0.25, 0.50, 0.0],
            PleuralEffusion => [0.33, 0.37, 0.30, 0.0],
            _ => [0.40, 0.42, 0.18, 0.0],
        }
    }

    /// Chances of (upper, middle, lower) zone; all zero where the place is given by the organ itself.
    fn zones(self) -> [f32; 3] {
        match self {
            Emphysema => [0.65, 0.0, 0.35],
            Atelectasis => [0.20, 0.20, 0.60],
            LungNodule | LungOpacity => [0.34, 0.33, 0.33],
            Consolidation => [0.30, 0.25, 0.45],
            PulmonaryFibroticSequela => [0.65, 0.0, 0.35],
            Bronchiectasis => [0.25, 0.30, 0.45],
            InterlobularSeptalThickening => [0.30, 0.0, 0.70],
            _ => [0.0; 3],
        }
    }
}

/// Side of the patient's body.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Side {
    Left,
    Right,
    Both,
    Midline,
}

impl Side {
    /// The sides of the body it covers: +1 left, -1 right.
    pub fn signs(self) -> &'static [f32] {
        match self {
            Side::Left => &[1.0],
            Side::Right => &[-1.0],
            Side::Both => &[-1.0, 1.0],
            Side::Midline => &[],
        }
    }
}

/// Height within the lung.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Zone {
    Upper,
    Middle,
    Lower,
    /// Everywhere, or where the organ concerned is.
    Whole,
}

/// Severity in words.
#[derive(Clone, Copy, PartialEq, Eq, Debug, PartialOrd, Ord)]
pub enum Grade {
    Mild,
    Moderate,
    Severe,
}

/// One abnormality of one patient.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Finding {
    pub kind: Abnormality,
    /// 0 (barely there) to 1.
    pub severity: f32,
    pub side: Side,
    pub zone: Zone,
    /// Which of several appearances (kind of device, plate or lobar atelectasis): uniform in [0, 1).
    pub variant: f32,
}

impl Finding {
    /// The severity as a radiologist would word it.
    pub fn grade(&self) -> Grade {
        match self.severity {
            s if s < 1.0 / 3.0 => Grade::Mild,
            s if s < 2.0 / 3.0 => Grade::Moderate,
            _ => Grade::Severe,
        }
    }
}

/// What a patient has, with the hidden age factor that the anatomy shares (standard normal).
pub(super) struct Drawn {
    pub findings: Vec<Finding>,
    pub ageing: f32,
}

const CAUSES: u32 = 0x10;
const FINDING: u32 = 0x100;

/// Draws the findings of one patient, in label order.
pub(super) fn draw(seed: u64, index: u64) -> Drawn {
    let mut rng = Rng::new(seed, index, CAUSES);
    let causes: [f32; 4] = std::array::from_fn(|_| rng.normal());
    let findings = Abnormality::ALL
        .into_iter()
        .filter_map(|kind| {
            let mut rng = Rng::new(seed, index, FINDING + kind.index() as u32);
            let loadings = kind.loadings();
            let shared: f32 = loadings.iter().zip(&causes).map(|(l, c)| l * c).sum();
            let own = (1.0 - loadings.iter().map(|l| l * l).sum::<f32>()).sqrt();
            let rank = normal_cdf(shared + own * rng.normal());
            let excess = rank - (1.0 - kind.prevalence());
            (excess > 0.0).then(|| Finding {
                kind,
                severity: (excess / kind.prevalence()).clamp(0.0, 1.0),
                side: [Side::Left, Side::Right, Side::Both, Side::Midline][choose(&mut rng, &kind.sides())],
                zone: [Zone::Upper, Zone::Middle, Zone::Lower, Zone::Whole][choose(&mut rng, &kind.zones())],
                variant: rng.unit(),
            })
        })
        .collect();
    Drawn { findings, ageing: causes[2] }
}

/// Index of one of the weights, drawn in proportion; `weights.len()` where they are all zero.
fn choose(rng: &mut Rng, weights: &[f32]) -> usize {
    let mut left = rng.unit();
    if weights.iter().all(|w| *w == 0.0) {
        return weights.len();
    }
    for (i, w) in weights.iter().enumerate() {
        if left < *w {
            return i;
        }
        left -= w;
    }
    // Rounding can leave a sliver above the last weight.
    weights.iter().rposition(|w| *w > 0.0).unwrap_or(0)
}

/// Standard normal distribution function (Abramowitz and Stegun 7.1.26, absolute error below 1.5e-7).
pub(super) fn normal_cdf(x: f32) -> f32 {
    let z = f64::from(x).abs() / std::f64::consts::SQRT_2;
    let t = 1.0 / (1.0 + 0.327_591_1 * z);
    let poly =
        t * (0.254_829_592 + t * (-0.284_496_736 + t * (1.421_413_741 + t * (-1.453_152_027 + t * 1.061_405_429))));
    let erf = 1.0 - poly * (-z * z).exp();
    (if x < 0.0 { 0.5 * (1.0 - erf) } else { 0.5 * (1.0 + erf) }) as f32
}
