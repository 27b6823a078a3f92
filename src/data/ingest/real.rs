//! Real radiographs of a table, packed as simulated ones are.

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use serde_json::{Value, json};

use super::manifest::{Row, Status};
use super::work::{self, Work};
use super::{Job, Progress, is_as_read, origins, part, work_through};
use crate::archive::Digest;
use crate::ct::image::{self, Stored};
use crate::ct::plausibility;
use crate::data::cts::Cts;
use crate::data::pixels;
use crate::data::provenance::Provenance;
use crate::data::radiograph_table::{Entry, RadiographTable};
use crate::data::radiographs::{Description, digest, real_settings};
use crate::files::{self, write_atomic};
use crate::ops::image::PixelType;
use crate::{Error, Result};

/// How real radiographs are packed.
#[derive(Clone, Debug)]
pub struct RealOptions {
    /// What images are relative to.
    pub root: PathBuf,
    /// From where they are taken: `ap`, `pa`, `frontal` (one of the two) or `lateral`.
    pub view: String,
    /// Whether each is turned left to right.
    pub mirror: bool,
    /// Height and width of the packed radiographs: see [`pixels::encode`].
    pub size: [usize; 2],
    /// How a pixel of them is stored.
    pub pixel: PixelType,
    /// `[i, n]`: the i-th (from 1) of n parts of the table.
    pub shard: [usize; 2],
    /// Forget what an unfinished run has done.
    pub restart: bool,
    /// Take images that are no plausible radiographs, of another view, or simulated.
    pub force: bool,
}

/// The outcome of packing. Radiographs are told by their ids.
#[derive(Debug)]
pub struct Packed {
    /// The packed file.
    pub file: PathBuf,
    /// The labels of what was packed, where the table has some.
    pub labels: Option<PathBuf>,
    /// The reports of what was packed, where the table has some.
    pub reports: Option<PathBuf>,
    /// Radiographs packed.
    pub made: usize,
    /// The others, in the order of the table.
    pub failed: Vec<String>,
    /// Of the packed ones, those with something doubtful, and what.
    pub warnings: Vec<(String, String)>,
    /// Those that were only taken because the user insisted.
    pub forced: Vec<String>,
    /// BLAKE3 of how they were packed.
    pub preprocessing_digest: String,
}

/// Packs the radiographs of a table in `out` (`NAME.safetensors`), and writes beside it `NAME.labels.csv` and `NAME.reports.csv` of
/// exactly these, or removes what an earlier run left there where the table has none; of a shard `NAME-I-of-N...`. An image that
/// cannot be used is reported and left out. A run that was stopped goes on where it was: what it has done is kept in
/// `NAME.unfinished`.
///
/// # Errors
/// No image that can be used, with the first reason; what cannot be written; [`Error::Interrupted`] once `stop` is set.
pub fn pack_real(
    table: &RadiographTable,
    out: &Path,
    options: &RealOptions,
    stop: &AtomicBool,
    progress: &mut dyn FnMut(Progress),
) -> Result<Packed> {
    let pack = Pack::new(table, out, options)?;
    let job = Images { entries: pack.entries, folder: pack.folder, options };
    let (mut work, mut rows) = pack.begin(&job)?;
    work_through(&job, &mut work, &mut rows, stop, progress)?;
    pack.finish(work, rows.into_iter().flatten().collect())
}

/// The files that the radiographs, labels and reports of a shard go to, where there are some; see [`pack_real`].
pub fn real_files(out: &Path, shard: [usize; 2]) -> [PathBuf; 3] {
    let name = shard_name(out, shard);
    [".safetensors", ".labels.csv", ".reports.csv"].map(|ending| out.with_file_name(format!("{name}{ending}")))
}

/// One shard of a table, and where it goes.
struct Pack<'a> {
    table: &'a RadiographTable,
    options: &'a RealOptions,
    entries: &'a [Entry],
    /// See [`real_files`].
    files: [PathBuf; 3],
    /// That the files lie in.
    folder: &'a Path,
    /// Of the files, without endings.
    name: String,
    /// What the radiographs are and how they are packed.
    source: Value,
    /// What a run is told apart by.
    run: String,
}

