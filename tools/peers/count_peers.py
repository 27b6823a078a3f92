#!/usr/bin/env python3
"""Counts peers' Triton kernels on the virtual GPU, beside ours in benches/COUNTERS.md. No GPU is needed, and nothing is timed.

    python tools/peers/count_peers.py --library FOLDER/libcuda.so.1 [--arch 90|80] [--tutorials FOLDER] [--json] [CASE ...]

`FOLDER/libcuda.so.1` is what tools/virtual_gpu.sh builds (target/virtual_gpu/release/virtual_gpu_libraries). Needs torch (the
processor's build serves), triton, and of the peers those that are to be counted: nanodrr, inf-cl, siglip-kernel
(tools/requirements.txt); for norm Triton's own tutorial, in python/tutorials of a checkout of its repository.

The peers' own host code runs unchanged on tensors of the processor; where it launches a kernel, Triton compiles it to PTX for
the named chip, and the virtual GPU runs that on copies of the tensors. Results are compared with NumPy in f64. What PyTorch
does between the launches (matrix products of the chunked loss, sums) is not counted. VIRTUAL_GPU_SAMPLE=N samples the blocks
of a launch; what is compared is then what was computed. Of a kernel that is tuned when it runs, the configuration with the
largest tile that fits into shared memory is taken, and of those the one with the fewest stages and warps: nothing is timed here.
"""

import argparse
import ast
import ctypes
import importlib.util
import inspect
import json
import math
import os
import pathlib
import re
import sys
import traceback
import types

import numpy as np
import torch
import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.autotuner import Autotuner
from triton.runtime.jit import JITFunction

TYPES = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16", torch.int32: "i32", torch.int64: "i64"}


