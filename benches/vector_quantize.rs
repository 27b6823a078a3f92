use x2ct::autograd::Op;
use x2ct::ops::norm::Mode;
use x2ct::ops::vector_quantize::{Codebook, VectorQuantize};
use x2ct::tensor::{DType, Tensor};
use x2ct::{Device, Result};

use super::{Case, Each, random, size};

/// The tokens of CT-CLIP's volume and of DCFormer-tiny's, batch 8, among 8192 codes.
pub fn cases(device: &Device, each: &mut Each) -> Result<()> {
    for (what, n, d) in [("ct_clip", 13_824, 512), ("dcformer-tiny", 2048, 768)] {
        let (n, m) = (size(device, n, n / 16), size(device, 8192, 1024));
        for dtype in [DType::F32, DType::Bf16] {
            let x = Tensor::from_slice(device, [n, d], dtype, &random(1, n * d))?;
            for (mode, name) in [(Mode::Eval, "evaluation"), (Mode::Train, "training")] {
                let codebook = Codebook {
                    embed: Tensor::from_slice(device, [m, d], DType::F32, &random(2, m * d))?,
                    cluster_size: Tensor::zeros(device, [m], DType::F32, "cluster sizes")?,
                };
                // Tokens and codes in, tokens out; in training also the codes out.
                let codes = codebook.embed.bytes() * if mode == Mode::Train { 2 } else { 1 };
                let (op, x) = (VectorQuantize::new(codebook, mode), x.clone());
                each(Case {
                    family: "vector_quantize",
                    name: format!("{what} {name} {n} of {m}x{d} {}", dtype.name()),
                    bytes: (2 * x.bytes() + codes) as u64,
                    flops: 2 * (n * m * d) as u64,
                    run: Box::new(move || op.forward(&[&x]).map(drop)),
                })?;
            }
        }
    }
    Ok(())
}
