//! Tensor cores where the gradients of logits are stored: loss and gradients in one launch, and bands.

use x2ct::device::HostOptions;
use x2ct::kernels::Write;
use x2ct::ops::contrastive::{MAX_STORED, SigLip, ids};

use super::figures::sampled;
use super::stored::at_once;
use super::*;

const ONE: Variant = Variant::OneLaunchTensorCores;

/// What loss, gradients of embeddings and gradient of the scale may be off by. bf16: products are exact, and their sums f32
/// but cut off instead of rounded, so the loss of aligned pairs at a large scale is less good than in f32; the gradients of
/// logits and of embeddings are rounded to 8 bits. TF32 rounds the embeddings to 11 bits: a logit is off by a few 2^-11 /
/// sqrt(d) of the scale.
fn bounds(dtype: DType, scale: f32, d: usize) -> [f64; 3] {
    match dtype {
        DType::Bf16 => [loss_bound_of(ONE, scale, d), 5e-3, scale_bound_of(ONE, scale, d)],
        DType::F32 => {
            let logit = 5e-4 + 2.0 * scale as f64 / 2048.0 / (d as f64).sqrt();
            [logit, logit, 2.0 * logit]
        }
    }
}

fn rounded(dtype: DType, sets: Vec<Vec<f32>>) -> Vec<Vec<f32>> {
    if dtype == DType::F32 { sets } else { sets.iter().map(|x| round_bf16(x)).collect() }
}

#[test]
fn one_launch_agrees_with_f64_in_bf16_and_tf32() {
    let sizes = [(1, 1), (1, 48), (2, 48), (7, 1), (7, 768), (31, 48), (33, 129), (33, 512), (65, 64), (130, 5)];
    for (name, device) in devices() {
        for (n, d) in sizes {
            for (case, scale) in SCALES.into_iter().enumerate() {
                let dtype = if case == 1 { DType::F32 } else { DType::Bf16 };
                let sets = rounded(dtype, (0..3).map(|k| normal(70 + k, n * d)).collect());
                let loss = Contrastive {
                    sets: 3,
                    pairs: vec![(0, 1, 1.0), (2, 0, 0.5)],
                    variant: ONE,
                    reduction: if n % 2 == 0 { Reduction::Sum } else { Reduction::Mean },
                    ids: (case == 2).then(|| ids(&device, &(0..n).map(|i| i % 5).collect::<Vec<_>>()).unwrap()),
                    ..pair(if case == 3 { Scale::Learnable } else { Scale::Fixed(scale) })
                };
                let want = reference(&loss, scale as f64, &sets, n);
                let extra = if case == 3 { vec![scale] } else { vec![] };
                let (value, got) = at_once(&device, dtype, &loss, &sets, &extra, n);
                let what = format!("{name} {} n={n} d={d} scale={scale}", dtype.name());
                let [of_loss, of_sets, of_scale] = bounds(dtype, scale, d);
                assert!((value as f64 - want.loss).abs() <= of_loss * want.loss, "{what}: {value} for {}", want.loss);
                for (set, (got, want)) in got.iter().zip(&want.sets).enumerate() {
                    if n == 1 || d == 1 {
                        // Nothing is left after the projection but what h was rounded by.
                        let along = |(g, x): (&f32, &f32)| (g * x).abs() as f64 <= 2.0 * of_sets * scale as f64;
                        assert!(got.iter().zip(&sets[set]).all(along), "{what}: {got:?}");
                    } else {
                        assert_close(&what, got, want, of_sets);
                    }
                }
                if case == 3 && n > 1 {
                    let off = relative(got[3][0], want.scale);
                    assert!(off < of_scale, "{what}: {} for {}", got[3][0], want.scale);
                }
            }
        }
    }
}

