// Air, skipped: bricks of 8 x 8 x 8 voxels of which none is above the floor, where every value counts as 0.
#pragma once

#include "drr_ray.cuh"

constexpr uint32_t kBrick = 8;

// Bricks of one volume.
X2CT_DEVICE uint64_t bricks_of(const uint32_t (&n)[3]) {
    return uint64_t((n[0] + kBrick - 1) / kBrick) * ((n[1] + kBrick - 1) / kBrick) * ((n[2] + kBrick - 1) / kBrick);
}

// Narrows [from, to] to where the ray enters its first occupied brick and leaves its last. `bricks` is [Z / 8, Y / 8, X / 8],
// rounded up; none: all are occupied. What lies outside the grid belongs to the outermost bricks.
//
// Idea: what is left is one stretch, so that nothing of this search stays in registers while the voxels are walked. A body
// has few bricks of air inside; most air lies around it.
X2CT_DEVICE void clip_to_bricks(const DrrRay& ray, const uint8_t* bricks, const uint32_t (&n)[3], double& from, double& to) {
    if (!bricks || !(from < to)) return;
    const uint32_t m[3] = {(n[0] + kBrick - 1) / kBrick, (n[1] + kBrick - 1) / kBrick, (n[2] + kBrick - 1) / kBrick};
    DrrRay coarse = part_of(ray, from, to);
    X2CT_UNROLL
    for (int a = 0; a < 3; ++a) {
        coarse.start[a] /= kBrick;
        coarse.delta[a] /= kBrick;
    }
    VoxelWalk walk(coarse, m);
    int64_t brick;
    float enters, leaves, first = kNever, last = 0.0f;
    int axis;
    while (walk.next(brick, enters, leaves, axis))
        if (bricks[brick]) {
            first = fminf(first, enters);
            last = axis == 3 ? kNever : leaves;
        }
    const double per_mm = 1.0 / ray.mm, begin = from;
    from = first == kNever ? to : first > 0.0f ? begin + double(first) * per_mm : from;
    to = last == kNever ? to : begin + double(last) * per_mm;
}

// A brick is occupied if it, or a voxel beside it that an interpolated sample inside it may touch, is above the floor. NaN is.
template <class T>
X2CT_DEVICE void mark_bricks(const DrrParams& p) {
    const uint32_t m[3] = {(p.n[0] + kBrick - 1) / kBrick, (p.n[1] + kBrick - 1) / kBrick, (p.n[2] + kBrick - 1) / kBrick};
    const uint64_t count = bricks_of(p.n);
    const uint64_t item = uint64_t(blockIdx.x) * BricksConfig::threads + threadIdx.x;
    if (item >= count * p.batch) return;
    uint64_t brick = item % count;
    const T* voxels = static_cast<const T*>(p.volume) + item / count * p.voxels;
    uint32_t low[3], high[3];
    X2CT_UNROLL
    for (int a = 0; a < 3; ++a) {
        const uint32_t first = uint32_t(brick % m[a]) * kBrick;
        brick /= m[a];
        low[a] = first > 0 ? first - 1 : 0;
        high[a] = min(first + kBrick + 1, p.n[a]);
    }
    for (uint32_t z = low[2]; z < high[2]; ++z)
        for (uint32_t y = low[1]; y < high[1]; ++y) {
            const T* row = voxels + (uint64_t(z) * p.n[1] + y) * p.n[0];
            bool air = true;
            for (uint32_t x = low[0]; x < high[0]; ++x) air &= p.slope * to_float(row[x]) + p.intercept <= p.floor;
            if (!air) {
                p.bricks[item] = 1;
                return;
            }
        }
    p.bricks[item] = 0;
}
