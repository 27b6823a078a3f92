// Multi-head self-attention (Vaswani et al. 2017): o = softmax(scale q k^T) v for each sample and head, with O(T) memory (Milakov and
// Gimelshein 2018; Dao et al. 2022). f32 or bf16 storage, f32 arithmetic.
//
// Element (n, h, t, c) of q, k, v and their gradients lies at n input[0] + h input[1] + t input[2] + c; of o and its gradient at
// `output` so. One kernel serves [N, H, T, d] and the packed [N, T, 3, H, d] of a ViT, whose heads then need no permutation.
//
//   forward    s_ij = scale q_i . k_j;   lse_i = log sum over j of exp(s_ij);   o_i = sum over j of exp(s_ij - lse_i) v_j
//   backward   p_ij = exp(s_ij - lse_i) again;   delta_i = do_i . o_i;   ds_ij = p_ij (do_i . v_j - delta_i)
//              dq_i = scale sum over j of ds_ij k_j;   dk_j = scale sum over i of ds_ij q_i;   dv_j = sum over i of p_ij do_i
//
// Three backward passes, each the only writer of what it writes: delta; dq by tiles of queries; dk and dv by tiles of keys. s and p
// never leave the chip, at the price of computing s three times: 7 T^2 d multiply-adds backward where 4 would do with p stored.
//
// Bytes, A = those of q: forward 4 A + lse; k and v are read again by each tile of 64 queries, from L2. Backward: delta 2 A; dq 5 A and
// dk, dv 6 A, with such repetition. Multiply-adds: 2 T^2 d forward, 7 T^2 d backward, a head.
//
// Variants: 1. naive: one thread an element of o or of a gradient, any head dimension.
//           2. tiled: 64 rows that stay against 32 that move, through shared memory; a thread has 4 x 4 of s, then 4 x D/8 of the result.
//              D is the head dimension the code is written out for (32, 64; smaller ones are filled up with zeros).
// Sums run in the order of the moving rows, maxima are exact: results depend on the shape alone.
// Test: cargo test --release ops::attention     Time: x2ct bench attention
#include "common/common.h"
#include "tiles/similarity.cuh"
#include "params.h"

// Where a sample's head starts.
struct Head {
    uint64_t in, out, rows;  // rows: of lse and delta
};
X2CT_DEVICE Head head_of(const AttentionParams& p, uint64_t index) {
    const uint64_t n = index / p.heads, h = index % p.heads;
    return {n * p.input[0] + h * p.input[1], n * p.output[0] + h * p.output[1], index * p.tokens};
}

// --- Variant 1 -------------------------------------------------------------------------------------------------------------

struct AttentionNaiveConfig : KernelDefaults {
    static constexpr uint32_t tile0 = threads;
};

// The element (head, token, c) of thread `i`, or none.
struct Element {
    Head head;
    uint64_t token;
    uint32_t c;
    bool exists;
};
X2CT_DEVICE Element element_of(const AttentionParams& p) {
    const uint64_t i = uint64_t(blockIdx.x) * AttentionNaiveConfig::threads + threadIdx.x;
    const uint64_t row = i / p.head_dim;
    return {head_of(p, row / p.tokens), row % p.tokens, uint32_t(i % p.head_dim), row < p.batch * p.heads * p.tokens};
}

template <class T>
X2CT_DEVICE float dot(const T* a, const T* b, uint32_t d) {
    float sum = 0.0f;
    for (uint32_t c = 0; c < d; ++c) sum += to_float(a[c]) * to_float(b[c]);
    return sum;
}

template <class T>
X2CT_DEVICE void attention_forward_naive(const AttentionParams& p) {
    const Element e = element_of(p);
    if (!e.exists) return;
    const T* q = static_cast<const T*>(p.q) + e.head.in + e.token * p.input[2];
    const T *k = static_cast<const T*>(p.k) + e.head.in, *v = static_cast<const T*>(p.v) + e.head.in;
    // Idea: sum and result are kept relative to the largest s so far, and rescaled when it grows.
    float largest = -infinity(), sum = 0.0f, result = 0.0f;
    for (uint64_t j = 0; j < p.tokens; ++j) {
        const float s = p.scale * dot(q, k + j * p.input[2], p.head_dim), before = largest;
        largest = fmaxf(largest, s);
        const float keep = expf(before - largest), weight = expf(s - largest);
        sum = sum * keep + weight;
        result = result * keep + weight * to_float(v[j * p.input[2] + e.c]);
    }
    static_cast<T*>(p.o)[e.head.out + e.token * p.output[2] + e.c] = from_float<T>(result / sum);
    if (e.c == 0) p.lse[e.head.rows + e.token] = largest + logf(sum);
}

