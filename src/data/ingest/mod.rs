//! A split's CT volumes to what training reads, packed radiographs ([`ingest`]) or prepared volumes ([`prepare`]): decoded on every
//! core while the device works, and safe against being killed at any moment. A split is a [`CtSplit`]: of CT-RATE or of RadChest-CT.
//!
//! # What a finished folder holds
//! Of radiographs:
//! - `VIEW.safetensors` for each view: the radiographs of all volumes that could be used, in the order of the data set, as a
//!   [`RadiographSet`](super::radiographs::RadiographSet) maps them.
//! - `manifest.csv`: one row a volume, in the order of the data set.
//! - with pictures, `VIEW/VOLUME.png`.
//!
//! Of prepared volumes: `VOLUME.safetensors` for each volume that could be used, which [`VolumeSet`](super::volumes::VolumeSet) reads as a
//! folder, and `manifest.csv`. A volume that fails has no file: that of an earlier run is removed.
//!
//! Shard I of N makes a contiguous I-th of the volumes, and writes `VIEW-I-of-N.safetensors` and `manifest-I-of-N.csv`; shards
//! may be made at once, in one folder. Equal volumes and options give equal bytes, however often a run was stopped and on
//! however many cores it ran.
//!
//! # Columns of the manifest
//! | column | is |
//! |---|---|
//! | `volume` | name without its ending |
//! | `status` | `ok`; `doubtful` (packed, see `warnings`); `forced` (packed although no plausible chest CT); or `failed` |
//! | `file` | path below the data set's root |
//! | `file_bytes`, `file_blake3` | size and digest of that file |
//! | `shape` | voxels, in the order of storage |
//! | `spacing_mm` | their edges |
//! | `axis_codes` | the patient direction each voxel axis grows towards, such as LPS |
//! | `orientation` | where that is known from: `sform`, `qform`, `pixdim` (voxel sizes alone: assumed) or `convention` |
//! | `slope`, `intercept` | HU = slope * stored + intercept |
//! | `hu_source` | `already-hu` or `csv` |
//! | `preprocessing_digest` | BLAKE3 of what is made and how, as in the packed files |
//! | `blake3_VIEW`, `blake3_volume` | digest of the stored pixels, one column a view, or of the stored voxels |
//! | `error` | why it failed |
//! | `warnings` | what is doubtful of it: the reader's remarks and those of [`plausibility`] |
//! | `manifest_version` | 2; manifests of version 1, without the last two columns, are not taken up again |
//!
//! # Runs that are stopped
//! What is finished is kept in `unfinished` (`unfinished-I-of-N`), which the same call takes up again; see the module `work`.
//! Volumes that failed are tried again whenever a run is taken up, and when it is called again after it ended: a file that
//! vanished or a network disk that did not answer heals without a word. A run that ended without failures is left as it is. A
//! folder that holds what was made with other options, of other volumes or by another version is refused, unless `restart`
//! is set. Rows of a folder that does not record the digest of their CT are made again; packed files that do not record which radiographs
//! were made by force are packed again.

mod ahead;
mod job;
mod manifest;
mod prepared;
mod radiographs;
mod real;
mod split;
mod work;

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::SystemTime;

use serde_json::{Value, json};

pub use ahead::ahead;
use job::{Job, work_through};
use manifest::{FACTS, Row, Status, Table};
pub use prepared::{PrepareOptions, prepare};
pub use radiographs::{IngestOptions, Pictures, ingest};
pub use real::{Packed, RealOptions, pack_real, real_files};
pub use split::{CtSplit, Item, PassedOver, open};
use work::Work;

use super::origins::{Origin, Origins};
use super::provenance::of_ct;
use super::radiographs::digest;
use crate::ct::{AffineSource, CtVolume, HuSource, plausibility};
use crate::device::Device;
use crate::files::create_folder;
use crate::{Error, Result};

/// What a run tells while it is under way.
pub enum Progress<'a> {
    /// So many of the volumes (or radiographs) were finished by an earlier run.
    Resumed(usize),
    /// So many are done, failures included.
    Done(usize),
    /// The one of this name failed.
    Failed(&'a str, &'a Error),
    /// The one of this name was made, and this is doubtful of it.
    Doubted(&'a str, &'a str),
}

