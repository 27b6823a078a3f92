// Parameters of the kernels of resample.cu. build/abi/params.rs says in which subset of C++.
#pragma once

#include <cstdint>

/// Operands of a resampling. Triples are x, y, z.
struct ResampleParams {
    /// B volumes.
    const void* volume;
    /// B outputs; the backward kernel reads them.
    void* out;
    /// Backward: the gradient of `out`.
    const void* upstream;
    /// Backward: laid out as `volume`.
    void* gradient;
    /// Element of voxel (0, 0, 0).
    int64_t first;
    /// Elements from one voxel to the next.
    int64_t stride[3];
    /// Elements from one volume to the next.
    int64_t volume_stride;
    /// Elements from one output to the next.
    int64_t out_stride[3];
    /// Elements from one output volume to the next.
    int64_t out_volume_stride;
    /// B.
    uint32_t batch;
    /// Voxels of the volume.
    uint32_t from[3];
    /// Voxels of the resized volume.
    uint32_t to[3];
    /// Voxels of the output, after crop or pad.
    uint32_t size[3];
    /// Resized index = output index + offset.
    int32_t offset[3];
    /// v = slope interpolated + intercept.
    float slope;
    /// See `slope`.
    float intercept;
    /// Stored values are clipped to this before interpolation.
    float stored_low;
    /// See `stored_low`.
    float stored_high;
    /// out = scale clip(v, low, high) + shift.
    float low;
    /// See `low`.
    float high;
    /// See `low`.
    float scale;
    /// See `low`.
    float shift;
    /// Outside the resized volume.
    float pad;
    /// 1: `gradient += result`.
    uint32_t accumulate;
};
