//! `x2ct eval retrieval`: whether a radiograph finds its CT and its report among all, and they it; or a teacher's CTs and reports
//! each other.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde::Serialize;
use serde_json::json;
use x2ct::data::cache::EmbeddingCache;
use x2ct::data::ct_rate::VolumeName;
use x2ct::data::features::FeatureSet;
use x2ct::data::provenance::fields;
use x2ct::data::rows;
use x2ct::eval::bootstrap::Interval;
use x2ct::eval::retrieval::{self, CUTS, Found, Gallery, Recall};
use x2ct::eval::retrieval_file::{Modality, NEAREST, RetrievalFile};
use x2ct::eval::scores::Kinds;
use x2ct::{Error, files, table};

use super::{note_collapse, scores};
use crate::Common;
use crate::arguments::named;
use crate::chain::Chain;
use crate::metrics::{Options, with_interval};
use crate::output::{Report, check_distinct};
use crate::teacher::expect_teacher;
use crate::terminal::print_table;

/// Retrieval both ways: recall at 1, 5, 10, 50 and 100 with intervals, and the median rank; no labels are needed
///
/// With --features, radiographs are searched by CT and by report, and CTs and reports by radiograph. With --cache alone, CTs are
/// searched by report (IR) and reports by CT (TR). The right item of a query is the one with its id, ranked by cosine; an item that
/// ties with it does not count against it. Intervals are of queries drawn by patient, who search the one gallery there is.
///
/// A radiograph without an embedding in the cache is left out and named; the exit code is then 1.
#[derive(clap::Args)]
pub struct RetrievalArgs {
    /// Features of radiographs (`x2ct embed`)
    #[arg(long, value_name = "FILE")]
    features: Option<PathBuf>,
    /// The teacher's embeddings of CTs and reports of the same volumes
    #[arg(long, value_name = "FILE")]
    cache: PathBuf,
    /// What stands in the gallery once and is a query once
    #[arg(long, default_value = "volume", value_parser = named::<Gallery>(Gallery::NAMES))]
    gallery: Gallery,
    /// Also write, of each way, the rank of every query's own item and the 10 items nearest to it: NAME-cxr-to-ct.safetensors
    /// and .csv, and so on
    #[arg(long, value_name = "NAME")]
    ranks: Option<PathBuf>,
    /// Also write the shares as a comma-separated table, with the digests of what was evaluated
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,
    #[command(flatten)]
    options: Options,
}

/// Queries of one kind in a gallery of another.
#[derive(Clone, Copy)]
struct Way {
    query: Modality,
    gallery: Modality,
}

impl Way {
    /// Name of the way in reports.
    fn key(self) -> &'static str {
        match (self.query, self.gallery) {
            (Modality::Cxr, Modality::Ct) => "cxr_to_ct",
            (Modality::Ct, Modality::Cxr) => "ct_to_cxr",
            (Modality::Cxr, _) => "cxr_to_report",
            (Modality::Report, Modality::Cxr) => "report_to_cxr",
            (Modality::Report, _) => "image_from_text",
            (Modality::Ct, _) => "text_from_image",
        }
    }

    /// Name of the way in tables.
    fn title(self) -> String {
        let name = |modality| match modality {
            Modality::Cxr => "CXR",
            Modality::Ct => "CT",
            Modality::Report => "report",
        };
        format!("{} to {}", name(self.query), name(self.gallery))
    }

    /// The files of its ranks.
    fn files(self, name: &Path) -> [PathBuf; 2] {
        scores::files_of(name, &format!("-{}-to-{}", self.query.name(), self.gallery.name()))
    }
}

/// Recall of one way.
#[derive(Serialize)]
struct Outcome {
    #[serde(flatten)]
    recall: Recall,
    /// Intervals of the shares, by their names.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    intervals: BTreeMap<&'static str, Option<Interval>>,
}

/// Embeddings of the same volumes, `[ids, dim]`, L2-normalised.
struct Joined {
    ids: Vec<String>,
    dim: usize,
    cxr: Option<Vec<f32>>,
    ct: Vec<f32>,
    report: Vec<f32>,
}

impl Joined {
    fn of(&self, modality: Modality) -> &[f32] {
        match modality {
            Modality::Cxr => self.cxr.as_deref().unwrap_or_default(),
            Modality::Ct => &self.ct,
            Modality::Report => &self.report,
        }
    }

    /// What is searched by what; each pair of ways is computed at once.
    fn ways(&self) -> Vec<[Way; 2]> {
        let both = |query, gallery| [Way { query, gallery }, Way { query: gallery, gallery: query }];
        match self.cxr {
            Some(_) => vec![both(Modality::Cxr, Modality::Ct), both(Modality::Cxr, Modality::Report)],
            None => vec![both(Modality::Report, Modality::Ct)],
        }
    }

