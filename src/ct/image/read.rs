//! Radiographs in: PNG, JPEG, two-dimensional NIfTI, what `x2ct drr` writes as safetensors, and DICOM (feature `dicom`).

use std::collections::BTreeMap;
use std::io::Cursor;
use std::path::Path;

use jpeg_decoder::PixelFormat;

use super::exif::Orientation;
use super::{FORMAT, GrayImage};
use crate::archive::Archive;
use crate::content::Content;
use crate::ct::volume::HuSource;
use crate::ct::{jpeg, nifti};
use crate::error::{Error, Result};
use crate::files;

/// Largest image that is read: four times the biggest detector's pixels; a header that claims more is damaged.
const MAX_PIXELS: u64 = 1 << 26;

/// A radiograph as it is stored, and what its file says of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Stored {
    /// The pixels, bone bright where the file says which end is.
    pub image: GrayImage,
    /// How it was made, by name: all that `x2ct drr` writes into PNG, safetensors and NIfTI; of DICOM the `view`; else nothing.
    pub settings: BTreeMap<String, String>,
    /// What was done to the pixels, or is doubtful of them; one sentence each.
    pub remarks: Vec<String>,
}

impl From<GrayImage> for Stored {
    fn from(image: GrayImage) -> Self {
        Stored { image, settings: BTreeMap::new(), remarks: Vec::new() }
    }
}

impl Stored {
    /// As it is meant to be shown by its EXIF data.
    fn shown(mut self, exif: Option<&[u8]>) -> Self {
        if let Some(orientation) = exif.and_then(Orientation::of) {
            self.image = orientation.apply(&self.image);
            self.remarks.push(orientation.remark());
        }
        self
    }
}

/// The pixels of [`read_radiograph`].
///
/// # Errors
/// Those of [`read_radiograph`].
pub fn read(path: impl AsRef<Path>) -> Result<GrayImage> {
    read_radiograph(path).map(|stored| stored.image)
}

/// Reads a radiograph, known by its content:
///
/// - PNG and JPEG: samples keep their scale, 0..=255 or 0..=65535 (depths below 8 bits are widened to 8); colour becomes luma
///   (0.299 R + 0.587 G + 0.114 B, ITU-R BT.601), alpha is dropped.
/// - NIfTI: the first axis runs along rows, the second down; header scaling is applied; the affine is not used.
/// - safetensors: the tensor `image` of `x2ct drr`.
/// - DICOM: one grey frame, see [`crate::ct::dicom::radiograph`].
///
/// No mirroring and turning but by the EXIF orientation of PNG and JPEG; no inversion, but of DICOM's MONOCHROME1.
///
/// # Errors
/// [`Error::File`]: unreadable, damaged or truncated, more than 2^26 pixels, a NIfTI with more than one slice, another
/// format.
pub fn read_radiograph(path: impl AsRef<Path>) -> Result<Stored> {
    let path = path.as_ref();
    match Content::of_file(path)? {
        Content::Dicom => read_dicom(path),
        Content::Safetensors => read_safetensors(path),
        _ => {
            let bytes = files::read(path).map_err(|e| Error::io(path, "read", &e))?;
            decode(&bytes, path)
        }
    }
}

/// As [`read`], from the bytes of a PNG, JPEG or NIfTI; `path` only labels errors.
pub fn read_bytes(bytes: &[u8], path: impl AsRef<Path>) -> Result<GrayImage> {
    decode(bytes, path.as_ref()).map(|stored| stored.image)
}

fn decode(bytes: &[u8], path: &Path) -> Result<Stored> {
    match Content::of_start(bytes) {
        Content::Png => read_png(bytes, path),
        Content::Jpeg => read_jpeg(bytes, path),
        _ if nifti::is_nifti(bytes) => read_nifti(bytes, path),
        other => {
            let hint = other.remedy().unwrap_or("convert it to an 8- or 16-bit PNG");
            Err(Error::file(path, format!("is {other}, neither PNG, JPEG, DICOM nor NIfTI"), hint))
        }
    }
}

#[cfg(feature = "dicom")]
fn read_dicom(path: &Path) -> Result<Stored> {
    crate::ct::dicom::radiograph(path)
}

#[cfg(not(feature = "dicom"))]
fn read_dicom(path: &Path) -> Result<Stored> {
    Err(Error::file(path, "is DICOM, which this build does not read", "build with the feature `dicom`, or give a PNG"))
}

fn read_safetensors(path: &Path) -> Result<Stored> {
    let archive = Archive::read(path, FORMAT, "image", "give an image that `x2ct drr` wrote")?;
    let refuse = |problem: String| Error::file(path, problem, "make the image again with `x2ct drr`");
    let (dtype, shape, data) = archive.tensor("image")?;
    let (safetensors::Dtype::F32, &[height, width]) = (dtype, shape) else {
        return Err(refuse(format!("image is {dtype:?} {shape:?}, not F32 [H, W]")));
    };
    let pixels = data.as_chunks::<4>().0.iter().map(|&b| f32::from_le_bytes(b)).collect();
    let image = GrayImage::new(pixels, height, width).map_err(|e| e.of_file(path))?;
    Ok(Stored { settings: archive.texts().clone(), ..image.into() })
}

