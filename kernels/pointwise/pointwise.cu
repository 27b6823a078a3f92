// Element-wise operators: y[i] = f(x[i], ...) over flat arrays of n elements (f32 or bf16 storage, f32 arithmetic).
//
//   relu   y = max(x, 0)                     dx = dy where y > 0
//   gelu   y = x Phi(x), Phi by erf          dx = dy (Phi(x) + x phi(x))
//   add    y = a + b                         (its backward is copy: each input receives dy)
//   copy   y = x, or y += x                  also the gradient of every operator that passes dy through
//   cast   f32 <-> bf16
//   scale  y = factor * x, or y += factor * x
//
// Bytes: every operand is read or written once, 16 bytes at a time. One variant; a flat pass has nothing to choose.
// Test: cargo test --release ops::pointwise     Time: x2ct bench pointwise
#include "common/common.h"
#include "params.h"

struct PointwiseConfig : KernelDefaults {
    static constexpr int vectors = 4;                          // per thread
    static constexpr uint32_t tile0 = threads * vectors * 4;   // f32 elements of a block
    static constexpr uint32_t tile1 = threads * vectors * 8;   // bf16 elements of a block
};

// Applies f to every element. In and Out may differ only for cast; the vector width is that of the wider type.
template <class In, class Out, class F>
X2CT_DEVICE void pointwise(const PointwiseParams& p, F f) {
    constexpr int width = sizeof(In) > sizeof(Out) ? vec_width<In>() : vec_width<Out>();
    const In* a = static_cast<const In*>(p.a);
    const In* b = static_cast<const In*>(p.b);
    Out* out = static_cast<Out*>(p.out);
    const uint64_t block = uint64_t(blockIdx.x) * (PointwiseConfig::threads * PointwiseConfig::vectors * width);
    X2CT_UNROLL
    for (int v = 0; v < PointwiseConfig::vectors; ++v) {
        const uint64_t i = block + (uint64_t(v) * PointwiseConfig::threads + threadIdx.x) * width;
        if (i + width <= p.n) {
            float x[width], y[width] = {}, r[width];
            load_float(a + i, x);
            if (b) load_float(b + i, y);
            X2CT_UNROLL
            for (int j = 0; j < width; ++j) r[j] = f(x[j], y[j]);
            if (p.accumulate) {
                float old[width];
                load_float(out + i, old);
                X2CT_UNROLL
                for (int j = 0; j < width; ++j) r[j] += old[j];
            }
            store_float(out + i, r);
        } else {
            for (uint64_t k = i; k < p.n; ++k)
                write_gradient(out + k, f(to_float(a[k]), b ? to_float(b[k]) : 0.0f), p.accumulate);
        }
    }
}

constexpr float kSqrtHalf = 0.70710678118654752440f;
constexpr float kInvSqrt2Pi = 0.39894228040143267794f;

template <class T>
X2CT_DEVICE void relu_forward(const PointwiseParams& p) {
    // A NaN passes through, as in PyTorch: only what compares below zero is replaced.
    pointwise<T, T>(p, [](float x, float) { return x < 0.0f ? 0.0f : x; });
}
// a = y of the forward pass, b = dy
template <class T>
X2CT_DEVICE void relu_backward(const PointwiseParams& p) {
    pointwise<T, T>(p, [](float y, float dy) { return y <= 0.0f ? 0.0f : dy; });
}
template <class T>
X2CT_DEVICE void gelu_forward(const PointwiseParams& p) {
    pointwise<T, T>(p, [](float x, float) { return 0.5f * x * (1.0f + erff(x * kSqrtHalf)); });
}
// a = x of the forward pass, b = dy
template <class T>
X2CT_DEVICE void gelu_backward(const PointwiseParams& p) {
    pointwise<T, T>(p, [](float x, float dy) {
        const float cdf = 0.5f * (1.0f + erff(x * kSqrtHalf));
        return dy * (cdf + x * kInvSqrt2Pi * expf(-0.5f * x * x));
    });
}
template <class T>
X2CT_DEVICE void add_forward(const PointwiseParams& p) {
    pointwise<T, T>(p, [](float a, float b) { return a + b; });
}
template <class In, class Out>
X2CT_DEVICE void copy_as(const PointwiseParams& p) {
    pointwise<In, Out>(p, [](float x, float) { return x; });
}
template <class T>
X2CT_DEVICE void scale(const PointwiseParams& p) {
    const float factor = p.factor;
    pointwise<T, T>(p, [factor](float x, float) { return factor * x; });
}

/// y = max(a, 0); NaN passes through.
X2CT_KERNEL(relu_forward_f32, PointwiseParams, PointwiseConfig, relu_forward<float>)
X2CT_KERNEL(relu_forward_bf16, PointwiseParams, PointwiseConfig, relu_forward<bf16>)
/// dx = b where a > 0: a is the forward result, b the upstream gradient.
X2CT_KERNEL(relu_backward_f32, PointwiseParams, PointwiseConfig, relu_backward<float>)
X2CT_KERNEL(relu_backward_bf16, PointwiseParams, PointwiseConfig, relu_backward<bf16>)
/// y = a Phi(a), Phi the normal distribution function by erf.
X2CT_KERNEL(gelu_forward_f32, PointwiseParams, PointwiseConfig, gelu_forward<float>)
X2CT_KERNEL(gelu_forward_bf16, PointwiseParams, PointwiseConfig, gelu_forward<bf16>)
/// dx: a is the forward input, b the upstream gradient.
X2CT_KERNEL(gelu_backward_f32, PointwiseParams, PointwiseConfig, gelu_backward<float>)
X2CT_KERNEL(gelu_backward_bf16, PointwiseParams, PointwiseConfig, gelu_backward<bf16>)
/// y = a + b.
X2CT_KERNEL(add_forward_f32, PointwiseParams, PointwiseConfig, add_forward<float>)
X2CT_KERNEL(add_forward_bf16, PointwiseParams, PointwiseConfig, add_forward<bf16>)
/// y = a.
X2CT_KERNEL(copy_f32, PointwiseParams, PointwiseConfig, copy_as<float, float>)
X2CT_KERNEL(copy_bf16, PointwiseParams, PointwiseConfig, copy_as<bf16, bf16>)
/// From the storage type named to the other one.
X2CT_KERNEL(cast_f32_bf16, PointwiseParams, PointwiseConfig, copy_as<float, bf16>)
/// From the storage type named to the other one.
X2CT_KERNEL(cast_bf16_f32, PointwiseParams, PointwiseConfig, copy_as<bf16, float>)
/// y = factor a.
X2CT_KERNEL(scale_f32, PointwiseParams, PointwiseConfig, scale<float>)
X2CT_KERNEL(scale_bf16, PointwiseParams, PointwiseConfig, scale<bf16>)
