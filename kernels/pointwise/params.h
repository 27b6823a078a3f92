// Parameters of the kernels of pointwise.cu. build/abi/params.rs says in which subset of C++.
#pragma once

#include <cstdint>

/// Operands of an element-wise kernel.
struct PointwiseParams {
    /// First operand, `n` elements.
    const void* a;
    /// Second operand, `n` elements, or null.
    const void* b;
    /// Result, `n` elements; may be one of the operands.
    void* out;
    /// Elements of the result.
    uint64_t n;
    /// Factor of the kernel that scales.
    float factor;
    /// 1: `out += result`.
    uint32_t accumulate;
};
