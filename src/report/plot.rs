//! Line charts as SVG.

use plotters::prelude::*;

use super::text::{escape, printable};
use crate::{Error, Result};

/// How the points of a series are drawn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Shape {
    /// Joined by a line.
    #[default]
    Line,
    /// Joined by a thin line: what others are compared with.
    Thin,
    /// Each as a disc.
    Discs,
    /// Each as a small disc, of many.
    Dots,
    /// Each as a cross.
    Crosses,
    /// The corners of a shade.
    Shade,
}

/// Points of a chart that belong together.
#[derive(Clone, Copy, Debug, Default)]
pub struct Series<'a> {
    /// Its name in the legend; empty for none.
    pub name: &'a str,
    /// Its points; of a line, ascending in x.
    pub points: &'a [(f64, f64)],
    /// Red, green, blue.
    pub color: [u8; 3],
    /// How they are drawn.
    pub shape: Shape,
}

/// A chart's frame.
#[derive(Clone, Copy, Debug)]
pub struct Axes<'a> {
    /// Above the chart.
    pub title: &'a str,
    /// Below it.
    pub x: &'a str,
    /// Beside it.
    pub y: &'a str,
    /// Whether x counts something: only whole numbers are written below the axis.
    pub counts: bool,
    /// Range of x; the data's when absent.
    pub x_range: Option<(f64, f64)>,
    /// Range of y; the data's when absent.
    pub y_range: Option<(f64, f64)>,
    /// Width and height, as the chart's letters measure them.
    pub size: [u32; 2],
    /// Whether the legend stands at the bottom, which a ROC curve leaves free, and not at the top, which a loss does.
    pub low_legend: bool,
}

impl Default for Axes<'_> {
    fn default() -> Self {
        Axes {
            title: "",
            x: "",
            y: "",
            counts: false,
            x_range: None,
            y_range: None,
            size: [520, 320],
            low_legend: false,
        }
    }
}

impl Axes<'_> {
    /// A square chart of shares from 0 to 1.
    pub fn unit() -> Self {
        Axes {
            x_range: Some((0.0, 1.0)),
            y_range: Some((0.0, 1.0)),
            size: [340, 330],
            low_legend: true,
            ..Axes::default()
        }
    }
}

/// Colours of several series, for a light page and for a dark one.
pub const COLORS: [[u8; 3]; 10] = [
    [62, 131, 214],
    [214, 110, 20],
    [38, 150, 96],
    [150, 95, 205],
    [208, 70, 84],
    [20, 148, 165],
    [150, 112, 72],
    [214, 90, 160],
    [128, 138, 30],
    [128, 128, 128],
];

/// The colour of one of several series.
pub fn color(at: usize) -> [u8; 3] {
    COLORS[at % COLORS.len()]
}

