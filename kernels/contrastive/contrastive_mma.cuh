// Variant 3 of the contrastive loss: tensor cores (sm_80 and later), fed by asynchronous 16-byte copies. bf16 storage
// multiplies in bf16, f32 storage in TF32 (rounded to nearest); sums are f32.
//
// Shared memory is addressed in bytes, because the fragments of both types have one shape there: 8 rows of 16 bytes. Rows are
// padded by 16 bytes, so that eight of them lie in different banks. Norms are applied to the logits rather than to the
// embeddings, which reach shared memory as they are: inner products must not overflow (norms up to 1e19).
#pragma once

#include "common/async.h"
#include "common/mma.h"
#include "contrastive.cuh"

// One step of 32 bytes along the reduction: k = 16 in bf16, 8 in TF32.
X2CT_DEVICE void mma_step(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], bf16) { mma_bf16(d, a, b); }
X2CT_DEVICE void mma_step(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], float) { mma_tf32(d, a, b); }

template <int N, class T>
X2CT_DEVICE void round_fragment(uint32_t (&r)[N], T) {
    if (std::is_same<T, float>::value) {
        X2CT_UNROLL
        for (int i = 0; i < N; ++i) r[i] = round_tf32(__uint_as_float(r[i]));
    }
}

// Bytes of a row's piece in a stage.
constexpr int kPiece = 128, kPieceStride = kPiece + 16;

// Copies `Bytes` of rows [first, first + Rows) of x from column k0 on to shared memory; zero outside. One group of copies is
// committed by the caller. Rows that are not multiples of 16 bytes are copied element by element.
template <int Threads, int Rows, int Bytes, class T>
X2CT_DEVICE void load_async(unsigned char* tile, int stride, const T* x, uint64_t first, uint64_t k0, uint64_t n, uint64_t d) {
    constexpr int pieces = Bytes / 16, width = vec_width<T>();
    static_assert(Rows * pieces % Threads == 0, "every thread copies as much");
    const bool aligned = d % width == 0 && reinterpret_cast<uint64_t>(x) % 16 == 0;
#pragma unroll 2
    for (int v = 0; v < Rows * pieces / Threads; ++v) {
        const int item = int(threadIdx.x) + v * Threads, row = item / pieces, piece = item % pieces;
        const uint64_t k = k0 + piece * width;
        unsigned char* to = tile + row * stride + piece * 16;
        const bool inside = first + row < n && k < d;
        const T* from = inside ? x + (first + row) * d + k : x;
        if (aligned) {
            cp_async16(to, from, inside ? 16 : 0);
        } else {
            for (int i = 0; i < width; ++i) reinterpret_cast<T*>(to)[i] = inside && k + i < d ? from[i] : from_float<T>(0.0f);
        }
    }
}

// acc += rows of a times rows of b over (the first Steps x 32 bytes of) one piece: a warp's MI x 16 rows by NI x 8 columns.
template <int MI, int NI, class T, int Steps = kPiece / 32>
X2CT_DEVICE void multiply_pieces(const unsigned char* a, const unsigned char* b, float (&acc)[MI][NI][4]) {
    const int lane = int(threadIdx.x) % 32;
    const unsigned char* a_row = a + lane % 16 * kPieceStride + lane / 16 * 16;
    const unsigned char* b_row = b + (lane / 16 * 8 + lane % 8) * kPieceStride + lane / 8 % 2 * 16;
    X2CT_UNROLL
    for (int step = 0; step < Steps; ++step) {
        uint32_t left[MI][4];
        X2CT_UNROLL
        for (int i = 0; i < MI; ++i) {
            ldmatrix_x4(left[i], a_row + i * 16 * kPieceStride + step * 32);
            round_fragment(left[i], T{});
        }
        X2CT_UNROLL
        for (int j = 0; j < NI; j += 2) {
            uint32_t right[4];
            ldmatrix_x4(right, b_row + j * 8 * kPieceStride + step * 32);
            round_fragment(right, T{});
            const uint32_t first[2] = {right[0], right[1]}, second[2] = {right[2], right[3]};
            X2CT_UNROLL
            for (int i = 0; i < MI; ++i) {
                mma_step(acc[i][j], left[i], first, T{});
                mma_step(acc[i][j + 1], left[i], second, T{});
            }
        }
    }
}

