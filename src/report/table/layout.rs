//! What a table shows, whatever it is written in: headings, numbers as text, marks and notes.

use super::{Better, Row, Table};

/// A heading above neighbouring columns; empty above those that have none.
pub struct Heading {
    pub text: String,
    /// Its first column.
    pub first: usize,
    /// Columns below it.
    pub columns: usize,
}

/// How a value stands among those of its column.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mark {
    Best,
    Second,
    #[default]
    Plain,
}

/// A cell as text.
#[derive(Default)]
pub struct Shown {
    /// The value, or a dash.
    pub value: String,
    pub mark: Mark,
    pub significant: bool,
    pub interval: Option<[String; 2]>,
    pub paper: Option<String>,
    /// Which of the notes says why there is no value, from 1.
    pub note: Option<usize>,
}

/// A table as text.
pub struct Layout {
    /// Headings of the columns of names.
    pub heads: Vec<String>,
    /// From the top.
    pub levels: Vec<Vec<Heading>>,
    /// The names of each row, then its cells.
    pub rows: Vec<(Vec<String>, Vec<Shown>)>,
    /// What is missing, each once.
    pub missing: Vec<String>,
    /// Whole sentences that explain the marks in use; these call the best and the second best of a column so.
    legend: Vec<Sign>,
    against: Option<String>,
}

#[derive(Clone, Copy, PartialEq)]
enum Sign {
    Ranked,
    Significant,
    Interval,
    Paper,
}

/// How a rendering shows what needs an explanation.
pub struct Words {
    pub ranked: &'static str,
    pub star: &'static str,
    pub interval: &'static str,
    pub paper: &'static str,
}

/// Headings of the columns of names: that of variants only where there are some.
pub fn heads(table: &Table) -> Vec<String> {
    let named = |at: usize, default: &str| match table.heads[at].is_empty() {
        true => default.to_string(),
        false => table.heads[at].clone(),
    };
    let variants = table.rows.iter().any(|row| row.variant.is_some());
    std::iter::once(named(0, "Method")).chain(variants.then(|| named(1, "Backbone"))).collect()
}

/// The names of a row in so many columns.
pub fn names(row: &Row, columns: usize) -> Vec<String> {
    [row.name.clone(), row.variant.clone().unwrap_or_default()].into_iter().take(columns).collect()
}

impl Layout {
    pub fn of(table: &Table) -> Self {
        let heads = heads(table);
        let marks = marks(table);
        let (mut missing, mut legend) = (Vec::new(), Vec::new());
        let mut rows = Vec::new();
        for (row, marks) in table.rows.iter().zip(&marks) {
            let mut cells = Vec::new();
            for ((cell, column), &mark) in row.cells.iter().zip(&table.columns).zip(marks) {
                let number = |value: f64| fixed(value, column.digits);
                let shown = Shown {
                    value: cell.value.map_or("–".into(), number),
                    mark,
                    significant: cell.value.is_some() && cell.is_significant(),
                    interval: cell.interval.map(|ends| ends.map(number)),
                    paper: cell.paper.map(number),
                    note: cell.missing.as_ref().map(|what| 1 + place(&mut missing, what)),
                };
                let uses = [
                    (Sign::Ranked, mark != Mark::Plain),
                    (Sign::Significant, shown.significant),
                    (Sign::Interval, shown.interval.is_some()),
                    (Sign::Paper, shown.paper.is_some()),
                ];
                legend.extend(uses.into_iter().filter(|(_, used)| *used).map(|(sign, _)| sign));
                cells.push(shown);
            }
            rows.push((names(row, heads.len()), cells));
        }
        Layout { heads, levels: levels(table), rows, missing, legend, against: table.against.clone() }
    }

    /// Whole sentences that explain the signs in use.
    pub fn legend(&self, words: &Words) -> Vec<String> {
        let against = self.against.as_ref().map_or(String::new(), |against| format!(" against {against}"));
        let all = [
            (Sign::Ranked, words.ranked.to_string()),
            (Sign::Significant, format!("{}: p < {}{against}.", words.star, super::ALPHA)),
            (Sign::Interval, words.interval.to_string()),
            (Sign::Paper, words.paper.to_string()),
        ];
        all.into_iter().filter(|(sign, _)| self.legend.contains(sign)).map(|(_, says)| says).collect()
    }
}

/// A number with so many digits; what rounds to zero has no sign.
pub fn fixed(value: f64, digits: usize) -> String {
    let text = format!("{value:.digits$}");
    match text.strip_prefix('-') {
        Some(rest) if !rest.contains(|digit: char| digit.is_ascii_digit() && digit != '0') => rest.into(),
        _ => text,
    }
}

/// The place of a text among those seen.
fn place(seen: &mut Vec<String>, text: &str) -> usize {
    seen.iter().position(|other| other == text).unwrap_or_else(|| {
        seen.push(text.into());
        seen.len() - 1
    })
}

/// The headings of each level: neighbours whose groups agree down to it share one.
fn levels(table: &Table) -> Vec<Vec<Heading>> {
    let group = |column: usize, level: usize| table.columns[column].groups.get(level).map_or("", String::as_str);
    let depth = table.columns.iter().map(|column| column.groups.len()).max().unwrap_or(0);
    let mut levels = Vec::new();
    for level in 0..depth {
        let mut headings: Vec<Heading> = Vec::new();
        for column in 0..table.columns.len() {
            let alike = |last: &Heading| (0..=level).all(|l| group(last.first, l) == group(column, l));
            match headings.last_mut().filter(|last| alike(last)) {
                Some(last) => last.columns += 1,
                None => headings.push(Heading { text: group(column, level).into(), first: column, columns: 1 }),
            }
        }
        levels.push(headings);
    }
    levels
}

/// The best and the second best of each column as they are shown: equal numbers are equally good, and one alone is neither.
fn marks(table: &Table) -> Vec<Vec<Mark>> {
    let mut marks: Vec<Vec<Mark>> = table.rows.iter().map(|row| vec![Mark::Plain; row.cells.len()]).collect();
    for (at, column) in table.columns.iter().enumerate() {
        let sign = match column.better {
            Better::Higher => 1.0,
            Better::Lower => -1.0,
            Better::Neither => continue,
        };
        let ranked = |row: &Row| {
            let value = row.cells.get(at)?.value.filter(|_| !row.reference)?;
            fixed(value, column.digits).parse::<f64>().ok().map(|value| sign * value)
        };
        let mut values: Vec<f64> = table.rows.iter().filter_map(ranked).collect();
        if values.len() < 2 {
            continue;
        }
        values.sort_by(|a, b| b.total_cmp(a));
        values.dedup();
        for (row, marks) in table.rows.iter().zip(&mut marks) {
            marks[at] = match ranked(row) {
                Some(value) if value == values[0] && values.len() > 1 => Mark::Best,
                Some(value) if values.len() > 2 && value == values[1] => Mark::Second,
                _ => Mark::Plain,
            };
        }
    }
    marks
}
