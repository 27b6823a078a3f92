// The host build's meaning of CUDA's keywords and intrinsics: blocks are spread over OS threads by the caller, the threads
// of a block are fibers of one OS thread.
//
// A thread runs until it waits (barrier, warp collective, grid barrier) or ends; a fiber whose thread ends takes the next
// thread, so a kernel without waits is a plain loop on one stack. The order in which threads start and resume is a
// launch option (forward, reverse, seeded), so that a missing barrier changes the result. Waits that can never end, and
// everything else CUDA leaves undefined that is seen here, fail the launch with a message instead of hanging.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#define __device__
#define __host__
#define __global__
#define __forceinline__ inline
#define __restrict__ __restrict
#define __launch_bounds__(...)

struct KernelConfig;

namespace x2ct_host {

struct Dim3 {
    uint32_t x, y, z;
};

// How to run a range of blocks; filled in Rust (src/device/host.rs).
struct Launch {
    const void* params;
    Dim3 grid;
    uint32_t order;        // 0 forward, 1 reverse, 2 seeded
    uint64_t seed;         // of the seeded order
    uint64_t block_begin;  // linear block indices [begin, end), x fastest
    uint64_t block_end;
    char* message;         // receives a zero-terminated text when the launch fails
    size_t message_bytes;
};

// What the running thread may read. One per OS thread; the scheduler rewrites it at each switch.
struct Current {
    Dim3 thread, block, grid, dim;
    void* shared;
    uint32_t shared_bytes;
    uint32_t lane, warp;
};
extern __thread Current current __attribute__((tls_model("initial-exec")));

using Body = void (*)(const void* params);
void run(const Launch& launch, const KernelConfig& config, const char* name, Body body);

// Fails the launch; never returns.
[[noreturn]] void fail(const char* format, ...) __attribute__((format(printf, 1, 2)));

inline void check_aligned(const void* p, size_t bytes, const char* what) {
    if (__builtin_expect(reinterpret_cast<uintptr_t>(p) % bytes != 0, 0)) fail("misaligned %zu-byte vector %s at %p", bytes, what, p);
}

void sync_threads(const char* file, int line);
void sync_grid(const char* file, int line);

// Every lane of `mask` deposits `operand` and waits; the last to arrive runs `exchange(operands)` once for all of them.
// operands[lane] is null for lanes outside the mask.
using Exchange = void (*)(void* const operands[32], uint32_t mask);
void warp_collective(uint32_t mask, const char* kind, void* operand, Exchange exchange);

void async_copy(void* destination, const void* source, uint32_t bytes, uint32_t source_bytes);
void async_commit();
void async_wait(uint32_t pending_groups);

template <class T>
struct ShuffleOperand {
    T value, result;
    int source;  // lane to read
};

template <class T>
inline T shuffle(uint32_t mask, T value, int source) {
    ShuffleOperand<T> operand{value, value, source};
    warp_collective(mask, "shuffle", &operand, [](void* const operands[32], uint32_t) {
        for (int lane = 0; lane < 32; ++lane) {
            auto* mine = static_cast<ShuffleOperand<T>*>(operands[lane]);
            if (!mine) continue;
            auto* theirs = static_cast<ShuffleOperand<T>*>(operands[mine->source]);
            if (!theirs) fail("shuffle: lane %d reads lane %d, which is not in the mask", lane, mine->source);
            mine->result = theirs->value;
        }
    });
    return operand.result;
}

struct BallotOperand {
    uint32_t predicate, result;
};
inline uint32_t ballot(uint32_t mask, bool predicate) {
    BallotOperand operand{predicate, 0};
    warp_collective(mask, "ballot", &operand, [](void* const operands[32], uint32_t) {
        uint32_t bits = 0;
        for (int lane = 0; lane < 32; ++lane)
            if (auto* o = static_cast<BallotOperand*>(operands[lane])) bits |= (o->predicate ? 1u : 0u) << lane;
        for (int lane = 0; lane < 32; ++lane)
            if (auto* o = static_cast<BallotOperand*>(operands[lane])) o->result = bits;
    });
    return operand.result;
}

}  // namespace x2ct_host

#define threadIdx (::x2ct_host::current.thread)
#define blockIdx (::x2ct_host::current.block)
#define blockDim (::x2ct_host::current.dim)
#define gridDim (::x2ct_host::current.grid)

