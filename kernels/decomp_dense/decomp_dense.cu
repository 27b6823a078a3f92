// The dense decomposed 3-D convolution, by matrix products over chunks (formulas, names and layouts as in decomp_conv.cu):
//
//   z_a = sum over taps t and input channels i of w_a[o,i,t] x[i, s e + t - P along axis a]
//
// and everything around it without a stored branch. Three windows along the axes of one voxel make a cross of 3k - 2 taps, so
// that scaled branches add up to one convolution: y = act(sum over the cross of W x + shift), W = sum over a of scale_a w_a.
//
//   chunk    some whole planes (n, e1) of y, V voxels, of which everything below fits the caches
//   columns  [(3k-1) I, V] of the cross, tap by tap; the centre is there twice, so that the k taps of each axis are k I
//            consecutive rows: those before the centre and the centre; the centre and the second axis; the third and the centre
//   pass 1   z = W_a columns (three products); sums of z, pivoted      then finish, in decomp_conv.cu
//   pass 2   y = act(W columns + shift) (one product over 3k - 2 taps)
//   backward pass 1: z again; sums of g and g (z - mean). pass 2: z again, dz = alpha g + beta (z - mean) + delta, dw_a += dz
//            columns^T, and columns' = w_a^T dz, gathered into dx; a plane of x is complete one chunk late, from two chunks' columns'.
//            The gradient under a GELU is formed from z wherever g is read.
//
// Bytes, A = those of x, B = those of y: forward 2 A + B in training (else A + B), backward 2 (A + B) + A for dx: what is in
// between stays in the L2 cache. z is f32; columns, weights and dz are as x. src/kernels/decomp_dense/traffic.rs
// counts every pass.
//
// Variants: 1. naive (decomp_conv_naive.cuh). 2. chunks, as above. 3. direct (decomp_dense_mma.cuh: bf16, k = 3, stride 1, at
//           most 64 input channels; decomp_dense_stem.cuh: one input channel, k = 7): both forward passes without columns, z in
//           registers; backward by chunks.
// Test: cargo test --release ops::decomp_conv     Time: x2ct bench decomp_dense
#include "common/common.h"
#include "common/reduce.h"
#include "decomp_conv/decomp_conv_common.cuh"
#include "tiles/gemm_tile.cuh"
#include "params.h"

X2CT_DEVICE uint64_t in_voxels(const DecompDenseParams& p) { return uint64_t(p.in_size[0]) * p.in_size[1] * p.in_size[2]; }
X2CT_DEVICE uint64_t plane_voxels(const DecompDenseParams& p) { return uint64_t(p.out_size[1]) * p.out_size[2]; }
X2CT_DEVICE uint64_t chunk_voxels(const DecompDenseParams& p) { return p.planes * plane_voxels(p); }

// ---- the cross ----

struct CrossTap {
    uint32_t axis;
    int32_t offset;  // along it
};
// What is off the centre, in order: 0 .. k-2 without P.
X2CT_DEVICE uint32_t off_centre(uint32_t j, uint32_t k) { return j < k / 2 ? j : j + 1; }
// The tap of a row of the columns: first axis without its centre, centre, second axis, third axis, centre.
X2CT_DEVICE CrossTap cross_tap(uint32_t row, uint32_t k) {
    if (row == k - 1 || row == 3 * k - 2) return {0, 0};
    const uint32_t axis = row < k - 1 ? 0 : row < 2 * k - 1 ? 1 : 2;
    const uint32_t first = axis == 0 ? 0 : axis == 1 ? k : 2 * k - 1;
    return {axis, int32_t(off_centre(row - first, k)) - int32_t(k / 2)};
}
// Tap of w_a at place j of the k that axis a has in the columns, which begin at k - 1 (second axis) or 2 k - 1 (third).
X2CT_DEVICE uint32_t branch_tap(uint32_t axis, uint32_t j, uint32_t k) {
    const uint32_t centre = axis == 1 ? 0 : k - 1;
    return j == centre ? k / 2 : off_centre(axis == 1 ? j - 1 : j, k);
}

