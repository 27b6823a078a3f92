// 2-D convolution (cross-correlation, as in PyTorch), one stride and one padding for both axes, dilation 1, one group:
//
//   y[n,i,j,o] = bias[o] + sum_{r,s,c} x[n, i stride + r - padding, j stride + s - padding, c] w[o,r,s,c]
//   dx[n,h,w,c] = sum over the (i,r), (j,s) that meet at (h,w), and o, of dy[n,i,j,o] w[o,r,s,c]
//   dw[o,r,s,c] = sum_{n,i,j} dy[n,i,j,o] x[n, i stride + r - padding, j stride + s - padding, c]
//
//   x [N,H,W,C], w [O,KH,KW,C], y [N,HO,WO,O]: channels are contiguous. f32 or bf16, sums in f32; dw is f32.
//   im2col: columns[(n,i,j), (r,s,c)] = x at that place, 0 outside;   col2im: dx = its transpose applied to columns.
//   The library backend is im2col, a library's matrix product, and col2im; see src/ops/conv2d.rs.
//
// Bytes: x, w and y once each. im2col writes KH KW C elements a pixel of y, col2im reads as many.
// Variants: 1 naive (one thread an element); 2 tiled (implicit GEMM: the columns are gathered tile by tile, see
// conv2d_tile.cuh; full f32, TF32 or bf16 on tensor cores). dx by the tiled variant multiplies by zeros where a tap falls
// between the steps of the stride. The sums of dw, as long as there are pixels, are split and added in a fixed order.
// Test: cargo test --release ops::conv2d     Time: x2ct bench conv2d
#include "common/common.h"
#include "conv2d_tile.cuh"
#include "params.h"

// ---- 1: naive ----

struct NaiveConfig : KernelDefaults {
    static constexpr uint32_t tile0 = threads;  // elements of the result a block
};

template <class T>
X2CT_DEVICE void conv2d_forward_naive(const Conv2dParams& p) {
    const uint64_t index = uint64_t(blockIdx.x) * NaiveConfig::threads + threadIdx.x;
    if (index >= p.images * p.out_height * p.out_width * p.out_channels) return;
    const uint32_t o = uint32_t(index % p.out_channels);
    const uint64_t pixel = index / p.out_channels, line = pixel / p.out_width, n = line / p.out_height;
    const int64_t top = int64_t(line % p.out_height) * p.stride - p.padding;
    const int64_t left = int64_t(pixel % p.out_width) * p.stride - p.padding;
    const T* w = static_cast<const T*>(p.weight) + uint64_t(o) * p.kernel_height * p.kernel_width * p.channels;
    float sum = 0.0f;
    for (uint32_t r = 0; r < p.kernel_height; ++r)
        for (uint32_t s = 0; s < p.kernel_width; ++s) {
            const int64_t h = top + r, l = left + s;
            if (h < 0 || h >= p.height || l < 0 || l >= p.width) continue;
            const T* x = static_cast<const T*>(p.input) + ((n * p.height + h) * p.width + l) * p.channels;
            const T* tap = w + uint64_t(r * p.kernel_width + s) * p.channels;
            for (uint32_t c = 0; c < p.channels; ++c) sum += to_float(x[c]) * to_float(tap[c]);
        }
    if (p.bias) sum += to_float(static_cast<const T*>(p.bias)[o]);
    static_cast<T*>(p.out)[index] = from_float<T>(sum);
}

