// Variant 6 of the contrastive loss: as variant 4, on tensor cores (bf16, or TF32 where storage is f32). Whole batches of up to
// about a thousand make loss and gradients in one cooperative launch; of larger ones, bands of h serve the gradients of both
// sets of a pair.
//
// h is stored by tiles: a tile's rows as T, divided by the columns' norms, then its columns as T, divided by the rows' norms.
// Each is what one of the two products takes as its left operand, and partners reach shared memory as they are.
//
// Idea: embeddings are divided by their norms after the product, so norms need no pass of their own: a block adds up the squares
// of its rows while they lie in shared memory for the product. That leaves two barriers of the grid.
#pragma once

#include "contrastive_mma.cuh"
#include "contrastive_stored.cuh"

// Two groups of warps share the reduction of a tile of 64, which has too few fragments for eight warps: half as many
// fragments are then loaded for a product as if each warp had a smaller part of the tile.
template <class T, int Tile>
struct ContrastiveStoredMmaConfig : KernelDefaults {
    static constexpr uint32_t threads = 256, tile0 = Tile, tile1 = Tile;
    static constexpr int tile = Tile, bytes = int(sizeof(T)), stages = Tile == 64 ? 4 : 2;
    static constexpr int warps_m = 2, warps_n = Tile / 32, groups = int(threads) / 32 / (warps_m * warps_n);
    static constexpr int mi = Tile / warps_m / 16, ni = 4, own = mi / groups;  // fragments: of a warp, and those a thread finishes
    static constexpr int rows = 2 * own, columns = 2 * ni;                     // of what a thread finishes
    static constexpr int row_parts = 4 * warps_n, column_parts = 8 * warps_m * groups;  // threads that share one
    static constexpr int square_parts = int(threads) / (2 * Tile);
    static constexpr int stage_bytes = 2 * Tile * kPieceStride, out_stride = Tile * bytes + 16;
    static_assert(threads >= 2 * Tile && own * groups == mi, "a thread finishes one row or one column");
    // A group's part of a stage of the second product; f32 fragments are read word by word, see ContrastiveGradientMmaConfig.
    struct Share {
        static constexpr int partners = kPiece / bytes / groups, h_stride = kPieceStride;
        static constexpr int straight_stride = Tile * bytes + (bytes == 2 ? 16 : 32);
    };
    static_assert(Share::partners * groups * Share::straight_stride <= Tile * kPieceStride, "both products share the stages");
    struct Shared {
        union {
            alignas(16) unsigned char stage[stages][stage_bytes];
            float exchange[groups][groups == 1 ? 1 : own * ni * 4][threads / groups];
            struct {
                SumExp rows[Tile][row_parts + 1], columns[Tile][column_parts + 1];  // odd: neighbours start in different banks
            } sums;
            struct {
                float rows[Tile][row_parts + 1], columns[Tile][column_parts + 1];
            } alongs;
            unsigned char out[Tile * out_stride];
        };
        float squares[2 * Tile][square_parts];
        float inverse[2 * Tile];  // norms, of rows, then of columns
        SumExp merged[2 * Tile];
        Softmax row[Tile], column[Tile];
        float diagonal[Tile], along[Tile];
        double scratch[threads / 32];
    };
    static_assert(sizeof(Shared) <= 99 * 1024, "fits every target");
};
template <class T>
struct ContrastiveOneLaunchMmaConfig : ContrastiveStoredMmaConfig<T, 64> {
    static constexpr bool cooperative = true;
};
// Both products of a tile of 128 take half the bytes from L2 that they take of one of 64.
template <class T>
using ContrastiveBandMmaConfig = ContrastiveStoredMmaConfig<T, 128>;

