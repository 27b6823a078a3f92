//! Reliability curves: what probabilities say against how often it is so.

use super::super::plot::{Axes, Series, Shape, color, lines};
use super::super::sheet::missing;
use super::super::text::escape;
use super::detection::Scored;
use crate::Result;

pub fn body(scored: &[Scored]) -> Result<String> {
    if scored.is_empty() {
        return Ok(missing("Reliability curves need scores: add a folder with what `x2ct eval --scores NAME` writes."));
    }
    let mut out = String::from(
        "<p>Of all cells that were given about the same probability, how many have the finding? On the thin line probabilities mean \
         what they say; above it they are too low, below it too high.</p><div class=\"grid\">",
    );
    let diagonal = [(0.0, 0.0), (1.0, 1.0)];
    for (at, of_file) in scored.iter().enumerate() {
        let Some(reliability) = &of_file.detection.calibration else { continue };
        let points: Vec<(f64, f64)> = reliability.bins.iter().map(|bin| (bin.predicted, bin.observed)).collect();
        let title = format!("{}: reliability", of_file.name);
        let series = [
            Series { points: &diagonal, color: [128; 3], shape: Shape::Thin, ..Series::default() },
            Series { points: &points, color: color(at), ..Series::default() },
            Series { points: &points, color: color(at), shape: Shape::Discs, ..Series::default() },
        ];
        let axes = Axes { title: &title, x: "probability", y: "share that has it", ..Axes::unit() };
        let bins = reliability.bins.iter().map(|bin| format!("{:.1}: {}", bin.range[1], bin.count));
        out += &format!(
            "<figure>{}<figcaption><b>{}</b> Expected calibration error {:.3}, largest {:.3}, Brier score {:.3}. Cells in the bins up \
             to {}.</figcaption></figure>",
            lines(&axes, &series)?,
            escape(of_file.name),
            reliability.ece,
            reliability.mce,
            reliability.brier,
            bins.collect::<Vec<_>>().join(", ")
        );
    }
    out.push_str("</div>");
    Ok(out)
}
