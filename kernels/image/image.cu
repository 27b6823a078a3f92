// Radiographs to network input: gather, warp, jitter, replicate and normalise in one pass.
//
//   source  u8 or bf16 [S, H0, W0]             all radiographs of a data set, 0 to 255 or 0 to 1
//   index   u32 [N]                            which one each row of the batch takes
//   warp    f32 [N, 8]                         per row: 2x3 map from output pixel (x, y) to source pixel, then gain, offset
//   out     [N, H, W, 3]                       ((gain v + offset) - mean[c]) / std[c], v bilinear in [0, 1], edges repeated
//
// Pixel centres are at integers: the identity map is (1,0,0, 0,1,0). A crop, a resize, a shift, a flip, a rotation are
// all this map; the three channels hold the same grey value.
// Bytes: 4 source reads that hit the cache, one write of 3 elements a pixel. One variant, two types of source.
// Test: cargo test --release ops::image     Time: x2ct bench image
#include "common/common.h"
#include "params.h"

struct ImageConfig : KernelDefaults {
    static constexpr uint32_t threads = 128;
    static constexpr uint32_t tile0 = threads * 8;  // pixels of a block
};

X2CT_DEVICE float grey(uint8_t v) { return float(v); }
X2CT_DEVICE float grey(bf16 v) { return to_float(v); }

// The brightest value of a source type.
template <class S>
constexpr float most = 1.0f;
template <>
constexpr float most<uint8_t> = 255.0f;

template <class T, class S>
X2CT_DEVICE void image_batch(const ImageParams& p) {
    const uint64_t per_image = uint64_t(p.h) * p.w, total = per_image * p.n;
    X2CT_UNROLL
    for (int step = 0; step < 8; ++step) {
        const uint64_t pixel = uint64_t(blockIdx.x) * ImageConfig::tile0 + step * ImageConfig::threads + threadIdx.x;
        if (pixel >= total) return;
        const uint32_t row = uint32_t(pixel / per_image), inside = uint32_t(pixel % per_image);
        const float x = float(inside % p.w), y = float(inside / p.w);
        const float* m = p.warp + uint64_t(row) * 8;
        const float sx = fminf(fmaxf(m[0] * x + m[1] * y + m[2], 0.0f), float(p.w0 - 1));
        const float sy = fminf(fmaxf(m[3] * x + m[4] * y + m[5], 0.0f), float(p.h0 - 1));
        const uint32_t x0 = uint32_t(sx), y0 = uint32_t(sy), x1 = min(x0 + 1, p.w0 - 1), y1 = min(y0 + 1, p.h0 - 1);
        const float fx = sx - float(x0), fy = sy - float(y0);
        const S* image = static_cast<const S*>(p.source) + uint64_t(p.index[row]) * p.h0 * p.w0;
        const S *above = image + uint64_t(y0) * p.w0, *below = image + uint64_t(y1) * p.w0;
        const float top = grey(above[x0]) * (1.0f - fx) + grey(above[x1]) * fx;
        const float bottom = grey(below[x0]) * (1.0f - fx) + grey(below[x1]) * fx;
        const float value = m[6] * (top * (1.0f - fy) + bottom * fy) * (1.0f / most<S>) + m[7];
        T* out = static_cast<T*>(p.out) + pixel * 3;
        for (int c = 0; c < 3; ++c) out[c] = from_float<T>((value - p.mean[c]) * p.inv_std[c]);
    }
}

/// Gather, warp, jitter, replicate, normalise; u8 radiographs.
X2CT_KERNEL(image_batch_f32, ImageParams, ImageConfig, image_batch<float, uint8_t>)
X2CT_KERNEL(image_batch_bf16, ImageParams, ImageConfig, image_batch<bf16, uint8_t>)
/// The same of bf16 radiographs.
X2CT_KERNEL(image_batch_16_f32, ImageParams, ImageConfig, image_batch<float, bf16>)
X2CT_KERNEL(image_batch_16_bf16, ImageParams, ImageConfig, image_batch<bf16, bf16>)
