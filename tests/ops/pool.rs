use x2ct::Device;
use x2ct::autograd::{Op, Tape, check_gradients};
use x2ct::kernels::columns::Order;
use x2ct::ops::pointwise::{Add, Reshape};
use x2ct::ops::pool::{AvgPool3d, GlobalAvgPool, MaxPool2d, MaxPool3d, Variant};
use x2ct::tensor::{DType, Tensor};

use crate::support::{assert_close, devices, host, normal, round_bf16};

const VARIANTS: [Variant; 2] = [Variant::Naive, Variant::Vector];

/// Max pooling of `[images, size, channels]` in f64: y and, for each output, the flat index of its maximum.
struct Pooled {
    out: [usize; 3],
    y: Vec<f64>,
    from: Vec<usize>,
}

fn max_pool(
    x: &[f32],
    images: usize,
    size: [usize; 3],
    channels: usize,
    [kernel, stride, padding]: [[usize; 3]; 3],
) -> Pooled {
    let out: [usize; 3] = std::array::from_fn(|a| (size[a] + 2 * padding[a] - kernel[a]) / stride[a] + 1);
    let mut pooled = Pooled { out, y: Vec::new(), from: Vec::new() };
    for n in 0..images {
        for (o0, o1, o2) in triples(out) {
            for c in 0..channels {
                let (mut best, mut from) = (f64::NEG_INFINITY, None);
                for (k0, k1, k2) in triples(kernel) {
                    let at = |o: usize, k: usize, a: usize| {
                        (o * stride[a] + k).checked_sub(padding[a]).filter(|&i| i < size[a])
                    };
                    let (Some(a), Some(b), Some(d)) = (at(o0, k0, 0), at(o1, k1, 1), at(o2, k2, 2)) else { continue };
                    let i = (((n * size[0] + a) * size[1] + b) * size[2] + d) * channels + c;
                    let v = x[i] as f64;
                    if from.is_none() || v > best || v.is_nan() {
                        (best, from) = (v, Some(i));
                    }
                }
                pooled.y.push(best);
                pooled.from.push(from.unwrap());
            }
        }
    }
    pooled
}

fn triples([a, b, c]: [usize; 3]) -> impl Iterator<Item = (usize, usize, usize)> {
    (0..a).flat_map(move |i| (0..b).flat_map(move |j| (0..c).map(move |k| (i, j, k))))
}

/// Forward and backward of an operator whose reference is `pooled`; y is exact, dx a short sum.
fn check(
    what: &str,
    device: &Device,
    op: impl Op + 'static,
    dtype: DType,
    shape: &[usize],
    x: &[f32],
    pooled: &Pooled,
) {
    let tape = Tape::recording();
    let leaf = tape.leaf(&Tensor::from_slice(device, shape, dtype, x).unwrap());
    let y = tape.apply(op, &[&leaf]).unwrap();
    let got = y.tensor().to_vec().unwrap();
    assert_eq!(got.iter().map(|&v| v as f64).collect::<Vec<_>>(), pooled.y, "{what}");
    let dy = round_bf16(&normal(2, got.len()));
    let gradients =
        tape.backward_from(&[(&y, &Tensor::from_slice(device, y.tensor().shape(), dtype, &dy).unwrap())]).unwrap();
    let mut want = vec![0.0; x.len()];
    pooled.from.iter().zip(&dy).for_each(|(&i, &d)| want[i] += d as f64);
    let bound = if dtype == DType::F32 { 1e-6 } else { 4e-3 };
    assert_close(&format!("{what} dx"), &gradients.get(&leaf).unwrap().to_vec().unwrap(), &want, bound);
}

#[test]
fn max_pool2d_agrees_with_f64() {
    // N, H, W, C, kernel, stride, padding
    let cases = [
        [1, 1, 1, 1, 1, 1, 0],
        [1, 1, 1, 2, 3, 2, 1],
        [2, 13, 9, 5, 3, 2, 1],
        [3, 14, 14, 16, 3, 2, 1],
        [1, 8, 8, 3, 2, 2, 0],
        [2, 31, 17, 8, 5, 3, 2],
        [1, 16, 16, 1, 16, 16, 8],
        [2, 7, 11, 24, 3, 1, 1],
        [2, 9, 10, 4, 2, 5, 1],
    ];
    for (name, device) in devices() {
        for [n, h, w, c, k, s, p] in cases {
            for dtype in [DType::F32, DType::Bf16] {
                // Few distinct values: ties are the rule.
                let x: Vec<f32> = normal(1, n * h * w * c).iter().map(|x| (4.0 * x).round() / 4.0).collect();
                let pooled = max_pool(&x, n, [1, h, w], c, [[1, k, k], [1, s, s], [0, p, p]]);
                for variant in VARIANTS {
                    let op = MaxPool2d { variant, ..MaxPool2d::new(k, s, p) };
                    let what = format!("{name} {variant:?} {} {:?}", dtype.name(), [n, h, w, c, k, s, p]);
                    check(&what, &device, op, dtype, &[n, h, w, c], &x, &pooled);
                }
            }
        }
    }
}

