//! Files and folders: a picture of every volume and view.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use serde_json::json;
use x2ct::ct::Radiograph;
use x2ct::data::ingest::ahead;
use x2ct::{Error, files};

use super::DrrArgs;
use crate::Common;
use crate::output::{Failure, Report};
use crate::terminal::{Progress, stop_flag};

const ENDINGS: [&str; 3] = [".nii.gz", ".nii", ".npz"];

/// A volume and what its pictures are called: a path below the output folder, without view and ending.
struct Job {
    input: PathBuf,
    name: PathBuf,
}

pub fn run(args: &DrrArgs, common: &Common) -> anyhow::Result<ExitCode> {
    let start = Instant::now();
    let (device, projection) = (common.device()?, &args.projection);
    let options = super::check(&device, projection)?;
    let ending = args.pictures.as_deref().unwrap_or("png");
    let jobs = jobs(&args.paths)?;
    files::create_folder(&args.out)?;
    let stop = stop_flag()?;
    let mut progress = Progress::new("radiographs", "volumes", jobs.len() as u64);
    let (mut done, mut failed) = (0, Vec::new());
    let picture = |job: &Job, view: &str| {
        let mut name = job.name.clone().into_os_string();
        if projection.views.len() > 1 {
            name.push(format!("-{view}"));
        }
        name.push(format!(".{ending}"));
        args.out.join(name)
    };
    ahead(
        &jobs,
        &stop,
        |job| super::read(&job.input, &device, projection),
        |at, volume| {
            let job = &jobs[at];
            let made = volume.and_then(|volume| {
                let images = Radiograph::all(&device, &volume, &projection.views, &options)?;
                Ok((volume, images))
            });
            match made {
                Ok((volume, images)) => {
                    if let Some(warning) = crate::source::warning(&job.input, &volume) {
                        progress.say(&warning);
                    }
                    for (&view, image) in projection.views.iter().zip(&images) {
                        let path = picture(job, view.name());
                        path.parent().map_or(Ok(()), files::create_folder)?;
                        super::write(&path, image, projection)?;
                    }
                }
                Err(error @ (Error::Device { .. } | Error::Launch { .. })) => return Err(error),
                Err(error) => {
                    progress.say(&format!("x2ct: {} is left out: {error}", job.input.display()));
                    failed.push((at, Failure::new(&job.input, &error)));
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
    let (total, out) = (jobs.len(), args.out.display());
    let (made, left_out) = (total - failed.len(), failed.len());
    let report = Report::new("drr")
        .with_all(json!({
            "out": args.out, "volumes": made, "views": projection.views, "seconds": start.elapsed().as_secs_f64(),
        }))?
        .failing(failed.into_iter().map(|(_, failure)| failure));
    report.finish(common.json, || say!("{out}: pictures of {made} volumes, {left_out} of {total} left out"))
}

/// The volumes that paths stand for, in the order of the paths and, within a folder, of names.
fn jobs(paths: &[PathBuf]) -> x2ct::Result<Vec<Job>> {
    let mut jobs = Vec::new();
    for path in paths {
        let before = jobs.len();
        if path.is_dir() && !is_series(path)? {
            walk(path, path, &mut HashSet::new(), &mut jobs)?;
            if jobs.len() == before {
                let problem = format!("no volume is in it ({}, or a folder of .dcm files)", ENDINGS.join(", "));
                return Err(Error::file(path, problem, "name the folder that holds them"));
            }
        } else if let Some(name) = path.file_name() {
            jobs.push(Job { input: path.clone(), name: stem(Path::new(name)) });
        } else {
            return Err(Error::file(path, "has no name", "give the path that ends in the volume's name"));
        }
    }
    let mut named: HashMap<&Path, &Path> = HashMap::new();
    for job in &jobs {
        if let Some(other) = named.insert(&job.name, &job.input) {
            let problem = format!("its picture would have the name of that of {}", other.display());
            return Err(Error::file(
                &job.input,
                problem,
                "give the folder above both, or make them one after the other",
            ));
        }
    }
    Ok(jobs)
}

fn walk(root: &Path, folder: &Path, seen: &mut HashSet<PathBuf>, jobs: &mut Vec<Job>) -> x2ct::Result<()> {
    let canonical = folder.canonicalize().map_err(|e| Error::io(folder, "read the folder", &e))?;
    // A link may lead back up.
    if !seen.insert(canonical) {
        return Ok(());
    }
    for path in entries(folder)? {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let is_volume = ENDINGS.iter().any(|ending| name.ends_with(ending));
        // Hidden files are copies that an operating system or an unfinished download left.
        if name.starts_with('.') {
            continue;
        }
        if path.is_dir() && !is_series(&path)? {
            walk(root, &path, seen, jobs)?;
        } else if is_volume || path.is_dir() {
            let below = path.strip_prefix(root).unwrap_or(&path);
            jobs.push(Job { name: stem(below), input: path });
        }
    }
    Ok(())
}

/// Whether a folder is one volume: a DICOM series.
fn is_series(folder: &Path) -> x2ct::Result<bool> {
    Ok(entries(folder)?.iter().any(|path| path.extension().is_some_and(|e| e.eq_ignore_ascii_case("dcm"))))
}

fn entries(folder: &Path) -> x2ct::Result<Vec<PathBuf>> {
    let read = || std::fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<_>>>();
    let mut paths = read().map_err(|e| Error::io(folder, "read the folder", &e))?;
    paths.sort();
    Ok(paths)
}

/// Without the ending.
fn stem(path: &Path) -> PathBuf {
    let text = path.to_string_lossy();
    let ending = ENDINGS.iter().find(|ending| text.ends_with(*ending));
    ending.map_or(path.to_path_buf(), |ending| PathBuf::from(&text[..text.len() - ending.len()]))
}
