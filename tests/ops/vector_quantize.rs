use x2ct::Device;
use x2ct::autograd::{Op, Tape};
use x2ct::ops::norm::Mode;
use x2ct::ops::vector_quantize::{Codebook, VectorQuantize};
use x2ct::tensor::{DType, Tensor};

use crate::support::{assert_close, devices, host, normal, round_bf16};

/// Tokens, codes, length: one of each, odd ones, several tiles, more codes than tokens and fewer.
const SIZES: [[usize; 3]; 7] =
    [[1, 1, 1], [3, 2, 5], [70, 9, 7], [7, 300, 12], [130, 65, 33], [200, 1, 4], [33, 1100, 130]];

fn codebook(device: &Device, embed: &[f32], d: usize, sizes: &[f32]) -> Codebook {
    let m = sizes.len();
    Codebook {
        embed: Tensor::from_slice(device, [1, m, d], DType::F32, embed).unwrap(),
        cluster_size: Tensor::from_slice(device, [1, m], DType::F32, sizes).unwrap(),
    }
}

fn unit(row: &[f32]) -> Vec<f64> {
    let norm = row.iter().map(|&v| (v as f64).powi(2)).sum::<f64>().sqrt().max(1e-12);
    row.iter().map(|&v| v as f64 / norm).collect()
}

fn cosines(x: &[f32], embed: &[f32], d: usize) -> Vec<Vec<f64>> {
    let codes: Vec<_> = embed.chunks(d).map(unit).collect();
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum();
    x.chunks(d).map(|x| codes.iter().map(|code| dot(&unit(x), code)).collect()).collect()
}

/// The codebook after one batch whose tokens have these codes: sizes and rows.
fn moved(x: &[f32], codes: &[usize], embed: &[f32], sizes: &[f32], d: usize, decay: f64) -> [Vec<f64>; 2] {
    let mut of = vec![(0.0, vec![0.0; d]); sizes.len()];
    for (x, &code) in x.chunks(d).zip(codes) {
        of[code].0 += 1.0;
        of[code].1.iter_mut().zip(unit(x)).for_each(|(sum, v)| *sum += v);
    }
    let rows = of.iter().zip(embed.chunks(d)).flat_map(|((count, sum), old)| {
        let mean: Vec<f32> = sum.iter().map(|v| (v / count) as f32).collect();
        let new = if *count == 0.0 { unit(old) } else { unit(&mean) };
        old.iter().zip(new).map(|(&old, new)| decay * old as f64 + (1.0 - decay) * new).collect::<Vec<_>>()
    });
    let sizes = sizes.iter().zip(&of).map(|(&old, (count, _))| decay * old as f64 + (1.0 - decay) * count);
    [sizes.collect(), rows.collect()]
}

#[test]
fn vector_quantize_agrees_with_f64() {
    for (name, device) in devices() {
        for dtype in [DType::F32, DType::Bf16] {
            for [n, m, d] in SIZES {
                let round = |x: Vec<f32>| if dtype == DType::Bf16 { round_bf16(&x) } else { x };
                let what = format!("{name} {dtype:?} {n} {m} {d}");
                let (x, dy) = (round(normal(1, n * d)), round(normal(2, n * d)));
                // Rows of other lengths than 1: they count as stored in the output, not in the search.
                let embed: Vec<f32> = normal(3, m * d).iter().map(|v| 0.3 * v).collect();
                let sizes: Vec<f32> = normal(4, m).iter().map(|v| v.abs()).collect();
                let cosines = cosines(&x, &embed, d);
                let run = |mode| {
                    let codebook = codebook(&device, &embed, d, &sizes);
                    let tape = Tape::recording();
                    let leaf = tape.leaf(&Tensor::from_slice(&device, [n, d], dtype, &x).unwrap());
                    let y = tape.apply(VectorQuantize::new(codebook.clone(), mode), &[&leaf]).unwrap();
                    let dy = Tensor::from_slice(&device, [n, d], dtype, &dy).unwrap();
                    let gradients = tape.backward_from(&[(&y, &dy)]).unwrap();
                    let all = [y.tensor(), gradients.get(&leaf).unwrap(), &codebook.cluster_size, &codebook.embed];
                    all.map(|t| t.to_vec().unwrap())
                };
                let [y, dx, after_sizes, after] = run(Mode::Train);
                assert_eq!(dx, dy, "{what}: the gradient passes through");
                let codes: Vec<usize> = y
                    .chunks(d)
                    .zip(&cosines)
                    .map(|(y, cosines)| {
                        let rows = embed.chunks(d).map(|row| round(row.to_vec()));
                        let best = cosines.iter().fold(f64::MIN, |a, &b| a.max(b));
                        let is =
                            |(code, row): (usize, Vec<f32>)| (row == y && cosines[code] > best - 1e-6).then_some(code);
                        rows.enumerate()
                            .find_map(is)
                            .unwrap_or_else(|| panic!("{what}: not the nearest code, as stored"))
                    })
                    .collect();
                let [want_sizes, want] = moved(&x, &codes, &embed, &sizes, d, 0.8);
                assert_close(&format!("{what} sizes"), &after_sizes, &want_sizes, 1e-6);
                assert_close(&format!("{what} codes"), &after, &want, 1e-6);
                assert!(run(Mode::Train) == [y.clone(), dx.clone(), after_sizes, after], "{what}: runs differ");
                let [in_evaluation, dx, same_sizes, same] = run(Mode::Eval);
                assert!(in_evaluation == y && dx == dy && same_sizes == sizes && same == embed, "{what}: evaluation");
            }
        }
    }
}

