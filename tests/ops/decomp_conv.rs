use x2ct::Device;
use x2ct::autograd::{Op, Tape, check_gradients};
use x2ct::ops::decomp_conv::{Activation, DecompConv, Groups, Norm, Variant};
use x2ct::ops::norm::{Mode, RunningStats};
use x2ct::tensor::{DType, Shape, Tensor};

use crate::support::{assert_close, devices, host, normal, round_bf16};

const VARIANTS: [Variant; 2] = [Variant::Naive, Variant::Fused];

/// The sizes of a case: what is odd about each.
#[derive(Clone, Copy)]
pub(super) struct Size {
    batch: usize,
    channels: [usize; 2],
    volume: [usize; 3],
    kernel: usize,
    stride: usize,
}

pub(super) const fn size(batch: usize, channels: [usize; 2], volume: [usize; 3], kernel: usize, stride: usize) -> Size {
    Size { batch, channels, volume, kernel, stride }
}

/// Depthwise: one voxel an axis, one tap, volumes smaller than the kernel, rows with and without whole vectors, several
/// tiles along every axis and over samples, each unrolled kernel; strides that leave voxels out, and more taps than are
/// unrolled, over several pieces of a volume.
const DEPTHWISE: [Size; 14] = [
    size(2, [3, 3], [1, 1, 1], 3, 1),
    size(3, [2, 2], [5, 1, 7], 1, 1),
    size(2, [5, 5], [3, 4, 5], 13, 1),
    size(1, [2, 2], [17, 19, 23], 9, 1),
    size(3, [3, 3], [6, 5, 8], 5, 1),
    size(40, [2, 2], [4, 3, 4], 7, 1),
    size(2, [1, 1], [35, 18, 20], 15, 1),
    size(2, [2, 2], [18, 33, 12], 11, 1),
    size(2, [6, 6], [13, 9, 10], 7, 4),
    size(1, [2, 2], [41, 37, 29], 13, 4),
    size(3, [3, 3], [7, 1, 8], 3, 2),
    size(2, [2, 2], [9, 14, 5], 1, 3),
    size(2, [2, 2], [11, 13, 12], 15, 5),
    size(2, [3, 3], [12, 21, 9], 17, 1),
];

/// Dense, and strides.
const DENSE: [Size; 5] = [
    size(2, [1, 5], [17, 13, 9], 7, 4),
    size(1, [4, 4], [5, 7, 18], 3, 1),
    size(2, [3, 2], [2, 1, 3], 1, 1),
    size(3, [2, 7], [6, 5, 4], 5, 2),
    size(1, [3, 33], [4, 9, 20], 3, 1),
];

#[derive(Clone)]
pub(super) struct Case {
    size: Size,
    groups: Groups,
    dtype: DType,
    norm: Option<Mode>,
    bias: bool,
    gelu: bool,
    x: Vec<f32>,
    dy: Vec<f32>,
    /// Weights, biases, norm weights, norm biases, running means, running variances of each branch.
    vectors: [[Vec<f32>; 3]; 6],
}

/// y, running means, running variances, then the gradients in the order of the inputs.
pub(super) type Results<T> = Vec<Vec<T>>;

impl Case {
    pub(super) fn new(size: Size, groups: Groups, dtype: DType, norm: Option<Mode>, bias: bool, gelu: bool) -> Self {
        let Size { batch, channels: [inputs, outputs], volume, kernel, .. } = size;
        let fan_in = if groups == Groups::Dense { inputs } else { 1 };
        let round = |x: Vec<f32>| if dtype == DType::Bf16 { round_bf16(&x) } else { x };
        let voxels: usize = volume.iter().product();
        let three = |seed: u64, n: usize, f: fn(f32) -> f32| {
            [0, 1, 2].map(|a| normal(seed + a, n).into_iter().map(f).collect::<Vec<f32>>())
        };
        let x = normal(1, batch * inputs * voxels).into_iter().map(|x| x + 0.5).collect();
        let mut case = Case {
            size,
            groups,
            dtype,
            norm,
            bias,
            gelu,
            x: round(x),
            dy: Vec::new(),
            vectors: [
                three(10, outputs * fan_in * kernel, |w| 0.4 * w),
                three(20, outputs, |b| b),
                three(30, outputs, |g| 1.0 + 0.3 * g),
                three(40, outputs, |b| b),
                three(50, outputs, |m| 0.5 * m),
                three(60, outputs, |v| 0.5 + v * v),
            ],
        };
        case.dy = round(normal(2, batch * outputs * case.out_volume().iter().product::<usize>()));
        if dtype == DType::Bf16 && groups == Groups::Dense {
            // Products of bf16 columns take bf16 weights.
            case.vectors[0] = case.vectors[0].each_ref().map(|w| round_bf16(w));
        }
        case
    }

