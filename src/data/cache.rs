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
//! `name 00 ROWSxCOLUMNS 00 data` for the tensors in ascending order of names (00 is a zero byte; sizes in decimal, for example
//! `18x512`; data little-endian as stored). Further metadata entries are allowed and covered; further tensors are not allowed.
//! `tools/export_ct_clip.py` writes this format.

use super::{labels, rows};
use crate::error::{Error, Result};
use crate::files;
use safetensors::{Dtype, SafeTensors};
use serde_json::json;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;

const FORMAT: &str = "x2ct-cache-1";
const CHECKSUM: &str = "checksum";
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
    /// Errors, all naming the file: absent or unreadable; not this format; cut short or changed in any bit; a non-finite value or a
    /// row that is not L2-normalised (by tensor and row); an id twice.
    pub fn read(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let file = std::fs::File::open(path).map_err(|e| Error::io(path, "open the cache", &e))?;
        // SAFETY: the map is only read, and dropped before this function returns. Caches are replaced by renaming, never written
        // in place, so a mapped one does not change.
        let bytes = unsafe { memmap2::Mmap::map(&file) }.map_err(|e| Error::io(path, "map the cache", &e))?;
        Self::parse(&bytes).map_err(|problem| Error::file(path, problem, "write the cache again"))
    }

    fn parse(bytes: &[u8]) -> Result<Self, String> {
        let (_, header) =
            SafeTensors::read_metadata(bytes).map_err(|e| format!("is not a whole safetensors file ({e})"))?;
        let file = SafeTensors::deserialize(bytes).map_err(|e| format!("is not a whole safetensors file ({e})"))?;
        let mut metadata: BTreeMap<String, String> =
            header.metadata().clone().unwrap_or_default().into_iter().collect();
        let mut take = |key: &str| metadata.remove(key).ok_or_else(|| format!("has no metadata entry {key:?}"));
        let checksum = take(CHECKSUM)?;
        let format = metadata.get("format").map_or("", |s| s);
        if format != FORMAT {
            return Err(format!("has format {format:?}, not {FORMAT:?}"));
        }
        let mut names = file.names();
        names.sort_unstable();
        if names != NAMES {
            return Err(format!("holds the tensors {}, not {}", names.join(", "), NAMES.join(", ")));
        }
        let mut tensors = Vec::new();
        for name in NAMES {
            let view = file.tensor(name).map_err(|e| e.to_string())?;
            let (&[rows, dim], Dtype::F32) = (view.shape(), view.dtype()) else {
                return Err(format!("tensor {name} is {:?} {:?}, not F32 [rows, dim]", view.dtype(), view.shape()));
            };
            tensors.push((name, rows, dim, view.data()));
        }
        let computed = digest(&metadata, tensors.iter().copied());
        if computed != checksum {
            return Err(format!(
                "its content has checksum {computed}, but {checksum} is recorded: it was changed or damaged"
            ));
        }
        let mut take = |key: &str| metadata.remove(key).ok_or_else(|| format!("has no metadata entry {key:?}"));
        let ids: Vec<String> =
            serde_json::from_str(&take("ids")?).map_err(|e| format!("its ids are no JSON array ({e})"))?;
        let dim = tensors[0].2;
        for &(name, rows, columns, _) in &tensors {
            let want = if name.starts_with("prompts") { labels::COUNT } else { ids.len() };
            if (rows, columns) != (want, dim) {
                return Err(format!("tensor {name} is {rows}x{columns}, not {want}x{dim}"));
            }
        }
        let floats =
            |i: usize| -> Vec<f32> { tensors[i].3.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect() };
        let cache = EmbeddingCache {
            ids,
            ct: floats(0),
            prompts_negative: floats(1),
            prompts_positive: floats(2),
            report: floats(3),
            dim,
            teacher: take("teacher")?,
            checkpoint_digest: take("checkpoint_digest")?,
            preprocessing_digest: take("preprocessing_digest")?,
        };
        cache.validate().map_err(|e| e.to_string())?;
        Ok(cache)
    }

    /// Writes the cache atomically and synced; equal caches give equal bytes.
    ///
    /// Errors: content that [`Self::read`] would refuse; a file that cannot be written.
    pub fn write(&self, path: impl AsRef<Path>) -> Result<()> {
        self.validate()?;
        let tensors = [&self.ct, &self.prompts_negative, &self.prompts_positive, &self.report];
        let data: Vec<u8> = tensors.iter().flat_map(|values| values.iter()).flat_map(|v| v.to_le_bytes()).collect();
        let mut metadata = BTreeMap::from([
            ("format".to_string(), FORMAT.to_string()),
            ("ids".into(), json!(self.ids).to_string()),
            ("teacher".into(), self.teacher.clone()),
            ("checkpoint_digest".into(), self.checkpoint_digest.clone()),
            ("preprocessing_digest".into(), self.preprocessing_digest.clone()),
        ]);
        let mut entries = serde_json::Map::new();
        let mut views = Vec::new();
        let mut end = 0;
        for (name, values) in NAMES.into_iter().zip(tensors) {
            let (begin, rows) = (end, values.len() / self.dim);
            end += values.len() * 4;
            entries
                .insert(name.into(), json!({"dtype": "F32", "shape": [rows, self.dim], "data_offsets": [begin, end]}));
            views.push((name, rows, self.dim, &data[begin..end]));
        }
        metadata.insert(CHECKSUM.into(), digest(&metadata, views.into_iter()));
        // Not safetensors::serialize: its metadata order is a hash map's, and equal caches shall be equal files.
        entries.insert("__metadata__".into(), json!(metadata));
        let mut header = json!(entries).to_string();
        header.push_str(&" ".repeat(header.len().next_multiple_of(8) - header.len()));
        files::write_atomic(path, &[&(header.len() as u64).to_le_bytes(), header.as_bytes(), &data].concat())
    }

    /// The row of an id. Scans the ids: for many look-ups use [`Self::index`].
    pub fn row(&self, id: &str) -> Option<usize> {
        self.ids.iter().position(|known| known == id)
    }

    /// The row of every id.
    pub fn index(&self) -> HashMap<&str, usize> {
        self.ids.iter().enumerate().map(|(row, id)| (id.as_str(), row)).collect()
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
        let mut seen = HashSet::new();
        if let Some(id) = self.ids.iter().find(|id| !seen.insert(id.as_str())) {
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

/// See the module's description. `metadata` is without the checksum; `tensors` in ascending order of names.
fn digest<'a>(
    metadata: &BTreeMap<String, String>,
    tensors: impl Iterator<Item = (&'a str, usize, usize, &'a [u8])>,
) -> String {
    let mut hasher = blake3::Hasher::new();
    for (key, value) in metadata {
        hasher.update(format!("{key}\0{value}\0").as_bytes());
    }
    for (name, rows, dim, data) in tensors {
        hasher.update(format!("{name}\0{rows}x{dim}\0").as_bytes());
        hasher.update(data);
    }
    hasher.finalize().to_hex().to_string()
}
