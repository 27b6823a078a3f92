//! Prompts: sentences as TOML, ensembles, their file, and what Python writes of them.

use std::path::Path;

use approx::assert_relative_eq;
use x2ct::data::prompts::{Pairs, PromptSet, Sentences, ensemble};
use x2ct::labels::{self, Wording};

fn read(text: &str) -> x2ct::Result<Sentences> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("my.toml");
    std::fs::write(&path, text).unwrap();
    Sentences::read(&path)
}

#[test]
fn every_template_with_every_text_is_a_pair() {
    let sentences = read(
        "wording = \"there-is\"\n[[template]]\npositive = \"Signs of {}.\"\nnegative = \"No signs of {}.\"\n\
         [[label]]\nname = \"Emphysema\"\ntext = [\"emphysema\", \"bullae\"]\n[[label]]\nname = \"Cyst\"\n",
    )
    .unwrap();
    assert_eq!(sentences.names, ["Emphysema", "Cyst"]);
    assert_eq!(
        sentences.of[0].positive,
        ["There is emphysema.", "There is bullae.", "Signs of emphysema.", "Signs of bullae."]
    );
    assert_eq!(sentences.of[1].negative, ["There is no Cyst.", "No signs of Cyst."]);

    let papers = read("wording = \"is-present\"").unwrap();
    assert_eq!(papers, Sentences::of_wording(Wording::IsPresent));
    assert_eq!(papers.names, labels::NAMES);
    assert_eq!(papers.of[7].negative, ["Emphysema is not present."]);
    // VocabFine's sentences end with a blank.
    assert_eq!(read("wording = \"vocab-fine\"").unwrap().of[7].positive, ["Emphysema is present. "]);
}

#[test]
fn mistakes_in_the_file_are_named() {
    let template = |p: &str, n: &str| format!("[[template]]\npositive = \"{p}\"\nnegative = \"{n}\"\n");
    let label = |rest: &str| format!("wording = \"there-is\"\n[[label]]\n{rest}\n");
    for (text, says) in [
        ("wording = ", "is no file of prompts: line 1: "),
        ("wordng = \"there-is\"", "unknown field `wordng`"),
        ("wording = \"there\"", "unknown wording `there`; choose one of there-is, is-present, vocab-fine"),
        ("", "has neither a wording nor a [[template]]"),
        ("[[label]]\nname = \"Cyst\"", "has neither a wording nor a [[template]]"),
        (&template("There is.", "No {}."), "the template \"There is.\" has not one place {} for the finding"),
        (&template("{} {}", "No {}."), "the template \"{} {}\" has not one place"),
        (&template("{}.", "{}."), "the template \"{}.\" is positive and negative"),
        ("[[template]]\npositive = \"{}\"", "missing field `negative`"),
        (&label("text = [\"x\"]"), "missing field `name`"),
        (&label("name = \" \""), "has a label without a name"),
        (&label("name = \"Cyst\"\ntext = []"), "the label \"Cyst\" has a text without words, or none"),
        (&label("name = \"Cyst\"\ntext = [\"a\", \"\"]"), "the label \"Cyst\" has a text without words"),
        (&label("name = \"Cyst\"\ntext = [\"a\", \"a\"]"), "the label \"Cyst\" has the text \"a\" twice"),
        (&label("name = \"Cyst\"\ntext = \"a\""), "line 4: text: "),
        (&label("name = \"Cyst\"\n[[label]]\nname = \"Cyst\""), "has the label \"Cyst\" twice"),
    ] {
        let error = read(text).unwrap_err().to_string();
        assert!(error.contains("my.toml: ") && error.contains(says), "{text:?}: {error}");
        assert!(error.contains("data::prompts") && !error.contains('\n'), "{text:?}: {error}");
    }
}