/// The sizes it is made for; prints what the error is.
#[test]
fn one_launch_is_within_the_figures() {
    let device = host(ThreadOrder::Seeded(4));
    for (dtype, n, d, scale) in [
        (DType::Bf16, 360, 512, 1.0 / 0.07),
        (DType::Bf16, 360, 768, 100.0),
        (DType::F32, 360, 48, 1.0 / 0.07),
        (DType::Bf16, 1000, 512, 1.0 / 0.07),
        (DType::Bf16, 1024, 48, std::f32::consts::E),
    ] {
        let sets = rounded(dtype, vec![normal(n as u64, n * d), normal(n as u64 + 1, n * d)]);
        let rows: Vec<usize> = (0..n).step_by(n.div_ceil(24)).collect();
        let want = sampled(scale as f64, &sets, n, &rows);
        let loss = Contrastive { variant: ONE, ..pair(Scale::Fixed(scale)) };
        let (value, got) = at_once(&device, dtype, &loss, &sets, &[], n);
        let (loss, gradients) = (relative(value, want.loss), want.distance(&got));
        println!("{} n {n:5} d {d:4} scale {scale:6.2}: loss {loss:.1e}, gradients {gradients:.1e}", dtype.name());
        let [of_loss, of_sets, _] = bounds(dtype, scale, d);
        assert!(loss <= of_loss && gradients <= of_sets, "n={n} d={d} scale={scale}");
    }
}

/// Weights of zero, frozen sets: what is asked for is right, whatever else is not.
#[test]
fn one_launch_skips_what_is_frozen() {
    let device = host(ThreadOrder::Reverse);
    let (n, d) = (70, 72);
    let sets = rounded(DType::Bf16, (0..3).map(|k| normal(20 + k, n * d)).collect());
    let tensors: Vec<_> = sets.iter().map(|x| Tensor::from_slice(&device, [n, d], DType::Bf16, x).unwrap()).collect();
    for (alpha, beta, gamma) in [(0.0, 1.0, 1.0), (0.5, 1.0, 2.0), (1.0, 0.0, 1.0), (0.0, 0.0, 1.0), (1.0, 0.0, 0.0)] {
        let op = TriModal { alpha, beta, gamma, variant: ONE, ..TriModal::default() };
        let want = reference(&op.general().unwrap(), 1.0 / 0.07, &sets, n);
        for leaves in [0b111, 0b001, 0b110, 0b000] {
            let wanted: Vec<bool> = (0..3).map(|set| leaves >> set & 1 == 1).collect();
            let (value, got) =
                op.general().unwrap().with_gradients(&tensors.iter().collect::<Vec<_>>(), &wanted).unwrap();
            assert!(relative(value.item().unwrap(), want.loss) < 2e-6, "{alpha} {beta} {gamma} {leaves:b}");
            for (set, got) in got.into_iter().enumerate() {
                assert_eq!(got.is_some(), wanted[set]);
                if let Some(got) = got {
                    let what = format!("{alpha} {beta} {gamma} {leaves:b} set {set}");
                    assert_close(&what, &got.to_vec().unwrap(), &want.sets[set], 5e-3);
                }
            }
        }
    }
}

#[test]
fn one_launch_knows_the_sigmoid_loss_on_tensor_cores() {
    for (name, device) in devices() {
        let (n, d) = (70, 40);
        for (dtype, [of_loss, of_sets, of_scale]) in
            [(DType::Bf16, bounds(DType::Bf16, 8.0, 40)), (DType::F32, [3e-3, 5e-3, 5e-3])]
        {
            let sets = rounded(dtype, related(71, n, d, 1.0));
            let loss = Contrastive { variant: ONE, ..SigLip::new(Scale::Learnable, Scale::Learnable).general() };
            let want = reference(&loss, 8.0, &sets, n);
            let (value, got) = at_once(&device, dtype, &loss, &sets, &[8.0, BIAS], n);
            assert!(relative(value, want.loss) < of_loss, "{name}: {value} for {}", want.loss);
            for (got, want) in got.iter().zip(&want.sets) {
                assert_close(&name, got, want, of_sets);
            }
            let off = (relative(got[2][0], want.scale), relative(got[3][0], want.bias));
            assert!(off.0 < of_scale && off.1 < of_scale, "{name}: {off:?}");
        }
    }
}

