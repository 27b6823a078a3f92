//! The phantom as radiographs with reports and labels, in the form of MIMIC-CT: PNGs as a film of the patient would be scanned, and
//! one table, for `x2ct radiographs`.
//!
//! ```text
//! ROOT/images/mimic_00001.png   8 bits, bone bright; says nothing of view and mode, as real ones
//! ROOT/mimic.csv                id, image, report, and the 11 labels of the built-in map `mimic`
//! ```

use std::path::{Path, PathBuf};

use super::radchest::write_table;
use super::{Form, PhantomDataset, Shown, claim, embed};
use crate::ct::image::{Depth, PngOptions, encode_png};
use crate::ct::phantom::Patient;
use crate::ct::{Geometry, Mode, Projection, Radiograph, RadiographOptions};
use crate::data::cache::EmbeddingCache;
use crate::data::label_map::LabelMap;
use crate::device::Device;
use crate::files::{create_folder, write_atomic};
use crate::labels;
use crate::{Error, Result};

/// Name of the table.
pub const TABLE: &str = "mimic.csv";

/// Patient `number` (from 1): none of those of the other forms.
pub fn patient(set: &PhantomDataset, number: u32) -> Patient {
    Patient::new(set.seed, (5 << 32) + u64::from(number.max(1) - 1), &set.phantom)
}

fn id(number: u32) -> String {
    format!("mimic_{number:05}")
}

/// Writes `count` radiographs and their table below `root`, and returns the table's path. `progress` as of
/// [`write_dataset`](super::write_dataset), from this thread; what is there and the same is kept.
///
/// # Errors
/// Those of [`write_dataset`](super::write_dataset); a device that fails.
pub fn write_mimic(
    device: &Device,
    root: impl AsRef<Path>,
    set: &PhantomDataset,
    count: u32,
    progress: &mut dyn FnMut(usize, usize) -> Result<()>,
) -> Result<PathBuf> {
    let root = root.as_ref();
    PhantomDataset { train: count, valid: 0, ..*set }.check()?;
    claim(root, set, Form::Mimic)?;
    create_folder(root.join("images"))?;
    let map = LabelMap::open("mimic")?;
    let options = RadiographOptions {
        mode: Mode::Film,
        view: Projection::Pa,
        geometry: Geometry::Cone { sdd: 1800.0, sod: 1500.0 },
        ..Default::default()
    };
    let mut rows = Vec::new();
    for number in 1..=count {
        let patient = patient(set, number);
        let image = PathBuf::from("images").join(format!("{}.png", id(number)));
        let volume = patient.voxelise(set.shape, set.spacing)?;
        let made = Radiograph::all(device, &volume, &[options.view], &options)?.remove(0);
        let shown = PngOptions { depth: Depth::Eight, window: made.window, curve: made.curve, ..Default::default() };
        let png = encode_png(&made.image, &shown, &made.pitch.into())?;
        let path = root.join(&image);
        if !std::fs::read(&path).is_ok_and(|kept| kept == png) {
            write_atomic(&path, &png)?;
        }
        let present = patient.labels();
        let label = |name: &String| {
            let place = labels::NAMES.iter().position(|known| known == name);
            place.map_or(String::new(), |place| u8::from(present[place]).to_string())
        };
        let mut row = vec![id(number), image.to_string_lossy().into_owned(), super::text(&patient)];
        row.extend(map.names().iter().map(label));
        rows.push(row);
        progress(number as usize, count as usize)?;
    }
    let table = root.join(TABLE);
    let header = ["id", "image", "report"].map(String::from).into_iter().chain(map.names()).collect();
    write_table(&table, header, rows.into_iter())?;
    Ok(table)
}

/// The phantom teacher's embeddings of the patients of [`write_mimic`]. Of which CTs they are is not recorded, as of real
/// radiographs.
pub fn mimic_cache(set: &PhantomDataset, count: u32) -> Result<EmbeddingCache> {
    if count == 0 {
        return Err(Error::argument("phantom data set", "no patients were asked for", "ask for at least one"));
    }
    let patients: Vec<Patient> = (1..=count).map(|number| patient(set, number)).collect();
    let shown =
        (1..=count).zip(&patients).map(|(number, patient)| Shown { id: id(number), text: super::text(patient) });
    Ok(embed(set, shown.collect(), &patients, Vec::new()))
}
