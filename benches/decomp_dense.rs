use x2ct::autograd::{Op, Tape};
use x2ct::kernels::decomp_conv::traffic::total;
use x2ct::kernels::decomp_conv::{DecompConvShape, NormKind};
use x2ct::kernels::decomp_dense::traffic;
use x2ct::ops::decomp_conv::{DecompConv, Groups, Norm};
use x2ct::ops::gemm::{Backend, Method, Precision};
use x2ct::ops::norm::{Mode, RunningStats};
use x2ct::tensor::{DType, Tensor};
use x2ct::{Device, Result};

use super::{Case, Each, backends, brief, random, small};

/// A layer of DCFormer's stem.
struct Layer {
    name: &'static str,
    channels: [usize; 2],
    volume: [usize; 3],
    kernel: usize,
    stride: usize,
}

/// Batch 8: DCFormer-tiny over 512x512x256; on the host 64x64x64, narrow and as wide as DCFormer-nano.
pub fn cases(device: &Device, each: &mut Each) -> Result<()> {
    let (volume, widths): ([usize; 3], &[usize]) = match (brief(), small(device)) {
        (true, _) => ([32; 3], &[32, 64]),
        (_, true) => ([64; 3], &[16, 32]),
        _ => ([512, 512, 256], &[64]),
    };
    for &c in widths {
        let layers = [
            Layer { name: "stem 0", channels: [1, c], volume, kernel: 7, stride: 4 },
            Layer { name: "stem 1-3", channels: [c; 2], volume: volume.map(|d| d / 4), kernel: 3, stride: 1 },
        ];
        for layer in &layers {
            for dtype in [DType::F32, DType::Bf16] {
                for backend in [Backend::Library, Backend::Own] {
                    // A processor emulates tensor cores product by product, and our tiles thread by thread.
                    if backend == Backend::Own && device.is_host() && layer.stride == 1 {
                        continue;
                    }
                    if !device.is_host() && !backends(device).contains(&backend) {
                        continue;
                    }
                    for case in layer.cases(device, dtype, backend)? {
                        each(case)?;
                    }
                }
            }
        }
    }
    Ok(())
}

impl Layer {
    fn cases(&self, device: &Device, dtype: DType, backend: Backend) -> Result<[Case; 2]> {
        let ([inputs, outputs], batch) = (self.channels, 8);
        let [d1, d2, d3] = self.volume;
        let shape = DecompConvShape::new([batch, inputs, d1, d2, d3], outputs, self.kernel, self.stride, true)?;
        let [e1, e2, e3] = shape.out_size;
        let tensor =
            |seed, size: &[usize], dtype| Tensor::from_slice(device, size, dtype, &random(seed, size.iter().product()));
        let mut tensors = vec![tensor(1, &[batch, inputs, d1, d2, d3], dtype)?];
        for seed in 2..5 {
            tensors.push(tensor(seed, &[outputs, inputs, self.kernel], DType::F32)?);
        }
        for seed in 5..14 {
            tensors.push(tensor(seed, &[outputs], DType::F32)?);
        }
        let dy = tensor(14, &[batch, outputs, e1, e2, e3], dtype)?;
        let running = || RunningStats::new(device, outputs);
        let norm = Norm::new(Mode::Train, [running()?, running()?, running()?]);
        let method = Some(Method { backend, precision: Precision::F32 });
        let op = DecompConv { norm: Some(norm), method, ..DecompConv::new(self.kernel, self.stride, Groups::Dense) };
        let name = |pass: &str| {
            let (volume, kernel) = (self.volume, self.kernel);
            format!("{} {pass} {inputs}->{outputs} {volume:?} k{kernel} {backend:?} {}", self.name, dtype.name())
        };
        // The volume is a constant. The tape copies dy.
        let wants_input = inputs > 1;
        let forward = total(&traffic::forward(&shape, dtype, NormKind::Train));
        let backward = total(&traffic::backward(&shape, dtype, NormKind::Train, false, wants_input));
        let product = 2 * (batch * shape.out_voxels() * outputs * inputs) as u64;
        let (all, cross) = (3 * self.kernel as u64 * product, (3 * self.kernel as u64 - 2) * product);
        let (forward_op, forward_inputs) = (op.clone(), tensors.clone());
        Ok([
            Case {
                family: "decomp_dense",
                name: name("forward"),
                bytes: forward,
                flops: all + cross,
                run: Box::new(move || forward_op.forward(&forward_inputs.iter().collect::<Vec<_>>()).map(drop)),
            },
            Case {
                family: "decomp_dense",
                name: name("forward and backward"),
                bytes: forward + backward + 2 * dy.bytes() as u64,
                flops: all + cross + (3 + wants_input as u64) * all,
                run: Box::new(move || {
                    let tape = Tape::recording();
                    let leaf =
                        |(i, tensor)| if i > 0 || wants_input { tape.leaf(tensor) } else { tape.constant(tensor) };
                    let leaves: Vec<_> = tensors.iter().enumerate().map(leaf).collect();
                    let y = tape.apply(op.clone(), &leaves.iter().collect::<Vec<_>>())?;
                    tape.backward_from(&[(&y, &dy)]).map(drop)
                }),
            },
        ])
    }
}