    /// x varies slowly, far from zero.
    pub(super) fn smooth(&mut self) {
        let [_, d2, d3] = self.size.volume;
        for (v, x) in self.x.iter_mut().enumerate() {
            let [a, b, c] = [v / d3 / d2, v / d3 % d2, v % d3].map(|at| at as f32);
            *x = 0.1 * ((0.11 * a).sin() + (0.17 * b).cos() + (0.07 * c).sin()) - 0.9;
        }
    }

    /// x is one value around a body of a 64th of the volume, as most of a CT is air.
    pub(super) fn flat(&mut self) {
        let volume @ [_, d2, d3] = self.size.volume;
        let voxels: usize = volume.iter().product();
        for (v, x) in self.x.iter_mut().enumerate() {
            let at = v % voxels;
            let inside = [at / d3 / d2, at / d3 % d2, at % d3].iter().zip(volume).all(|(&at, d)| at < d / 4);
            *x = if inside { *x } else { -100.0 };
        }
    }

    pub(super) fn name(&self) -> String {
        let Size { batch, channels, volume, kernel, stride } = self.size;
        let (groups, norm, dtype) = (self.groups, self.norm, self.dtype.name());
        let (bias, gelu) = (self.bias, self.gelu);
        format!(
            "{groups:?} n{batch} {channels:?} {volume:?} k{kernel} s{stride} {norm:?} bias={bias} gelu={gelu} {dtype}"
        )
    }

    fn out_volume(&self) -> [usize; 3] {
        self.size.volume.map(|d| (d - 1) / self.size.stride + 1)
    }

    /// Calls f(axis, sample, output channel, input channel, tap, output element, input element) for every product.
    fn for_products(&self, mut f: impl FnMut([usize; 3], usize, usize)) {
        let Size { batch, channels: [inputs, outputs], volume: d, kernel, stride } = self.size;
        let e = self.out_volume();
        let dense = self.groups == Groups::Dense;
        let fan_in = if dense { inputs } else { 1 };
        for axis in 0..3 {
            for n in 0..batch {
                for o in 0..outputs {
                    for i in 0..fan_in {
                        for t in 0..kernel {
                            for v in 0..e.iter().product() {
                                let out = [v / e[2] / e[1], v / e[2] % e[1], v % e[2]];
                                let mut at = out.map(|p| (p * stride) as isize);
                                at[axis] += t as isize - (kernel / 2) as isize;
                                if at[axis] < 0 || at[axis] >= d[axis] as isize {
                                    continue;
                                }
                                let channel = n * inputs + if dense { i } else { o };
                                let at = at.map(|p| p as usize);
                                let element = ((channel * d[0] + at[0]) * d[1] + at[1]) * d[2] + at[2];
                                f(
                                    [axis, o, (o * fan_in + i) * kernel + t],
                                    (n * outputs + o) * e.iter().product::<usize>() + v,
                                    element,
                                );
                            }
                        }
                    }
                }
            }
        }
    }

