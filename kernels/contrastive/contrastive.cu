// Contrastive losses of pairs of embedding sets, any number of sets: the loss and its gradients, no n x n matrix in memory.
//
//   l_ij = scale <a_i, b_j>            embeddings divided by their norms where asked
//   softmax  L(a, b) = 1/2 factor sum_i [ log sum_j exp l_ij - l_ii  +  log sum_j exp l_ji - l_ii ]      factor 1/n (mean) or 1 (sum)
//   sigmoid  L(a, b) = factor sum_ij log(1 + exp(-z_ij (l_ij + bias)))    z = 1 for i = j, otherwise -1
//   loss = sum over pairs of weight L(a, b)
//
// Shapes: a, b, da, db [n, d] row-major, f32 or bf16; norms, sums and the loss f32. One shard of a batch: a and da have its
// rows alone, and row i matches column offset + i.
//
// Forward: norms; one pass over tiles of l that sums exp(l - shift) of rows and columns, a strip at a time; per row the two
// softmax normalisers; the sum of the losses in f64. Backward: tiles of l are recomputed, turned into
//   h_ij = 1/2 factor weight (p_row_ij + p_column_ij - 2 [i = j])
// and multiplied with the other set: dl/da_i = scale sum_j h_ij b_j. A block owns rows of the gradient, so nothing is
// accumulated across blocks and the result does not depend on their order.
//
// Idea: while |l| <= scale <= 40 the constant `scale` can be every shift, and one exponential serves rows and columns in both
// passes. Beyond that (`bounded` = 0) rows and columns keep running maxima, exact at any scale and norm.
//
// Idea: sums leave the diagonal out. With S = sum over j != i of exp(l_ij - l_ii) the loss of a row is log1p(S) and its
// diagonal gradient -S / (1 + S): both keep their relative accuracy where pairs are well aligned and S is tiny.
//
// Bytes: 2 n d elements per pair forward; backward n d for x and its gradient and n d per partner. A tile of 64 makes
// 32 (f32) multiply-adds a loaded element, so arithmetic is what limits: 2 n^2 d operations per pair forward, twice that per
// pair and gradient backward.
//
// Variants: 1 naive (one thread a row), 2 tiled (f32 arithmetic, contrastive_tiled.cuh), 3 tensor cores (bf16, or TF32 where
// storage is f32; contrastive_mma.cuh), 4 loss and gradients of up to 1,024 in one cooperative launch
// (contrastive_stored.cuh), 5 tensor cores of sm_90a alone (bf16; contrastive_wgmma.cuh), 6 as 4, on tensor cores
// (contrastive_stored_mma.cuh). Where both sets of a pair want a gradient, variants 2 and 4 store bands of h, 3 and 6 as long as
// that pays: 4 U more than the forward pass become 3, U = 2 n^2 d operations.
// Test: cargo test --release ops::contrastive     Time: x2ct bench contrastive
#include "common/reduce.h"
#include "contrastive.cuh"
#include "contrastive_mma.cuh"
#include "contrastive_stored.cuh"
#include "contrastive_stored_mma.cuh"
#include "contrastive_tiled.cuh"
#include "contrastive_wgmma_gradient.cuh"

struct ContrastiveNormConfig : KernelDefaults {
    static constexpr uint32_t threads = 128;
    static constexpr uint32_t tile0 = threads / kNormLanes;
    struct Shared {
        double parts[threads];
    };
};

template <class T>
X2CT_DEVICE void contrastive_norms(const ContrastiveNormParams& p) {
    using C = ContrastiveNormConfig;
    norm_rows<C::threads, T>(p.x, p.inverse_norms, p.n, p.d, uint64_t(blockIdx.x) * C::tile0, shared_memory<C::Shared>().parts);
}

