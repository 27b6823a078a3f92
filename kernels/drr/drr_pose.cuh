// How the image moves with the geometry: the gradient of each ray's sum with respect to its line, exactly that of the rule.
//
// A rule's sum depends on the line start + t * delta and on the millimetres of one t. Rules differ in what of them they read;
// each fills start, delta and mm here.
#pragma once

#include "drr_rules.cuh"

struct RayGradient {
    float start[3], delta[3];
    float mm;
};

// A position where the line meets a plane of one axis, weighed: t = (plane - start) / delta. Axis 3 is no plane.
X2CT_DEVICE void add_crossing(const DrrRay& ray, int axis, double t, double weight, RayGradient& g) {
    X2CT_UNROLL
    for (int a = 0; a < 3; ++a)
        if (a == axis) {
            const double moves = -weight / ray.delta[a];
            g.start[a] += float(moves);
            g.delta[a] += float(moves * t);
        }
}

struct SiddonPose {
    static constexpr double margin = 0.0;

    // The sum is that of value * mm * (leaving - entering) over the voxels: a plane between two voxels has the difference of
    // their values.
    template <class Value>
    static X2CT_DEVICE RayGradient of(const DrrRay& ray, const DrrParams& p, Value value) {
        float crossed[3] = {}, crossed_t[3] = {}, sum = 0.0f;
        VoxelWalk walk(ray, p.n);
        const float begin = float(ray.begin), per_mm = float(1.0 / ray.mm);
        int64_t voxel;
        float from, to;
        int leaves, entered = ray.begin_axis;
        while (walk.next(voxel, from, to, leaves)) {
            const float v = value(voxel), in = begin + from * per_mm, out = begin + to * per_mm;
            const int left = leaves == 3 ? ray.end_axis : leaves;
            sum += v * (to - from);
            X2CT_UNROLL
            for (int a = 0; a < 3; ++a) {
                crossed[a] += (a == left ? v : 0.0f) - (a == entered ? v : 0.0f);
                crossed_t[a] += (a == left ? v * out : 0.0f) - (a == entered ? v * in : 0.0f);
            }
            entered = leaves;
        }
        RayGradient g = {};
        g.mm = sum * per_mm;
        X2CT_UNROLL
        for (int a = 0; a < 3; ++a) {
            const float moves = ray.delta[a] == 0.0 ? 0.0f : float(-ray.mm / ray.delta[a]);
            g.start[a] = moves * crossed[a];
            g.delta[a] = moves * crossed_t[a];
        }
        return g;
    }
};

struct JosephPose {
    static constexpr double margin = 0.5;

    template <class Value>
    static X2CT_DEVICE RayGradient of(const DrrRay& ray, const DrrParams& p, Value value) {
        const RayAxes axes = ray_axes(ray, p.n);
        const Planes planes = ray_planes(axes, ray.begin, ray.end);
        float sum = 0.0f, u_sum = 0.0f, v_sum = 0.0f, tu_sum = 0.0f, tv_sum = 0.0f;
        for (int32_t k = planes.begin; k < planes.end; ++k) {
            const float steps = float(k - planes.begin), u = planes.u + steps * planes.du, v = planes.v + steps * planes.dv;
            const float t = float(planes.t) + steps * float(planes.every);
            const int32_t iu = int32_t(u), iv = int32_t(v);
            const float fu = u - float(iu), fv = v - float(iv);
            const auto at = [&](int32_t i, int32_t j) {
                return uint32_t(i) < axes.u.n && uint32_t(j) < axes.v.n
                           ? value(k * axes.along.stride + i * axes.u.stride + j * axes.v.stride) : 0.0f;
            };
            const float a = at(iu - 1, iv - 1), b = at(iu, iv - 1), c = at(iu - 1, iv), d = at(iu, iv);
            const float by_u = b - a + fv * (d - c - b + a), by_v = c - a + fu * (d - b - c + a);
            sum += a + fu * (b - a) + fv * by_v;
            u_sum += by_u;
            v_sum += by_v;
            tu_sum += t * by_u;
            tv_sum += t * by_v;
        }
        const float mm = float(fabs(ray.mm * planes.every)), every = float(planes.every);
        const float along = -mm * (planes.du * u_sum + planes.dv * v_sum);
        const float along_t = -mm * (planes.du * tu_sum + planes.dv * tv_sum + sum * every);
        const int steepest = steepest_axis(ray), u_axis = steepest == 0 ? 1 : 0;
        RayGradient g = {};
        g.mm = sum * float(fabs(planes.every));
        X2CT_UNROLL
        for (int i = 0; i < 3; ++i) {
            g.start[i] = i == steepest ? along : mm * (i == u_axis ? u_sum : v_sum);
            g.delta[i] = i == steepest ? along_t : mm * (i == u_axis ? tu_sum : tv_sum);
        }
        return g;
    }
};

