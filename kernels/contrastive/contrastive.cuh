// What the variants of the contrastive losses share: parameter structs, the sums a row and a column carry, loads.
#pragma once

#include "tiles/similarity.cuh"
#include "params.h"

// What a row or a column has summed over some of its logits, off the diagonal. Softmax: exp(logit - shift). Sigmoid: rows
// log(1 + exp(logit)), columns 1 / (1 + exp(-logit)), shift 0.
struct alignas(8) SumExp {
    float shift, sum;
};

// A row's or column's softmax: p = exp(logit - shift) * inverse. Sigmoid: `inverse` of a column is the sum of the
// gradients of its logits.
struct alignas(8) Softmax {
    float shift, inverse;
};

// How logits become a loss. Mirrors `Mode` in src/kernels/contrastive.rs.
constexpr uint32_t kRunningMaximum = 0;  // softmax; rows and columns keep their own shifts
constexpr uint32_t kBounded = 1;         // softmax; no logit exceeds `scale` and scale <= 40: `scale` is every shift
constexpr uint32_t kSigmoid = 2;         // every logit on its own: match or not

// Below this norm an embedding is divided by the bound instead, as PyTorch's F.normalize does; its gradient is then not
// projected, because the divisor does not depend on it.
constexpr float kMinNorm = 1e-12f;
constexpr float kMaxInverseNorm = 1e12f;

// The sum of two partial sums. An empty one has shift -inf and sum 0; a NaN stays one.
X2CT_DEVICE SumExp merge(SumExp a, SumExp b) {
    const float shift = fmaxf(a.shift, b.shift);
    if (a.shift == b.shift) return {shift, a.sum + b.sum};
    return {shift, a.sum * expf(a.shift - shift) + b.sum * expf(b.shift - shift)};
}

// log(1 + exp(x)) and 1 / (1 + exp(-x)), at full relative accuracy for any x.
X2CT_DEVICE float softplus(float x) { return (x > 0.0f ? x : 0.0f) + log1pf(expf(-fabsf(x))); }
X2CT_DEVICE float sigmoid(float x) {
    const float e = expf(-fabsf(x));
    return (x < 0.0f ? e : 1.0f) / (1.0f + e);
}

// The sum that has not seen a logit yet.
X2CT_DEVICE SumExp empty_sum(uint32_t mode, float scale) {
    return {mode == kBounded ? scale : mode == kSigmoid ? 0.0f : -infinity(), 0.0f};
}

// The sums of a thread's logits, by row and by column; a logit that does not count is -inf.
template <int Rows, int Columns, class PutRow, class PutColumn>
X2CT_DEVICE void fold(const float (&l)[Rows][Columns], uint32_t mode, float scale, PutRow put_row, PutColumn put_column) {
    if (mode == kSigmoid) {
        float columns[Columns] = {};
        X2CT_UNROLL
        for (int i = 0; i < Rows; ++i) {
            float row = 0.0f;
            X2CT_UNROLL
            for (int j = 0; j < Columns; ++j) {
                const float e = expf(-fabsf(l[i][j]));
                row += (l[i][j] > 0.0f ? l[i][j] : 0.0f) + log1pf(e);
                columns[j] += (l[i][j] < 0.0f ? e : 1.0f) / (1.0f + e);
            }
            put_row(i, SumExp{0.0f, row});
        }
        X2CT_UNROLL
        for (int j = 0; j < Columns; ++j) put_column(j, SumExp{0.0f, columns[j]});
        return;
    }
    if (mode == kBounded) {
        float columns[Columns] = {};
        X2CT_UNROLL
        for (int i = 0; i < Rows; ++i) {
            float row = 0.0f;
            X2CT_UNROLL
            for (int j = 0; j < Columns; ++j) {
                const float e = expf(l[i][j] - scale);
                row += e;
                columns[j] += e;
            }
            put_row(i, SumExp{scale, row});
        }
        X2CT_UNROLL
        for (int j = 0; j < Columns; ++j) put_column(j, SumExp{scale, columns[j]});
        return;
    }
    X2CT_UNROLL
    for (int i = 0; i < Rows; ++i) {
        SumExp row{l[i][0], 0.0f};
        X2CT_UNROLL
        for (int j = 1; j < Columns; ++j) row.shift = fmaxf(row.shift, l[i][j]);
        const float shift = row.shift == -infinity() ? 0.0f : row.shift;  // -inf - -inf would be NaN
        X2CT_UNROLL
        for (int j = 0; j < Columns; ++j) row.sum += expf(l[i][j] - shift);
        put_row(i, row);
    }
    X2CT_UNROLL
    for (int j = 0; j < Columns; ++j) {
        SumExp column{l[0][j], 0.0f};
        X2CT_UNROLL
        for (int i = 1; i < Rows; ++i) column.shift = fmaxf(column.shift, l[i][j]);
        const float shift = column.shift == -infinity() ? 0.0f : column.shift;
        X2CT_UNROLL
        for (int i = 0; i < Rows; ++i) column.sum += expf(l[i][j] - shift);
        put_column(j, column);
    }
}

