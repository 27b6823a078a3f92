//! Text features: what a text encoder says about the reports of a data set before any trained projection.
//!
//! A language-image model's text side here is a trained linear tower on fixed features. For real use they are the
//! last hidden state at `[CLS]` of CXR-BERT (768 values), which `tools/export_ct_clip.py --text-features` writes; without that
//! encoder [`HashedNgrams`] makes them of any text. Features are finite and of any length: they are not L2-normalised.
//!
//! # Format `x2ct-text-1`
//! One safetensors file. Tensors, all f32, row-major:
//!
//! | name | shape | is |
//! |---|---|---|
//! | `features` | [N, F] | of each report |
//! | `prompts_positive` | [18, F] | of the prompt for each label being present, in [`labels::NAMES`] order |
//! | `prompts_negative` | [18, F] | of the prompt for each label being absent |
//!
//! `__metadata__`, all strings: `format`, `ids` (JSON array of N distinct strings: row i belongs to `ids[i]`; for CT-RATE the
//! volume name without `.nii.gz`), `encoder` (its name), `settings_digest` (BLAKE3, lower-case hex, of the description of
//! encoder, text rule and prompts), `checksum`, which is that of the embedding cache ([`super::cache`]), and `provenance`
//! ([`super::provenance`]), which files of other writers may lack.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use serde_json::json;

use super::provenance::{Content, Provenance, fields, of_reports, short};
use super::{rows, words};
use crate::archive::{Archive, Writer};
use crate::labels::{self, Wording};
use crate::{Error, Result};

const FORMAT: &str = "x2ct-text-1";
const NAMES: [&str; 3] = ["features", "prompts_negative", "prompts_positive"];

/// Features of reports and of the 18 labels' prompts. See the module's description for the meaning of each part.
#[derive(Clone, Debug, PartialEq)]
pub struct TextFeatures {
    pub ids: Vec<String>,
    /// `[ids, dim]`.
    pub features: Vec<f32>,
    pub dim: usize,
    /// `[18, dim]`.
    pub prompts_positive: Vec<f32>,
    /// `[18, dim]`.
    pub prompts_negative: Vec<f32>,
    pub encoder: String,
    pub settings_digest: String,
    /// How they were made, and of what; [`Self::provenance`] adds the content.
    pub made: Provenance,
}

impl TextFeatures {
    /// Reads and verifies a whole file.
    ///
    /// Errors, all naming the file: absent or unreadable; not this format; cut short or changed in any bit; a non-finite value
    /// (by tensor and row); an id twice.
    pub fn read(path: impl AsRef<Path>) -> Result<Self> {
        const ADVICE: &str = "write the text features again";
        let path = path.as_ref();
        let archive = Archive::read(path, FORMAT, "text features", ADVICE)?;
        let ids: Vec<String> = archive.get_json("ids")?;
        let rows = [ids.len(), labels::COUNT, labels::COUNT];
        let wanted = std::array::from_fn(|i| (NAMES[i], rows[i]));
        let (dim, [features, prompts_negative, prompts_positive]) = archive.matrices::<3>(wanted)?;
        let (encoder, settings_digest) =
            (archive.get("encoder")?.to_string(), archive.get("settings_digest")?.to_string());
        let said = fields(json!({"encoder": encoder, "settings_digest": settings_digest}));
        let mut text = TextFeatures {
            ids,
            features,
            dim,
            prompts_positive,
            prompts_negative,
            encoder,
            settings_digest,
            made: Provenance::unknown(said),
        };
        text.validate().map_err(|e| Error::file(path, e.to_string(), ADVICE))?;
        if let Some(recorded) = Provenance::read(&archive, &text.provenance().digest)? {
            text.made = recorded.holding(String::new(), 0);
        }
        Ok(text)
    }

    /// Writes the file atomically and synced; equal features give equal bytes.
    ///
    /// Errors: content that [`Self::read`] would refuse; a file that cannot be written.
    pub fn write(&self, path: impl AsRef<Path>) -> Result<()> {
        self.validate()?;
        let mut archive = Writer::new(FORMAT);
        archive.set("ids", json!(self.ids).to_string());
        archive.set("encoder", self.encoder.as_str());
        archive.set("settings_digest", self.settings_digest.as_str());
        self.provenance().record(&mut archive);
        for (name, values) in NAMES.into_iter().zip([&self.features, &self.prompts_negative, &self.prompts_positive]) {
            archive.put_f32(name, &[values.len() / self.dim, self.dim], values);
        }
        archive.write(path.as_ref())
    }

