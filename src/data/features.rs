//! Features of images as files: what a frozen encoder gives each of them, for retrieval, zero-shot detection and probes.
//!
//! # Format `x2ct-features-1`
//! An [`Archive`] with the tensor `features` [N, d] f32, finite, of any length (an x2ct encoder's rows are L2-normalised). Metadata:
//!
//! | key | is |
//! |---|---|
//! | `ids` | JSON array of N distinct strings: row i belongs to `ids[i]` |
//! | `encoder` | name of the model |
//! | `ct_digests` | JSON array: the digest of the CT behind each row ([`super::cts`]); may be absent |
//! | `provenance` | see [`super::provenance`]; may be absent in files of other writers |
//! | `checksum` | that of [`crate::archive`] |
//!
//! An embedding cache ([`super::cache`]) is read as features too: those of its CTs, or of its reports ([`FeatureSet::open`]).

use std::path::Path;
use std::str::FromStr;

use serde_json::json;

use super::cache::EmbeddingCache;
use super::cts::Cts;
use super::provenance::{Content, Provenance, fields};
use super::rows;
use crate::archive::{Archive, Writer};
use crate::error::{Error, Result};

const FORMAT: &str = "x2ct-features-1";
const ADVICE: &str = "make the features again";

/// Features of images. See the module's description.
#[derive(Clone, Debug, PartialEq)]
pub struct FeatureSet {
    /// The images, each once.
    pub ids: Vec<String>,
    /// `[ids, dim]`.
    pub features: Vec<f32>,
    /// Values of one image.
    pub dim: usize,
    /// Name of the encoder.
    pub encoder: String,
    /// The CT behind each row.
    pub cts: Cts,
    /// How the features were made, and of what; [`Self::provenance`] adds the content.
    pub made: Provenance,
}

/// Which embeddings of a cache are taken as features.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tower {
    /// Those of CT volumes.
    #[default]
    Ct,
    /// Those of reports.
    Report,
}

impl Tower {
    /// Names of the towers.
    pub const NAMES: [&str; 2] = ["ct", "report"];
}

impl FromStr for Tower {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let all = [Tower::Ct, Tower::Report];
        all.into_iter().find(|&tower| Self::NAMES[tower as usize] == name).ok_or_else(|| {
            let hint = format!("choose one of {}", Self::NAMES.join(", "));
            Error::argument("tower", format!("unknown tower `{name}`"), hint)
        })
    }
}

impl FeatureSet {
    /// Whether a file is an embedding cache, which has two towers.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn has_towers(path: impl AsRef<Path>) -> Result<bool> {
        Ok(Archive::format_of(path.as_ref())?.as_deref() == Some(super::cache::FORMAT))
    }

    /// Features of a file of their own, or of an embedding cache, where `tower` says which of its embeddings.
    ///
    /// # Errors
    /// Those of [`Self::read`] and [`EmbeddingCache::read`].
    pub fn open(path: impl AsRef<Path>, tower: Tower) -> Result<Self> {
        match Self::has_towers(&path)? {
            true => Ok(Self::of_cache(&EmbeddingCache::read(path)?, tower)),
            false => Self::read(path),
        }
    }

    /// Those of a tower of an embedding cache.
    pub fn of_cache(cache: &EmbeddingCache, tower: Tower) -> Self {
        let (made, encoder) = (cache.provenance(), cache.teacher.clone());
        let features = match tower {
            Tower::Ct => cache.ct.clone(),
            Tower::Report => cache.report.clone(),
        };
        FeatureSet { ids: cache.ids.clone(), features, dim: cache.dim, encoder, cts: cache.cts.clone(), made }
    }

    /// Reads and verifies a whole file.
    ///
    /// # Errors
    /// A file that is absent, of another format, cut short or changed; an id twice; a value that is not finite (by row); another
    /// number of rows than ids; provenance of other content.
    pub fn read(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let archive = Archive::read(path, FORMAT, "features", ADVICE)?;
        let ids: Vec<String> = archive.get_json("ids")?;
        let (dim, [features]) = archive.matrices([("features", ids.len())])?;
        let encoder = archive.get("encoder")?.to_string();
        let cts = Cts::read(&archive, ids.len())?;
        let made = Provenance::unknown(fields(json!({"encoder": encoder})));
        let mut set = FeatureSet { ids, features, dim, encoder, cts, made };
        set.validate().map_err(|e| Error::file(path, e.to_string(), ADVICE))?;
        if let Some(recorded) = Provenance::read(&archive, &set.digest())? {
            set.made = Cts::default().add_to(recorded.holding(String::new(), 0), &[]);
        }
        Ok(set)
    }

    /// Writes the file atomically and synced; equal features give equal bytes.
    ///
    /// # Errors
    /// Content that [`Self::read`] would refuse; a file that cannot be written.
    pub fn write(&self, path: impl AsRef<Path>) -> Result<()> {
        self.validate()?;
        let mut archive = Writer::new(FORMAT);
        archive.set("ids", json!(self.ids).to_string());
        archive.set("encoder", self.encoder.as_str());
        self.cts.record(&mut archive);
        self.provenance().record(&mut archive);
        archive.put_f32("features", &[self.ids.len(), self.dim], &self.features);
        archive.write(path.as_ref())
    }

    /// What the features are, and how they were made.
    pub fn provenance(&self) -> Provenance {
        self.cts.add_to(self.made.holding(self.digest(), self.ids.len()), &self.ids)
    }

    /// The features of some of the images, by their places.
    pub fn select(&self, places: &[usize]) -> Self {
        FeatureSet {
            ids: places.iter().map(|&at| self.ids[at].clone()).collect(),
            features: rows::select(&self.features, self.dim, places),
            dim: self.dim,
            encoder: self.encoder.clone(),
            cts: self.cts.select(places),
            made: self.made.clone(),
        }
    }

    /// The features with rows of length 1: as they are where all have it, or divided by their lengths.
    ///
    /// # Errors
    /// A row of zeros, named by its id.
    pub fn normalised(&self) -> Result<Vec<f32>> {
        let mut features = self.features.clone();
        let zeros = features.chunks_exact(self.dim.max(1)).position(|row| row.iter().all(|&value| value == 0.0));
        if let Some(at) = zeros {
            let hint = "they have no direction to compare: leave the image out, or embed it again";
            return Err(Error::argument(&self.ids[at], "its features are all zeros", hint));
        }
        if rows::check_normalised("features", &features, self.dim).is_err() {
            rows::l2_normalise("features", &mut features, self.dim)?;
        }
        Ok(features)
    }

    /// BLAKE3 of ids and features.
    fn digest(&self) -> String {
        let mut content = Content::of("features").and(self.dim.to_string());
        for (id, row) in self.ids.iter().zip(self.features.chunks_exact(self.dim.max(1))) {
            content.add(id);
            content.add_f32(row);
        }
        content.digest()
    }

    fn validate(&self) -> Result<()> {
        let refuse = |problem: String, hint: &str| Err(Error::argument("features", problem, hint));
        if self.encoder.is_empty() {
            return refuse("their encoder is empty".into(), "say where the features come from");
        }
        if let Some(id) = rows::first_repeated(&self.ids) {
            return refuse(format!("id {id:?} stands twice"), "give each image one row");
        }
        let found = rows::check("features", &self.features, self.dim)?;
        if found != self.ids.len() {
            return refuse(format!("{found} rows for {} ids", self.ids.len()), "pass one row an id");
        }
        self.cts.expect_rows(self.ids.len())
    }
}
