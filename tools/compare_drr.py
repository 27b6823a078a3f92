"""Compares `x2ct drr` with nanodrr and diffdrr on the CPU: one CT file, cone beams from in front, from the side and oblique,
each peer through its own camera and its own Euler angles, so that orientation and units are compared too.

    python tools/compare_drr.py CT.nii.gz --x2ct target/release/x2ct
    python tools/compare_drr.py CT.nii.gz --x2ct target/release/x2ct --mean-hu

Needs numpy, nibabel, safetensors, torch, torchio, nanodrr, diffdrr (tools/requirements.txt). The exit code is 1 when a limit
is passed.

Limits, relative L2 of the image, and why:
- trilinear against nanodrr: one interpolant (zero one voxel outside the outermost centres), sampled by two rules, half a
  voxel (x2ct) and --samples a ray (nanodrr, f32 positions) apart. Both miss the integral by the square of their step and
  differ by that much: 1e-4. On a 512 x 512 x 133 chest CT they differ by 1.4e-5 to 3.5e-5.
- siddon against diffdrr's siddon: the same exact sum; diffdrr finds the crossings in f32 over the whole way from source to
  detector, about 1e-4 mm each, of either sign: 1e-5. They differ by 6.6e-7 to 1.3e-6.
- trilinear against diffdrr's trilinear: as nanodrr, but one range of --samples for all rays, the longest any of them has, so
  that each has fewer inside the volume: 2e-4. They differ by 2.5e-5 to 7.2e-5.
- joseph against its rule written here in f64 (no peer has it): 2e-6 for f32 sums of up to 512 planes. They differ by 7e-7.
  Against trilinear as siddon below.
- siddon against trilinear: constant voxels and interpolated ones, two models of one CT. They differ where neighbouring voxels
  do, by what the sampling leaves open: below 2e-2, a matter of choice and not of error.
- --mean-hu: against the mean, in f64, of the volume that PyTorch's trilinear interpolation resizes in f64: 1e-3 HU in every
  pixel. 332 x 360 pixels of about 360 f32 terms up to 1000 each round to about 1e-4 HU.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile
import time

import nibabel
import numpy as np
import torch
from safetensors.numpy import load_file

# What x2ct is told, and where the peers stand: their orientation and their ZXY Euler angles in degrees about the isocentre.
VIEWS = {
    "ap": (["--view", "ap"], "AP", [0.0, 0.0, 0.0]),
    "pa": (["--view", "pa"], "PA", [0.0, 0.0, 0.0]),
    "lateral": (["--view", "lateral"], "PA", [90.0, 0.0, 0.0]),
    "right-lateral": (["--view", "right-lateral"], "PA", [-90.0, 0.0, 0.0]),
    # RAO 30, cranial 20.
    "oblique": (["--view", "pa", "--primary-angle", "-30", "--secondary-angle", "20"], "PA", [-30.0, 20.0, 0.0]),
}


def run_x2ct(binary, ct, options):
    """The image and the report of `x2ct drr`."""
    with tempfile.TemporaryDirectory() as folder:
        out = pathlib.Path(folder) / "image.safetensors"
        command = [binary, "drr", ct, "--out", out, "--json", *options]
        report = json.loads(subprocess.run([str(c) for c in command], check=True, capture_output=True).stdout)
        return load_file(out)["image"].astype(np.float64), report


def project_x2ct(args, projector, view):
    begin = time.perf_counter()
    image, report = run_x2ct(args.x2ct, args.ct, [
        "--mode", "attenuation", "--geometry", "cone", "--projector", projector, *VIEWS[view][0],
        "--size", f"{args.size}x{args.size}", "--pitch", args.pitch, "--sdd", args.sdd, "--sod", args.sod,
        "--mu-water", args.mu_water, "--device", args.device])
    print(f"x2ct {projector} {view}: {time.perf_counter() - begin:.2f} s, of which projecting {report['seconds']['project']:.2f} s")
    return image[::args.every]


def peer_pose(args, view):
    _, orientation, euler = VIEWS[view]
    distance = args.sod if orientation == "AP" else -args.sod
    return orientation, torch.tensor([euler]), torch.tensor([[0.0, distance, 0.0]])


def run_nanodrr(image, args, samples, view):
    from nanodrr.camera import make_k_inv, make_rt_inv
    from nanodrr.data import Subject
    from nanodrr.drr import render
    from nanodrr.drr.renderer import _make_src, _make_tgt

    subject = Subject.from_images(image, convert_to_mu=False)
    k_inv = make_k_inv(args.sdd, args.pitch, args.pitch, 0.0, 0.0, args.size, args.size)
    orientation, euler, position = peer_pose(args, view)
    rt_inv = make_rt_inv(euler, position, orientation=orientation, isocenter=subject.isocenter)
    sdd = torch.tensor([args.sdd])
    rows = []
    # A few rows at a time: all samples of an image at once need tens of gigabytes.
    target = _make_tgt(k_inv, sdd, args.size, args.size, "cpu", torch.float32).reshape(1, args.size, args.size, 3)
    target = target[:, ::args.every]
    for first in range(0, target.shape[1], args.chunk):
        part = target[:, first:first + args.chunk].reshape(1, -1, 3)
        height = part.shape[1] // args.size
        rows.append(render(subject, k_inv, rt_inv, sdd, height, args.size, samples, src=_make_src(False, part, sdd),
                           tgt=part)[0, 0])
    return torch.cat(rows).numpy().astype(np.float64)


def run_diffdrr(image, args, renderer, view, **options):
    from diffdrr.data import read
    from diffdrr.drr import DRR
    from diffdrr.pose import convert

    orientation, euler, position = peer_pose(args, view)
    subject = read(image, orientation=orientation, center_volume=True)
    drr = DRR(subject, args.sdd, args.size, args.pitch, renderer=renderer)
    drr.density = image.data.squeeze().float()  # attenuation as it is, not diffdrr's own conversion
    pose = convert(euler, position, parameterization="euler_angles", convention="ZXY", degrees=True)
    source, target = drr.detector(pose, None)
    target = target.reshape(1, args.size, args.size, 3)[:, ::args.every].reshape(1, -1, 3)
    step = args.chunk * args.size
    parts = [drr.render(drr.density, source, target[:, i:i + step], **options)[0, 0]
             for i in range(0, target.shape[1], step)]
    return torch.cat(parts).reshape(-1, args.size).numpy().astype(np.float64)


def joseph_f64(volume, affine, args, view):
    """Joseph's rule (IEEE Trans. Med. Imaging 1, 1982) in f64: on each plane of voxel centres across the axis along which a ray
    passes most voxels, the bilinear interpolant, 0 one voxel outside; times the ray's length from plane to plane. The rays
    are those of nanodrr's camera."""
    from nanodrr.camera import make_k_inv, make_rt_inv
    from nanodrr.drr.renderer import _make_tgt

    # In f64: the peers' own f32 rays are 1e-4 mm off.
    orientation, euler, position = peer_pose(args, view)
    # Not the image's own affine: diffdrr moves its centre to the origin.
    centre = affine @ np.append((np.array(volume.shape) - 1) / 2, 1.0)
    isocentre = torch.from_numpy(centre[:3])
    k_inv = make_k_inv(args.sdd, args.pitch, args.pitch, 0.0, 0.0, args.size, args.size, dtype=torch.float64)
    to_world = make_rt_inv(euler.double(), position.double(), orientation=orientation, isocenter=isocentre)[0].numpy()
    target = _make_tgt(k_inv, torch.tensor([args.sdd], dtype=torch.float64), args.size, args.size, "cpu", torch.float64)
    target = target[0].numpy().reshape(args.size, args.size, 3)[::args.every].reshape(-1, 3)
    world = target @ to_world[:3, :3].T
    to_voxel = np.linalg.inv(affine)
    source = to_voxel[:3, :3] @ to_world[:3, 3] + to_voxel[:3, 3]
    rays = world @ to_voxel[:3, :3].T
    volume = np.pad(volume.astype(np.float64), 1)
    sums = np.zeros(len(rays))
    steepest = np.abs(rays).argmax(axis=1)
    for axis in range(3):
        mine = np.flatnonzero(steepest == axis)
        planes = np.moveaxis(volume, axis, 0)
        others = [a for a in range(3) if a != axis]
        for k in range(1, planes.shape[0] - 1):
            share = (k - 1 - source[axis]) / rays[mine, axis]
            at = [np.clip(source[a] + share * rays[mine, a] + 1, 0, volume.shape[a] - 1 - 1e-9) for a in others]
            corner = [a.astype(np.int64) for a in at]
            (u, v), (i, j) = [a - c for a, c in zip(at, corner)], corner
            sums[mine] += ((planes[k, i, j] * (1 - u) + planes[k, i + 1, j] * u) * (1 - v)
                           + (planes[k, i, j + 1] * (1 - u) + planes[k, i + 1, j + 1] * u) * v)
        sums[mine] *= np.linalg.norm(world[mine], axis=1) / np.abs(rays[mine, axis])
    return sums.reshape(-1, args.size)


