// The tiled matrix product behind gemm.cu and conv2d.cu: a block computes a tile of C from tiles of A and B that travel
// through shared memory in a pipeline of asynchronous copies.
//
//   * An operand is a source: something that copies "the tile that starts at row r and depth k" into shared memory,
//     16 bytes at a time. Rows are those of A (m) or the columns of B (n); depth is k. A plain matrix is one source,
//     a convolution that gathers its operand from an image is another.
//   * A tile is stored as it lies in memory, along k or along the rows, never transposed by hand: ldmatrix transposes
//     for bf16, and the f32 paths read whichever direction is contiguous.
//   * Tiles are 64 bytes deep (32 bf16 or 16 f32), three stages deep in the pipeline, one barrier a step.
#pragma once

#include "common/async.h"
#include "common/common.h"
#include "common/mma.h"

// Every warp computes 64 x 32 of C; a block is WarpsM x WarpsN of them.
template <int WarpsN, int BlocksPerSm>
struct TileConfig : KernelDefaults {
    static constexpr int warps_m = 2, warps_n = WarpsN, stages = 3, depth_bytes = 64;
    static constexpr int block_m = 64 * warps_m, block_n = 32 * warps_n;
    static constexpr uint32_t threads = 32 * warps_m * warps_n;
    static constexpr uint32_t min_blocks = BlocksPerSm;
    static constexpr uint32_t tile0 = block_m, tile1 = block_n;  // of C a block
    static constexpr uint32_t tile2 = depth_bytes;               // of a tile; sums are split between tiles
    struct Shared {
        alignas(128) unsigned char a[stages][block_m * depth_bytes];
        alignas(128) unsigned char b[stages][block_n * depth_bytes];
    };
    static_assert(sizeof(Shared) <= 48 * 1024, "the shared memory every GPU grants without asking");
};
// 128 registers a thread for wide bf16 tiles; more for narrow ones, whose threads copy more, and for the f32 paths, whose
// fragments are larger.
using WideTile = TileConfig<4, 2>;    // 128 x 128, 256 threads
using NarrowTile = TileConfig<2, 3>;  // 128 x 64, 128 threads: for at most 64 columns
using Tf32Tile = TileConfig<4, 1>;    // 128 x 128, 256 threads
using FmaTile = TileConfig<2, 2>;     // 128 x 64, 128 threads

// Where the elements of a tile of `Rows` rows lie in shared memory. A line is what is contiguous: the depth of one row
// (AlongK) or all rows at one depth. Chunks of 16 bytes are permuted within a line so that neither ldmatrix nor the f32
// reads meet a bank twice.
template <class T, bool AlongK, int Rows>
struct TileLayout {
    static constexpr int width = 16 / int(sizeof(T));  // elements of a chunk
    static constexpr int depth = 64 / int(sizeof(T));
    static constexpr int chunks = AlongK ? 4 : Rows / width;  // of a line
    static constexpr int lines = AlongK ? Rows : depth;
    static_assert(AlongK || chunks >= 8, "the permutation spans eight chunks");

    static X2CT_DEVICE int chunk(int line, int chunk) {
        const int turn = AlongK ? line / 2 % 4 : sizeof(T) == 2 ? line % 8 : line % 4 * 2;
        return (line * chunks + (chunk ^ turn)) * width;
    }
    static X2CT_DEVICE int element(int row, int k) {
        return AlongK ? chunk(row, k / width) + k % width : chunk(k, row / width) + row % width;
    }
};

// Copies one chunk, of which the first `valid` elements exist; the rest is zero.
template <class T>
X2CT_DEVICE void copy_chunk(T* to, const T* from, uint32_t valid, bool aligned) {
    constexpr uint32_t width = 16 / sizeof(T);
    if (aligned) {
        cp_async16(to, from, valid * uint32_t(sizeof(T)));
    } else {
        X2CT_UNROLL
        for (uint32_t j = 0; j < width; ++j) to[j] = j < valid ? from[j] : T{};
    }
}

X2CT_DEVICE uint32_t remaining(uint64_t at, uint64_t end, uint32_t width) {
    return at >= end ? 0u : uint32_t(min(end - at, uint64_t(width)));
}

// Source: a matrix. Element (row, k) lies at base[row * stride + k] (AlongK) or base[k * stride + row].
template <class T, bool Along>
struct MatrixSource {
    static constexpr bool AlongK = Along;
    const T* base;
    uint64_t stride, rows, depth;
    bool aligned;  // base and stride are multiples of 16 bytes
    uint64_t row0, k0;

