// Probes: small kernels that prove the tools around the kernels rather than compute anything a model needs. Some are
// wrong on purpose; tests and the GPU bundle show that the wrong ones are caught (by permuted thread orders, by
// AddressSanitizer, by compute-sanitizer, by the host scheduler) and that the right ones pass.
//
// All take n elements of f32 `in` and write n elements of f32 `out`, one block of 64 threads unless said otherwise.
// Test: cargo test --release shim
#include "common/async.h"
#include "common/common.h"
#include "common/grid.h"
#include "common/mma.h"
#include "common/philox.h"
#include "common/reduce.h"
#include "common/wgmma.h"
#include "params.h"

#ifndef __CUDACC__
#include <stdexcept>
#endif

struct ProbeConfig : KernelDefaults {
    static constexpr uint32_t threads = 64;
    struct Shared {
        alignas(16) float tile[64];
        float scratch[threads / 32];
    };
};
struct ProbeGridConfig : ProbeConfig {
    static constexpr bool cooperative = true;
};

// out = in reversed inside the block, through shared memory.
template <bool Barrier>
X2CT_DEVICE void probe_reverse(const ProbeParams& p) {
    auto& s = shared_memory<ProbeConfig::Shared>();
    const uint32_t t = threadIdx.x;
    s.tile[t] = p.input[t];
    if (Barrier) __syncthreads();  // left out: threads read what others have not written yet
    p.out[t] = s.tile[ProbeConfig::threads - 1 - t];
}

// The same through asynchronous copies, with or without waiting for them.
template <bool Wait>
X2CT_DEVICE void probe_async(const ProbeParams& p) {
    auto& s = shared_memory<ProbeConfig::Shared>();
    const uint32_t t = threadIdx.x;
    if (t < ProbeConfig::threads / 4) cp_async16(s.tile + 4 * t, p.input + 4 * t);
    cp_async_commit();
    if (Wait) cp_async_wait<0>();
    __syncthreads();
    p.out[t] = s.tile[ProbeConfig::threads - 1 - t];
}

// out[i] = sum of in, by a block reduction.
X2CT_DEVICE void probe_sum_body(const ProbeParams& p) {
    auto& s = shared_memory<ProbeConfig::Shared>();
    float value = 0.0f;
    for (uint64_t i = threadIdx.x; i < p.n; i += ProbeConfig::threads) value += p.input[i];
    const float total = block_sum<ProbeConfig::threads>(value, s.scratch);
    if (threadIdx.x < p.n) p.out[threadIdx.x] = total;
}

// One element past the end of `out`.
X2CT_DEVICE void probe_global_overrun_body(const ProbeParams& p) { p.out[threadIdx.x + p.n - 63] = p.input[0]; }

// One element past the end of the block's shared memory.
X2CT_DEVICE void probe_shared_overrun_body(const ProbeParams& p) {
    float* tile = reinterpret_cast<float*>(&shared_memory<ProbeConfig::Shared>());
    constexpr uint32_t words = sizeof(ProbeConfig::Shared) / 4;
    tile[threadIdx.x + words - 63] = p.input[threadIdx.x];
    __syncthreads();
    p.out[threadIdx.x] = tile[threadIdx.x];
}

// Half of each warp waits at one barrier, half at another. (Whole warps at two barriers would meet on a GPU, which counts
// warps.)
X2CT_DEVICE void probe_divergent_body(const ProbeParams& p) {
    if (threadIdx.x % 32 < 16)
        __syncthreads();
    else
        p.out[threadIdx.x] = p.input[threadIdx.x];
    __syncthreads();
}

// Half of the threads return before the barrier, which is allowed.
X2CT_DEVICE void probe_early_return_body(const ProbeParams& p) {
    if (threadIdx.x >= 32) return;
    __syncthreads();
    p.out[threadIdx.x] = warp_sum(p.input[threadIdx.x]);
}

// A lane reads a lane that its mask leaves out.
X2CT_DEVICE void probe_inactive_lane_body(const ProbeParams& p) {
    if (threadIdx.x < 16) p.out[threadIdx.x] = __shfl_sync(0xffffu, p.input[threadIdx.x], int(threadIdx.x) + 16);
}

// A 16-byte load from an address that is only 4-byte aligned.
X2CT_DEVICE void probe_misaligned_body(const ProbeParams& p) {
    const Vec<float, 4> v = load_vec<4>(p.input + 1);
    p.out[threadIdx.x] = v.v[threadIdx.x % 4];
}

// Fails by throwing on the host, by a trap on the GPU.
X2CT_DEVICE void probe_throw_body(const ProbeParams& p) {
#ifdef __CUDACC__
    if (threadIdx.x == 7 && p.n) __trap();
#else
    if (threadIdx.x == 7 && p.n) throw std::runtime_error("planted");
#endif
}

