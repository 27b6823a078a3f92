// Inverted dropout over flat arrays of n elements, f32 or bf16:
//
//   y[i] = x[i] (dropped(i) ? 0 : 1 / (1 - p))                dx[i] = dy[i] (dropped(i) ? 0 : 1 / (1 - p)): the same kernel
//
// dropped(i) is that word i % 4 of Philox4x32-10 with key = seed and counter = (offset, i / 4), low words first, is below p 2^32.
// It depends on the element's index alone, so the backward pass draws it again and nothing is stored. As in PyTorch a NaN and
// an infinity pass through as NaN where they are dropped.
//
// Bytes: x and y once, 16 bytes at a time. One variant; a flat pass has nothing to choose.
// Test: cargo test --release ops::dropout     Time: x2ct bench dropout
#include "common/common.h"
#include "common/flat.h"
#include "common/philox.h"
#include "params.h"

struct DropoutConfig : KernelDefaults {
    static constexpr int vectors = 2;                         // per thread
    static constexpr uint32_t tile0 = threads * vectors * 4;  // f32 elements of a block
    static constexpr uint32_t tile1 = threads * vectors * 8;  // bf16 elements of a block
};

template <class T>
X2CT_DEVICE void dropout(const DropoutParams& p) {
    constexpr int width = vec_width<T>();
    constexpr uint32_t stride = DropoutConfig::threads * width;
    const uint64_t first = uint64_t(blockIdx.x) * (stride * DropoutConfig::vectors) + threadIdx.x * width;
    X2CT_UNROLL
    for (int v = 0; v < DropoutConfig::vectors; ++v) {
        const uint64_t i = first + uint64_t(v) * stride;
        if (i >= p.n) return;
        const int count = int(min(p.n - i, uint64_t(width)));
        float x[width];
        load_flat(static_cast<const T*>(p.x) + i, count, p.vector, x);
        X2CT_UNROLL
        for (int j = 0; j < width; j += 4) {
            const uint64_t four = (i + j) / 4;
            const Philox counter = {{uint32_t(p.offset), uint32_t(p.offset >> 32), uint32_t(four), uint32_t(four >> 32)}};
            const Philox words = philox4x32_10(counter, uint32_t(p.seed), uint32_t(p.seed >> 32));
            X2CT_UNROLL
            for (int k = 0; k < 4; ++k) x[j + k] *= words.x[k] < p.threshold ? 0.0f : p.scale;
        }
        write_flat(static_cast<T*>(p.y) + i, count, p.vector, x, p.accumulate);
    }
}

/// y; a block takes `tile[0]` elements of f32, `tile[1]` of bf16.
X2CT_KERNEL(dropout_f32, DropoutParams, DropoutConfig, dropout<float>)
X2CT_KERNEL(dropout_bf16, DropoutParams, DropoutConfig, dropout<bf16>)
