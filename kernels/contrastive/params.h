// Parameters of the kernels of contrastive.cu. build/abi/params.rs says in which subset of C++.
#pragma once

#include <cstdint>

struct Softmax;
struct SumExp;

/// Pairs, or terms of a gradient, that one launch takes.
constexpr uint32_t kMaxPairs = 4;

/// Sets that a launch of the loss with its gradients takes.
constexpr uint32_t kMaxSets = 4;

/// Operands of the norms.
struct ContrastiveNormParams {
    /// Embeddings, `[n, d]`.
    const void* x;
    /// 1 / max(norm, 1e-12) of each embedding, f32 `[n]`.
    float* inverse_norms;
    /// Embeddings of x.
    uint64_t n;
    /// Elements of an embedding.
    uint64_t d;
};

/// One pair of embedding sets: rows from `a`, columns from `b`. Null norms: the embeddings are used as they are.
struct ContrastivePair {
    /// Embeddings of the rows, `[rows, d]`.
    const void* a;
    /// Embeddings of the columns, `[columns, d]`.
    const void* b;
    /// Inverse norms of `a`, f32 `[rows]`, or null.
    const float* a_inverse_norms;
    /// Inverse norms of `b`, f32 `[columns]`, or null.
    const float* b_inverse_norms;
    /// Workspace of two f32 `[strips, rows]`: (shift, sum of exp(logit - shift)) of a strip of columns.
    SumExp* row_partials;
    /// The same for strips of rows, `[strips, columns]`.
    SumExp* column_partials;
    /// Two f32 `[columns]`: the strips of rows merged, for [`column_sums`]; or null.
    SumExp* column_sums;
    /// Workspace for the matching logits, f32 `[rows]`.
    float* diagonal_logits;
    /// Two f32 `[rows]`: (shift, 1 / sum over the row of exp(logit - shift)).
    Softmax* row_softmax;
    /// The same of the columns that match the rows. Sigmoid: (0, sum of the gradients of the column's logits).
    Softmax* column_softmax;
    /// f32 `[rows]`: the gradient of the matching logit, before `factor` and `weight`.
    float* diagonal;
    /// Weight of this pair's loss.
    float weight;
};

/// What every kernel needs to know of the logits.
struct ContrastiveProblem {
    /// Identity of each row, f32 `[rows]`; two items of one identity are neither match nor mismatch. Null: no two are
    /// the same.
    const float* row_ids;
    /// Identity of each column, f32 `[columns]`, or null.
    const float* column_ids;
    /// One f32 that replaces `scale`, or null.
    const float* scale_tensor;
    /// One f32 that replaces `bias`, or null.
    const float* bias_tensor;
    /// Embeddings of a set that are rows here.
    uint64_t rows;
    /// Embeddings of a set.
    uint64_t columns;
    /// Row i matches column offset + i.
    uint64_t offset;
    /// Elements of an embedding.
    uint64_t d;
    /// Scale of a logit: logit = scale * inner product + bias.
    float scale;
    /// Bias of a logit, see `scale`; 0 for a softmax.
    float bias;
    /// How logits become a loss, a [`Mode`].
    uint32_t mode;
};

/// Operands of the forward kernels.
struct ContrastiveForwardParams {
    /// Pairs of embedding sets; the first `pair_count` count.
    ContrastivePair pairs[kMaxPairs];
    /// What is known of the logits.
    ContrastiveProblem problem;
    /// Workspace, f64 `[pair_count, ceil(rows / 256)]`.
    double* loss_partials;
    /// The loss, one f32.
    float* loss;
    /// Weight of one row's loss.
    float factor;
    /// Pairs that count.
    uint32_t pair_count;
    /// Strips of rows, and as many of columns.
    uint32_t strips;
    /// Strips of `column_partials` where they are finished: `strips`, or the number of shards.
    uint32_t column_strips;
    /// 1: `loss += result`.
    uint32_t accumulate;
};

/// A pair seen from the set whose gradient is wanted.
struct ContrastiveTerm {
    /// The other set, `[columns, d]`.
    const void* partner;
    /// Inverse norms of the partner, f32 `[columns]`, or null.
    const float* partner_inverse_norms;
    /// This set's softmax over the partner's embeddings, `[rows]`.
    const Softmax* own_softmax;
    /// The partner's softmax over this set's embeddings, `[columns]`.
    const Softmax* partner_softmax;
    /// Gradient of each matching logit, from the forward pass, f32 `[rows]`.
    const float* diagonal;
    /// Weight of the pair's loss.
    float weight;
};

/// Operands of the gradient kernels.
struct ContrastiveGradientParams {
    /// Terms of the gradient; the first `term_count` count.
    ContrastiveTerm terms[kMaxPairs];
    /// What is known of the logits.
    ContrastiveProblem problem;
    /// The set whose gradient is wanted, `[rows, d]`.
    const void* x;
    /// Inverse norms of x, f32 `[rows]`, or null: the embeddings are used as they are.
    const float* x_inverse_norms;
    /// One f32: the gradient of the loss.
    const float* upstream;
    /// Gradient of x, `[rows, d]`, or null.
    void* dx;
    /// f32 `[rows]`, or null: what each row adds to the gradient of the scale.
    float* slopes;
    /// Weight of one row's loss.
    float factor;
    /// Terms that count.
    uint32_t term_count;
    /// 1: `dx += result`.
    uint32_t accumulate;
};

