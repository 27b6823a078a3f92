// The contrastive loss with the gradients of some logits, h, stored: what is recomputed otherwise is then read.
//
// Whole batches of up to about a thousand: similarities are computed once, turned into h in place, and h multiplied with the
// other sets: 2 n^2 d operations a pair and two a gradient, all in one cooperative launch (variant 4) or in three.
// Bands of larger batches: h of some rows and every column, which serves the gradients of both sets of a pair.
#pragma once

#include "common/grid.h"
#include "common/reduce.h"
#include "contrastive_tiled.cuh"

struct ContrastiveStoredConfig : ContrastiveTileConfig {
    static constexpr uint32_t min_blocks = 3;
    static constexpr uint32_t tile1 = 64;  // columns of dx that a block makes at a time
    static_assert(tile1 == tile && depth == tile, "one kind of tile for similarities and for gradients");
    struct Shared : ContrastiveTileConfig::Shared {
        Softmax row[tile], column[tile];
        float diagonal[tile], along[tile];
        double scratch[threads / 32], norms[threads];
    };
};
struct ContrastiveOneLaunchConfig : ContrastiveStoredConfig {
    static constexpr bool cooperative = true;
};

// A thread's part of a row-major matrix's tile.
X2CT_DEVICE void store_micro(float* tile, uint64_t ld, const MicroTile& c) {
    using C = ContrastiveTileConfig;
    X2CT_UNROLL
    for (int i = 0; i < C::micro; ++i)
        X2CT_UNROLL
        for (int j = 0; j < C::micro; j += 4) {
            const float four[4] = {c[i][j / 4][0], c[i][j / 4][1], c[i][j / 4][2], c[i][j / 4][3]};
            store_float(tile + micro_row(i) * ld + micro_column(j), four);
        }
}

X2CT_DEVICE void load_micro(const float* tile, uint64_t ld, MicroTile& c) {
    using C = ContrastiveTileConfig;
    X2CT_UNROLL
    for (int i = 0; i < C::micro; ++i)
        X2CT_UNROLL
        for (int j = 0; j < C::micro; j += 4) {
            float four[4];
            load_float(tile + micro_row(i) * ld + micro_column(j), four);
            X2CT_UNROLL
            for (int k = 0; k < 4; ++k) c[i][j / 4][k] = four[k];
        }
}

// Replaces a thread's similarities by h, with the softmaxes and matching gradients of the tile in shared memory, and sums h
// times similarity over the tile's rows and columns: thread t returns those of row t and column t.
template <class S>
X2CT_DEVICE void gradient_of_logits(S& s, const ContrastiveProblem& p, float scale, float weight, uint64_t row0, uint64_t column0,
                                    MicroTile& c, float* row_along, float* column_along) {
    using C = ContrastiveTileConfig;
    const int t = int(threadIdx.x), tx = t % C::lanes, ty = t / C::lanes;
    float columns[C::micro] = {};
    X2CT_UNROLL
    for (int i = 0; i < C::micro; ++i) {
        float along = 0.0f;
        const uint64_t row = row0 + micro_row(i);
        X2CT_UNROLL
        for (int j = 0; j < C::micro; ++j) {
            const uint64_t column = column0 + micro_column(j);
            const float similarity = c[i][j / 4][j % 4];
            float h = 0.0f;
            if (row < p.rows && column < p.columns) {
                if (row + p.offset == column)
                    h = weight * s.diagonal[micro_row(i)];
                else if (mismatch(p, row, column))
                    h = weight * logit_gradient(p, scale, similarity, s.row[micro_row(i)], s.column[micro_column(j)]);
            }
            along += h * similarity;
            columns[j] += h * similarity;
            c[i][j / 4][j % 4] = h;
        }
        s.rows[micro_row(i)][tx].sum = along;
    }
    X2CT_UNROLL
    for (int j = 0; j < C::micro; ++j) s.columns[micro_column(j)][ty].sum = columns[j];
    __syncthreads();
    float row = 0.0f, column = 0.0f;
    X2CT_UNROLL
    for (int i = 0; i < C::lanes; ++i) {
        row += s.rows[t][i].sum;
        column += s.columns[t][i].sum;
    }
    *row_along = row;
    *column_along = column;
}

