//! The options of linear probes.

use std::path::{Path, PathBuf};

use clap::builder::{PossibleValuesParser, TypedValueParser};
use x2ct::data::features::Tower;
use x2ct::data::radchest_labels::{FEW_SHOT, PURE};
use x2ct::data::rows;
use x2ct::eval::linear_probe::Recipe;
use x2ct::{Error, files};

use crate::arguments::{count, named, within};
use crate::chain::Trust;
use crate::metrics::Intervals;

/// Train a linear layer on frozen features for each label, and evaluate it: X2CT-CLIP's few-shot classification
///
/// Features are a file of them (x2ct-features-1), or an embedding cache, of which --tower says whose. A portion of the samples is
/// selected by iterative stratification, so that each label (and each pair of labels) keeps its frequency; the recipe's share of it is
/// split off likewise as validation, which decides when training stops and which weights are kept. The test set is --test-features, or
/// all samples that the portion leaves out.
///
/// All metrics are those of `x2ct metrics`. Of several portions each has its own row, and its own files: NAME-20.safetensors of 0.2.
#[derive(clap::Args)]
pub struct ProbeArgs {
    /// Features of the samples to train on: a file of features, or an embedding cache
    #[arg(long, value_name = "FILE")]
    pub features: PathBuf,
    /// Labels of those samples: any table of ids and 0 or 1, or RadChest-CT's
    #[arg(long, value_name = "TABLE")]
    pub labels: PathBuf,
    /// Features of the test set [default: the samples that no portion selects]
    #[arg(long, value_name = "FILE", requires = "test_labels")]
    pub test_features: Option<PathBuf>,
    /// Labels of the test set; columns are found by name, in any order
    #[arg(long, value_name = "TABLE", requires = "test_features")]
    pub test_labels: Option<PathBuf>,
    #[command(flatten)]
    pub training: Training,
    #[command(flatten)]
    pub measuring: Measuring,
}

/// DCFormer's fine-tuning: as `probe`, with the recipe dcformer
///
/// The language-image model is frozen and a head is trained: ReLU, dropout of 0.3, one linear layer; positives are weighted as
/// CT-LiPro's. The frozen tower is in evaluation mode, so that what it gives a CT does not change from epoch to epoch: the embeddings
/// of a cache (`x2ct cache build`) are its features. (DCFormer's own code leaves the tower's running statistics to drift.)
#[derive(clap::Args)]
pub struct FinetuneArgs {
    #[command(flatten)]
    pub probe: ProbeArgs,
}

/// Train a linear layer on one data set, and evaluate it with fixed weights on the labels of another
///
/// A map says which labels of the training set stand for which of the test set. They are merged
/// by the maximum: a merged label is present where one of them is. Maps: radchest (CT-RATE to
/// RadChest-CT, 15 labels), mimic (the 11 of MIMIC-CT), or a TOML file such as
///
///   dataset = "RadChest-CT"
///   [[label]]
///   name = "calcification"
///   of = ["Arterial wall calcification", "Coronary artery wall calcification"]
///
/// With --trained a probe that --probe wrote is evaluated as it is; where it knows the map's
/// sources only, a merged label gets the largest of their scores.
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub struct ExternalArgs {
    /// Features of the samples to train on: a file of features, or an embedding cache
    #[arg(long, value_name = "FILE", requires = "labels", required_unless_present = "trained")]
    pub features: Option<PathBuf>,
    /// Labels of those samples, with all that the map names
    #[arg(long, value_name = "TABLE", requires = "features")]
    pub labels: Option<PathBuf>,
    /// A probe that was trained before, in place of --features and --labels
    #[arg(long, value_name = "PROBE", conflicts_with_all = ["features", "labels", "portion", "order", "group", "recipe", "probe"])]
    pub trained: Option<PathBuf>,
    /// Which labels stand for those of the test set: radchest, mimic, or a file
    #[arg(long, value_name = "MAP", required_unless_present = "trained")]
    pub map: Option<PathBuf>,
    /// Features of the other data set
    #[arg(long, value_name = "FILE")]
    pub test_features: PathBuf,
    /// Labels of the other data set, with all that the map is of
    #[arg(long, value_name = "TABLE")]
    pub test_labels: PathBuf,
    /// Leave out samples of the other data set that have none of the labels, as X2CT-CLIP's "clean" version
    #[arg(long)]
    pub clean: bool,
    #[command(flatten)]
    pub training: Training,
    #[command(flatten)]
    pub measuring: Measuring,
}

