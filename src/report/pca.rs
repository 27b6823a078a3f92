//! The first two principal components of rows: a map of embeddings.

use rayon::prelude::*;

use crate::Result;
use crate::data::rows;

/// Directions that are iterated on; more than two, so that the two settle fast where the next are nearly as long.
const BLOCK: usize = 8;
/// Iterations that no embeddings need.
const MOST: usize = 500;
/// Rows that are summed by themselves, whatever the number of threads.
const CHUNK: usize = 256;

/// Rows by their first two principal components.
#[derive(Clone, Debug, PartialEq)]
pub struct Pca {
    /// Each row's coordinates.
    pub points: Vec<[f64; 2]>,
    /// The share of the variance that each component holds.
    pub shares: [f64; 2],
}

impl Pca {
    /// Of rows of `dim` values, by subspace iteration in f64: the same for the same rows, on any number of threads. The largest
    /// entry of each component, by magnitude, is positive; a component without variance has coordinates of 0.
    ///
    /// # Errors
    /// No rows; values that are not finite.
    pub fn of(values: &[f32], dim: usize) -> Result<Self> {
        let count = rows::check("features", values, dim)?;
        let mut mean = vec![0.0f64; dim];
        values.chunks_exact(dim).for_each(|row| mean.iter_mut().zip(row).for_each(|(sum, &v)| *sum += f64::from(v)));
        mean.iter_mut().for_each(|sum| *sum /= count as f64);
        let centred = Centred { values, mean: &mean };
        let total = centred.total();
        let (components, lengths) = centred.components(total);
        let coordinate = |row: &[f64], component: &[f64]| row.iter().zip(component).map(|(a, b)| a * b).sum::<f64>();
        let points = centred.rows().map(|row| {
            std::array::from_fn(|at| components.get(at).map_or(0.0, |component| coordinate(&row, component)))
        });
        let shares = std::array::from_fn(|at| lengths.get(at).map_or(0.0, |length| length / total));
        Ok(Pca { points: points.collect(), shares })
    }
}

/// Rows less their mean.
struct Centred<'a> {
    values: &'a [f32],
    mean: &'a [f64],
}

