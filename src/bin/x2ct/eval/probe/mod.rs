//! `x2ct eval probe`, `finetune` and `external`: linear probes of frozen features.

mod arguments;
mod material;
mod outputs;
mod portions;
mod score;
mod split;

pub use arguments::{ExternalArgs, FinetuneArgs, ProbeArgs};

use std::path::Path;
use std::process::ExitCode;

use serde_json::json;
use x2ct::data::features::FeatureSet;
use x2ct::data::label_map::LabelMap;
use x2ct::data::provenance::{Provenance, fields};
use x2ct::eval::detection::Detection;
use x2ct::eval::linear_probe::{LinearProbe, Recipe};

use crate::Common;
use crate::chain::Chain;
use crate::effect::{self, Rule};
use crate::label_table;
use crate::metrics::print_detections;
use crate::output::{Report, usage};
use crate::terminal::print_table;
use arguments::{Measuring, Training};
use material::Material;
use outputs::{Outputs, percent};
use portions::Course;
use score::{Columns, Row, Scoring};

/// `x2ct eval probe`.
pub fn run(args: ProbeArgs, common: &Common) -> anyhow::Result<ExitCode> {
    within_one_set("probe", &args, "c", common)
}

/// `x2ct eval finetune`.
pub fn finetune(args: FinetuneArgs, common: &Common) -> anyhow::Result<ExitCode> {
    within_one_set("finetune", &args.probe, "dcformer", common)
}

/// `x2ct eval external`.
pub fn external(args: ExternalArgs, common: &Common) -> anyhow::Result<ExitCode> {
    match &args.trained {
        Some(probe) => trained_before(&args, probe, common),
        None => trained_now(&args, common),
    }
}

/// Training and test on the same labels, of two sets of features, or of one whose remainder is the test set.
fn within_one_set(protocol: &str, args: &ProbeArgs, recipe: &str, common: &Common) -> anyhow::Result<ExitCode> {
    let ProbeArgs { features, labels, training, measuring, .. } = args;
    let tested = args.test_features.as_deref().zip(args.test_labels.as_deref()).map(|(file, table)| [file, table]);
    let portions = expect_portions(training, tested.is_some())?;
    let recipe = training.recipe(recipe)?;
    let files = tested.iter().flatten().copied().chain([features.as_path(), labels.as_path()]);
    let outputs = expect_sense(&files.collect::<Vec<_>>(), training, measuring, &portions, &recipe)?;
    let device = common.device()?;
    let mut chain = Chain::new(measuring.trust);
    let labels_read = label_table::read(labels, measuring.names()?.as_deref(), &mut chain)?;
    let train = Material::read("features", [features, labels], measuring.tower, labels_read, &mut chain)?;
    let test = match tested {
        None => None,
        Some(files) => {
            let labels = label_table::read(files[1], Some(&train.set.names), &mut chain)?;
            let test = Material::read("test features", files, measuring.tower, labels, &mut chain)?;
            let trained = (train.file, train.set.features.dim, &train.set.features.provenance());
            test.expect_like(trained, measuring.force, &mut chain)?;
            Some(test)
        }
    };
    let recipe = &recipe;
    let course = Course { device: &device, protocol, recipe, training, measuring, train: &train, test: test.as_ref() };
    let rows = course.run(&portions, &outputs, &mut chain)?;
    finish(&rows, &train.set.features.encoder, Some(recipe), chain, common)
}

/// A probe of merged labels is trained, and evaluated on the other set.
fn trained_now(args: &ExternalArgs, common: &Common) -> anyhow::Result<ExitCode> {
    let ExternalArgs { training, measuring, .. } = args;
    let (Some(features), Some(labels), Some(map)) = (&args.features, &args.labels, &args.map) else {
        return Err(usage("pass --features, --labels and --map, or --trained"));
    };
    let portions = expect_portions(training, true)?;
    let recipe = &training.recipe("c")?;
    let files = [features, labels, &args.test_features, &args.test_labels, map].map(|path| path.as_path());
    let outputs = expect_sense(&files, training, measuring, &portions, recipe)?;
    let map = restricted(LabelMap::open(map)?, measuring)?;
    let device = common.device()?;
    let mut chain = Chain::new(measuring.trust);
    let labels_read = map.merge(label_table::read(labels, Some(&map.sources()), &mut chain)?)?;
    let train = Material::read("features", [features, labels], measuring.tower, labels_read, &mut chain)?;
    let trained = (train.file, train.set.features.dim, &train.set.features.provenance());
    let test = test_of(args, &map.names(), trained, &mut chain)?;
    let course =
        Course { device: &device, protocol: "external", recipe, training, measuring, train: &train, test: Some(&test) };
    let rows = course.run(&portions, &outputs, &mut chain)?;
    finish(&rows, &train.set.features.encoder, Some(recipe), chain, common)
}

