//! NIfTI-1 and NIfTI-2 volumes, `.nii`, `.nii.gz` and pairs of `.hdr` and `.img`, read with every field checked and written
//! atomically.
//!
//! A file either yields exactly the voxels it holds or one line that names the field at fault; damaged input never
//! panics and never makes the reader allocate more than the file's own bytes can account for.

mod forms;
mod gzip;
mod header;
mod pair;
mod write;

use std::cmp::Ordering;
use std::path::Path;

use super::read::{Place, Placed, Problem, read_file};
use super::volume::{CtVolume, Voxels, unravel};
use crate::device::HostArray;
use crate::error::{Error, Result};
use header::{Datatype, Header};
pub use pair::Pair;

pub use write::{Extra, encode, write, write_described};

/// Reads one volume.
///
/// - Voxel types uint8, int8, int16, uint16, int32, uint32, float32, float64, either byte order; trailing dimensions of
///   1 are dropped. Integers whose values fit int16 stay integers; others become the nearest f32.
/// - Affine: sform when its code is positive, else qform, else voxel sizes alone
///   ([`AffineSource`](super::volume::AffineSource) says which), in millimetres.
/// - Slope and intercept are kept beside the stored values, not applied; a slope that is zero or not finite means none.
/// - gzip by its first bytes, not by name: several members are one stream, every CRC-32 is checked.
///
/// # Errors
/// [`Error::File`] naming the field: unreadable, truncated, damaged or overlong data, 4-D series, other voxel types,
/// a .hdr without its .img, zero or impossible dimensions, non-finite pixdim, singular affine, NaN or infinite voxels.
pub fn read(path: impl AsRef<Path>) -> Result<CtVolume> {
    let path = path.as_ref();
    read_bytes(&read_file(path)?, path)
}

/// Whether `bytes` start as gzip or as a NIfTI header does.
pub(crate) fn is_nifti(bytes: &[u8]) -> bool {
    gzip::is_gzip(bytes) || Header::recognise(bytes).is_some()
}

/// The first 128 KiB of a file, decompressed where it is gzip: unverified, and zero past what could be decoded.
pub fn start(bytes: &[u8]) -> Vec<u8> {
    if gzip::is_gzip(bytes) { gzip::peek(bytes).0 } else { bytes[..bytes.len().min(gzip::PEEK)].to_vec() }
}

/// Voxels along x, y and z, of a file's [`start`], if its header says them.
pub fn shape(start: &[u8]) -> Option<[usize; 3]> {
    Header::parse(start).ok().map(|header| header.shape)
}

/// The text of the first header extension of code 6 (plain text), if there is one.
pub fn comment(bytes: &[u8]) -> Option<String> {
    let start = start(bytes);
    let header = Header::parse(&start).ok()?;
    let (length, _) = Header::recognise(&start)?;
    let number = |at: usize| {
        let bytes: [u8; 4] = start.get(at..at + 4)?.try_into().ok()?;
        let number = if header.big_endian { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) };
        Some(number as usize)
    };
    let mut at = length + 4;
    while start.get(length).is_some_and(|&more| more != 0) && at + 8 <= header.offset {
        let (size, code) = (number(at)?, number(at + 4)?);
        if code == 6 {
            let text = std::str::from_utf8(start.get(at + 8..at.checked_add(size)?)?).ok()?;
            return Some(text.trim_end_matches('\0').to_string());
        }
        at = at.checked_add(size.max(8))?;
    }
    None
}

/// As [`read`], from a file's bytes; `path` only labels errors.
pub fn read_bytes(bytes: &[u8], path: impl AsRef<Path>) -> Result<CtVolume> {
    decode(bytes, &Place::default()).map_err(|problem| Error::file(path, problem.what, problem.hint))
}

/// As [`read_bytes`], with the voxels put where `place` says.
pub(super) fn decode(bytes: &[u8], place: &Place) -> Result<CtVolume, Problem> {
    let (header, voxels) = if gzip::is_gzip(bytes) {
        decode_gzip(bytes, place)?
    } else {
        let header = Header::parse(bytes)?.of_one_file(bytes.len())?;
        let bytes = without_padding(bytes, &header);
        check_length(bytes.len(), &header)?;
        let voxels = convert(&bytes[header.offset..], &header)?;
        (header, voxels)
    };
    Ok(volume(header, voxels))
}

