//! Stored values of DICOM images, uncompressed or decompressed.

use std::borrow::Cow;

use dicom_dictionary_std::{tags, uids};
use dicom_encoding::adapters::PixelDataObject;
use dicom_object::DefaultDicomObject;

use super::codec;
use super::file::{Fields, syntax};
use crate::error::{Error, Result};

/// How a grey image is stored.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Layout {
    pub rows: usize,
    pub columns: usize,
    /// Bytes of a sample, 1 or 2.
    pub bytes: usize,
    /// How many of a sample's bits count, from the lowest.
    pub bits: u32,
    pub signed: bool,
}

impl Layout {
    /// Of an image with one sample a pixel, of 8 or 16 bits.
    pub fn of(fields: Fields) -> Result<Self> {
        let samples = fields.integer(tags::SAMPLES_PER_PIXEL, "SamplesPerPixel")?;
        if samples != 1 {
            return Err(fields.refuse(format!("SamplesPerPixel is {samples}, only 1 is read: it is in colour")));
        }
        let allocated = fields.integer(tags::BITS_ALLOCATED, "BitsAllocated")?;
        if ![8, 16].contains(&allocated) {
            return Err(fields.refuse(format!("BitsAllocated is {allocated}, only 8 and 16 are read")));
        }
        let bits = fields.integer(tags::BITS_STORED, "BitsStored")?;
        if !(1..=allocated).contains(&bits) || fields.integer(tags::HIGH_BIT, "HighBit")? != bits - 1 {
            return Err(fields.refuse(format!("{bits} bits are stored, but not the lowest of {allocated}")));
        }
        let (rows, columns) = (fields.integer(tags::ROWS, "Rows")?, fields.integer(tags::COLUMNS, "Columns")?);
        if rows == 0 || columns == 0 || rows.max(columns) > 1 << 16 {
            return Err(fields.refuse(format!("has {rows} rows of {columns} pixels")));
        }
        let signed = fields.integer(tags::PIXEL_REPRESENTATION, "PixelRepresentation")? == 1;
        Ok(Layout { rows, columns, bytes: allocated / 8, bits: bits as u32, signed })
    }

    /// Pixels of a frame.
    pub fn area(&self) -> usize {
        self.rows * self.columns
    }

    /// The value of a sample; bits above those stored may hold anything.
    pub fn value(&self, sample: u16) -> i32 {
        let unused = 16 - self.bits;
        let raised = sample << unused;
        if self.signed { i32::from(raised as i16 >> unused) } else { i32::from(raised >> unused) }
    }
}

/// The pixels of a file, frame by frame.
pub(super) struct Pixels<'a> {
    object: &'a DefaultDicomObject,
    fields: Fields<'a>,
    layout: Layout,
    /// All frames, where they are stored as they are.
    native: Option<Cow<'a, [u8]>>,
}

impl<'a> Pixels<'a> {
    /// Of a file that was read whole, with its number of frames.
    pub fn of(object: &'a DefaultDicomObject, fields: Fields<'a>, layout: Layout, frames: usize) -> Result<Self> {
        let absent = || Error::file(fields.path, "has no PixelData", "the file is truncated: export it again");
        let element = object.get(tags::PIXEL_DATA).ok_or_else(absent)?;
        let native = match object.number_of_fragments() {
            Some(_) => None,
            None => {
                let bytes = element.to_bytes().map_err(|e| fields.refuse(format!("PixelData: {e}")))?;
                let Layout { rows, columns, bytes: size, .. } = layout;
                let wanted = layout.area() * size * frames;
                if bytes.len() != wanted && bytes.len() != wanted.next_multiple_of(2) {
                    let problem = format!(
                        "PixelData has {} bytes for {frames} x {rows} x {columns} pixels of {size}",
                        bytes.len()
                    );
                    return Err(Error::file(fields.path, problem, "the file is truncated or damaged: export it again"));
                }
                Some(bytes)
            }
        };
        Ok(Pixels { object, fields, layout, native })
    }

