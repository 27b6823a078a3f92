//! DICOM (feature `dicom`): the CT series in a folder, or an Enhanced CT in one file, as a volume; and radiographs.
//!
//! # What is read
//! Grey images of 8 or 16 bits: uncompressed (little-endian, big-endian, deflated), RLE, JPEG baseline and lossless, JPEG 2000; with
//! the feature `jpegls` JPEG-LS. Files are known by content, with or without the preamble and its mark.
//!
//! # Which series of a folder
//! Localizers (ImageType), secondary captures, presentation states and other modalities are passed over. Of what is left the
//! series (SeriesInstanceUID) with the most images is taken, of equals that with the lowest number; within it the plane (size, pixel
//! spacing, orientation) that most images share; and where slices lie at one place, the acquisition (AcquisitionNumber) with the
//! most images, and one of slices that are equal. Each reason is a remark of the volume, with the number of files and their names.
//!
//! # Geometry
//! Slices are sorted along their normal, by position. They lie evenly, within the rounding of the positions as they are written
//! or 0.1 % of the stack's length, and never more than a fifth of their distance; else slices are missing, which is refused. Slices stacked
//! aslant (a tilted gantry) make a sheared affine, which is said; what works along voxel axes refuses it with the angle.
//!
//! # Padding
//! Voxels of PixelPaddingValue, or up to PixelPaddingRangeLimit, are outside the field of view, and get a value just below -1024 HU, as
//! padding has everywhere else in this crate, unless they are air or lower already.

mod codec;
mod file;
mod frame;
mod pixels;
mod radiograph;
mod stack;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::geometry::Affine;
use super::physics::PADDING_BELOW_HU;
use super::read::Place;
use super::volume::{CtVolume, Voxels};
use crate::content::Content;
use crate::device::Device;
use crate::error::{Error, Result};
use file::{Fields, open};
use frame::{Frame, Look, look};
use pixels::Pixels;
pub use radiograph::radiograph;
use stack::{PassedOver, Stack, choose, stack};

/// What writers round: direction cosines to six digits.
const COSINE: f64 = 1e-3;
/// Padding above this would count as tissue or as lung.
const AIR_HU: f64 = -1000.0;

/// Reads the CT series in a folder, or an Enhanced CT from one file: see the module's description. The affine is turned from
/// DICOM's LPS to RAS. Stored values stay as they are, beside rescale slope and intercept; unsigned values above 32767 become f32.
///
/// # Errors
/// [`Error::File`] with the file at fault where there is one: no CT series, damage, compression that is not decoded, slices that
/// are missing or differ in rescaling.
pub fn read(path: impl AsRef<Path>) -> Result<CtVolume> {
    read_for(path.as_ref(), None)
}

pub(super) fn read_for(path: &Path, device: Option<&Device>) -> Result<CtVolume> {
    let mut passed = PassedOver::new();
    let frames = if path.is_dir() { frames_in(path, &mut passed)? } else { frames_of(path)? };
    let stack = stack(path, choose(frames, &mut passed), &mut passed, same_pixels)?;
    let mut volume = assemble(path, &stack, device)?;
    let remarks = stack::told(&passed).into_iter().chain(stack.remarks);
    volume.remarks.splice(0..0, remarks);
    Ok(volume)
}

/// Whether a file describes several frames, which alone may be a volume.
pub fn has_frames(path: impl AsRef<Path>) -> bool {
    matches!(look(path.as_ref()), Ok(Look::Ct(frames)) if frames.len() > 1)
}