fn read_nifti(bytes: &[u8], path: &Path) -> Result<Stored> {
    let volume = nifti::read_bytes(bytes, path)?;
    let [width, height, slices] = volume.shape;
    if slices != 1 {
        let problem = format!("a volume of {slices} slices where one image is wanted");
        return Err(Error::file(path, problem, "project it first with `x2ct drr`"));
    }
    let image = GrayImage::new(volume.hu_f32(HuSource::AlreadyHu), height, width).map_err(|error| match error {
        Error::Argument { problem, .. } => Error::file(path, problem, "its scl_slope is damaged: export it again"),
        other => other,
    })?;
    let settings = nifti::comment(bytes).and_then(|comment| serde_json::from_str(&comment).ok());
    Ok(Stored { settings: settings.unwrap_or_default(), remarks: volume.remarks, ..image.into() })
}

fn check_size(height: u64, width: u64, path: &Path) -> Result<()> {
    if height * width <= MAX_PIXELS {
        return Ok(());
    }
    let problem = format!("{width} x {height} pixels are more than any radiograph has");
    Err(Error::file(path, problem, "scale it down to at most 8192 x 8192"))
}

/// Grey of samples that are grey, grey and alpha, RGB, or RGB and alpha.
fn grey(samples: &[f64], channels: usize, [height, width]: [usize; 2]) -> Result<Stored> {
    let luma = |s: &[f64]| if channels < 3 { s[0] } else { 0.299 * s[0] + 0.587 * s[1] + 0.114 * s[2] };
    let pixels = samples.chunks_exact(channels).map(|s| luma(s) as f32).collect();
    let coloured = channels >= 3 && samples.chunks_exact(channels).any(|s| s[0] != s[1] || s[1] != s[2]);
    let remark = coloured.then(|| "It is in colour, and its luma is taken.".to_string());
    Ok(Stored { remarks: Vec::from_iter(remark), ..GrayImage::new(pixels, height, width)?.into() })
}

fn read_jpeg(bytes: &[u8], path: &Path) -> Result<Stored> {
    let damaged = |e: jpeg_decoder::Error| match jpeg::beyond(&e) {
        Some(what) => Error::file(path, format!("is {what}"), "convert it to PNG"),
        None => Error::file(path, format!("not a sound JPEG: {e}"), "copy or export the image again"),
    };
    let mut decoder = jpeg_decoder::Decoder::new(bytes);
    decoder.read_info().map_err(damaged)?;
    let info = decoder.info().ok_or_else(|| Error::file(path, "a JPEG without an image", "export it again"))?;
    check_size(info.height.into(), info.width.into(), path)?;
    let channels = match info.pixel_format {
        PixelFormat::L8 | PixelFormat::L16 => 1,
        PixelFormat::RGB24 => 3,
        PixelFormat::CMYK32 => return Err(Error::file(path, "a JPEG in CMYK", "convert it to grey")),
    };
    let data = decoder.decode().map_err(damaged)?;
    let samples: Vec<f64> = match info.pixel_format {
        PixelFormat::L16 => data.as_chunks::<2>().0.iter().map(|&b| f64::from(u16::from_ne_bytes(b))).collect(),
        _ => data.iter().map(|&b| f64::from(b)).collect(),
    };
    let stored = grey(&samples, channels, [info.height.into(), info.width.into()])?;
    Ok(stored.shown(decoder.exif_data()))
}

fn read_png(bytes: &[u8], path: &Path) -> Result<Stored> {
    let damaged =
        |e: png::DecodingError| Error::file(path, format!("not a sound PNG: {e}"), "copy or export the image again");
    let mut options = png::DecodeOptions::default();
    options.set_ignore_adler32(false);
    options.set_skip_ancillary_crc_failures(false);
    let mut decoder = png::Decoder::new_with_options(Cursor::new(bytes), options);
    decoder.set_transformations(png::Transformations::EXPAND);
    let (width, height) = decoder.read_header_info().map_err(damaged)?.size();
    check_size(height.into(), width.into(), path)?;
    let mut reader = decoder.read_info().map_err(damaged)?;
    let (color, depth) = reader.output_color_type();
    let size = reader.output_buffer_size().ok_or_else(|| Error::file(path, "too large", "scale it down"))?;
    let mut data = vec![0; size];
    reader.next_frame(&mut data).map_err(damaged)?;
    // The end of the stream carries checks of its own.
    reader.finish().map_err(damaged)?;
    let samples: Vec<f64> = match depth {
        png::BitDepth::Sixteen => data.as_chunks::<2>().0.iter().map(|&b| f64::from(u16::from_be_bytes(b))).collect(),
        _ => data.iter().map(|&b| f64::from(b)).collect(),
    };
    let texts = reader.info().utf8_text.iter().filter_map(|t| Some((t.keyword.clone(), t.get_text().ok()?)));
    let settings: BTreeMap<String, String> = texts.collect();
    // Other programs write texts too; only `x2ct drr` writes these together.
    let ours = ["mode", "view", "digest"].iter().all(|name| settings.contains_key(*name));
    let stored = grey(&samples, color.samples(), [height as usize, width as usize])?;
    let stored = Stored { settings: if ours { settings } else { BTreeMap::new() }, ..stored };
    Ok(stored.shown(reader.info().exif_metadata.as_deref()))
}