/// Neither the order of threads nor the number of blocks that share the tiles changes a bit.
#[test]
fn one_launch_on_tensor_cores_is_reproducible() {
    let (n, d) = (150, 40);
    for dtype in [DType::Bf16, DType::F32] {
        let sets = related(19, n, d, 1.0);
        let bits = |device: &Device| {
            let loss = Contrastive { variant: ONE, ..pair(Scale::Learnable) };
            let (value, gradients) = at_once(device, dtype, &loss, &sets, &[14.0], n);
            let mut all = gradients.concat();
            all.push(value);
            all.iter().map(|x| x.to_bits()).collect::<Vec<_>>()
        };
        let first = bits(&host(ThreadOrder::Forward));
        for order in [ThreadOrder::Forward, ThreadOrder::Reverse, ThreadOrder::Seeded(5)] {
            assert!(first == bits(&host(order)), "{order:?}");
        }
        for threads in [1, 5] {
            assert!(
                first == bits(&Device::host_with(HostOptions { threads, ..Default::default() })),
                "{threads} blocks"
            );
        }
    }
}

/// A NaN is reported, norms do not matter, zero stays zero, equal rows are at chance.
#[test]
fn extreme_embeddings_are_defined_on_tensor_cores() {
    let device = Device::host();
    let (n, d) = (70, 24);
    let base = rounded(DType::Bf16, related(74, n, d, 1.0));
    let softmax = |scale: f32| (pair(Scale::Fixed(scale)), scale);
    let siglip = (SigLip::new(Scale::Fixed(10.0), Scale::Fixed(BIAS)).general(), 10.0);
    for variant in [ONE, Variant::TensorCores] {
        for (loss, scale) in [softmax(10.0), softmax(100.0), siglip.clone()] {
            let loss = Contrastive { variant, ..loss };
            let what = format!("{variant:?} {:?} {scale}", loss.objective);
            let of_loss = loss_bound_of(variant, scale, d);
            let run = |sets: &[Vec<f32>]| at_once(&device, DType::Bf16, &loss, sets, &[], n);
            let mut sets = base.clone();
            sets[1][69 * d] = f32::NAN;
            assert!(run(&sets).0.is_nan(), "{what}");
            let plain = reference(&loss, scale as f64, &base, n);
            // Powers of two, so that bf16 rounds nothing.
            for size in [2f32.powi(-30), 2f32.powi(40)] {
                let sets: Vec<Vec<f32>> = base.iter().map(|x| x.iter().map(|v| v * size).collect()).collect();
                let (value, got) = run(&sets);
                assert!(relative(value, plain.loss) < of_loss, "{what} {size}: {value} for {}", plain.loss);
                for (got, want) in got.iter().zip(&plain.sets) {
                    assert_close(&what, &got.iter().map(|g| g * size).collect::<Vec<_>>(), want, 5e-3);
                }
            }
            let mut sets = base.clone();
            sets[0][2 * d..3 * d].fill(0.0);
            let want = reference(&loss, scale as f64, &sets, n);
            let (value, got) = run(&sets);
            assert!(relative(value, want.loss) < of_loss, "{what}: {value} for {}", want.loss);
            for row in [0, 2, 69] {
                let range = row * d..(row + 1) * d;
                assert_close(&what, &got[0][range.clone()], &want.sets[0][range], 1e-2);
            }
            let sets = vec![base[0][..d].repeat(n); 2];
            let want = reference(&loss, scale as f64, &sets, n);
            let (value, got) = run(&sets);
            assert!(relative(value, want.loss) < of_loss, "{what}: {value} for {}", want.loss);
            assert!(got.iter().flatten().all(|g| g.is_finite()), "{what}");
        }
    }
}

