use x2ct::device::Device;
use x2ct::ops::retrieval::{Best, best, paired_ranks, ranks};
use x2ct::tensor::{DType, Tensor};

use crate::support::{devices, host, normal, round_bf16};

/// Small whole numbers: every similarity is exact in f32, and many tie.
fn small(seed: u64, n: usize) -> Vec<f32> {
    normal(seed, n).iter().map(|x| x.round().clamp(-2.0, 2.0)).collect()
}

fn similarities(a: &[f32], b: &[f32], d: usize) -> Vec<Vec<f64>> {
    let dot = |x: &[f32], y: &[f32]| x.iter().zip(y).map(|(&x, &y)| x as f64 * y as f64).sum();
    a.chunks(d).map(|x| b.chunks(d).map(|y| dot(x, y)).collect()).collect()
}

fn tensor(device: &Device, dtype: DType, x: &[f32], d: usize) -> Tensor {
    Tensor::from_slice(device, [x.len() / d, d], dtype, x).unwrap()
}

const SIZES: [(usize, usize, usize); 8] =
    [(1, 1, 1), (2, 3, 1), (7, 5, 3), (64, 64, 8), (65, 130, 5), (31, 1100, 17), (130, 67, 48), (3, 2050, 4)];

#[test]
fn ranks_are_exact_with_ties() {
    for (name, device) in devices() {
        for dtype in [DType::F32, DType::Bf16] {
            for (n, m, d) in SIZES {
                let (a, b) = (small(1, n * d), small(2, m * d));
                let s = similarities(&a, &b, d);
                let targets: Vec<u32> = (0..n).map(|i| ((i * 7 + 3) % m) as u32).collect();
                let above = |i: usize, target: usize| s[i].iter().filter(|&&x| x > s[i][target]).count() as u32;
                let want: Vec<u32> = (0..n).map(|i| above(i, targets[i] as usize)).collect();
                let (a, b) = (tensor(&device, dtype, &a, d), tensor(&device, dtype, &b, d));
                assert_eq!(ranks(&a, &b, &targets).unwrap(), want, "{name} {n} {m} {d}");
            }
        }
    }
}

#[test]
fn paired_ranks_go_both_ways() {
    for (name, device) in devices() {
        for (n, d) in [(1, 2), (33, 7), (129, 16), (1100, 6)] {
            let (a, b) = (small(3, n * d), small(4, n * d));
            let s = similarities(&a, &b, d);
            let forward: Vec<u32> = (0..n).map(|i| (0..n).filter(|&j| s[i][j] > s[i][i]).count() as u32).collect();
            let backward: Vec<u32> = (0..n).map(|j| (0..n).filter(|&i| s[i][j] > s[j][j]).count() as u32).collect();
            let got = paired_ranks(&tensor(&device, DType::F32, &a, d), &tensor(&device, DType::F32, &b, d)).unwrap();
            assert_eq!(got, (forward, backward), "{name} n={n} d={d}");
        }
    }
}

#[test]
fn the_best_items_are_exact_with_ties_by_index() {
    for (name, device) in devices() {
        for dtype in [DType::F32, DType::Bf16] {
            for (n, m, d) in SIZES {
                let (a, b) = (small(5, n * d), small(6, m * d));
                let s = similarities(&a, &b, d);
                for k in [1, 5, 64, 5000] {
                    let found = best(&tensor(&device, dtype, &a, d), &tensor(&device, dtype, &b, d), k).unwrap();
                    assert_eq!(found.k, k.min(m));
                    for i in 0..n {
                        let mut order: Vec<usize> = (0..m).collect();
                        order.sort_by(|&x, &y| s[i][y].partial_cmp(&s[i][x]).unwrap().then(x.cmp(&y)));
                        let range = i * found.k..(i + 1) * found.k;
                        let want: Vec<u32> = order.iter().take(k).map(|&j| j as u32).collect();
                        assert_eq!(found.indices[range.clone()], want, "{name} {n} {m} {d} k={k} query {i}");
                        let scores: Vec<f32> = order.iter().take(k).map(|&j| s[i][j] as f32).collect();
                        assert_eq!(found.scores[range], scores);
                    }
                }
            }
        }
    }
}

