use x2ct::autograd::{Tape, check_gradients};
use x2ct::device::{Device, ThreadOrder};
use x2ct::ops::contrastive::{Contrastive, InfoNce, Objective, Reduction, Scale, TriModal, Variant};
use x2ct::tensor::{DType, Tensor};

use crate::support::{
    assert_close, devices, devices_with_wgmma, host, normal, normalised_rows, on_host_and_cuda, relative_l2, round_bf16,
};

mod figures;
mod hopper;
mod sharded;
mod sigmoid;
mod stored;
mod tensor_cores;

/// Loss, gradient of every set, and gradients of scale and bias, in f64.
struct Reference {
    loss: f64,
    sets: Vec<Vec<f64>>,
    scale: f64,
    bias: f64,
}

/// The definition, literally: normalise, logits, cross entropy of rows and columns (or the sigmoid loss of every logit), and
/// their gradients by the chain rule. The bias of a sigmoid loss is -3 where it is learnable.
fn reference(loss: &Contrastive, scale: f64, sets: &[Vec<f32>], n: usize) -> Reference {
    let ids = loss.ids.as_ref().map_or_else(|| (0..n).map(|i| i as f32).collect(), |ids| ids.to_vec().unwrap());
    let counts = |i: usize, j: usize| i == j || ids[i] != ids[j];
    let d = sets[0].len() / n;
    let factor = if loss.reduction == Reduction::Mean { 1.0 / n as f64 } else { 1.0 };
    let as_given = |x: &Vec<f32>| (x.iter().map(|&v| v as f64).collect(), vec![1.0; n]);
    let (unit, norms): (Vec<Vec<f64>>, Vec<Vec<f64>>) =
        sets.iter().map(|x| if loss.normalize { normalised_rows(x, d) } else { as_given(x) }).unzip();
    let mut out = Reference { loss: 0.0, sets: vec![vec![0.0; n * d]; sets.len()], scale: 0.0, bias: 0.0 };
    for &(a, b, weight) in &loss.pairs {
        let row = |set: usize, i: usize| &unit[set][i * d..(i + 1) * d];
        let mut c = vec![0.0; n * n];
        for i in 0..n {
            for j in 0..n {
                c[i * n + j] = row(a, i).iter().zip(row(b, j)).map(|(x, y)| x * y).sum();
            }
        }
        let mut h = vec![0.0; n * n];
        if let Objective::Sigmoid { bias } = loss.objective {
            let bias = if let Scale::Fixed(bias) = bias { bias as f64 } else { BIAS as f64 };
            for (i, j) in (0..n * n).map(|at| (at / n, at % n)).filter(|&(i, j)| counts(i, j)) {
                let z = if i == j { 1.0 } else { -1.0 };
                let wrong = -z * (scale * c[i * n + j] + bias);
                out.loss += factor * weight as f64 * (wrong.max(0.0) + (-wrong.abs()).exp().ln_1p());
                h[i * n + j] = -z * factor * weight as f64 / (1.0 + (-wrong).exp());
                out.bias += h[i * n + j];
            }
        }
        for transpose in [false, true] {
            let at = |i: usize, j: usize| if transpose { j * n + i } else { i * n + j };
            if loss.objective != Objective::Softmax {
                break;
            }
            for i in 0..n {
                // Without the match, so that neither the loss nor the diagonal of its gradient is a difference of like numbers.
                let l = |j: usize| scale * (c[at(i, j)] - c[i * n + i]);
                let shift = (0..n).filter(|&j| counts(i, j)).map(l).fold(0.0, f64::max);
                let e: Vec<f64> = (0..n).map(|j| if counts(i, j) { (l(j) - shift).exp() } else { 0.0 }).collect();
                let others: f64 = (0..n).filter(|&j| j != i).map(|j| e[j]).sum();
                let half = 0.5 * factor * weight as f64;
                out.loss += half * if shift == 0.0 { others.ln_1p() } else { shift + (others + e[i]).ln() };
                for j in 0..n {
                    h[at(i, j)] += half * if i == j { -others } else { e[j] } / (others + e[i]);
                }
            }
        }
        for i in 0..n {
            for j in 0..n {
                let g = h[i * n + j];
                out.scale += g * c[i * n + j];
                for k in 0..d {
                    out.sets[a][i * d + k] += scale * g * unit[b][j * d + k];
                    out.sets[b][j * d + k] += scale * g * unit[a][i * d + k];
                }
            }
        }
    }
    if loss.normalize {
        for ((g, u), m) in out.sets.iter_mut().zip(&unit).zip(&norms) {
            for i in 0..n {
                let (g, u) = (&mut g[i * d..(i + 1) * d], &u[i * d..(i + 1) * d]);
                // Below the bound the divisor is a constant.
                let along: f64 = if m[i] > 1e-12 { g.iter().zip(u).map(|(g, u)| g * u).sum() } else { 0.0 };
                g.iter_mut().zip(u).for_each(|(g, u)| *g = (*g - along * u) / m[i]);
            }
        }
    }
    out
}

