//! The volumes, or images, that paths stand for. Files in folders are known by content; whatever is passed over is told.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::Serialize;
use x2ct::archive::Archive;
use x2ct::content::Content;
use x2ct::ct::{image, nifti};
use x2ct::table::first_of;
use x2ct::{Error, Result, files};

use crate::output::{Failure, Warning};

/// What a path to volumes may be.
pub const VOLUMES: &str = if cfg!(feature = "dicom") {
    "CT volumes: .nii, .nii.gz, .hdr with .img, RadChest-CT's .npz, a folder with a DICOM series, an Enhanced CT file; or folders \
     of volumes"
} else {
    "CT volumes: .nii, .nii.gz, .hdr with .img, RadChest-CT's .npz; or folders of volumes. This build reads no DICOM"
};
const IMAGES: &str = if cfg!(feature = "dicom") {
    "PNG, JPEG, DICOM, two-dimensional NIfTI or an image of `x2ct drr`"
} else {
    "PNG, JPEG, two-dimensional NIfTI or an image of `x2ct drr`"
};
const KINDS: &str = if cfg!(feature = "dicom") { "NIfTI, .npz or a DICOM series" } else { "NIfTI or .npz" };

/// Why a folder is passed over that was named twice, lies in another or is a link to one.
const LOOKED_AT: &str = "a folder that is looked at already";

/// Endings of volumes' names.
const ENDINGS: [&str; 3] = [".nii.gz", ".nii", ".npz"];
/// Endings of the names of a NIfTI pair's halves.
const PAIRS: [&str; 4] = [".hdr.gz", ".hdr", ".img.gz", ".img"];

/// A volume, and what its output is called: a path below the output folder, without an ending.
pub struct Input {
    pub path: PathBuf,
    pub name: PathBuf,
}

/// A file in a folder that is no volume.
#[derive(Clone, Serialize)]
pub struct PassedOver {
    pub file: String,
    pub reason: String,
}

/// The kind of input that a command looks for.
#[derive(Clone, Copy, Default, PartialEq)]
enum Wanted {
    #[default]
    Volumes,
    Images,
}

impl Wanted {
    /// One such thing in words, and the formats it may have.
    fn words(self) -> [&'static str; 2] {
        match self {
            Wanted::Volumes => ["volume", KINDS],
            Wanted::Images => ["image", IMAGES],
        }
    }
}

/// The volumes that paths stand for, or the images where these are wanted, and all else that was met on the way.
#[derive(Default)]
pub struct Inputs {
    wanted: Wanted,
    /// In the order of the paths and, within a folder, of names.
    pub volumes: Vec<Input>,
    pub passed_over: Vec<PassedOver>,
    /// Files and folders that could not be looked at, or are not what their names say.
    pub failed: Vec<Failure>,
    pub warnings: Vec<Warning>,
    folders: HashSet<PathBuf>,
}

impl Inputs {
    /// Looks at the paths. A file is taken for a volume whatever it is called; a folder is one, where it holds the files of a
    /// DICOM series, and all that lie below it.
    ///
    /// # Errors
    /// Not one volume, with the first reason.
    pub fn of(paths: &[PathBuf]) -> Result<Self> {
        let mut inputs = Inputs::default();
        let mut first = None;
        for path in paths {
            if let Err(error) = inputs.add(path) {
                inputs.failed.push(Failure::new(path, &error));
                first.get_or_insert(error);
            }
        }
        if inputs.volumes.is_empty()
            && let Some(error) = first
        {
            return Err(error);
        }
        inputs.name_apart();
        Ok(inputs)
    }

    /// Looks at the paths for images: a file is taken for one whatever it is called; a folder is all that lie below it. A folder
    /// without any has failed.
    pub fn images(paths: &[PathBuf]) -> Self {
        let mut inputs = Inputs { wanted: Wanted::Images, ..Default::default() };
        for path in paths {
            if let Err(error) = inputs.add(path) {
                inputs.failed.push(Failure::new(path, &error));
            }
        }
        inputs
    }

    /// The same with names for one folder: those of the files alone, and of a DICOM series its path.
    pub fn flat(mut self) -> Self {
        for input in &mut self.volumes {
            let parts: Vec<_> = input.name.components().map(|part| part.as_os_str().to_os_string()).collect();
            input.name =
                if input.path.is_dir() { parts.join(OsStr::new("_")) } else { parts[parts.len() - 1].clone() }.into();
        }
        self.name_apart();
        self
    }

