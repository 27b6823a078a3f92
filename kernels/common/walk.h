// Parameters that families share. build/abi/params.rs says in which subset of C++.
#pragma once

#include <cstdint>

/// How the blocks of a kernel walk a `[rows, channels]` matrix with contiguous channels (columns.h).
struct Walk {
    /// Channel vectors of a block.
    uint32_t columns;
    /// Threads that share a column.
    uint32_t lanes;
    /// Rows a thread visits at most.
    uint32_t rows_per_thread;
    /// Rows between neighbouring lanes.
    uint32_t lane_step;
    /// Rows between two visits of a thread.
    uint32_t row_step;
    /// 1: a vector is 16 bytes; 0: one channel.
    uint32_t vector;
};
