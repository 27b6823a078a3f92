//! `x2ct radiographs`: real radiographs of a table, packed.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use serde_json::json;
use x2ct::data::ingest::{RealOptions, pack_real, real_files};
use x2ct::data::radiograph_table::{Columns, LabelRules, RadiographTable};
use x2ct::files;
use x2ct::ops::image::PixelType;
use x2ct::table::{BadRow, first_of};

use crate::Common;
use crate::arguments::sizes;
use crate::dataset::shard;
use crate::ingest_teller::Teller;
use crate::output::{Failure, Report, Warning};
use crate::terminal::stop_flag;

const EXAMPLES: &str = "Examples:
  x2ct radiographs --table mimic_ct.csv --out mimic.safetensors
  x2ct radiographs --table train.csv --root files/ --image Path --id Path --labels Cardiomegaly,Atelectasis --uncertain present \\
      --blank absent --view frontal --out chexpert.safetensors";

/// Pack real radiographs, with their labels and reports, for `embed`, `eval` and training
///
/// The table has one row an image: its path, and if they are there an id, a report and labels (0 or 1). FILE gets the images as
/// `x2ct drr --dataset` packs simulated ones, and says that they are real ones; NAME.labels.csv and NAME.reports.csv beside it get
/// labels and reports of exactly these ids. Each image is read as `x2ct predict` does: MONOCHROME1 is inverted, what can be no
/// radiograph is refused. An image or row that cannot be used costs itself, is named, and the exit code is then 1; stopped with
/// Ctrl-C, the same command goes on where it was. `eval` notes that real radiographs are compared with simulated ones of a
/// training in view, size and photometry alone; --strict refuses that.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct RadiographsArgs {
    /// Comma-separated table of the images
    #[arg(long, value_name = "CSV")]
    table: PathBuf,
    /// File to write, NAME.safetensors
    #[arg(long, value_name = "FILE", value_parser = packed_name)]
    out: PathBuf,
    /// Folder that the images' paths are relative to [default: the table's]
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// Column of the images' paths
    #[arg(long, value_name = "COLUMN", default_value = "image")]
    image: String,
    /// Column of the ids [default: id, where there is one; else the image's name without folder and ending]
    #[arg(long, value_name = "COLUMN")]
    id: Option<String>,
    /// Column of the reports [default: report, where there is one]
    #[arg(long, value_name = "COLUMN")]
    report: Option<String>,
    /// Columns of the labels [default: all others whose cells are labels]
    #[arg(long, value_name = "COLUMN,...", value_delimiter = ',')]
    labels: Option<Vec<String>>,
    /// What a label of -1 is, uncertain in CheXpert's tables; refused, it costs its row
    #[arg(long, default_value = "refuse", value_parser = ["refuse", "absent", "present"])]
    uncertain: String,
    /// What an empty label is, not mentioned in CheXpert's tables; refused, it costs its row
    #[arg(long, default_value = "refuse", value_parser = ["refuse", "absent"])]
    blank: String,
    /// From where they are taken; frontal is ap or pa. A DICOM that says otherwise is left out
    #[arg(long, default_value = "frontal", value_parser = ["frontal", "ap", "pa", "lateral"])]
    view: String,
    /// Turn each left to right, for images that show the patient's right on the right
    #[arg(long)]
    mirror: bool,
    /// Packed height and width: the shorter side is resized to fit, the centre kept
    #[arg(long, value_name = "HxW", default_value = "224x224", value_parser = sizes::<2>)]
    size: [usize; 2],
    /// Packed pixels: u8 from 0 to 255 as X2CT-CLIP, or bf16 from 0 to 1
    #[arg(long, value_name = "TYPE", value_parser = ["u8", "bf16"], default_value = "u8")]
    format: String,
    /// Pack the I-th of N parts only, into NAME-I-of-N.safetensors; other processes or machines may pack the others at once
    #[arg(long, value_name = "I/N", value_parser = shard, default_value = "1/1")]
    shard: [usize; 2],
    /// Forget what an unfinished run has done, and begin anew
    #[arg(long)]
    restart: bool,
    /// Take images that are no plausible radiographs, of another view or simulated; they are warned of and recorded
    #[arg(long)]
    force: bool,
}

