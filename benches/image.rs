use x2ct::ops::image::{ImageSet, Normalization, Warp};
use x2ct::tensor::DType;
use x2ct::{Device, Result};

use super::{Case, Each, random, size};

pub fn cases(device: &Device, each: &mut Each) -> Result<()> {
    let (n, side) = (size(device, 360, 8), 224);
    let pixels: Vec<u8> = random(1, n * side * side).iter().map(|x| (127.0 * (x + 1.0)) as u8).collect();
    for dtype in [DType::F32, DType::Bf16] {
        let set = ImageSet::new(device, &pixels, [side, side])?;
        let warp = Warp { map: [0.9, 0.05, 3.0, -0.05, 0.9, 3.0], gain: 1.1, offset: 0.0 };
        let rows: Vec<(u32, Warp)> = (0..n as u32).map(|i| (i, warp)).collect();
        each(Case {
            family: "image",
            name: format!("batch {n}x{side}x{side} {}", dtype.name()),
            bytes: (n * side * side * (1 + 3 * dtype.size())) as u64,
            flops: 0,
            run: Box::new(move || set.batch(&rows, [side, side], Normalization::IMAGENET, dtype).map(drop)),
        })?;
    }
    Ok(())
}
