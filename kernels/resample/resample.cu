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
// Bytes: the volume once, the output once. Variants: 0 naive (a thread an output, in output order), 1 strips: a thread owns four
// neighbours along x and walks along y. It interpolates each source row once, in registers, and keeps two of them; taps along x
// and z are found once a strip, a tap along y once for four outputs. Where the output's fastest axis is y, four steps make a
// 4 x 4 block that is stored turned, 16 bytes at a time: no shared memory, no barrier.
// Test: cargo test --release ops::resample     Time: x2ct bench resample
#include "common/common.h"
#include "params.h"

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
    static constexpr uint32_t tile0 = 4, tile1 = 64;  // x and y of a thread's strip
    static constexpr uint32_t tile2 = threads * 8;    // outputs of a block of the naive variant, voxels of the backward
    static_assert(tile0 == 4 && tile1 % 4 == 0 && tile0 * tile1 <= 256, "blocks of 4 x 4 are turned; see `item` below");
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

// ---- strips

#ifdef __CUDACC__
X2CT_DEVICE Float4 all(float x) { return {x, x, x, x}; }
X2CT_DEVICE Float4 mix(const Float4& a, const Float4& b, const Float4& w) {
    Float4 r;
    X2CT_UNROLL
    for (int k = 0; k < 4; ++k) r[k] = a[k] + w[k] * (b[k] - a[k]);
    return r;
}
X2CT_DEVICE Float4 clipped(const Float4& v, const Float4& low, const Float4& high) {
    Float4 r;
    X2CT_UNROLL
    for (int k = 0; k < 4; ++k) r[k] = clipped(v[k], low[k], high[k]);
    return r;
}
X2CT_DEVICE Float4 affine(const Float4& v, const Float4& scale, const Float4& shift) {
    Float4 r;
    X2CT_UNROLL
    for (int k = 0; k < 4; ++k) r[k] = scale[k] * v[k] + shift[k];
    return r;
}
#else
inline Float4 all(float x) { return Float4{x, x, x, x}; }
inline Float4 mix(Float4 a, Float4 b, Float4 w) { return a + w * (b - a); }
inline Float4 clipped(Float4 v, Float4 low, Float4 high) {
    v = v < low ? low : v;
    return v > high ? high : v;
}
inline Float4 affine(Float4 v, Float4 scale, Float4 shift) { return scale * v + shift; }
#endif

// Voxels of one row at the places i and j.
template <class T>
X2CT_DEVICE void gather(const T* row, const int64_t (&i)[4], const int64_t (&j)[4], Float4& a, Float4& b) {
    a = Float4{to_float(row[i[0]]), to_float(row[i[1]]), to_float(row[i[2]]), to_float(row[i[3]])};
    b = Float4{to_float(row[j[0]]), to_float(row[j[1]]), to_float(row[j[2]]), to_float(row[j[3]])};
}
// The 4 x 4 block turned.
X2CT_DEVICE void turn(Float4 (&v)[4]) {
#ifdef __CUDACC__
    X2CT_UNROLL
    for (int r = 0; r < 4; ++r) {
        X2CT_UNROLL
        for (int c = r + 1; c < 4; ++c) {
            const float other = v[r][c];
            v[r][c] = v[c][r];
            v[c][r] = other;
        }
    }
#else
    typedef int32_t Int4 __attribute__((vector_size(16)));
    const Float4 a = __builtin_shuffle(v[0], v[1], Int4{0, 4, 1, 5}), b = __builtin_shuffle(v[0], v[1], Int4{2, 6, 3, 7});
    const Float4 c = __builtin_shuffle(v[2], v[3], Int4{0, 4, 1, 5}), d = __builtin_shuffle(v[2], v[3], Int4{2, 6, 3, 7});
    v[0] = __builtin_shuffle(a, c, Int4{0, 1, 4, 5});
    v[1] = __builtin_shuffle(a, c, Int4{2, 3, 6, 7});
    v[2] = __builtin_shuffle(b, d, Int4{0, 1, 4, 5});
    v[3] = __builtin_shuffle(b, d, Int4{2, 3, 6, 7});
#endif
}

// What a strip reads and how: four places along x in two slices.
template <class T>
struct Columns {
    const T *low, *high;  // the slices
    int64_t stride;       // from row to row
    int64_t i[4], j[4];
    Float4 between, w;    // the slices, the places
    Float4 floor, ceiling;
    bool paired;          // on a processor: j[k] = i[k] + 1

    // Source row y at the four places.
    X2CT_DEVICE Float4 row(uint32_t y) const {
        const int64_t line = y * stride;
        Float4 a, b, c, d;
        both(low + line, a, b);
        both(high + line, c, d);
        a = mix(clipped(a, floor, ceiling), clipped(c, floor, ceiling), between);
        b = mix(clipped(b, floor, ceiling), clipped(d, floor, ceiling), between);
        return mix(a, b, w);
    }

