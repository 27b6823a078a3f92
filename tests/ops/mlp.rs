use x2ct::Device;
use x2ct::autograd::{Op, Tape, check_gradients};
use x2ct::ops::channels::{BiasGelu, LayerScale, PointwiseConv};
use x2ct::ops::gemm::{Backend, Method, Precision};
use x2ct::ops::mlp::{DropPath, Hidden, Mlp};
use x2ct::tensor::{DType, Shape, Tensor};

use super::channels::erf;
use crate::support::{assert_close, devices, host, normal, relative_l2, round_bf16, sum_bound};

/// Samples, channels, a volume and hidden units: one of each, odd ones, several tiles and parts of sums.
const SHAPES: [([usize; 5], usize); 5] =
    [([1, 1, 1, 1, 1], 1), ([3, 5, 1, 1, 1], 7), ([2, 7, 3, 5, 1], 28), ([5, 3, 2, 2, 3], 12), ([3, 9, 17, 5, 52], 36)];

struct Case {
    shape: [usize; 5],
    hidden: usize,
    dtype: DType,
    /// x, u, W1, b1, W2, b2, gamma.
    inputs: [Vec<f32>; 7],
    dy: Vec<f32>,
}

impl Case {
    fn new(shape: [usize; 5], hidden: usize, dtype: DType) -> Self {
        let (n, c): (usize, usize) = (shape.iter().product(), shape[1]);
        let round = |x: Vec<f32>| if dtype == DType::Bf16 { round_bf16(&x) } else { x };
        let scaled = |seed, n: usize, by: usize| normal(seed, n).iter().map(|w| w / (by as f32).sqrt()).collect();
        let inputs = [
            round(normal(1, n)),
            round(normal(2, n)),
            round(scaled(3, hidden * c, c)),
            normal(4, hidden),
            round(scaled(5, c * hidden, hidden)),
            normal(6, c),
            normal(7, c),
        ];
        Case { shape, hidden, dtype, inputs, dy: round(normal(8, n)) }
    }

    fn shapes(&self) -> [Shape; 7] {
        let (c, h) = (self.shape[1], self.hidden);
        let wide = Shape::from(self.shape);
        [wide.clone(), wide, [h, c].into(), [h].into(), [c, h].into(), [c].into(), [c].into()]
    }

    /// y and the seven gradients, in f64; `factors` of the samples.
    fn reference(&self, factors: &[f64]) -> Vec<Vec<f64>> {
        let [n, c, d1, d2, d3] = self.shape;
        let (v, h) = (d1 * d2 * d3, self.hidden);
        let [x, u, w1, b1, w2, b2, gamma] =
            self.inputs.each_ref().map(|t| t.iter().map(|&t| t as f64).collect::<Vec<_>>());
        let mut out: Vec<Vec<f64>> =
            [n * c * v].into_iter().chain(self.shapes().iter().map(|s| s.numel())).map(|n| vec![0.0; n]).collect();
        for (s, p) in (0..n * v).map(|e| (e / v, e % v)) {
            let at = |i: usize| (s * c + i) * v + p;
            let before: Vec<f64> =
                (0..h).map(|j| b1[j] + (0..c).map(|i| w1[j * c + i] * u[at(i)]).sum::<f64>()).collect();
            let cdf = |t: f64| 0.5 * (1.0 + erf(t / 2f64.sqrt()));
            let slope = |t: f64| cdf(t) + t * (-0.5 * t * t).exp() / std::f64::consts::TAU.sqrt();
            let after: Vec<f64> = before.iter().map(|&t| t * cdf(t)).collect();
            let mut da = vec![0.0; h];
            for i in 0..c {
                let o = b2[i] + (0..h).map(|j| w2[i * h + j] * after[j]).sum::<f64>();
                let (g, f) = (self.dy[at(i)] as f64, factors[s]);
                out[0][at(i)] = x[at(i)] + f * gamma[i] * o;
                out[1][at(i)] = g;
                out[6][i] += f * gamma[i] * g;
                out[7][i] += f * g * o;
                for j in 0..h {
                    out[5][i * h + j] += f * gamma[i] * g * after[j];
                    da[j] += f * gamma[i] * g * w2[i * h + j];
                }
            }
            for j in 0..h {
                let d = da[j] * slope(before[j]);
                out[4][j] += d;
                for i in 0..c {
                    out[3][j * c + i] += d * u[at(i)];
                    out[2][at(i)] += d * w1[j * c + i];
                }
            }
        }
        out
    }

