use x2ct::Device;
use x2ct::autograd::{Op, Tape, check_gradients};
use x2ct::kernels::Write;
use x2ct::ops::gemm::{Backend, Linear, MatMul, Method, Operand, Precision, column_sum_into, product_into};
use x2ct::tensor::{DType, Tensor};

use crate::support::{
    assert_close, backends, devices, host, normal, relative_l2, round_bf16, sum_bound, tensor_core_bound,
};

/// m, n, k: one, primes, around the tiles, tall, flat, long sums (which the host's library cuts into parts), and narrow results of
/// sums of some length (which it computes without packing).
const SIZES: [[usize; 3]; 13] = [
    [1, 1, 1],
    [1, 7, 5],
    [13, 1, 31],
    [17, 19, 23],
    [64, 64, 64],
    [65, 129, 67],
    [136, 200, 72],
    [128, 40, 8],
    [1031, 5, 7],
    [3, 517, 9],
    [11, 6, 4099],
    [71, 19, 139],
    [19, 150, 139],
];

fn methods(device: &Device, precision: Precision) -> Vec<Method> {
    backends(device).into_iter().map(|backend| Method { backend, precision }).collect()
}

const FULL: Precision = Precision::F32;

/// op(a) op(b) in f64, and the same of absolute values.
fn reference([m, n, k]: [usize; 3], a: &[f32], ta: bool, b: &[f32], tb: bool) -> Vec<f64> {
    let a = |i: usize, l: usize| a[if ta { l * m + i } else { i * k + l }] as f64;
    let b = |l: usize, j: usize| b[if tb { j * k + l } else { l * n + j }] as f64;
    (0..m * n).map(|index| (0..k).map(|l| a(index / n, l) * b(l, index % n)).sum()).collect()
}

fn tensor(device: &Device, shape: [usize; 2], transposed: bool, dtype: DType, data: &[f32]) -> Tensor {
    let shape = if transposed { [shape[1], shape[0]] } else { shape };
    Tensor::from_slice(device, shape, dtype, data).unwrap()
}

/// (operands, result, bound): every combination of storage types.
const TYPES: [(DType, DType, f64); 3] =
    [(DType::F32, DType::F32, 1e-6), (DType::Bf16, DType::Bf16, 4e-3), (DType::Bf16, DType::F32, 1e-6)];

#[test]
fn products_agree_with_f64() {
    for (name, device) in devices() {
        for method in methods(&device, FULL) {
            for (dtype, out, bound) in TYPES {
                for (index, size) in SIZES.into_iter().enumerate() {
                    let [m, n, k] = size;
                    // The library adds all of K in one sum where it likes; our own kernels add parts of it.
                    let bound = match (method.backend, dtype) {
                        (Backend::Library, DType::Bf16) => tensor_core_bound(k).max(bound),
                        (Backend::Library, DType::F32) => sum_bound(k),
                        _ => bound,
                    };
                    let (ta, tb) = (index % 2 == 1, index / 2 % 2 == 1);
                    // Every transposition at one size, one of the four at the others.
                    let all = [(false, false), (false, true), (true, false), (true, true)];
                    let chosen = [(ta, tb)];
                    let transpositions: &[(bool, bool)] = if m * n > 64 * 64 || k > 130 { &all } else { &chosen };
                    for &(ta, tb) in transpositions {
                        let what = format!("{name} {method:?} {dtype:?} to {out:?} {size:?} {ta} {tb}");
                        let (a, b) = (round_bf16(&normal(1, m * k)), round_bf16(&normal(2, k * n)));
                        let bias = round_bf16(&normal(3, n));
                        let mut want = reference(size, &a, ta, &b, tb);
                        let a = tensor(&device, [m, k], ta, dtype, &a);
                        let b = tensor(&device, [k, n], tb, dtype, &b);
                        let (left, right) = (Operand::new(&a, ta), Operand::new(&b, tb));
                        let c = Tensor::empty(&device, [m, n], out, "c").unwrap();
                        product_into(left, right, None, &c, Write::Overwrite, method).unwrap();
                        assert_close(&what, &c.to_vec().unwrap(), &want, bound);
                        // Once more on top of what is there, plus a bias.
                        let first = c.to_vec().unwrap();
                        want.iter_mut().enumerate().for_each(|(i, x)| *x += first[i] as f64 + bias[i % n] as f64);
                        let bias = Tensor::from_slice(&device, [n], out, &bias).unwrap();
                        product_into(left, right, Some(&bias), &c, Write::Accumulate, method).unwrap();
                        assert_close(&format!("{what} accumulated"), &c.to_vec().unwrap(), &want, bound);
                    }
                }
            }
        }
    }
}

