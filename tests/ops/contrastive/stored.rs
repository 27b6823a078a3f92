//! Loss and gradients made together, in one launch and in three; bands of stored gradients.

use x2ct::kernels::contrastive::check_wgmma;
use x2ct::ops::contrastive::{MAX_STORED, SigLip, ids};

use super::*;

/// (loss, gradients) by `with_gradients`.
pub(super) fn at_once(
    device: &Device,
    dtype: DType,
    loss: &Contrastive,
    sets: &[Vec<f32>],
    extra: &[f32],
    n: usize,
) -> (f32, Vec<Vec<f32>>) {
    let d = sets[0].len() / n;
    let mut inputs: Vec<_> = sets.iter().map(|x| Tensor::from_slice(device, [n, d], dtype, x).unwrap()).collect();
    inputs.extend(extra.iter().map(|&x| Tensor::from_slice(device, [1], DType::F32, &[x]).unwrap()));
    let (value, gradients) =
        loss.with_gradients(&inputs.iter().collect::<Vec<_>>(), &vec![true; inputs.len()]).unwrap();
    (value.item().unwrap(), gradients.into_iter().map(|g| g.unwrap().to_vec().unwrap()).collect())
}

#[test]
fn one_launch_and_three_agree_with_f64() {
    for (name, device) in devices() {
        for variant in [Variant::Tiled, Variant::OneLaunch] {
            for (n, d) in [(1, 1), (2, 3), (7, 48), (31, 17), (33, 129), (65, 64), (130, 5)] {
                for (case, scale) in SCALES.into_iter().enumerate() {
                    let sets: Vec<_> = (0..3).map(|k| normal(70 + k, n * d)).collect();
                    let loss = Contrastive {
                        sets: 3,
                        pairs: vec![(0, 1, 1.0), (2, 0, 0.5)],
                        scale: Scale::Learnable,
                        variant,
                        reduction: if n % 2 == 0 { Reduction::Sum } else { Reduction::Mean },
                        ids: (case == 2).then(|| ids(&device, &(0..n).map(|i| i % 5).collect::<Vec<_>>()).unwrap()),
                        ..pair(Scale::Learnable)
                    };
                    let want = reference(&loss, scale as f64, &sets, n);
                    let (value, mut got) = at_once(&device, DType::F32, &loss, &sets, &[scale], n);
                    let what = format!("{name} {variant:?} n={n} d={d} scale={scale}");
                    if n == 1 || d == 1 {
                        assert!(got.iter().flatten().all(|&g| g.abs() < 1e-5), "{what}");
                        continue;
                    }
                    assert!(relative(value, want.loss) < loss_bound(scale), "{what}: {value} for {}", want.loss);
                    let dscale = got.pop().unwrap()[0];
                    assert!(relative(dscale, want.scale) < 2e-5, "{what}: {dscale} for {}", want.scale);
                    for (got, want) in got.iter().zip(&want.sets) {
                        assert_close(&what, got, want, 1e-5);
                    }
                }
            }
        }
    }
}

#[test]
fn one_launch_knows_the_sigmoid_loss_and_bf16() {
    for (name, device) in devices() {
        for variant in [Variant::Tiled, Variant::OneLaunch] {
            let (n, d) = (70, 40);
            let sets: Vec<_> = related(71, n, d, 1.0).iter().map(|x| round_bf16(x)).collect();
            let loss = Contrastive { variant, ..SigLip::new(Scale::Learnable, Scale::Learnable).general() };
            let want = reference(&loss, 8.0, &sets, n);
            for (dtype, bound) in [(DType::F32, 1e-5), (DType::Bf16, 2e-3)] {
                let (value, got) = at_once(&device, dtype, &loss, &sets, &[8.0, BIAS], n);
                assert!(relative(value, want.loss) < loss_bound(8.0), "{name} {variant:?}: {value} for {}", want.loss);
                for (got, want) in got.iter().zip(&want.sets) {
                    assert_close(&format!("{name} {variant:?}"), got, want, bound);
                }
                assert!(relative(got[2][0], want.scale) < 2e-5 && relative(got[3][0], want.bias) < 2e-5, "{name}");
            }
        }
    }
}

