// Pooling.
//
//   max pooling   y[n,o,c] = max over the window of x[n,o*stride - padding + k,c], padding being minus infinity. Layout
//                 [N, D, H, W, C]: 2-D NHWC is D = 1; 3-D NCDHW is N*C images with C = 1.
//                 Ties go to the first in scan order; a NaN wins, the last of several: both as PyTorch.
//                 dx[n,i,c] = sum of dy[n,o,c] over the windows o whose maximum is i: gathered, in the order of o, so
//                 deterministic.
//   average       pool_average.cuh
//   mean          y[n,c] = mean over l of x[n,l,c], x [N, L, C];  dx[n,l,c] = dy[n,c] / L
//
// Each output's choice is stored as one byte, its offset in the window in scan order (hence windows of at most 256). It
// costs a quarter or half of y once, and the backward pass then reads dy and a byte per window; finding the maximum again
// would read x (stride^2 times as large as y) and compare.
//
// Bytes, max: forward x, y and a byte an output; backward dy, the bytes, dx. Mean: x once, or dx once.
//
// Variants: 1. naive: one thread an element, 64-bit index arithmetic. 2. vectors of channels, 32-bit arithmetic inside an
//           image, bounds taken out of the window loop. The mean has one variant.
// Test: cargo test --release ops::pool     Time: x2ct bench pool
#include "common/columns.h"
#include "common/common.h"
#include "common/rows.cuh"
#include "params.h"

struct MaxPoolConfig : KernelDefaults {
    static constexpr int items = 4;                      // outputs (inputs, backward) of a thread
    static constexpr uint32_t tile0 = threads * items;  // of a block
};
struct NaiveConfig : KernelDefaults {
    static constexpr uint32_t tile0 = threads;
};

// Where a tap of a window lies: the range of taps that hit the input along one axis.
struct Taps {
    uint32_t begin, end;
    int64_t first;  // input index of tap 0; may be negative
};
X2CT_DEVICE Taps taps(uint32_t o, uint32_t in, uint32_t kernel, uint32_t stride, uint32_t padding) {
    const int64_t first = int64_t(o) * stride - padding;
    const int64_t left = int64_t(in) - first;
    return {first < 0 ? uint32_t(-first) : 0u, left < int64_t(kernel) ? uint32_t(left) : kernel, first};
}

// The windows that cover input i along one axis: outputs [begin, end).
struct Windows {
    uint32_t begin, end;
};
X2CT_DEVICE Windows windows(uint32_t i, uint32_t out, uint32_t kernel, uint32_t stride, uint32_t padding) {
    const uint32_t at = i + padding;
    const uint32_t last = at / stride + 1;
    return {at < kernel ? 0u : (at - kernel) / stride + 1, last < out ? last : out};
}

// Position inside an image of a flat item: three axes, then the first channel of a vector.
struct Position {
    uint32_t at[3], channel;
};
template <int W>
X2CT_DEVICE Position position(uint32_t item, const uint32_t (&size)[3], uint32_t channels) {
    Position p;
    const uint32_t vectors = channels / W;
    p.channel = item % vectors * W;
    item /= vectors;
    p.at[2] = item % size[2];
    item /= size[2];
    p.at[1] = item % size[1];
    p.at[0] = item / size[1];
    return p;
}

// A value replaces the maximum when it is larger, or NaN.
X2CT_DEVICE bool wins(float value, float maximum) { return value > maximum || value != value; }

