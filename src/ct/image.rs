//! Radiographs as files: 8- and 16-bit PNG, safetensors and NIfTI out; PNG and 2-D NIfTI in.

use std::collections::BTreeMap;
use std::io::Cursor;
use std::path::Path;

use super::annotate::Letters;
use super::geometry::{Affine, AxisCodes};
use super::nifti;
use super::volume::{CtVolume, HuSource};
use crate::archive::Writer;
use crate::error::{Error, Result};
use crate::files::write_atomic;

/// Largest image that is read: four times the biggest detector's pixels; a header that claims more is damaged.
const MAX_PIXELS: u64 = 1 << 26;

/// A grey image in f32, row-major `[height, width]`, row 0 on top.
#[derive(Clone, Debug, PartialEq)]
pub struct GrayImage {
    /// Index `column + width * row`.
    pub pixels: Vec<f32>,
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
}

/// Bits per PNG sample.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Depth {
    /// 256 grey levels.
    Eight,
    /// 65,536 grey levels.
    #[default]
    Sixteen,
}

/// The values a PNG's darkest and brightest grey stand for; values beyond are clamped.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Window {
    /// The image's own smallest and largest value. An image of one value becomes the low end.
    #[default]
    MinMax,
    /// Given limits, `low < high`.
    Range { low: f32, high: f32 },
    /// The values below which these percentages of the pixels lie, 0 <= `low` < `high` <= 100, interpolated between pixels.
    Percentiles { low: f32, high: f32 },
}

/// Which end of the window is bright (DICOM PS3.3, C.7.6.3.1.2). PNG has no field for it, so the grey levels
/// themselves are inverted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Photometric {
    /// Low values bright.
    Monochrome1,
    /// Low values dark: bone is white, as radiographs are shown.
    #[default]
    Monochrome2,
}

/// How values become PNG grey levels.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct PngOptions {
    pub depth: Depth,
    pub window: Window,
    pub photometric: Photometric,
    /// Drawn into the picture; never into float files.
    pub letters: Option<Letters>,
}

/// What a file says of its image beside the pixels.
#[derive(Clone, Debug, PartialEq)]
pub struct Description {
    /// Millimetres from pixel to pixel.
    pub pitch: f64,
    /// Text for the file's header, such as [`super::RadiographOptions::describe`] gives: all of it in safetensors metadata and
    /// PNG text chunks, the entry `digest` in a NIfTI's `descrip`.
    pub entries: BTreeMap<String, String>,
}

impl From<f64> for Description {
    /// The pitch alone.
    fn from(pitch: f64) -> Self {
        Description { pitch, entries: BTreeMap::new() }
    }
}

impl GrayImage {
    /// An image of `height` x `width` finite values. Errors when one axis is empty, the count is wrong or a value is
    /// NaN or infinite.
    pub fn new(pixels: Vec<f32>, height: usize, width: usize) -> Result<Self> {
        let image = GrayImage { pixels, height, width };
        image.check()?;
        Ok(image)
    }

    fn check(&self) -> Result<()> {
        let GrayImage { pixels, height, width } = self;
        if pixels.is_empty() || height.checked_mul(*width) != Some(pixels.len()) {
            let problem = format!("{} pixels for {height} rows of {width}", pixels.len());
            return Err(Error::argument("image", problem, "give height * width pixels, row by row"));
        }
        match pixels.iter().position(|v| !v.is_finite()) {
            None => Ok(()),
            Some(at) => {
                let problem = format!("pixel (row {}, column {}) is {}", at / width, at % width, pixels[at]);
                Err(Error::argument("image", problem, "check the volume it was made from"))
            }
        }
    }

    /// Smallest and largest value.
    pub fn limits(&self) -> (f32, f32) {
        self.pixels.iter().fold((f32::INFINITY, f32::NEG_INFINITY), |(low, high), &v| (low.min(v), high.max(v)))
    }

    /// The values below which `percent` (0 to 100, each) of the pixels lie, linearly between the two nearest.
    fn percentiles(&self, percent: [f32; 2]) -> [f32; 2] {
        let mut sorted = self.pixels.clone();
        sorted.sort_unstable_by(f32::total_cmp);
        percent.map(|p| {
            let at = f64::from(p) / 100.0 * (sorted.len() - 1) as f64;
            let (low, high) = (sorted[at.floor() as usize], sorted[at.ceil() as usize]);
            (f64::from(low) + at.fract() * (f64::from(high) - f64::from(low))) as f32
        })
    }

