//! From a radiograph of any size and range to the pixels that are stored: stretched to the range of the pixel type, resized so
//! that the shorter side fits, the centre kept.

use half::bf16;

use crate::ops::image::PixelType;

/// Minimum and maximum stretched to 0 and 255, truncated, as X2CT-CLIP stores radiographs; a constant image is all 0.
pub fn to_bytes(image: &[f32]) -> Vec<u8> {
    stretch(image, 255.0).map(|x| x as u8).collect()
}

/// An image [H, W] at another size: the shorter side (relative to the new ones) resized to fit, the centre kept, as
/// CXR-CLIP's evaluation transform does (torchvision's Resize with antialias, CenterCrop); rounded.
pub fn fit(image: &[u8], from: [usize; 2], to: [usize; 2]) -> Vec<u8> {
    resize(image, from, to).into_iter().map(|v| v.round() as u8).collect()
}

/// The stored bytes of a radiograph [H, W] of any range, fitted to `to` [H, W].
///
/// - [`PixelType::U8`]: [`to_bytes`], then [`fit`]: what X2CT-CLIP's encoder sees.
/// - [`PixelType::Bf16`]: minimum and maximum stretched to 0 and 1, resized likewise in f32, rounded to nearest even once.
pub fn encode(image: &[f32], from: [usize; 2], to: [usize; 2], pixel: PixelType) -> Vec<u8> {
    match pixel {
        PixelType::U8 => fit(&to_bytes(image), from, to),
        PixelType::Bf16 => {
            let unit: Vec<f32> = stretch(image, 1.0).collect();
            resize(&unit, from, to).into_iter().flat_map(|v| bf16::from_f32(v).to_le_bytes()).collect()
        }
    }
}

/// Stored bytes as grey in [0, 1].
pub fn decode(bytes: &[u8], pixel: PixelType) -> Vec<f32> {
    match pixel {
        PixelType::U8 => bytes.iter().map(|&v| f32::from(v) / 255.0).collect(),
        PixelType::Bf16 => bytes.as_chunks::<2>().0.iter().map(|&b| bf16::from_le_bytes(b).to_f32()).collect(),
    }
}

fn stretch(image: &[f32], to: f32) -> impl Iterator<Item = f32> {
    let (low, high) = image.iter().fold((f32::INFINITY, f32::NEG_INFINITY), |(l, h), &x| (l.min(x), h.max(x)));
    let scale = if high > low { to / (high - low) } else { 0.0 };
    image.iter().map(move |&x| (x - low) * scale)
}

fn resize<T: Copy + Into<f32>>(image: &[T], from: [usize; 2], to: [usize; 2]) -> Vec<f32> {
    let [h, w] = from;
    // Resized to [to[0], trunc(w to[0] / h)] where that is wide enough, else the other way round.
    let resized = if w * to[0] >= h * to[1] { [to[0], w * to[0] / h] } else { [h * to[1] / w, to[1]] };
    let cut = |axis: usize| ((resized[axis] - to[axis]) as f64 / 2.0).round_ties_even() as usize;
    let [rows, columns] = [0, 1].map(|axis| {
        let (first, scale) = (cut(axis), from[axis] as f64 / resized[axis] as f64);
        (first..first + to[axis]).map(|i| Taps::triangle(i, scale, from[axis])).collect::<Vec<_>>()
    });
    let across: Vec<f32> = image.chunks_exact(w).flat_map(|row| columns.iter().map(|t| t.of(row, 1))).collect();
    rows.iter().flat_map(|row| (0..to[1]).map(|x| row.of(&across[x..], to[1]))).collect()
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
