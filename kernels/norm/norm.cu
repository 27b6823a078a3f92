// Normalisation over columns and rows. Layer norm and L2 normalisation: norm_rows.cuh. Here:
// batch normalisation over the rows of x [M, C] (channels last; M = N H W), with the ReLU and the residual addition that
// follow it in a residual network fused in. Storage of x, residual, y and their gradients f32 or bf16; weight, bias,
// statistics and their gradients f32.
//
//   forward   mean, var = statistics of each column (training) or the running ones (evaluation); rstd = 1/sqrt(var + eps)
//             y = relu((x - mean) rstd weight + bias + residual)          relu and residual optional
//             running = (1 - momentum) running + momentum (mean, var M / (M - 1))          training
//   backward  dz = dy where y > 0 (everywhere without relu);  dresidual = dz
//             dbias = sum dz;  dweight = sum dz (x - mean) rstd
//             dx = weight rstd (dz - dbias / M - (x - mean) rstd dweight / M)          training; the first term alone in evaluation
//
// Statistics are two-stage and in a fixed order. A block sums x - k and (x - k)^2 in f32, k being its first row, so that a
// mean far from zero cancels before squaring; lanes and then blocks are combined in f64, each block's sums moved from its
// own k to the first block's. The number of blocks depends on the shape alone.
//
// Bytes, A = those of x. Forward: 3 A in training (x twice, y), 2 A in evaluation, one more with a residual. Backward in
// training: 5 A (x, dy; x, dy, dx): the ReLU's mask is recomputed from x, the expression being the same. With a residual the
// mask is read from y, and the first pass leaves dz in dresidual for the second: 7 A (x, dy, y, dz; x, dz, dx).
//
// Variants: 1. naive: one thread a channel (two passes in f64) or an element.
//           2. interleaved, 3. blocked: as above, 16-byte vectors, several rows in flight; they differ in which rows a thread
//              visits (common/columns.h). 2 is for GPUs, 3 for processors.
// Test: cargo test --release ops::norm     Time: x2ct bench norm
#include "common/columns.h"
#include "common/common.h"
#include "params.h"

enum Mask : uint32_t { kMaskNone = 0, kMaskOutput = 1, kMaskRecompute = 2 };

struct ColumnConfig : KernelDefaults {
    static constexpr uint32_t min_blocks = 2;
    static constexpr int batch = 4;           // rows in flight per thread
    static constexpr int gradient_batch = 2;  // of three tensors each: four would spill
};
struct ColumnSumConfig : ColumnConfig {
    static constexpr uint32_t plane = threads * 8;  // widest vector: 8 bf16
    struct Shared {
        float lanes[2][plane];
    };
    static_assert(kMaxColumns * 8 <= threads, "one thread per channel finishes a block");
};
struct FinishConfig : KernelDefaults {
    static constexpr uint32_t tile0 = 32;  // channels of a block
    static constexpr uint32_t lanes = threads / tile0;
    struct Shared {
        double lanes[2][FinishConfig::lanes][tile0];
    };
};
// tile0: items of a block
struct NaiveConfig : KernelDefaults {
    static constexpr uint32_t tile0 = threads;
};

X2CT_DEVICE float normalized(float x, float mean, float scale, float bias) { return (x - mean) * scale + bias; }

// Statistics of this pass and the running ones from the batch's f64 moments.
X2CT_DEVICE void write_statistics(const BatchNormParams& p, uint64_t c, double mean, double variance) {
    const double m = double(p.rows);
    p.mean[c] = float(mean);
    p.rstd[c] = float(1.0 / sqrt(variance + p.eps));
    p.running_mean[c] = float((1.0 - p.momentum) * p.running_mean[c] + p.momentum * mean);
    p.running_var[c] = float((1.0 - p.momentum) * p.running_var[c] + p.momentum * variance * m / (m - 1.0));
}

// Gradients of the parameters and the coefficients of dx from sum dz and sum dz (x - mean).
X2CT_DEVICE void write_sums(const BatchNormParams& p, uint64_t c, double dz, double dz_x) {
    const double rstd = p.rstd[c], m = double(p.rows);
    if (p.dweight) write_gradient(p.dweight + c, float(dz_x * rstd), p.accumulate_dweight);
    if (p.dbias) write_gradient(p.dbias + c, float(dz), p.accumulate_dbias);
    p.coefficients[c] = p.training ? float(dz / m) : 0.0f;
    p.coefficients[p.channels + c] = p.training ? float(dz_x * rstd * rstd / m) : 0.0f;
}

