//! Radiographs to network input: geometry and launch. See `kernels/image.cu`.

use super::{DType, DevicePtr, Grid, Launcher, kernels};
use crate::Result;

kernels! {
    family "image" slot 11;

    params {
        /// A batch of network input.
        ImageParams {
            /// Radiographs, each h0 x w0: u8 from 0 to 255 or bf16 from 0 to 1.
            source: DevicePtr,
            /// u32 per row of the batch: which radiograph.
            index: DevicePtr,
            /// f32 \[n, 8\]: map from output to source pixel, gain, offset.
            warp: DevicePtr,
            /// \[n, h, w, 3\].
            out: DevicePtr,
            /// Rows of the batch.
            n: u32,
            /// Source height.
            h0: u32,
            /// Source width.
            w0: u32,
            /// Output height.
            h: u32,
            /// Output width.
            w: u32,
            /// Per channel.
            mean: [f32; 3],
            /// Per channel, reciprocal.
            inv_std: [f32; 3],
        }
    }

    kernels {
        /// Gather, warp, jitter, replicate, normalise; u8 radiographs.
        IMAGE_BATCH(ImageParams) = [image_batch_f32, image_batch_bf16];
        /// The same of bf16 radiographs.
        IMAGE_BATCH_16(ImageParams) = [image_batch_16_f32, image_batch_16_bf16];
    }
}

/// How a pixel of a radiograph is stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PixelType {
    /// 0 to 255.
    #[default]
    U8,
    /// 0 to 1.
    Bf16,
}

impl PixelType {
    /// Bytes a pixel.
    pub fn bytes(self) -> usize {
        match self {
            PixelType::U8 => 1,
            PixelType::Bf16 => 2,
        }
    }
}

/// Fills `params.out`.
///
/// # Safety
/// `index` and `warp` hold `n` rows, every index names a radiograph inside the one at `params.source`, which is of
/// type `source`, `out` holds `n * h * w * 3` elements
/// of `dtype`; all are valid until the launch has completed on the launcher's stream. `h0`, `w0` are not 0.
pub unsafe fn launch(launcher: &dyn Launcher, source: PixelType, dtype: DType, params: &ImageParams) -> Result<()> {
    let pixels = params.n as usize * params.h as usize * params.w as usize;
    if pixels == 0 {
        return Ok(());
    }
    let kernel = match source {
        PixelType::U8 => &IMAGE_BATCH,
        PixelType::Bf16 => &IMAGE_BATCH_16,
    };
    let per_block = launcher.config(kernel.of(dtype))?.tile[0] as usize;
    unsafe { kernel.launch(launcher, dtype, Grid::covering(pixels, per_block), params) }
}