    /// Everything in f64.
    fn reference(&self) -> Results<f64> {
        let Size { batch, channels: [_, outputs], .. } = self.size;
        let [w, bias, gamma, beta, running_mean, running_var] =
            self.vectors.each_ref().map(|v| v.each_ref().map(|v| v.iter().map(|&x| x as f64).collect::<Vec<f64>>()));
        let voxels: usize = self.out_volume().iter().product();
        let elements = batch * outputs * voxels;
        let mut z = [vec![0.0; elements], vec![0.0; elements], vec![0.0; elements]];
        self.for_products(|[axis, _, weight], out, element| z[axis][out] += w[axis][weight] * self.x[element] as f64);
        let channel = |i: usize| i / voxels % outputs;
        let m = (batch * voxels) as f64;
        let mut results = [running_mean.clone(), running_var.clone()];
        let (mut mean, mut rstd) = (vec![vec![0.0; outputs]; 3], vec![vec![1.0; outputs]; 3]);
        let mut pre = vec![0.0; elements];
        for axis in 0..3 {
            if self.bias {
                z[axis].iter_mut().enumerate().for_each(|(i, z)| *z += bias[axis][channel(i)]);
            }
            for c in 0..outputs {
                let values = || z[axis].iter().enumerate().filter(|(i, _)| channel(*i) == c).map(|(_, z)| *z);
                let var = match self.norm {
                    None => continue,
                    Some(Mode::Eval) => {
                        mean[axis][c] = running_mean[axis][c];
                        running_var[axis][c]
                    }
                    Some(mode) => {
                        mean[axis][c] = values().sum::<f64>() / m;
                        let var = values().map(|z| (z - mean[axis][c]).powi(2)).sum::<f64>() / m;
                        if mode == Mode::Train {
                            results[0][axis][c] = 0.8 * running_mean[axis][c] + 0.2 * mean[axis][c];
                            results[1][axis][c] = 0.8 * running_var[axis][c] + 0.2 * var * m / (m - 1.0);
                        }
                        var
                    }
                };
                rstd[axis][c] = 1.0 / (var + 1e-4).sqrt();
            }
            for (i, pre) in pre.iter_mut().enumerate() {
                let c = channel(i);
                *pre += match self.norm {
                    None => z[axis][i],
                    Some(_) => (z[axis][i] - mean[axis][c]) * rstd[axis][c] * gamma[axis][c] + beta[axis][c],
                };
            }
        }
        let cdf = |v: f64| 0.5 * (1.0 + erf(v / 2f64.sqrt()));
        let pdf = |v: f64| (-0.5 * v * v).exp() / std::f64::consts::TAU.sqrt();
        let y = pre.iter().map(|&v| if self.gelu { v * cdf(v) } else { v }).collect();
        let slope = |v: f64| if self.gelu { cdf(v) + v * pdf(v) } else { 1.0 };
        let g: Vec<f64> = pre.iter().zip(&self.dy).map(|(&v, &dy)| dy as f64 * slope(v)).collect();

        let mut dx = vec![0.0; self.x.len()];
        let mut dw = w.each_ref().map(|w| vec![0.0; w.len()]);
        let [mut dbias, mut dgamma, mut dbeta] = [[(); 3]; 3].map(|three| three.map(|_| vec![0.0; outputs]));
        let mut dz = z.clone();
        for axis in 0..3 {
            for i in 0..elements {
                let c = channel(i);
                dbeta[axis][c] += g[i];
                dgamma[axis][c] += g[i] * (z[axis][i] - mean[axis][c]) * rstd[axis][c];
            }
            for i in 0..elements {
                let c = channel(i);
                dz[axis][i] = match self.norm {
                    None => g[i],
                    Some(Mode::Eval) => g[i] * gamma[axis][c] * rstd[axis][c],
                    Some(_) => {
                        let hat = (z[axis][i] - mean[axis][c]) * rstd[axis][c];
                        gamma[axis][c] * rstd[axis][c] * (g[i] - dbeta[axis][c] / m - hat * dgamma[axis][c] / m)
                    }
                };
                dbias[axis][c] += dz[axis][i];
            }
        }
        self.for_products(|[axis, _, weight], out, element| {
            dw[axis][weight] += dz[axis][out] * self.x[element] as f64;
            dx[element] += dz[axis][out] * w[axis][weight];
        });
        let mut all = vec![y];
        all.extend(results.into_iter().flatten());
        all.push(dx);
        all.extend(dw);
        if self.bias {
            all.extend(dbias);
        }
        if self.norm.is_some() {
            all.extend(dgamma);
            all.extend(dbeta);
        }
        all
    }