struct ContrastiveMmaConfig : KernelDefaults {
    static constexpr uint32_t threads = 256;
    static constexpr int tile = 128, stages = 2, parts = 16;
    static constexpr uint32_t tile0 = tile;
    static constexpr uint32_t tile1 = 16;  // strips at most
    static constexpr int warps_m = 2, warps_n = 4, mi = tile / warps_m / 16, ni = tile / warps_n / 8;
    static_assert(warps_m * warps_n * 32 == int(threads) && threads == 2 * tile, "a thread finishes one row or one column");
    struct Shared {
        union {
            alignas(16) unsigned char stage[stages][2 * tile * kPieceStride];
            struct {
                SumExp rows[tile][parts + 1];  // odd: neighbouring rows start in different banks
                SumExp columns[tile][parts + 1];
            } sums;
        };
    };
    static_assert(sizeof(Shared) <= 99 * 1024, "fits every target");
};

// Sums of one strip of rows by one strip of columns (blockIdx.y, blockIdx.x) of pair blockIdx.z; see
// contrastive_tiled, whose tiles are smaller.
template <class T>
X2CT_DEVICE void contrastive_mma(const ContrastiveForwardParams& params) {
    using C = ContrastiveMmaConfig;
    constexpr int depth = kPiece / int(sizeof(T));
    auto& s = shared_memory<typename C::Shared>();
    const ContrastiveProblem& p = params.problem;
    const ContrastivePair& pair = params.pairs[blockIdx.z];
    const T* a = static_cast<const T*>(pair.a);
    const T* b = static_cast<const T*>(pair.b);
    const float scale = logit_scale(p), bias = logit_bias(p);
    const int t = int(threadIdx.x), lane = t % 32, wm = t / 32 % C::warps_m, wn = t / 32 / C::warps_m;
    const int own_row = wm * C::mi * 16 + lane / 4, own_column = wn * C::ni * 8 + lane % 4 * 2;
    const uint64_t row_tiles = (p.rows + C::tile - 1) / C::tile, column_tiles = (p.columns + C::tile - 1) / C::tile;
    const uint64_t pieces = (p.d + depth - 1) / depth;
    const uint64_t row_begin = row_tiles * blockIdx.y / params.strips, row_end = row_tiles * (blockIdx.y + 1) / params.strips;
    const uint64_t column_begin = column_tiles * blockIdx.x / params.strips, column_end = column_tiles * (blockIdx.x + 1) / params.strips;
    if (row_begin == row_end) {
        // Fewer tiles of rows than strips: this strip of the columns has seen nothing.
        for (uint64_t j = column_begin * C::tile + t; j < min(column_end * C::tile, p.columns); j += C::threads)
            pair.column_partials[blockIdx.y * p.columns + j] = empty_sum(p.mode, scale);
    }
    for (uint64_t rt = row_begin; rt < row_end; ++rt) {
        SumExp row_sum = empty_sum(p.mode, scale);
        for (uint64_t ct = column_begin; ct < column_end; ++ct) {
            const uint64_t row0 = rt * C::tile, column0 = ct * C::tile;
            auto load = [&](uint64_t piece) {
                if (piece < pieces) {
                    unsigned char* stage = s.stage[piece % C::stages];
                    load_async<C::threads, C::tile, kPiece>(stage, kPieceStride, a, row0, piece * depth, p.rows, p.d);
                    load_async<C::threads, C::tile, kPiece>(stage + C::tile * kPieceStride, kPieceStride, b, column0, piece * depth, p.columns, p.d);
                }
                cp_async_commit();
            };
            float c[C::mi][C::ni][4] = {};
            __syncthreads();  // the sums of the previous tile lie where the first stages will
            X2CT_UNROLL
            for (int stage = 0; stage < C::stages - 1; ++stage) load(stage);
            for (uint64_t piece = 0; piece < pieces; ++piece) {
                cp_async_wait<C::stages - 2>();
                __syncthreads();
                load(piece + C::stages - 1);  // into the stage that every warp has just left
                const unsigned char* stage = s.stage[piece % C::stages];
                multiply_pieces<C::mi, C::ni, T>(stage + wm * C::mi * 16 * kPieceStride, stage + (C::tile + wn * C::ni * 8) * kPieceStride, c);
            }
            cp_async_wait<0>();
            __syncthreads();
            // A thread holds the logits of 2 mi rows and 2 ni columns.
            float l[2 * C::mi][2 * C::ni], column_inverse[2 * C::ni];
            X2CT_UNROLL
            for (int j = 0; j < 2 * C::ni; ++j) {
                const uint64_t column = column0 + own_column + j / 2 * 8 + j % 2;
                column_inverse[j] = column < p.columns ? inverse_norm(pair.b_inverse_norms, column) : 0.0f;
            }
            X2CT_UNROLL
            for (int i = 0; i < 2 * C::mi; ++i) {
                const uint64_t row = row0 + own_row + i * 8;
                const float factor = row < p.rows ? scale * inverse_norm(pair.a_inverse_norms, row) : 0.0f;
                X2CT_UNROLL
                for (int j = 0; j < 2 * C::ni; ++j) {
                    const uint64_t column = column0 + own_column + j / 2 * 8 + j % 2;
                    l[i][j] = factor * (column_inverse[j] * c[i / 2][j / 2][i % 2 * 2 + j % 2]) + bias;
                    if (row >= p.rows || column >= p.columns) {
                        l[i][j] = -infinity();
                    } else {
                        if (row + p.offset == column) pair.diagonal_logits[row] = l[i][j];
                        if (!mismatch(p, row, column)) l[i][j] = -infinity();
                    }
                }
            }
            fold(l, p.mode, scale, [&](int i, SumExp sum) { s.sums.rows[own_row + i * 8][wn * 4 + lane % 4] = sum; },
                 [&](int j, SumExp sum) { s.sums.columns[own_column + j / 2 * 8 + j % 2][wm * 8 + lane / 4] = sum; });
            __syncthreads();
            if (t < C::tile) {
                for (int i = 0; i < C::parts; ++i) row_sum = merge(row_sum, s.sums.rows[t][i]);
            } else {
                const int column = t - C::tile;
                SumExp sum = s.sums.columns[column][0];
                for (int i = 1; i < C::parts; ++i) sum = merge(sum, s.sums.columns[column][i]);
                if (column0 + column < p.columns) {
                    SumExp* partial = pair.column_partials + blockIdx.y * p.columns + column0 + column;
                    *partial = rt == row_begin ? sum : merge(*partial, sum);
                }
            }
        }
        if (t < C::tile && rt * C::tile + t < p.rows) pair.row_partials[blockIdx.x * p.rows + rt * C::tile + t] = row_sum;
    }
}

