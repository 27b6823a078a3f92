//! A data set's radiographs: one size, 8 or 16 bits a pixel, in files that are mapped rather than read.
//!
//! # Format `x2ct-radiographs-2`
//! An [`Archive`] with the tensor `image` [N, H, W] and its companion `image.blake3`; `image[i][0][0]` is superior and the
//! patient's right (frontal views) or anterior (lateral). Each radiograph's minimum and maximum are stretched to the ends of
//! the pixel type: u8 from 0 to 255, as X2CT-CLIP stores them, or bf16 from 0 to 1. Metadata:
//!
//! | key | is |
//! |---|---|
//! | `ids` | JSON array of N distinct strings |
//! | `view` | from where they are taken: `ap`, `pa`, `lateral`, ... |
//! | `source` | JSON: what they were made of and how |
//! | `preprocessing_digest` | BLAKE3 of `source` |
//! | `provenance` | how they were made, setting by setting ([`super::provenance`]); files of earlier versions lack it |
//! | `ct_digests` | the CT that each was made of ([`super::cts`]); files of earlier versions lack it |
//! | `origins` | which were made by force ([`super::origins`]); files without such radiographs and of earlier versions lack it |
//! | `shard` | `I/N` of a set in several files, in this order; `1/1` of a set in one |
//! | `run` | of a packed data set: BLAKE3 of all that decides what is in the file (see [`super::ingest`]) |
//!
//! Opening verifies the structure, the length, the metadata and the digests, not the pixels: that takes milliseconds at any
//! size. [`RadiographSet::upload`], which is how training reads them, checks every radiograph as it copies it: one that was changed
//! or damaged, or that shows nothing, is refused by its id. [`RadiographSet::read_usable`] leaves such radiographs out.

use std::borrow::Cow;
use std::collections::HashSet;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rayon::prelude::*;
use safetensors::Dtype;
use serde_json::json;

use super::cts::Cts;
use super::origins::{Doubt, Origins};
use super::pixels;
use super::provenance::{Content, Provenance, REAL, fields};
use super::volumes::LeftOut;
use crate::archive::{Archive, Digest, Writer};
use crate::ct::{HuSource, RadiographOptions};
use crate::device::Device;
use crate::files;
use crate::ops::image::{ImageSet, PixelType};
use crate::{Error, Result};

const FORMAT: &str = "x2ct-radiographs-2";
const IMAGE: &str = "image";
const AGAIN: &str = "make the radiographs again";

/// Radiographs of one size with their ids, in memory or in one or more mapped files.
pub struct RadiographSet {
    ids: Vec<String>,
    size: [usize; 2],
    pixel: PixelType,
    view: String,
    source: serde_json::Value,
    made: Provenance,
    cts: Cts,
    origins: Origins,
    parts: Arc<[Part]>,
    /// The place of each radiograph in the parts.
    places: Vec<usize>,
}

/// The radiographs of one file, or of memory: those of the places from `first` on.
struct Part {
    first: usize,
    count: usize,
    pixels: Pixels,
}

enum Pixels {
    Owned(Vec<u8>),
    Mapped(Archive),
}

/// What a file says beside its pixels.
pub(super) struct Description<'a> {
    pub ids: &'a [String],
    pub size: [usize; 2],
    pub pixel: PixelType,
    pub view: &'a str,
    pub source: &'a serde_json::Value,
    pub made: &'a Provenance,
    pub cts: &'a Cts,
    pub origins: &'a Origins,
    pub shard: [usize; 2],
    /// What a run is told apart by.
    pub run: &'a str,
}

