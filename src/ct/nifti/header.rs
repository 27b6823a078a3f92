//! The NIfTI-1 and NIfTI-2 headers, read field by field and checked before anything trusts them.
//!
//! By hand rather than through the `nifti` crate: its header types panic when bitpix contradicts datatype, it turns a
//! NaN slope into NaN or zero voxels, and it reads no NIfTI-2. The dozen fields that matter fit in one table of offsets.

use super::forms::{Settled, settle, sform_alone, unusable};
use crate::content::Content;
use crate::ct::geometry::{Affine, AxisCodes};
use crate::ct::read::Problem;
use crate::ct::volume::AffineSource;
use crate::limits::short;

/// Length of the NIfTI-1 header, which is also its first field.
pub(super) const NIFTI1_LENGTH: usize = 348;
/// Length of the NIfTI-2 header, which is also its first field.
pub(super) const NIFTI2_LENGTH: usize = 540;

/// More voxels than any CT has (2048 x 2048 x 1024); a header that claims more is damaged.
const MAX_VOXELS: u64 = 1 << 32;

/// How one voxel is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Datatype {
    U8,
    I8,
    I16,
    U16,
    I32,
    U32,
    F32,
    F64,
}

impl Datatype {
    pub fn bytes(self) -> usize {
        match self {
            Datatype::U8 | Datatype::I8 => 1,
            Datatype::I16 | Datatype::U16 => 2,
            Datatype::I32 | Datatype::U32 | Datatype::F32 => 4,
            Datatype::F64 => 8,
        }
    }

    fn from_code(code: i16) -> Result<Self, Problem> {
        let unsupported = |name: &str| {
            Problem::new(
                format!("datatype {code} ({name}) is not a CT's"),
                "store the volume as int16 or float32 and try again",
            )
        };
        Ok(match code {
            2 => Datatype::U8,
            4 => Datatype::I16,
            8 => Datatype::I32,
            16 => Datatype::F32,
            64 => Datatype::F64,
            256 => Datatype::I8,
            512 => Datatype::U16,
            768 => Datatype::U32,
            1 => return Err(unsupported("1-bit binary")),
            32 => return Err(unsupported("complex64")),
            128 => return Err(unsupported("RGB24")),
            1024 => return Err(unsupported("int64")),
            1280 => return Err(unsupported("uint64")),
            1536 => return Err(unsupported("float128")),
            1792 => return Err(unsupported("complex128")),
            2048 => return Err(unsupported("complex256")),
            2304 => return Err(unsupported("RGBA32")),
            _ => return Err(damaged(format!("datatype {code} is not defined"))),
        })
    }
}

pub(super) fn damaged(what: impl Into<String>) -> Problem {
    Problem::new(what, "the header is damaged or not NIfTI: copy or export the volume again")
}

/// Everything a checked header says.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Header {
    /// Whether it says that its voxels are in another file.
    pub pair: bool,
    pub big_endian: bool,
    pub shape: [usize; 3],
    pub datatype: Datatype,
    /// Byte at which voxels start.
    pub offset: usize,
    /// Bytes of the whole uncompressed file.
    pub total: usize,
    pub affine: Affine,
    pub affine_source: AffineSource,
    pub slope: f32,
    pub intercept: f32,
    /// See [`CtVolume::remarks`](crate::ct::CtVolume::remarks).
    pub remarks: Vec<String>,
}

impl Header {
    /// The length its first field states, when it is one of the two known, and whether it does so big-endian.
    pub fn recognise(bytes: &[u8]) -> Option<(usize, bool)> {
        let first = *bytes.first_chunk::<4>()?;
        [NIFTI1_LENGTH, NIFTI2_LENGTH].into_iter().find_map(|length| {
            let known = (length as u32).to_le_bytes();
            if first == known {
                return Some((length, false));
            }
            (first.iter().eq(known.iter().rev())).then_some((length, true))
        })
    }

