// A ray through a voxel grid: clipped in f64, walked in f32.
//
// Voxel i covers [i, i + 1) of its axis. Along the ray, s is millimetres from where it enters. Plane k of an axis is crossed
// at s = first + k * every; both constants come from f64, so the error of a crossing is one rounding of s however flat the
// ray runs, and does not grow with the number of steps.
#pragma once

#include "common/common.h"

// One view, in voxel coordinates. Pixel (r, c) is centred at origin + r row + c column. Cone: the ray is the segment from
// `source` to that centre. Parallel: the whole line through it along `source`.
struct DrrView {
    double origin[3], row[3], column[3], source[3];
    double metric[6];  // millimetres squared of a step d: sum of metric * (dx dx, dy dy, dz dz, 2 dx dy, 2 dx dz, 2 dy dz)
    uint32_t cone;
    uint32_t reserved;  // 0
};
X2CT_FIELDS(DrrView, origin, row, column, source, metric, cone, reserved)

// Position = start + t * delta for t in [begin, end]; `mm` millimetres per unit of t. Empty when begin >= end.
struct DrrRay {
    double start[3], delta[3];
    double begin, end, mm;
};

// Narrows [begin, end] to where low <= start + t delta < high.
X2CT_DEVICE void clip_axis(double start, double delta, double low, double high, double& begin, double& end) {
    if (delta == 0.0) {
        if (!(start >= low && start < high)) end = begin = 0.0;
        return;
    }
    const double a = (low - start) / delta, b = (high - start) / delta;
    begin = fmax(begin, fmin(a, b));
    end = fmin(end, fmax(a, b));
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
    X2CT_UNROLL
    for (int a = 0; a < 3; ++a) clip_axis(ray.start[a], ray.delta[a], -margin, n[a] + margin, ray.begin, ray.end);
    const double x = ray.delta[0], y = ray.delta[1], z = ray.delta[2];
    const double* m = view.metric;
    ray.mm = sqrt(m[0] * x * x + m[1] * y * y + m[2] * z * z + 2.0 * (m[3] * x * y + m[4] * x * z + m[5] * y * z));
    if (!(ray.mm > 0.0)) ray.end = ray.begin;  // the source lies on the detector's pixel
    return ray;
}

// The planes of one axis that a ray crosses.
struct Crossings {
    float first, every;  // millimetres from the entry
    int32_t count;       // planes crossed
    int64_t step;        // elements from one voxel to the next along the ray
};

constexpr float kNever = 3.0e38f;

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

// Calls visit(element, millimetres) for every voxel the ray crosses, in order (Siddon 1985).
//
// Idea: slab by slab along the axis with the most crossings. Each other axis then crosses at most one plane inside a slab,
// so a slab is at most three segments and the loop has no search. A crossing that rounding moves across a slab's end is taken
// in the next slab with length 0.
template <class Visit>
X2CT_DEVICE void siddon_slabs(const DrrRay& ray, const uint32_t (&n)[3], Visit visit) {
    if (!(ray.begin < ray.end)) return;
    int64_t voxel = 0;
    Crossings a = crossings(ray, ray.start[0], ray.delta[0], n[0], 1, voxel);
    Crossings u = crossings(ray, ray.start[1], ray.delta[1], n[1], n[0], voxel);
    Crossings v = crossings(ray, ray.start[2], ray.delta[2], n[2], int64_t(n[0]) * n[1], voxel);
    double steepest = fabs(ray.delta[0]);
    if (fabs(ray.delta[1]) > steepest) {
        steepest = fabs(ray.delta[1]);
        const Crossings t = a;
        a = u;
        u = t;
    }
    if (fabs(ray.delta[2]) > steepest) {
        const Crossings t = a;
        a = v;
        v = t;
    }
    const float length = float((ray.end - ray.begin) * ray.mm);
    float s = 0.0f, next_u = u.first, next_v = v.first;
    int32_t done_u = 0, done_v = 0;
    for (int32_t k = 0; k <= a.count; ++k) {
        const float end = k < a.count ? fminf(a.first + float(k) * a.every, length) : length;
        const bool cross_u = next_u < end, cross_v = next_v < end;
        if (cross_u | cross_v) {
            const float at_u = fminf(fmaxf(next_u, s), end), at_v = fminf(fmaxf(next_v, s), end);
            const bool u_first = at_u <= at_v;
            const float one = fminf(at_u, at_v), two = fmaxf(at_u, at_v);
            visit(voxel, one - s);
            const int64_t step_u = cross_u ? u.step : 0, step_v = cross_v ? v.step : 0;
            if (cross_u & cross_v) visit(voxel + (u_first ? step_u : step_v), two - one);
            voxel += step_u + step_v;
            visit(voxel, end - (cross_u & cross_v ? two : one));
            if (cross_u) next_u = ++done_u < u.count ? u.first + float(done_u) * u.every : kNever;
            if (cross_v) next_v = ++done_v < v.count ? v.first + float(done_v) * v.every : kNever;
        } else {
            visit(voxel, end - s);
        }
        voxel += k < a.count ? a.step : 0;
        s = fmaxf(s, end);
    }
}

