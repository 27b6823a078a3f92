// What a ray collects: rules that give each voxel its weight in the ray's sum.
//
// A rule calls visit(Slot, element, weight) for the voxels between the positions `from` and `to` of a ray, which may be a part
// of it: the parts of a ray add up to the whole. Voxels visited under one slot follow each other along the ray, so that a
// reader may keep the memory word it read last for each slot.
#pragma once

#include "drr_ray.cuh"

template <int S>
struct Slot {};

// Siddon (1985): the weight is the length of the ray inside the voxel.
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
            visit(Slot<0>(), voxel, one - s);
            const int64_t step_u = cross_u ? u.step : 0, step_v = cross_v ? v.step : 0;
            if (cross_u & cross_v) visit(Slot<0>(), voxel + (u_first ? step_u : step_v), two - one);
            voxel += step_u + step_v;
            visit(Slot<0>(), voxel, end - (cross_u & cross_v ? two : one));
            if (cross_u) next_u = ++done_u < u.count ? u.first + float(done_u) * u.every : kNever;
            if (cross_v) next_v = ++done_v < v.count ? v.first + float(done_v) * v.every : kNever;
        } else {
            visit(Slot<0>(), voxel, end - s);
        }
        voxel += k < a.count ? a.step : 0;
        s = fmaxf(s, end);
    }
}

// The same by the textbook.
template <class Visit>
X2CT_DEVICE void siddon_planes(const DrrRay& ray, const uint32_t (&n)[3], Visit visit) {
    VoxelWalk walk(ray, n);
    int64_t voxel;
    float from, to;
    int leaves;
    while (walk.next(voxel, from, to, leaves)) visit(Slot<0>(), voxel, to - from);
}

// One axis of the grid, of a ray.
struct RayAxis {
    double start, delta;
    uint32_t n;
    int64_t stride;
};

struct RayAxes {
    RayAxis along, u, v;  // `along` is the steepest; u and v in memory order
};

// Chosen by comparison: an array indexed at run time would live in memory.
X2CT_DEVICE RayAxes ray_axes(const DrrRay& ray, const uint32_t (&n)[3]) {
    const RayAxis x = {ray.start[0], ray.delta[0], n[0], 1}, y = {ray.start[1], ray.delta[1], n[1], n[0]};
    const RayAxis z = {ray.start[2], ray.delta[2], n[2], int64_t(n[0]) * n[1]};
    const int steepest = steepest_axis(ray);
    return {steepest == 0 ? x : steepest == 1 ? y : z, steepest == 0 ? y : x, steepest == 2 ? y : z};
}

// Planes of voxel centres of the steepest axis that a part of a ray meets, and where: half-open, so that parts share none.
struct Planes {
    int32_t begin, end;
    float u, v;        // at plane `begin`, in voxels with centres at 1 ... n, so that truncation is floor on the whole support
    float du, dv;      // from one plane to the next
    double t, every;   // the ray's position there
};

X2CT_DEVICE Planes ray_planes(const RayAxes& axes, double from, double to) {
    const RayAxis& a = axes.along;
    const double in = a.start + from * a.delta - 0.5, out = a.start + to * a.delta - 0.5;
    // Rounding may put an end outside the grid, and a ray along a face is empty: hence the clamps.
    const double n = double(a.n), low = a.delta > 0.0 ? ceil(in) : floor(out) + 1.0, high = a.delta > 0.0 ? ceil(out) : floor(in) + 1.0;
    Planes p;
    p.begin = int32_t(fmin(fmax(low, 0.0), n));
    p.end = int32_t(fmin(fmax(high, 0.0), n));
    p.every = 1.0 / a.delta;
    p.t = (p.begin + 0.5 - a.start) * p.every;
    p.u = float(axes.u.start + p.t * axes.u.delta + 0.5);
    p.v = float(axes.v.start + p.t * axes.v.delta + 0.5);
    p.du = float(axes.u.delta * p.every);
    p.dv = float(axes.v.delta * p.every);
    return p;
}

