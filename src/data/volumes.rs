//! Prepared CT volumes of one shape, read batch by batch: a set is larger than memory.
//!
//! A set is a folder of what `x2ct preprocess` writes, one volume a file; or one packed file; or memory. Stored volumes are
//! [D, H, W] as CT-CLIP and DCFormer name the axes: z (to the head), x (to the left), y (to the back), f32 or bf16. The models
//! compute on [H, W, D], so [`VolumeSet::load`] transposes.
//!
//! # Formats
//! `x2ct-volume-2`, one volume a file, is an [`Archive`] with the tensor `volume` [1, D, H, W] (F32 or BF16) and its companion
//! `volume.blake3`; `x2ct-volumes-1`, the packed file, has all of them, [N, D, H, W]. Metadata: `preset`, JSON of the [`Preset`];
//! `preset_digest`, its BLAKE3; `ct_digest`, that of the CT it was made of ([`provenance::of_ct`](super::provenance::of_ct)), which files
//! of other writers may lack, as `forced` and `hu_source` ([`super::origins`]) and, of a data set, `run` ([`super::ingest`]); of a packed file `ids`, a JSON array of N distinct strings,
//! `ct_digests` ([`super::cts`]), `origins` and `provenance`. Files of `x2ct-volume-1`, which have no companion, are read as well.
//!
//! Opening a set reads no voxel, but those of files without a digest. Every volume is verified when it is loaded. One that cannot be
//! used is refused by name: [`VolumeSet::read`] and [`VolumeSet::load`] stop there, [`VolumeSet::read_usable`] leaves it out.

mod content;
mod read;
mod write;

pub use read::files_of;
pub use write::{Said, write_one};

use std::borrow::Cow;
use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock};

use bytemuck::Pod;
use crossbeam_channel::{Receiver, Sender};
use rayon::prelude::*;
use safetensors::Dtype;
use serde_json::json;

use super::cts::Cts;
use super::origins::{Doubt, Origins};
use super::provenance::{Content, Provenance, fields};
use super::rows;
use crate::archive::{Archive, Digest, Writer};
use crate::ct::Preset;
use crate::device::{Device, HostArray, HostMemory};
use crate::ops::resample::Layout;
use crate::tensor::{DType, Tensor};
use crate::{Error, Result};

/// One volume a file: what `x2ct preprocess` writes.
pub const ONE: &str = "x2ct-volume-2";
/// What it wrote before: no digest of the voxels alone.
const OLD: &str = "x2ct-volume-1";
const PACKED: &str = "x2ct-volumes-1";
/// The tensor of either format.
pub(super) const VOLUME: &str = "volume";
const AGAIN: &str = "prepare the volumes again with `x2ct preprocess`";

/// Prepared volumes of one shape and type, with their ids. See the module's description.
pub struct VolumeSet {
    ids: Vec<String>,
    shape: [usize; 3],
    dtype: DType,
    preset: Preset,
    source: Arc<Source>,
    /// BLAKE3 of each stored volume, once known.
    digests: OnceLock<Vec<Digest>>,
    /// The place of each volume in the source.
    places: Vec<usize>,
    cts: Cts,
    origins: Origins,
    /// False for files that are without a digest of their voxels.
    known: bool,
}

/// A volume or radiograph that is left out of a set, and why.
#[derive(Debug, Clone)]
pub struct LeftOut {
    /// What the set would call it.
    pub id: String,
    /// What is wrong, with the file.
    pub error: Error,
}

enum Source {
    /// All volumes, in order.
    Memory(Vec<u8>),
    /// One volume a file.
    Files(Vec<PathBuf>),
    Packed(Archive),
}

impl VolumeSet {
    /// A set in memory: `voxels` are [ids, D, H, W], stored as `dtype`, little-endian.
    ///
    /// # Errors
    /// No volume, an id twice, another number of bytes than ids, shape and type say.
    pub fn new(ids: Vec<String>, shape: [usize; 3], dtype: DType, voxels: Vec<u8>, preset: Preset) -> Result<Self> {
        let (source, digests) = (Source::Memory(Vec::new()).into(), OnceLock::new());
        let places = (0..ids.len()).collect();
        let (cts, origins) = (Cts::default(), Origins::default());
        let set = VolumeSet { ids, shape, dtype, preset, source, digests, places, cts, origins, known: true };
        if voxels.len() != set.ids.len() * set.volume_bytes() || voxels.is_empty() {
            let (bytes, n, kind) = (voxels.len(), set.ids.len(), dtype.name());
            let problem = format!("{bytes} bytes for {n} volumes of {shape:?} {kind}");
            return Err(Error::argument("volumes", problem, "pass whole volumes, and at least one"));
        }
        check_ids(&set.ids).map_err(|problem| Error::argument("volumes", problem, "name each once"))?;
        Ok(VolumeSet { source: Source::Memory(voxels).into(), ..set })
    }

