use x2ct::Device;
use x2ct::ops::optim::{AdamW, Group, Hyper, Order};
use x2ct::tensor::{DType, Tensor};

use crate::support::{assert_close, devices, host, normal, round_bf16};

/// One element, primes, several update tiles, several blocks of the norm.
const SIZES: [usize; 6] = [1, 7, 1021, 4096, 20_011, 70_001];

fn tensor(device: &Device, data: &[f32]) -> Tensor {
    Tensor::from_slice(device, [data.len()], DType::F32, data).unwrap()
}

fn one_group(n: usize, weight_decay: f32) -> [Group; 1] {
    [Group { begin: 0, end: n, weight_decay, lr_scale: 1.0 }]
}

/// The algorithm in f64: parameters and moments after each step, and the gradient norm.
struct Reference {
    hyper: Hyper,
    p: Vec<f64>,
    m: Vec<f64>,
    v: Vec<f64>,
    step: i32,
}

impl Reference {
    fn new(p: &[f32], hyper: Hyper) -> Self {
        let zeros = vec![0.0; p.len()];
        Reference { hyper, p: p.iter().map(|&x| x as f64).collect(), m: zeros.clone(), v: zeros, step: 0 }
    }

    fn step(&mut self, g: &[f32], lr: f64, groups: &[Group]) -> f64 {
        let Hyper { beta1, beta2, eps, max_norm } = self.hyper;
        let norm = g.iter().map(|&g| (g as f64).powi(2)).sum::<f64>().sqrt();
        let clip = max_norm.map_or(1.0, |max| (max / (norm + 1e-6)).min(1.0));
        self.step += 1;
        let (bias1, bias2) = (1.0 - beta1.powi(self.step), 1.0 - beta2.powi(self.step));
        for group in groups {
            let lr = lr * group.lr_scale as f64;
            for i in group.begin..group.end {
                let g = g[i] as f64 * clip;
                self.p[i] *= 1.0 - lr * group.weight_decay as f64;
                self.m[i] = beta1 * self.m[i] + (1.0 - beta1) * g;
                self.v[i] = beta2 * self.v[i] + (1.0 - beta2) * g * g;
                self.p[i] -= lr / bias1 * self.m[i] / ((self.v[i] / bias2).sqrt() + eps);
            }
        }
        norm
    }
}

#[test]
fn adamw_agrees_with_f64() {
    for (name, device) in devices() {
        for order in [Order::Interleaved, Order::Blocked] {
            for n in SIZES {
                for max_norm in [None, Some(0.5), Some(1e6)] {
                    let hyper = Hyper { max_norm, ..Hyper::default() };
                    let p0 = normal(1, n);
                    let parameters = tensor(&device, &p0);
                    let copy = Tensor::zeros(&device, [n], DType::Bf16, "copy").unwrap();
                    let groups = one_group(n, 0.05);
                    let mut optimizer = AdamW::new(&parameters, &groups, hyper)
                        .unwrap()
                        .with_bf16_copy(&copy)
                        .unwrap()
                        .with_order(order);
                    let mut reference = Reference::new(&p0, hyper);
                    for step in 1..=3 {
                        let (g, lr) = (normal(10 + step, n), 1e-2 / step as f64);
                        let report = optimizer.step(&tensor(&device, &g), lr).unwrap();
                        let norm = reference.step(&g, lr, &groups);
                        assert!((report.grad_norm / norm - 1.0).abs() < 1e-6, "{report:?} {norm}");
                        assert_eq!((report.step, report.skipped), (step, false));
                    }
                    let what = format!("{name} {order:?} n={n} {max_norm:?}");
                    let got = parameters.to_vec().unwrap();
                    assert_close(&what, &got, &reference.p, 1e-6);
                    assert_close(&what, &optimizer.exp_avg().to_vec().unwrap(), &reference.m, 2e-6);
                    assert_close(&what, &optimizer.exp_avg_sq().to_vec().unwrap(), &reference.v, 2e-6);
                    assert_eq!(copy.to_vec().unwrap(), round_bf16(&got), "{what}");
                }
            }
        }
    }
}