/// The two schedules compute the same numbers in the same order.
#[test]
fn one_launch_equals_three_bitwise() {
    let (n, d) = (150, 40);
    let sets = related(72, n, d, 1.0);
    let bits = |order, variant| {
        let loss = Contrastive { variant, ..pair(Scale::Learnable) };
        let (value, gradients) = at_once(&host(order), DType::F32, &loss, &sets, &[14.0], n);
        let mut all = gradients.concat();
        all.push(value);
        all.iter().map(|x| x.to_bits()).collect::<Vec<_>>()
    };
    let first = bits(ThreadOrder::Forward, Variant::OneLaunch);
    for order in [ThreadOrder::Forward, ThreadOrder::Reverse, ThreadOrder::Seeded(5)] {
        for variant in [Variant::Tiled, Variant::OneLaunch] {
            assert!(first == bits(order, variant), "{variant:?} {order:?}");
        }
    }
}

#[test]
fn a_tape_takes_the_loss_with_its_gradients() {
    on_host_and_cuda(ThreadOrder::Forward, |device| {
        let (n, d) = (35, 24);
        let sets: Vec<_> = (0..3).map(|k| round_bf16(&normal(20 + k, n * d))).collect();
        let loss = TriModal { alpha: 0.5, ..TriModal::default() }.general().unwrap();
        let want = reference(&loss, 1.0 / 0.07, &sets, n);
        for (variant, dtype) in Variant::ALL.into_iter().flat_map(|v| [(v, DType::F32), (v, DType::Bf16)]) {
            if variant == Variant::Hopper && check_wgmma(device.launcher()).is_err() {
                continue;
            }
            let loss = Contrastive { variant, ..loss.clone() };
            let tape = Tape::recording();
            let tensors: Vec<_> = sets.iter().map(|x| Tensor::from_slice(&device, [n, d], dtype, x).unwrap()).collect();
            let (x, c, r) = (tape.leaf(&tensors[0]), tape.constant(&tensors[1]), tape.leaf(&tensors[2]));
            // Twice on one tape, and x used twice: the chain rule multiplies and adds.
            let y = loss.apply(&tape, &[&x, &c, &r]).unwrap();
            let total = tape.apply(x2ct::ops::pointwise::Add, &[&y, &y]).unwrap();
            // Added up in bf16, and rounded twice on the way.
            let bound = if dtype == DType::Bf16 {
                1e-2
            } else if variant.tensor_cores() {
                5e-3
            } else {
                1e-5
            };
            assert!(relative(total.tensor().item().unwrap(), 2.0 * want.loss) < bound);
            let gradients = tape.backward(&total).unwrap();
            assert!(gradients.get(&c).is_none());
            for (leaf, set) in [(&x, 0), (&r, 2)] {
                let want: Vec<f64> = want.sets[set].iter().map(|g| 2.0 * g).collect();
                assert_close(
                    &format!("{variant:?} {}", dtype.name()),
                    &gradients.get(leaf).unwrap().to_vec().unwrap(),
                    &want,
                    bound,
                );
            }
            let tape = Tape::inference();
            let vars: Vec<_> = tensors.iter().map(|t| tape.leaf(t)).collect();
            let y = loss.apply(&tape, &vars.iter().collect::<Vec<_>>()).unwrap();
            assert!(relative(y.tensor().item().unwrap(), want.loss) < bound && !y.needs_gradient());
        }
    });
}

/// What is frozen costs neither memory nor work: a pair of frozen sets keeps no similarities.
#[test]
fn frozen_pairs_keep_nothing() {
    let (n, d) = (256, 8);
    let sets: Vec<_> = (0..3).map(|k| normal(80 + k, n * d)).collect();
    let loss = TriModal { alpha: 1.0, ..TriModal::default() }.general().unwrap();
    let peak = |wanted: [bool; 3]| {
        let device = Device::host();
        let tensors: Vec<_> =
            sets.iter().map(|x| Tensor::from_slice(&device, [n, d], DType::F32, x).unwrap()).collect();
        device.reset_peak();
        let before = device.memory().live;
        loss.with_gradients(&tensors.iter().collect::<Vec<_>>(), &wanted).unwrap();
        device.memory().peak - before
    };
    let stored = n * n * 4;
    assert!(peak([true, true, true]) >= 3 * stored);
    let one = peak([true, false, false]);
    assert!((2 * stored..3 * stored).contains(&one), "{one}");
    assert!(peak([false, false, false]) < stored);
}