impl<'a> Pack<'a> {
    fn new(table: &'a RadiographTable, out: &'a Path, options: &'a RealOptions) -> Result<Self> {
        let [i, n] = options.shard;
        if i == 0 || i > n || n > table.entries.len() {
            let problem = format!("{i} of {n} shards of {} radiographs", table.entries.len());
            return Err(Error::argument("shard", problem, "give 1 <= i <= n, and no more shards than radiographs"));
        }
        if options.size.contains(&0) {
            return Err(Error::argument("size", format!("{:?}", options.size), "give at least one row and column"));
        }
        let source = json!({
            "source": "real radiographs", "table_digest": table.digest, "view": options.view, "mirror": options.mirror,
            "size": options.size, "pixels": options.pixel,
            "fit": "min-max, shorter side resized with antialias, centre kept",
        });
        let entries = &table.entries[part(table.entries.len(), options.shard)];
        let listed: Vec<_> = entries.iter().map(|entry| (&entry.id, files::lossy(&entry.image))).collect();
        let identity = json!({
            "x2ct": env!("CARGO_PKG_VERSION"), "source": source, "shard": options.shard, "images": listed,
            "root": files::lossy(&options.root),
        });
        let folder = out.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let name = shard_name(out, options.shard);
        let files = real_files(out, options.shard);
        Ok(Pack { table, options, entries, files, folder, name, source, run: digest(&identity) })
    }

    /// The work folder, and what an earlier run has done of the job.
    fn begin(&self, job: &Images) -> Result<(Work, Vec<Option<Row>>)> {
        let RealOptions { size, pixel, view, restart, force, .. } = self.options;
        let image_bytes = size[0] * size[1] * pixel.bytes();
        let folder = self.folder.join(format!("{}.unfinished", self.name));
        let (work, done) = Work::open(&folder, &self.run, &[view.as_str()], image_bytes, *restart)?;
        let mut rows: Vec<Option<Row>> = vec![None; self.entries.len()];
        for (at, row) in done {
            let stands = (*force || row.status != Status::Forced) && is_as_read(&row, &job.path(at), work.begun());
            rows[at] = stands.then_some(row);
        }
        Ok((work, rows))
    }

    /// Packs what is in the work folder, and removes it.
    fn finish(&self, work: Work, rows: Vec<Row>) -> Result<Packed> {
        let made: Vec<usize> = (0..rows.len()).filter(|&at| rows[at].is_packed()).collect();
        if made.is_empty() {
            work.close()?;
            let first = rows.first().map_or("", |row| row.error.as_str());
            let problem = format!("none of its {} radiographs can be used; the first: {first}", rows.len());
            return Err(Error::file(&self.table.path, problem, "check the paths of the images, and --root"));
        }
        // First what goes with the radiographs: where they are, it is.
        let packed = || made.iter().map(|&at| &self.entries[at]);
        let [_, labels, reports] = &self.files;
        let of_labels = (!self.table.labels.is_empty()).then(|| self.table.labels_of(packed())).transpose()?;
        let of_reports = self.table.has_reports.then(|| self.table.reports_of(packed())).transpose()?;
        let labels = write_or_remove(labels, of_labels)?;
        let reports = write_or_remove(reports, of_reports)?;
        let file = self.publish(&work, &rows, &made)?;
        work.close()?;
        let some = |which: &dyn Fn(&Row) -> bool| -> Vec<(String, String)> {
            let rows = rows.iter().zip(self.entries).filter(|(row, _)| which(row));
            rows.map(|(row, entry)| (entry.id.clone(), row.warnings.clone())).collect()
        };
        let ids = |rows: Vec<(String, String)>| rows.into_iter().map(|(id, _)| id).collect();
        Ok(Packed {
            file,
            labels,
            reports,
            made: made.len(),
            failed: ids(some(&|row| !row.is_packed())),
            warnings: some(&|row| row.is_packed() && !row.warnings.is_empty()),
            forced: ids(some(&|row| row.status == Status::Forced)),
            preprocessing_digest: digest(&self.source),
        })
    }

    /// Writes the packed file of the rows that were `made`.
    fn publish(&self, work: &Work, rows: &[Row], made: &[usize]) -> Result<PathBuf> {
        let Pack { table, options, .. } = self;
        let ids: Vec<String> = made.iter().map(|&at| self.entries[at].id.clone()).collect();
        let digests: Option<Vec<Digest>> = made.iter().map(|&at| work::digest(&rows[at].digests[0])).collect();
        let digests = digests.ok_or_else(|| Error::argument("digest", "is none", "this is a defect"))?;
        let image = |place: usize| Ok(Cow::Owned(work.image(0, made[place])?));
        let of_table = Provenance::made(Default::default(), []).holding(table.digest.clone(), table.entries.len());
        let settings = real_settings(&options.view, options.mirror, options.size, options.pixel);
        let description = Description {
            ids: &ids,
            size: options.size,
            pixel: options.pixel,
            view: &options.view,
            source: &self.source,
            made: &Provenance::made(settings, [("table", of_table)]),
            cts: &Cts::default(),
            origins: &origins(rows),
            shard: options.shard,
            run: &self.run,
        };
        let [path, ..] = &self.files;
        work.publish(path, |out| description.writer(&digests, &image).write_to(out, path))?;
        Ok(path.clone())
    }
}

