// Radiographs from CT: line integrals and mean projections, each with its adjoint.
//
//   volume   int16, f32 or bf16 [B, Z, Y, X], x fastest; value = max(floor, slope * stored + intercept)
//   image    f32 [B, V, H, W]          image[b,v,r,c] = sum over voxels of value * weight
//   Siddon   weight = millimetres of the ray inside the voxel (Siddon 1985)
//   trilinear  weight of the midpoint rule on the trilinear interpolant (drr_ray.cuh)
//   mean     image f32 [B, rows, columns] = sum over the third axis of w[k] * clip(slope * stored + intercept, low, high)
//
// Gradient: the adjoint walks the very same rays and adds weight * upstream to the voxels. The sums are 64-bit integers in
// units of a power of two, so the order of the additions does not matter and the result is deterministic; the unit comes
// from the largest upstream value and leaves at least 2^-35 of it for a million rays. A last pass makes it f32 or bf16 and
// applies the chain rule of `value`. The mean's adjoint is a gather.
//
// Bytes: the volume once (a batch of views shares it through L2), the images once. The adjoint adds 8 bytes a voxel, twice.
// Variants: 0 naive (nearest of three planes; bounds tested for every neighbour), 1 slab by slab, interior without tests.
// Test: cargo test --release ops::drr     Time: x2ct bench drr
#include "drr_ray.cuh"

struct DrrParams {
    const void* volume;
    const DrrView* views;      // [V]
    float* image;              // forward: written; adjoint: upstream, read
    unsigned long long* sums;  // adjoint: [B, Z, Y, X], zero before
    uint32_t* peak;            // adjoint: bits of the largest |upstream|, zero before
    void* gradient;            // adjoint: f32 or bf16 [B, Z, Y, X]
    uint64_t voxels;           // of one volume
    uint32_t n[3];             // X, Y, Z
    uint32_t batch, count, rows, columns;
    float slope, intercept, floor;
    float step;                // trilinear: millimetres between samples, at most
    float bound;               // adjoint: no voxel's weights sum to more
    uint32_t accumulate;
};
X2CT_FIELDS(DrrParams, volume, views, image, sums, peak, gradient, voxels, n, batch, count, rows, columns, slope, intercept, floor, step, bound, accumulate)

struct DrrConfig : KernelDefaults {
    static constexpr uint32_t threads = 128;
    static constexpr uint32_t tile0 = 16, tile1 = 8;  // columns and rows of a block: neighbouring rays share voxels
    static_assert(tile0 * tile1 == threads, "one thread, one ray");
};

// Runs f(view, r, c, volume index, pixel index) for this thread's pixel.
template <class F>
X2CT_DEVICE void for_pixel(const DrrParams& p, F f) {
    const uint32_t across = (p.columns + DrrConfig::tile0 - 1) / DrrConfig::tile0;
    const uint32_t down = (p.rows + DrrConfig::tile1 - 1) / DrrConfig::tile1;
    uint32_t block = blockIdx.x;
    const uint32_t c = block % across * DrrConfig::tile0 + threadIdx.x % DrrConfig::tile0;
    block /= across;
    const uint32_t r = block % down * DrrConfig::tile1 + threadIdx.x / DrrConfig::tile0;
    block /= down;
    const uint32_t view = block % p.count, volume = block / p.count;
    if (r >= p.rows || c >= p.columns) return;
    f(p.views[view], r, c, volume, (uint64_t(block) * p.rows + r) * p.columns + c);
}

struct Siddon {
    static constexpr double margin = 0.0;
    template <class Visit>
    static X2CT_DEVICE void walk(const DrrRay& ray, const DrrParams& p, Visit visit) { siddon_slabs(ray, p.n, visit); }
};
struct SiddonNaive {
    static constexpr double margin = 0.0;
    template <class Visit>
    static X2CT_DEVICE void walk(const DrrRay& ray, const DrrParams& p, Visit visit) { siddon_naive(ray, p.n, visit); }
};
template <bool Interior>
struct TrilinearRule {
    static constexpr double margin = 0.5;
    template <class Visit>
    static X2CT_DEVICE void walk(const DrrRay& ray, const DrrParams& p, Visit visit) {
        trilinear_march<Interior>(ray, p.n, p.step, visit);
    }
};
using Trilinear = TrilinearRule<true>;
using TrilinearNaive = TrilinearRule<false>;

