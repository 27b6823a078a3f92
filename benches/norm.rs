use x2ct::autograd::{Op, Tape};
use x2ct::ops::norm::{BatchNorm, L2Normalize, LayerNorm, Mode, RunningStats};
use x2ct::tensor::{DType, Tensor};
use x2ct::{Device, Result};

use super::{Case, Each, random, size, small};

pub fn cases(device: &Device, each: &mut Each) -> Result<()> {
    // The first and the third stage of ResNet-50 at batch 360; on the host those of a narrow ResNet-18.
    for (rows, channels) in [
        (size(device, 360 * 56 * 56, 131_072), size(device, 64, 16)),
        (size(device, 360 * 14 * 14, 8192), size(device, 256, 64)),
    ] {
        for dtype in [DType::F32, DType::Bf16] {
            for residual in [false, true] {
                for case in batch_norm(device, [rows, channels], dtype, residual)? {
                    each(case)?;
                }
            }
        }
    }
    // The second stage of Swin-T at batch 64; a vision transformer's tokens; the embeddings of a large contrastive batch.
    for dtype in [DType::F32, DType::Bf16] {
        let tokens = [size(device, 64 * 28 * 28, 4096), 192];
        if !small(device) {
            for case in row_norm(device, LayerNorm::default(), "layer_norm", [8192, 768], dtype, 2)? {
                each(case)?;
            }
        }
        let embeddings = [size(device, 32_768, 2048), 512];
        for case in row_norm(device, LayerNorm::default(), "layer_norm", tokens, dtype, 2)? {
            each(case)?;
        }
        for case in row_norm(device, L2Normalize::default(), "l2_normalize", embeddings, dtype, 0)? {
            each(case)?;
        }
    }
    Ok(())
}

fn row_norm<O: Op + Copy + 'static>(
    device: &Device,
    op: O,
    what: &str,
    [rows, d]: [usize; 2],
    dtype: DType,
    parameters: usize,
) -> Result<[Case; 2]> {
    let wide = |seed| Tensor::from_slice(device, [rows, d], dtype, &random(seed, rows * d));
    let mut inputs = vec![wide(1)?];
    for seed in 0..parameters {
        inputs.push(Tensor::from_slice(device, [d], DType::F32, &random(seed as u64 + 2, d))?);
    }
    let dy = wide(5)?;
    let tensors = (rows * d * dtype.size()) as u64;
    let name = |pass: &str| format!("{what} {pass} [{rows}, {d}] {}", dtype.name());
    let forward_inputs = inputs.clone();
    let forward = Case {
        family: "norm",
        name: name("forward"),
        bytes: 2 * tensors,
        flops: 0,
        run: Box::new(move || op.forward(&forward_inputs.iter().collect::<Vec<_>>()).map(drop)),
    };
    let both = Case {
        family: "norm",
        name: name("forward and backward"),
        // The tape copies dy; then x, dy, dx, and for the parameters x and dy again.
        bytes: (2 + 2 + 3 + if parameters > 0 { 2 } else { 0 }) * tensors,
        flops: 0,
        run: Box::new(move || {
            let tape = Tape::recording();
            let leaves: Vec<_> = inputs.iter().map(|tensor| tape.leaf(tensor)).collect();
            let y = tape.apply(op, &leaves.iter().collect::<Vec<_>>())?;
            tape.backward_from(&[(&y, &dy)]).map(drop)
        }),
    };
    Ok([forward, both])
}

fn batch_norm(device: &Device, [rows, channels]: [usize; 2], dtype: DType, residual: bool) -> Result<[Case; 2]> {
    let n = rows * channels;
    let wide = |seed| Tensor::from_slice(device, [rows, channels], dtype, &random(seed, n));
    let vector = |seed| Tensor::from_slice(device, [channels], DType::F32, &random(seed, channels));
    let inputs = [wide(1)?, vector(2)?, vector(3)?, wide(4)?];
    let dy = wide(5)?;
    let op = BatchNorm::new(Mode::Train, RunningStats::new(device, channels)?).relu();
    let count = if residual { 4 } else { 3 };
    let tensors = (n * dtype.size()) as u64;
    let name = |pass: &str| {
        let extra = if residual { " +residual" } else { "" };
        format!("batch_norm+relu{extra} {pass} [{rows}, {channels}] {}", dtype.name())
    };
    let (forward_op, forward_inputs) = (op.clone(), inputs.clone());
    let forward = Case {
        family: "norm",
        name: name("forward"),
        // x twice, y; the residual.
        bytes: (3 + residual as u64) * tensors,
        flops: 0,
        run: Box::new(move || forward_op.forward(&forward_inputs.iter().take(count).collect::<Vec<_>>()).map(drop)),
    };
    let both = Case {
        family: "norm",
        name: name("forward and backward"),
        // Backward: x twice, dy twice, dx; with a residual x twice, dy, y, dz twice, dx. The tape copies dy first.
        bytes: (if residual { 4 + 7 + 2 } else { 3 + 5 + 2 }) * tensors,
        flops: 0,
        run: Box::new(move || {
            let tape = Tape::recording();
            let leaves: Vec<_> = inputs.iter().take(count).map(|tensor| tape.leaf(tensor)).collect();
            let y = tape.apply(op.clone(), &leaves.iter().collect::<Vec<_>>())?;
            tape.backward_from(&[(&y, &dy)]).map(drop)
        }),
    };
    Ok([forward, both])
}