#[test]
fn tf32_keeps_ten_bits_of_the_operands() {
    for (name, device) in devices() {
        for method in methods(&device, Precision::Tf32) {
            let size = [37, 140, 132];
            let [m, n, k] = size;
            let (a, b) = (normal(4, m * k), normal(5, k * n));
            for (ta, tb) in [(false, false), (false, true), (true, false), (true, true)] {
                let want = reference(size, &a, ta, &b, tb);
                let a = tensor(&device, [m, k], ta, DType::F32, &a);
                let b = tensor(&device, [k, n], tb, DType::F32, &b);
                let c = Tensor::empty(&device, [m, n], DType::F32, "c").unwrap();
                product_into(Operand::new(&a, ta), Operand::new(&b, tb), None, &c, Write::Overwrite, method).unwrap();
                let c = c.to_vec().unwrap();
                assert_close(&format!("{name} {method:?} {ta} {tb}"), &c, &want, 1e-3);
                // Ours does round: a full f32 product would be much closer.
                assert!(method.backend != Backend::Own || relative_l2(&c, &want) > 1e-5, "{name} {ta} {tb}");
            }
        }
    }
}

#[test]
fn an_empty_sum_gives_the_bias() {
    let device = host(Default::default());
    for method in methods(&device, FULL) {
        let a = Tensor::zeros(&device, [3, 0], DType::F32, "a").unwrap();
        let b = Tensor::zeros(&device, [0, 2], DType::F32, "b").unwrap();
        let bias = Tensor::from_slice(&device, [2], DType::F32, &[1.0, 2.0]).unwrap();
        let c = Tensor::empty(&device, [3, 2], DType::F32, "c").unwrap();
        let (a, b) = (Operand::new(&a, false), Operand::new(&b, false));
        product_into(a, b, Some(&bias), &c, Write::Overwrite, method).unwrap();
        assert_eq!(c.to_vec().unwrap(), [1.0, 2.0, 1.0, 2.0, 1.0, 2.0]);
    }
}

#[test]
fn products_do_not_depend_on_the_number_of_threads() {
    use x2ct::device::HostOptions;
    let plain = (false, false);
    for (size, (ta, tb)) in [
        ([700, 300, 40], plain),
        ([24, 40, 70_000], plain),
        ([500, 18, 512], (false, true)),
        ([18, 512, 500], (true, false)),
    ] {
        let [m, n, k] = size;
        let (a, b) = (normal(6, m * k), normal(7, k * n));
        let results: Vec<Vec<u32>> = [1, 2, 2, 5]
            .into_iter()
            .map(|threads| {
                let device = Device::host_with(HostOptions { threads, ..Default::default() });
                let a = tensor(&device, [m, k], ta, DType::F32, &a);
                let b = tensor(&device, [k, n], tb, DType::F32, &b);
                let c = Tensor::empty(&device, [m, n], DType::F32, "c").unwrap();
                let method = Method { backend: Backend::Library, precision: FULL };
                product_into(Operand::new(&a, ta), Operand::new(&b, tb), None, &c, Write::Overwrite, method).unwrap();
                c.to_vec().unwrap().into_iter().map(f32::to_bits).collect()
            })
            .collect();
        assert!(results.windows(2).all(|pair| pair[0] == pair[1]), "{size:?}");
    }
}

