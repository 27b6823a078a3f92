use x2ct::ops::optim::{AdamW, Group, Hyper};
use x2ct::tensor::{DType, Tensor};
use x2ct::{Device, Result};

use super::{Case, Each, random, size};

pub fn cases(device: &Device, each: &mut Each) -> Result<()> {
    // ResNet-50's parameters; every other 2^18 without weight decay, as norms and biases would be.
    let n = size(device, 25_557_032, 1 << 20);
    let groups: Vec<Group> = (0..n.div_ceil(1 << 18))
        .map(|i| {
            let (begin, end) = (i << 18, ((i + 1) << 18).min(n));
            Group { begin, end, weight_decay: if i % 2 == 0 { 0.05 } else { 0.0 }, lr_scale: 1.0 }
        })
        .collect();
    for with_copy in [false, true] {
        let tensor = |seed| Tensor::from_slice(device, [n], DType::F32, &random(seed, n));
        let gradients = tensor(2)?;
        let hyper = Hyper { max_norm: Some(1.0), ..Hyper::default() };
        let mut optimizer = AdamW::new(&tensor(1)?, &groups, hyper)?;
        if with_copy {
            optimizer = optimizer.with_bf16_copy(&Tensor::zeros(device, [n], DType::Bf16, "bf16 parameters")?)?;
        }
        optimizer.set_lr(1e-4)?;
        each(Case {
            family: "optim",
            name: format!("adamw with clipping{} {n}", if with_copy { ", bf16 copy" } else { "" }),
            // The norm reads g; the update reads g, p, m, v and writes p, m, v and the copy.
            bytes: n as u64 * (4 + 28 + 2 * with_copy as u64),
            flops: 0,
            run: Box::new(move || optimizer.enqueue(&gradients)),
        })?;
    }
    Ok(())
}
