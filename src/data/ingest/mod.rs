//! A split's CT volumes to radiographs that training maps: decoded on every core while the device projects, and safe against
//! being killed at any moment.
//!
//! # What a finished folder holds
//! - `VIEW.safetensors` for each view: the radiographs of all volumes that could be used, in the order of the data set, as a
//!   [`RadiographSet`](super::radiographs::RadiographSet) maps them.
//! - `manifest.csv`: one row a volume, in the order of the data set.
//! - with pictures, `VIEW/VOLUME.png`.
//!
//! Shard I of N makes a contiguous I-th of the volumes, and writes `VIEW-I-of-N.safetensors` and `manifest-I-of-N.csv`; shards
//! may be made at once, in one folder. Equal volumes and options give equal bytes, however often a run was stopped and on
//! however many cores it ran.
//!
//! # Columns of the manifest
//! | column | is |
//! |---|---|
//! | `volume` | name without `.nii.gz` |
//! | `status` | `ok`; `doubtful` (packed, see `warnings`); `forced` (packed although no plausible chest CT); or `failed` |
//! | `file` | path below the data set's root |
//! | `file_bytes`, `file_blake3` | size and digest of that file |
//! | `shape` | voxels, in the order of storage |
//! | `spacing_mm` | their edges |
//! | `axis_codes` | the patient direction each voxel axis grows towards, such as LPS |
//! | `orientation` | where that is known from: `sform`, `qform`, `pixdim` (voxel sizes alone: assumed) or `convention` |
//! | `slope`, `intercept` | HU = slope * stored + intercept |
//! | `hu_source` | `already-hu` or `csv` |
//! | `preprocessing_digest` | BLAKE3 of how radiographs are made, as in the packed files |
//! | `blake3_VIEW` | digest of the stored pixels, one column a view |
//! | `error` | why it failed |
//! | `warnings` | what is doubtful of it: the reader's remarks and those of [`plausibility`] |
//! | `manifest_version` | 2; manifests of version 1, without the last two columns, are not taken up again |
//!
//! # Runs that are stopped
//! What is finished is kept in `unfinished` (`unfinished-I-of-N`), which the same call takes up again; see the module `work`.
//! Volumes that failed are tried again whenever a run is taken up, and when it is called again after it ended: a file that
//! vanished or a network disk that did not answer heals without a word. A run that ended without failures is left as it is. A
//! folder that holds radiographs made with other options, of other volumes or by another version is refused, unless `restart`
//! is set. Rows of a folder that does not record the digest of their CT are made again; packed files that do not record which radiographs
//! were made by force are packed again.

mod ahead;
mod manifest;
mod work;

use std::borrow::Cow;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use serde_json::json;

pub use ahead::ahead;
use manifest::{FACTS, Row, Status, Table};
use work::Work;

use super::ct_rate::{CtRate, HuSource, Volume, VolumeName};
use super::cts::Cts;
use super::origins::{Origin, Origins};
use super::pixels;
use super::provenance::of_ct;
use super::radiographs::{self, Description, Mapped};
use crate::archive::Digest;
use crate::ct::{
    AffineSource, Collimation, CtVolume, GrayImage, HuSource as HuOfVolume, Projection, Radiograph, RadiographOptions,
    ReadOptions, plausibility, read_bytes,
};
use crate::device::Device;
use crate::files::create_folder;
use crate::ops::image::PixelType;
use crate::{Error, Result};

/// What is made of every volume.
pub struct IngestOptions<'a> {
    /// From where; each has its files.
    pub views: Vec<Projection>,
    /// How; its `view` and `hu` are not used. The default is X2CT-CLIP's mean of HU on a 1 mm grid.
    pub projection: RadiographOptions,
    /// Height and width of the packed radiographs: see [`pixels::encode`].
    pub size: [usize; 2],
    /// How a pixel of them is stored.
    pub pixel: PixelType,
    /// `[i, n]`: the i-th (from 1) of n parts of the split.
    pub shard: [usize; 2],
    /// Also a picture of each radiograph.
    pub pictures: Option<Pictures<'a>>,
    /// Forget what is there.
    pub restart: bool,
    /// Take volumes that are no plausible chest CT.
    pub force: bool,
}