    /// The set with the digest of the CT that each volume was made of ([`of_ct`](super::provenance::of_ct)).
    ///
    /// # Errors
    /// Another number of digests than volumes.
    pub fn with_cts(self, cts: Vec<String>) -> Result<Self> {
        let cts = Cts::new(cts);
        cts.expect_rows(self.ids.len())?;
        Ok(VolumeSet { cts, ..self })
    }

    /// The set of some of its volumes: `rows` are their places in it, in the order they are to have. Panics where one is none.
    ///
    /// # Errors
    /// No row.
    pub fn select(&self, rows: &[usize]) -> Result<Self> {
        if rows.is_empty() {
            return Err(Error::argument("volumes", "none of them is left", "pass at least one that can be used"));
        }
        let digests: Option<Vec<Digest>> = self.digests.get().map(|all| rows.iter().map(|&row| all[row]).collect());
        Ok(VolumeSet {
            ids: rows.iter().map(|&row| self.ids[row].clone()).collect(),
            shape: self.shape,
            dtype: self.dtype,
            preset: self.preset.clone(),
            source: self.source.clone(),
            digests: digests.map_or_else(OnceLock::new, OnceLock::from),
            places: rows.iter().map(|&row| self.places[row]).collect(),
            cts: self.cts.select(rows),
            origins: self.origins.select(rows),
            known: self.known,
        })
    }

    /// Writes the set as one packed file, whole or not at all, one volume in memory at a time; each read twice where its digest is not known.
    pub fn write(&self, path: &Path) -> Result<()> {
        let row = |i: usize| Ok(Cow::Owned(self.with_stored(i, <[u8]>::to_vec)?));
        let mut archive = Writer::new(PACKED);
        archive.set("ids", json!(self.ids).to_string());
        archive.set("preset", json!(self.preset).to_string());
        archive.set("preset_digest", self.preset.digest());
        self.cts.record(&mut archive);
        self.origins.record(&mut archive);
        Provenance { known: true, ..self.provenance()? }.record(&mut archive);
        let kind = match self.dtype {
            DType::F32 => Dtype::F32,
            DType::Bf16 => Dtype::BF16,
        };
        let [d, h, w] = self.shape;
        archive.put_rows(VOLUME, kind, &[self.ids.len(), d, h, w], self.digests()?, &row);
        archive.write(path)
    }

    /// One id a volume, in order.
    pub fn ids(&self) -> &[String] {
        &self.ids
    }

    /// D, H, W of a stored volume.
    pub fn shape(&self) -> [usize; 3] {
        self.shape
    }

    /// Data type in which a voxel is stored.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// How the volumes were prepared.
    pub fn preset(&self) -> &Preset {
        &self.preset
    }

    /// BLAKE3 of [`Self::preset`], lower-case hex.
    pub fn preprocessing_digest(&self) -> String {
        self.preset.digest()
    }

    /// BLAKE3 of the stored bytes of every volume, in order.
    ///
    /// # Errors
    /// A volume in memory that [`Self::load`] would refuse.
    pub fn digests(&self) -> Result<&[Digest]> {
        if let Some(digests) = self.digests.get() {
            return Ok(digests);
        }
        let read = (0..self.ids.len()).into_par_iter().map(|row| self.read_digest(row));
        let digests = read.collect::<Result<Vec<Digest>>>()?;
        Ok(self.digests.get_or_init(|| digests))
    }

    /// BLAKE3 of the stored bytes of one volume.
    fn read_digest(&self, index: usize) -> Result<Digest> {
        self.with_stored(index, |data| *blake3::hash(data).as_bytes())
    }

    /// What the set holds, whatever it is stored in, and how it was prepared.
    ///
    /// # Errors
    /// Those of [`Self::digests`].
    pub fn provenance(&self) -> Result<Provenance> {
        let mut content = Content::of("volumes").and(format!("{} {:?}", self.dtype.name(), self.shape));
        for (id, digest) in self.ids.iter().zip(self.digests()?) {
            content.add(id);
            content.add(digest);
        }
        let settings = fields(json!({
            "preset": self.preset, "type": self.dtype.name(), "shape": self.shape, "preset_digest": self.preset.digest(),
        }));
        let made = Provenance { known: self.known, ..Provenance::made(settings, []) };
        Ok(self.cts.add_to(made, &self.ids).holding(content.digest(), self.ids.len()))
    }

