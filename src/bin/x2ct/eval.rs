//! `x2ct eval`: retrieval and zero-shot detection on a held-out set, of a radiograph encoder or of a CT teacher; linear probes of features.

mod calibrate;
mod compare;
mod labelled;
mod labels;
mod probe;
mod retrieval;
mod scores;
mod zero_shot;

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use x2ct::data::cache::EmbeddingCache;
use x2ct::data::ct_rate::{self, VolumeName};
use x2ct::data::prompts::PromptSet;
use x2ct::data::{radiographs, rows, volumes};
use x2ct::eval::retrieval::{Gallery, Recall, Spread, collapse};
use x2ct::eval::scores::{ClipScores, Kinds, Scores, Targets, ZeroShot, ZeroShotTargets};
use x2ct::eval::zero_shot::doubt_of_prompts;
use x2ct::train::{Checkpoint, CtTeacher, Trainer};
use x2ct::{Device, Error, files};

use crate::Common;
use crate::arguments::{named, within};
use crate::chain::{Chain, Trust};
use crate::effect::{self, Rule};
use crate::embedding::Material;
use crate::output::{Report, check_distinct, usage};
use crate::radiographs::Radiographs;
use crate::terminal::{print_table, stop_flag};
use labels::Labels;
use scores::Detected;

/// Score a radiograph encoder, a CT encoder or a teacher's cache: retrieval both ways, zero-shot detection
///
/// A radiograph encoder: --checkpoint, --radiographs and the teacher's --cache of the same volumes. A CT encoder: --checkpoint,
/// --volumes and --text (or the --cache it was trained on). A teacher by what it left: --cache alone. CT and report are then each
/// other's gallery, as DCFormer is evaluated.
///
/// A volume without usable labels, that cannot be read, has no text or no embedding, or whose radiograph is damaged or one value
/// everywhere, is left out of all scores, retrieval included, so that all are of the same volumes, and named; the exit code is then 1.
#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct EvalArgs {
    #[command(subcommand)]
    protocol: Option<Protocol>,
    #[command(flatten)]
    whole: WholeArgs,
}

/// One protocol by itself.
#[derive(clap::Subcommand)]
enum Protocol {
    Calibrate(calibrate::CalibrateArgs),
    Compare(compare::CompareArgs),
    Probe(Box<probe::ProbeArgs>),
    Finetune(Box<probe::FinetuneArgs>),
    External(Box<probe::ExternalArgs>),
    Retrieval(retrieval::RetrievalArgs),
    ZeroShot(zero_shot::ZeroShotArgs),
}

/// Retrieval and zero-shot detection at once.
#[derive(clap::Args)]
struct WholeArgs {
    /// Checkpoint of `x2ct train`
    #[arg(long)]
    checkpoint: Option<PathBuf>,
    /// Held-out radiographs (`x2ct drr --dataset`, `x2ct radiographs`): a file, or shards by their folder or by a quoted name with *
    #[arg(long, conflicts_with_all = ["volumes", "text"], requires_all = ["checkpoint", "cache"])]
    radiographs: Option<PathBuf>,
    /// Held-out volumes (`x2ct preprocess`): a folder, or a packed file
    #[arg(long, requires = "checkpoint")]
    volumes: Option<PathBuf>,
    /// Text features of the reports, for a CT encoder with a text tower
    #[arg(long, conflicts_with = "cache")]
    text: Option<PathBuf>,
    /// The teacher's embeddings of the same volumes; for a CT encoder without a text tower, those it was trained on
    #[arg(long)]
    cache: Option<PathBuf>,
    /// Data set in CT-RATE layout, for the labels
    // Where a protocol is named, clap reads these arguments too and asks for none.
    #[arg(long, required = true)]
    dataset: Option<PathBuf>,
    /// Which part of it
    #[arg(long, default_value = "valid", value_parser = ["train", "valid"])]
    split: String,
    /// Cosines are multiplied by it in zero-shot detection by a CT encoder or a cache [default: its training's, or 1]
    #[arg(long, allow_negative_numbers = true, value_parser = within(1e-3, 1e6))]
    scale: Option<f64>,
    /// What stands in the gallery of retrieval once and is a query once; zero-shot detection is of every volume
    #[arg(long, default_value = "volume", value_parser = named::<Gallery>(Gallery::NAMES))]
    gallery: Gallery,
    /// Also write the labels as a comma-separated table: AUC, AP, rates at one half and at the Youden point, and the
    /// digests of what was evaluated
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,
    /// Also write the scores of every volume: NAME.safetensors (logits, labels, digests) and NAME.csv (probabilities), which `x2ct
    /// metrics` reads
    #[arg(long, value_name = "NAME")]
    scores: Option<PathBuf>,
    #[command(flatten)]
    trust: Trust,
    /// Evaluate radiographs that were made with other settings than those of the training, and warn
    #[arg(long, requires = "radiographs")]
    force: bool,
}