/// The outcome of a run. Volumes are told by their names.
#[derive(Debug)]
pub struct Ingested {
    /// Radiographs a view, or prepared volumes.
    pub made: usize,
    /// The other volumes, in the order of the data set, and why.
    pub failed: Vec<(String, String)>,
    /// Of the volumes made, those with something doubtful, and what.
    pub warnings: Vec<(String, String)>,
    /// Volumes that were only made because the user insisted.
    pub forced: Vec<String>,
    /// One packed file a view, or one file a prepared volume.
    pub files: Vec<PathBuf>,
    /// The manifest.
    pub manifest: PathBuf,
    /// BLAKE3 of what was made and how.
    pub preprocessing_digest: String,
}

/// What is made of every volume, and where it is kept.
trait Product: Sync {
    /// What is made of each volume, by name: columns of the manifest.
    fn names(&self) -> Vec<&'static str>;
    /// Bytes of each of these in the work folder; 0 where they are kept in files of their own.
    fn kept_bytes(&self) -> usize;
    /// How it is made: fields of what packed files call their source.
    fn settings(&self) -> Value;
    /// What else a run is told apart by.
    fn identity(&self) -> Value;
    /// Whether what is kept outside of the work folder of a volume that an earlier run finished is there and whole.
    fn holds(&self, run: &Run, at: usize, row: &Row) -> bool;
    /// What the work folder keeps of a volume, one for each of the names, and its row; files of its own are written on the way.
    fn make(
        &self,
        run: &Run,
        device: &Device,
        at: usize,
        volume: &CtVolume,
        row: Row,
        work: &Work,
    ) -> Result<(Vec<Vec<u8>>, Row)>;
    /// What a run that ended has left: all its rows where there is nothing to do; else rows and what is kept of those that stand.
    fn take_over(&self, run: &Run, work: &mut Work, rows: &mut [Option<Row>]) -> Result<Option<Vec<Row>>>;
    /// Writes the files of a finished run.
    fn publish(&self, run: &Run, work: &Work, rows: &[Row]) -> Result<()>;
    /// The files that a finished run has.
    fn files(&self, run: &Run, rows: &[Row]) -> Vec<PathBuf>;
}

/// How a run goes, whatever it makes.
#[derive(Clone, Copy)]
struct Manner {
    /// `[i, n]`: the i-th (from 1) of n parts of the split.
    shard: [usize; 2],
    /// Forget what is there.
    restart: bool,
    /// Take volumes that are no plausible chest CT.
    force: bool,
}

/// One shard of a split and what is made of it.
struct Run<'a> {
    data: &'a dyn CtSplit,
    out: &'a Path,
    manner: Manner,
    product: &'a dyn Product,
    /// Items of the shard.
    items: Vec<Item>,
    /// Place of the first among those of the split.
    first: usize,
    source: Value,
    /// Of all that decides what is written.
    digest: String,
}

impl<'a> Run<'a> {
    fn new(data: &'a dyn CtSplit, out: &'a Path, manner: Manner, product: &'a dyn Product) -> Result<Self> {
        let (all, [i, n]) = (data.items(), manner.shard);
        if i == 0 || i > n || n > all.len() {
            let problem = format!("{i} of {n} shards of {} volumes", all.len());
            return Err(Error::argument("shard", problem, "give 1 <= i <= n, and no more shards than volumes"));
        }
        check_folder(data, all.len())?;
        let range = part(all.len(), manner.shard);
        let items = all[range.clone()].to_vec();
        let source = merged(
            json!({"source": data.layout(), "split": data.split(), "hu_source": data.hu_source().name()}),
            product.settings(),
        );
        let listed: Vec<_> = items.iter().map(|item| (&item.name, &item.listed)).collect();
        let identity = merged(
            json!({
                "x2ct": env!("CARGO_PKG_VERSION"), "manifest": manifest::VERSION, "source": source,
                "shard": manner.shard, "volumes": listed,
            }),
            product.identity(),
        );
        Ok(Run { data, out, manner, product, items, first: range.start, digest: digest(&identity), source })
    }