impl Default for IngestOptions<'_> {
    fn default() -> Self {
        IngestOptions {
            views: vec![Projection::Ap],
            projection: RadiographOptions { collimation: Collimation::Volume, ..Default::default() },
            size: [224, 224],
            pixel: PixelType::U8,
            shard: [1, 1],
            pictures: None,
            restart: false,
            force: false,
        }
    }
}

/// How a radiograph becomes a picture.
pub struct Pictures<'a> {
    /// The settings, so that a run goes on with the same.
    pub settings: serde_json::Value,
    /// The file's bytes.
    pub encode: &'a dyn Fn(&Radiograph) -> Result<Vec<u8>>,
}

/// What a run tells while it is under way.
pub enum Progress<'a> {
    /// So many of the volumes were finished by an earlier run.
    Resumed(usize),
    /// So many are done, failures included.
    Done(usize),
    /// One failed.
    Failed(&'a VolumeName, &'a Error),
    /// One was made, and this is doubtful of it.
    Doubted(&'a VolumeName, &'a str),
}

/// The outcome of a run.
#[derive(Debug)]
pub struct Ingested {
    /// Radiographs a view.
    pub made: usize,
    /// The other volumes, in the order of the data set, and why.
    pub failed: Vec<(VolumeName, String)>,
    /// Of the volumes made, those with something doubtful, and what.
    pub warnings: Vec<(VolumeName, String)>,
    /// Volumes that were only made because the user insisted.
    pub forced: Vec<VolumeName>,
    /// One packed file a view.
    pub files: Vec<PathBuf>,
    /// The manifest.
    pub manifest: PathBuf,
    /// BLAKE3 of how radiographs are made.
    pub preprocessing_digest: String,
}

/// Makes the radiographs of a split and packs them below `out`. A volume that cannot be read or projected is reported, stands
/// in the manifest and is left out of the packed files.
///
/// # Errors
/// A folder of volumes that cannot be read; a folder that another process works on, or that holds another run; a disk that is
/// full or may not be written; a device that fails; [`Error::Interrupted`] once `stop` is set. After any of them the same call
/// goes on.
pub fn ingest(
    device: &Device,
    data: &CtRate,
    out: &Path,
    options: &IngestOptions,
    stop: &AtomicBool,
    progress: &mut dyn FnMut(Progress),
) -> Result<Ingested> {
    let run = Run::new(data, out, options)?;
    create_folder(out)?;
    let (mut work, done) =
        Work::open(&run.file("unfinished", ""), &run.digest, &run.views(), run.image_bytes(), options.restart)?;
    let mut rows: Vec<Option<Row>> = vec![None; run.volumes.len()];
    done.into_iter().for_each(|(at, row)| rows[at] = Some(row));
    if rows.iter().all(Option::is_none) && !options.restart {
        match run.take_over(&mut work, &mut rows) {
            Ok(None) => {}
            Ok(Some(rows)) => {
                work.close()?;
                progress(Progress::Resumed(rows.len()));
                return Ok(run.outcome(&rows));
            }
            Err(error) => {
                work.close()?;
                return Err(error);
            }
        }
    }
    let stands = run.standing(&rows, work.begun());
    rows.iter_mut().zip(stands).for_each(|(row, stands)| drop(row.take_if(|_| !stands)));
    let force = options.force;
    let left: Vec<usize> = (0..rows.len()).filter(|&at| rows[at].is_none()).collect();
    let mut finished = rows.len() - left.len();
    progress(Progress::Resumed(finished));
    let outcome = ahead(
        &left,
        stop,
        |&at| read(device, data, &run.volumes[at], force),
        |i, volume| {
            let (at, name) = (left[i], &run.volumes[left[i]].name);
            let made = volume.and_then(|(volume, row)| run.make(device, name, &volume, row, &work));
            let row = match made.map_err(|e| e.of_file(data.path(&run.volumes[at]))) {
                Ok((images, row)) => {
                    work.put(at, &images, &row)?;
                    if !row.warnings.is_empty() {
                        progress(Progress::Doubted(name, &row.warnings));
                    }
                    row
                }
                Err(error) if error.is_of_device() => return Err(error),
                Err(error) => {
                    // A disk that is gone is not the fault of each of its volumes.
                    check_folder(data)?;
                    progress(Progress::Failed(name, &error));
                    Row::failed(&error)
                }
            };
            rows[at] = Some(row);
            finished += 1;
            progress(Progress::Done(finished));
            Ok(())
        },
    );
    let synced = work.sync();
    outcome?;
    synced?;
    if stop.load(Ordering::Relaxed) && finished < rows.len() {
        let count = rows.len();
        return Err(Error::Interrupted(format!(
            "after {finished} of {count} volumes; the same command goes on from there"
        )));
    }
    run.finish(work, rows.into_iter().flatten().collect())
}