    fn tensors(&self, device: &Device) -> Vec<Tensor> {
        let of = |(i, (shape, data)): (usize, (Shape, &Vec<f32>))| {
            Tensor::from_slice(device, shape, if i < 2 { self.dtype } else { DType::F32 }, data).unwrap()
        };
        self.shapes().into_iter().zip(&self.inputs).enumerate().map(of).collect()
    }

    /// y and the gradients of what `build` makes of the inputs.
    fn run(
        &self,
        device: &Device,
        build: impl Fn(&Tape, &[&x2ct::autograd::Var]) -> x2ct::autograd::Var,
    ) -> Vec<Vec<f32>> {
        let tape = Tape::recording();
        let leaves: Vec<_> = self.tensors(device).iter().map(|t| tape.leaf(t)).collect();
        let y = build(&tape, &leaves.iter().collect::<Vec<_>>());
        let dy = Tensor::from_slice(device, self.shape, self.dtype, &self.dy).unwrap();
        let gradients = tape.backward_from(&[(&y, &dy)]).unwrap();
        let gradients = leaves.iter().map(|leaf| gradients.get(leaf).unwrap().to_vec().unwrap());
        std::iter::once(y.tensor().to_vec().unwrap()).chain(gradients).collect()
    }

    fn fused(&self, device: &Device, op: &Mlp) -> Vec<Vec<f32>> {
        self.run(device, |tape, inputs| tape.apply(op.clone(), inputs).unwrap())
    }

    fn unfused(&self, device: &Device, method: Method) -> Vec<Vec<f32>> {
        self.run(device, |tape, inputs| {
            let &[x, u, w1, b1, w2, b2, gamma] = inputs else { unreachable!() };
            let conv = PointwiseConv { method };
            let y = tape.apply(conv, &[u, w1]).unwrap();
            let y = tape.apply(BiasGelu, &[&y, b1]).unwrap();
            let y = tape.apply(conv, &[&y, w2]).unwrap();
            tape.apply(LayerScale, &[x, &y, gamma, b2]).unwrap()
        })
    }
}

const NAMES: [&str; 8] = ["y", "dx", "du", "dW1", "db1", "dW2", "db2", "dgamma"];

#[test]
fn mlp_agrees_with_f64_and_with_its_parts() {
    for (shape, hidden) in SHAPES {
        // Gradients of weights are sums over all voxels, which a library may add in one order or another.
        let sums = sum_bound(shape[0] * shape[2] * shape[3] * shape[4]);
        for (dtype, bound, of_parts) in [(DType::F32, 2e-6 + sums, sums), (DType::Bf16, 1e-2, 2e-2)] {
            let case = Case::new(shape, hidden, dtype);
            let want = case.reference(&vec![1.0; shape[0]]);
            for (name, device) in devices() {
                for backend in [Backend::default_for(&device), Backend::Own] {
                    if backend == Backend::Own && shape[2] > 16 && device.is_host() {
                        continue; // slow there, and nothing that the other shapes lack
                    }
                    let method = Method { backend, precision: Precision::F32 };
                    let what = format!("{name} {backend:?} {shape:?} {dtype:?}");
                    let parts = case.unfused(&device, method);
                    let kept = case.fused(&device, &Mlp::new(method));
                    let again = case.fused(&device, &Mlp { hidden: Hidden::Recomputed, ..Mlp::new(method) });
                    assert!(kept == again, "{what}: a hidden layer computed again gives other bits");
                    for ((got, want), (parts, of)) in kept.iter().zip(&want).zip(parts.iter().zip(NAMES)) {
                        assert_close(&format!("{what} {of}"), got, want, bound);
                        let parts: Vec<f64> = parts.iter().map(|&v| v as f64).collect();
                        assert_close(&format!("{what} {of} of the parts"), got, &parts, of_parts);
                    }
                    if dtype == DType::F32 {
                        assert_eq!(kept[0], parts[0], "{what}: y is that of the parts, bit for bit");
                    }
                }
            }
        }
    }
}

