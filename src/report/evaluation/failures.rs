//! The cells whose probability is farthest from the truth.

use std::collections::{HashMap, HashSet};

use super::super::sheet::missing;
use super::super::text::escape;
use super::Material;
use super::detection::Scored;
use super::retrieval::{film, places, report};
use crate::Result;

/// Mistakes that are shown of one file, and of each of several.
const SHOWN: [usize; 2] = [12, 6];

pub fn body(scored: &[Scored], material: &Material) -> Result<String> {
    if scored.is_empty() {
        return Ok(missing("Mistakes need scores: add a folder with what `x2ct eval --scores NAME` writes."));
    }
    let mut out = String::from(
        "<p>Where the probability is farthest on the wrong side of one half, each volume once: a label may be wrong as well as a \
         score.</p>",
    );
    if material.radiographs.is_none() {
        out += &missing("There are no pictures: --radiographs FILE (what `x2ct drr --dataset` wrote) adds them.");
    }
    if material.reports.is_none() {
        out += &missing("There are no texts: --dataset ROOT adds the reports.");
    }
    let places = material.radiographs.as_ref().map(places).unwrap_or_default();
    for of_file in scored {
        out += &of_one(of_file, material, &places, SHOWN[usize::from(scored.len() > 1)])?;
    }
    Ok(out)
}

fn of_one(of_file: &Scored, material: &Material, places: &HashMap<&str, usize>, most: usize) -> Result<String> {
    let mistakes = mistakes(of_file, most);
    let mut out = format!("<h3>{}</h3>", escape(of_file.name));
    if mistakes.is_empty() {
        out.push_str("<p>No probability is on the wrong side of one half.</p>");
    }
    for cell in mistakes {
        let width = of_file.file.names.len();
        let (id, name) = (&of_file.file.ids[cell / width], &of_file.file.names[cell % width]);
        let (p, there) = (of_file.probabilities[cell], of_file.file.labels[cell]);
        let says = if there { "is labelled present" } else { "is labelled absent" };
        let what = format!("{id}: {name} {says}, probability {p:.3}");
        out += &format!("<div class=\"row\"><p><b>{}</b></p>", escape(&what));
        if material.radiographs.is_some() {
            out += &film(material, places, id, "", id)?;
        }
        out += &report(material, id, "");
        out.push_str("</div>");
    }
    Ok(out)
}

/// Cells on the wrong side of one half, the farthest first, of each volume one.
fn mistakes(of_file: &Scored, most: usize) -> Vec<usize> {
    let Scored { file, probabilities, .. } = of_file;
    // By logits, which no rounding to 0 or 1 makes equal; at a logit of 0 there is nothing found.
    let wrong = |&cell: &usize| (probabilities[cell] > 0.5) != file.labels[cell];
    let mut cells: Vec<usize> = (0..probabilities.len()).filter(wrong).collect();
    cells.sort_by(|&a, &b| file.logits[b].abs().total_cmp(&file.logits[a].abs()).then(a.cmp(&b)));
    let mut seen = HashSet::new();
    cells.retain(|cell| seen.insert(cell / file.names.len()));
    cells.truncate(most);
    cells
}
