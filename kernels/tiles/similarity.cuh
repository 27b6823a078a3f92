// Inner products of two sets of embeddings, tile by tile, in f32 arithmetic: what the contrastive losses and retrieval share.
#pragma once

#include "common/common.h"

X2CT_DEVICE float infinity() { return __uint_as_float(0x7f800000u); }

X2CT_DEVICE float inverse_norm(const float* inverse_norms, uint64_t row) { return inverse_norms ? inverse_norms[row] : 1.0f; }

// Four elements of a row from column k on, zero past the end. `aligned`: rows are multiples of four elements.
template <class T>
X2CT_DEVICE void load_row4(const T* row, uint64_t k, uint64_t d, bool aligned, float (&out)[4]) {
    if (aligned && k < d) {
        load_float(row + k, out);
    } else {
        X2CT_UNROLL
        for (int i = 0; i < 4; ++i) out[i] = k + i < d ? to_float(row[k + i]) : 0.0f;
    }
}

template <class T>
X2CT_DEVICE bool rows_aligned(const void* p, uint64_t d) {
    return d % 4 == 0 && reinterpret_cast<uint64_t>(p) % (4 * sizeof(T)) == 0;
}

// Rows of a micro-tile that are carried through the inner loop together: all of them on a GPU; four on a processor, whose
// sixteen vector registers a 4x8 tile fills.
#ifdef __CUDACC__
constexpr int kRowsAtOnce = 8;
#else
constexpr int kRowsAtOnce = 4;
#endif

// acc[i][j] += sum over k of a[k][i] * b[k][column(j)], where a micro-tile's columns are groups of four, `Stride` apart: a
// warp's 16-byte loads then touch consecutive banks.
template <int Depth, int Rows, int Columns, int Stride, int LdA, int LdB>
X2CT_DEVICE void multiply_tile(const float* a, const float* b, Float4 (&acc)[Rows][Columns / 4]) {
    static_assert(LdA % 4 == 0 && LdB % 4 == 0 && Stride % 4 == 0, "every load is aligned where the first is");
#ifndef __CUDACC__
    x2ct_host::check_aligned(a, 16, "load");
    x2ct_host::check_aligned(b, 16, "load");
#endif
    constexpr int rows = Rows < kRowsAtOnce ? Rows : kRowsAtOnce;
    X2CT_UNROLL
    for (int first = 0; first < Rows; first += rows) {
        Float4 sum[rows][Columns / 4];
        X2CT_UNROLL
        for (int i = 0; i < rows; ++i)
            X2CT_UNROLL
            for (int j = 0; j < Columns / 4; ++j) sum[i][j] = acc[first + i][j];
#pragma unroll 2
        for (int k = 0; k < Depth; ++k) {
            Float4 left[rows / 4], right[Columns / 4];
            X2CT_UNROLL
            for (int i = 0; i < rows / 4; ++i) left[i] = *reinterpret_cast<const Float4*>(a + k * LdA + first + 4 * i);
            X2CT_UNROLL
            for (int j = 0; j < Columns / 4; ++j) right[j] = *reinterpret_cast<const Float4*>(b + k * LdB + j * Stride);
            X2CT_UNROLL
            for (int i = 0; i < rows; ++i)
                X2CT_UNROLL
                for (int j = 0; j < Columns / 4; ++j) multiply_add(sum[i][j], left[i / 4][i % 4], right[j]);
        }
        X2CT_UNROLL
        for (int i = 0; i < rows; ++i)
            X2CT_UNROLL
            for (int j = 0; j < Columns / 4; ++j) acc[first + i][j] = sum[i][j];
    }
}