    template <int Rows, int Threads>
    X2CT_DEVICE void start(uint64_t row, uint64_t k) {
        row0 = row;
        k0 = k;
    }
    // Copies the next tile.
    template <int Rows, int Threads>
    X2CT_DEVICE void load(T* tile) {
        using L = TileLayout<T, AlongK, Rows>;
        X2CT_UNROLL
        for (int i = 0; i < L::lines * L::chunks / Threads; ++i) {
            const int index = i * Threads + int(threadIdx.x), line = index / L::chunks, chunk = index % L::chunks;
            const uint64_t row = row0 + (AlongK ? line : chunk * L::width), k = k0 + (AlongK ? chunk * L::width : line);
            const uint32_t valid = AlongK ? (row < rows ? remaining(k, depth, L::width) : 0)
                                          : (k < depth ? remaining(row, rows, L::width) : 0);
            copy_chunk(tile + L::chunk(line, chunk), base + (AlongK ? row * stride + k : k * stride + row), valid, aligned);
        }
        k0 += L::depth;
    }
};

// ---- arithmetic: one tile, one warp; accumulator (i, j) belongs to row(i) and column(j) of the warp's 64 x 32 ----

// bf16 on tensor cores.
template <bool AAlongK, bool BAlongK>
struct MmaBf16 {
    using T = bf16;
    float sum[4][4][4] = {};

    template <class C>
    X2CT_DEVICE void step(const T* a_tile, const T* b_tile, int m0, int n0) {
        using LA = TileLayout<T, AAlongK, C::block_m>;
        using LB = TileLayout<T, BAlongK, C::block_n>;
        const int lane = int(threadIdx.x % 32), low = lane % 8, middle = lane / 8 % 2, high = lane / 16;
        X2CT_UNROLL
        for (int k = 0; k < LA::depth; k += 16) {
            uint32_t a[4][4], b[2][4];
            X2CT_UNROLL
            for (int i = 0; i < 4; ++i) {
                if (AAlongK)
                    ldmatrix_x4(a[i], a_tile + LA::element(m0 + 16 * i + 8 * middle + low, k + 8 * high));
                else
                    ldmatrix_x4_trans(a[i], a_tile + LA::element(m0 + 16 * i + 8 * middle, k + 8 * high + low));
            }
            X2CT_UNROLL
            for (int j = 0; j < 2; ++j) {
                if (BAlongK)
                    ldmatrix_x4(b[j], b_tile + LB::element(n0 + 16 * j + 8 * high + low, k + 8 * middle));
                else
                    ldmatrix_x4_trans(b[j], b_tile + LB::element(n0 + 16 * j + 8 * high, k + 8 * middle + low));
            }
            X2CT_UNROLL
            for (int i = 0; i < 4; ++i)
                X2CT_UNROLL
                for (int j = 0; j < 4; ++j) {
                    const uint32_t pair[2] = {b[j / 2][j % 2 * 2], b[j / 2][j % 2 * 2 + 1]};
                    mma_bf16(sum[i][j], a[i], pair);
                }
        }
    }
    // Calls f(row, column, value, value of the next column).
    template <class F>
    X2CT_DEVICE void each(F f) const {
        const int lane = int(threadIdx.x % 32);
        X2CT_UNROLL
        for (int i = 0; i < 4; ++i)
            X2CT_UNROLL
            for (int half = 0; half < 2; ++half)
                X2CT_UNROLL
                for (int j = 0; j < 4; ++j)
                    f(16 * i + 8 * half + lane / 4, 8 * j + lane % 4 * 2, sum[i][j][2 * half], sum[i][j][2 * half + 1]);
    }
};

// f32 rounded to TF32 on tensor cores.
template <bool AAlongK, bool BAlongK>
struct MmaTf32 {
    using T = float;
    float sum[4][4][4] = {};

