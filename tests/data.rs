//! The CT-RATE layout written and read back, and tables that are wrong.

mod cache;

use proptest::prelude::*;
use std::fs;
use std::path::{Path, PathBuf};
use x2ct::data::ct_rate::{self, Acquisition, CtRate, HuSource, LeftOut, Report, Split, Volume, VolumeName, Why};
use x2ct::labels::{self, Wording};

fn name(text: &str) -> VolumeName {
    text.parse().unwrap()
}

#[test]
fn volume_names_parse_and_print() {
    let n = name("train_12_b_3.nii.gz");
    assert_eq!((n.split, n.patient, n.scan.as_str(), n.reconstruction), (Split::Train, 12, "b", 3));
    assert_eq!((n.patient_name().as_str(), n.scan_name().as_str()), ("train_12", "train_12_b"));
    assert_eq!((n.to_string().as_str(), n.file_name().as_str()), ("train_12_b_3", "train_12_b_3.nii.gz"));
    assert_eq!(name("train_12_b_3"), n);
    let root = Path::new("root");
    let volume = Path::new("train_12/train_12_b/train_12_b_3.nii.gz");
    assert_eq!(n.path(root, HuSource::CsvRescale), root.join("dataset/train").join(volume));
    assert_eq!(n.path(root, HuSource::AlreadyHu), root.join("dataset/train_fixed").join(volume));
    assert_eq!(
        name("valid_53_a_1").path("", HuSource::AlreadyHu),
        Path::new("dataset/valid_fixed/valid_53/valid_53_a/valid_53_a_1.nii.gz")
    );
}

#[test]
fn what_is_no_volume_name_is_refused() {
    let wrong = [
        "",
        "train",
        "train_1_a",
        "test_1_a_1",
        "train_1_a_1_1",
        "train_01_a_1",
        "train_+1_a_1",
        "train_-1_a_1",
        "train_1_A_1",
        "train_1__1",
        "train_1_a_",
        "train_1_a_1.nii",
        "a/train_1_a_1",
        "train_1_a_1.nii.gz.nii.gz",
        "train_99999999999_a_1",
    ];
    for text in wrong {
        let error = text.parse::<VolumeName>().unwrap_err().to_string();
        assert!(error.contains(&format!("{text:?} is none")), "{error}");
    }
}

proptest! {
    #[test]
    fn volume_names_survive_the_round_trip(patient: u32, scan in "[a-z]{1,2}", reconstruction: u32, train: bool) {
        let split = if train { Split::Train } else { Split::Valid };
        let n = VolumeName { split, patient, scan, reconstruction };
        prop_assert_eq!(&name(&n.to_string()), &n);
        prop_assert_eq!(&name(&n.file_name()), &n);
    }

    #[test]
    fn parsing_a_volume_name_never_panics(text in "\\PC*") {
        if let Ok(n) = text.parse::<VolumeName>() {
            prop_assert!(n.to_string() == text || n.file_name() == text);
        }
    }
}

#[test]
fn labels_and_prompts() {
    assert_eq!((labels::NAMES[0], labels::NAMES[17]), ("Medical material", "Interlobular septal thickening"));
    assert_eq!(Wording::default(), Wording::ThereIs);
    let both = |w: Wording| (w.positive("Emphysema"), w.negative("Emphysema"));
    assert_eq!(both(Wording::ThereIs), ("There is Emphysema.".into(), "There is no Emphysema.".into()));
    assert_eq!(both(Wording::IsPresent), ("Emphysema is present.".into(), "Emphysema is not present.".into()));
    assert_eq!(both(Wording::VocabFine), ("Emphysema is present. ".into(), "Emphysema is not present. ".into()));
}

#[test]
fn report_text_follows_the_rule() {
    let report = |findings: &str, impressions: &str| Report {
        clinical_information: "not read".into(),
        technique: "not read".into(),
        findings: findings.into(),
        impressions: impressions.into(),
    };
    assert_eq!(report("No \"mass\" (seen).", "It's normal.").text(), "No mass seen.Its normal.");
    assert_eq!(report("Not given.", "Normal.").text(), "Normal.");
    assert_eq!(
        report("Size not given. Not given.", "Not given.").text(),
        "Size not given. Not given.",
        "whole sections only"
    );
    assert_eq!(report("", "Not given.").text(), "");
}

