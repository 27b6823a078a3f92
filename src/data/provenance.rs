//! Provenance: what a file holds and what it was made of, so that things that do not belong together are told apart.
//!
//! # What is recorded
//! Radiographs, volumes, text features, embedding caches and checkpoints each carry the metadata entry `provenance`, JSON:
//!
//! | key | is |
//! |---|---|
//! | `version` | 1 |
//! | `digest` | BLAKE3 of the content alone, lower-case hex: ids and values in their order; not names of files, not settings |
//! | `rows` | how many radiographs, volumes, reports or pairs; 0 where that means nothing |
//! | `settings` | how the content was made, by name |
//! | `from` | what it was made of: the same again, by name |
//!
//! A checkpoint is `from` its `radiographs` and `cache` (or `volumes` and `text`), a cache from `ct`, `volumes` and `reports`,
//! volumes and radiographs from `ct`, text features from `reports`: so a checkpoint alone names everything it rests on. What is
//! trained, resumed, evaluated or predicted with is compared with it, by one of two rules:
//!
//! - [`Provenance::expect_same`], for a run that goes on: the very content.
//! - [`Provenance::expect_alike`], for other patients: the same settings, all the way down. A cache's settings include the digest
//!   of the teacher's checkpoint.
//!
//! What is joined on ids is compared row by row besides: see [`super::cts`].
//!
//! # What is not recorded
//! Files of earlier versions and of other writers have no such entry. They load; what the comparison then could not decide is
//! returned in words, for the caller to warn of or to refuse.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::archive::{Archive, Writer};
use crate::ct::{CtVolume, Voxels};
use crate::{Error, Result};

const KEY: &str = "provenance";
const VERSION: u64 = 1;

/// The setting `mode` of real radiographs, where simulated ones say what a pixel is.
pub(super) const REAL: &str = "real";

/// What something holds and what it was made of. See the module's description.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Provenance {
    /// BLAKE3 of the content, lower-case hex; empty where that is not known.
    pub digest: String,
    /// Radiographs, volumes, reports or pairs.
    pub rows: usize,
    /// How it was made, by name, the most telling first.
    pub settings: Map<String, Value>,
    /// Provenance of what it was made of, by role.
    pub from: BTreeMap<String, Provenance>,
    /// False for a file that does not say how it was made.
    pub known: bool,
}

/// What a comparison could not decide because it is not recorded: one remark a thing, for a warning or a refusal.
pub type Undecided = Vec<String>;

