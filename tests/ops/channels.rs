use x2ct::Device;
use x2ct::autograd::{Op, Tape, check_gradients};
use x2ct::ops::channels::{BiasGelu, LayerScale, PointwiseConv, Transpose};
use x2ct::ops::gemm::Method;
use x2ct::tensor::{DType, Shape, Tensor};

use crate::support::{assert_close, devices, host, normal, round_bf16};

/// Samples, channels and a volume: one voxel, rows with and without whole vectors, several blocks.
const SHAPES: [[usize; 5]; 5] =
    [[1, 1, 1, 1, 1], [3, 5, 1, 1, 1], [2, 7, 3, 5, 1], [5, 3, 2, 2, 3], [2, 2, 17, 16, 12]];

pub fn erf(x: f64) -> f64 {
    // Abramowitz and Stegun's series converges everywhere; these arguments are small.
    let (mut term, mut sum) = (x, x);
    for n in 1..200 {
        term *= -x * x / n as f64;
        sum += term / (2 * n + 1) as f64;
    }
    sum * std::f64::consts::FRAC_2_SQRT_PI
}

struct Case {
    shape: [usize; 5],
    dtype: DType,
    x: Vec<f32>,
    r: Vec<f32>,
    dy: Vec<f32>,
    bias: Vec<f32>,
    gamma: Vec<f32>,
}

impl Case {
    fn new(shape: [usize; 5], dtype: DType) -> Self {
        let n = shape.iter().product();
        let round = |x: Vec<f32>| if dtype == DType::Bf16 { round_bf16(&x) } else { x };
        let [x, r, dy] = [1, 2, 3].map(|seed| round(normal(seed, n)));
        Case { shape, dtype, x, r, dy, bias: normal(4, shape[1]), gamma: normal(5, shape[1]) }
    }

    fn channel(&self, i: usize) -> usize {
        let [_, c, a, b, d] = self.shape;
        i / (a * b * d) % c
    }

    /// y, dx and dbias of the GELU; y, dx, dbias and dgamma of the scale.
    fn reference(&self) -> ([Vec<f64>; 3], [Vec<f64>; 4]) {
        let mut gelu = [vec![], vec![], vec![0.0; self.shape[1]]];
        let mut scale = [vec![], vec![], vec![0.0; self.shape[1]], vec![0.0; self.shape[1]]];
        for (i, &x) in self.x.iter().enumerate() {
            let c = self.channel(i);
            let (v, dy, gamma) = (x as f64 + self.bias[c] as f64, self.dy[i] as f64, self.gamma[c] as f64);
            let cdf = 0.5 * (1.0 + erf(v / 2f64.sqrt()));
            let pdf = (-0.5 * v * v).exp() / std::f64::consts::TAU.sqrt();
            gelu[0].push(v * cdf);
            gelu[1].push(dy * (cdf + v * pdf));
            gelu[2][c] += dy * (cdf + v * pdf);
            scale[0].push(self.r[i] as f64 + gamma * v);
            scale[1].push(gamma * dy);
            scale[2][c] += gamma * dy;
            scale[3][c] += dy * v;
        }
        (gelu, scale)
    }

