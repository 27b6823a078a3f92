//! One file an operator: f64 reference, gradients, finite differences, odd sizes, thread orders, bf16.

mod attention;
mod bce;
mod channels;
mod contrastive;
mod conv2d;
mod decomp_conv;
mod decomp_conv_dense;
mod decomp_conv_traffic;
mod depthwise_conv3d;
mod dropout;
mod drr;
mod gather;
mod gemm;
mod image;
mod linear_bce;
mod mlp;
mod norm;
mod norm_rows;
mod optim;
mod pointwise;
mod pool;
mod resample;
mod retrieval;
mod vector_quantize;