    X2CT_DEVICE void both(const T* row, Float4& a, Float4& b) const {
#ifndef __CUDACC__
        if constexpr (std::is_same<T, int16_t>::value) {
            if (paired) return pairs(row, a, b);
        }
#endif
        gather(row, i, j, a, b);
    }

#ifndef __CUDACC__
    // Neighbours in one load each, and eight conversions as two: most of the kernel's time on a processor.
    void pairs(const int16_t* row, Float4& a, Float4& b) const {
        typedef int32_t Int4 __attribute__((vector_size(16)));
        int32_t two[4];
        for (int k = 0; k < 4; ++k) memcpy(&two[k], row + i[k], 4);
        const Int4 v = {two[0], two[1], two[2], two[3]};
        constexpr bool little = __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__;
        const Int4 lower = (v << 16) >> 16, upper = v >> 16;
        a = __builtin_convertvector(little ? lower : upper, Float4);
        b = __builtin_convertvector(little ? upper : lower, Float4);
    }
#endif
};

// Four outputs, `step` elements apart, of which `count` exist.
template <class Out>
X2CT_DEVICE void store_four(Out* out, int64_t step, const Float4& v, uint32_t count, bool whole) {
    if (whole && count == 4) {
        Vec<Out, 4> packed;
        X2CT_UNROLL
        for (int k = 0; k < 4; ++k) packed.v[k] = from_float<Out>(v[k]);
        store_vec<4>(out, packed);
        return;
    }
    X2CT_UNROLL
    for (uint32_t k = 0; k < 4; ++k)
        if (k < count) out[k * step] = from_float<Out>(v[k]);
}

