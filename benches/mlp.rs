use x2ct::autograd::{Tape, Var};
use x2ct::ops::channels::{BiasGelu, LayerScale, PointwiseConv};
use x2ct::ops::gemm::Method;
use x2ct::ops::mlp::{Hidden, Mlp};
use x2ct::tensor::{DType, Tensor};
use x2ct::{Device, Result};

use super::{Case, Each, brief, method, random, size};

/// The channel MLP of DCFormer-tiny's first stage, batch 8: forward and backward, as one operator and as its parts.
pub fn cases(device: &Device, each: &mut Each) -> Result<()> {
    let [n, c, v] =
        [size(device, 8, 2), size(device, 96, 48), size(device, 131_072, if brief() { 2048 } else { 8192 })];
    let (h, wide) = (4 * c, n * c * v);
    let method = method(device);
    for dtype in [DType::F32, DType::Bf16] {
        let volumes = |seed| Tensor::from_slice(device, [n, c, v], dtype, &random(seed, wide));
        let parameter = |seed, shape: &[usize]| {
            Tensor::from_slice(device, shape, DType::F32, &random(seed, shape.iter().product()))
        };
        let inputs = [
            volumes(1)?,
            volumes(2)?,
            parameter(3, &[h, c])?,
            parameter(4, &[h])?,
            parameter(5, &[c, h])?,
            parameter(6, &[c])?,
            parameter(7, &[c])?,
        ];
        let dy = volumes(8)?;
        let element = dtype.size() as u64;
        // Elements of a layer like x, and of a hidden layer. As one operator: x, u, y; dy, dx, du; W1 u, its activation and their
        // gradient written and read between products. Parts: each also writes what it hands on, and the tape copies dy.
        let (layer, hidden) = (wide as u64 * element, (n * h * v) as u64 * element);
        let flops = |products: u64| 2 * products * (wide * h) as u64;
        let mut add =
            |name: &str, bytes: u64, flops: u64, build: fn(&Tape, &[Var], Method) -> Result<Var>| -> Result<()> {
                let (inputs, dy) = (inputs.clone(), dy.clone());
                let run = Box::new(move || {
                    let tape = Tape::recording();
                    let leaves: Vec<Var> = inputs.iter().map(|t| tape.leaf(t)).collect();
                    let y = build(&tape, &leaves, method)?;
                    tape.backward_from(&[(&y, &dy)]).map(drop)
                });
                let name = format!("{name} {n}x{c}x{v} {}", dtype.name());
                each(Case { family: "mlp", name, bytes, flops, run })
            };
        add("mlp forward and backward", 11 * layer + 10 * hidden, flops(6), |tape, inputs, method| {
            tape.apply(Mlp::new(method), &inputs.iter().collect::<Vec<_>>())
        })?;
        add("mlp, hidden recomputed", 12 * layer + 11 * hidden, flops(7), |tape, inputs, method| {
            let op = Mlp { hidden: Hidden::Recomputed, ..Mlp::new(method) };
            tape.apply(op, &inputs.iter().collect::<Vec<_>>())
        })?;
        add("mlp in parts", 17 * layer + 11 * hidden, flops(6), |tape, inputs, method| {
            let [x, u, w1, b1, w2, b2, gamma] = inputs else { unreachable!("seven inputs are made above") };
            let conv = PointwiseConv { method };
            let y = tape.apply(conv, &[u, w1])?;
            let y = tape.apply(BiasGelu, &[&y, b1])?;
            let y = tape.apply(conv, &[&y, w2])?;
            tape.apply(LayerScale, &[x, &y, gamma, b2])
        })?;
    }
    Ok(())
}
