use x2ct::Device;
use x2ct::autograd::{Op, Tape, check_gradients};
use x2ct::ops::norm::{L2Normalize, LayerNorm, RowLanes};
use x2ct::tensor::{DType, Tensor};

use crate::support::{assert_close, devices, host, normal, round_bf16};

const LANES: [Option<RowLanes>; 4] = [None, Some(RowLanes::One), Some(RowLanes::Eight), Some(RowLanes::Warp)];

/// One, primes, not a multiple of a vector, of the lanes, of a block.
const SHAPES: [[usize; 2]; 8] = [[1, 5], [5, 7], [13, 96], [3, 770], [300, 8], [37, 264], [1, 1], [65, 33]];

fn tensor(device: &Device, shape: &[usize], dtype: DType, data: &[f32]) -> Tensor {
    Tensor::from_slice(device, shape, dtype, data).unwrap()
}

/// y, dx, dweight, dbias of a layer norm in f64.
fn layer_norm(x: &[f32], weight: &[f32], bias: &[f32], dy: &[f32], eps: f64) -> [Vec<f64>; 4] {
    let d = weight.len();
    let mut out = [vec![0.0; x.len()], vec![0.0; x.len()], vec![0.0; d], vec![0.0; d]];
    for (r, row) in x.chunks(d).enumerate() {
        let mean = row.iter().map(|&v| v as f64).sum::<f64>() / d as f64;
        let var = row.iter().map(|&v| (v as f64 - mean).powi(2)).sum::<f64>() / d as f64;
        let rstd = 1.0 / (var + eps).sqrt();
        let hat: Vec<f64> = row.iter().map(|&v| (v as f64 - mean) * rstd).collect();
        let g: Vec<f64> = (0..d).map(|c| dy[r * d + c] as f64 * weight[c] as f64).collect();
        let sum = g.iter().sum::<f64>() / d as f64;
        let sum_hat = g.iter().zip(&hat).map(|(g, h)| g * h).sum::<f64>() / d as f64;
        for c in 0..d {
            out[0][r * d + c] = hat[c] * weight[c] as f64 + bias[c] as f64;
            out[1][r * d + c] = rstd * (g[c] - sum - hat[c] * sum_hat);
            out[2][c] += dy[r * d + c] as f64 * hat[c];
            out[3][c] += dy[r * d + c] as f64;
        }
    }
    out
}

#[test]
fn layer_norm_agrees_with_f64() {
    for (name, device) in devices() {
        for [rows, d] in SHAPES {
            for dtype in [DType::F32, DType::Bf16] {
                let x: Vec<f32> = normal(1, rows * d).iter().map(|x| 3.0 * x + 1.0).collect();
                let (x, dy) = (round_bf16(&x), round_bf16(&normal(2, rows * d)));
                let weight: Vec<f32> = normal(3, d).iter().map(|w| 1.0 + 0.3 * w).collect();
                let bias = normal(4, d);
                let want = layer_norm(&x, &weight, &bias, &dy, 1e-5);
                let largest = want[1..].iter().flatten().fold(0.0, |a: f64, b| a.max(b.abs()));
                for lanes in LANES {
                    let tape = Tape::recording();
                    let leaves = [
                        tape.leaf(&tensor(&device, &[rows, d], dtype, &x)),
                        tape.leaf(&tensor(&device, &[d], DType::F32, &weight)),
                        tape.leaf(&tensor(&device, &[d], DType::F32, &bias)),
                    ];
                    let inputs: Vec<_> = leaves.iter().collect();
                    let y = tape.apply(LayerNorm { lanes, ..LayerNorm::default() }, &inputs).unwrap();
                    let gradients = tape.backward_from(&[(&y, &tensor(&device, &[rows, d], dtype, &dy))]).unwrap();
                    let mut got = vec![y.tensor().to_vec().unwrap()];
                    got.extend(leaves.iter().map(|leaf| gradients.get(leaf).unwrap().to_vec().unwrap()));
                    for (i, what) in ["y", "dx", "dweight", "dbias"].into_iter().enumerate() {
                        let bound = if dtype == DType::Bf16 && i < 2 { 4e-3 } else { 1e-5 };
                        // Of short rows, dx and dweight are zero but for rounding.
                        let worst = got[i].iter().zip(&want[i]).map(|(&g, w)| (g as f64 - w).abs()).fold(0.0, f64::max);
                        if i == 0 || worst > 1e-5 * largest {
                            let what = format!("{name} {lanes:?} [{rows}, {d}] {} {what}", dtype.name());
                            assert_close(&what, &got[i], &want[i], bound);
                        }
                    }
                }
            }
        }
    }
}

