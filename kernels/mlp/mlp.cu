// The channel MLP of a block over volumes, y = x + f gamma (W2 a + b2), a = GELU(W1 u + b1): what its backward pass needs beside
// matrix products and the kernels of channels.cu. u and g [N, C, V], a [N, H, V]; W2 [C, H]; f the factor of drop-path.
//
//   activate a = GELU(h + b1) of a sample's h = W1 u [H, V], and d = M^T g -> d GELU'(h + b1) in the same pass, with the sums of
//            the latter over voxels, of which bias makes db1
//   fold     M = gamma' W2, gamma' = f gamma        so that the gradient of a is M^T g, and gamma g is never stored
//   sums     S_c = sum of g over samples and voxels
//   finish   from G = g a^T [C, H], the only product over voxels that W2, b2 and gamma need:
//            dW2 = gamma' G;  db2 = gamma' S;  dgamma = f (sum over h of W2 G + b2 S)
//
// The last line is sum of g (W2 a + b2): the block's output before its scale is neither stored nor computed again.
// Bytes: activate reads and writes two hidden layers, sums read g once; the others touch matrices of C H alone. Sums in a fixed order, threads in f32, what follows in f64.
// One variant. Test: cargo test --release ops::mlp     Time: x2ct bench mlp
#include "common/common.h"
#include "common/reduce.h"
#include "params.h"

struct MlpConfig : KernelDefaults {
    static constexpr uint32_t threads = 128;
    static constexpr uint32_t each = 32;  // elements of a thread
    static constexpr uint32_t tile0 = threads * each;
    struct Shared {
        float sums[threads];
    };
};

// Elements threads apart, from blockIdx.x * tile0 on.
template <class T>
X2CT_DEVICE void mlp_fold(const MlpParams& p) {
    const uint64_t first = uint64_t(blockIdx.x) * MlpConfig::tile0 + threadIdx.x, all = p.channels * p.hidden;
    const T* w2 = static_cast<const T*>(p.w2);
    T* m = static_cast<T*>(p.m);
#pragma unroll 4
    for (uint32_t i = 0; i < MlpConfig::each; ++i) {
        const uint64_t e = first + i * MlpConfig::threads;
        if (e < all) m[e] = from_float<T>(p.gamma[e / p.hidden] * to_float(w2[e]));
    }
}

// The threads' sums, added in order by the first.
template <class F>
X2CT_DEVICE void mlp_add(float sum, F store) {
    auto& s = shared_memory<MlpConfig::Shared>();
    s.sums[threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.x > 0) return;
    double total = 0.0;
    for (uint32_t i = 0; i < MlpConfig::threads; ++i) total += s.sums[i];
    store(total);
}

// a and d of unit blockIdx.y; the sums of d are part p.part + blockIdx.x.
template <class T>
X2CT_DEVICE void mlp_activate(const MlpParams& p) {
    const uint64_t row = uint64_t(blockIdx.y) * p.voxels;
    const T* h = static_cast<const T*>(p.h) + row;
    T* a = p.activated ? static_cast<T*>(p.activated) + row : nullptr;
    T* d = p.d ? static_cast<T*>(p.d) + row : nullptr;
    const float b = p.b1[blockIdx.y];
    float sum = 0.0f;
    const auto one = [&](float v, float& activated, float& gradient) {
        v += b;
        const float cdf = 0.5f * (1.0f + erff(v * 0.70710678118654752440f));
        activated = v * cdf;
        gradient *= cdf + v * 0.39894228040143267794f * expf(-0.5f * v * v);
        sum += gradient;
    };
    for (uint32_t i = 0; i < MlpConfig::each; i += 4) {
        const uint64_t e = uint64_t(blockIdx.x) * MlpConfig::tile0 + i * MlpConfig::threads + threadIdx.x * 4;
        if (e >= p.voxels) break;
        if (p.voxels % 4 == 0) {
            float v[4], activated[4], gradient[4] = {};
            load_float(h + e, v);
            if (d) load_float(static_cast<const T*>(d + e), gradient);
            X2CT_UNROLL
            for (int l = 0; l < 4; ++l) one(v[l], activated[l], gradient[l]);
            if (a) store_float(a + e, activated);
            if (d) store_float(d + e, gradient);
        } else {
            for (uint64_t j = e; j < min(e + 4, p.voxels); ++j) {
                float activated, gradient = d ? to_float(d[j]) : 0.0f;
                one(to_float(h[j]), activated, gradient);
                if (a) a[j] = from_float<T>(activated);
                if (d) d[j] = from_float<T>(gradient);
            }
        }
    }
    if (!d) return;
    mlp_add(sum, [&](double total) { p.bias_partial[(p.part + blockIdx.x) * p.hidden + blockIdx.y] = total; });
}