#[test]
fn an_ensemble_is_the_normalised_mean_of_normalised_rows() {
    // Lengths of rows have no say: the second row is twice as long.
    let mean = ensemble(&[1.0, 0.0, 0.0, 0.0, 2.0, 0.0, 0.0, 0.0, 1.0], 3).unwrap();
    mean.iter().for_each(|v| assert_relative_eq!(*v, 1.0 / 3f32.sqrt(), max_relative = 1e-6));
    let mean = ensemble(&[0.6, 0.8, 1.0, 0.0], 2).unwrap();
    assert_relative_eq!(mean[0], 0.8 / 0.8f32.sqrt(), max_relative = 1e-6);
    assert_relative_eq!(mean[1], 0.4 / 0.8f32.sqrt(), max_relative = 1e-6);
    // One row stays as it is, to the bit.
    let row = [0.6f32, 0.800_000_1];
    assert_eq!(ensemble(&row, 2).unwrap(), row);
    for (rows, says) in [(&[][..], "is empty"), (&[0.0, 0.0], "all zeros"), (&[1.0, 0.0, -1.0, 0.0], "all zeros")] {
        assert!(ensemble(rows, 2).unwrap_err().to_string().contains(says), "{rows:?}");
    }
}

/// Two labels of two numbers.
fn set() -> PromptSet {
    let sentences = Sentences {
        names: vec!["Cyst".into(), "größe".into()],
        of: vec![Pairs { positive: vec!["yes".into()], negative: vec!["no".into()] }; 2],
    };
    PromptSet::embed(sentences, ("a teacher", "abc", 2), |texts| {
        Ok(texts.iter().flat_map(|text| if text == "yes" { [1.0, 0.0] } else { [0.0, 1.0] }).collect())
    })
    .unwrap()
}

#[test]
fn a_written_file_reads_back_equal_and_damage_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("p.safetensors");
    let set = set();
    assert_eq!((&set.positive[..], &set.negative[..]), (&[1.0, 0.0, 1.0, 0.0][..], &[0.0, 1.0, 0.0, 1.0][..]));
    set.write(&path).unwrap();
    let read = PromptSet::open(&path).unwrap();
    assert_eq!((&read.names, &read.positive, &read.sentences), (&set.names, &set.positive, &set.sentences));
    assert_eq!(read.provenance(), set.provenance());
    let good = std::fs::read(&path).unwrap();
    read.write(&path).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), good, "equal prompts are equal files");
    for at in (0..good.len()).step_by(11) {
        let mut bytes = good.clone();
        bytes[at] ^= 0x10;
        for bad in [&bytes[..], &good[..at]] {
            std::fs::write(&path, bad).unwrap();
            let error = PromptSet::read(&path).expect_err(&format!("byte {at}")).to_string();
            assert!(error.contains("p.safetensors") && !error.contains('\n'), "{error}");
        }
    }
}

#[test]
fn prompts_that_fit_nothing_are_refused() {
    let path = Path::new("never written.safetensors");
    type Spoil = fn(&mut PromptSet);
    let bad: [(Spoil, &str); 6] = [
        (|p| p.names[1] = "Cyst".into(), "the label \"Cyst\" stands twice"),
        (|p| p.teacher.clear(), "their teacher is empty"),
        (|p| p.positive.truncate(2), "positive prompts have 1 rows for 2 labels"),
        (|p| p.negative[0] = 0.5, "negative prompts: row 0 has length"),
        (|p| p.sentences.truncate(1), "as many sentences of each kind for every label"),
        (|p| p.sentences[1].negative.clear(), "as many sentences of each kind for every label"),
    ];
    for (spoil, says) in bad {
        let mut prompts = set();
        spoil(&mut prompts);
        let error = prompts.write(path).unwrap_err().to_string();
        assert!(error.contains(says), "{error} without {says:?}");
    }
}

/// Written by tools/make_cache_case.py with `read_prompts` and `ensemble` of tools/ct_clip_prompts.py and `write_prompts` of tools/x2ct_files.py.
#[test]
fn what_python_writes_is_read_and_its_sentences_are_ours() {
    let set = PromptSet::open("tests/golden/prompts_from_python.safetensors").unwrap();
    let sentences = Sentences::read("tests/golden/prompts.toml").unwrap();
    assert_eq!((&set.names, &set.sentences), (&sentences.names, &sentences.of));
    assert_eq!(set.sentences[0].positive[3], "Es gibt überblähte Lunge.");
    assert_eq!((set.dim, set.teacher.as_str(), &set.checkpoint_digest), (4, "CT-CLIP", &"c".repeat(64)));
    let made = set.provenance();
    assert!(made.known && made.settings["text_model"] == "x" && made.settings["checkpoint"] == "c".repeat(64));
}
