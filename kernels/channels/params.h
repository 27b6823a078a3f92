// Parameters of the kernels of channels.cu. build/abi/params.rs says in which subset of C++.
#pragma once

#include <cstdint>

/// Operands of every phase; those a phase does not use are null.
struct ChannelsParams {
    /// `[N, C, V]`.
    const void* x;
    /// As x: what the scale is added to.
    const void* r;
    /// As x: upstream gradient.
    const void* g;
    /// As x.
    void* y;
    /// As x, or null.
    void* dx;
    /// `[C]` f32.
    const float* bias;
    /// `[C]` f32; null for GELU.
    const float* gamma;
    /// `[C]` f32, or null.
    float* dbias;
    /// `[C]` f32, or null.
    float* dgamma;
    /// f64 `[blocks, C, 2]`.
    double* partial;
    /// N.
    uint64_t samples;
    /// V.
    uint64_t voxels;
    /// C.
    uint32_t channels;
    /// A channel.
    uint32_t blocks;
    /// 1: volumes start at multiples of four elements.
    uint32_t vector;
    /// Bits: add to dx, dbias, dgamma.
    uint32_t accumulate;
};

/// Operands of the transpose.
struct TransposeParams {
    /// `[B, R, C]`.
    const void* x;
    /// `[B, C, R]`.
    void* y;
    /// B.
    uint64_t batch;
    /// R.
    uint64_t rows;
    /// C.
    uint64_t columns;
    /// 1: `y +=`.
    uint32_t accumulate;
};
