//! `x2ct report DIR...`: one page of everything that evaluations and training runs left in folders.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde_json::Value;
use x2ct::archive::Archive;
use x2ct::content::Content;
use x2ct::data::ct_rate;
use x2ct::data::features::{FeatureSet, Tower};
use x2ct::data::provenance::Provenance;
use x2ct::data::radiographs::RadiographSet;
use x2ct::eval::retrieval_file::RetrievalFile;
use x2ct::eval::score_file::ScoreFile;
use x2ct::report::evaluation::{self, FileFacts, Material, Named, Pages, Settings, TrainingRun};
use x2ct::report::table::{ENDING, Table};
use x2ct::train::StepLog;
use x2ct::{Error, files};

use crate::Common;
use crate::arguments::split;
use crate::chain::Chain;
use crate::effect::{self, Rule};
use crate::metrics::Options;
use crate::output::{Report, command_line, version};

/// One self-contained page of everything that evaluations and training runs left: for people, and as tables for programs
///
/// Folders are searched for three endings, and no other file is looked at: .safetensors, known by its content as scores (`x2ct eval
/// --scores`), ranks (`x2ct eval retrieval --ranks`), features (`x2ct embed`), a teacher's cache or a checkpoint of `x2ct train`, and passed
/// over if it is none; .jsonl, a log of `x2ct train`, passed over if its first line is none; .table.json, a table of `x2ct reproduce`. Whatever is
/// absent is left out, and the page says which option or file would add it.
///
/// The page needs neither a network nor scripts, and can be printed. Beside it lie its tables: NAME.csv, NAME.json, NAME.tex. One of these
/// three that is there already must be of a report. A file of the three endings above that is damaged is left out and named; the exit
/// code is then 1.
#[derive(clap::Args)]
pub struct ReportArgs {
    /// Folders, or single files, with what was measured
    #[arg(required = true, value_name = "DIR")]
    from: Vec<PathBuf>,
    /// The page, NAME.html; the tables beside it have its name
    #[arg(long, default_value = "report.html")]
    out: PathBuf,
    /// The title of the page
    #[arg(long, default_value = "Evaluation")]
    title: String,
    /// Radiographs of the volumes (`x2ct drr --dataset`), as pictures: a file, or shards by their folder or by a quoted name with *
    #[arg(long, value_name = "FILE")]
    radiographs: Option<PathBuf>,
    /// Data set in CT-RATE layout, for the texts of the reports
    #[arg(long, value_name = "ROOT")]
    dataset: Option<PathBuf>,
    /// Which part of it
    #[arg(long, default_value = "valid", value_parser = ["train", "valid"])]
    split: String,
    #[command(flatten)]
    options: Options,
}

/// Endings of the names of files that are looked at in folders.
const ENDINGS: [&str; 3] = [".safetensors", ENDING, ".jsonl"];

/// What the page consists of, beside the page.
const BESIDE: [&str; 3] = ["json", "csv", "tex"];

pub fn run(args: ReportArgs, common: &Common) -> anyhow::Result<ExitCode> {
    common.expect_device()?;
    effect::check(&[Rule::new("split", args.dataset.is_some(), "--dataset")])?;
    let bootstrap = args.options.bootstrap()?;
    expect_page(&args.out)?;
    let outputs: Vec<PathBuf> =
        std::iter::once(args.out.clone()).chain(BESIDE.map(|ending| args.out.with_extension(ending))).collect();
    outputs.iter().try_for_each(files::check_writable)?;
    let named = args.from.iter().chain(&args.radiographs).filter(|path| !path.is_dir()).cloned();
    files::check_all_apart(&outputs, named.chain(args.dataset.iter().map(|root| ct_rate::files_of(root))))?;
    BESIDE.iter().zip(&outputs[1..]).try_for_each(|(ending, path)| expect_own(path, ending))?;
    let mut chain = Chain::new(args.options.trust);
    let mut found = Found::new();
    for path in &args.from {
        found.add(path, &mut chain)?;
    }
    files::check_all_apart(&outputs, &found.kept)?;
    let mut material = found.material();
    if let Some(path) = &args.radiographs {
        let (set, left_out) = RadiographSet::read_usable(path)?;
        left_out.into_iter().try_for_each(|bad| chain.fail(bad.error))?;
        material.files.push(FileFacts {
            name: files::lossy(path),
            format: "radiographs".into(),
            made: set.provenance(),
        });
        material.radiographs = Some(set);
    }
    if let Some(root) = &args.dataset {
        let (_, reports) = ct_rate::reports_of(root, split(&args.split))?;
        chain.leave_out(&reports.bad)?;
        let texts = reports.rows.iter().map(|(name, report)| (name.to_string(), report.text()));
        material.reports = Some(texts.collect::<HashMap<_, _>>());
    }
    if material.is_empty() {
        let problem = "holds neither scores, ranks, features, a training run nor a table";
        return Err(
            Error::file(&args.from[0], problem, "name the folder that `x2ct eval` or `x2ct train` wrote to").into()
        );
    }
    material.left_out = chain.told();
    let settings = Settings {
        title: args.title,
        bootstrap,
        facts: vec![("version", format!("x2ct {}", version())), ("command", command_line())],
    };
    let pages = evaluation::pages(&material, &settings)?;
    for (path, text) in outputs.iter().zip([&pages.html, &pages.json, &pages.csv, &pages.latex]) {
        files::write_atomic(path, text.as_bytes())?;
    }
    let report = Report::new("report")
        .with("outputs", outputs.iter().map(files::lossy).collect::<Vec<_>>())?
        .with("rows", material.files.iter().map(|file| (&file.name, &file.format)).collect::<BTreeMap<_, _>>())?;
    chain.report_digests(report)?.finish(common.json, || say!("{}", args.out.display()))
}