    /// The values that the darkest and the brightest grey stand for.
    fn window(&self, window: Window) -> Result<(f32, f32)> {
        match window {
            Window::MinMax => Ok(self.limits()),
            Window::Range { low, high } if low < high && (high - low).is_finite() => Ok((low, high)),
            Window::Percentiles { low, high } if 0.0 <= low && low < high && high <= 100.0 => {
                let [low, high] = self.percentiles([low, high]);
                Ok((low, high))
            }
            Window::Range { low, high } => {
                let problem = format!("{low} to {high} is not a range");
                Err(Error::argument("window", problem, "give low < high"))
            }
            Window::Percentiles { low, high } => {
                let problem = format!("{low} to {high} is not a range of percentages");
                Err(Error::argument("percentiles", problem, "give 0 <= low < high <= 100"))
            }
        }
    }
}

/// Writes `image` in the format `path` ends in: `.png` (by `png`), `.safetensors` or `.nii.gz` / `.nii` (both f32,
/// values as they are). Always atomic; equal images and descriptions give equal bytes.
pub fn write(
    path: impl AsRef<Path>,
    image: &GrayImage,
    png: &PngOptions,
    description: impl Into<Description>,
) -> Result<()> {
    let (path, description) = (path.as_ref(), description.into());
    let name = path.to_string_lossy();
    if name.ends_with(".png") {
        write_atomic(path, &encode_png(image, png, &description)?)
    } else if name.ends_with(".safetensors") {
        write_safetensors(path, image, &description)
    } else if name.ends_with(".nii.gz") || name.ends_with(".nii") {
        write_nifti(path, image, &description)
    } else {
        Err(Error::file(path, "unknown image format", "end the name in .png, .safetensors or .nii.gz"))
    }
}

/// The bytes of a grey PNG. Level = round((value - low) / (high - low) * (2^bits - 1)), clamped; inverted for MONOCHROME1. The
/// description's entries become iTXt chunks.
pub fn encode_png(image: &GrayImage, options: &PngOptions, description: &Description) -> Result<Vec<u8>> {
    image.check()?;
    let (low, high) = image.window(options.window)?;
    // f64: the range of two finite f32 may exceed f32, and 16 bits deserve exact rounding.
    let (low, range) = (f64::from(low), f64::from(high) - f64::from(low));
    let most = if options.depth == Depth::Eight { 255 } else { u16::MAX };
    let level = |value: f32| {
        let t = if range > 0.0 { ((f64::from(value) - low) / range).clamp(0.0, 1.0) } else { 0.0 };
        let t = if options.photometric == Photometric::Monochrome1 { 1.0 - t } else { t };
        (t * f64::from(most)).round() as u16
    };
    let mut levels: Vec<u16> = image.pixels.iter().map(|&v| level(v)).collect();
    if let Some(letters) = &options.letters {
        letters.draw(&mut levels, image.width, most);
    }
    let (depth, data): (_, Vec<u8>) = match options.depth {
        Depth::Eight => (png::BitDepth::Eight, levels.iter().map(|&v| v as u8).collect()),
        Depth::Sixteen => (png::BitDepth::Sixteen, levels.iter().flat_map(|v| v.to_be_bytes()).collect()),
    };
    let side = |n: usize| {
        u32::try_from(n).map_err(|_| Error::argument("image", format!("{n} pixels on one side"), "make it smaller"))
    };
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, side(image.width)?, side(image.height)?);
    encoder.set_color(png::ColorType::Grayscale);
    encoder.set_depth(depth);
    let texts =
        description.entries.iter().try_for_each(|(key, text)| encoder.add_itxt_chunk(key.clone(), text.clone()));
    // Of a picture without it, low values are dark.
    let inverted = options.photometric == Photometric::Monochrome1;
    let texts = texts.and_then(|()| match inverted {
        true => encoder.add_itxt_chunk("photometric".into(), "monochrome1".into()),
        false => Ok(()),
    });
    let written = texts.and_then(|()| encoder.write_header()).and_then(|mut writer| {
        writer.write_image_data(&data)?;
        writer.finish()
    });
    written.map_err(|e| Error::argument("image", format!("cannot be a PNG: {e}"), "write .safetensors instead"))?;
    Ok(bytes)
}

/// The format that [`write_safetensors`] names in its files.
pub(crate) const FORMAT: &str = "x2ct-image";