    fn add(&mut self, path: &Path) -> Result<()> {
        if !path.is_dir() {
            let Some(name) = path.file_name() else {
                return Err(Error::file(path, "has no name", "give the path that ends in the volume's name"));
            };
            self.volumes.push(Input { path: path.into(), name: stem(Path::new(name)) });
            return Ok(());
        }
        let (volumes, passed, failed) = (self.volumes.len(), self.passed_over.len(), self.failed.len());
        self.walk(path, path)?;
        // What is read already needs no reading, and is told.
        let is_read = volumes > 0 && self.passed_over[passed..].iter().any(|other| other.reason == LOOKED_AT);
        if self.volumes.len() == volumes && self.failed.len() == failed && !is_read {
            let kinds = first_of(
                kinds(&self.passed_over[passed..])
                    .into_iter()
                    .map(|(reason, files)| format!("{} {reason}", files.len())),
            );
            let there = if kinds.is_empty() { "it is empty".into() } else { format!("there are {kinds}") };
            let [what, formats] = self.wanted.words();
            let problem = format!("no {what} is in it ({formats}; {there})");
            return Err(Error::file(path, problem, "name the folder that holds them"));
        }
        Ok(())
    }

    fn walk(&mut self, root: &Path, folder: &Path) -> Result<()> {
        let canonical = folder.canonicalize().map_err(|e| Error::io(folder, "read the folder", &e))?;
        // A link may lead back up.
        if !self.folders.insert(canonical) {
            self.pass(folder, LOOKED_AT);
            return Ok(());
        }
        let mut dicom = Vec::new();
        for path in entries(folder)? {
            if let Err(error) = self.look(root, &path, &mut dicom) {
                self.failed.push(Failure::new(&path, &error));
            }
        }
        match &dicom[..] {
            [] => {}
            [only] if !has_frames(only) => self.pass(only, "a single DICOM image, where a volume has two or more"),
            _ => {
                let below = folder.strip_prefix(root).ok().filter(|below| !below.as_os_str().is_empty());
                let name =
                    below.map(Path::to_path_buf).or_else(|| folder.canonicalize().ok()?.file_name().map(PathBuf::from));
                self.volumes.push(Input { name: name.unwrap_or("series".into()), path: folder.into() });
            }
        }
        Ok(())
    }

    /// One entry of a folder.
    fn look(&mut self, root: &Path, path: &Path, dicom: &mut Vec<PathBuf>) -> Result<()> {
        let name = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
        // Hidden files are copies that an operating system or an unfinished download left.
        if name.starts_with('.') {
            self.pass(path, "hidden");
            return Ok(());
        }
        let status = std::fs::metadata(path).map_err(|e| Error::io(path, "read", &e))?;
        if status.is_dir() {
            return self.walk(root, path);
        }
        // Opening a pipe waits for somebody to write to it.
        if !status.is_file() {
            self.pass(path, "no plain file");
            return Ok(());
        }
        if self.wanted == Wanted::Images {
            return self.look_for_image(root, path, &name);
        }
        if let Some(pair) = nifti::Pair::of(path) {
            if pair.header == path {
                self.take(root, path);
            }
            return Ok(());
        }
        match content(path)? {
            Content::Dicom if name == "dicomdir" => self.pass(path, "a DICOM directory"),
            Content::Dicom => dicom.push(path.into()),
            Content::Nifti | Content::Npz => self.take(root, path),
            _ if ENDINGS.iter().any(|ending| name.ends_with(ending)) => self.take(root, path),
            other if name.ends_with(".dcm") || name.ends_with(".ima") => {
                let hint = other.remedy().unwrap_or("remove it, or export the series again");
                return Err(Error::file(path, format!("is named as DICOM and is {other}"), hint));
            }
            Content::NiftiPair => self.pass(path, "the header of a NIfTI pair without its .img"),
            Content::Unknown => self.pass(path, "of a format not known here"),
            other => self.pass(path, other.name()),
        }
        Ok(())
    }

    /// A plain file of a folder where images are wanted.
    fn look_for_image(&mut self, root: &Path, path: &Path, name: &str) -> Result<()> {
        match content(path)? {
            Content::Dicom if name == "dicomdir" => self.pass(path, "a DICOM directory"),
            Content::Nifti if nifti::shape(&start(path)?).is_some_and(|[.., slices]| slices != 1) => {
                self.pass(path, "a NIfTI volume, which `x2ct drr` projects");
            }
            Content::Png | Content::Jpeg | Content::Dicom | Content::Nifti => self.take(root, path),
            Content::Safetensors if Archive::open(path, image::FORMAT, "image", "").is_ok() => self.take(root, path),
            other => self.pass(path, other.name()),
        }
        Ok(())
    }

