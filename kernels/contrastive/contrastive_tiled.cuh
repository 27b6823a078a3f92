// Variant 2 of the contrastive loss: f32 arithmetic in register micro-tiles fed from shared memory.
#pragma once

#include "contrastive.cuh"

// Threads that share a row's norm: few, because a processor adds within a thread for less than across.
constexpr int kNormLanes = 4;

// inverse_norms[i] = 1 / max(|x_i|, 1e-12) of Threads / 4 rows from row0 on, summed in f64: no overflow at any norm that f32
// holds. Every thread of the block calls.
template <int Threads, class T>
X2CT_DEVICE void norm_rows(const void* x, float* inverse_norms, uint64_t n, uint64_t d, uint64_t row0, double (&parts)[Threads]) {
    const uint64_t row = row0 + threadIdx.x / kNormLanes;
    const int lane = int(threadIdx.x) % kNormLanes;
    const T* from = static_cast<const T*>(x) + row * d;
    const bool aligned = rows_aligned<T>(x, d);
    double sum = 0.0;
    if (row < n) {
        for (uint64_t k = lane * 4; k < d; k += kNormLanes * 4) {
            float v[4];
            load_row4(from, k, d, aligned, v);
            X2CT_UNROLL
            for (int i = 0; i < 4; ++i) sum += double(v[i]) * v[i];
        }
    }
    __syncthreads();
    parts[threadIdx.x] = sum;
    __syncthreads();
    if (lane == 0 && row < n) {
        for (int i = 1; i < kNormLanes; ++i) sum += parts[threadIdx.x + i];
        const double norm = sqrt(sum);
        inverse_norms[row] = float(1.0 / (norm < double(kMinNorm) ? double(kMinNorm) : norm));
    }
}

struct ContrastiveTileConfig : SimilarityTile {
    static constexpr uint32_t min_blocks = 4;
    static constexpr uint32_t tile0 = tile;
    static constexpr uint32_t tile1 = 16;  // strips at most: the partial sums take 2 * 16 * 8 bytes a row, whatever n is
    struct Shared : SimilarityTile::Shared {
        SumExp rows[tile][lanes];     // by micro-tile
        SumExp columns[tile][lanes];
    };
};

// Turns a thread's similarities into the sums of its rows and columns in shared memory; notes the matching logits.
template <class S>
X2CT_DEVICE void fold_tile(S& s, const ContrastiveProblem& p, float scale, float bias, uint64_t row0, uint64_t column0,
                           const MicroTile& c, float* diagonal_logits) {
    using C = ContrastiveTileConfig;
    const int tx = int(threadIdx.x) % C::lanes, ty = int(threadIdx.x) / C::lanes;
    // Logits; what does not count becomes -inf, whose exponential is 0.
    float l[C::micro][C::micro];
    X2CT_UNROLL
    for (int i = 0; i < C::micro; ++i)
        X2CT_UNROLL
        for (int j = 0; j < C::micro; ++j) {
            const uint64_t row = row0 + micro_row(i), column = column0 + micro_column(j);
            l[i][j] = scale * c[i][j / 4][j % 4] + bias;
            if (row >= p.rows || column >= p.columns) {
                l[i][j] = -infinity();
            } else {
                if (row + p.offset == column) diagonal_logits[row] = l[i][j];
                if (!mismatch(p, row, column)) l[i][j] = -infinity();
            }
        }
    fold(l, p.mode, scale, [&](int i, SumExp sum) { s.rows[micro_row(i)][tx] = sum; },
         [&](int j, SumExp sum) { s.columns[micro_column(j)][ty] = sum; });
}