template <class T, int W>
X2CT_DEVICE void max_pool_images(const MaxPoolParams& p) {
    const uint32_t count = p.output[0] * p.output[1] * p.output[2] * (p.channels / W);
    const uint64_t in_image = uint64_t(p.input[0]) * p.input[1] * p.input[2] * p.channels;
    const uint64_t out_image = uint64_t(count) * W;
    for (uint64_t image = blockIdx.y; image < p.images; image += gridDim.y) {
        const T* x = static_cast<const T*>(p.x) + image * in_image;
        T* y = static_cast<T*>(p.y) + image * out_image;
        uint8_t* choice = p.choice + image * out_image;
        for (int item = 0; item < MaxPoolConfig::items; ++item) {
            const uint32_t i = blockIdx.x * MaxPoolConfig::tile0 + item * MaxPoolConfig::threads + threadIdx.x;
            if (i >= count) break;
            const Position o = position<W>(i, p.output, p.channels);
            const Taps t0 = taps(o.at[0], p.input[0], p.kernel[0], p.stride[0], p.padding[0]);
            const Taps t1 = taps(o.at[1], p.input[1], p.kernel[1], p.stride[1], p.padding[1]);
            const Taps t2 = taps(o.at[2], p.input[2], p.kernel[2], p.stride[2], p.padding[2]);
            float best[W];
            uint32_t where[W];
            X2CT_UNROLL
            for (int j = 0; j < W; ++j) {
                best[j] = -INFINITY;
                where[j] = (t0.begin * p.kernel[1] + t1.begin) * p.kernel[2] + t2.begin;
            }
            for (uint32_t k0 = t0.begin; k0 < t0.end; ++k0) {
                for (uint32_t k1 = t1.begin; k1 < t1.end; ++k1) {
                    const uint64_t row = uint64_t((t0.first + k0) * p.input[1] + (t1.first + k1)) * p.input[2];
                    const uint32_t tap = (k0 * p.kernel[1] + k1) * p.kernel[2];
                    for (uint32_t k2 = t2.begin; k2 < t2.end; ++k2) {
                        float v[W];
                        load_float(x + (row + uint64_t(t2.first + k2)) * p.channels + o.channel, v);
                        X2CT_UNROLL
                        for (int j = 0; j < W; ++j) {
                            const bool take = wins(v[j], best[j]);
                            best[j] = take ? v[j] : best[j];
                            where[j] = take ? tap + k2 : where[j];
                        }
                    }
                }
            }
            store_float(y + uint64_t(i) * W, best);
            Vec<uint8_t, W> bytes;
            X2CT_UNROLL
            for (int j = 0; j < W; ++j) bytes.v[j] = uint8_t(where[j]);
            store_vec(choice + uint64_t(i) * W, bytes);
        }
    }
}

template <class T, int W>
X2CT_DEVICE void max_pool_gradient_images(const MaxPoolParams& p) {
    const uint32_t count = p.input[0] * p.input[1] * p.input[2] * (p.channels / W);
    const uint64_t in_image = uint64_t(count) * W;
    const uint64_t out_image = uint64_t(p.output[0]) * p.output[1] * p.output[2] * p.channels;
    for (uint64_t image = blockIdx.y; image < p.images; image += gridDim.y) {
        const T* dy = static_cast<const T*>(p.dy) + image * out_image;
        const uint8_t* choice = p.choice + image * out_image;
        T* dx = static_cast<T*>(p.dx) + image * in_image;
        for (int item = 0; item < MaxPoolConfig::items; ++item) {
            const uint32_t i = blockIdx.x * MaxPoolConfig::tile0 + item * MaxPoolConfig::threads + threadIdx.x;
            if (i >= count) break;
            const Position at = position<W>(i, p.input, p.channels);
            const Windows w0 = windows(at.at[0], p.output[0], p.kernel[0], p.stride[0], p.padding[0]);
            const Windows w1 = windows(at.at[1], p.output[1], p.kernel[1], p.stride[1], p.padding[1]);
            const Windows w2 = windows(at.at[2], p.output[2], p.kernel[2], p.stride[2], p.padding[2]);
            float sum[W] = {};
            for (uint32_t o0 = w0.begin; o0 < w0.end; ++o0) {
                const uint32_t k0 = at.at[0] + p.padding[0] - o0 * p.stride[0];
                for (uint32_t o1 = w1.begin; o1 < w1.end; ++o1) {
                    const uint32_t k1 = at.at[1] + p.padding[1] - o1 * p.stride[1];
                    for (uint32_t o2 = w2.begin; o2 < w2.end; ++o2) {
                        const uint32_t k2 = at.at[2] + p.padding[2] - o2 * p.stride[2];
                        const uint32_t tap = (k0 * p.kernel[1] + k1) * p.kernel[2] + k2;
                        const uint64_t o = (uint64_t(o0 * p.output[1] + o1) * p.output[2] + o2) * p.channels + at.channel;
                        const Vec<uint8_t, W> chosen = load_vec<W>(choice + o);
                        float v[W];
                        load_float(dy + o, v);
                        X2CT_UNROLL
                        for (int j = 0; j < W; ++j) sum[j] += chosen.v[j] == tap ? v[j] : 0.0f;
                    }
                }
            }
            T* destination = dx + uint64_t(i) * W;
            if (p.accumulate) {
                float old[W];
                load_float(destination, old);
                X2CT_UNROLL
                for (int j = 0; j < W; ++j) sum[j] += old[j];
            }
            store_float(destination, sum);
        }
    }
}

