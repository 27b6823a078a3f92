use x2ct::autograd::Op;
use x2ct::ops::pointwise::{Add, Gelu};
use x2ct::tensor::{DType, Tensor};
use x2ct::{Device, Result};

use super::{Case, Each, random, size};

pub fn cases(device: &Device, each: &mut Each) -> Result<()> {
    let n = size(device, 1 << 26, 1 << 20);
    for dtype in [DType::F32, DType::Bf16] {
        let a = Tensor::from_slice(device, [n], dtype, &random(1, n))?;
        let b = Tensor::from_slice(device, [n], dtype, &random(2, n))?;
        let bytes = (n * dtype.size()) as u64;
        let x = a.clone();
        each(Case {
            family: "pointwise",
            name: format!("gelu_forward {n} {}", dtype.name()),
            bytes: 2 * bytes,
            flops: 0,
            run: Box::new(move || Gelu.forward(&[&x]).map(drop)),
        })?;
        each(Case {
            family: "pointwise",
            name: format!("add {n} {}", dtype.name()),
            bytes: 3 * bytes,
            flops: 0,
            run: Box::new(move || Add.forward(&[&a, &b]).map(drop)),
        })?;
    }
    Ok(())
}
