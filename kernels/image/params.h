// Parameters of the kernels of image.cu. build/abi/params.rs says in which subset of C++.
#pragma once

#include <cstdint>

/// A batch of network input.
struct ImageParams {
    /// Radiographs, each h0 x w0: u8 from 0 to 255 or bf16 from 0 to 1.
    const void* source;
    /// u32 per row of the batch: which radiograph.
    const uint32_t* index;
    /// f32 \[n, 8\]: map from output to source pixel, gain, offset.
    const float* warp;
    /// \[n, h, w, 3\].
    void* out;
    /// Rows of the batch.
    uint32_t n;
    /// Source height.
    uint32_t h0;
    /// Source width.
    uint32_t w0;
    /// Output height.
    uint32_t h;
    /// Output width.
    uint32_t w;
    /// Per channel.
    float mean[3];
    /// Per channel, reciprocal.
    float inv_std[3];
};