// Cooperative: out[block] = sum over all blocks of in[block * 64 ..], which needs every block to have written its part.
X2CT_DEVICE void probe_grid_body(const ProbeParams& p) {
    auto& s = shared_memory<ProbeConfig::Shared>();
    const float part = block_sum<ProbeConfig::threads>(p.input[blockIdx.x * ProbeConfig::threads + threadIdx.x], s.scratch);
    if (threadIdx.x == 0) p.out[gridDim.x + blockIdx.x] = part;
    grid_sync();
    if (threadIdx.x == 0) {
        float total = 0.0f;
        for (uint32_t b = 0; b < gridDim.x; ++b) total += p.out[gridDim.x + b];
        p.out[blockIdx.x] = total;
    }
}

// out (as u32) = Philox4x32-10 of the counter held in `in` (as u32).
X2CT_DEVICE void probe_philox_body(const ProbeParams& p) {
    if (threadIdx.x) return;
    const uint32_t* c = reinterpret_cast<const uint32_t*>(p.input);
    const Philox r = philox4x32_10({{c[0], c[1], c[2], c[3]}}, p.key0, p.key1);
    for (int i = 0; i < 4; ++i) reinterpret_cast<uint32_t*>(p.out)[i] = r.x[i];
}

// out[16x8] = A[16x16] B[16x8] in bf16 through ldmatrix and mma; in = A then B^T (8x16), row-major f32. One warp works.
struct ProbeMmaConfig : KernelDefaults {
    static constexpr uint32_t threads = 32;
    struct Shared {
        alignas(16) bf16 a[16][24];  // rows padded to 48 bytes: eight rows fall into eight different bank groups
        alignas(16) bf16 b[8][24];
    };
};
X2CT_DEVICE void probe_mma_body(const ProbeParams& p) {
    auto& s = shared_memory<ProbeMmaConfig::Shared>();
    const uint32_t lane = threadIdx.x;
    for (uint32_t i = lane; i < 256; i += 32) s.a[i / 16][i % 16] = to_bf16(p.input[i]);
    for (uint32_t i = lane; i < 128; i += 32) s.b[i / 16][i % 16] = to_bf16(p.input[256 + i]);
    __syncthreads();
    uint32_t a[4], b[2];
    float d[4] = {};
    ldmatrix_x4(a, &s.a[lane % 16][lane / 16 * 8]);
    ldmatrix_x2(b, &s.b[lane % 8][lane / 8 % 2 * 8]);
    mma_bf16(d, a, b);
    for (int i = 0; i < 4; ++i) p.out[(lane / 4 + 8 * (i / 2)) * 8 + 2 * (lane % 4) + i % 2] = d[i];
}

// out = in reversed, through a bulk copy. Early: it is read before it is waited for. Never: nobody waits. Refilled: the slot is
// filled a second time before it was read.
enum class BulkDefect { None, Early, Never, Refilled };
struct ProbeBulkConfig : KernelDefaults {
    static constexpr uint32_t threads = 64;
    struct Shared {
        alignas(16) float tile[64];
        Mbarrier full;
    };
};
template <BulkDefect Defect>
X2CT_DEVICE void probe_bulk_body(const ProbeParams& p) {
    auto& s = shared_memory<ProbeBulkConfig::Shared>();
    const uint32_t t = threadIdx.x;
    if (t == 0) {
        mbarrier_init(&s.full, 1);
        show_to_async();
    }
    __syncthreads();
    for (int fill = 0; fill < (Defect == BulkDefect::Refilled ? 2 : 1) && t == 0; ++fill) {
        mbarrier_arrive_expecting(&s.full, sizeof s.tile);
        bulk_copy(s.tile, p.input + 64 * fill, sizeof s.tile, &s.full);
    }
    const float early = s.tile[63 - t];
    if (Defect != BulkDefect::Never) mbarrier_wait(&s.full, 0);
    p.out[t] = Defect == BulkDefect::Early ? early : s.tile[63 - t];
}

template <BulkDefect Defect, bool Available>
X2CT_DEVICE void probe_bulk(const ProbeParams& p) {
    if constexpr (Available)
        probe_bulk_body<Defect>(p);
    else
        no_wgmma();
}

