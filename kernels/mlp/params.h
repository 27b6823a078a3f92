// Parameters of the kernels of mlp.cu. build/abi/params.rs says in which subset of C++.
#pragma once

#include <cstdint>

/// Operands of every kernel; those that one does not use are null.
struct MlpParams {
    /// Upstream gradient of one sample, `[C, V]`.
    const void* g;
    /// Weight of the second layer, `[C, H]`, of g's type.
    const void* w2;
    /// Rows of w2 times gamma, as w2.
    void* m;
    /// `[C]` f32: gamma times the factor.
    const float* gamma;
    /// Bias of the second layer, `[C]` f32.
    const float* b2;
    /// `[C, H]` f32: g times the activated hidden layer transposed.
    const float* product;
    /// Gradient of w2, `[C, H]` f32, or null.
    float* dw2;
    /// Gradient of b2, `[C]` f32, or null.
    float* db2;
    /// Gradient of gamma, `[C]` f32, or null.
    float* dgamma;
    /// Sums of parts of the voxels, f64 `[parts, C]`.
    double* partial;
    /// The hidden layer of one sample before its bias, `[H, V]`, of g's type.
    const void* h;
    /// The hidden layer activated, as h; may be h; or null.
    void* activated;
    /// As h: the gradient of the activated layer, which becomes that of the layer before bias; or null.
    void* d;
    /// Bias of the first layer, `[H]` f32.
    const float* b1;
    /// Gradient of b1, `[H]` f32, or null.
    float* db1;
    /// Sums of parts for db1, f64 `[parts, H]`.
    double* bias_partial;
    /// Voxels of a sample, V.
    uint64_t voxels;
    /// Channels of the hidden layer, H.
    uint64_t hidden;
    /// Channels of the result, C.
    uint64_t channels;
    /// The first part that SUMS and ACTIVATE write.
    uint64_t part;
    /// Parts of all samples.
    uint64_t parts;
    /// What gamma was multiplied by.
    float factor;
    /// Bits 0 to 3: add to dw2, db2, dgamma, db1.
    uint32_t accumulate;
};
