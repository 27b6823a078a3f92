// The gradient of variant 5 of the contrastive loss; see contrastive_wgmma.cuh.
#pragma once

#include "contrastive_wgmma.cuh"

struct ContrastiveGradientWgmmaConfig : WgmmaDefaults {
    static constexpr int rows = 64, columns = kTileRows, slots = 8;
    static constexpr int chunk = kTileDepth, chunks = 8, slice = chunk * chunks;  // columns of dx: a warpgroup has every other chunk
    static constexpr int h_stride = columns * 2 + 16;                             // eight rows in different banks
    static constexpr uint32_t tile0 = rows, tile1 = slice;
    struct Layout {
        unsigned char x[slots][kHalfTile];
        unsigned char y[slots][kTileBytes];
        alignas(16) unsigned char h[rows * h_stride];
        float slopes[groups][rows];
        Mbarrier x_full[slots], x_empty[slots], y_full[slots], y_empty[slots], together;
    };
    struct Nothing {};
    using Shared = std::conditional_t<kHasWgmma, Layout, Nothing>;
    static_assert(sizeof(Layout) <= 227 * 1024 && offsetof(Layout, y) % kSwizzledGroup == 0, "fits; tiles are aligned");
    static_assert(groups == 2 && slice == groups * 4 * chunk, "four chunks a warpgroup");
};

// dx for 64 rows (blockIdx.x) and 512 columns of d (blockIdx.y): for every term and tile of 128 partners, each warpgroup
// recomputes the logits of 64 of them, turns them into their gradients h in shared memory, and multiplies all of h with its
// chunks of the partners. While d <= 512 both products take the partners from one fetch.
struct WgmmaGradient {
    using C = ContrastiveGradientWgmmaConfig;
    const ContrastiveGradientParams& params;
    const ContrastiveProblem& p;
    const void* x_tiles;
    const float* x_factors;
    C::Layout& s;
    PieceRing<C::slots, kHalfTile> x;
    PieceRing<C::slots, kTileBytes> y;
    uint64_t row0, slice0;
    uint32_t pieces, slots, chunks, tiles;
    bool resident;  // a tile's pieces stay for the second product, and the rows' for ever

    X2CT_DEVICE WgmmaGradient(const ContrastiveWgmmaGradientParams& all, C::Layout& s)
        : params(all.gradient), p(all.gradient.problem), x_tiles(all.x_tiles), x_factors(all.x_factors), s(s),
          x{&s.x[0][0], s.x_full, s.x_empty}, y{&s.y[0][0], s.y_full, s.y_empty} {
        row0 = uint64_t(blockIdx.x) * C::rows;
        slice0 = uint64_t(blockIdx.y) * C::slice;
        pieces = uint32_t((p.d + kTileDepth - 1) / kTileDepth);
        resident = pieces <= uint32_t(C::slots);
        slots = resident ? pieces : uint32_t(C::slots);
        chunks = params.dx ? min(uint32_t(C::chunks), pieces - uint32_t(slice0 / C::chunk)) : 0;
        tiles = uint32_t((p.columns + C::columns - 1) / C::columns);
    }

    // One thread.
    X2CT_DEVICE void fetch() const {
        RingCursor own{0, 0}, partner{0, 0};
        for (uint32_t q = 0; q < params.term_count; ++q)
            for (uint32_t tile = 0; tile < tiles; ++tile) {
                for (uint32_t piece = 0; piece < pieces; ++piece) {
                    if (!resident || (q == 0 && tile == 0)) {
                        x.fill(own, packed_tile(x_tiles, row0 / kTileRows, pieces, piece) + (row0 % kTileRows ? kHalfTile : 0));
                        own.advance(slots);
                    }
                    y.fill(partner, packed_tile(params.terms[q].partner, tile, pieces, piece));
                    partner.advance(slots);
                }
                for (uint32_t chunk = 0; chunk < chunks && !resident; ++chunk) {
                    y.fill(partner, packed_tile(params.terms[q].partner, tile, pieces, slice0 / C::chunk + chunk));
                    partner.advance(slots);
                }
            }
    }

    // Whether this warpgroup multiplies h with a chunk of the partners.
    X2CT_DEVICE bool is_mine(int group, uint32_t chunk) const { return chunk < chunks && int(chunk % C::groups) == group; }

