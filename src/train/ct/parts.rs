//! Embeddings of a long run, kept piece by piece in a folder, so that a run that was stopped or killed goes on.
//!
//! Every part is an [`Archive`] `x2ct-embeddings-2` with the tensor `ct` [n, dim], `digests` of the content that each row is the
//! embedding of, and of what model and preparation they are. A part appears whole or not at all, so what is there counts.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::archive::{Archive, Writer};
use crate::data::provenance::short;
use crate::data::rows;
use crate::files::Claim;
use crate::{Error, Result};

const FORMAT: &str = "x2ct-embeddings-2";

pub(super) struct Parts {
    /// None: nothing is kept.
    folder: Option<PathBuf>,
    /// Digest of the model's checkpoint; how the volumes were prepared.
    origin: [String; 2],
    dim: usize,
    /// Parts in the folder.
    count: usize,
    /// By the digest of a volume's content.
    done: HashMap<String, Vec<f32>>,
    /// Done and not kept yet.
    fresh: Vec<String>,
    /// Of the folder.
    _claim: Option<Claim>,
}

impl Drop for Parts {
    /// Leaves no folder without a part.
    fn drop(&mut self) {
        if let Some(folder) = &self.folder {
            // One that holds something stays.
            let _ = std::fs::remove_dir(folder);
        }
    }
}

impl Parts {
    /// Reads what an earlier run has kept.
    ///
    /// # Errors
    /// A part that is damaged or of another origin; a folder that another process works in; a file where the folder would be.
    pub fn open(folder: Option<&Path>, origin: [&str; 2], dim: usize) -> Result<Self> {
        if let Some(file) = folder.filter(|folder| folder.exists() && !folder.is_dir()) {
            let problem = "is no folder, and finished embeddings are kept in one of this name until the cache is whole";
            return Err(Error::file(file, problem, "move it away, or name another --out"));
        }
        let mut parts = Parts {
            folder: folder.map(Path::to_path_buf),
            origin: origin.map(str::to_string),
            dim,
            count: 0,
            done: HashMap::new(),
            fresh: Vec::new(),
            _claim: folder.map(Claim::of).transpose()?,
        };
        let Some(folder) = folder else { return Ok(parts) };
        while parts.read(&part(folder, parts.count))? {
            parts.count += 1;
        }
        Ok(parts)
    }

    /// Whether there is such a part.
    fn read(&mut self, path: &Path) -> Result<bool> {
        let advice = "delete the folder to begin anew";
        if !path.exists() {
            return Ok(false);
        }
        let archive = Archive::read(path, FORMAT, "part of a cache", advice)?;
        let hint = || format!("finish that run, name another --out, or {advice}");
        let ([checkpoint, preparation], found) = (&self.origin, archive.get("checkpoint")?);
        if found != checkpoint {
            let problem = format!("is of the checkpoint {}, not of {}", short(found), short(checkpoint));
            return Err(Error::file(path, problem, hint()));
        }
        if archive.get("preparation")? != preparation {
            return Err(Error::file(path, "is of volumes prepared in another way", hint()));
        }
        let digests: Vec<String> = archive.get_json("digests")?;
        let (dim, [ct]) = archive.matrices([("ct", digests.len())])?;
        if dim != self.dim || rows::check_normalised("embeddings", &ct, dim).is_err() {
            return Err(Error::file(path, "does not hold embeddings of the model", advice));
        }
        self.know(&digests, &ct);
        Ok(true)
    }

    /// Embeddings [digests, dim] that are kept elsewhere.
    pub fn know(&mut self, digests: &[String], ct: &[f32]) {
        self.done.extend(digests.iter().cloned().zip(ct.chunks_exact(self.dim).map(<[f32]>::to_vec)));
    }

    /// Whether the embedding of this content is done.
    pub fn hold(&self, digest: &str) -> bool {
        self.done.contains_key(digest)
    }

    /// The embedding of this content is done.
    pub fn add(&mut self, digest: &str, embedding: Vec<f32>) {
        self.done.insert(digest.into(), embedding);
        self.fresh.push(digest.into());
    }

    /// Writes what is done and not kept yet as a part.
    pub fn keep(&mut self) -> Result<()> {
        let (Some(folder), false) = (&self.folder, self.fresh.is_empty()) else { return Ok(()) };
        let ct = self.select(&self.fresh)?;
        let mut archive = Writer::new(FORMAT);
        archive.set("checkpoint", self.origin[0].as_str());
        archive.set("preparation", self.origin[1].as_str());
        archive.set("digests", json!(self.fresh).to_string());
        archive.put_f32("ct", &[self.fresh.len(), self.dim], &ct);
        archive.write(&part(folder, self.count))?;
        self.count += 1;
        self.fresh.clear();
        Ok(())
    }

    /// [digests, dim].
    pub fn select(&self, digests: &[String]) -> Result<Vec<f32>> {
        let mut all = Vec::with_capacity(digests.len() * self.dim);
        for digest in digests {
            let row = self.done.get(digest);
            all.extend(row.ok_or_else(|| Error::argument("embeddings", format!("lack {digest}"), "this is a defect"))?);
        }
        Ok(all)
    }

    /// Removes the folder, if something was kept.
    pub fn close(self) -> Result<()> {
        let Some(folder) = self.folder.as_ref().filter(|folder| folder.exists()) else { return Ok(()) };
        std::fs::remove_dir_all(folder).map_err(|e| Error::io(folder, "remove the folder", &e))
    }
}

fn part(folder: &Path, index: usize) -> PathBuf {
    folder.join(format!("part-{index:06}.safetensors"))
}