/// Three volumes that exercise quoting, and a data set under `root` that holds them.
fn data_set(root: &Path, hu_source: HuSource) -> CtRate {
    let volume = |text: &str, findings: &str, impressions: &str, acquisition, odd| Volume {
        name: name(text),
        report: Report {
            clinical_information: "Cough, \"dry\"".into(),
            technique: String::new(),
            findings: findings.into(),
            impressions: impressions.into(),
        },
        labels: std::array::from_fn(|i| (i % 2 == 1) == odd),
        acquisition: Some(acquisition),
    };
    let a = Acquisition { slope: 1.0, intercept: -1024.0, spacing_xy: 0.341796875, spacing_z: Some(1.5) };
    let b = Acquisition { slope: 0.1, intercept: -8192.0, spacing_xy: 0.9, spacing_z: None };
    CtRate {
        root: root.into(),
        split: Split::Valid,
        hu_source,
        volumes: vec![
            volume("valid_1_a_1", "Heart, lungs: \"clear\".\nNext line,\r\nand one more.", "Normal.", a, false),
            volume("valid_1_a_2", "Heart, lungs: clear.", "Not given.", b, true),
            volume("valid_2_a_1", "Größe normal.", "", a, true),
        ],
        left_out: vec![],
        bad_rows: vec![],
    }
}

#[test]
fn a_written_data_set_reads_back_equal() {
    let root = tempfile::tempdir().unwrap();
    let written = data_set(root.path(), HuSource::AlreadyHu);
    written.write("a phantom, \"procedural\"").unwrap();
    let read = CtRate::read(root.path(), Split::Valid, HuSource::AlreadyHu).unwrap();
    assert_eq!(read, written);
    assert_eq!(read.volumes[1].acquisition.unwrap().spacing(), [0.9, 0.9, 0.9], "an unknown slice distance falls back");
    assert_eq!(read.volumes[0].acquisition.unwrap().spacing(), [0.341796875, 0.341796875, 1.5]);
    assert_eq!(read.path(&read.volumes[0]), read.volumes[0].name.path(root.path(), HuSource::AlreadyHu));
    let metadata = table(root.path(), "metadata/validation_metadata.csv");
    let text = fs::read_to_string(&metadata).unwrap();
    assert_eq!(text.lines().next().unwrap().split(',').count(), 44);
    assert!(
        text.contains("\"[0.341796875, 0.341796875]\"") && text.contains("\"a phantom, \"\"procedural\"\"\""),
        "{text}"
    );
    // Written again, the bytes are the same, and nothing temporary is left behind.
    read.write("a phantom, \"procedural\"").unwrap();
    assert_eq!(fs::read_to_string(&metadata).unwrap(), text);
    assert_eq!(fs::read_dir(metadata.parent().unwrap()).unwrap().count(), 1);
}

const REPORTS: &str = "radiology_text_reports/validation_reports.csv";
const LABELS: &str = "multi_abnormality_labels/valid_predicted_labels.csv";
const METADATA: &str = "metadata/validation_metadata.csv";

fn table(root: &Path, relative: &str) -> PathBuf {
    root.join("dataset").join(relative)
}

/// The data set of [`data_set`] read after `edit` changed one of its tables.
fn read_after(relative: &str, edit: impl Fn(String) -> String) -> x2ct::Result<CtRate> {
    let root = tempfile::tempdir().unwrap();
    data_set(root.path(), HuSource::CsvRescale).write("test").unwrap();
    let path = table(root.path(), relative);
    let before = fs::read_to_string(&path).unwrap();
    let after = edit(before.clone());
    assert_ne!(before, after, "the edit must change something");
    fs::write(&path, after).unwrap();
    CtRate::read(root.path(), Split::Valid, HuSource::CsvRescale)
}

/// Checks that an error names the table in one line.
fn checked(relative: &str, error: String) -> String {
    assert!(error.contains(relative.rsplit('/').next().unwrap()), "names the file: {error}");
    assert!(!error.contains('\n'), "one line: {error}");
    error
}

/// The error of reading the data set after `edit` changed one of its tables.
fn error_after(relative: &str, edit: impl Fn(String) -> String) -> String {
    checked(relative, read_after(relative, edit).unwrap_err().to_string())
}

