//! Radiographs in DICOM: CR, DX and what is like them.

use std::collections::BTreeMap;
use std::path::Path;

use dicom_dictionary_std::tags;

use super::file::{Fields, open};
use super::frame::Padding;
use super::pixels::{Layout, Pixels};
use crate::ct::image::{GrayImage, Stored};
use crate::error::{Error, Result};

/// Modalities whose images are slices, not projections.
const SLICES: [&str; 5] = ["CT", "MR", "PT", "NM", "US"];
/// Modalities of projections, none of which is of a chest.
const ELSEWHERE: [&str; 4] = ["MG", "PX", "IO", "BMD"];

/// Reads a grey image of one frame, as it is meant to be shown: rescaled, through its first window where it has one (PS3.3,
/// C.11.2.1.2: linear, linear exact or sigmoid), MONOCHROME1 inverted so that bone is bright, padding darkest. With a window the
/// values are 0 up to the largest stored one; without, what rescaling gives. `view` in the settings is ViewPosition's, where that
/// is a frontal or lateral one.
///
/// # Errors
/// [`Error::File`]: damage, colour, several frames, a modality that makes slices, compression that is not decoded.
pub fn radiograph(path: impl AsRef<Path>) -> Result<Stored> {
    let path = path.as_ref();
    let object = open(path, None)?;
    let fields = Fields { object: &object, path };
    let refuse = |problem: String| Error::file(path, problem, "give a radiograph (modality CR or DX)");
    let modality = fields.some_text(tags::MODALITY).unwrap_or_default();
    if SLICES.contains(&modality.as_str()) {
        return Err(refuse(format!("is an image of modality {modality}, where a radiograph is wanted")));
    }
    if ELSEWHERE.contains(&modality.as_str()) {
        return Err(refuse(format!("is an image of modality {modality}, not of a chest")));
    }
    if !fields.has(tags::ROWS) {
        return Err(refuse(format!("holds no image (modality {modality:?})")));
    }
    if fields.has(tags::NUMBER_OF_FRAMES) && fields.integer(tags::NUMBER_OF_FRAMES, "NumberOfFrames")? != 1 {
        return Err(refuse("holds several frames, where one radiograph is wanted".into()));
    }
    let photometric = fields.text(tags::PHOTOMETRIC_INTERPRETATION, "PhotometricInterpretation")?;
    let inverted = match photometric.as_str() {
        "MONOCHROME1" => true,
        "MONOCHROME2" => false,
        other => return Err(refuse(format!("PhotometricInterpretation is {other}: it is not grey"))),
    };
    let layout = Layout::of(fields)?;
    let samples = Pixels::of(&object, fields, layout, 1)?.frame(0)?;
    let padding = Padding::of(fields, layout)?;
    let [slope, intercept] = fields.rescale()?;
    let is_padding: Vec<bool> =
        samples.iter().map(|&s| padding.is_some_and(|padding| padding.holds(s, layout.value(s)))).collect();
    let mut values: Vec<f64> = samples.iter().map(|&s| slope * f64::from(layout.value(s)) + intercept).collect();

    let mut remarks = Vec::new();
    if fields.has(tags::MODALITY_LUT_SEQUENCE) {
        remarks.push(
            "Its modality LUT, the table ModalityLUTSequence (0028,3000), is not applied: its stored values are taken."
                .into(),
        );
    }
    // Towards the patient's left, front or back along a row, and towards the feet along a column, as radiographs are hung.
    if let Some(orientation) = fields.some_text(tags::PATIENT_ORIENTATION)
        && let [row, column, ..] = orientation.split('\\').collect::<Vec<_>>()[..]
        && (row.starts_with(['R', 'H', 'F']) || !column.starts_with('F'))
    {
        remarks.push(format!(
            "Its rows run towards {row} and its columns towards {column} (PatientOrientation): it is mirrored or turned, and is taken \
             as it lies."
        ));
    }
    match Shown::of(fields)? {
        Some(shown) => {
            let most = f64::from((1u32 << layout.bits) - 1);
            values.iter_mut().for_each(|value| *value = most * shown.share(*value));
        }
        None if fields.has(tags::VOILUT_SEQUENCE) => {
            remarks.push("Its VOI LUT, a table, is not applied: grey is linear in its values.".into());
        }
        None => {}
    }
    let measured = values.iter().zip(&is_padding).filter(|(_, padding)| !**padding).map(|(value, _)| *value);
    let (low, high) = measured.fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(v), h.max(v)));
    if low > high {
        return Err(refuse("all of its pixels are PixelPaddingValue".into()));
    }
    if inverted {
        values.iter_mut().for_each(|value| *value = low + high - *value);
        remarks.push("It is MONOCHROME1, low values bright; inverted, so that bone is bright.".into());
    }
    // What was not measured, such as the edge beside the collimator, is as dark as the darkest that was.
    values.iter_mut().zip(&is_padding).filter(|(_, padding)| **padding).for_each(|(value, _)| *value = low);
    let pixels = values.into_iter().map(|value| value as f32).collect();
    let image = GrayImage::new(pixels, layout.rows, layout.columns).map_err(|e| e.of_file(path))?;
    let view = fields.some_text(tags::VIEW_POSITION).and_then(|view| view_name(&view));
    let settings = BTreeMap::from_iter(view.map(|view| ("view".to_string(), view.to_string())));
    Ok(Stored { image, settings, remarks })
}