impl Description<'_> {
    /// The archive of these radiographs: digests now, pixels when it is written.
    pub(super) fn writer<'a>(
        &self,
        digests: &'a [Digest],
        row: &'a dyn Fn(usize) -> Result<Cow<'a, [u8]>>,
    ) -> Writer<'a> {
        let mut archive = Writer::new(FORMAT);
        archive.set("ids", json!(self.ids).to_string());
        archive.set("view", self.view);
        archive.set("source", self.source.to_string());
        archive.set("preprocessing_digest", digest(self.source));
        archive.set("shard", format!("{}/{}", self.shard[0], self.shard[1]));
        if !self.run.is_empty() {
            archive.set("run", self.run);
        }
        let content = content(self.size, self.pixel, self.ids, digests);
        self.cts.record(&mut archive);
        self.origins.record(&mut archive);
        self.cts.add_to(self.made.holding(content, self.ids.len()), self.ids).record(&mut archive);
        let dtype = match self.pixel {
            PixelType::U8 => Dtype::U8,
            PixelType::Bf16 => Dtype::BF16,
        };
        archive.put_rows(IMAGE, dtype, &[self.ids.len(), self.size[0], self.size[1]], digests, row);
        archive
    }
}

/// How packed radiographs are made: every option that has a say in what is in the picture, and the stored form.
pub fn settings(options: &RadiographOptions, size: [usize; 2], pixel: PixelType) -> Provenance {
    let options = RadiographOptions { hu: HuSource::AlreadyHu, ..options.clone() };
    let mut all = options.settings();
    // The most telling first: the rest may follow from these.
    let first = ["mode", "view", "geometry"].map(|name| (name.to_string(), json!(all.remove(name))));
    let mut settings: serde_json::Map<_, _> = first.into_iter().collect();
    settings.extend(fields(json!(all)));
    settings.insert("photometric".into(), json!("monochrome2"));
    settings.insert("size".into(), json!(format!("{}x{}", size[0], size[1])));
    settings.insert("pixels".into(), json!(pixel));
    Provenance::made(settings, [])
}

/// How packed real radiographs came about, in the names of [`settings`]: [`Provenance::expect_alike`] knows them by their mode.
pub(super) fn real_settings(
    view: &str,
    mirror: bool,
    size: [usize; 2],
    pixel: PixelType,
) -> serde_json::Map<String, serde_json::Value> {
    fields(json!({
        "mode": REAL, "view": view, "mirror": mirror, "photometric": "monochrome2", "size": format!("{}x{}", size[0], size[1]),
        "pixels": pixel,
    }))
}

/// The digest of ids and pixels, however many files they are in.
fn content(size: [usize; 2], pixel: PixelType, ids: &[String], digests: &[Digest]) -> String {
    let mut content = Content::of("radiographs").and(format!("{pixel:?} {size:?}"));
    for (id, digest) in ids.iter().zip(digests) {
        content.add(id);
        content.add(digest);
    }
    content.digest()
}

/// BLAKE3 of what radiographs were made of and how, lower-case hex.
pub fn digest(source: &serde_json::Value) -> String {
    blake3::hash(source.to_string().as_bytes()).to_hex().to_string()
}

impl RadiographSet {
    /// 8-bit radiographs in memory, [ids, H, W], projected with these options; `source` says what they were made of and how.
    pub fn new(
        ids: Vec<String>,
        size: [usize; 2],
        pixels: Vec<u8>,
        source: serde_json::Value,
        options: &RadiographOptions,
    ) -> Result<Self> {
        if pixels.len() != ids.len() * size[0] * size[1] || pixels.is_empty() {
            let problem = format!("{} bytes for {} images of {} x {}", pixels.len(), ids.len(), size[0], size[1]);
            return Err(Error::argument("radiographs", problem, "pass one byte a pixel, and at least one image"));
        }
        check_distinct(&ids)
            .map_err(|id| Error::argument("radiographs", format!("the id {id} occurs twice"), "name each once"))?;
        let (parts, places) = together(vec![(ids.len(), Pixels::Owned(pixels))]);
        let (pixel, view) = (PixelType::U8, options.view.name().to_string());
        let (made, cts, origins) = (settings(options, size, pixel), Cts::default(), Origins::default());
        Ok(RadiographSet { ids, size, pixel, view, source, made, cts, origins, parts, places })
    }

    /// The set with the digest of the CT that each radiograph was made of ([`of_ct`](super::provenance::of_ct)).
    ///
    /// # Errors
    /// Another number of digests than radiographs.
    pub fn with_cts(self, cts: Vec<String>) -> Result<Self> {
        let cts = Cts::new(cts);
        cts.expect_rows(self.ids.len())?;
        Ok(RadiographSet { cts, ..self })
    }

