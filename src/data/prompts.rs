//! Prompts: the sentences that say a label is there or not, and what a teacher's text side makes of them.
//!
//! # Sentences
//! A TOML file says which ([`Sentences::read`]). `wording` is one of `there-is`, `is-present` and `vocab-fine`
//! ([`Wording`]); each `[[template]]` is a further one, with `{}` in the place of the finding. Each `[[label]]` has a name, as tables of
//! labels have it, and the texts that it goes by, by itself its name; without any they are the 18 of CT-RATE.
//! ```toml
//! wording = "there-is"
//! [[template]]
//! positive = "There are signs of {}."
//! negative = "There are no signs of {}."
//! [[label]]
//! name = "Emphysema"
//! text = ["emphysema", "emphysematous changes"]
//! ```
//! Every template with every text is a pair of sentences. Several pairs of a label are an ensemble: the mean of the L2-normalised
//! embeddings, normalised again, of the positive sentences and of the negative ones.
//!
//! # Format `x2ct-prompts-1`
//! An [`Archive`] with the tensors `positive` and `negative` [L, d] f32, L2-normalised. Metadata, all strings:
//!
//! | key | is |
//! |---|---|
//! | `names` | JSON array of L distinct strings, the labels |
//! | `sentences` | JSON array of L objects with the arrays `positive` and `negative` of as many sentences each |
//! | `teacher` | name of the model |
//! | `checkpoint_digest` | that of its embedding caches ([`super::cache`]) |
//! | `provenance` | see [`super::provenance`] |
//! | `checksum` | that of [`crate::archive`] |
//!
//! `x2ct cache prompts` and `tools/export_ct_clip.py --prompts` write it. An embedding cache is read as such a file too, with the 18
//! labels and without sentences ([`PromptSet::open`]).

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::cache::EmbeddingCache;
use super::provenance::{Content, Provenance, fields};
use super::rows;
use crate::archive::{Archive, Writer};
use crate::error::{Error, Result};
use crate::files;
use crate::labels::{self, Wording};

const FORMAT: &str = "x2ct-prompts-1";
const ADVICE: &str = "make the prompts again";
const FORM: &str = "see the form in the documentation of data::prompts";

/// The sentences of labels.
#[derive(Clone, Debug, PartialEq)]
pub struct Sentences {
    /// The labels, each once.
    pub names: Vec<String>,
    /// Those of each label.
    pub of: Vec<Pairs>,
}

/// Sentences of one label, as many of the one kind as of the other.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Pairs {
    /// They say that it is there.
    pub positive: Vec<String>,
    /// They say that it is not.
    pub negative: Vec<String>,
}

