use x2ct::autograd::Tape;
use x2ct::ops::attention::{PackedAttention, Variant};
use x2ct::tensor::{DType, Tensor};
use x2ct::{Device, Result};

use super::{Case, Each, random, size};

pub fn cases(device: &Device, each: &mut Each) -> Result<()> {
    // The third stage of a small volume: heads of 32, packed tokens.
    let [n, heads, tokens, d] = [size(device, 8, 1), size(device, 12, 2), size(device, 2048, 256), 32];
    for dtype in [DType::F32, DType::Bf16] {
        for variant in [Variant::Naive, Variant::Tiled] {
            if variant == Variant::Naive && !device.is_host() {
                continue; // minutes
            }
            let values = n * tokens * heads * d;
            let x = Tensor::from_slice(device, [n, tokens, 3 * heads * d], dtype, &random(1, 3 * values))?;
            let dy = Tensor::from_slice(device, [n, tokens, heads * d], dtype, &random(2, values))?;
            let op = PackedAttention { heads, variant: Some(variant) };
            let name = |pass: &str| format!("{pass} {variant:?} [{n}, {heads}, {tokens}, {d}] {}", dtype.name());
            let (bytes, rows) = ((values * dtype.size()) as u64, (n * heads * tokens * 4) as u64);
            let products = (n * heads * tokens * tokens * d) as u64;
            let input = x.clone();
            each(Case {
                family: "attention",
                name: name("forward"),
                bytes: 4 * bytes + rows,
                flops: 2 * 2 * products,
                run: Box::new(move || {
                    let tape = Tape::inference();
                    tape.apply(op, &[&tape.constant(&input)]).map(drop)
                }),
            })?;
            each(Case {
                family: "attention",
                name: name("forward and backward"),
                // The tape copies dy; delta reads o and dy; the two passes read q, k, v and dy and write one and two gradients.
                bytes: (4 + 2 + 2 + 5 + 6) * bytes + 8 * rows,
                flops: 2 * 9 * products,
                run: Box::new(move || {
                    let tape = Tape::recording();
                    let o = tape.apply(op, &[&tape.leaf(&x)])?;
                    tape.backward_from(&[(&o, &dy)]).map(drop)
                }),
            })?;
        }
    }
    Ok(())
}