    /// The CTs that the volumes were made of.
    pub fn cts(&self) -> &Cts {
        &self.cts
    }

    /// What is doubtful of how the CTs were taken: by force, or with HU of several sources.
    pub fn doubts(&self) -> Vec<Doubt> {
        self.origins.doubts_of_volumes(&self.ids)
    }

    /// Bytes of one volume.
    pub fn volume_bytes(&self) -> usize {
        self.shape.iter().product::<usize>() * self.dtype.size()
    }

    /// An error about one volume, with the file it is stored in, or its id in a file of several.
    pub fn error_of(&self, index: usize, error: Error) -> Error {
        match error {
            Error::File { problem, hint, .. } => self.refuse(index, problem, hint),
            Error::Argument { what, problem, hint } => self.refuse(index, format!("{what}: {problem}"), hint),
            other => other,
        }
    }

    fn refuse(&self, index: usize, problem: String, hint: impl Into<String>) -> Error {
        let id = self.ids[index].clone();
        match &*self.source {
            Source::Memory(_) => Error::argument(id, problem, hint),
            Source::Packed(archive) => {
                Error::File { path: archive.path().to_path_buf(), field: Some(id), problem, hint: hint.into() }
            }
            Source::Files(files) => Error::file(&files[self.places[index]], problem, hint),
        }
    }

    /// What `f` makes of the stored bytes of one volume, [D, H, W], which are verified first.
    fn with_stored<R>(&self, index: usize, f: impl FnOnce(&[u8]) -> R) -> Result<R> {
        let (bytes, at) = (self.volume_bytes(), self.places[index]);
        match &*self.source {
            Source::Memory(all) => {
                let data = &all[at * bytes..][..bytes];
                self.check_content(index, data)?;
                Ok(f(data))
            }
            Source::Packed(archive) => {
                archive.verify_rows(VOLUME, at..at + 1).map_err(|e| self.error_of(index, e))?;
                let data = &archive.tensor(VOLUME)?.2[at * bytes..][..bytes];
                self.check_content(index, data)?;
                Ok(f(data))
            }
            Source::Files(files) => {
                let archive = read::open_one(&files[at])?;
                if archive.digests(VOLUME).is_ok() {
                    archive.verify_rows(VOLUME, 0..1)?;
                }
                let (.., data) = archive.tensor(VOLUME)?;
                let recorded = self.digests.get().map(|digests| digests[index]);
                let other = |digest: Digest| match archive.digests(VOLUME) {
                    Ok(found) => found != [digest],
                    Err(_) => *blake3::hash(data).as_bytes() != digest,
                };
                let replaced = recorded.is_some_and(other) || archive.get("preset_digest")? != self.preset.digest();
                if data.len() != bytes || replaced {
                    let problem = "was replaced by another volume while it was in use";
                    return Err(self.refuse(index, problem.into(), "run again"));
                }
                self.check_content(index, data)?;
                Ok(f(data))
            }
        }
    }

    /// Volumes as the model takes them, [rows, 1, H, W, D], in device memory.
    ///
    /// # Errors
    /// A row that does not exist, a file that has become unreadable or was damaged, a device without the memory.
    pub fn load(&self, device: &Device, rows: &[u32]) -> Result<Tensor> {
        self.to_device(device, &self.gather(device, rows)?, rows.len())
    }

    /// The bytes of [`Self::load`] in this machine's memory: page-locked where the device copies from it.
    fn gather(&self, device: &Device, rows: &[u32]) -> Result<HostArray<u8>> {
        let bytes = self.volume_bytes();
        if let Some(row) = rows.iter().find(|&&row| row as usize >= self.ids.len()) {
            let problem = format!("there is no volume {row} among {}", self.ids.len());
            return Err(Error::argument("volumes", problem, "pass rows of the set"));
        }
        let memory: Option<HostMemory> = device.host_memory(rows.len() * bytes);
        let mut memory = memory.ok_or_else(|| Error::OutOfMemory {
            device: "this machine".into(),
            what: format!("{} volumes", rows.len()),
            requested: rows.len() * bytes,
            free: 0,
        })?;
        let target = &mut memory.bytes_mut()[..rows.len() * bytes];
        target.par_chunks_exact_mut(bytes).zip(rows).try_for_each(|(to, &row)| {
            self.with_stored(row as usize, |from| match self.dtype {
                DType::F32 => self.transpose::<[u8; 4]>(from, to),
                DType::Bf16 => self.transpose::<[u8; 2]>(from, to),
            })
        })?;
        Ok(memory.finish(0, rows.len() * bytes))
    }

