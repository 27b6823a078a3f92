//! `x2ct phantom`: a data set of procedural patients in one of three forms, with the phantom teacher's embeddings.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::Ordering;

use serde_json::json;
use x2ct::ct::phantom::teacher;
use x2ct::data::ct_rate::{CtRate, Split};
use x2ct::data::phantom::mimic::{mimic_cache, write_mimic};
use x2ct::data::phantom::radchest::{radchest_cache, write_radchest};
use x2ct::data::phantom::{PhantomDataset, cache, write_dataset};
use x2ct::data::radchest::Part;
use x2ct::files;
use x2ct::{Error, labels};

use crate::Common;
use crate::arguments::{sizes, within};
use crate::effect::{self, Rule};
use crate::output::Report;
use crate::terminal::{Progress, print_table, stop_flag};

/// Write a data set of simulated patients, to try everything without patients' data
///
/// In CT-RATE's form volumes (int16, HU) go to DIR/dataset/{train,valid}_fixed, tables beside them, and the phantom teacher's
/// embeddings to DIR/{train,valid}.cache.safetensors. In RadChest-CT's form (--form radchest): .npz volumes, its tables of voxel
/// sizes and of labels, and {train,valid,test}.cache.safetensors. In MIMIC-CT's form (--form mimic): films of --test patients as
/// PNG, mimic.csv with their reports and labels, and test.cache.safetensors. No patient of one form is in another. Run again
/// after an interruption, it keeps what is there. Simulated patients are for trying and testing; they are no model of disease.
#[derive(clap::Args)]
pub struct PhantomArgs {
    /// Whose form the data set has
    #[arg(long, value_enum, default_value = "ct-rate")]
    form: Form,
    /// Folder of the data set
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Number of training patients
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(0..=1_000_000))]
    train: u32,
    /// Number of validation patients
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(0..=1_000_000))]
    valid: u32,
    /// Number of test patients, in the forms of RadChest-CT and MIMIC-CT
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(0..=99_999))]
    test: u32,
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

/// Whose form a data set has.
#[derive(Clone, Copy, PartialEq, clap::ValueEnum)]
enum Form {
    CtRate,
    Radchest,
    Mimic,
}

pub fn run(args: PhantomArgs, common: &Common) -> anyhow::Result<ExitCode> {
    let with_training = args.form != Form::Mimic;
    effect::check(&[
        Rule::new("train", with_training, "--form ct-rate and radchest"),
        Rule::new("valid", with_training, "--form ct-rate and radchest"),
        Rule::new("test", args.form != Form::CtRate, "--form radchest and mimic"),
    ])?;
    let set = PhantomDataset {
        seed: args.seed,
        train: args.train,
        valid: args.valid,
        shape: args.shape,
        spacing: [args.spacing; 3],
        ..Default::default()
    };
    match args.form {
        Form::CtRate => ct_rate(&args, &set, common),
        Form::Radchest => radchest(&args, &set, common),
        Form::Mimic => mimic(&args, &set, common),
    }
}

fn ct_rate(args: &PhantomArgs, set: &PhantomDataset, common: &Common) -> anyhow::Result<ExitCode> {
    common.expect_device()?;
    set.check()?;
    let counts = [(Split::Train.name(), args.train), (Split::Valid.name(), args.valid)];
    let splits = write(args, &counts, "volumes", |progress| write_dataset(&args.out, set, progress))?;
    let mut caches = Vec::new();
    for data in &splits {
        let path = cache_path(&args.out, data.split.name());
        cache(set, data)?.write(&path)?;
        caches.push((path, data.volumes.len()));
    }
    let count = |split| splits.iter().find(|d| d.split == split).map_or(0, |d| d.volumes.len());
    let counts = json!({"form": "ct-rate", "train": count(Split::Train), "valid": count(Split::Valid)});
    finish(args, common, counts, &caches, || print_prevalence(&splits))
}

fn radchest(args: &PhantomArgs, set: &PhantomDataset, common: &Common) -> anyhow::Result<ExitCode> {
    common.expect_device()?;
    let counts = [(Part::Train, args.train), (Part::Valid, args.valid), (Part::Test, args.test)];
    let named = counts.map(|(part, count)| (part.name(), count));
    let splits = write(args, &named, "volumes", |progress| write_radchest(&args.out, set, args.test, progress))?;
    let mut caches = Vec::new();
    for split in &splits {
        let path = cache_path(&args.out, split.split.name());
        radchest_cache(&args.out, set, split)?.write(&path)?;
        caches.push((path, split.ids.len()));
    }
    let counts = json!({"form": "radchest", "train": args.train, "valid": args.valid, "test": args.test});
    finish(args, common, counts, &caches, || ())
}

fn mimic(args: &PhantomArgs, set: &PhantomDataset, common: &Common) -> anyhow::Result<ExitCode> {
    let device = common.device()?;
    let table = write(args, &[("test", args.test)], "radiographs", |progress| {
        write_mimic(&device, &args.out, set, args.test, &mut |done, total| progress(done, total))
    })?;
    let path = cache_path(&args.out, "test");
    mimic_cache(set, args.test)?.write(&path)?;
    let counts = json!({"form": "mimic", "test": args.test, "table": files::lossy(&table)});
    finish(args, common, counts, &[(path, args.test as usize)], || {
        say!("{}: {} radiographs with reports and labels, for `x2ct radiographs`", table.display(), args.test);
    })
}

/// Writes a data set with progress; Ctrl-C stops it.
fn write<T>(
    args: &PhantomArgs,
    counts: &[(&str, u32)],
    unit: &'static str,
    make: impl FnOnce(&(dyn Fn(usize, usize) -> x2ct::Result<()> + Sync)) -> x2ct::Result<T>,
) -> anyhow::Result<T> {
    files::create_folder(&args.out)?;
    let written = counts.iter().filter(|(_, count)| *count > 0);
    written.clone().try_for_each(|(split, _)| files::check_writable(cache_path(&args.out, split)))?;
    let stop = stop_flag()?;
    let progress = Mutex::new(Progress::new("phantom", unit, written.map(|(_, count)| u64::from(*count)).sum()));
    let made = make(&|done, total| {
        let Ok(mut progress) = progress.lock() else { return Ok(()) };
        progress.set(done as u64, "");
        if stop.load(Ordering::Relaxed) && done < total {
            let problem = format!("{done} of {total} {unit} are written; run again to go on");
            return Err(Error::Interrupted(problem));
        }
        Ok(())
    })?;
    if let Ok(progress) = progress.into_inner() {
        progress.finish("");
    }
    Ok(made)
}

/// Reports on a data set that was written: each cache with the number of its patients.
fn finish(
    args: &PhantomArgs,
    common: &Common,
    counts: serde_json::Value,
    caches: &[(PathBuf, usize)],
    text: impl FnOnce(),
) -> anyhow::Result<ExitCode> {
    let named: Vec<_> = caches.iter().map(|(path, _)| files::lossy(path)).collect();
    let report = Report::new("phantom")
        .with_all(json!({"dataset": files::lossy(&args.out), "teacher": teacher::NAME, "caches": named}))?
        .with_all(counts)?;
    report.finish(common.json, || {
        text();
        for (path, patients) in caches {
            say!("{}: {patients} patients, embeddings by the {}", path.display(), teacher::NAME);
        }
    })
}

/// Where the teacher's embeddings of a split are written.
fn cache_path(out: &Path, split: &str) -> PathBuf {
    out.join(format!("{split}.cache.safetensors"))
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
