//! RadChest-CT volumes: `.npz` files with one int16 array `ct`, and the table that says what they leave out.
//!
//! The array is `[Z, Y, X]`, slice 0 at the head; its published reader turns it by `rot90(k=-1, axes=(0, 2))`, which is
//! x, y, z with z reversed. So x grows to the patient's left, y to the back and the stored z to the feet (LPI); nothing in
//! the file says so, it is the data set's convention. Voxels are cubes. Voxels are HU: the
//! table's `orig_slope` is that of the DICOM files they were made of, and is not applied again.

use std::io::{Cursor, Write};
use std::path::{Path, PathBuf};

use libdeflater::{Crc, DecompressionError, Decompressor};
use zip::CompressionMethod;

use super::geometry::{Affine, AxisCodes};
use super::read::{Place, Placed, Problem};
use super::volume::{AffineSource, CtVolume, Voxels};
use crate::error::{Error, Result};
use crate::files::write_atomic;
use crate::table::{BadRow, Keyed, Others, Table};

/// What the table `CT_Scan_Metadata_Complete_35747.csv` says of one volume.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Acquisition {
    /// `final_spacing`: the edge of a voxel, mm.
    pub spacing: f64,
    /// `orig_slope`: of the DICOM files that the volume was made of.
    pub slope: f64,
}

const COLUMNS: [&str; 3] = ["VolumeAcc_DEID", "final_spacing", "orig_slope"];

/// The table, for volumes that are named one by one.
#[derive(Clone, Debug)]
pub struct Acquisitions {
    table: PathBuf,
    keyed: Keyed<String, Acquisition>,
}

impl Acquisitions {
    /// Reads the table.
    ///
    /// # Errors
    /// A table that cannot be read or lacks a column; others are ignored.
    pub fn read(table: impl AsRef<Path>) -> Result<Self> {
        let path = table.as_ref().to_path_buf();
        let table = Table::open(&path, &COLUMNS, Others::Ignored, "use RadChest-CT's metadata table")?;
        let keyed = table.keyed(|row| {
            let positive = |column: usize| {
                row.number(column).filter(|v| *v > 0.0).ok_or_else(|| row.refuse(column, "a positive number"))
            };
            Ok((stem(row.text(0)).to_string(), Acquisition { spacing: positive(1)?, slope: positive(2)? }))
        });
        Ok(Acquisitions { table: path, keyed })
    }

    /// What it says of one volume, named with or without `.npz`; rows of others may be bad.
    ///
    /// # Errors
    /// A volume that the table does not list, or whose row cannot be used.
    pub fn of(&self, name: &str) -> Result<Acquisition> {
        let lacks = || Error::file(&self.table, format!("has no row for {}", stem(name)), "check the file's name");
        self.find(name).map_err(BadRow::error)?.ok_or_else(lacks)
    }

    /// As [`Self::of`]; `None` of a volume that the table does not list.
    ///
    /// # Errors
    /// The volume's row, where it cannot be used.
    pub fn find(&self, name: &str) -> std::result::Result<Option<Acquisition>, &BadRow> {
        let wanted = stem(name);
        let is_about = |bad: &&BadRow| bad.about.as_deref().is_some_and(|about| stem(about) == wanted);
        match self.keyed.rows.get(wanted) {
            Some(acquisition) => Ok(Some(*acquisition)),
            None => self.keyed.bad.iter().find(is_about).map_or(Ok(None), Err),
        }
    }
}

/// A volume's name without its ending.
fn stem(name: &str) -> &str {
    let name = name.trim();
    name.strip_suffix(".npz").unwrap_or(name)
}

pub(super) fn is_zip(bytes: &[u8]) -> bool {
    bytes.starts_with(b"PK\x03\x04")
}

/// No deflate stream expands further.
const MAX_RATIO: usize = 1032;
const DAMAGED: &str = "copy or download the file again";
const NOT_RADCHEST: &str = "give a RadChest-CT volume: np.savez with ct = int16 [Z, Y, X]";

