use x2ct::Device;
use x2ct::autograd::{Op, Tape, check_gradients};
use x2ct::ops::norm::{BatchNorm, Mode, Order, RunningStats, Variant};
use x2ct::tensor::{DType, Tensor};

use crate::support::{assert_close, devices, host, normal, round_bf16};

const VARIANTS: [Option<Variant>; 4] =
    [None, Some(Variant::Naive), Some(Variant::Fused(Order::Interleaved)), Some(Variant::Fused(Order::Blocked))];

/// Order and channels: one, primes, not a multiple of a vector or a tile, several blocks, several column tiles.
const SHAPES: [[usize; 2]; 8] = [[2, 1], [3, 7], [31, 16], [257, 33], [17, 8], [5000, 24], [67, 300], [10_007, 3]];

struct Case {
    rows: usize,
    channels: usize,
    dtype: DType,
    mode: Mode,
    relu: bool,
    residual: bool,
    x: Vec<f32>,
    r: Vec<f32>,
    weight: Vec<f32>,
    bias: Vec<f32>,
    mean: Vec<f32>,
    var: Vec<f32>,
    dy: Vec<f32>,
}

impl Case {
    fn new([rows, channels]: [usize; 2], dtype: DType, mode: Mode, relu: bool, residual: bool) -> Self {
        let n = rows * channels;
        let round = |x: Vec<f32>| if dtype == DType::Bf16 { round_bf16(&x) } else { x };
        // Columns of different means and spreads.
        let x = normal(1, n).iter().enumerate().map(|(i, x)| x * (1.0 + (i % channels) as f32 * 0.1) + 3.0).collect();
        Case {
            rows,
            channels,
            dtype,
            mode,
            relu,
            residual,
            x: round(x),
            r: round(normal(2, n)),
            weight: normal(3, channels).iter().map(|w| 1.0 + 0.3 * w).collect(),
            bias: normal(4, channels),
            mean: normal(5, channels).iter().map(|m| 3.0 + m).collect(),
            var: normal(6, channels).iter().map(|v| 0.5 + v * v).collect(),
            dy: round(normal(7, n)),
        }
    }

    fn name(&self) -> String {
        format!(
            "[{}, {}] {} {:?} relu={} residual={}",
            self.rows,
            self.channels,
            self.dtype.name(),
            self.mode,
            self.relu,
            self.residual
        )
    }

    /// y, running mean, running variance, dx, dweight, dbias, dresidual in f64. The ReLU's mask comes from `y`, the
    /// kernel's own output: at a value that rounds to zero either side is right.
    fn reference(&self, y: &[f32]) -> [Vec<f64>; 7] {
        let (m, c) = (self.rows, self.channels);
        let mut out: [Vec<f64>; 7] = [
            vec![0.0; m * c],
            vec![0.0; c],
            vec![0.0; c],
            vec![0.0; m * c],
            vec![0.0; c],
            vec![0.0; c],
            vec![0.0; m * c],
        ];
        for j in 0..c {
            let at = |r: usize| self.x[r * c + j] as f64;
            let mut mean = (0..m).map(at).sum::<f64>() / m as f64;
            let mut var = (0..m).map(|r| (at(r) - mean).powi(2)).sum::<f64>() / m as f64;
            let (old_mean, old_var) = (self.mean[j] as f64, self.var[j] as f64);
            (out[1][j], out[2][j]) = (old_mean, old_var);
            match self.mode {
                Mode::Train => {
                    out[1][j] = 0.9 * old_mean + 0.1 * mean;
                    out[2][j] = 0.9 * old_var + 0.1 * var * m as f64 / (m as f64 - 1.0);
                }
                Mode::Recompute => {}
                Mode::Eval => (mean, var) = (old_mean, old_var),
            }
            let rstd = 1.0 / (var + 1e-5).sqrt();
            let (w, b) = (self.weight[j] as f64, self.bias[j] as f64);
            let (mut sum, mut sum_hat) = (0.0, 0.0);
            for r in 0..m {
                let i = r * c + j;
                let residual = if self.residual { self.r[i] as f64 } else { 0.0 };
                let z = (at(r) - mean) * rstd * w + b + residual;
                out[0][i] = if self.relu { z.max(0.0) } else { z };
                let dz = if self.relu && y[i] <= 0.0 { 0.0 } else { self.dy[i] as f64 };
                out[6][i] = dz;
                sum += dz;
                sum_hat += dz * (at(r) - mean) * rstd;
            }
            (out[4][j], out[5][j]) = (sum_hat, sum);
            for r in 0..m {
                let i = r * c + j;
                let centred = if self.mode.uses_batch() {
                    sum / m as f64 + (at(r) - mean) * rstd * sum_hat / m as f64
                } else {
                    0.0
                };
                out[3][i] = w * rstd * (out[6][i] - centred);
            }
        }
        out
    }