    template <class C>
    X2CT_DEVICE void step(const T* a_tile, const T* b_tile, int m0, int n0) {
        using LA = TileLayout<T, AAlongK, C::block_m>;
        using LB = TileLayout<T, BAlongK, C::block_n>;
        const int lane = int(threadIdx.x % 32), row = lane / 4, column = lane % 4;
        X2CT_UNROLL
        for (int k = 0; k < LA::depth; k += 8) {
            uint32_t b[4][2];
            X2CT_UNROLL
            for (int j = 0; j < 4; ++j)
                X2CT_UNROLL
                for (int part = 0; part < 2; ++part)
                    b[j][part] = round_tf32(b_tile[LB::element(n0 + 8 * j + row, k + part * 4 + column)]);
            X2CT_UNROLL
            for (int i = 0; i < 4; ++i) {
                uint32_t a[4];
                X2CT_UNROLL
                for (int part = 0; part < 4; ++part)
                    a[part] = round_tf32(a_tile[LA::element(m0 + 16 * i + part % 2 * 8 + row, k + part / 2 * 4 + column)]);
                X2CT_UNROLL
                for (int j = 0; j < 4; ++j) mma_tf32(sum[i][j], a, b[j]);
            }
        }
    }
    template <class F>
    X2CT_DEVICE void each(F f) const {
        const int lane = int(threadIdx.x % 32);
        X2CT_UNROLL
        for (int i = 0; i < 4; ++i)
            X2CT_UNROLL
            for (int half = 0; half < 2; ++half)
                X2CT_UNROLL
                for (int j = 0; j < 4; ++j)
                    f(16 * i + 8 * half + lane / 4, 8 * j + lane % 4 * 2, sum[i][j][2 * half], sum[i][j][2 * half + 1]);
    }
};

// Full f32: a thread owns 8 x 8 of the warp's 64 x 32. Its rows lie so that the lanes of a warp read whole lines of
// shared memory: next to each other, four at a time, where the tile lies along the rows, and `Lanes` apart where it lies
// along k.
template <bool AlongK, int Lanes>
struct FmaRows {
    static X2CT_DEVICE int row(int lane, int i) { return AlongK ? lane + Lanes * i : 4 * lane + i % 4 + 4 * Lanes * (i / 4); }

    // fragment[k][i] = element (row(i), k0 + k) for four k.
    template <class L>
    static X2CT_DEVICE void read(float (&fragment)[4][8], const float* tile, int first, int lane, int k0) {
        if (AlongK) {
            X2CT_UNROLL
            for (int i = 0; i < 8; ++i) {
                float line[4];
                load_float(tile + L::element(first + row(lane, i), k0), line);
                X2CT_UNROLL
                for (int k = 0; k < 4; ++k) fragment[k][i] = line[k];
            }
        } else {
            X2CT_UNROLL
            for (int k = 0; k < 4; ++k)
                X2CT_UNROLL
                for (int i = 0; i < 8; i += 4) {
                    float line[4];
                    load_float(tile + L::element(first + row(lane, i), k0 + k), line);
                    X2CT_UNROLL
                    for (int j = 0; j < 4; ++j) fragment[k][i + j] = line[j];
                }
        }
    }
};

template <bool AAlongK, bool BAlongK>
struct FmaF32 {
    using T = float;
    float sum[8][8] = {};

    template <class C>
    X2CT_DEVICE void step(const T* a_tile, const T* b_tile, int m0, int n0) {
        const int lane = int(threadIdx.x % 32);
        X2CT_UNROLL
        for (int k = 0; k < 16; k += 4) {
            float a[4][8], b[4][8];
            FmaRows<AAlongK, 8>::template read<TileLayout<T, AAlongK, C::block_m>>(a, a_tile, m0, lane / 4, k);
            FmaRows<BAlongK, 4>::template read<TileLayout<T, BAlongK, C::block_n>>(b, b_tile, n0, lane % 4, k);
            X2CT_UNROLL
            for (int l = 0; l < 4; ++l)
                X2CT_UNROLL
                for (int i = 0; i < 8; ++i)
                    X2CT_UNROLL
                    for (int j = 0; j < 8; ++j) sum[i][j] += a[l][i] * b[l][j];
        }
    }
    template <class F>
    X2CT_DEVICE void each(F f) const {
        const int lane = int(threadIdx.x % 32);
        X2CT_UNROLL
        for (int i = 0; i < 8; ++i)
            X2CT_UNROLL
            for (int j = 0; j < 8; ++j)
                f(FmaRows<AAlongK, 8>::row(lane / 4, i), FmaRows<BAlongK, 4>::row(lane % 4, j), sum[i][j]);
    }
};

