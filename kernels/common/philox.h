// Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011): 128 random bits from a 128-bit
// counter and a 64-bit key, the same on host and device, in any order.
#pragma once

#include "common.h"

struct Philox {
    uint32_t x[4];
};

X2CT_DEVICE Philox philox4x32_10(Philox counter, uint32_t key0, uint32_t key1) {
    X2CT_UNROLL
    for (int round = 0; round < 10; ++round) {
        const uint32_t hi0 = __umulhi(0xD2511F53u, counter.x[0]), lo0 = 0xD2511F53u * counter.x[0];
        const uint32_t hi1 = __umulhi(0xCD9E8D57u, counter.x[2]), lo1 = 0xCD9E8D57u * counter.x[2];
        counter = {{hi1 ^ counter.x[1] ^ key0, lo1, hi0 ^ counter.x[3] ^ key1, lo0}};
        key0 += 0x9E3779B9u;
        key1 += 0xBB67AE85u;
    }
    return counter;
}

// Uniform in (0, 1]: never 0, so that a logarithm is safe.
X2CT_DEVICE float philox_uniform(uint32_t bits) { return (float(bits >> 8) + 1.0f) * (1.0f / 16777216.0f); }
