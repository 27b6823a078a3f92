//! One volume, one image.

use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use serde_json::json;
use x2ct::ct::physics::padding_voxels;
use x2ct::ct::{Radiograph, image};
use x2ct::{Error, files};

use super::DrrArgs;
use super::row::{self, Source};
use crate::Common;
use crate::effect;
use crate::output::{Report, Warning};
use crate::source::Opened;

pub fn run(file: &Path, args: &DrrArgs, common: &Common) -> anyhow::Result<ExitCode> {
    let projection = &args.projection;
    if projection.views.len() > 1 {
        let hint = "name an existing folder with --out, or end it in /";
        return Err(Error::argument("--view", "several views do not go into one image", hint).into());
    }
    let options = projection.options()?;
    effect::check(&[args.source.metadata_rule([file])])?;
    args.source.check()?;
    image::check_format(&args.out)?;
    files::check_writable(&args.out)?;
    files::check_apart(&args.out, [file])?;
    let device = common.device()?;
    let begin = Instant::now();
    let Opened { volume, mut warnings, forced } = args.source.open(file, &device)?;
    let read = begin.elapsed().as_secs_f64();
    let mut made = Radiograph::all(&device, &volume, &[options.view], &options).map_err(|e| e.of_file(file))?;
    let doubts = super::doubts(&volume, &made, args.source.force).map_err(|e| e.of_file(file))?;
    warnings.extend(doubts.into_iter().map(|doubt| Warning::new(file, doubt)));
    warnings.iter().for_each(|warning| remark!("{}", warning.line()));
    let made = made.remove(0);
    let project = begin.elapsed().as_secs_f64() - read;
    super::write(&args.out, &made, projection)?;
    let seconds = begin.elapsed().as_secs_f64();
    if common.json {
        let seconds = [read, project, seconds];
        let source = Source { file, volume: &volume, options: &options, forced, seconds };
        let picture = row::of_picture(&device, &source, (&args.out, options.view, &made), projection)?;
        let run = json!({"device": device.name(), "passed_over": []});
        let report = Report::new("drr").with_all(run)?.with_all(row::of_volume(&source))?.with_all(picture)?;
        return report.warning(warnings).finish(true, || ());
    } else {
        let (picture, pitch) = (&made.image, made.pitch);
        let (low, high) = picture.limits();
        say!(
            "{}: {} x {} pixels of {pitch:.3} mm, {low:.4} to {high:.4} {}, {seconds:.2} s on {}",
            args.out.display(),
            picture.height,
            picture.width,
            options.mode.unit(),
            device.name()
        );
        let padding = padding_voxels(&volume, options.hu);
        if padding > 0 {
            say!("{padding} voxels below -1024 HU are padding outside the field of view, taken as air");
        }
    }
    Ok(ExitCode::SUCCESS)
}
