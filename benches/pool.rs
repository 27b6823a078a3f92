use x2ct::autograd::{Op, Tape};
use x2ct::ops::pool::{AvgPool3d, GlobalAvgPool, MaxPool2d, MaxPool3d};
use x2ct::tensor::{DType, Shape, Tensor};
use x2ct::{Device, Result};

use super::{Case, Each, random, size};

pub fn cases(device: &Device, each: &mut Each) -> Result<()> {
    let batch = size(device, 360, 8);
    let side = size(device, 112, 56);
    for dtype in [DType::F32, DType::Bf16] {
        // After ResNet's stem; before its head; after DCFormer's stem.
        let stem = [batch, side, side, size(device, 64, 16)];
        for case in pool(device, MaxPool2d::new(3, 2, 1), "max_pool2d k3s2p1", stem.into(), dtype, 1)? {
            each(case)?;
        }
        let head = [batch, 49, size(device, 2048, 128)];
        for case in pool(device, GlobalAvgPool::default(), "global_avg_pool", head.into(), dtype, 0)? {
            each(case)?;
        }
        let volume = [
            size(device, 8, 1),
            size(device, 64, 16),
            size(device, 128, 32),
            size(device, 128, 32),
            size(device, 64, 16),
        ];
        for case in pool(device, MaxPool3d::new(3, 2, 1), "max_pool3d k3s2p1", volume.into(), dtype, 1)? {
            each(case)?;
        }
        let mixer = AvgPool3d { minus_input: true, ..Default::default() };
        for case in pool(device, mixer, "avg_pool3d minus x", volume.into(), dtype, 0)? {
            each(case)?;
        }
    }
    Ok(())
}

/// Forward alone, and forward with backward; `choice` is the bytes kept for each output.
fn pool<O: Op + Copy + 'static>(
    device: &Device,
    op: O,
    what: &str,
    shape: Shape,
    dtype: DType,
    choice: usize,
) -> Result<[Case; 2]> {
    let x = Tensor::from_slice(device, &shape, dtype, &random(1, shape.numel()))?;
    let (y, _) = op.forward(&[&x])?;
    let dy = Tensor::from_slice(device, y.shape(), dtype, &random(2, y.numel()))?;
    let forward_bytes = x.bytes() + y.bytes() + choice * y.numel();
    // The tape copies dy first.
    let backward_bytes = 3 * y.bytes() + choice * y.numel() + x.bytes();
    let name = |pass: &str| format!("{what} {pass} {shape} {}", dtype.name());
    let input = x.clone();
    let forward = Case {
        family: "pool",
        name: name("forward"),
        bytes: forward_bytes as u64,
        flops: 0,
        run: Box::new(move || op.forward(&[&input]).map(drop)),
    };
    let both = Case {
        family: "pool",
        name: name("forward and backward"),
        bytes: (forward_bytes + backward_bytes) as u64,
        flops: 0,
        run: Box::new(move || {
            let tape = Tape::recording();
            let y = tape.apply(op, &[&tape.leaf(&x)])?;
            tape.backward_from(&[(&y, &dy)]).map(drop)
        }),
    };
    Ok([forward, both])
}
