// Parameters of the kernels of drr.cu. build/abi/params.rs says in which subset of C++.
#pragma once

#include <cstdint>

/// One view in voxel coordinates, where voxel i covers \[i, i + 1): an element of the array that
/// [`DrrParams::views`] points to.
struct DrrView {
    /// Centre of pixel (0, 0).
    double origin[3];
    /// Step from one row to the next.
    double row[3];
    /// Step from one column to the next.
    double column[3];
    /// Cone: the source. Parallel: the rays' direction.
    double source[3];
    /// Square millimetres of a step d in voxels: the sum of these times (dx², dy², dz², 2 dx dy, 2 dx dz, 2 dy dz).
    double metric[6];
    /// 1: a ray is the segment from the source to its pixel's centre. 0: the whole line through it.
    uint32_t cone;
    /// Always 0: it fills the struct, which therefore has no padding and can be read as bytes.
    uint32_t reserved;
};

/// Operands of line integrals and their gradients.
struct DrrParams {
    /// Voxels, \[B, Z, Y, X\], x fastest.
    const void* volume;
    /// The views, \[V\] [`DrrView`], or \[B, V\] where `view_stride` is V.
    const DrrView* views;
    /// Map of air, u8 \[B, Z / 8, Y / 8, X / 8\], rounded up: 0 where all is air. Null: nothing is skipped.
    uint8_t* bricks;
    /// Pixels, f32 \[B, V, rows, columns\]: written forward, the upstream gradient backward.
    float* image;
    /// Sum p of every pixel, f32 as `image`: written forward unless null; read backward unless the response is p
    /// itself.
    float* integrals;
    /// Adjoint: fixed-point sums, 64-bit integers \[B, Z, Y, X\], zero before.
    uint64_t* sums;
    /// Adjoint: bits of the largest upstream value, one u32, zero before.
    uint32_t* peak;
    /// Adjoint: gradient of the volume, as the volume.
    void* gradient;
    /// Pose: gradient of every ray, f32 \[B, V, rows, columns, 6\].
    float* rays;
    /// Pose: f64 as `views`, 12 each: the gradient of origin, row, column and source.
    double* view_gradient;
    /// Voxels of one volume.
    uint64_t voxels;
    /// Voxels along x, y and z.
    uint32_t n[3];
    /// Volumes, B.
    uint32_t batch;
    /// Views of a volume, V.
    uint32_t count;
    /// Rows of an image, pixels.
    uint32_t rows;
    /// Columns of an image, pixels.
    uint32_t columns;
    /// Views from one volume to the next: 0 or V.
    uint32_t view_stride;
    /// Slope of a voxel's value: value = max(floor, slope stored + intercept).
    float slope;
    /// Intercept of a voxel's value, see `slope`.
    float intercept;
    /// Least value of a voxel, see `slope`; minus infinity for none.
    float floor;
    /// Trilinear: most millimetres between two samples.
    float step;
    /// Adjoint: the most that a voxel's weights sum to.
    float bound;
    /// 1: int16 voxels are read by four where a ray runs along x.
    uint32_t by_four;
    /// What a pixel shows of the sum p of values and weights: 0 p, 1 exp(-p), 2 1 - exp(-p).
    uint32_t response;
    /// Factor of what a pixel shows: image = gain response + shift.
    float gain;
    /// What is added to a pixel, see `gain`.
    float shift;
    /// 1: `gradient += result`.
    uint32_t accumulate;
};

/// Operands of the mean projection and its gradient.
struct DrrMeanParams {
    /// Voxels of B volumes, of any axis order.
    const void* volume;
    /// Weight of each voxel along the sum, f32 \[terms\].
    const float* weights;
    /// Pixels, f32 \[B, rows, columns\].
    float* image;
    /// Backward: gradient of the volume, as the volume.
    void* gradient;
    /// Voxels of one volume.
    uint64_t voxels;
    /// Elements from one image row to the next.
    int64_t row;
    /// Elements from one image column to the next.
    int64_t column;
    /// Elements from one term of the sum to the next.
    int64_t term;
    /// Volumes, B.
    uint32_t batch;
    /// Rows of an image, pixels.
    uint32_t rows;
    /// Columns of an image, pixels.
    uint32_t columns;
    /// Terms of a sum.
    uint32_t terms;
    /// Slope of a voxel's value: what is summed is clip(slope stored + intercept, low, high).
    float slope;
    /// Intercept of a voxel's value, see `slope`.
    float intercept;
    /// Least value of a voxel, see `slope`.
    float low;
    /// Largest value of a voxel, see `slope`.
    float high;
    /// 1: `gradient += result`.
    uint32_t accumulate;
};