    /// Makes what is not there yet. A volume that cannot be read or made is reported, stands in the manifest and is left out.
    fn go(&self, device: &Device, stop: &AtomicBool, progress: &mut dyn FnMut(Progress)) -> Result<Ingested> {
        create_folder(self.out)?;
        let restart = self.manner.restart;
        let kept = (self.product.names(), self.product.kept_bytes());
        let (mut work, done) = Work::open(&self.file("unfinished", ""), &self.digest, &kept.0, kept.1, restart)?;
        let mut rows: Vec<Option<Row>> = vec![None; self.items.len()];
        done.into_iter().for_each(|(at, row)| rows[at] = Some(row));
        if rows.iter().all(Option::is_none) && !restart {
            match self.product.take_over(self, &mut work, &mut rows) {
                Ok(None) => {}
                Ok(Some(rows)) => {
                    work.close()?;
                    progress(Progress::Resumed(rows.len()));
                    return Ok(self.outcome(&rows));
                }
                Err(error) => {
                    work.close()?;
                    return Err(error);
                }
            }
        }
        let stands = self.standing(&rows, work.begun());
        rows.iter_mut().zip(stands).for_each(|(row, stands)| drop(row.take_if(|_| !stands)));
        work_through(&Volumes { run: self, device }, &mut work, &mut rows, stop, progress)?;
        self.finish(work, rows.into_iter().flatten().collect())
    }

    /// A volume's file.
    fn path(&self, at: usize) -> PathBuf {
        self.data.root().join(&self.items[at].file)
    }

    /// `NAME.ENDING`, of a shard `NAME-I-of-N.ENDING`.
    fn file(&self, name: &str, ending: &str) -> PathBuf {
        match self.manner.shard {
            [_, 1] => self.out.join(format!("{name}{ending}")),
            [i, n] => self.out.join(format!("{name}-{i}-of-{n}{ending}")),
        }
    }

    fn manifest(&self) -> PathBuf {
        self.file("manifest", ".csv")
    }

    /// BLAKE3 of what is made and how.
    fn preprocessing_digest(&self) -> String {
        digest(&self.source)
    }

    /// Which rows of an earlier run, begun or written at `since`, hold in this one.
    fn standing(&self, rows: &[Option<Row>], since: SystemTime) -> Vec<bool> {
        let stands = |(at, row): (usize, &Option<Row>)| {
            row.as_ref().is_some_and(|row| {
                row.is_packed()
                    && (self.manner.force || row.status != Status::Forced)
                    && self.product.holds(self, at, row)
                    && self.is_of_its_ct(row, at, since)
            })
        };
        rows.iter().enumerate().map(stands).collect()
    }

    /// Whether a row is of the CT that is there now, or of one that is gone; of one that is there it knows the digest.
    fn is_of_its_ct(&self, row: &Row, at: usize, since: SystemTime) -> bool {
        let path = self.path(at);
        is_as_read(row, &path, since) && (!row.ct.is_empty() || !path.exists())
    }

    /// [`Self::standing`] of the rows that a manifest records.
    fn standing_of_manifest(&self, rows: &[Row]) -> Vec<bool> {
        let written = std::fs::metadata(self.manifest()).and_then(|status| status.modified());
        let rows: Vec<Option<Row>> = rows.iter().cloned().map(Some).collect();
        self.standing(&rows, written.unwrap_or(SystemTime::UNIX_EPOCH))
    }

