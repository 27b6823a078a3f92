// The channel MLP of a block over volumes, y = x + f gamma (W2 a + b2), a = GELU(W1 u + b1): what its backward pass needs beside
// matrix products and the kernels of channels.cu. u and g [N, C, V], a [N, H, V]; W2 [C, H]; f the factor of drop-path.
//
//   fold     M = gamma' W2, gamma' = f gamma        so that the gradient of a is M^T g, and gamma g is never stored
//   sums     S_c = sum of g over samples and voxels
//   finish   from G = g a^T [C, H], the only product over voxels that W2, b2 and gamma need:
//            dW2 = gamma' G;  db2 = gamma' S;  dgamma = f (sum over h of W2 G + b2 S)
//
// The last line is sum of g (W2 a + b2): the block's output before its scale is neither stored nor computed again.
// Bytes: sums read g once; the others touch matrices of C H alone. Sums in a fixed order, threads in f32, what follows in f64.
// One variant. Test: cargo test --release ops::mlp     Time: x2ct bench mlp
#include "common/common.h"
#include "common/reduce.h"

struct MlpParams {
    const void* g;           // sums: [C, V] of one sample
    const void* w2;          // [C, H] of the type of g
    void* m;                 // fold: as w2
    const float* gamma;      // [C]: gamma'
    const float* b2;         // [C]
    const float* product;    // finish: G
    float* dw2;              // [C, H], or null
    float* db2;              // [C], or null
    float* dgamma;           // [C], or null
    double* partial;         // [parts, C]
    uint64_t voxels;
    uint64_t hidden;
    uint64_t channels;
    uint64_t part;           // sums: the first part that this launch writes
    uint64_t parts;          // finish
    float factor;            // f
    uint32_t accumulate;     // bits: dw2, db2, dgamma
};
X2CT_FIELDS(MlpParams, g, w2, m, gamma, b2, product, dw2, db2, dgamma, partial, voxels, hidden, channels, part, parts, factor, accumulate)

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

// Part p.part + blockIdx.x of channel blockIdx.y.
template <class T>
X2CT_DEVICE void mlp_sums(const MlpParams& p) {
    auto& s = shared_memory<MlpConfig::Shared>();
    const T* g = static_cast<const T*>(p.g) + uint64_t(blockIdx.y) * p.voxels;
    const uint64_t first = uint64_t(blockIdx.x) * MlpConfig::tile0 + threadIdx.x;
    float sum = 0.0f;
#pragma unroll 8
    for (uint32_t i = 0; i < MlpConfig::each; ++i) {
        const uint64_t e = first + i * MlpConfig::threads;
        if (e < p.voxels) sum += to_float(g[e]);
    }
    s.sums[threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.x > 0) return;
    double total = 0.0;
    for (uint32_t i = 0; i < MlpConfig::threads; ++i) total += s.sums[i];
    p.partial[(p.part + blockIdx.x) * p.channels + blockIdx.y] = total;
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

X2CT_KERNEL(mlp_fold_f32, MlpParams, MlpConfig, mlp_fold<float>)
X2CT_KERNEL(mlp_fold_bf16, MlpParams, MlpConfig, mlp_fold<bf16>)
X2CT_KERNEL(mlp_sums_f32, MlpParams, MlpConfig, mlp_sums<float>)
X2CT_KERNEL(mlp_sums_bf16, MlpParams, MlpConfig, mlp_sums<bf16>)
X2CT_KERNEL(mlp_finish_f32, MlpParams, MlpFinishConfig, mlp_finish<float>)
X2CT_KERNEL(mlp_finish_bf16, MlpParams, MlpFinishConfig, mlp_finish<bf16>)
