//! Probes of portions of a training set.

use std::time::Instant;

use serde_json::{Map, Value, json};
use x2ct::data::provenance::{Provenance, fields};
use x2ct::eval::linear_probe::{EpochLosses, LinearProbe, Recipe};
use x2ct::table::first_of;
use x2ct::{Device, Error};

use super::arguments::{Measuring, Training};
use super::material::{Material, samples};
use super::outputs::{OfPortion, Outputs, percent};
use super::score::{Columns, Row, Scoring};
use super::split::{Split, tell_shared_patients};
use crate::chain::Chain;
use crate::eval::labelled::Labelled;
use crate::terminal::{Progress, stop_flag};

/// Probes of portions of one training set.
pub struct Course<'a> {
    pub device: &'a Device,
    /// The subcommand.
    pub protocol: &'a str,
    pub recipe: &'a Recipe,
    pub training: &'a Training,
    pub measuring: &'a Measuring,
    /// What portions are selected of.
    pub train: &'a Material<'a>,
    /// The test set; else it is what a portion leaves.
    pub test: Option<&'a Material<'a>>,
}

impl Course<'_> {
    /// Trains and tests one probe a portion.
    ///
    /// # Errors
    /// A portion too small or large; a training that fails or is interrupted; an output that cannot be written.
    pub fn run(&self, portions: &[f64], outputs: &Outputs, chain: &mut Chain) -> anyhow::Result<Vec<Row>> {
        let stop = stop_flag()?;
        let mut row = |(at, &portion): (usize, &f64)| {
            let mut watch = |progress: &mut Progress, losses: &EpochLosses| {
                progress.set(losses.epoch as u64, &note(losses));
                match stop.load(std::sync::atomic::Ordering::Relaxed) {
                    true => Err(Error::Interrupted(format!("in epoch {} of the portion {portion}", losses.epoch))),
                    false => Ok(()),
                }
            };
            self.portion(portion, outputs.of(at), &mut watch, chain)
        };
        portions.iter().enumerate().map(&mut row).collect()
    }

    fn portion(
        &self,
        portion: f64,
        output: &OfPortion,
        watch: &mut dyn FnMut(&mut Progress, &EpochLosses) -> x2ct::Result<()>,
        chain: &mut Chain,
    ) -> anyhow::Result<Row> {
        let Course { train: material, recipe, training, .. } = self;
        let (seed, set) = (self.measuring.seed, |places: &[usize]| material.select(places));
        let split = Split::of(material, training, portion, recipe.validation, (seed, self.test.is_none()))?;
        let [train, validation] = [set(&split.train), set(&split.validation)];
        let rest = if self.test.is_none() { Some(set(&split.rest)) } else { None };
        let test = rest.as_ref().or(self.test.map(|test| &test.set)).unwrap_or(&train);
        let test_file = self.test.map_or(material.file, |test| test.file);
        let given = self.test.is_some();
        tell_shared_patients((material.file, training), [&train, &validation, test], (test_file, given), chain)?;
        self.tell_one_sided(portion, &train, chain);
        if let Some(says) = recipe.doubt_of_warmup(train.patients.len()) {
            chain.note(material.file, &says);
        }
        let mut progress = Progress::new(&format!("{} %", percent(portion)), "epochs", recipe.epochs as u64);
        let start = Instant::now();
        let validates = (!split.validation.is_empty()).then(|| samples(&validation));
        let probe = LinearProbe::fit(self.device, &samples(&train), validates.as_ref(), recipe, seed, &mut |losses| {
            watch(&mut progress, losses)
        })?;
        let seconds = start.elapsed().as_secs_f64();
        progress.finish(&probe.losses.last().map(note).unwrap_or_default());
        let settings = self.settings(portion);
        let probe = LinearProbe {
            encoder: material.set.features.encoder.clone(),
            made: self.made(settings.clone(), &train, chain),
            ..probe
        };
        if let Some(file) = &output.probe {
            probe.write(file)?;
        }
        let best = probe.losses[probe.best_epoch - 1];
        let course = fields(json!({
            "portion": portion,
            "train": counts(&train),
            "validation": counts(&validation),
            "test": counts(test),
            "epochs": probe.losses.len(),
            "best_epoch": probe.best_epoch,
            "train_loss": best.train,
            "validation_loss": best.validation,
            "seconds": seconds,
            "probe": output.probe,
        }));
        let columns = Columns::identity(probe.names.len());
        let scoring = Scoring { device: self.device, columns: &columns, measuring: self.measuring };
        scoring.row(&probe, test, (settings, course), output.scores.as_deref(), chain)
    }

    /// Says which labels the samples to train on all have, or none of them.
    fn tell_one_sided(&self, portion: f64, train: &Labelled, chain: &mut Chain) {
        let (samples, classes) = (train.patients.len(), train.names.len());
        let positives =
            |label: usize| train.labels[label..].iter().step_by(classes).filter(|&&present| present).count();
        for (missing, what) in [(0, "positive"), (samples, "negative")] {
            let labels: Vec<&String> =
                (0..classes).filter(|&label| positives(label) == missing).map(|label| &train.names[label]).collect();
            if !labels.is_empty() {
                let says = format!(
                    "portion {portion}: {} label(s) have no {what} among the {samples} samples to train on, so that their \
                     scores mean nothing: {}",
                    labels.len(),
                    first_of(labels)
                );
                chain.note(self.train.table, &says);
            }
        }
    }

    /// How a portion's probe is trained.
    fn settings(&self, portion: f64) -> Map<String, Value> {
        let Training { order, group, .. } = self.training;
        fields(json!({
            "protocol": self.protocol,
            "portion": portion,
            "order": order,
            "group": if group.0 { "patient" } else { "none" },
            "seed": self.measuring.seed,
            "recipe": self.recipe,
        }))
    }

    fn made(&self, settings: Map<String, Value>, train: &Labelled, chain: &Chain) -> Provenance {
        let labels = chain.digests().find(|(name, _)| *name == "labels").map(|(_, digest)| digest.to_string());
        let labels = Provenance { digest: labels.unwrap_or_default(), known: true, ..Default::default() };
        let known = chain.provenance(Map::new()).known;
        let from = [("features", train.features.provenance()), ("labels", labels)];
        Provenance { known, ..Provenance::made(settings, from) }
    }
}

/// How many samples, of how many patients.
pub fn counts(set: &Labelled) -> Value {
    let patients: std::collections::HashSet<&String> = set.patients.iter().collect();
    json!({"samples": set.patients.len(), "patients": patients.len()})
}

fn note(losses: &EpochLosses) -> String {
    let validation = losses.validation.map(|loss| format!(", validation {loss:.4}"));
    format!("loss {:.4}{}", losses.train, validation.unwrap_or_default())
}