/// Refuses a page that is not named as one: it would take the place of something else.
fn expect_page(out: &Path) -> anyhow::Result<()> {
    let ending = out.extension().unwrap_or_default().to_string_lossy();
    let problem = match &*ending {
        "html" => return Ok(()),
        ending if BESIDE.contains(&ending) => "would be a table beside the page",
        _ => "does not end in .html",
    };
    Err(crate::output::usage(format!("--out {} {problem}: name it .html", out.display())))
}

/// Refuses to write a table over a file that no report wrote.
fn expect_own(path: &Path, ending: &str) -> x2ct::Result<()> {
    if !path.exists() {
        return Ok(());
    }
    let bytes = files::read(path).map_err(|e| Error::io(path, "read the file", &e))?;
    if Pages::is_table_file(ending, &bytes) {
        return Ok(());
    }
    let problem = "is no table of a report and would be overwritten";
    Err(Error::file(path, problem, "give the page another name by --out, or move the file away"))
}

/// What folders hold, as it is found.
struct Found {
    material: Material,
    /// Runs by their folders.
    runs: BTreeMap<String, TrainingRun>,
    /// Files that the page rests on.
    kept: Vec<PathBuf>,
    /// Files and folders that were looked at.
    seen: HashSet<PathBuf>,
    /// What named folders and files are called.
    names: HashSet<String>,
    /// Files that were of use, were left out, or had been looked at.
    told: usize,
}

impl Found {
    fn new() -> Self {
        Found {
            material: Material::default(),
            runs: BTreeMap::new(),
            kept: Vec::new(),
            seen: HashSet::new(),
            names: HashSet::new(),
            told: 0,
        }
    }

    fn material(mut self) -> Material {
        let runs = self.runs.into_iter().map(|(name, of)| Named { name, of });
        self.material.runs.extend(runs);
        self.material
    }

    /// Looks at a path that was named: a file must be of some use, and a folder can be read.
    fn add(&mut self, path: &Path, chain: &mut Chain) -> x2ct::Result<()> {
        if path.is_dir() {
            let name = self.apart(last_parts(path, 1));
            return self.walk(path, Path::new(&name), chain);
        }
        let before = self.told;
        let name = self.apart(last_parts(path, 2));
        self.look(path, &name, chain)?;
        if self.told > before {
            return Ok(());
        }
        let content = Content::of_file(path)?;
        let problem = format!("is {content}, which a report has no place for");
        chain.fail(Error::file(path, problem, "name scores, ranks, features, a checkpoint, a log or a table"))
    }

    /// A name that nothing else has.
    fn apart(&mut self, name: String) -> String {
        let numbered = (2..).map(|i| format!("{name} ({i})"));
        let free = std::iter::once(name.clone()).chain(numbered).find(|name| self.names.insert(name.clone()));
        free.unwrap_or(name)
    }

    fn walk(&mut self, folder: &Path, called: &Path, chain: &mut Chain) -> x2ct::Result<()> {
        let unreadable = |e: std::io::Error| Error::io(folder, "read the folder", &e);
        // A link may lead back up.
        if !self.seen.insert(folder.canonicalize().map_err(unreadable)?) {
            return Ok(());
        }
        let entries = std::fs::read_dir(folder).map_err(unreadable)?;
        let mut paths =
            entries.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<_>>>().map_err(unreadable)?;
        paths.sort();
        for path in paths {
            let name = path.file_name().unwrap_or_default();
            let called = called.join(name);
            let name = name.to_string_lossy().to_lowercase();
            // Hidden files are unfinished ones.
            if name.starts_with('.') {
                continue;
            }
            if path.is_dir() {
                self.walk(&path, &called, chain)?;
            } else if path.is_file() && ENDINGS.iter().any(|ending| name.ends_with(ending)) {
                self.look(&path, &files::lossy(called), chain)?;
            }
        }
        Ok(())
    }

    /// Looks at one file; what is damaged is left out, what is of no use is passed over.
    fn look(&mut self, path: &Path, name: &str, chain: &mut Chain) -> x2ct::Result<()> {
        let place = path.canonicalize().unwrap_or_else(|_| path.into());
        if !self.seen.insert(place) {
            self.told += 1;
            return Ok(());
        }
        let kept = self.material.files.len();
        if let Err(error) = self.take(path, name) {
            self.told += 1;
            return chain.fail(error);
        }
        if self.material.files.len() > kept {
            self.kept.push(path.into());
        }
        Ok(())
    }

