// Parameters of the kernels of retrieval.cu. build/abi/params.rs says in which subset of C++.
#pragma once

#include <cstdint>

/// Operands of the ranks.
struct RetrievalRankParams {
    /// Embeddings of the queries, `[n, d]`.
    const void* queries;
    /// Embeddings of the items, `[m, d]`.
    const void* items;
    /// The right item of each query, u32 `[n]`.
    const uint32_t* targets;
    /// Workspace for the queries' own similarities, f32 `[n]`.
    float* own;
    /// Workspace, f32 `[m]`; null: only the queries are ranked. Otherwise query i belongs to item i, and n = m.
    float* column_own;
    /// Rank of each query's item, u32 `[n]`, zero at first.
    uint32_t* ranks;
    /// Rank of each item's query, u32 `[m]`, zero at first; null where `column_own` is.
    uint32_t* column_ranks;
    /// Queries.
    uint64_t n;
    /// Items.
    uint64_t m;
    /// Elements of an embedding.
    uint64_t d;
};

/// Operands of the best items.
struct RetrievalBestParams {
    /// Embeddings of the queries, `[n, d]`.
    const void* queries;
    /// Embeddings of the items, `[m, d]`.
    const void* items;
    /// Workspace for the best scores of a strip, f32 `[strips, n, k]`.
    float* strip_scores;
    /// Workspace for the best items of a strip, u32 `[strips, n, k]`.
    uint32_t* strip_indices;
    /// Similarities of the best items, f32 `[n, k]`.
    float* scores;
    /// The best items, u32 `[n, k]`; `u32::MAX` where fewer than k similarities are numbers.
    uint32_t* indices;
    /// Queries.
    uint64_t n;
    /// Items.
    uint64_t m;
    /// Elements of an embedding.
    uint64_t d;
    /// Items wanted of each query.
    uint32_t k;
    /// Ranges of items that are searched side by side, see [`strips`].
    uint32_t strips;
};
