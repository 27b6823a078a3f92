// The mean projection: image f32 [B, rows, columns] = sum over one axis of w[k] * clip(slope * stored + intercept, low, high).
//
// Its gradient is a gather: every voxel lies on one line of the sum.
#pragma once

#include "common/common.h"
#include "params.h"

constexpr uint32_t kMeanWidth = 8;  // columns of a thread
struct DrrMeanConfig : KernelDefaults {
    static constexpr uint32_t threads = 128;
    static constexpr uint32_t tile0 = kMeanWidth;
    static constexpr uint32_t tile1 = threads * 8;  // voxels of a block of the adjoint
};

X2CT_DEVICE float clipped(float value, float low, float high) {
    return value < low ? low : value > high ? high : value;  // NaN stays NaN
}

template <class T>
X2CT_DEVICE void mean_forward(const DrrMeanParams& p) {
    const uint32_t across = (p.columns + kMeanWidth - 1) / kMeanWidth;
    const uint64_t item = uint64_t(blockIdx.x) * DrrMeanConfig::threads + threadIdx.x;
    const uint64_t line = item / across;
    if (line >= uint64_t(p.batch) * p.rows) return;
    const uint32_t c = uint32_t(item % across) * kMeanWidth, width = min(kMeanWidth, p.columns - c);
    const uint32_t volume = uint32_t(line / p.rows), r = uint32_t(line % p.rows);
    const T* voxels = static_cast<const T*>(p.volume) + volume * p.voxels + r * p.row + c * p.column;
    // f64: sums of hundreds of voxels are asked for to 1e-3 HU, and the pass waits for memory anyway.
    double sum[kMeanWidth] = {};
    if (width == kMeanWidth && p.column == 1) {
        for (uint32_t k = 0; k < p.terms; ++k) {
            const float w = p.weights[k];
            const T* from = voxels + k * p.term;
            X2CT_UNROLL
            for (uint32_t j = 0; j < kMeanWidth; ++j)
                sum[j] += double(w * clipped(p.slope * to_float(from[j]) + p.intercept, p.low, p.high));
        }
    } else {
        for (uint32_t k = 0; k < p.terms; ++k) {
            const float w = p.weights[k];
            const T* from = voxels + k * p.term;
            X2CT_UNROLL
            for (uint32_t j = 0; j < kMeanWidth; ++j)
                if (j < width) sum[j] += double(w * clipped(p.slope * to_float(from[j * p.column]) + p.intercept, p.low, p.high));
        }
    }
    float* image = p.image + line * p.columns + c;
    X2CT_UNROLL
    for (uint32_t j = 0; j < kMeanWidth; ++j)
        if (j < width) image[j] = float(sum[j]);
}

// Every voxel lies on one line of the sum: its gradient is one product.
template <class T>
X2CT_DEVICE void mean_backward(const DrrMeanParams& p) {
    const uint64_t total = p.voxels * p.batch;
    for (uint32_t k = 0; k < DrrMeanConfig::tile1 / DrrMeanConfig::threads; ++k) {
        uint64_t item = uint64_t(blockIdx.x) * DrrMeanConfig::tile1 + k * DrrMeanConfig::threads + threadIdx.x;
        if (item >= total) return;
        const uint32_t c = uint32_t(item % p.columns);
        item /= p.columns;
        const uint32_t r = uint32_t(item % p.rows);
        item /= p.rows;
        const uint32_t term = uint32_t(item % p.terms), volume = uint32_t(item / p.terms);
        const uint64_t voxel = volume * p.voxels + r * p.row + c * p.column + term * p.term;
        const float value = p.slope * to_float(static_cast<const T*>(p.volume)[voxel]) + p.intercept;
        const float slope = value < p.low || value > p.high ? 0.0f : p.slope;
        const float upstream = p.image[(uint64_t(volume) * p.rows + r) * p.columns + c];
        write_gradient(static_cast<T*>(p.gradient) + voxel, slope * p.weights[term] * upstream, p.accumulate);
    }
}