struct DenseConfig : KernelDefaults {
    static constexpr uint32_t tile0 = threads;
};
X2CT_DEVICE uint64_t dense_index() { return uint64_t(blockIdx.x) * DenseConfig::threads + threadIdx.x; }

// One thread a weight, of the branches.
template <class T>
X2CT_DEVICE void dense_matrices(const DecompDenseParams& p) {
    const uint64_t depth = uint64_t(p.kernel) * p.in_channels, index = dense_index();
    if (index >= 3 * p.out_channels * depth) return;
    const uint32_t i = uint32_t(index % p.in_channels), j = uint32_t(index % depth / p.in_channels);
    const uint32_t o = uint32_t(index / depth % p.out_channels), a = uint32_t(index / depth / p.out_channels);
    static_cast<T*>(p.matrices)[index] = from_float<T>(p.w[a][(uint64_t(o) * p.in_channels + i) * p.kernel + branch_tap(a, j, p.kernel)]);
}

// One thread a weight, of the cross.
template <class T>
X2CT_DEVICE void dense_fold(const DecompDenseParams& p) {
    const uint32_t taps = 3 * p.kernel - 2;
    const uint64_t depth = uint64_t(taps) * p.in_channels, index = dense_index();
    if (index >= p.out_channels * depth) return;
    const uint32_t i = uint32_t(index % p.in_channels), o = uint32_t(index / depth);
    const CrossTap tap = cross_tap(uint32_t(index % depth / p.in_channels), p.kernel);
    float sum = 0.0f;
    for (uint32_t a = 0; a < 3; ++a)
        if (a == tap.axis || tap.offset == 0)
            sum += p.scale[uint64_t(a) * p.out_channels + o] *
                   p.w[a][(uint64_t(o) * p.in_channels + i) * p.kernel + uint32_t(int32_t(p.kernel / 2) + tap.offset)];
    static_cast<T*>(p.folded)[index] = from_float<T>(sum);
}

// One thread a weight: dw from the order of the columns.
X2CT_DEVICE void dense_weight_gradient(const DecompDenseParams& p) {
    const uint64_t depth = uint64_t(p.kernel) * p.in_channels, index = dense_index();
    if (index >= 3 * p.out_channels * depth) return;
    const uint32_t i = uint32_t(index % p.in_channels), j = uint32_t(index % depth / p.in_channels);
    const uint32_t o = uint32_t(index / depth % p.out_channels), a = uint32_t(index / depth / p.out_channels);
    if (!p.dw[a]) return;
    float* out = p.dw[a] + (uint64_t(o) * p.in_channels + i) * p.kernel + branch_tap(a, j, p.kernel);
    write_gradient(out, p.products[index], p.accumulate >> (1 + a) & 1u);
}

// ---- columns ----

// out[u] = in[u + shift] where that lies in [0, size), else 0, for u in [begin, end).
template <class T>
X2CT_DEVICE void copy_shifted(T* out, const T* in, int64_t shift, int64_t size, int64_t begin, int64_t end) {
    const int64_t low = max(begin, min(end, -shift)), high = max(low, min(end, size - shift));
    for (int64_t u = begin; u < low; ++u) out[u] = T{};
    for (int64_t u = low; u < high; ++u) out[u] = in[u + shift];
    for (int64_t u = high; u < end; ++u) out[u] = T{};
}