template <class T>
X2CT_DEVICE void conv2d_dgrad_naive(const Conv2dParams& p) {
    const uint64_t index = uint64_t(blockIdx.x) * NaiveConfig::threads + threadIdx.x;
    if (index >= p.images * p.height * p.width * p.channels) return;
    const uint32_t c = uint32_t(index % p.channels);
    const uint64_t pixel = index / p.channels, line = pixel / p.width, n = line / p.height;
    const uint32_t h = uint32_t(line % p.height) + p.padding, l = uint32_t(pixel % p.width) + p.padding;
    const uint64_t filter = uint64_t(p.kernel_height) * p.kernel_width * p.channels;
    float sum = 0.0f;
    // Only the taps that fall on a multiple of the stride meet this pixel.
    for (uint32_t r = h % p.stride; r < p.kernel_height && r <= h; r += p.stride)
        for (uint32_t s = l % p.stride; s < p.kernel_width && s <= l; s += p.stride) {
            const uint32_t i = (h - r) / p.stride, j = (l - s) / p.stride;
            if (i >= p.out_height || j >= p.out_width) continue;
            const T* dy = static_cast<const T*>(p.input) + ((n * p.out_height + i) * p.out_width + j) * p.out_channels;
            const T* w = static_cast<const T*>(p.weight) + uint64_t(r * p.kernel_width + s) * p.channels + c;
            for (uint32_t o = 0; o < p.out_channels; ++o) sum += to_float(dy[o]) * to_float(w[o * filter]);
        }
    write_gradient(static_cast<T*>(p.out) + index, sum, p.accumulate);
}

template <class T>
X2CT_DEVICE void conv2d_wgrad_naive(const Conv2dParams& p) {
    const uint64_t index = uint64_t(blockIdx.x) * NaiveConfig::threads + threadIdx.x;
    if (index >= uint64_t(p.out_channels) * p.kernel_height * p.kernel_width * p.channels) return;
    const uint32_t c = uint32_t(index % p.channels), s = uint32_t(index / p.channels % p.kernel_width);
    const uint64_t row = index / p.channels / p.kernel_width;
    const uint32_t r = uint32_t(row % p.kernel_height), o = uint32_t(row / p.kernel_height);
    float sum = 0.0f;
    for (uint64_t line = 0; line < p.images * p.out_height; ++line) {
        const int64_t h = int64_t(line % p.out_height) * p.stride + r - p.padding;
        if (h < 0 || h >= p.height) continue;
        const T* x = static_cast<const T*>(p.input) + (line / p.out_height * p.height + h) * p.width * p.channels + c;
        const T* dy = static_cast<const T*>(p.weight) + line * p.out_width * p.out_channels + o;
        for (uint32_t j = 0; j < p.out_width; ++j) {
            const int64_t l = int64_t(j) * p.stride + s - p.padding;
            if (l < 0 || l >= p.width) continue;
            sum += to_float(dy[uint64_t(j) * p.out_channels]) * to_float(x[l * p.channels]);
        }
    }
    write_gradient(static_cast<float*>(p.out) + index, sum, p.accumulate);
}

/// y, one thread an element; `tile[0]` elements a block.
X2CT_KERNEL(conv2d_forward_naive_f32, Conv2dParams, NaiveConfig, conv2d_forward_naive<float>)
X2CT_KERNEL(conv2d_forward_naive_bf16, Conv2dParams, NaiveConfig, conv2d_forward_naive<bf16>)
/// dx, one thread an element; `tile[0]` elements a block.
X2CT_KERNEL(conv2d_dgrad_naive_f32, Conv2dParams, NaiveConfig, conv2d_dgrad_naive<float>)
X2CT_KERNEL(conv2d_dgrad_naive_bf16, Conv2dParams, NaiveConfig, conv2d_dgrad_naive<bf16>)
/// dw (f32), one thread an element; `tile[0]` elements a block.
X2CT_KERNEL(conv2d_wgrad_naive_f32, Conv2dParams, NaiveConfig, conv2d_wgrad_naive<float>)
X2CT_KERNEL(conv2d_wgrad_naive_bf16, Conv2dParams, NaiveConfig, conv2d_wgrad_naive<bf16>)

// ---- 2: tiled ----

template <class C, template <bool, bool> class Math>
X2CT_DEVICE void conv2d_forward_tiled(const Conv2dParams& p) {
    using M = Math<true, true>;
    using T = typename M::T;
    const uint64_t rows = p.images * p.out_height * p.out_width, depth = uint64_t(p.kernel_height) * p.kernel_width * p.channels;
    const PixelSource<T, C, false> a{static_cast<const T*>(p.input), rows, p.out_height, p.out_width, p.height, p.width, p.channels,
                                     p.kernel_height, p.kernel_width, p.stride, p.padding, p.aligned_input != 0, {}, {}};
    const MatrixSource<T, true> b{static_cast<const T*>(p.weight), depth, p.out_channels, depth, p.aligned_weight != 0, 0, 0};
    const TileOutput<T> out{p.out, p.bias, nullptr, rows, p.out_channels, 1.0f, p.accumulate, 0, false};
    tile_product<C, M>(a, b, out, 0, depth);
}