// tile[k][row] = x[first + row][k0 + k] / |x[first + row]|, zero outside; rows and depth are multiples of four.
template <int Threads, int Rows, int Depth, int Ld, class T>
X2CT_DEVICE void load_transposed(float (*tile)[Ld], const T* x, const float* inverse_norms, uint64_t first, uint64_t k0, uint64_t n,
                                 uint64_t d, bool aligned) {
    static_assert(Rows * Depth % (4 * Threads) == 0, "every thread loads as much");
#pragma unroll 2
    for (int v = 0; v < Rows * Depth / (4 * Threads); ++v) {
        const int item = int(threadIdx.x) + v * Threads, row = item % Rows, k = item / Rows * 4;
        float value[4] = {};
        if (first + row < n) {
            load_row4(x + (first + row) * d, k0 + k, d, aligned, value);
            const float inverse = inverse_norm(inverse_norms, first + row);
            X2CT_UNROLL
            for (int i = 0; i < 4; ++i) value[i] *= inverse;
        }
        X2CT_UNROLL
        for (int i = 0; i < 4; ++i) tile[k + i][row] = value[i];
    }
}

// tile[row][k] of the same.
template <int Threads, int Rows, int Width, int Ld, class T>
X2CT_DEVICE void load_straight(float (*tile)[Ld], const T* x, const float* inverse_norms, uint64_t first, uint64_t k0, uint64_t n,
                               uint64_t d, bool aligned) {
    static_assert(Rows * Width % (4 * Threads) == 0, "every thread loads as much");
#pragma unroll 2
    for (int v = 0; v < Rows * Width / (4 * Threads); ++v) {
        const int item = int(threadIdx.x) + v * Threads, k = item % (Width / 4) * 4, row = item / (Width / 4);
        float value[4] = {};
        if (first + row < n) {
            load_row4(x + (first + row) * d, k0 + k, d, aligned, value);
            const float inverse = inverse_norm(inverse_norms, first + row);
            X2CT_UNROLL
            for (int i = 0; i < 4; ++i) value[i] *= inverse;
        }
        store_float(&tile[row][k], value);
    }
}

// A block's tile: a thread has one micro-tile, one row and one column. Products are summed one after the other along d,
// wherever in a tile they stand: equal embeddings have equal similarities, bit for bit.
struct SimilarityTile : KernelDefaults {
    static constexpr uint32_t threads = 64;
    static constexpr int tile = 64, depth = 64, micro = 8, lanes = tile / micro;
    static_assert(threads == lanes * lanes && threads == tile, "a thread has one micro-tile, one row and one column");
    struct Shared {
        alignas(16) float a[depth][tile + 4];
        float b[depth][tile + 4];
    };
};

using MicroTile = Float4[SimilarityTile::micro][SimilarityTile::micro / 4];

// c = <a_row, b_column> of the tile at (row0, column0): a thread's 8x8, columns as in multiply_tile.
template <class T, class S>
X2CT_DEVICE void similarity_tile(S& s, uint64_t rows, uint64_t columns, uint64_t d, const T* a, const float* a_inverse_norms, const T* b,
                                 const float* b_inverse_norms, uint64_t row0, uint64_t column0, bool aligned,
                                 MicroTile& c) {
    using C = SimilarityTile;
    const int tx = int(threadIdx.x) % C::lanes, ty = int(threadIdx.x) / C::lanes;
    for (uint64_t k0 = 0; k0 < d; k0 += C::depth) {
        __syncthreads();
        load_transposed<C::threads, C::tile, C::depth>(s.a, a, a_inverse_norms, row0, k0, rows, d, aligned);
        load_transposed<C::threads, C::tile, C::depth>(s.b, b, b_inverse_norms, column0, k0, columns, d, aligned);
        __syncthreads();
        multiply_tile<C::depth, C::micro, C::micro, C::tile / 2, C::tile + 4, C::tile + 4>(&s.a[0][ty * C::micro], &s.b[0][tx * 4], c);
    }
}

// The place of a thread's logit (i, j) in its tile.
X2CT_DEVICE int micro_row(int i) { return int(threadIdx.x) / SimilarityTile::lanes * SimilarityTile::micro + i; }
X2CT_DEVICE int micro_column(int j) {
    return j / 4 * (SimilarityTile::tile / 2) + int(threadIdx.x) % SimilarityTile::lanes * 4 + j % 4;
}
