// Parameters of the kernels of norm.cu. build/abi/params.rs says in which subset of C++.
#pragma once

#include <cstdint>

#include "common/walk.h"

/// Operands of every phase of a batch normalisation; those a phase does not use are null.
struct BatchNormParams {
    /// `[rows, channels]`.
    const void* x;
    /// As x, or null.
    const void* residual;
    /// As x.
    void* y;
    /// `[channels]` f32.
    const float* weight;
    /// `[channels]` f32.
    const float* bias;
    /// `[channels]` f32; updated in training, read in evaluation.
    float* running_mean;
    /// `[channels]` f32; likewise.
    float* running_var;
    /// `[channels]` f32: what this pass normalised with.
    float* mean;
    /// `[channels]` f32: 1 / sqrt(variance + eps).
    float* rstd;
    /// As x.
    const void* dy;
    /// As x, or null: where the reduction leaves the masked gradient.
    void* dz;
    /// As x, or null.
    void* dx;
    /// As x, or null.
    void* dresidual;
    /// `[channels]` f32, or null.
    float* dweight;
    /// `[channels]` f32, or null.
    float* dbias;
    /// `[2, channels]` f32.
    float* coefficients;
    /// f64 workspace, as large as `workspace_bytes` says.
    double* partial;
    /// Rows of x.
    uint64_t rows;
    /// Columns of x.
    uint64_t channels;
    /// Added to the variance.
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
    /// `[rows, channels]`.
    const void* x;
    /// As x.
    void* y;
    /// `[channels]` f32; layer norm only.
    const float* weight;
    /// `[channels]` f32; layer norm only.
    const float* bias;
    /// `[rows]` f32; layer norm only.
    float* mean;
    /// `[rows]` f32: rstd, or 1 / max(norm, eps).
    float* scale;
    /// As x.
    const void* dy;
    /// As x, or null.
    void* dx;
    /// `[channels]` f32, or null.
    float* dweight;
    /// `[channels]` f32, or null.
    float* dbias;
    /// f64 workspace of [`RowNormParams::workspace_bytes`].
    double* partial;
    /// Rows of x.
    uint64_t rows;
    /// Columns of x; fewer than 2^31.
    uint64_t channels;
    /// Added to the variance, or the least norm.
    double eps;
    /// Of the column sums; filled in by the launch.
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
