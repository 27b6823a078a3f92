//! Training to the optimum: the regularised loss of all samples by L-BFGS (Nocedal and Wright, Numerical Optimization, 2006,
//! algorithm 7.5), which asks for no learning rate. It is the problem that scikit-learn's `LogisticRegression` solves, of each label:
//!
//! `|w|^2 / 2 + C sum over samples of the loss`, here divided by C and the samples, and added up over labels, which do not meet.

use std::collections::VecDeque;

use crate::device::Device;
use crate::error::Result;
use crate::ops::gemm::Method;
use crate::ops::linear_bce::{Batch, Layer, LinearBce};
use crate::tensor::{DType, Tensor};

use super::fit::Matrices;
use super::recipe::Lbfgs;
use super::{EpochLosses, Head, Recipe, Samples};

/// Steps and changes of the gradient that are remembered.
const MEMORY: usize = 10;
/// What remains of a slope where a step along it is long enough, and short enough (Nocedal and Wright, equation 3.7b).
const SLOPE_LEFT: f64 = 0.9;
/// Passes that look for such a step, at most.
const TRIES: usize = 30;

/// Weights and bias at the optimum, and the loss after each iteration on the way.
pub(super) struct Optimum {
    pub weights: Vec<f32>,
    pub bias: Vec<f32>,
    pub losses: Vec<EpochLosses>,
}

/// A point of the search, and what is known there.
struct Point {
    at: Vec<f64>,
    gradient: Vec<f64>,
    /// The largest derivative by a weight or a bias.
    steepest: f64,
    /// Mean loss over samples and classes, without the penalty.
    loss: f32,
}

/// The problem: the data on the device, and what a pass over it is computed with.
///
/// What is searched are not weights and biases but, so that curvatures are alike whatever the features' means and sizes, the weights times
/// their features' [`Problem::scales`], and half the logits of the mean features.
struct Problem {
    data: Matrices,
    op: LinearBce,
    layer: Layer,
    gradients: Layer,
    loss: Tensor,
    classes: usize,
    /// Factor of the weights in the gradient: 1 / (C samples).
    penalty: f64,
    /// Mean of each feature.
    means: Vec<f64>,
    /// Root of the most that a weight's curvature can be, of each feature, for features that do not vary together.
    scales: Vec<f64>,
}

/// The root of the most that a bias's curvature can be.
const BIAS_SCALE: f64 = 0.5;

impl Problem {
    fn new(device: &Device, train: &Samples, recipe: &Recipe, of: &Lbfgs) -> Result<Self> {
        let samples = train.check()?;
        let (dim, classes) = (train.dim, train.names.len());
        let layer = || -> Result<Layer> {
            Ok(Layer {
                weight: Tensor::zeros(device, [classes, dim], DType::F32, "weight")?,
                bias: Tensor::zeros(device, [classes], DType::F32, "bias")?,
            })
        };
        let penalty = 1.0 / (of.c * samples as f64);
        let [means, variances] = moments(train.features, dim, recipe.head);
        Ok(Problem {
            data: Matrices::new(device, train, recipe.head)?,
            op: LinearBce {
                pos_weight: recipe.pos_weight_on(device, train.names)?,
                method: Method::default_for(device),
            },
            layer: layer()?,
            gradients: layer()?,
            loss: Tensor::zeros(device, [1], DType::F32, "loss")?,
            classes,
            penalty,
            means,
            scales: variances.iter().map(|variance| (0.25 * variance + penalty).sqrt()).collect(),
        })
    }

    /// Where the search starts: weights and biases of 0.
    fn start(&self) -> Vec<f64> {
        vec![0.0; self.classes * (self.scales.len() + 1)]
    }

    /// Weights and biases of these variables.
    fn parameters(&self, at: &[f64]) -> [Vec<f64>; 2] {
        let dim = self.scales.len();
        let (weights, centres) = at.split_at(self.classes * dim);
        let weights: Vec<f64> = weights.iter().zip(self.scales.iter().cycle()).map(|(u, scale)| u / scale).collect();
        let biases =
            centres.iter().zip(weights.chunks(dim)).map(|(u, w)| u / BIAS_SCALE - dot(w, &self.means)).collect();
        [weights, biases]
    }

    fn evaluate(&self, at: Vec<f64>) -> Result<Point> {
        let dim = self.scales.len();
        let [weights, biases] = self.parameters(&at);
        self.layer.weight.copy_from_slice(&rounded(&weights))?;
        self.layer.bias.copy_from_slice(&rounded(&biases))?;
        let Matrices { features, targets } = &self.data;
        self.op.loss_into(Batch { features, targets, places: None }, &self.layer, Some(&self.gradients), &self.loss)?;
        // The pass has the mean over classes, the problem their sum.
        let scaled = |x: &Tensor| -> Result<Vec<f64>> {
            Ok(x.to_vec()?.iter().map(|&g| self.classes as f64 * f64::from(g)).collect())
        };
        let (mut by_weight, by_bias) = (scaled(&self.gradients.weight)?, scaled(&self.gradients.bias)?);
        add(&mut by_weight, self.penalty, &weights);
        let steepest = by_weight.iter().chain(&by_bias).fold(0.0, |most: f64, g| most.max(g.abs()));
        for (row, by_bias) in by_weight.chunks_mut(dim).zip(&by_bias) {
            for ((g, mean), scale) in row.iter_mut().zip(&self.means).zip(&self.scales) {
                *g = (*g - by_bias * mean) / scale;
            }
        }
        let gradient = by_weight.into_iter().chain(by_bias.iter().map(|g| g / BIAS_SCALE)).collect();
        Ok(Point { at, gradient, steepest, loss: self.loss.item()? })
    }
}

