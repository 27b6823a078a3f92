//! The CT operators of the golden format: projections and resampling.

use super::Computed;
use super::layout::Order;
use super::operators::Runner;
use crate::Result;
use crate::ct::{Affine, PosedProjection, Preset, View};
use crate::ops::drr::{LineIntegral, MeanProjection, Projector};
use crate::ops::resample::{Layout, Resample, resized};
use crate::tensor::DType;

const VOLUME: [(&str, Order); 1] = [("in.volume", Order::Same)];

pub(super) fn mean_hu(run: &Runner) -> Result<Computed> {
    let axes: String = run.case.attr("axes", Some("LPS".into()))?;
    if axes != "LPS" {
        return Err(run.case.refuse(format!("attribute axes is {axes:?}; this version knows LPS")));
    }
    let op = MeanProjection { clip: (f32::MIN, f32::MAX), ..MeanProjection::anterior_posterior(None) };
    run.single(op, &VOLUME, ("image", Order::Same))
}

pub(super) fn line_integral(run: &Runner) -> Result<Computed> {
    let (view, affine) = placement(run)?;
    let op = LineIntegral::new(View::upload(run.device, &[view], &affine)?, projector(run)?);
    run.single(op, &VOLUME, ("image", Order::Same))
}

pub(super) fn posed(run: &Runner) -> Result<Computed> {
    let (view, affine) = placement(run)?;
    let (projector, step) = (projector(run)?, run.case.attr("step", None)?);
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
            Err(run.case.refuse(format!("attribute projector is {other:?}; it can be siddon, joseph or trilinear")))
        }
    }
}

fn placement(run: &Runner) -> Result<(View, Affine)> {
    let case = run.case;
    let a: [f64; 12] = case.attr("affine", None)?;
    let affine = Affine::new([0, 4, 8].map(|r| [a[r], a[r + 1], a[r + 2], a[r + 3]]))?;
    let (origin, row, column) =
        (case.attr("detector_origin", None)?, case.attr("detector_row", None)?, case.attr("detector_column", None)?);
    let size = case.attr("size", None)?;
    let geometry: String = case.attr("geometry", None)?;
    let view = match geometry.as_str() {
        "cone" => View::cone(case.attr("source", None)?, origin, row, column, size),
        "parallel" => View::parallel(case.attr("direction", None)?, origin, row, column, size),
        other => return Err(case.refuse(format!("attribute geometry is {other:?}; it can be cone or parallel"))),
    };
    Ok((view, affine))
}

pub(super) fn resample(run: &Runner) -> Result<Computed> {
    let case = run.case;
    let (shape, _) = case.tensor("in.volume")?;
    let &[nz, ny, nx] = &shape[..] else {
        return Err(case.refuse(format!("in.volume has the shape {shape}, not [Z, Y, X]")));
    };
    let (spacing, target): ([f64; 3], [f64; 3]) = (case.attr("spacing", None)?, case.attr("target_spacing", None)?);
    let to = [0, 1, 2].map(|i| resized([nx, ny, nz][i], spacing[i], target[i]));
    let stated: [usize; 3] = case.attr("resampled", Some(to))?;
    if stated != to {
        return Err(case.refuse(format!("attribute resampled is {stated:?}, the size rule gives {to:?}")));
    }
    let range = |name: &str| -> Result<Option<(f32, f32)>> { case.attr(name, Some(None)) };
    let window = range("window")?;
    let (scale, shift) = window.map_or((1.0, 0.0), |(low, high)| (2.0 / (high - low), -(high + low) / (high - low)));
    let op = Resample {
        size: case.attr("size", Some(to))?,
        pre_clip: range("pre_clip")?,
        window,
        scale,
        shift,
        pad: case.attr("pad", Some(0.0))?,
        layout: Layout::Zxy,
        hu: (case.attr("slope", Some(1.0))?, case.attr("intercept", Some(0.0))?),
        ..Resample::new(to)
    };
    run.single(op, &VOLUME, ("y", Order::Same))
}

/// A named preset on a volume of any orientation, cropped or padded to `size` instead of its own size where that is given.
pub(super) fn preset(run: &Runner) -> Result<Computed> {
    let case = run.case;
    let (shape, _) = case.tensor("in.volume")?;
    let &[nz, ny, nx] = &shape[..] else {
        return Err(case.refuse(format!("in.volume has the shape {shape}, not [Z, Y, X]")));
    };
    let a: [f64; 12] = case.attr("affine", None)?;
    let affine = Affine::new([0, 4, 8].map(|r| [a[r], a[r + 1], a[r + 2], a[r + 3]]))?;
    let name: String = case.attr("preset", None)?;
    let mut preset = Preset::named(&name)?;
    if case.attr("clip_after", Some(false))? {
        preset = preset.clip_after();
    }
    if preset.size.is_some() {
        preset.size = Some(case.attr("size", None)?);
    }
    let op = Resample {
        hu: (case.attr("slope", Some(1.0))?, case.attr("intercept", Some(0.0))?),
        ..preset.operator([nx, ny, nz], &affine, DType::F32)?
    };
    run.single(op, &VOLUME, ("y", Order::Same))
}