/// A learnable bias.
const BIAS: f32 = -3.0;

fn pair(scale: Scale) -> Contrastive {
    InfoNce::new(scale).general()
}

/// A case run on a device: every set and the scale are leaves.
fn run(
    device: &Device,
    dtype: DType,
    loss: &Contrastive,
    scale: f32,
    sets: &[Vec<f32>],
    n: usize,
) -> (f32, Vec<Vec<f32>>, f32) {
    let tape = Tape::recording();
    let d = sets[0].len() / n;
    let mut leaves: Vec<_> =
        sets.iter().map(|x| tape.leaf(&Tensor::from_slice(device, [n, d], dtype, x).unwrap())).collect();
    if loss.scale == Scale::Learnable {
        leaves.push(tape.leaf(&Tensor::from_slice(device, [1], DType::F32, &[scale]).unwrap()));
    }
    let y = tape.apply(loss.clone(), &leaves.iter().collect::<Vec<_>>()).unwrap();
    assert!(y.tensor().shape().is_empty(), "the loss is a scalar");
    let value = y.tensor().item().unwrap();
    let gradients = tape.backward(&y).unwrap();
    let mut out: Vec<Vec<f32>> = leaves.iter().map(|leaf| gradients.get(leaf).unwrap().to_vec().unwrap()).collect();
    let dscale = if loss.scale == Scale::Learnable { out.pop().unwrap()[0] } else { f32::NAN };
    (value, out, dscale)
}

/// Two sets whose rows are related: `noise` 0 makes them equal.
fn related(seed: u64, n: usize, d: usize, noise: f32) -> Vec<Vec<f32>> {
    let shared = normal(seed, n * d);
    (1..3).map(|k| normal(seed + k, n * d).iter().zip(&shared).map(|(e, s)| s + noise * e).collect()).collect()
}

fn relative(got: f32, want: f64) -> f64 {
    (got as f64 - want).abs() / want.abs().max(1e-30)
}

/// A logit is as large as the scale and rounded to f32, and the loss inherits its absolute error.
fn loss_bound(scale: f32) -> f64 {
    1e-6 + scale as f64 * f32::EPSILON as f64
}

/// What tensor cores take from a logit of up to `scale`, as they cut their sums off instead of rounding them: the logit of a
/// pair that matches is a sum of d products of mostly one sign, which comes out small (see `tensor_core_bound`).
fn cut(variant: Variant, scale: f32, d: usize) -> f64 {
    if variant.tensor_cores() { scale as f64 * d as f64 / 8.0 * 2f64.powi(-24) } else { 0.0 }
}

/// `loss_bound` of a variant in bf16.
fn loss_bound_of(variant: Variant, scale: f32, d: usize) -> f64 {
    loss_bound(scale) + cut(variant, scale, d)
}

/// The same of the gradient of the scale: the gradients of logits are exponentials, and as far off relatively as the logits
/// are absolutely.
fn scale_bound_of(variant: Variant, scale: f32, d: usize) -> f64 {
    2e-5 + cut(variant, scale, d)
}

