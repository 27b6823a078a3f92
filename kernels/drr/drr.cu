// Radiographs from CT: line integrals and mean projections, each with its adjoint, and the gradient of the geometry.
//
//   volume   int16, f32 or bf16 [B, Z, Y, X], x fastest; value = max(floor, slope * stored + intercept)
//   image    f32 [B, V, H, W]          p[b,v,r,c] = sum over voxels of value * weight; image = gain * response(p) + shift
//   Siddon     weight = millimetres of the ray inside the voxel (Siddon 1985)
//   Joseph     bilinear on the planes of the steepest axis (Joseph 1982)
//   trilinear  weight of the midpoint rule on the trilinear interpolant
//   mean     image f32 [B, rows, columns] = sum over the third axis of w[k] * clip(slope * stored + intercept, low, high)
//
// Gradient of the volume: the adjoint walks the very same rays and adds weight * upstream to the voxels. The sums are 64-bit
// integers in units of a power of two, so the order of the additions does not matter and the result is deterministic; the
// unit comes from the largest upstream value and leaves at least 2^-35 of it for a million rays. A last pass makes it f32 or
// bf16 and applies the chain rule of `value`. The mean's adjoint is a gather. Gradient of the geometry: drr_pose.cuh.
//
// Bytes: the volume once (views share it through L2: blocks of all views that look at the same rows run side by side), the
// images once. The adjoint adds 8 bytes a voxel, twice; the geometry's gradient 24 bytes a ray, twice.
// Variants: 0 naive (nearest of three planes; bounds tested for every neighbour), 1 slab by slab, interior without tests, air
// skipped where a map of bricks is given (drr_bricks.cuh), int16 voxels by four along x where asked for, 2 the same with
// every ray in 8 parts, for detectors of fewer pixels than the GPU has threads.
// Test: cargo test --release ops::drr     Time: x2ct bench drr
#include "drr_mean.cuh"
#include "drr_params.cuh"
#include "drr_ray.cuh"
#include "drr_rules.cuh"

struct DrrConfig : KernelDefaults {
    static constexpr uint32_t threads = 128;
    static constexpr uint32_t tile0 = 16, tile1 = 8;  // columns and rows of a block: neighbouring rays share voxels
    static_assert(tile0 * tile1 == threads, "one thread, one ray");
};

// A warp, a part of 32 rays.
struct DrrSplitConfig : KernelDefaults {
    static constexpr uint32_t threads = 256;
    static constexpr uint32_t tile0 = 16, tile1 = 2;
    static constexpr uint32_t parts = threads / (tile0 * tile1);
    static_assert(tile0 * tile1 == 32, "a warp takes one part of its rays");
    struct Shared {
        float sum[parts][32];
    };
};

struct BricksConfig : KernelDefaults {
    static constexpr uint32_t tile0 = threads;  // bricks of a block
};

// Where a thread works.
struct DrrPlace {
    uint32_t view, volume, r, c;
    uint64_t pixel;
    bool inside;
};

// Blocks run over column tiles, then views, then row tiles, then volumes: views that look at the same slab of the volume from
// different sides read it while it is in L2.
template <class Config>
X2CT_DEVICE DrrPlace place_of(const DrrParams& p) {
    const uint32_t across = (p.columns + Config::tile0 - 1) / Config::tile0, down = (p.rows + Config::tile1 - 1) / Config::tile1;
    const uint32_t ray = threadIdx.x % (Config::tile0 * Config::tile1);
    uint32_t block = blockIdx.x;
    DrrPlace at;
    at.c = block % across * Config::tile0 + ray % Config::tile0;
    block /= across;
    const uint32_t view = block % p.count;
    block /= p.count;
    at.r = block % down * Config::tile1 + ray / Config::tile0;
    at.volume = block / down;
    at.view = at.volume * p.view_stride + view;
    at.pixel = ((uint64_t(at.volume) * p.count + view) * p.rows + at.r) * p.columns + at.c;
    at.inside = at.r < p.rows && at.c < p.columns;
    return at;
}

// Runs f(view, r, c, volume index, pixel index) for this thread's pixel.
template <class Config, class F>
X2CT_DEVICE void for_pixel(const DrrParams& p, F f) {
    const DrrPlace at = place_of<Config>(p);
    if (at.inside) f(p.views[at.view], at.r, at.c, at.volume, at.pixel);
}

