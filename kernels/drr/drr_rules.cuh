// What a ray collects: rules that give each voxel its weight in the ray's sum.
//
// A rule calls visit(Slot, element, weight) for the voxels between the positions `from` and `to` of a ray, which may be a part
// of it: the parts of a ray add up to the whole. Voxels visited under one slot follow each other along the ray, so that a
// reader may keep the memory word it read last for each slot. Naive rules count elements in 64 bits, the others in 32: they are
// for volumes below 2^31 voxels.
#pragma once

#include "drr_ray.cuh"

template <int S>
struct Slot {};

// The stretches of a part of a ray whose samples have all their neighbours inside the grid: [from, begin) and [end, to) do not.
struct Stretches {
    double at[4];  // from, begin, end, to
};

X2CT_DEVICE Stretches stretches(const DrrRay& ray, double from, double to, const uint32_t (&n)[3]) {
    DrrRay inner = part_of(ray, from, to);
    // A thousandth of a voxel inside the outermost centres: no rounding puts such a sample's neighbour outside.
    X2CT_UNROLL
    for (int a = 0; a < 3; ++a) clip_axis(inner, a, 0.501, n[a] - 0.501);
    const bool any = min(n[0], min(n[1], n[2])) > 1 && inner.begin < inner.end;
    if (!any) inner.begin = inner.end = to;
    return {{from, inner.begin, inner.end, to}};
}

