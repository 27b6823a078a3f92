// Parameters of the kernels of bce.cu. build/abi/params.rs says in which subset of C++.
#pragma once

#include <cstdint>

/// Operands of one pass over logits and targets `[rows, classes]`.
struct BceParams {
    /// Logits, `n` elements.
    const void* x;
    /// Targets from 0 to 1, f32, `n` elements.
    const float* t;
    /// Weight of each class's positive targets, f32 `[classes]`, or null: all 1.
    const float* pos_weight;
    /// Backward: the gradient of the loss, one f32.
    const float* upstream;
    /// Forward: workspace of [`BceParams::partial_bytes`], aligned to 8 bytes.
    double* partial;
    /// Forward: the loss, one f32.
    float* loss;
    /// Backward: gradient of the logits, or null.
    void* dx;
    /// Backward: gradient of the targets, f32, or null.
    float* dt;
    /// Rows times classes.
    uint64_t n;
    /// Classes of a row.
    uint32_t classes;
    /// Blocks of the forward pass, one partial each.
    uint32_t blocks;
    /// 1: the arrays of `n` elements start at multiples of 16 bytes.
    uint32_t vector;
    /// Bits 0, 1: add to dx, dt.
    uint32_t accumulate;
};
