// Groups of W consecutive elements of a flat array: whole vectors where it is aligned, element by element at its end and where
// it is not.
#pragma once

#include "common.h"

// Elements of a transaction: W of them, or as many as 16 bytes hold.
template <int W, class T>
X2CT_DEVICE constexpr int flat_step() {
    return W < vec_width<T>() ? W : vec_width<T>();
}

// The first `count` of W elements from p on; the others are `absent`. `vector`: p is a multiple of 16 bytes.
template <int W, class T>
X2CT_DEVICE void load_flat(const T* p, int count, bool vector, float (&out)[W], float absent = 0.0f) {
    constexpr int step = flat_step<W, T>();
    if (vector && count == W) {
        X2CT_UNROLL
        for (int j = 0; j < W; j += step) {
            const Vec<T, step> v = load_vec<step>(p + j);
            X2CT_UNROLL
            for (int i = 0; i < step; ++i) out[j + i] = to_float(v.v[i]);
        }
    } else {
        X2CT_UNROLL
        for (int j = 0; j < W; ++j) out[j] = j < count ? to_float(p[j]) : absent;
    }
}

// The gradient contract of `write_gradient` for the first `count` of W elements from p on.
template <int W, class T>
X2CT_DEVICE void write_flat(T* p, int count, bool vector, const float (&value)[W], bool accumulate) {
    constexpr int step = flat_step<W, T>();
    float sum[W];
    if (accumulate) load_flat(p, count, vector, sum);
    X2CT_UNROLL
    for (int j = 0; j < W; ++j) sum[j] = accumulate ? sum[j] + value[j] : value[j];
    if (vector && count == W) {
        X2CT_UNROLL
        for (int j = 0; j < W; j += step) {
            Vec<T, step> v;
            X2CT_UNROLL
            for (int i = 0; i < step; ++i) v.v[i] = from_float<T>(sum[j + i]);
            store_vec<step>(p + j, v);
        }
    } else {
        X2CT_UNROLL
        for (int j = 0; j < W; ++j)
            if (j < count) p[j] = from_float<T>(sum[j]);
    }
}