/// The variants that compute in f32, each in its own way.
const EXACT: [Variant; 2] = [Variant::Naive, Variant::Tiled];
/// Those whose passes are separate launches.
const SEPARATE: [Variant; 3] = [Variant::Naive, Variant::Tiled, Variant::TensorCores];

const SCALES: [f32; 4] = [1.0, std::f32::consts::E, 1.0 / 0.07, 100.0];

#[test]
fn agrees_with_f64_at_odd_sizes_on_every_device() {
    for (name, device) in devices() {
        for (n, d) in [(1, 1), (31, 1), (2, 3), (7, 48), (31, 17), (33, 129), (65, 64), (129, 5)] {
            for (case, scale) in SCALES.into_iter().enumerate() {
                for variant in EXACT {
                    let mut loss = pair(if case % 2 == 0 { Scale::Fixed(scale) } else { Scale::Learnable });
                    loss.variant = variant;
                    loss.reduction = if n % 2 == 0 { Reduction::Sum } else { Reduction::Mean };
                    let sets = related(n as u64, n, d, 1.0);
                    let want = reference(&loss, scale as f64, &sets, n);
                    let (value, gradients, dscale) = run(&device, DType::F32, &loss, scale, &sets, n);
                    let what = format!("{name} {variant:?} n={n} d={d} scale={scale}");
                    if n == 1 {
                        assert_eq!(value, 0.0, "{what}");
                        assert!(gradients.iter().flatten().all(|&g| g == 0.0), "{what}");
                        continue;
                    }
                    assert!(relative(value, want.loss) < loss_bound(scale), "{what}: loss {value} for {}", want.loss);
                    for ((got, want), x) in gradients.iter().zip(&want.sets).zip(&sets) {
                        if d > 1 {
                            assert_close(&what, got, want, 1e-5);
                        } else {
                            // In one dimension nothing is left after the projection but what the exponentials were off by
                            // (2 units in the last place on a GPU), of a logit's gradient of up to scale / n.
                            let along = |(g, x): (&f32, &f32)| (g * x).abs() as f64 <= 1e-6 * scale as f64 / n as f64;
                            assert!(got.iter().zip(x).all(along), "{what}: {got:?}");
                        }
                    }
                    if loss.scale == Scale::Learnable {
                        assert!(relative(dscale, want.scale) < 2e-5, "{what}: {dscale} for {}", want.scale);
                    }
                }
            }
        }
    }
}

#[test]
fn agrees_with_f64_at_the_papers_size_and_beyond() {
    let device = Device::host();
    for (n, d) in [(360, 512), (1000, 48), (1025, 40), (40, 768), (33, 1025)] {
        let sets = related(3, n, d, 5.0);
        for loss in [pair(Scale::Fixed(1.0 / 0.07)), Contrastive { normalize: false, ..pair(Scale::Fixed(0.05)) }] {
            let Scale::Fixed(scale) = loss.scale else { unreachable!() };
            let want = reference(&loss, scale as f64, &sets, n);
            let (value, gradients, _) = run(&device, DType::F32, &loss, scale, &sets, n);
            assert!(relative(value, want.loss) < 1e-6, "n={n} d={d}: {value} for {}", want.loss);
            for (got, want) in gradients.iter().zip(&want.sets) {
                assert_close(&format!("n={n} d={d}"), got, want, 1e-5);
            }
        }
    }
}