// What a thread of a tile finishes.
template <class C>
struct Place {
    int lane, wm, wn, group;
    X2CT_DEVICE Place() {
        const int warp = int(threadIdx.x) / 32;
        lane = int(threadIdx.x) % 32;
        wm = warp % C::warps_m;
        wn = warp / C::warps_m % C::warps_n;
        group = warp / (C::warps_m * C::warps_n);
    }
    X2CT_DEVICE int row(int i) const { return (wm * C::mi + group * C::own) * 16 + lane / 4 + i * 8; }
    X2CT_DEVICE int column(int j) const { return wn * 32 + lane % 4 * 2 + j / 2 * 8 + j % 2; }
    X2CT_DEVICE int row_part() const { return wn * 4 + lane % 4; }
    X2CT_DEVICE int column_part() const { return (wm * C::groups + group) * 8 + lane / 4; }
};

// The sums of both groups of warps, over their shares of the reduction; a thread is left with its group's half of the
// fragments. Every stage may be overwritten.
template <class C, class S>
X2CT_DEVICE void join_groups(S& s, const float (&all)[C::mi][C::ni][4], float (&own)[C::own][C::ni][4]) {
    constexpr int lanes = int(C::threads) / C::groups, parts = C::own * C::ni * 4;
    __syncthreads();
    if constexpr (C::groups == 1) {
        X2CT_UNROLL
        for (int e = 0; e < parts; ++e) own[e / (C::ni * 4)][e / 4 % C::ni][e % 4] = all[e / (C::ni * 4)][e / 4 % C::ni][e % 4];
    } else {
        static_assert(C::groups == 2, "halves");
        const int group = int(threadIdx.x) / lanes, lane = int(threadIdx.x) % lanes;
        X2CT_UNROLL
        for (int e = 0; e < parts; ++e) {
            const int i = e / (C::ni * 4), j = e / 4 % C::ni;
            s.exchange[group][e][lane] = group ? all[i][j][e % 4] : all[C::own + i][j][e % 4];
        }
        __syncthreads();
        X2CT_UNROLL
        for (int e = 0; e < parts; ++e) {
            const int i = e / (C::ni * 4), j = e / 4 % C::ni;
            own[i][j][e % 4] = (group ? all[C::own + i][j][e % 4] : all[i][j][e % 4]) + s.exchange[1 - group][e][lane];
        }
        __syncthreads();
    }
}

// The sum of the squares of a thread's share of a stage's rows.
template <class T, class C>
X2CT_DEVICE float squares_of(const unsigned char* stage) {
    constexpr int share = kPiece / C::square_parts, width = vec_width<T>();
    const int t = int(threadIdx.x);
    const unsigned char* from = stage + t / C::square_parts * kPieceStride + t % C::square_parts * share;
    float total = 0.0f;
    X2CT_UNROLL
    for (int v = 0; v < share / 16; ++v) {
        float x[width], sum = 0.0f;
        load_float(reinterpret_cast<const T*>(from + v * 16), x);
        X2CT_UNROLL
        for (int i = 0; i < width; ++i) sum += x[i] * x[i];
        total += sum;
    }
    return total;
}

// One set of a tile's rows, or of its columns.
struct TileSide {
    const void* x;          // [n, d]
    const float* inverse;   // [n], or null: the embeddings are used as they are
    uint64_t first, n;
};

