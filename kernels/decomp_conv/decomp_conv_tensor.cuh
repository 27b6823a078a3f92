// Variant 3 of the depthwise convolution: stride 1, at most 15 taps, bf16, on tensor cores. Included by decomp_conv.cu; the sums of
// the backward pass are in decomp_conv_tensor_backward.cuh, its dx is that of decomp_conv_depthwise_backward.cuh.
//
// Idea: 16 outputs of a line depend on 16 + k - 1 <= 30 inputs, so they are a product of the banded (Toeplitz) matrix
// W [16, 32], W[i, j] = w[j - 8 - i + k/2], with the 32 inputs from 8 before the first output on, and eight lines make it a matrix
// product, two mma.m16n8k16 for 128 outputs. Twice as many multiply-adds as needed, on units with 16 times the rate.
//
//   axis 1  z[d1, d3] = W x[planes, d3] for one d2: eight columns of a row are eight lines, ldmatrix transposes them
//   axis 2  z[d2, d3] = W x[rows, d3] for one d1: the same
//   axis 3  z[d2, d3] = x[d2, columns] W^T for one d1: rows are lines, so that the result lies in the registers as that of axis 2
//
// A block walks rows x columns of one sample and channel along axis 1 in steps of 16 planes. A ring in shared memory holds the 32
// planes that a step needs, of which the next step reads 16 again: nothing is loaded twice along axis 1. What axes 2 and 3 need
// around the step's planes lies beside it. Axis 1 passes its sums to the others through shared memory.
//
// Weights are rounded to bf16, as mixed precision in a framework does, and the whole variant, its backward passes included, uses
// the rounded ones (`round_weights`): statistics, outputs and gradients belong to one function. A value that is not finite
// reaches up to 23 voxels along its lines instead of k/2, since zero weights are multiplied too.

#include "common/async.h"
#include "common/mma.h"

struct TensorConfig : KernelDefaults {
    static constexpr uint32_t threads = 256;
    static constexpr uint32_t min_blocks = 2;
    static constexpr uint32_t depth = 16, rows = 16, columns = 32;  // outputs of a step
    static constexpr uint32_t tile0 = depth, tile1 = rows, tile2 = columns;
    static constexpr uint32_t border = 8;                    // inputs before the first output and after the last one
    static constexpr uint32_t planes = depth + 2 * border;   // of the ring
    static constexpr uint32_t pitch = columns + 8;           // of a row: eight rows of 16 bytes lie in different banks
    static constexpr uint32_t plane = rows * pitch + 8;      // and so do those of eight planes
    static_assert((planes & (planes - 1)) == 0, "a place in the ring is a mask");
    struct Tile {
        alignas(16) bf16 ring[planes * plane];
        alignas(16) bf16 around[depth][2 * border][pitch];   // rows before and after those of the ring
        alignas(16) bf16 beside[depth][2][rows][border];     // columns before and after
    };
};
constexpr int kWarps = int(TensorConfig::threads) / 32;
constexpr int kBorder = int(TensorConfig::border);

// W[i, j] and W[i, j + 1] in bf16.
X2CT_DEVICE uint32_t toeplitz_pair(const float* w, int kernel, int i, int j) {
    const int t = j - kBorder - i + kernel / 2;
    const uint32_t low = t >= 0 && t < kernel ? to_bf16(w[t]).bits : 0u;
    const uint32_t high = t + 1 >= 0 && t + 1 < kernel ? to_bf16(w[t + 1]).bits : 0u;
    return low | high << 16;
}
// W of axis a as this lane holds it for a product from the left: halves of the 32 inputs.
X2CT_DEVICE void load_toeplitz_left(const DecompConvParams& p, uint32_t a, uint32_t (&w)[2][4]) {
    const int group = int(threadIdx.x % 32 / 4), pair = int(threadIdx.x % 4) * 2;
    const float* weights = p.w[a] + uint64_t(channel(p)) * p.kernel;
    X2CT_UNROLL
    for (int half = 0; half < 2; ++half) {
        X2CT_UNROLL
        for (int i = 0; i < 4; ++i) w[half][i] = toeplitz_pair(weights, int(p.kernel), group + i % 2 * 8, half * 16 + i / 2 * 8 + pair);
    }
}
// The three W of this block's channel.
struct ToeplitzWeights {
    uint32_t left[2][2][4];   // of axes 1 and 2
    uint32_t right[2][2][2];  // of axis 3, transposed: halves of the 32 inputs, halves of the 16 outputs
};
X2CT_DEVICE void load_toeplitz(const DecompConvParams& p, ToeplitzWeights& weights) {
    load_toeplitz_left(p, 0, weights.left[0]);
    load_toeplitz_left(p, 1, weights.left[1]);
    const int group = int(threadIdx.x % 32 / 4), pair = int(threadIdx.x % 4) * 2;
    const float* w = p.w[2] + uint64_t(channel(p)) * p.kernel;
    X2CT_UNROLL
    for (int half = 0; half < 2; ++half) {
        X2CT_UNROLL
        for (int out = 0; out < 2; ++out) {
            X2CT_UNROLL
            for (int i = 0; i < 2; ++i)
                weights.right[half][out][i] = toeplitz_pair(w, int(p.kernel), out * 8 + group, half * 16 + i * 8 + pair);
        }
    }
}

