use x2ct::Device;
use x2ct::autograd::{Op, Tape, check_gradients};
use x2ct::ops::depthwise_conv3d::{DepthwiseConv3d, Variant};
use x2ct::ops::pointwise::Add;
use x2ct::tensor::{DType, Tensor};

use crate::support::{assert_close, devices, host, normal, round_bf16};

/// N, C, D1, D2, D3 and k: one voxel, filters larger than the volume, rows with and without whole vectors and patches, more
/// patches than a block has threads, every length of row the kernels are written out for and those between.
const CASES: [([usize; 5], usize); 11] = [
    ([1, 1, 1, 1, 1], 1),
    ([1, 2, 1, 1, 1], 7),
    ([2, 3, 3, 5, 7], 3),
    ([1, 2, 5, 4, 8], 5),
    ([2, 2, 9, 7, 11], 7),
    ([1, 3, 2, 3, 4], 13),
    ([1, 1, 13, 11, 17], 9),
    ([1, 2, 4, 15, 9], 11),
    ([3, 1, 7, 5, 20], 13),
    ([1, 1, 3, 5, 7], 15),
    ([3, 1, 10, 19, 24], 3),
];

struct Case {
    shape: [usize; 5],
    k: usize,
    dtype: DType,
    x: Vec<f32>,
    w: Vec<f32>,
    bias: Vec<f32>,
    dy: Vec<f32>,
}

impl Case {
    fn new((shape, k): ([usize; 5], usize), dtype: DType) -> Self {
        let round = |x: Vec<f32>| if dtype == DType::Bf16 { round_bf16(&x) } else { x };
        let n = shape.iter().product();
        let (w, bias) = (normal(3, shape[1] * k * k * k), normal(4, shape[1]));
        Case { shape, k, dtype, x: round(normal(1, n)), w, bias, dy: round(normal(2, n)) }
    }

    /// y, dx, dw, db.
    fn reference(&self) -> [Vec<f64>; 4] {
        let ([n, c, d1, d2, d3], k) = (self.shape, self.k);
        let voxels = d1 * d2 * d3;
        let inside = |i: usize, t: usize, d: usize| (i + t).checked_sub(k / 2).filter(|&i| i < d);
        let mut y: Vec<f64> = (0..n * c * voxels).map(|i| self.bias[i / voxels % c] as f64).collect();
        let (mut dx, mut dw, mut db) = (vec![0.0; y.len()], vec![0.0; self.w.len()], vec![0.0; c]);
        for o in 0..y.len() {
            let (plane, channel) = (o / voxels * voxels, o / voxels % c);
            db[channel] += self.dy[o] as f64;
            for t in 0..k * k * k {
                let axes = [(o / (d2 * d3) % d1, t / (k * k), d1), (o / d3 % d2, t / k % k, d2), (o % d3, t % k, d3)];
                let [Some(a), Some(b), Some(e)] = axes.map(|(i, t, d)| inside(i, t, d)) else { continue };
                let (i, w) = (plane + (a * d2 + b) * d3 + e, channel * k * k * k + t);
                y[o] += self.w[w] as f64 * self.x[i] as f64;
                dx[i] += self.w[w] as f64 * self.dy[o] as f64;
                dw[w] += self.dy[o] as f64 * self.x[i] as f64;
            }
        }
        [y, dx, dw, db]
    }

    fn run(&self, device: &Device, variant: Variant) -> [Vec<f32>; 4] {
        let op = DepthwiseConv3d { variant: Some(variant) };
        let tape = Tape::recording();
        let (c, k) = (self.shape[1], self.k);
        let x = tape.leaf(&Tensor::from_slice(device, self.shape, self.dtype, &self.x).unwrap());
        let w = tape.leaf(&Tensor::from_slice(device, [c, 1, k, k, k], DType::F32, &self.w).unwrap());
        let bias = tape.leaf(&Tensor::from_slice(device, [c], DType::F32, &self.bias).unwrap());
        let y = tape.apply(op, &[&x, &w, &bias]).unwrap();
        let dy = Tensor::from_slice(device, self.shape, self.dtype, &self.dy).unwrap();
        let gradients = tape.backward_from(&[(&y, &dy)]).unwrap();
        let [dx, dw, db] = [&x, &w, &bias].map(|leaf| gradients.get(leaf).unwrap().to_vec().unwrap());
        [y.tensor().to_vec().unwrap(), dx, dw, db]
    }
}

fn variants(k: usize) -> impl Iterator<Item = Variant> {
    [Variant::Naive, Variant::Patches]
        .into_iter()
        .filter(move |&v| v == Variant::Naive || k <= Variant::LARGEST_PATCHED)
}