    /// Reads and checks the header at the start of `bytes`, which may go on behind it.
    pub fn parse(bytes: &[u8]) -> Result<Header, Problem> {
        let Some(first) = bytes.first_chunk::<4>() else {
            return Err(cut_short(bytes.len(), NIFTI1_LENGTH));
        };
        let Some((length, big_endian)) = Header::recognise(bytes) else {
            let first = i32::from_le_bytes(*first);
            return Err(match Content::of(bytes) {
                Content::Unknown => Problem::new(
                    format!("not a NIfTI file: it starts with {first} where 348 (NIfTI-1) or 540 (NIfTI-2) must stand"),
                    "give a .nii or .nii.gz file",
                ),
                // What comes here has been decompressed.
                Content::Gzip => Problem::new("is compressed by gzip twice", "decompress it once with `gunzip`"),
                content => Problem::new(
                    format!("is {content}, no CT volume"),
                    content.remedy().unwrap_or("give a .nii or .nii.gz file"),
                ),
            });
        };
        let Some(header) = bytes.get(..length) else {
            return Err(cut_short(bytes.len(), length));
        };
        let fields = Fields { bytes: header, big_endian };
        if length == NIFTI1_LENGTH {
            Header::from_fields(&fields.nifti1()?)
        } else {
            Header::from_fields(&fields.nifti2()?)
        }
    }

    /// The header of a file of `held` bytes that must hold the voxels too. A writer may give it a pair's magic all the same.
    pub fn of_one_file(mut self, held: usize) -> Result<Header, Problem> {
        if !self.pair {
            return Ok(self);
        }
        if self.offset < NIFTI1_LENGTH || held < self.total {
            return Err(Problem::new(
                "is the header half of a .hdr/.img pair",
                "put both halves side by side, named NAME.hdr and NAME.img, or convert them to one .nii file",
            ));
        }
        self.pair = false;
        self.remarks.push("Its magic is that of a .hdr/.img pair, but its voxels follow its header.".into());
        Ok(self)
    }

    fn from_fields(raw: &Raw) -> Result<Header, Problem> {
        let shape = shape(&raw.dim)?;
        let datatype = Datatype::from_code(raw.datatype)?;
        if usize::try_from(raw.bitpix) != Ok(datatype.bytes() * 8) {
            let expected = datatype.bytes() * 8;
            return Err(damaged(format!("bitpix is {} but datatype {} has {expected}", raw.bitpix, raw.datatype)));
        }
        let (slope, intercept) = scaling(raw.slope, raw.intercept)?;
        let least = if raw.pair { 0 } else { raw.length + 4 };
        let offset = match usize::try_from(raw.offset) {
            Ok(offset) if offset >= least => offset,
            _ => {
                return Err(damaged(format!("vox_offset is {}, voxels cannot start before {least}", raw.offset)));
            }
        };
        let total = shape
            .iter()
            .try_fold(datatype.bytes(), |n, &d| n.checked_mul(d))
            .and_then(|n| n.checked_add(offset))
            .ok_or_else(|| damaged(format!("vox_offset is {offset}, beyond any file")))?;
        let Settled { affine, source: affine_source, remark } = raw.affine(shape)?;
        let remarks = Vec::from_iter(remark);
        Ok(Header {
            pair: raw.pair,
            big_endian: raw.big_endian,
            shape,
            datatype,
            offset,
            total,
            affine,
            affine_source,
            slope,
            intercept,
            remarks,
        })
    }
}

fn cut_short(length: usize, needed: usize) -> Problem {
    Problem::new(
        format!("the file ends after {length} bytes, inside the {needed}-byte header"),
        "the file is truncated: copy or download it again",
    )
}

fn shape(dim: &[i64; 8]) -> Result<[usize; 3], Problem> {
    if !(2..=7).contains(&dim[0]) {
        return Err(damaged(format!("dim[0] is {}: a CT volume has 3 dimensions", dim[0])));
    }
    let mut shape = [1usize; 3];
    let mut voxels = 1u64;
    for axis in 1..=dim[0] as usize {
        let extent = match u64::try_from(dim[axis]) {
            Ok(extent @ 1..) => extent,
            _ => return Err(damaged(format!("dim[{axis}] is {}", dim[axis]))),
        };
        if axis <= 3 {
            voxels = voxels.saturating_mul(extent);
            if voxels > MAX_VOXELS {
                return Err(damaged(format!("dim[{axis}] is {extent}: more than {MAX_VOXELS} voxels in all")));
            }
            shape[axis - 1] = extent as usize;
        } else if extent > 1 {
            return Err(Problem::new(
                format!("dim[{axis}] is {extent}: the file holds a series, not one volume"),
                "split it into 3-D files",
            ));
        }
    }
    Ok(shape)
}

/// NIfTI's rule, widened: a slope of zero or none means identity. A slope without its intercept is damage.
fn scaling(slope: f64, intercept: f64) -> Result<(f32, f32), Problem> {
    if !slope.is_finite() || slope == 0.0 {
        return Ok((1.0, 0.0));
    }
    let fits = |name: &str, value: f64| {
        let rounded = value as f32;
        if rounded.is_finite() { Ok(rounded) } else { Err(damaged(format!("{name} is {}", short(value)))) }
    };
    Ok((fits("scl_slope", slope)?, fits("scl_inter", intercept)?))
}

