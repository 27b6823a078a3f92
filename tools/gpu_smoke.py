#!/usr/bin/env python3
"""Compares what one device made with what another made: python gpu_smoke.py GOT WANT

Every file of WANT that holds tensors or a log must be in GOT, with the same tensors of the same shapes and types, close in
relative L2; every step of a log must be there, its losses close. Standard library only.
"""

import array
import json
import math
import re
import struct
import sys
from pathlib import Path

# By the beginning of a file's name. Devices add in other orders: what was trained has drifted apart by some steps.
BOUNDS = [
    ("demo/", 5e-2),
    ("run/", 1e-2),
    # One step in f32: what no choice of a pooling reaches, see CHOSEN. Seen between the host and the virtual GPU: 2.4e-4.
    ("ct/", 5e-4),
    ("cache.safetensors", 1e-2),
    ("packed/", 4e-3),  # bf16
    ("prepared/", 4e-3),
    ("volumes.safetensors", 4e-3),
    ("", 1e-4),
]


# Max pooling hands a gradient to one voxel of a window, and most of a CT is air, where voxels of a window are equal or differ in their last
# bits alone: of the last three poolings' windows either device chooses another voxel than f64 in 1 of 7, none of them further than 6e-5
# of a standard deviation from the maximum. Each choice gives a gradient as right as the other; they differ by up to 4e-2 of a
# tensor in the stages. A single near tie of the first pooling moves a tensor of the stem by 9e-2, its second moment by 2.1e-1: as far as
# weights moved by their last bit move the host's own step. The host's whole gradient is 6.4e-3 from that of f64, and 2.4e-5 from that of
# f64 with the host's choices. Sums over all voxels do not depend on the choices.
CHOSEN = 3e-1
SUMS = re.compile(r"encoder\.s4\.|\.proj\.weight$|mlp\.3\.bias$|\.s0\.0\.3\.norm\.\d\.bias$|\.running_")


def bound(name, tensor=""):
    if name.startswith("ct/") and ".encoder." in tensor and not SUMS.search(tensor):
        return CHOSEN
    return next(limit for beginning, limit in BOUNDS if name.startswith(beginning))


def tensors(path):
    """Name -> (shape, type, values) of a safetensors file."""
    data = path.read_bytes()
    (length,) = struct.unpack_from("<Q", data)
    header = json.loads(data[8 : 8 + length])
    header.pop("__metadata__", None)
    found = {}
    for name, entry in header.items():
        begin, end = (8 + length + offset for offset in entry["data_offsets"])
        found[name] = (entry["shape"], entry["dtype"], values(data[begin:end], entry["dtype"]))
    return found


def values(data, kind):
    if kind == "BF16":  # the upper half of an f32
        wide = bytearray(2 * len(data))
        wide[2::4], wide[3::4] = data[0::2], data[1::2]
        return array.array("f", bytes(wide))
    codes = {"F32": "f", "F64": "d", "U8": "B", "I8": "b", "BOOL": "B", "I16": "h", "U16": "H", "I32": "i", "U32": "I"}
    return array.array({**codes, "I64": "q", "U64": "Q"}[kind], data)


def distance(got, want):
    """The relative L2 distance, of every nth value where there are millions; infinite where a value is not finite."""
    n = max(len(want) // 1_000_000, 1) | 1
    got, want = got[::n], want[::n]
    size = math.sqrt(math.fsum(float(w) * w for w in want))
    apart = math.sqrt(math.fsum((float(g) - w) ** 2 for g, w in zip(got, want)))
    if not math.isfinite(apart):
        return math.inf
    return apart / size if size else apart


def compare_tensors(name, got, want):
    got, want = tensors(got), tensors(want)
    if not want:
        yield "holds no tensor"
    for tensor in sorted(set(got) ^ set(want)):
        yield f"{tensor} is in one of the two only"
    for tensor in sorted(set(got) & set(want)):
        if "digest" in tensor or tensor.endswith(".blake3"):  # of content that differs in its last bits
            continue
        if got[tensor][:2] != want[tensor][:2]:
            yield f"{tensor} is {got[tensor][:2]}, not {want[tensor][:2]}"
            continue
        far = distance(got[tensor][2], want[tensor][2])
        limit = bound(name, tensor)
        if not far <= limit:
            yield f"{tensor}: relative L2 distance {far:.2e} > {limit:.0e}"


def compare_logs(name, got, want):
    got, want = ([json.loads(line) for line in path.read_text().splitlines()] for path in (got, want))
    if not want or [row["step"] for row in got] != [row["step"] for row in want]:
        yield f"steps {[row['step'] for row in got]}, not {[row['step'] for row in want]}"
        return
    for a, b in zip(got, want):
        if not abs(a["loss"] - b["loss"]) <= bound(name) * abs(b["loss"]):
            yield f"step {a['step']}: loss {a['loss']}, not {b['loss']}"


def main(got, want):
    bad, compared = 0, 0
    for path in sorted(want.rglob("*")):
        compare = {".safetensors": compare_tensors, ".jsonl": compare_logs}.get(path.suffix)
        if compare is None:
            continue
        name = path.relative_to(want).as_posix()
        other = got / name
        problems = list(compare(name, other, path)) if other.exists() else ["was not made"]
        bad += bool(problems)
        compared += 1
        print(f"{'FAILED' if problems else 'equal '} {name} (within {bound(name):.0e})")
        for problem in problems:
            print(f"    {problem}")
    print(f"{compared} files compared, {bad} differ")
    return 0 if compared and not bad else 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