/// y and dx of an L2 normalisation in f64.
fn l2_normalize(x: &[f32], dy: &[f32], d: usize, eps: f64) -> [Vec<f64>; 2] {
    let mut out = [Vec::new(), Vec::new()];
    for (row, g) in x.chunks(d).zip(dy.chunks(d)) {
        let norm = row.iter().map(|&v| (v as f64).powi(2)).sum::<f64>().sqrt();
        let scale = 1.0 / norm.max(eps);
        let dot = if norm < eps { 0.0 } else { row.iter().zip(g).map(|(&v, &g)| v as f64 * scale * g as f64).sum() };
        out[0].extend(row.iter().map(|&v| v as f64 * scale));
        out[1].extend(row.iter().zip(g).map(|(&v, &g)| scale * (g as f64 - v as f64 * scale * dot)));
    }
    out
}

#[test]
fn l2_normalize_agrees_with_f64() {
    for (name, device) in devices() {
        for [rows, d] in SHAPES {
            for dtype in [DType::F32, DType::Bf16] {
                let x: Vec<f32> = normal(1, rows * d).iter().map(|x| 4.0 * x).collect();
                let (x, dy) = (round_bf16(&x), round_bf16(&normal(2, rows * d)));
                let want = l2_normalize(&x, &dy, d, 1e-12);
                for lanes in LANES {
                    let tape = Tape::recording();
                    let leaf = tape.leaf(&tensor(&device, &[rows, d], dtype, &x));
                    let y = tape.apply(L2Normalize { lanes, ..L2Normalize::default() }, &[&leaf]).unwrap();
                    let gradients = tape.backward_from(&[(&y, &tensor(&device, &[rows, d], dtype, &dy))]).unwrap();
                    let what = format!("{name} {lanes:?} [{rows}, {d}] {}", dtype.name());
                    let bound = if dtype == DType::F32 { 1e-5 } else { 4e-3 };
                    assert_close(&what, &y.tensor().to_vec().unwrap(), &want[0], bound);
                    let dx = gradients.get(&leaf).unwrap().to_vec().unwrap();
                    if d > 1 {
                        assert_close(&format!("{what} dx"), &dx, &want[1], bound);
                    } else {
                        // A number divided by its size does not change with it.
                        assert!(dx.iter().all(|g| g.abs() < 1e-5), "{what} {dx:?}");
                    }
                }
            }
        }
    }
}

/// Rows of zero and of a norm below eps: the divisor is eps, and a constant.
#[test]
fn l2_normalize_treats_short_rows_as_pytorch() {
    for (name, device) in devices() {
        for lanes in LANES {
            let d = 9;
            let mut x = normal(1, 3 * d);
            x[..d].fill(0.0);
            x[d..2 * d].iter_mut().for_each(|x| *x *= 1e-4);
            let dy = normal(2, 3 * d);
            let op = L2Normalize { eps: 0.01, lanes };
            let tape = Tape::recording();
            let leaf = tape.leaf(&tensor(&device, &[3, d], DType::F32, &x));
            let y = tape.apply(op, &[&leaf]).unwrap();
            let gradients = tape.backward_from(&[(&y, &tensor(&device, &[3, d], DType::F32, &dy))]).unwrap();
            let want = l2_normalize(&x, &dy, d, 0.01);
            let (y, dx) = (y.tensor().to_vec().unwrap(), gradients.get(&leaf).unwrap().to_vec().unwrap());
            assert_eq!(y[..d], [0.0; 9], "{name}");
            for row in 0..3 {
                let range = row * d..(row + 1) * d;
                assert_close(&format!("{name} y {row}"), &y[range.clone()], &want[0][range.clone()], 1e-6);
                assert_close(&format!("{name} dx {row}"), &dx[range.clone()], &want[1][range], 1e-6);
            }
        }
    }
}

