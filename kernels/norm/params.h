// Parameters of the kernels of norm.cu. build/abi/params.rs says in which subset of C++.
#pragma once

#include <cstdint>

#include "common/walk.h"

/// Operands of every phase of a batch normalisation; those a phase does not use are null.
struct BatchNormParams {
    /// Input, `[rows, channels]`.
    const void* x;
    /// What is added before the ReLU, as x, or null.
    const void* residual;
    /// Output, as x.
    void* y;
    /// Scale of each channel, `[channels]` f32.
    const float* weight;
    /// Shift of each channel, `[channels]` f32.
    const float* bias;
    /// Running means, `[channels]` f32; updated in training, read in evaluation.
    float* running_mean;
    /// Running variances, `[channels]` f32; updated in training, read in evaluation.
    float* running_var;
    /// `[channels]` f32: what this pass normalised with.
    float* mean;
    /// `[channels]` f32: 1 / sqrt(variance + eps).
    float* rstd;
    /// Gradient of y, as x.
    const void* dy;
    /// As x, or null: where the reduction leaves the masked gradient.
    void* dz;
    /// Gradient of x, as x, or null.
    void* dx;
    /// Gradient of the residual, as x, or null.
    void* dresidual;
    /// Gradient of the weight, `[channels]` f32, or null.
    float* dweight;
    /// Gradient of the bias, `[channels]` f32, or null.
    float* dbias;
    /// c0 and c1 of dx = weight rstd (dz - c0 - (x - mean) c1), `[2, channels]` f32.
    float* coefficients;
    /// f64 workspace, as large as `workspace_bytes` says.
    double* partial;
    /// Rows of x.
    uint64_t rows;
    /// Columns of x.
    uint64_t channels;
    /// What is added to the variance.
    double eps;
    /// Weight of this batch in the running statistics.
    double momentum;
    /// Which rows a thread visits.
    Walk walk;
    /// Row ranges of the reduction.
    uint32_t blocks;
    /// 1: statistics of the batch; 0: the running ones.
    uint32_t training;
    /// 1: y is clipped below at 0.
    uint32_t relu;
    /// Where the mask of the gradient comes from: [`Mask`].
    uint32_t mask;
    /// 1: add to dx.
    uint32_t accumulate_dx;
    /// 1: add to dresidual.
    uint32_t accumulate_dresidual;
    /// 1: add to dweight.
    uint32_t accumulate_dweight;
    /// 1: add to dbias.
    uint32_t accumulate_dbias;
};

/// Operands of a layer norm or an L2 normalisation; those a phase does not use are null.
struct RowNormParams {
    /// Input, `[rows, channels]`.
    const void* x;
    /// Output, as x.
    void* y;
    /// Layer norm: scale of each channel, `[channels]` f32.
    const float* weight;
    /// Layer norm: shift of each channel, `[channels]` f32.
    const float* bias;
    /// Layer norm: mean of each row, `[rows]` f32.
    float* mean;
    /// rstd, or 1 / max(norm, eps), of each row, `[rows]` f32.
    float* scale;
    /// Gradient of y, as x.
    const void* dy;
    /// Gradient of x, as x, or null.
    void* dx;
    /// Gradient of the weight, `[channels]` f32, or null.
    float* dweight;
    /// Gradient of the bias, `[channels]` f32, or null.
    float* dbias;
    /// f64 workspace of [`RowNormParams::workspace_bytes`].
    double* partial;
    /// Rows of x.
    uint64_t rows;
    /// Columns of x; fewer than 2^31.
    uint64_t channels;
    /// What is added to the variance, or the least norm.
    double eps;
    /// Which rows a thread of the column sums visits; filled in by the launch.
    Walk walk;
    /// Row ranges of the column sums; filled in by the launch.
    uint32_t blocks;
    /// Threads of a row; filled in by the launch.
    uint32_t lanes;
    /// 1: 16-byte vectors; filled in by the launch.
    uint32_t vector;
    /// 1: add to dx.
    uint32_t accumulate_dx;
    /// 1: add to dweight.
    uint32_t accumulate_dweight;
    /// 1: add to dbias.
    uint32_t accumulate_dbias;
};
