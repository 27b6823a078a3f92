//! x2ct: hand-written CUDA kernels and a thin model runtime.

pub mod ct;
pub mod data;
pub mod error;
pub mod eval;
pub mod files;

pub use error::{Error, Result};
