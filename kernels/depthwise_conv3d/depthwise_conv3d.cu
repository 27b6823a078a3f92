// Depthwise 3-D convolution (the token mixer of ConvNeXt, Liu et al. 2022, in three dimensions): one k x k x k filter a channel, k
// odd, P = k/2, stride 1. x and y [N, C, D1, D2, D3] contiguous, f32 or bf16; weight [C, k, k, k], bias [C] and their gradients f32.
//
//   forward   y[n,c,o] = b[c] + sum over t of w[c,t] x[n,c,o + t - P]       zero outside
//   backward  dx[n,c,i] = sum over t of w[c,t] dy[n,c,i - t + P]            the same with the filter reversed
//             dw[c,t] = sum over n, o of dy[n,c,o] x[n,c,o + t - P];   db[c] = sum over n, o of dy[n,c,o]
//
// Bytes, A = those of x: forward 2 A, backward 4 A (dx: dy, dx; dw: dy, x). Multiply-adds a voxel: k^3 forward, 2 k^3 backward, so
// k = 7 is 343 for 8 bytes: arithmetic bounds it everywhere.
//
// Variants: 1. naive: one thread an output (an element of the gradient).
//           2. patches: a thread has 4 x 8 outputs of one plane in registers, along the last two axes. A row of x is loaded once for
//              the up to 4 x K x 8 products it takes part in; K is the row length the code is written out for (3, 7, 13; a smaller
//              filter has zeros at the ends of its rows, a larger one takes variant 1). For dw a thread has the sums of four rows of
//              the filter, K x 4, and goes through patches.
// Sums of dw and db are two-stage: threads add at most 512 products a tap in f32, blocks and what follows add in f64, in an order that
// depends on the shape alone.
// Test: cargo test --release ops::depthwise_conv3d     Time: x2ct bench depthwise_conv3d
#include "common/common.h"
#include "common/rows.cuh"
#include "params.h"

constexpr int kPatchRows = 4, kPatchColumns = 8;

struct DepthwiseConv3dConfig : KernelDefaults {
    static constexpr uint32_t threads = 128;
    static constexpr uint32_t min_blocks = 4;
    static constexpr uint32_t tile0 = threads, tile1 = kPatchRows, tile2 = kPatchColumns;
};
struct DepthwiseConv3dNaiveConfig : KernelDefaults {
    static constexpr uint32_t tile0 = threads;
};

X2CT_DEVICE uint64_t volume(const DepthwiseConv3dParams& p) { return uint64_t(p.size[0]) * p.size[1] * p.size[2]; }
X2CT_DEVICE uint32_t taps(const DepthwiseConv3dParams& p) { return p.kernel * p.kernel * p.kernel; }

// --- Variant 1 -------------------------------------------------------------------------------------------------------------

template <class T>
X2CT_DEVICE void depthwise_conv3d_naive(const DepthwiseConv3dParams& p) {
    const uint64_t i = uint64_t(blockIdx.x) * DepthwiseConv3dNaiveConfig::threads + threadIdx.x, voxels = volume(p);
    if (i >= p.batch * p.channels * voxels) return;
    const uint32_t c = uint32_t(i / voxels % p.channels);
    const T* x = static_cast<const T*>(p.x) + i / voxels * voxels;
    const float* w = p.w + uint64_t(c) * taps(p);
    const int k = int(p.kernel), d[3] = {int(p.size[0]), int(p.size[1]), int(p.size[2])};
    const uint64_t at = i % voxels;
    const int o[3] = {int(at / (uint64_t(d[1]) * d[2])), int(at / d[2] % d[1]), int(at % d[2])};
    float sum = p.bias ? p.bias[c] : 0.0f;
    for (int t0 = 0; t0 < k; ++t0)
        for (int t1 = 0; t1 < k; ++t1)
            for (int t2 = 0; t2 < k; ++t2) {
                const int a = o[0] + t0 - k / 2, b = o[1] + t1 - k / 2, e = o[2] + t2 - k / 2;
                if (a < 0 || a >= d[0] || b < 0 || b >= d[1] || e < 0 || e >= d[2]) continue;
                const int tap = (t0 * k + t1) * k + t2;
                sum += w[p.reversed ? k * k * k - 1 - tap : tap] * to_float(x[(uint64_t(a) * d[1] + b) * d[2] + e]);
            }
    write_gradient(static_cast<T*>(p.y) + i, sum, p.accumulate & 1u);
}

