use x2ct::autograd::Tape;
use x2ct::ops::attention::{PackedAttention, Variant};
use x2ct::tensor::{DType, Tensor};
use x2ct::{Device, Result};

use super::{Case, Each, brief, random, small};

pub fn cases(device: &Device, each: &mut Each) -> Result<()> {
    // The third stage of a small volume: heads of 32, packed tokens; the heads of 64 of a vision transformer.
    let sizes: &[[usize; 4]] = match (brief(), small(device)) {
        (true, _) => &[[1, 2, 256, 32], [1, 2, 256, 64]],
        (_, true) => &[[1, 2, 256, 32]],
        _ => &[[8, 12, 2048, 32], [8, 12, 256, 64]],
    };
    sizes.iter().try_for_each(|&size| layer(device, size, each))
}

fn layer(device: &Device, [n, heads, tokens, d]: [usize; 4], each: &mut Each) -> Result<()> {
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