#[test]
fn bf16_storage_costs_no_more_than_its_rounding() {
    for (name, device) in devices() {
        for (n, d, scale) in [(1, 8, 1.0), (33, 48, 1.0 / 0.07), (65, 129, 100.0), (150, 584, 1.0 / 0.07)] {
            for variant in SEPARATE {
                if variant == Variant::Naive && n > 100 {
                    continue;
                }
                let sets: Vec<_> = related(5, n, d, 0.8).iter().map(|x| round_bf16(x)).collect();
                let loss = Contrastive { variant, ..pair(Scale::Fixed(scale)) };
                let want = reference(&loss, scale as f64, &sets, n);
                let (value, gradients, _) = run(&device, DType::Bf16, &loss, scale, &sets, n);
                let what = format!("{name} {variant:?} n={n} d={d}");
                let of_loss = loss_bound_of(variant, scale, d);
                assert!(relative(value, want.loss) < of_loss, "{what}: {value} for {}", want.loss);
                // Rounded once, to 8 bits: at most 2^-9 an element. Tensor cores also round the gradient of the logits.
                let bound = if variant == Variant::TensorCores { 5e-3 } else { 2e-3 };
                for (got, want) in gradients.iter().zip(&want.sets) {
                    assert_close(&what, got, want, bound);
                }
            }
        }
    }
}

#[test]
fn tf32_is_as_good_as_its_ten_bits() {
    for (name, device) in devices() {
        for (n, d, scale) in [(1, 4, 1.0), (2, 3, 3.0), (31, 17, 1.0 / 0.07), (140, 520, 100.0)] {
            let loss = Contrastive { variant: Variant::TensorCores, ..pair(Scale::Learnable) };
            let sets = related(6, n, d, 1.0);
            let want = reference(&loss, scale as f64, &sets, n);
            let (value, gradients, dscale) = run(&device, DType::F32, &loss, scale, &sets, n);
            let what = format!("{name} n={n} d={d}");
            // A logit is off by a few 2^-11 / sqrt(d) of the scale.
            let bound = 5e-4 + 2.0 * scale as f64 / 2048.0 / (d as f64).sqrt();
            assert!((value as f64 - want.loss).abs() <= bound * want.loss, "{what}: {value} for {}", want.loss);
            assert!(
                (dscale as f64 - want.scale).abs() <= 2.0 * bound * want.scale.abs(),
                "{what}: {dscale} for {}",
                want.scale
            );
            for (got, want) in gradients.iter().zip(&want.sets) {
                assert_close(&what, got, want, bound);
            }
        }
    }
}

#[test]
fn tensor_cores_cover_many_tiles_terms_and_strips() {
    let device = host(ThreadOrder::Seeded(11));
    let (n, d) = (300, 24);
    let sets: Vec<_> = (0..3).map(|k| round_bf16(&normal(60 + k, n * d))).collect();
    for temperature in [0.05, 0.005] {
        let variant = Variant::TensorCores;
        let op = TriModal { alpha: 0.5, temperature, variant, ..TriModal::default() };
        let loss = op.general().unwrap();
        let want = reference(&loss, 1.0 / temperature as f64, &sets, n);
        let (value, gradients, _) = run(&device, DType::Bf16, &loss, 0.0, &sets, n);
        let of_loss = loss_bound_of(variant, 1.0 / temperature, d);
        assert!(relative(value, want.loss) < of_loss, "{value} for {}", want.loss);
        for (got, want) in gradients.iter().zip(&want.sets) {
            assert_close(&format!("temperature {temperature}"), got, want, 5e-3);
        }
    }
}

