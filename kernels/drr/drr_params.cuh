// What the line-integral kernels are launched with.
#pragma once

#include "common/common.h"
#include "params.h"

// What a pixel shows of its ray's sum p.
enum DrrResponse : uint32_t { kIntegral = 0, kTransmission = 1, kAbsorption = 2 };  // p, exp(-p), 1 - exp(-p)

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
