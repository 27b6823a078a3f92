use x2ct::Device;
use x2ct::autograd::{Op, Tape, Var, check_gradients};
use x2ct::ops::attention::{Attention, PackedAttention, Variant};
use x2ct::ops::pointwise::Add;
use x2ct::tensor::{DType, Tensor};

use crate::support::{assert_close, devices, host, normal, round_bf16};

/// N, H, T, d: one token, one dimension, tiles that are whole, ragged and several, both sizes the kernels are written out for.
const SHAPES: [[usize; 4]; 9] = [
    [1, 1, 1, 1],
    [2, 3, 7, 3],
    [1, 2, 31, 8],
    [1, 1, 33, 16],
    [2, 1, 64, 32],
    [1, 1, 65, 33],
    [1, 2, 130, 20],
    [1, 1, 97, 64],
    [1, 1, 5, 80],
];

struct Case {
    shape: [usize; 4],
    dtype: DType,
    qkv: [Vec<f32>; 3],
    dy: Vec<f32>,
}

impl Case {
    /// `spread` stretches the logits.
    fn new(shape: [usize; 4], dtype: DType, spread: f32) -> Self {
        let n = shape.iter().product();
        let round = |x: Vec<f32>| if dtype == DType::Bf16 { round_bf16(&x) } else { x };
        let q = normal(1, n).iter().map(|v| v * spread).collect();
        Case { shape, dtype, qkv: [q, normal(2, n), normal(3, n)].map(round), dy: round(normal(4, n)) }
    }

    /// o, dq, dk, dv.
    fn reference(&self) -> [Vec<f64>; 4] {
        let [n, h, t, d] = self.shape;
        let [q, k, v] = &self.qkv;
        let mut out: [Vec<f64>; 4] = std::array::from_fn(|_| vec![0.0; q.len()]);
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(&a, &b)| a as f64 * b as f64).sum::<f64>();
        let scale = 1.0 / (d as f64).sqrt();
        for head in 0..n * h {
            let row = |i: usize| (head * t + i) * d..(head * t + i + 1) * d;
            for i in 0..t {
                let s: Vec<f64> = (0..t).map(|j| scale * dot(&q[row(i)], &k[row(j)])).collect();
                let largest = s.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let sum: f64 = s.iter().map(|s| (s - largest).exp()).sum();
                let p: Vec<f64> = s.iter().map(|s| (s - largest).exp() / sum).collect();
                let dp: Vec<f64> = (0..t).map(|j| dot(&self.dy[row(i)], &v[row(j)])).collect();
                let delta: f64 = p.iter().zip(&dp).map(|(p, dp)| p * dp).sum();
                for j in 0..t {
                    let ds = scale * p[j] * (dp[j] - delta);
                    for c in 0..d {
                        let (at_i, at_j) = (row(i).start + c, row(j).start + c);
                        out[0][at_i] += p[j] * v[at_j] as f64;
                        out[1][at_i] += ds * k[at_j] as f64;
                        out[2][at_j] += ds * q[at_i] as f64;
                        out[3][at_j] += p[j] * self.dy[at_i] as f64;
                    }
                }
            }
        }
        out
    }

    fn run(&self, device: &Device, variant: Variant) -> [Vec<f32>; 4] {
        let tape = Tape::recording();
        let [q, k, v] = self.qkv.each_ref().map(|x| leaf(&tape, device, &self.shape, self.dtype, x));
        let o = tape.apply(Attention { variant: Some(variant) }, &[&q, &k, &v]).unwrap();
        let up = Tensor::from_slice(device, self.shape, self.dtype, &self.dy).unwrap();
        let gradients = tape.backward_from(&[(&o, &up)]).unwrap();
        let [dq, dk, dv] = [&q, &k, &v].map(|x| gradients.get(x).unwrap().to_vec().unwrap());
        [o.tensor().to_vec().unwrap(), dq, dk, dv]
    }

    fn check(&self, bounds: [f64; 2]) {
        let want = self.reference();
        for (name, device) in devices() {
            for variant in variants(self.shape[3]) {
                let got = self.run(&device, variant);
                let what = format!("{name} {variant:?} {:?} {}", self.shape, self.dtype.name());
                for (i, (got, want)) in got.iter().zip(&want).enumerate() {
                    let what = format!("{what} {}", ["o", "dq", "dk", "dv"][i]);
                    // One token: its weight is 1, the gradients of q and k are zero but for rounding.
                    if want.iter().all(|v| v.abs() < 1e-12) {
                        assert!(got.iter().all(|v| v.abs() < 1e-5), "{what}");
                    } else {
                        assert_close(&what, got, want, bounds[(i > 0) as usize]);
                    }
                }
                assert_eq!(got, self.run(&device, variant), "{what}: two runs differ");
            }
        }
    }
}

fn leaf(tape: &Tape, device: &Device, shape: &[usize], dtype: DType, data: &[f32]) -> Var {
    tape.leaf(&Tensor::from_slice(device, shape, dtype, data).unwrap())
}

fn variants(d: usize) -> impl Iterator<Item = Variant> {
    [Variant::Naive, Variant::Tiled].into_iter().filter(move |&v| v == Variant::Naive || d <= Variant::LARGEST_TILED)
}

