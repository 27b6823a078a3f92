//! Levels two and three of an operator: safe tensor functions, and their place on a tape.
//!
//! Every file has the operator's name. `forward` returns the output and a typed context; `backward` takes the context,
//! the upstream gradient, and for each gradient a destination with an explicit [`Write`](crate::kernels::Write).

pub mod attention;
pub mod bce;
pub mod channels;
pub mod contrastive;
pub mod conv2d;
pub mod decomp_conv;
pub mod depthwise_conv3d;
pub mod dropout;
pub mod drr;
pub mod gather;
pub mod gemm;
pub mod image;
pub mod linear_bce;
pub mod mlp;
pub mod norm;
pub mod optim;
pub mod pointwise;
pub mod pool;
pub mod resample;
pub mod retrieval;
pub mod vector_quantize;
pub mod volume;
