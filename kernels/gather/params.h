// Parameters of the kernels of gather.cu. build/abi/params.rs says in which subset of C++.
#pragma once

#include <cstdint>

/// Operands of a gather.
struct GatherParams {
    /// Rows that are read, `[any, d]` f32.
    const float* x;
    /// u32 `[n]`: the row of `x` that each row of `y` is.
    const uint32_t* places;
    /// Rows that are written, `[n, d]` f32.
    float* y;
    /// Rows of `y`.
    uint64_t n;
    /// Elements of a row.
    uint64_t d;
    /// Threads a row, as a power of two.
    uint32_t lanes;
    /// 1: rows of `x` and `y` start at multiples of 16 bytes.
    uint32_t vector;
};
