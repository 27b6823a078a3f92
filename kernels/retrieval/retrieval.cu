// Retrieval: the rank of the right item, and the k best items, of n queries among m others; no n x m matrix in memory.
//
//   s_ij = <query_i, item_j>            of the embeddings as given: normalise them first for cosines
//   rank_i = how many j have s_ij > s_i,target(i)          0 is best; a tie never counts against the right item
//   best_i = the k items of largest s_ij, ties by the smaller index
//
// Shapes: queries [n, d], items [m, d], f32 or bf16; ranks, targets and indices u32.
// Exact: a similarity has one order of summation wherever it is computed (similarity.cuh), so equal items tie exactly. A NaN
// counts as better than the right item, and is never among the best.
//
// Bytes: (n + m) d elements once a tile of 64: 64 multiply-adds a loaded element, so arithmetic limits, 2 n m d operations.
// One variant, f32 arithmetic (retrieval_own is its naive form).
// Test: cargo test --release ops::retrieval     Time: x2ct bench retrieval
#include "tiles/similarity.cuh"
#include "params.h"

struct RetrievalOwnConfig : KernelDefaults {
    static constexpr uint32_t threads = 64;
    static constexpr uint32_t tile0 = threads;
};

// Similarity of each query with its right item, in the order of summation of the tiles.
template <class T>
X2CT_DEVICE void retrieval_own(const RetrievalRankParams& p) {
    const uint64_t i = uint64_t(blockIdx.x) * RetrievalOwnConfig::threads + threadIdx.x;
    if (i >= p.n) return;
    const T* a = static_cast<const T*>(p.queries) + i * p.d;
    const T* b = static_cast<const T*>(p.items) + uint64_t(p.targets[i]) * p.d;
    float sum = 0.0f;
    for (uint64_t k = 0; k < p.d; ++k) sum += to_float(a[k]) * to_float(b[k]);
    p.own[i] = sum;
    if (p.column_own) p.column_own[p.targets[i]] = sum;
}

struct RetrievalRankConfig : SimilarityTile {
    static constexpr uint32_t min_blocks = 4;
    static constexpr uint32_t tile0 = tile;
    static constexpr uint32_t tile1 = 16;  // tiles of items that a block takes
    struct Shared : SimilarityTile::Shared {
        uint32_t rows[tile][lanes], columns[tile][lanes];
    };
};

// Queries 64 blockIdx.y, tiles of items 16 blockIdx.x and on. Whole numbers: whichever block adds them, the sum is the same.
template <class T>
X2CT_DEVICE void retrieval_ranks(const RetrievalRankParams& p) {
    using C = RetrievalRankConfig;
    auto& s = shared_memory<C::Shared>();
    const T* queries = static_cast<const T*>(p.queries);
    const T* items = static_cast<const T*>(p.items);
    const bool aligned = rows_aligned<T>(queries, p.d) && rows_aligned<T>(items, p.d);
    const int t = int(threadIdx.x), tx = t % C::lanes, ty = t / C::lanes;
    const uint64_t row0 = uint64_t(blockIdx.y) * C::tile, tiles = (p.m + C::tile - 1) / C::tile;
    uint32_t rank = 0;
    for (uint64_t ct = uint64_t(blockIdx.x) * C::tile1; ct < min(tiles, (uint64_t(blockIdx.x) + 1) * C::tile1); ++ct) {
        const uint64_t column0 = ct * C::tile;
        MicroTile c = {};
        similarity_tile(s, p.n, p.m, p.d, queries, nullptr, items, nullptr, row0, column0, aligned, c);
        uint32_t columns[C::micro] = {};
        float column_own[C::micro];
        X2CT_UNROLL
        for (int j = 0; j < C::micro; ++j) {
            const uint64_t column = column0 + micro_column(j);
            column_own[j] = p.column_own && column < p.m ? p.column_own[column] : 0.0f;
        }
        X2CT_UNROLL
        for (int i = 0; i < C::micro; ++i) {
            const uint64_t row = row0 + micro_row(i);
            uint32_t above = 0;
            if (row < p.n) {
                const float own = p.own[row];
                const uint32_t target = p.targets[row];
                X2CT_UNROLL
                for (int j = 0; j < C::micro; ++j) {
                    const uint64_t column = column0 + micro_column(j);
                    const bool other = column < p.m && column != target;
                    above += other && !(c[i][j / 4][j % 4] <= own);
                    columns[j] += other && !(c[i][j / 4][j % 4] <= column_own[j]);
                }
            }
            s.rows[micro_row(i)][tx] = above;
        }
        X2CT_UNROLL
        for (int j = 0; j < C::micro; ++j) s.columns[micro_column(j)][ty] = columns[j];
        __syncthreads();
        uint32_t column = 0;
        for (int i = 0; i < C::lanes; ++i) {
            rank += s.rows[t][i];
            column += s.columns[t][i];
        }
        if (p.column_ranks && column && column0 + t < p.m) atomicAdd(p.column_ranks + column0 + t, column);
    }
    if (rank && row0 + t < p.n) atomicAdd(p.ranks + row0 + t, rank);
}

struct RetrievalBestConfig : SimilarityTile {
    static constexpr uint32_t min_blocks = 4;
    static constexpr uint32_t tile0 = tile;
    static constexpr uint32_t tile1 = 16;  // strips at most
    struct Shared : SimilarityTile::Shared {
        float scores[tile][tile + 1];
    };
};

