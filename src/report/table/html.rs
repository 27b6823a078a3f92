//! Tables as HTML.

use std::fmt::Write;

use super::Table;
use super::layout::{Layout, Mark, Shown, Words};
use crate::report::text::escape;

const WORDS: Words = Words {
    ranked: "Bold: best of the column; underlined: second.",
    star: "*",
    interval: "Below: confidence interval.",
    paper: "In parentheses: the paper's figure.",
};

pub fn html(table: &Table) -> String {
    let layout = Layout::of(table);
    let title = escape(&table.title);
    // Beside the table, not its caption: it stays where it is when a wide table is scrolled.
    let mut out = format!("<p class=\"caption\"><b>{title}</b>");
    if !table.caption.is_empty() {
        let _ = write!(out, " {}", escape(&table.caption));
    }
    let _ = write!(
        out,
        "</p><div class=\"wide\" role=\"region\" aria-label=\"{title}\" tabindex=\"0\"><table aria-label=\"{title}\"><thead>"
    );
    header(&mut out, table, &layout);
    out.push_str("</thead><tbody>");
    for ((names, cells), row) in layout.rows.iter().zip(&table.rows) {
        out.push_str(if row.reference { "<tr class=\"reference\">" } else { "<tr>" });
        let _ = write!(out, "<th scope=\"row\">{}</th>", escape(&names[0]));
        names[1..].iter().for_each(|name| _ = write!(out, "<td class=\"variant\">{}</td>", escape(name)));
        cells.iter().for_each(|cell| _ = write!(out, "<td>{}</td>", shown(cell)));
        out.push_str("</tr>");
    }
    out.push_str("</tbody></table></div>");
    notes(&mut out, &layout);
    out
}

fn header(out: &mut String, table: &Table, layout: &Layout) {
    let lines = layout.levels.len() + 1;
    let mut heads: String = layout
        .heads
        .iter()
        .map(|head| format!("<th scope=\"col\" rowspan=\"{lines}\" class=\"name\">{}</th>", escape(head)))
        .collect();
    for level in &layout.levels {
        let _ = write!(out, "<tr>{}", std::mem::take(&mut heads));
        for heading in level {
            let (span, text) = (heading.columns, escape(&heading.text));
            let _ = match text.is_empty() {
                true => write!(out, "<td colspan=\"{span}\"></td>"),
                false => write!(out, "<th scope=\"colgroup\" colspan=\"{span}\" class=\"group\">{text}</th>"),
            };
        }
        out.push_str("</tr>");
    }
    let _ = write!(out, "<tr>{heads}");
    table.columns.iter().for_each(|column| _ = write!(out, "<th scope=\"col\">{}</th>", escape(&column.name)));
    out.push_str("</tr>");
}

fn shown(cell: &Shown) -> String {
    let star = if cell.significant { "*" } else { "" };
    let mut out = match cell.mark {
        Mark::Best => format!("<b>{}{star}</b>", cell.value),
        Mark::Second => format!("<u>{}{star}</u>", cell.value),
        Mark::Plain => format!("{}{star}", cell.value),
    };
    if let Some(note) = cell.note {
        let _ = write!(out, "<sup>{note}</sup>");
    }
    if let Some(paper) = &cell.paper {
        let _ = write!(out, " <span class=\"paper\">({paper})</span>");
    }
    if let Some([low, high]) = &cell.interval {
        let _ = write!(out, "<br><small>{low} to {high}</small>");
    }
    out
}

fn notes(out: &mut String, layout: &Layout) {
    let legend = layout.legend(&WORDS);
    if !legend.is_empty() {
        let _ = write!(out, "<p class=\"notes\">{}</p>", escape(&legend.join(" ")));
    }
    if !layout.missing.is_empty() {
        let items: String = layout.missing.iter().map(|what| format!("<li>{}</li>", escape(what))).collect();
        let _ = write!(out, "<ol class=\"notes\">{items}</ol>");
    }
}
