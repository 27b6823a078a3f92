use x2ct::autograd::{Op, Tape};
use x2ct::kernels::conv2d::Conv2dShape;
use x2ct::ops::conv2d::Conv2d;
use x2ct::ops::gemm::{Method, Precision};
use x2ct::tensor::{DType, Tensor};
use x2ct::{Device, Result};

use super::{Case, Each, backends, brief, random, small};

/// Height and width, channels in and out, filter, stride.
type Layer = [usize; 5];

/// The layers of a ResNet-18 of width 16 on 64x64 radiographs: what the demo trains.
const HOST: [Layer; 11] = [
    [64, 3, 16, 7, 2],
    [16, 16, 16, 3, 1],
    [16, 16, 32, 3, 2],
    [16, 16, 32, 1, 2],
    [8, 32, 32, 3, 1],
    [8, 32, 64, 3, 2],
    [8, 32, 64, 1, 2],
    [4, 64, 64, 3, 1],
    [4, 64, 128, 3, 2],
    [4, 64, 128, 1, 2],
    [2, 128, 128, 3, 1],
];

/// Layers of ResNet-50 on 224x224 radiographs.
const GPU: [Layer; 8] = [
    [224, 3, 64, 7, 2],
    [56, 64, 64, 3, 1],
    [56, 64, 256, 1, 1],
    [56, 128, 128, 3, 2],
    [28, 128, 128, 3, 1],
    [14, 256, 256, 3, 1],
    [14, 1024, 256, 1, 1],
    [7, 512, 512, 3, 1],
];

pub fn cases(device: &Device, each: &mut Each) -> Result<()> {
    if brief() {
        let brief = [HOST[0], HOST[1], HOST[3], HOST[7]];
        return [DType::F32, DType::Bf16].iter().try_for_each(|&dtype| layers(device, &brief, 8, dtype, each));
    }
    if small(device) {
        layers(device, &HOST, 128, DType::F32, each)
    } else {
        layers(device, &GPU, 256, DType::Bf16, each)
    }
}

fn layers(device: &Device, layers: &[Layer], batch: usize, dtype: DType, each: &mut Each) -> Result<()> {
    for &[size, channels, filters, kernel, stride] in layers {
        let padding = kernel / 2;
        let (image, filter) = ([batch, size, size, channels], [filters, kernel, kernel, channels]);
        let shape = Conv2dShape::new(image, filter, stride, padding)?;
        let [nx, nw, ny] = shape.numel();
        let x = Tensor::from_slice(device, image, dtype, &random(1, nx))?;
        let w = Tensor::from_slice(device, filter, dtype, &random(2, nw))?;
        let dy = [batch, shape.out_size[0], shape.out_size[1], filters];
        let dy = Tensor::from_slice(device, dy, dtype, &random(3, ny))?;
        let flops = 2 * (ny * shape.terms()) as u64;
        let name = format!("{batch}x{size}x{size}x{channels} {filters} of {kernel}x{kernel}/{stride} {}", dtype.name());
        for &backend in backends(device) {
            let op = Conv2d { stride, padding, method: Method { backend, precision: Precision::F32 } };
            let (x1, w1) = (x.clone(), w.clone());
            each(Case {
                family: "conv2d",
                name: format!("{backend:?} forward {name}"),
                bytes: ((nx + nw + ny) * dtype.size()) as u64,
                flops,
                run: Box::new(move || op.forward(&[&x1, &w1]).map(drop)),
            })?;
            let (x, w, dy) = (x.clone(), w.clone(), dy.clone());
            // The first layer's input is an image, which needs no gradient.
            let image = channels == 3;
            each(Case {
                family: "conv2d",
                name: format!("{backend:?} forward and gradients {name}"),
                bytes: ((3 * nx + 3 * nw + 3 * ny) * dtype.size()) as u64,
                flops: flops * if image { 2 } else { 3 },
                run: Box::new(move || {
                    let tape = Tape::recording();
                    let x = if image { tape.constant(&x) } else { tape.leaf(&x) };
                    let y = tape.apply(op, &[&x, &tape.leaf(&w)])?;
                    tape.backward_from(&[(&y, &dy)]).map(drop)
                }),
            })?;
        }
    }
    Ok(())
}
