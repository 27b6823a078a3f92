// Parameters of the kernels of dropout.cu. build/abi/params.rs says in which subset of C++.
#pragma once

#include <cstdint>

/// Operands of a dropout, and what draws its mask.
struct DropoutParams {
    /// Input, `n` elements.
    const void* x;
    /// Result, `n` elements; may be `x`.
    void* y;
    /// Elements of x.
    uint64_t n;
    /// Key of the generator.
    uint64_t seed;
    /// First half of the generator's counter: masks of different offsets are independent.
    uint64_t offset;
    /// Random words below it drop their element: p 2^32.
    uint32_t threshold;
    /// What is kept is multiplied by it: 1 / (1 - p).
    float scale;
    /// 1: `x` and `y` start at multiples of 16 bytes.
    uint32_t vector;
    /// 1: `y += result`.
    uint32_t accumulate;
};
