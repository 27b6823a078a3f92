//! Linear probes: ridge regression with an intercept, in f64, by Cholesky on whichever Gram matrix is smaller.

use crate::data::rows;
use crate::error::{Error, Result};
use rayon::prelude::*;

/// `y = W x + b` fitted by least squares with the penalty `lambda * |W|^2`; the intercept is not penalised.
#[derive(Clone, Debug)]
pub struct RidgeRegression {
    /// `[outputs, features]`, row-major.
    pub weights: Vec<f64>,
    /// `[outputs]`.
    pub intercept: Vec<f64>,
    pub lambda: f64,
}

impl RidgeRegression {
    /// Fits `x` `[samples, features]` to `y` `[samples, outputs]`.
    ///
    /// Deterministic for any number of threads. Errors: no samples, ragged or non-finite input, a negative or
    /// non-finite `lambda`, and a system that is singular without (more) penalty.
    pub fn fit(x: &[f32], y: &[f32], samples: usize, lambda: f64) -> Result<Self> {
        let (features, outputs) = shape(x, y, samples)?;
        System::new(x, y, features, outputs).solve(lambda)?.into_regression()
    }

    /// Fits on the rows not held out with each `lambda` of `grid`, keeps the one with the smallest squared error on
    /// those held out (the first of equals), and fits all rows with it.
    ///
    /// Hold out whole patients where a patient has several rows. Errors: as [`Self::fit`]; an empty grid; nothing, or
    /// everything, held out.
    pub fn fit_select(x: &[f32], y: &[f32], held_out: &[bool], grid: &[f64]) -> Result<Self> {
        let (features, outputs) = shape(x, y, held_out.len())?;
        let (outer, inner): (Vec<usize>, Vec<usize>) = (0..held_out.len()).partition(|&i| held_out[i]);
        if outer.is_empty() || inner.is_empty() || grid.is_empty() {
            return Err(Error::argument(
                "ridge regression",
                format!("{} rows to fit, {} held out, {} penalties", inner.len(), outer.len(), grid.len()),
                "each must be at least one",
            ));
        }
        let (x_outer, y_outer) = (rows::select(x, features, &outer), rows::select(y, outputs, &outer));
        let system =
            System::new(&rows::select(x, features, &inner), &rows::select(y, outputs, &inner), features, outputs);
        let basis = system.project(&x_outer);
        let mut best: Option<(f64, f64)> = None;
        for &lambda in grid {
            let error = system.solve(lambda)?.squared_error(&basis, &y_outer);
            if best.is_none_or(|(smallest, _)| error < smallest) {
                best = Some((error, lambda));
            }
        }
        let lambda = best.map_or(grid[0], |(_, lambda)| lambda);
        Self::fit(x, y, held_out.len(), lambda)
    }

    /// `[samples, outputs]` for `x` `[samples, features]`. Errors: ragged or non-finite input.
    pub fn predict(&self, x: &[f32]) -> Result<Vec<f32>> {
        let features = self.weights.len() / self.intercept.len();
        rows::check("x", x, features)?;
        let x: Vec<f64> = x.iter().map(|&v| f64::from(v)).collect();
        let mut y = product(&x, &self.weights, features);
        for row in y.chunks_exact_mut(self.intercept.len()) {
            row.iter_mut().zip(&self.intercept).for_each(|(y, b)| *y += b);
        }
        Ok(y.into_iter().map(|v| v as f32).collect())
    }
}

fn shape(x: &[f32], y: &[f32], samples: usize) -> Result<(usize, usize)> {
    let columns = |what: &str, values: &[f32]| {
        if samples == 0 || !values.len().is_multiple_of(samples) {
            return Err(Error::argument(
                what,
                format!("{} values for {samples} samples", values.len()),
                "pass whole rows",
            ));
        }
        let columns = values.len() / samples;
        rows::check(what, values, columns).map(|_| columns)
    };
    Ok((columns("x", x)?, columns("y", y)?))
}