    /// The same seven through the operator.
    fn run(&self, device: &Device, variant: Option<Variant>) -> [Vec<f32>; 7] {
        let (m, c) = (self.rows, self.channels);
        let wide = |data: &[f32]| Tensor::from_slice(device, [m, c], self.dtype, data).unwrap();
        let vector = |data: &[f32]| Tensor::from_slice(device, [c], DType::F32, data).unwrap();
        let running = RunningStats { mean: vector(&self.mean), var: vector(&self.var) };
        let op = BatchNorm { relu: self.relu, variant, ..BatchNorm::new(self.mode, running.clone()) };
        let tape = Tape::recording();
        let leaves =
            [wide(&self.x), vector(&self.weight), vector(&self.bias), wide(&self.r)].map(|tensor| tape.leaf(&tensor));
        let inputs: Vec<_> = leaves.iter().take(if self.residual { 4 } else { 3 }).collect();
        let y = tape.apply(op, &inputs).unwrap();
        let gradients = tape.backward_from(&[(&y, &wide(&self.dy))]).unwrap();
        let gradient = |i: usize| gradients.get(&leaves[i]).map_or(Vec::new(), |g| g.to_vec().unwrap());
        [
            y.tensor().to_vec().unwrap(),
            running.mean.to_vec().unwrap(),
            running.var.to_vec().unwrap(),
            gradient(0),
            gradient(1),
            gradient(2),
            gradient(3),
        ]
    }

    fn check(&self, what: &str, got: &[Vec<f32>; 7]) {
        let want = self.reference(&got[0]);
        let names = ["y", "running mean", "running variance", "dx", "dweight", "dbias", "dresidual"];
        let largest = want[3..].iter().flatten().fold(0.0, |a: f64, b| a.max(b.abs()));
        for (i, name) in names.into_iter().enumerate() {
            if i == 6 && !self.residual {
                continue;
            }
            let stored = matches!(i, 0 | 3 | 6);
            let bound = if self.dtype == DType::Bf16 && stored { 4e-3 } else { 1e-5 };
            // Of few rows, dx is a difference of nearly equal terms: zero but for rounding.
            let worst = got[i].iter().zip(&want[i]).map(|(&g, w)| (g as f64 - w).abs()).fold(0.0, f64::max);
            if i >= 3 && worst <= 1e-5 * largest {
                continue;
            }
            assert_close(&format!("{what} {} {name}", self.name()), &got[i], &want[i], bound);
        }
    }
}

fn for_every_case(mut f: impl FnMut(Case)) {
    for shape in SHAPES {
        for dtype in [DType::F32, DType::Bf16] {
            for mode in [Mode::Train, Mode::Eval] {
                for (relu, residual) in [(false, false), (true, false), (false, true), (true, true)] {
                    f(Case::new(shape, dtype, mode, relu, residual));
                }
            }
        }
    }
}

#[test]
fn batch_norm_agrees_with_f64() {
    for (name, device) in devices() {
        for_every_case(|case| {
            for variant in VARIANTS {
                case.check(&format!("{name} {variant:?}"), &case.run(&device, variant));
            }
        });
    }
}