    /// The operator, and the shapes and values of its parameters in order.
    fn build(&self, device: &Device, variant: Option<Variant>) -> (DecompConv, Vec<(Shape, Vec<f32>)>) {
        let Size { channels: [inputs, outputs], kernel, stride, .. } = self.size;
        let fan_in = if self.groups == Groups::Dense { inputs } else { 1 };
        let vector = |data: &Vec<f32>| Tensor::from_slice(device, [outputs], DType::F32, data).unwrap();
        let [weights, bias, gamma, beta, mean, var] = &self.vectors;
        let running = [0, 1, 2].map(|a| RunningStats { mean: vector(&mean[a]), var: vector(&var[a]) });
        let norm = self.norm.map(|mode| Norm { eps: 1e-4, momentum: 0.2, ..Norm::new(mode, running) });
        let activation = if self.gelu { Activation::Gelu } else { Activation::None };
        let op = DecompConv { norm, activation, variant, ..DecompConv::new(kernel, stride, self.groups) };
        let mut parameters = Vec::new();
        for (axis, weight) in weights.iter().enumerate() {
            let mut shape = vec![outputs, fan_in, 1, 1, 1];
            shape[2 + axis] = kernel;
            parameters.push((Shape::from(shape), weight.clone()));
        }
        let groups = [(self.bias, bias), (self.norm.is_some(), gamma), (self.norm.is_some(), beta)];
        for (_, vectors) in groups.into_iter().filter(|(present, _)| *present) {
            parameters.extend(vectors.iter().map(|v| (Shape::from([outputs]), v.clone())));
        }
        (op, parameters)
    }

    fn x_shape(&self) -> Shape {
        let [d1, d2, d3] = self.size.volume;
        [self.size.batch, self.size.channels[0], d1, d2, d3].into()
    }

    fn run(&self, device: &Device, variant: Option<Variant>) -> Results<f32> {
        self.run_as(device, |op| op.variant = variant)
    }

    /// With the operator as `set` leaves it.
    pub(super) fn run_as(&self, device: &Device, set: impl FnOnce(&mut DecompConv)) -> Results<f32> {
        let (mut op, parameters) = self.build(device, None);
        set(&mut op);
        let running = op.norm.as_ref().map(|n| n.running.clone());
        let tape = Tape::recording();
        let x = tape.leaf(&Tensor::from_slice(device, self.x_shape(), self.dtype, &self.x).unwrap());
        let mut leaves = vec![x];
        for (shape, data) in parameters {
            leaves.push(tape.leaf(&Tensor::from_slice(device, shape, DType::F32, &data).unwrap()));
        }
        let y = tape.apply(op, &leaves.iter().collect::<Vec<_>>()).unwrap();
        let dy = Tensor::from_slice(device, y.tensor().shape(), self.dtype, &self.dy).unwrap();
        let gradients = tape.backward_from(&[(&y, &dy)]).unwrap();
        let mut results = vec![y.tensor().to_vec().unwrap()];
        match running {
            Some(running) => {
                results.extend(running.each_ref().map(|r| r.mean.to_vec().unwrap()));
                results.extend(running.each_ref().map(|r| r.var.to_vec().unwrap()));
            }
            None => results.extend(self.vectors[4..].iter().flatten().cloned()),
        }
        results.extend(leaves.iter().map(|leaf| gradients.get(leaf).unwrap().to_vec().unwrap()));
        results
    }

    pub(super) fn check(&self, what: &str, got: &Results<f32>, bound: f64) {
        let want = self.reference();
        assert_eq!(got.len(), want.len());
        let largest = want[7..].iter().flatten().fold(0.0f64, |m, x| m.max(x.abs()));
        for (i, (got, want)) in got.iter().zip(&want).enumerate() {
            // Gradients that are zero but for rounding: of a bias before a norm, of a channel with one value.
            let difference = got.iter().zip(want).fold(0.0f64, |m, (&g, &w)| m.max((g as f64 - w).abs()));
            if i >= 7 && difference <= bound * largest {
                continue;
            }
            assert_close(&format!("{what} {} result {i}", self.name()), got, want, bound);
        }
    }
}

/// erf to 1e-16: its series, or the continued fraction of its complement.
fn erf(x: f64) -> f64 {
    if x.abs() < 3.0 {
        let (mut term, mut sum) = (x, x);
        for n in 1..100 {
            term *= -x * x / n as f64;
            sum += term / (2 * n + 1) as f64;
        }
        return sum * std::f64::consts::FRAC_2_SQRT_PI;
    }
    let tail = (1..60).rev().fold(0.0, |f, n| n as f64 / 2.0 / (x.abs() + f));
    x.signum() * (1.0 - (-x * x).exp() / std::f64::consts::PI.sqrt() / (x.abs() + tail))
}