template <class C, template <bool, bool> class Math>
X2CT_DEVICE void conv2d_dgrad_tiled(const Conv2dParams& p) {
    using M = Math<true, false>;
    using T = typename M::T;
    const uint64_t rows = p.images * p.height * p.width;
    const uint32_t taps = p.kernel_height * p.kernel_width, depth = taps * p.out_channels;
    const PixelSource<T, C, true> a{static_cast<const T*>(p.input), rows, p.height, p.width, p.out_height, p.out_width, p.out_channels,
                                    p.kernel_height, p.kernel_width, p.stride, p.padding, p.aligned_input != 0, {}, {}};
    const WeightSource<T> b{static_cast<const T*>(p.weight), p.channels, depth, taps, p.out_channels, p.aligned_weight != 0, 0, 0};
    const TileOutput<T> out{p.out, nullptr, nullptr, rows, p.channels, 1.0f, p.accumulate, 0, false};
    tile_product<C, M>(a, b, out, 0, depth);
}

// The product is dw transposed, [(r,s,c), o]: then a narrow tile fits few filters.
template <class C, template <bool, bool> class Math>
X2CT_DEVICE void conv2d_wgrad_tiled(const Conv2dParams& p) {
    using M = Math<false, false>;
    using T = typename M::T;
    const uint64_t pixels = p.images * p.out_height * p.out_width, rows = uint64_t(p.kernel_height) * p.kernel_width * p.channels;
    const TapSource<T> a{static_cast<const T*>(p.input), uint32_t(pixels), p.out_height, p.out_width, p.height, p.width, p.channels,
                         p.kernel_height, p.kernel_width, p.stride, p.padding, p.aligned_input != 0, 0, {}};
    const MatrixSource<T, false> b{static_cast<const T*>(p.weight), p.out_channels, p.out_channels, pixels, p.aligned_weight != 0, 0, 0};
    const TileOutput<T> out{p.out, nullptr, p.partials, rows, p.out_channels, 1.0f, p.accumulate, 1, true};
    const uint64_t begin = blockIdx.z * p.split_depth;
    tile_product<C, M>(a, b, out, begin, min(begin + p.split_depth, pixels));
}

