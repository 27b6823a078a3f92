// Reductions in a fixed order: the result does not depend on the order in which threads run.
#pragma once

#include "common.h"

constexpr uint32_t kFullWarp = 0xffffffffu;

// Sum over the 32 lanes, in every lane.
template <class T>
X2CT_DEVICE T warp_sum(T value) {
    X2CT_UNROLL
    for (int offset = 16; offset > 0; offset >>= 1) value += __shfl_xor_sync(kFullWarp, value, offset);
    return value;
}

X2CT_DEVICE float warp_max(float value) {
    X2CT_UNROLL
    for (int offset = 16; offset > 0; offset >>= 1) value = fmaxf(value, __shfl_xor_sync(kFullWarp, value, offset));
    return value;
}

// Sum over a block of Threads threads, in every thread. `scratch` holds Threads/32 values and may be reused at once:
// the leading barrier keeps a warp that is still reading the previous sum safe.
template <int Threads, class T>
X2CT_DEVICE T block_sum(T value, T* scratch) {
    constexpr int warps = Threads / 32;
    value = warp_sum(value);
    if (warps == 1) return value;
    __syncthreads();
    if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = value;
    __syncthreads();
    T total = scratch[0];
    X2CT_UNROLL
    for (int w = 1; w < warps; ++w) total += scratch[w];
    return total;
}