/// One shard of a split and how it is made.
struct Run<'a> {
    data: &'a CtRate,
    out: &'a Path,
    options: &'a IngestOptions<'a>,
    volumes: &'a [Volume],
    source: serde_json::Value,
    /// Of all that decides what is written.
    digest: String,
}

impl<'a> Run<'a> {
    fn new(data: &'a CtRate, out: &'a Path, options: &'a IngestOptions<'a>) -> Result<Self> {
        let [i, n] = options.shard;
        let refuse = |what: &str, problem: String, hint: &str| Err(Error::argument(what, problem, hint));
        if i == 0 || i > n || n > data.volumes.len() {
            let problem = format!("{i} of {n} shards of {} volumes", data.volumes.len());
            return refuse("shard", problem, "give 1 <= i <= n, and no more shards than volumes");
        }
        if options.size.contains(&0) {
            return refuse("size", format!("{:?}", options.size), "give at least one row and column");
        }
        let views: Vec<&str> = options.views.iter().map(|view| view.name()).collect();
        if views.is_empty() || (1..views.len()).any(|i| views[..i].contains(&views[i])) {
            return refuse("views", format!("{views:?}"), "name at least one, and each once");
        }
        check_folder(data)?;
        let volumes = &data.volumes[part(data.volumes.len(), options.shard)];
        let source = source(data, options);
        let listed = volumes.iter().map(|volume| {
            let table = volume.acquisition.filter(|_| data.hu_source == HuSource::CsvRescale);
            let table = table.map(|a| (a.slope, a.intercept, a.spacing()));
            (volume.name.to_string(), table)
        });
        let listed: Vec<_> = listed.collect();
        let identity = json!({
            "x2ct": env!("CARGO_PKG_VERSION"), "manifest": manifest::VERSION, "source": source, "views": views, "shard": options.shard,
            "pictures": options.pictures.as_ref().map(|pictures| &pictures.settings), "volumes": listed,
        });
        Ok(Run { data, out, options, volumes, digest: radiographs::digest(&identity), source })
    }