    // Inner products of the block's rows with 64 partners.
    X2CT_DEVICE void similarities(int group, RingCursor& own, RingCursor& partner, float (&c)[32]) const {
        RingCursor own_before{}, partner_before{};
        auto give_back = [&](uint32_t piece) {
            if (!resident) x.give_back(own_before);
            if (!resident || !is_mine(group, piece)) y.give_back(partner_before);
        };
        for (uint32_t piece = 0; piece < pieces; ++piece) {
            const unsigned char* a = x.take(own);
            const unsigned char* b = y.take(partner) + group * kHalfTile;
            wgmma_begin(c);
            X2CT_UNROLL
            for (int step = 0; step < kTileDepth / 16; ++step) wgmma_n64(c, wgmma_tile(a + step * 32), wgmma_tile(b + step * 32), piece || step);
            wgmma_commit();
            if (piece) {
                wgmma_wait<1>();
                give_back(piece - 1);
            }
            own_before = own;
            partner_before = partner;
            own.advance(slots);
            partner.advance(slots);
        }
        wgmma_end(c);
        give_back(pieces - 1);
    }

    // g += h times a chunk of the partners.
    X2CT_DEVICE void multiply_chunk(const uint32_t (&h)[C::columns / 16][4], RingCursor at, float (&g)[32]) const {
        const unsigned char* b = y.take(at);
        wgmma_begin(g);
        X2CT_UNROLL
        for (int step = 0; step < C::columns / 16; ++step) wgmma_n64_rows(g, h[step], wgmma_tile(b + step * 16 * kSwizzledRow), true);
        wgmma_commit();
        wgmma_end(g);
        y.give_back(at);
    }

    // A barrier of the warps that multiply.
    X2CT_DEVICE void meet(uint32_t& parity) const {
        warp_arrive(&s.together);
        mbarrier_wait(&s.together, parity);
        parity ^= 1;
    }

    X2CT_DEVICE void multiply_all(int group) const {
        const float scale = logit_scale(p);
        const int t = int(threadIdx.x), lane = t % 32, warp = t / 32;
        const int own_row = warp % 4 * 16 + lane / 4, own_column = group * 64 + lane % 4 * 2;
        float g[C::chunks / C::groups][32];
        X2CT_UNROLL
        for (int i = 0; i < C::chunks / C::groups; ++i)
            X2CT_UNROLL
            for (int j = 0; j < 32; ++j) g[i][j] = 0.0f;
        float slope[2] = {}, row_factor[2];
        X2CT_UNROLL
        for (int i = 0; i < 2; ++i) row_factor[i] = row0 + own_row + i * 8 < p.rows ? inverse_norm(x_factors, row0 + own_row + i * 8) : 0.0f;
        RingCursor own{0, 0}, partner{0, 0};
        uint32_t parity = 0;
        for (uint32_t q = 0; q < params.term_count; ++q) {
            const ContrastiveTerm& term = params.terms[q];
            Softmax own_softmax[2];
            X2CT_UNROLL
            for (int i = 0; i < 2; ++i) own_softmax[i] = row0 + own_row + i * 8 < p.rows ? term.own_softmax[row0 + own_row + i * 8] : Softmax{};
            for (uint32_t tile = 0; tile < tiles; ++tile) {
                const RingCursor first = partner;
                if (resident) own = {0, 0};
                float c[32];
                similarities(group, own, partner, c);
                if (chunks) meet(parity);  // every warp has read the previous h
                const uint64_t column0 = uint64_t(tile) * C::columns;
                // Where every logit counts and none is a match, none is looked at.
                const bool plain = !p.row_ids && row0 + C::rows <= p.rows && column0 + C::columns <= p.columns &&
                                   (row0 + p.offset + C::rows <= column0 || column0 + C::columns <= row0 + p.offset);
                X2CT_UNROLL
                for (int j = 0; j < 16; j += 2) {
                    const int local = own_column + j / 2 * 8;
                    Softmax partner_softmax[2] = {};
                    float factor[2] = {};
                    X2CT_UNROLL
                    for (int k = 0; k < 2; ++k)
                        if (plain || column0 + local + k < p.columns) {
                            partner_softmax[k] = term.partner_softmax[column0 + local + k];
                            factor[k] = inverse_norm(term.partner_inverse_norms, column0 + local + k);
                        }
                    X2CT_UNROLL
                    for (int i = 0; i < 2; ++i) {
                        float scaled[2];
                        X2CT_UNROLL
                        for (int k = 0; k < 2; ++k) {
                            const float similarity = row_factor[i] * (factor[k] * c[j / 2 * 4 + i * 2 + k]);
                            const float h = logit_weight(term, scale, similarity, own_softmax[i], partner_softmax[k], row0 + own_row + i * 8,
                                                         column0 + local + k, plain);
                            slope[i] += h * similarity;
                            scaled[k] = h * factor[k];
                        }
                        if (chunks) *reinterpret_cast<uint32_t*>(s.h + (own_row + i * 8) * C::h_stride + local * 2) = pack_bf16(scaled[0], scaled[1]);
                    }
                }
                if (!chunks) continue;
                meet(parity);
                second_product(group, first, partner, g);
            }
        }
        finish(group, own_row, slope, g, parity);
    }