/// At most about so many of the points of a line, its ends among them; points on a line between their neighbours go first.
pub fn thinned(points: &[(f64, f64)], most: usize) -> Vec<(f64, f64)> {
    let bends = |at: &usize| {
        let [a, b, c] = [at - 1, *at, at + 1].map(|i| points[i]);
        (b.0 - a.0) * (c.1 - a.1) != (b.1 - a.1) * (c.0 - a.0)
    };
    let last = points.len().saturating_sub(1);
    let kept: Vec<usize> = (0..points.len()).filter(|at| *at == 0 || *at == last || bends(at)).collect();
    let step = kept.len().div_ceil(most.max(2)).max(1);
    let even = kept.iter().enumerate().filter(|(i, at)| i % step == 0 || **at == last);
    even.map(|(_, &at)| points[at]).collect()
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

/// The chart as an SVG element of its size or narrower, as its place allows. Frame and letters have the colour of the text around
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
    let (x0, x1) = widened(axes.x_range.unwrap_or_else(|| span(&mut points().map(|p| p.0))));
    let (y0, y1) = widened(axes.y_range.unwrap_or_else(|| span(&mut points().map(|p| p.1))));
    if points().next().is_none() {
        return Err(failed("has no finite point".into()));
    }
    let mut svg = String::new();
    let mut draw = || -> std::result::Result<(), Box<dyn std::error::Error>> {
        let root = SVGBackend::with_string(&mut svg, (axes.size[0], axes.size[1])).into_drawing_area();
        let mut chart = ChartBuilder::on(&root)
            .caption(printable(axes.title), ("sans-serif", 16))
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
            let points = s.points.iter().copied();
            let thick = color.stroke_width(if s.shape == Shape::Thin { 1 } else { 2 });
            let drawn = match s.shape {
                Shape::Line | Shape::Thin => chart.draw_series(LineSeries::new(points, thick))?,
                Shape::Discs => chart.draw_series(points.map(|at| Circle::new(at, 3, color.filled())))?,
                Shape::Dots => chart.draw_series(points.map(|at| Circle::new(at, 2, color.filled())))?,
                Shape::Crosses => chart.draw_series(points.map(|at| Cross::new(at, 4, thick)))?,
                Shape::Shade => {
                    let corners: Vec<(f64, f64)> = points.collect();
                    chart.draw_series(std::iter::once(Polygon::new(corners, color.mix(0.18).filled())))?
                }
            };
            if !s.name.is_empty() {
                drawn.label(printable(s.name)).legend(move |(x, y)| PathElement::new([(x, y), (x + 14, y)], thick));
            }
        }
        if series.iter().any(|s| !s.name.is_empty()) {
            let corner = match axes.low_legend {
                true => SeriesLabelPosition::LowerRight,
                false => SeriesLabelPosition::UpperRight,
            };
            chart
                .configure_series_labels()
                .position(corner)
                .border_style(BLACK.mix(0.2))
                .background_style(WHITE.mix(0.8))
                .draw()?;
        }
        root.present()?;
        Ok(())
    };
    draw().map_err(|e| failed(format!("cannot be drawn: {e}")))?;
    let svg = svg.replace("\"#000000\"", "\"currentColor\"").replace("fill=\"#FFFFFF\"", "class=\"page\"");
    let title = escape(axes.title);
    let named = format!("role=\"img\" aria-label=\"{title}\"><title>{title}</title>");
    Ok(svg.replacen("xmlns=\"http://www.w3.org/2000/svg\">", &named, 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The numbers beside the y axis, from the bottom.
    fn y_ticks(points: &[(f64, f64)], y_range: Option<(f64, f64)>) -> Vec<String> {
        let axes = Axes { title: "loss", x: "step", y: "nat", counts: true, y_range, ..Axes::default() };
        let svg = lines(&axes, &[Series { points, ..Series::default() }]).unwrap();
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

    #[test]
    fn a_chart_says_what_it_is_and_holds_no_foreign_markup() {
        let axes = Axes { title: "<b> & \"q\"", ..Axes::unit() };
        let series = Series { name: "<i>&\"", points: &[(0.0, 0.0), (1.0, 1.0)], ..Series::default() };
        let svg = lines(&axes, &[series]).unwrap();
        assert!(svg.contains("role=\"img\" aria-label=\"&lt;b&gt; &amp; &quot;q&quot;\"><title>"), "{svg}");
        assert!(!svg.contains("<b>") && !svg.contains("<i>") && !svg.contains("http"), "{svg}");
    }

    #[test]
    fn a_thinned_line_keeps_its_ends_and_its_bends() {
        let steps = [(0.0, 0.0), (0.0, 0.5), (0.0, 1.0), (0.5, 1.0), (1.0, 1.0)];
        assert_eq!(thinned(&steps, 100), [(0.0, 0.0), (0.0, 1.0), (1.0, 1.0)]);
        let many: Vec<(f64, f64)> = (0..5000).map(|i| (f64::from(i), f64::from(i % 7))).collect();
        let few = thinned(&many, 200);
        assert!(few.len() <= 202 && few[0] == many[0] && few.last() == many.last(), "{}", few.len());
        assert_eq!(thinned(&[], 10), []);
        assert_eq!(thinned(&[(1.0, 2.0)], 10), [(1.0, 2.0)]);
    }
}
