// Parameters of the kernels of probe.cu. build/abi/params.rs says in which subset of C++.
#pragma once

#include <cstdint>

/// Operands of every probe.
struct ProbeParams {
    /// Input.
    const float* input;
    /// Output.
    float* out;
    /// Elements of `out` that are valid.
    uint64_t n;
    /// Philox key, low word.
    uint32_t key0;
    /// Philox key, high word.
    uint32_t key1;
};