// Sums of one strip of rows by one strip of columns (blockIdx.y, blockIdx.x) of pair blockIdx.z, tile by tile. A tile's
// exponentials serve its rows and its columns. Column sums live in this block's own part of the workspace between tiles,
// row sums in a register of the thread that owns the row.
template <class T>
X2CT_DEVICE void contrastive_tiled(const ContrastiveForwardParams& params) {
    using C = ContrastiveTileConfig;
    auto& s = shared_memory<C::Shared>();
    const ContrastiveProblem& p = params.problem;
    const ContrastivePair& pair = params.pairs[blockIdx.z];
    const T* a = static_cast<const T*>(pair.a);
    const T* b = static_cast<const T*>(pair.b);
    const bool aligned = rows_aligned<T>(a, p.d) && rows_aligned<T>(b, p.d);
    const float scale = logit_scale(p), bias = logit_bias(p);
    const int t = int(threadIdx.x);
    const uint64_t row_tiles = (p.rows + C::tile - 1) / C::tile, column_tiles = (p.columns + C::tile - 1) / C::tile;
    const uint64_t row_begin = row_tiles * blockIdx.y / params.strips, row_end = row_tiles * (blockIdx.y + 1) / params.strips;
    const uint64_t column_begin = column_tiles * blockIdx.x / params.strips, column_end = column_tiles * (blockIdx.x + 1) / params.strips;
    if (row_begin == row_end) {
        // Fewer tiles of rows than strips: this strip of the columns has seen nothing.
        for (uint64_t j = column_begin * C::tile + t; j < min(column_end * C::tile, p.columns); j += C::threads)
            pair.column_partials[blockIdx.y * p.columns + j] = empty_sum(p.mode, scale);
    }
    for (uint64_t rt = row_begin; rt < row_end; ++rt) {
        SumExp own_row = empty_sum(p.mode, scale);
        for (uint64_t ct = column_begin; ct < column_end; ++ct) {
            const uint64_t row0 = rt * C::tile, column0 = ct * C::tile;
            MicroTile c = {};
            similarity_tile(s, p.rows, p.columns, p.d, a, pair.a_inverse_norms, b, pair.b_inverse_norms, row0, column0, aligned, c);
            fold_tile(s, p, scale, bias, row0, column0, c, pair.diagonal_logits);
            __syncthreads();
            SumExp column = s.columns[t][0];
            own_row = merge(own_row, s.rows[t][0]);
            X2CT_UNROLL
            for (int i = 1; i < C::lanes; ++i) {
                own_row = merge(own_row, s.rows[t][i]);
                column = merge(column, s.columns[t][i]);
            }
            if (column0 + t < p.columns) {
                SumExp* partial = pair.column_partials + blockIdx.y * p.columns + column0 + t;
                *partial = rt == row_begin ? column : merge(*partial, column);
            }
        }
        if (rt * C::tile + t < p.rows) pair.row_partials[blockIdx.x * p.rows + rt * C::tile + t] = own_row;
    }
}

struct ContrastiveGradientConfig : KernelDefaults {
    static constexpr uint32_t threads = 128;
    static constexpr uint32_t min_blocks = 2;
    static constexpr int rows = 32, columns = 128, depth = 64, chunks = 8, slice = chunks * depth;
    static constexpr uint32_t tile0 = rows;
    static constexpr uint32_t tile1 = slice;  // columns of dx that a block accumulates on chip
    static constexpr int lanes = columns / 8;
    static_assert(threads == rows / 4 * lanes && depth == 4 * lanes, "4x8 logits and 4x4 gradients a thread");
    struct Shared {
        alignas(16) float x[depth][rows + 4];
        union {
            float y[depth][columns + 4];          // transposed, for the logits
            float straight[columns][depth + 4];   // for the gradient
        };
        float h[columns][rows + 4];
        float slopes[rows][lanes];
    };
};

