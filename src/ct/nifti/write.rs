//! NIfTI-1 out.

use std::path::Path;

use libdeflater::{CompressionLvl, Compressor};

use super::header::NIFTI1_LENGTH;
use crate::ct::volume::{CtVolume, Voxels};
use crate::error::{Error, Result};
use crate::files::write_atomic;

/// Header plus the four bytes that say whether an extension follows.
const OFFSET: usize = NIFTI1_LENGTH + 4;

/// What a file says beside its volume.
#[derive(Clone, Debug, Default)]
pub struct Extra {
    /// The header's field `descrip`: ASCII, cut at 79 characters.
    pub descrip: String,
    /// `cal_min` and `cal_max`: the values that viewers show darkest and brightest.
    pub window: Option<[f32; 2]>,
    /// A header extension of code 6, plain text; none where it is empty.
    pub comment: String,
}

/// Writes a volume atomically as little-endian NIfTI-1 with an sform, int16 or float32 as its voxels are, gzipped when
/// the name ends in `.nii.gz`. Equal volumes give equal bytes.
///
/// [`read`](super::read) returns the same voxels, slope and intercept, and the affine rounded to f32. Errors when the
/// name ends in neither `.nii` nor `.nii.gz`, an axis is longer than 32,767, or the file cannot be written.
pub fn write(path: impl AsRef<Path>, volume: &CtVolume) -> Result<()> {
    write_described(path, volume, &Extra::default())
}

/// As [`write()`], with more in the header.
pub fn write_described(path: impl AsRef<Path>, volume: &CtVolume, extra: &Extra) -> Result<()> {
    let path = path.as_ref();
    let name = path.to_string_lossy();
    let refuse = |problem: &str, hint: &str| Error::file(path, problem, hint);
    if name.ends_with(".nii") {
        return write_atomic(path, &encode_described(volume, extra)?);
    }
    if !name.ends_with(".nii.gz") {
        return Err(refuse("not a NIfTI file name", "end it in .nii or .nii.gz"));
    }
    let raw = encode_described(volume, extra)?;
    // Level 4: on CT, within a few percent of the default level's size for half its time.
    let level = CompressionLvl::new(4).map_err(|_| refuse("gzip level 4 is not supported", "update libdeflate"))?;
    let mut compressor = Compressor::new(level);
    let mut packed = vec![0; compressor.gzip_compress_bound(raw.len())];
    let length = compressor
        .gzip_compress(&raw, &mut packed)
        .map_err(|e| refuse(&format!("cannot compress: {e}"), "write .nii instead"))?;
    write_atomic(path, &packed[..length])
}

/// The uncompressed file's bytes.
pub fn encode(volume: &CtVolume) -> Result<Vec<u8>> {
    encode_described(volume, &Extra::default())
}

fn encode_described(volume: &CtVolume, extra: &Extra) -> Result<Vec<u8>> {
    let (datatype, bitpix): (i16, i16) = match &volume.voxels {
        Voxels::I16(_) => (4, 16),
        Voxels::F32(_) => (16, 32),
    };
    let comment = extension(&extra.comment);
    let offset = OFFSET + comment.len();
    let mut bytes = vec![0; OFFSET];
    let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
    put(0, &(NIFTI1_LENGTH as i32).to_le_bytes());
    put(40, &3i16.to_le_bytes());
    for axis in 0..7 {
        let extent = volume.shape.get(axis).copied().unwrap_or(1);
        let extent = i16::try_from(extent).map_err(|_| {
            Error::argument("NIfTI-1 volume", format!("axis {axis} has {extent} voxels"), "crop it to 32767 at most")
        })?;
        put(42 + 2 * axis, &extent.to_le_bytes());
    }
    put(70, &datatype.to_le_bytes());
    put(72, &bitpix.to_le_bytes());
    put(76, &1f32.to_le_bytes());
    for (axis, size) in volume.spacing().into_iter().enumerate() {
        put(80 + 4 * axis, &(size as f32).to_le_bytes());
    }
    put(108, &(offset as f32).to_le_bytes());
    put(112, &volume.slope.to_le_bytes());
    put(116, &volume.intercept.to_le_bytes());
    put(123, &[2]); // millimetres
    if let Some([low, high]) = extra.window {
        put(124, &high.to_le_bytes());
        put(128, &low.to_le_bytes());
    }
    let text = extra.descrip.as_bytes();
    put(148, &text[..text.len().min(79)]);
    put(254, &1i16.to_le_bytes()); // sform code: scanner coordinates
    for (r, row) in volume.affine.rows().into_iter().enumerate() {
        for (c, value) in row.into_iter().enumerate() {
            put(280 + 16 * r + 4 * c, &(value as f32).to_le_bytes());
        }
    }
    put(344, b"n+1\0");
    put(348, &[u8::from(!comment.is_empty())]);
    bytes.extend(comment);
    match &volume.voxels {
        Voxels::I16(v) => append(&mut bytes, v, i16::to_le_bytes),
        Voxels::F32(v) => append(&mut bytes, v, f32::to_le_bytes),
    }
    Ok(bytes)
}

/// A header extension with a comment: its length, a multiple of 16, its code, the text, zeros. Nothing without a text.
fn extension(comment: &str) -> Vec<u8> {
    const COMMENT: i32 = 6;
    if comment.is_empty() {
        return Vec::new();
    }
    let length = (8 + comment.len()).next_multiple_of(16);
    let mut bytes = [(length as i32).to_le_bytes(), COMMENT.to_le_bytes()].concat();
    bytes.extend(comment.as_bytes());
    bytes.resize(length, 0);
    bytes
}

fn append<const N: usize, T: Copy>(bytes: &mut Vec<u8>, values: &[T], convert: impl Fn(T) -> [u8; N]) {
    let start = bytes.len();
    bytes.resize(start + N * values.len(), 0);
    for (chunk, &value) in bytes[start..].as_chunks_mut::<N>().0.iter_mut().zip(values) {
        *chunk = convert(value);
    }
}
