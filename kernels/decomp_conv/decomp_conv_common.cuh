// What the depthwise and the dense kernels of the decomposed convolution share.
#pragma once

#include "common/common.h"
#include "common/rows.cuh"

X2CT_DEVICE float activation(float v, uint32_t gelu) { return gelu ? 0.5f * v * (1.0f + erff(v * 0.70710678118654752440f)) : v; }
X2CT_DEVICE float activation_slope(float v) {
    return 0.5f * (1.0f + erff(v * 0.70710678118654752440f)) + v * 0.39894228040143267794f * expf(-0.5f * v * v);
}