    fn views(&self) -> Vec<&'static str> {
        self.options.views.iter().map(|view| view.name()).collect()
    }

    fn image_bytes(&self) -> usize {
        self.options.size[0] * self.options.size[1] * self.options.pixel.bytes()
    }

    /// `NAME.ENDING`, of a shard `NAME-I-of-N.ENDING`.
    fn file(&self, name: &str, ending: &str) -> PathBuf {
        match self.options.shard {
            [_, 1] => self.out.join(format!("{name}{ending}")),
            [i, n] => self.out.join(format!("{name}-{i}-of-{n}{ending}")),
        }
    }

    fn packed(&self, view: &str) -> PathBuf {
        self.file(view, ".safetensors")
    }

    fn manifest(&self) -> PathBuf {
        self.file("manifest", ".csv")
    }

    fn picture(&self, view: &str, volume: &VolumeName) -> PathBuf {
        self.out.join(view).join(format!("{volume}.png"))
    }

    fn has_pictures(&self, volume: &Volume) -> bool {
        self.options.pictures.is_none() || self.views().iter().all(|view| self.picture(view, &volume.name).exists())
    }

    /// Which rows of an earlier run, begun or written at `since`, hold in this one.
    fn standing(&self, rows: &[Option<Row>], since: SystemTime) -> Vec<bool> {
        let stands = |(row, volume): (&Option<Row>, &Volume)| {
            row.as_ref().is_some_and(|row| {
                row.is_packed()
                    && (self.options.force || row.status != Status::Forced)
                    && self.has_pictures(volume)
                    && self.is_as_read(row, volume, since)
            })
        };
        rows.iter().zip(self.volumes).map(stands).collect()
    }

    /// Whether a volume's file is what the row was made of: of its size, and older than the run or of its digest. One that is
    /// gone is taken for what it was; of one that is there the row knows the digest of the CT.
    fn is_as_read(&self, row: &Row, volume: &Volume, since: SystemTime) -> bool {
        let path = self.data.path(volume);
        let Ok(status) = std::fs::metadata(&path) else { return true };
        let [size, digest] = [0, 1].map(|fact| row.facts.get(fact).map_or("", String::as_str));
        let older = status.modified().is_ok_and(|modified| modified < since);
        let same = || std::fs::read(&path).is_ok_and(|bytes| blake3::hash(&bytes).to_hex().as_str() == digest);
        status.is_file() && !row.ct.is_empty() && status.len().to_string() == size && (older || same())
    }

    fn table(&self) -> Table<'_> {
        let file = |volume: &Volume| volume.name.path("", self.data.hu_source).to_string_lossy().into_owned();
        Table {
            volumes: self.volumes.iter().map(|volume| (volume.name.to_string(), file(volume))).collect(),
            views: self.views(),
            hu_source: self.data.hu_source.name(),
            preprocessing_digest: radiographs::digest(&self.source),
        }
    }

    /// What a run that ended has left: all its rows where there is nothing to do; else rows and pixels of what did not fail.
    fn take_over(&self, work: &mut Work, rows: &mut [Option<Row>]) -> Result<Option<Vec<Row>>> {
        let packed: Vec<PathBuf> = self.views().into_iter().map(|view| self.packed(view)).collect();
        if !packed.iter().chain([&self.manifest()]).all(|path| path.exists()) {
            return Ok(None);
        }
        let recorded = self.table().read(&self.manifest());
        let mut sets = Vec::new();
        for path in &packed {
            let set = Mapped::read(path)?;
            if set.run != self.digest {
                // An older manifest says best why.
                recorded.as_ref().map(drop).or_else(|error| match error {
                    Error::File { path, problem, hint, .. } if problem.contains("version 1") => {
                        Err(Error::file(path, problem, hint))
                    }
                    _ => Ok(()),
                })?;
                let problem = "was made with other options, of other volumes or by another version";
                return Err(Error::file(path, problem, "write to another folder, or replace it with --restart"));
            }
            sets.push(set);
        }
        let mut recorded = recorded?;
        recorded.iter_mut().filter(|row| row.is_packed()).enumerate().for_each(|(place, row)| {
            row.ct = sets[0].cts.of(place).to_string();
        });
        let written = std::fs::metadata(self.manifest()).and_then(|status| status.modified());
        let recorded: Vec<Option<Row>> = recorded.into_iter().map(Some).collect();
        let stands = self.standing(&recorded, written.unwrap_or(SystemTime::UNIX_EPOCH));
        let recorded: Vec<Row> = recorded.into_iter().flatten().collect();
        let origins = origins(&recorded);
        if stands.iter().all(|&stands| stands) && sets.iter().all(|set| set.origins == origins) {
            return Ok(Some(recorded));
        }
        let mut place = 0;
        for (at, (row, stands)) in recorded.into_iter().zip(stands).enumerate() {
            if !row.is_packed() {
                continue;
            }
            let images = sets.iter().map(|set| set.image(place)).collect::<Result<Vec<_>>>()?;
            place += 1;
            // Damaged or of another volume since, it is made again.
            let whole =
                images.iter().zip(&row.digests).all(|(image, hex)| blake3::hash(image).to_hex().as_str() == hex);
            if whole && stands {
                work.put(at, &images, &row)?;
                rows[at] = Some(row);
            }
        }
        Ok(None)
    }

    /// The stored pixels of a volume, one image a view, and its row; pictures are written on the way.
    fn make(
        &self,
        device: &Device,
        volume_name: &VolumeName,
        volume: &CtVolume,
        mut row: Row,
        work: &Work,
    ) -> Result<(Vec<Vec<u8>>, Row)> {
        let IngestOptions { views, projection, size, pixel, pictures, force, .. } = self.options;
        let images = Radiograph::all(device, volume, views, projection)?;
        for (view, made) in views.iter().zip(&images) {
            let blank = plausibility::examine_image(&made.image, *force)?;
            if blank.is_some() {
                row.status = Status::Forced;
            }
            for doubt in blank.into_iter().chain(plausibility::examine_view(&made.view, volume)) {
                row.warnings = format!("{} {view}: {doubt}", row.warnings).trim_start().to_string();
                if row.status == Status::Ok {
                    row.status = Status::Doubtful;
                }
            }
        }
        if let Some(pictures) = pictures {
            for (view, image) in views.iter().zip(&images) {
                let bytes = (pictures.encode)(image)?;
                let path = self.picture(view.name(), volume_name);
                path.parent().map_or(Ok(()), create_folder)?;
                work.publish(&path, |out| out.write_all(&bytes).map_err(|e| Error::io(&path, "write", &e)))?;
            }
        }
        let stored = |image: &GrayImage| pixels::encode(&image.pixels, [image.height, image.width], *size, *pixel);
        let images: Vec<Vec<u8>> = images.iter().map(|made| stored(&made.image)).collect();
        row.digests = images.iter().map(|image| blake3::hash(image).to_hex().to_string()).collect();
        Ok((images, row))
    }

    /// Packs what is in the work folder, writes the manifest and removes the folder.
    fn finish(&self, work: Work, rows: Vec<Row>) -> Result<Ingested> {
        let made: Vec<usize> = (0..rows.len()).filter(|&at| rows[at].is_packed()).collect();
        let ids: Vec<String> = made.iter().map(|&at| self.volumes[at].name.to_string()).collect();
        let cts = Cts::new(made.iter().map(|&at| rows[at].ct.clone()).collect());
        let origins = origins(&rows);
        for (i, view) in self.views().into_iter().enumerate() {
            let digests: Option<Vec<Digest>> = made.iter().map(|&at| work::digest(&rows[at].digests[i])).collect();
            let digests = digests.ok_or_else(|| Error::argument("digest", "is none", "this is a defect"))?;
            let image = |place: usize| Ok(Cow::Owned(work.image(i, made[place])?));
            let options = RadiographOptions { view: self.options.views[i], ..self.options.projection.clone() };
            let made = radiographs::settings(&options, self.options.size, self.options.pixel);
            let description = Description {
                ids: &ids,
                size: self.options.size,
                pixel: self.options.pixel,
                view,
                source: &self.source,
                made: &made,
                cts: &cts,
                origins: &origins,
                shard: self.options.shard,
                run: &self.digest,
            };
            let path = self.packed(view);
            work.publish(&path, |out| description.writer(&digests, &image).write_to(out, &path))?;
        }
        let (table, manifest) = (self.table().encode(&rows)?, self.manifest());
        work.publish(&manifest, |out| out.write_all(&table).map_err(|e| Error::io(&manifest, "write", &e)))?;
        work.close()?;
        Ok(self.outcome(&rows))
    }

    fn outcome(&self, rows: &[Row]) -> Ingested {
        let some = |which: &dyn Fn(&Row) -> bool, what: &dyn Fn(&Row) -> String| -> Vec<(VolumeName, String)> {
            let rows = rows.iter().zip(self.volumes).filter(|(row, _)| which(row));
            rows.map(|(row, volume)| (volume.name.clone(), what(row))).collect()
        };
        let failed = some(&|row| !row.is_packed(), &|row| row.error.clone());
        let forced = some(&|row| row.status == Status::Forced, &|_| String::new());
        Ingested {
            made: rows.len() - failed.len(),
            failed,
            warnings: some(&|row| row.is_packed() && !row.warnings.is_empty(), &|row| row.warnings.clone()),
            forced: forced.into_iter().map(|(name, _)| name).collect(),
            files: self.views().into_iter().map(|view| self.packed(view)).collect(),
            manifest: self.manifest(),
            preprocessing_digest: radiographs::digest(&self.source),
        }
    }
}

