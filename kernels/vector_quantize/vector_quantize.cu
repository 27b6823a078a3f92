// Vector quantisation by cosine: each token becomes the codebook row whose direction is nearest; the codebook follows the tokens.
//
//   i_n = argmax over c of <x_n / |x_n|, e_c / |e_c|>, the smaller index of equals         (the tiles of retrieval.cu)
//   y_n = e_i(n) as stored                                                                 gather
//   update, N_c tokens of code c, decay a:   size_c = a size_c + (1 - a) N_c               group
//     e_c = a e_c + (1 - a) l2(mean of their unit tokens);  without any  a e_c + (1 - a) l2(e_c)      update
//
// Shapes: tokens [n, d], codes [m, d]. l2(v) = v / max(|v|, 1e-12). An index of 0xffffffff is a token that is no number: its y is
// NaN, and it belongs to no code. The gradient passes straight through: a copy.
// Deterministic without atomics: the thread of a code counts its own tokens and those of smaller codes, which is where its list of
// tokens begins; a sum runs along that list.
// Bytes: gather n d read and written; group n indices a code, from cache; update codes read and written once, tokens read once.
// One variant. Test: cargo test --release ops::vector_quantize     Time: x2ct bench vector_quantize
#include "common/common.h"
#include "common/reduce.h"
#include "params.h"

constexpr uint32_t kNoCode = 0xffffffffu;

struct GatherConfig : KernelDefaults {
    static constexpr uint32_t each = 16;  // elements of a thread, four at a time
    static constexpr uint32_t tile0 = threads * each;
};

template <class T>
X2CT_DEVICE void vector_quantize_gather(const VectorQuantizeParams& p) {
    T* y = static_cast<T*>(p.y);
    const uint64_t all = p.n * p.d;
    const float nan = __uint_as_float(0x7fc00000u);
    for (uint32_t i = 0; i < GatherConfig::each; i += 4) {
        const uint64_t e = uint64_t(blockIdx.x) * GatherConfig::tile0 + i * GatherConfig::threads + threadIdx.x * 4;
        if (e >= all) return;
        if (p.d % 4 == 0) {
            const uint32_t code = p.indices[e / p.d];
            float v[4] = {nan, nan, nan, nan};
            if (code != kNoCode) load_float(p.embed + code * p.d + e % p.d, v);
            store_float(y + e, v);
        } else {
            for (uint64_t j = e; j < min(e + 4, all); ++j) {
                const uint32_t code = p.indices[j / p.d];
                y[j] = from_float<T>(code == kNoCode ? nan : p.embed[code * p.d + j % p.d]);
            }
        }
    }
}

struct GroupConfig : KernelDefaults {
    static constexpr uint32_t threads = 64;
    static constexpr uint32_t tile0 = threads;
};

// A thread a code.
X2CT_DEVICE void vector_quantize_group_body(const VectorQuantizeParams& p) {
    const uint64_t code = uint64_t(blockIdx.x) * GroupConfig::threads + threadIdx.x;
    if (code >= p.m) return;
    uint32_t smaller = 0, own = 0;
#pragma unroll 8
    for (uint64_t i = 0; i < p.n; ++i) {
        smaller += p.indices[i] < code;
        own += p.indices[i] == code;
    }
    p.first[code] = smaller;
    p.count[code] = own;
    p.cluster_size[code] = p.decay * p.cluster_size[code] + p.weight * float(own);
    uint32_t at = smaller;
    for (uint64_t i = 0; i < p.n && at < smaller + own; ++i)
        if (p.indices[i] == code) p.members[at++] = uint32_t(i);
}

struct UpdateConfig : KernelDefaults {
    static constexpr uint32_t threads = 128;
    static constexpr uint32_t tile0 = 2048;  // d at most
    struct Shared {
        float mean[tile0];
        float scratch[threads / 32];
    };
};

// A block a code, a thread the elements j of its row with j = threadIdx.x modulo the block.
X2CT_DEVICE void vector_quantize_update_body(const VectorQuantizeParams& p) {
    using C = UpdateConfig;
    auto& s = shared_memory<C::Shared>();
    const uint64_t code = blockIdx.x;
    float* embed = p.embed + code * p.d;
    const uint32_t count = p.count[code];
    if (count == 0) {
        for (uint64_t j = threadIdx.x; j < p.d; j += C::threads) embed[j] = p.decay * embed[j] + p.weight * p.unit[code * p.d + j];
        return;
    }
    const uint32_t* members = p.members + p.first[code];
    float square = 0.0f;
    for (uint64_t j = threadIdx.x; j < p.d; j += C::threads) {
        float sum = 0.0f;
#pragma unroll 4
        for (uint32_t i = 0; i < count; ++i) sum += p.tokens[members[i] * p.d + j];
        s.mean[j] = sum / float(count);
        square += s.mean[j] * s.mean[j];
    }
    const float inverse = 1.0f / fmaxf(sqrtf(block_sum<C::threads>(square, s.scratch)), 1e-12f);
    for (uint64_t j = threadIdx.x; j < p.d; j += C::threads) embed[j] = p.decay * embed[j] + p.weight * (s.mean[j] * inverse);
}

/// y; `tile[0]` elements a block.
X2CT_KERNEL(vector_quantize_gather_f32, VectorQuantizeParams, GatherConfig, vector_quantize_gather<float>)
X2CT_KERNEL(vector_quantize_gather_bf16, VectorQuantizeParams, GatherConfig, vector_quantize_gather<bf16>)
/// The tokens of each code, and `cluster_size`; `tile[0]` codes a block.
X2CT_KERNEL(vector_quantize_group, VectorQuantizeParams, GroupConfig, vector_quantize_group_body)
/// `embed`; a block a code, d at most `tile[0]`.
X2CT_KERNEL(vector_quantize_update, VectorQuantizeParams, UpdateConfig, vector_quantize_update_body)