#[test]
fn column_sums_agree_with_f64() {
    for (name, device) in devices() {
        for dtype in [DType::F32, DType::Bf16] {
            for (m, n) in [(1, 1), (7, 5), (1, 64), (33, 16), (1031, 12), (5003, 3)] {
                let x = round_bf16(&normal(8, m * n));
                let start = normal(9, n);
                let mut want: Vec<f64> = start.iter().map(|&x| x as f64).collect();
                x.iter().enumerate().for_each(|(i, &x)| want[i % n] += x as f64);
                let x = Tensor::from_slice(&device, [m, n], dtype, &x).unwrap();
                let out = Tensor::from_slice(&device, [n], DType::F32, &start).unwrap();
                column_sum_into(&x, &out, Write::Accumulate).unwrap();
                assert_close(&format!("{name} {dtype:?} [{m}, {n}]"), &out.to_vec().unwrap(), &want, 1e-6);
            }
        }
    }
}

#[test]
fn matmul_gradients_agree_with_finite_differences() {
    let device = host(Default::default());
    for method in methods(&device, FULL) {
        for (ta, tb) in [(false, false), (false, true), (true, false), (true, true)] {
            let a = (if ta { vec![5, 7] } else { vec![7, 5] }.into(), normal(10, 35));
            let b = (if tb { vec![3, 5] } else { vec![5, 3] }.into(), normal(11, 15));
            let op = MatMul { transpose_a: ta, transpose_b: tb, method };
            let reports = check_gradients(&device, &op, &[a, b], 1e-2).unwrap();
            assert_eq!(reports.len(), 2);
            for report in reports {
                assert!(report.relative_l2 < 1e-4, "{op:?} {report:?}");
            }
        }
    }
}

#[test]
fn linear_and_its_gradients_agree_with_f64() {
    for (name, device) in devices() {
        for method in methods(&device, FULL) {
            for (dtype, parameters, bound) in
                [(DType::F32, DType::F32, 1e-6), (DType::Bf16, DType::Bf16, 4e-3), (DType::Bf16, DType::F32, 4e-3)]
            {
                let (batch, rows, k, n) = (3, 11, 13, 7);
                let m = batch * rows;
                let (x, w) = (round_bf16(&normal(12, m * k)), round_bf16(&normal(13, n * k)));
                let (b, dy) = (round_bf16(&normal(14, n)), round_bf16(&normal(15, m * n)));
                let mut y = reference([m, n, k], &x, false, &w, true);
                y.iter_mut().enumerate().for_each(|(i, y)| *y += b[i % n] as f64);
                let dx = reference([m, k, n], &dy, false, &w, false);
                let dw = reference([n, k, m], &dy, true, &x, false);
                let db: Vec<f64> = (0..n).map(|j| (0..m).map(|i| dy[i * n + j] as f64).sum()).collect();

                let tape = Tape::recording();
                let x = tape.leaf(&Tensor::from_slice(&device, [batch, rows, k], dtype, &x).unwrap());
                let w = tape.leaf(&Tensor::from_slice(&device, [n, k], parameters, &w).unwrap());
                let b = tape.leaf(&Tensor::from_slice(&device, [n], parameters, &b).unwrap());
                let got = tape.apply(Linear { method }, &[&x, &w, &b]).unwrap();
                assert_eq!(got.tensor().shape()[..], [batch, rows, n]);
                let dy = Tensor::from_slice(&device, [batch, rows, n], dtype, &dy).unwrap();
                let gradients = tape.backward_from(&[(&got, &dy)]).unwrap();
                let what = format!("{name} {method:?} {dtype:?} {parameters:?}");
                assert_close(&format!("{what} y"), &got.tensor().to_vec().unwrap(), &y, bound);
                let gradient_bound = if parameters == DType::F32 { 1e-6 } else { bound };
                for (leaf, want, bound, input) in
                    [(&x, dx, bound, "dx"), (&w, dw, gradient_bound, "dw"), (&b, db, gradient_bound, "db")]
                {
                    let gradient = gradients.get(leaf).unwrap();
                    assert_eq!(gradient.dtype(), leaf.tensor().dtype());
                    assert_close(&format!("{what} {input}"), &gradient.to_vec().unwrap(), &want, bound);
                }
            }
        }
    }
}

