// Variant 5 of the contrastive loss: bf16 embeddings on sm_90a. Products are wgmma's, operands come as swizzled tiles of 128
// rows by 64 columns, 16 KiB in one piece, each fetched by one bulk copy. One warp fetches, two warpgroups multiply.
//
// A preparatory kernel lays the tiles out once, padded with zeros. Where embeddings are normalised, it also multiplies each
// by the power of two that brings its norm to [1, 2): exact in bf16, and no inner product overflows, whatever the norms.
// What is left of 1 / norm, the row's factor in [1, 2), is applied to the logits in f32, as in variant 3.
//
// Idea: a block keeps its own rows in shared memory while d <= 512 and streams only the partners past them: 16 KiB a 128 x 128
// x 64 product, 32 bytes a cycle, which L2 delivers. The gradient reads a partner's tile once for both products, first with
// its rows as columns of the logits, then (MN-major) with its rows as the dimension that is summed over.
//
// Idea: the two warpgroups meet only through barriers that the faster one passes without waiting, so that one's exponentials
// run beside the other's products.
#pragma once

#include "common/wgmma.h"
#include "contrastive.cuh"

constexpr int kTileRows = 128, kTileDepth = 64, kTileBytes = kTileRows * kSwizzledRow, kHalfTile = kTileBytes / 2;
static_assert(kTileDepth * 2 == kSwizzledRow, "bf16");

struct ContrastivePackConfig : KernelDefaults {
    static constexpr uint32_t threads = 256;
    static constexpr uint32_t tile0 = kTileRows, tile1 = kTileDepth;
};

// 1 / norm as a power of two and the rest.
struct InverseNorm {
    float power, factor;
};
X2CT_DEVICE InverseNorm split_inverse_norm(float inverse) {
    const uint32_t exponent = __float_as_uint(inverse) & 0x7f800000u;
    const float power = __uint_as_float(exponent ? exponent : 0x00800000u);
    return {power, inverse / power};
}

// Tile (blockIdx.y, blockIdx.x) of rows and columns.
X2CT_DEVICE void contrastive_pack_body(const ContrastivePackParams& p) {
    constexpr int pieces = kSwizzledRow / 16, width = 8, threads = int(ContrastivePackConfig::threads);
    const bf16* x = static_cast<const bf16*>(p.x);
    const bool aligned = p.d % width == 0 && reinterpret_cast<uint64_t>(x) % 16 == 0;
    const uint64_t row0 = uint64_t(blockIdx.y) * kTileRows, k0 = uint64_t(blockIdx.x) * kTileDepth;
    unsigned char* tile = static_cast<unsigned char*>(p.tiles) + (uint64_t(blockIdx.y) * gridDim.x + blockIdx.x) * kTileBytes;
    for (int item = int(threadIdx.x); item < kTileRows * pieces; item += threads) {
        const int row = item / pieces, piece = item % pieces;
        const uint64_t k = k0 + piece * width;
        const bool inside = row0 + row < p.n;
        const bf16* from = x + (row0 + row) * p.d + k;
        float value[width] = {};
        if (inside && aligned && k < p.d) {
            load_float(from, value);
        } else if (inside) {
            X2CT_UNROLL
            for (int i = 0; i < width; ++i)
                if (k + i < p.d) value[i] = to_float(from[i]);
        }
        const InverseNorm norm = split_inverse_norm(inside ? inverse_norm(p.inverse_norms, row0 + row) : 1.0f);
        X2CT_UNROLL
        for (int i = 0; i < width; ++i) value[i] *= norm.power;
        store_float(reinterpret_cast<bf16*>(tile + swizzle(row * kSwizzledRow + piece * 16)), value);
        if (p.factors && blockIdx.x == 0 && piece == 0 && inside) p.factors[row0 + row] = norm.factor;
    }
}

// Where one walks a ring of slots: the slot, and the parity of its phase.
struct RingCursor {
    uint32_t slot, parity;
    X2CT_DEVICE void advance(uint32_t slots) {
        if (++slot == slots) {
            slot = 0;
            parity ^= 1;
        }
    }
};

// Arrives for a warp, after all its lanes.
X2CT_DEVICE void warp_arrive(Mbarrier* barrier) {
    __syncwarp();
    if (threadIdx.x % 32 == 0) mbarrier_arrive(barrier);
}

// The pieces of operands that have been fetched: `full` counts the bytes, `empty` the warps that need a piece no more.
template <int Slots, int Bytes>
struct PieceRing {
    static constexpr int slots = Slots, bytes = Bytes;
    unsigned char* pieces;
    Mbarrier* full;
    Mbarrier* empty;

