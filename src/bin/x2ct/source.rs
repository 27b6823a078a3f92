//! A CT volume as the command line names it: path, what turns its values into HU, and the table for that.

use std::path::Path;

use x2ct::ct::{self, CtVolume, HuSource, ReadOptions, radchest};
use x2ct::data::ct_rate;
use x2ct::{Device, Error, Result};

use crate::projection::HuSourceName;

/// Reads a volume and says what its reader remarked.
pub fn open(path: &Path, hu: HuSourceName, table: Option<&Path>, device: &Device) -> Result<(CtVolume, HuSource)> {
    let volume = read(path, hu, table, device)?;
    if let Some(warning) = warning(path, &volume) {
        remark!("{warning}");
    }
    Ok((volume, HuSource::AlreadyHu))
}

/// Reads a volume. With the metadata table its geometry and scaling are the table's: RadChest-CT's for an `.npz`, CT-RATE's
/// (original release) otherwise.
pub fn read(path: &Path, hu: HuSourceName, table: Option<&Path>, device: &Device) -> Result<CtVolume> {
    if hu == HuSourceName::Csv && table.is_none() {
        let problem = "needs the data set's metadata table";
        return Err(Error::argument("--hu-source csv", problem, "pass it with --metadata"));
    }
    let table = table.filter(|_| hu == HuSourceName::Csv);
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let is_npz = path.extension().is_some_and(|e| e == "npz");
    let radchest = table.filter(|_| is_npz).map(|table| radchest::acquisition_of(table, &name)).transpose()?;
    let row = table.filter(|_| !is_npz).map(|table| ct_rate::acquisition_of(table, &name.parse()?)).transpose()?;
    let volume = ct::read_with(path, &ReadOptions { device: Some(device), radchest })?;
    match row {
        Some(row) => row.apply(volume),
        None => Ok(volume),
    }
}

/// What is to be said of a volume: its reader's remarks, one line for all.
pub fn warning(path: &Path, volume: &CtVolume) -> Option<String> {
    let remarks = volume.remarks.join(" ");
    (!remarks.is_empty()).then(|| format!("x2ct: warning: {}: {remarks}", path.display()))
}
