//! x2ct: hand-written CUDA kernels and a thin model runtime.

pub mod archive;
pub mod autograd;
pub mod check;
pub mod ct;
pub mod data;
pub mod device;
pub mod error;
pub mod eval;
pub mod files;
pub mod kernels;
pub mod nn;
pub mod ops;
pub mod philox;
#[cfg(feature = "cli")]
pub mod report;
pub mod tensor;
pub mod train;

pub use device::Device;
pub use error::{Error, Result};
pub use tensor::Tensor;