// The same by the textbook: always on to the nearest plane of the three axes.
template <class Visit>
X2CT_DEVICE void siddon_naive(const DrrRay& ray, const uint32_t (&n)[3], Visit visit) {
    if (!(ray.begin < ray.end)) return;
    int64_t voxel = 0;
    const Crossings x = crossings(ray, ray.start[0], ray.delta[0], n[0], 1, voxel);
    const Crossings y = crossings(ray, ray.start[1], ray.delta[1], n[1], n[0], voxel);
    const Crossings z = crossings(ray, ray.start[2], ray.delta[2], n[2], int64_t(n[0]) * n[1], voxel);
    const float length = float((ray.end - ray.begin) * ray.mm);
    int32_t i = 0, j = 0, k = 0;
    float s = 0.0f;
    while (true) {
        const float at_x = i < x.count ? x.first + float(i) * x.every : kNever;
        const float at_y = j < y.count ? y.first + float(j) * y.every : kNever;
        const float at_z = k < z.count ? z.first + float(k) * z.every : kNever;
        const float nearest = fminf(at_x, fminf(at_y, at_z));
        const float end = fminf(fmaxf(nearest, s), length);
        visit(voxel, end - s);
        s = end;
        if (nearest == kNever) return;
        if (at_x == nearest) {
            voxel += x.step;
            ++i;
        } else if (at_y == nearest) {
            voxel += y.step;
            ++j;
        } else {
            voxel += z.step;
            ++k;
        }
    }
}

// Calls visit(element, weight) for the 8 neighbours of every sample of the ray: the midpoint rule on the trilinear
// interpolant, which falls to 0 one voxel outside the outermost centres. Samples are equally spaced over the ray's part in
// that support, at most `step` millimetres apart; the weights of a sample sum to the spacing. Interior: leave out the bounds
// test where all neighbours exist.
template <bool Interior, class Visit>
X2CT_DEVICE void trilinear_march(const DrrRay& ray, const uint32_t (&n)[3], float step, Visit visit) {
    if (!(ray.begin < ray.end)) return;
    const double length = (ray.end - ray.begin) * ray.mm;
    const int32_t samples = max(1, int32_t(ceil(length / step)));
    const float h = float(length / samples);
    // Voxel centres at 1 ... n, so that truncation is floor on the whole support.
    float q[3], d[3];
    X2CT_UNROLL
    for (int a = 0; a < 3; ++a) {
        q[a] = float(ray.start[a] + ray.begin * ray.delta[a] + 0.5);
        d[a] = float(ray.delta[a] / ray.mm);
    }
    const int64_t row = n[0], slice = int64_t(n[0]) * n[1];
    for (int32_t j = 0; j < samples; ++j) {
        const float s = (float(j) + 0.5f) * h;
        const float x = q[0] + s * d[0], y = q[1] + s * d[1], z = q[2] + s * d[2];
        const int32_t ix = int32_t(x), iy = int32_t(y), iz = int32_t(z);
        const float fx = x - float(ix), fy = y - float(iy), fz = z - float(iz);
        const float x1 = h * fx, x0 = h - x1;
        const float w00 = (1.0f - fy) * (1.0f - fz), w10 = fy * (1.0f - fz), w01 = (1.0f - fy) * fz, w11 = fy * fz;
        const int64_t voxel = (ix - 1) + (iy - 1) * row + (iz - 1) * slice;
        if (Interior && uint32_t(ix - 1) < n[0] - 1 && uint32_t(iy - 1) < n[1] - 1 && uint32_t(iz - 1) < n[2] - 1) {
            visit(voxel, x0 * w00);
            visit(voxel + 1, x1 * w00);
            visit(voxel + row, x0 * w10);
            visit(voxel + row + 1, x1 * w10);
            visit(voxel + slice, x0 * w01);
            visit(voxel + slice + 1, x1 * w01);
            visit(voxel + slice + row, x0 * w11);
            visit(voxel + slice + row + 1, x1 * w11);
        } else {
            X2CT_UNROLL
            for (int corner = 0; corner < 8; ++corner) {
                const int cx = corner & 1, cy = corner >> 1 & 1, cz = corner >> 2;
                if (uint32_t(ix - 1 + cx) >= n[0] || uint32_t(iy - 1 + cy) >= n[1] || uint32_t(iz - 1 + cz) >= n[2]) continue;
                const float weight = (cx ? x1 : x0) * (cy ? fy : 1.0f - fy) * (cz ? fz : 1.0f - fz);
                visit(voxel + cx + cy * row + cz * slice, weight);
            }
        }
    }
}