    /// The first of each of what stands in the gallery once.
    fn among(self, gallery: Gallery) -> Self {
        let members = gallery.members(&self.ids);
        if members.len() == self.ids.len() {
            return self;
        }
        let select = |all: &[f32]| rows::select(all, self.dim, &members);
        Joined {
            ids: members.iter().map(|&row| self.ids[row].clone()).collect(),
            cxr: self.cxr.as_deref().map(select),
            ct: select(&self.ct),
            report: select(&self.report),
            ..self
        }
    }
}

pub fn run(args: RetrievalArgs, common: &Common) -> anyhow::Result<ExitCode> {
    common.expect_device()?;
    let bootstrap = args.options.bootstrap()?;
    check_outputs(&args)?;
    let mut chain = Chain::new(args.options.trust);
    let joined = join(&args, &mut chain)?.among(args.gallery);
    let Joined { ids, dim, .. } = &joined;
    let patients: Vec<String> = ids.iter().map(|id| VolumeName::patient_of(id)).collect();
    let mut outcomes = Vec::new();
    for ways in joined.ways() {
        let [first, second] = [ways[0].query, ways[0].gallery].map(|modality| joined.of(modality));
        let k = if args.ranks.is_some() { NEAREST } else { 0 };
        for (way, found) in ways.into_iter().zip(retrieval::paired(first, second, *dim, k)?) {
            let intervals = bootstrap.as_ref().map(|bootstrap| Recall::intervals(&found.above, &patients, bootstrap));
            let (recall, intervals) = (Recall::from_ranks(&found.above)?, intervals.transpose()?.unwrap_or_default());
            outcomes.push((way, Outcome { recall, intervals }));
            if let Some(name) = &args.ranks {
                write_ranks(name, way, ids, found, args.gallery, &chain)?;
            }
        }
    }
    finish(&args, common, &joined, &patients, &outcomes, chain)
}

/// Tries the outputs before the work, and that none is another or an input.
fn check_outputs(args: &RetrievalArgs) -> anyhow::Result<()> {
    let names = |name: &PathBuf| {
        let all = Modality::NAMES.iter().flat_map(|query| Modality::NAMES.map(|gallery| (*query, gallery)));
        let pairs = all.filter(|(query, gallery)| {
            query != gallery && (args.features.is_some() == (*query == "cxr" || *gallery == "cxr"))
        });
        pairs.flat_map(|(query, gallery)| scores::files_of(name, &format!("-{query}-to-{gallery}"))).collect::<Vec<_>>()
    };
    let outputs: Vec<PathBuf> = args.csv.iter().cloned().chain(args.ranks.iter().flat_map(names)).collect();
    check_distinct("--csv and --ranks", &outputs)?;
    outputs.iter().try_for_each(files::check_writable)?;
    files::check_all_apart(&outputs, args.features.iter().chain([&args.cache]).cloned())?;
    Ok(())
}

/// Reads the embeddings and joins them by id.
///
/// # Errors
/// Features and embeddings that do not belong together; no radiograph with embeddings.
fn join(args: &RetrievalArgs, chain: &mut Chain) -> x2ct::Result<Joined> {
    let features = || args.features.as_ref().map(|path| (path, FeatureSet::read(path)));
    let (cache, features) = rayon::join(|| EmbeddingCache::read(&args.cache), features);
    let cache = cache?;
    let of_cache = cache.provenance();
    let Some((path, features)) = features else {
        chain.settle(&args.cache, Ok(of_cache.undecided("cache")))?;
        chain.holds("cache", &of_cache.digest);
        let (ids, dim, ct, report) = (cache.ids.clone(), cache.dim, cache.ct.clone(), cache.report.clone());
        return Ok(Joined { ids, dim, cxr: None, ct, report });
    };
    let features = features?;
    expect_teacher((path, &features), (&args.cache, &of_cache, cache.dim), chain)?;
    chain.holds("features", &features.provenance().digest);
    chain.holds("cache", &of_cache.digest);
    let rows: HashMap<&str, usize> = cache.index();
    let lacks = |id: &String| Error::File {
        path: args.cache.clone(),
        field: Some(id.clone()),
        problem: format!("has no embedding for this radiograph of {}", path.display()),
        hint: "pass the cache of the same volumes, or complete it".into(),
    };
    let kept = chain.keep("radiographs", &features.ids, |id| (!rows.contains_key(id.as_str())).then(|| lacks(id)))?;
    chain.lacks(path, &features.ids, &args.cache, &cache.ids);
    let features = features.select(&kept);
    let (rows, undecided) = cache.join("features", &features.ids, &features.cts).map_err(|e| e.of_file(&args.cache))?;
    chain.settle(&args.cache, Ok(undecided))?;
    let [ct, report] = [&cache.ct, &cache.report].map(|all| rows::select(all, cache.dim, &rows));
    let cxr = features.normalised().map_err(|e| e.of_file(path))?;
    Ok(Joined { ids: features.ids, dim: cache.dim, cxr: Some(cxr), ct, report })
}

