//! The embedding cache: what a frozen teacher says about a data set, computed once.
//!
//! # Format `x2ct-cache-1`
//! One safetensors file. Tensors, all f32, row-major, every row L2-normalised:
//!
//! | name | shape | is |
//! |---|---|---|
//! | `ct` | [N, d] | the teacher's embedding of each CT volume |
//! | `report` | [N, d] | of its report |
//! | `prompts_positive` | [18, d] | of the prompt for each label being present, in [`labels::NAMES`] order |
//! | `prompts_negative` | [18, d] | of the prompt for each label being absent |
//!
//! d is 512 for CT-CLIP. `__metadata__`, all strings:
//!
//! | key | is |
//! |---|---|
//! | `format` | `x2ct-cache-1` |
//! | `ids` | JSON array of N distinct strings: row i belongs to `ids[i]`; for CT-RATE the volume name without `.nii.gz` |
//! | `teacher` | name of the model |
//! | `checkpoint_digest` | BLAKE3 of its weights file, in lower-case hex, or what stands for one |
//! | `preprocessing_digest` | BLAKE3 of the description of what was done to volumes and texts, in lower-case hex |
//! | `checksum` | BLAKE3, lower-case hex, of everything else, as follows |
//!
//! And, which caches of other writers may lack:
//!
//! | key | is |
//! |---|---|
//! | `volume_digests` | JSON array: the digest of the content of each volume that row i of `ct` was made of |
//! | `report_digests` | JSON array: the same of what `report` was made of |
//! | `ct_digests` | JSON array: the digest of the CT behind each row ([`super::cts`]) |
//! | `provenance` | see [`super::provenance`] |
//!
//! The checksum is over, first, `key 00 value 00` for every metadata entry but itself, in ascending order of keys; then
//! `name 00 ROWSxCOLUMNS 00 data` for the tensors in ascending order of names (00 is a zero byte; sizes in decimal, for
//! example `18x512`; data little-endian as stored). Further metadata entries are allowed and covered; further tensors
//! are not allowed. `tools/export_ct_clip.py` writes this format.

use super::cts::Cts;
use super::provenance::{Content, Provenance, Undecided, fields};
use super::rows;
use crate::archive::{Archive, Writer};
use crate::error::{Error, Result};
use crate::labels;
use serde_json::json;
use std::collections::HashMap;
use std::ops::{Deref, DerefMut};
use std::path::Path;
use std::sync::OnceLock;

pub(super) const FORMAT: &str = "x2ct-cache-1";
const NAMES: [&str; 4] = ["ct", "prompts_negative", "prompts_positive", "report"];

/// [`Embeddings`] with the digest of their content, which is computed once. They are read through the cache; what changes them forgets
/// the digest.
#[derive(Clone, Debug)]
pub struct EmbeddingCache {
    embeddings: Embeddings,
    digest: OnceLock<String>,
}

/// Teacher embeddings of paired volumes and reports. See the module's description for the meaning of each part.
#[derive(Clone, Debug, PartialEq)]
pub struct Embeddings {
    pub ids: Vec<String>,
    /// `[ids, dim]`.
    pub ct: Vec<f32>,
    /// `[ids, dim]`.
    pub report: Vec<f32>,
    pub dim: usize,
    /// `[18, dim]`.
    pub prompts_positive: Vec<f32>,
    /// `[18, dim]`.
    pub prompts_negative: Vec<f32>,
    pub teacher: String,
    pub checkpoint_digest: String,
    pub preprocessing_digest: String,
    /// What each row of `ct` was made of; empty where that is not recorded.
    pub volume_digests: Vec<String>,
    /// What each row of `report` was made of; empty where that is not recorded.
    pub report_digests: Vec<String>,
    /// The CT behind each row.
    pub cts: Cts,
    /// How the embeddings were made, and of what, beside teacher, checkpoint and CTs; see [`EmbeddingCache::provenance`].
    pub made: Provenance,
}

