//! The variant for compute capability 9.0, on the host: the same kernels, with wgmma and bulk copies as the shim gives them.

use x2ct::ops::contrastive::SigLip;

use super::*;

fn hopper(loss: Contrastive) -> Contrastive {
    Contrastive { variant: Variant::Hopper, ..loss }
}

fn rounded(sets: Vec<Vec<f32>>) -> Vec<Vec<f32>> {
    sets.iter().map(|x| round_bf16(x)).collect()
}

/// Loss and gradients of bf16 embeddings against f64: the products are exact, the gradient of the logits and the result are
/// rounded to 8 bits.
fn check(what: &str, device: &Device, loss: &Contrastive, scale: f32, sets: &[Vec<f32>], n: usize) {
    let want = reference(loss, scale as f64, sets, n);
    let (value, gradients, dscale) = run(device, DType::Bf16, loss, scale, sets, n);
    if n == 1 {
        assert_eq!(value, 0.0, "{what}");
        assert!(gradients.iter().flatten().all(|&g| g == 0.0), "{what}");
        return;
    }
    let of_loss = loss_bound_of(Variant::Hopper, scale, sets[0].len() / n);
    assert!(relative(value, want.loss) < of_loss, "{what}: loss {value} for {}", want.loss);
    for (got, want) in gradients.iter().zip(&want.sets) {
        assert_close(what, got, want, 5e-3);
    }
    if loss.scale == Scale::Learnable {
        let of_scale = scale_bound_of(Variant::Hopper, scale, sets[0].len() / n);
        assert!(relative(dscale, want.scale) < of_scale, "{what}: {dscale} for {}", want.scale);
    }
}

#[test]
fn agrees_with_f64_at_odd_sizes_on_every_device() {
    let sizes = [(1, 48), (2, 48), (7, 48), (31, 1), (31, 129), (33, 512), (129, 48), (129, 577), (40, 768)];
    for (name, device) in devices_with_wgmma() {
        for (case, (n, d)) in sizes.into_iter().enumerate() {
            let scale = SCALES[case % 4];
            let scales = if case % 2 == 0 { Scale::Fixed(scale) } else { Scale::Learnable };
            let mut loss = hopper(pair(scales));
            loss.reduction = if n % 2 == 0 { Reduction::Sum } else { Reduction::Mean };
            let sets = rounded(related(n as u64, n, d, 1.0));
            if d == 1 {
                // In one dimension nothing is left after the projection.
                let (value, ..) = run(&device, DType::Bf16, &loss, scale, &sets, n);
                let want = reference(&loss, scale as f64, &sets, n).loss;
                let of_loss = loss_bound_of(Variant::Hopper, scale, d);
                assert!(relative(value, want) < of_loss, "{name} d=1: {value} for {want}");
                continue;
            }
            check(&format!("{name} n={n} d={d} scale={scale}"), &device, &loss, scale, &sets, n);
        }
    }
}

#[test]
fn agrees_with_f64_at_the_papers_size_and_beyond() {
    for (n, d) in [(360, 512), (1000, 48), (1025, 40)] {
        for scale in [1.0 / 0.07, 100.0] {
            let sets = rounded(related(3, n, d, 5.0));
            let device = host(ThreadOrder::Seeded(n as u64));
            check(&format!("n={n} d={d} scale={scale}"), &device, &hopper(pair(Scale::Fixed(scale))), scale, &sets, n);
        }
    }
}

#[test]
fn embeddings_are_used_as_they_are_where_not_normalised() {
    let (n, d) = (150, 72);
    let sets = rounded(related(31, n, d, 1.0));
    for (name, device) in devices_with_wgmma() {
        for scale in [0.05, 1.0] {
            let loss = hopper(Contrastive { normalize: false, ..pair(Scale::Fixed(scale)) });
            let want = reference(&loss, scale as f64, &sets, n);
            let (value, gradients, _) = run(&device, DType::Bf16, &loss, scale, &sets, n);
            assert!(relative(value, want.loss) < 1e-5, "{name}: {value} for {}", want.loss);
            for (got, want) in gradients.iter().zip(&want.sets) {
                assert_close(&name, got, want, 5e-3);
            }
        }
    }
}

