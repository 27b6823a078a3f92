//! One DICOM file: its elements by name, with errors that name them.

use std::io::{BufReader, Cursor, Read};
use std::path::Path;

use dicom_core::header::HasLength;
use dicom_dictionary_std::{tags, uids};
use dicom_object::file::ReadPreamble;
use dicom_object::{DefaultDicomObject, FileMetaTableBuilder, InMemDicomObject, OpenFileOptions, Tag};

use crate::error::{Error, Result};
use crate::files;

/// Reads a file, or what stands before the element `until` in it. Files without the preamble and its mark, and without the
/// group that names their transfer syntax, are read as the little-endian syntax that they look like.
pub(super) fn open(path: &Path, until: Option<Tag>) -> Result<DefaultDicomObject> {
    let unreadable = |e: &dyn std::fmt::Display| {
        Error::file(path, format!("is no readable DICOM file ({e})"), "remove it, or export the series again")
    };
    let failed = |e: std::io::Error| Error::io(path, "read", &e);
    let mut start = Vec::new();
    files::open(path).map_err(failed)?.take(132).read_to_end(&mut start).map_err(failed)?;
    let mut options = OpenFileOptions::new();
    if let Some(tag) = until {
        options = options.read_until(tag);
    }
    if start.get(128..132) == Some(b"DICM") {
        return options.open_file(path).map_err(|e| unreadable(&e));
    }
    let mut lead = b"DICM".to_vec();
    if !start.starts_with(&[2, 0]) {
        let explicit = start.get(4..6).is_some_and(|vr| vr.iter().all(u8::is_ascii_uppercase));
        let syntax = if explicit { uids::EXPLICIT_VR_LITTLE_ENDIAN } else { uids::IMPLICIT_VR_LITTLE_ENDIAN };
        let meta = FileMetaTableBuilder::new().transfer_syntax(syntax);
        let meta = meta.media_storage_sop_class_uid("").media_storage_sop_instance_uid("");
        meta.build().and_then(|meta| meta.write(&mut lead)).map_err(|e| unreadable(&e))?;
    }
    let rest = BufReader::new(files::open(path).map_err(failed)?);
    let whole = options.read_preamble(ReadPreamble::Never).from_reader(Cursor::new(lead).chain(rest));
    whole.map_err(|e| unreadable(&e))
}

/// The transfer syntax by its identifier.
pub(super) fn syntax(object: &DefaultDicomObject) -> &str {
    object.meta().transfer_syntax().trim_end_matches(['\0', ' '])
}

/// Elements of a data set, or of an item in it.
#[derive(Clone, Copy)]
pub(super) struct Fields<'a> {
    pub object: &'a InMemDicomObject,
    pub path: &'a Path,
}

impl<'a> Fields<'a> {
    pub fn refuse(&self, problem: impl Into<String>) -> Error {
        Error::file(self.path, problem, "give a series of CT images, or a radiograph where one is wanted")
    }

    pub fn has(&self, tag: Tag) -> bool {
        self.object.get(tag).is_some_and(|element| !element.is_empty())
    }

    /// Text without the padding around it.
    pub fn text(&self, tag: Tag, name: &str) -> Result<String> {
        let element = self.object.get(tag).ok_or_else(|| self.refuse(format!("has no {name}")))?;
        let text = element.to_str().map_err(|e| self.refuse(format!("{name}: {e}")))?;
        Ok(text.trim_matches(['\0', ' ']).to_string())
    }

    /// Text that need not be there.
    pub fn some_text(&self, tag: Tag) -> Option<String> {
        self.text(tag, "").ok().filter(|text| !text.is_empty())
    }

    pub fn integer(&self, tag: Tag, name: &str) -> Result<usize> {
        let element = self.object.get(tag).ok_or_else(|| self.refuse(format!("has no {name}")))?;
        element.to_int::<u32>().map(|v| v as usize).map_err(|e| self.refuse(format!("{name}: {e}")))
    }

    pub fn numbers<const N: usize>(&self, tag: Tag, name: &str) -> Result<[f64; N]> {
        let values = self.all_numbers(tag, name)?;
        values.try_into().map_err(|v: Vec<f64>| self.refuse(format!("{name} has {} values, not {N}", v.len())))
    }

    /// However many numbers there are, all finite.
    pub fn all_numbers(&self, tag: Tag, name: &str) -> Result<Vec<f64>> {
        let element = self.object.get(tag).ok_or_else(|| self.refuse(format!("has no {name}")))?;
        let values = element.to_multi_float64().map_err(|e| self.refuse(format!("{name}: {e}")))?;
        if values.iter().all(|v| v.is_finite()) {
            Ok(values)
        } else {
            Err(self.refuse(format!("{name} is {values:?}")))
        }
    }

    /// One number, or `absent` where the element is not there.
    pub fn number_or(&self, tag: Tag, name: &str, absent: f64) -> Result<f64> {
        if self.has(tag) { self.numbers(tag, name).map(|[v]| v) } else { Ok(absent) }
    }

    /// The items of a sequence; none where it is not there.
    pub fn items(&self, tag: Tag) -> impl Iterator<Item = Fields<'a>> {
        let (object, path) = (self.object, self.path);
        object
            .get(tag)
            .and_then(|element| element.items())
            .unwrap_or_default()
            .iter()
            .map(move |object| Fields { object, path })
    }

    /// RescaleSlope and RescaleIntercept; 1 and 0 where they are not there.
    pub fn rescale(&self) -> Result<[f64; 2]> {
        let slope = self.number_or(tags::RESCALE_SLOPE, "RescaleSlope", 1.0)?;
        let intercept = self.number_or(tags::RESCALE_INTERCEPT, "RescaleIntercept", 0.0)?;
        if slope == 0.0 { Err(self.refuse("RescaleSlope is 0")) } else { Ok([slope, intercept]) }
    }
}
