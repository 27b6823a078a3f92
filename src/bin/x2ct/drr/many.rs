//! Files and folders: a picture of every volume and view.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use serde_json::{Value, json};
use x2ct::ct::{Projection, Radiograph};
use x2ct::data::ingest::ahead;
use x2ct::{Error, Result, files};

use super::DrrArgs;
use super::row::{self, Source};
use crate::Common;
use crate::effect;
use crate::inputs::{Input, Inputs};
use crate::output::{Failure, Report, Warning};
use crate::source::Opened;
use crate::terminal::{Progress, stop_flag};

/// What was made of one volume.
struct Made {
    /// As JSON lists it, where that is wanted.
    row: Option<Value>,
    warnings: Vec<Warning>,
    /// The volume, where it was only taken by force.
    forced: Option<String>,
}

pub fn run(args: &DrrArgs, common: &Common) -> anyhow::Result<ExitCode> {
    let start = Instant::now();
    let (device, projection, source) = (common.device()?, &args.projection, &args.source);
    let options = super::check(&device, projection)?;
    let ending = args.pictures.as_deref().unwrap_or("png");
    let inputs = Inputs::of(&args.paths)?;
    let jobs = &inputs.volumes;
    effect::check(&[source.metadata_rule(jobs.iter().map(|job| &job.path))])?;
    source.check()?;
    let picture = |job: &Input, view: Projection| {
        let mut name = job.name.clone().into_os_string();
        if projection.views.len() > 1 {
            name.push(format!("-{}", view.name()));
        }
        name.push(format!(".{ending}"));
        args.out.join(name)
    };
    let pictures = jobs.iter().flat_map(|job| projection.views.iter().map(|view| picture(job, *view)));
    files::check_all_apart(pictures, jobs.iter().map(|job| &job.path))?;
    files::create_folder(&args.out)?;
    files::check_writable(args.out.join(".x2ct"))?;
    let stop = stop_flag()?;
    let mut progress = Progress::new("radiographs", "volumes", jobs.len() as u64);
    inputs.tell(|line| progress.say(line));
    let (mut done, mut failed, mut made_of) = (0, Vec::new(), Vec::new());
    ahead(
        jobs,
        &stop,
        |job| {
            let begin = Instant::now();
            source.open(&job.path, &device).map(|opened| (opened, begin.elapsed().as_secs_f64()))
        },
        |at, opened| {
            let job = &jobs[at];
            let made = opened.and_then(|(Opened { volume, mut warnings, forced }, read)| {
                let begin = Instant::now();
                let made = Radiograph::all(&device, &volume, &projection.views, &options)?;
                let project = begin.elapsed().as_secs_f64();
                let doubts = super::doubts(&volume, &made, source.force)?;
                warnings.extend(doubts.into_iter().map(|doubt| Warning::new(&job.path, doubt)));
                let outputs: Vec<_> = projection.views.iter().map(|&view| (picture(job, view), view)).collect();
                for ((path, _), image) in outputs.iter().zip(&made) {
                    path.parent().map_or(Ok(()), files::create_folder)?;
                    super::write(path, image, projection)?;
                }
                let seconds = [read, project, read + begin.elapsed().as_secs_f64()];
                let source = Source { file: &job.path, volume: &volume, options: &options, forced, seconds };
                let outputs = outputs.iter().zip(&made);
                let row = common.json.then(|| {
                    let of_picture = |((path, view), image): (&(PathBuf, Projection), &Radiograph)| {
                        row::of_picture(&device, &source, (path, *view, image), projection)
                    };
                    let outputs = outputs.map(of_picture).collect::<Result<Vec<Value>>>()?;
                    let mut row = row::of_volume(&source);
                    row["outputs"] = json!(outputs);
                    Ok(row)
                });
                let forced = forced.then(|| files::lossy(&job.path));
                Ok(Made { row: row.transpose()?, warnings, forced })
            });
            match made {
                Ok(made) => {
                    made.warnings.iter().for_each(|warning| progress.say(&warning.line()));
                    made_of.push((at, made));
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
    let of_failed = failed.iter().flat_map(|(at, _)| projection.views.iter().map(|view| picture(&jobs[*at], *view)));
    let stale = Warning::stale(of_failed);
    made_of.sort_by_key(|(at, _)| *at);
    let (total, out) = (jobs.len() + inputs.failed.len(), args.out.display());
    let (made, passed) = (jobs.len() - failed.len(), inputs.passed_over.len());
    let (mut rows, mut warnings, mut forced_in) = (Vec::new(), inputs.warnings.clone(), Vec::new());
    for (_, made) in made_of {
        rows.extend(made.row);
        warnings.extend(made.warnings);
        forced_in.extend(made.forced);
    }
    warnings.extend(stale);
    let report = Report::new("drr")
        .with_all(json!({
            "out": files::lossy(&args.out), "device": device.name(), "volumes": made, "views": projection.views, "seconds": start.elapsed().as_secs_f64(),
            "rows": rows, "forced": forced_in, "passed_over": inputs.passed_over,
        }))?
        .warning(warnings)
        .failing(inputs.failed.iter().cloned())
        .failing(failed.into_iter().map(|(_, failure)| failure));
    let passed = if passed > 0 { format!(", {passed} other files passed over") } else { String::new() };
    report
        .finish(common.json, || say!("{out}: pictures of {made} volumes, {} of {total} left out{passed}", total - made))
}