fn write_ranks(
    name: &Path,
    way: Way,
    ids: &[String],
    found: Found,
    gallery: Gallery,
    chain: &Chain,
) -> x2ct::Result<()> {
    let made = chain.provenance(fields(json!({"protocol": "retrieval", "gallery_of": gallery.name()})));
    let file = RetrievalFile::of_pairs([way.query, way.gallery], ids, found, made);
    let [archive, table] = way.files(name);
    file.write(archive)?;
    files::write_atomic(table, file.csv()?.as_bytes())
}

fn finish(
    args: &RetrievalArgs,
    common: &Common,
    joined: &Joined,
    patients: &[String],
    outcomes: &[(Way, Outcome)],
    mut chain: Chain,
) -> anyhow::Result<ExitCode> {
    let Joined { ids, dim, cxr, ct, report } = joined;
    let (distinct, mean_cosine) = (
        Kinds::of(cxr.as_deref(), ct, report, |rows| retrieval::distinct(rows, *dim)),
        Kinds::of(cxr.as_deref(), ct, report, |rows| retrieval::mean_cosine(rows, *dim)),
    );
    let files = Kinds { radiographs: args.features.as_deref(), ct: args.cache.as_path(), report: &args.cache };
    note_collapse(&mut chain, ids.iter(), distinct, mean_cosine, files);
    if let Some(path) = &args.csv {
        files::write_atomic(path, csv(outcomes, ids.len(), &chain)?.as_bytes())?;
    }
    let patients = patients.iter().collect::<std::collections::HashSet<_>>().len();
    let chance: BTreeMap<&str, f64> = CUTS.iter().map(|&(name, k)| (name, retrieval::chance(k, ids.len()))).collect();
    let mut ways = fields(json!({"distinct": distinct, "mean_cosine": mean_cosine}));
    for (way, outcome) in outcomes {
        ways.insert(way.key().into(), json!(outcome));
    }
    let object = json!({
        "gallery": ids.len(), "gallery_of": args.gallery.name(), "patients": patients, "chance": chance, "retrieval": ways,
    });
    let report = Report::new("eval").with_all(object)?;
    chain.report(report)?.finish(common.json, || {
        say!("gallery: {} ({} once), of {patients} patients", ids.len(), args.gallery.name());
        print(outcomes, ids.len());
    })
}

/// One line a way: its queries, each share with the ends of its interval, the median rank, and the digests.
fn csv(outcomes: &[(Way, Outcome)], queries: usize, chain: &Chain) -> x2ct::Result<String> {
    let (names, digests): (Vec<String>, Vec<String>) =
        chain.digests().map(|(name, digest)| (format!("digest_{name}"), digest.to_string())).unzip();
    let of_shares = CUTS.iter().flat_map(|(name, _)| [name.to_string(), format!("{name}_low"), format!("{name}_high")]);
    let header = ["way".to_string(), "queries".into()].into_iter().chain(of_shares).chain(["median_rank".into()]);
    let header = header.chain(names).collect();
    let lines = outcomes.iter().map(|(way, Outcome { recall, intervals })| {
        let shares = CUTS.iter().zip(recall.shares()).flat_map(|((name, _), share)| {
            let interval = intervals.get(name).copied().flatten();
            let ends = interval.map_or([String::new(), String::new()], |i| [i.low, i.high].map(|end| end.to_string()));
            std::iter::once(share.to_string()).chain(ends)
        });
        let line = [way.key().to_string(), queries.to_string()].into_iter().chain(shares);
        line.chain([recall.median_rank.to_string()]).chain(digests.clone()).collect()
    });
    table::csv(std::iter::once(header).chain(lines))
}

fn print(outcomes: &[(Way, Outcome)], gallery: usize) {
    let row = |(way, Outcome { recall, intervals }): &(Way, Outcome)| {
        let shares = CUTS.iter().zip(recall.shares());
        let shares =
            shares.map(|((name, _), share)| with_interval(Some(share), intervals.get(name).copied().flatten()));
        std::iter::once(way.title()).chain(shares).chain([format!("{:.1}", recall.median_rank)]).collect::<Vec<_>>()
    };
    let chance = CUTS.iter().map(|&(_, k)| format!("{:.4}", retrieval::chance(k, gallery)));
    let chance =
        std::iter::once("chance".to_string()).chain(chance).chain([format!("{:.1}", (gallery + 1) as f64 / 2.0)]);
    let rows: Vec<Vec<String>> = outcomes.iter().map(row).chain([chance.collect()]).collect();
    print_table(&["retrieval", "R@1", "R@5", "R@10", "R@50", "R@100", "median rank"], &rows);
}