/// How the CTs of the rows that are packed were taken.
fn origins(rows: &[Row]) -> Origins {
    let of_row = |row: &Row| Origin { forced: row.status == Status::Forced, hu: String::new() };
    Origins::new(rows.iter().filter(|row| row.is_packed()).map(of_row).collect())
}

/// The places of a shard: contiguous, so that all shards one after the other are the split.
fn part(count: usize, [i, n]: [usize; 2]) -> Range<usize> {
    count * (i - 1) / n..count * i / n
}

fn check_folder(data: &CtRate) -> Result<()> {
    if data.volumes.is_empty() {
        return Err(Error::file(&data.root, "lists no volumes", "pass another split"));
    }
    let folder = data.folder();
    let unreadable = |e: std::io::Error| match e.kind() {
        std::io::ErrorKind::NotFound => {
            Error::file(&folder, format!("cannot read the folder: {e}"), data.hint_without_folder())
        }
        _ => Error::io(&folder, "read the folder", &e),
    };
    std::fs::read_dir(&folder).map(drop).map_err(unreadable)
}

/// What radiographs are made of and how.
fn source(data: &CtRate, options: &IngestOptions) -> serde_json::Value {
    let mut projection = json!(options.projection);
    if let Some(fields) = projection.as_object_mut() {
        fields.remove("view");
    }
    json!({
        "source": "CT-RATE layout", "split": data.split.name(), "hu_source": data.hu_source.name(),
        "projection": projection, "size": options.size, "pixels": options.pixel,
        "fit": "min-max, shorter side resized with antialias, centre kept",
    })
}

