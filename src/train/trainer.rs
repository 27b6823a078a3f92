//! The training loop of the radiograph encoder.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::{Deserialize, Serialize};

use super::batch::Batch;
use super::{Checkpoint, Position, Sampler, TrainConfig, TrainingSet, gradients, micro_batches};
use crate::data::rows;
use crate::device::Device;
use crate::nn::models::RadiographEncoder;
use crate::nn::{Forward, ParameterBuilder, Parameters, StateDict};
use crate::ops::image::{ImageSet, Warp};
use crate::ops::optim::{AdamW, Group, Hyper};
use crate::tensor::Tensor;
use crate::{Error, Result};

/// One step of the log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepLog {
    /// Steps done, this one included.
    pub step: usize,
    /// Epoch, from 0.
    pub epoch: usize,
    /// The loss of the batch.
    pub loss: f32,
    /// Norm of the gradient before clipping.
    pub grad_norm: f64,
    /// Learning rate.
    pub lr: f64,
    /// Radiographs of the batch.
    pub images: usize,
}

/// What follows a run while it goes on.
pub trait Observer {
    /// After each step.
    fn step(&mut self, log: &StepLog, position: Position) -> Result<()>;
    /// When a checkpoint is due.
    fn checkpoint(&mut self, trainer: &Trainer) -> Result<()>;
}

/// An encoder, its optimizer and its place in the run.
pub struct Trainer {
    config: TrainConfig,
    encoder: RadiographEncoder,
    parameters: Parameters,
    optimizer: AdamW,
    position: Position,
    teacher: String,
}

impl Trainer {
    /// A run at its beginning: random or loaded weights.
    pub fn new(device: &Device, config: &TrainConfig) -> Result<Self> {
        config.check()?;
        let mut builder = ParameterBuilder::new();
        let encoder = RadiographEncoder::new(&mut builder, &config.model)?;
        let parameters = builder.build(device, config.seed)?;
        if let Some(path) = &config.weights {
            load_weights(&parameters, path)?;
        }
        let o = &config.optimizer;
        let max_norm = (o.max_norm > 0.0).then_some(o.max_norm);
        let hyper = Hyper { beta1: o.betas[0], beta2: o.betas[1], eps: o.eps, max_norm };
        // X2CT-CLIP decays every parameter; the gaps of the arena are zero and stay so.
        let group =
            Group { begin: 0, end: parameters.values().numel(), weight_decay: o.weight_decay as f32, lr_scale: 1.0 };
        let optimizer = AdamW::new(parameters.values(), &[group], hyper)?;
        let position = Position::default();
        Ok(Trainer { config: config.clone(), encoder, parameters, optimizer, position, teacher: String::new() })
    }

    /// A run where a checkpoint left it. The checkpoint's configuration is used.
    pub fn resume(device: &Device, checkpoint: &Checkpoint) -> Result<Self> {
        let config = TrainConfig { weights: None, ..checkpoint.config.clone() };
        let mut trainer = Self::new(device, &config)?;
        trainer.config = checkpoint.config.clone();
        checkpoint.model.load_into(&trainer.parameters, "checkpoint")?;
        let arena = |dict: &StateDict, to: &Tensor| -> Result<()> {
            let saved = trainer.parameters.values().to_vec()?;
            dict.load_into_parameters(&trainer.parameters, "checkpoint")?;
            to.copy_from(trainer.parameters.values())?;
            trainer.parameters.values().copy_from_slice(&saved)
        };
        arena(&checkpoint.exp_avg, trainer.optimizer.exp_avg())?;
        arena(&checkpoint.exp_avg_sq, trainer.optimizer.exp_avg_sq())?;
        trainer.optimizer.set_steps(checkpoint.optimizer_steps)?;
        trainer.position = checkpoint.position;
        trainer.teacher = checkpoint.teacher.clone();
        Ok(trainer)
    }

    /// Everything a later [`Trainer::resume`] needs.
    pub fn checkpoint(&self) -> Result<Checkpoint> {
        Ok(Checkpoint {
            config: self.config.clone(),
            position: self.position,
            optimizer_steps: self.optimizer.steps()?,
            teacher: self.teacher.clone(),
            model: StateDict::of(&self.parameters)?,
            exp_avg: Checkpoint::named(&self.parameters, self.optimizer.exp_avg())?,
            exp_avg_sq: Checkpoint::named(&self.parameters, self.optimizer.exp_avg_sq())?,
        })
    }

    /// The run.
    pub fn config(&self) -> &TrainConfig {
        &self.config
    }

    /// How far it is.
    pub fn position(&self) -> Position {
        self.position
    }

    /// The parameters.
    pub fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    /// Steps of the whole run on this set.
    pub fn total_steps(&self, set: &TrainingSet) -> usize {
        Sampler::new(set.scans(), self.config.seed).batches(self.config.batch) * self.config.epochs
    }

