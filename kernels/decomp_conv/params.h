// Parameters of the kernels of decomp_conv.cu. build/abi/params.rs says in which subset of C++.
#pragma once

#include <cstdint>

/// Operands of every phase of a decomposed convolution; those a phase does not use are null.
struct DecompConvParams {
    /// `[N, I, D1, D2, D3]`.
    const void* x;
    /// `[N, O, E1, E2, E3]`: gradient of y, or of what is under the activation.
    const void* g;
    /// As g: the output of a writing pass.
    void* y;
    /// As x.
    void* dx;
    /// `[3, N, O, E]` f32: stored branches.
    float* z;
    /// `[3, N, O, E]` f32.
    float* dz;
    /// `[O, I or 1, k]` f32.
    const float* w[3];
    /// `[O]` f32, or null.
    const float* bias[3];
    /// `[O]` f32; null without norm, like the following three.
    const float* gamma[3];
    /// `[O]` f32.
    const float* beta[3];
    /// `[O]` f32.
    float* running_mean[3];
    /// `[O]` f32.
    float* running_var[3];
    /// `[3, O]` f32: mean of each branch without its bias.
    float* mean;
    /// `[3, O]` f32.
    float* rstd;
    /// `[3, O]` f32: gamma rstd.
    float* scale;
    /// `[O]` f32: what is added to the sum of scaled branches.
    float* shift;
    /// `[O, 3, 3]` f32.
    float* coefficients;
    /// f64 workspace of [`DecompConvParams::partial_bytes`].
    double* partial;
    /// As w, or null.
    float* dw[3];
    /// `[O]` f32, or null, like the following.
    float* dbias[3];
    /// Likewise.
    float* dgamma[3];
    /// Likewise.
    float* dbeta[3];
    /// Added to the variances.
    double eps;
    /// Weight of this batch in the running statistics.
    double momentum;
    /// N.
    uint64_t batch;
    /// I.
    uint32_t in_channels;
    /// O.
    uint32_t out_channels;
    /// D.
    uint32_t in_size[3];
    /// E.
    uint32_t out_size[3];
    /// k.
    uint32_t kernel;
    /// s.
    uint32_t stride;
    /// 1: every output channel sees every input channel.
    uint32_t dense;
    /// [`NormKind`].
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
    /// Number of tiles.
    uint32_t tiles[4];
    /// Tiles or pieces of a block of a summing pass.
    uint32_t tiles_per_block;
    /// Blocks of a summing pass, a channel.
    uint32_t blocks;
    /// First channel of a launch.
    uint32_t first_channel;
    /// Channels of a launch.
    uint32_t channels;
    /// 1: to bf16, as in all passes of [`Variant::TensorCores`].
    uint32_t round_weights;
};
