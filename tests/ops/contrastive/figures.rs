//! The figures that the family is held to: accuracy at the sizes it is made for, and memory.

use x2ct::check::Case;

use super::*;

/// The reference, with the gradients of a few rows only: O(n^2 d) where the whole would take hours.
pub(super) struct Sampled {
    pub(super) loss: f64,
    /// (set, row, gradient)
    rows: Vec<(usize, usize, Vec<f64>)>,
}

impl Sampled {
    /// Relative L2 distance of the gradients from the rows that are here.
    pub(super) fn distance(&self, gradients: &[Vec<f32>]) -> f64 {
        let (mut got, mut want) = (Vec::new(), Vec::new());
        for (set, i, row) in &self.rows {
            got.extend_from_slice(&gradients[*set][i * row.len()..(i + 1) * row.len()]);
            want.extend_from_slice(row);
        }
        relative_l2(&got, &want)
    }
}

/// Loss of InfoNCE over normalised embeddings, and its gradient in `rows` of both sets. Sums leave the match out.
pub(super) fn sampled(scale: f64, sets: &[Vec<f32>], n: usize, rows: &[usize]) -> Sampled {
    let d = sets[0].len() / n;
    let (unit, norms): (Vec<_>, Vec<_>) = sets.iter().map(|x| normalised_rows(x, d)).unzip();
    let row = |set: usize, i: usize| &unit[set][i * d..(i + 1) * d];
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f64>();
    // exp(l - scale): bounded, and large enough for every scale here.
    let (mut row_sums, mut column_sums) = (vec![0.0f64; n], vec![0.0f64; n]);
    for i in 0..n {
        for j in 0..n {
            if i != j {
                let e = (scale * (dot(row(0, i), row(1, j)) - 1.0)).exp();
                row_sums[i] += e;
                column_sums[j] += e;
            }
        }
    }
    let own: Vec<f64> = (0..n).map(|i| (scale * (dot(row(0, i), row(1, i)) - 1.0)).exp()).collect();
    let loss = (0..n).map(|i| (row_sums[i] / own[i]).ln_1p() + (column_sums[i] / own[i]).ln_1p()).sum::<f64>();
    let mut out = Sampled { loss: loss / (2.0 * n as f64), rows: Vec::new() };
    for set in 0..2 {
        let (mine, theirs) = if set == 0 { (&row_sums, &column_sums) } else { (&column_sums, &row_sums) };
        for &i in rows {
            let mut g = vec![0.0; d];
            for j in 0..n {
                let e = (scale * (dot(row(set, i), row(1 - set, j)) - 1.0)).exp();
                let h = if i == j {
                    -mine[i] / (mine[i] + own[i]) - theirs[i] / (theirs[i] + own[i])
                } else {
                    e / (mine[i] + own[i]) + e / (theirs[j] + own[j])
                };
                g.iter_mut().zip(row(1 - set, j)).for_each(|(g, y)| *g += scale * h * y / (2.0 * n as f64));
            }
            let along = dot(&g, row(set, i));
            let x = row(set, i);
            out.rows.push((set, i, g.iter().zip(x).map(|(g, x)| (g - along * x) / norms[set][i]).collect()));
        }
    }
    out
}

/// Loss <= 1e-6 and gradients <= 1e-5 on random embeddings, f32, gradients to both sides. Prints what they are.
fn accuracy(n: usize, d: usize, scale: f32) {
    let sets = vec![normal(n as u64, n * d), normal(n as u64 + 1, n * d)];
    let rows: Vec<usize> = (0..n).step_by(n.div_ceil(24)).collect();
    let want = sampled(scale as f64, &sets, n, &rows);
    let (value, gradients, _) = run(&Device::host(), DType::F32, &pair(Scale::Fixed(scale)), scale, &sets, n);
    let error = relative(value, want.loss);
    let gradient = want.distance(&gradients);
    println!(
        "n {n:6} d {d:4} scale {scale:6.2}: loss {error:.1e}, gradients {gradient:.1e} ({} rows)",
        want.rows.len()
    );
    assert!(error <= 1e-6, "n={n} d={d} scale={scale}: loss off by {error:.1e}");
    assert!(gradient <= 1e-5, "n={n} d={d} scale={scale}: gradients off by {gradient:.1e}");
}

