use x2ct::autograd::{Op, Tape};
use x2ct::ops::bce::BceWithLogits;
use x2ct::tensor::{DType, Tensor};
use x2ct::{Device, Result};

use super::{Case, Each, random, size};

pub fn cases(device: &Device, each: &mut Each) -> Result<()> {
    // CT-RATE's 18 labels, of as many rows as do not fit into a cache.
    let sizes @ [rows, classes] = [size(device, 1 << 22, 1 << 15), 18];
    let n = rows * classes;
    let labels: Vec<f32> = random(2, n).iter().map(|&v| (v > 0.6) as u8 as f32).collect();
    let labels = Tensor::from_slice(device, sizes, DType::F32, &labels)?;
    let weight: Vec<f32> = random(3, classes).iter().map(|v| 3.0 + 2.0 * v).collect();
    let op = BceWithLogits { pos_weight: Some(Tensor::from_slice(device, [classes], DType::F32, &weight)?) };
    for dtype in [DType::F32, DType::Bf16] {
        let logits = Tensor::from_slice(device, sizes, dtype, &random(1, n))?;
        let (x, t) = ((n * dtype.size()) as u64, 4 * n as u64);
        let name = |what: &str| format!("{what} {sizes:?} {}", dtype.name());
        each(Case {
            family: "bce",
            name: name("forward"),
            bytes: x + t,
            flops: 0,
            run: Box::new({
                let (op, logits, labels) = (op.clone(), logits.clone(), labels.clone());
                move || op.forward(&[&logits, &labels]).map(drop)
            }),
        })?;
        each(Case {
            family: "bce",
            name: name("forward and backward"),
            // x, t; x, t, dx.
            bytes: 2 * (x + t) + x,
            flops: 0,
            run: Box::new({
                let (op, labels) = (op.clone(), labels.clone());
                move || {
                    let tape = Tape::recording();
                    let loss = tape.apply(op.clone(), &[&tape.leaf(&logits), &tape.constant(&labels)])?;
                    tape.backward(&loss).map(drop)
                }
            }),
        })?;
    }
    Ok(())
}