template <class T>
struct ContrastiveGradientMmaConfig : KernelDefaults {
    static constexpr uint32_t threads = 256;
    static constexpr int bytes = int(sizeof(T)), stages = 3, columns = 128, warps_m = 2, warps_n = 4;
    static constexpr int rows = bytes == 2 ? 64 : 32, mi = rows / warps_m / 16, ni = columns / warps_n / 8;
    static constexpr int chunk = 128, chunks = 4, slice = chunk * chunks;  // columns of dx
    static constexpr int partners = bytes == 2 ? 64 : 32;                  // of a stage of the second product
    static constexpr int h_stride = columns * bytes + 16;
    // f32 fragments of the second product are read word by word: 8 words of padding spread them over all banks.
    static constexpr int straight_stride = chunk * bytes + (bytes == 2 ? 16 : 32);
    static constexpr int stage_bytes = (rows + columns) * kPieceStride;
    static_assert(partners * straight_stride <= stage_bytes, "both products share the stages");
    static constexpr uint32_t tile0 = rows, tile1 = slice;
    struct Shared {
        alignas(16) unsigned char stage[stages][stage_bytes];
        union {
            unsigned char h[rows * h_stride];
            float slopes[rows][4 * warps_n + 1];
        };
    };
    static_assert(sizeof(Shared) <= 99 * 1024, "fits every target");
};

// g += h[:, partners] times a stage of partners: a warp's MI x 16 rows by 32 columns of dx.
template <int MI, class C>
X2CT_DEVICE void multiply_partners(const unsigned char* h, const unsigned char* y, float (&g)[MI][4][4], bf16) {
    const int lane = int(threadIdx.x) % 32;
    X2CT_UNROLL
    for (int step = 0; step < C::partners / 16; ++step) {
        uint32_t left[MI][4];
        X2CT_UNROLL
        for (int i = 0; i < MI; ++i) ldmatrix_x4(left[i], h + (i * 16 + lane % 16) * C::h_stride + lane / 16 * 16 + step * 32);
        X2CT_UNROLL
        for (int j = 0; j < 4; j += 2) {
            uint32_t right[4];
            ldmatrix_x4_trans(right, y + (step * 16 + lane % 16) * C::straight_stride + (j * 8 + lane / 16 * 8) * 2);
            const uint32_t first[2] = {right[0], right[1]}, second[2] = {right[2], right[3]};
            X2CT_UNROLL
            for (int i = 0; i < MI; ++i) {
                mma_bf16(g[i][j], left[i], first);
                mma_bf16(g[i][j + 1], left[i], second);
            }
        }
    }
}
template <int MI, class C>
X2CT_DEVICE void multiply_partners(const unsigned char* h, const unsigned char* y, float (&g)[MI][4][4], float) {
    const int lane = int(threadIdx.x) % 32;
    X2CT_UNROLL
    for (int step = 0; step < C::partners / 8; ++step) {
        uint32_t left[MI][4];
        X2CT_UNROLL
        for (int i = 0; i < MI; ++i) {
            ldmatrix_x4(left[i], h + (i * 16 + lane % 16) * C::h_stride + lane / 16 * 16 + step * 32);
            round_fragment(left[i], float{});
        }
        X2CT_UNROLL
        for (int j = 0; j < 4; ++j) {
            const unsigned char* word = y + (step * 8 + lane % 4) * C::straight_stride + (j * 8 + lane / 4) * 4;
            uint32_t right[2] = {*reinterpret_cast<const uint32_t*>(word), *reinterpret_cast<const uint32_t*>(word + 4 * C::straight_stride)};
            round_fragment(right, float{});
            X2CT_UNROLL
            for (int i = 0; i < MI; ++i) mma_tf32(g[i][j], left[i], right);
        }
    }
}