template <class Rule, class T>
X2CT_DEVICE void line_integral(const DrrParams& p) {
    for_pixel(p, [&p](const DrrView& view, uint32_t r, uint32_t c, uint32_t volume, uint64_t pixel) {
        const T* voxels = static_cast<const T*>(p.volume) + volume * p.voxels;
        float sum = 0.0f;
        Rule::walk(make_ray(view, r, c, p.n, Rule::margin), p, [&](int64_t voxel, float weight) {
            const float value = p.slope * to_float(voxels[voxel]) + p.intercept;
            // Written so that a NaN voxel shows in the image.
            sum += (value < p.floor ? p.floor : value) * weight;
        });
        p.image[pixel] = sum;
    });
}

// One thread takes `peak_items` pixels: one atomic for all of them.
constexpr uint32_t kPeakItems = 32;
struct PeakConfig : KernelDefaults {
    static constexpr uint32_t tile0 = threads * kPeakItems;
};
X2CT_DEVICE void upstream_peak(const DrrParams& p) {
    const uint64_t pixels = uint64_t(p.batch) * p.count * p.rows * p.columns;
    uint32_t most = 0;
    for (uint32_t k = 0; k < kPeakItems; ++k) {
        const uint64_t i = (uint64_t(blockIdx.x) * kPeakItems + k) * PeakConfig::threads + threadIdx.x;
        // Without its sign a float orders as its bits; NaN comes last.
        if (i < pixels) most = max(most, __float_as_uint(p.image[i]) & 0x7fffffffu);
    }
    atomicMax(p.peak, most);
}

// The exponent e of the unit 2^-e in which sums are kept: no sum reaches 2^62 units.
X2CT_DEVICE int unit_exponent(const DrrParams& p) {
    const int peak = int(*p.peak >> 23) - 127, bound = int(__float_as_uint(p.bound) >> 23) - 127;
    return min(max(60 - peak - bound, -126), 126);
}
X2CT_DEVICE bool finite_upstream(const DrrParams& p) { return *p.peak < 0x7f800000u; }
X2CT_DEVICE float power_of_two(int e) { return __uint_as_float(uint32_t(e + 127) << 23); }

template <class Rule>
X2CT_DEVICE void line_integral_adjoint(const DrrParams& p) {
    if (!finite_upstream(p)) return;
    for_pixel(p, [&p](const DrrView& view, uint32_t r, uint32_t c, uint32_t volume, uint64_t pixel) {
        const float upstream = p.image[pixel] * power_of_two(unit_exponent(p));
        if (upstream == 0.0f) return;
        unsigned long long* sums = p.sums + volume * p.voxels;
        Rule::walk(make_ray(view, r, c, p.n, Rule::margin), p, [&](int64_t voxel, float weight) {
            atomicAdd(sums + voxel, (unsigned long long)(llrintf(upstream * weight)));
        });
    });
}

constexpr uint32_t kFinishItems = 8;
struct FinishConfig : KernelDefaults {
    static constexpr uint32_t tile0 = threads * kFinishItems;
};
template <class T>
X2CT_DEVICE void adjoint_finish(const DrrParams& p) {
    const uint64_t voxels = p.voxels * p.batch;
    // An upstream NaN or infinity cannot be summed in integers: every voxel says so.
    const float unit = finite_upstream(p) ? power_of_two(-unit_exponent(p)) : NAN;
    X2CT_UNROLL
    for (uint32_t k = 0; k < kFinishItems; ++k) {
        const uint64_t i = (uint64_t(blockIdx.x) * kFinishItems + k) * FinishConfig::threads + threadIdx.x;
        if (i >= voxels) return;
        const float value = p.slope * to_float(static_cast<const T*>(p.volume)[i]) + p.intercept;
        const float slope = value < p.floor ? 0.0f : p.slope;
        const float sum = float(static_cast<long long>(p.sums[i])) * unit;
        write_gradient(static_cast<T*>(p.gradient) + i, slope * sum, p.accumulate);
    }
}

