//! A CT volume as the command line names it: path, what turns its values into HU, and the table for that.

use std::path::Path;

use x2ct::Device;
use x2ct::ct::{self, AffineSource, CtVolume, HuSource, ReadOptions, radchest};
use x2ct::data::ct_rate;

use crate::projection::HuSourceName;

/// Reads a volume. With the metadata table its geometry and scaling are the table's: RadChest-CT's for an `.npz`, CT-RATE's
/// (original release) otherwise. Says when left and right are not known.
pub fn open(
    path: &Path,
    hu: HuSourceName,
    table: Option<&Path>,
    device: &Device,
) -> anyhow::Result<(CtVolume, HuSource)> {
    let table = table.filter(|_| hu == HuSourceName::Csv);
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let is_npz = path.extension().is_some_and(|e| e == "npz");
    let radchest = table.filter(|_| is_npz).map(|table| radchest::acquisition_of(table, &name)).transpose()?;
    let row = table.filter(|_| !is_npz).map(|table| ct_rate::acquisition_of(table, &name.parse()?)).transpose()?;
    let mut volume = ct::read_with(path, &ReadOptions { device: Some(device), radchest })?;
    if let Some(row) = row {
        volume = row.apply(volume)?;
    }
    if volume.affine_source == AffineSource::Pixdim {
        let path = path.display();
        eprintln!(
            "x2ct: warning: {path}: has no orientation; left and right are assumed, not known, and letters are left out"
        );
    }
    Ok((volume, HuSource::AlreadyHu))
}