pub fn run(args: EvalArgs, common: &Common) -> anyhow::Result<ExitCode> {
    match args.protocol {
        Some(Protocol::Calibrate(args)) => calibrate::run(args, common),
        Some(Protocol::Compare(args)) => compare::run(args, common),
        Some(Protocol::Probe(args)) => probe::run(*args, common),
        Some(Protocol::Finetune(args)) => probe::finetune(*args, common),
        Some(Protocol::External(args)) => probe::external(*args, common),
        Some(Protocol::Retrieval(args)) => retrieval::run(args, common),
        Some(Protocol::ZeroShot(args)) => zero_shot::run(args, common),
        None => whole(args.whole, common),
    }
}

impl WholeArgs {
    /// The data set, which clap requires.
    fn dataset(&self) -> &Path {
        self.dataset.as_deref().unwrap_or(Path::new("."))
    }
}

fn whole(args: WholeArgs, common: &Common) -> anyhow::Result<ExitCode> {
    effect::check(&[Rule::new("scale", args.radiographs.is_none(), "--volumes, or --cache alone")])?;
    check_outputs(&args)?;
    match (&args.checkpoint, &args.radiographs, &args.volumes, &args.cache) {
        (Some(checkpoint), Some(radiographs), None, Some(cache)) => {
            let device = common.device()?;
            radiograph_encoder(&args, common, &device, &Checkpoint::read(checkpoint)?, radiographs, cache)
        }
        (Some(checkpoint), None, Some(volumes), _) => ct_encoder(&args, common, checkpoint, volumes),
        (None, None, None, Some(path)) => {
            common.expect_device()?;
            let cache = EmbeddingCache::read(path)?;
            let (mut chain, provenance) = (Chain::new(args.trust), cache.provenance());
            chain.settle(path, Ok(provenance.undecided("cache")))?;
            chain.holds("cache", &provenance.digest);
            let labels = Labels::read(&args, (path, &cache.ids), &cache.ids, &mut chain)?;
            ct_teacher(&args, common, (path, &cache), &labels, args.scale.unwrap_or(1.0), chain)
        }
        _ => Err(usage(
            "pass --checkpoint with --radiographs and --cache, or with --volumes and --text, or --cache alone",
        )),
    }
}

/// Tries the outputs before the work, and that none is another or an input.
fn check_outputs(args: &WholeArgs) -> anyhow::Result<()> {
    let scores = args.scores.as_deref().map(scores::files).into_iter().flatten();
    let outputs: Vec<PathBuf> = args.csv.iter().cloned().chain(scores).collect();
    check_distinct("--csv and --scores", &outputs)?;
    outputs.iter().try_for_each(files::check_writable)?;
    // A table may lie beside shards or volumes, and nothing among the files of a data set.
    let shards = args.radiographs.as_deref().map(radiographs::files_of).transpose()?.unwrap_or_default();
    let volumes = args.volumes.as_deref().map(volumes::files_of).transpose()?.unwrap_or_default();
    let inputs =
        [&args.checkpoint, &args.text, &args.cache].into_iter().flatten().cloned().chain(shards).chain(volumes);
    files::check_all_apart(&outputs, inputs.chain([ct_rate::files_of(args.dataset())]))?;
    args.radiographs.as_deref().map_or(Ok(()), |path| radiographs::expect_none_of(path, &outputs))?;
    Ok(())
}