impl Provenance {
    /// Of something made in this way; content is added by its owner.
    pub fn made(settings: Map<String, Value>, from: impl IntoIterator<Item = (&'static str, Provenance)>) -> Self {
        let from = from.into_iter().map(|(name, from)| (name.to_string(), from)).collect();
        Provenance { settings, from, known: true, ..Default::default() }
    }

    /// Of something made in this way of parts of which no more than these digests is told, by name.
    pub fn of_digests<'a>(settings: Map<String, Value>, parts: impl IntoIterator<Item = (&'a str, String)>) -> Self {
        let part = |(name, digest): (&str, String)| {
            (name.to_string(), Provenance { digest, known: true, ..Default::default() })
        };
        Provenance { settings, from: parts.into_iter().map(part).collect(), known: true, ..Default::default() }
    }

    /// Of something whose file says no more than these settings.
    pub fn unknown(settings: Map<String, Value>) -> Self {
        Provenance { settings, ..Default::default() }
    }

    /// The same with this content.
    pub fn holding(&self, digest: String, rows: usize) -> Self {
        Provenance { digest, rows, ..self.clone() }
    }

    /// Adds the entry to a file that is being written.
    pub fn record(&self, archive: &mut Writer) {
        if self.known {
            archive.set(KEY, self.json().to_string());
        }
    }

    /// The entry.
    pub fn json(&self) -> Value {
        json!({
            "version": VERSION, "digest": self.digest, "rows": self.rows, "settings": self.settings, "from": self.from,
            "known": self.known,
        })
    }

    /// The entry of a file whose content has this digest; `None` where the file has none.
    ///
    /// # Errors
    /// An entry that is no such JSON, of a later version, or of other content.
    pub fn read(archive: &Archive, digest: &str) -> Result<Option<Self>> {
        let refuse = |problem: String| Err(Error::file(archive.path(), problem, "make the file again"));
        if archive.get(KEY).is_err() {
            return Ok(None);
        }
        let entry: Value = archive.get_json(KEY)?;
        if entry["version"] != VERSION {
            let problem = format!("its provenance has version {}, this x2ct reads {VERSION}", entry["version"]);
            return refuse(problem);
        }
        let recorded: Provenance = match serde_json::from_value(entry) {
            Ok(recorded) => recorded,
            Err(error) => return refuse(format!("its provenance is not understood ({error})")),
        };
        if recorded.digest != digest {
            let problem = format!(
                "its content has digest {}, but its provenance says {}: it was changed",
                short(digest),
                short(&recorded.digest)
            );
            return refuse(problem);
        }
        Ok(Some(recorded))
    }

    /// What `found`, of other patients, is compared by: made with the same settings, all the way down. `what` names it in errors. A
    /// part that only one of them records is undecided, unless it is content alone, such as CTs: that of other patients is another.
    ///
    /// # Errors
    /// Names the first setting that differs, with both values and both digests.
    pub fn expect_alike(&self, what: &str, found: &Provenance) -> Result<Undecided> {
        if let Some((says, found)) = self.other_frontal_view(found) {
            let mut undecided = self.expect_alike(what, &found)?;
            undecided.insert(0, format!("{what}: {says}"));
            return Ok(undecided);
        }
        if let (Some(trained), Some(mode)) = (self.mode(), found.mode())
            && (trained == REAL) != (mode == REAL)
        {
            return self.expect_alike_but_real(what, found);
        }
        let strict = self.known && found.known;
        if let Some(difference) = difference(&self.settings, &found.settings, strict) {
            let (mine, other) = (short(&self.digest), short(&found.digest));
            let Difference { name, trained, found } = difference;
            let problem = format!("{name}: trained on {trained}, these are {found} (digests {mine} and {other})");
            return Err(Error::argument(what, problem, "use what was made with the same settings"));
        }
        let mut undecided = Vec::new();
        let names: BTreeSet<&String> = self.from.keys().chain(found.from.keys()).collect();
        for name in names {
            match (self.from.get(name), found.from.get(name)) {
                (Some(from), Some(other)) => undecided.extend(from.expect_alike(&format!("{what}.{name}"), other)?),
                (Some(part), None) if part.has_settings() => {
                    undecided.push(format!("{what}.{name}: is not recorded of these, so it was not compared"));
                }
                (None, Some(part)) if part.has_settings() => {
                    undecided.push(format!(
                        "{what}.{name}: is not recorded of those of the training, so it was not compared"
                    ));
                }
                _ => (),
            }
        }
        if !strict {
            undecided.clear();
            undecided.push(match (self.known, found.known) {
                (false, _) => {
                    format!("{what}: how those of the training were made is not recorded, so nothing was compared")
                }
                _ => format!("{what}: how they were made is not recorded, so nothing could be compared"),
            });
        }
        Ok(undecided)
    }

    /// What a pixel of radiographs is, where they say it.
    fn mode(&self) -> Option<&str> {
        self.settings.get("mode").and_then(Value::as_str)
    }

    /// Where one is of real radiographs and both are frontal ones of different views: what is to be said of it, and `found` with the
    /// same view. A real `frontal` one may be either.
    fn other_frontal_view(&self, found: &Provenance) -> Option<(String, Provenance)> {
        let view = |of: &Provenance| of.settings.get("view").and_then(Value::as_str).map(String::from);
        let (trained, other) = (view(self)?, view(found)?);
        let is_frontal = |view: &String| ["ap", "pa", "frontal"].contains(&view.as_str());
        let is_real = [self, found].iter().any(|of| of.mode() == Some(REAL));
        if trained == other || !is_real || ![&trained, &other].into_iter().all(is_frontal) {
            return None;
        }
        let says = format!(
            "view: trained on {trained}, these are {other}: all frontal views of real radiographs are taken for one"
        );
        let mut found = found.clone();
        found.settings.insert("view".into(), json!(trained));
        Some((says, found))
    }

    /// [`Self::expect_alike`] where one is of real radiographs and the other of simulated ones: what they can have in common, with a
    /// remark that no more was compared.
    fn expect_alike_but_real(&self, what: &str, found: &Provenance) -> Result<Undecided> {
        let common = |of: &Provenance| {
            let mut common: Map<String, Value> = of.settings.clone();
            common.retain(|name, _| ["view", "photometric", "size", "pixels"].contains(&name.as_str()));
            common
        };
        if let Some(Difference { name, trained, found: other }) = difference(&common(self), &common(found), false) {
            let digests = [short(&self.digest), short(&found.digest)].join(" and ");
            let problem = format!("{name}: trained on {trained}, these are {other} (digests {digests})");
            return Err(Error::argument(what, problem, "pack them as those of the training are"));
        }
        let kind = |of: &Provenance| match of.mode() {
            Some(REAL) => "real radiographs".to_string(),
            mode => format!("simulated (mode {})", mode.unwrap_or("unknown")),
        };
        Ok(vec![format!(
            "{what}: trained on {}, these are {}: view, size and which end is bright were compared, nothing else can be",
            kind(self),
            kind(found)
        )])
    }

    /// Whether it says how it or any part of it was made.
    fn has_settings(&self) -> bool {
        !self.settings.is_empty() || self.from.values().any(Provenance::has_settings)
    }

    /// What `found`, of a run that goes on, is compared by: the very content.
    ///
    /// # Errors
    /// Names the first setting that differs, or the part whose content does, with both digests.
    pub fn expect_same(&self, what: &str, found: &Provenance) -> Result<Undecided> {
        let hint = "resume with the data the run began with, or begin anew with --restart";
        let undecided = self.expect_alike(what, found).map_err(|e| match e {
            Error::Argument { what, problem, .. } => Error::argument(what, problem, hint),
            other => other,
        })?;
        if self.digest.is_empty() {
            return Ok(undecided);
        }
        match self.changed(found) {
            None => Ok(undecided),
            Some((part, mine, other)) => {
                let of = |p: &Provenance| match p.rows {
                    0 => short(&p.digest).to_string(),
                    n => format!("{n} rows of digest {}", short(&p.digest)),
                };
                let problem = format!("content: the run began on {}, these are {}", of(mine), of(other));
                Err(Error::argument(format!("{what}{part}"), problem, hint))
            }
        }
    }

    /// The deepest part whose content differs, by its name from here, with both.
    fn changed<'a>(&'a self, found: &'a Provenance) -> Option<(String, &'a Provenance, &'a Provenance)> {
        if self.digest.is_empty() || found.digest.is_empty() || self.digest == found.digest {
            return None;
        }
        let deeper = self.from.iter().find_map(|(name, from)| {
            let (part, mine, other) = from.changed(found.from.get(name)?)?;
            Some((format!(".{name}{part}"), mine, other))
        });
        Some(deeper.unwrap_or((String::new(), self, found)))
    }

    /// The reports that the chain begins with ([`of_reports`]), where it names them.
    pub fn reports(&self) -> Option<&Provenance> {
        let reports = self.from.get("reports")?;
        reports.reports().or(Some(reports)).filter(|reports| !reports.digest.is_empty())
    }

    /// Remarks on everything here that does not say how it was made.
    pub fn undecided(&self, what: &str) -> Undecided {
        if !self.known {
            return vec![format!("{what}: how it was made is not recorded")];
        }
        self.from.iter().flat_map(|(name, from)| from.undecided(&format!("{what}.{name}"))).collect()
    }
}