// Where a gradient goes.
struct ContrastiveTarget {
    const void* x;         // [rows, d]
    const float* inverse;  // [rows], or null
    void* dx;              // [rows, d]
    float* slopes;         // [rows], or null: what each row adds to the gradient of the scale
    uint64_t rows, d;
    float scale, factor;
    uint32_t accumulate;
    ContrastiveCarry carry;
};

template <class T>
X2CT_DEVICE void write_target(const ContrastiveTarget& target, uint64_t place, float value) {
    if (target.carry.bring) value += target.carry.sum[place];
    if (target.carry.keep)
        target.carry.sum[place] = value;
    else
        write_gradient(static_cast<T*>(target.dx) + place, value, target.accumulate);
}

// dx of 64 rows from row0 on and 64 columns from slice0 on. `product(i)` is the i-th of `count` products.
template <class T, class S, class GetProduct>
X2CT_DEVICE void gradient_tile(S& s, const ContrastiveTarget& target, uint64_t row0, uint64_t slice0, uint32_t count, GetProduct product) {
    using C = ContrastiveStoredConfig;
    const int t = int(threadIdx.x), tx = t % C::lanes, ty = t / C::lanes;
    MicroTile g = {};
    float along = 0.0f;
    for (uint32_t q = 0; q < count; ++q) {
        const ContrastiveProduct term = product(q);
        const T* y = static_cast<const T*>(term.partner);
        const bool aligned = rows_aligned<T>(y, target.d);
        if (row0 + t < target.rows)
            for (uint32_t i = 0; i < term.along_count; ++i) along += term.alongs[i * term.along_stride + row0 + t];
        for (uint64_t k = 0; k < term.inner; k += C::depth) {
            __syncthreads();
            if (term.transposed)
                load_straight<C::threads, C::depth, C::tile>(s.a, term.h, nullptr, k, row0, term.inner, term.ld, true);
            else
                load_transposed<C::threads, C::tile, C::depth>(s.a, term.h, nullptr, row0, k, row0 + C::tile, term.ld, true);
            load_straight<C::threads, C::depth, C::tile>(s.b, y, term.partner_inverse_norms, term.first + k, slice0, term.partners, target.d, aligned);
            __syncthreads();
            multiply_tile<C::depth, C::micro, C::micro, C::tile / 2, C::tile + 4, C::tile + 4>(&s.a[0][ty * C::micro], &s.b[0][tx * 4], g);
        }
    }
    s.along[t] = along;
    if (target.slopes && slice0 == 0 && row0 + t < target.rows) target.slopes[row0 + t] = target.factor * along;
    __syncthreads();
    X2CT_UNROLL
    for (int i = 0; i < C::micro; ++i) {
        const uint64_t row = row0 + micro_row(i);
        if (row >= target.rows) continue;
        const float inverse = inverse_norm(target.inverse, row);
        X2CT_UNROLL
        for (int j = 0; j < C::micro; ++j) {
            const uint64_t k = slice0 + micro_column(j);
            if (k >= target.d) continue;
            const uint64_t at = row * target.d + k;
            const float free = target.scale * g[i][j / 4][j % 4];
            const float x = to_float(static_cast<const T*>(target.x)[at]);
            const float value = target.inverse ? unnormalise(free, target.scale * s.along[micro_row(i)], x, inverse) : free;
            write_target<T>(target, at, target.factor * value);
        }
    }
    __syncthreads();  // of the next tile's alongs
}