    X2CT_DEVICE void initialise(uint32_t warps) const {
        for (int slot = 0; slot < Slots; ++slot) {
            mbarrier_init(full + slot, 1);
            mbarrier_init(empty + slot, warps);
        }
    }
    X2CT_DEVICE void fill(RingCursor at, const unsigned char* from) const {
        mbarrier_wait(empty + at.slot, at.parity ^ 1);
        mbarrier_arrive_expecting(full + at.slot, Bytes);
        bulk_copy(pieces + at.slot * Bytes, from, Bytes, full + at.slot);
    }
    X2CT_DEVICE const unsigned char* take(RingCursor at) const {
        mbarrier_wait(full + at.slot, at.parity);
        return pieces + at.slot * Bytes;
    }
    // Every warp gives back every piece, after all its lanes have seen it and it has waited for what it computes from it: a
    // lane that still asks for the piece when its slot is filled again would ask for ever.
    X2CT_DEVICE void give_back(RingCursor at) const { warp_arrive(empty + at.slot); }
};

// Tile (row_tile, piece) of a packed set.
X2CT_DEVICE const unsigned char* packed_tile(const void* set, uint64_t row_tile, uint64_t pieces, uint64_t piece) {
    return static_cast<const unsigned char*>(set) + (row_tile * pieces + piece) * kTileBytes;
}

struct WgmmaDefaults : KernelDefaults {
    static constexpr int groups = 2, warps = 4 * groups;  // that multiply
    static constexpr uint32_t threads = 32 * warps + 128;  // the last warpgroup fetches
    // Registers come by the warpgroup: what the last one does not need, the others get. 168 each, of 65,536 / 384.
    static constexpr int registers = 240, fetching_registers = 24;
    static_assert(groups * registers + fetching_registers <= 3 * 168, "no more than there are");
};

// A thread's warpgroup, as a value that the compiler knows to be the same in a whole warp.
X2CT_DEVICE int warpgroup() { return __shfl_sync(0xffffffffu, int(threadIdx.x) / 128, 0); }

struct ContrastiveWgmmaConfig : WgmmaDefaults {
    static constexpr int tile = kTileRows, row_slots = 8, column_slots = 5;
    static constexpr uint32_t tile0 = tile;
    static constexpr uint32_t tile1 = 16;  // strips at most
    struct Layout {
        unsigned char rows[row_slots][kTileBytes];
        unsigned char columns[column_slots][kTileBytes];
        SumExp column_parts[warps][tile];
        Mbarrier rows_full[row_slots], rows_empty[row_slots], columns_full[column_slots], columns_empty[column_slots];
        Mbarrier parts_ready, parts_free;
    };
    struct Nothing {};
    // A build without wgmma asks for none, which tells the host side that it cannot run this kernel.
    using Shared = std::conditional_t<kHasWgmma, Layout, Nothing>;
    static_assert(sizeof(Layout) <= 227 * 1024 && offsetof(Layout, columns) % kSwizzledGroup == 0, "fits; tiles are aligned");
};

// Halves the columns that a lane has sums of: it keeps the first or the last `Count`, by bit Count of its lane, and adds what
// the lane without that bit, or with it, has of them.
template <int Count>
X2CT_DEVICE void exchange_columns(SumExp (&column)[32], uint32_t mode) {
    const bool upper = int(threadIdx.x) & Count;
    X2CT_UNROLL
    for (int j = 0; j < Count; ++j) {
        const SumExp low = column[j], high = column[j + Count], kept = upper ? high : low, sent = upper ? low : high;
        const float sum = __shfl_xor_sync(0xffffffffu, sent.sum, Count);
        if (mode == kRunningMaximum)
            column[j] = merge(kept, SumExp{__shfl_xor_sync(0xffffffffu, sent.shift, Count), sum});
        else
            column[j] = {kept.shift, kept.sum + sum};
    }
}

// Adds a thread's sums of 32 columns over the eight lanes that hold other rows of the same columns: column[0] to column[3] are
// then those from lane / 4 * 4 on.
X2CT_DEVICE void reduce_columns(SumExp (&column)[32], uint32_t mode) {
    exchange_columns<16>(column, mode);
    exchange_columns<8>(column, mode);
    exchange_columns<4>(column, mode);
}

