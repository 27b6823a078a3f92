use x2ct::autograd::Op;
use x2ct::ops::dropout::Dropout;
use x2ct::tensor::{DType, Tensor};
use x2ct::{Device, Result};

use super::{Case, Each, random, size};

pub fn cases(device: &Device, each: &mut Each) -> Result<()> {
    let n = size(device, 1 << 26, 1 << 20);
    for dtype in [DType::F32, DType::Bf16] {
        let x = Tensor::from_slice(device, [n], dtype, &random(1, n))?;
        each(Case {
            family: "dropout",
            name: format!("forward, as backward, {n} {}", dtype.name()),
            bytes: 2 * (n * dtype.size()) as u64,
            flops: 0,
            run: Box::new({
                let op = Dropout { p: 0.5, seed: 1, offset: 0 };
                move || op.forward(&[&x]).map(drop)
            }),
        })?;
    }
    Ok(())
}
