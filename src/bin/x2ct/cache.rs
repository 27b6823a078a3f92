//! `x2ct cache`: what a teacher says of a data set, computed once, and the text features that it reads.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde_json::json;
use x2ct::data::ct_rate::{self, CtRate, HuSource};
use x2ct::data::id_table::IdTable;
use x2ct::data::prompts::Sentences;
use x2ct::data::provenance::Provenance;
use x2ct::data::text::HashedNgrams;
use x2ct::table::first_of;
use x2ct::train::CtTeacher;
use x2ct::{Error, files};

use crate::Common;
use crate::arguments::{count, split};
use crate::chain::{Chain, Trust};
use crate::effect::{self, Rule};
use crate::embedding::Material;
use crate::label_table;
use crate::output::{Report, usage};
use crate::terminal::stop_flag;

/// Make the embedding cache that a radiograph encoder learns from, with a CT encoder of your own as the teacher
#[derive(clap::Args)]
pub struct CacheArgs {
    #[command(subcommand)]
    command: CacheCommand,
}

#[derive(clap::Subcommand)]
enum CacheCommand {
    Build(BuildArgs),
    Prompts(PromptsArgs),
    Text(TextArgs),
}

/// Embed volumes and reports with a trained CT encoder; run again, it does what is left or has changed
///
/// A volume is embedded once: again only if its content, its preparation or the checkpoint is another. Finished embeddings are kept
/// in FILE.parts until the cache is whole. A volume that cannot be read or has no text is left out and named; the cache holds the
/// others, and the exit code is then 1: run again when it is mended. Name the cache in the configuration of `x2ct train` (data.cache)
/// to train a radiograph encoder on it.
#[derive(clap::Args)]
struct BuildArgs {
    /// Checkpoint of `x2ct train` with a DCFormer configuration
    #[arg(long)]
    checkpoint: PathBuf,
    /// Prepared volumes: a folder of `x2ct preprocess`, or a packed file
    #[arg(long)]
    volumes: PathBuf,
    /// Text features of the reports, for a model with a text tower
    #[arg(long, value_name = "FILE", required_unless_present = "reports")]
    text: Option<PathBuf>,
    /// For a model without: the embedding cache on whose report embeddings it was trained
    #[arg(long, value_name = "FILE", conflicts_with = "text")]
    reports: Option<PathBuf>,
    /// The cache to write (.safetensors)
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    #[command(flatten)]
    trust: Trust,
}

/// Text features of a data set's reports by hashed word n-grams, where no language model is at hand
///
/// A row that cannot be used costs its own report, and the exit code is then 1; a report without labels or metadata is left out with
/// a warning, and one that says nothing has the features of an empty text, with a warning. For CXR-BERT's features use
/// tools/export_ct_clip.py --text-features.
///
/// The reports are a data set's, or those of a table such as `x2ct radiographs` writes (NAME.reports.csv): the first column is the id,
/// and `report` its text.
#[derive(clap::Args)]
struct TextArgs {
    /// Data set in CT-RATE layout
    #[arg(long, value_name = "ROOT", required_unless_present = "reports")]
    dataset: Option<PathBuf>,
    /// Which part of it
    #[arg(long, default_value = "train", value_parser = ["train", "valid"])]
    split: String,
    /// Table of ids and reports, instead of a data set
    #[arg(long, value_name = "CSV", conflicts_with = "dataset")]
    reports: Option<PathBuf>,
    /// Features of a text
    #[arg(long, default_value_t = HashedNgrams::default().dim, value_parser = count(1..=65536))]
    features: usize,
    /// Words of the longest sequence
    #[arg(long, default_value_t = HashedNgrams::default().max_n, value_parser = count(1..=64))]
    words: usize,
    /// The file to write (.safetensors)
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    #[command(flatten)]
    trust: Trust,
}

