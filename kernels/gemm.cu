// Matrix products: C[m,n] = alpha op(A) op(B) + bias[n], or C += that; op is the identity or the transpose.
//
//   A [m,k] (or [k,m]), B [k,n] (or [n,k]), C [m,n], bias [n], all row-major; f32 or bf16, sums in f32.
//   column_sum: out[j] = sum_i x[i,j], the gradient of a bias, in two stages of fixed order.
//
// Bytes: A, B and C once each; the product is bound by arithmetic unless one of m, n, k is small.
// Variants: 1 naive (one thread an element).
// Test: cargo test --release ops::gemm     Time: x2ct bench gemm
#include "common/common.h"

struct GemmParams {
    const void* a;
    const void* b;
    const void* bias;  // or null
    void* c;
    uint64_t m, n, k;
    float alpha;
    uint32_t transpose_a, transpose_b;
    uint32_t accumulate;  // 1: C += result
};
X2CT_FIELDS(GemmParams, a, b, bias, c, m, n, k, alpha, transpose_a, transpose_b, accumulate)

struct ColumnSumParams {
    const void* input;    // [m, n]
    void* out;            // first stage: [chunks, n]; second: [n]
    uint64_t m, n;
    uint64_t rows;        // that a thread of the first stage adds up
    uint32_t accumulate;  // 1: out += result
};
X2CT_FIELDS(ColumnSumParams, input, out, m, n, rows, accumulate)

// ---- 1: naive ----

struct NaiveConfig : KernelDefaults {
    static constexpr uint32_t tile0 = threads;  // elements of C a block
};

template <class T, class Out>
X2CT_DEVICE void gemm_naive(const GemmParams& p) {
    const uint64_t index = uint64_t(blockIdx.x) * NaiveConfig::threads + threadIdx.x;
    if (index >= p.m * p.n) return;
    const uint64_t row = index / p.n, column = index % p.n;
    const T* a = static_cast<const T*>(p.a) + (p.transpose_a ? row : row * p.k);
    const T* b = static_cast<const T*>(p.b) + (p.transpose_b ? column * p.k : column);
    const uint64_t a_step = p.transpose_a ? p.m : 1, b_step = p.transpose_b ? 1 : p.n;
    float sum = 0.0f;
    for (uint64_t i = 0; i < p.k; ++i) sum += to_float(a[i * a_step]) * to_float(b[i * b_step]);
    const float bias = p.bias ? to_float(static_cast<const Out*>(p.bias)[column]) : 0.0f;
    write_gradient(static_cast<Out*>(p.c) + index, p.alpha * sum + bias, p.accumulate);
}

X2CT_KERNEL(gemm_naive_f32, GemmParams, NaiveConfig, gemm_naive<float, float>)
X2CT_KERNEL(gemm_naive_bf16, GemmParams, NaiveConfig, gemm_naive<bf16, bf16>)
X2CT_KERNEL(gemm_naive_bf16_f32, GemmParams, NaiveConfig, gemm_naive<bf16, float>)

// ---- column sums ----

struct ColumnSumConfig : KernelDefaults {
    static constexpr uint32_t tile0 = 4;  // columns a thread
};

template <class T>
X2CT_DEVICE void column_sum_partial(const ColumnSumParams& p) {
    constexpr int width = ColumnSumConfig::tile0;
    const uint64_t groups = (p.n + width - 1) / width;
    const uint64_t index = uint64_t(blockIdx.x) * ColumnSumConfig::threads + threadIdx.x;
    const uint64_t chunk = index / groups, column = index % groups * width;
    const uint64_t begin = chunk * p.rows, end = min(begin + p.rows, p.m);
    if (begin >= p.m) return;
    const T* x = static_cast<const T*>(p.input) + column;
    float* out = static_cast<float*>(p.out) + chunk * p.n + column;
    if (p.n % width == 0) {
        float sum[width] = {};
        for (uint64_t i = begin; i < end; ++i) {
            float row[width];
            load_float(x + i * p.n, row);
            X2CT_UNROLL
            for (int j = 0; j < width; ++j) sum[j] += row[j];
        }
        store_float(out, sum);
    } else {
        for (uint64_t j = 0; j < min(uint64_t(width), p.n - column); ++j) {
            float sum = 0.0f;
            for (uint64_t i = begin; i < end; ++i) sum += to_float(x[i * p.n + j]);
            out[j] = sum;
        }
    }
}

template <class Out>
X2CT_DEVICE void column_sum_finish(const ColumnSumParams& p) {
    const uint64_t column = uint64_t(blockIdx.x) * ColumnSumConfig::threads + threadIdx.x;
    if (column >= p.n) return;
    const float* x = static_cast<const float*>(p.input) + column;
    float sum = 0.0f;
    for (uint64_t i = 0; i < p.m; ++i) sum += x[i * p.n];
    write_gradient(static_cast<Out*>(p.out) + column, sum, p.accumulate);
}

X2CT_KERNEL(column_sum_partial_f32, ColumnSumParams, ColumnSumConfig, column_sum_partial<float>)
X2CT_KERNEL(column_sum_partial_bf16, ColumnSumParams, ColumnSumConfig, column_sum_partial<bf16>)
X2CT_KERNEL(column_sum_finish_f32, ColumnSumParams, ColumnSumConfig, column_sum_finish<float>)
X2CT_KERNEL(column_sum_finish_bf16, ColumnSumParams, ColumnSumConfig, column_sum_finish<bf16>)
