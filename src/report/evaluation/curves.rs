//! ROC and precision-recall curves of each label.

use std::fmt::Write;

use super::super::plot::{Axes, Series, Shape, color, lines, thinned};
use super::super::sheet::{key, missing};
use super::super::text::escape;
use super::detection::{Confusion, Scored, test_sets};
use super::share;
use crate::Result;
use crate::eval::bootstrap::{Bootstrap, Interval};
use crate::eval::detection::roc_bands;
use crate::eval::metrics::{precision_recall_curve, roc_curve};

/// Points of a curve that are drawn.
const POINTS: usize = 160;
/// Parts of the axis that a band is computed at.
const PARTS: usize = 20;
/// Files of more curves have no bands: they would cover each other.
const MOST_BANDS: usize = 3;

/// The corners of each label's band, by one score file.
type Bands = Vec<Vec<(f64, f64)>>;

/// Curves and operating points of one label by one score file.
struct Curve {
    color: [u8; 3],
    roc: Vec<(f64, f64)>,
    /// Corners of the intervals around it; none without.
    band: Vec<(f64, f64)>,
    pr: Vec<(f64, f64)>,
    /// At one half and at Youden's point.
    points: [Vec<(f64, f64)>; 2],
    pr_points: [Vec<(f64, f64)>; 2],
}

pub fn body(scored: &[Scored], bootstrap: Option<&Bootstrap>) -> Result<String> {
    if scored.is_empty() {
        return Ok(missing("Curves need scores: add a folder with what `x2ct eval --scores NAME` writes."));
    }
    let mut out = String::from(
        "<p>A disc is the cut at a probability of one half, a cross Youden's point. Thin lines are what chance gives.",
    );
    if let Some(Bootstrap { level, replicates, .. }) = bootstrap
        && test_sets(scored).any(|of_set| of_set.len() <= MOST_BANDS)
    {
        let _ = write!(
            out,
            " Shades are the intervals of {:.0} % of the sensitivity at each specificity by itself, from {replicates} bootstrap resamples of \
             patients; where more than {MOST_BANDS} files share a chart, there are none.",
            100.0 * level
        );
    }
    out += "</p>";
    for of_set in test_sets(scored) {
        out += &of_test_set(of_set, bootstrap.filter(|_| of_set.len() <= MOST_BANDS))?;
    }
    Ok(out)
}

/// The bands of each file's ROC curves.
fn bands(scored: &[Scored], bootstrap: &Bootstrap) -> Result<Vec<Bands>> {
    let of_label = |band: Vec<(f64, Interval)>| {
        let low = band.iter().map(|(rate, Interval { low, .. })| (*rate, *low));
        let high = band.iter().rev().map(|(rate, Interval { high, .. })| (*rate, *high));
        low.chain(high).collect()
    };
    let of_file = |scored: &Scored| {
        let bands = roc_bands(&scored.problem(&scored.patients()), PARTS, bootstrap)?;
        Ok(bands.into_iter().map(of_label).collect())
    };
    scored.iter().map(of_file).collect()
}

/// A figure a label: the curves of all files of one test set.
fn of_test_set(scored: &[Scored], bootstrap: Option<&Bootstrap>) -> Result<String> {
    let bands = bootstrap.map(|bootstrap| bands(scored, bootstrap)).transpose()?.unwrap_or_default();
    let names: Vec<(&str, [u8; 3])> = scored.iter().enumerate().map(|(at, of)| (of.name, color(at))).collect();
    let mut out = key(&names);
    let mut without = Vec::new();
    out.push_str("<div class=\"grid\">");
    for label in &scored[0].file.names {
        match figure(scored, &bands, label)? {
            Some(figure) => out += &figure,
            None => without.push(label.as_str()),
        }
    }
    out.push_str("</div>");
    if !without.is_empty() {
        out += &missing(&format!("No curve where all or none have the finding: {}.", without.join(", ")));
    }
    Ok(out)
}