/// Writes a table beside the radiographs; without content removes an earlier run's, which would be of other radiographs. Gives its
/// path where there is one.
fn write_or_remove(path: &Path, content: Option<Vec<u8>>) -> Result<Option<PathBuf>> {
    if let Some(content) = content {
        write_atomic(path, &content)?;
        return Ok(Some(path.into()));
    }
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::io(path, "remove", &e)),
        _ => Ok(None),
    }
}

/// `NAME` of `NAME.safetensors`; of a shard `NAME-I-of-N`.
fn shard_name(out: &Path, shard: [usize; 2]) -> String {
    let name = out.file_stem().unwrap_or_default().to_string_lossy();
    match shard {
        [_, 1] => name.into_owned(),
        [i, n] => format!("{name}-{i}-of-{n}"),
    }
}

/// The images of a shard, as work.
struct Images<'a> {
    entries: &'a [Entry],
    /// That is written to.
    folder: &'a Path,
    options: &'a RealOptions,
}

impl Images<'_> {
    /// What of a file's own words is at odds with what it is taken for.
    fn contradiction(&self, stored: &Stored) -> Option<String> {
        let said = |name: &str| stored.settings.get(name).map(String::as_str);
        if let Some(mode) = said("mode") {
            return Some(format!("is a simulated radiograph (mode {mode}), not a real one"));
        }
        let wanted = self.options.view.as_str();
        let fits = |view: &str| match wanted {
            "frontal" => ["ap", "pa"].contains(&view),
            "lateral" => view.contains("lateral"),
            _ => view == wanted,
        };
        said("view").filter(|view| !fits(view)).map(|view| format!("is taken from {view} by its file, not {wanted}"))
    }
}

impl Job for Images<'_> {
    type Read = (Vec<u8>, Row);

    fn unit(&self) -> &'static str {
        "radiographs"
    }

    fn name(&self, at: usize) -> &str {
        &self.entries[at].id
    }

    fn path(&self, at: usize) -> PathBuf {
        self.options.root.join(&self.entries[at].image)
    }

    fn out(&self) -> &Path {
        self.folder
    }

    fn check_source(&self) -> Result<()> {
        let root = &self.options.root;
        std::fs::read_dir(root).map(drop).map_err(|e| Error::io(root, "read the folder", &e))
    }

    fn read(&self, at: usize) -> Result<(Vec<u8>, Row)> {
        let RealOptions { mirror, size, pixel, force, .. } = self.options;
        let path = self.path(at);
        let bytes = files::read(&path).map_err(|e| Error::io(&path, "read", &e))?;
        let mut stored = image::read_radiograph(&path)?;
        let contradiction = self.contradiction(&stored);
        if let (Some(problem), false) = (&contradiction, force) {
            return Err(Error::file(&path, problem, "take it out of the table, or go on with --force"));
        }
        let doubt = plausibility::examine_picture(&stored.image, *force).map_err(|e| e.of_file(&path))?;
        let contradiction = contradiction.map(|problem| format!("It {problem}."));
        let forced = doubt.is_some() || contradiction.is_some();
        let warnings: Vec<String> = stored.remarks.drain(..).chain(doubt).chain(contradiction).collect();
        if *mirror {
            stored.image.pixels.chunks_exact_mut(stored.image.width).for_each(<[f32]>::reverse);
        }
        let (image, from) = (&stored.image.pixels, [stored.image.height, stored.image.width]);
        let encoded = pixels::encode(image, from, *size, *pixel);
        let row = Row {
            status: match (forced, warnings.is_empty()) {
                (true, _) => Status::Forced,
                (false, false) => Status::Doubtful,
                (false, true) => Status::Ok,
            },
            facts: vec![bytes.len().to_string(), blake3::hash(&bytes).to_hex().to_string()],
            digests: vec![blake3::hash(&encoded).to_hex().to_string()],
            warnings: warnings.join(" "),
            ..Default::default()
        };
        Ok((encoded, row))
    }

    fn make(&self, _: usize, (image, row): (Vec<u8>, Row), _: &Work) -> Result<(Vec<Vec<u8>>, Row)> {
        Ok((vec![image], row))
    }
}
