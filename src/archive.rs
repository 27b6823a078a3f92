//! Checksummed safetensors: the container of caches, radiograph sets and checkpoints.
//!
//! A file is an ordinary safetensors file whose metadata holds `format` and `checksum`. The checksum is BLAKE3, lower-case
//! hex, over first `key 00 value 00` for every other metadata entry in ascending order of keys, then
//! `name 00 SIZES 00 data` for the tensors in ascending order of names (00 is a zero byte; sizes in decimal joined by `x`;
//! data little-endian as stored). Equal content gives equal bytes. Writing is atomic; reading maps the file and verifies all.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use safetensors::{Dtype, SafeTensors};
use serde_json::json;

use crate::{Error, Result, files};

const CHECKSUM: &str = "checksum";

/// Named tensors and text, verified as a whole.
pub struct Archive {
    path: PathBuf,
    metadata: BTreeMap<String, String>,
    tensors: BTreeMap<String, Entry>,
    bytes: Bytes,
}

struct Entry {
    dtype: Dtype,
    shape: Vec<usize>,
    range: Range<usize>,
}

enum Bytes {
    Owned(Vec<u8>),
    Mapped(Mmap),
}

impl Bytes {
    fn get(&self, range: &Range<usize>) -> &[u8] {
        match self {
            Bytes::Owned(bytes) => &bytes[range.clone()],
            Bytes::Mapped(map) => &map[range.clone()],
        }
    }
}

fn dtype_name(dtype: Dtype) -> &'static str {
    match dtype {
        Dtype::U8 => "U8",
        Dtype::I64 => "I64",
        _ => "F32",
    }
}

impl Archive {
    /// An empty archive of a format, to be written.
    pub fn new(format: &str) -> Self {
        Archive {
            path: PathBuf::new(),
            metadata: BTreeMap::from([("format".to_string(), format.to_string())]),
            tensors: BTreeMap::new(),
            bytes: Bytes::Owned(Vec::new()),
        }
    }

    /// Adds text.
    pub fn set(&mut self, key: &str, value: impl Into<String>) {
        self.metadata.insert(key.into(), value.into());
    }

    /// Adds a tensor of f32.
    pub fn put_f32(&mut self, name: &str, shape: &[usize], data: &[f32]) {
        self.put(name, Dtype::F32, shape, bytemuck::cast_slice(data));
    }

    /// Adds a tensor of u8.
    pub fn put_u8(&mut self, name: &str, shape: &[usize], data: &[u8]) {
        self.put(name, Dtype::U8, shape, data);
    }

    fn put(&mut self, name: &str, dtype: Dtype, shape: &[usize], data: &[u8]) {
        let Bytes::Owned(bytes) = &mut self.bytes else { unreachable!("only new archives are added to") };
        let begin = bytes.len();
        bytes.extend_from_slice(data);
        self.tensors.insert(name.into(), Entry { dtype, shape: shape.to_vec(), range: begin..bytes.len() });
    }

    fn digest(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        for (key, value) in self.metadata.iter().filter(|(key, _)| *key != CHECKSUM) {
            hasher.update(format!("{key}\0{value}\0").as_bytes());
        }
        for (name, entry) in &self.tensors {
            let sizes = entry.shape.iter().map(usize::to_string).collect::<Vec<_>>().join("x");
            hasher.update(format!("{name}\0{sizes}\0").as_bytes());
            hasher.update(self.bytes.get(&entry.range));
        }
        hasher.finalize().to_hex().to_string()
    }

