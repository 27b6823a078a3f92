//! Random changes of a training radiograph, drawn per image from (seed, epoch, place in the epoch).

use serde::{Deserialize, Serialize};

use super::limits::within;
use crate::Result;
use crate::ops::image::Warp;
use crate::philox::Rng;

/// RandomResizedCrop and ColorJitter as the CXR-CLIP transforms use them on grey images, and a shift. The defaults change
/// nothing; [`Augmentation::cxr_clip`] are the published values (without CLAHE).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Augmentation {
    /// Range of the crop's share of the area; a draw above the whole image is drawn again, ten times at most.
    pub crop_scale: [f32; 2],
    /// Range of the crop's ratio of width to height.
    pub crop_ratio: [f32; 2],
    /// Largest shift, as a share of the side.
    pub shift: f32,
    /// The brightness factor is drawn from 1 +- this.
    pub brightness: f32,
    /// The contrast factor is drawn from 1 +- this, around mid-grey.
    pub contrast: f32,
}

impl Default for Augmentation {
    fn default() -> Self {
        Augmentation { crop_scale: [1.0, 1.0], crop_ratio: [1.0, 1.0], shift: 0.0, brightness: 0.0, contrast: 0.0 }
    }
}

impl Augmentation {
    /// RandomResizedCrop(scale 0.8 to 1.1, ratio 3/4 to 4/3), brightness 0.1, contrast 0.2.
    pub fn cxr_clip() -> Self {
        Augmentation {
            crop_scale: [0.8, 1.1],
            crop_ratio: [0.75, 4.0 / 3.0],
            shift: 0.0,
            brightness: 0.1,
            contrast: 0.2,
        }
    }

    pub(super) fn check(&self) -> Result<()> {
        for (field, [low, high]) in
            [("augmentation.crop_scale", self.crop_scale), ("augmentation.crop_ratio", self.crop_ratio)]
        {
            // A crop is never larger than the image: a scale above 1 alone would change nothing.
            within(field, low, 0.01..=if field.ends_with("scale") { 1.0 } else { 100.0 })?;
            within(field, high, low..=100.0)?;
        }
        within("augmentation.shift", self.shift, 0.0..1.0)?;
        within("augmentation.brightness", self.brightness, 0.0..1.0)?;
        within("augmentation.contrast", self.contrast, 0.0..1.0)
    }

    /// The warp of one image from `source` [H, W] to `output` [H, W].
    pub fn draw(&self, rng: &mut Rng, source: [usize; 2], output: [usize; 2]) -> Warp {
        let (h, w) = (source[0] as f32, source[1] as f32);
        let (mut crop_h, mut crop_w) = (h, w);
        for _ in 0..10 {
            let area = h * w * rng.range(self.crop_scale[0], self.crop_scale[1]);
            let ratio = rng.range(self.crop_ratio[0].ln(), self.crop_ratio[1].ln()).exp();
            let (ch, cw) = ((area / ratio).sqrt(), (area * ratio).sqrt());
            if ch <= h && cw <= w {
                (crop_h, crop_w) = (ch, cw);
                break;
            }
        }
        let top = rng.unit() * (h - crop_h) + self.shift * h * rng.range(-1.0, 1.0);
        let left = rng.unit() * (w - crop_w) + self.shift * w * rng.range(-1.0, 1.0);
        let (sy, sx) = (crop_h / output[0] as f32, crop_w / output[1] as f32);
        let brightness = 1.0 + self.brightness * rng.range(-1.0, 1.0);
        let contrast = 1.0 + self.contrast * rng.range(-1.0, 1.0);
        Warp {
            map: [sx, 0.0, left + 0.5 * sx - 0.5, 0.0, sy, top + 0.5 * sy - 0.5],
            gain: brightness * contrast,
            offset: 0.5 * (1.0 - contrast),
        }
    }
}
