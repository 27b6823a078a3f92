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
//! The checksum is over, first, `key 00 value 00` for every metadata entry but itself, in ascending order of keys; then
//! `name 00 ROWSxCOLUMNS 00 data` for the tensors in ascending order of names (00 is a zero byte; sizes in decimal, for
//! example `18x512`; data little-endian as stored). Further metadata entries are allowed and covered; further tensors
//! are not allowed. `tools/export_ct_clip.py` writes this format.

use super::rows;
use crate::archive::{Archive, Writer};
use crate::error::{Error, Result};
use crate::labels;
use serde_json::json;
use std::collections::HashMap;
use std::path::Path;

const FORMAT: &str = "x2ct-cache-1";
const NAMES: [&str; 4] = ["ct", "prompts_negative", "prompts_positive", "report"];

/// Teacher embeddings of paired volumes and reports. See the module's description for the meaning of each part.
#[derive(Clone, Debug, PartialEq)]
pub struct EmbeddingCache {
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
        let cache = EmbeddingCache {
            ids,
            ct,
            report,
            dim,
            prompts_positive,
            prompts_negative,
            teacher: text("teacher")?,
            checkpoint_digest: text("checkpoint_digest")?,
            preprocessing_digest: text("preprocessing_digest")?,
        };
        cache.validate().map_err(|e| Error::file(path, e.to_string(), ADVICE))?;
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

    /// Refuses a cache of another teacher.
    pub fn expect_teacher(&self, expected: &str) -> Result<()> {
        expect("teacher", &self.teacher, expected)
    }

    /// Refuses a cache of another checkpoint.
    pub fn expect_checkpoint(&self, expected_digest: &str) -> Result<()> {
        expect("checkpoint digest", &self.checkpoint_digest, expected_digest)
    }

    /// Refuses a cache made with another preprocessing.
    pub fn expect_preprocessing(&self, expected_digest: &str) -> Result<()> {
        expect("preprocessing digest", &self.preprocessing_digest, expected_digest)
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
        Ok(())
    }
}

fn expect(what: &str, found: &str, expected: &str) -> Result<()> {
    if found == expected {
        return Ok(());
    }
    Err(Error::argument(
        "embedding cache",
        format!("its {what} is {found:?}, but {expected:?} is expected"),
        "use the cache that belongs to this configuration, or write it again",
    ))
}
