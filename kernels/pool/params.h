// Parameters of the kernels of pool.cu. build/abi/params.rs says in which subset of C++.
#pragma once

#include <cstdint>

#include "common/walk.h"

/// Operands of max pooling over `[images, input, channels]`; those a direction does not use are null.
struct MaxPoolParams {
    /// `[images, input, channels]`.
    const void* x;
    /// `[images, output, channels]`.
    void* y;
    /// As y, one byte each: the offset of the maximum in its window, in scan order.
    uint8_t* choice;
    /// As y.
    const void* dy;
    /// As x.
    void* dx;
    /// Images.
    uint64_t images;
    /// Channels.
    uint32_t channels;
    /// Input sizes.
    uint32_t input[3];
    /// Output sizes.
    uint32_t output[3];
    /// Window sizes; their product is at most 256.
    uint32_t kernel[3];
    /// Steps between windows.
    uint32_t stride[3];
    /// Minus infinity around the input; at most half a window.
    uint32_t padding[3];
    /// 1: 16-byte vectors of channels. Filled in by the launch.
    uint32_t vector;
    /// 1: add to dx.
    uint32_t accumulate;
};

/// Operands of average pooling over `[images, size]`, window 3 x 3 x 3, stride 1.
struct AvgPoolParams {
    /// `[images, size]`; dy for the gradient.
    const void* x;
    /// As x; dx for the gradient.
    void* y;
    /// Images.
    uint64_t images;
    /// Sizes.
    uint32_t size[3];
    /// 1: subtract x.
    uint32_t minus_input;
    /// 1: the gradient.
    uint32_t transposed;
    /// 1: rows start at multiples of four elements. Filled in by the launch.
    uint32_t vector;
    /// 1: add to y.
    uint32_t accumulate;
};

/// Operands of the mean over the middle axis of `[images, positions, channels]`.
struct MeanPoolParams {
    /// `[images, positions, channels]`.
    const void* x;
    /// `[images, channels]`.
    void* y;
    /// As y.
    const void* dy;
    /// As x.
    void* dx;
    /// Images.
    uint64_t images;
    /// Positions.
    uint64_t positions;
    /// Channels.
    uint64_t channels;
    /// Which positions a thread visits. Filled in by the launch.
    Walk walk;
    /// 1: add to dx.
    uint32_t accumulate;
};
