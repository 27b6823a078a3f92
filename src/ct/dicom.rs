//! A DICOM series: one folder, one series, one volume (feature `dicom`).
//!
//! Read: single-frame images of 16 bits, MONOCHROME2, uncompressed little-endian (implicit or explicit). Refused, each with
//! the reason: compressed and big-endian transfer syntaxes, colour, several frames in a file, other widths; folders with more
//! than one series; slices that are tilted (gantry tilt), missing, doubled, or of different size, orientation or rescaling.

use std::path::{Path, PathBuf};

use dicom_dictionary_std::tags;
use dicom_object::{DefaultDicomObject, OpenFileOptions, Tag};
use rayon::prelude::*;

use super::geometry::Affine;
use super::read::Place;
use super::volume::{CtVolume, Voxels};
use crate::device::Device;
use crate::error::{Error, Result};

const IMPLICIT_LITTLE: &str = "1.2.840.10008.1.2";
const EXPLICIT_LITTLE: &str = "1.2.840.10008.1.2.1";

/// What writers round: direction cosines to six digits, positions to three.
const COSINE: f64 = 1e-3;
const POSITION_MM: f64 = 0.01;
/// Relative deviation of a gap between slices that still counts as even.
const UNEVEN: f64 = 0.01;

/// Reads the series in `folder`; files that are no DICOM are passed over. Slices are sorted along their normal, which is the
/// z axis; the affine is turned from DICOM's LPS to RAS. Stored values stay as they are, beside rescale slope and intercept;
/// unsigned values above 32767 become f32.
///
/// # Errors
/// [`Error::File`] with the file at fault where there is one.
pub fn read(folder: impl AsRef<Path>) -> Result<CtVolume> {
    read_for(folder.as_ref(), None)
}

pub(super) fn read_for(folder: &Path, device: Option<&Device>) -> Result<CtVolume> {
    let refuse = |problem: String, hint: &str| Error::file(folder, problem, hint);
    let mut slices: Vec<Slice> = files(folder)?.par_iter().map(|path| Slice::read(path)).collect::<Result<_>>()?;
    if slices.len() < 2 {
        let problem = format!("holds {} DICOM images; a volume has two or more", slices.len());
        return Err(refuse(problem, "give the folder of one CT series"));
    }
    let first = &slices[0].format;
    for slice in &slices[1..] {
        if let Some(what) = slice.format.differs_from(first) {
            let hint =
                if what == "series" { "split the series into folders" } else { "remove what is of another scan" };
            return Err(Error::file(&slice.path, format!("is of another {what} than the first image"), hint));
        }
    }
    let Format { rows, columns, spacing, slope, intercept, right, down, .. } = first.clone();
    let normal = cross(right, down);
    slices.sort_by(|a, b| dot(a.position, normal).total_cmp(&dot(b.position, normal)));
    let gap = even_gap(folder, &slices, normal)?;

    // LPS to RAS: left and posterior change sign.
    let ras = |v: [f64; 3]| [-v[0], -v[1], v[2]];
    let (x, y, z, origin) = (ras(right), ras(down), ras(normal), ras(slices[0].position));
    let direction = std::array::from_fn(|r| [x[r], y[r], z[r]]);
    let affine = Affine::from_parts(direction, [spacing[1], spacing[0], gap], origin).map_err(|e| e.of_file(folder))?;

    let (shape, area) = ([columns, rows, slices.len()], rows * columns);
    let largest = slices.par_iter().map(|s| s.values().max().unwrap_or(0)).max().unwrap_or(0);
    let voxels = if largest <= i32::from(i16::MAX) {
        let no_memory = || refuse("not enough memory for the volume".into(), "use a machine with more memory");
        let total = area * slices.len() * 2;
        let mut memory = Place { device }.reserve(0, total, total).ok_or_else(no_memory)?;
        let planes = memory.bytes().par_chunks_exact_mut(area * 2);
        planes.zip(&slices).for_each(|(plane, slice)| {
            for (stored, value) in plane.as_chunks_mut::<2>().0.iter_mut().zip(slice.values()) {
                *stored = (value as i16).to_ne_bytes();
            }
        });
        Voxels::I16(memory.finish())
    } else {
        slices.iter().flat_map(|s| s.values().map(|v| v as f32)).collect::<Vec<f32>>().into()
    };
    let volume = CtVolume::new(voxels, shape, affine).map_err(|e| e.of_file(folder))?;
    Ok(CtVolume { slope: slope as f32, intercept: intercept as f32, ..volume })
}

