// Warpgroup products (wgmma, sm_90a): four warps multiply a 64-row tile with a tile in shared memory, asynchronously.
//
// Operands in shared memory are tiles of rows of 128 bytes (64 bf16) that begin at a multiple of 1,024 bytes and are swizzled:
// bits 4 to 6 of a byte's address are exchanged with bits 7 to 9 of it by exclusive or, so that eight rows' equal columns lie
// in different banks. The same tile serves with its rows as rows of the product (K-major: 16 columns are one step, 32 bytes
// on) and with its rows as the dimension that is summed over (MN-major: 16 rows are one step, 2,048 bytes on).
//
// Lane l of warp w holds of a 64 x N accumulator, at d[4 j + i], row 16 w + l/4 + 8 (i/2), column 8 j + 2 (l%4) + i%2; of a
// 64 x 16 operand in registers what mma.m16n8k16 gives it of its warp's 16 rows.
//
// On the host a product is computed when it is waited for, from what shared memory holds then, and its accumulators are NaN
// until then: a slot that is given back, or a result that is read, before the wait shows.
#pragma once

#include "mbarrier.h"
#include "mma.h"

// Whether this build has wgmma: nvcc's for sm_90a, and the host's.
#if defined(__CUDA_ARCH__) && !defined(__CUDA_ARCH_FEAT_SM90_ALL)
constexpr bool kHasWgmma = false;
#else
constexpr bool kHasWgmma = true;
#endif

constexpr int kSwizzledRow = 128, kSwizzledGroup = 8 * kSwizzledRow;  // bytes of a row, and of the eight rows that are swizzled together

// Where a byte of a swizzled tile lies.
X2CT_DEVICE uint32_t swizzle(uint32_t byte) { return byte ^ (byte >> 3 & 0x70u); }

#ifndef __CUDACC__
namespace x2ct_host {

struct WgmmaProduct {
    float* d;
    int n;             // columns
    uint32_t a[4];     // where !a_shared
    uint64_t a_tile, b_tile;
    bool a_shared, b_transposed, accumulate;
    bool saved_first;  // d was poisoned; `saved` is what it held
    float saved[64];
};
void wgmma_issue(WgmmaProduct product);
void wgmma_commit();
void wgmma_wait(uint32_t pending_groups);

template <int Count>
inline WgmmaProduct wgmma_product(float (&d)[Count], uint64_t a, uint64_t b, bool accumulate) {
    static_assert(Count <= 64, "what WgmmaProduct saves");
    return {d, 2 * Count, {}, a, b, true, false, accumulate, false, {}};
}
template <int Count>
inline WgmmaProduct wgmma_product(float (&d)[Count], const uint32_t (&a)[4], uint64_t b, bool accumulate, bool transposed) {
    static_assert(Count <= 64, "what WgmmaProduct saves");
    return {d, 2 * Count, {a[0], a[1], a[2], a[3]}, 0, b, false, transposed, accumulate, false, {}};
}

// Eight neighbouring elements: of row `row`, bytes [16 group, 16 group + 16) of the tile that a descriptor names.
inline void wgmma_elements(uint64_t descriptor, int row, int group, double (&out)[8]) {
    const uint32_t start = uint32_t(descriptor & 0x3fff) << 4, stride = uint32_t(descriptor >> 32 & 0x3fff) << 4;
    if (descriptor >> 62 != 1) fail("wgmma: the descriptor does not say 128-byte swizzle");
    const uint32_t at = swizzle(start + uint32_t(row / 8) * stride + uint32_t(row % 8 * kSwizzledRow + group * 16));
    if (at + 16 > current.shared_bytes) fail("wgmma: an operand lies past the end of the %u bytes of shared memory", current.shared_bytes);
    uint16_t bits[8];
    memcpy(bits, static_cast<const char*>(current.shared) + at, 16);
    for (int i = 0; i < 8; ++i) out[i] = to_float(bf16{bits[i]});
}

// One warp's 16 rows of a product.
inline void wgmma_warp(void* const operands[32], uint32_t) {
    double a[16][16], b[16][128], eight[8];
    float d[16][128];
    for (int lane = 0; lane < 32; ++lane)
        if (!operands[lane]) fail("wgmma: lane %d is missing", lane);
    const auto& first = *static_cast<const WgmmaProduct*>(operands[0]);
    for (int row = 0; row < 16 && first.a_shared; ++row)
        for (int group = 0; group < 2; ++group) {
            wgmma_elements(first.a_tile, int(current.warp % 4) * 16 + row, group, eight);
            for (int i = 0; i < 8; ++i) a[row][group * 8 + i] = eight[i];
        }
    if (first.b_transposed && first.n != 64) fail("wgmma: a transposed operand of %d columns spans tiles", first.n);
    for (int row = 0; row < (first.b_transposed ? 16 : first.n); ++row)
        for (int group = 0; group < (first.b_transposed ? first.n / 8 : 2); ++group) {
            wgmma_elements(first.b_tile, row, group, eight);
            for (int i = 0; i < 8; ++i) (first.b_transposed ? b[row][group * 8 + i] : b[group * 8 + i][row]) = eight[i];
        }
    for (int lane = 0; lane < 32; ++lane) {
        auto& o = *static_cast<WgmmaProduct*>(operands[lane]);
        if (o.saved_first) memcpy(o.d, o.saved, size_t(o.n) / 2 * 4);
        if (o.n != first.n || o.a_tile != first.a_tile || o.b_tile != first.b_tile) fail("wgmma: lane %d multiplies something else than lane 0", lane);
        const int row = lane / 4, column = 2 * (lane % 4);
        for (int i = 0; i < 4 * (o.n / 8); ++i) d[row + i % 4 / 2 * 8][i / 4 * 8 + column + i % 2] = o.accumulate ? o.d[i] : 0.0f;
        for (int hi = 0; hi < 2 && !o.a_shared; ++hi)
            for (int i = 0; i < 4; ++i) a[row + i % 2 * 8][i / 2 * 8 + column + hi] = half_of(o.a[i], hi);
    }
    multiply_in_steps(a, b, first.n, d);
    for (int lane = 0; lane < 32; ++lane) {
        auto& o = *static_cast<WgmmaProduct*>(operands[lane]);
        for (int i = 0; i < 4 * (o.n / 8); ++i) o.d[i] = d[lane / 4 + i % 4 / 2 * 8][i / 4 * 8 + 2 * (lane % 4) + i % 2];
    }
}

}  // namespace x2ct_host
#endif