    fn table(&self) -> Table<'_> {
        let file = |item: &Item| item.file.to_string_lossy().into_owned();
        Table {
            volumes: self.items.iter().map(|item| (item.name.clone(), file(item))).collect(),
            views: self.product.names(),
            hu_source: self.data.hu_source().name(),
            preprocessing_digest: self.preprocessing_digest(),
        }
    }

    /// The volume with an affine and a scaling to HU that hold, and the beginning of its row of the manifest.
    ///
    /// # Errors
    /// A file that cannot be read, a volume that cannot be a chest CT unless that is forced.
    fn read(&self, device: &Device, at: usize) -> Result<(CtVolume, Row)> {
        let path = self.path(at);
        let unreadable = |e| Error::io(&path, "read", &e);
        if !std::fs::metadata(&path).map_err(unreadable)?.is_file() {
            return Err(Error::file(&path, "is no file", "put the volume itself there"));
        }
        let bytes = std::fs::read(&path).map_err(unreadable)?;
        let volume = self.data.decode(self.first + at, &bytes, &path, device)?;
        let verdict = plausibility::examine(&volume, HuSource::AlreadyHu, self.manner.force);
        let verdict = verdict.map_err(|e| e.of_file(&path))?;
        let status = match (verdict.forced, verdict.warnings.is_empty()) {
            (true, _) => Status::Forced,
            (false, false) => Status::Doubtful,
            (false, true) => Status::Ok,
        };
        let warnings = volume.remarks.iter().chain(&verdict.warnings).cloned().collect::<Vec<_>>().join(" ");
        let row =
            Row { status, facts: facts(&bytes, &volume).into(), warnings, ct: of_ct(&volume), ..Default::default() };
        Ok((volume, row))
    }

    /// Writes what is in the work folder, and the manifest, and removes the folder.
    fn finish(&self, work: Work, rows: Vec<Row>) -> Result<Ingested> {
        self.product.publish(self, &work, &rows)?;
        let (table, manifest) = (self.table().encode(&rows)?, self.manifest());
        work.publish(&manifest, |out| out.write_all(&table).map_err(|e| Error::io(&manifest, "write", &e)))?;
        work.close()?;
        Ok(self.outcome(&rows))
    }

    fn outcome(&self, rows: &[Row]) -> Ingested {
        let some = |which: &dyn Fn(&Row) -> bool, what: &dyn Fn(&Row) -> String| -> Vec<(String, String)> {
            let rows = rows.iter().zip(&self.items).filter(|(row, _)| which(row));
            rows.map(|(row, item)| (item.name.clone(), what(row))).collect()
        };
        let failed = some(&|row| !row.is_packed(), &|row| row.error.clone());
        let forced = some(&|row| row.status == Status::Forced, &|_| String::new());
        Ingested {
            made: rows.len() - failed.len(),
            failed,
            warnings: some(&|row| row.is_packed() && !row.warnings.is_empty(), &|row| row.warnings.clone()),
            forced: forced.into_iter().map(|(name, _)| name).collect(),
            files: self.product.files(self, rows),
            manifest: self.manifest(),
            preprocessing_digest: self.preprocessing_digest(),
        }
    }
}

/// The volumes of a run, as work.
struct Volumes<'a> {
    run: &'a Run<'a>,
    device: &'a Device,
}

impl Job for Volumes<'_> {
    type Read = (CtVolume, Row);

    fn unit(&self) -> &'static str {
        "volumes"
    }

    fn name(&self, at: usize) -> &str {
        &self.run.items[at].name
    }

    fn path(&self, at: usize) -> PathBuf {
        self.run.path(at)
    }

    fn out(&self) -> &Path {
        self.run.out
    }

    fn check_source(&self) -> Result<()> {
        check_folder(self.run.data, self.run.items.len())
    }

    fn read(&self, at: usize) -> Result<(CtVolume, Row)> {
        self.run.read(self.device, at)
    }

    fn make(&self, at: usize, (volume, row): (CtVolume, Row), work: &Work) -> Result<(Vec<Vec<u8>>, Row)> {
        self.run.product.make(self.run, self.device, at, &volume, row, work)
    }
}

/// What a manifest says of a volume that could be read.
fn facts(bytes: &[u8], volume: &CtVolume) -> [String; FACTS.len()] {
    let joined = |numbers: &[f64]| numbers.iter().map(|&v| (v as f32).to_string()).collect::<Vec<_>>().join("x");
    [
        bytes.len().to_string(),
        blake3::hash(bytes).to_hex().to_string(),
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
    ]
}

/// Whether a file is what the row was made of: of its size, and older than the run or of its digest. One that is gone is taken for
/// what it was.
fn is_as_read(row: &Row, path: &Path, since: SystemTime) -> bool {
    let Ok(status) = std::fs::metadata(path) else { return true };
    let [size, digest] = [0, 1].map(|fact| row.facts.get(fact).map_or("", String::as_str));
    let older = status.modified().is_ok_and(|modified| modified < since);
    let same = || std::fs::read(path).is_ok_and(|bytes| blake3::hash(&bytes).to_hex().as_str() == digest);
    status.is_file() && status.len().to_string() == size && (older || same())
}

/// The fields of two JSON objects.
fn merged(mut all: Value, more: Value) -> Value {
    if let (Value::Object(all), Value::Object(more)) = (&mut all, more) {
        all.extend(more);
    }
    all
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

fn check_folder(data: &dyn CtSplit, volumes: usize) -> Result<()> {
    if volumes == 0 {
        return Err(Error::file(data.root(), "lists no volumes", "pass another split"));
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
