// Binary cross entropy of logits x [N, C] (f32 or bf16) with targets t [N, C] (f32, from 0 to 1), mean over all N C elements;
// w [C] is the weight of a class's positive targets, 1 without one:
//
//   loss = 1 / (N C) sum of (1 - t) softplus(x) + w t softplus(-x)              softplus(x) = max(x, 0) + log1p(exp(-|x|))
//   dx   = g ((1 - t) sigmoid(x) - w t sigmoid(-x))                             g = upstream / (N C)
//   dt   = g (w softplus(-x) - softplus(x))
//
// The loss is PyTorch's, (1 - t) x + (1 + (w - 1) t) softplus(-x), arranged so that nothing is subtracted: a confident right
// answer keeps its relative accuracy in the loss and in dx, whatever its target.
//
// Sums: a thread's 16 or 32 elements in f32, those of a block in f64 to one partial, the partials in f64 by one block.
// Bytes: forward x and t, backward x, t and what is written, each once, 16 bytes at a time. One variant; a flat pass has
// nothing to choose.
// Test: cargo test --release ops::bce     Time: x2ct bench bce
#include "common/common.h"
#include "common/flat.h"
#include "common/reduce.h"
#include "params.h"

struct BceConfig : KernelDefaults {
    static constexpr int vectors = 4;                         // per thread
    static constexpr uint32_t tile0 = threads * vectors * 4;  // f32 elements of a block
    static constexpr uint32_t tile1 = threads * vectors * 8;  // bf16 elements of a block
};
struct BceSumConfig : BceConfig {
    struct Shared {
        double scratch[threads / 32];
    };
};

// exp(-|x|), 0 from 105 on, to 2 units in the last place and NaN of a NaN: in operations that a processor does on vectors, which it
// does not with a library's function.
X2CT_DEVICE float exp_of_minus_abs(float x) {
    const float most = 105.0f, to_integer = 12582912.0f;  // 1.5 2^23
    const float magnitude = fabsf(x), a = magnitude > most ? most : magnitude;
    // exp(-a) = 2^n exp(r), |r| at most ln(2) / 2; ln(2) in two parts, of which n times the first is exact.
    const float shifted = to_integer - a * 1.44269504f, n = shifted - to_integer;
    const float r = (-a - n * 0.693359375f) + n * 2.12194440e-4f;
    float e = 1.9875691500e-4f;
    e = e * r + 1.3981999507e-3f;
    e = e * r + 8.3334519073e-3f;
    e = e * r + 4.1665795894e-2f;
    e = e * r + 1.6666665459e-1f;
    e = e * r + 5.0000001201e-1f;
    e = (e * r) * r + r + 1.0f;
    // In two steps, of which neither leaves the normal numbers: the last one rounds to those that are not.
    const int power = int(__float_as_uint(shifted) - __float_as_uint(to_integer)), half = power >> 1;
    e *= __uint_as_float(uint32_t(127 + half) << 23);
    return e * __uint_as_float(uint32_t(127 + power - half) << 23);
}

// log(1 + e) for e from 0 to 1, to 3 units in the last place: 2 artanh(s), s = e / (2 + e).
X2CT_DEVICE float log_of_one_and(float e) {
    const float s = __fdividef(e, 2.0f + e), q = s * s;
    float sum = 1.0f / 15.0f;
    sum = sum * q + 1.0f / 13.0f;
    sum = sum * q + 1.0f / 11.0f;
    sum = sum * q + 1.0f / 9.0f;
    sum = sum * q + 1.0f / 7.0f;
    sum = sum * q + 1.0f / 5.0f;
    sum = sum * q + 1.0f / 3.0f;
    return 2.0f * s + 2.0f * s * q * sum;
}

// max(x, 0), max(-x, 0), NaN of a NaN, and log(1 + exp(-|x|)).
struct Softplus {
    float above, below, rest;
    X2CT_DEVICE explicit Softplus(float x) : above(x < 0.0f ? 0.0f : x), below(x > 0.0f ? 0.0f : -x), rest(log_of_one_and(exp_of_minus_abs(x))) {}
};

X2CT_DEVICE float bce_loss(float x, float t, float w) {
    const Softplus s(x);
    return (1.0f - t) * (s.above + s.rest) + w * t * (s.below + s.rest);
}

// e is exp(-|x|).
X2CT_DEVICE float bce_slope(float x, float t, float w, float e) {
    const float of_negative = x < 0.0f ? e : 1.0f, of_positive = x < 0.0f ? 1.0f : e;
    // The divisor is from 1 to 2: the quick division is as good as the other, which also serves extreme ones.
    return __fdividef((1.0f - t) * of_negative - w * t * of_positive, 1.0f + e);
}

