// Parameters of the kernels of channels.cu. build/abi/params.rs says in which subset of C++.
#pragma once

#include <cstdint>

/// Operands of every phase; those a phase does not use are null.
struct ChannelsParams {
    /// Input, `[N, C, V]`.
    const void* x;
    /// What the scale is added to, as x.
    const void* r;
    /// Upstream gradient, as x.
    const void* g;
    /// Output, as x.
    void* y;
    /// Gradient of x, as x, or null.
    void* dx;
    /// Bias of each channel, `[C]` f32.
    const float* bias;
    /// Scale of each channel, `[C]` f32; null for GELU.
    const float* gamma;
    /// Gradient of the bias, `[C]` f32, or null.
    float* dbias;
    /// Gradient of the scale, `[C]` f32, or null.
    float* dgamma;
    /// Sums of blocks, f64 `[blocks, C, 2]`.
    double* partial;
    /// Samples, N.
    uint64_t samples;
    /// Voxels of a channel, V.
    uint64_t voxels;
    /// Channels, C.
    uint32_t channels;
    /// Blocks that share a channel's sums.
    uint32_t blocks;
    /// 1: volumes start at multiples of four elements.
    uint32_t vector;
    /// Bits 0, 1, 2: add to dx, dbias, dgamma.
    uint32_t accumulate;
};

/// Operands of the transpose.
struct TransposeParams {
    /// Matrices, `[B, R, C]`.
    const void* x;
    /// Their transposes, `[B, C, R]`.
    void* y;
    /// Matrices, B.
    uint64_t batch;
    /// Rows of x, R.
    uint64_t rows;
    /// Columns of x, C.
    uint64_t columns;
    /// 1: `y += result`.
    uint32_t accumulate;
};
