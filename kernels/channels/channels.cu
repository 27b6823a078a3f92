// What stands between the 1x1x1 convolutions of a channel MLP over volumes x [N, C, V] (V = D1 D2 D3, contiguous), f32 or bf16;
// vectors of channels and their gradients f32.
//
//   gelu    y = GELU(x + b)                 dx = g GELU'(x + b);  db = sum dx
//   scale   y = r + gamma (x + b)           dx = gamma g;  db = gamma sum g;  dgamma = sum g (x + b);  (dr = g: a copy)
//
// and what makes tokens of volumes, and volumes of tokens:
//
//   transpose   y [B, C, R] = x [B, R, C], or y += that
//
// GELU by erf. Sums run over samples and voxels, two-stage in a fixed order: threads in f32, blocks and what follows in f64.
// Bytes: every operand is read or written once. One variant; a flat pass has nothing to choose.
// Test: cargo test --release ops::channels     Time: x2ct bench channels
#include "common/common.h"
#include "params.h"

struct ChannelsConfig : KernelDefaults {
    static constexpr uint32_t threads = 128;
    static constexpr uint32_t quads = 8;  // of a thread
    static constexpr uint32_t tile0 = threads * quads * 4;
    struct Shared {
        float sums[2][threads];
    };
};

// Four elements of a channel, taken through all samples: where they are, and how many exist.
struct Quad {
    uint64_t at[4];
    int count;
};
template <class F>
X2CT_DEVICE void for_quads(const ChannelsParams& p, F f) {
    const uint64_t all = p.samples * p.voxels, c = blockIdx.y;
    auto place = [&](uint64_t e) {
        const uint64_t n = e / p.voxels;
        return (n * p.channels + c) * p.voxels + (e - n * p.voxels);
    };
    for (uint32_t q = 0; q < ChannelsConfig::quads; ++q) {
        const uint64_t e = (uint64_t(blockIdx.x) * ChannelsConfig::quads + q) * (ChannelsConfig::threads * 4) + threadIdx.x * 4;
        if (e >= all) break;
        Quad quad;
        quad.count = int(min(all - e, uint64_t(4)));
        const uint64_t first = place(e);
        X2CT_UNROLL
        for (int l = 0; l < 4; ++l) quad.at[l] = p.vector || l == 0 || l >= quad.count ? first + l : place(e + l);
        f(quad);
    }
}
template <class T>
X2CT_DEVICE void load_quad(const ChannelsParams& p, const void* from, const Quad& quad, float (&v)[4]) {
    const T* x = static_cast<const T*>(from);
    if (p.vector) {
        load_float(x + quad.at[0], v);
    } else {
        X2CT_UNROLL
        for (int l = 0; l < 4; ++l) v[l] = l < quad.count ? to_float(x[quad.at[l]]) : 0.0f;
    }
}
template <class T>
X2CT_DEVICE void store_quad(const ChannelsParams& p, void* to, const Quad& quad, const float (&v)[4]) {
    T* y = static_cast<T*>(to);
    if (p.vector) {
        store_float(y + quad.at[0], v);
    } else {
        X2CT_UNROLL
        for (int l = 0; l < 4; ++l)
            if (l < quad.count) y[quad.at[l]] = from_float<T>(v[l]);
    }
}

X2CT_DEVICE float gelu(float v) { return 0.5f * v * (1.0f + erff(v * 0.70710678118654752440f)); }
X2CT_DEVICE float gelu_slope(float v) {
    return 0.5f * (1.0f + erff(v * 0.70710678118654752440f)) + v * 0.39894228040143267794f * expf(-0.5f * v * v);
}

template <class T>
X2CT_DEVICE void channels_gelu_forward(const ChannelsParams& p) {
    const float b = p.bias[blockIdx.y];
    for_quads(p, [&](const Quad& quad) {
        float v[4];
        load_quad<T>(p, p.x, quad, v);
        X2CT_UNROLL
        for (int l = 0; l < 4; ++l) v[l] = gelu(v[l] + b);
        store_quad<T>(p, p.y, quad, v);
    });
}

template <class T>
X2CT_DEVICE void channels_scale_forward(const ChannelsParams& p) {
    const float b = p.bias[blockIdx.y], gamma = p.gamma[blockIdx.y];
    for_quads(p, [&](const Quad& quad) {
        float v[4], r[4];
        load_quad<T>(p, p.x, quad, v);
        load_quad<T>(p, p.r, quad, r);
        X2CT_UNROLL
        for (int l = 0; l < 4; ++l) v[l] = r[l] + gamma * (v[l] + b);
        store_quad<T>(p, p.y, quad, v);
    });
}

// partial[block] of channel blockIdx.y: the threads' two sums.
X2CT_DEVICE void add_sums(const ChannelsParams& p, float first, float second) {
    auto& s = shared_memory<ChannelsConfig::Shared>();
    s.sums[0][threadIdx.x] = first;
    s.sums[1][threadIdx.x] = second;
    __syncthreads();
    if (threadIdx.x >= 2) return;
    double total = 0.0;
    for (uint32_t i = 0; i < ChannelsConfig::threads; ++i) total += s.sums[threadIdx.x][i];
    p.partial[(uint64_t(blockIdx.x) * p.channels + blockIdx.y) * 2 + threadIdx.x] = total;
}
template <class T>
X2CT_DEVICE void store_gradient(const ChannelsParams& p, const Quad& quad, float (&v)[4]) {
    if (!p.dx) return;
    if (p.accumulate & 1u) {
        float old[4];
        load_quad<T>(p, p.dx, quad, old);
        X2CT_UNROLL
        for (int l = 0; l < 4; ++l) v[l] += old[l];
    }
    store_quad<T>(p, p.dx, quad, v);
}