// One thread a tap of a channel, and one its bias.
template <class T>
X2CT_DEVICE void depthwise_conv3d_weights_naive(const DepthwiseConv3dParams& p) {
    const uint64_t i = uint64_t(blockIdx.x) * DepthwiseConv3dNaiveConfig::threads + threadIdx.x, voxels = volume(p);
    const uint32_t all = taps(p) + 1;
    if (i >= uint64_t(p.channels) * all) return;
    const uint32_t c = uint32_t(i / all), tap = uint32_t(i % all);
    const bool bias = tap == taps(p);
    const int k = int(p.kernel), d[3] = {int(p.size[0]), int(p.size[1]), int(p.size[2])};
    const int t[3] = {int(tap) / (k * k) - k / 2, int(tap) / k % k - k / 2, int(tap) % k - k / 2};
    double sum = 0.0;
    for (uint64_t n = 0; n < p.batch; ++n) {
        const uint64_t first = (n * p.channels + c) * voxels;
        const T *x = static_cast<const T*>(p.x) + first, *g = static_cast<const T*>(p.g) + first;
        for (int a = 0; a < d[0]; ++a)
            for (int b = 0; b < d[1]; ++b)
                for (int e = 0; e < d[2]; ++e) {
                    const float up = to_float(g[(uint64_t(a) * d[1] + b) * d[2] + e]);
                    const int i0 = a + t[0], i1 = b + t[1], i2 = e + t[2];
                    if (bias) sum += up;
                    else if (i0 >= 0 && i0 < d[0] && i1 >= 0 && i1 < d[1] && i2 >= 0 && i2 < d[2])
                        sum += double(up) * to_float(x[(uint64_t(i0) * d[1] + i1) * d[2] + i2]);
                }
    }
    if (!bias && p.dw) write_gradient(p.dw + uint64_t(c) * taps(p) + tap, float(sum), (p.accumulate >> 1) & 1u);
    if (bias && p.dbias) write_gradient(p.dbias + c, float(sum), (p.accumulate >> 2) & 1u);
}

// --- Variant 2 -------------------------------------------------------------------------------------------------------------

// A patch of a plane of channel blockIdx.y.
struct Patch {
    uint64_t sample;
    int plane, row, column;  // first of each
};
X2CT_DEVICE uint64_t patch_count(const DepthwiseConv3dParams& p) {
    const uint64_t columns = (p.size[2] + kPatchColumns - 1) / kPatchColumns, rows = (p.size[1] + kPatchRows - 1) / kPatchRows;
    return p.batch * p.size[0] * rows * columns;
}
X2CT_DEVICE Patch patch(const DepthwiseConv3dParams& p, uint64_t index) {
    const uint32_t columns = (p.size[2] + kPatchColumns - 1) / kPatchColumns, rows = (p.size[1] + kPatchRows - 1) / kPatchRows;
    Patch at;
    at.column = int(index % columns) * kPatchColumns;
    index /= columns;
    at.row = int(index % rows) * kPatchRows;
    index /= rows;
    at.plane = int(index % p.size[0]);
    at.sample = index / p.size[0];
    return at;
}

// A row of x around a patch: outputs' first tap is at `offset`.
template <int K>
struct RowWindow {
    static constexpr int halo = row_halo(K / 2), width = kPatchColumns + 2 * halo, offset = halo - K / 2;
};

template <int K>
struct PatchesConfig : DepthwiseConv3dConfig {
    static constexpr int padded = (K + 3) / 4 * 4;  // taps of a row of the filter
    struct Shared {
        float w[K * K][padded];
    };
};

