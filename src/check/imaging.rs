//! The CT operators of the golden format: projections and resampling.

use super::Case;
use super::Computed;
use super::layout::Order;
use super::operators::Runner;
use crate::ct::{Affine, PosedProjection, Preset, View};
use crate::ops::drr::{LineIntegral, MeanProjection, Projector};
use crate::ops::resample::{Layout, Resample, resized};
use crate::tensor::DType;
use crate::{Error, Result};

const VOLUME: [(&str, Order); 1] = [("in.volume", Order::Same)];

pub(super) fn mean_hu(run: &Runner) -> Result<Computed> {
    run.case.states("axes", "LPS".to_string())?;
    let op = MeanProjection { clip: (f32::MIN, f32::MAX), ..MeanProjection::anterior_posterior(None) };
    run.single(op, &VOLUME, ("image", Order::Same))
}

pub(super) fn line_integral(run: &Runner) -> Result<Computed> {
    let (view, affine) = placement(run.case)?;
    let op = LineIntegral {
        step: step(run.case)?,
        ..LineIntegral::new(View::upload(run.device, &[view], &affine)?, projector(run)?)
    };
    run.single(op, &VOLUME, ("image", Order::Same))
}

pub(super) fn posed(run: &Runner) -> Result<Computed> {
    let (view, affine) = placement(run.case)?;
    let (projector, step) = (projector(run)?, step(run.case)?);
    let about = run.case.attr("about", Some([0.0; 3]))?;
    let integral = |views| LineIntegral { step, ..LineIntegral::new(views, projector) };
    let op = PosedProjection::new(run.device, &[view], affine, about, integral)?;
    run.single(op, &[("in.volume", Order::Same), ("in.pose", Order::Same)], ("image", Order::Same))
}

fn projector(run: &Runner) -> Result<Projector> {
    let name: String = run.case.attr("projector", Some("siddon".into()))?;
    match name.as_str() {
        "siddon" => Ok(Projector::Siddon),
        "joseph" => Ok(Projector::Joseph),
        "trilinear" => Ok(Projector::Trilinear),
        other => {
            let problem = format!("is {other:?}; it can be siddon, joseph or trilinear");
            Err(run.case.fault("attrs.projector", problem))
        }
    }
}

/// The step of the trilinear projector, mm.
fn step(case: &Case) -> Result<Option<f32>> {
    if case.attr("step", Some(None::<f64>))?.is_none() {
        return Ok(None);
    }
    case.within("step", None, 1e-3..=1e3).map(|step| Some(step as f32))
}

fn affine(case: &Case) -> Result<Affine> {
    let a: [f64; 12] = case.attr("affine", None)?;
    Affine::new([0, 4, 8].map(|r| [a[r], a[r + 1], a[r + 2], a[r + 3]])).map_err(|e| within(case, "attrs.affine", e))
}

/// An error of a value as one of the field that holds it.
fn within(case: &Case, field: &str, error: Error) -> Error {
    match error {
        Error::Argument { problem, .. } => case.fault(field, problem),
        other => other,
    }
}

fn placement(case: &Case) -> Result<(View, Affine)> {
    let affine = affine(case)?;
    let (origin, row, column) =
        (case.attr("detector_origin", None)?, case.attr("detector_row", None)?, case.attr("detector_column", None)?);
    let size: [usize; 2] = case.attr("size", None)?;
    let (image, _) = case.tensor("out.image")?;
    if image[..] != size {
        return Err(case.fault("attrs.size", format!("is {size:?}, and out.image has the shape {image}")));
    }
    let geometry: String = case.attr("geometry", None)?;
    let view = match geometry.as_str() {
        "cone" => View::cone(case.attr("source", None)?, origin, row, column, size),
        "parallel" => View::parallel(case.attr("direction", None)?, origin, row, column, size),
        other => return Err(case.fault("attrs.geometry", format!("is {other:?}; it can be cone or parallel"))),
    };
    Ok((view, affine))
}

/// Slope and intercept of HU.
fn hu(run: &Runner) -> Result<(f32, f32)> {
    Ok((run.number("slope", Some(1.0), -1e6, 1e6)?, run.number("intercept", Some(0.0), -1e6, 1e6)?))
}

/// Runs a resampling whose output has as many voxels as the file's, so that no attribute asks for more memory than that.
fn single(run: &Runner, op: Resample) -> Result<Computed> {
    let (shape, _) = run.case.tensor("out.y")?;
    if op.size.iter().fold(1usize, |n, &size| n.saturating_mul(size)) != shape.numel() {
        let problem = format!("has the shape {shape}, and the attributes give {:?} voxels along x, y and z", op.size);
        return Err(run.case.fault("out.y", problem));
    }
    run.single(op, &VOLUME, ("y", Order::Same))
}

pub(super) fn resample(run: &Runner) -> Result<Computed> {
    let case = run.case;
    let [nz, ny, nx] = case.dims("in.volume")?;
    let spacing = |name: &str| -> Result<[f64; 3]> {
        let mm: [f64; 3] = case.attr(name, None)?;
        match mm.iter().all(|mm| (1e-3..=1e3).contains(mm)) {
            true => Ok(mm),
            false => Err(case.fault(format!("attrs.{name}"), format!("is {mm:?} mm; it can be from 0.001 to 1000"))),
        }
    };
    let (current, target) = (spacing("spacing")?, spacing("target_spacing")?);
    let to = [0, 1, 2].map(|i| resized([nx, ny, nz][i], current[i], target[i]));
    case.states("resampled", to)?;
    let range = |name: &str| -> Result<Option<(f32, f32)>> {
        match case.attr(name, Some(None::<(f32, f32)>))? {
            Some((low, high)) if !(low < high && (high - low).is_finite()) => {
                Err(case.fault(format!("attrs.{name}"), format!("{low} to {high} is not a range")))
            }
            range => Ok(range),
        }
    };
    let window = range("window")?;
    let (scale, shift) = window.map_or((1.0, 0.0), |(low, high)| (2.0 / (high - low), -(high + low) / (high - low)));
    let op = Resample {
        size: case.attr("size", Some(to))?,
        pre_clip: range("pre_clip")?,
        window,
        scale,
        shift,
        pad: run.number("pad", Some(0.0), -1e6, 1e6)?,
        layout: Layout::Zxy,
        hu: hu(run)?,
        ..Resample::new(to)
    };
    single(run, op)
}

/// A named preset on a volume of any orientation, cropped or padded to `size` instead of its own size where that is given.
pub(super) fn preset(run: &Runner) -> Result<Computed> {
    let case = run.case;
    let [nz, ny, nx] = case.dims("in.volume")?;
    let affine = affine(case)?;
    let name: String = case.attr("preset", None)?;
    let mut preset = Preset::named(&name).map_err(|e| within(case, "attrs.preset", e))?;
    if case.attr("clip_after", Some(false))? {
        preset = preset.clip_after();
    }
    if preset.size.is_some() {
        preset.size = Some(case.attr("size", None)?);
    }
    let op = Resample { hu: hu(run)?, ..preset.operator([nx, ny, nz], &affine, DType::F32)? };
    single(run, op)
}