impl From<Embeddings> for EmbeddingCache {
    fn from(embeddings: Embeddings) -> Self {
        EmbeddingCache { embeddings, digest: OnceLock::new() }
    }
}

impl PartialEq for EmbeddingCache {
    fn eq(&self, other: &Self) -> bool {
        self.embeddings == other.embeddings
    }
}

impl Deref for EmbeddingCache {
    type Target = Embeddings;

    fn deref(&self) -> &Embeddings {
        &self.embeddings
    }
}

impl DerefMut for EmbeddingCache {
    fn deref_mut(&mut self) -> &mut Embeddings {
        self.digest = OnceLock::new();
        &mut self.embeddings
    }
}

impl EmbeddingCache {
    /// Reads and verifies a whole cache.
    ///
    /// Errors, all naming the file: absent or unreadable; not this format; cut short or changed in any bit; a
    /// non-finite value or a row that is not L2-normalised (by tensor and row); an id twice.
    pub fn read(path: impl AsRef<Path>) -> Result<Self> {
        const ADVICE: &str = "write the cache again";
        let path = path.as_ref();
        let archive = Archive::read(path, FORMAT, "cache", ADVICE)?;
        let ids: Vec<String> = archive.get_json("ids")?;
        let rows = [ids.len(), labels::COUNT, labels::COUNT, ids.len()];
        let wanted = std::array::from_fn(|i| (NAMES[i], rows[i]));
        let (dim, [ct, prompts_negative, prompts_positive, report]) = archive.matrices::<4>(wanted)?;
        let text = |key: &str| archive.get(key).map(str::to_string);
        let (teacher, checkpoint_digest) = (text("teacher")?, text("checkpoint_digest")?);
        let preprocessing_digest = text("preprocessing_digest")?;
        let said = json!({"preprocessing_digest": preprocessing_digest});
        let digests = |key: &str| archive.get(key).map_or(Ok(Vec::new()), |_| archive.get_json(key));
        let cts = Cts::read(&archive, ids.len())?;
        let mut cache = EmbeddingCache::from(Embeddings {
            ids,
            ct,
            report,
            dim,
            prompts_positive,
            prompts_negative,
            teacher,
            checkpoint_digest,
            preprocessing_digest,
            volume_digests: digests("volume_digests")?,
            report_digests: digests("report_digests")?,
            cts,
            made: Provenance::unknown(fields(said)),
        });
        cache.validate().map_err(|e| Error::file(path, e.to_string(), ADVICE))?;
        if let Some(recorded) = Provenance::read(&archive, cache.digest())? {
            let mut made = Cts::default().add_to(recorded.holding(String::new(), 0), &[]);
            made.settings.retain(|name, _| !["teacher", "checkpoint"].contains(&name.as_str()));
            // How they were made is no part of the content.
            cache.embeddings.made = made;
        }
        Ok(cache)
    }

    /// Writes the cache atomically and synced; equal caches give equal bytes.
    ///
    /// Errors: content that [`Self::read`] would refuse; a file that cannot be written.
    pub fn write(&self, path: impl AsRef<Path>) -> Result<()> {
        self.validate()?;
        let mut archive = Writer::new(FORMAT);
        archive.set("ids", json!(self.ids).to_string());
        archive.set("teacher", self.teacher.as_str());
        archive.set("checkpoint_digest", self.checkpoint_digest.as_str());
        archive.set("preprocessing_digest", self.preprocessing_digest.as_str());
        for (key, digests) in [("volume_digests", &self.volume_digests), ("report_digests", &self.report_digests)] {
            if !digests.is_empty() {
                archive.set(key, json!(digests).to_string());
            }
        }
        self.cts.record(&mut archive);
        self.provenance().record(&mut archive);
        for (name, values) in
            NAMES.into_iter().zip([&self.ct, &self.prompts_negative, &self.prompts_positive, &self.report])
        {
            archive.put_f32(name, &[values.len() / self.dim, self.dim], values);
        }
        archive.write(path.as_ref())
    }

