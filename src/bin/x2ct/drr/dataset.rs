//! A split of a data set, packed for training.

use std::process::ExitCode;
use std::time::Instant;

use serde_json::json;
use x2ct::ct::image::encode_png;
use x2ct::ct::{Collimation, Radiograph, RadiographOptions};
use x2ct::data::ingest::{IngestOptions, Pictures, ingest};
use x2ct::ops::image::PixelType;
use x2ct::{Error, files};

use super::DrrArgs;
use crate::Common;
use crate::dataset::tell_failed;

pub fn run(args: &DrrArgs, common: &Common) -> anyhow::Result<ExitCode> {
    let (start, projection) = (Instant::now(), &args.projection);
    if args.pictures.as_deref().is_some_and(|ending| ending != "png") {
        return Err(Error::argument("--pictures", "a data set's are png", "pass png").into());
    }
    let device = common.device()?;
    let Some(dataset) = args.dataset.open(&args.source)? else {
        return Err(Error::argument("--dataset", "no data set and no split", "name both").into());
    };
    let options = super::check(&device, projection)?;
    let encode = |made: &Radiograph| encode_png(&made.image, &projection.png(made), &made.description());
    let settings = json!(projection.picture());
    // A stack of one geometry, unless asked for otherwise: the packed pixels' scale does not depend on a patient's outline.
    let collimation = projection.collimation.map_or(Collimation::Volume, |_| options.collimation);
    let options = IngestOptions {
        views: projection.views.clone(),
        projection: RadiographOptions { size: None, collimation, ..options },
        size: projection.size.unwrap_or([224, 224]),
        pixel: if args.format == "bf16" { PixelType::Bf16 } else { PixelType::U8 },
        shard: args.dataset.shard,
        pictures: args.pictures.as_ref().map(|_| Pictures { settings, encode: &encode }),
        restart: args.dataset.restart,
        force: args.source.force,
    };
    let total = dataset.volumes();
    let (made, report) = dataset.ingest(("drr", "radiographs"), &args.out, |data, stop, progress| {
        ingest(&device, data, &args.out, &options, stop, progress)
    })?;
    let report = report.with_all(json!({
        "files": made.files.iter().map(files::lossy).collect::<Vec<_>>(), "radiographs": made.made,
        "size": options.size, "pixels": options.pixel, "seconds": start.elapsed().as_secs_f64(),
    }))?;
    let code = report.finish(common.json, || {
        for file in &made.files {
            say!("{}: {} radiographs", file.display(), made.made);
        }
    })?;
    tell_failed(&made, total, common.json);
    Ok(code)
}