def mean_hu(args):
    """Mean HU as X2CT-CLIP makes it, in f64 throughout: clip, trilinear resize to 1 mm (sizes truncated), mean."""
    ct = nibabel.load(args.ct)
    to_lps = nibabel.orientations.ornt_transform(nibabel.io_orientation(ct.affine),
                                                 nibabel.orientations.axcodes2ornt(("L", "P", "S")))
    ct = ct.as_reoriented(to_lps)
    hu = torch.from_numpy(np.clip(ct.get_fdata(dtype=np.float64), -1000.0, 1000.0))
    size = [int(n * mm) for n, mm in zip(hu.shape, ct.header.get_zooms())]
    resized = torch.nn.functional.interpolate(hu[None, None], size=size, mode="trilinear", align_corners=False)[0, 0].numpy()
    passed = True
    # Rows go down from the head; columns to the patient's left, or to the back.
    for view, axis in [("ap", 1), ("lateral", 0)]:
        theirs = resized.mean(axis=axis).T[::-1]
        ours, report = run_x2ct(args.x2ct, args.ct, ["--mode", "mean-hu", "--view", view, "--device", args.device])
        error = np.abs(ours - theirs).max()
        passed &= bool(error <= 1e-3)
        print(f"{view}: mean HU {ours.shape}, {report['padding_voxels']} voxels of padding, from {theirs.min():.1f} to "
              f"{theirs.max():.1f}: largest error {error:.2e} HU  limit 1e-03  {'pass' if error <= 1e-3 else 'FAIL'}")
    return passed