    // The gradient of a logit, weighted; zero where it counts nowhere.
    X2CT_DEVICE float logit_weight(const ContrastiveTerm& term, float scale, float similarity, Softmax own, Softmax partner, uint64_t row, uint64_t column,
                                   bool plain) const {
        if (!plain) {
            if (row >= p.rows || column >= p.columns) return 0.0f;
            if (row + p.offset == column) return term.weight * term.diagonal[row];
            if (!mismatch(p, row, column)) return 0.0f;
        }
        return term.weight * logit_gradient(p, scale, similarity, own, partner);
    }

    // g += h times this warpgroup's chunks of the partners. `first`: where the tile's pieces begin, if they are still there;
    // `next`: where its chunks come, if they are fetched again.
    X2CT_DEVICE void second_product(int group, RingCursor first, RingCursor& next, float (&g)[C::chunks / C::groups][32]) const {
        const int lane = int(threadIdx.x) % 32, warp = int(threadIdx.x) / 32 % 4;
        uint32_t h[C::columns / 16][4];
        X2CT_UNROLL
        for (int step = 0; step < C::columns / 16; ++step) ldmatrix_x4(h[step], s.h + (warp * 16 + lane % 16) * C::h_stride + lane / 16 * 16 + step * 32);
        RingCursor at = resident ? first : next;
        X2CT_UNROLL
        for (int i = 0; i < C::chunks / C::groups; ++i) {
            if (group == 1) pass(i * 2, at);
            if (uint32_t(i * 2 + group) < chunks) {
                multiply_chunk(h, at, g[i]);
                at.advance(slots);
            }
            if (group == 0) pass(i * 2 + 1, at);
        }
        if (!resident) next = at;
    }

    // The other warpgroup's chunk.
    X2CT_DEVICE void pass(uint32_t chunk, RingCursor& at) const {
        if (chunk >= chunks) return;
        if (!resident) {
            y.take(at);  // giving back before it has come would count for an earlier phase
            y.give_back(at);
        }
        at.advance(slots);
    }

    X2CT_DEVICE void finish(int group, int own_row, float (&slope)[2], const float (&g)[C::chunks / C::groups][32], uint32_t parity) const {
        const int lane = int(threadIdx.x) % 32;
        X2CT_UNROLL
        for (int i = 0; i < 2; ++i) {
            slope[i] += __shfl_xor_sync(0xffffffffu, slope[i], 1);
            slope[i] += __shfl_xor_sync(0xffffffffu, slope[i], 2);
            if (lane % 4 == 0) s.slopes[group][own_row + i * 8] = slope[i];
        }
        meet(parity);
        const float scale = logit_scale(p), factor = *params.upstream * params.factor;
        const bf16* from = static_cast<const bf16*>(params.x);
        X2CT_UNROLL
        for (int i = 0; i < 2; ++i) {
            const uint64_t row = row0 + own_row + i * 8;
            if (row >= p.rows) continue;
            const float along = s.slopes[0][own_row + i * 8] + s.slopes[1][own_row + i * 8];
            if (params.slopes && blockIdx.y == 0 && group == 0 && lane % 4 == 0) params.slopes[row] = along * factor;
            if (!params.dx) continue;
            const float inverse = inverse_norm(params.x_inverse_norms, row);
            X2CT_UNROLL
            for (int n = 0; n < C::chunks / C::groups; ++n)
                X2CT_UNROLL
                for (int j = 0; j < 16; ++j) {
                    const uint64_t k = slice0 + (n * C::groups + group) * C::chunk + j / 2 * 8 + lane % 4 * 2 + j % 2;
                    if (k >= p.d) continue;
                    const uint64_t at = row * p.d + k;
                    const float free = scale * g[n][j / 2 * 4 + i * 2 + j % 2];
                    const float value = params.x_inverse_norms ? unnormalise(free, scale * along, to_float(from[at]), inverse) : free;
                    write_gradient(static_cast<bf16*>(params.dx) + at, factor * value, params.accumulate);
                }
        }
    }

    X2CT_DEVICE void run() const {
        const int t = int(threadIdx.x);
        check_swizzle_alignment(&s);
        if (t == 0) {
            x.initialise(C::warps);
            y.initialise(C::warps);
            mbarrier_init(&s.together, C::warps);
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
X2CT_DEVICE void contrastive_gradient_wgmma(const ContrastiveWgmmaGradientParams& params) {
    if constexpr (Available)
        WgmmaGradient(params, shared_memory<ContrastiveGradientWgmmaConfig::Layout>()).run();
    else
        no_wgmma();
}