// A thread fills p.span voxels of one plane of one row.
template <class T>
X2CT_DEVICE void dense_columns(const DecompDenseParams& p) {
    const int64_t plane = int64_t(plane_voxels(p)), spans = (plane + p.span - 1) / p.span;
    uint64_t index = dense_index();
    const int64_t begin = int64_t(index % spans) * p.span, end = min(plane, begin + p.span);
    index /= spans;
    const uint64_t q = index % p.planes, row = index / p.planes;
    if (row >= uint64_t(p.taps) * p.in_channels) return;
    const CrossTap tap = cross_tap(uint32_t(row / p.in_channels), p.kernel);
    const uint64_t n = (p.first + q) / p.out_size[0], e1 = (p.first + q) % p.out_size[0];
    const int64_t stride = p.stride, d2 = p.in_size[1], d3 = p.in_size[2], e3 = p.out_size[2];
    const int64_t at1 = int64_t(e1) * stride + (tap.axis == 0 ? tap.offset : 0);
    T* out = static_cast<T*>(p.columns) + row * chunk_voxels(p) + q * plane;
    const T* in = static_cast<const T*>(p.x) + (n * p.in_channels + row % p.in_channels) * in_voxels(p) + at1 * d2 * d3;
    if (at1 < 0 || at1 >= p.in_size[0]) {
        copy_shifted(out, in, 0, 0, begin, end);
    } else if (stride == 1 && tap.axis != 2) {
        copy_shifted(out, in, tap.axis == 1 ? tap.offset * d3 : 0, plane, begin, end);
    } else {
        for (int64_t v = begin; v < end;) {
            const int64_t line = v / e3, stop = min(end, (line + 1) * e3);
            const int64_t at2 = line * stride + (tap.axis == 1 ? tap.offset : 0), offset = tap.axis == 2 ? tap.offset : 0;
            const int64_t size = at2 >= 0 && at2 < d2 ? d3 : 0;
            if (stride == 1) {
                copy_shifted(out + line * e3, in + at2 * d3, offset, size, v - line * e3, stop - line * e3);
            } else {
                for (int64_t u = v; u < stop; ++u) {
                    const int64_t at3 = (u - line * e3) * stride + offset;
                    out[u] = at3 >= 0 && at3 < size ? in[at2 * d3 + at3] : T{};
                }
            }
            v = stop;
        }
    }
}

// ---- passes over a chunk: a block is a warp, which takes a piece of one channel ----

struct ChunkConfig : KernelDefaults {
    static constexpr uint32_t threads = 32;
    static constexpr uint32_t piece = 2048;  // voxels
    static constexpr uint32_t tile0 = piece;
};
template <int Values>
struct ChunkSumsConfig : ChunkConfig {
    struct Shared {
        float value[Values][ChunkConfig::threads];
    };
};

// Calls f(voxel of the chunk, element of [N, O, E], voxels from there on) for this thread's quarters of the block's piece.
template <class F>
X2CT_DEVICE void for_piece(const DecompDenseParams& p, F f) {
    const uint64_t all = chunk_voxels(p), plane = plane_voxels(p), volume = p.out_size[0] * plane, before = p.first * plane;
    const uint64_t end = min(all, uint64_t(blockIdx.x + 1) * ChunkConfig::piece);
    for (uint64_t v = uint64_t(blockIdx.x) * ChunkConfig::piece; v < end;) {
        // As far as the sample goes.
        const uint64_t n = (before + v) / volume, stop = min(end, (n + 1) * volume - before);
        const uint64_t base = (n * (p.out_channels - 1) + blockIdx.y) * volume + before;
        for (uint64_t u = v + threadIdx.x * 4; u < stop; u += ChunkConfig::threads * 4) f(u, base + u, int(min(stop - u, uint64_t(4))));
        v = stop;
    }
}

template <int Values>
X2CT_DEVICE void add_lanes(const DecompDenseParams& p, const float (&mine)[Values], uint32_t stride) {
    auto& s = shared_memory<typename ChunkSumsConfig<Values>::Shared>();
    X2CT_UNROLL
    for (int v = 0; v < Values; ++v) s.value[v][threadIdx.x] = mine[v];
    __syncthreads();
    if (threadIdx.x < Values) {
        double total = 0.0;
        for (uint32_t i = 0; i < ChunkConfig::threads; ++i) total += s.value[threadIdx.x][i];
        p.partial[(uint64_t(p.block + blockIdx.x) * p.out_channels + blockIdx.y) * stride + threadIdx.x] = total;
    }
}

