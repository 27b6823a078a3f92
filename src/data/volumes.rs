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
//! of other writers may lack; of a packed file `ids`, a JSON array of N distinct strings, `ct_digests` ([`super::cts`]) and
//! `provenance`. Files of `x2ct-volume-1`, which have no companion, are read as well.
//!
//! Opening a set reads no voxel. Every volume is verified when it is loaded.

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
const VOLUME: &str = "volume";
const AGAIN: &str = "prepare the volumes again with `x2ct preprocess`";

/// Prepared volumes of one shape and type, with their ids. See the module's description.
pub struct VolumeSet {
    ids: Vec<String>,
    shape: [usize; 3],
    dtype: DType,
    preset: Preset,
    source: Source,
    /// BLAKE3 of each stored volume, once known.
    digests: OnceLock<Vec<Digest>>,
    cts: Cts,
    /// False for files that are without a digest of their voxels.
    known: bool,
}

enum Source {
    /// All volumes, in order.
    Memory(Vec<u8>),
    /// One volume a file.
    Files(Vec<PathBuf>),
    Packed(Archive),
}

/// One volume's file as it was found: shape, type, preset, digest of the voxels and of the CT they were made of.
type Found = ([usize; 3], DType, Preset, Option<Digest>, Option<String>);

impl VolumeSet {
    /// A set in memory: `voxels` are [ids, D, H, W], stored as `dtype`, little-endian.
    ///
    /// # Errors
    /// No volume, an id twice, another number of bytes than ids, shape and type say.
    pub fn new(ids: Vec<String>, shape: [usize; 3], dtype: DType, voxels: Vec<u8>, preset: Preset) -> Result<Self> {
        let (source, digests) = (Source::Memory(Vec::new()), OnceLock::new());
        let set = VolumeSet { ids, shape, dtype, preset, source, digests, cts: Cts::default(), known: true };
        if voxels.len() != set.ids.len() * set.volume_bytes() || voxels.is_empty() {
            let (bytes, n, kind) = (voxels.len(), set.ids.len(), dtype.name());
            let problem = format!("{bytes} bytes for {n} volumes of {shape:?} {kind}");
            return Err(Error::argument("volumes", problem, "pass whole volumes, and at least one"));
        }
        check_ids(&set.ids).map_err(|problem| Error::argument("volumes", problem, "name each once"))?;
        Ok(VolumeSet { source: Source::Memory(voxels), ..set })
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

    /// Opens a set: a packed file, one volume's file, or a folder with a file for each volume, whose names are the ids.
    ///
    /// # Errors
    /// No such file, another format, a file cut short, volumes of different shapes, types or presets, an axis order that
    /// is not DCFormer's.
    pub fn read(path: &Path) -> Result<Self> {
        if path.is_dir() {
            return Self::read_files(files_of(path)?);
        }
        match Archive::open(path, PACKED, "volumes", AGAIN) {
            Ok(archive) => Self::read_packed(archive),
            // One volume is a set as well.
            Err(error) => open_one(path).map_err(|_| error).and_then(|_| Self::read_files(vec![path.to_path_buf()])),
        }
    }

    /// As [`Self::read`] of a folder or of one volume's file, without some of the files.
    ///
    /// # Errors
    /// Those of [`Self::read`]; no file is left.
    pub fn read_except(path: &Path, except: &[PathBuf]) -> Result<Self> {
        let mut files = if path.is_dir() { files_of(path)? } else { vec![path.to_path_buf()] };
        files.retain(|file| !except.contains(file));
        if files.is_empty() {
            return Err(Error::file(path, "no volume is left that could be prepared", AGAIN));
        }
        Self::read_files(files)
    }

    fn read_files(files: Vec<PathBuf>) -> Result<Self> {
        // Headers alone; the files are many and large.
        let described = files.par_iter().map(|file| describe_one(file)).collect::<Result<Vec<Found>>>()?;
        let (shape, dtype, preset, ..) = described[0].clone();
        if let Some(i) = described.iter().position(|(s, d, p, ..)| (s, d, p) != (&shape, &dtype, &preset)) {
            let (other, kind, name) = (described[i].0, described[i].1.name(), &described[i].2.name);
            let problem = format!(
                "is {other:?} {kind} of preset {name}, {} is {shape:?} {} of preset {}",
                files[0].display(),
                dtype.name(),
                preset.name
            );
            return Err(Error::file(&files[i], problem, "prepare all volumes of a set with one preset and type"));
        }
        let (found, cts): (Vec<_>, Vec<_>) = described.into_iter().map(|(.., digest, ct)| (digest, ct)).unzip();
        let found: Option<Vec<Digest>> = found.into_iter().collect();
        let cts = Cts::new(cts.into_iter().map(Option::unwrap_or_default).collect());
        let known = found.is_some();
        let digests = found.map_or_else(OnceLock::new, OnceLock::from);
        let id = |file: &PathBuf| file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let ids = files.iter().map(id).collect();
        Ok(VolumeSet { ids, shape, dtype, preset, source: Source::Files(files), digests, cts, known })
    }

    fn read_packed(archive: Archive) -> Result<Self> {
        let path = archive.path().to_path_buf();
        let ids: Vec<String> = archive.get_json("ids")?;
        let (dtype, shape, preset) = describe(&archive)?;
        let shape = match shape {
            &[n, d, h, w] if n == ids.len() && n * d * h * w > 0 => [d, h, w],
            _ => {
                let problem = format!("volume has the shape {shape:?} for {} ids", ids.len());
                return Err(Error::file(&path, problem, AGAIN));
            }
        };
        check_ids(&ids).map_err(|problem| Error::file(&path, problem, AGAIN))?;
        let digests = OnceLock::from(archive.digests(VOLUME)?.to_vec());
        let cts = Cts::read(&archive, ids.len())?;
        let set = VolumeSet { ids, shape, dtype, preset, source: Source::Packed(archive), digests, cts, known: true };
        if let Source::Packed(archive) = &set.source {
            Provenance::read(archive, &set.provenance()?.digest)?;
        }
        Ok(set)
    }

    /// Writes the set as one packed file, whole or not at all, one volume in memory at a time; each read twice where its digest is not known.
    pub fn write(&self, path: &Path) -> Result<()> {
        let row = |i: usize| Ok(Cow::Owned(self.with_stored(i, <[u8]>::to_vec)?));
        let mut archive = Writer::new(PACKED);
        archive.set("ids", json!(self.ids).to_string());
        archive.set("preset", json!(self.preset).to_string());
        archive.set("preset_digest", self.preset.digest());
        self.cts.record(&mut archive);
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

    /// How a voxel is stored.
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

    /// BLAKE3 of the stored bytes of every volume, in order. Reads all of them where their files are without.
    ///
    /// # Errors
    /// A file that has become unreadable or was damaged.
    pub fn digests(&self) -> Result<&[Digest]> {
        if let Some(digests) = self.digests.get() {
            return Ok(digests);
        }
        let read = |i| self.with_stored(i, |data| *blake3::hash(data).as_bytes());
        let digests = (0..self.ids.len()).into_par_iter().map(read).collect::<Result<Vec<Digest>>>()?;
        Ok(self.digests.get_or_init(|| digests))
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

    /// Bytes of one volume.
    pub fn volume_bytes(&self) -> usize {
        self.shape.iter().product::<usize>() * self.dtype.size()
    }

    /// What `f` makes of the stored bytes of one volume, [D, H, W], which are verified first.
    fn with_stored<R>(&self, index: usize, f: impl FnOnce(&[u8]) -> R) -> Result<R> {
        let bytes = self.volume_bytes();
        match &self.source {
            Source::Memory(all) => Ok(f(&all[index * bytes..][..bytes])),
            Source::Packed(archive) => {
                archive.verify_rows(VOLUME, index..index + 1)?;
                let data = &archive.tensor(VOLUME)?.2[index * bytes..][..bytes];
                self.check_content(archive.path(), index, data)?;
                Ok(f(data))
            }
            Source::Files(files) => {
                let archive = open_one(&files[index])?;
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
                    return Err(Error::file(&files[index], problem, "run again"));
                }
                self.check_content(&files[index], index, data)?;
                Ok(f(data))
            }
        }
    }

    /// Refuses a stored volume that no chest CT comes out as: one value everywhere, or voxels that are not finite.
    fn check_content(&self, path: &Path, index: usize, data: &[u8]) -> Result<()> {
        let voxel = self.dtype.size();
        // Periodic by one voxel: every byte is the one a voxel before it.
        let constant = data[voxel..] == data[..data.len() - voxel];
        // The sign and the exponent are the last two bytes of both types.
        let endless = data.chunks_exact(voxel).filter(|bytes| {
            let exponent = u16::from_le_bytes([bytes[voxel - 2], bytes[voxel - 1]]);
            exponent & 0x7f80 == 0x7f80
        });
        let problem = match (constant, endless.count()) {
            (_, count @ 1..) => format!("has {count} voxels that are not finite"),
            (true, _) => "is one value everywhere: no chest CT".into(),
            (false, 0) => return Ok(()),
        };
        let hint = "check the CT it was made of, and leave it out";
        Err(Error::file(path, format!("{} {problem}", self.ids[index]), hint))
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

/// A file of one volume, of either version; of the old one all of it is verified here.
fn open_one(path: &Path) -> Result<Archive> {
    match Archive::open(path, OLD, "volume", AGAIN) {
        Ok(_) => Archive::read(path, OLD, "volume", AGAIN),
        Err(_) => Archive::read(path, ONE, "volume", AGAIN),
    }
}

fn describe_one(file: &Path) -> Result<Found> {
    // Of the old version, whose checksum covers the voxels, the structure alone.
    let archive = match Archive::open(file, OLD, "volume", AGAIN) {
        Ok(archive) => archive,
        Err(_) => Archive::read(file, ONE, "volume", AGAIN)?,
    };
    let (dtype, shape, preset) = describe(&archive)?;
    let &[1, d, h, w] = shape else {
        return Err(Error::file(file, format!("volume has the shape {shape:?}, not [1, D, H, W]"), AGAIN));
    };
    let (digest, ct) = (archive.digests(VOLUME).ok().map(|digests| digests[0]), archive.get("ct_digest").ok());
    Ok(([d, h, w], dtype, preset, digest, ct.map(String::from)))
}

/// Type, shape and preset of a file.
fn describe(archive: &Archive) -> Result<(DType, &[usize], Preset)> {
    let refuse = |problem: String| Error::file(archive.path(), problem, AGAIN);
    let (dtype, shape, _) = archive.tensor(VOLUME)?;
    let dtype = match dtype {
        Dtype::F32 => DType::F32,
        Dtype::BF16 => DType::Bf16,
        _ => return Err(refuse(format!("volume is {dtype:?}, not F32 or BF16"))),
    };
    let preset: Preset = archive.get_json("preset")?;
    if preset.digest() != archive.get("preset_digest")? {
        return Err(refuse("its preset_digest is not that of its preset".into()));
    }
    check_layout(&preset).map_err(|error| error.of_file(archive.path()))?;
    Ok((dtype, shape, preset))
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

/// The volumes of a folder, in the order of their names; at least one.
fn files_of(folder: &Path) -> Result<Vec<PathBuf>> {
    let unreadable = |e: std::io::Error| Error::io(folder, "read the folder", &e);
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        // Hidden files are unfinished ones.
        let hidden = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
        if !hidden && path.extension().is_some_and(|e| e == "safetensors") {
            files.push(path);
        }
    }
    if files.is_empty() {
        return Err(Error::file(folder, "no .safetensors file is there", AGAIN));
    }
    files.sort();
    Ok(files)
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
