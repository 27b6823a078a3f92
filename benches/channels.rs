use x2ct::autograd::{Op, Tape};
use x2ct::ops::channels::{BiasGelu, LayerScale};
use x2ct::tensor::{DType, Tensor};
use x2ct::{Device, Result};

use super::{Case, Each, random, size};

pub fn cases(device: &Device, each: &mut Each) -> Result<()> {
    // The hidden layer of DCFormer-tiny's first stage, batch 8.
    let shape = [size(device, 8, 2), size(device, 384, 48), size(device, 131_072, 8192)];
    let n: usize = shape.iter().product();
    for dtype in [DType::F32, DType::Bf16] {
        let wide = |seed| Tensor::from_slice(device, shape, dtype, &random(seed, n));
        let vector = |seed| Tensor::from_slice(device, [shape[1]], DType::F32, &random(seed, shape[1]));
        let (x, residual, dy, bias, gamma) = (wide(1)?, wide(2)?, wide(3)?, vector(4)?, vector(5)?);
        let bytes = (n * dtype.size()) as u64;
        let name = |what: &str| format!("{what} {shape:?} {}", dtype.name());
        let (gelu_x, gelu_bias) = (x.clone(), bias.clone());
        each(Case {
            family: "channels",
            name: name("bias_gelu forward and backward"),
            // x, y; x, dy, dx; the tape copies dy.
            bytes: 7 * bytes,
            flops: 0,
            run: Box::new({
                let dy = dy.clone();
                move || {
                    let tape = Tape::recording();
                    let leaves = [tape.leaf(&gelu_x), tape.leaf(&gelu_bias)];
                    let y = tape.apply(BiasGelu, &[&leaves[0], &leaves[1]])?;
                    tape.backward_from(&[(&y, &dy)]).map(drop)
                }
            }),
        })?;
        each(Case {
            family: "channels",
            name: name("layer_scale forward"),
            bytes: 3 * bytes,
            flops: 0,
            run: Box::new(move || LayerScale.forward(&[&residual, &x, &gamma, &bias]).map(drop)),
        })?;
    }
    Ok(())
}