constexpr uint32_t kNoItem = 0xffffffffu;

// Queries 64 blockIdx.x among the strip blockIdx.y of the items. A thread keeps one query's list, in order.
template <class T>
X2CT_DEVICE void retrieval_best(const RetrievalBestParams& p) {
    using C = RetrievalBestConfig;
    auto& s = shared_memory<C::Shared>();
    const T* queries = static_cast<const T*>(p.queries);
    const T* items = static_cast<const T*>(p.items);
    const bool aligned = rows_aligned<T>(queries, p.d) && rows_aligned<T>(items, p.d);
    const int t = int(threadIdx.x);
    const uint64_t row0 = uint64_t(blockIdx.x) * C::tile, row = row0 + t, tiles = (p.m + C::tile - 1) / C::tile;
    const uint64_t list = (uint64_t(blockIdx.y) * p.n + row) * p.k;
    float least = -infinity();
    if (row < p.n)
        for (uint32_t i = 0; i < p.k; ++i) {
            p.strip_scores[list + i] = -infinity();
            p.strip_indices[list + i] = kNoItem;
        }
    for (uint64_t ct = tiles * blockIdx.y / p.strips; ct < tiles * (blockIdx.y + 1) / p.strips; ++ct) {
        const uint64_t column0 = ct * C::tile;
        MicroTile c = {};
        similarity_tile(s, p.n, p.m, p.d, queries, nullptr, items, nullptr, row0, column0, aligned, c);
        X2CT_UNROLL
        for (int i = 0; i < C::micro; ++i)
            X2CT_UNROLL
            for (int j = 0; j < C::micro; ++j) s.scores[micro_row(i)][micro_column(j)] = c[i][j / 4][j % 4];
        __syncthreads();
        if (row < p.n) {
            // Items come by rising index, and only a larger similarity displaces: ties keep the smaller index.
            for (uint64_t j = 0; j < min(uint64_t(C::tile), p.m - column0); ++j) {
                const float score = s.scores[t][j];
                if (!(score > least)) continue;
                uint32_t place = p.k - 1;
                for (; place > 0 && score > p.strip_scores[list + place - 1]; --place) {
                    p.strip_scores[list + place] = p.strip_scores[list + place - 1];
                    p.strip_indices[list + place] = p.strip_indices[list + place - 1];
                }
                p.strip_scores[list + place] = score;
                p.strip_indices[list + place] = uint32_t(column0 + j);
                least = p.strip_scores[list + p.k - 1];
            }
        }
    }
}

struct RetrievalMergeConfig : KernelDefaults {
    static constexpr uint32_t threads = 64;
    static constexpr uint32_t tile0 = threads;
    struct Shared {
        uint32_t taken[RetrievalBestConfig::tile1][threads];
    };
};

// A thread merges the lists of one query. Strips hold rising indices: of equal heads the first one's index is smaller.
X2CT_DEVICE void retrieval_merge_body(const RetrievalBestParams& p) {
    auto& s = shared_memory<RetrievalMergeConfig::Shared>();
    const int t = int(threadIdx.x);
    const uint64_t row = uint64_t(blockIdx.x) * RetrievalMergeConfig::threads + t;
    if (row >= p.n) return;
    for (uint32_t strip = 0; strip < p.strips; ++strip) s.taken[strip][t] = 0;
    for (uint32_t i = 0; i < p.k; ++i) {
        float score = -infinity();
        uint32_t index = kNoItem, from = 0;
        for (uint32_t strip = 0; strip < p.strips; ++strip) {
            if (s.taken[strip][t] == p.k) continue;
            const uint64_t head = (uint64_t(strip) * p.n + row) * p.k + s.taken[strip][t];
            if (p.strip_indices[head] != kNoItem && (index == kNoItem || p.strip_scores[head] > score)) {
                score = p.strip_scores[head];
                index = p.strip_indices[head];
                from = strip;
            }
        }
        p.scores[row * p.k + i] = score;
        p.indices[row * p.k + i] = index;
        if (index != kNoItem) ++s.taken[from][t];
    }
}

/// Similarity of each query with its right item.
X2CT_KERNEL(retrieval_own_f32, RetrievalRankParams, RetrievalOwnConfig, retrieval_own<float>)
X2CT_KERNEL(retrieval_own_bf16, RetrievalRankParams, RetrievalOwnConfig, retrieval_own<bf16>)
/// How many others are above it.
X2CT_KERNEL(retrieval_ranks_f32, RetrievalRankParams, RetrievalRankConfig, retrieval_ranks<float>)
X2CT_KERNEL(retrieval_ranks_bf16, RetrievalRankParams, RetrievalRankConfig, retrieval_ranks<bf16>)
/// The best items of every strip.
X2CT_KERNEL(retrieval_best_f32, RetrievalBestParams, RetrievalBestConfig, retrieval_best<float>)
X2CT_KERNEL(retrieval_best_bf16, RetrievalBestParams, RetrievalBestConfig, retrieval_best<bf16>)
/// The best items of all strips, from those of each.
X2CT_KERNEL(retrieval_merge, RetrievalBestParams, RetrievalMergeConfig, retrieval_merge_body)
