//! A report of the data set, and what of it is read.

/// A radiology report in English, as its sections stand in the table; an empty cell is an empty string.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    pub clinical_information: String,
    pub technique: String,
    pub findings: String,
    pub impressions: String,
}

impl Report {
    /// What the text encoder reads: findings and impressions joined without a separator, a section that is "Not given." or an empty
    /// cell by another name ("nan") left out, and the characters `"'()` deleted (CT-CLIP's inference code, X2CT-CLIP). May be empty.
    pub fn text(&self) -> String {
        [&self.findings, &self.impressions]
            .into_iter()
            .filter(|section| *section != "Not given." && !section.trim().eq_ignore_ascii_case("nan"))
            .flat_map(|section| section.chars())
            .filter(|c| !matches!(c, '"' | '\'' | '(' | ')'))
            .collect()
    }

    /// Whether [`text`](Self::text) has no letter and no digit.
    pub fn says_nothing(&self) -> bool {
        !self.text().chars().any(char::is_alphanumeric)
    }
}
