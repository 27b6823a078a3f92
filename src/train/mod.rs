//! Training: configuration, sampling, augmentation, checkpoints and the loop.

mod augment;
mod batch;
mod checkpoint;
mod config;
mod gradient;
mod memory;
mod sampler;
mod set;
mod trainer;

pub use augment::Augmentation;
pub use checkpoint::{Checkpoint, Position};
pub use config::{DataConfig, LossConfig, OptimizerConfig, ScheduleConfig, ScheduleKind, TrainConfig};
pub use gradient::{BatchLoss, gradients, micro_batches};
pub use memory::StepMemory;
pub use sampler::Sampler;
pub use set::TrainingSet;
pub use trainer::{Observer, StepLog, Trainer};