/// The folder's DICOM files, by name. A DICOMDIR is an index, not an image.
fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let failed = |e: std::io::Error| Error::io(folder, "read the folder", &e);
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.is_file() && path.file_name().is_some_and(|name| name != "DICOMDIR") && is_dicom(&path)? {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

fn is_dicom(path: &Path) -> Result<bool> {
    use std::io::Read;
    let mut start = Vec::new();
    let file = std::fs::File::open(path).map_err(|e| Error::io(path, "read", &e))?;
    file.take(132).read_to_end(&mut start).map_err(|e| Error::io(path, "read", &e))?;
    Ok(start.get(128..132) == Some(b"DICM"))
}

/// What all slices of a volume share.
#[derive(Clone)]
struct Format {
    series: String,
    rows: usize,
    columns: usize,
    /// Distance of rows, then of columns, mm.
    spacing: [f64; 2],
    /// Direction of a row (growing column index) and of a column, LPS.
    right: [f64; 3],
    down: [f64; 3],
    slope: f64,
    intercept: f64,
}

impl Format {
    fn differs_from(&self, other: &Format) -> Option<&'static str> {
        let near = |a: &[f64], b: &[f64], by: f64| a.iter().zip(b).all(|(a, b)| (a - b).abs() <= by);
        if self.series != other.series {
            Some("series")
        } else if (self.rows, self.columns) != (other.rows, other.columns) {
            Some("size")
        } else if !near(&self.spacing, &other.spacing, 1e-4) {
            Some("pixel spacing")
        } else if !(near(&self.right, &other.right, COSINE) && near(&self.down, &other.down, COSINE)) {
            Some("orientation")
        } else if (self.slope, self.intercept) != (other.slope, other.intercept) {
            Some("rescale slope or intercept")
        } else {
            None
        }
    }
}

struct Slice {
    path: PathBuf,
    format: Format,
    /// Centre of the first pixel, LPS, mm.
    position: [f64; 3],
    pixels: Vec<u8>,
    bits: u32,
    signed: bool,
}

impl Slice {
    fn read(path: &Path) -> Result<Self> {
        let unreadable = |e: &dyn std::fmt::Display| {
            Error::file(path, format!("is no readable DICOM file ({e})"), "export the series again")
        };
        let object = OpenFileOptions::new().open_file(path).map_err(|e| unreadable(&e))?;
        let fields = Fields { object: &object, path };
        let syntax = object.meta().transfer_syntax().trim_end_matches(['\0', ' ']);
        if ![IMPLICIT_LITTLE, EXPLICIT_LITTLE].contains(&syntax) {
            let hint = "export the series uncompressed, little-endian (for example with dcmdjpeg or gdcmconv --raw)";
            return Err(Error::file(path, format!("its transfer syntax {syntax} is not read"), hint));
        }
        let only = |tag: Tag, name: &str, wanted: usize| match fields.integer(tag, name)? {
            found if found == wanted => Ok(()),
            found => Err(fields.refuse(format!("{name} is {found}, only {wanted} is read"))),
        };
        if object.get(tags::NUMBER_OF_FRAMES).is_some() {
            only(tags::NUMBER_OF_FRAMES, "NumberOfFrames", 1)?;
        }
        only(tags::SAMPLES_PER_PIXEL, "SamplesPerPixel", 1)?;
        only(tags::BITS_ALLOCATED, "BitsAllocated", 16)?;
        let photometric = fields.text(tags::PHOTOMETRIC_INTERPRETATION, "PhotometricInterpretation")?;
        if photometric != "MONOCHROME2" {
            return Err(fields.refuse(format!("PhotometricInterpretation is {photometric}, a CT's is MONOCHROME2")));
        }
        let bits = fields.integer(tags::BITS_STORED, "BitsStored")?;
        if !(1..=16).contains(&bits) || fields.integer(tags::HIGH_BIT, "HighBit")? != bits - 1 {
            return Err(fields.refuse(format!("{bits} bits are stored, but not the lowest of 16")));
        }
        let (rows, columns) = (fields.integer(tags::ROWS, "Rows")?, fields.integer(tags::COLUMNS, "Columns")?);
        let [a, b, c, d, e, f] = fields.numbers(tags::IMAGE_ORIENTATION_PATIENT, "ImageOrientationPatient")?;
        let (right, down) = ([a, b, c], [d, e, f]);
        let length = |v: [f64; 3]| dot(v, v).sqrt();
        if (length(right) - 1.0).abs() > COSINE
            || (length(down) - 1.0).abs() > COSINE
            || dot(right, down).abs() > COSINE
        {
            return Err(fields.refuse("ImageOrientationPatient is not two unit vectors at a right angle".into()));
        }
        let optional = |tag: Tag, name: &str, absent: f64| match object.get(tag) {
            None => Ok(absent),
            Some(_) => fields.numbers(tag, name).map(|[v]| v),
        };
        let format = Format {
            series: fields.text(tags::SERIES_INSTANCE_UID, "SeriesInstanceUID")?,
            rows,
            columns,
            spacing: fields.numbers(tags::PIXEL_SPACING, "PixelSpacing")?,
            right,
            down,
            slope: optional(tags::RESCALE_SLOPE, "RescaleSlope", 1.0)?,
            intercept: optional(tags::RESCALE_INTERCEPT, "RescaleIntercept", 0.0)?,
        };
        if format.slope == 0.0 {
            return Err(fields.refuse("RescaleSlope is 0".into()));
        }
        let pixels = object.element(tags::PIXEL_DATA).map_err(|e| unreadable(&e))?;
        let pixels = pixels.to_bytes().map_err(|e| unreadable(&e))?.into_owned();
        if rows * columns == 0 || pixels.len() != rows * columns * 2 {
            let problem = format!("PixelData has {} bytes for {rows} x {columns} pixels of 2", pixels.len());
            return Err(Error::file(path, problem, "the file is truncated or damaged: export it again"));
        }
        Ok(Slice {
            path: path.into(),
            format,
            position: fields.numbers(tags::IMAGE_POSITION_PATIENT, "ImagePositionPatient")?,
            pixels,
            bits: bits as u32,
            signed: fields.integer(tags::PIXEL_REPRESENTATION, "PixelRepresentation")? == 1,
        })
    }