#[test]
fn depthwise_conv3d_agrees_with_f64() {
    for dtype in [DType::F32, DType::Bf16] {
        for case in CASES.map(|case| Case::new(case, dtype)) {
            let want = case.reference();
            for (name, device) in devices() {
                for variant in variants(case.k) {
                    let what = format!("{name} {variant:?} {:?} k{} {}", case.shape, case.k, dtype.name());
                    let got = case.run(&device, variant);
                    // In bf16 y and dx are rounded to 2^-9; the parameters' gradients are f32.
                    let wide = if dtype == DType::F32 { 2e-6 } else { 4e-3 };
                    for (i, (got, want)) in got.iter().zip(&want).enumerate() {
                        assert_close(
                            &format!("{what} {}", ["y", "dx", "dw", "db"][i]),
                            got,
                            want,
                            [wide, wide, 2e-6, 2e-6][i],
                        );
                    }
                    assert_eq!(got, case.run(&device, variant), "{what}: two runs differ");
                }
            }
        }
    }
}

#[test]
fn depthwise_conv3d_agrees_with_finite_differences() {
    let device = host(Default::default());
    let inputs = [
        (vec![2, 2, 3, 5, 6].into(), normal(1, 360)),
        (vec![2, 3, 3, 3].into(), normal(2, 54)),
        (vec![2].into(), normal(3, 2)),
    ];
    for variant in variants(3) {
        for report in check_gradients(&device, &DepthwiseConv3d { variant: Some(variant) }, &inputs, 1e-2).unwrap() {
            assert!(report.relative_l2 < 1e-3, "{variant:?} {report:?}");
        }
    }
}

/// A second use of inputs adds to the gradients that the first one wrote.
#[test]
fn depthwise_conv3d_adds_to_gradients() {
    for (name, device) in devices() {
        for variant in variants(3) {
            let gradients = |uses: usize| {
                let op = DepthwiseConv3d { variant: Some(variant) };
                let tape = Tape::recording();
                let leaf = |shape: &[usize], seed| {
                    let data = normal(seed, shape.iter().product());
                    tape.leaf(&Tensor::from_slice(&device, shape, DType::F32, &data).unwrap())
                };
                let leaves = [leaf(&[1, 2, 3, 5, 7], 1), leaf(&[2, 3, 3, 3], 2), leaf(&[2], 3)];
                let inputs = leaves.each_ref();
                let mut y = tape.apply(op, &inputs).unwrap();
                if uses == 2 {
                    y = tape.apply(Add, &[&y, &tape.apply(op, &inputs).unwrap()]).unwrap();
                }
                let dy = Tensor::from_slice(&device, [1, 2, 3, 5, 7], DType::F32, &normal(4, 210)).unwrap();
                let gradients = tape.backward_from(&[(&y, &dy)]).unwrap();
                leaves.each_ref().map(|leaf| gradients.get(leaf).unwrap().to_vec().unwrap())
            };
            for (once, twice) in gradients(1).iter().zip(&gradients(2)) {
                let want: Vec<f64> = once.iter().map(|&g| 2.0 * g as f64).collect();
                assert_close(&format!("{name} {variant:?}"), twice, &want, 1e-6);
            }
        }
    }
}

#[test]
fn depthwise_conv3d_refuses_what_does_not_fit() {
    let device = host(Default::default());
    let zeros = |shape: &[usize]| Tensor::zeros(&device, shape, DType::F32, "test").unwrap();
    let text = |op: DepthwiseConv3d, inputs: &[&Tensor]| op.forward(inputs).map(drop).unwrap_err().to_string();
    let (op, x) = (DepthwiseConv3d::default(), zeros(&[1, 2, 4, 4, 4]));
    assert!(text(op, &[&x, &zeros(&[2, 2, 2, 2])]).contains("odd k"));
    assert!(text(op, &[&x, &zeros(&[3, 3, 3, 3])]).contains("odd k"));
    assert!(text(op, &[&x]).contains("1 inputs"));
    assert!(text(op, &[&x, &zeros(&[2, 3, 3, 3]), &zeros(&[3])]).contains("depthwise_conv3d bias"));
    assert!(text(op, &[&zeros(&[2, 4, 4, 4]), &zeros(&[2, 3, 3, 3])]).contains("axes"));
    let patches = DepthwiseConv3d { variant: Some(Variant::Patches) };
    assert!(text(patches, &[&x, &zeros(&[2, 15, 15, 15])]).contains("leave the variant open"));
}
