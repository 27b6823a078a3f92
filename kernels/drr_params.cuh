// What the line-integral kernels are launched with.
#pragma once

#include "common/common.h"

// One view, in voxel coordinates. Pixel (r, c) is centred at origin + r row + c column. Cone: the ray is the segment from
// `source` to that centre. Parallel: the whole line through it along `source`.
struct DrrView {
    double origin[3], row[3], column[3], source[3];
    double metric[6];  // millimetres squared of a step d: sum of metric * (dx dx, dy dy, dz dz, 2 dx dy, 2 dx dz, 2 dy dz)
    uint32_t cone;
    uint32_t reserved;  // 0
};
X2CT_FIELDS(DrrView, origin, row, column, source, metric, cone, reserved)

// What a pixel shows of its ray's sum p.
enum DrrResponse : uint32_t { kIntegral = 0, kTransmission = 1, kAbsorption = 2 };  // p, exp(-p), 1 - exp(-p)

struct DrrParams {
    const void* volume;
    const DrrView* views;      // [V], or [B, V] where view_stride is V
    uint8_t* bricks;           // [B, Z / 8, Y / 8, X / 8] rounded up: 0 where all is air; null: nothing is skipped
    float* image;              // forward: written; backward: upstream, read
    float* integrals;          // forward: p of every pixel, written, or null; backward: read unless the response is p itself
    unsigned long long* sums;  // adjoint: [B, Z, Y, X], zero before
    uint32_t* peak;            // adjoint: bits of the largest |upstream|, zero before
    void* gradient;            // adjoint: f32 or bf16 [B, Z, Y, X]
    float* rays;               // pose: [B, V, H, W, 6]: gradient of each ray's start and delta
    double* view_gradient;     // pose: as views, 12 numbers each: gradient of origin, row, column and source
    uint64_t voxels;           // of one volume
    uint32_t n[3];             // X, Y, Z
    uint32_t batch, count, rows, columns;
    uint32_t view_stride;      // views from one volume to the next: 0 or V
    float slope, intercept, floor;
    float step;                // trilinear: millimetres between samples, at most
    float bound;               // adjoint: no voxel's weights sum to more
    uint32_t by_four;          // 1: int16 voxels by four where the ray runs along x
    uint32_t response;         // DrrResponse
    float gain, shift;         // image = gain * response + shift
    uint32_t accumulate;
};
X2CT_FIELDS(DrrParams, volume, views, bricks, image, integrals, sums, peak, gradient, rays, view_gradient, voxels, n, batch, count, rows, columns, view_stride, slope, intercept, floor, step, bound, by_four, response, gain, shift, accumulate)

// max(floor, slope * stored + intercept), so written that a NaN voxel shows in the image; an integer is none.
template <class T>
X2CT_DEVICE float value_of(const DrrParams& p, float stored) {
    const float value = p.slope * stored + p.intercept;
    if (std::is_same<T, int16_t>::value) return fmaxf(value, p.floor);
    return value < p.floor ? p.floor : value;
}

// d loss / d p of a pixel, given that of the image.
X2CT_DEVICE float upstream_of(const DrrParams& p, uint64_t pixel) {
    const float upstream = p.gain * p.image[pixel];
    if (p.response == kIntegral) return upstream;
    const float transmitted = expf(-p.integrals[pixel]);
    return p.response == kTransmission ? -upstream * transmitted : upstream * transmitted;
}