// The walk of a block: blockIdx.x counts (sample, tile of rows, tile of columns).
struct TensorWalk {
    uint64_t volume;  // element of y (and x) where the sample's channel starts
    int row, column;  // first of the tile
};
X2CT_DEVICE TensorWalk tensor_walk(const DecompConvParams& p) {
    uint32_t index = blockIdx.x;
    TensorWalk walk;
    walk.column = int(index % p.tiles[3] * TensorConfig::columns);
    index /= p.tiles[3];
    walk.row = int(index % p.tiles[2] * TensorConfig::rows);
    walk.volume = (uint64_t(index / p.tiles[2]) * p.out_channels + channel(p)) * out_voxels(p);
    return walk;
}

// Copies eight voxels of a row of x to shared memory; zeros where x ends.
X2CT_DEVICE void copy_voxels(const DecompConvParams& p, const bf16* volume, int d1, int d2, int d3, bf16* out) {
    const int size = int(p.in_size[2]);
    const bool inside = d1 >= 0 && d1 < int(p.in_size[0]) && d2 >= 0 && d2 < int(p.in_size[1]);
    const bf16* row = inside ? volume + (int64_t(d1) * p.in_size[1] + d2) * size : volume;
    if (p.vector) {
        const bool exists = inside && d3 >= 0 && d3 < size;
        cp_async16(out, exists ? row + d3 : volume, exists ? 16 : 0);
    } else {
        Vec<bf16, 8> voxels;
        X2CT_UNROLL
        for (int i = 0; i < 8; ++i) voxels.v[i] = inside && d3 + i >= 0 && d3 + i < size ? row[d3 + i] : bf16{0};
        store_vec<8>(out, voxels);
    }
}
X2CT_DEVICE bf16* ring_row(TensorConfig::Tile& tile, int d1, int row) {
    return tile.ring + (uint32_t(d1 + kBorder) & (TensorConfig::planes - 1)) * TensorConfig::plane + uint32_t(row) * TensorConfig::pitch;
}
// Everything that the step from plane d1 on needs. The step before it has been left by all threads.
template <class C>
X2CT_DEVICE void load_step(const DecompConvParams& p, const TensorWalk& walk, int d1, TensorConfig::Tile& tile) {
    const bf16* volume = static_cast<const bf16*>(p.x) + walk.volume;
    constexpr uint32_t words = C::columns / 8;
    const int first = d1 == 0 ? -kBorder : d1 + kBorder;
    const uint32_t planes = d1 == 0 ? C::planes : C::depth;
    for (uint32_t i = threadIdx.x; i < planes * C::rows * words; i += C::threads) {
        const int word = int(i % words), row = int(i / words % C::rows), plane = first + int(i / words / C::rows);
        copy_voxels(p, volume, plane, walk.row + row, walk.column + 8 * word, ring_row(tile, plane, row) + 8 * word);
    }
    for (uint32_t i = threadIdx.x; i < C::depth * 2 * C::border * words; i += C::threads) {
        const int word = int(i % words), row = int(i / words % (2 * C::border)), plane = int(i / words / (2 * C::border));
        const int d2 = walk.row + (row < kBorder ? row - kBorder : row - kBorder + int(C::rows));
        copy_voxels(p, volume, d1 + plane, d2, walk.column + 8 * word, tile.around[plane][row] + 8 * word);
    }
    for (uint32_t i = threadIdx.x; i < C::depth * 2 * C::rows; i += C::threads) {
        const int row = int(i % C::rows), side = int(i / C::rows % 2), plane = int(i / C::rows / 2);
        copy_voxels(p, volume, d1 + plane, walk.row + row, walk.column + (side ? int(C::columns) : -kBorder), tile.beside[plane][side][row]);
    }
    cp_async_commit();
    cp_async_wait<0>();
    __syncthreads();
}