// Similarities of every pair, and the sums of each tile's rows and columns.
template <class T, class S>
X2CT_DEVICE void stored_similarities(S& s, const ContrastiveStoredParams& params) {
    using C = ContrastiveStoredConfig;
    const ContrastiveProblem& p = params.problem;
    const float scale = logit_scale(p), bias = logit_bias(p);
    const uint64_t tiles = params.tiles, padded = tiles * C::tile;
    for (uint64_t item = blockIdx.x; item < params.pair_count * tiles * tiles; item += gridDim.x) {
        const ContrastiveStoredPair& pair = params.pairs[item / (tiles * tiles)];
        const uint64_t rt = item / tiles % tiles, ct = item % tiles, row0 = rt * C::tile, column0 = ct * C::tile;
        const ContrastiveSet &left = params.sets[pair.a], &right = params.sets[pair.b];
        const T* a = static_cast<const T*>(left.x);
        const T* b = static_cast<const T*>(right.x);
        MicroTile c = {};
        similarity_tile(s, p.rows, p.columns, p.d, a, left.inverse_norms, b, right.inverse_norms, row0, column0, rows_aligned<T>(a, p.d) && rows_aligned<T>(b, p.d), c);
        if (pair.gradient) store_micro(static_cast<float*>(pair.h) + row0 * padded + column0, padded, c);
        fold_tile(s, p, scale, bias, row0, column0, c, pair.diagonal_logits);
        __syncthreads();
        const int t = int(threadIdx.x);
        SumExp row = s.rows[t][0], column = s.columns[t][0];
        for (int i = 1; i < C::lanes; ++i) {
            row = merge(row, s.rows[t][i]);
            column = merge(column, s.columns[t][i]);
        }
        pair.row_partials[ct * padded + row0 + t] = row;
        pair.column_partials[rt * padded + column0 + t] = column;
    }
}

// Turns similarities into h, and makes the losses of the rows. Every tile merges the sums of its own rows and columns: that
// is cheaper than one more barrier of the whole grid.
template <class S>
X2CT_DEVICE void stored_gradients_of_logits(S& s, const ContrastiveStoredParams& params) {
    using C = ContrastiveStoredConfig;
    const ContrastiveProblem& p = params.problem;
    const float scale = logit_scale(p);
    const uint64_t tiles = params.tiles, padded = tiles * C::tile;
    const int t = int(threadIdx.x);
    for (uint64_t item = blockIdx.x; item < params.pair_count * tiles * tiles; item += gridDim.x) {
        const uint32_t q = uint32_t(item / (tiles * tiles));
        const ContrastiveStoredPair& pair = params.pairs[q];
        const uint64_t rt = item / tiles % tiles, ct = item % tiles, row0 = rt * C::tile, column0 = ct * C::tile;
        if (rt != ct && !pair.gradient) continue;
        auto rows = [&](uint64_t i) { return Strips{pair.row_partials + i, padded, uint32_t(tiles)}; };
        auto columns = [&](uint64_t i) { return Strips{pair.column_partials + i, padded, uint32_t(tiles)}; };
        Match match{};
        const uint64_t row = row0 + t, column = column0 + t;
        if (rt == ct) {
            if (row < p.rows) match = finish_match(p.mode, scale, pair.diagonal_logits[row], rows(row), columns(row));
            const double loss = block_sum<C::threads>(match.loss, s.scratch);
            const double bias = block_sum<C::threads>(double(match.column.inverse), s.scratch);
            if (t == 0) {
                params.loss_partials[q * tiles + rt] = loss;
                params.bias_partials[q * tiles + rt] = bias;
            }
        } else if (p.mode != kSigmoid) {
            double unused = 0.0;
            if (row < p.rows) finish_softmax(rows(row), pair.diagonal_logits[row], p.mode, scale, &match.row, &unused);
            if (column < p.rows) finish_softmax(columns(column), pair.diagonal_logits[column], p.mode, scale, &match.column, &unused);
        }
        if (!pair.gradient) continue;
        __syncthreads();  // the previous tile is done with what follows
        s.row[t] = match.row;
        s.column[t] = match.column;
        s.diagonal[t] = match.diagonal;
        __syncthreads();
        float* h = static_cast<float*>(pair.h) + row0 * padded + column0;
        MicroTile c;
        load_micro(h, padded, c);
        float row_along, column_along;
        gradient_of_logits(s, p, scale, pair.weight, row0, column0, c, &row_along, &column_along);
        store_micro(h, padded, c);
        pair.row_alongs[ct * padded + row] = row_along;
        pair.column_alongs[rt * padded + column] = column_along;
        const double slope = block_sum<C::threads>(double(row_along), s.scratch);
        if (t == 0) params.scale_partials[item] = slope;
    }
}

