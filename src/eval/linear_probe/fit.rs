//! The training of a linear probe.

use crate::autograd::Var;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::nn::layers::Linear;
use crate::nn::{Forward, ParameterBuilder, Parameters};
use crate::ops::bce::BceWithLogits;
use crate::ops::dropout::Dropout;
use crate::ops::gather::{Places, gather_into};
use crate::ops::optim::AdamW;
use crate::tensor::{DType, Tensor};
use crate::train::Sampler;

use super::{EpochLosses, LinearProbe, Recipe, Samples, upload};

/// What tells the masks of dropout from a seed's other draws.
const DROPOUT: u64 = 0x6472_6f70;

impl LinearProbe {
    /// Trains on `train` by `recipe`. The weights kept are those of the epoch with the least loss on `validation`, the first of equals,
    /// or without a validation the last. Weights start as PyTorch's `nn.Linear`, uniform in +-1/sqrt(dim). `watch` is told the losses
    /// after each epoch; its error ends the training. `encoder` and `made` of what is returned are the caller's to set.
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
        let mut training = Training::new(device, train, validation, recipe, seed)?;
        let mut losses: Vec<EpochLosses> = Vec::new();
        let (mut best_epoch, mut best) = (0, f32::INFINITY);
        for epoch in 0..recipe.epochs {
            let of_epoch = training.epoch(epoch)?;
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
        let (weights, bias) = training.kept()?;
        Ok(LinearProbe {
            names: train.names.to_vec(),
            dim: train.dim,
            weights,
            bias,
            head: recipe.head,
            best_epoch: best_epoch + 1,
            losses,
            encoder: String::new(),
            made: Default::default(),
        })
    }
}

/// Features after the head's ReLU, and labels as targets.
struct Matrices {
    features: Tensor,
    targets: Tensor,
}

/// A layer, its optimizer, and what it is trained on.
struct Training<'a> {
    recipe: &'a Recipe,
    seed: u64,
    rate: f64,
    layer: Linear,
    parameters: Parameters,
    optimizer: AdamW,
    loss: BceWithLogits,
    sampler: Sampler,
    samples: usize,
    train: Matrices,
    validation: Option<Matrices>,
    /// The rows of a step; reused.
    batch: Matrices,
    /// The loss of each step of an epoch.
    step_losses: Tensor,
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
        let matrices = |samples: &Samples| -> Result<Matrices> {
            let targets: Vec<f32> = samples.labels.iter().map(|&label| f32::from(u8::from(label))).collect();
            Ok(Matrices {
                features: upload(device, samples.features, dim, recipe.head)?,
                targets: Tensor::from_slice(device, [targets.len() / classes, classes], DType::F32, &targets)?,
            })
        };
        let weights = recipe.pos_weights(train.names)?;
        let pos_weight =
            weights.map(|weights| Tensor::from_slice(device, [classes], DType::F32, &weights)).transpose()?;
        let mut builder = ParameterBuilder::new();
        let layer = Linear::new(&mut builder, dim, classes, true);
        let parameters = builder.build(device, seed)?;
        let optimizer =
            AdamW::new(parameters.values(), &recipe.optimizer.groups(&parameters), recipe.optimizer.hyper())?;
        let rows = recipe.batch.min(samples);
        let empty = |shape: [usize; 2], what: &str| Tensor::empty(device, shape, DType::F32, what);
        Ok(Training {
            recipe,
            seed,
            rate: recipe.optimizer.rate(recipe.batch)?,
            layer,
            optimizer,
            loss: BceWithLogits { pos_weight },
            sampler: Sampler::new(0..samples, seed),
            samples,
            train: matrices(train)?,
            validation: validation.map(matrices).transpose()?,
            batch: Matrices { features: empty([rows, dim], "batch")?, targets: empty([rows, classes], "batch")? },
            step_losses: Tensor::empty(device, [samples.div_ceil(rows)], DType::F32, "losses")?,
            kept: Tensor::zeros(device, [parameters.values().numel()], DType::F32, "best weights")?,
            parameters,
        })
    }

    /// One pass over the training samples, in the epoch's order.
    fn epoch(&mut self, epoch: usize) -> Result<EpochLosses> {
        let order = Places::new(self.parameters.device(), &self.sampler.epoch(epoch))?;
        let starts: Vec<usize> = (0..self.samples).step_by(self.recipe.batch).collect();
        for (at, &start) in starts.iter().enumerate() {
            self.step(&order, start, epoch * starts.len() + at, at)?;
        }
        let sizes = starts.iter().map(|&start| self.recipe.batch.min(self.samples - start) as f64);
        let sum: f64 = self.step_losses.to_vec()?.iter().zip(sizes).map(|(&loss, size)| f64::from(loss) * size).sum();
        let train = (sum / self.samples as f64) as f32;
        Ok(EpochLosses { epoch: epoch + 1, train, validation: self.validation_loss()? })
    }

    /// One step, the `at`-th of its epoch, on the rows of the order from `start` on. Nothing in it waits for the device.
    fn step(&mut self, order: &Places, start: usize, step: usize, at: usize) -> Result<()> {
        let rows = self.recipe.batch.min(self.samples - start);
        let batch =
            Matrices { features: self.batch.features.rows(0, rows)?, targets: self.batch.targets.rows(0, rows)? };
        gather_into(&self.train.features, order, start..start + rows, &batch.features)?;
        gather_into(&self.train.targets, order, start..start + rows, &batch.targets)?;
        let pass = Forward::training(&self.parameters);
        let mut features = pass.tape.constant(&batch.features);
        if self.recipe.dropout > 0.0 {
            let offset = DROPOUT << 32 | step as u64;
            features = pass.tape.apply(Dropout { p: self.recipe.dropout, seed: self.seed, offset }, &[&features])?;
        }
        let loss = self.loss(&pass, &features, &batch.targets)?;
        self.parameters.zero_gradients()?;
        pass.tape.backward(&loss)?;
        let factor = self.recipe.schedule.factor(step, self.recipe.steps(self.samples));
        self.optimizer.set_lr(self.rate * factor)?;
        self.optimizer.enqueue(self.parameters.gradients())?;
        self.step_losses.view(at, [1])?.copy_from(loss.tensor())
    }

    fn validation_loss(&self) -> Result<Option<f32>> {
        let Some(Matrices { features, targets }) = &self.validation else { return Ok(None) };
        let pass = Forward::evaluation(&self.parameters);
        self.loss(&pass, &pass.tape.constant(features), targets)?.tensor().item().map(Some)
    }

    fn loss(&self, pass: &Forward, features: &Var, targets: &Tensor) -> Result<Var> {
        let logits = self.layer.forward(pass, features)?;
        pass.tape.apply(self.loss.clone(), &[&logits, &pass.tape.constant(targets)])
    }

    /// Keeps the parameters as they are now.
    fn keep(&self) -> Result<()> {
        self.kept.copy_from(self.parameters.values())
    }

    /// Weights and bias that were kept.
    fn kept(&self) -> Result<(Vec<f32>, Vec<f32>)> {
        let mut all = self.parameters.to_torch(&self.kept)?.into_iter().map(|(_, _, data)| data);
        Ok((all.next().unwrap_or_default(), all.next().unwrap_or_default()))
    }
}

impl EpochLosses {
    fn expect_finite(&self) -> Result<()> {
        if self.train.is_finite() && self.validation.is_none_or(f32::is_finite) {
            return Ok(());
        }
        let problem = format!("is not finite in epoch {}", self.epoch);
        Err(Error::argument("loss of the probe", problem, "use a recipe with a smaller learning rate"))
    }
}
