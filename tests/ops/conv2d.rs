use x2ct::Device;
use x2ct::autograd::{Op, Tape, check_gradients};
use x2ct::ops::conv2d::Conv2d;
use x2ct::ops::gemm::{Backend, Method, Precision};
use x2ct::tensor::{DType, Tensor};

use crate::support::{assert_close, backends, devices, host, normal, round_bf16, sum_bound, tensor_core_bound};

/// Images, channels in and out, height and width, filter, stride, padding.
#[derive(Clone, Copy, Debug)]
struct Case {
    n: usize,
    c: usize,
    o: usize,
    size: [usize; 2],
    kernel: [usize; 2],
    stride: usize,
    padding: usize,
}

const fn case(n: usize, c: usize, o: usize, size: [usize; 2], k: usize, stride: usize, padding: usize) -> Case {
    Case { n, c, o, size, kernel: [k, k], stride, padding }
}

const CASES: [Case; 13] = [
    case(1, 1, 1, [1, 1], 1, 1, 0),
    case(1, 1, 1, [1, 1], 3, 1, 1),
    case(2, 3, 8, [23, 19], 7, 2, 3),
    case(2, 8, 16, [9, 11], 3, 1, 1),
    case(2, 16, 24, [9, 7], 3, 2, 1),
    case(3, 16, 12, [5, 7], 1, 1, 0),
    case(2, 12, 7, [11, 13], 1, 2, 0),
    case(1, 4, 6, [10, 13], 5, 3, 0),
    case(1, 33, 37, [6, 5], 3, 1, 1),
    // More padding than filter: some columns see nothing of the image.
    case(1, 5, 3, [4, 3], 2, 1, 4),
    Case { n: 2, c: 8, o: 9, size: [8, 6], kernel: [1, 4], stride: 2, padding: 1 },
    // Wide tiles.
    case(2, 72, 80, [9, 7], 3, 1, 1),
    // Several tiles, split sums, several chunks of columns.
    case(3, 24, 40, [40, 36], 3, 1, 1),
];

struct Reference {
    y: Vec<f64>,
    dx: Vec<f64>,
    dw: Vec<f64>,
    db: Vec<f64>,
    out: [usize; 2],
}

fn reference(case: Case, x: &[f32], w: &[f32], b: &[f32], dy: impl Fn(usize) -> Vec<f32>) -> (Reference, Vec<f32>) {
    let Case { n, c, o, size: [height, width], kernel: [kh, kw], stride, padding } = case;
    let out = [(height + 2 * padding - kh) / stride + 1, (width + 2 * padding - kw) / stride + 1];
    let dy = dy(n * out[0] * out[1] * o);
    let mut r =
        Reference { y: vec![0.0; dy.len()], dx: vec![0.0; x.len()], dw: vec![0.0; w.len()], db: vec![0.0; o], out };
    for row in 0..dy.len() / o {
        let (image, i, j) = (row / out[1] / out[0], row / out[1] % out[0], row % out[1]);
        for filter in 0..o {
            let up = dy[row * o + filter] as f64;
            let mut sum = b[filter] as f64;
            r.db[filter] += up;
            for tap in 0..kh * kw {
                let (h, l) = (i * stride + tap / kw, j * stride + tap % kw);
                if h < padding || h >= height + padding || l < padding || l >= width + padding {
                    continue;
                }
                let pixel = ((image * height + h - padding) * width + l - padding) * c;
                let weight = (filter * kh * kw + tap) * c;
                for channel in 0..c {
                    sum += x[pixel + channel] as f64 * w[weight + channel] as f64;
                    r.dx[pixel + channel] += up * w[weight + channel] as f64;
                    r.dw[weight + channel] += up * x[pixel + channel] as f64;
                }
            }
            r.y[row * o + filter] = sum;
        }
    }
    (r, dy)
}

/// The data are bf16 values, which lose nothing in TF32: what differs is that tensor cores cut their sums off.
fn methods(device: &Device) -> Vec<Method> {
    let f32 = backends(device).into_iter().map(|backend| Method { backend, precision: Precision::F32 });
    f32.chain([Method { backend: Backend::Own, precision: Precision::Tf32 }]).collect()
}

