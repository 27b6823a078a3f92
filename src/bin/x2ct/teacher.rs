//! Whether features belong to a teacher's embeddings or prompts: the same space, and the same teacher where their files know it.

use std::path::Path;

use x2ct::Error;
use x2ct::data::features::FeatureSet;
use x2ct::data::prompts::PromptSet;
use x2ct::data::provenance::Provenance;

use crate::chain::Chain;

/// Compares the teacher that the encoder of features learned from with the one whose embeddings stand in a file, which has such a
/// provenance and so many numbers a row.
///
/// # Errors
/// Embeddings of another teacher, or of another length; under `--strict` what is not recorded.
pub fn expect_teacher(
    (path, features): (&Path, &FeatureSet),
    (file, teacher, dim): (&Path, &Provenance, usize),
    chain: &mut Chain,
) -> x2ct::Result<()> {
    if features.dim != dim {
        let problem =
            format!("its embeddings have {dim} numbers, the features of {} have {}", file.display(), features.dim);
        return Err(Error::file(
            file,
            problem,
            "pass embeddings of the teacher that the features' encoder learned from",
        ));
    }
    let made = features.provenance();
    chain.settle(path, Ok(made.undecided("features")))?;
    let learned = made.from.get("checkpoint").and_then(|checkpoint| checkpoint.from.get("cache"));
    let undecided = match learned {
        Some(learned) => learned.expect_alike("cache", teacher),
        None => Ok(vec![
            "which teacher the encoder of the features learned from is not recorded, so none was compared".into(),
        ]),
    };
    chain.settle(file, undecided)
}

/// The same of prompts, of which teacher and checkpoint are compared. Features may also be a teacher's own.
///
/// # Errors
/// Prompts of another teacher, or of another length; under `--strict` what is not recorded.
pub fn expect_teacher_of_prompts(
    (path, features): (&Path, &FeatureSet),
    (file, prompts): (&Path, &PromptSet),
    chain: &mut Chain,
) -> x2ct::Result<()> {
    expect_dim((path, features), (file, prompts.dim))?;
    let made = features.provenance();
    let learned = made.from.get("checkpoint").and_then(|checkpoint| checkpoint.from.get("cache"));
    let settings = learned.map_or(&made.settings, |learned| &learned.settings);
    let mut undecided = Vec::new();
    for (name, found) in [("teacher", &prompts.teacher), ("checkpoint", &prompts.checkpoint_digest)] {
        match settings.get(name).and_then(|value| value.as_str()) {
            // Without a teacher, the checkpoint is the encoder's own.
            Some(wanted) if settings.contains_key("teacher") && wanted != found => {
                let problem = format!("is of the {name} {found}, the features of {} are of {wanted}", path.display());
                return Err(Error::file(file, problem, "pass prompts of the teacher of the features"));
            }
            Some(_) if settings.contains_key("teacher") => (),
            _ => undecided
                .push(format!("{name}: which one the features belong to is not recorded, so it was not compared")),
        }
    }
    chain.settle(path, Ok(undecided))
}

fn expect_dim((path, features): (&Path, &FeatureSet), (file, dim): (&Path, usize)) -> x2ct::Result<()> {
    if features.dim == dim {
        return Ok(());
    }
    let problem =
        format!("has embeddings of {dim} numbers, and the features of {} have {}", path.display(), features.dim);
    Err(Error::file(file, problem, "pass what is of the teacher of the features"))
}