fn volume(header: Header, voxels: Voxels) -> CtVolume {
    CtVolume {
        voxels,
        shape: header.shape,
        affine: header.affine,
        affine_source: header.affine_source,
        slope: header.slope,
        intercept: header.intercept,
        remarks: header.remarks,
    }
}

const TRUNCATED: &str = "the file is truncated or its header damaged: copy or download it again";

/// Zeros behind the voxels do them no harm: discs and archives write whole blocks.
fn without_padding<'a>(bytes: &'a [u8], header: &Header) -> &'a [u8] {
    match bytes.split_at_checked(header.total) {
        Some((file, behind)) if behind.iter().all(|&byte| byte == 0) => file,
        _ => bytes,
    }
}

fn check_length(length: usize, header: &Header) -> Result<(), Problem> {
    let offset = if header.offset > length { format!("vox_offset, {}, and ", header.offset) } else { String::new() };
    let problem = format!("{length} bytes where {offset}the header's dimensions ask for {}", header.total);
    match length.cmp(&header.total) {
        Ordering::Equal => Ok(()),
        Ordering::Less => Err(Problem::new(problem, TRUNCATED)),
        Ordering::Greater => Err(Problem::new(problem, "its header describes less than it holds: convert it again")),
    }
}

fn decode_gzip(bytes: &[u8], place: &Place) -> Result<(Header, Voxels), Problem> {
    let mut header = announced(bytes)?;
    let foreign = header.big_endian != cfg!(target_endian = "big");
    // int16 and float32, what CTs are stored as, are decompressed straight into the volume's own memory.
    let direct = matches!(header.datatype, Datatype::I16 | Datatype::F32);
    let plain = Place::default();
    let (mut file, garbage) = inflate(bytes, &header, if direct { place } else { &plain })?;
    let voxels = match header.datatype {
        Datatype::I16 => {
            if foreign {
                file.payload().as_chunks_mut::<2>().0.iter_mut().for_each(|v| v.reverse());
            }
            Voxels::I16(file.finish())
        }
        Datatype::F32 => {
            if foreign {
                file.payload().as_chunks_mut::<4>().0.iter_mut().for_each(|v| v.reverse());
            }
            Voxels::F32(finite(file.finish(), header.shape)?)
        }
        _ => convert(file.payload(), &header)?,
    };
    if let Some(bytes) = garbage {
        header.remarks.push(format!("{bytes} bytes behind its gzip data are no gzip and were left alone."));
    }
    Ok((header, voxels))
}

/// The header in gzip data, checked but not yet covered by a checksum.
fn announced(bytes: &[u8]) -> Result<Header, Problem> {
    let (start, outcome) = gzip::peek(bytes);
    let start = &start[..outcome.as_ref().copied().unwrap_or(start.len())];
    let held = outcome.as_ref().copied().unwrap_or(usize::MAX);
    let header = match (Header::parse(start), outcome) {
        (_, Err(failure @ gzip::Failure::Damaged { .. })) => return Err(failed(failure)),
        (parsed, _) => parsed?.of_one_file(held)?,
    };
    if !gzip::can_hold(bytes, header.total) {
        let (shape, total, held) = (header.shape, header.total, bytes.len());
        let problem = format!("dimensions {shape:?} need {total} bytes, more than {held} bytes of gzip can hold");
        return Err(Problem::new(problem, TRUNCATED));
    }
    Ok(header)
}

/// The whole decompressed file, of exactly the length `header` announces.
fn inflate(bytes: &[u8], header: &Header, place: &Place) -> Result<(Placed, Option<usize>), Problem> {
    let no_memory = || Problem::new("not enough memory to decompress it", "use a machine with more memory");
    let mut file = place.reserve(header.offset, header.total, bytes.len()).ok_or_else(no_memory)?;
    let inflated = match gzip::decompress(bytes, file.bytes()) {
        Err(gzip::Failure::TooLong) => inflate_padded(bytes, header, file.bytes()),
        other => other,
    };
    let inflated = inflated.map_err(failed)?;
    check_length(inflated.length, header)?;
    // Only now are the data verified, so the header is read once more.
    if Header::parse(file.bytes())?.of_one_file(usize::MAX)? != *header {
        return Err(header::damaged("the header reads differently the second time"));
    }
    Ok((file, inflated.garbage))
}

