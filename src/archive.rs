//! Checksummed safetensors: the container of caches, radiograph sets and checkpoints.
//!
//! A file is an ordinary safetensors file whose metadata holds `format` and `checksum`. The checksum is BLAKE3, lower-case
//! hex, over first `key 00 value 00` for every other metadata entry in ascending order of keys, then
//! `name 00 SIZES 00 data` for the tensors in ascending order of names (00 is a zero byte; sizes in decimal joined by `x`;
//! data little-endian as stored). Equal content gives equal bytes. Writing is atomic and holds no copy of the tensors;
//! reading maps the file.
//!
//! # What is verified when
//! Opening a file verifies its structure, its length and its checksum, which means reading all of it. For tens of gigabytes
//! that is too much for every start, so a tensor `NAME` [N, ...] may have a companion `NAME.blake3` [N, 32] u8: row i is the
//! BLAKE3 of `NAME[i]`. The checksum then covers the companion, and of `NAME` no data but name and sizes; its rows are verified
//! by whoever reads them ([`Archive::verify_rows`]), in the same pass.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::Write;
use std::ops::Range;
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use rayon::prelude::*;
use safetensors::{Dtype, SafeTensors};
use serde_json::json;

use crate::{Error, Result, files};

mod stream;
pub use stream::TensorStream;

const CHECKSUM: &str = "checksum";

/// BLAKE3 of one row.
pub type Digest = [u8; 32];

/// The companion of a tensor whose rows have digests.
fn companion(name: &str) -> String {
    format!("{name}.blake3")
}

/// The checksum: `data` hands out a tensor's bytes, or none where a companion stands for them.
fn checksum<'a>(
    metadata: &BTreeMap<String, String>,
    tensors: impl Iterator<Item = (&'a str, &'a [usize], Option<&'a [u8]>)>,
) -> String {
    let mut hasher = blake3::Hasher::new();
    for (key, value) in metadata.iter().filter(|(key, _)| *key != CHECKSUM) {
        hasher.update(format!("{key}\0{value}\0").as_bytes());
    }
    for (name, shape, data) in tensors {
        let sizes = shape.iter().map(usize::to_string).collect::<Vec<_>>().join("x");
        hasher.update(format!("{name}\0{sizes}\0").as_bytes());
        hasher.update(data.unwrap_or_default());
    }
    hasher.finalize().to_hex().to_string()
}

/// An archive to be written: borrows what it can and copies nothing.
pub struct Writer<'a> {
    metadata: BTreeMap<String, String>,
    tensors: BTreeMap<String, Content<'a>>,
}

struct Content<'a> {
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: usize,
    data: Data<'a>,
}

