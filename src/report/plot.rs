//! Line charts as SVG.

use plotters::prelude::*;

use crate::{Error, Result};

/// One line of a chart.
pub struct Series<'a> {
    /// Its name in the legend; empty for none.
    pub name: &'a str,
    /// Its points, ascending in x.
    pub points: &'a [(f64, f64)],
    /// Red, green, blue.
    pub color: [u8; 3],
}

/// A chart's frame.
pub struct Axes<'a> {
    /// Above the chart.
    pub title: &'a str,
    /// Below it.
    pub x: &'a str,
    /// Beside it.
    pub y: &'a str,
    /// Whether x counts something: only whole numbers are written below the axis.
    pub counts: bool,
    /// Range of y; the data's when absent.
    pub y_range: Option<(f64, f64)>,
}

/// A number below an axis, without zeros that say nothing.
fn tick(value: f64) -> String {
    let text = format!("{value:.4}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    if text == "-0" { "0".into() } else { text.into() }
}

/// A range that its ticks can tell apart: one of no width, or of less than they show, grows both ways.
fn widened((low, high): (f64, f64)) -> (f64, f64) {
    let least = (1e-4 * low.abs().max(high.abs())).max(1e-2);
    let missing = (least - (high - low)).max(0.0);
    (low - missing / 2.0, high + missing / 2.0)
}

/// The chart as an SVG element, 520 x 320 or narrower, as its place allows. Frame and letters have the colour of the text around
/// (`currentColor`), the ground behind the legend that of the class `page`.
///
/// # Errors
/// No finite point at all.
pub fn lines(axes: &Axes, series: &[Series]) -> Result<String> {
    let failed = |problem: String| Error::argument(format!("chart \"{}\"", axes.title), problem, "pass finite points");
    let points = || series.iter().flat_map(|s| s.points).filter(|(x, y)| x.is_finite() && y.is_finite());
    let span = |values: &mut dyn Iterator<Item = f64>| {
        values.fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(v), h.max(v)))
    };
    let (x0, x1) = widened(span(&mut points().map(|p| p.0)));
    let (y0, y1) = widened(axes.y_range.unwrap_or_else(|| span(&mut points().map(|p| p.1))));
    if !(x0.is_finite() && y0.is_finite()) {
        return Err(failed("has no finite point".into()));
    }
    let mut svg = String::new();
    let mut draw = || -> std::result::Result<(), Box<dyn std::error::Error>> {
        let root = SVGBackend::with_string(&mut svg, (520, 320)).into_drawing_area();
        let mut chart = ChartBuilder::on(&root)
            .caption(axes.title, ("sans-serif", 16))
            .margin(8)
            .x_label_area_size(36)
            .y_label_area_size(48)
            .build_cartesian_2d(x0..x1, y0..y1)?;
        let below = |x: &f64| if axes.counts && x.fract() != 0.0 { String::new() } else { tick(*x) };
        let mut mesh = chart.configure_mesh();
        mesh.light_line_style(TRANSPARENT).x_desc(axes.x).y_desc(axes.y);
        mesh.x_label_formatter(&below).y_label_formatter(&|y| tick(*y)).draw()?;
        for s in series {
            let color = RGBColor(s.color[0], s.color[1], s.color[2]);
            let line = chart.draw_series(LineSeries::new(s.points.iter().copied(), color.stroke_width(2)))?;
            if !s.name.is_empty() {
                line.label(s.name).legend(move |(x, y)| PathElement::new([(x, y), (x + 14, y)], color.stroke_width(2)));
            }
        }
        if series.iter().any(|s| !s.name.is_empty()) {
            chart.configure_series_labels().border_style(BLACK.mix(0.2)).background_style(WHITE.mix(0.8)).draw()?;
        }
        root.present()?;
        Ok(())
    };
    draw().map_err(|e| failed(format!("cannot be drawn: {e}")))?;
    Ok(svg.replace("\"#000000\"", "\"currentColor\"").replace("fill=\"#FFFFFF\"", "class=\"page\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The numbers beside the y axis, from the bottom.
    fn y_ticks(points: &[(f64, f64)], y_range: Option<(f64, f64)>) -> Vec<String> {
        let axes = Axes { title: "loss", x: "step", y: "nat", counts: true, y_range };
        let svg = lines(&axes, &[Series { name: "", points, color: [0, 0, 0] }]).unwrap();
        let texts = svg.split("<text ").skip(1).filter(|text| text.contains("text-anchor=\"end\""));
        texts.map(|text| text.split(['>', '<']).nth(1).unwrap().trim().to_string()).collect()
    }

    #[test]
    fn ticks_are_short_and_no_two_are_equal() {
        assert_eq!(y_ticks(&[(0.0, 0.2), (1.0, 0.9)], Some((0.0, 1.0)))[..3], ["0", "0.1", "0.2"]);
        for points in [&[(1.0, 6.9955)][..], &[(1.0, 6.9955), (2.0, 6.9955)], &[(1.0, 0.0)], &[(1.0, 1e6), (2.0, 1e6)]]
        {
            let ticks = y_ticks(points, None);
            assert!(ticks.len() > 2 && ticks.windows(2).all(|pair| pair[0] != pair[1]), "{ticks:?}");
        }
    }
}