fn named(field: &str, error: crate::Error) -> Problem {
    match error {
        crate::Error::Argument { problem, .. } => damaged(format!("{field}: {problem}")),
        other => damaged(format!("{field}: {other}")),
    }
}

/// The fields that matter, widened to the larger of both formats' types.
struct Raw {
    pair: bool,
    length: usize,
    big_endian: bool,
    dim: [i64; 8],
    datatype: i16,
    bitpix: i16,
    pixdim: [f64; 8],
    offset: i64,
    slope: f64,
    intercept: f64,
    units: i32,
    qform_code: i32,
    sform_code: i32,
    quaternion: [f64; 3],
    qoffset: [f64; 3],
    srow: [[f64; 4]; 3],
}

impl Raw {
    fn affine(&self, shape: [usize; 3]) -> Result<Settled, Problem> {
        // Millimetres per unit of length. Files that name no unit mean millimetres.
        let unit = match self.units & 7 {
            0 | 2 => 1.0,
            1 => 1e3,
            3 => 1e-3,
            code => return Err(damaged(format!("xyzt_units names the undefined unit of length {code}"))),
        };
        // A code that NIfTI does not define says nothing of the space the form leads to.
        let known = |name: &str, code: i32| match code {
            1..=5 => Ok(()),
            _ => Err(damaged(format!("{name} is {code}, which NIfTI does not define"))),
        };
        let sform =
            (self.sform_code != 0).then(|| known("sform_code", self.sform_code).and_then(|()| self.sform(unit)));
        let qform =
            (self.qform_code != 0).then(|| known("qform_code", self.qform_code).and_then(|()| self.qform(unit)));
        let settled = match (sform, qform) {
            (None, None) => {
                let affine =
                    Affine::centred(AxisCodes::LAS, self.sizes(unit)?, shape).map_err(|e| named("pixdim", e))?;
                let remark = "It has no orientation: left and right are assumed, not known, and letters are left out.";
                Settled { affine, source: AffineSource::Pixdim, remark: Some(remark.into()) }
            }
            (Some(Ok(sform)), None) => sform_alone(sform, self.sizes(unit)),
            (Some(Ok(sform)), Some(Ok(qform))) => settle(sform, self.sform_code, qform),
            (Some(Ok(affine)), Some(Err(why))) => {
                Settled { affine, source: AffineSource::Sform, remark: Some(unusable("qform", "sform", &why)) }
            }
            (Some(Err(why)), Some(Ok(affine))) => {
                Settled { affine, source: AffineSource::Qform, remark: Some(unusable("sform", "qform", &why)) }
            }
            (None, Some(qform)) => Settled { affine: qform?, source: AffineSource::Qform, remark: None },
            (Some(Err(why)), _) => return Err(why),
        };
        Ok(settled)
    }

    fn sform(&self, unit: f64) -> Result<Affine, Problem> {
        Affine::new(self.srow.map(|row| row.map(|v| v * unit))).map_err(|e| named("sform (srow_x, srow_y, srow_z)", e))
    }

    fn qform(&self, unit: f64) -> Result<Affine, Problem> {
        if self.pixdim[0].is_nan() {
            return Err(damaged("pixdim[0] (qfac) is NaN"));
        }
        let qfac = if self.pixdim[0] < 0.0 { -1.0 } else { 1.0 };
        Affine::from_quaternion(self.unit_quaternion()?, qfac, self.sizes(unit)?, self.qoffset.map(|v| v * unit))
            .map_err(|e| named("qform (quatern_b, quatern_c, quatern_d, qoffset)", e))
    }

    /// Voxel sizes by pixdim, mm; zero is what an unset third axis of a 2-D image looks like.
    fn sizes(&self, unit: f64) -> Result<[f64; 3], Problem> {
        let mut sizes = [0.0; 3];
        for (axis, edge) in sizes.iter_mut().enumerate() {
            let size = self.pixdim[axis + 1];
            let unset = size == 0.0 && axis == 2 && self.dim[0] == 2;
            if !(unset || size.is_finite() && size > 0.0) {
                return Err(damaged(format!("pixdim[{}] is {}: voxels need a size", axis + 1, short(size))));
            }
            *edge = if unset { unit } else { size * unit };
        }
        Ok(sizes)
    }

