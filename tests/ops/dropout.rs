use x2ct::autograd::{Op, Tape, check_gradients};
use x2ct::ops::dropout::Dropout;
use x2ct::philox::philox4x32_10;
use x2ct::tensor::{DType, Tensor};

use crate::support::{assert_close, devices, host, normal, round_bf16};

/// Fewer than one draw of four words; about a block of f32 (2048 elements), and several of bf16 (4096).
const SIZES: [usize; 8] = [1, 3, 7, 31, 2047, 2049, 4096, 20_011];

const DROPOUT: Dropout = Dropout { p: 0.3, seed: 0x1234_5678_9abc_def0, offset: (7 << 40) | 3 };

/// What each element is multiplied by, in f64.
fn factors(op: &Dropout, n: usize) -> Vec<f64> {
    let low_high = |v: u64| [v as u32, (v >> 32) as u32];
    let ([o0, o1], key) = (low_high(op.offset), low_high(op.seed));
    let p = f64::from(op.p);
    let factor = |i: usize| {
        let [i0, i1] = low_high(i as u64 / 4);
        let word = philox4x32_10([o0, o1, i0, i1], key)[i % 4];
        if f64::from(word) < p * 2f64.powi(32) { 0.0 } else { 1.0 / (1.0 - p) }
    };
    (0..n).map(factor).collect()
}

fn times(x: &[f32], factors: &[f64]) -> Vec<f64> {
    x.iter().zip(factors).map(|(&x, f)| x as f64 * f).collect()
}

/// Zero where the mask says so, both ways; a gradient is added where one has arrived.
#[test]
fn dropout_agrees_with_its_generator() {
    for (name, device) in devices() {
        for dtype in [DType::F32, DType::Bf16] {
            let bound = if dtype == DType::F32 { 1e-6 } else { 4e-3 };
            for n in SIZES {
                for p in [0.0, 0.3, 0.999] {
                    let op = Dropout { p, ..DROPOUT };
                    let what = format!("{name} {} n={n} p={p}", dtype.name());
                    let (x, dy) = (round_bf16(&normal(1, n)), round_bf16(&normal(2, n)));
                    let factors = factors(&op, n);
                    let tape = Tape::recording();
                    let leaf = tape.leaf(&Tensor::from_slice(&device, [n], dtype, &x).unwrap());
                    let y = [(); 2].map(|()| tape.apply(op, &[&leaf]).unwrap());
                    let got = y[0].tensor().to_vec().unwrap();
                    assert_close(&what, &got, &times(&x, &factors), bound);
                    assert!(got.iter().zip(&factors).all(|(&y, &f)| (y == 0.0) == (f == 0.0)), "{what}");
                    let upstream = Tensor::from_slice(&device, [n], dtype, &dy).unwrap();
                    let gradients = tape.backward_from(&[(&y[0], &upstream), (&y[1], &upstream)]).unwrap();
                    let got = gradients.get(&leaf).unwrap().to_vec().unwrap();
                    assert_close(&what, &got, &times(&dy, &factors).iter().map(|g| 2.0 * g).collect::<Vec<_>>(), bound);
                }
            }
        }
    }
}

/// Means of n drops are off by sqrt(p (1 - p) / n), five of which are allowed; a mask agrees with that of another seed or offset
/// where both drop or both keep.
#[test]
fn masks_drop_as_many_as_they_should_and_differ() {
    let n = 100_000;
    let device = host(Default::default());
    let ones = Tensor::from_slice(&device, [n], DType::F32, &vec![1.0; n]).unwrap();
    let dropped = |op: &Dropout| {
        let (y, ()) = op.forward(&[&ones]).unwrap();
        y.to_vec().unwrap().iter().map(|&y| y == 0.0).collect::<Vec<_>>()
    };
    let near = |what: &str, count: usize, p: f64| {
        let error = (count as f64 / n as f64 - p).abs();
        assert!(error < 5.0 * (p * (1.0 - p) / n as f64).sqrt(), "{what}: {count} of {n}, not {p}");
    };
    let mask = dropped(&DROPOUT);
    near("dropped", mask.iter().filter(|&&d| d).count(), 0.3);
    for other in [
        Dropout { seed: DROPOUT.seed + 1, ..DROPOUT },
        Dropout { seed: DROPOUT.seed ^ 1 << 40, ..DROPOUT },
        Dropout { offset: DROPOUT.offset + 1, ..DROPOUT },
        Dropout { offset: DROPOUT.offset ^ 1 << 50, ..DROPOUT },
    ] {
        let equal = dropped(&other).iter().zip(&mask).filter(|(a, b)| a == b).count();
        near(&format!("{other:?}"), equal, 0.3 * 0.3 + 0.7 * 0.7);
    }
}

/// A view begins anywhere; its mask is that of its own first element on, and nothing beside it is touched.
#[test]
fn views_are_masked_from_their_first_element_on() {
    for (name, device) in devices() {
        for dtype in [DType::F32, DType::Bf16] {
            let n = 5003;
            let [x, start, dy] = [(1, n + 2), (2, n + 2), (3, n)].map(|(seed, n)| round_bf16(&normal(seed, n)));
            let tensor = |data: &[f32]| Tensor::from_slice(&device, [data.len()], dtype, data).unwrap();
            let run = |x: &Tensor, gradient: &Tensor| {
                let tape = Tape::recording();
                let y = tape.apply(DROPOUT, &[&tape.parameter(x, gradient)]).unwrap();
                tape.backward_from(&[(&y, &tensor(&dy))]).unwrap();
                y.tensor().to_vec().unwrap()
            };
            let (into, expected) = (tensor(&start), tensor(&start[1..=n]));
            let y = run(&tensor(&x).view(1, [n]).unwrap(), &into.view(1, [n]).unwrap());
            assert_eq!(y, run(&tensor(&x[1..=n]), &expected), "{name} {}", dtype.name());
            let mut whole = start.clone();
            whole[1..=n].copy_from_slice(&expected.to_vec().unwrap());
            assert_eq!(into.to_vec().unwrap(), whole, "{name} {}", dtype.name());
        }
    }
}

#[test]
fn dropout_passes_nan_on() {
    let device = host(Default::default());
    let x = Tensor::from_slice(&device, [64], DType::F32, &[f32::NAN; 64]).unwrap();
    let (y, ()) = DROPOUT.forward(&[&x]).unwrap();
    assert!(y.to_vec().unwrap().iter().all(|y| y.is_nan()));
}

#[test]
fn dropout_agrees_with_finite_differences() {
    let device = host(Default::default());
    for report in check_gradients(&device, &DROPOUT, &[(vec![37].into(), normal(6, 37))], 1e-3).unwrap() {
        assert!(report.relative_l2 < 1e-3, "{report:?}");
    }
}

#[test]
fn probabilities_that_are_none_are_refused() {
    let device = host(Default::default());
    let x = Tensor::zeros(&device, [3], DType::F32, "x").unwrap();
    for p in [-0.1, 1.0, 1.5, f32::NAN, f32::INFINITY] {
        let error = Dropout { p, ..DROPOUT }.forward(&[&x]).map(drop).unwrap_err().to_string();
        assert!(error.contains(&format!("p is {p}")) && error.contains("from 0 to below 1"), "{error}");
    }
}
