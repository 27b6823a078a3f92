//! `x2ct eval compare SCORES SCORES...`: whether evaluations of the same volumes differ.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use x2ct::Error;
use x2ct::content::Content;
use x2ct::eval::score_file::ScoreFile;

use crate::Common;
use crate::chain::Chain;
use crate::metrics::{self, Options};

/// Compare the scores of evaluations of the same volumes: metrics with intervals, DeLong's test, differences
///
/// Each further file is compared with the first, with Holm's correction of the p values. A volume that one of them lacks is left out
/// of all and named; the exit code is then 1. `x2ct metrics` does the same for anybody's tables.
#[derive(clap::Args)]
pub struct CompareArgs {
    /// What `x2ct eval --scores` wrote: NAME.safetensors
    #[arg(required = true, num_args = 2.., value_name = "SCORES")]
    files: Vec<PathBuf>,
    #[command(flatten)]
    options: Options,
}

pub fn run(args: CompareArgs, common: &Common) -> anyhow::Result<ExitCode> {
    let files: Vec<&Path> = args.files.iter().map(PathBuf::as_path).collect();
    let labels = |chain: &mut Chain| {
        files.iter().try_for_each(|file| expect_no_table(file))?;
        let all = files.iter().map(ScoreFile::read).collect::<x2ct::Result<Vec<_>>>()?;
        for (file, scores) in files.iter().zip(&all) {
            expect_same_labels(files[0], &all[0], file, scores)?;
            chain.settle(file, Ok(scores.provenance().undecided("scores")))?;
        }
        Ok(all[0].labels(files[0]))
    };
    metrics::measure(("eval", Chain::report), labels, &files, None, &args.options, common)
}

/// Refuses a table, and says what compares tables.
fn expect_no_table(file: &Path) -> x2ct::Result<()> {
    match Content::of_file(file)? {
        Content::Table | Content::Text => Err(Error::file(
            file,
            "is a table, which has no labels beside its scores",
            "pass NAME.safetensors of `x2ct eval --scores`, or compare tables with `x2ct metrics LABELS SCORES...`",
        )),
        _ => Ok(()),
    }
}

/// Refuses other labels of the same volume.
fn expect_same_labels(path: &Path, first: &ScoreFile, file: &Path, other: &ScoreFile) -> x2ct::Result<()> {
    let (mine, others) = (first.labels(path), other.labels(file));
    for id in &other.ids {
        let (Some(mine), Some(others)) = (mine.row(id), others.row(id)) else { continue };
        let differs = |name: &&String| {
            let place = |names: &[String]| names.iter().position(|other| other == *name);
            place(&first.names).zip(place(&other.names)).is_some_and(|(a, b)| mine[a] != others[b])
        };
        if let Some(name) = first.names.iter().find(differs) {
            return Err(Error::File {
                path: file.into(),
                field: Some(id.clone()),
                problem: format!("its label {name} is another than in {}", path.display()),
                hint: "evaluate both with the same labels".into(),
            });
        }
    }
    Ok(())
}