/// Writes one safetensors tensor `image`, f32 `[height, width]`; the pitch in mm, the description's entries, a format and a
/// checksum (see [`crate::archive`]) stand in the metadata.
pub fn write_safetensors(path: impl AsRef<Path>, image: &GrayImage, description: &Description) -> Result<()> {
    image.check()?;
    let mut archive = Writer::new(FORMAT);
    archive.set("pitch_mm", description.pitch.to_string());
    for (key, value) in &description.entries {
        archive.set(key, value);
    }
    archive.put_f32("image", &[image.height, image.width], &image.pixels);
    archive.write(path.as_ref())
}

/// Writes an f32 NIfTI of shape `[width, height, 1]`, columns fastest, pixels the description's pitch apart and centred at the
/// origin. Columns grow to the patient's left and rows towards the feet, as on a frontal radiograph; for another view
/// the plane's orientation in the file is nominal.
pub fn write_nifti(path: impl AsRef<Path>, image: &GrayImage, description: &Description) -> Result<()> {
    image.check()?;
    let shape = [image.width, image.height, 1];
    let pitch = description.pitch;
    let affine = Affine::centred(AxisCodes::LIA, [pitch, pitch, 1.0], shape)?;
    let digest = description.entries.get("digest").map_or(String::new(), |digest| format!("x2ct {digest}"));
    nifti::write_described(path, &CtVolume::new(image.pixels.clone().into(), shape, affine)?, &digest)
}

/// Reads a PNG or a 2-D NIfTI, told apart by their first bytes.
///
/// PNG samples keep their scale, 0..=255 or 0..=65535 (depths below 8 bits are widened to 8); colour becomes luma
/// (0.299 R + 0.587 G + 0.114 B, ITU-R BT.601), alpha is dropped. NIfTI: the first axis runs along rows, the second
/// down; header scaling is applied; the affine is not used. No mirroring and no inversion in either case.
///
/// # Errors
/// [`Error::File`]: unreadable, damaged or truncated, more than 2^26 pixels, a NIfTI with more than one slice, another
/// format.
pub fn read(path: impl AsRef<Path>) -> Result<GrayImage> {
    let path = path.as_ref();
    let bytes = std::fs::read(path).map_err(|e| Error::io(path, "read", &e))?;
    read_bytes(&bytes, path)
}

/// As [`read`], from a file's bytes; `path` only labels errors.
pub fn read_bytes(bytes: &[u8], path: impl AsRef<Path>) -> Result<GrayImage> {
    let path = path.as_ref();
    if bytes.starts_with(b"\x89PNG\r\n\x1a\n") {
        return read_png(bytes, path);
    }
    if !nifti::is_nifti(bytes) {
        return Err(Error::file(path, "neither PNG nor NIfTI", "convert it to an 8- or 16-bit PNG"));
    }
    let volume = nifti::read_bytes(bytes, path)?;
    let [width, height, slices] = volume.shape;
    if slices != 1 {
        let problem = format!("a volume of {slices} slices where one image is wanted");
        return Err(Error::file(path, problem, "project it first with `x2ct drr`"));
    }
    GrayImage::new(volume.hu_f32(HuSource::AlreadyHu), height, width).map_err(|error| match error {
        Error::Argument { problem, .. } => Error::file(path, problem, "its scl_slope is damaged: export it again"),
        other => other,
    })
}

fn read_png(bytes: &[u8], path: &Path) -> Result<GrayImage> {
    let damaged =
        |e: png::DecodingError| Error::file(path, format!("not a sound PNG: {e}"), "copy or export the image again");
    let mut options = png::DecodeOptions::default();
    options.set_ignore_adler32(false);
    options.set_skip_ancillary_crc_failures(false);
    let mut decoder = png::Decoder::new_with_options(Cursor::new(bytes), options);
    decoder.set_transformations(png::Transformations::EXPAND);
    let (width, height) = decoder.read_header_info().map_err(damaged)?.size();
    if u64::from(width) * u64::from(height) > MAX_PIXELS {
        let problem = format!("{width} x {height} pixels are more than any radiograph has");
        return Err(Error::file(path, problem, "scale it down to at most 8192 x 8192"));
    }
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
    let channels = color.samples();
    let luma = |s: &[f64]| if channels < 3 { s[0] } else { 0.299 * s[0] + 0.587 * s[1] + 0.114 * s[2] };
    let pixels = samples.chunks_exact(channels).map(|s| luma(s) as f32).collect();
    GrayImage::new(pixels, height as usize, width as usize)
}
