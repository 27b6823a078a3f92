//! Radiographs as files: 8- and 16-bit PNG, safetensors and NIfTI out; these, JPEG and DICOM in.

mod exif;
mod read;

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;

use super::annotate::Letters;
use super::geometry::{Affine, AxisCodes};
use super::nifti;
use super::view::View;
use super::volume::CtVolume;
use crate::archive::Writer;
use crate::error::{Error, Result};
use crate::files::write_atomic;

pub use read::{Stored, read, read_bytes, read_radiograph};

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

/// The values a picture's darkest and brightest grey stand for; values beyond are clamped.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Window {
    /// The image's own smallest and largest value. An image of one value becomes the low end.
    #[default]
    MinMax,
    /// Given limits, `low < high`.
    Range { low: f32, high: f32 },
    /// The values below which these percentages of the pixels lie, 0 <= `low` < `high` <= 100, interpolated between pixels.
    Percentiles { low: f32, high: f32 },
    /// Limits that are such percentiles of the pixels behind the patient's body.
    Body { low: f32, high: f32, percentiles: [f32; 2] },
    /// 0 to 1, the whole scale of a film.
    Film,
}

impl Window {
    /// By what rule the limits were chosen, as files record it.
    pub fn rule(self) -> String {
        match self {
            Window::MinMax => "smallest and largest value".into(),
            Window::Range { .. } => "given".into(),
            Window::Percentiles { low, high } => format!("percentiles {low} and {high} of all pixels"),
            Window::Body { percentiles: [low, high], .. } => {
                format!("percentiles {low} and {high} of the pixels behind the body")
            }
            Window::Film => "whole scale of the film".into(),
        }
    }
}

/// How grey grows from one end of a window to the other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Curve {
    /// With the value.
    #[default]
    Linear,
    /// With its logarithm: what suits a transmitted fraction, which falls exponentially.
    Logarithm,
    /// With minus the logarithm of what is missing to 1: what suits an absorbed fraction.
    Complement,
}

impl Curve {
    /// The text form.
    pub fn name(self) -> &'static str {
        match self {
            Curve::Linear => "linear",
            Curve::Logarithm => "logarithm",
            Curve::Complement => "complement",
        }
    }

    fn of(self, value: f32) -> f64 {
        // The least fractions that f32 tells from nothing.
        match self {
            Curve::Linear => f64::from(value),
            Curve::Logarithm => f64::from(value).max(f64::from(f32::MIN_POSITIVE)).ln(),
            Curve::Complement => -(1.0 - f64::from(value)).max(f64::from(f32::EPSILON / 4.0)).ln(),
        }
    }
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
    pub curve: Curve,
    pub photometric: Photometric,
    /// Drawn into the picture; never into float files.
    pub letters: Option<Letters>,
}

/// What a file says of its image beside the pixels.
#[derive(Clone, Debug, PartialEq)]
pub struct Description {
    /// Millimetres from pixel to pixel.
    pub pitch: f64,
    /// The detector where it stood, by which a NIfTI is placed and turned in space; its beam plays no part.
    pub detector: Option<View>,
    /// Text for the file's header, such as [`super::Radiograph::description`] gives: all of it in safetensors metadata, PNG text
    /// chunks and a NIfTI's extension (JSON, code 6), the entry `digest` in a NIfTI's `descrip` too.
    pub entries: BTreeMap<String, String>,
}

impl Description {
    /// With the window that the values are shown in: `window_low`, `window_high`, `window_rule`, `window_curve`.
    fn shown(mut self, options: &PngOptions, [low, high]: [f32; 2]) -> Self {
        let mut set = |key: &str, value: String| self.entries.insert(key.into(), value);
        set("window_low", low.to_string());
        set("window_high", high.to_string());
        set("window_rule", options.window.rule());
        set("window_curve", options.curve.name().into());
        self
    }
}