fn radiograph_encoder(
    args: &WholeArgs,
    common: &Common,
    device: &Device,
    checkpoint: &Checkpoint,
    radiographs: &Path,
    cache_path: &Path,
) -> anyhow::Result<ExitCode> {
    let cache = EmbeddingCache::read(cache_path)?;
    let path = radiographs;
    let of_cache = cache.provenance();
    let mut chain = Chain::new(args.trust);
    let Radiographs { set: radiographs, of_file, undecided } =
        Radiographs::read(checkpoint, path, args.force, &mut chain)?;
    chain.settle(cache_path, checkpoint.sources.expect_alike("cache", &of_cache))?;
    chain.holds("cache", &of_cache.digest);
    let known: HashSet<&String> = cache.ids.iter().collect();
    let lacks = |id: &String| Error::File {
        path: cache_path.into(),
        field: Some(id.clone()),
        problem: format!("has no embedding for this radiograph of {}", path.display()),
        hint: "pass the cache of the same volumes, or complete it".into(),
    };
    let embedded = chain.keep("radiographs", radiographs.ids(), |id| (!known.contains(id)).then(|| lacks(id)))?;
    let taken: Vec<String> = embedded.iter().map(|&row| radiographs.ids()[row].clone()).collect();
    let (_, of_join) =
        cache.join("radiographs", &taken, &radiographs.cts().select(&embedded)).map_err(|e| e.of_file(cache_path))?;
    // One warning for each file that lacks something.
    let (of_path, of_cache_path) = match radiographs.cts().is_unknown() {
        true => ([undecided, of_join].concat(), Vec::new()),
        false => (undecided, of_join),
    };
    chain.settle(path, Ok(of_path))?;
    chain.settle(cache_path, Ok(of_cache_path))?;
    chain.lacks(path, &of_file, cache_path, &cache.ids);
    let labels = Labels::read(args, (path, &of_file), &taken, &mut chain)?;
    let (ids, labelled) = labels.known_of(&taken);
    let images: Vec<usize> = labelled.iter().map(|&row| embedded[row]).collect();
    let (dim, rows) = (cache.dim, cache.rows_of(&ids)?);
    let [ct, report] = [&cache.ct, &cache.report].map(|all| rows::select(all, dim, &rows));
    let embeddings = Trainer::resume(device, checkpoint)?.embed(&radiographs.upload(device)?)?;
    let labels = labels.of(&ids, &mut chain);
    let targets = Targets {
        ct: &ct,
        report: &report,
        prompts_positive: &cache.prompts_positive,
        prompts_negative: &cache.prompts_negative,
        labels: &labels,
        dim,
    };
    let embeddings = rows::select(&embeddings, dim, &images);
    let members = args.gallery.members(&ids);
    let scores = Scores::of(&embeddings, &targets)?.among(&members, &embeddings, &targets)?;
    let encoder = args.checkpoint.as_deref().unwrap_or(path);
    let files = Kinds { radiographs: Some(encoder), ct: cache_path, report: cache_path };
    note_collapse(
        &mut chain,
        members.iter().map(|&row| &ids[row]),
        scores.retrieval.distinct,
        scores.retrieval.mean_cosine,
        files,
    );
    let (prompts, prompts_digest) = (cache_path, PromptSet::of_cache(&cache).digest());
    let detected = Detected { ids, labels, scale: 1.0, prompts, prompts_digest, zero_shot: &scores.zero_shot };
    finish(args, common, &scores, detected, chain, || print_scores(&scores, &cache.teacher))
}