// z of axis 1 for planes d1 to d1 + 15 and eight columns from 8 word on, of one row.
X2CT_DEVICE void tensor_axis1(TensorConfig::Tile& tile, const ToeplitzWeights& w, int d1, int row, int word, float (&z)[4]) {
    uint32_t x[4];
    ldmatrix_x4_trans(x, ring_row(tile, d1 - kBorder + int(threadIdx.x % 32), row) + 8 * word);
    const uint32_t low[2] = {x[0], x[1]}, high[2] = {x[2], x[3]};
    mma_bf16(z, w.left[0][0], low);
    mma_bf16(z, w.left[0][1], high);
}
// z of axes 2 and 3 for the rows of plane d1 + plane and 16 columns from 16 part on.
X2CT_DEVICE void tensor_axes23(TensorConfig::Tile& tile, const ToeplitzWeights& w, int d1, int plane, int part, float (&z2)[2][4], float (&z3)[2][4]) {
    const int lane = int(threadIdx.x % 32);
    bf16* rows = ring_row(tile, d1 + plane, 0);
    // Lane j holds the address of row j - 8: before the tile, in it, after it.
    bf16* row = lane < kBorder            ? tile.around[plane][lane]
                : lane < 32 - kBorder ? rows + uint32_t(lane - kBorder) * TensorConfig::pitch
                                          : tile.around[plane][lane - int(TensorConfig::rows)];
    X2CT_UNROLL
    for (int out = 0; out < 2; ++out) {
        uint32_t x[4];
        ldmatrix_x4_trans(x, row + 8 * (2 * part + out));
        const uint32_t low[2] = {x[0], x[1]}, high[2] = {x[2], x[3]};
        mma_bf16(z2[out], w.left[1][0], low);
        mma_bf16(z2[out], w.left[1][1], high);
    }
    const int line = lane % 16;  // matrices 0 and 1: lines 0 to 7 and 8 to 15; 2 and 3: the same of the next eight columns
    X2CT_UNROLL
    for (int half = 0; half < 2; ++half) {
        const int word = 2 * part - 1 + 2 * half + lane / 16;
        bf16* at = word < 0                                ? tile.beside[plane][0][line]
                   : word < int(TensorConfig::columns) / 8 ? rows + uint32_t(line) * TensorConfig::pitch + 8 * word
                                                           : tile.beside[plane][1][line];
        uint32_t x[4];
        ldmatrix_x4(x, at);
        X2CT_UNROLL
        for (int out = 0; out < 2; ++out) mma_bf16(z3[out], x, w.right[half][out]);
    }
}

// --- Statistics -----------------------------------------------------------------------------------------------------------

struct TensorMomentsConfig : TensorConfig {
    struct Shared {
        Tile tile;
        ThreadSums<6, threads> sums;
        float pivot[3];
    };
};

// partial[block] of this block's channel.
X2CT_DEVICE void tensor_moments(const DecompConvParams& p) {
    using C = TensorConfig;
    auto& s = shared_memory<TensorMomentsConfig::Shared>();
    if (threadIdx.x < 3) s.pivot[threadIdx.x] = depthwise_pivot<bf16>(p, threadIdx.x);
    ToeplitzWeights w;
    load_toeplitz(p, w);
    const TensorWalk walk = tensor_walk(p);
    const int warp = int(threadIdx.x / 32), group = int(threadIdx.x % 32 / 4), pair = int(threadIdx.x % 4) * 2;
    const int size1 = int(p.in_size[0]), rows = min(int(p.in_size[1]) - walk.row, int(C::rows));
    const int columns = min(int(p.in_size[2]) - walk.column, int(C::columns));
    float sums[6] = {};
    for (int d1 = 0; d1 < size1; d1 += int(C::depth)) {
        if (d1 > 0) __syncthreads();  // the step before reads the tile
        load_step<C>(p, walk, d1, s.tile);
        const int planes = min(size1 - d1, int(C::depth));
        // z - pivot: of lines i and i + 8 of the fragment's 16, columns j and j + 1.
        auto add = [&](int a, const float (&z)[4], int lines, int first) {
            X2CT_UNROLL
            for (int i = 0; i < 4; ++i) {
                const bool exists = group + i / 2 * 8 < lines && first + pair + i % 2 < columns;
                const float d = exists ? z[i] : 0.0f;
                sums[2 * a] += d;
                sums[2 * a + 1] += d * d;
            }
        };
        for (int row = warp; row < rows; row += kWarps) {
            for (int word = 0; 8 * word < columns; ++word) {
                float z[4] = {-s.pivot[0], -s.pivot[0], -s.pivot[0], -s.pivot[0]};
                tensor_axis1(s.tile, w, d1, row, word, z);
                add(0, z, planes, 8 * word);
            }
        }
        for (int plane = warp; plane < planes; plane += kWarps) {
            for (int part = 0; 16 * part < columns; ++part) {
                float z2[2][4], z3[2][4];
                X2CT_UNROLL
                for (int i = 0; i < 4; ++i) {
                    z2[0][i] = z2[1][i] = -s.pivot[1];
                    z3[0][i] = z3[1][i] = -s.pivot[2];
                }
                tensor_axes23(s.tile, w, d1, plane, part, z2, z3);
                X2CT_UNROLL
                for (int out = 0; out < 2; ++out) {
                    add(1, z2[out], rows, 16 * part + 8 * out);
                    add(2, z3[out], rows, 16 * part + 8 * out);
                }
            }
        }
    }
    double* out = p.partial + (uint64_t(blockIdx.x) * p.out_channels + channel(p)) * kMomentValues;
    add_threads(s.sums, sums, [&](int v) { return out + v; });
    if (threadIdx.x < 3) out[6 + threadIdx.x] = double(s.pivot[threadIdx.x]);
}

