// A CT volume on another grid, ready for a network, in one pass: Hounsfield units, clip, trilinear resize, clip, scale,
// centre crop or pad, transposition.
//
//   h = clip(stored, stored_low, stored_high)      the clip before the resize, in stored units (slope > 0 moves outside it)
//   v = slope * trilinear(h) + intercept           output i of an axis samples the input at (i + 1/2) from / to - 1/2, held at
//                                                  the edges (PyTorch, align_corners = False)
//   out = scale * clip(v, low, high) + shift       and `pad` outside the resized volume
//
//   volume   int16, f32 or bf16, any axis order: element first + x stride[0] + y stride[1] + z stride[2], B of them
//   out      f32 or bf16, size[0] x size[1] x size[2] under its own strides; resized index = out index + offset
//
// Gradient: a gather; a voxel looks for the outputs whose samples touch it, found by the same integer arithmetic.
//
// Bytes: the volume once, the output once. Variants: 0 naive (a thread an output, in output order), 1 tiles of 32 x 32 in
// (x, y) that are read along x and written along y through shared memory where the output's fastest axis is y.
// Test: cargo test --release ops::resample     Time: x2ct bench resample
#include "common/common.h"

struct ResampleParams {
    const void* volume;
    void* out;             // forward: written; backward: the forward result, read where the clip after the resize acts
    const void* upstream;  // backward: gradient of out
    void* gradient;        // backward: as the volume, element for element
    int64_t first, stride[3], volume_stride;
    int64_t out_stride[3], out_volume_stride;
    uint32_t batch, from[3], to[3], size[3];
    int32_t offset[3];
    float slope, intercept, stored_low, stored_high, low, high, scale, shift, pad;
    uint32_t accumulate;
};
X2CT_FIELDS(ResampleParams, volume, out, upstream, gradient, first, stride, volume_stride, out_stride, out_volume_stride, batch, from, to, size, offset, slope, intercept, stored_low, stored_high, low, high, scale, shift, pad, accumulate)

// Where an output samples one axis: between voxels i and j, w of the way.
struct Tap {
    uint32_t i, j;
    float w;
};

// Idea: the coordinate is a ratio of small integers, ((2 r + 1) from - to) / (2 to), so index and weight come out exact without
// f64. Sizes up to 32767 keep it in 32 bits.
X2CT_DEVICE Tap tap(uint32_t r, uint32_t from, uint32_t to) {
    const uint32_t ahead = (2 * r + 1) * from;
    const uint32_t at = ahead > to ? ahead - to : 0;
    const uint32_t i = at / (2 * to);
    return {i, min(i + 1, from - 1), float(at - i * 2 * to) / float(2 * to)};
}

X2CT_DEVICE float clipped(float value, float low, float high) {
    return value < low ? low : value > high ? high : value;  // NaN stays NaN
}

template <class T>
X2CT_DEVICE float sample(const ResampleParams& p, const T* voxels, const Tap& x, const Tap& y, const Tap& z) {
    const auto at = [&](uint32_t i, int64_t line) {
        return clipped(to_float(voxels[line + i * p.stride[0]]), p.stored_low, p.stored_high);
    };
    const auto along_x = [&](uint32_t j, uint32_t k) {
        const int64_t line = j * p.stride[1] + k * p.stride[2];
        const float a = at(x.i, line);
        return a + x.w * (at(x.j, line) - a);
    };
    const auto along_xy = [&](uint32_t k) {
        const float a = along_x(y.i, k);
        return a + y.w * (along_x(y.j, k) - a);
    };
    const float a = along_xy(z.i);
    const float v = p.slope * (a + z.w * (along_xy(z.j) - a)) + p.intercept;
    return p.scale * clipped(v, p.low, p.high) + p.shift;
}

struct ResampleConfig : KernelDefaults {
    static constexpr uint32_t threads = 128;
    static constexpr uint32_t tile0 = 32, tile1 = 32;      // x and y of a block of the tiled variant
    static constexpr uint32_t tile2 = threads * 8;         // outputs of a block of the naive variant, voxels of the backward
    static constexpr uint32_t lines = threads / tile0;     // rows of a tile that the block does at a time
    struct Shared {
        float tile[tile1][tile0 + 1];  // + 1: a column is read without bank conflicts
    };
};

// Whether output index `o` of an axis lies inside the resized volume; `r` receives its place there.
X2CT_DEVICE bool inside(const ResampleParams& p, int axis, uint32_t o, uint32_t& r) {
    r = o + uint32_t(p.offset[axis]);  // wraps below 0, which is then beyond `to`
    return r < p.to[axis];
}