pub(super) fn decode(bytes: &[u8], row: Option<Acquisition>, place: &Place) -> Result<CtVolume, Problem> {
    let Some(row) = row else {
        let hint = "give the data set's metadata table, CT_Scan_Metadata_Complete_35747.csv";
        return Err(Problem::new("an .npz says nothing of voxel size and Hounsfield units", hint));
    };
    let entry = Entry::find(bytes)?;
    // The first bytes tell where the voxels start; what they say counts once the checksum has been compared.
    let header = NpyHeader::parse(&entry.start(NpyHeader::MOST)?)?;
    let voxels = header.shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
    let total = voxels.and_then(|n| n.checked_mul(2)).and_then(|n| n.checked_add(header.length));
    if total != Some(entry.size) || voxels == Some(0) {
        let problem = format!("ct.npy has {} bytes for the shape {:?} of int16", entry.size, header.shape);
        return Err(Problem::new(problem, DAMAGED));
    }
    let mut file = entry.decompress(header.length, place)?;
    if NpyHeader::parse(file.bytes())? != header {
        return Err(Problem::new("the header of ct.npy reads differently the second time", DAMAGED));
    }
    if cfg!(target_endian = "big") {
        file.payload().as_chunks_mut::<2>().0.iter_mut().for_each(|v| v.reverse());
    }
    let [nz, ny, nx] = header.shape;
    let shape = [nx, ny, nz];
    let (lpi, bad) = (AxisCodes::LPI, |e: Error| Problem::new(e.to_string(), "check the metadata table"));
    let affine = Affine::centred(lpi, [row.spacing; 3], shape).map_err(bad)?;
    let scaled = (row.slope != 1.0).then(|| {
        format!("The table's orig_slope, {}, is not applied: the voxels of RadChest-CT are HU already.", row.slope)
    });
    Ok(CtVolume {
        affine_source: AffineSource::Convention,
        remarks: Vec::from_iter(scaled),
        ..CtVolume::new(Voxels::I16(file.finish()), shape, affine).map_err(bad)?
    })
}

/// A volume of int16 HU whose axes lie as in `axes` (`LPS`, or as stored already), as the data set's files hold it.
///
/// # Errors
/// Another kind of voxels, other axes, a voxel size that is none.
pub fn stored(volume: CtVolume, row: Acquisition, axes: AxisCodes) -> Result<CtVolume> {
    let ([nx, ny, nz], Voxels::I16(voxels)) = (volume.shape, &volume.voxels) else {
        return Err(Error::argument("volume", "is not of int16", "RadChest-CT's files hold int16"));
    };
    let voxels: Vec<i16> = match axes {
        AxisCodes::LPS => voxels.chunks_exact(nx * ny).rev().flatten().copied().collect(),
        AxisCodes::LPI => voxels.to_vec(),
        other => {
            let problem = format!("lies as {other}");
            return Err(Error::argument("volume", problem, "turn its axes to L, P, S first"));
        }
    };
    let affine = Affine::centred(AxisCodes::LPI, [row.spacing; 3], [nx, ny, nz])?;
    Ok(CtVolume { affine_source: AffineSource::Convention, ..CtVolume::new(voxels.into(), [nx, ny, nz], affine)? })
}

/// Writes a volume that lies as the data set's do ([`stored`]) as `.npz`, whole or not at all.
///
/// # Errors
/// Another kind of voxels; a file that cannot be written.
pub fn write(path: impl AsRef<Path>, volume: &CtVolume) -> Result<()> {
    let path = path.as_ref();
    let Voxels::I16(voxels) = &volume.voxels else {
        return Err(Error::argument("volume", "is not of int16", "RadChest-CT's files hold int16").of_file(path));
    };
    let [nx, ny, nz] = volume.shape;
    let mut header = format!("{{'descr': '<i2', 'fortran_order': False, 'shape': ({nz}, {ny}, {nx}), }}");
    // With magic, version, length and line end a multiple of 64 bytes.
    header.push_str(&" ".repeat((header.len() + 11).next_multiple_of(64) - header.len() - 11));
    header.push('\n');
    let mut npy = b"\x93NUMPY\x01\x00".to_vec();
    npy.extend((header.len() as u16).to_le_bytes());
    npy.extend(header.bytes());
    npy.extend(voxels.iter().flat_map(|v| v.to_le_bytes()));
    let failed = |e: std::io::Error| Error::io(path, "write", &e);
    let mut archive = zip::ZipWriter::new(Cursor::new(Vec::new()));
    let options = zip::write::SimpleFileOptions::DEFAULT.compression_method(CompressionMethod::Stored);
    archive.start_file("ct.npy", options).map_err(|e| failed(e.into()))?;
    archive.write_all(&npy).map_err(failed)?;
    let bytes = archive.finish().map_err(|e| failed(e.into()))?.into_inner();
    write_atomic(path, &bytes)
}

/// `ct.npy` in the archive.
struct Entry<'a> {
    data: &'a [u8],
    deflated: bool,
    size: usize,
    crc: u32,
}

