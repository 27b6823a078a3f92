//! The training of a linear probe.

use std::ops::Range;

use crate::autograd::Op;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::nn::{Init, Layout, ParameterBuilder, Parameters};
use crate::ops::dropout::Dropout;
use crate::ops::gather::{Places, gather_into};
use crate::ops::gemm::Method;
use crate::ops::linear_bce::{Batch, Layer, LinearBce};
use crate::ops::optim::AdamW;
use crate::tensor::{DType, Tensor};
use crate::train::Sampler;

use super::lbfgs::{Optimum, optimum};
use super::{EpochLosses, Head, LinearProbe, Recipe, Samples, upload};

/// What tells the masks of dropout from a seed's other draws.
const DROPOUT: u64 = 0x6472_6f70;

impl LinearProbe {
    /// Trains on `train` by `recipe`. The weights kept are those of the epoch with the least loss on `validation`, the first of equals,
    /// or without a validation the last. Weights start as PyTorch's `nn.Linear`, uniform in +-1/sqrt(dim). `watch` is told the losses
    /// after each epoch; its error ends the training. With [`Recipe::lbfgs`] an epoch is an iteration, and weights start as zeros.
    /// `encoder` and `made` of what is returned are the caller's to set.
    ///
    /// A function of the arguments alone: the same seed gives the same bits on any number of threads.
    ///
    /// # Errors
    /// Those of [`Recipe::check`]; no samples; other labels or features in the validation; values that are not finite; a loss that
    /// becomes infinite, with the epoch.
    pub fn fit(
        device: &Device,
        train: &Samples,
        validation: Option<&Samples>,
        recipe: &Recipe,
        seed: u64,
        watch: &mut dyn FnMut(&EpochLosses) -> Result<()>,
    ) -> Result<LinearProbe> {
        recipe.check()?;
        if let Some(of) = &recipe.lbfgs {
            let Optimum { weights, bias, losses } = optimum(device, train, recipe, of, watch)?;
            return Ok(Self::of(train, recipe, [weights, bias], losses.len(), losses));
        }
        let mut training = Training::new(device, train, validation, recipe, seed)?;
        let mut losses: Vec<EpochLosses> = Vec::new();
        let (mut best_epoch, mut best) = (0, f32::INFINITY);
        for epoch in 0..recipe.epochs {
            // By one of the workers that the host shares a step among: it need not be woken after each part.
            let of_epoch = rayon::scope(|_| training.epoch(epoch))?;
            of_epoch.expect_finite()?;
            watch(&of_epoch)?;
            let loss = of_epoch.validation.unwrap_or(f32::NEG_INFINITY);
            losses.push(of_epoch);
            if loss < best || validation.is_none() {
                (best_epoch, best) = (epoch, loss);
                training.keep()?;
            } else if recipe.patience > 0 && epoch - best_epoch >= recipe.patience {
                break;
            }
        }
        Ok(Self::of(train, recipe, training.kept()?, best_epoch + 1, losses))
    }

    fn of(
        train: &Samples,
        recipe: &Recipe,
        [weights, bias]: [Vec<f32>; 2],
        best_epoch: usize,
        losses: Vec<EpochLosses>,
    ) -> Self {
        LinearProbe {
            names: train.names.to_vec(),
            dim: train.dim,
            weights,
            bias,
            head: recipe.head,
            best_epoch,
            losses,
            encoder: String::new(),
            made: Default::default(),
        }
    }
}

/// Features after the head's ReLU, and labels as targets.
pub(super) struct Matrices {
    pub(super) features: Tensor,
    pub(super) targets: Tensor,
}

impl Matrices {
    pub(super) fn new(device: &Device, samples: &Samples, head: Head) -> Result<Self> {
        let targets: Vec<f32> = samples.labels.iter().map(|&label| f32::from(u8::from(label))).collect();
        let classes = samples.names.len();
        Ok(Matrices {
            features: upload(device, samples.features, samples.dim, head)?,
            targets: Tensor::from_slice(device, [targets.len() / classes, classes], DType::F32, &targets)?,
        })
    }
}

/// A layer, its optimizer, and what it is trained on. One layer needs no tape: a step is its operators one after the other.
struct Training<'a> {
    recipe: &'a Recipe,
    seed: u64,
    rate: f64,
    parameters: Parameters,
    layer: Layer,
    gradients: Layer,
    optimizer: AdamW,
    loss: LinearBce,
    sampler: Sampler,
    samples: usize,
    train: Matrices,
    validation: Option<Matrices>,
    /// Features of a step after dropout, and its targets; where there is dropout.
    dropped: Option<Matrices>,
    /// Loss of each step of an epoch.
    losses: Tensor,
    /// The best parameters so far.
    kept: Tensor,
}