    fn take(&mut self, root: &Path, path: &Path) {
        let below = path.strip_prefix(root).unwrap_or(path);
        self.volumes.push(Input { name: stem(below), path: path.into() });
    }

    fn pass(&mut self, path: &Path, reason: &str) {
        self.passed_over.push(PassedOver { file: path.to_string_lossy().into_owned(), reason: reason.into() });
    }

    /// Gives volumes that would have one name different ones, and passes over a file that was named twice.
    fn name_apart(&mut self) {
        let mut files: HashMap<PathBuf, PathBuf> = HashMap::new();
        let mut taken: HashMap<PathBuf, PathBuf> = HashMap::new();
        for mut input in std::mem::take(&mut self.volumes) {
            let file = input.path.canonicalize().unwrap_or_else(|_| input.path.clone());
            if let Some(other) = files.insert(file, input.path.clone()) {
                self.pass(&input.path, &format!("the same file as {}", other.display()));
                continue;
            }
            if let Some(other) = taken.get(&input.name) {
                let other = other.clone();
                let numbered = (2..).map(|i| {
                    let mut name = input.name.clone().into_os_string();
                    name.push(format!("-{i}"));
                    PathBuf::from(name)
                });
                let name = numbered.into_iter().find(|name| !taken.contains_key(name)).unwrap_or_default();
                let says = format!("Its output is named {}, since {} has its name.", name.display(), other.display());
                self.warnings.push(Warning::new(&input.path, says));
                input.name = name;
            }
            taken.insert(input.name.clone(), input.path.clone());
            self.volumes.push(input);
        }
    }

    /// Says what was passed over, kind by kind, and what could not be looked at.
    pub fn tell(&self, say: impl Fn(&str)) {
        for (reason, files) in kinds(&self.passed_over) {
            say(&format!("x2ct: passed over {} ({reason}): {}", files.len(), first_of(files)));
        }
        self.warnings.iter().for_each(|warning| say(&warning.line()));
        self.failed.iter().for_each(|failure| say(&format!("x2ct: left out: {}", failure.error)));
    }
}

/// Files by the reason for which they were passed over, in the order in which reasons came up.
fn kinds(passed: &[PassedOver]) -> Vec<(&str, Vec<&str>)> {
    let mut kinds: Vec<(&str, Vec<&str>)> = Vec::new();
    for PassedOver { file, reason } in passed {
        match kinds.iter_mut().find(|(kind, _)| kind == reason) {
            Some((_, files)) => files.push(file),
            None => kinds.push((reason, vec![file])),
        }
    }
    kinds
}

#[cfg(feature = "dicom")]
fn has_frames(path: &Path) -> bool {
    x2ct::ct::dicom::has_frames(path)
}

#[cfg(not(feature = "dicom"))]
fn has_frames(_: &Path) -> bool {
    false
}

/// What a file holds; of gzip data, what is compressed.
fn content(path: &Path) -> Result<Content> {
    let content = Content::of_file(path)?;
    if content != Content::Gzip {
        return Ok(content);
    }
    Ok(match Content::of_start(&start(path)?) {
        inner @ (Content::Nifti | Content::NiftiPair | Content::Tar) => inner,
        _ => Content::Gzip,
    })
}

/// The first bytes of a file; of gzip data, of what is compressed.
fn start(path: &Path) -> Result<Vec<u8>> {
    let mut packed = Vec::new();
    let failed = |e: std::io::Error| Error::io(path, "read", &e);
    files::open(path).map_err(failed)?.take(256 << 10).read_to_end(&mut packed).map_err(failed)?;
    Ok(nifti::start(&packed))
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let read = || std::fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<_>>>();
    let mut paths = read().map_err(|e| Error::io(folder, "read the folder", &e))?;
    paths.sort();
    Ok(paths)
}

/// Without the ending, in whatever case.
fn stem(path: &Path) -> PathBuf {
    let text = path.to_string_lossy();
    let lower = text.to_ascii_lowercase();
    let ending = ENDINGS.iter().chain(&PAIRS).find(|ending| lower.ends_with(*ending) && lower.len() > ending.len());
    // What is not text keeps its ending: its bytes stay as they are.
    match ending {
        Some(ending) if path.to_str().is_some() => PathBuf::from(&text[..text.len() - ending.len()]),
        _ => path.to_path_buf(),
    }
}
