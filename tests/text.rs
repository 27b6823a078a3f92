//! Text features: hashed n-grams, and the file against damage and against what Python writes.

use std::fs;

use proptest::prelude::*;
use x2ct::data::text::{HashedNgrams, TextFeatures};

fn ids(count: usize) -> Vec<String> {
    (0..count).map(|i| format!("valid_{}_a_1", i + 1)).collect()
}

fn of(texts: &[&str]) -> TextFeatures {
    HashedNgrams { dim: 256, max_n: 2 }.features(ids(texts.len()), texts).unwrap()
}

fn row(text: &TextFeatures, i: usize) -> &[f32] {
    &text.features[i * text.dim..(i + 1) * text.dim]
}

fn cosine(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// The hash is fixed for good: features of one release are those of the next. 103 and the sign come from another implementation of BLAKE3.
#[test]
fn places_and_signs_are_those_of_the_hash() {
    let text = of(&["Cough"]);
    let hash = blake3::hash(b"cough");
    let place = hash.as_bytes()[0] as usize;
    let sign = if hash.as_bytes()[8] & 1 == 0 { 1.0 } else { -1.0 };
    assert_eq!((place, sign), (103, -1.0));
    let nonzero: Vec<_> = row(&text, 0).iter().enumerate().filter(|(_, v)| **v != 0.0).collect();
    assert_eq!(nonzero, [(place, &sign)]);
}

#[test]
fn words_not_spelling_make_the_features() {
    let text = of(&[
        "Small pleural effusion. Small pleural effusion.",
        "small PLEURAL   effusion",
        "Small pleural-effusion",
        "effusion pleural small",
        "Emphysema.",
        "",
        " .,;",
    ]);
    let [twice, once, hyphen, shuffled, other, empty, signs] = [0, 1, 2, 3, 4, 5, 6].map(|i| row(&text, i));
    assert_eq!(twice, once, "counts are equal, so their square roots are");
    assert_eq!(once, hyphen);
    assert_eq!(empty, signs);
    assert!(once != shuffled && cosine(once, shuffled) > 0.3, "the same words in another order share words alone");
    assert!(cosine(once, other).abs() < 0.3);
    for i in 0..7 {
        assert!((cosine(row(&text, i), row(&text, i)) - 1.0).abs() < 1e-6, "row {i}");
    }
}

#[test]
fn no_sequence_crosses_the_end_of_a_sentence() {
    let text = of(&["heart. lungs", "lungs. heart", "heart lungs"]);
    assert_eq!(row(&text, 0), row(&text, 1));
    assert_ne!(row(&text, 0), row(&text, 2));
}

#[test]
fn what_is_denied_points_the_other_way() {
    let text = of(&[
        "Pleural effusion was detected.",
        "Pleural effusion was not detected.",
        "No pleural effusion was detected",
        "Emphysema. Without pleural effusion",
        "Effusion. No effusion.",
        "Effusion.",
        "No effusion.",
    ]);
    let [found, denied, no, mixed, both, effusion, none] = [0, 1, 2, 3, 4, 5, 6].map(|i| row(&text, i));
    assert!(found.iter().zip(denied).all(|(a, b)| *a == -*b));
    assert_eq!(denied, no);
    assert!(cosine(found, mixed) < -0.3, "the denial reaches its sentence alone");
    assert!((cosine(both, both) - 1.0).abs() < 1e-6, "found and denied has a direction");
    assert!(cosine(both, effusion).abs() < 0.3 && cosine(both, none).abs() < 0.3, "and it is neither's");
    assert!(text.prompts_positive.iter().zip(&text.prompts_negative).all(|(a, b)| *a == -*b));
}

#[test]
fn a_number_with_a_point_is_one_word() {
    let texts = [
        "Nodule of 1.5 cm is seen.",
        "No nodule of 1.5 cm is seen.",
        "Nodule of 15 mm is seen.",
        "No nodule of 15 mm is seen.",
    ];
    let text = of(&texts);
    for (found, denied) in [(0, 1), (2, 3)] {
        assert!((cosine(row(&text, found), row(&text, denied)) + 1.0).abs() < 1e-6, "{}", texts[found]);
    }
    let text = of(&["Size 1.5 cm", "Size 1. 5 cm", "Size 1.", "Size 1"]);
    assert_ne!(row(&text, 0), row(&text, 1), "a point before a blank ends a sentence");
    assert_eq!(row(&text, 2), row(&text, 3));
}

/// One text in two typographies.
#[test]
fn typography_makes_no_difference() {
    let pairs = [
        ("\u{201c}Effusion\u{201d}\u{a0}is present\u{2014}small.", "\"Effusion\" is present - small."),
        ("Crohn\u{2019}s disease isn\u{2019}t seen", "Crohn's disease isn't seen"),
        ("\u{fb01}brosis in a \u{ff23}\u{ff34} of 5\u{2009}mm", "fibrosis in a CT of 5 mm"),
        ("ground\u{2011}glass\u{2026} opac\u{ad}ity", "ground-glass... opacity"),
        ("R\u{f6}ntgen, na\u{ef}ve \u{130}stanbul", "Rontgen, naive Istanbul"),
        ("3 cm\u{b2}\r\nNo\u{202f}nodule", "3 cm2\nno nodule"),
        ("\u{feff}Emphysema\u{200b}", "Emphysema"),
    ];
    for (typographic, plain) in pairs {
        let text = of(&[typographic, plain]);
        assert_eq!(row(&text, 0), row(&text, 1), "{plain}");
    }
}

#[test]
fn a_denial_reaches_its_clause_alone() {
    let same = [
        ("No effusion but emphysema.", "No effusion. But emphysema."),
        ("Emphysema, no effusion.", "Emphysema. No effusion."),
        ("No effusion, pneumothorax or nodule.", "Effusion not, pneumothorax or nodule."),
        ("Emphysema is seen; effusion isn't.", "Emphysema is seen. Not effusion."),
        ("No effusion, no nodule", "No effusion. No nodule"),
        ("Emphysema without effusion", "Emphysema. No effusion"),
        ("Emphysema and no effusion", "Emphysema and. No effusion"),
    ];
    for (one, other) in same {
        let text = HashedNgrams { dim: 4096, max_n: 1 }.features(ids(2), &[one, other]).unwrap();
        assert_eq!(row(&text, 0), row(&text, 1), "{one}");
    }
    let text = of(&["Emphysema, no effusion.", "No effusion.", "Emphysema."]);
    assert!(cosine(row(&text, 0), row(&text, 1)) > 0.3 && cosine(row(&text, 0), row(&text, 2)) > 0.3);
}

/// Feature files of another rule are another encoder's: the digest of the released settings may not change unnoticed.
#[test]
fn settings_have_a_digest_of_their_version() {
    assert_eq!(HashedNgrams::VERSION, 2);
    assert_eq!(of(&["x"]).settings_digest, of(&["y"]).settings_digest);
}

#[test]
fn a_repeated_word_weighs_the_root_of_its_count() {
    let text = HashedNgrams { dim: 1 << 16, max_n: 1 }.features(ids(1), &["a a a a b"]).unwrap();
    let mut weights: Vec<f32> = text.features.iter().filter(|v| **v != 0.0).map(|v| v.abs()).collect();
    weights.sort_by(f32::total_cmp);
    assert_eq!(weights, [1.0 / 5f32.sqrt(), 2.0 / 5f32.sqrt()]);
}

#[test]
fn prompts_are_the_papers_through_the_same_function() {
    let text = of(&["Emphysema is present.", "Emphysema is not present."]);
    let emphysema = x2ct::labels::NAMES.iter().position(|n| *n == "Emphysema").unwrap();
    let prompt = |all: &[f32]| all[emphysema * 256..][..256].to_vec();
    assert_eq!(prompt(&text.prompts_positive), row(&text, 0));
    assert_eq!(prompt(&text.prompts_negative), row(&text, 1));
    let longer = HashedNgrams { dim: 256, max_n: 3 }.features(ids(1), &["x"]).unwrap();
    assert_ne!(longer.settings_digest, text.settings_digest, "the digest tells settings apart");
}

proptest! {
    #[test]
    fn any_text_has_a_direction(text in "\\PC*", dim in 1usize..64) {
        let features = HashedNgrams { dim, max_n: 3 }.features(ids(1), &[&text]).unwrap();
        let length = cosine(&features.features, &features.features);
        prop_assert!((length - 1.0).abs() < 1e-5, "{length}");
    }
}

#[test]
fn a_written_file_reads_back_equal() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("text.safetensors");
    let text = of(&["one", "two", "three"]);
    text.write(&path).unwrap();
    let read = TextFeatures::read(&path).unwrap();
    assert_eq!(read, text);
    let bytes = fs::read(&path).unwrap();
    read.write(&path).unwrap();
    assert_eq!(fs::read(&path).unwrap(), bytes, "equal features are equal files");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing temporary is left");
    assert_eq!(read.select(["valid_3_a_1", "valid_1_a_1"]).unwrap(), [row(&text, 2), row(&text, 0)].concat());
    let error = read.select(["valid_9_a_1"]).unwrap_err().to_string();
    assert!(error.contains("valid_9_a_1"), "{error}");
}