impl<'a> Training<'a> {
    fn new(
        device: &Device,
        train: &Samples,
        validation: Option<&Samples>,
        recipe: &'a Recipe,
        seed: u64,
    ) -> Result<Self> {
        let samples = train.check()?;
        if let Some(validation) = validation {
            validation.check()?;
            if (validation.names, validation.dim) != (train.names, train.dim) {
                let problem = "has other labels or values a feature than the training";
                return Err(Error::argument("validation", problem, "split both off one set"));
            }
        }
        let (dim, classes) = (train.dim, train.names.len());
        let matrices = |samples: &Samples| Matrices::new(device, samples, recipe.head);
        let pos_weight = recipe.pos_weight_on(device, train.names)?;
        let mut builder = ParameterBuilder::new();
        let init = Init::Uniform(1.0 / (dim as f32).sqrt());
        let weight = builder.parameter("weight", [classes, dim], Layout::Plain, init);
        let bias = builder.parameter("bias", [classes], Layout::Plain, init);
        let parameters = builder.build(device, seed)?;
        let optimizer =
            AdamW::new(parameters.values(), &recipe.optimizer.groups(&parameters), recipe.optimizer.hyper())?;
        let rows = recipe.batch.min(samples);
        let empty = |columns: usize, what: &str| Tensor::empty(device, [rows, columns], DType::F32, what);
        let dropped = || -> Result<Matrices> {
            Ok(Matrices { features: empty(dim, "features of a step")?, targets: empty(classes, "targets of a step")? })
        };
        Ok(Training {
            recipe,
            seed,
            rate: recipe.optimizer.rate(recipe.batch)?,
            layer: Layer { weight: parameters.value(weight)?, bias: parameters.value(bias)? },
            gradients: Layer { weight: parameters.gradient(weight)?, bias: parameters.gradient(bias)? },
            optimizer,
            loss: LinearBce { pos_weight, method: Method::default_for(device) },
            sampler: Sampler::new(0..samples, seed),
            samples,
            train: matrices(train)?,
            validation: validation.map(matrices).transpose()?,
            dropped: (recipe.dropout > 0.0).then(dropped).transpose()?,
            losses: Tensor::empty(device, [samples.div_ceil(recipe.batch)], DType::F32, "losses of an epoch")?,
            kept: Tensor::zeros(device, [parameters.values().numel()], DType::F32, "best weights")?,
            parameters,
        })
    }

    /// One pass over the training samples, in the epoch's order.
    fn epoch(&mut self, epoch: usize) -> Result<EpochLosses> {
        let order = Places::new(self.parameters.device(), &self.sampler.epoch(epoch))?;
        let batch = self.recipe.batch;
        let ranges: Vec<Range<usize>> =
            (0..self.samples).step_by(batch).map(|start| start..(start + batch).min(self.samples)).collect();
        for (at, range) in ranges.iter().enumerate() {
            self.step(&order, range, epoch * ranges.len() + at, &self.losses.rows(at, 1)?)?;
        }
        let of_steps = self.losses.to_vec()?;
        let sum: f64 = of_steps.iter().zip(&ranges).map(|(&loss, range)| f64::from(loss) * range.len() as f64).sum();
        let train = (sum / self.samples as f64) as f32;
        Ok(EpochLosses { epoch: epoch + 1, train, validation: self.validation_loss()? })
    }

    /// One step, on these places of the order. Nothing in it waits for the device.
    fn step(&mut self, order: &Places, range: &Range<usize>, step: usize, loss: &Tensor) -> Result<()> {
        let Matrices { features, targets } = &self.train;
        match &self.dropped {
            None => {
                let batch = Batch { features, targets, places: Some((order, range)) };
                self.loss.loss_into(batch, &self.layer, Some(&self.gradients), loss)?;
            }
            Some(room) => {
                let (kept, of) = (room.features.rows(0, range.len())?, room.targets.rows(0, range.len())?);
                gather_into(features, order, range.clone(), &kept)?;
                gather_into(targets, order, range.clone(), &of)?;
                let offset = DROPOUT << 32 | step as u64;
                let (kept, _) = Dropout { p: self.recipe.dropout, seed: self.seed, offset }.forward(&[&kept])?;
                let batch = Batch { features: &kept, targets: &of, places: None };
                self.loss.loss_into(batch, &self.layer, Some(&self.gradients), loss)?;
            }
        }
        let factor = self.recipe.schedule.factor(step, self.recipe.steps(self.samples));
        self.optimizer.set_lr(self.rate * factor)?;
        self.optimizer.enqueue(self.parameters.gradients())
    }

    fn validation_loss(&self) -> Result<Option<f32>> {
        let Some(Matrices { features, targets }) = &self.validation else { return Ok(None) };
        let loss = Tensor::empty(features.device(), [1], DType::F32, "loss of the validation")?;
        self.loss.loss_into(Batch { features, targets, places: None }, &self.layer, None, &loss)?;
        loss.item().map(Some)
    }

    /// Keeps the parameters as they are now.
    fn keep(&self) -> Result<()> {
        self.kept.copy_from(self.parameters.values())
    }

    /// Weights and bias that were kept.
    fn kept(&self) -> Result<[Vec<f32>; 2]> {
        let mut all = self.parameters.to_torch(&self.kept)?.into_iter().map(|(_, _, data)| data);
        Ok([all.next().unwrap_or_default(), all.next().unwrap_or_default()])
    }
}

impl EpochLosses {
    pub(super) fn expect_finite(&self) -> Result<()> {
        if self.train.is_finite() && self.validation.is_none_or(f32::is_finite) {
            return Ok(());
        }
        let problem = format!("is not finite in epoch {}", self.epoch);
        Err(Error::argument("loss of the probe", problem, "use a recipe with a smaller learning rate"))
    }
}