// c = <a_row, b_column> of a tile, divided by their norms; leaves the inverse norms in shared memory. MakeNorms: `inverse`
// does not hold them yet, they are made here.
template <class T, class C, bool MakeNorms, class S>
X2CT_DEVICE void similarity_tile_mma(S& s, TileSide a, TileSide b, uint64_t d, float (&c)[C::own][C::ni][4]) {
    constexpr int depth = kPiece / C::bytes;
    const Place<C> at;
    const int t = int(threadIdx.x);
    const uint64_t pieces = (d + depth - 1) / depth;
    auto load = [&](uint64_t piece) {
        if (piece < pieces) {
            unsigned char* stage = s.stage[piece % C::stages];
            load_async<C::threads, C::tile, kPiece>(stage, kPieceStride, static_cast<const T*>(a.x), a.first, piece * depth, a.n, d);
            load_async<C::threads, C::tile, kPiece>(stage + C::tile * kPieceStride, kPieceStride, static_cast<const T*>(b.x), b.first, piece * depth, b.n, d);
        }
        cp_async_commit();
    };
    float all[C::mi][C::ni][4] = {}, squares = 0.0f;
    __syncthreads();  // what lies where the stages will is done with
    X2CT_UNROLL
    for (int stage = 0; stage < C::stages - 1; ++stage) load(stage);
    for (uint64_t piece = 0; piece < pieces; ++piece) {
        cp_async_wait<C::stages - 2>();
        __syncthreads();
        load(piece + C::stages - 1);  // into the stage that every warp has just left
        const unsigned char* stage = s.stage[piece % C::stages];
        const unsigned char* share = stage + at.group * (kPiece / C::groups);
        multiply_pieces<C::mi, C::ni, T, kPiece / 32 / C::groups>(share + at.wm * C::mi * 16 * kPieceStride, share + (C::tile + at.wn * 32) * kPieceStride, all);
        if (MakeNorms) squares += squares_of<T, C>(stage);
    }
    cp_async_wait<0>();
    if (MakeNorms) s.squares[t / C::square_parts][t % C::square_parts] = squares;
    join_groups<C>(s, all, c);
    if (t < 2 * C::tile) {
        const float* inverses = t < C::tile ? a.inverse : b.inverse;
        const uint64_t item = (t < C::tile ? a.first : b.first) + t % C::tile;
        const bool inside = item < (t < C::tile ? a.n : b.n);
        float inverse = inside ? 1.0f : 0.0f;
        if (inverses && inside) {
            if (MakeNorms) {
                float sum = s.squares[t][0];
                X2CT_UNROLL
                for (int i = 1; i < C::square_parts; ++i) sum += s.squares[t][i];
                const float norm = sqrtf(sum);
                inverse = 1.0f / (norm < kMinNorm ? kMinNorm : norm);
            } else {
                inverse = inverses[item];
            }
        }
        s.inverse[t] = inverse;
    }
    __syncthreads();
    X2CT_UNROLL
    for (int i = 0; i < C::rows; ++i)
        X2CT_UNROLL
        for (int j = 0; j < C::columns; ++j) {
            float& value = c[i / 2][j / 2][i % 2 * 2 + j % 2];
            value = s.inverse[at.row(i)] * (s.inverse[C::tile + at.column(j)] * value);
        }
}

// Sums merged in one step: the exponentials do not wait for each other.
X2CT_DEVICE SumExp merge_all(Strips strips) {
    float shift = strips.first[0].shift, sum = 0.0f;
    for (uint32_t i = 1; i < strips.count; ++i) shift = fmaxf(shift, strips.first[i * strips.stride].shift);
    for (uint32_t i = 0; i < strips.count; ++i) {
        const SumExp part = strips.first[i * strips.stride];
        sum += part.shift == shift ? part.sum : part.sum * expf(part.shift - shift);
    }
    return {shift, sum};
}

// Replaces a thread's similarities by h, with the softmaxes and matching gradients of the tile in shared memory. Returns h
// times similarity summed over row t of the tile (t < tile), or over column t - tile.
template <class C, class S>
X2CT_DEVICE float gradient_of_logits_mma(S& s, const ContrastiveProblem& p, float scale, float weight, uint64_t row0, uint64_t column0,
                                         float (&c)[C::own][C::ni][4]) {
    const Place<C> at;
    const int t = int(threadIdx.x);
    float columns[C::columns] = {};
    X2CT_UNROLL
    for (int i = 0; i < C::rows; ++i) {
        float along = 0.0f;
        const uint64_t row = row0 + at.row(i);
        X2CT_UNROLL
        for (int j = 0; j < C::columns; ++j) {
            const uint64_t column = column0 + at.column(j);
            float& value = c[i / 2][j / 2][i % 2 * 2 + j % 2];
            float h = 0.0f;
            if (row < p.rows && column < p.columns) {
                if (row + p.offset == column)
                    h = weight * s.diagonal[at.row(i)];
                else if (mismatch(p, row, column))
                    h = weight * logit_gradient(p, scale, value, s.row[at.row(i)], s.column[at.column(j)]);
            }
            along += h * value;
            columns[j] += h * value;
            value = h;
        }
        s.alongs.rows[at.row(i)][at.row_part()] = along;
    }
    X2CT_UNROLL
    for (int j = 0; j < C::columns; ++j) s.alongs.columns[at.column(j)][at.column_part()] = columns[j];
    __syncthreads();
    float sum = 0.0f;
    if (t < C::tile) {
        X2CT_UNROLL
        for (int i = 0; i < C::row_parts; ++i) sum += s.alongs.rows[t][i];
    } else if (t < 2 * C::tile) {
        X2CT_UNROLL
        for (int i = 0; i < C::column_parts; ++i) sum += s.alongs.columns[t - C::tile][i];
    }
    return sum;
}