// sum (z - pivot) and sum (z - pivot)^2 of each branch, as decomp_conv_finish takes them. The pivot is a branch's value in the middle of
// the first chunk: padding keeps that of a corner many spreads away from a flat volume, whose equal values all round alike.
constexpr uint32_t kDenseMomentValues = 9;
X2CT_DEVICE void dense_moments(const DecompDenseParams& p) {
    const uint64_t all = chunk_voxels(p), c = blockIdx.y, rows = p.out_size[1];
    const uint64_t middle = (p.planes / 2 * rows + rows / 2) * p.out_size[2] + p.out_size[2] / 2;
    double* pivots = p.partial + c * kDenseMomentValues + 6;
    float pivot[3], sums[6] = {};
    X2CT_UNROLL
    for (int a = 0; a < 3; ++a) pivot[a] = p.first ? float(pivots[a]) : p.z[(a * p.out_channels + c) * all + middle];
    for_piece(p, [&](uint64_t v, uint64_t, int count) {
        X2CT_UNROLL
        for (int a = 0; a < 3; ++a) {
            float z[4];
            load4(p.z + (a * p.out_channels + c) * all + v, count, p.vector, z);
            X2CT_UNROLL
            for (int l = 0; l < 4; ++l) {
                const float d = l < count ? z[l] - pivot[a] : 0.0f;
                sums[2 * a] += d;
                sums[2 * a + 1] += d * d;
            }
        }
    });
    add_lanes(p, sums, kDenseMomentValues);
    if (p.first == 0 && blockIdx.x == 0 && threadIdx.x < 3) pivots[threadIdx.x] = double(p.z[(threadIdx.x * p.out_channels + c) * all + middle]);
}

// y = act(z + shift), z [O, V].
template <class T>
X2CT_DEVICE void dense_write(const DecompDenseParams& p) {
    const float shift = p.shift[blockIdx.y];
    const float* in = p.z + blockIdx.y * chunk_voxels(p);
    for_piece(p, [&](uint64_t v, uint64_t at, int count) {
        float z[4];
        load4(in + v, count, p.vector, z);
        X2CT_UNROLL
        for (int l = 0; l < 4; ++l) z[l] = activation(z[l] + shift, p.gelu);
        store4(static_cast<T*>(p.y) + at, count, p.vector, z);
    });
}

// Calls f(voxel of the chunk, voxels, g, z - mean of each branch).
template <class T, class F>
X2CT_DEVICE void for_gradients(const DecompDenseParams& p, F f) {
    const uint64_t all = chunk_voxels(p), c = blockIdx.y;
    float mean[3], scale[3], centre = p.shift[c];
    X2CT_UNROLL
    for (int a = 0; a < 3; ++a) {
        mean[a] = p.mean[a * p.out_channels + c];
        scale[a] = p.scale[a * p.out_channels + c];
        centre += scale[a] * mean[a];
    }
    for_piece(p, [&](uint64_t v, uint64_t at, int count) {
        float g[4], z[3][4] = {};
        load4(static_cast<const T*>(p.g) + at, count, p.vector, g);
        if (p.branches) {
            X2CT_UNROLL
            for (int a = 0; a < 3; ++a) {
                load4(p.z + (a * p.out_channels + c) * all + v, count, p.vector, z[a]);
                X2CT_UNROLL
                for (int l = 0; l < 4; ++l) z[a][l] -= mean[a];
            }
        }
        if (p.gelu) {
            X2CT_UNROLL
            for (int l = 0; l < 4; ++l) g[l] *= activation_slope(centre + scale[0] * z[0][l] + scale[1] * z[1][l] + scale[2] * z[2][l]);
        }
        f(v, count, g, z);
    });
}