#[test]
fn tri_modal_weighs_its_pairs_and_skips_what_is_frozen() {
    let device = host(ThreadOrder::Seeded(3));
    let (n, d) = (35, 24);
    let sets: Vec<_> = (0..3).map(|k| normal(20 + k, n * d)).collect();
    for (alpha, beta, gamma) in [(0.0, 1.0, 1.0), (0.5, 1.0, 2.0), (1.0, 0.0, 1.0), (0.0, 0.0, 1.0), (1.0, 0.0, 0.0)] {
        let op = TriModal { alpha, beta, gamma, reduction: Reduction::Sum, ..TriModal::default() };
        let want = reference(&op.general().unwrap(), 1.0 / 0.07, &sets, n);
        for leaves in [0b111, 0b001, 0b110] {
            let tape = Tape::recording();
            let vars: Vec<_> = sets
                .iter()
                .enumerate()
                .map(|(i, x)| {
                    let x = Tensor::from_slice(&device, [n, d], DType::F32, x).unwrap();
                    if leaves >> i & 1 == 1 { tape.leaf(&x) } else { tape.constant(&x) }
                })
                .collect();
            let y = tape.apply(op, &vars.iter().collect::<Vec<_>>()).unwrap();
            assert!(relative(y.tensor().item().unwrap(), want.loss) < 1e-6);
            let gradients = tape.backward(&y).unwrap();
            for (i, var) in vars.iter().enumerate() {
                let got = gradients.get(var).map(|g| g.to_vec().unwrap());
                assert_eq!(got.is_some(), leaves >> i & 1 == 1);
                if let Some(got) = got {
                    assert_close(&format!("{alpha} {beta} {gamma} input {i}"), &got, &want.sets[i], 1e-5);
                }
            }
        }
    }
}

#[test]
fn more_pairs_than_a_launch_takes_add_up() {
    let (n, d) = (19, 12);
    let sets: Vec<_> = (0..6).map(|k| normal(40 + k, n * d)).collect();
    let mut pairs = Vec::new();
    for a in 0..6 {
        for b in 0..a {
            pairs.push((a, b, 0.1 * (1 + a + b) as f32));
        }
    }
    for scale in [Scale::Fixed(7.0), Scale::Learnable] {
        let loss = Contrastive { sets: 6, pairs: pairs.clone(), ..pair(scale) };
        let want = reference(&loss, 7.0, &sets, n);
        let (value, gradients, dscale) = run(&Device::host(), DType::F32, &loss, 7.0, &sets, n);
        assert!(relative(value, want.loss) < 1e-6);
        for (got, want) in gradients.iter().zip(&want.sets) {
            assert_close("six sets", got, want, 1e-5);
        }
        if scale == Scale::Learnable {
            assert!(relative(dscale, want.scale) < 1e-5, "{dscale} for {}", want.scale);
        }
    }
}

/// Values of X2CT-CLIP's loss on three 5x7 matrices given by a formula, computed with PyTorch in f32.
#[test]
fn agrees_with_published_definition_on_fixed_matrices() {
    let matrix = |a: f64, k: f64| -> Vec<f32> {
        (0..35).map(|n| (a * n as f64 + 0.003 * (n % 97) as f64 + k).sin() as f32).collect()
    };
    let (ct, report, cxr) = (matrix(0.31, 0.1), matrix(0.57, 0.4), matrix(0.83, 0.9));
    let device = Device::host();
    let tensor = |x: &[f32]| Tensor::from_slice(&device, [5, 7], DType::F32, x).unwrap();
    let value = |scale: f32, beta: f32, gamma: f32| {
        let tape = Tape::recording();
        let x = tape.leaf(&tensor(&cxr));
        let op = TriModal { beta, gamma, temperature: 1.0 / scale, ..TriModal::default() };
        let y = tape.apply(op, &[&x, &tape.constant(&tensor(&ct)), &tape.constant(&tensor(&report))]).unwrap();
        (y.tensor().item().unwrap(), tape.backward(&y).unwrap().get(&x).unwrap().to_vec().unwrap())
    };
    let scale = 1.0 / 0.07;
    assert!((value(scale, 1.0, 0.0).0 - 8.274037).abs() < 1e-5);
    assert!((value(scale, 0.0, 1.0).0 - 7.546937).abs() < 1e-5);
    let (sum, gradient) = value(scale, 1.0, 1.0);
    assert!((sum - 15.820974).abs() < 1e-5);
    let row0 = [-0.13348, -1.564438, -2.059383, -1.758893, -1.200145, -0.912922, -1.066243];
    assert_close("row 0", &gradient[..7], &row0, 2e-6);
    let norm = gradient.iter().map(|&g| (g as f64).powi(2)).sum::<f64>().sqrt();
    assert!((norm - 6.517691).abs() < 1e-5);
    assert!((value(std::f32::consts::E, 1.0, 1.0).0 - 4.561434).abs() < 1e-5);
    assert!((value(1.0, 1.0, 1.0).0 - 3.482882).abs() < 1e-5);
}