    /// Maps a set: a file; a folder, for all `.safetensors` files in it; or a file name with `*`, for all files it fits. Several
    /// files must be the shards of one set, whole in number; they are put in order. Pixels are not looked at yet: see
    /// [`Self::verify`] and [`Self::upload`].
    ///
    /// # Errors
    /// No such file, another format, a file cut short or changed, shards that are missing or of different sets, no radiograph.
    pub fn read(path: &Path) -> Result<Self> {
        let mut files = files_of(path)?.into_iter().map(|file| Mapped::read(&file)).collect::<Result<Vec<_>>>()?;
        files.sort_by_key(|file| file.shard);
        let first = &files[0];
        if let Some(file) = files.iter().find(|file| file.description() != first.description()) {
            let problem = format!("is of another set than {}", first.archive.path().display());
            return Err(Error::file(file.archive.path(), problem, "name the files of one set, such as FOLDER/ap*"));
        }
        let ([_, count], hint) = (first.shard, "name every shard of one set, and each once");
        for (i, file) in files.iter().enumerate() {
            if file.shard != [i + 1, count] {
                let problem = format!(
                    "is shard {} of {}, where shard {} of {count} should come",
                    file.shard[0],
                    file.shard[1],
                    i + 1
                );
                return Err(Error::file(file.archive.path(), problem, hint));
            }
        }
        if files.len() < count {
            return Err(Error::file(path, format!("shard {} of {count} is missing", files.len() + 1), hint));
        }
        let (size, pixel, view, source) = (first.size, first.pixel, first.view.clone(), first.source.clone());
        let made = first.made.holding(String::new(), 0);
        let (mut ids, mut parts) = (Vec::new(), Vec::new());
        let cts = Cts::of_parts(files.iter().map(|file| (file.cts.clone(), file.ids.len())));
        let origins = Origins::of_parts(files.iter().map(|file| (file.origins.clone(), file.ids.len())));
        for file in files {
            parts.push((file.ids.len(), Pixels::Mapped(file.archive)));
            ids.extend(file.ids);
        }
        if ids.is_empty() {
            return Err(Error::file(path, "holds no radiograph", AGAIN));
        }
        check_distinct(&ids).map_err(|id| Error::file(path, format!("the id {id} occurs twice"), AGAIN))?;
        let (parts, places) = together(parts);
        Ok(RadiographSet { ids, size, pixel, view, source, made, cts, origins, parts, places })
    }

    /// [`Self::read`], which reads all pixels, without the radiographs that [`Self::upload`] would refuse; these in order.
    ///
    /// # Errors
    /// Those of [`Self::read`]; no radiograph is left.
    pub fn read_usable(path: &Path) -> Result<(Self, Vec<LeftOut>)> {
        let set = Self::read(path)?;
        let faults: Vec<Option<Error>> = (0..set.ids.len()).into_par_iter().map(|row| set.check(row).err()).collect();
        let usable: Vec<usize> = (0..faults.len()).filter(|&row| faults[row].is_none()).collect();
        let bad = |(row, fault): (usize, Option<Error>)| Some(LeftOut { id: set.ids[row].clone(), error: fault? });
        let mut left_out: Vec<LeftOut> = faults.into_iter().enumerate().filter_map(bad).collect();
        match (left_out.len(), usable.is_empty()) {
            (0, _) => Ok((set, left_out)),
            (count, true) => Err(left_out.swap_remove(0).error.with_others(count - 1, "radiographs")),
            _ => Ok((set.select(&usable), left_out)),
        }
    }

    /// The set of some of its radiographs, by their rows.
    fn select(&self, rows: &[usize]) -> Self {
        RadiographSet {
            ids: rows.iter().map(|&row| self.ids[row].clone()).collect(),
            size: self.size,
            pixel: self.pixel,
            view: self.view.clone(),
            source: self.source.clone(),
            made: self.made.clone(),
            cts: self.cts.select(rows),
            origins: self.origins.select(rows),
            parts: self.parts.clone(),
            places: rows.iter().map(|&row| self.places[row]).collect(),
        }
    }