#[test]
fn max_pool3d_agrees_with_f64() {
    // N, C, D, H, W, kernel, stride, padding
    let cases = [
        [1, 4, 8, 9, 1, 3, 2, 1],
        [2, 3, 7, 6, 5, 3, 2, 1],
        [1, 1, 1, 1, 1, 1, 1, 0],
        [1, 2, 6, 7, 31, 6, 4, 3],
        [3, 5, 4, 4, 8, 2, 2, 0],
    ];
    for (name, device) in devices() {
        for [n, c, d, h, w, k, s, p] in cases {
            for dtype in [DType::F32, DType::Bf16] {
                let x: Vec<f32> = normal(1, n * c * d * h * w).iter().map(|x| (8.0 * x).round() / 8.0).collect();
                let pooled = max_pool(&x, n * c, [d, h, w], 1, [[k; 3], [s; 3], [p; 3]]);
                for variant in VARIANTS {
                    let op = MaxPool3d { variant, ..MaxPool3d::new(k, s, p) };
                    let what = format!(
                        "{name} {variant:?} {} {:?} out {:?}",
                        dtype.name(),
                        [n, c, d, h, w, k, s, p],
                        pooled.out
                    );
                    check(&what, &device, op, dtype, &[n, c, d, h, w], &x, &pooled);
                }
            }
        }
    }
}

/// NaN wins wherever it stands; where all is minus infinity the first position inside the input is chosen.
#[test]
fn max_pool_treats_nan_and_infinity_as_pytorch() {
    for (name, device) in devices() {
        for variant in VARIANTS {
            let mut x = vec![f32::NEG_INFINITY; 4 * 4];
            x[5] = f32::NAN;
            x[10] = f32::NAN;
            let tape = Tape::recording();
            let leaf = tape.leaf(&Tensor::from_slice(&device, [1, 4, 4, 1], DType::F32, &x).unwrap());
            let y = tape.apply(MaxPool2d { variant, ..MaxPool2d::new(3, 3, 1) }, &[&leaf]).unwrap();
            let values = y.tensor().to_vec().unwrap();
            // Windows: rows and columns {0, 1} and {2, 3}.
            assert!(values[0].is_nan() && values[3].is_nan(), "{name} {variant:?} {values:?}");
            assert_eq!(values[1..3], [f32::NEG_INFINITY; 2]);
            let dy = Tensor::from_slice(&device, [1, 2, 2, 1], DType::F32, &[1.0, 2.0, 3.0, 4.0]).unwrap();
            let gradients = tape.backward_from(&[(&y, &dy)]).unwrap();
            let mut want = vec![0.0; 16];
            (want[5], want[2], want[8], want[10]) = (1.0, 2.0, 3.0, 4.0);
            assert_eq!(gradients.get(&leaf).unwrap().to_vec().unwrap(), want, "{name} {variant:?}");
        }
    }
}

/// y and dx of the mean over windows of three, less x, in f64.
fn avg_pool(x: &[f32], dy: &[f32], [images, d0, d1, d2]: [usize; 4], minus_input: bool) -> [Vec<f64>; 2] {
    let own = if minus_input { 1.0 } else { 0.0 };
    let mut y: Vec<f64> = x.iter().map(|&v| -own * v as f64).collect();
    let mut dx: Vec<f64> = dy.iter().map(|&v| -own * v as f64).collect();
    let around = |i: usize, d: usize| i.saturating_sub(1)..(i + 2).min(d);
    for image in 0..images {
        for (a, b, c) in triples([d0, d1, d2]) {
            let o = ((image * d0 + a) * d1 + b) * d2 + c;
            let (wa, wb, wc) = (around(a, d0), around(b, d1), around(c, d2));
            let count = (wa.len() * wb.len() * wc.len()) as f64;
            for (i, j, k) in
                wa.flat_map(|i| wb.clone().map(move |j| (i, j))).flat_map(|(i, j)| wc.clone().map(move |k| (i, j, k)))
            {
                let at = ((image * d0 + i) * d1 + j) * d2 + k;
                y[o] += x[at] as f64 / count;
                dx[at] += dy[o] as f64 / count;
            }
        }
    }
    [y, dx]
}