    /// The header's b, c, d with the non-negative a that makes their length 1.
    fn unit_quaternion(&self) -> Result<[f64; 4], Problem> {
        let [b, c, d] = self.quaternion;
        let square = b * b + c * c + d * d;
        // Below the fields' own rounding, 1 - square is noise, and a half turn (a = 0) is what was meant.
        let epsilon = if self.length == NIFTI1_LENGTH { f64::from(f32::EPSILON) } else { f64::EPSILON };
        let rest = 1.0 - square;
        if rest.abs() < 3.0 * epsilon {
            return Ok([0.0, b, c, d]);
        }
        // Writers differ in their care; a quaternion longer than this is damage.
        if square.is_nan() || rest < -1e-5 {
            return Err(damaged(format!(
                "quatern_b, quatern_c, quatern_d ({}) are longer than 1",
                [b, c, d].map(short).join(", ")
            )));
        }
        Ok([rest.max(0.0).sqrt(), b, c, d])
    }
}

/// Fields of a header at byte offsets, in its byte order.
struct Fields<'a> {
    bytes: &'a [u8],
    big_endian: bool,
}

impl Fields<'_> {
    fn at<const N: usize>(&self, offset: usize) -> [u8; N] {
        let mut field: [u8; N] = std::array::from_fn(|i| self.bytes[offset + i]);
        if self.big_endian {
            field.reverse();
        }
        field
    }

    fn i16(&self, offset: usize) -> i16 {
        i16::from_le_bytes(self.at(offset))
    }

    fn i32(&self, offset: usize) -> i32 {
        i32::from_le_bytes(self.at(offset))
    }

    fn i64(&self, offset: usize) -> i64 {
        i64::from_le_bytes(self.at(offset))
    }

    fn f32(&self, offset: usize) -> f64 {
        f64::from(f32::from_le_bytes(self.at(offset)))
    }

    fn f64(&self, offset: usize) -> f64 {
        f64::from_le_bytes(self.at(offset))
    }

    /// Offsets of the NIfTI-1 standard's `nifti1.h`.
    fn nifti1(&self) -> Result<Raw, Problem> {
        let pair = match &self.bytes[344..348] {
            b"n+1\0" => false,
            b"ni1\0" => true,
            _ => return Err(damaged("magic is not \"n+1\" (Analyze 7.5 files have none and no orientation)")),
        };
        let offset = self.f32(108);
        if offset.fract() != 0.0 {
            return Err(damaged(format!("vox_offset is {}", short(offset))));
        }
        Ok(Raw {
            pair,
            length: NIFTI1_LENGTH,
            big_endian: self.big_endian,
            dim: std::array::from_fn(|i| i64::from(self.i16(40 + 2 * i))),
            datatype: self.i16(70),
            bitpix: self.i16(72),
            pixdim: std::array::from_fn(|i| self.f32(76 + 4 * i)),
            offset: offset as i64,
            slope: self.f32(112),
            intercept: self.f32(116),
            units: i32::from(self.bytes[123]),
            qform_code: i32::from(self.i16(252)),
            sform_code: i32::from(self.i16(254)),
            quaternion: std::array::from_fn(|i| self.f32(256 + 4 * i)),
            qoffset: std::array::from_fn(|i| self.f32(268 + 4 * i)),
            srow: std::array::from_fn(|r| std::array::from_fn(|c| self.f32(280 + 16 * r + 4 * c))),
        })
    }

    /// Offsets of the NIfTI-2 standard's `nifti2.h`.
    fn nifti2(&self) -> Result<Raw, Problem> {
        let pair = match &self.bytes[4..12] {
            b"n+2\0\r\n\x1a\n" => false,
            b"ni2\0\r\n\x1a\n" => true,
            _ => return Err(damaged("magic is not \"n+2\" with its line-end guard")),
        };
        Ok(Raw {
            pair,
            length: NIFTI2_LENGTH,
            big_endian: self.big_endian,
            dim: std::array::from_fn(|i| self.i64(16 + 8 * i)),
            datatype: self.i16(12),
            bitpix: self.i16(14),
            pixdim: std::array::from_fn(|i| self.f64(104 + 8 * i)),
            offset: self.i64(168),
            slope: self.f64(176),
            intercept: self.f64(184),
            units: self.i32(500),
            qform_code: self.i32(344),
            sform_code: self.i32(348),
            quaternion: std::array::from_fn(|i| self.f64(352 + 8 * i)),
            qoffset: std::array::from_fn(|i| self.f64(376 + 8 * i)),
            srow: std::array::from_fn(|r| std::array::from_fn(|c| self.f64(400 + 32 * r + 8 * c))),
        })
    }
}
