// Matrix products: C[m,n] = alpha op(A) op(B) + bias[n], or C += that; op is the identity or the transpose.
//
//   A [m,k] (or [k,m]), B [k,n] (or [n,k]), C [m,n], bias [n], all row-major; f32 or bf16, sums in f32.
//   column_sum: out[j] = sum_i x[i,j], the gradient of a bias, in two stages of fixed order.
//
// Bytes: A, B and C once each; the product is bound by arithmetic unless one of m, n, k is small.
// Variants: 1 naive (one thread an element); 2 tiled (gemm_tile.cuh: full f32, TF32 or bf16 on tensor cores). Where C has
// too few tiles to fill a GPU and k is long, the sum is split, the parts are written as f32 and added in a fixed order.
// Test: cargo test --release ops::gemm     Time: x2ct bench gemm
#include "common/common.h"
#include "tiles/gemm_tile.cuh"
#include "params.h"

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

/// One thread an element; `tile[0]` elements a block.
X2CT_KERNEL(gemm_naive_f32, GemmParams, NaiveConfig, gemm_naive<float, float>)
X2CT_KERNEL(gemm_naive_bf16, GemmParams, NaiveConfig, gemm_naive<bf16, bf16>)
/// The same, bf16 operands and an f32 result.
X2CT_KERNEL(gemm_naive_bf16_f32, GemmParams, NaiveConfig, gemm_naive<bf16, float>)

// ---- 2: tiled ----

// TransposeA, TransposeB: how A and B are stored.
template <class C, template <bool, bool> class Math, bool TransposeA, bool TransposeB>
X2CT_DEVICE void gemm_tiled(const GemmParams& p) {
    using M = Math<!TransposeA, TransposeB>;
    using T = typename M::T;
    const MatrixSource<T, !TransposeA> a{static_cast<const T*>(p.a), TransposeA ? p.m : p.k, p.m, p.k, p.aligned_a != 0, 0, 0};
    const MatrixSource<T, TransposeB> b{static_cast<const T*>(p.b), TransposeB ? p.k : p.n, p.n, p.k, p.aligned_b != 0, 0, 0};
    const TileOutput<T> out{p.c, p.bias, p.partials, p.m, p.n, p.alpha, p.accumulate, p.wide, false};
    const uint64_t begin = blockIdx.z * p.split_depth;
    tile_product<C, M>(a, b, out, begin, min(begin + p.split_depth, p.k));
}

// Adds up the parts of split sums: C = alpha sum + bias, or C += that. One thread an element.
template <class Out>
X2CT_DEVICE void gemm_add_parts(const AddPartsParams& p) {
    const uint64_t index = uint64_t(blockIdx.x) * NaiveConfig::threads + threadIdx.x, size = p.m * p.n;
    if (index >= size) return;
    float sum = 0.0f;
    for (uint64_t part = 0; part < p.parts; ++part) sum += p.partials[part * size + index];
    const float bias = p.bias ? to_float(static_cast<const Out*>(p.bias)[index % p.n]) : 0.0f;
    write_gradient(static_cast<Out*>(p.c) + index, p.alpha * sum + bias, p.accumulate);
}

/// Tensor cores, `tile[0]` x `tile[1]` of C a block, `tile[2]` bytes of k a step; A and B plain or transposed.
X2CT_KERNEL(gemm_wide_bf16_nn, GemmParams, WideTile, gemm_tiled<WideTile, MmaBf16, false, false>)
X2CT_KERNEL(gemm_wide_bf16_nt, GemmParams, WideTile, gemm_tiled<WideTile, MmaBf16, false, true>)
X2CT_KERNEL(gemm_wide_bf16_tn, GemmParams, WideTile, gemm_tiled<WideTile, MmaBf16, true, false>)
X2CT_KERNEL(gemm_wide_bf16_tt, GemmParams, WideTile, gemm_tiled<WideTile, MmaBf16, true, true>)
/// The same with half as many columns a block.
X2CT_KERNEL(gemm_narrow_bf16_nn, GemmParams, NarrowTile, gemm_tiled<NarrowTile, MmaBf16, false, false>)
X2CT_KERNEL(gemm_narrow_bf16_nt, GemmParams, NarrowTile, gemm_tiled<NarrowTile, MmaBf16, false, true>)
X2CT_KERNEL(gemm_narrow_bf16_tn, GemmParams, NarrowTile, gemm_tiled<NarrowTile, MmaBf16, true, false>)
X2CT_KERNEL(gemm_narrow_bf16_tt, GemmParams, NarrowTile, gemm_tiled<NarrowTile, MmaBf16, true, true>)
/// The same on f32 operands rounded to TF32.
X2CT_KERNEL(gemm_tf32_nn, GemmParams, Tf32Tile, gemm_tiled<Tf32Tile, MmaTf32, false, false>)
X2CT_KERNEL(gemm_tf32_nt, GemmParams, Tf32Tile, gemm_tiled<Tf32Tile, MmaTf32, false, true>)
X2CT_KERNEL(gemm_tf32_tn, GemmParams, Tf32Tile, gemm_tiled<Tf32Tile, MmaTf32, true, false>)
X2CT_KERNEL(gemm_tf32_tt, GemmParams, Tf32Tile, gemm_tiled<Tf32Tile, MmaTf32, true, true>)
/// The same in full f32.
X2CT_KERNEL(gemm_f32_nn, GemmParams, FmaTile, gemm_tiled<FmaTile, FmaF32, false, false>)
X2CT_KERNEL(gemm_f32_nt, GemmParams, FmaTile, gemm_tiled<FmaTile, FmaF32, false, true>)
X2CT_KERNEL(gemm_f32_tn, GemmParams, FmaTile, gemm_tiled<FmaTile, FmaF32, true, false>)
X2CT_KERNEL(gemm_f32_tt, GemmParams, FmaTile, gemm_tiled<FmaTile, FmaF32, true, true>)
/// Adds up the parts of split sums; by the storage type of C; `tile[0]` elements a block.
X2CT_KERNEL(gemm_add_parts_f32, AddPartsParams, NaiveConfig, gemm_add_parts<float>)
X2CT_KERNEL(gemm_add_parts_bf16, AddPartsParams, NaiveConfig, gemm_add_parts<bf16>)

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

/// out[chunk, j] = sum of `rows` rows of column j; a thread takes `tile[0]` columns of one chunk.
X2CT_KERNEL(column_sum_partial_f32, ColumnSumParams, ColumnSumConfig, column_sum_partial<float>)
X2CT_KERNEL(column_sum_partial_bf16, ColumnSumParams, ColumnSumConfig, column_sum_partial<bf16>)
/// `out[j]` = sum over the chunks.
X2CT_KERNEL(column_sum_finish_f32, ColumnSumParams, ColumnSumConfig, column_sum_finish<float>)
X2CT_KERNEL(column_sum_finish_bf16, ColumnSumParams, ColumnSumConfig, column_sum_finish<bf16>)
