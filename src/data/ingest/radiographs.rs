//! Radiographs of a split's volumes, packed in one file a view.

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use serde_json::{Value, json};

use super::manifest::{Row, Status};
use super::work::{self, Work};
use super::{CtSplit, Ingested, Manner, Product, Progress, Run, origins};
use crate::archive::Digest;
use crate::ct::{Collimation, CtVolume, GrayImage, Projection, Radiograph, RadiographOptions, plausibility};
use crate::data::cts::Cts;
use crate::data::pixels;
use crate::data::radiographs::{self, Description, Mapped};
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
    pub encode: &'a (dyn Fn(&Radiograph) -> Result<Vec<u8>> + Sync),
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
    data: &dyn CtSplit,
    out: &Path,
    options: &IngestOptions,
    stop: &AtomicBool,
    progress: &mut dyn FnMut(Progress),
) -> Result<Ingested> {
    let refuse = |what: &str, problem: String, hint: &str| Err(Error::argument(what, problem, hint));
    if options.size.contains(&0) {
        return refuse("size", format!("{:?}", options.size), "give at least one row and column");
    }
    let views: Vec<&str> = options.views.iter().map(|view| view.name()).collect();
    if views.is_empty() || (1..views.len()).any(|i| views[..i].contains(&views[i])) {
        return refuse("views", format!("{views:?}"), "name at least one, and each once");
    }
    let manner = Manner { shard: options.shard, restart: options.restart, force: options.force };
    Run::new(data, out, manner, options)?.go(device, stop, progress)
}

impl IngestOptions<'_> {
    fn packed(&self, run: &Run) -> Vec<PathBuf> {
        self.names().into_iter().map(|view| run.file(view, ".safetensors")).collect()
    }

    fn picture(&self, run: &Run, view: &str, at: usize) -> PathBuf {
        run.out.join(view).join(format!("{}.png", run.items[at].name))
    }
}

impl Product for IngestOptions<'_> {
    fn names(&self) -> Vec<&'static str> {
        self.views.iter().map(|view| view.name()).collect()
    }

    fn kept_bytes(&self) -> usize {
        self.size[0] * self.size[1] * self.pixel.bytes()
    }

    fn settings(&self) -> Value {
        let mut projection = json!(self.projection);
        if let Some(fields) = projection.as_object_mut() {
            fields.remove("view");
        }
        json!({
            "projection": projection, "size": self.size, "pixels": self.pixel,
            "fit": "min-max, shorter side resized with antialias, centre kept",
        })
    }

    fn identity(&self) -> Value {
        json!({"views": self.names(), "pictures": self.pictures.as_ref().map(|pictures| &pictures.settings)})
    }

    fn holds(&self, run: &Run, at: usize, _: &Row) -> bool {
        self.pictures.is_none() || self.names().iter().all(|view| self.picture(run, view, at).exists())
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
        let IngestOptions { views, projection, size, pixel, pictures, force, .. } = self;
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
                let path = self.picture(run, view.name(), at);
                path.parent().map_or(Ok(()), create_folder)?;
                work.publish(&path, |out| out.write_all(&bytes).map_err(|e| Error::io(&path, "write", &e)))?;
            }
        }
        let stored = |image: &GrayImage| pixels::encode(&image.pixels, [image.height, image.width], *size, *pixel);
        let images: Vec<Vec<u8>> = images.iter().map(|made| stored(&made.image)).collect();
        row.digests = images.iter().map(|image| blake3::hash(image).to_hex().to_string()).collect();
        Ok((images, row))
    }

    fn take_over(&self, run: &Run, work: &mut Work, rows: &mut [Option<Row>]) -> Result<Option<Vec<Row>>> {
        let packed = self.packed(run);
        if !packed.iter().chain([&run.manifest()]).all(|path| path.exists()) {
            return Ok(None);
        }
        let recorded = run.table().read(&run.manifest());
        let mut sets = Vec::new();
        for path in &packed {
            let set = Mapped::read(path)?;
            if set.run != run.digest {
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
        let stands = run.standing_of_manifest(&recorded);
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

    fn publish(&self, run: &Run, work: &Work, rows: &[Row]) -> Result<()> {
        let made: Vec<usize> = (0..rows.len()).filter(|&at| rows[at].is_packed()).collect();
        let ids: Vec<String> = made.iter().map(|&at| run.items[at].name.clone()).collect();
        let cts = Cts::new(made.iter().map(|&at| rows[at].ct.clone()).collect());
        let origins = origins(rows);
        for (i, path) in self.packed(run).into_iter().enumerate() {
            let digests: Option<Vec<Digest>> = made.iter().map(|&at| work::digest(&rows[at].digests[i])).collect();
            let digests = digests.ok_or_else(|| Error::argument("digest", "is none", "this is a defect"))?;
            let image = |place: usize| Ok(Cow::Owned(work.image(i, made[place])?));
            let options = RadiographOptions { view: self.views[i], ..self.projection.clone() };
            let made = radiographs::settings(&options, self.size, self.pixel);
            let description = Description {
                ids: &ids,
                size: self.size,
                pixel: self.pixel,
                view: self.views[i].name(),
                source: &run.source,
                made: &made,
                cts: &cts,
                origins: &origins,
                shard: self.shard,
                run: &run.digest,
            };
            work.publish(&path, |out| description.writer(&digests, &image).write_to(out, &path))?;
        }
        Ok(())
    }

    fn files(&self, run: &Run, _: &[Row]) -> Vec<PathBuf> {
        self.packed(run)
    }
}