// --- Variants 2 and 3 ------------------------------------------------------------------------------------------------

// partial[block] = (k, sum (x - k), sum (x - k)^2) of the block's rows.
template <class T, int W>
X2CT_DEVICE void column_moments(const BatchNormParams& p) {
    auto& s = shared_memory<ColumnSumConfig::Shared>();
    const ColumnThread t = column_thread<W>(p.walk, p.rows, p.channels);
    const T* x = static_cast<const T*>(p.x);
    float sums[2][W] = {};
    if (t.visits) {
        float k[W];
        load_float(x + t.first_row * p.channels + t.channel, k);
        for_visits<ColumnConfig::batch>(t.visits, [&](uint32_t i, auto batch) {
            constexpr int U = decltype(batch)::value;
            Vec<T, W> v[U];
            X2CT_UNROLL
            for (int u = 0; u < U; ++u) v[u] = load_vec<W>(x + t.offset + (i + u) * t.stride);
            X2CT_UNROLL
            for (int u = 0; u < U; ++u) {
                X2CT_UNROLL
                for (int j = 0; j < W; ++j) {
                    const float d = to_float(v[u].v[j]) - k[j];
                    sums[0][j] += d;
                    sums[1][j] += d * d;
                }
            }
        });
    }
    reduce_lanes(p.walk, t, p.channels, sums, &s.lanes[0][0], ColumnSumConfig::plane, [&](uint64_t c, const double(&totals)[2]) {
        double* out = p.partial + uint64_t(blockIdx.x) * 3 * p.channels + c;
        out[0] = double(to_float(x[t.first_row * p.channels + c]));
        out[p.channels] = totals[0];
        out[2 * p.channels] = totals[1];
    });
}

// Adds f(block) = two values over the reduction's blocks, in an order that depends on their number alone; the total is
// valid in the first tile0 threads, one a channel. Every thread of the block calls.
template <class F>
X2CT_DEVICE void add_blocks(uint64_t channels, uint32_t blocks, double (&total)[2], F f) {
    auto& s = shared_memory<FinishConfig::Shared>();
    const uint32_t column = threadIdx.x % FinishConfig::tile0, lane = threadIdx.x / FinishConfig::tile0;
    const bool inside = uint64_t(blockIdx.x) * FinishConfig::tile0 + column < channels;
    double sum[2] = {};
    for (uint32_t b = lane; inside && b < blocks; b += FinishConfig::lanes) f(b, sum);
    s.lanes[0][lane][column] = sum[0];
    s.lanes[1][lane][column] = sum[1];
    __syncthreads();
    total[0] = total[1] = 0.0;
    if (lane) return;
    for (uint32_t l = 0; l < FinishConfig::lanes; ++l) {
        total[0] += s.lanes[0][l][column];
        total[1] += s.lanes[1][l][column];
    }
}

X2CT_DEVICE void batch_norm_finish_body(const BatchNormParams& p) {
    const uint64_t c = uint64_t(blockIdx.x) * FinishConfig::tile0 + threadIdx.x % FinishConfig::tile0;
    const uint64_t block_rows = uint64_t(p.walk.lanes) * p.walk.rows_per_thread;
    const double k0 = c < p.channels ? p.partial[c] : 0.0;
    double total[2];
    add_blocks(p.channels, p.blocks, total, [&](uint32_t b, double(&sum)[2]) {
        const double* in = p.partial + uint64_t(b) * 3 * p.channels + c;
        const double n = double(min(block_rows, p.rows - b * block_rows));
        const double d = in[0] - k0, s1 = in[p.channels], s2 = in[2 * p.channels];
        sum[0] += s1 + n * d;
        sum[1] += s2 + d * (2.0 * s1 + n * d);
    });
    if (threadIdx.x >= FinishConfig::tile0 || c >= p.channels) return;
    const double shifted_mean = total[0] / double(p.rows);
    const double variance = total[1] / double(p.rows) - shifted_mean * shifted_mean;
    // Not below zero: a constant column may round there. A comparison, so that NaN stays NaN.
    write_statistics(p, c, k0 + shifted_mean, variance < 0.0 ? 0.0 : variance);
}