/// y: wide and narrow bf16, TF32, f32; `tile[0]` pixels of y by `tile[1]` filters a block, `tile[2]` bytes deep a step.
X2CT_KERNEL(conv2d_forward_wide_bf16, Conv2dParams, WideTile, conv2d_forward_tiled<WideTile, MmaBf16>)
/// y: wide and narrow bf16, TF32, f32; `tile[0]` pixels of y by `tile[1]` filters a block, `tile[2]` bytes deep a step.
X2CT_KERNEL(conv2d_forward_narrow_bf16, Conv2dParams, NarrowTile, conv2d_forward_tiled<NarrowTile, MmaBf16>)
/// y: wide and narrow bf16, TF32, f32; `tile[0]` pixels of y by `tile[1]` filters a block, `tile[2]` bytes deep a step.
X2CT_KERNEL(conv2d_forward_tf32, Conv2dParams, Tf32Tile, conv2d_forward_tiled<Tf32Tile, MmaTf32>)
/// y: wide and narrow bf16, TF32, f32; `tile[0]` pixels of y by `tile[1]` filters a block, `tile[2]` bytes deep a step.
X2CT_KERNEL(conv2d_forward_f32, Conv2dParams, FmaTile, conv2d_forward_tiled<FmaTile, FmaF32>)
/// dx: the same; `tile[0]` pixels of x by `tile[1]` channels of x.
X2CT_KERNEL(conv2d_dgrad_wide_bf16, Conv2dParams, WideTile, conv2d_dgrad_tiled<WideTile, MmaBf16>)
/// dx: the same; `tile[0]` pixels of x by `tile[1]` channels of x.
X2CT_KERNEL(conv2d_dgrad_narrow_bf16, Conv2dParams, NarrowTile, conv2d_dgrad_tiled<NarrowTile, MmaBf16>)
/// dx: the same; `tile[0]` pixels of x by `tile[1]` channels of x.
X2CT_KERNEL(conv2d_dgrad_tf32, Conv2dParams, Tf32Tile, conv2d_dgrad_tiled<Tf32Tile, MmaTf32>)
/// dx: the same; `tile[0]` pixels of x by `tile[1]` channels of x.
X2CT_KERNEL(conv2d_dgrad_f32, Conv2dParams, FmaTile, conv2d_dgrad_tiled<FmaTile, FmaF32>)
/// dw: the same; `tile[0]` taps by `tile[1]` filters.
X2CT_KERNEL(conv2d_wgrad_wide_bf16, Conv2dParams, WideTile, conv2d_wgrad_tiled<WideTile, MmaBf16>)
/// dw: the same; `tile[0]` taps by `tile[1]` filters.
X2CT_KERNEL(conv2d_wgrad_narrow_bf16, Conv2dParams, NarrowTile, conv2d_wgrad_tiled<NarrowTile, MmaBf16>)
/// dw: the same; `tile[0]` taps by `tile[1]` filters.
X2CT_KERNEL(conv2d_wgrad_tf32, Conv2dParams, Tf32Tile, conv2d_wgrad_tiled<Tf32Tile, MmaTf32>)
/// dw: the same; `tile[0]` taps by `tile[1]` filters.
X2CT_KERNEL(conv2d_wgrad_f32, Conv2dParams, FmaTile, conv2d_wgrad_tiled<FmaTile, FmaF32>)

// ---- im2col, col2im ----

struct ColumnsConfig : KernelDefaults {
    static constexpr uint32_t threads = 128;
    static constexpr uint32_t tile0 = 8;   // items that make a thread worth its cost on the host
    static constexpr uint32_t tile1 = 16;  // col2im: channels of a group
};

// Copies n elements, 16 bytes at a time where both sides allow it; a null source writes zeros.
template <class T>
X2CT_DEVICE void copy_run(T* __restrict__ out, const T* __restrict__ in, uint32_t n, bool aligned) {
    constexpr uint32_t width = vec_width<T>();
    uint32_t i = 0;
    if (aligned)
        for (; i + width <= n; i += width) store_vec<width>(out + i, in ? load_vec<width>(in + i) : Vec<T, width>{});
    else if (in)
        for (; i < n; ++i) out[i] = in[i];
    else
        for (; i < n; ++i) out[i] = T{};
}

// Idea: for one pixel of y and one row r of the filter, (s, c) runs along memory in both arrays, so a thread copies
// runs of KW C elements, shortened where they leave the image: all KH of a pixel, or those of its block's y.
template <class T>
X2CT_DEVICE void im2col_pixel(const Conv2dParams& p, uint64_t pixel) {
    const uint64_t line = pixel / p.out_width, n = line / p.out_height;
    const int64_t top = int64_t(line % p.out_height) * p.stride - p.padding;
    const int64_t left = int64_t(pixel % p.out_width) * p.stride - p.padding;
    const uint32_t c = p.channels, run = p.kernel_width * c;
    const bool aligned = c % vec_width<T>() == 0;
    // The taps [first, last) of a row lie inside the image.
    const uint32_t first = uint32_t(min(max(-left, int64_t(0)), int64_t(p.kernel_width)));
    const uint32_t last = max(first, uint32_t(max(min(int64_t(p.width) - left, int64_t(p.kernel_width)), int64_t(0))));
    for (uint32_t r = blockIdx.y; r < p.kernel_height; r += gridDim.y) {
        T* out = static_cast<T*>(p.out) + (pixel * p.kernel_height + r) * run;
        const int64_t h = top + r;
        if (h < 0 || h >= p.height || first == last) {
            copy_run<T>(out, nullptr, run, aligned);
            continue;
        }
        const T* x = static_cast<const T*>(p.input) + ((n * p.height + h) * p.width + left + first) * c;
        copy_run<T>(out, nullptr, first * c, aligned);
        copy_run<T>(out + first * c, x, (last - first) * c, aligned);
        copy_run<T>(out + last * c, nullptr, (p.kernel_width - last) * c, aligned);
    }
}