/// All CT frames of a folder, in the order of the files' names.
fn frames_in(folder: &Path, passed: &mut PassedOver) -> Result<Vec<Frame>> {
    let looks: Vec<(PathBuf, Look)> =
        files(folder)?.into_par_iter().map(|path| look(&path).map(|look| (path, look))).collect::<Result<_>>()?;
    let mut frames = Vec::new();
    for (path, look) in looks {
        match look {
            Look::Ct(found) => frames.extend(found),
            Look::Other(reason) => {
                let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                passed.entry(reason).or_default().push(name);
            }
        }
    }
    if frames.is_empty() && !passed.is_empty() {
        let there: Vec<String> = passed.iter().map(|(reason, files)| format!("{} {reason}", files.len())).collect();
        let problem = format!("holds no CT images; there are {}", there.join(", "));
        return Err(Error::file(folder, problem, "give the folder of one CT series"));
    }
    Ok(frames)
}

/// The frames of one file, which must be a volume's.
fn frames_of(path: &Path) -> Result<Vec<Frame>> {
    let frames = match look(path)? {
        Look::Ct(frames) => frames,
        Look::Other(reason) => {
            return Err(Error::file(
                path,
                format!("is no CT volume (one of: {reason})"),
                "give the folder of one CT series",
            ));
        }
    };
    if frames.len() == 1 {
        let problem = "is a single slice of a CT, and a volume has two or more";
        return Err(Error::file(path, problem, "give the folder that holds the whole series"));
    }
    Ok(frames)
}