#[test]
fn attention_agrees_with_f64() {
    for shape in SHAPES {
        Case::new(shape, DType::F32, 1.0).check([2e-6, 1e-5]);
        // The results are rounded to 2^-9; delta is formed from a rounded o.
        Case::new(shape, DType::Bf16, 1.0).check([4e-3, 1e-2]);
    }
}

/// Logits of some hundreds: exponentials of them are beyond f32, and all the weight lies on few keys.
#[test]
fn attention_is_safe_at_large_logits() {
    Case::new([1, 2, 45, 24], DType::F32, 100.0).check([1e-4, 1e-3]);
}

#[test]
fn attention_agrees_with_finite_differences() {
    let device = host(Default::default());
    let inputs = [1, 2, 3].map(|seed| (vec![1, 2, 37, 5].into(), normal(seed, 370)));
    for variant in variants(5) {
        for report in check_gradients(&device, &Attention { variant: Some(variant) }, &inputs, 1e-2).unwrap() {
            assert!(report.relative_l2 < 3e-3, "{variant:?} {report:?}");
        }
    }
}

/// Packed tokens give what separate tensors give, bit for bit; a second use adds its gradient.
#[test]
fn packed_attention_is_attention() {
    for (name, device) in devices() {
        for ([n, h, t, d], dtype) in
            [([2, 3, 19, 4], DType::F32), ([1, 2, 40, 32], DType::Bf16), ([1, 5, 9, 3], DType::Bf16)]
        {
            for variant in variants(d) {
                let case = Case::new([n, h, t, d], dtype, 1.0);
                let packed_index = |part: usize, i: usize| {
                    let (image, head, token, c) = (i / (h * t * d), i / (t * d) % h, i / d % t, i % d);
                    ((image * t + token) * 3 + part) * h * d + head * d + c
                };
                let token_index = |i: usize| (i / (h * t * d) * t + i / d % t) * h * d + i / (t * d) % h * d + i % d;
                let mut packed = vec![0.0; 3 * n * h * t * d];
                let mut dy = vec![0.0; n * h * t * d];
                for i in 0..dy.len() {
                    (0..3).for_each(|part| packed[packed_index(part, i)] = case.qkv[part][i]);
                    dy[token_index(i)] = case.dy[i];
                }
                let gradient = |uses: usize| {
                    let tape = Tape::recording();
                    let x = leaf(&tape, &device, &[n, t, 3 * h * d], dtype, &packed);
                    let op = PackedAttention { heads: h, variant: Some(variant) };
                    let o = tape.apply(op, &[&x]).unwrap();
                    let values = o.tensor().to_vec().unwrap();
                    let sum =
                        if uses == 1 { o } else { tape.apply(Add, &[&o, &tape.apply(op, &[&x]).unwrap()]).unwrap() };
                    let up = Tensor::from_slice(&device, [n, t, h * d], dtype, &dy).unwrap();
                    (values, tape.backward_from(&[(&sum, &up)]).unwrap().get(&x).unwrap().to_vec().unwrap())
                };
                let ((o, once), (_, twice)) = (gradient(1), gradient(2));
                let separate = case.run(&device, variant);
                let what = format!("{name} {variant:?} {:?} {}", case.shape, dtype.name());
                for i in 0..dy.len() {
                    assert_eq!(o[token_index(i)], separate[0][i], "{what}");
                    (0..3).for_each(|part| assert_eq!(once[packed_index(part, i)], separate[1 + part][i], "{what}"));
                }
                let want: Vec<f64> = once.iter().map(|&g| 2.0 * g as f64).collect();
                assert_close(&what, &twice, &want, if dtype == DType::F32 { 1e-6 } else { 4e-3 });
            }
        }
    }
}

/// A NaN reaches every output it takes part in.
#[test]
fn attention_passes_nan_on() {
    for (name, device) in devices() {
        for variant in variants(4) {
            let mut case = Case::new([1, 2, 6, 4], DType::F32, 1.0);
            case.qkv[1][3] = f32::NAN;
            let [o, ..] = case.run(&device, variant);
            assert!(
                o[..24].iter().all(|v| v.is_nan()) && o[24..].iter().all(|v| v.is_finite()),
                "{name} {variant:?} {o:?}"
            );
        }
    }
}

#[test]
fn attention_refuses_what_does_not_fit() {
    let device = host(Default::default());
    let zeros = |shape: &[usize]| Tensor::zeros(&device, shape, DType::F32, "test").unwrap();
    let text = |op: Attention, inputs: &[&Tensor]| op.forward(inputs).map(drop).unwrap_err().to_string();
    let x = zeros(&[1, 2, 3, 4]);
    assert!(text(Attention::default(), &[&x, &x]).contains("pass q, k and v"));
    assert!(text(Attention::default(), &[&x, &x, &zeros(&[1, 2, 4, 4])]).contains("attention v"));
    assert!(text(Attention::default(), &[&zeros(&[3, 4]), &x, &x]).contains("axes"));
    let wide = zeros(&[1, 1, 2, 65]);
    assert!(text(Attention { variant: Some(Variant::Tiled) }, &[&wide, &wide, &wide]).contains("at most 64"));
    let packed = PackedAttention { heads: 5, variant: None };
    assert!(packed.forward(&[&zeros(&[1, 2, 12])]).map(drop).unwrap_err().to_string().contains("of 5 heads"));
}