fn for_every_case(f: impl Fn(&Case, Option<Variant>)) {
    let norms = [None, Some(Mode::Eval), Some(Mode::Train)];
    let sizes = DEPTHWISE.map(|s| (s, Groups::Depthwise)).into_iter().chain(DENSE.map(|s| (s, Groups::Dense)));
    for (i, (size, groups)) in sizes.enumerate() {
        for (j, norm) in norms.into_iter().enumerate() {
            for variant in VARIANTS {
                f(&Case::new(size, groups, DType::F32, norm, (i + j) % 2 == 0, i % 3 == 1), Some(variant));
            }
        }
    }
    for (size, groups) in [(DEPTHWISE[0], Groups::Depthwise), (DENSE[0], Groups::Dense)] {
        f(&Case::new(size, groups, DType::F32, Some(Mode::Recompute), true, true), None);
    }
}

#[test]
fn decomp_conv_agrees_with_f64() {
    for (name, device) in devices() {
        for_every_case(|case, variant| case.check(&format!("{name} {variant:?}"), &case.run(&device, variant), 2e-5));
    }
}

/// bf16 rounds x, dy, y and dx, and in the dense variant dz and the gradients of the columns: 2^-9 each.
#[test]
fn decomp_conv_in_bf16() {
    for (name, device) in devices() {
        for variant in VARIANTS {
            for (size, groups) in [
                (DEPTHWISE[2], Groups::Depthwise),
                (DEPTHWISE[3], Groups::Depthwise),
                (DEPTHWISE[4], Groups::Depthwise),
                (DEPTHWISE[6], Groups::Depthwise),
                (DEPTHWISE[7], Groups::Depthwise),
                (DEPTHWISE[9], Groups::Depthwise),
                (DENSE[1], Groups::Dense),
            ] {
                for gelu in [false, true] {
                    let case = Case::new(size, groups, DType::Bf16, Some(Mode::Train), true, gelu);
                    case.check(&format!("{name} {variant:?}"), &case.run(&device, Some(variant)), 8e-3);
                }
            }
        }
    }
}

/// Small and odd volumes, rows with and without whole 16-byte words, two steps along axis 1 and two tiles along the others, up to
/// the most taps. Against the function of the rounded weights: 2^-9 for each of x, dy, y and dx.
#[test]
fn decomp_conv_on_tensor_cores() {
    let sizes = [
        size(2, [1, 1], [1, 1, 1], 1, 1),
        size(1, [2, 2], [19, 18, 40], 15, 1),
        size(2, [2, 2], [35, 5, 37], 13, 1),
        size(3, [2, 2], [4, 33, 8], 9, 1),
    ];
    for (name, device) in devices() {
        for (i, size) in sizes.into_iter().enumerate() {
            for (j, norm) in [None, Some(Mode::Eval), Some(Mode::Train)].into_iter().enumerate() {
                let gelu = (i + j) % 2 == 1;
                let mut case = Case::new(size, Groups::Depthwise, DType::Bf16, norm, true, gelu);
                case.vectors[0] = case.vectors[0].each_ref().map(|w| round_bf16(w));
                let got = case.run(&device, Some(Variant::TensorCores));
                case.check(&format!("{name} tensor cores"), &got, 8e-3);
                // Sums are in f32: the running statistics are as good as without tensor cores.
                for (got, want) in got.iter().zip(&case.reference()).take(7).skip(1) {
                    assert_close(&format!("{name} {} statistics", case.name()), got, want, 2e-5);
                }
                assert_eq!(got, case.run(&device, Some(Variant::TensorCores)), "{name} {}", case.name());
            }
        }
    }
}

/// Weights that bf16 cannot hold are rounded in every pass, the backward ones included.
#[test]
fn decomp_conv_on_tensor_cores_rounds_its_weights_everywhere() {
    let device = host(Default::default());
    let plain =
        Case::new(size(2, [3, 3], [9, 11, 16], 7, 1), Groups::Depthwise, DType::Bf16, Some(Mode::Train), true, true);
    let mut rounded = plain.clone();
    rounded.vectors[0] = plain.vectors[0].each_ref().map(|w| round_bf16(w));
    assert_ne!(plain.vectors[0], rounded.vectors[0]);
    let run = |case: &Case| case.run(&device, Some(Variant::TensorCores));
    // All but the pivot, which moves the statistics by a rounding error, is the same.
    for (plain, rounded) in run(&plain).iter().zip(&run(&rounded)) {
        let rounded: Vec<f64> = rounded.iter().map(|&x| x as f64).collect();
        assert_close("rounded weights", plain, &rounded, 1e-3);
    }
}