template <int K, class T>
X2CT_DEVICE void depthwise_conv3d_patches(const DepthwiseConv3dParams& p) {
    using Config = PatchesConfig<K>;
    using Window = RowWindow<K>;
    auto& s = shared_memory<typename Config::Shared>();
    const int k = int(p.kernel), pad = (K - k) / 2;
    for (int i = int(threadIdx.x); i < k * k * Config::padded; i += int(Config::threads)) {
        const int row = i / Config::padded, t = i % Config::padded - pad, tap = row * k + t;
        const float* w = p.w + uint64_t(blockIdx.y) * taps(p);
        s.w[row][i % Config::padded] = t >= 0 && t < k ? w[p.reversed ? k * k * k - 1 - tap : tap] : 0.0f;
    }
    __syncthreads();
    const uint64_t index = uint64_t(blockIdx.x) * Config::threads + threadIdx.x;
    if (index >= patch_count(p)) return;
    const Patch at = patch(p, index);
    const int d[3] = {int(p.size[0]), int(p.size[1]), int(p.size[2])};
    const uint64_t first = (at.sample * p.channels + blockIdx.y) * volume(p);
    const T* x = static_cast<const T*>(p.x) + first;
    float sums[kPatchRows][kPatchColumns];
    X2CT_UNROLL
    for (int r = 0; r < kPatchRows; ++r) {
        X2CT_UNROLL
        for (int i = 0; i < kPatchColumns; ++i) sums[r][i] = p.bias ? p.bias[blockIdx.y] : 0.0f;
    }
    const int begin = max(0, k / 2 - at.plane), end = min(k, d[0] + k / 2 - at.plane);
    for (int t0 = begin; t0 < end; ++t0) {
        const T* plane = x + uint64_t(at.plane + t0 - k / 2) * d[1] * d[2];
#ifdef __CUDACC__
#pragma unroll 1  // the rows of a patch are code enough
#endif
        for (int j = 0; j < kPatchRows + k - 1; ++j) {
            const int row = at.row + j - k / 2;
            if (row < 0 || row >= d[1]) continue;
            float v[Window::width];
            load_row(plane + uint64_t(row) * d[2], at.column - Window::halo, d[2], p.vector, v);
            X2CT_UNROLL
            for (int r = 0; r < kPatchRows; ++r) {
                const int t1 = j - r;
                if (t1 < 0 || t1 >= k) continue;
                X2CT_UNROLL
                for (int q = 0; q < Config::padded; q += 4) {
                    const Vec<float, 4> w = load_vec<4>(&s.w[t0 * k + t1][q]);
                    X2CT_UNROLL
                    for (int t = q; t < q + 4 && t < K; ++t) {
                        X2CT_UNROLL
                        for (int i = 0; i < kPatchColumns; ++i) sums[r][i] += w.v[t - q] * v[Window::offset + t + i];
                    }
                }
            }
        }
    }
    T* y = static_cast<T*>(p.y) + first + uint64_t(at.plane) * d[1] * d[2];
    X2CT_UNROLL
    for (int r = 0; r < kPatchRows; ++r) {
        if (at.row + r >= d[1]) continue;
        X2CT_UNROLL
        for (int i = 0; i < kPatchColumns; i += 4) {
            T* out = y + uint64_t(at.row + r) * d[2] + at.column + i;
            const int count = d[2] - at.column - i;
            float part[4], old[4] = {};
            if (p.accumulate & 1u) load4(static_cast<const T*>(out), count, p.vector, old);
            X2CT_UNROLL
            for (int l = 0; l < 4; ++l) part[l] = sums[r][i + l] + old[l];
            store4(out, count, p.vector, part);
        }
    }
}

// Sums of a block: four rows of the filter with K taps, and dy.
template <int K>
struct WeightSums {
    static constexpr int values = kPatchRows * K + 1;
};
template <int K>
struct WeightSumsConfig : DepthwiseConv3dConfig {
    static constexpr uint32_t min_blocks = K > 7 ? 3 : 4;
    static constexpr uint32_t tile3 = WeightSums<K>::values;
    struct Shared {
        float sums[WeightSums<K>::values][DepthwiseConv3dConfig::threads];
    };
};