#[test]
fn random_embeddings_are_within_the_figures() {
    for n in [2, 7, 31, 33] {
        for d in [48, 512, 768] {
            SCALES.into_iter().for_each(|scale| accuracy(n, d, scale));
        }
    }
    for (n, d, scale) in [(360, 512, 1.0 / 0.07), (360, 48, 100.0), (1000, 48, 1.0), (1025, 48, 1.0 / 0.07)] {
        accuracy(n, d, scale);
    }
}

#[test]
#[ignore = "4,096 embeddings in f64: minutes"]
fn random_embeddings_at_4096() {
    [(512, 1.0 / 0.07), (48, 100.0), (768, 1.0)].into_iter().for_each(|(d, scale)| accuracy(4096, d, scale));
}

#[test]
#[ignore = "16,384 embeddings in f64: many minutes"]
fn random_embeddings_at_16384() {
    accuracy(16384, 48, 1.0 / 0.07);
}

/// On well-aligned pairs no worse than twice the error of PyTorch's own f32, which the cases record.
#[test]
fn aligned_pairs_are_as_good_as_pytorchs_f32() {
    let folder = crate::support::checkout("tests/golden");
    let mut compared = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if !path.file_name().unwrap().to_string_lossy().starts_with("clip_loss") {
            continue;
        }
        let case = Case::read(&path).unwrap();
        for row in case.run(&Device::host()).unwrap().rows {
            let torch = case.attribute("torch_f32").unwrap()[&row.tensor].as_f64().unwrap();
            let ours = row.rel_l2.unwrap();
            println!("{} {}: {:.1e}, PyTorch {torch:.1e}", row.case, row.tensor, ours);
            // Not better than the rounding of the answer itself.
            assert!(ours <= 2.0 * torch.max(6e-8), "{row:?}, PyTorch {torch:.1e}");
            compared += 1;
        }
    }
    assert!(compared >= 12, "{compared}");
}

/// What a forward and backward pass with both gradients needs at most beyond its inputs and gradients, and those.
fn memory(n: usize, d: usize) -> (usize, usize) {
    let device = Device::host();
    let tape = Tape::recording();
    let leaves: Vec<_> = (0..2)
        .map(|k| tape.leaf(&Tensor::from_slice(&device, [n, d], DType::F32, &normal(k, n * d)).unwrap()))
        .collect();
    device.reset_peak();
    let y = pair(Scale::Fixed(1.0 / 0.07)).apply(&tape, &leaves.iter().collect::<Vec<_>>()).unwrap();
    tape.backward(&y).unwrap();
    let needed = 4 * n * d * 4;
    (device.memory().peak - needed, needed)
}

/// O(n) numbers and a band of a quarter of a set at most, whatever n: so the figure of one size holds for every other.
fn memory_stays_within(n: usize, d: usize) {
    let (extra, needed) = memory(n, d);
    let ratio = (needed + extra) as f64 / needed as f64;
    let linear = n * 4 * 80;
    println!(
        "n {n} d {d}: inputs and gradients {needed} B, at most {extra} B beyond: {ratio:.3} x (n x n: {} B)",
        n * n * 4
    );
    assert!(needed + extra <= needed * 6 / 5 + linear, "n = {n}: {extra} B beyond {needed} B");
    // The same terms at the largest batch: O(n) as here, and the band.
    let large = 262_144usize;
    let band = large * d;
    println!(
        "n {large} d {d}: {:.2} GB of inputs and gradients, at most {:.2} GB beyond",
        (4 * large * d * 4) as f64 / 1e9,
        (band + large * 4 * 80) as f64 / 1e9
    );
}

#[test]
fn memory_stays_within_a_fifth() {
    memory_stays_within(2048, 128);
}

#[test]
#[ignore = "16,384 x 512 embeddings on a processor: minutes"]
fn memory_at_16384() {
    memory_stays_within(16384, 512);
}