template <class In, class Out>
X2CT_DEVICE void resample_strips(const ResampleParams& p) {
    using C = ResampleConfig;
    const uint32_t across = (p.size[0] + 3) / 4, down = (p.size[1] + C::tile1 - 1) / C::tile1;
    uint32_t item = blockIdx.x * C::threads + threadIdx.x;  // a strip has up to 256 outputs: 2^40 in all
    const uint32_t x0 = item % across * 4;
    item /= across;
    const uint32_t y0 = item % down * C::tile1;
    item /= down;
    const uint32_t z = item % p.size[2];
    item /= p.size[2];
    if (item >= p.batch) return;
    const uint32_t volume = item, columns = min(4u, p.size[0] - x0), end = min(y0 + C::tile1, p.size[1]);
    Out* const out = static_cast<Out*>(p.out) + volume * p.out_volume_stride + z * p.out_stride[2] + x0 * p.out_stride[0];

    uint32_t rz;
    const bool slice = inside(p, 2, z, rz);
    const Tap tz = tap(slice ? rz : 0, p.from[2], p.to[2]);
    Columns<In> from;
    from.low = static_cast<const In*>(p.volume) + volume * p.volume_stride + p.first + tz.i * p.stride[2];
    from.high = from.low + (tz.j - tz.i) * p.stride[2];
    from.stride = p.stride[1];
    from.between = all(tz.w);
    from.floor = all(p.stored_low);
    from.ceiling = all(p.stored_high);
    from.paired = p.stride[0] == 1 && p.from[0] > 1;
    bool live[4];
    X2CT_UNROLL
    for (int k = 0; k < 4; ++k) {
        uint32_t rx;
        live[k] = inside(p, 0, x0 + k, rx);
        Tap t = tap(live[k] ? rx : 0, p.from[0], p.to[0]);
        if (from.paired && t.i == t.j) t = {t.i - 1, t.j, 1.0f};  // the last voxel, as the end of a pair
        from.i[k] = t.i * p.stride[0];
        from.j[k] = t.j * p.stride[0];
        from.w[k] = t.w;
    }
    const bool any = slice & (live[0] | live[1] | live[2] | live[3]);
    const bool turned = p.out_stride[1] == 1;
    // Vectors run along the fastest axis; every one starts at a multiple of four elements where the lines do.
    const int64_t odd = p.out_volume_stride | p.out_stride[2] | (turned ? p.out_stride[0] : p.out_stride[1]);
    const bool whole = (turned || p.out_stride[0] == 1) && odd % 4 == 0 && uintptr_t(p.out) % (4 * sizeof(Out)) == 0;

    // Hounsfield units, clip and scale as one product, one sum and a clip to the images of its limits.
    const float ends[2] = {p.scale * p.low + p.shift, p.scale * p.high + p.shift};
    const bool falling = ends[1] < ends[0];
    const Float4 slope = all(p.scale * p.slope), intercept = all(p.scale * p.intercept + p.shift);
    const Float4 lowest = all(ends[falling]), highest = all(ends[!falling]), pad = all(p.pad);
    const bool full = live[0] & live[3];
    const uint32_t offset = uint32_t(p.offset[1]), from_y = p.from[1], to_y = p.to[1];

    Float4 above = pad, below = pad;
    uint32_t above_y = ~0u, below_y = ~0u;  // the source rows they hold
    const auto next = [&](uint32_t y) {
        const uint32_t ry = y + offset;
        if (!((ry < to_y) & any)) return pad;
        const Tap t = tap(ry, from_y, to_y);
        if (t.i != above_y) {
            above = t.i == below_y ? below : from.row(t.i);
            above_y = t.i;
        }
        if (t.j != below_y) {
            below = t.j == above_y ? above : from.row(t.j);
            below_y = t.j;
        }
        Float4 v = clipped(affine(mix(above, below, all(t.w)), slope, intercept), lowest, highest);
        if (!full) {
            X2CT_UNROLL
            for (int k = 0; k < 4; ++k) v[k] = live[k] ? v[k] : pad[k];
        }
        return v;
    };
    for (uint32_t y = y0; y < end; y += 4) {
        Float4 block[4];
        X2CT_UNROLL
        for (uint32_t r = 0; r < 4; ++r) block[r] = next(min(y + r, end - 1));
        const uint32_t rows = min(4u, end - y);
        if (turned) turn(block);
        const uint32_t lines = turned ? columns : rows, length = turned ? rows : columns;
        Out* line = out + y * p.out_stride[1];
        const int64_t along = turned ? 1 : p.out_stride[0], across_lines = turned ? p.out_stride[0] : p.out_stride[1];
        X2CT_UNROLL
        for (uint32_t k = 0; k < 4; ++k)
            if (k < lines) store_four(line + k * across_lines, along, block[k], length, whole);
    }
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
    // Without limits no voxel is read: what the caller has may hold nothing yet.
    const bool limited = p.stored_low > -INFINITY || p.stored_high < INFINITY;
    for (uint32_t k = 0; k < ResampleConfig::tile2 / ResampleConfig::threads; ++k) {
        uint64_t item = uint64_t(blockIdx.x) * ResampleConfig::tile2 + k * ResampleConfig::threads + threadIdx.x;
        if (item >= total) return;
        const uint32_t x = uint32_t(item % p.from[0]);
        item /= p.from[0];
        const uint32_t y = uint32_t(item % p.from[1]);
        item /= p.from[1];
        const uint32_t z = uint32_t(item % p.from[2]), volume = uint32_t(item / p.from[2]);
        const int64_t voxel = volume * p.volume_stride + p.first + x * p.stride[0] + y * p.stride[1] + z * p.stride[2];
        const float stored = limited ? to_float(static_cast<const In*>(p.volume)[voxel]) : 0.0f;
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

/// f32 volumes, in strips; to f32 or bf16.
X2CT_KERNEL(resample_f32_f32, ResampleParams, ResampleConfig, resample_strips<float, float>)
X2CT_KERNEL(resample_f32_bf16, ResampleParams, ResampleConfig, resample_strips<float, bf16>)
/// bf16 volumes.
X2CT_KERNEL(resample_bf16_f32, ResampleParams, ResampleConfig, resample_strips<bf16, float>)
X2CT_KERNEL(resample_bf16_bf16, ResampleParams, ResampleConfig, resample_strips<bf16, bf16>)
/// int16 volumes.
X2CT_KERNEL(resample_i16_f32, ResampleParams, ResampleConfig, resample_strips<int16_t, float>)
X2CT_KERNEL(resample_i16_bf16, ResampleParams, ResampleConfig, resample_strips<int16_t, bf16>)
/// f32 volumes, a thread an output.
X2CT_KERNEL(resample_naive_f32_f32, ResampleParams, ResampleConfig, resample_naive<float, float>)
X2CT_KERNEL(resample_naive_f32_bf16, ResampleParams, ResampleConfig, resample_naive<float, bf16>)
/// bf16 volumes.
X2CT_KERNEL(resample_naive_bf16_f32, ResampleParams, ResampleConfig, resample_naive<bf16, float>)
X2CT_KERNEL(resample_naive_bf16_bf16, ResampleParams, ResampleConfig, resample_naive<bf16, bf16>)
/// int16 volumes.
X2CT_KERNEL(resample_naive_i16_f32, ResampleParams, ResampleConfig, resample_naive<int16_t, float>)
X2CT_KERNEL(resample_naive_i16_bf16, ResampleParams, ResampleConfig, resample_naive<int16_t, bf16>)
/// Gradient of f32 volumes, by the storage type of the output.
X2CT_KERNEL(resample_backward_f32_f32, ResampleParams, ResampleConfig, resample_backward<float, float>)
X2CT_KERNEL(resample_backward_f32_bf16, ResampleParams, ResampleConfig, resample_backward<float, bf16>)
/// Gradient of bf16 volumes.
X2CT_KERNEL(resample_backward_bf16_f32, ResampleParams, ResampleConfig, resample_backward<bf16, float>)
X2CT_KERNEL(resample_backward_bf16_bf16, ResampleParams, ResampleConfig, resample_backward<bf16, bf16>)