    /// The samples of one frame, row by row.
    pub fn frame(&self, index: usize) -> Result<Vec<u16>> {
        let Layout { bytes, .. } = self.layout;
        if let Some(native) = &self.native {
            let length = self.layout.area() * bytes;
            return Ok(samples(&native[index * length..(index + 1) * length], bytes, u16::from_ne_bytes));
        }
        let syntax = syntax(self.object);
        let decode: fn(&[u8], Layout) -> Result<Vec<u16>, String> = match syntax {
            uids::RLE_LOSSLESS => codec::rle,
            uids::JPEG_BASELINE8_BIT | uids::JPEG_EXTENDED12_BIT | uids::JPEG_LOSSLESS | uids::JPEG_LOSSLESS_SV1 => {
                codec::jpeg
            }
            uids::JPEG2000_LOSSLESS
            | uids::JPEG2000
            | uids::HTJ2K_LOSSLESS
            | uids::HTJ2K_LOSSLESS_RPCL
            | uids::HTJ2K => codec::jpeg_2000,
            uids::JPEGLS_LOSSLESS | uids::JPEGLS_NEAR_LOSSLESS => codec::jpeg_ls,
            uids::ENCAPSULATED_UNCOMPRESSED_EXPLICIT_VR_LITTLE_ENDIAN => codec::none,
            _ => |_, _| Err("this compression is not decoded here".into()),
        };
        let data = self.object.frame_pixel_data(index as u32).unwrap_or_default();
        let decoded = decode(&data, self.layout).and_then(|samples| match samples.len() == self.layout.area() {
            true => Ok(samples),
            false => Err(format!("{} pixels come out of it, not {}", samples.len(), self.layout.area())),
        });
        decoded.map_err(|problem| {
            let hint = match syntax {
                uids::JPEGLS_LOSSLESS | uids::JPEGLS_NEAR_LOSSLESS if !cfg!(feature = "jpegls") => {
                    "decompress the series first (gdcmconv --raw, dcmdjpls), or build x2ct with --features jpegls, which needs \
                     cmake"
                }
                _ => "export the series again, or decompress it first (gdcmconv --raw IN OUT)",
            };
            let problem = format!("its pixels ({}, transfer syntax {syntax}): {problem}", name(syntax));
            Error::file(self.fields.path, problem, hint)
        })
    }
}

/// Samples of `size` bytes; of two, as `pair` says.
pub(super) fn samples(bytes: &[u8], size: usize, pair: fn([u8; 2]) -> u16) -> Vec<u16> {
    match size {
        1 => bytes.iter().map(|&b| u16::from(b)).collect(),
        _ => bytes.as_chunks::<2>().0.iter().map(|&two| pair(two)).collect(),
    }
}

/// What compresses the pixels, in words.
fn name(syntax: &str) -> &'static str {
    match syntax {
        uids::RLE_LOSSLESS => "RLE",
        uids::JPEG_BASELINE8_BIT => "JPEG baseline",
        uids::JPEG_EXTENDED12_BIT => "JPEG extended",
        uids::JPEG_LOSSLESS | uids::JPEG_LOSSLESS_SV1 => "JPEG lossless",
        uids::JPEG2000_LOSSLESS | uids::JPEG2000 => "JPEG 2000",
        uids::HTJ2K_LOSSLESS | uids::HTJ2K_LOSSLESS_RPCL | uids::HTJ2K => "high-throughput JPEG 2000",
        uids::JPEGLS_LOSSLESS | uids::JPEGLS_NEAR_LOSSLESS => "JPEG-LS",
        _ if syntax.starts_with("1.2.840.10008.1.2.4.11") => "JPEG XL",
        _ if syntax.starts_with("1.2.840.10008.1.2.4.10") => "video",
        _ => "a compression not known here",
    }
}