// Evaluation: the running statistics become those of this pass, kept for the backward pass.
X2CT_DEVICE void batch_norm_running_body(const BatchNormParams& p) {
    const uint64_t c = uint64_t(blockIdx.x) * NaiveConfig::threads + threadIdx.x;
    if (c >= p.channels) return;
    p.mean[c] = p.running_mean[c];
    p.rstd[c] = float(1.0 / sqrt(double(p.running_var[c]) + p.eps));
}

// The per-channel values of a thread's vector.
template <int W>
struct ChannelValues {
    float mean[W], scale[W], bias[W];  // scale = weight rstd
};
template <int W>
X2CT_DEVICE ChannelValues<W> channel_values(const BatchNormParams& p, uint64_t channel) {
    ChannelValues<W> c;
    float rstd[W];
    load_channels(p.mean + channel, c.mean);
    load_channels(p.weight + channel, c.scale);
    load_channels(p.bias + channel, c.bias);
    load_channels(p.rstd + channel, rstd);
    X2CT_UNROLL
    for (int j = 0; j < W; ++j) c.scale[j] *= rstd[j];
    return c;
}

template <class T, int W, bool Residual>
X2CT_DEVICE void column_apply(const BatchNormParams& p) {
    const ColumnThread t = column_thread<W>(p.walk, p.rows, p.channels);
    if (!t.visits) return;
    const T* x = static_cast<const T*>(p.x) + t.offset;
    const T* residual = static_cast<const T*>(p.residual) + (Residual ? t.offset : 0);
    T* y = static_cast<T*>(p.y) + t.offset;
    const ChannelValues<W> c = channel_values<W>(p, t.channel);
    const float floor = p.relu ? 0.0f : -INFINITY;
    for_visits<ColumnConfig::batch>(t.visits, [&](uint32_t i, auto batch) {
        constexpr int U = decltype(batch)::value;
        Vec<T, W> v[U], r[U] = {};
        X2CT_UNROLL
        for (int u = 0; u < U; ++u) v[u] = load_vec<W>(x + (i + u) * t.stride);
        if (Residual) {
            X2CT_UNROLL
            for (int u = 0; u < U; ++u) r[u] = load_vec<W>(residual + (i + u) * t.stride);
        }
        X2CT_UNROLL
        for (int u = 0; u < U; ++u) {
            float out[W];
            X2CT_UNROLL
            for (int j = 0; j < W; ++j) out[j] = normalized(to_float(v[u].v[j]), c.mean[j], c.scale[j], c.bias[j]);
            if (Residual) {
                X2CT_UNROLL
                for (int j = 0; j < W; ++j) out[j] += to_float(r[u].v[j]);
            }
            X2CT_UNROLL
            for (int j = 0; j < W; ++j) out[j] = out[j] < floor ? floor : out[j];  // NaN passes through
            store_float(y + (i + u) * t.stride, out);
        }
    });
}

// dz of a vector: dy where the ReLU let the value through.
template <class T, int W>
X2CT_DEVICE void masked(float (&dz)[W], const Vec<T, W>& dy, const Vec<T, W>& x, const Vec<T, W>& y, const ChannelValues<W>& c, uint32_t mask) {
    float z[W];
    X2CT_UNROLL
    for (int j = 0; j < W; ++j) {
        dz[j] = to_float(dy.v[j]);
        z[j] = mask == kMaskOutput ? to_float(y.v[j]) : normalized(to_float(x.v[j]), c.mean[j], c.scale[j], c.bias[j]);
    }
    if (mask == kMaskNone) return;
    X2CT_UNROLL
    for (int j = 0; j < W; ++j) dz[j] = z[j] <= 0.0f ? 0.0f : dz[j];
}