// db1, a thread a unit.
X2CT_DEVICE void mlp_bias_body(const MlpParams& p) {
    const uint64_t unit = uint64_t(blockIdx.x) * MlpConfig::threads + threadIdx.x;
    if (unit >= p.hidden) return;
    double sum = 0.0;
    for (uint64_t part = 0; part < p.parts; ++part) sum += p.bias_partial[part * p.hidden + unit];
    write_gradient(p.db1 + unit, float(sum), (p.accumulate >> 3) & 1u);
}

// Part p.part + blockIdx.x of channel blockIdx.y.
template <class T>
X2CT_DEVICE void mlp_sums(const MlpParams& p) {
    const T* g = static_cast<const T*>(p.g) + uint64_t(blockIdx.y) * p.voxels;
    const uint64_t first = uint64_t(blockIdx.x) * MlpConfig::tile0 + threadIdx.x;
    float sum = 0.0f;
#pragma unroll 8
    for (uint32_t i = 0; i < MlpConfig::each; ++i) {
        const uint64_t e = first + i * MlpConfig::threads;
        if (e < p.voxels) sum += to_float(g[e]);
    }
    mlp_add(sum, [&](double total) { p.partial[(p.part + blockIdx.x) * p.channels + blockIdx.y] = total; });
}

struct MlpFinishConfig : KernelDefaults {
    static constexpr uint32_t threads = 64;
    struct Shared {
        double scratch[threads / 32];
    };
};

// A block a channel.
template <class T>
X2CT_DEVICE void mlp_finish(const MlpParams& p) {
    using C = MlpFinishConfig;
    auto& s = shared_memory<C::Shared>();
    const uint64_t c = blockIdx.x;
    const T* w2 = static_cast<const T*>(p.w2) + c * p.hidden;
    const float* product = p.product + c * p.hidden;
    const float gamma = p.gamma[c];
    double along = 0.0, sum = 0.0;
    for (uint64_t h = threadIdx.x; h < p.hidden; h += C::threads) {
        along += double(to_float(w2[h])) * product[h];
        if (p.dw2) write_gradient(p.dw2 + c * p.hidden + h, gamma * product[h], p.accumulate & 1u);
    }
    for (uint64_t part = threadIdx.x; part < p.parts; part += C::threads) sum += p.partial[part * p.channels + c];
    along = block_sum<C::threads>(along, s.scratch);
    sum = block_sum<C::threads>(sum, s.scratch);
    if (threadIdx.x > 0) return;
    if (p.db2) write_gradient(p.db2 + c, float(gamma * sum), (p.accumulate >> 1) & 1u);
    if (p.dgamma) write_gradient(p.dgamma + c, float(p.factor * (along + p.b2[c] * sum)), (p.accumulate >> 2) & 1u);
}

/// activated and d, and parts of the sums of d; `tile[0]` voxels of a unit a block.
X2CT_KERNEL(mlp_activate_f32, MlpParams, MlpConfig, mlp_activate<float>)
X2CT_KERNEL(mlp_activate_bf16, MlpParams, MlpConfig, mlp_activate<bf16>)
/// db1; a thread a unit.
X2CT_KERNEL(mlp_bias, MlpParams, MlpConfig, mlp_bias_body)
/// m = gamma w2; `tile[0]` elements a block.
X2CT_KERNEL(mlp_fold_f32, MlpParams, MlpConfig, mlp_fold<float>)
X2CT_KERNEL(mlp_fold_bf16, MlpParams, MlpConfig, mlp_fold<bf16>)
/// Sums of g; `tile[0]` voxels of a channel a block.
X2CT_KERNEL(mlp_sums_f32, MlpParams, MlpConfig, mlp_sums<float>)
X2CT_KERNEL(mlp_sums_bf16, MlpParams, MlpConfig, mlp_sums<bf16>)
/// dw2, db2 and dgamma; a block a channel.
X2CT_KERNEL(mlp_finish_f32, MlpParams, MlpFinishConfig, mlp_finish<float>)
X2CT_KERNEL(mlp_finish_bf16, MlpParams, MlpFinishConfig, mlp_finish<bf16>)
