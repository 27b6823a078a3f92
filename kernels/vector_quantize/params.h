// Parameters of the kernels of vector_quantize.cu. build/abi/params.rs says in which subset of C++.
#pragma once

#include <cstdint>

/// Operands of every kernel; those that one does not use are null.
struct VectorQuantizeParams {
    /// f32 `[n, d]`: tokens of length 1.
    const float* tokens;
    /// f32 `[m, d]`: the codes.
    float* embed;
    /// f32 `[m, d]`: the codes scaled to length 1.
    const float* unit;
    /// Running number of each code's tokens, f32 `[m]`.
    float* cluster_size;
    /// u32 `[n]`: the code of each token; `u32::MAX` for none.
    const uint32_t* indices;
    /// Workspace for each code's first place in `members`, u32 `[m]`.
    uint32_t* first;
    /// Workspace for each code's tokens, u32 `[m]`.
    uint32_t* count;
    /// Workspace for tokens by code, u32 `[n]`.
    uint32_t* members;
    /// `[n, d]`: the codes of the tokens.
    void* y;
    /// Tokens.
    uint64_t n;
    /// Codes.
    uint64_t m;
    /// Elements of a token.
    uint64_t d;
    /// Weight of the old codebook.
    float decay;
    /// Weight of the tokens.
    float weight;
};
