//! What JSON says of a volume and of the radiographs made of it: the same for one volume and for many.

use std::path::Path;

use clap::ValueEnum;
use serde_json::{Value, json};
use x2ct::ct::{CtVolume, Projection, Radiograph};
use x2ct::{Result, files};

use crate::projection::{GeometryName, ProjectionArgs};

/// A volume as its file has it.
pub fn of_volume(volume: &CtVolume) -> Value {
    json!({
        "shape": volume.shape, "spacing_mm": volume.spacing(), "axis_codes": volume.axis_codes().to_string(),
    })
}

/// A radiograph from one view, written to `output`.
pub fn of_picture(output: &Path, view: Projection, made: &Radiograph, args: &ProjectionArgs) -> Result<Value> {
    let (image, png) = (&made.image, args.png(made));
    let (low, high) = image.limits();
    let [dark, bright] = image.window(png.window)?;
    let cone = args.geometry == GeometryName::Cone;
    Ok(json!({
        "output": files::lossy(output), "mode": args.mode, "view": view,
        "geometry": args.geometry.to_possible_value().map(|value| value.get_name().to_string()),
        "projector": made.entries.get("projector"),
        "sdd_mm": cone.then_some(args.sdd), "sod_mm": cone.then_some(args.sod),
        "size": [image.height, image.width], "pitch_mm": made.pitch, "min": low, "max": high,
        "window": {"low": dark, "high": bright, "rule": png.window.rule(), "curve": png.curve},
        "film": made.exposure, "collimation": made.entries.get("collimation"),
        "settings": made.entries, "letters": png.letters.is_some(),
    }))
}