/// Both gradients of a batch too large to be kept: bands of several rows, the last one shorter, and the fused kernel agree.
#[test]
fn bands_agree_with_f64_beyond_what_is_kept() {
    let device = host(ThreadOrder::Seeded(2));
    let (n, d) = (MAX_STORED + 1, 24);
    let sets = related(73, n, d, 2.0);
    for (scale, with_scale) in [(Scale::Learnable, true), (Scale::Fixed(14.0), false)] {
        let loss = pair(scale);
        let want = reference(&loss, 14.0, &sets, n);
        let mut extra = vec![];
        if with_scale {
            extra.push(14.0);
        }
        let (value, got) = at_once(&device, DType::F32, &loss, &sets, &extra, n);
        assert!(relative(value, want.loss) < loss_bound(14.0), "{value} for {}", want.loss);
        for (got, want) in got.iter().zip(&want.sets) {
            assert_close("bands", got, want, 1e-5);
        }
        if with_scale {
            assert!(relative(got[2][0], want.scale) < 2e-5, "{} for {}", got[2][0], want.scale);
        }
    }
}

/// Loss and gradients together, softmax and sigmoid: a NaN is reported, norms do not matter, zero stays zero, equal rows are
/// at chance.
#[test]
fn extreme_embeddings_are_defined_where_nothing_is_recomputed() {
    let device = Device::host();
    let (n, d) = (70, 12);
    let base = related(74, n, d, 1.0);
    let softmax = |scale: f32| (pair(Scale::Fixed(scale)), scale);
    let siglip = (SigLip::new(Scale::Fixed(10.0), Scale::Fixed(BIAS)).general(), 10.0);
    for variant in [Variant::Tiled, Variant::OneLaunch] {
        for (loss, scale) in [softmax(10.0), softmax(100.0), siglip.clone()] {
            let loss = Contrastive { variant, ..loss };
            let what = format!("{variant:?} {:?} {scale}", loss.objective);
            let mut sets = base.clone();
            sets[1][69 * d] = f32::NAN;
            assert!(at_once(&device, DType::F32, &loss, &sets, &[], n).0.is_nan(), "{what}");
            let plain = reference(&loss, scale as f64, &base, n);
            for size in [1e-8f32, 1e25] {
                let sets: Vec<Vec<f32>> = base.iter().map(|x| x.iter().map(|v| v * size).collect()).collect();
                let (value, got) = at_once(&device, DType::F32, &loss, &sets, &[], n);
                assert!(relative(value, plain.loss) < loss_bound(scale), "{what} {size}: {value} for {}", plain.loss);
                for (got, want) in got.iter().zip(&plain.sets) {
                    assert_close(&what, &got.iter().map(|g| g * size).collect::<Vec<_>>(), want, 1e-5);
                }
            }
            let mut sets = base.clone();
            sets[0][2 * d..3 * d].fill(0.0);
            let want = reference(&loss, scale as f64, &sets, n);
            let (value, got) = at_once(&device, DType::F32, &loss, &sets, &[], n);
            assert!(relative(value, want.loss) < loss_bound(scale), "{what}: {value} for {}", want.loss);
            for row in [0, 2, 69] {
                let range = row * d..(row + 1) * d;
                assert_close(&what, &got[0][range.clone()], &want.sets[0][range], 1e-5);
            }
            let sets = vec![base[0][..d].repeat(n); 2];
            let want = reference(&loss, scale as f64, &sets, n);
            let (value, _) = at_once(&device, DType::F32, &loss, &sets, &[], n);
            assert!(relative(value, want.loss) < loss_bound(scale), "{what}: {value} for {}", want.loss);
        }
    }
}