#[test]
fn linear_works_without_a_bias() {
    let device = host(Default::default());
    let x = (vec![2, 3, 5].into(), normal(16, 30));
    let w = (vec![4, 5].into(), normal(17, 20));
    let op = Linear { method: Method::default_for(&device) };
    for report in check_gradients(&device, &op, &[x, w], 1e-2).unwrap() {
        assert!(report.relative_l2 < 1e-4, "{report:?}");
    }
}

#[test]
fn operands_that_do_not_fit_are_refused() {
    let device = host(Default::default());
    let method = Method::default_for(&device);
    let make = |shape: &[usize], dtype| Tensor::zeros(&device, shape, dtype, "operand").unwrap();
    let op = MatMul { transpose_a: false, transpose_b: false, method };
    let refuse = |a: &Tensor, b: &Tensor| op.forward(&[a, b]).unwrap_err().to_string();
    let text = refuse(&make(&[2, 3], DType::F32), &make(&[4, 5], DType::F32));
    assert!(text.contains("[2, 3] times [4, 5]"), "{text}");
    let text = refuse(&make(&[2, 3], DType::F32), &make(&[3, 5], DType::Bf16));
    assert!(text.contains("second operand") && text.contains("bf16"), "{text}");
    let text = refuse(&make(&[2, 3, 1], DType::F32), &make(&[3, 5], DType::F32));
    assert!(text.contains("3 axes"), "{text}");
    let linear = Linear { method };
    let x = make(&[2, 6], DType::F32);
    let text = linear.forward(&[&x, &make(&[4, 5], DType::F32)]).unwrap_err().to_string();
    assert!(text.contains("last axis"), "{text}");
    let bias = make(&[3], DType::F32);
    let text = linear.forward(&[&x, &make(&[4, 6], DType::F32), &bias]).unwrap_err().to_string();
    assert!(text.contains("bias") && text.contains("[4] f32"), "{text}");
}

#[test]
fn views_from_any_element_on_are_operands_and_destinations() {
    for (name, device) in devices() {
        for method in methods(&device, FULL) {
            for dtype in [DType::F32, DType::Bf16] {
                let [m, n, k] = [33, 72, 40];
                let view = |elements: usize, shape: [usize; 2], seed| {
                    let data = round_bf16(&normal(seed, elements + 1));
                    let all = Tensor::from_slice(&device, [elements + 1], dtype, &data).unwrap();
                    (all.view(1, shape).unwrap(), data[1..].to_vec(), all)
                };
                let (a, data_a, _) = view(m * k, [m, k], 18);
                let (b, data_b, _) = view(k * n, [n, k], 19);
                let (c, _, all) = view(m * n, [m, n], 20);
                let (a, b) = (Operand::new(&a, false), Operand::new(&b, true));
                let before = all.to_vec().unwrap()[0];
                product_into(a, b, None, &c, Write::Overwrite, method).unwrap();
                let want = reference([m, n, k], &data_a, false, &data_b, true);
                assert_close(&format!("{name} {method:?} {dtype:?}"), &c.to_vec().unwrap(), &want, 4e-3);
                assert_eq!(all.to_vec().unwrap()[0], before);
                let sums = Tensor::zeros(&device, [n], DType::F32, "sums").unwrap();
                column_sum_into(&c, &sums, Write::Overwrite).unwrap();
                let c = c.to_vec().unwrap();
                let want: Vec<f64> = (0..n).map(|j| (0..m).map(|i| c[i * n + j] as f64).sum()).collect();
                assert_close(&format!("{name} sums"), &sums.to_vec().unwrap(), &want, 1e-5);
            }
        }
    }
}
