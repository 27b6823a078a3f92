//! Files and folders: a picture of every volume and view.

use std::process::ExitCode;
use std::time::Instant;

use serde_json::json;
use x2ct::ct::Radiograph;
use x2ct::data::ingest::ahead;
use x2ct::{Error, files};

use super::DrrArgs;
use crate::Common;
use crate::inputs::{Input, Inputs};
use crate::output::{Failure, Report, Warning};
use crate::source::Opened;
use crate::terminal::{Progress, stop_flag};

pub fn run(args: &DrrArgs, common: &Common) -> anyhow::Result<ExitCode> {
    let start = Instant::now();
    let (device, projection, source) = (common.device()?, &args.projection, &args.source);
    source.check()?;
    let options = super::check(&device, projection)?;
    let ending = args.pictures.as_deref().unwrap_or("png");
    let inputs = Inputs::of(&args.paths)?;
    files::create_folder(&args.out)?;
    files::check_writable(args.out.join(".x2ct"))?;
    let (jobs, stop) = (&inputs.volumes, stop_flag()?);
    let mut progress = Progress::new("radiographs", "volumes", jobs.len() as u64);
    inputs.tell(|line| progress.say(line));
    let (mut done, mut failed, mut warnings, mut forced_in) = (0, Vec::new(), Vec::new(), Vec::new());
    let picture = |job: &Input, view: &str| {
        let mut name = job.name.clone().into_os_string();
        if projection.views.len() > 1 {
            name.push(format!("-{view}"));
        }
        name.push(format!(".{ending}"));
        args.out.join(name)
    };
    ahead(
        jobs,
        &stop,
        |job| source.open(&job.path, &device),
        |at, opened| {
            let job = &jobs[at];
            let made = opened.and_then(|Opened { volume, mut warnings, forced }| {
                let made = Radiograph::all(&device, &volume, &projection.views, &options)?;
                let doubts = super::doubts(&volume, &made, source.force)?;
                warnings.extend(doubts.into_iter().map(|doubt| Warning::new(&job.path, doubt)));
                for (&view, image) in projection.views.iter().zip(&made) {
                    let path = picture(job, view.name());
                    path.parent().map_or(Ok(()), files::create_folder)?;
                    super::write(&path, image, projection)?;
                }
                Ok((warnings, forced))
            });
            match made {
                Ok((found, forced)) => {
                    if forced {
                        forced_in.push(files::lossy(&job.path));
                    }
                    found.iter().for_each(|warning| progress.say(&warning.line()));
                    warnings.push((at, found));
                }
                Err(error) if error.is_of_device() => return Err(error),
                Err(error) => {
                    let error = error.of_file(&job.path);
                    progress.say(&format!("x2ct: left out: {error}"));
                    failed.push((at, Failure::new(&job.path, &error)));
                }
            }
            done += 1;
            progress.set(done, "");
            Ok(())
        },
    )?;
    progress.finish("");
    if (done as usize) < jobs.len() {
        return Err(Error::Interrupted(format!("after {done} of {} volumes", jobs.len())).into());
    }
    failed.sort_by_key(|(at, _)| *at);
    warnings.sort_by_key(|(at, _)| *at);
    forced_in.sort();
    let (total, out) = (jobs.len() + inputs.failed.len(), args.out.display());
    let (made, passed) = (jobs.len() - failed.len(), inputs.passed_over.len());
    let warnings = inputs.warnings.iter().cloned().chain(warnings.into_iter().flat_map(|(_, found)| found));
    let report = Report::new("drr")
        .with_all(json!({
            "out": files::lossy(&args.out), "volumes": made, "views": projection.views, "seconds": start.elapsed().as_secs_f64(),
            "forced": forced_in, "passed_over": inputs.passed_over,
        }))?
        .warning(warnings)
        .failing(inputs.failed.iter().cloned())
        .failing(failed.into_iter().map(|(_, failure)| failure));
    let passed = if passed > 0 { format!(", {passed} other files passed over") } else { String::new() };
    report
        .finish(common.json, || say!("{out}: pictures of {made} volumes, {} of {total} left out{passed}", total - made))
}