template <class T>
X2CT_DEVICE void attention_query_gradient_naive(const AttentionParams& p) {
    const Element e = element_of(p);
    if (!e.exists) return;
    const T* q = static_cast<const T*>(p.q) + e.head.in + e.token * p.input[2];
    const T *k = static_cast<const T*>(p.k) + e.head.in, *v = static_cast<const T*>(p.v) + e.head.in;
    const T* g = static_cast<const T*>(p.g) + e.head.out + e.token * p.output[2];
    const float lse = p.lse[e.head.rows + e.token], delta = p.delta[e.head.rows + e.token];
    float sum = 0.0f;
    for (uint64_t j = 0; j < p.tokens; ++j) {
        const float weight = expf(p.scale * dot(q, k + j * p.input[2], p.head_dim) - lse);
        sum += weight * (dot(g, v + j * p.input[2], p.head_dim) - delta) * to_float(k[j * p.input[2] + e.c]);
    }
    write_gradient(static_cast<T*>(p.dq) + e.head.in + e.token * p.input[2] + e.c, p.scale * sum, p.accumulate & 1u);
}

template <class T>
X2CT_DEVICE void attention_key_gradient_naive(const AttentionParams& p) {
    const Element e = element_of(p);
    if (!e.exists) return;
    const T *q = static_cast<const T*>(p.q) + e.head.in, *g = static_cast<const T*>(p.g) + e.head.out;
    const uint64_t at = e.head.in + e.token * p.input[2];
    const T *k = static_cast<const T*>(p.k) + at, *v = static_cast<const T*>(p.v) + at;
    float dk = 0.0f, dv = 0.0f;
    for (uint64_t i = 0; i < p.tokens; ++i) {
        const T *query = q + i * p.input[2], *up = g + i * p.output[2];
        const float weight = expf(p.scale * dot(query, k, p.head_dim) - p.lse[e.head.rows + i]);
        dk += weight * (dot(up, v, p.head_dim) - p.delta[e.head.rows + i]) * to_float(query[e.c]);
        dv += weight * to_float(up[e.c]);
    }
    if (p.dk) write_gradient(static_cast<T*>(p.dk) + at + e.c, p.scale * dk, (p.accumulate >> 1) & 1u);
    if (p.dv) write_gradient(static_cast<T*>(p.dv) + at + e.c, dv, (p.accumulate >> 2) & 1u);
}

// delta, one thread a row: of both variants.
template <class T>
X2CT_DEVICE void attention_delta(const AttentionParams& p) {
    const uint64_t row = uint64_t(blockIdx.x) * AttentionNaiveConfig::threads + threadIdx.x;
    if (row >= p.batch * p.heads * p.tokens) return;
    const uint64_t at = head_of(p, row / p.tokens).out + row % p.tokens * p.output[2];
    p.delta[row] = dot(static_cast<const T*>(p.o) + at, static_cast<const T*>(p.g) + at, p.head_dim);
}

// --- Variant 2 -------------------------------------------------------------------------------------------------------------

constexpr int kStay = 64, kMove = 32;  // rows of a tile
struct AttentionConfig : KernelDefaults {
    static constexpr uint32_t threads = 128;
    static constexpr uint32_t tile0 = kStay;
    static_assert(threads == (kStay / 4) * (kMove / 4), "a thread has 4 x 4 of s");
};
constexpr int kAcross = kMove / 4;  // threads that share the four rows that stay

