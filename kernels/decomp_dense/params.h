// Parameters of the kernels of decomp_dense.cu. build/abi/params.rs says in which subset of C++.
#pragma once

#include <cstdint>

/// Operands of every phase of a dense decomposed convolution; those a phase does not use are null. V: voxels of a
/// chunk.
struct DecompDenseParams {
    /// Input, `[N, I, D1, D2, D3]`.
    const void* x;
    /// Gradient of y, `[N, O, E1, E2, E3]`.
    const void* g;
    /// Output, as g.
    void* y;
    /// Gradient of x, as x.
    void* dx;
    /// `[(3k-1) I, V]`, or their gradients `[3, k I, V]`; as x.
    void* columns;
    /// Gradients of the columns of the chunk before.
    const void* before;
    /// `[3, O, V]` f32 branches, or `[O, V]`, their scaled sum.
    float* z;
    /// Gradients of the branches of a chunk, `[3, O, V]` as x.
    void* dz;
    /// Filters of the branches, `[O, I, k]` f32.
    const float* w[3];
    /// `[3, O, k I]` as x: the weights in the columns' order.
    void* matrices;
    /// `[O, (3k-2) I]` as x: the scaled weights of the cross.
    void* folded;
    /// `[3, O, k I]` f32: dw in the columns' order.
    const float* products;
    /// Gradients of w, as w, or null.
    float* dw[3];
    /// Mean of each branch, `[3, O]` f32.
    const float* mean;
    /// Scale of each branch, `[3, O]` f32.
    const float* scale;
    /// What is added to the sum of scaled branches, `[O]` f32.
    const float* shift;
    /// alpha, beta and delta of each branch's gradient, `[O, 3, 3]` f32.
    const float* coefficients;
    /// f64 sums of blocks.
    double* partial;
    /// f64 sums of the first layer's windows.
    double* window_sums;
    /// Samples, N.
    uint64_t batch;
    /// Plane of y, n E1 + e1, that the chunk begins with.
    uint64_t first;
    /// First plane of y whose part of dx is written.
    uint64_t gather;
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
    /// Planes of the chunk.
    uint32_t planes;
    /// Planes of the chunk before.
    uint32_t planes_before;
    /// Planes of y whose part of dx is written.
    uint32_t gathers;
    /// Taps of the columns: 3k - 1, or 3k - 2 without the second centre.
    uint32_t taps;
    /// Voxels of a plane that a thread copies.
    uint32_t span;
    /// Block of `partial` that the chunk begins with.
    uint32_t block;
    /// 1: z is there; 0: z - mean counts as 0.
    uint32_t branches;
    /// 1: a GELU follows the sum.
    uint32_t gelu;
    /// 1: planes are multiples of four voxels.
    uint32_t vector;
    /// Bit i: add to the gradient of input i (x, w: 0, 1-3).
    uint32_t accumulate;
    /// Tiles of a direct pass along each axis.
    uint32_t tiles[3];
    /// Blocks of a summing direct pass.
    uint32_t blocks;
    /// 1: I is a multiple of eight.
    uint32_t aligned;
};
