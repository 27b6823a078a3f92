//! The loss of a training run.

use super::plot::{Axes, COLORS, Series, lines, thinned};
use crate::Result;
use crate::train::StepLog;

/// Points of a line that are drawn.
const POINTS: usize = 600;

/// The loss of each step, and what is left when its noise is averaged away.
pub fn loss_chart(title: &str, steps: &[StepLog]) -> Result<String> {
    let raw: Vec<(f64, f64)> =
        steps.iter().map(|l| (l.step as f64, f64::from(l.loss))).filter(|p| p.1.is_finite()).collect();
    let mut smooth = Vec::with_capacity(raw.len());
    let mut mean = raw.first().map_or(0.0, |p| p.1);
    // Over a tenth of a short run, over twenty steps of a long one.
    let rate = (10.0 / raw.len().max(1) as f64).clamp(0.05, 0.5);
    for &(x, y) in &raw {
        mean += rate * (y - mean);
        smooth.push((x, mean));
    }
    let axes = Axes { title, x: "step", y: "loss", counts: true, ..Axes::default() };
    let series = [
        Series { name: "each step", points: &thinned(&raw, POINTS), color: [150, 180, 220], ..Series::default() },
        Series { name: "smoothed", points: &thinned(&smooth, POINTS), color: COLORS[0], ..Series::default() },
    ];
    lines(&axes, &series)
}
