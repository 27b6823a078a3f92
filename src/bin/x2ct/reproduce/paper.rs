//! The papers' tables as data: what each column measures, where each row's features come from, and the paper's own figures.

use std::path::PathBuf;
use std::sync::OnceLock;

use serde::Deserialize;
use x2ct::data::features::Tower;
use x2ct::eval::retrieval_file::Modality as Kind;
use x2ct::report::{Better, Column as Heading};

/// Which paper.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Paper {
    /// X2CT-CLIP: tables 2, 3, 4a, 4b, 5
    X2ctClip,
    /// DCFormer: tables 1, retrieval
    Dcformer,
}

/// One table of a paper.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PaperTable {
    /// Its number in the paper.
    pub name: String,
    pub title: String,
    pub caption: String,
    /// Digits after the point.
    pub digits: usize,
    pub columns: Vec<Column>,
    pub rows: Vec<PaperRow>,
}

/// One column of a table, and the measure in it.
#[derive(Clone, Debug, Deserialize)]
pub struct Column {
    #[serde(default)]
    group: Option<String>,
    name: String,
    /// The data set.
    pub data: DataName,
    #[serde(flatten)]
    pub task: Task,
}

/// A data set of the papers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DataName {
    CtRate,
    RadchestCt,
    MimicCt,
}

impl DataName {
    /// Its name in files and folders.
    pub fn name(self) -> &'static str {
        match self {
            DataName::CtRate => "ct-rate",
            DataName::RadchestCt => "radchest-ct",
            DataName::MimicCt => "mimic-ct",
        }
    }

    /// The built-in map of CT-RATE's labels to its own, where it has others.
    pub fn map(self) -> Option<&'static str> {
        match self {
            DataName::CtRate => None,
            DataName::RadchestCt => Some("radchest"),
            DataName::MimicCt => Some("mimic"),
        }
    }

    /// The part that is tested on.
    pub fn test(self) -> &'static str {
        if self == DataName::CtRate { "valid" } else { "test" }
    }
}

/// A modality that answers a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Modality {
    Ct,
    Report,
}

impl Modality {
    /// Its embeddings in a cache.
    pub fn tower(self) -> Tower {
        match self {
            Modality::Ct => Tower::Ct,
            Modality::Report => Tower::Report,
        }
    }

    /// What files of ranks call it.
    pub fn kind(self) -> Kind {
        match self {
            Modality::Ct => Kind::Ct,
            Modality::Report => Kind::Report,
        }
    }

    /// The other one.
    pub fn other(self) -> Self {
        match self {
            Modality::Ct => Modality::Report,
            Modality::Report => Modality::Ct,
        }
    }
}

/// The measure of a column.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(tag = "task", rename_all = "kebab-case")]
pub enum Task {
    /// Recall at `k` of the query's own among the gallery; of a teacher the query is its other modality.
    Retrieval { gallery: Modality, k: usize },
    /// Detection by prompts.
    ZeroShot { metric: String },
    /// A linear probe on a portion of the training part, or of the test part, whose remainder it is tested on.
    FewShot { portion: f64, metric: String },
    /// A linear probe on a portion of CT-RATE's training part, tested on another data set.
    External { portion: f64, map: String, metric: String },
    /// Recall at `k` of a CT encoder: `query` against the other modality.
    ClipRetrieval { query: Modality, k: usize },
    /// Detection by prompts by a CT encoder, percent.
    ClipZeroShot { metric: String },
    /// A count of the model: `parameters` (millions) or `gflops`.
    Model { metric: String },
}

impl Task {
    /// Whether it trains a linear probe.
    pub fn is_probe(&self) -> bool {
        matches!(self, Task::FewShot { .. } | Task::External { .. })
    }

    /// The metric of detection, as [`x2ct::eval::detection::SUMMARY`] names it.
    pub fn metric(&self) -> Option<&str> {
        match self {
            Task::ZeroShot { metric }
            | Task::FewShot { metric, .. }
            | Task::External { metric, .. }
            | Task::ClipZeroShot { metric } => Some(metric),
            _ => None,
        }
    }
}

/// A method of a table.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PaperRow {
    pub method: String,
    pub variant: String,
    pub source: Source,
    /// The paper's figures, one a column; not a number where it has none.
    pub paper: Vec<f64>,
}

/// Where a row's features come from.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Source {
    /// A radiograph encoder of `x2ct train` whose model's name begins like this, with these weights of the loss.
    Run { model: String, beta: f32, gamma: f32 },
    /// The run in this folder.
    Folder { path: PathBuf },
    /// Files of features made elsewhere.
    Features { key: String },
    /// The teacher's own embeddings in the cache.
    Teacher,
    /// A CT encoder of `x2ct train` of this model and token mixer.
    CtRun { model: String, mixer: String },
    /// Nothing can fill the row.
    Absent { why: String },
}

impl Source {
    /// Whether the row is shown for reference: it sees the CT itself.
    pub fn is_reference(&self) -> bool {
        *self == Source::Teacher
    }

    /// Whether the row is of the paper's own method, which significance is claimed of.
    pub fn is_ours(&self) -> bool {
        matches!(self, Source::Run { .. } | Source::Folder { .. })
    }
}

#[derive(Deserialize)]
struct File {
    paper: String,
    table: Vec<PaperTable>,
}

impl Paper {
    /// Name of the paper, as `--paper` takes it.
    pub fn name(self) -> &'static str {
        &self.file().paper
    }

    /// Its tables, in their order.
    pub fn tables(self) -> &'static [PaperTable] {
        &self.file().table
    }

    fn file(self) -> &'static File {
        static FILES: OnceLock<[File; 2]> = OnceLock::new();
        let files = FILES.get_or_init(|| {
            // Both are part of the program, and a test reads them.
            [include_str!("x2ct-clip.toml"), include_str!("dcformer.toml")]
                .map(|text| toml::from_str(text).expect("the papers' tables are well-formed"))
        });
        &files[self as usize]
    }
}

impl PaperTable {
    /// The headings of the columns.
    pub fn headings(&self) -> Vec<Heading> {
        self.columns.iter().map(|column| column.heading(self.digits)).collect()
    }
}

impl PaperRow {
    /// Method and variant in one line.
    pub fn title(&self) -> String {
        format!("{} {}", self.method, self.variant).trim_end().to_string()
    }
}

impl Column {
    /// Group and name in one line.
    pub fn title(&self) -> String {
        self.group.iter().chain([&self.name]).map(String::as_str).collect::<Vec<_>>().join(" / ")
    }

    fn heading(&self, digits: usize) -> Heading {
        let better = if matches!(self.task, Task::Model { .. }) { Better::Neither } else { Better::Higher };
        Heading { better, ..Heading::new(self.name.as_str()).of(self.group.iter().map(String::as_str)).digits(digits) }
    }
}