fn packed_name(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    let fits = path.extension().is_some_and(|ending| ending == "safetensors");
    fits.then_some(path).ok_or_else(|| "name a file that ends in .safetensors".into())
}

/// What a label stands for that is neither 0 nor 1.
fn rule(name: &str) -> Option<bool> {
    match name {
        "absent" => Some(false),
        "present" => Some(true),
        _ => None,
    }
}

pub fn run(args: RadiographsArgs, common: &Common) -> anyhow::Result<ExitCode> {
    let start = Instant::now();
    common.expect_device()?;
    let columns = Columns {
        id: args.id.clone(),
        image: args.image.clone(),
        report: args.report.clone(),
        labels: args.labels.clone(),
    };
    let rules = LabelRules { uncertain: rule(&args.uncertain), blank: rule(&args.blank) };
    let table = RadiographTable::read(&args.table, &columns, rules)?;
    let of_table = args.table.parent().filter(|folder| !folder.as_os_str().is_empty());
    let root = args.root.clone().or(of_table.map(PathBuf::from)).unwrap_or(".".into());
    let outputs = real_files(&args.out, args.shard);
    outputs.iter().try_for_each(files::check_writable)?;
    files::check_all_apart(&outputs, [&args.table])?;
    let (spare, bad_rows): (Vec<&BadRow>, Vec<&BadRow>) = table.bad_rows.iter().partition(|row| row.spare);
    let mut warnings: Vec<Warning> =
        spare.iter().map(|row| Warning::new(&row.table, format!("{}: {}", row.place(), row.problem))).collect();
    if !table.others.is_empty() {
        let says = format!("columns that are neither labels nor asked for, passed over: {}", first_of(&table.others));
        warnings.push(Warning::new(&args.table, says));
    }
    warnings.iter().for_each(|warning| remark!("{}", warning.line()));
    bad_rows.iter().for_each(|bad| remark!("x2ct: left out: {}", bad.error()));
    let options = RealOptions {
        root: root.clone(),
        view: args.view.clone(),
        mirror: args.mirror,
        size: args.size,
        pixel: if args.format == "bf16" { PixelType::Bf16 } else { PixelType::U8 },
        shard: args.shard,
        restart: args.restart,
        force: args.force,
    };
    let ([i, n], all) = (args.shard, table.entries.len());
    let total = all * i / n - all * (i - 1) / n;
    let file = |id: &str| {
        let entry = table.entries.iter().find(|entry| entry.id == id);
        entry.map_or_else(|| id.into(), |entry| root.join(&entry.image))
    };
    let stop = stop_flag()?;
    let mut teller = Teller::new("radiographs", "radiographs", total, &file);
    let packed = pack_real(&table, &args.out, &options, &stop, &mut |event| teller.tell(event))?;
    let failed = teller.finish(&packed.failed);
    warnings.extend(packed.warnings.iter().map(|(id, doubt)| Warning::new(file(id), doubt.as_str())));
    let report = Report::new("radiographs")
        .with_all(json!({
            "out": files::lossy(&packed.file), "labels": packed.labels.as_ref().map(files::lossy),
            "reports": packed.reports.as_ref().map(files::lossy), "label_names": table.labels,
            "radiographs": packed.made, "size": options.size, "pixels": options.pixel, "view": options.view,
            "mirror": options.mirror, "preprocessing_digest": packed.preprocessing_digest, "forced": packed.forced,
            "seconds": start.elapsed().as_secs_f64(),
        }))?
        .warning(warnings)
        .failing(bad_rows.iter().map(|bad| Failure::from(&bad.error())))
        .failing(failed);
    let left_out = bad_rows.len() + packed.failed.len();
    report.finish(common.json, || {
        say!("{}: {} real radiographs, {left_out} left out", packed.file.display(), packed.made);
        if let Some(labels) = &packed.labels {
            say!("{}: their {} labels: {}", labels.display(), table.labels.len(), first_of(&table.labels));
        }
        if let Some(reports) = &packed.reports {
            say!("{}: their reports", reports.display());
        }
    })
}