/// The one row that is left out after `edit`, as an error; all volumes but `lost` are read.
fn bad_row_after(relative: &str, lost: &[usize], edit: impl Fn(String) -> String) -> String {
    let read = read_after(relative, edit).unwrap();
    let whole = data_set(&read.root, HuSource::CsvRescale);
    let kept: Vec<_> = (0..3).filter(|i| !lost.contains(i)).map(|i| whole.volumes[i].clone()).collect();
    assert_eq!(read.volumes, kept, "only the bad row's volume is left out");
    let [bad] = &read.bad_rows[..] else { panic!("one bad row: {:?}", read.bad_rows) };
    checked(relative, bad.error().to_string())
}

#[track_caller]
fn assert_says(error: &str, parts: &[&str]) {
    for part in parts {
        assert!(error.contains(part), "{part:?} is not in: {error}");
    }
}

#[test]
fn wrong_columns_are_named() {
    let error = error_after(REPORTS, |t| t.replacen("Findings_EN", "Findings", 1));
    assert_says(&error, &["missing columns: Findings_EN", "unexpected columns: Findings;"]);
    let error = error_after(LABELS, |t| t.replacen("Emphysema", "Emphysem", 1).replacen("Lung nodule", "Nodule", 1));
    assert_says(&error, &["missing columns: Emphysema, Lung nodule", "unexpected columns: Emphysem, Nodule"]);
    let error = error_after(LABELS, |t| t.replacen("Lung opacity", "Lung nodule", 1));
    assert_says(&error, &["missing columns: Lung opacity", "repeated columns: Lung nodule"]);
    let error = error_after(METADATA, |t| t.replacen("RescaleSlope", "Slope", 1).replacen("ZSpacing", "Z", 1));
    assert_says(&error, &["missing columns: RescaleSlope, ZSpacing"]);
    assert!(!error.contains("unexpected"), "other columns of the metadata vary by release: {error}");
    assert_says(&error_after(REPORTS, |_| String::new()), &["missing columns: VolumeName"]);
}

#[test]
fn columns_without_a_name_and_other_separators_are_named() {
    // As pandas writes its index.
    let index = |t: String| {
        t.lines().enumerate().map(|(i, l)| if i == 0 { format!(",{l}\n") } else { format!("{i},{l}\n") }).collect()
    };
    assert_says(&error_after(LABELS, index), &["column 1 has no name", "index=False"]);
    assert_says(&error_after(LABELS, |t| t.replace(',', ";")), &["separated by semicolons, not by commas"]);
    assert_says(&error_after(LABELS, |t| t.replace(',', "\t")), &["separated by tabs"]);
    assert_says(
        &error_after(LABELS, |t| t.replacen("Emphysema", " Emphysema", 1)),
        &["unexpected columns: \" Emphysema\""],
    );
}

#[test]
fn what_is_no_table_is_recognised() {
    let lfs = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n";
    for (text, says) in [
        (lfs, "Git LFS pointer"),
        ("<!DOCTYPE html><html>log in</html>", "HTML page"),
        ("\u{feff}\n<html>", "HTML page"),
        ("PK\u{3}\u{4}", "Excel workbook"),
        ("V\0o\0l\0", "UTF-16"),
        ("\0V\0o\0l", "UTF-16"),
        ("V\0\0\0o\0\0\0l\0\0\0", "UTF-32"),
        ("\0\0\0V\0\0\0o\0\0\0l", "UTF-32"),
    ] {
        for relative in [REPORTS, LABELS, METADATA] {
            assert_says(&error_after(relative, |_| text.into()), &[says]);
        }
    }
}

