use std::ops::Range;

use x2ct::Device;
use x2ct::device::{HostOptions, ThreadOrder};
use x2ct::ops::gather::Places;
use x2ct::ops::gemm::{Backend, Method, Precision};
use x2ct::ops::linear_bce::{Batch, Layer, LinearBce};
use x2ct::tensor::{DType, Tensor};

use crate::support::{assert_close, backends, devices, host, normal};

/// Samples, values of one, classes: one of each; odd ones; a chunk of samples and of columns, and one more; several tasks; X2CT-CLIP's
/// probe; more classes than the host's own pass takes.
const SIZES: [[usize; 3]; 7] =
    [[1, 1, 1], [7, 17, 5], [64, 64, 6], [65, 81, 7], [1000, 33, 18], [300, 512, 18], [90, 40, 70]];

/// A problem: features, targets, weight, bias and weights of positives.
struct Problem {
    size: [usize; 3],
    x: Vec<f32>,
    t: Vec<f32>,
    w: Vec<f32>,
    b: Vec<f32>,
    pos_weight: Vec<f32>,
}

/// What a pass gives: the loss, and the gradients of weight and bias.
struct Found {
    loss: Vec<f32>,
    dw: Vec<f32>,
    db: Vec<f32>,
}

impl Problem {
    /// `scale` is how large weights are.
    fn new(size @ [samples, dim, classes]: [usize; 3], scale: f32) -> Self {
        let soft = |v: f32| if v.abs() < 0.5 { v + 0.5 } else { f32::from(u8::from(v > 0.0)) };
        Problem {
            size,
            x: normal(1, samples * dim),
            t: normal(2, samples * classes).into_iter().map(soft).collect(),
            w: normal(3, classes * dim).iter().map(|w| scale * w).collect(),
            b: normal(4, classes),
            pos_weight: normal(5, classes).iter().map(|w| 0.2 + w.abs()).collect(),
        }
    }

    /// The loss and its gradients over these samples, in f64: loss, dw, db.
    fn reference(&self, places: &[usize], weighted: bool) -> (f64, Vec<f64>, Vec<f64>) {
        let [_, dim, classes] = self.size;
        let (mut loss, mut dw, mut db) = (0.0, vec![0.0; classes * dim], vec![0.0; classes]);
        let cells = (places.len() * classes) as f64;
        for &place in places {
            let x: Vec<f64> = self.x[place * dim..][..dim].iter().map(|&x| f64::from(x)).collect();
            for c in 0..classes {
                let w = &self.w[c * dim..][..dim];
                let z: f64 = w.iter().zip(&x).map(|(&w, x)| f64::from(w) * x).sum::<f64>() + f64::from(self.b[c]);
                let t = f64::from(self.t[place * classes + c]);
                let p = if weighted { f64::from(self.pos_weight[c]) } else { 1.0 };
                let softplus = |z: f64| z.max(0.0) + (-z.abs()).exp().ln_1p();
                let sigmoid = |z: f64| (z.min(0.0)).exp() / (1.0 + (-z.abs()).exp());
                loss += ((1.0 - t) * softplus(z) + p * t * softplus(-z)) / cells;
                let slope = ((1.0 - t) * sigmoid(z) - p * t * sigmoid(-z)) / cells;
                dw[c * dim..][..dim].iter_mut().zip(&x).for_each(|(dw, x)| *dw += slope * x);
                db[c] += slope;
            }
        }
        (loss, dw, db)
    }

    fn tensor(&self, device: &Device, shape: &[usize], data: &[f32]) -> Tensor {
        Tensor::from_slice(device, shape, DType::F32, data).unwrap()
    }

    fn run(&self, device: &Device, backend: Backend, places: Option<(&[u32], Range<usize>)>, weighted: bool) -> Found {
        let [samples, dim, classes] = self.size;
        let tensor = |shape: &[usize], data: &[f32]| self.tensor(device, shape, data);
        let layer = Layer { weight: tensor(&[classes, dim], &self.w), bias: tensor(&[classes], &self.b) };
        let empty = |shape: &[usize]| Tensor::empty(device, shape, DType::F32, "result").unwrap();
        let gradients = Layer { weight: empty(&[classes, dim]), bias: empty(&[classes]) };
        let (features, targets) = (tensor(&[samples, dim], &self.x), tensor(&[samples, classes], &self.t));
        let op = LinearBce {
            pos_weight: weighted.then(|| tensor(&[classes], &self.pos_weight)),
            method: Method { backend, precision: Precision::F32 },
        };
        let on_device = places.as_ref().map(|(places, range)| (Places::new(device, places).unwrap(), range));
        let places = on_device.as_ref().map(|(places, range)| (places, *range));
        let batch = Batch { features: &features, targets: &targets, places };
        let (loss, alone) = (empty(&[1]), empty(&[1]));
        op.loss_into(batch, &layer, Some(&gradients), &loss).unwrap();
        op.loss_into(batch, &layer, None, &alone).unwrap();
        let loss = loss.to_vec().unwrap();
        let alone = alone.to_vec().unwrap();
        assert!(alone[0].to_bits() == loss[0].to_bits(), "with and without gradients: {alone:?}, {loss:?}");
        Found { loss, dw: gradients.weight.to_vec().unwrap(), db: gradients.bias.to_vec().unwrap() }
    }
}