/// This crate's name of a view position.
fn view_name(position: &str) -> Option<&'static str> {
    Some(match position {
        "AP" => "ap",
        "PA" => "pa",
        "LL" | "LATERAL" => "lateral",
        "RL" => "right-lateral",
        _ => return None,
    })
}

/// The part of the values that is shown.
struct Shown {
    centre: f64,
    width: f64,
    function: Function,
}

enum Function {
    Linear,
    LinearExact,
    Sigmoid,
}

impl Shown {
    /// The first window of the file.
    fn of(fields: Fields) -> Result<Option<Self>> {
        if !(fields.has(tags::WINDOW_CENTER) && fields.has(tags::WINDOW_WIDTH)) {
            return Ok(None);
        }
        let first = |tag, name: &str| {
            let all = fields.all_numbers(tag, name)?;
            all.first().copied().ok_or_else(|| fields.refuse(format!("{name} is empty")))
        };
        let (centre, width) = (first(tags::WINDOW_CENTER, "WindowCenter")?, first(tags::WINDOW_WIDTH, "WindowWidth")?);
        let function = match fields.some_text(tags::VOILUT_FUNCTION).as_deref() {
            None | Some("LINEAR") => Function::Linear,
            Some("LINEAR_EXACT") => Function::LinearExact,
            Some("SIGMOID") => Function::Sigmoid,
            Some(other) => return Err(fields.refuse(format!("VOILUTFunction is {other}"))),
        };
        let least = if matches!(function, Function::Linear) { 1.0 } else { f64::MIN_POSITIVE };
        if width < least {
            return Err(fields.refuse(format!("WindowWidth is {width}")));
        }
        Ok(Some(Shown { centre, width, function }))
    }

    /// Where in the window a value lies, 0 to 1.
    fn share(&self, value: f64) -> f64 {
        let Shown { centre, width, .. } = *self;
        match self.function {
            // A width of 1 has no inside.
            Function::Linear if width == 1.0 => f64::from(u8::from(value > centre - 0.5)),
            Function::Linear => ((value - (centre - 0.5)) / (width - 1.0) + 0.5).clamp(0.0, 1.0),
            Function::LinearExact => ((value - centre) / width + 0.5).clamp(0.0, 1.0),
            Function::Sigmoid => 1.0 / (1.0 + (-4.0 * (value - centre) / width).exp()),
        }
    }
}