/// A probe of a file is evaluated as it is.
fn trained_before(args: &ExternalArgs, path: &Path, common: &Common) -> anyhow::Result<ExitCode> {
    let measuring = &args.measuring;
    let acts = FeatureSet::has_towers(&args.test_features)?;
    effect::check(&[Rule::new("tower", acts, "features of an embedding cache")])?;
    let outputs = Outputs::new(&[1.0], measuring.scores.as_deref(), None);
    let inputs = [path, &args.test_features, &args.test_labels].into_iter().chain(args.map.as_deref());
    outputs.check(inputs.chain(measuring.label_set.as_deref()))?;
    measuring.intervals.bootstrap(measuring.seed)?;
    let map = args.map.as_deref().map(LabelMap::open).transpose()?;
    let map = map.map(|map| restricted(map, measuring)).transpose()?;
    let device = common.device()?;
    let mut chain = Chain::new(measuring.trust);
    let probe = LinearProbe::read(path)?;
    let made = probe.provenance();
    chain.settle(path, Ok(made.undecided("probe")))?;
    chain.holds("probe", &made.digest);
    let wanted = match &map {
        Some(map) => map.names(),
        None => measuring.names()?.unwrap_or_else(|| probe.names.clone()),
    };
    let columns = Columns::of(path, &probe, &wanted, map.as_ref())?;
    let of_encoder = || Provenance::unknown(fields(json!({"encoder": probe.encoder})));
    let features = made.from.get("features").cloned().unwrap_or_else(of_encoder);
    let test = test_of(args, &wanted, (path, probe.dim, &features), &mut chain)?;
    let course = fields(json!({"test": portions::counts(&test.set), "trained": path}));
    let settings = fields(json!({"protocol": "external"}));
    let scoring = Scoring { device: &device, columns: &columns, measuring };
    let row = scoring.row(&probe, &test.set, (settings, course), outputs.of(0).scores.as_deref(), &chain)?;
    finish(&[row], &probe.encoder, None, chain, common)
}

/// The other data set of an external validation, with these labels.
fn test_of<'a>(
    args: &'a ExternalArgs,
    names: &[String],
    trained: (&Path, usize, &Provenance),
    chain: &mut Chain,
) -> x2ct::Result<Material<'a>> {
    let files = [args.test_features.as_path(), args.test_labels.as_path()];
    let labels = label_table::read(files[1], Some(names), chain)?;
    let mut test = Material::read("test features", files, args.measuring.tower, labels, chain)?;
    test.expect_like(trained, args.measuring.force, chain)?;
    if args.clean {
        test.clean(chain)?;
    }
    Ok(test)
}

fn restricted(map: LabelMap, measuring: &Measuring) -> x2ct::Result<LabelMap> {
    match (measuring.names()?, &measuring.label_set) {
        (Some(names), Some(file)) => map.restricted(&names).map_err(|e| e.of_file(file)),
        _ => Ok(map),
    }
}

/// The portions asked for.
fn expect_portions(training: &Training, has_test: bool) -> anyhow::Result<Vec<f64>> {
    let portions = &training.portion;
    if let Some((_, twice)) = portions.iter().enumerate().find(|(at, portion)| portions[..*at].contains(portion)) {
        return Err(usage(format!("--portion {twice} is given twice")));
    }
    match (portions.is_empty(), has_test) {
        (true, true) => Ok(vec![1.0]),
        (true, false) => Err(usage(
            "without --test-features the test set is what a portion leaves: give --portion, such as --portion 0.2",
        )),
        (false, false) if portions.contains(&1.0) => {
            Err(usage("--portion 1 leaves no sample to test on: give less, or --test-features and --test-labels"))
        }
        _ => Ok(portions.clone()),
    }
}

/// Refuses options that have no effect or contradict one another, and outputs that cannot be; gives the outputs.
fn expect_sense(
    files: &[&Path],
    training: &Training,
    measuring: &Measuring,
    portions: &[f64],
    recipe: &Recipe,
) -> anyhow::Result<Outputs> {
    let splits = recipe.validation > 0.0 || portions.iter().any(|&portion| portion < 1.0);
    let caches = files
        .iter()
        .map(|file| Ok(file.is_file() && FeatureSet::has_towers(file)?))
        .collect::<x2ct::Result<Vec<bool>>>()?;
    effect::check(&[
        Rule::new("order", splits, "a --portion below 1, or a recipe with a validation"),
        Rule::new("tower", caches.contains(&true), "features of an embedding cache"),
    ])?;
    measuring.intervals.bootstrap(measuring.seed)?;
    let outputs = Outputs::new(portions, measuring.scores.as_deref(), training.probe.as_deref());
    let options = [&training.recipe, &measuring.label_set].into_iter().flatten().map(|path| path.as_path());
    outputs.check(files.iter().copied().chain(options))?;
    Ok(outputs)
}

fn finish(
    rows: &[Row],
    encoder: &str,
    recipe: Option<&Recipe>,
    chain: Chain,
    common: &Common,
) -> anyhow::Result<ExitCode> {
    let mut report = Report::new("eval").with("encoder", encoder)?;
    if let Some(recipe) = recipe {
        report = report.with("recipe", recipe)?;
    }
    chain.report(report.with("rows", rows)?)?.finish(common.json, || print(rows, encoder))
}

fn print(rows: &[Row], encoder: &str) {
    say!("encoder: {encoder}");
    let count = |row: &Row, part: &str| row.course.get(part).map_or("-".into(), |part| part["samples"].to_string());
    let number = |row: &Row, key: &str| row.course.get(key).map_or("-".into(), ToString::to_string);
    let head = |row: &Row| {
        let portion = row.course.get("portion").and_then(|portion| portion.as_f64());
        portion.map_or("probe".to_string(), |portion| format!("{} %", percent(portion)))
    };
    let courses = rows.iter().map(|row| {
        let counts = ["train", "validation", "test"].map(|part| count(row, part));
        let labels = format!("{} of {}", row.found.labels_defined, row.found.labels.len());
        let rest = [number(row, "best_epoch"), number(row, "epochs"), labels];
        [head(row)].into_iter().chain(counts).chain(rest).collect::<Vec<_>>()
    });
    let header = ["portion", "train", "validation", "test", "best epoch", "epochs", "labels with both classes"];
    print_table(&header, &courses.collect::<Vec<_>>());
    say!("");
    let found: Vec<Detection> = rows.iter().map(|row| row.found.clone()).collect();
    print_detections(&rows.iter().map(head).collect::<Vec<_>>(), &found);
}