// sum g, and sum g (z - mean) of each branch, as decomp_conv_branch_gradient_finish takes them.
template <class T>
X2CT_DEVICE void dense_gradient_sums(const DecompDenseParams& p) {
    float sums[4] = {};
    for_gradients<T>(p, [&](uint64_t, int count, const float (&g)[4], const float (&z)[3][4]) {
        X2CT_UNROLL
        for (int l = 0; l < 4; ++l) {
            if (l < count) {
                sums[0] += g[l];
                X2CT_UNROLL
                for (int a = 0; a < 3; ++a) sums[1 + a] += g[l] * z[a][l];
            }
        }
    });
    add_lanes(p, sums, 4);
}

// dz; in f32 it may replace z.
template <class T>
X2CT_DEVICE void dense_branch_gradient(const DecompDenseParams& p) {
    const uint64_t all = chunk_voxels(p), c = blockIdx.y;
    const float* k = p.coefficients + c * 9;
    for_gradients<T>(p, [&](uint64_t v, int count, const float (&g)[4], const float (&z)[3][4]) {
        X2CT_UNROLL
        for (int a = 0; a < 3; ++a) {
            float dz[4];
            X2CT_UNROLL
            for (int l = 0; l < 4; ++l) dz[l] = k[3 * a] * g[l] + k[3 * a + 1] * z[a][l] + k[3 * a + 2];
            store4(static_cast<T*>(p.dz) + (a * p.out_channels + c) * all + v, count, p.vector, dz);
        }
    });
}

// ---- dx ----

struct DenseGatherConfig : DenseConfig {
    static constexpr uint32_t segment = 16;  // elements of a thread, along the contiguous axis
    static constexpr uint32_t tile1 = segment;
};

// The planes of x that begin at planes [gather, gather + gathers) of y, from the gradients of the columns of this chunk and the
// one before.
template <class T>
X2CT_DEVICE void dense_input_gradient(const DecompDenseParams& p) {
    constexpr int width = int(DenseGatherConfig::segment);
    const uint32_t segments = (p.in_size[2] + width - 1) / width;
    uint64_t index = dense_index();
    const int64_t at3 = int64_t(index % segments) * width;
    index /= segments;
    const int64_t at2 = int64_t(index % p.in_size[1]);
    index /= p.in_size[1];
    const int64_t stride = p.stride, plane = int64_t(index % (uint64_t(p.gathers) * p.stride));
    const uint64_t i = index / (uint64_t(p.gathers) * p.stride);
    const uint64_t out_plane = p.gather + plane / stride, n = out_plane / p.out_size[0];
    const int64_t at1 = int64_t(out_plane % p.out_size[0]) * stride + plane % stride;
    if (i >= p.in_channels || at1 >= p.in_size[0]) return;
    const int count = int(min(int64_t(width), p.in_size[2] - at3));
    const int64_t size = p.out_size[2], voxels = int64_t(plane_voxels(p));
    float sum[width] = {};
    for (uint32_t a = 0; a < 3; ++a) {
        for (uint32_t j = 0; j < p.kernel; ++j) {
            // The output whose tap reads this input: exists where the stride divides the place it would start from.
            const int64_t shift = int64_t(p.kernel / 2) - branch_tap(a, j, p.kernel);
            const int64_t d1 = at1 + (a == 0 ? shift : 0), d2 = at2 + (a == 1 ? shift : 0), d3 = at3 + (a == 2 ? shift : 0);
            if (d1 < 0 || d2 < 0 || d1 % stride || d2 % stride) continue;
            const int64_t o1 = d1 / stride, o2 = d2 / stride;
            if (o1 >= p.out_size[0] || o2 >= p.out_size[1]) continue;
            const uint64_t q = n * p.out_size[0] + o1;
            const bool here = q >= p.first;
            const uint64_t row = (uint64_t(a) * p.kernel + j) * p.in_channels + i;
            const T* in = static_cast<const T*>(here ? p.columns : p.before) + row * (here ? p.planes : p.planes_before) * voxels +
                          (here ? q - p.first : q + p.planes_before - p.first) * voxels + o2 * size;
            if (stride == 1 && d3 >= 0 && d3 + width <= size) {
                X2CT_UNROLL
                for (int l = 0; l < width; ++l) sum[l] += to_float(in[d3 + l]);
            } else {
                X2CT_UNROLL
                for (int l = 0; l < width; ++l) {
                    const int64_t d = d3 + l;
                    if (d >= 0 && d % stride == 0 && d / stride < size) sum[l] += to_float(in[d / stride]);
                }
            }
        }
    }
    T* dx = static_cast<T*>(p.dx) + ((n * p.in_channels + i) * p.in_size[0] + at1) * p.in_size[1] * p.in_size[2] + at2 * p.in_size[2] + at3;
    X2CT_UNROLL
    for (int l = 0; l < width; ++l)
        if (l < count) write_gradient(dx + l, sum[l], p.accumulate & 1u);
}

