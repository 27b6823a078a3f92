// Tensor-core products on sm_80 and later, and the shared-memory loads that feed them. The host meaning stands beside each.
//
// Fragments are PTX's: for mma.m16n8k16 (bf16) lane l holds rows l/4 and l/4+8 and column pairs 2*(l%4) of each 8-wide half.
#pragma once

#include "common.h"

#ifndef __CUDACC__
namespace x2ct_host {

// How many products a tensor core adds at once, 4, 8 or 16 by chip and type: what X2CT_MMA_STEP says, or 8.
int mma_step();

// The nearest float towards zero (to nearest below 2^-126): what is left of a tensor core's sum.
inline float cut_to_float(double sum) {
    uint64_t bits;
    memcpy(&bits, &sum, sizeof bits);
    bits &= ~uint64_t(0x1fffffff);
    memcpy(&sum, &bits, sizeof bits);
    return float(sum);
}

// d += a b as tensor cores do it: the accumulator and the products of one step are added without rounding, and the sum is cut
// off, not rounded, to f32. Sums of one sign come out small, by about 2^-24 of themselves a step.
template <int Depth, int Width>
inline void multiply_in_steps(const double (&a)[16][Depth], const double (&b)[Depth][Width], int columns, float (&d)[16][Width]) {
    const int step = min(mma_step(), Depth);
    for (int row = 0; row < 16; ++row)
        for (int first = 0; first < Depth; first += step) {
            double sum[Width];
            for (int column = 0; column < columns; ++column) sum[column] = d[row][column];
            for (int k = first; k < first + step; ++k)
                for (int column = 0; column < columns; ++column) sum[column] += a[row][k] * b[k][column];
            for (int column = 0; column < columns; ++column) d[row][column] = cut_to_float(sum[column]);
        }
}

template <int AWords>
struct MmaOperand {
    const uint32_t* a;
    const uint32_t* b;
    float* d;
};

// The warp's accumulators, from the lanes or back to them.
inline void mma_accumulators(void* const operands[32], float (&d)[16][8], bool back) {
    for (int lane = 0; lane < 32; ++lane)
        for (int i = 0; i < 4; ++i) {
            float &tile = d[lane / 4 + 8 * (i / 2)][2 * (lane % 4) + i % 2], &own = static_cast<MmaOperand<4>*>(operands[lane])->d[i];
            (back ? own : tile) = back ? tile : own;
        }
}

inline float half_of(uint32_t word, int hi) { return to_float(bf16{uint16_t(hi ? word >> 16 : word)}); }

inline void mma_bf16_warp(void* const operands[32], uint32_t) {
    double a[16][16], b[16][8];
    float d[16][8];
    for (int lane = 0; lane < 32; ++lane) {
        const auto* o = static_cast<const MmaOperand<4>*>(operands[lane]);
        if (!o) fail("mma: lane %d is missing", lane);
        const int row = lane / 4, col = 2 * (lane % 4);
        for (int hi = 0; hi < 2; ++hi) {
            a[row][col + hi] = half_of(o->a[0], hi);
            a[row + 8][col + hi] = half_of(o->a[1], hi);
            a[row][col + 8 + hi] = half_of(o->a[2], hi);
            a[row + 8][col + 8 + hi] = half_of(o->a[3], hi);
            b[col + hi][row] = half_of(o->b[0], hi);
            b[col + 8 + hi][row] = half_of(o->b[1], hi);
        }
    }
    mma_accumulators(operands, d, false);
    multiply_in_steps(a, b, 8, d);
    mma_accumulators(operands, d, true);
}

// TF32 keeps 10 mantissa bits; the hardware ignores the rest.
inline float tf32_of(uint32_t word) { return __uint_as_float(word & 0xffffe000u); }

inline void mma_tf32_warp(void* const operands[32], uint32_t) {
    double a[16][8], b[8][8];
    float d[16][8];
    for (int lane = 0; lane < 32; ++lane) {
        const auto* o = static_cast<const MmaOperand<4>*>(operands[lane]);
        if (!o) fail("mma: lane %d is missing", lane);
        const int row = lane / 4, col = lane % 4;
        a[row][col] = tf32_of(o->a[0]);
        a[row + 8][col] = tf32_of(o->a[1]);
        a[row][col + 4] = tf32_of(o->a[2]);
        a[row + 8][col + 4] = tf32_of(o->a[3]);
        b[col][row] = tf32_of(o->b[0]);
        b[col + 4][row] = tf32_of(o->b[1]);
    }
    mma_accumulators(operands, d, false);
    multiply_in_steps(a, b, 8, d);
    mma_accumulators(operands, d, true);
}

struct LdmatrixOperand {
    const void* row;   // 16 bytes; lane 8*i + r addresses row r of matrix i
    uint32_t* result;  // one word per matrix
};

template <int Count, bool Transpose>
inline void ldmatrix_warp(void* const operands[32], uint32_t) {
    uint16_t m[Count][8][8];
    for (int lane = 0; lane < 8 * Count; ++lane) {
        const auto* o = static_cast<const LdmatrixOperand*>(operands[lane]);
        if (!o) fail("ldmatrix: lane %d is missing", lane);
        check_aligned(o->row, 16, "ldmatrix");
        memcpy(m[lane / 8][lane % 8], o->row, 16);
    }
    for (int lane = 0; lane < 32; ++lane) {
        auto* o = static_cast<LdmatrixOperand*>(operands[lane]);
        if (!o) fail("ldmatrix: lane %d is missing", lane);
        const int r = lane / 4, c = 2 * (lane % 4);
        for (int i = 0; i < Count; ++i) {
            const uint16_t lo = Transpose ? m[i][c][r] : m[i][r][c], hi = Transpose ? m[i][c + 1][r] : m[i][r][c + 1];
            o->result[i] = uint32_t(lo) | (uint32_t(hi) << 16);
        }
    }
}

}  // namespace x2ct_host
#endif