fn ct_encoder(args: &WholeArgs, common: &Common, checkpoint: &Path, path: &Path) -> anyhow::Result<ExitCode> {
    let texts = [args.text.as_deref(), args.cache.as_deref()];
    if texts == [None; 2] {
        return Err(usage("pass --text, or --cache for a model without a text tower"));
    }
    let teacher = CtTeacher::read(&common.device()?, checkpoint)?;
    let mut chain = Chain::new(args.trust);
    let mut material = Material::read(&teacher, path, texts, &mut chain)?;
    let labels = Labels::read(args, (path, &material.of_file), material.volumes.ids(), &mut chain)?;
    let (_, rows) = labels.known_of(material.volumes.ids());
    material.volumes = material.volumes.select(&rows)?;
    let (stop, text) = (stop_flag()?, material.texts.provenance().1.digest);
    let (cache, _) = material.embed(&mut chain, |volumes, texts, watch| teacher.cache(volumes, texts, &stop, watch))?;
    let of_volumes = cache.made.from.get("volumes").cloned().unwrap_or_default();
    let digests = [("checkpoint", teacher.digest()), ("volumes", &of_volumes.digest), ("text", &text)];
    digests.into_iter().for_each(|(name, digest)| chain.holds(name, digest));
    of_volumes.from.iter().for_each(|(name, from)| chain.holds(name, &from.digest));
    let scale = args.scale.unwrap_or(f64::from(teacher.config().loss.scale));
    ct_teacher(args, common, (checkpoint, &cache), &labels, scale, chain)
}

fn ct_teacher(
    args: &WholeArgs,
    common: &Common,
    (made_by, cache): (&Path, &EmbeddingCache),
    labels: &Labels,
    scale: f64,
    mut chain: Chain,
) -> anyhow::Result<ExitCode> {
    let (ids, rows) = labels.known_of(&cache.ids);
    let [ct, report] = [&cache.ct, &cache.report].map(|all| rows::select(all, cache.dim, &rows));
    let labels = labels.of(&ids, &mut chain);
    let targets = ZeroShotTargets {
        prompts_positive: &cache.prompts_positive,
        prompts_negative: &cache.prompts_negative,
        labels: &labels,
        dim: cache.dim,
        scale,
    };
    let members = args.gallery.members(&ids);
    let scores = ClipScores::of(&ct, &report, &targets)?.among(&members, &ct, &report, cache.dim)?;
    let files = Kinds { radiographs: None, ct: made_by, report: made_by };
    note_collapse(
        &mut chain,
        members.iter().map(|&row| &ids[row]),
        scores.retrieval.distinct,
        scores.retrieval.mean_cosine,
        files,
    );
    let (prompts, prompts_digest) = (made_by, PromptSet::of_cache(cache).digest());
    let detected = Detected { ids, labels, scale, prompts, prompts_digest, zero_shot: &scores.zero_shot };
    finish(args, common, &scores, detected, chain, || print_clip_scores(&scores, &cache.teacher))
}

/// Says which embeddings are so few or so alike that their ranks mean nothing, each with the file it comes from.
fn note_collapse<'a>(
    chain: &mut Chain,
    ids: impl ExactSizeIterator<Item = &'a String>,
    distinct: Kinds<usize>,
    mean_cosine: Kinds<f64>,
    files: Kinds<&Path>,
) {
    let (rows, scans) = (ids.len(), ids.map(|id| VolumeName::scan_of(id)).collect::<HashSet<_>>().len());
    let spread = distinct.named().zip(mean_cosine.named()).zip(files.named());
    for (((what, distinct), (_, mean_cosine)), (_, file)) in spread {
        if let Some(says) = collapse(what, Spread { rows, scans, distinct, mean_cosine }) {
            chain.note(file, &says);
        }
    }
}

