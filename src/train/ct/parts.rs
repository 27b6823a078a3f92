//! Embeddings of a long run, kept piece by piece in a folder, so that a run that was stopped or killed goes on.
//!
//! Every part is an [`Archive`] `x2ct-embeddings-1` with the tensor `ct` [n, dim], the ids, and the origin: what model, preprocessing
//! and texts it is of. A part appears whole or not at all, so what is there counts.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::archive::{Archive, Writer};
use crate::data::rows;
use crate::files::create_folder;
use crate::{Error, Result};

const FORMAT: &str = "x2ct-embeddings-1";

pub(super) struct Parts {
    /// None: nothing is kept.
    folder: Option<PathBuf>,
    origin: String,
    dim: usize,
    /// Parts in the folder.
    count: usize,
    /// By id.
    done: HashMap<String, Vec<f32>>,
    /// Done and not kept yet.
    fresh: Vec<String>,
}

impl Parts {
    /// Reads what an earlier run has kept.
    ///
    /// # Errors
    /// A part that is damaged or of another origin.
    pub fn open(folder: Option<&Path>, origin: &str, dim: usize) -> Result<Self> {
        let mut parts = Parts {
            folder: folder.map(Path::to_path_buf),
            origin: origin.into(),
            dim,
            count: 0,
            done: HashMap::new(),
            fresh: Vec::new(),
        };
        let Some(folder) = folder else { return Ok(parts) };
        create_folder(folder)?;
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
        if archive.get("origin")? != self.origin {
            let problem = "is of another checkpoint, or of volumes or texts prepared in another way";
            return Err(Error::file(path, problem, format!("finish that run, name another --out, or {advice}")));
        }
        let ids: Vec<String> = archive.get_json("ids")?;
        let (dim, [ct]) = archive.matrices([("ct", ids.len())])?;
        if dim != self.dim || rows::check_normalised("embeddings", &ct, dim).is_err() {
            return Err(Error::file(path, "does not hold embeddings of the model", advice));
        }
        self.done.extend(ids.into_iter().zip(ct.chunks_exact(dim).map(<[f32]>::to_vec)));
        Ok(true)
    }

    /// Whether all of these are done.
    pub fn hold(&self, ids: &[String]) -> bool {
        ids.iter().all(|id| self.done.contains_key(id))
    }

    pub fn add(&mut self, ids: &[String], rows: &[f32]) {
        self.done.extend(ids.iter().cloned().zip(rows.chunks_exact(self.dim).map(<[f32]>::to_vec)));
        self.fresh.extend_from_slice(ids);
    }

    /// Writes what is done and not kept yet as a part.
    pub fn keep(&mut self) -> Result<()> {
        let (Some(folder), false) = (&self.folder, self.fresh.is_empty()) else { return Ok(()) };
        let ct = self.select(&self.fresh)?;
        let mut archive = Writer::new(FORMAT);
        archive.set("origin", self.origin.as_str());
        archive.set("ids", json!(self.fresh).to_string());
        archive.put_f32("ct", &[self.fresh.len(), self.dim], &ct);
        archive.write(&part(folder, self.count))?;
        self.count += 1;
        self.fresh.clear();
        Ok(())
    }

    /// [ids, dim].
    pub fn select(&self, ids: &[String]) -> Result<Vec<f32>> {
        let mut all = Vec::with_capacity(ids.len() * self.dim);
        for id in ids {
            let row = self.done.get(id);
            all.extend(row.ok_or_else(|| Error::argument("embeddings", format!("lack {id}"), "this is a defect"))?);
        }
        Ok(all)
    }

    /// Removes the folder.
    pub fn close(self) -> Result<()> {
        let Some(folder) = &self.folder else { return Ok(()) };
        std::fs::remove_dir_all(folder).map_err(|e| Error::io(folder, "remove the folder", &e))
    }
}

fn part(folder: &Path, index: usize) -> PathBuf {
    folder.join(format!("part-{index:06}.safetensors"))
}
