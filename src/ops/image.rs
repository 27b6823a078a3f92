//! Radiographs to network input, in one kernel: no gradient, since pixels are not trained.

use crate::device::{Buffer, Device};
use crate::kernels::image as kernel;
pub use crate::kernels::image::PixelType;
use crate::tensor::{DType, Tensor};
use crate::{Error, Result};

/// Per-channel normalisation of pixel values in [0, 1].
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Normalization {
    /// Subtracted.
    pub mean: [f32; 3],
    /// Divided by.
    pub std: [f32; 3],
}

impl Normalization {
    /// ImageNet's, which torchvision's ResNets expect.
    pub const IMAGENET: Normalization = Normalization { mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225] };
    /// Mean and deviation 0.5, which Swin and ViT checkpoints expect.
    pub const HALF: Normalization = Normalization { mean: [0.5; 3], std: [0.5; 3] };
}

/// How one row of a batch is made from its radiograph.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Warp {
    /// Source pixel of output pixel (x, y): `(m[0] x + m[1] y + m[2], m[3] x + m[4] y + m[5])`, centres at integers.
    pub map: [f32; 6],
    /// Multiplies the pixel value in [0, 1].
    pub gain: f32,
    /// Added to it.
    pub offset: f32,
}

impl Warp {
    /// Resizes `source` [H, W] to `output` [H, W], aligned as PyTorch's bilinear with `align_corners=False`.
    pub fn resize(source: [usize; 2], output: [usize; 2]) -> Self {
        let (sy, sx) = (source[0] as f32 / output[0] as f32, source[1] as f32 / output[1] as f32);
        Warp { map: [sx, 0.0, 0.5 * sx - 0.5, 0.0, sy, 0.5 * sy - 0.5], gain: 1.0, offset: 0.0 }
    }
}

/// Radiographs of one size in device memory.
pub struct ImageSet {
    pixels: Buffer,
    count: usize,
    size: [usize; 2],
    pixel: PixelType,
}

impl ImageSet {
    /// Copies `pixels` (u8, [count, H, W]) to the device.
    pub fn new(device: &Device, pixels: &[u8], size: [usize; 2]) -> Result<Self> {
        let area = size[0] * size[1];
        if area == 0 || pixels.is_empty() || !pixels.len().is_multiple_of(area) {
            let problem = format!("{} bytes are not a whole number of {} x {} images", pixels.len(), size[0], size[1]);
            return Err(Error::argument("radiographs", problem, "pass at least one image of that size"));
        }
        let mut images = Self::empty(device, pixels.len() / area, size, PixelType::U8)?;
        images.put(0, pixels)?;
        Ok(images)
    }

    /// Room for `count` radiographs [H, W], to be filled by [`Self::put`].
    pub fn empty(device: &Device, count: usize, size: [usize; 2], pixel: PixelType) -> Result<Self> {
        let bytes = count * size[0] * size[1] * pixel.bytes();
        if bytes == 0 {
            let problem = format!("{count} images of {} x {} pixels", size[0], size[1]);
            return Err(Error::argument("radiographs", problem, "pass at least one image of at least one pixel"));
        }
        Ok(ImageSet { pixels: device.alloc(bytes, "radiographs")?, count, size, pixel })
    }

    /// Copies the stored bytes of whole radiographs to the places from `first` on.
    pub fn put(&mut self, first: usize, bytes: &[u8]) -> Result<()> {
        let each = self.size[0] * self.size[1] * self.pixel.bytes();
        if !bytes.len().is_multiple_of(each) || first + bytes.len() / each > self.count {
            let problem = format!("{} bytes from image {first} on, in a set of {}", bytes.len(), self.count);
            return Err(Error::argument("radiographs", problem, "pass whole images that have a place"));
        }
        self.pixels.upload(first * each, bytes)
    }

    /// How many radiographs.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Never: an empty set is refused.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Height and width of a radiograph.
    pub fn size(&self) -> [usize; 2] {
        self.size
    }

    /// The batch [N, H, W, 3] of the radiographs `rows`, each by its warp, as `dtype`.
    pub fn batch(&self, rows: &[(u32, Warp)], output: [usize; 2], norm: Normalization, dtype: DType) -> Result<Tensor> {
        if rows.is_empty() {
            return Err(Error::argument("batch", "has no rows", "use a batch of at least one radiograph"));
        }
        if let Some((row, _)) = rows.iter().find(|(row, _)| *row as usize >= self.count) {
            let problem = format!("row {row} of a set of {} radiographs", self.count);
            return Err(Error::argument("batch", problem, "name rows that exist"));
        }
        let device = self.pixels.device();
        let index: Vec<u32> = rows.iter().map(|(row, _)| *row).collect();
        let warp: Vec<f32> = rows.iter().flat_map(|(_, w)| w.map.into_iter().chain([w.gain, w.offset])).collect();
        let (index_buffer, warp_buffer) =
            (device.alloc(index.len() * 4, "batch index")?, device.alloc(warp.len() * 4, "warps")?);
        index_buffer.upload(0, bytemuck::cast_slice(&index))?;
        warp_buffer.upload(0, bytemuck::cast_slice(&warp))?;
        let out = Tensor::empty(device, [rows.len(), output[0], output[1], 3], dtype, "images")?;
        let params = kernel::ImageParams {
            source: self.pixels.ptr(),
            index: index_buffer.ptr(),
            warp: warp_buffer.ptr(),
            out: out.ptr(),
            n: rows.len() as u32,
            h0: self.size[0] as u32,
            w0: self.size[1] as u32,
            h: output[0] as u32,
            w: output[1] as u32,
            mean: norm.mean,
            inv_std: norm.std.map(|s| 1.0 / s),
        };
        // Safety: the buffers have the extents stated, the indices were checked; frees are ordered behind the launch.
        unsafe { kernel::launch(device.launcher(), self.pixel, dtype, &params)? };
        Ok(out)
    }
}