// out[64x64] = A B^T, or A B where key0 is 1, in bf16 by wgmma; in = A then B, [64, 64] f32. One warpgroup works. Early: the
// product is read before it is waited for.
struct ProbeWgmmaConfig : KernelDefaults {
    static constexpr uint32_t threads = 128;
    struct Shared {
        unsigned char a[64 * kSwizzledRow];
        unsigned char b[64 * kSwizzledRow];
    };
};
template <bool Early>
X2CT_DEVICE void probe_wgmma_body(const ProbeParams& p) {
    auto& s = shared_memory<ProbeWgmmaConfig::Shared>();
    check_swizzle_alignment(&s);
    const uint32_t t = threadIdx.x, lane = t % 32, row = t / 32 * 16 + lane / 4, column = lane % 4 * 2;
    for (uint32_t i = t; i < 64 * 64; i += ProbeWgmmaConfig::threads) {
        *reinterpret_cast<bf16*>(s.a + swizzle(2 * i)) = to_bf16(p.input[i]);
        *reinterpret_cast<bf16*>(s.b + swizzle(2 * i)) = to_bf16(p.input[64 * 64 + i]);
    }
    show_to_async();
    __syncthreads();
    float d[32], read[32];
    uint32_t a[4][4];
    X2CT_UNROLL
    for (int step = 0; step < 4; ++step)
        X2CT_UNROLL
        for (int i = 0; i < 4; ++i) {
            const float* from = p.input + (row + i % 2 * 8) * 64 + step * 16 + i / 2 * 8 + column;
            a[step][i] = pack_bf16(from[0], from[1]);
        }
    wgmma_begin(d);
    if (p.key0 == 0) {
        X2CT_UNROLL
        for (int step = 0; step < 4; ++step) wgmma_n64(d, wgmma_tile(s.a + step * 32), wgmma_tile(s.b + step * 32), step);
    } else {
        X2CT_UNROLL
        for (int step = 0; step < 4; ++step) wgmma_n64_rows(d, a[step], wgmma_tile(s.b + step * 16 * kSwizzledRow), step);
    }
    wgmma_commit();
    if (Early)
        for (int i = 0; i < 32; ++i) read[i] = d[i];
    wgmma_end(d);
    for (int i = 0; i < 32; ++i) p.out[(row + i % 4 / 2 * 8) * 64 + i / 4 * 8 + column + i % 2] = Early ? read[i] : d[i];
}

template <bool Early, bool Available>
X2CT_DEVICE void probe_wgmma(const ProbeParams& p) {
    if constexpr (Available)
        probe_wgmma_body<Early>(p);
    else
        no_wgmma();
}

/// `REVERSE` by a bulk copy.
X2CT_KERNEL(probe_bulk, ProbeParams, ProbeBulkConfig, probe_bulk<BulkDefect::None, kHasWgmma>)
/// The same, read before it is waited for.
X2CT_KERNEL(probe_bulk_read_early, ProbeParams, ProbeBulkConfig, probe_bulk<BulkDefect::Early, kHasWgmma>)
/// The same, never waited for.
X2CT_KERNEL(probe_bulk_never_waited, ProbeParams, ProbeBulkConfig, probe_bulk<BulkDefect::Never, kHasWgmma>)
/// The same, copied again before it was read.
X2CT_KERNEL(probe_bulk_refilled, ProbeParams, ProbeBulkConfig, probe_bulk<BulkDefect::Refilled, kHasWgmma>)
/// One product of a warpgroup.
X2CT_KERNEL(probe_wgmma, ProbeParams, ProbeWgmmaConfig, probe_wgmma<false, kHasWgmma>)
/// The same, read before it is waited for.
X2CT_KERNEL(probe_wgmma_read_early, ProbeParams, ProbeWgmmaConfig, probe_wgmma<true, kHasWgmma>)
/// out = in reversed, with the barrier it needs.
X2CT_KERNEL(probe_reverse, ProbeParams, ProbeConfig, probe_reverse<true>)
/// The same without its barrier.
X2CT_KERNEL(probe_missing_barrier, ProbeParams, ProbeConfig, probe_reverse<false>)
/// The same by asynchronous copies, waited for.
X2CT_KERNEL(probe_async, ProbeParams, ProbeConfig, probe_async<true>)
/// The same without the wait.
X2CT_KERNEL(probe_missing_wait, ProbeParams, ProbeConfig, probe_async<false>)
/// out\[i\] = sum of in.
X2CT_KERNEL(probe_sum, ProbeParams, ProbeConfig, probe_sum_body)
/// Writes one element past `out`.
X2CT_KERNEL(probe_global_overrun, ProbeParams, ProbeConfig, probe_global_overrun_body)
/// Writes one word past the block's shared memory.
X2CT_KERNEL(probe_shared_overrun, ProbeParams, ProbeConfig, probe_shared_overrun_body)
/// Half of the block waits at another barrier than the rest.
X2CT_KERNEL(probe_divergent, ProbeParams, ProbeConfig, probe_divergent_body)
/// Half of the block returns before the barrier, which is allowed.
X2CT_KERNEL(probe_early_return, ProbeParams, ProbeConfig, probe_early_return_body)
/// A shuffle reads a lane outside its mask.
X2CT_KERNEL(probe_inactive_lane, ProbeParams, ProbeConfig, probe_inactive_lane_body)
/// A 16-byte load from a 4-byte aligned address.
X2CT_KERNEL(probe_misaligned, ProbeParams, ProbeConfig, probe_misaligned_body)
/// Throws (traps on the GPU).
X2CT_KERNEL(probe_throw, ProbeParams, ProbeConfig, probe_throw_body)
/// Cooperative: the sum over all blocks, in every block.
X2CT_KERNEL(probe_grid, ProbeParams, ProbeGridConfig, probe_grid_body)
/// Philox4x32-10 of one counter.
X2CT_KERNEL(probe_philox, ProbeParams, ProbeConfig, probe_philox_body)
/// One tensor-core product through ldmatrix.
X2CT_KERNEL(probe_mma, ProbeParams, ProbeMmaConfig, probe_mma_body)