/// The normal equations `(G + lambda I) C = R` in the smaller of two forms, on centred data. Primal: `G = X'X`, `R =
/// X'Y`, `W = C'`. Dual: `G = XX'`, `R = Y`, `W = C'X`. A new row `z` becomes `z` or `zX'`, and its prediction is that
/// times `C`.
struct System {
    x: Vec<f64>,
    x_mean: Vec<f64>,
    y_mean: Vec<f64>,
    dual: bool,
    /// Lower triangle.
    gram: Vec<f64>,
    /// `R` transposed, `[outputs, order]`.
    right: Vec<f64>,
    order: usize,
}

struct Solution<'a> {
    system: &'a System,
    /// `C` transposed, `[outputs, order]`.
    coefficients: Vec<f64>,
    lambda: f64,
}

impl System {
    fn new(x: &[f32], y: &[f32], features: usize, outputs: usize) -> Self {
        let samples = x.len() / features;
        let (x, x_mean) = centred(x, features);
        let (y, y_mean) = centred(y, outputs);
        let y_t = transposed(&y, outputs);
        let dual = samples < features;
        let (gram, right, order) = if dual {
            (gram(&x, features), y_t, samples)
        } else {
            let x_t = transposed(&x, features);
            (gram(&x_t, samples), product(&y_t, &x_t, samples), features)
        };
        System { x, x_mean, y_mean, dual, gram, right, order }
    }

    /// New rows in the coordinates that [`Solution::coefficients`] apply to, `[rows, order]`.
    fn project(&self, x: &[f32]) -> Vec<f64> {
        let features = self.x_mean.len();
        let z: Vec<f64> = x
            .chunks_exact(features)
            .flat_map(|row| row.iter().zip(&self.x_mean).map(|(&v, m)| f64::from(v) - m))
            .collect();
        if self.dual { product(&z, &self.x, features) } else { z }
    }

    fn solve(&self, lambda: f64) -> Result<Solution<'_>> {
        if !(lambda.is_finite() && lambda >= 0.0) {
            return Err(Error::argument("lambda", format!("is {lambda}"), "pass a finite penalty of at least 0"));
        }
        let mut factor = self.gram.clone();
        factor.iter_mut().step_by(self.order + 1).for_each(|d| *d += lambda);
        cholesky(&mut factor, self.order).map_err(|pivot| {
            Error::argument(
                "ridge regression",
                format!("the system is singular at column {pivot} of {} with lambda {lambda}", self.order),
                "use a larger lambda",
            )
        })?;
        let mut coefficients = self.right.clone();
        coefficients.par_chunks_exact_mut(self.order).for_each(|c| substitute(&factor, self.order, c));
        Ok(Solution { system: self, coefficients, lambda })
    }
}

impl Solution<'_> {
    fn squared_error(&self, basis: &[f64], y: &[f32]) -> f64 {
        let predicted = product(basis, &self.coefficients, self.system.order);
        let outputs = self.system.y_mean.len();
        let error = |(i, p): (usize, &f64)| (p + self.system.y_mean[i % outputs] - f64::from(y[i])).powi(2);
        predicted.iter().enumerate().map(error).sum()
    }

    fn into_regression(self) -> Result<RidgeRegression> {
        let System { x, x_mean, y_mean, dual, order, .. } = self.system;
        let features = x_mean.len();
        let weights = match dual {
            true => product(&self.coefficients, &transposed(x, features), *order),
            false => self.coefficients,
        };
        let offset = |(row, y): (&[f64], &f64)| y - dot(row, x_mean);
        let intercept = weights.chunks_exact(features).zip(y_mean).map(offset).collect();
        Ok(RidgeRegression { weights, intercept, lambda: self.lambda })
    }
}

/// The matrix less its column means, and the means.
fn centred(values: &[f32], columns: usize) -> (Vec<f64>, Vec<f64>) {
    let mut mean = vec![0.0; columns];
    for row in values.chunks_exact(columns) {
        mean.iter_mut().zip(row).for_each(|(m, &v)| *m += f64::from(v));
    }
    let rows = values.len() / columns;
    mean.iter_mut().for_each(|m| *m /= rows as f64);
    let centred = values.chunks_exact(columns).flat_map(|row| row.iter().zip(&mean).map(|(&v, m)| f64::from(v) - m));
    (centred.collect(), mean)
}