#[test]
fn batch_norm_gives_the_same_bits_twice_and_under_every_thread_order() {
    let devices = devices();
    let on_host = |name: &str| name.starts_with("host");
    for shape in [[5000, 24], [257, 33]] {
        let case = Case::new(shape, DType::F32, Mode::Train, true, true);
        let first = case.run(&devices[0].1, None);
        for (name, device) in &devices {
            let (a, b) = (case.run(device, None), case.run(device, None));
            assert_eq!(a, b, "{name}");
            assert!(!on_host(name) || a == first, "{name}");
        }
    }
}

fn vector_of(device: &Device, data: &[f32]) -> Tensor {
    Tensor::from_slice(device, [data.len()], DType::F32, data).unwrap()
}

/// Vectors of 16 bytes need aligned rows: a view that starts elsewhere takes the other path.
#[test]
fn batch_norm_reads_unaligned_views() {
    for (name, device) in devices() {
        let case = Case::new([37, 8], DType::F32, Mode::Train, true, true);
        let shifted =
            Tensor::from_slice(&device, [37 * 8 + 1], DType::F32, &[vec![9.0], case.x.clone()].concat()).unwrap();
        let x = shifted.view(1, [37, 8]).unwrap();
        let vector = |data: &[f32]| Tensor::from_slice(&device, [8], DType::F32, data).unwrap();
        let r = Tensor::from_slice(&device, [37, 8], DType::F32, &case.r).unwrap();
        let running = RunningStats { mean: vector(&case.mean), var: vector(&case.var) };
        let op = BatchNorm::new(Mode::Train, running).relu();
        let (weight, bias) = (vector(&case.weight), vector(&case.bias));
        let (y, _) = op.forward(&[&x, &weight, &bias, &r]).unwrap();
        let y = y.to_vec().unwrap();
        assert_close(&name, &y, &case.reference(&y)[0], 1e-5);
        // So may a parameter lie in the middle of an arena.
        let padded = vector_of(&device, &[&[9.0], &case.weight[..]].concat());
        let (again, _) = op.forward(&[&x, &padded.view(1, [8]).unwrap(), &bias, &r]).unwrap();
        assert_eq!(again.to_vec().unwrap(), y, "{name}");
    }
}

/// A mean a thousand spreads away: squares of unshifted values would leave nothing of the variance in f32.
#[test]
fn batch_norm_keeps_the_variance_of_columns_far_from_zero() {
    for (name, device) in devices() {
        for variant in VARIANTS {
            let (rows, channels) = (20_000, 4);
            let x: Vec<f32> = normal(8, rows * channels).iter().map(|x| 1000.0 + x).collect();
            let case = Case { x, ..Case::new([rows, channels], DType::F32, Mode::Train, false, false) };
            let got = case.run(&device, variant);
            let want = case.reference(&got[0]);
            // x itself is only known to 6e-5 of its spread.
            assert_close(&format!("{name} {variant:?} y"), &got[0], &want[0], 5e-5);
            assert_close(&format!("{name} {variant:?} variance"), &got[2], &want[2], 1e-5);
        }
    }
}

#[test]
fn batch_norm_of_a_constant_column_is_its_bias() {
    for (name, device) in devices() {
        for variant in VARIANTS {
            let case = Case { x: vec![0.1; 96 * 3], ..Case::new([96, 3], DType::F32, Mode::Train, false, false) };
            let got = case.run(&device, variant);
            let want: Vec<f64> = (0..96 * 3).map(|i| case.bias[i % 3] as f64).collect();
            // The naive mean is that of f64 rounded to f32: off by 1e-9, times rstd = 316.
            assert_close(&format!("{name} {variant:?}"), &got[0], &want, 1e-5);
        }
    }
}

#[test]
fn batch_norm_recomputes_bit_for_bit_and_leaves_the_running_statistics() {
    for (name, device) in devices() {
        for variant in VARIANTS {
            let train = Case::new([67, 24], DType::F32, Mode::Train, true, true);
            let again = Case::new([67, 24], DType::F32, Mode::Recompute, true, true);
            again.check(&format!("{name} {variant:?}"), &again.run(&device, variant));
            let (first, second) = (train.run(&device, variant), again.run(&device, variant));
            for i in [0, 3, 4, 5, 6] {
                assert!(first[i] == second[i], "{name} {variant:?} {i}");
            }
            assert!(second[1] == again.mean && second[2] == again.var && first[1] != again.mean);
        }
    }
}

