#!/usr/bin/env python3
"""Times what users would otherwise use, on this machine's GPU, for the table beside our figures.

    python tools/peers/bench_peers.py --out peers.json [--family NAME ...] [--compile] [--quick] [--device cpu]

Protocol: random data, warm-up, CUDA events around each run, the L2 cache displaced before each (as benches/cases.rs
does), median and quartiles. `--compile` adds torch.compile(mode="max-autotune"), which takes minutes. Packages that are
not there are named and left out. `--quick --device cpu` only tries the script: tiny sizes, figures that mean nothing.
Nothing is downloaded.
"""

import argparse
import json
import math
import os
import platform
import statistics
import sys
import time
import traceback

import torch
import torch.nn.functional as F
from torch import nn


class Bench:
    def __init__(self, args):
        self.device = torch.device(args.device)
        self.gpu = self.device.type == "cuda"
        self.quick, self.compile, self.out = args.quick, args.compile, args.out
        self.rows, self.problems = [], []
        l2 = torch.cuda.get_device_properties(self.device).L2_cache_size if self.gpu else 0
        self.other = torch.empty(max(2 * l2, 4), dtype=torch.uint8, device=self.device)

    def sync(self):
        if self.gpu:
            torch.cuda.synchronize()

    def once(self, run):
        self.other.zero_()
        if not self.gpu:
            start = time.perf_counter()
            run()
            return time.perf_counter() - start
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        run()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) * 1e-3

    def time(self, family, task, peer, run, items=None):
        """Adds a row: the median over about half a second of runs, at least ten."""
        try:
            for _ in range(1 if self.quick else 5):
                run()
            self.sync()
            once = max(self.once(run), 1e-6)
            count = 2 if self.quick else max(10, min(200, int(0.5 / once)))
            seconds = sorted(self.once(run) for _ in range(count))
        except Exception as problem:  # one peer that fails leaves the others
            self.fail(family, task, peer, problem)
            return
        row = {
            "family": family,
            "task": task,
            "peer": peer,
            "seconds": statistics.median(seconds),
            "quartiles": [seconds[len(seconds) // 4], seconds[(3 * len(seconds)) // 4]],
            "runs": count,
        }
        if items:
            row["items_per_second"] = items / row["seconds"]
        self.rows.append(row)
        self.save()
        print(f"{family:12} {task:44} {peer:36} {row['seconds'] * 1e6:12.1f} us", flush=True)

    def save(self):
        """All figures so far, in the place of those that were in the file."""
        part = self.out + ".part"
        with open(part, "w") as file:
            json.dump({"versions": versions(), "rows": self.rows, "left_out": self.problems}, file, indent=1)
        os.replace(part, self.out)

    def fail(self, family, task, peer, problem):
        text = f"{type(problem).__name__}: {problem}".splitlines()[0][:200]
        self.problems.append({"family": family, "task": task, "peer": peer, "problem": text})
        print(f"{family:12} {task:44} {peer:36} left out: {text}", flush=True)
        if not isinstance(problem, (ImportError, torch.OutOfMemoryError)):
            traceback.print_exc()
        if self.gpu:
            torch.cuda.empty_cache()

    def variants(self, family, task, make, items=None, graph=True):
        """`make(wrap)` gives a run; wrap is identity or torch.compile."""
        try:
            run = make(lambda f: f)
        except Exception as problem:
            self.fail(family, task, "PyTorch eager", problem)
            return
        self.time(family, task, "PyTorch eager", run, items)
        if graph and self.gpu:
            try:
                replay = graphed(run)
            except Exception as problem:
                self.fail(family, task, "PyTorch eager, graphed", problem)
            else:
                self.time(family, task, "PyTorch eager, graphed", replay, items)
        if self.compile:
            torch.compiler.reset()
            mode = "max-autotune" if self.gpu else "default"
            name = f"torch.compile {mode}"
            try:
                run = make(lambda f: torch.compile(f, mode=mode))
            except Exception as problem:
                self.fail(family, task, name, problem)
            else:
                self.time(family, task, name, run, items)

    def random(self, *shape, dtype=torch.float32):
        return torch.randn(*shape, device=self.device).to(dtype)


def graphed(run):
    """One CUDA graph of a run."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph.replay


def clear_gradients(*holders):
    for holder in holders:
        for tensor in holder.parameters() if isinstance(holder, nn.Module) else [holder]:
            tensor.grad = None


class DecompConv3D(nn.Module):
    """Three one-axis depthwise convolutions, a batch norm after each, summed (DCFormer, Sec. 3)."""

    def __init__(self, channels, k):
        super().__init__()
        kernels = [(k, 1, 1), (1, k, 1), (1, 1, k)]
        self.convs = nn.ModuleList(
            nn.Conv3d(channels, channels, kernel, padding=[n // 2 for n in kernel], groups=channels)
            for kernel in kernels
        )
        self.norms = nn.ModuleList(nn.BatchNorm3d(channels) for _ in kernels)

    def forward(self, x):
        return sum(norm(conv(x)) for conv, norm in zip(self.convs, self.norms))


def decomp_conv(bench):
    # DCFormer-tiny at 512x512x256: channels, extent, kernel of each stage.
    stages = [(96, (64, 64, 32), 13), (192, (32, 32, 16), 11), (384, (16, 16, 8), 9), (768, (8, 8, 4), 7)]
    batch = 8
    if bench.quick:
        stages, batch = [(8, (9, 7, 5), 7)], 1
    for c, extent, k in stages:
        size = "x".join(map(str, extent))
        for layout, memory in [("NCDHW", torch.contiguous_format), ("NDHWC", torch.channels_last_3d)]:
            module = DecompConv3D(c, k).to(bench.device, memory_format=memory)
            x = bench.random(batch, c, *extent).to(memory_format=memory).requires_grad_()
            upstream = bench.random(batch, c, *extent, dtype=torch.bfloat16).to(memory_format=memory)

            def make(wrap, train, module=module, x=x, upstream=upstream):
                function = wrap(module)

                def run():
                    with torch.autocast(bench.device.type, torch.bfloat16), torch.set_grad_enabled(train):
                        y = function(x)
                    if train:
                        clear_gradients(module, x)
                        y.backward(upstream.to(y.dtype))

                return run

            name = f"{batch}x{c}x{size} k{k} bf16 {layout}"
            module.train()
            bench.variants("decomp_conv", f"train {name}", lambda wrap: make(wrap, True))
            module.eval()
            bench.variants("decomp_conv", f"eval {name}", lambda wrap: make(wrap, False))


def symmetric(a, b, scale):
    logits = scale * a @ b.T
    labels = torch.arange(len(a), device=a.device)
    return 0.5 * (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels))


def contrastive(bench):
    d, scale = (512, 1 / 0.07) if not bench.quick else (32, 1 / 0.07)
    sizes = [128, 360, 4096, 32768] if not bench.quick else [16]
    for dtype in [torch.float32, torch.bfloat16]:
        short = {torch.float32: "f32", torch.bfloat16: "bf16"}[dtype]
        for n in sizes:
            x, c, r = (bench.random(n, d, dtype=dtype).requires_grad_() for _ in range(3))

            def tri_modal(x):
                u, v, w = (F.normalize(t.float(), dim=1) for t in (x, c.detach(), r.detach()))
                return symmetric(u, w, scale) + symmetric(u, v, scale)

            def info_nce(x, c):
                return symmetric(F.normalize(x.float(), dim=1), F.normalize(c.float(), dim=1), scale)

            def make(wrap, loss, leaves):
                loss = wrap(loss)

                def run():
                    clear_gradients(*leaves)
                    loss(*leaves).backward()

                return run

            bench.variants("contrastive", f"tri_modal {n}x{d} {short}", lambda wrap: make(wrap, tri_modal, [x]))
            bench.variants("contrastive", f"info_nce {n}x{d} {short}", lambda wrap: make(wrap, info_nce, [x, c]))
            try:
                from open_clip.loss import ClipLoss
            except ImportError as problem:
                bench.fail("contrastive", f"info_nce {n}x{d} {short}", "open_clip ClipLoss", problem)
                continue
            clip = ClipLoss()

            def run():
                clear_gradients(x, c)
                clip(F.normalize(x, dim=1), F.normalize(c, dim=1), torch.tensor(scale, device=bench.device)).backward()

            bench.time("contrastive", f"info_nce {n}x{d} {short}", "open_clip ClipLoss", run)


def drr(bench):
    """A cone-beam view along y of a 480x480x240 volume of 0.75x0.75x1 mm voxels, as nanodrr renders it."""
    shape, detectors = ((480, 480, 240), [224, 1024]) if not bench.quick else ((240, 200, 160), [16])
    try:
        from nanodrr.data import Subject
        from nanodrr.drr import DRR
    except ImportError as problem:
        bench.fail("drr", "cone", "nanodrr", problem)
        return
    spacing = (0.75, 0.75, 1.0)
    hu = bench.random(1, 1, *reversed(shape)) * 200 - 300
    center = [0.5 * (n - 1) * s for n, s in zip(shape, spacing)]
    voxel_to_world = torch.diag(torch.tensor([*spacing, 1.0]))
    voxel_to_world[:3, 3] = -torch.tensor(center)
    # Voxel indices to grid_sample's [-1, 1], corners at the outermost voxel centres.
    voxel_to_grid = torch.diag(torch.tensor([*(2.0 / (n - 1) for n in shape), 1.0]))
    voxel_to_grid[:3, 3] = -1.0
    subject = Subject(
        hu, torch.zeros_like(hu), voxel_to_world, torch.linalg.inv(voxel_to_world), voxel_to_grid, torch.zeros(3), 0
    ).to(bench.device)
    # Camera to world: the source 900 mm before the isocentre, looking along +y, z up.
    pose = torch.tensor([[1.0, 0, 0, 0], [0, 0, 1.0, -900.0], [0, -1.0, 0, 0], [0, 0, 0, 1.0]])
    for detector in detectors:
        for views in [1] if detector > 224 or bench.quick else [1, 16]:
            sdd, pixel = 1200.0, 450.0 / detector
            camera = DRR.from_carm_intrinsics(sdd, pixel, pixel, 0.0, 0.0, detector, detector).to(bench.device)
            poses = pose.repeat(views, 1, 1).to(bench.device)
            task = f"cone {detector}x{detector} of {'x'.join(map(str, shape))}, {views} view" + "s" * (views > 1)

            def run(camera=camera, poses=poses):
                with torch.no_grad():
                    camera(subject, poses, n_samples=512)

            bench.time("drr", task, "nanodrr, 512 samples", run)
            if bench.gpu:
                try:
                    replay = graphed(run)
                except Exception as problem:
                    bench.fail("drr", task, "nanodrr, 512 samples, graphed", problem)
                else:
                    bench.time("drr", task, "nanodrr, 512 samples, graphed", replay)


def encoder(bench):
    try:
        import torchvision
    except ImportError as problem:
        bench.fail("encoder", "step", "torchvision", problem)
        return
    batch, side = (360, 224) if not bench.quick else (2, 64)
    names = ["resnet50", "swin_t"] if not bench.quick else ["resnet18"]
    for name in names:
        torch.manual_seed(0)
        x = bench.random(batch, 3, side, side).to(memory_format=torch.channels_last)

        def make(wrap, name=name, x=x):
            model = getattr(torchvision.models, name)(weights=None, num_classes=512)
            model = model.to(bench.device, memory_format=torch.channels_last).train()
            optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=bench.gpu)
            forward = wrap(model)

            def run():
                optimizer.zero_grad(set_to_none=True)
                with torch.autocast(bench.device.type, torch.bfloat16):
                    y = forward(x)
                y.float().square().mean().backward()
                optimizer.step()

            return run

        # The step ends in a host-visible optimizer state: PyTorch's own graphs come with torch.compile.
        bench.variants("encoder", f"{name} step {batch}x{side}x{side} bf16", make, items=batch, graph=False)


def optim(bench):
    # The shapes of a ResNet-50: 25.6 million parameters in 161 tensors.
    shapes = resnet50_shapes() if not bench.quick else [(64, 3, 7, 7), (64,), (1000, 64)]
    parameters = [nn.Parameter(0.02 * bench.random(*shape)) for shape in shapes]
    for parameter in parameters:
        parameter.grad = 0.01 * bench.random(*parameter.shape)
    count = sum(p.numel() for p in parameters)
    for clip in [True, False]:
        for name, options in [("fused", {"fused": True}), ("foreach", {"foreach": True})]:
            if name == "fused" and not bench.gpu:
                continue
            optimizer = torch.optim.AdamW(parameters, lr=1e-4, **options)

            def run(optimizer=optimizer):
                if clip:
                    torch.nn.utils.clip_grad_norm_(parameters, 1.0, foreach=True)
                optimizer.step()

            task = f"adamw {'with' if clip else 'without'} clipping {count}"
            bench.time("optim", task, f"AdamW({name})" + (", clip_grad_norm_(foreach)" if clip else ""), run)


def resnet50_shapes():
    shapes = [(64, 3, 7, 7), (64,), (64,)]
    inputs = 64
    for width, blocks in [(64, 3), (128, 4), (256, 6), (512, 3)]:
        for block in range(blocks):
            for shape in [(width, inputs, 1, 1), (width, width, 3, 3), (4 * width, width, 1, 1)]:
                shapes += [shape, (shape[0],), (shape[0],)]
            if block == 0:
                shapes += [(4 * width, inputs, 1, 1), (4 * width,), (4 * width,)]
            inputs = 4 * width
    return shapes + [(1000, 2048), (1000,)]


def copy(bench):
    """The memory bandwidth every other figure is to be read against: bytes read plus bytes written."""
    megabytes = 2048 if bench.gpu else 8
    source = torch.empty(megabytes << 20, dtype=torch.uint8, device=bench.device).random_()
    destination = torch.empty_like(source)
    bench.time("copy", f"{megabytes} MiB", "device copy", lambda: destination.copy_(source), items=2 * source.numel())


FAMILIES = {f.__name__: f for f in [copy, decomp_conv, contrastive, drr, encoder, optim]}


def versions():
    found = {"python": platform.python_version(), "torch": torch.__version__}
    for name in ["torchvision", "triton", "open_clip", "nanodrr"]:
        try:
            found[name] = getattr(__import__(name), "__version__", "present")
        except ImportError:
            found[name] = None
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", help="the figures, written anew after each")
    parser.add_argument("--list", action="store_true", help="name the families, one a line, and measure nothing")
    parser.add_argument("--family", nargs="+", choices=FAMILIES, default=list(FAMILIES))
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    if args.list:
        print("\n".join(FAMILIES))
        return
    if not args.out:
        parser.error("--out is needed")
    torch.manual_seed(1)
    # Full f32, as ours; TF32 would be another task.
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = True
    bench = Bench(args)
    print(versions(), flush=True)
    for name in args.family:
        try:
            FAMILIES[name](bench)
        except Exception as problem:
            bench.fail(name, "set-up", "all", problem)
    bad = [row for row in bench.rows if not math.isfinite(row["seconds"])]
    bench.save()
    if bad or not bench.rows:
        sys.exit("no peer could be timed" if not bench.rows else f"not finite: {bad}")


if __name__ == "__main__":
    main()