#include "drr_bricks.cuh"
#include "drr_pose.cuh"

struct Siddon {
    static constexpr double margin = 0.0;
    template <bool AlongX, class Visit>
    static X2CT_DEVICE void walk(const DrrRay& ray, double from, double to, const DrrParams& p, Visit visit) {
        siddon_slabs(part_of(ray, from, to), p.n, visit);
    }
};
struct SiddonNaive {
    static constexpr double margin = 0.0;
    template <bool AlongX = false, class Visit>
    static X2CT_DEVICE void walk(const DrrRay& ray, double from, double to, const DrrParams& p, Visit visit) {
        siddon_planes(part_of(ray, from, to), p.n, visit);
    }
};
struct Joseph {
    static constexpr double margin = 0.5;
    template <bool AlongX, class Visit>
    static X2CT_DEVICE void walk(const DrrRay& ray, double from, double to, const DrrParams& p, Visit visit) {
        joseph_planes<!AlongX>(ray, from, to, p.n, visit);
    }
};
struct JosephNaive {
    static constexpr double margin = 0.5;
    template <bool AlongX = false, class Visit>
    static X2CT_DEVICE void walk(const DrrRay& ray, double from, double to, const DrrParams& p, Visit visit) {
        joseph_naive(ray, from, to, p.n, visit);
    }
};
struct Trilinear {
    static constexpr double margin = 0.5;
    template <bool AlongX, class Visit>
    static X2CT_DEVICE void walk(const DrrRay& ray, double from, double to, const DrrParams& p, Visit visit) {
        trilinear_march(ray, from, to, p.n, p.step, visit);
    }
};
struct TrilinearNaive {
    static constexpr double margin = 0.5;
    template <bool AlongX = false, class Visit>
    static X2CT_DEVICE void walk(const DrrRay& ray, double from, double to, const DrrParams& p, Visit visit) {
        trilinear_naive(ray, from, to, p.n, p.step, visit);
    }
};

// Voxels as floats, one load each.
template <class T>
struct VoxelReader {
    const T* voxels;
    template <int S, class Index>
    X2CT_DEVICE float operator()(Slot<S>, Index voxel) const {
        return to_float(voxels[voxel]);
    }
};

// int16 voxels by four. A ray along x finds the next three voxels in the word read last: a quarter of the loads, each of which
// takes a memory sector of its own for every lane. For volumes of a multiple of four voxels, aligned to 8 bytes.
struct QuadReader {
    const int16_t* voxels;
    int32_t held[4] = {-1, -1, -1, -1};
    uint64_t word[4];

    X2CT_DEVICE explicit QuadReader(const int16_t* from) : voxels(from) {}
    static X2CT_DEVICE bool fits(const int16_t* from, uint64_t count) {
        return reinterpret_cast<uintptr_t>(from) % sizeof(uint64_t) == 0 && count % 4 == 0;
    }
    template <int S>
    X2CT_DEVICE float operator()(Slot<S>, int32_t voxel) {
        if (voxel >> 2 != held[S]) {
            held[S] = voxel >> 2;
            word[S] = load_vec<1>(reinterpret_cast<const uint64_t*>(voxels) + held[S]).v[0];
        }
        return float(int16_t(word[S] >> (voxel & 3) * 16));
    }
};

// The sum of a ray between two of its positions.
template <class Rule, bool AlongX, class T, class Reader>
X2CT_DEVICE float ray_sum(const DrrParams& p, const DrrRay& ray, double from, double to, Reader read) {
    float sum = 0.0f;
    Rule::template walk<AlongX>(ray, from, to, p, [&](auto slot, auto voxel, float weight) {
        sum += value_of<T>(p, read(slot, voxel)) * weight;
    });
    return sum;
}