/// Beyond what is kept, in bf16: both gradients from bands, in one and in several, added to what is there.
#[test]
fn bands_in_bf16_agree_with_f64() {
    let device = host(ThreadOrder::Seeded(2));
    let small = MAX_STORED + 1;
    for (variant, n, d, several) in
        [(Variant::Tiled, small, 24, true), (Variant::TensorCores, small, 24, false), (ONE, 2900, 8, true)]
    {
        let scale = 14.0;
        let sets = rounded(DType::Bf16, related(73, n, d, 2.0));
        let rows: Vec<usize> = (0..n).step_by(97).collect();
        let want = sampled(scale as f64, &sets, n, &rows);
        let loss = Contrastive { variant, ..pair(Scale::Learnable) };
        let mut inputs: Vec<_> =
            sets.iter().map(|x| Tensor::from_slice(&device, [n, d], DType::Bf16, x).unwrap()).collect();
        inputs.push(Tensor::from_slice(&device, [1], DType::F32, &[scale]).unwrap());
        let (value, context) = loss.forward(&inputs.iter().collect::<Vec<_>>()).unwrap();
        let off = relative(value.item().unwrap(), want.loss);
        assert!(off < loss_bound_of(variant, scale, d), "{variant:?}: {off:.1e}");
        let one = Tensor::from_slice(&device, [0usize; 0], DType::F32, &[1.0]).unwrap();
        let make = |write: Write, carry: bool| {
            let gradients: Vec<_> = inputs
                .iter()
                .map(|x| (Tensor::zeros(&device, x.shape(), x.dtype(), "gradient").unwrap(), write))
                .collect();
            let live = {
                device.reset_peak();
                device.memory().live
            };
            loss.backward(&context, &one, &gradients.iter().cloned().map(Some).collect::<Vec<_>>()).unwrap();
            // A sum over several bands is kept in f32.
            assert!(!carry || device.memory().peak - live >= n * d * 4, "{variant:?} is meant to take several bands");
            gradients.into_iter().map(|(g, _)| g.to_vec().unwrap()).collect::<Vec<_>>()
        };
        let (got, added) = (make(Write::Overwrite, several), make(Write::Accumulate, several));
        let distance = want.distance(&got);
        println!("{variant:?} n {n}: loss {off:.1e}, gradients {distance:.1e}");
        assert!(distance < if variant == Variant::Tiled { 2e-3 } else { 5e-3 }, "{variant:?}: {distance:.1e}");
        assert!(got == added, "{variant:?}: added to zeros");
        // The scale's gradient is sum of <dx_i, x_i> of the logits: compared with the fused kernels'.
        let of_scale = Tensor::zeros(&device, [1], DType::F32, "gradient").unwrap();
        loss.backward(&context, &one, &[None, None, Some((of_scale.clone(), Write::Overwrite))]).unwrap();
        assert!(relative(got[2][0], of_scale.item().unwrap() as f64) < 1e-4, "{variant:?}");
    }
}

/// Where one set alone gets a gradient, or the batch is too large for bands, logits are recomputed for each set.
#[test]
fn one_side_alone_is_fused() {
    on_host_and_cuda(ThreadOrder::Reverse, |device| {
        let (n, d, scale) = (150, 584, 1.0 / 0.07);
        for variant in [Variant::Tiled, Variant::TensorCores] {
            for dtype in [DType::Bf16, DType::F32] {
                let sets = rounded(dtype, related(5, n, d, 0.8));
                let loss = Contrastive { variant, ..pair(Scale::Fixed(scale)) };
                let want = reference(&loss, scale as f64, &sets, n);
                let inputs: Vec<_> =
                    sets.iter().map(|x| Tensor::from_slice(&device, [n, d], dtype, x).unwrap()).collect();
                let (_, context) = loss.forward(&inputs.iter().collect::<Vec<_>>()).unwrap();
                let one = Tensor::from_slice(&device, [0usize; 0], DType::F32, &[1.0]).unwrap();
                for set in 0..2 {
                    let dx = Tensor::empty(&device, [n, d], dtype, "gradient").unwrap();
                    let mut wanted = vec![None, None];
                    wanted[set] = Some((dx.clone(), Write::Overwrite));
                    loss.backward(&context, &one, &wanted).unwrap();
                    let bound = match (variant, dtype) {
                        (Variant::Tiled, DType::F32) => 1e-5,
                        (Variant::Tiled, DType::Bf16) => 2e-3,
                        _ => bounds(dtype, scale, d)[1],
                    };
                    assert_close(&format!("{variant:?} set {set}"), &dx.to_vec().unwrap(), &want.sets[set], bound);
                }
            }
        }
    });
}