// Where a tile of C goes: C itself, or, where the sum is split, this part's own f32 matrix, to be added up afterwards.
template <class T>
struct TileOutput {
    void* c;
    const void* bias;  // or null
    float* partials;   // [splits, m, n], or null
    uint64_t m, n;
    float alpha;
    uint32_t accumulate;
    uint32_t wide;     // 1: C and bias are f32 although the operands are bf16
    bool transposed;   // C and its parts are stored [n, m]

    X2CT_DEVICE uint64_t place(uint64_t row, uint64_t column) const { return transposed ? column * m + row : row * n + column; }

    template <class Out>
    X2CT_DEVICE void put(uint64_t row, uint64_t column, float value) const {
        value *= alpha;
        if (bias) value += to_float(static_cast<const Out*>(bias)[column]);
        write_gradient(static_cast<Out*>(c) + place(row, column), value, accumulate);
    }
    X2CT_DEVICE void operator()(uint64_t row, uint64_t column, float value) const {
        if (row >= m || column >= n) return;
        if (partials)
            partials[blockIdx.z * m * n + place(row, column)] = value;
        else if (sizeof(T) == 2 && wide)
            put<float>(row, column, value);
        else
            put<T>(row, column, value);
    }
    X2CT_DEVICE void operator()(uint64_t row, uint64_t column, float first, float second) const {
        // Both at once where that is one aligned access; tensor-core fragments come in such pairs.
        if (row < m && n % 2 == 0 && column < n && !transposed && !partials && !wide && !bias && !accumulate) {
            store_float(static_cast<T*>(c) + row * n + column, {first * alpha, second * alpha});
        } else {
            (*this)(row, column, first);
            (*this)(row, column + 1, second);
        }
    }
};

// The tile of this block. Blocks next to each other in time share rows of A and columns of B: groups of eight tiles of
// rows are walked column by column, so that both stay in the L2 cache.
template <class C>
X2CT_DEVICE void tile_origin(uint64_t m, uint64_t n, uint64_t& row, uint64_t& column) {
    const uint32_t down = uint32_t((m + C::block_m - 1) / C::block_m), across = uint32_t((n + C::block_n - 1) / C::block_n);
    const uint32_t group = blockIdx.x / (8 * across), inside = blockIdx.x % (8 * across);
    const uint32_t tall = min(8u, down - 8 * group);
    row = uint64_t(8 * group + inside % tall) * C::block_m;
    column = uint64_t(inside / tall) * C::block_n;
}

// One tile of C over the depths [k_begin, k_end) of this block's split; k_begin is a multiple of the tile's depth.
template <class C, class Math, class A, class B>
X2CT_DEVICE void tile_product(A a, B b, const TileOutput<typename Math::T>& out, uint64_t k_begin, uint64_t k_end) {
    using T = typename Math::T;
    constexpr uint32_t depth = C::depth_bytes / sizeof(T);
    auto& s = shared_memory<typename C::Shared>();
    uint64_t row, column;
    tile_origin<C>(out.m, out.n, row, column);
    a.template start<C::block_m, C::threads>(row, k_begin);
    b.template start<C::block_n, C::threads>(column, k_begin);
    const uint32_t tiles = k_end > k_begin ? uint32_t((k_end - k_begin + depth - 1) / depth) : 0;
    const auto load = [&](uint32_t tile) {
        if (tile < tiles) {
            a.template load<C::block_m, C::threads>(reinterpret_cast<T*>(s.a[tile % C::stages]));
            b.template load<C::block_n, C::threads>(reinterpret_cast<T*>(s.b[tile % C::stages]));
        }
        cp_async_commit();  // also when empty: the wait below counts groups
    };
    X2CT_UNROLL
    for (uint32_t tile = 0; tile < C::stages - 1; ++tile) load(tile);
    const int warp = int(threadIdx.x / 32), m0 = warp / C::warps_n * 64, n0 = warp % C::warps_n * 32;
    Math math;
    for (uint32_t tile = 0; tile < tiles; ++tile) {
        cp_async_wait<C::stages - 2>();
        // Everybody's part of this tile has arrived, and nobody still reads the tile before, whose place is filled next.
        __syncthreads();
        load(tile + C::stages - 1);
        math.template step<C>(reinterpret_cast<const T*>(s.a[tile % C::stages]),
                              reinterpret_cast<const T*>(s.b[tile % C::stages]), m0, n0);
    }
    const uint64_t top = row + m0, left = column + n0;
    math.each([&](int i, int j, auto... values) { out(top + i, left + j, values...); });
}
