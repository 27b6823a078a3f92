#!/usr/bin/env python3
"""From one CT file to CT-CLIP's input tensor and to X2CT-CLIP's AP radiograph: the published Python pipelines and x2ct.

    venv/bin/python tools/compare_ingest.py CT.nii.gz --x2ct target/release/x2ct [--runs 5]

Both are run as a user would: one process for the tensor, one for the radiograph, in turn, `--runs` times. Python is timed as
whole processes and once more without starting Python and importing its packages; processor seconds, which a busy machine
disturbs least, are beside the wall clock's. Python's processes keep the tensor in memory, x2ct writes its files; what the
library takes in memory is a row of its own, where `examples/ingest` is built beside x2ct. Every step
follows the published code: nibabel's get_fdata in float64, slope and intercept, clip, PyTorch's trilinear interpolate, crop and
pad; for the radiograph a 1 mm grid and the mean from front to back. The volume's axes are turned to LPS first, which the
published code leaves to the data set and which costs nothing (a view). Needs numpy, nibabel and torch (tools/requirements.txt).
"""

import argparse
import json
import os
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

LOW, HIGH = -1000.0, 1000.0


def load(path):
    """HU as float64 [x, y, z] growing to the left, the back and the head, and the spacing."""
    import nibabel

    image = nibabel.load(path)
    wanted = nibabel.orientations.axcodes2ornt("LPS")
    change = nibabel.orientations.ornt_transform(nibabel.orientations.io_orientation(image.affine), wanted)
    image = image.as_reoriented(change)
    slope, intercept = 1.0, 0.0
    return slope * image.get_fdata() + intercept, [float(mm) for mm in image.header.get_zooms()[:3]]


def resized(hu, spacing, target):
    import torch

    to = [int(n * (current / wanted)) for n, current, wanted in zip(hu.shape, spacing, target)]
    batch = torch.from_numpy(hu.transpose(2, 0, 1))[None, None]
    out = torch.nn.functional.interpolate(batch, size=[to[2], to[0], to[1]], mode="trilinear", align_corners=False)
    return out[0, 0].numpy().transpose(1, 2, 0)