/// The weights in the columns' order.
X2CT_KERNEL(decomp_dense_matrices_f32, DecompDenseParams, DenseConfig, dense_matrices<float>)
X2CT_KERNEL(decomp_dense_matrices_bf16, DecompDenseParams, DenseConfig, dense_matrices<bf16>)
/// The scaled weights of the cross.
X2CT_KERNEL(decomp_dense_fold_f32, DecompDenseParams, DenseConfig, dense_fold<float>)
X2CT_KERNEL(decomp_dense_fold_bf16, DecompDenseParams, DenseConfig, dense_fold<bf16>)
/// dw from the columns' order.
X2CT_KERNEL(decomp_dense_weight_gradient, DecompDenseParams, DenseConfig, dense_weight_gradient)
/// Columns of a chunk.
X2CT_KERNEL(decomp_dense_columns_f32, DecompDenseParams, DenseConfig, dense_columns<float>)
X2CT_KERNEL(decomp_dense_columns_bf16, DecompDenseParams, DenseConfig, dense_columns<bf16>)
/// Sums of the branches of a chunk.
X2CT_KERNEL(decomp_dense_moments, DecompDenseParams, ChunkSumsConfig<6>, dense_moments)
/// y of a chunk.
X2CT_KERNEL(decomp_dense_write_f32, DecompDenseParams, ChunkConfig, dense_write<float>)
X2CT_KERNEL(decomp_dense_write_bf16, DecompDenseParams, ChunkConfig, dense_write<bf16>)
/// Sums of the gradient against the branches of a chunk.
X2CT_KERNEL(decomp_dense_gradient_sums_f32, DecompDenseParams, ChunkSumsConfig<4>, dense_gradient_sums<float>)
X2CT_KERNEL(decomp_dense_gradient_sums_bf16, DecompDenseParams, ChunkSumsConfig<4>, dense_gradient_sums<bf16>)
/// dz of a chunk.
X2CT_KERNEL(decomp_dense_branch_gradient_f32, DecompDenseParams, ChunkConfig, dense_branch_gradient<float>)
X2CT_KERNEL(decomp_dense_branch_gradient_bf16, DecompDenseParams, ChunkConfig, dense_branch_gradient<bf16>)
/// Planes of dx; tile\[1\] elements of the contiguous axis a thread.
X2CT_KERNEL(decomp_dense_input_gradient_f32, DecompDenseParams, DenseGatherConfig, dense_input_gradient<float>)
X2CT_KERNEL(decomp_dense_input_gradient_bf16, DecompDenseParams, DenseGatherConfig, dense_input_gradient<bf16>)

#include "decomp_dense_mma.cuh"
#include "decomp_dense_stem.cuh"