#[test]
fn gradients_agree_with_finite_differences() {
    let device = Device::host();
    let (n, d) = (9, 6);
    let mut inputs: Vec<_> = related(8, n, d, 1.0).into_iter().map(|x| (vec![n, d].into(), x)).collect();
    for report in check_gradients(&device, &pair(Scale::Fixed(5.0)), &inputs, 1e-2).unwrap() {
        assert!(report.relative_l2 < 3e-3, "{report:?}");
    }
    inputs.push((vec![1].into(), vec![3.0]));
    for report in check_gradients(&device, &pair(Scale::Learnable), &inputs, 1e-2).unwrap() {
        assert!(report.relative_l2 < 3e-3, "{report:?}");
    }
}

/// Matching pairs far closer than any other: losses near zero keep their relative accuracy, in value and gradient.
#[test]
fn aligned_pairs_keep_their_accuracy() {
    let (n, d) = (33, 64);
    let sets = related(11, n, d, 0.05);
    for scale in [1.0 / 0.07, 100.0] {
        let bound = loss_bound(scale);
        let loss = pair(Scale::Fixed(scale));
        let want = reference(&loss, scale as f64, &sets, n);
        assert!(want.loss < 1e-3, "the case is meant to be easy: {}", want.loss);
        let (value, gradients, _) = run(&Device::host(), DType::F32, &loss, scale, &sets, n);
        assert!(relative(value, want.loss) < bound, "scale {scale}: {value} for {}", want.loss);
        for (got, want) in gradients.iter().zip(&want.sets) {
            assert!(relative_l2(got, want) < 1e-5, "scale {scale}: {}", relative_l2(got, want));
        }
    }
}

#[test]
fn identical_rows_give_the_uniform_loss() {
    let (n, d) = (37, 10);
    let row = normal(12, d);
    let sets = vec![row.repeat(n), row.repeat(n)];
    for variant in EXACT {
        for scale in SCALES {
            let loss = Contrastive { variant, ..pair(Scale::Fixed(scale)) };
            let (value, gradients, _) = run(&Device::host(), DType::F32, &loss, scale, &sets, n);
            assert!(relative(value, (n as f64).ln()) < 1e-6, "{variant:?} {scale}: {value}");
            assert!(gradients.iter().flatten().all(|g| g.abs() < 1e-5 * scale));
        }
    }
}

#[test]
fn unrelated_embeddings_are_at_chance() {
    let (n, d) = (256, 512);
    let sets = vec![normal(13, n * d), normal(14, n * d)];
    let (value, ..) = run(&Device::host(), DType::F32, &pair(Scale::Fixed(1.0)), 1.0, &sets, n);
    assert!((value as f64 - (n as f64).ln()).abs() < 0.01, "{value}");
}

#[test]
fn norms_from_tiny_to_huge_do_not_matter_when_normalising() {
    let (n, d) = (21, 33);
    let base = related(15, n, d, 1.0);
    for variant in EXACT {
        let loss = Contrastive { variant, ..pair(Scale::Fixed(20.0)) };
        let plain = run(&Device::host(), DType::F32, &loss, 20.0, &base, n);
        for size in [1e-8f32, 1e25] {
            let sets: Vec<Vec<f32>> = base.iter().map(|x| x.iter().map(|v| v * size).collect()).collect();
            let (value, gradients, _) = run(&Device::host(), DType::F32, &loss, 20.0, &sets, n);
            assert!(relative(value, plain.0 as f64) < 1e-6, "{variant:?} {size}: {value} for {}", plain.0);
            for (got, want) in gradients.iter().zip(&plain.1) {
                let got: Vec<f32> = got.iter().map(|g| g * size).collect();
                let want: Vec<f64> = want.iter().map(|&g| g as f64).collect();
                assert_close(&format!("{variant:?} {size}"), &got, &want, 1e-5);
            }
        }
    }
}