#[test]
fn linear_bce_agrees_with_f64() {
    for (name, device) in devices() {
        for size @ [samples, ..] in SIZES {
            let problem = Problem::new(size, 0.3);
            // Some twice, some never.
            let places: Vec<u32> = (0..samples as u32 + 3).map(|i| i * 5 % samples as u32).collect();
            for backend in backends(&device) {
                for (range, weighted) in
                    [(None, false), (Some(0..samples + 3), true), (Some(samples / 2..samples), false)]
                {
                    let of: Vec<usize> = match &range {
                        None => (0..samples).collect(),
                        Some(range) => places[range.clone()].iter().map(|&place| place as usize).collect(),
                    };
                    let (loss, dw, db) = problem.reference(&of, weighted);
                    let what = format!("{name}, {backend:?}, {size:?}, {range:?}");
                    let got = problem.run(&device, backend, range.map(|range| (&places[..], range)), weighted);
                    assert_close(&format!("{what}: loss"), &got.loss, &[loss], 2e-6);
                    assert_close(&format!("{what}: weight"), &got.dw, &dw, 1e-5);
                    assert_close(&format!("{what}: bias"), &got.db, &db, 1e-5);
                }
            }
        }
    }
}

/// Logits of some thousands, and of almost nothing: finite, and with full relative accuracy element by element.
#[test]
fn large_and_small_logits_keep_their_accuracy() {
    let device = host(ThreadOrder::Forward);
    for scale in [1e-6, 1.0, 30.0, 3000.0] {
        // One value a sample: its gradient is that of one logit at a time.
        for (seed, target) in [(1, 0.0), (2, 1.0)] {
            let mut problem = Problem::new([1, 1, 60], scale);
            problem.x = vec![1.0];
            problem.w = normal(seed, 60).iter().map(|w| scale * w).collect();
            problem.b = vec![0.0; 60];
            problem.t = vec![target; 60];
            let (loss, dw, _) = problem.reference(&[0], false);
            let got = problem.run(&device, Backend::Library, None, false);
            assert_close("loss", &got.loss, &[loss], 1e-6);
            for (got, want) in got.dw.iter().zip(&dw) {
                let error = (f64::from(*got) - want).abs();
                assert!(error <= 1e-6 * want.abs() + 1e-38, "{scale}, {target}: {got:e} and {want:e}");
            }
        }
    }
}

#[test]
fn the_same_bits_come_of_any_number_of_threads() {
    let problem = Problem::new([2000, 100, 18], 0.1);
    let on = |threads| {
        let device = Device::host_with(HostOptions { threads, poison: true, ..HostOptions::default() });
        let found = problem.run(&device, Backend::Library, None, true);
        [found.loss, found.dw, found.db]
    };
    let first = on(1);
    assert!([2, 3, 8].iter().all(|&threads| on(threads) == first));
}

#[test]
fn not_a_number_is_not_hidden() {
    let device = host(ThreadOrder::Forward);
    let mut problem = Problem::new([70, 20, 3], 0.1);
    problem.x[69 * 20] = f32::NAN;
    for backend in [Backend::Library, Backend::Own] {
        let got = problem.run(&device, backend, None, false);
        assert!(got.loss[0].is_nan() && got.dw.iter().all(|dw| dw.is_nan() || dw.is_finite()), "{:?}", got.loss);
        assert!((0..3).all(|class| got.dw[class * 20].is_nan() && got.db[class].is_nan()));
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let device = host(ThreadOrder::Forward);
    let zeros = |shape: &[usize]| Tensor::zeros(&device, shape, DType::F32, "operand").unwrap();
    let op = LinearBce { pos_weight: None, method: Method::default_for(&device) };
    let (features, targets, loss) = (zeros(&[3, 4]), zeros(&[3, 2]), zeros(&[1]));
    let layer = Layer { weight: zeros(&[2, 4]), bias: zeros(&[2]) };
    let places = Places::new(&device, &[0, 2]).unwrap();
    let batch = Batch { features: &features, targets: &targets, places: None };
    let says = |op: &LinearBce, batch: Batch, layer: &Layer, gradients: Option<&Layer>, loss: &Tensor| {
        op.loss_into(batch, layer, gradients, loss).unwrap_err().to_string()
    };
    let short = zeros(&[2, 2]);
    let said = says(&op, Batch { targets: &short, ..batch }, &layer, None, &loss);
    assert!(said.contains("targets") && said.contains("[3, 2]"), "{said}");
    let other = Layer { weight: zeros(&[2, 5]), ..layer.clone() };
    assert!(says(&op, batch, &other, None, &loss).contains("weight of the layer"));
    assert!(says(&op, batch, &layer, Some(&other), &loss).contains("weight of the gradients"));
    let said = says(&op, Batch { places: Some((&places, &(1..3))), ..batch }, &layer, None, &loss);
    assert!(said.contains("1 to 3 of 2 places"), "{said}");
    assert!(says(&op, Batch { places: Some((&places, &(1..1))), ..batch }, &layer, None, &loss).contains("0 samples"));
    assert!(says(&op, batch, &layer, None, &zeros(&[2])).contains("one element"));
    let weighted = LinearBce { pos_weight: Some(zeros(&[3])), ..op };
    assert!(says(&weighted, batch, &layer, None, &loss).contains("pos_weight"));
}