// By the target. Exactly -x where w is 1.
X2CT_DEVICE float bce_target_slope(float x, float w) {
    const Softplus s(x);
    return w * s.below - s.above + (w - 1.0f) * s.rest;
}

// Calls f(first element, elements that exist, their classes' weights) for the groups of W elements of this thread.
template <int W, class F>
X2CT_DEVICE void for_groups(const BceParams& p, F f) {
    constexpr uint32_t stride = BceConfig::threads * W;
    const uint64_t first = uint64_t(blockIdx.x) * (stride * BceConfig::vectors) + threadIdx.x * W;
    uint32_t group_class = p.pos_weight ? uint32_t(first % p.classes) : 0;
    const uint32_t step = p.pos_weight ? stride % p.classes : 0;
    for (int v = 0; v < BceConfig::vectors; ++v) {
        const uint64_t i = first + uint64_t(v) * stride;
        if (i >= p.n) return;
        float w[W];
        uint32_t c = group_class;
        X2CT_UNROLL
        for (int j = 0; j < W; ++j) {
            w[j] = p.pos_weight ? p.pos_weight[c] : 1.0f;
            c = c + 1 == p.classes ? 0 : c + 1;
        }
        f(i, int(min(p.n - i, uint64_t(W))), w);
        // Both are below `classes`; their sum may pass 2^32.
        group_class = group_class >= p.classes - step ? group_class - (p.classes - step) : group_class + step;
    }
}

// The logit of an element behind the end: with the target 0 its loss is exactly 0, since exp(-200) is.
constexpr float kCertain = -200.0f;

template <class T>
X2CT_DEVICE void bce_forward(const BceParams& p) {
    constexpr int width = vec_width<T>();
    float sum = 0.0f;
    for_groups<width>(p, [&](uint64_t i, int count, const float(&w)[width]) {
        float x[width], t[width];
        load_flat(static_cast<const T*>(p.x) + i, count, p.vector, x, kCertain);
        load_flat(p.t + i, count, p.vector, t);
        float loss[width];
        X2CT_VECTORS
        for (int j = 0; j < width; ++j) loss[j] = bce_loss(x[j], t[j], w[j]);
        X2CT_UNROLL
        for (int j = 0; j < width; ++j) sum += loss[j];
    });
    const double total = block_sum<BceSumConfig::threads>(double(sum), shared_memory<BceSumConfig::Shared>().scratch);
    if (threadIdx.x == 0) p.partial[blockIdx.x] = total;
}

// One block adds the partials.
X2CT_DEVICE void bce_mean_body(const BceParams& p) {
    double sum = 0.0;
    for (uint32_t b = threadIdx.x; b < p.blocks; b += BceSumConfig::threads) sum += p.partial[b];
    sum = block_sum<BceSumConfig::threads>(sum, shared_memory<BceSumConfig::Shared>().scratch);
    if (threadIdx.x == 0) *p.loss = float(sum / double(p.n));
}

template <class T>
X2CT_DEVICE void bce_backward(const BceParams& p) {
    constexpr int width = vec_width<T>();
    const float g = *p.upstream / float(p.n);
    for_groups<width>(p, [&](uint64_t i, int count, const float(&w)[width]) {
        float x[width], slope[width];
        load_flat(static_cast<const T*>(p.x) + i, count, p.vector, x);
        if (p.dx) {
            float t[width];
            load_flat(p.t + i, count, p.vector, t);
            float e[width];
            X2CT_VECTORS
            for (int j = 0; j < width; ++j) e[j] = exp_of_minus_abs(x[j]);
            X2CT_VECTORS
            for (int j = 0; j < width; ++j) slope[j] = g * bce_slope(x[j], t[j], w[j], e[j]);
            write_flat(static_cast<T*>(p.dx) + i, count, p.vector, slope, p.accumulate & 1);
        }
        if (p.dt) {
            X2CT_UNROLL
            for (int j = 0; j < width; ++j) slope[j] = g * bce_target_slope(x[j], w[j]);
            write_flat(p.dt + i, count, p.vector, slope, p.accumulate & 2);
        }
    });
}

/// The partial sums of the loss; a block takes `tile[0]` elements of f32, `tile[1]` of bf16.
X2CT_KERNEL(bce_forward_f32, BceParams, BceSumConfig, bce_forward<float>)
X2CT_KERNEL(bce_forward_bf16, BceParams, BceSumConfig, bce_forward<bf16>)
/// The loss of the partial sums, one block.
X2CT_KERNEL(bce_mean, BceParams, BceSumConfig, bce_mean_body)
/// dx and dt; tiles as FORWARD.
X2CT_KERNEL(bce_backward_f32, BceParams, BceConfig, bce_backward<float>)
X2CT_KERNEL(bce_backward_bf16, BceParams, BceConfig, bce_backward<bf16>)