#[test]
fn a_bad_row_is_named_by_line_and_column_and_costs_itself() {
    let error = bad_row_after(LABELS, &[0], |t| t.replacen(",0,", ",2,", 1));
    assert_says(&error, &["line 2", "\"2\" is not 0 or 1"]);
    let error = bad_row_after(METADATA, &[1], |t| t.replacen("\"[0.9, 0.9]\"", "\"[-1, 1]\"", 1));
    assert_says(&error, &["line 3", "XYSpacing", "[-1, 1]"]);
    let error = bad_row_after(METADATA, &[1], |t| t.replacen("\"[0.9, 0.9]\"", "", 1));
    assert_says(&error, &["line 3", "XYSpacing", "\"\""]);
    let error = bad_row_after(METADATA, &[1], |t| t.replacen(",-8192,", ",inf,", 1));
    assert_says(&error, &["RescaleIntercept", "\"inf\""]);
    let error = bad_row_after(METADATA, &[1], |t| t.replacen(",0.1,", ",0,", 1));
    assert_says(&error, &["RescaleSlope", "other than 0"]);
    let error = bad_row_after(METADATA, &[0], |t| t.replacen(",1.5,", ",-1.5,", 1));
    assert_says(&error, &["line 2", "ZSpacing", "\"-1.5\""]);
    let error = bad_row_after(METADATA, &[0], |t| t.replacen(",1.5,", ",None,", 1));
    assert_says(&error, &["line 2", "ZSpacing", "\"None\""]);
    for number in ["nan", "NaN", "inf", "-inf", "1e400", "0", "1;5"] {
        let error = bad_row_after(METADATA, &[0], |t| t.replacen(",1.5,", &format!(",{number},"), 1));
        assert_says(
            &error,
            &["line 2, column ZSpacing", &format!("{number:?} is not a positive number of mm, or empty")],
        );
        let error = bad_row_after(METADATA, &[1], |t| t.replacen("[0.9, 0.9]", &format!("[0.9, {number}]"), 1));
        assert_says(&error, &["line 3, column XYSpacing"]);
    }
    let error = bad_row_after(LABELS, &[2], |t| t[..t.len() - 12].to_string());
    assert_says(&error, &["line 4", "fields, the header 19"]);
    // Two rows of one volume that differ: neither counts. The same row twice: once.
    let error = bad_row_after(REPORTS, &[0, 1], |t| t.replacen("valid_1_a_2", "valid_1_a_1", 1));
    assert_says(&error, &["line 5", "valid_1_a_1 stands on line 2 already, in other words"]);
    let error = bad_row_after(LABELS, &[], |t| format!("{t}{}\n", t.lines().last().unwrap()));
    assert_says(
        &error,
        &["line 5", "valid_2_a_1 stands on line 4 already, in the same words, and counts once; remove one of the two"],
    );
    // A quote that is never closed would swallow all rows below it.
    let error = bad_row_after(REPORTS, &[2], |t| {
        t.replacen("Größe normal.,", "Größe normal.,\"", 1) + "rows,below\nare,swallowed\n"
    });
    assert_says(&error, &["line 6", "quote that is never closed"]);
    // A row whose name is none is of no volume that is known: all that is lost is what it should have said.
    let read = read_after(REPORTS, |t| t.replacen("valid_1_a_2", "valid_1_a", 1)).unwrap();
    assert_says(
        &read.bad_rows[0].error().to_string(),
        &["line 5", "VolumeName", "\"valid_1_a.nii.gz\" is not a volume name"],
    );
    assert_eq!((read.volumes.len(), &read.left_out[0].name), (2, &name("valid_1_a_2")));
    // Of another split are all: nothing is left, and the first is named.
    let error = error_after(LABELS, |t| t.replace("valid_", "train_"));
    assert_says(&error, &["line 2", "\"train_1_a_1.nii.gz\" is not of split valid", "2 other rows"]);
}

#[test]
fn lines_are_counted_in_the_file() {
    // The second row's report holds a line end of its own.
    let bad = |t: &str| t.replacen("valid_1_a_2", "valid_1_a", 1);
    let crlf = |t: &str| t.replace("\r\n", "\n").replace('\n', "\r\n");
    for (what, text, line) in [
        ("LF", bad as fn(&str) -> String, 5),
        ("mark", |t| format!("\u{feff}{}", t.replacen("valid_1_a_2", "valid_1_a", 1)), 5),
        ("empty lines", |t| t.replacen("valid_1_a_2", "\n\nvalid_1_a", 1), 7),
        ("CR", |t| t.replace("\r\n", "\n").replace('\n', "\r").replacen("valid_1_a_2", "valid_1_a", 1), 5),
    ] {
        let read = read_after(REPORTS, |t| text(&t)).unwrap();
        assert_eq!(read.bad_rows[0].line, line, "{what}");
    }
    let read = read_after(REPORTS, |t| crlf(&bad(&t))).unwrap();
    assert_eq!(read.bad_rows[0].line, 5, "CRLF");
    // CRLF in every table, as Python's csv module writes it; line 3 lacks its slice distance in a way of its own.
    let read = read_after(METADATA, |t| {
        crlf(&t).replacen(",,\r\n", ",None,\r\n", 1).replacen("0.9]\",-8192,0.1,,,,", "0.9]\",-8192,0.1,,,None,", 1)
    });
    let read = read.unwrap();
    assert!(read.bad_rows.iter().all(|bad| bad.line == 3), "{:?}", read.bad_rows);
}