/// A file of sentences as TOML has it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Form {
    wording: Option<String>,
    #[serde(default, rename = "template")]
    templates: Vec<Template>,
    #[serde(default, rename = "label")]
    labels: Vec<Label>,
}

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Template {
    positive: String,
    negative: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Label {
    name: String,
    text: Option<Vec<String>>,
}

impl Sentences {
    /// Those of one wording for the 18 labels of CT-RATE.
    pub fn of_wording(wording: Wording) -> Self {
        let pairs =
            |name: &&str| Pairs { positive: vec![wording.positive(name)], negative: vec![wording.negative(name)] };
        Sentences { names: labels::NAMES.map(String::from).to_vec(), of: labels::NAMES.iter().map(pairs).collect() }
    }

    /// Reads a TOML file. See the module's description.
    ///
    /// # Errors
    /// A file that is none, by line and key; no wording and no template; a template without `{}`, or with two equal sentences; a
    /// label or text twice or without words.
    pub fn read(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let bytes = files::read(path).map_err(|e| Error::io(path, "read", &e))?;
        let text = String::from_utf8(bytes).map_err(|_| Error::file(path, "is no UTF-8 text", "pass a TOML file"))?;
        let form: Form = toml::from_str(&text).map_err(|e| {
            let problem = format!("is no file of prompts: {}", files::toml_mistake(&text, &e));
            Error::file(path, problem, FORM)
        })?;
        form.sentences().map_err(|problem| Error::file(path, problem, FORM))
    }
}

impl Form {
    fn sentences(self) -> Result<Sentences, String> {
        let templates = self.templates()?;
        let labels = match self.labels.is_empty() {
            true => labels::NAMES.iter().map(|name| Label { name: name.to_string(), text: None }).collect(),
            false => self.labels,
        };
        let names: Vec<String> = labels.iter().map(|label| label.name.clone()).collect();
        if let Some(name) = rows::first_repeated(&names) {
            return Err(format!("has the label {name:?} twice"));
        }
        let of = labels.into_iter().map(|label| label.pairs(&templates)).collect::<Result<_, _>>()?;
        Ok(Sentences { names, of })
    }

    fn templates(&self) -> Result<Vec<Template>, String> {
        let of_wording = self.wording.as_deref().map(|name| {
            let wording: Wording = name.parse().map_err(|e: Error| e.to_string())?;
            Ok::<_, String>(Template { positive: wording.positive("{}"), negative: wording.negative("{}") })
        });
        let all: Vec<Template> = of_wording.transpose()?.into_iter().chain(self.templates.iter().cloned()).collect();
        if all.is_empty() {
            return Err("has neither a wording nor a [[template]]".into());
        }
        for Template { positive, negative } in &all {
            if let Some(sentence) = [positive, negative].into_iter().find(|s| s.matches("{}").count() != 1) {
                return Err(format!("the template {sentence:?} has not one place {{}} for the finding"));
            }
            if positive == negative {
                return Err(format!("the template {positive:?} is positive and negative"));
            }
        }
        Ok(all)
    }
}

impl Label {
    fn pairs(self, templates: &[Template]) -> Result<Pairs, String> {
        let Label { name, text } = self;
        if name.trim().is_empty() {
            return Err("has a label without a name".into());
        }
        let texts = text.unwrap_or_else(|| vec![name.clone()]);
        if texts.is_empty() || texts.iter().any(|text| text.trim().is_empty()) {
            return Err(format!("the label {name:?} has a text without words, or none"));
        }
        if let Some(text) = rows::first_repeated(&texts) {
            return Err(format!("the label {name:?} has the text {text:?} twice"));
        }
        let all = |of: fn(&Template) -> &String| -> Vec<String> {
            templates.iter().flat_map(|t| texts.iter().map(move |text| of(t).replace("{}", text))).collect()
        };
        Ok(Pairs { positive: all(|t| &t.positive), negative: all(|t| &t.negative) })
    }
}

/// What a teacher's text side makes of prompts. See the module's description.
#[derive(Clone, Debug, PartialEq)]
pub struct PromptSet {
    /// The labels, each once.
    pub names: Vec<String>,
    /// `[names, dim]`: of the sentences that say a label is there.
    pub positive: Vec<f32>,
    /// `[names, dim]`: of those that say it is not.
    pub negative: Vec<f32>,
    /// Numbers of an embedding.
    pub dim: usize,
    /// The sentences of each label; empty where they are not known.
    pub sentences: Vec<Pairs>,
    /// Name of the model.
    pub teacher: String,
    /// That of its embedding caches.
    pub checkpoint_digest: String,
    /// How they were made, and of what, beside teacher and checkpoint.
    pub made: Provenance,
}

impl PromptSet {
    /// Prompts of a file of their own, or those of an embedding cache.
    ///
    /// # Errors
    /// Those of [`Self::read`] and [`EmbeddingCache::read`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        match Archive::format_of(path.as_ref())?.as_deref() {
            Some(super::cache::FORMAT) => Ok(Self::of_cache(&EmbeddingCache::read(path)?)),
            _ => Self::read(path),
        }
    }

    /// The prompts of an embedding cache.
    pub fn of_cache(cache: &EmbeddingCache) -> Self {
        PromptSet {
            names: labels::NAMES.map(String::from).to_vec(),
            positive: cache.prompts_positive.clone(),
            negative: cache.prompts_negative.clone(),
            dim: cache.dim,
            sentences: Vec::new(),
            teacher: cache.teacher.clone(),
            checkpoint_digest: cache.checkpoint_digest.clone(),
            made: Provenance { settings: Default::default(), from: Default::default(), ..cache.made.clone() },
        }
    }

    /// What `embed` makes of sentences: it gives one embedding each, [sentences, dim].
    ///
    /// # Errors
    /// Those of `embed` and [`ensemble`].
    pub fn embed(
        sentences: Sentences,
        (teacher, checkpoint_digest, dim): (&str, &str, usize),
        embed: impl Fn(&[String]) -> Result<Vec<f32>>,
    ) -> Result<Self> {
        let of_each = |all: fn(&Pairs) -> &Vec<String>| -> Result<Vec<f32>> {
            let flat: Vec<String> = sentences.of.iter().flat_map(all).cloned().collect();
            let (embeddings, mut begin) = (embed(&flat)?, 0);
            let mut of_labels = Vec::new();
            for pairs in &sentences.of {
                let end = begin + all(pairs).len() * dim;
                of_labels.extend(ensemble(&embeddings[begin..end], dim)?);
                begin = end;
            }
            Ok(of_labels)
        };
        Ok(PromptSet {
            positive: of_each(|pairs| &pairs.positive)?,
            negative: of_each(|pairs| &pairs.negative)?,
            names: sentences.names,
            dim,
            sentences: sentences.of,
            teacher: teacher.into(),
            checkpoint_digest: checkpoint_digest.into(),
            made: Provenance::made(Default::default(), []),
        })
    }

    /// Reads and verifies a file.
    ///
    /// # Errors
    /// A file that is absent, of another format, cut short or changed; a label twice; other shapes than the labels ask for; a row that is
    /// not L2-normalised; provenance of other content.
    pub fn read(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let archive = Archive::read(path, FORMAT, "prompts", ADVICE)?;
        let names: Vec<String> = archive.get_json("names")?;
        let (dim, [negative, positive]) = archive.matrices([("negative", names.len()), ("positive", names.len())])?;
        let sentences = archive.get_json("sentences")?;
        let text = |key| archive.get(key).map(String::from);
        let (teacher, checkpoint_digest) = (text("teacher")?, text("checkpoint_digest")?);
        let made = Provenance::unknown(Default::default());
        let set = PromptSet { names, positive, negative, dim, sentences, teacher, checkpoint_digest, made };
        set.validate().map_err(|e| Error::file(path, e.to_string(), ADVICE))?;
        let made = match Provenance::read(&archive, &set.digest())? {
            Some(recorded) => {
                let mut made = recorded.holding(String::new(), 0);
                made.settings.retain(|name, _| !["teacher", "checkpoint"].contains(&name.as_str()));
                made
            }
            None => set.made.clone(),
        };
        Ok(PromptSet { made, ..set })
    }

    /// Writes the file, whole or not at all; equal prompts give equal bytes.
    ///
    /// # Errors
    /// Content that [`Self::read`] would refuse; a file that cannot be written.
    pub fn write(&self, path: impl AsRef<Path>) -> Result<()> {
        self.validate()?;
        let mut archive = Writer::new(FORMAT);
        archive.set("names", json!(self.names).to_string());
        archive.set("sentences", json!(self.sentences).to_string());
        archive.set("teacher", self.teacher.as_str());
        archive.set("checkpoint_digest", self.checkpoint_digest.as_str());
        self.provenance().record(&mut archive);
        for (name, values) in [("negative", &self.negative), ("positive", &self.positive)] {
            archive.put_f32(name, &[self.names.len(), self.dim], values);
        }
        archive.write(path.as_ref())
    }

    /// What the prompts are and how they were made: by which teacher of which checkpoint, first of all.
    pub fn provenance(&self) -> Provenance {
        let mut settings = fields(json!({"teacher": self.teacher, "checkpoint": self.checkpoint_digest}));
        settings.extend(self.made.settings.clone());
        Provenance { settings, ..self.made.holding(self.digest(), self.names.len()) }
    }

    /// BLAKE3 of labels and embeddings: equal for the prompts of all caches of one teacher, whatever patients they are of.
    pub fn digest(&self) -> String {
        let mut content = Content::of("prompts").and(self.dim.to_string());
        self.names.iter().for_each(|name| content.add(name));
        content.add_f32(&self.positive);
        content.add_f32(&self.negative);
        content.digest()
    }

    fn validate(&self) -> Result<()> {
        let refuse = |problem: String| Err(Error::argument("prompts", problem, ADVICE));
        if let Some(name) = rows::first_repeated(&self.names) {
            return refuse(format!("the label {name:?} stands twice"));
        }
        for (what, value) in [("teacher", &self.teacher), ("checkpoint digest", &self.checkpoint_digest)] {
            if value.is_empty() {
                return refuse(format!("their {what} is empty"));
            }
        }
        for (what, values) in [("positive prompts", &self.positive), ("negative prompts", &self.negative)] {
            let found = rows::check_normalised(what, values, self.dim)?;
            if found != self.names.len() {
                return refuse(format!("{what} have {found} rows for {} labels", self.names.len()));
            }
        }
        let uneven = |pairs: &Pairs| pairs.positive.is_empty() || pairs.positive.len() != pairs.negative.len();
        if !self.sentences.is_empty() && self.sentences.len() != self.names.len() || self.sentences.iter().any(uneven) {
            return refuse("there are not as many sentences of each kind for every label".into());
        }
        Ok(())
    }
}

/// The embedding that stands for several, `[n, dim]`: the mean of the L2-normalised rows, normalised again; of one row that row.
///
/// # Errors
/// No row, a row of zeros, or rows that cancel.
pub fn ensemble(embeddings: &[f32], dim: usize) -> Result<Vec<f32>> {
    let mut rows = embeddings.to_vec();
    if rows::check_normalised("prompts", &rows, dim).is_err() {
        rows::l2_normalise("prompts", &mut rows, dim)?;
    }
    if rows.len() == dim {
        return Ok(rows);
    }
    let mut sums = vec![0.0f64; dim];
    for row in rows.chunks_exact(dim) {
        sums.iter_mut().zip(row).for_each(|(sum, &value)| *sum += f64::from(value));
    }
    let count = (rows.len() / dim) as f64;
    let mut mean: Vec<f32> = sums.into_iter().map(|sum| (sum / count) as f32).collect();
    rows::l2_normalise("mean of the prompts", &mut mean, dim)?;
    Ok(mean)
}