struct TrilinearPose {
    static constexpr double margin = 0.5;

    // Samples move with the line and with both ends of its part in the support.
    template <class Value>
    static X2CT_DEVICE RayGradient of(const DrrRay& ray, const DrrParams& p, Value value) {
        const Samples samples = ray_samples(ray, p.step);
        const int64_t row = p.n[0], slice = int64_t(p.n[0]) * p.n[1];
        const double every = (ray.end - ray.begin) / samples.count;
        float sum = 0.0f, slope[3] = {}, slope_t[3] = {};
        for (int32_t j = 0; j < samples.count; ++j) {
            const float s = (float(j) + 0.5f) * samples.mm, t = float(ray.begin + (j + 0.5) * every);
            float q[3], f[3];
            int32_t i[3];
            X2CT_UNROLL
            for (int a = 0; a < 3; ++a) {
                q[a] = samples.q[a] + s * samples.d[a];
                i[a] = int32_t(q[a]);
                f[a] = q[a] - float(i[a]);
            }
            float corner[8];
            X2CT_UNROLL
            for (int k = 0; k < 8; ++k) {
                const int32_t x = i[0] - 1 + (k & 1), y = i[1] - 1 + (k >> 1 & 1), z = i[2] - 1 + (k >> 2);
                const bool inside = uint32_t(x) < p.n[0] && uint32_t(y) < p.n[1] && uint32_t(z) < p.n[2];
                corner[k] = inside ? value(x + y * row + z * slice) : 0.0f;
            }
            // Interpolated along x on the four edges, then along y on two, then along z.
            float edge[4], along_x[4];
            X2CT_UNROLL
            for (int k = 0; k < 4; ++k) {
                along_x[k] = corner[2 * k + 1] - corner[2 * k];
                edge[k] = corner[2 * k] + f[0] * along_x[k];
            }
            const float low = edge[0] + f[1] * (edge[1] - edge[0]), high = edge[2] + f[1] * (edge[3] - edge[2]);
            const float x_low = along_x[0] + f[1] * (along_x[1] - along_x[0]), x_high = along_x[2] + f[1] * (along_x[3] - along_x[2]);
            const float y_low = edge[1] - edge[0], y_high = edge[3] - edge[2];
            const float by[3] = {x_low + f[2] * (x_high - x_low), y_low + f[2] * (y_high - y_low), high - low};
            sum += low + f[2] * (high - low);
            X2CT_UNROLL
            for (int a = 0; a < 3; ++a) {
                slope[a] += by[a];
                slope_t[a] += t * by[a];
            }
        }
        RayGradient g;
        double by_position = 0.0, by_position_t = 0.0;  // what moving all samples along the line does
        X2CT_UNROLL
        for (int a = 0; a < 3; ++a) {
            g.start[a] = samples.mm * slope[a];
            g.delta[a] = samples.mm * slope_t[a];
            by_position += ray.delta[a] * g.start[a];
            by_position_t += ray.delta[a] * g.delta[a];
        }
        const double length = ray.end - ray.begin, integral = double(sum) * samples.mm;
        g.mm = float(integral / ray.mm);
        add_crossing(ray, ray.begin_axis, ray.begin, (ray.end * by_position - by_position_t - integral) / length, g);
        add_crossing(ray, ray.end_axis, ray.end, (by_position_t - ray.begin * by_position + integral) / length, g);
        return g;
    }
};

