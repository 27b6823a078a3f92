//! Radiographs to network input: geometry and launch. See `kernels/image/image.cu`.

use super::{DType, Grid, Launcher};
use crate::Result;

include!(concat!(env!("OUT_DIR"), "/abi/image.rs"));

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
        PixelType::U8 => &BATCH,
        PixelType::Bf16 => &BATCH_16,
    };
    let per_block = launcher.config(kernel.of(dtype))?.tile[0] as usize;
    unsafe { kernel.launch(launcher, dtype, Grid::covering(pixels, per_block), params) }
}