#[test]
fn decomp_conv_by_groups_of_channels_gives_the_same_bits() {
    let device = host(Default::default());
    for (size, variant, dtype) in [
        (size(2, [5, 5], [6, 7, 9], 7, 1), Variant::Fused, DType::F32),
        (size(2, [5, 5], [9, 7, 10], 5, 4), Variant::Fused, DType::F32),
        (size(2, [5, 5], [6, 7, 9], 7, 1), Variant::TensorCores, DType::Bf16),
    ] {
        let case = Case::new(size, Groups::Depthwise, dtype, Some(Mode::Train), true, true);
        let whole = case.run(&device, Some(variant));
        assert_eq!(
            case.run_as(&device, |op| (op.variant, op.channel_group) = (Some(variant), Some(2))),
            whole,
            "{variant:?} {}",
            case.name()
        );
    }
}

#[test]
fn decomp_conv_gives_the_same_bits_twice_and_under_every_thread_order() {
    let devices = devices();
    for (size, groups) in
        [(DEPTHWISE[6], Groups::Depthwise), (DEPTHWISE[9], Groups::Depthwise), (DENSE[4], Groups::Dense)]
    {
        let case = Case::new(size, groups, DType::F32, Some(Mode::Train), true, true);
        let first = case.run(&devices[0].1, None);
        for (name, device) in &devices {
            let (a, b) = (case.run(device, None), case.run(device, None));
            assert_eq!(a, b, "{name}");
            assert!(!name.starts_with("host") || a == first, "{name}");
        }
    }
}

#[test]
fn decomp_conv_agrees_with_finite_differences() {
    let device = host(Default::default());
    let sizes = [
        (size(2, [3, 3], [4, 5, 3], 3, 1), Groups::Depthwise),
        (size(2, [2, 2], [7, 9, 6], 5, 4), Groups::Depthwise),
        (size(2, [2, 3], [4, 5, 3], 3, 2), Groups::Dense),
    ];
    for (size, groups) in sizes {
        for (norm, gelu) in [(None, true), (Some(Mode::Eval), false), (Some(Mode::Train), true)] {
            let case = Case::new(size, groups, DType::F32, norm, norm != Some(Mode::Train), gelu);
            let (op, parameters) = case.build(&device, None);
            let mut inputs = vec![(case.x_shape(), case.x.clone())];
            inputs.extend(parameters);
            for report in check_gradients(&device, &op, &inputs, 3e-3).unwrap() {
                assert!(report.relative_l2 < 5e-3, "{} {report:?}", case.name());
            }
        }
    }
}

/// A mean a hundred spreads away, with one tap so that no border hides it: the pivot keeps it out of the squares.
#[test]
fn decomp_conv_keeps_the_variance_of_values_far_from_zero() {
    for (name, device) in devices() {
        for variant in VARIANTS {
            let mut case = Case::new(
                size(3, [2, 2], [9, 8, 12], 1, 1),
                Groups::Depthwise,
                DType::F32,
                Some(Mode::Train),
                true,
                false,
            );
            case.x.iter_mut().for_each(|x| *x += 100.0);
            let (got, want) = (case.run(&device, Some(variant)), case.reference());
            // x itself is only known to 4e-6 of its spread.
            assert_close(&format!("{name} {variant:?}"), &got[0], &want[0], 5e-5);
        }
    }
}

/// Padding keeps the corner of a flat volume many spreads away from its mean, and equal values all round alike: no number of them
/// averages that away.
#[test]
fn decomp_conv_keeps_the_variance_of_flat_volumes() {
    for (name, device) in devices() {
        for groups in [Groups::Depthwise, Groups::Dense] {
            for dtype in [DType::F32, DType::Bf16] {
                for variant in VARIANTS {
                    let size = size(1, [4, 4], [24, 20, 28], 3, 1);
                    let mut case = Case::new(size, groups, dtype, Some(Mode::Train), false, false);
                    case.flat();
                    let (got, want) = (case.run(&device, Some(variant)), case.reference());
                    for branch in 0..3 {
                        let what = format!("{name} {} {variant:?} variances of branch {branch}", case.name());
                        assert_close(&what, &got[4 + branch], &want[4 + branch], 1e-6);
                    }
                }
            }
        }
    }
}