fn figure(scored: &[Scored], bands: &[Bands], label: &str) -> Result<Option<String>> {
    let mut curves = Vec::new();
    let mut caption = String::new();
    let mut prevalence = None;
    for (at, of_file) in scored.iter().enumerate() {
        let Some(place) = of_file.file.names.iter().position(|name| name == label) else { continue };
        let (truth, logits) = of_file.label(place);
        let (Some(roc), Some(pr)) = (roc_curve(&truth, &logits)?, precision_recall_curve(&truth, &logits)?) else {
            continue;
        };
        let found = &of_file.detection.labels[place];
        prevalence.get_or_insert(found.positives as f64 / truth.len() as f64);
        let cuts = [Some(of_file.at_half(place)), of_file.at_youden(place).map(|(_, counts)| counts)];
        curves.push(Curve {
            color: color(at),
            roc: thinned(&roc, POINTS),
            band: bands.get(at).map(|bands| bands[place].clone()).unwrap_or_default(),
            pr: thinned(&pr.iter().map(|point| (point.recall, point.precision)).collect::<Vec<_>>(), POINTS),
            points: cuts.map(|cut| cut.and_then(roc_point).into_iter().collect()),
            pr_points: cuts.map(|cut| cut.and_then(pr_point).into_iter().collect()),
        });
        let name = if scored.len() > 1 { format!("{}: ", escape(of_file.name)) } else { String::new() };
        let (auc, ap) = (with_ends(found.auc, found.auc_interval), with_ends(found.ap, found.ap_interval));
        let _ = write!(caption, "{name}AUC {auc}, PR {ap}. ");
        if let ([Some(half), Some(youden)], 1) = (cuts, scored.len()) {
            let rates = |cut: Confusion| format!("{} and {}", share(cut.sensitivity()), share(cut.specificity()));
            let _ = write!(
                caption,
                "Sensitivity and specificity: {} at one half, {} at Youden's point.",
                rates(half),
                rates(youden)
            );
        }
    }
    let Some(prevalence) = prevalence else { return Ok(None) };
    let roc = chart(&format!("{label}: ROC"), ["1 - specificity", "sensitivity"], [0.0, 1.0], &curves, |curve| {
        (&curve.band, &curve.roc, &curve.points)
    })?;
    let pr =
        chart(&format!("{label}: precision and recall"), ["recall", "precision"], [prevalence; 2], &curves, |curve| {
            (&[], &curve.pr, &curve.pr_points)
        })?;
    Ok(Some(format!(
        "<figure>{roc}{pr}<figcaption><b>{}</b> {}</figcaption></figure>",
        escape(label),
        caption.trim_end()
    )))
}

/// A share with the ends of its interval, where it has some.
fn with_ends(value: Option<f64>, interval: Option<Interval>) -> String {
    match interval {
        Some(Interval { low, high, .. }) => format!("{} [{low:.3}, {high:.3}]", share(value)),
        None => share(value),
    }
}

fn roc_point(cut: Confusion) -> Option<(f64, f64)> {
    Some((1.0 - cut.specificity()?, cut.sensitivity()?))
}

/// Precision is 1 where nothing is predicted, as the curve has it.
fn pr_point(cut: Confusion) -> Option<(f64, f64)> {
    let found = cut.hits + cut.false_alarms;
    Some((cut.sensitivity()?, if found == 0 { 1.0 } else { cut.hits as f64 / found as f64 }))
}

type Points = Vec<(f64, f64)>;

/// One chart of all files; `chance` are the ends of the thin line.
fn chart(
    title: &str,
    [x, y]: [&str; 2],
    chance: [f64; 2],
    curves: &[Curve],
    of: impl Fn(&Curve) -> (&[(f64, f64)], &Points, &[Points; 2]),
) -> Result<String> {
    let chance = [(0.0, chance[0]), (1.0, chance[1])];
    let mut series = vec![Series { points: &chance, color: [128; 3], shape: Shape::Thin, ..Series::default() }];
    for curve in curves {
        let (band, ..) = of(curve);
        if !band.is_empty() {
            series.push(Series { points: band, color: curve.color, shape: Shape::Shade, ..Series::default() });
        }
    }
    for curve in curves {
        let (_, line, points) = of(curve);
        series.push(Series { points: line, color: curve.color, ..Series::default() });
        for (points, shape) in points.iter().zip([Shape::Discs, Shape::Crosses]) {
            series.push(Series { points, color: curve.color, shape, ..Series::default() });
        }
    }
    lines(&Axes { title, x, y, ..Axes::unit() }, &series)
}
