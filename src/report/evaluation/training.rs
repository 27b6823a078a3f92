//! Training: the loss of each run, and its configuration.

use serde_json::Value;

use super::super::loss::loss_chart;
use super::super::sheet::missing;
use super::super::text::escape;
use super::{Named, TrainingRun, counted};
use crate::Result;

pub fn body(runs: &[Named<TrainingRun>]) -> Result<String> {
    if runs.is_empty() {
        return Ok(missing(
            "There is no training run: add the folder that `x2ct train` writes to (log.jsonl and checkpoint.safetensors).",
        ));
    }
    let mut out = String::new();
    for Named { name, of: TrainingRun { steps, config } } in runs {
        out += &format!("<h3>{}</h3>", escape(name));
        match steps.last() {
            Some(last) if steps.iter().any(|step| step.loss.is_finite()) => {
                out += &format!("<figure>{}</figure>", loss_chart(&format!("{name}: loss"), steps)?);
                let skipped = steps.iter().filter(|step| step.grad_norm.is_none()).count();
                let skipped = match skipped {
                    0 => String::new(),
                    _ => format!(
                        " {} skipped, whose gradient was not finite.",
                        counted(skipped, "step was", "steps were")
                    ),
                };
                let (steps, epochs) = (counted(last.step, "step", "steps"), counted(last.epoch + 1, "epoch", "epochs"));
                out += &format!("<p>{steps} in {epochs}; last loss {:.4}.{skipped}</p>", last.loss);
            }
            Some(_) => out += &missing("No loss of the run's log.jsonl is a finite number."),
            None => out += &missing("The loss needs the run's log.jsonl, which is not here."),
        }
        match config {
            Some(config) => out += &settings(config),
            None => out += &missing("The configuration needs the run's checkpoint.safetensors, which is not here."),
        }
    }
    Ok(out)
}

/// Settings by their dotted names.
fn settings(config: &Value) -> String {
    let mut all = Vec::new();
    flatten("", config, &mut all);
    let items: String =
        all.iter().map(|(name, value)| format!("<dt>{}</dt><dd>{}</dd>", escape(name), escape(value))).collect();
    format!("<dl>{items}</dl>")
}

/// Values of nested objects, by their dotted names; what is not set is left out.
pub fn flatten(name: &str, value: &Value, into: &mut Vec<(String, String)>) {
    match value {
        Value::Object(fields) => fields.iter().for_each(|(key, value)| {
            let name = if name.is_empty() { key.clone() } else { format!("{name}.{key}") };
            flatten(&name, value, into);
        }),
        Value::Null => {}
        Value::String(text) => into.push((name.into(), text.clone())),
        other => into.push((name.into(), other.to_string())),
    }
}
