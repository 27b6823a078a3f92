// Parameters of the kernels of pool.cu. build/abi/params.rs says in which subset of C++.
#pragma once

#include <cstdint>

#include "common/walk.h"

/// Operands of max pooling over `[images, input, channels]`; those a direction does not use are null.
struct MaxPoolParams {
    /// Input, `[images, input, channels]`.
    const void* x;
    /// Output, `[images, output, channels]`.
    void* y;
    /// Offset of the maximum in its window, in scan order, one byte each, as y.
    uint8_t* choice;
    /// Gradient of y, as y.
    const void* dy;
    /// Gradient of x, as x.
    void* dx;
    /// Images of the batch.
    uint64_t images;
    /// Channels of an image.
    uint32_t channels;
    /// Sizes of the input.
    uint32_t input[3];
    /// Sizes of the output.
    uint32_t output[3];
    /// Sizes of a window; their product is at most 256.
    uint32_t kernel[3];
    /// Steps between windows.
    uint32_t stride[3];
    /// Elements around the input that count as minus infinity; at most half a window.
    uint32_t padding[3];
    /// 1: 16-byte vectors of channels. Filled in by the launch.
    uint32_t vector;
    /// 1: add to dx.
    uint32_t accumulate;
};

/// Operands of average pooling over `[images, size]`, window 3 x 3 x 3, stride 1.
struct AvgPoolParams {
    /// Input, `[images, size]`; dy for the gradient.
    const void* x;
    /// Output, as x; dx for the gradient.
    void* y;
    /// Images of the batch.
    uint64_t images;
    /// Sizes of an image.
    uint32_t size[3];
    /// 1: subtract x.
    uint32_t minus_input;
    /// 1: the gradient is computed.
    uint32_t transposed;
    /// 1: rows start at multiples of four elements. Filled in by the launch.
    uint32_t vector;
    /// 1: add to y.
    uint32_t accumulate;
};

/// Operands of the mean over the middle axis of `[images, positions, channels]`.
struct MeanPoolParams {
    /// Input, `[images, positions, channels]`.
    const void* x;
    /// Output, `[images, channels]`.
    void* y;
    /// Gradient of y, as y.
    const void* dy;
    /// Gradient of x, as x.
    void* dx;
    /// Images of the batch.
    uint64_t images;
    /// Positions of an image.
    uint64_t positions;
    /// Channels of a position.
    uint64_t channels;
    /// Which positions a thread visits. Filled in by the launch.
    Walk walk;
    /// 1: add to dx.
    uint32_t accumulate;
};