// Names a swizzled tile, or a step into it, for wgmma. Its groups of eight rows lie one after the other.
X2CT_DEVICE uint64_t wgmma_tile(const unsigned char* tile) {
#ifdef __CUDACC__
    const uint32_t address = shared_address(tile);
#else
    const uint32_t address = uint32_t(tile - static_cast<const unsigned char*>(x2ct_host::current.shared));
    if (address % kSwizzledGroup >= uint32_t(kSwizzledRow))
        x2ct_host::fail("wgmma: a tile begins %u bytes behind a multiple of %d, where the swizzle's pattern begins", address % kSwizzledGroup, kSwizzledGroup);
#endif
    constexpr uint64_t swizzle128 = 1, stride = kSwizzledGroup >> 4, unused_stride = 1;
    return uint64_t(address >> 4 & 0x3fffu) | unused_stride << 16 | stride << 32 | swizzle128 << 62;
}

// A warpgroup takes more registers, or gives some away: `Count` a thread from here on. Every warpgroup of the block calls one.
template <int Count>
X2CT_DEVICE void more_registers() {
#ifdef __CUDACC__
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(Count));
#endif
}
template <int Count>
X2CT_DEVICE void fewer_registers() {
#ifdef __CUDACC__
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(Count));
#endif
}

// What a kernel does in a build without wgmma.
X2CT_DEVICE void no_wgmma() {
#ifdef __CUDACC__
    __trap();
#endif
}

// Fails the launch unless shared memory begins where the swizzle's pattern does.
X2CT_DEVICE void check_swizzle_alignment(const void* shared) {
#ifdef __CUDACC__
    if (shared_address(shared) % kSwizzledGroup) __trap();
#else
    if (shared != x2ct_host::current.shared) x2ct_host::fail("swizzled tiles do not begin where shared memory begins");
#endif
}