// The sums of plane t0 and rows 4 group... of the filter, blockIdx.z = t0 groups + group.
template <int K, class T>
X2CT_DEVICE void depthwise_conv3d_weight_sums(const DepthwiseConv3dParams& p) {
    using Window = RowWindow<K>;
    constexpr int values = WeightSums<K>::values;
    constexpr uint32_t threads = DepthwiseConv3dConfig::threads;
    auto& s = shared_memory<typename WeightSumsConfig<K>::Shared>();
    const int k = int(p.kernel), d[3] = {int(p.size[0]), int(p.size[1]), int(p.size[2])};
    const int t0 = int(blockIdx.z / p.groups), t1 = int(blockIdx.z % p.groups) * kPatchRows, shift = t0 - k / 2;
    double* out = p.partial + ((uint64_t(blockIdx.x) * p.channels + blockIdx.y) * gridDim.z + blockIdx.z) * values;
    if (shift <= -d[0] || shift >= d[0]) {  // no voxel has a neighbour that far
        if (threadIdx.x < values) out[threadIdx.x] = 0.0;
        return;
    }
    const T *x = static_cast<const T*>(p.x), *g = static_cast<const T*>(p.g);
    const uint64_t all = patch_count(p);
    float sums[kPatchRows][K] = {}, sum_g = 0.0f;
    for (uint32_t n = 0; n < p.patches_per_thread; ++n) {
        const uint64_t index = (uint64_t(blockIdx.x) * p.patches_per_thread + n) * threads + threadIdx.x;
        if (index >= all) break;
        const Patch at = patch(p, index);
        const int from = at.plane + shift;
        if (from < 0 || from >= d[0]) continue;
        const uint64_t first = (at.sample * p.channels + blockIdx.y) * volume(p);
        float up[kPatchRows][kPatchColumns];
        X2CT_UNROLL
        for (int r = 0; r < kPatchRows; ++r) {
            const bool exists = at.row + r < d[1];
            const uint64_t row = uint64_t(at.plane) * d[1] + (exists ? at.row + r : 0);
            load_row(g + first + row * d[2], at.column, exists ? d[2] : 0, p.vector, up[r]);
            X2CT_UNROLL
            for (int i = 0; i < kPatchColumns; ++i) sum_g += up[r][i];
        }
        X2CT_UNROLL
        for (int j = 0; j < 2 * kPatchRows - 1; ++j) {
            const int row = at.row + j + t1 - k / 2;
            if (row < 0 || row >= d[1]) continue;
            float v[Window::width];
            load_row(x + first + (uint64_t(from) * d[1] + row) * d[2], at.column - Window::halo, d[2], p.vector, v);
            X2CT_UNROLL
            for (int r = 0; r < kPatchRows; ++r) {
                const int tap_row = j - r;
                if (tap_row < 0 || tap_row >= kPatchRows) continue;
                X2CT_UNROLL
                for (int i = 0; i < kPatchColumns; ++i) {
                    X2CT_UNROLL
                    for (int t = 0; t < K; ++t) sums[tap_row][t] += up[r][i] * v[Window::offset + t + i];
                }
            }
        }
    }
    X2CT_UNROLL
    for (int r = 0; r < kPatchRows; ++r) {
        X2CT_UNROLL
        for (int t = 0; t < K; ++t) s.sums[r * K + t][threadIdx.x] = sums[r][t];
    }
    s.sums[values - 1][threadIdx.x] = sum_g;
    __syncthreads();
    if (threadIdx.x >= values) return;
    double total = 0.0;
    for (uint32_t i = 0; i < threads; ++i) total += s.sums[threadIdx.x][i];
    out[threadIdx.x] = total;
}

// dw and db from the blocks' sums, one thread a tap of a channel and one its bias.
X2CT_DEVICE void depthwise_conv3d_finish_body(const DepthwiseConv3dParams& p) {
    const uint64_t i = uint64_t(blockIdx.x) * DepthwiseConv3dNaiveConfig::threads + threadIdx.x;
    const uint32_t all = taps(p) + 1, k = p.kernel;
    if (i >= uint64_t(p.channels) * all) return;
    const uint32_t c = uint32_t(i / all), tap = uint32_t(i % all);
    const bool bias = tap == taps(p);
    // The sum of dy is that of the plane which no voxel is shifted by.
    const uint32_t t0 = bias ? k / 2 : tap / (k * k), t1 = bias ? 0 : tap / k % k;
    const uint32_t row_taps = (p.values - 1) / kPatchRows, pad = (row_taps - k) / 2;
    const uint32_t value = bias ? p.values - 1 : t1 % kPatchRows * row_taps + pad + tap % k;
    const uint32_t planes = k * p.groups, z = t0 * p.groups + t1 / kPatchRows;
    double total = 0.0;
    for (uint32_t b = 0; b < p.blocks; ++b) total += p.partial[((uint64_t(b) * p.channels + c) * planes + z) * p.values + value];
    if (!bias && p.dw) write_gradient(p.dw + uint64_t(c) * taps(p) + tap, float(total), (p.accumulate >> 1) & 1u);
    if (bias && p.dbias) write_gradient(p.dbias + c, float(total), (p.accumulate >> 2) & 1u);
}