    /// The row of an id. Scans the ids: for many look-ups use [`Self::index`].
    pub fn row(&self, id: &str) -> Option<usize> {
        self.ids.iter().position(|known| known == id)
    }

    /// The row of every id.
    pub fn index(&self) -> HashMap<&str, usize> {
        self.ids.iter().enumerate().map(|(row, id)| (id.as_str(), row)).collect()
    }

    /// The rows of these ids, in their order. Errors: names the first that has none.
    pub fn rows_of(&self, ids: &[String]) -> Result<Vec<usize>> {
        let index = self.index();
        let row = |id: &String| {
            index.get(id.as_str()).copied().ok_or_else(|| {
                let problem = format!("has no embedding of {id}");
                Error::argument("embedding cache", problem, "make the cache of this data set, or leave that id out")
            })
        };
        ids.iter().map(row).collect()
    }

    /// The rows of `ids`, in their order, which are of these CTs: radiographs or volumes, as `what` says. With what could not be
    /// decided.
    ///
    /// # Errors
    /// Names the first id that has no row, or whose row is of another CT.
    pub fn join(&self, what: &str, ids: &[String], cts: &Cts) -> Result<(Vec<usize>, Undecided)> {
        let rows = self.rows_of(ids)?;
        let undecided = cts.expect_same(what, ids, ("embeddings", &self.cts, &rows))?;
        Ok((rows, undecided))
    }

    /// What the cache holds, and how it was made: by which teacher of which checkpoint, first of all.
    pub fn provenance(&self) -> Provenance {
        let mut settings = fields(json!({"teacher": self.teacher, "checkpoint": self.checkpoint_digest}));
        settings.extend(self.made.settings.clone());
        let made = Provenance { settings, ..self.made.holding(self.digest().to_string(), self.ids.len()) };
        self.cts.add_to(made, &self.ids)
    }

    /// BLAKE3 of ids and embeddings.
    fn digest(&self) -> &str {
        self.digest.get_or_init(|| {
            let mut content = Content::of("embedding cache").and(self.dim.to_string());
            let dim = self.dim.max(1);
            for ((id, ct), report) in self.ids.iter().zip(self.ct.chunks(dim)).zip(self.report.chunks(dim)) {
                content.add(id);
                content.add_f32(ct);
                content.add_f32(report);
            }
            content.add_f32(&self.prompts_positive);
            content.add_f32(&self.prompts_negative);
            content.digest()
        })
    }

    fn validate(&self) -> Result<()> {
        let refuse = |problem: String, hint: &str| Err(Error::argument("embedding cache", problem, hint));
        for (what, value) in [
            ("teacher", &self.teacher),
            ("checkpoint digest", &self.checkpoint_digest),
            ("preprocessing digest", &self.preprocessing_digest),
        ] {
            if value.is_empty() {
                return refuse(format!("its {what} is empty"), "say where the embeddings come from");
            }
        }
        if let Some(id) = rows::first_repeated(&self.ids) {
            return refuse(format!("id {id:?} stands twice"), "give each pair one row");
        }
        for (what, values, want) in [
            ("cache tensor ct", &self.ct, self.ids.len()),
            ("cache tensor report", &self.report, self.ids.len()),
            ("cache tensor prompts_positive", &self.prompts_positive, labels::COUNT),
            ("cache tensor prompts_negative", &self.prompts_negative, labels::COUNT),
        ] {
            let rows = rows::check_normalised(what, values, self.dim)?;
            if rows != want {
                return refuse(format!("{what} has {rows} rows, not {want}"), "pass one row per id and per label");
            }
        }
        for (what, digests) in [("volume digests", &self.volume_digests), ("report digests", &self.report_digests)] {
            if !digests.is_empty() && digests.len() != self.ids.len() {
                return refuse(format!("it has {} {what} for {} ids", digests.len(), self.ids.len()), "pass one a row");
            }
        }
        self.cts.expect_rows(self.ids.len())
    }
}