#[test]
fn what_is_not_needed_is_not_refused() {
    let root = tempfile::tempdir().unwrap();
    data_set(root.path(), HuSource::AlreadyHu).write("test").unwrap();
    let path = table(root.path(), METADATA);
    let text = fs::read_to_string(&path).unwrap().replacen(",1.5,", ",None,", 1).replacen(",0.1,", ",zero,", 1);
    fs::write(&path, text).unwrap();
    let read = CtRate::read(root.path(), Split::Valid, HuSource::AlreadyHu).unwrap();
    assert_eq!((read.volumes.len(), read.bad_rows.len()), (3, 0));
    assert!(read.volumes[0].acquisition.is_none() && read.volumes[1].acquisition.is_none());
    assert!(read.volumes[2].acquisition.is_some());
    let read = CtRate::read(root.path(), Split::Valid, HuSource::CsvRescale).unwrap();
    let lines: Vec<_> = read.bad_rows.iter().map(|bad| (bad.line, bad.column.as_deref())).collect();
    assert_eq!(lines, [(2, Some("ZSpacing")), (3, Some("RescaleSlope"))]);
    assert_says(&read.absence(&name("valid_1_a_2")).to_string(), &["line 3", "RescaleSlope"]);
    // One volume alone: the rows of others do not matter.
    let table = ct_rate::Acquisitions::read(&path).unwrap();
    let of = |text: &str| table.of(&name(text));
    assert_eq!(of("valid_2_a_1").unwrap().slope, 1.0);
    assert_says(&of("valid_1_a_2").unwrap_err().to_string(), &["line 3, column RescaleSlope", "\"zero\""]);
    assert_says(&of("valid_9_a_1").unwrap_err().to_string(), &["has no row for valid_9_a_1.nii.gz"]);
}

#[test]
fn a_row_that_is_not_text_costs_itself() {
    let root = tempfile::tempdir().unwrap();
    data_set(root.path(), HuSource::CsvRescale).write("test").unwrap();
    let path = table(root.path(), REPORTS);
    let mut bytes = fs::read(&path).unwrap();
    let umlaut = bytes.windows(2).position(|w| w == "ö".as_bytes()).unwrap();
    bytes[umlaut] = 0xff;
    fs::write(&path, bytes).unwrap();
    let read = CtRate::read(root.path(), Split::Valid, HuSource::CsvRescale).unwrap();
    assert_eq!(read.volumes.len(), 2);
    assert_says(&read.bad_rows[0].error().to_string(), &["validation_reports.csv: line 6", "is not UTF-8"]);
}

#[test]
fn unreadable_folders_and_tables_are_named() {
    let root = tempfile::tempdir().unwrap();
    let read = |path: &Path| CtRate::read(path, Split::Valid, HuSource::CsvRescale).unwrap_err().to_string();
    assert_says(&read(&root.path().join("absent")), &["absent: cannot read the folder", "check the path"]);
    let file = root.path().join("file");
    fs::write(&file, "x").unwrap();
    assert_says(&read(&file), &["file: cannot read the folder"]);
    assert_says(&read(root.path()), &["validation_reports.csv: cannot open the table", "check the path"]);
    data_set(root.path(), HuSource::CsvRescale).write("test").unwrap();
    let labels = table(root.path(), LABELS);
    fs::remove_file(&labels).unwrap();
    fs::create_dir(&labels).unwrap();
    assert_says(&read(root.path()), &["valid_predicted_labels.csv: cannot read the table"]);
    fs::write(root.path().join("blocked"), "a file where a folder should be").unwrap();
    let error = data_set(&root.path().join("blocked"), HuSource::CsvRescale).write("test").unwrap_err().to_string();
    assert_says(&error, &["blocked", "cannot create the folder"]);
}

