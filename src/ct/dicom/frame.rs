//! What DICOM files say of their CT frames, read without the pixels.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use dicom_dictionary_std::{tags, uids};
use dicom_object::Tag;

use super::file::{Fields, open};
use super::pixels::Layout;
use super::{COSINE, dot};
use crate::error::{Error, Result};

/// A file with frames of a CT.
#[derive(Debug)]
pub(super) struct CtFile {
    pub path: PathBuf,
    pub series: String,
    /// SeriesNumber, by which scanners count.
    pub number: i64,
    /// SeriesDescription.
    pub description: String,
    /// AcquisitionNumber, which tells repeated scans within a series apart.
    pub acquisition: String,
    pub layout: Layout,
    pub frames: usize,
}

impl CtFile {
    /// What a user finds the file by.
    pub fn name(&self) -> String {
        self.path.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }
}

/// A slice: a frame of a file, and where it lies.
#[derive(Clone, Debug)]
pub(super) struct Frame {
    pub file: Arc<CtFile>,
    /// Index in the file.
    pub index: usize,
    pub plane: Plane,
    /// RescaleSlope and RescaleIntercept.
    pub rescale: [f64; 2],
    /// Stored values that are padding, from the first to the last, and such a value's bits.
    pub padding: Option<Padding>,
    /// Centre of the first pixel, LPS, mm.
    pub position: [f64; 3],
    /// The decimals that the position is written with.
    pub decimals: i32,
}

/// Values that stand for what was not measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Padding {
    pub first: i32,
    pub last: i32,
    /// Bits of PixelPaddingValue, which may reach beyond those that are stored.
    pub bits: u16,
}

impl Padding {
    /// PixelPaddingValue and PixelPaddingRangeLimit, whatever type they are written as.
    pub fn of(fields: Fields, layout: Layout) -> Result<Option<Self>> {
        if !fields.has(tags::PIXEL_PADDING_VALUE) {
            return Ok(None);
        }
        let bits = |tag, name| fields.number_or(tag, name, 0.0).map(|value| value as i32 as u16);
        // The sign is that of the pixels (PS3.3, C.7.5.1.1.2), and writers get the type wrong.
        let value = |bits: u16| if layout.signed { i32::from(bits as i16) } else { i32::from(bits) };
        let padding = bits(tags::PIXEL_PADDING_VALUE, "PixelPaddingValue")?;
        let limit = match fields.has(tags::PIXEL_PADDING_RANGE_LIMIT) {
            true => bits(tags::PIXEL_PADDING_RANGE_LIMIT, "PixelPaddingRangeLimit")?,
            false => padding,
        };
        let (a, b) = (value(padding), value(limit));
        Ok(Some(Padding { first: a.min(b), last: a.max(b), bits: padding }))
    }

    /// Whether a sample is padding.
    pub fn holds(&self, sample: u16, value: i32) -> bool {
        sample == self.bits || (self.first..=self.last).contains(&value)
    }
}

/// Raster and directions of a slice.
#[derive(Clone, Debug)]
pub(super) struct Plane {
    pub rows: usize,
    pub columns: usize,
    /// Distance of rows, then of columns, mm.
    pub spacing: [f64; 2],
    /// Direction of a row (growing column index) and of a column, LPS.
    pub right: [f64; 3],
    pub down: [f64; 3],
}

impl Plane {
    /// In what it is another plane than this, if it is.
    pub fn differs_from(&self, other: &Plane) -> Option<&'static str> {
        let near = |a: &[f64], b: &[f64], by: f64| a.iter().zip(b).all(|(a, b)| (a - b).abs() <= by);
        if (self.rows, self.columns) != (other.rows, other.columns) {
            Some("size")
        } else if !near(&self.spacing, &other.spacing, 1e-4) {
            Some("pixel spacing")
        } else if !(near(&self.right, &other.right, COSINE) && near(&self.down, &other.down, COSINE)) {
            Some("orientation")
        } else {
            None
        }
    }
}

/// What a file is to a CT.
pub(super) enum Look {
    Ct(Vec<Frame>),
    /// None of it, and why.
    Other(String),
}

/// Reads what stands before the pixels.
pub(super) fn look(path: &Path) -> Result<Look> {
    let object = open(path, Some(tags::PIXEL_DATA))?;
    let fields = Fields { object: &object, path };
    let stored = object.meta().media_storage_sop_class_uid().trim_end_matches(['\0', ' ']);
    let class = fields.some_text(tags::SOP_CLASS_UID).unwrap_or(stored.into());
    if class.is_empty() && !fields.has(tags::MODALITY) {
        return Err(Error::file(
            path,
            "has neither SOPClassUID nor Modality",
            "the file is truncated: remove or export it",
        ));
    }
    if let Some(other) = other(fields, &class) {
        return Ok(Look::Other(other));
    }
    frames(fields).map(Look::Ct)
}

