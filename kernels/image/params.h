// Parameters of the kernels of image.cu. build/abi/params.rs says in which subset of C++.
#pragma once

#include <cstdint>

/// A batch of network input.
struct ImageParams {
    /// Radiographs, each h0 x w0: u8 from 0 to 255 or bf16 from 0 to 1.
    const void* source;
    /// Radiograph of each row of the batch, u32.
    const uint32_t* index;
    /// f32 \[n, 8\]: map from output to source pixel, gain, offset.
    const float* warp;
    /// Network input, \[n, h, w, 3\].
    void* out;
    /// Rows of the batch.
    uint32_t n;
    /// Rows of a radiograph.
    uint32_t h0;
    /// Columns of a radiograph.
    uint32_t w0;
    /// Rows of the output.
    uint32_t h;
    /// Columns of the output.
    uint32_t w;
    /// Mean of each channel.
    float mean[3];
    /// Reciprocal of each channel's standard deviation.
    float inv_std[3];
};
