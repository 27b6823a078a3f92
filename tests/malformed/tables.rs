//! A data set's tables: headers, cells, rows and whole files that are not what CT-RATE's are.

use std::path::Path;

use super::workspace::Workspace;
use super::{Case, Demand, draws};
use x2ct::philox::Rng;

const LABELS: &str = "multi_abnormality_labels/valid_predicted_labels.csv";
const REPORTS: &str = "radiology_text_reports/validation_reports.csv";
const METADATA: &str = "metadata/validation_metadata.csv";

type Rows = Vec<Vec<String>>;

fn parse(bytes: &[u8]) -> Rows {
    let mut reader = csv::ReaderBuilder::new().has_headers(false).from_reader(bytes);
    reader.records().map(|row| row.unwrap().iter().map(String::from).collect()).collect()
}

fn text(rows: &Rows, delimiter: u8, ending: &str) -> Vec<u8> {
    let terminator = if ending == "\r\n" { csv::Terminator::CRLF } else { csv::Terminator::Any(b'\n') };
    let mut writer =
        csv::WriterBuilder::new().flexible(true).delimiter(delimiter).terminator(terminator).from_writer(Vec::new());
    rows.iter().for_each(|row| writer.write_record(row).unwrap());
    writer.into_inner().unwrap()
}

/// Edits of any table, by kind: what was done, the bytes, and what must be said beside the table's name.
fn spoil(kind: usize, mut rows: Rows, rng: &mut Rng) -> (String, Vec<u8>, String) {
    let ending = if rng.chance(0.5) { "\r\n" } else { "\n" };
    let row = 1 + rng.below(rows.len() - 1);
    let column = 1 + rng.below(rows[0].len().min(4) - 1);
    let name = rows[row][0].clone();
    let head = rows[0][column].clone();
    let mut delimiter = b',';
    let (what, words) = match kind {
        0 => {
            rows[0][column] += "s";
            (format!("column {head} misspelt"), head)
        }
        1 => {
            rows.iter_mut().for_each(|row| drop(row.remove(column)));
            (format!("column {head} gone"), head)
        }
        2 => {
            rows[row].push("more".into());
            (format!("line {} has a cell more", row + 1), format!("line {}", row + 1))
        }
        3 => {
            rows[row].truncate(1);
            (format!("line {} ends after its name", row + 1), format!("line {}", row + 1))
        }
        4 => {
            let again = rows[row].clone();
            rows.push(again);
            (format!("{name} stands twice"), name.replace(".nii.gz", ""))
        }
        5 => {
            let bad = ["../../passwd", "valid_x_a_1.nii.gz", "valid_1.png", "\u{202e}evil"][rng.below(4)];
            rows[row][0] = bad.into();
            (format!("{name} is called {bad:?}"), format!("line {}|{}", row + 1, name.replace(".nii.gz", "")))
        }
        6 => {
            delimiter = [b';', b'\t'][rng.below(2)];
            ("another delimiter".into(), "column|header|delimiter".to_string())
        }
        7 => {
            rows.iter_mut().enumerate().for_each(|(i, row)| {
                row.insert(0, if i == 0 { String::new() } else { i.to_string() });
            });
            ("an index column without a name".into(), "column 1".to_string())
        }
        _ => {
            let bytes: &[u8] = [
                &b""[..],
                b"<!DOCTYPE html><html><body>404</body></html>",
                b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n",
                b"\xff\xfeV\0o\0l\0u\0m\0e\0",
                b"PK\x03\x04\x14\0\0\0",
                b"\0\0\0\0\0\0\0\0",
            ][rng.below(6)];
            return (format!("{} bytes of something else", bytes.len()), bytes.to_vec(), String::new());
        }
    };
    (what, text(&rows, delimiter, ending), words)
}

/// A copy of the data set's valid part with one table replaced.
fn copy(workspace: &Workspace, name: &str, table: &str, bytes: &[u8]) {
    fn copy_folder(from: &Path, to: &Path) {
        std::fs::create_dir_all(to).unwrap();
        for entry in std::fs::read_dir(from).unwrap() {
            let entry = entry.unwrap();
            let target = to.join(entry.file_name());
            if entry.file_type().unwrap().is_dir() {
                copy_folder(&entry.path(), &target);
            } else {
                std::fs::copy(entry.path(), target).unwrap();
            }
        }
    }
    let at = workspace.at();
    for part in ["metadata", "multi_abnormality_labels", "radiology_text_reports", "valid_fixed"] {
        copy_folder(&at.join("dataset").join(part), &at.join(name).join("dataset").join(part));
    }
    std::fs::write(at.join(name).join("dataset").join(table), bytes).unwrap();
}

pub fn cases(workspace: &Workspace) -> Vec<Case> {
    let mut cases = Vec::new();
    let mut add = |what: String, table: &str, bytes: &[u8], command: &dyn Fn(&str) -> String, words: &str| {
        let name = format!("d{}", cases.len());
        copy(workspace, &name, table, bytes);
        let file = table.rsplit('/').next().unwrap();
        cases.push(Case::new(format!("{table}: {what}"), command(&name), Demand::Said, &[file, words]));
    };
    let eval = |name: &str| format!("eval --cache valid.cache.safetensors --dataset {name}");
    let features =
        |name: &str| format!("cache text --dataset {name} --split valid --features 64 --out {name}.text.safetensors");
    let pictures =
        |name: &str| format!("drr --dataset {name} --split valid --size 32x32 --hu-source csv --out {name}.drr");
    for (number, table, command) in [(4, LABELS, &eval as &dyn Fn(&str) -> String), (5, REPORTS, &features)] {
        let good = parse(&workspace.read(&format!("dataset/{table}")));
        for index in 0..18 {
            let (what, bytes, words) = spoil(index % 9, good.clone(), &mut draws(number, index));
            add(what, table, &bytes, command, &words);
        }
    }
    let good = parse(&workspace.read(&format!("dataset/{LABELS}")));
    for index in 0..6 {
        let mut rng = draws(6, index);
        let (row, column) = (1 + rng.below(good.len() - 1), 1 + rng.below(18));
        let value = ["maybe", "2", "-1", "NaN", "", "1,0"][index];
        let mut rows = good.clone();
        rows[row][column] = value.into();
        let place = format!("line {}", row + 1);
        add(format!("{place}, column {column}: {value:?}"), LABELS, &text(&rows, b',', "\r\n"), &eval, &place);
    }
    let good = parse(&workspace.read(&format!("dataset/{METADATA}")));
    for (index, (head, value)) in [
        ("ZSpacing", "None"),
        ("ZSpacing", "-3"),
        ("ZSpacing", "0"),
        ("XYSpacing", "[10, 0]"),
        ("XYSpacing", "[10, 12]"),
        ("RescaleSlope", "nan"),
        ("RescaleSlope", "0"),
        ("RescaleIntercept", "1e39"),
        ("RescaleIntercept", "minus"),
    ]
    .into_iter()
    .enumerate()
    {
        let mut rows = good.clone();
        let (row, column) = (1 + index % 3, rows[0].iter().position(|h| h == head).unwrap());
        rows[row][column] = value.into();
        let place = format!("line {}", row + 1);
        add(format!("{place}: {head} {value:?}"), METADATA, &text(&rows, b',', "\r\n"), &pictures, &place);
    }
    cases
}