def compare(name, ours, theirs, limit):
    difference = ours - theirs
    relative = np.linalg.norm(difference) / np.linalg.norm(theirs)
    verdict = "" if limit is None else f"  limit {limit:.0e}  {'pass' if relative <= limit else 'FAIL'}"
    print(f"{name:42} max {np.abs(difference).max():.3e}  of {np.abs(theirs).max():.3f}  relative L2 {relative:.3e}{verdict}",
          flush=True)
    return limit is None or relative <= limit


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ct", help="NIfTI file in Hounsfield units")
    parser.add_argument("--x2ct", default="target/release/x2ct", help="the binary")
    parser.add_argument("--device", default="host")
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--pitch", type=float, default=0.85, help="detector pixel, mm")
    parser.add_argument("--sdd", type=float, default=1800.0)
    parser.add_argument("--sod", type=float, default=1500.0)
    parser.add_argument("--mu-water", type=float, default=0.02)
    parser.add_argument("--samples", type=int, default=1500, help="of nanodrr, along a ray")
    parser.add_argument("--chunk", type=int, default=8, help="image rows at a time in the peers")
    parser.add_argument("--every", type=int, default=1, help="the peers make only every Nth row: they take minutes")
    parser.add_argument("--views", nargs="+", default=["ap", "lateral", "oblique"], choices=list(VIEWS))
    parser.add_argument("--mean-hu", action="store_true", help="compare mean HU with an f64 mean instead")
    args = parser.parse_args()
    if args.mean_hu:
        sys.exit(0 if mean_hu(args) else 1)

    import torchio

    ct = nibabel.load(args.ct)
    hu = ct.get_fdata(dtype=np.float32)
    mu = torch.from_numpy(np.maximum(args.mu_water * (1.0 + hu / 1000.0), 0.0).astype(np.float32))
    image = torchio.ScalarImage(tensor=mu[None], affine=ct.affine)
    print(f"{args.ct}: {hu.shape}, {''.join(nibabel.aff2axcodes(ct.affine))}, {args.size} x {args.size} pixels of {args.pitch} mm, "
          f"every {args.every}. row")
    passed = True
    with torch.no_grad():
        for view in args.views:
            siddon = project_x2ct(args, "siddon", view)
            trilinear = project_x2ct(args, "trilinear", view)

            def peer(name, run):
                begin = time.perf_counter()
                made = run()
                print(f"{name} {view}: {time.perf_counter() - begin:.2f} s", flush=True)
                return made

            nano = peer("nanodrr", lambda: run_nanodrr(image, args, args.samples, view))
            passed &= compare(f"{view}: trilinear, nanodrr", trilinear, nano, 1e-4)
            diff = peer("diffdrr siddon", lambda: run_diffdrr(image, args, "siddon", view))
            passed &= compare(f"{view}: siddon, diffdrr siddon", siddon, diff, 1e-5)
            diff = peer("diffdrr trilinear", lambda: run_diffdrr(image, args, "trilinear", view, n_points=args.samples))
            passed &= compare(f"{view}: trilinear, diffdrr trilinear", trilinear, diff, 2e-4)
            joseph = project_x2ct(args, "joseph", view)
            rule = peer("Joseph in f64", lambda: joseph_f64(mu.numpy(), ct.affine, args, view))
            passed &= compare(f"{view}: joseph, Joseph in f64", joseph, rule, 2e-6)
            passed &= compare(f"{view}: siddon, trilinear", siddon, trilinear, 2e-2)
            passed &= compare(f"{view}: joseph, trilinear", joseph, trilinear, 2e-2)
            compare(f"{view}: trilinear, mirrored (how a wrong side looks)", trilinear, nano[:, ::-1], None)
    sys.exit(0 if passed else 1)


if __name__ == "__main__":
    main()