/// Written by `write_text_features` of tools/x2ct_files.py.
#[test]
fn a_file_written_by_python_is_read() {
    let read = TextFeatures::read("tests/golden/text_from_python.safetensors").unwrap();
    assert_eq!((read.ids.len(), read.ids[2].as_str(), read.dim), (3, "odd \"é\\ name", 5));
    assert_eq!((read.encoder.as_str(), read.settings_digest), ("CXR-BERT", "e".repeat(64)));
    assert_eq!((read.features.len(), read.prompts_positive.len(), read.prompts_negative.len()), (15, 90, 90));
}

#[test]
fn damage_is_refused_with_the_name_of_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("text.safetensors");
    HashedNgrams { dim: 8, max_n: 1 }.features(ids(2), &["one", "two"]).unwrap().write(&path).unwrap();
    let good = fs::read(&path).unwrap();
    let refused = |bytes: &[u8], what: &str| {
        fs::write(&path, bytes).unwrap();
        let error = TextFeatures::read(&path).expect_err(what).to_string();
        assert!(error.contains("text.safetensors") && !error.contains('\n'), "{error}");
    };
    for at in (0..good.len()).step_by(7) {
        let mut bytes = good.clone();
        bytes[at] ^= 0x10;
        refused(&bytes, &format!("byte {at} went unnoticed"));
        refused(&good[..at], &format!("{at} bytes were accepted"));
    }
}

#[test]
fn what_makes_no_sense_is_not_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("text.safetensors");
    let refused = |edit: &dyn Fn(&mut TextFeatures), says: &str| {
        let mut text = of(&["one", "two"]);
        edit(&mut text);
        let error = text.write(&path).unwrap_err().to_string();
        assert!(error.contains(says) && !path.exists(), "{error}");
    };
    refused(&|t| t.features[3] = f32::NAN, "text tensor features: row 0, column 3 is NaN");
    refused(&|t| t.ids[1] = t.ids[0].clone(), "stands twice");
    refused(&|t| t.ids.truncate(1), "text tensor features has 2 rows, not 1");
    refused(&|t| t.prompts_negative.truncate(256), "prompts_negative has 1 rows, not 18");
    refused(&|t| t.encoder.clear(), "their encoder is empty");
    let error = HashedNgrams { dim: 0, max_n: 1 }.features(ids(1), &["one"]).unwrap_err().to_string();
    assert!(error.contains("at least 1"), "{error}");
    assert!(HashedNgrams::default().features(ids(2), &["one"]).is_err());
    assert!(HashedNgrams::default().features(Vec::new(), &[""; 0]).is_err());
}