// The loss and the gradients of scale and bias, by the last block: it has the fewest products to make, if any.
template <int Threads>
X2CT_DEVICE void stored_totals(const ContrastiveStoredParams& params, double (&scratch)[Threads / 32]) {
    if (blockIdx.x + 1 != gridDim.x) return;
    const uint64_t tiles = params.tiles;
    auto total = [&](const double* partials, uint64_t each, bool all) {
        double sum = 0.0;
        for (uint32_t q = 0; q < params.pair_count; ++q)
            for (uint64_t i = threadIdx.x; i < each; i += Threads)
                if (all || params.pairs[q].gradient) sum += (all ? double(params.pairs[q].weight) : 1.0) * partials[q * each + i];
        return float(block_sum<Threads>(sum, scratch) * params.factor);
    };
    const float loss = total(params.loss_partials, tiles, true);
    if (threadIdx.x == 0) *params.loss = loss;
    if (params.dscale) {
        const float dscale = total(params.scale_partials, tiles * tiles, false);
        if (threadIdx.x == 0) *params.dscale = dscale;
    }
    if (params.dbias) {
        const float dbias = total(params.bias_partials, tiles, true);
        if (threadIdx.x == 0) *params.dbias = dbias;
    }
}

// The gradients of the sets that want one.
template <class T, class S>
X2CT_DEVICE void stored_products(S& s, const ContrastiveStoredParams& params) {
    using C = ContrastiveStoredConfig;
    const ContrastiveProblem& p = params.problem;
    const uint64_t tiles = params.tiles, padded = tiles * C::tile, slices = (p.d + C::tile - 1) / C::tile;
    for (uint64_t item = blockIdx.x; item < params.set_count * tiles * slices; item += gridDim.x) {
        const uint32_t set = uint32_t(item / (tiles * slices));
        const ContrastiveSet& own = params.sets[set];
        if (!own.dx) continue;
        const ContrastiveTarget target{own.x, own.inverse_norms, own.dx, nullptr, p.rows, p.d, logit_scale(p), params.factor, 0, ContrastiveCarry{}};
        gradient_tile<T>(s, target, item / slices % tiles * C::tile, item % slices * C::tile, params.pair_count, [&](uint32_t q) {
            const ContrastiveStoredPair& pair = params.pairs[q];
            const bool rows = pair.a == set;
            const ContrastiveSet& other = params.sets[rows ? pair.b : pair.a];
            const bool mine = rows || pair.b == set;
            return ContrastiveProduct{static_cast<const float*>(pair.h), other.x, other.inverse_norms, rows ? pair.row_alongs : pair.column_alongs, padded, 0, p.rows,
                                      mine ? padded : 0, padded, mine ? uint32_t(tiles) : 0, !rows};
        });
    }
}

template <class T>
X2CT_DEVICE void contrastive_stored_similarities(const ContrastiveStoredParams& params) {
    stored_similarities<T>(shared_memory<ContrastiveStoredConfig::Shared>(), params);
}
X2CT_DEVICE void contrastive_stored_logits_body(const ContrastiveStoredParams& params) {
    stored_gradients_of_logits(shared_memory<ContrastiveStoredConfig::Shared>(), params);
}
template <class T>
X2CT_DEVICE void contrastive_stored_products(const ContrastiveStoredParams& params) {
    auto& s = shared_memory<ContrastiveStoredConfig::Shared>();
    stored_totals<ContrastiveStoredConfig::threads>(params, s.scratch);
    stored_products<T>(s, params);
}