template <class T>
X2CT_DEVICE void channels_gelu_backward(const ChannelsParams& p) {
    const float b = p.bias[blockIdx.y];
    float sum = 0.0f;
    for_quads(p, [&](const Quad& quad) {
        float v[4], g[4];
        load_quad<T>(p, p.x, quad, v);
        load_quad<T>(p, p.g, quad, g);
        X2CT_UNROLL
        for (int l = 0; l < 4; ++l) {
            v[l] = g[l] * gelu_slope(v[l] + b);
            sum += v[l];
        }
        store_gradient<T>(p, quad, v);
    });
    add_sums(p, sum, 0.0f);
}

template <class T>
X2CT_DEVICE void channels_scale_backward(const ChannelsParams& p) {
    const float b = p.bias[blockIdx.y], gamma = p.gamma[blockIdx.y];
    float sum = 0.0f, product = 0.0f;
    for_quads(p, [&](const Quad& quad) {
        float v[4], g[4];
        load_quad<T>(p, p.x, quad, v);
        load_quad<T>(p, p.g, quad, g);
        X2CT_UNROLL
        for (int l = 0; l < 4; ++l) {
            sum += g[l];
            product += g[l] * (v[l] + b);
            v[l] = gamma * g[l];
        }
        store_gradient<T>(p, quad, v);
    });
    add_sums(p, sum, product);
}

// dbias and dgamma, one thread a channel.
struct ChannelsFinishConfig : KernelDefaults {
    static constexpr uint32_t tile0 = threads;
};
X2CT_DEVICE void channels_finish_body(const ChannelsParams& p) {
    const uint64_t c = uint64_t(blockIdx.x) * ChannelsFinishConfig::threads + threadIdx.x;
    if (c >= p.channels) return;
    double sum = 0.0, product = 0.0;
    for (uint32_t b = 0; b < p.blocks; ++b) {
        sum += p.partial[(uint64_t(b) * p.channels + c) * 2];
        product += p.partial[(uint64_t(b) * p.channels + c) * 2 + 1];
    }
    if (p.dbias) write_gradient(p.dbias + c, float(p.gamma ? p.gamma[c] * sum : sum), (p.accumulate >> 1) & 1u);
    if (p.dgamma) write_gradient(p.dgamma + c, float(product), (p.accumulate >> 2) & 1u);
}

struct TransposeConfig : KernelDefaults {
    static constexpr uint32_t threads = 128;
    static constexpr int side = 32, step = int(threads) / side;
    static constexpr uint32_t tile0 = side;
    struct Shared {
        float square[side][side + 1];  // one more: a column then meets every bank once
    };
};

// A block turns one square of one matrix, so that reads and writes both run along lines.
template <class T>
X2CT_DEVICE void channels_transpose(const TransposeParams& p) {
    using C = TransposeConfig;
    auto& s = shared_memory<C::Shared>();
    const uint64_t across = (p.columns + C::side - 1) / C::side, down = (p.rows + C::side - 1) / C::side;
    const uint64_t matrix = blockIdx.x / (across * down), square = blockIdx.x % (across * down);
    const uint64_t row0 = square / across * C::side, column0 = square % across * C::side;
    const T* x = static_cast<const T*>(p.x) + matrix * p.rows * p.columns;
    T* y = static_cast<T*>(p.y) + matrix * p.rows * p.columns;
    const int lane = int(threadIdx.x) % C::side, first = int(threadIdx.x) / C::side;
    X2CT_UNROLL
    for (int i = first; i < C::side; i += C::step)
        if (row0 + i < p.rows && column0 + lane < p.columns) s.square[i][lane] = to_float(x[(row0 + i) * p.columns + column0 + lane]);
    __syncthreads();
    X2CT_UNROLL
    for (int i = first; i < C::side; i += C::step)
        if (column0 + i < p.columns && row0 + lane < p.rows)
            write_gradient(y + (column0 + i) * p.rows + row0 + lane, s.square[lane][i], p.accumulate);
}

/// y = x transposed; squares of `tile[0]`.
X2CT_KERNEL(channels_transpose_f32, TransposeParams, TransposeConfig, channels_transpose<float>)
X2CT_KERNEL(channels_transpose_bf16, TransposeParams, TransposeConfig, channels_transpose<bf16>)
/// y = GELU(x + bias).
X2CT_KERNEL(channels_gelu_forward_f32, ChannelsParams, ChannelsConfig, channels_gelu_forward<float>)
X2CT_KERNEL(channels_gelu_forward_bf16, ChannelsParams, ChannelsConfig, channels_gelu_forward<bf16>)
/// dx, and the sums of FINISH.
X2CT_KERNEL(channels_gelu_backward_f32, ChannelsParams, ChannelsConfig, channels_gelu_backward<float>)
X2CT_KERNEL(channels_gelu_backward_bf16, ChannelsParams, ChannelsConfig, channels_gelu_backward<bf16>)
/// y = r + gamma (x + bias).
X2CT_KERNEL(channels_scale_forward_f32, ChannelsParams, ChannelsConfig, channels_scale_forward<float>)
X2CT_KERNEL(channels_scale_forward_bf16, ChannelsParams, ChannelsConfig, channels_scale_forward<bf16>)
/// dx, and the sums of FINISH.
X2CT_KERNEL(channels_scale_backward_f32, ChannelsParams, ChannelsConfig, channels_scale_backward<float>)
X2CT_KERNEL(channels_scale_backward_bf16, ChannelsParams, ChannelsConfig, channels_scale_backward<bf16>)
/// dbias and dgamma; a thread a channel.
X2CT_KERNEL(channels_finish, ChannelsParams, ChannelsFinishConfig, channels_finish_body)