// The same over part `part` of `parts` of the whole ray.
template <class Rule, class T>
X2CT_DEVICE float integrate(const DrrParams& p, const DrrPlace& at, uint32_t part, uint32_t parts) {
    const T* voxels = one_value(static_cast<const T*>(p.volume) + at.volume * p.voxels);
    const uint8_t* bricks = p.bricks ? p.bricks + at.volume * bricks_of(p.n) : nullptr;
    const DrrRay ray = make_ray(p.views[at.view], at.r, at.c, p.n, Rule::margin);
    double from = ray.begin, to = ray.end;
    clip_to_bricks(ray, bricks, p.n, from, to);
    const double share = (to - from) / parts, begin = from + share * part, end = part + 1 == parts ? to : from + share * (part + 1);
    if (steepest_axis(ray) != 0) return ray_sum<Rule, false, T>(p, ray, begin, end, VoxelReader<T>{voxels});
    if constexpr (std::is_same<T, int16_t>::value)
        if (p.by_four && QuadReader::fits(voxels, p.voxels)) return ray_sum<Rule, true, T>(p, ray, begin, end, QuadReader(voxels));
    return ray_sum<Rule, true, T>(p, ray, begin, end, VoxelReader<T>{voxels});
}

X2CT_DEVICE void write_pixel(const DrrParams& p, uint64_t pixel, float sum) {
    if (p.integrals) p.integrals[pixel] = sum;
    const float response = p.response == kIntegral ? sum : p.response == kTransmission ? expf(-sum) : -expm1f(-sum);
    p.image[pixel] = p.gain * response + p.shift;
}

template <class Rule, class T>
X2CT_DEVICE void line_integral(const DrrParams& p) {
    const DrrPlace at = place_of<DrrConfig>(p);
    if (at.inside) write_pixel(p, at.pixel, integrate<Rule, T>(p, at, 0, 1));
}

template <class Rule, class T>
X2CT_DEVICE void line_integral_naive(const DrrParams& p) {
    for_pixel<DrrConfig>(p, [&p](const DrrView& view, uint32_t r, uint32_t c, uint32_t volume, uint64_t pixel) {
        const T* voxels = static_cast<const T*>(p.volume) + volume * p.voxels;
        const DrrRay ray = make_ray(view, r, c, p.n, Rule::margin);
        float sum = 0.0f;
        Rule::walk(ray, ray.begin, ray.end, p, [&](auto, auto voxel, float weight) {
            sum += value_of<T>(p, to_float(voxels[voxel])) * weight;
        });
        write_pixel(p, pixel, sum);
    });
}

