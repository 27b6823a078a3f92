use x2ct::autograd::{Op, Tape};
use x2ct::kernels::decomp_conv::traffic::total;
use x2ct::kernels::decomp_conv::{DecompConvShape, NormKind};
use x2ct::ops::decomp_conv::{DecompConv, Groups, Norm, Variant};
use x2ct::ops::norm::{Mode, RunningStats};
use x2ct::tensor::{DType, Tensor};
use x2ct::{Device, Result};

use super::{Case, Each, random, size};

/// A layer: samples, input and output channels, volume, kernel, stride.
struct Layer {
    name: &'static str,
    batch: usize,
    channels: [usize; 2],
    volume: [usize; 3],
    kernel: usize,
}

pub fn cases(device: &Device, each: &mut Each) -> Result<()> {
    let batch = size(device, 8, 1);
    let depthwise = |name, channels, volume: [usize; 3], kernel| Layer {
        name,
        batch,
        channels: [size(device, channels, channels / 8); 2],
        volume: volume.map(|d| size(device, d, d.div_ceil(2))),
        kernel,
    };
    // DCFormer-tiny over 512x512x256, batch 8; an eighth of it on the host.
    let layers = [
        depthwise("stage 1", 96, [64, 64, 32], 13),
        depthwise("stage 2", 192, [32, 32, 16], 11),
        depthwise("stage 3", 384, [16, 16, 8], 9),
        depthwise("stage 4", 768, [8, 8, 4], 7),
    ];
    for layer in &layers {
        for dtype in [DType::F32, DType::Bf16] {
            for variant in [Variant::Naive, Variant::Fused, Variant::TensorCores] {
                if variant == Variant::Naive && layer.name != "stage 4" {
                    continue; // seconds a run
                }
                // Emulated on a processor, product by product.
                if variant == Variant::TensorCores && (device.is_host() || dtype == DType::F32) {
                    continue;
                }
                for case in layer.cases(device, dtype, variant)? {
                    each(case)?;
                }
            }
        }
    }
    Ok(())
}

impl Layer {
    fn cases(&self, device: &Device, dtype: DType, variant: Variant) -> Result<[Case; 2]> {
        let [inputs, outputs] = self.channels;
        let [d1, d2, d3] = self.volume;
        let voxels = self.batch * d1 * d2 * d3;
        let wide = |seed, channels: usize| {
            Tensor::from_slice(device, [self.batch, channels, d1, d2, d3], dtype, &random(seed, voxels * channels))
        };
        let taps = outputs * self.kernel;
        let mut tensors = vec![wide(1, inputs)?];
        for seed in 2..5 {
            let shape = [outputs, 1, self.kernel];
            tensors.push(Tensor::from_slice(device, shape, DType::F32, &random(seed, taps))?);
        }
        for seed in 5..14 {
            tensors.push(Tensor::from_slice(device, [outputs], DType::F32, &random(seed, outputs))?);
        }
        let dy = wide(14, outputs)?;
        let running = || RunningStats::new(device, outputs);
        let norm = Norm::new(Mode::Train, [running()?, running()?, running()?]);
        let op = DecompConv {
            norm: Some(norm),
            variant: Some(variant),
            ..DecompConv::new(self.kernel, 1, Groups::Depthwise)
        };
        let name = |pass: &str| {
            format!(
                "{} {pass} {:?} {:?} k{} {variant:?} {}",
                self.name,
                self.channels,
                self.volume,
                self.kernel,
                dtype.name()
            )
        };
        // What the launches count; the tape copies dy, 2 A.
        let a = (voxels * outputs * dtype.size()) as u64;
        let mut params =
            DecompConvShape::new([self.batch, inputs, d1, d2, d3], outputs, self.kernel, 1, false)?.params();
        params.norm = NormKind::Train as u32;
        params.plan(device.launcher(), dtype, variant)?;
        let forward = total(&params.forward_traffic(variant, dtype, false));
        let backward = total(&params.backward_traffic(variant, dtype, false));
        let products = 2 * 3 * (voxels * outputs * self.kernel) as u64;
        let (forward_op, forward_inputs) = (op.clone(), tensors.clone());
        Ok([
            Case {
                family: "decomp_conv",
                name: name("forward"),
                bytes: forward,
                flops: products,
                run: Box::new(move || forward_op.forward(&forward_inputs.iter().collect::<Vec<_>>()).map(drop)),
            },
            Case {
                family: "decomp_conv",
                name: name("forward and backward"),
                bytes: forward + backward + 2 * a,
                flops: 3 * products,
                run: Box::new(move || {
                    let tape = Tape::recording();
                    let leaves: Vec<_> = tensors.iter().map(|tensor| tape.leaf(tensor)).collect();
                    let y = tape.apply(op.clone(), &leaves.iter().collect::<Vec<_>>())?;
                    tape.backward_from(&[(&y, &dy)]).map(drop)
                }),
            },
        ])
    }
}