/// Why a file is no CT slice, if it is none.
fn other(fields: Fields, class: &str) -> Option<String> {
    let modality = fields.some_text(tags::MODALITY);
    let ct =
        [uids::CT_IMAGE_STORAGE, uids::ENHANCED_CT_IMAGE_STORAGE, uids::LEGACY_CONVERTED_ENHANCED_CT_IMAGE_STORAGE];
    if !ct.contains(&class) {
        match modality.as_deref() {
            Some("PR") => return Some("presentation states, without pixels".into()),
            Some("CT") if class.starts_with("1.2.840.10008.5.1.4.1.1.7") => return Some("secondary captures".into()),
            Some("CT") if fields.has(tags::ROWS) => {}
            Some(modality) if fields.has(tags::ROWS) => return Some(format!("images of modality {modality}")),
            Some(modality) => return Some(format!("objects of modality {modality}, without pixels")),
            None => return Some("no CT images".into()),
        }
    }
    let kinds = fields.some_text(tags::IMAGE_TYPE).unwrap_or_default();
    kinds.split('\\').any(|kind| kind.trim() == "LOCALIZER").then(|| "localizers".into())
}

fn frames(fields: Fields) -> Result<Vec<Frame>> {
    let photometric = fields.text(tags::PHOTOMETRIC_INTERPRETATION, "PhotometricInterpretation")?;
    if photometric != "MONOCHROME2" {
        return Err(fields.refuse(format!("PhotometricInterpretation is {photometric}, a CT's is MONOCHROME2")));
    }
    if fields.has(tags::MODALITY_LUT_SEQUENCE) {
        let problem = "has ModalityLUTSequence (0028,3000): its HU are given by a table, which is not read";
        return Err(Error::file(fields.path, problem, "export it with RescaleSlope and RescaleIntercept"));
    }
    let layout = Layout::of(fields)?;
    let count =
        if fields.has(tags::NUMBER_OF_FRAMES) { fields.integer(tags::NUMBER_OF_FRAMES, "NumberOfFrames")? } else { 1 };
    let file = Arc::new(CtFile {
        path: fields.path.into(),
        series: fields.text(tags::SERIES_INSTANCE_UID, "SeriesInstanceUID")?,
        number: fields.some_text(tags::SERIES_NUMBER).and_then(|n| n.parse().ok()).unwrap_or(i64::MAX),
        description: fields.some_text(tags::SERIES_DESCRIPTION).unwrap_or_default(),
        acquisition: fields.some_text(tags::ACQUISITION_NUMBER).unwrap_or_default(),
        layout,
        frames: count,
    });
    let padding = Padding::of(fields, layout)?;
    let of = |index, groups: Groups| {
        let [a, b, c, d, e, f] = groups
            .of(tags::PLANE_ORIENTATION_SEQUENCE)
            .numbers(tags::IMAGE_ORIENTATION_PATIENT, "ImageOrientationPatient")?;
        let (right, down) = ([a, b, c], [d, e, f]);
        let unit = |v: [f64; 3]| (dot(v, v).sqrt() - 1.0).abs() <= COSINE;
        if !(unit(right) && unit(down) && dot(right, down).abs() <= COSINE) {
            return Err(fields.refuse("ImageOrientationPatient is not two unit vectors at a right angle"));
        }
        let spacing = groups.of(tags::PIXEL_MEASURES_SEQUENCE).numbers(tags::PIXEL_SPACING, "PixelSpacing")?;
        let place = groups.of(tags::PLANE_POSITION_SEQUENCE);
        Ok(Frame {
            file: file.clone(),
            index,
            plane: Plane { rows: layout.rows, columns: layout.columns, spacing, right, down },
            rescale: groups.of(tags::PIXEL_VALUE_TRANSFORMATION_SEQUENCE).rescale()?,
            padding,
            position: place.numbers(tags::IMAGE_POSITION_PATIENT, "ImagePositionPatient")?,
            decimals: decimals(place),
        })
    };
    let shared = fields.items(tags::SHARED_FUNCTIONAL_GROUPS_SEQUENCE).next();
    let each: Vec<Fields> = fields.items(tags::PER_FRAME_FUNCTIONAL_GROUPS_SEQUENCE).collect();
    if each.is_empty() {
        if count != 1 {
            let problem = format!("NumberOfFrames is {count}, and where each of them lies is not said");
            return Err(Error::file(fields.path, problem, "export it as Enhanced CT, or as one file a slice"));
        }
        return of(0, Groups { fields, shared, own: None }).map(|frame| vec![frame]);
    }
    if each.len() != count {
        return Err(fields.refuse(format!("NumberOfFrames is {count}, and {} frames are described", each.len())));
    }
    each.into_iter().enumerate().map(|(i, own)| of(i, Groups { fields, shared, own: Some(own) })).collect()
}

/// Where the description of a frame stands: in its own functional groups, in those of all frames, or in the file itself.
#[derive(Clone, Copy)]
struct Groups<'a> {
    fields: Fields<'a>,
    shared: Option<Fields<'a>>,
    own: Option<Fields<'a>>,
}

impl<'a> Groups<'a> {
    fn of(&self, sequence: Tag) -> Fields<'a> {
        let in_group = |group: Option<Fields<'a>>| group?.items(sequence).next();
        in_group(self.own).or_else(|| in_group(self.shared)).unwrap_or(self.fields)
    }
}

/// The most decimals among the numbers of a position, as text.
fn decimals(place: Fields) -> i32 {
    let text = place.some_text(tags::IMAGE_POSITION_PATIENT).unwrap_or_default();
    let of = |number: &str| match number.split_once(['e', 'E']) {
        // In powers of ten nobody rounds to whole decimals.
        Some(_) => 9,
        None => number.trim().split_once('.').map_or(0, |(_, fraction)| fraction.trim_end_matches('0').len() as i32),
    };
    text.split('\\').map(of).max().unwrap_or(0)
}
