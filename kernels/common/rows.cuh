// Rows of a volume whose last axis is contiguous, read and written four elements at a time: through 16- or 8-byte vectors where
// `vector` says that rows start at multiples of four elements, else one by one.
#pragma once

#include "common/common.h"

// Four elements from p on, of which those at [0, count) exist and the others are zero.
template <class T>
X2CT_DEVICE void load4(const T* p, int count, uint32_t vector, float (&out)[4]) {
    if (vector) {
        // Rows of a multiple of four: all four exist or none does.
        if (count > 0) {
            load_float(p, out);
        } else {
            out[0] = out[1] = out[2] = out[3] = 0.0f;
        }
    } else {
        X2CT_UNROLL
        for (int i = 0; i < 4; ++i) out[i] = i < count ? to_float(p[i]) : 0.0f;
    }
}
template <class T>
X2CT_DEVICE void store4(T* p, int count, uint32_t vector, const float (&value)[4]) {
    if (vector) {
        if (count > 0) store_float(p, value);
    } else {
        X2CT_UNROLL
        for (int i = 0; i < 4; ++i)
            if (i < count) p[i] = from_float<T>(value[i]);
    }
}

// v[i] = row[first + i] for a multiple of four elements from a multiple of four on; zero outside [0, size).
template <int Count, class T>
X2CT_DEVICE void load_row(const T* row, int first, int size, uint32_t vector, float (&v)[Count]) {
    X2CT_UNROLL
    for (int i = 0; i < Count; i += 4) {
        const int at = first + i;
        float part[4];
        if (vector) {
            load4(row + at, at >= 0 ? size - at : 0, vector, part);
        } else {
            X2CT_UNROLL
            for (int l = 0; l < 4; ++l) part[l] = at + l >= 0 && at + l < size ? to_float(row[at + l]) : 0.0f;
        }
        X2CT_UNROLL
        for (int l = 0; l < 4; ++l) v[i + l] = part[l];
    }
}
// Elements read before a segment so that it starts at a multiple of four.
constexpr int row_halo(int radius) { return (radius + 3) / 4 * 4; }