    /// [D, H, W] to [H, W, D], elements of type `T`.
    fn transpose<T: Pod + Send + Sync>(&self, from: &[u8], to: &mut [u8]) {
        // As many columns at a time as leave both sides in the cache.
        const COLUMNS: usize = 64;
        let [depth, height, width] = self.shape;
        let (from, to): (&[T], &mut [T]) = (bytemuck::cast_slice(from), bytemuck::cast_slice_mut(to));
        to.par_chunks_mut(COLUMNS * depth).enumerate().for_each(|(block, to)| {
            let columns = to.len() / depth;
            for z in 0..depth {
                let line = &from[z * height * width + block * COLUMNS..][..columns];
                for (column, value) in line.iter().enumerate() {
                    to[column * depth + z] = *value;
                }
            }
        });
    }

    fn to_device(&self, device: &Device, bytes: &HostArray<u8>, count: usize) -> Result<Tensor> {
        let [d, h, w] = self.shape;
        Ok(Tensor::from_buffer(device.share(bytes, "CT volumes")?, [count, 1, h, w, d], self.dtype))
    }
}

/// Refuses a preset whose volumes no model takes.
///
/// # Errors
/// An axis order that is not DCFormer's.
pub fn check_layout(preset: &Preset) -> Result<()> {
    if preset.layout == Layout::Zxy {
        return Ok(());
    }
    let problem = format!("{} stores z, y, x; DCFormer takes z, x, y", preset.name);
    Err(Error::argument("preset", problem, "prepare the volumes with a DCFormer or CT-CLIP preset"))
}

fn check_ids(ids: &[String]) -> Result<(), String> {
    rows::first_repeated(ids).map_or(Ok(()), |id| Err(format!("the id {id} occurs twice")))
}

/// Reads volumes ahead of their use, on a thread of its own: one batch waits while another is worked on.
pub struct VolumeLoader {
    set: Arc<VolumeSet>,
    device: Device,
    requests: Sender<Vec<u32>>,
    ready: Receiver<Result<HostArray<u8>>>,
    /// Asked for and not yet taken, oldest first.
    ahead: Mutex<VecDeque<Vec<u32>>>,
}

impl VolumeLoader {
    /// Over a set, for this device.
    pub fn new(device: &Device, set: Arc<VolumeSet>) -> Self {
        let (requests, asked) = crossbeam_channel::unbounded::<Vec<u32>>();
        let (done, ready) = crossbeam_channel::unbounded();
        let (of, on) = (set.clone(), device.clone());
        // Ends when the loader, which owns the other ends, is dropped.
        std::thread::spawn(move || {
            for rows in asked {
                if done.send(of.gather(&on, &rows)).is_err() {
                    break;
                }
            }
        });
        VolumeLoader { set, device: device.clone(), requests, ready, ahead: Mutex::default() }
    }

    /// The volumes.
    pub fn set(&self) -> &VolumeSet {
        &self.set
    }

    /// The volumes, to keep.
    pub fn shared(&self) -> Arc<VolumeSet> {
        self.set.clone()
    }

    /// Begins to read these volumes, which are the next to be asked for, unless others wait already.
    pub fn ahead(&self, rows: &[u32]) {
        let Ok(mut ahead) = self.ahead.lock() else { return };
        if ahead.is_empty() && !rows.is_empty() && self.requests.send(rows.to_vec()).is_ok() {
            ahead.push_back(rows.to_vec());
        }
    }

    /// [`VolumeSet::load`]: what was read ahead, where that is what is asked for.
    ///
    /// # Errors
    /// Those of [`VolumeSet::load`].
    pub fn load(&self, rows: &[u32]) -> Result<Tensor> {
        let expected = self.ahead.lock().ok().and_then(|mut ahead| ahead.pop_front());
        let read = match expected {
            // What was expected and is not wanted is thrown away.
            Some(expected) => self.ready.recv().ok().filter(|_| expected == rows),
            None => None,
        };
        let bytes = read.unwrap_or_else(|| self.set.gather(&self.device, rows))?;
        self.set.to_device(&self.device, &bytes, rows.len())
    }
}