impl From<f64> for Description {
    /// The pitch alone.
    fn from(pitch: f64) -> Self {
        Description { pitch, detector: None, entries: BTreeMap::new() }
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

    /// The values that the darkest and the brightest grey stand for.
    ///
    /// # Errors
    /// A window whose limits are no range.
    pub fn window(&self, window: Window) -> Result<[f32; 2]> {
        match window {
            Window::MinMax => Ok(self.limits().into()),
            Window::Body { low, high, .. } => Ok([low, high]),
            Window::Film => Ok([0.0, 1.0]),
            Window::Range { low, high } if low < high && (high - low).is_finite() => Ok([low, high]),
            Window::Percentiles { low, high } if 0.0 <= low && low < high && high <= 100.0 => {
                Ok(percentiles(self.pixels.clone(), [low, high]).unwrap_or_default())
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

/// The values below which `percent` (0 to 100, each) of the values lie, linearly between the two nearest; `None` of nothing.
pub(super) fn percentiles(mut values: Vec<f32>, percent: [f32; 2]) -> Option<[f32; 2]> {
    let last = values.len().checked_sub(1)?;
    values.sort_unstable_by(f32::total_cmp);
    Some(percent.map(|p| {
        let at = f64::from(p) / 100.0 * last as f64;
        let (low, high) = (values[at.floor() as usize], values[at.ceil() as usize]);
        (f64::from(low) + at.fract() * (f64::from(high) - f64::from(low))) as f32
    }))
}

/// Writes `image` in the format `path` ends in: `.png` (by `png`), `.safetensors` or `.nii.gz` / `.nii` (both f32,
/// values as they are). Each records the window of `png` (`window_low`, `window_high`, `window_rule`, `window_curve`; a NIfTI
/// in `cal_min` and `cal_max` too). Always atomic; equal images and descriptions give equal bytes.
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
        image.check()?;
        write_safetensors(path, image, &description.shown(png, image.window(png.window)?))
    } else if name.ends_with(".nii.gz") || name.ends_with(".nii") {
        image.check()?;
        let window = image.window(png.window)?;
        write_nifti(path, image, &description.shown(png, window), window)
    } else {
        check_format(path)
    }
}

/// Whether [`write()`] knows a format by what the path ends in.
///
/// # Errors
/// It does not.
pub fn check_format(path: impl AsRef<Path>) -> Result<()> {
    let name = path.as_ref().to_string_lossy();
    if [".png", ".safetensors", ".nii.gz", ".nii"].iter().any(|ending| name.ends_with(ending)) {
        return Ok(());
    }
    Err(Error::file(path, "unknown image format", "end the name in .png, .safetensors or .nii.gz"))
}

/// The bytes of a grey PNG. Level = round((c(value) - c(low)) / (c(high) - c(low)) * (2^bits - 1)) with the [`Curve`] c, clamped;
/// inverted for MONOCHROME1. The description's entries and those of the picture (the window, `photometric`, `bits`) become
/// iTXt chunks.
pub fn encode_png(image: &GrayImage, options: &PngOptions, description: &Description) -> Result<Vec<u8>> {
    image.check()?;
    let window = image.window(options.window)?;
    let mut description = description.clone().shown(options, window);
    let photometric = format!("{:?}", options.photometric).to_lowercase();
    description.entries.insert("photometric".into(), photometric);
    let bits = if options.depth == Depth::Eight { "8" } else { "16" };
    description.entries.insert("bits".into(), bits.into());
    // f64: the range of two finite f32 may exceed f32, and 16 bits deserve exact rounding.
    let [low, high] = window.map(|end| options.curve.of(end));
    let range = high - low;
    let most = if options.depth == Depth::Eight { 255 } else { u16::MAX };
    let level = |value: f32| {
        let t = if range > 0.0 { ((options.curve.of(value) - low) / range).clamp(0.0, 1.0) } else { 0.0 };
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
    let written = texts.and_then(|()| encoder.write_header()).and_then(|mut writer| {
        writer.write_image_data(&data)?;
        writer.finish()
    });
    written.map_err(|e| Error::argument("image", format!("cannot be a PNG: {e}"), "write .safetensors instead"))?;
    Ok(bytes)
}

/// The metadata entry `format` of a single image written as safetensors.
pub const FORMAT: &str = "x2ct-image";

/// Writes one safetensors tensor `image`, f32 `[height, width]`; the pitch in mm, the description's entries, a format and a
/// checksum (see [`crate::archive`]) stand in the metadata.
fn write_safetensors(path: &Path, image: &GrayImage, description: &Description) -> Result<()> {
    let mut archive = Writer::new(FORMAT);
    archive.set("pitch_mm", description.pitch.to_string());
    for (key, value) in &description.entries {
        archive.set(key, value);
    }
    archive.put_f32("image", &[image.height, image.width], &image.pixels);
    archive.write(path)
}

/// Writes an f32 NIfTI of shape `[width, height, 1]`, columns fastest. Voxel (c, r, 0) lies where the centre of the detector's
/// pixel (r, c) lay: with a parallel beam in the plane of the isocentre, with a cone beam on the detector behind the patient,
/// magnified as the picture is. The third axis is their right-handed normal, 1 mm. Without a detector in the description the
/// image is a frontal one in name only: centred at the origin, columns to the patient's left, rows towards the feet.
fn write_nifti(path: &Path, image: &GrayImage, description: &Description, window: [f32; 2]) -> Result<()> {
    let shape = [image.width, image.height, 1];
    let pitch = description.pitch;
    let affine = match description.detector {
        Some(View { origin, row: [a, b, c], column: [d, e, f], .. }) => {
            let normal = [e * c - f * b, f * a - d * c, d * b - e * a];
            let length = normal.iter().map(|v| v * v).sum::<f64>().sqrt();
            let (row, column) = ([a, b, c], [d, e, f]);
            Affine::new(std::array::from_fn(|i| [column[i], row[i], normal[i] / length, origin[i]]))?
        }
        None => Affine::centred(AxisCodes::LIA, [pitch, pitch, 1.0], shape)?,
    };
    let extra = nifti::Extra {
        descrip: description.entries.get("digest").map_or(String::new(), |digest| format!("x2ct {digest}")),
        window: Some(window),
        comment: serde_json::to_string(&description.entries).expect("text serializes"),
    };
    nifti::write_described(path, &CtVolume::new(image.pixels.clone().into(), shape, affine)?, &extra)
}