    fn take(&mut self, path: &Path, name: &str) -> x2ct::Result<()> {
        let lower = files::lossy(path).to_lowercase();
        match Content::of_file(path)? {
            Content::Safetensors => self.take_archive(path, name),
            _ if lower.ends_with(ENDING) => {
                let table = Table::read(path)?;
                self.keep(name, "x2ct-table-1", Provenance { known: true, ..Provenance::default() });
                self.material.tables.push(Named { name: name.into(), of: table });
                Ok(())
            }
            _ if lower.ends_with(".jsonl") => self.take_log(path, name),
            // A file that is named as an archive and is none was cut within its header, or is something else.
            content if lower.ends_with(".safetensors") => {
                Err(Error::file(path, format!("is named as an archive and is {content}"), "make it again"))
            }
            _ => Ok(()),
        }
    }

    fn take_archive(&mut self, path: &Path, name: &str) -> x2ct::Result<()> {
        let format = Archive::format_of(path)?.unwrap_or_default();
        let named = name.strip_suffix(".safetensors").unwrap_or(name).to_string();
        match format.as_str() {
            "x2ct-scores-1" => {
                let of = ScoreFile::read(path)?;
                self.keep(name, &format, of.provenance());
                self.material.scores.push(Named { name: named, of });
            }
            "x2ct-retrieval-1" => {
                let of = RetrievalFile::read(path)?;
                self.keep(name, &format, of.provenance());
                self.material.retrievals.push(Named { name: named, of });
            }
            "x2ct-features-1" | "x2ct-cache-1" => {
                let of = FeatureSet::open(path, Tower::Ct)?;
                self.keep(name, &format, of.provenance());
                self.material.features.push(Named { name: named, of });
            }
            "x2ct-checkpoint-1" => {
                let archive = Archive::read(path, &format, "checkpoint", "train again")?;
                let config: Value = archive.get_json("config")?;
                let made: Provenance = archive.get_json("provenance").unwrap_or_default();
                self.keep(name, &format, made);
                self.run(name).config = Some(config);
            }
            // Weights of others, volumes and text features have no place, and neither have radiographs without the option.
            _ => drop(Archive::open(path, &format, "file", "copy it again, or make it again")?),
        }
        Ok(())
    }

    fn take_log(&mut self, path: &Path, name: &str) -> x2ct::Result<()> {
        let steps = log(path)?;
        if !steps.is_empty() {
            self.keep(name, "training log", Provenance { rows: steps.len(), known: true, ..Provenance::default() });
            self.run(name).steps = steps;
        }
        Ok(())
    }

    /// The run of a file's folder.
    fn run(&mut self, name: &str) -> &mut TrainingRun {
        let folder = Path::new(name).parent().map(files::lossy).filter(|folder| !folder.is_empty());
        self.runs.entry(folder.unwrap_or_else(|| "run".into())).or_default()
    }

    fn keep(&mut self, name: &str, format: &str, made: Provenance) {
        self.told += 1;
        self.material.files.push(FileFacts { name: name.into(), format: format.into(), made });
    }
}

/// The last parts of a path, as it is called.
fn last_parts(path: &Path, parts: usize) -> String {
    let whole = path.canonicalize().unwrap_or_else(|_| path.into());
    let names: Vec<_> = whole.iter().collect();
    files::lossy(names[names.len().saturating_sub(parts)..].iter().collect::<PathBuf>())
}

/// The steps of a log; none of a file of other lines.
///
/// # Errors
/// A log with a line that is none, by its number.
fn log(path: &Path) -> x2ct::Result<Vec<StepLog>> {
    let bytes = files::read(path).map_err(|e| Error::io(path, "read the log", &e))?;
    let mut steps: Vec<StepLog> = Vec::new();
    for (at, line) in bytes.split(|&byte| byte == b'\n').enumerate().filter(|(_, line)| !line.is_empty()) {
        match step(line) {
            Ok(step) => steps.push(step),
            Err(_) if steps.is_empty() => return Ok(Vec::new()),
            Err(error) => {
                let problem = format!("line {} is no step of a training run ({error})", at + 1);
                return Err(Error::file(path, problem, "delete the line, or resume the run, which mends its log"));
            }
        }
    }
    Ok(steps)
}

/// A step of a log, in which `null` is a loss that is not finite.
fn step(line: &[u8]) -> serde_json::Result<StepLog> {
    let mut fields: Value = serde_json::from_slice(line)?;
    let lost = fields.get("loss").is_some_and(Value::is_null);
    if lost {
        fields["loss"] = 0.0.into();
    }
    let step: StepLog = serde_json::from_value(fields)?;
    Ok(StepLog { loss: if lost { f32::NAN } else { step.loss }, ..step })
}