/// More tiles of rows and columns than strips of them, several terms of a gradient, and items that count nowhere.
#[test]
fn covers_many_tiles_terms_strips_and_ids() {
    let device = host(ThreadOrder::Seeded(11));
    let (n, d) = (300, 24);
    let sets: Vec<_> = (0..3).map(|k| round_bf16(&normal(60 + k, n * d))).collect();
    let ids: Vec<f32> = (0..n).map(|i| (i % 190) as f32).collect();
    for temperature in [0.05, 0.005] {
        for ids in [None, Some(Tensor::from_slice(&device, [n], DType::F32, &ids).unwrap())] {
            let op = TriModal { alpha: 0.5, temperature, ..TriModal::default() };
            let loss = hopper(Contrastive { ids, ..op.general().unwrap() });
            check(&format!("temperature {temperature}"), &device, &loss, 1.0 / temperature, &sets, n);
        }
    }
    // 17 tiles: a strip has two.
    let (n, d) = (2100, 8);
    let sets = rounded(related(61, n, d, 2.0));
    check("17 tiles", &device, &hopper(pair(Scale::Fixed(10.0))), 10.0, &sets, n);
}

#[test]
fn sigmoid_losses_take_the_same_tiles() {
    for (name, device) in devices_with_wgmma() {
        for (n, d) in [(1, 8), (33, 48), (140, 72)] {
            let loss = hopper(SigLip::new(Scale::Fixed(10.0), Scale::Fixed(-3.0)).general());
            let sets = rounded(related(23, n, d, 1.0));
            let want = reference(&loss, 10.0, &sets, n);
            let (value, gradients, _) = run(&device, DType::Bf16, &loss, 10.0, &sets, n);
            assert!(relative(value, want.loss) < 1e-5, "{name} n={n}: {value} for {}", want.loss);
            for (got, want) in gradients.iter().zip(&want.sets) {
                assert_close(&format!("{name} n={n}"), got, want, 5e-3);
            }
        }
    }
}

/// The powers of two that bring norms to [1, 2) change nothing, wherever bf16 holds the embeddings.
#[test]
fn norms_from_tiny_to_huge_do_not_matter_when_normalising() {
    let (n, d) = (41, 200);
    let base = rounded(related(15, n, d, 1.0));
    let loss = hopper(pair(Scale::Fixed(20.0)));
    let plain = run(&Device::host(), DType::Bf16, &loss, 20.0, &base, n);
    for power in [-30, 30, 90] {
        let size = 2f32.powi(power);
        let sets: Vec<Vec<f32>> = base.iter().map(|x| x.iter().map(|v| v * size).collect()).collect();
        let (value, gradients, _) = run(&Device::host(), DType::Bf16, &loss, 20.0, &sets, n);
        assert_eq!(value, plain.0, "2^{power}");
        for (got, want) in gradients.iter().zip(&plain.1) {
            let got: Vec<f32> = got.iter().map(|g| g * size).collect();
            let want: Vec<f64> = want.iter().map(|&g| g as f64).collect();
            assert_close(&format!("2^{power}"), &got, &want, 2e-3);
        }
    }
}

#[test]
fn zero_rows_and_nan_are_what_they_are_elsewhere() {
    let (n, d) = (70, 16);
    let loss = hopper(pair(Scale::Fixed(2.0)));
    let mut sets = rounded(related(17, n, d, 1.0));
    sets[0][2 * d..3 * d].fill(0.0);
    let want = reference(&loss, 2.0, &sets, n);
    let (value, gradients, _) = run(&Device::host(), DType::Bf16, &loss, 2.0, &sets, n);
    let of_loss = loss_bound_of(Variant::Hopper, 2.0, d);
    assert!(relative(value, want.loss) < of_loss, "{value} for {}", want.loss);
    for (set, (gradient, want)) in gradients.iter().zip(&want.sets).enumerate() {
        for row in 0..n {
            let range = row * d..(row + 1) * d;
            assert_close(&format!("set {set} row {row}"), &gradient[range.clone()], &want[range], 1e-2);
        }
    }
    for scale in [Scale::Fixed(10.0), Scale::Fixed(100.0), Scale::Learnable] {
        for (set, at) in [(0, 5 * d + 3), (1, 69 * d)] {
            let mut sets = related(18, n, d, 1.0);
            sets[set][at] = f32::NAN;
            let (value, ..) = run(&Device::host(), DType::Bf16, &hopper(pair(scale)), 10.0, &sets, n);
            assert!(value.is_nan(), "{scale:?}: {value}");
        }
    }
}

#[test]
fn two_runs_are_bitwise_equal() {
    let (n, d) = (150, 40);
    let sets = rounded(related(19, n, d, 1.0));
    let bits = |order| {
        let (value, gradients, dscale) =
            run(&host(order), DType::Bf16, &hopper(pair(Scale::Learnable)), 14.0, &sets, n);
        let mut all = gradients.concat();
        all.extend([value, dscale]);
        all.iter().map(|x| x.to_bits()).collect::<Vec<_>>()
    };
    let first = bits(ThreadOrder::Forward);
    for order in [ThreadOrder::Forward, ThreadOrder::Reverse, ThreadOrder::Seeded(5), ThreadOrder::Seeded(6)] {
        assert!(first == bits(order), "{order:?}");
    }
}