// One thread, one ray: its gradient times the pixel's.
template <class Rule, class T>
X2CT_DEVICE void ray_gradients(const DrrParams& p) {
    for_pixel<DrrConfig>(p, [&p](const DrrView& view, uint32_t r, uint32_t c, uint32_t volume, uint64_t pixel) {
        const T* voxels = static_cast<const T*>(p.volume) + volume * p.voxels;
        const DrrRay ray = make_ray(view, r, c, p.n, Rule::margin);
        const float upstream = upstream_of(p, pixel);
        float* out = p.rays + pixel * 6;
        if (!(ray.begin < ray.end)) {
            X2CT_UNROLL
            for (int i = 0; i < 6; ++i) out[i] = 0.0f;
            return;
        }
        const RayGradient g = Rule::of(ray, p, [&](int64_t voxel) { return value_of<T>(p, to_float(voxels[voxel])); });
        const double *d = ray.delta, *m = view.metric, per_mm = 1.0 / ray.mm;
        const double lengthens[3] = {(m[0] * d[0] + m[3] * d[1] + m[4] * d[2]) * per_mm,
                                     (m[3] * d[0] + m[1] * d[1] + m[5] * d[2]) * per_mm,
                                     (m[4] * d[0] + m[5] * d[1] + m[2] * d[2]) * per_mm};
        X2CT_UNROLL
        for (int a = 0; a < 3; ++a) {
            out[a] = upstream * g.start[a];
            out[3 + a] = upstream * (g.delta[a] + g.mm * float(lengthens[a]));
        }
    });
}

struct PoseSumConfig : KernelDefaults {
    static constexpr uint32_t threads = 256;
    struct Shared {
        double part[threads][12];
    };
};

// A block, a view: the chain rule from its rays to the 12 numbers they are made of, summed in f64 in a fixed order.
X2CT_DEVICE void sum_ray_gradients(const DrrParams& p) {
    auto& part = shared_memory<PoseSumConfig::Shared>().part;
    const uint32_t first = blockIdx.x / p.count, view = blockIdx.x % p.count;
    const uint32_t cone = p.views[blockIdx.x].cone, area = p.rows * p.columns;
    double sum[12] = {};
    // Views that all volumes share collect from all of them.
    for (uint32_t volume = first; volume < (p.view_stride ? first + 1 : p.batch); ++volume) {
        const float* rays = p.rays + (uint64_t(volume) * p.count + view) * area * 6;
        for (uint32_t pixel = threadIdx.x; pixel < area; pixel += PoseSumConfig::threads) {
            const double r = pixel / p.columns, c = pixel % p.columns;
            X2CT_UNROLL
            for (int a = 0; a < 3; ++a) {
                const double start = rays[uint64_t(pixel) * 6 + a], delta = rays[uint64_t(pixel) * 6 + 3 + a];
                // Cone: start = source, delta = pixel - source. Parallel: start = pixel, delta = the direction.
                const double at_pixel = cone ? delta : start;
                sum[a] += at_pixel;
                sum[3 + a] += r * at_pixel;
                sum[6 + a] += c * at_pixel;
                sum[9 + a] += cone ? start - delta : delta;
            }
        }
    }
    X2CT_UNROLL
    for (int i = 0; i < 12; ++i) part[threadIdx.x][i] = sum[i];
    __syncthreads();
    if (threadIdx.x >= 12) return;
    double total = 0.0;
    for (uint32_t t = 0; t < PoseSumConfig::threads; ++t) total += part[t][threadIdx.x];
    p.view_gradient[uint64_t(blockIdx.x) * 12 + threadIdx.x] = total;
}