// Stores a tile of h for one of the two products; see the head of this file.
template <class T, class C, class S>
X2CT_DEVICE void store_tile_mma(S& s, const float (&h)[C::own][C::ni][4], bool transposed, T* to) {
    constexpr int pieces = C::tile * C::bytes / 16, width = vec_width<T>();
    static_assert(C::tile * pieces % int(C::threads) == 0, "every thread copies as much");
    const Place<C> at;
    __syncthreads();  // what lies where the tile will is done with
    X2CT_UNROLL
    for (int i = 0; i < C::rows; ++i)
        X2CT_UNROLL
        for (int j = 0; j < C::columns; ++j) {
            const int row = at.row(i), column = at.column(j), line = transposed ? column : row, place = transposed ? row : column;
            const float inverse = s.inverse[transposed ? row : C::tile + column];
            reinterpret_cast<T*>(s.out + line * C::out_stride)[place] = from_float<T>(h[i / 2][j / 2][i % 2 * 2 + j % 2] * inverse);
        }
    __syncthreads();
    X2CT_UNROLL
    for (int v = 0; v < C::tile * pieces / int(C::threads); ++v) {
        const int item = int(threadIdx.x) + v * int(C::threads), line = item / pieces, piece = item % pieces;
        store_vec(to + line * C::tile + piece * width, load_vec<width>(reinterpret_cast<const T*>(s.out + line * C::out_stride) + piece * width));
    }
}

// A row of tiles of h, and what they are multiplied with.
struct TileProduct {
    const void* h;           // of T, the first tile
    uint64_t stride;         // elements from one tile to the next
    const void* partner;     // [partners, d]
    uint64_t first;          // the partner of the first tile's first column
    uint64_t partners;
    const float* alongs;     // [along_count, along_stride]
    uint64_t along_stride;
    uint32_t count;          // tiles
    uint32_t along_count;
};

