// Parameters of the kernels of optim.cu. build/abi/params.rs says in which subset of C++.
#pragma once

#include <cstdint>

struct bf16;

/// A range of parameters that share weight decay and learning-rate scale.
struct AdamWRange {
    /// One past the last parameter; ranges cover the arena in order.
    uint64_t end;
    /// Decoupled weight decay.
    float weight_decay;
    /// Factor of the learning rate.
    float lr_scale;
    /// Written by the device: 1 - lr weight_decay of the last step.
    float decay;
    /// Written by the device: lr / (1 - beta1^t) of the last step.
    float step_size;
};

/// What a step reads and reports, in device memory.
struct AdamWState {
    /// Learning rate; written by the host.
    double lr;
    /// Largest gradient norm, 0 for no clipping; written by the host.
    double max_norm;
    /// Updates done.
    uint64_t step;
    /// Steps without an update, because the norm was not finite.
    uint64_t skipped;
    /// Norm of the last step's gradients, before clipping.
    double grad_norm;
    /// 1: the last step updated the parameters.
    uint64_t finite;
    /// What the last step's gradients were multiplied by.
    float clip;
    /// 1 / sqrt(1 - beta2^t) of the last step.
    float inverse_sqrt_bias2;
};

/// Operands of a step.
struct AdamWParams {
    /// `[n]` f32, aligned to 16 bytes, like the following.
    const float* gradient;
    /// `[n]` f32.
    float* parameter;
    /// `[n]` f32: first moment.
    float* exp_avg;
    /// `[n]` f32: second moment.
    float* exp_avg_sq;
    /// `[n]` bf16 that receives the rounded parameters, or null.
    bf16* copy;
    /// [`AdamWRange`] by [`AdamWParams::range_count`]; the last ends at n.
    AdamWRange* ranges;
    /// u32 per update tile: the range its first parameter lies in.
    const uint32_t* first_range;
    /// One [`AdamWState`].
    AdamWState* state;
    /// f64 workspace, one per block of the norm pass.
    double* partial;
    /// Parameters of the arena.
    uint64_t n;
    /// Decay of the first moment.
    double beta1;
    /// Decay of the second moment.
    double beta2;
    /// What is added to the root of the second moment.
    float eps;
    /// Ranges of the arena.
    uint32_t range_count;
    /// Blocks of the norm pass.
    uint32_t norm_blocks;
    /// Vectors a thread of the norm pass reads.
    uint32_t norm_visits;
    /// 1: a thread's vectors are neighbours.
    uint32_t blocked;
};