    /// Writes the archive, whole or not at all.
    pub fn write(&self, path: &Path) -> Result<()> {
        let mut metadata = self.metadata.clone();
        metadata.insert(CHECKSUM.into(), self.digest());
        // Not safetensors::serialize: its metadata order is a hash map's, and equal content shall be equal bytes.
        let mut header = serde_json::Map::new();
        for (name, e) in &self.tensors {
            let entry =
                json!({"dtype": dtype_name(e.dtype), "shape": e.shape, "data_offsets": [e.range.start, e.range.end]});
            header.insert(name.clone(), entry);
        }
        header.insert("__metadata__".into(), json!(metadata));
        let mut header = json!(header).to_string();
        header.push_str(&" ".repeat(header.len().next_multiple_of(8) - header.len()));
        let data = match &self.bytes {
            Bytes::Owned(bytes) => &bytes[..],
            Bytes::Mapped(map) => &map[..],
        };
        files::write_atomic(path, &[&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat())
    }

    /// Maps an archive of `format` and verifies all of it. `what` says what it is, `advice` what to do when it is bad.
    pub fn read(path: &Path, format: &str, what: &str, advice: &str) -> Result<Self> {
        let file = std::fs::File::open(path).map_err(|e| Error::io(path, &format!("open the {what}"), &e))?;
        // SAFETY: the map is only read. Archives are replaced by renaming, never written in place.
        let map = unsafe { Mmap::map(&file) }.map_err(|e| Error::io(path, &format!("map the {what}"), &e))?;
        Self::parse(path, map, format).map_err(|problem| Error::file(path, problem, advice))
    }

    fn parse(path: &Path, map: Mmap, format: &str) -> Result<Self, String> {
        let broken = |e| format!("is not a whole safetensors file ({e})");
        let (_, header) = SafeTensors::read_metadata(&map).map_err(broken)?;
        let metadata: BTreeMap<String, String> = header.metadata().clone().unwrap_or_default().into_iter().collect();
        let found = metadata.get("format").map_or("", String::as_str);
        if found != format {
            return Err(format!("has format {found:?}, not {format:?}"));
        }
        let file = SafeTensors::deserialize(&map).map_err(broken)?;
        let start = map.as_ptr() as usize;
        let tensors = file.iter().map(|(name, view)| {
            let begin = view.data().as_ptr() as usize - start;
            let range = begin..begin + view.data().len();
            (name.to_string(), Entry { dtype: view.dtype(), shape: view.shape().to_vec(), range })
        });
        let tensors = tensors.collect();
        let archive = Archive { path: path.to_path_buf(), metadata, tensors, bytes: Bytes::Mapped(map) };
        let (recorded, computed) = (archive.text(CHECKSUM)?, archive.digest());
        if computed != recorded {
            let problem = format!("its content has checksum {computed}, but {recorded} is recorded");
            return Err(format!("{problem}: it was changed or damaged"));
        }
        Ok(archive)
    }

    fn text(&self, key: &str) -> Result<&str, String> {
        self.metadata.get(key).map(String::as_str).ok_or_else(|| format!("has no metadata entry {key:?}"))
    }

    fn refuse(&self, problem: String) -> Error {
        Error::file(&self.path, problem, "write it again with this version of x2ct")
    }

    /// A text.
    pub fn get(&self, key: &str) -> Result<&str> {
        self.text(key).map_err(|problem| self.refuse(problem))
    }

    /// A text that holds JSON.
    pub fn get_json<T: serde::de::DeserializeOwned>(&self, key: &str) -> Result<T> {
        serde_json::from_str(self.get(key)?).map_err(|e| self.refuse(format!("its {key} is no valid JSON ({e})")))
    }

    /// Names of the tensors, ascending.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    fn entry(&self, name: &str, dtype: Dtype) -> Result<(&[usize], &[u8])> {
        match self.tensors.get(name) {
            Some(e) if e.dtype == dtype => Ok((&e.shape, self.bytes.get(&e.range))),
            Some(e) => Err(self.refuse(format!("tensor {name} is {:?}, not {dtype:?}", e.dtype))),
            None => Err(self.refuse(format!("has no tensor {name}"))),
        }
    }

    /// Shape and values of an f32 tensor.
    pub fn f32(&self, name: &str) -> Result<(&[usize], Vec<f32>)> {
        let (shape, data) = self.entry(name, Dtype::F32)?;
        Ok((shape, data.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()))
    }

    /// Shape and mapped values of a u8 tensor.
    pub fn u8(&self, name: &str) -> Result<(&[usize], &[u8])> {
        self.entry(name, Dtype::U8)
    }
}