/// What a picture and the radiographs of a training must have in common. Size, pitch and exposure are adapted or vary by patient.
const PICTURE: [&str; 8] = [
    "mode",
    "view",
    "geometry",
    "photometric",
    "positioner_primary_angle",
    "positioner_secondary_angle",
    "rotation_deg",
    "film_width_asked",
];

impl Provenance {
    /// Whether a picture was made as these radiographs were, by what its file says of it
    /// ([`Stored::settings`](crate::ct::image::Stored::settings)).
    ///
    /// # Errors
    /// Names the first setting that differs, with both values and both digests.
    pub fn expect_picture(&self, said: &BTreeMap<String, String>) -> Result<Undecided> {
        if said.is_empty() {
            return Ok(vec!["how it was made is not recorded, so its view and mode were not compared".into()]);
        }
        // Files of earlier versions do not say which end is bright.
        let ours = said.contains_key("mode");
        let text = |name: &str| {
            said.get(name).map(String::as_str).or((ours && name == "photometric").then_some("monochrome2"))
        };
        let found: Map<String, Value> = PICTURE.iter().map(|name| (name.to_string(), json!(text(name)))).collect();
        let mut trained = self.settings.clone();
        trained.retain(|name, _| found.get(name).is_some_and(|found| !found.is_null()));
        if let Some(d) = difference(&trained, &found, false) {
            let theirs = said.get("digest").map_or("unknown", |digest| short(digest));
            let problem =
                format!("trained on {}, this is {} (digests {} and {theirs})", d.trained, d.found, short(&self.digest));
            let hint = "pass a radiograph like those of the training, or --force";
            return Err(Error::argument(d.name, problem, hint));
        }
        Ok(match (ours, self.settings.contains_key("mode")) {
            (_, false) => vec!["how the radiographs of the training were made is not recorded".into()],
            (false, true) => vec!["how it was made is not recorded, so its mode was not compared".into()],
            (true, true) => Vec::new(),
        })
    }
}