// Rows [first, first + Rows) of a head with their D elements down the columns of `to`; zero past the last token and dimension.
template <int D, int Rows, class T>
X2CT_DEVICE void load_columns(const AttentionParams& p, const T* from, uint64_t stride, uint32_t first, float (&to)[D][Rows]) {
    for (int i = int(threadIdx.x); i < Rows * D / 4; i += int(AttentionConfig::threads)) {
        const int row = i % Rows, c = i / Rows * 4;
        float part[4] = {};
        if (first + row < p.tokens) load_row4(from + (first + row) * stride, uint64_t(c), uint64_t(p.head_dim), p.vector, part);
        X2CT_UNROLL
        for (int l = 0; l < 4; ++l) to[c + l][row] = part[l];
    }
}
// The same as rows.
template <int D, int Rows, class T>
X2CT_DEVICE void load_rows(const AttentionParams& p, const T* from, uint64_t stride, uint32_t first, float (&to)[Rows][D]) {
    for (int i = int(threadIdx.x); i < Rows * D / 4; i += int(AttentionConfig::threads)) {
        const int row = i / (D / 4), c = i % (D / 4) * 4;
        float part[4] = {};
        if (first + row < p.tokens) load_row4(from + (first + row) * stride, uint64_t(c), uint64_t(p.head_dim), p.vector, part);
        store_float(&to[row][c], part);
    }
}

// Whom a thread works for: rows 4 stay... that stay, rows 4 move... that move, columns 4 move + 32 j of the result.
struct Place {
    int stay, move;
};
X2CT_DEVICE Place place() { return {int(threadIdx.x) / kAcross * 4, int(threadIdx.x) % kAcross * 4}; }

// 4 x 4 inner products of rows that stay with rows that move.
template <int D>
X2CT_DEVICE void products(const float (&stay)[D][kStay], const float (&move)[D][kMove], Place at, float (&out)[4][4]) {
    Float4 sum[4][1] = {};
    multiply_tile<D, 4, 4, 4, kStay, kMove>(&stay[0][at.stay], &move[0][at.move], sum);
    X2CT_UNROLL
    for (int r = 0; r < 4; ++r) {
        X2CT_UNROLL
        for (int l = 0; l < 4; ++l) out[r][l] = sum[r][0][l];
    }
}
// A thread's 4 x 4 weights, one row of shared memory a row that moves.
X2CT_DEVICE void store_weights(float (&to)[kMove][kStay], Place at, const float (&weights)[4][4]) {
    X2CT_UNROLL
    for (int l = 0; l < 4; ++l) {
        const float column[4] = {weights[0][l], weights[1][l], weights[2][l], weights[3][l]};
        store_float(&to[at.move + l][at.stay], column);
    }
}
// result[r] += sum over the rows that move of weight times their elements.
template <int D>
X2CT_DEVICE void add_weighted(const float (&weights)[kMove][kStay], const float (&rows)[kMove][D], Place at, Float4 (&result)[4][D / 32]) {
    multiply_tile<kMove, 4, D / 8, 32, kStay, D>(&weights[0][at.stay], &rows[0][at.move], result);
}
// A thread's part of the result: rows first + at.stay... of `to`, times `factor[r]`.
template <int D, class T>
X2CT_DEVICE void store_result(const AttentionParams& p, T* to, uint64_t stride, uint32_t first, Place at, const Float4 (&result)[4][D / 32],
                              const float (&factor)[4], uint32_t accumulate) {
    X2CT_UNROLL
    for (int r = 0; r < 4; ++r) {
        const uint64_t row = uint64_t(first) + at.stay + r;
        if (row >= p.tokens) continue;
        X2CT_UNROLL
        for (int j = 0; j < D / 32; ++j) {
            X2CT_UNROLL
            for (int l = 0; l < 4; ++l) {
                const uint32_t c = uint32_t(at.move + 32 * j + l);
                if (c < p.head_dim) write_gradient(to + row * stride + c, result[r][j][l] * factor[r], accumulate);
            }
        }
    }
}

// The block's head and the first row that stays.
struct Work {
    Head head;
    uint32_t first;
};
X2CT_DEVICE Work work(const AttentionParams& p) {
    const uint32_t tiles = (p.tokens + kStay - 1) / kStay;
    return {head_of(p, blockIdx.x / tiles), blockIdx.x % tiles * kStay};
}