    /// What the features are, and how they were made.
    pub fn provenance(&self) -> Provenance {
        let mut content = Content::of("text features").and(self.dim.to_string());
        for (id, row) in self.ids.iter().zip(self.features.chunks_exact(self.dim.max(1))) {
            content.add(id);
            content.add_f32(row);
        }
        content.add_f32(&self.prompts_positive);
        content.add_f32(&self.prompts_negative);
        self.made.holding(content.digest(), self.ids.len())
    }

    /// The row of every id.
    pub fn index(&self) -> HashMap<&str, usize> {
        self.ids.iter().enumerate().map(|(row, id)| (id.as_str(), row)).collect()
    }

    /// The features `[ids, dim]` of these reports, in their order. Errors: names the first that has none.
    pub fn select<'a>(&self, ids: impl IntoIterator<Item = &'a str>) -> Result<Vec<f32>> {
        let index = self.index();
        let found = ids.into_iter().map(|id| {
            index.get(id).copied().ok_or_else(|| {
                let problem = format!("have none of the report of {id}");
                Error::argument("text features", problem, "make those of this data set, or leave the volume out")
            })
        });
        Ok(rows::select(&self.features, self.dim, &found.collect::<Result<Vec<_>>>()?))
    }

    fn validate(&self) -> Result<()> {
        let refuse = |problem: String, hint: &str| Err(Error::argument("text features", problem, hint));
        for (what, value) in [("encoder", &self.encoder), ("settings digest", &self.settings_digest)] {
            if value.is_empty() {
                return refuse(format!("their {what} is empty"), "say where the features come from");
            }
        }
        if let Some(id) = rows::first_repeated(&self.ids) {
            return refuse(format!("id {id:?} stands twice"), "give each report one row");
        }
        for (what, values, want) in [
            ("text tensor features", &self.features, self.ids.len()),
            ("text tensor prompts_positive", &self.prompts_positive, labels::COUNT),
            ("text tensor prompts_negative", &self.prompts_negative, labels::COUNT),
        ] {
            let rows = rows::check(what, values, self.dim)?;
            if rows != want {
                return refuse(format!("{what} has {rows} rows, not {want}"), "pass one row per id and per label");
            }
        }
        Ok(())
    }
}

/// Hashed word n-grams of a text (Weinberger et al., "Feature hashing for large scale multitask learning", ICML 2009): a text
/// encoder without weights, for trying everything without a language model.
///
/// A text is cut into clauses and words by `clauses` of this folder's `words`, to which typography makes no difference. It is the set of its
/// sequences of 1 to `max_n` words within a clause, each weighted by the square root of its count, added with a hashed sign at a
/// hashed place, and L2-normalised. A clause with a word such as "no" or "without" counts as the negative of the clause without it:
/// what a report denies points away from what it finds, and the two prompts of a label are opposites. A sequence that is found as
/// often as denied would cancel; it counts as a third thing of its own. A text without words, or whose places cancel, is the empty
/// sequence, so that it has a direction as well. The hash is BLAKE3 and all arithmetic is exactly rounded: the same values on every
/// machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HashedNgrams {
    /// Features of a text.
    pub dim: usize,
    /// Words of the longest sequence.
    pub max_n: usize,
}

impl Default for HashedNgrams {
    fn default() -> Self {
        HashedNgrams { dim: 1024, max_n: 2 }
    }
}

impl HashedNgrams {
    /// What [`TextFeatures::encoder`] says.
    pub const NAME: &str = "hashed word n-grams";

    /// Of the rule that makes features of a text: those of another version are another encoder's.
    pub const VERSION: u32 = 2;

    /// The features of a data set's reports and of the prompts "{Label} is present." / "{Label} is not present.".
    ///
    /// Errors: sizes of 0; different numbers of ids and texts; none; an id twice.
    pub fn features(&self, ids: Vec<String>, texts: &[impl AsRef<str>]) -> Result<TextFeatures> {
        if self.dim == 0 || self.max_n == 0 {
            let problem = format!("{} features of sequences of up to {} words", self.dim, self.max_n);
            return Err(Error::argument(Self::NAME, problem, "both must be at least 1"));
        }
        let prompts = |of: fn(Wording, &str) -> String| -> Vec<f32> {
            labels::NAMES.iter().flat_map(|label| self.embed(&of(Wording::IsPresent, label))).collect()
        };
        let settings_digest = blake3::hash(self.description().to_string().as_bytes()).to_hex().to_string();
        let mut settings = fields(self.description());
        settings.insert("settings_digest".into(), json!(settings_digest));
        let reports = of_reports(ids.iter().zip(texts));
        let text = TextFeatures {
            ids,
            features: self.of_texts(texts),
            dim: self.dim,
            prompts_positive: prompts(Wording::positive),
            prompts_negative: prompts(Wording::negative),
            encoder: Self::NAME.into(),
            settings_digest,
            made: Provenance::made(settings, [("reports", reports)]),
        };
        text.validate()?;
        Ok(text)
    }