/// Embed prompts of your own, for `x2ct eval zero-shot`: other wordings, ensembles, any labels
///
/// FILE.toml names a wording (there-is, is-present or vocab-fine) or templates with {} for the
/// finding, and the labels with the texts that each goes by; without labels the 18 of CT-RATE:
///
///   wording = "there-is"
///   [[template]]
///   positive = "There are signs of {}."
///   negative = "There are no signs of {}."
///   [[label]]
///   name = "Emphysema"
///   text = ["emphysema", "emphysematous changes"]
///
/// Several sentences of a label are an ensemble: the mean of their embeddings. The checkpoint
/// must be of a CT encoder with a text tower on hashed word n-grams (`x2ct cache text`); for
/// CT-CLIP use tools/export_ct_clip.py --prompts. The phantom teacher embeds no text: its cache
/// has the only prompts there are.
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
struct PromptsArgs {
    /// The prompts (.toml)
    #[arg(long, value_name = "FILE.toml")]
    prompts: PathBuf,
    /// Checkpoint of `x2ct train` with a DCFormer configuration
    #[arg(long)]
    checkpoint: PathBuf,
    /// The file to write (.safetensors)
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    #[command(flatten)]
    trust: Trust,
}

pub fn run(args: CacheArgs, common: &Common) -> anyhow::Result<ExitCode> {
    match args.command {
        CacheCommand::Build(args) => build(args, common),
        CacheCommand::Prompts(args) => prompts(args, common),
        CacheCommand::Text(args) => text(args, common),
    }
}

fn build(args: BuildArgs, common: &Common) -> anyhow::Result<ExitCode> {
    let device = common.device()?;
    files::check_writable(&args.out)?;
    files::check_apart(
        &args.out,
        [Some(&args.checkpoint), Some(&args.volumes), args.text.as_ref(), args.reports.as_ref()].into_iter().flatten(),
    )?;
    let teacher = CtTeacher::read(&device, &args.checkpoint)?;
    let mut chain = Chain::new(args.trust);
    let material =
        Material::read(&teacher, &args.volumes, [args.text.as_deref(), args.reports.as_deref()], &mut chain)?;
    let ([volumes_file, texts_file], (kind, of_texts)) = (material.files(), material.texts.provenance());
    chain.settle(volumes_file, Ok(material.volumes.provenance()?.undecided("volumes")))?;
    chain.settle(texts_file, Ok(of_texts.undecided(kind)))?;
    let stop = stop_flag()?;
    let (cache, before) = material
        .embed(&mut chain, |volumes, texts, watch| teacher.write_cache(volumes, texts, &args.out, &stop, watch))?;
    let embedded = cache.ids.len() - before;
    let made = cache.provenance();
    chain.holds("checkpoint", teacher.digest());
    if let Some(of_volumes) = made.from.get("volumes") {
        chain.holds("volumes", &of_volumes.digest);
        of_volumes.from.iter().for_each(|(name, from)| chain.holds(name, &from.digest));
    }
    chain.holds(kind, &of_texts.digest);
    chain.holds("cache", &made.digest);
    let report = Report::new("cache").with_all(json!({
        "cache": files::lossy(&args.out), "volumes": cache.ids.len(), "embedded": embedded, "dim": cache.dim, "teacher": cache.teacher,
        "checkpoint_digest": cache.checkpoint_digest, "preprocessing_digest": cache.preprocessing_digest,
    }))?;
    chain.report(report)?.finish(common.json, || {
        let (out, volumes) = (args.out.display(), cache.ids.len());
        say!("{out}: {volumes} volumes, embeddings by {}; {embedded} computed now", cache.teacher);
    })
}

fn prompts(args: PromptsArgs, common: &Common) -> anyhow::Result<ExitCode> {
    let device = common.device()?;
    files::check_writable(&args.out)?;
    files::check_apart(&args.out, [&args.prompts, &args.checkpoint])?;
    let sentences = Sentences::read(&args.prompts)?;
    let teacher = CtTeacher::read(&device, &args.checkpoint)?;
    let mut chain = Chain::new(args.trust);
    let prompts = teacher.prompts(sentences).map_err(|e| e.of_file(&args.checkpoint))?;
    prompts.write(&args.out)?;
    chain.holds("checkpoint", teacher.digest());
    chain.holds("prompts", &prompts.digest());
    let count = prompts.sentences.iter().map(|pairs| 2 * pairs.positive.len()).sum::<usize>();
    let report = Report::new("cache").with_all(json!({
        "prompts": files::lossy(&args.out), "labels": prompts.names, "sentences": count, "dim": prompts.dim, "teacher": prompts.teacher,
    }))?;
    chain.report(report)?.finish(common.json, || {
        let (out, labels) = (args.out.display(), prompts.names.len());
        say!("{out}: {labels} labels by {count} sentences, embeddings by {}", prompts.teacher);
    })
}