template <int D>
struct AttentionForwardConfig : AttentionConfig {
    struct Shared {
        float q[D][kStay], k[D][kMove], v[kMove][D], weights[kMove][kStay];
        float of_row[kStay][kAcross];  // a value of each thread that shares a row
    };
};
template <int D, class T>
X2CT_DEVICE void attention_forward(const AttentionParams& p) {
    auto& s = shared_memory<typename AttentionForwardConfig<D>::Shared>();
    const Work w = work(p);
    const Place at = place();
    const T *k = static_cast<const T*>(p.k) + w.head.in, *v = static_cast<const T*>(p.v) + w.head.in;
    load_columns<D, kStay>(p, static_cast<const T*>(p.q) + w.head.in, p.input[2], w.first, s.q);
    float largest[4], sum[4] = {};  // the sum is that of the thread's own columns until the end
    X2CT_UNROLL
    for (int r = 0; r < 4; ++r) largest[r] = -infinity();
    Float4 result[4][D / 32] = {};
    for (uint32_t first = 0; first < p.tokens; first += kMove) {
        __syncthreads();  // the tile before has been used
        load_columns<D, kMove>(p, k, p.input[2], first, s.k);
        load_rows<D, kMove>(p, v, p.input[2], first, s.v);
        __syncthreads();
        float a[4][4];
        products<D>(s.q, s.k, at, a);
        X2CT_UNROLL
        for (int r = 0; r < 4; ++r) {
            float best = -infinity();
            X2CT_UNROLL
            for (int l = 0; l < 4; ++l) {
                a[r][l] = first + at.move + l < p.tokens ? a[r][l] * p.scale : -infinity();
                best = fmaxf(best, a[r][l]);
            }
            s.of_row[at.stay + r][at.move / 4] = best;
        }
        __syncthreads();
        X2CT_UNROLL
        for (int r = 0; r < 4; ++r) {
            const float before = largest[r];
            X2CT_UNROLL
            for (int t = 0; t < kAcross; ++t) largest[r] = fmaxf(largest[r], s.of_row[at.stay + r][t]);
            const float keep = expf(before - largest[r]);
            sum[r] *= keep;
            X2CT_UNROLL
            for (int j = 0; j < D / 32; ++j) {
                X2CT_UNROLL
                for (int l = 0; l < 4; ++l) result[r][j][l] *= keep;
            }
            X2CT_UNROLL
            for (int l = 0; l < 4; ++l) {
                a[r][l] = expf(a[r][l] - largest[r]);
                sum[r] += a[r][l];
            }
        }
        store_weights(s.weights, at, a);
        __syncthreads();
        add_weighted<D>(s.weights, s.v, at, result);
    }
    X2CT_UNROLL
    for (int r = 0; r < 4; ++r) s.of_row[at.stay + r][at.move / 4] = sum[r];
    __syncthreads();
    float inverse[4];
    X2CT_UNROLL
    for (int r = 0; r < 4; ++r) {
        float total = 0.0f;
        X2CT_UNROLL
        for (int t = 0; t < kAcross; ++t) total += s.of_row[at.stay + r][t];
        inverse[r] = 1.0f / total;
        const uint64_t row = uint64_t(w.first) + at.stay + r;
        if (at.move == 0 && row < p.tokens) p.lse[w.head.rows + row] = largest[r] + logf(total);
    }
    store_result<D>(p, static_cast<T*>(p.o) + w.head.out, p.output[2], w.first, at, result, inverse, 0u);
}