    /// The output, and the gradient of every input.
    fn run<O: Op + 'static>(&self, device: &Device, op: O, wide: &[&Vec<f32>], vectors: &[&Vec<f32>]) -> Vec<Vec<f32>> {
        let tape = Tape::recording();
        let wide = wide.iter().map(|data| Tensor::from_slice(device, self.shape, self.dtype, data).unwrap());
        let channels = self.shape[1];
        let vectors = vectors.iter().map(|data| Tensor::from_slice(device, [channels], DType::F32, data).unwrap());
        let leaves: Vec<_> = wide.chain(vectors).map(|tensor| tape.leaf(&tensor)).collect();
        let y = tape.apply(op, &leaves.iter().collect::<Vec<_>>()).unwrap();
        let dy = Tensor::from_slice(device, self.shape, self.dtype, &self.dy).unwrap();
        let gradients = tape.backward_from(&[(&y, &dy)]).unwrap();
        let gradients = leaves.iter().map(|leaf| gradients.get(leaf).unwrap().to_vec().unwrap());
        std::iter::once(y.tensor().to_vec().unwrap()).chain(gradients).collect()
    }

    fn check(&self, what: &str, device: &Device, bound: f64) {
        let (gelu, scale) = self.reference();
        let what = format!("{what} {:?} {:?}", self.shape, self.dtype);
        for (got, want) in self.run(device, BiasGelu, &[&self.x], &[&self.bias]).iter().zip(&gelu) {
            assert_close(&format!("{what} gelu"), got, want, bound);
        }
        let got = self.run(device, LayerScale, &[&self.r, &self.x], &[&self.gamma, &self.bias]);
        let dr: Vec<f64> = self.dy.iter().map(|&g| g as f64).collect();
        for (got, want) in got.iter().zip([&scale[0], &dr, &scale[1], &scale[3], &scale[2]]) {
            assert_close(&format!("{what} scale"), got, want, bound);
        }
    }
}

#[test]
fn channels_agree_with_f64() {
    for (name, device) in devices() {
        for shape in SHAPES {
            Case::new(shape, DType::F32).check(&name, &device, 2e-6);
            // Rounding of x's gradient and of y alone: 2^-9.
            Case::new(shape, DType::Bf16).check(&name, &device, 4e-3);
        }
    }
}

#[test]
fn pointwise_conv_agrees_with_f64() {
    for (name, device) in devices() {
        for (dtype, bound) in [(DType::F32, 1e-5), (DType::Bf16, 1e-2)] {
            let (n, i, o, v) = (3, 5, 7, 6);
            let round = |x: Vec<f32>| if dtype == DType::Bf16 { round_bf16(&x) } else { x };
            let (x, w, dy) = (round(normal(1, n * i * v)), round(normal(2, o * i)), round(normal(3, n * o * v)));
            let (mut y, mut dx, mut dw) = (vec![0.0; n * o * v], vec![0.0; n * i * v], vec![0.0; o * i]);
            for (s, a, b, p) in (0..n * o * i * v).map(|e| (e / (o * i * v), e / (i * v) % o, e / v % i, e % v)) {
                let (at_x, at_y) = ((s * i + b) * v + p, (s * o + a) * v + p);
                y[at_y] += w[a * i + b] as f64 * x[at_x] as f64;
                dx[at_x] += w[a * i + b] as f64 * dy[at_y] as f64;
                dw[a * i + b] += x[at_x] as f64 * dy[at_y] as f64;
            }
            let tape = Tape::recording();
            let leaf = |shape: &[usize], dtype, data: &[f32]| {
                tape.leaf(&Tensor::from_slice(&device, shape, dtype, data).unwrap())
            };
            let (x, w) = (leaf(&[n, i, 1, 2, 3], dtype, &x), leaf(&[o, i, 1, 1, 1], DType::F32, &w));
            let out = tape.apply(PointwiseConv { method: Method::default_for(&device) }, &[&x, &w]).unwrap();
            assert_eq!(&out.tensor().shape()[..], [n, o, 1, 2, 3]);
            let dy = Tensor::from_slice(&device, out.tensor().shape(), dtype, &dy).unwrap();
            let gradients = tape.backward_from(&[(&out, &dy)]).unwrap();
            assert_close(&name, &out.tensor().to_vec().unwrap(), &y, bound);
            assert_close(&name, &gradients.get(&x).unwrap().to_vec().unwrap(), &dx, bound);
            assert_close(&name, &gradients.get(&w).unwrap().to_vec().unwrap(), &dw, bound);
        }
    }
}