// The inner product of two embeddings, divided by their norms.
template <class T>
X2CT_DEVICE float similarity(const T* a, float a_inverse, const T* b, float b_inverse, uint64_t d) {
    float sum = 0.0f;
    for (uint64_t k = 0; k < d; ++k) sum += (to_float(a[k]) * a_inverse) * (to_float(b[k]) * b_inverse);
    return sum;
}

struct ContrastiveNaiveConfig : KernelDefaults {
    static constexpr uint32_t threads = 64;
    static constexpr uint32_t tile0 = threads;
    static constexpr uint32_t tile1 = 1;  // strips
    static constexpr int width = 16;      // columns of dx that a thread accumulates
};

// Variant 1: thread i sums row i of pair blockIdx.z, and column i.
template <class T>
X2CT_DEVICE void contrastive_naive(const ContrastiveForwardParams& params) {
    const ContrastivePair& pair = params.pairs[blockIdx.z];
    const ContrastiveProblem& p = params.problem;
    const uint64_t i = uint64_t(blockIdx.x) * ContrastiveNaiveConfig::threads + threadIdx.x;
    const T* a = static_cast<const T*>(pair.a);
    const T* b = static_cast<const T*>(pair.b);
    const float scale = logit_scale(p), bias = logit_bias(p);
    auto logit = [&](uint64_t row, uint64_t column) {
        return scale * similarity(a + row * p.d, inverse_norm(pair.a_inverse_norms, row), b + column * p.d, inverse_norm(pair.b_inverse_norms, column), p.d) + bias;
    };
    auto one = [&](float l, bool row) {
        if (p.mode == kSigmoid) return SumExp{0.0f, row ? softplus(l) : sigmoid(l)};
        return p.mode == kBounded ? SumExp{scale, expf(l - scale)} : SumExp{l, 1.0f};
    };
    if (i < p.rows) {
        SumExp sum = empty_sum(p.mode, scale);
        for (uint64_t j = 0; j < p.columns; ++j)
            if (mismatch(p, i, j)) sum = merge(sum, one(logit(i, j), true));
        pair.row_partials[i] = sum;
        pair.diagonal_logits[i] = logit(i, i + p.offset);
    }
    if (i < p.columns) {
        SumExp sum = empty_sum(p.mode, scale);
        for (uint64_t j = 0; j < p.rows; ++j)
            if (mismatch(p, j, i)) sum = merge(sum, one(logit(j, i), false));
        pair.column_partials[i] = sum;
    }
}

// Variant 1: thread i makes row i of dx, 16 columns at a time; the logits are recomputed each time.
template <class T>
X2CT_DEVICE void contrastive_gradient_naive(const ContrastiveGradientParams& params) {
    constexpr int width = ContrastiveNaiveConfig::width;
    const ContrastiveProblem& p = params.problem;
    const uint64_t i = uint64_t(blockIdx.x) * ContrastiveNaiveConfig::threads + threadIdx.x;
    if (i >= p.rows) return;
    const T* x = static_cast<const T*>(params.x) + i * p.d;
    const float scale = logit_scale(p), inverse = inverse_norm(params.x_inverse_norms, i);
    const float factor = *params.upstream * params.factor;
    for (uint64_t k0 = 0; k0 < p.d; k0 += width) {
        float g[width] = {}, along = 0.0f;
        for (uint32_t q = 0; q < params.term_count; ++q) {
            const ContrastiveTerm& term = params.terms[q];
            const Softmax own = term.own_softmax[i];
            for (uint64_t j = 0; j < p.columns; ++j) {
                const bool match = i + p.offset == j;
                if (!match && !mismatch(p, i, j)) continue;
                const T* y = static_cast<const T*>(term.partner) + j * p.d;
                const float y_inverse = inverse_norm(term.partner_inverse_norms, j);
                const float c = similarity(x, inverse, y, y_inverse, p.d);
                const float h = term.weight * (match ? term.diagonal[i] : logit_gradient(p, scale, c, own, term.partner_softmax[j]));
                along += h * c;
                for (int k = 0; k < width; ++k)
                    if (k0 + k < p.d) g[k] += h * (to_float(y[k0 + k]) * y_inverse);
            }
        }
        if (params.slopes) params.slopes[i] = along * factor;
        if (!params.dx) return;
        for (int k = 0; k < width; ++k) {
            if (k0 + k >= p.d) continue;
            const float free = scale * g[k];
            const float value = params.x_inverse_norms ? unnormalise(free, scale * along, to_float(x[k0 + k]), inverse) : free;
            write_gradient(static_cast<T*>(params.dx) + i * p.d + k0 + k, factor * value, params.accumulate);
        }
    }
}