template <int D>
struct AttentionQueryGradientConfig : AttentionConfig {
    struct Shared {
        float q[D][kStay], g[D][kStay], k[D][kMove], v[D][kMove], k_rows[kMove][D], ds[kMove][kStay];
    };
};
template <int D, class T>
X2CT_DEVICE void attention_query_gradient(const AttentionParams& p) {
    auto& s = shared_memory<typename AttentionQueryGradientConfig<D>::Shared>();
    const Work w = work(p);
    const Place at = place();
    const T *k = static_cast<const T*>(p.k) + w.head.in, *v = static_cast<const T*>(p.v) + w.head.in;
    load_columns<D, kStay>(p, static_cast<const T*>(p.q) + w.head.in, p.input[2], w.first, s.q);
    load_columns<D, kStay>(p, static_cast<const T*>(p.g) + w.head.out, p.output[2], w.first, s.g);
    float lse[4], delta[4], factor[4];
    X2CT_UNROLL
    for (int r = 0; r < 4; ++r) {
        const uint64_t row = uint64_t(w.first) + at.stay + r;
        lse[r] = row < p.tokens ? p.lse[w.head.rows + row] : 0.0f;
        delta[r] = row < p.tokens ? p.delta[w.head.rows + row] : 0.0f;
        factor[r] = p.scale;
    }
    Float4 dq[4][D / 32] = {};
    for (uint32_t first = 0; first < p.tokens; first += kMove) {
        __syncthreads();  // the tile before has been used
        load_columns<D, kMove>(p, k, p.input[2], first, s.k);
        load_columns<D, kMove>(p, v, p.input[2], first, s.v);
        load_rows<D, kMove>(p, k, p.input[2], first, s.k_rows);
        __syncthreads();
        float a[4][4], dp[4][4];
        products<D>(s.q, s.k, at, a);
        products<D>(s.g, s.v, at, dp);
        X2CT_UNROLL
        for (int r = 0; r < 4; ++r) {
            X2CT_UNROLL
            for (int l = 0; l < 4; ++l)
                a[r][l] = first + at.move + l < p.tokens ? expf(p.scale * a[r][l] - lse[r]) * (dp[r][l] - delta[r]) : 0.0f;
        }
        store_weights(s.ds, at, a);
        __syncthreads();
        add_weighted<D>(s.ds, s.k_rows, at, dq);
    }
    store_result<D>(p, static_cast<T*>(p.dq) + w.head.in, p.input[2], w.first, at, dq, factor, p.accumulate & 1u);
}

template <int D>
struct AttentionKeyGradientConfig : AttentionConfig {
    struct Shared {
        float k[D][kStay], v[D][kStay], q[D][kMove], g[D][kMove], q_rows[kMove][D], g_rows[kMove][D];
        float weights[kMove][kStay], ds[kMove][kStay];
    };
};
template <int D, class T>
X2CT_DEVICE void attention_key_gradient(const AttentionParams& p) {
    auto& s = shared_memory<typename AttentionKeyGradientConfig<D>::Shared>();
    const Work w = work(p);
    const Place at = place();
    const T *q = static_cast<const T*>(p.q) + w.head.in, *g = static_cast<const T*>(p.g) + w.head.out;
    load_columns<D, kStay>(p, static_cast<const T*>(p.k) + w.head.in, p.input[2], w.first, s.k);
    load_columns<D, kStay>(p, static_cast<const T*>(p.v) + w.head.in, p.input[2], w.first, s.v);
    Float4 dk[4][D / 32] = {}, dv[4][D / 32] = {};
    for (uint32_t first = 0; first < p.tokens; first += kMove) {
        __syncthreads();  // the tile before has been used
        load_columns<D, kMove>(p, q, p.input[2], first, s.q);
        load_columns<D, kMove>(p, g, p.output[2], first, s.g);
        load_rows<D, kMove>(p, q, p.input[2], first, s.q_rows);
        load_rows<D, kMove>(p, g, p.output[2], first, s.g_rows);
        __syncthreads();
        float a[4][4], ds[4][4];
        products<D>(s.k, s.q, at, a);
        products<D>(s.v, s.g, at, ds);
        X2CT_UNROLL
        for (int l = 0; l < 4; ++l) {
            const uint64_t row = uint64_t(first) + at.move + l;
            const bool exists = row < p.tokens;
            const float lse = exists ? p.lse[w.head.rows + row] : 0.0f, delta = exists ? p.delta[w.head.rows + row] : 0.0f;
            X2CT_UNROLL
            for (int r = 0; r < 4; ++r) {
                a[r][l] = exists ? expf(p.scale * a[r][l] - lse) : 0.0f;
                ds[r][l] = a[r][l] * (ds[r][l] - delta);
            }
        }
        store_weights(s.weights, at, a);
        store_weights(s.ds, at, ds);
        __syncthreads();
        add_weighted<D>(s.weights, s.g_rows, at, dv);
        add_weighted<D>(s.ds, s.q_rows, at, dk);
    }
    const float scale[4] = {p.scale, p.scale, p.scale, p.scale}, one[4] = {1.0f, 1.0f, 1.0f, 1.0f};
    if (p.dk) store_result<D>(p, static_cast<T*>(p.dk) + w.head.in, p.input[2], w.first, at, dk, scale, (p.accumulate >> 1) & 1u);
    if (p.dv) store_result<D>(p, static_cast<T*>(p.dv) + w.head.in, p.input[2], w.first, at, dv, one, (p.accumulate >> 2) & 1u);
}