X2CT_DEVICE float logit_scale(const ContrastiveProblem& p) { return p.scale_tensor ? *p.scale_tensor : p.scale; }
X2CT_DEVICE float logit_bias(const ContrastiveProblem& p) { return p.bias_tensor ? *p.bias_tensor : p.bias; }

// Whether a logit is a mismatch. Row and column lie inside.
X2CT_DEVICE bool mismatch(const ContrastiveProblem& p, uint64_t row, uint64_t column) {
    return row + p.offset != column && !(p.row_ids && p.row_ids[row] == p.column_ids[column]);
}

// The gradient of a mismatch's logit, without its factor and weight. The bias is fetched only where it can be another than 0:
// the kernels have no register to spare.
X2CT_DEVICE float logit_gradient(const ContrastiveProblem& p, float scale, float similarity, Softmax own, Softmax partner) {
    const float logit = scale * similarity;
    if (p.mode == kSigmoid) return sigmoid(logit + logit_bias(p));
    if (p.mode == kBounded) return expf(logit - scale) * (own.inverse + partner.inverse);
    return expf(logit - own.shift) * own.inverse + expf(logit - partner.shift) * partner.inverse;
}

// dx of one element: the gradient of the normalised embedding, `g`, brought back to the embedding as it was given.
// `along` is <g, x / |x|>.
X2CT_DEVICE float unnormalise(float g, float along, float x, float inverse) {
    return inverse < kMaxInverseNorm ? (g - along * (x * inverse)) * inverse : g * inverse;
}

// The strips of one row's (or column's) sums: `count` of them, `stride` apart.
struct Strips {
    const SumExp* first;
    uint64_t stride;
    uint32_t count;
};

// -log softmax of the diagonal, given the off-diagonal sums by strip; fills the softmax and adds p_ii - 1 to `diagonal`.
X2CT_DEVICE double finish_softmax(Strips strips, float own_logit, uint32_t mode, float scale, Softmax* softmax, double* diagonal) {
    float shift = mode == kBounded ? scale : own_logit;
    for (uint32_t i = 0; i < strips.count; ++i) shift = fmaxf(shift, strips.first[i * strips.stride].shift);
    double others = 0.0;
    for (uint32_t i = 0; i < strips.count; ++i) {
        const SumExp part = strips.first[i * strips.stride];
        others += part.shift == shift ? double(part.sum) : part.sum * exp(double(part.shift) - shift);
    }
    const double own = exp(double(own_logit) - shift), total = others + own;
    *softmax = {shift, float(1.0 / total)};
    *diagonal -= others / total;
    // exp(l_ii - shift) may underflow where the pair is far from aligned: log(total) is then as good as log1p.
    return others < own ? log1p(others / own) : log(total) + (double(shift) - own_logit);
}

// What a row and the column that matches it have come to.
struct Match {
    Softmax row, column;
    float diagonal;  // the gradient of the matching logit
    double loss;
};

X2CT_DEVICE Match finish_match(uint32_t mode, float scale, float own_logit, Strips row, Strips column) {
    Match m{};
    double diagonal = 0.0;
    if (mode == kSigmoid) {
        double others = 0.0;
        for (uint32_t i = 0; i < row.count; ++i) m.loss += row.first[i * row.stride].sum;
        for (uint32_t i = 0; i < column.count; ++i) others += column.first[i * column.stride].sum;
        m.loss += softplus(-own_logit);
        diagonal = -double(sigmoid(-own_logit));
        m.column.inverse = float(others + diagonal);
    } else {
        m.loss = finish_softmax(row, own_logit, mode, scale, &m.row, &diagonal);
        m.loss += finish_softmax(column, own_logit, mode, scale, &m.column, &diagonal);
    }
    m.diagonal = float(diagonal);
    return m;
}