// Sums of one strip of rows by one strip of columns (blockIdx.y, blockIdx.x) of pair blockIdx.z, as contrastive_mma. a and b
// are packed sets, their inverse norms the factors.
struct WgmmaForward {
    using C = ContrastiveWgmmaConfig;
    const ContrastiveForwardParams& params;
    const ContrastiveProblem& p;
    const ContrastivePair& pair;
    C::Layout& s;
    PieceRing<C::row_slots, kTileBytes> rows;
    PieceRing<C::column_slots, kTileBytes> columns;
    uint32_t pieces, row_slots, row_begin, row_end, column_begin, column_end;
    bool resident;  // the rows' pieces stay while the columns pass

    X2CT_DEVICE WgmmaForward(const ContrastiveForwardParams& params, C::Layout& s)
        : params(params), p(params.problem), pair(params.pairs[blockIdx.z]), s(s), rows{&s.rows[0][0], s.rows_full, s.rows_empty},
          columns{&s.columns[0][0], s.columns_full, s.columns_empty} {
        pieces = uint32_t((p.d + kTileDepth - 1) / kTileDepth);
        resident = pieces <= uint32_t(C::row_slots);
        row_slots = resident ? pieces : uint32_t(C::row_slots);
        const uint64_t row_tiles = (p.rows + C::tile - 1) / C::tile, column_tiles = (p.columns + C::tile - 1) / C::tile;
        row_begin = uint32_t(row_tiles * blockIdx.y / params.strips);
        row_end = uint32_t(row_tiles * (blockIdx.y + 1) / params.strips);
        column_begin = uint32_t(column_tiles * blockIdx.x / params.strips);
        column_end = uint32_t(column_tiles * (blockIdx.x + 1) / params.strips);
    }

    // One thread.
    X2CT_DEVICE void fetch() const {
        RingCursor row{0, 0}, column{0, 0};
        for (uint32_t rt = row_begin; rt < row_end; ++rt)
            for (uint32_t ct = column_begin; ct < column_end; ++ct)
                for (uint32_t piece = 0; piece < pieces; ++piece) {
                    if (!resident || ct == column_begin) {
                        rows.fill(row, packed_tile(pair.a, rt, pieces, piece));
                        row.advance(row_slots);
                    }
                    columns.fill(column, packed_tile(pair.b, ct, pieces, piece));
                    column.advance(C::column_slots);
                }
    }

    // A warpgroup's 64 rows of a tile of inner products.
    X2CT_DEVICE void multiply(int group, RingCursor& row, RingCursor& column, bool last_use, float (&c)[64]) const {
        RingCursor row_before{}, column_before{};
        for (uint32_t piece = 0; piece < pieces; ++piece) {
            const unsigned char* a = rows.take(row) + group * kHalfTile;
            const unsigned char* b = columns.take(column);
            wgmma_begin(c);
            X2CT_UNROLL
            for (int step = 0; step < kTileDepth / 16; ++step) wgmma_n128(c, wgmma_tile(a + step * 32), wgmma_tile(b + step * 32), piece || step);
            wgmma_commit();
            if (piece) {
                wgmma_wait<1>();
                columns.give_back(column_before);
                if (last_use) rows.give_back(row_before);
            }
            row_before = row;
            column_before = column;
            row.advance(row_slots);
            column.advance(C::column_slots);
        }
        wgmma_end(c);
        columns.give_back(column_before);
        if (last_use) rows.give_back(row_before);
    }