template <class T>
X2CT_DEVICE void max_pool(const MaxPoolParams& p) {
    constexpr int width = vec_width<T>();
    if (p.vector) max_pool_images<T, width>(p);
    else max_pool_images<T, 1>(p);
}
template <class T>
X2CT_DEVICE void max_pool_gradient(const MaxPoolParams& p) {
    constexpr int width = vec_width<T>();
    if (p.vector) max_pool_gradient_images<T, width>(p);
    else max_pool_gradient_images<T, 1>(p);
}

template <class T>
X2CT_DEVICE void max_pool_naive(const MaxPoolParams& p) {
    const uint64_t i = uint64_t(blockIdx.x) * NaiveConfig::threads + threadIdx.x;
    if (i >= p.images * p.output[0] * p.output[1] * p.output[2] * p.channels) return;
    uint64_t rest = i / p.channels;
    int64_t o[3];
    for (int axis = 2; axis >= 0; --axis) {
        o[axis] = int64_t(rest % p.output[axis]);
        rest /= p.output[axis];
    }
    float best = -INFINITY;
    int64_t where = -1, tap = 0;
    for (uint32_t k0 = 0; k0 < p.kernel[0]; ++k0)
        for (uint32_t k1 = 0; k1 < p.kernel[1]; ++k1)
            for (uint32_t k2 = 0; k2 < p.kernel[2]; ++k2, ++tap) {
                const int64_t a = o[0] * p.stride[0] + k0 - p.padding[0], b = o[1] * p.stride[1] + k1 - p.padding[1],
                              c = o[2] * p.stride[2] + k2 - p.padding[2];
                if (a < 0 || a >= p.input[0] || b < 0 || b >= p.input[1] || c < 0 || c >= p.input[2]) continue;
                const uint64_t at = (((rest * p.input[0] + a) * p.input[1] + b) * p.input[2] + c) * p.channels + i % p.channels;
                const float v = to_float(static_cast<const T*>(p.x)[at]);
                if (where < 0 || wins(v, best)) {
                    best = v;
                    where = tap;
                }
            }
    static_cast<T*>(p.y)[i] = from_float<T>(best);
    p.choice[i] = uint8_t(where);
}

template <class T>
X2CT_DEVICE void max_pool_gradient_naive(const MaxPoolParams& p) {
    const uint64_t i = uint64_t(blockIdx.x) * NaiveConfig::threads + threadIdx.x;
    if (i >= p.images * p.input[0] * p.input[1] * p.input[2] * p.channels) return;
    uint64_t rest = i / p.channels;
    int64_t at[3];
    for (int axis = 2; axis >= 0; --axis) {
        at[axis] = int64_t(rest % p.input[axis]);
        rest /= p.input[axis];
    }
    float sum = 0.0f;
    const uint64_t outputs = uint64_t(p.output[0]) * p.output[1] * p.output[2];
    // Taps backwards are windows forwards: the order of summation is that of variant 2.
    for (int64_t k0 = p.kernel[0]; k0-- > 0;)
        for (int64_t k1 = p.kernel[1]; k1-- > 0;)
            for (int64_t k2 = p.kernel[2]; k2-- > 0;) {
                const int64_t a = at[0] + p.padding[0] - k0, b = at[1] + p.padding[1] - k1, c = at[2] + p.padding[2] - k2;
                if (a < 0 || b < 0 || c < 0 || a % p.stride[0] || b % p.stride[1] || c % p.stride[2]) continue;
                const uint64_t o0 = a / p.stride[0], o1 = b / p.stride[1], o2 = c / p.stride[2];
                if (o0 >= p.output[0] || o1 >= p.output[1] || o2 >= p.output[2]) continue;
                const uint64_t o = (rest * outputs + (o0 * p.output[1] + o1) * p.output[2] + o2) * p.channels + i % p.channels;
                if (p.choice[o] == (k0 * p.kernel[1] + k1) * p.kernel[2] + k2) sum += to_float(static_cast<const T*>(p.dy)[o]);
            }
    write_gradient(static_cast<T*>(p.dx) + i, sum, p.accumulate);
}

// --- Mean ------------------------------------------------------------------------------------------------------------

struct MeanPoolConfig : KernelDefaults {
    static constexpr int batch = 4;  // loads under way per thread
    static constexpr uint32_t plane = threads * 8;
    struct Shared {
        float lanes[plane];
    };
};
struct MeanGradientConfig : KernelDefaults {};