// Joseph (1982): on each plane of voxel centres of the steepest axis, the bilinear interpolant of the four voxels around the
// ray, which falls to 0 one voxel outside the outermost centres; a plane weighs the ray's length from one to the next.
// Interior: leave out the bounds tests where all four exist.
template <bool Interior, class Visit>
X2CT_DEVICE void joseph_planes(const DrrRay& ray, double from, double to, const uint32_t (&n)[3], Visit visit) {
    if (!(from < to)) return;
    const RayAxes axes = ray_axes(ray, n);
    const Planes planes = ray_planes(axes, from, to);
    const float mm = float(fabs(ray.mm * planes.every));
    const int64_t su = axes.u.stride, sv = axes.v.stride;
    for (int32_t k = planes.begin; k < planes.end; ++k) {
        const float steps = float(k - planes.begin), u = planes.u + steps * planes.du, v = planes.v + steps * planes.dv;
        const int32_t iu = int32_t(u), iv = int32_t(v);
        const float fu = u - float(iu), fv = v - float(iv), v1 = mm * fv, v0 = mm - v1;
        const int64_t voxel = k * axes.along.stride + (iu - 1) * su + (iv - 1) * sv;
        if (Interior && uint32_t(iu - 1) < axes.u.n - 1 && uint32_t(iv - 1) < axes.v.n - 1) {
            visit(Slot<0>(), voxel, (1.0f - fu) * v0);
            visit(Slot<1>(), voxel + su, fu * v0);
            visit(Slot<2>(), voxel + sv, (1.0f - fu) * v1);
            visit(Slot<3>(), voxel + su + sv, fu * v1);
        } else {
            const bool u0 = uint32_t(iu - 1) < axes.u.n, u1 = uint32_t(iu) < axes.u.n;
            const bool v0_in = uint32_t(iv - 1) < axes.v.n, v1_in = uint32_t(iv) < axes.v.n;
            if (u0 & v0_in) visit(Slot<0>(), voxel, (1.0f - fu) * v0);
            if (u1 & v0_in) visit(Slot<1>(), voxel + su, fu * v0);
            if (u0 & v1_in) visit(Slot<2>(), voxel + sv, (1.0f - fu) * v1);
            if (u1 & v1_in) visit(Slot<3>(), voxel + su + sv, fu * v1);
        }
    }
}

// Samples of the trilinear rule: equally spaced over the ray's part in the interpolant's support, at most `step` millimetres
// apart, each in the middle of its share.
struct Samples {
    int32_t count;
    float mm;           // a sample's share of the ray
    float q[3], d[3];   // where the ray enters, in voxels with centres at 1 ... n, and voxels a millimetre
};

X2CT_DEVICE Samples ray_samples(const DrrRay& ray, float step) {
    Samples s;
    const double length = (ray.end - ray.begin) * ray.mm;
    s.count = max(1, int32_t(ceil(length / step)));
    s.mm = float(length / s.count);
    X2CT_UNROLL
    for (int a = 0; a < 3; ++a) {
        s.q[a] = float(ray.start[a] + ray.begin * ray.delta[a] + 0.5);
        s.d[a] = float(ray.delta[a] / ray.mm);
    }
    return s;
}

// The midpoint rule on the trilinear interpolant, which falls to 0 one voxel outside the outermost centres; the weights of a
// sample sum to its share of the ray. Interior: leave out the bounds tests where all neighbours exist.
template <bool Interior, class Visit>
X2CT_DEVICE void trilinear_march(const DrrRay& ray, double from, double to, const uint32_t (&n)[3], float step, Visit visit) {
    if (!(from < to)) return;
    const Samples samples = ray_samples(ray, step);
    // Half-open, so that parts of a ray share no sample.
    const double per = samples.count / (ray.end - ray.begin);
    const int32_t begin = max(0, int32_t(ceil((from - ray.begin) * per - 0.5)));
    const int32_t end = min(samples.count, int32_t(ceil((to - ray.begin) * per - 0.5)));
    const float h = samples.mm;
    const int64_t row = n[0], slice = int64_t(n[0]) * n[1];
    for (int32_t j = begin; j < end; ++j) {
        const float s = (float(j) + 0.5f) * h;
        const float x = samples.q[0] + s * samples.d[0], y = samples.q[1] + s * samples.d[1], z = samples.q[2] + s * samples.d[2];
        const int32_t ix = int32_t(x), iy = int32_t(y), iz = int32_t(z);
        const float fx = x - float(ix), fy = y - float(iy), fz = z - float(iz);
        const float x1 = h * fx, x0 = h - x1;
        const float w00 = (1.0f - fy) * (1.0f - fz), w10 = fy * (1.0f - fz), w01 = (1.0f - fy) * fz, w11 = fy * fz;
        const int64_t voxel = (ix - 1) + (iy - 1) * row + (iz - 1) * slice;
        if (Interior && uint32_t(ix - 1) < n[0] - 1 && uint32_t(iy - 1) < n[1] - 1 && uint32_t(iz - 1) < n[2] - 1) {
            visit(Slot<0>(), voxel, x0 * w00);
            visit(Slot<0>(), voxel + 1, x1 * w00);
            visit(Slot<1>(), voxel + row, x0 * w10);
            visit(Slot<1>(), voxel + row + 1, x1 * w10);
            visit(Slot<2>(), voxel + slice, x0 * w01);
            visit(Slot<2>(), voxel + slice + 1, x1 * w01);
            visit(Slot<3>(), voxel + slice + row, x0 * w11);
            visit(Slot<3>(), voxel + slice + row + 1, x1 * w11);
        } else {
            X2CT_UNROLL
            for (int corner = 0; corner < 8; ++corner) {
                const int cx = corner & 1, cy = corner >> 1 & 1, cz = corner >> 2;
                if (uint32_t(ix - 1 + cx) >= n[0] || uint32_t(iy - 1 + cy) >= n[1] || uint32_t(iz - 1 + cz) >= n[2]) continue;
                const float weight = (cx ? x1 : x0) * (cy ? fy : 1.0f - fy) * (cz ? fz : 1.0f - fz);
                visit(Slot<0>(), voxel + cx + cy * row + cz * slice, weight);
            }
        }
    }
}
