//! A map of embeddings: their first two principal components, coloured by how much was found.

use std::collections::HashMap;

use super::super::plot::{Axes, Series, Shape, lines};
use super::super::sheet::{key, missing};
use super::super::text::escape;
use super::{Material, Named, counted};
use crate::Result;
use crate::data::features::FeatureSet;
use crate::eval::score_file::ScoreFile;
use crate::report::pca::Pca;

/// What points are called and coloured by: no label known, then 0, 1, 2, 3 or 4, 5 and more findings.
const CLASSES: [(&str, [u8; 3]); 6] = [
    ("unknown", [128, 128, 128]),
    ("no finding", [62, 131, 214]),
    ("1", [20, 148, 165]),
    ("2", [110, 150, 40]),
    ("3 or 4", [214, 130, 20]),
    ("5 or more", [208, 60, 70]),
];

pub fn body(material: &Material) -> Result<String> {
    if material.features.is_empty() {
        return Ok(missing(
            "A map needs embeddings: add a folder with what `x2ct embed` writes (x2ct-features-1) or a teacher's cache.",
        ));
    }
    let findings = findings(&material.scores);
    let mut out = String::from(
        "<p>Each point is an image, placed by the two directions in which the embeddings differ most (principal components); near points \
         have similar embeddings, far ones differ.</p>",
    );
    out += &match findings.is_empty() {
        true => missing("The points have no colours: a score file of the same volumes adds their numbers of findings."),
        false => format!("<p>Findings of an image:</p>{}", key(&CLASSES)),
    };
    for file in &material.features {
        out += &figure(file, &findings)?;
    }
    Ok(out)
}

/// The number of findings of each volume.
fn findings(scores: &[Named<ScoreFile>]) -> HashMap<&str, usize> {
    let mut all = HashMap::new();
    for Named { of: file, .. } in scores {
        for (id, labels) in file.ids.iter().zip(file.labels.chunks_exact(file.names.len().max(1))) {
            all.entry(id.as_str()).or_insert_with(|| labels.iter().filter(|&&present| present).count());
        }
    }
    all
}

fn figure(Named { name, of: file }: &Named<FeatureSet>, findings: &HashMap<&str, usize>) -> Result<String> {
    let pca = Pca::of(&file.features, file.dim)?;
    let mut classes: [Vec<(f64, f64)>; CLASSES.len()] = Default::default();
    for (id, &[x, y]) in file.ids.iter().zip(&pca.points) {
        let class = match findings.get(id.as_str()) {
            None => 0,
            Some(0..=2) => 1 + findings[id.as_str()],
            Some(3 | 4) => 4,
            Some(_) => 5,
        };
        classes[class].push((x, y));
    }
    // Points of a few are large enough to be told apart, those of many small enough.
    let shape = if file.ids.len() < 500 { Shape::Discs } else { Shape::Dots };
    let range = |at: usize| {
        let (low, high) =
            pca.points.iter().fold((0.0f64, 0.0f64), |(low, high), point| (low.min(point[at]), high.max(point[at])));
        let edge = 0.03 * (high - low);
        Some((low - edge, high + edge))
    };
    let series: Vec<Series> = classes
        .iter()
        .zip(CLASSES)
        .map(|(points, (_, color))| Series { points, color, shape, ..Series::default() })
        .collect();
    let title = format!("{name}: map of the embeddings");
    let (x_range, y_range) = (range(0), range(1));
    let named = Axes { title: &title, x: "first component", y: "second component", ..Axes::default() };
    let axes = Axes { x_range, y_range, size: [560, 480], ..named };
    let shares = pca.shares.map(|share| format!("{:.1} %", 100.0 * share));
    Ok(format!(
        "<figure>{}<figcaption><b>{}</b> {} of {}, {} values each. The components hold {} and {} of the variance.</figcaption></figure>",
        lines(&axes, &series)?,
        escape(name),
        counted(file.ids.len(), "embedding", "embeddings"),
        escape(&file.encoder),
        file.dim,
        shares[0],
        shares[1]
    ))
}
