//! The cells of a table: a measure of a row's features, with its interval, or why there is none.

use std::collections::HashMap;
use std::rc::Rc;

use x2ct::Error;
use x2ct::eval::bootstrap::Interval;
use x2ct::eval::detection::{Detection, Problem};
use x2ct::eval::retrieval::CUTS;
use x2ct::eval::score_file::ScoreFile;
use x2ct::nn::ParameterBuilder;
use x2ct::nn::models::{DcFormer, DcFormerConfig};
use x2ct::report::Cell;
use x2ct::train::{Checkpoint, CtTrainConfig};

use super::paper::{Column, DataName, Modality, PaperRow, Source, Task};
use super::probes;
use super::work::{Found, Ranked, Trouble, Workshop, patients};

/// Cells, each computed from what is in the workshop; what several share is computed once.
pub struct Cells<'a> {
    pub shop: Workshop<'a>,
    pub probes: probes::Settings,
    scored: HashMap<String, Found<Rc<Scored>>>,
    ranked: HashMap<String, Found<Rc<Ranked>>>,
}

/// Scores and what they come to.
pub struct Scored {
    pub file: ScoreFile,
    pub detection: Detection,
}

const PERCENT: f64 = 100.0;
/// Sizes of the volume whose FLOPs are counted, whatever a run was trained on.
const INPUT: [usize; 3] = [512, 512, 256];

impl<'a> Cells<'a> {
    /// None is computed yet.
    pub fn new(shop: Workshop<'a>, probes: probes::Settings) -> Self {
        Cells { shop, probes, scored: HashMap::new(), ranked: HashMap::new() }
    }

    /// One cell. What is not there is said in it; what is there and cannot be used is a failure of the command besides.
    ///
    /// # Errors
    /// What has nothing to do with this cell: an interruption, a device that fails, memory that does not suffice; under `--strict`
    /// every failure.
    pub fn cell(&mut self, row: &PaperRow, column: &Column, paper: f64) -> x2ct::Result<Cell> {
        self.shop.expect_going()?;
        let cell = match self.measure(&row.source, column) {
            Ok(cell) => cell,
            Err(Trouble::Missing(what)) => Cell::missing(what),
            Err(Trouble::Bad(error)) => {
                let fatal = matches!(error, Error::Interrupted(_) | Error::OutOfMemory { .. }) || error.is_of_device();
                if fatal {
                    return Err(error);
                }
                let why = format!("cannot be used: {error}");
                self.shop.chain.fail(error)?;
                Cell::missing(why)
            }
        };
        Ok(if paper.is_nan() { cell } else { cell.beside(paper) })
    }

    fn measure(&mut self, source: &Source, column: &Column) -> Found<Cell> {
        match &column.task {
            Task::Retrieval { gallery, k } => recall(&*self.ranked(source, column.data, *gallery)?, *k),
            Task::ClipRetrieval { query, k } => recall(&*self.clip_ranked(source, column.data, *query)?, *k),
            Task::Model { metric } => self.count(source, metric),
            Task::ClipZeroShot { metric } => {
                let scored = self.scored(source, column)?;
                Ok(scaled(summary(&scored.detection, metric)?, PERCENT))
            }
            Task::ZeroShot { metric } | Task::FewShot { metric, .. } | Task::External { metric, .. } => {
                let scored = self.scored(source, column)?;
                summary(&scored.detection, metric)
            }
        }
    }

    /// The scores behind a cell, where it has some; what they fail with is found out once.
    pub fn scored(&mut self, source: &Source, column: &Column) -> Found<Rc<Scored>> {
        let key = match &column.task {
            Task::FewShot { portion, .. } => format!("few-shot {portion}"),
            Task::External { portion, map, .. } => format!("external {portion} {map}"),
            Task::ZeroShot { .. } => "zero-shot".into(),
            _ => "clip".into(),
        };
        let key = format!("{} {} {key}", self.shop.slug(source), column.data.name());
        if let Some(known) = self.scored.get(&key) {
            return known.clone();
        }
        let scored = self.score(source, column).map(Rc::new);
        self.scored.insert(key, scored.clone());
        scored
    }

