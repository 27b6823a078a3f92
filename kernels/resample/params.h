// Parameters of the kernels of resample.cu. build/abi/params.rs says in which subset of C++.
#pragma once

#include <cstdint>

/// Operands of a resampling. Triples are x, y, z.
struct ResampleParams {
    /// Voxels of B volumes.
    const void* volume;
    /// B resampled volumes; the backward kernel reads them.
    void* out;
    /// Backward: the gradient of `out`.
    const void* upstream;
    /// Backward: gradient of the volume, laid out as `volume`.
    void* gradient;
    /// Place of voxel (0, 0, 0), elements.
    int64_t first;
    /// Elements from one voxel to the next.
    int64_t stride[3];
    /// Elements from one volume to the next.
    int64_t volume_stride;
    /// Elements from one output to the next.
    int64_t out_stride[3];
    /// Elements from one output volume to the next.
    int64_t out_volume_stride;
    /// Volumes, B.
    uint32_t batch;
    /// Voxels of the volume.
    uint32_t from[3];
    /// Voxels of the resized volume.
    uint32_t to[3];
    /// Voxels of the output, after crop or pad.
    uint32_t size[3];
    /// Resized index = output index + offset.
    int32_t offset[3];
    /// Slope of a voxel's value: v = slope interpolated + intercept.
    float slope;
    /// Intercept of a voxel's value, see `slope`.
    float intercept;
    /// Least stored value; others are clipped to it before interpolation.
    float stored_low;
    /// Largest stored value; others are clipped to it before interpolation.
    float stored_high;
    /// Least value v: out = scale clip(v, low, high) + shift.
    float low;
    /// Largest value v, see `low`.
    float high;
    /// Factor of the output, see `low`.
    float scale;
    /// What is added to the output, see `low`.
    float shift;
    /// Value outside the resized volume.
    float pad;
    /// 1: `gradient += result`.
    uint32_t accumulate;
};
