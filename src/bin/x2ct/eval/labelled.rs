//! Features of images with their labels, which zero-shot detection and probes read.

use std::path::Path;

use x2ct::Error;
use x2ct::data::ct_rate::VolumeName;
use x2ct::data::features::{FeatureSet, Tower};
use x2ct::data::id_table::IdTable;
use x2ct::data::provenance::Content;

use crate::chain::Chain;
use crate::label_table;

/// Features of the images that have labels, and those labels.
pub struct Labelled {
    /// Features, one row an image.
    pub features: FeatureSet,
    /// Patient of each image.
    pub patients: Vec<String>,
    /// Names of the labels.
    pub names: Vec<String>,
    /// `[images, names]`.
    pub labels: Vec<bool>,
}

impl Labelled {
    /// Features of a file, or a tower's of a cache, with the labels of a table. An image without labels costs itself; what the table
    /// lists and the file has not is told. `role` names them among the digests, such as "features" or "test features".
    ///
    /// # Errors
    /// Those of [`FeatureSet::open`]; no image with labels; under `--strict` the first image without.
    pub fn read(
        role: &str,
        (file, tower): (&Path, Tower),
        (table, labels): (&Path, IdTable<bool>),
        chain: &mut Chain,
    ) -> x2ct::Result<Self> {
        let features = FeatureSet::open(file, tower)?;
        let provenance = features.provenance();
        chain.settle(file, Ok(provenance.undecided("features")))?;
        chain.holds(role, &provenance.digest);
        label_table::fail_rows(&labels.rows.bad, chain)?;
        let lacks = |id: &String| Error::File {
            path: table.into(),
            field: Some(id.clone()),
            problem: format!("has no usable row for this image of {}", file.display()),
            hint: "pass the labels of the same images, or complete the table".into(),
        };
        let kept = chain.keep("images", &features.ids, |id| labels.row(id).is_none().then(|| lacks(id)))?;
        chain.lacks(file, &features.ids, table, &labels.rows.order);
        let features = features.select(&kept);
        let cells: Vec<bool> = features.ids.iter().filter_map(|id| labels.row(id)).flatten().copied().collect();
        let bytes: Vec<u8> = cells.iter().copied().map(u8::from).collect();
        let rows = features.ids.iter().zip(bytes.chunks_exact(labels.names.len()));
        let digest = rows.fold(Content::of("labels"), |content, (id, row)| content.and(id).and(row));
        chain.holds(&role.replace("features", "labels"), &digest.digest());
        let patients = features.ids.iter().map(|id| VolumeName::patient_of(id)).collect();
        Ok(Labelled { features, patients, names: labels.names, labels: cells })
    }
}