fn text(args: TextArgs, common: &Common) -> anyhow::Result<ExitCode> {
    common.expect_device()?;
    effect::check(&[Rule::new("split", args.dataset.is_some(), "--dataset")])?;
    files::check_writable(&args.out)?;
    let inputs = args.dataset.as_ref().map(|root| ct_rate::files_of(root)).into_iter().chain(args.reports.clone());
    files::check_apart(&args.out, inputs)?;
    let mut chain = Chain::new(args.trust);
    let reports = match (&args.dataset, &args.reports) {
        (Some(root), _) => Reports::of_dataset(root, &args.split, &mut chain)?,
        (None, Some(table)) => Reports::of_table(table, &mut chain)?,
        (None, None) => return Err(usage("pass --dataset, or --reports")),
    };
    let silent = reports.silent(&mut chain)?;
    let (ids, texts): (Vec<String>, Vec<String>) =
        reports.rows.into_iter().map(|(id, report)| (id, report.text())).unzip();
    let text = HashedNgrams { dim: args.features, max_n: args.words }.features(ids, &texts)?;
    text.write(&args.out)?;
    let Provenance { digest, from, .. } = text.provenance();
    from.iter().for_each(|(name, from)| chain.holds(name, &from.digest));
    chain.holds("text", &digest);
    let report = Report::new("cache").with_all(json!({
        "text": files::lossy(&args.out), "reports": text.ids.len(), "empty_reports": silent, "features": text.dim,
        "encoder": text.encoder, "settings_digest": text.settings_digest,
    }))?;
    chain.report(report)?.finish(common.json, || {
        say!("{}: {} reports, {} {}", args.out.display(), text.ids.len(), text.dim, text.encoder);
    })
}

/// The column of a table of reports.
const REPORT: &str = "report";

/// Reports by the ids of their volumes or radiographs.
struct Reports {
    /// The file they stand in, and what of it holds their texts.
    table: PathBuf,
    columns: &'static str,
    rows: Vec<(String, ct_rate::Report)>,
}

impl Reports {
    /// Those of a part of a data set in CT-RATE's layout that have labels and metadata.
    ///
    /// # Errors
    /// Tables that cannot be read; under `--strict` a row that cannot be used.
    fn of_dataset(root: &Path, part: &str, chain: &mut Chain) -> x2ct::Result<Self> {
        let data = CtRate::read(root, split(part), HuSource::AlreadyHu)?;
        for (table, says) in data.warnings() {
            chain.doubt(&table, &says, "complete the table")?;
        }
        label_table::fail_rows(&data.bad_rows, chain)?;
        let (table, columns) = (data.reports_table(), "columns Findings_EN and Impressions_EN");
        let rows = data.volumes.into_iter().map(|volume| (volume.name.to_string(), volume.report)).collect();
        Ok(Reports { table, columns, rows })
    }

    /// Those of a table of ids and reports.
    ///
    /// # Errors
    /// A table that cannot be read or has no such column; under `--strict` a row that cannot be used.
    fn of_table(path: &Path, chain: &mut Chain) -> x2ct::Result<Self> {
        let table = IdTable::texts(path, REPORT)?;
        label_table::fail_rows(&table.rows.bad, chain)?;
        let report = |id: &String| {
            let findings = table.row(id)?.first()?.clone();
            Some((id.clone(), ct_rate::Report { findings, ..Default::default() }))
        };
        let rows = table.rows.order.iter().filter_map(report).collect();
        Ok(Reports { table: path.into(), columns: "column report", rows })
    }

    /// How many say nothing: they are embedded as the empty text, as CT-CLIP's code does, and doubted.
    ///
    /// # Errors
    /// Under `--strict` that doubt; not one report that says something.
    fn silent(&self, chain: &mut Chain) -> x2ct::Result<usize> {
        let silent: Vec<&String> =
            self.rows.iter().filter(|(_, report)| report.says_nothing()).map(|(id, _)| id).collect();
        let count = silent.len();
        if count == self.rows.len() {
            let problem = format!("none of its {count} reports says anything");
            return Err(Error::file(&self.table, problem, format!("fill in the {}", self.columns)));
        }
        if count > 0 {
            let first = first_of(silent);
            let says = format!("says nothing of {count} volume(s), which get the features of an empty text: {first}");
            chain.doubt(&self.table, &says, "complete the table")?;
        }
        Ok(count)
    }
}