struct ContrastiveRowConfig : KernelDefaults {
    static constexpr uint32_t threads = 256;
    static constexpr uint32_t tile0 = threads;
    struct Shared {
        double scratch[threads / 32];
    };
};

// column_sums of 256 columns (blockIdx.x) of pair blockIdx.y: what another shard needs of this one's rows.
X2CT_DEVICE void contrastive_columns_body(const ContrastiveForwardParams& params) {
    const ContrastivePair& pair = params.pairs[blockIdx.y];
    const uint64_t columns = params.problem.columns, j = uint64_t(blockIdx.x) * ContrastiveRowConfig::threads + threadIdx.x;
    if (j >= columns) return;
    SumExp sum = pair.column_partials[j];
    for (uint32_t strip = 1; strip < params.column_strips; ++strip) sum = merge(sum, pair.column_partials[strip * columns + j]);
    pair.column_sums[j] = sum;
}

// Merges the strips of 256 rows (blockIdx.x) of pair blockIdx.y and of the columns that match them.
X2CT_DEVICE void contrastive_rows_body(const ContrastiveForwardParams& params) {
    auto& s = shared_memory<ContrastiveRowConfig::Shared>();
    const ContrastiveProblem& p = params.problem;
    const ContrastivePair& pair = params.pairs[blockIdx.y];
    const uint64_t i = uint64_t(blockIdx.x) * ContrastiveRowConfig::threads + threadIdx.x;
    double loss = 0.0;
    if (i < p.rows) {
        const Strips row{pair.row_partials + i, p.rows, params.strips}, column{pair.column_partials + p.offset + i, p.columns, params.column_strips};
        const Match match = finish_match(p.mode, logit_scale(p), pair.diagonal_logits[i], row, column);
        pair.row_softmax[i] = match.row;
        pair.column_softmax[i] = match.column;
        pair.diagonal[i] = match.diagonal;
        loss = match.loss;
    }
    loss = block_sum<ContrastiveRowConfig::threads>(loss, s.scratch);
    if (threadIdx.x == 0) params.loss_partials[blockIdx.y * uint64_t(gridDim.x) + blockIdx.x] = loss;
}

struct ContrastiveSumConfig : KernelDefaults {
    static constexpr uint32_t threads = 32;
};

// loss = factor sum over pairs of weight times the sum of its partials. One warp.
X2CT_DEVICE void contrastive_loss_body(const ContrastiveForwardParams& p) {
    const uint64_t blocks = (p.problem.rows + ContrastiveRowConfig::threads - 1) / ContrastiveRowConfig::threads;
    double loss = 0.0;
    for (uint32_t q = 0; q < p.pair_count; ++q)
        for (uint64_t b = threadIdx.x; b < blocks; b += ContrastiveSumConfig::threads)
            loss += double(p.pairs[q].weight) * p.loss_partials[q * blocks + b];
    loss = warp_sum(loss);
    if (threadIdx.x == 0) write_gradient(p.loss, float(loss * p.factor), p.accumulate);
}

// gradient = upstream factor sum of the slopes, in f64. One warp.
X2CT_DEVICE void contrastive_scale_body(const ContrastiveScaleParams& p) {
    double sum = 0.0;
    for (uint64_t i = threadIdx.x; i < p.n; i += ContrastiveSumConfig::threads) sum += p.slopes[i * p.stride];
    sum = warp_sum(sum) * p.factor * (p.upstream ? *p.upstream : 1.0f);
    if (threadIdx.x == 0) write_gradient(p.gradient, float(sum), p.accumulate);
}

