//! Linear probes of the tables: few-shot adaptation and external validation.

use std::collections::{BTreeSet, HashSet};
use std::path::PathBuf;

use serde_json::json;
use x2ct::Error;
use x2ct::data::features::FeatureSet;
use x2ct::data::id_table::IdTable;
use x2ct::data::label_map::LabelMap;
use x2ct::data::radchest_labels::FEW_SHOT;
use x2ct::eval::linear_probe::{LinearProbe, Recipe, Samples};
use x2ct::eval::score_file::ScoreFile;
use x2ct::eval::stratify::Stratify;
use x2ct::labels::NAMES;

use x2ct::table::first_of;

use super::paper::{DataName, Source};
use super::work::{Found, LabelRows, Trouble, Workshop, made_of, patients, read_kept, write_kept};

/// How probes are trained and their parts drawn.
#[derive(clap::Args, Clone)]
pub struct Settings {
    /// How linear probes are trained: a recipe of `x2ct eval probe`, or a TOML file [default: c, and radchest on RadChest-CT]
    #[arg(long, value_name = "RECIPE")]
    recipe: Option<PathBuf>,
    /// Order of the iterative stratification that draws parts: 1 of labels, 2 of pairs of labels too, as the paper's code
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=2))]
    order: u8,
    /// Keep the images of a patient on one side of every split, which the paper does not
    #[arg(long)]
    by_patient: bool,
    /// Of splits, probes and intervals
    #[arg(long, default_value_t = 1024)]
    pub seed: u64,
}

impl Settings {
    /// Refuses a recipe that cannot be read.
    ///
    /// # Errors
    /// Those of [`Recipe::open`].
    pub fn check(&self) -> x2ct::Result<()> {
        self.recipe(DataName::CtRate).map(drop)
    }

    fn recipe(&self, data: DataName) -> x2ct::Result<Recipe> {
        let default = if data == DataName::RadchestCt { "radchest" } else { "c" };
        Recipe::open(self.recipe.clone().unwrap_or_else(|| default.into()))
    }

    /// The rows of a share, and the others.
    fn split(&self, share: f64, set: &Set, rows: Vec<usize>) -> x2ct::Result<[Vec<usize>; 2]> {
        let stratify = Stratify::share(share, usize::from(self.order), self.seed);
        let patients = self.by_patient.then(|| patients(&set.features.ids));
        stratify.divide(rows, (&set.labels.cells, set.labels.names.len()), patients.as_deref())
    }
}

/// Features with labels.
struct Set {
    /// The file of the features, or of the radiographs behind them.
    file: PathBuf,
    features: FeatureSet,
    labels: LabelRows,
}

impl Set {
    fn of(shop: &mut Workshop, source: &Source, (data, part): (DataName, &str), table: IdTable<bool>) -> Found<Self> {
        let filed = shop.features(source, data, part)?;
        let (features, labels) = shop.labelled(&filed, &table.into())?;
        Ok(Set { file: filed.file.clone(), features, labels })
    }

    fn select(&self, rows: &[usize]) -> (FeatureSet, Vec<bool>) {
        let width = self.labels.names.len();
        let cells = rows.iter().flat_map(|row| self.labels.cells[row * width..(row + 1) * width].to_vec()).collect();
        (self.features.select(rows), cells)
    }
}

/// Scores of a probe on a portion of the training part, on the test part; of a data set without a training part on the rest of the
/// test part.
pub fn few_shot(
    shop: &mut Workshop,
    source: &Source,
    data: DataName,
    portion: f64,
    settings: &Settings,
) -> Found<ScoreFile> {
    let part = if data == DataName::CtRate { "train" } else { data.test() };
    let table = few_shot_labels(shop, data, part)?;
    let names = table.names.clone();
    let train = Set::of(shop, source, (data, part), table)?;
    let test = match data {
        DataName::CtRate => {
            let table = shop.table(data, data.test(), Some(&names))?;
            Some(Set::of(shop, source, (data, data.test()), table)?)
        }
        _ => None,
    };
    let name = format!("few-shot-{}", portion * 100.0);
    probe(shop, source, (data, data), (&name, portion), (&train, test.as_ref()), settings)
}

/// Scores of a probe on a portion of CT-RATE's training part, whose labels are merged to those of the other data set, on that.
pub fn external(
    shop: &mut Workshop,
    source: &Source,
    (data, map): (DataName, &str),
    portion: f64,
    settings: &Settings,
) -> Found<ScoreFile> {
    let map = LabelMap::open(map)?;
    let table = shop.table(DataName::CtRate, "train", Some(&map.sources()))?;
    let train = Set::of(shop, source, (DataName::CtRate, "train"), map.merge(table)?)?;
    let table = shop.table(data, data.test(), Some(&map.names()))?;
    let test = Set::of(shop, source, (data, data.test()), table)?;
    let name = format!("external-{}", portion * 100.0);
    probe(shop, source, (data, DataName::CtRate), (&name, portion), (&train, Some(&test)), settings)
}

/// CT-RATE's labels, or those of the few-shot list that the table has.
fn few_shot_labels(shop: &mut Workshop, data: DataName, part: &str) -> Found<IdTable<bool>> {
    if data != DataName::RadchestCt {
        return shop.table(data, part, Some(&NAMES.map(String::from)));
    }
    let table = shop.table(data, part, None)?;
    let (known, lacking): (Vec<&str>, Vec<&str>) =
        FEW_SHOT.into_iter().partition(|label| table.names.iter().any(|name| name == label));
    if known.is_empty() {
        return Err(Trouble::Missing(format!(
            "{} has none of the labels {}",
            table.path.display(),
            FEW_SHOT.join(", ")
        )));
    }
    if !lacking.is_empty() {
        shop.chain.note(&table.path, &format!("lacks labels of the few-shot list: {}", lacking.join(", ")));
    }
    Ok(table.restricted(&known.into_iter().map(String::from).collect::<Vec<_>>())?)
}

