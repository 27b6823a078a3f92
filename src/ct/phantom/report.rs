//! Radiology reports in words: one sentence per finding, naming it with its severity and place.

use super::findings::{Abnormality, Finding, Grade, Side, Zone};
use crate::philox::Rng;

/// The two text columns of CT-RATE.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    pub findings: String,
    pub impressions: String,
}

const WORDING: u32 = 5;

/// Writes the report. Wording varies from patient to patient; an abnormality is named if and only if it is present.
pub(super) fn write(findings: &[Finding], seed: u64, index: u64) -> Report {
    let mut rng = Rng::new(seed, index, WORDING);
    let has = |kind| findings.iter().any(|f| f.kind == kind);
    let mut sentences = Vec::new();
    sentences.push(
        ["Trachea and both main bronchi are open.", "The trachea is midline and the main bronchi are patent."]
            [rng.below(2)]
        .to_string(),
    );
    if !has(Abnormality::Cardiomegaly) {
        sentences.push(["Heart size is normal.", "The heart is of normal size."][rng.below(2)].to_string());
    }
    for finding in findings {
        sentences.push(sentence(finding, &mut rng));
    }
    if findings.is_empty() {
        sentences.push("Lungs are clear and the mediastinum is unremarkable.".to_string());
    }
    sentences.push(
        ["Upper abdominal organs in the field of view are unremarkable.", "No bone lesion was detected."][rng.below(2)]
            .to_string(),
    );
    let impressions = if findings.is_empty() {
        "Findings within normal limits.".to_string()
    } else {
        findings.iter().map(|f| capitalised(&format!("{}.", phrase(f)))).collect::<Vec<_>>().join(" ")
    };
    Report { findings: sentences.join(" "), impressions }
}

/// The word a report uses for a grade of an abnormality.
pub fn grade_word(kind: Abnormality, grade: Grade) -> &'static str {
    let words = match kind {
        Abnormality::MedicalMaterial
        | Abnormality::ArterialWallCalcification
        | Abnormality::CoronaryArteryWallCalcification => ["minimal", "moderate", "extensive"],
        Abnormality::HiatalHernia | Abnormality::LungNodule | Abnormality::Lymphadenopathy => {
            ["small", "medium-sized", "large"]
        }
        Abnormality::PleuralEffusion | Abnormality::PericardialEffusion => ["small", "moderate", "large"],
        _ => ["mild", "moderate", "severe"],
    };
    words[grade as usize]
}

/// The word that names an abnormality in a report: found in the text if and only if the finding is present.
pub fn term(kind: Abnormality) -> &'static str {
    match kind {
        Abnormality::MedicalMaterial => "medical material",
        Abnormality::ArterialWallCalcification => "arterial wall calcification",
        Abnormality::Cardiomegaly => "cardiomegaly",
        Abnormality::PericardialEffusion => "pericardial effusion",
        Abnormality::CoronaryArteryWallCalcification => "coronary artery wall calcification",
        Abnormality::HiatalHernia => "hiatal hernia",
        Abnormality::Lymphadenopathy => "lymphadenopathy",
        Abnormality::Emphysema => "emphysema",
        Abnormality::Atelectasis => "atelectasis",
        Abnormality::LungNodule => "lung nodule",
        Abnormality::LungOpacity => "ground-glass lung opacity",
        Abnormality::PulmonaryFibroticSequela => "fibrotic sequela",
        Abnormality::PleuralEffusion => "pleural effusion",
        Abnormality::MosaicAttenuationPattern => "mosaic attenuation",
        Abnormality::PeribronchialThickening => "peribronchial thickening",
        Abnormality::Consolidation => "consolidation",
        Abnormality::Bronchiectasis => "bronchiectasis",
        Abnormality::InterlobularSeptalThickening => "interlobular septal thickening",
    }
}

/// Where it is, in words; empty where the organ says it all.
fn place(finding: &Finding) -> String {
    use Abnormality::*;
    let zone = match finding.zone {
        Zone::Upper => "upper ",
        Zone::Middle => "middle ",
        Zone::Lower => "lower ",
        Zone::Whole => "",
    };
    match (finding.kind, finding.side) {
        (MedicalMaterial, Side::Midline) => "along the sternum".to_string(),
        (MedicalMaterial, side) => format!("in the {} chest wall with a cardiac lead", side_word(side)),
        (ArterialWallCalcification, _) => "in the thoracic aorta".to_string(),
        (Cardiomegaly | PericardialEffusion | CoronaryArteryWallCalcification | HiatalHernia, _) => String::new(),
        (Lymphadenopathy, Side::Midline) => "in the mediastinum".to_string(),
        (Lymphadenopathy, side) => format!("at the {} hilum", side_word(side)),
        (PleuralEffusion, Side::Both) => "on both sides".to_string(),
        (PleuralEffusion, side) => format!("on the {}", side_word(side)),
        (_, Side::Both) if zone.is_empty() => "in both lungs".to_string(),
        (_, Side::Both) => format!("in the {zone}zones of both lungs"),
        (_, side) if zone.is_empty() => format!("in the {} lung", side_word(side)),
        (_, side) => format!("in the {} {zone}zone", side_word(side)),
    }
}

fn side_word(side: Side) -> &'static str {
    match side {
        Side::Left => "left",
        Side::Right => "right",
        Side::Both => "left and right",
        Side::Midline => "midline",
    }
}

/// Grade, term and place: "moderate pleural effusion on the left".
fn phrase(finding: &Finding) -> String {
    let text = format!("{} {} {}", grade_word(finding.kind, finding.grade()), term(finding.kind), place(finding));
    text.trim_end().to_string()
}

fn sentence(finding: &Finding, rng: &mut Rng) -> String {
    let phrase = phrase(finding);
    match rng.below(4) {
        0 => format!("There is {phrase}."),
        1 => format!("{} is observed.", capitalised(&phrase)),
        2 => format!("{} is seen.", capitalised(&phrase)),
        _ => format!("{} was detected.", capitalised(&phrase)),
    }
}

fn capitalised(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or(String::new(), |first| first.to_uppercase().chain(letters).collect())
}
