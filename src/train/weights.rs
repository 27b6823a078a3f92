//! Initial weights: a checkpoint of this program, or the `state_dict` of another under the names that its training loop gives.

use std::path::Path;

use safetensors::SafeTensors;

use super::{Checkpoint, Task, checkpoint};
use crate::data::provenance::Provenance;
use crate::nn::{Parameters, StateDict};
use crate::{Error, Result, files};

/// What training loops and larger models put before the names of a model, in any sequence.
const PREFIXES: [&str; 16] = [
    "module.",
    "_orig_mod.",
    "state_dict.",
    "model.",
    "net.",
    "network.",
    "encoder.",
    "image_encoder.",
    "visual_encoder.",
    "base_encoder.",
    "backbone.",
    "trunk.",
    "resnet.",
    "feature_extractor.",
    "student.",
    "clip.",
];

/// The tensors of a file of weights, and what it is: of a checkpoint what that records, of any other the digest of its bytes.
///
/// # Errors
/// A file that is no safetensors file, is damaged, is of another kind of run or holds no weights.
pub(super) fn read<C: Task>(path: &Path) -> Result<(StateDict, Provenance)> {
    let bytes = files::read(path).map_err(|e| Error::io(path, "read the weights", &e))?;
    let header = SafeTensors::read_metadata(&bytes);
    let format = header.ok().and_then(|(_, header)| header.metadata().as_ref()?.get("format").cloned());
    match format.as_deref() {
        Some(checkpoint::FORMAT) => {
            let checkpoint: Checkpoint<C> = Checkpoint::read(path)?;
            let provenance = checkpoint.provenance();
            Ok((checkpoint.model, provenance))
        }
        Some(format) if format.starts_with("x2ct-") => {
            let problem = format!("has format {format:?}, which holds no weights");
            Err(Error::file(path, problem, "pass a checkpoint of x2ct train, or a state_dict as safetensors"))
        }
        _ => {
            let provenance = Provenance::made(Default::default(), []);
            Ok((StateDict::from_bytes(path, &bytes)?, provenance.holding(blake3::hash(&bytes).to_hex().to_string(), 0)))
        }
    }
}

/// The names of a model's parameters and buffers.
pub(super) fn names(parameters: &Parameters) -> Vec<String> {
    parameters.names().chain(parameters.buffer_names()).map(|(name, _)| name.to_string()).collect()
}

/// The prefix under which weights hold most of the wanted names, and how many.
///
/// # Errors
/// Several models of these names that are not equal.
pub(super) fn prefix(weights: &StateDict, wanted: &[String], source: &str) -> Result<(String, usize)> {
    let held = |prefix: &str| wanted.iter().filter(|name| weights.holds(&format!("{prefix}{name}"))).count();
    let counted: Vec<(String, usize)> =
        prefixes(weights).into_iter().map(|prefix| (held(&prefix), prefix)).map(|(n, p)| (p, n)).collect();
    let most = counted.iter().map(|(_, count)| *count).max().unwrap_or(0);
    let mut best = counted.into_iter().filter(|(_, count)| *count == most);
    let first = best.next().unwrap_or_default();
    let value = |prefix: &str, name: &String| weights.tensors.get(&format!("{prefix}{name}"));
    let differs = |other: &(String, usize)| wanted.iter().any(|name| value(&first.0, name) != value(&other.0, name));
    match best.find(|other| most > 0 && differs(other)) {
        Some((other, _)) => {
            let problem = format!("holds the model twice, under `{}` and under `{other}`", first.0);
            Err(Error::argument(source, problem, "keep one of them"))
        }
        None => Ok(first),
    }
}

/// Every sequence of known prefixes that a name begins with; the shortest first.
fn prefixes(weights: &StateDict) -> Vec<String> {
    let mut found = vec![String::new()];
    let mut at = 0;
    while at < found.len() {
        let longer = PREFIXES.map(|part| format!("{}{part}", found[at]));
        found.extend(longer.into_iter().filter(|prefix| weights.names().any(|name| name.starts_with(prefix.as_str()))));
        at += 1;
    }
    found
}