fn transposed(values: &[f64], columns: usize) -> Vec<f64> {
    (0..columns).flat_map(|c| values[c..].iter().step_by(columns)).copied().collect()
}

/// `a b'` for row-major `a` `[m, k]` and `b` `[n, k]`, `[m, n]`; each entry has one fixed order of summation.
fn product(a: &[f64], b: &[f64], k: usize) -> Vec<f64> {
    tiled_product(a, b, k, |_| usize::MAX)
}

/// The lower triangle of `x x'`, `[n, n]`; entries above it are 0 or right.
fn gram(x: &[f64], k: usize) -> Vec<f64> {
    tiled_product(x, x, k, |tile| tile + 1)
}

/// A tile of rows of `a` against tiles of rows of `b` (the first `tiles(i)` for the i-th of `a`), so that both stay in
/// the cache. One product at a time: in f64 without FMA, 2 x 2 products in registers measured 2.5 times slower.
fn tiled_product(a: &[f64], b: &[f64], k: usize, tiles: impl Fn(usize) -> usize + Sync) -> Vec<f64> {
    const TILE: usize = 16;
    let n = b.len() / k;
    let mut out = vec![0.0; a.len() / k * n];
    out.par_chunks_mut(TILE * n).zip(a.par_chunks(TILE * k)).enumerate().for_each(|(i, (out, a))| {
        for (tile, b) in b.chunks(TILE * k).take(tiles(i)).enumerate() {
            for (out, a) in out.chunks_exact_mut(n).zip(a.chunks_exact(k)) {
                out[tile * TILE..].iter_mut().zip(b.chunks_exact(k)).for_each(|(out, b)| *out = dot(a, b));
            }
        }
    });
    out
}

/// Replaces the lower triangle of a symmetric `[n, n]` matrix by its Cholesky factor, panel by panel; the upper
/// triangle is left. The error is the column whose pivot is not positive.
fn cholesky(a: &mut [f64], n: usize) -> std::result::Result<(), usize> {
    const PANEL: usize = 64;
    // A pivot this small against the diagonal is rounding error.
    let tiny = a.iter().step_by(n + 1).fold(0.0f64, |m, d| m.max(d.abs())) * n as f64 * f64::EPSILON;
    for from in (0..n).step_by(PANEL) {
        let to = (from + PANEL).min(n);
        let (done, below) = a.split_at_mut(to * n);
        for i in from..to {
            let (above, row) = done.split_at_mut(i * n);
            for j in from..i {
                row[j] = (row[j] - dot(&row[..j], &above[j * n..j * n + j])) / above[j * n + j];
            }
            let pivot = row[i] - dot(&row[..i], &row[..i]);
            if pivot <= tiny || pivot.is_nan() {
                return Err(i);
            }
            row[i] = pivot.sqrt();
        }
        // What is left of each row below the panel depends on the finished rows only.
        below.par_chunks_exact_mut(n).for_each(|row| {
            for j in from..to {
                row[j] = (row[j] - dot(&row[..j], &done[j * n..j * n + j])) / done[j * n + j];
            }
        });
    }
    Ok(())
}

/// Solves `L L' c = c` in place.
fn substitute(factor: &[f64], n: usize, c: &mut [f64]) {
    for i in 0..n {
        c[i] = (c[i] - dot(&factor[i * n..i * n + i], &c[..i])) / factor[i * n + i];
    }
    for i in (0..n).rev() {
        let (head, tail) = c.split_at_mut(i);
        tail[0] /= factor[i * n + i];
        head.iter_mut().zip(&factor[i * n..i * n + i]).for_each(|(c, l)| *c -= tail[0] * l);
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    const LANES: usize = 8;
    let mut sums = [0.0; LANES];
    let (a_whole, a_rest) = a.as_chunks::<LANES>();
    let (b_whole, b_rest) = b.as_chunks::<LANES>();
    for (a, b) in a_whole.iter().zip(b_whole) {
        for lane in 0..LANES {
            sums[lane] += a[lane] * b[lane];
        }
    }
    for (lane, (a, b)) in a_rest.iter().zip(b_rest).enumerate() {
        sums[lane] += a * b;
    }
    sums.iter().sum()
}
