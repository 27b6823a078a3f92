//! `x2ct phantom`: a data set of procedural patients in CT-RATE layout, with the phantom teacher's embeddings.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::Ordering;

use serde_json::json;
use x2ct::ct::phantom::teacher;
use x2ct::data::ct_rate::{CtRate, Split};
use x2ct::data::phantom::{PhantomDataset, cache, write_dataset};
use x2ct::files;
use x2ct::{Error, labels};

use crate::Common;
use crate::arguments::{sizes, within};
use crate::output::Report;
use crate::terminal::{Progress, print_table, stop_flag};

/// Write a data set of simulated patients in CT-RATE layout, to try everything without patients' data
///
/// Volumes (int16, HU) go to DIR/dataset/{train,valid}_fixed, tables beside them, and the phantom teacher's embeddings to
/// DIR/{train,valid}.cache.safetensors. Run again after an interruption, it keeps the volumes that are there. Simulated
/// patients are for trying and testing; they are no model of disease.
#[derive(clap::Args)]
pub struct PhantomArgs {
    /// Folder of the data set
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Number of training patients
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(0..=1_000_000))]
    train: u32,
    /// Number of validation patients
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(0..=1_000_000))]
    valid: u32,
    /// Seed of the random numbers that decide the patients
    #[arg(long, default_value_t = 1024)]
    seed: u64,
    /// Shape of each volume: voxels to the left, to the back and to the head
    #[arg(long, value_name = "XxYxZ", default_value = "128x128x128", value_parser = sizes::<3>)]
    shape: [usize; 3],
    /// Edge of a voxel, millimetres
    #[arg(long, value_name = "MM", allow_negative_numbers = true, default_value = "3", value_parser = within(0.05, 100.0))]
    spacing: f64,
}

pub fn run(args: PhantomArgs, common: &Common) -> anyhow::Result<ExitCode> {
    common.expect_device()?;
    let set = PhantomDataset {
        seed: args.seed,
        train: args.train,
        valid: args.valid,
        shape: args.shape,
        spacing: [args.spacing; 3],
        ..Default::default()
    };
    set.check()?;
    files::create_folder(&args.out)?;
    let caches = [(Split::Train, args.train), (Split::Valid, args.valid)];
    caches
        .iter()
        .filter(|(_, count)| *count > 0)
        .try_for_each(|(split, _)| files::check_writable(cache_path(&args.out, *split)))?;
    let stop = stop_flag()?;
    let total = u64::from(args.train) + u64::from(args.valid);
    let progress = Mutex::new(Progress::new("phantom", "volumes", total));
    let splits = write_dataset(&args.out, &set, &|done, total| {
        let Ok(mut progress) = progress.lock() else { return Ok(()) };
        progress.set(done as u64, "");
        if stop.load(Ordering::Relaxed) && done < total {
            let problem = format!("{done} of {total} volumes are written; run again to go on");
            return Err(Error::Interrupted(problem));
        }
        Ok(())
    })?;
    if let Ok(progress) = progress.into_inner() {
        progress.finish("");
    }
    let mut written = Vec::new();
    for data in &splits {
        let path = cache_path(&args.out, data.split);
        cache(&set, data)?.write(&path)?;
        written.push((data, path));
    }
    let count = |split| splits.iter().find(|d| d.split == split).map_or(0, |d| d.volumes.len());
    let caches: Vec<_> = written.iter().map(|(_, path)| files::lossy(path)).collect();
    let report = Report::new("phantom").with_all(json!({
        "dataset": files::lossy(&args.out), "train": count(Split::Train), "valid": count(Split::Valid), "teacher": teacher::NAME,
        "caches": caches,
    }))?;
    report.finish(common.json, || {
        print_prevalence(&splits);
        for (data, path) in &written {
            say!("{}: {} patients, embeddings by the {}", path.display(), data.volumes.len(), teacher::NAME);
        }
    })
}

/// Where the teacher's embeddings of a split are written.
fn cache_path(out: &Path, split: Split) -> PathBuf {
    out.join(format!("{}.cache.safetensors", split.name()))
}

fn print_prevalence(splits: &[CtRate]) {
    let rows: Vec<Vec<String>> = labels::NAMES
        .iter()
        .enumerate()
        .map(|(i, name)| {
            let counts = splits.iter().map(|d| d.volumes.iter().filter(|v| v.labels[i]).count().to_string());
            std::iter::once(name.to_string()).chain(counts).collect()
        })
        .collect();
    let header: Vec<&str> = std::iter::once("patients with").chain(splits.iter().map(|d| d.split.name())).collect();
    print_table(&header, &rows);
}