#[test]
fn volumes_that_a_table_lacks_are_named_with_it_and_other_places_are_found() {
    let root = tempfile::tempdir().unwrap();
    let written = data_set(root.path(), HuSource::CsvRescale);
    written.write("test").unwrap();
    let labels = table(root.path(), LABELS);
    let kept: Vec<String> = fs::read_to_string(&labels).unwrap().lines().take(3).map(String::from).collect();
    fs::remove_file(&labels).unwrap();
    // The older name, a byte-order mark, and no dataset/ folder above.
    let old = root.path().join("multi_abnormality_labels");
    fs::create_dir(&old).unwrap();
    fs::write(
        old.join("dataset_multi_abnormality_labels_valid_predicted_labels.csv"),
        format!("\u{feff}{}\n", kept.join("\n")),
    )
    .unwrap();
    let read = CtRate::read(root.path(), Split::Valid, HuSource::CsvRescale).unwrap();
    assert_eq!(read.volumes, written.volumes[..2]);
    let found = old.join("dataset_multi_abnormality_labels_valid_predicted_labels.csv");
    assert_eq!(read.left_out, [LeftOut { name: name("valid_2_a_1"), file: found.clone(), why: Why::Lacks }]);
    assert_eq!(read.warnings(), [(found, "has no row for 1 volume(s), left out: valid_2_a_1".to_string())]);
    assert_says(
        &read.absence(&name("valid_2_a_1")).to_string(),
        &["valid_predicted_labels.csv: has no row for valid_2_a_1"],
    );
    assert_says(&read.absence(&name("valid_7_a_1")).to_string(), &["validation_metadata.csv: has no row"]);
    // Which table disagrees with the others.
    let reports = table(root.path(), REPORTS);
    let text = fs::read_to_string(&reports).unwrap();
    fs::write(&reports, text.replace("valid_1_a_2", "valid_8_a_1")).unwrap();
    let lacks = |what: &str| format!("has no row for {what} volume(s) that another table has: ");
    let labels = || ct_rate::labels_of(root.path(), Split::Valid).unwrap();
    assert_eq!(
        ct_rate::disagreements(root.path(), Split::Valid, &labels().1),
        [
            (reports.clone(), lacks("1") + "valid_1_a_2"),
            (read.left_out[0].file.clone(), lacks("2") + "valid_2_a_1, valid_8_a_1"),
            (table(root.path(), METADATA), lacks("1") + "valid_8_a_1"),
        ]
    );
    // The labels by themselves know what they know, whatever the other tables lack.
    fs::remove_file(reports).unwrap();
    let (found, labels) = labels();
    assert_eq!(ct_rate::disagreements(root.path(), Split::Valid, &labels).len(), 1);
    assert_eq!(found, read.left_out[0].file);
    assert_eq!(labels.order, [name("valid_1_a_1"), name("valid_1_a_2")]);
    assert_eq!(labels.rows[&name("valid_1_a_2")], written.volumes[1].labels);
}

#[test]
fn scans_of_other_parts_and_files_without_a_row_are_told() {
    let root = tempfile::tempdir().unwrap();
    let written = data_set(root.path(), HuSource::AlreadyHu);
    written.write("test").unwrap();
    let list = table(root.path(), "metadata/no_chest_valid.txt");
    for (text, left) in [("valid_1_a\r\n", 1), ("valid_1_a_2.nii.gz\n\n", 2), ("\u{feff}valid_2\n", 2), ("", 3)] {
        fs::write(&list, text).unwrap();
        let read = CtRate::read(root.path(), Split::Valid, HuSource::AlreadyHu).unwrap();
        assert_eq!(read.volumes.len(), left, "{text:?}");
        assert_eq!(read.left_out.len(), 3 - left);
        assert!(read.left_out.iter().all(|left| left.why == Why::NoChest && left.file == list));
    }
    let read = CtRate::read(root.path(), Split::Valid, HuSource::AlreadyHu).unwrap();
    for known in ["valid_1_a_1", "valid_3_a_1", "valid_3_b_2"] {
        let path = name(known).path(root.path(), HuSource::AlreadyHu);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "").unwrap();
    }
    assert_eq!(read.others().unlisted, [name("valid_3_a_1"), name("valid_3_b_2")]);
    // Nor is what is called otherwise passed over in silence, wherever it lies.
    assert!(read.others().strangers.is_empty());
    let folder = read.folder();
    let strange = ["extra.nii.gz", "valid_3/notes.txt", "valid_3/valid_3_a/copy.nii.gz", "valid_3/valid_3_c_1.nii.gz"]
        .map(|at| folder.join(at));
    for file in strange.iter().chain(&[folder.join("valid_3/.hidden")]) {
        fs::write(file, "").unwrap();
    }
    assert_eq!(read.others().strangers, strange);
}
