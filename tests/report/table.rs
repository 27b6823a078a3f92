use x2ct::report::{Better, Cell, Column, Row, Table};

use super::page::{attribute, elements};

/// A table as the paper has it: headings of two levels, variants, a row for reference, what is missing.
fn retrieval() -> Table {
    let columns = [("CT-RATE", "CT-V"), ("CT-RATE", "CT-R"), ("MIMIC-CT", "CT-R")];
    let columns = columns.into_iter().flat_map(|(set, of)| ["R5", "R10"].map(|k| Column::new(k).of([set, of])));
    let cells = |values: [f64; 4]| {
        let measured = values.map(|value| Cell::of(value).within([value - 0.01, value + 0.01]));
        measured.into_iter().chain([0, 1].map(|_| Cell::missing("MIMIC-CT: pass --mimic FOLDER"))).collect::<Vec<_>>()
    };
    let mut ours = cells([0.118, 0.162, 0.048, 0.077]);
    ours[0] = Cell::of(0.118).beside(0.129).p(0.03);
    Table {
        name: "table-2".into(),
        title: "Cross-modal retrieval".into(),
        caption: "The radiograph asks.".into(),
        against: Some("the closest baseline".into()),
        columns: columns.chain([Column::new("GFLOP").digits(1).better(Better::Lower)]).collect(),
        rows: vec![
            Row::new("CT-CLIP", [cells([0.9; 4]), vec![Cell::of(160.5)]].concat()).reference().variant("3DViT"),
            Row::new("MedCLIP", [cells([0.001; 4]), vec![Cell::of(4.24)]].concat()).variant("Swin"),
            Row::new("Ours", [ours, vec![Cell::of(4.06)]].concat()).variant("ResNet"),
            Row::new("Ours", [cells([0.117, 0.181, 0.0476, 0.078]), vec![Cell::of(4.11)]].concat()).variant("Swin"),
        ],
        ..Table::default()
    }
}

/// A table whose every text is hostile to some form.
fn odd() -> Table {
    let name = "<script>alert(\"1\")</script> & 'x', 50 % of $_#{}~^\\ |[*] äß肺\u{7}\n\"";
    let mut table = Table {
        name: name.into(),
        title: name.into(),
        caption: name.into(),
        heads: [name.into(), name.into()],
        against: Some(name.into()),
        columns: vec![Column::new(name).of([name, name]), Column::new("[b]").of([name])],
        rows: vec![
            Row::new(name, vec![Cell::missing(name), Cell::of(-0.0001)]).variant(name),
            Row::new("[2] * &", vec![Cell::of(1.0).p(0.01), Cell::default()]),
        ],
    };
    table.columns[1].better = Better::Neither;
    table
}