#[test]
fn row_norms_agree_with_finite_differences() {
    let device = host(Default::default());
    let wide = || (vec![5, 21].into(), normal(6, 105));
    let vector = |seed| (vec![21].into(), normal(seed, 21));
    for report in check_gradients(&device, &LayerNorm::default(), &[wide(), vector(1), vector(2)], 1e-3).unwrap() {
        assert!(report.relative_l2 < 2e-3, "{report:?}");
    }
    for report in check_gradients(&device, &L2Normalize::default(), &[wide()], 1e-3).unwrap() {
        assert!(report.relative_l2 < 2e-3, "{report:?}");
    }
}

/// Two uses of one parameter, one of one input: gradients add up, twice the same bits.
#[test]
fn row_norms_add_to_gradients_and_repeat_bit_for_bit() {
    let (rows, d) = (700, 24);
    for (name, device) in devices() {
        let (x, dy) = (normal(1, rows * d), normal(2, rows * d));
        let (weight, bias) = (vec![1.0; d], vec![0.0; d]);
        let run = |uses: usize| {
            let tape = Tape::recording();
            let leaves = [
                tape.leaf(&tensor(&device, &[rows, d], DType::F32, &x)),
                tape.leaf(&tensor(&device, &[d], DType::F32, &weight)),
                tape.leaf(&tensor(&device, &[d], DType::F32, &bias)),
            ];
            let inputs: Vec<_> = leaves.iter().collect();
            let upstream = tensor(&device, &[rows, d], DType::F32, &dy);
            let mut outputs = Vec::new();
            for _ in 0..uses {
                outputs.push(tape.apply(LayerNorm::default(), &inputs).unwrap());
                outputs.push(tape.apply(L2Normalize::default(), &[&leaves[0]]).unwrap());
            }
            let pairs: Vec<_> = outputs.iter().map(|y| (y, &upstream)).collect();
            let gradients = tape.backward_from(&pairs).unwrap();
            leaves.map(|leaf| gradients.get(&leaf).unwrap().to_vec().unwrap())
        };
        let (once, twice) = (run(1), run(2));
        assert_eq!(once, run(1), "{name}");
        for (once, twice) in once.iter().zip(&twice) {
            let want: Vec<f64> = once.iter().map(|&g| 2.0 * g as f64).collect();
            assert_close(&name, twice, &want, 1e-6);
        }
    }
}

#[test]
fn row_norms_refuse_what_does_not_fit() {
    let device = host(Default::default());
    let zeros = |shape: &[usize], dtype| Tensor::zeros(&device, shape, dtype, "test").unwrap();
    let (x, w) = (zeros(&[4, 3], DType::F32), zeros(&[3], DType::F32));
    let text = |inputs: &[&Tensor]| LayerNorm::default().forward(inputs).err().expect("an error").to_string();
    assert!(text(&[&x, &w]).contains("2 inputs"));
    assert!(text(&[&x, &zeros(&[4], DType::F32), &w]).contains("layer_norm weight"));
    assert!(text(&[&x, &w, &zeros(&[3], DType::Bf16)]).contains("layer_norm bias"));
    assert!(text(&[&zeros(&[4, 0], DType::F32), &w, &w]).contains("last axis"));
    assert!(L2Normalize { eps: 0.0, lanes: None }.forward(&[&x]).is_err());
}
