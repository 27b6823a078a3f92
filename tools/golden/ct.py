"""Projection of a CT to a radiograph, and the resampling that precedes it, in NumPy f64."""

import math

import nibabel
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


def orient_lps(volume, affine):
    """A [Z, Y, X] array and its affine (RAS+) as x, y, z growing to the left, the back and the head, and its spacing."""
    codes = nibabel.aff2axcodes(affine)
    change = nibabel.orientations.ornt_transform(nibabel.orientations.axcodes2ornt(codes),
                                                 nibabel.orientations.axcodes2ornt("LPS"))
    spacing = nibabel.affines.voxel_sizes(affine)
    order = [int(axis) for axis, _ in sorted(zip(range(3), change[:, 0]), key=lambda pair: pair[1])]
    turned = nibabel.orientations.apply_orientation(volume.transpose(2, 1, 0), change)
    return np.ascontiguousarray(turned), [float(spacing[axis]) for axis in order]


# Written down here once more, so that a wrong number in the library is not also in its reference:
# target spacing (x, y, z), clip before, window after, value outside, whether x comes before y in the output.
PRESETS = {
    "ct-clip-v2": ((0.75, 0.75, 1.5), (-1000, 1000), (-1000, 1000), -1.0, True),
    "ct-clip-v1": ((0.75, 0.75, 1.5), (-1000, 1000), (-1000, 200), -1.0, True),
    "dcformer": ((0.75, 0.75, 1.5), (-1000, 1000), (-1000, 1000), -1.0, True),
    "dcformer-code": ((0.75, 0.75, 1.5), (-1000, 1000), (-1000, 200), -1.0, True),
    "x2ct": ((1.0, 1.0, 1.0), (-1000, 1000), None, None, False),
}


def presets():
    c, s = math.cos(0.35), math.sin(0.35)
    tilt = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ np.array([[1, 0, 0], [0, math.cos(0.2), -math.sin(0.2)],
                                                                     [0, math.sin(0.2), math.cos(0.2)]])
    # Columns: where the stored axes point, RAS+.
    lps, ras = np.diag([-1.0, -1, 1]), np.eye(3)
    ial = np.array([[0.0, 0, -1], [0, 1, 0], [-1, 0, 0]])
    psr = np.array([[0.0, 0, 1], [-1, 0, 0], [0, 1, 0]])
    # name, stored shape x y z, stored spacing, directions, preset, clip after, size x y z (LPS), slope, intercept
    runs = [
        ("ct_clip_v2_lps", (17, 13, 11), (0.9, 0.9, 1.2), lps, "ct-clip-v2", False, (13, 21, 8), 1.0, -1024.0),
        # 250 slices of 1.2 mm on 1.5 mm are 199, on a stored axis that is not z.
        ("ct_clip_v2_psr_250", (3, 250, 4), (0.8, 1.2, 0.7), psr, "ct-clip-v2", False, (5, 2, 199), 1.0, 0.0),
        ("ct_clip_v2_oblique", (14, 9, 10), (0.6, 0.8, 2.1), lps @ tilt, "ct-clip-v2", False, (10, 11, 13), 1.0, -1024.0),
        ("ct_clip_v2_after_ras", (11, 10, 7), (0.7, 1.1, 2.5), ras, "ct-clip-v2", True, (9, 16, 12), 2.0, -8192.0),
        ("ct_clip_v1_ial", (9, 12, 15), (1.3, 0.8, 0.7), ial, "ct-clip-v1", False, (14, 11, 5), 1.0, -1024.0),
        ("dcformer_ras", (12, 15, 9), (0.8, 0.6, 1.1), ras, "dcformer", False, (15, 9, 4), 1.0, 0.0),
        ("dcformer_code_oblique", (10, 11, 12), (0.9, 0.7, 1.4), ras @ tilt, "dcformer-code", False, (11, 12, 15), 1.0, 0.0),
        ("x2ct_psr", (8, 13, 10), (1.3, 2.2, 0.6), psr, "x2ct", False, None, 1.0, -1024.0),
        ("x2ct_after_ial_single_slice", (1, 9, 12), (2.0, 0.7, 1.7), ial, "x2ct", True, None, 1.0, 0.0),
    ]
    for suffix, shape, edges, directions, preset, clip_after, size, slope, intercept in runs:
        name = f"ct_preset_{suffix}"
        low, high = (-2100 - intercept) / slope, (1900 - intercept) / slope
        raw = Draw(name).uniform(low, high, *shape[::-1]).round()
        affine = np.eye(4)
        affine[:3, :3] = directions * np.array(edges)
        affine[:3, 3] = [3.0, -7.0, 11.0]
        target, pre_clip, window, pad, x_first = PRESETS[preset]
        hu, spacing = orient_lps(raw.double().numpy() * slope + intercept, affine)
        hu = torch.from_numpy(hu)
        hu = hu if clip_after else hu.clamp(*pre_clip)
        # The division comes first and the product is truncated.
        to = [int(n * (current / wanted)) for n, current, wanted in zip(hu.shape, spacing, target)]
        y = F.interpolate(hu[None, None], size=to, mode="trilinear", align_corners=False)[0, 0]
        if window:
            y = (y.clamp(*window) - sum(window) / 2) / ((window[1] - window[0]) / 2)
        for axis, wanted in enumerate(size or to):
            start = max((y.shape[axis] - wanted) // 2, 0)
            y = y.narrow(axis, start, min(wanted, y.shape[axis]))
            before = (wanted - y.shape[axis]) // 2
            around = [0, 0, 0, 0, 0, 0]
            around[2 * (2 - axis)], around[2 * (2 - axis) + 1] = before, wanted - y.shape[axis] - before
            if any(around):
                y = F.pad(y, around, value=pad)
        y = y.permute(2, 0, 1) if x_first else y.permute(2, 1, 0)
        attrs = {"preset": preset, "clip_after": clip_after, "affine": affine[:3].reshape(-1).tolist(), "slope": slope,
                 "intercept": intercept} | ({"size": size} if size else {})
        yield Case(name, "ct_preset", attrs, "", TIGHT, "nibabel orientation, torch interpolate (trilinear), f64",
                   {"in.volume": raw, "out.y": y.contiguous()})


def cases():
    yield from presets()
    yield from mean_hu()
    yield from line_integral()
    yield from resample()