#[test]
fn huge_logits_need_no_care_from_the_caller() {
    let (n, d) = (65, 8);
    for variant in EXACT {
        let loss = Contrastive { normalize: false, variant, ..pair(Scale::Fixed(1.0)) };
        let sets: Vec<Vec<f32>> = related(16, n, d, 1.0).iter().map(|x| x.iter().map(|v| v * 1e6).collect()).collect();
        let want = reference(&loss, 1.0, &sets, n);
        let (value, gradients, _) = run(&Device::host(), DType::F32, &loss, 1.0, &sets, n);
        assert!(relative(value, want.loss) < 1e-5, "{variant:?}: {value} for {}", want.loss);
        for (got, want) in gradients.iter().zip(&want.sets) {
            assert_close(&format!("{variant:?}"), got, want, 1e-5);
        }
    }
}

#[test]
fn a_zero_embedding_is_divided_by_a_constant() {
    let (n, d) = (9, 16);
    let mut sets = related(17, n, d, 1.0);
    sets[0][2 * d..3 * d].fill(0.0);
    for variant in EXACT {
        let loss = Contrastive { variant, ..pair(Scale::Fixed(2.0)) };
        let want = reference(&loss, 2.0, &sets, n);
        let (value, gradients, _) = run(&Device::host(), DType::F32, &loss, 2.0, &sets, n);
        assert!(relative(value, want.loss) < 1e-6);
        for (set, (gradient, want)) in gradients.iter().zip(&want.sets).enumerate().take(2) {
            for row in 0..n {
                let range = row * d..(row + 1) * d;
                assert_close(&format!("{variant:?} set {set} row {row}"), &gradient[range.clone()], &want[range], 1e-5);
            }
        }
    }
}

#[test]
fn a_nan_is_reported_by_the_loss() {
    let (n, d) = (70, 12);
    for variant in SEPARATE {
        for scale in [Scale::Fixed(10.0), Scale::Fixed(100.0), Scale::Learnable] {
            for (set, at) in [(0, 5 * d + 3), (1, 69 * d)] {
                let mut sets = related(18, n, d, 1.0);
                sets[set][at] = f32::NAN;
                let loss = Contrastive { variant, ..pair(scale) };
                let (value, ..) = run(&Device::host(), DType::F32, &loss, 10.0, &sets, n);
                assert!(value.is_nan(), "{variant:?} {scale:?}: {value}");
            }
        }
    }
}

#[test]
fn two_runs_are_bitwise_equal() {
    let (n, d) = (150, 40);
    let sets = related(19, n, d, 1.0);
    let bits = |order, variant| {
        let loss = Contrastive { variant, ..pair(Scale::Learnable) };
        let (value, gradients, dscale) = run(&host(order), DType::F32, &loss, 14.0, &sets, n);
        let mut all = gradients.concat();
        all.extend([value, dscale]);
        all.iter().map(|x| x.to_bits()).collect::<Vec<_>>()
    };
    for variant in SEPARATE {
        let first = bits(ThreadOrder::Forward, variant);
        for order in [ThreadOrder::Forward, ThreadOrder::Reverse, ThreadOrder::Seeded(5)] {
            assert!(first == bits(order, variant), "{variant:?} {order:?}");
        }
    }
}

#[test]
fn gradients_accumulate_where_a_set_is_used_twice() {
    let device = Device::host();
    let (n, d) = (13, 9);
    let sets = related(21, n, d, 1.0);
    let op = InfoNce::new(Scale::Fixed(4.0));
    let single = run(&device, DType::F32, &op.general(), 4.0, &sets, n);
    let tape = Tape::recording();
    let leaves: Vec<_> =
        sets.iter().map(|x| tape.leaf(&Tensor::from_slice(&device, [n, d], DType::F32, x).unwrap())).collect();
    let first = tape.apply(op, &[&leaves[0], &leaves[1]]).unwrap();
    let second = tape.apply(op, &[&leaves[1], &leaves[0]]).unwrap();
    let total = tape.apply(x2ct::ops::pointwise::Add, &[&first, &second]).unwrap();
    assert!(relative(total.tensor().item().unwrap(), 2.0 * single.0 as f64) < 1e-6);
    let gradients = tape.backward(&total).unwrap();
    for (leaf, want) in leaves.iter().zip(&single.1) {
        let want: Vec<f64> = want.iter().map(|&g| 2.0 * g as f64).collect();
        assert_close("twice", &gradients.get(leaf).unwrap().to_vec().unwrap(), &want, 1e-5);
    }
}

