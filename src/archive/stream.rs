//! An archive of one tensor, written while the tensor is being made: no more of it than a piece is ever in memory.

use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use safetensors::Dtype;
use serde_json::json;

use super::{CHECKSUM, Digest, companion};
use crate::files::Unfinished;
use crate::{Error, Result};

/// A file under way: a tensor of rows with its companion of digests. It appears, whole, with [`TensorStream::finish`], and never
/// if that is not reached.
pub struct TensorStream {
    path: PathBuf,
    file: Unfinished,
    /// The checksum so far: metadata, names and sizes. Of the data it covers the companion alone.
    checksum: blake3::Hasher,
    /// Where the checksum goes once it is known.
    checksum_at: u64,
    /// The digest so far of the row under way.
    row: blake3::Hasher,
    /// Bytes of a row, and how many of them are still to come.
    row_bytes: usize,
    row_left: usize,
    digests: Vec<Digest>,
    rows: usize,
}

impl TensorStream {
    /// Begins a file of `format` with `metadata` and the tensor `name` of `shape` [rows, ...].
    pub fn create(
        path: &Path,
        format: &str,
        metadata: &[(&str, String)],
        name: &str,
        dtype: Dtype,
        shape: &[usize],
    ) -> Result<Self> {
        let mut entries: Vec<(&str, &str)> = metadata.iter().map(|(key, value)| (*key, value.as_str())).collect();
        entries.push(("format", format));
        entries.sort();
        let mut checksum = blake3::Hasher::new();
        for (key, value) in &entries {
            checksum.update(format!("{key}\0{value}\0").as_bytes());
        }
        let sizes = shape.iter().map(usize::to_string).collect::<Vec<_>>().join("x");
        let (rows, companion) = (shape.first().copied().unwrap_or(1), companion(name));
        checksum.update(format!("{name}\0{sizes}\0{companion}\0{rows}x{}\0", size_of::<Digest>()).as_bytes());

        // As long as the hexadecimal checksum, which replaces it; no other text holds as many zero bytes.
        let blank = "0".repeat(64);
        let mut texts: serde_json::Map<String, serde_json::Value> =
            entries.iter().map(|(key, value)| (key.to_string(), json!(value))).collect();
        texts.insert(CHECKSUM.into(), json!(blank));
        let bytes = shape.iter().product::<usize>() * dtype.bitsize() / 8;
        let end = bytes + rows * size_of::<Digest>();
        let tensor = json!({"dtype": format!("{dtype:?}"), "shape": shape, "data_offsets": [0, bytes]});
        let digests = json!({"dtype": "U8", "shape": [rows, size_of::<Digest>()], "data_offsets": [bytes, end]});
        let mut header = json!({"__metadata__": texts, name: tensor, companion: digests}).to_string();
        let marker = format!("\"{CHECKSUM}\":\"{blank}\"");
        let at = header.rfind(&marker).map_or(0, |at| at + CHECKSUM.len() + 4);
        header.push_str(&" ".repeat(header.len().next_multiple_of(8) - header.len()));

        let failed = |e: std::io::Error| Error::io(path, "write", &e);
        let mut file = Unfinished::begin(path).map_err(failed)?;
        file.write_all(&(header.len() as u64).to_le_bytes()).map_err(failed)?;
        file.write_all(header.as_bytes()).map_err(failed)?;
        let row_bytes = bytes / rows.max(1);
        Ok(TensorStream {
            path: path.into(),
            file,
            checksum,
            checksum_at: 8 + at as u64,
            row: blake3::Hasher::new(),
            row_bytes,
            row_left: row_bytes,
            digests: Vec::new(),
            rows,
        })
    }

    /// The next bytes of the tensor, row-major, little-endian.
    pub fn append(&mut self, bytes: &[u8]) -> Result<()> {
        let mut rest = bytes;
        while !rest.is_empty() {
            if self.digests.len() == self.rows {
                return Err(self.refuse("more data than announced"));
            }
            let (now, later) = rest.split_at(rest.len().min(self.row_left));
            self.row.update(now);
            self.row_left -= now.len();
            rest = later;
            if self.row_left == 0 {
                self.digests.push(*self.row.finalize().as_bytes());
                self.row.reset();
                self.row_left = self.row_bytes;
            }
        }
        self.file.write_all(bytes).map_err(|e| Error::io(&self.path, "write", &e))
    }

    /// Completes the file and moves it to its place.
    pub fn finish(mut self) -> Result<()> {
        if self.digests.len() != self.rows {
            return Err(self.refuse("less data than announced"));
        }
        let digests = self.digests.as_flattened();
        self.checksum.update(digests);
        let checksum = self.checksum.finalize().to_hex();
        let failed = |e: std::io::Error| Error::io(&self.path, "write", &e);
        self.file.write_all(digests).map_err(failed)?;
        self.file.seek(SeekFrom::Start(self.checksum_at)).map_err(failed)?;
        self.file.write_all(checksum.as_bytes()).map_err(failed)?;
        self.file.commit().map_err(failed)
    }

    fn refuse(&self, problem: &str) -> Error {
        Error::file(&self.path, problem, "this is a defect in the caller")
    }
}
