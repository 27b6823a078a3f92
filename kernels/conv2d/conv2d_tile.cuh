// The operands of a convolution as sources of the tiled product (gemm_tile.cuh): the matrix of columns is never written,
// its tiles are gathered from the image. Where the channels allow it, a chunk of 16 bytes lies inside one tap and is one
// asynchronous copy; else it is put together element by element.
#pragma once

#include "tiles/gemm_tile.cuh"

// A position in the filter's (r, s, channel) order.
struct Tap {
    uint32_t r, s, c;

    static X2CT_DEVICE Tap at(uint32_t index, uint32_t kernel_width, uint32_t channels) {
        const uint32_t tap = index / channels;
        return {tap / kernel_width, tap % kernel_width, index % channels};
    }
    X2CT_DEVICE void advance(uint32_t by, uint32_t kernel_width, uint32_t channels) {
        for (c += by; c >= channels; c -= channels)
            if (++s == kernel_width) {
                s = 0;
                ++r;
            }
    }
};

// One image of the batch and the place in it that tap (0, 0) of a row sees. Rows past the end see nothing.
template <class T>
struct View {
    const T* image;
    int32_t top, left;
};

// Rows are the pixels of y and the depth is (r, s, c) of x; or, Transposed, rows are the pixels of x and the depth is
// (r, s, o) of dy, where a tap meets an element of dy only at multiples of the stride.
template <class T, class C, bool Transposed>
struct PixelSource {
    static constexpr bool AlongK = true;
    static constexpr int chunks = C::block_m * 4 / int(C::threads);  // a thread
    const T* image;
    uint64_t rows;
    uint32_t row_height, row_width;        // of the grid the rows are pixels of
    uint32_t height, width, channels;      // of the images gathered from
    uint32_t kernel_height, kernel_width;
    uint32_t stride, padding;
    bool aligned;
    Tap tap;
    View<T> view[chunks];

    template <int Rows, int Threads>
    X2CT_DEVICE void start(uint64_t row0, uint64_t k0) {
        using L = TileLayout<T, true, Rows>;
        // All chunks of a thread have one depth: its place among the four of a line.
        static_assert(Threads % L::chunks == 0 && chunks * Threads == L::lines * L::chunks, "whole lines");
        tap = Tap::at(uint32_t(k0) + threadIdx.x % L::chunks * L::width, kernel_width, channels);
        X2CT_UNROLL
        for (int i = 0; i < chunks; ++i) {
            const uint64_t row = row0 + (i * Threads + threadIdx.x) / L::chunks;
            const uint32_t pixel = uint32_t(row), line = pixel / row_width, n = line / row_height;
            const int32_t h = int32_t(line % row_height), l = int32_t(pixel % row_width), nowhere = -(1 << 30);
            view[i].image = image + uint64_t(n) * height * width * channels;
            view[i].top = row >= rows ? nowhere : Transposed ? h + int32_t(padding) : h * int32_t(stride) - int32_t(padding);
            view[i].left = Transposed ? l + int32_t(padding) : l * int32_t(stride) - int32_t(padding);
        }
    }
    // Where tap (r, s) of a row lies: its first channel, or null outside the image.
    X2CT_DEVICE const T* find(const View<T>& v, uint32_t r, uint32_t s) const {
        int32_t h = v.top + (Transposed ? -int32_t(r) : int32_t(r)), l = v.left + (Transposed ? -int32_t(s) : int32_t(s));
        if (r >= kernel_height || h < 0 || l < 0) return nullptr;
        if (Transposed && stride > 1) {
            if (h % stride || l % stride) return nullptr;
            h /= stride;
            l /= stride;
        }
        if (h >= int32_t(height) || l >= int32_t(width)) return nullptr;
        return v.image + (uint64_t(h) * width + l) * channels;
    }
    template <int Rows, int Threads>
    X2CT_DEVICE void load(T* tile) {
        using L = TileLayout<T, true, Rows>;
        X2CT_UNROLL
        for (int i = 0; i < chunks; ++i) {
            const int index = i * Threads + int(threadIdx.x);
            T* to = tile + L::chunk(index / L::chunks, index % L::chunks);
            if (aligned) {
                const T* from = find(view[i], tap.r, tap.s);
                copy_chunk(to, from ? from + tap.c : image, from ? L::width : 0, true);
            } else {
                Tap at = tap;
                X2CT_UNROLL
                for (int j = 0; j < L::width; ++j) {
                    const T* from = find(view[i], at.r, at.s);
                    to[j] = from ? from[at.c] : T{};
                    at.advance(1, kernel_width, channels);
                }
            }
        }
        tap.advance(L::depth, kernel_width, channels);
    }
};