/// What is trained on, and how.
#[derive(clap::Args)]
pub struct Training {
    /// Shares of the samples to train on, above 0 and at most 1; several give a row each [default: 1 where there is a test set]
    #[arg(long, value_name = "SHARE", num_args = 1.., value_delimiter = ',', value_parser = within(1e-6, 1.0))]
    pub portion: Vec<f64>,
    /// Selection keeps the frequencies of labels (1) or of labels and pairs of labels (2)
    #[arg(long, default_value_t = 2, value_parser = count(1..=2))]
    pub order: usize,
    /// What stays together when samples are selected: nothing, or a patient's samples (ids named as CT-RATE's volumes), of which none
    /// are then on two sides
    #[arg(long, default_value = "none", value_parser = PossibleValuesParser::new(["none", "patient"]).map(|n| Group(n == "patient")))]
    pub group: Group,
    /// How to train: a, b, c, radchest (X2CT-CLIP's settings), dcformer, ct-lipro, logistic (scikit-learn's problem), or a TOML file
    /// [default: c; of finetune dcformer]
    #[arg(long, value_name = "RECIPE")]
    pub recipe: Option<PathBuf>,
    /// Also write the trained probe, for `x2ct eval external --trained`
    #[arg(long, value_name = "FILE")]
    pub probe: Option<PathBuf>,
}

/// Whether a patient's samples stay together.
#[derive(Clone, Copy, Debug)]
pub struct Group(pub bool);

/// What is evaluated, and what is written of it.
#[derive(clap::Args)]
pub struct Measuring {
    /// Whose embeddings of a cache are the features
    #[arg(long, default_value = Tower::NAMES[0], value_parser = named::<Tower>(Tower::NAMES))]
    pub tower: Tower,
    /// These labels alone: few-shot or pure (of RadChest-CT), or a file with one name a line [default: all of the table]
    #[arg(long, value_name = "LABELS")]
    pub label_set: Option<PathBuf>,
    /// Seed of selection, training and resamples
    #[arg(long, default_value_t = 1024)]
    pub seed: u64,
    /// Also write the scores of every sample of the test set: NAME.safetensors and NAME.csv, which `x2ct metrics` reads
    #[arg(long, value_name = "NAME")]
    pub scores: Option<PathBuf>,
    #[command(flatten)]
    pub intervals: Intervals,
    #[command(flatten)]
    pub trust: Trust,
    /// Evaluate features that were made with other settings than those trained on, and warn
    #[arg(long)]
    pub force: bool,
}

impl Training {
    /// The recipe asked for, or the one of this name.
    pub fn recipe(&self, default: &str) -> x2ct::Result<Recipe> {
        Recipe::open(self.recipe.as_deref().unwrap_or(Path::new(default)))
    }
}

impl Measuring {
    /// The labels that are asked for; `None` for all.
    ///
    /// # Errors
    /// A file that cannot be read, has no name, or one twice.
    pub fn names(&self) -> x2ct::Result<Option<Vec<String>>> {
        let Some(path) = &self.label_set else { return Ok(None) };
        let of = |names: &[&str]| names.iter().map(|name| name.to_string()).collect();
        match path.to_str() {
            Some("few-shot") => return Ok(Some(of(&FEW_SHOT))),
            Some("pure") => return Ok(Some(of(&PURE))),
            _ => (),
        }
        let refuse =
            |problem: String| Error::file(path, problem, "pass few-shot, pure, or a file with one label a line");
        let bytes = files::read(path).map_err(|e| refuse(format!("cannot be read as names of labels: {e}")))?;
        let text = String::from_utf8(bytes).map_err(|_| refuse("is no UTF-8 text".into()))?;
        let names: Vec<String> =
            text.lines().map(str::trim).filter(|name| !name.is_empty()).map(String::from).collect();
        match (names.is_empty(), rows::first_repeated(&names)) {
            (true, _) => Err(refuse("names no label".into())),
            (_, Some(twice)) => Err(refuse(format!("names the label {twice} twice"))),
            _ => Ok(Some(names)),
        }
    }
}