impl<'a> Entry<'a> {
    fn find(bytes: &'a [u8]) -> Result<Self, Problem> {
        let broken = |e: &dyn std::fmt::Display| Problem::new(format!("is no whole .npz archive ({e})"), DAMAGED);
        let mut archive = zip::ZipArchive::new(Cursor::new(bytes)).map_err(|e| broken(&e))?;
        let at = archive.index_for_name("ct.npy").ok_or_else(|| Problem::new("has no array `ct`", NOT_RADCHEST))?;
        let entry = archive.by_index_raw(at).map_err(|e| broken(&e))?;
        let deflated = match entry.compression() {
            CompressionMethod::STORE => false,
            CompressionMethod::DEFLATE => true,
            other => return Err(Problem::new(format!("ct.npy is compressed by {other}"), "save it with np.savez")),
        };
        if entry.encrypted() {
            return Err(Problem::new("ct.npy is encrypted", "save it without a password"));
        }
        let range = |begin: u64, length: u64| {
            let begin = usize::try_from(begin).ok()?;
            bytes.get(begin..begin.checked_add(usize::try_from(length).ok()?)?)
        };
        let data = entry.data_start().and_then(|begin| range(begin, entry.compressed_size()));
        let data = data.ok_or_else(|| broken(&"ct.npy lies outside it"))?;
        let most = if deflated { data.len().saturating_mul(MAX_RATIO) } else { data.len() };
        let size = usize::try_from(entry.size()).ok().filter(|&size| size <= most && (deflated || size == most));
        let size = size.ok_or_else(|| broken(&"ct.npy cannot have the size stated"))?;
        Ok(Entry { data, deflated, size, crc: entry.crc32() })
    }

    /// Up to `most` bytes from the start, not yet covered by a checksum.
    fn start(&self, most: usize) -> Result<Vec<u8>, Problem> {
        let length = most.min(self.size);
        if !self.deflated {
            return Ok(self.data[..length].to_vec());
        }
        let mut start = vec![0; START.min(self.size)];
        match Decompressor::new().deflate_decompress(self.data, &mut start) {
            // Out of space is what a longer array comes to: what fits has been written.
            Ok(_) | Err(DecompressionError::InsufficientSpace) => {}
            Err(_) => return Err(Problem::new("ct.npy is damaged", DAMAGED)),
        }
        start.truncate(length);
        Ok(start)
    }

    /// All of it, checked; elements behind `offset` aligned.
    fn decompress(&self, offset: usize, place: &Place) -> Result<Placed, Problem> {
        let mut file = place
            .reserve(offset, self.size, self.data.len())
            .ok_or_else(|| Problem::new("not enough memory to decompress it", "use a machine with more memory"))?;
        let written = if self.deflated {
            Decompressor::new().deflate_decompress(self.data, file.bytes()).ok()
        } else {
            file.bytes().copy_from_slice(self.data);
            Some(self.size)
        };
        let mut crc = Crc::new();
        crc.update(file.bytes());
        if written != Some(self.size) || crc.sum() != self.crc {
            return Err(Problem::new("ct.npy is damaged: its checksum differs", DAMAGED));
        }
        Ok(file)
    }
}

/// A stored block, the largest unit libdeflate refuses to start when it does not fit, holds 65,535 bytes; a header fits too.
const START: usize = 128 << 10;

/// The header of NumPy's array format, versions 1 to 3.
#[derive(Debug, PartialEq)]
struct NpyHeader {
    /// Bytes before the elements.
    length: usize,
    shape: [usize; 3],
}

impl NpyHeader {
    /// Longer headers than this are not read.
    const MOST: usize = 4096;

    fn parse(bytes: &[u8]) -> Result<Self, Problem> {
        let refuse = |what: String| Problem::new(format!("ct.npy: {what}"), NOT_RADCHEST);
        let damaged = || refuse("its header is damaged".into());
        let version = bytes.strip_prefix(b"\x93NUMPY").and_then(|rest| rest.first()).copied();
        let (at, text_length) = match (version, bytes.get(8..12)) {
            (Some(1), Some(&[a, b, ..])) => (10, u16::from_le_bytes([a, b]).into()),
            (Some(2 | 3), Some(&[a, b, c, d])) => (12, u32::from_le_bytes([a, b, c, d]) as usize),
            _ => return Err(damaged()),
        };
        if text_length > NpyHeader::MOST - at {
            return Err(refuse(format!("its header has {text_length} bytes")));
        }
        let text = bytes.get(at..at + text_length).and_then(|text| std::str::from_utf8(text).ok());
        let text = text.ok_or_else(damaged)?;
        let value = |key: &str| {
            let (_, rest) = text.split_once(&format!("'{key}':"))?;
            Some(rest.trim_start())
        };
        let descr = value("descr").and_then(|rest| rest.strip_prefix('\'')?.split('\'').next()).ok_or_else(damaged)?;
        if descr != "<i2" {
            return Err(refuse(format!("elements are {descr:?}, not little-endian int16")));
        }
        if !value("fortran_order").is_some_and(|rest| rest.starts_with("False")) {
            return Err(refuse("it is stored in Fortran order".into()));
        }
        let sizes = value("shape").and_then(|rest| rest.strip_prefix('(')?.split(')').next()).ok_or_else(damaged)?;
        let sizes: Option<Vec<usize>> =
            sizes.split(',').map(str::trim).filter(|s| !s.is_empty()).map(|s| s.parse().ok()).collect();
        let sizes = sizes.ok_or_else(damaged)?;
        let shape =
            sizes.as_slice().try_into().map_err(|_| refuse(format!("its shape is {sizes:?}, not [Z, Y, X]")))?;
        Ok(NpyHeader { length: at + text_length, shape })
    }
}