    X2CT_DEVICE void multiply_all(int group) const {
        const float scale = logit_scale(p), bias = logit_bias(p);
        const int t = int(threadIdx.x), lane = t % 32, warp = t / 32;
        const int own_row = warp * 16 + lane / 4, own_column = lane % 4 * 2;
        RingCursor row{0, 0}, column{0, 0};
        uint32_t turn = 0;  // tiles so far
        for (uint32_t rt = row_begin; rt < row_end; ++rt) {
            const RingCursor row_first = row;
            const uint64_t row0 = uint64_t(rt) * C::tile;
            SumExp row_sum[2];
            float row_factor[2];
            X2CT_UNROLL
            for (int i = 0; i < 2; ++i) {
                row_sum[i] = empty_sum(p.mode, scale);
                row_factor[i] = row0 + own_row + i * 8 < p.rows ? scale * inverse_norm(pair.a_inverse_norms, row0 + own_row + i * 8) : 0.0f;
            }
            for (uint32_t ct = column_begin; ct < column_end; ++ct, ++turn) {
                const uint64_t column0 = uint64_t(ct) * C::tile;
                if (resident) row = row_first;
                float c[64];
                multiply(group, row, column, !resident || ct + 1 == column_end, c);
                float l[2][32];
                // Where every logit counts and none is a match, none is looked at.
                const bool plain = !p.row_ids && row0 + C::tile <= p.rows && column0 + C::tile <= p.columns &&
                                   (row0 + p.offset + C::tile <= column0 || column0 + C::tile <= row0 + p.offset);
                X2CT_UNROLL
                for (int j = 0; j < 32; ++j) {
                    const uint64_t at = column0 + own_column + j / 2 * 8 + j % 2;
                    const float factor = at < p.columns ? inverse_norm(pair.b_inverse_norms, at) : 0.0f;
                    X2CT_UNROLL
                    for (int i = 0; i < 2; ++i) {
                        l[i][j] = row_factor[i] * (factor * c[j / 2 * 4 + i * 2 + j % 2]) + bias;
                        if (!plain) mask(l[i][j], row0 + own_row + i * 8, at);
                    }
                }
                SumExp column_sum[32];
                fold(l, p.mode, scale, [&](int i, SumExp sum) { row_sum[i] = merge(row_sum[i], sum); }, [&](int j, SumExp sum) { column_sum[j] = sum; });
                reduce_columns(column_sum, p.mode);
                mbarrier_wait(&s.parts_free, ~turn & 1);
                X2CT_UNROLL
                for (int j = 0; j < 4; ++j) {
                    const int of32 = lane / 4 * 4 + j;
                    s.column_parts[warp][own_column + of32 / 2 * 8 + of32 % 2] = column_sum[j];
                }
                warp_arrive(&s.parts_ready);
                if (group == 1) {
                    mbarrier_wait(&s.parts_ready, turn & 1);
                    const int local = t - 128;
                    SumExp sum = s.column_parts[0][local];
                    X2CT_UNROLL
                    for (int w = 1; w < C::warps; ++w) sum = merge(sum, s.column_parts[w][local]);
                    if (column0 + local < p.columns) {
                        SumExp* partial = pair.column_partials + blockIdx.y * p.columns + column0 + local;
                        *partial = rt == row_begin ? sum : merge(*partial, sum);
                    }
                    warp_arrive(&s.parts_free);
                }
            }
            X2CT_UNROLL
            for (int i = 0; i < 2; ++i) {
                X2CT_UNROLL
                for (int bit = 1; bit <= 2; bit *= 2)
                    row_sum[i] = merge(row_sum[i], SumExp{__shfl_xor_sync(0xffffffffu, row_sum[i].shift, bit), __shfl_xor_sync(0xffffffffu, row_sum[i].sum, bit)});
                const uint64_t at = row0 + own_row + i * 8;
                if (lane % 4 == 0 && at < p.rows) pair.row_partials[blockIdx.x * p.rows + at] = row_sum[i];
            }
        }
    }

    // Notes a matching logit; what does not count becomes -inf.
    X2CT_DEVICE void mask(float& logit, uint64_t row, uint64_t column) const {
        if (row >= p.rows || column >= p.columns) {
            logit = -infinity();
        } else {
            if (row + p.offset == column) pair.diagonal_logits[row] = logit;
            if (!mismatch(p, row, column)) logit = -infinity();
        }
    }

    X2CT_DEVICE void run() const {
        const int t = int(threadIdx.x);
        if (row_begin == row_end) {
            // Fewer tiles of rows than strips: this strip of the columns has seen nothing.
            for (uint64_t j = uint64_t(column_begin) * C::tile + t; j < min(uint64_t(column_end) * C::tile, p.columns); j += C::threads)
                pair.column_partials[blockIdx.y * p.columns + j] = empty_sum(p.mode, logit_scale(p));
        }
        check_swizzle_alignment(&s);
        if (t == 0) {
            rows.initialise(C::warps);
            columns.initialise(C::warps);
            mbarrier_init(&s.parts_ready, C::warps);
            mbarrier_init(&s.parts_free, 4);
            show_to_async();
        }
        __syncthreads();
        const int group = warpgroup();
        if (group < C::groups) {
            more_registers<C::registers>();
            multiply_all(group);
        } else {
            fewer_registers<C::fetching_registers>();
            if (t == 32 * C::warps) fetch();
        }
    }
};

template <bool Available>
X2CT_DEVICE void contrastive_wgmma(const ContrastiveForwardParams& params) {
    if constexpr (Available)
        WgmmaForward(params, shared_memory<ContrastiveWgmmaConfig::Layout>()).run();
    else
        no_wgmma();
}
