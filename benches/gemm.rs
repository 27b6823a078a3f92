use x2ct::kernels::Write;
use x2ct::ops::gemm::{Method, Operand, Precision, product_into};
use x2ct::tensor::{DType, Tensor};
use x2ct::{Device, Result};

use super::{Case, Each, backends, random, small};

/// m, n, k: a large square, a token matrix through an MLP, a 1x1 convolution, and the gradient of its weight.
const GPU: [[usize; 3]; 4] = [[8192, 8192, 8192], [131_072, 384, 96], [200_704, 256, 64], [256, 64, 200_704]];
const HOST: [[usize; 3]; 4] = [[256, 256, 256], [4096, 32, 144], [32, 144, 16_384], [16_384, 16, 147]];

pub fn cases(device: &Device, each: &mut Each) -> Result<()> {
    for [m, n, k] in if small(device) { HOST } else { GPU } {
        for (dtype, precision) in
            [(DType::F32, Precision::F32), (DType::F32, Precision::Tf32), (DType::Bf16, Precision::F32)]
        {
            let a = Tensor::from_slice(device, [m, k], dtype, &random(1, m * k))?;
            let b = Tensor::from_slice(device, [n, k], dtype, &random(2, k * n))?;
            let c = Tensor::empty(device, [m, n], dtype, "product")?;
            for &backend in backends(device) {
                let (a, b, c) = (a.clone(), b.clone(), c.clone());
                let method = Method { backend, precision };
                each(Case {
                    family: "gemm",
                    name: format!("{backend:?} {m}x{n}x{k} {} {precision:?}", dtype.name()),
                    bytes: (a.bytes() + b.bytes() + c.bytes()) as u64,
                    flops: 2 * (m * n * k) as u64,
                    run: Box::new(move || {
                        let (a, b) = (Operand::new(&a, false), Operand::new(&b, true));
                        product_into(a, b, None, &c, Write::Overwrite, method)
                    }),
                })?;
            }
        }
    }
    Ok(())
}
