use x2ct::kernels::decomp_conv::traffic::total;
use x2ct::kernels::decomp_conv::{DecompConvParams, DecompConvShape, NormKind, Variant};
use x2ct::tensor::DType;

use crate::support::host;

/// Bytes counted from the launch parameters, DCFormer-tiny at batch 8, 512 x 512 x 256: `cargo test decomp_conv_moves -- --nocapture` prints
/// them in units of A, the bytes of x.
#[test]
fn decomp_conv_moves_a_fraction_of_what_separate_passes_move() {
    let device = host(Default::default());
    let stages = [(96, [64, 64, 32], 13), (192, [32, 32, 16], 11), (384, [16, 16, 8], 9), (768, [8, 8, 4], 7)];
    println!(
        "stage type   A MB | forward: fused  by group  naive  framework | backward: fused  by group  naive  framework"
    );
    for (stage, (channels, [d1, d2, d3], kernel)) in stages.into_iter().enumerate() {
        for dtype in [DType::F32, DType::Bf16] {
            let shape = DecompConvShape::new([8, channels, d1, d2, d3], channels, kernel, 1, false).unwrap();
            let a = (8 * channels * d1 * d2 * d3 * dtype.size()) as f64;
            let planned = |variant| {
                let mut params = shape.params();
                params.norm = NormKind::Train as u32;
                params.plan(device.launcher(), dtype, variant).unwrap();
                params
            };
            let count = |variant, resident| {
                let params: DecompConvParams = planned(variant);
                let forward = total(&params.forward_traffic(variant, dtype, resident)) as f64 / a;
                (forward, total(&params.backward_traffic(variant, dtype, resident)) as f64 / a)
            };
            let fused = count(Variant::Fused, false);
            let (group, naive) = (count(Variant::Fused, true), count(Variant::Naive, false));
            let [forward, backward] = planned(Variant::Naive).framework_traffic(dtype).map(|t| total(&t) as f64 / a);
            println!(
                "{:5} {:4} {:6.1} | {:14.3} {:9.3} {:6.2} {forward:10.2} | {:15.3} {:9.3} {:6.2} {backward:10.2}",
                stage + 1,
                dtype.name(),
                a / 1e6,
                fused.0,
                group.0,
                naive.0,
                fused.1,
                group.1,
                naive.1
            );
            // The sums of the blocks and the vectors add to 3 A and 5 A, most where volumes are small.
            assert!((3.0..3.2).contains(&fused.0) && (5.0..5.7).contains(&fused.1), "{fused:?}");
            assert!((2.0..2.2).contains(&group.0) && (3.0..3.7).contains(&group.1), "{group:?}");
            assert!((forward, backward) == (21.0, 36.0));
            assert!(fused.0 <= forward / 4.0 && fused.0 <= naive.0 / 4.0);
            assert!(fused.1 <= backward / 5.0 && group.1 <= naive.1 / 5.0);
            if dtype == DType::Bf16 {
                assert!(fused.1 <= naive.1 / 5.0);
                let tensor = count(Variant::TensorCores, false);
                // A block takes one sample: of stage 4 that is 512 bytes a channel, and its sums are 552.
                assert!(tensor.0 < 3.4 && (stage == 3 || tensor.1 <= backward / 5.0), "{tensor:?}");
            }
        }
    }
}
