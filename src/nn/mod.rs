//! Parameters, layers and models, with PyTorch's names.
//!
//! A model registers its parameters with a [`ParameterBuilder`] while it is constructed and keeps only their
//! [`ParameterId`]s; the values live in one flat f32 arena ([`Parameters`]), which is what the optimizer and a checkpoint
//! see. A forward pass goes through a [`Forward`], which states the mode (training or evaluation), the storage type of
//! activations and the tape.

mod forward;
pub mod layers;
pub mod models;
mod parameters;
mod state_dict;
mod summary;

pub use forward::{Draws, Forward, Mode, Recompute};
pub use parameters::{BufferId, Init, Layout, ParameterBuilder, ParameterId, Parameters};
pub use state_dict::StateDict;
pub use summary::{LayerSummary, ModelSummary};
