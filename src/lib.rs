//! x2ct: hand-written CUDA kernels and a thin model runtime.
//!
//! From the bottom up, imports running downward only: [`kernels`] (parameter structs and unsafe launches, for programs with a
//! CUDA runtime of their own), [`device`], [`tensor`], [`autograd`], [`ops`], [`nn`]; [`ct`] and [`data`] (volumes, radiographs,
//! data sets), [`train`], [`eval`], and [`check`], which runs golden files. The README shows the command line.

// A library prints nothing.
#![cfg_attr(not(test), deny(clippy::print_stdout, clippy::print_stderr))]
// Without a device there is nothing to call what devices share.
#![cfg_attr(not(any(feature = "host", feature = "cuda")), allow(dead_code))]

pub mod archive;
pub mod autograd;
pub mod check;
pub mod collective;
pub mod content;
pub mod ct;
pub mod data;
pub mod device;
pub mod error;
pub mod eval;
pub mod files;
pub mod kernels;
pub mod labels;
pub mod limits;
pub mod nn;
pub mod ops;
pub mod philox;
#[cfg(feature = "cli")]
pub mod report;
pub mod suggest;
pub mod table;
pub mod tensor;
pub mod train;

pub use device::Device;
pub use error::{Error, Result};
pub use tensor::Tensor;
