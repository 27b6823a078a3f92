//! Training: configuration, sampling, augmentation, checkpoints and the loop.
//!
//! The loop ([`Trainer`]) is one for all models; what differs is a [`Task`], which is the configuration of a run:
//! [`TrainConfig`] for radiograph encoders that learn from a frozen teacher, [`CtTrainConfig`] for CT encoders that learn from
//! reports.

mod augment;
mod checkpoint;
mod config;
mod ct;
mod file;
mod gradient;
pub(crate) mod limits;
mod memory;
pub(crate) mod optimizer;
mod radiographs;
mod sampler;
mod set;
mod task;
mod trainer;
mod weights;

pub use augment::Augmentation;
pub use checkpoint::{Checkpoint, Position};
pub use config::{DataConfig, LossConfig, MAX_SKIPPED_STEPS, TrainConfig};
pub use ct::{CtDataConfig, CtLossConfig, CtTeacher, CtTrainConfig, CtTrainingSet, Texts, Watch};
pub use file::AnyConfig;
pub use gradient::{BatchLoss, gradients, micro_batches};
pub use memory::StepMemory;
pub use optimizer::{Decay, OptimizerConfig, ScheduleConfig, ScheduleKind};
pub use sampler::{Epoch, Sampler};
pub use set::TrainingSet;
pub use task::{Run, Sources, StepRows, Task};
pub use trainer::{Observer, StepLog, Trainer};
