use x2ct::autograd::Tape;
use x2ct::ops::depthwise_conv3d::{DepthwiseConv3d, Variant};
use x2ct::tensor::{DType, Tensor};
use x2ct::{Device, Result};

use super::{Case, Each, random, size};

pub fn cases(device: &Device, each: &mut Each) -> Result<()> {
    // The first stage of DCFormer-tiny at 512 x 512 x 256, batch 8.
    let n = size(device, 8, 1);
    let shape = [n, size(device, 96, 4), size(device, 64, 16), size(device, 64, 16), size(device, 32, 16)];
    let numel: usize = shape.iter().product();
    for (dtype, k) in [(DType::F32, 7), (DType::Bf16, 7), (DType::F32, 13)] {
        for variant in [Variant::Naive, Variant::Patches] {
            let c = shape[1];
            let x = Tensor::from_slice(device, shape, dtype, &random(1, numel))?;
            let dy = Tensor::from_slice(device, shape, dtype, &random(2, numel))?;
            let w = Tensor::from_slice(device, [c, k, k, k], DType::F32, &random(3, c * k * k * k))?;
            let bias = Tensor::from_slice(device, [c], DType::F32, &random(4, c))?;
            let op = DepthwiseConv3d { variant: Some(variant) };
            let name = |pass: &str| format!("{pass} k{k} {variant:?} {shape:?} {}", dtype.name());
            let (bytes, products) = ((numel * dtype.size()) as u64, (numel * k * k * k) as u64);
            let inputs = [x, w, bias];
            let given = inputs.clone();
            each(Case {
                family: "depthwise_conv3d",
                name: name("forward"),
                bytes: 2 * bytes,
                flops: 2 * products,
                run: Box::new(move || {
                    let tape = Tape::inference();
                    let [x, w, bias] = given.each_ref().map(|t| tape.constant(t));
                    tape.apply(op, &[&x, &w, &bias]).map(drop)
                }),
            })?;
            if variant == Variant::Naive {
                continue; // one thread a tap goes through the whole batch
            }
            each(Case {
                family: "depthwise_conv3d",
                name: name("forward and backward"),
                // The tape copies dy; dx reads dy and writes dx; dw reads both.
                bytes: (2 + 2 + 2 + 2) * bytes,
                flops: 2 * 3 * products,
                run: Box::new(move || {
                    let tape = Tape::recording();
                    let [x, w, bias] = inputs.each_ref().map(|t| tape.leaf(t));
                    let y = tape.apply(op, &[&x, &w, &bias])?;
                    tape.backward_from(&[(&y, &dy)]).map(drop)
                }),
            })?;
        }
    }
    Ok(())
}
