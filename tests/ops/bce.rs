use x2ct::Device;
use x2ct::autograd::{Op, Tape, Write, check_gradients};
use x2ct::ops::bce::BceWithLogits;
use x2ct::tensor::{DType, Shape, Tensor};

use crate::support::{assert_close, devices, host, normal, round_bf16};

/// Rows and classes: one element, one row, one column, labels of CT-RATE; about a block of f32 (4096 elements) and of bf16, and
/// several of each; more classes than a block has elements.
const SIZES: [[usize; 2]; 9] = [[1, 1], [1, 7], [13, 1], [5, 18], [64, 64], [241, 17], [91, 90], [3, 9001], [1031, 18]];

fn softplus(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

fn sigmoid(x: f64) -> f64 {
    if x < 0.0 { x.exp() / (1.0 + x.exp()) } else { 1.0 / (1.0 + (-x).exp()) }
}

/// Targets of both kinds: hard ones, and some in between.
fn targets(seed: u64, n: usize) -> Vec<f32> {
    let soft = |v: f32| if v.abs() < 0.5 { v + 0.5 } else { (v > 0.0) as u8 as f32 };
    normal(seed, n).into_iter().map(soft).collect()
}

/// The loss and both gradients for an upstream gradient of 1, in f64.
struct Reference {
    loss: f64,
    dx: Vec<f64>,
    dt: Vec<f64>,
}

impl Reference {
    fn of(x: &[f32], t: &[f32], weight: Option<&[f32]>, classes: usize) -> Self {
        let n = x.len() as f64;
        let mut want = Reference { loss: 0.0, dx: Vec::new(), dt: Vec::new() };
        for (i, (&x, &t)) in x.iter().zip(t).enumerate() {
            let (x, t, w) = (x as f64, t as f64, weight.map_or(1.0, |w| w[i % classes] as f64));
            want.loss += ((1.0 - t) * softplus(x) + w * t * softplus(-x)) / n;
            want.dx.push(((1.0 - t) * sigmoid(x) - w * t * sigmoid(-x)) / n);
            want.dt.push((w * softplus(-x) - softplus(x)) / n);
        }
        want
    }
}

fn scaled(factor: f64, x: &[f64]) -> Vec<f64> {
    x.iter().map(|&v| factor * v).collect()
}

fn weights(device: &Device, classes: usize) -> (Vec<f32>, Tensor) {
    let weight: Vec<f32> = normal(3, classes).iter().map(|v| 0.1 + 3.0 * v.abs()).collect();
    let tensor = Tensor::from_slice(device, [classes], DType::F32, &weight).unwrap();
    (weight, tensor)
}

#[test]
fn bce_agrees_with_f64() {
    for (name, device) in devices() {
        for dtype in [DType::F32, DType::Bf16] {
            for sizes @ [rows, classes] in SIZES {
                let n = rows * classes;
                let x = round_bf16(&normal(1, n).iter().map(|v| 4.0 * v).collect::<Vec<_>>());
                let t = targets(2, n);
                let (weight, weights) = weights(&device, classes);
                for weighted in [false, true] {
                    let what = format!("{name} {} {sizes:?} weighted {weighted}", dtype.name());
                    let want = Reference::of(&x, &t, weighted.then_some(&weight), classes);
                    let op = BceWithLogits { pos_weight: weighted.then(|| weights.clone()) };
                    let tape = Tape::recording();
                    let logits = tape.leaf(&Tensor::from_slice(&device, sizes, dtype, &x).unwrap());
                    let labels = tape.leaf(&Tensor::from_slice(&device, sizes, DType::F32, &t).unwrap());
                    let loss = tape.apply(op, &[&logits, &labels]).unwrap();
                    assert_eq!((loss.tensor().shape(), loss.tensor().dtype()), (&Shape::default(), DType::F32));
                    assert_close(&what, &loss.tensor().to_vec().unwrap(), &[want.loss], 1e-6);
                    let upstream = Tensor::from_slice(&device, Shape::default(), DType::F32, &[1.5]).unwrap();
                    let gradients = tape.backward_from(&[(&loss, &upstream)]).unwrap();
                    let bound = if dtype == DType::F32 { 1e-6 } else { 4e-3 };
                    let dx = gradients.get(&logits).unwrap();
                    assert_eq!(dx.dtype(), dtype);
                    assert_close(&what, &dx.to_vec().unwrap(), &scaled(1.5, &want.dx), bound);
                    assert_close(
                        &what,
                        &gradients.get(&labels).unwrap().to_vec().unwrap(),
                        &scaled(1.5, &want.dt),
                        1e-6,
                    );
                }
            }
        }
    }
}

/// Where the answer is right and confident, loss and gradient are tiny and exact to the last digits: neither is the difference of
/// two larger numbers. Where it is wrong, nothing overflows.
#[test]
fn extreme_logits_keep_their_relative_accuracy() {
    for (name, device) in devices() {
        for (x, t) in [(-30.0, 0.0), (30.0, 1.0), (-80.0, 0.0), (3e38, 0.0), (-3e38, 1.0), (-30.0, 1.0), (200.0, 0.5)] {
            let want = Reference::of(&[x], &[t], Some(&[2.5]), 1);
            let tensor = |v: f32| Tensor::from_slice(&device, [1, 1], DType::F32, &[v]).unwrap();
            let op = BceWithLogits { pos_weight: Some(tensor(2.5).reshape([1]).unwrap()) };
            let tape = Tape::recording();
            let logits = tape.leaf(&tensor(x));
            let loss = tape.apply(op, &[&logits, &tape.constant(&tensor(t))]).unwrap();
            let gradients = tape.backward(&loss).unwrap();
            if want.loss < f32::MAX as f64 {
                assert_close(&format!("{name} {x} {t}"), &loss.tensor().to_vec().unwrap(), &[want.loss], 1e-5);
            }
            assert_close(
                &format!("{name} {x} {t}"),
                &gradients.get(&logits).unwrap().to_vec().unwrap(),
                &want.dx,
                1e-5,
            );
        }
    }
}

#[test]
fn a_nan_makes_the_loss_nan() {
    let device = host(Default::default());
    for (at, value) in [(0, f32::NAN), (4999, f32::NAN)] {
        let mut x = normal(1, 5000);
        x[at] = value;
        let logits = Tensor::from_slice(&device, [1000, 5], DType::F32, &x).unwrap();
        let labels = Tensor::from_slice(&device, [1000, 5], DType::F32, &targets(2, 5000)).unwrap();
        let (loss, _) = BceWithLogits::default().forward(&[&logits, &labels]).unwrap();
        assert!(loss.item().unwrap().is_nan());
    }
}

/// Rows of a larger matrix begin anywhere: what is computed of them is the same, and nothing beside them is touched.
#[test]
fn rows_of_a_matrix_give_the_same_bits() {
    for (name, device) in devices() {
        for dtype in [DType::F32, DType::Bf16] {
            let [rows, classes] = [301, 17];
            let (x, t) = (normal(1, (rows + 2) * classes), targets(2, (rows + 2) * classes));
            let (_, weights) = weights(&device, classes);
            let op = BceWithLogits { pos_weight: Some(weights) };
            let all = |dtype, data: &[f32]| Tensor::from_slice(&device, [rows + 2, classes], dtype, data).unwrap();
            let inner = classes..(rows + 1) * classes;
            let alone = |dtype, data: &[f32]| {
                Tensor::from_slice(&device, [rows, classes], dtype, &data[inner.clone()]).unwrap()
            };
            let run = |x: &Tensor, t: &Tensor, [dx, dt]: [&Tensor; 2]| {
                let tape = Tape::recording();
                let leaves = [tape.parameter(x, dx), tape.parameter(t, dt)];
                let loss = tape.apply(op.clone(), &[&leaves[0], &leaves[1]]).unwrap();
                tape.backward(&loss).unwrap();
                loss.tensor().item().unwrap()
            };
            let start = [normal(5, x.len()), normal(6, x.len())];
            let into = [all(dtype, &start[0]), all(DType::F32, &start[1])];
            let view = |tensor: &Tensor| tensor.rows(1, rows).unwrap();
            let loss = run(&view(&all(dtype, &x)), &view(&all(DType::F32, &t)), [&view(&into[0]), &view(&into[1])]);
            let expected = [alone(dtype, &start[0]), alone(DType::F32, &start[1])];
            assert_eq!(loss, run(&alone(dtype, &x), &alone(DType::F32, &t), [&expected[0], &expected[1]]), "{name}");
            for (got, (want, start)) in into.iter().zip(expected.iter().zip(&start)) {
                let mut whole =
                    Tensor::from_slice(&device, [start.len()], got.dtype(), start).unwrap().to_vec().unwrap();
                whole[inner.clone()].copy_from_slice(&want.to_vec().unwrap());
                assert_eq!(got.to_vec().unwrap(), whole, "{name} {}", dtype.name());
            }
        }
    }
}

#[test]
fn gradients_add_to_what_has_arrived() {
    let device = host(Default::default());
    let sizes = [37, 18];
    let n = sizes[0] * sizes[1];
    let (x, t) = (normal(1, n), targets(2, n));
    let want = Reference::of(&x, &t, None, sizes[1]);
    let tape = Tape::recording();
    let logits = tape.leaf(&Tensor::from_slice(&device, sizes, DType::F32, &x).unwrap());
    let labels = tape.leaf(&Tensor::from_slice(&device, sizes, DType::F32, &t).unwrap());
    let loss = [(); 2].map(|()| tape.apply(BceWithLogits::default(), &[&logits, &labels]).unwrap());
    let upstream = |v: f32| Tensor::from_slice(&device, Shape::default(), DType::F32, &[v]).unwrap();
    let gradients = tape.backward_from(&[(&loss[0], &upstream(2.0)), (&loss[1], &upstream(0.5))]).unwrap();
    assert_close("logits", &gradients.get(&logits).unwrap().to_vec().unwrap(), &scaled(2.5, &want.dx), 1e-6);
    assert_close("targets", &gradients.get(&labels).unwrap().to_vec().unwrap(), &scaled(2.5, &want.dt), 1e-6);
}

#[test]
fn a_gradient_of_the_targets_alone_is_the_same() {
    let device = host(Default::default());
    let sizes = [29, 11];
    let (x, t) = (normal(1, 319), targets(2, 319));
    let tape = Tape::recording();
    let labels = tape.leaf(&Tensor::from_slice(&device, sizes, DType::F32, &t).unwrap());
    let logits = tape.constant(&Tensor::from_slice(&device, sizes, DType::F32, &x).unwrap());
    let loss = tape.apply(BceWithLogits::default(), &[&logits, &labels]).unwrap();
    let gradient = tape.backward(&loss).unwrap().get(&labels).unwrap().to_vec().unwrap();
    assert_close("targets", &gradient, &Reference::of(&x, &t, None, 11).dt, 1e-6);
}

/// The same bits whatever the order and number of threads.
#[test]
fn the_loss_is_the_same_bit_for_bit() {
    let [rows, classes] = [2003, 18];
    let (x, t) = (normal(1, rows * classes), targets(2, rows * classes));
    let mut bits = Vec::new();
    for (name, device) in devices().into_iter().filter(|(_, device)| device.is_host()) {
        let logits = Tensor::from_slice(&device, [rows, classes], DType::F32, &x).unwrap();
        let labels = Tensor::from_slice(&device, [rows, classes], DType::F32, &t).unwrap();
        let (loss, _) = BceWithLogits::default().forward(&[&logits, &labels]).unwrap();
        bits.push((name, loss.item().unwrap().to_bits()));
    }
    assert!(bits.windows(2).all(|pair| pair[0].1 == pair[1].1), "{bits:?}");
}

#[test]
fn bce_agrees_with_finite_differences() {
    let device = host(Default::default());
    let inputs = || [(Shape::from([7, 5]), normal(1, 35)), (Shape::from([7, 5]), targets(2, 35))];
    let (_, weights) = weights(&device, 5);
    for op in [BceWithLogits::default(), BceWithLogits { pos_weight: Some(weights) }] {
        let reports = check_gradients(&device, &op, &inputs(), 1e-2).unwrap();
        assert_eq!(reports.len(), 2);
        for report in reports {
            assert!(report.relative_l2 < 1e-3, "{report:?}");
        }
    }
}

#[test]
fn bce_refuses_what_does_not_fit() {
    let device = host(Default::default());
    let zeros = |shape: &[usize], dtype| Tensor::zeros(&device, shape, dtype, "test").unwrap();
    let f32s = |shape: &[usize]| zeros(shape, DType::F32);
    let x = f32s(&[3, 4]);
    let text = |pos_weight: Option<Tensor>, inputs: &[&Tensor]| {
        BceWithLogits { pos_weight }.forward(inputs).map(drop).unwrap_err().to_string()
    };
    for (says, error) in [
        ("pass the logits and the targets", text(None, &[&x])),
        ("the shape [12] has 1 axes", text(None, &[&f32s(&[12]), &f32s(&[12])])),
        ("bce_with_logits targets: is [4, 3] f32, not [3, 4] f32", text(None, &[&x, &f32s(&[4, 3])])),
        ("bce_with_logits targets: is [3, 4] bf16, not [3, 4] f32", text(None, &[&x, &zeros(&[3, 4], DType::Bf16)])),
        ("bce_with_logits pos_weight: is [3] f32, not [4] f32", text(Some(f32s(&[3])), &[&x, &x])),
        ("the batch is empty (logits [0, 4])", text(None, &[&f32s(&[0, 4]), &f32s(&[0, 4])])),
    ] {
        assert!(error.contains(says), "{error}");
    }
}

/// Without a tape the gradient of the logits is the tape's, bit for bit, written or added.
#[test]
fn the_gradient_without_a_tape_is_the_tapes() {
    for (name, device) in devices() {
        let (x, t) = (normal(1, 37 * 18), targets(2, 37 * 18));
        let op = BceWithLogits { pos_weight: Some(weights(&device, 18).1) };
        let [x, t] = [x, t].map(|data| Tensor::from_slice(&device, [37, 18], DType::F32, &data).unwrap());
        let tape = Tape::recording();
        let logits = tape.leaf(&x);
        let loss = tape.apply(op.clone(), &[&logits, &tape.constant(&t)]).unwrap();
        let want = tape.backward(&loss).unwrap().get(&logits).unwrap().to_vec().unwrap();
        let dx = Tensor::empty(&device, [37, 18], DType::F32, "gradient").unwrap();
        op.logit_gradient_into(&x, &t, &dx, Write::Overwrite).unwrap();
        assert_eq!(dx.to_vec().unwrap(), want, "{name}");
        op.logit_gradient_into(&x, &t, &dx, Write::Accumulate).unwrap();
        assert_eq!(dx.to_vec().unwrap(), want.iter().map(|v| 2.0 * v).collect::<Vec<_>>(), "{name}");
        let narrow = Tensor::empty(&device, [37, 17], DType::F32, "gradient").unwrap();
        let error = op.logit_gradient_into(&x, &t, &narrow, Write::Overwrite).unwrap_err().to_string();
        assert!(error.contains("bce_with_logits gradient"), "{error}");
    }
}
