// AdamW with decoupled weight decay and global gradient-norm clipping over one flat arena of n f32 parameters.
//
//   norm = ||g||;  clip = min(1, max_norm / (norm + 1e-6)), 1 where max_norm is 0
//   g = clip g;  m = b1 m + (1 - b1) g;  v = b2 v + (1 - b2) g^2
//   p = p (1 - lr wd);  p -= lr / (1 - b1^t) m / (sqrt(v) / sqrt(1 - b2^t) + eps)
//
// as clip_grad_norm_ and AdamW of PyTorch do; lr and wd are those of the parameter's range. A norm that is not finite,
// or whose clipped square f32 does not hold (1.8e19: v would be infinite for good), leaves parameters, moments and the step
// count as they are, and counts a skipped step.
//
// Learning rate, step, norm and clip factor live in device memory (AdamWState), so a captured graph of a step replays.
//
// Bytes: 28 a parameter (g, p, m, v read; p, m, v written), 4 for the norm's pass unless L2 holds the gradients, 2 for a
// bf16 copy of the parameters. The norm is two-stage in a fixed order: f32 per thread (f64 where f32 overflows), f64 across
// threads and blocks.
//
// Launches: 1. norm partials, 2. finish (one block: norm, clip, bias corrections, rates of each range), 3. update. One
// variant of each: the update is a flat pass, and the readable reference is the loop in tests/ops/optim.rs.
// Test: cargo test --release ops::optim     Time: x2ct bench optim
#include "common/common.h"
#include "params.h"

constexpr int kWidth = 4;  // f32 in a vector
constexpr double kLargestRoot = 1.8446743e19;  // the square root of the largest f32

struct NormConfig : KernelDefaults {
    static constexpr int batch = 4;                   // loads under way per thread
    static constexpr uint32_t tile0 = threads * kWidth;  // parameters of a block and visit
    struct Shared {
        double sums[threads];
        double bias1;
    };
};
struct UpdateConfig : KernelDefaults {
    static constexpr int visits = 4;
    static constexpr uint32_t tile0 = threads * kWidth * visits;  // parameters of a block
};

// Sum over the block in a fixed order, in thread 0: by two short rounds through shared memory, which on a GPU are as fast as warp
// reductions. To a processor each wait costs more than the additions.
X2CT_DEVICE double block_total(double value, NormConfig::Shared& s) {
    constexpr uint32_t group = 16;
    static_assert(NormConfig::threads == group * group, "two rounds of equal length");
    s.sums[threadIdx.x] = value;
    __syncthreads();
    double total = 0.0;
#ifdef __CUDACC__
    if (threadIdx.x < group)
        for (uint32_t i = 0; i < group; ++i) total += s.sums[threadIdx.x * group + i];
    __syncthreads();  // a sum may only be overwritten once all have been read
    if (threadIdx.x < group) s.sums[threadIdx.x] = total;
    __syncthreads();
    total = 0.0;
    if (threadIdx.x == 0)
        for (uint32_t i = 0; i < group; ++i) total += s.sums[i];
#else  // the same additions
    for (uint32_t i = 0; threadIdx.x == 0 && i < group; ++i) {
        double sum = 0.0;
        for (uint32_t j = 0; j < group; ++j) sum += s.sums[i * group + j];
        total += sum;
    }
#endif
    return total;
}

// partial[block] = sum of the squares of the block's gradients.
X2CT_DEVICE void adamw_norm_body(const AdamWParams& p) {
    auto& s = shared_memory<NormConfig::Shared>();
    const uint32_t visits = p.norm_visits;
    const uint64_t block = uint64_t(blockIdx.x) * visits * NormConfig::tile0;
    const uint64_t first = block + uint64_t(threadIdx.x) * kWidth * (p.blocked ? visits : 1);
    const uint64_t stride = p.blocked ? kWidth : NormConfig::tile0;
    float sum[kWidth] = {};
    uint32_t v = 0;
    for (; v + NormConfig::batch <= visits && first + (v + NormConfig::batch - 1) * stride + kWidth <= p.n; v += NormConfig::batch) {
        float g[NormConfig::batch][kWidth];
        X2CT_UNROLL
        for (int u = 0; u < NormConfig::batch; ++u) load_float(p.gradient + first + (v + u) * stride, g[u]);
        X2CT_UNROLL
        for (int u = 0; u < NormConfig::batch; ++u) {
            X2CT_UNROLL
            for (int j = 0; j < kWidth; ++j) sum[j] += g[u][j] * g[u][j];
        }
    }
    for (; v < visits; ++v) {
        const uint64_t i = first + v * stride;
        for (uint64_t k = i; k < i + kWidth && k < p.n; ++k) sum[0] += p.gradient[k] * p.gradient[k];
    }
    double mine = 0.0;
    X2CT_UNROLL
    for (int j = 0; j < kWidth; ++j) mine += sum[j];
    if (!isfinite(mine)) {  // squares beyond f32, though the gradients may be finite: this thread's once more, in f64
        mine = 0.0;
        for (v = 0; v < visits; ++v) {
            const uint64_t i = first + v * stride;
            for (uint64_t k = i; k < i + kWidth && k < p.n; ++k) mine += double(p.gradient[k]) * p.gradient[k];
        }
    }
    const double total = block_total(mine, s);
    if (threadIdx.x == 0) p.partial[blockIdx.x] = total;
}