/// Operands of [`gradient_wgmma`].
struct ContrastiveWgmmaGradientParams {
    /// As for [`gradient`]; partners are packed sets, their inverse norms the factors of [`pack`].
    ContrastiveGradientParams gradient;
    /// The set whose gradient is wanted, packed.
    const void* x_tiles;
    /// Factors of the packed rows, f32 `[rows]`, or null.
    const float* x_factors;
};

/// Operands of [`pack`].
struct ContrastivePackParams {
    /// Embeddings, bf16 `[n, d]`.
    const void* x;
    /// Inverse norms of x, f32 `[n]`, or null: the embeddings are used as they are.
    const float* inverse_norms;
    /// The packed set, bf16 of [`packed_shape`].
    void* tiles;
    /// Factor of each packed embedding, f32 `[n]`; null with `inverse_norms`.
    float* factors;
    /// Embeddings of x.
    uint64_t n;
    /// Elements of an embedding.
    uint64_t d;
};

/// A set of a batch whose gradients are made together with the loss.
struct ContrastiveSet {
    /// Embeddings, `[n, d]`.
    const void* x;
    /// Workspace for the inverse norms, f32 `[n]`; null: the embeddings are used as they are.
    float* inverse_norms;
    /// Gradient of x, `[n, d]`, or null: the set is frozen.
    void* dx;
};

/// A pair of such a batch; `padded` is the next multiple of 64 above n, `tiles` = padded / 64.
struct ContrastiveStoredPair {
    /// Workspace for the logits' gradients, f32 `[padded, padded]`; on tensor cores twice as many elements of the
    /// sets' type.
    void* h;
    /// Workspace for sums of the rows over tiles, two f32 `[tiles, padded]`.
    SumExp* row_partials;
    /// Workspace for sums of the columns over tiles, two f32 `[tiles, padded]`.
    SumExp* column_partials;
    /// Workspace for projections of the rows, f32 `[tiles, padded]`.
    float* row_alongs;
    /// Workspace for projections of the columns, f32 `[tiles, padded]`.
    float* column_alongs;
    /// Workspace for the matching logits, f32 `[padded]`.
    float* diagonal_logits;
    /// Weight of this pair's loss.
    float weight;
    /// Index of the set of the rows.
    uint32_t a;
    /// Index of the set of the columns.
    uint32_t b;
    /// 0: both sets are frozen, and the scale; `h` and the alongs may be null.
    uint32_t gradient;
};

/// Operands of the loss with its gradients.
struct ContrastiveStoredParams {
    /// Sets of embeddings; the first `set_count` count.
    ContrastiveSet sets[kMaxSets];
    /// Pairs of sets; the first `pair_count` count.
    ContrastiveStoredPair pairs[kMaxPairs];
    /// What is known of the logits; rows = columns.
    ContrastiveProblem problem;
    /// Workspace for the loss, f64 `[pairs, tiles]`.
    double* loss_partials;
    /// Workspace for the gradient of the bias, f64 `[pairs, tiles]`.
    double* bias_partials;
    /// Workspace for the gradient of the scale, f64 `[pairs, tiles, tiles]`.
    double* scale_partials;
    /// The loss, one f32.
    float* loss;
    /// Gradient of the scale, one f32, or null.
    float* dscale;
    /// Gradient of the bias, one f32, or null.
    float* dbias;
    /// Tiles along a side of the logits, as [`ContrastiveStoredPair`] says.
    uint64_t tiles;
    /// Weight of one row's loss.
    float factor;
    /// Sets that count.
    uint32_t set_count;
    /// Pairs that count.
    uint32_t pair_count;
};

/// Operands of the gradients of a band of logits, for the gradients of both sets of a pair.
struct ContrastiveBandParams {
    /// The pair, seen from the set of the rows.
    ContrastiveTerm term;
    /// What is known of the logits.
    ContrastiveProblem problem;
    /// Embeddings of the rows, `[rows, d]`.
    const void* x;
    /// Inverse norms of x, f32 `[rows]`, or null.
    const float* x_inverse_norms;
    /// The logits' gradients, f32 `[band, ld]`: `ld` is the next multiple of a [`band_tile`] above `columns`. On
    /// tensor cores two such of
    /// the sets' type, see [`band_product`].
    void* h;
    /// f32 `[ld / tile, band]`: sums over a tile's columns of h times similarity.
    float* row_alongs;
    /// f32 `[band / tile, ld]`: the same over a tile's rows.
    float* column_alongs;
    /// The band's first row.
    uint64_t first;
    /// Rows of the band, a multiple of a tile.
    uint64_t band;
};

