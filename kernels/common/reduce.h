// Reductions in a fixed order: the result does not depend on the order in which threads run.
#pragma once

#include "common.h"

constexpr uint32_t kFullWarp = 0xffffffffu;

// Sum over the 32 lanes, in every lane.
template <class T>
X2CT_DEVICE T warp_sum(T value) {
#ifdef __CUDACC__
    X2CT_UNROLL
    for (int offset = 16; offset > 0; offset >>= 1) value += __shfl_xor_sync(kFullWarp, value, offset);
#else  // the same additions, in one wait instead of five
    x2ct_host::warp_collective(kFullWarp, "warp_sum", &value, [](void* const operands[32], uint32_t) {
        T sums[32], before[32];
        for (int lane = 0; lane < 32; ++lane) {
            if (!operands[lane]) x2ct_host::fail("warp_sum: lane %d has ended", lane);
            sums[lane] = *static_cast<T*>(operands[lane]);
        }
        for (int offset = 16; offset > 0; offset >>= 1) {
            memcpy(before, sums, sizeof sums);
            for (int lane = 0; lane < 32; ++lane) sums[lane] = before[lane] + before[lane ^ offset];
        }
        for (int lane = 0; lane < 32; ++lane) *static_cast<T*>(operands[lane]) = sums[lane];
    });
#endif
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