    /// Stored values; bits above those stored may hold anything.
    fn values(&self) -> impl Iterator<Item = i32> {
        let unused = 16 - self.bits;
        self.pixels.as_chunks::<2>().0.iter().map(move |&pair| {
            let raised = u16::from_ne_bytes(pair) << unused;
            if self.signed { i32::from(raised as i16 >> unused) } else { i32::from(raised >> unused) }
        })
    }
}

/// Elements of one file, with errors that name them.
struct Fields<'a> {
    object: &'a DefaultDicomObject,
    path: &'a Path,
}

impl Fields<'_> {
    fn refuse(&self, problem: String) -> Error {
        Error::file(self.path, problem, "give a CT image series")
    }

    fn text(&self, tag: Tag, name: &str) -> Result<String> {
        let element = self.object.get(tag).ok_or_else(|| self.refuse(format!("has no {name}")))?;
        let text = element.to_str().map_err(|e| self.refuse(format!("{name}: {e}")))?;
        Ok(text.trim_end_matches(['\0', ' ']).trim().to_string())
    }

    fn integer(&self, tag: Tag, name: &str) -> Result<usize> {
        let element = self.object.get(tag).ok_or_else(|| self.refuse(format!("has no {name}")))?;
        element.to_int::<u32>().map(|v| v as usize).map_err(|e| self.refuse(format!("{name}: {e}")))
    }

    fn numbers<const N: usize>(&self, tag: Tag, name: &str) -> Result<[f64; N]> {
        let element = self.object.get(tag).ok_or_else(|| self.refuse(format!("has no {name}")))?;
        let values = element.to_multi_float64().map_err(|e| self.refuse(format!("{name}: {e}")))?;
        let values: [f64; N] =
            values.try_into().map_err(|v: Vec<f64>| self.refuse(format!("{name} has {} values, not {N}", v.len())))?;
        if values.iter().all(|v| v.is_finite()) {
            Ok(values)
        } else {
            Err(self.refuse(format!("{name} is {values:?}")))
        }
    }
}

/// The distance of sorted slices, which all have one, along their normal.
fn even_gap(folder: &Path, slices: &[Slice], normal: [f64; 3]) -> Result<f64> {
    let steps: Vec<[f64; 3]> =
        slices.windows(2).map(|w| std::array::from_fn(|a| w[1].position[a] - w[0].position[a])).collect();
    let mut gaps: Vec<f64> = steps.iter().map(|step| dot(*step, normal)).collect();
    let name = |i: usize| slices[i].path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let refuse = |problem: String, hint: &str| Error::file(folder, problem, hint);
    if let Some(i) = gaps.iter().position(|gap| *gap < POSITION_MM) {
        let problem = format!("{} and {} lie in one place", name(i), name(i + 1));
        return Err(refuse(problem, "keep one acquisition of each slice"));
    }
    for (step, gap) in steps.iter().zip(&gaps) {
        let aside = (dot(*step, *step) - gap * gap).max(0.0).sqrt();
        if aside > POSITION_MM + UNEVEN * gap {
            let degrees = (aside / gap).atan().to_degrees();
            let problem = format!("slices are stacked {degrees:.1} degrees off their normal (gantry tilt)");
            return Err(refuse(problem, "resample the series to a straight stack first"));
        }
    }
    let uneven = gaps.clone();
    gaps.sort_by(f64::total_cmp);
    let usual = gaps[gaps.len() / 2];
    if let Some(i) = uneven.iter().position(|gap| (gap - usual).abs() > POSITION_MM + UNEVEN * usual) {
        let problem = format!(
            "{} and {} are {:.3} mm apart, the others {usual:.3}: slices are missing or spaced unevenly",
            name(i),
            name(i + 1),
            uneven[i]
        );
        return Err(refuse(problem, "export the whole series again"));
    }
    let (first, last) = (slices[0].position, slices[slices.len() - 1].position);
    Ok(dot(std::array::from_fn(|a| last[a] - first[a]), normal) / steps.len() as f64)
}

fn dot(a: [f64; 3], b: [f64; 3]) -> f64 {
    a[0] * b[0] + a[1] * b[1] + a[2] * b[2]
}

fn cross(a: [f64; 3], b: [f64; 3]) -> [f64; 3] {
    [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]]
}
