// Parameters of the kernels of conv2d.cu. build/abi/params.rs says in which subset of C++.
#pragma once

#include <cstdint>

/// Operands of a convolution kernel; see the launches for what each pointer is.
struct Conv2dParams {
    /// What is convolved: x, dy or the columns.
    const void* input;
    /// The weight, or dy for its gradient.
    const void* weight;
    /// What is added to every pixel, or null.
    const void* bias;
    /// The result: y, dx, dw or the columns.
    void* out;
    /// Images of the batch.
    uint64_t images;
    /// Rows of x.
    uint32_t height;
    /// Columns of x.
    uint32_t width;
    /// Channels of x.
    uint32_t channels;
    /// Rows of y.
    uint32_t out_height;
    /// Columns of y.
    uint32_t out_width;
    /// Channels of y.
    uint32_t out_channels;
    /// Rows of the filter.
    uint32_t kernel_height;
    /// Columns of the filter.
    uint32_t kernel_width;
    /// Pixels between two windows, along both axes.
    uint32_t stride;
    /// Zeros on each side.
    uint32_t padding;
    /// 1: out += result.
    uint32_t accumulate;
    /// 1: the channels of `input` come in multiples of 16 bytes.
    uint32_t aligned_input;
    /// The same of `weight`, along its contiguous axis or axes.
    uint32_t aligned_weight;
    /// Columns: pixels of y, or channel groups of x, that a thread takes.
    uint32_t items;
    /// Weight gradient: pixels of y in one part of its sums.
    uint64_t split_depth;
    /// Weight gradient: [splits, O, KH, KW, C], or null when there is one part.
    float* partials;
};