#[test]
fn convolutions_and_their_gradients_agree_with_f64() {
    for case in CASES {
        let Case { n, c, o, size: [height, width], kernel: [kh, kw], stride, padding } = case;
        let x = round_bf16(&normal(1, n * height * width * c));
        let w = round_bf16(&normal(2, o * kh * kw * c));
        let b = round_bf16(&normal(3, o));
        let (want, dy) = reference(case, &x, &w, &b, |n| round_bf16(&normal(4, n)));
        for (name, device) in devices() {
            for method in methods(&device) {
                for (dtype, parameters, bound) in
                    [(DType::F32, DType::F32, 1e-6), (DType::Bf16, DType::Bf16, 4e-3), (DType::Bf16, DType::F32, 4e-3)]
                {
                    let tf32 = method.precision == Precision::Tf32;
                    if dtype == DType::Bf16 && (tf32 || (parameters == dtype && n * c * o > 1000)) {
                        continue; // precision is of f32 alone; the large cases need only one choice of parameters
                    }
                    // Up to 720 products of mixed signs are added without a break, whose partial sums are far from growing
                    // evenly: the cut takes a fraction of what it may.
                    let bound = if tf32 { 3e-6 } else { bound };
                    let tape = Tape::recording();
                    let leaf = |shape: &[usize], dtype, data: &[f32]| {
                        tape.leaf(&Tensor::from_slice(&device, shape, dtype, data).unwrap())
                    };
                    let x = leaf(&[n, height, width, c], dtype, &x);
                    let w = leaf(&[o, kh, kw, c], parameters, &w);
                    let b = leaf(&[o], parameters, &b);
                    let y = tape.apply(Conv2d { stride, padding, method }, &[&x, &w, &b]).unwrap();
                    assert_eq!(y.tensor().shape()[..], [n, want.out[0], want.out[1], o]);
                    let dy = Tensor::from_slice(&device, y.tensor().shape(), dtype, &dy).unwrap();
                    let gradients = tape.backward_from(&[(&y, &dy)]).unwrap();
                    let what = format!("{case:?} {name} {method:?} {dtype:?} {parameters:?}");
                    assert_close(&format!("{what} y"), &y.tensor().to_vec().unwrap(), &want.y, bound);
                    let get = |leaf| gradients.get(leaf).unwrap().to_vec().unwrap();
                    assert_close(&format!("{what} dx"), &get(&x), &want.dx, bound);
                    let of_dw = match (parameters, dtype) {
                        (DType::F32, DType::Bf16) => tensor_core_bound(n * want.out[0] * want.out[1]),
                        (DType::F32, DType::F32) if !tf32 => sum_bound(n * want.out[0] * want.out[1]),
                        _ => bound,
                    };
                    assert_close(&format!("{what} dw"), &get(&w), &want.dw, of_dw);
                    let of_db = if parameters == DType::F32 { 1e-6 } else { bound };
                    assert_close(&format!("{what} db"), &get(&b), &want.db, of_db);
                }
            }
        }
    }
}

#[test]
fn gradients_accumulate() {
    for (name, device) in devices() {
        for method in methods(&device) {
            for kernel in [1, 3] {
                let (x, w) = (normal(5, 2 * 5 * 4 * 8), normal(6, 8 * kernel * kernel * 8));
                let op = Conv2d { stride: 1, padding: kernel / 2, method };
                let x = Tensor::from_slice(&device, [2, 5, 4, 8], DType::F32, &x).unwrap();
                let w = Tensor::from_slice(&device, [8, kernel, kernel, 8], DType::F32, &w).unwrap();
                let run = |times: usize| {
                    let tape = Tape::recording();
                    let (x, w) = (tape.leaf(&x), tape.leaf(&w));
                    let outputs: Vec<_> = (0..times).map(|_| tape.apply(op, &[&x, &w]).unwrap()).collect();
                    let dy = outputs[0].tensor().clone();
                    let pairs: Vec<_> = outputs.iter().map(|y| (y, &dy)).collect();
                    let gradients = tape.backward_from(&pairs).unwrap();
                    [&x, &w].map(|leaf| gradients.get(leaf).unwrap().to_vec().unwrap())
                };
                for (once, thrice) in run(1).into_iter().zip(run(3)) {
                    let want: Vec<f64> = once.iter().map(|&x| 3.0 * x as f64).collect();
                    assert_close(&format!("{name} {method:?} {kernel}"), &thrice, &want, 1e-6);
                }
            }
        }
    }
}