template <class In, class Out>
X2CT_DEVICE void resample_naive(const ResampleParams& p) {
    const uint64_t total = uint64_t(p.batch) * p.size[2] * p.size[1] * p.size[0];
    for (uint32_t k = 0; k < ResampleConfig::tile2 / ResampleConfig::threads; ++k) {
        uint64_t item = uint64_t(blockIdx.x) * ResampleConfig::tile2 + k * ResampleConfig::threads + threadIdx.x;
        if (item >= total) return;
        const uint32_t x = uint32_t(item % p.size[0]);
        item /= p.size[0];
        const uint32_t y = uint32_t(item % p.size[1]);
        item /= p.size[1];
        const uint32_t z = uint32_t(item % p.size[2]), volume = uint32_t(item / p.size[2]);
        const In* voxels = static_cast<const In*>(p.volume) + volume * p.volume_stride + p.first;
        uint32_t rx, ry, rz;
        float value = p.pad;
        if (inside(p, 0, x, rx) & inside(p, 1, y, ry) & inside(p, 2, z, rz))
            value = sample(p, voxels, tap(rx, p.from[0], p.to[0]), tap(ry, p.from[1], p.to[1]), tap(rz, p.from[2], p.to[2]));
        const int64_t at = volume * p.out_volume_stride + x * p.out_stride[0] + y * p.out_stride[1] + z * p.out_stride[2];
        static_cast<Out*>(p.out)[at] = from_float<Out>(value);
    }
}

template <class In, class Out>
X2CT_DEVICE void resample_tiled(const ResampleParams& p) {
    using C = ResampleConfig;
    auto& tile = shared_memory<C::Shared>().tile;
    const uint32_t across = (p.size[0] + C::tile0 - 1) / C::tile0, down = (p.size[1] + C::tile1 - 1) / C::tile1;
    uint32_t block = blockIdx.x;
    const uint32_t x0 = block % across * C::tile0;
    block /= across;
    const uint32_t y0 = block % down * C::tile1;
    block /= down;
    const uint32_t z = block % p.size[2], volume = block / p.size[2];
    const In* voxels = static_cast<const In*>(p.volume) + volume * p.volume_stride + p.first;
    Out* out = static_cast<Out*>(p.out) + volume * p.out_volume_stride + z * p.out_stride[2];

    const uint32_t lane = threadIdx.x % C::tile0, line = threadIdx.x / C::tile0, x = x0 + lane;
    const bool turned = p.out_stride[1] == 1;  // the same for every thread
    uint32_t rx, ry, rz;
    const bool column = inside(p, 0, x, rx) & inside(p, 2, z, rz);
    const Tap tx = tap(column ? rx : 0, p.from[0], p.to[0]), tz = tap(column ? rz : 0, p.from[2], p.to[2]);
    for (uint32_t j = line; j < C::tile1; j += C::lines) {
        const uint32_t y = y0 + j;
        const float value = column & inside(p, 1, y, ry) ? sample(p, voxels, tx, tap(ry, p.from[1], p.to[1]), tz) : p.pad;
        if (turned)
            tile[j][lane] = value;
        else if (x < p.size[0] && y < p.size[1])
            out[x * p.out_stride[0] + y * p.out_stride[1]] = from_float<Out>(value);
    }
    if (!turned) return;
    __syncthreads();  // a thread writes what others sampled
    for (uint32_t j = line; j < C::tile0; j += C::lines)
        if (x0 + j < p.size[0] && y0 + lane < p.size[1])
            out[(x0 + j) * p.out_stride[0] + (y0 + lane)] = from_float<Out>(tile[lane][j]);
}

// How much of output r's value on one axis comes from voxel v.
X2CT_DEVICE float share(uint32_t v, uint32_t r, uint32_t from, uint32_t to) {
    const Tap t = tap(r, from, to);
    return (t.i == v ? 1.0f - t.w : 0.0f) + (t.j == v ? t.w : 0.0f);
}

// Outputs [begin, end) of one axis, among those kept, that voxel v may touch: one more on either side than the coordinate
// says, since `share` is exact.
struct Touched {
    uint32_t begin, end;
};
X2CT_DEVICE Touched touched(const ResampleParams& p, int axis, uint32_t v) {
    const uint32_t from = p.from[axis], to = p.to[axis];
    uint32_t begin = v == 0 ? 0 : (2 * v - 1) * to / (2 * from);
    begin = begin > 0 ? begin - 1 : 0;
    const uint32_t end = v + 1 == from ? to : min(to, (2 * v + 3) * to / (2 * from) + 2);
    const int64_t kept_begin = p.offset[axis], kept_end = kept_begin + p.size[axis];
    const uint32_t low = uint32_t(max(int64_t(begin), kept_begin)), high = uint32_t(max(min(int64_t(end), kept_end), int64_t(0)));
    return {low, max(low, high)};
}

