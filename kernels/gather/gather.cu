// Rows of a matrix by their places, such as a minibatch of a set that lies on the device:
//
//   y_i = x_places(i)
//
// Shapes: x [any, d], places u32 [n], y [n, d], f32. A row is copied by `lanes` neighbouring threads, 16 bytes at a time where all
// rows start at multiples of that, four elements at a time elsewhere.
// Bytes: n d read and written, and the places. One variant; a copy has nothing to choose.
// Test: cargo test --release ops::gather     Time: x2ct bench gather
#include "common/common.h"
#include "params.h"

struct GatherConfig : KernelDefaults {
    static constexpr uint32_t tile0 = threads;
    static constexpr uint32_t tile1 = 4;   // elements a thread copies at a time
    static constexpr uint32_t tile2 = 32;  // most threads a row
};

X2CT_DEVICE void gather_rows_body(const GatherParams& p) {
    const uint64_t thread = uint64_t(blockIdx.x) * GatherConfig::tile0 + threadIdx.x;
    const uint64_t row = thread >> p.lanes;
    if (row >= p.n) return;
    constexpr uint32_t width = GatherConfig::tile1;
    const uint32_t lane = uint32_t(thread) & ((1u << p.lanes) - 1);
    const float* x = p.x + p.places[row] * p.d;
    float* y = p.y + row * p.d;
#ifndef __CUDACC__
    // A processor that waits for each row's first lines waits longer than it copies: those of the row after the next are on their way.
    if (row + 2 < p.n) {
        const float* ahead = p.x + p.places[row + 2] * p.d;
        for (uint64_t e = 0; e < min(p.d, uint64_t(1024)); e += 16) __builtin_prefetch(ahead + e);
    }
#endif
    for (uint64_t e = lane * width; e < p.d; e += width << p.lanes) {
        if (p.vector) {
            store_vec<width>(y + e, load_vec<width>(x + e));
        } else {
            for (uint64_t j = e; j < min(e + width, p.d); ++j) y[j] = x[j];
        }
    }
}

/// y; a block has `tile[0]` threads, of which at most `tile[2]` copy one row, `tile[1]` elements at a time.
X2CT_KERNEL(gather_rows, GatherParams, GatherConfig, gather_rows_body)