/// Ranges that begin and end inside vectors and tiles, with a gap (padding) between two and after the last.
#[test]
fn groups_have_their_own_rates() {
    let n = 9001;
    let group = |begin, end, weight_decay, lr_scale| Group { begin, end, weight_decay, lr_scale };
    let groups = [
        group(0, 1, 0.1, 1.0),
        group(1, 2, 0.0, 1.0),
        group(2, 4099, 0.1, 0.5),
        group(4099, 4100, 0.2, 1.0),
        group(4103, 8999, 0.0, 2.0),
    ];
    for (name, device) in devices() {
        for order in [Order::Interleaved, Order::Blocked] {
            let p0 = normal(1, n);
            let parameters = tensor(&device, &p0);
            let mut optimizer = AdamW::new(&parameters, &groups, Hyper::default()).unwrap().with_order(order);
            let mut reference = Reference::new(&p0, Hyper::default());
            for step in 0..3 {
                let mut g = normal(20 + step, n);
                g[4100..4103].fill(0.0);
                g[8999..].fill(0.0);
                optimizer.step(&tensor(&device, &g), 1e-2).unwrap();
                reference.step(&g, 1e-2, &groups);
            }
            let got = parameters.to_vec().unwrap();
            assert_close(&format!("{name} {order:?}"), &got, &reference.p, 1e-6);
            for still in (4100..4103).chain(8999..9001) {
                assert_eq!(got[still], p0[still]);
            }
        }
    }
}

#[test]
fn a_norm_that_is_not_finite_skips_the_step() {
    let n = 5000;
    for (name, device) in devices() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let parameters = tensor(&device, &normal(1, n));
            let mut optimizer = AdamW::new(&parameters, &one_group(n, 0.1), Hyper::default()).unwrap();
            let good = tensor(&device, &normal(2, n));
            optimizer.step(&good, 1e-3).unwrap();
            let state = |optimizer: &AdamW| {
                [optimizer.parameters(), optimizer.exp_avg(), optimizer.exp_avg_sq()].map(|t| t.to_vec().unwrap())
            };
            let before = state(&optimizer);
            let mut g = normal(3, n);
            g[n - 1] = bad;
            let report = optimizer.step(&tensor(&device, &g), 1e-3).unwrap();
            assert!(report.skipped && !report.grad_norm.is_finite() && report.step == 1, "{name} {report:?}");
            assert_eq!(state(&optimizer), before, "{name}");
            assert_eq!(optimizer.skipped().unwrap(), 1);
            let report = optimizer.step(&good, 1e-3).unwrap();
            assert!(!report.skipped && report.step == 2, "{name} {report:?}");
            assert_ne!(state(&optimizer), before, "{name}");
        }
    }
}

/// Squares of gradients beyond 1.8e19 do not fit into f32; the gradients do, and so does what clipping leaves of them.
#[test]
fn a_norm_does_not_overflow_where_the_gradients_do_not() {
    let (n, lr) = (20_011, 1e-3);
    for (name, device) in devices() {
        for large in [2e19, 1e30, f32::MAX] {
            let hyper = Hyper { max_norm: Some(1.0), ..Hyper::default() };
            let (p, mut g) = (normal(1, n), normal(2, n));
            for i in [0, 777, n - 1] {
                g[i] = large;
            }
            let mut optimizer = AdamW::new(&tensor(&device, &p), &one_group(n, 0.0), hyper).unwrap();
            let mut reference = Reference::new(&p, hyper);
            let report = optimizer.step(&tensor(&device, &g), lr).unwrap();
            let norm = reference.step(&g, lr, &one_group(n, 0.0));
            assert!(!report.skipped && (report.grad_norm / norm - 1.0).abs() < 1e-6, "{name} {report:?} for {norm}");
            assert_close(&format!("{name} {large}"), &optimizer.exp_avg().to_vec().unwrap(), &reference.m, 1e-6);
        }
    }
}

