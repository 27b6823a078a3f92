// A ray through a voxel grid: clipped in f64, walked in f32.
//
// Voxel i covers [i, i + 1) of its axis. Along the ray, s is millimetres from where it enters. Plane k of an axis is crossed
// at s = first + k * every; both constants come from f64, so the error of a crossing is one rounding of s however flat the
// ray runs, and does not grow with the number of steps.
#pragma once

#include "drr_params.cuh"

// Position = start + t * delta for t in [begin, end]; `mm` millimetres per unit of t. Empty when begin >= end.
struct DrrRay {
    double start[3], delta[3];
    double begin, end, mm;
    int begin_axis, end_axis;  // whose face of the box the end lies in; 3: it is the segment's own
};

// Narrows [begin, end] to where low <= start + t delta < high.
X2CT_DEVICE void clip_axis(DrrRay& ray, int axis, double low, double high) {
    const double start = ray.start[axis], delta = ray.delta[axis];
    if (delta == 0.0) {
        if (!(start >= low && start < high)) ray.end = ray.begin = 0.0;
        return;
    }
    const double a = (low - start) / delta, b = (high - start) / delta;
    if (fmin(a, b) > ray.begin) {
        ray.begin = fmin(a, b);
        ray.begin_axis = axis;
    }
    if (fmax(a, b) < ray.end) {
        ray.end = fmax(a, b);
        ray.end_axis = axis;
    }
}

// The ray of pixel (r, c), clipped to the grid grown by `margin` voxels on every side.
X2CT_DEVICE DrrRay make_ray(const DrrView& view, uint32_t r, uint32_t c, const uint32_t (&n)[3], double margin) {
    DrrRay ray;
    X2CT_UNROLL
    for (int a = 0; a < 3; ++a) {
        const double pixel = view.origin[a] + r * view.row[a] + c * view.column[a];
        ray.start[a] = view.cone ? view.source[a] : pixel;
        ray.delta[a] = view.cone ? pixel - view.source[a] : view.source[a];
    }
    ray.begin = view.cone ? 0.0 : -1e300;
    ray.end = view.cone ? 1.0 : 1e300;
    ray.begin_axis = ray.end_axis = 3;
    X2CT_UNROLL
    for (int a = 0; a < 3; ++a) clip_axis(ray, a, -margin, n[a] + margin);
    const double x = ray.delta[0], y = ray.delta[1], z = ray.delta[2];
    const double* m = view.metric;
    ray.mm = sqrt(m[0] * x * x + m[1] * y * y + m[2] * z * z + 2.0 * (m[3] * x * y + m[4] * x * z + m[5] * y * z));
    if (!(ray.mm > 0.0)) ray.end = ray.begin;  // the source lies on the detector's pixel
    return ray;
}

// The same line between two of its positions.
X2CT_DEVICE DrrRay part_of(const DrrRay& ray, double from, double to) {
    DrrRay part = ray;
    part.begin = from;
    part.end = to;
    return part;
}

// The axis of the most voxels: no other moves faster.
X2CT_DEVICE int steepest_axis(const DrrRay& ray) {
    const double x = fabs(ray.delta[0]), y = fabs(ray.delta[1]), z = fabs(ray.delta[2]);
    return z > x && z > y ? 2 : y > x ? 1 : 0;
}

// The planes of one axis that a ray crosses.
struct Crossings {
    float first, every;  // millimetres from the entry
    int32_t count;       // planes crossed
    int64_t step;        // elements from one voxel to the next along the ray
};

constexpr float kNever = 3.0e38f;

X2CT_DEVICE void swap_crossings(Crossings& a, Crossings& b) {
    const Crossings t = a;
    a = b;
    b = t;
}

// `voxel` receives the index of the voxel in which the ray enters.
X2CT_DEVICE Crossings crossings(const DrrRay& ray, double start, double delta, uint32_t n, int64_t stride, int64_t& voxel) {
    const double in = start + ray.begin * delta, out = start + ray.end * delta;
    const bool up = delta >= 0.0;
    // A ray going down leaves a plane for the voxel below it. Rounding may put an end outside the grid: hence the clamps.
    const double last = double(n) - 1.0;
    const int32_t i = int32_t(fmin(fmax(up ? floor(in) : ceil(in) - 1.0, 0.0), last));
    const int32_t j = int32_t(fmin(fmax(up ? ceil(out) - 1.0 : floor(out), 0.0), last));
    Crossings c;
    c.count = delta == 0.0 ? 0 : max(0, up ? j - i : i - j);
    c.step = up ? stride : -stride;
    // No crossing: not 0 * infinity.
    c.first = c.count ? float(((up ? i + 1.0 : double(i)) - start) / delta * ray.mm - ray.begin * ray.mm) : kNever;
    c.every = c.count ? float(ray.mm / fabs(delta)) : 0.0f;
    voxel += i * stride;
    return c;
}

// From voxel to voxel along a ray: always on to the nearest plane of the three axes.
struct VoxelWalk {
    Crossings x, y, z;
    int64_t voxel;
    int32_t i, j, k;
    float s, length;
    bool done;

    X2CT_DEVICE VoxelWalk(const DrrRay& ray, const uint32_t (&n)[3]) : voxel(0), i(0), j(0), k(0), s(0.0f) {
        done = !(ray.begin < ray.end);
        if (done) return;
        x = crossings(ray, ray.start[0], ray.delta[0], n[0], 1, voxel);
        y = crossings(ray, ray.start[1], ray.delta[1], n[1], n[0], voxel);
        z = crossings(ray, ray.start[2], ray.delta[2], n[2], int64_t(n[0]) * n[1], voxel);
        length = float((ray.end - ray.begin) * ray.mm);
    }

    // The next voxel, where the ray enters and leaves it (millimetres from the ray's entry), and through a plane of which
    // axis it leaves (3: it ends there). False when there is none.
    X2CT_DEVICE bool next(int64_t& at, float& from, float& to, int& leaves) {
        if (done) return false;
        const float at_x = i < x.count ? x.first + float(i) * x.every : kNever;
        const float at_y = j < y.count ? y.first + float(j) * y.every : kNever;
        const float at_z = k < z.count ? z.first + float(k) * z.every : kNever;
        const float nearest = fminf(at_x, fminf(at_y, at_z));
        at = voxel;
        from = s;
        to = s = fminf(fmaxf(nearest, s), length);
        done = nearest == kNever;
        leaves = done ? 3 : at_x == nearest ? 0 : at_y == nearest ? 1 : 2;
        voxel += leaves == 0 ? x.step : leaves == 1 ? y.step : leaves == 2 ? z.step : 0;
        i += leaves == 0;
        j += leaves == 1;
        k += leaves == 2;
        return true;
    }
};