    /// Writes the set as one file, whole or not at all.
    pub fn write(&self, path: &Path) -> Result<()> {
        let digests = self.digests();
        let row = |i: usize| Ok(Cow::Borrowed(self.image(i)));
        let RadiographSet { ids, size, pixel, view, source, made, cts, origins, .. } = self;
        let (size, pixel) = (*size, *pixel);
        let description = Description { ids, size, pixel, view, source, made, cts, origins, shard: [1, 1], run: "" };
        description.writer(&digests, &row).write(path)
    }

    /// One id a radiograph, in order.
    pub fn ids(&self) -> &[String] {
        &self.ids
    }

    /// Height and width.
    pub fn size(&self) -> [usize; 2] {
        self.size
    }

    /// Type in which a pixel is stored.
    pub fn pixel(&self) -> PixelType {
        self.pixel
    }

    /// From where they are taken, such as `ap`.
    pub fn view(&self) -> &str {
        &self.view
    }

    /// What the radiographs were made of and how.
    pub fn source(&self) -> &serde_json::Value {
        &self.source
    }

    /// BLAKE3 of [`Self::source`], lower-case hex.
    pub fn preprocessing_digest(&self) -> String {
        digest(&self.source)
    }

    /// BLAKE3 of every radiograph's stored bytes, in order: as the file says, or of the bytes themselves.
    fn digests(&self) -> Vec<Digest> {
        let recorded = |index: usize| match self.part_of(index) {
            (Part { pixels: Pixels::Mapped(archive), .. }, row) => archive.digests(IMAGE).ok()?.get(row).copied(),
            _ => None,
        };
        let of = |index| recorded(index).unwrap_or_else(|| *blake3::hash(self.image(index)).as_bytes());
        (0..self.ids.len()).map(of).collect()
    }

    /// What the set holds, however many files it is in, and how it was made.
    pub fn provenance(&self) -> Provenance {
        let content = content(self.size, self.pixel, &self.ids, &self.digests());
        self.cts.add_to(self.made.holding(content, self.ids.len()), &self.ids)
    }

    /// The CTs that the radiographs were made of.
    pub fn cts(&self) -> &Cts {
        &self.cts
    }

    /// What is doubtful of how the radiographs were made: by force.
    pub fn doubts(&self) -> Vec<Doubt> {
        self.origins.doubts_of_radiographs(&self.ids)
    }

    fn image_bytes(&self) -> usize {
        self.size[0] * self.size[1] * self.pixel.bytes()
    }

    /// Where a radiograph is stored, and its row there.
    fn part_of(&self, index: usize) -> (&Part, usize) {
        let place = self.places[index];
        let part = &self.parts[self.parts.partition_point(|part| part.first + part.count <= place)];
        (part, place - part.first)
    }

    /// The stored bytes of one radiograph, row-major, little-endian.
    pub fn image(&self, index: usize) -> &[u8] {
        let (part, row) = self.part_of(index);
        &part.bytes()[row * self.image_bytes()..][..self.image_bytes()]
    }

    /// One radiograph in grey from 0 to 1.
    pub fn grey(&self, index: usize) -> Vec<f32> {
        pixels::decode(self.image(index), self.pixel)
    }

    /// Checks every radiograph as [`Self::upload`] does, which reads all files.
    ///
    /// # Errors
    /// Names the first that was changed or damaged, or that shows nothing.
    pub fn verify(&self) -> Result<()> {
        self.check_all(0..self.ids.len())
    }

    /// Copies all radiographs to the device, each checked on the way.
    ///
    /// # Errors
    /// Names the first that was changed or damaged, or that shows nothing; a device without the memory.
    pub fn upload(&self, device: &Device) -> Result<ImageSet> {
        const AT_ONCE: usize = 256;
        let mut images = ImageSet::empty(device, self.ids.len(), self.size, self.pixel)?;
        for begin in (0..self.ids.len()).step_by(AT_ONCE) {
            let rows = begin..(begin + AT_ONCE).min(self.ids.len());
            self.check_all(rows.clone())?;
            images.put(begin, &rows.map(|row| self.image(row)).collect::<Vec<_>>().concat())?;
        }
        Ok(images)
    }