template <class S>
inline S& shared_memory() {
    if (sizeof(S) > x2ct_host::current.shared_bytes)
        x2ct_host::fail("the kernel asks for %zu bytes of shared memory, its Config declares %u", sizeof(S), x2ct_host::current.shared_bytes);
    return *static_cast<S*>(x2ct_host::current.shared);
}

inline void __syncthreads(const char* file = __builtin_FILE(), int line = __builtin_LINE()) { x2ct_host::sync_threads(file, line); }
inline void grid_sync(const char* file = __builtin_FILE(), int line = __builtin_LINE()) { x2ct_host::sync_grid(file, line); }
inline void __syncwarp(uint32_t mask = 0xffffffffu) {
    char nothing = 0;
    x2ct_host::warp_collective(mask, "syncwarp", &nothing, [](void* const*, uint32_t) {});
}
inline void __threadfence() {}

template <class T>
inline T __shfl_sync(uint32_t mask, T value, int source, int width = 32) {
    int lane = int(x2ct_host::current.lane);
    return x2ct_host::shuffle(mask, value, (lane & ~(width - 1)) + (source & (width - 1)));
}
template <class T>
inline T __shfl_xor_sync(uint32_t mask, T value, int lane_mask, int width = 32) {
    int lane = int(x2ct_host::current.lane), source = lane ^ lane_mask;
    bool inside = source < (lane & ~(width - 1)) + width;
    return x2ct_host::shuffle(mask, value, inside ? source : lane);
}
template <class T>
inline T __shfl_down_sync(uint32_t mask, T value, unsigned delta, int width = 32) {
    int lane = int(x2ct_host::current.lane), source = lane + int(delta);
    bool inside = source < (lane & ~(width - 1)) + width;
    return x2ct_host::shuffle(mask, value, inside ? source : lane);
}
template <class T>
inline T __shfl_up_sync(uint32_t mask, T value, unsigned delta, int width = 32) {
    int lane = int(x2ct_host::current.lane), source = lane - int(delta);
    bool inside = source >= (lane & ~(width - 1));
    return x2ct_host::shuffle(mask, value, inside ? source : lane);
}
inline uint32_t __ballot_sync(uint32_t mask, bool predicate) { return x2ct_host::ballot(mask, predicate); }
inline int __any_sync(uint32_t mask, bool predicate) { return x2ct_host::ballot(mask, predicate) != 0; }
inline int __all_sync(uint32_t mask, bool predicate) { return x2ct_host::ballot(mask, !predicate) == 0; }

template <class T>
inline T __ldg(const T* p) { return *p; }
inline float __expf(float x) { return expf(x); }
inline float __logf(float x) { return logf(x); }
inline float __fdividef(float a, float b) { return a / b; }
inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
inline double rsqrt(double x) { return 1.0 / sqrt(x); }
inline int __popc(uint32_t x) { return __builtin_popcount(x); }
inline uint32_t __float_as_uint(float x) {
    uint32_t u;
    memcpy(&u, &x, 4);
    return u;
}
inline float __uint_as_float(uint32_t u) {
    float x;
    memcpy(&x, &u, 4);
    return x;
}
inline int __float2int_rd(float x) { return int(floorf(x)); }
inline uint32_t __umulhi(uint32_t a, uint32_t b) { return uint32_t((uint64_t(a) * b) >> 32); }
template <class T>
inline T min(T a, T b) { return b < a ? b : a; }
template <class T>
inline T max(T a, T b) { return a < b ? b : a; }
using std::isfinite;
using std::isnan;

// Integer atomics only: floating-point ones would make the result depend on the order.
inline unsigned long long atomicAdd(unsigned long long* p, unsigned long long v) { return __atomic_fetch_add(p, v, __ATOMIC_RELAXED); }
inline unsigned atomicAdd(unsigned* p, unsigned v) { return __atomic_fetch_add(p, v, __ATOMIC_RELAXED); }
inline unsigned atomicMax(unsigned* p, unsigned v) {
    unsigned old = __atomic_load_n(p, __ATOMIC_RELAXED);
    while (old < v && !__atomic_compare_exchange_n(p, &old, v, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {}
    return old;
}
