//! What lies among the volumes of a data set beside those that its tables name.

use std::collections::HashSet;
use std::fs::{DirEntry, read_dir};
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::{CtRate, VolumeName, volume_of};

/// What lies among the volumes of a split and is none that its tables name.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Others {
    /// Volumes that no table names.
    pub unlisted: Vec<VolumeName>,
    /// Files whose name or place is not that of a volume.
    pub strangers: Vec<PathBuf>,
}

impl CtRate {
    /// What lies in [`folder`](Self::folder) beside the volumes that the tables name; hidden files do not count.
    pub fn others(&self) -> Others {
        let tables = self.volumes.iter().map(|volume| &volume.name).chain(self.left_out.iter().map(|left| &left.name));
        let known: HashSet<VolumeName> = tables.cloned().chain(self.bad_rows.iter().filter_map(volume_of)).collect();
        let (mut folders, mut others) = (vec![self.folder()], Others::default());
        // The split's folder, its patients', their scans'.
        for _ in 0..3 {
            let entries: Vec<(PathBuf, bool)> = folders.par_iter().flat_map_iter(|folder| entries(folder)).collect();
            folders.clear();
            for (path, is_folder) in entries {
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                // A volume that lies elsewhere is not found by its name.
                let volume =
                    name.parse().ok().filter(|name: &VolumeName| name.path(&self.root, self.hu_source) == path);
                match volume {
                    _ if is_folder => folders.push(path),
                    Some(volume) if known.contains(&volume) => {}
                    Some(volume) => others.unlisted.push(volume),
                    None if name.starts_with('.') => {}
                    None => others.strangers.push(path),
                }
            }
        }
        others.unlisted.sort();
        others.strangers.sort();
        others
    }
}

/// What is in a folder, and which of it are folders; nothing where it cannot be read.
fn entries(folder: &Path) -> impl Iterator<Item = (PathBuf, bool)> + use<> {
    let is_folder = |entry: DirEntry| {
        let kind = entry.file_type();
        let path = entry.path();
        let is_folder = kind.is_ok_and(|kind| kind.is_dir() || (kind.is_symlink() && path.is_dir()));
        (path, is_folder)
    };
    read_dir(folder).into_iter().flatten().flatten().map(is_folder)
}