fn probe(
    shop: &mut Workshop,
    source: &Source,
    (data, trained_on): (DataName, DataName),
    (name, portion): (&str, f64),
    (train, test): (&Set, Option<&Set>),
    settings: &Settings,
) -> Found<ScoreFile> {
    let recipe = settings.recipe(trained_on)?;
    if let Some(test) = test {
        expect_one_encoder(train, test)?;
        tell_shared_patients(shop, (train, test), settings)?;
    }
    let made = json!({
        "protocol": name, "portion": portion, "order": settings.order, "by_patient": settings.by_patient, "recipe": recipe,
        "seed": settings.seed, "labels": train.labels.names,
    });
    let digests = |set: &Set, roles: [&'static str; 2]| {
        roles.into_iter().zip([set.features.provenance().digest, set.labels.digest.clone()]).collect::<Vec<_>>()
    };
    let of_test = test.map(|test| digests(test, ["test features", "test labels"])).unwrap_or_default();
    let parts = digests(train, ["features", "labels"]).into_iter().chain(of_test);
    let kept = shop.kept(source, &format!("{}-{name}", data.name()), made_of(made, parts));
    if let Some(file) = read_kept(&kept) {
        return Ok(file);
    }
    let all: Vec<usize> = (0..train.features.ids.len()).collect();
    let [kept_rows, rest] = settings.split(portion, train, all)?;
    let [validation, fitted] = settings.split(recipe.validation, train, kept_rows)?;
    let (test_features, test_labels) = match test {
        Some(test) => (test.features.clone(), test.labels.cells.clone()),
        None => train.select(&rest),
    };
    if fitted.is_empty() || test_features.ids.is_empty() {
        let counts = format!("{} samples to train on and {} to test on", fitted.len(), test_features.ids.len());
        return Err(Trouble::Missing(format!("a portion of {portion} leaves {counts}")));
    }
    if recipe.validation > 0.0 && validation.is_empty() {
        let says = format!("a portion of {portion} of {} samples leaves none to validate", train.features.ids.len());
        return Err(Trouble::Missing(says));
    }
    tell_without_positive(shop, (name, train), &fitted);
    let probe = fit(shop, train, (&fitted, &validation), (&recipe, settings.seed))?;
    let logits = probe.logits(shop.device, &test_features.features)?;
    let labels = LabelRows { cells: test_labels, ..train.labels.clone() };
    write_kept(kept, test_features.ids, labels, logits.into_iter().map(f64::from).collect())
}

fn expect_one_encoder(train: &Set, test: &Set) -> x2ct::Result<()> {
    let (of_train, of_test) = (&train.features, &test.features);
    if (&of_train.encoder, of_train.dim) == (&of_test.encoder, of_test.dim) {
        return Ok(());
    }
    let problem = format!(
        "is of {} ({} numbers), and what the probe is trained on, {}, of {} ({})",
        of_test.encoder,
        of_test.dim,
        train.file.display(),
        of_train.encoder,
        of_train.dim
    );
    Err(Error::file(&test.file, problem, "make both with the same encoder"))
}

/// Says, or with patients kept apart refuses, that a patient is trained and tested on.
fn tell_shared_patients(shop: &mut Workshop, (train, test): (&Set, &Set), settings: &Settings) -> x2ct::Result<()> {
    let trained: HashSet<String> = patients(&train.features.ids).into_iter().collect();
    let tested: BTreeSet<String> = patients(&test.features.ids).into_iter().collect();
    let shared: Vec<&String> = tested.iter().filter(|patient| trained.contains(*patient)).collect();
    if shared.is_empty() {
        return Ok(());
    }
    let (count, first) = (shared.len(), first_of(&shared));
    let says = format!("{count} of its patients are trained on too, in {}: {first}", train.file.display());
    match settings.by_patient {
        true => Err(Error::file(&test.file, says, "part them, or leave out --by-patient")),
        false => {
            shop.chain.note(&test.file, &says);
            Ok(())
        }
    }
}

/// Says which labels nothing can be learned of.
fn tell_without_positive(shop: &mut Workshop, (name, train): (&str, &Set), fitted: &[usize]) {
    let width = train.labels.names.len();
    let without: Vec<&String> = (0..width)
        .filter(|label| !fitted.iter().any(|row| train.labels.cells[row * width + label]))
        .map(|label| &train.labels.names[label])
        .collect();
    if !without.is_empty() {
        let (samples, count) = (fitted.len(), without.len());
        let says =
            format!("{name}: {count} label(s) have no positive among the {samples} samples: {}", first_of(without));
        shop.chain.note(&train.labels.file, &says);
    }
}

fn fit(
    shop: &Workshop,
    train: &Set,
    (fitted, validation): (&[usize], &[usize]),
    (recipe, seed): (&Recipe, u64),
) -> x2ct::Result<LinearProbe> {
    let ((x, y), (vx, vy)) = (train.select(fitted), train.select(validation));
    let (names, dim) = (&train.labels.names, train.features.dim);
    let of = |features, labels| Samples { names, dim, features, labels };
    let held_out = (!validation.is_empty()).then(|| of(&vx.features[..], &vy[..]));
    let mut watch = |_: &_| -> Result<(), Error> { shop.expect_going() };
    LinearProbe::fit(shop.device, &of(&x.features, &y), held_out.as_ref(), recipe, seed, &mut watch)
}