#[test]
fn batch_norm_agrees_with_finite_differences() {
    let device = host(Default::default());
    let case = Case::new([53, 6], DType::F32, Mode::Train, false, false);
    let vector = |data: &[f32]| (vec![6].into(), data.to_vec());
    for mode in [Mode::Train, Mode::Eval] {
        let op = BatchNorm::new(mode, RunningStats::new(&device, 6).unwrap());
        let wide = |data: &[f32]| (vec![53, 6].into(), data.to_vec());
        let inputs = [wide(&case.x), vector(&case.weight), vector(&case.bias), wide(&case.r)];
        for report in check_gradients(&device, &op, &inputs, 1e-3).unwrap() {
            assert!(report.relative_l2 < 2e-3, "{mode:?} {report:?}");
        }
    }
}

#[test]
fn batch_norm_adds_to_gradients() {
    for (name, device) in devices() {
        for variant in VARIANTS {
            // x is also the residual: two contributions to one gradient, from one operator.
            let mut case = Case::new([97, 12], DType::F32, Mode::Train, true, true);
            case.r = case.x.clone();
            let got = case.run(&device, variant);
            let want = case.reference(&got[0]);
            let vector = |data: &[f32]| Tensor::from_slice(&device, [12], DType::F32, data).unwrap();
            let wide = |data: &[f32]| Tensor::from_slice(&device, [97, 12], DType::F32, data).unwrap();
            let running = RunningStats { mean: vector(&case.mean), var: vector(&case.var) };
            let op = BatchNorm { variant, ..BatchNorm::new(Mode::Train, running).relu() };
            let tape = Tape::recording();
            let x = tape.leaf(&wide(&case.x));
            let sums = [vector(&[10.0; 12]), vector(&[20.0; 12])];
            let weight = tape.parameter(&vector(&case.weight), &sums[0]);
            let bias = tape.parameter(&vector(&case.bias), &sums[1]);
            let y = tape.apply(op, &[&x, &weight, &bias, &x]).unwrap();
            let gradients = tape.backward_from(&[(&y, &wide(&case.dy))]).unwrap();
            let add = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a + b).collect::<Vec<_>>();
            let what = format!("{name} {variant:?}");
            assert_close(&what, &gradients.get(&x).unwrap().to_vec().unwrap(), &add(&want[3], &want[6]), 1e-5);
            assert_close(&what, &sums[0].to_vec().unwrap(), &add(&want[4], &[10.0; 12]), 1e-5);
            assert_close(&what, &sums[1].to_vec().unwrap(), &add(&want[5], &[20.0; 12]), 1e-5);
        }
    }
}

#[test]
fn batch_norm_refuses_what_does_not_fit() {
    let device = host(Default::default());
    let op = BatchNorm::new(Mode::Train, RunningStats::new(&device, 3).unwrap());
    let zeros = |shape: &[usize], dtype| Tensor::zeros(&device, shape, dtype, "test").unwrap();
    let (w, b) = (zeros(&[3], DType::F32), zeros(&[3], DType::F32));
    let text = |inputs: &[&Tensor]| op.forward(inputs).err().expect("an error").to_string();
    assert!(text(&[&zeros(&[1, 3], DType::F32), &w, &b]).contains("at least two"));
    assert!(text(&[&zeros(&[4, 5], DType::F32), &w, &b]).contains("batch_norm weight"));
    assert!(text(&[&zeros(&[4, 3], DType::F32), &w]).contains("2 inputs"));
    assert!(text(&[&zeros(&[4, 3], DType::F32), &w, &zeros(&[3], DType::Bf16)]).contains("batch_norm bias"));
    assert!(text(&[&zeros(&[4, 3], DType::F32), &w, &b, &zeros(&[3, 3], DType::F32)]).contains("residual"));
    let eval = BatchNorm::new(Mode::Eval, RunningStats::new(&device, 3).unwrap());
    assert!(eval.forward(&[&zeros(&[1, 3], DType::F32), &w, &b]).is_ok());
}