/// Without clipping, a square beyond f32 would make the second moment infinite and its parameter deaf for good.
#[test]
fn a_square_that_the_second_moment_cannot_hold_skips_the_step() {
    let n = 5000;
    for (name, device) in devices() {
        let p = normal(1, n);
        let mut optimizer = AdamW::new(&tensor(&device, &p), &one_group(n, 0.0), Hyper::default()).unwrap();
        let mut g = normal(2, n);
        g[n / 2] = 1e30;
        let report = optimizer.step(&tensor(&device, &g), 1e-3).unwrap();
        assert!(report.skipped && (report.grad_norm / 1e30 - 1.0).abs() < 1e-6, "{name} {report:?}");
        assert_eq!(optimizer.parameters().to_vec().unwrap(), p, "{name}");
    }
}

#[test]
fn a_captured_step_replays_with_another_learning_rate() {
    let n = 3000;
    for (name, device) in devices() {
        let (p0, g) = (normal(1, n), normal(2, n));
        let gradients = tensor(&device, &g);
        let mut eager = AdamW::new(&tensor(&device, &p0), &one_group(n, 0.1), Hyper::default()).unwrap();
        let mut captured = AdamW::new(&tensor(&device, &p0), &one_group(n, 0.1), Hyper::default()).unwrap();
        let graph = device.capture(|| captured.enqueue(&gradients)).unwrap();
        for lr in [1e-2, 3e-3, 0.0] {
            eager.step(&gradients, lr).unwrap();
            captured.set_lr(lr).unwrap();
            // Safety: the optimizer and the gradients live on.
            unsafe { graph.replay().unwrap() };
        }
        assert_eq!(captured.report().unwrap(), eager.report().unwrap(), "{name}");
        assert_eq!(captured.parameters().to_vec().unwrap(), eager.parameters().to_vec().unwrap(), "{name}");
    }
}

#[test]
fn a_restored_optimizer_goes_on_bit_for_bit() {
    let n = 777;
    let device = host(Default::default());
    let g = tensor(&device, &normal(2, n));
    let mut first = AdamW::new(&tensor(&device, &normal(1, n)), &one_group(n, 0.1), Hyper::default()).unwrap();
    first.step(&g, 1e-2).unwrap();
    let parameters = tensor(&device, &first.parameters().to_vec().unwrap());
    let mut second = AdamW::new(&parameters, &one_group(n, 0.1), Hyper::default()).unwrap();
    second.exp_avg().copy_from(first.exp_avg()).unwrap();
    second.exp_avg_sq().copy_from(first.exp_avg_sq()).unwrap();
    second.set_steps(first.steps().unwrap()).unwrap();
    assert_eq!(first.step(&g, 1e-2).unwrap(), second.step(&g, 1e-2).unwrap());
    assert_eq!(parameters.to_vec().unwrap(), first.parameters().to_vec().unwrap());
}

#[test]
fn adamw_refuses_what_does_not_fit() {
    let device = host(Default::default());
    let p = tensor(&device, &[1.0; 8]);
    let text = |groups: &[Group], hyper| AdamW::new(&p, groups, hyper).err().expect("an error").to_string();
    let group = |begin, end, weight_decay| Group { begin, end, weight_decay, lr_scale: 1.0 };
    assert!(text(&[group(0, 9, 0.0)], Hyper::default()).contains("adamw groups"));
    assert!(text(&[group(0, 4, 0.0), group(3, 8, 0.0)], Hyper::default()).contains("disjoint"));
    assert!(text(&[group(0, 8, f32::NAN)], Hyper::default()).contains("finite rates"));
    assert!(text(&one_group(8, 0.0), Hyper { beta2: 1.0, ..Hyper::default() }).contains("betas"));
    assert!(text(&one_group(8, 0.0), Hyper { max_norm: Some(0.0), ..Hyper::default() }).contains("max_norm"));
    let mut optimizer = AdamW::new(&p, &one_group(8, 0.0), Hyper::default()).unwrap();
    assert!(optimizer.step(&tensor(&device, &[0.0; 7]), 1e-3).unwrap_err().to_string().contains("gradients"));
    assert!(optimizer.step(&p, f64::NAN).unwrap_err().to_string().contains("learning rate"));
    let odd = tensor(&device, &[1.0; 9]).view(1, [8]).unwrap();
    assert!(
        AdamW::new(&odd, &one_group(8, 0.0), Hyper::default())
            .err()
            .expect("an error")
            .to_string()
            .contains("16 bytes")
    );
}
