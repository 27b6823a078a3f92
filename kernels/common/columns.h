// Column-wise walks over a [rows, channels] matrix with contiguous channels.
//
// A block owns a tile of `columns` channel vectors and `lanes * rows_per_thread` rows; a thread owns one vector and
// `rows_per_thread` rows. Which rows is a choice of addressing alone: on a GPU neighbouring lanes take neighbouring rows
// (lane_step 1, row_step lanes: a warp reads whole lines), on a processor a thread walks consecutive rows (lane_step
// rows_per_thread, row_step 1: its cache and prefetcher like that). src/kernels/columns.rs fills the struct in (walk.h).
// Grid: x over row ranges, y over column tiles.
#pragma once

#include "common.h"
#include "walk.h"

constexpr uint32_t kMaxColumns = 32;

// The vectors that one thread visits.
struct ColumnThread {
    uint64_t first_row;  // of the block
    uint64_t channel;    // first of the vector
    uint64_t offset;     // element of the thread's first visit
    uint64_t stride;     // elements between visits
    uint32_t column, lane;
    uint32_t visits;     // 0 for a thread without work
};

template <int W>
X2CT_DEVICE ColumnThread column_thread(const Walk& w, uint64_t rows, uint64_t channels) {
    ColumnThread t;
    t.column = threadIdx.x % w.columns;
    t.lane = threadIdx.x / w.columns;
    t.first_row = uint64_t(blockIdx.x) * w.lanes * w.rows_per_thread;
    t.channel = (uint64_t(blockIdx.y) * w.columns + t.column) * W;
    const uint64_t row = t.first_row + uint64_t(t.lane) * w.lane_step;
    t.offset = row * channels + t.channel;
#ifdef __CUDACC__
    // Hidden from the optimizer: it would distribute the sum over the elements of a vector, and no longer see that their
    // addresses are consecutive (16-byte stores became four).
    asm("" : "+l"(t.offset));
#endif
    t.stride = uint64_t(w.row_step) * channels;
    t.visits = 0;
    if (t.lane < w.lanes && t.channel < channels && row < rows) {
        const uint64_t left = rows - row;
        const uint32_t span = w.row_step * w.rows_per_thread;
        t.visits = left >= span ? w.rows_per_thread : (uint32_t(left) + w.row_step - 1) / w.row_step;
    }
    return t;
}

// W consecutive per-channel values, 16 bytes at a time.
template <int W>
X2CT_DEVICE void load_channels(const float* p, float (&out)[W]) {
    constexpr int width = W % 4 == 0 ? 4 : 1;
    X2CT_UNROLL
    for (int j = 0; j < W; j += width) {
        const Vec<float, width> v = load_vec<width>(p + j);
        X2CT_UNROLL
        for (int i = 0; i < width; ++i) out[j + i] = v.v[i];
    }
}

// Calls f(first visit, std::integral_constant<int, U>) over all visits, `Batch` at a time as long as they last, so that
// that many loads are under way together.
template <int Batch, class F>
X2CT_DEVICE void for_visits(uint32_t visits, F f) {
    uint32_t i = 0;
    for (; i + Batch <= visits; i += Batch) f(i, std::integral_constant<int, Batch>());
    for (; i < visits; ++i) f(i, std::integral_constant<int, 1>());
}

// Adds the lanes of each column in order, in f64. `scratch` holds Values planes of threads * W floats; every thread of
// the block calls. f(channel, totals) runs on one thread per channel of the tile.
template <int Values, int W, class F>
X2CT_DEVICE void reduce_lanes(const Walk& w, const ColumnThread& t, uint64_t channels, const float (&mine)[Values][W], float* scratch,
                              uint32_t plane, F f) {
    const uint32_t width = w.columns * W;
    if (t.lane < w.lanes) {
        X2CT_UNROLL
        for (int v = 0; v < Values; ++v) {
            X2CT_UNROLL
            for (int j = 0; j < W; ++j) scratch[v * plane + t.lane * width + t.column * W + j] = mine[v][j];
        }
    }
    __syncthreads();
    const uint64_t channel = uint64_t(blockIdx.y) * width + threadIdx.x;
    if (threadIdx.x < width && channel < channels) {
        double totals[Values] = {};
        for (uint32_t lane = 0; lane < w.lanes; ++lane) {
            X2CT_UNROLL
            for (int v = 0; v < Values; ++v) totals[v] += scratch[v * plane + lane * width + threadIdx.x];
        }
        f(channel, totals);
    }
}