// Siddon (1985): the weight is the length of the ray inside the voxel.
//
// Idea: slab by slab along the axis with the most crossings. Each other axis then crosses at most one plane inside a slab,
// so a slab is at most three segments and the loop has no search. A crossing that rounding moves across a slab's end is taken
// in the next slab with length 0.
template <class Visit>
X2CT_DEVICE void siddon_slabs(const DrrRay& ray, const uint32_t (&n)[3], Visit visit) {
    if (!(ray.begin < ray.end)) return;
    int64_t first = 0;
    Crossings a = crossings(ray, ray.start[0], ray.delta[0], n[0], 1, first);
    Crossings u = crossings(ray, ray.start[1], ray.delta[1], n[1], n[0], first);
    Crossings v = crossings(ray, ray.start[2], ray.delta[2], n[2], int64_t(n[0]) * n[1], first);
    const int steepest = steepest_axis(ray);
    if (steepest == 1) swap_crossings(a, u);
    if (steepest == 2) swap_crossings(a, v);
    const float length = float((ray.end - ray.begin) * ray.mm);
    const int32_t along = int32_t(a.step), across_u = int32_t(u.step), across_v = int32_t(v.step);
    int32_t voxel = int32_t(first);
    float s = 0.0f, next_u = u.first, next_v = v.first, done_u = 0.0f, done_v = 0.0f, slab = 0.0f;
    for (int32_t k = 0; k <= a.count; ++k, slab += 1.0f) {
        const float end = k < a.count ? fminf(a.first + slab * a.every, length) : length;
        const bool cross_u = next_u < end, cross_v = next_v < end;
        if (cross_u | cross_v) {
            const float at_u = fminf(fmaxf(next_u, s), end), at_v = fminf(fmaxf(next_v, s), end);
            const bool u_first = at_u <= at_v;
            const float one = fminf(at_u, at_v), two = fmaxf(at_u, at_v);
            visit(Slot<0>(), voxel, one - s);
            const int32_t step_u = cross_u ? across_u : 0, step_v = cross_v ? across_v : 0;
            if (cross_u & cross_v) visit(Slot<0>(), voxel + (u_first ? step_u : step_v), two - one);
            voxel += step_u + step_v;
            visit(Slot<0>(), voxel, end - (cross_u & cross_v ? two : one));
            done_u += cross_u ? 1.0f : 0.0f;
            done_v += cross_v ? 1.0f : 0.0f;
            if (cross_u) next_u = done_u < float(u.count) ? u.first + done_u * u.every : kNever;
            if (cross_v) next_v = done_v < float(v.count) ? v.first + done_v * v.every : kNever;
        } else {
            visit(Slot<0>(), voxel, end - s);
        }
        voxel += along;
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
// Bounded: test each of the four for being inside. UnitU: the steepest axis is not x, so neighbours along u are adjacent.
template <bool Bounded, bool UnitU, class Index, class Visit>
X2CT_DEVICE void joseph_stretch(const RayAxes& axes, const Planes& planes, float mm, Visit visit) {
    const Index su = UnitU ? 1 : Index(axes.u.stride), sv = Index(axes.v.stride), along = Index(axes.along.stride);
    // Of the voxel before (0, 0) on both axes, as coordinates start at 1.
    Index plane = planes.begin * along - su - sv;
    float steps = 0.0f;
    for (int32_t k = planes.begin; k < planes.end; ++k, plane += along, steps += 1.0f) {
        const float u = planes.u + steps * planes.du, v = planes.v + steps * planes.dv;
        const int32_t iu = int32_t(u), iv = int32_t(v);
        const float fu = u - float(iu), fv = v - float(iv), v1 = mm * fv, v0 = mm - v1;
        const Index voxel = plane + iu * su + iv * sv;
        const bool u0 = !Bounded || uint32_t(iu - 1) < axes.u.n, u1 = !Bounded || uint32_t(iu) < axes.u.n;
        const bool v0_in = !Bounded || uint32_t(iv - 1) < axes.v.n, v1_in = !Bounded || uint32_t(iv) < axes.v.n;
        if (u0 & v0_in) visit(Slot<0>(), voxel, (1.0f - fu) * v0);
        if (u1 & v0_in) visit(Slot<1>(), voxel + su, fu * v0);
        if (u0 & v1_in) visit(Slot<2>(), voxel + sv, (1.0f - fu) * v1);
        if (u1 & v1_in) visit(Slot<3>(), voxel + sv + su, fu * v1);
    }
}

template <class Visit>
X2CT_DEVICE void joseph_naive(const DrrRay& ray, double from, double to, const uint32_t (&n)[3], Visit visit) {
    if (!(from < to)) return;
    const RayAxes axes = ray_axes(ray, n);
    const Planes planes = ray_planes(axes, from, to);
    joseph_stretch<true, false, int64_t>(axes, planes, float(fabs(ray.mm * planes.every)), visit);
}

template <bool UnitU, class Visit>
X2CT_DEVICE void joseph_planes(const DrrRay& ray, double from, double to, const uint32_t (&n)[3], Visit visit) {
    if (!(from < to)) return;
    const RayAxes axes = ray_axes(ray, n);
    const Stretches parts = stretches(ray, from, to, n);
    // Not unrolled: the code of the rim is there once.
    for (int part = 0; part < 3; ++part) {
        const double begin = part == 0 ? parts.at[0] : part == 1 ? parts.at[1] : parts.at[2];
        const double end = part == 0 ? parts.at[1] : part == 1 ? parts.at[2] : parts.at[3];
        if (!(begin < end)) continue;
        const Planes planes = ray_planes(axes, begin, end);
        const float mm = float(fabs(ray.mm * planes.every));
        if (part == 1)
            joseph_stretch<false, UnitU, int32_t>(axes, planes, mm, visit);
        else
            joseph_stretch<true, UnitU, int32_t>(axes, planes, mm, visit);
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
// sample sum to its share of the ray. Bounded: test each neighbour for being inside.
template <bool Bounded, class Index, class Visit>
X2CT_DEVICE void trilinear_stretch(const DrrRay& ray, double from, double to, const uint32_t (&n)[3], float step, Visit visit) {
    const Samples samples = ray_samples(ray, step);
    // Half-open, so that parts of a ray share no sample.
    const double per = samples.count / (ray.end - ray.begin);
    const int32_t begin = max(0, int32_t(ceil((from - ray.begin) * per - 0.5)));
    const int32_t end = min(samples.count, int32_t(ceil((to - ray.begin) * per - 0.5)));
    const float h = samples.mm;
    const Index row = Index(n[0]), slice = Index(n[0]) * Index(n[1]), before = 1 + row + slice;
    float place = float(begin) + 0.5f;
    for (int32_t j = begin; j < end; ++j, place += 1.0f) {
        const float s = place * h;
        const float x = samples.q[0] + s * samples.d[0], y = samples.q[1] + s * samples.d[1], z = samples.q[2] + s * samples.d[2];
        const int32_t ix = int32_t(x), iy = int32_t(y), iz = int32_t(z);
        const float fx = x - float(ix), fy = y - float(iy), fz = z - float(iz);
        const float x1 = h * fx, x0 = h - x1;
        const float w00 = (1.0f - fy) * (1.0f - fz), w10 = fy * (1.0f - fz), w01 = (1.0f - fy) * fz, w11 = fy * fz;
        const Index voxel = ix + iy * row + iz * slice - before;
        const bool a0 = !Bounded || uint32_t(ix - 1) < n[0], a1 = !Bounded || uint32_t(ix) < n[0];
        const bool b0 = !Bounded || uint32_t(iy - 1) < n[1], b1 = !Bounded || uint32_t(iy) < n[1];
        const bool c0 = !Bounded || uint32_t(iz - 1) < n[2], c1 = !Bounded || uint32_t(iz) < n[2];
        if (a0 & b0 & c0) visit(Slot<0>(), voxel, x0 * w00);
        if (a1 & b0 & c0) visit(Slot<0>(), voxel + 1, x1 * w00);
        if (a0 & b1 & c0) visit(Slot<1>(), voxel + row, x0 * w10);
        if (a1 & b1 & c0) visit(Slot<1>(), voxel + row + 1, x1 * w10);
        if (a0 & b0 & c1) visit(Slot<2>(), voxel + slice, x0 * w01);
        if (a1 & b0 & c1) visit(Slot<2>(), voxel + slice + 1, x1 * w01);
        if (a0 & b1 & c1) visit(Slot<3>(), voxel + slice + row, x0 * w11);
        if (a1 & b1 & c1) visit(Slot<3>(), voxel + slice + row + 1, x1 * w11);
    }
}

template <class Visit>
X2CT_DEVICE void trilinear_naive(const DrrRay& ray, double from, double to, const uint32_t (&n)[3], float step, Visit visit) {
    if (from < to) trilinear_stretch<true, int64_t>(ray, from, to, n, step, visit);
}

template <class Visit>
X2CT_DEVICE void trilinear_march(const DrrRay& ray, double from, double to, const uint32_t (&n)[3], float step, Visit visit) {
    if (!(from < to)) return;
    const Stretches parts = stretches(ray, from, to, n);
    for (int part = 0; part < 3; ++part) {
        const double begin = part == 0 ? parts.at[0] : part == 1 ? parts.at[1] : parts.at[2];
        const double end = part == 0 ? parts.at[1] : part == 1 ? parts.at[2] : parts.at[3];
        if (!(begin < end)) continue;
        if (part == 1)
            trilinear_stretch<false, int32_t>(ray, begin, end, n, step, visit);
        else
            trilinear_stretch<true, int32_t>(ray, begin, end, n, step, visit);
    }
}