/// 1 / max(norm, 1e-12) of every embedding.
X2CT_KERNEL(contrastive_norms_f32, ContrastiveNormParams, ContrastiveNormConfig, contrastive_norms<float>)
X2CT_KERNEL(contrastive_norms_bf16, ContrastiveNormParams, ContrastiveNormConfig, contrastive_norms<bf16>)
/// Sums of exponentials, variant 1.
X2CT_KERNEL(contrastive_naive_f32, ContrastiveForwardParams, ContrastiveNaiveConfig, contrastive_naive<float>)
X2CT_KERNEL(contrastive_naive_bf16, ContrastiveForwardParams, ContrastiveNaiveConfig, contrastive_naive<bf16>)
/// Sums of exponentials, variant 2.
X2CT_KERNEL(contrastive_tiled_f32, ContrastiveForwardParams, ContrastiveTileConfig, contrastive_tiled<float>)
X2CT_KERNEL(contrastive_tiled_bf16, ContrastiveForwardParams, ContrastiveTileConfig, contrastive_tiled<bf16>)
/// Sums of exponentials, variant 3.
X2CT_KERNEL(contrastive_mma_f32, ContrastiveForwardParams, ContrastiveMmaConfig, contrastive_mma<float>)
X2CT_KERNEL(contrastive_mma_bf16, ContrastiveForwardParams, ContrastiveMmaConfig, contrastive_mma<bf16>)
/// Softmax normalisers and losses of the rows.
X2CT_KERNEL(contrastive_rows, ContrastiveForwardParams, ContrastiveRowConfig, contrastive_rows_body)
/// Loss and gradients of a whole batch, variant 4.
X2CT_KERNEL(contrastive_one_launch_f32, ContrastiveStoredParams, ContrastiveOneLaunchConfig, contrastive_one_launch<float>)
X2CT_KERNEL(contrastive_one_launch_bf16, ContrastiveStoredParams, ContrastiveOneLaunchConfig, contrastive_one_launch<bf16>)
/// The same on tensor cores, variant 6.
X2CT_KERNEL(contrastive_one_launch_mma_f32, ContrastiveStoredParams, ContrastiveOneLaunchMmaConfig<float>, contrastive_one_launch_mma<float>)
X2CT_KERNEL(contrastive_one_launch_mma_bf16, ContrastiveStoredParams, ContrastiveOneLaunchMmaConfig<bf16>, contrastive_one_launch_mma<bf16>)
/// Variant 4 in three launches: similarities,
X2CT_KERNEL(contrastive_stored_similarities_f32, ContrastiveStoredParams, ContrastiveStoredConfig, contrastive_stored_similarities<float>)
X2CT_KERNEL(contrastive_stored_similarities_bf16, ContrastiveStoredParams, ContrastiveStoredConfig, contrastive_stored_similarities<bf16>)
/// gradients of the logits,
X2CT_KERNEL(contrastive_stored_logits, ContrastiveStoredParams, ContrastiveStoredConfig, contrastive_stored_logits_body)
/// and of the sets.
X2CT_KERNEL(contrastive_stored_products_f32, ContrastiveStoredParams, ContrastiveStoredConfig, contrastive_stored_products<float>)
X2CT_KERNEL(contrastive_stored_products_bf16, ContrastiveStoredParams, ContrastiveStoredConfig, contrastive_stored_products<bf16>)
/// Gradients of a band of logits.
X2CT_KERNEL(contrastive_band_f32, ContrastiveBandParams, ContrastiveStoredConfig, contrastive_band<float>)
X2CT_KERNEL(contrastive_band_bf16, ContrastiveBandParams, ContrastiveStoredConfig, contrastive_band<bf16>)
/// Stored gradients of logits times a set.
X2CT_KERNEL(contrastive_product_f32, ContrastiveProductParams, ContrastiveStoredConfig, contrastive_product<float>)
X2CT_KERNEL(contrastive_product_bf16, ContrastiveProductParams, ContrastiveStoredConfig, contrastive_product<bf16>)
/// Gradients of a band of logits on tensor cores.
X2CT_KERNEL(contrastive_band_mma_f32, ContrastiveBandParams, ContrastiveBandMmaConfig<float>, contrastive_band_mma<float>)
X2CT_KERNEL(contrastive_band_mma_bf16, ContrastiveBandParams, ContrastiveBandMmaConfig<bf16>, contrastive_band_mma<bf16>)
/// Those times a set.
X2CT_KERNEL(contrastive_band_product_mma_f32, ContrastiveBandProductParams, ContrastiveBandMmaConfig<float>, contrastive_band_product_mma<float>)
X2CT_KERNEL(contrastive_band_product_mma_bf16, ContrastiveBandProductParams, ContrastiveBandMmaConfig<bf16>, contrastive_band_product_mma<bf16>)
/// Gradients of an input, times that of the loss.
X2CT_KERNEL(contrastive_chain_f32, ContrastiveChainParams, ContrastiveChainConfig, contrastive_chain<float>)
X2CT_KERNEL(contrastive_chain_bf16, ContrastiveChainParams, ContrastiveChainConfig, contrastive_chain<bf16>)
/// Sums of the columns over this shard's rows.
X2CT_KERNEL(contrastive_columns, ContrastiveForwardParams, ContrastiveRowConfig, contrastive_columns_body)
/// The loss.
X2CT_KERNEL(contrastive_loss, ContrastiveForwardParams, ContrastiveSumConfig, contrastive_loss_body)
/// Gradient of a set, variant 1.
X2CT_KERNEL(contrastive_gradient_naive_f32, ContrastiveGradientParams, ContrastiveNaiveConfig, contrastive_gradient_naive<float>)
X2CT_KERNEL(contrastive_gradient_naive_bf16, ContrastiveGradientParams, ContrastiveNaiveConfig, contrastive_gradient_naive<bf16>)
/// Gradient of a set, variant 2.
X2CT_KERNEL(contrastive_gradient_tiled_f32, ContrastiveGradientParams, ContrastiveGradientConfig, contrastive_gradient_tiled<float>)
X2CT_KERNEL(contrastive_gradient_tiled_bf16, ContrastiveGradientParams, ContrastiveGradientConfig, contrastive_gradient_tiled<bf16>)
/// Gradient of a set, variant 3.
X2CT_KERNEL(contrastive_gradient_mma_f32, ContrastiveGradientParams, ContrastiveGradientMmaConfig<float>, contrastive_gradient_mma<float>)
X2CT_KERNEL(contrastive_gradient_mma_bf16, ContrastiveGradientParams, ContrastiveGradientMmaConfig<bf16>, contrastive_gradient_mma<bf16>)
/// Embeddings as tiles for variant 5.
X2CT_KERNEL(contrastive_pack, ContrastivePackParams, ContrastivePackConfig, contrastive_pack_body)
/// Sums of exponentials, variant 5.
X2CT_KERNEL(contrastive_wgmma_bf16, ContrastiveForwardParams, ContrastiveWgmmaConfig, contrastive_wgmma<kHasWgmma>)
/// Gradient of a set, variant 5.
X2CT_KERNEL(contrastive_gradient_wgmma_bf16, ContrastiveWgmmaGradientParams, ContrastiveGradientWgmmaConfig, contrastive_gradient_wgmma<kHasWgmma>)
/// Gradient of the scale, or of the bias.
X2CT_KERNEL(contrastive_scale, ContrastiveScaleParams, ContrastiveSumConfig, contrastive_scale_body)