/// The folder's DICOM files, by name. A DICOMDIR is an index, not an image.
fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let failed = |e: std::io::Error| Error::io(folder, "read the folder", &e);
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
        if path.is_file() && name != "dicomdir" && !name.starts_with('.') && Content::of_file(&path)? == Content::Dicom
        {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

/// Whether two slices at one place are the same.
fn same_pixels(a: &Frame, b: &Frame) -> Result<bool> {
    let samples = |frame: &Frame| {
        let object = open(&frame.file.path, None)?;
        let fields = Fields { object: &object, path: &frame.file.path };
        Pixels::of(&object, fields, frame.file.layout, frame.file.frames)?.frame(frame.index)
    };
    Ok(a.file.layout == b.file.layout && a.rescale == b.rescale && samples(a)? == samples(b)?)
}

/// The volume that a stack of slices makes.
fn assemble(path: &Path, stack: &Stack, device: Option<&Device>) -> Result<CtVolume> {
    let first = &stack.frames[0];
    let rescale = first.rescale;
    if let Some(other) = stack.frames.iter().find(|frame| frame.rescale != rescale) {
        let ([a, b], [c, d]) = (rescale, other.rescale);
        let problem = format!("is of another rescale slope or intercept ({c}, {d}) than the first image ({a}, {b})");
        return Err(Error::file(&other.file.path, problem, "remove what is of another scan"));
    }
    // LPS to RAS: left and posterior change sign.
    let [x, y] = [(first.plane.right, first.plane.spacing[1]), (first.plane.down, first.plane.spacing[0])]
        .map(|(direction, spacing)| direction.map(|v| v * spacing));
    let [x, y, z, origin] = [x, y, stack.step, first.position].map(|v| [-v[0], -v[1], v[2]]);
    let affine = Affine::new(std::array::from_fn(|r| [x[r], y[r], z[r], origin[r]])).map_err(|e| e.of_file(path))?;
    let shape = [first.plane.columns, first.plane.rows, stack.frames.len()];

    let slices = decode(&stack.frames)?;
    let [least, most] =
        slices.par_iter().map(|slice| slice.extremes()).reduce(|| [0, 0], |a, b| [a[0].min(b[0]), a[1].max(b[1])]);
    let voxels = if least >= i16::MIN.into() && most <= i16::MAX.into() {
        let total = shape.iter().product::<usize>() * 2;
        let memory = Place { device }.reserve(0, total, total);
        let hint = "use a machine with more memory";
        let mut memory = memory.ok_or_else(|| Error::file(path, "not enough memory for the volume", hint))?;
        let planes = memory.bytes().par_chunks_exact_mut(shape[0] * shape[1] * 2);
        planes.zip(&slices).for_each(|(plane, slice)| {
            for (stored, value) in plane.as_chunks_mut::<2>().0.iter_mut().zip(slice.values()) {
                *stored = (value as i16).to_ne_bytes();
            }
        });
        Voxels::I16(memory.finish())
    } else {
        slices.iter().flat_map(|slice| slice.values().map(|v| v as f32)).collect::<Vec<f32>>().into()
    };
    let volume = CtVolume::new(voxels, shape, affine).map_err(|e| e.of_file(path))?;
    let mut remarks = Vec::new();
    let padded: usize = slices.par_iter().map(Slice::padded).sum();
    if padded > 0 {
        remarks.push(format!(
            "{padded} of its voxels have the PixelPaddingValue, outside the field of view: taken as air."
        ));
    }
    Ok(CtVolume { slope: rescale[0] as f32, intercept: rescale[1] as f32, remarks, ..volume })
}

/// The slices' samples, in order.
fn decode(frames: &[Frame]) -> Result<Vec<Slice>> {
    let mut by_file: BTreeMap<&Path, Vec<usize>> = BTreeMap::new();
    for (at, frame) in frames.iter().enumerate() {
        by_file.entry(&frame.file.path).or_default().push(at);
    }
    let files: Vec<(&Path, Vec<usize>)> = by_file.into_iter().collect();
    let of_file = |(path, places): &(&Path, Vec<usize>)| {
        let (object, file) = (open(path, None)?, &frames[places[0]].file);
        let pixels = Pixels::of(&object, Fields { object: &object, path }, file.layout, file.frames)?;
        let slice =
            |&at: &usize| Ok((at, Slice { samples: pixels.frame(frames[at].index)?, frame: frames[at].clone() }));
        places.par_iter().map(slice).collect::<Result<Vec<_>>>()
    };
    let slices = files.par_iter().map(of_file).collect::<Result<Vec<_>>>()?;
    let mut slices: Vec<(usize, Slice)> = slices.into_iter().flatten().collect();
    slices.sort_by_key(|(at, _)| *at);
    Ok(slices.into_iter().map(|(_, slice)| slice).collect())
}

/// A slice's samples.
struct Slice {
    samples: Vec<u16>,
    frame: Frame,
}

impl Slice {
    /// Stored values, those of padding replaced.
    fn values(&self) -> impl Iterator<Item = i32> {
        let (layout, padding, fill) = (self.frame.file.layout, self.padding(), self.fill());
        self.samples.iter().map(move |&sample| {
            let value = layout.value(sample);
            if padding(sample, value) { fill } else { value }
        })
    }

    /// Whether a sample is padding that does not look like it.
    fn padding(&self) -> impl Fn(u16, i32) -> bool + use<> {
        let (padding, [slope, intercept]) = (self.frame.padding, self.frame.rescale);
        move |sample, value| {
            padding.is_some_and(|padding| padding.holds(sample, value)) && slope * f64::from(value) + intercept > AIR_HU
        }
    }

    /// The stored value nearest below the HU where padding begins.
    fn fill(&self) -> i32 {
        let [slope, intercept] = self.frame.rescale;
        let limit = (f64::from(PADDING_BELOW_HU) - intercept) / slope;
        if slope > 0.0 { limit.ceil() as i32 - 1 } else { limit.floor() as i32 + 1 }
    }

    fn padded(&self) -> usize {
        let (layout, padding) = (self.frame.file.layout, self.padding());
        self.samples.iter().filter(|&&sample| padding(sample, layout.value(sample))).count()
    }

    fn extremes(&self) -> [i32; 2] {
        self.values().fold([0, 0], |[low, high], value| [low.min(value), high.max(value)])
    }
}

fn dot(a: [f64; 3], b: [f64; 3]) -> f64 {
    a[0] * b[0] + a[1] * b[1] + a[2] * b[2]
}

fn cross(a: [f64; 3], b: [f64; 3]) -> [f64; 3] {
    [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]]
}
