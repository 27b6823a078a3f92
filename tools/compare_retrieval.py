#!/usr/bin/env python3
"""Retrieval both ways among N x N embeddings: `x2ct eval retrieval` beside scikit-learn and NumPy, and PyTorch, in one run.

    venv/bin/python tools/compare_retrieval.py --x2ct target/release/x2ct [--pairs 3039] [--large 50188] [--runs 3]

The work is that of one evaluation of a radiograph encoder: four ways, radiograph and CT, radiograph and report, each as query and as
gallery; of each the rank of every query's own item, from which recall follows. The peers do it as evaluation scripts do: the matrix of
cosines (cosine_similarity; or the product in PyTorch), its argsort along the rows, the place of the query's own item. They hold the
embeddings in memory and only that work is timed; of x2ct the whole process is, which reads and verifies its files first. --large runs
x2ct alone, for whose peers the matrix would not fit: its row has the peak memory of the process. Embeddings are made up: pairs share a
direction. Each runs in a process of its own, in turn; the load of the machine is printed beside the times, because it is part of
them. Needs numpy, scikit-learn, torch, safetensors, blake3 (tools/requirements.txt); a peer that is not installed is left out.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from x2ct_files import LABELS, write_archive, write_cache

WAYS = ["cxr_to_ct", "ct_to_cxr", "cxr_to_report", "report_to_cxr"]
DIM = 512


def unit(rows):
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def make(folder, pairs):
    """Features and a cache of so many volumes, one a patient."""
    rng = np.random.default_rng(pairs)
    shared = rng.standard_normal((pairs, DIM), dtype=np.float32)
    noisy = lambda: unit(0.3 * shared + rng.standard_normal((pairs, DIM), dtype=np.float32))
    ids = [f"valid_{i}_a_1" for i in range(pairs)]
    prompts = lambda: unit(rng.standard_normal((len(LABELS), DIM)))
    write_archive(folder / "features.safetensors", "x2ct-features-1", ids, {"encoder": "made up"}, {"features": noisy()})
    write_cache(folder / "cache.safetensors", ids, noisy(), noisy(), prompts(), prompts(), "made up", "0" * 64, "0" * 64)


def load(folder):
    from safetensors.numpy import load_file

    cache = load_file(folder / "cache.safetensors")
    return load_file(folder / "features.safetensors")["features"], cache["ct"], cache["report"]


def places(order):
    """Of each query, where its own item stands."""
    return (order == np.arange(len(order))[:, None]).argmax(axis=1)


def sklearn(queries, items):
    from sklearn.metrics.pairwise import cosine_similarity

    return places(np.argsort(-cosine_similarity(queries, items), axis=1))


def torch(queries, items):
    import torch

    scores = torch.from_numpy(queries) @ torch.from_numpy(items).T
    order = torch.argsort(scores, dim=1, descending=True)
    return (order == torch.arange(len(order))[:, None]).int().argmax(dim=1).numpy()


def peer(folder, name):
    """Runs in a process of its own: seconds and recall at 1 and 10 of each way."""
    import importlib

    importlib.import_module({"sklearn": "sklearn.metrics.pairwise", "torch": "torch"}[name])
    rank, (cxr, ct, report) = {"sklearn": sklearn, "torch": torch}[name], load(folder)
    begin = time.perf_counter()
    found = [rank(*pair) for pair in ((cxr, ct), (ct, cxr), (cxr, report), (report, cxr))]
    seconds = time.perf_counter() - begin
    shares = {way: [float((places < k).mean()) for k in (1, 10)] for way, places in zip(WAYS, found)}
    print(json.dumps({"seconds": seconds, "shares": shares}))


def run(command):
    """Standard output, wall seconds and peak memory in MB of one process."""
    begin = time.perf_counter()
    process = subprocess.Popen([str(c) for c in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    out, error = process.stdout.read(), process.stderr.read()
    # The usage of this child alone.
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"{' '.join(str(c) for c in command)}: {error.decode()[-500:]}")
    return out, time.perf_counter() - begin, usage.ru_maxrss / 1024


def ours(program, folder):
    files = ["--features", folder / "features.safetensors", "--cache", folder / "cache.safetensors"]
    out, seconds, memory = run([program, "eval", "retrieval", *files, "--bootstrap", "0", "--json"])
    ways = json.loads(out)["retrieval"]
    return seconds, memory, {way: [ways[way]["r1"], ways[way]["r10"]] for way in WAYS}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--x2ct", type=Path, default=Path("target/release/x2ct"))
    parser.add_argument("--pairs", type=int, default=3039)
    parser.add_argument("--large", type=int, default=50188, help="pairs that x2ct ranks alone; 0 for none (default: %(default)s)")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--peer", nargs=2, metavar=("FOLDER", "NAME"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.peer:
        return peer(Path(args.peer[0]), args.peer[1])
    load = lambda: f"{os.getloadavg()[0]:.1f}"
    print(f"{os.cpu_count()} cores; load before: {load()}\n\n| {DIM} numbers a row | seconds | MB | load |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make(folder, args.pairs)
        times, shares, memory = {}, {}, {}
        for _ in range(args.runs):
            seconds, peak, shares["x2ct"] = ours(args.x2ct, folder)
            times.setdefault("x2ct", []).append(seconds)
            memory["x2ct"] = peak
            for rival in ("sklearn", "torch"):
                if subprocess.run([sys.executable, "-c", f"import {rival}"], capture_output=True).returncode:
                    continue
                out, _, memory[rival] = run([sys.executable, __file__, "--peer", folder, rival])
                found = json.loads(out)
                times.setdefault(rival, []).append(found["seconds"])
                shares[rival] = found["shares"]
        for who, seconds in times.items():
            median = statistics.median(seconds)
            print(f"| {args.pairs} x {args.pairs}, {who} | {median:.2f} ({min(seconds):.2f} to {max(seconds):.2f}) | {memory[who]:.0f} | {load()} |")
        for who, ratio in ((w, statistics.median(times[w]) / statistics.median(times["x2ct"])) for w in times if w != "x2ct"):
            # Products in f32 may order near ties otherwise: a query or two.
            worst = max(abs(a - b) for way in WAYS for a, b in zip(shares["x2ct"][way], shares[who][way]))
            print(f"x2ct is {ratio:.1f} times as fast as {who}; shares differ by at most {worst * args.pairs:.0f} queries")
        if args.large:
            make(folder, args.large)
            seconds, peak, _ = ours(args.x2ct, folder)
            print(f"\n| {args.large} x {args.large}, x2ct | {seconds:.1f} | {peak:.0f} | {load()} |")


if __name__ == "__main__":
    sys.exit(main())