// Variant 4: loss and all gradients in one launch of resident blocks.
template <class T>
X2CT_DEVICE void contrastive_one_launch(const ContrastiveStoredParams& params) {
    using C = ContrastiveStoredConfig;
    auto& s = shared_memory<C::Shared>();
    for (uint32_t set = 0; set < params.set_count; ++set)
        if (params.sets[set].inverse_norms)
            for (uint64_t row0 = uint64_t(blockIdx.x) * (C::threads / kNormLanes); row0 < params.problem.rows; row0 += uint64_t(gridDim.x) * (C::threads / kNormLanes))
                norm_rows<C::threads, T>(params.sets[set].x, params.sets[set].inverse_norms, params.problem.rows, params.problem.d, row0, s.norms);
    grid_sync();
    stored_similarities<T>(s, params);
    grid_sync();
    stored_gradients_of_logits(s, params);
    grid_sync();
    stored_totals<C::threads>(params, s.scratch);
    stored_products<T>(s, params);
}

// The tile of rows first + 64 blockIdx.y by columns 64 blockIdx.x.
template <class T>
X2CT_DEVICE void contrastive_band(const ContrastiveBandParams& params) {
    using C = ContrastiveStoredConfig;
    auto& s = shared_memory<C::Shared>();
    const ContrastiveProblem& p = params.problem;
    const ContrastiveTerm& term = params.term;
    const T* x = static_cast<const T*>(params.x);
    const T* y = static_cast<const T*>(term.partner);
    const float scale = logit_scale(p);
    const int t = int(threadIdx.x);
    const uint64_t ld = uint64_t(gridDim.x) * C::tile, column0 = uint64_t(blockIdx.x) * C::tile, row0 = params.first + uint64_t(blockIdx.y) * C::tile;
    s.row[t] = row0 + t < p.rows ? term.own_softmax[row0 + t] : Softmax{};
    s.diagonal[t] = row0 + t < p.rows ? term.diagonal[row0 + t] : 0.0f;
    s.column[t] = column0 + t < p.columns ? term.partner_softmax[column0 + t] : Softmax{};
    MicroTile c = {};
    similarity_tile(s, p.rows, p.columns, p.d, x, params.x_inverse_norms, y, term.partner_inverse_norms, row0, column0, rows_aligned<T>(x, p.d) && rows_aligned<T>(y, p.d), c);
    float row_along, column_along;
    gradient_of_logits(s, p, scale, term.weight, row0, column0, c, &row_along, &column_along);
    store_micro(static_cast<float*>(params.h) + uint64_t(blockIdx.y) * C::tile * ld + column0, ld, c);
    params.row_alongs[blockIdx.x * params.band + blockIdx.y * C::tile + t] = row_along;
    params.column_alongs[blockIdx.y * ld + column0 + t] = column_along;
}

// dx of rows 64 blockIdx.x and columns 64 blockIdx.y.
template <class T>
X2CT_DEVICE void contrastive_product(const ContrastiveProductParams& p) {
    using C = ContrastiveStoredConfig;
    const float scale = p.scale_tensor ? *p.scale_tensor : p.scale;
    const ContrastiveTarget target{p.x, p.x_inverse_norms, p.dx, p.slopes, p.rows, p.d, scale, *p.upstream * p.factor, p.accumulate, p.carry};
    gradient_tile<T>(shared_memory<C::Shared>(), target, uint64_t(blockIdx.x) * C::tile, uint64_t(blockIdx.y) * C::tile, 1,
                     [&](uint32_t) { return p.product; });
}

struct ContrastiveChainConfig : KernelDefaults {
    static constexpr uint32_t threads = 256;
    static constexpr uint32_t each = 8;
    static constexpr uint32_t tile0 = threads * each;
};

template <class T>
X2CT_DEVICE void contrastive_chain(const ContrastiveChainParams& p) {
    const float upstream = *p.upstream;
    for (uint32_t i = 0; i < ContrastiveChainConfig::each; ++i) {
        const uint64_t at = (uint64_t(blockIdx.x) * ContrastiveChainConfig::each + i) * ContrastiveChainConfig::threads + threadIdx.x;
        if (at < p.n) write_gradient(static_cast<T*>(p.dx) + at, upstream * to_float(static_cast<const T*>(p.gradient)[at]), p.accumulate);
    }
}
