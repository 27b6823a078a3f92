//! Tables as LaTeX, for the package `booktabs`.

use std::fmt::Write;

use super::layout::{Layout, Mark, Shown, Words};
use super::{Better, Table};

const WORDS: Words = Words {
    ranked: "Bold: best of the column; underlined: second.",
    star: "*",
    interval: "In brackets: confidence interval.",
    paper: "In parentheses: the paper's figure.",
};

pub fn latex(table: &Table) -> String {
    let layout = Layout::of(table);
    let names = layout.heads.len();
    let title = escape(&table.title);
    let caption = if table.caption.is_empty() { String::new() } else { format!(" {}", escape(&table.caption)) };
    let mut out = format!("\\begin{{table}}\n\\centering\n\\caption{{\\textbf{{{title}}}{caption}}}\n");
    let _ = writeln!(out, "\\label{{tab:{}}}", label(&table.name));
    let _ = writeln!(out, "\\begin{{tabular}}{{{}{}}}\n\\toprule", "l".repeat(names), "c".repeat(table.columns.len()));
    for level in &layout.levels {
        let (mut line, mut rules) = (" &".repeat(names - 1), String::new());
        for heading in level {
            let (span, first) = (heading.columns, names + heading.first + 1);
            let _ = write!(line, " & \\multicolumn{{{span}}}{{c}}{{{}}}", escape(&heading.text));
            if !heading.text.is_empty() {
                let _ = write!(rules, "\\cmidrule(lr){{{first}-{}}}", first + span - 1);
            }
        }
        let _ = writeln!(out, "{line} \\\\\n{rules}");
    }
    let columns = table.columns.iter().map(|column| format!("{}{}", escape(&column.name), arrow(column.better)));
    line(&mut out, layout.heads.iter().map(|head| escape(head)).chain(columns));
    out.push_str("\\midrule\n");
    for (names, cells) in &layout.rows {
        line(&mut out, names.iter().map(|name| escape(name)).chain(cells.iter().map(shown)));
    }
    out.push_str("\\bottomrule\n\\end{tabular}\n");
    let legend = layout.legend(&WORDS).into_iter().map(|says| escape(&says));
    let missing = layout.missing.iter().enumerate().map(|(i, what)| format!("$^{{{}}}$ {}", i + 1, escape(what)));
    let notes: Vec<String> = legend.chain(missing).collect();
    if !notes.is_empty() {
        let _ = writeln!(out, "\\par\\smallskip{{\\footnotesize {}\\par}}", notes.join(" "));
    }
    out.push_str("\\end{table}\n");
    out
}

fn line(out: &mut String, cells: impl Iterator<Item = String>) {
    let _ = writeln!(out, "{} \\\\", cells.collect::<Vec<_>>().join(" & "));
}

fn arrow(better: Better) -> &'static str {
    match better {
        Better::Higher => " $\\uparrow$",
        Better::Lower => " $\\downarrow$",
        Better::Neither => "",
    }
}

fn shown(cell: &Shown) -> String {
    let value = if cell.value == "–" { "--".to_string() } else { cell.value.clone() };
    let star = if cell.significant { "$^{*}$" } else { "" };
    let mut out = match cell.mark {
        Mark::Best => format!("\\textbf{{{value}}}{star}"),
        Mark::Second => format!("\\underline{{{value}}}{star}"),
        Mark::Plain => format!("{value}{star}"),
    };
    if let Some(note) = cell.note {
        let _ = write!(out, "$^{{{note}}}$");
    }
    if let Some(paper) = &cell.paper {
        let _ = write!(out, " ({paper})");
    }
    if let Some([low, high]) = &cell.interval {
        let _ = write!(out, " {{\\scriptsize {{[}}{low}, {high}{{]}}}}");
    }
    out
}

/// Text that LaTeX sets as it stands. Brackets and stars are in groups: after `\\` they would be its arguments.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\textbackslash{}"),
            '~' => out.push_str("\\textasciitilde{}"),
            '^' => out.push_str("\\textasciicircum{}"),
            '<' => out.push_str("\\textless{}"),
            '>' => out.push_str("\\textgreater{}"),
            '|' => out.push_str("\\textbar{}"),
            '"' => out.push_str("{''}"),
            '&' | '%' | '$' | '#' | '_' | '{' | '}' => out.extend(['\\', c]),
            '[' | ']' | '*' => out.extend(['{', c, '}']),
            c if c.is_control() => out.push(' '),
            c if is_set(c) => out.push(c),
            // By its number, since LaTeX ends with an error at a letter that its fonts lack.
            c => {
                let _ = write!(out, "U+{:04X}", u32::from(c));
            }
        }
    }
    out
}

/// Whether LaTeX's own fonts have it: Latin letters but for a few, signs, dashes, quotation marks.
fn is_set(c: char) -> bool {
    matches!(c, ' '..='\u{17e}' | '–' | '—' | '‘' | '’' | '“' | '”' | '„' | '…' | '•') && !"ĦħĸĿŀŉŦŧ".contains(c)
}

/// A name in a label: letters, digits and dashes.
fn label(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect()
}
