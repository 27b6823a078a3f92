"""Projection of a CT to a radiograph, and the resampling that precedes it, in NumPy f64."""

import math

import numpy as np
import torch
import torch.nn.functional as F

from .case import TIGHT, Case, Draw, relative_l2

# A source 1.5 m away leaves f32 about 1e-4 mm of a millimetre-long segment.
TOLERANCE = {"rel_l2": 2e-4}


def mean_hu():
    for shape in [(5, 7, 11), (33, 1, 2), (4, 130, 3)]:
        name = f"drr_mean_hu_{'x'.join(map(str, shape))}"
        draw = Draw(name)
        volume = draw.uniform(-1000, 1000, *shape)
        up = draw.normal(shape[0], shape[2])
        # x runs to the patient's left, y to the back, z to the head: the image's first row is the top.
        image = volume.double().mean(1).flip(0)
        gradient = (up.double().flip(0) / shape[1])[:, None, :].expand(shape)
        yield Case(name, "drr_mean_hu", {"axes": "LPS"}, "", TIGHT, "torch mean, f64",
                   {"in.volume": volume, "out.image": image, "up.image": up, "g.in.volume": gradient})


def ray_segments(start, end, shape, dtype):
    """(flat voxel index, length in units of |end - start|) of every voxel box the ray crosses (Siddon 1985).

    Coordinates are voxel indices in the order of `shape`; voxel n spans [n - 1/2, n + 1/2).
    """
    start, step = start.astype(dtype), (end - start).astype(dtype)
    low, high = dtype(0), dtype(1)
    crossings = []
    for axis, count in enumerate(shape):
        planes = np.arange(count + 1, dtype=dtype) - dtype(0.5)
        if step[axis] == 0:
            if not -0.5 <= start[axis] < count - 0.5:
                return np.zeros(0, int), np.zeros(0, dtype)
            continue
        alphas = (planes - start[axis]) / step[axis]
        low, high = max(low, alphas.min()), min(high, alphas.max())
        crossings.append(alphas)
    if low >= high:
        return np.zeros(0, int), np.zeros(0, dtype)
    alphas = np.concatenate(crossings)
    alphas = np.sort(np.concatenate([alphas[(alphas > low) & (alphas < high)], [low, high]]).astype(dtype))
    middle = (alphas[1:] + alphas[:-1]) / 2
    index = np.floor(start + middle[:, None] * step + dtype(0.5)).astype(int)
    index = np.clip(index, 0, np.array(shape) - 1)
    return np.ravel_multi_index(index.T, shape), np.diff(alphas)


def project(volume, attrs, up, dtype):
    affine = np.array(attrs["affine"], float).reshape(3, 4)
    inverse = np.linalg.inv(affine[:, :3])
    rows, columns = attrs["size"]
    origin, row, column = (np.array(attrs["detector_" + key], float) for key in ("origin", "row", "column"))
    image, gradient = np.zeros((rows, columns), dtype), np.zeros(volume.size, dtype)
    flat = volume.reshape(-1).astype(dtype)
    for r in range(rows):
        for c in range(columns):
            end = origin + r * row + c * column
            if attrs["geometry"] == "cone":
                start = np.array(attrs["source"], float)
            else:
                direction = np.array(attrs["direction"], float)
                direction /= np.linalg.norm(direction)
                start, end = end - 200 * direction, end + 200 * direction
            # Index order (z, y, x) is the reverse of the affine's.
            segment = [(inverse @ (point - affine[:, 3]))[::-1] for point in (start, end)]
            voxels, lengths = ray_segments(*segment, volume.shape, dtype)
            lengths = lengths * dtype(np.linalg.norm(end - start))
            image[r, c] = (flat[voxels] * lengths).sum()
            np.add.at(gradient, voxels, lengths * up[r, c])
    return image, gradient.reshape(volume.shape)


