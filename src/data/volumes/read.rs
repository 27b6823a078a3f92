//! Opening a set of prepared volumes: a folder of files, one file, or a packed one.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use rayon::prelude::*;
use safetensors::Dtype;

use super::{AGAIN, LeftOut, OLD, ONE, PACKED, Source, VOLUME, VolumeSet, check_ids, check_layout};
use crate::archive::{Archive, Digest};
use crate::ct::Preset;
use crate::data::cts::Cts;
use crate::data::origins::{Origin, Origins};
use crate::data::provenance::Provenance;
use crate::tensor::DType;
use crate::{Error, Result};

impl VolumeSet {
    /// Opens a set: a packed file, one volume's file, or a folder with a file for each volume, whose names are the ids.
    ///
    /// # Errors
    /// No such file, another format, a file cut short, volumes of different shapes, types or presets, an axis order that
    /// is not DCFormer's.
    pub fn read(path: &Path) -> Result<Self> {
        let (set, left_out) = Self::read_usable(path)?;
        left_out.into_iter().next().map_or(Ok(set), |bad| Err(bad.error))
    }

    /// As [`Self::read`], without the files of a folder that are no such volume or of another kind (shape, type, preset) than
    /// most, in the order of their names. A volume whose voxels are damaged is found when it is loaded.
    ///
    /// # Errors
    /// Those of [`Self::read`] of a single file; no file of a folder is left.
    pub fn read_usable(path: &Path) -> Result<(Self, Vec<LeftOut>)> {
        if path.is_dir() {
            return Self::read_files(files_of(path)?);
        }
        match Archive::open(path, PACKED, "volumes", AGAIN) {
            Ok(archive) => Ok((Self::read_packed(archive)?, Vec::new())),
            // One volume is a set as well.
            Err(error) => open_one(path).map_err(|_| error).and_then(|_| Self::read_files(vec![path.to_path_buf()])),
        }
    }

    /// As [`Self::read_usable`] of a folder or of one volume's file, without some of the files.
    ///
    /// # Errors
    /// Those of [`Self::read`] of a single file; no file is left.
    pub fn read_except(path: &Path, except: &[PathBuf]) -> Result<(Self, Vec<LeftOut>)> {
        let mut files = files_of(path)?;
        files.retain(|file| !except.contains(file));
        if files.is_empty() {
            return Err(Error::file(path, "no volume is left that could be prepared", AGAIN));
        }
        Self::read_files(files)
    }

    fn read_files(files: Vec<PathBuf>) -> Result<(Self, Vec<LeftOut>)> {
        // Headers alone; the files are many and large.
        let described: Vec<_> = files.into_par_iter().map(describe_one).collect();
        let (mut found, mut left_out) = (Vec::new(), Vec::new());
        for one in described {
            match one {
                Ok(one) => found.push(one),
                Err(bad) => left_out.push(bad),
            }
        }
        let (found, of_another_kind) = alike(found);
        left_out.extend(of_another_kind);
        let mut set = None;
        if let Some(first) = found.first() {
            let (shape, dtype, preset) = first.kind.clone();
            let ids = found.iter().map(|one| id_of(&one.file)).collect();
            let digests: Option<Vec<Digest>> = found.iter().map(|one| one.digest).collect();
            let cts = Cts::new(found.iter().map(|one| one.ct.clone().unwrap_or_default()).collect());
            let origins = Origins::new(found.iter().map(|one| one.origin.clone()).collect());
            let known = digests.is_some();
            let places = (0..found.len()).collect();
            let source = Source::Files(found.into_iter().map(|one| one.file).collect()).into();
            let digests = digests.map_or_else(OnceLock::new, OnceLock::from);
            let whole = VolumeSet { ids, shape, dtype, preset, source, digests, places, cts, origins, known };
            set = whole.without_unreadable(&mut left_out);
        }
        left_out.sort_by(|a, b| a.id.cmp(&b.id));
        match (set, left_out.len()) {
            (Some(set), _) => Ok((set, left_out)),
            (None, count) => Err(left_out.remove(0).error.with_others(count - 1, "volumes")),
        }
    }

