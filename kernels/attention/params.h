// Parameters of the kernels of attention.cu. build/abi/params.rs says in which subset of C++.
#pragma once

#include <cstdint>

/// Operands of every phase; those a phase does not use are null. Element (n, h, t, c) of q, k, v and their gradients
/// lies at the strides `input` of sample, head and token, plus c; of o and its gradient at `output`.
struct AttentionParams {
    /// Queries, `[N, H, T, d]` by strides; f32 or bf16, like every tensor but lse and delta.
    const void* q;
    /// Keys, as q.
    const void* k;
    /// Values, as q.
    const void* v;
    /// Written by the forward pass, read by the backward pass.
    void* o;
    /// Gradient of o, as o.
    const void* g;
    /// Gradient of q, as q, or null.
    void* dq;
    /// Gradient of k, as k, or null.
    void* dk;
    /// Gradient of v, as v, or null.
    void* dv;
    /// `[N, H, T]` f32: the logarithm of the sum of exponentials of each row.
    float* lse;
    /// `[N, H, T]` f32: workspace of the backward pass.
    float* delta;
    /// Elements between samples, heads and tokens of q, k, v.
    uint64_t input[3];
    /// Elements between samples, heads and tokens of o.
    uint64_t output[3];
    /// Samples, N.
    uint64_t batch;
    /// Heads of a sample, H.
    uint32_t heads;
    /// Tokens of a sample, T.
    uint32_t tokens;
    /// Elements of a head's vector, d.
    uint32_t head_dim;
    /// What inner products are multiplied by.
    float scale;
    /// 1: every row starts at a multiple of four elements. Filled in by the launch.
    uint32_t vector;
    /// Bits 0, 1, 2: add to dq, dk, dv.
    uint32_t accumulate;
};