/// The first 12 digits of a digest, as messages show it.
pub fn short(digest: &str) -> &str {
    if digest.is_empty() { "unknown" } else { digest.get(..12).unwrap_or(digest) }
}

/// Where two sets of settings differ, with both values as text.
pub struct Difference {
    /// Dotted, such as `preset.window`.
    pub name: String,
    /// The first's.
    pub trained: String,
    /// The second's.
    pub found: String,
}

/// The first setting that differs. One that only one of them has counts if `strict`.
pub fn difference(trained: &Map<String, Value>, found: &Map<String, Value>, strict: bool) -> Option<Difference> {
    let names = trained.keys().chain(found.keys().filter(|name| !trained.contains_key(*name)));
    names.into_iter().find_map(|name| {
        let text = |value: Option<&Value>| match value {
            None => "without".to_string(),
            Some(Value::String(text)) => text.clone(),
            Some(value) => value.to_string(),
        };
        match (trained.get(name), found.get(name)) {
            (a, b) if a == b => None,
            (Some(Value::Object(a)), Some(Value::Object(b))) => {
                let inner = difference(a, b, true)?;
                Some(Difference { name: format!("{name}.{}", inner.name), ..inner })
            }
            (a, b) if strict || (a.is_some() && b.is_some()) => {
                Some(Difference { name: name.clone(), trained: text(a), found: text(b) })
            }
            _ => None,
        }
    })
}

/// A digest of a CT's content: stored values, shape, affine and scaling to HU; not the format or name of its file.
pub fn of_ct(volume: &CtVolume) -> String {
    let mut content = Content::of("CT");
    match &volume.voxels {
        Voxels::I16(values) => content.add(bytemuck::cast_slice::<i16, u8>(values)),
        Voxels::F32(values) => content.add_f32(values),
    }
    let affine = volume.affine.rows().as_flattened().iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
    content.add(format!("{:?} {:?} {:?}", volume.shape, volume.slope, volume.intercept));
    content.add(affine);
    content.digest()
}

/// Reports by their ids and texts, in order.
pub fn of_reports<I: AsRef<str>, T: AsRef<str>>(reports: impl IntoIterator<Item = (I, T)>) -> Provenance {
    let (mut content, mut rows) = (Content::of("reports"), 0);
    for (id, text) in reports {
        content.add(id.as_ref());
        content.add(text.as_ref());
        rows += 1;
    }
    Provenance::made(Default::default(), []).holding(content.digest(), rows)
}

/// A digest of content, piece by piece; no two sequences of pieces have the same.
pub struct Content {
    hasher: blake3::Hasher,
    /// Bytes that the hasher has not taken yet: a run of them costs it a fraction of what short pieces do.
    pending: Vec<u8>,
}

impl Content {
    /// Bytes after which the hasher takes them.
    const RUN: usize = 64 << 10;

    /// An empty content of a kind.
    pub fn of(kind: &str) -> Self {
        Content { hasher: blake3::Hasher::new(), pending: Vec::new() }.and(kind.as_bytes())
    }

    /// With one more piece.
    pub fn and(mut self, bytes: impl AsRef<[u8]>) -> Self {
        self.add(bytes);
        self
    }

    /// Adds one more piece.
    pub fn add(&mut self, bytes: impl AsRef<[u8]>) {
        let bytes = bytes.as_ref();
        self.take(&(bytes.len() as u64).to_le_bytes());
        self.take(bytes);
    }

    fn take(&mut self, bytes: &[u8]) {
        if self.pending.len() + bytes.len() > Self::RUN {
            self.hasher.update(&self.pending);
            self.pending.clear();
        }
        if bytes.len() < Self::RUN {
            self.pending.extend_from_slice(bytes);
        } else {
            self.hasher.update(bytes);
        }
    }

    /// Adds numbers as one piece.
    pub fn add_f32(&mut self, values: &[f32]) {
        self.add(bytemuck::cast_slice::<f32, u8>(values));
    }

    /// Lower-case hex.
    pub fn digest(&self) -> String {
        self.hasher.clone().update(&self.pending).finalize().to_hex().to_string()
    }
}

/// The fields of a JSON object; none of another value.
pub fn fields(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(fields) => fields,
        _ => Map::new(),
    }
}
