//! Tables as text for a terminal.

use std::fmt::Write;

use console::measure_text_width as width;

use super::Table;
use super::layout::{Layout, Mark, Shown, Words};
use crate::report::text::printable;

const WORDS: Words = Words {
    ranked: "^: best of the column.",
    star: "*",
    interval: "In brackets: confidence interval.",
    paper: "In parentheses: the paper's figure.",
};

pub fn text(table: &Table) -> String {
    let layout = Layout::of(table);
    let names = layout.heads.len();
    let columns = table.columns.iter().map(|column| printable(&column.name));
    let mut lines: Vec<Vec<String>> = vec![layout.heads.iter().map(|head| printable(head)).chain(columns).collect()];
    for (names, cells) in &layout.rows {
        lines.push(names.iter().map(|name| printable(name)).chain(cells.iter().map(shown)).collect());
    }
    let mut widths: Vec<usize> =
        (0..lines[0].len()).map(|at| lines.iter().map(|line| width(&line[at])).max().unwrap_or(0)).collect();
    // A heading that is wider than its columns widens the last of them.
    for heading in layout.levels.iter().flatten() {
        let below = &mut widths[names + heading.first..][..heading.columns];
        let room = below.iter().sum::<usize>() + 2 * (below.len() - 1);
        below[heading.columns - 1] += width(&printable(&heading.text)).saturating_sub(room);
    }
    let mut out = format!("{}\n", printable(&table.title));
    if !table.caption.is_empty() {
        let _ = writeln!(out, "{}", printable(&table.caption));
    }
    out.push('\n');
    let indent = " ".repeat(widths[..names].iter().map(|width| width + 2).sum());
    for level in &layout.levels {
        let cells = level.iter().map(|heading| {
            let below = &widths[names + heading.first..][..heading.columns];
            let room = below.iter().sum::<usize>() + 2 * (below.len() - 1);
            centred(&printable(&heading.text), room)
        });
        push(&mut out, &format!("{indent}{}", cells.collect::<Vec<_>>().join("  ")));
    }
    for line in &lines {
        let cells = line.iter().zip(&widths).enumerate().map(|(at, (cell, &room))| {
            let pad = " ".repeat(room.saturating_sub(width(cell)));
            if at < names { format!("{cell}{pad}") } else { format!("{pad}{cell}") }
        });
        push(&mut out, &cells.collect::<Vec<_>>().join("  "));
    }
    let missing = layout.missing.iter().enumerate().map(|(i, what)| format!("({}) {}", i + 1, printable(what)));
    for (i, note) in layout.legend(&WORDS).into_iter().map(|says| printable(&says)).chain(missing).enumerate() {
        let _ = writeln!(out, "{}{note}", if i == 0 { "\n" } else { "" });
    }
    out
}

fn push(out: &mut String, line: &str) {
    let _ = writeln!(out, "{}", line.trim_end());
}

/// A heading in the middle of its columns, between dashes where there is room.
fn centred(text: &str, room: usize) -> String {
    let free = room.saturating_sub(width(text));
    if text.is_empty() || free < 4 {
        let left = " ".repeat(free / 2);
        return format!("{left}{text}{}", " ".repeat(free - free / 2));
    }
    let (left, right) = ("-".repeat(free / 2 - 1), "-".repeat(free - free / 2 - 1));
    format!("{left} {text} {right}")
}

fn shown(cell: &Shown) -> String {
    let mut out = if cell.value == "–" { "-".to_string() } else { cell.value.clone() };
    if cell.mark == Mark::Best {
        out.push('^');
    }
    if cell.significant {
        out.push('*');
    }
    if let Some(note) = cell.note {
        let _ = write!(out, " ({note})");
    }
    if let Some(paper) = &cell.paper {
        let _ = write!(out, " ({paper})");
    }
    if let Some([low, high]) = &cell.interval {
        let _ = write!(out, " [{low}, {high}]");
    }
    out
}
