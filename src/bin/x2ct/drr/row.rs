//! What JSON says of a volume and of the radiographs made of it: the same for one volume and for many.

use std::path::Path;

use clap::ValueEnum;
use serde_json::{Value, json};
use x2ct::ct::physics::padding_voxels;
use x2ct::ct::{CtVolume, Projection, Radiograph, RadiographOptions, padding_pixels};
use x2ct::{Device, Result, files};

use crate::projection::{GeometryName, ProjectionArgs};

/// A volume that radiographs were made of.
pub struct Source<'a> {
    pub file: &'a Path,
    pub volume: &'a CtVolume,
    /// How the radiographs were made, their views aside.
    pub options: &'a RadiographOptions,
    /// Whether the volume was only taken by force.
    pub forced: bool,
    /// To read the volume, to project it, and to do all until the radiographs were written.
    pub seconds: [f64; 3],
}

/// The volume as its file has it, and how it was taken.
pub fn of_volume(Source { file, volume, options, forced, seconds: [read, project, total] }: &Source) -> Value {
    json!({
        "input": files::lossy(file),
        "volume": {
            "shape": volume.shape, "spacing_mm": volume.spacing(), "axis_codes": volume.axis_codes().to_string(),
        },
        "isocentre_mm": options.isocentre.unwrap_or_else(|| volume.affine.centre(volume.shape)),
        "padding_voxels": padding_voxels(volume, options.hu), "forced": forced,
        "seconds": {"read": read, "project": project, "total": total},
    })
}

/// A radiograph of the volume from one view, written to `output`.
pub fn of_picture(
    device: &Device,
    Source { volume, options, .. }: &Source,
    (output, view, made): (&Path, Projection, &Radiograph),
    args: &ProjectionArgs,
) -> Result<Value> {
    let (image, png) = (&made.image, args.png(made));
    let (low, high) = image.limits();
    let [dark, bright] = image.window(png.window)?;
    let padding = padding_pixels(device, volume, &RadiographOptions { view, ..(*options).clone() })?;
    let cone = args.geometry == GeometryName::Cone;
    Ok(json!({
        "output": files::lossy(output), "mode": args.mode, "view": view,
        "geometry": args.geometry.to_possible_value().map(|value| value.get_name().to_string()),
        "projector": made.entries.get("projector"),
        "sdd_mm": cone.then_some(args.sdd), "sod_mm": cone.then_some(args.sod),
        "size": [image.height, image.width], "pitch_mm": made.pitch, "min": low, "max": high, "padding_pixels": padding,
        "window": {"low": dark, "high": bright, "rule": png.window.rule(), "curve": png.curve},
        "film": made.exposure, "collimation": made.entries.get("collimation"),
        "settings": made.entries, "letters": png.letters.is_some(),
    }))
}
