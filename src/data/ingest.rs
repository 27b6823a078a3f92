//! A split's CT volumes to radiographs: volumes are decoded on every core while the device projects.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use serde_json::json;

use super::ct_rate::{CtRate, HuSource, Volume, VolumeName};
use super::radiographs::RadiographSet;
use crate::ct::{Affine, AxisCodes, CtVolume, RadiographOptions, nifti, radiograph};
use crate::device::Device;
use crate::{Error, Result};

/// Grid of the mean, mm (X2CT-CLIP).
const GRID_MM: f64 = 1.0;
/// Decoded volumes wait in memory, up to 300 MB each: no more than this many cores decode.
const MOST_DECODERS: usize = 16;

/// What came of a split.
pub struct Ingested {
    /// One radiograph a readable volume, in the order of the split, named without `.nii.gz`.
    pub radiographs: RadiographSet,
    /// The other volumes, in the same order, and why.
    pub failed: Vec<(VolumeName, Error)>,
}

/// Makes the radiograph of every volume of a split, [`super::pixels::fit`] to `size` [H, W]. A volume that cannot be read or
/// projected is left out and returned with its error. `progress` is told how many volumes are done, and of each that failed;
/// `stop` ends the work with [`Error::Interrupted`].
///
/// At most one volume a core, and two, are in memory. The result does not depend on the number of cores.
///
/// # Errors
/// A folder of volumes that cannot be read, no readable volume at all, a device that fails.
pub fn radiographs(
    device: &Device,
    data: &CtRate,
    size: [usize; 2],
    stop: &AtomicBool,
    progress: &mut dyn FnMut(usize, Option<(&VolumeName, &Error)>),
) -> Result<Ingested> {
    check_folder(data)?;
    let count = data.volumes.len();
    let mut images: Vec<Option<Vec<u8>>> = vec![None; count];
    let mut failed: Vec<(usize, Error)> = Vec::new();
    let next = AtomicUsize::new(0);
    let decoders = std::thread::available_parallelism().map_or(1, |n| n.get()).min(MOST_DECODERS).min(count);
    std::thread::scope(|scope| {
        let (sender, decoded) = crossbeam_channel::bounded(1);
        for _ in 0..decoders {
            let (sender, next) = (sender.clone(), &next);
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some(volume) = data.volumes.get(at) else { break };
                    // The receiver is gone when the work has ended early.
                    if sender.send((at, read(data, volume))).is_err() {
                        break;
                    }
                }
            });
        }
        drop(sender);
        for (done, (at, volume)) in decoded.into_iter().enumerate() {
            if stop.load(Ordering::Relaxed) {
                break;
            }
            match volume.and_then(|volume| image(device, &volume, size)) {
                Ok(image) => images[at] = Some(image),
                Err(error @ (Error::Device { .. } | Error::Launch { .. })) => return Err(error),
                Err(error) => failed.push((at, error)),
            }
            let failure = failed.last().filter(|(last, _)| *last == at);
            progress(done + 1, failure.map(|(at, error)| (&data.volumes[*at].name, error)));
        }
        Ok(())
    })?;
    let made = images.iter().flatten().count();
    if made + failed.len() < count {
        return Err(Error::Interrupted(format!("after {} of {count} volumes", made + failed.len())));
    }
    failed.sort_by_key(|(at, _)| *at);
    if made == 0 {
        let (at, error) = &failed[0];
        let problem = format!("none of its {count} volumes can be used; {}: {error}", data.volumes[*at].name);
        return Err(Error::file(&data.root, problem, "repair the data set"));
    }
    let ids = data.volumes.iter().zip(&images).filter(|(_, i)| i.is_some()).map(|(v, _)| v.name.to_string()).collect();
    let pixels = images.into_iter().flatten().flatten().collect();
    let radiographs = RadiographSet::new(ids, size, pixels, description(data))?;
    let failed = failed.into_iter().map(|(at, error)| (data.volumes[at].name.clone(), error)).collect();
    Ok(Ingested { radiographs, failed })
}

fn check_folder(data: &CtRate) -> Result<()> {
    let Some(first) = data.volumes.first() else {
        return Err(Error::file(&data.root, "lists no volumes", "pass another split"));
    };
    // .../train_fixed/train_1/train_1_a/train_1_a_1.nii.gz
    let path = data.path(first);
    let folder = path.ancestors().nth(3).unwrap_or(&path);
    let hint = match data.hu_source {
        HuSource::AlreadyHu => "volumes of the original release need the HU source `csv`",
        HuSource::CsvRescale => "volumes of the corrected release need the HU source `already-hu`",
    };
    let unreadable = |e: std::io::Error| Error::file(folder, format!("cannot read the folder: {e}"), hint);
    std::fs::read_dir(folder).map(drop).map_err(unreadable)
}

/// What the radiographs are made of and how.
fn description(data: &CtRate) -> serde_json::Value {
    let hu = match data.hu_source {
        HuSource::AlreadyHu => "stored values",
        HuSource::CsvRescale => "slope and intercept of the metadata table",
    };
    json!({
        "source": "CT-RATE layout", "split": data.split.name(), "hu": hu, "clip_hu": [-1000, 1000], "grid_mm": GRID_MM,
        "projection": "mean HU, anteroposterior, parallel", "pixels": "min-max to 8 bits, resized, centre crop",
    })
}

/// The volume with an affine and a scaling to HU that hold.
fn read(data: &CtRate, row: &Volume) -> Result<CtVolume> {
    let volume = nifti::read(data.path(row))?;
    match data.hu_source {
        HuSource::AlreadyHu => Ok(volume),
        // Headers of the original release mean nothing: the published code takes spacing and scaling from the table and the
        // axes as they are stored.
        HuSource::CsvRescale => {
            let a = &row.acquisition;
            let affine = Affine::centred(AxisCodes::LPS, a.spacing(), volume.shape)?;
            Ok(CtVolume { affine, slope: a.slope as f32, intercept: a.intercept as f32, ..volume })
        }
    }
}

/// X2CT-CLIP's radiograph of a volume, as bytes [H, W].
fn image(device: &Device, volume: &CtVolume, size: [usize; 2]) -> Result<Vec<u8>> {
    let options = RadiographOptions { spacing: Some(GRID_MM), ..Default::default() };
    let image = radiograph(device, volume, &options)?;
    Ok(super::pixels::fit(&super::pixels::to_bytes(&image.pixels), [image.height, image.width], size))
}