#[test]
fn memory_grows_with_the_batch_not_with_its_square() {
    let d = 32;
    let extra = |n: usize| {
        let device = Device::host_with(Default::default());
        let tape = Tape::recording();
        let leaves: Vec<_> = related(22, n, d, 1.0)
            .iter()
            .map(|x| tape.leaf(&Tensor::from_slice(&device, [n, d], DType::F32, x).unwrap()))
            .collect();
        device.reset_peak();
        let before = device.memory().live;
        let y = tape.apply(InfoNce::new(Scale::Fixed(14.0)), &[&leaves[0], &leaves[1]]).unwrap();
        let gradients = tape.backward(&y).unwrap();
        drop(gradients);
        device.memory().peak - before
    };
    // Two gradients; per embedding 2 directions x 16 strips x 2 numbers of workspace and 8 further numbers; a band of a MiB.
    for n in [4096, 8192] {
        let bound = n * 4 * (2 * d + 2 * 16 * 2 + 8) + (5 << 18);
        assert!(extra(n) <= bound, "n = {n}: {} bytes, bound {bound}, n x n would be {}", extra(n), 4 * n * n);
    }
}

#[test]
fn bad_input_is_refused_in_one_line() {
    let device = Device::host();
    let zeros = |shape: [usize; 2], dtype| Tensor::zeros(&device, shape, dtype, "x").unwrap();
    let a = zeros([4, 8], DType::F32);
    let op = InfoNce::new(Scale::Fixed(1.0));
    let fails = |loss: &Contrastive, inputs: &[&Tensor], words: &[&str]| {
        let text = loss.forward(inputs).err().expect("an error").to_string();
        assert!(words.iter().all(|w| text.contains(w)) && !text.contains('\n'), "{text}");
    };
    fails(&op.general(), &[&a, &zeros([5, 8], DType::F32)], &["embeddings", "[5, 8]", "[4, 8]"]);
    fails(&op.general(), &[&a, &zeros([4, 8], DType::Bf16)], &["embeddings", "bf16"]);
    fails(&op.general(), &[&a, &Tensor::zeros(&Device::host(), [4, 8], DType::F32, "x").unwrap()], &["others are on"]);
    fails(&op.general(), &[&zeros([0, 8], DType::F32), &zeros([0, 8], DType::F32)], &["the batch is empty"]);
    fails(&op.general(), &[&a.reshape([2, 4, 4]).unwrap(), &a], &["3 axes"]);
    fails(&op.general(), &[&a], &["1 inputs for 2"]);
    fails(&pair(Scale::Fixed(f32::NAN)), &[&a, &a], &["scale is NaN"]);
    fails(&pair(Scale::Learnable), &[&a, &a], &["pass the sets and the scale"]);
    fails(&pair(Scale::Learnable), &[&a, &a, &a], &["one element"]);
    fails(&Contrastive { pairs: vec![(0, 2, 1.0)], ..op.general() }, &[&a, &a], &["(0, 2)"]);
    fails(&Contrastive { pairs: vec![(0, 1, 0.0)], ..op.general() }, &[&a, &a], &["every weight is zero"]);
    for temperature in [0.0, -1.0, f32::NAN] {
        let text = TriModal { temperature, ..TriModal::default() }.general().unwrap_err().to_string();
        assert!(text.contains("temperature"), "{text}");
    }
}
