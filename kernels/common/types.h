// Storage types: f32 and bf16. Arithmetic is always f32 (or f64 where said); bf16 exists only in memory.
#pragma once

// bfloat16 bits. Conversion from float rounds to nearest even; NaN stays NaN.
struct alignas(2) bf16 {
    uint16_t bits;
};

X2CT_DEVICE float to_float(float x) { return x; }
X2CT_DEVICE float to_float(int16_t x) { return float(x); }  // CT voxels as stored
X2CT_DEVICE float to_float(bf16 x) {
#ifdef __CUDACC__
    return __uint_as_float(uint32_t(x.bits) << 16);
#else
    uint32_t u = uint32_t(x.bits) << 16;
    float f;
    __builtin_memcpy(&f, &u, 4);
    return f;
#endif
}

X2CT_DEVICE bf16 to_bf16(float x) {
#ifdef __CUDACC__
    bf16 r;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(r.bits) : "f"(x));
    return r;
#else
    uint32_t u;
    __builtin_memcpy(&u, &x, 4);
    uint32_t rounded = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
    uint32_t quiet = (u >> 16) | 0x40u;
    return {uint16_t((u & 0x7fffffffu) > 0x7f800000u ? quiet : rounded)};
#endif
}

template <class T>
X2CT_DEVICE T from_float(float x);
template <>
X2CT_DEVICE float from_float<float>(float x) { return x; }
template <>
X2CT_DEVICE bf16 from_float<bf16>(float x) { return to_bf16(x); }

// Two bf16 in one register, the layout that matrix fragments use: lo in the low half.
X2CT_DEVICE uint32_t pack_bf16(float lo, float hi) {
    return uint32_t(to_bf16(lo).bits) | (uint32_t(to_bf16(hi).bits) << 16);
}

// The gradient contract of every backward kernel: overwrite the destination or add to it.
template <class T>
X2CT_DEVICE void write_gradient(T* destination, float value, uint32_t accumulate) {
    *destination = from_float<T>(accumulate ? to_float(*destination) + value : value);
}