template <class T, int W>
X2CT_DEVICE void mean_columns(const MeanPoolParams& p) {
    auto& s = shared_memory<MeanPoolConfig::Shared>();
    const ColumnThread t = column_thread<W>(p.walk, p.positions, p.channels);
    for (uint64_t image = blockIdx.z; image < p.images; image += gridDim.z) {
        const T* x = static_cast<const T*>(p.x) + image * p.positions * p.channels + t.offset;
        float sums[1][W] = {};
        for_visits<MeanPoolConfig::batch>(t.visits, [&](uint32_t i, auto batch) {
            constexpr int U = decltype(batch)::value;
            Vec<T, W> v[U];
            X2CT_UNROLL
            for (int u = 0; u < U; ++u) v[u] = load_vec<W>(x + (i + u) * t.stride);
            X2CT_UNROLL
            for (int u = 0; u < U; ++u) {
                X2CT_UNROLL
                for (int j = 0; j < W; ++j) sums[0][j] += to_float(v[u].v[j]);
            }
        });
        if (image != blockIdx.z) __syncthreads();  // the image before is still being added
        reduce_lanes(p.walk, t, p.channels, sums, s.lanes, MeanPoolConfig::plane, [&](uint64_t c, const double(&total)[1]) {
            static_cast<T*>(p.y)[image * p.channels + c] = from_float<T>(float(total[0] / double(p.positions)));
        });
    }
}

template <class T, int W>
X2CT_DEVICE void mean_gradient_columns(const MeanPoolParams& p) {
    const ColumnThread t = column_thread<W>(p.walk, p.positions, p.channels);
    if (!t.visits) return;
    const float scale = 1.0f / float(p.positions);
    for (uint64_t image = blockIdx.z; image < p.images; image += gridDim.z) {
        float g[W];
        load_float(static_cast<const T*>(p.dy) + image * p.channels + t.channel, g);
        X2CT_UNROLL
        for (int j = 0; j < W; ++j) g[j] *= scale;
        T* dx = static_cast<T*>(p.dx) + image * p.positions * p.channels + t.offset;
        for (uint32_t i = 0; i < t.visits; ++i) {
            float out[W] = {};
            if (p.accumulate) load_float(dx + i * t.stride, out);
            X2CT_UNROLL
            for (int j = 0; j < W; ++j) out[j] += g[j];
            store_float(dx + i * t.stride, out);
        }
    }
}

template <class T>
X2CT_DEVICE void mean_pool(const MeanPoolParams& p) {
    constexpr int width = vec_width<T>();
    if (p.walk.vector) mean_columns<T, width>(p);
    else mean_columns<T, 1>(p);
}
template <class T>
X2CT_DEVICE void mean_pool_gradient(const MeanPoolParams& p) {
    constexpr int width = vec_width<T>();
    if (p.walk.vector) mean_gradient_columns<T, width>(p);
    else mean_gradient_columns<T, 1>(p);
}

/// y and choice; tile\[0\] outputs (of a vector) a block.
X2CT_KERNEL(max_pool_f32, MaxPoolParams, MaxPoolConfig, max_pool<float>)
X2CT_KERNEL(max_pool_bf16, MaxPoolParams, MaxPoolConfig, max_pool<bf16>)
/// dx; tile\[0\] inputs (of a vector) a block.
X2CT_KERNEL(max_pool_gradient_f32, MaxPoolParams, MaxPoolConfig, max_pool_gradient<float>)
X2CT_KERNEL(max_pool_gradient_bf16, MaxPoolParams, MaxPoolConfig, max_pool_gradient<bf16>)
/// Variant 1 of MAX_POOL, one thread an output.
X2CT_KERNEL(max_pool_naive_f32, MaxPoolParams, NaiveConfig, max_pool_naive<float>)
X2CT_KERNEL(max_pool_naive_bf16, MaxPoolParams, NaiveConfig, max_pool_naive<bf16>)
/// Variant 1 of MAX_POOL_GRADIENT, one thread an input.
X2CT_KERNEL(max_pool_gradient_naive_f32, MaxPoolParams, NaiveConfig, max_pool_gradient_naive<float>)
X2CT_KERNEL(max_pool_gradient_naive_bf16, MaxPoolParams, NaiveConfig, max_pool_gradient_naive<bf16>)
/// y = mean.
X2CT_KERNEL(mean_pool_f32, MeanPoolParams, MeanPoolConfig, mean_pool<float>)
X2CT_KERNEL(mean_pool_bf16, MeanPoolParams, MeanPoolConfig, mean_pool<bf16>)
/// dx = dy / positions.
X2CT_KERNEL(mean_pool_gradient_f32, MeanPoolParams, MeanGradientConfig, mean_pool_gradient<float>)
X2CT_KERNEL(mean_pool_gradient_bf16, MeanPoolParams, MeanGradientConfig, mean_pool_gradient<bf16>)

#include "pool_average.cuh"