// dx for 32 rows (blockIdx.x) and 512 columns of d (blockIdx.y): for every term and tile of 128 partners, the logits are
// recomputed, turned into their gradients h in shared memory, and multiplied with the partners.
// <g_i, x_i / |x_i|>, which the projection needs, is scale * sum_j h_ij c_ij: known from the logits, whatever slice of d this is.
template <class T>
X2CT_DEVICE void contrastive_gradient_tiled(const ContrastiveGradientParams& params) {
    using C = ContrastiveGradientConfig;
    auto& s = shared_memory<C::Shared>();
    const ContrastiveProblem& p = params.problem;
    const T* x = static_cast<const T*>(params.x);
    const float scale = logit_scale(p);
    const int t = int(threadIdx.x), tx = t % C::lanes, ty = t / C::lanes;
    const uint64_t row0 = uint64_t(blockIdx.x) * C::rows, slice0 = uint64_t(blockIdx.y) * C::slice;
    const bool x_aligned = rows_aligned<T>(x, p.d);
    Float4 g[C::chunks][4][1] = {};
    float slope[4] = {};
    for (uint32_t q = 0; q < params.term_count; ++q) {
        const ContrastiveTerm& term = params.terms[q];
        const T* y = static_cast<const T*>(term.partner);
        const bool y_aligned = rows_aligned<T>(y, p.d);
        Softmax own[4];
        X2CT_UNROLL
        for (int i = 0; i < 4; ++i) own[i] = row0 + ty * 4 + i < p.rows ? term.own_softmax[row0 + ty * 4 + i] : Softmax{0.0f, 0.0f};
        for (uint64_t column0 = 0; column0 < p.columns; column0 += C::columns) {
            Float4 c[4][2] = {};
            for (uint64_t k0 = 0; k0 < p.d; k0 += C::depth) {
                __syncthreads();
                load_transposed<C::threads, C::rows, C::depth>(s.x, x, params.x_inverse_norms, row0, k0, p.rows, p.d, x_aligned);
                load_transposed<C::threads, C::columns, C::depth>(s.y, y, term.partner_inverse_norms, column0, k0, p.columns, p.d, y_aligned);
                __syncthreads();
                multiply_tile<C::depth, 4, 8, C::columns / 2, C::rows + 4, C::columns + 4>(&s.x[0][ty * 4], &s.y[0][tx * 4], c);
            }
            X2CT_UNROLL
            for (int j = 0; j < 8; ++j) {
                const int local = j / 4 * (C::columns / 2) + tx * 4 + j % 4;
                const uint64_t column = column0 + local;
                const Softmax partner = column < p.columns ? term.partner_softmax[column] : Softmax{0.0f, 0.0f};
                float h[4];
                X2CT_UNROLL
                for (int i = 0; i < 4; ++i) {
                    const uint64_t row = row0 + ty * 4 + i;
                    h[i] = 0.0f;
                    if (row < p.rows && column < p.columns) {
                        if (row + p.offset == column)
                            h[i] = term.weight * term.diagonal[row];
                        else if (mismatch(p, row, column))
                            h[i] = term.weight * logit_gradient(p, scale, c[i][j / 4][j % 4], own[i], partner);
                    }
                    slope[i] += h[i] * c[i][j / 4][j % 4];
                }
                store_float(&s.h[local][ty * 4], h);
            }
            if (!params.dx) continue;
            X2CT_UNROLL
            for (int chunk = 0; chunk < C::chunks; ++chunk) {
                const uint64_t k0 = slice0 + chunk * C::depth;
                if (k0 < p.d) {
                    __syncthreads();
                    load_straight<C::threads, C::columns, C::depth>(s.straight, y, term.partner_inverse_norms, column0, k0, p.columns, p.d, y_aligned);
                    __syncthreads();
                    multiply_tile<C::columns, 4, 4, 4, C::rows + 4, C::depth + 4>(&s.h[0][ty * 4], &s.straight[0][tx * 4], g[chunk]);
                }
            }
        }
    }
    X2CT_UNROLL
    for (int i = 0; i < 4; ++i) s.slopes[ty * 4 + i][tx] = slope[i];
    __syncthreads();
    const float factor = *params.upstream * params.factor;
    X2CT_UNROLL
    for (int i = 0; i < 4; ++i) {
        const uint64_t row = row0 + ty * 4 + i;
        if (row >= p.rows) continue;
        float along = 0.0f;
        X2CT_UNROLL
        for (int lane = 0; lane < C::lanes; ++lane) along += s.slopes[ty * 4 + i][lane];
        if (params.slopes && blockIdx.y == 0 && tx == 0) params.slopes[row] = along * factor;
        if (!params.dx) continue;
        const float inverse = inverse_norm(params.x_inverse_norms, row);
        X2CT_UNROLL
        for (int chunk = 0; chunk < C::chunks; ++chunk)
            X2CT_UNROLL
            for (int j = 0; j < 4; ++j) {
                const uint64_t k = slice0 + chunk * C::depth + tx * 4 + j;
                if (k >= p.d) continue;
                const uint64_t at = row * p.d + k;
                const float free = scale * g[chunk][i][0][j];
                const float value = params.x_inverse_norms ? unnormalise(free, scale * along, to_float(x[at]), inverse) : free;
                write_gradient(static_cast<T*>(params.dx) + at, factor * value, params.accumulate);
            }
    }
}