#ifdef __CUDACC__
// Keeps the compiler from moving accesses of the accumulators across.
template <int Count>
X2CT_DEVICE void pin(float (&d)[Count]) {
    X2CT_UNROLL
    for (int i = 0; i < Count; ++i) asm volatile("" : "+f"(d[i])::"memory");
}
#endif

// Before products that read or write registers which other instructions have touched.
template <int Count>
X2CT_DEVICE void wgmma_begin(float (&d)[Count]) {
#ifdef __CUDACC__
    pin(d);
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#else
    (void)d;
#endif
}

// Closes a group of products.
X2CT_DEVICE void wgmma_commit() {
#ifdef __CUDACC__
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
#else
    x2ct_host::wgmma_commit();
#endif
}

// Waits until at most `Pending` of the newest groups are still under way: shared memory that the others read is free.
template <int Pending>
X2CT_DEVICE void wgmma_wait() {
#ifdef __CUDACC__
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(Pending) : "memory");
#else
    x2ct_host::wgmma_wait(Pending);
#endif
}

// Waits for all groups: d may be read.
template <int Count>
X2CT_DEVICE void wgmma_end(float (&d)[Count]) {
    wgmma_wait<0>();
#ifdef __CUDACC__
    pin(d);
#else
    (void)d;
#endif
}

// d[64x128] (+)= a[64x16] b[128x16]^T, both tiles K-major; `accumulate` false: d is overwritten.
X2CT_DEVICE void wgmma_n128(float (&d)[64], uint64_t a, uint64_t b, bool accumulate) {
#ifdef __CUDACC__
    asm volatile(
        "{\n.reg .pred p;\nsetp.ne.b32 p, %66, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {"
        "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,"
        "%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31,"
        "%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,"
        "%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63"
        "}, %64, %65, p, 1, 1, 0, 0;\n}"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]),
          "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]),
          "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23]),
          "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31]),
          "+f"(d[32]), "+f"(d[33]), "+f"(d[34]), "+f"(d[35]), "+f"(d[36]), "+f"(d[37]), "+f"(d[38]), "+f"(d[39]),
          "+f"(d[40]), "+f"(d[41]), "+f"(d[42]), "+f"(d[43]), "+f"(d[44]), "+f"(d[45]), "+f"(d[46]), "+f"(d[47]),
          "+f"(d[48]), "+f"(d[49]), "+f"(d[50]), "+f"(d[51]), "+f"(d[52]), "+f"(d[53]), "+f"(d[54]), "+f"(d[55]),
          "+f"(d[56]), "+f"(d[57]), "+f"(d[58]), "+f"(d[59]), "+f"(d[60]), "+f"(d[61]), "+f"(d[62]), "+f"(d[63])
        : "l"(a), "l"(b), "r"(int(accumulate)));
#else
    x2ct_host::wgmma_issue(x2ct_host::wgmma_product(d, a, b, accumulate));
#endif
}

// d[64x64] (+)= a[64x16] b[64x16]^T, as above.
X2CT_DEVICE void wgmma_n64(float (&d)[32], uint64_t a, uint64_t b, bool accumulate) {
#ifdef __CUDACC__
    asm volatile(
        "{\n.reg .pred p;\nsetp.ne.b32 p, %34, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {"
        "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,"
        "%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31"
        "}, %32, %33, p, 1, 1, 0, 0;\n}"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]),
          "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]),
          "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23]),
          "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31])
        : "l"(a), "l"(b), "r"(int(accumulate)));
#else
    x2ct_host::wgmma_issue(x2ct_host::wgmma_product(d, a, b, accumulate));
#endif
}

// d[64x64] (+)= a[64x16] b[16x64]: a in registers, b the rows of a tile (MN-major).
X2CT_DEVICE void wgmma_n64_rows(float (&d)[32], const uint32_t (&a)[4], uint64_t b, bool accumulate) {
#ifdef __CUDACC__
    asm volatile(
        "{\n.reg .pred p;\nsetp.ne.b32 p, %37, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {"
        "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,"
        "%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31"
        "}, {%32,%33,%34,%35}, %36, p, 1, 1, 1;\n}"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]),
          "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]),
          "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23]),
          "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(int(accumulate)));
#else
    x2ct_host::wgmma_issue(x2ct_host::wgmma_product(d, a, b, accumulate, true));
#endif
}