#[test]
fn conv2d_gradients_agree_with_finite_differences() {
    let device = host(Default::default());
    // Differences of TF32 results are mostly their rounding.
    for method in methods(&device).into_iter().filter(|method| method.precision == Precision::F32) {
        let inputs = [
            (vec![2, 6, 5, 3].into(), normal(7, 180)),
            (vec![4, 3, 3, 3].into(), normal(8, 108)),
            (vec![4].into(), normal(9, 4)),
        ];
        let op = Conv2d { stride: 2, padding: 1, method };
        let reports = check_gradients(&device, &op, &inputs, 1e-2).unwrap();
        assert_eq!(reports.len(), 3);
        for report in reports {
            assert!(report.relative_l2 < 1e-4, "{op:?} {report:?}");
        }
    }
}

#[test]
fn two_runs_give_the_same_bits() {
    for (name, device) in devices() {
        for method in methods(&device) {
            let run = || {
                let tape = Tape::recording();
                let x =
                    tape.leaf(&Tensor::from_slice(&device, [6, 16, 16, 16], DType::F32, &normal(10, 24_576)).unwrap());
                let w = tape.leaf(&Tensor::from_slice(&device, [16, 3, 3, 16], DType::F32, &normal(11, 2304)).unwrap());
                let y = tape.apply(Conv2d { stride: 1, padding: 1, method }, &[&x, &w]).unwrap();
                let gradients = tape.backward_from(&[(&y, &y.tensor().clone())]).unwrap();
                [&x, &w].map(|leaf| {
                    gradients.get(leaf).unwrap().to_vec().unwrap().into_iter().map(f32::to_bits).collect::<Vec<_>>()
                })
            };
            assert!(run() == run(), "{name} {method:?}");
        }
    }
}

#[test]
fn sizes_that_do_not_fit_are_refused() {
    let device = host(Default::default());
    let method = Method::default_for(&device);
    let make = |shape: &[usize]| Tensor::zeros(&device, shape, DType::F32, "operand").unwrap();
    let refuse = |x: &[usize], w: &[usize], stride: usize, padding: usize| {
        Conv2d { stride, padding, method }.forward(&[&make(x), &make(w)]).err().unwrap().to_string()
    };
    let text = refuse(&[1, 4, 4, 3], &[2, 3, 3, 4], 1, 1);
    assert!(text.contains("3 channels") && text.contains("takes 4"), "{text}");
    let text = refuse(&[1, 4, 4, 3], &[2, 3, 3, 3], 0, 1);
    assert!(text.contains("stride 0"), "{text}");
    let text = refuse(&[1, 2, 2, 3], &[2, 5, 5, 3], 1, 1);
    assert!(text.contains("does not fit into 2 x 2"), "{text}");
    let text = refuse(&[4, 4, 3], &[2, 3, 3, 3], 1, 1);
    assert!(text.contains("3 axes"), "{text}");
    let (x, w, b) = (make(&[1, 4, 4, 3]), make(&[2, 3, 3, 3]), make(&[3]));
    let text = Conv2d { stride: 1, padding: 1, method }.forward(&[&x, &w, &b]).err().unwrap().to_string();
    assert!(text.contains("bias") && text.contains("[2] f32"), "{text}");
}

#[test]
fn views_from_any_element_on_are_convolved() {
    for (name, device) in devices() {
        for method in methods(&device) {
            let (x, w) = (normal(12, 2 * 5 * 5 * 8 + 1), normal(13, 8 * 9 * 8 + 1));
            let make = |data: &[f32]| Tensor::from_slice(&device, [data.len()], DType::F32, data).unwrap();
            let op = Conv2d { stride: 1, padding: 1, method };
            let (x_shape, w_shape) = ([2, 5, 5, 8], [8, 3, 3, 8]);
            let views = [make(&x).view(1, x_shape).unwrap(), make(&w).view(1, w_shape).unwrap()];
            let copies = [make(&x[1..]).reshape(x_shape).unwrap(), make(&w[1..]).reshape(w_shape).unwrap()];
            let run = |[x, w]: &[Tensor; 2]| op.forward(&[x, w]).unwrap().0.to_vec().unwrap();
            assert_eq!(run(&views), run(&copies), "{name} {method:?}");
        }
    }
}
