// Parameters of the kernels of mlp.cu. build/abi/params.rs says in which subset of C++.
#pragma once

#include <cstdint>

/// Operands of every kernel; those that one does not use are null.
struct MlpParams {
    /// Upstream gradient of one sample, `[C, V]`.
    const void* g;
    /// `[C, H]`, of g's type.
    const void* w2;
    /// As w2: its rows times gamma.
    void* m;
    /// `[C]` f32: gamma times the factor.
    const float* gamma;
    /// `[C]` f32.
    const float* b2;
    /// `[C, H]` f32: g times the activated hidden layer transposed.
    const float* product;
    /// `[C, H]` f32, or null.
    float* dw2;
    /// `[C]` f32, or null.
    float* db2;
    /// `[C]` f32, or null.
    float* dgamma;
    /// f64 `[parts, C]`.
    double* partial;
    /// The hidden layer of one sample before its bias, `[H, V]`, of g's type.
    const void* h;
    /// As h: activated; may be h; or null.
    void* activated;
    /// As h: the gradient of the activated layer, which becomes that of the layer before bias; or null.
    void* d;
    /// `[H]` f32.
    const float* b1;
    /// `[H]` f32, or null.
    float* db1;
    /// f64 `[parts, H]`.
    double* bias_partial;
    /// V.
    uint64_t voxels;
    /// H.
    uint64_t hidden;
    /// C.
    uint64_t channels;
    /// The first part that SUMS and ACTIVATE write.
    uint64_t part;
    /// Of all samples.
    uint64_t parts;
    /// What gamma was multiplied by.
    float factor;
    /// Bits: add to dw2, db2, dgamma, db1.
    uint32_t accumulate;
};
