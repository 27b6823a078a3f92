//! The folder that the cases are tried in, and what is good in it.

use std::path::Path;

use crate::cli::succeed;

/// A temporary folder; with data it holds a phantom data set, its radiographs, a trained encoder and its configuration.
pub struct Workspace {
    folder: tempfile::TempDir,
}

/// A configuration that trains: what the cases change one line of.
pub const CONFIGURATION: &str = "out = \"fresh\"\nepochs = 1\nbatch = 3\n[model]\nname = \"resnet18\"\nwidth = 4\n[data]\n\
     radiographs = \"train/ap.safetensors\"\ncache = \"train.cache.safetensors\"\nimage_size = 32\n[optimizer]\nlr = 1e-3\n";

impl Workspace {
    /// Without data.
    pub fn empty() -> Self {
        Workspace { folder: tempfile::tempdir().unwrap() }
    }

    /// With data: six patients to train on, three to test on, one epoch.
    pub fn with_data() -> Self {
        let workspace = Workspace::empty();
        let at = workspace.at();
        succeed(at, "phantom --out . --train 6 --valid 3 --shape 32x32x32 --spacing 10");
        for split in ["train", "valid"] {
            succeed(at, &format!("drr --dataset . --split {split} --size 32x32 --out {split}"));
        }
        workspace.write("good.toml", CONFIGURATION.replace("fresh", "run").as_bytes());
        succeed(at, "train good.toml");
        workspace
    }

    /// Its path.
    pub fn at(&self) -> &Path {
        self.folder.path()
    }

    /// The bytes of a file in it.
    pub fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.at().join(name)).unwrap()
    }

    /// Writes a file in it.
    pub fn write(&self, name: &str, bytes: &[u8]) {
        std::fs::write(self.at().join(name), bytes).unwrap();
    }
}