// partial[block] = (sum dz, sum dz (x - mean)) of the block's rows; dz is written where wanted.
template <class T, int W>
X2CT_DEVICE void column_gradient_sums(const BatchNormParams& p) {
    auto& s = shared_memory<ColumnSumConfig::Shared>();
    const ColumnThread t = column_thread<W>(p.walk, p.rows, p.channels);
    const T* x = static_cast<const T*>(p.x) + t.offset;
    const T* dy = static_cast<const T*>(p.dy) + t.offset;
    const T* y = static_cast<const T*>(p.y) + t.offset;
    T* dz_out = p.dz ? static_cast<T*>(p.dz) + t.offset : nullptr;
    float sums[2][W] = {};
    if (t.visits) {
        const ChannelValues<W> c = channel_values<W>(p, t.channel);
        for_visits<ColumnConfig::gradient_batch>(t.visits, [&](uint32_t i, auto batch) {
            constexpr int U = decltype(batch)::value;
            Vec<T, W> xs[U], dys[U], ys[U] = {};
            X2CT_UNROLL
            for (int u = 0; u < U; ++u) {
                xs[u] = load_vec<W>(x + (i + u) * t.stride);
                dys[u] = load_vec<W>(dy + (i + u) * t.stride);
            }
            if (p.mask == kMaskOutput) {
                X2CT_UNROLL
                for (int u = 0; u < U; ++u) ys[u] = load_vec<W>(y + (i + u) * t.stride);
            }
            X2CT_UNROLL
            for (int u = 0; u < U; ++u) {
                float dz[W];
                masked(dz, dys[u], xs[u], ys[u], c, p.mask);
                X2CT_UNROLL
                for (int j = 0; j < W; ++j) {
                    sums[0][j] += dz[j];
                    sums[1][j] += dz[j] * (to_float(xs[u].v[j]) - c.mean[j]);
                }
                if (dz_out) store_float(dz_out + (i + u) * t.stride, dz);
            }
        });
    }
    reduce_lanes(p.walk, t, p.channels, sums, &s.lanes[0][0], ColumnSumConfig::plane, [&](uint64_t c, const double(&totals)[2]) {
        double* out = p.partial + uint64_t(blockIdx.x) * 2 * p.channels + c;
        out[0] = totals[0];
        out[p.channels] = totals[1];
    });
}

X2CT_DEVICE void batch_norm_gradient_finish_body(const BatchNormParams& p) {
    const uint64_t c = uint64_t(blockIdx.x) * FinishConfig::tile0 + threadIdx.x % FinishConfig::tile0;
    double total[2];
    add_blocks(p.channels, p.blocks, total, [&](uint32_t b, double(&sum)[2]) {
        const double* in = p.partial + uint64_t(b) * 2 * p.channels + c;
        sum[0] += in[0];
        sum[1] += in[p.channels];
    });
    if (threadIdx.x < FinishConfig::tile0 && c < p.channels) write_sums(p, c, total[0], total[1]);
}

template <class T, int W>
X2CT_DEVICE void store_gradient(T* destination, float (&value)[W], uint32_t accumulate) {
    if (accumulate) {
        float old[W];
        load_float(destination, old);
        X2CT_UNROLL
        for (int j = 0; j < W; ++j) value[j] += old[j];
    }
    store_float(destination, value);
}

template <class T, int W>
X2CT_DEVICE void column_gradient_apply(const BatchNormParams& p) {
    const ColumnThread t = column_thread<W>(p.walk, p.rows, p.channels);
    if (!t.visits) return;
    const T* x = static_cast<const T*>(p.x) + t.offset;
    const T* dy = static_cast<const T*>(p.dy) + t.offset;
    const T* y = static_cast<const T*>(p.y) + t.offset;
    T* dx = p.dx ? static_cast<T*>(p.dx) + t.offset : nullptr;
    T* dresidual = p.dresidual ? static_cast<T*>(p.dresidual) + t.offset : nullptr;
    const ChannelValues<W> c = channel_values<W>(p, t.channel);
    float c0[W] = {}, c1[W] = {};
    if (p.training) {
        load_channels(p.coefficients + t.channel, c0);
        load_channels(p.coefficients + p.channels + t.channel, c1);
    }
    for_visits<ColumnConfig::gradient_batch>(t.visits, [&](uint32_t i, auto batch) {
        constexpr int U = decltype(batch)::value;
        Vec<T, W> xs[U], dys[U], ys[U] = {};
        X2CT_UNROLL
        for (int u = 0; u < U; ++u) {
            xs[u] = load_vec<W>(x + (i + u) * t.stride);
            dys[u] = load_vec<W>(dy + (i + u) * t.stride);
        }
        if (p.mask == kMaskOutput) {
            X2CT_UNROLL
            for (int u = 0; u < U; ++u) ys[u] = load_vec<W>(y + (i + u) * t.stride);
        }
        X2CT_UNROLL
        for (int u = 0; u < U; ++u) {
            float dz[W], out[W];
            masked(dz, dys[u], xs[u], ys[u], c, p.mask);
            X2CT_UNROLL
            for (int j = 0; j < W; ++j) out[j] = c.scale[j] * (dz[j] - c0[j] - (to_float(xs[u].v[j]) - c.mean[j]) * c1[j]);
            if (dx) store_gradient(dx + (i + u) * t.stride, out, p.accumulate_dx);
            if (dresidual) store_gradient(dresidual + (i + u) * t.stride, dz, p.accumulate_dresidual);
        }
    });
}