class Driver:
    """The virtual GPU's driver interface and its counters."""

    def __init__(self, library):
        self.lib = ctypes.CDLL(library)
        self.call("cuInit", 0)
        context = ctypes.c_void_p()
        self.call("cuDevicePrimaryCtxRetain", ctypes.byref(context), 0)
        self.call("cuCtxSetCurrent", context)
        self.lib.virtualGpuCountEnd.restype = ctypes.c_size_t
        self.lib.virtualGpuCountRows.argtypes = [ctypes.c_void_p, ctypes.c_size_t]

    def call(self, name, *arguments):
        result = getattr(self.lib, name)(*arguments)
        if result != 0:
            raise RuntimeError(f"{name} gives {result}")

    def upload(self, array):
        address = ctypes.c_uint64()
        self.call("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(max(array.nbytes, 16)))
        self.call("cuMemcpyHtoD_v2", address, ctypes.c_void_p(array.ctypes.data), ctypes.c_size_t(array.nbytes))
        return address.value

    def download(self, address, array):
        self.call(
            "cuMemcpyDtoH_v2", ctypes.c_void_p(array.ctypes.data), ctypes.c_uint64(address), ctypes.c_size_t(array.nbytes)
        )

    def free(self, address):
        self.call("cuMemFree_v2", ctypes.c_uint64(address))

    def load(self, ptx, name, shared):
        module, function = ctypes.c_void_p(), ctypes.c_void_p()
        self.call("cuModuleLoadData", ctypes.byref(module), ctypes.c_char_p(ptx.encode()))
        self.call("cuModuleGetFunction", ctypes.byref(function), module, name.encode())
        if shared > 48 * 1024:
            self.call("cuFuncSetAttribute", function, 8, shared)
        return function

    def launch(self, function, grid, threads, shared, arguments):
        pointers = (ctypes.c_void_p * len(arguments))(*[ctypes.addressof(a) for a in arguments])
        self.call("cuLaunchKernel", function, *grid, threads, 1, 1, shared, None, pointers, None)
        self.call("cuCtxSynchronize")

    def begin(self):
        self.lib.virtualGpuCountBegin()

    def end(self):
        rows = ctypes.create_string_buffer(self.lib.virtualGpuCountEnd())
        self.lib.virtualGpuCountRows(rows, len(rows))
        return json.loads(rows.raw)


class Launcher:
    """Takes the place of Triton's launches: compiles for a chip that is not there, runs on the virtual GPU."""

    def __init__(self, driver, arch):
        self.driver = driver
        self.target = GPUTarget("cuda", arch, 32)
        self.compiled = {}
        JITFunction.__getitem__ = lambda kernel, grid: lambda *a, **k: self.run(kernel, grid, a, k)
        Autotuner.__getitem__ = lambda tuned, grid: lambda *a, **k: self.run_tuned(tuned, grid, a, k)

    def run_tuned(self, tuned, grid, args, kwargs):
        """Runs a kernel in the configuration of the largest tile that fits."""
        tuned.nargs = dict(zip(tuned.arg_names, args))
        tile = lambda config: math.prod(size for name, size in config.kwargs.items() if name.startswith("BLOCK"))
        order = lambda config: (-tile(config), config.num_stages, config.num_warps)
        limit = {80: 163, 90: 227}[self.target.arch] * 1024
        for config in sorted(tuned.prune_configs(kwargs), key=order):
            options = config.all_kwargs() | kwargs
            if self.made(tuned.fn, args, options)["shared"] <= limit:
                return self.run(tuned.fn, grid, args, options)
        raise RuntimeError(f"no configuration of {tuned.fn.__name__} fits into shared memory")

    def made(self, kernel, args, kwargs):
        return self.compile(kernel, *self.taken_apart(kernel, args, kwargs))

    @staticmethod
    def taken_apart(kernel, args, kwargs):
        """Values by name, those that are constants of the compilation, and options."""
        names = kernel.arg_names
        values = dict(zip(names, args)) | {k: v for k, v in kwargs.items() if k in names}
        for name, parameter in inspect.signature(kernel.fn).parameters.items():
            if name not in values:
                values[name] = parameter.default
        options = {k: v for k, v in kwargs.items() if k not in names and v is not None}
        constant = lambda p: p.is_constexpr or values[p.name] is None or (type(values[p.name]) is int and values[p.name] == 1)
        constants = {p.name: values[p.name] for p in kernel.params if constant(p)}
        return values, constants, options

    def run(self, kernel, grid, args, kwargs):
        names = kernel.arg_names
        values, constants, options = self.taken_apart(kernel, args, kwargs)
        grid = grid(values) if callable(grid) else grid
        grid = (*grid, 1, 1)[:3]
        made = self.compile(kernel, values, constants, options)
        storages, arguments = {}, []
        for name in names:
            if name in constants:
                continue
            value = values[name]
            if isinstance(value, torch.Tensor):
                storage = value.untyped_storage()
                if storage.data_ptr() not in storages:
                    array = np.frombuffer(memoryview(torch.tensor([], dtype=torch.uint8).set_(storage).numpy()), np.uint8)
                    storages[storage.data_ptr()] = (self.driver.upload(array), array)
                base = storages[storage.data_ptr()][0]
                arguments.append(ctypes.c_uint64(base + value.storage_offset() * value.element_size()))
            elif isinstance(value, float):
                arguments.append(ctypes.c_float(value))
            else:
                arguments.append(ctypes.c_int64(value) if abs(value) >= 2**31 else ctypes.c_int32(value))
        # What Triton adds: scratch memory, which these kernels do not use.
        arguments += [ctypes.c_uint64(0)] * (made["parameters"] - len(arguments))
        self.driver.launch(made["function"], grid, made["threads"], made["shared"], arguments)
        for address, array in storages.values():
            if array.nbytes < 1 << 26:
                self.driver.download(address, array)
            self.driver.free(address)

    def compile(self, kernel, values, constants, options):
        signature, attributes, key = {}, {}, [kernel.fn.__name__, sorted(options.items())]
        for index, name in enumerate(kernel.arg_names):
            value = values[name]
            if name in constants:
                signature[name] = "constexpr"
            elif isinstance(value, torch.Tensor):
                signature[name] = "*" + TYPES[value.dtype]
                aligned = value.storage_offset() * value.element_size() % 16 == 0
            else:
                signature[name] = "fp32" if isinstance(value, float) else "i64" if abs(value) >= 2**31 else "i32"
                aligned = isinstance(value, int) and value % 16 == 0
            if name not in constants and aligned:
                attributes[(index,)] = [["tt.divisibility", 16]]
            key.append((name, signature[name], str(constants.get(name)), (index,) in attributes))
        key = str(key)
        if key not in self.compiled:
            constexprs = {(kernel.arg_names.index(name),): value for name, value in constants.items()}
            source = ASTSource(kernel, signature, constexprs, attributes)
            made = triton.compile(source, target=self.target, options=options)
            ptx = made.asm["ptx"]
            entry = re.search(r"\.entry\s+(\w+)\s*\((.*?)\)", ptx, re.S)
            shared = made.metadata.shared
            self.compiled[key] = {
                "function": self.driver.load(ptx, entry[1], shared),
                "parameters": entry[2].count(".param"),
                "threads": 32 * made.metadata.num_warps,
                "shared": shared,
            }
        return self.compiled[key]


def folders_only(*packages):
    """Makes packages known without what their __init__ imports, which the kernels do not need."""
    for name in packages:
        package = types.ModuleType(name)
        package.__path__ = list(importlib.util.find_spec(name).submodule_search_locations)
        sys.modules[name] = package


def relative(got, expected):
    """Relative L2 over what was computed: NaN stands where a sample left blocks out."""
    if isinstance(got, torch.Tensor):
        got = got.detach().double().numpy()
    got, expected = np.asarray(got, np.float64), np.asarray(expected, np.float64)
    computed = np.isfinite(got)
    if not computed.any():
        raise RuntimeError("nothing was computed")
    error = np.linalg.norm(got[computed] - expected[computed])
    return float(error / max(np.linalg.norm(expected[computed]), 1e-300))


def voxels(shape):
    """The volume of benches/drr.rs: a body of noise in air, int16."""
    nx, ny, nz = shape
    noise = np.random.default_rng(1).uniform(-1, 1, nx * ny * nz).reshape(nz, ny, nx)
    across = lambda n: (2 * (np.arange(n) + 0.5) / n - 1) ** 2
    inside = across(nx)[None, :] + 1.6 * across(ny)[:, None] < 0.95
    return np.where(inside[None], (noise * 900).astype(np.int16), np.int16(-1000))


def trilinear(volume, points):
    """Values at voxel coordinates (x, y, z), zero outside, f64."""
    padded = np.pad(volume.astype(np.float64), 1)
    floor = np.floor(points).astype(int)
    part = points - floor
    total = 0
    for corner in range(8):
        shift = np.array([corner & 1, corner >> 1 & 1, corner >> 2])
        weight = np.prod(np.where(shift == 1, part, 1 - part), -1)
        at = [np.clip(floor[..., a] + shift[a] + 1, 0, padded.shape[2 - a] - 1) for a in range(3)]
        total = total + weight * padded[at[2], at[1], at[0]]
    return total


def drr(side=224, samples=500):
    """nanodrr's projector on the AP view of benches/drr.rs, its volume converted to attenuation in f32."""
    folders_only("nanodrr", "nanodrr.drr")
    sys.modules["nanodrr.drr.backends"] = types.SimpleNamespace(register_fused_op=lambda *a, **k: lambda made: made)
    from nanodrr.drr import _triton as peer

    shape = np.array([480, 480, 240])
    volume = (np.maximum(voxels(shape).astype(np.float32) / 1000 + 1, 0) * 0.02).astype(np.float32)
    spacing = 360.0 / shape
    matrix = np.zeros((1, 3, 4), np.float32)
    matrix[0, :, :3] = np.diag(1 / spacing)
    matrix[0, :, 3] = (shape - 1) / 2
    u = (np.arange(side) + 0.5) * (432.0 / side) - 216
    target = np.stack([np.tile(u, side), np.full(side * side, 300.0), np.repeat(u, side)], 1)[None].astype(np.float32)
    source = np.array([[[0.0, -1500.0, 0.0]]], np.float32)
    length = np.linalg.norm(target - source, axis=-1).astype(np.float32)
    tensor = torch.from_numpy
    old = torch.empty
    torch.empty = lambda *a, **k: old(*a, **k).fill_(float("nan"))
    try:
        image = peer._forward(
            tensor(volume), tensor(volume), tensor(matrix), tensor(source), tensor(target), tensor(length), samples, 1, side, False
        )
    finally:
        torch.empty = old
    image = image.numpy().reshape(-1) / samples
    # The reference: the same midpoints of the same clipped interval, a few hundred rays of those that were computed.
    rays = np.flatnonzero(np.isfinite(image))
    rays = rays[:: max(1, len(rays) // 400)]
    move = lambda p: p @ matrix[0, :, :3].T.astype(np.float64) + matrix[0, :, 3]
    p0, p1 = move(source[0].astype(np.float64)), move(target[0, rays].astype(np.float64))
    step = p1 - p0
    with np.errstate(divide="ignore"):
        ends = np.sort(np.stack([(-1 - p0) / step, (shape - p0) / step]), axis=0)
    t0, t1 = np.clip(ends[0].max(-1), 0, 1), np.clip(ends[1].min(-1), 0, 1)
    t1 = np.maximum(t1, t0)
    t = t0[:, None] + (np.arange(samples) + 0.5) / samples * (t1 - t0)[:, None]
    expected = trilinear(volume, p0[None] + t[..., None] * step[:, None]).mean(1) * (t1 - t0) * length[0, rays]
    return {"image": relative(image[rays], expected)}


def embeddings(n=1024, d=512, dtype=torch.float32):
    rows = np.random.default_rng(2).normal(size=(2, n, d))
    rows /= np.linalg.norm(rows, axis=-1, keepdims=True)
    return [torch.from_numpy(x.astype(np.float32)).to(dtype) for x in rows]


def softmax(n=1024, d=512, scale=14.0):
    """Inf-CL's loss one way with its gradients, called twice for the symmetric loss."""
    from inf_cl import flash

    x, y = embeddings(n, d)
    errors = {}
    for name, a, b in (("images", x, y), ("texts", y, x)):
        q, k = (scale * a).requires_grad_(True), b.clone().requires_grad_(True)
        loss = flash.cal_flash_loss(q, k).mean()
        loss.backward()
        logits = scale * a.double().numpy() @ b.double().numpy().T
        high = logits.max(1, keepdims=True)
        p = np.exp(logits - high)
        sums = p.sum(1, keepdims=True)
        expected = (np.log(sums[:, 0]) + high[:, 0] - np.diag(logits)).mean()
        g = (p / sums - np.eye(n)) / n
        errors[f"loss, {name}"] = abs(loss.item() - expected) / abs(expected)
        errors[f"dq, {name}"] = relative(q.grad, g @ b.double().numpy())
        errors[f"dk, {name}"] = relative(k.grad, g.T @ (scale * a.double().numpy()))
    return errors


def sigmoid_reference(a, b, scale, bias):
    """Gradients of the sigmoid loss in f64: of a and of b."""
    a, b, n = a.double().numpy(), b.double().numpy(), len(a)
    z = scale * a @ b.T + bias
    g = (1 / (1 + np.exp(-z)) - np.eye(n)) / n
    y = 2 * np.eye(n) - 1
    return np.log1p(np.exp(-y * z)).sum() / n, scale * g @ b, scale * g.T @ a


def siglip_hopper(n=1024, d=512, dtype=torch.float32):
    """siglip-kernel's persistent kernel, both passes of forward and backward."""
    from siglip_kernel import hopper_kernel as peer

    a, b = (x.requires_grad_(True) for x in embeddings(n, d, dtype))
    t, bias = torch.tensor(math.log(10.0)), torch.tensor(-10.0)
    loss = peer.hopper_fused_siglip_loss(a, b, t.requires_grad_(True), bias.requires_grad_(True))
    loss.backward()
    expected, da, db = sigmoid_reference(a.detach(), b.detach(), 10.0, -10.0)
    return {"loss": abs(loss.item() - expected) / expected, "da": relative(a.grad, da), "db": relative(b.grad, db)}


def siglip_chunked(n=1024, d=512):
    """siglip-kernel's chunked loss in bf16: the kernel between cuBLAS's three products, which are not counted."""
    from siglip_kernel import fused_chunked_bf16 as peer

    a, b = (x.requires_grad_(True) for x in embeddings(n, d, torch.bfloat16))
    t, bias = torch.tensor(math.log(10.0)), torch.tensor(-10.0)
    loss = peer.fused_chunked_bf16_siglip_loss(a, b, t.requires_grad_(True), bias.requires_grad_(True))
    loss.backward()
    expected, da, db = sigmoid_reference(a.detach(), b.detach(), 10.0, -10.0)
    return {"loss": abs(loss.item() - expected) / expected, "da": relative(a.grad, da), "db": relative(b.grad, db)}


def siglip_fused(n=1024, d=512):
    """siglip-kernel's fused kernel for 8.0, both passes."""
    from siglip_kernel import fused_siglip_kernel as peer

    a, b = (x.requires_grad_(True) for x in embeddings(n, d))
    t, bias = torch.tensor(math.log(10.0)), torch.tensor(-10.0)
    loss = peer.fully_fused_siglip_loss(a, b, t.requires_grad_(True), bias.requires_grad_(True))
    loss.backward()
    expected, da, db = sigmoid_reference(a.detach(), b.detach(), 10.0, -10.0)
    return {"loss": abs(loss.item() - expected) / expected, "da": relative(a.grad, da), "db": relative(b.grad, db)}


TUTORIALS = None


def tutorial(name):
    """A tutorial as a module, without what it runs."""
    if TUTORIALS is None:
        raise RuntimeError("name Triton's python/tutorials with --tutorials")
    path = next(TUTORIALS.glob(f"*-{name}.py"))
    tree = ast.parse(path.read_text())
    tree.body = [node for node in tree.body if not isinstance(node, (ast.Expr, ast.If))]
    sys.modules.setdefault("pytest", types.ModuleType("pytest"))
    made = types.ModuleType(name.replace("-", "_"))
    exec(compile(tree, path, "exec"), made.__dict__)
    return made


def layer_norm(rows=8192, d=768):
    """The tutorial's layer norm, forward and backward."""
    peer = tutorial("layer-norm")
    normal = np.random.default_rng(3).normal
    x, dy = (torch.from_numpy(normal(size=(rows, d)).astype(np.float32)).bfloat16() for _ in range(2))
    w, b = (torch.from_numpy(normal(size=d).astype(np.float32)).bfloat16() for _ in range(2))
    leaves = [tensor.requires_grad_(True) for tensor in (x, w, b)]
    y = peer.layer_norm(x, (d,), w, b, 1e-5)
    y.backward(dy)
    number = lambda t: t.detach().double().numpy()
    x, w, b, dy = map(number, (x, w, b, dy))
    centred = x - x.mean(1, keepdims=True)
    rstd = 1 / np.sqrt((centred**2).mean(1, keepdims=True) + 1e-5)
    hat, up = centred * rstd, dy * w
    dx = (up - up.mean(1, keepdims=True) - hat * (up * hat).mean(1, keepdims=True)) * rstd
    wanted = {"dx": dx, "dw": (dy * hat).sum(0), "db": dy.sum(0)}
    gradients = {name: relative(leaf.grad, wanted[name]) for name, leaf in zip(("dx", "dw", "db"), leaves)}
    return {"y": relative(y, hat * w + b)} | gradients


@triton.jit
def attention_forward(q, k, v, out, scale, TOKENS: tl.constexpr, D: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Attention of some rows of one head: softmax over the columns as they come, in base two."""
    head = tl.program_id(1).to(tl.int64) * TOKENS * D
    rows, columns, places = tl.program_id(0) * ROWS + tl.arange(0, ROWS), tl.arange(0, COLUMNS), tl.arange(0, D)
    queries = tl.load(q + head + rows[:, None] * D + places[None, :])
    high = tl.full([ROWS], float("-inf"), tl.float32)
    sums, sum_of_values = tl.zeros([ROWS], tl.float32), tl.zeros([ROWS, D], tl.float32)
    for first in range(0, TOKENS, COLUMNS):
        keys = tl.load(k + head + (first + columns)[None, :] * D + places[:, None])
        logits = tl.dot(queries, keys) * (scale * 1.4426950408889634)
        higher = tl.maximum(high, tl.max(logits, 1))
        weights, shrink = tl.math.exp2(logits - higher[:, None]), tl.math.exp2(high - higher)
        values = tl.load(v + head + (first + columns)[:, None] * D + places[None, :])
        sums = sums * shrink + tl.sum(weights, 1)
        sum_of_values = tl.dot(weights.to(values.dtype), values, sum_of_values * shrink[:, None])
        high = higher
    result = (sum_of_values / sums[:, None]).to(out.dtype.element_ty)
    tl.store(out + head + rows[:, None] * D + places[None, :], result)


def attention(n=8, heads=12, tokens=256, d=64):
    """Attention as Triton's tutorial computes it, forward, with plain pointers (above): the tutorial's own needs tensor maps."""
    normal = np.random.default_rng(4).normal
    q, k, v = (torch.from_numpy(normal(size=(n, heads, tokens, d)).astype(np.float32)).bfloat16() for _ in range(3))
    out, scale = torch.full_like(q, float("nan")), d**-0.5
    grid = (tokens // 128, n * heads)
    attention_forward[grid](q, k, v, out, scale, TOKENS=tokens, D=d, ROWS=128, COLUMNS=64, num_warps=4, num_stages=3)
    number = lambda t: t.double().numpy()
    logits = scale * number(q) @ number(k).swapaxes(-1, -2)
    p = np.exp(logits - logits.max(-1, keepdims=True))
    return {"o": relative(out, p / p.sum(-1, keepdims=True) @ number(v))}


def decomp_block(n=8, channels=768, size=(8, 8, 4), taps=7):
    """DCFormer's decomposed convolution with batch norm (decomp_block.py), against PyTorch's own in f64."""
    import decomp_block as peer

    normal = np.random.default_rng(5).normal
    made = lambda *shape: torch.from_numpy(normal(size=shape).astype(np.float32))
    x, g = (made(n, channels, *size).bfloat16() for _ in range(2))
    w, gamma, beta = made(3, channels, taps) / taps**0.5, made(3, channels), made(3, channels)
    got = peer.forward_and_backward(x, w, gamma, beta, g)
    leaves = [tensor.double().requires_grad_(True) for tensor in (x, w, gamma, beta)]
    x, w, gamma, beta = leaves
    y = 0
    for axis in range(3):
        kernel = w[axis].reshape(channels, 1, *[taps if at == axis else 1 for at in range(3)])
        z = torch.nn.functional.conv3d(x, kernel, padding=[taps // 2 if at == axis else 0 for at in range(3)], groups=channels)
        y = y + torch.nn.functional.batch_norm(z, None, None, gamma[axis], beta[axis], training=True)
    y.backward(g.double())
    wanted = {"y": y, **{name: leaf.grad for name, leaf in zip(("dx", "dw", "dgamma", "dbeta"), leaves)}}
    return {name: relative(got[name], wanted[name].detach().numpy()) for name in wanted}


def pretend(arch):
    """Has PyTorch say that there is such a chip, and that tensors are on it: the peers ask before they launch."""
    chips = {80: ((8, 0), 108, 164), 90: ((9, 0), 132, 228)}
    capability, multiprocessors, shared = chips[arch]
    properties = types.SimpleNamespace(
        major=capability[0],
        minor=capability[1],
        multi_processor_count=multiprocessors,
        shared_memory_per_multiprocessor=shared * 1024,
    )
    torch.cuda.get_device_capability = lambda *a: capability
    torch.cuda.get_device_properties = lambda *a: properties
    torch.Tensor.is_cuda = property(lambda self: True)
    for name in ("empty", "zeros"):
        made = getattr(torch, name)
        setattr(torch, name, lambda *a, made=made, device=None, **k: made(*a, **k))


CASES = {
    "nanodrr AP 224x224, 500 samples, 480x480x240 f32": drr,
    "Inf-CL 1024x512 f32, both ways": softmax,
    "siglip-kernel hopper 1024x512 f32": siglip_hopper,
    "siglip-kernel hopper 1024x512 bf16": lambda: siglip_hopper(dtype=torch.bfloat16),
    "siglip-kernel fused 1024x512 f32": siglip_fused,
    "siglip-kernel chunked 1024x512 bf16, its Triton kernel": siglip_chunked,
    "tutorial layer norm 8192x768 bf16, forward and backward": layer_norm,
    "attention 8x12x256x64 bf16 in Triton, forward": attention,
    "decomposed convolution 8x768x8x8x4 k7 bf16 in Triton, forward and backward": decomp_block,
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--library", required=True, help="the virtual GPU as libcuda.so.1")
    parser.add_argument("--arch", type=int, default=90, choices=[80, 90])
    parser.add_argument("--tutorials", type=pathlib.Path, help="python/tutorials of Triton's repository")
    parser.add_argument("--json", action="store_true", help="print rows as one JSON object")
    parser.add_argument("case", nargs="*", help="words that a case's name must have; all cases when absent")
    args = parser.parse_args()
    global TUTORIALS
    TUTORIALS = args.tutorials
    os.environ["VIRTUAL_GPU_ARCH"] = {80: "80", 90: "90a"}[args.arch]
    driver = Driver(args.library)
    Launcher(driver, args.arch)
    pretend(args.arch)
    rows, failed = [], False
    for name, run in CASES.items():
        if not all(word.lower() in name.lower() for word in args.case):
            continue
        driver.begin()
        try:
            errors = run()
        except Exception as error:  # one peer that fails leaves the others
            driver.end()
            traceback.print_exc()
            print(f"{name}: {type(error).__name__}: {error}", file=sys.stderr)
            failed = True
            continue
        for row in driver.end():
            rows.append({"family": "peers", "case": name, **row, "relative_errors": errors})
            if not args.json:
                keys = ("warp_instructions", "dram_bytes", "sectors_per_request", "sectors_ideal", "wavefronts_per_request")
                keys += ("wavefronts_ideal", "mma_flops", "bound_us", "bound_by", "bound_blocks_us", "sampled_share")
                print(name, row["kernel"], *(f"{key}={row[key]}" for key in keys))
        worst = max(errors, key=errors.get)
        print(f"{name}: largest relative error {errors[worst]:.1e} ({worst})", file=sys.stderr)
    if args.json:
        print(json.dumps({"rows": rows}))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
