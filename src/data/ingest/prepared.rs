//! A split's volumes prepared as a network's input, a file each.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use serde_json::{Value, json};

use super::manifest::Row;
use super::work::Work;
use super::{CtSplit, Ingested, Manner, Product, Progress, Run, Status};
use crate::archive::Archive;
use crate::ct::{CtVolume, Preset};
use crate::data::ct_rate::HuSource;
use crate::data::radiographs::digest;
use crate::data::volumes::{ONE, Said, VOLUME, write_one};
use crate::device::Device;
use crate::tensor::DType;
use crate::{Error, Result};

/// How every volume is prepared.
#[derive(Clone, Debug)]
pub struct PrepareOptions {
    pub preset: Preset,
    /// Data type in which a voxel is stored.
    pub dtype: DType,
    /// `[i, n]`: the i-th (from 1) of n parts of the split.
    pub shard: [usize; 2],
    /// Forget what is there.
    pub restart: bool,
    /// Take volumes that are no plausible chest CT.
    pub force: bool,
}

impl PrepareOptions {
    /// A whole split in f32.
    pub fn new(preset: Preset) -> Self {
        PrepareOptions { preset, dtype: DType::F32, shard: [1, 1], restart: false, force: false }
    }
}

/// Prepares the volumes of a split below `out`, a file each. A volume that cannot be read or prepared is reported, stands in the
/// manifest and has no file.
///
/// # Errors
/// Those of [`ingest`](super::ingest). After any of them the same call goes on.
pub fn prepare(
    device: &Device,
    data: &dyn CtSplit,
    out: &Path,
    options: &PrepareOptions,
    stop: &AtomicBool,
    progress: &mut dyn FnMut(Progress),
) -> Result<Ingested> {
    let manner = Manner { shard: options.shard, restart: options.restart, force: options.force };
    Run::new(data, out, manner, options)?.go(device, stop, progress)
}

impl PrepareOptions {
    /// The file of a volume.
    fn file(run: &Run, at: usize) -> PathBuf {
        run.out.join(format!("{}.safetensors", run.items[at].name))
    }

    /// What decides what is in the file of one volume.
    fn run_of(run: &Run, at: usize) -> String {
        digest(&json!({"x2ct": env!("CARGO_PKG_VERSION"), "source": run.source, "listed": run.items[at].listed}))
    }

    /// The file of a volume that a run like this one wrote; of no other.
    fn written(run: &Run, at: usize) -> Option<Archive> {
        let archive = Archive::read(&Self::file(run, at), ONE, "volume", "").ok()?;
        (archive.get("run").ok()? == Self::run_of(run, at)).then_some(archive)
    }
}

/// The digest of a file's voxels, in hex.
fn voxels(archive: &Archive) -> Result<String> {
    Ok(archive.digests(VOLUME)?.iter().map(|digest| blake3::Hash::from(*digest).to_hex().to_string()).collect())
}

impl Product for PrepareOptions {
    fn names(&self) -> Vec<&'static str> {
        vec![VOLUME]
    }

    fn kept_bytes(&self) -> usize {
        0
    }

    fn settings(&self) -> Value {
        json!({"preset": self.preset, "type": self.dtype.name()})
    }

    fn identity(&self) -> Value {
        json!({})
    }

    /// Voxels are verified when they are loaded: to read them all would take as long as to make them.
    fn holds(&self, run: &Run, at: usize, row: &Row) -> bool {
        Self::written(run, at).is_some_and(|archive| {
            archive.get("ct_digest").is_ok_and(|ct| ct == row.ct)
                && voxels(&archive).is_ok_and(|voxels| row.digests == [voxels])
        })
    }

    fn make(
        &self,
        run: &Run,
        device: &Device,
        at: usize,
        volume: &CtVolume,
        mut row: Row,
        work: &Work,
    ) -> Result<(Vec<Vec<u8>>, Row)> {
        let (path, file) = (run.path(at), Self::file(run, at));
        let said = Said {
            input: &path.file_name().unwrap_or_default().to_string_lossy(),
            hu_source: match run.data.hu_source() {
                HuSource::AlreadyHu => json!({"from": "file"}),
                HuSource::CsvRescale => json!({"from": "metadata table"}),
            },
            warnings: Some(row.warnings.as_str()).into_iter().filter(|warnings| !warnings.is_empty()).collect(),
            forced: row.status == Status::Forced,
            run: &Self::run_of(run, at),
        };
        let new = work.new_file();
        write_one(device, (&self.preset, self.dtype), volume, &said, &new)?;
        row.digests = vec![voxels(&Archive::open(&new, ONE, "volume", "check the disk and run again")?)?];
        work.place(&file)?;
        Ok((Vec::new(), row))
    }

    fn take_over(&self, run: &Run, work: &mut Work, rows: &mut [Option<Row>]) -> Result<Option<Vec<Row>>> {
        if !run.manifest().exists() {
            return Ok(None);
        }
        let mut recorded = run.table().read(&run.manifest())?;
        for (at, row) in recorded.iter_mut().enumerate().filter(|(_, row)| row.is_packed()) {
            let ct = Self::written(run, at).and_then(|archive| Some(archive.get("ct_digest").ok()?.to_string()));
            row.ct = ct.unwrap_or_default();
        }
        let stands = run.standing_of_manifest(&recorded);
        if stands.iter().all(|&stands| stands) {
            return Ok(Some(recorded));
        }
        for (at, row) in recorded.into_iter().enumerate().filter(|(at, _)| stands[*at]) {
            work.put::<&[u8]>(at, &[], &row)?;
            rows[at] = Some(row);
        }
        Ok(None)
    }

    fn publish(&self, run: &Run, _: &Work, rows: &[Row]) -> Result<()> {
        for at in (0..rows.len()).filter(|&at| !rows[at].is_packed()) {
            let file = Self::file(run, at);
            match std::fs::remove_file(&file) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                    return Err(Error::io(&file, "remove what an earlier run made", &e));
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn files(&self, run: &Run, rows: &[Row]) -> Vec<PathBuf> {
        (0..rows.len()).filter(|&at| rows[at].is_packed()).map(|at| Self::file(run, at)).collect()
    }
}