// Neighbouring rays stay in neighbouring lanes; the parts of a ray are in as many warps and are added in order.
template <class Rule, class T>
X2CT_DEVICE void line_integral_split(const DrrParams& p) {
    auto& sum = shared_memory<DrrSplitConfig::Shared>().sum;
    const DrrPlace at = place_of<DrrSplitConfig>(p);
    const uint32_t part = threadIdx.x / 32, lane = threadIdx.x % 32;
    sum[part][lane] = at.inside ? integrate<Rule, T>(p, at, part, DrrSplitConfig::parts) : 0.0f;
    __syncthreads();
    if (part > 0 || !at.inside) return;
    float total = 0.0f;
    X2CT_UNROLL
    for (uint32_t k = 0; k < DrrSplitConfig::parts; ++k) total += sum[k][lane];
    write_pixel(p, at.pixel, total);
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
        if (i < pixels) most = max(most, __float_as_uint(upstream_of(p, i)) & 0x7fffffffu);
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
    for_pixel<DrrConfig>(p, [&p](const DrrView& view, uint32_t r, uint32_t c, uint32_t volume, uint64_t pixel) {
        const float upstream = upstream_of(p, pixel) * power_of_two(unit_exponent(p));
        if (upstream == 0.0f) return;
        unsigned long long* sums = reinterpret_cast<unsigned long long*>(p.sums) + volume * p.voxels;
        const DrrRay ray = make_ray(view, r, c, p.n, Rule::margin);
        const auto scatter = [&](auto, auto voxel, float weight) {
            atomicAdd(sums + voxel, (unsigned long long)(llrintf(upstream * weight)));
        };
        if (steepest_axis(ray) == 0)
            Rule::template walk<true>(ray, ray.begin, ray.end, p, scatter);
        else
            Rule::template walk<false>(ray, ray.begin, ray.end, p, scatter);
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

/// Exact line integrals.
X2CT_KERNEL(drr_siddon_f32, DrrParams, DrrConfig, line_integral<Siddon, float>)
X2CT_KERNEL(drr_siddon_bf16, DrrParams, DrrConfig, line_integral<Siddon, bf16>)
X2CT_KERNEL(drr_siddon_i16, DrrParams, DrrConfig, line_integral<Siddon, int16_t>)
/// Exact line integrals, the readable reference.
X2CT_KERNEL(drr_siddon_naive_f32, DrrParams, DrrConfig, line_integral_naive<SiddonNaive, float>)
X2CT_KERNEL(drr_siddon_naive_bf16, DrrParams, DrrConfig, line_integral_naive<SiddonNaive, bf16>)
X2CT_KERNEL(drr_siddon_naive_i16, DrrParams, DrrConfig, line_integral_naive<SiddonNaive, int16_t>)
/// Exact line integrals, each ray in parts.
X2CT_KERNEL(drr_siddon_split_f32, DrrParams, DrrSplitConfig, line_integral_split<Siddon, float>)
X2CT_KERNEL(drr_siddon_split_bf16, DrrParams, DrrSplitConfig, line_integral_split<Siddon, bf16>)
X2CT_KERNEL(drr_siddon_split_i16, DrrParams, DrrSplitConfig, line_integral_split<Siddon, int16_t>)
/// Line integrals, bilinear on planes.
X2CT_KERNEL(drr_joseph_f32, DrrParams, DrrConfig, line_integral<Joseph, float>)
X2CT_KERNEL(drr_joseph_bf16, DrrParams, DrrConfig, line_integral<Joseph, bf16>)
X2CT_KERNEL(drr_joseph_i16, DrrParams, DrrConfig, line_integral<Joseph, int16_t>)
/// Line integrals, bilinear on planes, the readable reference.
X2CT_KERNEL(drr_joseph_naive_f32, DrrParams, DrrConfig, line_integral_naive<JosephNaive, float>)
X2CT_KERNEL(drr_joseph_naive_bf16, DrrParams, DrrConfig, line_integral_naive<JosephNaive, bf16>)
X2CT_KERNEL(drr_joseph_naive_i16, DrrParams, DrrConfig, line_integral_naive<JosephNaive, int16_t>)
/// Line integrals, bilinear on planes, each ray in parts.
X2CT_KERNEL(drr_joseph_split_f32, DrrParams, DrrSplitConfig, line_integral_split<Joseph, float>)
X2CT_KERNEL(drr_joseph_split_bf16, DrrParams, DrrSplitConfig, line_integral_split<Joseph, bf16>)
X2CT_KERNEL(drr_joseph_split_i16, DrrParams, DrrSplitConfig, line_integral_split<Joseph, int16_t>)
/// Line integrals of the trilinear interpolant by the midpoint rule.
X2CT_KERNEL(drr_trilinear_f32, DrrParams, DrrConfig, line_integral<Trilinear, float>)
X2CT_KERNEL(drr_trilinear_bf16, DrrParams, DrrConfig, line_integral<Trilinear, bf16>)
X2CT_KERNEL(drr_trilinear_i16, DrrParams, DrrConfig, line_integral<Trilinear, int16_t>)
/// Line integrals of the trilinear interpolant by the midpoint rule, the readable reference.
X2CT_KERNEL(drr_trilinear_naive_f32, DrrParams, DrrConfig, line_integral_naive<TrilinearNaive, float>)
X2CT_KERNEL(drr_trilinear_naive_bf16, DrrParams, DrrConfig, line_integral_naive<TrilinearNaive, bf16>)
X2CT_KERNEL(drr_trilinear_naive_i16, DrrParams, DrrConfig, line_integral_naive<TrilinearNaive, int16_t>)
/// Line integrals of the trilinear interpolant by the midpoint rule, each ray in parts.
X2CT_KERNEL(drr_trilinear_split_f32, DrrParams, DrrSplitConfig, line_integral_split<Trilinear, float>)
X2CT_KERNEL(drr_trilinear_split_bf16, DrrParams, DrrSplitConfig, line_integral_split<Trilinear, bf16>)
X2CT_KERNEL(drr_trilinear_split_i16, DrrParams, DrrSplitConfig, line_integral_split<Trilinear, int16_t>)
/// Which bricks are not all air.
X2CT_KERNEL(drr_bricks_f32, DrrParams, BricksConfig, mark_bricks<float>)
X2CT_KERNEL(drr_bricks_bf16, DrrParams, BricksConfig, mark_bricks<bf16>)
X2CT_KERNEL(drr_bricks_i16, DrrParams, BricksConfig, mark_bricks<int16_t>)
/// Adjoint, first pass: the largest upstream value.
X2CT_KERNEL(drr_peak, DrrParams, PeakConfig, upstream_peak)
/// Adjoint, second pass.
X2CT_KERNEL(drr_siddon_adjoint, DrrParams, DrrConfig, line_integral_adjoint<Siddon>)
/// Adjoint, second pass.
X2CT_KERNEL(drr_siddon_naive_adjoint, DrrParams, DrrConfig, line_integral_adjoint<SiddonNaive>)
/// Adjoint, second pass.
X2CT_KERNEL(drr_joseph_adjoint, DrrParams, DrrConfig, line_integral_adjoint<Joseph>)
/// Adjoint, second pass.
X2CT_KERNEL(drr_joseph_naive_adjoint, DrrParams, DrrConfig, line_integral_adjoint<JosephNaive>)
/// Adjoint, second pass.
X2CT_KERNEL(drr_trilinear_adjoint, DrrParams, DrrConfig, line_integral_adjoint<Trilinear>)
/// Adjoint, second pass.
X2CT_KERNEL(drr_trilinear_naive_adjoint, DrrParams, DrrConfig, line_integral_adjoint<TrilinearNaive>)
/// Adjoint, last pass: integers to the gradient.
X2CT_KERNEL(drr_finish_f32, DrrParams, FinishConfig, adjoint_finish<float>)
X2CT_KERNEL(drr_finish_bf16, DrrParams, FinishConfig, adjoint_finish<bf16>)
/// Pose, first pass: the gradient of every ray.
X2CT_KERNEL(drr_siddon_pose_f32, DrrParams, DrrConfig, ray_gradients<SiddonPose, float>)
X2CT_KERNEL(drr_siddon_pose_bf16, DrrParams, DrrConfig, ray_gradients<SiddonPose, bf16>)
X2CT_KERNEL(drr_siddon_pose_i16, DrrParams, DrrConfig, ray_gradients<SiddonPose, int16_t>)
/// Pose, first pass: the gradient of every ray.
X2CT_KERNEL(drr_joseph_pose_f32, DrrParams, DrrConfig, ray_gradients<JosephPose, float>)
X2CT_KERNEL(drr_joseph_pose_bf16, DrrParams, DrrConfig, ray_gradients<JosephPose, bf16>)
X2CT_KERNEL(drr_joseph_pose_i16, DrrParams, DrrConfig, ray_gradients<JosephPose, int16_t>)
/// Pose, first pass: the gradient of every ray.
X2CT_KERNEL(drr_trilinear_pose_f32, DrrParams, DrrConfig, ray_gradients<TrilinearPose, float>)
X2CT_KERNEL(drr_trilinear_pose_bf16, DrrParams, DrrConfig, ray_gradients<TrilinearPose, bf16>)
X2CT_KERNEL(drr_trilinear_pose_i16, DrrParams, DrrConfig, ray_gradients<TrilinearPose, int16_t>)
/// Pose, last pass: rays to views.
X2CT_KERNEL(drr_pose_sum, DrrParams, PoseSumConfig, sum_ray_gradients)

/// Weighted mean along one axis.
X2CT_KERNEL(drr_mean_f32, DrrMeanParams, DrrMeanConfig, mean_forward<float>)
X2CT_KERNEL(drr_mean_bf16, DrrMeanParams, DrrMeanConfig, mean_forward<bf16>)
X2CT_KERNEL(drr_mean_i16, DrrMeanParams, DrrMeanConfig, mean_forward<int16_t>)
/// Gradient of the weighted mean along one axis.
X2CT_KERNEL(drr_mean_backward_f32, DrrMeanParams, DrrMeanConfig, mean_backward<float>)
X2CT_KERNEL(drr_mean_backward_bf16, DrrMeanParams, DrrMeanConfig, mean_backward<bf16>)