enum Data<'a> {
    Whole(&'a [u8]),
    Rows { digests: &'a [Digest], row: &'a dyn Fn(usize) -> Result<Cow<'a, [u8]>> },
}

impl<'a> Writer<'a> {
    /// An empty archive of a format.
    pub fn new(format: &str) -> Self {
        Writer { metadata: BTreeMap::from([("format".to_string(), format.to_string())]), tensors: BTreeMap::new() }
    }

    /// Adds text.
    pub fn set(&mut self, key: &str, value: impl Into<String>) {
        self.metadata.insert(key.into(), value.into());
    }

    /// Adds a tensor of f32.
    pub fn put_f32(&mut self, name: &str, shape: &[usize], data: &'a [f32]) {
        let data = Data::Whole(bytemuck::cast_slice(data));
        self.put(name, Dtype::F32, shape, data);
    }

    /// Adds a tensor of f64.
    pub fn put_f64(&mut self, name: &str, shape: &[usize], data: &'a [f64]) {
        let data = Data::Whole(bytemuck::cast_slice(data));
        self.put(name, Dtype::F64, shape, data);
    }

    /// Adds a tensor of u32.
    pub fn put_u32(&mut self, name: &str, shape: &[usize], data: &'a [u32]) {
        let data = Data::Whole(bytemuck::cast_slice(data));
        self.put(name, Dtype::U32, shape, data);
    }

    /// Adds a tensor of `shape` [N, ...] row by row, with its companion: `digests` are those of its N rows, and `row` hands
    /// them out when the archive is written, one at a time. A row of another digest stops the writing.
    pub fn put_rows(
        &mut self,
        name: &str,
        dtype: Dtype,
        shape: &[usize],
        digests: &'a [Digest],
        row: &'a dyn Fn(usize) -> Result<Cow<'a, [u8]>>,
    ) {
        let all = Data::Whole(digests.as_flattened());
        self.put(&companion(name), Dtype::U8, &[digests.len(), size_of::<Digest>()], all);
        self.put(name, dtype, shape, Data::Rows { digests, row });
    }

    fn put(&mut self, name: &str, dtype: Dtype, shape: &[usize], data: Data<'a>) {
        let bytes = shape.iter().product::<usize>() * dtype.bitsize() / 8;
        self.tensors.insert(name.into(), Content { dtype, shape: shape.to_vec(), bytes, data });
    }

    /// Writes the archive, whole or not at all.
    pub fn write(&self, path: &Path) -> Result<()> {
        files::write_atomic_with(path, |out| self.write_to(out, path))
    }

    /// Writes the archive's bytes; `path` only labels errors.
    pub fn write_to(&self, out: &mut dyn Write, path: &Path) -> Result<()> {
        let mut put = |bytes: &[u8]| out.write_all(bytes).map_err(|e| Error::io(path, "write", &e));
        let header = self.header();
        put(&(header.len() as u64).to_le_bytes())?;
        put(header.as_bytes())?;
        for (name, content) in &self.tensors {
            match &content.data {
                Data::Whole(data) => put(data)?,
                Data::Rows { digests, row } => {
                    for (i, digest) in digests.iter().enumerate() {
                        let data = row(i)?;
                        if blake3::hash(&data) != *digest {
                            let problem = format!("row {i} of {name} is not what its digest says");
                            return Err(Error::file(path, problem, "check the disk and run again"));
                        }
                        put(&data)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// The safetensors header. Not that crate's own: its metadata has the order of a hash map.
    fn header(&self) -> String {
        let mut metadata = self.metadata.clone();
        let tensors = self.tensors.iter().map(|(name, content)| {
            let data = match &content.data {
                Data::Whole(data) => Some(*data),
                Data::Rows { .. } => None,
            };
            (name.as_str(), &content.shape[..], data)
        });
        metadata.insert(CHECKSUM.into(), checksum(&self.metadata, tensors));
        let mut header = serde_json::Map::new();
        let mut begin = 0;
        for (name, content) in &self.tensors {
            let end = begin + content.bytes;
            let entry = json!({
                "dtype": format!("{:?}", content.dtype), "shape": content.shape, "data_offsets": [begin, end],
            });
            header.insert(name.clone(), entry);
            begin = end;
        }
        header.insert("__metadata__".into(), json!(metadata));
        let mut header = json!(header).to_string();
        header.push_str(&" ".repeat(header.len().next_multiple_of(8) - header.len()));
        header
    }
}

/// Named tensors and text in a mapped file.
pub struct Archive {
    path: PathBuf,
    metadata: BTreeMap<String, String>,
    tensors: BTreeMap<String, Entry>,
    map: Mmap,
}

struct Entry {
    dtype: Dtype,
    shape: Vec<usize>,
    range: Range<usize>,
}

fn map(path: &Path, what: &str) -> Result<Mmap> {
    let file = files::open(path).map_err(|e| Error::io(path, &format!("open the {what}"), &e))?;
    // SAFETY: the map is only read. Archives are replaced by renaming, never written in place.
    unsafe { Mmap::map(&file) }.map_err(|e| Error::io(path, &format!("map the {what}"), &e))
}

impl Archive {
    /// Maps an archive of `format` and verifies it, but for tensors with a companion. `what` says what it is, `advice` what to
    /// do when it is bad.
    pub fn read(path: &Path, format: &str, what: &str, advice: &str) -> Result<Self> {
        let archive = Self::open(path, format, what, advice)?;
        archive.verify().map_err(|problem| Error::file(path, problem, advice))?;
        Ok(archive)
    }

    /// Maps an archive of `format` and verifies its structure and length, not its content: to look at the metadata of many
    /// files, which are [`Archive::read`] later.
    pub fn open(path: &Path, format: &str, what: &str, advice: &str) -> Result<Self> {
        Self::parse(path, map(path, what)?, format).map_err(|problem| Error::file(path, problem, advice))
    }

    /// The format that a file says it has; `None` where it says none, or is no safetensors file.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn format_of(path: &Path) -> Result<Option<String>> {
        let map = map(path, "file")?;
        Ok(SafeTensors::read_metadata(&map).ok().and_then(|(_, header)| header.metadata().clone()?.remove("format")))
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
        Ok(Archive { path: path.to_path_buf(), metadata, tensors: tensors.collect(), map })
    }

    fn verify(&self) -> Result<(), String> {
        let covered = self.tensors.iter().map(|(name, entry)| {
            let data = (!self.tensors.contains_key(&companion(name))).then(|| &self.map[entry.range.clone()]);
            (name.as_str(), &entry.shape[..], data)
        });
        let (recorded, computed) = (self.text(CHECKSUM)?, checksum(&self.metadata, covered));
        if computed != recorded {
            let problem = format!("its content has checksum {computed}, but {recorded} is recorded");
            return Err(format!("{problem}: it was changed or damaged"));
        }
        Ok(())
    }

    fn text(&self, key: &str) -> Result<&str, String> {
        self.metadata.get(key).map(String::as_str).ok_or_else(|| format!("has no metadata entry {key:?}"))
    }

    fn refuse(&self, problem: String) -> Error {
        Error::file(&self.path, problem, "write it again with this version of x2ct")
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// All texts, by their keys.
    pub fn texts(&self) -> &BTreeMap<String, String> {
        &self.metadata
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

    fn entry(&self, name: &str) -> Result<&Entry> {
        self.tensors.get(name).ok_or_else(|| self.refuse(format!("has no tensor {name}")))
    }

    /// Shape and values of an f32 tensor.
    pub fn f32(&self, name: &str) -> Result<(&[usize], Vec<f32>)> {
        let (shape, data) = self.of_type(name, Dtype::F32)?;
        Ok((shape, data.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()))
    }

    /// Shape and values of an f64 tensor.
    pub fn f64(&self, name: &str) -> Result<(&[usize], Vec<f64>)> {
        let (shape, data) = self.of_type(name, Dtype::F64)?;
        Ok((shape, data.as_chunks::<8>().0.iter().map(|b| f64::from_le_bytes(*b)).collect()))
    }

    /// Shape and values of a u32 tensor.
    pub fn u32(&self, name: &str) -> Result<(&[usize], Vec<u32>)> {
        let (shape, data) = self.of_type(name, Dtype::U32)?;
        Ok((shape, data.as_chunks::<4>().0.iter().map(|b| u32::from_le_bytes(*b)).collect()))
    }

    fn of_type(&self, name: &str, wanted: Dtype) -> Result<(&[usize], &[u8])> {
        let (dtype, shape, data) = self.tensor(name)?;
        if dtype != wanted {
            return Err(self.refuse(format!("tensor {name} is {dtype:?}, not {wanted:?}")));
        }
        Ok((shape, data))
    }

    /// The values of an archive that holds exactly these f32 tensors (name and rows, ascending names), all with one number of
    /// columns, which comes first.
    pub fn matrices<const N: usize>(&self, wanted: [(&str, usize); N]) -> Result<(usize, [Vec<f32>; N])> {
        let (found, names) = (self.names().collect::<Vec<_>>(), wanted.map(|(name, _)| name));
        if found != names {
            return Err(self.refuse(format!("holds the tensors {}, not {}", found.join(", "), names.join(", "))));
        }
        let mut columns = None;
        let mut values = [const { Vec::new() }; N];
        for ((name, rows), values) in wanted.into_iter().zip(&mut values) {
            let (shape, data) = self.f32(name)?;
            match shape {
                &[r, c] if r == rows && c == *columns.get_or_insert(c) => *values = data,
                _ => {
                    let width = columns.map_or("one width".into(), |c| c.to_string());
                    let problem = format!("tensor {name} has the shape {shape:?}, not [{rows}, {width}]");
                    return Err(self.refuse(problem));
                }
            }
        }
        Ok((columns.unwrap_or(0), values))
    }

    /// Type, shape and mapped bytes of a tensor.
    pub fn tensor(&self, name: &str) -> Result<(Dtype, &[usize], &[u8])> {
        let entry = self.entry(name)?;
        Ok((entry.dtype, &entry.shape, &self.map[entry.range.clone()]))
    }

    /// The digests of a tensor's rows, from its companion.
    pub fn digests(&self, name: &str) -> Result<&[Digest]> {
        let (rows, companion) = (self.entry(name)?.shape.first().copied().unwrap_or(0), companion(name));
        let (dtype, shape, data) = self.tensor(&companion)?;
        if dtype != Dtype::U8 || shape != [rows, size_of::<Digest>()] {
            return Err(self.refuse(format!("tensor {companion} is {dtype:?} {shape:?}, not U8 [{rows}, 32]")));
        }
        Ok(data.as_chunks::<32>().0)
    }

    /// Compares rows of a tensor with their digests, on every core.
    pub fn verify_rows(&self, name: &str, rows: Range<usize>) -> Result<()> {
        let (digests, (_, shape, data)) = (self.digests(name)?, self.tensor(name)?);
        let bytes = data.len() / shape[0].max(1);
        let bad = rows.into_par_iter().find_first(|&i| blake3::hash(&data[i * bytes..][..bytes]) != digests[i]);
        bad.map_or(Ok(()), |i| Err(self.refuse(format!("row {i} of {name} was changed or damaged"))))
    }
}