#[test]
fn json_is_read_as_it_was_written() {
    for table in [retrieval(), odd()] {
        assert_eq!(Table::from_json(&table.json()).unwrap(), table);
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("zero shot.table.json");
    let text = retrieval().json();
    for (what, text, says) in [
        ("half", text[..text.len() / 2].to_string(), "is no whole JSON"),
        ("other format", text.replace("x2ct-table-1", "x2ct-table-9"), "not \"x2ct-table-1\""),
        ("no format", "{}".into(), "has the format none"),
        ("an array", "[]".into(), "has the format none"),
        ("another field", text.replace("\"caption\"", "\"subtitle\""), "unknown field `subtitle`"),
        ("infinite", text.replace("160.5", "1e999"), "is no whole JSON"),
        ("text", text.replace("160.5", "\"160.5\""), "is not as tables are"),
        ("p", text.replace("\"p\": 0.03", "\"p\": 1.03"), "row \"Ours\", column \"CT-RATE / CT-V / R5\" has p = 1.03"),
        ("digits", text.replace("\"digits\": 1", "\"digits\": 99"), "has 99 digits"),
    ] {
        std::fs::write(&path, text).unwrap();
        let error = Table::read(&path).unwrap_err().to_string();
        assert!(error.contains(says) && error.contains("zero shot.table.json"), "{what}: {error}");
    }
    std::fs::write(&path, [0xff, 0xfe]).unwrap();
    assert!(Table::read(&path).unwrap_err().to_string().contains("is no text"));
    assert!(Table::read(&folder.path().join("none")).unwrap_err().to_string().contains("cannot read the table"));
}

#[test]
fn a_cell_or_row_that_cannot_be_shown_is_named() {
    let refused = |change: fn(&mut Table)| {
        let mut table = retrieval();
        change(&mut table);
        table.check().unwrap_err().to_string()
    };
    assert!(refused(|t| _ = t.rows[1].cells.pop()).contains("row \"MedCLIP\" has 6 cells for 7 columns"));
    let place = "row \"CT-CLIP\", column \"CT-RATE / CT-V / R10\"";
    assert!(refused(|t| t.rows[0].cells[1].value = Some(f64::NAN)).contains(&format!("{place} holds the number NaN")));
    let error = refused(|t| t.rows[0].cells[1].interval = Some([2.0, 1.0]));
    assert!(error.contains(&format!("{place} has an interval from 2 to 1")), "{error}");
    assert!(refused(|t| t.columns.clear()).contains("no column"));
}

#[test]
fn text_shows_the_papers_layout() {
    let expected = "\
Cross-modal retrieval
The radiograph asks.

                   --------------------------- CT-RATE ----------------------------  - MIMIC-CT --
                   ------------ CT-V -------------  ------------- CT-R ------------  --- CT-R ----
Method   Backbone              R5              R10               R5             R10     R5     R10  GFLOP
";
    let text = retrieval().text();
    let (head, body) = text.split_at(text.find("CT-CLIP").unwrap());
    let squeezed = |text: &str| text.split_whitespace().map(|word| word.trim_matches('-')).collect::<String>();
    assert_eq!(squeezed(head), squeezed(expected), "{head}");
    let lines: Vec<&str> = body.lines().collect();
    assert!(lines[0].contains("0.900 [0.890, 0.910]") && !lines[0].contains('^'), "{}", lines[0]);
    assert!(lines[2].contains("0.118^* (0.129)") && lines[2].contains("- (1)"), "{}", lines[2]);
    // 0.048 and 0.0476 are shown alike, and equally good.
    assert_eq!(body.matches("0.048^").count(), 2, "{body}");
    assert!(lines[2].ends_with("4.1^") && lines[3].ends_with("4.1^") && lines[1].ends_with("4.2"), "{body}");
    assert_eq!(body.matches("p < 0.05 against the closest baseline.").count(), 1);
    assert_eq!(body.matches("MIMIC-CT: pass --mimic FOLDER").count(), 1, "{body}");
    let wide = text.lines().skip(3).take(7).map(|line| line.chars().count()).max().unwrap();
    assert!(lines[..4].iter().all(|line| line.chars().count() == wide), "{text}");
}

#[test]
fn html_is_well_formed_and_its_rows_are_of_one_width() {
    for table in [retrieval(), odd()] {
        let html = table.html();
        let all = elements(&html);
        assert!(!html.contains("<script"), "{html}");
        let span = |start: &_, name: &str| attribute(start, name).map_or(1, |span| span.parse::<usize>().unwrap());
        let mut widths = Vec::new();
        let mut heads = 0;
        for start in &all {
            match start.0.as_str() {
                "tr" => widths.push(if widths.is_empty() { 0 } else { heads }),
                "th" | "td" => {
                    *widths.last_mut().unwrap() += span(start, "colspan");
                    heads += usize::from(span(start, "rowspan") > 1);
                }
                "tbody" => heads = 0,
                _ => {}
            }
        }
        let columns = table.columns.len() + 2;
        assert!(widths.iter().all(|&width| width == columns), "{widths:?} of {columns}");
    }
    let html = retrieval().html();
    assert!(html.contains("<td><b>0.118*</b> <span class=\"paper\">(0.129)</span></td>"), "{html}");
    assert!(html.contains("<u>0.117</u>") && html.contains("–<sup>1</sup>"), "{html}");
    assert!(html.contains("<tr class=\"reference\"><th scope=\"row\">CT-CLIP</th>"), "{html}");
}

#[test]
fn csv_holds_a_row_a_line_and_reads_back() {
    for table in [retrieval(), odd()] {
        let csv = table.csv();
        let mut reader = csv::Reader::from_reader(csv.as_bytes());
        let header = reader.headers().unwrap().clone();
        let rows: Vec<csv::StringRecord> = reader.records().map(Result::unwrap).collect();
        assert_eq!(rows.len(), table.rows.len());
        for (row, of) in rows.iter().zip(&table.rows) {
            assert_eq!((&row[0], row.len()), (of.name.as_str(), header.len()));
        }
    }
    let csv = retrieval().csv();
    let header = csv.lines().next().unwrap();
    let first = "Method,Backbone,CT-RATE / CT-V / R5,CT-RATE / CT-V / R5 low,CT-RATE / CT-V / R5 high,CT-RATE / CT-V / R5 paper";
    assert!(header.starts_with(first) && header.ends_with("MIMIC-CT / CT-R / R10 missing,GFLOP"), "{header}");
}

#[test]
fn latex_is_escaped_and_its_rows_are_of_one_width() {
    for table in [retrieval(), odd()] {
        let latex = table.latex();
        assert!(!latex.contains(|c: char| c.is_control() && c != '\n'), "{latex}");
        let body = latex.split("\\toprule\n").nth(1).unwrap().split("\\bottomrule").next().unwrap();
        for line in body.lines().filter(|line| line.ends_with("\\\\")) {
            let cells = line.replace("\\&", "").split(" &").count();
            let wider = line.split("\\multicolumn{").skip(1).map(|rest| rest[..1].parse::<usize>().unwrap() - 1);
            assert_eq!(cells + wider.sum::<usize>(), table.columns.len() + 2, "{line}");
        }
        let mut depth = 0_i32;
        for (at, c) in latex.char_indices().filter(|(_, c)| matches!(c, '{' | '}')) {
            let escaped = latex[..at].ends_with('\\') && !latex[..at].ends_with("\\\\");
            depth += if escaped { 0 } else { [1, -1][usize::from(c == '}')] };
            assert!(depth >= 0, "{latex}");
        }
        assert_eq!(depth, 0);
    }
    let name = "\\textless{}script\\textgreater{}alert({''}1{''})\\textless{}/script\\textgreater{} \\& 'x', 50 \\% of \
                \\$\\_\\#\\{\\}\\textasciitilde{}\\textasciicircum{}\\textbackslash{} \\textbar{}{[}{*}{]} äßU+80BA  {''}";
    assert!(odd().latex().contains(name), "{}", odd().latex());
    let latex = retrieval().latex();
    assert!(latex.contains("\\multicolumn{4}{c}{CT-RATE} & \\multicolumn{2}{c}{MIMIC-CT}"), "{latex}");
    assert!(latex.contains("\\cmidrule(lr){3-6}\\cmidrule(lr){7-8}"), "{latex}");
    assert!(latex.contains("\\textbf{0.118}$^{*}$ (0.129)") && latex.contains("--$^{1}$"), "{latex}");
    // What follows `\\` is never an argument of it.
    let lines: Vec<&str> = odd().latex().leak().lines().collect();
    assert!(lines.iter().all(|line| !line.trim_start().starts_with(['[', '*'])), "{lines:?}");
}

#[test]
fn what_rounds_to_zero_has_no_sign() {
    assert!(odd().text().contains(" 0.000") && !odd().text().contains("-0.000"));
}
