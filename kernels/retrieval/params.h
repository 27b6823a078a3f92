// Parameters of the kernels of retrieval.cu. build/abi/params.rs says in which subset of C++.
#pragma once

#include <cstdint>

/// Operands of the ranks.
struct RetrievalRankParams {
    /// `[n, d]`.
    const void* queries;
    /// `[m, d]`.
    const void* items;
    /// u32 `[n]`: the right item of each query.
    const uint32_t* targets;
    /// Workspace, f32 `[n]`.
    float* own;
    /// Workspace, f32 `[m]`; null: only the queries are ranked. Otherwise query i belongs to item i, and n = m.
    float* column_own;
    /// u32 `[n]`, zero at first.
    uint32_t* ranks;
    /// u32 `[m]`, zero at first; null where `column_own` is.
    uint32_t* column_ranks;
    /// Queries.
    uint64_t n;
    /// Items.
    uint64_t m;
    /// Their length.
    uint64_t d;
};

/// Operands of the best items.
struct RetrievalBestParams {
    /// `[n, d]`.
    const void* queries;
    /// `[m, d]`.
    const void* items;
    /// Workspace, f32 `[strips, n, k]`.
    float* strip_scores;
    /// Workspace, u32 `[strips, n, k]`.
    uint32_t* strip_indices;
    /// f32 `[n, k]`.
    float* scores;
    /// u32 `[n, k]`; `u32::MAX` where fewer than k similarities are numbers.
    uint32_t* indices;
    /// Queries.
    uint64_t n;
    /// Items.
    uint64_t m;
    /// Their length.
    uint64_t d;
    /// Items wanted of each query.
    uint32_t k;
    /// Ranges of items that are searched side by side, see [`strips`].
    uint32_t strips;
};