/// Samples that are dropped pass by: y = x, no gradient to u or the parameters; the others are scaled.
#[test]
fn dropped_samples_pass_by() {
    for (name, device) in devices() {
        let method = Method::default_for(&device);
        let ([mut shape, ..], hidden) = ([[5, 3, 2, 2, 3]], 12);
        shape[0] = 4;
        let case = Case::new(shape, hidden, DType::F32);
        for keep in [[true, false, false, true], [false; 4], [true; 4]] {
            let drop_path = Some(DropPath { keep: keep.to_vec(), factor: 1.25 });
            let want = case.reference(&keep.map(|keep| if keep { 1.25 } else { 0.0 }));
            for hidden in [Hidden::Kept, Hidden::Recomputed] {
                let op = Mlp { method, hidden, drop_path: drop_path.clone() };
                for ((got, want), of) in case.fused(&device, &op).iter().zip(&want).zip(NAMES) {
                    if want.iter().all(|&v| v == 0.0) {
                        assert!(got.iter().all(|&v| v == 0.0), "{name} {keep:?} {of}");
                    } else {
                        assert_close(&format!("{name} {keep:?} {of}"), got, want, 3e-6);
                    }
                }
            }
        }
    }
}

#[test]
fn mlp_agrees_with_finite_differences() {
    let device = host(Default::default());
    let case = Case::new([2, 3, 2, 1, 5], 8, DType::F32);
    let inputs: Vec<_> = case.shapes().into_iter().zip(case.inputs.clone()).collect();
    for report in check_gradients(&device, &Mlp::new(Method::default_for(&device)), &inputs, 1e-3).unwrap() {
        assert!(report.relative_l2 < 3e-3, "{report:?}");
    }
}

/// A gradient that arrived before is added to, a frozen input asks for nothing.
#[test]
fn gradients_accumulate_and_can_be_left_out() {
    let device = host(Default::default());
    let case = Case::new([3, 4, 3, 1, 7], 9, DType::F32);
    let op = Mlp::new(Method::default_for(&device));
    let once = case.fused(&device, &op);
    let tensors = case.tensors(&device);
    let dy = Tensor::from_slice(&device, case.shape, DType::F32, &case.dy).unwrap();
    let tape = Tape::recording();
    let leaves: Vec<_> = tensors.iter().map(|t| tape.leaf(t)).collect();
    let inputs: Vec<_> = leaves.iter().collect();
    let ys = [tape.apply(op.clone(), &inputs).unwrap(), tape.apply(op.clone(), &inputs).unwrap()];
    let twice = tape.backward_from(&[(&ys[0], &dy), (&ys[1], &dy)]).unwrap();
    for (leaf, once) in leaves.iter().zip(&once[1..]) {
        let want: Vec<f64> = once.iter().map(|&g| 2.0 * g as f64).collect();
        assert!(relative_l2(&twice.get(leaf).unwrap().to_vec().unwrap(), &want) < 1e-6);
    }
    for wanted in 0..7 {
        let tape = Tape::recording();
        let inputs: Vec<_> = tensors
            .iter()
            .enumerate()
            .map(|(i, t)| if i == wanted { tape.leaf(t) } else { tape.constant(t) })
            .collect();
        let y = tape.apply(op.clone(), &inputs.iter().collect::<Vec<_>>()).unwrap();
        let gradients = tape.backward_from(&[(&y, &dy)]).unwrap();
        assert_eq!(
            gradients.get(&inputs[wanted]).unwrap().to_vec().unwrap(),
            once[wanted + 1],
            "{}",
            NAMES[wanted + 1]
        );
    }
}

#[test]
fn mlp_refuses_what_does_not_fit() {
    let device = host(Default::default());
    let case = Case::new([2, 3, 2, 2, 2], 5, DType::F32);
    let tensors = case.tensors(&device);
    let error = |op: &Mlp, swap: usize, by: &Tensor| {
        let inputs: Vec<&Tensor> = tensors.iter().enumerate().map(|(i, t)| if i == swap { by } else { t }).collect();
        op.forward(&inputs).map(drop).unwrap_err().to_string()
    };
    let op = Mlp::new(Method::default_for(&device));
    let other = Tensor::zeros(&device, [4], DType::F32, "other").unwrap();
    for (swap, name) in [(0, "mlp x"), (2, "mlp W1"), (4, "mlp W2"), (5, "mlp b2"), (6, "mlp gamma")] {
        assert!(error(&op, swap, &other).contains(name), "{}", error(&op, swap, &other));
    }
    let op = Mlp { drop_path: Some(DropPath { keep: vec![true], factor: 1.0 }), ..op };
    assert!(error(&op, 7, &other).contains("1 drop-path decisions"));
}
