// Parameters of the kernels of decomp_conv.cu. build/abi/params.rs says in which subset of C++.
#pragma once

#include <cstdint>

/// Operands of every phase of a decomposed convolution; those a phase does not use are null.
struct DecompConvParams {
    /// Input, `[N, I, D1, D2, D3]`.
    const void* x;
    /// Gradient of y, or of what is under the activation, `[N, O, E1, E2, E3]`.
    const void* g;
    /// Output of a writing pass, as g.
    void* y;
    /// Gradient of x, as x.
    void* dx;
    /// Stored branches, `[3, N, O, E]` f32.
    float* z;
    /// Gradients of the stored branches, `[3, N, O, E]` f32.
    float* dz;
    /// Filters of the branches, `[O, I or 1, k]` f32.
    const float* w[3];
    /// Biases of the branches, `[O]` f32, or null.
    const float* bias[3];
    /// Scales of the norms, `[O]` f32; null without norm, like the following three.
    const float* gamma[3];
    /// Shifts of the norms, `[O]` f32.
    const float* beta[3];
    /// Running means, `[O]` f32.
    float* running_mean[3];
    /// Running variances, `[O]` f32.
    float* running_var[3];
    /// Mean of each branch without its bias, `[3, O]` f32.
    float* mean;
    /// 1 / sqrt(variance + eps) of each branch, `[3, O]` f32.
    float* rstd;
    /// gamma times rstd, `[3, O]` f32.
    float* scale;
    /// What is added to the sum of scaled branches, `[O]` f32.
    float* shift;
    /// alpha, beta and delta of dz = alpha g + beta (z - mean) + delta, `[O, 3, 3]` f32.
    float* coefficients;
    /// f64 workspace of [`DecompConvParams::partial_bytes`].
    double* partial;
    /// Gradients of w, as w, or null.
    float* dw[3];
    /// Gradients of the biases, `[O]` f32, or null.
    float* dbias[3];
    /// Gradients of gamma, `[O]` f32, or null.
    float* dgamma[3];
    /// Gradients of beta, `[O]` f32, or null.
    float* dbeta[3];
    /// What is added to the variances.
    double eps;
    /// Weight of this batch in the running statistics.
    double momentum;
    /// Samples, N.
    uint64_t batch;
    /// Channels of x, I.
    uint32_t in_channels;
    /// Channels of y, O.
    uint32_t out_channels;
    /// Sizes of x, D.
    uint32_t in_size[3];
    /// Sizes of y, E.
    uint32_t out_size[3];
    /// Taps of a filter, k.
    uint32_t kernel;
    /// Voxels between two windows, s.
    uint32_t stride;
    /// 1: every output channel sees every input channel.
    uint32_t dense;
    /// Which statistics the norms use, a [`NormKind`].
    uint32_t norm;
    /// 1: a GELU follows the sum.
    uint32_t gelu;
    /// 1: a writing pass writes the gradient under it, from g.
    uint32_t slope;
    /// 1: rows (depthwise) or volumes (branches) start at multiples of four elements.
    uint32_t vector;
    /// Bit i: add to the gradient of input i (x, w, bias, gamma, beta: 0, 1-3, 4-6, 7-9, 10-12).
    uint32_t accumulate;
    /// Samples, and extent along each axis, of a tile.
    uint32_t tile[4];
    /// Tiles of samples, and along each axis.
    uint32_t tiles[4];
    /// Tiles or pieces of a block of a summing pass.
    uint32_t tiles_per_block;
    /// Blocks of a summing pass, a channel.
    uint32_t blocks;
    /// First channel of a launch.
    uint32_t first_channel;
    /// Channels of a launch.
    uint32_t channels;
    /// 1: weights are rounded to bf16, as in all passes of [`Variant::TensorCores`].
    uint32_t round_weights;
};