/// The volume with an affine and a scaling to HU that hold, and the beginning of its row of the manifest.
///
/// # Errors
/// A file that cannot be read, a volume that cannot be a chest CT unless `force` is set.
fn read(device: &Device, data: &CtRate, row: &Volume, force: bool) -> Result<(CtVolume, Row)> {
    let path = data.path(row);
    let unreadable = |e| Error::io(&path, "read", &e);
    if !std::fs::metadata(&path).map_err(unreadable)?.is_file() {
        return Err(Error::file(&path, "is no file", "put the volume itself there"));
    }
    let bytes = std::fs::read(&path).map_err(unreadable)?;
    let volume = read_bytes(&bytes, &path, &ReadOptions { device: Some(device), ..Default::default() })?;
    let volume = match data.hu_source {
        HuSource::AlreadyHu => volume,
        HuSource::CsvRescale => {
            let hint = "correct its row of the metadata table";
            let unknown = || Error::file(&path, "has no scaling and voxel size in the metadata table", hint);
            row.acquisition.ok_or_else(unknown)?.apply(volume)?
        }
    };
    let verdict = plausibility::examine(&volume, HuOfVolume::AlreadyHu, force).map_err(|e| e.of_file(&path))?;
    let status = match (verdict.forced, verdict.warnings.is_empty()) {
        (true, _) => Status::Forced,
        (false, false) => Status::Doubtful,
        (false, true) => Status::Ok,
    };
    let warnings = volume.remarks.iter().chain(&verdict.warnings).cloned().collect::<Vec<_>>().join(" ");
    let joined = |numbers: &[f64]| numbers.iter().map(|&v| (v as f32).to_string()).collect::<Vec<_>>().join("x");
    let facts: [String; FACTS.len()] = [
        bytes.len().to_string(),
        blake3::hash(&bytes).to_hex().to_string(),
        joined(&volume.shape.map(|n| n as f64)),
        joined(&volume.spacing()),
        volume.axis_codes().to_string(),
        match volume.affine_source {
            AffineSource::Sform => "sform",
            AffineSource::Qform => "qform",
            AffineSource::Pixdim => "pixdim",
            AffineSource::Disputed => "disputed",
            AffineSource::Convention => "convention",
        }
        .to_string(),
        volume.slope.to_string(),
        volume.intercept.to_string(),
    ];
    let row = Row { status, facts: facts.into(), warnings, ct: of_ct(&volume), ..Default::default() };
    Ok((volume, row))
}