template <class T>
X2CT_DEVICE void batch_norm_moments(const BatchNormParams& p) {
    constexpr int width = vec_width<T>();
    if (p.walk.vector) column_moments<T, width>(p);
    else column_moments<T, 1>(p);
}
template <class T>
X2CT_DEVICE void batch_norm_apply(const BatchNormParams& p) {
    constexpr int width = vec_width<T>();
    if (p.walk.vector && p.residual) column_apply<T, width, true>(p);
    else if (p.walk.vector) column_apply<T, width, false>(p);
    else if (p.residual) column_apply<T, 1, true>(p);
    else column_apply<T, 1, false>(p);
}
template <class T>
X2CT_DEVICE void batch_norm_gradient_sums(const BatchNormParams& p) {
    constexpr int width = vec_width<T>();
    if (p.walk.vector) column_gradient_sums<T, width>(p);
    else column_gradient_sums<T, 1>(p);
}
template <class T>
X2CT_DEVICE void batch_norm_gradient_apply(const BatchNormParams& p) {
    constexpr int width = vec_width<T>();
    if (p.walk.vector) column_gradient_apply<T, width>(p);
    else column_gradient_apply<T, 1>(p);
}

// --- Variant 1 -------------------------------------------------------------------------------------------------------

template <class T>
X2CT_DEVICE void batch_norm_moments_naive(const BatchNormParams& p) {
    const uint64_t c = uint64_t(blockIdx.x) * NaiveConfig::threads + threadIdx.x;
    if (c >= p.channels) return;
    const T* x = static_cast<const T*>(p.x) + c;
    const double m = double(p.rows);
    double sum = 0.0, squares = 0.0;
    for (uint64_t r = 0; r < p.rows; ++r) sum += to_float(x[r * p.channels]);
    const double mean = sum / m;
    for (uint64_t r = 0; r < p.rows; ++r) {
        const double d = to_float(x[r * p.channels]) - mean;
        squares += d * d;
    }
    write_statistics(p, c, mean, squares / m);
}

template <class T>
X2CT_DEVICE void batch_norm_apply_naive(const BatchNormParams& p) {
    const uint64_t i = uint64_t(blockIdx.x) * NaiveConfig::threads + threadIdx.x;
    if (i >= p.rows * p.channels) return;
    const uint64_t c = i % p.channels;
    float z = normalized(to_float(static_cast<const T*>(p.x)[i]), p.mean[c], p.weight[c] * p.rstd[c], p.bias[c]);
    if (p.residual) z += to_float(static_cast<const T*>(p.residual)[i]);
    static_cast<T*>(p.y)[i] = from_float<T>(p.relu && z < 0.0f ? 0.0f : z);
}

template <class T>
X2CT_DEVICE float masked_naive(const BatchNormParams& p, uint64_t i) {
    float dz[1];
    masked(dz, load_vec<1>(static_cast<const T*>(p.dy) + i), load_vec<1>(static_cast<const T*>(p.x) + i),
           p.mask == kMaskOutput ? load_vec<1>(static_cast<const T*>(p.y) + i) : Vec<T, 1>{}, channel_values<1>(p, i % p.channels), p.mask);
    return dz[0];
}

template <class T>
X2CT_DEVICE void batch_norm_gradient_sums_naive(const BatchNormParams& p) {
    const uint64_t c = uint64_t(blockIdx.x) * NaiveConfig::threads + threadIdx.x;
    if (c >= p.channels) return;
    double sum = 0.0, sum_x = 0.0;
    for (uint64_t i = c; i < p.rows * p.channels; i += p.channels) {
        const double dz = masked_naive<T>(p, i);
        sum += dz;
        sum_x += dz * (to_float(static_cast<const T*>(p.x)[i]) - double(p.mean[c]));
    }
    write_sums(p, c, sum, sum_x);
}