/// Equal codes, equal up to their length, and a token without direction: the smallest index.
#[test]
fn ties_go_to_the_smaller_index() {
    for (name, device) in devices() {
        let (d, m) = (6, 150);
        let row = normal(5, d);
        let embed: Vec<f32> = (0..m).flat_map(|c| row.iter().map(move |v| v * [4.0, 2.0, 0.5][c % 3])).collect();
        let mut x = normal(6, 4 * d);
        x[2 * d..3 * d].fill(0.0);
        let op = VectorQuantize::new(codebook(&device, &embed, d, &vec![1.0; m]), Mode::Train);
        let y = op.forward(&[&Tensor::from_slice(&device, [4, d], DType::F32, &x).unwrap()]).unwrap().0;
        assert_eq!(y.to_vec().unwrap(), embed[..d].repeat(4), "{name}");
        let sizes = op.codebook.cluster_size.to_vec().unwrap();
        assert!((sizes[0] - 1.6).abs() < 1e-6 && sizes[1..].iter().all(|&s| s == 0.8), "{name} {sizes:?}");
    }
}

#[test]
fn what_is_no_number_moves_nothing() {
    let device = host(Default::default());
    let (n, m, d) = (5, 9, 4);
    let (mut x, embed) = (normal(7, n * d), normal(8, m * d));
    x[d + 2] = f32::NAN;
    let op = VectorQuantize::new(codebook(&device, &embed, d, &vec![0.0; m]), Mode::Train);
    let y = op.forward(&[&Tensor::from_slice(&device, [n, d], DType::F32, &x).unwrap()]).unwrap().0.to_vec().unwrap();
    assert!(y.chunks(d).enumerate().all(|(i, row)| row.iter().all(|v| v.is_nan() == (i == 1))));
    let sizes = op.codebook.cluster_size.to_vec().unwrap();
    assert!((sizes.iter().sum::<f32>() - 0.8).abs() < 1e-6);
    assert!(op.codebook.embed.to_vec().unwrap().iter().all(|v| v.is_finite()));
}

#[test]
fn bad_input_is_refused() {
    let device = Device::host();
    let zeros = |shape: &[usize]| Tensor::zeros(&device, shape, DType::F32, "x").unwrap();
    let error = |x: &[usize], embed: &[usize], sizes: &[usize], mode| {
        let codebook = Codebook { embed: zeros(embed), cluster_size: zeros(sizes) };
        VectorQuantize::new(codebook, mode).forward(&[&zeros(x)]).map(drop).unwrap_err().to_string()
    };
    assert!(error(&[2, 3], &[4, 2], &[4], Mode::Eval).contains("at least one token"));
    assert!(error(&[0, 3], &[4, 3], &[4], Mode::Eval).contains("at least one token"));
    assert!(error(&[2, 3], &[2, 4, 3], &[4], Mode::Eval).contains("at least one token"));
    assert!(error(&[2, 3], &[4, 3], &[5], Mode::Eval).contains("5"));
    assert!(error(&[2, 2049], &[4, 2049], &[4], Mode::Train).contains("use at most 2048"));
    assert!(error(&[2, 3], &[4, 3], &[4], Mode::Recompute).contains("cannot be repeated"));
}