template <class T>
X2CT_DEVICE void im2col(const Conv2dParams& p) {
    const uint32_t block = ColumnsConfig::threads * p.items;
    const uint64_t pixels = p.images * p.out_height * p.out_width, first = uint64_t(blockIdx.x) * block;
    const uint64_t last = min(first + block, pixels);
    for (uint64_t pixel = first + threadIdx.x; pixel < last; pixel += ColumnsConfig::threads) im2col_pixel<T>(p, pixel);
}

// Gathers: a thread takes groups of `tile1` channels of a pixel of dx and adds up every column entry copied from there.
// The columns are f32 whatever dx is, so that their sum is rounded once.
template <class T>
X2CT_DEVICE void col2im_group(const Conv2dParams& p, uint64_t pixel, uint32_t c) {
    constexpr uint32_t width = ColumnsConfig::tile1, lanes = vec_width<float>();
    const uint64_t line = pixel / p.width, n = line / p.height;
    const uint32_t h = uint32_t(line % p.height) + p.padding, l = uint32_t(pixel % p.width) + p.padding;
    const bool whole = c + width <= p.channels && p.channels % lanes == 0;
    const uint32_t count = min(width, p.channels - c);
    const float* columns = static_cast<const float*>(p.input) + c;
    float sum[width] = {};
    for (uint32_t r = h % p.stride; r < p.kernel_height && r <= h; r += p.stride) {
        const uint32_t i = (h - r) / p.stride;
        if (i >= p.out_height) continue;
        for (uint32_t s = l % p.stride; s < p.kernel_width && s <= l; s += p.stride) {
            const uint32_t j = (l - s) / p.stride;
            if (j >= p.out_width) continue;
            const uint64_t row = (n * p.out_height + i) * p.out_width + j;
            const float* entry = columns + ((row * p.kernel_height + r) * p.kernel_width + s) * p.channels;
            if (whole) {
                X2CT_UNROLL
                for (uint32_t v = 0; v < width; v += lanes) {
                    float part[lanes];
                    load_float(entry + v, part);
                    X2CT_UNROLL
                    for (uint32_t k = 0; k < lanes; ++k) sum[v + k] += part[k];
                }
            } else {
                X2CT_UNROLL
                for (uint32_t k = 0; k < width; ++k)
                    if (k < count) sum[k] += entry[k];
            }
        }
    }
    T* out = static_cast<T*>(p.out) + pixel * p.channels + c;
    X2CT_UNROLL
    for (uint32_t k = 0; k < width; ++k)
        if (k < count) write_gradient(out + k, sum[k], p.accumulate);
}

template <class T>
X2CT_DEVICE void col2im(const Conv2dParams& p) {
    const uint32_t groups = (p.channels + ColumnsConfig::tile1 - 1) / ColumnsConfig::tile1;
    const uint32_t block = ColumnsConfig::threads * p.items;
    const uint64_t all = p.images * p.height * p.width * groups, first = uint64_t(blockIdx.x) * block;
    const uint64_t last = min(first + block, all);
    for (uint64_t index = first + threadIdx.x; index < last; index += ColumnsConfig::threads)
        col2im_group<T>(p, index / groups, uint32_t(index % groups) * ColumnsConfig::tile1);
}

/// `tile[0]` pixels of y make a thread worth its cost on the host.
X2CT_KERNEL(im2col_f32, Conv2dParams, ColumnsConfig, im2col<float>)
X2CT_KERNEL(im2col_bf16, Conv2dParams, ColumnsConfig, im2col<bf16>)
/// From f32 columns; groups of `tile[1]` channels of a pixel of x; `tile[0]` as above.
X2CT_KERNEL(col2im_f32, Conv2dParams, ColumnsConfig, col2im<float>)
X2CT_KERNEL(col2im_bf16, Conv2dParams, ColumnsConfig, col2im<bf16>)
