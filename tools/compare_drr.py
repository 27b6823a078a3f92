"""Compares `x2ct drr` with nanodrr and diffdrr on the CPU: one CT file, one cone-beam geometry, each peer through its own
camera, so that orientation and units are compared too.

    python tools/compare_drr.py CT.nii.gz --x2ct target/release/x2ct

Needs numpy, nibabel, safetensors, torch, torchio, nanodrr, diffdrr (tools/requirements.txt).

Limits, relative L2 of the image, and why:
- trilinear against nanodrr: one interpolant (zero one voxel outside the outermost centres), sampled by two rules, half a
  voxel (x2ct) and --samples a ray (nanodrr, f32 positions) apart. Both miss the integral by the square of their step and
  differ by that much: 1e-4. On a 512 x 512 x 133 chest CT they differ by 2.2e-5.
- siddon against diffdrr's siddon: the same exact sum; diffdrr finds the crossings in f32 over the whole way from source to
  detector, about 1e-4 mm each, of either sign: 1e-5. They differ by 6.6e-7.
- siddon against trilinear: constant voxels and interpolated ones, two models of one CT. They differ where neighbouring voxels
  do, by what the sampling leaves open: below 2e-2, a matter of choice and not of error.
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
import torchio
from safetensors.numpy import load_file


def run_x2ct(binary, ct, args, projector, view):
    with tempfile.TemporaryDirectory() as folder:
        out = pathlib.Path(folder) / "image.safetensors"
        command = [binary, "drr", ct, "--out", out, "--mode", "attenuation", "--geometry", "cone", "--projector", projector,
                   "--view", view, "--size", f"{args.size}x{args.size}", "--pitch", args.pitch, "--sdd", args.sdd,
                   "--sod", args.sod, "--mu-water", args.mu_water, "--device", args.device, "--json"]
        begin = time.perf_counter()
        report = json.loads(subprocess.run([str(c) for c in command], check=True, capture_output=True).stdout)
        print(f"x2ct {projector} {view}: {time.perf_counter() - begin:.2f} s, of which projecting {report['seconds']['project']:.2f} s")
        return load_file(out)["image"].astype(np.float64)[::args.every]


def run_nanodrr(image, args, samples, view):
    from nanodrr.camera import make_k_inv, make_rt_inv
    from nanodrr.data import Subject
    from nanodrr.drr import render
    from nanodrr.drr.renderer import _make_src, _make_tgt

    subject = Subject.from_images(image, convert_to_mu=False)
    k_inv = make_k_inv(args.sdd, args.pitch, args.pitch, 0.0, 0.0, args.size, args.size)
    distance = args.sod if view == "ap" else -args.sod
    rt_inv = make_rt_inv(torch.zeros(1, 3), torch.tensor([[0.0, distance, 0.0]]), orientation=view.upper(),
                         isocenter=subject.isocenter)
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

    subject = read(image, orientation=view.upper(), center_volume=True)
    drr = DRR(subject, args.sdd, args.size, args.pitch, renderer=renderer)
    drr.density = image.data.squeeze().float()  # attenuation as it is, not diffdrr's own conversion
    distance = args.sod if view == "ap" else -args.sod
    pose = convert(torch.zeros(1, 3), torch.tensor([[0.0, distance, 0.0]]), parameterization="euler_angles",
                   convention="ZXY")
    source, target = drr.detector(pose, None)
    target = target.reshape(1, args.size, args.size, 3)[:, ::args.every].reshape(1, -1, 3)
    step = args.chunk * args.size
    parts = [drr.render(drr.density, source, target[:, i:i + step], **options)[0, 0]
             for i in range(0, target.shape[1], step)]
    return torch.cat(parts).reshape(-1, args.size).numpy().astype(np.float64)


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
    parser.add_argument("--views", nargs="+", default=["ap", "pa"], choices=["ap", "pa"])
    args = parser.parse_args()

    ct = nibabel.load(args.ct)
    hu = ct.get_fdata(dtype=np.float32)
    mu = torch.from_numpy(np.maximum(args.mu_water * (1.0 + hu / 1000.0), 0.0).astype(np.float32))
    image = torchio.ScalarImage(tensor=mu[None], affine=ct.affine)
    print(f"{args.ct}: {hu.shape}, {''.join(nibabel.aff2axcodes(ct.affine))}, {args.size} x {args.size} pixels of {args.pitch} mm")
    passed = True
    with torch.no_grad():
        for view in args.views:
            siddon = run_x2ct(args.x2ct, args.ct, args, "siddon", view)
            trilinear = run_x2ct(args.x2ct, args.ct, args, "trilinear", view)
            begin = time.perf_counter()
            nano = run_nanodrr(image, args, args.samples, view)
            print(f"nanodrr {view}: {time.perf_counter() - begin:.2f} s")
            passed &= compare(f"{view}: trilinear, nanodrr", trilinear, nano, 1e-4)
            begin = time.perf_counter()
            diff = run_diffdrr(image, args, "siddon", view)
            print(f"diffdrr siddon {view}: {time.perf_counter() - begin:.2f} s")
            passed &= compare(f"{view}: siddon, diffdrr siddon", siddon, diff, 1e-5)
            passed &= compare(f"{view}: siddon, trilinear", siddon, trilinear, 2e-2)
            compare(f"{view}: trilinear, mirrored (how a wrong side looks)", trilinear, nano[:, ::-1], None)
    sys.exit(0 if passed else 1)


if __name__ == "__main__":
    main()