def tensor(path):
    """CT-CLIP: [1, 240, 480, 480] in [-1, 1]; float64 up to the division by 1000."""
    import numpy as np
    import torch

    hu, spacing = load(path)
    hu = resized(np.clip(hu, LOW, HIGH), spacing, (0.75, 0.75, 1.5))
    hu = torch.tensor((np.clip(hu, LOW, HIGH) / 1000).astype(np.float32))
    around = []
    for axis, wanted in enumerate((480, 480, 240)):
        start = max((hu.shape[axis] - wanted) // 2, 0)
        hu = hu.narrow(axis, start, min(wanted, hu.shape[axis]))
        before = (wanted - hu.shape[axis]) // 2
        around = [before, wanted - hu.shape[axis] - before] + around
    return torch.nn.functional.pad(hu, around, value=-1).permute(2, 0, 1)[None].contiguous().numpy()


def radiograph(path):
    """X2CT-CLIP: HU / 1000 as float32, a 1 mm grid, the mean from front to back, superior on top."""
    import numpy as np

    hu, spacing = load(path)
    hu = resized((np.clip(hu, LOW, HIGH) / 1000).astype(np.float32), spacing, (1.0, 1.0, 1.0)) * 1000
    return np.rot90(hu.mean(axis=1))


def reference(what, path, out):
    import nibabel  # noqa: F401  (imported before the clock starts)
    import numpy as np
    import torch  # noqa: F401

    begin = time.perf_counter()
    result = {"tensor": tensor, "radiograph": radiograph}[what](path)
    print(json.dumps({"seconds": time.perf_counter() - begin}))
    if out:
        np.save(out, result)


def read_safetensors(path, name):
    import numpy as np

    data = Path(path).read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    entry = json.loads(data[8:8 + length])[name]
    begin, end = entry["data_offsets"]
    return np.frombuffer(data[8 + length + begin:8 + length + end], np.float32).reshape(entry["shape"])


def run(command):
    """Wall seconds, processor seconds and peak memory in MB of a process, and what it printed."""
    begin = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    text = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - begin
    if status:
        sys.exit(f"{' '.join(map(str, command))} failed")
    return seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, text


def in_memory(x2ct, ct):
    """Seconds from the file's bytes to each result in one process, without writing it; none where the example is not built."""
    example = Path(x2ct).parent / "examples" / "ingest"
    if not example.exists():
        return {}
    lines = subprocess.run([example, ct, "5"], check=True, capture_output=True, text=True).stdout.splitlines()
    names = {"and CT-CLIP's tensor": "tensor", "and the AP radiograph": "radiograph"}
    found = {what: next(line for line in lines if line.startswith(name)) for name, what in names.items()}
    return {what: float(line.split(" ms")[0].split()[-1]) / 1e3 for what, line in found.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("ct", type=Path)
    parser.add_argument("--x2ct", default="target/release/x2ct")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--dtype", default="f32", choices=["f32", "bf16"], help="what x2ct writes")
    parser.add_argument("--reference", choices=["tensor", "radiograph"], help=argparse.SUPPRESS)
    parser.add_argument("--out", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.reference:
        return reference(args.reference, args.ct, args.out)

    import numpy as np

    folder = Path(tempfile.mkdtemp(prefix="compare_ingest."))
    made, picture = folder / "volume.safetensors", folder / "image.safetensors"
    ours = {
        "tensor": [args.x2ct, "preprocess", args.ct, "--preset", "ct-clip-v2", "--dtype", args.dtype, "--out", made],
        "radiograph": [args.x2ct, "drr", args.ct, "--out", picture],
    }
    theirs = {what: [sys.executable, __file__, args.ct, "--reference", what] for what in ours}
    rows = ["python", "python, no imports", "x2ct", "python, processor", "x2ct, processor"]
    times = {(row, what): [] for row in rows for what in ours}
    peaks = {}
    for _ in range(args.runs):
        for what in ours:
            for who, command in (("python", theirs[what]), ("x2ct", ours[what])):
                seconds, processor, peaks[who, what], text = run(command)
                times[who, what].append(seconds)
                times[f"{who}, processor", what].append(processor)
                if who == "python":
                    times["python, no imports", what].append(json.loads(text)["seconds"])

    library = in_memory(args.x2ct, args.ct)
    if library:
        rows.insert(3, "x2ct, in memory")
        times |= {("x2ct, in memory", what): [seconds] for what, seconds in library.items()}

    print(f"{args.ct.name}, {os.cpu_count()} processors, {args.runs} runs in turn; seconds, min (median)\n")
    print(f"{'':20} {'tensor':>16} {'radiograph':>16} {'both':>16} {'ratio of min':>13}  peak MB")
    both = {row: [a + b for a, b in zip(*(times[row, what] for what in ours))] for row in rows}
    for row in rows:
        cells = [times[row, what] for what in ours] + [both[row]]
        shown = " ".join(f"{min(c):8.3f} ({statistics.median(c):5.3f})" for c in cells)
        # Like with like: what Python takes without its imports keeps its results in memory.
        base = "x2ct, processor" if row.endswith("processor") else "x2ct, in memory" if library and "no imports" in row else "x2ct"
        memory = " ".join(f"{peaks[row, what]:.0f}" for what in ours) if (row, "tensor") in peaks else ""
        print(f"{row:20} {shown} {min(both[row]) / min(both[base]):12.1f}x  {memory}")

    for what, path, name in (("tensor", made, "volume"), ("radiograph", picture, "image")):
        if what == "tensor" and args.dtype != "f32":
            continue
        run(theirs[what] + ["--out", folder / "theirs.npy"])
        want, got = np.load(folder / "theirs.npy"), read_safetensors(path, name)
        print(f"largest difference of the {what} {want.shape}: {np.abs(got.reshape(want.shape) - want).max():.2e}"
              f" (values from {want.min():.4g} to {want.max():.4g})")
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()


if __name__ == "__main__":
    main()