/// f32 embeddings go through TF32 as with tensor cores of any kind, bit for bit.
#[test]
fn f32_embeddings_are_multiplied_in_tf32() {
    let (n, d) = (40, 33);
    let sets = related(20, n, d, 1.0);
    let results = [Variant::Hopper, Variant::TensorCores].map(|variant| {
        let loss = Contrastive { variant, ..pair(Scale::Fixed(14.0)) };
        run(&Device::host(), DType::F32, &loss, 14.0, &sets, n)
    });
    assert_eq!(results[0].0.to_bits(), results[1].0.to_bits());
    assert_eq!(results[0].1, results[1].1);
}

#[test]
fn the_scale_alone_and_one_frozen_set_get_their_gradients() {
    let device = host(ThreadOrder::Seeded(2));
    let (n, d) = (77, 130);
    let sets = rounded(related(24, n, d, 1.0));
    let loss = hopper(pair(Scale::Learnable));
    let want = reference(&loss, 7.0, &sets, n);
    for wanted in [[false, false, true], [false, true, false], [true, false, true]] {
        let tape = Tape::recording();
        let mut inputs: Vec<Tensor> =
            sets.iter().map(|x| Tensor::from_slice(&device, [n, d], DType::Bf16, x).unwrap()).collect();
        inputs.push(Tensor::from_slice(&device, [1], DType::F32, &[7.0]).unwrap());
        let vars: Vec<_> =
            inputs.iter().zip(wanted).map(|(x, w)| if w { tape.leaf(x) } else { tape.constant(x) }).collect();
        let y = tape.apply(loss.clone(), &vars.iter().collect::<Vec<_>>()).unwrap();
        let gradients = tape.backward(&y).unwrap();
        for (i, var) in vars.iter().enumerate() {
            let got = gradients.get(var).map(|g| g.to_vec().unwrap());
            assert_eq!(got.is_some(), wanted[i]);
            match got {
                Some(got) if i < 2 => assert_close(&format!("set {i}"), &got, &want.sets[i], 5e-3),
                Some(got) => {
                    let of_scale = scale_bound_of(Variant::Hopper, 7.0, d);
                    assert!(relative(got[0], want.scale) < of_scale, "{got:?} for {}", want.scale);
                }
                None => {}
            }
        }
    }
}

/// Beyond gradients and O(n) numbers: one copy of each set.
#[test]
fn memory_grows_with_the_batch_not_with_its_square() {
    let (n, d) = (2048, 64);
    let device = Device::host();
    let tape = Tape::recording();
    let leaves: Vec<_> = related(22, n, d, 1.0)
        .iter()
        .map(|x| tape.leaf(&Tensor::from_slice(&device, [n, d], DType::Bf16, x).unwrap()))
        .collect();
    device.reset_peak();
    let before = device.memory().live;
    let y = tape.apply(hopper(pair(Scale::Fixed(14.0))), &[&leaves[0], &leaves[1]]).unwrap();
    drop(tape.backward(&y).unwrap());
    let extra = device.memory().peak - before;
    // Two gradients and two copies of bf16; 2 x 16 strips x 2 numbers and 10 further numbers an embedding.
    let bound = n * 2 * (2 + 2) * d + n * 4 * (2 * 16 * 2 + 10) + (1 << 12);
    assert!(extra <= bound, "{extra} bytes, bound {bound}, n x n would be {}", 4 * n * n);
}

#[test]
fn no_build_but_those_for_sm_90a_and_the_host_takes_it() {
    use x2ct::kernels::{Entry, Grid, KernelConfig, Launcher, Properties, contrastive};

    /// A GPU whose module holds the kernels without wgmma.
    struct Older(Properties, KernelConfig);
    // Safety: it launches nothing.
    unsafe impl Launcher for Older {
        fn properties(&self) -> &Properties {
            &self.0
        }
        fn config(&self, _: &'static Entry) -> x2ct::Result<&KernelConfig> {
            Ok(&self.1)
        }
        unsafe fn launch(&self, _: &'static Entry, _: Grid, _: *const std::ffi::c_void) -> x2ct::Result<()> {
            panic!("the launch is refused before")
        }
    }
    let host = Device::host();
    contrastive::check_wgmma(host.launcher()).unwrap();
    let config = *host.launcher().config(contrastive::PACK.entry()).unwrap();
    let older =
        Older(Properties { compute_capability: 86, ..*host.properties() }, KernelConfig { shared_bytes: 0, ..config });
    let text = contrastive::check_wgmma(&older).unwrap_err().to_string();
    assert!(text.contains("9.0") && text.contains("8.6") && text.contains("TensorCores"), "{text}");
}