#[test]
fn avg_pool3d_agrees_with_f64() {
    let shapes =
        [[1, 1, 1, 1, 1], [2, 3, 2, 1, 3], [1, 2, 3, 5, 7], [2, 1, 4, 6, 8], [1, 3, 7, 11, 20], [1, 1, 2, 3, 33]];
    for (name, device) in devices() {
        for shape @ [n, c, d0, d1, d2] in shapes {
            for dtype in [DType::F32, DType::Bf16] {
                let numel = shape.iter().product();
                let (x, dy) = (round_bf16(&normal(1, numel)), round_bf16(&normal(2, numel)));
                for (variant, minus_input) in VARIANTS.into_iter().flat_map(|v| [(v, false), (v, true)]) {
                    let want = avg_pool(&x, &dy, [n * c, d0, d1, d2], minus_input);
                    let tape = Tape::recording();
                    let leaf = tape.leaf(&Tensor::from_slice(&device, shape, dtype, &x).unwrap());
                    let y = tape.apply(AvgPool3d { minus_input, variant }, &[&leaf]).unwrap();
                    let up = Tensor::from_slice(&device, shape, dtype, &dy).unwrap();
                    let gradients = tape.backward_from(&[(&y, &up)]).unwrap();
                    let got = [y.tensor(), gradients.get(&leaf).unwrap()].map(|t| t.to_vec().unwrap());
                    let what = format!("{name} {variant:?} {} {shape:?} {minus_input}", dtype.name());
                    for (got, want) in got.iter().zip(&want) {
                        // A mean less its only value is zero, up to rounding.
                        let zero = want.iter().all(|&v| v.abs() < 1e-9);
                        if zero {
                            assert!(got.iter().all(|v| v.abs() < 1e-6), "{what}");
                        } else {
                            assert_close(&what, got, want, if dtype == DType::F32 { 2e-6 } else { 4e-3 });
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn global_avg_pool_agrees_with_f64() {
    let cases = [[1, 1, 1], [3, 49, 17], [2, 33, 24], [5, 64, 300], [2, 1031, 8], [3, 2000, 1]];
    for (name, device) in devices() {
        for [n, l, c] in cases {
            for dtype in [DType::F32, DType::Bf16] {
                for order in [None, Some(Order::Interleaved), Some(Order::Blocked)] {
                    let x = round_bf16(&normal(1, n * l * c));
                    let tape = Tape::recording();
                    let leaf = tape.leaf(&Tensor::from_slice(&device, [n, l, c], dtype, &x).unwrap());
                    let y = tape.apply(GlobalAvgPool { order }, &[&leaf]).unwrap();
                    let want: Vec<f64> = (0..n * c)
                        .map(|i| (0..l).map(|p| x[(i / c * l + p) * c + i % c] as f64).sum::<f64>() / l as f64)
                        .collect();
                    let what = format!("{name} {order:?} {} {:?}", dtype.name(), [n, l, c]);
                    let bound = if dtype == DType::F32 { 1e-5 } else { 4e-3 };
                    assert_close(&what, &y.tensor().to_vec().unwrap(), &want, bound);
                    let dy = round_bf16(&normal(2, n * c));
                    let gradients =
                        tape.backward_from(&[(&y, &Tensor::from_slice(&device, [n, c], dtype, &dy).unwrap())]).unwrap();
                    let want: Vec<f64> =
                        (0..n * l * c).map(|i| dy[i / (l * c) * c + i % c] as f64 / l as f64).collect();
                    assert_close(&what, &gradients.get(&leaf).unwrap().to_vec().unwrap(), &want, bound);
                }
            }
        }
    }
}

#[test]
fn pooling_agrees_with_finite_differences() {
    let device = host(Default::default());
    // Distinct values, so that a small step changes no maximum.
    let distinct: Vec<f32> = (0..2 * 7 * 9 * 3).map(|i| ((i * 7919) % 378) as f32 / 100.0).collect();
    let input = [(vec![2, 7, 9, 3].into(), distinct.clone())];
    for report in check_gradients(&device, &MaxPool2d::new(3, 2, 1), &input, 1e-4).unwrap() {
        assert!(report.relative_l2 < 1e-2, "{report:?}");
    }
    let input = [(vec![1, 2, 7, 9, 3].into(), distinct)];
    for report in check_gradients(&device, &MaxPool3d::new(3, 2, 1), &input, 1e-4).unwrap() {
        assert!(report.relative_l2 < 1e-2, "{report:?}");
    }
    let input = [(vec![2, 1, 5, 9, 3].into(), normal(3, 270))];
    for report in
        check_gradients(&device, &AvgPool3d { minus_input: true, ..Default::default() }, &input, 1e-2).unwrap()
    {
        assert!(report.relative_l2 < 1e-3, "{report:?}");
    }
    let input = [(vec![2, 5, 9, 3].into(), normal(3, 270))];
    for report in check_gradients(&device, &GlobalAvgPool::default(), &input, 1e-2).unwrap() {
        assert!(report.relative_l2 < 1e-3, "{report:?}");
    }
}

/// A second use of the input adds to the gradient that the first one wrote.
#[test]
fn pooling_adds_to_gradients() {
    for (name, device) in devices() {
        for c in [3, 8] {
            let n = 6 * 6 * c;
            let tape = Tape::recording();
            let leaf = tape.leaf(&Tensor::from_slice(&device, [1, 6, 6, c], DType::F32, &normal(1, n)).unwrap());
            let mut outputs = Vec::new();
            for op in [MaxPool2d::new(2, 2, 0), MaxPool2d { variant: Variant::Naive, ..MaxPool2d::new(2, 2, 0) }] {
                let y = tape.apply(op, &[&leaf]).unwrap();
                outputs.push(tape.apply(GlobalAvgPool::default(), &[&y]).unwrap());
            }
            outputs.push(tape.apply(GlobalAvgPool::default(), &[&leaf]).unwrap());
            let sum = tape.apply(Add, &[&outputs[0], &outputs[1]]).unwrap();
            let sum = tape.apply(Add, &[&sum, &outputs[2]]).unwrap();
            let flat = tape.apply(Reshape([c].into()), &[&sum]).unwrap();
            let ones = Tensor::from_slice(&device, [c], DType::F32, &vec![1.0; c]).unwrap();
            let gradient = tape.backward_from(&[(&flat, &ones)]).unwrap().get(&leaf).unwrap().to_vec().unwrap();
            // 1/36 everywhere, 2/9 more at each maximum of a quarter of the positions.
            let high = gradient.iter().filter(|&&g| (g - 2.0 / 9.0 - 1.0 / 36.0).abs() < 1e-6).count();
            let low = gradient.iter().filter(|&&g| (g - 1.0 / 36.0).abs() < 1e-6).count();
            assert_eq!((high, low), (n / 4, n - n / 4), "{name} c={c}");
        }
    }
}

#[test]
fn pooling_refuses_what_does_not_fit() {
    let device = host(Default::default());
    let zeros = |shape: &[usize]| Tensor::zeros(&device, shape, DType::F32, "test").unwrap();
    let text = |op: MaxPool2d, shape: &[usize]| op.forward(&[&zeros(shape)]).err().expect("an error").to_string();
    assert!(text(MaxPool2d::new(3, 2, 2), &[1, 8, 8, 1]).contains("half the kernel"));
    assert!(text(MaxPool2d::new(3, 0, 1), &[1, 8, 8, 1]).contains("stride"));
    assert!(text(MaxPool2d::new(17, 1, 0), &[1, 32, 32, 1]).contains("256"));
    assert!(text(MaxPool2d::new(5, 1, 1), &[1, 2, 8, 1]).contains("shorter than the window"));
    assert!(text(MaxPool2d::new(3, 2, 1), &[8, 8, 1]).contains("axes"));
    assert!(AvgPool3d::default().forward(&[&zeros(&[3, 4, 5])]).is_err());
    assert!(GlobalAvgPool::default().forward(&[&zeros(&[3])]).is_err());
    assert!(GlobalAvgPool::default().forward(&[&zeros(&[3, 0, 2])]).is_err());
}