    fn score(&mut self, source: &Source, column: &Column) -> Found<Scored> {
        let file = match &column.task {
            Task::FewShot { portion, .. } => {
                probes::few_shot(&mut self.shop, source, column.data, *portion, &self.probes)?
            }
            Task::External { portion, map, .. } => {
                probes::external(&mut self.shop, source, (column.data, map), *portion, &self.probes)?
            }
            Task::ClipZeroShot { .. } => self.shop.clip_zero_shot(source, column.data)?,
            _ => self.shop.zero_shot(source, column.data)?,
        };
        let (patients, probabilities) = (patients(&file.ids), file.probabilities());
        let problem = Problem {
            names: &file.names,
            patients: &patients,
            labels: &file.labels,
            scores: &file.logits,
            probabilities: Some(&probabilities),
        };
        let detection = Detection::of(&problem, Some(&self.shop.bootstrap))?;
        Ok(Scored { file, detection })
    }

    fn ranked(&mut self, source: &Source, data: DataName, gallery: Modality) -> Found<Rc<Ranked>> {
        let key = format!("{} {} {gallery:?}", self.shop.slug(source), data.name());
        if let Some(known) = self.ranked.get(&key) {
            return known.clone();
        }
        let ranked = self.shop.ranked(source, data, gallery).map(Rc::new);
        self.ranked.insert(key, ranked.clone());
        ranked
    }

    fn clip_ranked(&mut self, source: &Source, data: DataName, query: Modality) -> Found<Rc<Ranked>> {
        let key = |query| format!("{} {} clip {query:?}", self.shop.slug(source), data.name());
        let keys = [Modality::Report, Modality::Ct].map(key);
        let wanted = usize::from(query == Modality::Ct);
        if let Some(known) = self.ranked.get(&keys[wanted]) {
            return known.clone();
        }
        let both = match self.shop.clip_ranked(source, data) {
            Ok(both) => both.map(|ranked| Ok(Rc::new(ranked))),
            Err(trouble) => [Err(trouble.clone()), Err(trouble)],
        };
        self.ranked.extend(keys.into_iter().zip(both.iter().cloned()));
        both[wanted].clone()
    }

    /// A count of a run's model.
    fn count(&mut self, source: &Source, metric: &str) -> Found<Cell> {
        if *source == Source::Teacher {
            return Err(Trouble::Missing("a cache does not tell the size of its teacher".into()));
        }
        let path = self.shop.run(source)?.checkpoint();
        let checkpoint: Checkpoint<CtTrainConfig> = Checkpoint::read(&path)?;
        let wanted = &checkpoint.config.model;
        let config = DcFormerConfig { input: INPUT, ..wanted.encoder.clone() };
        let model = DcFormer::new(&mut ParameterBuilder::new(), &config)?;
        let input = [1, 1, INPUT[0], INPUT[1], INPUT[2]];
        let (summary, projection) = (model.summary(input), model.head().inputs() * wanted.embedding);
        Ok(Cell::of(match metric {
            // The paper's count of the nano and the tiny size has the projection.
            "parameters" => (summary.parameters() + projection) as f64 / 1e6,
            // As fvcore counts a model in training, which is how the paper counted.
            _ => (summary.macs() + 5 * model.normalized_values(input)) as f64 / 1e9,
        }))
    }
}

/// Recall at `k`.
fn recall(ranked: &Ranked, k: usize) -> Found<Cell> {
    let at = CUTS.iter().position(|(_, cut)| *cut == k);
    let value = at.map(|at| ranked.recall.shares()[at]);
    let interval = at.and_then(|at| ranked.intervals.get(CUTS[at].0).copied().flatten());
    Ok(with_interval(value, interval))
}

fn summary(detection: &Detection, metric: &str) -> Found<Cell> {
    let at = x2ct::eval::detection::SUMMARY.iter().position(|name| *name == metric);
    let value = at.and_then(|at| detection.summary.values()[at]);
    Ok(with_interval(value, detection.intervals.get(metric).copied().flatten()))
}

fn with_interval(value: Option<f64>, interval: Option<Interval>) -> Cell {
    match value {
        None => Cell::missing("not defined on these labels"),
        Some(value) => {
            let cell = Cell::of(value);
            interval.map_or(cell.clone(), |found| cell.within([found.low, found.high]))
        }
    }
}

fn scaled(cell: Cell, by: f64) -> Cell {
    Cell { value: cell.value.map(|v| v * by), interval: cell.interval.map(|ends| ends.map(|v| v * by)), ..cell }
}
