// What the variants of the contrastive loss share: parameter structs, the running sum of exponentials, loads.
#pragma once

#include "common/common.h"

// exp(logit - shift) summed over some of a row or column. Off the diagonal only, see contrastive.cu.
struct alignas(8) SumExp {
    float shift, sum;
};

// A row's or column's softmax: p = exp(logit - shift) * inverse.
struct alignas(8) Softmax {
    float shift, inverse;
};

// One pair of embedding sets: logits[i][j] = scale * <a_i, b_j>, rows from a, columns from b.
struct ContrastivePair {
    const void* a;                   // [n, d]
    const void* b;                   // [n, d]
    const float* a_inverse_norms;    // [n], or null: the embeddings are used as they are
    const float* b_inverse_norms;    // [n], or null
    SumExp* row_partials;            // [strips, n]: a strip is a range of columns
    SumExp* column_partials;         // [strips, n]: a strip is a range of rows
    float* diagonal_logits;          // [n]
    Softmax* row_softmax;            // [n]
    Softmax* column_softmax;         // [n]
    float* diagonal;                 // [n]: (p_row[i][i] - 1) + (p_column[i][i] - 1)
    float weight;                    // of this pair's loss
    uint32_t unused;
};
X2CT_FIELDS(ContrastivePair, a, b, a_inverse_norms, b_inverse_norms, row_partials, column_partials, diagonal_logits, row_softmax,
            column_softmax, diagonal, weight, unused)

constexpr uint32_t kMaxPairs = 4;

struct ContrastiveForwardParams {
    ContrastivePair pairs[kMaxPairs];
    const float* scale_tensor;  // one element, or null: `scale` holds
    double* loss_partials;      // [pairs, ceil(n / 256)]
    float* loss;                // one element
    uint64_t n, d;
    float scale;
    float factor;          // of the sum over pairs and rows: 1/n for the mean, 1 for the sum
    uint32_t pair_count;
    uint32_t strips;       // of rows, and as many of columns
    uint32_t bounded;      // 1: |logit| <= scale <= 40, so that `scale` itself is every shift
    uint32_t accumulate;   // 1: loss += (further pairs)
};
X2CT_FIELDS(ContrastiveForwardParams, pairs, scale_tensor, loss_partials, loss, n, d, scale, factor, pair_count, strips, bounded, accumulate)

// One pair seen from the set whose gradient is wanted.
struct ContrastiveTerm {
    const void* partner;                  // [n, d]
    const float* partner_inverse_norms;   // [n], or null
    const Softmax* own_softmax;           // [n]: over the partner's embeddings
    const Softmax* partner_softmax;       // [n]: over this set's embeddings
    const float* diagonal;                // [n]
    float weight;
    uint32_t unused;
};
X2CT_FIELDS(ContrastiveTerm, partner, partner_inverse_norms, own_softmax, partner_softmax, diagonal, weight, unused)

struct ContrastiveGradientParams {
    ContrastiveTerm terms[kMaxPairs];
    const void* x;                    // [n, d]
    const float* x_inverse_norms;     // [n], or null
    const float* scale_tensor;        // one element, or null
    const float* upstream;            // one element: the gradient of the loss
    void* dx;                         // [n, d], or null: only `slopes` are wanted
    float* slopes;                    // [n], or null: what each row adds to the gradient of the scale
    uint64_t n, d;
    float scale;
    float factor;         // 1 / (2 n) for the mean, 1/2 for the sum
    uint32_t term_count;
    uint32_t bounded;
    uint32_t accumulate;
    uint32_t unused;
};
X2CT_FIELDS(ContrastiveGradientParams, terms, x, x_inverse_norms, scale_tensor, upstream, dx, slopes, n, d, scale, factor, term_count,
            bounded, accumulate, unused)

// Below this norm an embedding is divided by the bound instead, as PyTorch's F.normalize does; its gradient is then not
// projected, because the divisor does not depend on it.
constexpr float kMinNorm = 1e-12f;
constexpr float kMaxInverseNorm = 1e12f;

X2CT_DEVICE float infinity() { return __uint_as_float(0x7f800000u); }

// The sum of two partial sums. An empty one has shift -inf and sum 0; a NaN stays one.
X2CT_DEVICE SumExp merge(SumExp a, SumExp b) {
    const float shift = fmaxf(a.shift, b.shift);
    if (a.shift == b.shift) return {shift, a.sum + b.sum};
    return {shift, a.sum * expf(a.shift - shift) + b.sum * expf(b.shift - shift)};
}

// The sums of exponentials of a thread's logits, by row and by column; an excluded logit is -inf. `bounded`: `scale` is
// every shift, and one exponential serves both sums.
template <int Rows, int Columns, class PutRow, class PutColumn>
X2CT_DEVICE void fold(const float (&l)[Rows][Columns], bool bounded, float scale, PutRow put_row, PutColumn put_column) {
    if (bounded) {
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

// The gradient of one logit over `scale`, without the batch's factor.
struct LogitGradient {
    float scale;
    bool bounded;
    X2CT_DEVICE float operator()(float logit, Softmax own, Softmax partner) const {
        if (bounded) return expf(logit - scale) * (own.inverse + partner.inverse);
        return expf(logit - own.shift) * own.inverse + expf(logit - partner.shift) * partner.inverse;
    }
};

template <class P>
X2CT_DEVICE float logit_scale(const P& p) {
    return p.scale_tensor ? *p.scale_tensor : p.scale;
}

X2CT_DEVICE float inverse_norm(const float* inverse_norms, uint64_t row) { return inverse_norms ? inverse_norms[row] : 1.0f; }

// Four elements of a row from column k on, zero past the end. `aligned`: rows are multiples of four elements.
template <class T>
X2CT_DEVICE void load_row4(const T* row, uint64_t k, uint64_t d, bool aligned, float (&out)[4]) {
    if (aligned && k < d) {
        load_float(row + k, out);
    } else {
        X2CT_UNROLL
        for (int i = 0; i < 4; ++i) out[i] = k + i < d ? to_float(row[k + i]) : 0.0f;
    }
}

template <class T>
X2CT_DEVICE bool rows_aligned(const void* p, uint64_t d) {
    return d % 4 == 0 && reinterpret_cast<uint64_t>(p) % (4 * sizeof(T)) == 0;
}

// dx of one element: the gradient of the normalised embedding, `g`, brought back to the embedding as it was given.
// `along` is <g, x / |x|>.
X2CT_DEVICE float unnormalise(float g, float along, float x, float inverse) {
    return inverse < kMaxInverseNorm ? (g - along * (x * inverse)) * inverse : g * inverse;
}