/// o and lse, one thread an element of o; tile\[0\] a block.
X2CT_KERNEL(attention_forward_naive_f32, AttentionParams, AttentionNaiveConfig, attention_forward_naive<float>)
X2CT_KERNEL(attention_forward_naive_bf16, AttentionParams, AttentionNaiveConfig, attention_forward_naive<bf16>)
/// dq, one thread an element; tile\[0\] a block.
X2CT_KERNEL(attention_query_gradient_naive_f32, AttentionParams, AttentionNaiveConfig, attention_query_gradient_naive<float>)
X2CT_KERNEL(attention_query_gradient_naive_bf16, AttentionParams, AttentionNaiveConfig, attention_query_gradient_naive<bf16>)
/// dk and dv, one thread an element; tile\[0\] a block.
X2CT_KERNEL(attention_key_gradient_naive_f32, AttentionParams, AttentionNaiveConfig, attention_key_gradient_naive<float>)
X2CT_KERNEL(attention_key_gradient_naive_bf16, AttentionParams, AttentionNaiveConfig, attention_key_gradient_naive<bf16>)
/// delta, one thread a row; tile\[0\] a block.
X2CT_KERNEL(attention_delta_f32, AttentionParams, AttentionNaiveConfig, attention_delta<float>)
X2CT_KERNEL(attention_delta_bf16, AttentionParams, AttentionNaiveConfig, attention_delta<bf16>)
/// o and lse, tile\[0\] queries a block; heads of at most 32 dimensions.
X2CT_KERNEL(attention_forward32_f32, AttentionParams, AttentionForwardConfig<32>, attention_forward<32, float>)
X2CT_KERNEL(attention_forward32_bf16, AttentionParams, AttentionForwardConfig<32>, attention_forward<32, bf16>)
/// The same for at most 64.
X2CT_KERNEL(attention_forward64_f32, AttentionParams, AttentionForwardConfig<64>, attention_forward<64, float>)
X2CT_KERNEL(attention_forward64_bf16, AttentionParams, AttentionForwardConfig<64>, attention_forward<64, bf16>)
/// dq, tile\[0\] queries a block; heads of at most 32 dimensions.
X2CT_KERNEL(attention_query_gradient32_f32, AttentionParams, AttentionQueryGradientConfig<32>, attention_query_gradient<32, float>)
X2CT_KERNEL(attention_query_gradient32_bf16, AttentionParams, AttentionQueryGradientConfig<32>, attention_query_gradient<32, bf16>)
/// The same for at most 64.
X2CT_KERNEL(attention_query_gradient64_f32, AttentionParams, AttentionQueryGradientConfig<64>, attention_query_gradient<64, float>)
X2CT_KERNEL(attention_query_gradient64_bf16, AttentionParams, AttentionQueryGradientConfig<64>, attention_query_gradient<64, bf16>)
/// dk and dv, tile\[0\] keys a block; heads of at most 32 dimensions.
X2CT_KERNEL(attention_key_gradient32_f32, AttentionParams, AttentionKeyGradientConfig<32>, attention_key_gradient<32, float>)
X2CT_KERNEL(attention_key_gradient32_bf16, AttentionParams, AttentionKeyGradientConfig<32>, attention_key_gradient<32, bf16>)
/// The same for at most 64.
X2CT_KERNEL(attention_key_gradient64_f32, AttentionParams, AttentionKeyGradientConfig<64>, attention_key_gradient<64, float>)
X2CT_KERNEL(attention_key_gradient64_bf16, AttentionParams, AttentionKeyGradientConfig<64>, attention_key_gradient<64, bf16>)