// Rows are the input channels and the depth is (r, s, o) of the weight [o, r, s, c]: the weight of the transposed product.
template <class T>
struct WeightSource {
    static constexpr bool AlongK = false;
    const T* weight;
    uint32_t rows, depth;  // C, KH KW O
    uint32_t taps, filters;
    bool aligned;
    uint32_t row0, k0;

    template <int Rows, int Threads>
    X2CT_DEVICE void start(uint64_t row, uint64_t k) {
        row0 = uint32_t(row);
        k0 = uint32_t(k);
    }
    template <int Rows, int Threads>
    X2CT_DEVICE void load(T* tile) {
        using L = TileLayout<T, false, Rows>;
        X2CT_UNROLL
        for (int i = 0; i < L::lines * L::chunks / Threads; ++i) {
            const int index = i * Threads + int(threadIdx.x), line = index / L::chunks, chunk = index % L::chunks;
            const uint32_t row = row0 + chunk * L::width, k = k0 + line, tap = k / filters, o = k % filters;
            const uint32_t valid = k < depth ? remaining(row, rows, L::width) : 0;
            copy_chunk(tile + L::chunk(line, chunk), weight + (uint64_t(o) * taps + tap) * rows + row, valid, aligned);
        }
        k0 += L::depth;
    }
};

// Rows are (r, s, c) of the filter and the depth is the pixels of y: what each tap saw at each pixel.
template <class T>
struct TapSource {
    static constexpr bool AlongK = false;
    const T* image;
    uint32_t pixels;  // of y, all images
    uint32_t out_height, out_width;
    uint32_t height, width, channels;
    uint32_t kernel_height, kernel_width;
    uint32_t stride, padding;
    bool aligned;
    uint32_t k0;
    Tap tap;

    template <int Rows, int Threads>
    X2CT_DEVICE void start(uint64_t row0, uint64_t k) {
        using L = TileLayout<T, false, Rows>;
        // All chunks of a thread lie in one place of their lines.
        static_assert(Threads % L::chunks == 0, "whole lines");
        tap = Tap::at(uint32_t(row0) + threadIdx.x % L::chunks * L::width, kernel_width, channels);
        k0 = uint32_t(k);
    }
    X2CT_DEVICE const T* find(uint32_t pixel, uint32_t r, uint32_t s) const {
        if (pixel >= pixels || r >= kernel_height) return nullptr;
        const uint32_t line = pixel / out_width, n = line / out_height;
        const int32_t h = int32_t(line % out_height * stride + r) - int32_t(padding);
        const int32_t l = int32_t(pixel % out_width * stride + s) - int32_t(padding);
        if (h < 0 || h >= int32_t(height) || l < 0 || l >= int32_t(width)) return nullptr;
        return image + ((uint64_t(n) * height + h) * width + l) * channels;
    }
    template <int Rows, int Threads>
    X2CT_DEVICE void load(T* tile) {
        using L = TileLayout<T, false, Rows>;
        X2CT_UNROLL
        for (int i = 0; i < L::lines * L::chunks / Threads; ++i) {
            const int index = i * Threads + int(threadIdx.x), line = index / L::chunks;
            T* to = tile + L::chunk(line, index % L::chunks);
            if (aligned) {
                const T* from = find(k0 + line, tap.r, tap.s);
                copy_chunk(to, from ? from + tap.c : image, from ? L::width : 0, true);
            } else {
                Tap at = tap;
                X2CT_UNROLL
                for (int j = 0; j < L::width; ++j) {
                    const T* from = find(k0 + line, at.r, at.s);
                    to[j] = from ? from[at.c] : T{};
                    at.advance(1, kernel_width, channels);
                }
            }
        }
        k0 += L::depth;
    }
};