X2CT_KERNEL(drr_siddon_f32, DrrParams, DrrConfig, line_integral<Siddon, float>)
X2CT_KERNEL(drr_siddon_bf16, DrrParams, DrrConfig, line_integral<Siddon, bf16>)
X2CT_KERNEL(drr_siddon_i16, DrrParams, DrrConfig, line_integral<Siddon, int16_t>)
X2CT_KERNEL(drr_siddon_naive_f32, DrrParams, DrrConfig, line_integral<SiddonNaive, float>)
X2CT_KERNEL(drr_siddon_naive_bf16, DrrParams, DrrConfig, line_integral<SiddonNaive, bf16>)
X2CT_KERNEL(drr_siddon_naive_i16, DrrParams, DrrConfig, line_integral<SiddonNaive, int16_t>)
X2CT_KERNEL(drr_trilinear_f32, DrrParams, DrrConfig, line_integral<Trilinear, float>)
X2CT_KERNEL(drr_trilinear_bf16, DrrParams, DrrConfig, line_integral<Trilinear, bf16>)
X2CT_KERNEL(drr_trilinear_i16, DrrParams, DrrConfig, line_integral<Trilinear, int16_t>)
X2CT_KERNEL(drr_trilinear_naive_f32, DrrParams, DrrConfig, line_integral<TrilinearNaive, float>)
X2CT_KERNEL(drr_trilinear_naive_bf16, DrrParams, DrrConfig, line_integral<TrilinearNaive, bf16>)
X2CT_KERNEL(drr_trilinear_naive_i16, DrrParams, DrrConfig, line_integral<TrilinearNaive, int16_t>)
X2CT_KERNEL(drr_peak, DrrParams, PeakConfig, upstream_peak)
X2CT_KERNEL(drr_siddon_adjoint, DrrParams, DrrConfig, line_integral_adjoint<Siddon>)
X2CT_KERNEL(drr_siddon_naive_adjoint, DrrParams, DrrConfig, line_integral_adjoint<SiddonNaive>)
X2CT_KERNEL(drr_trilinear_adjoint, DrrParams, DrrConfig, line_integral_adjoint<Trilinear>)
X2CT_KERNEL(drr_trilinear_naive_adjoint, DrrParams, DrrConfig, line_integral_adjoint<TrilinearNaive>)
X2CT_KERNEL(drr_finish_f32, DrrParams, FinishConfig, adjoint_finish<float>)
X2CT_KERNEL(drr_finish_bf16, DrrParams, FinishConfig, adjoint_finish<bf16>)

// ---- mean projection

struct DrrMeanParams {
    const void* volume;
    const float* weights;  // [terms]
    float* image;          // [B, rows, columns]; adjoint: upstream, read
    void* gradient;        // adjoint: as the volume
    uint64_t voxels;       // of one volume
    int64_t row, column, term;  // elements from one voxel to the next along the image's rows, columns, and the sum
    uint32_t batch, rows, columns, terms;
    float slope, intercept, low, high;
    uint32_t accumulate;
};
X2CT_FIELDS(DrrMeanParams, volume, weights, image, gradient, voxels, row, column, term, batch, rows, columns, terms, slope, intercept, low, high, accumulate)

constexpr uint32_t kMeanWidth = 8;  // columns of a thread
struct DrrMeanConfig : KernelDefaults {
    static constexpr uint32_t threads = 128;
    static constexpr uint32_t tile0 = kMeanWidth;
    static constexpr uint32_t tile1 = threads * 8;  // voxels of a block of the adjoint
};