impl Centred<'_> {
    fn rows(&self) -> impl Iterator<Item = Vec<f64>> {
        self.values.chunks_exact(self.mean.len()).map(|row| self.centred(row))
    }

    fn centred(&self, row: &[f32]) -> Vec<f64> {
        row.iter().zip(self.mean).map(|(&value, mean)| f64::from(value) - mean).collect()
    }

    /// The sum of all squares.
    fn total(&self) -> f64 {
        self.rows().map(|row| row.iter().map(|v| v * v).sum::<f64>()).sum()
    }

    /// The scatter matrix times each direction.
    fn scatter(&self, directions: &[Vec<f64>]) -> Vec<Vec<f64>> {
        let dim = self.mean.len();
        let chunks: Vec<&[f32]> = self.values.chunks(CHUNK * dim).collect();
        let of_chunk = |chunk: &&[f32]| {
            let mut sums = vec![vec![0.0; dim]; directions.len()];
            for row in chunk.chunks_exact(dim).map(|row| self.centred(row)) {
                for (sum, direction) in sums.iter_mut().zip(directions) {
                    let along: f64 = row.iter().zip(direction).map(|(a, b)| a * b).sum();
                    sum.iter_mut().zip(&row).for_each(|(sum, value)| *sum += along * value);
                }
            }
            sums
        };
        let parts: Vec<Vec<Vec<f64>>> = chunks.par_iter().map(of_chunk).collect();
        let mut total = vec![vec![0.0; dim]; directions.len()];
        for part in parts {
            for (sum, part) in total.iter_mut().zip(part) {
                sum.iter_mut().zip(part).for_each(|(sum, value)| *sum += value);
            }
        }
        total
    }

    /// The first two components that have variance, and the squares along them.
    fn components(&self, total: f64) -> (Vec<Vec<f64>>, Vec<f64>) {
        let dim = self.mean.len();
        // Any start will do that is no eigenvector by construction.
        let start = |at: usize| (0..dim).map(|i| (1.0 + i as f64 * (at as f64 + 1.618)).sin() + 0.01).collect();
        let mut basis: Vec<Vec<f64>> = (0..BLOCK.min(dim)).map(start).collect();
        orthonormalise(&mut basis);
        let mut before = vec![f64::INFINITY; 2];
        let mut found = (Vec::new(), Vec::new());
        if total <= 0.0 {
            return found;
        }
        for _ in 0..MOST {
            let image = self.scatter(&basis);
            let (lengths, turned) = ritz(&basis, &image);
            // How far the first two directions still are from being eigenvectors.
            let rest: Vec<f64> =
                (0..lengths.len().min(2)).map(|at| residual(&turned, &basis, &image, at, lengths[at])).collect();
            let directions: Vec<Vec<f64>> = turned.iter().take(2).map(|weights| combined(weights, &basis)).collect();
            let settled = rest.iter().all(|rest| *rest <= 1e-10 * total);
            let stalled =
                rest.iter().zip(&before).all(|(now, before)| now >= before) && rest.iter().all(|r| *r <= 1e-7 * total);
            found = (directions, lengths);
            if settled || stalled {
                break;
            }
            before = rest;
            basis = turned.iter().map(|weights| combined(weights, &image)).collect();
            orthonormalise(&mut basis);
        }
        let (mut directions, mut lengths) = found;
        let kept = lengths.iter().take(2).filter(|length| **length > 1e-12 * total).count();
        directions.truncate(kept);
        lengths.truncate(kept);
        for direction in &mut directions {
            let largest = direction.iter().copied().fold(0.0f64, |most, v| if v.abs() > most.abs() { v } else { most });
            if largest < 0.0 {
                direction.iter_mut().for_each(|v| *v = -*v);
            }
        }
        (directions, lengths)
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn combined(weights: &[f64], vectors: &[Vec<f64>]) -> Vec<f64> {
    let mut sum = vec![0.0; vectors[0].len()];
    for (weight, vector) in weights.iter().zip(vectors) {
        sum.iter_mut().zip(vector).for_each(|(sum, value)| *sum += weight * value);
    }
    sum
}

/// The norm of the image of a turned direction less its length times itself.
fn residual(turned: &[Vec<f64>], basis: &[Vec<f64>], image: &[Vec<f64>], at: usize, length: f64) -> f64 {
    let (of, from) = (combined(&turned[at], image), combined(&turned[at], basis));
    of.iter().zip(from).map(|(a, b)| (a - length * b).powi(2)).sum::<f64>().sqrt()
}

/// Gram and Schmidt, twice; a vector that depends on those before it is left out.
fn orthonormalise(vectors: &mut Vec<Vec<f64>>) {
    let mut kept: Vec<Vec<f64>> = Vec::new();
    for mut vector in std::mem::take(vectors) {
        let size = dot(&vector, &vector).sqrt();
        for _ in 0..2 {
            for other in &kept {
                let along = dot(&vector, other);
                vector.iter_mut().zip(other).for_each(|(v, o)| *v -= along * o);
            }
        }
        let norm = dot(&vector, &vector).sqrt();
        if norm > 1e-10 * size && norm > 0.0 {
            vector.iter_mut().for_each(|v| *v /= norm);
            kept.push(vector);
        }
    }
    *vectors = kept;
}

/// Eigenvalues, the largest first, and eigenvectors of the matrix in this basis (Rayleigh and Ritz), by Jacobi's rotations.
fn ritz(basis: &[Vec<f64>], image: &[Vec<f64>]) -> (Vec<f64>, Vec<Vec<f64>>) {
    let n = basis.len();
    let entry = |i: usize, j: usize| (dot(&basis[i], &image[j]) + dot(&basis[j], &image[i])) / 2.0;
    let mut a: Vec<Vec<f64>> = (0..n).map(|i| (0..n).map(|j| entry(i, j)).collect()).collect();
    let mut v: Vec<Vec<f64>> = (0..n).map(|i| (0..n).map(|j| f64::from(u8::from(i == j))).collect()).collect();
    for _ in 0..50 {
        let off: f64 = (0..n).flat_map(|i| (0..i).map(move |j| (i, j))).map(|(i, j)| a[i][j].powi(2)).sum();
        if off <= 1e-30 * (0..n).map(|i| a[i][i].powi(2)).sum::<f64>() {
            break;
        }
        for i in 0..n {
            for j in 0..i {
                rotate(&mut a, &mut v, i, j);
            }
        }
    }
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by(|&i, &j| a[j][j].total_cmp(&a[i][i]));
    let vectors = order.iter().map(|&at| (0..n).map(|row| v[row][at]).collect());
    (order.iter().map(|&at| a[at][at]).collect(), vectors.collect())
}

/// Turns two axes so that their entry vanishes.
fn rotate(a: &mut [Vec<f64>], v: &mut [Vec<f64>], i: usize, j: usize) {
    if a[i][j] == 0.0 {
        return;
    }
    let angle = 0.5 * (2.0 * a[i][j]).atan2(a[i][i] - a[j][j]);
    let (sin, cos) = angle.sin_cos();
    for k in 0..a.len() {
        let (x, y) = (a[k][i], a[k][j]);
        (a[k][i], a[k][j]) = (cos * x + sin * y, cos * y - sin * x);
        let (x, y) = (v[k][i], v[k][j]);
        (v[k][i], v[k][j]) = (cos * x + sin * y, cos * y - sin * x);
    }
    for k in 0..a.len() {
        let (x, y) = (a[i][k], a[j][k]);
        (a[i][k], a[j][k]) = (cos * x + sin * y, cos * y - sin * x);
    }
}