/// Means and variances of features behind the head's ReLU.
fn moments(features: &[f32], dim: usize, head: Head) -> [Vec<f64>; 2] {
    let value = |x: f32| f64::from(if head == Head::ReluDropout { x.max(0.0) } else { x });
    let samples = (features.len() / dim) as f64;
    let mut means = vec![0.0; dim];
    for row in features.chunks(dim) {
        means.iter_mut().zip(row).for_each(|(mean, &x)| *mean += value(x) / samples);
    }
    let mut variances = vec![0.0; dim];
    for row in features.chunks(dim) {
        let squares = row.iter().zip(&means).map(|(&x, mean)| (value(x) - mean).powi(2) / samples);
        variances.iter_mut().zip(squares).for_each(|(sum, square)| *sum += square);
    }
    [means, variances]
}

fn rounded(values: &[f64]) -> Vec<f32> {
    values.iter().map(|&value| value as f32).collect()
}

/// The last steps and changes of the gradient, of which the inverse of the Hessian is guessed.
#[derive(Default)]
struct History(VecDeque<[Vec<f64>; 2]>);

impl History {
    fn add(&mut self, from: &Point, to: &Point) {
        let difference = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a - b).collect::<Vec<f64>>();
        let (step, change) = (difference(&to.at, &from.at), difference(&to.gradient, &from.gradient));
        // The problem is convex: what is not positive is rounding.
        if dot(&step, &change) > 0.0 {
            self.0.push_back([step, change]);
            if self.0.len() > MEMORY {
                self.0.pop_front();
            }
        }
    }

    /// Minus the inverse of the Hessian times the gradient (algorithm 7.4), which is taken to be 1 where nothing is known.
    fn direction(&self, gradient: &[f64]) -> Vec<f64> {
        let mut q = gradient.to_vec();
        let mut factors = Vec::with_capacity(self.0.len());
        for [step, change] in self.0.iter().rev() {
            let factor = dot(step, &q) / dot(step, change);
            add(&mut q, -factor, change);
            factors.push(factor);
        }
        let scale = self.0.back().map_or(1.0, |[step, change]| dot(step, change) / dot(change, change));
        q.iter_mut().for_each(|q| *q *= scale);
        for ([step, change], factor) in self.0.iter().zip(factors.iter().rev()) {
            let other = dot(change, &q) / dot(step, change);
            add(&mut q, factor - other, step);
        }
        q.iter_mut().for_each(|q| *q = -*q);
        q
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn add(to: &mut [f64], factor: f64, what: &[f64]) {
    to.iter_mut().zip(what).for_each(|(to, what)| *to += factor * what);
}

/// A point along the direction at which [`SLOPE_LEFT`] of the slope is left at most, either way. Slopes alone decide: they rise along any
/// line of a convex problem, and are known better than differences of losses are. `None` where rounding hides them.
fn along(problem: &Problem, from: &Point, direction: &[f64]) -> Result<Option<Point>> {
    let slope = dot(&from.gradient, direction);
    let (mut step, mut below, mut above) = (1.0, (0.0, slope), None);
    for _ in 0..TRIES {
        let mut at = from.at.clone();
        add(&mut at, step, direction);
        let point = problem.evaluate(at)?;
        let found = dot(&point.gradient, direction);
        if found.abs() <= -SLOPE_LEFT * slope || !found.is_finite() {
            return Ok(Some(point));
        }
        if found > 0.0 {
            above = Some((step, found));
        } else {
            below = (step, found);
        }
        step = match above {
            None => 4.0 * step,
            Some((end, rising)) => {
                let share = -below.1 / (rising - below.1);
                below.0 + share.clamp(0.1, 0.9) * (end - below.0)
            }
        };
    }
    Ok(None)
}

/// The optimum of these samples. `watch` is told the loss after each iteration.
///
/// # Errors
/// As [`super::LinearProbe::fit`].
pub(super) fn optimum(
    device: &Device,
    train: &Samples,
    recipe: &Recipe,
    of: &Lbfgs,
    watch: &mut dyn FnMut(&EpochLosses) -> Result<()>,
) -> Result<Optimum> {
    let problem = Problem::new(device, train, recipe, of)?;
    let mut point = problem.evaluate(problem.start())?;
    let (mut history, mut losses) = (History::default(), Vec::new());
    while point.steepest > of.tolerance && losses.len() < recipe.epochs {
        let direction = history.direction(&point.gradient);
        let Some(next) = along(&problem, &point, &direction)? else { break };
        history.add(&point, &next);
        point = next;
        let of_iteration = EpochLosses { epoch: losses.len() + 1, train: point.loss, validation: None };
        of_iteration.expect_finite()?;
        watch(&of_iteration)?;
        losses.push(of_iteration);
    }
    if point.steepest > of.tolerance {
        tracing::warn!(
            "the probe's largest derivative is {:.1e} after {} iterations, above the tolerance {:e}: raise epochs or \
             the tolerance",
            point.steepest,
            losses.len(),
            of.tolerance
        );
    }
    let [weights, bias] = problem.parameters(&point.at).map(|values| rounded(&values));
    Ok(Optimum { weights, bias, losses })
}