// dx of a tile's rows from row0 on and as many columns from slice0 on. `product(q)` is the q-th of `terms` rows of tiles.
template <class T, class C, class S, class GetProduct>
X2CT_DEVICE void gradient_tile_mma(S& s, const ContrastiveTarget& target, uint64_t row0, uint64_t slice0, uint32_t terms, GetProduct product) {
    using Share = typename C::Share;
    constexpr int partners = kPiece / C::bytes, parts = C::tile / partners;  // of one stage; stages of one tile
    const Place<C> at;
    const int t = int(threadIdx.x);
    TileProduct next{};  // what to copy next: runs ahead of the arithmetic by stages - 1
    uint32_t next_term = 0, next_tile = 0, next_part = 0, items = 0;
    for (uint32_t q = 0; q < terms; ++q) items += product(q).count * parts;
    auto load = [&](uint32_t to) {
        while (next_tile == next.count && next_term < terms) {
            next = product(next_term++);
            next_tile = 0;
        }
        if (next_tile < next.count) {
            unsigned char* stage = s.stage[to % C::stages];
            load_async<C::threads, C::tile, kPiece>(stage, kPieceStride, static_cast<const T*>(next.h) + next_tile * next.stride, 0, next_part * partners, C::tile, C::tile);
            load_async<C::threads, partners, C::tile * C::bytes>(stage + C::tile * kPieceStride, Share::straight_stride, static_cast<const T*>(next.partner),
                                                                next.first + uint64_t(next_tile) * C::tile + next_part * partners, slice0, next.partners, target.d);
            if (++next_part == parts) {
                next_part = 0;
                ++next_tile;
            }
        }
        cp_async_commit();
    };
    float all[C::mi][C::ni][4] = {}, g[C::own][C::ni][4];
    __syncthreads();
    X2CT_UNROLL
    for (int stage = 0; stage < C::stages - 1; ++stage) load(stage);
    if (t < C::tile) {
        float along = 0.0f;
        for (uint32_t q = 0; q < terms && row0 + t < target.rows; ++q) {
            const TileProduct term = product(q);
            for (uint32_t i = 0; i < term.along_count; ++i) along += term.alongs[i * term.along_stride + row0 + t];
        }
        s.along[t] = along;
        if (target.slopes && slice0 == 0 && row0 + t < target.rows) target.slopes[row0 + t] = target.factor * along;
    }
    for (uint32_t item = 0; item < items; ++item) {
        cp_async_wait<C::stages - 2>();
        __syncthreads();
        load(item + C::stages - 1);
        const unsigned char* stage = s.stage[item % C::stages];
        multiply_partners<C::mi, Share>(stage + at.wm * C::mi * 16 * kPieceStride + at.group * (kPiece / C::groups),
                                        stage + C::tile * kPieceStride + at.group * Share::partners * Share::straight_stride + at.wn * 32 * C::bytes, all, T{});
    }
    cp_async_wait<0>();
    join_groups<C>(s, all, g);
    X2CT_UNROLL
    for (int i = 0; i < C::rows; ++i) {
        const uint64_t row = row0 + at.row(i);
        if (row >= target.rows) continue;
        const float inverse = inverse_norm(target.inverse, row), along = target.scale * s.along[at.row(i)];
        X2CT_UNROLL
        for (int j = 0; j < C::columns; ++j) {
            const uint64_t k = slice0 + at.column(j), place = row * target.d + k;
            if (k >= target.d) continue;
            const float free = target.scale * g[i / 2][j / 2][i % 2 * 2 + j % 2];
            const float value = target.inverse ? unnormalise(free, along, to_float(static_cast<const T*>(target.x)[place]), inverse) : free;
            write_target<T>(target, place, target.factor * value);
        }
    }
}

// Elements of a tile of h as one product reads it; it is stored for both.
template <class C>
X2CT_DEVICE constexpr uint64_t tile_elements() {
    return uint64_t(C::tile) * C::tile;
}