    /// The first fault of some radiographs, which are looked at on every core.
    fn check_all(&self, rows: Range<usize>) -> Result<()> {
        rows.into_par_iter().find_map_first(|row| self.check(row).err()).map_or(Ok(()), Err)
    }

    /// Refuses a radiograph that its digest disagrees with, and one that shows nothing.
    fn check(&self, index: usize) -> Result<()> {
        let (part, row) = self.part_of(index);
        if let Pixels::Mapped(archive) = &part.pixels
            && archive.verify_rows(IMAGE, row..row + 1).is_err()
        {
            return Err(self.refuse(index, "was changed or damaged", AGAIN));
        }
        let mut pixels = self.image(index).chunks(self.pixel.bytes());
        let first = pixels.next();
        if pixels.all(|pixel| Some(pixel) == first) {
            let problem = "is one value everywhere: it shows nothing";
            return Err(self.refuse(index, problem, "check the CT it was made of, or leave it out"));
        }
        Ok(())
    }

    fn refuse(&self, index: usize, problem: &str, hint: &str) -> Error {
        let error = Error::argument(&self.ids[index], problem, hint);
        match &self.part_of(index).0.pixels {
            Pixels::Owned(_) => error,
            Pixels::Mapped(archive) => error.of_file(archive.path()),
        }
    }
}

impl Part {
    fn bytes(&self) -> &[u8] {
        match &self.pixels {
            Pixels::Owned(bytes) => bytes,
            Pixels::Mapped(archive) => archive.tensor(IMAGE).map(|(.., data)| data).unwrap_or_default(),
        }
    }
}

/// The parts of a set, one after the other, each with the number of its radiographs, and the place of each radiograph.
fn together(parts: Vec<(usize, Pixels)>) -> (Arc<[Part]>, Vec<usize>) {
    let mut first = 0;
    let part = |(count, pixels)| {
        first += count;
        Part { first: first - count, count, pixels }
    };
    let parts = parts.into_iter().map(part).collect();
    (parts, (0..first).collect())
}

/// One file of a set.
pub(super) struct Mapped {
    pub ids: Vec<String>,
    pub size: [usize; 2],
    pub pixel: PixelType,
    pub view: String,
    pub source: serde_json::Value,
    /// How they were made, but of which CTs.
    pub made: Provenance,
    pub cts: Cts,
    pub origins: Origins,
    pub shard: [usize; 2],
    /// Empty where there is none.
    pub run: String,
    pub archive: Archive,
}

impl Mapped {
    pub(super) fn read(path: &Path) -> Result<Self> {
        let refuse = |problem: String| Error::file(path, problem, AGAIN);
        let archive = Archive::read(path, FORMAT, "radiographs", AGAIN)?;
        let ids: Vec<String> = archive.get_json("ids")?;
        let (source, view) = (archive.get_json("source")?, archive.get("view")?.to_string());
        let run = archive.get("run").unwrap_or_default().to_string();
        let text = archive.get("shard")?;
        let number = |text: &str| text.parse().ok().filter(|n| *n > 0);
        let shard = text.split_once('/').and_then(|(at, of)| Some([number(at)?, number(of)?]));
        let shard = shard.ok_or_else(|| refuse(format!("its shard is {text:?}, not I/N")))?;
        let (dtype, shape, _) = archive.tensor(IMAGE)?;
        let pixel = match dtype {
            Dtype::U8 => PixelType::U8,
            Dtype::BF16 => PixelType::Bf16,
            _ => return Err(refuse(format!("image is {dtype:?}, not U8 or BF16"))),
        };
        let &[n, h, w] = shape else { return Err(refuse(format!("image has the shape {shape:?}, not [N, H, W]"))) };
        if n != ids.len() || h * w == 0 {
            return Err(refuse(format!("image has the shape {shape:?} for {} ids", ids.len())));
        }
        let content = content([h, w], pixel, &ids, archive.digests(IMAGE)?);
        let said = json!({"view": view, "size": format!("{h}x{w}"), "pixels": pixel});
        let made = Provenance::read(&archive, &content)?.unwrap_or_else(|| Provenance::unknown(fields(said)));
        let (made, cts) = (Cts::default().add_to(made, &[]), Cts::read(&archive, n)?);
        let origins = Origins::read(&archive, n)?;
        Ok(Mapped { ids, size: [h, w], pixel, view, source, made, cts, origins, shard, run, archive })
    }