// d[16x8] += a[16x16] b[16x8], bf16 operands, f32 accumulators.
X2CT_DEVICE void mma_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
#ifdef __CUDACC__
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
    x2ct_host::MmaOperand<4> operand{a, b, d};
    x2ct_host::warp_collective(0xffffffffu, "mma", &operand, x2ct_host::mma_bf16_warp);
#endif
}

// The nearest TF32, ties away from zero, as the bits that mma_tf32 takes.
X2CT_DEVICE uint32_t round_tf32(float x) {
#ifdef __CUDACC__
    uint32_t r;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(r) : "f"(x));
    return r;
#else
    const uint32_t u = __float_as_uint(x);
    return (u & 0x7f800000u) == 0x7f800000u ? u : (u + 0x1000u) & 0xffffe000u;
#endif
}

// d[16x8] += a[16x8] b[8x8], TF32 operands (f32 bits), f32 accumulators.
X2CT_DEVICE void mma_tf32(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
#ifdef __CUDACC__
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
    x2ct_host::MmaOperand<4> operand{a, b, d};
    x2ct_host::warp_collective(0xffffffffu, "mma", &operand, x2ct_host::mma_tf32_warp);
#endif
}

// Four 8x8 matrices of 16-bit elements; lane 8*i + r passes the address of row r of matrix i.
X2CT_DEVICE void ldmatrix_x4(uint32_t (&r)[4], const void* row) {
#ifdef __CUDACC__
    const uint32_t address = uint32_t(__cvta_generic_to_shared(row));
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(address) : "memory");
#else
    x2ct_host::LdmatrixOperand operand{row, r};
    x2ct_host::warp_collective(0xffffffffu, "ldmatrix", &operand, x2ct_host::ldmatrix_warp<4, false>);
#endif
}

X2CT_DEVICE void ldmatrix_x4_trans(uint32_t (&r)[4], const void* row) {
#ifdef __CUDACC__
    const uint32_t address = uint32_t(__cvta_generic_to_shared(row));
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(address) : "memory");
#else
    x2ct_host::LdmatrixOperand operand{row, r};
    x2ct_host::warp_collective(0xffffffffu, "ldmatrix", &operand, x2ct_host::ldmatrix_warp<4, true>);
#endif
}

X2CT_DEVICE void ldmatrix_x2(uint32_t (&r)[2], const void* row) {
#ifdef __CUDACC__
    const uint32_t address = uint32_t(__cvta_generic_to_shared(row));
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0,%1}, [%2];" : "=r"(r[0]), "=r"(r[1]) : "r"(address) : "memory");
#else
    x2ct_host::LdmatrixOperand operand{row, r};
    x2ct_host::warp_collective(0xffffffffu, "ldmatrix", &operand, x2ct_host::ldmatrix_warp<2, false>);
#endif
}
