//! The 18 abnormalities of CT-RATE and the prompts that name them to a text encoder.

use std::str::FromStr;

use crate::error::{Error, Result};

/// Number of abnormalities.
pub const COUNT: usize = 18;

/// Column names of CT-RATE's label tables, in the order that is the class order everywhere.
pub const NAMES: [&str; COUNT] = [
    "Medical material",
    "Arterial wall calcification",
    "Cardiomegaly",
    "Pericardial effusion",
    "Coronary artery wall calcification",
    "Hiatal hernia",
    "Lymphadenopathy",
    "Emphysema",
    "Atelectasis",
    "Lung nodule",
    "Lung opacity",
    "Pulmonary fibrotic sequela",
    "Pleural effusion",
    "Mosaic attenuation pattern",
    "Peribronchial thickening",
    "Consolidation",
    "Bronchiectasis",
    "Interlobular septal thickening",
];

/// How a prompt says that a finding is there or not. Scores of different wordings are not comparable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Wording {
    /// "There is {P}." / "There is no {P}.": X2CT-CLIP, and the validation inside CT-CLIP's training.
    #[default]
    ThereIs,
    /// "{P} is present." / "{P} is not present.": CT-CLIP's zero-shot evaluation, DCFormer.
    IsPresent,
    /// As [`Wording::IsPresent`] with the blank that follows each sentence in CT-CLIP's VocabFine prompts.
    VocabFine,
}

impl Wording {
    /// Names of the wordings.
    pub const NAMES: [&str; 3] = ["there-is", "is-present", "vocab-fine"];

    /// The prompt for a finding that is there.
    pub fn positive(self, finding: &str) -> String {
        match self {
            Wording::ThereIs => format!("There is {finding}."),
            Wording::IsPresent => format!("{finding} is present."),
            Wording::VocabFine => format!("{finding} is present. "),
        }
    }

    /// The prompt for a finding that is absent.
    pub fn negative(self, finding: &str) -> String {
        match self {
            Wording::ThereIs => format!("There is no {finding}."),
            Wording::IsPresent => format!("{finding} is not present."),
            Wording::VocabFine => format!("{finding} is not present. "),
        }
    }
}

impl FromStr for Wording {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let all = [Wording::ThereIs, Wording::IsPresent, Wording::VocabFine];
        all.into_iter().find(|&wording| Self::NAMES[wording as usize] == name).ok_or_else(|| {
            let hint = format!("choose one of {}", Self::NAMES.join(", "));
            Error::argument("wording", format!("unknown wording `{name}`"), hint)
        })
    }
}
