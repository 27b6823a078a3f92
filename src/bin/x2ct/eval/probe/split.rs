//! Which samples are trained on, which validate, and which are left.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;

use x2ct::Error;
use x2ct::eval::stratify::Stratify;

use super::arguments::Training;
use super::material::Material;
use crate::chain::Chain;
use crate::eval::labelled::Labelled;

/// Places of samples.
pub struct Split {
    /// Trained on.
    pub train: Vec<usize>,
    /// Of the portion, but not trained on.
    pub validation: Vec<usize>,
    /// Outside of the portion.
    pub rest: Vec<usize>,
}

impl Split {
    /// Selects a portion of the samples, and of that the share that validates.
    ///
    /// # Errors
    /// No sample to train on, to validate, or, if the rest is `tested`, to test.
    pub fn of(
        material: &Material,
        training: &Training,
        portion: f64,
        validation: f64,
        (seed, tested): (u64, bool),
    ) -> x2ct::Result<Self> {
        let set = &material.set;
        let groups = training.group.0.then_some(&set.patients[..]);
        let choose = |places: Vec<usize>, share: f64| {
            Stratify::share(share, training.order, seed).divide(places, (&set.labels, set.names.len()), groups)
        };
        let [kept, rest] = choose((0..material.len()).collect(), portion)?;
        let [validation_part, train] = choose(kept, validation)?;
        let short = |what: &str| {
            let unit = if training.group.0 { "patients" } else { "samples" };
            let problem = format!("the portion {portion} of its {} samples leaves none {what}", material.len());
            Err(Error::file(material.file, problem, format!("give a larger --portion, or features of more {unit}")))
        };
        match () {
            () if train.is_empty() => short("to train on"),
            () if validation > 0.0 && validation_part.is_empty() => short("to validate"),
            () if tested && rest.is_empty() => {
                let problem = format!("the portion {portion} of its {} samples leaves none to test on", material.len());
                Err(Error::file(material.file, problem, "give a smaller --portion"))
            }
            () => Ok(Split { train, validation: validation_part, rest }),
        }
    }
}

/// Says which patients are on more than one side, where nothing keeps them together.
///
/// # Errors
/// Where patients are to stay together, and one is in the features to train on and in those of the test.
pub fn tell_shared_patients(
    (file, training): (&Path, &Training),
    parts: [&Labelled; 3],
    (test_file, given): (&Path, bool),
    chain: &mut Chain,
) -> x2ct::Result<()> {
    let mut sides: BTreeMap<&String, HashSet<usize>> = BTreeMap::new();
    for (side, part) in parts.iter().enumerate() {
        for patient in &part.patients {
            sides.entry(patient).or_default().insert(side);
        }
    }
    let shared: Vec<&&String> = sides.iter().filter(|(_, on)| on.len() > 1).map(|(patient, _)| patient).collect();
    let Some(first) = shared.first() else { return Ok(()) };
    if training.group.0 && given {
        let problem = format!(
            "{} patient(s) are in {} too, and --group patient keeps each on one side",
            shared.len(),
            file.display()
        );
        let hint = "remove them from one of the files, or leave out --group".into();
        return Err(Error::File { path: test_file.into(), field: Some(first.to_string()), problem, hint });
    }
    let advice = if given {
        "scores of such are better than of patients never seen"
    } else {
        "--group patient keeps them on one side"
    };
    let says = format!(
        "{} patient(s) are in more than one of training, validation and test, such as {first}; {advice}",
        shared.len()
    );
    chain.note(test_file, &says);
    Ok(())
}