    /// What all files of a set have in common.
    fn description(&self) -> ([usize; 2], PixelType, &str, &serde_json::Value, Provenance) {
        (self.size, self.pixel, &self.view, &self.source, self.made.holding(String::new(), 0))
    }

    /// Stored bytes of one radiograph.
    pub(super) fn image(&self, index: usize) -> Result<&[u8]> {
        let bytes = self.size[0] * self.size[1] * self.pixel.bytes();
        let (.., data) = self.archive.tensor(IMAGE)?;
        data.get(index * bytes..(index + 1) * bytes).ok_or_else(|| {
            let problem = format!("has no radiograph {index}");
            Error::file(self.archive.path(), problem, AGAIN)
        })
    }
}

/// The files that a path of radiographs stands for, in the order of their names: a folder or a name with `*` for several.
///
/// # Errors
/// A folder that cannot be read; no file.
pub fn files_of(path: &Path) -> Result<Vec<PathBuf>> {
    let Some((folder, pattern)) = several(path) else { return Ok(vec![path.to_path_buf()]) };
    let unreadable = |e: std::io::Error| Error::io(folder, "read the folder", &e);
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(unreadable)? {
        let name = entry.map_err(unreadable)?.file_name();
        if is_part(&name.to_string_lossy(), &pattern) {
            files.push(folder.join(&name));
        }
    }
    if files.is_empty() {
        return Err(Error::file(path, format!("no {ENDING} file is there"), "make the radiographs with `x2ct drr`"));
    }
    files.sort();
    Ok(files)
}

/// Refuses to write a file that a path of radiographs would stand for too, the next time.
///
/// # Errors
/// The first of the files that lies in the folder, or fits the name with `*`.
pub fn expect_none_of(path: &Path, files: &[impl AsRef<Path>]) -> Result<()> {
    let Some((folder, pattern)) = several(path) else { return Ok(()) };
    let lies_there = |file: &Path| {
        files::resolved(file).is_some_and(|file| {
            let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
            file.parent() == folder.canonicalize().ok().as_deref() && is_part(&name, &pattern)
        })
    };
    match files.iter().map(AsRef::as_ref).find(|file| lies_there(file)) {
        Some(file) => {
            let problem = format!("would be read as one of the radiographs {} the next time", path.display());
            Err(Error::file(file, problem, "write to another folder"))
        }
        None => Ok(()),
    }
}

/// The folder of several files, and the pattern of their names; `None` of one file.
fn several(path: &Path) -> Option<(&Path, String)> {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    match (path.is_dir(), name.contains('*') && !path.exists()) {
        (true, _) => Some((path, "*".into())),
        (false, true) => Some((path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new(".")), name)),
        _ => None,
    }
}

/// What the names of files of radiographs end in.
const ENDING: &str = ".safetensors";

/// Whether a file of this name is one of several. Hidden files are unfinished ones.
fn is_part(name: &str, pattern: &str) -> bool {
    name.ends_with(ENDING) && !name.starts_with('.') && fits(name, pattern)
}

/// Whether `*` in a pattern can stand for what makes it the name.
fn fits(name: &str, pattern: &str) -> bool {
    match pattern.split_once('*') {
        None => name == pattern,
        Some((start, rest)) => name.strip_prefix(start).is_some_and(|name| {
            name.char_indices().map(|(i, _)| i).chain([name.len()]).any(|i| fits(&name[i..], rest))
        }),
    }
}

fn check_distinct(ids: &[String]) -> Result<(), &str> {
    let mut seen = HashSet::new();
    ids.iter().find(|id| !seen.insert(id.as_str())).map_or(Ok(()), |id| Err(id))
}
