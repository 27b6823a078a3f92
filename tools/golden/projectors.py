"""Radiographs of a moved imaging system, in PyTorch: every rule as weights that autograd follows back to volume and pose."""

import torch

from .case import Case, Draw

# Gradients of the pose sum large terms of both signs: f32 reaches about 2e-5.
TOLERANCE = {"rel_l2": 1e-4}


def skew(w):
    x, y, z = w.unbind()
    zero = torch.zeros_like(x)
    return torch.stack([zero, -z, y, z, zero, -x, -y, x, zero]).reshape(3, 3)


def clipped(start, delta, n, margin, limits):
    """The part of start + t delta in the box grown by `margin`, within `limits`."""
    low, high = limits
    for a in range(3):
        ends = torch.stack([(-margin - start[a]) / delta[a], (n[a] + margin - start[a]) / delta[a]])
        low, high = torch.maximum(low, ends.min()), torch.minimum(high, ends.max())
    return low, high


def corners(place, n, axes):
    """(flat index, weight) of the voxels around each place, interpolating along `axes`; 0 outside the volume."""
    base = place.detach().clone()
    base[:, axes] = (base[:, axes] - 0.5).floor() + 0.5
    for bits in range(1 << len(axes)):
        corner, weight = base.clone(), torch.ones(len(place), dtype=place.dtype)
        for k, a in enumerate(axes):
            part = place[:, a] - base[:, a]
            corner[:, a] += bits >> k & 1
            weight = weight * (part if bits >> k & 1 else 1 - part)
        index = corner.floor().long()
        inside = ((index >= 0) & (index < torch.tensor(n))).all(1)
        x, y, z = index[inside].unbind(1)
        yield x + n[0] * (y + n[1] * z), weight[inside]


def siddon(start, delta, mm, n, limits, step):
    low, high = clipped(start, delta, n, 0.0, limits)
    if low >= high:
        return []
    planes = [(torch.arange(n[a] + 1, dtype=start.dtype) - start[a]) / delta[a] for a in range(3)]
    t = torch.cat(planes)
    t = torch.cat([t[(t > low) & (t < high)], low[None], high[None]]).sort().values
    index = (start + (t[1:] + t[:-1])[:, None] / 2 * delta).detach().floor().long()
    x, y, z = torch.minimum(index.clamp(min=0), torch.tensor(n) - 1).unbind(1)
    return [(x + n[0] * (y + n[1] * z), (t[1:] - t[:-1]) * mm)]


def joseph(start, delta, mm, n, limits, step):
    low, high = clipped(start, delta, n, 0.5, limits)
    along = int(delta.abs().argmax())
    t = (torch.arange(n[along], dtype=start.dtype) + 0.5 - start[along]) / delta[along]
    t = t[(t >= low) & (t < high)]
    place = start + t[:, None] * delta
    across = [a for a in range(3) if a != along]
    return [(index, weight * mm / delta[along].abs()) for index, weight in corners(place, n, across)]


def trilinear(start, delta, mm, n, limits, step):
    low, high = clipped(start, delta, n, 0.5, limits)
    if low >= high:
        return []
    samples = int(torch.ceil((high - low) * mm / step).item())
    t = low + (torch.arange(samples, dtype=start.dtype) + 0.5) / samples * (high - low)
    share = (high - low) * mm / samples
    return [(index, weight * share) for index, weight in corners(start + t[:, None] * delta, n, [0, 1, 2])]


def project(rule, volume, pose, attrs):
    dtype = volume.dtype
    tensor = lambda values: torch.tensor(values, dtype=dtype)
    affine = tensor(attrs["affine"]).reshape(3, 4)
    inverse, about = torch.linalg.inv(affine[:, :3]), tensor(attrs["about"])
    turn = torch.matrix_exp(skew(pose[0, :3]))
    point = lambda p: turn @ (tensor(p) - about) + about + pose[0, 3:]
    voxel = lambda p: inverse @ (p - affine[:, 3]) + 0.5
    origin, row, column = point(attrs["detector_origin"]), turn @ tensor(attrs["detector_row"]), turn @ tensor(attrs["detector_column"])
    n, flat = list(volume.shape[::-1]), volume.reshape(-1)
    image = []
    for r in range(attrs["size"][0]):
        for c in range(attrs["size"][1]):
            pixel = origin + r * row + c * column
            if attrs["geometry"] == "cone":
                world, limits = (point(attrs["source"]), pixel), (tensor(0.0), tensor(1.0))
            else:
                world, limits = (pixel, pixel + turn @ tensor(attrs["direction"])), (tensor(-1e9), tensor(1e9))
            start, end = voxel(world[0]), voxel(world[1])
            mm = (world[1] - world[0]).norm()
            terms = rule(start, end - start, mm, n, limits, attrs["step"])
            image.append(sum([(flat[index] * weight).sum() for index, weight in terms], flat.sum() * 0))
    return torch.stack(image).reshape(attrs["size"])


def gradients(rule, volume, pose, attrs, up, dtype):
    volume, pose = volume.to(dtype).requires_grad_(), pose.to(dtype).requires_grad_()
    image = project(rule, volume, pose, attrs)
    (image * up.to(dtype)).sum().backward()
    return {"out.image": image.detach(), "g.in.volume": volume.grad, "g.in.pose": pose.grad}


def cases():
    placements = [
        ("cone", (12, 17, 14), [-0.75, 0.02, 0, 5.0, 0.01, -0.75, 0.03, 6.0, 0, -0.02, 1.5, -9.0], dict(
            source=[3.37, 700.0, 5.21], detector_origin=[9.71, -120.0, 11.43], detector_row=[0.1, 0, -1.97],
            detector_column=[-1.57, 0.2, 0], size=[11, 12])),
        ("lateral", (9, 14, 23), [-0.9, 0, 0, 10.0, 0, -1.1, 0, 7.0, 0, 0, 2.0, -8.0], dict(
            source=[650.0, 11.0, -3.0], detector_origin=[-90.0, 8.7, 8.3], detector_row=[0, 0.07, -1.73],
            detector_column=[0.1, -1.41, 0.05], size=[10, 13])),
        ("parallel", (11, 8, 9), [-1.5, 0.1, 0, 6.0, 0.05, -2.0, 0.1, 7.5, 0, 0.15, 2.5, -12.0], dict(
            direction=[0.11, -1.0, 0.07], detector_origin=[7.13, 40.0, 11.71], detector_row=[0, 0.03, -2.37],
            detector_column=[-1.51, 0, 0.1], size=[9, 10])),
    ]
    for rule in (siddon, joseph, trilinear):
        for suffix, shape, affine, placement in placements:
            name = f"drr_posed_{rule.__name__}_{suffix}"
            draw = Draw(name)
            geometry = "parallel" if suffix == "parallel" else "cone"
            attrs = {"projector": rule.__name__, "geometry": geometry, "affine": affine, "about": [0.3, -0.4, 0.5],
                     "step": 0.375} | placement
            volume, up = draw.uniform(0, 0.04, *shape), draw.normal(*placement["size"])
            pose = torch.cat([draw.uniform(-0.15, 0.15, 1, 3), draw.uniform(-2, 2, 1, 3)], 1)
            expected = gradients(rule, volume, pose, attrs, up, torch.float64)
            case = Case(name, "drr_posed", attrs, "", TOLERANCE, "torch autograd through the rule's weights, f64",
                        {"in.volume": volume, "in.pose": pose, "up.image": up} | expected)
            yield case