fn finish(
    args: &WholeArgs,
    common: &Common,
    scores: &impl serde::Serialize,
    detected: Detected,
    mut chain: Chain,
    print: impl FnOnce(),
) -> anyhow::Result<ExitCode> {
    if let Some(says) = doubt_of_prompts(&detected.zero_shot.equal_prompts) {
        chain.note(detected.prompts, &says);
    }
    if let Some(path) = &args.csv {
        files::write_atomic(path, detected.zero_shot.csv(chain.digests()).as_bytes())?;
    }
    if let Some(name) = &args.scores {
        detected.write(name, &chain)?;
    }
    chain
        .report(Report::new("eval").with_all(scores)?.with("gallery_of", args.gallery.name())?)?
        .finish(common.json, print)
}

fn print_scores(s: &Scores, teacher: &str) {
    say!("teacher: {teacher}; gallery: {} volumes; chance R@5 {:.4}", s.gallery, s.retrieval.chance_r5);
    let r = &s.retrieval;
    let ways = [
        ("CXR to CT", &r.cxr_to_ct),
        ("CT to CXR", &r.ct_to_cxr),
        ("CXR to report", &r.cxr_to_report),
        ("report to CXR", &r.report_to_cxr),
    ];
    let rows = ways.map(|(name, r)| {
        let shares = [r.r1, r.r5, r.r10, r.r50].map(|v| format!("{v:.4}"));
        std::iter::once(name.to_string()).chain(shares).chain([format!("{:.1}", r.median_rank)]).collect::<Vec<_>>()
    });
    print_table(&["retrieval", "R@1", "R@5", "R@10", "R@50", "median rank"], &rows);
    say!("");
    print_labels(&s.zero_shot);
}

/// R@1, R@10 and R@50 both ways, then what DCFormer's evaluation says of detection.
fn print_clip_scores(s: &ClipScores, teacher: &str) {
    say!("teacher: {teacher}; gallery: {} volumes; zero-shot scale {:.4}", s.gallery, s.scale);
    let r = &s.retrieval;
    let row = |name: &str, [r1, r10, r50]: [f64; 3], median: f64| {
        let shares = [r1, r10, r50].map(|v| format!("{v:.4}"));
        std::iter::once(name.to_string()).chain(shares).chain([format!("{median:.1}")]).collect::<Vec<_>>()
    };
    let way = |name: &str, r: &Recall| row(name, [r.r1, r.r10, r.r50], r.median_rank);
    let rows = [
        way("IR: CT from report", &r.image_from_text),
        way("TR: report from CT", &r.text_from_image),
        row("chance", r.chance, (s.gallery + 1) as f64 / 2.0),
    ];
    print_table(&["retrieval", "R@1", "R@10", "R@50", "median rank"], &rows);
    say!("");
    let t = &s.zero_shot.thresholded;
    let rows = [
        ("weighted F1", t.f1_weighted),
        ("accuracy", Some(t.accuracy)),
        ("micro precision", t.precision_micro),
        ("micro recall", t.recall_micro),
    ];
    print_table(&["zero-shot at one half", ""], &rows.map(|(name, value)| vec![name.to_string(), cell(value)]));
    say!("");
    print_labels(&s.zero_shot);
}

fn cell(v: Option<f64>) -> String {
    v.map_or("not defined".into(), |v| format!("{v:.4}"))
}

fn print_labels(z: &ZeroShot) {
    let labels = z.labels.iter().map(|l| vec![l.name.clone(), l.positives.to_string(), cell(l.auc), cell(l.ap)]);
    let means = [("macro", z.auc_macro, z.ap_macro), ("micro", z.auc_micro, z.ap_micro)];
    let means = means.map(|(name, auc, ap)| vec![name.to_string(), String::new(), cell(auc), cell(ap)]);
    print_table(&["zero-shot", "positives", "AUC", "AP"], &labels.chain(means).collect::<Vec<_>>());
}