/// The file where zeros follow the voxels, without them.
fn inflate_padded(bytes: &[u8], header: &Header, file: &mut [u8]) -> Result<gzip::Inflated, gzip::Failure> {
    /// Zeros that padding to whole blocks leaves at most.
    const PADDING: usize = 1 << 20;
    let mut longer = vec![0; file.len() + PADDING];
    let inflated = gzip::decompress(bytes, &mut longer)?;
    let kept = without_padding(&longer[..inflated.length], header);
    if kept.len() != file.len() {
        return Err(gzip::Failure::TooLong);
    }
    file.copy_from_slice(kept);
    Ok(gzip::Inflated { length: kept.len(), ..inflated })
}

fn failed(failure: gzip::Failure) -> Problem {
    const AGAIN: &str = "copy or download the file again";
    match failure {
        gzip::Failure::Damaged { member: 0, .. } => Problem::new("the gzip data are damaged or truncated", AGAIN),
        gzip::Failure::Damaged { member, at } => {
            Problem::new(format!("gzip member {member} at byte {at} is damaged, truncated or not gzip"), AGAIN)
        }
        gzip::Failure::TooLong => Problem::new("more data than the header's dimensions ask for", AGAIN),
    }
}

/// Voxels of any type, from their bytes.
fn convert(data: &[u8], header: &Header) -> Result<Voxels, Problem> {
    let big = header.big_endian;
    Ok(match header.datatype {
        Datatype::U8 => elements(data, false, |[b]: [u8; 1]| i16::from(b)).into(),
        Datatype::I8 => elements(data, false, |b| i16::from(i8::from_le_bytes(b))).into(),
        Datatype::I16 => elements(data, big, i16::from_le_bytes).into(),
        Datatype::U16 => narrow(elements(data, big, |b| i32::from(u16::from_le_bytes(b)))),
        Datatype::I32 => narrow(elements(data, big, i32::from_le_bytes)),
        Datatype::U32 => narrow(elements(data, big, u32::from_le_bytes)),
        Datatype::F32 => Voxels::F32(finite(elements(data, big, f32::from_le_bytes).into(), header.shape)?),
        // A finite f64 beyond f32's range becomes infinite here and is refused with the rest.
        Datatype::F64 => {
            Voxels::F32(finite(elements(data, big, |b| f64::from_le_bytes(b) as f32).into(), header.shape)?)
        }
    })
}

/// Every N bytes, little-endian after the optional swap, through `read`.
fn elements<const N: usize, T>(data: &[u8], big_endian: bool, read: impl Fn([u8; N]) -> T) -> Vec<T> {
    let (chunks, _) = data.as_chunks::<N>();
    if big_endian {
        let swap = |&(mut chunk): &[u8; N]| {
            chunk.reverse();
            read(chunk)
        };
        chunks.iter().map(swap).collect()
    } else {
        chunks.iter().map(|&chunk| read(chunk)).collect()
    }
}

/// Integers as int16 where all of them fit, else as the nearest f32.
fn narrow<T: Copy + TryInto<i16> + Into<f64>>(values: Vec<T>) -> Voxels {
    let small: Option<Vec<i16>> = values.iter().map(|&v| v.try_into().ok()).collect();
    small.map_or_else(|| Voxels::F32(values.iter().map(|&v| v.into() as f32).collect()), Voxels::from)
}

fn finite(values: HostArray<f32>, shape: [usize; 3]) -> Result<HostArray<f32>, Problem> {
    match values.iter().position(|v| !v.is_finite()) {
        None => Ok(values),
        Some(at) => {
            let [x, y, z] = unravel(at, shape);
            let problem = format!("voxel [{x}, {y}, {z}] is {}", values[at]);
            Err(Problem::new(problem, "replace such voxels, for example by -1024 (air), and save the volume again"))
        }
    }
}