    /// Trains to the end of the run, or until `stop` is set: then the observer is asked for a checkpoint, and the error is
    /// [`Error::Interrupted`].
    pub fn run(&mut self, set: &TrainingSet, observer: &mut dyn Observer, stop: &AtomicBool) -> Result<()> {
        self.expect_set(set)?;
        self.teacher = set.teacher.clone();
        let sampler = Sampler::new(set.scans(), self.config.seed);
        let batches = sampler.batches(self.config.batch);
        if batches == 0 {
            let problem = format!("{} scan: a pair needs another as its negative", sampler.len());
            return Err(Error::argument("training set", problem, "train with at least two scans"));
        }
        let last = (sampler.len() - (batches - 1) * self.config.batch).min(self.config.batch);
        micro_batches(last, self.config.micro_batch)?;
        let total = batches * self.config.epochs;
        while self.position.epoch < self.config.epochs {
            let order = sampler.epoch(self.position.epoch);
            while self.position.batch < batches {
                if stop.load(Ordering::Relaxed) {
                    observer.checkpoint(self)?;
                    return Err(Error::Interrupted(format!("after step {} of {total}", self.position.step)));
                }
                let first = self.position.batch * self.config.batch;
                let rows = &order[first..(first + self.config.batch).min(order.len())];
                let lr = self.config.optimizer.lr * self.config.schedule.factor(self.position.step, total);
                let log = self.step(set, rows, first, lr)?;
                self.position.batch += 1;
                self.position.step += 1;
                if self.position.batch == batches {
                    self.position = Position { epoch: self.position.epoch + 1, batch: 0, step: self.position.step };
                }
                observer.step(&log, self.position)?;
                if self.position.batch == 0 || self.position.step % self.config.checkpoint_steps.max(1) == 0 {
                    observer.checkpoint(self)?;
                }
                if self.position.batch == 0 {
                    break;
                }
            }
        }
        Ok(())
    }

    fn expect_set(&self, set: &TrainingSet) -> Result<()> {
        if set.dim != self.config.model.embedding {
            let problem =
                format!("has {} dimensions, the teacher's embeddings have {}", self.config.model.embedding, set.dim);
            return Err(Error::argument("model.embedding", problem, "set it to the teacher's"));
        }
        match &self.config.data.teacher {
            Some(wanted) if *wanted != set.teacher => Err(Error::argument(
                "data.teacher",
                format!("is {wanted:?}, the cache is of {:?}", set.teacher),
                "use the cache of that teacher, or correct the configuration",
            )),
            _ if !self.teacher.is_empty() && self.teacher != set.teacher => Err(Error::argument(
                "embedding cache",
                format!("is of {:?}, the run began with {:?}", set.teacher, self.teacher),
                "resume with the cache the run began with",
            )),
            _ => Ok(()),
        }
    }

    /// One step on the given rows; `first` is their place in the epoch.
    fn step(&mut self, set: &TrainingSet, rows: &[u32], first: usize, lr: f64) -> Result<StepLog> {
        self.parameters.zero_gradients()?;
        let loss = {
            let batch =
                Batch::new(&self.config, &self.encoder, &self.parameters, set, rows, [self.position.epoch, first])?;
            gradients(&batch, &micro_batches(rows.len(), self.config.micro_batch)?)?
        };
        if !loss.is_finite() {
            return Err(Error::argument(
                "training",
                format!("the loss of step {} is {loss}", self.position.step + 1),
                "lower optimizer.lr, or resume from an earlier checkpoint",
            ));
        }
        let report = self.optimizer.step(self.parameters.gradients(), lr)?;
        Ok(StepLog {
            step: self.position.step + 1,
            epoch: self.position.epoch,
            loss,
            grad_norm: report.grad_norm,
            lr,
            images: rows.len(),
        })
    }

    /// L2-normalised embeddings [images, D] in evaluation mode, in order, without augmentation.
    pub fn embed(&self, images: &ImageSet) -> Result<Vec<f32>> {
        let output = [self.config.data.image_size; 2];
        let warp = Warp::resize(images.size(), output);
        let mut embeddings = Vec::with_capacity(images.len() * self.config.model.embedding);
        let all: Vec<(u32, Warp)> = (0..images.len() as u32).map(|row| (row, warp)).collect();
        for chunk in all.chunks(self.config.micro_batch.unwrap_or(self.config.batch).min(256)) {
            let batch = images.batch(chunk, output, self.config.data.normalization, self.config.dtype)?;
            let pass = Forward::evaluation(&self.parameters).with_dtype(self.config.dtype);
            embeddings.extend(self.encoder.forward(&pass, &pass.tape.constant(&batch))?.tensor().to_vec()?);
        }
        rows::l2_normalise("radiograph embeddings", &mut embeddings, self.config.model.embedding)?;
        Ok(embeddings)
    }
}

/// A `state_dict` of the whole encoder, or of its trunk with torchvision's names.
fn load_weights(parameters: &Parameters, path: &Path) -> Result<()> {
    let dict = StateDict::read(path)?;
    let source = path.display().to_string();
    if dict.tensors.keys().any(|name| name.starts_with("xray_encoder.")) {
        dict.load_into(parameters, &source)?;
        return Ok(());
    }
    let mut whole = StateDict::of(parameters)?;
    for (name, tensor) in &dict.tensors {
        whole.tensors.insert(format!("xray_encoder.{name}"), tensor.clone());
    }
    let missing =
        whole.tensors.keys().filter_map(|n| n.strip_prefix("xray_encoder.")).find(|n| !dict.tensors.contains_key(*n));
    if let Some(name) = missing {
        return Err(Error::file(
            path,
            format!("has no tensor `{name}`"),
            "pass torchvision's state_dict of this ResNet",
        ));
    }
    whole.load_into(parameters, &source)?;
    Ok(())
}