// Similarities of every pair and the sums of each tile's rows and columns; norms. A similarity is stored where the same thread
// of whichever block will look for it.
template <class T, class C, class S>
X2CT_DEVICE void stored_similarities_mma(S& s, const ContrastiveStoredParams& params) {
    const ContrastiveProblem& p = params.problem;
    const Place<C> at;
    const int t = int(threadIdx.x);
    const float scale = logit_scale(p), bias = logit_bias(p);
    const uint64_t tiles = params.tiles, padded = tiles * C::tile;
    // Norms are made in every tile and stored by one: of the first pair that has the set.
    auto first_with = [&](uint32_t set) {
        uint32_t q = 0;
        while (params.pairs[q].a != set && params.pairs[q].b != set) ++q;
        return q;
    };
    for (uint64_t item = blockIdx.x; item < params.pair_count * tiles * tiles; item += gridDim.x) {
        const uint32_t q = uint32_t(item / (tiles * tiles));
        const ContrastiveStoredPair& pair = params.pairs[q];
        const uint64_t rt = item / tiles % tiles, ct = item % tiles, row0 = rt * C::tile, column0 = ct * C::tile;
        const ContrastiveSet &left = params.sets[pair.a], &right = params.sets[pair.b];
        float c[C::own][C::ni][4];
        similarity_tile_mma<T, C, true>(s, TileSide{left.x, left.inverse_norms, row0, p.rows}, TileSide{right.x, right.inverse_norms, column0, p.rows}, p.d, c);
        if (t < C::tile) {
            if (left.inverse_norms && ct == 0 && row0 + t < p.rows && first_with(pair.a) == q) left.inverse_norms[row0 + t] = s.inverse[t];
        } else if (t < 2 * C::tile) {
            const uint64_t column = column0 + t - C::tile;
            if (right.inverse_norms && rt == 0 && column < p.rows && first_with(pair.b) == q) right.inverse_norms[column] = s.inverse[t];
        }
        if (pair.gradient) {
            float* to = reinterpret_cast<float*>(reinterpret_cast<T*>(pair.h) + (rt * tiles + ct) * 2 * tile_elements<C>());
            X2CT_UNROLL
            for (int v = 0; v < C::own * C::ni; ++v) store_float(to + (v * C::threads + t) * 4, c[v / C::ni][v % C::ni]);
        }
        float l[C::rows][C::columns];
        X2CT_UNROLL
        for (int i = 0; i < C::rows; ++i)
            X2CT_UNROLL
            for (int j = 0; j < C::columns; ++j) {
                const uint64_t row = row0 + at.row(i), column = column0 + at.column(j);
                l[i][j] = scale * c[i / 2][j / 2][i % 2 * 2 + j % 2] + bias;
                if (row >= p.rows || column >= p.columns) {
                    l[i][j] = -infinity();
                } else {
                    if (row == column) pair.diagonal_logits[row] = l[i][j];
                    if (!mismatch(p, row, column)) l[i][j] = -infinity();
                }
            }
        fold(l, p.mode, scale, [&](int i, SumExp sum) { s.sums.rows[at.row(i)][at.row_part()] = sum; },
             [&](int j, SumExp sum) { s.sums.columns[at.column(j)][at.column_part()] = sum; });
        __syncthreads();
        // In two steps, so that every thread has a share.
        constexpr int shares = int(C::threads) / C::tile, row_share = C::row_parts / shares, column_share = C::column_parts / shares;
        SumExp* row_parts = &s.sums.rows[t % C::tile][t / C::tile * row_share];
        SumExp* column_parts = &s.sums.columns[t % C::tile][t / C::tile * column_share];
        *row_parts = merge_all(Strips{row_parts, 1, row_share});
        *column_parts = merge_all(Strips{column_parts, 1, column_share});
        __syncthreads();
        if (t < C::tile)
            pair.row_partials[ct * padded + row0 + t] = merge_all(Strips{s.sums.rows[t], row_share, shares});
        else if (t < 2 * C::tile)
            pair.column_partials[rt * padded + column0 + t - C::tile] = merge_all(Strips{s.sums.columns[t - C::tile], column_share, shares});
    }
}