// One block: the norm, the clip factor and this step's rates.
X2CT_DEVICE void adamw_finish_body(const AdamWParams& p) {
    auto& s = shared_memory<NormConfig::Shared>();
    double mine = 0.0;
    for (uint32_t b = threadIdx.x; b < p.norm_blocks; b += NormConfig::threads) mine += p.partial[b];
    const double total = block_total(mine, s);
    if (threadIdx.x == 0) {
        AdamWState& state = *p.state;
        const double norm = sqrt(total);
        const double wanted = state.max_norm > 0.0 ? state.max_norm / (norm + 1e-6) : 1.0;
        const double clip = wanted < 1.0 ? wanted : 1.0;
        // What is left after clipping must have a square in f32, or v would be infinite for ever.
        const bool finite = isfinite(norm) && norm * clip < kLargestRoot;
        state.grad_norm = norm;
        state.finite = finite;
        state.step += finite;
        state.skipped += !finite;
        state.clip = finite ? float(clip) : 0.0f;
        state.inverse_sqrt_bias2 = float(1.0 / sqrt(1.0 - pow(p.beta2, double(state.step))));
        s.bias1 = 1.0 - pow(p.beta1, double(state.step));
    }
    __syncthreads();
    for (uint32_t r = threadIdx.x; r < p.range_count; r += NormConfig::threads) {
        const double lr = p.state->lr * double(p.ranges[r].lr_scale);
        p.ranges[r].decay = float(1.0 - lr * double(p.ranges[r].weight_decay));
        p.ranges[r].step_size = float(lr / s.bias1);
    }
}

X2CT_DEVICE void adamw_update_body(const AdamWParams& p) {
    const AdamWState& state = *p.state;
    if (!state.finite) return;
    const float clip = state.clip, inverse_sqrt_bias2 = state.inverse_sqrt_bias2, eps = p.eps;
    const float beta2 = float(p.beta2), rest1 = float(1.0 - p.beta1), rest2 = float(1.0 - p.beta2);
    const auto update = [&](float g, float& x, float& m, float& v, float decay, float step_size) {
        g *= clip;
        m += rest1 * (g - m);
        v = beta2 * v + rest2 * (g * g);
        x = x * decay - step_size * (m / (sqrtf(v) * inverse_sqrt_bias2 + eps));
    };
    const uint64_t block = uint64_t(blockIdx.x) * UpdateConfig::tile0;
    const uint64_t first = block + uint64_t(threadIdx.x) * kWidth * (p.blocked ? UpdateConfig::visits : 1);
    const uint64_t stride = p.blocked ? kWidth : kWidth * UpdateConfig::threads;
    uint32_t r = p.first_range[blockIdx.x];
    AdamWRange range = p.ranges[r];
    X2CT_UNROLL
    for (int visit = 0; visit < UpdateConfig::visits; ++visit) {
        const uint64_t i = first + visit * stride;
        if (i >= p.n) return;
        while (i >= range.end) range = p.ranges[++r];
        if (i + kWidth <= range.end) {  // the last range ends at n
            float g[kWidth], x[kWidth], m[kWidth], v[kWidth];
            load_float(p.gradient + i, g);
            load_float(p.parameter + i, x);
            load_float(p.exp_avg + i, m);
            load_float(p.exp_avg_sq + i, v);
            X2CT_UNROLL
            for (int j = 0; j < kWidth; ++j) update(g[j], x[j], m[j], v[j], range.decay, range.step_size);
            store_float(p.parameter + i, x);
            store_float(p.exp_avg + i, m);
            store_float(p.exp_avg_sq + i, v);
            if (p.copy) store_float(p.copy + i, x);
        } else {
            for (uint64_t k = i; k < i + kWidth && k < p.n; ++k) {
                while (k >= range.end) range = p.ranges[++r];
                update(p.gradient[k], p.parameter[k], p.exp_avg[k], p.exp_avg_sq[k], range.decay, range.step_size);
                if (p.copy) p.copy[k] = to_bf16(p.parameter[k]);
            }
        }
    }
}

/// Sums of squares; tile\[0\] parameters a block and visit.
X2CT_KERNEL(adamw_norm, AdamWParams, NormConfig, adamw_norm_body)
/// Norm, clip factor and rates; one block.
X2CT_KERNEL(adamw_finish, AdamWParams, NormConfig, adamw_finish_body)
/// The update; tile\[0\] parameters a block.
X2CT_KERNEL(adamw_update, AdamWParams, UpdateConfig, adamw_update_body)