/// y, one thread an output; tile\[0\] a block.
X2CT_KERNEL(depthwise_conv3d_naive_f32, DepthwiseConv3dParams, DepthwiseConv3dNaiveConfig, depthwise_conv3d_naive<float>)
X2CT_KERNEL(depthwise_conv3d_naive_bf16, DepthwiseConv3dParams, DepthwiseConv3dNaiveConfig, depthwise_conv3d_naive<bf16>)
/// dw and dbias, one thread a tap or bias; tile\[0\] a block.
X2CT_KERNEL(depthwise_conv3d_weights_naive_f32, DepthwiseConv3dParams, DepthwiseConv3dNaiveConfig, depthwise_conv3d_weights_naive<float>)
X2CT_KERNEL(depthwise_conv3d_weights_naive_bf16, DepthwiseConv3dParams, DepthwiseConv3dNaiveConfig, depthwise_conv3d_weights_naive<bf16>)
/// dw and dbias from the sums of blocks, one thread a tap or bias; tile\[0\] a block.
X2CT_KERNEL(depthwise_conv3d_finish, DepthwiseConv3dParams, DepthwiseConv3dNaiveConfig, depthwise_conv3d_finish_body)
/// y by patches of tile\[1\] rows and tile\[2\] columns, tile\[0\] a block; rows of the filter of 3.
X2CT_KERNEL(depthwise_conv3d_patches3_f32, DepthwiseConv3dParams, PatchesConfig<3>, depthwise_conv3d_patches<3, float>)
X2CT_KERNEL(depthwise_conv3d_patches3_bf16, DepthwiseConv3dParams, PatchesConfig<3>, depthwise_conv3d_patches<3, bf16>)
/// The same with rows of 7.
X2CT_KERNEL(depthwise_conv3d_patches7_f32, DepthwiseConv3dParams, PatchesConfig<7>, depthwise_conv3d_patches<7, float>)
X2CT_KERNEL(depthwise_conv3d_patches7_bf16, DepthwiseConv3dParams, PatchesConfig<7>, depthwise_conv3d_patches<7, bf16>)
/// The same with rows of 13.
X2CT_KERNEL(depthwise_conv3d_patches13_f32, DepthwiseConv3dParams, PatchesConfig<13>, depthwise_conv3d_patches<13, float>)
X2CT_KERNEL(depthwise_conv3d_patches13_bf16, DepthwiseConv3dParams, PatchesConfig<13>, depthwise_conv3d_patches<13, bf16>)
/// The sums of blocks, tile\[3\] each; rows of the filter of 3.
X2CT_KERNEL(depthwise_conv3d_weight_sums3_f32, DepthwiseConv3dParams, WeightSumsConfig<3>, depthwise_conv3d_weight_sums<3, float>)
X2CT_KERNEL(depthwise_conv3d_weight_sums3_bf16, DepthwiseConv3dParams, WeightSumsConfig<3>, depthwise_conv3d_weight_sums<3, bf16>)
/// The same with rows of 7.
X2CT_KERNEL(depthwise_conv3d_weight_sums7_f32, DepthwiseConv3dParams, WeightSumsConfig<7>, depthwise_conv3d_weight_sums<7, float>)
X2CT_KERNEL(depthwise_conv3d_weight_sums7_bf16, DepthwiseConv3dParams, WeightSumsConfig<7>, depthwise_conv3d_weight_sums<7, bf16>)
/// The same with rows of 13.
X2CT_KERNEL(depthwise_conv3d_weight_sums13_f32, DepthwiseConv3dParams, WeightSumsConfig<13>, depthwise_conv3d_weight_sums<13, float>)
X2CT_KERNEL(depthwise_conv3d_weight_sums13_bf16, DepthwiseConv3dParams, WeightSumsConfig<13>, depthwise_conv3d_weight_sums<13, bf16>)
