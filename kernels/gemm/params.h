// Parameters of the kernels of gemm.cu. build/abi/params.rs says in which subset of C++.
#pragma once

#include <cstdint>

/// Operands of a matrix product; see [`GemmCall`] for their meaning.
struct GemmParams {
    /// First operand, op(A).
    const void* a;
    /// Second operand, op(B).
    const void* b;
    /// What is added to every row, or null.
    const void* bias;
    /// The product, C.
    void* c;
    /// Rows of C.
    uint64_t m;
    /// Columns of C.
    uint64_t n;
    /// Terms of each sum.
    uint64_t k;
    /// Factor of the product.
    float alpha;
    /// 1: A is stored [k, m].
    uint32_t transpose_a;
    /// 1: B is stored [n, k].
    uint32_t transpose_b;
    /// 1: C += result.
    uint32_t accumulate;
    /// 1: the rows of A as stored start at multiples of 16 bytes.
    uint32_t aligned_a;
    /// The same of B.
    uint32_t aligned_b;
    /// 1: bf16 operands and an f32 result.
    uint32_t wide;
    /// Terms of one part.
    uint64_t split_depth;
    /// [splits, m, n], or null when there is one part.
    float* partials;
};

/// Parts of a split product.
struct AddPartsParams {
    /// Parts of the product, f32 `[parts, m, n]`.
    const float* partials;
    /// What is added to every row, `[n]` of C's type, or null.
    const void* bias;
    /// The product, `[m, n]`.
    void* c;
    /// Parts that are added up.
    uint64_t parts;
    /// Rows of C.
    uint64_t m;
    /// Columns of C.
    uint64_t n;
    /// Factor of the sum.
    float alpha;
    /// 1: C += result.
    uint32_t accumulate;
};

/// Operands of the two stages of a column sum.
struct ColumnSumParams {
    /// [m, n] for the first stage, [m, n] partial sums for the second.
    const void* input;
    /// `[chunks, n]` f32 for the first stage, `[n]` for the second.
    void* out;
    /// Rows of `input`.
    uint64_t m;
    /// Columns of `input`.
    uint64_t n;
    /// Rows that one thread sums.
    uint64_t rows;
    /// 1: out += result.
    uint32_t accumulate;
};