#[test]
fn channels_agree_with_finite_differences() {
    let device = host(Default::default());
    let wide = |seed| (Shape::from([2, 3, 2, 1, 5]), normal(seed, 60));
    let vector = |seed| (Shape::from([3]), normal(seed, 3));
    let reports = [
        check_gradients(&device, &BiasGelu, &[wide(1), vector(2)], 1e-3).unwrap(),
        check_gradients(&device, &LayerScale, &[wide(1), wide(2), vector(3), vector(4)], 1e-3).unwrap(),
        check_gradients(
            &device,
            &PointwiseConv { method: Method::default_for(&device) },
            &[wide(1), (Shape::from([4, 3]), normal(2, 12))],
            1e-3,
        )
        .unwrap(),
    ];
    for report in reports.iter().flatten() {
        assert!(report.relative_l2 < 3e-3, "{report:?}");
    }
}

#[test]
fn channels_refuse_what_does_not_fit() {
    let device = host(Default::default());
    let zeros = |shape: &[usize]| Tensor::zeros(&device, shape, DType::F32, "test").unwrap();
    let (x, v) = (zeros(&[2, 3, 4]), zeros(&[3]));
    let text = |result: x2ct::Result<Tensor>| result.map(drop).unwrap_err().to_string();
    let gelu = |inputs: &[&Tensor]| BiasGelu.forward(inputs).map(|(y, _)| y);
    let scale = |inputs: &[&Tensor]| LayerScale.forward(inputs).map(|(y, _)| y);
    assert!(text(gelu(&[&x, &zeros(&[4])])).contains("bias_gelu bias"));
    assert!(text(gelu(&[&v, &v])).contains("pass [N, C, ...]"));
    assert!(text(scale(&[&zeros(&[2, 3, 5]), &x, &v, &v])).contains("layer_scale residual"));
    let conv = PointwiseConv { method: Method::default_for(&device) };
    assert!(text(conv.forward(&[&x, &zeros(&[4, 2])]).map(|(y, _)| y)).contains("does not take the 3 channels"));
}

/// Whole and ragged squares, one row, one column; the gradient is the transpose back, added where one has arrived.
#[test]
fn transpose_is_exact_both_ways() {
    for (name, device) in devices() {
        for dtype in [DType::F32, DType::Bf16] {
            for [b, r, c] in [[1, 1, 1], [3, 1, 45], [2, 71, 1], [2, 32, 64], [5, 33, 31], [1, 7, 129]] {
                let n = b * r * c;
                let (x, up) = (round_bf16(&normal(1, n)), round_bf16(&normal(2, n)));
                let turned = |x: &[f32], r: usize, c: usize| -> Vec<f32> {
                    (0..n).map(|e| x[e / (r * c) * (r * c) + e % r * c + e / r % c]).collect()
                };
                let tape = Tape::recording();
                let leaf = tape.leaf(&Tensor::from_slice(&device, [n], dtype, &x).unwrap());
                let op = Transpose { matrices: [b, r, c], output: [b, c, r].into() };
                let y = [tape.apply(op.clone(), &[&leaf]).unwrap(), tape.apply(op, &[&leaf]).unwrap()];
                assert_eq!(y[0].tensor().to_vec().unwrap(), turned(&x, r, c), "{name} {b} {r} {c}");
                let up = Tensor::from_slice(&device, [b, c, r], dtype, &up).unwrap();
                let gradients = tape.backward_from(&[(&y[0], &up), (&y[1], &up)]).unwrap();
                let want: Vec<f32> = turned(&up.to_vec().unwrap(), c, r).iter().map(|g| 2.0 * g).collect();
                assert_eq!(gradients.get(&leaf).unwrap().to_vec().unwrap(), want, "{name} {b} {r} {c}");
            }
        }
    }
    let x = Tensor::zeros(&Device::host(), [6], DType::F32, "x").unwrap();
    let error = Transpose { matrices: [1, 2, 4], output: [8].into() }.forward(&[&x]).unwrap_err().to_string();
    assert!(error.contains("keep the number of elements"), "{error}");
}