// Turns similarities into h, and makes the losses of the rows; see stored_gradients_of_logits.
template <class T, class C, class S>
X2CT_DEVICE void stored_gradients_of_logits_mma(S& s, const ContrastiveStoredParams& params) {
    const ContrastiveProblem& p = params.problem;
    const float scale = logit_scale(p);
    const uint64_t tiles = params.tiles, padded = tiles * C::tile;
    const int t = int(threadIdx.x);
    for (uint64_t item = blockIdx.x; item < params.pair_count * tiles * tiles; item += gridDim.x) {
        const uint32_t q = uint32_t(item / (tiles * tiles));
        const ContrastiveStoredPair& pair = params.pairs[q];
        const uint64_t rt = item / tiles % tiles, ct = item % tiles, row0 = rt * C::tile, column0 = ct * C::tile;
        if (rt != ct && !pair.gradient) continue;
        T* h = reinterpret_cast<T*>(pair.h) + (rt * tiles + ct) * 2 * tile_elements<C>();
        float c[C::own][C::ni][4];
        if (pair.gradient) {
            X2CT_UNROLL
            for (int v = 0; v < C::own * C::ni; ++v) load_float(reinterpret_cast<const float*>(h) + (v * C::threads + t) * 4, c[v / C::ni][v % C::ni]);
        }
        const ContrastiveSet &left = params.sets[pair.a], &right = params.sets[pair.b];
        const uint64_t own = t < C::tile ? row0 + t : column0 + t - C::tile;
        __syncthreads();  // the previous tile is done with what follows
        if (t < 2 * C::tile) {
            s.merged[t] = merge_all(Strips{(t < C::tile ? pair.row_partials : pair.column_partials) + own, padded, uint32_t(tiles)});
            s.inverse[t] = own < p.rows ? inverse_norm((t < C::tile ? left : right).inverse_norms, own) : 0.0f;
        }
        __syncthreads();
        auto merged = [&](int i) { return Strips{s.merged + i, 1, 1}; };
        if (rt == ct) {
            Match match{};
            if (t < C::tile && own < p.rows) match = finish_match(p.mode, scale, pair.diagonal_logits[own], merged(t), merged(C::tile + t));
            const double loss = block_sum<C::threads>(match.loss, s.scratch);
            const double bias = block_sum<C::threads>(double(match.column.inverse), s.scratch);
            if (t == 0) {
                params.loss_partials[q * tiles + rt] = loss;
                params.bias_partials[q * tiles + rt] = bias;
            }
            if (t < C::tile) {
                s.row[t] = match.row;
                s.column[t] = match.column;
                s.diagonal[t] = match.diagonal;
            }
        } else if (t < 2 * C::tile) {
            Softmax softmax{};
            double unused = 0.0;
            if (p.mode != kSigmoid && own < p.rows) finish_softmax(merged(t), pair.diagonal_logits[own], p.mode, scale, &softmax, &unused);
            (t < C::tile ? s.row[t] : s.column[t - C::tile]) = softmax;
        }
        if (!pair.gradient) continue;
        __syncthreads();
        const float along = gradient_of_logits_mma<C>(s, p, scale, pair.weight, row0, column0, c);
        if (t < C::tile)
            pair.row_alongs[ct * padded + own] = along;
        else if (t < 2 * C::tile)
            pair.column_alongs[rt * padded + own] = along;
        const double slope = block_sum<C::threads>(t < C::tile ? double(along) : 0.0, s.scratch);
        if (t == 0) params.scale_partials[item] = slope;
        if (left.dx) store_tile_mma<T, C>(s, c, false, h);
        if (right.dx) store_tile_mma<T, C>(s, c, true, h + tile_elements<C>());
    }
}

// The gradients of the sets that want one.
template <class T, class C, class S>
X2CT_DEVICE void stored_products_mma(S& s, const ContrastiveStoredParams& params) {
    const ContrastiveProblem& p = params.problem;
    const uint64_t tiles = params.tiles, padded = tiles * C::tile, slices = (p.d + C::tile - 1) / C::tile;
    for (uint64_t item = blockIdx.x; item < params.set_count * tiles * slices; item += gridDim.x) {
        const uint32_t set = uint32_t(item / (tiles * slices));
        const ContrastiveSet& own = params.sets[set];
        if (!own.dx) continue;
        const ContrastiveTarget target{own.x, own.inverse_norms, own.dx, nullptr, p.rows, p.d, logit_scale(p), params.factor, 0, ContrastiveCarry{}};
        const uint64_t tile = item / slices % tiles;
        gradient_tile_mma<T, C>(s, target, tile * C::tile, item % slices * C::tile, params.pair_count, [&](uint32_t q) {
            const ContrastiveStoredPair& pair = params.pairs[q];
            const bool rows = pair.a == set, mine = rows || pair.b == set;
            const T* h = reinterpret_cast<const T*>(pair.h);
            return TileProduct{rows ? h + tile * tiles * 2 * tile_elements<C>() : h + (2 * tile + 1) * tile_elements<C>(),
                               (rows ? 1 : tiles) * 2 * tile_elements<C>(), params.sets[rows ? pair.b : pair.a].x, 0, p.rows,
                               rows ? pair.row_alongs : pair.column_alongs, padded, mine ? uint32_t(tiles) : 0, mine ? uint32_t(tiles) : 0};
        });
    }
}