/// Equal embeddings tie wherever they stand, although their similarities are rounded.
#[test]
fn equal_items_tie_exactly() {
    let device = host(x2ct::device::ThreadOrder::Seeded(3));
    let (n, d) = (150, 77);
    let one = normal(7, d);
    let (a, b) = (normal(8, n * d), one.repeat(n));
    let (a, b) = (tensor(&device, DType::F32, &a, d), tensor(&device, DType::F32, &b, d));
    assert_eq!(ranks(&a, &b, &vec![149; n]).unwrap(), vec![0; n]);
    let found = best(&a, &b, 4).unwrap();
    assert!(found.indices.chunks(4).all(|row| row == [0, 1, 2, 3]));
}

#[test]
fn agrees_with_f64_on_embeddings() {
    let device = host(x2ct::device::ThreadOrder::Reverse);
    let (n, d) = (260, 512);
    let (a, b) = (round_bf16(&normal(9, n * d)), round_bf16(&normal(10, n * d)));
    let s = similarities(&a, &b, d);
    let (a, b) = (tensor(&device, DType::F32, &a, d), tensor(&device, DType::F32, &b, d));
    let got = paired_ranks(&a, &b).unwrap().0;
    for i in 0..n {
        // Only what lies within rounding of the right item may differ.
        let close = 1e-4 * d as f64;
        let surely = s[i].iter().filter(|&&x| x > s[i][i] + close).count() as u32;
        let maybe = s[i].iter().filter(|&&x| x > s[i][i] - close).count() as u32;
        assert!((surely..=maybe).contains(&got[i]), "query {i}: {} not in {surely}..={maybe}", got[i]);
    }
    let Best { scores, indices, .. } = best(&a, &b, 7).unwrap();
    for (at, (&score, &index)) in scores.iter().zip(&indices).enumerate() {
        assert!((score as f64 - s[at / 7][index as usize]).abs() < 1e-3);
    }
}

#[test]
fn what_is_no_number_never_helps() {
    let device = Device::host();
    let (n, d) = (70, 4);
    let (a, mut b) = (small(11, n * d), small(12, n * d));
    b[3 * d] = f32::NAN;
    let (a, b) = (tensor(&device, DType::F32, &a, d), tensor(&device, DType::F32, &b, d));
    let (forward, _) = paired_ranks(&a, &b).unwrap();
    assert_eq!(forward[3], n as u32 - 1, "a NaN of its own ranks last");
    assert!(!best(&a, &b, 20).unwrap().indices.contains(&3));
    let text = best(&a, &b, n).unwrap_err().to_string();
    assert!(text.contains("query 0") && text.contains("finite"), "{text}");
}

#[test]
fn bad_input_is_refused() {
    let device = Device::host();
    let zeros = |n: usize, d: usize| Tensor::zeros(&device, [n, d], DType::F32, "x").unwrap();
    let text = |result: x2ct::Result<Vec<u32>>| result.unwrap_err().to_string();
    assert!(text(ranks(&zeros(2, 3), &zeros(2, 4), &[0, 1])).contains("items"));
    assert!(text(ranks(&zeros(2, 3), &zeros(2, 3), &[0])).contains("1 targets for 2 queries"));
    assert!(text(ranks(&zeros(2, 3), &zeros(2, 3), &[0, 2])).contains("targets"));
    assert!(text(ranks(&zeros(0, 3), &zeros(2, 3), &[])).contains("0 queries"));
    assert!(paired_ranks(&zeros(2, 3), &zeros(3, 3)).unwrap_err().to_string().contains("belong together"));
    assert!(best(&zeros(2, 3), &zeros(2, 3), 0).unwrap_err().to_string().contains("at least one"));
}
