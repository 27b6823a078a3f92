// Parameters of the kernels of depthwise_conv3d.cu. build/abi/params.rs says in which subset of C++.
#pragma once

#include <cstdint>

/// Operands of every phase; those a phase does not use are null.
struct DepthwiseConv3dParams {
    /// `[N, C, D1, D2, D3]`: what is convolved, x, or dy for dx.
    const void* x;
    /// As x: dy, for dw.
    const void* g;
    /// As x: what results, y or dx.
    void* y;
    /// Filters, `[C, k, k, k]` f32.
    const float* w;
    /// Bias of each channel, `[C]` f32, or null.
    const float* bias;
    /// Gradient of w, as w, or null.
    float* dw;
    /// Gradient of the bias, as bias, or null.
    float* dbias;
    /// Sums of blocks, f64 `[blocks, C, k, groups, values]`.
    double* partial;
    /// Samples, N.
    uint64_t batch;
    /// Channels, C.
    uint32_t channels;
    /// Sizes of x and y, D.
    uint32_t size[3];
    /// Taps of the filter along each axis, k.
    uint32_t kernel;
    /// 1: the filter is reversed.
    uint32_t reversed;
    /// 1: rows start at multiples of four elements.
    uint32_t vector;
    /// Bits 0, 1, 2: add to y, dw, dbias.
    uint32_t accumulate;
    /// Blocks of the sums, a channel and plane of the filter.
    uint32_t blocks;
    /// Patches that a thread of the sums goes through.
    uint32_t patches_per_thread;
    /// Groups of four rows in a plane of the filter.
    uint32_t groups;
    /// Sums of a block.
    uint32_t values;
};
