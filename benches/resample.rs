use x2ct::autograd::Op;
use x2ct::ct::{Affine, AxisCodes, Preset};
use x2ct::ops::resample::{Resample, Variant};
use x2ct::ops::volume::DeviceVolume;
use x2ct::tensor::{DType, Tensor};
use x2ct::{Device, Result};

use super::{Case, Each, random, small};

pub fn cases(device: &Device, each: &mut Each) -> Result<()> {
    // A chest CT to CT-CLIP's input; on a processor an eighth of each side.
    let k = if small(device) { 8 } else { 1 };
    let shape = [512 / k, 512 / k, 304 / k];
    let n: usize = shape.iter().product();
    let hu: Vec<i16> = random(1, n).iter().map(|v| (v * 1500.0) as i16).collect();
    let affine = Affine::centred(AxisCodes::LPS, [0.7, 0.7, 1.0], shape)?;
    let preset = Preset { size: Some([480 / k, 480 / k, 240 / k]), ..Preset::ct_clip_v2() };
    for variant in [Variant::Naive, Variant::Strips] {
        for dtype in [DType::F32, DType::Bf16] {
            let op = Resample { variant, ..preset.operator(shape, &affine, dtype)? };
            let volume = DeviceVolume::from_i16(device, &hu, shape, (1.0, 0.0))?;
            let out: usize = op.size.iter().product();
            each(Case {
                family: "resample",
                name: format!("{variant:?} CT-CLIP input from {shape:?} int16 to {}", dtype.name()),
                bytes: (n * 2 + out * dtype.size()) as u64,
                flops: 0,
                run: Box::new(move || op.apply(&volume).map(drop)),
            })?;
        }
    }
    let op = preset.operator(shape, &affine, DType::F32)?;
    let x = Tensor::from_slice(device, [shape[2], shape[1], shape[0]], DType::F32, &random(2, n))?;
    let (out, context) = op.forward(&[&x])?;
    let gradient = Tensor::empty(device, x.shape(), DType::F32, "gradient")?;
    each(Case {
        family: "resample",
        name: format!("gradient of {shape:?} f32"),
        bytes: (n * 8 + out.bytes() * 2) as u64,
        flops: 0,
        run: Box::new(move || op.gradient(&context, &out, &gradient, x2ct::kernels::Write::Overwrite)),
    })?;
    Ok(())
}