#[test]
fn decomp_conv_adds_to_gradients() {
    for (name, device) in devices() {
        for (size, groups) in
            [(DEPTHWISE[4], Groups::Depthwise), (DEPTHWISE[8], Groups::Depthwise), (DENSE[1], Groups::Dense)]
        {
            for variant in VARIANTS {
                let case = Case::new(size, groups, DType::F32, Some(Mode::Train), true, false);
                let want = case.reference();
                let (op, parameters) = case.build(&device, Some(variant));
                let tape = Tape::recording();
                let x = tape.leaf(&Tensor::from_slice(&device, case.x_shape(), DType::F32, &case.x).unwrap());
                let (mut inputs, mut sums) = (vec![x.clone()], Vec::new());
                for (shape, data) in parameters {
                    let sum = Tensor::from_slice(&device, &shape, DType::F32, &vec![10.0; data.len()]).unwrap();
                    let value = Tensor::from_slice(&device, shape, DType::F32, &data).unwrap();
                    inputs.push(tape.parameter(&value, &sum));
                    sums.push(sum);
                }
                let inputs: Vec<_> = inputs.iter().collect();
                // Twice from one x: every gradient is added to.
                let (a, b) = (tape.apply(op.clone(), &inputs).unwrap(), tape.apply(op, &inputs).unwrap());
                let dy = Tensor::from_slice(&device, a.tensor().shape(), DType::F32, &case.dy).unwrap();
                let gradients = tape.backward_from(&[(&a, &dy), (&b, &dy)]).unwrap();
                let twice: Vec<f64> = want[7].iter().map(|g| 2.0 * g).collect();
                let what = format!("{name} {variant:?} {}", case.name());
                assert_close(&what, &gradients.get(&x).unwrap().to_vec().unwrap(), &twice, 2e-5);
                for (i, sum) in sums.iter().enumerate() {
                    let want: Vec<f64> = want[8 + i].iter().map(|g| 10.0 + 2.0 * g).collect();
                    assert_close(&format!("{what} parameter {i}"), &sum.to_vec().unwrap(), &want, 2e-5);
                }
            }
        }
    }
}

#[test]
fn decomp_conv_refuses_what_does_not_fit() {
    let device = host(Default::default());
    let zeros = |shape: &[usize]| Tensor::zeros(&device, shape, DType::F32, "test").unwrap();
    let running = || [(); 3].map(|_| RunningStats::new(&device, 4).unwrap());
    let (x, w, v) = (zeros(&[1, 4, 3, 3, 3]), zeros(&[4, 1, 3]), zeros(&[4]));
    let text = |op: &DecompConv, inputs: &[&Tensor]| op.forward(inputs).err().expect("an error").to_string();
    let op = DecompConv::new(3, 1, Groups::Depthwise);
    assert!(op.forward(&[&x, &w, &w, &w]).is_ok());
    assert!(text(&op, &[&x, &w, &w]).contains("3 inputs"));
    assert!(text(&op, &[&zeros(&[4, 3, 3, 3]), &w, &w, &w]).contains("4 axes"));
    assert!(text(&op, &[&x, &w, &zeros(&[4, 1, 5]), &w]).contains("weight 2"));
    assert!(text(&op, &[&x, &w, &w, &w, &v, &v, &zeros(&[3])]).contains("bias"));
    assert!(text(&op, &[&zeros(&[1, 2, 3, 3, 3]), &w, &w, &w]).contains("4 depthwise filters for 2 channels"));
    assert!(text(&DecompConv::new(2, 1, Groups::Depthwise), &[&x, &w, &w, &w]).contains("odd kernel"));
    assert!(text(&op, &[&zeros(&[0, 4, 3, 3, 3]), &w, &w, &w]).contains("sizes from 1"));
    let tensor_cores = DecompConv { variant: Some(Variant::TensorCores), ..op.clone() };
    assert!(text(&tensor_cores, &[&x, &w, &w, &w]).contains("bf16 with stride 1"));
    let one = zeros(&[1, 4, 1, 1, 1]);
    let train = DecompConv { norm: Some(Norm::new(Mode::Train, running())), ..op.clone() };
    assert!(text(&train, &[&one, &w, &w, &w, &v, &v, &v, &v, &v, &v]).contains("at least two"));
    assert!(text(&train, &[&x, &w, &w, &w]).contains("4 inputs"));
    let bf16 = Tensor::zeros(&device, [4, 1, 3], DType::Bf16, "test").unwrap();
    assert!(text(&op, &[&x, &bf16, &w, &w]).contains("bf16"));
}