    /// The encoder that made features with this provenance.
    ///
    /// # Errors
    /// Features that do not say how they were made, of another encoder, or of another version of this one.
    pub fn of(made: &Provenance) -> Result<Self> {
        let says = |name: &str| made.settings.get(name);
        let refuse = |problem: String, hint: &str| Err(Error::argument("text features", problem, hint));
        match says("encoder").and_then(|encoder| encoder.as_str()) {
            Some(Self::NAME) => (),
            Some(other) => {
                let problem = format!("the model was trained on those of {other:?}, which x2ct cannot make");
                return refuse(problem, "take the prompts of its embedding cache");
            }
            None => return refuse("how those of the training were made is not recorded".into(), "train again"),
        }
        let number = |name: &str| says(name).and_then(|v| usize::try_from(v.as_u64()?).ok()).unwrap_or(0);
        let encoder = HashedNgrams { dim: number("dim"), max_n: number("max_n") };
        // Which prompts stood beside the reports is no part of the rule.
        let mut rule = fields(encoder.description());
        rule.remove("prompts");
        match rule.iter().find(|(name, value)| says(name) != Some(value)) {
            Some((name, _)) => {
                let problem = format!("the model was trained on those of another {name} than this version's rule");
                refuse(problem, "make the prompts with the version of x2ct that made the text features")
            }
            None => Ok(encoder),
        }
    }

    /// The features `[texts, dim]` of texts.
    pub fn of_texts(&self, texts: &[impl AsRef<str>]) -> Vec<f32> {
        texts.iter().flat_map(|text| self.embed(text.as_ref())).collect()
    }

    /// Refuses features of this encoder that were made with another option of `x2ct cache text` than those of a training.
    pub(crate) fn expect_options(trained: &Provenance, found: &Provenance) -> Result<()> {
        for (setting, option) in [("dim", "--features"), ("max_n", "--words")] {
            if let (Some(a), Some(b)) = (trained.settings.get(setting), found.settings.get(setting))
                && a != b
            {
                let digests = [&trained.digest, &found.digest].map(|digest| short(digest)).join(" and ");
                let problem =
                    format!("the model was trained on {option} {a}, these are of {option} {b} (digests {digests})");
                return Err(Error::argument(option, problem, format!("make them with `x2ct cache text {option} {a}`")));
            }
        }
        Ok(())
    }

    fn description(&self) -> serde_json::Value {
        json!({
            "encoder": Self::NAME, "version": Self::VERSION, "dim": self.dim, "max_n": self.max_n,
            "negations": words::NEGATIONS, "contrasts": words::CONTRASTS,
            "prompts": [Wording::IsPresent.positive("{}"), Wording::IsPresent.negative("{}")],
        })
    }

    /// `[dim]`, of length 1.
    fn embed(&self, text: &str) -> Vec<f32> {
        // Ordered, so that sums do not depend on a hash map's order.
        let mut counts: BTreeMap<String, [u32; 2]> = BTreeMap::new();
        for clause in words::clauses(text) {
            for n in 1..=self.max_n {
                for sequence in clause.words.windows(n) {
                    counts.entry(sequence.join(" ")).or_default()[usize::from(clause.denied)] += 1;
                }
            }
        }
        let mut sums = vec![0.0f64; self.dim];
        for (sequence, [found, denied]) in counts {
            if found == denied {
                // No word holds a zero byte.
                self.add(&mut sums, &format!("both\0{sequence}"), f64::from(found + denied).sqrt());
            } else {
                let difference = f64::from(found) - f64::from(denied);
                self.add(&mut sums, &sequence, difference.abs().sqrt() * difference.signum());
            }
        }
        if sums.iter().all(|v| *v == 0.0) {
            self.add(&mut sums, "", 1.0);
        }
        let length = sums.iter().map(|v| v * v).sum::<f64>().sqrt();
        sums.into_iter().map(|v| (v / length) as f32).collect()
    }

    /// Adds a sequence at its hashed place with its hashed sign.
    fn add(&self, sums: &mut [f64], sequence: &str, weight: f64) {
        let hash = blake3::hash(sequence.as_bytes());
        let [place, sign] = [0, 8].map(|at| u64::from_le_bytes(std::array::from_fn(|i| hash.as_bytes()[at + i])));
        sums[(place % self.dim as u64) as usize] += if sign & 1 == 0 { weight } else { -weight };
    }
}