    /// The set with the digests of all volumes. What has to be read for that and cannot be is left out; none: nothing is left.
    fn without_unreadable(self, left_out: &mut Vec<LeftOut>) -> Option<Self> {
        if self.digests.get().is_some() {
            return Some(self);
        }
        let read: Vec<Result<Digest>> = (0..self.ids.len()).into_par_iter().map(|row| self.read_digest(row)).collect();
        let (mut rows, mut digests) = (Vec::new(), Vec::new());
        for (row, digest) in read.into_iter().enumerate() {
            match digest {
                Ok(digest) => {
                    rows.push(row);
                    digests.push(digest);
                }
                Err(error) => left_out.push(LeftOut { id: self.ids[row].clone(), error }),
            }
        }
        let set = self.select(&rows).ok()?;
        Some(VolumeSet { digests: OnceLock::from(digests), ..set })
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
        let (cts, origins) = (Cts::read(&archive, ids.len())?, Origins::read(&archive, ids.len())?);
        let places = (0..ids.len()).collect();
        let source = Source::Packed(archive).into();
        let set = VolumeSet { ids, shape, dtype, preset, source, digests, places, cts, origins, known: true };
        if let Source::Packed(archive) = &*set.source {
            Provenance::read(archive, &set.provenance()?.digest)?;
        }
        Ok(set)
    }
}

/// A file of one volume, of either version; of the old one all of it is verified here.
pub(super) fn open_one(path: &Path) -> Result<Archive> {
    match Archive::open(path, OLD, "volume", AGAIN) {
        Ok(_) => Archive::read(path, OLD, "volume", AGAIN),
        Err(_) => Archive::read(path, ONE, "volume", AGAIN),
    }
}

/// One volume's file as it was found.
struct Found {
    file: PathBuf,
    /// Shape, type and preset, which the volumes of a set have in common.
    kind: ([usize; 3], DType, Preset),
    /// Digest of the voxels.
    digest: Option<Digest>,
    /// Of the CT they were made of.
    ct: Option<String>,
    /// How that CT was taken.
    origin: Origin,
}

fn describe_one(file: PathBuf) -> Result<Found, LeftOut> {
    let describe = || {
        // Of the old version, whose checksum covers the voxels, the structure alone.
        let archive = match Archive::open(&file, OLD, "volume", AGAIN) {
            Ok(archive) => archive,
            Err(_) => Archive::read(&file, ONE, "volume", AGAIN)?,
        };
        let (dtype, shape, preset) = describe(&archive)?;
        let &[1, d, h, w] = shape else {
            return Err(Error::file(&file, format!("volume has the shape {shape:?}, not [1, D, H, W]"), AGAIN));
        };
        let digest = archive.digests(VOLUME).ok().map(|digests| digests[0]);
        let ct = archive.get("ct_digest").ok().map(String::from);
        let (file, kind, origin) = (file.clone(), ([d, h, w], dtype, preset), Origin::read(&archive));
        Ok(Found { file, kind, digest, ct, origin })
    };
    describe().map_err(|error| LeftOut { id: id_of(&file), error })
}

/// What a set calls the volume of a file.
fn id_of(file: &Path) -> String {
    file.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

/// The volumes of the commonest kind (of the first of two that are as common), and the others with what is wrong with them.
fn alike(found: Vec<Found>) -> (Vec<Found>, Vec<LeftOut>) {
    let mut kinds: Vec<(usize, usize)> = Vec::new();
    for (i, one) in found.iter().enumerate() {
        match kinds.iter_mut().find(|(first, _)| found[*first].kind == one.kind) {
            Some((_, count)) => *count += 1,
            None => kinds.push((i, 1)),
        }
    }
    // The last of the largest counts, from behind.
    let Some(&(first, _)) = kinds.iter().rev().max_by_key(|(_, count)| *count) else { return Default::default() };
    let (file, usual) = (found[first].file.clone(), found[first].kind.clone());
    let (alike, others): (Vec<Found>, Vec<Found>) = found.into_iter().partition(|one| one.kind == usual);
    let (shape, dtype, preset) = usual;
    let refuse = |one: Found| {
        let (other, kind, of) = &one.kind;
        let problem = format!(
            "is {other:?} {} of preset {}, {} is {shape:?} {} of preset {}",
            kind.name(),
            of.name,
            file.display(),
            dtype.name(),
            preset.name
        );
        let error = Error::file(&one.file, problem, "prepare all volumes of a set with one preset and type");
        LeftOut { id: id_of(&one.file), error }
    };
    (alike, others.into_iter().map(refuse).collect())
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

/// The files that a path of volumes stands for: itself, or those of a folder in the order of their names.
///
/// # Errors
/// A folder that cannot be read, or without such a file.
pub fn files_of(folder: &Path) -> Result<Vec<PathBuf>> {
    if !folder.is_dir() {
        return Ok(vec![folder.into()]);
    }
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