// --- Writing --------------------------------------------------------------------------------------------------------------

struct TensorWriteConfig : TensorConfig {
    static constexpr uint32_t line = 8;                         // columns of a product
    static constexpr uint32_t depth_pitch = 2 * rows * line + 8;  // of a plane: eight planes lie in different banks
    struct Shared {
        Tile tile;
        float axis1[depth * depth_pitch];  // scaled z of axis 1 for 16 columns
    };
};

// As depthwise_write.
X2CT_DEVICE void tensor_write(const DecompConvParams& p) {
    using C = TensorWriteConfig;
    auto& s = shared_memory<C::Shared>();
    ToeplitzWeights w;
    load_toeplitz(p, w);
    const TensorWalk walk = tensor_walk(p);
    const int warp = int(threadIdx.x / 32), group = int(threadIdx.x % 32 / 4), pair = int(threadIdx.x % 4) * 2;
    const int size1 = int(p.in_size[0]), size2 = int(p.in_size[1]), size3 = int(p.in_size[2]);
    const int rows = min(size2 - walk.row, int(C::rows)), columns = min(size3 - walk.column, int(C::columns));
    const float scale1 = p.scale[channel(p)], scale2 = p.scale[p.out_channels + channel(p)];
    const float scale3 = p.scale[2 * uint64_t(p.out_channels) + channel(p)], shift = p.shift[channel(p)];
    const bf16* g = static_cast<const bf16*>(p.g) + walk.volume;
    bf16* y = static_cast<bf16*>(p.y) + walk.volume;
    for (int d1 = 0; d1 < size1; d1 += int(C::depth)) {
        load_step<C>(p, walk, d1, s.tile);
        const int planes = min(size1 - d1, int(C::depth));
        for (int part = 0; 16 * part < columns; ++part) {
            for (int i = warp; i < 2 * rows; i += kWarps) {
                const int row = i / 2, out = i % 2;
                float z[4] = {};
                tensor_axis1(s.tile, w, d1, row, 2 * part + out, z);
                float* at = s.axis1 + uint32_t(group) * C::depth_pitch + uint32_t((out * int(C::rows) + row) * 8 + pair);
                const float low[2] = {scale1 * z[0], scale1 * z[1]}, high[2] = {scale1 * z[2], scale1 * z[3]};
                store_float(at, low);
                store_float(at + 8 * C::depth_pitch, high);
            }
            __syncthreads();
            for (int plane = warp; plane < planes; plane += kWarps) {
                float z2[2][4] = {}, z3[2][4] = {};
                tensor_axes23(s.tile, w, d1, plane, part, z2, z3);
                X2CT_UNROLL
                for (int i = 0; i < 4; ++i) {
                    const int out = i / 2, half = i % 2, row = group + 8 * half, column = 16 * part + 8 * out + pair;
                    if (row >= rows || column >= columns) continue;
                    float v[2];
                    load_float(s.axis1 + uint32_t(plane) * C::depth_pitch + uint32_t((out * int(C::rows) + row) * 8 + pair), v);
                    const uint64_t at = (uint64_t(d1 + plane) * size2 + walk.row + row) * size3 + walk.column + column;
                    X2CT_UNROLL
                    for (int j = 0; j < 2; ++j) {
                        v[j] += shift + scale2 * z2[out][2 * half + j] + scale3 * z3[out][2 * half + j];
                        if (!p.slope) v[j] = activation(v[j], p.gelu);
                        else if (column + j < columns) v[j] = to_float(g[at + j]) * activation_slope(v[j]);
                    }
                    if (p.vector) {
                        store_float(y + at, v);
                    } else {
                        y[at] = to_bf16(v[0]);
                        if (column + 1 < columns) y[at + 1] = to_bf16(v[1]);
                    }
                }
            }
            __syncthreads();  // the next columns overwrite the sums of axis 1, the next step the tile
        }
    }
}

/// Depthwise on tensor cores: sums of the branches.
X2CT_KERNEL(decomp_conv_tensor_moments_bf16, DecompConvParams, TensorMomentsConfig, tensor_moments)
/// Depthwise on tensor cores: y.
X2CT_KERNEL(decomp_conv_tensor_write_bf16, DecompConvParams, TensorWriteConfig, tensor_write)
