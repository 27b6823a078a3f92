use x2ct::autograd::{Op, Tape, check_gradients};
use x2ct::kernels::Write;
use x2ct::ops::pointwise::{Add, Cast, Gelu, Relu, copy_into, scale_into};
use x2ct::tensor::{DType, Tensor};

use crate::support::{assert_close, devices, host, normal, round_bf16};

const SIZES: [usize; 6] = [1, 7, 31, 1021, 4096, 20_011];

/// Error function by its series and continued fraction, in f64.
fn erf(x: f64) -> f64 {
    if x.abs() < 3.0 {
        let (mut term, mut sum) = (x, x);
        for n in 1..200 {
            term *= -x * x / n as f64;
            sum += term / (2 * n + 1) as f64;
        }
        sum * 2.0 / std::f64::consts::PI.sqrt()
    } else {
        let mut f = 0.0;
        for k in (1..60).rev() {
            f = k as f64 / 2.0 / (x.abs() + f);
        }
        x.signum() * (1.0 - (-x * x).exp() / std::f64::consts::PI.sqrt() / (x.abs() + f))
    }
}

fn gelu(x: f64) -> f64 {
    0.5 * x * (1.0 + erf(x / 2f64.sqrt()))
}

fn gelu_slope(x: f64) -> f64 {
    0.5 * (1.0 + erf(x / 2f64.sqrt())) + x * (-0.5 * x * x).exp() / (2.0 * std::f64::consts::PI).sqrt()
}

/// Forward and backward of a one-input operator against f64, on every device, in both storage types, at every size.
fn check_unary<O: Op + Copy + 'static>(op: O, f: impl Fn(f64) -> f64, slope: impl Fn(f64) -> f64) {
    for (name, device) in devices() {
        for dtype in [DType::F32, DType::Bf16] {
            let bound = if dtype == DType::F32 { 2e-6 } else { 4e-3 };
            for n in SIZES {
                let (x, dy) = (round_bf16(&normal(1, n)), round_bf16(&normal(2, n)));
                let tape = Tape::recording();
                let leaf = tape.leaf(&Tensor::from_slice(&device, [n], dtype, &x).unwrap());
                let y = tape.apply(op, &[&leaf]).unwrap();
                let what = format!("{} {name} {} n={n}", op.name(), dtype.name());
                let want: Vec<f64> = x.iter().map(|&v| f(v as f64)).collect();
                assert_close(&what, &y.tensor().to_vec().unwrap(), &want, bound);
                let upstream = Tensor::from_slice(&device, [n], dtype, &dy).unwrap();
                let gradients = tape.backward_from(&[(&y, &upstream)]).unwrap();
                let want: Vec<f64> = x.iter().zip(&dy).map(|(&v, &d)| slope(v as f64) * d as f64).collect();
                assert_close(
                    &format!("{what} gradient"),
                    &gradients.get(&leaf).unwrap().to_vec().unwrap(),
                    &want,
                    bound,
                );
            }
        }
    }
}

#[test]
fn relu_agrees_with_f64() {
    check_unary(Relu, |x| x.max(0.0), |x| if x > 0.0 { 1.0 } else { 0.0 });
}

#[test]
fn gelu_agrees_with_f64() {
    check_unary(Gelu, gelu, gelu_slope);
}

#[test]
fn relu_passes_nan_on() {
    let device = host(Default::default());
    let x = Tensor::from_slice(&device, [5], DType::F32, &[f32::NAN, -1.0, 0.0, 2.0, f32::INFINITY]).unwrap();
    let (y, _) = Relu.forward(&[&x]).unwrap();
    let y = y.to_vec().unwrap();
    assert!(y[0].is_nan());
    assert_eq!(y[1..], [0.0, 0.0, 2.0, f32::INFINITY]);
}

#[test]
fn gradients_accumulate_where_a_value_is_used_twice() {
    for (name, device) in devices() {
        for n in SIZES {
            let x = normal(3, n);
            let tape = Tape::recording();
            let leaf = tape.leaf(&Tensor::from_slice(&device, [n], DType::F32, &x).unwrap());
            let doubled = tape.apply(Add, &[&leaf, &leaf]).unwrap();
            let y = tape.apply(Add, &[&doubled, &leaf]).unwrap();
            let dy = normal(4, n);
            let gradients =
                tape.backward_from(&[(&y, &Tensor::from_slice(&device, [n], DType::F32, &dy).unwrap())]).unwrap();
            let triple = |v: &[f32]| v.iter().map(|&v| 3.0 * v as f64).collect::<Vec<_>>();
            assert_close(&name, &y.tensor().to_vec().unwrap(), &triple(&x), 1e-6);
            assert_close(&name, &gradients.get(&leaf).unwrap().to_vec().unwrap(), &triple(&dy), 1e-6);
        }
    }
}