X2CT_DEVICE float clipped(float value, float low, float high) {
    return value < low ? low : value > high ? high : value;  // NaN stays NaN
}

template <class T>
X2CT_DEVICE void mean_forward(const DrrMeanParams& p) {
    const uint32_t across = (p.columns + kMeanWidth - 1) / kMeanWidth;
    const uint64_t item = uint64_t(blockIdx.x) * DrrMeanConfig::threads + threadIdx.x;
    const uint64_t line = item / across;
    if (line >= uint64_t(p.batch) * p.rows) return;
    const uint32_t c = uint32_t(item % across) * kMeanWidth, width = min(kMeanWidth, p.columns - c);
    const uint32_t volume = uint32_t(line / p.rows), r = uint32_t(line % p.rows);
    const T* voxels = static_cast<const T*>(p.volume) + volume * p.voxels + r * p.row + c * p.column;
    // f64: sums of hundreds of voxels are asked for to 1e-3 HU, and the pass waits for memory anyway.
    double sum[kMeanWidth] = {};
    if (width == kMeanWidth && p.column == 1) {
        for (uint32_t k = 0; k < p.terms; ++k) {
            const float w = p.weights[k];
            const T* from = voxels + k * p.term;
            X2CT_UNROLL
            for (uint32_t j = 0; j < kMeanWidth; ++j)
                sum[j] += double(w * clipped(p.slope * to_float(from[j]) + p.intercept, p.low, p.high));
        }
    } else {
        for (uint32_t k = 0; k < p.terms; ++k) {
            const float w = p.weights[k];
            const T* from = voxels + k * p.term;
            X2CT_UNROLL
            for (uint32_t j = 0; j < kMeanWidth; ++j)
                if (j < width) sum[j] += double(w * clipped(p.slope * to_float(from[j * p.column]) + p.intercept, p.low, p.high));
        }
    }
    float* image = p.image + line * p.columns + c;
    X2CT_UNROLL
    for (uint32_t j = 0; j < kMeanWidth; ++j)
        if (j < width) image[j] = float(sum[j]);
}

// Every voxel lies on one line of the sum: its gradient is one product.
template <class T>
X2CT_DEVICE void mean_backward(const DrrMeanParams& p) {
    const uint64_t total = p.voxels * p.batch;
    for (uint32_t k = 0; k < DrrMeanConfig::tile1 / DrrMeanConfig::threads; ++k) {
        uint64_t item = uint64_t(blockIdx.x) * DrrMeanConfig::tile1 + k * DrrMeanConfig::threads + threadIdx.x;
        if (item >= total) return;
        const uint32_t c = uint32_t(item % p.columns);
        item /= p.columns;
        const uint32_t r = uint32_t(item % p.rows);
        item /= p.rows;
        const uint32_t term = uint32_t(item % p.terms), volume = uint32_t(item / p.terms);
        const uint64_t voxel = volume * p.voxels + r * p.row + c * p.column + term * p.term;
        const float value = p.slope * to_float(static_cast<const T*>(p.volume)[voxel]) + p.intercept;
        const float slope = value < p.low || value > p.high ? 0.0f : p.slope;
        const float upstream = p.image[(uint64_t(volume) * p.rows + r) * p.columns + c];
        write_gradient(static_cast<T*>(p.gradient) + voxel, slope * p.weights[term] * upstream, p.accumulate);
    }
}

X2CT_KERNEL(drr_mean_f32, DrrMeanParams, DrrMeanConfig, mean_forward<float>)
X2CT_KERNEL(drr_mean_bf16, DrrMeanParams, DrrMeanConfig, mean_forward<bf16>)
X2CT_KERNEL(drr_mean_i16, DrrMeanParams, DrrMeanConfig, mean_forward<int16_t>)
X2CT_KERNEL(drr_mean_backward_f32, DrrMeanParams, DrrMeanConfig, mean_backward<float>)
X2CT_KERNEL(drr_mean_backward_bf16, DrrMeanParams, DrrMeanConfig, mean_backward<bf16>)