// dx for a block of rows (blockIdx.x) and 512 columns of d (blockIdx.y): for every term and tile of 128 partners, the logits
// are recomputed, turned into their gradients h in shared memory (divided by the partners' norms), and multiplied with the
// partners. Both products take their operands from one ring of stages, so that the copies never pause between them.
template <class T>
X2CT_DEVICE void contrastive_gradient_mma(const ContrastiveGradientParams& params) {
    using C = ContrastiveGradientMmaConfig<T>;
    constexpr int depth = kPiece / C::bytes, MI = C::mi, NI = C::ni, parts = C::columns / C::partners;
    auto& s = shared_memory<typename C::Shared>();
    const ContrastiveProblem& p = params.problem;
    const T* x = static_cast<const T*>(params.x);
    const float scale = logit_scale(p);
    const int t = int(threadIdx.x), lane = t % 32, wm = t / 32 % C::warps_m, wn = t / 32 / C::warps_m;
    const int own_row = wm * MI * 16 + lane / 4, own_column = wn * NI * 8 + lane % 4 * 2;
    const uint64_t row0 = uint64_t(blockIdx.x) * C::rows, slice0 = uint64_t(blockIdx.y) * C::slice;
    const uint32_t pieces = uint32_t((p.d + depth - 1) / depth);
    const uint64_t left_of_d = p.d - slice0;
    const uint32_t chunks = !params.dx ? 0 : left_of_d >= uint64_t(C::slice) ? C::chunks : uint32_t((left_of_d + C::chunk - 1) / C::chunk);
    const uint32_t tiles = uint32_t((p.columns + C::columns - 1) / C::columns);
    const uint32_t items = pieces + chunks * parts;  // stages of one tile of partners

    // What to copy next: runs ahead of the arithmetic by stages - 1 items.
    uint32_t next_term = 0, next_item = 0, next_tile = 0, use = 0;
    auto load_next = [&](uint32_t fill) {
        if (next_term < params.term_count) {
            const uint64_t next_column = uint64_t(next_tile) * C::columns;
            const T* y = static_cast<const T*>(params.terms[next_term].partner);
            unsigned char* stage = s.stage[fill];
            if (next_item < pieces) {
                const uint64_t k0 = uint64_t(next_item) * depth;
                load_async<C::threads, C::rows, kPiece>(stage, kPieceStride, x, row0, k0, p.rows, p.d);
                load_async<C::threads, C::columns, kPiece>(stage + C::rows * kPieceStride, kPieceStride, y, next_column, k0, p.columns, p.d);
            } else {
                const uint32_t item = next_item - pieces;
                load_async<C::threads, C::partners, C::chunk * C::bytes>(stage, C::straight_stride, y, next_column + item % parts * C::partners,
                                                                        slice0 + item / parts * C::chunk, p.columns, p.d);
            }
            if (++next_item == items) {
                next_item = 0;
                if (++next_tile == tiles) {
                    next_tile = 0;
                    ++next_term;
                }
            }
        }
        cp_async_commit();
    };
    // The stage that is ready; refills the one that every warp has left.
    auto take = [&]() -> const unsigned char* {
        cp_async_wait<C::stages - 2>();
        __syncthreads();
        load_next(use == 0 ? C::stages - 1 : use - 1);
        const unsigned char* stage = s.stage[use];
        use = use + 1 == C::stages ? 0 : use + 1;
        return stage;
    };

    float g[C::chunks][MI][4][4] = {};
    float slope[2 * MI] = {};
    X2CT_UNROLL
    for (int stage = 0; stage < C::stages - 1; ++stage) load_next(stage);
    for (uint32_t q = 0; q < params.term_count; ++q) {
        const ContrastiveTerm& term = params.terms[q];
        for (uint32_t tile = 0; tile < tiles; ++tile) {
            const uint64_t column0 = uint64_t(tile) * C::columns;
            float c[MI][NI][4] = {};
            for (uint32_t piece = 0; piece < pieces; ++piece) {
                const unsigned char* stage = take();
                multiply_pieces<MI, NI, T>(stage + wm * MI * 16 * kPieceStride, stage + (C::rows + wn * NI * 8) * kPieceStride, c);
            }
            X2CT_UNROLL
            for (int j = 0; j < 2 * NI; j += 2) {
                const int local = own_column + j / 2 * 8;
                Softmax partner[2] = {};
                float column_inverse[2] = {};
                X2CT_UNROLL
                for (int k = 0; k < 2; ++k)
                    if (column0 + local + k < p.columns) {
                        partner[k] = term.partner_softmax[column0 + local + k];
                        column_inverse[k] = inverse_norm(term.partner_inverse_norms, column0 + local + k);
                    }
                X2CT_UNROLL
                for (int i = 0; i < 2 * MI; ++i) {
                    const uint64_t row = row0 + own_row + i * 8;
                    const bool inside = row < p.rows;
                    const Softmax own = inside ? term.own_softmax[row] : Softmax{};
                    const float row_inverse = inside ? inverse_norm(params.x_inverse_norms, row) : 0.0f;
                    Vec<T, 2> pair;
                    X2CT_UNROLL
                    for (int k = 0; k < 2; ++k) {
                        const uint64_t column = column0 + local + k;
                        const float similarity = row_inverse * (column_inverse[k] * c[i / 2][j / 2][i % 2 * 2 + k]);
                        float h = 0.0f;
                        if (inside && column < p.columns) {
                            if (row + p.offset == column)
                                h = term.weight * term.diagonal[row];
                            else if (mismatch(p, row, column))
                                h = term.weight * logit_gradient(p, scale, similarity, own, partner[k]);
                        }
                        slope[i] += h * similarity;
                        pair.v[k] = from_float<T>(h * column_inverse[k]);
                    }
                    store_vec(reinterpret_cast<T*>(s.h + (own_row + i * 8) * C::h_stride) + local, pair);
                }
            }
            X2CT_UNROLL
            for (int chunk = 0; chunk < C::chunks; ++chunk) {
                if (chunk >= int(chunks)) continue;
                for (int part = 0; part < parts; ++part) {
                    const unsigned char* stage = take();  // its barrier also completes h
                    multiply_partners<MI, C>(s.h + wm * MI * 16 * C::h_stride + part * C::partners * C::bytes, stage + wn * 32 * C::bytes, g[chunk], T{});
                }
            }
        }
    }
    cp_async_wait<0>();
    __syncthreads();
    X2CT_UNROLL
    for (int i = 0; i < 2 * MI; ++i) s.slopes[own_row + i * 8][wn * 4 + lane % 4] = slope[i];
    __syncthreads();
    const float factor = *params.upstream * params.factor;
    X2CT_UNROLL
    for (int i = 0; i < 2 * MI; ++i) {
        const uint64_t row = row0 + own_row + i * 8;
        if (row >= p.rows) continue;
        float along = 0.0f;
        for (int k = 0; k < 4 * C::warps_n; ++k) along += s.slopes[own_row + i * 8][k];
        if (params.slopes && blockIdx.y == 0 && wn == 0 && lane % 4 == 0) params.slopes[row] = along * factor;
        if (!params.dx) continue;
        const float inverse = inverse_norm(params.x_inverse_norms, row);
        X2CT_UNROLL
        for (int chunk = 0; chunk < C::chunks; ++chunk)
            X2CT_UNROLL
            for (int j = 0; j < 8; ++j) {
                const uint64_t k = slice0 + chunk * C::chunk + wn * 32 + j / 2 * 8 + lane % 4 * 2 + j % 2;
                if (k >= p.d) continue;
                const uint64_t at = row * p.d + k;
                const float free = scale * g[chunk][i / 2][j / 2][i % 2 * 2 + j % 2];
                const float value = params.x_inverse_norms ? unnormalise(free, scale * along, to_float(x[at]), inverse) : free;
                write_gradient(static_cast<T*>(params.dx) + at, factor * value, params.accumulate);
            }
    }
}