def line_integral():
    turn = 0.3
    oblique = np.array([[math.cos(turn), -math.sin(turn), 0], [math.sin(turn), math.cos(turn), 0], [0, 0, 1]])
    oblique = oblique @ np.array([[1, 0, 0], [0, math.cos(0.2), -math.sin(0.2)], [0, math.sin(0.2), math.cos(0.2)]])

    def affine(rotation, spacing, shape):
        matrix = rotation * np.array(spacing)
        centre = matrix @ ((np.array(shape[::-1]) - 1) / 2)
        return np.concatenate([matrix, -centre[:, None]], 1)

    # Offsets of a fraction of a voxel keep every ray off the edges, where two answers would be right.
    runs = [
        ("parallel_ap", (9, 7, 11), np.eye(3), (1.5, 2.0, 2.5), "parallel", dict(
            direction=[0, 1, 0], detector_origin=[-8.13, 150.0, 10.71], detector_row=[0, 0, -2.37],
            detector_column=[1.91, 0, 0], size=[10, 9])),
        ("parallel_oblique", (6, 13, 8), oblique, (2.0, 1.0, 3.0), "parallel", dict(
            direction=[0.31, 0.9, -0.17], detector_origin=[-17.3, 60.0, 12.9], detector_row=[0.11, 0, -1.83],
            detector_column=[2.03, 0.2, 0.07], size=[13, 17])),
        ("cone_ap", (12, 17, 14), np.eye(3), (0.75, 0.75, 1.5), "cone", dict(
            source=[0.37, -1500.0, 0.21], detector_origin=[-8.71, 300.0, 12.43], detector_row=[0, 0, -2.17],
            detector_column=[1.57, 0, 0], size=[11, 12])),
        ("cone_oblique", (10, 9, 21), oblique, (1.3, 0.9, 2.2), "cone", dict(
            source=[-331.0, -777.7, 55.5], detector_origin=[121.3, 341.0, 4.7], detector_row=[0.3, 0.1, -2.9],
            detector_column=[2.57, -1.11, 0.2], size=[9, 15])),
        ("cone_lateral_single_slice", (1, 16, 16), np.eye(3), (1.0, 1.0, 5.0), "cone", dict(
            source=[-1000.0, 0.23, 0.11], detector_origin=[200.0, -8.9, 2.3], detector_row=[0, 0, -1.13],
            detector_column=[0, 1.71, 0], size=[5, 12])),
    ]
    for suffix, shape, rotation, spacing, geometry, placement in runs:
        name = f"drr_siddon_{suffix}"
        draw = Draw(name)
        volume, up = draw.uniform(0, 0.04, *shape), draw.normal(*placement["size"])
        matrix = affine(rotation, spacing, shape).reshape(-1).tolist()
        attrs = {"projector": "siddon", "geometry": geometry, "affine": matrix} | placement
        image, gradient = project(volume.numpy(), attrs, up.double().numpy(), np.float64)
        single = project(volume.numpy(), attrs, up.numpy(), np.float32)
        expected = {"out.image": torch.from_numpy(image), "g.in.volume": torch.from_numpy(gradient)}
        case = Case(name, "drr_line_integral", attrs, "", TOLERANCE, "NumPy, exact ray-box segments, f64",
                    {"in.volume": volume, "up.image": up} | expected)
        errors = [relative_l2(torch.from_numpy(x), y) for x, y in zip(single, expected.values())]
        case.margin, case.worst = max(zip(errors, expected))
        case.margin /= TOLERANCE["rel_l2"]
        yield case


def resample():
    # name, (x, y, z), spacing, pre_clip, window, target size, slope, intercept
    ct_clip = ([-1000.0, 1000.0], [-1000.0, 1000.0])
    runs = [
        ("ct_clip_down", (21, 19, 13), (0.341796875, 0.341796875, 1.0), *ct_clip, (12, 11, 7), 1.0, -1024.0),
        ("ct_clip_up", (9, 8, 7), (1.1, 1.1, 3.0), *ct_clip, (20, 10, 16), 1.0, 0.0),
        ("truncated_250_to_199", (3, 2, 250), (0.75, 0.75, 1.2), *ct_clip, (3, 2, 199), 1.0, -1024.0),
        ("clip_after", (10, 7, 9), (0.9, 0.9, 2.0), None, [-1000.0, 1000.0], (10, 12, 12), 2.0, -8192.0),
        ("dcformer_window", (12, 11, 6), (0.6, 0.6, 2.5), ct_clip[0], [-1000.0, 200.0], (8, 8, 12), 1.0, -1024.0),
        ("single_slice", (5, 4, 1), (0.75, 0.75, 1.5), *ct_clip, (5, 4, 3), 1.0, -1024.0),
    ]
    target = (0.75, 0.75, 1.5)
    for suffix, shape, spacing, pre_clip, window, size, slope, intercept in runs:
        name = f"ct_resample_{suffix}"
        # Raw voxels that span more than the clip, stored in NIfTI's order: x fastest.
        raw = Draw(name).uniform((-1500 - intercept) / slope, (1700 - intercept) / slope, *shape[::-1]).round()
        hu = raw.double() * slope + intercept
        hu = hu.clamp(*pre_clip) if pre_clip else hu
        # The division comes first and the product is truncated: 250 slices at 1.2 mm become 199, not 200.
        resampled = [int(n * (s / t)) for n, s, t in zip(shape, spacing, target)]
        y = F.interpolate(hu[None, None], size=resampled[::-1], mode="trilinear", align_corners=False)[0, 0]
        low, high = window
        y = (y.clamp(low, high) - (low + high) / 2) / ((high - low) / 2)
        y = y.permute(2, 1, 0)
        for axis, wanted in enumerate(size):
            start = max((y.shape[axis] - wanted) // 2, 0)
            y = y.narrow(axis, start, min(wanted, y.shape[axis]))
            before = (wanted - y.shape[axis]) // 2
            pad = [0, 0, 0, 0, 0, 0]
            pad[2 * (2 - axis)], pad[2 * (2 - axis) + 1] = before, wanted - y.shape[axis] - before
            y = F.pad(y, pad, value=-1.0)
        attrs = {"slope": slope, "intercept": intercept, "spacing": spacing, "target_spacing": target,
                 "pre_clip": pre_clip, "window": window, "size": size, "pad": -1.0, "resampled": resampled}
        yield Case(name, "ct_resample", attrs, "", TIGHT, "torch interpolate (trilinear, align_corners=False), f64",
                   {"in.volume": raw, "out.y": y.permute(2, 0, 1)})


def cases():
    yield from mean_hu()
    yield from line_integral()
    yield from resample()