#[test]
fn parameters_add_to_their_gradient() {
    let device = host(Default::default());
    let x = Tensor::from_slice(&device, [3], DType::F32, &[1.0, -2.0, 3.0]).unwrap();
    let gradient = Tensor::from_slice(&device, [3], DType::F32, &[10.0; 3]).unwrap();
    for round in 1..3 {
        let tape = Tape::recording();
        let y = tape.apply(Relu, &[&tape.parameter(&x, &gradient)]).unwrap();
        tape.backward_from(&[(&y, &x)]).unwrap();
        let r = round as f32;
        assert_eq!(gradient.to_vec().unwrap(), [10.0 + r, 10.0, 10.0 + 3.0 * r]);
    }
}

#[test]
fn casts_round_to_nearest_even_and_back() {
    for (name, device) in devices() {
        for n in SIZES {
            let x = normal(5, n);
            let tape = Tape::recording();
            let leaf = tape.leaf(&Tensor::from_slice(&device, [n], DType::F32, &x).unwrap());
            let y = tape.apply(Cast(DType::Bf16), &[&leaf]).unwrap();
            assert_eq!(y.tensor().to_vec().unwrap(), round_bf16(&x), "{name} n={n}");
            let dy = Tensor::from_slice(&device, [n], DType::Bf16, &x).unwrap();
            let gradients = tape.backward_from(&[(&y, &dy)]).unwrap();
            assert_eq!(gradients.get(&leaf).unwrap().to_vec().unwrap(), round_bf16(&x), "{name} n={n}");
        }
    }
}

#[test]
fn copies_and_multiples_replace_or_add() {
    for (name, device) in devices() {
        for dtype in [DType::F32, DType::Bf16] {
            for n in SIZES {
                let (x, start) = (round_bf16(&normal(7, n)), round_bf16(&normal(8, n)));
                let source = Tensor::from_slice(&device, [n], dtype, &x).unwrap();
                let bound = if dtype == DType::F32 { 1e-6 } else { 4e-3 };
                for (write, kept) in [(Write::Overwrite, 0.0), (Write::Accumulate, 1.0)] {
                    let check = |what: &str, factor: f64, into: &dyn Fn(&Tensor) -> x2ct::Result<()>| {
                        let out = Tensor::from_slice(&device, [n], dtype, &start).unwrap();
                        into(&out).unwrap();
                        let want: Vec<f64> =
                            x.iter().zip(&start).map(|(&x, &s)| factor * x as f64 + kept * s as f64).collect();
                        let what = format!("{what} {name} {} n={n} {write:?}", dtype.name());
                        assert_close(&what, &out.to_vec().unwrap(), &want, bound);
                    };
                    check("copy", 1.0, &|out| copy_into(&source, out, write));
                    check("scale", -1.75, &|out| scale_into(-1.75, &source, out, write));
                }
            }
        }
    }
}

#[test]
fn gradients_agree_with_finite_differences() {
    let device = host(Default::default());
    let x = || (vec![37].into(), normal(6, 37));
    for report in check_gradients(&device, &Gelu, &[x()], 1e-3).unwrap() {
        assert!(report.relative_l2 < 1e-3, "{report:?}");
    }
    for report in check_gradients(&device, &Add, &[x(), x()], 1e-3).unwrap() {
        assert!(report.relative_l2 < 1e-3, "{report:?}");
    }
}

#[test]
fn mismatched_operands_are_refused() {
    let device = host(Default::default());
    let a = Tensor::zeros(&device, [3], DType::F32, "a").unwrap();
    let b = Tensor::zeros(&device, [4], DType::F32, "b").unwrap();
    let text = Add.forward(&[&a, &b]).unwrap_err().to_string();
    assert!(text.contains("second operand") && text.contains("[4] f32") && text.contains("[3] f32"), "{text}");
}
