//! A data set's radiographs in one file: 8 bits a pixel, one size, mapped rather than read.
//!
//! # Format `x2ct-radiographs-1`
//! An [`Archive`] with the tensor `image` [N, H, W] u8 (each radiograph's minimum and maximum stretched to 0 and 255, as
//! X2CT-CLIP stores them; `image[0,0]` is superior and the patient's right) and the metadata `ids` (JSON array of N
//! distinct strings), `source` (what they were made of and how, JSON) and `preprocessing_digest` (BLAKE3 of `source`).

use std::collections::HashSet;
use std::path::Path;

use serde_json::json;

use crate::archive::Archive;
use crate::{Error, Result};

const FORMAT: &str = "x2ct-radiographs-1";

/// Radiographs of one size with their ids.
pub struct RadiographSet {
    ids: Vec<String>,
    size: [usize; 2],
    source: serde_json::Value,
    pixels: Pixels,
}

enum Pixels {
    Owned(Vec<u8>),
    Mapped(Archive),
}

impl RadiographSet {
    /// `pixels` is [ids, H, W]; `source` says what they were made of and how.
    pub fn new(ids: Vec<String>, size: [usize; 2], pixels: Vec<u8>, source: serde_json::Value) -> Result<Self> {
        if pixels.len() != ids.len() * size[0] * size[1] || pixels.is_empty() {
            let problem = format!("{} bytes for {} images of {} x {}", pixels.len(), ids.len(), size[0], size[1]);
            return Err(Error::argument("radiographs", problem, "pass one byte a pixel, and at least one image"));
        }
        check_distinct(&ids)
            .map_err(|id| Error::argument("radiographs", format!("the id {id} occurs twice"), "name each once"))?;
        Ok(RadiographSet { ids, size, source, pixels: Pixels::Owned(pixels) })
    }

    /// Minimum and maximum stretched to 0 and 255, truncated; a constant image is all 0.
    pub fn to_bytes(image: &[f32]) -> Vec<u8> {
        let (low, high) = image.iter().fold((f32::INFINITY, f32::NEG_INFINITY), |(l, h), &x| (l.min(x), h.max(x)));
        let scale = if high > low { 255.0 / (high - low) } else { 0.0 };
        image.iter().map(|&x| ((x - low) * scale) as u8).collect()
    }

    /// An image [H, W] at another size: the shorter side (relative to the new ones) resized to fit, the centre kept, as
    /// CXR-CLIP's evaluation transform does (torchvision's Resize with antialias, CenterCrop).
    pub fn fit(image: &[u8], from: [usize; 2], to: [usize; 2]) -> Vec<u8> {
        let [h, w] = from;
        // Resized to [to[0], trunc(w to[0] / h)] where that is wide enough, else the other way round.
        let resized = if w * to[0] >= h * to[1] { [to[0], w * to[0] / h] } else { [h * to[1] / w, to[1]] };
        let cut = |axis: usize| ((resized[axis] - to[axis]) as f64 / 2.0).round_ties_even() as usize;
        let [rows, columns] = [0, 1].map(|axis| {
            let (first, scale) = (cut(axis), from[axis] as f64 / resized[axis] as f64);
            (first..first + to[axis]).map(|i| Taps::triangle(i, scale, from[axis])).collect::<Vec<_>>()
        });
        let across: Vec<f32> = image.chunks_exact(w).flat_map(|row| columns.iter().map(|t| t.of(row, 1))).collect();
        let pixel = |row: &Taps, x: usize| row.of(&across[x..], to[1]).round() as u8;
        rows.iter().flat_map(|row| (0..to[1]).map(move |x| pixel(row, x))).collect()
    }

    /// Maps a file and verifies it.
    pub fn read(path: &Path) -> Result<Self> {
        let archive = Archive::read(path, FORMAT, "radiographs", "make the radiographs again")?;
        let ids: Vec<String> = archive.get_json("ids")?;
        let source = archive.get_json("source")?;
        let (shape, _) = archive.u8("image")?;
        let &[n, h, w] = shape else {
            return Err(Error::file(
                path,
                format!("image has the shape {shape:?}, not [N, H, W]"),
                "make the radiographs again",
            ));
        };
        if n != ids.len() || n * h * w == 0 {
            let problem = format!("image has the shape {shape:?} for {} ids", ids.len());
            return Err(Error::file(path, problem, "make the radiographs again"));
        }
        check_distinct(&ids)
            .map_err(|id| Error::file(path, format!("the id {id} occurs twice"), "make the radiographs again"))?;
        Ok(RadiographSet { ids, size: [h, w], source, pixels: Pixels::Mapped(archive) })
    }

    /// Writes the file, whole or not at all.
    pub fn write(&self, path: &Path) -> Result<()> {
        let mut archive = Archive::new(FORMAT);
        archive.set("ids", json!(self.ids).to_string());
        archive.set("source", self.source.to_string());
        archive.set("preprocessing_digest", self.preprocessing_digest());
        archive.put_u8("image", &[self.ids.len(), self.size[0], self.size[1]], self.pixels());
        archive.write(path)
    }

    /// One id a radiograph, in order.
    pub fn ids(&self) -> &[String] {
        &self.ids
    }

    /// Height and width.
    pub fn size(&self) -> [usize; 2] {
        self.size
    }

    /// What the radiographs were made of and how.
    pub fn source(&self) -> &serde_json::Value {
        &self.source
    }

    /// BLAKE3 of [`Self::source`], lower-case hex.
    pub fn preprocessing_digest(&self) -> String {
        blake3::hash(self.source.to_string().as_bytes()).to_hex().to_string()
    }

    /// [ids, H, W], row-major.
    pub fn pixels(&self) -> &[u8] {
        match &self.pixels {
            Pixels::Owned(bytes) => bytes,
            Pixels::Mapped(archive) => archive.u8("image").map(|(_, data)| data).unwrap_or_default(),
        }
    }

    /// One radiograph.
    pub fn image(&self, index: usize) -> &[u8] {
        let area = self.size[0] * self.size[1];
        &self.pixels()[index * area..(index + 1) * area]
    }
}

/// The input samples of one output sample, with weights that sum to 1.
struct Taps {
    first: usize,
    weights: Vec<f32>,
}

impl Taps {
    /// A triangle as wide as the output sample, never narrower than an input sample; `scale` is input over output.
    fn triangle(i: usize, scale: f64, n: usize) -> Self {
        let (centre, half) = ((i as f64 + 0.5) * scale, scale.max(1.0));
        let first = (centre - half + 0.5).max(0.0) as usize;
        let end = ((centre + half + 0.5) as usize).min(n);
        let weight = |j: usize| (1.0 - ((j as f64 + 0.5 - centre) / half).abs()).max(0.0);
        let sum: f64 = (first..end).map(weight).sum();
        Taps { first, weights: (first..end).map(|j| (weight(j) / sum) as f32).collect() }
    }

    fn of<T: Copy + Into<f32>>(&self, samples: &[T], stride: usize) -> f32 {
        self.weights.iter().enumerate().map(|(k, w)| w * samples[(self.first + k) * stride].into()).sum()
    }
}

fn check_distinct(ids: &[String]) -> Result<(), &str> {
    let mut seen = HashSet::new();
    ids.iter().find(|id| !seen.insert(id.as_str())).map_or(Ok(()), |id| Err(id))
}