/// One product of stored gradients of logits with a partner.
struct ContrastiveProduct {
    /// The logits' gradients, f32 `[.., ld]`, zero outside the batch.
    const float* h;
    /// Embeddings of the partner, `[partners, d]`.
    const void* partner;
    /// Inverse norms of the partner, f32 `[partners]`, or null.
    const float* partner_inverse_norms;
    /// f32 `[along_count, along_stride]`: added up, the sum of h times similarity of each row of the result.
    const float* alongs;
    /// Elements between two rows of `h`.
    uint64_t ld;
    /// The partner of the first column of `h`, or of its first row where it is transposed.
    uint64_t first;
    /// Embeddings of the partner.
    uint64_t partners;
    /// Columns (rows) of `h` that are summed over, a multiple of 64.
    uint64_t inner;
    /// Elements between two rows of `alongs`.
    uint64_t along_stride;
    /// Rows of `alongs`.
    uint32_t along_count;
    /// 1: the rows of the result are columns of `h`.
    uint32_t transposed;
};

/// How a gradient that several launches add to is kept in between: in f32, whatever its own type.
struct ContrastiveCarry {
    /// The gradient so far, f32 `[rows, d]`, or null: nothing is carried.
    float* sum;
    /// 1: `sum` holds the shares of the launches before.
    uint32_t bring;
    /// 1: other launches follow, the gradient itself is left alone.
    uint32_t keep;
};

/// Operands of [`product`].
struct ContrastiveProductParams {
    /// Factors of the product.
    ContrastiveProduct product;
    /// Embeddings of the rows, `[rows, d]`.
    const void* x;
    /// Inverse norms of x, f32 `[rows]`, or null: the embeddings are used as they are.
    const float* x_inverse_norms;
    /// One f32 that replaces `scale`, or null.
    const float* scale_tensor;
    /// One f32: the gradient of the loss.
    const float* upstream;
    /// Gradient of x, `[rows, d]`.
    void* dx;
    /// f32 `[rows]`, or null: what each row adds to the gradient of the scale.
    float* slopes;
    /// How `dx` is kept between bands.
    ContrastiveCarry carry;
    /// Rows of the result.
    uint64_t rows;
    /// Elements of an embedding.
    uint64_t d;
    /// Scale of a logit: logit = scale * inner product + bias.
    float scale;
    /// Weight of one row's loss.
    float factor;
    /// 1: `dx += result`.
    uint32_t accumulate;
};

/// Operands of [`band_product`].
struct ContrastiveBandProductParams {
    /// The logits' gradients, elements of the sets' type: the first tile for the result's first rows.
    const void* h;
    /// Embeddings of the partner, `[partners, d]`.
    const void* partner;
    /// f32 `[along_count, along_stride]`: added up, the sum of h times similarity of each row of the result.
    const float* alongs;
    /// Embeddings of the rows, `[rows, d]`.
    const void* x;
    /// Inverse norms of x, f32 `[rows]`, or null: the embeddings are used as they are.
    const float* x_inverse_norms;
    /// One f32 that replaces `scale`, or null.
    const float* scale_tensor;
    /// One f32: the gradient of the loss.
    const float* upstream;
    /// Gradient of x, `[rows, d]`.
    void* dx;
    /// f32 `[rows]`, or null: what each row adds to the gradient of the scale.
    float* slopes;
    /// How `dx` is kept between bands.
    ContrastiveCarry carry;
    /// Elements of `h` between the first tiles of two rows of tiles of the result.
    uint64_t row_stride;
    /// Elements of `h` between the tiles of such a row.
    uint64_t tile_stride;
    /// The partner of the first tile's first column.
    uint64_t first;
    /// Embeddings of the partner.
    uint64_t partners;
    /// Elements between two rows of `alongs`.
    uint64_t along_stride;
    /// Rows of the result.
    uint64_t rows;
    /// Elements of an embedding.
    uint64_t d;
    /// Scale of a logit: logit = scale * inner product + bias.
    float scale;
    /// Weight of one row's loss.
    float factor;
    /// Tiles of a row of tiles.
    uint32_t tiles;
    /// Rows of `alongs`.
    uint32_t along_count;
    /// 1: `dx += result`.
    uint32_t accumulate;
};

/// Operands of the chain rule behind a loss that made its gradients at once.
struct ContrastiveChainParams {
    /// Gradient of the loss by an input, `[n]`.
    const void* gradient;
    /// Gradient of the final value by the loss, one f32.
    const float* upstream;
    /// Gradient of the final value by the input, `[n]`.
    void* dx;
    /// Elements of the input.
    uint64_t n;
    /// 1: `dx += result`.
    uint32_t accumulate;
};

/// Operands of the gradients of scale and bias.
struct ContrastiveScaleParams {
    /// What each row adds to the gradient, f32 `[n]`, `stride` apart.
    const float* slopes;
    /// Gradient of the loss, one f32, or null: 1.
    const float* upstream;
    /// Gradient of the scale or bias, one f32.
    float* gradient;
    /// Slopes that are added up.
    uint64_t n;
    /// Factor of the sum.
    float factor;
    /// Elements between two slopes.
    uint32_t stride;
    /// 1: `gradient += result`.
    uint32_t accumulate;
};