template <class In, class Out>
X2CT_DEVICE void resample_backward(const ResampleParams& p) {
    const uint64_t total = uint64_t(p.batch) * p.from[2] * p.from[1] * p.from[0];
    // What the clip after the resize makes of its limits, in the output's own rounding.
    const float floor = to_float(from_float<Out>(p.scale * p.low + p.shift)), ceiling = to_float(from_float<Out>(p.scale * p.high + p.shift));
    for (uint32_t k = 0; k < ResampleConfig::tile2 / ResampleConfig::threads; ++k) {
        uint64_t item = uint64_t(blockIdx.x) * ResampleConfig::tile2 + k * ResampleConfig::threads + threadIdx.x;
        if (item >= total) return;
        const uint32_t x = uint32_t(item % p.from[0]);
        item /= p.from[0];
        const uint32_t y = uint32_t(item % p.from[1]);
        item /= p.from[1];
        const uint32_t z = uint32_t(item % p.from[2]), volume = uint32_t(item / p.from[2]);
        const int64_t voxel = volume * p.volume_stride + p.first + x * p.stride[0] + y * p.stride[1] + z * p.stride[2];
        const float stored = to_float(static_cast<const In*>(p.volume)[voxel]);
        const Touched xs = touched(p, 0, x), ys = touched(p, 1, y), zs = touched(p, 2, z);
        float sum = 0.0f;
        for (uint32_t rz = zs.begin; rz < zs.end; ++rz) {
            const float wz = share(z, rz, p.from[2], p.to[2]);
            for (uint32_t ry = ys.begin; ry < ys.end && wz != 0.0f; ++ry) {
                const float wy = wz * share(y, ry, p.from[1], p.to[1]);
                for (uint32_t rx = xs.begin; rx < xs.end && wy != 0.0f; ++rx) {
                    const float weight = wy * share(x, rx, p.from[0], p.to[0]);
                    const int64_t at = volume * p.out_volume_stride + (int64_t(rx) - p.offset[0]) * p.out_stride[0] +
                                       (int64_t(ry) - p.offset[1]) * p.out_stride[1] + (int64_t(rz) - p.offset[2]) * p.out_stride[2];
                    if (weight == 0.0f) continue;
                    const float result = to_float(static_cast<const Out*>(p.out)[at]);
                    if (result == floor || result == ceiling) continue;
                    sum += weight * to_float(static_cast<const Out*>(p.upstream)[at]);
                }
            }
        }
        const bool blocked = stored < p.stored_low || stored > p.stored_high;
        write_gradient(static_cast<In*>(p.gradient) + voxel, blocked ? 0.0f : p.scale * p.slope * sum, p.accumulate);
    }
}

X2CT_KERNEL(resample_f32_f32, ResampleParams, ResampleConfig, resample_tiled<float, float>)
X2CT_KERNEL(resample_f32_bf16, ResampleParams, ResampleConfig, resample_tiled<float, bf16>)
X2CT_KERNEL(resample_bf16_f32, ResampleParams, ResampleConfig, resample_tiled<bf16, float>)
X2CT_KERNEL(resample_bf16_bf16, ResampleParams, ResampleConfig, resample_tiled<bf16, bf16>)
X2CT_KERNEL(resample_i16_f32, ResampleParams, ResampleConfig, resample_tiled<int16_t, float>)
X2CT_KERNEL(resample_i16_bf16, ResampleParams, ResampleConfig, resample_tiled<int16_t, bf16>)
X2CT_KERNEL(resample_naive_f32_f32, ResampleParams, ResampleConfig, resample_naive<float, float>)
X2CT_KERNEL(resample_naive_f32_bf16, ResampleParams, ResampleConfig, resample_naive<float, bf16>)
X2CT_KERNEL(resample_naive_bf16_f32, ResampleParams, ResampleConfig, resample_naive<bf16, float>)
X2CT_KERNEL(resample_naive_bf16_bf16, ResampleParams, ResampleConfig, resample_naive<bf16, bf16>)
X2CT_KERNEL(resample_naive_i16_f32, ResampleParams, ResampleConfig, resample_naive<int16_t, float>)
X2CT_KERNEL(resample_naive_i16_bf16, ResampleParams, ResampleConfig, resample_naive<int16_t, bf16>)
X2CT_KERNEL(resample_backward_f32_f32, ResampleParams, ResampleConfig, resample_backward<float, float>)
X2CT_KERNEL(resample_backward_f32_bf16, ResampleParams, ResampleConfig, resample_backward<float, bf16>)
X2CT_KERNEL(resample_backward_bf16_f32, ResampleParams, ResampleConfig, resample_backward<bf16, float>)
X2CT_KERNEL(resample_backward_bf16_bf16, ResampleParams, ResampleConfig, resample_backward<bf16, bf16>)