template <class T>
X2CT_DEVICE void batch_norm_gradient_apply_naive(const BatchNormParams& p) {
    const uint64_t i = uint64_t(blockIdx.x) * NaiveConfig::threads + threadIdx.x;
    if (i >= p.rows * p.channels) return;
    const uint64_t c = i % p.channels;
    const float dz = masked_naive<T>(p, i), d = to_float(static_cast<const T*>(p.x)[i]) - p.mean[c];
    const float c0 = p.training ? p.coefficients[c] : 0.0f, c1 = p.training ? p.coefficients[p.channels + c] : 0.0f;
    if (p.dx) write_gradient(static_cast<T*>(p.dx) + i, p.weight[c] * p.rstd[c] * (dz - c0 - d * c1), p.accumulate_dx);
    if (p.dresidual) write_gradient(static_cast<T*>(p.dresidual) + i, dz, p.accumulate_dresidual);
}

/// Per block of rows: a shift, and the sums of the shifted values and of their squares.
X2CT_KERNEL(batch_norm_moments_f32, BatchNormParams, ColumnSumConfig, batch_norm_moments<float>)
X2CT_KERNEL(batch_norm_moments_bf16, BatchNormParams, ColumnSumConfig, batch_norm_moments<bf16>)
/// mean, rstd and the running statistics from the blocks' sums; tile\[0\] channels a block.
X2CT_KERNEL(batch_norm_finish, BatchNormParams, FinishConfig, batch_norm_finish_body)
/// mean and rstd from the running statistics.
X2CT_KERNEL(batch_norm_running, BatchNormParams, NaiveConfig, batch_norm_running_body)
/// y.
X2CT_KERNEL(batch_norm_apply_f32, BatchNormParams, ColumnConfig, batch_norm_apply<float>)
X2CT_KERNEL(batch_norm_apply_bf16, BatchNormParams, ColumnConfig, batch_norm_apply<bf16>)
/// Per block of rows: sum dz and sum dz (x - mean); dz where wanted.
X2CT_KERNEL(batch_norm_gradient_sums_f32, BatchNormParams, ColumnSumConfig, batch_norm_gradient_sums<float>)
X2CT_KERNEL(batch_norm_gradient_sums_bf16, BatchNormParams, ColumnSumConfig, batch_norm_gradient_sums<bf16>)
/// dweight, dbias and the coefficients of dx from the blocks' sums; tile\[0\] channels a block.
X2CT_KERNEL(batch_norm_gradient_finish, BatchNormParams, FinishConfig, batch_norm_gradient_finish_body)
/// dx and dresidual.
X2CT_KERNEL(batch_norm_gradient_apply_f32, BatchNormParams, ColumnConfig, batch_norm_gradient_apply<float>)
X2CT_KERNEL(batch_norm_gradient_apply_bf16, BatchNormParams, ColumnConfig, batch_norm_gradient_apply<bf16>)
/// Variant 1 of MOMENTS and FINISH, one thread a channel.
X2CT_KERNEL(batch_norm_moments_naive_f32, BatchNormParams, NaiveConfig, batch_norm_moments_naive<float>)
X2CT_KERNEL(batch_norm_moments_naive_bf16, BatchNormParams, NaiveConfig, batch_norm_moments_naive<bf16>)
/// Variant 1 of APPLY, one thread an element.
X2CT_KERNEL(batch_norm_apply_naive_f32, BatchNormParams, NaiveConfig, batch_norm_apply_naive<float>)
X2CT_KERNEL(batch_norm_apply_naive_bf16, BatchNormParams, NaiveConfig, batch_norm_apply_naive<bf16>)
/// Variant 1 of GRADIENT_SUMS and GRADIENT_FINISH, one thread a channel.
X2CT_KERNEL(batch_norm_gradient_sums_naive_f32, BatchNormParams, NaiveConfig, batch_norm_gradient_sums_naive<float>)
X2CT_KERNEL(batch_norm_gradient_sums_naive_bf16, BatchNormParams, NaiveConfig, batch_norm_gradient_sums_naive<bf16>)
/// Variant 1 of GRADIENT_APPLY, one thread an element.
X2CT_KERNEL(batch_norm_gradient_apply_naive_f32, BatchNormParams, NaiveConfig, batch_norm_gradient_apply_naive<float>)
X2CT_KERNEL(batch_norm_gradient_apply_naive_bf16, BatchNormParams, NaiveConfig, batch_norm_gradient_apply_naive<bf16>)

#include "norm_rows.cuh"
