//! The pairwise sigmoid loss, and items that are the same thing seen twice.

use x2ct::ops::contrastive::{SigLip, ids};

use super::*;

/// Every input is a leaf; the gradients in order.
fn run_all(
    device: &Device,
    dtype: DType,
    loss: &Contrastive,
    sets: &[Vec<f32>],
    extra: &[f32],
) -> (f32, Vec<Vec<f32>>) {
    let tape = Tape::recording();
    let n = loss.ids.as_ref().map_or(0, |ids| ids.numel());
    let rows = if n > 0 { n } else { ROWS };
    let d = sets[0].len() / rows;
    let mut leaves: Vec<_> =
        sets.iter().map(|x| tape.leaf(&Tensor::from_slice(device, [rows, d], dtype, x).unwrap())).collect();
    for &value in extra {
        leaves.push(tape.leaf(&Tensor::from_slice(device, [1], DType::F32, &[value]).unwrap()));
    }
    let y = tape.apply(loss.clone(), &leaves.iter().collect::<Vec<_>>()).unwrap();
    let gradients = tape.backward(&y).unwrap();
    let all = leaves.iter().map(|leaf| gradients.get(leaf).unwrap().to_vec().unwrap()).collect();
    (y.tensor().item().unwrap(), all)
}

const ROWS: usize = 67;

#[test]
fn sigmoid_loss_agrees_with_f64_and_gives_every_gradient() {
    for (name, device) in devices() {
        for (variant, dtype, bound) in [
            (Variant::Naive, DType::F32, 1e-5),
            (Variant::Tiled, DType::F32, 1e-5),
            (Variant::Tiled, DType::Bf16, 2e-3),
            (Variant::TensorCores, DType::Bf16, 5e-3),
            (Variant::TensorCores, DType::F32, 2e-3),
        ] {
            for (d, scale) in [(5, 1.0f32), (33, 10.0), (72, 100.0)] {
                let mut sets = related(40, ROWS, d, 1.0);
                if dtype == DType::Bf16 {
                    sets = sets.iter().map(|x| round_bf16(x)).collect();
                }
                let loss = Contrastive { variant, ..SigLip::new(Scale::Learnable, Scale::Learnable).general() };
                let want = reference(&loss, scale as f64, &sets, ROWS);
                let (value, got) = run_all(&device, dtype, &loss, &sets, &[scale, BIAS]);
                let what = format!("{name} {variant:?} {} d={d} scale={scale}", dtype.name());
                let exact = variant.precision(dtype) != x2ct::ops::contrastive::Precision::Tf32;
                let of_loss = if exact { loss_bound_of(variant, scale, d) } else { 5e-3 };
                assert!(relative(value, want.loss) < of_loss, "{what}: {value} for {}", want.loss);
                for (got, want) in got.iter().zip(&want.sets) {
                    assert_close(&what, got, want, bound);
                }
                let bound = if exact { scale_bound_of(variant, scale, d) } else { 2e-2 };
                assert!(relative(got[2][0], want.scale) < bound, "{what}: scale {} for {}", got[2][0], want.scale);
                assert!(relative(got[3][0], want.bias) < bound, "{what}: bias {} for {}", got[3][0], want.bias);
            }
        }
    }
}

#[test]
fn sigmoid_gradients_agree_with_finite_differences() {
    let (n, d) = (9, 6);
    let mut inputs: Vec<_> = related(8, n, d, 1.0).into_iter().map(|x| (vec![n, d].into(), x)).collect();
    inputs.push((vec![1].into(), vec![4.0]));
    inputs.push((vec![1].into(), vec![-2.0]));
    let op = SigLip::new(Scale::Learnable, Scale::Learnable);
    for report in check_gradients(&Device::host(), &op, &inputs, 1e-2).unwrap() {
        assert!(report.relative_l2 < 3e-3, "{report:?}");
    }
}

/// Six kinds of items, softmax and sigmoid, every variant: a repeated item is neither match nor mismatch.
#[test]
fn items_of_equal_id_are_no_negatives() {
    for (name, device) in devices() {
        for (n, d) in [(2, 3), (37, 12), (130, 16)] {
            let keys: Vec<String> = (0..n).map(|i| format!("report {}", i * i % 6)).collect();
            for variant in SEPARATE {
                for sigmoid in [false, true] {
                    for scale in [3.0, 60.0] {
                        let objective =
                            if sigmoid { Objective::Sigmoid { bias: Scale::Fixed(-1.0) } } else { Objective::Softmax };
                        let ids = Some(ids(&device, &keys).unwrap());
                        let loss = Contrastive { objective, ids, variant, ..pair(Scale::Fixed(scale)) };
                        let sets: Vec<_> = related(50, n, d, 1.0).iter().map(|x| round_bf16(x)).collect();
                        let want = reference(&loss, scale as f64, &sets, n);
                        let (value, got) = run_all(&device, DType::F32, &loss, &sets, &[]);
                        let what = format!("{name} {variant:?} n={n} {objective:?} {scale}");
                        // Products of bf16 values are exact in TF32; what is rounded is h.
                        let of_loss = loss_bound_of(variant, scale, d);
                        assert!(relative(value, want.loss) < of_loss, "{what}: {value} for {}", want.loss);
                        let bound = if variant == Variant::TensorCores { 1e-3 } else { 1e-5 };
                        for (got, want) in got.iter().zip(&want.sets) {
                            assert_close(&what, got, want, bound);
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn a_batch_of_one_report_has_nothing_to_learn() {
    let device = Device::host();
    let (n, d) = (5, 4);
    let sets = related(51, n, d, 1.0);
    for scale in [2.0, 70.0] {
        let loss = Contrastive { ids: Some(ids(&device, &["one"; 5]).unwrap()), ..pair(Scale::Fixed(scale)) };
        let (value, got) = run_all(&device, DType::F32, &loss, &sets, &[]);
        assert_eq!(value, 0.0);
        assert!(got.iter().flatten().all(|&g| g == 0.0));
    }
    let wrong = Contrastive { ids: Some(ids(&device, &[1, 2]).unwrap()), ..pair(Scale::Fixed(1.0)) };
    let x = Tensor::zeros(&device, [n, d], DType::F32, "x").unwrap();
    let text = wrong.forward(&[&x, &x]).err().expect("an error").to_string();
    assert!(text.contains("ids") && text.contains("[2]"), "{text}");
}