// Loss and all gradients in one launch of resident blocks.
template <class T>
X2CT_DEVICE void contrastive_one_launch_mma(const ContrastiveStoredParams& params) {
    using C = ContrastiveOneLaunchMmaConfig<T>;
    auto& s = shared_memory<typename C::Shared>();
    stored_similarities_mma<T, C>(s, params);
    grid_sync();
    stored_gradients_of_logits_mma<T, C>(s, params);
    grid_sync();
    stored_totals<C::threads>(params, s.scratch);
    stored_products_mma<T, C>(s, params);
}

// h of a band of rows; see contrastive_band. The tile of rows first + 128 blockIdx.y by columns 128 blockIdx.x.
template <class T>
X2CT_DEVICE void contrastive_band_mma(const ContrastiveBandParams& params) {
    using C = ContrastiveBandMmaConfig<T>;
    auto& s = shared_memory<typename C::Shared>();
    const ContrastiveProblem& p = params.problem;
    const ContrastiveTerm& term = params.term;
    const int t = int(threadIdx.x);
    const uint64_t tiles = gridDim.x, column0 = uint64_t(blockIdx.x) * C::tile, row0 = params.first + uint64_t(blockIdx.y) * C::tile;
    if (t < C::tile) {
        s.row[t] = row0 + t < p.rows ? term.own_softmax[row0 + t] : Softmax{};
        s.diagonal[t] = row0 + t < p.rows ? term.diagonal[row0 + t] : 0.0f;
        s.column[t] = column0 + t < p.columns ? term.partner_softmax[column0 + t] : Softmax{};
    }
    float c[C::own][C::ni][4];
    similarity_tile_mma<T, C, false>(s, TileSide{params.x, params.x_inverse_norms, row0, p.rows}, TileSide{term.partner, term.partner_inverse_norms, column0, p.columns}, p.d, c);
    const float along = gradient_of_logits_mma<C>(s, p, logit_scale(p), term.weight, row0, column0, c);
    if (t < C::tile)
        params.row_alongs[blockIdx.x * params.band + blockIdx.y * C::tile + t] = along;
    else
        params.column_alongs[blockIdx.y * tiles * C::tile + column0 + t - C::tile] = along;
    T* h = static_cast<T*>(params.h) + (blockIdx.y * tiles + blockIdx.x) * 2 * tile_elements<C>();
    store_tile_mma<T, C>(s, c, false, h);
    store_tile_mma<T, C>(s, c, true, h + tile_elements<C>());
}

// dx of rows 128 blockIdx.x and columns 128 blockIdx.y.
template <class T>
X2CT_DEVICE void contrastive_band_product_mma(const ContrastiveBandProductParams& p) {
    using C = ContrastiveBandMmaConfig<T>;
    const float scale = p.scale_tensor ? *p.scale_tensor : p.scale;
    const ContrastiveTarget target{p.x, p.x_inverse_norms, p.dx, p.slopes, p.rows, p.d, scale, *p.upstream * p.factor, p.accumulate, p.carry};
    const TileProduct product{static_cast<const T*>(p.h) + blockIdx.x * p.row_stride, p.tile_stride, p.partner, p.first, p.partners,
                              p.alongs, p.along_stride, p.tiles, p.along_count};
    gradient_tile_mma<T, C>(shared_memory<typename C::Shared>(), target, uint64_t(blockIdx.x) * C::tile, uint64_t(blockIdx.y) * C::tile, 1,
                            [&](uint32_t) { return product; });
}
