//! `x2ct eval --scores`: the scores of every volume, for metrics and comparisons later.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use serde_json::json;
use x2ct::data::provenance::fields;
use x2ct::eval::score_file::ScoreFile;
use x2ct::eval::scores::ZeroShot;
use x2ct::files::write_atomic;
use x2ct::labels::NAMES;

use crate::chain::Chain;

/// Where `--scores NAME` writes: the archive and the table.
pub fn files(name: &Path) -> [PathBuf; 2] {
    files_of(name, "")
}

/// The archive and the table of one part of what NAME stands for.
pub fn files_of(name: &Path, part: &str) -> [PathBuf; 2] {
    let plain = match name.extension().and_then(OsStr::to_str) {
        Some("csv" | "safetensors") => name.with_extension(""),
        _ => name.to_path_buf(),
    };
    [".safetensors", ".csv"].map(|ending| {
        let mut file = plain.clone().into_os_string();
        file.push(part);
        file.push(ending);
        file.into()
    })
}

/// What zero-shot detection gave which volumes.
pub struct Detected<'a> {
    /// The volumes, in the order of the rest.
    pub ids: Vec<String>,
    /// [ids, 18].
    pub labels: Vec<bool>,
    /// Factor of the cosines.
    pub scale: f64,
    /// The file that the prompts' embeddings are of.
    pub prompts: &'a Path,
    /// [`PromptSet::digest`](x2ct::data::prompts::PromptSet::digest) of the prompts.
    pub prompts_digest: String,
    /// The scores.
    pub zero_shot: &'a ZeroShot,
}

impl Detected<'_> {
    /// Writes the scores of every volume as an archive and as a table.
    pub fn write(self, name: &Path, chain: &Chain) -> x2ct::Result<()> {
        let settings = fields(json!({"protocol": "zero-shot", "scale": self.scale, "prompts": self.prompts_digest}));
        let file = ScoreFile {
            ids: self.ids,
            names: NAMES.map(String::from).to_vec(),
            logits: self.zero_shot.logits.clone(),
            labels: self.labels,
            made: chain.provenance(settings),
        };
        write(name, &file)
    }
}

/// Writes scores as an archive and as a table.
pub fn write(name: &Path, file: &ScoreFile) -> x2ct::Result<()> {
    let [archive, table] = files(name);
    file.write(&archive)?;
    write_atomic(table, file.csv()?.as_bytes())
}
